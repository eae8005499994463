// What a pane shows against what `detect` believes: real captures, quotes, banners, clocks, markers.
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import {
  type Backend, builtInRules, composerText, detect, lastNonemptyLine, parsePattern, parseResetEpoch,
  parseWaitingUntil, type Rule, rulesOf, selftest,
} from "../agents.ts";
import { CLIENTS, fakeWorld, tableOf } from "./kit.ts";

const NOW = Date.parse("2026-11-22T19:30:00Z");
const FIXTURES = `${import.meta.dir}/fixtures`;
const at = (iso: string | null | undefined) => iso ? Date.parse(iso) : null;
const results = selftest((kind) => builtInRules()[kind]);

test("the patterns of the rules are made once a screen is read, not at every start", () => {
  const made = `let made = 0;
    globalThis.RegExp = class extends RegExp { constructor(...of) { super(...of); made += 1; } };
    const { builtInRules } = await import(${JSON.stringify(`${import.meta.dir}/../agents.ts`)});
    const madeBy = (what) => { const before = made; what(); return made - before; };
    console.log(madeBy(builtInRules) > 20, madeBy(builtInRules));`;
  const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", made], { env: process.env });
  expect([`${stdout}`, `${stderr}`]).toEqual(["true 0\n", ""]);
});

describe("captures", () => {
  test("there are some of every verdict and client", () => {
    const kinds = new Set(results.map((each) => `${each.file.split("/")[0]} ${each.expected}`));
    expect([results.length > 900, kinds.size]).toEqual([true, 29]);
  });
  for (const each of results) {
    test(each.file, () => {
      expect<unknown>([each.verdict.verdict, each.ok]).toEqual([each.expected, true]);
    });
  }
  test("every built-in rule has a capture, or is drawn below", () => {
    const used = new Set([...results.map((each) => `${each.file.split("/")[0]} ${each.verdict.rule}`), ...DRAWN.map(([client, , rule]) => `${client} ${rule}`)]);
    const idle = (["claude", "opencode", "codex", "gemini"] as const).flatMap((kind) => builtInRules()[kind]
      .map((rule) => `${kind} ${rule.name}`).filter((name) => !used.has(name)));
    expect(idle).toEqual([]);
  });
  test("P38: those that tmux alone can tell are of clients that were killed, and are marked", () => {
    const marked = CLIENTS.flatMap((client) => readdirSync(`${FIXTURES}/${client}`).filter((file) => /"only"/.test(readFileSync(`${FIXTURES}/${client}/${file}`, "utf8"))));
    expect([marked.length, marked.filter((file) => !file.startsWith("unsure-killed-"))]).toEqual([4, []]);
  });
});

/** As the program of 2.1.330 draws it, which shows it at rest, also after an error. */
const SURVEY = "● How is Claude doing this session? (optional)\n  1: Bad    2: Fine   3: Good   0: Dismiss\n\n";
const BOX = /^─{40,}\n❯(?!.* \d\.).*\n(?:.*\n)*?─{40,}$/m;
const atRest = results.filter(({ file, expected }) => file.startsWith("claude/") && ["idle", "blocked", "limited", "fatal", "waiting"].includes(expected))
  .map(({ file }) => ({ file, text: readFileSync(`${FIXTURES}/${file}`, "utf8"), title: JSON.parse(readFileSync(`${FIXTURES}/${file.replace(/txt$/, "json")}`, "utf8")).title as string }))
  .filter(({ text }) => BOX.test(text));
test.each([["wide", SURVEY], ["narrow", SURVEY.replace(" (", "\n  (").replace("   3", "\n  3")]])("Claude Code's survey above its box is no answer: what was said before it counts (%s)", (_, survey) => {
  const judged = (text: string, title: string) => {
    const { verdict, rule, limit, last } = detect(builtInRules().claude, { text, title }, NOW);
    return { verdict, rule, limit, last };
  };
  const changed = atRest.filter(({ text, title }) => !Bun.deepEquals(judged(text.replace(BOX, (box) => survey + box), title), judged(text, title)));
  expect([changed.map(({ file }) => file), atRest.length > 100]).toEqual([[], true]);
});

// ── quotes ──

const QUOTES = [
  "You've hit your 5-hour limit · resets 10:33pm (UTC)", "Claude AI usage limit reached|1750708800",
  "⎿  You've hit your weekly limit · resets Nov 25, 7:34pm (UTC)",
  "⎿  Credit balance too low · Add funds:", "Usage limit reached · set to continue automatically at 3pm",
  "⚠ Usage limit reached · limit resets 10:33pm", "● Usage limit reached · resets 3pm",
  "❯ 1. Stop and wait for limit to reset", "What do you want to do?", "❯ 1. Yes", "❯ No, exit",
  "Enter to confirm · Esc to cancel", "Esc to cancel · Tab to amend", "Do you want to proceed?",
  "⏵⏵ auto mode on (shift+tab to cycle) · esc to interrupt", "esc to interrupt",
  "✻ Churning… (1s · ↓ 9 tokens · thinking)", "✻ 500 Internal server error · retrying in 3s · attempt 4/10",
  "API Error: 400 messages.1.content.0: `thinking` cannot be modified", "Prompt is too long",
  "API Error: 400 due to tool use concurrency issues. Run /rewind to recover the conversation.",
  "Login expired · Please run /login", "AWS authentication failed · refresh them", "Opus 4.7 requires usage credits.", "Your organization has disabled Claude subscription access",
  "Please run /login · API Error: 403 forbidden", "Credit balance too low", "Invalid API key",
  "❯ Run /rewind to go back", "No conversation found with session ID: 1",
  "Resume this session with:", "claude --resume 12", "EXITED rc=1", "Pane is dead (status 1, now)",
  "root@host:~#", "△ Permission required", "Allow once   Allow always   Reject",
  "↑↓ select  enter submit  esc dismiss", "⬝⬝■■■■ esc interrupt", "[retrying in 2s attempt #1]",
  "The usage limit has been reached [retrying in 1s attempt #2] esc", "Insufficient credits",
  "Incorrect API key provided.", "Continue  opencode -s ses_12", "╹▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀",
  "──────────────────────\n❯ \n──────────────────────\n  ⏵⏵ auto mode on · esc to interrupt",
  "┃\n┃  Incorrect API key provided.\n┃\n\n▣  Build · Mock One", "Waiting for 1 background agent to finish",
  "Claude Code is suspended. Run `fg` to bring it back.", "search prompts:", "Not logged in · Run /login",
  "✻ Brewed for 3s · done 7:40 PM · 1 shell still running", "API Error: 400 This organization has been disabled.",
  "⏵⏵ auto mode on · 1 shell · ↓ to manage", "Showing detailed transcript · ctrl+o to toggle",
  "⏵⏵ auto mode · enter to return · space to reply · ctrl+x to delete", "⚠ Usage limit reached\n   Continuing shortly · Esc to cancel",
  "● ScheduleWakeup(in 1221s)\n  ⎿  Next wakeup scheduled for 19:31:00 (in 1221s).",
];

// 2.1.197 draws an answer that is nothing but one of these as it draws the error itself, and where
// the screen does not name the version 2.1.250 to 2.1.322 may have drawn it.
const ALIKE = /^(?:API Error: 400|Prompt is too long|Please run|Credit balance|Invalid API key|Login expired|AWS auth|Opus 4.7|Your organization)/;

// As the clients draw it: words wrapped at the width, every line but the first indented.
function wrapped(text: string, width: number, indent: string, first = indent): string {
  const lines = text.split("\n").flatMap((line) => {
    const rows = [""];
    for (const word of line.split(/(?<= )/)) {
      if ((rows.at(-1) + word).length > width - indent.length) rows.push("");
      rows[rows.length - 1] += word;
    }
    return rows;
  });
  return lines.map((line, row) => (row ? indent : first) + line).join("\n");
}

function claudeScreen(transcript: string, width: number, draft = "", footer = "⏵⏵ auto mode on") {
  const rule = "─".repeat(width);
  return ` ▐▛███▛█   Claude Code\n\n${transcript}\n\n${rule}\n❯\u00a0${draft}\n${rule}\n  ${footer}\n\n`;
}

function claudeQuotes(quote: string, width: number): Record<string, string> {
  const inside = wrapped(quote, width, "  ");
  const prompt = wrapped(quote, width, "  ", "❯ ");
  const answer = wrapped(quote, width, "  ", "● ");
  const end = "\n\n✻ Baked for 3s · done 7:36 PM";
  const short = "\n\n✻ Baked for 3s";
  return {
    "whole answer": claudeScreen(`❯ say it\n\n${answer}${end}`, width),
    "whole answer, 2.1.197": claudeScreen(`❯ say it\n\n${answer}${short}`, width),
    "end of an answer": claudeScreen(`❯ go\n\n● The pane says:\n\n${inside}${end}`, width),
    "end of an answer, no done line": claudeScreen(`❯ go\n\n● It says:\n${inside}`, width),
    "code block": claudeScreen(`❯ go\n\n● Look:\n\n${inside}\n\n  That is it.${end}`, width),
    "prompt": claudeScreen(`${prompt}\n\n● OK${end}`, width),
    "tool output": claudeScreen(`❯ go\n\n● Bash(cat it)\n  ⎿  ${inside.trim()}\n\n● Done.${end}`, width),
    "tool output at the end": claudeScreen(`❯ go\n\n● Bash(cat it)\n  ⎿  ${inside.trim()}${end}`, width),
    "agent's output": claudeScreen(`❯ go\n\n● Agent(look)\n  ⎿  ${inside.trim()}`, width),
    "draft": claudeScreen(`❯ go\n\n● OK${end}`, width, inside.trim()),
    "draft, second line": claudeScreen(`❯ go\n\n● OK${end}`, width, `look:\n${inside}`),
  };
}

function opencodeScreen(transcript: string, width: number, draft = "  ┃") {
  return `\n${transcript}\n\n  ┃\n${draft}\n  ┃\n  ┃  Build · Mock One Mock\n  ╹${"▀".repeat(width - 4)}\n`
    + "   /srv/proj     12.4K (1%)  ctrl+p commands\n";
}

function opencodeQuotes(quote: string, width: number): Record<string, string> {
  const inside = wrapped(quote, width, "     ");
  const barred = wrapped(quote, width, "  ┃  ");
  const mark = "\n\n     ▣  Build · Mock One · 4.7s";
  const prompt = `  ┃\n${barred}\n  ┃`;
  return {
    "answer": opencodeScreen(`  ┃\n  ┃  go\n  ┃\n\n${inside}${mark}`, width),
    "interrupted answer": opencodeScreen(
      `  ┃\n  ┃  go\n  ┃\n\n${inside}\n\n     ▣  Build · Mock One · interrupted`, width),
    "answer without duration": opencodeScreen(
      `  ┃\n  ┃  go\n  ┃\n\n${inside}\n\n     ▣  Build · Mock One`, width),
    "prompt": opencodeScreen(`${prompt}\n\n     OK${mark}`, width),
    "aborted prompt": opencodeScreen(`     OK${mark}\n\n${prompt}\n\n     ▣  Build · Mock One`, width),
    "tool output": opencodeScreen(`  ┃  # cat\n${barred}\n  ┃\n\n     OK${mark}`, width),
    "draft": opencodeScreen(`  ┃\n  ┃  go\n  ┃\n\n     OK${mark}`, width, barred),
  };
}

describe("quotes are idle", () => {
  const drawings = { claude: claudeQuotes, opencode: opencodeQuotes };
  for (const backend of ["claude", "opencode"] as const) {
    for (const width of [40, 80, 200]) {
      test(`${backend} at ${width} columns`, () => {
        const wrong: string[] = [];
        for (const quote of QUOTES) {
          for (const [where, text] of Object.entries(drawings[backend](quote, width))) {
            if (where.startsWith("whole answer") && ALIKE.test(quote)) continue;
            const title = backend === "claude" ? "Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA" : "OC | x";
            const got = detect(builtInRules()[backend], { text, title }, NOW);
            if (got.verdict !== "idle") wrong.push(`${where}: ${quote} -> ${got.verdict} ${got.rule}`);
          }
        }
        expect(wrong).toEqual([]);
      });
    }
  }
});

describe("an answer that is nothing but an error", () => {
  const OWN: [string, string][] = [
    ["API Error: 400 messages.1.content.0: `thinking` cannot be modified", "fatal"], ["Prompt is too long", "fatal"],
    ["Please run /login · API Error: 403 forbidden", "blocked"], ["Credit balance too low", "blocked"],
    ["API Error: 400 This organization has been disabled.", "blocked"], ["API Error: 404 Not found", "blocked"],
  ];
  const drawn = (text: string, version: string, foot = "⏵⏵ auto mode on") =>
    claudeScreen(`❯ go\n\n${wrapped(text, 80, "  ", "● ")}\n\n✻ Baked for 0s · done 9:30 PM`, 80, "", foot)
      .replace("Claude Code", `Claude Code${version}`);
  const got = (text: string) => detect(builtInRules().claude, { text, title: "✳ Claude Code" }, NOW).verdict;
  for (const [text, verdict] of OWN) {
    test(text, () => {
      for (const version of ["2.1.250", "2.1.274", "2.1.322"]) expect(got(drawn(text, ` v${version}`))).toBe(verdict as never);
      for (const version of ["2.1.197", "2.1.236", "2.1.326", "2.1.332"]) expect(got(drawn(text, ` v${version}`))).toBe("idle");
      expect(got(drawn(text, ""))).toBe("unsure");
      expect(got(drawn(text, "", "⏸ manual mode on · ? for shortcuts · ← for agents"))).toBe(verdict as never);
    });
  }
  test("what a person's command prints is no turn; what may cure it, an interrupt or another error is newer", () => {
    const after = (more: string) => got(claudeScreen(`❯ go\n  ⎿  Invalid API key · Fix external API key\n\n✻ Baked for 0s\n\n${more}`, 80));
    for (const more of ["❯ /mcp\n  ⎿  No MCP servers loaded.\n     To add one, run it.", "❯ /context\n  ⎿  Context usage\n     ⛀ ⛁\n\n     14 skills", "! ls\n  ⎿  a\n     b",
      "❯ /model\n  ⎿  Kept model as Sonnet", "❯ /mcp\n  ⎿  None\n\n❯ /memory\n  ⎿  Closed memory"]) expect([more, after(more)]).toEqual([more, "blocked"]);
    for (const more of ["❯ /login\n  ⎿  Login successful", "❯ /model\n  ⎿  Set model to Opus", "❯ /clear\n  ⎿  (no content)", "❯ /review\n  ⎿  Interrupted · What should Claude do instead?",
      "❯ /review\n\n● OK", "❯ /review\n  ⎿  API Error: 529 Overloaded."]) expect([more, after(more)]).toEqual([more, "idle"]);
    expect(after("❯ /review\n  ⎿  Prompt is too long")).toBe("fatal");
  });
  test("right under a prompt it is the client's own in any version", () => {
    const text = claudeScreen("❯ go on with\n  the work\n  ⎿  Invalid API key · Fix external API key\n\n✻ Baked for 0s · done 9:30 PM", 80);
    expect(got(text)).toBe("blocked");
  });
  test("what passes by itself needs nobody", () => {
    for (const error of ["529 Overloaded.", "Repeated 529 Overloaded errors.", "500 Internal server error", "408 Request timed out",
      "Request rejected (429) · Rate limited.", "Connection error.", "Connection refused — a firewall may be blocking it (ECONNREFUSED)"]) {
      expect([error, got(claudeScreen(`❯ go\n\n● API Error: ${error}`, 80))]).toEqual([error, "idle"]);
    }
  });
});

test("Gemini: what a person's command prints is no turn; what may cure the error, and a newer answer, are", () => {
  const error = readFileSync(`${FIXTURES}/gemini/blocked-e401-200x50.txt`, "utf8");
  const after = (...lines: string[]) => {
    const text = error.replace(/\n(?=─{8}.*\n(?:.*\n){1,3}▄{8})/, `\n${lines.map((line) => (line.startsWith("> ") ? `${"▄".repeat(80)}\n ${line}\n${"▀".repeat(80)}` : line)).join("\n")}\n`);
    return detect(builtInRules().gemini, { text, title: "◇  Ready (x)" }, NOW).verdict;
  };
  expect([after("> /mcp", "No MCP servers configured."), after("> /permissions", "✕ Please provide a subcommand"), after("> /mcp", "None.", "> /tools", "  - Shell")]).toEqual(["blocked", "blocked", "blocked"]);
  expect([after("> /auth"), after("> go on", "✦ OK"), after("> /mine", "✦ OK"), after("> /mcp", "None.", "> go on", "ℹ Request cancelled.")]).toEqual(["idle", "idle", "idle", "idle"]);
});

test("opencode: a dialog in the middle of the pane is open, whatever is typed in it; one that an answer quotes is not", () => {
  const read = (text: string) => detect(builtInRules().opencode, { text, title: "OC | x" }, NOW).verdict;
  for (const size of ["80x24", "200x50"]) {
    const palette = readFileSync(`${FIXTURES}/opencode/blocked-v1834-command-palette-${size}.txt`, "utf8");
    expect(read(palette.replace("Search ", "switch "))).toBe("blocked");
    const quote = palette.split("\n").filter((line) => !/[┃╹▣]/.test(line)).map((line) => `     ${line}`).join("\n");
    expect(read(opencodeScreen(`${quote}\n\n     ▣  Build · Mock One · 4.7s`, 80))).toBe("idle");
  }
});

test("macOS draws another bullet: every capture says the same", () => {
  for (const { file, verdict } of results.filter((each) => each.file.startsWith("claude/"))) {
    const side = JSON.parse(readFileSync(`${FIXTURES}/${file.replace(/txt$/, "json")}`, "utf8"));
    const text = readFileSync(`${FIXTURES}/${file}`, "utf8").replaceAll("●", "⏺");
    expect([file, detect(builtInRules().claude, { text, title: side.title ?? "" }, Date.parse(side.at) || NOW).verdict])
      .toEqual([file, verdict.verdict]);
  }
});

describe("a client at its prompt", () => {
  const claude = (text: string, title = "✳ Claude Code") => detect(builtInRules().claude, { text, title }, NOW);
  test("what hides it is named: the client's own words in its box are no draft", () => {
    const look = readFileSync(`${FIXTURES}/claude/unsure-no-title-footer-cut-off.txt`, "utf8");
    const why = (box: string) => detect(builtInRules().claude, { text: look.replace(/^❯\s$/m, `❯\u00a0${box}`), title: "" }, NOW).why;
    expect(["", "Press up to edit queued messages", "half a thought"].map((box) => why(box).replace(" hides whether it is working", "")))
      .toEqual(["a narrow pane", "a narrow pane", "a draft"]);
  });
  test("a draft hides the word that Claude works: idle needs its title or a closed turn", () => {
    const draft = claudeScreen("❯ go\n\n● word0 of the answer", 80, "a draft");
    expect(claude(draft, "Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA").verdict).toBe("unsure");
    expect(claude(draft).verdict).toBe("idle");
    expect(claude(claudeScreen("❯ go\n\n● OK\n\n✻ Baked for 3s", 80, "a draft"), "").verdict).toBe("idle");
  });
  test("its box is needed: a dialog that nobody knows, a menu, a broken frame are unsure", () => {
    for (const text of ["● OK\n\n What now?\n   this\n   that", "❯ ", `${"─".repeat(80)}\n❯ `]) {
      expect([claude(text).verdict, claude(text).rule]).toEqual(["unsure", "none"]);
    }
  });
  test("what an operator's status line prints is not the client's", () => {
    for (const line of ["esc to interrupt · opus", "⚠ Usage limit reached", "⚠ Usage limit reached · resets 3pm", "Enter to confirm · Esc to cancel"]) {
      const text = claudeScreen("❯ go\n\n● OK", 80, "", `${line}\n  ⏸ manual mode on`);
      expect([line, claude(text).verdict]).toEqual([line, "idle"]);
      expect([line, claude(text, "◐ Claude Code").verdict]).toEqual([line, "active"]);
    }
  });
  test("a live limit footer does not outrank a busy title", () => {
    const text = claudeScreen("❯ go", 80, "", "⚠ Usage limit reached · limit resets 10:33pm\n  ⏸ manual mode on");
    expect([claude(text).verdict, claude(text, "◑ Claude Code").verdict]).toEqual(["limited", "active"]);
  });
  test("the wake-up that it has scheduled", () => {
    const text = claudeScreen("❯ go\n\n● ScheduleWakeup(in 1221s)\n  ⎿  Next wakeup scheduled for 19:45:00 (in 1221s).\n\n● I look again then.\n\n✻ Baked for 3s", 80);
    const wake = new Date(NOW).setHours(19, 45, 0, 0);
    const said = (now: number) => detect(builtInRules().claude, { text, title: "✳ x" }, now);
    expect([said(wake - 1000).verdict, said(wake - 1000).waitingUntil]).toEqual(["background", wake]);
    expect([said(wake + 60_000).verdict, said(wake + 60_000).waitingUntil]).toEqual(["idle", wake]);
    expect(detect(builtInRules().claude, { text: text.replace("✻ Baked", "❯ go on\n\n● OK\n\n✻ Baked"), title: "✳ x" }, wake - 1000).verdict).toBe("idle");
  });
});

describe("a typed client", () => {
  const typed = async (keys: string) => rulesFrom(`[backend.x]\nkind = "typed"\nbin = "x"\n${keys}`, "x");
  test("is at its prompt where its box stands in the last lines, or its ready mark", async () => {
    const box = await typed("box_re = '^› (?!\\d\\. )(?<text>.*)$'");
    expect(read(box, "said\n› half a thought\n  foot")).toEqual(["idle", "box_re", "plain"]);
    // the evidence is the box itself, not a message above it that begins alike
    expect(detect(box, { text: "› go on\nworking ...\n› ", title: "" }, 0).text).toBe("›");
    expect(read(box, "› an old prompt\nanswer\n\n Sure?\n› 1. Yes\n  2. No\n  3. Never\n\n Press enter")[0]).toBe("unsure");
    const ready = await typed("ready_re = 'Type your message'");
    expect(read(ready, "│ >   Type your message │")).toEqual(["idle", "ready_re", "screen"]);
    expect(read(ready, "│ Do you trust this folder? │")).toEqual(["unsure", "none", "screen"]);
  });
  test("P38: rules look at the regions around its described box", async () => {
    const rules = await typed(`box_re = '^> (?<text>.*)$'\nempty_re = '^say something'\n` + ([["event", "limited", "^! limit", true], ["box", "blocked", "^stuck$"], ["foot", "active", "^busy"], ["dialog", "blocked", "^Sure\\?"]] as const)
      .map(([where, verdict, re, whole]) => `[[backend.x.rule]]\nname = "${where}"\nverdict = "${verdict}"\nwhere = "${where}"\nre = '${re}'\n${whole ? "whole = true\n" : ""}`).join(""));
    const is = (text: string, title = "") => detect(rules, { text, title }, NOW).rule;
    const screen = (above: string, box = "say something", foot = "model x") => `${above}\n\n> ${box}\n${foot}\n`;
    expect(is(screen("! limit reached,\nagain at 9:16 PM\n\n  a hint"))).toBe("event");
    expect(detect(rules, { text: screen("! limit reached,\nfor you,\n\n  again at 9:16 PM"), title: "" }, NOW).limit!.resetAt).toBe(at("2026-11-22T21:16:00Z"));
    expect([is(screen("! limit\n\n* answered")), is(screen("* it says\n\n  ! limit")), is(screen("  ! limit"))]).toEqual(["box_re", "box_re", "box_re"]);
    expect([is(screen("* ok", "stuck")), is(screen("stuck")), is(screen("* ok", "say something else"))]).toEqual(["box", "box_re", "box_re"]);
    expect([is(screen("* ok", "x", "busy")), is(screen("busy"))]).toEqual(["foot", "box_re"]);
    expect([is("* ok\n\nSure?\n1. yes"), is(screen("Sure?")), is("busy\n! limit")]).toEqual(["none", "box_re", "none"]);
    expect(is("Sure?\n1. yes")).toBe("dialog");
  });
  test("P38: a box like Claude Code's is no reason to read another mark than is drawn", async () => {
    const rule = "─".repeat(40);
    const rules = await typed("ready_re = '(?m)^> '\n[[backend.x.rule]]\nname = \"asked\"\nverdict = \"active\"\nre = '(?m)^> go$'\n");
    expect(read(rules, `> go\n\n${rule}\n> type\n${rule}\n foot`)).toEqual(["active", "asked", "screen"]);
    expect(read(rules, `ok\n\n${rule}\n> type\n${rule}\n foot`)).toEqual(["idle", "ready_re", "screen"]);
  });
  test("that nobody described is unsure by its screen alone, and its marker counts", async () => {
    const rules = await typed("");
    expect(read(rules, "some text\n> ")[0]).toBe("unsure");
    expect(read(rules, "WAITING-UNTIL: 2026-11-22T21:00:00Z\n> ")[0]).toBe("waiting");
    expect(read(rules, "WAITING-UNTIL: 2026-11-22T10:00:00Z\n> ")[0]).toBe("unsure");
  });
});

// ── the tables of agents.toml for other clients ──

describe.each(CLIENTS)("the table for %s", (client) => {
  const folder = `${FIXTURES}/${client}`;
  const captures = readdirSync(folder).filter((file) => file.endsWith(".txt") && !file.startsWith("unsure-killed")).sort();
  test.each(captures)("P38: %s", async (file) => {
    const rules = await rulesFrom(tableOf(client), client);
    const side = JSON.parse(readFileSync(`${folder}/${file.replace(/txt$/, "json")}`, "utf8"));
    const look = { text: readFileSync(`${folder}/${file}`, "utf8"), title: side.title ?? "" };
    const got = detect(rules, look, Date.parse(side.at));
    expect<unknown>([got.verdict, got.rule]).toEqual([file.split("-")[0], got.rule]);
    if (side.reset !== undefined) expect(got.limit!.resetAt).toBe(at(side.reset));
  });
  test("without a description no screen of it is idle by what it looks like", () => {
    const idle = captures.filter((file) => detect(builtInRules().typed, { text: readFileSync(`${folder}/${file}`, "utf8"), title: "" }, NOW).verdict === "idle");
    expect(idle).toEqual([]);
  });
  test("without its title nothing that needs somebody is taken for idle", async () => {
    const rules = await rulesFrom(tableOf(client), client);
    const wrong = captures.map((file) => {
      const text = readFileSync(`${folder}/${file}`, "utf8");
      return [file, detect(rules, { text, title: "" }, NOW).verdict] as const;
    }).filter(([file, verdict]) => verdict === "idle" && /^(?:blocked|fatal|limited)-/.test(file));
    expect(wrong).toEqual([]);
  });
  test("what stands unsent in its box is read, a placeholder is nothing, a dialog has no box", async () => {
    const backend = await backendFrom(tableOf(client), client);
    const read = (file: string) => composerText("typed", readFileSync(`${folder}/${file}`, "utf8"), undefined, backend);
    const drafts = captures.filter((file) => /^(?:idle|waiting)-draft-80x24/.test(file));
    expect(drafts.map(read)).toEqual(drafts.map(() => "half a thought"));
    expect(drafts.length).toBe(1);
    const fresh = captures.filter((file) => /^idle-(?:fresh|after-stream|interrupted)/.test(file));
    expect(fresh.map(read)).toEqual(fresh.map(() => ""));
    const dialogs = captures.filter((file) => /^blocked-.*(?:approval|picker|question|trust)/.test(file));
    expect(dialogs.map(read)).toEqual(dialogs.map(() => null));
  });
});

test("the answers that agents.toml offers for other clients fit the dialogs they are for, and no other", async () => {
  const given = (client: string) => tableOf(client).replace(/^# (?=\[\[backend\.\w+\.answer\]\]|re = |keys = )/gm, "");
  for (const [client, fits] of [["codex", /^blocked-(?:near-limit|dialog-limit)/]] as const) {
    const [answer] = (await backendFrom(given(client), client)).answer;
    const files = readdirSync(`${FIXTURES}/${client}`).filter((file) => /\dx\d+\.txt$/.test(file));
    const tail = (file: string) => readFileSync(`${FIXTURES}/${client}/${file}`, "utf8").split("\n").filter((line) => line.trim()).slice(-8).join("\n");
    expect(files.filter((file) => parsePattern(answer!.re, "m").test(tail(file)))).toEqual(files.filter((file) => fits.test(file)));
  }
});

const CODEX_FOOT = "\n\n› Ask Codex to do anything\n\n  gpt-6-astra high · 97% left · ~/work/repo\n  ? for shortcuts\n";
const GEMINI_FOOT = `\n\n${" ".repeat(50)}? for shortcuts\n${"─".repeat(80)}\n Shift+Tab to accept edits\n${"▄".repeat(80)}\n >   Type your message or @path/to/file\n${"▀".repeat(80)}\n workspace (/directory)\n ~/work\n`;
const OTHERS_QUOTES = [...QUOTES,
  "■ You’ve hit your usage limit. Upgrade to Pro or try again at 9:16 PM.", "■ unexpected status 401 Unauthorized: no",
  '■ {"error":{"message":"bad"}}', "Working (3s • esc to interrupt)", "• Reconnecting to server… (9s)",
  "Press enter to confirm or esc to cancel", "› 1. Yes, proceed (y)\n  2. No\n\nenter select · esc back",
  "ERROR: No saved session found with ID 1", "⠧ Thinking... (esc to cancel, 2s)", "✕ [API Error: You have exhausted your daily quota on this model.]",
  '✕ [API Error: {"error":{"code":400,"message":"too long"}}]', "│ Usage limit reached for all Pro models.\n│ ● 1. Keep trying\n╰────────╯",
  "❯ #1    │ 2    │ 17s  │ hello", "● 1. Allow once"];

/** Every place of a screen that an agent or a person fills, as Codex and Gemini draw it. */
function otherQuotes(quote: string, width: number): [string, string, string][] {
  const answer = (first: string) => wrapped(quote, width, "  ", first);
  const inside = wrapped(quote, width, "  ");
  const tool = wrapped(quote, width, "    ", "  └ ");
  const worked = "\n\n  Worked for 3s • 20:58";
  const frame = (text: string) => `${"▄".repeat(80)}\n${text}\n${"▀".repeat(80)}`;
  return [
    ["codex", "answer", `› go\n\n${answer("• ")}${worked}${CODEX_FOOT}`],
    ["codex", "end of an answer", `› go\n\n• The log says:\n\n${inside}${worked}${CODEX_FOOT}`],
    ["codex", "prompt", `${answer("› ")}\n\n• OK${worked}${CODEX_FOOT}`],
    ["codex", "tool output", `› go\n\n• Ran cat it\n${tool}\n\n• Done.${worked}${CODEX_FOOT}`],
    ["codex", "draft", `› go\n\n• OK${worked}${CODEX_FOOT.replace("Ask Codex to do anything", `see:\n${inside}`)}`],
    ["gemini", "answer", `${frame(" > go")}\n${answer("✦ ")}${GEMINI_FOOT}`],
    ["gemini", "end of an answer", `${frame(" > go")}\n✦ The log says:\n\n${inside}${GEMINI_FOOT}`],
    ["gemini", "prompt", `${frame(wrapped(quote, width, "   ", " > "))}\n✦ OK${GEMINI_FOOT}`],
    ["gemini", "draft", `${frame(" > go")}\n✦ OK${GEMINI_FOOT.replace("  Type your message or @path/to/file", `see:\n${wrapped(quote, width, "   ")}`)}`],
  ];
}

test.each(["codex", "gemini"])("%s: nobody's words are taken for the client's own", async (client) => {
  const rules = await rulesFrom(tableOf(client), client);
  const wrong = OTHERS_QUOTES.flatMap((quote) => [60, 120, 200].flatMap((width) => otherQuotes(quote, width))
    .filter(([of, , text]) => of === client && detect(rules, { text, title: "" }, NOW).verdict !== "idle")
    .map(([, place, text]) => [place, quote, detect(rules, { text, title: "" }, NOW).rule]));
  expect(wrong).toEqual([]);
});

const SHELL = "me@host:~$ ";
const quota = (error: string) => `${"▄".repeat(80)}\n > go\n${"▀".repeat(80)}\n✕ [API Error: ${error}]\n\nℹ This request failed.${GEMINI_FOOT}`;
const menu = (second: string) => `╭${"─".repeat(70)}╮\n│ Usage limit reached for all Pro models.${" ".repeat(30)}│\n│${" ".repeat(70)}│\n│ ● 1. Keep trying${" ".repeat(53)}│\n│   2. ${second.padEnd(64)}│\n╰${"─".repeat(70)}╯\n`;
/** What no capture shows: client, verdict, rule, screen. */
const DRAWN: [client: string, verdict: string, rule: string, text: string, title?: string][] = [
  ["codex", "fatal", "no session", "ERROR: No saved session found with ID 0199\n"],
  ["codex", "unsure", "wrapper", "EXITED rc=1\n"],
  ["codex", "unsure", "shell", `• OK${CODEX_FOOT}${SHELL}`],
  ["codex", "unsure", "server lost", `› go\n\n◦ Reconnecting to server… (9s)${CODEX_FOOT}`],
  ["codex", "blocked", "login", "\n  Welcome to Codex, OpenAI's command-line coding agent\n\n> 1. Sign in with ChatGPT\n\n  ⠿⠿  Press enter to continue\n"],
  ["codex", "blocked", "dialog", "  Enter session:\n\n  enter resume   ^a archive   esc exit\n  ^c exit   tab focus\n  ←/→ option\n ^o comfy   ^t preview\n"],
  ["codex", "blocked", "dialog choice", "  Meet another model\n\n› 1. Take it\n  2. Leave it\n\n  Use ↑/↓ to move\n"],
  ["codex", "idle", "box_re", `› go\n\n• › 1. Try new model\n\n  Press enter to confirm${CODEX_FOOT}`],
  ["codex", "active", "working", `› go\n\n◦ Working (1m 3s • esc to interrupt)\n  └ Making room${CODEX_FOOT}`],
  ["gemini", "fatal", "no session", 'Error resuming session: Invalid session identifier "x".\n'],
  ["gemini", "unsure", "shell", `✦ OK${GEMINI_FOOT}${SHELL}`],
  ["gemini", "active", "spinner", `✦ OK${GEMINI_FOOT.replace(/ {50}/, " ⠧ Thinking... (esc to cancel, 1m 2s)  ")}`],
  ["gemini", "active", "title", `✦ OK${GEMINI_FOOT}`, "✦  Working… (x)"],
  ["gemini", "limited", "limit menu", menu("Stop")],
  ["gemini", "limited", "quota", quota("You have exhausted your daily quota on this model.")],
  ["gemini", "idle", "box_re", quota('{"error":{"code":503,"message":"The model is overloaded."}}')],
  ["gemini", "blocked", "error", quota("This account is suspended.")],
  ["gemini", "blocked", "error cut off", `  credentials.","status":"UNAUTHENTICATED","details":[]}}]\n\n\nℹ This request failed. Press F12 for diagnostics, or run\n  /settings${GEMINI_FOOT}`],
  ["gemini", "blocked", "error cut off", `  key.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]\n\nℹ This request failed. Press F12${GEMINI_FOOT}`],
  ["gemini", "blocked", "error cut off", `  credentials.","status":"UNAUTHENTICATED"}}]\n\nℹ This request failed. Press F12${GEMINI_FOOT.replace("  Type your message or @path/to/file", '"INVALID_ARGUMENT" is what AI Studio says')}`],
  ["gemini", "idle", "box_re", `  later.","status":"UNAVAILABLE","details":[]}}]\n\nℹ This request failed. Press F12${GEMINI_FOOT}`],
  ["gemini", "idle", "box_re", `  x]\n\nℹ This request failed. Press F12\n${"▄".repeat(80)}\n > go on\n${"▀".repeat(80)}\n✦ OK${GEMINI_FOOT}`],
];

test("what no capture shows: each such rule for Codex and Gemini is exercised", () => {
  for (const [client, verdict, rule, text, title = ""] of DRAWN) {
    const got = detect(builtInRules()[client as "codex"], { text, title }, NOW);
    expect([rule, got.verdict, got.rule]).toEqual([rule, verdict, rule]);
  }
  const after = detect(builtInRules().gemini, { text: quota("You have exhausted your capacity on this model. Your quota will reset after 3h12m5s."), title: "" }, NOW);
  expect(after.limit!.resetAt).toBe(NOW + (3 * 3600 + 12 * 60 + 5) * 1000);
});

test("Codex: a limit names its time at every width, and is over once somebody was answered", async () => {
  const rules = await rulesFrom(tableOf("codex"), "codex");
  for (const width of [42, 60, 80, 200]) for (const [when, want] of [["9:16 PM", "2026-11-22T21:16Z"], ["Nov 26th, 2026 1:18 AM", "2026-11-26T01:18Z"]]) {
    const said = wrapped(`■ You’ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro), visit https://chatgpt.com/settings/usage to purchase more credits or try again at ${when}.`, width, "");
    const got = detect(rules, { text: `• Done.\n\n› go\n\n${said}\n${" ".repeat(width - 20)}⚠ 5h limit: <1% left${CODEX_FOOT}`, title: "" }, NOW);
    expect([got.verdict, width, got.limit?.resetAt]).toEqual(["limited", width, at(want)]);
    expect(detect(rules, { text: `${said}\n\n› go\n\n• OK${CODEX_FOOT}`, title: "" }, NOW).verdict).toBe("idle");
  }
});

test("Claude Code: what it says of its login, its network and its images, under either of its marks", () => {
  const read = (said: string, foot = "  ⏵⏵ auto mode on (shift+tab to cycle)") => detect(builtInRules().claude,
    { text: ` ▐▛███▜▌   Claude Code v2.1.332\n\n❯ go\n\n${said}\n\n✻ Worked for 3s\n\n${"─".repeat(80)}\n❯ \n${"─".repeat(80)}\n${foot}\n`, title: "✳ Claude Code" }, NOW).verdict;
  for (const [said, verdict] of [
    ["Failed to authenticate. API Error: 401 {\"type\":\"error\"}", "blocked"], ["Failed to authenticate. API Error: 403 Request not allowed", "blocked"],
    ["API Error: Unable to connect to API (ECONNRESET)", "idle"], ["API Error: Unable to connect to API due to poor internet connection", "idle"],
    ["API Error: Unable to connect to API: Self-signed certificate detected. Check your proxy", "blocked"],
    ["API Error: 400 messages.57.content.1.image.source.base64.data: dimensions exceed max allowed size: 8000 pixels", "fatal"],
  ] as const) expect([said, read(`● ${said}`), read(`  ⎿  ${said}`)]).toEqual([said, verdict, verdict]);
  expect(read("  ⎿  You’ve hit your session limit · resets 10:30pm (UTC)")).toBe("limited");
  for (const foot of ["2 local agents · ↓ to manage", "1 shell, 1 monitor · ↓ to manage", "1 local agent"]) {
    expect([foot, read("● OK", `  ⏵⏵ auto mode on · ${foot}`)]).toEqual([foot, "background"]);
  }
});

test("Codex: an error that no rule knows needs a person, one that passes by itself nobody", async () => {
  const rules = await rulesFrom(tableOf("codex"), "codex");
  const read = (error: string) => detect(rules, { text: `› go\n\n■ ${error}${CODEX_FOOT}`, title: "" }, NOW).verdict;
  expect(["Your account is on fire", "unexpected status 418 I'm a teapot"].map(read)).toEqual(["blocked", "blocked"]);
  for (const passing of ["Conversation interrupted - use /feedback", "interrupted (Ctrl-C). Something went wrong? Hit `/feedback`", "Policy-restricted capacity is unavailable. Please try again later.",
    "stream disconnected before completion: reset",
    "Connection failed: error sending request for url (https://example.invalid/responses)", "request timed out",
    "Error while reading the server response: error decoding response body, request id: 1", "unexpected status 502 Bad Gateway: Unknown error"]) {
    expect([passing, read(passing)]).toEqual([passing, "idle"]);
  }
  expect(read('{\n  "error": {\n    "message": "Unsupported value"\n  }\n}')).toBe("fatal");
});

test("P38: a narrow pane breaks the lines below Codex's box, and those of a draft in it", () => {
  const { box } = builtInRules().codex.at(-1)!;
  const foot = (wide: string, ...rest: string[]) => ["", wide, ...rest].join("\n");
  const FEET = [foot("  GPT-6-Sol default Fast · /work/repo · Do the", "  mock job", "  ← for agents   ⚠ 1 warning · f2 to view"),
    foot("  GPT-6-Sol default Fast · /work/", "  repo/deep · Do the mock", "  job of the day", "  ← for agents · ? for", "  shortcuts"),
    foot("  GPT-6-Astra extra high Fast ·", "  ~/work/repo", "  ? for shortcuts")];
  for (const below of FEET) for (const [draft, text] of [["Ask Codex to do anything", ""], ["half a\n  thought", "half a\n  thought"]] as const) {
    const screen = `› go\n\n• OK\n\n  Worked for 3s\n\n› ${draft}\n${below}\n`;
    expect([detect(builtInRules().codex, { text: screen, title: "" }, NOW).verdict, composerText("codex", screen, undefined, box)]).toEqual(["idle", text]);
    for (const after of ["host% ", "❯ ", "  Browsing · esc back"]) expect(detect(builtInRules().codex, { text: `${screen}${after}`, title: "" }, NOW).verdict).toBe("unsure");
  }
});

test("what ends a client leaves no box behind: a shell below it is no prompt", async () => {
  for (const [client, foot] of [["codex", CODEX_FOOT], ["gemini", GEMINI_FOOT]] as const) {
    const rules = await rulesFrom(tableOf(client), client);
    expect(detect(rules, { text: `• OK${foot}`, title: "" }, NOW).verdict).toBe("idle");
    expect(detect(rules, { text: `• OK${foot}bye\nme@host:~$ `, title: "" }, NOW).verdict).toBe("unsure");
  }
});

// ── live banners: every width, older news above ──

const BANNERS: [string, string, string | null][] = [
  ["You've hit your 5-hour limit · resets 10:33pm (UTC)", "5h", "2026-11-22T22:33:00Z"],
  ["You've hit your session limit · resets 9:10pm (Europe/Paris)", "5h", "2026-11-22T20:10:00Z"],
  ["You've hit your weekly limit · resets Nov 25, 7:34pm (UTC)", "weekly", "2026-11-25T19:34:00Z"],
  ["You've hit your Opus limit · resets Nov 27, 7:34pm (UTC)", "model", "2026-11-27T19:34:00Z"],
  ["You've hit your fast limit · resets 9pm (UTC)", "model", "2026-11-22T21:00:00Z"],
  ["You've reached your Fable 5 limit. Run /usage-credits to go on", "model", null],
  ["You've hit your monthly limit · resets Dec 1 at 12:00am (UTC)", "other", "2026-12-01T00:00:00Z"],
  ["You've hit your limit · resets 2am (Europe/Paris)", "other", "2026-11-23T01:00:00Z"],
  ["5-hour limit reached ∙ resets 11pm (UTC)", "5h", "2026-11-22T23:00:00Z"],
  ["Claude usage limit reached. Your limit will reset at 3pm (America/Bogota).", "other",
    "2026-11-22T20:00:00Z"],
  ["Claude AI usage limit reached|1795390200", "other", "2026-11-22T23:30:00Z"],
  ["You're out of extra usage · resets 11:30am (Asia/Colombo)", "other", "2026-11-23T06:00:00Z"],
  ["You're out of usage credits · resets Dec 1, 7:31pm (UTC)", "other", "2026-12-01T19:31:00Z"],
  ["You've hit your org's monthly spend limit · ask your admin to raise it · your weekly limit resets Nov 29, 7:32pm (UTC)", "weekly", "2026-11-29T19:32:00Z"],
];
const UNPAID = [
  "You've hit your monthly spend limit.", "You're out of usage credits", "Credit balance too low",
  "Your org is out of usage · ask your admin", "You've hit your org's monthly limit",
  "Credit balance is too low", "You're out of extra usage", "You've hit your usage credit limit",
];
const banner = (text: string, width: number, title = "✳ Claude Code") => detect(
  builtInRules().claude,
  { text: claudeScreen(`❯ go\n${wrapped(text, width, "     ", "  ⎿  ")}`, width), title }, NOW);

describe("live banners", () => {
  for (const width of [40, 80, 200]) {
    for (const [text, kind, reset] of BANNERS) {
      test(`${width}: ${text}`, () => {
        const got = banner(text, width);
        expect([got.verdict, got.limit?.class, got.limit?.resetAt ?? null])
          .toEqual(["limited", kind as never, at(reset)]);
      });
    }
    for (const text of UNPAID) {
      test(`${width}: ${text}`, () => {
        const got = banner(text, width);
        expect([got.verdict, got.limit?.class]).toEqual(["blocked", "money"]);
      });
    }
  }
  for (const text of [
    "API Error: Rate limit reached", "API Error: Request rejected (429) · Rate limited.",
    "Server is temporarily limiting requests (not your usage limit)",
    "API Error: Repeated 529 Overloaded errors.", "You've used 90% of your weekly limit",
  ]) test(`no limit: ${text}`, () => expect(banner(text, 80).verdict).toBe("idle"));

  test("lifted by a prompt, an answer or a finished turn below it", () => {
    const limit = "❯ go\n  ⎿  You've hit your weekly limit · resets Nov 25, 7:34pm (UTC)\n\n";
    for (const news of ["❯ again", "● OK\n\n✻ Baked for 1s · done 7:36 PM", "❯ /compact\n  ⎿  Compacted"]) {
      const text = claudeScreen(limit + news, 80);
      expect(detect(builtInRules().claude, { text, title: "" }, NOW).verdict).toBe("idle");
    }
  });
  test("an operator's rule over the whole screen", () => {
    const rules: Rule[] = [{ name: "limit_re", verdict: "limited", where: "screen", re: /usage limit/gi }];
    const text = "pane 3 resets 1:00am\n! You've hit your usage limit.\nTry again in 4 days 20 hours 9 minutes.\n";
    for (const _ of [1, 2]) {
      const got = detect(rules, { text, title: "" }, NOW);
      expect([got.verdict, got.limit?.resetAt]).toEqual(["limited", NOW + (4 * 1440 + 1209) * 60_000]);
    }
  });
});

// ── clocks ──

const ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Calcutta", "Australia/Lord_Howe",
  "America/Recife", "Pacific/Auckland"];
const NAMES = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

interface Shown { year: number; month: number; day: number; hour: number; minute: number; weekday: string }
const clocks = new Map(ZONES.map((timeZone) => [timeZone, new Intl.DateTimeFormat("en-US", {
  timeZone, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric",
  minute: "numeric", weekday: "short" })]));
function shownAt(epoch: number, zone: string): Shown {
  const parts = Object.fromEntries(clocks.get(zone)!.formatToParts(epoch)
    .map((part) => [part.type, part.value]));
  const [year, month, day, hour, minute] = ["year", "month", "day", "hour", "minute"]
    .map((part) => Number(parts[part])) as [number, number, number, number, number];
  return { year, month, day, hour, minute, weekday: parts.weekday! };
}

// Walk the real clock minute by minute until it shows what the banner says.
function bruteForce(zone: string, now: number, want: Partial<Shown> & { hour: number }): number {
  const keys = Object.keys(want) as (keyof Shown)[];
  let epoch = Math.floor(now / 60_000) * 60_000 + 60_000;
  for (;; epoch += 60_000) {
    const shown = shownAt(epoch, zone);
    if (keys.every((key) => shown[key] === want[key])) return epoch;
    // Far from the wanted hour or minute one may stride: no zone shifts by more than an hour, or by less than half of one.
    if (Math.abs(shown.hour - want.hour) > 2 && Math.abs(shown.hour - want.hour) < 22) epoch += 59 * 60_000;
    else if (want.minute !== undefined && Math.abs(shown.minute - want.minute) > 2 && Math.abs(shown.minute - want.minute) < 58) epoch += 60_000;
  }
}

const clock = ({ hour, minute }: Shown, bare: boolean) => {
  const half = hour < 12 ? "am" : "pm";
  return `${hour % 12 || 12}${bare ? "" : `:${String(minute).padStart(2, "0")}`}${half}`;
};

describe("200 banners in seven zones", () => {
  let seed = 20261122;
  const random = (below: number) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor(seed / 65536) % below;
  };
  const starts = ["2026-03-08T05:30:00Z", "2026-03-29T00:10:00Z", "2026-10-25T00:20:00Z",
    "2026-11-01T04:40:00Z", "2026-12-31T20:15:00Z", "2026-04-04T13:50:00Z", "2026-10-03T14:10:00Z",
    "2026-09-26T12:40:00Z", "2026-06-15T11:11:00Z", "2026-12-31T10:59:30Z"];
  for (let count = 0; count < 200; count++) {
    const zone = ZONES[count % 7]!;
    const now = Date.parse(starts[random(starts.length)]!) + random(90) * 60_000;
    const kind = count % 4;
    const target = now + (kind === 0 ? 1 + random(300) : kind === 3 ? 1500 + random(8000) : 1 + random(1438)) * 60_000;
    const shown = shownAt(target, zone);
    const bare = kind === 1;
    if (bare) shown.minute = 0;
    const zoned = `(${zone})`;
    const [text, want]: [string, Parameters<typeof bruteForce>[2]] = kind === 3
      ? [`resets ${NAMES[shown.month - 1]} ${shown.day}, ${clock(shown, false)} ${zoned}`,
        { month: shown.month, day: shown.day, hour: shown.hour, minute: shown.minute }]
      : kind === 2
        ? [`resets ${String(shown.hour).padStart(2, "0")}:${String(shown.minute).padStart(2, "0")} ${zoned}`,
          { hour: shown.hour, minute: shown.minute }]
        : [`resets ${clock(shown, bare)} ${zoned}`, { hour: shown.hour, minute: shown.minute }];
    test(`${count}: ${new Date(now).toISOString()} ${text}`, () => {
      const got = parseResetEpoch(`You've hit your limit · ${text}`, now);
      expect(got && new Date(got).toISOString()).toBe(new Date(bruteForce(zone, now, want)).toISOString());
    });
  }
});

describe("reset forms", () => {
  const forms: [string, string | null][] = [
    ["resets 10:33pm (UTC)", "2026-11-22T22:33"], ["resets 9pm", "2026-11-22T21:00"],
    ["resets at 3pm", "2026-11-23T15:00"], ["reset at 3pm (America/Bogota).", "2026-11-22T20:00"],
    ["resets 22:33", "2026-11-22T22:33"], ["resets Nov 25, 7:34pm (UTC)", "2026-11-25T19:34"],
    ["resets Apr 23 at 4pm (America/Recife)", "2027-04-23T19:00"],
    ["resets Jul 4 at 12:30am (Asia/Calcutta)", "2027-07-03T19:00"],
    ["resets Mon 12:00am", "2026-11-23T00:00"], ["resets Sun 12:00am", "2026-11-29T00:00"],
    ["or try again at Feb 23rd, 2026 9:01 PM.", "2026-02-23T21:01"],
    ["resets Jan 2, 2027, 7am (UTC)", "2027-01-02T07:00"], ["try again at 3:51 PM.", "2026-11-23T15:51"],
    ["Claude AI usage limit reached|1750708800", "2025-06-23T20:00"],
    ["resets in 2h5m", "2026-11-22T21:35"], ["retrying in 2h5m attempt #4", "2026-11-22T21:35"],
    ["Try again in 4 days 20 hours 9 minutes.", "2026-11-27T15:39"],
    ["Refreshes in 6 days and 18 hours", "2026-11-29T13:30"],
    ["Continuing automatically at 10:33pm", "2026-11-22T22:33"],
    ["set to continue automatically at 10:33pm", "2026-11-22T22:33"],
    ["limit resets 10:33pm", "2026-11-22T22:33"], ["resets Nov 22, 7pm (UTC)", "2026-11-22T19:00"],
    ["resets Nov 20, 7pm (UTC)", "2027-11-20T19:00"], ["resets 12am", "2026-11-23T00:00"],
    ["resets 12pm", "2026-11-23T12:00"], ["5-hour limit reached ∙ resets 12:20am", "2026-11-23T00:20"],
    ["5-hour limit reached ∙ resets 7:29pm", "2026-11-22T19:29"],
    ["limit reached ∙ resets 7:29pm", "2026-11-22T19:29"], ["limit reached ∙ resets 7:28pm", "2026-11-23T19:28"],
    ["or try again at 7:29 PM.", "2026-11-22T19:29"], ["weekly limit reached ∙ resets 7:29pm (UTC)", "2026-11-22T19:29"],
    ["resets in: 3 hours", "2026-11-22T22:30"], ["Your quota will reset after 3h12m5s.", "2026-11-22T22:42"],
    ["resets in 50 minutes, 59 seconds", "2026-11-22T20:20"], ["resets in 90 seconds", "2026-11-22T19:31"],
    ["resets 4:05 AM PDT", "2026-11-23T11:05"], ["resets at 11:05 PM UTC", "2026-11-22T23:05"],
    ["try again at 11:05 PM (CET)", "2026-11-22T22:05"], ["resets Nov 25, 2026 at 7:34 pm EST", "2026-11-26T00:34"],
    ["resets Nov 25, 7:34pm IST", "2026-11-25T14:04"], ["resets 9pm AND then", "2026-11-22T21:00"],
    ["resets 3pm (Mars/Olympus)", "2026-11-23T15:00"], ["Access resets at 9:45 PM GMT+1.", "2026-11-22T20:45"],
    ["Access resets at 1:45 AM GMT+5:30.", "2026-11-22T20:15"], ["Access resets at 6:45 PM GMT-3.", "2026-11-22T21:45"],
    ["resets 11pm UTC+2", "2026-11-22T21:00"], ["resets 22:45 +0200", "2026-11-22T20:45"], ["resets 11pm (GMT+2)", "2026-11-22T21:00"],
    ["resets 11pm (Etc/GMT+3)", "2026-11-23T02:00"], ["resets 11pm - 5 of 6 used", "2026-11-22T23:00"],
    ["You've hit your monthly spend limit.", null], ["git reset 5f2a", null], ["reset 3 rows", null],
    ["resets 25:00", null], ["resets 13pm", null], ["Try again later.", null],
    ["retrying in 2s attempt #1", null], ["opencode 1.18.33", null],
  ];
  for (const [text, iso] of forms) {
    test(text, () => {
      const got = parseResetEpoch(text, NOW, "UTC");
      expect(got && new Date(got).toISOString().slice(0, 16)).toBe(iso);
    });
  }
  test("what has just passed is not tomorrow, across midnight too", () => {
    const midnight = Date.parse("2026-11-23T00:00:20Z");
    expect(parseResetEpoch("resets 11:59pm (UTC)", midnight)).toBe(Date.parse("2026-11-22T23:59Z"));
    expect(parseResetEpoch("try again at 9:16 PM", Date.parse("2026-11-25T21:16:34Z"), "UTC")).toBe(Date.parse("2026-11-25T21:16Z"));
    for (const seen of ["08:00", "21:16", "23:50"]) {
      const banner = "■ You’ve hit your usage limit. Visit https://chatgpt.com or try again at 9:16 PM.";
      expect(parseResetEpoch(banner, Date.parse(`2026-11-25T${seen}Z`), "UTC")).toBe(Date.parse("2026-11-25T21:16Z"));
    }
    expect(parseResetEpoch("resets 12am (UTC)", midnight)).toBe(Date.parse("2026-11-23T00:00Z"));
  });
  test("New Year's Eve", () => {
    const eve = Date.parse("2026-12-31T22:30:00Z");
    expect(parseResetEpoch("resets Jan 2, 7am (UTC)", eve)).toBe(Date.parse("2027-01-02T07:00Z"));
    expect(parseResetEpoch("resets 2am (UTC)", eve)).toBe(Date.parse("2027-01-01T02:00Z"));
    const after = Date.parse("2027-01-01T00:05:00Z");
    expect(parseResetEpoch("resets Dec 31, 11pm (UTC)", after)).toBe(Date.parse("2026-12-31T23:00Z"));
  });
  test("the hour that is skipped, and the one that comes twice", () => {
    const spring = Date.parse("2026-03-08T05:00:00Z");
    expect(parseResetEpoch("resets 2:30am (America/New_York)", spring)).toBe(Date.parse("2026-03-08T07:30Z"));
    for (const [now, want] of [["05:00", "05:30"], ["05:45", "06:30"]] as const) {
      expect(parseResetEpoch("resets 1:30am (America/New_York)", Date.parse(`2026-11-01T${now}Z`)))
        .toBe(Date.parse(`2026-11-01T${want}Z`));
    }
  });
});

// ── markers and the box ──

test("WAITING-UNTIL", () => {
  const iso = "2026-11-22T21:00:00Z";
  const ms = Date.parse(iso);
  for (const line of [`● WAITING-UNTIL: ${iso}`, `  WAITING-UNTIL: ${iso}.`, `     - WAITING-UNTIL: ${iso})`,
    `  **WAITING-UNTIL: ${iso}**`, `  \`WAITING-UNTIL: ${iso}\``, `> WAITING-UNTIL: \`${iso}\`,`,
    `● WAITING-UNTIL: 2026-11-22T10:00:00Z\n\n● WAITING-UNTIL: ${iso}\n\n  footer`]) {
    expect(parseWaitingUntil(line)).toBe(ms);
  }
  for (const line of [`❯ WAITING-UNTIL: ${iso}`, `❯ end with\n  WAITING-UNTIL: ${iso}`, "no marker",
    `  ┃  WAITING-UNTIL: ${iso}`, `● I print WAITING-UNTIL: ${iso}`, "● WAITING-UNTIL: <iso>",
    `● Bash(cat)\n  ⎿  x\n     WAITING-UNTIL: ${iso}`, "  WAITING-UNTIL: soon"]) {
    expect(parseWaitingUntil(line)).toBeNull();
  }
});

test("the marker counts as long as its turn is the last one", () => {
  const iso = "2026-11-22T21:00:00Z";
  const verdict = (kind: "claude" | "opencode", text: string) =>
    detect(builtInRules()[kind], { text, title: "" }, NOW).verdict;
  const said = `❯ go\n\n● WAITING-UNTIL: ${iso}\n\n✻ Baked for 3s · done 7:20 PM`;
  const newer = "\n\n❯ go on\n\n● OK\n\n✻ Baked for 3s · done 7:26 PM";
  expect(verdict("claude", claudeScreen(said, 80))).toBe("waiting");
  expect(verdict("claude", claudeScreen(said, 80, "a draft"))).toBe("waiting");
  expect(verdict("claude", claudeScreen(said + newer, 80))).toBe("idle");
  expect(verdict("claude", claudeScreen(`${said}${newer}\n\n${said}`, 80))).toBe("waiting");
  const turn = (text: string) => `  ┃\n  ┃  go\n  ┃\n\n     ${text}\n\n     ▣  Build · Mock One · 4.7s\n\n`;
  const waits = turn(`WAITING-UNTIL: ${iso}`);
  expect(verdict("opencode", opencodeScreen(waits, 80))).toBe("waiting");
  expect(verdict("opencode", opencodeScreen(waits, 80, "  ┃  a draft"))).toBe("waiting");
  expect(verdict("opencode", opencodeScreen(waits + turn("OK"), 80))).toBe("idle");
  expect(verdict("opencode", opencodeScreen(turn("OK") + waits, 80))).toBe("waiting");
});

test("a newer prompt ends the marker in every client", () => {
  const iso = "2026-11-22T21:00:00Z";
  const ms = Date.parse(iso);
  for (const glyph of ["›", ">", " >"]) {
    const said = `${glyph} go\nI wait.\nWAITING-UNTIL: ${iso}\n`;
    expect([glyph, parseWaitingUntil(said)]).toEqual([glyph, ms]);
    expect([glyph, parseWaitingUntil(`${said}${glyph} \n`)]).toEqual([glyph, ms]);
    expect([glyph, parseWaitingUntil(`${said}${glyph} go on\nOK.\n${glyph} \n  foot`)]).toEqual([glyph, null]);
  }
  expect(parseWaitingUntil(`WAITING-UNTIL: ${iso}\n> a draft`)).toBe(ms);
  expect(parseWaitingUntil(`     WAITING-UNTIL: ${iso}\n\n     ▣  Build · 2s\n\n  ┃\n  ┃  go on\n  ┃\n`)).toBeNull();
});

test("a marker beyond the longest wait is named and not waited for", () => {
  const look = (iso: string) => ({ text: claudeScreen(`❯ go\n\n● WAITING-UNTIL: ${iso}`, 80), title: "✳ Claude Code" });
  const far = detect(builtInRules().claude, look("9026-01-01T00:00:00Z"), NOW);
  expect([far.verdict, far.waitingUntil]).toEqual(["idle", null]);
  expect(far.why).toContain("WAITING-UNTIL 9026-01-01T00:00:00.000Z is too far ahead");
  expect(detect(builtInRules().claude, look("2026-11-29T19:00:00Z"), NOW).verdict).toBe("waiting");
  expect(detect(builtInRules().claude, look("2026-11-29T20:00:00Z"), NOW).verdict).toBe("idle");
  expect(detect(builtInRules().claude, look("2026-11-22T21:00:00Z"), NOW, 3_600_000).verdict).toBe("idle");
});

test("a marker that has passed is idle and keeps its time", () => {
  const text = claudeScreen("❯ go\n\n● WAITING-UNTIL: 2026-11-22T10:00:00Z", 80);
  const got = detect(builtInRules().claude, { text, title: "" }, NOW);
  expect([got.verdict, got.waitingUntil]).toEqual(["idle", Date.parse("2026-11-22T10:00Z")]);
});

test("Gemini's shell mode counts as somebody's draft: what is typed there would be run", () => {
  for (const size of ["80x24", "44x20"]) {
    const text = readFileSync(`${FIXTURES}/gemini/idle-shell-mode-open-${size}.txt`, "utf8");
    expect(composerText("gemini", text, undefined, builtInRules().gemini.at(-1)!.box)).toStartWith("!");
  }
});

test("what Gemini's empty box says in the two modes of /vim is no draft", () => {
  for (const mode of ["insert", "normal"]) {
    const text = readFileSync(`${FIXTURES}/gemini/idle-vim-${mode}-80x24.txt`, "utf8");
    expect(composerText("gemini", text, undefined, builtInRules().gemini.at(-1)!.box)).toBe("");
  }
});

test("a limit that ends in days is no 5-hour limit, whatever an older note on the screen says", () => {
  const text = readFileSync(`${FIXTURES}/codex/limited-v171-old-note-80x24.txt`, "utf8");
  const { limit } = detect(builtInRules().codex, { text, title: "" }, Date.parse("2026-11-26T19:40:30Z"));
  expect([limit!.class, new Date(limit!.resetAt!).getDate()]).toEqual(["other", 1]);
});

test("a shell in the footer is background work, with a draft in the box and in a narrow pane, too", () => {
  for (const [foot, verdict] of [["⏸ manual mode on · 1 shell", "background"], ["⏵⏵ auto mode on · 2 shells · enter to v…", "background"], ["1 shell", "idle"], ["⏵⏵ auto mode on", "idle"]]) {
    const text = claudeScreen("❯ go\n\n● OK\n\n✻ Baked for 5s · done 7:45 PM", 44, "half", foot);
    expect([foot, detect(builtInRules().claude, { text, title: "✳ Claude Code" }, NOW).verdict]).toEqual([foot, verdict]);
  }
});

test("lastNonemptyLine", () => {
  expect(lastNonemptyLine("a\n  b  \n\n")).toBe("b");
  expect(lastNonemptyLine(" \n")).toBe("");
});

test("a spinner with a second paragraph below it is no quote", () => {
  const screen = claudeScreen("❯ go\n\n✻ Thinking… (12s · ↓ 1.2k tokens)\n\n  a line of its own below", 80);
  expect(detect(builtInRules().claude, { text: screen, title: "" }, NOW).rule).toBe("spinner");
});

describe("composerText", () => {
  const pane = (file: string) => readFileSync(`${FIXTURES}/${file}`, "utf8");
  const drafts: ["claude" | "opencode", string, string | null][] = [
    ["claude", "claude/idle-draft-typed-80x24.txt", "an unsent draft"],
    ["claude", "claude/idle-after-error-529-80x24.txt", ""],
    ["claude", "claude/active-queued-80x24.txt", ""],
    ["claude", "claude/blocked-question-80x24.txt", null],
    ["claude", "claude/blocked-permission-bash-80x24.txt", null],
    ["claude", "claude/idle-v197-fresh-80x24.txt", ""],
    ["opencode", "opencode/idle-draft-typed-80x24.txt", "some typed text not submitted"],
    ["opencode", "opencode/idle-draft-pasted-token-200x50.txt", "[Pasted ~1 lines]"],
    ["opencode", "opencode/idle-home-2-80x24.txt", ""],
    ["opencode", "opencode/idle-shell-mode-120x40.txt", "!"],
    ["opencode", "opencode/idle-home-missing-glyphs-80x24.txt", ""],
    ["opencode", "opencode/idle-empty-session-200x50.txt", ""],
    ["opencode", "opencode/blocked-permission-2-80x24.txt", null],
  ];
  for (const [kind, file, want] of drafts) {
    test(file, () => expect(composerText(kind, pane(file))).toBe(want));
  }
  test("ghost text is dim, a draft is not", () => {
    const styled = (text: string) => claudeScreen("● OK", 80, text);
    const plain = styled("fix the tests");
    for (const ghost of ["\x1b[2mfix the tests\x1b[0m", "\x1b[90mfix the tests\x1b[39m",
      "\x1b[7mf\x1b[0;2m\x1b[39m\x1b[49mix the tests\x1b[0m", "\x1b[38;5;246mfix the tests\x1b[39m",
      "\x1b[38;2;153;153;153mfix the tests\x1b[39m"]) {
      expect(composerText("claude", plain, styled(ghost))).toBe("");
    }
    for (const own of ["fix the tests", "\x1b[31mfix\x1b[39m the tests", "\x1b[2m\x1b[22mfix the tests"]) {
      expect(composerText("claude", plain, styled(own))).toBe("fix the tests");
    }
  });
  test("opencode's token for a paste is dark on a colour, which is no ghost text", () => {
    const plain = pane("opencode/idle-draft-pasted-token-200x50.txt");
    const styled = plain.replace("[Pasted ~1 lines]", "\x1b[1m\x1b[38;5;232m\x1b[48;5;215m[Pasted ~1 lines]\x1b[0m\x1b[38;5;255m\x1b[48;5;234m")
      .replace(/╹▀+/, "\x1b[38;5;234m$&\x1b[39m"); // as the lower edge of its box is drawn
    expect(composerText("opencode", plain, styled)).toBe("[Pasted ~1 lines]");
  });
  test("no box", () => {
    expect(composerText("typed", "› x")).toBeNull();
    expect(composerText("claude", "$ ")).toBeNull();
  });
  test("after a reset, with or without colours behind it, a text is a person's again", () => {
    const box = (line: string) => ["─".repeat(20), `❯ ${line}`, "─".repeat(20), "  ⏵⏵ auto mode on"].join("\n");
    const plain = box("hint and words of mine");
    for (const ghost of ["\x1b[2m", "\x1b[90m", "\x1b[38;5;240m"]) for (const reset of ["\x1b[0m", "\x1b[m", "\x1b[0;38;5;15m"]) {
      expect(composerText("claude", plain, box(`${ghost}hint${reset} and words of mine`))).toBe("and words of mine");
    }
  });
  test("the operator describes the box of a typed client; the lowest one counts, its placeholder is empty", () => {
    const box = { boxRe: "^› (?<text>.*)$", emptyRe: "^Type a message$" };
    const read = (screen: string, styled?: string) => composerText("typed", screen, styled, box);
    expect(read("said\n› half a thought\nfoot")).toBe("half a thought");
    expect(read("› an old prompt\nan answer\n› \nfoot")).toBe("");
    expect(read("› Type a message")).toBe("");
    expect(read("a dialog: yes, no")).toBeNull();
    expect(read("› a hint", "› \x1b[2ma hint\x1b[0m")).toBe("");
  });
});

// ── the operator's rules ──

const AGENT = '[[agent]]\nname = "a"\nbackend = "claude"\n';
/** The rules that a config's table gives its backend. */
const rulesFrom = async (table: string, name = "claude"): Promise<Rule[]> => rulesOf(await backendFrom(table, name));
async function backendFrom(table: string, name: string): Promise<Backend> {
  const fake = fakeWorld();
  try {
    return (await fake.config(`${table}\n${AGENT}`)).backends.get(name)!;
  } finally {
    fake.restore();
  }
}
const read = (rules: Rule[], text: string, title = "") => {
  const { verdict, rule, where } = detect(rules, { text, title }, NOW);
  return [verdict, rule, where];
};

describe("the operator's rules", () => {
  test("one that has a name of the program's own is not taken for that", async () => {
    const named = async (kind: string, names: string[]) => (await rulesFrom(`[backend.own]\nkind = "${kind}"\nbin = "own"\n` +
      names.map((name) => `[[backend.own.rule]]\nname = "${name}"\nverdict = "active"\nre = "MAINTENANCE"\n`).join(""), "own"))
      .slice(0, names.length).map(({ name }) => name);
    // whatever the source calls a finding, or asks after, and what Claude Code's session file says
    const source = readFileSync(`${import.meta.dir}/../agents.ts`, "utf8");
    const asked = [...source.matchAll(/\brule: "([^"]+)"|\.rule [!=]== "([^"]+)"/g)].map(([, made, compared]) => (made ?? compared)!);
    expect(asked).toEqual(expect.arrayContaining(["none", "server", "turn", "marker"]));
    for (const kind of ["claude", "opencode", "codex", "gemini", "typed"] as const) {
      const all = [...new Set([...asked, ...builtInRules()[kind].map(({ name }) => name), "draft", "account", "busy", "waiting", "shell", "idle"])];
      expect(await named(kind, all)).toEqual(all.map((name) => `${name} (yours)`));
    }
    expect(await named("typed", ["dialog", "error", "mine"])).toEqual(["dialog", "error", "mine"]);
    const rules = await rulesFrom('[[backend.claude.rule]]\nname = "spinner"\nverdict = "active"\nre = "MAINTENANCE"\n');
    expect(rules.some((rule) => rule.name === detect(rules, { text: "MAINTENANCE", title: "" }, NOW).rule && rule.animated)).toBe(false);
  });
  const IDLE = claudeScreen("❯ go\n\n● Low on tokens\n\n✻ Baked for 3s · done 7:26 PM", 80);
  test("come first, in their order, with their regions", async () => {
    const rules = await rulesFrom(`[backend.claude]
rule = [
  { name = "tokens", verdict = "limited", where = "screen", re = "(?im)^● low on TOKENS" },
  { verdict = "blocked", where = "title", re = "^stuck" },
  { name = "foot", verdict = "active", where = "last 1", re = "mode on" },
]`);
    expect(rules.slice(3)).toEqual(builtInRules().claude);
    expect(read(rules, IDLE)).toEqual(["limited", "tokens", "screen"]);
    expect(read(rules, "nothing", "stuck")).toEqual(["blocked", "rule 2", "title"]);
    expect(read(rules, "nothing stuck")).toEqual(["unsure", "none", "screen"]);
    expect(read(rules, "mode on\nx")[0]).toBe("unsure");
    expect(read(rules, "x\nmode on\n\n")).toEqual(["active", "foot", "last 1"]);
  });
  test("a place that is none, and a regex that is none, are told", async () => {
    for (const rule of ['where = "somewhere", re = "x"', 'where = "screen", re = "(("']) {
      const error = await rulesFrom(`[backend.claude]\nrule = [{ verdict = "idle", ${rule} }]`)
        .then(() => null, (thrown) => thrown);
      expect(error?.code).toBe(2);
    }
  });
  for (const [key, verdict] of [["active", "active"], ["limit", "limited"], ["fatal", "fatal"]] as const) {
    test(`${key}_re replaces the built-in rules of its verdict`, async () => {
      const rules = await rulesFrom(`[backend.claude]\n${key}_re = "LOW on"`);
      expect(read(rules, IDLE)).toEqual([verdict, `${key}Re`, "screen"]);
      expect(rules.filter((rule) => rule.verdict === verdict).length).toBe(1);
      const rest = (all: Rule[]) => all.filter((rule) => rule.verdict !== verdict);
      expect(rest(rules)).toEqual(rest(builtInRules().claude));
    });
  }
  test.each<[string, string, string]>([["active", "footer", "limit banner"], ["limit", "transcript", "credit"], ["fatal", "fix first", "background work"]])(
    "%s_re stands where the last rule of its verdict stood", async (key, before, behind) => {
      const names = (await rulesFrom(`[backend.claude]\n${key}_re = "LOW on"`)).map(({ name }) => name);
      const at = names.indexOf(`${key}Re`);
      expect([at > names.indexOf(before), at < names.indexOf(behind), names.length > 5]).toEqual([true, true, true]);
    });
  test("without rules to replace, a limit outranks an error, and work both", async () => {
    const rules = await rulesFrom('[backend.plain]\nbin = "plain"\nfatal_re = "c"\nlimit_re = "b"\nactive_re = "a"', "plain");
    expect(rules.map(({ name }) => name)).toEqual(["activeRe", "limitRe", "fatalRe", "marker"]);
  });
  test("opencode's active_re sees the bottom only", async () => {
    const rules = await rulesFrom('[backend.opencode]\nactive_re = "busy"', "opencode");
    const lines = "x\n".repeat(10);
    expect(read(rules, `busy\n${lines}`)[0]).toBe("unsure");
    expect(read(rules, `${lines}busy`)).toEqual(["active", "activeRe", "last 10"]);
  });
  test("no verdict is reached by elimination", () => {
    expect(read(builtInRules().claude, "> \nready")).toEqual(["unsure", "none", "screen"]);
    expect(read(builtInRules().opencode, "> \nready")).toEqual(["unsure", "none", "screen"]);
    expect(read(builtInRules().claude, "\n \n")).toEqual(["unsure", "blank", "screen"]);
  });
});
