/**
 * What takes too long for every run: `bun tests/soak.ts [--sim [SEEDS]] [--ticks [N]]
 * [--kills [N]] [--attack [MINUTES]] [--seed N]`.
 * Without an option all parts run in full: 500 seeds of eight hours, 100,000 ticks, 200 kill -9 of a
 * real watchdog while hand-offs are pushed, half an hour of the faults of the field. Prints one table;
 * exit 1 where a figure is not met.
 */
import { readdirSync, readFileSync } from "node:fs";
import { attack } from "./attack.ts";
import { fleet, handoffStorm, loopPlan } from "./real.ts";
import { longRun, simulate } from "./sim.ts";

const FULL = { sim: 500, ticks: 100_000, kills: 200, attack: 30 };
type Part = keyof typeof FULL;

interface Figure {
  figure: string;
  measured: number | string;
  /** What it is held against; "" = it is only told. */
  wanted: string;
  ok: boolean;
}

/** How often each part that was asked for runs. */
function parse(words: string[]): Record<Part, number> {
  if (!words.length) return FULL;
  const wanted = { sim: 0, ticks: 0, kills: 0, attack: 0 };
  for (let at = 0; at < words.length; at++) {
    const part = words[at]!.replace(/^--/, "") as Part;
    const given = /^[1-9]\d*$/.test(words[at + 1] ?? "") ? Number(words[++at]) : FULL[part];
    if (!given) throw new Error(`usage: bun tests/soak.ts [--sim [SEEDS]] [--ticks [N]] [--kills [N]] [--attack [MINUTES]] [--seed N]`);
    wanted[part] = given;
  }
  return wanted;
}

const told = (figure: string, measured: number | string): Figure => ({ figure, measured, wanted: "", ok: true });
const exactly = (figure: string, measured: number, wanted: number): Figure => ({ figure, measured, wanted: `${wanted}`, ok: measured === wanted });
const below = (figure: string, measured: number, wanted: number): Figure => ({ figure, measured, wanted: `< ${wanted}`, ok: measured < wanted });
const quantile = (values: number[], q: number): number => values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * q))]!;
const descriptors = (pid: number | "self"): number => readdirSync(`/proc/${pid}/fd`).length;
/** MB that a process holds in memory. */
const resident = (pid: number | "self"): number => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) / 1000;
const rounded = (value: number): number => Math.round(value * 10) / 10;

/** Nobody at work is ended, everybody who is stuck is restarted in time. */
async function seeds(count: number): Promise<Figure[]> {
  const kills: Record<string, number> = {};
  const problems: string[] = [];
  for (let seed = 1; seed <= count; seed++) {
    const sim = await simulate(seed);
    problems.push(...sim.problems);
    for (const [mood, times] of Object.entries(sim.kills)) kills[mood] = (kills[mood] ?? 0) + times;
    if (seed % 50 === 0) console.error(`sim: ${seed} of ${count} seeds`);
  }
  for (const problem of problems.slice(0, 20)) console.error(problem);
  const rightly = ["dead", "stuck", "frozen"];
  const wrong = Object.entries(kills).reduce((sum, [mood, times]) => sum + (rightly.includes(mood) ? 0 : times), 0);
  return [
    told("sim: hours", count * 8),
    told("sim: stuck or frozen, restarted", (kills.stuck ?? 0) + (kills.frozen ?? 0)),
    exactly("sim: at work and ended", wrong, 0),
    exactly("sim: stuck beyond stall_idle + 2 ticks, and other faults", problems.length, 0),
  ];
}

/** The fewest of many looks: a child that runs just then holds pipes for a moment. */
async function fewest(pid: number): Promise<number> {
  let least = Infinity;
  for (let looks = 0; looks < 40; looks++) {
    least = Math.min(least, descriptors(pid));
    await Bun.sleep(50);
  }
  return least;
}

/** Memory and descriptors over so many ticks; the first four tenths fill what has a cap. */
async function ticks(count: number): Promise<Figure[]> {
  const at: { rss: number; files: number }[] = [];
  const { sim, growth } = await longRun(count, 1, () => {
    Bun.gc(true);
    at.push({ rss: resident("self"), files: descriptors("self") });
    console.error(`ticks: ${(count / 10) * at.length}, RSS ${rounded(at.at(-1)!.rss)} MB`);
  });
  for (const problem of sim.problems) console.error(problem);
  const [warm, end] = [at[3]!, at[9]!];
  return [
    told("ticks", count),
    below("ticks: RSS growth, MB", rounded(end.rss - warm.rss), 5),
    exactly("ticks: descriptors more", Math.max(0, end.files - warm.files), 0),
    below("ticks: state folder, kB", Math.round(Math.max(...growth.map((one) => one.all)) / 1000), 1000),
    below("ticks: messages waiting, most", Math.max(...growth.map((one) => one.outbox)), 12),
    exactly("ticks: faults", sim.problems.length, 0),
  ];
}

/** Hand-offs on real tmux and real git, the watchdog killed in the middle of each. */
async function kills(count: number): Promise<Figure[]> {
  const f = fleet(loopPlan());
  try {
    const storm = await handoffStorm(f, count);
    // the last watchdog lives on: what it holds over ticks of its own
    await f.ticks(20);
    const watchdog = f.lock("watchdog");
    const before = { files: await fewest(watchdog), rss: resident(watchdog) };
    await f.ticks(60);
    const { interval } = JSON.parse(f.read(".agents/state/heartbeat"));
    const repeated = storm.copies.filter((copies) => copies > 1).length;
    return [
      exactly("kill -9 of the watchdog", storm.kills, count),
      exactly("kills: hand-offs that arrived", storm.copies.filter((copies) => copies > 0).length, storm.copies.length),
      below("kills: copies, most", Math.max(...storm.copies), 3),
      told("kills: hand-offs that came more than once", repeated),
      exactly("kills: copies without a kill before them", storm.unprovoked, 0),
      // at most five seconds until there is another watchdog, then two of its ticks
      below("kills: delivery, p50, ms", quantile(storm.took, 0.5), 5_000 + 2_000 * interval),
      told("kills: delivery, p99, ms", quantile(storm.took, 0.99)),
      exactly("kills: descriptors more, 60 ticks", Math.max(0, (await fewest(watchdog)) - before.files), 0),
      told("kills: RSS more, MB, 60 ticks", rounded(resident(watchdog) - before.rss)),
    ];
  } catch (error) {
    console.error(f.account());
    throw error;
  } finally {
    await f.reap();
  }
}

/** Minutes of attacks on a real fleet: nothing that was said is lost, and nothing of a person touched. */
async function attacks(minutes: number): Promise<Figure[]> {
  console.error(`attack: seed ${seed}`);
  const { counts, handOffs, wrong } = await attack(minutes * 60_000, seed);
  for (const [kind, count] of Object.entries(counts)) console.error(`attack: ${count} × ${kind}`);
  for (const [figure, list] of Object.entries(wrong)) for (const one of list) console.error(`attack: ${figure}: ${one}`);
  return [
    told("attack: seed", seed),
    told("attack: faults", Object.values(counts).reduce((sum, count) => sum + count, 0)),
    told("attack: kinds of them", Object.keys(counts).length),
    told("attack: hand-offs", handOffs),
    ...Object.entries(wrong).map(([figure, list]) => exactly(`attack: ${figure}`, list.length, 0)),
  ];
}

const words = process.argv.slice(2);
const seedAt = words.indexOf("--seed");
const seed = seedAt < 0 ? Math.floor(Math.random() * 1e6) : Number(words.splice(seedAt, 2)[1]);
const wanted = parse(words);
const parts: Record<Part, (count: number) => Promise<Figure[]>> = { sim: seeds, ticks, kills, attack: attacks };
const figures: Figure[] = [];
for (const part of ["ticks", "sim", "kills", "attack"] as const) {
  if (wanted[part]) figures.push(...await parts[part](wanted[part]));
}
console.log(Bun.inspect.table(figures.map(({ figure, measured, wanted: limit, ok }) => ({ figure, measured, wanted: limit, met: limit && (ok ? "yes" : "NO") }))));
process.exitCode = figures.every(({ ok }) => ok) ? 0 : 1;
