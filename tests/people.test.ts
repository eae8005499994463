/** What people type to look after a fleet: report, doctor, init, completion, unit. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import {
  type AgentEvent, type AgentReport, COMMANDS, completionsOf, configWith, type Finding, judgeClock, judgeDisk, judgeLocale, judgeScope,
  judgeTmux, loadConfig, longestGap, parseEvents, parseSince, preferBackend, type Report, reportText, summariseEvents, unitText, unitWord,
  wasTried, withoutClient,
} from "../agents.ts";

const ROOT = resolve(import.meta.dir, "..");
const PROGRAM = process.env.AGENTS_BIN
  ? [resolve(process.env.AGENTS_BIN)]
  : [process.execPath, "--no-env-file", "--config=/dev/null", join(ROOT, "agents.ts")];
const scratch = mkdtempSync(join(tmpdir(), "agents-people-"));
const bin = join(scratch, "bin");
/** Nothing of this machine: its clients, its zone, its tmux server. */
const ENV = {
  PATH: `${bin}:/usr/local/bin:/usr/bin:/bin`, HOME: scratch, TMUX_TMPDIR: scratch, LANG: "C.UTF-8", TZ: "UTC", TERM: "xterm-256color",
};
const MINUTE = 60_000;
const DAY = Date.parse("2026-03-01T00:00:00Z");
const at = (clock: string): string => `2026-03-01T${clock}:00.000Z`;

beforeAll(() => {
  mkdirSync(bin);
  for (const name of ["agents", "agents.ts"]) script(name, `exec ${PROGRAM.map((word) => `'${word}'`).join(" ")} "$@"`);
});
afterAll(() => {
  Bun.spawnSync(["tmux", "-L", "people", "kill-server"], { env: ENV });
  rmSync(scratch, { recursive: true });
});

function script(name: string, body: string): void {
  writeFileSync(join(bin, name), `#!/bin/sh\n${body}\n`);
  chmodSync(join(bin, name), 0o755);
}

function call(args: string[], env: Record<string, string> = {}): { code: number; out: string; err: string } {
  const ran = Bun.spawnSync([...PROGRAM, ...args], { env: { ...ENV, ...env }, cwd: scratch, timeout: 20_000 });
  return { code: ran.exitCode ?? -1, out: String(ran.stdout), err: String(ran.stderr) };
}

/** A folder with an agents.toml; its path. */
function fleet(name: string, toml: string): string {
  const dir = join(scratch, name);
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "agents.toml"), toml);
  return join(dir, "agents.toml");
}

const TWO = '[[agent]]\nname = "builder"\nbackend = "claude"\n[[agent]]\nname = "adversary"\nbackend = "claude"\n' +
  '[[service]]\nname = "server"\ncommand = "sleep 9"\n';

// ── report ──

/** Four hours, counted by hand below. */
const NIGHT: AgentEvent[] = [
  { at: "2026-02-28T23:30:00.000Z", event: "state", agent: "builder", from: "", to: "idle", why: "" },
  { at: "2026-02-28T23:40:00.000Z", event: "delivered", agent: "builder", cause: "wake", ms: 9, tries: 1 },
  { at: at("00:30"), event: "state", agent: "builder", from: "idle", to: "active", why: "" },
  { at: at("00:40"), event: "delivered", agent: "builder", cause: "review", ms: 4000, tries: 1 },
  { at: at("00:50"), event: "commit", agent: "builder", kind: "claim", subject: "claim(a): one" },
  { at: at("01:00"), event: "state", agent: "adversary", from: "", to: "active", why: "" },
  { at: at("01:10"), event: "delivered", agent: "adversary", cause: "claim", ms: 1000, tries: 1 },
  { at: at("01:20"), event: "commit", agent: "adversary", kind: "review", subject: "review(a): PASS" },
  { at: at("01:30"), event: "limited", agent: "builder", class: "5h", until: at("02:30") },
  { at: at("01:45"), event: "state", agent: "builder", from: "active", to: "idle", why: "" },
  { at: at("01:50"), event: "delivered", agent: "adversary", cause: "claim", ms: 2000, tries: 2 },
  { at: at("02:00"), event: "state", agent: "adversary", from: "active", to: "idle", why: "" },
  { at: at("02:10"), event: "undelivered", agent: "adversary", cause: "wake", why: "a draft is in its box" },
  { at: at("02:20"), event: "state", agent: "builder", from: "idle", to: "active", why: "" },
  { at: at("02:30"), event: "lifted", agent: "builder" },
  { at: at("02:31"), event: "phase", from: "a", to: "b" },
  { at: at("02:32"), event: "delivered", agent: "builder", cause: "boot", ms: 500, tries: 1 },
  { at: at("02:40"), event: "state", agent: "adversary", from: "idle", to: "active", why: "" },
  { at: at("02:45"), event: "down", agent: "builder", why: "ended (exit 1)", status: 1 },
  { at: at("02:45"), event: "state", agent: "builder", from: "active", to: "gone", why: "restarting" },
  { at: at("02:46"), event: "start", agent: "builder", backend: "claude", model: "", phase: "b" },
  { at: at("02:47"), event: "state", agent: "builder", from: "gone", to: "idle", why: "" },
  { at: at("02:50"), event: "state", agent: "adversary", from: "active", to: "idle", why: "" },
  { at: at("03:00"), event: "state", agent: "builder", from: "idle", to: "waiting", why: "" },
  { at: at("03:05"), event: "delivered", agent: "builder", cause: "wake", ms: 1500, tries: 1 },
  { at: at("03:10"), event: "commit", agent: "builder", kind: "claim", subject: "claim(b): two" },
  { at: at("03:15"), event: "state", agent: "builder", from: "waiting", to: "blocked", why: "permission" },
  { at: at("03:15"), event: "blocked", agent: "builder", why: "permission" },
  { at: at("03:45"), event: "state", agent: "builder", from: "blocked", to: "unsure", why: "blank screen" },
];
const BOTH = { names: ["builder", "adversary"], loops: ["builder", "adversary"] };
const night = (facts = {}): Report => summariseEvents(NIGHT, DAY, DAY + 240 * MINUTE, { ...BOTH, ...facts });
const minutesOf = (one: AgentReport): Record<string, number> =>
  Object.fromEntries(Object.entries(one.spent).map(([doing, ms]) => [doing, ms / MINUTE]));

describe("report", () => {
  test("the figures of a night are those counted by hand", () => {
    const [builder, adversary] = night().agents as [AgentReport, AgentReport];
    expect(minutesOf(builder)).toEqual({ active: 75, idle: 58, limited: 60, blocked: 30, down: 2, unknown: 15 });
    expect(minutesOf(adversary)).toEqual({ active: 70, idle: 110, limited: 0, blocked: 0, down: 0, unknown: 60 });
    expect(builder.bar).toEqual([0.5, 0.5, 0.25, 0]);
    expect(adversary.bar).toEqual([null, 1, 1 / 6, 0]);
    expect(builder.restarts).toEqual({ count: 1, why: { "ended (exit 1)": 1 } });
    expect(builder.texts).toEqual({ delivered: 3, undelivered: 0, medianMs: 1500, maxMs: 4000 });
    expect(adversary.texts).toEqual({ delivered: 2, undelivered: 1, medianMs: 1500, maxMs: 2000 });
    expect([builder.commits, adversary.commits]).toEqual([{ claim: 2, review: 0 }, { claim: 0, review: 1 }]);
    expect(builder.silence).toEqual({ from: at("02:45"), to: at("04:00"), ms: 75 * MINUTE });
    expect(night().silence).toEqual({ from: at("02:50"), to: at("04:00"), ms: 70 * MINUTE });
    expect(night().phases).toEqual([{ at: at("02:31"), from: "a", to: "b" }]);
    expect(night().troubles.map(({ event }) => event)).toEqual(["undelivered", "blocked"]);
  });

  test("what no watchdog saw is unknown", () => {
    const report = night({ seen: Date.parse(at("03:30")) });
    expect(minutesOf(report.agents[0]!)).toEqual({ active: 75, idle: 58, limited: 60, blocked: 15, down: 2, unknown: 30 });
    expect(report.agents[0]!.silence.ms).toBe(60 * MINUTE);
  });

  test("a part of an hour counts as that part; events after the end do not count", () => {
    const report = summariseEvents(NIGHT, Date.parse(at("00:15")), Date.parse(at("00:45")), BOTH);
    expect(minutesOf(report.agents[0]!)).toEqual({ active: 15, idle: 15, limited: 0, blocked: 0, down: 0, unknown: 0 });
    expect(report.agents[0]!.bar).toEqual([0.5]);
    expect(report.agents[0]!.texts.delivered).toBe(1);
    expect(report.agents[0]!.commits.claim).toBe(0);
  });

  test("each agent's time adds up, whatever stretch is asked for", () => {
    for (let from = 0; from < 300; from += 7) {
      const span = 1 + ((from * 13) % 240);
      const report = summariseEvents(NIGHT, DAY + (from - 60) * MINUTE, DAY + (from - 60 + span) * MINUTE, BOTH);
      for (const one of report.agents) expect(Object.values(one.spent).reduce((sum, ms) => sum + ms, 0)).toBe(span * MINUTE);
    }
  });

  test("a hold ends with its client; loops rest once all phases are done", () => {
    const events: AgentEvent[] = [
      { at: at("00:00"), event: "limited", agent: "builder" },
      { at: at("01:00"), event: "down", agent: "builder", why: "gone" },
      { at: at("02:00"), event: "start", agent: "builder" },
      { at: at("02:00"), event: "state", agent: "builder", to: "active" },
      { at: at("03:00"), event: "complete", phase: "b" },
    ];
    const report = summariseEvents(events, DAY, DAY + 240 * MINUTE, { names: ["builder"], loops: ["builder"] });
    expect(minutesOf(report.agents[0]!)).toEqual({ active: 60, idle: 0, limited: 60, blocked: 0, down: 120, unknown: 0 });
    expect(report.complete).toBe(at("03:00"));
  });

  test("silence: none, one, overlapping and nested spans", () => {
    const gap = (...spans: [number, number][]) => longestGap(spans.map(([from, to]) => ({ from, to })), { from: 0, to: 100 }).ms;
    expect(gap()).toBe(100);
    expect(gap([0, 100])).toBe(0);
    expect(gap([10, 30], [20, 40], [25, 28], [90, 95])).toBe(50);
    expect(gap([50, 200])).toBe(50);
  });

  test("nothing happened: nothing is made up", () => {
    const report = summariseEvents([], DAY, DAY + 60 * MINUTE, { names: ["x"] });
    expect(report.agents[0]!.spent.unknown).toBe(60 * MINUTE);
    expect(report.silence.ms).toBe(0);
    expect(summariseEvents([], DAY, DAY + 60 * MINUTE).agents).toEqual([]);
    expect(reportText(summariseEvents([], DAY, DAY + 60 * MINUTE), 80)).toContain("none advanced");
  });

  test("broken lines are left out", () => {
    expect(parseEvents('{"at":"2026-03-01T00:00:00Z","event":"a"}\n{"at":"20\nnull\n{"at":"x"}\n\n')).toHaveLength(1);
  });

  test.each([["30m", 30], ["24h", 1440], ["7d", 10080], ["90m", 90]])("--since %s", (value, minutes) => {
    expect(parseSince(value)).toBe(minutes * MINUTE);
  });
  test.each(["", "24", "h", "0h", "-1h", "1.5h", "1w", "24h ", "999999d"])("--since %p is refused", (value) => {
    expect(parseSince(value)).toBeNull();
  });

  test.each([0.5, 24, 168, 2400])("%d hours fit 80 columns", (hours) => {
    const events = NIGHT.map((event) => ({ ...event, ...(event.agent === "builder" ? { agent: "a-builder-with-a-very-long-name" } : {}) }));
    const why = { at: at("03:50"), event: "parked", agent: "adversary", why: "w".repeat(200) };
    const text = reportText(summariseEvents([...events, why], DAY + (4 - hours) * 60 * MINUTE, DAY + 240 * MINUTE), 80);
    for (const line of text.split("\n")) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(80);
  });

  test("the text shows the night", () => {
    const text = reportText(night(), 80);
    expect(text).toContain("builder    ▄▄▂\n");
    expect(text).toContain("adversary   █▂\n");
    expect(text).toMatch(/builder +1h15m +58m +1h00m +30m +2m +15m +1h15m/);
    expect(text).toMatch(/builder +3 +1\.5s +4\.0s +2 claims +1: ended \(exit 1\)/);
    expect(text).toContain("a → b (03-01 02:31)");
  });

  test("the command reads both files, in order, and speaks JSON that jq reads", () => {
    const path = fleet("report", TWO);
    const state = join(scratch, "report", ".agents", "state");
    mkdirSync(state, { recursive: true });
    const now = Date.now();
    const line = (ago: number, fields: object) => `${JSON.stringify({ at: new Date(now - ago * MINUTE).toISOString(), ...fields })}\n`;
    writeFileSync(join(state, "events.jsonl.1"), line(120, { event: "state", agent: "builder", to: "active" }));
    writeFileSync(join(state, "events.jsonl"), line(30, { event: "state", agent: "builder", to: "idle" }) + '{"at":"cut');
    writeFileSync(join(state, "heartbeat"), JSON.stringify({ at: new Date(now - 10 * MINUTE).toISOString(), pid: 1 }));
    const { code, out } = call(["report", "--since", "1h", "--json", "--config", path]);
    expect(code).toBe(0);
    const jq = Bun.spawnSync(["jq", "-c", "[.version, (.agents | map(.agent)), (.agents[0].spent | map(. / 60000 | round))]"], { stdin: Buffer.from(out) });
    if (jq.exitCode === 0) expect(JSON.parse(String(jq.stdout))).toEqual([1, ["builder", "adversary"], [30, 20, 0, 0, 0, 10]]);
    expect(call(["report", "--config", path]).out).toContain("the watchdog looked last at");
    const bad = call(["report", "--since", "yesterday", "--config", path]);
    expect([bad.code, bad.out, bad.err]).toEqual([2, "", 'agents: report: --since "yesterday" is not a time such as 30m, 24h or 7d\n']);
  });
});

// ── doctor ──

const level = (found: unknown): string => [found].flat().map((one) => (one as Finding).level).join();
const USER = "/user.slice/user-1000.slice";
const NONE = { killMode: "control-group", oomPolicy: "stop" };
const SAFE = { killMode: "process", oomPolicy: "continue" };

describe("doctor", () => {
  test.each([
    ["tmux 3.3a", "", "ok"], ["tmux 3.3a", "3.3a", "ok"], ["tmux 3.4", "3.3a", "warn"], ["tmux 3.1c", "", "fail"],
    ["tmux 2.9", "2.9", "fail"], ["tmux next-3.6", "", "ok"], ["tmux master", "", "ok"],
  ])("%s with the server %p is %s", (client, server, expected) => expect(level(judgeTmux(client, server))).toBe(expected));

  test.each([
    ["0::/system.slice/manager.service", NONE, null, "warn"],
    ["0::/system.slice/manager.service", SAFE, null, "ok"],
    [`0::${USER}/user@1000.service/app.slice/agents.service`, NONE, true, "warn"],
    [`0::${USER}/user@1000.service/app.slice/agents.service`, SAFE, true, "ok"],
    [`0::${USER}/user@1000.service/tmux-spawn-1.scope`, NONE, true, "ok"],
    [`0::${USER}/user@1000.service/tmux-spawn-1.scope`, NONE, false, "warn"],
    [`0::${USER}/session-3.scope`, NONE, false, "warn"],
    [`9:memory:/x.service\n1:name=systemd:${USER}/session-3.scope\n0::/`, NONE, true, "ok"],
    ["0::/", NONE, false, "ok"], ["", NONE, false, "ok"], ["0::/docker/0a1b", NONE, false, "ok"],
  ])("%s, %p, linger %p: %s", (cgroup, unit, linger, expected) => expect(level(judgeScope(cgroup, unit, linger))).toBe(expected));

  test("a unit that kills is named with its cure", () => {
    const found = judgeScope("0::/system.slice/manager.service", NONE, null) as Finding;
    expect(found.what).toContain("manager.service");
    expect(found.cure).toContain("systemd-run --user --scope");
  });

  test.each([
    ["claude", "2.1.330", true], ["claude", "2.1.331", false], ["opencode", "1.18.99", true], ["opencode", "1.19.0", false],
  ] as const)("%s %s tried: %p", (kind, version, expected) => expect(wasTried(kind, version, ["2.1.330", "2.1.197", "1.18.33"])).toBe(expected));

  test("disk, clock, zone, locale", () => {
    expect([99e6, 101e6, 999e6, 1e9].map((free) => level(judgeDisk(free)))).toEqual(["fail", "warn", "warn", "ok"]);
    expect([judgeClock(0, ""), judgeClock(DAY, "Nowhere/City"), judgeClock(DAY, ":Europe/Berlin"), judgeClock(DAY, "")].map(level))
      .toEqual(["fail", "warn", "ok", "ok"]);
    expect([judgeLocale({}), judgeLocale({ LANG: "C" }), judgeLocale({ LANG: "de_DE.UTF-8" }), judgeLocale({ LANG: "C.utf8" }),
      judgeLocale({ LANG: "C.UTF-8", LC_ALL: "POSIX" })].map(level)).toEqual(["warn", "warn", "ok", "ok", "warn"]);
  });

  /** The findings of `doctor --json`, by check. */
  function examine(path: string, env: Record<string, string> = {}): { code: number; of: (check: string) => string } {
    const { code, out } = call(["doctor", "--json", "--config", path], env);
    const { findings, ok, version } = JSON.parse(out) as { version: number; ok: boolean; findings: Finding[] };
    expect([version, ok]).toEqual([1, code === 0]);
    return { code, of: (check) => findings.filter((one) => one.check === check).map((one) => `${one.level} ${one.what} ${one.cure}`).join("\n") };
  }

  test("a missing client fails, a tried one is fine, an unknown version warns, a hanging one does not hang it", () => {
    const toml = (preamble = "") => `${TWO}[backend.claude]\nbin = "FOO=1 klaude"\npreamble = "${preamble}"\n`;
    const path = fleet("doctor", toml());
    expect(examine(path).of("client claude")).toBe("fail klaude was not found see bin in [backend.claude]");
    expect(examine(path).code).toBe(3);
    script("klaude", 'test "$FOO" = 1 && echo "2.1.330 (Claude Code)"');
    expect(examine(path).of("client claude")).toStartWith("ok klaude 2.1.330");
    expect(examine(path).code).toBe(0);
    script("klaude", 'echo "9.9.9 (Claude Code)"');
    expect(examine(path).of("client claude")).toMatch(/^warn klaude 9.9.9: the detectors were not tried on it .*capture$/);
    script("klaude", "sleep 60");
    expect(examine(path).of("client claude")).toStartWith("warn klaude --version took longer");
    fleet("doctor", toml("klaude() { echo 2.1.197; }"));
    expect(examine(path).of("client claude")).toStartWith("ok klaude 2.1.197");
    script("worker", `touch '${join(scratch, "went to work")}'`);
    const typed = fleet("doctor", '[[agent]]\nname = "x"\nbackend = "t"\n[backend.t]\nbin = "worker --go"\n');
    expect(examine(typed).of("client t")).toBe("ok worker ");
    expect(existsSync(join(scratch, "went to work"))).toBe(false);
  }, 30_000);

  test("folders: not there yet, open to others, a file in the way, a dir that is missing", () => {
    const path = fleet("folders", `${TWO}[backend.claude]\nbin = "true"\n`);
    const logs = join(scratch, "folders", ".agents");
    expect(examine(path).of("log_dir")).toBe(`ok ${logs} does not exist yet; up makes it `);
    mkdirSync(join(logs, "state"), { recursive: true, mode: 0o700 });
    expect(examine(path).of("state")).toStartWith("ok");
    chmodSync(logs, 0o755);
    expect(examine(path).of("log_dir")).toMatch(/^warn .*mode 755.*chmod 700/);
    fleet("folders", `[defaults]\nlog_dir = "agents.toml"\ndir = "nowhere"\n${TWO}`);
    expect(examine(path).of("log_dir")).toContain("fail");
    expect(examine(path).of("dirs")).toMatch(/^fail .*nowhere does not exist clone/);
    fleet("folders", `[defaults]\nbackend = "claude"\n${TWO.replace("[[service]]", '[[agent]]\nname = "spare"\nenabled = false\ndir = "nowhere"\n[[service]]')}`);
    expect(examine(path).of("dirs")).toStartWith("warn");
  });

  test("a config that does not load, and one with warnings", () => {
    expect(examine(fleet("bad", '[[agent]]\nname = "x"\n')).of("config")).toMatch(/^fail .*backend.*missing/);
    expect(examine(join(scratch, "none.toml")).of("config")).toContain("no such file");
    expect(examine(fleet("warns", `${TWO}[watchdog]\nsignal_intervall = 3\n`)).of("config")).toMatch(/warn .*nearest is "signal_interval"/);
  });

  test("a running tmux server is looked at", () => {
    const path = fleet("server", `[defaults]\ntmux_socket = "people"\n${TWO}`);
    Bun.spawnSync(["tmux", "-L", "people", "-f", "/dev/null", "new-session", "-d", "sleep 60"], { env: ENV });
    expect(examine(path).of("tmux")).toMatch(/^ok \d+\.\d+\w* /);
    expect(examine(path, { PATH: bin }).of("tmux")).toContain("fail not found");
  });

  test("text: a line each, the cure behind a dash", () => {
    const { out } = call(["doctor", "--config", join(scratch, "none.toml")], { TZ: "Nowhere/City" });
    for (const line of out.trim().split("\n")) expect(line).toMatch(/^(ok  |warn|fail)  \w+: /);
    expect(out).toMatch(/^warn  clock: .*  — /m);
  });
});

// ── init ──

describe("init", () => {
  test("an empty folder gets all, a second call changes nothing", () => {
    const dir = join(scratch, "new fleet");
    const first = call(["init", dir]);
    expect([first.code, first.err]).toEqual([0, ""]);
    expect(first.out).toContain(`up --config '${join(dir, "agents.toml")}'`);
    expect(first.out).toContain("claude was not found; get it with: npm install");
    const shipped = readdirSync(join(ROOT, "prompts")).filter((file) => file.endsWith(".md"));
    expect(readdirSync(join(dir, "prompts")).sort()).toEqual(shipped.sort());
    expect(readFileSync(join(dir, "agents.toml"), "utf8")).toBe(readFileSync(join(ROOT, "agents.toml"), "utf8"));
    writeFileSync(join(dir, "agents.toml"), "# mine");
    rmSync(join(dir, "prompts", "wake.md"));
    const second = call(["init", dir]);
    expect(second.code).toBe(1);
    expect(second.err).toContain(`${join(dir, "agents.toml")} exists already: kept`);
    expect(second.out).toContain("1 files written");
    expect(readFileSync(join(dir, "agents.toml"), "utf8")).toBe("# mine");
  });

  test("without a folder: here; what is in the way is said in one line", () => {
    const dir = join(scratch, "here");
    mkdirSync(dir);
    expect(Bun.spawnSync([...PROGRAM, "init"], { env: ENV, cwd: dir }).exitCode).toBe(0);
    expect(readdirSync(dir).sort()).toEqual(["agents.toml", "prompts"]);
    const blocked = call(["init", join(dir, "agents.toml")]);
    expect(blocked.code).toBe(1);
    expect(blocked.err.trim().split("\n")).toHaveLength(1);
    expect(call(["init", "a", "b"]).code).toBe(2);
  });

  test("a link that leads nowhere is a file too", () => {
    const dir = join(scratch, "linked");
    mkdirSync(dir);
    symlinkSync(join(scratch, "elsewhere.toml"), join(dir, "agents.toml"));
    expect(call(["init", dir]).code).toBe(1);
    expect(existsSync(join(scratch, "elsewhere.toml"))).toBe(false);
  });

  test("without opencode what needs it becomes comments, and the file still loads", async () => {
    const shipped = readFileSync(join(ROOT, "agents.toml"), "utf8");
    const without = withoutClient(shipped, "opencode");
    expect(without).not.toMatch(/^[^#\n]*"opencode\b/m);
    expect(without.replace(/^# /gm, "")).toBe(shipped.replace(/^# /gm, ""));
    expect(configWith(shipped, [])).toBe(shipped);
    expect(configWith(shipped, ["claude", "opencode"])).toBe(shipped);
    for (const found of [["claude"], ["opencode"], []]) {
      const cfg = await loadConfig(join(ROOT, "agents.toml"), {}, configWith(shipped, found));
      const enabled = [...cfg.agents.values()].filter((agent) => agent.enabled).map((agent) => agent.backend);
      expect(new Set(enabled)).toEqual(new Set([found[0] ?? "claude"]));
      expect([...cfg.services.keys()]).toEqual(found[0] === "claude" ? [] : ["opencode"]);
    }
  });

  test("opencode alone becomes the backend; comments stay", () => {
    const source = '[defaults]\nbackend = "claude" # the client\n# backend = "claude"\n[backend.claude]\nbin = "claude"\n';
    expect(preferBackend(source, "claude", "opencode")).toBe(source.replace('backend = "claude" # the', 'backend = "opencode" # the'));
    script("opencode", "echo 1.18.33");
    const { code, out } = call(["init", join(scratch, "open")]);
    rmSync(join(bin, "opencode"));
    expect(code).toBe(0);
    expect(out).toContain("the agents use opencode");
    const toml = readFileSync(join(scratch, "open", "agents.toml"), "utf8");
    expect(toml).toContain('backend = "opencode"');
    expect(toml.split("\n")).toHaveLength(readFileSync(join(ROOT, "agents.toml"), "utf8").split("\n").length);
  });
});

// ── completion ──

/** A shell in a real terminal: types, waits until the screen shows what is awaited, returns it. */
async function inShell(shell: string[], typed: string[][], awaited: RegExp): Promise<string> {
  const tmux = (...args: string[]) => String(Bun.spawnSync(["tmux", "-L", "people", ...args], { env: ENV, timeout: 5_000 }).stdout);
  const pane = tmux("-f", "/dev/null", "new-session", "-dP", "-F", "#{pane_id}", "-x", "150", "-y", "40", "-c", join(scratch, "shell"), ...shell).trim();
  const screen = () => tmux("capture-pane", "-p", "-t", pane);
  const wait = async (what: RegExp) => {
    for (const end = Date.now() + 8_000; !what.test(screen()) && Date.now() < end; ) await Bun.sleep(50);
  };
  try {
    for (const [keys, ready] of typed) {
      tmux("send-keys", "-t", pane, "-l", keys!);
      tmux("send-keys", "-t", pane, ready === undefined ? "Tab" : "Enter");
      if (ready !== undefined) await wait(new RegExp(ready, "m"));
    }
    await wait(awaited);
    return screen();
  } finally {
    tmux("kill-session", "-t", pane);
  }
}

const SHELLS: Record<string, { argv: string[]; before: string[][] }> = {
  bash: { argv: ["env", "PS1=> ", "INPUTRC=/dev/null", "bash", "--norc", "--noprofile", "-i"],
    before: [["bind 'set show-all-if-ambiguous on'; bind 'set bell-style none'; clear; source <(agents completion bash); echo re''ady", "^ready"]] },
  zsh: { argv: ["env", "zsh", "-f", "-i"],
    before: [["PS1='> '; autoload -Uz compinit; compinit -u -D; unsetopt beep; source <(agents completion zsh); echo re''ady", "^ready"]] },
};

describe("completion", () => {
  beforeAll(() => {
    const toml = '[[agent]]\nname = "builder"\nbackend = "claude"\n[[agent]]\nname = "surveyor"\nbackend = "claude"\n';
    fleet("shell", toml);
    fleet("shell/with space", toml.replace("builder", "zebra"));
  });

  test("names lists agents, services and the watchdog", () => {
    expect(call(["names", "--config", fleet("names", TWO)]).out.trim().split("\n").sort()).toEqual(["adversary", "builder", "server", "watchdog"]);
    expect(call(["help"]).out).not.toMatch(/^ {2}names/m);
  });

  test("every shown command and option is in both scripts, no hidden one is", () => {
    for (const shell of ["bash", "zsh"]) {
      const script = call(["completion", shell]).out;
      for (const command of COMMANDS) {
        expect([command.name, script.includes(`\n    ${command.name}) options=`)]).toEqual([command.name, !command.hidden]);
        for (const [name, { clause }] of Object.entries(command.hidden ? {} : (command.options ?? {}))) {
          if (clause) expect(script).toContain(`--${name}`);
        }
      }
      if (Bun.which(shell)) expect(Bun.spawnSync([shell, "-n"], { stdin: Buffer.from(script), env: ENV }).exitCode).toBe(0);
    }
    expect(call(["completion", "fish"])).toEqual({ code: 2, out: "", err: "agents: usage: completion bash | zsh\n" });
    expect(completionsOf(COMMANDS.find(({ name }) => name === "phase")!)).toEqual({ words: ["show", "next", "set"], names: false, folder: false });
  });

  for (const [shell, { argv, before }] of Object.entries(SHELLS)) {
    const present = Bun.which(shell, { PATH: ENV.PATH }) !== null;
    if (!present) console.warn(`SKIPPED: there is no ${shell} here, its completion was NOT tried`);
    const cases: [typed: string, shown: RegExp][] = [
      ["agents rep", /^> agents report/m],
      ["agents sta", /^> agents status/m],
      ["agents status --js", /^> agents status --json/m],
      ["agents up --config agents.toml bui", /^> agents up --config agents.toml builder/m],
      ["agents up --config=agents.toml sur", /^> agents up --config=agents.toml surveyor/m],
      ["agents --config agents.toml down bui", /^> agents --config agents.toml down builder/m],
      ["agents up --config 'with space/agents.toml' ze", /^> agents up --config 'with space\/agents.toml' zebra/m],
      ["agents up --config with\\ space/agents.toml ze", /^> agents up --config with\\ space\/agents.toml zebra/m],
      ["agents up --config ag", /^> agents up --config agents.toml/m],
      ["agents up --config=ag", /^> agents up --config=agents.toml/m],
      ["agents phase ne", /^> agents phase next/m],
      ["agents completion zs", /^> agents completion zsh/m],
      ["agents init wi", /^> agents init with\\ space/m],
      ["../bin/agents.ts rep", /^> ..\/bin\/agents.ts report/m],
      ["agents up --config agents.toml ", /builder +surveyor +watchdog|builder\s+surveyor\s+watchdog/],
    ];
    test.skipIf(!present).each(cases)(`${shell}: %s<Tab>`, async (typed, shown) => {
      expect(await inShell(argv, [...before, [typed]], shown)).toMatch(shown);
    }, 20_000);
  }
});

// ── unit ──

describe("unit", () => {
  test("words are quoted as systemd reads them", () => {
    expect(unitWord('a "b" 100% c\\d')).toBe('"a \\"b\\" 100%% c\\\\d"');
    const text = unitText(["/opt/a $b/agents", "watchdog", "--config", "/x $HOME/50%/agents.toml"], { PATH: "/usr/bin", LANG: "" });
    expect(text).toContain('ExecStart="/opt/a $b/agents" "watchdog" "--config" "/x $$HOME/50%%/agents.toml"\n');
    expect(text).toContain('Environment="PATH=/usr/bin"\n');
    expect(text).not.toContain("LANG");
    const comments = text.split("\n").filter((line, i, all) => /^(Restart|KillMode|OOMPolicy|WantedBy)/.test(line) && !all[i - 1]!.startsWith("# "));
    expect(comments).toEqual([]);
  });

  test("systemd accepts it, from a folder with a space and a per cent sign", () => {
    const dir = join(scratch, "50% of it");
    const path = fleet("50% of it", TWO);
    const { code, out } = call(["unit", "--config", path]);
    expect(code).toBe(0);
    for (const word of ["Restart=always", "RestartSec=2", "KillMode=process", "OOMPolicy=continue", "WantedBy=default.target", "enable-linger"]) {
      expect(out).toContain(word);
    }
    if (!Bun.which("systemd-analyze")) return console.warn("SKIPPED: there is no systemd-analyze here, the unit was NOT verified");
    writeFileSync(join(dir, "agents.service"), out);
    const verified = Bun.spawnSync(["systemd-analyze", "verify", "--user", join(dir, "agents.service")], { env: { ...ENV, XDG_RUNTIME_DIR: scratch } });
    expect([verified.exitCode, String(verified.stderr)]).toEqual([0, ""]);
  });
});
