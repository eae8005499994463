/**
 * Whether the captures hold the rules fast: each built-in rule removed, and each loosened in turn
 * (its anchors dropped, its region widened, one of its alternatives cut), must turn one of them red.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type BackendKind, builtInRules, type Rule, type SelfTest, selftest, world } from "../agents.ts";

interface Mutant { name: string; rule: Rule | null }

/** The characters of a regex that are syntax, each with its depth in groups; no escapes, no classes. */
function syntaxOf(source: string): { char: string; at: number; depth: number }[] {
  const found: { char: string; at: number; depth: number }[] = [];
  let depth = 0;
  for (const match of source.matchAll(/\\.|\[(?:\\.|[^\]\\])*\]|\(\?(?:<?[=!]|:)|[()^$|]/g)) {
    const char = match[0][0]!;
    if (char === "\\" || char === "[") continue;
    if (char === ")") depth--;
    found.push({ char, at: match.index, depth });
    if (char === "(") depth++;
  }
  return found;
}

/** `(?![^])` is the end of the region, whatever the flags; the flag `y` is its start. */
function withoutAnchors(source: string): string {
  const plain = source.replace(/\(\?!\[\^\]\)/g, "");
  const anchors = syntaxOf(plain).filter(({ char }) => char === "^" || char === "$");
  return anchors.reduceRight((rest, { at }) => rest.slice(0, at) + rest.slice(at + 1), plain);
}

/** The regex once for each alternative, without it. */
function withoutAlternative(source: string): [cut: string, rest: string][] {
  const marks = syntaxOf(source);
  return marks.filter(({ char }) => char === "|").flatMap((bar) => {
    const bounds = marks.filter(({ char, depth }) =>
      char === "|" ? depth === bar.depth : /[()]/.test(char) && depth === bar.depth - 1);
    const end = bounds.find(({ at, char }) => at > bar.at && char !== "(")?.at ?? source.length;
    const before = bounds.findLast(({ at, char }) => at < bar.at && char !== ")");
    const cuts: [string, string][] = [[source.slice(bar.at, end), source.slice(0, bar.at) + source.slice(end)]];
    if (before?.char === "|") return cuts;
    const head = before ? /^\((?:\?(?:<?[=!]|:))?/.exec(source.slice(before.at))![0].length + before.at : 0;
    return [...cuts, [source.slice(head, bar.at + 1), source.slice(0, head) + source.slice(bar.at + 1)]];
  });
}

function mutantsOf(rule: Rule): Mutant[] {
  const { source, flags } = rule.re;
  const with_ = (change: Partial<Rule>): Rule => ({ ...rule, ...change });
  const loose = new RegExp(withoutAnchors(source), flags.replace("y", ""));
  return [
    { name: "removed", rule: null },
    ...(`${loose}` === `${rule.re}` ? [] : [{ name: "anchors dropped", rule: with_({ re: loose }) }]),
    ...(rule.where === "screen" ? [] : [{ name: "seen anywhere", rule: with_({ where: "screen" }) }]),
    ...withoutAlternative(source).map(([cut, rest]) =>
      ({ name: `without ${cut}`, rule: with_({ re: new RegExp(rest, flags) }) })),
  ];
}

const RULES = (["claude", "opencode"] as const).flatMap((kind) => builtInRules()[kind].map((rule) => ({ kind, rule, name: rule.name })));
/** Other rules give the same verdict; which of them speaks is held by detection-questions.test.ts, capture by capture. */
const isNamed = ({ why }: Rule): boolean => /^asks |^the agents view is open$/.test(why ?? "");
const said = (results: SelfTest[]): string => results.map(({ verdict }) => verdict.rule).join("\n");
const sound = new Map<string, SelfTest[]>();
function known(kind: BackendKind): SelfTest[] {
  if (!sound.has(kind)) {
    const all = results(kind, builtInRules()[kind]);
    expect(all.every(({ file }) => file.startsWith(`${kind}/`)) && all.length).toBeGreaterThan(10);
    sound.set(kind, all);
  }
  return sound.get(kind)!;
}
/** The client whose captures are judged, and which of them. */
let judged: BackendKind;
let some: (file: string) => boolean;
function results(kind: BackendKind, rules: Rule[], files: (file: string) => boolean = () => true): SelfTest[] {
  [judged, some] = [kind, files];
  return selftest(() => rules, join(import.meta.dir, "fixtures"));
}
/** Whether a capture turns red: first of those that the rule decides, where most do, then twenty by twenty of the others. */
function isNoticed(kind: BackendKind, rule: Rule, rules: Rule[]): boolean {
  const all = known(kind);
  const others = all.filter(({ verdict }) => verdict.rule !== rule.name);
  const parts = Map.groupBy(all, (one) => Math.floor(others.indexOf(one) / 20));
  return [...parts].sort(([a], [b]) => a - b).some(([, before]) => {
    const files = new Set(before.map(({ file }) => file));
    const found = results(kind, rules, (file) => files.has(file));
    expect(found.map(({ file }) => file)).toEqual([...files]);
    return !found.every((each) => each.ok) || (isNamed(rule) && said(found) !== said(before));
  });
}
const survivors: string[] = [];
let count = 0;

describe("the captures notice", () => {
  const { read, list } = world;
  const texts = new Map<string, string | null>();
  const names = new Map<string, string[]>();
  beforeAll(() => {
    world.read = (path) => texts.get(path) ?? texts.set(path, read(path)).get(path)!;
    // of other clients none is judged: their rules are the same for every mutant
    world.list = (path) => !path.endsWith(`/${judged}`) ? []
      : (names.get(path) ?? names.set(path, list(path)).get(path)!).filter((file) => some(`${judged}/${file}`));
  });
  afterAll(() => void Object.assign(world, { read, list }));

  test.each(RULES)("when $kind's rule $name is removed", ({ kind, rule }) => {
    for (const mutant of mutantsOf(rule)) {
      const rules = builtInRules()[kind].flatMap((one) => one === rule ? mutant.rule ?? [] : one);
      count += 1;
      if (!isNoticed(kind, rule, rules)) survivors.push(`${kind} "${rule.name}": ${mutant.name}`);
    }
    expect(survivors).not.toContain(`${kind} "${rule.name}": removed`);
  });

  test("when a rule is loosened, in all but a few cases", () => {
    if (process.env.MUTANTS) console.log(`${survivors.length} of ${count} survive:\n${survivors.join("\n")}`);
    expect(count).toBeGreaterThan(100);
    expect(survivors.length / count, survivors.join("\n")).toBeLessThanOrEqual(0.05);
  });
});
