/** The real Gemini CLI on a model of loopback. */
import { tryClient } from "./others.ts";

tryClient({
  kind: "gemini", model: "gemini-api.mjs", flags: "-m gemini-2.5-pro", draft: " > half a thought", dialog: /Allow execution of \[Shell\]\?/, yes: "1",
  bin: (fleet, program, port) => fleet.geminiBin(program, port), home: (fleet, name) => fleet.geminiHome(name),
  limit: "[[limit]] ", limited: /^limited/,
});
