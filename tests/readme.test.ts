/** The README, the commented agents.toml and the prompts say what the program does, in its words. */
import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { COMMANDS, type Config, helpText, isUntried, KEYS, loadConfig } from "../agents.ts";

const ROOT = resolve(import.meta.dir, "..");
const read = (name: string): string => readFileSync(join(ROOT, name), "utf8");
const README = read("README.md");
const FLEET = read("agents.toml");
const CI = join(".ci", "run");

/** The part of the README below a heading of the second level. */
const section = (title: string): string => README.split(/^## /m).find((part) => part.startsWith(`${title}\n`)) ?? "";
const codeBlocks = (text: string): string[] => [...text.matchAll(/^```\w*\n([^]*?)^```/gm)].map((match) => match[1]!.trim());

async function loadText(source: string): Promise<Config> {
  const folder = mkdtempSync(join(tmpdir(), "agents-readme-"));
  try {
    writeFileSync(join(folder, "agents.toml"), source);
    return await loadConfig(join(folder, "agents.toml"));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("the README is short", () => {
  expect(README.trimEnd().split("\n").length).toBeLessThanOrEqual(300);
});

test("the quick start is two commands, and CI calls the second one", () => {
  const blocks = codeBlocks(section("Quick start"));
  expect(blocks.length).toBe(2);
  for (const block of blocks) expect(block.split("\n").length).toBe(1);
  expect(blocks[0]).toMatch(/ agents\.ts demo$/);
  expect(blocks[1]).toMatch(/ test --parallel=7 --timings=tests\/timings\.json$/);
  expect(read(CI)).toContain("README.md");
});

test("the files of tests that take longest begin first: each has its time in timings.json (--update-timings writes it)", () => {
  const files = [...new Bun.Glob("tests/**/*.test.ts").scanSync(ROOT)];
  expect(Object.keys(JSON.parse(read("tests/timings.json")).files).sort()).toEqual(files.sort());
});

test("the quick start names the Bun that the lock file pins", () => {
  const pinned = JSON.parse(read("package.json")).devDependencies["bun-types"];
  for (const block of codeBlocks(section("Quick start"))) expect(block).toContain(`bun@${pinned} `);
});

test("the command table is the program's help", () => {
  const rows = [...section("Commands").matchAll(/^\| `(.*)` \| (.*) \|$/gm)].map((row) => [row[1]!.replaceAll("\\|", "|"), row[2]!]);
  const shown = COMMANDS.filter((command) => !command.hidden);
  expect(rows).toEqual(shown.map((command) => [`${command.name} ${command.args}`.trim(), command.clause]));
  for (const [call, clause] of rows) expect(helpText()).toMatch(new RegExp(`^  ${RegExp.escape(call!)} +${RegExp.escape(clause!)}$`, "m"));
});

test("the README's own fleet runs as it stands", async () => {
  const fleet = codeBlocks(README).filter((block) => block.includes("[[agent]]"))[0]!;
  expect(fleet.split("\n").length).toBe(12);
  const cfg = await loadText(fleet);
  expect(cfg.warnings).toEqual([]);
  expect(cfg.agents.size).toBeGreaterThan(1);
});

test("the table of clients names the versions that the program counts as tried, and those that the tests run", () => {
  const rows = [...README.matchAll(/^\| (Claude Code|opencode|Codex|Gemini CLI) \| (\S+)(?: to (\S+))? \|.*\| (.*) \|$/gm)];
  const kinds = rows.map(([, client, oldest, newest = oldest, run]) => {
    const kind = client!.split(" ")[0]!.toLowerCase() as "claude" | "opencode" | "codex" | "gemini";
    const later = newest!.replace(/\d+$/, (last) => `${Number(last) + 1}`);
    expect([kind, ...[`${oldest}-0`, oldest!, newest!, later].map((version) => isUntried(kind, version))]).toEqual([kind, true, false, false, true]);
    const pinned = new RegExp(`^  ${kind}: \\[".*", "(.*)"\\]`, "m").exec(read("tests/e2e/clients.ts"))![1]!;
    expect(run!.split(", ")).toContain(pinned);
    return kind;
  });
  expect(kinds).toEqual(["claude", "opencode", "codex", "gemini"]);
});

test("the README names files that exist", () => {
  const named = [...README.matchAll(/`((?:tests|prompts|\.ci)\/[\w./-]+)`/g)].map((match) => match[1]!);
  expect(named.length).toBeGreaterThan(5);
  const promised = section("What it promises");
  for (const name of named) if (!promised.includes(`\`${name}\``)) expect(readdirSync(join(ROOT, name, "..")), name).toContain(name.split("/").filter(Boolean).at(-1)!);
});

test("agents.toml loads without a warning", async () => {
  const cfg = await loadConfig(join(ROOT, "agents.toml"));
  expect(cfg.warnings).toEqual([]);
  expect([...cfg.agents.values()].map((agent) => agent.kind)).toContain("task");
  expect(cfg.loop.phases.length).toBe(2);
});

test("agents.toml shows every key that the program reads", () => {
  const lines = FLEET.split("\n").map((line) => line.replace(/^# /, ""));
  const shows = (key: string) => lines.some((line) => new RegExp(`^\\[{1,2}([\\w.]+\\.)?${key}[.\\]]|(^|[{,] ?)${key} = `).test(line));
  const missing = Object.entries(KEYS).flatMap(([table, keys]) => Object.keys(keys).filter((key) => !shows(key)).map((key) => `${table}.${key}`));
  expect(missing).toEqual([]);
});

/** What is commented out is a default or an example: taken in, it must load, and change no default. */
test("what agents.toml shows as a default is the default", async () => {
  const examples = /resume_phase|active_re|limit_re|fatal_re/;
  const lines = FLEET.split("\n").map((line) => (/^# (\[|[a-z_]+ = )/.test(line) && !examples.test(line) ? line.slice(2) : line));
  const [plain, full] = [await loadText(FLEET), await loadText(lines.join("\n"))];
  expect(full.warnings).toEqual([]);
  expect(full.watchdog).toEqual(plain.watchdog);
  expect(full.notify).toEqual(plain.notify);
  expect({ ...full.loop, handoff: null }).toEqual({ ...plain.loop, handoff: null });
  expect({ ...full.loop.handoff, repo: "" }).toEqual({ ...plain.loop.handoff, repo: "" } as never);
  for (const [name, backend] of plain.backends) expect({ ...full.backends.get(name), rule: [], answer: [] }).toEqual({ ...backend, rule: [], answer: [] } as never);
  for (const key of ["sessionPrefix", "tmuxSocket", "cols", "rows"] as const) expect(full[key]).toEqual(plain[key]);
});

test("the prompts name only places that are filled", () => {
  const everywhere = ["agent", "role", "supervisor", "plan_dir", "docs_dir", "done_marker"];
  const inPhases = ["phase.id", "phase.plan", "phase.status"];
  const own: Record<string, string[]> = {
    "boot.md": ["kickoff"], "claim-ping.md": ["from", "subject"], "review-ping.md": ["from", "subject"],
    "inbox-ping.md": ["file", "owner"], "deadlock-ping.md": ["reason", "subject"],
  };
  const loops = ["preamble.md", "builder.md", "adversary.md", "limit-probe-loop.md", "claim-ping.md", "review-ping.md", "inbox-ping.md", "deadlock-ping.md"];
  for (const file of readdirSync(join(ROOT, "prompts"))) {
    const known = [...everywhere, ...(loops.includes(file) ? inPhases : []), ...(own[file] ?? [])];
    const used = [...read(join("prompts", file)).matchAll(/\{([a-z_.]+)\}/g)].map((match) => match[1]!);
    expect(used.filter((place) => !known.includes(place)), file).toEqual([]);
  }
});
