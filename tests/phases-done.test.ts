import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DONE_PLACEHOLDER_RE, isDone } from "../agents.ts";
import { allowed } from "./wait.ts";

const FOLDER = join(import.meta.dir, "fixtures/status");
const MARKER = "## DONE";
const section = (body: string): string => `# Status\n\n${MARKER}\n\n${body}\n`;

describe("a status file means what the first word of its name says", () => {
  const names = readdirSync(FOLDER);
  test("there are 30 of them, named done-* or notdone-*", () => {
    expect(names.length).toBeGreaterThanOrEqual(30);
    expect(names.filter((name) => !/^(not)?done-.+\.md$/.test(name))).toEqual([]);
  });
  for (const name of names) {
    test(name, () => {
      const text = readFileSync(join(FOLDER, name), "utf8");
      expect(isDone(text, MARKER)).toBe(name.startsWith("done-"));
    });
  }
});

const PLACEHOLDERS = [
  "not yet", "Not done.", "NOT COMPLETE", "incomplete", "pending review", "TBD", "n/a", "NA",
  "written here only after", "only when all pass", "to be filled", "when all gates pass",
  "<fill in>", "<evidence>", "todo", "To do", "WIP", "in progress", "work in progress", "blocked",
  "blocked on G3", "awaiting G2", "waiting for the verdict", "none yet", "None.", "nothing so far",
  "This phase is not done.", "Status: pending", "Evidence: TODO", "It is still open", "almost done",
  "don't write this yet", "Will be filled at the end", "Fill in the verdicts", "...", "…", "tbc",
  "not finished", "not ready", "Not started", "not verified", "unfinished", "unverified", "ongoing",
  "partial", "partially met", "TBA", "FIXME", "xxx", "nearly there", "currently red", "wait for G2",
  "nothing here", "nothing", "no", "open", "unknown", "later", "soon", "empty", "placeholder",
  "only once all pass", "only after G2", "only if G2 passes", "once all pass", "until all pass",
  "do not write this yet", "never add this early", "to be done", "to be decided", "to be verified",
  "Write the evidence", "add one sentence", "put your evidence", "insert evidence", "Describe here",
];
const MARKS: ((body: string) => string)[] = [
  (s) => s, (s) => `**${s}**`, (s) => `_${s}_`, (s) => `\`${s}\``, (s) => `(${s})`,
  (s) => `- ${s}`, (s) => `1. ${s}`, (s) => `> ${s}`, (s) => `- [x] ${s}`, (s) => `> - **${s}**`,
  (s) => `  * *${s}*`,
];
test.each(PLACEHOLDERS)("%s is no evidence, however it is marked", (body) => {
  expect(MARKS.filter((mark) => isDone(section(mark(body)), MARKER))).toEqual([]);
});

test.each([
  "- [ ] all gates PASS", "[ ] all", "- [] all", "- [-] all", "☐ all", "> - [ ] **all**",
  "### History", "## History", "> ## History", "History\n=======", "History\n-------",
  "---", "***", "===", "-", "> ", "~~All gates pass.~~", "⏳ running",
])("%p is no evidence", (body) => expect(isDone(section(body), MARKER)).toBe(false));

test.each([
  "All five gates have a fresh PASS on 3f2a91c.", "**All gates PASS** at 3f2a91c", "- [x] G1 PASS",
  "✅ G1 to G5 PASS", "#12 merged; every item verified", "> G1 to G5: PASS", "(G1 to G5: PASS)",
  "[REVIEW-p1.md](REVIEW-p1.md) holds five PASS verdicts.", "<https://ci.example/7> is green: PASS",
  "Currently all items pass.", "Nothing is open: 5 of 5 PASS.", "No open findings, G1 to G5 PASS.",
  "Notation and parser verified.", "2 of 2 gates PASS", "Alle Punkte geprüft: PASS", "全部通过",
  "<!-- signed --> G1 to G5 PASS", "    bun test: 412 pass, 0 fail", "Todos are empty: all PASS",
])("%p is evidence", (body) => expect(isDone(section(body), MARKER)).toBe(true));

describe("what is hidden on the page does not count", () => {
  const good = `${MARKER}\n\nAll gates PASS.\n`;
  test("a comment mark inside a fence opens no comment", () =>
    expect(isDone(`\`\`\`html\n<!--\n\`\`\`\n\n${good}`, MARKER)).toBe(true));
  test("a fence mark inside a comment opens no fence", () =>
    expect(isDone(`<!--\n\`\`\`\n-->\n\n${good}`, MARKER)).toBe(true));
  test("a comment mark in running text opens none", () =>
    expect(isDone(`Never write \`<!--\` here.\n\n${good}`, MARKER)).toBe(true));
  test("a longer fence is not closed by a shorter one", () =>
    expect(isDone(`\`\`\`\`\n\`\`\`\n${good}\`\`\`\`\n`, MARKER)).toBe(false));
  test("three back-quotes around words in a line are no fence", () =>
    expect(isDone(`\`\`\`bun test\`\`\` runs all.\n\n${good}`, MARKER)).toBe(true));
  test("a fence or comment without an end hides the rest", () => {
    expect(isDone(`\`\`\`\n${good}`, MARKER)).toBe(false);
    expect(isDone(`~~~\n${good}`, MARKER)).toBe(false);
    expect(isDone(`<!--\n${good}`, MARKER)).toBe(false);
  });
});

test("line ends of Windows change nothing", () => {
  const text = `\`\`\`\n${MARKER}\nAll PASS.\n\`\`\`\n\n${MARKER}\n\n`.replaceAll("\n", "\r\n");
  expect(isDone(text, MARKER)).toBe(false);
  expect(isDone(`${text}All PASS.\r\n`, MARKER)).toBe(true);
});

test("another marker is taken as it is", () => {
  expect(isDone("# FINISHED\nAll PASS.\n", "# FINISHED")).toBe(true);
  expect(isDone("## FINISHED\nAll PASS.\n", "# FINISHED")).toBe(false);
  expect(isDone("## DONE (v1.0)\nAll PASS.\n", "## DONE (v1.0)")).toBe(true);
});

test("an empty marker is never met", () => expect(isDone("\n\nAll PASS.\n", " ")).toBe(false));

test("every placeholder of the original is still one", () => {
  const words = ["not yet", "not done", "not complete", "incomplete", "pending", "tbd", "na", "n/a",
    "written here only", "only when", "to be written", "to be filled", "when all", "<x>"];
  expect(words.filter((word) => !DONE_PLACEHOLDER_RE.test(`  ${word.toUpperCase()} `))).toEqual([]);
});

test("a long file is read in no time", async () => {
  const long = "text <!-- `` ~~~ <b> **x** \n".repeat(4_000);
  const started = performance.now();
  expect(isDone(`${long}\n${MARKER}\n\nAll PASS.\n`, MARKER)).toBe(true);
  expect(performance.now() - started).toBeLessThan(await allowed(3_000));
});

test.each(["<!--", "text <!-- ", "<!---->", "\n<!--", "```\n", "```\n```\n", "~~~\n", "`", "## DONE\n", "## DONE\n\n> ##\n", "x## DONE", "\n", "   ", "\r", "* ", "~~", "## DONE <!--"])(
  "isDone is linear: 2 MB of %p", (unit) => {
    const fill = unit.repeat(2_000_000 / unit.length);
    const texts = [`${fill}\n## DONE\n`, `## DONE\n${fill}`, `## DONE\n\nnot yet ${fill.replaceAll("\n", " ")}`];
    for (const text of texts) {
      // CPU time, the least of a few: other work on the machine is not the text's fault
      let best = Infinity;
      for (let nth = 0; best >= 20 && nth < 10; nth++) {
        const began = process.cpuUsage();
        isDone(text, MARKER);
        const { user, system } = process.cpuUsage(began);
        best = Math.min(best, (user + system) / 1000);
      }
      expect(best).toBeLessThan(20);
    }
  });
test("a comment that is indented hides no more than a comment at the margin", () =>
  expect(isDone("  <!-- draft -->\n\n## DONE\n\nAll gates PASS.\n", MARKER)).toBe(true));
