/**
 * A noisy fleet on the fake clock: clients that work, rest, wait, freeze, die, meet limits and dialogs,
 * and print what a detector must not fall for. `simulate` returns what went wrong; `longRun` how large
 * everything grew.
 */
import { type Config, curIdx, type Watch } from "../agents.ts";
import { type FakePane, FakeWorld } from "./kit.ts";

const TICK = 30_000;
const STALL_IDLE = 300_000;

// Each has an account of its own: a limit of this world is that of one agent.
const CONFIG = `
[defaults]
backend = "claude"
watch = "heal+stall"
[loop]
phases = [{ id = "p1", plan = "p1.md", status = "STATUS-p1.md" }, { id = "p2", plan = "p2.md", status = "STATUS-p2.md" }]
[loop.handoff]
repo = "project"
inboxes = ["ADVERSARY-INBOX.md", "BUILDER-INBOX.md"]
[[agent]]
name = "builder"
account = "1"
kind = "loop"
role = "builder"
[[agent]]
name = "adversary"
account = "2"
kind = "loop"
role = "adversary"
[[agent]]
name = "orchestrator"
account = "3"
kind = "orchestrator"
prompt = "Look after the fleet."
wake = { interval = 3600 }
${["x", "y", "z"].map((name) => `[[agent]]\nname = "${name}"\naccount = "${name}"\nprompt = "Work."\n`).join("")}`;

/** What agents print about the things that detectors look for. */
const QUOTES = [
  "● The footer of a working client says (esc to interrupt), that of an idle one does not.",
  "● Bash(grep -r limit .)\n  ⎿  log.txt:3: You've hit your 5-hour limit · resets 3pm (UTC)\n     log.txt:9: What do you want to do?",
  '● I added the phrase "API Error: 400 invalid" to the list; "Prompt is too long" stands there already.',
  "● Read(dialog.txt)\n  ⎿   Do you want to proceed?\n      ❯ 1. Yes\n        2. No\n      Esc to cancel · Tab to amend",
  "● The old log had WAITING-UNTIL: 2020-01-01T00:00:00Z in the middle of a line.",
  "● Update(agents.toml)\n  ⎿  Added 3 lines\n     12 + fatal_re = \"session not found\"\n     13 + active_re = \"esc to interrupt\"",
  "● Credit balance is a field of the answer; git reset 5f2a undid 3 rows.\n\n  It resets at 3pm in the example.",
];

/** A small generator with a seed (mulberry32): a seed that failed fails again. */
export function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

type Mood = "work" | "rest" | "wait" | "stuck" | "frozen" | "limit" | "dialog" | "blank";
const MOODS: Mood[] = ["work", "work", "work", "work", "rest", "rest", "wait", "stuck", "frozen", "limit", "dialog", "blank"];

/** One client's life: what it does, until when, and since when it has been stuck. */
class Life {
  mood: Mood = "work";
  until: number;
  since: number;
  constructor(
    readonly sim: Simulation,
    readonly pane: FakePane,
  ) {
    this.since = sim.fake.mono;
    this.until = this.since + 120_000 + sim.random() * 600_000;
    this.enter("work");
    const paste = pane.paste.bind(pane);
    pane.paste = (value) => {
      // a text in its box is a new picture
      if (this.mood === "stuck" || this.mood === "frozen") this.since = sim.fake.mono;
      paste(value);
    };
    pane.onSubmit = () => {
      if (this.mood === "rest" || this.mood === "wait" || (this.mood === "limit" && sim.fake.mono >= this.until)) this.enter("work");
    };
  }

  enter(mood: Mood): void {
    const { random, fake } = this.sim;
    const minutes = { work: 1 + random() * 40, rest: 0.5 + random() * 3.5, wait: 5 + random() * 60, stuck: Infinity, frozen: Infinity, limit: 5 + random() * 170, dialog: 1 + random() * 60, blank: 0.5 + random() * 20 };
    const length = minutes[mood] * 60_000;
    Object.assign(this, { mood, since: fake.mono, until: fake.mono + length });
    const quote = QUOTES[Math.floor(random() * QUOTES.length)]!;
    const { pane } = this;
    pane.frozen = mood === "frozen" ? fake.wall : null;
    pane.takesEnter = mood !== "stuck" && mood !== "frozen";
    pane.doing = mood === "work" || mood === "frozen" ? "busy" : mood === "limit" || mood === "dialog" || mood === "blank" ? mood : "idle";
    pane.said = `${quote}\n\n● Turn ${Math.floor(random() * 1e6)} of mine.`;
    if (mood === "wait") pane.said = `${quote}\n\n● WAITING-UNTIL: ${new Date(fake.wall + length - 60_000).toISOString()}`;
    if (mood === "limit") pane.banner = `You've hit your 5-hour limit · resets ${clock(fake.wall + length)} (UTC)`;
  }

  /** What becomes of it before the next tick. */
  step(): void {
    const { random, fake } = this.sim;
    if (this.pane.dead || fake.mono < this.until) return;
    if (this.mood === "limit") return;
    if (this.mood === "work" && random() < 0.05) return fake.tmux.exit(this.pane.session, 1);
    this.enter(this.mood === "work" ? MOODS[Math.floor(random() * MOODS.length)]! : "work");
  }

  /** How long it has been stuck, ms beyond what is allowed; 0 = it is not. */
  get overdue(): number {
    const stuck = this.mood === "stuck" || this.mood === "frozen";
    return stuck && !this.pane.dead ? Math.max(0, this.sim.fake.mono - this.since - STALL_IDLE - 2 * TICK) : 0;
  }
}

const clock = (at: number): string => {
  const date = new Date(Math.ceil(at / 60_000) * 60_000);
  return `${date.getUTCHours() % 12 || 12}:${String(date.getUTCMinutes()).padStart(2, "0")}${date.getUTCHours() < 12 ? "am" : "pm"}`;
};

export class Simulation {
  fake = new FakeWorld();
  random: () => number;
  lives = new Map<FakePane, Life>();
  problems: string[] = [];
  kills: Record<string, number> = {};
  cfg!: Config;
  watch!: Watch;
  private claims = 0;
  constructor(readonly seed: number) {
    this.random = randomOf(seed);
    const { fake } = this;
    fake.tmux.onStart = (pane) => void this.lives.set(pane, new Life(this, pane));
    const kill = fake.tmux.kill.bind(fake.tmux);
    fake.tmux.kill = (pane) => {
      this.noteKill(pane);
      kill(pane);
    };
  }

  private say(problem: string): void {
    if (this.problems.length < 20) this.problems.push(`seed ${this.seed}, ${new Date(this.fake.wall).toISOString()}: ${problem}`);
  }

  private noteKill(pane: FakePane): void {
    const { mood, since } = this.lives.get(pane)!;
    const what = pane.dead ? "dead" : mood;
    this.kills[what] = (this.kills[what] ?? 0) + 1;
    if (!["dead", "stuck", "frozen"].includes(what)) this.say(`${pane.session} was killed while it was at "${mood}" for ${Math.round((this.fake.mono - since) / 1000)} s`);
    this.lives.delete(pane);
  }

  async start(): Promise<void> {
    this.cfg = await this.fake.config(CONFIG);
    this.watch = await this.fake.watch(this.cfg);
    this.fake.git.push("init", { "README.md": "r" });
  }

  async run(ticks: number): Promise<void> {
    for (let nth = 0; nth < ticks; nth++) {
      for (const life of this.lives.values()) life.step();
      if (this.random() < 0.02) this.fake.git.push(`${this.random() < 0.5 ? "claim" : "review"}(p1): number ${(this.claims += 1)}`);
      await this.fake.ticks(this.cfg, this.watch);
      this.check();
      this.forget();
    }
  }

  private check(): void {
    for (const { pane, overdue, mood } of this.lives.values()) {
      if (overdue > 0) this.say(`${pane.session} is ${mood} and ${Math.round(overdue / 1000)} s overdue`);
      if (pane.approved) this.say(`${pane.session}: a dialog was answered`);
    }
    if (curIdx(this.cfg) !== 0) this.say("the phase moved");
    const errors = Object.entries(this.watch.volatile.errors).filter(([label]) => label.startsWith("guard"));
    for (const [, error] of errors) this.say(error);
    for (const [name, { life }] of Object.entries(this.watch.agents)) {
      if (life.state === "parked") this.say(`${name} is parked: ${life.why}`);
    }
  }

  /** The fake world's own notes must not grow either. */
  private forget(): void {
    const { fake } = this;
    if (fake.lines.length > 2000) fake.lines.splice(0, 1000);
    fake.effects.length = 0;
    fake.git.calls.length = 0;
    if (fake.git.remote.length > 200) fake.git.remote = fake.git.remote.slice(-100);
    if (fake.everyPane.length > 100) fake.everyPane.splice(0, 50);
  }

  /** How many that were stuck it found and restarted. */
  get found(): number {
    return (this.kills.stuck ?? 0) + (this.kills.frozen ?? 0);
  }

  /** Bytes of all that the watchdog keeps on disk, or of all but its events, which grow to their cap. */
  stateSize(events = true): number {
    const kept = [...this.fake.files].filter(([path]) => path.startsWith(this.cfg.logDir) && (events || !path.includes("events.jsonl")));
    return kept.reduce((sum, [, text]) => sum + text.length, 0);
  }
}

/** As many rounds as the promise speaks of in CI, a part of them by hand: they only look for what is rare. */
export const rounds = <T>(promised: T, byHand: T): T => (process.env.CI ? promised : byHand);

/**
 * In CI the seeds from one to another; by hand three of the fifty, all in the first file: until the code is compiled one
 * night takes as long as the next two.
 */
export const seeds = (from: number, to: number): number[] =>
  process.env.CI ? Array.from({ length: to - from + 1 }, (_, nth) => from + nth) : from === 1 ? [1, 18, 35] : [];

/** So many hours of the fleet; what went wrong, and who was ended in which state. */
export async function simulate(seed: number, hours = 8): Promise<Simulation> {
  const sim = new Simulation(seed);
  try {
    await sim.start();
    await sim.run(hours * 120);
    return sim;
  } finally {
    sim.fake.restore();
  }
}

export interface Growth {
  ticks: number;
  outbox: number;
  /** Bytes on disk, and without the events. */
  all: number;
  state: number;
}

/** So many ticks in ten parts: the largest sizes of each; `after` is called at the end of one. */
export async function longRun(ticks: number, seed = 1, after: () => void = () => {}): Promise<{ sim: Simulation; growth: Growth[] }> {
  const sim = new Simulation(seed);
  const growth: Growth[] = [];
  try {
    await sim.start();
    for (let part = 1; part <= 10; part++) {
      const most: Growth = { ticks: (ticks / 10) * part, outbox: 0, all: 0, state: 0 };
      for (let nth = 0; nth < ticks / 100; nth++) {
        await sim.run(10);
        most.outbox = Math.max(most.outbox, sim.watch.outbox.length);
        most.all = Math.max(most.all, sim.stateSize());
        most.state = Math.max(most.state, sim.stateSize(false));
      }
      growth.push(most);
      after();
    }
    return { sim, growth };
  } finally {
    sim.fake.restore();
  }
}
