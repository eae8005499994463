/** What a person does in the same tmux server, before each of the ways in which a client is ended or started: nothing of theirs goes. */
import { expect } from "bun:test";
import { copyFileSync } from "node:fs";
import { type Fleet, lives, loopPlan, type Plan, quote, real, signal, until } from "./real.ts";

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

async function begin(f: Fleet, hook: boolean): Promise<Scene> {
  f.write("typed", "");
  if (hook) f.write("home/.tmux.conf", `set-hook -g after-new-session { split-window -h ${JSON.stringify(program(f))} }\n`);
  await f.tmux("new-session", "-d", "-s", "person", program(f));
  await f.up();
  await f.ready(...NAMES);
  const pane = async (name: string) => (await rows(f)).find(([mark]) => mark === `t-${name}`)![1]!;
  await f.tmux("link-window", "-s", await pane("linked"), "-t", "=person:");
  await f.tmux("join-pane", "-s", await pane("joined"), "-t", "=person:0");
  await f.tmux("new-session", "-d", "-s", "mates", "-t", "=t-grouped");
  await f.tmux("rename-session", "-t", "=t-renamed", "mine");
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
  await until(async () => {
    const now = await clients(f);
    return NAMES.every((name) => now.has(name) && now.get(name) !== before.clients.get(name)) && NAMES.every((name) => f.starts(name).length === 2);
  }, 40_000);
  await unharmed(f, before);
  const { of } = await f.states();
  for (const name of NAMES) expect([name, of[name]]).toEqual([name, expect.not.stringMatching(/not running|ended|stopped/)]);
  const sent = await Promise.all(NAMES.map((name) => f.run(["send", name, `for ${name}`])));
  expect(sent.map(({ code, err }) => [code, err])).toEqual(NAMES.map(() => [0, ""]));
  for (const name of NAMES) expect(f.submits(name).at(-1)).toBe(`for ${name}`);
  await unharmed(f, before);
}

const plan = (watch: string, more: Plan = {}): Plan => ({ agents: NAMES.map((name) => ({ name, watch })), ...more });

for (const hook of [false, true]) {
  const also = hook ? ", and a hook splits every new session" : "";
  real(`P27: restart ends our clients alone${also}`, plan("heal"), async (f) => {
    const before = await begin(f, hook);
    expect((await f.run(["restart", ...NAMES])).code).toBe(0);
    await renewed(f, before);
  });
  real(`P27: what died is healed${also}`, plan("heal"), async (f) => {
    const before = await begin(f, hook);
    for (const pid of before.clients.values()) signal(pid, "SIGKILL");
    await renewed(f, before);
  });
  real(`P27: down ends our clients alone${also}, and up brings them back`, plan("heal"), async (f) => {
    const before = await begin(f, hook);
    expect((await f.run(["down"])).code).toBe(0);
    expect([...(await clients(f)).keys()]).toEqual([]);
    await unharmed(f, before);
    expect((await f.run(["up"])).code).toBe(0);
    await renewed(f, before);
  });
}

real("P27: a stall restart ends our clients alone", plan("heal+stall", { backend: { stall_idle: 4 }, watchdog: { stall_grace: 1 } }), async (f) => {
  for (const name of NAMES) f.control(name, "busy");
  const before = await begin(f, true);
  for (const name of NAMES) f.control(name, "idle");
  await until(() => NAMES.every((name) => f.starts(name).length === 2), 60_000);
  for (const name of NAMES) f.control(name, "busy");
  await until(async () => [...before.clients.values()].every((pid) => !lives(pid)));
  await unharmed(f, before);
});

real("P27: a phase move ends our clients alone", loopPlan({ agents: NAMES.map((name) => ({ name, kind: "loop", role: "builder", watch: "heal" })) }), async (f) => {
  await f.repository("builder", "adversary");
  const before = await begin(f, false);
  await f.push("builder", "status: one is done", { "machine-docs/STATUS-one.md": "## DONE\n" });
  await until(() => f.events("phase").length, 40_000);
  await renewed(f, before);
});
