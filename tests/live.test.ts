/** The live view: what a key means, what stands where, and the terminal it is given and gives back. */
import { beforeEach, describe, expect, test } from "bun:test";
import { type AgentEvent, liveLines, NEW_VIEW, parseKeys, pressKey, type Status, type StatusRow, type View } from "../agents.ts";
import { type FakeWorld, fakeWorld } from "./kit.ts";
import { life, real, SELF, signal, until } from "./real.ts";

describe("keys", () => {
  const view = (some: Partial<View> = {}): View => ({ ...NEW_VIEW, selected: "b", ...some });
  const press = (keys: string, from = view(), names = ["a", "b", "c"]) => {
    let last: ReturnType<typeof pressKey> = { view: from };
    for (const key of parseKeys(keys)) last = pressKey(last.view, key, names);
    return last;
  };
  test("in what a terminal sent: letters, arrows, pages, a lone Esc; unknown ones are none", () => {
    expect(parseKeys("jX全👍")).toEqual(["j", "X", "全", "👍"]);
    expect(parseKeys("\x1b[A\x1bOB\x1b[5~\x1b[H\x1b[1;5C\r\x7f\x03")).toEqual(["up", "down", "pageup", "home", "enter", "erase", "quit"]);
    expect(parseKeys("\x1b")).toEqual(["escape"]);
  });
  test.each([["j", "c"], ["k", "a"], ["\x1b[B", "c"], ["\x1b[A", "a"], ["jjj", "c"], ["kkk", "a"], ["G", "c"], ["g", "a"], ["x", "b"]])("%j selects %s", (keys, selected) =>
    expect(press(keys).view.selected).toBe(selected));
  test("a row that is gone leaves the first selected; without rows nothing is run", () => {
    expect(press("e", view({ selected: "z" })).act).toEqual({ do: "run", words: ["explain", "a"] });
    for (const key of ["\r", "l", "e", "s", "r", "u", "d"]) expect([key, press(key, view(), []).act, press(key, view(), []).view.mode]).toEqual([key, undefined, "list"]);
  });
  test.each([["\r", "attach"], ["l", "logs"], ["e", "explain"], ["u", "up"]])("%j runs %s at once", (key, command) =>
    expect(press(key).act).toEqual({ do: "run", words: [command, "b"] }));
  test.each([["r", "restart"], ["d", "down"]])("%s asks before it runs %s", (key, command) => {
    expect(press(key)).toMatchObject({ view: { mode: "ask", order: command } });
    expect(press(key).act).toBeUndefined();
    expect(press(`${key}y`)).toMatchObject({ view: { mode: "list" }, act: { do: "run", words: [command, "b"] } });
    for (const no of ["n", "\r", "\x1b", "q"]) expect(press(`${key}${no}`)).toEqual({ view: expect.objectContaining({ mode: "list", note: `${command} b: not done` }) });
  });
  test("a message is typed as text, keys and all, and sent by Enter; an empty one, or Esc, sends nothing", () => {
    expect(press("sq quit, 全\x7f!").view).toMatchObject({ mode: "send", input: "q quit, !" });
    expect(press("sgo on\r")).toMatchObject({ view: { mode: "list", input: "" }, act: { do: "run", words: ["send", "b", "go on"] } });
    expect([press("s \r").act, press("sx\x1b").act, press("sx\x1b").view.mode]).toEqual([undefined, undefined, "list"]);
  });
  test("a filter works while it is typed; Enter keeps it, Esc ends it", () => {
    expect(press("/bl").view).toMatchObject({ mode: "filter", filter: "bl" });
    expect(press("/bl\r").view).toMatchObject({ mode: "list", filter: "bl" });
    expect(press("/bl\x1b").view).toMatchObject({ mode: "list", filter: "" });
    expect(press("/bl\r\x1b").view).toMatchObject({ mode: "list", filter: "" });
  });
  test("a page scrolls within itself, and any other key leads back; q and Ctrl-C end the view from the list", () => {
    const page = view({ mode: "page", page: ["1", "2", "3"] });
    expect([press("j", page).view.top, press("jjjjj", page).view.top, press("jk k", page).view.top, press("G", page).view.mode]).toEqual([1, 2, 1, "list"]);
    expect(press("q", page)).toMatchObject({ view: { mode: "list", page: [] } });
    expect(press("?").view.page.join("\n")).toMatch(/^⏎ .*attach[^]*^q .*quit/m);
    expect([press("q").act, press("\x03", page).act, press("s\x03").act]).toEqual([{ do: "quit" }, { do: "quit" }, { do: "quit" }]);
  });
});

describe("liveLines", () => {
  let fake: FakeWorld;
  beforeEach(() => void (fake = fakeWorld()));
  const row = (name: string, some: Partial<StatusRow> = {}): StatusRow => ({
    name, kind: "loop", backend: "claude", model: "default", watch: "heal", session: name, running: true, state: "", condition: "working", detail: "", since: "",
    until: "", verdict: "active", why: "", next: "", nextAt: "", messages: 0, messagesWhy: "", messagesDuring: "", unproven: 0, restartsToday: 0, modelFrom: "start", needsHuman: false, cure: "", version: "",
    owesSince: "", ...some,
  });
  const status = (agents: StatusRow[], some: Partial<Status> = {}): Status => ({
    version: 1, fleet: "~/night (agents-)", folder: "~/night", prefix: "agents-", configError: "", phase: null, agents, services: [], handoff: null, accounts: [], unknownSessions: [], orphans: [],
    olderPhase: [], needsHuman: false, watchdog: { running: true, pid: 1, heartbeat: new Date(fake.wall).toISOString(), stale: false, mute: false, version: "", stage: "", missing: false }, ...some,
  });
  const many = (count: number) => Array.from({ length: count }, (_, i) => row(`a${i}`));
  const lines = (agents: StatusRow[], view: Partial<View> = {}, [width, height] = [80, 24], events: AgentEvent[] = [], some: Partial<Status> = {}) =>
    liveLines(status(agents, some), { ...NEW_VIEW, ...view }, events, width, height).map((line) => Bun.stripANSI(line).trimEnd());

  test.each([[44, 24], [60, 20], [80, 24], [120, 40], [200, 50], [80, 6], [30, 5], [44, 1]])("at %dx%d: so many lines, none wider", (width, height) => {
    const wide = row("全部全部全部全部全部", { needsHuman: true, condition: "blocked", detail: "👍🏽全部".repeat(30), cure: "attach x", restartsToday: 12 });
    const events = Array.from({ length: 60 }, (_, i): AgentEvent => ({ at: new Date(fake.wall).toISOString(), event: "down", agent: `${i}全部`, why: "全部".repeat(60) }));
    for (const mode of ["list", "filter", "send", "ask", "page"] as const) {
      const shown = lines([wide, ...many(30)], { mode, input: "全部".repeat(80), page: ["全部".repeat(90), "x"], note: "全".repeat(90) }, [width, height], events, { configError: "x ".repeat(200) });
      expect([mode, shown.length]).toEqual([mode, height]);
      for (const line of shown) expect([line, Bun.stringWidth(line) <= width]).toEqual([line, true]);
    }
  });
  test("the selected row is in sight, wherever it is, and stands out", () => {
    for (const selected of ["a0", "a17", "a39"]) {
      expect(lines(many(40), { selected }, [80, 12]).filter((line) => line[1] === "▸").map((line) => line.slice(2).split(" ")[0])).toEqual([selected]);
    }
  });
  test("head, table, what happened last, and the keys at the bottom", () => {
    const at = new Date(fake.wall).toISOString();
    const events: AgentEvent[] = ["one", "two"].map((to) => ({ at, event: "phase", to }));
    events.push(...["active", "idle"].map((to) => ({ at, event: "state", agent: "a", to }))); // which the table shows
    const shown = lines([row("a"), row("b")], {}, [80, 12], events);
    expect(shown[0]).toStartWith("~/night (agents-) ");
    expect([shown[1], shown.slice(2, 5).map((line) => line.trim().split(" ")[0])]).toEqual(["nothing needs you · 2 working", ["AGENT", "▸a", "b"]]);
    expect(shown[5]).toMatch(/^─+$/);
    expect(shown.slice(6, 9)).toEqual([expect.stringMatching(/ phase +to=one$/), expect.stringMatching(/ phase +to=two$/), ""]);
    expect(shown.at(-1)).toBe("⏎ attach  l logs  e explain  s send  r restart  u up  d down  / find  ? help  q");
    expect(lines([row("a")], {}, [44, 12]).at(-1)).toBe("⏎  l  e  s  r  u  d  / find  ? help  q");
  });
  test("the last minutes of each agent as a bar, as far as there is room beside what happened", () => {
    const at = (minutes: number) => new Date(fake.wall - minutes * 60_000).toISOString();
    const events: AgentEvent[] = [{ at: at(15), event: "state", agent: "a", to: "active" }, { at: at(10), event: "state", agent: "a", to: "blocked" }, { at: at(5), event: "state", agent: "a", to: "idle" },
      { at: at(1), event: "phase", to: "two" }];
    const shown = lines([row("a"), row("b")], {}, [80, 20], events);
    const bar = shown.findIndex((line) => line.startsWith("  last 20 min"));
    expect([shown[bar - 1], shown[bar]]).toEqual(["─".repeat(80), expect.stringMatching(/^ {2}last 20 min {2}\d\d:\d\d {50}\d\d:\d\d$/)]);
    expect(shown[bar + 1]).toMatch(/^ {2}a {12} {14,15}█{15}!{15,16}·{14,15}$/);
    expect(shown[bar + 2]).toBe("─".repeat(80)); // of b nothing is known
    // once all phases are done the loop agents are down, which no look at them told, and nobody else is
    const done: AgentEvent[] = [events[0]!, { at: at(10), event: "complete" }];
    const barOf = (kind: string) => lines([row("a", { kind: kind as StatusRow["kind"] })], {}, [80, 20], done).find((line) => line.startsWith("  a "));
    expect(["loop", "task"].map(barOf)).toEqual([expect.stringMatching(/█x+$/), expect.stringMatching(/ █+$/)]);
    // five lines stay free below them, above the two at the bottom, at the least height too
    const active = many(3).map(({ name }): AgentEvent => ({ at: at(15), event: "state", agent: name, to: "active" }));
    const below = Array.from({ length: 20 }, (_, nth) => lines(many(3), {}, [80, 10 + nth], active)).filter((shown) => shown.some((line) => line.startsWith("  last 20 min")))
      .map((shown) => shown.length - 3 - shown.findLastIndex((line) => line.startsWith("  a")));
    expect([Math.min(...below), below[0], below.length > 5]).toEqual([5, 5, true]);
    // as many slots of a round length as the terminal has room for
    const wide = (width: number) => Bun.stringWidth(lines([row("a")], {}, [width, 20], events).find((line) => line.startsWith("  a "))!) - 15;
    expect([44, 60, 120, 200].map(wide)).toEqual([20, 40, 80, 120]);
    expect(lines([row("a"), row("b")], {}, [80, 13], events).some((line) => line.includes("last 20 min"))).toBe(false);
  });
  test("its help fits a phone whole", () => {
    const { page } = pressKey(NEW_VIEW, "?", []).view;
    expect(page.filter((line) => Bun.stringWidth(line) > 44)).toEqual([]);
    expect(lines([row("a")], { mode: "page", page }, [44, 24]).slice(0, page.length)).toEqual(page);
  });
  test("the filter leaves rows by what they say; the counts stay those of the fleet", () => {
    const agents = [row("builder"), row("tester", { condition: "parked", running: false })];
    expect(lines(agents, { filter: "PARK" }).filter((line) => /builder|tester/.test(line))).toEqual([expect.stringContaining("tester")]);
    expect(lines(agents, { filter: "PARK" })[1]).toBe("nothing needs you · 1 working · 1 down");
    expect(lines(agents, { filter: "park" }).at(-2)).toBe('only rows with "park"; Esc shows all');
  });
  test("what is asked, typed, or was done stands above the keys", () => {
    expect(lines([row("a")], { mode: "ask", order: "restart", selected: "a" }).at(-2)).toBe("restart a? y/n");
    expect(lines([row("a")], { mode: "send", selected: "a", input: "go" }).at(-2)).toBe("to a: go▏");
    expect(lines([row("a")], { note: "up a: done" }).at(-2)).toBe("up a: done");
  });
});

// ── in a terminal ──

const plan = { agents: ["a1", "b1"].map((name) => ({ name, watch: "heal" })) };

real("status --watch draws over the old table until q or Ctrl-C, and leaves the terminal as it was", plan, async (f) => {
  const piped = await f.run(["status", "--watch"]);
  expect([piped.code, piped.out, piped.err]).toEqual([1, "", "agents: status --watch needs a terminal\n"]);
  const dumb = await f.terminal(["status", "--watch"], { env: ["TERM=dumb"] });
  expect([await dumb.ended(), await dumb.screen()]).toEqual(["exit 1", expect.stringContaining("status --watch cannot draw on this terminal (TERM=dumb)")]);
  const person = await f.terminal(["status", "--watch"]);
  await person.shows((text) => /○ no watchdog$[^]*^ ▸a1 .*stopped[^]*^ +b1 .*stopped[^]*^the fleet is stopped: /m.test(text));
  expect([await person.field("alternate_on"), await person.field("cursor_flag")]).toEqual(["1", "0"]);
  await f.up("a1", "watchdog");
  await person.shows((text) => /^ ▸a1 .*(running|idle)/m.test(text));
  const screen = await person.screen();
  expect([screen.match(/^ +AGENT /gm)?.length, screen.match(/^ ▸a1 /gm)?.length]).toEqual([1, 1]);
  // a config that breaks meanwhile
  const good = f.read("agents.toml");
  f.write("agents.toml", `${good}\n[[agent\n`);
  const said = /agents\.toml:\d+:\d+: [^]*broken\s+since\s[^]*^ ▸a1 /m;
  await person.shows((text) => said.test(text));
  f.write("agents.toml", good);
  await person.shows((text) => !said.test(text));
  await person.keys("x");
  await person.keys("q");
  expect(await person.ended()).toBe("exit 0");
  expect([await person.field("alternate_on"), await person.field("cursor_flag")]).toEqual(["0", "1"]);
  // what does not fit is cut, line by line; the head and the keys stay
  const small = await f.terminal(["status", "--watch"], { cols: 60, rows: 5 });
  await small.shows((text) => /help/.test(text));
  expect((await small.screen()).split("\n").length).toBe(5);
  await small.keys("C-c");
  expect(await small.ended()).toBe("exit 0");
});

const fleet = life(plan);

fleet("the keys of the live view run the other commands, and a signal gives the terminal back", async (f) => {
  await f.up();
  await f.ready("a1", "b1");
  const person = await f.terminal(["status", "--watch"], { cols: 80, rows: 24 });
  const shows = (what: RegExp) => person.shows((text) => what.test(text));
  await shows(/^ ▸a1 .*idle[^]*^ +b1 .*idle/m);
  await person.keys("?");
  await shows(/^q +quit/m);
  await person.keys("q", "j", "e");
  await shows(/^verdict +idle/m);
  await person.keys("q", "s");
  await shows(/^to b1: ▏/m);
  await person.keys("-l", "go on, please");
  await person.keys("Enter");
  await until(() => f.submits("b1").includes("go on, please"));
  await shows(/^send b1: done/m);
  await person.keys("/", "a", "1");
  await shows(/^\/a1▏/m);
  expect(await person.screen()).not.toMatch(/^ .b1 /m);
  await person.keys("Escape");
  await shows(/^ ▸b1 /m);
  await person.keys("d", "n");
  await shows(/^down b1: not done/m);
  await person.keys("d", "y");
  await shows(/^ ▸b1 +stopped +by you/m);
  await person.keys("u");
  await shows(/^ ▸b1 .*idle/m);
  // attached, detached, and back
  await person.keys("k", "Enter");
  await until(async () => (await f.tmux("list-clients", "-F", "#{session_name}")).includes("t-a1"));
  await person.keys("C-b", "d");
  await shows(/^ ▸a1 [^]*\? help/m);
  await person.keys("j");
  await shows(/^ ▸b1 /m);
  const { pid } = f.processes().find(({ command }) => / status --watch/.test(command) && !command.startsWith("sh ") && !command.startsWith("tmux "))!;
  signal(pid, "SIGTERM");
  expect(await person.ended()).toBe("exit 143");
  expect([await person.field("alternate_on"), await person.field("cursor_flag")]).toEqual(["0", "1"]);
});

fleet("q leaves at once, also while a text that was sent still waits", async (f) => {
  await f.tmux("send-keys", "-t", "=t-a1:", "-l", "half a thought");
  const person = await f.terminal(["status", "--watch"], { cols: 80, rows: 24 });
  await person.shows((text) => /^ ▸a1 /m.test(text));
  await person.keys("s");
  await person.keys("-l", "go on");
  await person.keys("Enter");
  await person.shows((text) => /^send a1 …/m.test(text));
  await person.keys("q");
  expect(await person.ended()).toBe("exit 0");
});

fleet("it ends with its terminal, also under a parent that ignores the hangup", async (f) => {
  const deaf = await f.tmux("-L", "person", "-f", "/dev/null", "new-session", "-dP", "-F", "#{pane_id}", "-x", "80", "-y", "24",
    "sh", "-c", 'trap "" HUP; "$@"; exit', "sh", ...SELF, "status", "--watch", "--config", f.config);
  const views = () => f.processes().filter(({ command }) => / status --watch/.test(command) && !/^(sh|tmux) /.test(command)).length;
  await until(async () => /^ ▸a1 /m.test(await f.tmux("-L", "person", "capture-pane", "-p", "-t", deaf)));
  expect(views()).toBe(1);
  await f.tmux("-L", "person", "kill-pane", "-t", deaf);
  await until(() => views() === 0);
});
