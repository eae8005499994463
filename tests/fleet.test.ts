/** The commands and the care of a fleet, by the command line, on real tmux, git and processes. */
import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { command, fakeWorld, realFolder } from "./kit.ts";
import { type Fleet, life, lives, loopPlan, quote, real, signal, TUI, until } from "./real.ts";
import { rounds } from "./sim.ts";

/** A screen as Claude Code draws it, with a last block of its transcript. */
const screenOf = (said: string): string =>
  ["❯ go on", "", `● ${said}`, "", "─".repeat(60), "❯\u00a0", "─".repeat(60), "  ⏵⏵ auto mode on (shift+tab to cycle)"].join("\n");

// ── commands ────────────────────────────────────────────────────────────────────

// in front: between tests that run at once it would divide them
test("faults 65 and 71: an unknown name: exit 2, the nearest is named; status, logs and phase do nothing; what does not run is not ended", async () => {
  const fake = fakeWorld(realFolder());
  await fake.config('[[agent]]\nname = "a1"\nbackend = "claude"\n[[agent]]\nname = "b1"\nbackend = "claude"\n');
  const f = (...words: string[]) => command(...words, "--config", join(fake.home, "agents.toml"));
  for (const words of [["up", "a1", "bb1"], ["down", "a1", "bb1"], ["up", "c*"], ["logs", "bb1"]]) {
    const ran = await f(...words);
    expect([words, ran.code]).toEqual([words, 2]);
    expect(ran.err).toMatch(words.includes("bb1") ? /"bb1"; nearest is "b1"/ : /"c\*"/);
  }
  for (const [words, code] of [[["status"], 0], [["logs", "a1"], 1], [["phase"], 1]] as const) expect([words, (await f(...words)).code]).toEqual([words, code]);
  expect([fake.everyPane, fake.effects, [...fake.files.keys()], existsSync(join(fake.home, ".agents"))]).toEqual([[], [], [join(fake.home, "agents.toml")], false]);
  expect((await f("down")).code).toBe(0);
  for (const name of ["a1", "b1", "watchdog"]) expect(fake.logged(`${name}: not running`)).toHaveLength(1);
});

const pair = { agents: [{ name: "a1", watch: "heal" }, { name: "b1", watch: "heal" }] };
const ours = life({ agents: [...pair.agents, { name: "other", enabled: false }], services: [{ name: "serve", command: "sleep 1000" }] });

ours("up and down by names and globs, agents and services; up alone starts no disabled agent, up NAME does", async (f) => {
  await f.up();
  expect(await f.sessions()).toEqual(["t-a1", "t-b1", "t-serve", "t-watchdog"]);
  expect((await f.run(["down"])).code).toBe(0);
  expect(await f.sessions()).toEqual([]);
  await f.up("*1", "serve");
  expect(await f.sessions()).toEqual(["t-a1", "t-b1", "t-serve"]);
  expect(f.lock("watchdog")).toBe(0);
  await f.up("watchdog");
  expect(f.lock("watchdog")).toBeGreaterThan(0);
  expect((await f.run(["down", "b*", "watchdog"])).code).toBe(0);
  expect(await f.sessions()).toEqual(["t-a1", "t-serve"]);
  expect([f.lock("watchdog"), f.lock("keeper")]).toEqual([0, 0]);
  await f.up("other");
  await f.ready("other");
});

ours("no command is status; --json is stable; a relative --config from elsewhere is this one", async (f) => {
  expect((await f.run(["down"])).code).toBe(0);
  f.write("agents.toml", f.text(pair)); // from here on these two are the whole fleet
  const before = [f.starts("a1").length, f.starts("b1").length];
  const started = await f.run(["up", "--config", "../agents.toml"], { cwd: f.home });
  expect([started.code, started.err]).toEqual([0, expect.not.stringContaining("warning")]);
  await until(() => f.starts("a1").length > before[0]! && f.starts("b1").length > before[1]!);
  const plain = await f.run(["--config", "../agents.toml"], { cwd: f.home });
  expect([plain.code, plain.out]).toEqual([0, expect.stringMatching(/^.* ● \d+s ago\n.*\n +AGENT .*\n +a1 .*\n +b1 .*\n$/)]);
  const json = JSON.parse((await f.run(["status", "--json"])).out);
  expect(json).toMatchObject({ version: 1, needsHuman: false, watchdog: { running: true }, agents: [{ name: "a1", running: true }, { name: "b1" }] });
});

ours("a dead session is healed within a tick or two, and a dead pane (fault 43)", async (f) => {
  const starts = (name: string) => f.starts(name).length;
  const [a1, b1] = [starts("a1"), starts("b1")];
  const other = await f.pid("b1");
  await f.tmux("kill-session", "-t", "=t-a1");
  await until(() => starts("a1") === a1 + 1);
  expect(await f.pid("b1")).toBe(other);
  signal(other, "SIGKILL");
  await until(() => starts("b1") === b1 + 1);
  expect(await f.pid("b1")).toBeGreaterThan(0);
});

ours("P20, fault 29: what the operator took down stays down, across a new watchdog too, until up", async (f) => {
  const starts = (more: number) => f.starts("a1").length === before + more;
  const before = f.starts("a1").length;
  await f.run(["down", "a1"]);
  await f.ticks(3);
  const old = f.lock("watchdog");
  signal(old, "SIGKILL");
  await until(() => ![0, old].includes(f.lock("watchdog")));
  await f.ticks(3);
  expect(f.starts("a1")).toHaveLength(before);
  expect((await f.states()).of.a1).toBe("stopped by you");
  await f.up("a1");
  await until(() => starts(1));
  signal(await f.pid("a1"), "SIGKILL");
  await until(() => starts(2));
});

const original = life({ agents: [pair.agents[0]!] });
const ORIGINALS: [what: string, call: string][] = [
  ["exec", "exec python3 agents.py watchdog"], ["shell", "python3 './agents.py' watchdog --config 'x'; echo over"],
  ["one that minds no hang-up", "trap '' HUP; exec python3 agents.py watchdog"],
];
// by hand the first need not be tried: the last is the same, and harder to end
for (const [what, call] of rounds(ORIGINALS, ORIGINALS.slice(1))) {
  original(`a watchdog of the original in its session (${what}) is ended before ours starts`, async (f) => {
    expect((await f.run(["down"])).code).toBe(0);
    f.write("agents.py", "import time\ntime.sleep(1000)\n");
    await f.tmux("new-session", "-d", "-s", "t-watchdog", "-c", f.dir.replaceAll("#", "##"), call);
    const old = await f.pid("watchdog");
    await until(() => f.processes().some(({ command }) => /python3 \S*agents.py watchdog/.test(command)));
    let both = false;
    const timer = setInterval(() => void (both ||= lives(old) && f.lock("watchdog") > 0), 10);
    const ran = await f.up().finally(() => clearInterval(timer));
    expect(ran.err).toContain("ending the old agents.py watchdog");
    expect([lives(old), both]).toEqual([false, false]);
    expect(f.lock("watchdog")).toBeGreaterThan(0);
    expect(await f.sessions()).toEqual(["t-a1", "t-watchdog"]);
  });
}

original("a session that only has the name of the watchdog's is left alone", async (f) => {
  expect((await f.run(["down"])).code).toBe(0);
  await f.tmux("new-session", "-d", "-s", "t-watchdog", "sleep 1000");
  const pid = await f.pid("watchdog");
  const ran = await f.up();
  expect(ran.err).toContain("the watchdog's log is not shown: the session t-watchdog");
  expect((await f.run(["up"])).err).toContain("the watchdog's log is not shown: the session t-watchdog");
  expect((await f.run(["down"])).code).toBe(0);
  expect([lives(pid), await f.sessions()]).toEqual([true, ["t-watchdog"]]);
  await f.tmux("kill-session", "-t", "=t-watchdog");
});

const broken = life({
  agents: [{ name: "a1" }, { name: "b1", backend: "gone" }, { name: "c1", backend: "gone" }, { name: "d1", backend: "mine" }, { name: "e1", dir: "no/such dir" }, { name: "f1", backend: "late", watch: "heal" }],
  toml: `[backend.gone]\nkind = "claude"\nbin = "/nowhere/claude"\n[backend.mine]\nkind = "typed"\nbin = "no-such-client"\n[backend.late]\nkind = "claude"\nbin = "late-client"\n`,
});
/** Its agents.toml with other agents. */
const text = (f: Fleet, agents = f.plan.agents!): string => f.text({ ...f.plan, agents, toml: f.plan.toml!.replace('"late-client"', JSON.stringify(quote(f.path("late-client")))) });
broken("fault 41: a client or a folder that is not there: which, for whom, how to get it; nothing is made, the others start; exit 1", async (f) => {
  f.write("agents.toml", text(f));
  const ran = await f.run(["up"]);
  expect(ran.code).toBe(1);
  expect(ran.err).toMatch(/b1: \/nowhere\/claude was not found; get it with: npm install -g @anthropic-ai\/claude-code/);
  expect(ran.err).toMatch(/c1: \/nowhere\/claude was not found/);
  expect(ran.err).toMatch(/d1: no-such-client was not found; see bin in \[backend\.mine\]/);
  expect(ran.err).toMatch(/e1: dir .*no\/such dir does not exist/);
  expect([existsSync(f.path("no")), (await f.sessions()).includes("t-e1")]).toEqual([false, false]);
  await f.ready("a1");
});

broken("P11: a client that is put back is started by up", async (f) => {
  const bin = f.path("late-client");
  await until(() => f.log.includes("f1 (t-f1) is parked"));
  expect(await f.states()).toMatchObject({ code: 3, of: { f1: expect.stringMatching(/^parked: .*late-client not found/) } });
  writeFileSync(bin, `#!/bin/sh\nexec ${TUI} "$@"\n`, { mode: 0o755 });
  await f.up("f1");
  await f.ready("f1");
  f.write("agents.toml", text(f, [{ name: "a1" }, { name: "f1", backend: "late", watch: "heal" }])); // whose client is there
  expect((await f.run(["status"])).code).toBe(0);
});

const served = life({
  agents: [
    { name: "a1", prompt: "say it", needs: ["serve"], watch: "heal" }, { name: "b1" },
    { name: "r1", watch: "heal", resume: true, prompt: "the whole kickoff" },
    ...["w1", "w2"].map((name) => ({ name, wake: { interval: 3 } })),
  ],
  backend: { supports_resume: true },
  services: [{ name: "serve", command: "echo the service speaks; date >> started; sleep 0.7; touch ready; exec sleep 1000", ready: "test -e ready" }],
});
served("logs of an agent, a service and the watchdog; a missing one says which file", async (f) => {
  const config = f.read("agents.toml").replace("test -e ready", `test -e ${quote(f.path("ready"))}`.replaceAll("\\", "\\\\").replaceAll('"', '\\"'));
  f.write("agents.toml", config);
  await f.up("a1", "serve", "watchdog");
  await until(() => f.read(".agents/t-a1.log").includes("OK"));
  expect((await f.run(["logs", "a1"])).out).toContain("say it");
  expect((await f.run(["logs", "serve"])).out).toContain("the service speaks");
  expect((await f.run(["logs", "watchdog", "-n", "100"])).out).toMatch(/^\[agents .*watchdog up/m);
  const missing = await f.run(["logs", "b1"]);
  expect([missing.code, missing.err]).toEqual([1, expect.stringContaining(f.path(".agents", "t-b1.log"))]);
});

served("fault 32: a service is healed, and an agent that needs it started once it was ready", async (f) => {
  expect(f.ledger("a1")[0]!.at).toBeGreaterThan(statSync(f.path("ready")).mtimeMs - 1);
  signal(await f.pid("serve"), "SIGKILL");
  await until(() => f.read("started").split("\n").length === 3);
});

served("fault 51: claude resumes by the id it was started with; the resumed one is only told to go on", async (f) => {
  f.control("w2", "busy");
  await f.up();
  await f.ready("r1");
  const id = f.read(".agents/state/r1.id").trim();
  expect(id).toMatch(/^[0-9a-f-]{36}$/);
  expect(f.starts("r1")[0]).toEqual(["tui", "--session-id", id, "--", "the whole kickoff"]);
  signal(await f.pid("r1"), "SIGKILL");
  await until(() => f.starts("r1").length === 2);
  expect(f.starts("r1")[1]).toEqual(["tui", "--resume", id, "--", expect.stringContaining("continue where you stopped")]);
  expect((await f.run(["restart", "r1", "--fresh"])).code).toBe(0);
  await until(() => f.starts("r1").length === 3);
  expect(f.starts("r1")[2]).toEqual(["tui", "--session-id", expect.not.stringContaining(id), "--", "the whole kickoff"]);
});

served("a wake reaches an idle agent once; one that is due meanwhile waits for a busy agent, as one", async (f) => {
  await until(() => f.submits("w1").length >= 2, 20_000);
  expect(new Set(f.submits("w1"))).toEqual(new Set([expect.stringContaining("time for your regular pass")]));
  expect(f.bytes("w2")).toBe("");
  f.control("w2", "idle");
  await until(() => f.submits("w2").length);
  expect(f.submits("w2")).toHaveLength(1);
});

const loops = life(loopPlan({
  agents: [{ name: "a1", watch: "heal", resume: true }, { name: "c1", watch: "heal+stall" }], backend: { supports_resume: true, stall_idle: 1 },
}));
loops("a state folder of the original and a running session of it are taken over in place", async (f) => {
  await f.repository("builder", "adversary");
  f.write(".agents/state/phase-idx", "1");
  f.write(".agents/state/a1.id", "an-older-id");
  f.write(".agents/state/limited-t-c1.json", JSON.stringify({ until: Math.floor(Date.now() / 1000) + 1_000, nudges: 2 }));
  const env = Object.entries(f.clientEnv("c1")).flatMap(([key, value]) => ["-e", `${key}=${value}`]);
  await f.tmux("new-session", "-d", "-s", "t-c1", "-x", "80", "-y", "24", ...env, `exec ${TUI} of-the-original`);
  await f.up();
  await f.ready("builder", "a1", "c1");
  expect((await f.run(["phase"])).out).toContain("phase two [2/2]");
  expect(f.starts("builder")[0]!.at(-1)).toContain("two.md");
  expect(f.starts("a1")[0]!.slice(0, 3)).toEqual(["tui", "--resume", "an-older-id"]);
  await f.ticks(6);
  expect(f.starts("c1")).toEqual([["tui", "of-the-original"]]);
  expect((await f.states()).of.c1).toMatch(/^limited until/);
  expect((await f.run(["send", "a1", "hello"])).code).toBe(0);
});
loops("P18: a phase file that makes no sense holds the loops and says which phases there are", async (f) => {
  expect((await f.run(["down"])).code).toBe(0);
  for (const bad of ["7", "", "x"]) {
    f.write(".agents/state/phase-idx", bad);
    const ran = await f.run(["up"]);
    expect([ran.code, ran.err]).toEqual([1, expect.stringMatching(/phase set.*one, two/)]);
    expect((await f.run(["status"])).code).toBe(3);
  }
  expect(await f.sessions()).toEqual(["t-a1", "t-c1", "t-watchdog"]);
});

loops("fault 34: phase set tells that the loops work on the old kickoff; --restart moves them too", async (f) => {
  for (const name of ["builder", "adversary"]) f.write(`ledger-${name}`, "");
  expect((await f.run(["phase", "set", "one"])).code).toBe(0);
  await f.up();
  await f.ready("builder", "adversary");
  const moved = await f.run(["phase", "set", "two"]);
  expect(moved.err).toContain("still on the old phase's prompt: builder, adversary");
  expect((await f.run(["status"])).out).toContain("still on an older phase's kickoff: builder, adversary");
  expect((await f.run(["phase", "set", "two", "--restart"])).code).toBe(0);
  await until(() => f.starts("builder").length === 2 && f.starts("adversary").length === 2);
  expect(f.starts("builder")[1]!.at(-1)).toContain("two.md");
  expect((await f.run(["status"])).out).not.toContain("older phase");
});

real("migrate takes over the ids of older launchers", {
  agents: [{ name: "a1", resume: true }],
}, async (f) => {
  f.write(".agents/.a1-session-id", "old-id-1\n");
  expect((await f.run(["migrate"])).code).toBe(0);
  expect(f.read(".agents/state/a1.id").trim()).toBe("old-id-1");
});

// ── healing ─────────────────────────────────────────────────────────────────────

real("P12: a busy agent, a dialog and a draft over work are never restarted; one that is idle for stall_idle is, with its whole kickoff", {
  agents: [...["a1", "b1", "c1"].map((name) => ({ name, watch: "heal+stall" })), { name: "d1", watch: "heal+stall", prompt: "do the work" }, { name: "e1", watch: "heal" }],
  backend: { stall_idle: 2 },
}, async (f) => {
  f.control("a1", "busy");
  f.control("b1", "dialog");
  f.control("c1", "busy");
  await f.up();
  await f.ready("a1", "b1", "c1");
  const draft = "half a sentence";
  await f.tmux("send-keys", "-t", "=t-c1:", "-l", draft);
  await until(async () => (await f.screen("c1")).includes(`❯\u00a0${draft}`));
  await until(() => f.starts("d1").length === 2, 30_000); // one that does nothing is restarted meanwhile
  expect(f.log).toMatch(/stall: d1 \(t-d1\) idle \d+ s with no WAITING-UNTIL marker/);
  expect(f.starts("d1")[1]).toEqual(["tui", "--", "do the work"]);
  await f.ticks(10);
  expect(["a1", "b1", "c1", "e1"].map((name) => f.starts(name).length)).toEqual([1, 1, 1, 1]);
  expect([f.bytes("b1"), f.bytes("c1"), f.submits("c1")]).toEqual(["", draft, []]);
  expect(await f.screen("c1")).toContain(draft);
  expect(f.log.match(/b1 is blocked/g)).toHaveLength(1);
});

real("P15: a limit is held, probed once after its reset, and lifted; no restart. Fault 13: WAITING-UNTIL is respected, and past it the agent is restarted", {
  agents: ["l1", "w1"].map((name) => ({ name, watch: "heal+stall", account: name })), backend: { stall_idle: 2 },
  watchdog: { signal_interval: 1, limit_probe_fallback: 30 }, // most of it is waiting for the two times
}, async (f) => {
  for (const name of ["l1", "w1"]) f.control(name, "busy");
  await f.up();
  await f.ready("l1", "w1");
  // seen as they stand while both times are far; then near ones take their place
  const waits = (due: number) => f.write("waiting.txt", screenOf(`All is pushed.\n  WAITING-UNTIL: ${new Date(due).toISOString()}`));
  const limited = (reset: number) => f.control("l1", `limit Claude usage limit reached|${reset}`);
  const later = Math.floor(Date.now() / 1000) + 3_600;
  f.control("w1", `screen ${waits(later * 1000)}`);
  limited(later);
  await until(() => f.log.includes("usage limit on l1"));
  const state = JSON.parse(f.read(".agents/state/limited-t-l1.json"));
  expect(state).toMatchObject({ until: later, nudges: 0 });
  await until(async () => {
    const { of } = await f.states();
    return /^limited until/.test(of.l1!) && /^waiting/.test(of.w1!);
  }, undefined, 250);
  const due = Date.now() + 6_000;
  const reset = Math.floor(Date.now() / 1000) + 3;
  waits(due);
  limited(reset);
  await until(() => f.submits("l1").length, reset * 1000 - Date.now() + 8_000);
  expect(f.ledger("l1").find((fact) => fact.submit)!.at).toBeGreaterThanOrEqual(reset * 1000);
  await f.ticks(4);
  expect(f.submits("l1")).toEqual([expect.stringContaining("if you can work again")]);
  f.control("l1", "busy");
  await until(() => f.log.includes("limit lifted on l1"), 20_000); // a turn that meets the limit shows that within 10 s
  expect(existsSync(join(f.state, "limited-t-l1.json"))).toBe(false);
  expect(f.starts("l1")).toHaveLength(1);
  await until(() => f.starts("w1").length > 1, Math.max(0, due - Date.now()) + 14_000);
  expect(f.ledger("w1").filter((fact) => fact.start)[1]!.at).toBeGreaterThan(due);
  expect(f.log).toMatch(/w1 \(t-w1\) past its WAITING-UNTIL by/);
});

const crashing = life({
  agents: [...pair.agents, { name: "c1", watch: "heal" }, { name: "t1", kind: "task", watch: "heal" }, { name: "t2", kind: "task", watch: "heal" }],
  watchdog: { restart_delay: 0.2, park_after: 3 },
});
crashing("fault 60: a task that exits with 0 is done and stays so, also one that ends before the watchdog looks for the first time; up runs it again", async (f) => {
  f.control("t2", "exit 0");
  await f.up();
  await f.ready("t1", "a1", "b1", "c1");
  f.control("t1", "exit 0");
  await until(async () => {
    const { of } = await f.states();
    return /^done,done$/.test(["t1", "t2"].map((name) => of[name]).join());
  }, undefined, 250);
  await f.ticks(4);
  expect([f.starts("t1").length, f.starts("t2").length]).toEqual([1, 1]);
  expect((await f.run(["status"])).code).toBe(0);
  await f.up("t2");
  await until(() => f.starts("t2").length === 2);
  await f.ticks(4);
  expect([f.starts("t1").length, f.starts("t2").length]).toEqual([1, 2]);
});

crashing("P9, fault 22: a crash loop is parked after park_after starts, exit 125 at once; up releases both; others go on", async (f) => {
  f.control("a1", "exit 1");
  f.control("c1", "exit 125");
  await until(() => f.log.includes("c1 (t-c1) is parked: exit 125"));
  await until(() => f.log.includes("a1 (t-a1) is parked"), 15_000);
  const starts = f.starts("a1").length;
  expect(starts).toBeWithin(3, 4 + 1);
  await f.ticks(4);
  expect([f.starts("a1").length, f.starts("c1").length]).toEqual([starts, 1]);
  expect(await f.states()).toMatchObject({ code: 3, of: { a1: expect.stringMatching(/^parked: /), c1: "parked: exit 125 (do not restart)" } });
  f.control("a1", "idle");
  f.control("c1", "idle");
  await f.up("a1", "c1");
  await until(() => f.starts("c1").length === 2);
  await until(async () => (await f.run(["status"])).code === 0, undefined, 250);
  signal(await f.pid("a1"), "SIGKILL");
  await until(() => f.starts("a1").length === starts + 2);
  expect([f.starts("b1").length, f.starts("c1").length]).toEqual([1, 2]);
});
