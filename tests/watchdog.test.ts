/** The tick goes on whatever one agent, the config, the disk, the clock or tmux does. */
import { beforeEach, describe, expect, onTestFinished, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  captureAll, curIdx, hungAfter, isUrgent, loadConfig, loadWatch, type Memory, memoryOf, operatorOf, parseEvents, pauseAfter, pendingUnits, phaseIdxFile, quickRound, reloadConfig, enqueue,
  snapshot, stillness, watched, world, storedLife,
} from "../agents.ts";
import { agents, closeLook, command, type FakePane, type FakeWorld, fakeWorld, FLEET, message, type Scene, scene } from "./kit.ts";
import { until } from "./real.ts";

let { fake, cfg, watch, pane, starts, file, operator } = {} as Scene;
const begin = async (text: string): Promise<void> => void ({ fake, cfg, watch, pane, starts, file, operator } = await scene(text, { fake }));
const ticks = (count: number) => fake.ticks(cfg, watch, count);
beforeEach(() => {
  fake = fakeWorld();
  fake.tmux.onStart = (one) => void (one.doing = "busy");
});

describe("fault 1: one agent's error is its own", () => {
  test("a prompt that vanished: the others are healed, it goes up the ladder and is parked with the reason", async () => {
    fake.files.set("/fleet/own.md", "x");
    await begin(`${agents("a", "b")}[[agent]]\nname = "c"\nbackend = "claude"\nwatch = "heal"\nprompt_file = "own.md"\n`);
    fake.files.delete("/fleet/own.md");
    for (const name of ["a", "b", "c"]) fake.tmux.exit(`agents-${name}`, 1);
    await ticks(40);
    expect([starts("a"), starts("b"), starts("c")]).toEqual([2, 2, 1]);
    expect(storedLife(memoryOf(watch, "c")).parked).toContain("prompt_file own.md is missing");
    expect(fake.logged("could not be started: ")).toHaveLength(5);
    fake.files.set("/fleet/own.md", "x");
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ released: { c: fake.wall } }));
    await ticks(2);
    expect(starts("c")).toBe(2);
  });
  test("a prompt on a disk that hangs: it is not read, the others are healed, a watchdog that starts gets through, and it is read once the disk answers", async () => {
    const text = `${agents("a")}${agents("b")}prompt_file = "/hung/b.md"\n`;
    fake.files.set("/hung/b.md", "x");
    await begin(text);
    const { answers, read } = world;
    let hangs = true;
    world.answers = async (path) => !(hangs && path.startsWith("/hung")) && answers(path);
    world.read = (path) => (hangs && path.startsWith("/hung") ? expect.unreachable("it would wait for ever") : read(path));
    await reloadConfig(cfg, watch);
    for (const name of ["a", "b"]) fake.tmux.exit(`agents-${name}`, 1);
    await ticks(12);
    expect([starts("a"), starts("b"), storedLife(memoryOf(watch, "b")).parked, fake.logged("/hung/b.md: its disk does not answer").length]).toEqual([2, 1, "", 1]);
    const anew = (good: boolean) => loadConfig(cfg.path, {}, text, good);
    expect((await anew(true)).warnings).toEqual([`${cfg.path}:9: agent "b": prompt_file: /hung/b.md: its disk does not answer`]);
    await expect(anew(false)).rejects.toThrow("its disk does not answer");
    hangs = false;
    await reloadConfig(cfg, watch);
    await ticks(2);
    expect(starts("b")).toBe(2);
  });
  test("a limit file that cannot be written", async () => {
    await begin(agents("a", "b"));
    const write = fake.write.bind(fake);
    fake.write = (path, text) => {
      if (path.includes("limited-")) throw new Error("EACCES: permission denied");
      write(path, text);
    };
    fake.tmux.of("agents-a").doing = "limit";
    fake.tmux.exit("agents-b", 1);
    await ticks(30);
    expect([starts("a"), starts("b")]).toEqual([1, 2]);
    expect(fake.logged("EACCES")).toEqual([expect.stringContaining("ERROR: a: EACCES: permission denied")]);
    fake.write = write;
    await ticks(1);
    expect(fake.logged("usage limit on a")).toHaveLength(1);
  });
});

test("fault 27: logging never throws", async () => {
  await begin(agents("a"));
  const { world } = await import("../agents.ts");
  world.log = () => {
    throw new Error("ENOSPC");
  };
  fake.tmux.exit("agents-a", 1);
  await ticks(3);
  expect(starts("a")).toBe(2);
});

describe("the config is read again", () => {
  /** Ticks as the loop makes them, with a look at the file before each. */
  const live = async (count: number): Promise<void> => {
    for (let nth = 0; nth < count; nth++) {
      cfg = await reloadConfig(cfg, watch);
      await ticks(1);
    }
  };
  const put = (text: string | null): void => void (text === null ? fake.files.delete("/fleet/agents.toml") : fake.files.set("/fleet/agents.toml", text));
  const orphans = () => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === "orphan").map(({ agent, cure }) => [agent, cure]);
  beforeEach(() => begin(agents("a", "b")));

  test("a change is in force at the next tick", async () => {
    put(agents("a", "b", "c"));
    await live(2);
    expect([starts("a"), starts("c")]).toEqual([1, 1]);
    expect(fake.logged("config reloaded")).toHaveLength(1);
  });
  test.each<[string, string | null]>([
    ["fault 2: a bracket is missing", '[[agent]\nname = "a"\n'],
    ["fault 4: a typo in one backend", agents("a", "b").replace("claude", "claud")],
    ["fault 4: a backend is missing", '[[agent]]\nname = "a"\n'],
    ["a regex that is none", `[backend.claude]\nlimit_re = "(("\n${agents("a")}`],
    ["emptied", ""],
    ["deleted", null],
  ])("P5, %s: the last good one stays in force, said once", async (_, text) => {
    put(text);
    await live(5);
    fake.tmux.exit("agents-a", 1);
    await live(5);
    expect([starts("a"), starts("b"), cfg.agents.size]).toEqual([2, 1, 2]);
    expect(fake.logged("the last good config stays in force")).toHaveLength(1);
    put(agents("a", "b"));
    await live(1);
    expect(watch.volatile.errors.config).toBeUndefined();
    expect(parseEvents(fake.files.get(`${cfg.stateDir}/events.jsonl`)!).filter(({ event }) => event === "config"))
      .toEqual([{ at: expect.any(String), event: "config", why: expect.any(String) }, expect.objectContaining({ to: "ok" })]);
  });
  test("P5: it cannot be read", async () => {
    const read = fake.read.bind(fake);
    fake.read = (path) => {
      if (path === cfg.path) throw new Error("EACCES: permission denied");
      return read(path);
    };
    await live(5);
    expect(fake.logged("EACCES")).toHaveLength(1);
    expect(cfg.agents.size).toBe(2);
  });
  test("fault 3: a file that still changes is not taken", async () => {
    put(agents("a"));
    const { world } = await import("../agents.ts");
    const sleep = world.sleep;
    world.sleep = async (ms) => {
      put(agents("a", "b", "c"));
      await sleep(ms);
    };
    const [before, began] = [cfg, fake.mono];
    expect([await reloadConfig(cfg, watch), fake.mono - began]).toEqual([before, 200]);
    world.sleep = sleep;
    await live(1);
    expect([...cfg.agents.keys()]).toEqual(["a", "b", "c"]);
  });
  test("an agent with another name in the session that it had is no orphan: it is watched", async () => {
    put(`${agents("a", "c")}session = "agents-b"\n`);
    await live(3);
    expect([fake.logged("config reloaded").length, fake.logged("left running"), fake.files.get(join(cfg.stateDir, "events.jsonl"))!.includes('"orphan"')]).toEqual([1, [], false]);
    fake.tmux.exit("agents-b", 1);
    await live(5);
    expect(starts("b")).toBe(2);
  });
  test("fault 3: who vanished from it is named and left running", async () => {
    put(agents("a"));
    await live(20);
    expect(fake.logged("no longer in the config, left running: b")).toHaveLength(1);
    expect(fake.tmux.of("agents-b").dead).toBe(false);
    expect([orphans(), cfg.notify.events.includes("orphan")]).toEqual([[["b", "down b"]], true]);
    fake.tmux.exit("agents-b", 1);
    await live(5);
    expect(starts("b")).toBe(1);
  });
  test("one that runs, and that this watchdog has not seen yet, is named too", async () => {
    watch = await fake.watch(cfg);
    put(agents("a"));
    await live(2);
    expect(fake.logged("no longer in the config, left running: b")).toHaveLength(1);
  });
  test.each([
    ["while tmux was silent, of which this watchdog remembers nothing", async () => {
      fake.tmux.trouble = "hang";
      put(agents("a"));
      await live(2);
      expect([fake.logged("config reloaded").length, orphans()]).toEqual([1, []]);
      fake.tmux.trouble = "";
    }],
    ["while no watchdog ran", async () => void (cfg = await fake.config(agents("a")))],
  ])("one that left it %s is named once tmux shows it, and once alone; again if it comes back and leaves again", async (_, leave) => {
    watch = await fake.watch(cfg);
    watch.agents = {};
    await leave();
    for (const _ of [1, 2]) {
      await live(2);
      watch = await fake.watch(cfg); // the next watchdog
    }
    expect([orphans(), fake.logged("left running: b").length]).toEqual([[["b", "down b"]], 1]);
    for (const text of [agents("a", "b"), agents("a")]) {
      put(text);
      await live(2);
    }
    expect(orphans()).toHaveLength(2);
  });
  test("one that does not run when it leaves the config is no client left running", async () => {
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ held: { b: fake.wall } }));
    fake.tmux.exit("agents-b", 0);
    await live(3);
    put(agents("a"));
    await live(20);
    expect([fake.logged("config reloaded").length, fake.logged("left running")]).toEqual([1, []]);
  });
  test("fault 56: a new interval holds at once", async () => {
    put(`[watchdog]\nsignal_interval = 5\n${agents("a", "b")}`);
    await live(1);
    expect(cfg.watchdog.signalInterval).toBe(5);
  });
  test("40 prefixes of the fleet's file in a row: nobody is touched, no tick dies", async () => {
    const whole = agents("a", "b");
    for (let nth = 0; nth < 40; nth++) {
      put(whole.slice(0, Math.floor((whole.length * nth) / 40)));
      await live(1);
    }
    put(whole);
    await live(3);
    expect([starts("a"), starts("b"), cfg.agents.size]).toEqual([1, 1, 2]);
    expect(fake.logged("ERROR")).toEqual([]);
  });
});

test("five looks that are not understood: the screen is kept, once", async () => {
  await begin(agents("a"));
  fake.tmux.of("agents-a").text = " \n\n";
  fake.effects = [];
  await ticks(30);
  expect(fake.effects.filter((what) => what.endsWith("a.txt"))).toHaveLength(1);
  expect(fake.logged("its screen is not recognised")).toHaveLength(1);
  expect([starts("a"), fake.logged("ERROR").length]).toEqual([1, 0]);
});

test("of a screen that tmux does not show no empty file is kept", async () => {
  await begin(agents("a"));
  const { tmux } = world;
  world.tmux = async (args, stdin, ...rest) => args[0] === "source-file" || args[0] === "capture-pane"
    ? { ok: false, out: "", err: "no answer in time", timedOut: true } : tmux(args, stdin, ...rest);
  await ticks(30);
  const [said] = fake.logged("its screen is not recognised");
  expect([said?.includes("tmux did not show its screen"), said?.includes("saved to"), [...fake.files.keys()].filter((path) => path.includes("/unsure/"))]).toEqual([true, false, []]);
});

test("a client whose files cannot be looked through is unsure, in the rounds and in status; a person is told, and no other agent is held up", async () => {
  await begin(`${agents("b")}[[agent]]\nname = "a"\nbackend = "codex"\nwatch = "heal+stall"\n`);
  await ticks(5);
  const { list } = world;
  world.list = (path) => {
    if (path.endsWith("/.codex/sessions")) throw new Error("EACCES: permission denied, scandir");
    return list(path);
  };
  await ticks(30);
  const why = "the watchdog could not read what it says of itself; see its log";
  expect([memoryOf(watch, "a").verdict, memoryOf(watch, "b").verdict, fake.logged("ERROR: look a: EACCES").length]).toEqual(["unsure", "active", 1]);
  expect(parseEvents(fake.files.get(`${cfg.stateDir}/events.jsonl`)!).filter(({ event }) => event === "unsure")).toMatchObject([{ agent: "a", why: expect.stringContaining(why) }]);
  expect(await command("status", "--config", cfg.path)).toMatchObject({ code: 3, out: expect.stringMatching(/^1 needs you · 1 working$[^]*^! a .*unsure/m) });
});

describe("what keeps the watchdog from its work is told to people after five minutes, once, and that it is over", () => {
  const told = () => parseEvents(fake.files.get(`${cfg.stateDir}/events.jsonl`)!).filter(({ event }) => event === "trouble").map(({ agent, to, why }) => [agent, to, why]);
  const silent = () => ({ ok: false, out: "", err: "no answer in time", timedOut: true });
  const ready = async () => ({ ok: true, status: 200, body: "" });
  let run: typeof fake.tmux.run;
  let mtime: typeof world.mtime;
  let append: typeof world.append;
  test.each<[string, (on: boolean) => void, unknown[][]]>([
    ["tmux does not answer", (on) => void (fake.tmux.run = on ? silent : run),
      [[undefined, undefined, "tmux: no answer in time, for 5 min"], [undefined, "ok", "tmux: answering again"]]],
    ["the phase cannot be read", (on) => void fake.files.set(phaseIdxFile(cfg), on ? "x" : "0"),
      [[undefined, undefined, 'the phase file holds "x", not a number; run "agents phase set" (phases: p1, p2), for 5 min'], [undefined, "ok", "phase state: valid again"]]],
    // the event of what begins is written late
    ["nothing can be stored", (on) => void (fake.full = on), [[undefined, undefined, expect.stringMatching(/^heartbeat: ENOSPC.*, for 5 min$/)], [undefined, "ok", "heartbeat: working again"]]],
    ["the record of events cannot be written", (on) => {
      world.append = (path, text, cap) => {
        if (on && path.endsWith("events.jsonl")) throw new Error("EPERM: operation not permitted");
        return append(path, text, cap);
      };
      if (on) fake.tmux.exit("agents-orchestrator", 1);
    }, [[undefined, undefined, expect.stringMatching(/^a log cannot be written: .*events\.jsonl: EPERM: .*, for 5 min$/)], [undefined, "ok", "logs: written again"]]],
    ["the care of one agent fails each time", (on) => {
      fake.http = on ? () => Promise.reject(new Error("a fault of ours")) : ready;
      if (on) fake.tmux.exit("agents-orchestrator", 1);
    }, [["orchestrator", undefined, "orchestrator: a fault of ours, for 5 min"], ["orchestrator", "ok", "orchestrator: working again"]]],
    ["nobody can say whether all phases are done, so that nobody is woken", (on) => {
      world.mtime = (path) => {
        if (on && path.endsWith("SEQUENCE-COMPLETE")) throw new Error("a disk's fault");
        return mtime(path);
      };
    }, [[undefined, undefined, "phase: a disk's fault, for 5 min"], // which the next heavy tick finds mended
      ...["builder", "adversary", undefined].map((name) => [name, undefined, `${name ?? "completion"}: a disk's fault, for 5 min`]),
      ...["builder", "adversary", undefined].map((name) => [name, "ok", `${name ?? "completion"}: working again`])]],
  ])("%s", async (_, broken, wanted) => {
    fake.http = ready;
    await begin(FLEET.replace('"Look after the fleet."', '"Look after the fleet."\nneeds = ["web"]') + '[[service]]\nname = "web"\ncommand = "serve"\nready = "80"\n');
    run = fake.tmux.run.bind(fake.tmux);
    ({ mtime, append } = world);
    for (const count of [9, 40]) {
      broken(true);
      await ticks(count);
      broken(false);
      await ticks(2);
      expect(told()).toEqual(count === 9 ? [] : wanted);
    }
    expect(cfg.notify.events).toContain("trouble");
  });
});

describe("P14, fault 16: clock steps kill nobody and tell nothing twice", () => {
  const states = ["busy", "idle", "limit", "dialog", "blank"] as const;
  const HOUR = 3600_000;
  const set = (hours: number) => (f: FakeWorld): void => void (f.wall += hours * HOUR);
  /** The steps, three ticks after each other, and how often the limited agent is asked: its hold is over, or set by a clock that ran ahead. */
  test.each<[string, ((fake: FakeWorld) => void)[], number]>([
    ["an hour on", [set(1)], 0],
    ["an hour back", [set(-1)], 1],
    ["ten years on", [set(87_660)], 1],
    ["ten years back", [set(-87_660)], 1],
    ["suspended for eight hours", [(f) => f.turn(8 * HOUR)], 1],
    ["suspended, the monotonic clock stood still", [set(8)], 1],
    ["an hour on and back again", [set(1), set(-1)], 0],
    ["an hour back and on again", [set(-1), set(1)], 1],
  ])("%s", async (_, steps, asked) => {
    await begin(agents(...states));
    for (const state of states) Object.assign(fake.tmux.of(`agents-${state}`), { doing: state, banner: "You've hit your 5-hour limit · resets 4pm (UTC)" });
    await ticks(4);
    const [wall, mono] = [fake.wall, fake.mono];
    for (const step of steps) {
      step(fake);
      await ticks(3);
    }
    await ticks(5);
    if (steps.length === 2) expect(fake.wall - wall).toBe(fake.mono - mono); // it is back
    expect(states.map(starts)).toEqual([1, 1, 1, 1, 1]);
    expect(states.map((state) => fake.received(`agents-${state}`).length)).toEqual([0, 0, asked, 0, 0]);
    expect(fake.everyPane.reduce((sum, pane) => sum + pane.approved, 0)).toBe(0);
    expect(fake.logged("ERROR")).toEqual([]);
  });
  test.each([
    ["spring", Date.UTC(2026, 2, 29, 0, 50), Date.UTC(2026, 2, 29, 2), "2026-03-29 04:0"],
    ["autumn", Date.UTC(2026, 9, 24, 23, 50), Date.UTC(2026, 9, 25, 3), "2026-10-25 04:0"],
  ])("through a night in which the clocks change, in %s: what a client says in local time follows them, and nothing else does", async (_, evening, reset, printed) => {
    const zone = process.env.TZ;
    onTestFinished(() => void (zone === undefined ? delete process.env.TZ : (process.env.TZ = zone)));
    process.env.TZ = "Europe/Berlin";
    fake.wall = evening;
    await begin(`[watchdog]\nsignal_interval = 60\n${agents("busy", "limit", "dialog", "waiting")}`);
    Object.assign(fake.tmux.of("agents-limit"), { doing: "limit", banner: "You've hit your 5-hour limit · resets 4am" });
    fake.tmux.of("agents-dialog").doing = "dialog";
    const until = new Date(reset + 30 * 60_000).toISOString();
    Object.assign(fake.tmux.of("agents-waiting"), { doing: "idle", said: `● WAITING-UNTIL: ${until}` });
    const names = ["busy", "limit", "dialog", "waiting"];
    let asked = 0;
    fake.tmux.of("agents-limit").onSubmit = () => {
      asked ||= fake.wall;
      fake.tmux.of("agents-limit").doing = "busy";
    };
    while (fake.wall < reset + 20 * 60_000) await ticks(1);
    expect([names.map(starts), names.map((name) => fake.received(`agents-${name}`).length)]).toEqual([[1, 1, 1, 1], [0, 1, 0, 0]]);
    expect(asked - reset).toBeWithin(0, 3 * 60_000);
    expect(fake.logged("limit probe #1")).toEqual([expect.stringContaining(`[agents ${printed}`)]);
    expect(fake.logged("ERROR")).toEqual([]);
  });
  test("a start that waits on the ladder is not put off by a clock set back", async () => {
    await begin(agents("a"));
    for (let nth = 0; nth < 3; nth++) {
      fake.tmux.exit("agents-a", 1);
      await ticks(2);
    }
    const before = starts("a");
    fake.tmux.exit("agents-a", 1);
    await ticks(1);
    fake.wall -= 10 * 365 * 24 * HOUR;
    await ticks(6);
    expect(starts("a")).toBeGreaterThan(before);
  });
});

test("P8: the tmux server was restarted: all come back, start_batch per tick", async () => {
  const names = Array.from({ length: 25 }, (_, i) => `a${i}`);
  await begin(agents(...names));
  expect(fake.tmux.panes).toHaveLength(25);
  await ticks(4);
  fake.tmux.killServer();
  const alive: number[] = [];
  for (let nth = 0; nth < 4; nth++) {
    await ticks(1);
    alive.push(fake.tmux.panes.length);
  }
  expect(alive).toEqual([10, 20, 25, 25]);
  expect(names.map(starts)).toEqual(names.map(() => 2));
});

test("P22: 100 that end together are one event: spread, at most ten per tick, nobody parked", async () => {
  const names = Array.from({ length: 100 }, (_, i) => `a${i}`);
  await begin(agents(...names));
  await ticks(12);
  for (const name of names) fake.tmux.exit(`agents-${name}`, 1);
  for (let nth = 0; nth < 11; nth++) {
    const before = fake.everyPane.length;
    await ticks(1);
    expect(fake.everyPane.length - before).toBeLessThanOrEqual(10);
  }
  expect(fake.tmux.panes.filter((pane) => !pane.dead)).toHaveLength(100);
});

test("P22: who ended with others goes no step up the ladder", async () => {
  const names = ["a", "b", "c"];
  await begin(agents(...names));
  for (const name of names) {
    fake.tmux.exit(`agents-${name}`, 1);
    await ticks(2);
  }
  await ticks(4);
  for (const name of names) fake.tmux.exit(`agents-${name}`, 1);
  await ticks(1);
  expect(fake.logged("restarting in")).toEqual([]);
  expect(names.map(starts)).toEqual([3, 3, 3]);
});

test("fault 44: tmux that does not answer for an hour: nobody is started twice, it is said once", async () => {
  await begin(agents("a", "b"));
  fake.tmux.trouble = "hang";
  await ticks(120);
  fake.tmux.trouble = "";
  await ticks(5);
  expect([starts("a"), starts("b")]).toEqual([1, 1]);
  expect(fake.logged("tmux: no answer in time")).toHaveLength(1);
});

describe("P4: a full disk", () => {
  test("every write fails for an hour: the watchdog lives, keeps the phase, recovers within one tick", async () => {
    await begin(FLEET);
    fake.git.push("init");
    await ticks(3);
    const before = new Map(fake.files);
    fake.full = true;
    fake.git.push("claim(p1): G1");
    fake.tmux.exit("agents-orchestrator", 1);
    fake.tmux.of("agents-builder").doing = "limit";
    cfg.agents.get("builder")!.account = "its own"; // or the other would wait for it
    await ticks(120);
    expect(fake.files).toEqual(before);
    expect([starts("orchestrator"), starts("builder"), curIdx(cfg)]).toEqual([1, 1, 0]);
    fake.full = false;
    await ticks(3);
    expect(starts("orchestrator")).toBe(2);
    expect(fake.received("agents-adversary").filter((text) => text.includes("G1"))).toHaveLength(1);
    expect(fake.files.has(join(cfg.stateDir, "limited-agents-builder.json"))).toBe(true);
  });
  test("it fills up again and again", async () => {
    await begin(FLEET);
    fake.git.push("init");
    await ticks(3);
    for (let nth = 0; nth < 30; nth++) {
      fake.full = nth % 2 === 0;
      if (nth % 5 === 0) fake.git.push(`claim(p1): G${nth}`);
      await ticks(1);
      expect(() => JSON.parse(fake.files.get(join(cfg.stateDir, "watch.json"))!)).not.toThrow();
    }
    fake.full = false;
    await ticks(4);
    expect(fake.received("agents-adversary").at(-1)).toContain("G25");
  });
  test("an error is said once, not each tick", async () => {
    await begin(agents("a"));
    fake.full = true;
    fake.tmux.exit("agents-a", 1);
    const stages = ["ERROR: a", "ERROR: state", "ERROR: heartbeat", "events.jsonl"];
    const said = () => stages.map((stage) => fake.logged(`${stage}: ENOSPC`).length);
    await ticks(100);
    // of an event as often as there is one: that the agent is down, that it cannot be started, and that nothing can be stored
    expect([said(), fake.logged("ENOSPC").length]).toEqual([[1, 1, 1, 3], 6]);
    fake.full = false;
    await ticks(2);
    fake.full = true;
    await ticks(100);
    expect(fake.logged("ERROR: heartbeat: ENOSPC")).toHaveLength(2); // once more, for it had ended
  });
  test("an error of an agent that is called as a stage is said once too", async () => {
    await begin(agents("state"));
    const { writeAtomic } = world;
    world.writeAtomic = async (path, text) => (path.endsWith(".txt") ? Promise.reject(new Error("no room")) : writeAtomic(path, text));
    fake.tmux.exit("agents-state", 1);
    await ticks(20);
    world.writeAtomic = writeAtomic;
    expect(fake.logged("ERROR: state: no room")).toHaveLength(1);
    await ticks(3);
    expect([fake.logged("state: saved again").length, starts("state")]).toEqual([1, 2]);
  });
});

describe("what it remembers", () => {
  test("a file that is no JSON is kept aside, the watchdog begins without it", async () => {
    await begin(agents("a"));
    fake.files.set(join(cfg.stateDir, "watch.json"), '{"sha": "x');
    watch = await loadWatch(cfg);
    expect(watch.outbox).toEqual([]);
    expect(fake.files.get(join(cfg.stateDir, "watch.json.bad"))).toBe('{"sha": "x');
    await ticks(3);
    expect(starts("a")).toBe(1);
  });
  test.each(["null", "3", "[]", '"x"', '{"outbox": null}', '{"agents": {"a": null}}', '{"agents": null, "unknown": 1}', '{"outbox": {}, "seen": 3, "wakeDue": null}'])("%s in its place stops no tick", async (text) => {
    await begin(agents("a"));
    fake.files.set(join(cfg.stateDir, "watch.json"), text);
    watch = await loadWatch(cfg);
    fake.tmux.exit("agents-a", 1);
    await ticks(4);
    expect(starts("a")).toBe(2);
    expect(fake.logged("ERROR")).toEqual([]);
  });
  test("what is on the monotonic clock is not stored", async () => {
    await begin(agents("a"));
    const stored = JSON.parse(fake.files.get(join(cfg.stateDir, "watch.json"))!);
    expect(Object.keys(stored)).not.toContain("volatile");
    expect(Object.keys(stored.agents.a)).not.toContain("idleSince");
  });
});

test("watched: enabled, and not watch = none", async () => {
  cfg = await fake.config(`${agents("a", "b")}enabled = false\n${agents("c").replace("heal+stall", "none")}`);
  expect(watched(cfg).map((agent) => agent.name)).toEqual(["a"]);
});

test("a heartbeat each tick, with the version that runs, whatever has taken the program's place on disk", async () => {
  await begin(agents("a"));
  const beat = () => JSON.parse(fake.files.get(join(cfg.stateDir, "heartbeat"))!);
  const before = beat();
  fake.files.set(join(import.meta.dir, "..", "package.json"), '{"version": "9.9.9"}');
  await ticks(1);
  expect(Date.parse(beat().at) - Date.parse(before.at)).toBeGreaterThanOrEqual(30_000);
  expect(beat().version).toBe(before.version);
});

test("no heartbeat while its memory cannot be stored, where there is room for a heartbeat", async () => {
  await begin(agents("a"));
  const beat = () => fake.files.get(join(cfg.stateDir, "heartbeat"));
  const { writeAtomic } = world;
  world.writeAtomic = async (path, text) => (path.endsWith("watch.json") ? Promise.reject(new Error("ENOSPC: no space left on device")) : writeAtomic(path, text));
  fake.tmux.exit("agents-a", 1);
  const before = beat();
  await ticks(4);
  expect(beat()).toBe(before);
  world.writeAtomic = writeAtomic;
  await ticks(1);
  expect(beat()).not.toBe(before);
});

test("a tick puts its memory into text once, whether it can be stored or not", async () => {
  await begin(agents("a"));
  let texts = 0;
  Object.assign(watch, { inboxes: { toJSON: () => ({ "": `${texts += 1}` }) } });
  await ticks(10);
  fake.full = true;
  await ticks(10);
  expect(texts).toBe(20);
});

test("fault 28: a pane whose logging stopped is logged again", async () => {
  await begin(agents("a"));
  fake.tmux.of("agents-a").piped = false;
  await ticks(12);
  expect(fake.tmux.of("agents-a").piped).toBe(true);
});

test("a log that cannot be opened, as one of root, is said once and keeps no other one from its care", async () => {
  await begin(agents("a", "b"));
  const { append } = world;
  world.append = (path, text, cap) => {
    if (path.endsWith("agents-a.log")) throw new Error("EACCES: permission denied, open");
    return append(path, text, cap);
  };
  fake.tmux.of("agents-b").piped = false;
  await ticks(12);
  expect([fake.tmux.of("agents-b").piped, fake.logged("EACCES").length]).toEqual([true, 1]);
  expect(fake.logged("EACCES")[0]).toEndWith("ERROR: log of a: EACCES: permission denied, open");
});

test("fault 28: a log over its cap is rotated, and the pane writes to the new one", async () => {
  await begin(`[watchdog]\nlog_max_mb = 1\n${agents("a")}`);
  const log = join(cfg.logDir, "agents-a.log");
  fake.files.set(log, "x".repeat(1_000_001));
  fake.effects = [];
  await ticks(1); // an agent may print as much again in each
  expect(fake.files.get(`${log}.1`)!.length).toBe(1_000_001);
  expect(fake.effects).toContain("tmux pipe-pane");
});

test("P31: a storm of commits with enormous subjects leaves the state folder under one megabyte", async () => {
  await begin(FLEET);
  fake.git.push("init");
  await ticks(3);
  for (let nth = 0; nth < 40; nth++) {
    for (const kind of ["claim", "review", "other"]) fake.git.push(`${kind}(p1): ${nth} ${"s".repeat(100_000)}`);
    await ticks(1);
  }
  const sizes = [...fake.files].filter(([path]) => path.startsWith(cfg.stateDir)).map(([path, text]) => [path, text.length] as const);
  const sum = sizes.reduce((total, [, size]) => total + size, 0);
  expect([sum > 10_000, sum < 1_000_000], Bun.inspect(sizes)).toEqual([true, true]);
});

test("fault 62: two tmux clients per tick, whatever the number of agents", async () => {
  await begin(agents(...Array.from({ length: 40 }, (_, i) => `a${i}`)));
  await ticks(3);
  let calls = 0;
  const run = fake.tmux.run.bind(fake.tmux);
  fake.tmux.run = (args, stdin) => ((calls += 1), run(args, stdin));
  await ticks(5);
  expect(calls).toBe(10);
});

describe("P22: a screen on which nothing was drawn is not read again", () => {
  const BOX = `${"─".repeat(80)}\n❯\u00a0\n${"─".repeat(80)}\n  ⏵⏵ auto mode on (shift+tab to cycle)`;
  const DIALOG = `${"─".repeat(80)}\n Do you want to proceed?\n ❯ 1. Yes\n   2. No\n\n Esc to cancel · Tab to amend`;
  let pane: FakePane;
  let reads = 0;
  beforeEach(async () => {
    await begin(`[watchdog]\nsignal_interval = 2\nheavy_interval = 3600\n[backend.claude]\nbin = "claude"\nstall_idle = 7200\n${agents("a")}`);
    pane = fake.tmux.of("agents-a");
    pane.draw(BOX, fake.wall);
    const run = fake.tmux.run.bind(fake.tmux);
    fake.tmux.run = (args, stdin = "") => ((reads += Number(/^display-message -p '@@\w+ \d+'/.test(stdin))), run(args, stdin));
    await ticks(10);
    reads = 0;
  });

  test("at rest a tick is one tmux client, and the verdict stays", async () => {
    await ticks(20);
    expect([reads, memoryOf(watch, "a").verdict]).toEqual([0, "idle"]);
  });

  test.each<[string, () => void]>([
    ["something is drawn", () => pane.draw(DIALOG, fake.wall)],
    ["its title changes", () => void (pane.title = () => "✳ Another title")],
    ["it is resized", () => void (pane.cols = 120)],
    ["a text waits for it", () => enqueue(watch, "a", "claim", "look")],
    ["the clock is set back, so that a time may come twice", () => void (fake.wall -= 6_000)],
    ["another client is in the pane", () => void Object.assign(pane, { pid: pane.pid + 1 })],
    ["its screen was not understood", () => void (memoryOf(watch, "a").verdict = "unsure")],
    ["the config was read again", () => void (memoryOf(watch, "a").byRules = null)],
  ])("it is read where %s", async (_, change) => {
    change();
    await ticks(1);
    expect(reads).toBe(1);
  });

  test("and once each heavy_interval", async () => {
    cfg.watchdog.heavyInterval = 60;
    await ticks(60);
    expect(reads).toBe(2);
  });

  test("what comes within the second of the last look is seen by the next", async () => {
    fake.wall = Math.floor(fake.wall / 1000) * 1000 + 100;
    pane.draw(`● One.\n\n${BOX}`, fake.wall);
    await ticks(1);
    pane.draw(DIALOG, fake.wall - 1_500); // tmux tells the same second of both
    await ticks(1);
    expect(memoryOf(watch, "a").verdict).toBe("blocked");
  });

  test("a limit and a wait hang on the clock: they are read each time", async () => {
    pane.draw(`● On it.\n  WAITING-UNTIL: ${new Date(fake.wall + 60_000).toISOString()}\n\n${BOX}`, fake.wall);
    await ticks(5);
    expect(memoryOf(watch, "a").verdict).toBe("waiting");
    reads = 0;
    await ticks(26);
    expect([reads, memoryOf(watch, "a").verdict]).toEqual([26, "idle"]);
  });

  test("idleness counts on while nothing is read", async () => {
    cfg.backends.get("claude")!.stallIdle = 60;
    await ticks(40);
    expect(fake.logged("stall: a")).toHaveLength(1);
  });
});

test("a tick that has nothing to do changes nothing but its heartbeat", async () => {
  await begin(agents("a"));
  await ticks(12);
  fake.effects = [];
  await ticks(20);
  expect([...new Set(fake.effects)]).toEqual(["write heartbeat"]);
  expect(memoryOf(watch, "a").verdict).toBe("active");
});

describe("P4: on a real disk", () => {
  const program = JSON.stringify(join(import.meta.dir, "..", "agents.ts"));
  /** A folder, and a script in a process of its own that writes its file `state` by the seam. */
  const withFolder = async (body: (folder: string, script: (text: string) => string[]) => Promise<void>): Promise<void> => {
    const folder = mkdtempSync(join(tmpdir(), "agents-disk-"));
    const script = (text: string) => [process.execPath, "-e", `const { world } = await import(${program}); const path = ${JSON.stringify(join(folder, "state"))};\n${text}`];
    await body(folder, script).finally(() => rmSync(folder, { recursive: true, force: true }));
  };

  test("no room for the whole of it: the old content stays whole, nothing else is left, the next that fits is written", () => withFolder(async (folder, script) => {
    const text = `await world.writeAtomic(path, "old");
      const refused = []; // each names the file that was to be written: a command prints no more of it
      for (const size of [3_000, 70_000]) try { await world.writeAtomic(path, "n".repeat(size)); } catch (error) { refused.push(error.path === path); }
      console.log(...refused, world.read(path));
      await world.writeAtomic(path, "new");
      console.log(world.read(path));`;
    // a file of this process may hold one block and no more: what is written beyond it fails half-way
    const child = Bun.spawn(["sh", "-c", `trap "" XFSZ; ulimit -f 1; exec "$@"`, "sh", ...script(text)], { stdout: "pipe", stderr: "inherit" });
    expect(await new Response(child.stdout).text()).toBe("true true old\nnew\n");
    expect(readdirSync(folder)).toEqual(["state"]);
  }));

  test("kill -9 of a writer, 20 times: one of its contents, whole", () => withFolder(async (folder, script) => {
    for (let nth = 0; nth < 20; nth++) {
      const child = Bun.spawn(script(`for (let i = 0; ; i++) await world.writeAtomic(path, String(i % 10).repeat(200_000 + i % 10));`), { stdio: ["ignore", "ignore", "inherit"] });
      const before = existsSync(join(folder, "state")) ? statSync(join(folder, "state")).ino : 0;
      await until(() => existsSync(join(folder, "state")) && statSync(join(folder, "state")).ino !== before, 8_000, 1);
      await Bun.sleep(Math.random() * 20);
      child.kill("SIGKILL");
      await child.exited;
      const kept = readFileSync(join(folder, "state"), "utf8");
      expect([kept.length, kept]).toEqual([200_000 + Number(kept[0]), kept[0]!.repeat(kept.length)]);
    }
  }), 300_000);
});

test("screens arrive whole wherever the pipe's parts end, and one that was cut off is asked for again", async () => {
  await begin(agents("a", "b", "c"));
  await fake.ticks(cfg, watch, 2);
  const panes = [...(await snapshot(cfg)).panes.values()];
  const screens = new Map(panes.map(({ id, sessionName }) => [id, `${fake.tmux.of(sessionName).screen(fake.wall)}\n`]));
  const real = world.tmux;
  let asked = 0;
  const look = async (cut: (bytes: Buffer) => Buffer): Promise<Map<string, string | null>> => {
    const seen = new Map<string, string | null>();
    asked = 0;
    world.tmux = async (args, stdin, take) => {
      asked += 1;
      const ran = await real(args, stdin);
      for (const byte of take ? cut(Buffer.from(ran.out)) : []) take!(new Uint8Array([byte]));
      return ran;
    };
    await captureAll(cfg, panes, (pane, text) => void seen.set(pane.id, text));
    world.tmux = real;
    return seen;
  };
  expect(panes.length).toBeGreaterThan(1);
  expect([...screens.values()].join("")).toContain("❯");
  expect([await look((bytes) => bytes), asked]).toEqual([screens, 1]);
  // three screens: one came whole, one was cut off, one is missing
  expect([await look((bytes) => bytes.subarray(0, bytes.length >> 1)), asked]).toEqual([screens, 3]);
  expect([await look(() => Buffer.from("")), asked]).toEqual([screens, 4]);
});

test("an agent that has the name of one of the memory's fields is remembered", async () => {
  await begin(agents("still"));
  await fake.ticks(cfg, watch, 2);
  expect((await fake.watch(cfg)).agents.still!.client).toEqual(watch.agents.still!.client);
  expect((await fake.watch(cfg)).agents.still!.client).not.toBeNull();
});

test("fault 44: a screen that tmux does not show is unsure, is no idleness, and is said once", async () => {
  await begin(agents("a"));
  await fake.ticks(cfg, watch, 3);
  expect(memoryOf(watch, "a").verdict).toBe("active");
  const real = world.tmux;
  world.tmux = async (args, stdin, take) =>
    (args[0] === "source-file" ? { ok: false, out: "", err: "no answer in time", timedOut: true } : real(args, stdin, take));
  await fake.ticks(cfg, watch, 40);
  world.tmux = real;
  expect([memoryOf(watch, "a").verdict, memoryOf(watch, "a").sameSince]).toEqual(["unsure", 0]);
  expect(fake.logged("tmux did not show its screen")).toHaveLength(1);
  expect(fake.everyPane).toHaveLength(1);
  await fake.ticks(cfg, watch, 2);
  expect(memoryOf(watch, "a").verdict).toBe("active");
});

describe("a lost socket is not the end of a server", () => {
  const GONE = "error connecting to /tmp/tmux-0/default (No such file or directory)";
  beforeEach(async () => {
    await begin(agents("a", "b"));
    const { pid, start } = fake.tmux.server;
    fake.files.set("/proc/stat", `cpu 1 2 3\nbtime ${start - 1000}\n`);
    fake.stat(pid, 100_000);
  });
  test("while the server lives nobody is ended or started, and it is said once what to do", async () => {
    fake.effects = [];
    fake.tmux.trouble = GONE;
    await ticks(10);
    fake.tmux.trouble = "";
    await ticks(2);
    expect([starts("a"), starts("b"), fake.processes.size]).toEqual([1, 1, 2]);
    expect(fake.effects.filter((what) => /^(signal|tmux (new|kill))/.test(what))).toEqual([]);
    expect(fake.logged(`kill -USR1 ${fake.tmux.server.pid} makes it create the socket again`)).toHaveLength(1);
  });
  test("of a server of another user it is said that only that one can reach it: no signal makes a socket here", async () => {
    for (const [of, uid] of [["self", 1_000], [fake.tmux.server.pid, 0]]) fake.files.set(`/proc/${of}/status`, `Name:\tx\nUid:\t${uid}\t${uid}\n`);
    fake.tmux.trouble = GONE;
    await ticks(2);
    expect([fake.logged("is another user's: run this as that one"), fake.logged("USR1")]).toEqual([[expect.any(String)], []]);
    expect((await command("status", "--config", cfg.path)).out).toMatch(/^! a .* unknown +tmux: the tmux server \(pid \d+\) is another user's/m);
  });
  test("where it lives on for others alone, as after a change of the socket, all come back", async () => {
    fake.tmux.killServer();
    await ticks(3);
    expect([starts("a"), starts("b"), fake.logged("not at this socket")]).toEqual([2, 2, []]);
  });
  test("a client that ended does not live on because its busy server has not collected it yet", async () => {
    fake.stat(process.pid, 1);
    fake.files.set("/proc/self/stat", fake.files.get(`/proc/${process.pid}/stat`)!);
    const ended = [...fake.processes];
    for (const [pid] of ended) fake.stat(pid, pid);
    await ticks(1);
    fake.tmux.killServer();
    for (const [pid, pane] of ended) {
      fake.processes.set(pid, pane);
      fake.stat(pid, pid, "Z");
    }
    await ticks(3);
    expect([starts("a"), starts("b"), fake.logged("not at this socket")]).toEqual([2, 2, []]);
  });
  test("once it is dead all come back", async () => {
    fake.stat(fake.tmux.server.pid, 100_000, "Z");
    fake.tmux.killServer();
    await ticks(3);
    expect([starts("a"), starts("b")]).toEqual([2, 2]);
  });
});

describe("a declared answer goes to the declared dialog alone", () => {
  const ANSWERS = `[[backend.claude.answer]]\nre = "trust the files"\nkeys = ["Enter"]\n${agents("a")}`;
  const dialog = (question: string) => ["", "─".repeat(80), ` ${question}`, " ❯ 1. Yes", "   2. No", "", " Esc to cancel · Tab to amend", ""].join("\n");
  beforeEach(() => begin(ANSWERS));
  test("it is answered", async () => {
    pane().doing = "dialog";
    pane().text = dialog("Do you trust the files in this folder?");
    await ticks(2);
    expect(pane().approved).toBe(1);
  });
  test("an agent that quotes it above another one answers nothing", async () => {
    pane().said = "● The README says: Do you trust the files in this folder?";
    pane().doing = "dialog";
    await ticks(4);
    expect([pane().enters, pane().approved]).toEqual([0, 0]);
  });
  test("another one that stands there by then gets no key", async () => {
    pane().doing = "dialog";
    pane().text = dialog("Do you trust the files in this folder?");
    fake.beforeTmux((_, stdin) => void (closeLook(stdin) && (pane().text = dialog("Do you want to proceed?"))));
    await ticks(4);
    expect([pane().enters, pane().approved]).toEqual([0, 0]);
  });
});

describe("what the operator wants", () => {
  beforeEach(async () => {
    await begin(agents("a", "b"));
    operator({ held: { a: fake.wall } });
    fake.tmux.kill(pane());
    await ticks(2);
  });
  test("a file that cannot be read for a while starts nothing that was taken down", async () => {
    const read = fake.read.bind(fake);
    fake.read = (path) => {
      if (path === file("operator.json")) throw new Error("EIO: i/o error");
      return read(path);
    };
    await ticks(4);
    expect(starts()).toBe(1);
  });
  test.each(["{half", "null", '{"held":null}', '{"queue":{},"released":null,"busy":[1]}', '"x"'])("%s in it stops no care for the others", async (text) => {
    operator(text);
    fake.tmux.exit("agents-b", 1);
    await ticks(3);
    expect([starts("b"), fake.logged("ERROR")]).toEqual([2, []]);
    expect(await operatorOf(cfg)).toEqual({ held: expect.any(Object), busy: expect.any(Object), released: expect.any(Object), queue: expect.any(Array) });
  });
});

describe("the config is read again", () => {
  const live = async (count: number): Promise<void> => {
    for (let nth = 0; nth < count; nth++) {
      cfg = await reloadConfig(cfg, watch);
      await ticks(1);
    }
  };
  test("a new rule is heard at once, also of a screen that does not change", async () => {
    await begin(agents("a"));
    pane().doing = "idle";
    pane().said = "● Shall I deploy (yes/no)";
    await live(3);
    expect(memoryOf(watch, "a").verdict).toBe("idle");
    fake.files.set(cfg.path, `[[backend.claude.rule]]\nverdict = "blocked"\nre = "Shall I deploy"\n${agents("a")}`);
    await live(1);
    expect(memoryOf(watch, "a").verdict).toBe("blocked");
  });
  test.each([
    ["session_prefix", (text: string) => `[defaults]\nsession_prefix = "new-"\n${text}`],
    ["session", (text: string) => text.replace('name = "a"', 'name = "a"\nsession = "new-a"')],
  ])("another %s ends no client, whose unit is known by its mark, and holds from the next start on", async (_, change) => {
    await begin(agents("a"));
    const clients = () => fake.tmux.panes.filter(({ dead, argv }) => !dead && argv.length).map(({ session }) => session);
    const { pid } = pane();
    fake.files.set(cfg.path, change(agents("a")));
    await live(4);
    expect([clients(), pane().pid, memoryOf(watch, "a").life.state]).toEqual([["agents-a"], pid, "up"]);
    const status = await command("status", "--config", cfg.path);
    expect([status.out, status.out.includes("left the config")]).toEqual([expect.stringMatching(/^ {2}a .*working/m), false]);
    fake.tmux.kill(pane());
    await live(4);
    expect(clients()).toEqual(["new-a"]);
  });
  test("nor does it where a watchdog starts with it", async () => {
    await begin(agents("a"));
    const { pid } = pane();
    cfg = await fake.config(`[defaults]\nsession_prefix = "new-"\n${agents("a")}`);
    watch = await fake.watch(cfg);
    await ticks(4);
    expect([pane().pid, pane().dead, fake.everyPane.length, memoryOf(watch, "a").life.state]).toEqual([pid, false, 1, "up"]);
  });
  test("a client of an older version, without the mark, is left there too, and it is said how to move it", async () => {
    await begin(agents("a"));
    delete pane().marks["@agents_unit"];
    cfg = await fake.config(`[defaults]\nsession_prefix = "new-"\n${agents("a")}`);
    watch = await fake.watch(cfg);
    await ticks(4);
    expect([pane().dead, fake.everyPane.length]).toEqual([false, 1]);
    expect(fake.logged("a still runs in the session agents-a, where the config had it before: restart a to move it")).toHaveLength(1);
  });
  test("the log of the watchdog goes with its session", async () => {
    await begin(agents("a"));
    Object.assign(fake.tmux.add("agents-watchdog"), { marks: { "@agents_session": "agents-watchdog", "@agents_home": cfg.stateDir } });
    fake.files.set(cfg.path, `[defaults]\nsession_prefix = "new-"\n${agents("a")}`);
    const left: string[][] = [];
    world.log = (line) => void (line.endsWith("config reloaded") && left.push(fake.tmux.panes.map(({ session }) => session)));
    await live(1);
    // at the time when it is said
    expect(left).toEqual([["agents-a"]]);
  });
  test("a watchdog that a person runs in a session of that name is not ended with it", async () => {
    await begin(agents("a"));
    const { pid } = Object.assign(fake.tmux.add("agents-watchdog"), { command: "agents" });
    fake.files.set("/proc/self/stat", "1 (x) S 1 1 1 1 1");
    fake.files.set(`/proc/${pid}/cmdline`, ["bun", "agents.ts", "watchdog"].join("\0"));
    expect((await snapshot(cfg)).panes.has("agents-watchdog")).toBe(true);
    fake.files.set(cfg.path, `[defaults]\nsession_prefix = "new-"\n${agents("a")}`);
    await live(1);
    expect(fake.tmux.panes.map(({ session }) => session).sort()).toEqual(["agents-a", "agents-watchdog"]);
  });
  test("units that swap their sessions, or take another's, are still who they are", async () => {
    const text = (a: string, b: string) => agents("a", "b").replace('"a"', `"a"\nsession = "${a}"`).replace('"b"', `"b"\nsession = "${b}"`);
    await begin(text("one", "two"));
    fake.files.set(cfg.path, text("two", "one"));
    await live(3);
    watch.outbox.push(message({ target: "a", text: "for a", made: fake.wall }), message({ id: "2", target: "b", text: "for b", made: fake.wall }));
    for (const one of fake.tmux.panes) one.doing = "idle";
    await live(3);
    expect([fake.everyPane.length, fake.received("one"), fake.received("two")]).toEqual([2, ["for a"], ["for b"]]);
    fake.files.set(cfg.path, `${text("three", "two")}[[agent]]\nname = "c"\nbackend = "claude"\nwatch = "heal"\nsession = "one"\n`);
    await live(3);
    expect(fake.everyPane.map(({ session, dead, marks }) => [session, dead, marks["@agents_unit"]])).toEqual([["one", false, "a"], ["two", false, "b"], ["one", false, "c"]]);
  });
  test("what two reads agree on is taken, not what a third one finds", async () => {
    await begin(agents("a"));
    fake.files.set(cfg.path, agents("a", "b"));
    const read = fake.read.bind(fake);
    let reads = 0;
    fake.read = (path) => (path === cfg.path && (reads += 1) > 2 ? agents("c") : read(path));
    cfg = await reloadConfig(cfg, watch);
    expect([[...cfg.agents.keys()], cfg.source]).toEqual([["a", "b"], agents("a", "b")]);
  });
});

test("an old client that is ending is ended also where its agent is watched no more", async () => {
  await begin(agents("a"));
  const old = pane();
  old.ignores = ["SIGHUP"];
  memoryOf(watch, "a").life = { state: "stopping", family: { pid: old.pid, born: "", since: fake.wall }, then: { state: "backoff", until: 0 } };
  fake.tmux.panes.splice(0);
  cfg.agents.get("a")!.watch = "none";
  await ticks(3);
  expect([fake.processes.has(old.pid), [...pendingUnits(cfg, watch)]]).toEqual([false, []]);
});

describe("what must not wait for the next tick", () => {
  const names = (some: Partial<Memory> = {}): string[] => {
    Object.assign(memoryOf(watch, "a"), some);
    return [...pendingUnits(cfg, watch)];
  };
  beforeEach(() => begin(agents("a", "b")));
  test("nobody, while all are at work", () => expect(names()).toEqual([]));
  test("a start that is due before it", () => expect(names({ life: { state: "backoff", until: fake.wall + 10_000 } })).toEqual(["a"]));
  test("not one that is due later", () => expect(names({ life: { state: "backoff", until: fake.wall + 40_000 } })).toEqual([]));
  test("nor one that could not be made for longer than a tick", () => expect(names({ life: { state: "backoff", until: fake.wall - 31_000 } })).toEqual([]));
  test("not one that was made already", () => expect(names({ life: { state: "starting", since: 0 } })).toEqual([]));
  test("not what is parked", () => expect(names({ life: { state: "parked", why: "x", at: 0 } })).toEqual([]));
  test("a client that is ending", () => expect(names({ life: { state: "stopping", family: { pid: 5, born: "1", since: fake.wall }, then: { state: "backoff", until: 0 } } })).toEqual(["a"]));
  test("one that waits for its server", () => expect(names({ life: { state: "waiting", since: fake.mono } })).toEqual(["a"]));
  test("but not for longer than it does, as where it is disabled, or its account is limited, meanwhile", () =>
    expect(names({ life: { state: "waiting", since: fake.mono - 43_000 } })).toEqual([]));
  test("a kickoff, for two minutes", () => {
    enqueue(watch, "b", "boot", "read it");
    expect(names()).toEqual(["b"]);
    fake.turn(121_000);
    expect(names()).toEqual([]);
  });
  test("what waits for a client that was just started", async () => {
    fake.tmux.exit("agents-b", 1);
    memoryOf(watch, "b").life = { state: "backoff", until: fake.wall };
    await quickRound(cfg, watch);
    operator({ queue: [message({ target: "b", made: fake.wall })] });
    await quickRound(cfg, watch);
    expect([starts("b"), watch.outbox[0]!.why, names()]).toEqual([2, "it is starting", ["b"]]);
    pane("b").doing = "idle";
    fake.turn(4_000);
    await quickRound(cfg, watch);
    expect([watch.outbox, names()]).toEqual([[], []]);
  });
  test.each([[0, true], [119_000, true], [121_000, false], [-86_400_000, false]])("a phase move that began %d ms ago, for two minutes: what cannot end goes on with the ticks", (ms, urgent) => {
    watch.intent = { id: "m", from: "p1", to: "p2", run: "", at: fake.wall - ms };
    expect(isUrgent(cfg, watch)).toBe(urgent);
    watch.volatile.fetched = { state: "ok", why: "", cure: "", sha: "", commits: [], inboxes: [] } as unknown as typeof watch.volatile.fetched;
    expect(isUrgent(cfg, watch)).toBe(true); // what was fetched while the round went on
  });
  test("nor a kickoff of a clock that ran ahead", () => {
    enqueue(watch, "b", "boot", "read it");
    fake.wall -= 86_400_000;
    expect(names()).toEqual([]);
  });
});

test.each<[string, (it: Scene) => unknown]>([
  ["while no watchdog runs", (it) => (it.fake.wall -= 365 * 86_400_000, it.again())],
  ["while one does", (it) => void (it.fake.wall -= 365 * 86_400_000)],
])("a clock that is set back %s puts off no word to a person", async (_, setBack) => {
  const it = await scene(agents("a", "b"), { doing: "blank", ticks: 8 });
  for (const name of ["a", "b"]) Object.assign(it.pane(name), { doing: "idle", draft: "a draft" });
  await it.ticks(8);
  for (const name of ["a", "b"]) enqueue(it.watch, name, "claim", "hear this");
  await it.ticks(2);
  it.pane("a").doing = "blank";
  await it.ticks(3);
  const times = () => [memoryOf(it.watch, "a").since, ...it.watch.outbox.map(({ made }) => made), it.watch.outbox.find(({ target }) => target === "b")!.stuck];
  expect(times()).toEqual(Array(4).fill(expect.any(Number)));
  await setBack(it);
  await it.ticks(1);
  const late = times().filter((at) => at! > it.fake.wall);
  expect(late).toEqual([]);
});

test("a config that is broken is an event once, until it is whole again", async () => {
  await begin(agents("a"));
  const broken = () => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event, to }) => event === "config" && to !== "ok").length;
  for (const [text, events] of [["[[agent]\n", 1], [agents("a"), 1], ["name = ", 2]] as const) {
    fake.files.set(cfg.path, text);
    for (let nth = 0; nth < 4; nth++) cfg = await reloadConfig(cfg, watch);
    expect(broken()).toBe(events);
  }
});

test("a clock in an idle screen is no sign of work, other words are", async () => {
  await begin(agents("a"));
  const rule = "─".repeat(80);
  const idle = (status: string) => ["● All done.", "", rule, "❯\u00a0", rule, `  ${status}`].join("\n");
  let second = 0;
  const still = async (words: () => string): Promise<number> => {
    for (let nth = 0; nth < 14; nth++) {
      const [running] = fake.tmux.panes;
      if (running) running.text = idle(words());
      await ticks(1);
    }
    return starts();
  };
  expect(await still(() => `tokens: ${(second += 7)}`)).toBe(2);
  expect(await still(() => `word ${String.fromCharCode(97 + (second += 1) % 26)}`)).toBe(2);
});

describe("an edit of the config", () => {
  const edited = agents("a").replace("claude", "opencode");
  test("is taken though its copy cannot be kept, and it is said once", async () => {
    await begin(agents("a"));
    fake.files.set(cfg.path, edited);
    fake.full = true;
    for (let nth = 0; nth < 5; nth++) cfg = await reloadConfig(cfg, watch);
    expect([cfg.agents.get("a")!.backend, fake.logged("config reloaded").length, fake.logged("ENOSPC").length]).toEqual(["opencode", 1, 1]);
  });
  test("moves no fleet to another log_dir: the rest of it is taken, and how to move is said once", async () => {
    await begin(agents("a"));
    const { logDir, stateDir } = cfg;
    fake.files.set(cfg.path, `[defaults]\nlog_dir = "/elsewhere"\n${edited}`);
    for (let nth = 0; nth < 5; nth++) cfg = await reloadConfig(cfg, watch);
    expect([cfg.logDir, cfg.stateDir, cfg.agents.get("a")!.backend, fake.logged("log_dir stays").length]).toEqual([logDir, stateDir, "opencode", 1]);
    fake.files.set(cfg.path, edited);
    for (let nth = 0; nth < 3; nth++) cfg = await reloadConfig(cfg, watch);
    expect(fake.logged("log_dir: the config names the one in use again")).toHaveLength(1);
  });
  test("leaves a fleet on the tmux server where it runs, and says how to move it", async () => {
    await begin(agents("a"));
    fake.files.set(cfg.path, `[defaults]\ntmux_socket = "other"\n${edited}`);
    for (let nth = 0; nth < 5; nth++) cfg = await reloadConfig(cfg, watch);
    expect([cfg.tmuxSocket, cfg.agents.get("a")!.backend, fake.logged('tmux_socket stays "" while the fleet runs: restore the old value, run "agents down", change it, run "agents up"').length]).toEqual(["", "opencode", 1]);
  });
});

test("a phase that cannot be read is said once", async () => {
  await begin(FLEET);
  fake.files.set(phaseIdxFile(cfg), "99");
  await ticks(15);
  expect(fake.logged("out of range")).toHaveLength(1);
});

describe("whether something hangs", () => {
  test.each([[1, 120_000], [12, 120_000], [30, 300_000]])("at an interval of %p s after %p ms", (interval, wanted) => expect(hungAfter(interval)).toBe(wanted));
  test.each<[number, number, number]>([[1_000, 50, 2_000], [20_000, 50, 30_000], [30_000, 59_999, 30_000], [30_000, 60_000, 2_000]])(
    "after a pause of %p ms and a life of %p ms the next pause is %p ms", (pause, lived, wanted) => expect(pauseAfter(pause, lived)).toBe(wanted));
  test("the time counts from the last change, and not while nobody could look or nobody did", () => {
    const still = stillness();
    const at = (sign: string | null, ms: number): number => (fake.turn(ms), still(sign, 20_000));
    expect([at("a", 0), at("a", 5_000), at("b", 5_000), at("b", 3_000), at(null, 9_000), at("b", 9_000), at("b", 1_000)])
      .toEqual([0, 5_000, 0, 3_000, 0, 0, 1_000]);
    expect([at("b", 10_000), at("b", 10_001), at("b", 10_000)]).toEqual([11_000, 0, 10_000]);
  });
});
