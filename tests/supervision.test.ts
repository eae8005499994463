/** The watchdog at work on real processes: what it rests on is killed, stopped, misconfigured under it. */
import { expect } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { allowed, type Fleet, life, lives, quote, real, signal, until } from "./real.ts";

const trio = {
  agents: [{ name: "a1", watch: "heal" }, { name: "b1", watch: "heal+stall" }, { name: "c1" }],
};
/** How often each agent was started. */
const starts = (f: Fleet): number[] => trio.agents.map(({ name }) => f.starts(name).length);
/** The pid of each agent's only pane; 0 = it is dead or gone. */
async function pids(f: Fleet): Promise<number[]> {
  const rows = (await f.tmux("list-panes", "-a", "-F", "#{session_name} #{pane_dead} #{pane_pid}")).split("\n").map((row) => row.split(" "));
  return trio.agents.map(({ name }) => {
    const [row, ...more] = rows.filter(([session]) => session === `t-${name}`);
    return row?.[1] === "0" && !more.length ? Number(row[2]) : 0;
  });
}

/** Looks each few ms at which clients of an agent live; returns the greatest number seen at once. */
function countClients(f: Fleet, name: string): { most: () => number; stop: () => void } {
  let most = 0;
  const ended = new Set<number>();
  const timer = setInterval(() => {
    const begun = new Set(f.ledger(name).flatMap((fact) => fact.pid && !ended.has(fact.pid) ? [fact.pid] : []));
    for (const pid of begun) if (!lives(pid)) ended.add(pid);
    most = Math.max(most, begun.difference(ended).size);
  }, 10);
  return { most: () => most, stop: () => clearInterval(timer) };
}

const configured = life({ ...trio, watchdog: { signal_interval: 0.25 } });

configured("P5, faults 2 and 3: a broken, half-written, emptied, deleted, unreadable config changes nothing, one line each; a watchdog that is killed meanwhile comes back with the last good one", async (f) => {
  await f.up();
  await f.ready("a1", "b1", "c1");
  const before = await pids(f);
  const good = readFileSync(f.config, "utf8");
  const said = () => f.log.match(/the last good config stays in force/g)?.length ?? 0;
  const broken: [string, () => void][] = [
    ["half", () => writeFileSync(f.config, good.slice(0, good.length / 2 - 3))],
    ["syntax", () => writeFileSync(f.config, `${good}\n[[agent\n`)],
    ["empty", () => writeFileSync(f.config, "")],
    ["gone", () => rmSync(f.config)],
    // permissions stop nobody who is root; a folder cannot be read by anybody
    ["unreadable", () => (rmSync(f.config), mkdirSync(f.config))],
    ["backend", () => writeFileSync(f.config, good.replace(/name = "b1"/, 'name = "b1"\nbackend = "scriptd"'))],
  ];
  for (const [nth, [, damage]] of broken.entries()) {
    damage();
    await until(() => said() === nth + 1);
    await f.ticks(2);
    expect(said()).toBe(nth + 1);
    expect(f.lock("watchdog")).toBeGreaterThan(0);
    rmSync(f.config, { recursive: true, force: true });
    f.write("agents.toml", good);
    await f.ticks(2);
  }
  expect(await pids(f)).toEqual(before);
  expect(f.log).toMatch(/agents\.toml:\d+/);
  expect(f.log).toContain('unknown backend "scriptd"');
  expect(f.log).toMatch(/the last good config stays in force: .*agents\.toml is a folder/);

  const old = f.lock("watchdog");
  signal(old, "SIGSTOP"); // it must not be the one that says so
  writeFileSync(f.config, "[[agent\n");
  signal(old, "SIGKILL");
  await until(() => said() === broken.length + 1);
  const began = f.events("watchdog").map(({ why }) => why);
  expect(began).toEqual(["started", expect.stringMatching(new RegExp(`^started after the one before \\(pid ${old}\\) died(?: during ".+")?$`))]);
  signal(before[0]!, "SIGKILL");
  await until(() => f.starts("a1").length === 2);
});

configured("fault 3: an agent that vanishes from the file is named and left running; a new one is watched; an interval is live", async (f) => {
  const pid = await f.pid("b1");
  f.write("agents.toml", f.text({ agents: [trio.agents[0]!, { name: "d1", watch: "heal" }], watchdog: { signal_interval: 1.25 } }));
  await until(() => JSON.parse(f.read(".agents/state/heartbeat")).interval === 1.25);
  await until(() => f.log.includes("no longer in the config, left running: b1, c1"));
  await f.ready("d1");
  expect(await f.pid("b1")).toBe(pid);
  const { out } = await f.run(["status"]);
  for (const name of ["b1", "c1"]) expect(out).toMatch(new RegExp(`^${name} left the config, its client is still running +→ agents down ${name}$`, "m"));
  await f.run(["down", "d1"]);
  f.write("agents.toml", f.text());
});

configured("P8, fault 5: tmux kill-server: every watched agent is back, once, and the log's session", async (f) => {
  await f.ticks(2);
  const [a, b, c] = starts(f) as [number, number, number];
  const watchdog = f.lock("watchdog");
  await f.tmux("kill-server");
  await until(async () => (await f.sessions()).join() === "t-a1,t-b1,t-watchdog");
  await until(() => starts(f).join() === [a + 1, b + 1, c].join());
  await f.ticks(3);
  expect([f.lock("watchdog"), starts(f)]).toEqual([watchdog, [a + 1, b + 1, c]]);
});

const answering = life(trio);
answering("P8, fault 44: a tmux server that is stopped for 8 s: calls end, nothing is started twice", async (f) => {
  await f.up();
  await f.ready("a1", "b1", "c1");
  await f.ticks(2);
  const [before, begun] = [await pids(f), starts(f)];
  const server = await f.serverPid();
  const watchdog = f.lock("watchdog");
  const files = () => readdirSync(`/proc/${watchdog}/fd`).length;
  const open = files();
  signal(server, "SIGSTOP");
  const began = performance.now();
  const status = await f.run(["status"]);
  const took = performance.now() - began;
  expect(took).toBeLessThan(await allowed(8_000, took));
  expect([status.code, status.out]).toEqual([3, expect.stringMatching(/^! a1 .* unknown +tmux: no answer in time/m)]);
  await until(() => f.log.includes("tmux: no answer in time"), 12_000);
  await f.ticks(1);
  signal(server, "SIGCONT");
  await f.ticks(3);
  expect(await pids(f)).toEqual(before);
  expect(starts(f)).toEqual(begun);
  expect(f.log.match(/tmux: no answer in time/g)).toHaveLength(1);
  await until(() => files() <= open + 2); // a child that runs just then holds pipes for a moment
});

answering("a tmux_socket that was changed under a fleet that runs: nobody is touched, and what helps is said", async (f) => {
  const before = await pids(f);
  expect(await f.run(["down", "watchdog"])).toMatchObject({ code: 0 });
  f.write("agents.toml", f.text({ ...f.plan, defaults: { tmux_socket: "other" } }));
  for (const words of [["up"], ["restart", "a1"]]) {
    const { code, err } = await f.run(words);
    expect([words, code, err]).toEqual([words, 1, expect.stringContaining('set tmux_socket back to "default", run "agents down", change it, run "agents up"')]);
  }
  expect(await pids(f)).toEqual(before);
  f.write("agents.toml", f.text());
  await f.up();
  expect([await pids(f), starts(f)]).toEqual([before, [1, 1, 1]]);
  expect(await f.run(["down"])).toMatchObject({ code: 0 });
  f.write("agents.toml", f.text({ ...f.plan, defaults: { tmux_socket: "other" } }));
  await f.up();
  await until(() => f.starts("a1").length === 2);
});

real("the socket of a tmux server that lives is removed: nobody is ended, started or called dead, and all are there again with it; down ends all", trio, async (f) => {
  await f.up();
  await f.ready("a1", "b1", "c1");
  await f.ticks(2);
  const [before, begun, server] = [await pids(f), starts(f), await f.serverPid()];
  const socket = await f.tmux("display-message", "-p", "#{socket_path}");
  expect(socket).toStartWith(f.tmuxDir);
  rmSync(dirname(socket), { recursive: true }); // as by a cleaner of /tmp; each call of tmux makes the folder again
  const isRefused = async (words: string[], wanted = 1) => {
    const { code, out, err } = await f.run(words);
    expect([words, code, out + err]).toEqual([words, wanted, expect.stringContaining(`kill -USR1 ${server} makes it create the socket again`)]);
  };
  await Promise.all([["up"], ["restart", "a1"], ["up", "a1"], ["explain", "a1"]].map((words) => isRefused(words)));
  await isRefused(["doctor"], 3);
  // beside the other commands it may only have waited for them
  await Promise.all([isRefused(["send", "a1", "hear this", "--timeout", "4"]), f.ticks(4)]);
  const { code, out } = await f.run(["status"]);
  expect([code, out]).toEqual([3, expect.stringMatching(/^! a1 .* unknown +tmux: the tmux server \(pid \d+\) runs/m)]);
  await until(() => f.log.includes(`kill -USR1 ${server} makes it create the socket again`));
  expect(before.map(lives)).toEqual([true, true, true]);
  signal(server, "SIGUSR1");
  await until(() => existsSync(socket));
  await until(async () => (await f.pid("a1")) === before[0]);
  await f.ticks(2);
  expect([await pids(f), starts(f), await f.serverPid()]).toEqual([before, begun, server]);
  expect(f.log.match(/\] tmux: .* runs, but not at this socket/g)).toHaveLength(1);
  rmSync(socket);
  const down = await f.run(["down"]);
  expect([down.code, down.err.match(/ending t-\w1/g), down.err]).toEqual([0, ["ending t-a1", "ending t-b1", "ending t-c1"], expect.stringContaining(
    `kill -USR1 ${server} makes it create the socket again; ending the clients without it; their panes stay`)]);
  expect(before.map(lives)).toEqual([false, false, false]);
});

real("a tmux server without a session (exit-empty off) is empty, not away: what outlived its session is ended, and started anew", {
  agents: [{ name: "a1", watch: "heal", env: { TUI_IGNORE_HUP: "1" } }],
}, async (f) => {
  f.write("home/.tmux.conf", "set -s exit-empty off\n");
  await f.up();
  await f.ready("a1");
  await f.ticks(2);
  const [first, server] = [await f.pid("a1"), await f.serverPid()];
  await f.tmux("kill-session", "-t", "=t-watchdog", ";", "kill-session", "-t", "=t-a1");
  await until(() => f.starts("a1").length === 2, 30_000);
  expect([lives(first), await f.serverPid(), f.log.includes("not at this socket"), f.log.includes("the tmux server was restarted")]).toEqual([false, server, false, false]);
});

const stubborn = { agents: [{ name: "a1", watch: "heal+stall", env: { TUI_IGNORE_HUP: "1" } }] };
/** Its client has a child that is as deaf. */
const deaf = { ...stubborn, backend: { preamble: "(trap '' HUP TERM; while :; do sleep 1000; done) &" }, watchdog: { signal_interval: 1 } };

real("P21, fault 26: a client that ignores HUP and TERM: restart never has two of it; its session is closed by hand, the client lives on: still never two", {
  ...deaf, agents: ["a1", "b1"].map((name) => ({ ...stubborn.agents[0]!, name })),
}, async (f) => {
  await f.up();
  await f.ready("a1", "b1");
  await f.ticks(2);
  const first = await f.pid("a1");
  const [clients, others] = [countClients(f, "a1"), countClients(f, "b1")];
  // at once, each with a client of its own: one that is as deaf takes 10 s to end
  await f.tmux("kill-session", "-t", "=t-b1");
  expect((await f.run(["restart", "a1"])).code).toBe(0);
  await until(() => f.starts("a1").length === 2);
  expect([clients.most(), lives(first)]).toEqual([1, false]);
  await until(() => f.starts("b1").length === 2, 25_000);
  for (const one of [clients, others]) one.stop();
  expect([clients.most(), others.most()]).toEqual([1, 1]);
});

real("P20: down ends a client that ignores HUP and TERM within 15 s, and its children", deaf, async (f) => {
  await f.up();
  await f.ready("a1");
  const began = performance.now();
  expect((await f.run(["down"])).code).toBe(0);
  const took = performance.now() - began;
  expect(took).toBeLessThan(await allowed(15_000, took));
  await until(() => f.processes().length === 0, 3_000, 250);
});

real("P21: the watchdog is killed in the middle of such a restart: still never two", {
  ...stubborn, backend: { stall_idle: 1 }, watchdog: { restart_delay: 0.2 },
}, async (f) => {
  await f.up();
  await f.ready("a1");
  const clients = countClients(f, "a1");
  await until(() => f.log.includes("ending and restarting"));
  signal(f.lock("watchdog"), "SIGKILL");
  await until(() => f.starts("a1").length === 2, 25_000);
  clients.stop();
  expect(clients.most()).toBe(1);
});

const interval = 0.75;
const watched = life({ agents: [{ name: "a1", watch: "heal+stall" }], watchdog: { signal_interval: interval } });

watched("a watchdog at rest looks once per signal_interval, and sleeps between", async (f) => {
  // in place of tmux: notes each call, then is tmux; where it is slow, it notes looks and new sessions as they begin and end
  const [calls, asked, slow] = [f.path("calls"), f.path("asked"), f.path("slow")].map(quote);
  const shim = f.write("bin/tmux", [
    "#!/bin/sh", `exec=${quote(Bun.which("tmux")!)}`, `echo "$*" >> ${calls}`, `[ -e ${slow} ] || exec "$exec" "$@"`,
    'case "$*" in *list-pane*) what=look;; *new-sessio*) what=session;; *) exec "$exec" "$@";; esac',
    `echo "begin $what" >> ${asked}`, "sleep 0.6", '"$exec" "$@"', "code=$?", `echo "end $what" >> ${asked}`, "exit $code", "",
  ].join("\n"));
  chmodSync(shim, 0o755);
  f.env.PATH = `${f.path("bin")}:${f.env.PATH}`;
  await f.up();
  await f.ready("a1");
  await f.ticks(3);
  const looks = () => f.read("calls").match(/list-pane/g)!.length;
  const [began, before] = [performance.now(), looks()];
  await f.ticks(6);
  const seconds = (performance.now() - began) / 1000;
  expect(looks() - before).toBeLessThanOrEqual(Math.ceil(seconds / interval) + 1);
  expect(seconds).toBeGreaterThan(4 * interval);
});

watched("a tick that takes longer than its interval has no other beside it, and what it makes is made once", async (f) => {
  f.write("agents.toml", f.text({ ...f.plan, watchdog: { signal_interval: 0.25 } }));
  await until(() => JSON.parse(f.read(".agents/state/heartbeat")).interval === 0.25);
  f.write("slow", "");
  const steps = () => f.read("asked").split("\n").slice(0, -1);
  await until(() => steps().length >= 6, 30_000);
  await f.tmux("kill-session", "-t", "=t-watchdog");
  await until(() => steps().includes("end session"), 30_000);
  await until(() => steps().slice(steps().indexOf("end session")).length >= 5, 30_000);
  const all = steps();
  const done = all.slice(0, all.length - (all.length % 2));
  expect(done.filter((_, nth) => nth % 2)).toEqual(done.filter((_, nth) => nth % 2 === 0).map((step) => step.replace("begin", "end")));
  expect(done.filter((step) => step === "end session")).toHaveLength(1);
});
