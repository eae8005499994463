/** The real opencode with a server of its own, as claude.test.ts has the real Claude Code. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../real.ts";
import { findClient, Fleet, freePort, textOf } from "./clients.ts";
import { CONTINUE, expectAnswered, expectHeld, expectOnce, expectSent, expectSentInTurn, expectUndisturbed, PATIENCE, SIZES } from "./proof.ts";

const opencode = findClient("opencode");

describe("opencode", () => {
  const ready = opencode !== "";
  const real = (name: string, body: () => Promise<void>) => test.skipIf(!ready)(name, body, PATIENCE);
  const fleet = new Fleet();
  const kickoff = textOf(20_000, "lines");
  let server = "";
  let session = "";
  const sessionOf = (name: string) => fleet.tmux("display-message", "-p", "-t", fleet.pane(name), "#{@agents_conversation}").trim();
  /** The last state that the watchdog saw; `status` looks for itself, and may be ahead of it. */
  const noted = (name: string) => fleet.events().findLast(({ agent, event }) => agent === name && event === "state");
  const permissions = async () => (await (await fetch(`${server}/permission?directory=${encodeURIComponent(join(fleet.dir, "asking"))}`)).json()) as unknown[];

  beforeAll(async () => {
    if (!ready) return;
    const port = await fleet.startModel("openai-api.mjs");
    const listens = await freePort();
    server = `http://127.0.0.1:${listens}`;
    fleet.file("asking/opencode.json", JSON.stringify({ permission: { bash: "ask", edit: "ask" } }));
    fleet.file("prompts/kickoff.md", `${kickoff}\n`);
    const bin = fleet.opencodeBin(opencode, fleet.opencodeHome(port, "servers-own", "agents-own"));
    const agent = (name: string, dir: string, more = "") =>
      `[[agent]]\nname = "${name}"\nbackend = "opencode"\nmodel = "mock/agents-own"\ndir = "${dir}"\nwatch = "heal"\nneeds = ["server"]\n${more}\n`;
    fleet.file("agents.toml", [
      "[watchdog]\nsignal_interval = 2\nup_wait = 40",
      `[backend.opencode]\nserver = "${server}"\nbin = '''${bin}'''\nconnect_delay = 60\nlog_grace = 0`,
      `[[service]]\nname = "server"\ndir = "project"\nready = "${server}/global/health"\ncommand = '''exec ${bin} serve --hostname 127.0.0.1 --port ${listens}'''`,
      agent("one", "project", 'prompt_file = "prompts/kickoff.md"\nresume = true'), agent("asks", "asking"),
    ].join("\n"));
    expect(await fleet.run(["up"])).toMatchObject({ code: 0 });
  }, PATIENCE);
  afterAll(() => fleet.end(), PATIENCE);

  real("the kickoff arrives through the server, once, with the agent's own model", async () => {
    const file = join(fleet.dir, ".agents/state/kickoff-agents-one.txt");
    const { said, model } = await fleet.arrived(file);
    expect(said).toHaveLength(1);
    expect(model).toBe("agents-own");
    expect(readFileSync(file, "utf8").trim()).toBe(kickoff);
    session = sessionOf("one");
    expect(session).toMatch(/^ses_/);
  });

  for (const [length, lines] of [...SIZES, [20_000, "lines"] as const]) {
    real(`${length} characters in ${lines === "line" ? "one line" : "many lines"} at its prompt`, () => expectSent(fleet, "one", textOf(length, lines)));
  }

  real("all four while a turn runs", () => expectSentInTurn(fleet, "one", "[[slow:12]] "));

  test.skipIf(!ready)("P28: texts into its box, without its server, disturbed around Enter", async () => {
    const conversation = sessionOf("one");
    fleet.tmux("set-option", "-p", "-t", fleet.pane("one"), "@agents_conversation", "");
    await expectUndisturbed(fleet, "one");
    fleet.tmux("set-option", "-p", "-t", fleet.pane("one"), "@agents_conversation", conversation);
  }, 900_000);

  real("a human's draft stays a draft", async () => {
    fleet.tmux("send-keys", "-t", fleet.pane("one"), "-l", "half a thought");
    await until(() => fleet.screen("one").includes("half a thought"));
    await expectSent(fleet, "one", textOf(300, "lines"));
    expect(fleet.screen("one")).toContain("half a thought");
    expect(fleet.times("half a thought")).toBe(0);
    fleet.keys("one", "Enter");
    await fleet.arrived("half a thought");
  });

  real("copy-mode and a second window get nothing", async () => {
    const shell = fleet.tmux("new-window", "-P", "-F", "#{pane_id}", "-t", "=agents-one:", "sh").trim();
    fleet.tmux("copy-mode", "-t", fleet.pane("one"));
    await expectSent(fleet, "one", textOf(300, "lines"));
    expect(fleet.tmux("capture-pane", "-p", "-t", shell)).not.toContain("text-");
    fleet.tmux("kill-pane", "-t", shell);
    fleet.tmux("copy-mode", "-q", "-t", fleet.pane("one"));
  });

  real("an error in words that no rule knows needs a person; once a turn came through, the rest is delivered", async () => {
    await fleet.run(["send", "asks", "--queue", textOf(200, "line", "[[fail:418]] ")]);
    await until(() => noted("asks")?.to === "blocked", 60_000);
    expect(noted("asks")?.why).toBe("The stars are against it (APIError)");
    await until(() => fleet.screen("asks").split("The stars").length === 2); // without its toast
    await expectHeld(fleet, "asks", /blocked/);
    fleet.keys("asks", "-l", "never mind");
    await until(() => fleet.screen("asks").includes("never mind"));
    fleet.keys("asks", "Enter");
    await fleet.arrived("never mind");
    await expectSent(fleet, "asks", textOf(300, "lines"));
  });

  real("what it unpacks at each start lies in its own home, which goes with the fleet", async () =>
    expect(readdirSync(join(fleet.dir, "homes/opencode/tmp")).filter((file) => file.endsWith(".so"))).not.toEqual([]));

  real("a pending permission is never answered; after a human did, the rest is delivered", () => expectAnswered(fleet, {
    asking: textOf(200, "line", `[[bash:touch ${fleet.dir}/asking/asked.txt]] `), shows: /Permission required/, yes: "Enter",
    made: join(fleet.dir, "asking/asked.txt"),
  }, async () => expect(await permissions()).toHaveLength(1)));

  real("a killed client goes on in the same session", async () => {
    fleet.tmux("kill-session", "-t", "=agents-one");
    const { said } = await fleet.arrived(CONTINUE);
    expect(sessionOf("one")).toBe(session);
    expect(said.join("\n")).toContain("kickoff-agents-one.txt");
    expect(fleet.times("kickoff-agents-one.txt")).toBe(1);
  });

  real("a server that died: nobody is taken for active, it is restarted, its agents after it", async () => {
    const busy = textOf(200, "line", "[[slow:30]] ");
    await expectSent(fleet, "one", busy);
    await until(() => noted("one")?.to === "active" && noted("asks")?.to === "idle", 20_000);
    const panes = ["one", "asks"].map((name) => fleet.pane(name));
    const pid = Number(fleet.tmux("display-message", "-p", "-t", fleet.pane("server"), "#{pane_pid}"));
    const killed = Date.now();
    process.kill(pid, "SIGKILL");
    await until(() => fleet.pane("one") !== panes[0] && fleet.pane("asks") !== panes[1] && fleet.pane("one") && fleet.pane("asks"), 60_000);
    const since = fleet.events().findIndex(({ at }) => Date.parse(at) >= killed);
    const of = (name: string) => fleet.events().slice(since).filter(({ agent }) => agent === name);
    expect(of("server").map(({ event }) => event)).toEqual(["down", "start"]);
    for (const name of ["one", "asks"]) {
      expect(of(name)[0]).toMatchObject({ event: "state", to: "unsure", why: "the opencode server does not answer" });
      expect(of(name)).toContainEqual(expect.objectContaining({ event: "down", why: "its server was restarted" }));
    }
    expect(sessionOf("one")).toBe(session);
    await until(() => fleet.times(CONTINUE) === 2, 60_000);
    await expectSent(fleet, "one", textOf(300, "line"));
    await expectSent(fleet, "asks", textOf(300, "line"));
    expect(fleet.conversation(busy)!.model).toBe("agents-own");
  });

  real("no text ever came twice", async () => expectOnce(fleet));
});
