/**
 * The real Claude Code and the real opencode on models of loopback: what is said arrives whole and
 * exactly once at the model, and nothing else is ever answered, merged or typed. Needs npm once, and
 * then no network: AGENTS_E2E=1 bun test tests/e2e
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../real.ts";
import { findClient, Fleet, freePort, note, textOf, versionOf } from "./clients.ts";
import { CONTINUE, expectArrived, expectFile, expectHeld, expectOnce, expectSent, PATIENCE, SIZES, untilState } from "./proof.ts";

const [claude, opencode] = [findClient("claude"), findClient("opencode")];

/** Something comes between the client and its screen at a random moment around Enter. */
async function disturb(fleet: Fleet, name: string): Promise<void> {
  const [pane, window] = [fleet.pane(name), `=agents-${name}:`];
  const pid = Number(fleet.tmux("display-message", "-p", "-t", pane, "#{pane_pid}"));
  await Bun.sleep(Math.random() * 3_000);
  const kind = Math.floor(Math.random() * 3);
  if (kind === 0) {
    fleet.tmux("resize-window", "-t", window, "-x", "70", "-y", "24");
    await Bun.sleep(Math.random() * 1_500);
    return void fleet.tmux("resize-window", "-t", window, "-x", "200", "-y", "50");
  }
  if (kind === 1) return fleet.keys(name, "C-l"); // draws anew
  process.kill(pid, "SIGSTOP"); // its picture is late
  await Bun.sleep(Math.random() * 5_000);
  process.kill(pid, "SIGCONT");
}

/** Of each client; the check of each commit makes do with fewer, for one takes five seconds. */
const DISTURBED = Number(process.env.DISTURBED ?? 50);

/** Many texts: what is called delivered is with the model, whole, at most twice; nobody is deaf. */
async function expectUndisturbed(fleet: Fleet, name: string): Promise<void> {
  const texts = Array.from({ length: DISTURBED }, (_, nth) => textOf(nth % 5 ? 200 : 2_000, nth % 2 ? "lines" : "line"));
  const delivered: string[] = [];
  for (const text of texts) {
    const [{ code }] = await Promise.all([fleet.send(name, text, 90), disturb(fleet, name)]);
    if (code === 0) delivered.push(text);
  }
  note(`${name}: ${delivered.length} of ${texts.length} disturbed texts were delivered`);
  for (const text of delivered) {
    const id = text.split(" ")[0]!;
    expect((await fleet.arrived(id)).said.findLast((one) => one.includes(id))).toContain(text);
    expect(fleet.times(id)).toBeLessThanOrEqual(4); // where it begins and where it ends
  }
  expect(delivered.length).toBeGreaterThanOrEqual(Math.floor(DISTURBED * 0.92));
  await expectSent(fleet, name, textOf(300, "lines"));
}

const turnOf = (fleet: Fleet, text: string) => fleet.asked().find(({ said }) => said.at(-1)!.includes(text))!;
const ended = (fleet: Fleet, id: number): boolean => readFileSync(fleet.log, "utf8").includes(`"end":${id},`);

/** The four sizes while a turn runs: exit 0 before it ends, the model has them all after it. */
async function expectSentInTurn(fleet: Fleet, name: string, slow: string): Promise<void> {
  const busy = textOf(200, "line", slow);
  await expectSent(fleet, name, busy);
  const turn = turnOf(fleet, busy);
  const texts = SIZES.map(([length, lines]) => textOf(length, lines));
  for (const text of texts) expect(await fleet.send(name, text)).toMatchObject({ code: 0 });
  expect(ended(fleet, turn.id)).toBe(false);
  for (const text of texts) await expectArrived(fleet, text);
  const order = fleet.conversation(texts[0]!.split(" ")[0]!)!.said.join("\n");
  const places = texts.map((text) => order.indexOf(text.split(" ")[0]!));
  expect(places).toEqual(places.toSorted((a, b) => a - b));
}

describe("Claude Code", () => {
  const ready = claude !== "";
  const real = (name: string, body: () => Promise<void>) => test.skipIf(!ready)(name, body, PATIENCE);
  const fleet = new Fleet();
  const kickoff = textOf(3000, "lines");

  beforeAll(async () => {
    if (!ready) return;
    const port = await fleet.startModel("claude-api.mjs");
    fleet.file("prompts/kickoff.md", `${kickoff}\n`);
    const backend = (name: string, credential: "key" | "token", flags = "") =>
      `[backend.${name}]\nkind = "claude"\nsupports_resume = true\nflags = "${flags}"\nbin = '''${fleet.claudeBin(claude, port, credential)}'''\n`;
    const agent = (name: string, backend: string, more: string, home = fleet.claudeHome(name)) =>
      `[[agent]]\nname = "${name}"\nbackend = "${backend}"\ndir = "project"\nwatch = "heal"\nenv = { CLIENT_HOME = "${home}" }\n${more}\n`;
    fleet.file("agents.toml", [
      "[watchdog]\nsignal_interval = 2",
      backend("claude", "key"), backend("asking", "key", "--permission-mode default"), backend("subscriber", "token"),
      agent("one", "claude", 'prompt_file = "prompts/kickoff.md"\nresume = true'),
      agent("asks", "asking", ""), agent("lim", "subscriber", ""), agent("shares", "subscriber", "", join(fleet.dir, "homes/lim")),
    ].join("\n"));
    expect(await fleet.run(["up"])).toMatchObject({ code: 0 });
  }, PATIENCE);
  afterAll(() => fleet.end(), PATIENCE);

  real("the kickoff arrives as an argument, whole and once", () => expectArrived(fleet, kickoff));

  for (const [length, lines] of SIZES) {
    real(`${length} characters in ${lines === "line" ? "one line" : "many lines"} at its prompt`, () => expectSent(fleet, "one", textOf(length, lines)));
  }

  real("its own word is read: at rest, at work, and which version it is", async () => {
    const believed = async () => JSON.parse((await fleet.run(["explain", "one", "--json"])).out);
    await until(async () => (await believed()).own === "idle");
    expect(await fleet.state("one")).toMatchObject({ version: versionOf("claude") });
    await expectSent(fleet, "one", textOf(100, "line", "@@slow:8 "));
    await until(async () => (await believed()).own === "busy");
    expect(await believed()).toMatchObject({ verdict: "active" });
    await until(async () => (await believed()).own === "idle");
  });

  real("all four while a turn runs", () => expectSentInTurn(fleet, "one", "@@slow:12 "));

  real("a text whose last word opens a list of files in the box", async () => {
    fleet.file("project/notes.txt", "one\n");
    await expectSent(fleet, "one", `${textOf(100, "line")} @notes`);
  });

  real("20,000 characters: it is told to read a file that is there", () => expectFile(fleet, "one"));

  test.skipIf(!ready)("P28: texts, disturbed around Enter", () => expectUndisturbed(fleet, "one"), 900_000);

  real("a human's draft: nothing is typed until it is gone", async () => {
    fleet.tmux("send-keys", "-t", fleet.pane("one"), "-l", "half a thought");
    await until(() => fleet.screen("one").includes("❯\u00a0half a thought"));
    await expectHeld(fleet, "one", /draft/);
    const text = textOf(300, "lines");
    expect(await fleet.run(["send", "one", "--queue", text])).toMatchObject({ code: 0 });
    await Bun.sleep(2_500);
    expect(fleet.times(text)).toBe(0);
    fleet.keys("one", "Enter");
    await expectArrived(fleet, text);
    expect(fleet.asked().some(({ said }) => said.at(-1) === "half a thought")).toBe(true);
  });

  real("copy-mode is left, a second window and a split pane get nothing", async () => {
    const shells = [
      fleet.tmux("new-window", "-P", "-F", "#{pane_id}", "-t", "=agents-one:", "sh").trim(),
      fleet.tmux("split-window", "-P", "-F", "#{pane_id}", "-t", fleet.pane("one"), "sh").trim(),
    ];
    fleet.tmux("copy-mode", "-t", fleet.pane("one"));
    await expectSent(fleet, "one", textOf(300, "lines"));
    for (const shell of shells) {
      expect(fleet.tmux("capture-pane", "-p", "-t", shell)).not.toContain("text-");
      fleet.tmux("kill-pane", "-t", shell);
    }
  });

  real("a pending permission is never answered; after a human did, the rest is delivered", async () => {
    const asking = textOf(200, "line", "@@bashask ");
    await expectSent(fleet, "asks", asking);
    await untilState(fleet, "asks", "blocked");
    await until(async () => JSON.parse((await fleet.run(["explain", "asks", "--json"])).out).own === "waiting (permission prompt)");
    const held = await expectHeld(fleet, "asks", /blocked/);
    const queued = textOf(3000, "lines");
    await fleet.run(["send", "asks", "--queue", queued]);
    await Bun.sleep(4_500);
    expect(await fleet.state("asks")).toMatchObject({ messages: 1, messagesWhy: expect.stringContaining("blocked"), state: expect.stringContaining("blocked") });
    expect(fleet.screen("asks")).toContain("Do you want to proceed?");
    expect(fleet.conversation(asking)!.results).toBe(0);
    expect(existsSync(join(fleet.project, "asked.txt"))).toBe(false);
    fleet.keys("asks", "1");
    await expectArrived(fleet, queued);
    expect(fleet.conversation(asking)!.results).toBe(1);
    expect(existsSync(join(fleet.project, "asked.txt"))).toBe(true);
    expect(fleet.times(held)).toBe(0);
  });

  real("a usage limit holds", async () => {
    const limiting = textOf(200, "line", "@@lim5h ");
    expect(await fleet.send("lim", limiting)).toMatchObject({ code: 0 });
    await untilState(fleet, "lim", "limited until");
    // by its transcript, to the second, which older versions leave out: their banner has minutes
    const within = Bun.semver.order(versionOf("claude"), "2.1.307") < 0 ? 60 : 2;
    const resetAt = () => JSON.parse(readFileSync(join(fleet.dir, ".agents/state/limited-agents-lim.json"), "utf8")).resetAt;
    // the transcript may come a look after the banner
    await until(() => Math.abs(resetAt() - (fleet.conversation(limiting)!.t / 1000 + 3 * 3600)) < within, 10_000);
    expect((await fleet.state("lim")).state).toContain("(5h)");
    await expectHeld(fleet, "lim", /limited/);
    // it uses the same account, and has met no limit itself
    await untilState(fleet, "shares", "limited until");
    const { accounts } = JSON.parse((await fleet.run(["status", "--json"])).out);
    expect(accounts).toMatchObject([{ class: "5h", waiting: 2, text: expect.stringMatching(/^subscriber \(.*homes\/lim\): 5-hour limit until .*, 2 agents wait$/) }]);
  });

  real("a killed client goes on with its conversation", async () => {
    fleet.tmux("kill-session", "-t", "=agents-one");
    await fleet.arrived(CONTINUE);
    const { said } = fleet.conversation(CONTINUE)!;
    expect(said.join("\n")).toContain(kickoff);
    expect(fleet.times(CONTINUE)).toBe(1);
    expect(fleet.times(kickoff)).toBe(1);
    await expectSent(fleet, "one", textOf(300, "line"));
  });

  real("no text ever came twice", async () => expectOnce(fleet));
});

describe("opencode", () => {
  const ready = opencode !== "";
  const real = (name: string, body: () => Promise<void>) => test.skipIf(!ready)(name, body, PATIENCE);
  const fleet = new Fleet();
  const kickoff = textOf(20_000, "lines");
  let server = "";
  let session = "";
  const sessionOf = (name: string) => fleet.tmux("display-message", "-p", "-t", fleet.pane(name), "#{@agents_conversation}").trim();
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

  real("a pending permission is never answered; after a human did, the rest is delivered", async () => {
    const asking = textOf(200, "line", `[[bash:touch ${fleet.dir}/asking/asked.txt]] `);
    await expectSent(fleet, "asks", asking);
    await untilState(fleet, "asks", "blocked");
    const held = await expectHeld(fleet, "asks", /blocked/);
    const queued = textOf(3000, "lines");
    await fleet.run(["send", "asks", "--queue", queued]);
    await Bun.sleep(4_500);
    expect(await fleet.state("asks")).toMatchObject({ messages: 1, messagesWhy: expect.stringContaining("blocked"), state: expect.stringContaining("blocked") });
    expect(await permissions()).toHaveLength(1);
    expect(fleet.screen("asks")).toContain("Permission required");
    expect(fleet.conversation(asking)!.results).toBe(0);
    fleet.keys("asks", "Enter");
    await expectArrived(fleet, queued);
    expect(fleet.conversation(asking)!.results).toBe(1);
    expect(existsSync(join(fleet.dir, "asking/asked.txt"))).toBe(true);
    expect(fleet.times(held)).toBe(0);
  });

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
    // by what the watchdog noted: `status` looks for itself, and may be ahead of it
    const noted = (name: string) => fleet.events().findLast(({ agent, event }) => agent === name && event === "state")!.to;
    await until(() => noted("one") === "active" && noted("asks") === "idle", 20_000);
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
