/** Sessions, panes, logs and launches on a real tmux server of each test's own. */
import { expect } from "bun:test";
import { existsSync, mkdirSync, readFileSync, readlinkSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { lives, quote, real, SELF, TUI, until } from "./real.ts";

const pair = { agents: [{ name: "a1", prompt: "one" }, { name: "a10", prompt: "ten" }] };

real("down of a1 leaves a10 alone, prefix of its name or not", pair, async (f) => {
  await f.up();
  await f.ready("a1", "a10");
  const ten = await f.pid("a10");
  expect((await f.run(["down", "a1"])).code).toBe(0);
  expect(await f.sessions()).toEqual(["t-a10", "t-watchdog"]);
  const again = await f.run(["down", "a1"]);
  expect([again.code, again.err]).toEqual([0, expect.stringContaining("a1: not running")]);
  await f.up("a1");
  expect(await f.pid("a10")).toBe(ten);
  expect(f.starts("a10")).toHaveLength(1);
  expect(f.bytes("a10")).toBe("");
});

real("a text for a1 does not reach a10 while a1 is down", pair, async (f) => {
  await f.up("a10");
  await f.ready("a10");
  const sent = await f.run(["send", "a1", "for a1 only", "--timeout", "4"]);
  expect([sent.code, sent.err]).toEqual([1, expect.stringContaining("not running")]);
  expect(f.bytes("a10")).toBe("");
});

real("up twice starts one client and says that it runs already", { agents: [{ name: "a1" }] }, async (f) => {
  await f.up();
  await f.ready("a1");
  const pid = await f.pid("a1");
  const again = await f.up();
  expect(again.err).toContain("t-a1 already running");
  expect(again.err).toContain("watchdog already running");
  expect(await f.pid("a1")).toBe(pid);
  expect(f.starts("a1")).toHaveLength(1);
});

real("two ups at once start one client of each agent", pair, async (f) => {
  const both = await Promise.all([f.run(["up"]), f.run(["up"])]);
  await f.ready("a1", "a10");
  await f.ticks(2);
  expect([f.starts("a1").length, f.starts("a10").length]).toEqual([1, 1]);
  expect(both).toEqual([expect.objectContaining({ code: 0 }), expect.objectContaining({ code: 0 })]);
});

real("fault 28: two ups at once leave the logging on, once", { agents: [{ name: "a1" }] }, async (f) => {
  await Promise.all([f.run(["up"]), f.run(["up"])]);
  await f.ready("a1");
  expect(await f.tmux("display-message", "-p", "-t", "=t-a1:", "#{pane_pipe}")).toBe("1");
  await f.run(["send", "a1", "a-word-for-the-log"]);
  await until(() => f.read(".agents/t-a1.log").includes("a-word-for-the-log"));
  expect(f.processes().filter(({ command }) => command.trim() === "cat")).toHaveLength(1);
  expect(statSync(f.path(".agents", "t-a1.log")).mode & 0o077).toBe(0);
});

real("fault 28: a pane whose logging stopped is logged again", { agents: [{ name: "a1", watch: "heal" }] }, async (f) => {
  await f.up();
  await f.tmux("pipe-pane", "-t", "=t-a1:");
  await until(async () => (await f.tmux("display-message", "-p", "-t", "=t-a1:", "#{pane_pipe}")) === "1");
});

real("a log over its cap is rotated once and goes on", { agents: [{ name: "a1", watch: "heal" }], watchdog: { log_max_mb: 0.01 } }, async (f) => {
  f.control("a1", "busy"); // it draws all the while
  await f.up();
  await until(() => existsSync(f.path(".agents", "t-a1.log.1")));
  const size = () => statSync(f.path(".agents", "t-a1.log")).size;
  const before = await until(size);
  await until(() => size() !== before);
});

real("a log that somebody removed is written again", { agents: [{ name: "a1", watch: "heal" }] }, async (f) => {
  await f.up();
  await f.ready("a1");
  const log = f.path(".agents/t-a1.log");
  await until(() => existsSync(log));
  rmSync(log);
  await until(() => existsSync(log));
  f.control("a1", "busy");
  await until(() => readFileSync(log, "utf8").length > 0);
});

real("fault 45: a detached session is 200x50", { agents: [{ name: "a1" }] }, async (f) => {
  await f.up();
  expect(await f.tmux("display-message", "-p", "-t", "=t-a1:", "#{window_width}x#{window_height}")).toBe("200x50");
});

real("cols and rows set the size", { agents: [{ name: "a1" }], defaults: { cols: 132, rows: 43 } }, async (f) => {
  await f.up();
  expect(await f.tmux("display-message", "-p", "-t", "=t-a1:", "#{window_width}x#{window_height}")).toBe("132x43");
});

real("fault 43: a client that ended leaves its pane with its exit code", { agents: [{ name: "a1" }] }, async (f) => {
  await f.up();
  await f.ready("a1");
  f.control("a1", "exit 7");
  await until(async () => (await f.tmux("list-panes", "-t", "=t-a1", "-F", "#{pane_dead} #{pane_dead_status}")) === "1 7");
  expect((await f.states()).of.a1).toBe("ended (exit 7)");
  f.control("a1", "idle");
  await f.up("a1");
  await until(() => f.starts("a1").length === 2);
});

// ── where a text goes while a person works in the same session ──────────────────

/** A shell of a person, which notes what is typed into it. */
const person = (f: { path(name: string): string }) => `cat > '${f.path("person").replaceAll("'", "'\\''")}'`;
const watched = { agents: [{ name: "a1", watch: "heal" }] };

for (const [what, fault, prepare] of [
  ["a second window is open and active", 10, (f) => f.tmux("new-window", "-t", "=t-a1:", person(f))],
  ["the window is split and the other pane is active", 10, (f) => f.tmux("split-window", "-t", "=t-a1:", person(f))],
  ["the other pane is the first of the window", 10, (f) => f.tmux("split-window", "-b", "-t", "=t-a1:", person(f))],
  ["the keys of one pane go to all of its window", 10, async (f) => {
    await f.tmux("split-window", "-t", "=t-a1:", person(f));
    await f.tmux("set-option", "-w", "-t", "=t-a1:", "synchronize-panes", "on");
  }],
  ["copy-mode is on", 9, (f) => f.tmux("copy-mode", "-t", "=t-a1:")],
  ["the session was renamed", 10, (f) => f.tmux("rename-session", "-t", "=t-a1", "mine")],
] as [string, number, (f: Parameters<Parameters<typeof real>[2]>[0]) => Promise<unknown>][]) {
  real(`fault ${fault}: ${what}: the text reaches the agent and nobody else`, watched, async (f) => {
    await f.up();
    await f.ready("a1");
    await prepare(f);
    const texts = ["touch /tmp/executed; echo `date`", "a second one"];
    for (const text of texts) {
      const sent = await f.run(["send", "a1", text]);
      expect(sent).toEqual({ code: 0, out: "delivered to a1\n", err: "" });
    }
    expect(f.submits("a1")).toEqual(texts);
    expect(f.read("person")).toBe("");
    // a renamed session is still the agent's: no second client
    await f.ticks(2);
    expect(f.starts("a1")).toHaveLength(1);
  });
}

real("fault 10: a person's second window keeps nothing alive: the dead agent is healed", watched, async (f) => {
  await f.up();
  await f.ready("a1");
  const pid = await f.pid("a1");
  await f.tmux("new-window", "-t", "=t-a1:", person(f));
  process.kill(pid, "SIGKILL");
  await until(() => f.starts("a1").length === 2);
  expect(lives(pid)).toBe(false);
});

real("fault 61: any text arrives whole, once: a last ; quotes, many lines, 3,000 and 20,000 characters", watched, async (f) => {
  await f.up();
  await f.ready("a1");
  const long = "x".repeat(1_000).concat(" y".repeat(1_000));
  const texts = ["ends with ;", "it's \"quoted\" $HOME `id` #{pid} %d \\ é 日本", "- a list\n- of two lines\n\n/not a command", long];
  for (const text of texts) expect((await f.run(["send", "a1", "-"], { stdin: text })).code).toBe(0);
  expect(f.submits("a1")).toEqual(texts);
  const huge = "0123456789".repeat(2_000);
  expect((await f.run(["send", "a1", "-"], { stdin: huge })).code).toBe(0);
  const last = f.submits("a1").at(-1)!;
  expect(last).toContain("message-");
  expect(f.submits("a1")).toHaveLength(5);
});

real("fault 9: a text waits behind a dialog, and nothing approves it", watched, async (f) => {
  await f.up();
  await f.ready("a1");
  f.control("a1", "dialog");
  await until(async () => (await f.screen("a1")).includes("Esc to cancel"));
  const sent = await f.run(["send", "a1", "yes", "--timeout", "4"]);
  expect([sent.code, sent.err]).toEqual([1, expect.stringContaining("blocked")]);
  expect(f.bytes("a1")).toBe("");
  expect((await f.run(["status"])).code).toBe(3);
  f.control("a1", "idle");
  expect((await f.run(["send", "a1", "now"])).code).toBe(0);
  expect([f.submits("a1"), f.approvals("a1")]).toEqual([["now"], 0]);
});

real("a person's draft is waited out, never merged", watched, async (f) => {
  await f.up();
  await f.ready("a1");
  await f.tmux("send-keys", "-t", "=t-a1:", "-l", "half a thou");
  await until(async () => (await f.screen("a1")).includes("half a thou"));
  const waiting = f.run(["send", "a1", "the ping"]);
  await until(() => f.log.includes("draft"));
  expect(f.submits("a1")).toEqual([]);
  await f.tmux("send-keys", "-t", "=t-a1:", "-l", "ght");
  await f.tmux("send-keys", "-t", "=t-a1:", "Enter");
  expect((await waiting).code).toBe(0);
  expect(f.submits("a1")).toEqual(["half a thought", "the ping"]);
});

// ── launches ────────────────────────────────────────────────────────────────────

real("fault 41: a dir that does not exist is an error that names the agent; nothing is made, the others start", {
  agents: [{ name: "a1", dir: "no/such dir" }, { name: "b1" }],
}, async (f) => {
  const ran = await f.run(["up"]);
  expect(ran.code).toBe(1);
  expect(ran.err).toMatch(/a1: dir .*no\/such dir does not exist/);
  expect(existsSync(f.path("no"))).toBe(false);
  await f.ready("b1");
  expect(await f.sessions()).toEqual(["t-b1", "t-watchdog"]);
});

const ODD = `we ird'\$HOME#{pid}%d "x"`;

real("fault 39: paths, models and prompts of any letters reach the client as they stand", {
  agents: [
    { name: "a1", dir: ODD, model: `o'p"u$s #S %d \`id\`;`, prompt: `--help "it's" $HOME \`id\` #{pid} %d;\nsecond\tline\n` },
    { name: "b1", prompt: "-x", env: { ODD: `v'"$HOME #S;` } },
    { name: "c1", prompt: "" },
  ],
}, async (f) => {
  mkdirSync(f.path(ODD));
  await f.up();
  await f.ready("a1", "b1", "c1");
  const [one] = f.plan.agents!;
  // "$(cat)" drops the last newline, as a shell does
  expect(f.starts("a1")).toEqual([["tui", "--model", one!.model as string, "--", (one!.prompt as string).trimEnd()]]);
  expect(f.starts("b1")).toEqual([["tui", "--", "-x"]]);
  expect(f.starts("c1")).toEqual([["tui"]]);
  expect(readlinkSync(`/proc/${await f.pid("a1")}/cwd`)).toBe(f.path(ODD));
  expect(readFileSync(`/proc/${await f.pid("b1")}/environ`, "utf8").split("\0")).toContain(`ODD=v'"$HOME #S;`);
  // the client is the pane's own process: no shell stays between
  expect(f.ledger("a1")[0]!.pid).toBe(await f.pid("a1"));
});

real("fault 39: a prompt of 90 KB is an argument, one of 150 KB a file to read", {
  agents: [{ name: "a1", prompt_file: "long.md" }, { name: "b1", prompt_file: "longer.md" }],
}, async (f) => {
  const texts = [90_000, 150_000].map((size) => `begin ${"é $x ' ".repeat(size / 8)} end`);
  f.write("long.md", texts[0]!);
  f.write("longer.md", texts[1]!);
  await f.up();
  await f.ready("a1", "b1");
  expect(f.starts("a1")[0]!.at(-1) === texts[0]).toBe(true);
  const told = f.starts("b1")[0]!.at(-1)!;
  const kickoff = join(f.state, "kickoff-t-b1.txt");
  expect(told).toContain(kickoff);
  expect(readFileSync(kickoff, "utf8") === texts[1]).toBe(true);
  expect(statSync(kickoff).mode & 0o077).toBe(0);
});

real("fault 36: a one-off model reaches its launch, and neither the server, the other agents nor the watchdog", {
  agents: [{ name: "a-1", model: "usual", watch: "heal" }, { name: "b1", watch: "heal" }],
}, async (f) => {
  const env = { AGENT_MODEL_a_1: "one-off", AGENT_BACKEND_zz: "x", BUN_OPTIONS: "--smol" };
  expect((await f.run(["up"], { env })).code).toBe(0);
  await f.ready("a-1", "b1");
  expect(f.starts("a-1")).toEqual([["tui", "--model", "one-off"]]);
  expect(await f.tmux("show-environment", "-g")).not.toMatch(/AGENT_MODEL|AGENT_BACKEND|BUN_OPTIONS/);
  for (const { pid, command } of f.processes()) {
    if (lives(pid)) expect([command, readFileSync(`/proc/${pid}/environ`, "utf8")]).toEqual([command, expect.not.stringMatching(/AGENT_MODEL|BUN_OPTIONS/)]);
  }
  await f.ticks(3);
  expect(f.starts("a-1")).toHaveLength(1);
  // the next start by the watchdog is by the file again
  process.kill(await f.pid("a-1"), "SIGKILL");
  await until(() => f.starts("a-1").length === 2);
  expect(f.starts("a-1")[1]).toEqual(["tui", "--model", "usual"]);
});

real("what a git hook or a client that calls up sets for its own children reaches no agent, whoever started the server", {
  agents: [{ name: "a1" }], env: { CLAUDECODE: "1", GIT_INDEX_FILE: "/nowhere", GIT_NAMESPACE: "other" },
}, async (f) => {
  const leaked = (pid: number) => readFileSync(`/proc/${pid}/environ`, "utf8").split("\0").filter((one) => /^(CLAUDECODE|GIT_INDEX_FILE|GIT_NAMESPACE)=/.test(one));
  await f.up();
  await f.ready("a1");
  expect([leaked(await f.serverPid()), leaked(await f.pid("a1"))]).toEqual([[], []]);
  for (const name of ["CLAUDECODE", "GIT_INDEX_FILE"]) await f.tmux("set-environment", "-g", name, "1");
  expect((await f.run(["restart", "a1"])).code).toBe(0);
  expect(leaked(await f.pid("a1"))).toEqual([]);
});

real("fault 36: a one-off backend runs until the agent is started again, and is no mismatch", {
  agents: [{ name: "a1", watch: "heal" }],
  toml: `[backend.other]\nkind = "claude"\nbin = ${JSON.stringify(`${TUI} other`)}\n`,
}, async (f) => {
  expect((await f.run(["up"], { env: { AGENT_BACKEND_a1: "other" } })).code).toBe(0);
  await f.ready("a1");
  await f.ticks(3);
  expect(f.starts("a1")).toEqual([["tui", "other"]]);
});

real("a backend that changes in the file is a restart on the new one", {
  agents: [{ name: "a1", watch: "heal" }],
  toml: `[backend.other]\nkind = "claude"\nbin = ${JSON.stringify(`${TUI} other`)}\n`,
}, async (f) => {
  await f.up();
  await f.ready("a1");
  f.write("agents.toml", f.text({ ...f.plan, agents: [{ name: "a1", watch: "heal", backend: "other" }] }));
  await until(() => f.starts("a1").length === 2);
  expect(f.starts("a1")[1]).toEqual(["tui", "other"]);
});

real("the operator's preamble runs first, in the pane's shell", {
  agents: [{ name: "a1", env: { A: "1" } }], backend: { preamble: `export FROM="preamble $A"` },
}, async (f) => {
  await f.up();
  await f.ready("a1");
  expect(readFileSync(`/proc/${await f.pid("a1")}/environ`, "utf8").split("\0")).toContain("FROM=preamble 1");
});

real("no code and no setting of the folder it is called in, or of an agent's folder, reaches the program", {
  agents: [{ name: "a1", dir: "hostile", watch: "heal" }],
}, async (f) => {
  const folder = f.path("hostile");
  f.write("hostile/bunfig.toml", 'preload = ["./evil.ts"]\n');
  f.write("hostile/evil.ts", `require("fs").writeFileSync(${JSON.stringify(f.path("executed"))}, "x")\n`);
  f.write("hostile/.env", "AGENT_MODEL_a1=from-dot-env\nTUI_SCRIPT=builder\n");
  f.write("hostile/tsconfig.json", "{ broken");
  expect((await f.run(["up"], { cwd: folder })).code).toBe(0);
  await f.ready("a1");
  expect((await f.run(["send", "a1", "hello"], { cwd: folder })).code).toBe(0);
  expect((await f.run(["status"], { cwd: folder })).code).toBe(0);
  expect([f.starts("a1"), existsSync(f.path("executed"))]).toEqual([[["tui"]], false]);
});

real("tmux_socket picks another server, and the default one is not touched", {
  agents: [{ name: "a1" }], defaults: { tmux_socket: "other" },
}, async (f) => {
  try {
    await f.up();
    await f.ready("a1");
    expect(await f.sessions()).toEqual([]);
    expect(await f.tmux("-L", "other", "list-sessions", "-F", "#{session_name}")).toBe("t-a1\nt-watchdog");
    expect((await f.run(["down"])).code).toBe(0);
  } finally {
    await f.tmux("-L", "other", "kill-server").catch(() => "");
  }
});

real("a session of somebody else with a like name is never touched", { agents: [{ name: "a1" }] }, async (f) => {
  await f.tmux("new-session", "-d", "-s", "t-a1-notes", "cat");
  await f.tmux("new-session", "-d", "-s", "x-t-a1", "cat");
  await f.up();
  await f.run(["down"]);
  expect(await f.sessions()).toEqual(["t-a1-notes", "x-t-a1"]);
  expect((await f.run(["status"])).out).toContain("sessions not in the config: t-a1-notes");
});

/** A client that is there at once and costs nothing: what is under test is how many of it start, and when. */
const SLEEPERS = (count: number) => ({
  defaults: { backend: "sleeper" }, toml: '[backend.sleeper]\nkind = "typed"\nbin = "sleep 1000"\n',
  agents: Array.from({ length: count }, (_, nth) => ({ name: `a${nth}` })),
});

real("up starts start_batch clients at a time, a line each in a pipe", { ...SLEEPERS(12), watchdog: { start_batch: 4 } }, async (f) => {
  const ran = await f.up();
  expect(ran.err.match(/starting t-a\d+ /g)).toHaveLength(12);
  expect(ran.err).not.toMatch(/[█·\r]/);
  const at = f.events("start").map((event) => Date.parse(String(event.at)));
  expect(at).toHaveLength(12);
  // the event is written once the session is there, the pause is counted from then
  expect(at.slice(4).map((time, nth) => time - at[nth]! >= 990)).toEqual(Array(8).fill(true));
});

real("up of many agents shows a bar on a terminal, of 80 columns too, and who failed below it", { ...SLEEPERS(24), watchdog: { start_batch: 24 } }, async (f) => {
  f.write("agents.toml", `${f.text()}[[agent]]\nname = "broken"\ndir = "nowhere"\n[[agent]]\nname = "dies"\nbackend = "short"\n[backend.short]\nkind = "typed"\nbin = "false"\n`);
  const words = [...SELF, "up", "--config", f.config].map(quote).join(" ");
  await f.tmux("new-session", "-d", "-s", "terminal", "-x", "80", "-y", "24", `${words}; echo "exit $?"; sleep 1000`);
  const shown = () => f.tmux("capture-pane", "-p", "-t", "=terminal:");
  await until(async () => /^exit \d/m.test(await shown()), 30_000);
  const lines = (await shown()).split("\n").filter(Boolean);
  expect(lines.map((line) => line.replace(/^\[agents [^\]]*\] /, ""))).toEqual([
    "starting watchdog", `24/26 [${"█".repeat(28)}··] running`, expect.stringContaining("broken: dir "), ...lines.slice(3, -2), "dies: its client ended (exit 1)", "exit 1",
  ]);
  expect(await f.pid("a23")).toBeGreaterThan(0);
});
