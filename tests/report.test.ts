/** What happened, for a person in the morning: the figures, their text, and what is not known. */
import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type AgentEvent, type AgentReport, longestGap, openMatters, parseEvents, parseSince, type Report, reportMarkdown, reportText,
  type Status, type StatusRow, summariseEvents, timeline,
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
    expect(minutesOf(builder)).toEqual({ active: 75, idle: 58, limited: 60, blocked: 30, down: 1, unknown: 16 });
    expect(minutesOf(adversary)).toEqual({ active: 70, idle: 110, limited: 0, blocked: 0, down: 0, unknown: 60 });
    // parts of ten minutes
    const share = (times: number, value: number | null): (number | null)[] => Array(times).fill(value);
    expect(builder.bar).toEqual([...share(3, 0), ...share(6, 1), ...share(6, 0), 1, 5 / 9, ...share(6, 0), null]);
    expect(adversary.bar).toEqual([...share(6, null), ...share(6, 1), ...share(4, 0), 1, ...share(7, 0)]);
    expect([builder.timeline, adversary.timeline]).toEqual(["···██████▒▒▒▒▒▒█↺··!!!! ", "      ██████····█·······"]);
    expect([builder.firstSeen, adversary.firstSeen]).toEqual([at("00:00"), at("01:00")]);
    expect(builder.restarts).toEqual({ count: 1, why: { "ended (exit 1)": 1 } });
    expect(builder.texts).toEqual({ delivered: 3, undelivered: 0, medianMs: 1500, maxMs: 4000 });
    expect(adversary.texts).toEqual({ delivered: 2, undelivered: 1, medianMs: 1500, maxMs: 2000 });
    expect([builder.commits, adversary.commits]).toEqual([{ claim: 2, review: 0 }, { claim: 0, review: 1 }]);
    expect(builder.silence).toEqual({ from: at("02:45"), to: at("04:00"), ms: 75 * MINUTE });
    expect(night().silence).toEqual({ from: at("02:50"), to: at("04:00"), ms: 70 * MINUTE });
    expect(night().phases).toEqual([{ at: at("02:31"), from: "a", to: "b" }]);
    expect(night().troubles.map(({ event }) => event)).toEqual(["undelivered", "blocked"]);
  });

  test("the bars fill a wide terminal, with slots that are round on a clock; in a pipe there are at least 20", () => {
    const bars = (width: number) => {
      const report = night({ width });
      const wide = Math.max(...reportText(report, width).split("\n").filter((line) => /^(?:builder|adversary) {2,}[^a-z]/.test(line)).map((line) => Bun.stringWidth(line)));
      return [report.slotMs / MINUTE, wide <= width];
    };
    expect([44, 80, 120, 200, 500].map(bars)).toEqual([[10, true], [5, true], [3, true], [2, true], [0.5, true]]);
    expect(night().slotMs).toBe(10 * MINUTE);
    const builder = (width: number) => /^builder {4}(.*)$/m.exec(reportText(night({ width }), width))![1];
    expect(builder(80)).toBe("······████████████▒▒▒▒▒▒▒▒▒▒▒▒███↺·····!!!!!!"); // 5 minutes each
  });

  test.each([0, 7, 59].flatMap((past) => [4, 48, 31 * 24].map((hours) => [past, hours] as const)))(
    "the bars fit in 30 columns and more, of a time that begins %d minutes past the hour and lasts %d hours", (past, hours) => {
    const wider = Array.from({ length: 230 }, (_, nth) => 30 + nth).filter((width) => {
      const report = summariseEvents(NIGHT, DAY + past * MINUTE, DAY + (past + hours * 60) * MINUTE, { ...BOTH, width });
      return "adversary".length + 2 + report.agents[0]!.timeline.length > width;
    });
    expect(wider).toEqual([]);
  });

  test("beside an agent's long name the tables stay tables: it gives way down to 14 columns", () => {
    const name = "builder-of-the-parser-of-dates";
    const report = summariseEvents(NIGHT.map((one) => one.agent === "builder" ? { ...one, agent: name } : one), DAY, DAY + 240 * MINUTE, { names: [name, "adversary"] });
    expect(reportText(report, 80)).toMatch(/^AGENT {10,}ACTIVE +IDLE +LIMITED +BLOCKED +DOWN +UNKNOWN +SILENCE\nbuilder-.*….*-dates +1h15m /m);
    expect(reportText(report, 71)).toMatch(/^builder…-dates {2}1h15m /m);
    expect(reportText(report, 70)).toMatch(/^builder-of-the-parser-of-dates: active 1h15m · /m);
    for (const width of [60, 70, 71, 80]) expect(reportText(report, width).split("\n").filter((line) => Bun.stringWidth(line) > width)).toEqual([]);
  });

  test("what no watchdog saw is unknown", () => {
    const report = night({ lastLook: Date.parse(at("03:30")) });
    expect(minutesOf(report.agents[0]!)).toEqual({ active: 75, idle: 58, limited: 60, blocked: 15, down: 1, unknown: 31 });
    expect(report.agents[0]!.silence.ms).toBe(60 * MINUTE);
  });

  test("a part of an hour counts as that part; events after the end do not count", () => {
    const report = summariseEvents(NIGHT, Date.parse(at("00:15")), Date.parse(at("00:45")), BOTH);
    expect(minutesOf(report.agents[0]!)).toEqual({ active: 15, idle: 15, limited: 0, blocked: 0, down: 0, unknown: 0 });
    expect([report.slotMs, report.agents[0]!.bar.length]).toEqual([MINUTE, 30]);
    expect(report.agents[0]!.bar).toEqual([...Array(15).fill(0), ...Array(15).fill(1)]);
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
    // a phase that was set since takes it back
    const again = summariseEvents([...events, { at: at("03:30"), event: "phase", to: "a" }], DAY, DAY + 240 * MINUTE);
    expect([again.complete, reportText(again, 80)]).toEqual(["", expect.not.stringContaining("complete at")]);
  });

  test("a short silence is told to the second: it does not begin and end at one time", () => {
    const report = { ...night(), silence: { from: at("02:45").replace(":00.000", ":05.000"), to: at("02:45").replace(":00.000", ":22.000"), ms: 17_000 } };
    const lasting = (ms: number): Report => ({ ...night(), silence: { from: at("02:00"), to: new Date(DAY + 120 * MINUTE + ms).toISOString(), ms } });
    const told = (one: Report) => /^longest silence .*$/m.exec(reportText(one, 80))?.[0];
    expect(told(report)).toMatch(/^longest silence of the loop \(none at work\): 17s, from \d\d:\d\d:05 to \d\d:\d\d:22$/);
    expect([told(lasting(10 * MINUTE - 1000)), told(lasting(10 * MINUTE))]).toEqual([expect.stringMatching(/ to \d\d:\d\d:59$/), expect.stringMatching(/ to \d\d:\d\d$/)]);
    expect(told(night())).toMatch(/^longest silence of the loop \(none at work\): 1h10m, from \d\d:\d\d to \d\d:\d\d$/);
    expect(told(night({ loops: [] }))).toStartWith("longest silence of all (none at work): 1h10m, from ");
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
    const text = reportText(summariseEvents([], DAY, DAY + 60 * MINUTE, { names: ["x"] }), 80);
    expect(text.slice(text.indexOf("Timeline"))).toBe("Timeline\nnothing is known about this time\n\nWhat it cost\nnothing is known about this time\n\nTroubles\nnone\n\nNotices\nnone went out");
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
    expect(text).toContain("builder    ···██████▒▒▒▒▒▒█↺··!!!!\n");
    expect(text).toContain("adversary        ██████····█·······\n");
    expect(text).toMatch(/builder +1h15m +58m +1h00m +30m +1m +16m +1h15m/);
    expect(text).toMatch(/builder +3 +1\.5s +4\.0s +2 claims +1\n/);
    expect(text).toContain("\nbuilder: 1 restart: ended (exit 1)\n");
    expect(text).toContain("a → b (02:31)");
    expect([text.includes("\ngates passed: a\n"), text.includes("gates failing")]).toEqual([true, false]);
    // seen an hour after the beginning, it has no hour of which nothing is known
    expect(text).toMatch(/adversary +1h10m +1h50m +- +- +- +- +1h10m/);
  });

  test("on a narrow terminal a bar shows the whole time too, in longer slots", () => {
    const told = (minute: number, to: string): AgentEvent => ({ at: new Date(DAY + minute * MINUTE).toISOString(), event: "state", agent: "builder", to });
    const text = reportText(summariseEvents([told(59, "active"), told(230, "idle")], DAY + 59 * MINUTE, DAY + 240 * MINUTE, { names: ["builder"], lastLook: DAY + 240 * MINUTE, width: 44 }), 44);
    expect(/^builder +(\S*)$/m.exec(text)![1]).toBe("██████████████████·"); // 10 minutes each
    for (const line of text.split("\n")) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(44);
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
      const report = of(zone, at(from), 24);
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
      expect(of(zone, from, 24).slots.map(clock).slice(0, clocks.length)).toEqual(clocks));
    test.each([["01:00", 7, "   02:00 04:00 06:00"], ["00:00", 24, "00 03 06 09 12 15 18 21"], ["00:00", 96, "00 12 00 12 00 12 00 12"], ["00:00", 480, "01 04 07 10 13 16 19"]])("above them stand round times too: from %s, %d hours", (from, hours, ruler) => {
      const text = reportText(of("UTC", at(from), hours), 80);
      expect(/^Timeline\n {11}(.*)$/m.exec(text)![1]).toBe(ruler);
    });
    test("a zone changes where the bars begin and what the clock says, and no figure", () => {
      const figures = (zone: string) => of(zone, at("00:00"), 24).agents.map(({ bar, timeline, ...rest }) => rest);
      expect(figures("Asia/Kolkata")).toEqual(figures("UTC"));
      const [builder] = of("Asia/Kolkata", at("00:00"), 24).agents;
      // 00:00 to 00:30, 00:30 to 01:30 and so on: at work from 00:30 to 01:30, and from 02:30 to 02:45
      expect(builder!.bar.slice(0, 4).map((share) => share?.toFixed(2))).toEqual(["0.00", "1.00", "0.00", "0.25"]);
      const text = reportText(of("Asia/Kolkata", at("00:00"), 24), 80);
      for (const part of ["03-01 05:30 to 03-02 05:30", "a → b (03-01 08:01)", "\n            06 09 12 15 18 21 00 03\nbuilder "]) expect(text).toContain(part);
      expect(reportText(of("Asia/Kolkata", at("00:00"), 4), 80)).toContain("\n              06:00 07:00 08:00 09:00\nbuilder ");
    });
    test("days begin at local midnight", () => {
      for (const zone of ["Asia/Kolkata", "America/St_Johns", "UTC"]) {
        const report = of(zone, "2026-01-10T12:00:00Z", 24 * 30);
        expect([zone, report.slotMs, clock(report.slots[0]!)]).toEqual([zone, 24 * 60 * MINUTE, "00:00"]);
      }
    });
  });

  test("a bar has twenty parts or more, from the first that the record knows, whatever was asked for", () => {
    for (let minutes = 1; minutes < 100 * 1440; minutes = Math.ceil(minutes * 1.3)) {
      const events = [{ ...NIGHT[0]!, at: new Date(DAY).toISOString() }, ...NIGHT.slice(2)];
      const report = summariseEvents(events, DAY, DAY + minutes * MINUTE, BOTH);
      expect([minutes, report.slots.length >= 20, report.slots.length <= 41]).toEqual([minutes, true, true]);
      expect(Bun.stringWidth(report.agents[0]!.timeline)).toBe(report.slots.length);
    }
    const young = summariseEvents(NIGHT, DAY - 48 * 60 * MINUTE, Date.parse("2026-02-28T23:33:00Z"), BOTH);
    expect([young.recorded, young.slotMs, young.slots.length]).toEqual(["2026-02-28T23:30:00.000Z", 5000, 36]);
    const text = reportText(young, 80);
    expect(text).toContain("\nthe record begins at 23:30; nothing is known before that\n");
    expect(text).toMatch(/^builder +3m +3m$/m);
    expect(reportText(night(), 80)).not.toContain("the record begins");
  });

  test("a wait of a millisecond is a wait, one of none is a dash", () => {
    const text = (ms: number) => reportText(summariseEvents([{ at: at("00:01"), event: "delivered", agent: "a", ms }], DAY, DAY + 60 * MINUTE), Infinity);
    expect([/^a +1 +(\S+)/m.exec(text(1))?.[1], /^a +1$/m.test(text(0))]).toEqual(["0.0s", true]);
  });

  test.each([[9_999, "10.0s"], [10_000, "10s"], [59_400, "59s"], [60_000, "1m"], [3_600_000, "1h00m"]])("a wait of %d ms is %s", (ms, shown) => {
    expect(reportText(summariseEvents([{ at: at("00:01"), event: "delivered", agent: "a", ms }], DAY, DAY + 60 * MINUTE), Infinity)).toMatch(new RegExp(`^a +1 +${shown} +${shown}$`, "m"));
  });

  test("until when somebody looked, or that nobody did", () => {
    const text = (lastLook: number) => reportText(summariseEvents([], DAY, DAY + 60 * MINUTE, { ...BOTH, lastLook }), 80);
    expect([text(DAY), text(DAY + MINUTE)]).toEqual([expect.stringContaining("no watchdog was running at the time"), expect.stringContaining("the watchdog last looked at 00:01")]);
  });

  test("work that began and ended in one moment breaks no silence", () => {
    const told = (minute: number, to: string): AgentEvent => ({ at: new Date(DAY + minute * MINUTE).toISOString(), event: "state", agent: "a", to });
    const events = [told(0, "active"), told(10, "idle"), told(30, "active"), told(30, "idle")];
    expect(summariseEvents(events, DAY, DAY + 60 * MINUTE).agents[0]!.silence.ms).toBe(50 * MINUTE);
  });

  test("the parts of a bar are round on a clock: as long as twenty of them fit", () => {
    const S = 1000;
    const [M, H] = [60 * S, 3600 * S];
    const steps = [1, 2, 3, 5, 10, 15, 20, 30].flatMap((count) => [count * S, count * M]).concat([1, 2, 3, 4, 6, 8, 12, 24, 48].map((count) => count * H)).sort((a, b) => a - b);
    const slotOf = (ms: number) => summariseEvents([], DAY, DAY + ms, BOTH).slotMs;
    expect(steps.map((step) => slotOf(20 * step))).toEqual(steps);
    expect(steps.slice(1).map((step) => slotOf(20 * step - 1))).toEqual(steps.slice(0, -1));
  });

  test("the timeline: what waited for a person and what was restarted show however short they are", () => {
    const events = (...told: [number, Partial<AgentEvent>][]): AgentEvent[] =>
      told.map(([minute, more]) => ({ at: new Date(DAY + minute * MINUTE).toISOString(), agent: "a", event: "state", ...more }));
    const drawn = (...told: [number, Partial<AgentEvent>][]): string =>
      timeline(events(...told), Array.from({ length: 6 }, (_, i) => ({ from: DAY + i * 10 * MINUTE, to: DAY + (i + 1) * 10 * MINUTE })), DAY + 60 * MINUTE);
    expect(drawn([0, { to: "active" }])).toBe("██████");
    expect(drawn([10, { to: "active" }], [25, { to: "idle" }], [40, { to: "limited" }])).toBe(" █▄·▒▒");
    expect(drawn([0, { to: "active" }], [21, { to: "blocked" }], [21, { event: "blocked" }], [22, { to: "active" }])).toBe("██!███");
    expect(drawn([0, { to: "active" }], [5, { event: "down", why: "gone" }], [6, { event: "start" }], [6, { to: "active" }])).toBe("↺█████");
    expect(drawn([0, { to: "active" }], [19, { event: "down", why: "gone" }], [20, { event: "start" }], [20, { to: "active" }])).toBe("██↺███");
    // parked and long unsure wait for a person too; the death that follows takes nothing of that
    expect(drawn([0, { to: "active" }], [10, { event: "parked" }], [10, { event: "down" }], [10, { to: "gone" }], [40, { event: "start" }], [41, { to: "idle" }])).toBe("█!!!↺·");
    expect(drawn([0, { to: "unsure" }], [20, { event: "unsure" }], [30, { to: "idle" }])).toBe("  !···");
    // what cannot be ended, or is limited, waits for one as well
    expect(drawn([0, { to: "limited" }], [20, { event: "blocked" }], [40, { to: "limited" }])).toBe("▒▒!!▒▒");
    // taken down, and up again: `up` starts it before there is a watchdog, and nobody looked until then
    expect(drawn([0, { to: "idle" }], [5, { event: "unsure" }], [41, { event: "start" }], [42, { event: "watchdog", why: "started", last: new Date(DAY + 10 * MINUTE).toISOString() }], [43, { to: "active" }])).toBe("!   ▇█");
    // a new client is not down while it has no verdict yet
    expect(drawn([0, { event: "down" }], [0, { to: "gone" }], [20, { event: "start" }], [50, { to: "idle" }])).toBe("xx↺  ·");
    // most of a slot counts, whatever came first
    expect([drawn([0, { to: "idle" }], [4, { to: "limited" }], [16, { to: "idle" }]), drawn([0, { to: "limited" }], [4, { to: "idle" }], [16, { to: "limited" }])]).toEqual(["▒▒····", "··▒▒▒▒"]);
    // who comes back after an end comes back without the limit, also where no start is told
    for (const end of [{ event: "down" }, { event: "complete" }, { to: "gone" }]) expect(drawn([0, { event: "limited" }], [20, end], [40, { to: "active" }])).toBe("▒▒xx██");
    expect(drawn([0, { event: "limited" }], [20, { event: "start" }], [21, { to: "active" }])).toBe("▒▒████");
    expect(timeline([], [], DAY)).toBe("");
  });

  test("repeats are one line with their number, and none of the troubles falls off", () => {
    const stalled = (minute: number, agent: string): AgentEvent => ({ at: new Date(DAY + minute * MINUTE).toISOString(), event: "stalled", agent, why: `idle ${300 + minute} s with no WAITING-UNTIL marker` });
    const early: AgentEvent[] = [{ at: at("00:01"), event: "parked", agent: "tester", why: "claude not found" }, { at: at("00:02"), event: "config", why: "line 39" },
      { at: at("00:03"), event: "config", to: "ok", why: "it is valid again" }];
    const many = Array.from({ length: 40 }, (_, i) => stalled(10 + i, i % 4 ? "docs" : "web"));
    const text = reportText(summariseEvents([...early, ...many], DAY, DAY + 60 * MINUTE), 80);
    expect(text.slice(text.indexOf("Troubles"), text.indexOf("\n\nNotices")).split("\n")).toEqual(["Troubles", "tester parked: claude not found (00:01)", "config: line 39 (00:02)",
      "web stalled ×10: idle with no WAITING-UNTIL marker (last 00:46)", "docs stalled ×30: idle with no WAITING-UNTIL marker (last 00:49)"]);
  });

  test("restarts are counted by their reason, without the seconds that vary", () => {
    const restart = (minute: number, why: string): AgentEvent[] => ["down", "start"].map((event) => ({ at: new Date(DAY + minute * MINUTE).toISOString(), event, agent: "a", why }));
    const events = [...restart(1, "idle 300 s with no WAITING-UNTIL marker"), ...restart(9, "idle 331 s with no WAITING-UNTIL marker"), ...restart(20, "past its WAITING-UNTIL by 61 s, it did not go on by itself"),
      ...restart(30, "its screen shows work but has not moved for 90 s"), ...restart(40, "ended (exit 1)"), ...restart(50, "ended (exit 2)")];
    const report = summariseEvents(events, DAY, DAY + 60 * MINUTE);
    expect(report.agents[0]!.restarts).toEqual({ count: 6, why: { "idle with no WAITING-UNTIL marker": 2, "past its WAITING-UNTIL, it did not go on by itself": 1,
      "its screen shows work but has not moved": 1, "ended (exit 1)": 1, "ended (exit 2)": 1 } });
    expect(reportText(report, Infinity)).toContain("\na: 6 restarts: idle with no WAITING-UNTIL marker ×2, past its");
    const late = summariseEvents([...restart(1, "x"), ...restart(2, "y"), ...restart(3, "z"), ...restart(4, "z")], DAY, DAY + 60 * MINUTE);
    expect(reportText(late, Infinity)).toContain("\na: 4 restarts: z ×2, x, y\n");
  });

  test("a restart by a person is one, of the agents that it names", () => {
    const order = (command: string, names: string[]): AgentEvent => ({ at: at("01:00"), event: "order", by: "operator", command, names });
    const said = (command: string, names: string[]) => {
      const { agents: [one] } = summariseEvents([{ at: at("00:10"), event: "state", agent: "builder", to: "active" }, order(command, names),
        { at: at("01:01"), event: "start", agent: "builder" }], DAY, DAY + 240 * MINUTE, { names: ["builder"] });
      return [one!.restarts, one!.timeline.includes("↺")];
    };
    expect(said("restart", ["builder", "adversary"])).toEqual([{ count: 1, why: { "by you": 1 } }, true]);
    expect(said("restart --fresh", ["builder"])).toEqual([{ count: 1, why: { "by you": 1 } }, true]);
    for (const [command, names] of [["restart", ["adversary"]], ["up", ["builder"]], ["send", ["builder"]]] as const) {
      expect(said(command, [...names])).toEqual([{ count: 0, why: {} }, false]);
    }
  });
  test("what was achieved: each commit with sha and subject, the last verdict on each gate", () => {
    const commit = (minute: number, agent: string, kind: string, subject: string): AgentEvent => ({ at: new Date(DAY + minute * MINUTE).toISOString(), event: "commit", agent, kind, subject, sha: `${minute}`.padStart(2, "0").repeat(20) });
    const report = summariseEvents([commit(1, "b", "claim", "claim(g1): PASS it"), commit(2, "a", "review", "review(g1): FAIL no test"), commit(3, "a", "review", "review(g2): PASS"),
      commit(4, "b", "claim", "claim(g1): with a test"), commit(5, "a", "review", "review(g1): PASS all"), commit(6, "a", "review", "review(g3): FAIL"), commit(7, "a", "review", "review: nothing said")], DAY, DAY + 60 * MINUTE);
    expect(report.gates.map(({ gate, passed }) => [gate, passed])).toEqual([["g2", true], ["g1", true], ["g3", false]]);
    const text = reportText(report, 80);
    for (const part of ["gates passed: g2, g1\ngates failing: g3\n7 commits:\n", "\n00:04 0404040 b claim(g1): with a test\n"]) expect(text).toContain(part);
    const early = reportText(summariseEvents([commit(2, "a", "review", "review(g1): FAIL no test")], DAY, DAY + 60 * MINUTE), 80);
    expect(early).toContain("\ngates passed: none\ngates failing: g1\n1 commit:\n");
  });

  describe("what is open comes first", () => {
    const row = (name: string, more: Partial<StatusRow> = {}): StatusRow => ({ name, kind: "loop", backend: "claude", model: "opus", watch: "heal", session: `agents-${name}`, running: true, state: "working 2m",
      condition: "working", detail: "", until: "", nextAt: "", owesSince: "", version: "", cure: "", since: "", next: "", messages: 0, messagesWhy: "", messagesDuring: "", unproven: 0, restartsToday: 0, modelFrom: "start", verdict: "active", why: "", needsHuman: false, ...more });
    const watchdog = { running: true, pid: 1, heartbeat: "", stale: false, mute: false, version: "", stage: "", missing: false };
    const status = (more: Partial<Status> = {}): Status => ({ version: 1, fleet: "", folder: "", prefix: "", configError: "", phase: null, services: [], handoff: null, accounts: [], unknownSessions: [], orphans: [], olderPhase: [], needsHuman: false,
      agents: [row("a")], watchdog, ...more });
    test("nothing, where all are at work", () => expect(openMatters(status(), DAY)).toEqual([]));
    test("the dialog, the parked agent and the limit, each with what to type", () => {
      const open = openMatters(status({ agents: [row("a", { condition: "limited", state: "limited until 21:52 (weekly)", messages: 1 }), row("b"), row("c", { state: "blocked: Bash \"rm\" 13m", needsHuman: true, cure: "attach c" }),
        row("d", { state: "parked: claude not found", needsHuman: true, running: false, cure: "up d" })] }), DAY);
      expect(open.map(({ agent, what, cure, needsHuman }) => [agent, what, cure, needsHuman])).toEqual([
        ["c", 'blocked: Bash "rm" 13m', "attach c", true], ["d", "parked: claude not found", "up d", true], ["a", "limited until 21:52 (weekly) · 1 message waiting", "", false]]);
      const text = reportText(night({ open }), 80);
      expect(text).toContain('\n\nOpen\n! c: blocked: Bash "rm" 13m → agents attach c\n! d: parked: claude not found → agents up d\na: limited until 21:52');
      expect(text.indexOf("Open")).toBeLessThan(text.indexOf("Achieved"));
    });
    test("of a dialog its question, of a parked agent its last words", () => {
      const since = new Date(DAY - 13 * MINUTE).toISOString();
      const open = openMatters(status({ agents: [
        row("c", { state: "blocked: a dialog is open 13m", condition: "blocked", detail: "Bash command: rm -rf build", needsHuman: true, since }),
        row("d", { state: "parked: 5 starts", condition: "parked", detail: "exit 1: no module x · 5 starts", needsHuman: true, running: false, since })] }), DAY);
      expect(open.map(({ what }) => what)).toEqual(["blocked 13m: Bash command: rm -rf build", "parked 13m: exit 1: no module x · 5 starts"]);
    });
    test("who is down and will be started again, with its last words", () => {
      const down = (condition: StatusRow["condition"], detail: string) => row("d", { condition, detail, running: false, state: condition, until: new Date(DAY + MINUTE).toISOString() });
      const open = openMatters(status({ agents: [down("ended", "exit 1: no module x · starts after 03:00 (usage limit)"), down("backoff", "2nd · exit 1"), down("stopped", "by you"), down("done", "")] }), DAY);
      expect(open.map(({ what, needsHuman }) => [what, needsHuman])).toEqual([["ended: exit 1: no module x · starts after 03:00 (usage limit)", false], ["backoff 1m: 2nd · exit 1", false]]);
    });
    test("a client that left the config", () => {
      const orphans = [{ name: "old", session: "agents-old", running: true }];
      expect(openMatters(status({ orphans }), DAY)).toEqual([{ agent: "old", what: "left the config, its client is still there", cure: "down old", needsHuman: false }]);
    });
    test("the config, the phase, the hand-off, the notices, the watchdog", () => {
      const ill = openMatters(status({ needsHuman: true, configError: "line 39: broken", notices: { dropped: 3, text: "3 dropped", needsHuman: true }, handoff: { state: "failing", since: "", why: "no route", cure: "try it", needsHuman: true },
        phase: { id: "", index: -1, total: 2, plan: "", done: false, complete: false, moving: "", error: "which phase?" }, watchdog: { ...watchdog, stale: true } }), DAY);
      expect(ill.map(({ what, needsHuman }) => [what, needsHuman])).toEqual(["line 39: broken", "phase: which phase?", "hand-off: failing: no route  — try it", "watchdog: STALE, no heartbeat", "notices: 3 dropped"].map((what) => [what, true]));
      const off = { ...watchdog, running: false };
      expect(openMatters(status({ watchdog: { ...off, missing: true }, needsHuman: true }), DAY)).toMatchObject([{ what: "watchdog: stopped  — agents up watchdog", needsHuman: true }]);
      // taken down by a person: said, and no alarm
      expect(openMatters(status({ watchdog: off, agents: [row("a", { running: false, condition: "stopped" })] }), DAY)).toEqual([{ agent: "", what: "the fleet is stopped", cure: "up", needsHuman: false }]);
    });
  });

  test("Markdown: headings, tables, bars in a block; nothing of a commit's subject is markup", () => {
    const hostile: AgentEvent = { at: at("03:20"), event: "commit", agent: "builder", kind: "claim", sha: "a".repeat(40), subject: "claim(b): [x](http://e) | `rm` <img> **y** # z" };
    const lines = reportMarkdown(summariseEvents([...NIGHT.slice(0, -3), hostile], DAY, DAY + 240 * MINUTE, { ...BOTH, fleet: "~/night (agents-)" })).split("\n");
    for (const line of ["# \\~/night (agents-) · 03-01 00:00 to 04:00", "## Open", "## What it cost", "| AGENT | ACTIVE | IDLE | LIMITED | BLOCKED | DOWN | UNKNOWN | SILENCE |", "| --- | --- | --- | --- | --- | --- | --- | --- |",
      "- 03:20 aaaaaaa builder claim(b): \\[x\\](http://e) \\| \\`rm\\` \\<img\\> \\*\\*y\\*\\* \\# z"]) expect(lines).toContain(line);
    expect(lines.filter((line) => line === "```")).toHaveLength(2);
    expect(lines.findIndex((line) => line.startsWith("builder    ·"))).toBeGreaterThan(lines.indexOf("```"));
  });

  test("at 44 columns each agent has an entry of its own in place of a table that does not fit", () => {
    const lines = reportText(night(), 44).split("\n");
    expect(lines).toContain("builder: active 1h15m · idle 58m · limited");
    for (const line of lines) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(44);
  });

  test("above a bar that is cut no time is halved; who did nothing has no row and no bar", () => {
    const report = summariseEvents(NIGHT, DAY, DAY + 240 * MINUTE, { ...BOTH, names: ["builder", "adversary", "asleep"] });
    for (let width = 20; width <= 40; width++) {
      const bars = reportText(report, width).split("\n\n").find((part) => part.startsWith("Timeline"))!.split("\n");
      expect([width, bars[1]!.trim().split(/ +/).filter((mark) => !/^\d\d:\d\d$/.test(mark))]).toEqual([width, []]);
    }
    expect(reportText(report, 80)).not.toMatch(/^asleep/m);
    expect(reportMarkdown(report)).not.toContain("asleep");
    expect(report.agents.map(({ agent }) => agent)).toContain("asleep");
  });
  test("in a pipe nothing is cut, and nothing is padded without end", () => {
    const text = reportText(night(), Infinity);
    expect(text).toContain("\nTroubles\nadversary undelivered: a draft is in its box (02:10)\nbuilder blocked: permission (03:15)\n");
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
    expect(call(["report", "--config", path]).out).toContain("the watchdog last looked at");
    expect(call(["report", "--config", path]).out).toContain("none went out: nobody is told when an agent needs a person; set command or url in [notify]\n");
    expect(call(["report", "--config", fleet("told", `${TWO}[notify]\ncommand = "cat"\n`)]).out).toEndWith("Notices\nnone went out\n");
    const mail = call(["report", "--md", "--config", path]);
    expect([mail.code, mail.err, mail.out.startsWith("# "), mail.out.includes("\x1b")]).toEqual([0, "", true, false]);
    for (const columns of ["44", "80", "120"]) {
      const { out } = call(["report", "--config", path], { COLUMNS: columns });
      for (const text of out.split("\n")) expect(Bun.stringWidth(text)).toBeLessThanOrEqual(Number(columns));
    }
    const bad = call(["report", "--since", "yesterday", "--config", path]);
    expect([bad.code, bad.out, bad.err]).toEqual([2, "", 'agents: report: --since "yesterday" is not a time such as 30m, 24h or 7d\n']);
  }, 60_000);
});
