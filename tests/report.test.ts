/** What happened, for a person in the morning: the figures, their text, and what is not known. */
import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type AgentEvent, type AgentReport, longestGap, parseEvents, parseSince, type Report, reportText, summariseEvents,
} from "../agents.ts";
import { desk, TWO } from "./desk.ts";

const { scratch, call, fleet } = desk();
const MINUTE = 60_000;
const DAY = Date.parse("2026-03-01T00:00:00Z");
const at = (clock: string): string => `2026-03-01T${clock}:00.000Z`;


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

  describe("the parts of a bar are whole hours of the local clock", () => {
    const { TZ } = process.env;
    afterEach(() => {
      if (TZ === undefined) delete process.env.TZ;
      else process.env.TZ = TZ;
    });
    const clock = (iso: string) => new Date(iso).toTimeString().slice(0, 5);
    const of = (zone: string, from: string, hours: number) => {
      process.env.TZ = zone;
      return summariseEvents(NIGHT, Date.parse(from), Date.parse(from) + hours * 60 * MINUTE, BOTH);
    };
    test.each([
      ["UTC", "00:20", "00:00"], ["Europe/Berlin", "00:20", "01:00"], ["America/New_York", "00:20", "19:00"],
      ["Asia/Kolkata", "00:20", "05:00"], ["Asia/Kolkata", "00:40", "06:00"], ["Asia/Kathmandu", "00:20", "06:00"],
      ["America/St_Johns", "00:20", "20:00"], ["Pacific/Apia", "00:20", "13:00"], ["Pacific/Marquesas", "00:40", "15:00"],
    ])("%s, from %s in UTC: the first is at %s", (zone, from, first) => {
      const report = of(zone, at(from), 12);
      expect([clock(report.slots[0]!), report.slotMs]).toEqual([first, 60 * MINUTE]);
      for (const slot of report.slots) expect(clock(slot)).toEndWith(":00");
      expect(Date.parse(report.slots[0]!)).toBeLessThanOrEqual(Date.parse(at(from)));
      expect(Date.parse(report.slots[1]!)).toBeGreaterThan(Date.parse(at(from)));
      expect(Date.parse(report.slots.at(-1)!) + report.slotMs).toBeGreaterThanOrEqual(Date.parse(report.to));
    });
    test.each([
      ["Europe/Berlin", "2026-03-28T20:30:00Z", ["21:00", "22:00", "23:00", "00:00", "01:00", "03:00", "04:00"]],
      ["Europe/Berlin", "2026-10-24T20:30:00Z", ["22:00", "23:00", "00:00", "01:00", "02:00", "02:00", "03:00"]],
      ["America/St_Johns", "2026-03-08T03:15:00Z", ["23:00", "00:00", "01:00", "03:00", "04:00", "05:00", "06:00"]],
    ])("%s in the night in which its clocks change: %s", (zone, from, clocks) =>
      expect(of(zone, from, 6).slots.map(clock)).toEqual(clocks));
    test("a zone changes where the bars begin and what the clock says, and no figure", () => {
      const figures = (zone: string) => of(zone, at("00:00"), 4).agents.map(({ bar, ...rest }) => rest);
      expect(figures("Asia/Kolkata")).toEqual(figures("UTC"));
      const [builder] = of("Asia/Kolkata", at("00:00"), 4).agents;
      // 00:00 to 00:30, 00:30 to 01:30 and so on: at work from 00:30 to 01:30, and from 02:30 to 02:45
      expect(builder!.bar.map((share) => share?.toFixed(2))).toEqual(["0.00", "1.00", "0.00", "0.25", "0.00"]);
      const text = reportText(of("Asia/Kolkata", at("00:00"), 4), 80);
      for (const part of ["03-01 05:30 to 03-01 09:30", "a → b (03-01 08:01)", "\n            06 09\nbuilder "]) expect(text).toContain(part);
    });
    test("days begin at local midnight", () => {
      for (const zone of ["Asia/Kolkata", "America/St_Johns", "UTC"]) {
        const report = of(zone, "2026-01-10T12:00:00Z", 24 * 45);
        expect([zone, report.slotMs, clock(report.slots[0]!)]).toEqual([zone, 24 * 60 * MINUTE, "00:00"]);
      }
    });
  });

  test("in a pipe nothing is cut, and nothing is padded without end", () => {
    const text = reportText(night(), Infinity);
    expect(text).toEndWith("\n2 troubles:\n03-01 02:10 undelivered adversary: a draft is in its box\n03-01 03:15 blocked builder: permission");
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
