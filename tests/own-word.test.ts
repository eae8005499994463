/** What clients say of themselves in files, beside their screens, and when neither is believed. */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import {
  builtInRules, type ClaudeWord, decideClaude, decideCodex, decideError, detect, enqueue, isUntried, loadLimitState, memoryOf, parseClaudeWord, parseModel, parsePattern, parseRolloutEnd, parseTranscriptEnd, type Status, type TranscriptEnd, world,
} from "../agents.ts";
import { agents, command, FASTER, type FakePane, fasterClock, scene, type Scene, type Setting, took, verdict } from "./kit.ts";

/** As 2.1.330 wrote it. */
const MEASURED = {
  pid: 31294, sessionId: "b1098284-55e7-4eb3-aa5d-1d913f272702", cwd: "/work/My_Proj.x", startedAt: 1795691994330, procStart: "4384260",
  version: "2.1.330", peerProtocol: 1, peerFeatures: ["notify_idle"], kind: "interactive", entrypoint: "cli", name: "my-proj-x-8f", status: "waiting",
  updatedAt: 1795692064631, statusUpdatedAt: 1795692064631, waitingFor: "permission prompt",
};
const parsed = (some: object = {}, pid = 31294, born = "4384260", fresh = true) => parseClaudeWord(JSON.stringify({ ...MEASURED, ...some }), pid, born, fresh);
const word = (status: ClaudeWord["status"], waitsFor = ""): ClaudeWord =>
  ({ status, waitsFor, version: "2.1.330", conversation: "", cwd: "" });

describe("a session file", () => {
  test("says what its client does, field by field", () => {
    expect(parsed()).toEqual({ status: "waiting", waitsFor: "permission prompt", version: "2.1.330",
      conversation: MEASURED.sessionId, cwd: "/work/My_Proj.x" });
    const odd = parsed({ status: "idle", waitingFor: 7, statusUpdatedAt: "now", version: "\x1b[31m2.1", sessionId: "../../x", cwd: 3 });
    expect(odd).toEqual({ status: "idle", waitsFor: "", version: "", conversation: "", cwd: "" });
    expect(parsed({ waitingFor: undefined })!.waitsFor).toBe("a dialog");
    expect(parsed({ waitingFor: `\x1b]0;x\x07${"y".repeat(500)}` })!.waitsFor).toBe(`${"y".repeat(59)}…`);
  });
  test("of another process, of an earlier one with the same number, or of a background session is none", () => {
    expect(parsed({}, 31295)).toBeNull();
    expect(parsed({}, 31294, "4384261")).toBeNull();
    expect(parsed({ kind: "bg" })).toBeNull();
    // without the time of its birth the clocks must do
    for (const born of ["", "4384260"]) expect(parsed({ procStart: undefined }, 31294, born, false)).toBeNull();
    expect(parsed({ procStart: undefined })!.status).toBe("waiting");
    expect(parsed({}, 31294, "4384260", false)!.status).toBe("waiting");
  });
  test("with a status that nobody knows, half written, or of another shape is none", () => {
    for (const status of ["thinking", undefined, 7, null]) expect(parsed({ status })).toBeNull();
    for (const text of ["", "{", "[]", "null", "7", JSON.stringify(MEASURED).slice(9)]) expect(parseClaudeWord(text, 31294, "", true)).toBeNull();
  });
});

describe("its word and the screen are one verdict", () => {
  const both = (said: ClaudeWord["status"], screen: Partial<ReturnType<typeof verdict>>) =>
    decideClaude(word(said, said === "waiting" ? "permission prompt" : ""), { ...verdict(screen.verdict!), ...screen });
  const rows: [ClaudeWord["status"], Partial<ReturnType<typeof verdict>>, string][] = [
    ["busy", { verdict: "idle", rule: "prompt", where: "rest" }, "active: busy"],
    ["busy", { verdict: "unsure", rule: "draft", where: "screen" }, "active: busy"],
    ["busy", { verdict: "fatal", rule: "too long", where: "event" }, "active: busy"],
    ["busy", { verdict: "limited", rule: "limit footer", where: "foot" }, "active: busy"],
    ["busy", { verdict: "blocked", rule: "login", where: "event" }, "active: busy"],
    ["busy", { verdict: "active", rule: "title", where: "title" }, "active: title"],
    // a question of a first start that opens over the turn
    ["busy", { verdict: "blocked", rule: "dialog hint", where: "dialog" }, "blocked: dialog hint"],
    ["busy", { verdict: "unsure", rule: "suspended", where: "last 2" }, "unsure: suspended"],
    ["waiting", { verdict: "idle", rule: "prompt", where: "rest" }, "blocked: waiting"],
    ["waiting", { verdict: "unsure", rule: "none", where: "screen" }, "blocked: waiting"],
    ["waiting", { verdict: "active", rule: "footer", where: "foot" }, "blocked: waiting"],
    ["waiting", { verdict: "active", rule: "title", where: "title" }, "active: title"],
    ["waiting", { verdict: "blocked", rule: "dialog hint", where: "dialog" }, "blocked: dialog hint"],
    ["waiting", { verdict: "limited", rule: "limit menu", where: "dialog" }, "limited: limit menu"],
    ["shell", { verdict: "idle", rule: "prompt", where: "rest" }, "background: shell"],
    ["shell", { verdict: "limited", rule: "limit banner", where: "event" }, "limited: limit banner"],
    ["idle", { verdict: "unsure", rule: "draft", where: "screen" }, "idle: idle"],
    ["idle", { verdict: "blocked", rule: "search", where: "foot" }, "blocked: search"],
    ["idle", { verdict: "blocked", rule: "agents view", where: "title" }, "blocked: agents view"],
    ["idle", { verdict: "limited", rule: "limit banner", where: "event" }, "limited: limit banner"],
    ["idle", { verdict: "unsure", rule: "none", where: "screen" }, "unsure: none"],
    ["idle", { verdict: "active", rule: "title", where: "title" }, "active: title"],
  ];
  for (const [said, screen, expected] of rows) {
    test(`${said}, and by its screen ${screen.verdict} (${screen.rule}): ${expected}`, () => {
      const found = both(said, screen);
      expect(`${found.verdict}: ${found.rule}`).toBe(expected);
      expect(found.own).toStartWith(said);
    });
  }
  test("without a word the screen is all there is", () => expect(decideClaude(null, verdict("idle"))).toEqual(verdict("idle")));

  const folder = join(import.meta.dir, "fixtures/claude");
  const sides = readdirSync(folder).filter((file) => file.endsWith(".json")).map((file) => ({ file, side: JSON.parse(readFileSync(join(folder, file), "utf8")) }))
    .filter(({ side }) => side.word);
  test("each capture whose session file was read at that moment is right with it", () => {
    expect(sides.length).toBeGreaterThan(120);
    const wrong = sides.flatMap(({ file, side }) => {
      const text = readFileSync(join(folder, file.replace(/json$/, "txt")), "utf8");
      const found = decideClaude({ ...word("idle"), ...side.word }, detect(builtInRules().claude, { text, title: side.title ?? "" }, Date.parse(side.at)));
      const expected = side.together ?? file.split("-")[0];
      return found.verdict === expected ? [] : [`${file}: ${found.verdict} (${found.rule}), expected ${expected}`];
    });
    expect(wrong).toEqual([]);
  });
});

/** What was believed of it last, before it was restarted. */
const believed = (it: Scene) => (it.fake.files.get(it.file("events.jsonl")) ?? "").split("\n").filter(Boolean)
  .map((line) => JSON.parse(line)).filter(({ event, to }) => event === "state" && to !== "gone").map(({ to, why }) => [to, why]).at(-1);

/** Entries of a transcript as 2.1.330 wrote them, shortened. */
const ASKED = { parentUuid: null, isSidechain: false, type: "user", message: { role: "user", content: "go on" } };
const SAID = { isSidechain: false, message: { role: "assistant", content: [{ type: "text", text: "OK" }], stop_reason: "end_turn" }, type: "assistant" };
const FAILED = { ...SAID, isApiErrorMessage: true, apiErrorStatus: 500, error: "server_error" };
const RESET = Date.UTC(2026, 5, 15, 14, 20, 32) / 1000;
const LIMITED = {
  ...SAID, apiError: "usage_limit_reached", isApiErrorMessage: true, apiErrorStatus: 429, error: "rate_limit",
  quotaLimits: { status: "rejected", resetsAt: RESET, rateLimitType: "five_hour", isUsingOverage: false },
};
const NOTICE = { isSidechain: false, type: "system", subtype: "informational", content: "Usage limit reached · set to continue automatically at 2:20pm" };
const REQUEST = { type: "api-request-blob", message: { role: "user", content: [{ type: "text", text: '{"type":"user"}' }] } };
const lines = (...entries: object[]): string => entries.map((entry) => `${JSON.stringify(entry)}\n`).join("");
const NOON = Date.UTC(2026, 5, 15, 12);
const endOf = (...entries: object[]) => parseTranscriptEnd(lines(...entries), NOON);

describe("the end of a transcript", () => {
  test("is the last entry of the conversation itself", () => {
    expect(endOf(ASKED, LIMITED, NOTICE, REQUEST)).toEqual({ error: "rate_limit", text: "OK", at: NOON, limit: { class: "5h", resetAt: RESET * 1000 } });
    expect(endOf(ASKED, FAILED)).toEqual({ error: "server_error", text: "OK", at: NOON, limit: null });
    expect(endOf({ ...FAILED, timestamp: "2026-06-15T10:00:00.000Z" })!.at).toBe(NOON - 7_200_000);
    expect(endOf(FAILED, ASKED, SAID, NOTICE)).toEqual({ error: "", text: "", at: 0, limit: null });
    expect(endOf(LIMITED, { ...FAILED, isSidechain: true }, { ...ASKED, isMeta: true })!.error).toBe("rate_limit");
    for (const none of ["", "{}\n", lines(NOTICE, REQUEST), `${JSON.stringify(LIMITED).slice(20)}\n`]) expect(parseTranscriptEnd(none, NOON)).toBeNull();
  });
  test("is the later one of two that were written the other way round", () => {
    const [before, after] = ["2026-06-15T10:00:00.396Z", "2026-06-15T10:00:00.563Z"];
    expect(endOf({ ...LIMITED, timestamp: after }, { ...ASKED, timestamp: before }, NOTICE)!.limit).toEqual({ class: "5h", resetAt: RESET * 1000 });
    for (const [failed, asked] of [[before, after], [after, after], [undefined, before], [after, undefined]]) {
      expect(endOf({ ...FAILED, timestamp: failed }, { ...ASKED, timestamp: asked })!.error).toBe("");
    }
  });
  /** What a person ran, as 2.1.330 notes it, and as older versions did. */
  const RAN = [
    (name: string, out: string) => [`<command-name>${name}</command-name>`, `<local-command-stdout>${out}</local-command-stdout>`]
      .map((content) => ({ isSidechain: false, type: "system", subtype: "local_command", content })),
    (name: string, out: string) => [`<command-name>${name}</command-name>`, `<local-command-stdout>${out}</local-command-stdout>`]
      .map((content) => ({ ...ASKED, message: { role: "user", content } })),
  ];
  test("is what stood there before a person's command, unless that may have cured it", () => {
    for (const ran of RAN) {
      const after = (...notes: object[]) => endOf(ASKED, FAILED, ...notes)!.error;
      expect([after(...ran("/context", "Context usage")), after(...ran("/model", "Kept model as Opus"), ...ran("/cost", "$0"))]).toEqual(["server_error", "server_error"]);
      expect([after(...ran("/model", "Set model to Opus")), after(...ran("/login", "Login successful"), ...ran("/context", ""))]).toEqual(["", ""]);
    }
    const shell = ["<bash-input>ls</bash-input>", "<bash-stdout>a</bash-stdout>"].map((content) => ({ ...ASKED, message: { role: "user", content } }));
    expect(endOf(FAILED, ...shell)!.error).toBe("server_error");
  });
  test("names the class of a limit where it knows it, and no time that makes no sense", () => {
    const limitOf = (quotaLimits: unknown, more = {}) => endOf({ ...LIMITED, quotaLimits, ...more })!.limit;
    const classOf = (rateLimitType: unknown) => limitOf({ resetsAt: RESET, rateLimitType })?.class;
    expect(["five_hour", "seven_day", "seven_day_opus", "seven_day_new", 7].map(classOf)).toEqual(["5h", "weekly", "model", null, null]);
    for (const resetsAt of [0, -1, "soon", null, RESET * 1000, RESET + 50 * 86_400, RESET - 50 * 86_400]) expect(limitOf({ resetsAt, rateLimitType: "five_hour" })).toBeNull();
    for (const quota of [undefined, null, [], "x"]) expect(limitOf(quota)).toBeNull();
    expect(limitOf(LIMITED.quotaLimits, { apiError: "other" })).toBeNull();
  });

  const shown = (some: Partial<ReturnType<typeof verdict>>) => ({ ...verdict(some.verdict!), where: "event", ...some });
  const said = (error: string, limit: TranscriptEnd["limit"] = null): TranscriptEnd => ({ error, text: "", at: NOON, limit });
  const banner = shown({ verdict: "limited", rule: "limit banner", limit: { class: "other", resetAt: NOON, banner: "b", native: true } });
  test("gives a limit its class and the second of its reset", () => {
    const found = decideError(said("rate_limit", { class: "weekly", resetAt: RESET * 1000 }), true, banner, NOON);
    expect(found.limit).toEqual({ class: "weekly", resetAt: RESET * 1000, banner: "b", native: true, exact: true });
    expect(found.why).toStartWith("weekly limit, resets");
    const unknown = decideError(said("rate_limit", { class: null, resetAt: RESET * 1000 }), true, banner, NOON);
    expect([unknown.limit!.class, unknown.limit!.resetAt]).toEqual(["other", RESET * 1000]);
    for (const end of [null, said("rate_limit"), said("")]) expect(decideError(end, true, banner, NOON)).toEqual(banner);
  });
  test("tells an error from its quote, where the client rests", () => {
    const doubted = shown({ verdict: "fatal", rule: "poisoned" });
    const unsure = { ...shown({ verdict: "unsure", rule: "poisoned" }), doubted };
    expect(decideError(said("unknown"), true, unsure, NOON).verdict).toBe("fatal");
    expect(decideError(said(""), true, unsure, NOON)).toMatchObject({ verdict: "idle", where: "transcript" });
    expect(decideError(said(""), false, unsure, NOON).verdict).toBe("unsure");
    expect(decideError(null, true, unsure, NOON).verdict).toBe("unsure");
    // what only an error can look like stays one
    expect(decideError(said(""), true, doubted, NOON).verdict).toBe("fatal");
  });
  test("names the class of an error that no rule knows; one that passes by itself needs nobody", () => {
    const unknown = shown({ verdict: "blocked", rule: "error", why: "an error that no rule knows" });
    expect(decideError(said("authentication_failed"), true, unknown, NOON)).toMatchObject({ verdict: "blocked", why: "login needed" });
    expect(decideError(said("invalid_request"), true, unknown, NOON)).toMatchObject({ verdict: "blocked", why: "an error that no rule knows (invalid_request)" });
    expect(decideError(said("server_error"), true, unknown, NOON).verdict).toBe("idle");
    expect(decideError(said("server_error"), false, unknown, NOON).verdict).toBe("blocked");
    expect(decideError(said(""), true, unknown, NOON)).toEqual(unknown);
  });
  test("an error whose words no rule knows is one, unless it passes by itself", () => {
    const idle = shown({ verdict: "idle", rule: "prompt", why: "at its prompt" });
    const after = (error: string, text: string, last = `● ${text}`) => {
      const found = decideError({ ...said(error), text }, true, { ...idle, last }, NOON);
      return found.verdict === "idle" ? idle : found;
    };
    expect(after("authentication_failed", "Login expired · Please run /login")).toMatchObject({ verdict: "blocked", where: "transcript", why: "login needed", text: "Login expired · Please run /login" });
    expect(after("account_on_hold", "Your account is on hold")).toMatchObject({ verdict: "blocked", why: "Your account is on hold (account_on_hold)" });
    for (const [error, text] of [["server_error", "Server busy"], ["unknown", "API Error: Connection error."], ["authentication_failed", "Authentication error · please try again"], ["", ""]] as const) {
      expect(after(error, text)).toEqual(idle);
    }
    // its screen shows what came after it
    expect(after("billing_error", "No more credits", "● Back at work.")).toEqual(idle);
  });
  test("a limit whose words no rule knows is one until its reset", () => {
    const text = "Plan quota is used up";
    const idle = { ...shown({ verdict: "idle", rule: "prompt", why: "at its prompt" }), last: `● ${text}` };
    const limited = (resetAt: number, rests = true, last = idle.last) =>
      decideError({ ...said("rate_limit"), text, limit: { class: "weekly", resetAt } }, rests, { ...idle, last }, NOON);
    expect(limited(NOON + 60_000)).toMatchObject({ verdict: "limited", where: "transcript", limit: { class: "weekly", resetAt: NOON + 60_000, exact: true, banner: text } });
    for (const over of [limited(NOON), limited(NOON + 60_000, false), limited(NOON + 60_000, true, "● Back at work.")]) expect(over.verdict).toBe("idle");
  });
});

const FLEET = agents("a").replace("[[agent]]", '[[agent]]\nenv = { CLAUDE_CONFIG_DIR = "/conf" }');
const pathOf = (pid: number): string => `/conf/sessions/${pid}.json`;
/** Writes the session file of a pane's client, or of another process. */
function says(it: Scene, status: string, some: { pid?: number; at?: number; [key: string]: unknown } = {}): void {
  const { pid = it.pane().pid, at = it.fake.wall, ...more } = some;
  it.fake.files.set(pathOf(pid), JSON.stringify({ pid, kind: "interactive", version: "2.1.330", status, statusUpdatedAt: at, ...more }));
  it.fake.times.set(pathOf(pid), at);
}
const set = (setting: Setting = {}) => scene(FLEET, setting);
const verdictOf = (it: Scene): string => memoryOf(it.watch, "a").verdict;

test("a client that rests after an error that no rule knows is blocked, until a person did something about it", async () => {
  const it = await set();
  const path = "/conf/projects/-fleet/e1.jsonl";
  const writes = (...entries: object[]) => {
    it.fake.turn(5_000);
    it.fake.files.set(path, lines(...entries));
    it.fake.times.set(path, it.fake.wall);
  };
  const text = "This session has no login that it can use. To use an account of your own, run /login.";
  const failed = { ...FAILED, error: "authentication_failed", message: { ...FAILED.message, content: [{ type: "text", text }] } };
  it.pane().said = `❯ go on\n\n● ${text}`;
  says(it, "idle", { sessionId: "e1", cwd: "/fleet" });
  writes(ASKED, SAID);
  await it.ticks(2);
  expect(verdictOf(it)).toBe("idle"); // its agent says so
  writes(ASKED, failed);
  await it.ticks(2);
  expect([verdictOf(it), memoryOf(it.watch, "a").why]).toEqual(["blocked", "login needed"]);
  writes(ASKED, failed, { type: "user", message: { role: "user", content: "<command-name>/login</command-name>" } });
  await it.ticks(2);
  expect(verdictOf(it)).toBe("idle");
});

describe("the model of a Claude Code", () => {
  const by = (model: unknown, more = {}) => ({ ...SAID, message: { ...SAID.message, model }, ...more });
  test("is that of the last answer of the conversation itself", () => {
    const modelOf = (...entries: object[]) => parseModel(lines(...entries));
    expect(modelOf(by("claude-opus-4-1"), ASKED, by("claude-haiku-4-5"), NOTICE)).toBe("claude-haiku-4-5");
    expect(modelOf(by("claude-opus-4-1"), by("<synthetic>", { isApiErrorMessage: true }), by("claude-haiku-4-5", { isSidechain: true }), { ...ASKED, message: by("x").message })).toBe("claude-opus-4-1");
    for (const none of [by("a b"), by(7), by("x".repeat(65)), SAID, REQUEST]) expect(modelOf(none)).toBe("");
  });
  test("follows /model once the turn is over; until it is known it is the one that it was started with", async () => {
    const it = await scene(FLEET.replace('name = "a"', 'name = "a"\nmodel = "opus"'));
    const path = "/conf/projects/-fleet-my-proj/m1.jsonl";
    expect(await rowOf(it)).toMatchObject({ model: "opus", modelFrom: "start" });
    const card = async () => /^is .*$/m.exec((await command("status", "a", "--config", it.cfg.path)).out)![0];
    expect(await card()).toContain("claude, started with model opus ·");
    says(it, "idle", { sessionId: "m1", cwd: "/fleet/my.proj" });
    it.fake.files.set(path, lines(by("claude-haiku-4-5")));
    it.fake.times.set(path, it.fake.wall);
    it.pane().said = "● Now by another model.";
    await it.ticks(2);
    expect(await rowOf(it)).toMatchObject({ model: "claude-haiku-4-5", modelFrom: "client" });
    expect(await card()).toContain("2.1.330, model claude-haiku-4-5 ·");
    expect(memoryOf(await it.again(), "a").model).toBe("claude-haiku-4-5");
  });
});

describe("in a round", () => {
  test("busy in front of an idle screen is work: no restart while it draws, and no wake", async () => {
    const it = await set();
    expect(verdictOf(it)).toBe("idle");
    says(it, "busy");
    await it.ticks(40, (nth) => void (it.pane().said = `● Part ${"x".repeat(nth)}.`));
    expect([verdictOf(it), it.starts()]).toEqual(["active", 1]);
    says(it, "idle");
    await it.ticks(2);
    expect(verdictOf(it)).toBe("idle");
  });
  test("busy in front of a picture that stands still for stall_idle is a client that hangs", async () => {
    const it = await set();
    says(it, "busy");
    await it.ticks(14);
    expect(it.fake.logged("stall: a")).toEqual([expect.stringContaining("its screen shows work but has not moved for")]);
  });
  test("waiting is a person's business, and nothing is typed", async () => {
    const it = await set();
    says(it, "waiting", { waitingFor: "permission prompt" });
    it.operator({ queue: [{ id: "q", target: "a", text: "go on", cause: "send", made: it.fake.wall, tries: 0 }] });
    await it.ticks(3);
    expect([verdictOf(it), memoryOf(it.watch, "a").why, it.told()]).toEqual(["blocked", "it waits: permission prompt", []]);
    expect([it.pane().draft, it.pane().enters]).toEqual(["", 0]);
    says(it, "idle");
    await it.ticks(2);
    expect(it.told()).toEqual(["go on"]);
  });
  test("a shell that still runs is background work", async () => {
    const it = await set();
    says(it, "shell");
    await it.ticks(30);
    expect([verdictOf(it), it.starts()]).toEqual(["background", 1]);
  });
  const unbelieved: [string, (it: Scene) => void][] = [
    ["of an earlier process with the same number", (it) => says(it, "busy", { at: it.pane().created - 60_000 })],
    ["that names another process", (it) => (says(it, "busy"), it.fake.files.set(pathOf(it.pane().pid), '{"pid":7,"status":"busy"}'))],
    ["of a process beside it", (it) => says(it, "busy", { pid: 7 })],
    ["that is no JSON", (it) => (says(it, "busy"), it.fake.files.set(pathOf(it.pane().pid), "{"))],
    ["of a background session", (it) => says(it, "busy", { kind: "bg" })],
    ["of more bytes than any has", (it) => says(it, "busy", { pad: "x".repeat(20_000) })],
  ];
  for (const [what, write] of unbelieved) {
    test(`a file ${what} says nothing: the screen alone decides`, async () => {
      const it = await set();
      write(it);
      await it.ticks(2);
      expect(verdictOf(it)).toBe("idle");
    });
  }
  /** A wrapper in the pane whose child, 61000, is at work by its file; `stat` makes more of its group. */
  const wrapped = async () => {
    const it = await set();
    const { pid } = it.pane() as FakePane;
    const stat = (one: number, born: number) => it.fake.files.set(`/proc/${one}/stat`, `${one} (x) ${["S", 1, pid, ...Array(16).fill(0), born].join(" ")}`);
    stat(pid, 100);
    stat(61_000, 101);
    says(it, "busy", { pid: 61_000, procStart: "101" });
    await it.ticks(2);
    return { it, stat };
  };
  test("a client that a wrapper started in the pane's group is found, and forgotten when it ends", async () => {
    const { it, stat } = await wrapped();
    expect(verdictOf(it)).toBe("active");
    it.fake.files.delete("/proc/61000/stat");
    await it.ticks(2);
    expect(verdictOf(it)).toBe("idle");
  });
  test("a wrapper that starts another client after a kill -9 is found with that one", async () => {
    const { it, stat } = await wrapped();
    // nobody is left to remove the file
    it.fake.files.delete("/proc/61000/stat");
    stat(61_001, 102);
    says(it, "busy", { pid: 61_001, procStart: "102" });
    await it.ticks(2);
    expect(verdictOf(it)).toBe("active");
  });
  test("of a client without a session file nobody asks when it began", async () => {
    const it = await set();
    const { read } = world;
    const asked: string[] = [];
    world.read = (path) => (asked.push(path), read(path));
    await it.ticks(2);
    const stat = `/proc/${it.pane().pid}/stat`;
    expect([verdictOf(it), asked.includes(stat)]).toEqual(["idle", false]);
    says(it, "busy");
    await it.ticks(1);
    expect([verdictOf(it), asked.includes(stat)]).toEqual(["active", true]);
  });
  test("no look waits for a disk with the files of another client", async () => {
    const it = await scene(agents("a", "b").replace('"a"', '"a"\nenv = { CLAUDE_CONFIG_DIR = "/hangs" }').replace('"b"', '"b"\nenv = { CLAUDE_CONFIG_DIR = "/conf" }'));
    says(it, "busy", { pid: it.pane("b").pid });
    const { mtime } = world;
    const rows = async () => JSON.parse((await command("status", "--json", "--config", it.cfg.path)).out).agents.map(({ condition }: { condition: string }) => condition);
    for (const look of [() => it.ticks(1), rows]) {
      const disk = Promise.withResolvers<boolean>();
      const order: string[] = [];
      world.answers = (path) => path.startsWith("/hangs") ? disk.promise : Promise.resolve(true);
      world.mtime = (path) => {
        if (path.startsWith("/conf/")) order.push("b"), disk.resolve(false);
        return mtime(path);
      };
      const late = setTimeout(() => (order.push("too late"), disk.resolve(false)), 2_000);
      const found = await look();
      clearTimeout(late);
      expect(order[0]).toBe("b");
      if (found) expect(found).toEqual(["unsure", "working"]);
    }
    expect(["a", "b"].map((name) => memoryOf(it.watch, name).verdict)).toEqual(["unsure", "active"]);
  });
  test("the clients of twenty wrappers are found by one search: their folder is listed once, and none of them is asked for all others", async () => {
    const names = Array.from({ length: 20 }, (_, nth) => `w${nth}`);
    const it = await scene(agents(...names).replaceAll("[[agent]]", '[[agent]]\nenv = { CLAUDE_CONFIG_DIR = "/conf" }'));
    const stat = (pid: number, group: number) => it.fake.files.set(`/proc/${pid}/stat`, `${pid} (x) ${["S", 1, group, ...Array(16).fill(0), pid].join(" ")}`);
    for (const [nth, name] of names.entries()) {
      const { pid } = it.pane(name) as FakePane;
      stat(pid, pid);
      stat(61_000 + nth, pid);
      says(it, "busy", { pid: 61_000 + nth, procStart: String(61_000 + nth) });
    }
    const { list, read } = world;
    const asked: string[] = [];
    world.list = (path) => (asked.push(path), list(path));
    world.read = (path) => (asked.push(path), read(path));
    await it.ticks(1);
    expect(names.map((name) => memoryOf(it.watch, name).verdict)).toEqual(names.map(() => "active"));
    const times = (path: string) => asked.filter((one) => one === path).length;
    const each = names.map((_, nth) => times(`/proc/${61_000 + nth}/stat`));
    expect([times("/conf/sessions"), ...each]).toEqual([1, ...each.fill(each[0]!)]);
  });
  test("a second change within the instant of the first is seen all the same", async () => {
    const it = await set();
    const at = it.fake.wall;
    says(it, "busy", { at });
    await it.ticks(1);
    expect(verdictOf(it)).toBe("active");
    says(it, "idle", { at });
    await it.ticks(2);
    expect(verdictOf(it)).toBe("idle");
  });
  test("one question per agent and tick; the file is read again only after a change", async () => {
    const it = await set();
    says(it, "idle");
    await it.ticks(2);
    const asked: string[] = [];
    const { mtime, tail } = world;
    Object.assign(world, { mtime: (path: string) => (asked.push(`mtime ${path}`), mtime(path)), tail: (path: string, bytes: number) => (asked.push(`tail ${path}`), tail(path, bytes)) });
    await it.ticks(5);
    expect(asked.filter((one) => one.includes("/conf/"))).toEqual(Array(5).fill(`mtime ${pathOf(it.pane().pid)}`));
    says(it, "busy", { at: it.fake.wall - 10_000 });
    await it.ticks(4);
    expect(asked.filter((one) => one.startsWith("tail /conf"))).toHaveLength(1);
  });
  test("explain names it as the source", async () => {
    const it = await set();
    says(it, "busy");
    const said = await command("explain", "a", "--config", it.cfg.path);
    for (const part of ["verdict  active: it says it is working", "source   its session file", "it says  busy (its session file)", "rule     busy (session file)"]) {
      expect(said.out).toContain(part);
    }
  });
  test("status NAME and explain show it, with the version and what speaks against it; a capture keeps it", async () => {
    const it = await set();
    says(it, "busy");
    await it.ticks(1);
    const card = (await command("status", "a", "--config", it.cfg.path)).out;
    for (const part of [/^is +persistent · claude 2\.1\.330, started with model default/m, /^it says +busy$/m]) expect(card).toMatch(part);
    expect((await command("explain", "a", "--config", it.cfg.path)).out).toMatch(/^but +its session file says busy, its screen idle \(prompt\)$/m);
    const folder = join(import.meta.dir, "fixtures/claude");
    it.fake.folders.add(folder);
    expect((await command("capture", "a", "active-of-a-test", "--config", it.cfg.path)).code).toBe(0);
    expect(JSON.parse(it.fake.files.get(join(folder, "active-of-a-test.json"))!)).toMatchObject({ word: { status: "busy", waitsFor: "" } });
  });
  test("a limit is held until the second that the transcript names, and its tail is read once", async () => {
    const it = await set();
    const path = "/conf/projects/-fleet-my-proj/c1.jsonl";
    const limited = () => {
      it.pane().doing = "limit";
      it.pane().banner = "You've hit your 5-hour limit · resets 2:20pm (UTC)";
      says(it, "idle", { sessionId: "c1", cwd: "/fleet/my.proj" });
    };
    const tails: string[] = [];
    const { tail } = world;
    world.tail = (file, bytes) => (tails.push(file), tail(file, bytes));
    limited();
    it.fake.files.set(path, lines(ASKED, LIMITED, NOTICE));
    it.fake.times.set(path, it.fake.wall - 10_000);
    await it.ticks(4);
    expect(loadLimitState(it.cfg, "agents-a")).toMatchObject({ resetAt: RESET, class: "5h", until: RESET + it.cfg.watchdog.limitResetSlack });
    expect(tails.filter((file) => file === path)).toHaveLength(1);
    const said = await command("explain", "a", "--config", it.cfg.path, "--json");
    expect(JSON.parse(said.out).limit).toEqual({ class: "5h", resetAt: new Date(RESET * 1000).toISOString() });
  });
  describe("an error that a person's long command has pushed off the screen", () => {
    const errors: [string, object, string][] = [
      ["fatal", { ...FAILED, error: "unknown", apiErrorStatus: 400, message: { content: [{ type: "text", text: "API Error: 400 messages.1.content.0: Invalid `signature` in `thinking` block" }] } }, "the conversation is broken"],
      ["blocked", { ...FAILED, error: "billing_error", message: { content: [{ type: "text", text: "Credit balance too low · Add funds: https://example.org" }] } }, "no credit"],
      ["blocked", { ...FAILED, error: "invalid_request", message: { content: [{ type: "text", text: "API Error: 418 I'm a teapot" }] } }, "an error that no rule knows (invalid_request)"],
      ["limited", { ...LIMITED, message: { content: [{ type: "text", text: "You've hit your 5-hour limit · resets 2:20pm (UTC)" }] } }, "5-hour limit, resets 14:20"],
      ["idle", FAILED, "at its prompt"],
      ["idle", SAID, "at its prompt"],
    ];
    let conversations = 0;
    const shows = async (entry: object, output = "     a line of its output\n".repeat(40)) => {
      const it = await set();
      const id = `cut-off-${(conversations += 1)}`;
      it.pane().said = output;
      says(it, "idle", { sessionId: id, cwd: "/fleet/my.proj" });
      it.fake.files.set(`/conf/projects/-fleet-my-proj/${id}.jsonl`, lines(ASKED, entry));
      it.fake.times.set(`/conf/projects/-fleet-my-proj/${id}.jsonl`, it.fake.wall - 10_000);
      await it.ticks(3);
      return it;
    };
    for (const [expected, entry, why] of errors) {
      test(`${expected}: ${why}`, async () => expect<unknown>(believed(await shows(entry))).toEqual([expected, why]));
    }
    test("is one still, also below a command that changed nothing", async () => {
      const menu = "     a line of its output\n\n❯ /model\n  ⎿  Kept model as Sonnet 5.5 (default)";
      expect(believed(await shows(errors[1]![1], menu))).toEqual(["blocked", "no credit"]);
    });
    test("is one no more where the screen shows what came after it", async () => {
      expect(believed(await shows(errors[1]![1], "● Back at work, all done."))![0]).toBe("idle");
    });
    test("and a limit, when its reset has passed", async () => {
      const it = await shows(errors[3]![1]);
      expect(loadLimitState(it.cfg, "agents-a")!.resetAt).toBe(RESET);
      it.fake.wall = RESET * 1000 + 1;
      await it.ticks(2);
      expect([verdictOf(it), loadLimitState(it.cfg, "agents-a")]).toEqual(["idle", null]);
    });
  });
  test("without a transcript the banner stays", async () => {
    const it = await set();
    it.pane().doing = "limit";
    it.pane().banner = "You've hit your 5-hour limit · resets 2:20pm (UTC)";
    says(it, "idle", { sessionId: "c1", cwd: "/fleet/my.proj" });
    await it.ticks(2);
    expect(loadLimitState(it.cfg, "agents-a")!.resetAt).toBe(Date.UTC(2026, 5, 15, 14, 20) / 1000);
  });
  test("no transcript is asked for while nothing shows an error or a limit, but for the model of a turn that is over", async () => {
    const it = await set();
    it.pane().said = `● ${"All of it is done. ".repeat(20)}`; // no error is as long
    await it.ticks(3);
    const asked: string[] = [];
    const { mtime } = world;
    world.mtime = (path) => (asked.push(path), mtime(path));
    says(it, "idle", { sessionId: "c1", cwd: "/fleet/my.proj" });
    await it.ticks(3);
    expect(asked.filter((path) => path.includes("/projects/"))).toEqual([]);
    it.pane().said = `● ${"All of it is done still. ".repeat(20)}`;
    await it.ticks(3);
    expect([1, 2]).toContain(asked.filter((path) => path.includes("/projects/")).length); // once for each look at something new
  });
});

describe("versions", () => {
  const events = (it: Scene, name: string) => (it.fake.files.get(it.file("events.jsonl")) ?? "").split("\n").filter(Boolean)
    .map((line) => JSON.parse(line)).filter(({ event }) => event === name);
  test("what was tried ends at both sides", () => {
    const tried = (kind: "claude" | "opencode" | "typed", ...versions: string[]) => versions.map((version) => isUntried(kind, version));
    expect(tried("claude", "2.0.75", "2.0.76", "2.1.99", "2.1.332", "2.1.333", "3.0.0")).toEqual([true, false, false, false, true, true]);
    expect(tried("opencode", "1.14.40", "1.14.41", "1.18.34", "1.19.0")).toEqual([true, false, false, true]);
    expect(tried("typed", "0.0.1")).toEqual([false]);
  });
  test("the running one is in status; another one under us is an event, and one that nobody tried is told once", async () => {
    const it = await scene(agents("a", "b").replaceAll("[[agent]]", '[[agent]]\nenv = { CLAUDE_CONFIG_DIR = "/conf" }'));
    const versions = async () => JSON.parse((await command("status", "--json", "--config", it.cfg.path)).out).agents.map((row: { version: string }) => row.version);
    for (const name of ["a", "b"]) says(it, "idle", { pid: it.pane(name).pid });
    await it.ticks(2);
    expect(await versions()).toEqual(["2.1.330", "2.1.330"]);
    expect([events(it, "version"), events(it, "untried")]).toEqual([[], []]);
    for (const name of ["a", "b"]) {
      it.fake.tmux.exit(`agents-${name}`, 1);
      await it.ticks(3);
      says(it, "idle", { pid: it.pane(name).pid, version: "2.1.400" });
      await it.ticks(2);
    }
    expect(await versions()).toEqual(["2.1.400", "2.1.400"]);
    expect(events(it, "version")).toMatchObject([{ agent: "a", from: "2.1.330", to: "2.1.400" }, { agent: "b", from: "2.1.330", to: "2.1.400" }]);
    expect(events(it, "untried")).toMatchObject([{ agent: "a", why: "claude 2.1.400 is untested (tested: 2.0.76 to 2.1.332)" }]);
    await it.again();
    await it.ticks(3);
    expect([events(it, "version").length, events(it, "untried").length]).toEqual([2, 1]);
    it.fake.tmux.exit("agents-a", 1);
    expect((await versions())[0]).toBe("");
  });
  test("one that writes no file says it on its screen", async () => {
    const it = await set();
    it.pane().said = " ▐▛███▜▌   Claude Code v2.0.76\n▝▜█████▛▘  Opus 4.5\n\n● Ready.";
    await it.ticks(2);
    expect(memoryOf(it.watch, "a").version).toBe("2.0.76");
  });
  test("sources that contradict each other on three looks in a row are told once for a version", async () => {
    const it = await set();
    const round = async (status: string, count: number) => (says(it, status), it.ticks(count));
    await round("busy", 2);
    await round("idle", 2);
    await round("busy", 2);
    expect(events(it, "drift")).toEqual([]);
    await it.ticks(1);
    expect(events(it, "drift")).toMatchObject([{ agent: "a", version: "2.1.330", why: "its session file says busy, its screen idle (prompt)" }]);
    await round("idle", 2);
    await round("busy", 4);
    expect(events(it, "drift")).toHaveLength(1);
  });
  test("what agrees, and what a file cannot know, is no drift", async () => {
    const it = await set();
    for (const [status, doing] of [["idle", "limit"], ["busy", "busy"], ["waiting", "dialog"], ["shell", "idle"], ["waiting", "menu"]] as const) {
      says(it, status);
      it.pane().doing = doing;
      await it.ticks(4);
    }
    expect(events(it, "drift")).toEqual([]);
  });
});

// ── Codex: the rollout file that it has open ──

const THREAD = "01a21799-41e1-7432-a67c-c50b300e8046";
const rows = (...of: string[]): string => `${of.join("\n")}\n`;
const entry = (type: string, payload: object, at = NOON) => JSON.stringify({ timestamp: new Date(at).toISOString(), ordinal: 1, type, payload });
const meta = (some: object = {}) => entry("session_meta", { id: THREAD, cwd: "/fleet", thread_source: "user", ...some });
const turn = (type: string, at = NOON) => entry("event_msg", { type, turn_id: "t" }, at);
const windows = (primary: object | null, secondary: object | null = null) => entry("event_msg", { type: "token_count", rate_limits: { limit_id: "codex", primary, secondary } });
const FIVE = { used_percent: 100, window_minutes: 300, resets_at: RESET };
const WEEK = { used_percent: 40, window_minutes: 10_080, resets_at: RESET + 400_000 };

describe("P38: the end of a Codex rollout", () => {
  test("the newest entry that begins or ends a turn, the newest limits", () => {
    const said = parseRolloutEnd(rows(turn("task_complete", NOON - 9), windows(WEEK), turn("task_started"), windows(FIVE, WEEK), entry("response_item", { type: "message" })));
    expect(said).toEqual({ turn: { open: true, at: NOON, error: "", limited: false, cured: false }, windows: [{ used: 100, minutes: 300, resetAt: RESET * 1000 }, { used: 40, minutes: 10_080, resetAt: (RESET + 400_000) * 1000 }] });
    for (const end of ["task_complete", "turn_aborted"]) expect(parseRolloutEnd(rows(turn("task_started"), turn(end))).turn).toMatchObject({ open: false });
  });
  test("a command that a person ran is no turn once it has ended", () => {
    const ran = (trigger: object) => [entry("event_msg", { type: "task_started", turn_id: "own", ...trigger }),
      entry("event_msg", { type: "item_completed", turn_id: "own", item: { source: "user_shell" } }),
      entry("event_msg", { type: "task_complete", turn_id: "own", last_agent_message: null })];
    const failed = entry("event_msg", { type: "task_complete", turn_id: "t", last_agent_message: null, error: { codex_error_info: "usage_limit_exceeded", message: "You’ve hit your usage limit." } });
    const limitAfter = (...later: string[]) => parseRolloutEnd(rows(turn("task_started"), failed, ...later)).turn?.error;
    const [own, users] = [{ turn_attribution: { turn_trigger: null } }, { turn_attribution: { turn_trigger: "user" } }];
    expect([limitAfter(), limitAfter(...ran(own)), limitAfter(...ran(own), windows(WEEK), ...ran(own))]).toEqual(Array(3).fill("■ You’ve hit your usage limit."));
    // a compaction has no trigger, and an older version none at all; a turn of the agent may end without a word too
    expect([limitAfter(...ran({})), limitAfter(...ran(users)), limitAfter(...ran(own), turn("turn_aborted"))]).toEqual(["", "", ""]);
    expect(parseRolloutEnd(rows(failed, ran(own)[0]!)).turn).toMatchObject({ open: true });
  });
  test("what an agent quotes, what is cut off and what has another shape says nothing", () => {
    const quote = entry("response_item", { type: "message", content: [{ text: turn("task_started") }] });
    for (const tail of ["", "{", quote, turn("task_started").slice(30), entry("event_msg", { type: "token_count", rate_limits: null }), entry("other", { type: "task_started" })]) {
      expect(parseRolloutEnd(tail)).toEqual({ turn: null, windows: [] });
    }
  });
  const limited = (resetAt: number | null) => ({ ...verdict("limited"), limit: { class: "other" as const, resetAt, banner: "b", native: false } });
  const judged = (said: string, shown: ReturnType<typeof verdict>, born = NOON - 60_000) => decideCodex(parseRolloutEnd(said), shown, born, NOON);
  test("a limit has the reset and the class of the window that is used up", () => {
    expect(judged(rows(windows(FIVE, WEEK)), limited(RESET * 1000 - 3_540_000)).limit).toMatchObject({ class: "5h", resetAt: RESET * 1000, exact: true });
    expect(judged(rows(windows(FIVE, { ...WEEK, used_percent: 100 })), limited(null)).limit).toMatchObject({ class: "weekly", resetAt: (RESET + 400_000) * 1000 });
    expect(judged(rows(windows({ ...FIVE, used_percent: 99 }, WEEK)), limited(RESET * 1000 - 30_000)).limit).toMatchObject({ class: "5h", resetAt: RESET * 1000 });
    for (const none of [rows(windows({ ...FIVE, used_percent: 60 }, WEEK)), rows(windows({ ...FIVE, resets_at: RESET * 10 })), ""]) {
      expect(judged(none, limited(NOON)).limit).toMatchObject({ class: "other", resetAt: NOON });
    }
  });
  test("a turn under way is work where the screen looks at rest, unless another process began it", () => {
    expect(judged(turn("task_started"), verdict("idle"))).toMatchObject({ verdict: "active", where: "rollout" });
    for (const name of ["blocked", "limited", "fatal", "unsure"] as const) expect(judged(turn("task_started"), verdict(name)).verdict).toBe(name);
    expect(judged(turn("task_started"), verdict("idle"), NOON + 60_000).verdict).toBe("idle");
    expect(judged(turn("task_complete"), verdict("idle")).verdict).toBe("idle");
    expect(decideCodex(null, verdict("idle"), 0, NOON).verdict).toBe("idle");
  });
  test("a limit ends with its reset, not when its banner leaves the screen", () => {
    const message = "You’ve hit your usage limit. Visit https://chatgpt.com/settings/usage to purchase more credits or try again at Jun 16th, 2026 1:00 PM.";
    const refused = (codex_error_info = "usage_limit_exceeded") => entry("event_msg", { type: "task_complete", error: { message, codex_error_info } }, NOON - 9);
    const ahead = { ...WEEK, used_percent: 100, resets_at: NOON / 1000 + 60 };
    expect(judged(rows(windows(ahead), refused()), verdict("idle"))).toMatchObject({ verdict: "limited", where: "rollout", limit: { class: "weekly", resetAt: NOON + 60_000, exact: true } });
    expect(judged(refused(), verdict("idle"))).toMatchObject({ verdict: "limited", limit: { class: "other" } });
    const over = rows(windows({ ...ahead, resets_at: NOON / 1000 - 1 }), refused());
    for (const said of [over, rows(refused(), turn("task_complete"))]) expect(judged(said, verdict("idle")).verdict).toBe("idle");
    expect(judged(refused(), verdict("idle"), NOON + 60_000).verdict).toBe("idle");
    for (const name of ["active", "blocked", "fatal", "unsure"] as const) expect(judged(refused(), verdict(name)).verdict).toBe(name);
  });
  test("a limit whose words no rule knows is one by the rollout's own word, while a window is used up", () => {
    const refused = (codex_error_info: string) => entry("event_msg", { type: "task_complete", error: { message: "Plan quota is used up.", codex_error_info } }, NOON - 9);
    const ahead = windows({ ...WEEK, used_percent: 100, resets_at: NOON / 1000 + 60 });
    expect(judged(rows(ahead, refused("usage_limit_exceeded")), verdict("idle"))).toMatchObject({ verdict: "limited", where: "rollout", limit: { class: "weekly", resetAt: NOON + 60_000, exact: true } });
    for (const said of [rows(ahead, refused("other")), rows(refused("usage_limit_exceeded"))]) expect(judged(said, verdict("idle")).verdict).toBe("idle");
  });
});

/** A turn that ended with an error. */
const failure = (message: string, at = NOON - 9) => entry("event_msg", { type: "task_complete", turn_id: "t", last_agent_message: null, error: { message, codex_error_info: "other" } }, at);

describe("an error of Codex that has left the screen", () => {
  const gone = { ...verdict("idle"), cutOff: true as const };
  const judged = (said: string, shown: ReturnType<typeof verdict> = gone, born = NOON - 60_000) => decideCodex(parseRolloutEnd(said), shown, born, NOON);
  const [login, full] = ["unexpected status 401 Unauthorized: Incorrect API key", "Codex ran out of room in the model's context window. Start a new thread."];
  test("is judged as if it still stood there", () => {
    expect(judged(failure(login))).toMatchObject({ verdict: "blocked", where: "rollout", why: "an error that stays" });
    expect(judged(failure(full))).toMatchObject({ verdict: "fatal", where: "rollout" });
    expect(judged(failure("You’ve hit your usage limit. Upgrade to Pro or try again later."))).toMatchObject({ verdict: "limited", limit: { resetAt: null } });
    for (const passing of ["exceeded retry limit, last status: 429 Too Many Requests", "stream disconnected before completion: x"]) expect(judged(failure(passing)).verdict).toBe("idle");
  });
  test("is none where the screen shows something newer, nor one of an older turn, of another process or cured by a person", () => {
    expect(judged(failure(login), verdict("idle")).verdict).toBe("idle");
    for (const name of ["active", "blocked", "unsure"] as const) expect(judged(failure(full), { ...gone, verdict: name }).verdict).toBe(name);
    expect(judged(rows(failure(login), turn("task_complete"))).verdict).toBe("idle");
    expect(judged(failure(login), gone, NOON + 60_000).verdict).toBe("idle");
    const model = entry("event_msg", { type: "thread_settings_applied", thread_settings: {} });
    expect([judged(rows(failure(login), model)).verdict, judged(rows(model, turn("task_started"), failure(login))).verdict]).toEqual(["idle", "blocked"]);
  });
});

/** The row of an agent in `status --json`. */
const rowOf = async (it: Scene) => (JSON.parse((await command("status", "--json", "--config", it.cfg.path)).out) as Status).agents[0]!;

describe("P38: a Codex agent in a round", () => {
  const BOX = "\n\n› Ask Codex to do anything\n\n  gpt-6-sol high · /fleet\n  ? for shortcuts\n";
  // a folder for each: what a file said is remembered by its path and time, which these share
  let day = "";
  const begin = async (more = "") => {
    day = `/home/.codex/sessions/${crypto.randomUUID()}`;
    const it = await scene(`[[agent]]\nname = "a"\nbackend = "codex"\nwatch = "heal"\nresume = true\nprompt = "Work."\n${more}`, { ticks: 1 });
    it.pane().text = `• OK${BOX}`;
    return it;
  };
  const writes = (it: Scene, id: string, when: string, text: string, pid = it.pane().pid) => {
    const path = `${day}/rollout-2026-06-15T${when}-${id}.jsonl`;
    it.fake.files.set(path, text);
    it.fake.times.set(path, it.fake.wall);
    it.fake.opened.set(pid, [...(it.fake.opened.get(pid) ?? []), path, "/dev/null"]);
  };
  const idOf = (it: Scene) => it.fake.files.get(join(it.cfg.stateDir, "a.id"))?.trim();
  test("the conversation that it has open is resumed after kill -9, and needs a word only", async () => {
    const it = await begin();
    writes(it, THREAD, "11-00-00", rows(meta()));
    await it.ticks(2);
    expect(idOf(it)).toBe(THREAD);
    it.fake.tmux.kill(it.pane());
    await it.ticks(2);
    const { argv } = it.fake.everyPane.at(-1)!;
    expect(argv.slice(4)).toEqual([expect.stringContaining("continue where you stopped"), "--no-daemon", "resume", THREAD]);
  });
  test("its model is the one under its box, not one that it quotes", async () => {
    const it = await begin();
    await it.ticks(2);
    expect(await rowOf(it)).toMatchObject({ model: "gpt-6-sol", modelFrom: "client" });
    it.pane().text = `• OK\n  gpt-9-luna high · /srv/x${BOX.replace("gpt-6-sol", "gpt-6-luna")}`;
    await it.ticks(2);
    expect(await rowOf(it)).toMatchObject({ model: "gpt-6-luna", modelFrom: "client" });
    it.fake.tmux.kill(it.pane());
    await it.ticks(1);
    expect(await rowOf(it)).toMatchObject({ model: "default", modelFrom: "start" });
  });
  test("a newer conversation of the same client counts, that of a sub-agent does not", async () => {
    const it = await begin();
    const [newer, other] = ["01a217ae-85cf-72c1-8b85-998520f5637d", "01a217af-85cf-72c1-8b85-998520f5637d"];
    writes(it, THREAD, "11-00-00", rows(meta()));
    writes(it, newer, "11-30-00", rows(meta()));
    writes(it, other, "11-40-00", rows(meta({ thread_source: "subagent" })));
    await it.ticks(2);
    expect(idOf(it)).toBe(newer);
  });
  test("of those that it has open the one written last counts: a person went back to an older one by /resume", async () => {
    const it = await begin();
    const newer = "01a217ae-85cf-72c1-8b85-998520f5637d";
    writes(it, THREAD, "11-00-00", rows(meta()));
    writes(it, newer, "11-30-00", rows(meta()));
    await it.ticks(2);
    expect(idOf(it)).toBe(newer);
    writes(it, THREAD, "11-00-00", rows(meta(), turn("task_started", it.fake.wall)));
    await it.ticks(2);
    expect([idOf(it), verdictOf(it)]).toEqual([THREAD, "active"]);
  });
  test("one that cannot be read is nobody's: the conversation stays what it was", async () => {
    const it = await begin();
    const newer = "01a217ae-85cf-72c1-8b85-998520f5637e";
    writes(it, THREAD, "11-00-00", rows(meta()));
    writes(it, newer, "11-30-00", rows(meta()));
    const { head } = world;
    world.head = (path, bytes) => {
      if (path.includes(newer)) throw new Error("EACCES: permission denied");
      return head(path, bytes);
    };
    await it.ticks(2);
    expect(idOf(it)).toBe(THREAD);
  });
  test("a long conversation says what the client does as a short one: of its file only the ends are read", async () => {
    const it = await begin();
    const { read } = world;
    world.read = (path) => {
      if (path.includes(THREAD)) throw new Error(`${path} is too large (17 MB)`);
      return read(path);
    };
    writes(it, THREAD, "11-00-00", rows(meta(), turn("task_complete", it.fake.wall)));
    await it.ticks(2);
    expect([idOf(it), verdictOf(it)]).toEqual([THREAD, "idle"]);
    writes(it, THREAD, "11-00-00", rows(meta(), "x".repeat(1_000_000), turn("task_started", it.fake.wall)));
    await it.ticks(1);
    expect(verdictOf(it)).toBe("active");
  });
  test("on a disk that does not answer nothing of the client's own is touched, and nothing is believed until it does", async () => {
    const it = await begin();
    writes(it, THREAD, "11-00-00", rows(meta(), turn("task_complete", it.fake.wall)));
    await it.ticks(2);
    const touched: string[] = [];
    const { head, tail, list, mtime } = world;
    const note = <T extends unknown[], R>(call: (...args: T) => R) => (...args: T): R => {
      if (String(args[0]).includes("rollout-") || String(args[0]).includes("sessions")) touched.push(String(args[0]));
      return call(...args);
    };
    Object.assign(world, { head: note(head), tail: note(tail), list: note(list), mtime: note(mtime), answers: async () => false });
    await it.ticks(2);
    expect([verdictOf(it), memoryOf(it.watch, "a").why, touched]).toEqual(["unsure", "the disk with its own files does not answer", []]);
    world.answers = async () => true;
    await it.ticks(2);
    expect(verdictOf(it)).toBe("idle");
  });
  test("that of a Codex which it runs itself does not count", async () => {
    const it = await begin();
    const { pid } = it.pane();
    it.fake.opened.set(pid, ["/dev/pts/1"]);
    for (const [parent, child] of [[pid, 61_000], [61_000, 61_001]]) it.fake.files.set(`/proc/${parent}/task/${parent}/children`, `${child} `);
    // the pane's own process is a wrapper
    writes(it, THREAD, "11-00-00", rows(meta(), turn("task_complete", it.fake.wall)), 61_000);
    writes(it, "01a217af-85cf-72c1-8b85-998520f5637d", "11-40-00", rows(meta(), turn("task_started", it.fake.wall)), 61_001);
    await it.ticks(2);
    expect([idOf(it), verdictOf(it)]).toEqual([THREAD, "idle"]);
  });
  test("without an open rollout no id is believed", async () => {
    const it = await begin();
    it.fake.opened.set(it.pane().pid, ["/dev/pts/1"]);
    writes(it, THREAD, "11-00-00", rows(meta()), 7);
    await it.ticks(2);
    expect(idOf(it)).toBeUndefined();
  });
  describe("where the system does not tell what it has open", () => {
    const home = join(process.env.CODEX_HOME ?? join(homedir(), ".codex"), "sessions");
    const uuid = () => crypto.randomUUID();
    /** One that began so many seconds after the client was started. */
    const began = (it: Scene, id: string, after: number, some: object = {}) => {
      const at = new Date(it.pane().created + after * 1000).toISOString();
      const path = `${home}/${at.slice(0, 10).replaceAll("-", "/")}/rollout-${at.slice(0, 19).replaceAll(":", "-")}-${id}.jsonl`;
      it.fake.files.set(path, rows(meta({ id, timestamp: at, ...some })));
      it.fake.times.set(path, it.fake.wall);
      return [id, path] as const;
    };
    test("the one that began with it in its folder is its own", async () => {
      const it = await begin();
      began(it, uuid(), 3, { cwd: "/elsewhere" });
      began(it, uuid(), 3, { thread_source: "subagent" });
      began(it, uuid(), -3600);
      await it.ticks(2);
      expect(idOf(it)).toBeUndefined();
      const [id, path] = began(it, uuid(), 4);
      await it.ticks(1);
      expect(idOf(it)).toBe(id);
      it.fake.files.set(path, it.fake.files.get(path)! + turn("task_started", it.fake.wall));
      it.fake.times.set(path, it.fake.wall);
      await it.ticks(2);
      expect(verdictOf(it)).toBe("active");
      it.fake.tmux.kill(it.pane());
      await it.ticks(2);
      expect(it.fake.everyPane.at(-1)!.argv.slice(4)).toEqual([expect.anything(), "--no-daemon", "resume", id]);
      await it.ticks(8);
      expect(idOf(it)).toBe(id);
    });
    test("of two each may be somebody else's: neither is resumed, nor the one that was alone before", async () => {
      const it = await begin();
      const [id] = began(it, uuid(), 3);
      await it.ticks(8);
      expect(idOf(it)).toBe(id);
      began(it, uuid(), 9);
      await it.ticks(8);
      expect(idOf(it)).toBeUndefined();
    });
    test("nor is one where another Codex agent works in the same folder", async () => {
      const it = await begin('[[agent]]\nname = "b"\nbackend = "codex"\nprompt = "Work."\n');
      began(it, uuid(), 3);
      await it.ticks(8);
      expect(idOf(it)).toBeUndefined();
    });
    test("by whatever path that one keeps its conversations in the same place", async () => {
      const it = await begin('[[agent]]\nname = "b"\nbackend = "codex"\nprompt = "Work."\nenv = { CODEX_HOME = "/mounted/codex" }\n');
      world.folderId = (path) => ["/mounted/codex", dirname(home)].includes(path) ? "1:1" : "";
      began(it, uuid(), 3);
      await it.ticks(8);
      expect(idOf(it)).toBeUndefined();
    });
    test("unless that one keeps its conversations elsewhere", async () => {
      const it = await begin('[[agent]]\nname = "b"\nbackend = "codex"\nprompt = "Work."\nenv = { CODEX_HOME = "/srv/b" }\n');
      const [id] = began(it, uuid(), 3);
      await it.ticks(8);
      expect(idOf(it)).toBe(id);
    });
  });
  test("its limit is held until the second that the rollout names", async () => {
    const it = await begin();
    const at = Math.floor(it.fake.wall / 1000) + 3_000;
    it.pane().text = `■ You’ve hit your usage limit. Visit x or try again later.${BOX}`;
    writes(it, THREAD, "11-00-00", rows(meta(), windows({ ...FIVE, resets_at: at }, WEEK)));
    await it.ticks(2);
    expect(loadLimitState(it.cfg, "agents-a")).toMatchObject({ class: "5h", resetAt: at });
  });
  test("an error that a person's long command has pushed off the screen needs a person still", async () => {
    const it = await begin();
    it.pane().text = readFileSync(join(import.meta.dir, "fixtures/codex/idle-error-off-screen-80x24.txt"), "utf8");
    writes(it, THREAD, "11-00-00", rows(meta(), failure("unexpected status 401 Unauthorized: x", it.fake.wall)));
    await it.ticks(2);
    expect([verdictOf(it), memoryOf(it.watch, "a").why]).toEqual(["blocked", "an error that stays"]);
  });
  test("a pattern that is too slow for an error which has left the screen is switched off for this agent, not for the next one", async () => {
    const evil = "(?m)^(?:■ )?(a+)+$";
    const it = await begin(`[[agent]]\nname = "b"\nbackend = "codex"\nwatch = "heal"\nprompt = "Work."\n[backend.codex]\nrule = [{ verdict = "limited", where = "last 8", re = '${evil}' }]\n`);
    it.pane("b").text = readFileSync(join(import.meta.dir, "fixtures/codex/idle-error-off-screen-80x24.txt"), "utf8");
    fasterClock();
    let slow = "aaaaaaaaaaaaaaab"; // each letter more doubles what it takes: no more than take over 200 ms
    while (took(() => parsePattern(evil).exec(slow), 600 / FASTER) < 600 / FASTER) slow = `a${slow}`;
    writes(it, THREAD, "11-00-00", rows(meta(), failure(slow, it.fake.wall)), it.pane("b").pid);
    await it.ticks(3);
    expect(it.fake.logged("switched off")).toEqual([expect.stringContaining(`b: the pattern "${evil}" of backend "codex" takes over 200 ms`)]);
  });
  test("its version is what it draws as it starts", async () => {
    const it = await begin();
    it.pane().text = `  >_ OpenAI Codex (v0.169.0)  \n     /fleet\n\n• OK${BOX}`;
    await it.ticks(2);
    expect(memoryOf(it.watch, "a").version).toBe("0.169.0");
  });
  test("a second change within the instant of the first is seen all the same", async () => {
    const it = await begin();
    const at = it.fake.wall;
    writes(it, THREAD, "11-00-00", rows(meta(), turn("task_started", at)));
    await it.ticks(1);
    expect(verdictOf(it)).toBe("active");
    writes(it, THREAD, "11-00-00", rows(meta(), turn("task_started", at), turn("task_complete", at)));
    it.fake.times.set(`${day}/rollout-2026-06-15T11-00-00-${THREAD}.jsonl`, at);
    await it.ticks(3);
    expect(verdictOf(it)).toBe("idle");
  });
  test("a turn under way is work, whatever the title says", async () => {
    const it = await begin();
    writes(it, THREAD, "11-00-00", rows(meta(), turn("task_started", it.fake.wall)));
    await it.ticks(2);
    expect(verdictOf(it)).toBe("active");
  });
});

// ── Gemini: the file of its conversation ──

describe("the chat file of a Gemini agent", () => {
  const screen = (name: string) => readFileSync(join(import.meta.dir, `fixtures/gemini/${name}.txt`), "utf8");
  const [KEY, FULL, DAY] = [
    '[API Error: {"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED","details":[]}}]',
    '[API Error: {"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT","details":[]}}]',
    "[API Error: You have exhausted your daily quota on this model.]\nPlease wait and try again later.",
  ];
  let nth = 0;
  /** An agent whose last turn ended so, with a person's long command after it. */
  const begin = async (notes: (said: (type: string, content: unknown, more?: object) => string) => string[], { by = "", submitted = [] as string[], shown = "idle-error-off-screen-80x24" } = {}) => {
    const it = await scene(`[[agent]]\nname = "a"\nbackend = "gemini"\nwatch = "heal"\nresume = true\nprompt = "Work."\nenv = { GEMINI_CLI_HOME = "/gem${(nth += 1)}" }\n`, { ticks: 1 });
    const id = it.fake.files.get(join(it.cfg.stateDir, "a.id"))!.trim();
    const [home, when] = [`/gem${nth}/.gemini`, (after: number) => new Date(it.fake.wall + after).toISOString()];
    const said = (type: string, content: unknown, more: object = {}) => JSON.stringify({ id: "m", timestamp: when(0), type, content: type === "user" ? [{ text: content }] : content, ...more });
    const chat = `${home}/tmp/proj/chats/session-2026-06-15T11-00-${id.slice(0, 8)}.jsonl`;
    const head = JSON.stringify({ sessionId: by || id, kind: "main" });
    it.fake.files.set(`${home}/projects.json`, JSON.stringify({ projects: { "/elsewhere": "other", [it.cfg.agents.get("a")!.dir]: "proj" } }));
    it.fake.files.set(chat, rows(head, ...notes(said)));
    it.fake.files.set(chat.replace("11-00", "12-00"), rows(JSON.stringify({ sessionId: id, kind: "main" })));
    it.fake.files.set(`${home}/tmp/proj/logs.json`, JSON.stringify(submitted.map((message) => ({ sessionId: id, type: "user", message, timestamp: when(1_000) })), null, 2));
    for (const [path] of it.fake.files) if (path.startsWith(home)) it.fake.times.set(path, it.fake.wall);
    it.fake.times.set(chat.replace("11-00", "12-00"), it.fake.wall - 60_000);
    it.pane().text = screen(shown);
    await it.ticks(2);
    return it;
  };
  const COMMAND = "I ran the following shell command:\n```sh\ncat long.txt\n```";
  const failed = (error: string): Parameters<typeof begin>[0] => (said) => [said("user", "go on"), said("error", error), said("info", "This request failed."), said("user", COMMAND), '{"$set":{"lastUpdated":"now"}}'];
  test("tells of an error that has left the screen", async () => {
    expect<unknown>(believed(await begin(failed(KEY)))).toEqual(["blocked", "an error that stays"]);
    expect<unknown>(believed(await begin(failed(FULL), { submitted: ["/stats"] }))).toEqual(["fatal", "the conversation is broken"]);
    expect(verdictOf(await begin(failed(DAY)))).toBe("limited");
    expect(verdictOf(await begin(failed('[API Error: {"error":{"code":503,"message":"x"}}]')))).toBe("idle");
  });
  test("knows what an error is whose beginning has left the screen", async () => {
    expect<unknown>(believed(await begin(failed(FULL), { shown: "blocked-error-cut-off-60x18" }))).toEqual(["fatal", "the conversation is broken"]);
    expect<unknown>(believed(await begin(() => [], { shown: "blocked-error-cut-off-60x18" }))).toEqual(["blocked", "an error, cut off"]);
  });
  test("is found without a look at the other folders that Gemini lists, which may be on a disk that hangs", async () => {
    const it = await begin(failed(KEY));
    const { realPath } = world;
    const asked: string[] = [];
    world.realPath = (path) => (asked.push(path), realPath(path));
    const list = async (folder: string) => {
      it.fake.files.set(`/gem${nth}/.gemini/projects.json`, JSON.stringify({ projects: { "/elsewhere": "other", [folder]: "proj" } }));
      it.fake.turn(1_000);
      it.fake.times.set(`/gem${nth}/.gemini/projects.json`, it.fake.wall);
      await it.ticks(2);
      return verdictOf(it);
    };
    expect(await list(it.cfg.agents.get("a")!.dir)).toBe("blocked");
    expect(await list("/the/real/folder")).toBe("idle");
    world.folder = () => "/the/real/folder";
    expect([await list("/the/real/folder"), asked.filter((path) => path === "/elsewhere")]).toEqual(["blocked", []]);
  });
  test("says nothing of another session, an older turn or an older process, nor after what a person did about it", async () => {
    expect(verdictOf(await begin(failed(KEY), { by: "11111111-2222-4333-8444-555555555555" }))).toBe("idle");
    expect(verdictOf(await begin((said) => [...failed(KEY)(said), said("user", "again"), said("gemini", "OK")]))).toBe("idle");
    expect(verdictOf(await begin((said) => [...failed(KEY)(said), said("user", "again")]))).toBe("idle");
    expect(verdictOf(await begin((said) => [said("error", KEY, { timestamp: "2026-01-01T00:00:00Z" })]))).toBe("idle");
    for (const cure of ["/auth", "/model", "/clear", "/resume"]) expect([cure, verdictOf(await begin(failed(KEY), { submitted: [cure] }))]).toEqual([cure, "idle"]);
  });
  test("is not asked where the screen shows the end of the turn", async () => {
    expect(verdictOf(await begin(failed(KEY), { shown: "idle-after-read-200x50" }))).toBe("idle");
  });
});

test("the id of its conversation is not read in a round where the client does not say which one it is in", async () => {
  const it = await scene('[backend.plain]\nkind = "typed"\nbin = "claude"\nresume_args = "--resume $id"\n[[agent]]\nname = "a"\nbackend = "plain"\nwatch = "heal"\nresume = true\nprompt = "Work."\n');
  const { text } = world;
  const read: string[] = [];
  world.text = (path, ...more) => (read.push(path), text(path, ...more));
  await it.ticks(3);
  expect([read.includes(it.file("operator.json")), it.starts(), memoryOf(it.watch, "a").life.state, read.includes(it.file("a.id"))]).toEqual([true, 1, "up", false]);
});

describe("a conversation that a person has begun in a Claude Code", () => {
  const TEXT = FLEET.replace("[[agent]]", '[[agent]]\nresume = true\nprompt = "Work."');
  const prompt = (content: string) => lines({ ...ASKED, message: { content } });
  /** After /clear, and what is in the transcript by then; the words of the next start. */
  const after = async (transcript: string, some: object = {}) => {
    const it = await scene(TEXT);
    const idOf = () => it.fake.files.get(it.file("a.id"))!.trim();
    const first = idOf();
    const inConversation = (conversation: string, more = {}) => says(it, "idle", { sessionId: conversation, cwd: "/x", ...more });
    inConversation(first);
    it.fake.files.set(`/conf/projects/-x/${first}.jsonl`, prompt("Work."));
    await it.ticks(2);
    if (transcript) it.fake.files.set("/conf/projects/-x/second.jsonl", transcript);
    it.fake.turn(5_000);
    inConversation("second", some);
    await it.ticks(2);
    const id = idOf() === first ? "first" : idOf();
    it.fake.tmux.exit("agents-a", 1);
    await it.ticks(3);
    const words = it.fake.everyPane.at(-1)!.argv.join(" ");
    return [id, it.starts(), words.includes(`--resume ${idOf()}`), words.includes("continue where you stopped")];
  };
  test("is resumed, with its kickoff", async () => expect(await after(prompt("look at this"))).toEqual(["second", 2, true, false]));
  test("is not, before anything was said in it", async () => {
    expect(await after("")).toEqual(["first", 2, true, true]);
    expect(await after(prompt("<command-name>/clear</command-name>"))).toEqual(["first", 2, true, true]);
  });
  test("is not kept once more where a fatal error has cost its id, and tmux does not close its pane", async () => {
    const it = await scene(TEXT);
    const first = it.fake.files.get(it.file("a.id"))!.trim();
    says(it, "idle", { sessionId: first, cwd: "/x" });
    it.fake.files.set(`/conf/projects/-x/${first}.jsonl`, prompt("Work."));
    await it.ticks(2);
    memoryOf(it.watch, "a").lastFatal = it.fake.wall;
    Object.assign(it.pane(), { doing: "fatal", ignores: ["SIGHUP", "SIGTERM"] });
    const { tmux } = world;
    let silent = 0;
    world.tmux = async (args, ...rest) => args[0] !== "if-shell" || silent++ ? tmux(args, ...rest)
      : { ok: false, out: "", err: "no answer in time", timedOut: true };
    await it.ticks(8);
    expect([silent > 0, it.starts(), it.fake.everyPane.at(-1)!.argv.includes(first)]).toEqual([true, 2, false]);
  });
  test("is not where it is another's", async () => expect(await after(prompt("look at this"), { pid: 1 })).toEqual(["first", 2, true, true]));
});

describe("what a client records of the texts that it is given is the proof that it has them", () => {
  const PATH = "/conf/projects/-fleet-my-proj/rec.jsonl";
  const at = (it: Scene) => new Date(it.fake.wall).toISOString();
  /** A Claude Code that records what is submitted to it, `after` ms later; null = never. */
  const begin = async (after: number | null) => {
    const it = await set();
    const write = (more: object) => {
      it.fake.files.set(PATH, `${it.fake.files.get(PATH) ?? ""}${lines(more)}`);
      it.fake.times.set(PATH, it.fake.wall);
    };
    write({ ...SAID, timestamp: at(it) });
    says(it, "idle", { sessionId: "rec", cwd: "/fleet/my.proj" });
    let told = "";
    it.pane().onSubmit = (text) => {
      it.pane().said = "● What it prints pushes the text out of sight.";
      told = text;
    };
    const { sleep } = world;
    let since = 0;
    world.sleep = async (ms) => {
      await sleep(ms);
      since += told ? ms : 0;
      if (told && after !== null && since >= after) write({ ...ASKED, message: { content: told }, timestamp: at(it) }), (told = "");
    };
    return Object.assign(it, { write });
  };
  const tell = async (it: Scene, ticks: number, text = "hear this, whoever it may concern") => {
    enqueue(it.watch, "a", "claim", text);
    await it.ticks(ticks);
    return [it.pane().received.length, it.watch.delivered.length, it.watch.outbox.map(({ why }) => why), it.watch.unproven.map((one) => one.text)];
  };
  const NO_SIGN = "Enter was pressed; no sign yet that it was accepted";
  test("also where its screen shows nothing of them", async () => expect(await tell(await begin(300), 1)).toEqual([1, 1, [], []]));
  test("a text that left the box and is not recorded waits, is typed once more, and is unconfirmed in the end", async () => {
    const it = await begin(null);
    expect(await tell(it, 1)).toEqual([1, 0, [NO_SIGN], []]);
    await it.ticks(8);
    expect(await tell(it, 0, "x")).toEqual([2, 0, [undefined], ["hear this, whoever it may concern"]]);
    it.write({ ...ASKED, message: { content: [{ type: "text", text: "hear this,\nwhoever it may concern" }] }, timestamp: new Date(it.fake.wall).toISOString() });
    await it.ticks(3);
    expect([it.watch.unproven, it.watch.delivered.length, it.pane().received]).toEqual([[], 1, ["hear this, whoever it may concern", "hear this, whoever it may concern", "x"]]);
  });
  test("an Enter that was swallowed is not believed for what another text, recorded just before, has in common", async () => {
    const it = await begin(0);
    const key = it.pane().key.bind(it.pane());
    it.write({ ...ASKED, message: { content: "please continue with the plan" }, timestamp: at(it) });
    let swallowed = 0;
    it.pane().key = (name) => (name === "Enter" && swallowed++ < 1 ? undefined : key(name)) as never;
    expect([await tell(it, 1, "continue"), swallowed, it.pane().received]).toEqual([[1, 1, [], []], 2, ["continue"]]);
  });
  test("Gemini's log of the folder says nothing of an id that this client has never used", async () => {
    const [home, text, id] = ["/gem-log/.gemini", "hear this, whoever it may concern", "11111111-2222-4333-8444-555555555555"];
    const box = "[backend.gemini]\nconnect_delay = 1\nbox_re = '^❯\u00a0(?<text>[^]*?)\\n─{8}'\n";
    const it = await scene(`${box}[[agent]]\nname = "a"\nbackend = "gemini"\nwatch = "heal"\nresume = false\nprompt = "Work."\nenv = { GEMINI_CLI_HOME = "/gem-log" }\n`, { ticks: 5 });
    const write = (file: string, value: unknown) => {
      it.fake.files.set(`${home}/${file}`, JSON.stringify(value, null, 2));
      it.fake.times.set(`${home}/${file}`, it.fake.wall);
    };
    const entry = (sessionId: string, message: string, before = 0) => ({ sessionId, type: "user", message, timestamp: new Date(it.fake.wall - before).toISOString() });
    it.fake.files.set(join(it.cfg.stateDir, "a.id"), `${id}\n`); // of a time when it resumed
    write("projects.json", { projects: { [it.cfg.agents.get("a")!.dir]: "proj" } });
    write("tmp/proj/logs.json", [entry(id, "long ago", 86_400_000)]);
    it.pane().onSubmit = (value) => {
      it.pane().said = "✦ What it prints pushes the text out of sight.";
      write("tmp/proj/logs.json", [entry(id, "long ago", 86_400_000), entry("another", value)]);
    };
    await it.ticks(2);
    expect(await tell(it as never, 10, text)).toEqual([1, 1, [], []]);
  });
  test("a conversation that was begun after a text, as by /clear, says nothing of it", async () => {
    const it = await begin(null);
    const { onSubmit } = it.pane();
    it.pane().onSubmit = (text) => (onSubmit!(text), it.fake.files.set(PATH, ""), it.write({ ...ASKED, message: { content: "x" }, timestamp: new Date(it.fake.wall + 10).toISOString() }));
    expect(await tell(it, 10)).toEqual([1, 1, [], []]);
  });
  test("an error without a word is not on every screen", () => {
    const screen = { verdict: "idle", rule: "prompt", where: "box", text: "", limit: null, waitingUntil: null, why: "at its prompt", last: "All done." } as const;
    expect(decideError({ error: "unknown", text: "", at: 0, limit: null }, true, screen, 1)).toEqual(screen);
  });
  test("a short text is not proven by a longer one that has it in it", async () => {
    const it = await begin(null);
    const onSubmit = it.pane().onSubmit!;
    it.pane().onSubmit = (value) => (onSubmit(value), it.write({ ...ASKED, message: { content: "please go on with it" }, timestamp: at(it) }));
    expect(await tell(it, 1, "go on")).toEqual([1, 0, [NO_SIGN], []]);
  });
  test("a record that does not reach back to the paste any more says nothing", async () => {
    const it = await begin(null);
    const { onSubmit } = it.pane();
    it.pane().onSubmit = (text) => (onSubmit!(text), it.write({ ...SAID, message: { content: "x".repeat(300_000) } }));
    expect(await tell(it, 1)).toEqual([1, 1, [], []]);
  });
  test("one that a client at work keeps for later waits until it is taken", async () => {
    const it = await begin(null);
    const { onSubmit } = it.pane();
    it.pane().onSubmit = (text) => (onSubmit!(text), (it.pane().doing = "busy"), says(it, "busy", { sessionId: "rec", cwd: "/fleet/my.proj" }));
    expect(await tell(it, 60)).toEqual([1, 0, [NO_SIGN], []]);
    it.write({ type: "queue-operation", operation: "enqueue", content: "hear this, whoever it may concern", timestamp: at(it) });
    await it.ticks(1);
    expect([it.watch.delivered.length, it.pane().received.length]).toEqual([1, 1]);
  });
  test("a picker that takes the Enter and shows the text has not received it", async () => {
    const it = await begin(null);
    const text = "hear this, whoever it may concern";
    const key = it.pane().key.bind(it.pane());
    it.pane().key = (name) => (name === "Enter" ? it.pane().draw(`● OK.\n\n${"─".repeat(80)}\n Search sessions\n ⌕ ${text}\n\n Enter to select · Esc to cancel\n`, it.fake.wall) : key(name));
    says(it, "waiting", { waitingFor: "dialog open", sessionId: "rec", cwd: "/fleet/my.proj" });
    says(it, "idle", { sessionId: "rec", cwd: "/fleet/my.proj" });
    expect(await tell(it, 3, text)).toEqual([0, 0, ["blocked: a dialog is open"], []]);
  });
  test("an older one with the same words, a sub-agent's, or what a tool printed proves nothing", async () => {
    const it = await begin(null);
    const text = "hear this, whoever it may concern";
    it.write({ ...ASKED, message: { content: text }, timestamp: new Date(it.fake.wall - 60_000).toISOString() });
    const onSubmit = it.pane().onSubmit!;
    it.pane().onSubmit = (value) => {
      onSubmit(value);
      it.write({ ...ASKED, isSidechain: true, message: { content: text }, timestamp: at(it) });
      it.write({ ...ASKED, message: { content: [{ type: "tool_result", content: text }] }, timestamp: at(it) });
    };
    expect(await tell(it, 1, text)).toEqual([1, 0, [NO_SIGN], []]);
  });
});
