/** What is on disk outlives the program that wrote it: the files of version 0.1.0 load, mean the same, and are saved as they were. */
import { beforeEach, describe, expect, spyOn, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  cmdStatus, curPhase, type LimitState, loadConfig, loadLimitState, loadWatch, memoryOf, NoAnswer, operatorOf, parseEvents, readState, reloadConfig, resumeId, save,
  sessionLogPath, type Config, type Watch, type Memory, storedLife, world,
} from "../agents.ts";
import type { Doing } from "./fakes.ts";
import { agents, command, fakeWorld, message, realFolder, type Scene, scene } from "./kit.ts";

const GOLDEN = join(import.meta.dir, "fixtures", "state", "v1");
/** As it is there; the limit of the night is that of one agent alone. */
const FLEET = readFileSync(join(GOLDEN, "agents.toml"), "utf8").replace('name = "writer"', 'name = "writer"\naccount = "its own"');
const MOMENTS = ["night", "move", "end"] as const;
type Moment = (typeof MOMENTS)[number];

function filesIn(moment: Moment): [string, string][] {
  const folder = join(GOLDEN, moment);
  return readdirSync(folder, { recursive: true, withFileTypes: true }).filter((one) => one.isFile())
    .map(({ parentPath, name }) => join(parentPath, name)).map((path) => [path.slice(folder.length + 1), readFileSync(path, "utf8")]);
}
const NIGHT = filesIn("night");
/** Every file of log_dir; what did not change since the night stands there alone. */
const GOLDEN_FILES = Object.fromEntries(MOMENTS.map((moment) => [moment, new Map([...NIGHT, ...filesIn(moment)])])) as Record<Moment, Map<string, string>>;
const golden = (moment: Moment, file: string): string => GOLDEN_FILES[moment].get(file)!;
const stored = (moment: Moment): Omit<Watch, "agents"> & { agents: Record<string, Stored> } => JSON.parse(golden(moment, "state/watch.json"));
/** A memory as it is on disk. */
type Stored = Omit<Memory, "life"> & ReturnType<typeof storedLife>;
const lifeOf = (moment: Moment, name: string): Stored => stored(moment).agents[name]!;

/** The fleet as another watchdog finds it half a minute later: the files, and the clients that still run. */
async function found(moment: Moment, running: Record<string, Doing> = {}, text = FLEET): Promise<Scene> {
  const fake = fakeWorld(realFolder());
  fake.wall = Date.parse(JSON.parse(golden(moment, "state/heartbeat")).at) + 30_000;
  for (const [file, content] of GOLDEN_FILES[moment]) {
    fake.files.set(join(fake.home, ".agents", file), content);
    fake.times.set(join(fake.home, ".agents", file), fake.wall - 30_000);
  }
  const it = await scene(text, { fake, ticks: 0 });
  for (const [name, doing] of Object.entries(running)) stand(it, moment, name, doing);
  fake.everyPane = [];
  fake.tmux.onStart = (pane) => void (pane.doing = "busy");
  return it;
}

/** The client that the memory knows, in a pane of this fleet. */
function stand({ fake, cfg }: Scene, moment: Moment, name: string, doing: Doing): void {
  const pane = fake.tmux.add(`agents-${name}`);
  const { client, bootedAt } = lifeOf(moment, name);
  const { pid, born } = client!;
  fake.processes.delete(pane.pid);
  fake.processes.set(pid, pane);
  fake.stat(pid, Number(born));
  const phase = ["builder", "adversary"].includes(name) ? curPhase(cfg)!.id : "-";
  const marks = { "@agents_session": pane.session, "@agents_backend": "claude", "@agents_home": cfg.stateDir, "@agents_phase": phase };
  // its limit is one that this client met
  const created = doing === "limit" ? bootedAt : pane.created;
  Object.assign(pane, { pid, doing, marks, created });
}

/** Files in log_dir that version 0.1.0 does not make, but for the copy of its memory and the mark of the fleet. */
const unheardOf = ({ fake, cfg }: Scene): string[] =>
  [...fake.files.keys()].filter((path) => path.startsWith(`${cfg.logDir}/`) && !/\/(watch\.json\.copy|fleet)$/.test(path) && !GOLDEN_FILES.end.has(path.slice(cfg.logDir.length + 1)));

const started = ({ fake }: Scene): string[] => fake.everyPane.map(({ session }) => session.replace("agents-", ""));

test("the golden state holds one of everything that a fleet leaves behind", () => {
  const night = stored("night");
  expect(night.outbox.map(({ cause, tries, seen, expires }) => [cause, tries, seen !== undefined, expires !== undefined])).toEqual([
    ["send 5e4d9001", 1, true, false], ["inbox ADVERSARY-INBOX.md", 0, false, false], ["claim", 0, false, false], ["send 5e4d9002", 0, false, true]]);
  expect(Object.keys(night.agents).toSorted()).toEqual(["adversary", "builder", "helper", "scout", "server", "upgrader", "watcher", "writer"]);
  const { adversary, builder, scout, server } = night.agents;
  expect([adversary!.answered, adversary!.answers, builder!.lastFatal > 0, scout!.parked !== "", scout!.releasedAt > 0]).toEqual(["❯ 1. Yes", 1, true, true, true]);
  expect([server!.failures, server!.nextStart > 0, server!.buried !== ""]).toEqual([4, true, true]);
  expect([night.turn!.owes, night.deadlocked !== "", night.wakeDue.watcher! > 0, night.taken, night.server !== ""])
    .toEqual(["adversary", true, true, ["5e4d9002"], true]);
  expect(Object.values(JSON.parse(golden("night", "state/operator.json"))).map((part) => Object.keys(part as object).length)).toEqual([1, 1, 1, 1]);
  expect([stored("move").intent!.to, lifeOf("move", "builder").stopping!.pid, lifeOf("end", "scout").finished]).toEqual(["two", lifeOf("move", "builder").client!.pid, true]);
  expect([...GOLDEN_FILES.end.keys()].map((file) => file.replace(/agents-(builder|adversary|writer|scout|helper|watcher|upgrader)/, "NAME"))
    .filter((file, at, all) => all.indexOf(file) === at).toSorted()).toEqual([
    "SEQUENCE-COMPLETE", "agents-watchdog.log", ...[
      "agents.toml", "builder.id", "events.jsonl", "events.jsonl.1", "heartbeat", "keeper.lock", "keeper.lock.pid", "kickoff-NAME.txt", "limited-NAME.json",
      "message-builder-send-5e4d9003.txt", "operator.json", "operator.lock", "operator.lock.pid", "phase-id", "phase-idx", "told-NAME", "watch.json",
      "watchdog.lock", "watchdog.lock.pid", "watcher.id"].map((file) => `state/${file}`), "unsure/watcher.txt"]);
});

describe.each([...MOMENTS])("the golden state of version 0.1.0, %s", (moment) => {
  let it: Scene;
  beforeEach(async () => void (it = await found(moment)));

  test("the watchdog's memory is saved byte for byte as it was loaded", async () => {
    it.fake.files.delete(it.file("watch.json"));
    await save(it.cfg, it.watch);
    expect(it.fake.files.get(it.file("watch.json"))).toBe(golden(moment, "state/watch.json"));
  });

  test("what a person wants, the hold, the phase, the conversations, the record are read as they were meant", async () => {
    const { cfg } = it;
    expect<object>(await operatorOf(cfg)).toEqual(JSON.parse(golden(moment, "state/operator.json")));
    expect<LimitState | null>(loadLimitState(cfg, "agents-writer")).toEqual(JSON.parse(golden(moment, "state/limited-agents-writer.json")));
    expect(curPhase(cfg)!.id).toBe(moment === "end" ? "two" : "one");
    for (const name of ["builder", "watcher"]) expect(await resumeId(cfg, cfg.agents.get(name)!)).toBe(golden(moment, `state/${name}.id`).trim());
    for (const file of ["state/events.jsonl", "state/events.jsonl.1"]) {
      expect(golden(moment, file)).not.toBe("");
      expect(parseEvents(golden(moment, file)).map((event) => JSON.stringify(event)).join("\n")).toBe(golden(moment, file).trimEnd());
    }
    expect(GOLDEN_FILES[moment].has(sessionLogPath(cfg, "agents-watchdog").slice(cfg.logDir.length + 1))).toBe(true);
  });

  test("status knows the watchdog that wrote it, and since when it was heard of", async () => {
    const lines = spyOn(world, "print").mockImplementation(() => {});
    it.fake.processes.set(4242, it.fake.tmux.add("another"));
    it.fake.stat(4242, 99);
    await cmdStatus({ path: it.cfg.path, words: [], options: { json: true } });
    const status = JSON.parse(lines.mock.calls.map(([text]) => text).join(""));
    lines.mockRestore();
    const { at } = JSON.parse(golden(moment, "state/heartbeat"));
    expect(status.watchdog).toEqual({ running: true, pid: 4242, heartbeat: at, stale: false, mute: false, version: "0.1.0", stage: "", missing: false });
    expect([status.phase.complete, status.phase.moving]).toEqual([moment === "end", moment === "move" ? "two" : ""]);
  });
});

describe("a watchdog goes on where the other one was killed", () => {
  const NIGHTLY: Record<string, Doing> = { builder: "busy", adversary: "idle", writer: "limit", watcher: "blank" };

  test("at night: nobody is started for nothing, nothing is lost, no file gets another name", async () => {
    const it = await found("night", NIGHTLY);
    it.fake.git.push("begin", { "README.md": "read me" });
    it.pane("writer").banner = "You've hit your weekly limit · resets Jun 18 at 3am (UTC)";
    const { nextStart } = lifeOf("night", "server");
    expect(nextStart).toBeGreaterThan(it.fake.wall);
    await it.ticks(8);
    expect(started(it)).toEqual(["server"]);
    expect(it.pane("server").created).toBeGreaterThanOrEqual(nextStart);
    expect([storedLife(memoryOf(it.watch, "scout")).parked, memoryOf(it.watch, "helper").verdict]).toEqual([lifeOf("night", "scout").parked, "gone"]);
    expect(it.pane("adversary").received).toEqual(stored("night").outbox.map(({ text }) => text));
    expect(loadLimitState(it.cfg, "agents-writer")!.resetAt).toBe(JSON.parse(golden("night", "state/limited-agents-writer.json")).resetAt);
    expect([it.pane("writer").received, it.pane("builder").received]).toEqual([[], []]);
    it.fake.files.set(it.cfg.path, `${FLEET}# changed\n`);
    await reloadConfig(it.cfg, it.watch);
    expect(it.fake.files.get(it.file("agents.toml"))).toEndWith("# changed\n");
    expect(unheardOf(it)).toEqual([]);
  });

  test("a client that ends then goes on with its conversation, and is not told its kickoff again", async () => {
    const it = await found("night", { ...NIGHTLY, watcher: "idle" });
    for (const life of [1, 2]) {
      await it.ticks(4);
      it.fake.tmux.kill(it.pane("watcher"));
      await it.ticks(2);
      expect(it.starts("watcher")).toBe(life);
      expect(it.pane("watcher").argv).toContain(golden("night", "state/watcher.id").trim());
      expect(it.pane("watcher").argv).not.toContain(it.file("kickoff-agents-watcher.txt"));
    }
  });

  test("in the middle of a phase move: the client that did not end is ended, then both begin the next phase", async () => {
    const it = await found("move", { builder: "busy", writer: "limit", watcher: "blank", server: "busy" });
    const { pid } = lifeOf("move", "builder").client!;
    it.fake.tmux.panes = it.fake.tmux.panes.filter(({ session }) => session !== "agents-builder"); // its session is gone, it is not
    it.fake.tmux.onStart = (pane) => {
      pane.doing = "busy";
      if (pane.session === "agents-builder") expect(it.fake.processes.has(pid)).toBe(false);
    };
    await it.ticks(4);
    expect(started(it)).toEqual(["builder", "adversary"]);
    expect([curPhase(it.cfg)!.id, it.watch.intent, storedLife(memoryOf(it.watch, "builder")).stopping]).toEqual(["two", null, null]);
    for (const name of ["builder", "adversary"]) expect(it.pane(name).marks["@agents_phase"]).toBe("two");
    expect(it.fake.files.get(it.file("kickoff-agents-builder.txt"))).toContain("STATUS-two.md");
    expect(unheardOf(it)).toEqual([]);
  });

  test("after the end: the loops rest, what was done is not done again", async () => {
    const it = await found("end", { writer: "limit", watcher: "blank", server: "busy" });
    await it.ticks(22);
    expect(started(it)).toEqual([]);
    expect(storedLife(memoryOf(it.watch, "scout")).finished).toBe(true);
  });

  test("the phase is known by its id where the list has grown in front of it", async () => {
    const { cfg } = await found("end", {}, FLEET.replace("phases = [", 'phases = [\n  { id = "zero", plan = "plan-0.md", status = "STATUS-zero.md" },'));
    expect(curPhase(cfg)!.id).toBe("two");
  });
});

describe("files of another version", () => {
  let it: Scene;
  beforeEach(async () => void (it = await found("night")));
  const loaded = (watch: unknown): Promise<Watch> => {
    it.fake.files.set(it.file("watch.json"), JSON.stringify(watch));
    return loadWatch(it.cfg);
  };

  test("fields that nobody knows any more do no harm, those that are missing get what a new one has", async () => {
    const night = stored("night");
    const { lastFatal, answers, ...known } = night.agents.builder!;
    const watch = await loaded({ ...night, agents: { ...night.agents, builder: { ...known, mood: "bright" } }, weather: "fair", delivered: undefined, wakeDue: undefined });
    const builder = memoryOf(watch, "builder");
    expect([builder.client, builder.restarts, builder.lastFatal, builder.answers]).toEqual([known.client, known.restarts, 0, 0]);
    expect([watch.delivered, watch.wakeDue, watch.outbox]).toEqual([[], {}, night.outbox]);
  });

  test.each<[string, object, (watch: Watch) => unknown, unknown]>([
    ["a process that is none", { agents: { scout: { ...stored("night").agents.scout, stopping: { pid: 1, born: "", since: 5 } } } },
      (watch) => [storedLife(watch.agents.scout!).stopping, storedLife(watch.agents.scout!).parked], [null, stored("night").agents.scout!.parked]],
    ["a process group of all", { agents: { scout: { ...stored("night").agents.scout, client: { pid: 0, born: "" }, failures: "many" } } },
      (watch) => [watch.agents.scout!.client, watch.agents.scout!.failures], [null, 0]],
    ["a turn that is none", { turn: { owes: 5 } }, (watch) => watch.turn, null],
    ["a time that is none", { wakeDue: { watcher: "soon" } }, (watch) => watch.wakeDue, {}],
    ["a list that is none", { outbox: {} }, (watch) => watch.outbox, []],
    ["a text without a target", { outbox: [{ id: "1", text: "x" }] }, (watch) => watch.outbox, []],
    ["a move without an aim", { intent: { id: "1" } }, (watch) => watch.intent, null],
    ["a move under way", { intent: { id: "1", from: "one", to: "two", run: "", at: 1 } }, (watch) => watch.intent?.to, "two"],
    ["an agent that is none", { agents: { scout: 5 } }, (watch) => watch.agents, {}],
  ])("%s costs itself alone", async (_, some, read, wanted) => {
    const night = stored("night");
    const watch = await loaded({ ...night, ...some });
    expect(read(watch)).toEqual(wanted);
    expect([watch.sha, watch.seen]).toEqual([night.sha, night.seen]);
  });

  test("what came with a copy of another fleet's folder names nothing that runs here", async () => {
    await it.ticks(1);
    const { room, server } = JSON.parse(it.fake.files.get(it.file("watch.json"))!);
    const night = stored("night");
    const { scout } = night.agents;
    const runs = { ...scout, client: { pid: 70_001, born: "70001" }, stopping: { pid: 70_002, born: "70002", since: 5, marks: [] }, conversation: "ses_1" };
    for (const of of [room, "abc123"]) {
      const { agents, ...watch } = await loaded({ ...night, room: of, server, agents: { scout: runs } });
      const { stopping, parked } = storedLife(agents.scout!);
      expect([agents.scout!.client !== null, stopping !== null, agents.scout!.conversation, watch.server]).toEqual(of === room ? [true, true, "ses_1", server] : [false, false, undefined, ""]);
      expect([parked, watch.sha, watch.outbox]).toEqual([scout!.parked, night.sha, night.outbox]);
    }
  });

  test("the mark of a fleet stays with its folder wherever that is moved, and no copy has it", async () => {
    const folders: Record<string, string> = {};
    world.folderId = (path) => folders[path] ?? "";
    const { fake, cfg: { path, planDir, stateDir } } = it;
    const mark = join(stateDir, "fleet");
    const now = async (ids: [plan: string, state: string], stored: string | null = fake.files.get(mark) ?? null): Promise<string> => {
      [folders[planDir], folders[stateDir]] = ids;
      if (stored === null) fake.files.delete(mark);
      else fake.files.set(mark, stored);
      return (await loadConfig(path)).room;
    };
    fake.files.set(it.file("watch.json"), golden("night", "state/watch.json"));
    const older = await now(["1:1", "1:2"], null); // by the path alone
    expect(await now(["2:1", "2:2"], null)).toBe(older);
    fake.files.delete(it.file("watch.json"));
    const fresh = await now(["1:1", "1:2"], null);
    expect(new Set([older, fresh, await now(["2:1", "1:2"], null)]).size).toBe(3);
    const stored = `mine\n1:1/.agents/state\n1:2\n`;
    expect([await now(["1:1", "9:2"], stored), await now(["9:1", "1:2"]), await now(["9:1", "9:2"]) === "mine", await now(["2:1", "1:1"]) === "mine"]).toEqual(["mine", "mine", false, false]);
    for (const damaged of ["", "mine", "\n1:2\n", "a/b\n1:2\n", "\0garbage"]) expect([damaged, await now(["1:1", "1:2"], damaged)]).toEqual([damaged, fresh]);
  });

  test("the mark of a fleet is known where its disk has another device number, and where the file is damaged; what cannot be read is not overwritten", async () => {
    const folders: Record<string, string> = {};
    world.folderId = (path) => folders[path] ?? "";
    const { fake, cfg: { path, planDir, stateDir } } = it;
    const mark = join(stateDir, "fleet");
    const now = async (plan: string, state: string): Promise<string> => {
      [folders[planDir], folders[stateDir]] = [plan, state];
      return (await loadConfig(path)).room;
    };
    const remembered = (room?: string) => fake.files.set(it.file("watch.json"), JSON.stringify({ ...stored("night"), room }));
    for (const name of ["watch.json", "watch.json.copy"]) fake.files.delete(it.file(name));
    const fresh = await now("1:1", "1:2");
    remembered();
    const older = await now("1:1", "1:2");
    expect(older).not.toBe(fresh);
    const places = `1:1/.agents/state\n1:2\n${stateDir} 2\n`;
    fake.files.set(mark, `mine\n${places}`);
    // mounted anew: the numbers of the files stay; a copy in its place has others
    expect([await now("9:1", "9:2"), await now("1:7", "1:8") === "mine"]).toEqual(["mine", false]);
    for (const damaged of ["", "\0garbage", `${older}`]) {
      fake.files.set(mark, damaged);
      for (const [room, wanted] of [[older, older], [fresh, fresh], [undefined, older]] as const) {
        remembered(room);
        expect([damaged, room, await now("1:1", "1:2")]).toEqual([damaged, room, wanted]);
      }
      fake.files.set(it.file("watch.json"), "garbage"); // which says nothing of an older version
      expect([damaged, await now("1:1", "1:2")]).toEqual([damaged, fresh]);
    }
    fake.files.set(mark, `${older}\n${places}`); // a copy in the place of one that an older version began
    remembered(older);
    expect(await now("1:7", "1:8")).not.toBe(older);
    remembered(fresh);
    const before = fake.files.get(mark);
    const { text } = world;
    world.text = async (file) => (file === mark ? Promise.reject(Object.assign(new Error("EIO: i/o error"), { code: "EIO" })) : text(file));
    await command("up", "--config", path);
    expect([fake.files.get(mark), fake.logged("EIO: i/o error").length > 0]).toEqual([before!, true]);
  });

  test("a text with a wrong field keeps its words", async () => {
    const text = { id: "1", target: "scout", text: "words", cause: "send", made: 1, tries: 2 };
    const wrong = { seen: "x", pasted: { pid: 5 }, subjects: [1], stuck: null, unknown: 1 };
    const watch = await loaded({ ...stored("night"), outbox: [{ ...text, ...wrong, expires: 9 }, { ...text, made: "x" }] });
    expect(watch.outbox).toEqual([{ ...text, expires: 9 }]);
  });

  test("wishes that are none cost themselves alone", async () => {
    it.operator({ held: [], busy: 3, released: { scout: 5 }, queue: {} });
    expect(await operatorOf(it.cfg)).toEqual({ held: {}, busy: {}, released: { scout: 5 }, queue: [] });
  });

  test.each(["[]", "3", "null", '"held"'])("orders that are %s are none: who was down stays down", async (text) => {
    it.operator({ held: { scout: 5 } });
    expect((await operatorOf(it.cfg)).held).toEqual({ scout: 5 });
    it.operator(text);
    expect((await operatorOf(it.cfg)).held).toEqual({ scout: 5 });
  });

  test("a file that is no JSON is kept aside, and a new memory begins", async () => {
    it.fake.files.set(it.file("watch.json"), "{half");
    expect((await loadWatch(it.cfg)).sha).toBe("");
    expect(it.fake.files.get(it.file("watch.json.bad"))).toBe("{half");
    expect(it.fake.logged("watch.json.bad")).toHaveLength(1);
  });

  test("a file that cannot be read, and no copy of it, is not taken for none: it may be sound", async () => {
    it.fake.files.set(it.file("watch.json"), "{}");
    const { text } = world;
    world.text = async (path) => (path.includes("/watch.json") ? Promise.reject(Object.assign(new Error("EIO: i/o error"), { code: "EIO" })) : text(path));
    await expect(loadWatch(it.cfg)).rejects.toThrow("EIO");
  });

  test("a damaged file on a full disk stops nobody from starting", async () => {
    it.fake.files.set(it.file("watch.json"), "{half");
    it.fake.full = true;
    expect((await loadWatch(it.cfg)).agents).toEqual({});
  });
});

test.each(["{half", "", "[]", "3"])("no hand-off is lost where the memory is damaged before it is saved again: %p", async (damage) => {
  const it = await scene();
  it.fake.git.push("claim(one): before");
  await it.ticks(30);
  const starts = it.starts("builder");
  const fleet = it.cfg.loop.handoff!;
  const told = () => it.told(fleet.claimPings).filter((text) => text.includes("claim("));
  expect(told()).toHaveLength(1);
  it.fake.files.set(it.file("watch.json"), damage);
  it.fake.git.push("claim(two): while nobody looked");
  await it.again();
  await it.ticks(4);
  expect(told().filter((text) => text.includes("claim(two)"))).toHaveLength(1);
  expect(told().filter((text) => text.includes("claim(one)")).length).toBeLessThanOrEqual(2);
  expect(it.starts("builder")).toBe(starts);
});

test("saves side by side: none returns while an earlier one is still on its way", async () => {
  const { cfg, watch, fake, file } = await scene(FLEET, { fake: fakeWorld(), ticks: 0 });
  await save(cfg, watch);
  const { writeAtomic } = world;
  world.writeAtomic = async (path, text) => {
    await Bun.sleep(1);
    await writeAtomic(path, text);
  };
  watch.sha = "a while";
  const first = save(cfg, watch);
  watch.sha = ""; // as it was saved last
  await Promise.all([save(cfg, watch), first]);
  expect(JSON.parse(fake.files.get(file("watch.json"))!).sha).toBe("");
});

describe("what a person wants cannot be read", () => {
  let { fake, cfg, operator, starts } = {} as Scene;
  beforeEach(async () => void ({ fake, cfg, operator, starts } = await found("night")));
  /** The same state in a folder of another name, of which nothing is remembered here. */
  const anew = (): Config => {
    const stateDir = `${cfg.stateDir}-anew`;
    for (const [path, text] of [...fake.files]) if (path.startsWith(`${cfg.stateDir}/`)) fake.files.set(path.replace(cfg.stateDir, stateDir), text);
    return { ...cfg, stateDir };
  };
  test("by a watchdog that starts: who was down when the last one looked stays down", async () => {
    operator("{half");
    expect(Object.keys((await operatorOf(anew())).held)).toEqual(["helper"]);
  });
  test("by one that starts after a tick of this version: it is no matter how their state is called, and a parked one stays down too", async () => {
    const watch = await loadWatch(cfg);
    operator({ held: { helper: 1, scout: 2 } });
    await fake.ticks(cfg, watch);
    memoryOf(watch, "helper").why = "in other words";
    await save(cfg, watch);
    operator("{half");
    expect((await operatorOf(anew())).held).toEqual({ helper: 1, scout: 2 });
  });
  test("for a while: what it said last holds, and it is said once, and once that it is over", async () => {
    const watch = await loadWatch(cfg);
    await operatorOf(cfg);
    operator("{half");
    await fake.ticks(cfg, watch, 3);
    expect([Object.keys((await operatorOf(cfg)).held), fake.logged("using its last readable state").length]).toEqual([["helper"], 1]);
    operator(golden("night", "state/operator.json"));
    await fake.ticks(cfg, watch, 3);
    expect(fake.logged("operator.json: readable again")).toHaveLength(1);
  });
  const call = (...words: string[]) => command(...words, "--config", cfg.path);
  const orders = () => JSON.parse(fake.files.get(join(cfg.stateDir, "operator.json"))!);
  test.each(["EIO: i/o error", "EACCES: permission denied"])("%s: an order is refused in one line, and the older ones stay on disk", async (why) => {
    const before = orders();
    const { text } = world;
    world.text = async (path) => (path.endsWith("/operator.json") ? Promise.reject(Object.assign(new Error(why), { code: why.split(":")[0] })) : text(path));
    expect([(await call("up", "helper")).code, starts("helper")]).toEqual([1, 0]);
    expect([(await call("down", "builder")).code, fake.logged("could not save the down order (operator.json").length]).toEqual([1, 1]);
    const said = await call("send", "builder", "--queue", "hello");
    expect([said.code, said.err]).toEqual([1, `agents: operator.json: ${why}; the order was not saved\n`]);
    expect(orders()).toEqual(before);
  });
  test("EIO, and the watchdog's memory too: `down` ends what it names all the same, and says what it could not do", async () => {
    const { fake, cfg, pane } = await scene(agents("a"), { home: realFolder() });
    const { text, mtime } = world;
    const eio = () => Object.assign(new Error("EIO: i/o error"), { code: "EIO" });
    world.text = async (path) => (path.startsWith(cfg.stateDir) ? Promise.reject(eio()) : text(path));
    world.mtime = (path) => {
      if (path.startsWith(cfg.logDir)) throw eio();
      return mtime(path);
    };
    const { id } = pane();
    expect((await command("down", "--config", cfg.path)).code).toBe(1);
    expect([fake.tmux.panes.some((one) => one.id === id), fake.logged(/EIO/).length]).toEqual([false, 2]);
  });
  test("the fleet of another user, whose state and tmux server are closed to this one: `down` claims of nobody that it does not run", async () => {
    const { fake, cfg } = await scene(agents("a"), { home: realFolder() });
    const down = async (...words: string[]) => (await command("down", ...words, "--config", cfg.path)).code;
    const { text } = world;
    fake.tmux.killServer(); // as his server looks from here
    world.text = async (path) => (path.startsWith(cfg.stateDir) ? Promise.reject(Object.assign(new Error("EACCES: permission denied"), { code: "EACCES" })) : text(path));
    expect([await down("a"), await down("--orphans")]).toEqual([3, 1]);
    expect(fake.logged(/a: nobody can say whether it runs: .*EACCES/)).toHaveLength(1);
    expect(fake.logged(/not running|no orphans/)).toEqual([]);
    world.text = text;
    expect([await down("a"), await down("--orphans"), fake.logged(/a: not running|no orphans/).length]).toEqual([0, 0, 2]);
  });
  test.each(["{half", "[]"])("damaged (%s): the next order keeps it aside and says so, and who is known to be down stays down", async (text) => {
    await operatorOf(cfg);
    operator(text);
    expect((await call("down", "builder")).code).toBe(0);
    expect([fake.files.get(join(cfg.stateDir, "operator.json.bad")), Object.keys(orders().held).sort()]).toEqual([text, ["builder", "helper"]]);
    expect(fake.logged("kept as operator.json.bad")).toHaveLength(1);
  });
  test("the folder is away, no file and no folder: what it said last holds", async () => {
    await operatorOf(cfg);
    fake.files.clear();
    fake.folders.clear();
    expect(Object.keys((await operatorOf(cfg)).held)).toEqual(["helper"]);
  });
  test("the file alone is gone: who was down stays down, which is said; the next order writes it again", async () => {
    const watch = await loadWatch(cfg);
    operator({ held: { helper: 1, scout: 2 } });
    await fake.ticks(cfg, watch, 2);
    fake.files.delete(join(cfg.stateDir, "operator.json"));
    const anew = await loadWatch(cfg); // of a watchdog, or after a reboot
    await fake.ticks(cfg, anew, 4);
    expect([starts("helper"), starts("scout"), fake.logged("operator.json is gone; what was down stays down").length]).toEqual([0, 0, 1]);
    expect([(await call("down", "builder")).code, Object.keys(orders().held).sort()]).toEqual([0, ["builder", "helper", "scout"]]);
  });
  test("the folder was removed, and is made again: what the orders said last holds, which is said", async () => {
    const watch = await loadWatch(cfg);
    operator({ held: { helper: 1, scout: 2 } });
    await fake.ticks(cfg, watch, 2);
    for (const path of [...fake.files.keys()]) if (path.startsWith(`${cfg.stateDir}/`)) fake.files.delete(path);
    await fake.ticks(cfg, watch, 4);
    expect([starts("helper"), starts("scout"), Object.keys(watch.held!), fake.logged("operator.json is gone; what was down stays down").length]).toEqual([0, 0, ["helper", "scout"], 1]);
  });
  test("one wrong field costs itself alone", async () => {
    operator({ ...JSON.parse(golden("night", "state/operator.json")), busy: { a: "long" }, queue: [{ id: 5 }] });
    expect([Object.keys((await operatorOf(cfg)).held), (await operatorOf(cfg)).busy, (await operatorOf(cfg)).queue]).toEqual([["helper"], {}, []]);
  });
});

test.each(["x\ty", "a b", "", "../../etc", "é", "a".repeat(129)])("a conversation's id of another shape is none: %p", async (id) => {
  const { fake, cfg, file } = await found("night");
  fake.files.set(file("builder.id"), id);
  expect(await resumeId(cfg, cfg.agents.get("builder")!)).toBeNull();
});

describe("a disk that does not answer is no news", () => {
  test("no round, and no start in one, waits for a read of the state: only who has a lock is read at once", async () => {
    const it = await found("night", { builder: "busy", adversary: "idle", writer: "limit", watcher: "idle" });
    const { read } = world;
    const waited: string[] = [];
    world.read = (path) => {
      if (path.includes("/state/") && !/\.lock\.pid$|\.stage$/.test(path)) waited.push(path);
      return read(path);
    };
    await it.again();
    await it.ticks(4);
    it.fake.tmux.kill(it.pane("watcher"));
    it.fake.git.push("status(one): done", { "machine-docs/STATUS-one.md": "## DONE\n\nAll gates PASS.\n" });
    await it.ticks(22);
    expect([it.starts("watcher"), curPhase(it.cfg)!.id, waited]).toEqual([1, "two", []]);
  });
  const unreadable = (what: RegExp): void => {
    const { text } = world;
    world.text = async (path) => (what.test(path) ? Promise.reject(new Error(`${path} cannot be read`)) : text(path));
  };
  test("the folder is away: the phase, and who is limited, stay as they were read last", async () => {
    const it = await found("end", { builder: "busy", adversary: "idle", writer: "limit" });
    it.operator({});
    await it.ticks(2);
    expect(curPhase(it.cfg)!.id).toBe("two");
    for (const path of it.fake.files.keys()) if (path.startsWith(it.cfg.stateDir)) it.fake.files.delete(path);
    for (const path of it.fake.times.keys()) if (path.startsWith(it.cfg.stateDir)) it.fake.times.delete(path);
    it.fake.folders.delete(it.cfg.stateDir);
    await readState(it.cfg);
    expect([curPhase(it.cfg)!.id, loadLimitState(it.cfg, "agents-writer") !== null]).toEqual(["two", true]);
  });
  test("a limit that cannot be read just now holds; a phase that cannot be read is none, and is said", async () => {
    const { cfg, fake, watch } = await found("night", { builder: "busy", writer: "limit" });
    unreadable(/limited-|phase-idx/);
    await fake.ticks(cfg, watch, 2);
    expect([fake.logged("usage limit on writer"), loadLimitState(cfg, "agents-writer")?.banner]).toEqual([[], JSON.parse(golden("night", "state/limited-agents-writer.json")).banner]);
    expect(() => curPhase(cfg)).toThrow("phase-idx cannot be read");
    expect(fake.logged(/phase-idx cannot be read$/)).toHaveLength(1);
  });
  test("a limit that no look could read holds as one without a reset time, and goes once its agent works", async () => {
    const it = await scene(agents("a"));
    it.fake.files.set(it.file("limited-agents-a.json"), JSON.stringify({ until: it.fake.wall / 1000 + 86_400, nudges: 0 }));
    unreadable(/limited-/);
    await it.ticks(20);
    expect([it.starts(), loadLimitState(it.cfg, "agents-a")?.resetAt, it.fake.logged("stall")]).toEqual([1, undefined, []]);
    it.pane().doing = "busy";
    await it.ticks(2);
    expect([it.fake.logged("limit lifted on a").length, it.fake.files.has(it.file("limited-agents-a.json"))]).toEqual([1, false]);
  });
  test.each(["", '{"until":"soon"}'])("a damaged limit (%s) holds as one without a reset time, and goes once its agent works", async (text) => {
    const it = await scene(agents("a"), { doing: "blank" });
    it.fake.files.set(it.file("limited-agents-a.json"), text);
    await it.ticks(1);
    expect(loadLimitState(it.cfg, "agents-a")).toEqual({ nudges: 0, until: expect.any(Number) });
    it.pane().doing = "busy";
    await it.ticks(2);
    expect([it.fake.logged("limit lifted on a").length, it.fake.files.has(it.file("limited-agents-a.json"))]).toEqual([1, false]);
  });
  test("the path of the ssh agent stays the one that was read last", async () => {
    const { cfg, fake, file } = await scene(FLEET);
    fake.files.set(file("ssh-auth-sock"), "/run/agent\n");
    await readState(cfg);
    fake.files.delete(file("ssh-auth-sock"));
    await readState(cfg);
    expect(cfg.stored.sshAgent).toBe("/run/agent");
    unreadable(/ssh-auth-sock/);
    await readState(cfg);
    expect(cfg.stored.sshAgent).toBe("/run/agent");
  });
  test.each([["NoAnswer", () => new NoAnswer("builder.id: a fault")], ["EIO", () => Object.assign(new Error("builder.id: a fault"), { code: "EIO" })]])("a conversation whose id it does not tell (%s) is not begun anew: the start waits, and counts for nothing", async (_, fault) => {
    const it = await found("night", { builder: "busy" });
    const id = it.fake.files.get(it.file("builder.id"));
    const { text } = world;
    let silent = true;
    world.text = async (path) => (silent && path.endsWith("builder.id") ? Promise.reject(fault()) : text(path));
    it.fake.tmux.exit("agents-builder", 1);
    await it.ticks(20);
    expect([started(it).includes("builder"), it.fake.files.get(it.file("builder.id")), it.fake.logged("ERROR: builder: builder.id: a fault").length]).toEqual([false, id, 1]);
    silent = false;
    await it.ticks(2);
    expect(it.fake.everyPane.find(({ session }) => session === "agents-builder")?.argv).toContain(id!.trim());
  });
  test("both files of the phase cannot be read: that is one fault, and ends nothing", async () => {
    const { cfg } = await found("night");
    unreadable(/phase-/);
    await readState(cfg);
    await new Promise((resolve) => setImmediate(resolve)); // a rejection that nobody awaits would come to light
    expect(() => curPhase(cfg)).toThrow("cannot be read");
  });
  test("a heartbeat that it does not show is none: status goes on, and so does the keeper, which asks for it all the time", async () => {
    const it = await found("night", { builder: "busy" });
    const { text } = world;
    world.text = async (path) => (path.endsWith("heartbeat") ? Promise.reject(new NoAnswer(`${path}: the disk does not answer`)) : text(path));
    const seen = await command("status", "--json", "--config", it.cfg.path);
    expect([seen.code, JSON.parse(seen.out).watchdog.heartbeat]).toEqual([3, ""]);
  });
  test("a memory, or orders, that a disk does not show in time are not overwritten by none", async () => {
    const it = await found("night", { builder: "busy" });
    const before = ["operator.json", "watch.json"].map((name) => it.fake.files.get(it.file(name)));
    await operatorOf(it.cfg); // known from before, but not what has been ordered since
    const { text } = world;
    let silent = /(operator|watch)\.json/;
    world.text = async (path) => (silent.test(path) ? Promise.reject(new NoAnswer(`${path}: the disk does not answer`)) : text(path));
    await expect(loadWatch(it.cfg)).rejects.toThrow("does not answer");
    silent = /operator\.json/;
    const sent = await command("send", "builder", "--queue", "hello", "--config", it.cfg.path);
    expect([sent.code, ["operator.json", "watch.json"].map((name) => it.fake.files.get(it.file(name)))]).toEqual([1, before]);
  });
});

test("a hold with a wrong field is a hold without it", async () => {
  const { fake, cfg, file } = await found("night");
  const { resetAt, banner, ...rest } = JSON.parse(golden("night", "state/limited-agents-writer.json"));
  expect([typeof resetAt, typeof banner]).toEqual(["number", "string"]);
  fake.files.set(file("limited-agents-writer.json"), JSON.stringify({ ...rest, resetAt: "soon", banner: 5 }));
  await readState(cfg);
  expect(loadLimitState(cfg, "agents-writer")).toEqual(rest);
});

describe("a memory that is gone", () => {
  test("is taken from its copy: no text on its way is lost", async () => {
    const it = await scene(agents("a"));
    it.watch.outbox.push(message());
    it.fake.files.set(`${it.file("watch.json")}.copy`, JSON.stringify({ ...it.watch, volatile: undefined }));
    it.fake.files.delete(it.file("watch.json"));
    expect((await it.again()).outbox.map(({ id }) => id)).toEqual(["1"]);
    expect(it.fake.logged("watch.json is gone; using the last copy")).toHaveLength(1);
  });
  test("and whose copy nobody can read now is not made anew", async () => {
    const it = await scene(agents("a"));
    it.fake.files.delete(it.file("watch.json"));
    const { text } = world;
    world.text = (path) => (path.endsWith(".copy") ? Promise.reject(new NoAnswer("no answer")) : text(path));
    await expect(it.again()).rejects.toThrow("no answer");
  });
});
