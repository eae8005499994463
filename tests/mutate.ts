/**
 * What the tests do not see: random single changes of agents.ts, each in a copy, and the tests that can
 * notice it. A change that no test notices is a hole in the tests, or makes no difference: read those.
 *
 *   bun tests/mutate.ts [--sections notices,events,…] [--count 50] [--seed 1] [--jobs 1] [--only 3,7]
 *
 * A section is a name of SECTIONS below, a part of a banner's title, or /a pattern of function names/.
 * The same seed makes the same changes of the same file; --only tries some of them again, by number.
 *
 * Per change the tests that can see it run until one fails, in two passes. The first runs those of
 * its section that need no fleet of their own, in one go. The second, for what got through, runs those
 * that read the program as a text, then other files without fleets if their coverage has the function,
 * then the whole files of the section and those that name the function. How long they take, and what they cover, is
 * measured on the unchanged program when it is asked for the first time; they may take three times as
 * long, and half a minute more. What fails by that limit, or in a fleet, is asked once more.
 */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { codeOf, type Part, partsOf } from "./source.ts";

const ROOT = resolve(import.meta.dir, "..");
const SOURCE = readFileSync(join(ROOT, "agents.ts"), "utf8");

/** What belongs to a section: everything below its banners, functions that stand elsewhere; its test files. */
const SECTIONS: Record<string, { banners?: RegExp; functions?: RegExp; calls?: RegExp; tests: string[] }> = {
  notices: { banners: /^notices/, functions: /^(emit|tellsPeople|pendingNotices|notifying|cmdNotify)$/, tests: ["notices"] },
  events: { banners: /^events/, calls: /\bemit\(/, tests: ["events"] },
  status: { banners: /^status/, functions: /^(ago|ageOf|fit|cut|showLive|barDrawn)$/, tests: ["status", "pictures", "page", "live"] },
  lock: {
    functions: /^(openNote|readNote|lockFile|systemFlock|lockOpen|flock|isLocked|takeLock|freeLock|keepLock|writePid|textIn|lockHolder|sharesOurFiles|supervisorsOf|changeOperator)$/,
    tests: ["processes", "up", "standing-by"],
  },
  keeper: {
    banners: /^standing by/, functions: /^(isWanted|retireOtherVersion|startWatchdog|stopWatchdog|endOriginalWatchdog)$/,
    tests: ["standing-by", "supervision", "up"],
  },
  report: { banners: /^report/, functions: /^(plural|iso|spanText)$/, tests: ["report", "events"] },
  logs: { banners: /^logs/, functions: /^logToFile$/, tests: ["logs"] },
  "command-line": {
    banners: /^(the command line|up, down|phase, attach|main)/, functions: /^(cmdSelftest|reportOwnRules)$/,
    tests: ["command-line", "send", "phases", "attach", "up", "up-orders"],
  },
};

function partsIn(section: string, parts: Part[]): Part[] {
  const known = SECTIONS[section];
  const pattern = /^\/(.+)\/$/.exec(section)?.[1];
  return parts.filter(({ name, banner, from, to }) => {
    if (!known) return pattern ? new RegExp(pattern).test(name) : banner.includes(section);
    return [known.banners?.test(banner), known.functions?.test(name), known.calls?.test(SOURCE.slice(from, to))].includes(true);
  });
}

// ── the changes ──

interface Change {
  section: string;
  part: string;
  line: number;
  /** Those of its function: a statement over many lines is counted at one of them. */
  lines: number[];
  from: number;
  to: number;
  text: string;
}

/** Each kind: what it looks for in the code, and what it makes of it; null = nothing. */
const KINDS: [RegExp, (found: string, before: string, after: string) => string | null][] = [
  [/===|!==/g, (found) => (found === "===" ? "!==" : "===")],
  [/(?<= )[<>]=?(?= )/g, (found) => (found.endsWith("=") ? found[0]! : `${found}=`)],
  [/\b(true|false)\b/g, (found) => (found === "true" ? "false" : "true")],
  [/&&|\|\|(?!=)/g, (found) => (found === "&&" ? "||" : "&&")],
  // of texts only one of numbers can be told from: a quote beside it
  [/(?<= )[+-](?= )/g, (found, before, after) =>
    (/["'`]\s*$/.test(before) || /^\s*["'`]/.test(after) || /^ *$/m.test(after.split("\n")[0]!) ? null : found === "+" ? "-" : "+")],
  [/(?<= )\*(?= )/g, () => "/"],
  [/(?<![\w.$#])\d[\d_]*(?![\w.])/g, (found) => String(larger(Number(found.replaceAll("_", ""))))],
  [/(?<![\w.$#])[1-9][\d_]*(?![\w.])/g, (found) => String(smaller(Number(found.replaceAll("_", ""))))],
  [/\bawait (?!\w+ of)/g, () => ""],
  [/(?<=[\s([,])!(?=[\w(])/g, () => ""],
  [/(?<=^ +)(await |void )?\w[\w.?!]*\([^;{}]*\);$/gm, (found, before) =>
    (balanced(found) && /(^|[;{}]|\/\/.*)\n *$/.test(before) ? ";" : null)],
];

/** By one where one is much; a deadline or a size is told from its double only. */
const larger = (value: number): number => (value > 20 ? value * 2 : value + 1);
const smaller = (value: number): number => (value > 20 ? Math.floor(value / 2) : value - 1);

const balanced = (text: string): boolean => {
  let depth = 0;
  for (const one of text) if ((depth += one === "(" ? 1 : one === ")" ? -1 : 0) < 0) return false;
  return depth === 0;
};

/** The condition of an `if`, as a range, brackets not included. */
function conditions(code: string, from: number, to: number): [number, number][] {
  return [...code.slice(from, to).matchAll(/\bif \(/g)].flatMap(({ index }) => {
    const start = from + index + 4;
    let depth = 1;
    for (let at = start; at < to; at++) {
      depth += code[at] === "(" ? 1 : code[at] === ")" ? -1 : 0;
      if (depth === 0) return [[start, at] as [number, number]];
    }
    return [];
  });
}

function changesOf(section: string, part: Part, { code, patterns }: ReturnType<typeof codeOf>): Change[] {
  const { name, from, to } = part;
  const lineOf = (at: number) => SOURCE.slice(0, at).split("\n").length;
  const lines = Array.from({ length: lineOf(to) - lineOf(from) }, (_, nth) => lineOf(from) + nth);
  const change = (at: number, end: number, text: string): Change =>
    ({ section, part: name, line: lineOf(at), lines, from: at, to: end, text });
  const body = code.slice(from, to);
  const flips = KINDS.flatMap(([pattern, make]) => [...body.matchAll(pattern)].flatMap((found) => {
    const [at, end] = [from + found.index, from + found.index + found[0].length];
    const text = make(found[0], SOURCE.slice(at - 200, at), SOURCE.slice(end, end + 200));
    return text === null ? [] : [change(at, end, text)];
  }));
  const negated = conditions(code, from, to).map(([at, end]) => change(at, end, `!(${SOURCE.slice(at, end)})`));
  const fewer = patterns.filter(([at]) => at >= from && at < to).flatMap(([at, end]) =>
    [...SOURCE.slice(at, end).matchAll(/\|[^|()[\]\\/]+(?=[|)/])/g)]
      .map((found) => change(at + found.index, at + found.index + found[0].length, "")));
  return [...flips, ...negated, ...fewer];
}

const changed = ({ from, to, text }: Change): string => SOURCE.slice(0, from) + text + SOURCE.slice(to);
const loads = (source: string): boolean => {
  try {
    new Bun.Transpiler({ loader: "ts" }).transformSync(source);
    return true;
  } catch {
    return false;
  }
};

/** mulberry32: the same numbers for the same seed, on every machine. */
function randomFrom(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` different changes that load, from the sections in turn, a random one of each. */
function choose(sections: string[], count: number, seed: number): Change[] {
  const random = randomFrom(seed);
  const scanned = codeOf(SOURCE);
  const parts = partsOf(SOURCE);
  const gone = Object.values(SECTIONS).flatMap(({ banners, functions, tests }) => [
    ...(banners?.source.match(/\w[\w, ]+/g) ?? []).filter((one) => !parts.some(({ banner }) => banner.startsWith(one))),
    ...(functions?.source.match(/\w+/g) ?? []).filter((one) => !parts.some(({ name }) => name === one)),
    ...tests.filter((name) => !existsSync(join(ROOT, `tests/${name}.test.ts`)))]);
  if (gone.length) throw new Error(`SECTIONS names what is not there any more: ${gone.join(", ")}`);
  const pools = sections.map((section) => partsIn(section, parts).flatMap((part) => changesOf(section, part, scanned)));
  for (const [nth, pool] of pools.entries()) if (!pool.length) throw new Error(`nothing to change in "${sections[nth]}"`);
  const chosen: Change[] = [];
  for (let nth = 0; chosen.length < count && pools.some((pool) => pool.length); nth++) {
    const pool = pools[nth % pools.length]!;
    const [one] = pool.splice(Math.floor(random() * pool.length), 1);
    const twice = chosen.some((other) => one && other.from === one.from && other.text === one.text);
    if (one && !twice && loads(changed(one))) chosen.push(one);
  }
  return chosen;
}

// ── the tests ──

interface TestFile {
  name: string;
  /** 0: it belongs to the section; 1: it names the function that was changed; 2: neither. */
  rank: 0 | 1 | 2;
  /** It starts processes, which its coverage does not see. */
  real: boolean;
  /** It reads the program as a text, of which its coverage knows nothing. */
  reads: boolean;
}

/** What a test file takes unchanged, ms, and the lines of agents.ts that it runs. */
interface Measured {
  ms: number;
  lines: Set<number>;
}

/** Without fleets a file that takes longer, unchanged, ms, is left out. */
const QUICK = 60_000;

/** A folder with everything that a test reads, and a temporary folder by which all that it starts is known. */
function copy(): string {
  const dir = mkdtempSync(join(tmpdir(), "mut-"));
  const listed = Bun.spawnSync(["git", "ls-files", "-co", "--exclude-standard"], { cwd: ROOT, env: process.env });
  for (const file of String(listed.stdout).split("\n").filter(Boolean)) {
    mkdirSync(dirname(join(dir, file)), { recursive: true });
    copyFileSync(join(ROOT, file), join(dir, file));
  }
  symlinkSync(join(ROOT, "node_modules"), join(dir, "node_modules"));
  mkdirSync(join(dir, "t"));
  return dir;
}

/** Ends whatever still names a copy in its environment or its command line. */
function sweep(dir: string): void {
  for (let round = 0; round < 400; round++) {
    const left = readdirSync("/proc").filter((pid) => {
      if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
      try {
        return ["environ", "cmdline"].some((file) => readFileSync(`/proc/${pid}/${file}`, "utf8").includes(`${dir}/`));
      } catch {
        return false;
      }
    });
    if (!left.length) return;
    for (const pid of left) try {
      process.kill(Number(pid), "SIGKILL");
    } catch {
      // it has ended
    }
    Bun.sleepSync(25);
  }
}

const TOO_LONG = "the time limit";

/** Runs test files in a copy; the first test that failed within `limit` ms, "" = none. */
async function firstFailure(dir: string, files: string[], limit: number, quick: boolean, more: string[] = []): Promise<string> {
  const child = Bun.spawn([process.execPath, "test", "--bail", `--timeout=${limit}`, ...more, ...files.map((file) => `./tests/${file}.test.ts`)], {
    cwd: dir, env: { ...process.env, TMPDIR: join(dir, "t"), CI: "1", ...(quick && { REAL_AT_ONCE: "0" }) },
    stdio: ["ignore", "ignore", "pipe"], detached: true,
  });
  const end = (signal: NodeJS.Signals) => () => {
    try {
      process.kill(-child.pid, signal);
    } catch {
      // it has ended
    }
  };
  // the harness of the real tests clears away on SIGTERM
  const timers = [setTimeout(end("SIGTERM"), limit), setTimeout(end("SIGKILL"), limit + 10_000)];
  const said = new Response(child.stderr).text();
  const code = await child.exited;
  timers.forEach(clearTimeout);
  sweep(dir);
  if (code === 0) return "";
  return /\(fail\) (.*)/.exec(await said)?.[1] ?? (child.signalCode ? TOO_LONG : "no test, it did not load");
}

/** The lines of agents.ts that an lcov report counts as run. */
function linesRun(report: string): Set<number> {
  const own = report.split("end_of_record").find((part) => /^SF:.*agents\.ts$/m.test(part)) ?? "";
  return new Set([...own.matchAll(/^DA:(\d+),([1-9]\d*)/gm)].map((match) => Number(match[1])));
}

const measured = new Map<string, Promise<Measured | null>>();

/** Runs files on the unchanged program; null = they fail or take too long, so that they can say nothing. */
async function measure(dir: string, files: string[], quick: boolean): Promise<Measured | null> {
  writeFileSync(join(dir, "agents.ts"), SOURCE);
  const report = join(dir, "t", `coverage-${files}`);
  const coverage = ["--coverage", "--coverage-reporter=lcov", `--coverage-dir=${report}`];
  const began = performance.now();
  const failure = await firstFailure(dir, files, quick ? QUICK * files.length : 900_000, quick, coverage);
  if (!failure) return { ms: performance.now() - began, lines: linesRun(readFileSync(join(report, "lcov.info"), "utf8")) };
  console.log(`${files} fails unchanged: ${failure}`);
  return null;
}

function measuredOnce(dir: string, files: string[], quick: boolean): Promise<Measured | null> {
  const key = `${files} ${quick}`;
  if (!measured.has(key)) measured.set(key, measure(dir, files, quick));
  return measured.get(key)!;
}

/** Which files may notice a change, the likeliest first. */
function witnesses(change: Change): TestFile[] {
  const names = readdirSync(join(ROOT, "tests")).filter((name) => name.endsWith(".test.ts")).map((name) => name.replace(".test.ts", ""));
  return names.map((name): TestFile => {
    const text = readFileSync(join(ROOT, "tests", `${name}.test.ts`), "utf8");
    const own = SECTIONS[change.section]?.tests.includes(name);
    return {
      name, rank: own ? 0 : new RegExp(`\\b${change.part}\\b`).test(text) ? 1 : 2,
      real: /from "\.\/(real|desk)\.ts"/.test(text), reads: text.includes('from "./source.ts"'),
    };
  }).sort((a, b) => Number(b.reads) - Number(a.reads) || a.rank - b.rank);
}

/** The test of these files that notices a change; "" = none does. */
async function noticedBy(dir: string, change: Change, files: string[], quick: boolean, blind = quick): Promise<string> {
  const unchanged = await measuredOnce(dir, files, quick);
  if (!unchanged || (blind && !change.lines.some((line) => unchanged.lines.has(line)))) return "";
  writeFileSync(join(dir, "agents.ts"), changed(change));
  const failure = () => firstFailure(dir, files, Math.round(3 * unchanged.ms) + 30_000, quick);
  const failed = await failure();
  return failed && (failed === TOO_LONG || !quick) ? failure() : failed;
}

/** The same of all files, by the pass: those of its section without fleets, or the others. */
async function tryOut(dir: string, change: Change, first: boolean): Promise<string> {
  const files = witnesses(change);
  const own = files.filter(({ rank }) => rank === 0).map(({ name }) => name);
  if (first) return noticedBy(dir, change, own, true, false);
  for (const { name, rank, reads } of files) {
    const found = rank && await noticedBy(dir, change, [name], true, !reads);
    if (found) return found;
  }
  for (const { name, rank, real } of files) {
    const found = real && rank < 2 && await noticedBy(dir, change, [name], false);
    if (found) return found;
  }
  return "";
}

/** Works through `items`, a worker per copy. */
async function inTurn<T>(dirs: string[], items: T[], work: (dir: string, item: T) => Promise<void>): Promise<void> {
  const left = [...items];
  await Promise.all(dirs.map(async (dir) => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) await work(dir, item);
  }));
}

const short = (text: string): string => text.replace(/\s+/g, " ").slice(0, 60) || "(nothing)";

async function mutate(dirs: string[], changes: Change[], only: number[]): Promise<void> {
  const wanted = changes.map((change, nth) => ({ change, nth: nth + 1 })).filter(({ nth }) => !only.length || only.includes(nth));
  const pass = async (tried: typeof wanted, quick: boolean): Promise<typeof wanted> => {
    const through: typeof wanted = [];
    await inTurn(dirs, tried, async (dir, { change, nth }) => {
      const began = performance.now();
      const by = await tryOut(dir, change, quick);
      if (!by) through.push({ change, nth });
      const said = `${short(SOURCE.slice(change.from, change.to))} → ${short(change.text)}`;
      const found = by ? `caught by ${by}` : quick ? "got through" : "SURVIVED";
      console.log(`#${nth} ${change.section}, line ${change.line} ${change.part}: ${said}  ${found} (${Math.round((performance.now() - began) / 1000)} s)`);
    });
    return through;
  };
  const lost = await pass(await pass(wanted, true), false);
  for (const section of new Set(wanted.map(({ change }) => change.section))) {
    const count = (of: typeof wanted) => of.filter(({ change }) => change.section === section).length;
    console.log(`${section}: ${count(wanted) - count(lost)} of ${count(wanted)} caught`);
  }
  console.log(`${wanted.length - lost.length} of ${wanted.length} caught, ${lost.length} survived`);
}

const { values } = parseArgs({ options: {
  sections: { type: "string", default: Object.keys(SECTIONS).join() }, count: { type: "string", default: "50" },
  seed: { type: "string", default: "1" }, jobs: { type: "string", default: "1" }, only: { type: "string", default: "" },
} });
const changes = choose(values.sections.split(","), Number(values.count), Number(values.seed));
const dirs = Array.from({ length: Number(values.jobs) }, copy);
/** Once more where something still wrote: what began between a look and its end is seen by the next. */
function clear(): void {
  for (let tries = 0; dirs.some((dir) => existsSync(dir)) && tries < 10; tries++) {
    dirs.forEach(sweep);
    for (const dir of dirs) try {
      rmSync(dir, { recursive: true, force: true });
    } catch {
      // the next try
    }
  }
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {
  clear();
  process.exit(130);
});
try {
  await mutate(dirs, changes, values.only.split(",").filter(Boolean).map(Number));
} finally {
  clear();
}
