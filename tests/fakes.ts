/**
 * What the fake world is made of: a pane with a scripted client in it, the tmux around the panes, and a
 * git of one branch. They understand what agents.ts says to them, and throw at anything else.
 */
import { dirname } from "node:path";
import type { ExecResult as Ran } from "../agents.ts";
import type { FakeWorld } from "./kit.ts";

const RULE = "─".repeat(80);
const said = (out = ""): Ran => ({ ok: true, out, err: "", timedOut: false });
const failed = (err: string): Ran => ({ ok: false, out: "", err, timedOut: false });

export type Doing = "idle" | "busy" | "dialog" | "limit" | "menu" | "fatal" | "blank";

/**
 * What comes between a client and whoever looks or types, for a while, in wall ms. A dialog and a popup
 * take its keys; Enter answers the one and closes the other. The rest is on the screen alone: it is
 * cleared, drawn down to the box, the old picture, or drawn anew in a narrow window.
 */
export interface Disturbance {
  kind: "dialog" | "popup" | "cleared" | "half drawn" | "late" | "narrow";
  from: number;
  to: number;
}

export interface FakeSession {
  id: string;
  name: string;
  options: Record<string, string>;
}

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
  /** The folder that it was started in. */
  cwd = "";
  inMode = false;
  cols = 200;
  command = "claude";
  marks: Record<string, string> = {};
  /** ms that a busy machine needs until the client gets what was typed. */
  slow = 0;
  disturbance: Disturbance | null = null;
  /** ms after a paste for which Enter is a newline, as in Gemini. */
  newlineFor = 0;
  /** Texts submitted, Enters that answered a dialog, other keys. */
  received: string[] = [];
  /** `select-pane -d`: tmux drops what is typed. */
  inputOff = false;
  approved = 0;
  enters = 0;
  keys: string[] = [];
  onSubmit?: ((value: string) => void) | undefined;
  /** Which of HUP and TERM its process survives. */
  ignores: string[] = [];
  readonly id: string;
  readonly created: number;
  constructor(readonly fake: FakeWorld, public room: FakeSession, readonly nth: number, readonly pid: number, readonly argv: string[]) {
    this.id = `%${nth}`;
    this.created = fake.wall;
  }

  get session(): string {
    return this.room.name;
  }

  private readonly input: { at: number; key?: string; text?: string }[] = [];
  private pastedAt = -Infinity;
  /** The picture that a late redraw leaves standing. */
  private old: string | null = null;

  /** The client works through what was typed, as far as it came. */
  private catchUp(): void {
    while (this.input[0] && this.input[0].at <= this.fake.wall) {
      const { key, text = "" } = this.input.shift()!;
      if (key !== undefined) this.press(key);
      else if (!this.dead && !this.inputOff && !this.takenBy()) this.take(text);
    }
  }

  private disturbed(): Disturbance["kind"] | null {
    const now = this.fake.wall;
    const { kind, from, to } = this.disturbance ?? { kind: null, from: 0, to: 0 };
    const on = now >= from && now < to;
    this.old = on && kind === "late" ? (this.old ?? this.picture(now, null)) : null;
    return on ? kind : null;
  }

  title(now: number): string {
    const busy = this.doing === "busy" && this.text === null;
    return busy ? `${Math.floor((this.frozen ?? now) / 1000) % 2 ? "◐" : "◑"} Claude Code` : "✳ Claude Code";
  }

  screen(now: number): string {
    if (this.text !== null) return this.text;
    const kind = this.disturbed();
    this.catchUp();
    return this.old ?? this.picture(now, kind);
  }

  private picture(now: number, kind: Disturbance["kind"] | null): string {
    if (this.doing === "blank" || kind === "cleared") return "\n\n\n";
    const busy = this.doing === "busy";
    const block = busy ? `${this.said}\n\n✻ Working… (${Math.floor((this.frozen ?? now) / 1000) % 86_400}s · ↓ 1.2k tokens)`
      : this.doing === "limit" || this.doing === "menu" ? `❯ go on\n  ⎿  ${this.banner}`
      : this.doing === "fatal" ? "❯ go on\n  ⎿  Prompt is too long" : this.said;
    const foot = `  ⏵⏵ auto mode on${busy ? " · esc to interrupt" : " (shift+tab to cycle)"}`;
    const rows = this.draft.split("\n").flatMap((line) => kind === "narrow" ? line.match(/.{1,58}/g) ?? [""] : line);
    const box = this.doing === "dialog" || kind === "dialog"
      ? [RULE, " Do you want to proceed?", " ❯ 1. Yes", "   2. No", "", " Esc to cancel · Tab to amend"]
      : this.doing === "menu" ? [RULE, " What do you want to do?", " ❯ 1. Upgrade your plan", "   2. Stop and wait for limit to reset", "", " Enter to confirm · Esc to cancel"]
      : kind === "popup" ? ["╭── News ──╮", "│ Hello     │", "╰───────────╯"]
      : kind === "half drawn" ? [RULE] : [RULE, `❯\u00a0${rows.join("\n  ")}`, RULE, foot];
    return ["", block, "", ...box, ""].join("\n");
  }

  /** Wall ms of what was drawn last, as far as anybody asked. */
  activity(now: number): number {
    const picture = this.screen(now);
    if (picture !== this.drawn.picture) this.drawn = { picture, at: now };
    return this.drawn.at;
  }
  private drawn = { picture: "", at: 0 };

  /** Draws a screen at a time of its own. */
  draw(text: string, at: number): void {
    this.text = text;
    this.drawn = { picture: text, at };
  }

  /** A bracketed paste; while a dialog is open the client drops it. */
  paste(value: string): void {
    this.type({ text: value });
  }

  key(name: string): void {
    this.type({ key: name });
  }

  private type(what: { key: string } | { text: string }): void {
    this.disturbed();
    this.input.push({ at: this.fake.wall + this.slow, ...what });
    this.catchUp();
  }

  private take(text: string): void {
    this.draft += text;
    this.pastedAt = this.fake.wall;
  }

  /** What is open over the box and takes the keys. */
  private takenBy(): "dialog" | "menu" | "popup" | null {
    if (this.doing === "dialog" || this.doing === "menu") return this.doing;
    const kind = this.disturbed();
    return kind === "dialog" || kind === "popup" ? kind : null;
  }

  private press(name: string): void {
    if (this.dead || this.inMode || this.inputOff) return;
    const taken = this.takenBy();
    if (name === "Escape" && taken === "menu") this.doing = "limit";
    if (name !== "Enter" && name !== "C-m") return void this.keys.push(name);
    this.enters += 1;
    if (taken === "dialog" || taken === "menu") this.approved += 1;
    if (taken && this.disturbance) this.disturbance.to = 0;
    if (taken || !this.draft || !this.takesEnter) return;
    if (this.fake.wall - this.pastedAt < this.newlineFor) return void (this.draft += "\n");
    const value = this.draft;
    this.draft = "";
    this.received.push(value.trimEnd());
    this.said = `❯ ${value}\n\n● OK.`;
    this.onSubmit?.(value);
  }
}

/** The `-x value` options of one tmux command, and the words behind them. */
function options(args: string[], withValue: string): { opt: Record<string, string>; words: string[] } {
  const opt: Record<string, string> = {};
  let at = 0;
  for (; args[at]?.startsWith("-") && args[at] !== "-"; at++) {
    if (args[at] === "--") return { opt, words: args.slice(at + 1) };
    const letter = args[at]![1]!;
    opt[letter] = withValue.includes(letter) ? args[++at]! : "on";
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
  /** The answer to `run-shell`, by its command: whether it succeeds, or its exit code. */
  shell: (command: string) => boolean | number = () => true;
  version = "tmux 3.3a";
  private last = 1000;
  private lastPid = 50_000;
  constructor(readonly fake: FakeWorld) {}

  /** The living or dead pane of a session; throws where there is none. */
  of(session: string): FakePane {
    return this.panes.find((pane) => pane.session === session) ?? fail(`no session ${session}`);
  }

  /** A pane with a client, in a session of that name, which may be there already. */
  add(session: string, argv: string[] = []): FakePane {
    return this.started(this.place(session, argv));
  }

  /** A pane with a program that counts as no client of anybody. */
  private place(name: string, argv: string[]): FakePane {
    if (!this.panes.length) this.server = { pid: this.server.pid + 1, start: this.server.start + 1 };
    const nth = (this.last += 1);
    const room = this.panes.find((pane) => pane.session === name)?.room ?? { id: `$${nth}`, name, options: {} };
    const pane = new FakePane(this.fake, room, nth, (this.lastPid += 1), argv);
    this.panes.push(pane);
    this.fake.processes.set(pane.pid, pane);
    return pane;
  }

  private started(pane: FakePane): FakePane {
    this.fake.everyPane.push(pane);
    this.onStart(pane);
    return pane;
  }

  /** A client takes the place of what ran in a pane, which keeps its id and its marks. */
  private respawn(old: FakePane, argv: string[], cwd = old.cwd): Ran {
    this.fake.processes.delete(old.pid);
    const pane = new FakePane(this.fake, old.room, old.nth, (this.lastPid += 1), argv);
    Object.assign(pane, { marks: old.marks, piped: old.piped, cwd });
    this.panes = this.panes.map((one) => (one === old ? pane : one));
    this.fake.processes.set(pane.pid, pane);
    if (argv[0] !== "sleep") this.started(pane);
    return said();
  }

  /** The client ends by itself: its pane stays, with what it said last. */
  exit(session: string, status = 0, said = ""): void {
    const pane = this.of(session);
    Object.assign(pane, { dead: true, status }, said && { text: said });
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
    if (this.trouble === "hang") {
      this.fake.turn(5_000);
      return { ...failed("no answer in time"), timedOut: true };
    }
    if (this.trouble) return failed(this.trouble);
    const commands = [[]] as string[][];
    for (const word of args[0] === "-L" ? args.slice(2) : args) {
      if (word === ";") commands.push([]);
      else commands.at(-1)!.push(word.replace(/\\;$/, ";"));
    }
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
    const { opt, words } = options(args, WITH_VALUE[name] ?? "tbFc");
    if (name === "new-session") return this.create(opt, words);
    if (name === "start-server") return said();
    if (name === "show-options") return said("off\n");
    if (name === "load-buffer") return this.buffers.set(opt.b!, stdin), said();
    if (name === "delete-buffer") return this.buffers.delete(opt.b!), said();
    if (name === "list-buffers") return said([...this.buffers.keys()].map((buffer) => `${buffer}\n`).join(""));
    if (name === "run-shell") {
      const ends = this.shell(words[0]!);
      const code = typeof ends === "number" ? ends : ends ? 0 : 1;
      return code ? { ...failed(`returned ${code}`), code } : said();
    }
    if (name === "display-message" && !opt.t) return this.display(words[0]!);
    if (name === "list-panes" || name === "list-sessions") {
      const [mark, show] = parsed(opt.F!);
      const lines = this.panes.map((pane) => `${mark}${show(pane, this)}\n`);
      return lines.length ? said(lines.join("")) : failed("no server running on /tmp/tmux-0/default");
    }
    const pane = this.target(opt.t ?? "");
    if (!pane) return failed(`can't find pane: ${opt.t}`);
    if (name === "capture-pane") {
      // as the real one: blanks at the end of a line stay only where they are asked for
      const blanks = args.includes("-J") || args.includes("-N");
      const screen = pane.screen(this.fake.wall);
      return said(`${blanks ? screen : screen.replace(/ +$/gm, "")}\n`);
    }
    if (name === "display-message") return said(`${this.expand(pane, words[0]!)}\n`);
    if (name === "set-option" && "F" in opt) pane.marks[words[0]!] = this.expand(pane, words[1]!);
    else if (name === "set-option") ("p" in opt || "w" in opt ? pane.marks : pane.room.options)[words[0]!] = words[1]!;
    else if (name === "set-environment") pane.room.options[`-${opt.r}`] = "removed";
    else if (name === "new-window") return said(`${this.expand(this.place(pane.session, words), opt.F!)}\n`);
    else if (name === "respawn-pane") return pane.dead || "k" in opt ? this.respawn(pane, words, opt.c) : failed(`pane ${pane.id} still active`);
    else if (name === "rename-session") return this.rename(pane.room, words[0]!);
    else if (name === "if-shell") return this.isTrue(pane, words[0]!) ? this.source(words[1]!) : said();
    else if (name === "kill-pane") this.kill(pane);
    else if (name === "resize-window") pane.cols = Number(opt.x);
    else if (name === "copy-mode") pane.inMode = !("q" in opt);
    else if (name === "paste-buffer") pane.paste(this.buffers.get(opt.b!) ?? fail(`no buffer ${opt.b}`));
    else if (name === "send-keys") for (const key of words) pane.key(key);
    else if (name === "pipe-pane" && pane.dead) return failed("target pane has exited");
    else if (name === "pipe-pane") pane.piped = true;
    else fail(`the fake tmux does not know ${name}`);
    if ("d" in opt && opt.b) this.buffers.delete(opt.b);
    return said();
  }

  /** The file of commands that reads many screens at once. */
  private source(stdin: string): Ran {
    const outs = stdin.split("\n").filter(Boolean).map((line) => {
      const [name, ...args] = line.match(/'[^']*'|\S+/g)!.map((word) => (word.startsWith("'") ? word.slice(1, -1) : word));
      return this.command(name!, args, "").out;
    });
    return said(outs.join(""));
  }

  private create(opt: Record<string, string>, argv: string[]): Ran {
    if (this.panes.some((pane) => pane.session === opt.s)) return failed(`duplicate session: ${opt.s}`);
    const pane = Object.assign(this.place(opt.s!, argv), { cwd: opt.c ?? "" });
    return said(`${this.expand(pane, opt.F!)}\n`);
  }

  /** Without a target: what the server says of itself, if there is one. */
  private display(format: string): Ran {
    if (!this.panes.length && format.includes("#{pid}")) return failed("no server running on /tmp/tmux-0/default");
    return said(`${format.replace("#{pid} #{start_time}", `${this.server.pid} ${this.server.start}`)}\n`);
  }

  private rename(room: FakeSession, name: string): Ran {
    if (this.panes.some((pane) => pane.room !== room && pane.session === name)) return failed(`duplicate session: ${name}`);
    room.name = name;
    return said();
  }

  private isTrue(pane: FakePane, format: string): boolean {
    const [, one, other] = /^#\{==:(.*),(.*)\}$/.exec(format) ?? fail(`the fake tmux does not know ${format}`);
    return this.expand(pane, one!) === other;
  }

  private target(name: string): FakePane | undefined {
    const session = /^=(.*?):?$/.exec(name)?.[1];
    return this.panes.find(({ id, room }) => (session === undefined ? id === name || room.id === name : room.name === session));
  }

  private expand(pane: FakePane, format: string): string {
    const [mark, show] = parsed(format);
    return mark + show(pane, this);
  }
}

const WITH_VALUE: Record<string, string> = { "new-session": "sxyceF", "new-window": "tceF", "respawn-pane": "tce", "resize-window": "txy",
  "if-shell": "t", "send-keys": "t", "set-option": "t", "run-shell": "", "set-environment": "tr" };

/** How a format, or a field of one, is shown for a pane. */
type Show = (pane: FakePane, tmux: FakeTmux) => string;
/** Formats from the first field on: what stands before it is another in each list of panes. */
const FORMATS = new Map<string, Show>();
function parsed(format: string): [mark: string, show: Show] {
  const at = format.indexOf("#{");
  return at < 0 ? [format, () => ""] : [format.slice(0, at), FORMATS.getOrInsertComputed(format.slice(at), showOf)];
}

function showOf(format: string): Show {
  const words = format.split(/#\{(?:\?([^,]+),([^,]*),#\{([^}]+)\}|([^}]+))\}/);
  const parts: Show[] = [];
  for (let at = 1; at < words.length; at += 5) {
    const [field, yes, no, plain, text] = words.slice(at, at + 5);
    parts.push(plain ? fieldOf(plain) : choice(fieldOf(field!), yes!, fieldOf(no!)), () => text!);
  }
  return (pane, tmux) => {
    let out = "";
    for (const part of parts) out += part(pane, tmux);
    return out;
  };
}

function fieldOf(field: string): Show {
  const own = FIELDS[field];
  return (pane, tmux) => String(own?.(pane, tmux) ?? pane.marks[field] ?? pane.room.options[field] ?? "");
}

function choice(test: Show, format: string, no: Show): Show {
  const [mark, show] = parsed(format);
  return (pane, tmux) => (test(pane, tmux) ? mark + show(pane, tmux) : no(pane, tmux));
}

/** What tmux says of a pane, besides its options. */
const FIELDS: Record<string, (pane: FakePane, tmux: FakeTmux) => unknown> = {
  session_name: (pane) => pane.session, session_id: (pane) => pane.room.id, pane_id: (pane) => pane.id, pane_pid: (pane) => pane.pid,
  pane_dead: (pane) => Number(pane.dead), pane_dead_status: (pane) => pane.status, pane_pipe: (pane) => Number(pane.piped),
  pane_input_off: (pane) => Number(pane.inputOff),
  session_created: (pane) => Math.floor(pane.created / 1000),
  window_activity: (pane, { fake }) => Math.floor(pane.activity(fake.wall) / 1000), pane_width: (pane) => pane.cols, pane_height: () => 50,
  pane_current_command: (pane) => pane.command, pane_title: (pane, { fake }) => pane.title(fake.wall), pane_start_path: (pane) => pane.cwd,
  cursor_y: (pane, { fake }) => Math.max(pane.screen(fake.wall).split("\n").findIndex((line) => line.startsWith("❯\u00a0")), 0),
  pid: (_, { server }) => server.pid, start_time: (_, { server }) => server.start, version: (_, { version }) => version.replace("tmux ", ""),
};

const READS = ["list-panes", "list-buffers", "list-sessions", "source-file", "capture-pane", "display-message", "run-shell", "start-server", "show-options", "-V"];
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
    const all = Object.entries({ ...this.remote.at(-1)?.files, ...files })
      .filter((one): one is [string, string] => one[1] !== null);
    const at = (this.last += 1);
    const commit = { sha: `${at}`.padStart(40, "a"), subject, at, files: Object.fromEntries(all) };
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
    if (name === "merge-base") return this.tracked.some(({ sha }) => sha === rest[0]) ? said(`${rest[0]}\n`) : { ...failed(""), code: 1 };
    if (name === "log") return this.log(rest.find((word) => /\.\.|^-\d+$/.test(word))!);
    if (name === "show") return rest.includes("-p") ? this.changes(rest) : this.show(rest[0]!);
    if (name === "ls-tree") return this.list(rest[rest.indexOf("--") - 1]!, rest.slice(rest.indexOf("--") + 1), rest.includes("-z") ? "\0" : "\n");
    return fail(`the fake git does not know ${name}`);
  }

  private log(range: string): Ran {
    const from = this.tracked.findIndex(({ sha }) => sha === range.split("..")[0]);
    if (from < 0 && !range.startsWith("-")) return failed(`fatal: Invalid revision range ${range}`);
    const listed = range.startsWith("-") ? this.tracked.slice(Number(range)) : this.tracked.slice(from + 1);
    return said(listed.toReversed().map(({ sha, at, subject }) => `${sha}\0${at} someone\0${subject}\n`).join(""));
  }

  /** What each of these commits changed: the files that differ from those of the one before it. */
  private changes(names: string[]): Ran {
    const one = (sha: string) => {
      const nth = this.tracked.findIndex((commit) => commit.sha === sha);
      if (nth < 0) return "";
      const before = this.tracked[nth - 1]?.files ?? {};
      const changed = Object.entries(this.tracked[nth]!.files).filter(([file, text]) => before[file] !== text);
      return `\0${sha}\n\n${changed.map(([file, text]) => `+${file} ${text}\n`).join("")}`;
    };
    return said(names.map(one).join(""));
  }

  /** What the branch has at these paths, and the folders above them: no links. */
  private list(branch: string, paths: string[], end: string): Ran {
    const head = this.tracked.at(-1);
    if (!head) return failed(`fatal: Not a valid object name ${branch}`);
    const files = Object.keys(head.files);
    const folders = new Set(paths.map((path) => dirname(path)).filter((folder) => files.some((file) => file.startsWith(`${folder}/`))));
    return said([...[...folders].map((folder) => `040000 tree ${head.sha}\t${folder}`),
      ...paths.filter((path) => files.includes(path)).map((path) => `100644 blob ${head.sha}\t${path}`)].map((line) => line + end).join(""));
  }

  private show(spec: string): Ran {
    const [branch, path] = spec.split(":") as [string, string];
    if (!this.tracked.length) return failed(`fatal: invalid object name '${branch}'.`);
    const text = this.tracked.at(-1)!.files[path];
    return text === undefined ? failed(`fatal: path '${path}' does not exist in '${branch}'`) : said(text);
  }
}
