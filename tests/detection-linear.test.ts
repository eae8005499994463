/** Text from outside costs time in proportion to its length, whatever it is; what does not is switched off. */
import { beforeEach, describe, expect, test } from "bun:test";
import { builtInRules, cleanLog, composerText, detect, lineOf, parsePattern, parseResetEpoch, parseWaitingUntil, reloadConfig, type Rule, rulesOf } from "../agents.ts";
import { CLIENTS, FASTER, fakeWorld, fasterClock, scene, tableOf, took } from "./kit.ts";
import { rounds } from "./sim.ts";
import { allowed } from "./wait.ts";

/** What the rules look for, so that each begins as often as it can and never comes to its end. */
const UNITS = [" ", "a", "A", "1", "0:", "─", "▔", "┃", "┃ ", "❯ ", "●", "● ", "✻ ", "  ⎿ ", " · ", "…", "\t", "\r", "\u2028", "$", "[", "1.", "1h ", "quota",
  "usage ", "attempt #", "attempt  ", "retrying ", "again ", "in 1m ", "esc ", "╭", "╹▀", "▣", "Jan 1 ", "(", "\x1b[", "WAITING-UNTIL:", "`", "Allow once ",
  "enter submit ", "┃ enter submit ", "Search", "   A", "   A     esc", "Enter to a", "resets ", "⎿ You've hit your ", "✻ Waiting for 1 ", " · 1 ", "…(1h ",
  "  ⏵ · ", "(running) ", "  1 shell · ", "at /$bunfs/", "❯ 1. x", "\u202e", "out of extra usage", "https://x/?"];
const pane = (unit: string, cols: number, rows: number): string =>
  Array.from({ length: rows }, () => unit.repeat(cols).slice(0, cols)).join("\n");
const PANES = UNITS.map((unit): [string, string] => [unit, pane(unit, 400, 100)]);
const claude = (above: string, below = ""): string => `${above}\n${"─".repeat(80)}\n❯ \n${"─".repeat(80)}\n${below}`;
const opencode = (above: string, below = ""): string => `${above}\n  ┃\n  ┃  \n  ┃\n  ┃  Build  gpt\n  ╹▀▀▀▀▀▀▀▀▀▀▀▀\n${below}`;

const exec = (rule: Rule) => (text: string): unknown => {
  rule.re.lastIndex = 0;
  return rule.re.exec(text);
};
const judged = (kind: "claude" | "opencode" | "typed", draw: (text: string) => string) => (text: string): unknown =>
  detect(builtInRules()[kind], { text: draw(text), title: text.slice(0, 400) }, 1);
const SUBJECTS: [string, (text: string) => unknown][] = [
  ...Object.entries(builtInRules()).flatMap(([kind, rules]) => rules.map((rule): [string, (text: string) => unknown] => [`the rule "${rule.name}" of ${kind}`, exec(rule)])),
  ...(["claude", "opencode", "typed"] as const).flatMap((kind): [string, (text: string) => unknown][] => [
    [`a screen of ${kind}`, judged(kind, (text) => text)],
    [`what stands above the box of ${kind}`, judged(kind, kind === "opencode" ? opencode : claude)],
    [`what stands below the box of ${kind}`, judged(kind, (text) => (kind === "opencode" ? opencode : claude)("", text))],
  ]),
  ["a reset time", (text) => parseResetEpoch(text, 1)], ["a marker", (text) => parseWaitingUntil(text)], ["a log", cleanLog],
  ["a box of claude", (text) => composerText("claude", claude(text), claude(text))],
];

type Case = [what: string, work: () => unknown];
/** Which of them take longer than 20 ms; what does is tried again by what this machine needs just now. */
async function tooSlow(cases: Case[]): Promise<{ what: string; ms: number }[]> {
  const slow = cases.filter(([, work]) => took(work, 20) > 20);
  const limit = slow.length ? await allowed(20) : 20;
  return slow.map(([what, work]) => ({ what, ms: took(work, limit) })).filter(({ ms }) => ms > limit);
}

test.each(SUBJECTS)("P35: %s takes no longer than 20 ms of any hostile screen of 400 x 100", async (_, work) => {
  expect(await tooSlow(PANES.map(([unit, text]) => [unit, () => work(text)]))).toEqual([]);
}, 60_000);

/** The same for the tables of other clients: each line begins as one of theirs does, each second one may end it. */
const BEGINNINGS = ["› ", "› 1. ", "■ You've hit your usage limit ", "■ {", "■ x", "• W (1s • esc to interrupt)", "  ", "  a · ", "  a · /", "› ↑ ", "▄", "▀", " > ", " * a", "│ ",
  " │ Esc to ", "│ ● 1. ", "│ Usage limit reached for ", "╰─", "✕ [API Error: ", "⠁", " ⠁ (esc to cancel, 1s)", " ❯ #1 │ ", "Press enter to ", "a | enter ", "> ", "  .  (1s · esc to ",
  "  ... x(", "  │ Enter to ", "  ✕ [API Error: 400 ", " Error: 400 ", " Error: 401 ", " ⠁ Working...", "/x", "%/1k (auto)", "Welcome to Codex, ", "→ "];
const drawn = (start: string, fill: string, between: string | null): string => Array.from({ length: 100 }, (_, row) =>
  (row % 2 && between !== null ? between : start + fill.repeat(400)).slice(0, 400)).join("\n");
/** All of them in CI, by hand every fourth: of each beginning two or three. */
const TABLE_PANES = [...PANES, ...BEGINNINGS.flatMap((start) => [[start, pane(start, 400, 100)] as [string, string], ...["x", " "].flatMap((fill) =>
  [null, "", "› ", "▄".repeat(400), "─".repeat(400)].map((between): [string, string] => [`${start}${fill}${between?.slice(0, 2)}`, drawn(start, fill, between)]))])
  .filter((_, nth) => nth % rounds(1, 4) === 0)];

test.each(CLIENTS)("P35: the table for %s takes no longer than 20 ms for any rule and box of any hostile screen of 400 x 100", async (client) => {
  const fake = fakeWorld();
  const backend = (await fake.config(`${tableOf(client)}\n[[agent]]\nname = "a"\nbackend = "claude"\n`)).backends.get(client)!;
  const ready = parsePattern(backend.readyRe!);
  const works: [string, (text: string) => unknown][] = [...rulesOf(backend).map((rule): [string, (text: string) => unknown] => [rule.name, exec(rule)]),
    ["ready_re", (text) => ready.test(text)], ["box", (text) => composerText("typed", text, undefined, backend)],
    ["a screen", (text) => detect(rulesOf(backend), { text, title: text.slice(0, 400) }, 1)]];
  expect(await tooSlow(works.flatMap(([name, work]) => TABLE_PANES.map(([unit, text]): Case => [`${name}: ${unit}`, () => work(text)])))).toEqual([]);
}, 120_000);

test("P31: the lines of two thousand faults of a config are found in one pass", async () => {
  const source = Array.from({ length: 2_000 }, (_, nth) => `[[agent]]\nname = "a${nth}"\nbogus = 1\n`).join("");
  const limit = await allowed(1_000);
  expect(lineOf(source, "agent", 1_999, "bogus")).toBe(6_000);
  const began = performance.now();
  for (let nth = 0; nth < 2_000; nth++) lineOf(source, "agent", nth, "bogus");
  expect(performance.now() - began).toBeLessThan(limit);
}, 60_000);

describe("P35: a pattern of the operator that is too slow for a screen", () => {
  const EVIL = "(?m)^(a+)+$";
  const config = (keys: string, more = "") => `[backend.claude]\n${keys}\n[[agent]]\nname = "a"\nkind = "persistent"\nbackend = "claude"\nwatch = "heal"\nprompt = "p"\n[[agent]]\nname = "b"\nkind = "persistent"\nbackend = "claude"\nwatch = "heal"\nprompt = "p"\n${more}`;
  const line = `${"a".repeat(20)}b`;
  /** As many lines as take half as long again as the 200 ms that are allowed, by that clock. */
  const slow = Array(Math.ceil(300 / FASTER / took(() => parsePattern(EVIL).exec(line), 0))).fill(line).join("\n");
  const hostile = `● ${"x".repeat(20)}\n${slow}`;
  beforeEach(fasterClock);

  test.each([`limit_re = '${EVIL}'`, `fatal_re = '${EVIL}'`, `active_re = '${EVIL}'`, `rule = [{ verdict = "limited", re = '${EVIL}' }]`])("%s is switched off for that agent alone and named once", async (key) => {
    const it = await scene(config(key));
    it.pane("a").said = hostile;
    await it.ticks(4);
    expect(it.fake.logged("switched off")).toEqual([expect.stringContaining(`a: the pattern "${EVIL}" of backend "claude" takes over 200 ms`)]);
    it.pane("b").said = `● yes\n${"a".repeat(9)}`;
    await it.ticks(1);
    expect(it.watch.agents.b!.verdict).toBe(key.startsWith("fatal") ? "fatal" : key.startsWith("active") ? "active" : "limited");
  });

  test("the operator's other rules and answers for it stay", async () => {
    const it = await scene(config(`rule = [{ verdict = "active", re = '${EVIL}' }, { verdict = "fatal", re = "(?m)^over$" }]\nanswer = [{ re = '${EVIL}', keys = ["1"] }, { re = "(?m)^ *go on$", keys = ["2"] }]`));
    const asks = (line: string) => void (it.pane("a").text = ["─".repeat(80), " Do you want to proceed?", line, " ❯ 1. Yes", "   2. No", "", " Esc to cancel · Tab to amend"].join("\n"));
    asks(slow);
    await it.ticks(4);
    expect([it.fake.logged("switched off").length > 0, it.pane("a").keys]).toEqual([true, []]);
    asks("go on");
    await it.ticks(2);
    expect(it.pane("a").keys).toEqual(["2"]);
    Object.assign(it.pane("a"), { text: null, said: "● yes\nover" });
    await it.ticks(1);
    expect(it.watch.agents.a!.verdict).toBe("fatal");
  });

  test("that answers a dialog, too", async () => {
    const it = await scene(config(`answer = [{ re = '${EVIL}', keys = ["1"] }]`));
    for (const name of ["a", "b"]) {
      const line = name === "a" ? slow : "aaaa";
      it.pane(name).text = ["─".repeat(80), " Do you want to proceed?", line, " ❯ 1. Yes", "   2. No", "", " Esc to cancel · Tab to amend"].join("\n");
    }
    await it.ticks(4);
    expect(it.fake.logged("switched off")).toEqual([expect.stringContaining(`a: the pattern "${EVIL}" of backend "claude"`)]);
    expect([it.pane("a").keys, it.pane("b").keys]).toEqual([[], ["1"]]);
  });

  test("that describes an input box, too: without it nothing is known of the box", async () => {
    const box = "(?m)^(?<text>(a+)+)$";
    const it = await scene(`[backend.t]\nkind = "typed"\nbin = "claude"\nbox_re = '${box}'\n[[agent]]\nname = "a"\nkind = "persistent"\nbackend = "t"\nwatch = "heal"\n`, { ticks: 2 });
    it.pane("a").text = hostile;
    await it.ticks(4);
    expect(it.fake.logged("switched off")).toEqual([expect.stringContaining(`a: the pattern "${box}" of backend "t" takes over 200 ms`)]);
    expect(it.pane("a").received).toEqual([]);
  });

  test("until the config changes", async () => {
    const it = await scene(config(`active_re = '${EVIL}'`));
    it.pane("a").said = hostile;
    await it.ticks(2);
    it.pane("a").said = `● yes\n${"a".repeat(9)}`;
    await it.ticks(2);
    expect(it.watch.agents.a!.verdict).toBe("idle");
    it.fake.files.set(it.cfg.path, config(`active_re = '${EVIL}'`, "# changed\n"));
    const next = await reloadConfig(it.cfg, it.watch);
    await it.fake.ticks(next, it.watch, 2);
    expect(it.watch.agents.a!.verdict).toBe("active");
  });
});
