/** What happens is written down as an event, once, with what `report` and a person ask of it. */
import { describe, expect, test } from "bun:test";
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type AgentEvent, type Config, EVENT_NAMES, eventText, foldEvents, memoryOf, parseEvents, type Report, enqueue, type Watch, world, wrapLine } from "../agents.ts";
import { desk, SELF } from "./desk.ts";
import { agents, command, Death, FLEET, type FakeWorld, fakeWorld, realFolder, scene } from "./kit.ts";
import { loopPlan, real, signal, until } from "./real.ts";

let fake: FakeWorld;
let cfg: Config;
let watch: Watch;

/** A fleet at work, three ticks after its start; the events so far are forgotten. */
async function begin(text: string): Promise<void> {
  fake = fakeWorld();
  fake.tmux.onStart = (pane) => void (pane.doing = "busy");
  cfg = await fake.config(text);
  watch = await fake.watch(cfg);
  fake.git.push("init", { "README.md": "r" });
  await ticks(3);
  fake.files.delete(path());
}
const path = () => join(cfg.stateDir, "events.jsonl");
const ticks = (count: number) => fake.ticks(cfg, watch, count);
const events = (...kinds: string[]): AgentEvent[] =>
  parseEvents(fake.files.get(path()) ?? "").filter(({ event }) => !kinds.length || kinds.includes(event));
const pane = (name: string) => fake.tmux.of(`agents-${name}`);
const ONE = '[[agent]]\nname = "a"\nbackend = "claude"\nmodel = "opus"\nwatch = "heal+stall"\n';

test("a file of the record that cannot be read costs its own events alone, and is said", async () => {
  await begin(ONE);
  fake.tmux.exit("agents-a", 1);
  await ticks(2);
  const { text } = world;
  const call = (...words: string[]) => command(...words, "--config", cfg.path);
  for (const [nth, part] of [`${path()}.1`, path()].entries()) {
    world.text = async (file) => {
      if (file === part) throw new Error(`${part} is too large (30 MB)`);
      return text(file);
    };
    const shown = await call("events");
    expect([shown.code, shown.out.includes("down "), shown.out.includes(`${part} is too large (30 MB): its events are left out`)]).toEqual([0, nth === 0, true]);
    expect((await call("report")).code).toBe(0);
  }
});

test("beyond 400 kB the record goes on in a new file", async () => {
  const { fake, cfg, file } = await scene(agents("a"), { home: realFolder() });
  const path = file("events.jsonl");
  for (const [size, goesOn] of [[400_000, false], [400_001, true]] as const) {
    fake.files.set(path, "x".repeat(size));
    await command("send", "a", "text", "--queue", "--config", cfg.path);
    expect(fake.files.has(`${path}.1`)).toBe(goesOn);
  }
});

describe("events as a person reads them", () => {
  const NOW = Date.parse("2026-06-15T12:00:00Z");
  const event = (minute: number, more: Partial<AgentEvent> = {}): AgentEvent => ({ at: `2026-06-15T11:${minute}:00Z`, event: "stalled", agent: "a", why: `idle ${300 + minute} s`, ...more });
  test("alike ones of late are one, whatever their seconds; commits are each their own", () => {
    const commit = (minute: number) => event(minute, { event: "commit", why: "", sha: `${minute}` });
    const folded = foldEvents([event(10), event(11), event(12, { agent: "b" }), event(13), commit(14), commit(15)]);
    expect(folded.map(({ event: { at }, times, since }) => [at.slice(14, 16), times, since.slice(14, 16)])).toEqual([["12", 1, "12"], ["13", 3, "10"], ["14", 1, "14"], ["15", 1, "15"]]);
  });
  test("one that was cut short, as on a full disk, costs itself alone, not the next in its line", () => {
    const next = event(11, { why: '{"at":"2026-06-15T11:12:00Z","event":"blocked"}' });
    const line = JSON.stringify(event(10));
    for (const cut of [1, 9, line.length - 1]) {
      expect(parseEvents(`${line}\n${line.slice(0, cut)}${JSON.stringify(next)}\n${line}\n`)).toEqual([event(10), next, event(10)]);
    }
  });
  test("what it tells is one line without colours of its own, whoever wrote it", () => {
    const evil = "red \x1b[31m\x1b]0;t\x07\nnew\u202e";
    expect(eventText(event(10, { event: evil, agent: evil, why: evil, names: [evil] }), NOW)).toBe(
      '11:10:00 red  new   agent=red  new why=red  new names=red  new'.replace("11:10:00", Bun.stripANSI(eventText(event(10), NOW)).slice(0, 8)));
  });
  test.each([44, 80, 120])("one that is long goes on below itself within %d columns", (width) => {
    const text = wrapLine(eventText(event(10, { why: `${"x".repeat(300)} 全部全部` }), NOW), width, "  ").join("\n");
    expect(text.split("\n").filter((line) => Bun.stringWidth(line) > width)).toEqual([]);
    expect(text.replace(/\n {2}/g, "").replaceAll(" ", "")).toContain("x".repeat(300));
  });
  test("a restart that helps nobody is told once, at its last time; what lies far back is told by itself", () => {
    const kinds = ["stalled", "down", "state", "start"];
    const cycle = Array.from({ length: 28 }, (_, i) => event(10 + i, { event: kinds[i % 4]!, agent: "docs", why: "" }));
    expect(foldEvents(cycle).map(({ event: { event }, times, since }) => `${event} ${times} ${since.slice(14, 16)}`)).toEqual(["stalled 7 10", "down 7 11", "state 7 12", "start 7 13"]);
    const others = Array.from({ length: 8 }, (_, i) => event(20 + i, { event: `n${"x".repeat(i)}` }));
    expect(foldEvents([event(10), ...others, event(30)])).toHaveLength(10);
    expect(foldEvents([event(10), ...others.slice(1), event(30)])).toHaveLength(8);
  });
  test("two that flap by turns hide no repeat of each other", () => {
    const kinds = ["stalled", "down", "start", "state", "unsure"];
    const turns = Array.from({ length: 40 }, (_, i) => event(10 + i, { event: kinds[(i >> 1) % 5]!, agent: i % 2 ? "a" : "b", why: "" }));
    expect(foldEvents(turns).map(({ times }) => times)).toEqual(Array(10).fill(4));
  });
  test("what comes back an hour later is told by itself, at both times", () => {
    const later = (hour: number) => ({ ...event(10), at: `2026-06-15T${hour}:10:00Z` });
    expect(foldEvents([event(10), later(12), { ...later(13), at: "2026-06-15T13:09:59Z" }]).map(({ event: { at }, times }) => [at.slice(11, 16), times])).toEqual([["11:10", 1], ["13:09", 2]]);
  });
  test("filters: kinds by name and glob, agents by what is theirs and by orders that name them", async () => {
    const { path: config } = await (fake = fakeWorld(realFolder())).config(ONE);
    fake.files.set(join(fake.home, ".agents/state/events.jsonl"), EVENT_NAMES.map((kind, minute) => `${JSON.stringify(event(minute + 10, { event: kind, at: new Date(fake.wall).toISOString() }))}\n`).join(""));
    const shown = async (words: string) => (await command("events", "--json", "--event", words, "--config", config)).out.trim().split("\n").map((line) => JSON.parse(line).event);
    expect([await shown("!order"), await shown("{blocked}")]).toEqual([EVENT_NAMES.filter((kind) => kind !== "order"), ["blocked"]]);
    expect([await shown(""), await shown("blocked,limited"), await shown("un*")]).toEqual([EVENT_NAMES, ["blocked", "limited"], ["unconfirmed", "undelivered", "unsure", "untried"]]);
  });
  test("--event knows every event that is ever written, and no other", () => {
    const source = readFileSync(join(import.meta.dir, "..", "agents.ts"), "utf8");
    const written = [...source.matchAll(/\bemit(?:Stored)?\([\w()]+,\s*"(\w+)"/g)].map((match) => match[1]!);
    expect([...new Set(written)].sort()).toEqual(EVENT_NAMES.toSorted());
  });
  test("a line has its time, with the day where it is not today's, and its facts", () => {
    const at = new Date(NOW - 3_600_000);
    expect(Bun.stripANSI(eventText({ ...event(10), at: at.toISOString() }, NOW, 3))).toBe(`${at.toTimeString().slice(0, 8)} stalled    agent=a why=idle 310 s (3 times)`);
    expect(Bun.stripANSI(eventText({ ...event(10), at: at.toISOString() }, NOW, 3, at.toISOString()))).toEndWith(` (3 times since ${at.toTimeString().slice(0, 5)})`);
    expect(Bun.stripANSI(eventText({ ...event(10), at: "2026-06-10T11:00:00Z", agent: "", keys: ["Enter"] } as AgentEvent, NOW))).toMatch(/^2026-06-10 \d\d:00:00 stalled    why=idle 310 s keys=Enter$/);
  });
  test("a line for people: moments in local time, names one after the other, a short sha", () => {
    const until = new Date(NOW + 3_600_000);
    const said = (facts: object) => Bun.stripANSI(eventText({ at: until.toISOString(), event: "x", ...facts } as AgentEvent, NOW));
    const clock = `(?:[\\d-]{10} )?${until.toTimeString().slice(0, 5)}`;
    expect(said({ until: until.toISOString(), why: `waits until ${until.toISOString()}` })).toMatch(new RegExp(` until=${clock} why=waits until ${clock}$`));
    expect(said({ names: ["a", "b"], sha: "0123456789abcdef" })).toEndWith("names=a, b sha=0123456");
  });
});

describe("each event stands there once, with its facts", () => {
  test("start, and what the screen shows first", async () => {
    await begin(ONE);
    fake.tmux.kill(pane("a"));
    const at = new Date(fake.wall).toISOString();
    await ticks(3);
    expect(events("start")).toEqual([{ at, event: "start", agent: "a", backend: "claude", model: "opus", phase: "-" }]);
    expect(events("state").map(({ from, to }) => [from, to])).toEqual([["active", "gone"], ["", "active"]]);
  });
  test("a service's start and end", async () => {
    await begin('[[service]]\nname = "web"\ncommand = "serve"\n');
    fake.tmux.exit("agents-web", 3);
    await ticks(3);
    expect(events("down", "start")).toMatchObject([
      { event: "down", agent: "web", why: "ended (exit 3)", status: 3 }, { event: "start", agent: "web" },
    ]);
  });
  test("down: why, and with what exit code", async () => {
    await begin(ONE);
    fake.tmux.exit("agents-a", 1);
    await ticks(3);
    expect(events("down")).toEqual([{ at: expect.any(String), event: "down", agent: "a", why: "ended (exit 1)", status: 1 }]);
    fake.tmux.add("of-somebody-else");
    fake.tmux.kill(pane("a"));
    await ticks(3);
    expect(events("down")[1]).toMatchObject({ agent: "a", status: null, why: "its session was closed" });
  });
  test("down by a signal that tmux does not name, as 3.2: its session was not closed", async () => {
    await begin(ONE);
    Object.assign(fake.tmux.of("agents-a"), { dead: true, status: null, signal: null });
    await ticks(3);
    expect(events("down")).toMatchObject([{ agent: "a", status: null, why: "ended (signal ?)" }]);
  });
  test("parked: down and parked", async () => {
    await begin(ONE);
    fake.tmux.exit("agents-a", 125);
    await ticks(3);
    expect(events("parked", "down").map(({ event, agent, why }) => ({ event, agent, why }))).toEqual([
      { event: "parked", agent: "a", why: "exit 125 (do not restart)" }, { event: "down", agent: "a", why: "exit 125 (do not restart)" },
    ]);
  });
  test("fatal", async () => {
    await begin(ONE);
    pane("a").doing = "fatal";
    await ticks(4);
    expect(events("fatal")).toMatchObject([{ agent: "a", why: "the conversation is too long" }]);
  });
  test("blocked: once per dialog", async () => {
    await begin(ONE);
    pane("a").doing = "dialog";
    await ticks(5);
    expect(events("blocked", "state")).toMatchObject([
      { event: "state", agent: "a", from: "active", to: "blocked", why: "a dialog is open" },
      { event: "blocked", agent: "a", why: "a dialog is open" },
    ]);
  });
  test("another dialog is another event, another kind of work is none", async () => {
    await begin(`${ONE}[backend.claude]\nrule = [${["one", "two"].map((name) => `{ name = "asks ${name}", verdict = "blocked", re = "(?m)^ask ${name}" }, { name = "does ${name}", verdict = "active", re = "(?m)^do ${name}" }`).join(", ")}]\n`);
    const told: [string, unknown][] = [];
    for (const line of ["do one", "do two", "ask one", "ask one", "ask two"]) {
      fake.files.delete(path());
      pane("a").text = `${line}\n`;
      await ticks(3);
      told.push([line, events("state", "blocked").map(({ event, why }) => `${event} ${why}`)]);
    }
    const both = (why: string) => [`state ${why}`, `blocked ${why}`];
    expect(told).toEqual([["do one", []], ["do two", []], ["ask one", both("asks one")], ["ask one", []], ["ask two", both("asks two")]]);
  });
  test("stalled", async () => {
    await begin(ONE);
    pane("a").doing = "idle";
    await ticks(13);
    expect(events("stalled")).toMatchObject([{ agent: "a", why: expect.stringMatching(/idle 300 s/) }]);
    expect(events("down", "start").map(({ event }) => event)).toContain("start");
  });
  test("limited, with its class and end, and lifted", async () => {
    await begin(ONE);
    pane("a").doing = "limit";
    await ticks(5);
    expect(events("limited", "lifted")).toMatchObject([{ event: "limited", agent: "a", class: "5h", until: "2026-06-15T15:00:00.000Z", asks: "2026-06-15T15:00:45.000Z" }]);
    pane("a").doing = "busy";
    await ticks(3);
    expect(events("limited", "lifted")[1]).toMatchObject({ event: "lifted", agent: "a" });
  });
  test.each([["You've hit your 5-hour limit · resets 3pm (UTC)", "holding until"], ["You've hit your 5-hour limit", "no reset time shown; probing at"]])("limited by %p: the log says until when, by the local clock", async (banner, says) => {
    await begin(ONE);
    Object.assign(pane("a"), { doing: "limit", banner });
    await ticks(3);
    const asks = new Date(String(events("limited")[0]!.asks));
    expect(fake.logged("usage limit on a")).toEqual([expect.stringContaining(`; ${says} ${asks.toTimeString().slice(0, 5)}, not restarting it`)]);
  });
  test("limited to a reset that is far off, before which it is asked: the reset is its end", async () => {
    await begin(ONE);
    Object.assign(pane("a"), { doing: "limit", banner: "You've hit your weekly limit · resets Jun 18, 9am (UTC)" });
    await ticks(5);
    const [limited] = events("limited");
    expect(limited).toMatchObject({ until: "2026-06-18T09:00:00.000Z" });
    expect(Date.parse(String(limited!.asks)) - fake.wall).toBeLessThan(7_200_000);
  });
  test("answered: what, and with which keys", async () => {
    await begin(`${ONE}[backend.claude]\nanswer = [{ re = "Do you want to proceed", keys = ["Down", "Tab"] }]\n`);
    pane("a").doing = "dialog";
    await ticks(3);
    expect(events("answered")).toMatchObject([{ agent: "a", match: "Do you want to proceed", keys: ["Down", "Tab"] }]);
  });
  test("answered: with keys that are a sign of tmux's own, too", async () => {
    await begin(`${ONE}[backend.claude]\nanswer = [{ re = "Do you want to proceed", keys = ["-", ";", "-t", "y;"] }]\n`);
    pane("a").doing = "dialog";
    await ticks(3);
    expect(pane("a").keys).toEqual(["-", ";", "-t", "y;"]);
  });
  test("answered: as often as was allowed, once for each time that it is shown", async () => {
    await begin(`${ONE}[backend.claude]\nanswer = [{ re = "Do you want to proceed", keys = ["Tab"], max = 3 }]\n`);
    const counts: number[] = [];
    for (let nth = 0; nth < 5; nth++) {
      pane("a").doing = "dialog";
      await ticks(3);
      counts.push(events("answered").length);
      pane("a").doing = "busy";
      await ticks(1);
    }
    // of each dialog that stays open it is said
    expect([counts, fake.logged("a: answered 3 times, will not answer again").length]).toEqual([[1, 2, 3, 3, 3], 2]);
  });
  test("answered: a second dialog too that came within a look, also one that reads the same; one that stands there is not", async () => {
    await begin(`${ONE}[backend.claude]\nanswer = [{ re = "Do you want to proceed", keys = ["Tab"], max = 9 }]\n`);
    const keys = async (command: string, drawn: number) => {
      pane("a").draw(`\n${"─".repeat(80)}\n ${command}\n Do you want to proceed?\n ❯ 1. Yes\n   2. No\n\n Esc to cancel · Tab to amend\n`, drawn);
      await ticks(2);
      return pane("a").keys.length;
    };
    const first = fake.wall;
    expect([await keys("rm one", first), await keys("rm one", first + 1_000), await keys("rm two", first + 1_000)]).toEqual([1, 1, 2]);
    expect([await keys("rm two", fake.wall), await keys("rm two", fake.wall - 60_000)]).toEqual([3, 3]);
  });
  /** A declared answer whose keys meet another tmux; `late`: the client gets them after all. */
  const sending = async (ran: { err: string; timedOut: boolean }, late = false) => {
    await begin(`${ONE}[backend.claude]\nanswer = [{ re = "Do you want to proceed", keys = ["Tab"], max = 2 }]\n`);
    pane("a").doing = "dialog";
    const { tmux } = world;
    let silent = true;
    world.tmux = async (args, ...rest) => {
      if (!silent || !args.includes("send-keys")) return tmux(args, ...rest);
      silent = false;
      if (late) pane("a").keys.push("Tab");
      return { ok: false, out: "", ...ran };
    };
    await ticks(1);
    expect(silent).toBe(false);
  };
  test("answered: keys that tmux did not carry are sent at the next look, and not counted before", async () => {
    await sending({ err: "server exited unexpectedly", timedOut: false });
    expect([events("answered"), pane("a").keys]).toEqual([[], []]);
    await ticks(1);
    expect([events("answered").length, pane("a").keys]).toEqual([1, ["Tab"]]);
    await ticks(5);
    expect([events("answered").length, pane("a").keys, memoryOf(watch, "a").answers]).toEqual([1, ["Tab"], 1]);
  });
  test("answered: keys that a silent tmux may carry late are sent again only when the dialog stands for a look more", async () => {
    await sending({ err: "no answer in time", timedOut: true });
    await ticks(1);
    expect(pane("a").keys).toEqual([]);
    await ticks(6);
    expect([events("answered").length, pane("a").keys, memoryOf(watch, "a").answers]).toEqual([2, ["Tab"], 2]);
  });
  test("answered: not where the input of the pane is off, until it is on again", async () => {
    await begin(`${ONE}[backend.claude]\nanswer = [{ re = "Do you want to proceed", keys = ["Tab"] }]\n`);
    Object.assign(pane("a"), { doing: "dialog", inputOff: true });
    await ticks(3);
    expect([events("answered"), memoryOf(watch, "a").answers]).toEqual([[], 0]);
    pane("a").inputOff = false;
    await ticks(3);
    expect([events("answered").length, pane("a").keys]).toEqual([1, ["Tab"]]);
  });
  test("answered: keys that came late have answered it", async () => {
    await sending({ err: "no answer in time", timedOut: true }, true);
    await ticks(1);
    pane("a").doing = "busy"; // drawn a moment after that look
    await ticks(5);
    expect(pane("a").keys).toEqual(["Tab"]);
  });
  test("answered: by a watchdog that died with the keys on their way: sent by the next one", async () => {
    await begin(`${ONE}[backend.claude]\nanswer = [{ re = "Do you want to proceed", keys = ["Tab"] }]\n`);
    pane("a").doing = "dialog";
    fake.dieAt = Infinity;
    fake.beforeTmux((args) => {
      if (args.includes("send-keys") && fake.dieAt === Infinity) fake.dieAt = 1;
    });
    await expect(ticks(2)).resolves.toBeUndefined();
    expect(pane("a").keys).toEqual([]);
    fake.revive();
    watch = await fake.watch(cfg);
    await ticks(4);
    expect(pane("a").keys).toEqual(["Tab"]);
  });
  test("delivered: how long it waited, in ms, and after how many tries", async () => {
    await begin(ONE);
    pane("a").doing = "dialog";
    enqueue(watch, "a", "wake", "look around");
    const made = fake.wall;
    await ticks(4);
    expect(events("delivered")).toEqual([]);
    pane("a").doing = "idle";
    await ticks(2);
    const [delivered, ...more] = events("delivered");
    expect(delivered).toMatchObject({ agent: "a", cause: "wake", tries: 1 });
    expect([more, delivered!.ms]).toEqual([[], Date.parse(delivered!.at) - made]);
    expect(Number(delivered!.ms)).toBeGreaterThanOrEqual(4 * 30_000);
  });
  test("undelivered: why", async () => {
    await begin(ONE);
    Object.assign(pane("a"), { doing: "idle", takesEnter: false });
    enqueue(watch, "a", "wake", "look around");
    await ticks(3);
    expect(events("undelivered").length).toBeGreaterThan(0);
    expect(events("undelivered")[0]).toMatchObject({ agent: "a", cause: "wake", why: expect.stringMatching(/\w/) });
    expect(events("delivered")).toEqual([]);
  });
  test("a commit is its author's, by the kind of it", async () => {
    await begin(FLEET);
    fake.git.push("claim(p1): G1");
    await ticks(3);
    fake.git.push("review(p1): FAIL");
    await ticks(3);
    expect(events("commit").map(({ agent, kind, subject }) => [agent, kind, subject]))
      .toEqual([["builder", "claim", "claim(p1): G1"], ["adversary", "review", "review(p1): FAIL"]]);
  });
  test("deadlock", async () => {
    await begin(FLEET);
    fake.git.push("claim(p1): G1");
    await ticks(4);
    for (const name of ["builder", "adversary"]) Object.assign(pane(name), { doing: "idle", said: "● Done." });
    cfg.loop.deadlockAfter = 120;
    await ticks(10);
    expect(events("deadlock")).toMatchObject([{ agent: "adversary", why: expect.stringMatching(/\w/) }]);
  });
  test("a phase that moves, and the end of the sequence", async () => {
    await begin(FLEET);
    fake.git.push("status(p1): done", { "machine-docs/STATUS-p1.md": "# S\n\n## DONE\n\nAll gates PASS.\n" });
    await ticks(12);
    expect(events("phase", "complete")).toMatchObject([{ event: "phase", from: "p1", to: "p2" }]);
    fake.git.push("status(p2): done", { "machine-docs/STATUS-p2.md": "# S\n\n## DONE\n\nAll gates PASS.\n" });
    await ticks(12);
    expect(events("phase", "complete").slice(1)).toMatchObject([{ event: "complete", phase: "p2", why: "all phases are done" }]);
  });
});

test("`events` shows those since a time, of agents and of orders that name them, as text and as JSON", async () => {
  const { fake, cfg, file } = await scene(agents("a", "b"), { ticks: 0 });
  const at = (minutes: number) => new Date(fake.wall - minutes * 60_000).toISOString();
  const all = [{ at: at(61), event: "start", agent: "a" }, { at: at(60), event: "start", agent: "a", cause: "x" }, { at: at(30), event: "order", command: "up", names: ["b", "a"] },
    { at: at(20), event: "order", command: "up", names: ["b"] }, { at: at(10), event: "down", agent: "b", why: "exit 1" }, { at: at(5), event: "watchdog", began: true }];
  fake.files.set(file("events.jsonl"), all.map((one) => `${JSON.stringify(one)}\n`).join(""));
  const shown = async (...words: string[]) => (await command("events", ...words, "--json", "--config", cfg.path)).out.split("\n").filter(Boolean).map((line) => all.findIndex((one) => one.at === JSON.parse(line).at));
  expect([await shown(), await shown("--since", "1h"), await shown("--since", "1h", "a"), await shown("b"), await shown("b", "--event", "down,start")])
    .toEqual([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2], [2, 3, 4], [4]]);
  expect(await shown("watchdog")).toEqual([5]); // its own, as an agent's
  const none = await command("events", "--event", "parked", "--config", cfg.path);
  expect([none, fake.logged("no such event since").length]).toEqual([{ code: 0, out: "", err: "" }, 1]);
  expect(await shown("--event", "parked")).toEqual([]); // and not a word where a program reads it
  expect(fake.logged("no such event since").length).toBe(1);
  expect((await command("events", "b", "--event", "down", "--config", cfg.path)).out).toMatch(/^\d\d:\d\d:\d\d down +agent=b why=exit 1\n$/);
});

test("events of a full disk are lost, nothing else is", async () => {
  await begin(ONE);
  fake.full = true;
  fake.tmux.exit("agents-a", 1);
  await ticks(1);
  expect(fake.logged("events.jsonl: ENOSPC").length).toBeGreaterThan(0);
  fake.full = false;
  await ticks(3);
  expect(pane("a").dead).toBe(false);
});

test("a delivery is stored before it is told: a crash at its event makes no second copy", async () => {
  await begin(ONE);
  pane("a").doing = "idle";
  enqueue(watch, "a", "wake", "look around");
  fake.effects = [];
  await ticks(2);
  const nth = fake.effects.indexOf("write events.jsonl", fake.effects.findIndex((effect) => /send-keys/.test(effect)));
  expect([fake.received("agents-a"), nth >= 0]).toEqual([["look around"], true]);

  await begin(ONE);
  pane("a").doing = "idle";
  enqueue(watch, "a", "wake", "look around");
  fake.effects = [];
  fake.dieAt = nth + 1;
  await ticks(1).catch((error) => expect(error).toBeInstanceOf(Death));
  fake.revive();
  // the screen does not tell any more that it was there
  pane("a").said = "● Something else.";
  watch = await fake.watch(cfg);
  expect(watch.outbox).toEqual([]);
  await ticks(3);
  expect(fake.received("agents-a")).toEqual(["look around"]);
});

test("events -f looks five times a second", async () => {
  await begin(ONE);
  const { sleep } = Bun;
  const [{ text }, pauses] = [world, [] as number[]];
  let looks = 0;
  world.text = async (path) => {
    if ((looks += 1) > 200) throw new Death("it looks without a pause");
    return text(path);
  };
  Object.assign(Bun, { sleep: async (ms: number) => {
    if (pauses.push(ms) === 5) throw new Death("enough");
  } });
  const { err } = await command("events", "-f", "--config", cfg.path).finally(() => Object.assign(Bun, { sleep }));
  expect([err.trim(), pauses]).toEqual([expect.stringContaining("enough"), Array(5).fill(200)]);
});

test("events -f tells nothing twice after a look at which the record could not be read", async () => {
  await begin(ONE);
  fake.tmux.exit("agents-a", 1);
  await ticks(2);
  const { sleep } = Bun;
  const { text } = world;
  let looks = 0;
  Object.assign(Bun, { sleep: async () => {
    if ((looks += 1) === 4) throw new Death("enough");
    world.text = looks === 2 ? async (file) => (file === path() ? Promise.reject(new Error(`${path()}: EIO`)) : text(file)) : text;
  } });
  const { out } = await command("events", "-f", "--config", cfg.path).finally(() => Object.assign(Bun, { sleep }));
  expect([out.split(" down ").length - 1, out.split("EIO: its events are left out").length - 1, looks]).toEqual([1, 1, 4]);
});

test("events -f forgets what was rotated away, and nothing that one look has missed", async () => {
  await begin(ONE);
  await ticks(1);
  const { sleep } = Bun;
  const { text } = world;
  const line = (at: number, why: string) => `${JSON.stringify({ at: new Date(fake.wall + at).toISOString(), event: "trouble", why })}\n`;
  const [old, missed] = [line(0, "what was rotated away"), line(1, "what a look has missed")];
  fake.files.set(path(), `${old}${missed}`);
  // the record as each look finds it; in the third it is rotated between the two files
  const looks = [[old, missed], ["", missed], ["", line(2, "new")], [missed, line(2, "new")], ["", ""], ["", ""], [old, missed]];
  let nth = 0;
  Object.assign(Bun, { sleep: async () => {
    const [before, now] = looks[nth++] ?? [];
    if (before === undefined) throw new Death("enough");
    world.text = async (file) => (file === path() ? now! : file === `${path()}.1` ? before : text(file));
  } });
  const { out } = await command("events", "-f", "--config", cfg.path).finally(() => Object.assign(Bun, { sleep }));
  const told = (why: string) => out.split(why).length - 1;
  expect([told("what was rotated away"), told("what a look has missed"), told("new")]).toEqual([2, 2, 1]);
});

describe("those who ran when the watchdog began are as old as their sessions", () => {
  const THREE = ["a", "b", "c"].map((name) => ONE.replace('"a"', `"${name}"`)).join("");
  test.each([[3600, [0, 0, 0]], [5, [1, 1, 1]]])("%d s old, ended together at the second look: failures %p", async (seconds, failures) => {
    await begin(THREE);
    for (const { created } of fake.tmux.panes) expect(created).toBeLessThanOrEqual(fake.wall);
    fake.turn(Math.max(0, seconds * 1000 - (fake.wall - fake.tmux.panes[0]!.created)));
    const since = fake.wall - seconds * 1000;
    if (seconds < 60) for (const name of ["a", "b", "c"]) pane(name).marks["@agents_started"] = `${Math.floor(since / 1000)}`;
    // a watchdog that knows nothing of them
    fake.files.delete(join(cfg.stateDir, "watch.json"));
    watch = await fake.watch(cfg);
    await ticks(1);
    for (const name of ["a", "b", "c"]) fake.tmux.exit(`agents-${name}`, 1);
    await ticks(1);
    expect(["a", "b", "c"].map((name) => memoryOf(watch, name).failures)).toEqual(failures);
  });
});

const { env, fleet } = desk();

test("events -f tells each once, also those that stand in one line with one that was cut short", async () => {
  const config = fleet("cut", agents("a"));
  const record = join(dirname(config), ".agents/state/events.jsonl");
  const line = (minute: number) => `{"at":"2126-06-15T11:${minute}:00Z","event":"stalled","agent":"a"}\n`;
  mkdirSync(dirname(record), { recursive: true });
  writeFileSync(record, line(10) + line(11).slice(0, 50));
  const follow = Bun.spawn([...SELF, "events", "-f", "--config", config], { env, stdio: ["ignore", "pipe", "inherit"] });
  let came = "";
  const reading = (async () => {
    for await (const bytes of follow.stdout) came += new TextDecoder().decode(bytes);
  })();
  await until(() => came.includes("11:10"));
  appendFileSync(record, line(12));
  await until(() => came.includes("11:12"));
  follow.kill();
  await reading;
  expect(came.match(/11:\d\d/g)).toEqual(["11:10", "11:12"]);
});

// ── report, on the events of a fleet that really ran ──

real("report reads what a real fleet wrote: hours, restarts, texts, commits, phases, the end", loopPlan({
  agent: { watch: "heal" }, watchdog: { signal_interval: 0.25, heavy_interval: 0.5 },
}), async (f) => {
  const began = Date.now();
  const done = (id: string) => ({ [`machine-docs/STATUS-${id}.md`]: "# S\n\n## DONE\n\nAll gates pass, see REVIEW.md.\n" });
  const report = async (): Promise<Report> => JSON.parse((await f.run(["report", "--since", "1h", "--json"])).out);
  const of = (whole: Report, name: string) => whole.agents.find(({ agent }) => agent === name)!;
  await f.repository("builder", "adversary");
  await f.up();
  await f.ready("builder", "adversary");
  await until(() => JSON.parse(f.read(".agents/state/watch.json")).sha);
  await f.push("builder", "claim(one): the parser");
  await until(() => f.events("delivered").some(({ cause }) => cause === "claim"));
  signal(await f.pid("builder"), "SIGKILL");
  await until(() => f.starts("builder").length === 2);
  f.control("builder", "dialog");
  await until(() => f.events("blocked").length);
  const early = await report();
  expect(of(early, "builder").restarts).toEqual({ count: 1, why: { "ended (signal 9)": 1 } });
  expect(of(early, "builder").commits).toEqual({ claim: 1, review: 0 });
  expect(of(early, "builder").spent.down).toBeGreaterThan(0);
  expect(of(early, "adversary").texts.delivered).toBe(1);
  const { medianMs, maxMs } = of(early, "adversary").texts;
  for (const ms of [medianMs!, maxMs!]) expect([ms >= 0, ms <= Date.now() - began]).toEqual([true, true]);
  expect(early.troubles).toMatchObject([{ event: "blocked", agent: "builder", why: expect.stringMatching(/dialog/) }]);
  expect([early.phases, early.complete]).toEqual([[], ""]);
  // a watchdog that runs has looked until now
  expect(early.seen).toBe(early.to);
  const read = await f.run(["report"]);
  expect([read.code, read.out]).toEqual([0, expect.not.stringContaining("last looked")]);
  // the stream of the same events: of those named, and as they come
  const shown = await f.run(["events", "builder", "--since", "1h"]);
  expect([shown.code, shown.out]).toEqual([0, expect.stringMatching(/^\d\d:\d\d:\d\d commit +agent=builder kind=claim subject=claim\(one\): the parser sha=[0-9a-f]{7}$/m)]);
  expect(shown.out).not.toContain("agent=adversary");
  const some = await f.run(["events", "builder", "--event", "commit,order"]);
  expect([some.code, some.out.trimEnd().split("\n").map((line) => line.slice(9).split(/ +/)[0])]).toEqual([0, ["order", "commit"]]);
  expect([(await f.run(["events", "nobody"])).code, (await f.run(["events", "--event", "none"])).code]).toEqual([2, 2]);
  const json = (await f.run(["events", "--json"])).out.trimEnd().split("\n").map((line) => JSON.parse(line));
  expect(json.map(({ event }) => event)).toEqual(f.events().map(({ event }) => event));
  const follow = f.start(["events", "-f"]);
  let came = "";
  const reading = (async () => {
    for await (const bytes of follow.stdout) came += new TextDecoder().decode(bytes);
  })();
  await until(() => came.includes("commit"));
  f.control("builder", "idle");
  await until(() => /state +agent=builder from=(?:blocked|active) to=idle/.test(came));
  follow.kill();
  await reading;
  await f.push("builder", "status(one): done", done("one"));
  await until(() => f.events("phase").length, 20_000);
  await f.push("builder", "status(two): done", done("two"));
  await until(() => f.events("complete").length, 20_000);
  await f.run(["down"]);
  const late = await report();
  expect(late.phases).toMatchObject([{ from: "one", to: "two" }]);
  expect(Date.parse(late.complete)).toBe(Date.parse(String(f.events("complete")[0]!.at)));
  for (const one of late.agents) {
    expect(Object.values(one.spent).reduce((sum, ms) => sum + ms, 0)).toBe(Date.parse(late.to) - Date.parse(late.from));
    for (const ms of Object.values(one.spent)) expect(ms).toBeGreaterThanOrEqual(0);
    expect(one.spent.idle + one.spent.active).toBeGreaterThan(0);
    expect(one.spent.idle + one.spent.active + one.spent.down + one.spent.blocked).toBeLessThanOrEqual(Date.now() - began);
  }
  expect(Date.parse(late.seen)).toBeLessThan(Date.parse(late.to));
  const { out: text, err } = await f.run(["report"]);
  expect(err).toBe("");
  for (const part of ["one → two (", "complete at", "last looked", "builder: 1 restart: ended (signal 9)\n", "1 claim", "builder blocked: a dialog is open ("]) expect(text).toContain(part);
});
