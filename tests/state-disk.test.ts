/** P4 on a real small file system that is full for a while; needs root to mount one. */
import { expect, test } from "bun:test";
import { closeSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { flock, world } from "../agents.ts";
import { allowed, type Fleet, life, lives, real, signal, until } from "./real.ts";

const mounts = (...words: string[]): boolean => Bun.spawnSync(words, { stdio: ["ignore", "ignore", "ignore"] }).exitCode === 0;

/** Mounts a file system whose program never answers. */
const hang = (place: string, env: Record<string, string | undefined>): Bun.Subprocess =>
  Bun.spawn(["bash", "-c", 'exec 3<>/dev/fuse && mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung "$1" && exec sleep 600', "sh", place],
    { env, stdio: ["ignore", "ignore", "ignore"] });

async function hasHung(place: string, hung: Bun.Subprocess): Promise<boolean> {
  const mounted = () => readFileSync("/proc/self/mountinfo", "utf8").includes(`${place.slice(-11)} `);
  await until(() => mounted() || hung.exitCode !== null);
  if (!mounted()) process.stderr.write("SKIPPED: the disk that hangs: no such file system can be mounted here\n");
  return mounted();
}

/** Writes until nothing more fits. */
function fill(path: string): void {
  try {
    for (let nth = 0; ; nth++) writeFileSync(`${path}${nth}`, "x".repeat(4_096));
  } catch {
    // full: what was wanted
  }
}

/** One life of a fleet; its folder is a small file system, where one can be mounted. */
const disk = life({ agents: ["a1", "b1"].map((name) => ({ name, watch: "heal" })) });
let isMounted = false;
const small = (name: string, body: (f: Fleet, logs: string) => Promise<unknown>): void => disk(name, async (f) => {
  if (isMounted) await body(f, f.path(".agents"));
  else process.stderr.write(`SKIPPED: no small file system can be mounted here: ${name}\n`);
});

disk("P4: a log that takes nothing is in status, and the last that it lacks is written once it can be", async (f) => {
  const [logs, log] = [f.path(".agents"), f.path(".agents/t-watchdog.log")];
  mkdirSync(logs);
  isMounted = process.getuid?.() === 0 && mounts("mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", logs);
  symlinkSync("/dev/full", log);
  // in the place of the session that would show it without an end
  await f.tmux("new-session", "-d", "-s", "t-watchdog", "sleep", "600");
  try {
    await f.up();
    await f.ready("a1", "b1");
    await f.ticks(2);
    expect(await f.run(["status"])).toMatchObject({ code: 3, out: expect.stringMatching(/^watchdog: cannot write .*t-watchdog\.log: ENOSPC/m) });
  } finally {
    rmSync(log); // it never ends for whoever reads it
  }
  await f.tmux("kill-session", "-t", "=t-watchdog");
  await f.ticks(2);
  expect([(await f.run(["status"])).code, readFileSync(log, "utf8")]).toEqual([0, expect.stringMatching(/a log cannot be written: [^]*logs: written again\n/)]);
});

small("P4: a full disk stops no supervision, and nothing is lost or half written when there is room again", async (f, logs) => {
  const watchdog = f.lock("watchdog");
  fill(join(logs, "filler"));
  const sent = await f.run(["send", "a1", "while it is full", "--timeout", "1"]);
  expect([sent.code, sent.err]).toEqual([1, expect.stringMatching(/no space left/i)]);
  expect(sent.err).not.toContain("    at ");
  await f.tmux("kill-session", "-t", "=t-b1");
  for (const end = performance.now() + 3_000; performance.now() < end; await Bun.sleep(100)) {
    expect(f.lock("watchdog")).toBe(watchdog);
  }
  for (let nth = 0; nth < 1_000; nth++) rmSync(join(logs, `filler${nth}`), { force: true });
  await until(() => f.starts("b1").length === 2, 15_000);
  await f.ticks(2);
  expect(f.lock("watchdog")).toBe(watchdog);
  expect(f.starts("a1")).toHaveLength(1);
  expect((await f.run(["send", "b1", "after it"])).code).toBe(0);
  expect(f.submits("b1")).toEqual(["after it"]);
});

small("P4: on a disk that became read-only a watchdog comes up, and goes on once it can write again", async (f, logs) => {
  const [old, keeper] = [f.lock("watchdog"), f.lock("keeper")];
  signal(keeper, "SIGKILL");
  signal(old, "SIGKILL");
  for (const session of ["t-a1", "t-b1", "t-watchdog"]) await f.tmux("pipe-pane", "-t", `=${session}:`); // or the disk is in use
  await until(() => mounts("mount", "-o", "remount,ro", logs));
  const watchdog = f.start(["watchdog"]);
  const isHeld = () => {
    const taken = flock(join(f.state, "watchdog.lock"));
    if (taken !== null) closeSync(taken);
    return taken === null;
  };
  await until(isHeld, 20_000);
  expect([watchdog.exitCode, f.starts("a1").length]).toEqual([null, 1]);
  expect(await f.run(["status"])).toMatchObject({ code: 3, out: expect.stringContaining("watchdog: runs, but cannot write") });
  expect(mounts("mount", "-o", "remount,rw", logs)).toBe(true);
  await until(() => f.lock("watchdog") === watchdog.pid, 15_000);
  await f.ticks(2);
  expect(isHeld()).toBe(true);
});

disk("down ends a fleet that lived through all of this", async (f) => {
  expect((await f.run(["down"])).code).toBe(0);
  expect(await f.sessions()).toEqual([]);
});

real("P4: an agent whose client keeps its files on a disk that hangs, or works there, costs no other agent its care, nor a command its end", {
  agents: ["a1", "b1", "c1"].map((name) => ({ name, watch: "heal" })),
}, async (f) => {
  const home = f.path("hung");
  mkdirSync(home);
  f.write("agents.toml", f.read("agents.toml").replace("env = {", `env = { CLAUDE_CONFIG_DIR = ${JSON.stringify(home)},`)
    .replace('name = "c1"', `name = "c1"\ndir = ${JSON.stringify(home)}`));
  await f.up();
  await f.ready("a1", "b1", "c1");
  await f.ticks(2);
  const watchdog = f.lock("watchdog");
  const hung = hang(home, f.env); // it ends with the fleet, however that does
  try {
    if (!(await hasHung(home, hung))) return;
    await f.tmux("kill-session", "-t", "=t-c1");
    // beside the watchdog: each waits 6 s for that disk; not so a fleet that has nothing on it
    const looked = f.run(["status"]);
    const other = f.write("other/agents.toml", f.text({ agents: [{ name: "x" }], defaults: { session_prefix: "o-" } }));
    const first = await Promise.race([looked.then(() => "status"), f.run(["down", "--config", other]).then(({ code }) => `down ${code}`)]);
    expect(first).toBe("down 0");
    await until(() => JSON.parse(f.read(".agents/state/watch.json")).agents.a1?.why === "the disk with its own files does not answer", 30_000);
    await until(() => f.events("blocked").some(({ agent }) => agent === "c1"), 15_000);
    await f.tmux("kill-session", "-t", "=t-b1");
    await until(() => f.starts("b1").length === 2, 15_000);
    await f.ticks(3);
    expect([f.lock("watchdog"), f.starts("a1").length, f.starts("c1").length]).toEqual([watchdog, 1, 1]);
    const status = await looked;
    expect([status.code, status.out]).toEqual([3, expect.stringMatching(/^! c1 .*cannot be read \(its disk does not answer\)/m)]);
    expect((await f.run(["down"])).code).toBe(0);
    await until(() => f.processes().every(({ pid }) => pid === hung.pid || !lives(pid))); // nor one that still asks it
  } finally {
    hung.kill("SIGKILL"); // whoever waits there gets an error
    await hung.exited;
    mounts("umount", "-l", home);
  }
});

real("P4: a prompt on a disk that hangs, or a link to one there, keeps no watchdog from its start, and no other agent from its care", {
  agents: ["a1", "b1", "c1"].map((name) => ({ name, watch: "heal" })),
}, async (f) => {
  const home = f.path("hung");
  mkdirSync(home);
  f.write("hung/a1.md", "go");
  symlinkSync("hung/a1.md", f.path("c1.md"));
  f.write("agents.toml", f.read("agents.toml").replace('name = "a1"', `name = "a1"\nprompt_file = ${JSON.stringify(join(home, "a1.md"))}`)
    .replace('name = "c1"', 'name = "c1"\nprompt_file = "c1.md"'));
  await f.up();
  await f.ready("a1", "b1", "c1");
  await f.ticks(1);
  const watchdog = f.lock("watchdog");
  const hung = hang(home, f.env);
  try {
    if (!(await hasHung(home, hung))) return;
    signal(watchdog, "SIGKILL");
    await until(() => ![0, watchdog].includes(f.lock("watchdog")), 30_000);
    for (const name of ["a1", "b1", "c1"]) await f.tmux("kill-session", "-t", `=t-${name}`);
    await until(() => f.starts("b1").length === 2, 30_000);
    await f.ticks(2);
    for (const name of ["a1", "c1"]) expect([f.starts(name).length, f.log.includes(`${name}.md: its disk does not answer`)]).toEqual([1, true]);
    expect((await f.run(["down"])).code).toBe(0);
    await until(() => f.processes().every(({ pid }) => pid === hung.pid || !lives(pid)));
  } finally {
    hung.kill("SIGKILL");
    await hung.exited;
    mounts("umount", "-l", home);
  }
});

test.concurrent("what is asked beside a disk that hangs leaves nothing behind in a watchdog that goes on for weeks", async () => {
  const place = mkdtempSync(join(tmpdir(), "agents-hung-"));
  const hung = hang(place, process.env);
  try {
    if (!(await hasHung(place, hung))) return;
    const before = process.listenerCount("exit");
    const began = performance.now();
    expect(await world.answers(join(place, "file"))).toBe(false);
    // once: not for a thread and then, as long again, for a process
    expect(performance.now() - began).toBeLessThan(await allowed(9_000));
    const beside = process.listenerCount("exit");
    for (let nth = 0; nth < 5; nth++) expect(await world.answers(tmpdir())).toBe(true);
    // nor is it asked again for what else is on it
    expect(await world.answers(join(place, "another"))).toBe(false);
    expect(process.listenerCount("exit")).toBe(beside);
    hung.kill("SIGKILL"); // whoever waits there gets an error
    await until(() => process.listenerCount("exit") === before);
  } finally {
    hung.kill("SIGKILL");
    await hung.exited;
    mounts("umount", "-l", place);
    rmSync(place, { recursive: true });
  }
}, 30_000);
