/** `explain` and `capture` over the program: on captured screens, and on panes of a real tmux. */
import { describe, expect, test } from "bun:test";
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  builtInRules, type DeathFacts, decideNext, decideNextDown, detect, freshWatch, memoryOf, type LimitState, type NextFacts, scrub, world,
} from "../agents.ts";
import { agents, command, scene } from "./kit.ts";
import { type Fleet, ROOT, real, SELF, spawn, until } from "./real.ts";

const FIXTURES = join(import.meta.dir, "fixtures");
const pane = (file: string) => join(FIXTURES, `${file}.txt`);
const LIMITED = "claude/limited-5h-autowait-80x24";
const side = (file: string) => JSON.parse(readFileSync(join(FIXTURES, `${file}.json`), "utf8"));
const explain = (args: string[], stdin?: string) =>
  spawn([...SELF, "explain", ...args], { env: { PATH: process.env.PATH, HOME: "/nonexistent", TZ: "UTC" }, ...(stdin === undefined ? {} : { stdin }) });

describe("explain --file", () => {
  test("JSON has exactly these keys, times in UTC", async () => {
    const { at, reset } = side(LIMITED);
    const ran = await explain(["--file", pane(LIMITED), "--backend", "claude", "--at", at, "--json"]);
    expect([ran.code, ran.err]).toEqual([0, ""]);
    const said = JSON.parse(ran.out);
    expect(Object.keys(said)).toEqual(["verdict", "rule", "where", "text", "limit", "waitingUntil", "why"]);
    expect([said.verdict, said.rule, said.limit, said.waitingUntil])
      .toEqual(["limited", "limit footer", { class: "5h", resetAt: new Date(reset).toISOString() }, null]);
  });
  test.each<[string, (screen: string) => string]>([
    ["in colours", (screen) => screen.replace(/^.+$/gm, "\x1b[1;38;5;246m$&\x1b[0m")], ["with other line ends", (screen) => `\uFEFF${screen.replaceAll("\n", "\r\n")}`],
  ])("a screen that was saved %s is read as the same one", async (_, saved) => {
    for (const [backend, file] of [["claude", "fatal-no-conversation-found-80x24"], ["codex", "limited-limit-free-200x50-2"]] as const) {
      const [screen, { at, title }] = [readFileSync(pane(`${backend}/${file}`), "utf8"), side(`${backend}/${file}`)];
      const read = (text: string) => explain(["--file", "-", "--backend", backend, "--at", at, "--title", title ?? "", "--json"], text);
      const [plain, other] = [await read(screen), await read(saved(screen))];
      expect([JSON.parse(plain.out).verdict, other.out]).toEqual([file.split("-")[0], plain.out]);
    }
  });
  test("the text says the rule, the place and what follows", async () => {
    const ran = await explain(["--file", pane(LIMITED), "--backend", "claude", "--at", side(LIMITED).at]);
    for (const part of ["verdict  limited", "source   its screen", "limit footer (foot)", "next     leaves it alone, and asks it to go on at ", "resets 20"]) {
      expect(ran.out).toContain(part);
    }
    expect(ran.out).not.toMatch(/\dT\d\d:\d\d/);
  });
  test("on a terminal its values are broken between words, beside their keys", async () => {
    const { out } = await spawn([...SELF, "explain", "--file", pane(LIMITED), "--backend", "claude", "--at", side(LIMITED).at],
      { env: { PATH: process.env.PATH, HOME: "/nonexistent", TZ: "UTC", COLUMNS: "44" } });
    expect(out).toMatch(/^next {5}leaves it alone, and asks it to go\n {9}on at /m);
    for (const line of out.split("\n")) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(44);
  });
  test("standard input, the title, a marker", async () => {
    const busy = await explain(["--file", "-", "--backend", "claude", "--title", "◐ x", "--json"], "> \n");
    expect(JSON.parse(busy.out)).toMatchObject({ verdict: "active", rule: "title", where: "title", limit: null });
    const waits = await explain(["--file", "-", "--backend", "typed", "--at", "2026-11-22T19:30:00Z", "--json"],
      "WAITING-UNTIL: 2026-11-22T21:00:00+01:00\n");
    expect(JSON.parse(waits.out)).toMatchObject({ verdict: "waiting", waitingUntil: "2026-11-22T20:00:00.000Z" });
  });
  const wrong: [string, string[], number, string][] = [
    ["a file that is not there", ["--file", "/none/x", "--backend", "claude"], 1, "/none/x"],
    ["a folder", ["--file", "/", "--backend", "claude"], 1, "/"],
    ["no backend", ["--file", pane(LIMITED)], 2, "--backend"],
    ["an unknown backend", ["--file", pane(LIMITED), "--backend", "claud"], 2, 'nearest is "claude"'],
    ["a bad time", ["--file", pane(LIMITED), "--backend", "claude", "--at", "soon"], 2, "--at"],
    ["a name and a file", ["a1", "--file", pane(LIMITED), "--backend", "claude"], 2, "not both"],
    ["--at without a file", ["a1", "--at", "2026-11-22T19:30:00Z"], 2, "--file"],
  ];
  for (const [what, args, code, part] of wrong) {
    test(`${what} is one line`, async () => {
      const ran = await explain(args);
      expect([ran.code, ran.out, ran.err.trimEnd().split("\n").length]).toEqual([code, "", 1]);
      expect(ran.err).toContain(part);
    });
  }
});

test("explain --file imports nothing from smol-toml, status does", async () => {
  const dir = mkdtempSync(join(tmpdir(), "agents-cost-"));
  try {
    for (const name of ["agents.ts", "package.json", "prompts"]) cpSync(join(ROOT, name), join(dir, name), { recursive: true });
    const parser = join(dir, "node_modules", "smol-toml");
    mkdirSync(parser, { recursive: true });
    writeFileSync(join(parser, "package.json"), '{"name": "smol-toml", "version": "1.9.1", "type": "module", "main": "index.js"}');
    writeFileSync(join(parser, "index.js"), `await Bun.write(${JSON.stringify(join(dir, "imported"))}, "");\nexport const parse = () => ({});\nexport class TomlError extends Error {}\n`);
    writeFileSync(join(dir, "pane"), "❯\u00a0\n");
    writeFileSync(join(dir, "agents.toml"), "");
    const run = (...args: string[]) => spawn([process.execPath, "--no-env-file", "--config=/dev/null", join(dir, "agents.ts"), ...args], { cwd: dir });
    const ran = await run("explain", "--file", join(dir, "pane"), "--backend", "claude");
    expect([ran.code, ran.err, existsSync(join(dir, "imported"))]).toEqual([0, "", false]);
    // the trap works: what reads a config springs it
    await run("status", "--config", join(dir, "agents.toml"));
    expect(existsSync(join(dir, "imported"))).toBe(true);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

describe("decideNext", () => {
  const now = Date.parse("2026-11-22T19:30:00Z");
  const settings = { stallGrace: 180, limitProbeFallback: 300, limitProbeFar: 3600, limitResetSlack: 45 };
  const facts = { settings, nativeGrace: 180, stallIdle: 300, watch: "heal+stall", hold: null, idleSince: now - 60_000, now } as unknown as NextFacts;
  const said = (verdict: string, more: Partial<NextFacts> = {}, change: object = {}) => decideNext(
    { verdict, rule: "", where: "", text: "", limit: null, waitingUntil: null, why: "", ...change } as never, { ...facts, ...more });
  const after = (seconds: number) => now + seconds * 1000;
  const limit = (resetAt: number | null, native = false) => ({ limit: { class: "5h", resetAt, banner: "x", native } });
  test("each verdict", () => {
    for (const verdict of ["active", "blocked", "unsure"]) expect(said(verdict).at).toBeNull();
    expect(said("fatal")).toEqual({ does: "restarts it", at: now });
    expect(said("idle").at).toBe(after(240));
    expect(said("idle", {}, { waitingUntil: after(-30) }).at).toBe(after(270));
    expect(said("waiting", {}, { waitingUntil: after(600) }).at).toBe(after(900));
    expect(said("idle", { watch: "heal" }).at).toBeNull();
    // a wake comes to an idle agent alone, and before its restart if it is due before
    const [early, late] = [{ wakeAt: after(100) }, { wakeAt: after(300) }];
    expect(said("idle", early)).toEqual({ does: "sends its wake", at: after(100), due: "wake" });
    expect(said("idle", late)).toMatchObject({ at: after(240), due: "stall" });
    expect(said("idle", { ...late, watch: "heal" })).toMatchObject({ at: after(300), due: "wake" });
    expect([said("active", early).at, said("waiting", early, { waitingUntil: after(600) }).at]).toEqual([null, after(900)]);
    expect(said("fatal", { watch: "none" }).at).toBeNull();
  });
  test("a limit: slack, grace, no time, far off", () => {
    expect(said("limited", {}, limit(after(600))).at).toBe(after(645));
    expect(said("limited", {}, limit(after(600), true)).at).toBe(after(825));
    expect(said("limited", {}, limit(null)).at).toBe(after(300));
    expect(said("limited", {}, limit(after(3 * 86_400))).at).toBe(after(3600));
  });
  test("a hold is kept, probed, ended", () => {
    const hold = (until: number): LimitState => ({ until: until / 1000, nudges: 0, setAt: now / 1000 - 900 });
    expect(said("limited", { hold: hold(after(50)) }).at).toBe(after(50));
    expect(said("limited", { hold: hold(after(-50)) }).does).toContain("asks");
    expect(said("active", { hold: hold(after(50)) }).does).toContain("ends the hold");
  });
});

describe("decideNext says what the ladder does", () => {
  const now = Date.parse("2026-11-22T19:30:00Z");
  const settings = { restartDelay: 10, restartDelayMax: 300, restartReset: 600, parkAfter: 5, parkWindow: 1800, healthyAfter: 10,
    stallGrace: 180, unsureAfter: 300, backgroundMax: 3600 } as never;
  const death: DeathFacts = { kind: "persistent", status: null, signal: undefined, lived: 20_000, failures: 0, starts: 1, blameless: false, missing: "", line: "", ran: false };
  const facts: NextFacts = { settings, nativeGrace: 180, stallIdle: 300, watch: "heal+stall", hold: null, idleSince: now, death, now };
  const said = (verdict: string, more: Partial<NextFacts> = {}, change: object = {}) => decideNext(
    { verdict, rule: "", where: "", text: "", limit: null, waitingUntil: null, why: "", ...change } as never, { ...facts, ...more });
  test("unsure and background have a deadline", () => {
    expect(said("unsure", { unsureSince: now - 100_000 }).at).toBe(now + 200_000);
    expect(said("unsure", { unsureSince: now - 300_000 })).toEqual({ does: expect.stringContaining("it needs you"), at: null });
    expect(said("background", { backgroundSince: now - 600_000 })).toEqual({ does: expect.stringContaining("treats it as idle"), at: now + 3_000_000, due: "idle" });
    expect(said("background", { backgroundSince: now }, { waitingUntil: now + 7_200_000 }).at).toBe(now + 7_200_000);
  });
  test("a restart that would be a parking, or late, is announced as such", () => {
    expect(said("idle").does).toBe("restarts it if it is still idle");
    expect(said("fatal", { death: { ...death, lived: 1000, failures: 2 } }).does).toBe("ends it and starts it again 20 s later");
    expect(said("fatal", { death: { ...death, starts: 5 } }).does).toBe("ends it and parks it (5 starts in 30 min without a healthy minute)");
    expect(said("idle", { left: "it is not enabled" })).toEqual({ does: "leaves it alone: it is not enabled", at: null });
  });
  test("an agent that is down: parked, done, ending, backoff, not noted yet", () => {
    const memory = (change: object) => Object.assign(memoryOf(freshWatch(), "a"), change);
    const down = (change: object, fresh: DeathFacts | null = null) => decideNextDown(memory(change), fresh, settings, now);
    expect(down({ life: { state: "parked", why: "claude not found", at: 0 } })).toEqual({ does: "leaves it down: parked: claude not found", at: null, stays: true });
    expect(down({ life: { state: "done", at: 0 } }).does).toBe("leaves it down: done");
    expect(down({ life: { state: "stopping", family: { pid: 7, born: "", since: now }, then: { state: "backoff", until: 0 } } })).toEqual({ does: "starts it later: its old process is still ending", at: null });
    expect(down({ life: { state: "backoff", until: now + 40_000 } })).toEqual({ does: "starts it", at: now + 40_000, due: "start" });
    expect(down({})).toEqual({ does: "starts it", at: now, due: "start" });
    expect(down({}, { ...death, status: 127, missing: "claude" })).toEqual({ does: "parks it: claude not found", at: now, stays: true });
    expect(down({}, { ...death, kind: "task", status: 0 }).does).toBe("leaves it down: done (exit 0)");
    expect(down({}, { ...death, lived: 1000, failures: 1, status: 1 }).at).toBe(now + 10_000);
  });
});

/** A key of so many letters and digits behind its prefix: put together here, so that no tool that reads this file rewrites it. */
const key = (prefix: string, length = 24): string =>
  [prefix, Array.from({ length }, (_, i) => "q7Wx3Zk"[i % 7]).join("")].join("");
const SECRET_PART = /q7|Wx|3Z/i;
const UUID = ["1b4e28ba", "2fa1", "41d2", "883f", "0016d3cca427"].join("-");

describe("paths and keys are cut out, columns stay", () => {
  test("paths, the longest first", () => {
    const [dir, home] = ["/home/ann/work/proj", "/home/ann"];
    const clean = scrub(`at ${dir}/x and ${home}/y; ↓ 9 tokens`, [home, dir, "", "/"]);
    expect(clean).toBe("at /srv/fleet/agents/m/x and /srv/flee/y; ↓ 9 tokens");
    expect(scrub(FIXTURES, [])).toBe(FIXTURES);
  });
  // each as short as it may be: behind a prefix the length alone must not be what gives a key away
  test.each(["sk-", "sk-ant-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "AKIA", "ses_", "eyJ", "Bearer "])(
    "%s…: the key goes, whatever its length, and the prefix of a short one stays", (prefix) => {
      for (const length of [8, 24, 40]) {
        const secret = key(prefix, length);
        const clean = scrub(`│ ${secret} │`, []);
        expect([clean.length, clean.startsWith("│ "), clean.endsWith(" │")]).toEqual([secret.length + 4, true, true]);
        expect(clean).not.toMatch(SECRET_PART);
      }
      expect(scrub(key(prefix, 8), [])).toStartWith(prefix.replace("ant", "000"));
    });
  test.each(["token=", "secret: ", "password = ", "api_key=", "api key: ", "apikey=", '"api-key": "', "TOKEN='"])("%s…: what is named a secret", (name) => {
    const clean = scrub(`${name}${key("", 8)}`, []);
    expect([clean.startsWith(name), SECRET_PART.test(clean), clean.length]).toEqual([true, false, name.length + 8]);
  });
  test("ids of conversations, and long words of letters and digits", () => {
    expect(scrub(`id ${UUID}.`, [])).toBe("id 00000000-0000-0000-0000-000000000000.");
    expect(scrub(key("", 32), [])).toBe("0".repeat(32));
    expect(scrub(`${key("", 16)}-${key("", 15)}`, [])).toBe(`${"0".repeat(16)}-${"0".repeat(15)}`);
  });
  test("what is no key stays", () => {
    for (const plain of ["↓ 1.2k tokens", "sk-short", "a-very-long-word-with-no-digit-in-it-at-all", "12345678901234567890123456789012", key("", 31), "token: yes", "task-0123456789abcdef"]) {
      expect(scrub(plain, [])).toBe(plain);
    }
  });
});

// ── live ──

const SHOW = `if [ "$1" = --version ]; then echo 9.8.7 "(Claude Code)"; exit; fi
cat pane.txt; exec sleep 600`;
const plan = { agents: [{ name: "a1", watch: "heal+stall" }], backend: { kind: "claude", bin: "sh ./show.sh" } };

/** The fleet with a client that shows a captured screen. */
async function showing(f: Fleet, text: string): Promise<void> {
  f.write("show.sh", SHOW);
  f.write("pane.txt", text.trimEnd());
  await f.tmux("-f", "/dev/null", "new-session", "-d", "-s", "keep", "sleep 600");
  await f.up("a1");
  const last = text.trimEnd().split("\n").at(-1)!.trim();
  await until(async () => (await f.screen("a1")).includes(last));
}

test("a live screen is read twice, 0.3 s apart: one that changes in the meantime is not called idle", async () => {
  const { cfg, pane, fake } = await scene(agents("a"));
  pane("a").doing = "idle";
  const { sleep } = world;
  const verdict = async (change = () => {}) => {
    const began = fake.mono;
    world.sleep = async (ms) => (change(), sleep(ms));
    const { out } = await command("explain", "a", "--json", "--config", cfg.path);
    return [JSON.parse(out).verdict, fake.mono - began];
  };
  expect([await verdict(), await verdict(() => void (pane("a").said = "● One word more."))]).toEqual([["idle", 300], ["unsure", 300]]);
});

real("explain reads a live pane", plan, async (f) => {
  await showing(f, readFileSync(pane("claude/blocked-permission-bash-80x24"), "utf8"));
  const ran = await f.run(["explain", "a1"]);
  expect([ran.code, ran.out]).toEqual([0, expect.stringContaining("verdict  blocked: a dialog is open")]);
  expect(JSON.parse((await f.run(["explain", "a1", "--json"])).out).verdict).toBe("blocked");
  expect(f.read(".agents/state/watch.json")).not.toContain("explain");
  await f.run(["down"]);
  const down = await f.run(["explain", "a1"]);
  expect([down.code, down.err]).toEqual([1, expect.stringContaining("not running")]);
  for (const part of ["state    stopped by you", "next     leaves it down: stopped by you", 'cure     "agents up a1" starts it']) {
    expect(down.out).toContain(part);
  }
  const unknown = await f.run(["explain", "a2"]);
  expect([unknown.code, unknown.err]).toEqual([2, expect.stringContaining('nearest is "a1"')]);
});

real("explain says how a client ended, and what comes", {
  ...plan, backend: { kind: "claude", bin: "sh ./dies.sh" } }, async (f) => {
  f.write("dies.sh", "echo the licence has run out; exit 125\n");
  await f.tmux("-f", "/dev/null", "new-session", "-d", "-s", "keep", "sleep 600");
  await f.run(["up", "a1"]);
  await until(async () => (await f.run(["explain", "a1"])).out.includes("state    ended"), 20_000, 250);
  const ran = await f.run(["explain", "a1"]);
  for (const part of ["its client ended (exit 125)", "the licence has run out", "exit 125 (do not restart)", 'cure     "agents up a1" starts it']) {
    expect(ran.out).toContain(part);
  }
  expect([ran.code, ran.err]).toEqual([1, expect.stringContaining("not running (exit 125)")]);
});

/** The program in a folder of its own: `capture` files beside it. */
const capture = (f: Fleet, ...words: string[]) => besideIt(f, "capture", ...words);
async function besideIt(f: Fleet, ...words: string[]) {
  const home = f.path("program");
  if (!existsSync(home)) {
    f.write("program/.keep", "");
    copyFileSync(join(ROOT, "agents.ts"), join(home, "agents.ts"));
    for (const name of ["node_modules", "package.json", "prompts"]) symlinkSync(join(ROOT, name), join(home, name));
  }
  const argv = [process.execPath, "--no-env-file", join(home, "agents.ts"), ...words, "--config", f.config];
  return spawn(argv, { env: f.env });
}

if (!process.env.AGENTS_BIN) real("capture files a live pane, without paths and keys", plan, async (f) => {
  await showing(f, `${f.dir}\n${key("sk-ant-")}\n\n● Ready.\n\n✻ Baked for 3s\n\n${"─".repeat(40)}\n❯\u00a0\n${"─".repeat(40)}\n  ? for shortcuts`);
  const ran = await capture(f, "a1", "idle-made-here");
  const [text, sidecar, verdict] = ran.out.split("\n");
  expect([ran.code, verdict]).toEqual([0, "the rules now say: idle (prompt): as it should be"]);
  expect(text).toBe(f.path("program/tests/fixtures/claude/idle-made-here.txt"));
  const shown = readFileSync(text!, "utf8");
  expect(shown).toContain("● Ready.");
  expect(shown).toContain("sk-");
  for (const secret of [f.dir, SECRET_PART]) expect(shown).not.toMatch(typeof secret === "string" ? RegExp.escape(secret) : secret);
  expect(JSON.parse(readFileSync(sidecar!, "utf8")))
    .toMatchObject({ cols: 200, rows: 50, version: "9.8.7", made: "real" });
  expect(detect(builtInRules().claude, { text: shown, title: "" }, 0).verdict).toBe("idle");
  const again = await capture(f, "a1", "idle-made-here");
  expect([again.code, again.err]).toEqual([1, expect.stringContaining("exists already")]);
  const typo = await capture(f, "a1", "idel-made-here");
  expect([typo.code, typo.err]).toEqual([2, expect.stringContaining('nearest is "idle"')]);
  const other = await capture(f, "a1", "active-but-it-is-not");
  expect([other.code, other.out]).toEqual([0, expect.stringContaining("idle (prompt): it should be active")]);
});

if (!process.env.AGENTS_BIN) real("P38: capture and selftest serve a backend that its operator described, and start no program of it", {
  ...plan, backend: { kind: "typed", bin: "sh ./show.sh", box_re: "^> (?<text>.*)$" },
}, async (f) => {
  await showing(f, "said\n> half a thought");
  const ran = await capture(f, "a1", "idle-made-here");
  const [text, sidecar, verdict] = ran.out.split("\n");
  expect([ran.code, text, verdict]).toEqual([0, f.path("program/tests/fixtures/scripted/idle-made-here.txt"), "the rules now say: idle (box_re): as it should be"]);
  expect(JSON.parse(readFileSync(sidecar!, "utf8"))).toMatchObject({ version: "", made: "real" });
  expect((await capture(f, "a1", "active-wrong")).code).toBe(0);
  symlinkSync(join(ROOT, "tests/fixtures/claude"), f.path("program/tests/fixtures/claude"));
  const tested = await besideIt(f, "selftest");
  expect(tested.out).toContain('with the rules of backend "scripted": 1 of 2 right\n  scripted/active-wrong.txt: idle (box_re), expected active');
});
