/** What died is started again, by a ladder; what never stays up is parked and said. */
import { beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  accountOf, backendMismatch, cmdUp, type DeathFacts, decideDeath, decideHeal, decideStop, expectedBackendCmd, isReady, memoryOf,
  healOne, isCallOf, isWatchdog, lookAround, ownPanes, parsePane, programOf, save, enqueue, sessionAlive, sessionCommand, type Snapshot,
  parseEvents, phaseIdxFile, snapshot, world, type Life, type Down, storedLife,
} from "../agents.ts";
import { agents, closeLook, command, type FakePane, fakeWorld, FLEET, holdLock, paneOf, realFolder, type Scene, scene, until } from "./kit.ts";
import { rounds } from "./sim.ts";

const TEXT = '[[agent]]\nname = "a"\nbackend = "claude"\nwatch = "heal"\n';
/** What the shell of a launch says where its client is not there. */
const GONE = "agents: claude was not found";
const HOUR = 3600_000;
let { fake, cfg, watch, pane, starts, operator, file } = {} as Scene;
const begin = async (text: string, count = 3): Promise<void> =>
  void ({ fake, cfg, watch, pane, starts, operator, file } = await scene(text, { fake, ticks: count }));
const ticks = (count: number) => fake.ticks(cfg, watch, count);
beforeEach(() => {
  fake = fakeWorld(realFolder());
  fake.tmux.onStart = (one) => void (one.doing = "busy");
  return begin(TEXT, 0);
});

/** A command as tmux's server runs it: with `##` for `#`. */
const inShell = (command: string) => Bun.spawnSync(["sh", "-c", command.replaceAll("##", "#")]);

describe("decideDeath", () => {
  const facts: DeathFacts = { kind: "persistent", status: 1, signal: undefined, lived: 3600_000, failures: 0, starts: 0, blameless: false, missing: "", line: "", ran: false };
  test.each<[string, Partial<DeathFacts>, string, number | undefined]>([
    ["healthy for long: at once", {}, "wait", 0],
    ["the second within the reset", { lived: 20_000, failures: 1 }, "wait", 10],
    ["the third", { lived: 20_000, failures: 2 }, "wait", 20],
    ["the sixth", { lived: 20_000, failures: 5 }, "wait", 160],
    ["the ladder ends at five minutes", { lived: 20_000, failures: 20 }, "wait", 300],
    ["never healthy: not at once", { lived: 1000 }, "wait", 10],
    ["P10: alive for more than restart_reset: anew", { lived: 660_000, failures: 9 }, "wait", 0],
    ["P10: alive for less: it grows", { lived: 540_000, failures: 3 }, "wait", 40],
    ["fault 22: five starts without a healthy minute", { starts: 5 }, "park", undefined],
    ["four are not enough", { starts: 4, lived: 1000, failures: 4 }, "wait", 80],
    ["P11: the program is missing", { status: 127, missing: "claude" }, "park", undefined],
    ["it ran here before: it may be under an update", { status: 127, missing: "claude", lived: 0, failures: 1, starts: 2, ran: true }, "wait", 10],
    ["but not for ever", { status: 127, missing: "claude", lived: 0, starts: 5, ran: true }, "park", undefined],
    ["exit 127 of a client that was found: as any other", { status: 127, lived: 1000 }, "wait", 10],
    ["exit 125: do not restart", { status: 125 }, "park", undefined],
    ["fault 60: a task that ended well is done", { kind: "task", status: 0 }, "finish", undefined],
    ["a task that failed is not", { kind: "task", status: 1 }, "wait", 0],
    ["exit 0 of another kind is a death", { status: 0 }, "wait", 0],
    ["one of many that ended together: no fault of its own", { blameless: true, failures: 7, lived: 20_000 }, "wait", 0],
    ["killed by a signal", { status: null, lived: 20_000, failures: 1 }, "wait", 10],
  ])("%s", (_, some, what, delay) => {
    const action = decideDeath({ ...facts, ...some }, cfg.watchdog);
    expect([action.do, "delay" in action ? action.delay : undefined]).toEqual([what as never, delay]);
    expect(action.why).not.toBe("");
  });
});

describe("decideHeal", () => {
  const now = 1_000_000;
  const ending = (then: Down): Life => ({ state: "stopping", family: { pid: 1, born: "", since: 0 }, then });
  test.each<[string, Life, string]>([
    ["start", { state: "backoff", until: 0 }, "start"],
    ["no longer held", { state: "held" }, "start"],
    ["waiting for its server", { state: "waiting", since: 0 }, "start"],
    ["parked", { state: "parked", why: "x", at: 0 }, "hold"],
    ["done", { state: "done", at: 0 }, "hold"],
    ["fault 26: its old process is still ending", ending({ state: "backoff", until: 0 }), "wait"],
    ["parked, while its old process is still ending", ending({ state: "parked", why: "x", at: 0 }), "hold"],
    ["on the ladder", { state: "backoff", until: now + 1 }, "wait"],
    ["its time has come", { state: "backoff", until: now }, "start"],
  ])("%s", (_, life, wanted) => expect(decideHeal(life, now).do).toBe(wanted as never));
});

test("decideStop: HUP, after 5 s TERM, after 10 s KILL", () =>
  expect([0, 4999, 5000, 9999, 10_000].map(decideStop)).toEqual(["SIGHUP", "SIGHUP", "SIGTERM", "SIGTERM", "SIGKILL"]));

describe("the ladder, over the fake world", () => {
  const secondsAlive = (seconds: number | null) => (pane: FakePane): void => {
    pane.doing = "busy";
    if (seconds === null) return;
    ends.push({ pane, at: fake.mono + seconds * 1000 });
  };
  let ends: { pane: FakePane; at: number }[] = [];
  beforeEach(() => void (ends = []));
  /** Ticks for so many hours; clients end when their time has come. */
  const hours = (count: number) => fake.ticks(cfg, watch, count * 120, () => {
    for (const { pane, at } of ends) if (!pane.dead && fake.mono >= at && fake.tmux.panes.includes(pane)) fake.tmux.exit(pane.session, 1);
  });

  test("P9, fault 22: a client that ends at once: five starts in a day, then parked and said once", async () => {
    fake.tmux.onStart = secondsAlive(0);
    await hours(24);
    expect(starts()).toBe(5);
    expect(storedLife(memoryOf(watch, "a")).parked).toContain("5 starts in 30 min");
    expect(fake.logged("is parked")).toHaveLength(1);
  });
  test("one that is parked by a restart of ours says first what it was restarted for", async () => {
    fake.tmux.onStart = (pane) => void (pane.doing = "fatal");
    await hours(1);
    expect(storedLife(memoryOf(watch, "a")).parked).toMatch(/^(?!\d+ starts).* · 5 starts in 30 min without a healthy minute$/);
  });
  test("P10: one that dies every 9 minutes: the delay grows to 5 minutes", async () => {
    fake.tmux.onStart = secondsAlive(540);
    await hours(24);
    expect(storedLife(memoryOf(watch, "a")).parked).toBe("");
    expect(starts()).toBeLessThan(110);
    expect(fake.logged("restarting in 300 s").length).toBeGreaterThan(50);
  });
  test("P10: one that dies every 11 minutes is started at once each time", async () => {
    fake.tmux.onStart = secondsAlive(660);
    const long = rounds(24, 6);
    await hours(long);
    expect(fake.logged("restarting in")).toHaveLength(0);
    expect(starts()).toBeGreaterThan(long * 115 / 24);
  });
  test("a program that is away while it is updated is there again at a later try; one that stays away is parked with its name", async () => {
    await hours(0.1);
    let away = 2;
    fake.tmux.onStart = (pane) => (away-- > 0 ? fake.tmux.exit(pane.session, 99, GONE) : void (pane.doing = "busy"));
    fake.tmux.exit("agents-a", 1);
    await hours(0.1);
    expect([starts(), storedLife(memoryOf(watch, "a")).parked]).toEqual([4, ""]);
    away = Infinity;
    fake.tmux.exit("agents-a", 1);
    await hours(1);
    expect([starts() - 4, storedLife(memoryOf(watch, "a")).parked]).toEqual([5, "claude not found"]);
  });
  test.each([
    ["does not answer when a pane is to be made", (args: string[]) => args.includes("new-session")],
    ["does not answer when its client is to be started", (args: string[]) => args.includes("respawn-pane")],
    ["does not answer the look before a start", (args: string[]) => args.includes("list-panes")],
  ])("where tmux %s, that is no death of the unit: it is started once tmux answers", async (_, isSlow) => {
    await hours(0.1);
    fake.tmux.exit("agents-a", 1);
    const run = fake.tmux.run.bind(fake.tmux);
    let slow = true;
    fake.tmux.run = (args, stdin) => (slow && isSlow(args) ? (fake.turn(5_000), { ok: false, out: "", err: "no answer in time", timedOut: true }) : run(args, stdin));
    const { failures } = memoryOf(watch, "a");
    await hours(0.5);
    expect([starts(), storedLife(memoryOf(watch, "a")).parked, memoryOf(watch, "a").failures - failures <= 1]).toEqual([1, "", true]);
    slow = false;
    await hours(0.1);
    expect(starts()).toBe(2);
  });
  test("one that dies after an hour of health while no watchdog looks is started at once, as where one looks", async () => {
    await hours(1);
    fake.tmux.exit("agents-a", 1);
    watch = await fake.watch(cfg);
    await fake.ticks(cfg, watch, 1);
    expect([starts(), fake.logged("ended (exit 1)").map((line) => line.replace(/.*restarting/, ""))]).toEqual([2, [""]]);
  });
  test("a first text that could not be stored, as the state disk is full, is no death of its agent", async () => {
    await begin(`${TEXT.replace("claude", "plain")}prompt = "go"\n[backend.plain]\nkind = "typed"\nbin = "tui"\n`, 0);
    fake.folders.add(tmpdir());
    const write = fake.write.bind(fake);
    let full = true;
    fake.write = (path, text) => {
      fake.full = full && path.startsWith(cfg.stateDir);
      write(path, text);
    };
    await hours(1);
    expect([starts(), storedLife(memoryOf(watch, "a")).parked, memoryOf(watch, "a").failures, fake.logged("could not be started")]).toEqual([0, "", 0, []]);
    full = false;
    await hours(0.1);
    expect(starts()).toBe(1);
  });
  test.each([
    [127, "● Ready.\nhook.sh: line 3: jq: command not found\nPane is dead (status 127)", "ended (exit 127: it, or a shell in it, did not find a command): hook.sh: line 3: jq: command not found"],
    [127, "agents: line 1: jq: command not found\n● Ready.", "ended (exit 127: it, or a shell in it, did not find a command): agents: line 1: jq: command not found"],
    [127, "● Ready.", "ended (exit 127: it, or a shell in it, did not find a command)"],
    // a client that shows what a launch says
    [127, GONE, `ended (exit 127: it, or a shell in it, did not find a command): ${GONE}`],
    [99, "hook.sh: line 3: jq: command not found", "ended (exit 99)"],
    [126, "agents: line 5: /opt/claude: Permission denied", "ended (exit 126: it, or a shell in it, could not run a command): agents: line 5: /opt/claude: Permission denied"],
  ])("an exit %d of a client that was found says what is known, and is a death as any other: %j", async (status, said, why) => {
    await hours(0.1);
    fake.tmux.exit("agents-a", status, said);
    await hours(0.01);
    expect([starts(), storedLife(memoryOf(watch, "a")).parked, fake.logged(why).length]).toEqual([2, "", 1]);
    fake.tmux.onStart = (pane) => fake.tmux.exit(pane.session, status, said);
    expect((await command("restart", "a", "--config", cfg.path)).code).toBe(1);
    expect(fake.lines.at(-1)).toContain(` a: its client ended (${why.slice("ended (".length).split(")")[0]})`);
  });
  test("up says where a program stands that was not found: in bin or in preamble", async () => {
    cfg = await fake.config('[backend.c]\nbin = "~/bin/klaude"\npreamble = "nvm use 20"\n[[agent]]\nname = "a"\nbackend = "c"\n');
    for (const [code, said, hint] of [[127, "agents: line 1: nvm: command not found", "nvm was not found; see preamble in [backend.c]"], [99, "agents: /home/x/bin/klaude was not found", "/home/x/bin/klaude was not found; see bin in [backend.c]"]] as const) {
      fake.tmux.onStart = (pane) => fake.tmux.exit(pane.session, code, said);
      expect((await command("restart", "a", "--config", cfg.path)).code).toBe(1);
      expect(fake.lines.at(-1)).toContain(` a: ${hint}`);
    }
  });
  describe("a client that is there, and whose interpreter is not", () => {
    // of a script whose first line names what is not there: dash, busybox's ash, bash 5.2
    test.each(["agents: 7: exec: /opt/own client: not found", "agents: exec: line 7: /opt/own client: not found", "agents: line 7: /opt/own client: cannot execute: required file not found"])("is not said to be missing itself: %s", async (said) => {
      fake.tmux.onStart = (one) => fake.tmux.exit(one.session, 127, `${said}\nPane is dead (status 127)`);
      await hours(1);
      expect([starts(), storedLife(memoryOf(watch, "a")).parked]).toEqual([1, "the interpreter of /opt/own client not found"]);
      expect((await command("restart", "a", "--config", cfg.path)).code).toBe(1);
      expect(fake.lines.at(-1)).toEndWith(" a: the interpreter of /opt/own client was not found; see the first line of that file");
    });
    test("what sh says of a service's exec may mean either", async () => {
      cfg = await fake.config('[[service]]\nname = "s"\ncommand = "exec ./own"\n');
      for (const said of ["agents: 2: exec: ./own: not found", "agents: exec: line 2: ./own: not found"]) {
        fake.tmux.onStart = (one) => fake.tmux.exit(one.session, 127, said);
        expect((await command("restart", "s", "--config", cfg.path)).code).toBe(1);
        expect(fake.lines.at(-1)).toEndWith(` s: ./own was not found in ${fake.home}`);
      }
    });
  });
  test("P11: the program is missing: parked with its name, up releases it", async () => {
    fake.tmux.onStart = (pane) => fake.tmux.exit(pane.session, 99, GONE);
    await hours(1);
    expect([starts(), storedLife(memoryOf(watch, "a")).parked]).toEqual([1, "claude not found"]);
    fake.tmux.onStart = (pane) => void (pane.doing = "busy");
    fake.turn(1000);
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ released: { a: fake.wall } }));
    await hours(1);
    expect([starts(), storedLife(memoryOf(watch, "a")).parked]).toEqual([2, ""]);
  });
  test("parked outlives the watchdog", async () => {
    fake.tmux.onStart = secondsAlive(0);
    await hours(2);
    watch = await fake.watch(cfg);
    await hours(2);
    expect(starts()).toBe(5);
  });
  test("fault 29: what the operator took down stays down, a new watchdog included", async () => {
    await hours(1);
    fake.tmux.exit("agents-a", 0);
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ held: { a: fake.wall } }));
    await hours(1);
    watch = await fake.watch(cfg);
    await hours(1);
    expect(starts()).toBe(1);
    expect((await command("explain", "a", "--config", cfg.path)).out).toContain("next     leaves it down: stopped by you");
  });
});

test("fault 43: a dead pane that remains is not alive", async () => {
  await fake.ticks(cfg, watch, 2);
  fake.tmux.exit("agents-a", 1);
  expect(sessionAlive(await snapshot(cfg), "agents-a")).toBe(false);
  // the program is asked for only where no mark says that the pane is ours
  expect(sessionCommand(await snapshot(cfg), "agents-a")).toBe("");
  await fake.ticks(cfg, watch, 2);
  expect(starts()).toBe(2);
});

test("fault 44: yes, no and unknown are three answers", async () => {
  await fake.ticks(cfg, watch, 2);
  for (const trouble of ["hang", "fork failed: Resource temporarily unavailable"]) {
    fake.tmux.trouble = trouble;
    expect(sessionAlive(await snapshot(cfg), "agents-a")).toBeNull();
    await fake.ticks(cfg, watch, 20);
  }
  fake.tmux.trouble = "";
  await fake.ticks(cfg, watch, 2);
  expect(starts()).toBe(1);
});

test("no server is an answer: nothing runs", async () => {
  fake.tmux.killServer();
  expect(sessionAlive(await snapshot(cfg), "agents-a")).toBe(false);
});

test("fault 26: a process that outlives its session is waited for, told TERM, then KILL", async () => {
  cfg = await fake.config(TEXT.replace('"heal"', '"heal+stall"'));
  fake.tmux.onStart = (pane) => void (pane.doing = "idle");
  await fake.ticks(cfg, watch, 2);
  const old = fake.tmux.of("agents-a");
  old.ignores = ["SIGHUP", "SIGTERM"];
  let both = false;
  await fake.ticks(cfg, watch, 20, () => void (both ||= starts() > 1 && fake.processes.has(old.pid)));
  expect([both, starts() >= 2, fake.processes.has(old.pid)]).toEqual([false, true, false]);
  expect(fake.effects.filter((what) => what.startsWith("signal"))).toContain("signal SIGKILL");
});

test("fault 23: the second fatal error within the window costs the resume id", async () => {
  cfg = await fake.config(`${TEXT}resume = true\n`);
  const id = join(cfg.stateDir, "a.id");
  fake.files.set(id, "old-id");
  fake.tmux.onStart = (pane) => void (pane.doing = "fatal");
  await fake.ticks(cfg, watch, 3);
  expect(fake.everyPane[0]!.argv).toContain("--resume");
  expect(fake.everyPane[1]!.argv).toContain("old-id");
  await fake.ticks(cfg, watch, 3);
  expect(starts()).toBeGreaterThanOrEqual(3);
  expect(fake.everyPane[2]!.argv).not.toContain("old-id");
  expect(fake.everyPane[2]!.argv).toContain("--session-id");
});

test("a fatal error of before a clock was set back does not cost the resume id", async () => {
  cfg = await fake.config(`${TEXT}resume = true\n`);
  fake.files.set(join(cfg.stateDir, "a.id"), "old-id");
  memoryOf(watch, "a").lastFatal = fake.wall + 3_600_000;
  fake.tmux.onStart = (pane) => void (pane.doing = fake.everyPane.length > 1 ? "busy" : "fatal");
  await fake.ticks(cfg, watch, 4);
  expect([starts(), fake.everyPane[1]!.argv.includes("old-id")]).toEqual([2, true]);
});

test("fault 51: the id of a new conversation is known after the launch, and resumed", async () => {
  cfg = await fake.config(`${TEXT}resume = true\n`);
  await fake.ticks(cfg, watch, 3);
  const id = fake.files.get(join(cfg.stateDir, "a.id"))!.trim();
  expect(fake.everyPane[0]!.argv).toContain(id);
  fake.tmux.exit("agents-a", 1);
  await fake.ticks(cfg, watch, 2);
  expect(fake.everyPane[1]!.argv.join(" ")).toContain(`--resume ${id}`);
  expect(fake.everyPane[1]!.argv.join(" ")).toContain("earlier conversation was restored");
});

test("fault 41: a folder that does not exist is said by name, never made", async () => {
  cfg = await fake.config(`${TEXT}dir = "/nowhere/at/all"\n`);
  await fake.ticks(cfg, watch, 3);
  expect(starts()).toBe(0);
  expect(fake.logged("dir /nowhere/at/all does not exist")).not.toBeEmpty();
});

test("what is in the place of its folder is named, and costs it no start", async () => {
  cfg = await fake.config(`${TEXT}dir = "/disk"\n`);
  fake.files.set("/disk", "a file");
  await fake.ticks(cfg, watch, 3);
  expect([starts(), fake.logged("a needs you: dir /disk is not a folder").length]).toEqual([0, 1]);
  expect((await command("status", "--config", cfg.path)).out).toMatch(/^! a .*stopped +no folder \/disk/m);
  fake.files.delete("/disk");
  fake.folders.add("/disk");
  await fake.ticks(cfg, watch, 2);
  expect([starts(), fake.logged("a: nothing is in the way of its start any more").length]).toEqual([1, 1]);
});

test("a folder that is away for an hour is no fault of its agent: said once, not counted, and tried until it is back", async () => {
  cfg = await fake.config(`${TEXT}dir = "/disk"\n`);
  fake.folders.add("/disk");
  await fake.ticks(cfg, watch, 3);
  fake.folders.delete("/disk");
  fake.tmux.exit("agents-a", 1);
  await fake.ticks(cfg, watch, 120);
  const blocked = () => fake.files.get(join(cfg.stateDir, "events.jsonl"))!.split("\n").filter((line) => line.includes('"blocked"'));
  expect([starts(), memoryOf(watch, "a").life.state, blocked().length]).toEqual([1, "backoff", 1]);
  expect(blocked()[0]).toContain("dir /disk does not exist");
  fake.folders.add("/disk");
  await fake.ticks(cfg, watch, 2);
  expect([starts(), memoryOf(watch, "a").restarts.count]).toEqual([2, 1]);
});

test.each<[string, string, boolean]>([
  ["cannot be read, as on a disk whose server is gone,", "ENOTCONN", true],
  ["is on a disk that does not answer", "its disk does not answer", false],
])("a folder that %s is named to people; no other agent is held up, and status and doctor tell", async (_, why, answers) => {
  cfg = await fake.config(`${TEXT}dir = "/disk"\n${TEXT.replace('"a"', '"b"')}`);
  fake.folders.add("/disk");
  await fake.ticks(cfg, watch, 3);
  const { mtime } = world;
  let touched = 0;
  world.answers = async (path) => path !== "/disk" || answers;
  world.mtime = (path) => {
    if (path !== "/disk") return mtime(path);
    touched += 1;
    throw Object.assign(new Error("ENOTCONN: socket is not connected, lstat '/disk'"), { code: "ENOTCONN" });
  };
  const status = () => command("status", "--config", cfg.path);
  expect((await status()).out).toMatch(/^ {2}a .*\n {2}b /m);
  for (const name of ["a", "b"]) fake.tmux.exit(`agents-${name}`, 1);
  await fake.ticks(cfg, watch, 20);
  const blocked = parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === "blocked");
  expect(blocked).toMatchObject([{ agent: "a", why: expect.stringContaining(`dir /disk cannot be read (${why}`) }]);
  expect([fake.logged("ERROR"), memoryOf(watch, "b").life.state]).toEqual([[], "up"]);
  expect(await status()).toMatchObject({ code: 3, out: expect.stringMatching(new RegExp(`^! a .* folder /disk cannot be read \\(${why}`, "m")) });
  expect((await command("doctor", "--config", cfg.path)).out).toMatch(new RegExp(`^fail +dirs: /disk cannot be read \\(${why}`, "m"));
  expect(touched > 0).toBe(answers); // what does not answer is not waited for
  Object.assign(world, { mtime, answers: async () => true });
  await fake.ticks(cfg, watch, 2);
  expect([memoryOf(watch, "a").life.state, memoryOf(watch, "a").restarts.count]).toEqual(["up", 1]);
});

describe("a start that waits for what its unit needs", () => {
  const NEEDY = `[[service]]\nname = "web"\ncommand = "serve"\nready = "8080"\n${TEXT}needs = ["web"]\n`;
  const WHY = "not started: it waits for web, which is not ready";
  const listens = (ok: boolean) => void (fake.http = async () => ({ ok, status: ok ? 200 : 0, body: "" }));
  const blocked = () => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === "blocked").map(({ agent, why }) => `${agent} ${why}`);
  const status = async () => {
    holdLock(fake, cfg.stateDir, fake.tmux.of("agents-web").pid);
    return command("status", "--config", cfg.path);
  };
  beforeEach(() => begin(NEEDY, 0));

  test("is shown as such, and is a person's business once it has lasted for five minutes; each time anew", async () => {
    for (const nth of [1, 2]) {
      listens(false);
      if (nth > 1) fake.tmux.exit("agents-a", 1);
      await ticks(9);
      expect(await status()).toMatchObject({ code: 0, out: expect.stringMatching(/^ {2}a .*(stopped|ended).* waits for web$/m) });
      expect(blocked()).toHaveLength(nth - 1);
      await ticks(5);
      expect(await status()).toMatchObject({ code: 3, out: expect.stringMatching(/^! a .* waits for web$/m) });
      await ticks(50);
      watch = await fake.watch(cfg);
      expect([blocked(), starts(), fake.logged("ERROR")]).toEqual([Array(nth).fill(`a ${WHY}`), nth - 1, []]);
      listens(true);
      await ticks(3);
      expect([starts(), memoryOf(watch, "a").life.state, memoryOf(watch, "a").awaits]).toEqual([nth, "up", undefined]);
      await ticks(30);
    }
  });
  test("alarms nobody while it is a person who took down what it needs", async () => {
    await ticks(3);
    operator({ held: { web: fake.wall } });
    await ticks(60);
    expect([blocked(), (await status()).code, starts()]).toEqual([[], 0, 0]);
  });
});

describe("another backend than the config says", () => {
  const agent = () => cfg.agents.get("a")!;
  test.each<[string, object, boolean]>([
    ["its mark says the same", { backend: "claude", command: "node" }, false],
    ["fault 50: its mark says another, whatever the process is called", { backend: "opencode", command: "node" }, true],
    ["overridden for this run", { backend: "opencode", cause: "override" }, false],
    ["no mark (the original's): its command is another's", { backend: "", command: "opencode" }, true],
    ["no mark: its own command", { backend: "", command: "claude" }, false],
    ["no mark: a shell is none", { backend: "", command: "bash" }, false],
  ])("%s", (_, some, wanted) => expect(backendMismatch(cfg, agent(), paneOf(some))).toBe(wanted));
  test("one look at what is in front of a pane ends nobody", async () => {
    await fake.ticks(cfg, watch, 2);
    const { marks } = fake.tmux.of("agents-a");
    for (const shown of ["opencode", "claude", "opencode", "codex"]) {
      marks["@agents_backend"] = shown;
      await fake.ticks(cfg, watch, 1);
    }
    expect([starts(), fake.logged("the config says")]).toEqual([1, []]);
  });
  test("it is restarted on the right one", async () => {
    await fake.ticks(cfg, watch, 2);
    fake.tmux.of("agents-a").marks["@agents_backend"] = "opencode";
    await fake.ticks(cfg, watch, 3);
    expect(starts()).toBe(2);
  });
  test("expectedBackendCmd and programOf", () => {
    expect(expectedBackendCmd(cfg, agent())).toBe("claude");
    expect(["claude", "A=1 B=2 /opt/x/claude --y", ""].map(programOf)).toEqual(["claude", "/opt/x/claude", ""]);
  });
});

describe("a client that is to be restarted while no other one could be started", () => {
  const CONFIG = `[[service]]\nname = "web"\ncommand = "serve"\nready = "8080"\n[[agent]]\nname = "a"\nbackend = "claude"\nkind = "loop"\nrole = "builder"\nwatch = "heal+stall"\ndir = "/at/a"\nneeds = ["web"]\n${FLEET.slice(FLEET.indexOf("[loop]"), FLEET.indexOf("[loop.handoff]"))}`;
  const listens = (ok: boolean) => void (fake.http = async () => ({ ok, status: ok ? 200 : 0, body: "" }));
  const status = () => command("status", "--config", cfg.path);
  const next = async () => {
    fake.files.set(file("heartbeat"), JSON.stringify({ at: new Date(fake.wall).toISOString(), pid: fake.tmux.of("agents-web").pid }));
    return /^next +(.*)/m.exec((await command("explain", "a", "--config", cfg.path)).out)?.[1];
  };
  const troubles = () => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === "trouble").map(({ agent, to, why }) => [agent, to, why]);
  const due: Record<string, () => void> = {
    "idle for too long": () => void (pane().doing = "idle"),
    "a frozen picture": () => void (pane().frozen = fake.wall),
    "a fatal error": () => void (pane().doing = "fatal"),
    "another backend": () => void (pane().marks["@agents_backend"] = "opencode"),
    "a server that was restarted": () => void (memoryOf(watch, "a").serverDown = true),
  };
  const prevents: Record<string, [spoil: () => void, mend: () => void, why: string]> = {
    "its folder is gone": [() => fake.folders.delete("/at/a"), () => fake.folders.add("/at/a"), "dir /at/a does not exist"],
    "its program is gone": [() => (fake.tmux.shell = () => 99), () => (fake.tmux.shell = () => true), "claude was not found; get it with: npm"],
    "its service is down": [() => listens(false), () => listens(true), "it waits for web, which is not ready"],
    "the phases cannot be read": [() => fake.files.set(phaseIdxFile(cfg), "99"), () => fake.files.set(phaseIdxFile(cfg), "0"), "is out of range"],
  };
  beforeEach(async () => {
    fake.folders.add("/at/a");
    listens(true);
    await begin(CONFIG);
    holdLock(fake, cfg.stateDir, fake.tmux.of("agents-web").pid);
  });

  test.each(Object.keys(due).flatMap((reason) => Object.keys(prevents).map((what) => [reason, what] as const)))("for %s, while %s: it is left at work, which is said once; then it is restarted", async (reason, what) => {
    const [spoil, mend, why] = prevents[what]!;
    const { pid } = pane();
    spoil();
    due[reason]!();
    await ticks(40);
    expect([starts(), pane().pid, pane().dead, memoryOf(watch, "a").failures]).toEqual([1, pid, false, 0]);
    expect(fake.logged(/a needs you: not restarted: .*/).map((line) => line.includes(why))).toEqual([true]);
    expect(troubles().filter(([agent]) => agent)).toEqual([["a", undefined, expect.stringMatching(/^a needs you: not restarted: .*, for 5 min$/)]]);
    expect([fake.logged("restarting"), fake.logged("FATAL")]).toEqual([[], []]);
    expect(await status()).toMatchObject({ code: 3, out: expect.stringMatching(/^! a .*not restarted: /m) });
    expect(await next()).toMatch(/^leaves it alone: (?!not restarted)/);
    mend();
    await ticks(6);
    expect([starts(), fake.logged("a: nothing is in the way of its restart any more, or none is due").length]).toEqual([2, 1]);
    expect(memoryOf(watch, "a").hindered).toBeUndefined();
  });
  test("while a person has taken down what it needs: it is left at work, and nobody is told", async () => {
    operator({ held: { web: fake.wall } });
    fake.tmux.kill(pane("web"));
    due["a fatal error"]!();
    await ticks(40);
    expect([starts("a"), pane("a").dead, fake.logged("needs you"), troubles()]).toEqual([1, false, [], []]);
    expect((await status()).out).toMatch(/^  a .*not restarted: it waits for web/m);
    operator({ held: {} });
    await ticks(6);
    expect(starts("a")).toBe(2);
  });
  test("nothing hinders one that works again, and what could not be looked at says nothing", async () => {
    fake.tmux.shell = () => 99;
    pane().doing = "fatal";
    await ticks(2);
    fake.tmux.trouble = "hang";
    await ticks(2);
    expect(memoryOf(watch, "a").hindered).toStartWith("claude was not found");
    fake.tmux.trouble = "";
    pane().doing = "busy";
    await ticks(2);
    expect(fake.logged("a: nothing is in the way of its restart any more, or none is due")).toHaveLength(1);
    expect([memoryOf(watch, "a").hindered, starts(), (await status()).out]).toEqual([undefined, 1, expect.stringMatching(/^ {2}a .*working/m)]);
  });
  test.each([["takes too long", 137], ["is ended by its preamble", 1], ["ends as that does not find a program", 127]])("a look for its program that %s keeps nobody from a restart", async (_, code) => {
    fake.tmux.shell = () => code;
    pane().doing = "fatal";
    await ticks(4);
    expect(starts()).toBe(2);
  });
  test.each(["another backend", "a fatal error"])("for %s, while it would have to wait for a usage limit: it stays until that is over", async (reason) => {
    const { key, name } = accountOf(cfg, cfg.agents.get("a")!);
    watch.accounts = { [key]: { name, class: "weekly", resetAt: fake.wall + HOUR, asker: "", askedAt: 0, liftedAt: 0 } as never };
    due[reason]!();
    await ticks(10);
    expect([starts(), pane().dead, memoryOf(watch, "a").hindered]).toEqual([1, false, undefined]);
    if (reason === "a fatal error") expect(await next()).toMatch(/^leaves it alone: claude \(default\): weekly limit until /);
    watch.accounts = {};
    await ticks(10);
    expect([starts(), pane().dead]).toEqual([2, false]);
  });
});

test("the program of a start is looked for as its pane would: in its folder, with its variables, and by its preamble only where it is not found without", async () => {
  const [dir, bin] = [realFolder(), realFolder()];
  const noted = join(dir, "noted");
  await Bun.write(join(bin, "klaude"), "#!/bin/sh\n");
  chmodSync(join(bin, "klaude"), 0o755);
  fake.folders.add(dir);
  fake.tmux.shell = (command) => inShell(command).exitCode;
  const restarted = async (client: string, agent = ""): Promise<[boolean, string | undefined]> => {
    await begin(`[backend.c]\nkind = "claude"\n${client}\n[[agent]]\nname = "a"\nbackend = "c"\nwatch = "heal"\ndir = "${dir}"\n${agent}`);
    const before = starts();
    pane().doing = "fatal";
    await ticks(3);
    const { hindered } = memoryOf(watch, "a");
    fake.tmux.kill(pane());
    return [starts() > before, hindered];
  };
  const see = "; see bin in [backend.c]";
  expect(await restarted('bin = "klaude"')).toEqual([false, `klaude was not found${see}`]);
  expect(await restarted('bin = "./klaude"')).toEqual([false, `./klaude was not found in ${dir}${see}`]);
  expect(await restarted('bin = "klaude"', `env = { PATH = "${bin}" }\n`)).toEqual([true, undefined]);
  expect(await restarted('bin = "sleep"', `env = { PATH = "${bin}" }\n`)).toEqual([false, `sleep was not found${see}`]);
  expect(await restarted(`bin = "A=1 klaude --x # it's"\npreamble = "PATH=${bin}:$PATH; echo $AGENTS_UNIT >> ${noted}"`)).toEqual([true, undefined]);
  // as what its pane starts: what it leaves in the background ends with its client
  expect(readFileSync(noted, "utf8")).toMatch(new RegExp(`^${cfg.room}/a/\\w+\n$`));
  expect(await restarted(`bin = "klaude"\npreamble = "set -e; klaude() { :; }"`)).toEqual([true, undefined]);
  expect(await restarted(`bin = "klaude"\npreamble = "set -e; PATH=/nowhere:$PATH"`)).toEqual([false, `klaude was not found${see}`]);
  const before = readFileSync(noted, "utf8");
  expect(await restarted(`bin = "sh"\npreamble = "echo >> ${noted}"`)).toEqual([true, undefined]);
  expect(readFileSync(noted, "utf8")).toBe(before);
});

describe("services", () => {
  beforeEach(async () => {
    cfg = await fake.config(`${TEXT}needs = ["web"]\n[[service]]\nname = "web"\ncommand = "serve"\nready = "8080"\n`);
    watch = await fake.watch(cfg);
  });
  test("fault 31: an agent waits until the service that it needs is ready", async () => {
    let open = false;
    fake.http = async () => ({ ok: open, status: 0, body: "" });
    await fake.ticks(cfg, watch, 5);
    expect([starts("web"), starts()]).toEqual([1, 0]);
    open = true;
    await fake.ticks(cfg, watch, 2);
    expect(starts()).toBe(1);
  });
  test("fault 32: a service that died is healed", async () => {
    await fake.ticks(cfg, watch, 2);
    fake.tmux.exit("agents-web", 1);
    await fake.ticks(cfg, watch, 3);
    expect(starts("web")).toBe(2);
  });
  test.each(["as it dies", "while a person restarts it"])("one whose program is away for its update %s is started again, also by another watchdog; one that was never there is parked", async (when) => {
    fake.http = async () => ({ ok: true, status: 0, body: "" });
    await fake.ticks(cfg, watch, 4);
    let away = 2;
    fake.tmux.onStart = (pane) => void (pane.session === "agents-web" && away-- > 0 && fake.tmux.exit(pane.session, 127, "agents: line 2: serve: command not found"));
    if (when === "as it dies") fake.tmux.exit("agents-web", 1);
    else {
      fake.tmux.kill(fake.tmux.of("agents-web"));
      fake.tmux.exit(fake.tmux.add("agents-web").session, 127, "agents: line 2: serve: command not found");
      Object.assign(fake.tmux.of("agents-web").marks, { "@agents_session": "agents-web", "@agents_home": cfg.stateDir });
    }
    await save(cfg, watch);
    watch = await fake.watch(cfg);
    await fake.ticks(cfg, watch, 8);
    expect([memoryOf(watch, "web").life.state, away]).toEqual(["up", -1]);
    cfg = await fake.config(`${TEXT}[[service]]\nname = "web2"\ncommand = "nobody"\n`);
    fake.tmux.onStart = (pane) => fake.tmux.exit(pane.session, 127, "agents: line 2: nobody: command not found");
    await fake.ticks(cfg, watch, 8);
    expect([storedLife(memoryOf(watch, "web2")).parked, starts("web2")]).toEqual(["nobody not found", 1]);
  });
  test("one that a person took down has not died: nothing is said, no step up the ladder, and up starts it at once", async () => {
    await fake.ticks(cfg, watch, 2);
    const orders = (some: object) => void fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ held: {}, busy: {}, released: {}, queue: [], ...some }));
    orders({ held: { web: fake.wall } });
    fake.tmux.exit("agents-web", 1);
    await fake.ticks(cfg, watch, 3);
    expect([starts("web"), memoryOf(watch, "web").failures, fake.logged("web (agents-web)")]).toEqual([1, 0, []]);
    expect(memoryOf(watch, "web").why).toBe("stopped by you");
    orders({ released: { web: fake.wall } });
    await fake.ticks(cfg, watch, 1);
    expect(starts("web")).toBe(2);
  });
  test("one that a command works on is not called stopped by a person, and is left to that", async () => {
    await fake.ticks(cfg, watch, 2);
    const before = memoryOf(watch, "web").verdict;
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ held: {}, busy: { web: fake.wall + 60_000 }, released: {}, queue: [] }));
    fake.tmux.exit("agents-web", 1);
    await fake.ticks(cfg, watch, 1);
    expect([memoryOf(watch, "web").why, memoryOf(watch, "web").verdict, starts("web")]).toEqual(["", before, 1]);
    fake.turn(61_000);
    await fake.ticks(cfg, watch, 2);
    expect(starts("web")).toBe(2);
  });
  test("ready is a port, an address, a command, or a living session", async () => {
    await fake.ticks(cfg, watch, 2);
    const asked: string[] = [];
    fake.http = async ({ method, url }) => (asked.push(`${method} ${url}`), { ok: true, status: 200, body: "" });
    fake.tmux.shell = (command) => inShell(command).exitCode === 0;
    const web = cfg.services.get("web")!;
    const snap = await snapshot(cfg);
    expect(await isReady(cfg, web, snap)).toBe(true);
    expect(await isReady(cfg, { ...web, ready: "http://x/health" }, snap)).toBe(true);
    expect(await isReady(cfg, { ...web, ready: "test 'o k' = \"$(echo o k)\" # it is" }, snap)).toBe(true);
    expect(await isReady(cfg, { ...web, ready: "test -e no" }, snap)).toBe(false);
    expect(await isReady(cfg, { ...web, ready: "" }, snap)).toBe(true);
    expect(await isReady(cfg, { ...web, session: "agents-none" }, snap as Snapshot)).toBe(false);
    expect(asked).toEqual(["CONNECT tcp://127.0.0.1:8080", "GET http://x/health"]);
    for (const [status, ready] of [[302, true], [401, true], [0, false], [404, false], [503, false]] as const) {
      fake.http = async () => ({ ok: false, status, body: "" });
      expect([status, await isReady(cfg, { ...web, ready: "http://x/health" }, snap)]).toEqual([status, ready]);
    }
  });
});

test("fault 60: a task that ended well is not started again", async () => {
  cfg = await fake.config(`${TEXT}kind = "task"\nprompt = "x"\n`);
  await fake.ticks(cfg, watch, 3);
  fake.tmux.exit("agents-a", 0);
  await fake.ticks(cfg, watch, 100);
  expect(starts()).toBe(1);
});

test("an agent whose screen tmux does not show at that moment is not ended", async () => {
  await begin(agents("a"));
  pane().doing = "idle";
  const run = fake.tmux.run.bind(fake.tmux);
  fake.tmux.run = (args, stdin = "") => closeLook(stdin) ? { ok: false, out: "", err: "no answer", timedOut: true } : run(args, stdin);
  await ticks(60);
  expect([starts(), pane().dead, fake.logged("stall:")]).toEqual([1, false, []]);
  fake.tmux.run = run;
  await ticks(4);
  expect(starts()).toBe(2);
});

test("a ready command that hangs is ended before the next one, with all that it started", async () => {
  await begin(`[[service]]\nname = "web"\ncommand = "serve"\n`);
  const file = join(realFolder(), "pids");
  const web = { ...cfg.services.get("web")!, ready: `sleep 30 & echo $! $$ > '${file}'; sleep 31; true` };
  fake.tmux.shell = (command) => inShell(command).exitCode === 0;
  expect(await isReady(cfg, web, await snapshot(cfg))).toBe(false);
  const pids = readFileSync(file, "utf8").trim().split(" ").map(Number);
  expect(pids).toHaveLength(2);
  const runs = (pid: number) => /^[^Z]/.test(Bun.spawnSync(["ps", "-o", "stat=", "-p", `${pid}`]).stdout.toString().trim());
  await until(() => !pids.some(runs));
});

describe("a client that is ended while tmux does not close its pane", () => {
  /** `late`: the pane goes when tmux goes on, as a stopped one carries the words of a client that was killed. */
  const ended = async (err: string, ignores: string[], late: boolean): Promise<void> => {
    await begin(`${agents("a")}resume = true\n`, 6);
    fake.files.set(join(cfg.stateDir, "a.id"), "old-id");
    const old = pane();
    Object.assign(old, { doing: "fatal", ignores });
    const { tmux } = world;
    let silent = 0;
    world.tmux = async (args, ...rest) => {
      if (args[0] !== "if-shell" || silent) return tmux(args, ...rest);
      silent += 1;
      if (late) queueMicrotask(() => fake.tmux.kill(old));
      return { ok: false, out: "", err, timedOut: err === "no answer in time" };
    };
    await fake.ticks(cfg, watch, 6);
    expect(silent).toBe(1);
  };
  const down = () => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === "down" || event === "fatal").map(({ event }) => event);
  test.each([
    ["no answer in time", [], false], ["no answer in time", [], true], ["server exited unexpectedly", [], false],
    ["no answer in time", ["SIGHUP"], false], ["no answer in time", ["SIGHUP", "SIGTERM"], false], ["no answer in time", ["SIGHUP"], true],
  ] as [string, string[], boolean][])("%s, it ignores %p, closed late: %p: it dies once, and counts once", async (err, ignores, late) => {
    await ended(err, ignores, late);
    expect([down(), memoryOf(watch, "a").failures, starts(), fake.everyPane[1]!.argv.includes("old-id")]).toEqual([["fatal", "down"], 1, 2, true]);
  });
});

test("a client whose session was gone before anybody saw it goes up the ladder too", async () => {
  fake.tmux.onStart = (one) => queueMicrotask(() => fake.tmux.kill(one));
  await begin(agents("a"), 60);
  expect([starts(), storedLife(memoryOf(watch, "a")).parked]).toEqual([5, expect.stringContaining("5 starts")]);
});

describe("fault 10: the agent's own pane is the one that was marked", () => {
  const panes = (...list: [id: string, sessionName: string, session: string][]) =>
    ownPanes(list.map(([id, sessionName, session]) => paneOf({ id, sessionName, sessionId: `$${sessionName}`, session })));
  test("whatever else is open, older ones too", () =>
    expect(panes(["%3", "a", ""], ["%4", "a", "a"], ["%5", "a", ""]).get("a")!.id).toBe("%4"));
  test("also in a session that was renamed", () => expect(panes(["%4", "renamed", "a"]).get("a")!.id).toBe("%4"));
  test("a session's name makes nothing ours", () => expect(panes(["%12", "a", ""], ["%9", "a", ""])).toEqual(new Map()));
  test("a text goes to that pane, not to a person's", async () => {
    await fake.ticks(cfg, watch, 2);
    const own = fake.tmux.of("agents-a");
    const other = fake.tmux.add("agents-a");
    enqueue(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch, 2);
    expect([own.received, other.received, other.draft]).toEqual([["hear this"], [], ""]);
  });
});

test("who was to end, but never got the word, is not ended hours later", async () => {
  await fake.ticks(cfg, watch, 2);
  const pane = fake.tmux.of("agents-a");
  memoryOf(watch, "a").life = { state: "stopping", family: { pid: pane.pid, born: "", since: fake.wall - 3 * 3600_000 }, then: { state: "backoff", until: 0 } };
  await fake.ticks(cfg, watch, 20);
  expect([starts(), storedLife(memoryOf(watch, "a")).stopping, fake.processes.has(pane.pid)]).toEqual([1, null, true]);
});

describe("what is ended is the client that was meant", () => {
  test("a stranger that was given the number of a client that ended is not touched", async () => {
    fake.tmux.onStart = (one) => fake.stat(one.pid, 111);
    await begin(agents("a"));
    const old = pane();
    fake.tmux.exit("agents-a", 1);
    fake.processes.set(old.pid, old);
    old.ignores = ["SIGHUP"]; // which is tmux's, and goes to the pane's terminal
    fake.stat(old.pid, 222);
    fake.effects = [];
    await ticks(4);
    expect([starts(), fake.processes.has(old.pid), fake.effects.filter((what) => what.startsWith("signal"))]).toEqual([2, true, []]);
  });
  test("what was taken down and outlives its session is ended by the watchdog", async () => {
    await begin(agents("a"));
    const old = pane();
    old.ignores = ["SIGHUP", "SIGTERM"];
    operator({ held: { a: fake.wall } });
    fake.tmux.kill(old);
    await ticks(3);
    expect([starts(), fake.processes.has(old.pid)]).toEqual([1, false]);
  });
  test("up ends a client that outlived its session before it starts another", async () => {
    await begin(agents("a"));
    const old = pane();
    old.ignores = ["SIGHUP", "SIGTERM"];
    fake.tmux.kill(old);
    let both = false;
    fake.tmux.onStart = () => void (both ||= fake.processes.has(old.pid));
    expect([await cmdUp({ path: cfg.path, words: ["a"], options: {} }), starts(), both]).toEqual([0, 2, false]);
  });
});

describe("what a command works on is left alone, for as long as it may", () => {
  beforeEach(async () => {
    await begin(agents("a"));
    fake.tmux.exit("agents-a", 1);
  });
  test("it is started after that, without a word from anybody", async () => {
    operator({ busy: { a: fake.wall + 60_000 } });
    await ticks(2);
    expect(starts()).toBe(1);
    await ticks(2);
    expect(starts()).toBe(2);
  });
  test("a time that only a wrong clock can have told holds nothing", async () => {
    operator({ busy: { a: fake.wall + 10 * HOUR } });
    await ticks(2);
    expect(starts()).toBe(2);
  });
});

test("what is taken down between the look and the start is not started", async () => {
  await begin(agents("a", "b"));
  fake.tmux.exit("agents-a", 1);
  fake.beforeTmux((args) => void (args[0] === "source-file" && operator({ held: { a: 1 } })));
  await ticks(3);
  expect(starts()).toBe(1);
});

test("agents that nobody watches are no part of a mass death: the ladder holds for the others", async () => {
  await begin(["u", "v", "w"].map((name) => agents(name).replace("heal+stall", "none")).join("") + agents("a"), 0);
  for (const name of ["u", "v", "w"]) fake.tmux.add(`agents-${name}`).doing = "busy";
  await ticks(5);
  for (const name of ["u", "v", "w"]) fake.tmux.exit(`agents-${name}`);
  await ticks(2);
  fake.tmux.onStart = (one) => fake.tmux.exit(one.session, 1);
  fake.tmux.exit("agents-a", 1);
  await ticks(120);
  expect([fake.logged("died at once"), storedLife(memoryOf(watch, "a")).parked]).toEqual([[], expect.stringContaining("5 starts")]);
});

test("services that a person stopped together are no mass death", async () => {
  const names = ["u", "v", "w"];
  await begin(names.map((name) => `[[service]]\nname = "${name}"\ncommand = "serve"\n`).join(""), 0);
  await ticks(40);
  operator({ held: Object.fromEntries(names.map((name) => [name, 1])) });
  for (const name of names) fake.tmux.exit(`agents-${name}`);
  await ticks(2);
  expect(fake.logged("died at once")).toEqual([]);
});

test("a start that finds the unit running is no start", async () => {
  await begin(agents("a"));
  await ticks(30);
  const { count } = memoryOf(watch, "a").restarts;
  fake.tmux.exit("agents-a", 1);
  let other = true; // somebody is faster
  fake.beforeTmux((args) => {
    if (args[0] !== "new-session" || !other) return;
    other = false;
    Object.assign(fake.tmux.add("agents-a"), { marks: { "@agents_session": "agents-a", "@agents_backend": "claude", "@agents_home": cfg.stateDir } });
  });
  await ticks(4);
  expect([other, memoryOf(watch, "a").life.state, memoryOf(watch, "a").starts, memoryOf(watch, "a").restarts.count]).toEqual([false, "up", [], count]);
});

describe("an agent that is at work by the moment of its end is not ended", () => {
  test.each<["idle" | "fatal", number]>([["idle", 60], ["fatal", 3]])("%s before", async (doing, count) => {
    await begin(agents("a"));
    pane().doing = doing;
    fake.beforeTmux((_, stdin) => void (closeLook(stdin) && (pane().doing = "busy")));
    await ticks(count);
    expect([starts(), pane().dead, pane().doing]).toEqual([1, false, "busy"]);
    expect(fake.logged(/stall:|FATAL/)).toEqual([]);
  });
});

describe("times that are not of this client, or of no clock", () => {
  test("another client in the same session has not been idle for as long as the old one", async () => {
    await begin(agents("a"));
    pane().doing = "idle";
    const idleFor = cfg.backends.get("claude")!.stallIdle / 30;
    await ticks(idleFor - 2);
    const old = pane();
    expect(starts()).toBe(1);
    fake.tmux.kill(old);
    const next = fake.tmux.add("agents-a");
    Object.assign(next, { doing: "idle", marks: { ...old.marks, "@agents_pid": next.pid } });
    await ticks(idleFor - 2);
    expect([starts(), fake.logged("stall:")]).toEqual([2, []]);
    await ticks(6);
    expect(starts()).toBe(3);
  });
  test("a pause that is longer than any is over", async () => {
    await begin(agents("a"));
    const of = (until: number) => decideHeal({ state: "backoff", until }, fake.wall, 300_000).do;
    expect([of(fake.wall + 300_000), of(fake.wall + 10 * 8766 * HOUR), of(fake.wall)]).toEqual(["wait", "start", "start"]);
    fake.tmux.exit("agents-a", 1);
    memoryOf(watch, "a").life = { state: "backoff", until: fake.wall + 10 * 8766 * HOUR };
    memoryOf(watch, "a").buried = `${watch.server} ${pane().id}`;
    await save(cfg, watch);
    watch = await fake.watch(cfg);
    await ticks(2);
    expect(starts()).toBe(2);
  });
  test("up releases what was parked by a clock that ran ahead", async () => {
    await begin(agents("a"));
    fake.tmux.exit("agents-a", 1);
    memoryOf(watch, "a").life = { state: "parked", why: "x", at: fake.wall + HOUR };
    operator({ released: { a: fake.wall } });
    await ticks(2);
    expect([storedLife(memoryOf(watch, "a")).parked, starts()]).toEqual(["", 2]);
  });
  test("who is held or rests has no start before it, for which to look", async () => {
    await begin(FLEET);
    for (const name of ["builder", "orchestrator"]) memoryOf(watch, name).life = { state: "backoff", until: fake.wall + 1000 };
    watch.intent = { id: "m", from: "p1", to: "p2", run: "", at: fake.wall };
    pane("adversary").ignores = ["SIGHUP", "SIGTERM"];
    operator({ held: { orchestrator: 1 } });
    await ticks(1);
    expect([storedLife(memoryOf(watch, "builder")).nextStart, storedLife(memoryOf(watch, "orchestrator")).nextStart]).toEqual([0, 0]);
  });
});

describe("what is ours is known by its pane and its processes, not by a name", () => {
  const ROW = ["$1", "%2", "3", "0", "", "", "1", "0", "10", "20", "80x24", "a", "claude", "p1", "", "", "opus", "/home", "fleet", "room", "a", "3", "7 8", "mine", "", "a title"];
  test("a row of the list is believed as a whole or not at all", () => {
    expect(parsePane(ROW.join("\t"))).toMatchObject({ id: "%2", sessionName: "mine", session: "a", unit: "a", model: "opus", room: "room", created: 10_000, server: "7 8", title: "a title" });
    const broken = [ROW.slice(1), [...ROW, "more"], ROW.with(24, "two\nlines"), ROW.with(24, "\x1b[2J"), ROW.with(1, "2"), ROW.with(2, "x")];
    expect(broken.map((row) => parsePane(row.join("\t")))).toEqual(broken.map(() => null));
  });
  test("a row that cannot be read costs itself, and is said once", async () => {
    await begin(TEXT);
    const odd = fake.tmux.add("agents-a");
    odd.command = ["x\n$1", "%1", ...ROW.slice(2)].join("\t");
    await fake.ticks(cfg, watch, 3);
    expect([(await snapshot(cfg)).refused, starts(), fake.logged("break tmux's list").length]).toEqual([1, 2, 1]);
  });
  test("what a hook prints behind the list, or fails to do at a start, is no word on our panes", async () => {
    const run = fake.tmux.run.bind(fake.tmux);
    fake.tmux.run = (args, stdin) => {
      const ran = run(args, stdin);
      if (args.includes("list-panes")) return { ...ran, out: `${ran.out}a hook\n` };
      return args.includes("rename-session") ? { ...ran, ok: false, err: "/no/such/file: No such file or directory" } : ran;
    };
    await begin(TEXT);
    await fake.ticks(cfg, watch, 3);
    expect([(await snapshot(cfg)).refused, starts(), fake.logged("could not be started")]).toEqual([0, 1, []]);
  });
  test.each<[string, string[], string[], boolean]>([
    ["the program", ["claude"], ["/opt/claude", "--resume"], true],
    ["behind an interpreter", ["/x/claude"], ["node", "/usr/lib/claude", "--resume"], true],
    ["an interpreter alone is no client", ["node", "claude.js"], ["node", "other.js"], false],
    ["an interpreter with all its words", ["node", "claude.js"], ["/usr/bin/node", "claude.js", "--resume"], true],
    ["a shell", ["claude"], ["-bash"], false],
    ["named as an argument", ["claude"], ["vim", "claude"], false],
    ["nothing", [], [""], false],
  ])("%s", (_, words, argv, wanted) => expect(isCallOf(words, argv)).toBe(wanted));
  test.each<[string[], boolean]>([
    [["python3", "/x/agents.py", "watchdog", "--config", "x"], true], [["bun", "--config=/dev/null", "agents.ts", "watchdog"], true],
    [["agents", "watchdog"], true], [["vim", "agents.py"], false], [["sleep", "1000"], false], [["tail", "-F", "t-watchdog.log"], false],
  ])("a watchdog: %p is %p", (argv, wanted) => expect(isWatchdog(argv)).toBe(wanted));
  test("a pane whose end would end somebody's session is pinned", () => {
    const own = (...others: Parameters<typeof paneOf>[]) => ownPanes([
      paneOf({ id: "%1", session: "a", sessionName: "a", sessionId: "$1", room: "r" }), ...others.map((one) => paneOf(...one))], "r").get("a")!.pinned === true;
    const linked = { id: "%1", session: "a", sessionName: "person", sessionId: "$2" };
    expect([own(), own([linked]), own([linked], [{ id: "%2", sessionName: "person", sessionId: "$2" }]), own([{ ...linked, room: "r" }])])
      .toEqual([false, true, false, false]);
  });
  test("a shell under an agent's name is left alone, and needs a person once", async () => {
    await begin(TEXT, 0);
    const shell = Object.assign(fake.tmux.add("agents-a"), { command: "bash" });
    await fake.ticks(cfg, watch, 20);
    expect([starts(), fake.tmux.panes, shell.received, shell.keys]).toEqual([1, [shell], [], []]);
    expect(fake.logged("needs you: the session agents-a was not made by this fleet")).toHaveLength(1);
    fake.tmux.kill(shell);
    await fake.ticks(cfg, watch, 3);
    expect([starts(), memoryOf(watch, "a").failures]).toEqual([2, 0]);
  });
  test("a session of the original with a client in it is taken over", async () => {
    await begin(TEXT, 0);
    fake.tmux.add("agents-a");
    await fake.ticks(cfg, watch, 5);
    expect([starts(), sessionAlive(await snapshot(cfg), "agents-a")]).toEqual([1, true]);
  });
});

test("the tmux server restarted counts as no fault of anybody, also where a small round comes first", async () => {
  await begin(agents("a", "b"));
  fake.turn(120_000);
  await fake.ticks(cfg, watch, 2);
  fake.tmux.killServer();
  // a small round for one of them: it is healed, the other waits for the next tick
  await lookAround(cfg, watch, new Set(["a"]));
  await healOne(cfg, watch, cfg.agents.get("a")!, (await lookAround(cfg, watch, new Set(["a"]))).get("a")!);
  await fake.ticks(cfg, watch, 2);
  expect([starts("a"), starts("b"), memoryOf(watch, "a").failures, memoryOf(watch, "b").failures]).toEqual([2, 2, 0, 0]);
  expect(fake.logged(/b .*died together with others/)).toHaveLength(1);
});

test.each([0, 1, -1, 1.5])("a damaged memory that says to end process %p ends nothing", async (pid) => {
  await begin(agents("a"));
  const asked: number[] = [];
  const { signal } = world;
  world.signal = (target, name) => (asked.push(target), signal(target, name));
  fake.tmux.exit("agents-a", 1);
  memoryOf(watch, "a").life = { state: "stopping", family: { pid, born: "", since: 0 }, then: { state: "backoff", until: 0 } };
  memoryOf(watch, "a").client = { pid, born: "" };
  await fake.ticks(cfg, watch, 5);
  expect([asked.filter((one) => Math.abs(one) < 2), starts()]).toEqual([[], 2]);
  fake.restore();
  expect(world.signal(pid, 0)).toBe(false);
});
