/**
 * One real fleet under the faults of the field, one every few seconds, in an order that a seed decides;
 * what it must not lose is counted from what its clients received. Run by `bun tests/soak.ts --attack`.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { type Fleet, fleet, lives, loopPlan, quote, signal, until } from "./real.ts";

const AGENTS = ["builder", "adversary", "a1", "b1"];
/** Whose screens and boxes the attack sets; the pair is left to its hand-offs. */
const VICTIMS = ["a1", "b1"];

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

/** What was pushed or sent, and who must have been told of it. */
interface Told { to: string; mark: string; at: number }

class Attack {
  readonly told: Told[] = [];
  readonly counts: Record<string, number> = {};
  /** Panes of people with the pid of the program in each. */
  people: string[] = [];
  /** When dialogs stood on a client's screen, ms. */
  readonly dialogs: { name: string; from: number; to: number }[] = [];
  private nth = 0;
  constructor(readonly f: Fleet, readonly random: () => number) {}

  pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.random() * list.length)]!;
  }

  mark(what: string): string {
    return `${what}-${++this.nth}.`;
  }

  /** A signal for a process that may not be there: 0 would mean this one and all beside it. */
  private hit(pid: number, what: NodeJS.Signals): void {
    if (pid > 1 && lives(pid)) signal(pid, what);
  }

  /** A commit that somebody must hear of; git may be held up by an attack on its remote. */
  private async handOff(kind: "claim" | "review" | "inbox"): Promise<void> {
    const to = kind === "claim" ? "adversary" : "builder";
    const mark = this.mark(kind);
    const [subject, files] = kind === "inbox" ? [`a letter ${mark}`, { "machine-docs/TO-BUILDER.md": `read ${mark}\n` }]
      : [`${kind}(one): ${mark}`, {}];
    await until(() => this.f.push("builder", subject, files).then(() => true), 60_000, 500);
    // of several letters only the file is named, of commits each
    if (kind !== "inbox") this.told.push({ to, mark, at: Date.now() });
  }

  private async person(name: string): Promise<string> {
    return this.f.tmux("new-session", "-dP", "-F", "#{pane_id} #{pane_pid}", "-s", name, `exec cat >> ${quote(this.f.path("typed"))}`);
  }

  /** Puts something in the place of a file for a while. */
  private async instead(path: string, make: (path: string) => void, ms: number): Promise<void> {
    renameSync(path, `${path}.away`);
    make(path);
    await Bun.sleep(ms);
    rmSync(path, { recursive: true, force: true });
    renameSync(`${path}.away`, path);
  }

  readonly faults: Record<string, () => Promise<unknown>> = {
    "kill -9 of the watchdog": async () => this.hit(this.f.lock("watchdog"), "SIGKILL"),
    "kill -9 of the keeper": async () => this.hit(this.f.lock("keeper"), "SIGKILL"),
    "kill -9 of a client": async () => this.hit(await this.f.pid(this.pick(VICTIMS)), "SIGKILL"),
    "the watchdog is stopped for 3 s": async () => {
      const pid = this.f.lock("watchdog");
      this.hit(pid, "SIGSTOP");
      await Bun.sleep(3_000);
      this.hit(pid, "SIGCONT");
    },
    "log_dir is away": () => this.instead(this.f.path(".agents"), () => {}, 3_000),
    "log_dir is a file": () => this.instead(this.f.path(".agents"), (path) => writeFileSync(path, ""), 3_000),
    "log_dir is a link to nowhere": () => this.instead(this.f.path(".agents"), (path) => symlinkSync("/nowhere/at/all", path), 3_000),
    "a state file is something else": async () => {
      const path = `${this.f.state}/${this.pick(["operator.json", "heartbeat", "events.jsonl", "limited-t-a1.json", "a1.id", "watchdog.stage"])}`;
      rmSync(path, { recursive: true, force: true });
      this.pick([() => Bun.spawnSync(["mkfifo", path]), () => mkdirSync(path), () => symlinkSync(path, path), () => writeFileSync(path, "{\0"),
        () => (writeFileSync(path, ""), truncateSync(path, 1e9))])();
    },
    "the config is broken": async () => {
      const good = this.f.read("agents.toml");
      this.f.write("agents.toml", this.pick(["", "[[agent\n", good.slice(0, good.length / 2)]));
      await Bun.sleep(2_000);
      this.f.write("agents.toml", good);
    },
    "a person's session": async () => void this.people.push(await this.person(this.mark("person").replace(".", ""))),
    "a person links a window": async () => {
      const name = this.mark("guest").replace(".", "");
      this.people.push(await this.person(name));
      await this.f.tmux("link-window", "-s", `=t-${this.pick(VICTIMS)}:`, "-t", `=${name}:`).catch(() => {});
    },
    "a person splits a window": async () => {
      const made = await this.f.tmux("split-window", "-dP", "-F", "#{pane_id} #{pane_pid}", "-t", `=t-${this.pick(VICTIMS)}:`, `exec cat >> ${quote(this.f.path("typed"))}`)
        .catch(() => "");
      if (made) this.people.push(made);
    },
    "the session of the log is killed": () => this.f.tmux("kill-session", "-t", "=t-watchdog").catch(() => {}),
    "a dialog comes and goes": async () => {
      const name = this.pick(VICTIMS);
      this.f.control(name, "dialog");
      const from = Date.now() + 250; // the client looks every 100 ms, and a look is taken a moment before it
      await Bun.sleep(2_500);
      this.dialogs.push({ name, from, to: Date.now() });
      this.f.control(name, "once idle");
    },
    "a client is busy": async () => {
      const name = this.pick(VICTIMS);
      this.f.control(name, "busy");
      await Bun.sleep(2_000);
      this.f.control(name, "once idle");
    },
    "up, twice at once": () => Promise.all([this.f.run(["up"]), this.f.run(["up"])]),
    restart: () => this.f.run(["restart", this.pick(VICTIMS)]),
    "down, then up": async () => {
      const name = this.pick(VICTIMS);
      await this.f.run(["down", name]);
      await this.f.run(["up", name]);
    },
    "a claim": () => this.handOff("claim"),
    "a review": () => this.handOff("review"),
    "a letter": () => this.handOff("inbox"),
    "two claims in one push": async () => {
      const marks = [this.mark("claim"), this.mark("claim")];
      await this.f.git("builder", "commit", "-q", "--allow-empty", "-m", `claim(one): ${marks[0]}`);
      await until(() => this.f.push("builder", `claim(one): ${marks[1]}`).then(() => true), 60_000, 500);
      for (const mark of marks) this.told.push({ to: "adversary", mark, at: Date.now() });
    },
    "a claim with 150 kB and escapes": async () => {
      const mark = this.mark("claim");
      await until(() => this.f.push("builder", `claim(one): ${mark} \x1b]52;c;aGk=\x07\u202e${"s".repeat(150_000)}`).then(() => true), 60_000, 500);
      this.told.push({ to: "adversary", mark, at: Date.now() });
    },
    "the remote is away": () => this.instead(this.f.path("origin.git"), () => {}, 3_000),
    "a lock that a killed git left": async () => {
      const lock = this.f.path("watch", ".git", "refs", "remotes", "origin", "main.lock");
      writeFileSync(lock, "");
      await Bun.sleep(2_000);
      rmSync(lock, { force: true });
    },
    "a text": async () => {
      const [to, mark] = [this.pick(VICTIMS), this.mark("text")];
      const { code } = await this.f.run(["send", to, `hear ${mark}`, "--queue"]);
      if (code === 0) this.told.push({ to, mark, at: Date.now() });
    },
  };

  async one(): Promise<void> {
    const name = this.pick(Object.keys(this.faults));
    this.counts[name] = (this.counts[name] ?? 0) + 1;
    console.error(`${new Date().toISOString().slice(11, 19)} ${name}`);
    await Promise.race([this.faults[name]!(), Bun.sleep(90_000).then(() => Promise.reject(new Error("not over after 90 s")))]);
  }

  copies({ to, mark }: Told): number {
    return this.f.submits(to).filter((text) => text.includes(mark)).length;
  }
}

export interface Outcome {
  faults: number; kinds: number; handOffs: number; missing: string[]; copies: number;
  approved: number; typedIntoDialogs: number; typedElsewhere: number; peopleEnded: number; left: number; zombies: number; stale: number;
}

/** Attacks a fleet for so many ms; then all is undone, and what was lost is counted. */
export async function attack(ms: number, seed: number): Promise<Outcome> {
  const f = fleet(loopPlan({
    handoff: { inboxes: ["TO-ADVERSARY.md", "TO-BUILDER.md"] }, agents: VICTIMS.map((name) => ({ name, watch: "heal" })),
    watchdog: { park_after: 1_000, restart_delay_max: 2 },
  }));
  const random = seeded(seed);
  const it = new Attack(f, random);
  try {
    await f.repository("builder", "adversary");
    f.write("typed", "");
    await f.up();
    await f.ready(...AGENTS);
    await until(() => JSON.parse(f.read(".agents/state/watch.json")).sha);
    for (const end = performance.now() + ms; performance.now() < end; await Bun.sleep(500 + random() * 2_500)) {
      await it.one().catch((error) => console.error(`attack: ${Object.entries(it.counts).at(-1)![0]}: ${error}`));
    }
    for (const name of VICTIMS) f.control(name, "once idle");
    await until(async () => (await f.run(["up"])).code === 0, 120_000, 1_000);
    await until(() => it.told.every((one) => it.copies(one) > 0), 180_000, 1_000).catch(() => {});
    await until(async () => AGENTS.every((name) => Object.keys(f.starts(name)).length), 10_000);
    const missing = it.told.filter((one) => !it.copies(one)).map(({ to, mark }) => `${to}: ${mark}`);
    const inDialogs = it.dialogs.flatMap(({ name, from, to }) => f.ledger(name).filter((fact) => fact.at > from && fact.at < to && fact.bytes));
    const stale = (await f.run(["status"])).out.includes("STALE") ? 1 : 0;
    if (missing.length) console.error(f.account());
    await f.run(["down"]);
    const ours = f.processes().filter(({ pid, command }) => !command.startsWith("tmux") && !it.people.some((one) => one.endsWith(` ${pid}`)) && command !== "cat");
    for (const { pid, command } of ours) console.error(`attack: left: ${pid} ${command}`);
    return {
      faults: Object.values(it.counts).reduce((sum, count) => sum + count, 0), kinds: Object.keys(it.counts).length,
      handOffs: it.told.length, missing, copies: Math.max(0, ...it.told.map((one) => it.copies(one))),
      approved: AGENTS.reduce((sum, name) => sum + f.approvals(name), 0), typedIntoDialogs: inDialogs.length,
      typedElsewhere: readFileSync(f.path("typed")).length,
      peopleEnded: it.people.filter((one) => !lives(Number(one.split(" ")[1]))).length,
      left: ours.length, zombies: ours.filter(({ pid }) => readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ")).length, stale,
    };
  } finally {
    await f.reap();
  }
}
