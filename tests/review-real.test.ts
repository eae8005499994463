/** What commands that are cut short, two at once, or a lost socket leave behind; on real processes. */
import { expect } from "bun:test";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Fleet, lives, quote, real, signal, TUI, until } from "./real.ts";

const stubborn = { agents: [{ name: "a1", watch: "heal+stall", env: { TUI_IGNORE_HUP: "1" } }] };
const watched = { agents: [{ name: "a1", watch: "heal" }, { name: "b1", watch: "heal" }] };
const operator = (f: Fleet) => JSON.parse(f.read(".agents/state/operator.json") || "{}");
/** The clients of an agent that live now. */
const clients = (f: Fleet, name: string): number[] =>
  [...new Set(f.ledger(name).flatMap((fact) => (fact.pid && lives(fact.pid) ? [fact.pid] : [])))];

real("the tmux socket vanishes: the agents work on, and are there again with it", watched, async (f) => {
  await f.up();
  await f.ready("a1", "b1");
  await f.ticks(1);
  const [path, server, before] = [await f.tmux("display-message", "-p", "#{socket_path}"), await f.serverPid(), [await f.pid("a1"), await f.pid("b1")]];
  expect(path).toStartWith(f.tmuxDir);
  rmSync(path);
  await until(() => f.log.includes(`kill -USR1 ${server} makes it again`));
  await f.ticks(4);
  expect(before.map(lives)).toEqual([true, true]);
  signal(server, "SIGUSR1");
  await until(async () => (await f.pid("a1")) === before[0]);
  await f.ticks(2);
  expect([await f.pid("a1"), await f.pid("b1"), f.starts("a1").length, f.starts("b1").length]).toEqual([...before, 1, 1]);
  expect([await f.serverPid(), f.log.match(/lives, but not at this socket/g)?.length]).toEqual([server, 1]);
});

real("a restart that is cut short takes nothing down for good", stubborn, async (f) => {
  await f.up();
  await f.ready("a1");
  await f.ticks(2);
  const restart = f.start(["restart", "a1"]);
  await until(async () => !(await f.sessions()).includes("t-a1"));
  restart.kill("SIGKILL");
  await restart.exited;
  const { held, busy } = operator(f);
  expect([held, Object.keys(busy)]).toEqual([{}, ["a1"]]);
  expect(busy.a1 - Date.now()).toBeLessThan(60_000);
  expect((await f.states()).of.a1).not.toBe("stopped by you");
  // its time is over
  f.write(".agents/state/operator.json", JSON.stringify({ ...operator(f), busy: { a1: Date.now() } }));
  await until(() => f.starts("a1").length === 2, 20_000);
  expect(clients(f, "a1")).toHaveLength(1);
});

real("a restart that fails leaves the agent to the watchdog", watched, async (f) => {
  await f.up();
  await f.ready("a1", "b1");
  // between the end of the old client and the start of the new one there is no folder to start it in
  const plan = { ...f.plan, agents: [{ name: "a1", watch: "heal", dir: f.path("nowhere") }, watched.agents[1]!] };
  f.write("agents.toml", f.text(plan));
  const ran = await f.run(["restart", "a1"]);
  expect([ran.code, ran.err]).toEqual([1, expect.stringContaining("nowhere does not exist")]);
  expect([operator(f).held, operator(f).busy]).toEqual([{}, {}]);
  f.write("agents.toml", f.text());
  await until(() => f.starts("a1").length === 2);
});

real("down that is cut short, then up: never two clients", stubborn, async (f) => {
  await f.up();
  await f.ready("a1");
  await f.ticks(2);
  const [old] = clients(f, "a1");
  const down = f.start(["down", "a1"]);
  await until(async () => !(await f.sessions()).includes("t-a1"));
  down.kill("SIGKILL");
  await down.exited;
  expect(clients(f, "a1")).toEqual([old!]);
  let most = 0;
  const timer = setInterval(() => void (most = Math.max(most, clients(f, "a1").length)), 10);
  try {
    await f.up("a1");
    await until(() => f.starts("a1").length === 2);
    expect([most, lives(old!)]).toEqual([1, false]);
  } finally {
    clearInterval(timer);
  }
});

real("down that is cut short: the watchdog ends what is left, and starts nothing", stubborn, async (f) => {
  await f.up();
  await f.ready("a1");
  await f.ticks(2);
  const [old] = clients(f, "a1");
  const down = f.start(["down", "a1"]);
  await until(async () => !(await f.sessions()).includes("t-a1"));
  down.kill("SIGKILL");
  await until(() => !lives(old!), 15_000);
  await f.ticks(2);
  expect([f.starts("a1").length, (await f.states()).of.a1]).toEqual([1, "stopped by you"]);
});

real("calls that come at once wait for each other: each text is queued", watched, async (f) => {
  await f.up("a1");
  const lock = Bun.spawn(["flock", join(f.state, "operator.lock"), "cat"], { stdin: "pipe", stdout: "pipe" });
  lock.stdin.write("held\n");
  lock.stdin.flush();
  await lock.stdout.getReader().read();
  const texts = Array.from({ length: 8 }, (_, nth) => `text ${nth}`);
  const calls = texts.map((text) => f.start(["send", "a1", text, "--queue"]));
  const began = performance.now();
  // longer than a call takes that does not wait
  await until(() => calls.some(({ exitCode }) => exitCode !== null) || performance.now() - began > 2_500);
  expect(calls.map(({ exitCode }) => exitCode)).toEqual(texts.map(() => null));
  lock.stdin.end();
  expect(await Promise.all(calls.map(({ exited }) => exited))).toEqual(texts.map(() => 0));
  expect(operator(f).queue.map(({ text }: { text: string }) => text).toSorted()).toEqual(texts);
});

real("a command stores the first text of a client before it starts it", {
  agents: [{ name: "a1", backend: "plain", prompt: "the work" }, { name: "b1", needs: ["web"] }],
  services: [{ name: "web", command: "exec sleep 1000", ready: "false" }], watchdog: { up_wait: 2 }, backend: { connect_delay: 1 },
}, async (f) => {
  const client = f.write("client", `#!/bin/sh\ncp ${quote(join(f.state, "operator.json"))} ${quote(f.path("seen"))}\nexec ${TUI}\n`);
  f.write("agents.toml", f.text({
    ...f.plan, toml: `[backend.plain]\nkind = "typed"\nbin = ${JSON.stringify(`sh ${quote(client)}`)}\nready_re = "auto mode on"\nconnect_delay = 1\n`,
  }));
  // b1 waits for what never comes: long after the client of a1 began
  expect((await f.run(["up", "a1", "b1", "web"])).code).toBe(1);
  expect(JSON.parse(f.read("seen")).queue).toEqual([expect.objectContaining({ target: "a1", cause: "boot" })]);
  expect(f.submits("a1")).toEqual([expect.stringContaining("kickoff-t-a1.txt")]);
});

real("a supervisor that a unit starts while the config is broken takes the last good one", watched, async (f) => {
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
  signal(await f.pid("a1"), "SIGKILL");
  await until(() => f.starts("a1").length === 2);
  await until(async () => (await f.sessions()).includes("t-watchdog"));
  supervisor.kill("SIGTERM");
  expect(await supervisor.exited).toBe(0);
  f.write("agents.toml", f.text());
});
