/**
 * What supervision costs, on real tmux: `bun tests/bench.ts [--sizes 10,100,400] [--ticks 200]
 * [--original agents.py]`. Each size has a tmux server of its own, whose sessions show a drawn screen
 * over a `sleep`. Two fleets are measured: one at rest, and one at work, in which every client draws
 * before every tick. One run compares our tick with (a) one tmux process per question, the original's
 * way, and (b) the bare tmux work of one look at every screen; with --original also with the original
 * itself, run by python3. Ratios within one run mean something, absolute times only on the machine
 * that printed them. The memory is that of a real watchdog after a thousand ticks. Exits with 1 where
 * a figure of the README's promise is not met.
 */
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { type Config, freshWatch, loadConfig, RARELY_RUN, selfArgv, snapshot, tick, world } from "../agents.ts";
import { longRun } from "./sim.ts";

const { values } = parseArgs({
  options: {
    sizes: { type: "string", default: "10,100,400" }, ticks: { type: "string", default: "200" },
    original: { type: "string" }, json: { type: "boolean" },
  },
});
/** Ticks of the fake world, of a fleet with hand-offs, limits and deaths. */
const SIMULATED = 5_000;
const ROOT = mkdtempSync(join(tmpdir(), "ab-"));
/** /proc counts CPU time in hundredths of a second. */
const CLOCK_TICK_MS = 10;

/** CPU ms that a process has used, to the nanosecond. */
const exactCpu = (pid: number): number => Number(readFileSync(`/proc/${pid}/schedstat`, "utf8").split(" ")[0]) / 1e6;

/** CPU ms that a process and the children it has waited for have used. */
function cpuOf(pid: number | "self"): { own: number; children: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ").map(Number);
  return { own: (fields[11]! + fields[12]!) * CLOCK_TICK_MS, children: (fields[13]! + fields[14]!) * CLOCK_TICK_MS };
}

interface Cost {
  wall: number[];
  own: number;
  children: number;
  server: number;
  processes: number;
}
const total = (cost: Cost): number => (cost.own + cost.children + cost.server) / cost.wall.length;
const quantile = (values: number[], q: number): number => values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * q))]!;

/**
 * Runs something so many times and says what one time costs, the tmux server's part included; what
 * `before` does is not counted.
 */
async function measure(server: number, times: number, work: () => Promise<unknown>, before: () => Promise<unknown> = async () => {}): Promise<Cost> {
  const real = world.tmux;
  let processes = 0;
  world.tmux = (args, stdin, take) => (processes++, real(args, stdin, take));
  const cost: Cost = { wall: [], own: 0, children: -cpuOf("self").children, server: 0, processes: 0 };
  for (let i = 0; i < times; i++) {
    await before();
    const [began, cpu, served] = [performance.now(), process.cpuUsage(), exactCpu(server)];
    await work();
    cost.wall.push(performance.now() - began);
    const { user, system } = process.cpuUsage(cpu);
    cost.own += (user + system) / 1000;
    cost.server += exactCpu(server) - served;
  }
  world.tmux = real;
  return { ...cost, children: cost.children + cpuOf("self").children, processes: processes / times };
}

/** Draws on every screen what a client at work does, or one at rest, and waits until tmux has taken it. */
async function drawAll(server: number, screens: number[], busy = true): Promise<void> {
  drawn += 1;
  const turn = `turn ${String.fromCharCode(97 + (drawn % 26))} of the work`;
  const picture = busy
    ? ["◐◑"[drawn % 2], turn, `✻ Working… (${drawn}s · ↓ ${drawn} tokens)`, "· esc to interrupt    "]
    : ["✳", turn, "", "(shift+tab to cycle)"];
  const [title, said, spinner, foot] = picture;
  const bytes = `\x1b]2;${title} Claude Code\x07\x1b7\x1b[2;3H${said}\x1b[30;1H${spinner}\x1b[K\x1b[35;19H${foot}\x1b8`;
  for (const screen of screens) writeSync(screen, bytes);
  for (let before = -1; exactCpu(server) !== before; ) {
    before = exactCpu(server);
    await Bun.sleep(5);
  }
}
let drawn = 0;

/** A fleet of sleepers under a drawn screen, started by the program's own `up`. */
async function makeFleet(size: number): Promise<{ cfg: Config; up: number }> {
  const dir = join(ROOT, `${size}`);
  mkdirSync(join(dir, "tmux"), { recursive: true });
  process.env.TMUX_TMPDIR = join(dir, "tmux");
  const rule = "─".repeat(120);
  const words = Array.from({ length: 30 }, (_, i) => `  line ${i} of what the agent said before it came to rest at its prompt`);
  writeFileSync(join(dir, "screen"), [...words, "", rule, "❯\u00a0", rule, "  ⏵⏵ auto mode on (shift+tab to cycle)"].join("\n"));
  writeFileSync(join(dir, "client"), `#!/bin/sh\ncat '${dir}/screen'\nexec sleep 100000\n`, { mode: 0o755 });
  const agents = Array.from({ length: size }, (_, i) => `[[agent]]\nname = "a${i}"\n`).join("");
  writeFileSync(join(dir, "agents.toml"), `[defaults]\nsession_prefix = "b-"\nbackend = "claude"\nwatch = "heal+stall"
[watchdog]\nup_wait = 60\nsignal_interval = 30\nheavy_interval = 100000
[backend.claude]\nbin = "${dir}/client"\nstall_idle = 1000000\n${agents}`);
  const began = performance.now();
  const child = Bun.spawn([...selfArgv(), "up", ...Array.from({ length: size }, (_, i) => `a${i}`), "--config", join(dir, "agents.toml")], {
    stdio: ["ignore", "ignore", "ignore"], env: process.env,
  });
  if ((await child.exited) !== 0) throw new Error(`up of ${size} agents failed`);
  return { cfg: await loadConfig(join(dir, "agents.toml")), up: performance.now() - began };
}

/** The original's way: three questions per agent and check, a process each. */
async function perQuestion(cfg: Config): Promise<void> {
  for (const agent of cfg.agents.values()) {
    await world.tmux(["has-session", "-t", `=${agent.session}`]);
    await world.tmux(["capture-pane", "-p", "-t", `=${agent.session}:`]);
    await world.tmux(["display-message", "-p", "-t", `=${agent.session}:`, "#{pane_current_command}"]);
  }
}

/** The least that tmux itself must do: one list and one batch of captures. */
async function bare(cfg: Config, ids: string[]): Promise<void> {
  await world.tmux(["list-panes", "-a", "-F", "#{pane_id} #{pane_dead} #{session_name}"]);
  await world.tmux(["source-file", "-"], ids.map((id) => `display-message -p '@@ ${id.slice(1)}'\ncapture-pane -p -J -t '${id}'\n`).join(""));
}

/** CPU ms per tick of the original's own watchdog, its children and the tmux server, by python3. */
async function originalCost(cfg: Config, script: string, server: number): Promise<number> {
  const dir = join(cfg.logDir, "original");
  mkdirSync(join(dir, "prompts"), { recursive: true });
  writeFileSync(join(dir, "agents.py"), readFileSync(script));
  const agents = [...cfg.agents.values()].map((agent) => `[[agent]]\nname = "${agent.name}"\nbackend = "claude"\nwatch = "heal+stall"\n`).join("");
  writeFileSync(join(dir, "agents.toml"), `[defaults]\nlog_dir = "${dir}"\nsession_prefix = "b-"\n[watchdog]\nsignal_interval = 0\nheavy_interval = 1000000
[backend.claude]\nbin = "true"\nactive_re = "esc to interrupt"\nlimit_re = "limit reached"\nfatal_re = "no conversation"\nstall_idle = 1000000\n${agents}`);
  // its own loop, with a count of the sleeps between two ticks
  writeFileSync(join(dir, "count.py"), `import sys, pathlib\nsys.path.insert(0, ${JSON.stringify(dir)})\nimport agents\nticks = 0
def sleep(seconds):\n    global ticks\n    ticks += 1\n    pathlib.Path(${JSON.stringify(join(dir, "ticks"))}).write_text(str(ticks))
agents.time.sleep = sleep\nagents.watchdog_loop(${JSON.stringify(join(dir, "agents.toml"))})\n`);
  const before = cpuOf(server).own;
  const child = Bun.spawn(["python3", join(dir, "count.py")], { stdio: ["ignore", "ignore", "inherit"], env: process.env });
  await Bun.sleep(20_000);
  const ticks = Number(readFileSync(join(dir, "ticks"), "utf8"));
  const used = cpuOf(child.pid);
  const spent = used.own + used.children + cpuOf(server).own - before;
  child.kill();
  await child.exited;
  return spent / ticks;
}

/** MB in memory of a real watchdog after a thousand ticks, one behind the other, at its peak, and what of it is shared with every other Bun. */
async function memoryOf(cfg: Config, draw: () => Promise<unknown>): Promise<{ now: number; peak: number; shared: number }> {
  const config = join(cfg.planDir, "fast.toml");
  writeFileSync(config, cfg.source.replace("signal_interval = 30", "signal_interval = 0"));
  const child = Bun.spawn([...selfArgv(), "watchdog", "--config", config], { stdio: ["ignore", "ignore", "ignore"], env: process.env });
  const beat = () => statSync(join(cfg.stateDir, "heartbeat"), { throwIfNoEntry: false })?.mtimeMs;
  for (let [ticks, last] = [0, beat()]; ticks < 1000; await Bun.sleep(10)) {
    if (child.exitCode !== null) throw new Error("the watchdog ended");
    if (beat() === last) continue;
    [ticks, last] = [ticks + 1, beat()];
    await draw();
  }
  const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
  child.kill();
  await child.exited;
  const megabytes = (field: string) => (Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)![1]) * 1024) / 1e6;
  return { now: megabytes("VmRSS"), peak: megabytes("VmHWM"), shared: megabytes("RssFile") };
}

/** What a whole run of a program takes, ms, as medians: by the clock, and of the processor, its children included. */
interface Took { wall: number; cpu: number }
async function latency(argv: string[]): Promise<Took> {
  const [wall, cpu]: [number[], number[]] = [[], []];
  for (let i = 0; i < 15; i++) {
    const began = performance.now();
    const child = Bun.spawn(argv, { stdio: ["ignore", "ignore", "ignore"], env: process.env });
    await child.exited;
    wall.push(performance.now() - began);
    cpu.push(Number(child.resourceUsage()!.cpuTime.total) / 1000);
  }
  return { wall: quantile(wall, 0.5), cpu: quantile(cpu, 0.5) };
}

/** The same of `status`, by the script and by the executable; null = that was not built. */
async function statusCost(cfg: Config): Promise<{ script: Took; binary: Took | null }> {
  const binary = resolve(import.meta.dir, "../dist/agents");
  const words = ["status", "--config", cfg.path];
  return { script: await latency([...selfArgv(), ...words]), binary: existsSync(binary) ? await latency([binary, ...words]) : null };
}

/** The same while a watchdog runs that has found all agents at rest: `status` then reads no screen. */
async function supervisedStatus(cfg: Config): ReturnType<typeof statusCost> {
  const child = Bun.spawn([...selfArgv(), "watchdog", "--config", cfg.path], { stdio: ["ignore", "ignore", "ignore"], env: process.env });
  await Bun.sleep(95_000); // the third tick, and so more than a minute since anything was drawn
  const cost = await statusCost(cfg);
  child.kill();
  await child.exited;
  return cost;
}

/** What one size costs: the rows of the table, and the figures that something is promised of. */
interface Result {
  agents: number;
  rows: Record<string, string>;
  rest: Figures;
  work: Figures;
}
interface Figures {
  p99: number;
  perAgent: number;
  timesBare: number;
  /** How often cheaper than the original; null = not measured. */
  original: number | null;
  megabytes: number;
}

async function bench(size: number): Promise<Result> {
  const { cfg, up } = await makeFleet(size);
  try {
    const snap = await snapshot(cfg);
    const server = Number(snap.server.split(" ")[0]);
    const ids = [...snap.panes.values()].map((pane) => pane.id);
    const ttys = await world.tmux(["list-panes", "-a", "-F", "#{pane_tty}"]);
    const screens = ttys.out.trim().split("\n").map((tty) => openSync(tty, "w"));
    const draw = () => drawAll(server, screens);
    const settle = async () => {
      await drawAll(server, screens, false);
      await Bun.sleep(6_000); // so long tmux's own clock leaves it open whether something was drawn
    };
    const watch = freshWatch();
    world.log = () => {};
    const times = Number(values.ticks);
    await settle();
    for (let i = 0; i < 5; i++) await tick(cfg, watch);
    const rest = await measure(server, times, () => tick(cfg, watch));
    const work = await measure(server, times, () => tick(cfg, watch), draw);
    const naked = await measure(server, times, () => bare(cfg, ids));
    const asked = await measure(server, Math.max(2, Math.round(300 / size)), () => perQuestion(cfg));
    const original = values.original && size <= 100 ? await originalCost(cfg, resolve(values.original), server) : null;
    await settle();
    const resting = await memoryOf(cfg, async () => {});
    const supervised = await supervisedStatus(cfg);
    const working = await memoryOf(cfg, draw);
    for (const screen of screens) closeSync(screen);
    const figures = (cost: Cost, memory: { now: number }): Figures => ({
      p99: quantile(cost.wall, 0.99), perAgent: total(cost) / size, timesBare: total(cost) / total(naked),
      original: original && original / total(cost), megabytes: memory.now,
    });
    const both = (show: (cost: Cost) => string) => `${show(rest)} / ${show(work)}`;
    const each = (part: "own" | "children" | "server") => both((cost) => (cost[part] / cost.wall.length).toFixed(1));
    const unsupervised = await statusCost(cfg);
    const listing = await latency(["tmux", "list-panes", "-a", "-F", "#{pane_id} #{pane_dead} #{session_name}"]);
    const ms = ({ script, binary }: typeof supervised, of: keyof Took) => `${script[of].toFixed(0)} / ${binary === null ? "-" : binary[of].toFixed(0)}`;
    return {
      agents: size, rest: figures(rest, resting), work: figures(work, working),
      rows: {
        "tick ms p50": both(({ wall }) => quantile(wall, 0.5).toFixed(1)), "tick ms p99": both(({ wall }) => quantile(wall, 0.99).toFixed(1)),
        "CPU ms per tick": both((cost) => total(cost).toFixed(1)), "  ours": each("own"), "  tmux clients": each("children"), "  tmux server": each("server"),
        "CPU ms per agent and tick": both((cost) => (total(cost) / size).toFixed(3)),
        "processes per tick": both((cost) => cost.processes.toFixed(2)),
        "bare tmux work, CPU ms": total(naked).toFixed(1), "× bare": both((cost) => (total(cost) / total(naked)).toFixed(2)),
        "one process per question, CPU ms": total(asked).toFixed(0), "÷ per question": both((cost) => (total(asked) / total(cost)).toFixed(0)),
        "the original, CPU ms": original === null ? "-" : original.toFixed(0),
        "÷ original": original === null ? "-" : both((cost) => (original / total(cost)).toFixed(0)),
        "% of a core at a 30 s tick": both((cost) => ((total(cost) / 30_000) * 100).toFixed(2)),
        "watchdog RSS MB after 1,000 ticks": `${resting.now.toFixed(0)} / ${working.now.toFixed(0)}`,
        "  at its peak": `${resting.peak.toFixed(0)} / ${working.peak.toFixed(0)}`,
        "  of it shared with every other Bun": `${resting.shared.toFixed(0)} / ${working.shared.toFixed(0)}`,
        "status ms, script / binary": ms(supervised, "wall"), "  of it tmux": listing.wall.toFixed(0),
        "  its CPU ms, children included": ms(supervised, "cpu"), // other work on the machine changes it less
        "  without a watchdog, all screens read": ms(unsupervised, "wall"),
        "bun -e 0, ms": (await latency([process.execPath, "-e", "0"])).wall.toFixed(1),
        "up s": (up / 1000).toFixed(1),
      },
    };
  } finally {
    await world.tmux(["kill-server"]);
  }
}

/** What is promised of these figures, as far as this run measured it. */
function promises(results: Result[]): { promise: string; measured: string; met: "yes" | "NO" }[] {
  const [hundred, most] = [100, 400].map((size) => results.find((one) => one.agents === size));
  const said: { promise: string; measured: string; met: "yes" | "NO" }[] = [];
  const say = (promise: string, one: Result | undefined, figure: (figures: Figures) => number | null, holds: (value: number) => boolean) => {
    const pair = one ? [figure(one.rest), figure(one.work)] : [];
    const measured = pair.filter((value) => value !== null);
    if (measured.length) said.push({ promise, measured: measured.map((value) => value.toFixed(2)).join(" / "), met: measured.every(holds) ? "yes" : "NO" });
  };
  say("100 agents: at least 20 times less CPU than the original", hundred, (one) => one.original, (value) => value >= 20);
  say("100 agents: at most 2 times the bare tmux work", hundred, (one) => one.timesBare, (value) => value <= 2);
  say("400 agents: the slowest of a hundred ticks under 2,000 ms", most, (one) => one.p99, (value) => value < 2_000);
  say("400 agents: under 10 % of a core at a 30 s tick", most, (one) => (one.perAgent * 400) / 300, (value) => value < 10);
  say("400 agents: under 100 MB", most, (one) => one.megabytes, (value) => value < 100);
  if (hundred) say("an agent of 400 costs at most 1.25 times one of 100", most,
    (one) => one.perAgent / (one === most?.rest ? hundred.rest : hundred.work).perAgent, (value) => value <= 1.25);
  return said;
}

try {
  Bun.unsafe.setJITPolicy(RARELY_RUN); // as in the watchdog
  const results: Result[] = [];
  for (const size of values.sizes!.split(",").map(Number)) results.push(await bench(size));
  const said = promises(results);
  if (said.some(({ met }) => met === "NO")) process.exitCode = 1;
  if (values.json) console.log(JSON.stringify({ results, promises: said }, null, 2));
  else {
    Bun.unsafe.setJITPolicy(1);
    const began = performance.now();
    await longRun(SIMULATED);
    const simulated = (SIMULATED / (performance.now() - began)) * 1000;
    const sizes = results.map((one) => String(one.agents));
    const rows = Object.keys(results[0]!.rows).map((figure) =>
      ({ figure, ...Object.fromEntries(results.map((one) => [String(one.agents), one.rows[figure]])) }));
    const { size } = Bun.file(resolve(import.meta.dir, "../dist/agents"));
    const all = [...rows, { figure: "simulated ticks per second", [sizes[0]!]: simulated.toFixed(0) },
      { figure: "binary, MB", [sizes[0]!]: size ? (size / 1e6).toFixed(0) : "-" }];
    console.log(`at rest / at work\n${Bun.inspect.table(all, ["figure", ...sizes])}`);
    console.log(Bun.inspect.table(said, ["promise", "measured", "met"]));
  }
} finally {
  rmSync(ROOT, { recursive: true, force: true });
}
