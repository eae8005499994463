/** A phase that is done is followed by the next, or by the end: stop the loops, move, start them. */
import { beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import {
  curPhase, decideAdvance, decideDrop, handoffReset, loopAgents, loopSessionsAlive, memoryOf, parseEvents, type Phase, phaseAdvanceCheck, phaseIdxFile, readState, snapshot, world,
} from "../agents.ts";
import { fakeWorld, FLEET, type Scene, scene } from "./kit.ts";

const DONE = "# Status\n\n## DONE\n\nAll gates PASS.\n";

describe("decideAdvance", () => {
  test.each<[string, Parameters<typeof decideAdvance>, ReturnType<typeof decideAdvance>]>([
    ["not done", [0, 2, false, false], "none"],
    ["done, another follows", [0, 2, true, false], "advance"],
    ["the last is done", [1, 2, true, false], "complete"],
    ["complete already", [1, 2, true, true], "none"],
    ["a phase was appended after the end", [1, 3, true, true], "advance"],
    ["the only phase", [0, 1, true, false], "complete"],
    ["complete, but the phase is not done any more", [1, 2, false, true], "none"],
  ])("%s", (_, facts, wanted) => expect(decideAdvance(...facts)).toBe(wanted));
});

let { fake, cfg, watch, pane, starts, file } = {} as Scene;
const again = async (): Promise<void> => void (watch = await fake.watch(cfg));
const begin = async (text: string, count = 3): Promise<void> => void ({ fake, cfg, watch, pane, starts, file } = await scene(text, { fake, ticks: count }));
const ticks = (count: number) => fake.ticks(cfg, watch, count);
beforeEach(() => {
  fake = fakeWorld();
  fake.git.push("init", { "README.md": "r" });
  fake.tmux.onStart = (pane) => void (pane.doing = "busy");
  return begin(FLEET);
});

const finish = (id: string) => fake.git.push(`status(${id}): done`, { [`machine-docs/STATUS-${id}.md`]: DONE });
const heavy = (): Promise<void> => fake.ticks(cfg, watch, 13);
const marker = (): boolean => fake.files.has(join(cfg.logDir, "SEQUENCE-COMPLETE"));
const kickoff = (name: string): string => fake.files.get(join(cfg.stateDir, `kickoff-agents-${name}.txt`)) ?? "";

test("the loops are started again, with the texts of the next phase", async () => {
  finish("p1");
  await heavy();
  expect(curPhase(cfg)!.id).toBe("p2");
  expect(watch.intent).toBeNull();
  expect(fake.logged("could not be started")).toEqual([]);
  for (const name of ["builder", "adversary"]) {
    expect(starts(name)).toBe(2);
    expect(fake.tmux.of(`agents-${name}`).marks["@agents_phase"]).toBe("p2");
    expect(kickoff(name)).toContain("STATUS-p2.md");
  }
  expect(fake.tmux.of("agents-builder").argv).toContain("opus");
  expect(starts("orchestrator")).toBe(1);
});

test("the phase that the loops began with stays theirs, wherever the config lists it later, or not at all", async () => {
  const [p1, p2] = /phases = \[\n(.*\n)(.*\n)/.exec(FLEET)!.slice(1) as [string, string];
  const other = await fake.config(FLEET.replace(p1 + p2, p2 + p1));
  await readState(other);
  expect(curPhase(other)!.id).toBe("p1");
  const without = await fake.config(FLEET.replace(p1, ""));
  await readState(without);
  expect(() => curPhase(without)).toThrow('phase "p1" is not in the config any more');
});

test("a phase that was set since the look is not overwritten by the first one, which was in force until then", async () => {
  const stored = { ...cfg.stored, phase: { index: null, id: null } };
  fake.files.set(phaseIdxFile(cfg), "1");
  fake.files.set(join(cfg.stateDir, "phase-id"), JSON.stringify({ id: "p2", idx: 1 }));
  Object.assign(cfg, { stored });
  await phaseAdvanceCheck(cfg, watch);
  await readState(cfg);
  expect(curPhase(cfg)!.id).toBe("p2");
});

test("nothing moves before the phase is done, nor where the file is not pushed", async () => {
  fake.git.push("status(p1)", { "machine-docs/STATUS-p1.md": "## DONE\n\nnot yet\n" });
  await heavy();
  expect([curPhase(cfg)!.id, starts("builder")]).toEqual(["p1", 1]);
});

test.each(["machine-docs/", "./machine-docs", "x/../machine-docs", "machine-docs//."])("the status file is found in docs_dir however that is written: %s", async (dir) => {
  cfg = await fake.config(FLEET.replace("[loop.handoff]", `[loop.handoff]\ndocs_dir = "${dir}"`));
  finish("p1");
  await heavy();
  expect(curPhase(cfg)!.id).toBe("p2");
});

test("auto_advance = false moves nothing", async () => {
  cfg = await fake.config(FLEET.replace("[loop]", "[loop]\nauto_advance = false"));
  finish("p1");
  await heavy();
  expect(curPhase(cfg)!.id).toBe("p1");
});

test("fault 26: the loops start only once the old processes are gone", async () => {
  cfg = await fake.config(FLEET.replace("[watchdog]", "[watchdog]\nsignal_interval = 1\nheavy_interval = 5"));
  const old = fake.tmux.of("agents-builder");
  old.ignores = ["SIGHUP", "SIGTERM"];
  finish("p1");
  let both = false;
  await fake.ticks(cfg, watch, 40, () => {
    const running = fake.tmux.panes.some((pane) => pane.session === "agents-builder" && pane !== old);
    both ||= running && fake.processes.has(old.pid);
  });
  expect([both, curPhase(cfg)!.id, fake.processes.has(old.pid)]).toEqual([false, "p2", false]);
  expect(fake.effects).toContain("signal SIGKILL");
});

test("after the last phase the loops stop and stay so, the others live on", async () => {
  finish("p1");
  await heavy();
  finish("p2");
  await heavy();
  await heavy();
  expect(marker()).toBe(true);
  expect(fake.tmux.panes.map((pane) => pane.session)).toEqual(["agents-orchestrator"]);
  expect(fake.logged("PHASE SEQUENCE COMPLETE")).toHaveLength(1);
  fake.tmux.exit("agents-orchestrator", 1);
  await fake.ticks(cfg, watch, 3);
  expect(starts("orchestrator")).toBe(2);
});

test("fault 33: a phase appended after the end is entered", async () => {
  finish("p1");
  await heavy();
  finish("p2");
  await heavy();
  cfg = await fake.config(FLEET.replace("\n]", '\n  { id = "p3", plan = "p3.md", status = "STATUS-p3.md" },\n]'));
  await heavy();
  expect([curPhase(cfg)!.id, marker(), starts("builder")]).toEqual(["p3", false, 3]);
});

test("on_complete runs its task once, and only where its trigger file stands", async () => {
  const trigger = join(cfg.logDir, ".run-upgrade-on-complete");
  fake.write(trigger, "");
  memoryOf(watch, "upgrader").failures = 3; // those of an earlier run do not count
  finish("p1");
  await heavy();
  finish("p2");
  await heavy();
  await heavy();
  expect([starts("upgrader"), fake.files.has(trigger), marker(), memoryOf(watch, "upgrader").failures]).toEqual([1, false, true, 0]);
});

test("on_complete is not put off by a pause that a clock which ran ahead has set", async () => {
  fake.write(join(cfg.logDir, ".run-upgrade-on-complete"), "");
  memoryOf(watch, "upgrader").life = { state: "backoff", until: fake.wall + 10 * 365 * 86_400_000 };
  for (const phase of ["p1", "p2"]) {
    finish(phase);
    await heavy();
  }
  await heavy();
  expect([starts("upgrader"), marker()]).toEqual([1, true]);
});

test("on_complete whose task has left the config meanwhile is said, and keeps its trigger and the log folder", async () => {
  const trigger = join(cfg.logDir, ".run-upgrade-on-complete");
  fake.write(trigger, "");
  const removed: string[] = [];
  const { remove } = world;
  world.remove = (path) => (removed.push(path), remove(path));
  watch.intent = { id: "m", from: "p2", to: "", run: "upgrader", at: fake.wall };
  fake.files.set(phaseIdxFile(cfg), "1");
  cfg = await fake.config(FLEET.replace(/\[loop\.on_complete\][^[]*/, "").replace(/\[\[agent\]\]\nname = "upgrader"[^[]*/, ""));
  expect(cfg.loop.onComplete).toBeUndefined();
  await ticks(3);
  const events = parseEvents(fake.files.get(file("events.jsonl"))!).filter(({ event }) => event === "blocked");
  expect(events).toMatchObject([{ agent: "upgrader", why: "on_complete: no such agent in the config; it was not started" }]);
  expect([marker(), fake.files.has(trigger), removed.includes(cfg.logDir), fake.logged("upgrader needs you").length]).toEqual([true, true, false, 1]);
});

test("a move that begins and ends in one round, as after the end, is no death of the loops that it started", async () => {
  finish("p1");
  await heavy();
  finish("p2");
  await heavy();
  expect(marker()).toBe(true);
  // as "phase set p1" does, right before a heavy tick
  fake.files.delete(join(cfg.logDir, "SEQUENCE-COMPLETE"));
  for (const [name, value] of [["phase-id", "{\"id\":\"p1\",\"idx\":0}\n"], ["phase-idx", "0\n"]] as const) fake.files.set(file(name), value);
  await readState(cfg);
  watch.volatile.lastHeavy = -Infinity;
  await ticks(3);
  expect(["builder", "adversary"].map((name) => [starts(name), memoryOf(watch, name).failures])).toEqual([[3, 0], [3, 0]]);
  expect(parseEvents(fake.files.get(file("events.jsonl"))!).filter(({ event }) => event === "down")).toEqual([]);
});

test("a loop that is started again after the end is none of the day's restarts", async () => {
  finish("p1");
  await heavy();
  finish("p2");
  await heavy();
  fake.files.delete(join(cfg.logDir, "SEQUENCE-COMPLETE"));
  for (const [name, value] of [["phase-id", '{"id":"p1","idx":0}\n'], ["phase-idx", "0\n"]] as const) fake.files.set(file(name), value);
  await readState(cfg);
  watch.volatile.lastHeavy = world.mono();
  await ticks(2);
  expect([starts("builder"), memoryOf(watch, "builder").restarts.count]).toEqual([3, 0]);
  fake.tmux.exit("agents-builder", 1);
  await ticks(2);
  expect([starts("builder"), memoryOf(watch, "builder").restarts.count]).toEqual([4, 1]);
});

test("a loop that was still ending when all was done is ended, and no small round waits for it for ever", async () => {
  fake.files.set(join(cfg.logDir, "SEQUENCE-COMPLETE"), "");
  fake.tmux.kill(pane("builder"));
  const left = fake.tmux.add("left");
  left.ignores = ["SIGHUP", "SIGTERM"];
  memoryOf(watch, "builder").life = { state: "stopping", family: { pid: left.pid, born: "dead", since: fake.wall }, then: { state: "backoff", until: 0 } };
  await ticks(3);
  expect([left.dead, memoryOf(watch, "builder").life.state]).toEqual([true, "backoff"]);
});

test("on_complete without its trigger file runs nothing", async () => {
  finish("p1");
  await heavy();
  finish("p2");
  await heavy();
  expect([starts("upgrader"), marker()]).toEqual([0, true]);
});

test("fault 63: a claim pushed between DONE and the restart is not lost", async () => {
  fake.tmux.onStart = (pane) => void (pane.doing = "idle");
  finish("p1");
  await fake.ticks(cfg, watch, 1);
  fake.git.push("claim(p2): G1 is early");
  await heavy();
  expect(fake.received("agents-adversary").filter((text) => text.includes("G1 is early"))).toHaveLength(1);
});

test("fault 12: a phase that cannot be read holds the loops, says so once, and no tick dies of it", async () => {
  fake.files.set(join(cfg.stateDir, "phase-idx"), "99");
  fake.tmux.exit("agents-builder", 1);
  fake.tmux.exit("agents-orchestrator", 1);
  await heavy();
  expect(fake.logged("phase index 99 is out of range; run \"agents phase set\"").filter((line) => !line.includes("ERROR"))).toHaveLength(1);
  expect([starts("builder"), starts("orchestrator")]).toEqual([1, 2]);
  fake.files.set(join(cfg.stateDir, "phase-idx"), "1");
  await fake.ticks(cfg, watch, 2);
  expect(starts("builder")).toBe(2);
});

test("fault 11: the phase file is emptied: hold, never phase 0", async () => {
  finish("p1");
  await heavy();
  fake.files.set(join(cfg.stateDir, "phase-idx"), "");
  fake.tmux.exit("agents-builder", 1);
  await heavy();
  expect(starts("builder")).toBe(2);
  expect(fake.logged('the phase file holds ""')).not.toBeEmpty();
});

test("loopAgents are the enabled loops; loopSessionsAlive names those on an older phase", async () => {
  expect(loopAgents(cfg).map((agent) => agent.name)).toEqual(["builder", "adversary"]);
  const snap = await snapshot(cfg);
  expect(loopSessionsAlive(cfg, snap)).toHaveLength(2);
  expect(loopSessionsAlive(cfg, snap, true)).toHaveLength(0);
  fake.files.set(join(cfg.stateDir, "phase-idx"), "1");
  await readState(cfg);
  expect(loopSessionsAlive(cfg, snap, true).map((agent) => agent.name)).toEqual(["builder", "adversary"]);
});

test("handoffReset forgets whose turn it was, not what was seen or is to be said", () => {
  Object.assign(watch, { sha: "x", seen: ["k"], inboxes: { a: "b" }, turn: { owes: "builder", subject: "s", at: 1 }, deadlocked: "x" });
  handoffReset(watch);
  expect(watch).toMatchObject({ sha: "x", seen: ["k"], inboxes: { a: "b" }, turn: null, deadlocked: "" });
});

describe("a phase move that makes no sense any more is dropped", () => {
  const list = ["p1", "p2", "p3"].map((id): Phase => ({ id, plan: "", status: "", models: {} }));
  test.each<[string, { from: string; to: string }, string, string]>([
    ["not begun", { from: "p1", to: "p2" }, "p1", ""],
    ["stored, not done", { from: "p1", to: "p2" }, "p2", ""],
    ["its phase was removed", { from: "p1", to: "gone" }, "p1", "not in the config"],
    ["another was set by hand", { from: "p1", to: "p2" }, "p3", "set by hand"],
    ["the end of all", { from: "p3", to: "" }, "p3", ""],
    ["the end of all, but an earlier one was set by hand", { from: "p3", to: "" }, "p1", "set by hand"],
    ["the config has no phases any more", { from: "p1", to: "p2" }, "", "set by hand"],
  ])("%s", (_, intent, here, why) => {
    const said = decideDrop(intent, here, list);
    if (why) expect(said).toContain(why);
    else expect(said).toBe("");
  });
  const THREE = FLEET.replace('id = "p2"', 'id = "p3", plan = "3", status = "S3" },\n  { id = "p2"');
  const slow = async (): Promise<void> => {
    await begin(THREE);
    for (const name of ["builder", "adversary"]) pane(name).ignores = ["SIGHUP", "SIGTERM"];
    watch.intent = { id: "m", from: "p1", to: "p2", run: "", at: fake.wall };
  };
  test("its phase is taken out of the config while the old clients end: the loops go on", async () => {
    await slow();
    await ticks(1);
    cfg = await fake.config(THREE.replace(/\n.*id = "p2".*/, ""));
    await ticks(4);
    expect([watch.intent, curPhase(cfg)!.id, fake.logged("is dropped").length]).toEqual([null, "p1", 1]);
    expect([starts("builder"), starts("adversary"), pane("builder").dead]).toEqual([2, 2, false]);
  });
  test("another phase is set by hand meanwhile: it stays", async () => {
    await slow();
    await ticks(1);
    fake.files.set(phaseIdxFile(cfg), "1\n");
    fake.files.delete(file("phase-id"));
    await ticks(4);
    expect([watch.intent, curPhase(cfg)!.id, pane("builder").marks["@agents_phase"]]).toEqual([null, "p3", "p3"]);
  });
  test("a phase file that cannot be read for a moment drops nothing: the move ends", async () => {
    await slow();
    await ticks(1);
    const { text } = world;
    let silent = 0;
    world.text = (path) => (path === phaseIdxFile(cfg) && fake.wall < until ? (silent += 1, Promise.reject(new Error("the disk does not answer"))) : text(path));
    const until = fake.wall + 12_000;
    await ticks(8);
    world.text = text;
    expect([silent > 0, watch.intent, curPhase(cfg)!.id, fake.logged("is dropped")]).toEqual([true, null, "p2", []]);
    expect([starts("builder"), starts("adversary")]).toEqual([2, 2]);
  });
  test.each(["nonsense", "99"])("a phase file that holds %s is a person's business and drops nothing: the move ends once the phase is set", async (text) => {
    await slow();
    await ticks(1);
    fake.files.set(phaseIdxFile(cfg), text);
    await ticks(8);
    expect([watch.intent?.to, fake.logged("is dropped"), fake.logged('run "agents phase set"').length]).toEqual(["p2", [], 1]);
    fake.files.set(phaseIdxFile(cfg), "0");
    await ticks(8);
    expect([watch.intent, curPhase(cfg)!.id, starts("builder"), starts("adversary")]).toEqual([null, "p2", 2, 2]);
  });
  test("another phase is set by hand in the very round that would move it: it stays", async () => {
    await begin(THREE);
    Object.assign(watch, { intent: { id: "m", from: "p1", to: "p2", run: "", at: fake.wall } });
    const running = () => fake.tmux.panes.some(({ session, dead }) => /builder|adversary/.test(session) && !dead);
    fake.beforeTmux((args) => {
      if (args[0] === "source-file" && watch.intent && !running()) fake.files.set(phaseIdxFile(cfg), "1\n");
    });
    await ticks(4);
    expect([watch.intent, curPhase(cfg)!.id, fake.files.get(phaseIdxFile(cfg))]).toEqual([null, "p3", "1\n"]);
  });
});

test("a task for the end that still runs is not ended for a new run that could not be started", async () => {
  await begin(FLEET.replace("healthy_after = 10", "healthy_after = 10\nsignal_interval = 1\nheavy_interval = 5\nrestart_delay = 20").replace('prompt = "Upgrade everything."', '$&\ndir = "/at/upgrader"'), 6);
  fake.folders.add("/at/upgrader");
  Object.assign(fake.tmux.add("agents-upgrader"), { doing: "busy", marks: { ...pane("builder").marks, "@agents_session": "agents-upgrader", "@agents_unit": "upgrader" } });
  const { pid } = pane("upgrader");
  fake.write(join(cfg.logDir, ".run-upgrade-on-complete"), "");
  fake.files.set(phaseIdxFile(cfg), "1");
  finish("p2");
  fake.folders.delete("/at/upgrader");
  await ticks(40);
  expect([starts("upgrader"), pane("upgrader").pid, pane("upgrader").dead]).toEqual([1, pid, false]);
  expect(watch.volatile.errors.on_complete).toContain("on_complete: upgrader could not be started: dir /at/upgrader does not exist");
  fake.folders.add("/at/upgrader");
  await ticks(30);
  expect([starts("upgrader"), marker()]).toEqual([2, true]);
});

test("a task for the end that cannot be started is tried again after restart_delay, not before", async () => {
  const text = FLEET.replace("healthy_after = 10", "healthy_after = 10\nsignal_interval = 1\nheavy_interval = 5\nrestart_delay = 20");
  await begin(text, 6);
  fake.write(join(cfg.logDir, ".run-upgrade-on-complete"), "");
  fake.files.set(phaseIdxFile(cfg), "1");
  finish("p2");
  const tried: number[] = [];
  const run = fake.tmux.run.bind(fake.tmux);
  fake.tmux.run = (args, stdin) => (tried.length < 2 && args.includes("agents-upgrader") && args.includes("respawn-pane")
    ? (tried.push(fake.mono), { ok: false, out: "", err: "fork failed", timedOut: false }) : run(args, stdin));
  await ticks(80);
  expect([starts("upgrader"), marker(), fake.logged("on_complete: nothing waits to be started any more").length]).toEqual([1, true, 1]);
  expect(tried[1]! - tried[0]!).toBeGreaterThanOrEqual(20_000);
  expect(tried[1]! - tried[0]!).toBeLessThan(23_000);
});

test.each<[string, () => unknown, string]>([
  ["a person takes the task down", () => fake.files.set(file("operator.json"), JSON.stringify({ held: { upgrader: fake.wall } })), "p2"],
  ["a person sets an earlier phase", () => fake.files.set(phaseIdxFile(cfg), "0"), "p1"],
])("a task for the end that could not be started is no trouble any more once %s", async (_, order, phase) => {
  await begin(FLEET.replace("healthy_after = 10", "healthy_after = 10\nsignal_interval = 1\nheavy_interval = 5\nrestart_delay = 20"), 6);
  fake.write(join(cfg.logDir, ".run-upgrade-on-complete"), "");
  fake.files.set(phaseIdxFile(cfg), "1");
  finish("p2");
  const run = fake.tmux.run.bind(fake.tmux);
  fake.tmux.run = (args, stdin) => (args.includes("agents-upgrader") && args.includes("respawn-pane")
    ? { ok: false, out: "", err: "fork failed", timedOut: false } : run(args, stdin));
  await ticks(12);
  expect([watch.intent?.run, watch.volatile.errors.on_complete]).toEqual(["upgrader", expect.stringContaining("could not be started: fork failed")]);
  order();
  await ticks(30);
  expect([watch.intent, watch.volatile.errors.on_complete, curPhase(cfg)!.id]).toEqual([null, undefined, phase]);
});

describe("a loop agent that no round starts (watch none)", () => {
  const UNWATCHED = FLEET.replace('role = "adversary"', 'role = "adversary"\nwatch = "none"');
  test("is started in the next phase, though the limit of another holds for its account", async () => {
    await begin(UNWATCHED);
    fake.tmux.add("agents-adversary").marks["@agents_session"] = "agents-adversary";
    pane("orchestrator").doing = "limit";
    await ticks(3);
    expect(Object.keys(watch.accounts)).toHaveLength(1);
    finish("p1");
    await heavy();
    expect([curPhase(cfg)!.id, watch.intent, fake.tmux.of("agents-adversary").marks["@agents_phase"]]).toEqual(["p2", null, "p2"]);
  });
  test("and that cannot be started is told of", async () => {
    await begin(UNWATCHED);
    const run = fake.tmux.run.bind(fake.tmux);
    fake.tmux.run = (args, stdin) => (args.includes("agents-adversary") && args.includes("respawn-pane") ? { ok: false, out: "", err: "fork failed", timedOut: false } : run(args, stdin));
    finish("p1");
    await heavy();
    const told = parseEvents(fake.files.get(file("events.jsonl"))!).filter(({ event }) => event === "blocked");
    expect([curPhase(cfg)!.id, told]).toEqual(["p2", [expect.objectContaining({ agent: "adversary", why: "not started: fork failed", cure: "up" })]]);
  });
});

test("where both files of the phase are gone the one that is known holds, and is stored again", async () => {
  finish("p1");
  await heavy();
  for (const name of ["phase-idx", "phase-id"]) fake.files.delete(file(name));
  await heavy();
  expect([curPhase(cfg)!.id, starts("builder"), fake.files.get(file("phase-id"))]).toEqual(["p2", 2, '{"id":"p2","idx":1}\n']);
  fake.tmux.exit("agents-builder", 1);
  await ticks(3);
  expect(pane("builder").marks["@agents_phase"]).toBe("p2");
});

test("the one that is known holds also where its files could not be read before they were gone", async () => {
  finish("p1");
  await heavy();
  const { text } = world;
  world.text = (path) => (path.includes("/phase-") ? Promise.reject(new Error("EACCES: permission denied")) : text(path));
  await heavy();
  expect(() => curPhase(cfg)).toThrow("EACCES");
  world.text = text;
  for (const name of ["phase-idx", "phase-id"]) fake.files.delete(file(name));
  await heavy();
  expect([curPhase(cfg)!.id, starts("builder"), fake.files.get(file("phase-id"))]).toEqual(["p2", 2, '{"id":"p2","idx":1}\n']);
});

test("while the state folder is away nothing is said of the phase, which is known", async () => {
  for (const path of [...fake.files.keys()]) if (path.startsWith(`${cfg.stateDir}/`)) fake.files.delete(path);
  fake.folders.delete(cfg.stateDir);
  await heavy();
  expect([curPhase(cfg)!.id, watch.volatile.errors["guard phase"], fake.folders.has(cfg.stateDir)]).toEqual(["p1", undefined, false]);
});

test("where all files of a complete sequence are gone it stays complete, and its last phase is that one wherever it is listed", async () => {
  finish("p1");
  await heavy();
  finish("p2");
  await heavy();
  const [p1, p2] = /phases = \[\n(.*\n)(.*\n)/.exec(FLEET)!.slice(1) as [string, string];
  for (const name of ["phase-idx", "phase-id"]) fake.files.delete(file(name));
  fake.files.delete(join(cfg.logDir, "SEQUENCE-COMPLETE"));
  await readState(cfg);
  const other = await fake.config(FLEET.replace(p1 + p2, p2 + p1));
  other.stored = cfg.stored;
  await readState(other);
  expect([starts("builder"), curPhase(other)!.id]).toEqual([2, "p2"]);
  await heavy();
  expect([starts("builder"), fake.files.get(file("phase-id"))]).toEqual([2, '{"id":"p2","idx":1,"complete":true}\n']);
});

test("a parked loop that its limit keeps from the start of a phase is started once that is over", async () => {
  await begin(FLEET);
  memoryOf(watch, "builder").life = { state: "parked", why: "exit 1", at: fake.wall };
  fake.tmux.kill(pane("builder"));
  fake.files.set(file("limited-agents-builder.json"), JSON.stringify({ until: fake.wall / 1000 + 3600, nudges: 0, setAt: fake.wall / 1000 }));
  finish("p1");
  await heavy();
  expect([curPhase(cfg)!.id, starts("builder")]).toEqual(["p2", 1]);
  await ticks(130);
  expect([starts("builder"), memoryOf(watch, "builder").life.state]).toEqual([2, "up"]);
});

test("a loop that the move cannot start is no client that died: it is started as soon as it can be", async () => {
  const run = fake.tmux.run.bind(fake.tmux);
  let refused = 0;
  fake.tmux.run = (args, stdin) => (refused < 1 && args.includes("agents-builder") && args.includes("respawn-pane")
    ? (refused++, { ok: false, out: "", err: "fork failed", timedOut: false }) : run(args, stdin));
  finish("p1");
  await heavy();
  expect([refused, starts("builder"), curPhase(cfg)!.id]).toEqual([1, 2, "p2"]);
  expect(fake.logged("builder: could not be started: fork failed")).toHaveLength(1);
  expect(fake.logged("builder (agents-builder)").filter((line) => line.includes("restarting"))).toEqual([]);
  expect(watch.agents.builder!.failures).toBe(0);
});

test("a folder that does not say whether all is done keeps nobody from being healed", async () => {
  await begin(`${FLEET}[[agent]]\nname = "x"\nbackend = "claude"\nwatch = "heal"\n`, 6);
  const { mtime } = world;
  world.mtime = (path) => {
    if (path.endsWith("SEQUENCE-COMPLETE")) throw new Error("EACCES");
    return mtime(path);
  };
  fake.tmux.exit("agents-x", 1);
  await ticks(6);
  expect([starts("x"), fake.logged("fetch: EACCES")]).toEqual([2, [expect.anything()]]);
});

test("a phase file that is lost in a run sends no loop back to the first phase", async () => {
  finish("p1");
  await heavy();
  expect(curPhase(cfg)!.id).toBe("p2");
  fake.files.delete(phaseIdxFile(cfg));
  await heavy();
  expect([curPhase(cfg)!.id, starts("builder"), watch.intent]).toEqual(["p2", 2, null]);
});

test("all phases are done, also where the log folder that says so is gone", async () => {
  for (const id of ["p1", "p2"]) {
    finish(id);
    await heavy();
  }
  expect(marker()).toBe(true);
  const before = starts("builder");
  fake.files.delete(join(cfg.logDir, "SEQUENCE-COMPLETE"));
  await again();
  await heavy();
  expect([starts("builder"), fake.logged("PHASE SEQUENCE COMPLETE").length]).toEqual([before, 1]);
});

test("a phase that a person sets while the loops of a move are ended is kept", async () => {
  await begin(FLEET.replace("\n]", '\n  { id = "p3", plan = "p3.md", status = "STATUS-p3.md" },\n]'));
  finish("p1");
  const { text } = world;
  let reads = 0;
  world.text = async (path) => {
    const was = await text(path);
    // the first is the round's own look
    if (path === phaseIdxFile(cfg) && watch.intent && !fake.tmux.panes.some(({ session }) => /builder|adversary/.test(session)) && (reads += 1) === 2) {
      fake.files.set(file("phase-id"), JSON.stringify({ id: "p3", idx: 2 }));
      fake.files.set(path, "2");
    }
    return was;
  };
  await fake.ticks(cfg, watch, 13, () => (reads = 0));
  world.text = text;
  expect([curPhase(cfg)!.id, watch.intent, fake.logged("the phase was set by hand").length]).toEqual(["p3", null, 1]);
});
