/**
 * One real fleet under the faults of the field, one every few seconds, in an order that a seed decides;
 * what it must not lose is counted from what its clients received. Run by `bun tests/soak.ts --attack`.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Fact, type Fleet, fleet, lives, loopPlan, quote, signal, until } from "./real.ts";

/** Whose screens and boxes the attack sets; the pair is left to its hand-offs. */
const VICTIMS = ["a1", "b1", "c1"];
const AGENTS = ["builder", "adversary", ...VICTIMS];
const LETTERS = { builder: "TO-BUILDER.md", adversary: "TO-ADVERSARY.md" };
/** A text may be told twice where a crash hides that it was; never more often. */
const COPIES = 2;
/** What was typed so soon after a dialog came, ms, was on its way before it. */
const TOO_LATE = 100;

/** Random numbers that a seed repeats (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const picker = (random: () => number) => <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
type Pick = ReturnType<typeof picker>;
const time = (at: number): string => new Date(at).toISOString().slice(11, 23);

/** What somebody must be told, how often, and from when on. */
interface Told { to: string; mark: string; at: number; times: number }
/** `gone`: when its program was first seen to have ended. */
interface Person { pane: string; pid: number; what: string; gone?: string }
interface Span { name: string; from: number; to: number }

/** One agent's client as tmux has it, in whatever session. */
interface Client { pane: string; pid: number }

/** What a fault takes hold of: two that hold the same do not overlap. */
type Hold = "watchdog" | "config" | "remote" | "clone" | "client" | "";
/** A fault with its own undo: over once it is undone. `name` is an agent of `VICTIMS`. */
type Fault = [hold: Hold, act: (name: string, pick: Pick) => Promise<unknown>];

const WRONG: ((path: string) => unknown)[] = [
  (path) => Bun.spawnSync(["mkfifo", path]), (path) => mkdirSync(path), (path) => symlinkSync(path, path),
  (path) => writeFileSync(path, "{\0garbage"), (path) => (writeFileSync(path, ""), truncateSync(path, 1e9)),
];
const STATE = ["watch.json", "operator.json", "heartbeat", "events.jsonl", "agents.toml", "watchdog.stage", "keeper.stage", "a1.id", "limited-t-a1.json"];

class Attack {
  readonly told: Told[] = [];
  readonly letters: { to: keyof typeof LETTERS; at: number }[] = [];
  readonly counts: Record<string, number> = {};
  readonly people: Person[] = [];
  readonly drafts: { name: string; mark: string; at: number }[] = [];
  /** When a client's end was ordered. */
  readonly orders: Span[] = [];
  /** Agents with two clients at once. */
  readonly doubled: string[] = [];
  private nth = 0;
  constructor(readonly f: Fleet) {}

  mark(what: string): string {
    return `${what}-${++this.nth}.`;
  }

  /** The state on a disk of its own, which can be filled; without root there is none. */
  mountDisk(): void {
    mkdirSync(this.f.state, { recursive: true });
    const mounted = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", this.f.state], { stderr: "ignore" });
    if (mounted.exitCode !== 0) delete this.faults["the disk is full"];
  }

  unmountDisk(): void {
    Bun.spawnSync(["umount", "-l", this.f.state], { stderr: "ignore" });
  }

  /** The clients of an agent that live: one, or none. */
  private async clients(name: string): Promise<Client[]> {
    const rows = await this.f.tmux("list-panes", "-a", "-F", "#{@agents_session} #{pane_dead} #{pane_id} #{pane_pid}").catch(() => "");
    // a linked window is listed once in each of its sessions
    return [...new Set(rows.split("\n"))].map((one) => one.split(" ")).filter(([mark, dead]) => mark === `t-${name}` && dead === "0")
      .map(([, , pane, pid]) => ({ pane: pane!, pid: Number(pid) }));
  }

  private async client(name: string): Promise<Client | undefined> {
    return (await this.clients(name))[0];
  }

  /** Notes what must never be, when it is: two clients of an agent, a person's program that ended. */
  private async lookAround(): Promise<void> {
    for (const person of this.people) if (!lives(person.pid)) person.gone ??= time(Date.now());
    for (const name of AGENTS) {
      const found = await this.clients(name);
      if (found.length > 1) this.doubled.push(`${time(Date.now())} ${name}: pid ${found.map(({ pid }) => pid).join(", ")}`);
    }
  }

  /** A client that has come to its prompt: what is typed goes into its box. */
  private async ready(name: string): Promise<Client> {
    return until(async () => {
      const client = await this.client(name);
      return client && this.f.ledger(name).findLast((fact) => fact.start)?.pid === client.pid ? client : undefined;
    }, 20_000, 200);
  }

  /** A signal for a process that may not be there: 0 would mean this one and all beside it. */
  private hit(pid: number, what: NodeJS.Signals): void {
    if (pid > 1 && lives(pid)) signal(pid, what);
  }

  private async during(name: string, act: () => Promise<unknown>): Promise<void> {
    const span: Span = { name, from: Date.now(), to: Infinity };
    this.orders.push(span);
    await act().finally(() => (span.to = Date.now()));
  }

  /** An order that is given again until it is taken: without its log_dir no order can be. */
  private order(...words: string[]): Promise<unknown> {
    return until(async () => (await this.f.run(words)).code === 0, 30_000, 500);
  }

  // ── the hand-off channel ──

  private commit(subject: string, files: Record<string, string> = {}, ...options: string[]): Promise<string> {
    for (const [name, content] of Object.entries(files)) this.f.write(join("builder", name), content);
    const file = this.f.write("subject", subject);
    return this.f.git("builder", "add", "-A").then(() => this.f.git("builder", "commit", "-q", "--allow-empty", ...options, "-F", file));
  }

  /** Pushes what was committed, once the remote is there. */
  private publish(...options: string[]): Promise<true> {
    return until(() => this.f.git("builder", "push", "-q", ...options, "origin", "HEAD:main").then(() => true as const), 60_000, 500);
  }

  private async handOff(kind: "claim" | "review", more = ""): Promise<Told> {
    const mark = this.mark(kind);
    await this.commit(`${kind}(one): ${mark}${more}`);
    return { to: kind === "claim" ? "adversary" : "builder", mark, at: Date.now(), times: 1 };
  }

  private async letter(to: keyof typeof LETTERS): Promise<void> {
    const at = Date.now();
    await this.commit("a letter", { [`machine-docs/${LETTERS[to]}`]: `read ${this.mark("letter")}\n` });
    await this.publish();
    this.letters.push({ to, at });
  }

  /** A claim that was told is made anew under its old subject. */
  private async amend(): Promise<void> {
    const claim = await this.handOff("claim");
    await this.publish();
    await until(() => this.copies(claim), 30_000, 200);
    await this.commit(`claim(one): ${claim.mark}`, { work: claim.mark }, "--amend");
    await this.publish("--force");
    this.told.push({ ...claim, times: 2 });
  }

  private async push(...made: Promise<Told>[]): Promise<void> {
    const all: Told[] = [];
    for (const one of made) all.push(await one);
    await this.publish();
    this.told.push(...all);
  }

  // ── people ──

  private program(): string {
    return `exec cat >> ${quote(this.f.path("typed"))}`;
  }

  private async person(what: string, ...command: string[]): Promise<Person> {
    const [pane, pid] = (await this.f.tmux(...command, "-dP", "-F", "#{pane_id} #{pane_pid}", this.program())).split(" ");
    const person = { pane: pane!, pid: Number(pid), what };
    this.people.push(person);
    return person;
  }

  private session(): Promise<Person> {
    const name = this.mark("person").replace(".", "");
    return this.person(name, "new-session", "-s", name);
  }

  // ── places ──

  /** Puts something in the place of a file for a while. */
  private async instead(path: string, ms: number, make: (path: string) => unknown = () => {}): Promise<void> {
    renameSync(path, `${path}.away`);
    make(path);
    await Bun.sleep(ms);
    // the program may make it anew between the two
    await until(() => {
      rmSync(path, { recursive: true, force: true });
      renameSync(`${path}.away`, path);
      return true;
    });
  }

  private async screen(name: string, word: string, ms: number): Promise<void> {
    await this.ready(name);
    this.f.control(name, word);
    await Bun.sleep(ms);
    this.f.control(name, "once idle");
    await Bun.sleep(500); // the client looks every 100 ms
  }

  readonly faults: Record<string, Fault> = {
    "kill -9 of the watchdog": ["watchdog", async () => this.hit(this.f.lock("watchdog"), "SIGKILL")],
    "kill -9 of the keeper": ["watchdog", async () => this.hit(this.f.lock("keeper"), "SIGKILL")],
    "kill -9 of both": ["watchdog", async () => {
      for (const pid of [this.f.lock("keeper"), this.f.lock("watchdog")]) this.hit(pid, "SIGKILL");
      await Bun.sleep(2_000);
      await this.f.run(["up"]);
    }],
    "the watchdog is stopped for 3 s": ["watchdog", async () => {
      const pid = this.f.lock("watchdog");
      this.hit(pid, "SIGSTOP");
      await Bun.sleep(3_000);
      this.hit(pid, "SIGCONT");
    }],
    "log_dir is away": ["watchdog", () => this.instead(this.f.path(".agents"), 5_000)],
    "log_dir is a file": ["watchdog", () => this.instead(this.f.path(".agents"), 3_000, (path) => writeFileSync(path, ""))],
    "log_dir is a link to nowhere": ["watchdog", () => this.instead(this.f.path(".agents"), 3_000, (path) => symlinkSync("/nowhere/at/all", path))],
    "a state file is something else": ["watchdog", async (_, pick) => {
      const path = join(this.f.state, pick(STATE));
      rmSync(path, { recursive: true, force: true });
      pick(WRONG)(path);
      await Bun.sleep(1_500);
    }],
    "the disk is full": ["watchdog", async () => {
      const fill = join(this.f.state, "fill");
      Bun.spawnSync(["dd", "if=/dev/zero", `of=${fill}`, "bs=4k"], { stderr: "ignore" });
      await Bun.sleep(3_000);
      rmSync(fill);
    }],
    "the config is broken": ["config", async (_, pick) => {
      const good = this.f.read("agents.toml");
      this.f.write("agents.toml", pick(["", "[[agent\n", good.slice(0, good.length / 2)]));
      await Bun.sleep(3_000);
      this.f.write("agents.toml", good);
    }],

    "kill -9 of a client": ["client", async (name) => {
      const client = await this.ready(name);
      this.hit(client.pid, "SIGKILL");
      await until(async () => (await this.client(name))?.pid !== client.pid, 30_000, 200);
    }],
    "a dialog comes and goes": ["client", (name) => this.screen(name, "dialog", 2_500)],
    "a client is busy": ["client", (name) => this.screen(name, "busy", 2_000)],
    "a limit with a near reset": ["client", (name) =>
      this.screen(name, `limit Claude usage limit reached|${Math.floor(Date.now() / 1000) + 3}`, 6_000)],
    "a person's draft": ["client", async (name) => {
      const { pane } = await this.ready(name);
      const mark = this.mark("a thought");
      this.drafts.push({ name, mark, at: Date.now() });
      await this.f.tmux("send-keys", "-t", pane, "-l", mark);
      await Bun.sleep(3_000);
      await this.f.tmux("send-keys", "-t", pane, "C-u");
    }],
    restart: ["client", (name) => this.during(name, () => this.order("restart", name))],
    "down, then up": ["client", (name) => this.during(name, async () => {
      await this.order("down", name);
      await this.order("up", name);
    })],
    "a stranger under an agent's name": ["client", (name) => this.during(name, async () => {
      await this.order("down", name);
      // not where a person's window keeps the agent's session
      const made = await this.f.tmux("new-session", "-d", "-s", `t-${name}`, this.program()).then(() => true, () => false);
      if (made) {
        await this.f.run(["up", name]);
        await Bun.sleep(1_000);
        await this.f.tmux("kill-session", "-t", `=t-${name}`);
      }
      await this.order("up", name);
    })],
    "a person splits a window": ["client", async (name) => this.person(`split of ${name}`, "split-window", "-t", (await this.ready(name)).pane)],
    "a person links a window": ["client", async (name) =>
      this.f.tmux("link-window", "-d", "-s", (await this.ready(name)).pane, "-t", `${(await this.session()).what}:`)],
    "a person joins a window": ["client", async (name) =>
      this.f.tmux("join-pane", "-d", "-s", (await this.ready(name)).pane, "-t", (await this.session()).pane)],
    "a person renames a window": ["client", async (name) => this.f.tmux("rename-window", "-t", (await this.ready(name)).pane, this.mark("mine"))],
    "the session of the log is killed": ["", () => this.f.tmux("kill-session", "-t", "=t-watchdog").catch(() => {})],
    "up, twice at once": ["", () => Promise.all([this.f.run(["up"]), this.f.run(["up"])])],

    "a claim": ["clone", () => this.push(this.handOff("claim"))],
    "a review": ["clone", () => this.push(this.handOff("review"))],
    "a letter": ["clone", (_, pick) => this.letter(pick(["builder", "adversary"]))],
    "two claims in one push": ["clone", async () => this.push(this.handOff("claim").then(async (first) => (this.told.push(first), this.handOff("claim"))))],
    "a claim is amended and forced": ["clone", () => this.amend()],
    "a claim with 150 kB and escapes": ["clone", () => this.push(this.handOff("claim", ` \x1b]52;c;aGk=\x07\u202e${"s".repeat(150_000)}`))],
    "the remote is away": ["remote", () => this.instead(this.f.path("origin.git"), 5_000)],
    "a lock that a killed git left": ["remote", async () => {
      const lock = this.f.path("watch", ".git", "refs", "remotes", "origin", "main.lock");
      writeFileSync(lock, "");
      await Bun.sleep(3_000);
      rmSync(lock, { force: true });
    }],
  };

  /** Begins one fault after the other; each is undone before this returns. */
  async storm(ms: number, seed: number): Promise<void> {
    const random = seeded(seed);
    const pick = picker(random);
    const running = new Map<string, Promise<unknown>>();
    for (const end = performance.now() + ms; performance.now() < end; await Bun.sleep(500 + random() * 2_500)) {
      const [what, name, own] = [pick(Object.keys(this.faults)), pick(VICTIMS), picker(seeded(random() * 2 ** 32))];
      const [hold, act] = this.faults[what]!;
      const place = hold === "client" ? name : hold || what;
      await running.get(place);
      await this.lookAround();
      console.error(`${time(Date.now())} ${what}${hold === "client" ? `: ${name}` : ""}`);
      this.counts[what] = (this.counts[what] ?? 0) + 1;
      running.set(place, act(name, own).catch((error) => console.error(`${time(Date.now())} not done: ${what}: ${String(error).slice(0, 300)}`)));
    }
    await Promise.all(running.values());
  }

  // ── what came of it ──

  submits(name: string, mark: string): Fact[] {
    return this.f.ledger(name).filter((fact) => fact.submit?.includes(mark));
  }

  copies({ to, mark }: Told): number {
    return this.submits(to, mark).length;
  }

  private untold(): string[] {
    const lost = this.told.filter((one) => this.copies(one) < one.times);
    const unread = this.letters.filter(({ to, at }) => !this.submits(to, LETTERS[to]).some((fact) => fact.at >= at));
    return [...lost.map((one) => `${time(one.at)} ${one.mark} to ${one.to}: ${this.copies(one)} of ${one.times}`),
      ...unread.map(({ to, at }) => `${time(at)} ${LETTERS[to]} to ${to}`)];
  }

  async settle(): Promise<void> {
    for (const name of VICTIMS) this.f.control(name, "once idle");
    await until(async () => (await this.f.run(["up"])).code === 0, 120_000, 1_000);
    await until(() => !this.untold().length, 180_000, 1_000).catch(() => {});
    await this.f.ticks(4).catch(() => {});
  }

  private copied(): string[] {
    const many = this.told.filter((one) => this.copies(one) > COPIES * one.times).map((one) => `${time(one.at)} ${one.mark}: ${this.copies(one)} times`);
    const letters = (["builder", "adversary"] as const).map((to) => ({ to, made: this.letters.filter((one) => one.to === to).length, came: this.submits(to, LETTERS[to]).length }));
    return [...many, ...letters.filter(({ made, came }) => came > COPIES * made).map(({ to, made, came }) => `${LETTERS[to]}: changed ${made} times, told ${came} times`)];
  }

  private facts(wrong: (fact: Fact, name: string) => string | undefined): string[] {
    return AGENTS.flatMap((name) => this.f.ledger(name).flatMap((fact) => {
      const why = wrong(fact, name);
      return why ? [`${time(fact.at)} ${name}: ${why}`] : [];
    }));
  }

  private spoilt(): string[] {
    return this.drafts.filter(({ name, mark }) => this.submits(name, mark).length || !this.f.ledger(name).some((fact) => fact.cleared?.includes(mark)))
      .map(({ name, mark, at }) => `${time(at)} ${name}: ${mark}`);
  }

  private async bereaved(): Promise<string[]> {
    const shown = new Set((await this.f.tmux("list-panes", "-a", "-F", "#{pane_id} #{pane_pid}").catch(() => "")).split("\n"));
    const typed = this.f.read("typed");
    return [...this.people.filter(({ pane, pid }) => !lives(pid) || !shown.has(`${pane} ${pid}`)).map(({ what, pane, gone = "after down" }) => `${what} (${pane}) is gone: ${gone}`),
      ...(typed ? [`typed into a program of a person: ${typed.slice(0, 200)}`] : [])];
  }

  /** Ended and not asked after by a process of the fleet. */
  private zombies(): string[] {
    const ours = new Set(this.f.processes().map(({ pid }) => pid));
    return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
      const stat = spawnedBy(pid);
      return stat && ours.has(stat.parent) && stat.state === "Z" ? [`${pid}, a child of ${stat.parent}`] : [];
    });
  }

  /** Every figure with what violates it; ends the fleet by `down`. */
  async outcome(): Promise<Record<string, string[]>> {
    const asked = (name: string, at: number): boolean => this.orders.some((span) => span.name === name && at >= span.from && at <= span.to);
    const before = {
      "hand-offs never told": this.untold(), "told more than twice": this.copied(),
      "two clients of one agent": this.doubled,
      "clients ended unasked": this.facts(({ at, hangup, draft }, name) => hangup !== undefined && !asked(name, at) ? `ended while ${hangup}, ${draft ? "with" : "without"} a draft` : undefined),
      "dialogs approved": this.facts((fact) => fact.approved && "by Enter"),
      "typed into a dialog": this.facts(({ bytes, dialog = 0 }) => dialog > TOO_LATE ? `after ${dialog} ms: ${JSON.stringify(bytes).slice(0, 80)}` : undefined),
      "drafts of people sent or cut": this.spoilt(),
      "stale watchdog": (await this.f.run(["status"])).out.split("\n").filter((line) => line.includes("STALE")),
    };
    const dead = this.zombies();
    await Bun.sleep(1_000);
    const zombies = this.zombies().filter((one) => dead.includes(one));
    const down = await this.f.run(["down"]);
    const theirs = new Set(this.people.map(({ pid }) => pid));
    const remain = () => this.f.processes().filter(({ pid, command }) => !command.startsWith("tmux") && !theirs.has(pid));
    await until(() => !remain().length, 5_000).catch(() => {});
    const left = remain();
    return { ...before, zombies, "left after down": left.map(({ pid, command }) => `${pid} ${command.slice(0, 200)} (down: exit ${down.code} ${down.err})`),
      "things of people ended or typed into": await this.bereaved() };
  }
}

/** State and parent of a process, where there is one. */
function spawnedBy(pid: string): { state: string; parent: number } | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { state: state!, parent: Number(parent) };
  } catch {
    return null;
  }
}

export interface Outcome {
  /** How often each kind of fault was made. */
  counts: Record<string, number>;
  handOffs: number;
  /** By figure: what happened that must not, with its time. */
  wrong: Record<string, string[]>;
}

/** Attacks a fleet for so many ms; then all is undone, and what was lost is counted. */
export async function attack(ms: number, seed: number): Promise<Outcome> {
  const f = fleet(loopPlan({
    handoff: { inboxes: [LETTERS.adversary, LETTERS.builder] }, agents: VICTIMS.map((name) => ({ name, watch: "heal" })),
    watchdog: { park_after: 1_000, restart_delay_max: 2 },
  }));
  const it = new Attack(f);
  try {
    it.mountDisk();
    await f.repository("builder", "adversary");
    f.write("typed", "");
    await f.up();
    await f.ready(...AGENTS);
    await until(() => JSON.parse(f.read(".agents/state/watch.json")).sha);
    await it.storm(ms, seed);
    await it.settle();
    const log = f.log;
    const wrong = await it.outcome();
    if (Object.values(wrong).some((list) => list.length)) console.error(`--- the watchdog's log\n${log.split("\n").map((line) => line.slice(0, 300)).slice(-60).join("\n")}`);
    return { counts: it.counts, handOffs: it.told.length + it.letters.length, wrong };
  } catch (error) {
    console.error(f.account());
    throw error;
  } finally {
    it.unmountDisk();
    await f.reap();
  }
}
