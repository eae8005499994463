/** `status`: what each agent's state is called, what needs a person, and how that is shown. */
import { beforeEach, describe, expect, spyOn, test } from "bun:test";
import { readFileSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  type Card, columns, type Config, decideNow, describeState, type LimitState, type Memory, memoryOf, type Message, type Pane, parseQuestion, enqueue, save, type Status, type StatusRow, statusLine,
  statusText, type Verdict, version, type Watch, world,
} from "../agents.ts";
import { atWidth, command, FLEET, type FakeWorld, fakeWorld, holdLock, message, paneOf, PLAIN, realFolder, verdict } from "./kit.ts";
import { type Fleet, life, SELF, spawn, until } from "./real.ts";

const SECOND = 1000;
const HOUR = 3600 * SECOND;

describe("describeState", () => {
  const now = Date.UTC(2026, 5, 15, 12);
  type Facts = Parameters<typeof describeState>[1];
  const alive = { dead: false } as Facts["pane"];
  const ended = (status: number | null, signal: number | null = null) => ({ dead: true, status, signal }) as Facts["pane"];
  const facts = { ...PLAIN, pane: undefined, held: false, enabled: true, limit: null, kind: "persistent", complete: false, now, unsureAfter: 300 };
  const memory = { life: { state: "backoff", until: 0 }, failures: 0, verdict: "active", why: "", since: 0 };
  const limit: LimitState = { until: now / 1000 + 60, nudges: 0 };
  const said = (some: Partial<Memory>, more: Partial<Facts>) => {
    const { state, needsHuman } = describeState({ ...memory, ...some } as Memory, { ...facts, ...more });
    return { state, needsHuman };
  };
  test.each<[state: string, memory: Partial<Memory>, facts: Partial<Facts>]>([
    ["stopped by you", {}, { held: true }],
    ["stopped by you", { life: { state: "parked", why: "exit 125", at: 0 } }, { held: true }],
    ["done", { life: { state: "done", at: 0 } }, {}],
    ["done", {}, { kind: "task", pane: ended(0) }],
    ["ended (exit 1)", {}, { kind: "task", pane: ended(1) }],
    ["ended (exit 0)", {}, { pane: ended(0) }],
    ["ended (signal 9)", {}, { pane: ended(null, 9) }],
    ["ended (signal ?)", {}, { pane: ended(null) }],
    ["stopped (all phases done)", {}, { kind: "loop", complete: true }],
    ["stopped", {}, { kind: "loop" }],
    ["stopped", {}, { complete: true }],
    ["backoff 40s (1st)", { life: { state: "backoff", until: now + 40 * SECOND }, failures: 1 }, {}],
    ["backoff 5m (2nd)", { life: { state: "backoff", until: now + 300 * SECOND }, failures: 2 }, { pane: ended(1) }],
    ["backoff 1s (3rd)", { life: { state: "backoff", until: now + SECOND }, failures: 3 }, {}],
    ["backoff 1s (4th)", { life: { state: "backoff", until: now + SECOND }, failures: 4 }, {}],
    ["backoff 1s (11th)", { life: { state: "backoff", until: now + SECOND }, failures: 11 }, {}],
    ["backoff 1s (21st)", { life: { state: "backoff", until: now + SECOND }, failures: 21 }, {}],
    ["backoff 1s (22nd)", { life: { state: "backoff", until: now + SECOND }, failures: 22 }, {}],
    ["backoff 1s (113th)", { life: { state: "backoff", until: now + SECOND }, failures: 113 }, {}],
    ["stopped", { life: { state: "backoff", until: now }, failures: 1 }, {}],
    ["stopped (disabled)", {}, { enabled: false }],
    ["RUNNING", {}, { pane: alive }],
    ["RUNNING", { since: now, verdict: "gone" }, { pane: alive }],
    ["active 0s", { since: now + 5 * SECOND }, { pane: alive }],
    ["active 59s", { since: now - 59.4 * SECOND, life: { state: "parked", why: "x", at: 0 } }, { pane: alive, held: true }],
    ["idle 1m", { since: now - 59.6 * SECOND, verdict: "idle", why: "at its prompt" }, { pane: alive }],
    ["idle 59m", { since: now - HOUR + SECOND, verdict: "idle" }, { pane: alive }],
    ["waiting 1h", { since: now - HOUR, verdict: "waiting" }, { pane: alive }],
    ["unsure: blank screen 4m", { since: now - 299 * SECOND, verdict: "unsure", why: "blank screen" }, { pane: alive }],
    ["background 23h", { since: now - 24 * HOUR + SECOND, verdict: "background" }, { pane: alive }],
    ["booting 1d", { since: now - 24 * HOUR, verdict: "booting" }, { pane: alive }],
    ["fatal 12d", { since: now - 12.9 * 24 * HOUR, verdict: "fatal" }, { pane: alive }],
  ])("%s: %o %o", (state, some, more) => expect(said(some, more)).toEqual({ state, needsHuman: false }));
  test.each<[state: string, memory: Partial<Memory>, facts: Partial<Facts>]>([
    ["parked: exit 125", { life: { state: "parked", why: "exit 125", at: 0 } }, {}],
    ["pid 5 does not end", {}, { pane: alive, stuck: "pid 5 does not end" }],
    ["blocked: a dialog is open 2m", { since: now - 120 * SECOND, verdict: "blocked", why: "a dialog is open" }, { pane: alive }],
    ["unsure: blank screen 5m", { since: now - 300 * SECOND, verdict: "unsure", why: "blank screen" }, { pane: alive }],
    ["unsure: blank screen 1m", { since: now - 60 * SECOND, verdict: "unsure", why: "blank screen" }, { pane: alive, unsureAfter: 60 }],
  ])("%s needs a person", (state, some, more) => expect(said(some, more)).toEqual({ state, needsHuman: true }));
  test("a hold, with the reset where one is known, and its class; one that has passed is not ahead", () => {
    const held = (hold: LimitState) => said({ since: now }, { pane: alive, limit: hold });
    expect(held(limit).state).toMatch(/^limited until [^(]*:01$/);
    expect(held({ ...limit, resetAt: now / 1000 + 120, class: "weekly" })).toEqual({ state: expect.stringMatching(/^limited until .*:02.* \(weekly\)$/), needsHuman: false });
    expect(held({ ...limit, resetAt: now / 1000 - 1 }).state).toBe("limited");
    expect(said({}, { limit }).state).toBe("stopped");
  });
  test("the same as data: a word, what more is to be said, until when", () => {
    const data = (some: Partial<Memory>, more: Partial<Facts>) => {
      const { condition, detail, until } = describeState({ ...memory, ...some } as Memory, { ...facts, ...more });
      return [condition, detail, until];
    };
    expect(data({}, { held: true })).toEqual(["stopped", "by you", null]);
    expect(data({ life: { state: "parked", why: "exit 125", at: 0 } }, {})).toEqual(["parked", "exit 125", null]);
    expect(data({ life: { state: "backoff", until: now + 40 * SECOND }, failures: 2 }, {})).toEqual(["backoff", "failure 2", now + 40 * SECOND]);
    expect(data({}, { pane: ended(1) })).toEqual(["ended", "exit 1", null]);
    expect(data({ since: now, verdict: "blocked", why: "a dialog is open" }, { pane: alive })).toEqual(["blocked", "a dialog is open", null]);
    expect(data({ since: now }, { pane: alive })).toEqual(["working", "", null]);
    expect(data({ since: now }, { pane: alive, limit: { ...limit, class: "weekly" } })).toEqual(["limited", expect.stringMatching(/^to .*:01, weekly$/), now + 60 * SECOND]);
    expect(data({}, { pane: alive, stuck: "pid 5 does not end" })).toEqual(["ending", "pid 5 does not end", null]);
  });
});

describe("what a dialog asks", () => {
  const asks = (file: string) => parseQuestion(readFileSync(join(import.meta.dir, "fixtures", `${file}.txt`), "utf8"));
  test.each([
    ["claude/blocked-permission-bash-80x24", "Bash command: touch /srv/fleet/main/proj/asked.txt && mkdir -p /srv/fleet/main/proj/d1"],
    ["claude/blocked-permission-plain", "Bash command: touch x"],
    ["claude/blocked-permission-write-80x24", "Do you want to create new83.txt?"],
    ["claude/blocked-question-80x24", "Which database should we use?"],
    ["claude/blocked-trust-dialog-80x24", "Accessing workspace: /srv/fleet/main/proj"],
    ["opencode/blocked-permission-200x50", "Permission required: Access external directory /srv/fleet/agents/main"],
    ["codex/blocked-near-limit-80x24", "Switch to gpt-6-luna for lower credit usage?"],
    ["codex/blocked-exec-approval-80x24", "Reason: Do you want to allow writing outside the workspace?"],
    // no dialog, or none whose beginning is certain
    ["claude/blocked-401", ""], ["claude/blocked-v332-cfg-axsr-perm-200x50", ""], ["codex/blocked-model-picker-80x24", ""], ["gemini/blocked-question-80x24", ""],
  ])("%s", (file, question) => expect(asks(file)).toBe(question));
  const box = (...above: string[]) => [...above, "❯ 1. Yes", "  2. No", "", "Esc to cancel · Tab to amend"].join("\n");
  test.each([
    ["after a step with a number, which is no choice", box("1. All is read.", "△ Permission required", "  Delete what is left?"), "Delete what is left?"],
    ...["Yes", "No", "Allow once", "Deny", "✔ Go on", "3) Go on"].map((choice): [string, string, string] =>
      [`"${choice}" is a choice, and its question is above it`, ["What shall it do?", `${choice}, or what else?`, "", "Esc to cancel · Tab to amend"].join("\n"), "What shall it do?"]),
    ...["1. Yes", "Yes", "No", "✔ Go on"].map((choice): [string, string, string] =>
      [`"${choice}" is one that is chosen, not the last line above`, ["─".repeat(80), " What shall it do?", "", ` ❯ ${choice}`, "   Other", "", " Esc to cancel · Tab to amend"].join("\n"), "What shall it do?"]),
    ...["proceed", "continue"].map((go): [string, string, string] =>
      [`whether to ${go} is no subject`, box("─".repeat(80), " Bash command", "", "   touch x", "", ` Do you want to ${go}?`), "Bash command: touch x"]),
    ["not below its choices", box().replace("2. No", "2. No, or what else?"), ""],
  ])("%s", (_, text, question) => expect(parseQuestion(text)).toBe(question));
});

describe("decideNow", () => {
  const now = Date.UTC(2026, 5, 15, 12);
  const ago = (seconds: number) => now - seconds * SECOND;
  const pane = (some: Partial<Pane> = {}) => paneOf({ created: ago(3600), activity: ago(60), ...some });
  const memory = (name: Memory["verdict"], since = ago(900), why = "") => ({ verdict: name, since, why }) as Memory;
  const now_ = (seen: Verdict | undefined, known: Memory, some: Partial<Pane> = {}, young = false) => {
    const { verdict: name, since } = decideNow(seen, known, pane(some), young, 2 * SECOND, now);
    return [name, (now - since) / SECOND];
  };
  test("what is seen counts, since when is known of the same client only", () => {
    expect(now_(verdict("blocked"), memory("blocked"))).toEqual(["blocked", 900]);
    expect(now_(verdict("active"), memory("blocked"))).toEqual(["active", 0]);
    expect(now_(verdict("blocked"), memory("active"))).toEqual(["blocked", 60]);
    expect(now_(verdict("idle"), memory("idle"), { created: ago(2), activity: ago(2) })).toEqual(["idle", 2]);
    expect(now_(verdict("idle"), memory("idle", 0), { activity: 0 })).toEqual(["idle", 0]);
  });
  test("who was started a moment ago is starting; a screen that could not be read is unsure", () => {
    expect(now_(verdict("idle"), memory("idle"), { created: ago(1) }, true)).toEqual(["booting", 1]);
    expect(now_(verdict("blocked"), memory("idle"), { created: ago(1) }, true)[0]).toBe("blocked");
    expect(now_(undefined, memory("idle"))).toEqual(["unsure", 0]);
    // since its client began, and not since one before it
    for (const [began, since] of [[900, 900], [899, 0]] as const) expect(now_(undefined, memory("unsure"), { created: ago(began) })).toEqual(["unsure", since]);
  });
  test("a screen that moves is no rest; a draft that the watchdog found holds", () => {
    expect(now_(verdict("idle"), memory("active"), { activity: ago(1) })).toEqual(["active", 900]);
    expect(now_(verdict("idle"), memory("active"), { activity: ago(2) })).toEqual(["idle", 2]);
    expect(now_({ ...verdict("idle"), where: "process" }, memory("idle"), { activity: ago(1) })[0]).toBe("active");
    expect(now_(verdict("idle"), { ...memory("blocked"), draft: true })).toEqual(["blocked", 900]);
    expect(now_(verdict("idle"), memory("blocked", ago(900), "someone's draft is in the input box"))[0]).toBe("idle");
  });
});

describe("statusText", () => {
  let fake: FakeWorld;
  beforeEach(() => void (fake = fakeWorld()));
  const NOON = Date.UTC(2026, 5, 15, 12);
  const at = (seconds: number) => new Date(NOON + seconds * SECOND).toISOString();
  const clock = (seconds: number) => new Date(NOON + seconds * SECOND).toTimeString().slice(0, 5);
  const row: StatusRow = {
    name: "a", kind: "loop", backend: "claude", model: "default", watch: "heal", session: "agents-a", running: true, state: "active 5s",
    condition: "working", detail: "", since: at(-5), until: "", verdict: "active", why: "", next: "", nextAt: "", owesSince: "", messages: 0, messagesWhy: "", messagesDuring: "",
    unproven: 0, restartsToday: 0, modelFrom: "start", needsHuman: false, cure: "", version: "",
  };
  const blocked: StatusRow = { ...row, name: "b", needsHuman: true, condition: "blocked", detail: "Do you want to proceed?", verdict: "blocked", cure: "attach b" };
  const phase = { id: "p1", index: 0, total: 2, plan: "/x/plan.md", done: false, complete: false, moving: "", error: "" };
  const watchdog = { running: true, pid: 1, heartbeat: at(-2), stale: false, mute: false, version: version(), stage: "", missing: false };
  const status = (more: Partial<Status> = {}): Status => ({
    version: 1, fleet: "~/night (agents-)", folder: "~/night", prefix: "agents-", configError: "", phase: null, agents: [row], services: [], watchdog,
    handoff: null, accounts: [], unknownSessions: [], orphans: [], olderPhase: [], needsHuman: more.agents?.some((one) => one.needsHuman) ?? false, ...more,
  });
  const lines = (more: Partial<Status> = {}, width = 120) => Bun.stripANSI(statusText(status(more), width)).split("\n");

  test("a fleet is stopped where nothing runs, not where nobody can say what does", () => {
    const without = (condition: StatusRow["condition"]) => lines({ agents: [{ ...row, condition, running: false }], watchdog: { ...watchdog, running: false } }).at(-1);
    expect([without("stopped"), without("unknown")]).toEqual(['the fleet is stopped: "agents up" starts it', expect.stringContaining("unknown")]);
  });
  test("a watchdog of another version is named, with what replaces it, as after an upgrade", () => {
    const said = (some: Partial<Status["watchdog"]>) => lines({ watchdog: { ...watchdog, ...some } }).filter((line) => line.startsWith("watchdog: "));
    expect([said({}), said({ version: "" }), said({ version: "0.0.9" })]).toEqual([[], [], [`watchdog: of version 0.0.9, this is ${version()}  — agents up watchdog`]]);
  });
  test("a loop agent from which no commit came for two hours", () => {
    const said = (seconds: number) => lines({ agents: [{ ...row, owesSince: at(-seconds) }] }).join("\n").match(/no commit in this phase for \w+/)?.[0];
    expect([said(7199), said(7200), said(3 * 3600)]).toEqual([undefined, "no commit in this phase for 2h", "no commit in this phase for 3h"]);
  });

  test("the headline: fleet, phase, clock, the watchdog's last sign; it gives up what does not fit", () => {
    const head = (width: number, more: Partial<Status> = {}) => lines({ phase, ...more }, width)[0]!;
    const time = new Date(NOON).toTimeString().slice(0, 8);
    expect(head(80)).toBe(`~/night (agents-) · phase p1 1/2 · plan.md`.padEnd(80 - 18) + `${time}  ● 2s ago`.padStart(18));
    expect(head(56)).toStartWith("~/night (agents-) · phase p1 1/2  ");
    expect(head(44)).toBe("night · phase p1 1/2".padEnd(30) + `${time.slice(0, 5)} ● 2s ago`);
    expect(head(44, { folder: "/srv/parser-of-the-dates", phase: { ...phase, id: "leap-days", total: 12 } })).toBe(`parser-of-… · leap-days 1/12  ${time.slice(0, 5)} ● 2s ago`);
    expect(head(30)).toBe("night · p1 1/2 ".padEnd(16) + `${time.slice(0, 5)} ● 2s ago`);
    expect(head(Infinity)).toBe(`~/night (agents-) · phase p1 1/2 · plan.md  ${time}  ● 2s ago`);
    expect(head(80, { watchdog: { ...watchdog, stale: true } })).toEndWith("  ✗ 2s ago");
    expect(head(80, { watchdog: { ...watchdog, running: false } })).toEndWith("  ○ no watchdog");
  });
  test.each<[string, Partial<typeof phase>]>([
    ["", {}], [", DONE", { done: true }], [", all done", { complete: true, done: true }],
    [", moving on to p2", { moving: "p2", done: true }], [", moving on to the end", { moving: "the end", complete: true }],
  ])("a phase is in progress%s", (word, more) =>
    expect(lines({ phase: { ...phase, ...more } })[0]).toStartWith(`~/night (agents-) · phase p1 1/2${word} · plan.md  `));
  test("a phase that makes no sense; no phases", () => {
    expect(lines({ phase: { ...phase, id: "", error: "99 is no phase" } })[2]).toBe("phase: 99 is no phase");
    expect(lines()[0]).toStartWith("~/night (agents-)    ");
  });
  test("how many need you, work, are limited, rest; what is due first", () => {
    const agents = [row, row, blocked, { ...row, condition: "limited" as const }, { ...row, condition: "idle" as const, next: "wake" as const, nextAt: at(300) },
      { ...row, condition: "waiting" as const, next: "stall" as const, nextAt: at(-5) }, { ...row, name: "z", condition: "stopped" as const, running: false, next: "" as const }];
    expect(lines({ agents }, 100)[1]).toBe("1 needs you · 2 working · 1 limited · 1 idle · 1 waiting · 1 down".padEnd(100 - 18) + `next: wake a ${clock(300)}`.padStart(18));
    expect(lines({ agents: [{ ...row, next: "stall", nextAt: at(300) }] }, 100)[1]).toEndWith(` next: restart ${row.name} ${clock(300)} if idle`);
    expect(lines({ agents: [blocked, blocked] })[1]).toBe("2 need you");
    expect(lines({ agents: [row] })[1]).toBe("nothing needs you · 1 working");
    expect(lines({ needsHuman: true })[1]).toBe("1 working");
    const phone = lines({ agents }, 44);
    expect([phone[1], phone.at(-1)]).toEqual(["1 needs you · 2 work · 1 limited · 2 rest", `next: wake a ${clock(300)}`]);
    expect(lines({ agents: [row, { ...row, condition: "unsure" as const }] }, 44)[1]).toBe("nothing needs you · 1 work · 1 unsure");
  });
  test("what is done is not called down: a task that ended with 0, and the loop pair after the last phase", () => {
    const down = (name: string, more: Partial<StatusRow>): StatusRow => ({ ...row, name, running: false, condition: "stopped", ...more });
    const agents = [down("a", {}), down("b", {}), down("t", { kind: "task", condition: "done" }), down("p", { kind: "persistent" })];
    const said = (complete: boolean, width: number) => lines({ agents, phase: { ...phase, complete } }, width)[1];
    expect([said(true, 100), said(false, 100), said(true, 44)]).toEqual(
      ["nothing needs you · 3 done · 1 down", "nothing needs you · 1 done · 3 down", "nothing needs you · 3 done · 1 down"]);
    // one of the pair that is still at work, or was parked, is not done
    const pair = [{ ...row, name: "a" }, down("b", { condition: "parked" }), down("c", {})];
    expect(lines({ agents: pair, phase: { ...phase, complete: true } }, 100)[1]).toBe("nothing needs you · 1 working · 1 done · 1 down");
    const line = (running: boolean, some = agents) => statusLine(status({ agents: some, phase: { ...phase, complete: true }, watchdog: { ...watchdog, running } }));
    expect([line(true), line(true, [row, ...agents]), line(false)]).toEqual(["agents done", "agents ●1 done", "agents stopped"]);
  });
  test("who needs a person comes first, with reason and cure; services last, each with what it waits for", () => {
    const agents = [row, blocked,
      { ...row, name: "c", next: "wake" as const, nextAt: at(60), messages: 2, messagesWhy: "booting", restartsToday: 3 }, { ...row, name: "d", messages: 1 }];
    const services: StatusRow[] = [{ ...row, name: "web", kind: "service", backend: "-", model: "-", condition: "running" }];
    expect(lines({ agents, services }).slice(2)).toEqual([
      "  AGENT  KIND     BACKEND  MODEL    STATE",
      "! b      loop     claude   default  blocked 5s  Do you want to proceed?  → attach b",
      "  a      loop     claude   default  working 5s",
      `  c      loop     claude   default  working 5s  2 messages waiting (booting) · wake ${clock(60)} · 3 restarts`,
      "  d      loop     claude   default  working 5s  1 message waiting",
      "  web    service  -        -        running",
    ]);
  });
  test("KIND, BACKEND and MODEL below 100 columns: only what tells agents apart, and fits", () => {
    const head = (width: number, ...agents: Partial<StatusRow>[]) => lines({ agents: agents.map((one) => ({ ...row, ...one })) }, width)[2]!.trim().split(/ +/);
    expect(head(100, {}, {})).toEqual(["AGENT", "KIND", "BACKEND", "MODEL", "STATE"]);
    // beside a long name what is alike goes first, so that the reason keeps its columns
    const name = "orchestrator-of-the-parser";
    expect([head(100, { name }, {}), head(108, { name }, { kind: "task" }), head(120, { name }, {})]).toEqual([["AGENT", "MODEL", "STATE"], ["AGENT", "KIND", "MODEL", "STATE"], ["AGENT", "KIND", "BACKEND", "MODEL", "STATE"]]);
    expect(head(99, {}, {})).toEqual(["AGENT", "STATE"]);
    expect(head(99, {}, { model: "opus" })).toEqual(["AGENT", "MODEL", "STATE"]);
    expect(head(80, {}, { model: "opus", kind: "task", backend: "codex" })).toEqual(["AGENT", "KIND", "MODEL", "STATE"]);
    expect(head(60, {}, { model: "a-very-long-name-of-a-model" })).toEqual(["AGENT", "STATE"]);
    // two for the mark, 1 + 9 + 10 for a, its model and its state, two between each two, 44 for the reason
    expect([head(69, {}, { model: "opus" }), head(70, {}, { model: "opus" })]).toEqual([["AGENT", "STATE"], ["AGENT", "MODEL", "STATE"]]);
  });
  test("where there is little room a name gives way down to 14 columns, then a state down to 12", () => {
    const agents = [{ ...row, name: "orchestrator-of-it", condition: "background" as const, since: at(-780) }];
    const said = (width: number) => lines({ agents }, width)[3];
    expect([said(66), said(62), said(61), said(60)]).toEqual(["  orchest…or-of-it  background 13m", "  orche…-of-it  background 13m", "  orche…-of-it  background 1…", "  orche…-of-it  background …"]);
  });
  test.each([44, 60, 80])("on %d columns agents whose names begin alike are told apart: a name is cut in its middle", (width) => {
    const agents = [1, 2, 12].map((nth) => ({ ...blocked, name: `the-tester-of-the-parser-of-dates-${nth}`, detail: "a question of many words ".repeat(4) }));
    const said = lines({ agents }, width).filter((line) => line.startsWith("! ")).map((line) => line.split(/ +/)[1]!);
    expect(said.map((name) => /^the-.*…(?:.*)-(\d+)$/.exec(name)?.[1])).toEqual(["1", "2", "12"]);
  });
  test("the cure goes where it would leave less than 16 columns for the reason", () => {
    const agents = [{ ...blocked, name: "orchestrator", restartsToday: 1234, detail: "a question of a few words", cure: "attach orchestrator" }];
    const said = (width: number) => lines({ agents }, width)[3];
    expect([said(62), said(61)]).toEqual(["! orchestrator  blocked 5s  a question of a… · 1234↺  → attach", "! orchestrator  blocked 5s  a question of a few words · 1234↺"]);
  });
  test("on 44 columns a short line each: name, for how long, the state with its reason", () => {
    const agents: StatusRow[] = [{ ...blocked, name: "assistant", since: at(-780) },
      { ...row, name: "tester", needsHuman: true, condition: "parked", detail: "exit 1 ×4", since: at(-1900), running: false, restartsToday: 4 },
      { ...row, name: "adversary", condition: "limited", detail: "to 21:52, weekly" }, { ...row, name: "orchestrator-two", next: "wake", nextAt: at(300) }];
    expect(lines({ agents, phase }, 44).slice(2)).toEqual([
      "! assistant    13m Do you want to proceed?", "! tester       31m parked: exit 1 ×4 4↺", "  adversary        limited to 21:52, weekly",
      `  orches…r-two  5s working · wake ${clock(300)}`, `next: wake orchestrator-two ${clock(300)}`]);
  });
  test.each([60, 80])("on %d columns a short reason stays whole, whatever else its line holds", (width) => {
    for (const name of ["b", "assistant", "orchestrator"]) {
      for (const restartsToday of [0, 1, 12]) {
        const agents = [{ ...blocked, name, detail: "a dialog is open", since: at(-780), restartsToday, cure: `attach ${name}` }];
        expect(lines({ agents }, width)[3]).toContain("  a dialog is open ");
      }
    }
  });
  test.each<[width: number, says: string]>([
    [200, "Do you want to proceed? · 4 messages waiting · 2 restarts  → attach assistant"],
    [86, "Do you want to proceed? · 4 messages waiting · 2↺  → attach"],
    [70, "Do you want to proceed? · 4 m… · 2↺  → attach"],
  ])("on %d columns the restarts and the cure become shorter before the question does", (width, says) => {
    const agents = [{ ...blocked, name: "assistant", messages: 4, restartsToday: 2, cure: "attach assistant" }];
    expect(lines({ agents }, width)[3]).toEndWith(`  ${says}`);
  });
  test("what is cut ends in a word, not in a dot between two", () =>
    expect(lines({ agents: [{ ...blocked, name: "assistant-two", detail: "a dialog is open", messages: 1 }] }, 60).at(-1)).toEndWith("  a dialog is open…  → attach"));
  test("a time on another day is that day, as short as it can be", () => {
    const day = new Date(NOON + 30 * HOUR).toLocaleDateString("en-US", { weekday: "short" });
    const agents: StatusRow[] = [{ ...row, condition: "limited", next: "probe", nextAt: at(30 * 3600) }];
    expect(lines({ agents }).at(-1)).toEndWith(`  probe ${day} ${clock(30 * 3600)}`);
    expect(lines({ agents }, 44).at(-1)).toBe(`next: probe a ${day} ${clock(30 * 3600)}`);
  });
  test("a time that passed is never shown as ahead", () => {
    const said = (next: StatusRow["next"], seconds: number) => lines({ agents: [{ ...row, next, nextAt: at(seconds) }] }).at(-1)!;
    expect(said("stall", 60)).toEndWith(`  restart ${clock(60)} if idle`);
    expect(said("stall", -60)).toEndWith("  restart due");
    expect(said("probe", 0)).toEndWith("  probing now");
    expect(said("wake", -1)).toEndWith("  wake when idle");
  });
  test.each([30, 44, 59, 60, 80, 99, 100, 120, 200])("no line is wider than %d columns, whatever letters it holds, and no restart count is cut", (width) => {
    for (const word of ["a-very-long-name-of-an-agent", "全部全部全部全部全部全部", "👍🏽👩‍👩‍👧e\u0301全部👍🏽👩‍👩‍👧e\u0301全部", "A\x1b[31m\u202e\tx\n"]) {
      const long: StatusRow = { ...row, name: word, model: word, backend: word, detail: word.repeat(9), restartsToday: 1234, messages: 9, messagesWhy: word };
      const agents = [{ ...long, needsHuman: true, condition: "blocked" as const, cure: `attach ${word}` }, { ...long, next: "stall" as const, nextAt: at(60) },
        { ...long, condition: "parked" as const, needsHuman: true }, row];
      const all = lines({ agents, phase: { ...phase, id: word, plan: `/${word}` }, folder: `/x/${word}`, fleet: `/x/${word} (agents-)`, configError: word.repeat(5),
        unknownSessions: [word, word], olderPhase: [word], handoff: { state: "failing", since: at(-60), why: word, cure: word, needsHuman: true } }, width);
      for (const line of all) expect([line, Bun.stringWidth(line) <= width]).toEqual([line, true]);
      if (width >= 44) expect(all.filter((line) => /1234( restarts|↺)/.test(line)).length).toBe(3);
    }
  });
  test("in one line: who works, needs you, is limited; what is not right with the watchdog", () => {
    const needy = { ...blocked, name: "assistant" };
    const limited = { ...row, name: "c", condition: "limited" as const };
    expect(statusLine(status({ agents: [row, { ...row, condition: "background" }, { ...row, condition: "stopped" }, needy, limited] }))).toBe("agents ●2 !1 ◐1 assistant?");
    expect(statusLine(status({ agents: [{ ...row, condition: "idle" }] }))).toBe("agents");
    expect(statusLine(status({ agents: [], needsHuman: true }))).toBe("agents ?");
    expect(statusLine(status({ watchdog: { ...watchdog, running: false, missing: true }, needsHuman: true }))).toBe("agents ●1 ✗ watchdog");
    expect(statusLine(status({ watchdog: { ...watchdog, running: false }, agents: [{ ...row, running: false, condition: "stopped" }] }))).toBe("agents stopped");
    expect(statusLine(status({ configError: "agents.toml:1:1: x", needsHuman: true }))).toBe("agents ●1 ✗ config");
    // a folder whose name looks like the end of another
    expect(statusLine(status({ agents: [], fleet: "~/x (y) (z-)", prefix: "z-" }))).toBe("z");
  });
  test("the watchdog: stopped, running, stale", () => {
    const said = (more: object) => lines({ watchdog: { ...watchdog, heartbeat: at(-90), ...more } }).filter((line) => line.startsWith("watchdog"));
    expect(said({ running: false, missing: true })).toEqual(["watchdog: stopped  — agents up watchdog"]);
    expect(said({ running: false })).toEqual([]);
    expect(said({})).toEqual([]);
    expect(said({ stale: true, stage: "git fetch" })).toEqual(["watchdog: STALE, heartbeat 1m ago, at: git fetch"]);
  });
  test("what is wrong, but needs nobody, stands below the table; what was found before a down is not told", () => {
    const where = (needsHuman: boolean, more: Partial<Status> = {}) => {
      const text = lines({ handoff: { state: "failing", since: at(-60), why: "no route", cure: "", needsHuman }, notices: { dropped: 3, text: "3 dropped", needsHuman }, needsHuman, ...more });
      const table = text.findIndex((line) => line.includes("AGENT"));
      return ["hand-off: failing for 1m: no route", "notices: 3 dropped"].map((line) => Math.sign(text.indexOf(line) - table) * Number(text.includes(line)) || 0);
    };
    expect([where(true), where(false)]).toEqual([[-1, -1], [1, 1]]);
    expect(where(false, { watchdog: { ...watchdog, running: false } })).toEqual([0, 1]);
  });
  test("sessions that nobody knows, and loops on an older kickoff", () => {
    expect(lines({ unknownSessions: ["agents-x", "agents-y"], olderPhase: ["a", "b"] }).slice(-2)).toEqual([
      "sessions not in the config: agents-x, agents-y",
      'still on an older phase\'s kickoff: a, b ("agents phase set ID --restart" moves them too)',
    ]);
  });
  test("columns are as wide as their widest cell; a cell that is too wide ends in …", () => {
    const EVEN: [number, number][] = [[1, 6], [0, 6]];
    expect(columns([["A", "B"], ["xxx", "yy"]], 80, EVEN)).toEqual(["A    B", "xxx  yy"]);
    expect(columns([["AAAAAAAAAA", "B"], ["x", "y"]], 9, EVEN)).toEqual(["AAA…AA  B", "x       y"]);
    expect(columns([["A", "", "C"], ["x", "", "z"]], 80, EVEN)).toEqual(["A    C", "x    z"]);
    expect(columns([["全部全部全部", "B"], ["x", "y"]], 9, EVEN)).toEqual(["全部…   B", "x       y"]);
    for (const width of [9, 10, 11, 12, 13]) {
      const [wide, thin] = columns([["👍🏽全部e\u0301全部", "B"], ["x", "y"]], width, EVEN);
      expect([Bun.stringWidth(wide!), Bun.stringWidth(thin!), wide!.includes("…")]).toEqual([width, width, true]);
    }
    expect(columns([["A\x1b[31m\u202e\tx\n", "B"]], 80, EVEN)).toEqual(["A x   B"]);
  });
});

describe("the command over a fleet", () => {
  let fake: FakeWorld;
  let cfg: Config;
  let watch: Watch;
  const begin = async (text: string): Promise<void> => {
    fake = fakeWorld(realFolder());
    fake.tmux.onStart = (pane) => void (pane.doing = "busy");
    cfg = await fake.config(text);
    watch = await fake.watch(cfg);
    fake.git.push("init", { "README.md": "r" });
    await fake.ticks(cfg, watch, 3);
  };
  const state = (file: string) => join(cfg.stateDir, file);
  /** A watchdog that lives, and gave its last sign so long ago. */
  const watchdog = (seconds: number, pid = 77) => {
    fake.processes.set(77, fake.everyPane[0]!);
    holdLock(fake, cfg.stateDir, 77);
    fake.files.set(state("heartbeat"), JSON.stringify({ at: new Date(fake.wall - seconds * SECOND).toISOString(), pid, interval: 30, version: version() }));
  };
  const read = async (): Promise<{ code: number; status: Status; of: (name: string) => StatusRow }> => {
    const { code, out } = await command("status", "--json", "--config", cfg.path);
    const status = JSON.parse(out) as Status;
    return { code, status, of: (name) => [...status.agents, ...status.services].find((one) => one.name === name)! };
  };
  const pane = (name: string) => fake.tmux.of(`agents-${name}`);
  const ticks = (count: number) => fake.ticks(cfg, watch, count);

  test("all at work: exit 0, each agent with its state", async () => {
    await begin(FLEET);
    watchdog(10);
    const { code, status, of } = await read();
    expect([code, status.needsHuman, status.unknownSessions, status.olderPhase]).toEqual([0, false, [], []]);
    expect(status.watchdog).toEqual({ running: true, pid: 77, heartbeat: new Date(fake.wall - 10 * SECOND).toISOString(), stale: false, mute: false, version: version(), stage: "", missing: false });
    expect(status.phase).toEqual({ id: "p1", index: 0, total: 2, plan: expect.stringContaining("plan-1.md"), done: false, complete: false, moving: "", error: "" });
    expect(of("builder")).toMatchObject({ kind: "loop", backend: "claude", running: true, state: expect.stringMatching(/^active \d+[sm]$/), next: "", messages: 0, restartsToday: 0 });
    expect(of("upgrader").state).toBe("stopped (disabled)");
    expect((await command("--config", cfg.path)).out).toMatch(/^\S+\/scene-\w+ \(agents-\) · phase p1 1\/2 · plan-1\.md .* ● 10s ago\n.*\n {2}AGENT/);
    expect(await command("status", "--line", "--config", cfg.path)).toMatchObject({ code: 0, out: expect.stringMatching(/^\S.*\n$/), err: "" });
  });
  test.each([["failing", true, true], ["failing", false, false], ["branch missing", false, true], ["ok", false, false]] as const)("a hand-off channel that is %s (told of: %p) needs a person: %p, unless all loops are down", async (state, told, needs) => {
    await begin(FLEET);
    watchdog(10);
    watch.channel = { of: "x", state, why: "no route", cure: "", since: fake.wall, told };
    await save(cfg, watch);
    const asked = async () => (await read()).status.handoff!.needsHuman;
    expect(await asked()).toBe(needs);
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ held: { builder: 1, adversary: 1 } }));
    expect(await asked()).toBe(false);
  });
  test("a hand-off channel that nobody has looked at yet needs nobody", async () => {
    await begin(FLEET);
    watchdog(10);
    watch.channel = null;
    await save(cfg, watch);
    expect((await read()).status.handoff).toMatchObject({ state: "unknown", needsHuman: false });
  });
  test("a phase is not DONE because git does not say so in time", async () => {
    await begin(FLEET);
    const { setTimeout: later } = globalThis;
    const timer = spyOn(globalThis, "setTimeout").mockImplementation(((act: () => void, ms: number) => later(act, ms === 3_000 ? 0 : ms)) as typeof setTimeout);
    world.git = () => new Promise(() => {});
    const { status } = await read().finally(() => timer.mockRestore());
    expect(status.phase).toMatchObject({ id: "p1", done: false });
  });
  test("a service that was not started yet is not disabled", async () => {
    await begin(FLEET);
    cfg = await fake.config(`${FLEET}[[service]]\nname = "web"\ncommand = "serve"\n`);
    const { services } = (await read()).status;
    expect(services.map(({ name, state }) => [name, state])).toEqual([["web", "stopped"]]);
  });
  test("a report that could not look at the fleet says so first, and that it needs a person", async () => {
    await begin(FLEET);
    fake.beforeTmux(() => {
      throw new Error("error connecting");
    });
    const { code, out } = await command("report", "--config", cfg.path);
    expect([code, out]).toEqual([0, expect.stringMatching(/\nOpen\n! could not look: .*error connecting.* → agents doctor\n/)]);
  });
  test("a config that breaks while no watchdog runs is no fleet's: status goes by no copy of it", async () => {
    await begin(FLEET);
    fake.files.set(state("agents.toml"), FLEET);
    fake.files.set(cfg.path, `${FLEET}[[agent`);
    expect(await command("status", "--config", cfg.path)).toMatchObject({ code: 2, out: "", err: expect.stringContaining("agents.toml:") });
  });
  test("a config is broken since its watchdog saw it so; until then it is said when the file changed, which tells no more", async () => {
    await begin(FLEET);
    watchdog(10);
    const now = fake.wall;
    const clock = (minutesAgo: number) => new Date(now - 60_000 * minutesAgo).toTimeString().slice(0, 5);
    const record = (...events: [number, string, string?][]) => void fake.files.set(state("events.jsonl"), events.map(([minutesAgo, event, to]) =>
      `${JSON.stringify({ at: new Date(now - 60_000 * minutesAgo).toISOString(), event, ...(to && { to }) })}\n`).join(""));
    fake.files.set(state("agents.toml"), FLEET);
    fake.files.set(cfg.path, `${FLEET}[[agent`);
    fake.times.set(cfg.path, now - 60_000 * 600); // as `cp -p` leaves it
    const said = async () => /; (.*)running on the last good one$/.exec((await read()).status.configError)?.[1];
    const seen: [number, string, string?][] = [[90, "config"], [60, "watchdog"]]; // the one before saw another fault
    record(...seen);
    expect(await said()).toBe(`changed at ${clock(600)}, `);
    record(...seen, [50, "config"], [40, "config", "ok"], [30, "config"], [20, "trouble"]);
    expect(await said()).toBe(`broken since ${clock(30)}, `);
    record(...seen, [50, "config"], [40, "config", "ok"]);
    expect(await said()).toBe(`changed at ${clock(600)}, `);
    // the watchdog was started by a link to it; another config is not this one
    const { realPath } = world;
    world.realPath = (path) => path === "/link.toml" ? cfg.path : realPath(path);
    world.folderId = (path) => path.startsWith("/mounted") || path.startsWith(dirname(cfg.path)) ? `1:${path.length - path.lastIndexOf("/")}` : "";
    const runs = async (path: string) => {
      fake.files.set("/proc/77/cmdline", ["agents", "watchdog", "--config", path].join("\0"));
      return await said() !== undefined;
    };
    expect([await runs("/link.toml"), await runs("/mounted/agents.toml"), await runs("/other.toml").catch(() => false)]).toEqual([true, true, false]);
    fake.files.delete("/proc/77/cmdline");
    fake.files.delete(cfg.path);
    expect(await said()).toBe("");
  });
  test("a watchdog that has its lock and could not write its pid runs, but cannot write: status and explain say so", async () => {
    await begin(FLEET);
    watchdog(10);
    fake.files.delete(state("watchdog.lock.pid"));
    expect((await read()).status).toMatchObject({ needsHuman: true, watchdog: { running: true, pid: null, stale: true, mute: true, missing: false } });
    expect(await command("status", "--config", cfg.path)).toMatchObject({ code: 3, out: expect.stringContaining("watchdog: runs, but cannot write  — agents doctor\n") });
    expect((await command("explain", "builder", "--config", cfg.path)).out).toMatch(/^ *watchdog +running, but cannot write/m);
    // a config that breaks meanwhile is still that of its fleet
    fake.files.set(state("agents.toml"), FLEET);
    fake.files.set(cfg.path, `${FLEET}[[agent`);
    fake.lines.length = 0;
    for (const [code, ...words] of [[3, "status"], [3, "status", "--line"], [0, "report"]] as const) {
      expect(await command(...words, "--config", cfg.path)).toMatchObject({ code, out: expect.stringMatching(words.length > 1 ? /✗ config/ : /running on the last good one\n/) });
    }
    expect(fake.lines).toEqual([]); // it is not told twice
    await command("explain", "builder", "--config", cfg.path);
    expect(fake.logged("running on the last good one")).toHaveLength(1);
    expect((await command("complete", "--", "bash", "2", "agents", "logs", "", "--config", cfg.path)).out).toContain("builder\n");
    fake.files.set(cfg.path, FLEET);
    // and one whose prompt an editor has emptied, which is no fault of the file
    fake.files.set(join(dirname(cfg.path), "prompts/builder.md"), "");
    const emptied = await command("status", "--config", cfg.path);
    expect(emptied).toMatchObject({ code: 3, err: "", out: expect.stringMatching(/an empty file: .*builder\.md; running on the last good one\n/) });
    fake.files.delete(join(dirname(cfg.path), "prompts/builder.md"));
    // one that has just begun writes it a moment later
    const { sleep } = world;
    world.sleep = async (ms) => (watchdog(10), await sleep(ms));
    expect((await read()).status.watchdog).toMatchObject({ running: true, pid: 77, stale: false, mute: false });
  });
  test("a watchdog that cannot write its log: exit 3, with the reason; what another one could not says nothing of it", async () => {
    await begin(FLEET);
    watchdog(10);
    const beat = JSON.parse(fake.files.get(state("heartbeat"))!);
    const says = async (some: object) => (fake.files.set(state("heartbeat"), JSON.stringify({ ...beat, ...some })), await command("status", "--config", cfg.path));
    expect(await says({ unlogged: "/logs/agents-watchdog.log: EPERM: operation not permitted" }))
      .toMatchObject({ code: 3, out: expect.stringContaining("watchdog: cannot write /logs/agents-watchdog.log: EPERM: operation not permitted  — agents doctor\n") });
    for (const some of [{}, { unlogged: "x", pid: 76 }, { unlogged: 7 }]) expect(await says(some)).toMatchObject({ code: 0, out: expect.not.stringContaining("cannot write") });
  });
  test("a client whose agent left the config, and whether it runs", async () => {
    await begin(FLEET);
    await fake.config(FLEET.replace(/\[\[agent\]\]\nname = "orchestrator"[^[]*/, ""));
    const left = { name: "orchestrator", session: "agents-orchestrator" };
    expect((await read()).status.orphans).toEqual([{ ...left, running: true }]);
    fake.tmux.exit(left.session);
    expect((await read()).status.orphans).toEqual([{ ...left, running: false }]);
  });
  test("a heartbeat is stale after three ticks, where it is that of the one that runs: exit 3", async () => {
    await begin(FLEET);
    for (const [seconds, stale] of [[89, false], [91, true]] as const) {
      watchdog(seconds);
      const { code, status } = await read();
      expect([seconds, code, status.watchdog.stale, status.needsHuman]).toEqual([seconds, stale ? 3 : 0, stale, stale]);
    }
    watchdog(91, 76);
    expect((await read()).code).toBe(0);
    // one whose rounds all fail never gives a sign of its own, while the sign of the one before it stands there
    for (const [seconds, stale] of [[90, false], [1, true]] as const) {
      fake.turn(seconds * SECOND);
      const { code, status } = await read();
      expect([code, status.watchdog.stale]).toEqual([stale ? 3 : 0, stale]);
    }
    fake.files.delete(state("heartbeat"));
    expect(await command("status", "--config", cfg.path)).toMatchObject({ code: 3, out: expect.stringMatching(/^.* ✗ no heartbeat\n[^]*^watchdog: STALE, no heartbeat$/m) });
    watchdog(91, 76);
    fake.files.set(state("heartbeat"), "{half");
    expect((await read()).status.watchdog).toEqual({ running: true, pid: 77, heartbeat: "", stale: false, mute: false, version: "", stage: "", missing: false });
    expect((await command("status", "--config", cfg.path)).out.split("\n")[0]).toEndWith("  ● starting");
  });
  test("no watchdog where one should run: exit 3; after a `down` of all it is 0", async () => {
    await begin(FLEET);
    const { code, status } = await read();
    expect([code, status.watchdog, status.needsHuman]).toMatchObject([3, { running: false, missing: true }, true]);
    const memory = fake.files.get(state("watch.json"))!;
    fake.files.delete(state("watch.json")); // its clients run: they were started by hand
    expect((await read()).status.watchdog.missing).toBe(true);
    for (const one of fake.tmux.panes) one.dead = true;
    expect((await read()).status.watchdog.missing).toBe(false);
    fake.files.set(state("watch.json"), memory); // none does, as after a reboot
    expect((await read()).status.watchdog.missing).toBe(true);
    fake.files.set(state("operator.json"), JSON.stringify({ held: Object.fromEntries([...cfg.agents.keys()].map((name) => [name, 1])) }));
    const down = await read();
    expect([down.code, down.status.watchdog.missing, down.of("builder").state]).toEqual([0, false, "stopped by you"]);
    // as after `systemctl stop`: stopped is no alarm, and what starts it is said
    const { out } = await command("status", "--config", cfg.path);
    expect(out).toMatch(/ {2}○ no watchdog\nnothing needs you · 4 down\n {2}AGENT [^]*\nthe fleet is stopped: "agents up" starts it\n$/);
    expect(out).not.toContain("watchdog: ");
    expect((await command("status", "--line", "--config", cfg.path)).out).toBe("agents stopped\n");
  });
  test("tmux that does not answer is unknown, never stopped: exit 3", async () => {
    await begin(FLEET);
    watchdog(10);
    fake.tmux.trouble = "no answer";
    const { code, of } = await read();
    expect([code, of("builder").state, of("builder").running]).toEqual([3, "unknown (tmux: no answer)", false]);
  });
  test("what is due next: a wake, a stall, a probe", async () => {
    await begin(FLEET.replace('role = "adversary"', 'role = "adversary"\naccount = "its own"'));
    watchdog(10);
    expect((await read()).of("orchestrator")).toMatchObject({ next: "wake", nextAt: expect.stringMatching(/^2026-06-15T13:00/) });
    watch.wakeDue.orchestrator = fake.wall - SECOND;
    Object.assign(pane("builder"), { doing: "idle" });
    pane("adversary").doing = "limit";
    await ticks(3);
    watchdog(10);
    const { of } = await read();
    expect(of("orchestrator")).toMatchObject({ next: "wake", nextAt: new Date(fake.wall - 91 * SECOND).toISOString() });
    expect(of("builder")).toMatchObject({ state: expect.stringMatching(/^idle/), condition: "idle", next: "stall" });
    expect(of("adversary")).toMatchObject({ state: expect.stringMatching(/^limited until .*5h/), condition: "limited", next: "probe", until: "2026-06-15T15:00:00.000Z" });
    expect(of("upgrader").next).toBe("");
    fake.files.set(join(cfg.logDir, "SEQUENCE-COMPLETE"), "");
    expect((await read()).of("orchestrator").next).toBe("");
  });
  test("a wake that comes before a restart is what is due next, in its row, on its card and in explain", async () => {
    await begin(FLEET.replace('name = "orchestrator"', 'name = "orchestrator"\nwatch = "heal+stall"'));
    pane("orchestrator").doing = "idle";
    await ticks(3);
    watch.wakeDue.orchestrator = fake.wall + 100 * SECOND;
    await ticks(1);
    watchdog(10);
    expect((await read()).of("orchestrator")).toMatchObject({ condition: "idle", next: "wake" });
    for (const word of ["status", "explain"]) expect((await command(word, "orchestrator", "--config", cfg.path)).out).toMatch(/^next +sends its wake at \d\d:\d\d$/m);
  });
  test("no restart is announced of a client that the watchdog leaves alone", async () => {
    await begin(FLEET);
    pane("builder").doing = "idle";
    await ticks(3);
    watchdog(10);
    expect((await read()).of("builder")).toMatchObject({ condition: "idle", next: "stall" });
    watch.intent = { id: "1", from: "p1", to: "p2", run: "", at: fake.wall };
    fake.files.set(state("watch.json"), JSON.stringify({ ...JSON.parse(fake.files.get(state("watch.json"))!), intent: watch.intent }));
    expect((await read()).of("builder")).toMatchObject({ condition: "idle", next: "" });
  });
  test("a restart of what a person started is one too: its watchdog never saw it begin", async () => {
    await begin(FLEET);
    for (const [name, { bootedAt }] of Object.entries(watch.agents)) if (bootedAt) watch.agents[name] = memoryOf({ agents: {} } as Watch, name);
    await ticks(2);
    fake.tmux.exit("agents-adversary", 1);
    await ticks(4);
    watchdog(10);
    const { of } = await read();
    expect([of("adversary").restartsToday, of("builder").restartsToday]).toEqual([1, 0]);
  });
  test("texts that wait, with why, and the restarts of this day: the first start is none", async () => {
    await begin(FLEET);
    pane("builder").doing = "dialog";
    enqueue(watch, "builder", "wake", "look");
    fake.tmux.exit("agents-adversary", 1);
    await ticks(4);
    watchdog(10);
    const { code, of } = await read();
    expect([code, of("builder").messages, of("builder").messagesWhy]).toEqual([3, 1, expect.stringMatching(/dialog/)]);
    expect([of("adversary").restartsToday, of("builder").restartsToday]).toEqual([1, 0]);
    expect((await command("status", "--config", cfg.path)).out).toMatch(/^! builder .* Do you want to proceed\? · 1 message waiting  → attach builder$/m);
    expect((await command("status", "--config", cfg.path)).out).toMatch(/^ {2}adversary .* {2}1 restart$/m);
    fake.turn(24 * HOUR);
    watchdog(10);
    expect((await read()).of("adversary").restartsToday).toBe(0);
  });
  test("a text for an agent that runs again does not wait for it to run", async () => {
    await begin(FLEET);
    watchdog(10);
    const wait = (some: Partial<Message>) => fake.files.set(state("watch.json"), JSON.stringify({ ...JSON.parse(fake.files.get(state("watch.json"))!),
      outbox: [message({ target: "builder", ...some })] }));
    wait({ why: "not running", during: "gone" });
    expect((await read()).of("builder")).toMatchObject({ running: true, messages: 1, messagesWhy: "", messagesDuring: "" });
    wait({ why: "its input box is not visible" });
    expect((await read()).of("builder")).toMatchObject({ messagesWhy: "its input box is not visible", messagesDuring: "" });
  });
  test("where no text waits, why the latest one has no proof", async () => {
    await begin(FLEET);
    const unproven = ["an older one", "its box was not seen"].map((why, nth) => message({ id: `${nth}`, target: "builder", why, unprovenAt: fake.wall }));
    fake.files.set(state("watch.json"), JSON.stringify({ ...JSON.parse(fake.files.get(state("watch.json"))!), unproven }));
    expect((await read()).of("builder")).toMatchObject({ messages: 0, unproven: 2, messagesWhy: "its box was not seen" });
  });
  test("a text does not wait for a question that the row no longer shows", async () => {
    await begin(FLEET);
    pane("builder").doing = "dialog";
    enqueue(watch, "builder", "wake", "look");
    await ticks(2);
    expect((await read()).of("builder")).toMatchObject({ verdict: "blocked", messagesWhy: expect.stringContaining("blocked: "), messagesDuring: "blocked" });
    pane("builder").doing = "idle";
    expect((await read()).of("builder")).toMatchObject({ verdict: "idle", messages: 1, messagesWhy: "", messagesDuring: "" });
    fake.tmux.exit("agents-builder", 1);
    fake.files.set(state("watch.json"), fake.files.get(state("watch.json"))!.replace(/blocked: [^"]*","during":"blocked"/, 'its input box is not visible"'));
    expect((await read()).of("builder")).toMatchObject({ running: false, messages: 1, messagesWhy: "" });
  });
  test("a session of its name that another fleet made: it cannot start, exit 3", async () => {
    await begin(FLEET);
    watchdog(10);
    Object.assign(pane("builder").marks, { "@agents_home": "/other/.agents/state", "@agents_fleet": "other1" });
    const { code, of } = await read();
    expect([code, of("builder").needsHuman, of("builder").detail]).toEqual([3, true,
      "the session agents-builder belongs to the fleet of /other/.agents; set session_prefix in [defaults]"]);
    expect((await command("explain", "builder", "--config", cfg.path)).out).toContain("belongs to the fleet of /other/.agents");
  });
  test("DONE, on its way to the next phase, and the end", async () => {
    await begin(FLEET);
    watchdog(10);
    const word = async () => / · phase p1 1\/2, (.*?) · /.exec((await command("status", "--config", cfg.path)).out)?.[1];
    const done = { "machine-docs/STATUS-p1.md": "# S\n\n## DONE\n\nAll gates PASS.\n" };
    fake.git.push("status(p1): done", done);
    fake.git.tracked = fake.git.remote;
    expect(await word()).toBe("DONE");
    watch.intent = { id: "1", from: "p1", to: "p2", run: "", at: fake.wall };
    fake.files.set(state("watch.json"), JSON.stringify({ ...JSON.parse(fake.files.get(state("watch.json"))!), intent: watch.intent }));
    expect(await word()).toBe("moving on to p2");
    fake.files.set(state("watch.json"), JSON.stringify({ ...JSON.parse(fake.files.get(state("watch.json"))!), intent: { ...watch.intent, to: "" } }));
    expect(await word()).toBe("moving on to the end");
  });
  test("the fleet is named by its folder and prefix", async () => {
    await begin(FLEET);
    expect((await command("status", "--config", cfg.path)).out).toStartWith(`${cfg.planDir} (agents-) · `);
    expect((await read()).status).toMatchObject({ fleet: `${cfg.planDir} (agents-)`, folder: cfg.planDir, prefix: "agents-" });
  });
  test("status looks when asked, by two calls of tmux, and changes nothing", async () => {
    await begin(FLEET);
    pane("builder").doing = "dialog";
    pane("adversary").doing = "idle";
    await ticks(4);
    watchdog(10);
    expect((await read()).of("builder")).toMatchObject({ condition: "blocked", detail: "Do you want to proceed?", cure: "attach builder", needsHuman: true });
    // a person has answered since the last tick
    pane("builder").doing = "busy";
    pane("adversary").doing = "busy";
    fake.turn(5 * SECOND);
    const calls: string[] = [];
    fake.beforeTmux(([name]) => void calls.push(name!));
    const effects = fake.effects.length;
    const { of } = await read();
    expect([of("builder").state, of("adversary").state, calls, fake.effects.length]).toEqual(["active 0s", "active 0s", ["list-panes", "source-file"], effects]);
  });
  test("a screen on which nothing was drawn since the watchdog found its client at rest is not read", async () => {
    await begin(FLEET);
    for (const name of ["builder", "adversary", "orchestrator"]) pane(name).doing = "idle";
    await ticks(6);
    watchdog(10);
    const captured: string[] = [];
    fake.beforeTmux(([name], stdin) => void (name === "source-file" && captured.push(...stdin.match(/capture-pane.*/g)!)));
    expect([(await read()).of("builder").condition, captured.length]).toEqual(["idle", 0]);
    pane("builder").doing = "dialog";
    expect([(await read()).of("builder").condition, captured.length]).toEqual(["blocked", 1]);
    pane("builder").activity = () => 0; // when it drew is not known
    expect([(await read()).of("builder").condition, captured.length]).toEqual(["blocked", 2]);
    fake.files.delete(state("watchdog.lock.pid"));
    await read();
    expect(captured.length).toBe(5);
  });
  test("the disk with the clients' own files is asked once for all of them, and the environment of each read once", async () => {
    await begin(FLEET);
    watchdog(10);
    const { answers, read: file } = world;
    const [disks, environs]: [string[], string[]] = [[], []];
    world.answers = (path) => (disks.push(path), answers(path));
    world.read = (path) => {
      if (path.endsWith("/environ")) environs.push(path);
      return file(path);
    };
    const { status } = await read();
    const clients = status.agents.filter(({ running, backend }) => running && backend === "claude").length;
    expect([clients > 2, disks.filter((path) => path.endsWith("/sessions")).length, new Set(environs).size - environs.length]).toEqual([true, 1, 0]);
    expect(environs.length).toBeGreaterThanOrEqual(clients);
  });
  test("nor one that the watchdog found at rest moments ago: its look counts, not how long it rests", async () => {
    await begin(FLEET);
    for (const name of ["builder", "adversary", "orchestrator"]) pane(name).doing = "idle";
    await ticks(2);
    watchdog(1);
    const captured: string[] = [];
    fake.beforeTmux(([name], stdin) => void (name === "source-file" && captured.push(...stdin.match(/capture-pane.*/g)!)));
    expect([(await read()).of("builder").condition, captured.length]).toEqual(["idle", 0]);
  });
  test("the screen of an agent that the watchdog does not look at any more is read, whatever it was when it did", async () => {
    const text = (watched: string) => `${FLEET}[[agent]]\nname = "helper"\nwatch = "${watched}"\n`;
    await begin(text("heal"));
    pane("helper").doing = "idle";
    await ticks(3);
    cfg = await fake.config(text("none"));
    pane("helper").doing = "dialog";
    await ticks(4);
    watchdog(10);
    expect([memoryOf(watch, "helper").verdict, (await read()).of("helper").condition]).toEqual(["idle", "blocked"]);
  });
  test("without a watchdog, too, and a client younger than its look is starting", async () => {
    await begin(FLEET);
    fake.tmux.exit("agents-builder", 1);
    await ticks(2);
    pane("builder").doing = "idle";
    await read();
    fake.turn(3 * SECOND);
    expect((await read()).of("builder")).toMatchObject({ condition: "idle" });
    Object.assign(pane("builder").marks, { "@agents_started": String(Math.floor(fake.wall / 1000) - 1) });
    expect((await read()).of("builder")).toMatchObject({ condition: "starting", state: "booting 1s", verdict: "booting" });
  });
  test("each row ends in why: how a client ended, with its last words, and what helps", async () => {
    await begin(FLEET);
    pane("builder").draw("at main.js:3\nError: Cannot find module 'yoga'\n    at run\nPane is dead (status 1, now)\n", fake.wall);
    fake.tmux.exit("agents-builder", 1);
    watchdog(10);
    expect((await read()).of("builder")).toMatchObject({ condition: "ended", state: "ended (exit 1)", detail: "exit 1: Error: Cannot find module 'yoga'" });
    // an error far above its last words is none of them
    for (const [lines, words] of [[11, "Error: an old one"], [12, "and on"]] as const) {
      pane("builder").draw(`Error: an old one\n${"and on\n".repeat(lines)}Pane is dead (status 1, now)\n`, fake.wall);
      expect((await read()).of("builder").detail).toBe(`exit 1: ${words}`);
    }
    pane("builder").draw("at main.js:3\nError: Cannot find module 'yoga'\n    at run\nPane is dead (status 1, now)\n", fake.wall);
    Object.assign(memoryOf(watch, "builder"), { life: { state: "backoff", until: fake.wall + 200 * SECOND }, failures: 1, buried: `${fake.tmux.server.pid} ${fake.tmux.server.start} ${pane("builder").id}` });
    await ticks(1);
    watchdog(10);
    expect((await read()).of("builder")).toMatchObject({ condition: "backoff", detail: "exit 1: Error: Cannot find module 'yoga' · failure 1", next: "start", needsHuman: false, cure: "" });
    const parked = fake.wall; // it ended before that
    memoryOf(watch, "builder").life = { state: "parked", why: "4 starts in 10 min without a healthy minute", at: parked };
    await ticks(1);
    watchdog(10);
    const { code, of } = await read();
    expect([code, of("builder")]).toMatchObject([3, { condition: "parked", cure: "up builder",
      detail: "exit 1: Error: Cannot find module 'yoga' · 4 starts in 10 min without a healthy minute", since: new Date(parked).toISOString() }]);
  });
  test("an error that needs a person is shown as the client said it", async () => {
    await begin(FLEET);
    pane("builder").draw(readFileSync(join(import.meta.dir, "fixtures", "claude", "blocked-error-400-organization-disabled.txt"), "utf8"), fake.wall);
    expect((await read()).of("builder")).toMatchObject({ condition: "blocked", detail: "API Error: 400 This organization has been disabled.", why: "an error that no rule knows" });
  });
  test("a folder that is not there: it cannot start at all, exit 3", async () => {
    await begin(FLEET.replace('name = "builder"', 'name = "builder"\ndir = "/nowhere"'));
    watchdog(10);
    const { code, of } = await read();
    expect([code, of("builder")]).toMatchObject([3, { state: "cannot start: no folder /nowhere", needsHuman: true }]);
    expect((await command("status", "--config", cfg.path)).out).toMatch(/^! builder .*stopped +no folder \/nowhere/m);
    // one beside the config is named as the config names it: of a long path the end would be cut off
    cfg = await fake.config(FLEET.replace('name = "builder"', 'name = "builder"\ndir = "clones/builder"'));
    expect((await read()).of("builder").detail).toBe("no folder clones/builder");
    // what could not be started was not restarted
    await ticks(20);
    watchdog(10);
    expect((await read()).of("builder").restartsToday).toBe(0);
  });
  test("a program that was not found is said once, without the code of our launch", async () => {
    await begin(FLEET);
    pane("builder").draw("agents: claude was not found\nPane is dead (status 99, now)\n", fake.wall);
    fake.tmux.exit("agents-builder", 99);
    expect((await read()).of("builder").detail).toBe("claude was not found");
    Object.assign(memoryOf(watch, "builder"), { life: { state: "parked", why: "claude not found", at: fake.wall }, buried: `${fake.tmux.server.pid} ${fake.tmux.server.start} ${pane("builder").id}` });
    await save(cfg, watch);
    expect((await read()).of("builder")).toMatchObject({ condition: "parked", detail: "claude not found" });
    // a client that itself ends with that code
    pane("builder").draw("lost the server\nPane is dead (status 99, now)\n", fake.wall);
    expect((await read()).of("builder").detail).toBe("exit 99: lost the server · claude not found");
  });
  test("the model is the one that runs, whatever the config says by now", async () => {
    await begin(FLEET.replace('name = "builder"', 'name = "builder"\nmodel = "haiku"'));
    cfg = await fake.config(fake.files.get(cfg.path)!.replace('model = "haiku"', 'model = "opus"'));
    expect([(await read()).of("builder").model, (await read()).of("adversary").model]).toEqual(["haiku", "default"]);
    fake.tmux.exit("agents-builder", 0);
    expect((await read()).of("builder").model).toBe("opus");
  });
  test("until when: a wait, a limit; a hold that what is seen ends is none", async () => {
    await begin(FLEET);
    const until = new Date(fake.wall + HOUR).toISOString();
    Object.assign(pane("builder"), { doing: "idle", said: `● I go on later.\n  WAITING-UNTIL: ${until}` });
    pane("adversary").doing = "limit";
    fake.turn(10 * SECOND);
    const clock = (iso: string) => new Date(iso).toTimeString().slice(0, 5);
    expect((await read()).of("builder")).toMatchObject({ condition: "waiting", until, detail: `to ${clock(until)}` });
    // the watchdog has not seen this one yet
    expect((await read()).of("adversary")).toMatchObject({ condition: "limited", until: "2026-06-15T15:00:00.000Z", detail: expect.stringMatching(/^5-hour limit, resets /) });
    await ticks(2);
    // nothing is due where no watchdog would do it
    expect((await read()).of("adversary")).toMatchObject({ condition: "limited", detail: expect.stringMatching(/^to .*, 5h$/), next: "", nextAt: "" });
    expect((await command("status", "adversary", "--config", cfg.path)).out).toMatch(/^next +the watchdog is not running, so nothing is done; "agents\s+up\s+watchdog"\s+starts it$/m);
    // nor where one hangs
    watchdog(91);
    expect((await read()).of("adversary")).toMatchObject({ condition: "limited", next: "", nextAt: "" });
    expect((await command("status", "adversary", "--config", cfg.path)).out).toMatch(/^next +the watchdog is stale, so nothing may be done; see "agents\s+logs\s+watchdog"$/m);
    expect((await command("explain", "adversary", "--config", cfg.path)).out).toMatch(/^watchdog +stale, so nothing may be done; see "agents\s+logs\s+watchdog"$/m);
    watchdog(10);
    expect((await read()).of("adversary")).toMatchObject({ condition: "limited", next: "probe" });
    pane("adversary").doing = "busy";
    expect((await read()).of("adversary")).toMatchObject({ condition: "working", next: "" });
    pane("adversary").doing = "dialog";
    expect((await read()).of("adversary")).toMatchObject({ condition: "blocked", needsHuman: true });
  });
  test("card and row name the same next step, also of a client that the watchdog has not seen yet", async () => {
    await begin(FLEET);
    fake.tmux.exit("agents-builder", 1);
    await ticks(2);
    pane("builder").doing = "idle";
    await read();
    fake.turn(90 * SECOND);
    watchdog(89);
    const { next, nextAt } = (await read()).of("builder");
    const { agents: [card] } = JSON.parse((await command("status", "builder", "--json", "--config", cfg.path)).out) as { agents: Card[] };
    const at = new Date(nextAt).toTimeString().slice(0, 5);
    expect([next, card!.nextAt, card!.nextStep]).toEqual(["stall", nextAt, expect.stringMatching(new RegExp(` if it is still idle at ${at}$`))]);
    expect((await command("explain", "builder", "--config", cfg.path)).out).toMatch(new RegExp(`^next +.* if it is still idle at ${at}$`, "m"));
  });
  test("an agent that is blocked while its account is limited waits for a person, and for nothing else", async () => {
    await begin(FLEET);
    pane("adversary").doing = "limit";
    await ticks(2);
    for (const name of ["builder", "orchestrator"]) pane(name).doing = "dialog";
    await ticks(1);
    watchdog(10);
    const { of } = await read();
    expect([of("adversary").condition, of("builder").condition, of("builder").next, of("orchestrator").next]).toEqual(["limited", "blocked", "", ""]);
    for (const command_ of ["status", "explain"]) {
      const { out } = await command(command_, "builder", "--config", cfg.path);
      expect(out).toMatch(/^next +types nothing and restarts nothing: it needs you$/m);
    }
  });
  test("status NAME is a card: state and since, evidence, texts, restarts with reasons, what comes next, its screen", async () => {
    await begin(FLEET);
    fake.turn(60 * SECOND);
    fake.tmux.exit("agents-builder", 1);
    await ticks(3);
    pane("builder").doing = "dialog";
    enqueue(watch, "builder", "wake", "look at the newest claim");
    await ticks(4);
    watchdog(10);
    const json = await command("status", "builder", "--json", "--config", cfg.path);
    const { agents, services, version, needsHuman } = JSON.parse(json.out) as { agents: Card[]; services: Card[]; version: number; needsHuman: boolean };
    expect([json.code, version, needsHuman, agents.length, services]).toEqual([3, 1, true, 1, []]);
    expect(agents[0]).toMatchObject({
      name: "builder", condition: "blocked", detail: "Do you want to proceed?", evidence: { rule: "dialog hint", where: "dialog", text: "Esc to cancel · Tab to amend" },
      texts: [{ cause: "wake", text: "look at the newest claim", tries: 0, why: expect.stringContaining("dialog") }],
      restarts: [{ at: expect.any(String), why: "ended (exit 1)" }], nextStep: "types nothing and restarts nothing: it needs you", cure: "attach builder",
    });
    expect(agents[0]!.screen).toContain(" ❯ 1. Yes");
    const card = (await command("status", "buil*", "--config", cfg.path)).out;
    for (const line of [/^! builder {2}\d\d:.* ● 10s ago$/m, /^is +loop · claude, started with model default · watch heal\+stall$/m, /^state +blocked for 2m, since \d\d:\d\d$/m, /^why +Do you want to proceed\?$/m,
      /^evidence +rule "dialog hint" \(dialog\): Esc to cancel/m, /^messages  wake \(2m old; blocked: a dialog is open\): look at the newest claim$/m, /^restarts +1 today\n +\d\d:\d\d {2}ended \(exit 1\)$/m,
      /^next +types nothing/m, /^cure +agents attach builder$/m, /^─+\n[^]*^ ❯ 1\. Yes$/m]) expect(card).toMatch(line);
    expect(new Set(card.match(/^─+$/gm)!.map((line) => line.length))).toEqual(new Set([80]));
  });
  test("status NAME says why the watchdog ended what it starts again later", async () => {
    await begin(FLEET);
    fake.tmux.kill(pane("builder"));
    Object.assign(memoryOf(watch, "builder"), { life: { state: "backoff", until: fake.wall + 200 * SECOND }, failures: 2 });
    await save(cfg, watch);
    watchdog(10);
    const note = (event: object) => fake.files.set(state("events.jsonl"), `${fake.files.get(state("events.jsonl"))}${JSON.stringify({ at: new Date(fake.wall).toISOString(), agent: "builder", ...event })}\n`);
    const why = async () => /^why +(.*)$/m.exec((await command("status", "builder", "--config", cfg.path)).out)![1];
    note({ event: "down", why: "idle 301 s with no WAITING-UNTIL marker" });
    expect(await why()).toBe("idle with no WAITING-UNTIL marker · failure 2");
    note({ event: "start" }); // of which nothing is known yet
    expect(await why()).toBe("failure 2");
  });
  test("the last words of an ended client: its last error, else its last line", async () => {
    await begin(FLEET);
    const [name] = [...cfg.agents.keys()] as [string];
    const said = async (...screen: string[]) => {
      const one = fake.tmux.of(`agents-${name}`);
      Object.assign(one, { dead: true, status: 1, text: screen.join("\n") });
      return (await read()).of(name).detail;
    };
    expect([await said("begin", "it works", "the end"), await said("begin", "Error: no such model", "the end", "")]).toEqual(["exit 1: the end", "exit 1: Error: no such model"]);
    for (const last of ["cannot open it", "no file was not found", "it FAILED", "access denied", "login refused", "panic: index"]) expect(await said(last, "the end")).toBe(`exit 1: ${last}`);
  });
  test("a broken config needs a person, whoever works", async () => {
    await begin(FLEET);
    watchdog(10);
    expect([(await read()).code, (await read()).status.needsHuman]).toEqual([0, false]);
    fake.files.set(state("agents.toml"), FLEET);
    fake.files.set(cfg.path, "[[agent");
    const { code, status } = await read();
    expect([code, status.needsHuman, status.configError]).toEqual([3, true, expect.stringContaining("agents.toml:1")]);
  });
  test("a card shows five restarts, and the last twelve lines of a screen", async () => {
    await begin(FLEET);
    const [name] = [...cfg.agents.keys()] as [string];
    const at = (nth: number) => new Date(fake.wall - 60_000 + nth * 1000).toISOString();
    const event = (nth: number) => [{ event: "down", why: `exit ${nth}` }, { event: "start" }].map((one) => `${JSON.stringify({ at: at(nth), agent: name, ...one })}\n`).join("");
    fake.files.set(state("events.jsonl"), Array.from({ length: 9 }, (_, nth) => event(nth + 1)).join(""));
    Object.assign(pane(name), { text: Array.from({ length: 30 }, (_, nth) => `line ${nth}`).join("\n") });
    const { agents: [card] } = JSON.parse((await command("status", name, "--json", "--config", cfg.path)).out) as { agents: Card[] };
    expect([card!.restarts.map(({ why }) => why), card!.screen]).toEqual([[5, 6, 7, 8, 9].map((nth) => `exit ${nth}`), Array.from({ length: 12 }, (_, nth) => `line ${nth + 18}`)]);
  });
  test("a card's restarts: each start after an end of its client or an order to restart it; no park, no start after down", async () => {
    await begin(FLEET);
    const [name, other] = [...cfg.agents.keys()] as [string, string];
    const start = (agent: string) => ["start", { agent }] as const;
    const events = [["down", { agent: name, why: "exit 1" }], start(name), ["order", { command: "down", names: [name] }], start(name), ["order", { command: "restart", names: [other] }], start(other),
      ["order", { command: "restart --fresh", names: [other, name] }], start(name), ["down", { agent: other, why: "exit 2" }], ["down", { agent: name, why: "parked: 5 starts" }], start(other)] as const;
    fake.files.set(state("events.jsonl"), events.map(([event, more], nth) => `${JSON.stringify({ at: new Date(fake.wall - 60_000 + nth * 1000).toISOString(), event, ...more })}\n`).join(""));
    const { agents: [card] } = JSON.parse((await command("status", name, "--json", "--config", cfg.path)).out) as { agents: Card[] };
    expect(card!.restarts.map(({ at, why }) => [Date.parse(at) - fake.wall + 60_000, why])).toEqual([[1_000, "exit 1"], [7_000, "by you"]]);
  });
  test("a card of several, of one that is down and of one that rests; no card is wider than the terminal", async () => {
    await begin(FLEET.replace('name = "builder"', 'name = "builder"\ndir = "/nowhere"').replace("[loop]", '[[service]]\nname = "web"\ncommand = "serve"\n[loop]'));
    pane("adversary").doing = "idle";
    await ticks(6);
    watchdog(10);
    for (const width of [30, 44, 60, 80, 120, 200]) {
      const { code, out } = await atWidth(width, () => command("status", "*", "--config", cfg.path));
      expect(code).toBe(3);
      for (const line of out.split("\n")) expect([line, Bun.stringWidth(line) <= width]).toEqual([line, true]);
    }
    const { out } = await command("status", "*", "--config", cfg.path);
    for (const odd of ["-5", "1e9", "abc", "0", "1.5", "99999", ""]) {
      process.env.COLUMNS = odd;
      expect([odd, (await command("status", "*", "--config", cfg.path)).out.length]).toEqual([odd, out.length]);
    }
    delete process.env.COLUMNS;
    expect(out).toMatch(/^! builder [^]*^why +no folder \/nowhere$[^]*^adversary [^]*^next +restarts it if it is still idle at \d\d:\d\d\n─+\n● Ready\.[^]*^web [^]*^is +service$/m);
    const watchdogs = await command("status", "watchdog", "--config", cfg.path);
    expect([watchdogs.code, watchdogs.err]).toEqual([2, expect.stringContaining("agents logs watchdog")]);
  });
  test("the loop agent from which nothing came for two hours says so, and it alone: it is the other's turn after its commit", async () => {
    await begin(FLEET);
    const late = async () => {
      watchdog(10);
      const { out } = await command("status", "--config", cfg.path);
      return ["builder", "adversary"].filter((name) => new RegExp(`^. ${name} .*no commit in this phase for 2h`, "m").test(out));
    };
    expect(await late()).toEqual([]);
    fake.turn(2 * HOUR);
    await ticks(1);
    expect(await late()).toEqual(["builder"]);
    fake.git.push("claim(p1): G1 is ready");
    await ticks(3);
    expect(await late()).toEqual([]);
    fake.turn(2 * HOUR);
    await ticks(1);
    expect(await late()).toEqual(["adversary"]);
  });
  test("sessions that no config names, and loops on an older kickoff", async () => {
    await begin(FLEET);
    watchdog(10);
    fake.tmux.add("agents-stranger");
    fake.tmux.add("agents-watchdog");
    fake.tmux.add("other-stranger");
    fake.files.set(state("phase-idx"), "1");
    fake.files.delete(state("phase-id"));
    const { status } = await read();
    expect([status.unknownSessions, status.olderPhase.toSorted()]).toEqual([["agents-stranger"], ["adversary", "builder"]]);
  });
  test("a phase file that makes no sense: exit 3, with the reason", async () => {
    await begin(FLEET);
    watchdog(10);
    fake.files.set(state("phase-idx"), "99");
    const { code, status } = await read();
    expect([code, status.phase]).toMatchObject([3, { id: "", index: -1, total: 2, error: expect.stringContaining("99") }]);
  });
});

// ── in a terminal ──

/** What the watchdog has stored of its client. */
const seen = (f: Fleet): string => JSON.parse(f.read(".agents/state/watch.json")).agents.a1.verdict;
const fleet = life({ agents: [{ name: "a1", watch: "heal" }] });

fleet("what needs a person is red on a terminal, and plain in a pipe", async (f) => {
  await f.up();
  await f.ready("a1");
  f.control("a1", "dialog");
  await until(() => seen(f) === "blocked");
  const person = await f.terminal(["status"]);
  expect(await person.ended()).toBe("exit 3");
  expect(await person.screen("-e")).toMatch(/\x1b\[31m(\x1b\[\d+m)?! a1 .*blocked/);
  expect((await f.run(["status"])).out).not.toContain("\x1b");
});

for (const by of ["", ", also where that was started by a link to its folder"]) fleet(`a config that is cut short, or gone while it is saved, is still that of its fleet: not of the one above${by}`, async (f) => {
  // where its logs are stands in a form, and in a file, that cannot be read once it is broken
  const good = 'defaults = { session_prefix = "i-", log_dir = "logs" }\n[[service]]\nname = "s1"\ncommand = "sleep 1000"\n';
  f.write("inner/agents.toml", good);
  f.write("inner/clone/file", "");
  const inner = (...words: string[]) => spawn([...SELF, ...words], { cwd: f.path("inner", "clone"), env: f.env });
  if (by) symlinkSync(f.path("inner"), f.path("link"));
  expect((await inner("up", ...(by ? ["--config", f.path("link", "agents.toml")] : []))).code).toBe(0);
  for (const broken of [`${good}[[agent\n`, "", null]) {
    if (broken === null) rmSync(f.path("inner", "agents.toml"));
    else f.write("inner/agents.toml", broken);
    const { code, out } = await inner("status");
    expect([broken, code, out]).toEqual([broken, 3, expect.stringMatching(/inner\/agents\.toml.*running on the last good one\n[^]*^. s1 .*running/m)]);
  }
  expect((await inner("up")).err).toMatch(/inner\/agents\.toml: no such file/);
  expect((await inner("down")).code).toBe(0);
  expect(await f.sessions()).toEqual(["t-a1", "t-watchdog"]);
  rmSync(f.path("inner"), { recursive: true });
});

fleet("a broken config under a running watchdog: status, logs, send and down go by the last good one, and say so", async (f) => {
  f.control("a1", "idle");
  await until(() => seen(f) === "idle");
  const good = f.read("agents.toml");
  f.write("agents.toml", `${good}\n[[agent\n`);
  const said = /agents\.toml:\d+:\d+: .*; (broken since|changed at) .*\d\d:\d\d, running on the last good one/;
  const status = await f.run(["status"]);
  expect([status.code, status.out.split("\n")[0], /^. a1 /m.test(status.out)]).toEqual([3, expect.stringMatching(said), true]);
  expect(JSON.parse((await f.run(["status", "--json"])).out).configError).toMatch(said);
  expect(await f.run(["phase"])).toMatchObject({ code: 1, err: expect.stringMatching(said) }); // it has none
  for (const words of [["logs", "a1"], ["send", "a1", "hear this"], ["explain", "a1"], ["events"]]) {
    const ran = await f.run(words);
    expect([words[0], ran.code, ran.err]).toEqual([words[0], 0, expect.stringMatching(said)]);
  }
  expect((await f.run(["status", "--line"])).out).toBe("t ✗ config\n");
  const doctor = await f.run(["doctor"]);
  expect([doctor.code, doctor.out]).toEqual([3, expect.stringMatching(/^fail {2}config: .*the fleet runs on the last good one, which is examined here\n[^]*^ok {4}watchdog: /m)]);
  // what shows it itself does not say it twice
  const report = await f.run(["report"]);
  expect([report.code, report.out, report.err, status.err]).toEqual([0, expect.stringMatching(said), "", ""]);
  expect(f.submits("a1")).toEqual(["hear this"]);
  // another config of the same folder is not what that watchdog runs on
  f.write("other.toml", "[[agent\n");
  for (const words of [["status"], ["down"]]) expect((await f.run([...words, "--config", f.path("other.toml")])).code).toBe(2);
  // what would begin something wants a config that is right
  for (const words of [["up"], ["restart", "a1"]]) expect([words[0], (await f.run(words)).code]).toEqual([words[0], 2]);
  expect((await f.run(["down"])).code).toBe(0);
  expect(await f.sessions()).toEqual([]);
  expect((await f.run(["status"])).code).toBe(2); // nothing runs on it any more
});
