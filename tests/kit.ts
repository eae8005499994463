/**
 * The fake world: every member of the seam replaced by a few lines, so that days of supervision pass
 * in milliseconds. A clock one turns, files as a map, tmux as panes with a scripted client in each,
 * git as a list of commits, and death at any effect one names.
 */
import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { type Config, loadConfig, loadWatch, type Ran, tick, type Watch, type World, world } from "../agents.ts";

const REAL: World = { ...world };
const PROGRAM = resolve(import.meta.dir, "..");

/** The end of the supervisor at one effect; each later one throws it too, until `revive()`. */
export class Death extends Error {}

/** Waits in real time until something is so; for the tests with real processes. */
export async function until(so: () => unknown, ms = 8_000, every = 50): Promise<void> {
  for (const end = performance.now() + ms; !(await so()); await Bun.sleep(every)) {
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${so}`);
  }
}

const RULE = "─".repeat(80);
const said = (out = ""): Ran => ({ ok: true, out, err: "", timedOut: false });
const failed = (err: string): Ran => ({ ok: false, out: "", err, timedOut: false });

export type Doing = "idle" | "busy" | "dialog" | "limit" | "fatal" | "blank";

/** One pane with a client in it that is drawn like Claude Code and notes all that it receives. */
export class FakePane {
  doing: Doing = "idle";
  /** The screen as it stands, instead of the drawn one. */
  text: string | null = null;
  /** The newest block of the transcript, and what a limited client shows. */
  said = "● Ready.";
  banner = "You've hit your 5-hour limit · resets 3pm (UTC)";
  /** Wall ms at which its picture froze. */
  frozen: number | null = null;
  draft = "";
  /** What to do with Enter: false = it is not taken. */
  takesEnter = true;
  dead = false;
  status: number | null = null;
  piped = false;
  inMode = false;
  command = "claude";
  marks: Record<string, string> = {};
  /** Texts submitted, Enters that answered a dialog, other keys. */
  received: string[] = [];
  approved = 0;
  enters = 0;
  keys: string[] = [];
  onSubmit?: (value: string) => void;
  /** Which of HUP and TERM its process survives. */
  ignores: string[] = [];
  constructor(
    readonly session: string,
    readonly nth: number,
    readonly pid: number,
    readonly created: number,
    readonly argv: string[] = [],
    readonly env: string[] = [],
    readonly cwd = "/",
  ) {}

  get id(): string {
    return `%${this.nth}`;
  }

  title(now: number): string {
    const busy = this.doing === "busy" && this.text === null;
    return busy ? `${Math.floor((this.frozen ?? now) / 1000) % 2 ? "◐" : "◑"} Claude Code` : "✳ Claude Code";
  }

  screen(now: number): string {
    if (this.text !== null) return this.text;
    if (this.doing === "blank") return "\n\n\n";
    const busy = this.doing === "busy";
    const block = {
      idle: this.said, dialog: this.said, blank: "",
      busy: `${this.said}\n\n✻ Working… (${Math.floor((this.frozen ?? now) / 1000) % 86_400}s · ↓ 1.2k tokens)`,
      limit: `❯ go on\n  ⎿  ${this.banner}`, fatal: "❯ go on\n  ⎿  Prompt is too long",
    }[this.doing];
    const foot = `  ⏵⏵ auto mode on${busy ? " · esc to interrupt" : " (shift+tab to cycle)"}`;
    const box = this.doing === "dialog"
      ? [RULE, " Do you want to proceed?", " ❯ 1. Yes", "   2. No", "", " Esc to cancel · Tab to amend"]
      : [RULE, `❯\u00a0${this.draft.replaceAll("\n", "\n  ")}`, RULE, foot];
    return ["", block, "", ...box, ""].join("\n");
  }

  /** A bracketed paste; while a dialog is open the client drops it. */
  paste(value: string): void {
    if (!this.dead && this.doing !== "dialog") this.draft += value;
  }

  key(name: string): void {
    if (this.dead || this.inMode) return;
    if (name !== "Enter" && name !== "C-m") return void this.keys.push(name);
    this.enters += 1;
    if (this.doing === "dialog") this.approved += 1;
    if (this.doing === "dialog" || !this.draft || !this.takesEnter) return;
    const value = this.draft;
    this.draft = "";
    this.received.push(value);
    this.said = `❯ ${value}\n\n● OK.`;
    this.onSubmit?.(value);
  }
}

/** `-x value` options of one tmux command, repeated ones joined by NUL, and the words behind them. */
function options(args: string[], withValue: string): { opt: Record<string, string>; words: string[] } {
  const opt: Record<string, string> = {};
  let at = 0;
  for (; args[at]?.startsWith("-") && args[at] !== "-"; at++) {
    const [, letter] = args[at]!;
    const value = withValue.includes(letter!) ? args[++at]! : "on";
    opt[letter!] = letter! in opt ? `${opt[letter!]}\0${value}` : value;
  }
  return { opt, words: args.slice(at) };
}

export class FakeTmux {
  panes: FakePane[] = [];
  buffers = new Map<string, string>();
  /** "hang" = a stopped server, which uses up the deadline; any other text = its error. */
  trouble = "";
  server = { pid: 100, start: 1_700_000_000 };
  onStart: (pane: FakePane) => void = () => {};
  /** The answer to `run-shell`, by its command. */
  shell: (command: string) => boolean = () => true;
  version = "tmux 3.3a";
  private last = 1000;
  constructor(readonly fake: FakeWorld) {}

  /** The living or dead pane of a session; throws where there is none. */
  of(session: string): FakePane {
    return this.panes.find((pane) => pane.session === session) ?? fail(`no session ${session}`);
  }

  add(session: string, argv: string[] = [], env: string[] = [], cwd = "/"): FakePane {
    if (!this.panes.length) this.server = { pid: this.server.pid + 1, start: this.server.start + 1 };
    const pane = new FakePane(session, (this.last += 1), this.last + 9000, this.fake.wall, argv, env, cwd);
    this.panes.push(pane);
    this.fake.everyPane.push(pane);
    this.fake.processes.set(pane.pid, pane);
    this.onStart(pane);
    return pane;
  }

  /** The client ends by itself: its pane stays. */
  exit(session: string, status = 0): void {
    const pane = this.of(session);
    Object.assign(pane, { dead: true, status });
    this.fake.processes.delete(pane.pid);
  }

  kill(pane: FakePane): void {
    this.panes = this.panes.filter((one) => one !== pane);
    if (!pane.ignores.includes("SIGHUP")) this.fake.processes.delete(pane.pid);
  }

  killServer(): void {
    for (const pane of this.panes) this.kill(pane);
  }

  run(args: string[], stdin = ""): Ran {
    if (this.trouble === "hang") this.fake.turn(5_000);
    if (this.trouble) return { ...failed(this.trouble === "hang" ? "no answer in time" : this.trouble), timedOut: this.trouble === "hang" };
    const words = args[0] === "-L" ? args.slice(2) : args;
    const commands = [[]] as string[][];
    for (const word of words) word === ";" ? commands.push([]) : commands.at(-1)!.push(word.replace(/\\;$/, ";"));
    if (commands.some(([name]) => !READS.includes(name!))) this.fake.effect(`tmux ${commands.map(([name]) => name).join(" ; ")}`);
    let out = "";
    for (const [name, ...rest] of commands) {
      const ran = this.command(name!, rest, stdin);
      out += ran.out;
      if (!ran.ok) return { ...ran, out };
    }
    return said(out);
  }

  private command(name: string, args: string[], stdin: string): Ran {
    if (name === "-V") return said(this.version);
    if (name === "source-file") return this.source(stdin);
    const { opt, words } = options(args, { "new-session": "sxyce", "send-keys": "t", "run-shell": "" }[name] ?? "tbFc");
    if (name === "new-session") return this.create(opt, words);
    if (name === "load-buffer") return this.buffers.set(opt.b!, stdin), said();
    if (name === "run-shell") return this.shell(words[0]!) ? said() : failed("returned 1");
    if (name === "display-message" && !opt.t) return said(`${words[0]}\n`);
    if (name === "list-panes") {
      const lines = this.panes.map((pane) => `${this.expand(pane, opt.F!)}\n`);
      return lines.length ? said(lines.join("")) : failed("no server running on /tmp/tmux-0/default");
    }
    const pane = this.target(opt.t ?? "");
    if (!pane) return failed(`can't find pane: ${opt.t}`);
    if (name === "capture-pane") return said(`${pane.screen(this.fake.wall)}\n`);
    if (name === "display-message") return said(`${this.expand(pane, words[0]!)}\n`);
    if (name === "set-option") pane.marks[words[0]!] = words[1]!;
    else if (name === "kill-session") this.kill(pane);
    else if (name === "copy-mode") pane.inMode = !("q" in opt);
    else if (name === "paste-buffer") pane.paste(this.buffers.get(opt.b!) ?? fail(`no buffer ${opt.b}`));
    else if (name === "send-keys") for (const key of words) pane.key(key);
    else if (name === "pipe-pane") pane.piped = true;
    else fail(`the fake tmux does not know ${name}`);
    if ("d" in opt && opt.b) this.buffers.delete(opt.b);
    return said();
  }

  /** The file of commands that reads many screens at once. */
  private source(stdin: string): Ran {
    const outs = stdin.split("\n").filter(Boolean).map((line) => {
      const [name, ...args] = [...line.matchAll(/'([^']*)'|(\S+)/g)].map((word) => word[1] ?? word[2]!);
      return this.command(name!, args, "").out;
    });
    return said(outs.join(""));
  }

  private create(opt: Record<string, string>, argv: string[]): Ran {
    if (this.panes.some((pane) => pane.session === opt.s)) return failed(`duplicate session: ${opt.s}`);
    this.add(opt.s!, argv, opt.e?.split("\0") ?? [], opt.c);
    return said();
  }

  private target(name: string): FakePane | undefined {
    const bare = name.replace(/^=|:$/g, "");
    return this.panes.find((pane) => name === pane.id || name === `$${pane.nth}` || (name.startsWith("=") && pane.session === bare));
  }

  private expand(pane: FakePane, format: string): string {
    const now = this.fake.wall;
    const row = pane.screen(now).split("\n").findIndex((line) => line.startsWith("❯\u00a0"));
    const fields: Record<string, unknown> = {
      session_name: pane.session, session_id: `$${pane.nth}`, pane_id: pane.id, pane_pid: pane.pid, pane_dead: Number(pane.dead),
      pane_dead_status: pane.status ?? "", pane_pipe: Number(pane.piped), pane_in_mode: Number(pane.inMode), cursor_y: Math.max(row, 0),
      session_created: Math.floor(pane.created / 1000), pane_current_command: pane.command, pane_title: pane.title(now),
      pid: this.server.pid, start_time: this.server.start, ...pane.marks,
    };
    return format.replace(/#\{([^}]+)\}/g, (_, field) => String(fields[field] ?? ""));
  }
}

const READS = ["list-panes", "source-file", "capture-pane", "display-message", "run-shell", "-V"];
const fail = (message: string): never => {
  throw new Error(message);
};

export interface FakeCommit {
  sha: string;
  subject: string;
  at: number;
  files: Record<string, string>;
}

/** The remote's branch, and what this machine fetched of it. */
export class FakeGit {
  remote: FakeCommit[] = [];
  tracked: FakeCommit[] = [];
  /** An error for every command that begins with one of `failing`. */
  failing: string[] = [];
  error = "fatal: unable to access the remote: Could not resolve host";
  calls: string[] = [];
  private last = 0;
  constructor(readonly fake: FakeWorld) {}

  /** Pushes a commit; a file that is null is deleted. */
  push(subject: string, files: Record<string, string | null> = {}): FakeCommit {
    const all = Object.entries({ ...this.remote.at(-1)?.files, ...files }).filter(([, text]) => text !== null);
    this.last += 1;
    const commit = { sha: `${this.last}`.padStart(40, "a"), subject, at: this.last, files: Object.fromEntries(all) as Record<string, string> };
    this.remote = [...this.remote, commit];
    return commit;
  }

  /** The same commits under other names, as after a rebase and a force-push. */
  rewrite(): void {
    this.remote = this.remote.map((commit) => ({ ...commit, sha: commit.sha.replaceAll("a", "b") }));
  }

  run(args: string[]): Ran {
    const [name, ...rest] = args;
    this.calls.push(args.join(" "));
    if (this.failing.some((one) => args.join(" ").startsWith(one))) return failed(this.error);
    const head = this.tracked.at(-1)?.sha;
    if (name === "ls-remote") return said(this.remote.length ? `${this.remote.at(-1)!.sha}\t${rest[1]}\n` : "");
    if (name === "rev-parse") return head ? said(`${head}\n`) : failed("");
    if (name === "fetch") return (this.tracked = this.remote), said();
    if (name === "merge-base") return this.tracked.some(({ sha }) => sha === rest[1]) ? said() : failed(`fatal: Not a valid commit name ${rest[1]}`);
    if (name === "log") return this.log(rest.find((word) => /\.\.|^-\d+$/.test(word))!);
    if (name === "show") return this.show(rest[0]!);
    return fail(`the fake git does not know ${name}`);
  }

  private log(range: string): Ran {
    const from = this.tracked.findIndex(({ sha }) => sha === range.split("..")[0]);
    const listed = range.startsWith("-") ? this.tracked.slice(Number(range)) : this.tracked.slice(from + 1);
    return said(listed.toReversed().map((commit) => `${commit.at} someone\t${commit.subject}\n`).join(""));
  }

  private show(spec: string): Ran {
    const [branch, path] = spec.split(":") as [string, string];
    if (!this.tracked.length) return failed(`fatal: invalid object name '${branch}'.`);
    const text = this.tracked.at(-1)!.files[path];
    return text === undefined ? failed(`fatal: path '${path}' does not exist in '${branch}'`) : said(text);
  }
}

export class FakeWorld {
  /** Wall clock and monotonic clock, ms. */
  wall = Date.UTC(2026, 5, 15, 12);
  mono = 10_000_000;
  files = new Map<string, string>();
  times = new Map<string, number>();
  /** Folders that can be written to: those that a watchdog makes for its config. */
  folders = new Set<string>();
  processes = new Map<number, FakePane>();
  lines: string[] = [];
  tmux = new FakeTmux(this);
  git = new FakeGit(this);
  http: World["http"] = async () => ({ ok: false, status: 0, body: "" });
  /** What a changing member did, in order; at number `dieAt` (1-based) the supervisor dies. */
  effects: string[] = [];
  dieAt = 0;
  full = false;
  constructor(readonly home = "/fleet") {
    const { files, times } = this;
    Object.assign(world, {
      now: () => this.wall,
      mono: () => this.mono,
      sleep: async (ms) => this.turn(ms),
      tmux: async (args, stdin) => this.tmux.run(args, stdin),
      git: async (_repo, args) => this.git.run(args),
      http: (request) => this.http(request),
      signal: (pid, signal) => this.signal(Math.abs(pid), signal),
      read: (path) => this.read(path),
      writeAtomic: (path, text) => this.write(path, text),
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
      mtime: (path) => times.get(path) ?? ([...files.keys()].some((file) => file === path || file.startsWith(`${path}/`)) ? 0 : null),
      log: (line) => void this.lines.push(line),
    } satisfies World);
  }

  restore(): void {
    Object.assign(world, REAL);
  }

  /** Passes time on both clocks. */
  turn(ms: number): void {
    this.wall += ms;
    this.mono += ms;
  }

  effect(what: string): void {
    if (this.dieAt && this.effects.length + 1 >= this.dieAt) throw new Death(`died at effect ${this.dieAt}: ${what}`);
    this.effects.push(what);
  }

  /** Another supervisor may go on with the same files. */
  revive(): void {
    this.dieAt = 0;
  }

  /** A file of the map; of the real disk only what ships with the program. */
  read(path: string): string | null {
    const known = this.files.get(path);
    if (known !== undefined || !/\/(prompts\/[\w-]+\.md|package\.json)$/.test(path) || !path.startsWith(PROGRAM)) return known ?? null;
    try {
      return readFileSync(path, "utf8");
    } catch {
      return null;
    }
  }

  write(path: string, text: string): void {
    if (this.full) throw new Error(`ENOSPC: no space left on device, write '${path}'`);
    if (!this.folders.has(dirname(path))) throw new Error(`ENOENT: no such file or directory, open '${path}'`);
    this.effect(`write ${path.split("/").at(-1)}`);
    this.files.set(path, text);
    this.times.set(path, this.wall);
  }

  private signal(pid: number, signal: NodeJS.Signals | 0): boolean {
    const pane = this.processes.get(pid);
    if (!pane || signal === 0) return pane !== undefined;
    this.effect(`signal ${signal}`);
    if (!pane.ignores.includes(signal)) this.processes.delete(pid);
    return true;
  }

  /** A validated config from TOML; its paths are those of the fake files. */
  async config(text: string, env: Record<string, string | undefined> = {}): Promise<Config> {
    const path = join(this.home, "agents.toml");
    this.files.set(path, text);
    const cfg = await loadConfig(path, env);
    for (const folder of [cfg.logDir, cfg.stateDir]) this.folders.add(folder);
    return cfg;
  }

  /** The watchdog's memory, as one that starts now reads it. */
  watch(cfg: Config): Watch {
    return loadWatch(cfg);
  }

  /** Ticks as the loop makes them, one per interval: what was fetched beside one is there at the next. */
  async ticks(cfg: Config, watch: Watch, count = 1, before: (nth: number) => void = () => {}): Promise<void> {
    for (let nth = 0; nth < count; nth++) {
      before(nth);
      const due = this.mono + cfg.watchdog.signalInterval * 1000;
      await tick(cfg, watch);
      await watch.volatile.fetch;
      this.turn(Math.max(0, due - this.mono));
    }
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

/** A loop pair with hand-offs, an orchestrator that is woken, a task for the end: what most tests need. */
export const FLEET = `
[defaults]
backend = "claude"
watch = "heal+stall"
[watchdog]
healthy_after = 10
[loop]
phases = [
  { id = "p1", plan = "plan-1.md", status = "STATUS-p1.md" },
  { id = "p2", plan = "plan-2.md", status = "STATUS-p2.md", models = { builder = "opus" } },
]
[loop.handoff]
repo = "project"
inboxes = ["ADVERSARY-INBOX.md", "BUILDER-INBOX.md"]
[loop.on_complete]
run = "upgrader"
[[agent]]
name = "builder"
kind = "loop"
role = "builder"
[[agent]]
name = "adversary"
kind = "loop"
role = "adversary"
[[agent]]
name = "orchestrator"
kind = "orchestrator"
prompt = "Look after the fleet."
wake = { interval = 3600 }
[[agent]]
name = "upgrader"
kind = "task"
prompt = "Upgrade everything."
enabled = false
`;

export const fakeWorld = (home?: string): FakeWorld => new FakeWorld(home);
