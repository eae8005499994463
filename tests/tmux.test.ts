/** Sessions, panes, logs and launches on a real tmux server of each test's own. */
import { expect } from "bun:test";
import { chmodSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Fleet, life, lives, quote, real, SELF, TUI, until } from "./real.ts";

const pair = { agents: [{ name: "a1", prompt: "one" }, { name: "a10", prompt: "ten" }] };

const both = life(pair);

both("down of a1 leaves a10 alone, prefix of its name or not, and no text for a1 reaches it before", async (f) => {
  await f.up("a10");
  await f.ready("a10");
  const sent = await f.run(["send", "a1", "for a1 only", "--timeout", "4"]);
  expect([sent.code, sent.err]).toEqual([1, expect.stringContaining("not running")]);
  await f.up();
  await f.ready("a1");
  const ten = await f.pid("a10");
  expect((await f.run(["down", "a1"])).code).toBe(0);
  expect(await f.sessions()).toEqual(["t-a10", "t-watchdog"]);
  const again = await f.run(["down", "a1"]);
  expect([again.code, again.err]).toEqual([0, expect.stringContaining("a1: not running")]);
  await f.up("a1");
  await until(() => f.starts("a1").length === 2);
  expect(await f.pid("a10")).toBe(ten);
  expect(f.starts("a10")).toHaveLength(1);
  expect(f.bytes("a10")).toBe("");
});

const size = (f: Fleet) => f.tmux("display-message", "-p", "-t", "=t-a1:", "#{window_width}x#{window_height}");

both("up twice starts one client, of 200x50 (fault 45), and says that it runs already", async (f) => {
  const [pid, starts] = [await f.pid("a1"), f.starts("a1").length];
  const again = await f.up();
  expect(again.err).toContain("t-a1 already running");
  expect(again.err).toContain("watchdog already running");
  expect(await f.pid("a1")).toBe(pid);
  expect(f.starts("a1")).toHaveLength(starts);
  expect(await size(f)).toBe("200x50");
});

both("fault 43: a client that ended leaves its pane with its exit code", async (f) => {
  const starts = f.starts("a1").length;
  f.control("a1", "exit 7");
  await until(async () => (await f.tmux("list-panes", "-t", "=t-a1", "-F", "#{pane_dead} #{pane_dead_status}")) === "1 7", 8_000, 250);
  expect((await f.states()).of.a1).toBe("ended (exit 7)");
  f.control("a1", "idle");
  await f.up("a1");
  await until(() => f.starts("a1").length === starts + 1);
});

both("a session of somebody else with a like name is never touched", async (f) => {
  await f.tmux("new-session", "-d", "-s", "t-a1-notes", "cat");
  await f.tmux("new-session", "-d", "-s", "x-t-a1", "cat");
  await f.up();
  await f.run(["down"]);
  expect(await f.sessions()).toEqual(["t-a1-notes", "x-t-a1"]);
  expect((await f.run(["status"])).out).toContain("sessions not in the config: t-a1-notes");
});

real("two ups at once start one client of each agent, of cols and rows, and leave the logging on, once (fault 28)", { ...pair, defaults: { cols: 132, rows: 43 } }, async (f) => {
  const both = await Promise.all([f.run(["up"]), f.run(["up"])]);
  await f.ready("a1", "a10");
  await f.ticks(2);
  expect([f.starts("a1").length, f.starts("a10").length]).toEqual([1, 1]);
  expect(both).toEqual([expect.objectContaining({ code: 0 }), expect.objectContaining({ code: 0 })]);
  expect(JSON.parse(f.read(".agents/state/operator.json"))).toMatchObject({ busy: {}, owners: {} });
  expect(await size(f)).toBe("132x43");
  for (const name of ["a1", "a10"]) expect(await f.tmux("display-message", "-p", "-t", `=t-${name}:`, "#{pane_pipe}")).toBe("1");
  await f.run(["send", "a1", "a-word-for-the-log"]);
  await until(() => f.read(".agents/t-a1.log").includes("a-word-for-the-log"));
  expect(f.processes().filter(({ command }) => command.trim() === "cat")).toHaveLength(2);
  expect(statSync(f.path(".agents", "t-a1.log")).mode & 0o077).toBe(0);
});

const ITS = { PATH: "its 'bin", SHELL: "/its/own" };
/** Each of these tests has an agent of its own in one fleet. */
const apart = life({
  agents: [{ name: "a1", watch: "heal" }, { name: "b1", watch: "heal" }, { name: "c1", watch: "heal", backend: "its" }, { name: "d1", watch: "heal+stall", dir: "work" }],
  watchdog: { log_max_mb: 0.01 },
}, async (f) => {
  f.write("work/.keep", "");
  const program = (name: string, does: string) => chmodSync(f.write(`${ITS.PATH}/${name}`, `#!/bin/sh\nexec ${does}\n`), 0o755);
  program("klaude", `${TUI} "$@"`);
  program("serve", "sleep 1000");
  const env = { ...ITS, PATH: `${f.path(ITS.PATH)}:/usr/bin:/bin` };
  const agents = f.plan.agents!.map((agent) => (agent.name === "c1" ? { ...agent, env } : agent));
  f.write("agents.toml", f.text({ ...f.plan, agents, services: [{ name: "web", command: "exec serve", env }], toml: '[backend.its]\nkind = "claude"\nbin = "klaude"\n' }));
  f.control("a1", "busy"); // it draws all the while
  await f.up();
  await f.ready("a1", "b1", "c1", "d1");
});

apart("PATH and SHELL in env are those of the agent or service, whoever starts it: a first up, a later one from elsewhere, the watchdog", async (f) => {
  const env = { ...ITS, PATH: `${f.path(ITS.PATH)}:/usr/bin:/bin` };
  const has = async (name: string) => {
    const variables = new Map(readFileSync(`/proc/${await f.pid(name)}/environ`, "utf8").split("\0").map((one) => [one.split("=", 1)[0]!, one.replace(/^[^=]*=/, "")]));
    return { PATH: variables.get("PATH"), SHELL: variables.get("SHELL") };
  };
  expect([await has("c1"), await has("web")]).toEqual([env, env]);
  expect((await f.run(["restart", "c1"], { env: { PATH: `${f.env.PATH}:/elsewhere` } })).code).toBe(0);
  await until(() => f.starts("c1").length === 2);
  expect(await has("c1")).toEqual(env);
  process.kill(await f.pid("c1"), "SIGKILL");
  await until(() => f.starts("c1").length === 3);
  expect(await has("c1")).toEqual(env);
});

apart("a log over its cap is rotated once and goes on", async (f) => {
  await until(() => existsSync(f.path(".agents", "t-a1.log.1")));
  const size = () => statSync(f.path(".agents", "t-a1.log")).size;
  const before = await until(size);
  await until(() => size() !== before);
  f.control("a1", "idle");
});

apart("a pane whose logging stopped is logged again (fault 28), and a log that somebody removed is written again", async (f) => {
  await f.tmux("pipe-pane", "-t", "=t-b1:");
  await until(async () => (await f.tmux("display-message", "-p", "-t", "=t-b1:", "#{pane_pipe}")) === "1", 8_000, 250);
  const log = f.path(".agents/t-b1.log");
  await until(() => existsSync(log));
  rmSync(log);
  await until(() => existsSync(log));
  f.control("b1", "busy");
  await until(() => readFileSync(log, "utf8").length > 0);
  f.control("b1", "idle");
});

apart("a client whose folder is removed while it runs needs a person, who restarts it", async (f) => {
  await f.ticks(2);
  rmSync(f.path("work"), { recursive: true });
  await until(() => f.events("blocked").some(({ why }) => String(why).startsWith("its folder was removed")));
  f.write("work/.keep", ""); // another one of the same name: its client is still in the old one
  await f.ticks(2);
  expect(await f.states()).toMatchObject({ code: 3, of: { d1: expect.stringContaining("blocked") } });
  expect(await f.run(["restart", "d1"])).toMatchObject({ code: 0 });
  await f.ticks(2);
  expect((await f.states()).of.d1).not.toContain("blocked");
});

// ── where a text goes while a person works in the same session ──────────────────

/** A shell of a person, which notes what is typed into it. */
const person = (f: Fleet) => `cat > '${f.path("person").replaceAll("'", "'\\''")}'`;

/** What a person does in the session of an agent, by the agent's name. */
const PEOPLE: Record<string, (f: Fleet, at: string) => Promise<unknown>> = {
  second: (f, at) => f.tmux("new-window", "-t", at, person(f)),
  split: (f, at) => f.tmux("split-window", "-t", at, person(f)),
  first: (f, at) => f.tmux("split-window", "-b", "-t", at, person(f)),
  together: async (f, at) => {
    await f.tmux("split-window", "-t", at, person(f));
    await f.tmux("set-option", "-w", "-t", at, "synchronize-panes", "on");
  },
  copying: (f, at) => f.tmux("copy-mode", "-t", at),
  renamed: (f, at) => f.tmux("rename-session", "-t", at.slice(0, -1), "mine"),
};
const VISITED = Object.keys(PEOPLE);
const typed = life({ agents: ["a1", ...VISITED].map((name) => ({ name, watch: "heal" })) });

typed("fault 9: a text waits behind a dialog, and nothing approves it", async (f) => {
  await f.up();
  await f.ready("a1", ...VISITED);
  f.control("a1", "dialog");
  await until(async () => (await f.screen("a1")).includes("Esc to cancel"), 8_000, 250);
  const sent = await f.run(["send", "a1", "yes", "--timeout", "4"]);
  expect([sent.code, sent.err]).toEqual([1, expect.stringContaining("blocked")]);
  expect(f.bytes("a1")).toBe("");
  expect((await f.run(["status"])).code).toBe(3);
  f.control("a1", "idle");
  expect((await f.run(["send", "a1", "now"])).code).toBe(0);
  expect([f.submits("a1"), f.approvals("a1")]).toEqual([["now"], 0]);
});

typed("fault 61: any text arrives whole, once: a last ; quotes, many lines, 3,000 and 20,000 characters; a person's draft is waited out, never merged", async (f) => {
  const told = f.submits("a1").length;
  const submits = () => f.submits("a1").slice(told);
  const long = "x".repeat(1_000).concat(" y".repeat(1_000));
  const texts = ["ends with ;", "it's \"quoted\" $HOME `id` #{pid} %d \\ é 日本", "- a list\n- of two lines\n\n/not a command", long];
  for (const text of texts) expect((await f.run(["send", "a1", "-"], { stdin: text })).code).toBe(0);
  expect(submits()).toEqual(texts);
  const huge = "0123456789".repeat(2_000);
  expect((await f.run(["send", "a1", "-"], { stdin: huge })).code).toBe(0);
  const last = submits().at(-1)!;
  expect(last).toContain("message-");
  expect(submits()).toHaveLength(5);

  await f.tmux("send-keys", "-t", "=t-a1:", "-l", "half a thou");
  await until(async () => (await f.screen("a1")).includes("half a thou"), 8_000, 250);
  const said = f.log.length;
  const waiting = f.run(["send", "a1", "the ping"]);
  await until(() => f.log.slice(said).includes("draft"));
  expect(submits()).toHaveLength(5);
  await f.tmux("send-keys", "-t", "=t-a1:", "-l", "ght");
  await f.tmux("send-keys", "-t", "=t-a1:", "Enter");
  expect((await waiting).code).toBe(0);
  expect(submits().slice(5)).toEqual(["half a thought", "the ping"]);
});

typed("faults 9 and 10: a second window is active, the window is split, the other pane is its first, the keys of one pane go to all, copy-mode is on, the session was renamed: the text reaches the agent and nobody else", async (f) => {
  const texts = ["touch /tmp/executed; echo `date`", "a second one"];
  await Promise.all(Object.entries(PEOPLE).map(async ([name, visit]) => {
    await visit(f, `=t-${name}:`);
    for (const text of texts) expect([name, await f.run(["send", name, text])]).toEqual([name, { code: 0, out: `delivered to ${name}\n`, err: "" }]);
    expect([name, f.submits(name), f.read("person")]).toEqual([name, texts, ""]);
  }));
  // a renamed session is still the agent's: no second client
  await f.ticks(2);
  expect(VISITED.map((name) => f.starts(name).length)).toEqual(VISITED.map(() => 1));
  // and a person's second window keeps nothing alive
  const pid = await f.pid("second");
  process.kill(pid, "SIGKILL");
  await until(() => f.starts("second").length === 2);
  expect([lives(pid), f.submits("second"), f.read("person")]).toEqual([false, texts, ""]);
});

// ── beside what else runs there ──────────────────────────────────────────────────

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

/** A client that is there at once and costs nothing: what is under test is how many of it start, and when. */
const SLEEPERS = (count: number) => ({
  defaults: { backend: "sleeper" }, toml: '[backend.sleeper]\nkind = "typed"\nbin = "sleep 1000"\n',
  agents: Array.from({ length: count }, (_, nth) => ({ name: `a${nth}` })),
});

real("up starts start_batch clients at a time, a line each in a pipe", { ...SLEEPERS(6), watchdog: { start_batch: 2 } }, async (f) => {
  const ran = await f.up(...f.plan.agents!.map(({ name }) => name));
  expect(ran.err.match(/starting t-a\d+ /g)).toHaveLength(6);
  expect(ran.err).not.toMatch(/[█·\r]/);
  const at = f.events("start").map((event) => Date.parse(String(event.at)));
  expect(at).toHaveLength(6);
  // the event is written once the session is there, the pause is counted from then
  expect(at.slice(2).map((time, nth) => time - at[nth]! >= 990)).toEqual(Array(4).fill(true));
});

real("up of many agents shows a bar on a terminal, of 80 columns too, and who failed below it", { ...SLEEPERS(18), watchdog: { start_batch: 18 } }, async (f) => {
  f.write("agents.toml", `${f.text()}[[agent]]\nname = "broken"\ndir = "nowhere"\n[[agent]]\nname = "dies"\nbackend = "short"\n[backend.short]\nkind = "typed"\nbin = "false"\n`);
  const words = [...SELF, "up", "--config", f.config].map(quote).join(" ");
  await f.tmux("new-session", "-d", "-s", "terminal", "-x", "80", "-y", "24", `${words}; echo "exit $?"; sleep 1000`);
  const shown = () => f.tmux("capture-pane", "-p", "-t", "=terminal:");
  await until(async () => /^exit \d/m.test(await shown()), 30_000);
  const lines = (await shown()).split("\n").filter(Boolean);
  expect(lines.map((line) => line.replace(/^\[agents [^\]]*\] /, ""))).toEqual([
    "starting watchdog", `18/20 [${"█".repeat(27)}···] running`, expect.stringContaining("broken: dir "), ...lines.slice(3, -2), "dies: its client ended (exit 1)", "exit 1",
  ]);
  expect(await f.pid("a17")).toBeGreaterThan(0);
});

real("where tmux cannot go to the folder of a client, that starts nowhere else", {
  agents: [{ name: "a1", dir: "work" }], backend: { preamble: "pwd >> \"$TUI_LEDGER.folder\"" }, watchdog: { up_wait: 10 },
}, async (f) => {
  f.write("work/.keep", "");
  // gone between the look for it and the start, as a worktree that is removed just then
  writeFileSync(join(f.tmuxDir, "hook"), `mv ${quote(f.path("work"))} ${quote(f.path("away"))}\n`);
  f.write("home/.tmux.conf", `set-hook -g after-new-session "run-shell 'sh ${f.tmuxDir}/hook'"\n`);
  const up = await f.run(["up", "a1"]);
  expect([up.code, up.err, f.read("ledger-a1.folder")]).toEqual([1, expect.stringMatching(/a1: its client ended \(exit 1\):\n.*cd: .*work: No such file/), ""]);
});
