/** What tests/PROMISES.md and the README say holds a promise is there. */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

const ROOT = resolve(import.meta.dir, "..");
const read = (name: string): string => readFileSync(join(ROOT, name), "utf8");
/** The cells of the rows of a table, its head and rule left out. */
const rowsOf = (text: string): string[][] =>
  text.split("\n").filter((line) => line.startsWith("| ")).map((line) => line.slice(2, -2).split(" | ")).filter(([first]) => !/^(#|-+)$/.test(first!));

const PROMISES = rowsOf(read("tests/PROMISES.md").split("\n## ")[0]!);
const README = rowsOf(read("README.md").split(/^## /m).find((part) => part.startsWith("What it promises\n"))!);

test("P1 to P26 have a row each, and those that came later, in their order", () => {
  const ids = PROMISES.map(([id]) => Number(id!.slice(1)));
  expect(ids.slice(0, 26)).toEqual(Array.from({ length: 26 }, (_, i) => i + 1));
  expect(ids).toEqual([...new Set(ids)].toSorted((a, b) => a - b));
  for (const row of PROMISES) expect(row.map((cell) => cell.trim() !== ""), row[0]).toEqual([true, true, true, true]);
});

describe("each names tests that exist, or says that there is none", () => {
  test.each(PROMISES.map((row) => [row[0]!, row[2]!]))("%s", (_, held) => {
    const named = [...held.matchAll(/`([\w/.-]+\.ts)`((?: "[^"]+",?)*)/g)];
    if (!named.length) return expect(held).toStartWith("no test");
    for (const [, file, names] of named) {
      const source = read(join("tests", file!));
      const tests = [...names!.matchAll(/"([^"]+)"/g)].map((match) => match[1]!);
      expect(tests, file!).not.toEqual([]);
      for (const name of tests) expect([`"${name}"`, `\`${name}\``].some((written) => source.includes(`(${written},`)), `${file}: ${name}`).toBe(true);
    }
    // nothing in quotes that was not looked for
    expect(held.split('"').length - 1).toBe(named.join().split('"').length - 1 >> 1);
  });
});

test("each row of the README names test files that hold its promise, and exist", () => {
  expect(README.length).toBeGreaterThanOrEqual(10);
  for (const [ids, promise, , by] of README) {
    const held = ids!.split(", ").map((id) => PROMISES.find(([one]) => one === id)?.[2] ?? "").join();
    const files = [...by!.matchAll(/`(?:bun )?tests\/([\w./-]+)/g)].map((match) => match[1]!);
    expect(files, promise!).not.toEqual([]);
    for (const file of files) {
      expect([file, existsSync(join(ROOT, "tests", file))]).toEqual([file, true]);
      if (file.endsWith(".test.ts")) expect([promise, held.includes(`\`${file}\``) && file]).toEqual([promise, file]);
    }
  }
});
