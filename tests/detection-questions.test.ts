/** What Claude Code asks as it starts, and its agents view: named, never answered unasked, never typed into. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { builtInRules, composerText, detect, memoryOf } from "../agents.ts";
import { agents, command, holdLock, message, realFolder, scene, type Scene } from "./kit.ts";

const FIXTURES = join(import.meta.dir, "fixtures/claude");
const capture = (name: string): string => readFileSync(join(FIXTURES, `${name}.txt`), "utf8");
/** One that is asked, where a watchdog runs: any process will do. */
const asks = async (name: string, toml = ""): Promise<Scene> => {
  const it = await scene(agents("a") + toml, { home: realFolder() });
  holdLock(it.fake, it.cfg.stateDir, it.pane().pid);
  it.pane().draw(capture(name), it.fake.wall);
  await it.ticks(2);
  return it;
};
const status = async (it: Scene, ...words: string[]) => (await command("status", ...words, "--config", it.cfg.path)).out;

/** Capture, the name of the question, the keys that answer it. */
const ASKED: [string, string, string[]][] = [
  ["blocked-trust-dialog-80x24", "asks whether to trust its folder", ["Down", "Enter"]],
  ["blocked-v197-trust-dialog-100x30", "asks whether to trust its folder", ["Enter"]],
  ["blocked-bypass-warning-80x24", "asks whether to go without permissions", ["Down", "Enter"]],
  ["blocked-v332-first-start-after-update-from-2.1.220-60x20", "asks whether to try the fullscreen renderer", ["Down", "Enter"]],
  ["blocked-theme-picker-60x20", "asks for a theme", ["Enter"]],
  ["blocked-resume-picker", "asks whether to resume from a summary", ["Enter"]],
  ["blocked-api-key-half", "asks whether to use the API key of its environment", ["Up", "Enter"]],
];

describe("a question of a first start", () => {
  for (const [name, why, keys] of ASKED) {
    test(`${name}: ${why}; status shows what to declare, which then answers it`, async () => {
      const it = await asks(name);
      expect([memoryOf(it.watch, "a").verdict, memoryOf(it.watch, "a").why]).toEqual(["blocked", why]);
      expect([it.pane().keys, it.pane().enters]).toEqual([[], 0]);
      const [row] = JSON.parse(await status(it, "--json")).agents;
      expect(row).toMatchObject({ why, answer: { keys } });
      const text = await status(it);
      const lines = text.split("\n").map((line) => line.trim());
      const at = lines.indexOf("[[backend.claude.answer]]");
      expect(text.replace(/\s+/g, " ")).toContain(`a ${why}; to have it answered, add to agents.toml: [[backend.claude.answer]]`);
      const declared = lines.slice(at, lines.findIndex((line, nth) => nth > at && line.startsWith("keys = ")) + 1);
      // a narrow terminal breaks the expression
      const toml = [declared[0], declared.slice(1, -1).join(declared.length > 3 ? " " : ""), declared.at(-1)].join("\n");
      expect(toml).toBe(`[[backend.claude.answer]]\nre = '${row.answer.re}'\nkeys = ${JSON.stringify(keys)}`);
      const answered = await asks(name, `\n[backend.claude]\nkind = "claude"\nbin = "claude"\n${toml}\n`);
      expect([answered.pane().keys, answered.pane().enters]).toEqual([keys.filter((key) => key !== "Enter"), 1]);
    });
  }
  test("its card has the answer too", async () => {
    const it = await asks("blocked-trust-dialog-80x24");
    expect(await status(it, "a")).toMatch(/^answer +\[\[backend\.claude\.answer\]\]\n +re = '.*\n(?: +.*\n)? +keys = \["Down","Enter"\]$/m);
  });
  test("one that no declared answer cures is named all the same", async () => {
    const it = await asks("blocked-v220-start-bad-settings-80x24");
    expect(memoryOf(it.watch, "a").why).toBe("asks what to do about its faulty settings");
    expect(JSON.parse(await status(it, "--json")).agents[0].answer).toBeUndefined();
  });
  test("once it is answered nothing is left to declare", async () => {
    const it = await asks("blocked-trust-dialog-80x24");
    it.pane().text = null;
    await it.ticks(3);
    expect(memoryOf(it.watch, "a").verdict).toBe("idle");
    expect(JSON.parse(await status(it, "--json")).agents[0].answer).toBeUndefined();
  });
  test("is no question any more once the client has ended over it, nor where a permission quotes it", () => {
    const verdictOf = (text: string) => detect(builtInRules().claude, { text, title: "✳ Claude Code" }, 0);
    expect(verdictOf(`${capture("blocked-trust-dialog-80x24").trimEnd()}\n\nBye\nuser@host:~$\n`).verdict).toBe("unsure");
    const quoted = capture("blocked-permission-bash-80x24").replace(/Do you want to proceed\?/, "Try the new fullscreen renderer? Do you want to proceed?");
    expect(verdictOf(quoted)).toMatchObject({ verdict: "blocked", rule: "dialog hint" });
  });
});

/** Client, capture, the name of the question, the keys that answer it. */
const OTHERS: [string, string, string, string[]][] = [
  ["codex", "blocked-start-trust-80x24", "asks whether to trust its folder", ["Enter"]],
  ["codex", "blocked-start-trust-60x18", "asks whether to trust its folder", ["Enter"]],
  ["codex", "blocked-start-hooks-60x18", "asks to review its hooks", ["Down", "Down", "Enter"]],
  ["codex", "blocked-start-meet-80x24", "asks whether to try a new model", ["Down", "Enter"]],
  ["codex", "blocked-near-limit-80x24", "asks whether to change to a smaller model", ["Escape"]],
  ["gemini", "blocked-trust-80x24", "asks whether to trust its folder", ["Enter"]],
  ["gemini", "blocked-trust-200x50", "asks whether to trust its folder", ["Enter"]],
];
describe("P38: a question of another client's first start", () => {
  for (const [client, name, why, keys] of OTHERS) test(`${client}, ${name}: named, answered once that is declared`, async () => {
    const asked = async (toml = "") => {
      const it = await scene(`[[agent]]\nname = "a"\nbackend = "${client}"\nwatch = "heal"\n${toml}`);
      it.pane().draw(readFileSync(join(FIXTURES, `../${client}/${name}.txt`), "utf8"), it.fake.wall);
      await it.ticks(2);
      return it;
    };
    const it = await asked();
    expect([memoryOf(it.watch, "a").why, it.pane().keys, it.pane().enters]).toEqual([why, [], 0]);
    const [{ answer }] = JSON.parse(await status(it, "--json")).agents;
    expect(answer.keys).toEqual(keys);
    const answered = await asked(`[[backend.${client}.answer]]\nre = ${JSON.stringify(answer.re)}\nkeys = ${JSON.stringify(keys)}\n`);
    expect([answered.pane().keys, answered.pane().enters]).toEqual([keys.filter((key) => key !== "Enter"), keys.includes("Enter") ? 1 : 0]);
  });
  test("a login is named, and no key answers it", () => {
    for (const size of ["80x24", "60x18"]) {
      const text = readFileSync(join(FIXTURES, `../codex/blocked-start-login-${size}.txt`), "utf8");
      expect(detect(builtInRules().codex, { text, title: "" }, 0)).toMatchObject({ verdict: "blocked", why: "asks how to log in" });
    }
  });
});

describe("the agents view", () => {
  const VIEWS = ["blocked-v220-agents-view-left-200x50", "blocked-v332-agents-view-left-200x50", "blocked-agents-view-box-alone"];
  for (const name of VIEWS) {
    test(`${name}: a text is never typed into it, whatever the rules say of the screen`, async () => {
      expect(composerText("claude", capture(name))).toBeNull();
      // an operator's rule that takes it for rest
      const it = await asks(name, '\n[backend.claude]\nkind = "claude"\nbin = "claude"\n[[backend.claude.rule]]\nverdict = "idle"\nre = "describe a task"\n');
      it.operator({ queue: [message({ id: "q" })] });
      await it.ticks(4);
      expect([it.pane().draft, it.told(), it.pane().enters]).toEqual(["", [], 0]);
      expect(it.watch.outbox).toMatchObject([{ id: "q", why: "its input box is not visible" }]);
    });
  }
  test("is blocked by its box alone", async () => {
    const it = await asks("blocked-agents-view-box-alone");
    expect([memoryOf(it.watch, "a").verdict, memoryOf(it.watch, "a").why]).toEqual(["blocked", "the agents view is open"]);
  });
});
