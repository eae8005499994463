/** What a person ordered last holds, whatever is under way; every order can be read afterwards. */
import { beforeEach, describe, expect, test } from "bun:test";
import { closeSync, mkdirSync } from "node:fs";
import { flock, log, memoryOf, save, storedLife, world } from "../agents.ts";
import { agents, command, fakeWorld, holdLock, message, realFolder, type Scene, scene, together } from "./kit.ts";
import { real, until } from "./real.ts";

describe("orders", () => {
  let { fake, cfg, watch, file, operator, starts, ticks } = {} as Scene;
  beforeEach(async () => {
    fake = fakeWorld(realFolder());
    fake.tmux.onStart = (one) => void (one.doing = "busy");
  });
  const begin = async (names: string[], count = 0) =>
    void ({ fake, cfg, watch, file, operator, starts, ticks } = await scene(agents(...names), { fake, ticks: count }));
  const call = (...words: string[]) => command(...words, "--config", cfg.path);
  const wanted = () => JSON.parse(fake.files.get(file("operator.json"))!);
  const down = (...names: string[]) => operator({ ...wanted(), held: Object.fromEntries(names.map((name) => [name, fake.wall])) });
  const orders = () => fake.files.get(file("events.jsonl"))!.split("\n").filter(Boolean).map((line) => JSON.parse(line)).filter(({ event }) => event === "order");

  test("orders that a change of log_dir has left behind are named, until the fleet has a memory there", async () => {
    await begin(["a", "b"], 3);
    // beside the one that waits, what was given up, what is delivered, and none of them twice
    const [waiting, givenUp, delivered] = ["w1", "g1", "d1"].map((id) => message({ id, target: "a" }));
    operator({ held: { b: fake.wall, gone: 1 }, busy: {}, released: {}, queue: [waiting, { ...givenUp, expires: 0 }, delivered] });
    Object.assign(watch, { outbox: [waiting], taken: ["w1", "d1"], delivered: ["d1"] });
    await save(cfg, watch);
    for (const pane of [...fake.tmux.panes]) fake.tmux.kill(pane);
    const old = cfg.stateDir;
    const moved = await fake.config(`[defaults]\nlog_dir = "logs"\n${agents("a", "b")}`);
    expect((await call("up", "a")).code).toBe(0);
    expect(fake.logged("orders remain in")).toEqual([expect.stringContaining(`orders remain in ${old}: keep b down, 1 message to send; if log_dir was changed, move its files to ${moved.stateDir}`)]);
    fake.files.set(`${moved.stateDir}/watch.json`, "{}");
    expect((await call("up", "a")).code).toBe(0);
    expect(fake.logged("orders remain in")).toHaveLength(1);
  });
  test("a folder beside ours that may not be entered stops nothing", async () => {
    await begin(["a"], 3);
    for (const pane of [...fake.tmux.panes]) fake.tmux.kill(pane);
    await fake.config(`[defaults]\nlog_dir = "logs"\n${agents("a")}`);
    const { mtime } = world;
    world.mtime = (path) => {
      if (path.endsWith("/.agents/state/operator.json")) throw Object.assign(new Error("EACCES: permission denied"), { code: "EACCES" });
      return mtime(path);
    };
    expect((await call("up", "a")).code).toBe(0);
    expect(starts("a")).toBe(2);
  });
  test("a fleet beside ours that is looked after has its own orders", async () => {
    await begin(["a"], 3);
    operator({ held: { a: fake.wall }, busy: {}, released: {}, queue: [] });
    holdLock(fake, cfg.stateDir, fake.tmux.add("x").pid);
    await fake.config(`[defaults]\nlog_dir = "logs"\nsession_prefix = "b-"\n${agents("a")}`);
    await call("up", "a");
    expect(fake.logged("orders remain in")).toEqual([]);
  });
  test("a watchdog that has its lock and could not write its pid is running", async () => {
    await begin(["a"], 3);
    holdLock(fake, cfg.stateDir, fake.tmux.add("x").pid);
    fake.files.delete(file("watchdog.lock.pid"));
    expect((await call("up", "watchdog")).code).toBe(0);
    expect(fake.logged("watchdog already running")).toHaveLength(1);
  });
  test("nothing is started or ended in a log_dir whose watchdog runs another config; one that was renamed is the same", async () => {
    await begin(["a"], 3);
    const { pid } = fake.tmux.add("x");
    holdLock(fake, cfg.stateDir, pid);
    const runs = (path: string) => void fake.files.set(`/proc/${pid}/cmdline`, ["bun", "agents.ts", "watchdog", "--kept", "--config", path].join("\0"));
    const other = `${fake.home}/other.toml`;
    fake.files.set(other, cfg.source);
    runs(other);
    for (const words of [["up"], ["up", "a"], ["down"], ["down", "a"], ["down", "--orphans"], ["restart", "a"], ["send", "a", "hear"], ["phase", "next"], ["phase", "set", "p1"]]) {
      expect(await call(...words)).toMatchObject({ code: 1, err: expect.stringContaining(`${cfg.logDir} is in use by the fleet of ${other} (pid ${pid}): give ${cfg.path} a log_dir of its own, or end that one: agents down --config ${other}`) });
    }
    expect([starts("a"), fake.processes.has(pid), fake.files.has(file("operator.json"))]).toEqual([1, true, false]);
    fake.files.delete(other);
    expect((await call("down", "a")).code).toBe(0);
    runs(cfg.path);
    expect((await call("up", "a")).code).toBe(0);
  });
  test("an order that another command holds up names its pid, where one is written", async () => {
    await begin(["a"], 3);
    mkdirSync(cfg.stateDir, { recursive: true });
    const lock = flock(file("operator.lock"));
    const said = async (pid: string) => {
      fake.files.set(file("operator.lock.pid"), pid);
      const began = fake.mono;
      expect((await call("down", "a")).code).toBe(1);
      expect(fake.mono - began).toBeWithin(30_000, 40_000);
      return /could not save the down order \(\S+ (.*)\);/.exec(fake.logged("could not save").at(-1)!)![1];
    };
    expect([await said(`${fake.tmux.add("x").pid} `), await said("")]).toEqual(
      [expect.stringMatching(/^is held by another command \(pid \d+\)$/), "is held by another command"]);
    closeSync(lock!);
  });
  test("under another session_prefix up ends nothing that runs, and restart moves it", async () => {
    await begin(["a"], 3);
    const { pid } = fake.tmux.of("agents-a");
    await fake.config(`[defaults]\nsession_prefix = "new-"\n${agents("a")}`);
    expect([(await call("up", "a")).code, fake.everyPane.length, fake.processes.has(pid)]).toEqual([0, 1, true]);
    expect(fake.logged("agents-a already running, leaving it")).toHaveLength(1);
    expect([(await call("restart", "a")).code, fake.processes.has(pid), fake.everyPane.at(-1)!.session]).toEqual([0, false, "new-a"]);
  });
  test("up starts nothing that was taken down meanwhile, and says so", async () => {
    await begin(["a", "b", "c"]);
    fake.beforeTmux((args) => {
      if (args.includes("respawn-pane") && starts("a") === 0) down("b", "c");
    });
    expect([(await call("up", "a", "b", "c")).code, starts("a"), starts("b"), starts("c")]).toEqual([1, 1, 0, 0]);
    expect(fake.logged(/: not started: "agents down" was run after this/)).toHaveLength(2);
  });
  test("up says with which words a client ended at once, exit 1", async () => {
    await begin(["a"]);
    fake.tmux.onStart = (one) => {
      one.doing = "idle";
      fake.tmux.exit(one.session, 4);
    };
    const { code } = await call("up", "a");
    expect([code, fake.lines.findLast((line) => line.includes("ended"))]).toEqual([1, expect.stringMatching(/ a: its client ended \(exit 4\):\n.*\] {5}● Ready\.\n/)]);
  });
  test("up waits a whole second to see whether a client ends at once, for up_wait at most", async () => {
    const up = async (wait: number) => {
      fake = fakeWorld(realFolder());
      fake.turn(1_900 - (fake.wall % 1_000)); // a start late in a second of the clock
      void ({ fake, cfg } = await scene(`[watchdog]\nup_wait = ${wait}\n${agents("a")}`, { fake, ticks: 0 }));
      let ends = Infinity;
      fake.tmux.onStart = (one) => void ([one.doing, ends] = ["idle", fake.mono + 700]);
      const { sleep } = world;
      world.sleep = async (ms) => {
        await sleep(ms);
        if (fake.mono >= ends) [ends] = [Infinity, fake.tmux.exit("agents-a", 4)];
      };
      return (await call("up", "a")).code;
    };
    expect([await up(60), await up(0.2)]).toEqual([1, 0]);
  });
  test("up asks tmux again once its clients have run for a second, or one has ended", async () => {
    const looks = async (exits: number) => {
      fake = fakeWorld(realFolder());
      await begin(["a", "b"]);
      let [looked, ends] = [0, Infinity];
      fake.tmux.onStart = (one) => void ([one.doing, ends] = ["idle", fake.mono + exits]);
      fake.beforeTmux((args) => void (looked += Number(ends < Infinity && args[0] === "list-panes")));
      const { sleep } = world;
      world.sleep = async (ms) => {
        await sleep(ms);
        if (fake.mono >= ends) fake.tmux.exit("agents-a", 4);
      };
      return [(await call("up", "a", "b")).code, looked];
    };
    // as they start, and for what has left the config; in between as often as there is news
    expect([await looks(60_000), await looks(700)]).toEqual([[0, 3], [1, 4]]);
  });
  test("up looks ten times a second whether its clients run, and lets others work meanwhile", async () => {
    await begin(["a"]);
    const pauses: number[] = [];
    let resting = false;
    world.sleep = async (ms) => {
      fake.turn(ms);
      if (!starts("a")) return;
      pauses.push(ms);
      resting = true;
      await new Promise(setImmediate);
      resting = false;
    };
    fake.beforeTmux(() => expect(resting).toBe(false));
    expect([(await call("up", "a")).code, new Set(pauses), pauses.length]).toEqual([0, new Set([100]), 10]);
  });
  test("up waits for what an agent needs, and starts it as soon as that answers", async () => {
    const text = `[[service]]\nname = "db"\ncommand = "x"\nready = "5432"\n${agents("a")}needs = ["db"]\n`;
    void ({ fake, cfg, watch, file, operator, starts, ticks } = await scene(text, { fake, ticks: 0 }));
    const began = fake.mono;
    fake.http = async () => ({ ok: fake.mono - began >= 3_000, status: 0, body: "" });
    let at = 0;
    fake.tmux.onStart = (one) => {
      one.doing = "idle";
      if (one.session === "agents-a") at = fake.mono - began;
    };
    expect([(await call("up", "db", "a")).code, starts("a"), at >= 3_000 && at < 4_000]).toEqual([0, 1, true]);
  });
  const TASKS = '[[service]]\nname = "db"\ncommand = "x"\nready = "5432"\n' + `${agents("n1", "n2", "n3", "n4", "n5", "n6", "n7")}`.replaceAll("[[agent]]", '[[agent]]\nneeds = ["db"]') +
    `${agents("t")}kind = "task"\nprompt = "x"\n`;
  test("however long up waits for what others need, a task that comes later stays in its hands, and no longer than it is at work", async () => {
    void ({ fake, cfg, watch, file, operator, starts, ticks } = await scene(TASKS, { fake, ticks: 0 }));
    const { sleep } = world;
    const lapsed: number[] = [];
    world.sleep = async (ms) => {
      await sleep(ms);
      if (!starts("t") && !(wanted().busy.t > fake.wall)) lapsed.push(fake.mono);
    };
    const began = fake.mono;
    expect([(await call("up")).code, starts("t"), lapsed]).toEqual([1, 1, []]);
    expect([fake.mono - began > 60_000, wanted().busy]).toEqual([true, {}]);
  });
  test("marks that cannot be renewed, as on a full disk, keep up from nothing", async () => {
    void ({ fake, cfg, watch, file, operator, starts, ticks } = await scene(TASKS, { fake, ticks: 0 }));
    const { sleep, writeAtomic } = world;
    let full = false;
    world.sleep = async (ms) => void (full = (await sleep(ms), true));
    world.writeAtomic = async (path, text) => {
      if (full && path === file("operator.json")) throw new Error("ENOSPC");
      return writeAtomic(path, text);
    };
    expect([(await call("up", "n*", "t")).code, starts("t"), fake.logged("t: ")]).toEqual([1, 1, []]);
  });
  test.each<[string, number, (out: Scene) => unknown]>([
    ["it ran when up began, and has ended since", 3, () => fake.tmux.exit("agents-t", 0)],
    ["its watchdog took over from an up that was stopped for a while", 0, ({ fake, cfg }) => {
      holdLock(fake, cfg.stateDir, fake.tmux.add("x").pid);
      fake.turn(61_000); // in which it started the task, which has ended
    }],
  ])("up starts no task a second time: %s", async (_, count, meanwhile) => {
    const it = await scene(TASKS, { fake, ticks: count });
    void ({ fake, cfg, watch, file, operator, starts, ticks } = it);
    const before = starts("t");
    const { sleep } = world;
    let done = false;
    world.sleep = async (ms) => {
      await sleep(ms);
      if (!done) meanwhile(it);
      done = true;
    };
    await call("up", "n1", "t");
    expect([done, starts("t") - before]).toEqual([true, 0]);
  });
  test("of the processes of others, of which a machine may have a thousand, a command asks no more than it must", async () => {
    await begin(["a", "b"]);
    fake.stat(7_000, 1);
    for (const [path, text] of Object.entries({ "/proc/self/stat": fake.files.get("/proc/7000/stat")!, "/proc/7000/cmdline": "sh\0", "/proc/7000/environ": "HOME=/\0" })) fake.files.set(path, text);
    const { read } = world;
    const asked = async (...words: string[]) => {
      const files: Record<string, number> = {};
      world.read = (path) => {
        const [, file] = /^\/proc\/7000\/(.*)$/.exec(path) ?? [];
        if (file) files[file] = (files[file] ?? 0) + 1;
        return read(path);
      };
      await call(...words);
      return files;
    };
    // in which tmux server the fleet is; and whether it has the mark of one of the agents
    expect(await asked("up", "a", "b")).toEqual({ environ: 2 });
    expect(await asked("up", "a", "b")).toEqual({ environ: 1 });
    // the server; orphans; members before and after the end; watchdogs; background sessions, by mark and by folder
    expect(await asked("down")).toEqual({ environ: 6, stat: 2, cmdline: 2 });
  });
  test.each(["server exited unexpectedly", "lost server"])("down: %s, as it ends with its last session, is no answer: it is asked once more", async (err) => {
    await begin(["a"], 3);
    const { tmux } = world;
    let ended = 0;
    world.tmux = (args, ...rest) => args[0] !== "list-panes" || fake.tmux.panes.length || ended++
      ? tmux(args, ...rest) : Promise.resolve({ ok: false, out: "", err, timedOut: false });
    expect((await call("down")).code).toBe(0);
    expect([ended > 1, fake.logged("does not show whether anything runs")]).toEqual([true, []]);
  });
  test("up of twenty shows on a terminal how far it is, one column narrower than that, in place of a line for each; of fewer, or in a pipe, those lines", async () => {
    const up = async (count: number, terminal: boolean) => {
      fake = fakeWorld(realFolder());
      fake.tmux.onStart = (one) => {
        one.doing = "busy";
        if (one.session === "agents-a12") log("what else there is to say");
      };
      await begin(Array.from({ length: count }, (_, nth) => `a${nth + 10}`));
      world.errorWidth = () => (terminal ? 46 : Infinity);
      const { code, err } = await call("up", "a*");
      const drawn = err.split("\r").filter(Boolean);
      return { code, drawn: drawn.filter((one, nth) => one !== drawn[nth - 1]), lines: fake.logged("starting agents-a").length, others: fake.logged("what else").length };
    };
    const shown = Array.from({ length: 21 }, (_, nth) => `${nth}/20 [${"█".repeat(Math.round(1.5 * nth)).padEnd(30, "·")}] ${nth < 20 ? `a${nth + 10}` : "running"}`);
    const bars = shown.map((bar) => (bar.endsWith("running") ? expect.stringMatching(/^20\/20 \[█{30}\] runni…$/) : bar.padEnd(45)));
    expect(await up(20, true)).toEqual({ code: 0, drawn: [...bars.slice(0, 3), " ".repeat(45), ...bars.slice(2), "\n"], lines: 0, others: 1 });
    expect(await up(20, false)).toEqual({ code: 0, drawn: [], lines: 20, others: 1 });
    expect(await up(19, true)).toEqual({ code: 0, drawn: [], lines: 19, others: 1 });
  });
  test("down names the other fleet whose session has the name of what it should end, which may be ours: exit 3", async () => {
    await begin(["a"]);
    Object.assign(fake.tmux.add("agents-a"), { marks: { "@agents_session": "agents-a", "@agents_home": "/other/.agents/state" } });
    expect((await call("down", "a")).code).toBe(3);
    expect(fake.logged(" a: the session agents-a belongs to the fleet of /other/.agents")).toHaveLength(1);
  });
  test("down names a daemon of Codex that keeps the home of one of its agents, and no other", async () => {
    const codex = (home: string) => `[[agent]]\nname = "c"\nbackend = "codex"\nenv = { CODEX_HOME = "${home}" }\n`;
    for (const pid of [process.pid, 88]) fake.stat(pid, 5);
    for (const [path, text] of Object.entries({ "self/stat": fake.files.get("/proc/88/stat")!, "88/cmdline": "codex\0app-server\0", "88/environ": "CODEX_HOME=/home/codex\0" })) fake.files.set(`/proc/${path}`, text);
    const named = async (text: string) => {
      fake.lines.length = 0;
      void ({ fake, cfg, watch, file, operator, starts, ticks } = await scene(text, { fake, ticks: 0 }));
      await call("down");
      return fake.logged("left running: Codex's daemon").length;
    };
    expect([await named(codex("/home/codex")), await named(codex("/home/other")), await named(`${agents("a")}env = { CODEX_HOME = "/home/codex" }\n`),
      await named(`${codex("/home/codex")}[backend.codex]\nbin = "/opt/cx"\n`)]).toEqual([1, 0, 0, 1]);
  });
  test.each([true, false])("down names a background session of Claude Code in a folder of its agents, where the disk with that session's file answers (%p)", async (answers) => {
    await begin(["a"]);
    for (const pid of [process.pid, 88]) fake.stat(pid, 5);
    const session = JSON.stringify({ pid: 88, sessionId: "x", cwd: cfg.agents.get("a")!.dir, status: "idle", kind: "bg", procStart: "5" });
    for (const [path, text] of Object.entries({ "/proc/self/stat": fake.files.get("/proc/88/stat")!, "/proc/88/cmdline": "claude\0", "/proc/88/environ": "CLAUDE_CONFIG_DIR=/away\0", "/away/sessions/88.json": session })) fake.files.set(path, text);
    world.answers = async (path) => answers || !path.startsWith("/away");
    await call("down");
    expect(fake.logged("left running: Claude Code's background session").length).toBe(Number(answers));
  });
  test("down looks at all processes as often for nine agents as for two", async () => {
    const looks: number[] = [];
    for (const count of [2, 9]) {
      fake = fakeWorld(realFolder());
      fake.stat(process.pid, 5);
      fake.files.set("/proc/self/stat", fake.files.get(`/proc/${process.pid}/stat`)!);
      await begin(Array.from({ length: count }, (_, nth) => `a${nth}`), 2);
      const { list } = world;
      let asked = 0;
      world.list = (path) => (asked += Number(path === "/proc"), list(path));
      expect((await call("down")).code).toBe(0);
      looks.push(asked);
    }
    expect([looks[0]! > 0, looks[1]]).toEqual([true, looks[0]!]);
  });
  test("down waits for a client that minds no hang-up: SIGTERM after five seconds ends it", async () => {
    await begin(["a"], 2);
    const { pid } = fake.everyPane[0]!;
    for (const one of [process.pid, pid]) fake.stat(one, 5);
    fake.files.set("/proc/self/stat", fake.files.get(`/proc/${process.pid}/stat`)!);
    const [{ signal }, began, sent] = [world, fake.mono, [] as unknown[]];
    world.signal = (to, name) => {
      if (to === pid && name !== 0) sent.push([name, Math.round((fake.mono - began) / 1000)]);
      if (to === pid && name === "SIGTERM") fake.files.delete(`/proc/${pid}/stat`);
      return signal(to, name);
    };
    expect([(await call("down", "a")).code, sent]).toEqual([0, [["SIGTERM", 5]]]);
  });
  test.each([1, 5])("a restart of %d has its mark at once, for a minute, which goes when it is done", async (count) => {
    const names = ["a", "b", "c", "d", "e"].slice(0, count);
    ({ fake, cfg, file, starts } = await scene(`[watchdog]\nstart_batch = 2\n${agents(...names)}`, { fake }));
    const began = { wall: fake.wall, mono: fake.mono };
    const marks: unknown[] = [];
    const { writeAtomic } = world;
    world.writeAtomic = (path, text) => (path === file("operator.json") && marks.push(JSON.parse(text).busy), writeAtomic(path, text));
    expect([(await call("restart", ...names)).code, starts("a")]).toEqual([0, 2]);
    expect(fake.mono - began.mono).toBeLessThan(20_000); // a pause of a second before each batch
    expect([marks[0], marks.at(-1)]).toEqual([Object.fromEntries(names.map((name) => [name, began.wall + 60_000])), {}]);
  });
  test("a restart leaves the session that shows the watchdog's log, and does not complain of a tmux that answers", async () => {
    await begin(["a"], 3);
    Object.assign(fake.tmux.add("agents-watchdog"), { marks: { "@agents_session": "agents-watchdog", "@agents_home": cfg.stateDir } });
    expect([(await call("restart", "a")).code, starts("a"), fake.tmux.panes.map(({ session }) => session).sort()]).toEqual([0, 2, ["agents-a", "agents-watchdog"]]);
    expect(fake.logged("tmux: ")).toEqual([]);
  });
  test("up does not wait for a client that is ordered down meanwhile", async () => {
    await begin(["a", "b"]);
    const began = fake.mono;
    const { sleep } = world;
    world.sleep = async (ms) => {
      if (starts("b")) down("b");
      for (const pane of fake.tmux.panes.filter(({ session }) => session === "agents-b")) fake.tmux.kill(pane);
      await sleep(ms);
    };
    const { code } = await call("up", "a", "b");
    expect([code, fake.logged('b: not started: "agents down" was run after this').length, fake.mono - began]).toEqual([1, 1, 1_000]);
  });
  test("a tmux server of another version is told of before anything is started", async () => {
    await begin(["a"]);
    const { tmux } = world;
    for (const why of ["protocol version mismatch (client 8, server 7)", "server version is too old for client"]) {
      world.tmux = async (args, ...more) => (args.includes("show-options") ? { ok: false, out: "", err: why, timedOut: false } : tmux(args, ...more));
      expect(await call("up", "a")).toMatchObject({ code: 1, err: expect.stringContaining(`are not compatible (${why})`) });
    }
    expect(starts("a")).toBe(0);
  });
  test("restart takes no later down back", async () => {
    await begin(["a"], 3);
    fake.beforeTmux((args) => {
      if (args.some((word) => word.includes("kill-pane"))) down("a");
    });
    expect([(await call("restart", "a")).code, starts("a"), Object.keys(wanted().held), wanted().busy]).toEqual([1, 1, ["a"], {}]);
  });
  test("a start whose kickoff could not be stored was none: it counts for nothing, and is made once it can be", async () => {
    fake.tmux.onStart = (one) => void (one.doing = "idle");
    let full = true;
    const write = fake.write.bind(fake);
    fake.write = (path, text) => {
      if (full && path.includes("kickoff-")) throw new Error("ENOSPC");
      write(path, text);
    };
    await begin(["a"], 12);
    expect([starts("a"), memoryOf(watch, "a").failures, fake.logged("could not be started"), fake.logged("ENOSPC").length]).toEqual([0, 0, [], 1]);
    full = false;
    await ticks(2);
    expect(starts("a")).toBe(1);
  });
  test("the watchdog starts nothing that was taken down while it prepared the start, and counts none", async () => {
    await begin(["a"], 3);
    operator({ held: {}, busy: {}, released: {}, queue: [] });
    fake.tmux.exit("agents-a", 1);
    const write = fake.write.bind(fake);
    fake.write = (path, text) => {
      if (path.includes("kickoff-")) down("a");
      write(path, text);
    };
    await ticks(6);
    expect([starts("a"), storedLife(memoryOf(watch, "a")).parked, memoryOf(watch, "a").restarts.count]).toEqual([1, "", 0]);
  });
  test("down leaves alone what a later up has taken back", async () => {
    await begin(["a", "b"], 3);
    mkdirSync(cfg.logDir, { recursive: true });
    fake.beforeTmux((args) => {
      if (args.includes("list-panes") && fake.files.has(file("operator.json")) && wanted().held.a) down("b");
    });
    expect((await call("down", "a", "b")).code).toBe(0);
    expect(fake.tmux.panes.map(({ session }) => session)).toEqual(["agents-a"]);
  });
  test.each([
    ["of another container", "0", "2 / / rw - overlay other rw\n"], ["of another user", "1000", "1 / / rw - ext4 disk rw\n"],
  ])("down ends no watchdog %s whose config has the same path", async (_, user, mounts) => {
    await begin(["a"], 3);
    mkdirSync(cfg.logDir, { recursive: true });
    const process = (pid: number | string, uid: string, mountinfo: string) => Object.entries({ status: `Name:\tbun\nUid:\t${uid}\t${uid}\n`, mountinfo })
      .forEach(([name, text]) => fake.files.set(`/proc/${pid}/${name}`, text));
    process("self", "0", "1 / / rw - ext4 disk rw\n");
    const watchdog = (pid: number, uid: string, mountinfo: string) => {
      process(pid, uid, mountinfo);
      fake.files.set(`/proc/${pid}/cmdline`, ["bun", "agents.ts", "watchdog", "--kept", "--config", cfg.path, ""].join("\0"));
    };
    watchdog(70_001, user, mounts);
    watchdog(70_002, "0", "1 / / rw - ext4 disk rw\n");
    const got: number[] = [];
    const { signal } = world;
    world.signal = (pid, name) => {
      if (pid <= 70_000) return signal(pid, name);
      if (name !== 0) got.push(pid);
      [...fake.files.keys()].filter((path) => path.startsWith(`/proc/${pid}/`)).forEach((path) => fake.files.delete(path));
      return true;
    };
    expect((await call("down", "watchdog")).code).toBe(0);
    expect(got).toEqual([70_002]);
  });
  test("40 texts at once all arrive in the queue", async () => {
    await begin(["a"]);
    const codes = await together(fake, Array.from({ length: 40 }, (_, nth) => () => call("send", "a", `text ${nth}`, "--queue").then(({ code }) => code)));
    expect([...new Set(codes), wanted().queue.length]).toEqual([0, 40]);
    expect(new Set(wanted().queue.map(({ text }: { text: string }) => text)).size).toBe(40);
  });
  test("an order has the orders for itself until they are stored", async () => {
    await begin(["a"]);
    const { writeAtomic } = world;
    const alone: boolean[] = [];
    world.writeAtomic = async (path, text) => {
      await Promise.resolve();
      if (path === file("operator.json")) alone.push(flock(file("operator.lock")) === null);
      return writeAtomic(path, text);
    };
    expect([(await call("send", "a", "text", "--queue")).code, alone]).toEqual([0, [true]]);
  });
  test("every order leaves an event and a line in the watchdog's log", async () => {
    await begin(["a", "b"], 3);
    await call("send", "a", "text", "--queue");
    await call("restart", "a");
    await call("up", "b");
    expect(orders()).toEqual([["send", ["a"]], ["restart", ["a"]], ["up", ["b"]]].map(([word, names]) =>
      expect.objectContaining({ by: "operator", command: word, names })));
    const log = fake.files.get(`${cfg.logDir}/agents-watchdog.log`)!;
    expect(log.match(/order: (send a|restart a|up b) \(by operator\)/g)).toHaveLength(3);
    // the end of what left the config is not the end of all
    await call("down", "--orphans");
    expect(orders().at(-1)).toMatchObject({ command: "down --orphans", names: [] });
    expect(fake.files.get(`${cfg.logDir}/agents-watchdog.log`)).toEndWith(" order: down --orphans (by operator)\n");
  });
  test("what was taken down while the config did not name it stays down where it names it again", async () => {
    await begin(["a", "b", "c"], 3);
    const only = await fake.config(agents("a"));
    await fake.ticks(only, watch, 2);
    expect((await call("down", "b")).code).toBe(0);
    expect((await call("down", "--orphans")).code).toBe(0);
    await fake.config(agents("a", "b", "c"));
    await fake.ticks(cfg, watch, 3);
    expect([starts("a"), starts("b"), starts("c"), memoryOf(watch, "b").life.state]).toEqual([1, 1, 1, "held"]);
    await call("up", "b");
    expect(starts("b")).toBe(2);
  });
  test("whether there are orphans is said by tmux, or not at all", async () => {
    await begin(["a"], 3);
    fake.beforeTmux((args) => void (args.includes("list-panes") && (fake.tmux.trouble = "error connecting")));
    const { code, err } = await call("down", "--orphans");
    expect([code, err, fake.logged("no orphans")]).toEqual([1, expect.stringContaining("tmux: error connecting"), []]);
  });
  test("that there are no orphans is said to who asks for them, where there are none", async () => {
    await begin(["a", "b"], 3);
    await call("down", "b");
    await fake.config(agents("b"));
    await call("down", "--orphans");
    expect([fake.logged("ending agents-a").length, fake.logged("no orphans")]).toEqual([1, []]);
    await call("down", "--orphans");
    expect(fake.logged("no orphans: every client that runs is in the config")).toHaveLength(1);
  });
  /** Right before the first call of a member of the world of which `when` is true, `act` is done by another process. */
  const meanwhile = (member: "tmux" | "writeAtomic", when: (call: string) => boolean, act: () => Promise<unknown>) => {
    const [{ [member]: before }, { pid }] = [world, process];
    for (const one of [4242, pid]) fake.stat(one, 7);
    fake.files.set("/proc/self/stat", fake.files.get("/proc/4242/stat")!);
    let due = true;
    const hooked = async (...args: Parameters<typeof before>) => {
      if (due && when(`${args[0]}`)) {
        due = false;
        Object.defineProperty(process, "pid", { value: 4242 });
        await act().finally(() => Object.defineProperty(process, "pid", { value: pid }));
      }
      return (before as (...words: unknown[]) => unknown)(...args);
    };
    Object.assign(world, { [member]: hooked });
  };
  const isOrdered = (): boolean => fake.files.has(file("operator.json")) && wanted().released.a > 0;
  const moments = {
    "between its order and its start": ["tmux", isOrdered],
    "before it lets go of it": ["writeAtomic", (path: string) => path === file("operator.json") && starts("a") === 2],
    "once it has let go of it": ["tmux", () => starts("a") === 2 && !wanted().busy.a],
  } as const;
  test.each(["up", "restart"].flatMap((word) => Object.keys(moments).map((moment) => [word, moment as keyof typeof moments] as const)))(
    "%s of a task that ends at once runs it once, where a watchdog looks %s", async (word, moment) => {
    fake.tmux.onStart = (one) => fake.tmux.exit(one.session, 0);
    void ({ fake, cfg, watch, file, operator, starts, ticks } = await scene(`${agents("a")}kind = "task"\nprompt = "x"\n`, { fake }));
    expect([starts("a"), memoryOf(watch, "a").life.state]).toEqual([1, "done"]);
    const [member, when] = moments[moment];
    let looks = 0;
    meanwhile(member, when, () => ticks(2, () => void looks++));
    expect((await call(word, "a")).code).toBe(0);
    await ticks(3);
    expect([looks, starts("a"), memoryOf(watch, "a").life.state, wanted().busy, wanted().owners]).toEqual([2, 2, "done", {}, {}]);
  });
  test("up that is killed at any moment: the task runs once all the same, at the watchdog's next ticks", async () => {
    const [{ pid }, runs] = [process, [] as number[]];
    for (let nth = 1; ; nth++) {
      fake = fakeWorld(realFolder());
      fake.tmux.onStart = (one) => fake.tmux.exit(one.session, 0);
      void ({ fake, cfg, watch, file, operator, starts, ticks } = await scene(`${agents("a")}kind = "task"\nprompt = "x"\n`, { fake }));
      for (const one of [4242, pid]) fake.stat(one, 7);
      fake.files.set("/proc/self/stat", fake.files.get("/proc/4242/stat")!);
      fake.dieAt = fake.effects.length + nth;
      const { code } = await call("up", "a");
      if (code === 0) break;
      fake.revive();
      const ordered = isOrdered();
      fake.files.delete(`/proc/${pid}/stat`);
      Object.defineProperty(process, "pid", { value: 4242 });
      await ticks(4).finally(() => Object.defineProperty(process, "pid", { value: pid }));
      expect([nth, starts("a"), memoryOf(watch, "a").life.state]).toEqual([nth, ordered ? 2 : 1, "done"]);
      runs.push(starts("a"));
    }
    expect([...new Set(runs)]).toEqual([1, 2]);
  });
  test.each(["up", "restart"])("%s leaves to the watchdog what it has started, while it waits for what others need", async (word) => {
    const text = `[[service]]\nname = "db"\ncommand = "x"\nready = "5432"\n${agents("a", "b")}needs = ["db"]\n`;
    void ({ fake, cfg, watch, file, operator, starts, ticks } = await scene(text, { fake, ticks: 0 }));
    fake.tmux.add("agents-a").doing = "busy";
    const [began, marks] = [fake.mono, [] as string[][]];
    fake.http = async () => ({ ok: fake.mono - began >= 3_000, status: 0, body: "" });
    const { sleep } = world;
    world.sleep = async (ms) => (marks.push([...Object.keys(wanted().busy), `${ms}`]), sleep(ms));
    expect([(await call(word, "db", "a", "b")).code, starts("b")]).toEqual([0, 1]);
    expect([...new Set(marks.filter((one) => one.includes("200")).map(String)), `${marks.at(-1)}`]).toEqual(["b,200", "100"]);
    // what ran already was never in its hands
    expect(marks.flat().includes("a")).toBe(word === "restart");
  });
  test("up by hand starts also what another command is busy with", async () => {
    await begin(["a"], 3);
    fake.stat(4242, 7);
    operator({ held: {}, busy: { a: fake.wall + 500_000 }, owners: { a: "4242 7" }, released: {}, queue: [] });
    fake.tmux.exit("agents-a", 1);
    expect([(await call("up", "a")).code, starts("a")]).toEqual([0, 2]);
  });
  test.each([["lives", 7, true], ["has ended", 8, false]])("the mark of a command that %s", async (_, born, holds) => {
    await begin(["a"], 3);
    fake.stat(4242, 7);
    fake.files.set("/proc/self/stat", fake.files.get("/proc/4242/stat")!);
    operator({ held: {}, busy: { a: fake.wall + 500_000 }, owners: { a: `4242 ${born}` }, released: {}, queue: [] });
    fake.tmux.exit("agents-a", 1);
    await ticks(6);
    expect(starts("a")).toBe(holds ? 1 : 2);
  });
  test.each<[string, object, (() => void) | null, boolean]>([
    ["that has ended: it is started at once, and that is said", {}, null, true],
    ["that took it in hand before its client began", { ago: 600_000 }, null, false],
    ["of long ago, which would be void by now", { ago: 61_000 }, null, false],
    ["that has ended, where the client ended by itself", {}, () => fake.tmux.exit("agents-a", 3), false],
  ])("its client is gone, and it has the mark of a restart %s", async (_, { ago = 2_000 }: { ago?: number }, end, cut) => {
    await begin(["a", "other"], 7);
    fake.stat(4242, 7);
    fake.files.set("/proc/self/stat", fake.files.get("/proc/4242/stat")!);
    operator({ held: {}, busy: { a: fake.wall - ago + 60_000 }, owners: { a: "4242 8" }, released: {}, queue: [] });
    memoryOf(watch, "a").failures = 2;
    if (end) end();
    else fake.tmux.kill(fake.tmux.of("agents-a"));
    const why = "the command that was restarting it was cut short";
    await ticks(1);
    expect([fake.logged("its session was closed").length, fake.logged(`a (agents-a) ${why}; restarting`).length]).toEqual(end ? [0, 0] : cut ? [0, 1] : [1, 0]);
    expect([starts("a"), memoryOf(watch, "a").failures]).toEqual(cut ? [2, 2] : [1, 3]);
  });
  test.each([["lives", true], ["has ended, as by Ctrl-C", false]])("without /proc, the mark of a command that %s", async (_, holds) => {
    await begin(["a", "other"], 3);
    const { pid } = fake.tmux.of("agents-other");
    operator({ held: {}, busy: { a: fake.wall + 500_000 }, owners: { a: `${holds ? pid : 4242} ` }, released: {}, queue: [] });
    fake.tmux.exit("agents-a", 1);
    await ticks(6);
    expect(starts("a")).toBe(holds ? 1 : 2);
  });
});

const six = Array.from({ length: 6 }, (_, nth) => `a${nth}`);

real("P37: down during up: nothing of the fleet runs or starts after it", {
  agents: six.map((name) => ({ name, watch: "heal" })), watchdog: { start_batch: 2 },
}, async (f) => {
  const up = f.start(["up"]);
  await until(() => f.starts("a2").length);
  expect((await f.run(["down"])).code).toBe(0);
  const left = () => f.processes().filter(({ command }) => /tui\.ts|watchdog|\bkeep\b/.test(command));
  const begun = () => six.map((name) => f.starts(name).length);
  const [before, runs] = [begun(), left()];
  expect(await up.exited).toBe(1);
  await Bun.sleep(1_500);
  expect([begun(), runs, left(), f.lock("watchdog"), f.lock("keeper")]).toEqual([before, [], [], 0, 0]);
  expect(f.events("order").map((event) => event.command)).toEqual(["up", "down"]);
  await f.up();
  expect(f.lock("watchdog")).toBeGreaterThan(0);
});
