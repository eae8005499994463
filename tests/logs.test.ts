/** `logs`: the end of what a client wrote, as text, and what comes after it. */
import { describe, expect, test } from "bun:test";
import { appendFileSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { cleanLog, parseClaudeTurns, parseCodexTurns, parseOpencodeTurns, type Turn, world } from "../agents.ts";
import { agents, atWidth, command, Death, fakeWorld, realFolder, scene } from "./kit.ts";
import { type Fleet, real, SELF, until } from "./real.ts";

describe("cleanLog", () => {
  test.each([
    ["plain", "one\ntwo\n", "one\ntwo"],
    ["colours, titles and links go", "\x1b[31mred\x1b[0m\x1b]0;title\x07 \x1b]8;;http://x\x07link\x1b]8;;\x07", "red link"],
    ["a cursor move ends a line", "left\x1b[3;10Hright\x1b[2Kdown\x1b[5Gx1", "left\nrightdown\nx1"],
    ["cleared screens and carriage returns too", "a1\x1b[2Jb1\x1b[Jc1\rd1\r\ne1", "a1\nb1\nc1\nd1\ne1"],
    ["a line that is drawn again is dropped", "same\nother\nsame\n", "same\nother"],
    ["what has no letter or digit is dropped", "────\n❯ \n│ text │\n", "│ text │"],
    ["other control characters go", "a\x00b\x08c\x7fd  \n", "abcd"],
    ["what turns letters round goes", "a\u202eb\u2067c\u200fd", "abcd"],
  ])("%s", (_, raw, text) => expect(cleanLog(raw)).toBe(text));
  test("a line that comes back much later is news", () => {
    const between = (count: number) => Array.from({ length: count }, (_, nth) => `line ${nth}`).join("\n");
    expect(cleanLog(`again\n${between(59)}\nagain`).match(/again/g)).toHaveLength(1);
    expect(cleanLog(`again\n${between(60)}\nagain`).match(/again/g)).toHaveLength(2);
  });
});

describe("conversations as turns, one line each", () => {
  const AT = "2026-06-15T12:00:00.000Z";
  const claude = (type: string, content: unknown, more: object = {}): Turn[] => parseClaudeTurns(JSON.stringify({ type, timestamp: AT, message: { role: type, content }, ...more }));
  const codex = (type: string, payload: object): Turn[] => parseCodexTurns(JSON.stringify({ timestamp: AT, type, payload }));
  const said = (turns: Turn[]): [string, string][] => turns.map(({ who, text }) => [who, text]);
  test("Claude Code: what it was told, said and did; what its tools refused; its errors", () => {
    expect(claude("user", "go on")).toEqual([{ at: Date.parse(AT), who: "told", text: "go on" }]);
    expect(said(claude("assistant", [{ type: "thinking", thinking: "hm" }, { type: "text", text: "I look\nat it." }, { type: "tool_use", name: "Bash", input: { description: "Push it", command: "git push\n&& ls" } },
      { type: "tool_use", name: "Read", input: { file_path: "/x/y.ts", limit: 3 } }, { type: "tool_use", name: "Odd", input: { n: 1, what: "this" } }, { type: "tool_use", name: "Empty", input: { list: [{ n: 1 }] } }])))
      .toEqual([["said", "I look at it."], ["tool", "Bash git push && ls"], ["tool", "Read /x/y.ts"], ["tool", "Odd this"], ["tool", "Empty"]]);
    expect(said(claude("user", [{ type: "tool_result", content: "fine" }, { type: "tool_result", is_error: true, content: [{ type: "text", text: "Exit code 1" }] }]))).toEqual([["error", "Exit code 1"]]);
    expect(said(claude("assistant", [{ type: "text", text: "API Error: 400" }], { isApiErrorMessage: true }))).toEqual([["error", "API Error: 400"]]);
  });
  test("Claude Code's slash commands and what they print, without the tags of its file", () => {
    const told = (content: string) => parseClaudeTurns(JSON.stringify({ type: "user", timestamp: "2026-11-26T16:05:36.000Z", message: { role: "user", content } })).map(({ text }) => text);
    expect(told("<command-name>/mcp</command-name>\n            <command-message>mcp</command-message>\n            <command-args></command-args>")).toEqual(["/mcp"]);
    expect(told("<command-message>go is running</command-message>\n<command-name>/go</command-name>\n<command-args>on now</command-args>")).toEqual(["/go on now"]);
    expect(told("<local-command-stdout>No MCP servers loaded.</local-command-stdout>")).toEqual(["No MCP servers loaded."]);
    expect(told("<local-command-stdout></local-command-stdout>")).toEqual([]);
    expect(parseClaudeTurns(JSON.stringify({ type: "user", timestamp: "soon", message: { content: "go" } }))).toEqual([{ at: 0, who: "told", text: "go" }]);
    expect(told("<b>bold</b> <command-name>")).toEqual(["<b>bold</b>"]);
    // a tag is looked for in as much as twenty turns could show
    const long = (length: number) => told(`<command-message>${"x".repeat(length)}</command-message>on`)[0];
    expect([long(39_000), long(41_000)?.slice(0, 18)]).toEqual(["on", "<command-message>x"]);
  });
  test("not what a sub-agent or the client itself notes, nor what is no entry", () => {
    for (const more of [{ isSidechain: true }, { isMeta: true }]) expect(claude("user", "hidden", more)).toEqual([]);
    for (const line of ["", "null", '{"type":"user"', '{"type":"user","message":7}', '{"type":"mode"}', '{"type":"assistant","message":{"content":[null,7,{}]}}']) expect(parseClaudeTurns(line)).toEqual([]);
    for (const line of ["", "[]", '{"type":"response_item"}', '{"type":"event_msg","payload":null}']) expect(parseCodexTurns(line)).toEqual([]);
    for (const odd of [null, {}, [null, 7, {}, { info: 3 }, { info: {}, parts: [null, 5, {}] }]]) expect(parseOpencodeTurns(odd)).toEqual([]);
  });
  test("Codex: messages, tools, a turn that failed or was stopped; not its instructions", () => {
    const message = (role: string, text: string) => codex("response_item", { type: "message", role, content: [{ type: role === "user" ? "input_text" : "output_text", text }] });
    expect(said(message("user", "do it"))).toEqual([["told", "do it"]]);
    expect(said(message("assistant", "done"))).toEqual([["said", "done"]]);
    expect([...message("developer", "You are Codex"), ...message("user", "<environment_context>\n <cwd>/x</cwd>")]).toEqual([]);
    expect(said(codex("response_item", { type: "function_call", name: "exec_command", arguments: '{"cmd":["git","push"],"n":1}' }))).toEqual([["tool", "exec_command git push"]]);
    expect(said(codex("response_item", { type: "custom_tool_call", name: "apply_patch", input: "*** Begin" }))).toEqual([["tool", "apply_patch *** Begin"]]);
    expect(said(codex("event_msg", { type: "task_complete", error: { message: "You’ve hit your usage limit." } }))).toEqual([["error", "You’ve hit your usage limit."]]);
    expect(said(codex("event_msg", { type: "turn_aborted", reason: "interrupted" }))).toEqual([["error", "the turn was interrupted"]]);
    expect(codex("event_msg", { type: "task_complete", error: null })).toEqual([]);
    expect(message("user", "do it").map(({ at }) => at)).toEqual([Date.parse(AT)]);
    expect(parseCodexTurns(JSON.stringify({ timestamp: "soon", type: "response_item", payload: { type: "message", role: "user", content: [{ text: "do it" }] } }))[0]!.at).toBe(0);
  });
  test("opencode: the messages of its server", () => {
    const messages = [{ info: { role: "user", time: { created: 5 } }, parts: [{ type: "text", text: "go" }, { type: "text", synthetic: true, text: "hidden" }] },
      { info: { role: "assistant", time: { created: 6 }, error: { data: { message: "401" } } }, parts: [{ type: "step-start" }, { type: "tool", tool: "edit", state: { input: { filePath: "/a" }, error: "no match" } }, { type: "text", text: "done" }] }];
    expect(parseOpencodeTurns(messages).map(({ at, who, text }) => [at, who, text]))
      .toEqual([[5, "told", "go"], [6, "tool", "edit /a"], [6, "error", "no match"], [6, "said", "done"], [6, "error", "401"]]);
  });
  test("whatever it holds, a turn is one line of printable text, and bounded", () => {
    const hostile = `a\x1b]52;c;eA==\x07\x1b[31mb\u202e\r\n\tc${"x".repeat(100_000)}`;
    for (const turns of [claude("user", hostile), claude("assistant", [{ type: "tool_use", name: hostile, input: { command: hostile } }]), parseOpencodeTurns([{ info: { role: "user" }, parts: [{ type: "text", text: hostile }] }])]) {
      expect([turns.length, /[\p{Cc}\p{Cf}]/u.test(turns[0]!.text), turns[0]!.text.length, turns[0]!.text.startsWith("ab c")]).toEqual([1, false, 2_000, true]);
    }
  });
});

describe("the command, over files on disk", () => {
  /** Two agents whose clients keep transcripts, and one service. */
  async function fleet(more = "") {
    const home = realFolder();
    const claude = join(home, "claude");
    const named = (name: string) => `[[agent]]\nname = "${name}"\nbackend = "claude"\nresume = true\nenv = { CLAUDE_CONFIG_DIR = "${claude}" }\n`;
    const it = await scene(`${named("a")}${named("bb")}[[service]]\nname = "web"\ncommand = "x"\n${more}`, { fake: fakeWorld(home), ticks: 0 });
    const folder = join(claude, "projects", home.replace(/[^A-Za-z0-9]/g, "-"));
    for (const path of [it.cfg.logDir, folder]) mkdirSync(path, { recursive: true });
    const path = (name: string) => join(it.cfg.logDir, `agents-${name}.log`);
    /** What a pane has printed; text to append. */
    const printed = (name: string, text: string): void => {
      it.fake.files.set(path(name), "");
      appendFileSync(path(name), text);
    };
    const said = (id: string, text: string): void => appendFileSync(join(folder, `${id}.jsonl`), `${JSON.stringify({ type: "assistant", timestamp: "2026-06-15T12:00:00.000Z", message: { content: text } })}\n`);
    const logs = (...words: string[]) => command("logs", ...words, "--config", it.cfg.path);
    return { ...it, path, printed, said, logs,
      /** The conversation that an agent is to resume. */
      resumes: (name: string, id: string) => void it.fake.files.set(it.file(`${name}.id`), id),
      /** With -f: what is done in each pause, until there is no more; what it printed, and how often it paused. */
      follow: async (words: string[], steps: Record<number, () => void>, last: number) => {
        let pauses = 0;
        world.sleep = async (ms) => {
          it.fake.turn(ms);
          steps[pauses += 1]?.();
          if (pauses > last) throw new Death("enough");
        };
        return (await logs(...words, "-f", "-n", "1")).out;
      } };
  }

  test("the last 50 lines or as many as are asked for; what there is none of", async () => {
    const { logs, path, printed } = await fleet();
    printed("web", Array.from({ length: 80 }, (_, nth) => `line ${nth}\n`).join(""));
    expect(await logs("web")).toEqual({ code: 0, err: "", out: Array.from({ length: 50 }, (_, nth) => `line ${nth + 30}\n`).join("") });
    expect([(await logs("web", "-n", "2")).out, (await logs("web", "-n", "0")).out]).toEqual(["line 78\nline 79\n", ""]);
    for (const bad of ["x", "-1", "1.5"]) expect(await logs("web", `--lines=${bad}`)).toEqual({ code: 2, out: "", err: `agents: logs: --lines "${bad}" is not a whole number\n` });
    expect(await logs()).toEqual({ code: 2, out: "", err: "agents: usage: logs <name…> [--lines N] [--follow] [--screen] [--raw]\n" });
    expect(await logs("a")).toEqual({ code: 1, out: "", err: `agents: a has no log yet: ${path("a")} does not exist\n` });
    expect(await logs("a", "bb")).toEqual({ code: 1, out: "", err: "" });
    expect((await logs("a", "web", "-n", "1")).out).toBe("web | line 79\n");
  });

  test("that a unit's log is no conversation is said of an agent whose conversation was looked for, and of nothing else", async () => {
    const { logs, printed, fake } = await fleet();
    for (const name of ["a", "web", "watchdog"]) printed(name, "printed\n");
    const said = async (...words: string[]) => (fake.lines.length = 0, await logs(...words), fake.lines.map((line) => line.replace(/^\[.*?\] /, "")));
    expect(await said("a")).toEqual([expect.stringMatching(/^a: no transcript of its client was found, this is what it printed/)]);
    for (const words of [["a", "--raw"], ["web"], ["watchdog"]]) expect([words, await said(...words)]).toEqual([words, []]);
  });

  test("an agent whose conversation has no file any more shows what it printed", async () => {
    const { logs, printed, said, resumes, cfg, fake } = await fleet();
    printed("a", "printed\n");
    resumes("a", "gone");
    expect((await logs("a")).out).toBe("printed\n");
    const id = crypto.randomUUID();
    await fake.config(`[[agent]]\nname = "c"\nbackend = "codex"\nresume = true\nenv = { CODEX_HOME = "${fake.home}/codex" }\n`);
    fake.files.set(join(fake.home, `codex/sessions/2026/06/15/rollout-2026-06-15T11-00-00-${id}.jsonl`), ""); // listed, and gone since
    resumes("c", id);
    printed("c", "printed too\n");
    expect((await logs("c")).out).toBe("printed too\n");
  });

  test("--screen: that of one as it stands, those of several each under its name; one that does not run has none", async () => {
    const { logs, fake, cfg } = await fleet();
    for (const name of ["a", "bb"]) Object.assign(fake.tmux.add(`agents-${name}`), { marks: { "@agents_session": `agents-${name}`, "@agents_home": cfg.stateDir }, text: `the screen of ${name}\n\n` });
    expect(await logs("a", "--screen")).toEqual({ code: 0, out: "the screen of a\n", err: "" });
    expect(await logs("a", "bb", "--screen")).toEqual({ code: 0, out: "── a\nthe screen of a\n── bb\nthe screen of bb\n", err: "" });
    expect(await logs("web", "--screen")).toEqual({ code: 1, out: "", err: "agents: web is not running: see \"agents status web\"\n" });
  });

  test("of Codex the rollout that is to be resumed, of a client without a transcript what it printed", async () => {
    const { logs, printed, resumes, fake, cfg } = await fleet();
    const id = crypto.randomUUID();
    const path = join(fake.home, `codex/sessions/2026/06/15/rollout-2026-06-15T11-00-00-${id}.jsonl`);
    await fake.config(`[[agent]]\nname = "c"\nbackend = "codex"\nresume = true\nenv = { CODEX_HOME = "${fake.home}/codex" }\n[[agent]]\nname = "g"\nbackend = "gemini"\nresume = true\n`);
    fake.files.set(path, "");
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${JSON.stringify({ type: "response_item", payload: { type: "message", role: "assistant", content: [{ type: "output_text", text: "done" }] } })}\n`);
    for (const name of ["c", "g"]) {
      resumes(name, id);
      printed(name, "printed\n");
    }
    expect([(await logs("c")).out, (await logs("g")).out]).toEqual(["--:--:-- said  done\n", "printed\n"]);
    // of one that runs the rollout that it has open
    const open = path.replace(id, crypto.randomUUID());
    const text = [{ type: "session_meta", payload: { id, source: "cli" } }, { type: "response_item", payload: { type: "message", role: "assistant", content: [{ type: "output_text", text: "at work" }] } }]
      .map((line) => `${JSON.stringify(line)}\n`).join("");
    fake.files.set(open, text);
    writeFileSync(open, text);
    const pane = Object.assign(fake.tmux.add("agents-c"), { marks: { "@agents_session": "agents-c", "@agents_home": cfg.stateDir } });
    fake.opened.set(pane.pid, [open]);
    expect((await logs("c")).out).toBe("--:--:-- said  at work\n");
  });

  test("a conversation in which nothing can be read is said to be so, with its file", async () => {
    const { logs, said, resumes, fake } = await fleet();
    resumes("a", "made");
    said("made", "");
    const { code, out, err } = await logs("a");
    expect([code, out, err, fake.lines.at(-1)]).toEqual([0, "", expect.any(String), expect.stringMatching(/a: nothing to show in \S+\/made\.jsonl yet$/)]);
  });

  test("conversations of several fill the terminal's width, and no more", async () => {
    const { logs, said, resumes } = await fleet();
    for (const name of ["a", "bb"]) {
      resumes(name, `${name}-id`);
      said(`${name}-id`, "words ".repeat(40));
    }
    await atWidth(50, async () => {
      expect((await logs("a", "bb")).out.trimEnd().split("\n").map((line) => [line.slice(0, 5), Bun.stringWidth(line)])).toEqual([["a  | ", 50], ["bb | ", 50]]);
      expect(Bun.stringWidth((await logs("a")).out.trimEnd())).toBe(50);
    });
  });

  test("-f: what is appended, over a file that is gone for a while, each fifth of a second", async () => {
    const { follow, path, printed, logs, fake } = await fleet();
    const more = (text: string) => () => printed("web", text);
    more("old\nbefore\n")();
    const began = fake.mono;
    // what is written ends in the middle of a character
    const bytes = (from: number, to: number) => () => appendFileSync(path("web"), Buffer.from("first\nsecönd\n").subarray(from, to));
    const out = await follow(["web"], { 1: bytes(0, 10), 2: bytes(10, 99), 4: () => rmSync(path("web")), 6: more("new\n") }, 7);
    expect([out, fake.mono - began]).toEqual(["before\nfirst\nsec\nönd\nnew\n", 8 * 200]);
    expect((await logs("web")).out).toBe("new\n");
  });

  test("-f: the same conversation goes on, however often it is asked for", async () => {
    const { follow, said, resumes } = await fleet();
    resumes("a", "made");
    for (const text of ["old", "before"]) said("made", text);
    const out = await follow(["a"], { 1: () => said("made", "first"), 40: () => said("made", "last") }, 50);
    expect(out.match(/(?<=said +)\w+/g)).toEqual(["before", "first", "last"]);
  });

  test("-f: what a service prints, and the bytes of a client, have no conversation to go on in", async () => {
    const { follow, printed, said, resumes } = await fleet();
    resumes("a", "made");
    said("made", "not shown");
    for (const words of [["web"], ["a", "--raw"]] as const) {
      const more = (text: string) => () => printed(words[0], `${text}\n`);
      more("before")();
      expect([words, await follow([...words], { 1: more("first"), 40: more("last") }, 50)]).toEqual([words, "before\nfirst\nlast\n"]);
    }
  });

  test("-f: another conversation is followed from its beginning, from the fifteenth look on", async () => {
    const { follow, said, resumes } = await fleet();
    said("one", "the first");
    said("two", "begun anew");
    const shown = async (pauses: number) => {
      resumes("a", "one");
      return (await follow(["a"], { 1: () => resumes("a", "two") }, pauses)).replace(/^\S+ said +/gm, "");
    };
    expect([await shown(13), await shown(14)]).toEqual(["the first\n", "the first\nbegun anew\n"]);
  });

  test("-f: what is new in the conversation that opencode's server has, asked for each two seconds", async () => {
    const { follow, fake, resumes } = await fleet('[[agent]]\nname = "o"\nbackend = "opencode"\nresume = true\n[backend.opencode]\nserver = "http://127.0.0.1:9"\n');
    resumes("o", "ses_1");
    const texts = ["one", "two"];
    let asked = 0;
    fake.http = async () => {
      if ((asked += 1) > 30) await new Promise(() => {});
      return { ok: true, status: 200, body: JSON.stringify(texts.map((text, nth) => ({ info: { role: "assistant", time: { created: nth } }, parts: [{ type: "text", text }] }))) };
    };
    const began = fake.mono;
    const out = await follow(["o"], { 2: () => texts.push("three"), 4: () => texts.push("four", "five") }, 5);
    expect([out.replace(/^\S.* said +/gm, ""), fake.mono - began]).toEqual(["two\nthree\nfour\nfive\n", 12_000]);
  });

  test("-f: what was shown does not come again, though the server left it out once, sent nothing or did not answer", async () => {
    const { follow, fake, resumes } = await fleet('[[agent]]\nname = "o"\nbackend = "opencode"\nresume = true\n[backend.opencode]\nserver = "http://127.0.0.1:9"\n');
    resumes("o", "ses_1");
    let texts: string[] | null = ["one"];
    fake.http = async () => texts ? { ok: true, status: 200, body: JSON.stringify(texts.map((text) => ({ info: { role: "assistant", time: { created: 1 } }, parts: [{ type: "text", text }] }))) } : { ok: true, status: 200, body: "{}" };
    const sends = (next: string[] | null) => () => void (texts = next);
    const out = await follow(["o"], { 1: sends(["one", "two"]), 2: sends(null), 3: sends(["two"]), 4: sends(["one", "two"]), 5: sends([]), 6: sends(["one", "two", "three"]) }, 7);
    expect(out.replace(/^\S.* said +/gm, "")).toBe("one\ntwo\nthree\n");
  });

  test("the conversation of a client that runs is the one it says, of one that ended the one to resume", async () => {
    const { logs, said, resumes, fake, cfg } = await fleet();
    for (const id of ["resumed", "running"]) said(id, id);
    resumes("a", "resumed");
    const pane = fake.tmux.add("agents-a");
    Object.assign(pane, { marks: { "@agents_session": "agents-a", "@agents_backend": "claude", "@agents_home": cfg.stateDir } });
    fake.files.set(join(fake.home, `claude/sessions/${pane.pid}.json`), JSON.stringify({ pid: pane.pid, sessionId: "running", cwd: fake.home, status: "idle", updatedAt: fake.wall, statusUpdatedAt: fake.wall, kind: "interactive" }));
    fake.times.set(join(fake.home, `claude/sessions/${pane.pid}.json`), fake.wall);
    expect((await logs("a")).out).toMatch(/running\n$/);
    fake.tmux.kill(pane);
    expect((await logs("a")).out).toMatch(/resumed\n$/);
  });
});

const plan = { agents: [{ name: "a1" }], services: [{ name: "web", command: "x" }] };
const log = (f: Fleet, name: string): string => f.write(`.agents/t-${name}.log`, "");

real("logs prints the last lines, as many as are asked for, cleaned or raw", plan, async (f) => {
  writeFileSync(log(f, "a1"), Array.from({ length: 80 }, (_, nth) => `\x1b[32mline ${nth}\x1b[0m\r\n`).join(""));
  const printed = async (...words: string[]) => (await f.run(["logs", "a1", ...words])).out;
  expect(await printed()).toBe(Array.from({ length: 50 }, (_, nth) => `line ${nth + 30}\n`).join(""));
  expect(await printed("-n", "2")).toBe("line 78\nline 79\n");
  expect(await printed("--lines", "0")).toBe("");
  expect(await printed("-n", "1", "--raw")).toBe("\x1b[32mline 79\x1b[0m\n");
  for (const bad of ["x", "-1", "1.5"]) {
    const ran = await f.run(["logs", "a1", `--lines=${bad}`]);
    expect([ran.code, ran.out, ran.err]).toEqual([2, "", `agents: logs: --lines "${bad}" is not a whole number\n`]);
  }
  writeFileSync(log(f, "web"), "\n");
  expect(await f.run(["logs", "web"])).toEqual({ code: 0, out: "", err: expect.stringContaining(`web: nothing to show in ${log(f, "web")} yet\n`) });
  writeFileSync(log(f, "watchdog"), "same\nsame\n");
  expect((await f.run(["logs", "watchdog"])).out).toBe("same\nsame\n");
  expect(await f.run(["logs"])).toMatchObject({ code: 2, err: "agents: usage: logs <name…> [--lines N] [--follow] [--screen] [--raw]\n" });
  writeFileSync(log(f, "web"), "served\n");
  expect((await f.run(["logs", "w*"])).out).toBe("web      | served\nwatchdog | same\nwatchdog | same\n");
});

/** Waits until the follower has looked so many times more: it gives way to others each time. */
async function looksMore(f: Fleet, count: number, name = "a1"): Promise<void> {
  const { pid } = f.processes().find(({ command }) => command.includes(` logs ${name} -f `) && !command.startsWith("bash"))!;
  const turns = () => Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);
  const before = turns();
  await until(() => turns() >= before + count);
}

real("logs shows the watchdog's log without what an older one wrote there raw; a character cut by a write is one", plan, async (f) => {
  const path = log(f, "watchdog");
  writeFileSync(path, "claim \x1b]0;x\x07\x1b[31mred\u202e\n");
  expect((await f.run(["logs", "watchdog"])).out).toBe("claim red\n");
  const follow = f.start(["logs", "watchdog", "-f", "-n", "0"]);
  let shown = "";
  const reading = (async () => {
    const decoder = new TextDecoder();
    for await (const bytes of follow.stdout) shown += decoder.decode(bytes, { stream: true });
  })();
  await until(() => {
    if (!shown) appendFileSync(path, "it follows\n");
    return shown;
  }, 8_000, 500);
  const bytes = Buffer.from("全部👍");
  for (const at of [0, 4, 8]) {
    await looksMore(f, 3, "watchdog");
    appendFileSync(path, bytes.subarray(at, at + 4));
  }
  await until(() => shown.includes("👍"));
  follow.kill();
  await reading;
  expect(shown.replaceAll("\n", "")).toEndWith("it follows全部👍");
});

real("logs -f goes on with what comes, over a rotation, until its reader has seen enough", plan, async (f) => {
  const path = log(f, "a1");
  writeFileSync(path, "before\n");
  const follow = [...SELF, "logs", "a1", "-f", "--config", f.config];
  const shell = Bun.spawn(["bash", "-c", '"$@" | for nth in 1 2 3 4; do IFS= read -r line; echo "$line" >> shown; done; echo "exit ${PIPESTATUS[0]}" > ended', "bash", ...follow],
    { cwd: f.dir, env: f.env, stdio: ["ignore", "ignore", "inherit"] });
  const shows = (text: string) => until(() => f.read("shown") === text);
  await shows("before\n");
  appendFileSync(path, "\x1b[1mfirst\x1b[0m\r\n");
  await shows("before\nfirst\n");
  // no line end yet: it is shown at once
  appendFileSync(path, "second");
  await shows("before\nfirst\nsecond\n");
  renameSync(path, `${path}.1`);
  await looksMore(f, 3);
  writeFileSync(path, "new\n");
  await shows("before\nfirst\nsecond\nnew\n");
  // a pipe that nobody reads is noticed at the next write
  await until(() => {
    appendFileSync(path, `more ${performance.now()}\n`);
    return f.read("ended") === "exit 0\n";
  });
  expect(await shell.exited).toBe(0);
});

real("logs -f in a terminal shows what comes and ends by Ctrl-C", plan, async (f) => {
  const path = log(f, "watchdog");
  writeFileSync(path, "before\n");
  const person = await f.terminal(["logs", "watchdog", "--follow", "-n", "5"]);
  await person.shows((text) => text.includes("before"));
  for (let nth = 0; nth < 3; nth++) {
    appendFileSync(path, `line ${nth}\n`);
    await person.shows((text) => text.includes(`line ${nth}`));
  }
  const followers = () => f.processes().filter(({ command }) => command.includes("--follow"));
  expect(followers()).not.toEqual([]);
  await person.keys("C-c");
  await until(() => !followers().length);
});

real("logs of agents: their conversations, several at once, as they go on; the screen; what has no conversation", {
  agents: [{ name: "a1" }, { name: "b1" }, { name: "c1" }, { name: "d1", enabled: false }],
}, async (f) => {
  await f.up();
  await f.ready("a1", "b1", "c1");
  const line = (name: string, type: string, content: unknown): void => appendFileSync(f.path(`home/.claude/projects/${f.dir.replace(/[^A-Za-z0-9]/g, "-")}/${name}-id.jsonl`),
    `${JSON.stringify({ type, timestamp: new Date().toISOString(), message: { role: type, content } })}\n`);
  for (const name of ["a1", "b1"]) {
    const pid = await f.pid(name);
    f.write(`home/.claude/sessions/${pid}.json`, JSON.stringify({ pid, sessionId: `${name}-id`, cwd: f.dir, status: "idle" }));
    f.write(`home/.claude/projects/${f.dir.replace(/[^A-Za-z0-9]/g, "-")}/${name}-id.jsonl`, "");
    line(name, "user", `go ${name}`);
    line(name, "assistant", [{ type: "text", text: "well" }, { type: "tool_use", name: "Bash", input: { command: "git push" } }]);
  }
  expect(await f.run(["logs", "a1"])).toEqual({ code: 0, err: "", out: expect.stringMatching(/^\d\d:\d\d:\d\d told  go a1\n\d\d:\d\d:\d\d said  well\n\d\d:\d\d:\d\d tool  Bash git push\n$/) });
  expect((await f.run(["logs", "a1", "-n", "1"])).out).toMatch(/^\S+ tool  Bash git push\n$/);
  const both = await f.run(["logs", "[ab]*", "-n", "1"]);
  expect(both.out).toMatch(/^a1 \| \S+ tool  Bash git push\nb1 \| \S+ tool  Bash git push\n$/);
  // one without a log hides none of the others
  const some = await f.run(["logs", "[ad]1", "-n", "1"]);
  expect([some.code, some.out, some.err]).toEqual([0, expect.stringMatching(/^a1 \| \S+ tool  Bash git push\n$/), expect.stringContaining("d1 has no log yet")]);
  expect((await f.run(["logs", "d1"])).code).toBe(1);
  // what has no transcript says so, and shows what it printed
  const other = await f.run(["logs", "c1"]);
  expect([other.code, other.out.length > 0, other.err]).toEqual([0, true, expect.stringContaining("c1: no transcript of its client was found")]);
  const screen = await f.run(["logs", "c1", "--screen"]);
  expect([screen.code, screen.out, /\x1b/.test(screen.out)]).toEqual([0, expect.stringContaining("❯"), false]);
  expect((await f.run(["logs", "a1", "--raw"])).out).toContain("\x1b");

  const follow = f.start(["logs", "[ab]*", "-f", "-n", "0"]);
  let came = "";
  const reading = (async () => {
    for await (const bytes of follow.stdout) came += new TextDecoder().decode(bytes);
  })();
  // until it follows, one is written after the other
  await until(() => (line("b1", "assistant", "more"), /^b1 \| \S+ said  more$/m.test(came)));
  line("a1", "assistant", "and more");
  await until(() => /^a1 \| \S+ said  and more$/m.test(came));
  // a conversation that a restart began is followed from its beginning
  const pid = await f.pid("a1");
  f.write(`home/.claude/projects/${f.dir.replace(/[^A-Za-z0-9]/g, "-")}/a2-id.jsonl`, "");
  line("a2", "user", "begin anew");
  f.write(`home/.claude/sessions/${pid}.json`, JSON.stringify({ pid, sessionId: "a2-id", cwd: f.dir, status: "busy" }));
  await until(() => /^a1 \| \S+ told  begin anew$/m.test(came), 20_000);
  follow.kill();
  await reading;
  await f.run(["down"]);
});
