/**
 * The fake world: every member of the seam replaced by a few lines, so that days of supervision pass
 * in milliseconds. A clock one turns, files as a map, tmux as panes with a scripted client in each,
 * git as a list of commits, and death at any effect one names.
 */
import { closeSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { type Config, flock, loadConfig, loadWatch, main, operatorOf, tick, unwritten, type Watch, type World, world } from "../agents.ts";
import type { Message, Pane, Verdict, VerdictName } from "../agents.ts";
import { type Doing, FakeGit, type FakePane, FakeTmux } from "./fakes.ts";
import { SCRATCH } from "./scratch.ts";

/** What `describeState` is told of a unit with nothing special about it. */
export const PLAIN = { stranger: undefined, rival: undefined, stuck: undefined, cannot: undefined, words: "", ahead: null, unready: "", byYou: false };

export type { FakePane } from "./fakes.ts";
export { until } from "./wait.ts";

/** Not there for scripts such as the soak run, which end their world themselves and look at their memory. */
const runner = await import("bun:test").catch(() => null);
const onTestFinished = runner?.onTestFinished ?? (() => {});
/** A watchdog takes its memory back in 2 ms; of all that a test file has loaded it takes ten times as long. */
if (runner) Object.assign(Bun, { gc: () => 0 });

const REAL: World = { ...world };
const PROGRAM = resolve(import.meta.dir, "..");
const SHARED = "/fleet";

/** The files of the fake world, by their paths; it is asked what is in a folder much more often than one comes or goes. */
class Files extends Map<string, string> {
  private readonly lists = new Map<string, string[]>();

  override set(path: string, text: string): this {
    if (!this.has(path)) this.lists.clear();
    return super.set(path, text);
  }

  override delete(path: string): boolean {
    this.lists.clear();
    return super.delete(path);
  }

  override clear(): void {
    this.lists.clear();
    super.clear();
  }

  /** The names of the files and folders in a folder. */
  in(folder: string): string[] {
    return this.lists.getOrInsertComputed(folder, () => {
      const start = `${folder}/`;
      const below = [...this.keys()].filter((path) => path.startsWith(start));
      return [...new Set(below.map((path) => path.slice(start.length).split("/", 1)[0]!))];
    });
  }
}

/** The end of the supervisor at one effect; each later one of that tick throws it too, and it makes no other until `revive()`. */
export class Death extends Error {}

export class FakeWorld {
  /** Wall clock and monotonic clock, ms. */
  wall = Date.UTC(2026, 5, 15, 12);
  mono = 10_000_000;
  private readonly disk = new Files();
  readonly files: Map<string, string> = this.disk;
  times = new Map<string, number>();
  /** Folders that can be written to: those that a watchdog makes for its config. */
  folders = new Set<string>();
  processes = new Map<number, FakePane>();
  /** What processes have open. */
  opened = new Map<number, string[]>();
  lines: string[] = [];
  tmux = new FakeTmux(this);
  git = new FakeGit(this);
  http: World["http"] = async () => ({ ok: false, status: 0, body: "" });
  /** What a changing member did, in order; at number `dieAt` (1-based) the supervisor dies. */
  effects: string[] = [];
  dieAt = 0;
  private isDead = false;
  full = false;
  private isNew = true;
  /** `home`: the default is no folder on disk; where locks are taken, as by orders, it is a real one. */
  constructor(readonly home = SHARED) {
    this.enter();
  }

  /** From now on it is this world that the program acts on. */
  enter(): void {
    const { files, times, disk } = this;
    Object.assign(world, {
      now: () => this.wall,
      mono: () => this.mono,
      sleep: async (ms) => this.turn(ms),
      tmux: async (args, stdin, take) => {
        const ran = this.tmux.run(args, stdin);
        take?.(Buffer.from(ran.out));
        return take ? { ...ran, out: "" } : ran;
      },
      git: async (_repo, args) => this.git.run(args),
      http: (request) => this.http(request),
      signal: (pid, signal) => this.signal(Math.abs(pid), signal),
      read: (path) => this.read(path),
      text: async (path) => this.read(path),
      answers: async () => true,
      head: (path, bytes) => this.read(path)?.slice(0, bytes) ?? null,
      tail: (path, bytes) => this.read(path)?.slice(-bytes) ?? null,
      opened: (pid) => this.opened.get(pid) ?? [],
      folder: () => "",
      executable: () => "",
      // of the folder that is on no disk there is nothing to ask
      realPath: (path) => `${path}/`.startsWith(`${SHARED}/`) ? path : REAL.realPath(path),
      folderId: () => "",
      writeAtomic: async (path, text) => this.write(path, text),
      append: (path, text, cap = Infinity) => {
        const old = files.get(path) ?? "";
        const over = old.length > cap;
        if (!text && !over) return false;
        this.write(path, (over ? "" : old) + text);
        if (over) files.set(`${path}.1`, old);
        return over;
      },
      remove: (path) => {
        if (!files.has(path)) return;
        this.effect(`remove ${path.split("/").at(-1)}`);
        files.delete(path);
        times.delete(path);
      },
      // a time that outlived its file is none
      mtime: (path) => files.has(path) ? times.get(path) ?? 0 : this.folders.has(path) || disk.in(path).length ? 0 : null,
      isFolder: (path) => !files.has(path),
      list: (path) => [...disk.in(path)],
      print: REAL.print,
      printError: REAL.printError,
      errorWidth: () => Infinity,
      log: (line) => void this.lines.push(line),
    } satisfies World);
  }

  restore(): void {
    Object.assign(world, REAL);
    if (!existsSync(SHARED)) return;
    rmSync(SHARED, { recursive: true });
    throw new Error(`a lock was taken in ${SHARED}, which all worlds share: that test needs a realFolder()`);
  }

  /** Passes time on both clocks. */
  turn(ms: number): void {
    this.wall += ms;
    this.mono += ms;
  }

  effect(what: string): void {
    this.isDead = this.dieAt > 0 && this.effects.length + 1 >= this.dieAt;
    if (this.isDead) throw new Death(`died at effect ${this.dieAt}: ${what}`);
    this.effects.push(what);
  }

  /** Another supervisor may go on with the same files. */
  revive(): void {
    this.dieAt = 0;
    this.isDead = false;
    unwritten.clear();
  }

  /** A file of the map; of the real disk only what ships with the program. */
  read(path: string): string | null {
    const ships = path.startsWith(PROGRAM) && /\/(prompts\/[\w-]+\.md|package\.json)$/.test(path);
    return this.files.get(path) ?? (ships ? REAL.read(path) : null);
  }

  write(path: string, text: string): void {
    if (this.full) throw Object.assign(new Error(`ENOSPC: no space left on device, write '${path}'`), { code: "ENOSPC" });
    if (!this.folders.has(dirname(path))) throw new Error(`ENOENT: no such file or directory, open '${path}'`);
    this.effect(`write ${path.split("/").at(-1)}`);
    this.files.set(path, text);
    this.times.set(path, this.wall);
  }

  private signal(pid: number, signal: NodeJS.Signals | 0): boolean {
    const pane = this.processes.get(pid);
    if (!pane || signal === 0) return pane !== undefined;
    this.effect(`signal ${signal}`);
    if (pane.ignores.includes(signal)) return true;
    this.processes.delete(pid);
    pane.dead = true;
    return true;
  }

  /** A validated config from TOML; its paths are those of the fake files. */
  async config(text: string, env: Record<string, string | undefined> = {}): Promise<Config> {
    const path = join(this.home, "agents.toml");
    this.files.set(path, text);
    const cfg = await loadConfig(path, env);
    for (const folder of [cfg.logDir, cfg.stateDir, join(cfg.logDir, "unsure")]) this.folders.add(folder);
    if (this.isNew && this.home === SHARED) await this.forgetOrders(cfg);
    if (this.isNew) unwritten.clear();
    this.isNew = false;
    return cfg;
  }

  /** The program remembers what the orders in a folder said last: here that is what another test wrote. */
  private async forgetOrders(cfg: Config): Promise<void> {
    const path = join(cfg.stateDir, "operator.json");
    if (this.files.has(path)) return;
    this.files.set(path, "{}");
    await operatorOf(cfg);
    this.files.delete(path);
  }

  /** The watchdog's memory, as one that starts now reads it. */
  watch(cfg: Config): Promise<Watch> {
    return loadWatch(cfg);
  }

  /** Ticks as the loop makes them, one per interval: what was fetched beside one is there at the next. */
  async ticks(cfg: Config, watch: Watch, count = 1, before: (nth: number) => void = () => {}): Promise<void> {
    for (let nth = 0; nth < count; nth++) {
      before(nth);
      const due = this.mono + cfg.watchdog.signalInterval * 1000;
      if (!this.isDead) await tick(cfg, watch);
      await watch.volatile.fetch;
      this.turn(Math.max(0, due - this.mono));
    }
  }

  /** Runs `act` before each call to tmux that it is told of. */
  beforeTmux(act: (args: string[], stdin: string) => void): void {
    const run = this.tmux.run.bind(this.tmux);
    this.tmux.run = (args, stdin = "") => (act(args, stdin), run(args, stdin));
  }

  /** What Linux says of a process: its state and when it began. */
  stat(pid: number, born: number, state = "S"): void {
    this.files.set(`/proc/${pid}/stat`, `${pid} (x) ${[state, 1, pid, pid, 1, pid, ...Array(13).fill(0), born].join(" ")}`);
  }

  /** What the clients of all panes of a session received, the ended ones included. */
  received(session: string): string[] {
    return this.everyPane.filter((pane) => pane.session === session).flatMap((pane) => pane.received);
  }

  /** Every pane there ever was. */
  everyPane: FakePane[] = [];

  logged(part: string | RegExp): string[] {
    return this.lines.filter((line) => (typeof part === "string" ? line.includes(part) : part.test(line)));
  }
}

/** A command of the program over the fake world: its exit code, and what it prints. */
export async function command(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  const said = { out: "", err: "" };
  const { print, printError } = world;
  world.print = (text) => void (said.out += Bun.stripANSI(text));
  world.printError = (text) => void (said.err += Bun.stripANSI(text));
  try {
    const code = await main(argv);
    return { code, ...said };
  } finally {
    Object.assign(world, { print, printError });
  }
}

/** Runs something where the terminal is so many columns wide. */
export async function atWidth<T>(width: number, body: () => T | Promise<T>): Promise<T> {
  const before = process.env.COLUMNS;
  process.env.COLUMNS = `${width}`;
  try {
    return await body();
  } finally {
    if (before === undefined) delete process.env.COLUMNS;
    else process.env.COLUMNS = before;
  }
}

/** A pane as the list shows it, with what a test says of it. */
export const paneOf = (some: Partial<Pane> = {}): Pane => ({
  sessionName: "s", sessionId: "$1", id: "%1", pid: 5, dead: false, status: null, signal: null, piped: false, created: 0,
  activity: 0, inputOff: false, size: "80x24", server: "1 1", command: "", session: "", unit: "", backend: "", model: "", phase: "", cause: "", home: "", fleet: "", conversation: "", room: "", startedPid: 0,
  title: "", ...some,
});

/** The config that most tests need. */
export const FLEET = readFileSync(join(import.meta.dir, "fixtures", "fleet.toml"), "utf8");

const SHIPPED = readFileSync(join(import.meta.dir, "..", "agents.toml"), "utf8");
/** The clients whose tables stand in agents.toml, commented out. */
export const CLIENTS = ["codex", "gemini", ...[...SHIPPED.matchAll(/^# \[backend\.(\w+)\]/gm)].map((match) => match[1]!)];
/** Such a table as an operator takes it over: one that is built in as it is, another without the first "# " of each line. */
export function tableOf(client: string): string {
  const tables = SHIPPED.slice(0, SHIPPED.indexOf("\n# ── services")).split(/^(?=(?:# )?\[backend\.\w+\])/m);
  const table = tables.find((one) => /^(?:# )?\[backend\.(\w+)\]/.exec(one)?.[1] === client)!;
  return table.startsWith("# ") ? table.replace(/^# ?/gm, "") : table;
}

/** Agents of the built-in client, watched for stalls too. */
export const agents = (...names: string[]): string =>
  names.map((name) => `[[agent]]\nname = "${name}"\nbackend = "claude"\nwatch = "heal+stall"\n`).join("");

/** A world for one test: the real one is back when that test is over. */
export function fakeWorld(home?: string): FakeWorld {
  const fake = new FakeWorld(home);
  onTestFinished(() => fake.restore());
  return fake;
}

/** A fleet in a fake world, with a watchdog whose ticks a test makes. */
export interface Scene {
  fake: FakeWorld;
  cfg: Config;
  watch: Watch;
  /** Ticks of the watchdog that runs now; `before` is called ahead of each. */
  ticks(count?: number, before?: (nth: number) => void): Promise<void>;
  /** The pane of an agent, living or dead. */
  pane(name?: string): FakePane;
  /** How often an agent was started. */
  starts(name?: string): number;
  /** What the clients of an agent received, in order. */
  told(name?: string): string[];
  /** The path of a file in `state/`. */
  file(name: string): string;
  /** What a person wants, as operator.json has it. */
  operator(some: object | string): void;
  /** Another watchdog goes on with the same files: its memory. */
  again(): Promise<Watch>;
  /** The same as it stands now, which goes its own way once its world is entered. */
  copy(): Scene;
}

export interface Setting {
  /** Ticks before the test begins; the first one starts the agents. */
  ticks?: number;
  /** What each client does once it was started; not where `fake` says so itself. */
  doing?: Doing;
  /** The fleet's folder: a real one, where real locks are taken. */
  home?: string;
  /** A world that was prepared already. */
  fake?: FakeWorld;
}

/** Of a processor, ms: what else runs on the machine takes none of it. */
function spent(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** How long, ms; where that is too long, the shortest of three: what this process does besides only ever adds to it. */
export function took(work: () => unknown, limit: number): number {
  let best = Infinity;
  for (let tries = 0; tries < 3 && best > limit; tries++) {
    const began = spent();
    work();
    best = Math.min(best, spent() - began);
  }
  return best;
}

/** How many times as fast a clock of `fasterClock` runs. */
export const FASTER = 20;
/** Until the test is over, the clock that patterns are measured by runs faster: to be too slow takes less of a processor. */
export function fasterClock(): void {
  const now = performance.now.bind(performance);
  performance.now = () => now() * FASTER;
  onTestFinished(() => void (performance.now = now));
}

/** A real folder for one test: the locks of commands are no part of the world. */
export function realFolder(): string {
  const folder = mkdtempSync(join(SCRATCH, "scene-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** A watchdog that has its lock, which is held in truth, until the test is over: as where no /proc tells when a pid began. */
export function holdLock(fake: FakeWorld, stateDir: string, pid: number): void {
  mkdirSync(stateDir, { recursive: true });
  const lock = flock(join(stateDir, "watchdog.lock")); // null = from an earlier call
  if (lock !== null) onTestFinished(() => closeSync(lock));
  const path = join(stateDir, "watchdog.lock.pid");
  fake.files.set(path, `${pid} `);
  fake.times.set(path, fake.wall);
}

function playing(doing: Doing, home?: string): FakeWorld {
  const fake = fakeWorld(home);
  fake.tmux.onStart = (pane) => void (pane.doing = doing);
  return fake;
}

/** The set of a test: a fleet by its agents.toml, and as many ticks of a watchdog as the story wants before it begins. */
export async function scene(text = FLEET, { ticks = 3, doing = "idle", home, fake = playing(doing, home) }: Setting = {}): Promise<Scene> {
  const cfg = await fake.config(text);
  const it = sceneOf(fake, cfg, await fake.watch(cfg));
  await it.ticks(ticks);
  return it;
}

function sceneOf(fake: FakeWorld, cfg: Config, watch: Watch): Scene {
  const it: Scene = {
    fake, cfg, watch,
    ticks: (count = 1, before) => fake.ticks(cfg, it.watch, count, before),
    pane: (name = "a") => fake.tmux.of(`agents-${name}`),
    starts: (name = "a") => fake.everyPane.filter(({ session }) => session === `agents-${name}`).length,
    told: (name = "a") => fake.received(`agents-${name}`),
    file: (name) => join(cfg.stateDir, name),
    operator: (some) => void fake.files.set(it.file("operator.json"), typeof some === "string" ? some : JSON.stringify(some)),
    again: async () => (it.watch = await fake.watch(cfg)),
    copy: () => {
      const same = new Map<unknown, unknown>([[cfg.loop.handoff, cfg.loop.handoff]]); // what was fetched is told from old news by it
      return sceneOf(copied(fake, same), { ...cfg, stored: copied(cfg.stored, same) }, copied(it.watch, same));
    },
  };
  return it;
}

/** A copy as deep as it goes; functions and promises stay the same ones. `known`: the copies of what was copied already. */
function copied<T>(value: T, known: Map<unknown, unknown>): T {
  if (typeof value !== "object" || value === null || value instanceof Promise) return value;
  if (known.has(value)) return known.get(value) as T;
  const made = value.constructor as new () => object;
  const copy = (value instanceof Map || value instanceof Set || Array.isArray(value) ? new made() : Object.create(made.prototype)) as T & object;
  known.set(value, copy);
  if (value instanceof Map) for (const [key, one] of value) (copy as T & Map<unknown, unknown>).set(copied(key, known), copied(one, known));
  if (value instanceof Set) for (const one of value) (copy as T & Set<unknown>).add(copied(one, known));
  return Object.assign(copy, Object.fromEntries(Object.entries(value).map(([key, one]) => [key, copied(one, known)])));
}

/**
 * Runs these side by side on the one clock of the fake world, which passes while all of them sleep,
 * to where the first one wakes. Their results, in order.
 */
export async function together<T>(fake: FakeWorld, runs: (() => Promise<T>)[]): Promise<T[]> {
  const sleepers: { due: number; wake: () => void }[] = [];
  let awake = runs.length;
  const rest = (): void => {
    awake -= 1;
    if (awake > 0 || !sleepers.length) return;
    const first = sleepers.sort((a, b) => a.due - b.due).shift()!;
    fake.turn(Math.max(0, first.due - fake.mono));
    awake += 1;
    first.wake();
  };
  const { sleep } = world;
  world.sleep = (ms) => new Promise((wake) => {
    sleepers.push({ due: fake.mono + ms, wake });
    rest();
  });
  try {
    return await Promise.all(runs.map((run) => run().finally(rest)));
  } finally {
    world.sleep = sleep;
  }
}

/** The close look at one screen, styles and all, that comes before keys are sent and clients ended. */
export const closeLook = (stdin: string): boolean => stdin.includes("capture-pane -p -e");

/** A text on its way to agent "a". */
export const message = (some: Partial<Message> = {}): Message =>
  ({ id: "1", target: "a", text: "Supervisor: look at the newest claim, then say PASS or FAIL.", cause: "claim", made: 0, tries: 0, ...some });

export const verdict = (name: VerdictName, rule = ""): Verdict =>
  ({ verdict: name, rule, where: "", text: "", limit: null, waitingUntil: null, why: name });
