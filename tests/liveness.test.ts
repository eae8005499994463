/** A watchdog that lives and does nothing, and state that is not what it should be: seen, said, replaced. */
import { expect } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Fleet, life, lives, real, SELF, signal, until } from "./real.ts";

const trio = {
  agents: [{ name: "a1", watch: "heal" }, { name: "b1", watch: "heal+stall" }, { name: "c1" }],
};

/** A keeper that takes a watchdog for hung after 3 s, not after two minutes. */
const hasty = (f: Fleet) => f.start(["keep", "--least", "3000"]);

/** How often each agent was started. */
const starts = (f: Fleet): number[] => trio.agents.map(({ name }) => f.starts(name).length);

const hung = life(trio);

hung("P30: a watchdog that is stopped is seen as such, and replaced, with a word about where it stood", async (f) => {
  await f.up("a1", "b1", "c1");
  const keeper = hasty(f);
  const old = await until(() => f.lock("watchdog"));
  await f.ready("a1", "b1", "c1");
  await f.ticks(2);
  signal(old, "SIGSTOP");
  await until(() => f.lock("watchdog") !== old && f.lock("watchdog"), 60_000);
  expect(f.log).toMatch(new RegExp(`the watchdog \\(pid ${old}\\) has not moved for \\d+ s, at: .*; ending it`));
  expect(lives(old)).toBe(false);
  signal(await f.pid("a1"), "SIGKILL");
  await until(() => f.starts("a1").length === 2, 30_000);
  expect(starts(f)).toEqual([2, 1, 1]);
  keeper.kill("SIGTERM");
  await keeper.exited;
});

hung("an order needs no watchdog: one that hangs with its keeper keeps no down, up or restart waiting", async (f) => {
  await f.up();
  await until(() => f.lock("keeper"));
  await f.ticks(1);
  const [a, b, c] = starts(f) as [number, number, number];
  const hung = [f.lock("keeper"), f.lock("watchdog")];
  for (const pid of hung) signal(pid, "SIGSTOP");
  const order = async (...words: string[]) => (await f.run(words)).code;
  expect(await order("down", "b1")).toBe(0);
  expect(await f.sessions()).not.toContain("t-b1");
  expect([await order("up", "b1"), await order("restart", "c1")]).toEqual([0, 0]);
  await until(() => starts(f).join() === [a, b + 1, c + 1].join());
  for (const pid of hung) signal(pid, "SIGCONT");
  await f.ticks(2);
  expect(starts(f)).toEqual([a, b + 1, c + 1]);
});

real("P30: a hung watchdog is STALE in status, with the place and the cure, exit 3; one that ended is stopped", { agents: [trio.agents[0]!] }, async (f) => {
  await f.up();
  await until(() => f.lock("keeper"));
  await f.ticks(1);
  const [keeper, watchdog] = [f.lock("keeper"), f.lock("watchdog")];
  signal(keeper, "SIGSTOP");
  signal(watchdog, "SIGSTOP");
  const { at } = JSON.parse(f.read(".agents/state/heartbeat"));
  await until(() => Date.now() - Date.parse(at) > 15_000, 60_000);
  const stale = await f.run(["status"]);
  expect([stale.code, stale.out]).toEqual([3, expect.stringContaining(`stopped by a signal (kill -CONT ${watchdog})`)]);
  expect(stale.out).toContain("STALE");
  signal(watchdog, "SIGKILL");
  await until(() => !lives(watchdog));
  const stopped = await f.run(["status"]);
  expect([stopped.out.includes("watchdog: stopped"), stopped.code]).toEqual([true, 3]);
  signal(keeper, "SIGCONT");
  await until(() => f.lock("watchdog"), 30_000);
});

/** Time between two looks of the watchdog for what is to happen there: a keeper that saw no watchdog would start one after a second. */
const watchdog = { signal_interval: 2 };
const folder = life({ agents: trio.agents.slice(0, 2), watchdog });

folder("P30: log_dir is away for a while: both live on, one watchdog alone, and they write again", async (f) => {
  await f.up();
  await f.ready("a1", "b1");
  await f.ticks(2);
  const [keeper, watchdog] = [f.lock("keeper"), f.lock("watchdog")];
  renameSync(f.path(".agents"), f.path("away"));
  writeFileSync(f.path(".agents"), "a file in its place");
  signal(await f.pid("a1"), "SIGKILL");
  await until(async () => (await f.sessions()).includes("t-a1") && f.starts("a1").length === 2, 60_000);
  expect([lives(keeper), lives(watchdog)]).toEqual([true, true]);
  rmSync(f.path(".agents"));
  renameSync(f.path("away"), f.path(".agents"));
  await f.ticks(2);
  expect([f.lock("keeper"), f.lock("watchdog"), (await f.run(["status"])).code]).toEqual([keeper, watchdog, 0]);
  expect(f.log).toContain("state folder: readable again");
});

folder("P30: log_dir goes, and up makes it anew: one watchdog goes on, and down ends all, though the config went too", async (f) => {
  await f.ticks(1);
  const [watchdog, begun] = [f.lock("watchdog"), starts(f)];
  renameSync(f.path(".agents"), f.path("away"));
  expect((await f.run(["up"])).code).toBe(0);
  expect([f.lock("watchdog"), starts(f)]).toEqual([watchdog, begun]);
  rmSync(f.config);
  await until(() => f.read(".agents/state/agents.toml"));
  expect((await f.run(["down"])).code).toBe(0);
  expect(lives(watchdog)).toBe(false);
  expect(await f.sessions()).toEqual([]);
});

const memory = life({ agents: [trio.agents[0]!], watchdog });
for (const moment of ["as a new keeper begins", "once it has looked"]) {
  memory(`P30: log_dir goes, ${moment}: the watchdog goes on with its memory, no other is started`, async (f) => {
    if (!f.starts("a1").length) {
      await f.up();
      await f.ready("a1");
      await f.ticks(1);
    }
    const [keeper, watchdog] = [f.lock("keeper"), f.lock("watchdog")];
    signal(keeper, "SIGKILL");
    await until(() => f.lock("keeper") !== keeper && f.lock("keeper"), 30_000);
    const second = f.lock("keeper");
    if (moment === "once it has looked") await until(() => f.read(".agents/state/keeper.stage").startsWith(`${second} `));
    renameSync(f.path(".agents"), f.path("away"));
    await f.ticks(2);
    expect(lives(watchdog)).toBe(true);
    // both write in the new folder all the while
    await until(() => (rmSync(f.path(".agents"), { recursive: true, force: true }), renameSync(f.path("away"), f.path(".agents")), true));
    await f.ticks(2);
    expect([f.lock("keeper"), f.lock("watchdog")]).toEqual([second, watchdog]);
    expect(f.log.match(/watchdog up: /g)).toHaveLength(1);
  });
}

real("P30: the program is away while the watchdog dies: the keeper tries until it is back", { agents: [{ name: "c1" }] }, async (f) => {
  const program = f.path("program"); // Bun, or the executable that is tried
  copyFileSync(SELF[0]!, program);
  chmodSync(program, 0o755);
  const keeper = Bun.spawn([program, ...SELF.slice(1), "keep", "--config", f.config], { cwd: "/", env: f.env, stdio: ["ignore", "ignore", "ignore"] });
  const old = await until(() => f.lock("watchdog"), 30_000);
  await f.ticks(1);
  renameSync(program, `${program}.old`);
  signal(old, "SIGKILL");
  await until(() => f.log.includes("the watchdog could not be started"), 30_000);
  expect(lives(keeper.pid)).toBe(true);
  renameSync(`${program}.old`, program);
  await until(() => f.lock("watchdog") !== old && f.lock("watchdog"), 60_000);
  keeper.kill("SIGTERM");
  await keeper.exited;
});

const WRONG: Record<string, (path: string) => void> = {
  "a fifo": (path) => void Bun.spawnSync(["mkfifo", path]), "a folder": (path) => void mkdirSync(join(path, "x"), { recursive: true }),
  "a loop": (path) => symlinkSync(path, path), "a gigabyte": (path) => void Bun.spawnSync(["truncate", "-s", "1G", path]),
  garbage: (path) => writeFileSync(path, "{\0garbage"),
};
real("P30: a fifo, a folder, a loop, a gigabyte, garbage in place of each state file: a new watchdog comes up, status answers, agents are healed", { agents: [trio.agents[0]!], watchdog: { park_after: 50, restart_delay_max: 0.5 } }, async (f) => {
  await f.up();
  await f.ready("a1");
  await f.ticks(2);
  const files = ["watch.json", "operator.json", "heartbeat", "events.jsonl", "agents.toml", "watchdog.stage", "a1.id", "limited-t-a1.json",
    "fleet", "keeper.stage", "operator.lock", "ssh-auth-sock"];
  for (const [what, make] of Object.entries(WRONG)) {
    const [old, starts] = [f.lock("watchdog"), f.starts("a1").length];
    signal(old, "SIGSTOP"); // it would write one anew between the two calls
    for (const file of files) {
      rmSync(join(f.state, file), { force: true, recursive: true });
      make(join(f.state, file));
    }
    signal(old, "SIGKILL");
    await until(() => f.lock("watchdog") !== old && f.lock("watchdog"), 60_000);
    expect([[what, 0], [what, 3]]).toContainEqual([what, (await f.run(["status"])).code]);
    signal(await f.pid("a1"), "SIGKILL");
    await until(() => f.starts("a1").length === starts + 1, 60_000);
    await until(() => JSON.parse(f.read(".agents/state/watch.json")).agents.a1, 30_000);
  }
});
