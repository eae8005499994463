/** What a person does in the same tmux server, before each of the ways in which a client is ended or started: nothing of theirs goes. */
import { expect } from "bun:test";
import { chmodSync } from "node:fs";
import { type Fleet, life, lives, loopPlan, quote, real, signal, TUI, until } from "./real.ts";
import { rounds } from "./sim.ts";

const NAMES = ["linked", "joined", "grouped", "renamed", "second"];
/** A program of a person, which notes each byte that is typed into it. */
const program = (f: Fleet): string => `exec cat >> ${quote(f.path("typed"))}`;

interface Scene {
  /** The panes and pids of the people, and the clients by their agents. */
  people: string[];
  clients: Map<string, number>;
}

const rows = async (f: Fleet): Promise<string[][]> => (await f.tmux("list-panes", "-a", "-F",
  "#{?@agents_session,#{@agents_session},-} #{pane_id} #{pane_pid} #{pane_dead} #{session_name}")).split("\n").map((row) => row.split(" "));
/** The client of each agent that lives, in whatever session. */
const clients = async (f: Fleet): Promise<Map<string, number>> => new Map((await rows(f))
  .flatMap(([mark, , pid, dead]) => dead === "0" && mark !== "-" && mark !== "t-watchdog" ? [[mark!.slice(2), Number(pid)]] : []));
const people = async (f: Fleet): Promise<string[]> => [...new Set((await rows(f))
  .flatMap(([mark, id, pid, dead]) => mark === "-" && dead === "0" ? [`${id} ${pid}`] : []))].sort();

async function begin(f: Fleet): Promise<void> {
  f.write("typed", "");
  await f.tmux("new-session", "-d", "-s", "person", program(f));
  await f.up();
  await f.ready(...NAMES);
}

/** A person takes each agent's pane into what is theirs, in a way of its own. */
async function disturb(f: Fleet): Promise<Scene> {
  const [sessions, panes] = [await f.sessions(), await rows(f)];
  const pane = (name: string) => panes.find(([mark]) => mark === `t-${name}`)![1]!;
  await f.tmux("link-window", "-s", pane("linked"), "-t", "=person:");
  await f.tmux("join-pane", "-s", pane("joined"), "-t", "=person:0");
  if (!sessions.includes("mates")) await f.tmux("new-session", "-d", "-s", "mates", "-t", "=t-grouped");
  await f.tmux("rename-session", "-t", "=t-renamed", `mine-${sessions.length}`);
  await f.tmux("new-window", "-t", "=t-second:", program(f));
  return { people: await people(f), clients: await clients(f) };
}

/** Every pane of the people lives, with nothing typed into it; their sessions are there. */
async function unharmed(f: Fleet, before: Scene): Promise<void> {
  expect(await people(f)).toEqual(expect.arrayContaining(before.people));
  expect(f.read("typed")).toBe("");
  expect(await f.sessions()).toEqual(expect.arrayContaining(["mates", "person"]));
  for (const pid of before.clients.values()) expect(lives(pid)).toBe(false);
}

/** One new client of each agent runs, is supervised, and is the one that texts go to. */
async function renewed(f: Fleet, before: Scene): Promise<void> {
  const begun = NAMES.map((name) => f.starts(name).length);
  await until(async () => {
    const now = await clients(f);
    return NAMES.every((name) => now.has(name) && now.get(name) !== before.clients.get(name));
  }, 100_000, 200);
  const { of } = await f.states();
  for (const name of NAMES) expect([name, of[name]]).toEqual([name, expect.not.stringMatching(/not running|ended|stopped/)]);
  const text = `after ${begun}`;
  await Promise.all(NAMES.map(async (name) => expect([name, await f.run(["send", name, text, "--queue"])]).toMatchObject([name, { code: 0 }])));
  await until(() => NAMES.every((name) => f.submits(name).at(-1) === text), 100_000, 200);
  await unharmed(f, before);
}

/** A machine that does much besides is no reason to fail. */
const PATIENT = { up_wait: 60, restart_reset: 1, signal_interval: 1 };
/** Where most of a test is waiting for rounds. */
const QUICK = { ...PATIENT, signal_interval: 0.5 };
const ours = { agents: NAMES.map((name) => ({ name, watch: "heal" })), watchdog: PATIENT };

const hooked = ", where a hook splits every new session";
// by hand the harder one alone, which is the other and a hook
for (const where of rounds(["", hooked], [hooked])) {
  const people = life(ours);
  people(`P27: restart, heal, down and up end our clients alone${where}`, async (f) => {
    await begin(f);
    if (where) await f.tmux("set-hook", "-g", "after-new-session", `split-window -h ${JSON.stringify(program(f))}`);
    let before = await disturb(f);
    expect(await f.run(["restart", ...NAMES])).toMatchObject({ code: 0 });
    await renewed(f, before);

    before = await disturb(f);
    for (const pid of before.clients.values()) signal(pid, "SIGKILL");
    await renewed(f, before);

    before = await disturb(f);
    expect(await f.run(["down"])).toMatchObject({ code: 0 });
    expect([...(await clients(f)).keys()]).toEqual([]);
    await unharmed(f, before);
    expect(await f.run(["up"])).toMatchObject({ code: 0 });
    await renewed(f, before);
  });

  people(`P27: a stall restart ends our clients alone${where}`, async (f) => {
    for (const name of NAMES) f.control(name, "busy");
    const before = await disturb(f);
    const agents = NAMES.map((name) => ({ name, watch: "heal+stall" }));
    f.write("agents.toml", f.text({ agents, backend: { stall_idle: 2 }, watchdog: { ...PATIENT, stall_grace: 1 } }));
    await f.ticks(2);
    expect((await clients(f)).size).toBe(NAMES.length);
    for (const name of NAMES) f.control(name, "idle");
    await until(() => before.clients.values().every((pid) => !lives(pid)), 100_000);
    for (const name of NAMES) f.control(name, "busy");
    await until(async () => (await clients(f)).size === NAMES.length, 100_000, 200);
    await unharmed(f, before);
  });
}

real("P27: a phase move ends our clients alone", loopPlan({ agents: NAMES.map((name) => ({ name, kind: "loop", role: "builder", watch: "heal" })), watchdog: PATIENT }), async (f) => {
  await f.repository("builder", "adversary");
  await begin(f);
  const before = await disturb(f);
  await f.push("builder", "status: one is done", { "machine-docs/STATUS-one.md": "## DONE\n\nAll gates passed review.\n" });
  await until(() => f.events("phase").length, 100_000, 200);
  await renewed(f, before);
});

// ── what has the name of an agent, and is none ──────────────────────────────────

const PROMPTS = ["$", "❯", ">", "%", "➜"];
const shells = PROMPTS.map((_, nth) => ({ name: `a${nth}`, watch: "heal" }));

real("P27: restored bare shells are named, not typed into, not ended, not healed over", {
  agents: [...shells, { name: "well", watch: "heal" }], watchdog: PATIENT,
}, async (f) => {
  await f.tmux("new-session", "-d", "-s", "person", program(f));
  for (const [nth, prompt] of PROMPTS.entries()) {
    await f.tmux("new-session", "-d", "-s", `t-a${nth}`, "-e", `PS1=${prompt} `, "-c", f.dir.replaceAll("#", "##"), "bash", "--norc", "--noprofile", "-i");
  }
  const before = await people(f);
  const up = await f.run(["up"]);
  expect(up.code).toBe(1);
  for (const { name } of shells) {
    expect(up.err).toContain(`${name}: the session t-${name} was not made by this fleet and holds no client (it runs bash)`);
    expect(up.err).toContain(`tmux kill-session -t =t-${name}`);
  }
  await f.ready("well");
  const sent = await f.run(["send", "a1", "x; touch pwned", "--timeout", "2"]);
  expect([sent.code, sent.err]).toEqual([1, expect.stringContaining("not running")]);
  expect(await f.run(["restart", "a2"])).toMatchObject({ code: 1 });
  await until(() => shells.every(({ name }) => f.events("blocked").some((event) => event.agent === name)), 60_000, 200);
  await f.ticks(2);
  const { code, of } = await f.states();
  expect([code, of.a0, of.well]).toEqual([3, expect.stringContaining("holds no client, but bash"), expect.not.stringContaining("not running")]);
  expect(await f.run(["down"])).toMatchObject({ code: 0, err: expect.stringContaining("a3: not running; the session t-a3") });
  expect(await people(f)).toEqual(before);
  for (const [nth, prompt] of PROMPTS.entries()) expect(await f.screen(`a${nth}`)).toBe(prompt);
  expect([f.read("pwned"), f.events("start").map((event) => event.agent)]).toEqual(["", ["well"]]);

  // ended by hand: then it is an agent's name again
  await f.tmux("kill-session", "-t", "=t-a0");
  await f.up("a0");
  await f.ready("a0");
});

const beside = life({
  agents: [{ name: "a1", watch: "heal" }, { name: "p1", watch: "heal", backend: "plain" }], watchdog: { ...QUICK, signal_interval: 0.25 },
  toml: `[backend.plain]\nkind = "typed"\nbin = ${JSON.stringify(`${TUI} plain`)}\nconnect_delay = 0\n`,
});

beside("P27: in a session that holds a person's window as well, up and the watchdog start one client between them", async (f) => {
  f.write("typed", "");
  await f.up();
  await f.ready("a1");
  await f.tmux("split-window", "-d", "-t", "=t-a1:", program(f));
  for (const starts of [2, 3, 4]) {
    expect(await f.run(["down", "a1"])).toMatchObject({ code: 0 });
    expect(await f.run(["up", "a1"])).toMatchObject({ code: 0 });
    await f.ticks(4);
    const [, ...others] = (await rows(f)).filter(([mark, , , dead]) => mark === "t-a1" && dead === "0");
    expect([others, f.starts("a1").length]).toEqual([[], starts]);
  }
});

beside("what a person starts in the pane of a client without a box gets nothing typed", async (f) => {
  await f.ready("p1");
  const id = (await f.tmux("list-panes", "-t", "=t-p1", "-F", "#{pane_id} #{pane_pid} #{@agents_pid}")).split(" ");
  expect(id[1]).toBe(id[2]!);
  await f.tmux("respawn-pane", "-k", "-t", id[0]!, program(f));
  const sent = await f.run(["send", "p1", "touch executed", "--timeout", "3"]);
  expect([sent.code, f.read("typed")]).toEqual([1, ""]);
});

beside("a program that names itself like rows of the list forges none", async (f) => {
  await f.tmux("new-session", "-d", "-s", "person", program(f));
  const [own, starts] = [(await clients(f)).get("a1")!, f.starts("a1").length];
  const [, id, pid] = (await rows(f)).find(([, , , , session]) => session === "person")!;
  const forged = ["$0", id, pid, "1", "0", "", "0", "1", "1", "80", "24", "t-a1", "other", "", "", "", "", "", "1", "1", "person", "", "x"].join("\\t");
  f.write("forge", `exec -a $'x\\n${forged}\\n' sleep 1000\n`);
  await f.tmux("new-window", "-t", "=t-a1:", "bash", f.path("forge"));
  await until(() => f.log.includes("break tmux's list"), 60_000, 200);
  await f.ticks(3);
  expect([(await f.sessions()).includes("person"), lives(own), f.starts("a1").length]).toEqual([true, true, starts]);
  expect(await f.run(["down"])).toMatchObject({ code: 0 });
  expect([lives(Number(pid)), lives(own), f.read("typed")]).toEqual([true, false, ""]);
});

real("what a person executes in the shell that a client has left, with its pid, gets nothing typed until a restart", {
  agents: [{ name: "a1", watch: "heal" }], watchdog: QUICK,
}, async (f) => {
  f.write("wrapper", `#!/bin/bash\n${TUI} "$@"\nexec bash --norc --noprofile -i\n`);
  chmodSync(f.path("wrapper"), 0o755);
  f.write("agents.toml", f.text({ ...f.plan, backend: { bin: quote(f.path("wrapper")) } }));
  await f.up();
  await f.ready("a1");
  f.control("a1", "exit 0");
  const other = "its pane runs something other than the client we started";
  await until(() => f.log.includes(`a1: its screen is not recognised (${other}`));
  await until(async () => (await f.states()).of.a1!.includes(other), 60_000, 500);
  await f.ticks(2);
  const first = await f.pid("a1");
  f.control("a1", "idle");
  await f.tmux("send-keys", "-t", "=t-a1:", "-l", `exec ${TUI}`);
  await f.tmux("send-keys", "-t", "=t-a1:", "Enter");
  await until(() => f.starts("a1").length === 2);
  await f.ticks(3);
  expect([await f.pid("a1") === first, (await f.run(["send", "a1", "not for you", "--timeout", "2"])).code, f.submits("a1")]).toEqual([true, 1, []]);
  expect(await f.run(["restart", "a1"])).toMatchObject({ code: 0 });
  expect(await f.run(["send", "a1", "for you"])).toMatchObject({ code: 0 });
});

real("a session that a hook renames is supervised, and is no unknown one", { agents: [{ name: "a1", watch: "heal" }], watchdog: PATIENT }, async (f) => {
  f.write("home/.tmux.conf", 'set-hook -g session-created { rename-session "t-by-hook-#{session_id}" }\nset-hook -g session-renamed { if-shell -F "#{m:t-a*,#{session_name}}" { rename-session "t-again" } }\n');
  await f.tmux("new-session", "-d", "-s", "person", program(f));
  await f.up();
  await f.ready("a1");
  expect(await f.run(["send", "a1", "hello"])).toMatchObject({ code: 0 });
  const status = await f.run(["status"]);
  expect(status.out).not.toMatch(/sessions not in the config: .*t-again/);
  signal((await clients(f)).get("a1")!, "SIGKILL");
  await until(() => f.starts("a1").length === 2, 60_000, 200);
});

real("down ends what a hook restarts meanwhile, and says what it restarts each time, exit 3", { agents: ["a1", "a2"].map((name) => ({ name, watch: "heal" })), watchdog: PATIENT }, async (f) => {
  await f.tmux("new-session", "-d", "-s", "person", "cat");
  await f.up();
  await f.ready("a1", "a2");
  // its target is any pane that is left
  await f.tmux("set-hook", "-g", "window-unlinked", "respawn-pane -k");
  expect(await f.run(["down"])).toMatchObject({ code: 0 });
  expect([...(await clients(f)).keys()]).toEqual([]);
  await f.tmux("set-hook", "-gu", "window-unlinked");
  await f.up();
  await f.ready("a1", "a2");
  // the last pane of a person's session, whose client is ended and whose pane stays
  await f.tmux("new-session", "-d", "-s", "mine", "cat", ";", "move-window", "-k", "-s", "=t-a1:0", "-t", "=mine:0");
  await f.tmux("set-hook", "-g", "pane-died", "respawn-pane -k");
  const { code, err } = await f.run(["down"]);
  expect([code, /a1: runs again \(pid (\d+)\): something restarts it, such as a hook; see: tmux.* show-hooks -g/.exec(err)?.[1]]).toEqual([3, await f.tmux("display-message", "-p", "-t", "=mine:", "#{pane_pid}")]);
  expect(await f.sessions()).toEqual(["mine", "person"]);
});

// ── what tmux's own settings would do ───────────────────────────────────────────

real("destroy-unattached does not take our sessions, and they keep their size whoever attaches elsewhere", {
  agents: [{ name: "a1", watch: "heal" }], watchdog: PATIENT,
}, async (f) => {
  f.write("home/.tmux.conf", "set -g destroy-unattached on\n");
  await f.up();
  await f.ready("a1");
  await f.ticks(2);
  expect([f.starts("a1").length, await f.sessions()]).toEqual([1, ["t-a1", "t-watchdog"]]);
  const size = () => f.tmux("display-message", "-p", "-t", "=t-a1:", "#{window_width}x#{window_height}");
  await f.tmux("new-session", "-d", "-s", "person", program(f), ";", "set-option", "-t", "=person:", "destroy-unattached", "off");
  await f.tmux("link-window", "-s", "=t-a1:0", "-t", "=person:5");
  await f.tmux("-f", "/dev/null", "-L", "desk", "new-session", "-d", "-x", "80", "-y", "24", "env -u TMUX tmux attach -t =person:5");
  try {
    await until(async () => (await f.tmux("list-clients", "-F", "#{client_width}")) === "80");
    await until(async () => (await f.tmux("-L", "desk", "capture-pane", "-p")).trim());
    expect(await size()).toBe("200x50");
  } finally {
    await f.tmux("-L", "desk", "kill-server");
  }
  expect(await size()).toBe("200x50");
});

real("exit-unattached is named by up and by doctor", { agents: [{ name: "a1" }], watchdog: { ...PATIENT, up_wait: 3 } }, async (f) => {
  f.write("home/.tmux.conf", "set -s exit-unattached on\n");
  const told = "exit-unattached is on: tmux ends with all agents whenever nobody is attached";
  const up = await f.run(["up", "a1"]);
  expect([up.code, up.err]).toEqual([1, expect.stringContaining(told)]);
  expect((await f.run(["doctor"])).out).toContain(told);
});

real("aliases of the operator's for all commands of tmux change no call", { agents: [{ name: "a1", watch: "heal" }], watchdog: PATIENT }, async (f) => {
  const names = (await f.tmux("-f", "/dev/null", "list-commands", "-F", "#{command_list_name}")).split("\n");
  expect(names).toContain("capture-pane");
  f.write("home/.tmux.conf", names.map((name, nth) => `set -s command-alias[${100 + nth}] "${name}=display-message -p aliased"\n`).join(""));
  await f.up();
  await f.ready("a1");
  expect(await f.tmux("list-panes")).toBe("aliased");
  expect(await f.run(["send", "a1", "hello"])).toMatchObject({ code: 0 });
  expect(f.submits("a1")).toEqual(["hello"]);
  const first = f.ledger("a1").find((fact) => fact.pid)!.pid!;
  expect(await f.run(["restart", "a1"])).toMatchObject({ code: 0 });
  await until(() => f.starts("a1").length === 2, 60_000, 200);
  await f.ticks(2);
  await until(async () => /^idle/.test((await f.states()).of.a1!), 60_000, 500);
  expect(lives(first)).toBe(false);
  expect(await f.run(["down"])).toMatchObject({ code: 0 });
  expect(f.ledger("a1").flatMap((fact) => fact.pid && lives(fact.pid) ? [fact.pid] : [])).toEqual([]);
});
