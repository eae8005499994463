/** The folder of a fleet is moved, linked, copied or put in another's place while it runs: who is who is known by more than a path. */
import { expect } from "bun:test";
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { type Fleet, life, lives, type Plan, type Ran, real, ROOT, SELF, signal, spawn, until } from "./real.ts";

const solo: Plan = { agents: [{ name: "a1", watch: "heal" }] };
/** Where only the other is to be started anew. */
const duo: Plan = { agents: [...solo.agents!, { name: "b1", watch: "heal" }] };
const clients = (f: Fleet) => Promise.all(f.plan.agents!.map(({ name }) => f.pid(name)));
const at = (f: Fleet, folder: string, words: string[], env = {}): Promise<Ran> => f.run([...words, "--config", f.path(folder, "agents.toml")], { env });

/** The pid of who has a lock in a folder: a copy has the file beside it too. */
function pidIn(f: Fleet, folder: string, what: "watchdog" | "keeper"): number {
  const file = f.path(folder, `.agents/state/${what}.lock.pid`);
  const pid = existsSync(file) ? Number(readFileSync(file, "utf8").split(" ")[0]) : 0;
  return pid && lives(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`--config\0${f.path(folder, "agents.toml")}\0`) ? pid : 0;
}
const supervisors = (f: Fleet, folder: string): number[] => [pidIn(f, folder, "watchdog"), pidIn(f, folder, "keeper")].filter(Boolean);
async function watched(f: Fleet, folder: string): Promise<number[]> {
  await until(() => supervisors(f, folder).length === 2, 60_000);
  return supervisors(f, folder);
}

/** A fleet at work in a folder inside that of the harness. */
async function begin(f: Fleet, folder = "fleet"): Promise<void> {
  if (!existsSync(f.path(folder))) mkdirSync(f.path(folder), { recursive: true });
  f.write(join(folder, "agents.toml"), f.text());
  expect(await at(f, folder, ["up"])).toMatchObject({ code: 0 });
  await f.ready(...f.plan.agents!.map(({ name }) => name));
  await watched(f, folder);
}

/** `down` in this folder ends all that the fleet runs. */
async function endsAll(f: Fleet, folder: string, env = {}): Promise<void> {
  const pids = [...await clients(f), ...supervisors(f, folder)];
  expect(await at(f, folder, ["down"], env)).toMatchObject({ code: 0 });
  expect(pids.filter(lives)).toEqual([]);
}

real("a fleet whose folder is moved, with a link in its place, is the same fleet to each command", solo, async (f) => {
  await begin(f);
  const before = await clients(f);
  renameSync(f.path("fleet"), f.path("new"));
  symlinkSync(f.path("new"), f.path("fleet"));
  expect((await at(f, "fleet", ["status"])).code).toBe(0);
  expect((await at(f, "fleet", ["send", "a1", "hello"])).code).toBe(0);
  expect(f.submits("a1")).toEqual(["hello"]);
  expect(await at(f, "fleet", ["up"])).toMatchObject({ code: 0, err: expect.stringContaining("t-a1 already running") });
  expect(await clients(f)).toEqual(before);
  expect((await at(f, "new", ["restart", "a1"])).code).toBe(0);
  expect(f.starts("a1")).toHaveLength(2);
  await endsAll(f, "fleet");
});

real("keeper and watchdog go with a folder that is moved, and leave nothing in the old place", duo, async (f) => {
  await begin(f, "old/fleet");
  const before = await clients(f);
  renameSync(f.path("old"), f.path("new"));
  await watched(f, "new/fleet");
  expect(f.read("new/fleet/.agents/t-watchdog.log")).toContain(`the fleet's folder is ${f.path("new/fleet")} now`);
  expect(f.read("new/fleet/.agents/t-watchdog.log")).not.toContain("the watchdog before this one");
  expect(await clients(f)).toEqual(before);
  signal(before[0]!, "SIGKILL");
  await until(() => f.starts("a1").length === 2, 60_000);
  expect(f.starts("b1")).toHaveLength(1);
  expect(existsSync(f.path("old"))).toBe(false);
  await endsAll(f, "new/fleet");
});

const keeperless = life(duo);
for (const [copy, from, to] of [[false, "old", "new"], [true, "new", "newer"]] as const) {
  keeperless(`a watchdog without a keeper goes on where the folder is now, as the same process, ${copy ? "with its copy" : "by hand"}`, async (f) => {
    const [there, here] = [`${from}/fleet`, `${to}/fleet`];
    f.write(`${there}/agents.toml`, f.text());
    const state = (folder: string) => f.path(folder, ".agents/state");
    const pulse = () => f.read(`${there}/.agents/state/heartbeat`);
    const [old, begun] = [pulse(), f.starts("a1").length || 1];
    const words = ["watchdog", ...(copy ? ["--last-good", join(state(there), "agents.toml")] : [])];
    const watchdog = Bun.spawn([...SELF, ...words, "--config", f.path(there, "agents.toml")], { cwd: "/", env: f.env, stdio: ["ignore", "ignore", "ignore"] });
    await until(() => pulse() !== old, 60_000);
    if (!copy) expect(await at(f, there, ["up", "a1", "b1"])).toMatchObject({ code: 0, err: expect.not.stringContaining("ERROR") });
    await f.ready("a1", "b1");
    const before = await clients(f);
    renameSync(f.path(from), f.path(to));
    await until(() => pidIn(f, here, "watchdog") === watchdog.pid, 60_000);
    signal(before[0]!, "SIGKILL");
    await until(() => f.starts("a1").length === begun + 1, 60_000);
    const argv = readFileSync(`/proc/${watchdog.pid}/cmdline`, "utf8");
    expect([f.starts("b1").length, pidIn(f, here, "keeper"), existsSync(f.path(from)), argv.includes(join(state(here), "agents.toml"))]).toEqual([1, 0, false, copy]);
    expect(f.read(`${here}/.agents/t-watchdog.log`)).not.toContain("the watchdog before this one");
    watchdog.kill("SIGTERM");
    expect(await watchdog.exited).toBe(0);
    if (copy) await endsAll(f, here);
  });
}

real("a program that is in the folder, as in a clone of it, goes on from where that is moved", solo, async (f) => {
  for (const one of ["agents.ts", "agents.toml", "package.json", "prompts"]) cpSync(join(ROOT, one), f.path("fleet", one), { recursive: true });
  symlinkSync(join(ROOT, "node_modules"), f.path("fleet/node_modules"));
  f.write("fleet/agents.toml", f.text());
  const run = (folder: string, ...words: string[]) =>
    spawn([process.execPath, "--no-env-file", "--config=/dev/null", f.path(folder, "agents.ts"), ...words, "--config", f.path(folder, "agents.toml")], { env: f.env });
  expect(await run("fleet", "up")).toMatchObject({ code: 0 });
  await f.ready("a1");
  await watched(f, "fleet");
  renameSync(f.path("fleet"), f.path("new"));
  await watched(f, "new");
  expect((await run("new", "status")).code).toBe(0);
  const pids = [...await clients(f), ...supervisors(f, "new")];
  expect(await run("new", "down")).toMatchObject({ code: 0 });
  expect(pids.filter(lives)).toEqual([]);
});

/** Begins in "fleet" and goes to "first"; what is in its place is to touch nothing of it. */
async function replaced(f: Fleet, move: () => void): Promise<void> {
  const before = await clients(f);
  move();
  const down = await at(f, "fleet", ["down"]); // at once, before the watchdog has seen it
  expect([down.code, down.err]).toEqual([3, expect.stringContaining("the session t-a1 belongs to the fleet of")]);
  const [watchdog, keeper] = await watched(f, "first");
  expect([(await at(f, "fleet", ["up"])).code, (await at(f, "fleet", ["restart", "a1"])).code, (await at(f, "fleet", ["down"])).code]).toEqual([1, 1, 3]);
  expect([await clients(f), await watched(f, "first"), f.starts("a1").length]).toEqual([before, [watchdog!, keeper!], 1]);
  expect((await at(f, "first", ["status"])).code).toBe(0);
}

const moved = life(solo);
moved("a copy in the place of a fleet's folder is another fleet: neither touches what the other runs", async (f) => {
  await begin(f);
  await replaced(f, () => {
    renameSync(f.path("fleet"), f.path("first"));
    cpSync(f.path("first"), f.path("fleet"), { recursive: true });
  });
});

moved("a new folder in the place of a fleet's folder is another fleet: neither touches what the other runs", async (f) => {
  rmSync(f.path("fleet"), { recursive: true });
  renameSync(f.path("first"), f.path("fleet"));
  await watched(f, "fleet");
  await replaced(f, () => {
    renameSync(f.path("fleet"), f.path("first"));
    f.write("fleet/agents.toml", f.text());
  });
  await endsAll(f, "first");
});

real("the target of a link that leads elsewhere now in the place of a fleet's folder is another fleet: neither touches what the other runs", solo, async (f) => {
  mkdirSync(f.path("first"));
  symlinkSync(f.path("first"), f.path("fleet"));
  await begin(f);
  await replaced(f, () => {
    cpSync(f.path("first"), f.path("second"), { recursive: true });
    unlinkSync(f.path("fleet"));
    symlinkSync(f.path("second"), f.path("fleet"));
  });
  await endsAll(f, "first");
});

real("a fleet without a watchdog is ended where its folder is now, from a shell with another TMUX_TMPDIR and HOME", solo, async (f) => {
  await begin(f);
  for (const what of ["keeper", "watchdog"] as const) signal(pidIn(f, "fleet", what), "SIGKILL");
  renameSync(f.path("fleet"), f.path("new"));
  const there = { TMUX_TMPDIR: f.home, HOME: f.path("new") };
  expect((await at(f, "new", ["status"], there)).out).toMatch(/a1 .* (idle|starting)/);
  await endsAll(f, "new", there);
});

for (const back of ["a backup in its place", "nothing in its place"]) {
  real(`a fleet whose folder is removed, with ${back}, is ended from where it was`, solo, async (f) => {
    await begin(f);
    cpSync(f.path("fleet"), f.path("backup"), { recursive: true });
    const [before, [watchdog]] = [await clients(f), await watched(f, "fleet")];
    const [mark, backup] = [f.path("fleet/.agents/state/fleet"), f.path("backup")];
    const written = back.startsWith("a") ? readFileSync(mark, "utf8") : "";
    await until(() => { // the watchdog makes its files anew in the meantime
      rmSync(f.path("fleet"), { recursive: true, force: true });
      if (written) renameSync(backup, f.path("fleet"));
      return true;
    });
    await until(() => existsSync(mark) && readFileSync(mark, "utf8") !== written); // by the watchdog, which goes on
    expect([await clients(f), pidIn(f, "fleet", "watchdog")]).toEqual([before, watchdog!]);
    await endsAll(f, "fleet");
  });
}

const stays = life(solo);
stays("log_dir is moved away under its own name: the fleet stays where its config is", async (f) => {
  await begin(f);
  const [watchdog] = await watched(f, "fleet");
  mkdirSync(f.path("archive"));
  renameSync(f.path("fleet/.agents"), f.path("archive/.agents"));
  await until(() => existsSync(f.path("fleet/.agents/state/heartbeat")));
  expect([(await watched(f, "fleet"))[0], (await at(f, "fleet", ["status"])).code]).toEqual([watchdog!, 0]);
});

stays("another log_dir in the config while the fleet runs: an order says what to restore, and ends nothing; one that was moved is the fleet's own", async (f) => {
  const before = [...await clients(f), ...await watched(f, "fleet")];
  f.write("fleet/agents.toml", f.text({ ...f.plan, defaults: { log_dir: f.path("logs") } }));
  for (const order of [["down"], ["up"], ["restart", "a1"]]) {
    const { code, err } = await at(f, "fleet", order);
    expect([code, err]).toEqual([1, expect.stringContaining(`log_dir stays "${f.path("fleet/.agents")}" while the fleet runs`)]);
  }
  expect(before.filter(lives)).toEqual(before);
  rmSync(f.path("logs"), { recursive: true, force: true });
  renameSync(f.path("fleet/.agents"), f.path("logs"));
  const up = await at(f, "fleet", ["up"]);
  expect([up.code, up.err]).toEqual([1, expect.stringMatching(/t-a1 already running.*log_dir stays/s)]);
  await endsAll(f, "fleet");
  expect(before.filter(lives)).toEqual([]);
});
