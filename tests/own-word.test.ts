/** What Claude Code says of itself: its session file beside the screen, and when neither is believed. */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BUILT_IN_RULES, type ClaudeWord, decideClaude, detect, memoryOf, parseClaudeWord, world } from "../agents.ts";
import { agents, command, type FakePane, scene, type Scene, type Setting, verdict } from "./kit.ts";

/** As 2.1.330 wrote it. */
const MEASURED = {
  pid: 31294, sessionId: "b1098284-55e7-4eb3-aa5d-1d913f272702", cwd: "/work/My_Proj.x", startedAt: 1795691994330, procStart: "4384260",
  version: "2.1.330", peerProtocol: 1, peerFeatures: ["notify_idle"], kind: "interactive", entrypoint: "cli", name: "my-proj-x-8f", status: "waiting",
  updatedAt: 1795692064631, statusUpdatedAt: 1795692064631, waitingFor: "permission prompt",
};
const parsed = (some: object = {}, pid = 31294, born = "4384260", fresh = true) => parseClaudeWord(JSON.stringify({ ...MEASURED, ...some }), pid, born, fresh);
const word = (status: ClaudeWord["status"], waitsFor = ""): ClaudeWord =>
  ({ status, waitsFor, since: 0, version: "2.1.330", conversation: "", cwd: "" });

describe("a session file", () => {
  test("says what its client does, field by field", () => {
    expect(parsed()).toEqual({ status: "waiting", waitsFor: "permission prompt", since: 1795692064631, version: "2.1.330",
      conversation: MEASURED.sessionId, cwd: "/work/My_Proj.x" });
    const odd = parsed({ status: "idle", waitingFor: 7, statusUpdatedAt: "now", version: "\x1b[31m2", sessionId: "../../x", cwd: 3 });
    expect(odd).toEqual({ status: "idle", waitsFor: "", since: 0, version: "2", conversation: "", cwd: "" });
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
      const found = decideClaude({ ...word("idle"), ...side.word }, detect(BUILT_IN_RULES.claude, { text, title: side.title ?? "" }, Date.parse(side.at)));
      const expected = side.together ?? file.split("-")[0];
      return found.verdict === expected ? [] : [`${file}: ${found.verdict} (${found.rule}), expected ${expected}`];
    });
    expect(wrong).toEqual([]);
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
  test("a client that a wrapper started in the pane's group is found, and forgotten when it ends", async () => {
    const it = await set();
    const { pid } = it.pane() as FakePane;
    const stat = (one: number, born: number) => it.fake.files.set(`/proc/${one}/stat`, `${one} (x) ${["S", 1, pid, ...Array(16).fill(0), born].join(" ")}`);
    stat(pid, 100);
    stat(61_000, 101);
    says(it, "busy", { pid: 61_000, procStart: "101" });
    await it.ticks(2);
    expect(verdictOf(it)).toBe("active");
    it.fake.files.delete("/proc/61000/stat");
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
    says(it, "busy");
    await it.ticks(1);
    expect(asked.filter((one) => one.startsWith("tail /conf"))).toHaveLength(1);
  });
  test("explain names it as the source", async () => {
    const it = await set();
    says(it, "busy");
    const said = await command("explain", "a", "--config", it.cfg.path);
    for (const part of ["verdict  active: at work, it says", "source   its session file", "it says  busy (its session file)", "rule     busy (session file)"]) {
      expect(said.out).toContain(part);
    }
  });
});
