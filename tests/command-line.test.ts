/** The command line: help, usage errors, exit codes, and each command of the help once on a real fleet. */
import { beforeEach, describe, expect, onTestFinished, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { chmod, mkdtemp, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { COMMANDS, helpText, NoAnswer, parseCall, world } from "../agents.ts";
import { agents, atWidth, command, type FakeWorld, fakeWorld, realFolder } from "./kit.ts";
import { type Fleet, life, quote, SELF, spawn, until } from "./real.ts";

const ROOT = join(import.meta.dir, "..");

const SHOWN = COMMANDS.filter(({ hidden }) => !hidden);

describe("help", () => {
  beforeEach(() => void fakeWorld());
  test.each(SHOWN.map((one) => [one.name, one] as const))("%s --help says its arguments, what it does, and each option", async (name, { args, clause, options = {} }) => {
    const { code, out, err } = await command(name, "--help");
    expect([code, err]).toEqual([0, ""]);
    const [usage, what, empty, ...rest] = out.trimEnd().split("\n");
    const [lines, example] = [rest.slice(0, -2), rest.at(-1)];
    expect([rest.at(-2), example]).toEqual(["", expect.stringMatching(new RegExp(`^example: agents ${name}\\b`))]);
    expect([usage, what, empty]).toEqual([`usage: agents ${name} ${args}`.trim(), `  ${clause}`, ""]);
    const shown = Object.entries(options).filter(([, option]) => option.clause);
    expect(lines.slice(0, -2)).toEqual(shown.map(([option, { short, value, clause: says }]) =>
      `  ${`${short ? `-${short}, ` : ""}--${option}${value ? ` ${value}` : ""}`.padEnd(26)} ${says}`));
    expect(lines.at(-2)).toMatch(/^ {2}--config PATH +config file/);
    for (const words of [["help", name], [name, "-h"], [name, "any", "word", "--help"], ["--help", name]]) {
      expect([words, await command(...words)]).toEqual([words, { code, out, err }]);
    }
  });
  /** As the words of a shell reach the program, up to its pipe. */
  const wordsOf = (example: string) => example.split(/ (?:\||>{1,2}) /)[0]!.match(/'[^']*'|"[^"]*"|\S+/g)!.map((word) => word.replace(/^(['"])(.*)\1$/, "$2")).slice(1);
  test.each(SHOWN.map((one) => [one.name, one] as const))("the example of %s parses, and fits 80 columns", (name, shown) => {
    const [, example] = /^example: (.*)$/m.exec(helpText(shown))!;
    expect(`example: ${example}`.length).toBeLessThanOrEqual(80);
    const { command: parsed, call } = parseCall(wordsOf(example!));
    expect(parsed.name).toBe(name);
    expect(call.words.length).toBeGreaterThanOrEqual(shown.args.split(" ").filter((word) => word.startsWith("<")).length);
  });
  test("without a command: each of them, and the exit codes", async () => {
    for (const words of [["help"], ["--help"], ["-h"]]) expect(await command(...words)).toEqual({ code: 0, out: `${helpText()}\n`, err: "" });
    const listed = [...helpText().matchAll(/^ {2}([a-z]+)\b.* {2,}\S/gm)].map((match) => match[1]!);
    expect(listed).toEqual(SHOWN.map(({ name }) => name));
    expect(helpText()).toContain("\nwithout a command: status\n");
    expect(helpText()).toEndWith("\nexit codes: 0 done, 1 failed, 2 usage, 3 something needs a human, 100 another watchdog runs");
  });
  test("words to the left, clauses to the right; on a phone a clause stands below its word", async () => {
    const shown = (width: number) => atWidth(width, () => helpText().split("\n\n")[1]!.split("\n"));
    const words = SHOWN.map(({ name, args }) => `${name} ${args}`.trim());
    expect(await shown(300)).toEqual(SHOWN.map(({ clause }, nth) => `  ${words[nth]!.padEnd(32)} ${clause}`));
    // 2 and 33 columns for a word leave 24 for a clause
    const lined = await shown(59);
    expect(lined.filter((line) => /^ {2}\S/.test(line))).toEqual(SHOWN.map(({ clause }, nth) => expect.stringMatching(words[nth]!.length <= 32
      ? new RegExp(`^  ${RegExp.escape(words[nth]!.padEnd(32))} ${RegExp.escape(clause.split(" ")[0]!)}`) : new RegExp(`^  ${RegExp.escape(words[nth]!)}$`))));
    for (const line of lined) expect(line).toMatch(/^ {2}\S|^ {6}\S|^ {35}\S/);
    const below = await shown(58);
    expect(below.filter((line) => /^ {2}\S/.test(line))).toEqual(words.map((word) => `  ${word}`));
    for (const line of below) expect(line).toMatch(/^ {2}\S|^ {6}\S/);
  });
  test("--version", async () => {
    const { out } = await command("--version");
    expect(out).toMatch(/^\d+\.\d+\.\d+\n$/);
    expect((await command("status", "--version", "--help")).out).toStartWith("usage: agents status");
    for (const words of [["version"], ["version", "up"], ...["down", "up", "restart", "status"].map((name) => [name, "--version"])]) expect(await command(...words)).toEqual({ code: 0, out, err: "" });
  });
  test.each([44, 80])("no line is wider than %d columns, but for the calls to be copied", async (width) => {
    const all = await atWidth(width, () => [undefined, ...SHOWN].flatMap((one) => helpText(one).split("\n")));
    const lines = all.filter((line) => !/^(?:usage|example): /.test(line));
    expect(lines.filter((line) => Bun.stringWidth(line) > width)).toEqual([]);
  });
  test("the program itself, from a shell", async () => {
    expect(await spawn([...SELF, "attach", "--help"])).toEqual({ code: 0, out: (await command("attach", "--help")).out, err: "" });
  });
});

test.skipIf(!existsSync("/dev/full"))("output that is lost is a failure; a reader who has seen enough is none", async () => {
  const self = SELF.map(quote).join(" ");
  // it needs a person, which is exit 3 where that can be said
  const mute = await mkdtemp(join(tmpdir(), "agents-full-"));
  onTestFinished(() => rm(mute, { recursive: true }));
  await writeFile(join(mute, "agents.toml"), `${agents("a")}dir = "gone"\n`);
  for (const [words, into, code, said] of [
    ["--help", ">/dev/full", 1, "agents: standard output: the disk is full\n"],
    ["completion bash", ">/dev/full", 1, "agents: standard output: the disk is full\n"],
    [`status --config ${quote(join(mute, "agents.toml"))}`, ">/dev/full", 1, "agents: standard output: the disk is full\n"],
    ["--help", "| true", 0, ""],
  ] as const) {
    const ran = await spawn(["bash", "-c", `set -o pipefail; ${self} ${words} ${into}`]);
    expect([words, ran.code, ran.err]).toEqual([words, code, said]);
  }
});

test("an input without an end is refused, and a message too long for the state", async () => {
  const folder = await mkdtemp(join(tmpdir(), "agents-input-"));
  await writeFile(join(folder, "agents.toml"), agents("a"));
  const self = SELF.map(quote).join(" ");
  const config = `--config ${quote(join(folder, "agents.toml"))}`;
  const long = "a".repeat(110_000);
  for (const [line, code, said] of [
    [`yes | ${self} explain --file - --backend claude`, 1, "agents: explain: a screen of more than 2 MB\n"],
    [`yes | ${self} send a - ${config}`, 2, "agents: send: a message of more than 200 kB: put it into a file and name that\n"],
    [`${self} send a - ${config} < ${quote(folder)}`, 2, expect.stringMatching(/^agents: send: EISDIR: [^:]*\n$/)],
    [`${self} send ${config} a ${long} ${long}`, 2, "agents: send: a message of more than 200 kB: put it into a file and name that\n"],
  ] as const) {
    const ran = await spawn(["bash"], { stdin: line });
    expect([line.slice(0, 30), ran.code, ran.out, ran.err]).toEqual([line.slice(0, 30), code, "", said]);
  }
  await rm(folder, { recursive: true });
});

test("an error is broken at the width of its terminal; a reader of it who has gone changes no exit code", async () => {
  let shown = "";
  const decoder = new TextDecoder();
  const terminal = new Bun.Terminal({ cols: 40, rows: 24, data: (_, part) => void (shown += decoder.decode(part, { stream: true })) });
  const ran = Bun.spawn([...SELF, "status", "--config", "/nowhere/agents.toml"], { terminal });
  expect(await ran.exited).toBe(2);
  await until(() => shown.endsWith("with init)\r\n"));
  terminal.close();
  const lines = shown.trimEnd().split("\r\n");
  expect([lines.length > 1, lines[0]!.startsWith("agents: "), Math.max(...lines.map((line) => line.length)) <= 40]).toEqual([true, true, true]);
  const gone = `exec 4> >(:); wait $!; ${SELF.map(quote).join(" ")} status --config /nowhere/agents.toml 2>&4`;
  expect(await spawn(["bash", "-c", gone])).toEqual({ code: 2, out: "", err: "" });
});

test.each(["events -f --since 9999d", "logs -f watchdog"])("%s ends with its reader, such as `grep -q`, also where nothing more comes", async (words) => {
  const folder = realFolder();
  const write = (name: string, text: string) => (mkdirSync(dirname(join(folder, name)), { recursive: true }), writeFileSync(join(folder, name), text));
  write("agents.toml", '[[agent]]\nname = "a"\nbackend = "claude"\nprompt = "x"\n');
  write(".agents/state/events.jsonl", '{"at":"2026-01-01T00:00:00Z","event":"complete","phase":"p1"}\n');
  write(".agents/agents-watchdog.log", "[agents 2026-01-01 00:00:00] all phases are done\n");
  const child = Bun.spawn([...SELF, ...words.split(" "), "--config", join(folder, "agents.toml")], { stdout: "pipe", stderr: "ignore" });
  try {
    const reader = child.stdout.getReader();
    await reader.read();
    await reader.cancel();
    await until(() => child.exitCode !== null);
    expect(child.exitCode).toBe(0);
  } finally {
    child.kill("SIGKILL");
  }
});

test("words of other tools name the same commands, and an option may stand before its command", () => {
  const call = (...words: string[]) => {
    const { command: { name }, call: { words: names, options } } = parseCall(words);
    return [name, names, { ...options }];
  };
  for (const word of ["ps", "ls", "list"]) expect(call(word)).toEqual(["status", [], {}]);
  expect(call("top")).toEqual(["status", [], { watch: true }]);
  expect([call("start", "a1"), call("stop", "a1", "b1")]).toEqual([["up", ["a1"], {}], ["down", ["a1", "b1"], {}]]);
  expect(call("-n", "5", "logs", "x")).toEqual(["logs", ["x"], { lines: "5" }]);
  expect(call("--config", "c.toml", "logs", "logs")).toEqual(["logs", ["logs"], { config: "c.toml" }]);
  expect(() => call("frobnicate", "status")).toThrow('unknown command "frobnicate"');
});

test("the agents.toml that ships is an example and no fleet, unless it is named", async () => {
  const ran = await spawn([...SELF, "status"], { cwd: ROOT, env: { ...process.env, AGENTS_CONFIG: undefined } });
  expect(ran).toEqual({ code: 2, out: "", err: expect.stringMatching(/agents\.toml is the example that ships, not a fleet: name a config with --config/) });
  expect((await spawn([...SELF, "names", "--config", join(ROOT, "agents.toml")])).code).toBe(0);
  // doctor looks at the machine, and not for the clones of an example
  const doctor = await spawn([...SELF, "doctor"], { cwd: ROOT, env: { ...process.env, AGENTS_CONFIG: undefined } });
  expect([doctor.code, /^fail {2}config: .*is the example that ships, not a fleet.* — agents init fleet$/m.test(doctor.out)]).toEqual([2, true]);
  expect(doctor.out).not.toMatch(/^\w+ +(dirs|watchdog|log_dir):/m);
});

describe("a usage error is exit 2, one line, and nothing on standard output", () => {
  let fake: FakeWorld;
  beforeEach(() => void (fake = fakeWorld(realFolder())));
  const CONFIG = '[[agent]]\nname = "a1"\nbackend = "claude"\n[loop]\nphases = [{ id = "one", plan = "p.md", status = "s.md" }]\n';
  test.each<[words: string[], says: string]>([
    [["stauts"], 'unknown command "stauts"; nearest is "status" (there are: up, down, '],
    [["doctor", "a1"], 'doctor takes no "a1"'], [["status", "--watch", "a1"], "status: --watch and --line take no names"], [["status", "a2"], 'no agent or service "a2"'], [["events", "a2"], 'no agent or service "a2"; nearest is "a1" (there are: a1, watchdog, gone)'], [["events", "--event", "comit"], 'no event "comit"; nearest is "commit"'], [["report", "a1", "b1"], 'report takes no "a1"'], [["unit", "x"], 'unit takes no "x"'],
    [["status", "--jsno"], 'status: unknown option --jsno; nearest is "--json"'],
    [["up", "--json"], "up: unknown option --json"], [["-V"], "status: unknown option -V"],
    [["--confg", "x"], 'unknown option --confg; nearest is "--config"'], [["--jsno=1", "stauts"], 'unknown option --jsno; nearest is "--json"'],
    [["--lines", "5", "stauts"], 'unknown command "5"'],
    [["status", "--line", "--json"], "status: --json and --line cannot be combined"], [["top", "--json"], "status: --json and --watch cannot be combined"],
    [["logs", "a1", "--raw", "--screen"], "logs: --screen and --raw cannot be combined"], [["report", "--md", "--json"], "report: --json and --md cannot be combined"],
    [["logs", "a1", "--lines"], "logs: --lines needs a value: how many lines (50)\n"], [["logs", "a1", "-n", "-1"], "logs: -n needs a value: how many lines (50)\n"],
    [["report", "--since", "-5"], "report: --since needs a value: how far back: 30m, 24h (default), 7d\n"], [["report", "--since=-5"], 'report: --since "-5" is not a time'],
    [["status", "--config", "--json"], "status: --config needs a value: the path of an agents.toml\n"], [["status", "--json=x"], "status: Option '--json' does not take an argument\n"],
    [["restart"], "usage: restart <name…> [--fresh]"], [["down", "a1", "--orphans"], "usage: down [name… | --orphans]"],
    [["logs"], "usage: logs <name…>"], [["logs", "a2"], 'no agent or service "a2"; nearest is "a1"'],
    [["attach"], "usage: attach <name> [--read-only]"], [["attach", "*"], "* matches a1, watchdog: name one of them"], [["explain", "a1", "a1"], "usage: explain <name> [--json] [--file PANE]"], [["explain"], "usage: explain <name> [--json] [--file PANE]"],
    [["send"], "usage: send <name> <text… | -> [--timeout S] [--queue]"], [["send", "a1"], "usage: send"], [["send", "a1", " \n"], "send: the message is empty"],
    [["explain", "watchdog"], "watchdog is the watchdog, no agent: its screen is not read (there are: a1)"], [["status", "watchdog"], "status: no watchdog details"],
    [["send", "watchdog", "x"], "watchdog is the watchdog, no agent: it takes no messages (there are: a1)"],
    [["send", "a2", "x"], 'no agent "a2"; nearest is "a1" (there are: a1)'], [["send", "b*", "x"], 'no agent "b*" (there are: a1)'],
    [["send", "a1", "x", "--timeout", "soon"], 'send: --timeout "soon" is not a number of seconds'],
    ...["-1", "", ".", "Infinity"].map((wait): [string[], string] => [["send", "a1", "x", `--timeout=${wait}`], `send: --timeout "${wait}" is not a number of seconds`]),
    [["down", "!a2"], 'no agent or service "a2"; nearest is "a1"'], [["down", "!"], 'no agent or service ""'], [["down", "!*"], 'no agent or service "!*"'],
    [["phase", "nxt"], 'phase: unknown "nxt"; nearest is "next" (there are: show, next, set)'],
    [["phase", "set"], "phase set: which one? (there are: one)"],
    [["phase", "set", "on"], 'phase set: no phase "on"; nearest is "one" (there are: one)'],
    [["phase", "set", "1"], 'phase set: no phase "1"'],
    [["notify"], "usage: notify --test"], [["capture", "a1"], "usage: capture <name> <verdict>-<what>"],
    [["capture", "a1", "idel-x"], 'capture: "idel" is not a verdict; nearest is "idle"'], [["capture", "a1", "idle"], "capture: say what it shows: idle-<what>"],
    [["report", "--since", "soon"], 'report: --since "soon" is not a time such as 30m, 24h or 7d'],
    ...["70000", "x", "-1", "1.5", ""].map((port): [string[], string] => [["serve", `--port=${port}`], `serve: --port "${port}" is not a port (0 to 65535)`]),
    [["init", "a", "b"], "usage: init [DIR]"], [["demo", "a", "b"], "usage: demo [DIR] [--keep]"], [["completion"], "usage: completion bash | zsh"],
    [["completion", "fish"], "usage: completion bash | zsh"], [["completion", "toString"], "usage: completion bash | zsh"],
  ])("%p", async (words, says) => {
    const { stateDir } = await fake.config(CONFIG);
    fake.files.set(`${stateDir}/events.jsonl`, ["a1", "gone"].map((agent) => `{"at":"2026-01-01T00:00:00Z","event":"start","agent":"${agent}"}\n`).join(""));
    const { code, out, err } = await command(...words, "--config", join(fake.home, "agents.toml"));
    expect([code, out, err.trimEnd().split("\n").length]).toEqual([2, "", 1]);
    expect(err).toStartWith(`agents: ${says}`);
  });
  test("what takes agents only calls a service one, and names the nearest agent", async () => {
    await fake.config(`${CONFIG}[[service]]\nname = "a1s"\ncommand = "x"\n`);
    for (const [words, why] of [[["send", "a1s", "x"], "it takes no messages"], [["explain", "a1s"], "its screen is not read"], [["capture", "a1s", "idle-x"], "its screen is not read"]] as const) {
      const { code, out, err } = await command(...words, "--config", join(fake.home, "agents.toml"));
      expect([code, out, err]).toEqual([2, "", `agents: a1s is a service, no agent: ${why}; nearest is "a1" (there are: a1)\n`]);
    }
  });
  test("where there is no agent, that is said", async () => {
    await fake.config('[[service]]\nname = "db"\ncommand = "x"\n');
    const { code, err } = await command("send", "a1", "x", "--config", join(fake.home, "agents.toml"));
    expect([code, err]).toEqual([2, 'agents: no agent "a1" (there is none)\n']);
  });
  test.each<[words: string[], usage: string]>([
    ...[["nxt", "x"], ["show", "x"], ["next", "x"], ["set", "one", "two"]].map((words): [string[], string] =>
      [["phase", ...words], "phase [show | next | set <id>] [--restart]"]),
    ...[[], ["a1", "a1"]].map((words): [string[], string] => [["explain", ...words], "explain <name> [--json] [--file PANE] [--backend B] [--title T] [--at ISO]"]),
    [["notify"], "notify --test"], [["down", "a1", "--orphans"], "down [name… | --orphans]"],
  ])("%p is refused before the config is read, with the command's one usage", async (words, usage) => {
    expect(await command(...words, "--config", "/nowhere/agents.toml")).toEqual({ code: 2, out: "", err: `agents: usage: ${usage}\n` });
  });
  test("a verb that phase does not have is refused before the config is read", async () => {
    expect((await command("phase", "nxt", "--config", "/nowhere/agents.toml")).err).toContain('nearest is "next"');
  });
  const argsOf = (args: string) => args.replaceAll(" | ", "|").split(" ").filter(Boolean);
  const isNeeded = (arg: string) => !arg.startsWith("[");
  test.each(SHOWN.filter(({ name }) => name !== "phase").map(({ name, args }) => [`${name} ${args}`.trimEnd(), name, argsOf(args)] as const))("%s takes as many words as that", (_, name, args) => {
    const least = args.filter(isNeeded).length;
    const most = args.at(-1)?.includes("…") ? Infinity : args.length;
    const takes = (count: number) => {
      try {
        return parseCall([name, ...Array<string>(count).fill("x")]).call.words.length === count;
      } catch {
        return false;
      }
    };
    for (let count = 0; count < 5; count++) expect([count, takes(count)]).toEqual([count, count >= least && count <= most]);
  });
  test("while the config is broken, what only looks or ends goes by the last good one, and nothing else", () => {
    const lenient = SHOWN.filter(({ name, args }) => parseCall([name, ...argsOf(args).filter(isNeeded)]).call.lenient).map(({ name }) => name);
    expect(lenient).toEqual(["down", "status", "logs", "attach", "send", "explain", "capture", "report", "events", "serve"]);
  });
  test("half a second, and whatever else is a number, is a time to wait", () => {
    for (const wait of [".5", "0", "1.5", "5.", "1e1"]) expect(parseCall(["send", "a1", "x", "--timeout", wait]).call.options.timeout).toBe(wait);
  });
  const WITHOUT_CONFIG = ["explain", "selftest", "doctor", "init", "demo", "completion", "capture", "notify", "send", "restart", "watchdog", "unit"];
  test("an empty --config is no config found elsewhere, and a folder is none", async () => {
    for (const words of [["down", "--config="], ["down", "--config", ""]]) {
      expect(await command(...words)).toEqual({ code: 2, out: "", err: "agents: down: --config is empty: is the variable behind it set?\n" });
    }
    expect(await spawn([...SELF, "status", "--config", "/tmp"])).toEqual({ code: 2, out: "", err: "agents: /tmp is a folder\n" });
  });
  test("of a folder with a config in it that config is named, by every command, and in tmux's line as short as there is room", async () => {
    const dir = await realpath(await mkdtemp(join(tmpdir(), "agents-folder-")));
    onTestFinished(() => rm(dir, { recursive: true }));
    await Bun.write(join(dir, "agents.toml"), "");
    const said = `${dir} is a folder; the config in it is ${dir}/agents.toml`;
    const words = ["status", "up", "down", "events", "watchdog", "unit", "migrate"];
    const ran = (...call: string[]) => spawn([...SELF, ...call, "--config", dir]);
    expect(await Promise.all(words.map((word) => ran(word)))).toEqual(words.map(() => ({ code: 2, out: "", err: `agents: ${said}\n` })));
    expect(await ran("status", "--line")).toMatchObject({ code: 2, out: `agents ✗ ${said.replaceAll(`${dirname(dir)}/`, "")}\n` });
    expect((await ran("doctor")).out).toContain(`fail  config: ${said}`);
  });
  test("a disk that does not answer for the config is asked nothing more", async () => {
    const said = "/hung cannot be read: the disk does not answer";
    world.text = () => Promise.reject(new NoAnswer(said));
    const asked: string[] = [];
    world.mtime = (path) => (asked.push(path), null);
    expect([await command("up", "--config", "/hung"), asked]).toEqual([{ code: 2, out: "", err: `agents: ${said}\n` }, []]);
  });
  test("what the system refuses is said without its code names", async () => {
    const dir = await mkdtemp(join(tmpdir(), "agents-refused-"));
    await Bun.write(join(dir, "agents.toml"), `[defaults]\nsession_prefix = "${dir.split("-").at(-1)}-"\n[[agent]]\nname = "a1"\nbackend = "claude"\n`);
    await Bun.write(join(dir, ".agents"), "no folder");
    const ran = await spawn([...SELF, "send", "a1", "x", "--config", join(dir, "agents.toml")]);
    await rm(dir, { recursive: true });
    expect(ran).toEqual({ code: 1, out: "", err: `agents: ${dir}/.agents/state: not a directory\n` });
  });
  test("the file that $AGENTS_CONFIG names is not there: that is said", async () => {
    const ran = await spawn([...SELF, "status"], { env: { ...process.env, AGENTS_CONFIG: "/nowhere" } });
    expect([ran.code, ran.err]).toEqual([2, "agents: /nowhere: no such file ($AGENTS_CONFIG says so; name one with --config, or make one with init)\n"]);
  });
  test("the line for tmux says it where tmux shows it", async () => {
    expect(await command("status", "--line", "--config", "/nowhere/agents.toml"))
      .toEqual({ code: 2, out: "agents ✗ agents.toml: no such file (name one with --config, or make one with init)\n", err: "" });
  });
  test.each(SHOWN.map(({ name }) => name).filter((name) => !WITHOUT_CONFIG.includes(name)))("%s without its config file", async (name) => {
    const ran = await command(name, ...(["logs", "attach"].includes(name) ? ["a1"] : []), "--config", "/nowhere/agents.toml");
    expect(ran).toEqual({ code: 2, out: "", err: "agents: /nowhere/agents.toml: no such file (name one with --config, or make one with init)\n" });
  });
  test.each([["explain", "a1"], ["capture", "a1", "idle-x"], ["notify", "--test"], ["send", "a1", "x"], ["restart", "a1"], ["unit"], ["watchdog"], ["selftest"]])(
    "%s … without its config file", async (...words) => {
      const call = [...words.map(String), "--config", "/nowhere/agents.toml"];
      // one ends its process, the other reads captures from the disk
      const { code, err } = await (["watchdog", "selftest"].includes(call[0]!) ? spawn([...SELF, ...call]) : command(...call));
      expect([code, err]).toEqual([2, "agents: /nowhere/agents.toml: no such file (name one with --config, or make one with init)\n"]);
    });
});

test.each<[words: string[]]>([[["status"]], [["up"]], [["down"]], [["attach", "a1"]], [["explain", "a1"]], [["logs", "a1", "--screen"]]])("without tmux %p says how to get it", async (words) => {
  const config = join(await mkdtemp(join(tmpdir(), "agents-without-")), "agents.toml");
  await Bun.write(config, '[[agent]]\nname = "a1"\nbackend = "claude"\n');
  const { PATH } = process.env;
  process.env.PATH = "/nowhere";
  const ran = await command(...words, "--config", config).finally(() => void (process.env.PATH = PATH));
  await rm(dirname(config), { recursive: true });
  expect(ran).toEqual({ code: 1, out: "", err: "agents: tmux was not found: install it (apt-get install tmux, brew install tmux)\n" });
});

test.each(["up", "down", "status"])("of a tmux that is there and fails, %s says how", async (word) => {
  const folder = await mkdtemp(join(tmpdir(), "agents-broken-"));
  await Bun.write(join(folder, "agents.toml"), '[[agent]]\nname = "a1"\nbackend = "claude"\n');
  await Bun.write(join(folder, "tmux"), "#!/bin/sh\necho libevent not found >&2; exit 127\n");
  await chmod(join(folder, "tmux"), 0o755);
  const { PATH } = process.env;
  process.env.PATH = `${folder}:/bin`;
  const { out, err } = await command(word, "--config", join(folder, "agents.toml")).finally(() => void (process.env.PATH = PATH));
  await rm(folder, { recursive: true });
  expect(out + err).toContain("tmux: libevent not found");
});

test("selftest ends with 1 where a rule misses a capture, and names it", async () => {
  const { files } = fakeWorld();
  const captures = join(ROOT, "tests/fixtures/claude");
  files.set(join(captures, "unsure-empty.txt"), "");
  expect(await command("selftest")).toEqual({ code: 0, out: expect.stringMatching(/^1 passed, 0 failed$/m), err: "" });
  files.set(join(captures, "idle-empty.txt"), "");
  const { code, out } = await command("selftest");
  expect([code, out]).toEqual([1, expect.stringMatching(/^FAIL claude\/idle-empty\.txt: unsure \(.*\), expected idle\n[^]*^1 passed, 1 failed$/m)]);
});

test("selftest says how an operator's own rules read the captures, of backends that have captures", async () => {
  const fake = fakeWorld();
  // a few: all of them are read with each command of the help, below
  for (const client of ["claude", "opencode"]) {
    const folder = join(ROOT, "tests/fixtures", client);
    for (const name of ["active", "idle"].map((verdict) => readdirSync(folder).sort().find((file) => file.startsWith(verdict) && file.endsWith(".txt"))!)) {
      fake.files.set(join(folder, name), readFileSync(join(folder, name), "utf8"));
    }
  }
  const { path } = await fake.config('[backend.mine]\nkind = "claude"\nbin = "claude"\nactive_re = "^never"\n[backend.plain]\nkind = "typed"\nbin = "x"\n[[agent]]\nname = "a"\nbackend = "mine"\n');
  const { code, out } = await command("selftest", "--config", path);
  expect([code, out]).toEqual([0, expect.stringMatching(/^4 passed, 0 failed$/m)]);
  const own = out.split("\n").filter((line) => line.startsWith("with the rules of ")).toSorted();
  expect(own).toEqual(['with the rules of backend "claude": 2 of 2 right', 'with the rules of backend "mine": 1 of 2 right', 'with the rules of backend "opencode": 2 of 2 right']);
  expect((await command("selftest")).out).not.toContain("with the rules");
});

// ── each command once, on a fleet that runs ──

type Tried = [words: string[], code: number, says: RegExp | string];
const each = (f: Fleet): Record<string, Tried> => ({
  init: [["init", f.path("new")], 0, /^\d+ files written to /],
  doctor: [["doctor"], 0, /^ok {4}config: /m],
  up: [["up"], 0, /watchdog up|starting watchdog/],
  status: [["status"], 0, / ● \d+s ago\n[^]*^ +a1 /m],
  logs: [["logs", "watchdog"], 0, "watchdog up: phase one [1/1]"],
  explain: [["explain", "a1"], 0, /^verdict +idle/m],
  send: [["send", "a1", "a word"], 0, "delivered to a1\n"],
  phase: [["phase"], 0, "phase one [1/1]  seq: one\n"],
  notify: [["notify", "--test"], 0, "sent\n"],
  capture: [["capture", "a1", "nothing-of-it"], 2, '"nothing" is not a verdict'],
  selftest: [["selftest"], 0, /\b[1-9]\d+ passed, 0 failed/],
  migrate: [["migrate"], 0, "migrate done: "],
  report: [["report"], 0, /^a1 +1 +/m],
  events: [["events"], 0, /^\d\d:\d\d:\d\d order +by=operator command=up/m],
  completion: [["completion", "bash"], 0, "# bash completion for agents"],
  serve: [["serve", "--port", "x"], 2, "is not a port"],
  unit: [["unit"], 0, /^ExecStart=.*watchdog/m],
  demo: [["demo", f.dir], 2, "is not empty"],
  attach: [["attach", "a1"], 1, "attach needs a terminal"],
  watchdog: [["watchdog"], 100, "another watchdog is already running"],
  restart: [["restart", "a1"], 0, ""],
  down: [["down"], 0, "ending t-a1"],
});

const fleet = life({
  agents: [{ name: "a1", watch: "heal" }], loop: { phases: [{ id: "one", plan: "one.md", status: "one.md" }] },
  toml: '[notify]\ncommand = "cat > told"\n',
});

fleet("each command of the help, once, on one fleet", async (f) => {
  const endless = await f.run(["send", "a1", "x", "--timeout", "Infinity"], { ms: 10_000 });
  expect(endless).toEqual({ code: 2, out: "", err: 'agents: send: --timeout "Infinity" is not a number of seconds\n' });
  const tried = each(f);
  expect(Object.keys(tried).toSorted()).toEqual(SHOWN.map(({ name }) => name).toSorted());
  for (const [name, [words, code, says]] of Object.entries(tried)) {
    const ran = await f.run(words);
    expect([name, ran.code, ran.err]).toEqual([name, code, expect.not.stringMatching(/^\s+at /m)]);
    if (says instanceof RegExp) expect(ran.out + ran.err).toMatch(says);
    else expect(ran.out + ran.err).toContain(says);
    if (name === "up") {
      await f.ready("a1");
      await until(() => JSON.parse(f.read(".agents/state/watch.json")).agents.a1.verdict === "idle");
    }
  }
  expect([await f.sessions(), f.starts("a1").length, f.submits("a1")]).toEqual([[], 2, ["a word"]]);
});

fleet("restart of what was taken down puts it back into the watchdog's care", async (f) => {
  const starts = f.starts("a1").length;
  await f.up();
  await until(() => f.starts("a1").length === starts + 1);
  expect((await f.run(["down", "a1"])).code).toBe(0);
  expect((await f.states()).of.a1).toBe("stopped by you");
  expect((await f.run(["restart", "a1"])).code).toBe(0);
  await until(() => f.starts("a1").length === starts + 2);
  expect(JSON.parse(f.read(".agents/state/operator.json")).held).toEqual({});
  process.kill(await f.pid("a1"), "SIGKILL");
  await until(() => f.starts("a1").length === starts + 3);
});
