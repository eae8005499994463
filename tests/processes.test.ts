/** What a client started ends with it, and no other client is started before that. */
import { describe, expect, spyOn, test } from "bun:test";
import { closeSync, fstatSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { cfgPath, childEnv, flock, isCodexDaemon, keepLock, lockHolder, memoryOf, openNote, pendingUnits, readNote, save, snapshot, startAgent, supervisorsOf, takeLock, world, storedLife } from "../agents.ts";
import { agents, command, type FakeWorld, fakeWorld, holdLock, realFolder, type Scene, scene } from "./kit.ts";
import { real, until } from "./real.ts";

/** Processes of a fake Linux, beside the panes: what each carries in its environment, and what it survives. */
function linux(fake: FakeWorld) {
  const helpers = new Map<number, { ignores: string[]; got: string[] }>();
  const { signal } = world;
  fake.stat(process.pid, 1);
  fake.files.set("/proc/self/stat", fake.files.get(`/proc/${process.pid}/stat`)!);
  const end = (pid: number) => [...fake.files.keys()].filter((path) => path.startsWith(`/proc/${pid}/`)).forEach((path) => fake.files.delete(path));
  world.signal = (pid, name) => {
    const helper = helpers.get(pid);
    if (!helper) {
      const was = fake.processes.has(pid);
      const done = signal(pid, name);
      if (was && !fake.processes.has(pid)) end(pid);
      return done;
    }
    if (name !== 0) helper.got.push(name);
    if (name !== 0 && !helper.ignores.includes(name)) {
      helpers.delete(pid);
      end(pid);
    }
    return true;
  };
  const kill = fake.tmux.kill.bind(fake.tmux);
  fake.tmux.kill = (pane) => {
    kill(pane);
    if (!fake.processes.has(pane.pid)) end(pane.pid);
  };
  fake.tmux.onStart = (pane) => {
    pane.doing = "busy";
    fake.stat(pane.pid, pane.pid);
  };
  return {
    helpers, end,
    helper(pid: number, mark: string, ignores: string[] = []) {
      fake.stat(pid, pid);
      fake.files.set(`/proc/${pid}/environ`, `HOME=/\0AGENTS_UNIT=${mark}\0TERM=x`);
      const got: string[] = [];
      helpers.set(pid, { ignores, got });
      return got;
    },
  };
}

const ALL = ["SIGHUP", "SIGTERM", "SIGKILL"];

describe("where there is no /proc, a number alone proves nothing", () => {
  /** The client of "a" survives the end of its pane, and the watchdog looks again after `ms`: this one, or another. */
  const outlived = async (ms: number, another: boolean): Promise<[alive: boolean, starts: number]> => {
    const it = await scene(agents("a"), { doing: "busy" });
    const old = it.pane();
    old.ignores = ["SIGHUP"];
    it.fake.tmux.kill(old);
    it.fake.turn(ms);
    if (another) await it.again();
    await it.ticks(6);
    return [!old.dead, it.starts()];
  };
  test("the watchdog that saw a client end its pane ends what is left of it", async () => expect(await outlived(0, false)).toEqual([false, 2]));
  test("another one, which finds the number in the memory, signals nobody", async () => expect(await outlived(3600_000, true)).toEqual([true, 2]));
  test.each([[1_000, true], [3600_000, false]])("one that was told to end %d ms ago", async (ms, ends) => {
    const it = await scene(agents("a"), { doing: "busy" });
    const old = it.pane();
    old.ignores = ["SIGHUP"];
    memoryOf(it.watch, "a").life = { state: "stopping", family: { pid: old.pid, born: "dead", since: it.fake.wall }, then: { state: "backoff", until: 0 } };
    await save(it.cfg, it.watch);
    it.fake.tmux.kill(old);
    it.fake.turn(ms);
    await it.again();
    await it.ticks(6);
    expect([old.dead, it.starts()]).toEqual([ends, 2]);
  });
  test("the pid beside a lock that nobody holds is nobody's: it gets no signal", async () => {
    const it = await scene(agents("a"), { fake: fakeWorld(realFolder()), ticks: 0 });
    const other = it.fake.tmux.add("other");
    it.fake.files.set(it.file("watchdog.lock.pid"), `${other.pid} `);
    mkdirSync(it.cfg.stateDir, { recursive: true });
    writeFileSync(it.file("watchdog.lock"), "");
    const status = await command("status", "--config", it.cfg.path);
    expect(status.out).toContain("○ no watchdog");
    await command("send", "a", "x", "--queue", "--config", it.cfg.path);
    expect([other.dead, it.fake.effects.filter((what) => what.startsWith("signal"))]).toEqual([false, []]);
    // nor is one that is not there held by anybody; of one that cannot be looked at, the number is all there is
    rmSync(it.file("watchdog.lock"));
    expect((await command("status", "--config", it.cfg.path)).out).toContain("○ no watchdog");
    symlinkSync("watchdog.lock", it.file("watchdog.lock"));
    expect((await command("status", "--config", it.cfg.path)).out).not.toContain("○ no watchdog");
    rmSync(it.file("watchdog.lock"));
    holdLock(it.fake, it.cfg.stateDir, other.pid);
    expect((await command("status", "--config", it.cfg.path)).out).not.toContain("○ no watchdog");
  });
});

describe("who may act", () => {
  /** A fleet whose state folder is on disk: locks are no part of the fake world. */
  const onDisk = async () => {
    const it = await scene(agents("a"), { fake: fakeWorld(realFolder()), ticks: 0 });
    mkdirSync(it.cfg.stateDir, { recursive: true });
    it.fake.stat(process.pid, 7);
    const path = it.file("watchdog.lock");
    return { ...it, path, pid: () => it.fake.files.get(`${path}.pid`) };
  };

  test("one has the lock, with its pid beside it; the next waits for it, and not for long", async () => {
    const { fake, path, pid } = await onDisk();
    let held = (await takeLock(path))!;
    expect(pid()).toBe(`${process.pid} 7`);
    const waits = async (freedAfter: number) => {
      const began = fake.mono;
      world.sleep = async (ms) => {
        fake.turn(ms);
        if (fake.mono - began === freedAfter) closeSync(held);
      };
      const taken = await takeLock(path);
      held = taken ?? held;
      return [taken !== null, fake.mono - began];
    };
    expect([await waits(0), await waits(270), await waits(300)]).toEqual([[false, 300], [true, 270], [false, 300]]);
    fake.full = true;
    fake.files.delete(`${path}.pid`);
    expect([await takeLock(path) !== null, pid(), fake.logged(`${path}.pid: ENOSPC`).length]).toEqual([true, undefined, 1]);
  });

  test.skipIf(process.platform !== "linux")("who does not get a lock keeps no file open for it", async () => {
    const { path } = await onDisk();
    const held = flock(path)!;
    const open = () => readdirSync("/proc/self/fd").length;
    const before = open();
    for (let nth = 0; nth < 50; nth++) expect(flock(path)).toBeNull();
    expect(open() - before).toBeLessThan(25);
    closeSync(held);
  });

  test("a folder in the place of a lock is moved away", async () => {
    const { path } = await onDisk();
    mkdirSync(path);
    expect([await takeLock(path) !== null, statSync(path).isFile(), statSync(`${path}.bad`).isDirectory()]).toEqual([true, true, true]);
  });

  test.skipIf(!Bun.which("flock"))("who only asks whether a lock is held holds it against nobody who asks too", async () => {
    const { fake, path } = await onDisk();
    fake.processes.set(77, fake.tmux.add("agents-x"));
    fake.files.set(`${path}.pid`, "77 ");
    const held = async (how: string) => {
      const other = Bun.spawn(["flock", how, path, "cat"], { stdin: "pipe", stdout: "pipe" });
      other.stdin.write("held\n");
      other.stdin.flush();
      await other.stdout.getReader().read();
      const holder = lockHolder(path);
      other.stdin.end();
      await other.exited;
      return holder;
    };
    expect([await held("--shared"), await held("--exclusive")]).toEqual([null, 77]);
  });

  test("who waits for a lock looks thirty times a second, and lets others work meanwhile", async () => {
    const { fake, path } = await onDisk();
    const held = (await takeLock(path))!;
    const pauses: number[] = [];
    const due = Promise.withResolvers<void>();
    world.sleep = async (ms) => {
      fake.turn(ms);
      if (pauses.push(ms) === 3) setImmediate(() => (closeSync(held), due.resolve()));
      if (pauses.length >= 3) await due.promise;
    };
    expect([await takeLock(path) !== null, pauses]).toEqual([true, [30, 30, 30]]);
  });

  test("a lock is kept, and taken again where its file was removed, unless another was first", async () => {
    const { fake, cfg, path, pid } = await onDisk();
    const said: string[] = [];
    const kept = (lock: number) => keepLock(cfg, path, lock, (why) => void said.push(why));
    const held = (await takeLock(path))!;
    fake.files.delete(`${path}.pid`);
    expect([await kept(held), pid(), said.splice(0)]).toEqual([held, `${process.pid} 7`, [""]]);
    fake.full = true;
    fake.files.delete(`${path}.pid`);
    expect([await kept(held), said.splice(0)]).toEqual([held, [expect.stringMatching(/: ENOSPC.*; continuing from memory$/)]]);
    fake.full = false;
    rmSync(path);
    const again = (await kept(held))!;
    expect(() => fstatSync(held)).toThrow();
    expect([pid(), await takeLock(path), await kept(again), said.splice(0)]).toEqual([`${process.pid} 7`, null, again, [""]]);
    rmSync(cfg.stateDir, { recursive: true }); // and its folder with it
    const anew = (await kept(again))!;
    expect([anew === again, fstatSync(anew).nlink, said.splice(0)]).toEqual([false, 1, []]);
    rmSync(path);
    expect([await takeLock(path) !== null, await kept(anew), fstatSync(anew).nlink]).toEqual([true, null, 0]);
  });

  test.each<[says: string, holds: boolean]>([["77 5", true], ["77 6", false], ["78 5", false], ["78", false], ["1 5", false], ["x 5", false], ["", false]])(
    "the pid %p beside a lock: its holder %p", async (says, holds) => {
      const { fake, path } = await onDisk();
      fake.processes.set(77, fake.tmux.add("agents-x"));
      for (const pid of [1, 77, 78]) fake.stat(pid, 5);
      fake.files.set(`${path}.pid`, says);
      expect(lockHolder(path)).toBe(holds ? 77 : null);
    });

  test("a pid beside a lock that nobody has came with a copy of the folder", async () => {
    const { fake, path, pid } = await onDisk();
    fake.processes.set(process.pid, fake.tmux.add("agents-x"));
    const held = (await takeLock(path))!;
    const copy = `${path}.copy`;
    writeFileSync(copy, "");
    fake.files.set(`${copy}.pid`, pid()!);
    expect([lockHolder(path), lockHolder(copy)]).toEqual([process.pid, null]);
    closeSync(held);
    expect(lockHolder(path)).toBe(null);
  });

  test("the pid of a copy is not that of who has the copy's lock and could not write its own", async () => {
    const { fake, path } = await onDisk();
    fake.processes.set(77, fake.tmux.add("agents-x"));
    fake.stat(77, 5);
    const copy = join(dirname(path), "copy", basename(path));
    mkdirSync(dirname(copy));
    const held = [flock(path)!, flock(copy)!];
    const holders = (...opened: string[]) => [path, copy].map((one) => {
      fake.files.set(`${one}.pid`, "77 5");
      fake.opened.set(77, opened);
      return lockHolder(one);
    });
    // what it has open is not known; the original, the copy, both; and one that was removed
    expect([holders(), holders("/dev/null", path), holders(copy), holders(path, copy), holders(`${path} (deleted)`)]).toEqual([[77, 77], [77, null], [null, 77], [77, 77], [77, 77]]);
    for (const lock of held) closeSync(lock);
  });

  test("the watchdogs and keepers of this config alone, of our user, with our files", async () => {
    const { fake, cfg } = await scene(agents("a"), { ticks: 0 });
    const runs = (pid: number | string, words: string[], user = 1000, mounts = "22 1 / /") => {
      for (const [file, text] of Object.entries({ cmdline: ["bun", "agents.ts", ...words].join("\0"), status: `Name:\tbun\nUid:\t${user}\t${user}\n`, mountinfo: mounts })) {
        fake.files.set(`/proc/${pid}/${file}`, text);
      }
    };
    const watchdog = ["watchdog", "--kept", "--last-good", "/x", "--config", cfg.path];
    runs("self", ["up"]);
    runs(11, watchdog);
    runs(12, ["keep", "--last-good", "/x", "--config", cfg.path]);
    runs(13, ["watchdog", "--kept", "--config", "/other/agents.toml"]);
    runs(14, watchdog, 1001);
    runs(15, watchdog, 1000, "33 1 / /");
    runs(16, ["watchdog", "--config", cfg.path]);
    runs(17, watchdog, 1000, "");
    expect([await supervisorsOf(cfg, "watchdog"), await supervisorsOf(cfg, "keeper")]).toEqual([[11], [12]]);
    runs("self", ["up"], 1000, "");
    expect(await supervisorsOf(cfg, "watchdog")).toEqual([]);
    fake.files.delete("/proc/self/status");
    for (const pid of [11, 15]) fake.files.delete(`/proc/${pid}/status`);
    expect(await supervisorsOf(cfg, "watchdog")).toEqual([]);
  });
  test("also where they name the config by another path: of a link to its folder, or relative", async () => {
    const { fake, cfg } = await scene(agents("a"), { ticks: 0 });
    const proc = (pid: number | string, config: string) => {
      for (const [file, text] of Object.entries({ cmdline: ["bun", "agents.ts", "watchdog", "--kept", "--config", config].join("\0"), status: "Uid:\t1000\t1000\n", mountinfo: "22 1 / /" })) fake.files.set(`/proc/${pid}/${file}`, text);
    };
    const real: Record<string, string> = { "/link": fake.home, "/other/agents.toml": cfg.path, [`${fake.home}/by.toml`]: cfg.path };
    Object.assign(world, { realPath: (path: string) => real[path] ?? path, folder: (pid: number) => (pid === 12 ? fake.home : "/other") });
    proc("self", "");
    proc(11, "/link/agents.toml");
    proc(12, "agents.toml");
    proc(13, `${fake.home}/by.toml`);
    // relative paths in it begin elsewhere: another fleet
    proc(14, "/other/agents.toml");
    proc(15, "agents.toml");
    expect(await supervisorsOf(cfg, "watchdog")).toEqual([11, 12, 13]);
    // a mount shows one folder in two places, and has no link to follow
    proc(16, "/mounted/agents.toml");
    proc(17, "/mounted/b.toml");
    expect(await supervisorsOf(cfg, "watchdog")).toEqual([11, 12, 13]);
    world.folderId = (path) => ["/mounted", fake.home].includes(path) ? "1:1" : "";
    expect(await supervisorsOf(cfg, "watchdog")).toEqual([11, 12, 13, 16]);
  });
  test("the config of this folder that is gone for a moment is in use by whatever path its keeper names; disks that do not answer are left alone", async () => {
    const { fake } = await scene(agents("a"), { ticks: 0 });
    const folder = realFolder();
    mkdirSync(join(folder, "fleet", "clone"), { recursive: true });
    symlinkSync(join(folder, "fleet"), join(folder, "link"));
    writeFileSync(join(folder, "agents.toml"), "");
    const asked: string[] = [];
    const { realPath } = world;
    Object.assign(world, { answers: async (path: string) => !path.startsWith("/hung"), realPath: (path: string) => (asked.push(path), realPath(path)) });
    const found = async (config: string): Promise<string> => {
      for (const pid of ["self", 11]) {
        const cmdline = ["bun", "agents.ts", "keep", "--last-good", "/x/agents.toml", "--config", config].join("\0");
        for (const [file, text] of Object.entries({ cmdline, status: "Uid:\t1000\t1000\n", mountinfo: "22 1 / /" })) fake.files.set(`/proc/${pid}/${file}`, text);
      }
      return (await cfgPath("", join(folder, "fleet", "clone"))).slice(folder.length);
    };
    expect(await found(join(folder, "fleet", "agents.toml"))).toBe("/fleet/agents.toml");
    expect(await found(join(folder, "link", "agents.toml"))).toBe("/fleet/agents.toml");
    for (const other of ["/fleet/other.toml", "/elsewhere/agents.toml"]) expect(await found(join(folder, other))).toBe("/agents.toml");
    asked.length = 0;
    expect([await found("/hung/agents.toml"), asked.filter((path) => path.startsWith("/hung"))]).toEqual(["/agents.toml", []]);
  });

  test("a note says who is at which stage since when, and covers a longer one", async () => {
    const { fake, file } = await onDisk();
    const path = file("watchdog.stage");
    const read = () => readNote((fake.files.set(path, readFileSync(path, "utf8")), path));
    const note = openNote(path);
    const began = Date.now();
    expect([note("x".repeat(500)), read()!.stage.length > 100, note("git fetch")]).toEqual([true, true, true]);
    expect(read()).toEqual({ pid: process.pid, at: expect.any(Number), stage: "git fetch" });
    expect(read()!.at).toBeWithin(began, Date.now() + 1);
    expect(readFileSync(path, "utf8")).toMatch(/^\d+ \d+ git fetch +\n$/);
    expect([readNote("/nowhere"), openNote("/nowhere/x")("x")]).toEqual([null, false]);
    // what stands in its place is moved out of the way
    mkdirSync(`${path}s`);
    expect([openNote(`${path}s`)("x"), statSync(`${path}s`).isFile(), statSync(`${path}s.bad`).isDirectory()]).toEqual([true, true, true]);
  });
});

describe("the family of a client", () => {
  let { fake, cfg, watch, pane, starts, ticks, again, operator } = {} as Scene;
  let host: ReturnType<typeof linux>;
  /** The mark of an agent's newest launch, as its program was given it. */
  const markOf = (name = "a"): string => marks.get(`agents-${name}`)!;
  const marks = new Map<string, string>();
  async function begin(text = agents("a"), home?: string): Promise<void> {
    fake = fakeWorld(home);
    host = linux(fake);
    fake.beforeTmux((args) => {
      const mark = args.find((word) => word.startsWith("AGENTS_UNIT="));
      const session = args[args.indexOf("@agents_session") + 1];
      if (mark && args.includes("respawn-pane")) marks.set(session!, mark.slice(12));
    });
    ({ cfg, watch, pane, starts, ticks, again, operator } = await scene(`[watchdog]\nsignal_interval = 2\nrestart_delay = 1\n${text}`, { fake, ticks: 6 }));
  }
  const fatal = () => void (pane().doing = "fatal");

  test("a launch is marked with its fleet, its name and an id of its own", async () => {
    await begin(agents("a", "b"));
    const first = markOf();
    expect(first).toMatch(/^\w+\/a\/\w+$/);
    expect(markOf("b").split("/").slice(0, 2)).toEqual([first.split("/")[0]!, "b"]);
    fatal();
    await ticks(4);
    expect([starts(), markOf() === first]).toEqual([2, false]);
  });
  test("what runs in the session of an agent of the config is no orphan, under whatever name it was started", async () => {
    await begin(agents("a"), realFolder());
    fake.files.set(`/proc/${pane().pid}/environ`, `AGENTS_UNIT=${markOf()}\0`);
    host.helper(70_001, markOf());
    host.helper(70_002, markOf("a").replace("/a/", "/b/"));
    fake.files.set(cfg.path, `${agents("c")}session = "agents-a"\n`);
    await command("down", "--orphans", "--config", cfg.path);
    expect([pane().dead, host.helpers.has(70_001), host.helpers.has(70_002)]).toEqual([false, true, false]);
  });
  test("P22: a status reads the environment of each client once, and one more to find their tmux server", async () => {
    await begin(agents("a", "b", "c"));
    const [{ read }, { TMUX_TMPDIR: folder }] = [world, process.env];
    for (const name of ["a", "b", "c"]) fake.files.set(`/proc/${pane(name).pid}/environ`, `TMUX=/sockets/tmux-0/default,1,0\0AGENTS_UNIT=${markOf(name)}\0HOME=/home\0`);
    const environs: string[] = [];
    world.read = (path) => (path.endsWith("/environ") && environs.push(path), read(path));
    try {
      await command("status", "--config", cfg.path);
      expect([process.env.TMUX_TMPDIR, environs.length]).toEqual(["/sockets", 4]);
    } finally {
      if (folder === undefined) delete process.env.TMUX_TMPDIR;
      else process.env.TMUX_TMPDIR = folder;
    }
  });
  test("P22: a status follows the links in the fleet's path as often for ten agents as for one", async () => {
    const followed = async (...names: string[]): Promise<number> => {
      await begin(agents(...names));
      const realPath = spyOn(world, "realPath");
      await command("status", "--config", cfg.path);
      const calls = realPath.mock.calls.length;
      realPath.mockRestore();
      return calls;
    };
    const one = await followed("a");
    expect([one > 0, await followed(..."abcdefghij")]).toEqual([true, one]);
  });
  test("no child of ours carries the mark of an agent that ran the command", () => {
    process.env.AGENTS_UNIT = "f/a/1";
    try {
      expect(Object.keys(childEnv())).not.toContain("AGENTS_UNIT");
    } finally {
      delete process.env.AGENTS_UNIT;
    }
  });
  test("a restart ends what carries its mark by HUP, TERM, KILL, and starts only then", async () => {
    await begin(agents("a", "b"));
    const got = host.helper(70_001, markOf(), ["SIGHUP", "SIGTERM"]);
    const other = host.helper(70_002, markOf("b"));
    const later = host.helper(70_003, markOf().replace("/a/", "/ab/"));
    fatal();
    await ticks(1);
    expect([starts(), got]).toEqual([1, ["SIGHUP"]]);
    await ticks(8);
    expect([starts(), [...new Set(got)], other, later]).toEqual([2, ALL, [], []]);
  });
  test("all processes are looked for with each signal, not at each look: what came in the meantime gets the next one", async () => {
    await begin();
    const known = host.helper(70_001, markOf(), ["SIGHUP", "SIGTERM"]);
    fatal();
    await ticks(1);
    const later = host.helper(70_002, markOf(), ["SIGHUP", "SIGTERM"]);
    const list = spyOn(world, "list");
    const looks: number[] = [];
    while (!known.includes("SIGKILL")) {
      list.mockClear();
      await ticks(1);
      looks.push(list.mock.calls.filter(([path]) => path === "/proc").length);
    }
    list.mockRestore();
    expect([looks.slice(0, -1), known, later]).toEqual([[0, 0, 1, 0], ALL, ALL.slice(1)]);
  });
  test("what a dead client left behind, of any launch, is ended before the next start", async () => {
    await begin();
    const got = host.helper(70_001, markOf().replace(/\w+$/, "old"));
    host.end(pane().pid);
    fake.tmux.exit("agents-a", 1);
    await ticks(8);
    expect([starts(), got]).toEqual([2, ["SIGHUP"]]);
  });
  test("what has another fleet's mark is not ended, though a copy of its folder remembers it", async () => {
    for (const [mark, signals] of [["abc123/a/x", []], ["", ["SIGTERM"]]] as const) {
      await begin();
      host.helper(70_001, "");
      memoryOf(watch, "a").client = { pid: 70_001, born: "70001" };
      const got = host.helper(70_001, mark);
      host.end(pane().pid);
      fake.tmux.exit("agents-a", 1);
      await ticks(8);
      expect([starts(), got]).toEqual([2, [...signals]]);
    }
  });
  test.each([["in its arguments", "/proc/70001/cmdline", "opencode\0attach\0--session\0ses_1"], ["in a file that it has open", "", ""]])("a conversation that a client of another fleet has %s is not resumed: its id came with a copy of that folder", async (_, path, argv) => {
    for (const mark of ["abc123/a/x", "ours", ""]) {
      await begin(`${agents("a")}resume = true\n`);
      fake.files.set(`${cfg.stateDir}/a.id`, "ses_1");
      host.helper(70_001, mark && mark.replace("ours", markOf("a").replace("/a/", "/b/")));
      if (path) fake.files.set(path, argv);
      else fake.opened.set(70_001, ["/home/.codex/sessions/rollout-2026-06-15-ses_1.jsonl"]);
      host.end(pane().pid);
      fake.tmux.exit("agents-a", 1);
      await ticks(8);
      const isOther = mark.startsWith("abc123");
      expect([starts(), pane().argv.join(" ").includes("ses_1"), fake.files.get(`${cfg.stateDir}/a.id`)!.trim() === "ses_1", fake.logged("a client of another fleet (pid 70001)").length]).toEqual([2, !isOther, !isOther, Number(isOther)]);
    }
  });
  test.each([["abc123/a/x", "http://127.0.0.1:4096", 0], ["abc123/a/x", "http://127.0.0.1:4097", 1], ["", "http://127.0.0.1:4096", 1]])("the turn of a conversation is not ended while a client with the mark %j is in it at %s: %d", async (mark, server, wanted) => {
    let aborted = 0;
    await begin(`[backend.oc]\nkind = "opencode"\nbin = "oc"\nserver = "http://127.0.0.1:4096"\n${agents("a").replace('"claude"', '"oc"')}`, realFolder());
    memoryOf(watch, "a").conversation = "ses_1";
    fake.http = async ({ url }) => {
      aborted += Number(new URL(url).pathname === "/session/ses_1/abort");
      return { ok: true, status: 200, body: "true" };
    };
    await save(cfg, watch);
    host.helper(70_001, mark);
    fake.files.set("/proc/70001/cmdline", ["oc", "attach", server, "--session", "ses_1"].join("\0"));
    await command("down", "a", "--config", cfg.path);
    expect(aborted).toBe(wanted);
  });
  test("who of other fleets is in a conversation is asked once for all that end together", async () => {
    const asked = async (...names: string[]) => {
      await begin(`[backend.oc]\nkind = "opencode"\nbin = "oc"\nserver = "http://127.0.0.1:4096"\n${agents(...names).replaceAll('"claude"', '"oc"')}`, realFolder());
      for (const name of names) memoryOf(watch, name).conversation = `ses_${name}`;
      await save(cfg, watch);
      host.helper(70_001, "abc123/a/x");
      const { read } = world;
      let environs = 0;
      world.read = (path) => ((environs += Number(path === "/proc/70001/environ")), read(path));
      await command("down", ...names, "--config", cfg.path);
      return environs;
    };
    expect(await asked("a", "b", "c", "d")).toBe(await asked("a"));
  });
  test("what cannot be ended holds the start, is said once and needs a person, until it is gone", async () => {
    await begin();
    host.helper(70_001, markOf(), ALL);
    fatal();
    await ticks(30);
    const events = () => fake.files.get("/fleet/.agents/state/events.jsonl")!.split("\n").filter((line) => line.includes('"blocked"'));
    expect([starts(), fake.logged("cannot be ended: pid 70001").length, events().length]).toEqual([1, 1, 1]);
    expect((await command("status", "--config", "/fleet/agents.toml"))).toEqual(expect.objectContaining({
      code: 3, out: expect.stringContaining("cannot be ended: pid 70001") }));
    expect((await command("explain", "a", "--config", "/fleet/agents.toml")).out).toContain("state    cannot be ended: pid 70001");
    host.end(70_001);
    await ticks(4);
    expect(starts()).toBe(2);
  });
  test("one told to end by a clock that ran ahead is ended all the same, and said", async () => {
    await begin();
    const got = host.helper(70_001, markOf(), ALL);
    fatal();
    await ticks(1);
    fake.wall -= 86_400_000;
    await again();
    await ticks(20);
    expect([[...new Set(got)], fake.logged("cannot be ended: pid 70001").length]).toEqual([ALL, 1]);
  });
  test("one told to end is ended also while a command of a person has its agent in its hands", async () => {
    await begin();
    const got = host.helper(70_001, markOf(), ["SIGHUP", "SIGTERM"]);
    fatal();
    await ticks(1);
    operator({ held: {}, busy: { a: fake.wall + 300_000 }, released: {}, queue: [] });
    await ticks(8);
    expect([[...new Set(got)], starts(), [...pendingUnits(cfg, watch)]]).toEqual([ALL, 1, []]);
  });
  test("what is left of a client is sought by the memory at hand: no round reads it from the disk", async () => {
    await begin();
    host.helper(70_001, markOf(), ["SIGHUP", "SIGTERM"]);
    host.end(pane().pid);
    fake.tmux.exit("agents-a", 1);
    const { text } = world;
    let reads = 0;
    world.text = (path) => ((reads += Number(path.endsWith("/watch.json"))), text(path));
    await ticks(10);
    expect([starts(), reads]).toEqual([2, 0]);
  });
  test("a process that has the number of one of them by now is not ended for it", async () => {
    await begin();
    host.helper(70_001, markOf(), ["SIGHUP", "SIGTERM"]);
    fatal();
    await ticks(1);
    const got = host.helper(70_001, "", []);
    fake.stat(70_001, 99);
    await ticks(6);
    expect([starts(), got]).toEqual([2, []]);
  });
  test("a client that was started by another meanwhile is no part of the old family", async () => {
    await begin();
    host.helper(70_001, markOf(), ["SIGHUP", "SIGTERM"]);
    fatal();
    await ticks(1);
    const next = host.helper(70_005, markOf().replace(/\w+$/, "next"));
    expect(storedLife(memoryOf(watch, "a")).stopping!.marks).toHaveLength(1);
    await ticks(1);
    expect(next).toEqual([]);
  });
  test("a start of another that was faster lives on: who saw only the dead pane before it ends nothing of it", async () => {
    await begin();
    const helper = host.helper(70_006, markOf()); // of the client that ends: nobody else is in its way
    host.end(pane().pid);
    fake.tmux.exit("agents-a", 1);
    const before = await snapshot(cfg);
    await ticks(6);
    const [next, got] = [pane(), host.helper(70_007, markOf())];
    const done = await startAgent(cfg, watch, cfg.agents.get("a")!, before);
    expect([done, pane() === next, next.dead, got, starts(), helper]).toEqual([{ outcome: "runs", why: "" }, true, false, [], 2, ["SIGHUP"]]);
  });
  test("agents at rest cost no look at the processes", async () => {
    await begin();
    let looks = 0;
    const { list } = world;
    world.list = (path) => ((looks += Number(path === "/proc")), list(path));
    await ticks(20);
    expect(looks).toBe(0);
  });
  test("we are no part of a family that we end", async () => {
    await begin();
    const { signal } = world;
    const asked: number[] = [];
    world.signal = (pid, name) => (asked.push(pid), signal(pid, name));
    fake.files.set(`/proc/${process.pid}/environ`, `AGENTS_UNIT=${markOf()}`);
    fatal();
    await ticks(4);
    expect([starts(), asked.includes(process.pid)]).toEqual([2, false]);
  });
});

/** Processes that carry the mark of a unit of a fleet. */
const marked = (tmuxDir: string): number[] => readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((name) => {
  try {
    const env = `\0${readFileSync(`/proc/${name}/environ`, "utf8")}`;
    return env.includes(`\0TMUX_TMPDIR=${tmuxDir}\0`) && env.includes("\0AGENTS_UNIT=") ? [Number(name)] : [];
  } catch {
    return [];
  }
});

const names = ["a1", "b1", "c1"];

real("P32: helpers with sessions of their own, deaf to HUP: none outlives restarts and down", {
  agents: names.map((name) => ({ name, watch: "heal" })), backend: { preamble: "setsid sh -c \"trap '' HUP; while :; do sleep 1000; done\" &" },
  watchdog: { signal_interval: 1 },
}, async (f) => {
  await f.up();
  await f.ready(...names);
  const helpers = () => marked(f.tmuxDir).filter((pid) => readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("trap"));
  await until(() => helpers().length === names.length);
  for (let nth = 0; nth < 2; nth++) {
    const before = helpers();
    // at once, each with a helper of its own: one that is deaf takes 5 s to end
    expect((await f.run(["restart", ...names])).code).toBe(0);
    await until(() => helpers().length === names.length && !helpers().some((pid) => before.includes(pid)));
  }
  expect((await f.run(["down"])).code).toBe(0);
  expect(marked(f.tmuxDir)).toEqual([]);
});


real("Claude Code's background sessions and Codex's daemon of our folders are named by down and doctor, not ended", {
  agents: [{ name: "a1", enabled: false }],
}, async (f) => {
  const other = f.path("elsewhere");
  f.write("elsewhere/.keep", "");
  const start = (cwd: string, ...argv: string[]) => Bun.spawn(argv, { cwd, env: f.env, stdio: ["ignore", "ignore", "ignore"] });
  const session = (pid: number, kind: string, cwd: string) => f.write(`home/.claude/sessions/${pid}.json`, JSON.stringify({ pid, kind, cwd }));
  const sleeps = Array.from({ length: 3 }, () => start("/", "sleep", "1000"));
  const [mine, theirs, front] = sleeps.map(({ pid }) => pid) as [number, number, number];
  session(mine, "bg", f.dir);
  session(theirs, "bg", "/");
  session(front, "interactive", f.dir);
  const daemon = start(other, "bash", "-c", "exec -a codex sh -c 'sleep 1000; true' app-server app-server");
  const codex = async () => readFileSync(`/proc/${daemon.pid}/cmdline`, "utf8").startsWith("codex\0");
  await until(codex);
  const named = (text: string) => [...text.matchAll(/\(pid (\d+)\)/g)].map((one) => Number(one[1])).toSorted();
  const doctor = await f.run(["doctor"]);
  expect(doctor.out).toContain(`background: Claude Code's background session runs in ${f.dir} (pid ${mine})`);
  expect(named(doctor.out.split("\n").filter((line) => line.includes("background:")).join("\n"))).toEqual([mine, daemon.pid].toSorted());
  const down = await f.run(["down"]);
  expect(down.code).toBe(0);
  expect(named(down.err.split("\n").filter((line) => line.includes("left running")).join("\n"))).toEqual([mine, daemon.pid].toSorted());
  for (const child of [...sleeps, daemon]) expect(child.exitCode).toBeNull();
});

test.each([
  ["codex app-server --listen unix://", true], ["node /usr/bin/codex pid-update-loop", true], ["codex --no-daemon", false],
  ["vim codex-app-server", false], ["grep app-server codex", false],
])("%s is a daemon of Codex: %p", (line, daemon) => expect(isCodexDaemon(line.split(" "))).toBe(daemon));
