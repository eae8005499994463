/** One watchdog, always: killed, doubled, ended by hand, started by a unit; on real processes. */
import { afterEach, describe, expect, test } from "bun:test";
import { closeSync, cpSync, mkdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { flock, HUNG_AFTER, keep, keeperCare, startWatchdog, Ward, world } from "../agents.ts";
import { agents, command, fakeWorld, realFolder, scene } from "./kit.ts";
import { allowed, type Fleet, life, lives, ROOT, real, signal, spawn, until } from "./real.ts";

describe("a keeper and its watchdog, on a clock that the test turns", () => {
  const { spawn } = Bun;
  afterEach(() => void Object.assign(Bun, { spawn }));

  async function keeper() {
    const it = await scene(agents("a"), { ticks: 0 });
    const { fake, cfg, file } = it;
    const began = fake.mono;
    const seconds = () => (fake.mono - began) / 1000;
    const starts: number[] = [];
    /** Ends the watchdog that was started last. */
    let end = async (_code: number, _signal: NodeJS.Signals | null): Promise<void> => {};
    Object.assign(Bun, { spawn: () => {
      const { promise, resolve } = Promise.withResolvers<number>();
      const child = { pid: 90 + starts.length, exited: promise, signalCode: null as NodeJS.Signals | null };
      starts.push(seconds());
      end = async (code, signal) => {
        child.signalCode = signal;
        resolve(code);
        await promise;
      };
      return child;
    } });
    const signals: [at: number, name: string][] = [];
    const { signal } = world;
    world.signal = (pid, name) => {
      if ((pid === 77 || pid >= 90) && name !== 0) signals.push([seconds(), name]);
      return pid === 77 || signal(pid, name);
    };
    fake.stat(77, 5);
    const ward = new Ward(cfg, cfg.path, HUNG_AFTER);
    return {
      ...it, ward, starts, signals, end: (code: number, signal: NodeJS.Signals | null = null) => end(code, signal),
      /** Looks for some seconds, as often as a keeper does. */
      looks: async (s: number, writes = true) => {
        for (const until = fake.mono + s * 1000; fake.mono < until; fake.turn(250)) await ward.look(writes);
      },
      /** Process 77 has the watchdog's lock, and wrote at which stage it is. */
      hold: (pid = 77, stage = "git fetch") => {
        fake.files.set(file("watchdog.lock.pid"), "77 5");
        fake.files.set(file("watchdog.stage"), `${pid} 1 ${stage}    \n`);
      },
      free: () => void fake.files.delete(file("watchdog.lock.pid")),
      beat: (interval: number) => void fake.files.set(file("heartbeat"), JSON.stringify({ at: "now", interval })),
      said: () => fake.lines.map((line) => line.replace(/^\[.*?\] /, "")),
    };
  }

  test("one that exits is started again ever later, and soon where it had lived for a minute", async () => {
    const { looks, starts, end, ward, said } = await keeper();
    for (let nth = 0; nth < 7; nth++) {
      await looks(nth === 6 ? 60 : 1);
      await end(2);
      await looks(30);
    }
    expect(starts).toEqual([0, 3, 36, 71, 110, 155, 186, 248]);
    expect(said()).toEqual([2, 4, 8, 16, 30, 2].map((pause) => `the watchdog ended (exit 2), starting another in ${pause} s`));
    await end(0);
    expect([ward.ended, ward.child, said().length]).toEqual([0, null, 6]);
  });

  test("one that a signal ends is started again after a second, and each end is said", async () => {
    const { looks, starts, end, said } = await keeper();
    for (let nth = 0; nth < 3; nth++) {
      await looks(2);
      await end(137, "SIGKILL");
    }
    await looks(2);
    expect(starts).toEqual([0, 3, 5, 7]);
    expect(said()).toEqual(Array(3).fill("the watchdog ended (SIGKILL), starting another"));
  });

  test("of one that finds the lock taken it is said once, and it is no death", async () => {
    const { looks, end, said } = await keeper();
    for (let nth = 0; nth < 3; nth++) {
      await looks(40);
      await end(100);
    }
    expect(said()).toEqual(["another watchdog has the lock"]);
  });

  test("one that cannot be started is tried ever more slowly, each ten seconds at last, and why is said once", async () => {
    const { fake, looks, said, starts } = await keeper();
    const began = fake.mono;
    Object.assign(Bun, { spawn: () => {
      starts.push((fake.mono - began) / 1000);
      throw new Error("EAGAIN: no more processes");
    } });
    await looks(40);
    expect([starts, said()]).toEqual([[0, 2, 6, 14, 24, 34], ["the watchdog could not be started: EAGAIN: no more processes; trying again"]]);
  });

  test("after one that somebody else started another is started a second later", async () => {
    const { looks, starts, hold, free } = await keeper();
    hold();
    await looks(10);
    free();
    await looks(3);
    expect(starts).toEqual([10.75]);
  });

  test.each([[5, 120, "2 min"], [30, 300, "5 min"]])("one whose interval is %d s hangs after %d s: it is asked to end, and ended five seconds later", async (interval, after, span) => {
    const { looks, hold, beat, signals, said, starts } = await keeper();
    beat(interval);
    hold();
    await looks(after - 1);
    hold(77, "typing");
    await looks(after + 7);
    expect([signals[0], signals.find(([, name]) => name === "SIGKILL")]).toEqual([[after, "SIGTERM"], [after + 5, "SIGKILL"]]);
    expect([said(), starts]).toEqual([[`the watchdog (pid 77) has not moved for ${span}, at: typing; ending it`], []]);
  });

  test("nobody hangs whose note the keeper cannot read, or while it cannot write itself; one after the other is told apart", async () => {
    const { looks, hold, free, beat, signals, starts, said } = await keeper();
    beat(5);
    hold(78);
    await looks(500);
    hold();
    await looks(500, false);
    expect(signals).toEqual([]);
    await looks(122);
    expect(signals[0]).toEqual([1_120, "SIGTERM"]);
    free();
    await looks(0.5);
    hold();
    await looks(4);
    expect([signals.at(-1)?.[1], starts, said().length]).toEqual(["SIGTERM", [], 2]);
  });

  test("nobody hangs because the keeper stood still itself, as both do in a machine that is paused", async () => {
    const { fake, looks, hold, beat, signals } = await keeper();
    beat(5);
    hold();
    await looks(10);
    fake.turn(600_000);
    await looks(115);
    expect(signals).toEqual([]);
    await looks(10);
    expect(signals[0]).toEqual([730, "SIGTERM"]);
  });

  test.each([true, false])("one that hung and does end when asked was not meant to: another is started (its lock is free first: %p)", async (first) => {
    const { looks, hold, free, beat, end, signals, starts, said, ward } = await keeper();
    await looks(1);
    beat(5);
    hold();
    await looks(122);
    expect(signals[0]?.[1]).toBe("SIGTERM");
    if (first) {
      free();
      await looks(0.5);
    }
    await end(0);
    free();
    await looks(5);
    expect([ward.ended, starts.length, said().at(-1)]).toEqual([null, 2, expect.stringMatching(/^the watchdog ended \(exit 0\), starting another/)]);
  });

  test("one that runs without a lock here is waited for, and ended where it never comes", async () => {
    const { fake, cfg, looks, starts, signals, said } = await keeper();
    for (const pid of ["self", 77]) {
      fake.files.set(`/proc/${pid}/status`, "Uid:\t1000\t1000\n");
      fake.files.set(`/proc/${pid}/mountinfo`, "22 1 / /");
    }
    fake.files.set("/proc/77/cmdline", ["bun", "agents.ts", "watchdog", "--kept", "--config", cfg.path].join("\0"));
    await looks(120);
    expect([starts, signals]).toEqual([[], []]);
    await looks(0.5);
    expect([signals[0], said()[0]]).toEqual([[120, "SIGKILL"], `the watchdog (pid 77) holds no lock in ${cfg.stateDir}; ending it`]);
    fake.files.delete("/proc/77/cmdline");
    await looks(0.5);
    expect(starts).toEqual([120.5]);
  });

  test("one that rests for longer than that is waited for until it has looked at its lock", async () => {
    const { cfg, looks, signals, hold, free } = await keeper();
    cfg.watchdog.signalInterval = 200;
    await looks(1);
    hold();
    await looks(1);
    free(); // its folder was removed
    await looks(250);
    expect(signals).toEqual([]);
    await looks(200);
    expect(signals[0]?.[1]).toBe("SIGKILL");
  });

  test("one of its own that hangs before it has a lock, as at a file of a dead disk, is ended and started again", async () => {
    const { cfg, looks, starts, signals, said, end, hold, free } = await keeper();
    await looks(1);
    hold();
    await looks(50);
    free();
    await looks(119);
    expect([starts, signals]).toEqual([[0], []]); // the time with a lock does not count
    await looks(3);
    expect([signals[0], signals.length > 1, said()]).toEqual([[171, "SIGKILL"], true, [`the watchdog (pid 90) holds no lock in ${cfg.stateDir}; ending it`]]);
    await end(137, "SIGKILL");
    await looks(2);
    expect(starts).toEqual([0, 174]);
  });

  test("one of its own that has a lock, but no disk to write its pid on, is left alone", async () => {
    const { cfg, looks, starts, signals } = await keeper();
    cfg.stateDir = realFolder();
    const lock = flock(join(cfg.stateDir, "watchdog.lock"))!;
    await looks(300);
    closeSync(lock);
    expect([starts, signals]).toEqual([[0], []]);
  });
});

describe("commands and the keeper, on a clock that the test turns", () => {
  const { spawn } = Bun;
  const listeners = () => (["SIGTERM", "SIGINT", "SIGHUP"] as const).map((signal) => [signal, process.listeners(signal)] as const);
  const before = listeners();
  afterEach(() => {
    Object.assign(Bun, { spawn });
    for (const [nth, [signal, now]] of listeners().entries()) for (const one of now) if (!before[nth]![1].includes(one)) process.removeListener(signal, one);
  });

  /** A fleet on disk, as it has locks; process 77 is its watchdog or keeper once a test says so. */
  async function fleet() {
    const it = await scene(agents("a"), { fake: fakeWorld(realFolder()), ticks: 0 });
    const { fake, file } = it;
    const began = fake.mono;
    const [spawned, signals, pauses]: [string[], string[], number[]] = [[], [], []];
    const child = { pid: 90, exitCode: null as number | null, signalCode: null, exited: new Promise<number>(() => {}), unref: () => {}, kill: (name: string) => (signals.push(`child ${name}`), Object.assign(child, { exited: Promise.resolve(0) })) };
    /** Those that were started in a session of their own. */
    const detached: string[] = [];
    Object.assign(Bun, { spawn: (argv: string[], options: { detached?: boolean }) => {
      const what = argv.find((word) => ["keep", "watchdog"].includes(word))!;
      spawned.push(what);
      if (options.detached) detached.push(what);
      return child;
    } });
    const { signal } = world;
    world.signal = (pid, name) => (pid !== 77 ? signal(pid, name) : Boolean(name === 0 || signals.push(`${(fake.mono - began) / 1000} ${name}`)));
    fake.stat(77, 5);
    const hold = (what: "watchdog" | "keeper") => {
      fake.files.set(file(`${what}.lock.pid`), "77 5");
      fake.times.set(file(`${what}.lock.pid`), fake.wall);
    };
    const sleeping = (act: (nth: number) => void) => void (world.sleep = async (ms) => {
      fake.turn(ms);
      act(pauses.push(ms));
    });
    return { ...it, child, spawned, detached, signals, pauses, hold, sleeping, said: () => fake.lines.map((line) => line.replace(/^\[.*?\] /, "")), took: () => (fake.mono - began) / 1000 };
  }

  test("a keeper looks once a second until it is told to end, and ends its watchdog", async () => {
    const { cfg, file, spawned, detached, pauses, sleeping, signals } = await fleet();
    sleeping((nth) => nth === 8 && process.emit("SIGTERM", "SIGTERM"));
    const code = await keep(cfg.path, "");
    expect([code, pauses, spawned, signals]).toEqual([0, Array(8).fill(1_000), ["watchdog"], ["child SIGTERM"]]);
    expect(detached).toEqual([]); // what ends a keeper's group ends its watchdog
    expect(readFileSync(file("keeper.stage"), "utf8")).toMatch(new RegExp(`^${process.pid} \\d+ keeping +\\n$`));
  });

  test("the end of its watchdog wakes it, and another is there a second later; so does a signal", async () => {
    const { cfg, fake, child, pauses, spawned } = await fleet();
    const asleep = Array.from({ length: 3 }, () => Promise.withResolvers<void>());
    world.sleep = (ms) => {
      asleep[pauses.push(ms) - 1]!.resolve();
      if (pauses.length !== 2) return new Promise(() => {}); // for ever, unless it is woken
      fake.turn(ms);
      return Promise.resolve();
    };
    const ended = Promise.withResolvers<number>();
    child.exited = ended.promise;
    const done = keep(cfg.path, "");
    await asleep[0]!.promise;
    Object.assign(child, { exited: new Promise<number>(() => {}), signalCode: "SIGKILL" });
    ended.resolve(137);
    await asleep[2]!.promise;
    expect([pauses, spawned]).toEqual([[1_000, 1_000, 1_000], ["watchdog", "watchdog"]]);
    process.emit("SIGTERM", "SIGTERM");
    expect(await done).toBe(0);
  });

  test("it ends with a watchdog that was meant to end, does not begin where that is ordered down, and is one", async () => {
    const { cfg, child, file, pauses, sleeping, operator, spawned } = await fleet();
    child.exited = Promise.resolve(0);
    sleeping(() => {});
    expect([await keep(cfg.path, ""), pauses.length]).toEqual([0, 0]);
    rmSync(file("keeper.lock"));
    operator({ held: { watchdog: 1 } });
    expect([await keep(cfg.path, ""), spawned]).toEqual([0, ["watchdog"]]);
    expect(await keep(cfg.path, "")).toBe(100);
  });

  test("it ends where another has taken its lock, and leaves the watchdog alone", async () => {
    const { cfg, file, sleeping, signals } = await fleet();
    let other = null as number | null;
    sleeping((nth) => {
      if (nth === 3) rmSync(file("keeper.lock"));
      if (nth === 3) other = flock(file("keeper.lock"));
      if (nth === 100) throw new Error("it goes on");
    });
    expect([await keep(cfg.path, ""), signals]).toEqual([0, []]);
    closeSync(other!);
  });

  test.each([true, false])("a keeper that leaves no sign hangs where others can write (%p), and there alone", async (writes) => {
    const { cfg, fake, file, hold, signals, spawned } = await fleet();
    hold("keeper");
    fake.files.set(file("keeper.stage"), `77 1 keeping${" ".repeat(100)}\n`);
    const care = keeperCare();
    for (let nth = 0; nth < 310; nth++, fake.turn(1_000)) expect(care(cfg, writes)).toBe("");
    expect([signals.some((one) => one.endsWith("SIGKILL")), spawned.includes("keep")]).toEqual([writes, writes]);
  });

  test("a watchdog starts a keeper where there is none: another one while that starts after a minute only, at once where it ended", async () => {
    const { cfg, child, spawned, said, hold, fake, file, signals } = await fleet();
    const care = keeperCare();
    const looks = (s: number) => {
      for (let nth = 0; nth < s; nth++) expect([care(cfg, true), fake.turn(1_000)]).toEqual(["", undefined]);
      return spawned.length;
    };
    hold("keeper");
    expect(looks(5)).toBe(0);
    fake.files.delete(file("keeper.lock.pid"));
    expect([looks(60), signals.length, looks(1), signals]).toEqual([1, 0, 2, ["child SIGKILL"]]);
    child.exitCode = 100;
    mkdirSync(cfg.stateDir, { recursive: true });
    const lock = flock(file("keeper.lock"))!; // another has it, whose pid could not be written
    expect(looks(120)).toBe(2);
    closeSync(lock); // that one was killed: what ended at its lock is no sign of another
    expect(looks(3)).toBe(5);
    expect([new Set(spawned), new Set(said())]).toEqual([new Set(["keep"]), new Set(["no keeper, starting one"])]);
  });

  test("`up` finds a watchdog that runs, or waits for the one that a keeper starts", async () => {
    const { cfg, child, spawned, signals, sleeping, hold, said, took, fake, file } = await fleet();
    sleeping((nth) => nth === 30 && hold("watchdog"));
    expect([await startWatchdog(cfg), spawned, took()]).toEqual([true, ["keep"], 1.5]);
    expect([await startWatchdog(cfg), spawned.length, said()]).toEqual([true, 1, ["starting watchdog", "watchdog already running"]]);
    // its keeper ends at once; another one is at it
    fake.files.delete(file("watchdog.lock.pid"));
    child.exitCode = 0;
    expect([await startWatchdog(cfg), took()]).toEqual([false, 1.5]);
    hold("keeper");
    sleeping((nth) => nth === 50 && hold("watchdog"));
    expect([await startWatchdog(cfg), took(), signals]).toEqual([true, 2.5, []]);
  });

  test("`up` leaves the session that shows the log as it is, and opens another where what showed it has ended", async () => {
    const { cfg, spawned, detached, sleeping, hold, said, fake, file } = await fleet();
    const { tmux } = world;
    world.tmux = async (args, ...rest) => {
      if (args.some((word) => word.includes("kill-"))) await new Promise(setImmediate); // as a loaded machine does
      return tmux(args, ...rest);
    };
    const shown = async () => {
      fake.files.delete(file("watchdog.lock.pid"));
      sleeping(() => hold("watchdog"));
      expect(await startWatchdog(cfg)).toBe(true);
      expect(fake.tmux.panes.map(({ session, dead }) => [session, dead])).toEqual([["agents-watchdog", false]]);
      return fake.tmux.of("agents-watchdog").pid;
    };
    const first = await shown();
    expect(await shown()).toBe(first);
    fake.tmux.exit("agents-watchdog");
    expect(await shown()).not.toBe(first);
    expect([new Set(said()), spawned, detached]).toEqual([new Set(["starting watchdog"]), ...Array(2).fill(Array(3).fill("keep"))]);
  });

  test("a tmux that does not answer has not said that no watchdog of the original runs: that is said", async () => {
    const { cfg, sleeping, hold, said, fake } = await fleet();
    fake.tmux.trouble = "no answer in time";
    sleeping((nth) => nth === 3 && hold("watchdog"));
    expect(await startWatchdog(cfg)).toBe(true);
    expect(said()[0]).toBe("tmux: no answer in time: an old agents.py watchdog, if one runs, is not ended");
  });

  test("`up` ends a watchdog of another version before it starts its own", async () => {
    const { cfg, spawned, sleeping, hold, signals, fake, file } = await fleet();
    hold("watchdog");
    fake.files.set(file("heartbeat"), JSON.stringify({ at: "", pid: 77, version: "0.0.1" }));
    const end = () => (fake.files.delete(file("watchdog.lock.pid")), fake.stat(77, 5, "Z"));
    sleeping((nth) => (nth === 2 ? end() : nth === 9 && (fake.stat(77, 5), hold("watchdog"))));
    expect([await startWatchdog(cfg), spawned, signals]).toEqual([true, ["keep"], ["0 SIGTERM"]]);
  });

  test("`up` after a `down` waits until the watchdog has ended that is still at it, and starts another", async () => {
    const { cfg, spawned, sleeping, hold, signals, fake, file } = await fleet();
    hold("watchdog");
    const end = () => (fake.files.delete(file("watchdog.lock.pid")), fake.stat(77, 5, "Z"));
    sleeping((nth) => (nth === 3 ? end() : nth === 9 && (fake.stat(77, 5), hold("watchdog"))));
    expect([await startWatchdog(cfg, true), spawned, signals]).toEqual([true, ["keep"], ["0 SIGTERM"]]);
  });

  test("`up` takes no watchdog for one of another version by the sign of one before it", async () => {
    const { cfg, hold, sleeping, signals, said, fake, file } = await fleet();
    sleeping(() => {});
    hold("watchdog");
    fake.files.set(file("heartbeat"), JSON.stringify({ at: "", pid: 76, version: "0.0.1" }));
    expect([await startWatchdog(cfg), signals, said().filter((line) => line.startsWith("replacing"))]).toEqual([true, [], []]);
  });

  test("`up` leaves one of another version alone as soon as it is ordered down", async () => {
    const { cfg, sleeping, hold, signals, fake, file, operator } = await fleet();
    hold("watchdog");
    fake.files.set(file("heartbeat"), JSON.stringify({ at: "", pid: 77, version: "0.0.1" }));
    sleeping((nth) => nth === 1 && operator({ held: { watchdog: 1 } }));
    await startWatchdog(cfg);
    expect(signals).toEqual(["0 SIGTERM"]);
  });

  test("`up` waits half a minute for a watchdog, and no longer", async () => {
    const { cfg, sleeping, took } = await fleet();
    sleeping(() => {});
    expect([await startWatchdog(cfg), took()]).toEqual([false, 30]);
  });

  test.each([["had ended", true], ["hung", false]])("`down` ends also a watchdog that began while it waited for the one before it, which %s", async (_, ended) => {
    const { cfg, hold, sleeping, signals, fake, file } = await fleet();
    const { signal } = world;
    world.signal = (pid, name) => (pid === 78 && name !== 0 ? (fake.stat(78, 5, "Z"), Boolean(signals.push(`78 ${name}`))) : signal(pid, name));
    hold("watchdog");
    sleeping((nth) => {
      if (nth !== 3) return;
      if (ended) fake.stat(77, 5, "Z");
      fake.stat(78, 5);
      fake.processes.set(78, fake.tmux.add("x"));
      fake.files.set(file("watchdog.lock.pid"), "78 5");
    });
    expect([(await command("down", "watchdog", "--config", cfg.path)).code, signals]).toEqual([0, ["0 SIGTERM", "78 SIGTERM"]]);
  });

  test("`down` asks a watchdog to end each two seconds, ends it after eight, and gives up after twelve", async () => {
    const { cfg, file, hold, sleeping, signals, said, took, fake } = await fleet();
    hold("watchdog");
    sleeping(() => {});
    const { code } = await command("down", "watchdog", "--config", cfg.path);
    expect([code, took(), signals]).toEqual([3, 12, ["0 SIGTERM", "2 SIGTERM", "4 SIGTERM", "6 SIGTERM", "8 SIGKILL", "10 SIGKILL"]]);
    expect(said()).toContain("watchdog: it cannot be ended, not even by SIGKILL");
    fake.stat(77, 6);
    expect((await command("down", "watchdog", "--config", cfg.path)).code).toBe(0);
    expect(said().at(-1)).toBe("watchdog: not running");
    // nobody knows whose its lock is, as where it cannot be opened: that of another user's fleet
    const lock = flock(file("watchdog.lock"))!;
    expect((await command("down", "watchdog", "--config", cfg.path)).code).toBe(3);
    expect(said().at(-1)).toStartWith("watchdog: nobody can say whether it runs");
    closeSync(lock);
  });
});

const trio = {
  agents: [{ name: "a1", watch: "heal" }, { name: "b1", watch: "heal+stall" }, { name: "c1" }],
};
/** The watchdogs among the children of a keeper, which also asks disks by processes. */
const watchdogsOf = (keeper: number): number[] => readFileSync(`/proc/${keeper}/task/${keeper}/children`, "utf8").split(" ").filter(Boolean).map(Number).filter((pid) => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("\0watchdog\0");
  } catch {
    return false; // it has ended
  }
});
const pids = async (f: Fleet) => Promise.all(["a1", "b1", "c1"].map((name) => f.pid(name)));

const kept = life(trio);

kept("P6: kill -9 of the watchdog: another within 5 s, the agents untouched; HUP ends neither it nor its keeper, which belongs to no terminal and no group but its own", async (f) => {
  await f.up();
  await f.ready("a1", "b1", "c1");
  const [before, old] = [await pids(f), f.lock("watchdog")];
  signal(old, "SIGKILL");
  await until(() => ![0, old].includes(f.lock("watchdog")), 5_000);
  await f.ticks(2);
  expect(await pids(f)).toEqual(before);
  expect(f.starts("a1")).toHaveLength(1);
  expect(f.log).toContain("the watchdog ended (SIGKILL), starting another");
  expect((await f.run(["status"])).code).toBe(0);

  // HUP asks a daemon to look again
  const [keeper, watchdog] = [f.lock("keeper"), f.lock("watchdog")];
  for (const pid of [watchdog, keeper]) signal(pid, "SIGHUP");
  await f.ticks(3);
  expect([f.lock("keeper"), f.lock("watchdog"), lives(keeper), lives(watchdog)]).toEqual([keeper, watchdog, true, true]);
  const [, , group, session, terminal] = readFileSync(`/proc/${keeper}/stat`, "utf8").split(") ").at(-1)!.split(" ");
  expect([group, session, terminal]).toEqual([`${keeper}`, `${keeper}`, "0"]);
});

kept("kill -9 of the keeper: a new one by the next tick, which keeps the watchdog; of three in a row; closing the watchdog's session ends nothing", async (f) => {
  const watchdog = f.lock("watchdog");
  for (let nth = 0; nth < 3; nth++) {
    const old = f.lock("keeper");
    signal(old, "SIGKILL");
    const next = await until(() => (f.lock("keeper") !== old ? f.lock("keeper") : 0));
    expect(f.lock("watchdog")).toBe(watchdog);
    if (nth === 0) await f.ticks(2);
    expect(f.lock("keeper")).toBe(next);
  }
  await f.tmux("kill-session", "-t", "=t-watchdog");
  await until(async () => (await f.sessions()).includes("t-watchdog"));
  // what shows the log there ends by itself: its dead pane makes room for another
  const shows = await until(() => f.pid("watchdog"));
  signal(shows, "SIGKILL");
  const again = await until(async () => [shows, 0].includes(await f.pid("watchdog")) ? 0 : f.pid("watchdog"), 12_000);
  expect([again === shows, f.log.includes("duplicate session"), f.lock("watchdog")]).toEqual([false, false, watchdog]);
  signal(watchdog, "SIGKILL");
  await until(() => ![0, watchdog].includes(f.lock("watchdog")), 5_000);
});

kept("kill -9 of both: the agents run on, status says so with exit 3, up brings them back", async (f) => {
  const before = await pids(f);
  signal(f.lock("keeper"), "SIGKILL");
  signal(f.lock("watchdog"), "SIGKILL");
  await until(() => !f.lock("watchdog") && !f.lock("keeper"));
  const status = await f.run(["status"]);
  expect([status.code, status.out]).toEqual([3, expect.stringContaining("watchdog: stopped")]);
  await f.up();
  expect(f.lock("watchdog")).toBeGreaterThan(0);
  expect(await pids(f)).toEqual(before);
});

kept("a keeper whose folder was removed, and another took its place, ends", async (f) => {
  const [keeper, watchdog] = [f.lock("keeper"), f.lock("watchdog")];
  signal(keeper, "SIGSTOP");
  signal(watchdog, "SIGKILL");
  await until(() => !lives(watchdog));
  rmSync(f.path(".agents"), { recursive: true });
  await f.up();
  const other = Number(await until(() => ![0, keeper].includes(f.lock("keeper")) && f.lock("keeper")));
  signal(keeper, "SIGCONT");
  await until(() => !lives(keeper));
  await f.ticks(2);
  expect([f.lock("keeper"), lives(other)]).toEqual([other, true]);
});

// Each for itself, as most of it is waiting; no agent has a part in it.
const unwatched = { agents: [{ name: "c1" }], watchdog: { signal_interval: 1 } };

real("a keeper that hangs starts no watchdog: up replaces it, and names a watchdog that hangs", unwatched, async (f) => {
  await f.up("watchdog");
  const keeper = await until(() => f.lock("keeper"));
  const watchdog = await until(() => f.lock("watchdog"));
  await f.ticks(1);
  signal(keeper, "SIGSTOP");
  signal(watchdog, "SIGSTOP");
  // the quarter of a minute after which it is stale has passed: liveness.test.ts waits for it
  const beat = JSON.parse(f.read(".agents/state/heartbeat"));
  f.write(".agents/state/heartbeat", JSON.stringify({ ...beat, at: new Date(Date.parse(beat.at) - 15_000).toISOString() }));
  await until(async () => (await f.run(["status"])).out.includes("watchdog: STALE"));
  expect((await f.run(["up", "watchdog"])).err).toContain('watchdog already running, but stale: "agents restart watchdog" replaces it');
  signal(watchdog, "SIGKILL");
  await until(() => !f.lock("watchdog"));
  const up = await f.run(["up", "watchdog"]);
  expect([up.code, up.err]).toEqual([0, expect.stringContaining(`the keeper (pid ${keeper}) starts no watchdog: replacing it`)]);
  expect([keeper, 0]).not.toContain(f.lock("keeper"));
  expect(f.lock("watchdog")).toBeGreaterThan(0);
});

real("a keeper whose program is gone, as after an upgrade elsewhere, starts no watchdog: up replaces it", unwatched, async (f) => {
  const old = f.path("old");
  mkdirSync(old);
  for (const name of ["agents.ts", "package.json", "prompts"]) cpSync(join(ROOT, name), join(old, name), { recursive: true });
  symlinkSync(join(ROOT, "node_modules"), join(old, "node_modules"));
  const script = [process.execPath, "--no-env-file", "--config=/dev/null", join(old, "agents.ts")];
  await spawn([...script, "up", "watchdog", "--config", f.config], { env: f.env });
  const keeper = await until(() => f.lock("keeper"));
  await f.ticks(1);
  rmSync(old, { recursive: true });
  signal(f.lock("watchdog"), "SIGKILL");
  await until(() => f.log.includes("the watchdog ended (exit 1)"), 20_000);
  const up = await f.run(["up", "watchdog"]);
  expect([up.code, up.err]).toEqual([0, expect.stringContaining(`the keeper (pid ${keeper}) starts no watchdog: replacing it`)]);
  await f.ticks(1);
  expect([keeper, 0]).not.toContain(f.lock("keeper"));
});

/** Its watchdog ends, and no other can start; returns the config with which one could. */
async function holdBack(f: Fleet): Promise<string> {
  await f.up("watchdog");
  await f.ticks(1);
  const good = f.read("agents.toml");
  f.write("agents.toml", "[[agent\n");
  await until(() => f.log.includes("the last good config stays in force"));
  rmSync(f.path(".agents/state/agents.toml"));
  signal(f.lock("watchdog"), "SIGKILL");
  return good;
}
/** Each pause is said as it is made, and takes that long. */
const pauses = (f: Fleet, seconds: number) =>
  until(() => f.log.includes(`the watchdog ended (exit 2), starting another in ${seconds} s`), 30_000, 20);

real("a watchdog that cannot start is tried ever more slowly", unwatched, async (f) => {
  await holdBack(f);
  const at = async (pause: number): Promise<number> => {
    await pauses(f, pause);
    return performance.now();
  };
  const [first, second, third] = [await at(2), await at(4), await at(8)];
  expect([second - first > 1_200, third - second > 3_000], `${second - first}, ${third - second}`).toEqual([true, true]);
});

real("a watchdog that could not start is there once it can", unwatched, async (f) => {
  const good = await holdBack(f);
  await pauses(f, 4);
  f.write("agents.toml", good);
  await until(() => f.lock("watchdog"), 30_000);
  await f.ticks(2);
});

const alone = life(trio);

alone("a watchdog notes from its start on where it is, so that one that hangs before its first round is seen to", async (f) => {
  mkdirSync(f.path(".agents/state"), { recursive: true });
  const hand = flock(f.path(".agents/state/hand.lock"))!; // a command is at work
  const watchdog = f.start(["watchdog"]);
  await until(() => f.lock("watchdog"));
  const note = () => f.read(".agents/state/watchdog.stage");
  await until(() => note().includes("waiting for a command"));
  const first = note();
  await until(() => note() !== first);
  expect(first.split(" ")[0]).toBe(`${watchdog.pid}`);
  closeSync(hand);
  await f.ticks(1);
  watchdog.kill("SIGINT");
  await until(() => watchdog.exitCode !== null);
});

alone("a watchdog in the foreground ends at once on Ctrl-C, exit 0", async (f) => {
  const watchdog = f.start(["watchdog"]);
  await until(() => f.lock("watchdog"));
  await f.ticks(1);
  watchdog.kill("SIGINT");
  await until(() => watchdog.exitCode !== null, 2_000);
  expect(watchdog.exitCode).toBe(0);
});

alone("P7, fault 6: of twenty watchdogs at once one lives and the others exit 100 at once; again after kill -9", async (f) => {
  // whether the lock is free again shows with two as well
  for (const count of [20, 2]) {
    const all = Array.from({ length: count }, () => f.start(["watchdog"]));
    const lost = () => all.filter((one) => one.exitCode === 100);
    await until(() => lost().length === count - 1);
    await f.ticks(2);
    const [holder, ...more] = all.filter((one) => one.exitCode === null);
    expect(more).toEqual([]);
    expect(f.lock("watchdog")).toBe(holder!.pid);
    expect(await new Response(lost()[0]!.stderr).text()).toContain("another watchdog is already running");
    const late = f.start(["watchdog"]);
    const began = performance.now();
    expect(await late.exited).toBe(100);
    expect(performance.now() - began).toBeLessThan(await allowed(1_000));
    signal(holder!.pid, "SIGKILL");
    await holder!.exited;
  }
});

alone("a supervisor that a unit starts while the config is broken takes the last good one", async (f) => {
  await f.up("a1", "b1");
  await f.ready("a1", "b1");
  const unit = (await f.run(["unit"])).out;
  expect(unit).toMatch(/^ExecStart=.*"?--last-good"? .*agents\.toml.* "?--config"? /m);
  const once = f.start(["watchdog"]);
  await f.ticks(1);
  once.kill("SIGTERM");
  await once.exited;
  f.write("agents.toml", "[[agent]\nname = ");
  const good = join(f.state, "agents.toml");
  expect(readFileSync(good, "utf8")).toContain("a1");
  const supervisor = f.start(["watchdog", "--last-good", good]);
  await until(() => f.lock("watchdog") === supervisor.pid);
  await f.ticks(2);
  const begun = f.starts("a1").length;
  signal(await f.pid("a1"), "SIGKILL");
  await until(() => f.starts("a1").length === begun + 1);
  await until(async () => (await f.sessions()).includes("t-watchdog"));
  supervisor.kill("SIGTERM");
  expect(await supervisor.exited).toBe(0);
  f.write("agents.toml", f.text());
});

/** A keeper that takes a watchdog for hung after 3 s, not after two minutes. */
const hasty = (f: Fleet) => f.start(["keep", "--least", "3000"]);
/** As on a full disk: the lock is held, and nothing says by whom until the next round. */
const forgetPid = (f: Fleet) => rmSync(join(f.state, "watchdog.lock.pid"));
const slow = life({ ...trio, watchdog: { signal_interval: 60 } });

slow("SIGTERM of the watchdog ends it and its keeper, and nothing else, with a tick of 60 s too", async (f) => {
  await f.up();
  await f.ready("a1", "b1", "c1");
  const before = await pids(f);
  const two = [f.lock("watchdog"), f.lock("keeper")];
  signal(two[0]!, "SIGTERM");
  await until(() => !two.some(lives), 3_000);
  expect(await pids(f)).toEqual(before);
});

slow("a lock whose pid could not be written is held all the same: the watchdog that has it is not ended for it", async (f) => {
  await f.up();
  const [keeper, watchdog] = [f.lock("keeper"), f.lock("watchdog")];
  await until(() => f.read(".agents/state/watchdog.stage").includes("resting")); // or its first tick starts a keeper
  signal(keeper, "SIGKILL");
  await until(() => !lives(keeper));
  forgetPid(f);
  const next = hasty(f);
  await until(() => f.lock("keeper") === next.pid);
  await Bun.sleep(6_000);
  expect([lives(watchdog), f.log.includes("holds no lock")]).toEqual([true, false]);
  next.kill("SIGTERM");
  await next.exited;
});

real("nor are others started for it, one each second", { ...unwatched, watchdog: { signal_interval: 60 } }, async (f) => {
  const holder = f.start(["watchdog"]);
  const itsStage = () => f.read(".agents/state/watchdog.stage");
  await until(() => itsStage().startsWith(`${holder.pid} `) && itsStage().includes("resting"));
  forgetPid(f);
  const keeper = hasty(f);
  const started = new Set<number>();
  await until(() => f.lock("keeper") === keeper.pid);
  for (const end = performance.now() + 10_000; performance.now() < end; await Bun.sleep(20)) {
    for (const pid of watchdogsOf(keeper.pid)) started.add(pid);
  }
  expect(started.size).toBeWithin(1, 4);
  const refused = () => f.log.split("another watchdog has the lock").length - 1;
  await until(refused);
  expect(refused()).toBe(1);
  for (const one of [keeper, holder]) {
    one.kill("SIGTERM");
    await one.exited;
  }
});
