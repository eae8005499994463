/**
 * The harness for tests with real parts: a fleet in a folder of its own, its own tmux server, real
 * git, real processes, the scripted client of the program. Whatever a test started is known by the
 * TMUX_TMPDIR in its environment, and is ended by pid when the test is over.
 */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { GIT_ENV } from "./git.ts";
import { ROOT, SELF } from "./program.ts";
import { markedBy, reap, reapAfter, signal } from "./reaper.ts";
import { SCRATCH } from "./scratch.ts";
import { until } from "./wait.ts";

export { signal } from "./reaper.ts";
export { allowed, until } from "./wait.ts";
export { ROOT, SELF } from "./program.ts";

/** Not there for scripts such as the soak run, which use the fleet alone. */
const runner = await import("bun:test").then((one) => {
  one.afterAll(async () => {
    await Promise.all([...fleets].map((left) => left.reap()));
  });
  return one;
}).catch(() => null);

export interface Ran {
  code: number;
  out: string;
  err: string;
}

/** A line of a scripted client's ledger. */
export interface Fact {
  at: number;
  start?: string[];
  pid?: number;
  bytes?: string;
  /** For how long, ms, a dialog had stood on its screen when these bytes came. */
  dialog?: number;
  submit?: string;
  approved?: true;
  /** What stood in its box when somebody cleared that by Ctrl-U. */
  cleared?: string;
  /** Its state when it got SIGHUP, and what stood in its box. */
  hangup?: string;
  draft?: string;
}

type Value = string | number | boolean | Value[] | { [key: string]: Value };
export type Table = { [key: string]: Value };

export interface Plan {
  agents?: (Table & { name: string })[];
  services?: (Table & { name: string })[];
  defaults?: Table;
  watchdog?: Table;
  backend?: Table;
  loop?: Table;
  /** Appended to the agents.toml as it stands. */
  toml?: string;
  /** In the environment of everything that the fleet runs. */
  env?: Record<string, string>;
}

/** Runs a program to its end, by a deadline. */
export async function spawn(argv: string[], options: {
  cwd?: string; env?: Record<string, string | undefined>; ms?: number; stdin?: string;
} = {}): Promise<Ran> {
  const child = Bun.spawn(argv, {
    cwd: options.cwd ?? "/", env: options.env ?? process.env, stdout: "pipe", stderr: "pipe",
    stdin: options.stdin === undefined ? "ignore" : new TextEncoder().encode(options.stdin),
    timeout: options.ms ?? 240_000, killSignal: "SIGKILL",
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited,
  ]);
  return { code, out, err };
}

const toml = (value: Value): string => {
  if (Array.isArray(value)) return `[${value.map(toml).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{ ${Object.entries(value).map(([key, one]) => `${JSON.stringify(key)} = ${toml(one)}`).join(", ")} }`;
};
const tableText = (header: string, table: Table): string =>
  [header, ...Object.entries(table).map(([key, value]) => `${key} = ${toml(value)}`), ""].join("\n");

/** A word for a POSIX shell. */
export const quote = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;
/** The command line of the scripted client, as shell words. The last is there because Bun keeps a first `--` for itself. */
export const TUI = [process.execPath, "--no-env-file", "--config=/dev/null", join(ROOT, "tests", "tui.ts"), "tui"]
  .map(quote).join(" ");

/** Whether a process lives: not a zombie that nobody waited for. */
export function lives(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat[stat.lastIndexOf(")") + 2] !== "Z";
  } catch {
    return false;
  }
}

const fleets = new Set<Fleet>();

export class Fleet {
  readonly dir = mkdtempSync(join(SCRATCH, "fl eet'$x#S%d-"));
  /** Short: a unix socket's path has at most 107 bytes. */
  readonly tmuxDir = mkdtempSync(join(SCRATCH, "at-"));
  readonly home = join(this.dir, "home");
  readonly config = join(this.dir, "agents.toml");
  readonly state = join(this.dir, ".agents", "state");
  readonly env: Record<string, string | undefined>;

  constructor(readonly plan: Plan) {
    fleets.add(this);
    reapAfter(this.dir, this.tmuxDir);
    mkdirSync(this.home);
    const { PATH, LANG, TMPDIR } = process.env;
    this.env = {
      // what Bun made of the program already: its cache would be empty in an empty home
      BUN_RUNTIME_TRANSPILER_CACHE_PATH: join(homedir(), ".bun", "install", "cache", "@t@"),
      PATH, LANG: LANG ?? "C.UTF-8", TMPDIR, HOME: this.home, TMUX_TMPDIR: this.tmuxDir, TERM: "xterm-256color",
      GIT_CONFIG_NOSYSTEM: "1", ...GIT_ENV, ...plan.env,
    };
    this.write("agents.toml", this.text());
  }

  /** The agents.toml of the plan; a test changes it as an operator would, by writing the file again. */
  text(plan: Plan = this.plan): string {
    const agents = (plan.agents ?? []).map((agent) => ({ ...agent, env: { ...this.clientEnv(agent.name), ...(agent.env as Table) } }));
    return [
      tableText("[defaults]", { session_prefix: "t-", backend: "scripted", ...plan.defaults }),
      tableText("[watchdog]", {
        signal_interval: 0.5, heavy_interval: 1, stall_grace: 0.5, limit_probe_fallback: 1, limit_reset_slack: 0,
        restart_delay: 0.5, healthy_after: 1, up_wait: 60, ...plan.watchdog,
      }),
      tableText("[backend.scripted]", { kind: "claude", bin: TUI, ...plan.backend }),
      ...agents.map((agent) => tableText("[[agent]]", agent)),
      ...(plan.services ?? []).map((service) => tableText("[[service]]", service)),
      plan.loop ? tableText("[loop]", plan.loop) : "",
      plan.toml ?? "",
    ].join("\n");
  }

  clientEnv(name: string): Record<string, string> {
    return { TUI_LEDGER: join(this.dir, `ledger-${name}`), TUI_CONTROL: join(this.dir, `control-${name}`), TUI_WORK_MS: "100" };
  }

  path(...names: string[]): string {
    return join(this.dir, ...names);
  }

  /** Writes a file below the fleet's folder at once, never half. */
  write(name: string, content: string): string {
    const path = this.path(name);
    mkdirSync(resolve(path, ".."), { recursive: true });
    writeFileSync(`${path}.new`, content);
    renameSync(`${path}.new`, path);
    return path;
  }

  read(name: string): string {
    return existsSync(this.path(name)) ? readFileSync(this.path(name), "utf8") : "";
  }

  /** The program with this fleet's config, where the words name no other. */
  run(args: string[], options: { cwd?: string; env?: Record<string, string>; ms?: number; stdin?: string } = {}): Promise<Ran> {
    const config = args.includes("--config") ? [] : ["--config", this.config];
    return spawn([...SELF, ...args, ...config], { ...options, env: { ...this.env, ...options.env } });
  }

  /** `status --json`: the exit code, and each agent's and service's state by its name. */
  async states(): Promise<{ code: number; of: Record<string, string>; messages: Record<string, number> }> {
    const { code, out } = await this.run(["status", "--json"]);
    const { agents, services } = JSON.parse(out) as Record<string, { name: string; state: string; messages: number }[]>;
    const all = [...agents!, ...services!];
    return {
      code, of: Object.fromEntries(all.map((one) => [one.name, one.state])),
      messages: Object.fromEntries(all.map((one) => [one.name, one.messages])),
    };
  }

  /** `up`, which must succeed. */
  async up(...names: string[]): Promise<Ran> {
    const ran = await this.run(["up", ...names]);
    if (ran.code !== 0) throw new Error(`up: exit ${ran.code}\n${ran.out}${ran.err}`);
    return ran;
  }

  /** The program in the background, for a test that ends it itself. */
  start(args: string[], env: Record<string, string> = {}) {
    return Bun.spawn([...SELF, ...args, "--config", this.config], {
      cwd: "/", env: { ...this.env, ...env }, stdin: "ignore", stdout: "pipe", stderr: "pipe",
    });
  }

  private terminals = 0;

  /** The program in a shell of a person's terminal: a pane on a tmux server that is not the fleet's. */
  async terminal(args: string[], { cols = 120, rows = 30, env = [] as string[] } = {}) {
    const tmux = (...words: string[]) => this.tmux("-L", "person", "-f", "/dev/null", ...words);
    const drawn = join(this.tmuxDir, `terminal-${(this.terminals += 1)}`);
    const pane = await tmux("new-session", "-dP", "-F", "#{pane_id}", "-x", `${cols}`, "-y", `${rows}`,
      "sh", "-c", '"$@"; echo "exit $?"; exec cat', "sh", "env", ...env, ...SELF, ...args, "--config", this.config,
      ";", "pipe-pane", `exec cat > ${drawn}`);
    const field = (name: string) => tmux("display-message", "-p", "-t", pane, `#{${name}}`);
    const screen = (...options: string[]) => tmux("capture-pane", "-p", "-t", pane, ...options);
    /** Waits for what its screen says; that is read only when something was drawn since. */
    const shows = (what: (text: string) => unknown) => {
      let seen = -1;
      return until(async () => {
        const size = statSync(drawn, { throwIfNoEntry: false })?.size ?? 0;
        if (size === seen) return false;
        seen = size;
        return what(await screen());
      }, undefined, 25);
    };
    return {
      field, screen, shows,
      keys: (...keys: string[]) => tmux("send-keys", "-t", pane, ...keys),
      /** How it ended, once it has. */
      ended: () => shows((text) => /^exit \d+$/m.exec(text)?.[0]) as Promise<string>,
    };
  }

  async tmux(...args: string[]): Promise<string> {
    const ran = await spawn(["tmux", ...args], { env: this.env });
    if (ran.code !== 0) throw new Error(`tmux ${args.join(" ")}: ${ran.err}`);
    return ran.out.trimEnd();
  }

  /** The sessions there are; none where there is no server. */
  async sessions(): Promise<string[]> {
    return (await this.tmux("list-sessions", "-F", "#{session_name}").catch(() => "")).split("\n").filter(Boolean).sort();
  }

  /** The pid of the only pane of an agent's session; 0 = it is dead or gone. */
  async pid(name: string): Promise<number> {
    const shown = await this.tmux("list-panes", "-s", "-t", `=t-${name}`, "-F", "#{pane_dead} #{pane_pid}").catch(() => "1 0");
    const [dead, pid] = shown.split("\n")[0]!.split(" ");
    return dead === "0" ? Number(pid) : 0;
  }

  async serverPid(): Promise<number> {
    return Number(await this.tmux("display-message", "-p", "#{pid}"));
  }

  async screen(name: string): Promise<string> {
    return this.tmux("capture-pane", "-p", "-J", "-t", `=t-${name}:`);
  }

  /** Each ledger as it was read last: while a test waits for a line, it asks every few ms. */
  private ledgers = new Map<string, { seen: string; facts: Fact[] }>();

  ledger(name: string): Fact[] {
    const file = this.path(`ledger-${name}`);
    const stat = statSync(file, { throwIfNoEntry: false });
    if (!stat) return [];
    const seen = `${stat.ino} ${stat.size} ${stat.mtimeMs}`;
    const known = this.ledgers.get(name);
    if (known?.seen === seen) return known.facts;
    const facts = readFileSync(file, "utf8").split("\n").slice(0, -1).map((line) => JSON.parse(line));
    this.ledgers.set(name, { seen, facts });
    return facts;
  }

  /** The command lines with which a client was started, oldest first. */
  starts(name: string): string[][] {
    return this.ledger(name).flatMap((fact) => (fact.start ? [fact.start] : []));
  }

  /** The texts that a client was given and that were submitted. */
  submits(name: string): string[] {
    return this.ledger(name).flatMap((fact) => (fact.submit === undefined ? [] : [fact.submit]));
  }

  /** Every byte that a client received. */
  bytes(name: string): string {
    return this.ledger(name).map((fact) => fact.bytes ?? "").join("");
  }

  approvals(name: string): number {
    return this.ledger(name).filter((fact) => fact.approved).length;
  }

  /** Sets the state of a scripted client: busy, idle, dialog, `limit <banner>`, `exit <code>`, `once …`. */
  control(name: string, word: string): void {
    this.write(`control-${name}`, `${word}\n`);
  }

  /** Waits until a client that runs has come to its prompt. */
  ready(...names: string[]): Promise<unknown> {
    return until(() => names.every((name) => this.starts(name).length));
  }

  get log(): string {
    return this.read(".agents/t-watchdog.log");
  }

  events(kind?: string): Record<string, unknown>[] {
    return this.read(".agents/state/events.jsonl").split("\n").filter(Boolean).map((line) => JSON.parse(line))
      .filter((event) => !kind || event.event === kind);
  }

  /** The pid of the watchdog or its keeper, 0 = there is none. */
  lock(what: "watchdog" | "keeper"): number {
    const pid = Number(this.read(`.agents/state/${what}.lock.pid`).split(" ")[0]);
    return pid && lives(pid) ? pid : 0;
  }

  /** The number of ticks that the watchdog made since; a tick ends with its heartbeat. */
  async ticks(count: number): Promise<void> {
    for (let nth = 0; nth < count; nth++) {
      const before = this.read(".agents/state/heartbeat");
      await until(() => this.read(".agents/state/heartbeat") !== before, 12_000, 20);
    }
  }

  async git(repo: string, ...args: string[]): Promise<string> {
    const ran = await spawn(["git", "-C", this.path(repo), ...args], { env: this.env });
    if (ran.code !== 0) throw new Error(`git ${args.join(" ")}: ${ran.err}`);
    return ran.out.trim();
  }

  /** A bare origin with one commit, and clones of it; `watch` is the one that the watchdog reads. */
  async repository(...clones: string[]): Promise<void> {
    const git = (stdin: string, ...args: string[]) => spawn(["git", "-C", this.dir, ...args], { env: this.env, stdin });
    await git("", "init", "-q", "--bare", "-b", "main", "origin.git");
    await git("commit refs/heads/main\ncommitter T <t@test.invalid> now\ndata 5\nBegin\nM 644 inline machine-docs/README.md\ndata 8\nread me\n\n", "--git-dir=origin.git", "fast-import", "--quiet", "--date-format=now");
    await git("", "clone", "-q", this.path("origin.git"), "watch");
    for (const clone of clones) cpSync(this.path("watch"), this.path(clone), { recursive: true });
  }

  /** Commits files in a clone and pushes them. */
  async push(clone: string, subject: string, files: Record<string, string> = {}): Promise<void> {
    for (const [name, content] of Object.entries(files)) this.write(join(clone, name), content);
    if (Object.keys(files).length) await this.git(clone, "add", "-A");
    // by a file: no argument may be longer than 128 kB
    await this.git(clone, "commit", "-q", "--allow-empty", "-F", this.write(`subject-${clone}`, subject));
    await this.git(clone, "push", "-q", "origin", "HEAD:main");
  }

  /** All processes that this fleet started. */
  processes(): { pid: number; command: string }[] {
    return markedBy(this.tmuxDir);
  }

  /** Ends everything by pid, at once: how a fleet is ended in order is for tests of `down`. */
  async reap(): Promise<void> {
    if (fleets.delete(this)) await reap([this.dir, this.tmuxDir]);
  }

  /** What a failed test shows. */
  account(): string {
    return [`--- the watchdog's log`, this.log.split("\n").slice(-40).join("\n"), "--- processes",
      ...this.processes().map(({ pid, command }) => `${pid} ${command.slice(0, 160)}`)].join("\n");
  }
}

/** A fleet; `real` gives one to each test, other scripts reap theirs. */
export const fleet = (plan: Plan): Fleet => new Fleet(plan);

/**
 * This many fleets at a time, over all workers of a run. Most of a test is waiting, but each fleet looks
 * at tmux and git all the while: more of them only wait for each other. 0 leaves these tests out.
 */
const AT_ONCE = Number(process.env.REAL_AT_ONCE ?? 12);
/** A file for each fleet that runs, with the pid of its worker. The workers have one parent. */
const SLOTS = join(tmpdir(), `agents-tests-${process.ppid}`);

/** The worker that holds a place; 0 = freed at this moment, or taken and not yet written. */
function holderOf(slot: string): number {
  try {
    return Number(readFileSync(slot, "utf8"));
  } catch {
    return 0;
  }
}

/** The one of this worker that asked last; the next one looks for a place only once it has its own. */
let asked: Promise<unknown> = Promise.resolve();

/** Waits for a place among the fleets of this run; returns what frees it again. */
function takeSlot(): Promise<() => void> {
  const taken = asked.then(findSlot);
  asked = taken.catch(() => {});
  return taken;
}

function freeSlot(slot: string): void {
  rmSync(slot, { force: true });
  try {
    rmdirSync(SLOTS); // the last one
  } catch {
    // others are in it, or have removed it
  }
}

async function findSlot(): Promise<() => void> {
  for (let nth = 0; ; nth = (nth + 1) % AT_ONCE) {
    mkdirSync(SLOTS, { recursive: true });
    const slot = join(SLOTS, `${nth}`);
    try {
      writeFileSync(slot, `${process.pid}`, { flag: "wx" });
      return () => freeSlot(slot);
    } catch {
      const holder = holderOf(slot);
      if (holder && !lives(holder)) rmSync(slot, { force: true });
    }
    if (nth === AT_ONCE - 1) await Bun.sleep(25);
  }
}

type Body = (f: Fleet) => Promise<unknown>;

/**
 * Tests that live through one fleet, one after the other as they stand in the file, beside other fleets:
 * a fleet's life costs more than what most tests do in it. After one that fails, those behind it fail.
 * Those that have an agent each, and wait for long, all begin at once after a `start` that they share.
 */
export function life(plan: Plan, start?: Body): (name: string, body: Body) => void {
  let f: Fleet;
  let free = () => {};
  let left = 0;
  let before: Promise<unknown> | undefined;
  const begin = async (): Promise<void> => {
    free = await takeSlot();
    f = fleet(plan);
    await start?.(f);
  };
  return (name, body) => {
    left += 1;
    runner?.test[AT_ONCE ? "concurrent" : "skip"](name, async () => {
      const part = (before ??= begin()).then(() => body(f).catch((error) => {
        process.stderr.write(`\n${name}\n${f.account()}\n`);
        throw error;
      }));
      if (!start) before = part.catch(() => Promise.reject(new Error(`"${name}" failed, with the same fleet`)));
      before.catch(() => {});
      await part.finally(async () => {
        if ((left -= 1)) return;
        await f.reap();
        free();
      });
    }, 900_000);
  };
}

/** A test with a fleet of its own, beside others; a failed one shows the watchdog's log. */
export const real = (name: string, plan: Plan, body: Body): void => life(plan)(name, body);

/** A builder, an adversary and a real repository for the two; phases "one" and "two". */
export const loopPlan = (over: Plan & { handoff?: Table; phase?: Table; agent?: Table } = {}): Plan => ({
  ...over,
  agents: [
    { name: "builder", kind: "loop", role: "builder", watch: "heal", ...over.agent },
    { name: "adversary", kind: "loop", role: "adversary", watch: "heal", ...over.agent },
    ...(over.agents ?? []),
  ],
  loop: {
    phases: [
      { id: "one", plan: "one.md", status: "STATUS-one.md" },
      { id: "two", plan: "two.md", status: "STATUS-two.md", ...over.phase },
    ],
    handoff: { repo: "watch", ...over.handoff },
    ...over.loop,
  },
});

export interface Storm {
  /** Of each hand-off: how many copies its reader received, and how long the first took, ms. */
  copies: number[];
  took: number[];
  kills: number;
  /** Copies that no kill since the one before explains. */
  unprovoked: number;
}

/** Pushes hand-offs one after the other and kills the watchdog by -9 at a random moment of each, where there is one just then. */
export async function handoffStorm(f: Fleet, kills: number, random = Math.random): Promise<Storm> {
  await f.repository("builder", "adversary");
  await f.up();
  await f.ready("builder", "adversary");
  await until(() => JSON.parse(f.read(".agents/state/watch.json")).sha);
  const mark = (nth: number) => `claim(one): number ${nth}.`;
  const arrivals = (nth: number) => f.ledger("adversary").filter((fact) => fact.submit?.includes(mark(nth))).map((fact) => fact.at);
  const [pushed, killed]: [number[], number[]] = [[], []];
  while (killed.length < kills) {
    const nth = pushed.length;
    pushed.push(Date.now());
    await f.push("builder", mark(nth));
    await Bun.sleep(random() * 1_500);
    const pid = f.lock("watchdog");
    if (pid) {
      signal(pid, "SIGKILL");
      killed.push(Date.now());
    }
    await until(() => arrivals(nth).length, 30_000);
  }
  // one more hand-off: whatever was still to be repeated came before it
  await f.push("builder", mark(pushed.length));
  await until(() => arrivals(pushed.length).length, 30_000);
  const all = pushed.map((_, nth) => arrivals(nth));
  const between = (from: number, to: number): boolean => killed.some((at) => at > from - 1_000 && at < to);
  return {
    copies: all.map((times) => times.length), took: all.map((times, nth) => times[0]! - pushed[nth]!), kills: killed.length,
    unprovoked: all.flatMap((times) => times.slice(1).filter((at, nth) => !between(times[nth]!, at))).length,
  };
}
