/** agents.toml: what is wrong with it is found at once, with its line; what is missing has its default. */
import { beforeEach, describe, expect, onTestFinished, spyOn, test } from "bun:test";
import { chownSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { agentPrompt, cfgPath, CliError, lineOf, loadConfig, nearest, parsePattern, rulesOf } from "../agents.ts";
import { agents, type FakeWorld, fakeWorld, FLEET } from "./kit.ts";

let fake: FakeWorld;
beforeEach(() => void (fake = fakeWorld()));

const AGENT = '[[agent]]\nname = "a"\nbackend = "claude"\n';
/** The error of a config, which must be one for people. */
async function faultsOf(text: string): Promise<string> {
  const error = await fake.config(text).then(() => null, (thrown) => thrown);
  expect(error).toBeInstanceOf(CliError);
  expect(error.code).toBe(2);
  return error.message;
}
const at = (line: number, message: string): string => `/fleet/agents.toml:${line}: ${message}`;

describe("a broken file fails with exit code 2 and says what is wrong", () => {
  const folder = join(import.meta.dir, "fixtures", "config");
  const names = readdirSync(folder);
  test("there are some", () => expect(names.length).toBeGreaterThan(20));
  test.each(names)("%s", async (name) => {
    const text = readFileSync(join(folder, name), "utf8");
    const wanted = /^# expect: (.*?)$/m.exec(text)![1]!;
    expect(await faultsOf(text)).toContain(wanted);
  });
});

describe("fault 2: a half-written file is an error for people, whatever byte it ends at", () => {
  const shipped = readFileSync(join(import.meta.dir, "..", "agents.toml"));
  type Unit = { name?: string; kind?: string; role?: string };
  type Sketch = { agent?: Unit[]; service?: Unit[]; loop?: { phases?: unknown[] } };
  /** Whether the bytes so far are a fleet, only a smaller one: by another parser, and by what each unit must have. */
  const isWhole = (text: string): boolean => {
    try {
      const { agent = [], service = [], loop } = Bun.TOML.parse(text) as Sketch;
      const units = [...agent, ...service];
      return units.length > 0 && units.every(({ name, kind, role }) => name && (kind !== "loop" || (role && loop?.phases)));
    } catch {
      return false;
    }
  };
  for (const [name, bytes] of [["agents.toml", shipped], ["a fleet", Buffer.from(FLEET)]] as const) {
    test.each(Array.from({ length: 40 }, (_, i) => Math.floor((bytes.length * i) / 40)))(`the first %i bytes of ${name}`, async (end) => {
      const text = bytes.subarray(0, end).toString();
      if (isWhole(text)) return void (await fake.config(text));
      const line = /^\/fleet\/agents\.toml:(\d+):/.exec(await faultsOf(text))?.[1];
      expect(Number(line)).toBeWithin(1, text.split("\n").length + 1);
    });
    test(`most cuts of ${name} are errors`, () => {
      const cuts = Array.from({ length: 40 }, (_, i) => bytes.subarray(0, Math.floor((bytes.length * i) / 40)).toString());
      expect(cuts.filter((cut) => !isWhole(cut)).length).toBeGreaterThan(25);
    });
  }
});

test("the shipped agents.toml is right and warns of nothing", async () => {
  const text = readFileSync(join(import.meta.dir, "..", "agents.toml"), "utf8");
  expect((await fake.config(text)).warnings).toEqual([]);
});

test.each<[slip: string, says: string]>([
  ['name = "a', "2:10: Invalid TOML document: a string has no closing quote"],
  ["name = a", "2:8: Invalid TOML document: a string has no quotes"],
  ["resume = yes", "2:10: Invalid TOML document: a string has no quotes"],
  ["stall = ,", "2:9: Invalid TOML document: invalid value"],
  ["[[service", "2:10: Invalid TOML document: a header has no closing bracket"],
  ['dir "x"', "2:5: Invalid TOML document: a key has no = behind it"],
  ['d?r = "x"', "2:2: Invalid TOML document: illegal character in key"],
])("a slip of TOML is said in plain words: %s", async (slip, says) => {
  expect((await faultsOf(`[[agent]]\n${slip}\n`)).split("\n")[0]).toBe(`/fleet/agents.toml:${says}`);
});

test("one table where a list is meant is told how a list is written", async () => {
  expect(await faultsOf('[agent]\nname = "a"\nbackend = "claude"\n')).toContain("is not allowed: a list of tables, each in double brackets or [{ … }]");
});

test("a missing file says so", async () => {
  const error = await loadConfig("/fleet/none.toml").catch((thrown) => thrown);
  expect(error).toBeInstanceOf(CliError);
  expect(error.message).toContain("/fleet/none.toml: no such file");
});

test("a syntax error has line and column, and a caret under the place", async () => {
  const message = await faultsOf('[watchdog]\nsignal_interval = 30\nheavy_interval = = 3\n');
  expect(message).toStartWith("/fleet/agents.toml:3:");
  expect(message).toMatch(/3: +heavy_interval = = 3\n +\^/);
});

describe("each fault has its line", () => {
  test.each<[string, string, string]>([
    ["a key of an agent", `${AGENT}watch = "heel"\n`, at(4, 'agent "a": watch: "heel" is not allowed')],
    ["a key of the second agent", `${AGENT}\n${AGENT.replace('"a"', '"b"')}resume = 1\n`, at(8, 'agent "b": resume: 1')],
    ["a missing key: the line of the table", '\n[[agent]]\nname = "a"\n', at(2, 'agent "a": backend: missing')],
    ["a table of its own", `[watchdog]\n\npark_after = 0\n${AGENT}`, at(3, "[watchdog]: park_after: 0 is not allowed: a whole number, 1 or more")],
    ["a backend", `[backend.x]\nkind = "cloud"\nbin = "x"\n${AGENT}`, at(2, 'backend "x": kind: "cloud" is not allowed')],
    ["a value of the defaults", `[defaults]\nbackend = "claudee"\n[[agent]]\nname = "a"\n`, at(2, 'agent "a": backend: unknown backend "claudee"')],
    ["a default that the agent has itself", `[defaults]\nwatch = "heal"\n${AGENT}watch = "heel"\n`, at(6, 'agent "a": watch: "heel"')],
    ["a missing key beside defaults", `[defaults]\nwatch = "heal"\n[[agent]]\nname = "a"\n`, at(3, 'agent "a": backend: missing')],
    ["agents by another name", `[defaults]\nbackend = "claude"\n[[agents]]\nname = "a"\n`, at(3, 'agents: it has no [[agent]] and no [[service]] ("agents" is not a key; nearest is "agent")')],
    ["a number that is none", `[watchdog]\nstall_grace = nan\n${AGENT}`, at(2, "[watchdog]: stall_grace: NaN is not allowed")],
    ["an inline table", `${AGENT}wake = { interval = "1h" }\n`, at(4, 'agent "a" wake: interval: "1h"')],
    ["needs", `${AGENT}needs = ["bb"]\n`, at(4, 'agent "a": needs: "bb" is not an agent or service')],
    ["a ping target", `[loop.handoff]\nrepo = "r"\nclaim_pings = "aa"\nreview_pings = "a"\n${AGENT}`, at(3, '[loop.handoff]: claim_pings: "aa" is not an agent; nearest is "a"')],
  ])("%s", async (_, text, wanted) => expect(await faultsOf(text)).toContain(wanted));

  test("lineOf reads headers, keys and the nth table", () => {
    const source = "[a]\nx = 1\n[[b]]\nx = 2\n[[b]]\ny = 3\nx = 4\n[b.c]\nz = 1";
    expect(lineOf(source, "a", 0, "x")).toBe(2);
    expect(lineOf(source, "b", 1, "x")).toBe(7);
    expect(lineOf(source, "b", 1, "none")).toBe(5);
    expect(lineOf(source, "none", 0, "x")).toBe(0);
  });
});

test("units that need each other are refused: none of them could ever start", async () => {
  const service = (name: string, need: string) => `[[service]]\nname = "${name}"\ncommand = "x"\nneeds = ["${need}"]\n`;
  expect(await faultsOf(`${AGENT}needs = ["a"]\n`)).toBe(at(4, 'agent "a": needs: "a" needs "a" in turn: none of them can start'));
  expect(await faultsOf(`${service("s", "t")}${service("t", "u")}${service("u", "s")}${AGENT}needs = ["s"]\n`)).toBe(
    [at(4, 'service "s": needs: "t"'), at(8, 'service "t": needs: "u"'), at(12, 'service "u": needs: "s"')]
      .map((head, nth) => `${head} needs "${"stu"[nth]}" in turn: none of them can start`).join("\n"));
  expect((await fake.config(`${service("s", "t")}${service("t", "v")}[[service]]\nname = "v"\ncommand = "x"\n${AGENT}needs = ["s", "t", "v"]\n`)).warnings).toEqual([]);
});

test("a pattern that matches every text is refused: it would decide each screen", async () => {
  const every = "a regular expression that does not match every text";
  for (const key of ["active_re", "limit_re", "fatal_re", "ready_re"]) {
    for (const re of ["limit reached|", "(?m)^.*$"]) expect(await faultsOf(`[backend.claude]\n${key} = '${re}'\n${AGENT}`)).toContain(`${key}: "${re}" is not allowed: ${every}`);
  }
  expect(await faultsOf(`[backend.claude]\nready_re = ""\n${AGENT}`)).toContain(every);
  expect(await faultsOf(`[[backend.claude.rule]]\nverdict = "idle"\nre = "|ready"\n${AGENT}`)).toContain(every);
  expect(await faultsOf(`[[backend.claude.answer]]\nkeys = ["Enter"]\nre = ""\n${AGENT}`)).toContain(every);
  expect((await fake.config(`[[backend.claude.rule]]\nverdict = "idle"\nwhere = "box"\nre = '^$'\n${AGENT}`)).warnings).toEqual([]);
});

test("an empty pattern of the original is as one that is not given", async () => {
  const rules = async (toml: string) => rulesOf((await fake.config(`${toml}${AGENT}`)).backends.get("claude")!).map(({ name, verdict }) => `${name} ${verdict}`);
  expect(await rules(`[backend.claude]\nactive_re = ""\nlimit_re = ""\nfatal_re = ""\n`)).toEqual(await rules(""));
});

test("all faults are found at once", async () => {
  const message = await faultsOf(`[watchdog]\nsignal_interval = "1"\n[[agent]]\nname = "a.b"\nbackend = "cloud"\nwatch = 3\nkind = "daemon"\n`);
  expect(message.split("\n").length).toBe(5);
});

test("a table where a scalar is wanted is a fault like any other", async () => {
  expect(await faultsOf(`${AGENT}watch = { heal = true }\n`)).toContain('watch: {"heal":true} is not allowed: one of "none", "heal", "heal+stall"');
  expect(await faultsOf(`${AGENT}model = { x = 1 }\nkind = [{ y = 2 }]\n`)).toContain("kind: ");
  expect(await faultsOf(`agent = { name = "a" }\n`)).toContain("agent: ");
  expect(await faultsOf(`[[agent]]\nname = "a"\nbackend = { x = 1 }\n`)).toContain("backend: ");
  expect(await faultsOf(`[[agent]]\nname = { x = 1 }\nbackend = "claude"\n`)).toContain("name: ");
  expect(await faultsOf(`[loop]\nphases = [{ id = { x = 1 }, plan = "p", status = "s" }]\n${AGENT}`)).toContain("id: ");
  expect(await faultsOf(`[defaults]\nlog_dir = { x = 1 }\n${AGENT}`)).toContain("log_dir: ");
  expect(await faultsOf(`[defaults]\nlog_dir = 2026-01-01\n${AGENT}`)).toContain("log_dir: ");
  expect(await faultsOf(`[loop.handoff]\nrepo = { x = 1 }\nreview_pings = "a"\nclaim_pings = "a"\n${AGENT}`)).toContain("repo: ");
  expect(await faultsOf(`${AGENT}dir = { x = 1 }\n`)).toContain("dir: ");
  expect(await faultsOf(`${AGENT}session = { x = 1 }\nneeds = { x = 1 }\n`)).toContain("needs: ");
  expect(await faultsOf(`${AGENT}[[service]]\nname = "s"\ncommand = { x = 1 }\nneeds = [{}]\n`)).toContain("command: ");
  expect(await faultsOf(`${AGENT}prompt_file = { x = 1 }\nwake = { prompt_file = 3 }\n`)).toContain("prompt_file: ");
  expect(await faultsOf(`[backend]\nclaude = "x"\n${AGENT}`)).toContain("claude");
});

describe("what no program, and not tmux, could be given as it stands is refused", () => {
  test("a variable's name, at its own line, in agents, services and defaults", async () => {
    const no = (name: string) => `${JSON.stringify(name)} is not allowed: a name that is not empty, without = and control characters`;
    for (const name of ["A=B", "", "A\nB", "A\u0000"]) {
      const env = `env = { GOOD = "1", ${JSON.stringify(name)} = "1" }\n`;
      const key = name && `${name.replace(/[\n\0]/, (control) => control === "\n" ? " " : "")}: `;
      const line = /[\n\0]/.test(name) ? 1 : 4;
      expect(await faultsOf(`${AGENT}${env}`)).toBe(at(line, `agent "a" env: ${key}${no(name)}`));
      expect(await faultsOf(`[defaults]\n${env}[[service]]\nname = "s"\ncommand = "x"\n`)).toContain(`service "s" env: ${key}${no(name)}`);
    }
    expect(await faultsOf(`${AGENT}[agent.env]\nGOOD = "1"\n"A=B" = "1"\n`)).toBe(at(6, `agent "a" env: A=B: ${no("A=B")}`));
    expect((await fake.config(`${AGENT}env = { "npm_config_//x/:_token" = "a=b\\nc", "${"ä-b.c"}" = "" }\n`)).warnings).toEqual([]);
  });
  test("a variable whose value would be lost: tmux, the shell of the launch or the program sets it at each start", async () => {
    for (const name of ["TMUX_PANE", "PWD", "OLDPWD", "_", "AGENTS_UNIT"]) {
      expect(await faultsOf(`${AGENT}env = { GOOD = "1", ${name} = "1" }\n`)).toBe(at(4, `agent "a" env: ${name}: it would be lost: each start sets it anew`));
    }
    expect((await fake.config(`${AGENT}env = { PATH = "/x", SHELL = "/x", TERM = "x", TMUX = "", HOME = "/x" }\n`)).warnings).toEqual([]);
  });
  test("a backend's name that no mark of a pane could hold, and a role that every object has", async () => {
    for (const name of ["", " x", "a\tb", "a\nb", "a\u202eb", "x".repeat(101)]) {
      expect(await faultsOf(`[backend.${JSON.stringify(name)}]\nbin = "x"\n${AGENT}`)).toContain("the name must be 1 to 100 characters on one line, no blank at its ends");
    }
    expect((await fake.config(`[backend."gpt 5.1 ü"]\nbin = "x"\n${AGENT}`)).warnings).toEqual([]);
    expect(await faultsOf(`${AGENT}role = "constructor"\n`)).toBe(at(4, 'agent "a": role: "constructor" is not allowed: a name that the program does not use itself'));
  });
  test("a variable's value, which is not shown: it or one beside it may be a secret", async () => {
    expect(await faultsOf(`${AGENT}[agent.env]\nKEY = "sk-secret"\nDEBUG = 1\nPORT = ["sk-secret"]\n`)).toBe(
      [at(6, 'agent "a" env: DEBUG: its value is not allowed: a string'), at(7, 'agent "a" env: PORT: its value is not allowed: a string')].join("\n"));
  });
  test("a NUL, in whatever string", async () => {
    for (const [text, where] of [
      [`${AGENT}model = "a\\u0000b"\n`, 'agent "a": model'], [`${AGENT}env = { A = "\\u0000" }\n`, 'agent "a" env: A'],
      [`${AGENT}needs = ["\\u0000"]\n`, 'agent "a": needs'], [`[backend.claude]\nbin = "\\u0000"\n${AGENT}`, 'backend "claude": bin'],
      [`[loop]\nphases = [{ id = "x\\u0000", plan = "p", status = "s" }]\n${AGENT}`, 'phase "x": id'],
      [`[[service]]\nname = "s"\ncommand = "\\u0000"\n`, 'service "s": command'],
    ] as const) {
      const message = await faultsOf(text);
      expect(message.split("\n")).toEqual([expect.stringContaining(`${where}: `)]);
      expect(message).toEndWith("is not allowed: text without NUL characters");
    }
  });
  test("a key that tmux does not know: it would type its letters", async () => {
    const submit = (key: string) => `[backend.claude]\nsubmit_key = ${JSON.stringify(key)}\n${AGENT}`;
    for (const key of ["Entr", "", "C-", "Return", "C-Foo", "a b"]) expect(await faultsOf(submit(key))).toContain(`submit_key: ${JSON.stringify(key)} is not allowed: one key as tmux names it`);
    expect(await faultsOf(submit("Entr"))).toEndWith('; nearest is "Enter"');
    for (const key of ["Enter", "enter", "C-m", "M-Enter", "C-M-j", "^M", "F12", "0x0d", ";", "-"]) expect((await fake.config(submit(key))).backends.get("claude")!.submitKey).toBe(key);
  });
  test("a path instead of a tmux server's name, and a port that there is not", async () => {
    expect(await faultsOf(`[defaults]\ntmux_socket = "/tmp/x"\n${AGENT}`)).toContain('tmux_socket: "/tmp/x" is not allowed: a name for tmux -L, not a path');
    for (const port of ["0", "65536", " 70000"]) expect(await faultsOf(`${AGENT}ready = "${port}"\n`)).toContain("is not allowed: a port from 1 to 65535, an address or a command");
    expect((await fake.config(`[defaults]\ntmux_socket = "night 2"\n${AGENT}ready = "65535"\n`)).tmuxSocket).toBe("night 2");
  });
  test("an address that is none, which is not shown: it may hold a password", async () => {
    for (const url of ["hooks.example.org/SECRET", "htps://SECRET", "json:", "env:", "env:-g", "json:env:A=B", "file:", "https:///SECRET"]) {
      expect(await faultsOf(`[notify]\nurl = "${url}"\n${AGENT}`)).toBe(at(2,
        '[notify]: url: it must begin with http:// or https:// and a host, or be "env:NAME" or "file:PATH", after "json:" or not'));
    }
    for (const url of ["", "http://h", "json:https://h/x", "env:HOOK", "json:env:my-hook", "file:~/x"]) expect((await fake.config(`[notify]\nurl = "${url}"\n${AGENT}`)).notify.url).toBe(url);
    expect(await faultsOf(`[backend.opencode]\nserver = "opencode:SECRET@host:1"\n${AGENT}`)).toBe(at(2, 'backend "opencode": server: it must begin with http:// or https:// and a host'));
  });
});

describe("a value of the right type that could never work is refused", () => {
  const MINE = '[backend.mine]\nbin = "x"\n';
  const PHASE = '[[loop.phases]]\nid = "p"\nplan = "p.md"\nstatus = "S.md"\n';
  const HAND = '[loop.handoff]\nrepo = "r"\nclaim_pings = "a"\nreview_pings = "a"\n';
  test.each<[string, string, string]>([
    ["a date as a table", `watchdog = 2026-01-01\n${AGENT}`, at(1, "watchdog: \"2026-01-01\" is not allowed: a table")],
    ["a time as an agent's variables", `${AGENT}env = 07:30:00\n`, at(4, 'agent "a": env: "07:30:00.000" is not allowed: a table of strings')],
    ["a time that no clock can show", `[watchdog]\nlimit_probe_far = 1e300\n${AGENT}`, at(2, "[watchdog]: limit_probe_far: 1e+300 is not allowed: a number of seconds, 0 or more, at most 31536000 (a year)")],
    ["no end of a number", `[watchdog]\nsignal_interval = inf\n${AGENT}`, at(2, "[watchdog]: signal_interval: Infinity is not allowed")],
    ["a pause in which nobody is looked after", `[backend.claude]\nsubmit_pause = 61\n${AGENT}`, at(2, 'backend "claude": submit_pause: 61 is not allowed: a number of seconds from 0 to 60')],
    ["a log without room", `[watchdog]\nlog_max_mb = 0\n${AGENT}`, at(2, "[watchdog]: log_max_mb: 0 is not allowed: a number of MB, more than 0")],
    ["more columns than tmux has", `[defaults]\ncols = 10001\n${AGENT}`, at(2, "[defaults]: cols: 10001 is not allowed: a whole number from 1 to 10000")],
    ["a client without a program", `${MINE.replace('"x"', '" "')}${AGENT}`, at(2, 'backend "mine": bin: " " is not allowed: a string, not empty')],
    ["a service without a command", '[[service]]\nname = "s"\ncommand = ""\n', at(3, 'service "s": command: "" is not allowed: a string, not empty')],
    ["a phase without a plan", `${PHASE.replace('"p.md"', '""')}${AGENT}`, at(3, 'phase "p": plan: "" is not allowed: a string, not empty')],
    ["a phase without a status file", `${PHASE.replace('"S.md"', '""')}${AGENT}`, at(4, 'phase "p": status: "" is not allowed: a string, not empty')],
    ["a marker that no phase is done by", `[loop]\ndone_marker = ""\n${AGENT}`, at(2, '[loop]: done_marker: "" is not allowed: a string, not empty')],
    ["a hand-off without a repository", `${HAND.replace('"r"', '""')}${AGENT}`, at(2, '[loop.handoff]: repo: "" is not allowed: a string, not empty')],
    ["every commit as a claim", `${HAND}claim_re = ""\n${AGENT}`, at(5, '[loop.handoff]: claim_re: "" is not allowed: a regular expression that does not match every text')],
    ["every draft as an empty box", `[backend.codex]\nempty_re = ""\n${AGENT}`, at(2, 'backend "codex": empty_re: "" is not allowed: a regular expression that does not match every text')],
    ["an answer without a key", `[[backend.claude.answer]]\nre = "x"\nkeys = []\n${AGENT}`, at(3, 'backend "claude" answer 1: keys: [] is not allowed: a list of keys, not empty')],
    ["a file name that no disk takes", `[loop]\nstate_file = "${"x".repeat(201)}"\n${AGENT}`, at(2, "[loop]: state_file: ")],
    ["a file of the program by another path", `[loop]\nstate_file = "x/../watch.json"\n${AGENT}`, at(2, '[loop]: state_file: "x/../watch.json" is not allowed: a name that the program does not use itself')],
    ["one by the name of its folder", `[loop]\nstate_file = "../state/watch.json"\n${AGENT}`, at(2, '[loop]: state_file: "../state/watch.json" is not allowed: a name that the program does not use itself')],
    ["a folder outside the repository", `${HAND}docs_dir = "/docs"\n${AGENT}`, at(5, '[loop.handoff]: docs_dir: "/docs" is not allowed: a path inside the repository')],
    ["an inbox outside it", `${HAND}inboxes = ["A.md", "/B.md"]\n${AGENT}`, at(5, '[loop.handoff]: inboxes: ["A.md","/B.md"] is not allowed: a list of paths inside the repository')],
    ["a folder that leads outside", `${HAND}docs_dir = "docs/../../x"\n${AGENT}`, at(5, '[loop.handoff]: docs_dir: "docs/../../x" is not allowed: a path inside the repository')],
    ["a status file outside it", `${PHASE.replace("S.md", "../S.md")}${AGENT}`, at(4, 'phase "p": status: "../S.md" is not allowed: a path inside the repository')],
    ["an inbox that nobody reads", `${HAND}inboxes = ["a", "b", "c"]\n${AGENT}`, at(5, '[loop.handoff]: inboxes: ["a","b","c"] is not allowed: a list of at most two files')],
    ["a name with a sign that nobody sees", AGENT.replace('"a"', '"a\u202eb"'), at(2, 'agent "ab": name: "a\\u{202e}b" is not allowed: letters')],
    ["a file name with a line end", `[loop.on_complete]\nrun = "a"\ntrigger_file = "a\\nb"\n${AGENT}`, at(3, '[loop.on_complete]: trigger_file: "a\\nb" is not allowed: the name of a file')],
  ])("%s", async (_, text, wanted) => expect(await faultsOf(text)).toStartWith(wanted));
});

describe("a fault inside a value of another table has that value's line", () => {
  test.each<[string, string, string]>([
    ["a table in a table", `[loop]\nauto_advance = true\nhandoff = { repo = 3 }\n${AGENT}`, at(3, "[loop.handoff]: repo: 3")],
    ["two of them", `loop = { handoff = { repo = 3 } }\n${AGENT}`, at(1, "[loop.handoff]: repo: 3")],
    ["a list of tables", `[loop]\nphases = [\n  { id = "p", plan = "p", status = "s" },\n\n  { id = "q" },\n]\n${AGENT}`, at(5, 'phase "q": plan: missing')],
    ["the second of a list", `${AGENT}[backend.claude]\nrule = [{ verdict = "idle", re = "x" }, { verdict = "idel", re = "x" }]\n`, at(5, 'backend "claude" rule 2: verdict: "idel"')],
    ["a key with a dot", `[loop]\nhandoff.branch = "m"\nhandoff.repo = 3\n${AGENT}`, at(3, "[loop.handoff]: repo: 3")],
    ["a quoted name", `[backend.mine]\nbin = "x"\n[ backend . "gpt-5.1 x" ] # new\n\nbin = 3\n${AGENT}`, at(5, 'backend "gpt-5.1 x": bin: 3')],
    ["a backend", `[backend]\nother = { bin = "x" }\nmine = { bin = 3 }\n${AGENT}`, at(3, 'backend "mine": bin: 3')],
  ])("%s", async (_, text, wanted) => expect(await faultsOf(text)).toContain(wanted));
});

test("a key of an agent that is misspelt in [defaults] has its nearest there", async () => {
  const { warnings } = await fake.config(`[defaults]\nmodle = "opus"\nrole_ = "x"\nkols = 3\n${AGENT}`);
  expect(warnings).toEqual([at(2, '[defaults]: modle: unknown key; nearest is "model"'), at(3, '[defaults]: role_: unknown key; nearest is "role"'), at(4, '[defaults]: kols: unknown key; nearest is "cols"')]);
});

test("who is named and is nobody is a warning: a role of a phase's models, the agent to start at the end", async () => {
  const text = FLEET.replace('run = "upgrader"', 'run = "upgrade"').replace('models = { builder', 'models = { advesary = "opus", builder');
  const { warnings } = await fake.config(text);
  expect(warnings).toEqual([at(10, 'phase "p2" models: advesary: no agent has this role; nearest is "adversary"'),
    at(16, '[loop.on_complete]: run: "upgrade" is not an agent, and nothing will be started; nearest is "upgrader"')]);
});

describe("of two prompts one counts, and the other is not ignored without a word", () => {
  const promptOf = async (text: string) => {
    fake.files.set("/fleet/own.md", "From a file.");
    const cfg = await fake.config(text);
    return [agentPrompt(cfg, cfg.agents.get("a")!), cfg.warnings];
  };
  const [said, file] = ['prompt = "Said."\n', 'prompt_file = "own.md"\n'];
  test("both in one table: the file", async () => {
    expect(await promptOf(`${AGENT}${said}${file}`)).toEqual(["From a file.", [at(4, 'agent "a": prompt: not used: prompt_file is given too')]]);
    expect(await promptOf(`[defaults]\n${said}${file}${AGENT}`)).toEqual(["From a file.", [at(2, "[defaults]: prompt: not used: prompt_file is given too")]]);
  });
  test("an agent's own beside one of [defaults]: its own", async () => {
    expect(await promptOf(`[defaults]\n${file}${AGENT}${said}`)).toEqual(["Said.", []]);
    expect(await promptOf(`[defaults]\n${said}${AGENT}${file}`)).toEqual(["From a file.", []]);
    expect(await promptOf(`[defaults]\n${file}${AGENT}`)).toEqual(["From a file.", []]);
  });
  test("a loop agent's own beside that of its role: its role's", async () => {
    fake.files.set("/fleet/own.md", "From a file.");
    const loop = FLEET.replace('role = "builder"', `role = "builder"\n${said}${file.trim()}`);
    const why = "not used: the prompt of a loop agent is prompts/<role>.md";
    expect((await fake.config(loop)).warnings).toEqual(["prompt", "prompt_file"].map((key) => expect.stringContaining(`: agent "builder": ${key}: ${why}`)));
    expect((await fake.config(`[defaults]\n${said}${FLEET.replace("[defaults]\n", "")}`)).warnings).toEqual([]);
  });
});

test("a key of the hand-offs in [loop] that [loop.handoff] has too, or that has none to go into, is a warning", async () => {
  const twice = FLEET.replace("[loop]\n", '[loop]\nbranch = "work"\n');
  expect((await fake.config(twice)).warnings).toEqual([]);
  const { warnings, loop } = await fake.config(twice.replace("[loop.handoff]\n", '[loop.handoff]\nbranch = "trunk"\n'));
  expect([loop.handoff!.branch, warnings]).toEqual(["trunk", [expect.stringContaining("[loop]: branch: not used: it is given in [loop.handoff] too")]]);
  expect((await fake.config(`[loop]\nrepo = "project"\n${agents("a")}`)).warnings).toEqual([expect.stringContaining(":2: [loop]: repo: not used: there is no [loop.handoff]")]);
});

test("the table of a built-in backend whose name is misspelt names it", async () => {
  expect(await faultsOf(`[backend.cluade]\nflags = "--x"\n${AGENT}`)).toBe(at(1, 'backend "cluade": bin: missing, and the name is not that of a built-in one; nearest is "claude"'));
  expect(await faultsOf(`[backend.mine]\nflags = "--x"\n${AGENT}`)).toBe(at(1, 'backend "mine": bin: missing; it must be a string, not empty'));
  expect((await fake.config(`[backend.cluade]\nbin = "x"\n${AGENT}`)).warnings).toEqual([]);
});

test("of a list of events the nearest to the wrong one is named", async () => {
  expect(await faultsOf(`[notify]\nevents = ["parked", "bloked"]\n${AGENT}`)).toMatch(/^\/fleet\/agents\.toml:2: \[notify\]: events: \["parked","bloked"\] is not allowed: a list of blocked, .*; nearest is "blocked"$/);
});

test("text that is not UTF-8 is a warning with its line", async () => {
  expect((await fake.config(`# f\ufffdr\n${AGENT}model = "\ufffd"\n`)).warnings).toEqual([at(1, "not UTF-8, and read as \ufffd")]);
});

test("an unknown key is one line, without escapes", async () => {
  expect((await fake.config(`${AGENT}"x\\ny\\u001b[31mz" = 1\n`)).warnings).toEqual([expect.stringContaining('agent "a": x yz: unknown key')]);
});

test("the trigger of on_complete is a file, never the folder that it stands in: it is removed", async () => {
  for (const name of ["", ".", "..", "/", "sub/", "~/."]) {
    expect(await faultsOf(`[loop.on_complete]\ntrigger_file = "${name}"\n${AGENT}`)).toContain("trigger_file: ");
  }
});

test("the trigger of on_complete is no file of the program: its memory would be removed", async () => {
  for (const name of ["state/watch.json", "./state/operator.json", "x/../SEQUENCE-COMPLETE", "agents-a.log", "agents-a.log.1", "unsure/a.txt"]) {
    expect(await faultsOf(`[loop.on_complete]\nrun = "a"\ntrigger_file = "${name}"\n${AGENT}`)).toBe(at(3, `[loop.on_complete]: trigger_file: "${name}" is not allowed: a name that the program does not use itself`));
  }
  for (const name of ["go", "../go.log", "/state/go", "~/go", "sub/go.log"]) expect((await fake.config(`[loop.on_complete]\nrun = "a"\ntrigger_file = "${name}"\n${AGENT}`)).warnings).toEqual([]);
});

test("who is told of claims but never started by itself is a warning", async () => {
  const off = FLEET.replace('role = "adversary"\n', 'role = "adversary"\nenabled = false\n');
  expect((await fake.config(off)).warnings).toEqual([expect.stringContaining('claim_pings: "adversary" has enabled = false: what it is told waits until you start it')]);
  expect((await fake.config(FLEET)).warnings).toEqual([]);
});

describe("fault 59: an unknown key is a warning that names the nearest", () => {
  test.each<[string, string, string]>([
    ["of an agent", `${AGENT}wach = "heal"\n`, at(4, 'agent "a": wach: unknown key; nearest is "watch"')],
    ["that every object has", `${AGENT}toString = "x"\n`, at(4, 'agent "a": toString: unknown key')],
    ["of the file", `${AGENT}[wachdog]\n`, at(4, 'wachdog: unknown key; nearest is "watchdog"')],
    ["of a backend", `[backend.claude]\nactive = "x"\n${AGENT}`, at(2, 'backend "claude": active: unknown key')],
    ["that is no name", `${AGENT}"a(b" = 1\n"x\\ny" = 2\n`, 'agent "a": a(b: unknown key'],
    ["near nothing", `${AGENT}zzzzzzzz = 1\n`, at(4, 'agent "a": zzzzzzzz: unknown key')],
    ["of another table", `[watchdog]\nstall_idle = 3\n${AGENT}`, at(2, "[watchdog]: stall_idle: unknown key; it belongs in [backend.NAME]")],
    ["of two other tables", `[notify]\ndir = "x"\n${AGENT}`, at(2, "[notify]: dir: unknown key; it belongs in [[agent]] or [[service]]")],
    ["of a table on one line", `# mine\ndefaults = { cols = 80, kolumns = 3 }\n${AGENT}`, at(2, "[defaults]: kolumns: unknown key")],
    ["of a dotted name", `# mine\nloop.phases = []\nloop.handof.x = 1\n${AGENT}`, at(3, '[loop]: handof: unknown key; nearest is "handoff"')],
    ["of the defaults", `[defaults]\nkolumns = 3\n${AGENT}`, at(2, "[defaults]: kolumns: unknown key")],
    ["resume_phase has no effect (fault 35)", `[loop]\nresume_phase = false\n${AGENT}`, at(2, "[loop]: resume_phase: obsolete")],
  ])("%s", async (_, text, wanted) => expect((await fake.config(text)).warnings.join("\n")).toContain(wanted));

  test("nearest is only said of what is near", () => {
    expect(nearest("heel", ["none", "heal", "heal+stall"])).toBe('; nearest is "heal"');
    expect(nearest("zzzzzz", ["none", "heal"])).toBe("");
    expect(nearest("x", ["up", "y"])).toBe(""); // no letter of it
  });
});

test("the defaults are those of the original", async () => {
  const cfg = await fake.config(`${AGENT}wake = {}\n[loop]\n[loop.on_complete]\n`);
  expect(cfg.watchdog).toMatchObject({
    signalInterval: 30, heavyInterval: 300, stallGrace: 180, limitProbeFallback: 300, limitResetSlack: 45,
    restartDelay: 10, restartDelayMax: 300, restartReset: 600, parkAfter: 5, parkWindow: 1800, healthyAfter: 10,
    startBatch: 10, upWait: 10, limitProbeFar: 3600, logMaxMb: 50,
  });
  expect(cfg).toMatchObject({ sessionPrefix: "agents-", cols: 200, rows: 50, logDir: "/fleet/.agents", stateDir: "/fleet/.agents/state", planDir: "/fleet" });
  expect(cfg.agents.get("a")).toMatchObject({
    session: "agents-a", kind: "persistent", enabled: true, watch: "none", resume: false, dir: "/fleet", model: "",
    wake: { interval: 3600, promptFile: "prompts/wake.md" },
  });
  expect(cfg.backends.get("claude")).toMatchObject({ bin: "claude", kind: "claude", submitKey: "Enter", connectDelay: 12, stallIdle: 300, logGrace: 180, supportsResume: true });
  expect(cfg.backends.get("opencode")).toMatchObject({ bin: "opencode", kind: "opencode", submitKey: "C-m", server: "http://127.0.0.1:4096" });
  expect(cfg.loop).toMatchObject({ autoAdvance: true, stateFile: "phase-idx", doneMarker: "## DONE", deadlockAfter: 900, onComplete: { run: "upgrader", triggerFile: ".run-upgrade-on-complete" } });
});

test("fault 72: [defaults] flow into agents and services, their own words win", async () => {
  const cfg = await fake.config(`[defaults]\nbackend = "claude"\nmodel = "opus"\nkind = "orchestrator"\nwatch = "heal"\nenv = { A = "1" }\ndir = "/srv"\n
[[agent]]\nname = "a"\n[[agent]]\nname = "b"\nmodel = "haiku"\nkind = "task"\nwatch = "none"\ndir = "/b"\n[[service]]\nname = "s"\ncommand = "sleep 1"\n`);
  expect(cfg.agents.get("a")).toMatchObject({ model: "opus", kind: "orchestrator", watch: "heal", env: { A: "1" }, dir: "/srv" });
  expect(cfg.agents.get("b")).toMatchObject({ model: "haiku", kind: "task", watch: "none", dir: "/b" });
  expect(cfg.services.get("s")).toMatchObject({ dir: "/srv", env: { A: "1" }, session: "agents-s" });
  expect(cfg.warnings).toEqual([]);
  expect(await faultsOf(`[defaults]\nsession = "x"\n${AGENT}`)).toContain("session: cannot be a default");
});

test("what the file says of a built-in backend wins key by key", async () => {
  const cfg = await fake.config(`[backend.claude]\nbin = "claude2"\n[backend.aider]\nbin = "aider"\n${AGENT}`);
  expect(cfg.backends.get("claude")).toMatchObject({ bin: "claude2", kind: "claude", supportsResume: true });
  expect(cfg.backends.get("aider")).toMatchObject({ kind: "typed", submitKey: "Enter" });
});

describe("fault 36: one-off overrides belong to one call", () => {
  const text = `${AGENT}${AGENT.replace('"a"', '"my-agent"')}`;
  test("model and backend", async () => {
    const cfg = await fake.config(text, { AGENT_MODEL_a: "opus", AGENT_BACKEND_a: "opencode" });
    expect(cfg.agents.get("a")).toMatchObject({ model: "opus", backend: "opencode" });
    expect(cfg.agents.get("my-agent")).toMatchObject({ model: "", backend: "claude" });
    expect([...cfg.overridden]).toEqual(["a"]);
  });
  test("a name with - is written with _, or as it is", async () => {
    expect((await fake.config(text, { AGENT_MODEL_my_agent: "opus" })).agents.get("my-agent")!.model).toBe("opus");
    expect((await fake.config(text, { "AGENT_MODEL_my-agent": "opus" })).agents.get("my-agent")!.model).toBe("opus");
  });
  test("an unknown backend is found there too", async () => {
    const error = await fake.config(text, { AGENT_BACKEND_a: "cloud" }).catch((thrown) => thrown);
    expect(error.message).toContain('unknown backend "cloud"');
  });
  test("the watchdog passes none", async () => {
    process.env.AGENT_MODEL_a = "opus";
    try {
      expect((await fake.config(text)).agents.get("a")!.model).toBe("");
    } finally {
      delete process.env.AGENT_MODEL_a;
    }
  });
});

describe("fault 37: every path is absolute at once", () => {
  test("--config from any folder", async () => {
    expect(await cfgPath("x/agents.toml")).toBe(join(process.cwd(), "x/agents.toml"));
    expect(await cfgPath("/elsewhere/agents.toml")).toBe("/elsewhere/agents.toml");
    const cwd = spyOn(process, "cwd").mockImplementation(() => {
      throw new Error("uv_cwd");
    });
    onTestFinished(() => cwd.mockRestore());
    expect(await cfgPath("/elsewhere/agents.toml")).toBe("/elsewhere/agents.toml");
    for (const named of ["x/agents.toml", ""]) await expect(cfgPath(named)).rejects.toThrow("the folder that you are in was removed: cd to another one");
  });
  test("without one: that of this folder, else of the nearest above, else the one beside the program", async () => {
    const folder = mkdtempSync(join(tmpdir(), "agents-config-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const deep = join(folder, "a", "b");
    mkdirSync(deep, { recursive: true });
    expect(await cfgPath("", deep)).toBe(join(import.meta.dir, "..", "agents.toml"));
    writeFileSync(join(folder, "agents.toml"), "");
    expect(await cfgPath("", deep)).toBe(join(folder, "agents.toml"));
    // one that leads to a disk that is away is no reason to take another fleet's
    const link = join(deep, "agents.toml");
    symlinkSync(join(folder, "away", "agents.toml"), link);
    expect(await cfgPath("", deep)).toBe(link);
    await expect(loadConfig(link, {}, null)).rejects.toThrow(`${link}: its link leads to nothing (name one with --config`);
    rmSync(link);
    writeFileSync(join(deep, "agents.toml"), "");
    expect(await cfgPath("", deep)).toBe(join(deep, "agents.toml"));
  });
  test.skipIf(process.getuid?.() !== 0)("another user's is passed over, and named: anybody may lay one into /tmp", async () => {
    const folder = mkdtempSync(join(tmpdir(), "agents-config-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const deep = join(folder, "a", "b");
    mkdirSync(deep, { recursive: true });
    for (const at of [folder, join(folder, "a")]) writeFileSync(join(at, "agents.toml"), "");
    const other = join(folder, "a", "agents.toml");
    chownSync(other, 65_534, 65_534);
    expect(await cfgPath("", deep)).toBe(join(folder, "agents.toml"));
    expect(fake.logged("another user")).toEqual([expect.stringContaining(`${other} belongs to another user`)]);
    expect(await cfgPath(other, deep)).toBe(other);
  });
  test("folders of the file", async () => {
    fake.files.set("/fleet/wake.md", "wake");
    const cfg = await fake.config(`[defaults]\nlog_dir = "~/logs"\n[loop.handoff]\nrepo = "../project"\nclaim_pings = "a"\nreview_pings = "a"\n${AGENT}dir = "~"\n`);
    expect(cfg.logDir).toBe(join(homedir(), "logs"));
    expect(cfg.agents.get("a")!.dir).toBe(homedir());
    expect(cfg.loop.handoff!.repo).toBe("/project");
  });
});

test("fault 42: a name that tmux would change is refused", async () => {
  for (const name of ["my.agent", "my:agent", "a b", "", "-x", "x".repeat(101)]) expect(await faultsOf(`[[agent]]\nname = ${JSON.stringify(name)}\nbackend = "claude"\n`)).toContain("name: ");
});

test("a name that every object has is refused: its agent would count as taken down", async () => {
  for (const name of ["constructor", "__proto__", "toString"]) {
    const taken = `name: "${name}" is not allowed: a name that the program does not use itself`;
    expect(await faultsOf(AGENT.replace('"a"', `"${name}"`))).toContain(taken);
    expect(await faultsOf(`${AGENT}[[service]]\nname = "${name}"\ncommand = "x"\n`)).toContain(taken);
  }
});

test("fault 58: two of one name, or of one session, are refused", async () => {
  expect(await faultsOf(AGENT + AGENT)).toContain("a second agent with this name");
  expect(await faultsOf(`${AGENT}${AGENT.replace('"a"', '"b"')}session = "agents-a"\n`)).toContain('"agents-a" is the session of agent "a" too');
  expect(await faultsOf(`${AGENT}session = "agents-watchdog"\n`)).toContain("is the session of the watchdog too");
});

test("fault 19: hand-off targets are names of the config, not builder and adversary", async () => {
  const text = FLEET.replaceAll('"builder"', '"maker"').replaceAll('"adversary"', '"checker"')
    .replace('role = "maker"', 'role = "builder"').replace('role = "checker"', 'role = "adversary"')
    .replace('repo = "project"', 'repo = "project"\nclaim_pings = "checker"\nreview_pings = "maker"');
  expect((await fake.config(text)).loop.handoff).toMatchObject({ claimPings: "checker", reviewPings: "maker" });
  expect(await faultsOf(FLEET.replaceAll('name = "builder"', 'name = "maker"'))).toContain('review_pings: "builder" is not an agent');
});

test("fault 64: a loop without phases, or without its prompt, is refused", async () => {
  expect(await faultsOf(`${AGENT}kind = "loop"\nrole = "builder"\n`)).toContain("a loop agent needs [loop] phases");
  expect(await faultsOf(FLEET.replace('role = "builder"', 'role = "nobody"'))).toContain("no such file: /fleet/prompts/nobody.md");
  fake.files.set("/fleet/prompts/builder.md", "\n");
  expect(await faultsOf(FLEET)).toContain("an empty file: /fleet/prompts/builder.md");
});

test("a leading (?ims) becomes flags, an invalid regex names its key (fault 59)", async () => {
  expect(parsePattern("(?im)^x").flags).toBe("im");
  expect(parsePattern("x", "i").source).toBe("x");
  expect(await faultsOf(`[backend.claude]\nlimit_re = "(("\n${AGENT}`)).toContain('backend "claude": limit_re: "((" is not allowed: a regular expression');
});

describe("names that would be taken for the program's own are refused", () => {
  const loop = (keys: string) => `${AGENT}[loop]\n${keys}\n`;
  test("a phase without a name would be the end of all phases", async () =>
    expect(await faultsOf(loop('phases = [{ id = "", plan = "p", status = "s" }]'))).toContain('id: "" is not allowed: a string, not empty'));
  test("the file of the phase is none of those beside it", async () => {
    const states = join(import.meta.dir, "fixtures", "state", "v1");
    const found = ["end", "move", "night"].flatMap((name) => readdirSync(join(states, name, "state"))).filter((name) => name !== "phase-idx");
    expect(found.length).toBeGreaterThan(20);
    for (const name of new Set([...found, "watch.json.copy", "watch.json.bad", "ssh-auth-sock", "keeper.lock", "watchdog.stage", "phase-idx.9.1.tmp"])) {
      expect(await faultsOf(loop(`state_file = "${name}"`))).toContain(`state_file: "${name}" is not allowed: a name that the program does not use itself`);
    }
    for (const name of ["phase-idx", ".phase-idx", "phase", "../phase"]) expect((await fake.config(loop(`state_file = "${name}"`))).loop.stateFile).toBe(name);
  });
});
