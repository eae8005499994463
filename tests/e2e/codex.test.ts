/** The real Codex on a model of loopback. */
import { tryClient } from "./others.ts";

tryClient({
  kind: "codex", model: "codex-api.mjs", flags: "", draft: "› half a thought", dialog: /Would you like to run the following command\?/, yes: "y",
  bin: (fleet, program) => fleet.codexBin(program), home: (fleet, name, port) => fleet.codexHome(name, port),
  limit: "[[limit:25]] ", limited: /^limited until .*\(5h\)/,
});
