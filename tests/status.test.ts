/** `status`: what each agent's state is called, what needs a person, and how that is shown. */
import { beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import {
  columns, type Config, describeState, type LimitState, type Memory, memoryOf, say, type Status, type StatusRow, statusLine, statusText, type Watch,
} from "../agents.ts";
import { command, FLEET, type FakeWorld, fakeWorld } from "./kit.ts";
import { real, until } from "./real.ts";

const SECOND = 1000;
const HOUR = 3600 * SECOND;

describe("describeState", () => {
  const now = Date.UTC(2026, 5, 15, 12);
  type Facts = Parameters<typeof describeState>[1];
  const alive = { dead: false } as Facts["pane"];
  const ended = (status: number | null, signal: number | null = null) => ({ dead: true, status, signal }) as Facts["pane"];
  const facts = { pane: undefined, held: false, enabled: true, fresh: true, limit: null, kind: "persistent", complete: false, now };
  const memory = { parked: "", finished: false, nextStart: 0, failures: 0, verdict: "active", why: "", since: 0 };
  const limit: LimitState = { until: now / 1000 + 60, nudges: 0 };
  test.each<[state: string, memory: Partial<Memory>, facts: Partial<Facts>]>([
    ["stopped by you", {}, { held: true }],
    ["stopped by you", { parked: "exit 125", finished: true }, { held: true }],
    ["done", { finished: true }, {}],
    ["done", {}, { kind: "task", pane: ended(0) }],
    ["ended (exit 1)", {}, { kind: "task", pane: ended(1) }],
    ["ended (exit 0)", {}, { pane: ended(0) }],
    ["ended (signal 9)", {}, { pane: ended(null, 9) }],
    ["ended (signal ?)", {}, { pane: ended(null) }],
    ["stopped (all phases done)", {}, { kind: "loop", complete: true }],
    ["stopped", {}, { kind: "loop" }],
    ["stopped", {}, { complete: true }],
    ["backoff 40s (1st)", { nextStart: now + 40 * SECOND, failures: 1 }, {}],
    ["backoff 5m (2nd)", { nextStart: now + 300 * SECOND, failures: 2 }, { pane: ended(1) }],
    ["backoff 1s (3rd)", { nextStart: now + SECOND, failures: 3 }, {}],
    ["backoff 1s (4th)", { nextStart: now + SECOND, failures: 4 }, {}],
    ["backoff 1s (11th)", { nextStart: now + SECOND, failures: 11 }, {}],
    ["backoff 1s (21st)", { nextStart: now + SECOND, failures: 21 }, {}],
    ["backoff 1s (22nd)", { nextStart: now + SECOND, failures: 22 }, {}],
    ["backoff 1s (113th)", { nextStart: now + SECOND, failures: 113 }, {}],
    ["stopped", { nextStart: now, failures: 1 }, {}],
    ["stopped (disabled)", {}, { enabled: false }],
    ["RUNNING", {}, { pane: alive }],
    ["RUNNING", { since: now }, { pane: alive, fresh: false }],
    ["RUNNING", { since: now, verdict: "gone" }, { pane: alive }],
    ["active 0s", { since: now + 5 * SECOND }, { pane: alive }],
    ["active 59s", { since: now - 59.4 * SECOND, parked: "x", finished: true }, { pane: alive, held: true }],
    ["idle 1m", { since: now - 59.6 * SECOND, verdict: "idle", why: "at its prompt" }, { pane: alive }],
    ["idle 59m", { since: now - HOUR + SECOND, verdict: "idle" }, { pane: alive }],
    ["waiting 1h", { since: now - HOUR, verdict: "waiting" }, { pane: alive }],
    ["unsure: blank screen 4m", { since: now - 299 * SECOND, verdict: "unsure", why: "blank screen" }, { pane: alive }],
    ["background 23h", { since: now - 24 * HOUR + SECOND, verdict: "background" }, { pane: alive }],
    ["booting 1d", { since: now - 24 * HOUR, verdict: "booting" }, { pane: alive }],
    ["fatal 12d", { since: now - 12.9 * 24 * HOUR, verdict: "fatal" }, { pane: alive }],
  ])("%s: %o %o", (state, some, more) =>
    expect(describeState({ ...memory, ...some } as Memory, { ...facts, ...more })).toEqual({ state, needsHuman: false }));
  test.each<[state: string, memory: Partial<Memory>, facts: Partial<Facts>]>([
    ["parked: exit 125", { parked: "exit 125", finished: true, nextStart: now + SECOND }, {}],
    ["blocked: a dialog is open 2m", { since: now - 120 * SECOND, verdict: "blocked", why: "a dialog is open" }, { pane: alive }],
    ["unsure: blank screen 5m", { since: now - 300 * SECOND, verdict: "unsure", why: "blank screen" }, { pane: alive }],
    ["unsure: blank screen 1m", { since: now - 60 * SECOND, verdict: "unsure", why: "blank screen" }, { pane: alive, unsureAfter: 60 }],
  ])("%s needs a person", (state, some, more) =>
    expect(describeState({ ...memory, ...some } as Memory, { ...facts, ...more })).toEqual({ state, needsHuman: true }));
  test("a hold, with the reset where one is known, and its class", () => {
    const said = (hold: LimitState) => describeState({ ...memory, since: now } as Memory, { ...facts, pane: alive, limit: hold });
    expect(said(limit).state).toMatch(/^limited until .*:01.* \(other\)$/);
    expect(said({ ...limit, resetAt: now / 1000 + 120, class: "weekly" })).toEqual({ state: expect.stringMatching(/^limited until .*:02.* \(weekly\)$/), needsHuman: false });
    expect(describeState(memory as Memory, { ...facts, limit }).state).toBe("stopped");
  });
});

describe("statusText", () => {
  let fake: FakeWorld;
  beforeEach(() => void (fake = fakeWorld()));
  const row: StatusRow = {
    name: "a", kind: "loop", backend: "claude", model: "default", watch: "heal", session: "agents-a", running: true, state: "active 5s",
    since: "", verdict: "active", why: "", next: "", messages: 0, messagesWhy: "", unproven: 0, restartsToday: 0, needsHuman: false,
  };
  const phase = { id: "p1", index: 0, total: 2, plan: "plan.md", done: false, complete: false, moving: "", error: "" };
  const watchdog = { running: true, pid: 1, heartbeat: "", stale: false, version: "1.2.3", stage: "" };
  const status = (more: Partial<Status> = {}): Status =>
    ({ version: 1, fleet: "~/night (agents-)", configError: "", phase: null, agents: [row], services: [], watchdog, handoff: null, unknownSessions: [], olderPhase: [], needsHuman: false, ...more });
  const lines = (more: Partial<Status> = {}, width = 120) => Bun.stripANSI(statusText(status(more), width)).split("\n");

  test.each<[string, Partial<typeof phase>]>([
    ["in progress", {}], ["DONE", { done: true }], ["sequence complete", { complete: true, done: true }],
    ["moving on to p2", { moving: "p2", done: true }], ["moving on to the end", { moving: "the end", complete: true }],
  ])("a phase is %s", (word, more) =>
    expect(lines({ phase: { ...phase, ...more } })[0]).toBe(`phase: p1 [1/2]  plan=plan.md  (${word})`));
  test("a phase that makes no sense; no phases", () => {
    expect(lines({ phase: { ...phase, error: "99 is no phase" } })[0]).toBe("phase: 99 is no phase");
    expect(lines()[0]).toStartWith("AGENT");
  });
  test("who needs a person comes first, services last, each with what it waits for", () => {
    const agents = [row, { ...row, name: "b", needsHuman: true, state: "blocked: x 5s" },
      { ...row, name: "c", next: "wake 12:00", messages: 2, messagesWhy: "booting", restartsToday: 3 }, { ...row, name: "d", messages: 1 }];
    const services = [{ ...row, name: "web", kind: "service", backend: "-", model: "-", state: "RUNNING" }];
    expect(lines({ agents, services }).slice(0, -1)).toEqual([
      "AGENT  KIND     BACKEND  MODEL    STATE",
      "b      loop     claude   default  blocked: x 5s",
      "a      loop     claude   default  active 5s",
      "c      loop     claude   default  active 5s      wake 12:00, 2 waiting (booting), 3 restarts today",
      "d      loop     claude   default  active 5s      1 waiting",
      "web    service  -        -        RUNNING",
      "watchdog: RUNNING, ",
    ]);
  });
  test("in one line: who works, needs you, is limited; what is not right with the watchdog", () => {
    const needy = { ...row, name: "assistant", verdict: "blocked" as const, state: "blocked: x", needsHuman: true };
    const limited = { ...row, name: "c", verdict: "limited" as const, state: "limited until 12:00" };
    expect(statusLine(status({ agents: [row, { ...row, verdict: "background" }, { ...row, running: false }, needy, limited] }))).toBe("agents ●2 !1 ◐1 assistant?");
    expect(statusLine(status({ agents: [{ ...row, verdict: "idle" }] }))).toBe("agents");
    expect(statusLine(status({ agents: [], needsHuman: true }))).toBe("agents ?");
    expect(statusLine(status({ watchdog: { ...watchdog, running: false }, needsHuman: true }))).toBe("agents ●1 ✗ watchdog");
  });
  test("the watchdog: stopped, running, stale", () => {
    const at = new Date(fake.wall - 90 * SECOND).toISOString();
    const said = (more: object) => lines({ watchdog: { ...watchdog, ...more } }).at(-2);
    expect(said({ running: false, heartbeat: at })).toBe("watchdog: stopped");
    expect(said({ heartbeat: at })).toBe("watchdog: RUNNING, heartbeat 1m ago, version 1.2.3");
    expect(said({ heartbeat: at, stale: true })).toBe("watchdog: STALE, heartbeat 1m ago, version 1.2.3");
  });
  test("sessions that nobody knows, and loops on an older kickoff", () => {
    expect(lines({ unknownSessions: ["agents-x", "agents-y"], olderPhase: ["a", "b"] }).slice(-2)).toEqual([
      "sessions that no config names: agents-x, agents-y",
      'still on an older phase\'s kickoff: a, b ("phase set ID --restart" takes them along)',
    ]);
  });
  test.each([52, 60, 80])("%d columns hold a table of long names, and the state goes last", (width) => {
    const long = { ...row, name: "a-very-long-name-of-an-agent", model: "a-long-model", state: "blocked: x", next: "stall 2026-06-15 12:00", messages: 9, messagesWhy: "booting" };
    const table = lines({ agents: [long] }, width);
    for (const line of table.slice(0, 2)) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(width);
    expect(table[1]).toContain("blocked: x");
  });
  test("columns are as wide as their widest cell; a cell that is too wide ends in …", () => {
    expect(columns([["A", "B"], ["xxx", "yy"]], 80)).toEqual(["A    B", "xxx  yy"]);
    expect(columns([["AAAAAAAAAA", "B"], ["x", "y"]], 9)).toEqual(["AAAAA…  B", "x       y"]);
    expect(columns([["A", "", "C"], ["x", "", "z"]], 80)).toEqual(["A    C", "x    z"]);
    expect(columns([["全部全部全部", "B"], ["x", "y"]], 9)).toEqual(["全部…   B", "x       y"]);
    for (const width of [9, 10, 11, 12, 13]) {
      const [wide, thin] = columns([["👍🏽全部e\u0301全部", "B"], ["x", "y"]], width);
      expect([Bun.stringWidth(wide!), Bun.stringWidth(thin!), wide!.includes("…")]).toEqual([width, width, true]);
    }
    expect(columns([["A\x1b[31m\u202e\tx\n", "B"]], 80)).toEqual(["A x   B"]);
  });
});

describe("the command over a fleet", () => {
  let fake: FakeWorld;
  let cfg: Config;
  let watch: Watch;
  const begin = async (text: string): Promise<void> => {
    fake = fakeWorld();
    fake.tmux.onStart = (pane) => void (pane.doing = "busy");
    cfg = await fake.config(text);
    watch = fake.watch(cfg);
    fake.git.push("init", { "README.md": "r" });
    await fake.ticks(cfg, watch, 3);
  };
  const state = (file: string) => join(cfg.stateDir, file);
  /** A watchdog that lives, and gave its last sign so long ago. */
  const watchdog = (seconds: number, pid = 77) => {
    fake.processes.set(77, fake.everyPane[0]!);
    fake.files.set(state("watchdog.lock.pid"), "77");
    fake.files.set(state("heartbeat"), JSON.stringify({ at: new Date(fake.wall - seconds * SECOND).toISOString(), pid, interval: 30, version: "1.2.3" }));
  };
  const read = async (): Promise<{ code: number; status: Status; of: (name: string) => StatusRow }> => {
    const { code, out } = await command("status", "--json", "--config", cfg.path);
    const status = JSON.parse(out) as Status;
    return { code, status, of: (name) => [...status.agents, ...status.services].find((one) => one.name === name)! };
  };
  const pane = (name: string) => fake.tmux.of(`agents-${name}`);
  const ticks = (count: number) => fake.ticks(cfg, watch, count);

  test("all at work: exit 0, each agent with its state", async () => {
    await begin(FLEET);
    watchdog(10);
    const { code, status, of } = await read();
    expect([code, status.needsHuman, status.unknownSessions, status.olderPhase]).toEqual([0, false, [], []]);
    expect(status.watchdog).toEqual({ running: true, pid: 77, heartbeat: new Date(fake.wall - 10 * SECOND).toISOString(), stale: false, version: "1.2.3", stage: "" });
    expect(status.phase).toEqual({ id: "p1", index: 0, total: 2, plan: expect.stringContaining("plan-1.md"), done: false, complete: false, moving: "", error: "" });
    expect(of("builder")).toMatchObject({ kind: "loop", backend: "claude", running: true, state: expect.stringMatching(/^active \d+[sm]$/), next: "", messages: 0, restartsToday: 1 });
    expect(of("upgrader").state).toBe("stopped (disabled)");
    expect((await command("--config", cfg.path)).out).toContain("(in progress)\nAGENT");
  });
  test("a heartbeat is stale after three ticks, where it is that of the one that runs: exit 3", async () => {
    await begin(FLEET);
    for (const [seconds, stale] of [[89, false], [91, true]] as const) {
      watchdog(seconds);
      const { code, status } = await read();
      expect([seconds, code, status.watchdog.stale, status.needsHuman]).toEqual([seconds, stale ? 3 : 0, stale, stale]);
    }
    watchdog(91, 76);
    expect((await read()).code).toBe(0);
    fake.files.set(state("heartbeat"), "{half");
    expect((await read()).status.watchdog).toEqual({ running: true, pid: 77, heartbeat: "", stale: false, version: "", stage: "" });
    expect((await command("status", "--config", cfg.path)).out).toContain("\nwatchdog: RUNNING, \n");
  });
  test("no watchdog where one should run: exit 3; after a `down` of all it is 0", async () => {
    await begin(FLEET);
    const { code, status } = await read();
    expect([code, status.watchdog.running, status.needsHuman]).toEqual([3, false, true]);
    for (const one of fake.tmux.panes) one.dead = true;
    fake.files.set(state("operator.json"), JSON.stringify({ held: Object.fromEntries([...cfg.agents.keys()].map((name) => [name, 1])) }));
    const down = await read();
    expect([down.code, down.of("builder").state]).toEqual([0, "stopped by you"]);
  });
  test("tmux that does not answer is unknown, never stopped: exit 3", async () => {
    await begin(FLEET);
    watchdog(10);
    fake.tmux.trouble = "no answer";
    const { code, of } = await read();
    expect([code, of("builder").state, of("builder").running]).toEqual([3, "unknown (tmux: no answer)", false]);
  });
  test("what is due next: a wake, a stall, a probe", async () => {
    await begin(FLEET);
    watchdog(10);
    expect((await read()).of("orchestrator").next).toMatch(/^wake .*:00/);
    watch.wakeDue.orchestrator = fake.wall - SECOND;
    Object.assign(pane("builder"), { doing: "idle" });
    pane("adversary").doing = "limit";
    await ticks(3);
    watchdog(10);
    const { of } = await read();
    expect(of("orchestrator").next).toBe("wake when idle");
    expect(of("builder")).toMatchObject({ state: expect.stringMatching(/^idle/), next: expect.stringMatching(/^stall /) });
    expect(of("adversary")).toMatchObject({ state: expect.stringMatching(/^limited until .*5h/), next: expect.stringMatching(/^probe /) });
    expect(of("upgrader").next).toBe("");
  });
  test("texts that wait, with why, and the watchdog's starts of this day", async () => {
    await begin(FLEET);
    pane("builder").doing = "dialog";
    say(watch, "builder", "wake", "look");
    fake.tmux.exit("agents-adversary", 1);
    await ticks(4);
    watchdog(10);
    const { code, of } = await read();
    expect([code, of("builder").messages, of("builder").messagesWhy]).toEqual([3, 1, expect.stringMatching(/dialog/)]);
    expect([of("adversary").restartsToday, of("builder").restartsToday]).toEqual([2, 1]);
    expect((await command("status", "--config", cfg.path)).out).toMatch(/^builder .* 1 waiting \(blocked: a dialog is open\), 1 restarts today$/m);
    fake.turn(24 * HOUR);
    watchdog(10);
    expect((await read()).of("adversary").restartsToday).toBe(0);
  });
  test("DONE, on its way to the next phase, and the end", async () => {
    await begin(FLEET);
    watchdog(10);
    const word = async () => /^phase: .*\((.*)\)$/m.exec((await command("status", "--config", cfg.path)).out)?.[1];
    const done = { "machine-docs/STATUS-p1.md": "# S\n\n## DONE\n\nAll gates PASS.\n" };
    fake.git.push("status(p1): done", done);
    fake.git.tracked = fake.git.remote;
    expect(await word()).toBe("DONE");
    watch.intent = { id: "1", from: "p1", to: "p2", run: "", at: fake.wall };
    fake.files.set(state("watch.json"), JSON.stringify({ ...JSON.parse(fake.files.get(state("watch.json"))!), intent: watch.intent }));
    expect(await word()).toBe("moving on to p2");
    fake.files.set(state("watch.json"), JSON.stringify({ ...JSON.parse(fake.files.get(state("watch.json"))!), intent: { ...watch.intent, to: "" } }));
    expect(await word()).toBe("moving on to the end");
  });
  test("the fleet is named by its folder and prefix", async () => {
    await begin(FLEET);
    expect((await command("status", "--config", cfg.path)).out).toEndWith("\nfleet: /fleet (agents-)\n");
  });
  test("sessions that no config names, and loops on an older kickoff", async () => {
    await begin(FLEET);
    watchdog(10);
    fake.tmux.add("agents-stranger");
    fake.tmux.add("agents-watchdog");
    fake.tmux.add("other-stranger");
    fake.files.set(state("phase-idx"), "1");
    fake.files.delete(state("phase-id"));
    const { status } = await read();
    expect([status.unknownSessions, status.olderPhase.toSorted()]).toEqual([["agents-stranger"], ["adversary", "builder"]]);
  });
  test("a phase file that makes no sense: exit 3, with the reason", async () => {
    await begin(FLEET);
    watchdog(10);
    fake.files.set(state("phase-idx"), "99");
    const { code, status } = await read();
    expect([code, status.phase]).toMatchObject([3, { id: "", index: -1, total: 2, error: expect.stringContaining("99") }]);
  });
});

// ── in a terminal ──

real("status --watch draws over the old table until q or Ctrl-C, and leaves the terminal as it was", {
  agents: [{ name: "a1", watch: "heal" }, { name: "b1" }],
}, async (f) => {
  const piped = await f.run(["status", "--watch"]);
  expect([piped.code, piped.out, piped.err]).toEqual([1, "", "agents: status --watch needs a terminal\n"]);
  const person = await f.terminal(["status", "--watch"]);
  await until(async () => /^a1 .*stopped[^]*^b1 .*stopped[^]*^watchdog: stopped/m.test(await person.screen()));
  expect([await person.field("alternate_on"), await person.field("cursor_flag")]).toEqual(["1", "0"]);
  await f.up("a1");
  await until(async () => /^a1 .*RUNNING/m.test(await person.screen()));
  const screen = await person.screen();
  expect([screen.match(/^AGENT /gm)?.length, screen.match(/^watchdog: /gm)?.length]).toEqual([1, 1]);
  await person.keys("x");
  await person.keys("q");
  expect(await person.ended()).toBe("exit 0");
  expect([await person.field("alternate_on"), await person.field("cursor_flag")]).toEqual(["0", "1"]);
  // what does not fit is cut, line by line, and the head stays
  const small = await f.terminal(["status", "--watch"], { cols: 60, rows: 3 });
  await until(async () => (await small.screen()).includes("a1"));
  expect((await small.screen()).split("\n").map((line) => line.split(" ")[0])).toEqual(["AGENT", "a1"]);
  await small.keys("C-c");
  expect(await small.ended()).toBe("exit 0");
});

real("what needs a person is red on a terminal, and plain in a pipe", { agents: [{ name: "a1", watch: "heal" }] }, async (f) => {
  await f.up();
  await f.ready("a1");
  f.control("a1", "dialog");
  await until(async () => (await f.states()).code === 3);
  const person = await f.terminal(["status"]);
  expect(await person.ended()).toBe("exit 3");
  expect(await person.screen("-e")).toMatch(/\x1b\[31m(\x1b\[\d+m)?a1 .*blocked/);
  expect((await f.run(["status"])).out).not.toContain("\x1b");
});

real("a broken config under a running watchdog: status, logs, send and down go by the last good one, and say so", {
  agents: [{ name: "a1", watch: "heal" }],
}, async (f) => {
  await f.up();
  await f.ready("a1");
  await f.ticks(1);
  const good = f.read("agents.toml");
  f.write("agents.toml", `${good}\n[[agent\n`);
  const said = /agents\.toml:\d+:\d+: .*; broken since .*\d\d:\d\d, running on the last good one/;
  const status = await f.run(["status"]);
  expect([status.code, status.out.split("\n")[0], /^a1 /m.test(status.out)]).toEqual([3, expect.stringMatching(said), true]);
  expect(JSON.parse((await f.run(["status", "--json"])).out).configError).toMatch(said);
  for (const words of [["logs", "a1"], ["send", "a1", "hear this"], ["explain", "a1"], ["report"]]) {
    const ran = await f.run(words);
    expect([words[0], ran.code, ran.err]).toEqual([words[0], 0, expect.stringMatching(said)]);
  }
  expect(f.submits("a1")).toEqual(["hear this"]);
  // another config of the same folder is not what that watchdog runs on
  f.write("other.toml", "[[agent\n");
  for (const words of [["status"], ["down"]]) expect((await f.run([...words, "--config", f.path("other.toml")])).code).toBe(2);
  // what would begin something wants a config that is right
  for (const words of [["up"], ["restart", "a1"]]) expect([words[0], (await f.run(words)).code]).toEqual([words[0], 2]);
  expect((await f.run(["down"])).code).toBe(0);
  expect(await f.sessions()).toEqual([]);
  expect((await f.run(["status"])).code).toBe(2); // nothing runs on it any more
});
