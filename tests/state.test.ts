/** What is on disk outlives the program that wrote it: the files of version 0.1.0 load, mean the same, and are saved as they were. */
import { beforeEach, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Config, curPhase, loadLimitState, loadWatch, memoryOf, operatorOf, parseEvents, resumeId, save, sessionLogPath, type Watch,
} from "../agents.ts";
import { fakeWorld, type FakeWorld } from "./kit.ts";

const GOLDEN = join(import.meta.dir, "fixtures", "state", "v1");
const FILES = readdirSync(join(GOLDEN, "log_dir"), { recursive: true, withFileTypes: true })
  .filter((one) => one.isFile()).map((one) => join(one.parentPath, one.name).slice(join(GOLDEN, "log_dir").length + 1)).sort();
const golden = (file: string): string => readFileSync(join(GOLDEN, "log_dir", file), "utf8");
const stored = (): Watch => JSON.parse(golden("state/watch.json"));

let fake: FakeWorld;
let cfg: Config;
beforeEach(async () => {
  fake = fakeWorld();
  cfg = await fake.config(readFileSync(join(GOLDEN, "agents.toml"), "utf8"));
  for (const file of FILES) {
    fake.files.set(join(cfg.logDir, file), golden(file));
    fake.times.set(join(cfg.logDir, file), fake.wall);
  }
  fake.wall = Date.parse(JSON.parse(golden("state/heartbeat")).at) + 30_000;
});
const store = (watch: unknown): void => void fake.files.set(join(cfg.stateDir, "watch.json"), JSON.stringify(watch));

describe("the golden state of version 0.1.0", () => {
  test("holds one of everything that a fleet leaves behind", () => {
    const { outbox, agents, wakeDue, turn, delivered } = stored();
    expect(outbox.map(({ cause }) => cause)).toEqual(["inbox ADVERSARY-INBOX.md", "claim", "send 5e4d0001"]);
    expect(Object.keys(agents)).toEqual(["builder", "adversary", "writer", "scout", "helper", "watcher"]);
    expect([agents.scout!.parked !== "", wakeDue.watcher! > 0, turn!.owes, delivered.length]).toEqual([true, true, "builder", 2]);
    for (const file of ["heartbeat", "operator.json", "limited-night-writer.json", "builder.id", "phase-idx", "phase-id", "events.jsonl", "events.jsonl.1",
      "kickoff-night-builder.txt", "told-night-builder", "message-builder-send-5e4d0002.txt", "watchdog.lock.pid"]) expect(FILES).toContain(`state/${file}`);
    expect(FILES).toContain("unsure/watcher.txt");
  });

  test("the watchdog's memory is saved byte for byte as it was loaded", () => {
    const watch = loadWatch(cfg);
    fake.files.delete(join(cfg.stateDir, "watch.json"));
    save(cfg, watch);
    expect(fake.files.get(join(cfg.stateDir, "watch.json"))).toBe(golden("state/watch.json"));
  });

  test("what a person wants, the hold, the phase, the conversation, the record are read as they were meant", () => {
    expect(operatorOf(cfg)).toEqual(JSON.parse(golden("state/operator.json")));
    expect(loadLimitState(cfg, "night-writer")).toEqual(JSON.parse(golden("state/limited-night-writer.json")));
    expect(curPhase(cfg)!.id).toBe("one");
    expect(resumeId(cfg, cfg.agents.get("builder")!)).toBe(golden("state/builder.id").trim());
    for (const file of ["state/events.jsonl", "state/events.jsonl.1"]) {
      expect(parseEvents(golden(file)).map((event) => JSON.stringify(event)).join("\n")).toBe(golden(file).trimEnd());
    }
    expect(sessionLogPath(cfg, "night-watchdog")).toBe(join(cfg.logDir, "night-watchdog.log"));
  });

  test("a watchdog goes on where the other one was killed: nobody is started for nothing, nothing is lost", async () => {
    const watch = loadWatch(cfg);
    fake.git.push("begin", { "README.md": "read me" });
    for (const name of ["builder", "adversary", "writer", "watcher"]) {
      const pane = fake.tmux.add(`night-${name}`);
      Object.assign(pane.marks, { "@agents_session": pane.session, "@agents_backend": "claude", "@agents_home": cfg.stateDir });
      pane.doing = name === "builder" ? "busy" : "idle";
    }
    Object.assign(fake.tmux.of("night-writer"), { doing: "limit", banner: "You've hit your weekly limit · resets Jun 18 at 3am (UTC)" });
    const before = fake.everyPane.length;
    await fake.ticks(cfg, watch, 8);
    expect(fake.everyPane.slice(before).map(({ session }) => session)).toEqual([]);
    expect([memoryOf(watch, "scout").parked, memoryOf(watch, "helper").verdict]).toEqual([stored().agents.scout!.parked, "gone"]);
    expect(fake.received("night-adversary")).toEqual(stored().outbox.map(({ text }) => text));
    expect(loadLimitState(cfg, "night-writer")!.resetAt).toBe(JSON.parse(golden("state/limited-night-writer.json")).resetAt);
    expect(fake.received("night-writer")).toEqual([]);
  });
});

describe("a memory of another version", () => {
  test("fields that nobody knows any more do no harm, those that are missing get what a new one has", () => {
    const { scout, ...others } = stored().agents;
    const { lastFatal, answers, ...known } = scout!;
    store({ ...stored(), agents: { ...others, scout: { ...known, mood: "bright" } }, weather: "fair", delivered: undefined, wakeDue: undefined });
    const watch = loadWatch(cfg);
    expect([memoryOf(watch, "scout").parked, memoryOf(watch, "scout").lastFatal, memoryOf(watch, "scout").answers]).toEqual([scout!.parked, lastFatal, answers]);
    expect([watch.delivered, watch.wakeDue, watch.outbox]).toEqual([[], {}, stored().outbox]);
  });

  test.each<[string, object, (watch: Watch) => unknown, unknown]>([
    ["a list that is none", { outbox: {} }, (watch) => watch.outbox, []],
    ["a text without a target", { outbox: [{ id: "1", text: "x" }] }, (watch) => watch.outbox, []],
    ["a move without an aim", { intent: { id: "1" } }, (watch) => watch.intent, null],
    ["a move under way", { intent: { id: "1", from: "one", to: "two", run: "", at: 1 } }, (watch) => watch.intent?.to, "two"],
    ["an agent that is none", { agents: { scout: 5 } }, (watch) => watch.agents, {}],
  ])("%s costs itself alone", (_, some, read, wanted) => {
    store({ ...stored(), ...some });
    const watch = loadWatch(cfg);
    expect(read(watch)).toEqual(wanted);
    expect([watch.sha, watch.seen]).toEqual([stored().sha, stored().seen]);
  });

  test("a file that is no JSON is kept aside, and a new memory begins", () => {
    fake.files.set(join(cfg.stateDir, "watch.json"), "{half");
    expect(loadWatch(cfg).sha).toBe("");
    expect(fake.files.get(join(cfg.stateDir, "watch.json.bad"))).toBe("{half");
    expect(fake.logged("watch.json.bad")).toHaveLength(1);
  });
});
