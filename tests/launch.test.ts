/** How clients are started, and what an opencode server knows better than its screen. */
import { beforeEach, describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { accountOf, decideOpencode, isBooting, launchScript, memoryOf, lookAround, orphansOf, paneActive, parseEvents, phaseIdxFile, enqueue, snapshot, startAgent, type Verdict, type VerdictName, world } from "../agents.ts";
import { command, type FakePane, fakeWorld, message, realFolder, type Scene, scene, verdict } from "./kit.ts";

const { http } = world;
let { fake, cfg, watch, starts, operator } = {} as Scene;
const begin = async (text: string, count = 2): Promise<void> => void ({ fake, cfg, watch, starts, operator } = await scene(text, { fake, ticks: count }));
const ticks = (count: number) => fake.ticks(cfg, watch, count);
beforeEach(() => void (fake = fakeWorld()));
const agent = (some = ""): string => `[[agent]]\nname = "a"\nbackend = "claude"\nwatch = "heal"\n${some}\n`;
const argv = (): string[] => fake.everyPane.at(-1)!.argv;

test("no client is started beside one that cannot be ended, though nothing of it carries a mark", async () => {
  await begin(agent());
  fake.tmux.of("agents-a").ignores = ["SIGHUP", "SIGTERM", "SIGKILL"];
  const { pid } = fake.tmux.of("agents-a");
  const done = await startAgent(cfg, watch, cfg.agents.get("a")!, await snapshot(cfg), { force: true });
  expect([done, starts()]).toEqual([{ outcome: "failed", why: `cannot be ended: pid ${pid}` }, 1]);
});

test("where tmux does not say who is in its session by now, no second client is put there", async () => {
  await begin(agent());
  const before = { ...(await snapshot(cfg)), panes: new Map(), rooms: new Set(["agents-a"]) }; // a window of a person alone
  const { tmux } = world;
  world.tmux = async (args, ...rest) => (args.includes("list-panes") ? { ok: false, out: "", err: "no answer in time", timedOut: true } : tmux(args, ...rest)) as never;
  await expect(startAgent(cfg, watch, cfg.agents.get("a")!, before)).rejects.toThrow("tmux: no answer in time");
  expect(starts()).toBe(1);
});

describe("fault 39: what reaches the client passes through no shell", () => {
  test("a model and a prompt with quotes are words of their own", async () => {
    await begin(agent(`model = "it's; $(x)"\nprompt = "--not an option 'x' \\"y\\" \`z\`"`));
    expect(argv()).toContain("it's; $(x)");
    expect(argv()[2]).not.toContain("it's");
    expect(argv()[2]).toEndWith('\nprompt=$(cat -- "$1") || exit; shift\n$go claude "$@"  -- "$prompt"');
    expect(fake.files.get(join(cfg.stateDir, "kickoff-agents-a.txt"))).toBe("--not an option 'x' \"y\" `z`");
  });
  test("beyond 100 KB the client is told to read the file", async () => {
    fake.files.set("/fleet/long.md", "x".repeat(100_001));
    await begin(agent('prompt_file = "long.md"'));
    expect(argv()[2]).toContain(' -- "$prompt"');
    expect(argv().join(" ")).toContain("kickoff-agents-a.txt");
    expect(argv().join(" ").length).toBeLessThan(2_000);
  });
  test("no prompt, no argument", async () => {
    await begin(agent());
    expect(argv()[2]).not.toContain("$prompt\"");
  });
});

test("fault 38: without a preamble there is no empty command", () => {
  const backend = { bin: "claude", flags: "", preamble: "" } as Parameters<typeof launchScript>[0];
  const script = launchScript(backend, "none");
  expect(Bun.spawnSync(["sh", "-n", "-c", script]).exitCode).toBe(0);
  expect(script).not.toMatch(/^\s*;/m);
  expect(launchScript({ ...backend, preamble: "source x" }, "none").split("\n")[0]).toBe("source x");
});

test("a launch that does not find its client ends with a code of its own; a client's own 127 stays", () => {
  const ran = (bin: string, preamble = "") => {
    const script = launchScript({ bin, flags: "", preamble } as Parameters<typeof launchScript>[0], "none");
    return ["sh", "bash"].map((shell) => Bun.spawnSync([shell, "-c", script, "agents", ""])).map(({ exitCode, stdout }) => [exitCode, stdout.toString()]);
  };
  expect(ran("A=1 no-such-client --x")).toEqual(Array(2).fill([99, "agents: no-such-client was not found\n"]));
  expect(ran("sh -c 'echo agents: claude was not found; exit 127'")).toEqual(Array(2).fill([127, "agents: claude was not found\n"]));
  expect(ran("own", "own() { return 127; }")).toEqual(Array(2).fill([127, ""]));
});

test("a launch that cannot read its prompt ends, and starts no client with an empty one", () => {
  const file = join(realFolder(), "kickoff");
  writeFileSync(file, "it's  *\n");
  const ran = (kickoff: string, preamble = "") => {
    const script = launchScript({ bin: "/bin/echo", flags: "", preamble, promptArgs: "--prompt=" } as Parameters<typeof launchScript>[0], "file");
    return ["sh", "bash"].map((shell) => Bun.spawnSync([shell, "-c", script, "agents", kickoff, "--x"])).map(({ exitCode, stdout }) => [exitCode, stdout.toString()]);
  };
  expect(ran(file)).toEqual(Array(2).fill([0, "--x --prompt=it's  *\n"]));
  expect(ran(`${file}-gone`)).toEqual(Array(2).fill([1, ""]));
  expect(ran(file, "PATH=/nowhere")).toEqual(Array(2).fill([127, ""]));
});

describe("P38: how Codex, Gemini and a described client are started", () => {
  const words = () => [argv()[2]!.split("\n").at(-1), ...argv().slice(5)];
  const of = (backend: string, more = "") => `${more}[[agent]]\nname = "a"\nbackend = "${backend}"\nwatch = "heal"\nresume = true\nprompt = "- work"\n`;
  const idFile = () => join(cfg.stateDir, "a.id");
  test("Codex: without its daemon, its prompt as an argument, and no id of ours", async () => {
    await begin(of("codex"));
    expect(words()).toEqual(['$go codex "$@"  -- "$prompt"', "--no-daemon"]);
    expect([fake.files.has(idFile()), watch.outbox]).toEqual([false, []]);
  });
  test("Codex goes on with the conversation whose id is known", async () => {
    fake.files.set("/fleet/.agents/state/a.id", "0199-a\n");
    await begin(of("codex"));
    expect(words().slice(1)).toEqual(["--no-daemon", "resume", "0199-a"]);
  });
  test("a switch that bin or flags hold is not given twice", async () => {
    await begin(of("codex", '[backend.codex]\nbin = "env X=1 codex --no-daemon"\n'));
    expect(words()).toEqual(['$go env X=1 codex --no-daemon "$@"  -- "$prompt"']);
  });
  test("Gemini: an id of ours, resumed; its prompt is one word with its switch", async () => {
    await begin(of("gemini"));
    const id = fake.files.get(idFile())!.trim();
    expect(words()).toEqual(['$go gemini "$@"  --prompt-interactive="$prompt"', "--session-id", id]);
    fake.tmux.kill(fake.tmux.of("agents-a"));
    await ticks(3);
    expect(words()).toEqual(['$go gemini "$@"  --prompt-interactive="$prompt"', "--resume", id]);
    expect(argv()[4]).toContain("continue where you stopped");
  });
  test("either can be typed to once its box is drawn, a draft in it or not; Codex once that names model and folder", async () => {
    const shown = (client: string, file: string) => readFileSync(join(import.meta.dir, "fixtures", client, `${file}.txt`), "utf8");
    await begin(of("codex") + of("gemini").replace('"a"', '"b"'));
    const boots = (kind: string, screen: string) => isBooting(cfg.backends.get(kind)!, 5_000, screen);
    for (const [kind, draft] of [["codex", "idle-draft-80x24"], ["gemini", "waiting-draft-80x24"]] as const) {
      expect([boots(kind, "\n"), boots(kind, shown(kind, "idle-fresh-80x24")), boots(kind, shown(kind, draft))]).toEqual([true, false, false]);
    }
    expect(boots("codex", "› Ask Codex to do anything\n\n  ? for shortcuts\n")).toBe(true);
    expect(boots("gemini", shown("gemini", "blocked-trust-80x24"))).toBe(true);
  });
  test("a backend of another name is of its kind", async () => {
    await begin(of("mine", '[backend.mine]\nkind = "codex"\nbin = "/opt/codex"\n'));
    expect(cfg.backends.get("mine")).toMatchObject({ connectDelay: 60, supportsResume: true, emptyRe: "^Ask Codex" });
    expect(words().slice(1)).toEqual(["--no-daemon"]);
  });
  test("a described client resumes with its own words; its prompt is typed", async () => {
    fake.tmux.onStart = (pane) => void (pane.text = "ready\n");
    await begin(of("x", '[backend.x]\nbin = "x"\nready_re = "ready"\nstart_args = "-c {id}"\nresume_args = "-r {id} --quiet"\n'));
    const id = fake.files.get(idFile())!.trim();
    expect(words()).toEqual(['$go x "$@" ', "-c", id]);
    fake.tmux.kill(fake.tmux.of("agents-a"));
    await ticks(3);
    expect(words()).toEqual(['$go x "$@" ', "-r", id, "--quiet"]);
  });
});

describe("decideOpencode: the server's word before the screen's", () => {
  const facts = { healthy: true, status: { type: "idle" }, end: null, permission: undefined, question: false };
  const end = (text: string, some: object = {}) => ({ name: "APIError", text, at: Date.parse("2026-06-15T09:00:00Z"), passes: false, ...some });
  test.each<[string, object, Verdict, VerdictName]>([
    ["fault 79: dead, its bar still moves", { healthy: false }, verdict("active"), "unsure"],
    ["fault 78: a permission that no screen shows", { permission: "bash" }, verdict("idle"), "blocked"],
    ["fault 78: a question", { question: true }, verdict("idle"), "blocked"],
    ["busy, whatever is drawn", { status: { type: "busy" } }, verdict("idle"), "active"],
    ["idle, the bar is still drawn", {}, verdict("active"), "idle"],
    ["idle, the screen knows more", {}, verdict("waiting"), "waiting"],
    ["no word about this session", { status: undefined }, verdict("fatal"), "fatal"],
    ["a retry after an overload", { status: { type: "retry", message: "Overloaded" } }, verdict("idle"), "active"],
    ["a retry that names a usage limit", { status: { type: "retry", message: "usage limit reached, resets in 2h" } }, verdict("active"), "limited"],
    ["a retry that names a quota", { status: { type: "retry", message: "Quota exceeded" } }, verdict("active"), "limited"],
    ["an error in words that no rule knows", { end: end("Strange words") }, verdict("idle"), "blocked"],
    ["an error after which it tried several times", { end: end("Strange words", { passes: true }) }, verdict("idle"), "idle"],
    ["an error that a rule knows, which has left the screen", { end: end("Bad request: tool_use ids") }, verdict("idle"), "fatal"],
    ["a limit likewise, tried several times", { end: end("The usage limit has been reached", { passes: true }) }, verdict("idle"), "limited"],
    ["a limit that is over", { end: end("Monthly usage limit reached, resets in 2 h") }, verdict("idle"), "idle"],
    ["an error of the last turn, and the next one runs", { end: null, status: { type: "busy" } }, verdict("idle"), "active"],
  ])("%s", (_, some, screen, wanted) =>
    expect(decideOpencode({ ...facts, ...some } as never, screen, fake.wall).verdict).toBe(wanted));
});

describe("fault 49: an opencode pane is active for log_grace after its text changed", () => {
  test.each<[string, VerdictName, number, boolean]>([
    ["changed a moment ago", "idle", 10_000, true],
    ["changed long ago", "idle", 200_000, false],
    ["at a dialog", "blocked", 10_000, false],
    ["working", "active", 200_000, true],
  ])("%s", async (_, name, ago, wanted) => {
    await begin('[[agent]]\nname = "a"\nbackend = "opencode"\n');
    const memory = { ...memoryOf(watch, "a"), sameSince: fake.mono - ago };
    expect(paneActive(cfg, cfg.agents.get("a")!, verdict(name), memory)).toBe(wanted);
  });
});

describe("opencode, by its server", () => {
  const TEXT = '[[agent]]\nname = "a"\nbackend = "opencode"\nwatch = "heal"\nprompt = "Work."\n';
  let server: { up: boolean; prompts: string[]; permission: boolean; known: string[]; last: unknown[]; asked: string[] };
  beforeEach(() => {
    server = { up: true, prompts: [], permission: false, known: [], last: [], asked: [] };
    fake.http = async ({ method, url, body }) => {
      if (!server.up) return { ok: false, status: 0, body: "" };
      const path = new URL(url).pathname;
      server.asked.push(url);
      if (path.endsWith("/message")) return { ok: true, status: 200, body: JSON.stringify(server.last) };
      const id = `ses_${server.known.length}`;
      if (method === "POST" && path === "/session") server.known.push(id);
      if (path.endsWith("/prompt_async")) server.prompts.push(JSON.parse(body!).parts[0].text);
      const answers: Record<string, unknown> = {
        "/global/health": { healthy: true }, "/session": { id }, "/question": [], "/session/status": {},
        "/permission": server.permission ? [{ sessionID: server.known.at(-1), permission: "bash" }] : [],
      };
      return { ok: true, status: 200, body: JSON.stringify(answers[path] ?? { id: path.split("/").at(-1) }) };
    };
    fake.tmux.onStart = (pane) => void (pane.text = "     ▣ Build · gpt · 2s\n\n  ┃\n  ┃  \n  ┃\n  ┃  Build  gpt\n  ╹▀▀▀▀▀▀▀▀▀▀▀▀\n   12K (1%)  ctrl+p commands");
  });
  test("fault 57, 77: the kickoff waits for a client that is ready, no tick sleeps for it, nothing is typed", async () => {
    fake.tmux.onStart = (pane) => void (pane.text = "\n");
    await begin(TEXT, 1);
    expect([server.prompts, watch.outbox.map(({ cause }) => cause)]).toEqual([[], ["boot"]]);
    fake.tmux.of("agents-a").text = "     ▣ Build · gpt · 2s\n\n  ┃\n  ┃  \n  ┃\n  ┃  Build  gpt\n  ╹▀▀▀▀▀▀▀▀▀▀▀▀\n   12K (1%)  ctrl+p commands";
    await fake.ticks(cfg, watch, 3);
    expect(server.prompts).toHaveLength(1);
    expect(server.prompts[0]).toContain("kickoff-agents-a.txt");
    expect([fake.tmux.of("agents-a").enters, watch.outbox]).toEqual([0, []]);
  });
  test("fault 78: at a permission that the server knows of nothing is said, the agent is not ended", async () => {
    await begin(TEXT, 4);
    server.permission = true;
    enqueue(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch, 40);
    expect([server.prompts.length, fake.everyPane.length, fake.logged("is blocked: permission: bash").length]).toEqual([1, 1, 1]);
    server.permission = false;
    await fake.ticks(cfg, watch, 2);
    expect(server.prompts.at(-1)).toBe("hear this");
  });
  describe("an error that ended the last turn", () => {
    // as 1.18.33 stores it
    const error = (message: string, name = "APIError", isRetryable?: boolean) => ({ name, data: { message, ...(name === "APIError" ? { statusCode: 418, isRetryable: isRetryable ?? false } : {}) } });
    const drawn = (text: string) => `  ┃\n  ┃  ${text}\n  ┃\n\n     ▣  Build · gpt\n\n  ┃\n  ┃  \n  ┃\n  ┃  Build  gpt\n  ╹${"▀".repeat(40)}\n   12K (1%)  ctrl+p commands`;
    const ended = (one: object | undefined, at = fake.wall) => server.last = [{ info: { role: "assistant", error: one, time: { created: at - 1_000, completed: at } }, parts: [] }];
    const said = async () => {
      fake.tmux.of("agents-a").text = drawn("Strange words");
      await fake.ticks(cfg, watch, 3);
      const { verdict: is, why } = memoryOf(watch, "a");
      return [is, why];
    };
    beforeEach(() => begin(`${TEXT}[backend.opencode]\nlog_grace = 0\n`, 4));

    test("in words that no rule knows needs a person: nothing is said to it, nothing ended, until a turn comes through", async () => {
      ended(error("Strange words"));
      expect(await said()).toEqual(["blocked", "Strange words (APIError)"]);
      enqueue(watch, "a", "claim", "hear this");
      await fake.ticks(cfg, watch, 400);
      expect([server.prompts.length, fake.everyPane.length, fake.logged("is blocked: Strange words (APIError)").length]).toEqual([1, 1, 1]);
      ended(undefined);
      await fake.ticks(cfg, watch, 2);
      expect(server.prompts.at(-1)).toBe("hear this");
    });
    test.each<[string, () => unknown]>([
      ["that its server calls passing, as it tried several times", () => ended(error("Strange words", "APIError", true))],
      ["by a person's Esc", () => ended(error("Aborted", "MessageAbortedError"))],
      ["before a newer prompt", () => (ended(error("Strange words")), server.last.push({ info: { role: "user", time: { created: fake.wall } }, parts: [] }))],
      ["from before its client was started", () => ended(error("Strange words"), fake.wall - 3600_000)],
      ["of which the server says nothing", () => server.last = []],
      ["in a form that no version has", () => server.last = [{ info: { error: "Strange words" } }]],
    ])("%s is none: it is at its prompt", async (_, answers) => {
      answers();
      expect((await said())[0]).toBe("idle");
    });
    test("without a text is called by its name", async () => {
      ended({ name: "ContentFilterError" });
      expect((await said())[1]).toBe("ContentFilterError (ContentFilterError)");
    });
    test("is asked for only where the screen does not show how the turn ended", async () => {
      const asked = async (text: string) => {
        fake.tmux.of("agents-a").text = text;
        server.asked = [];
        await fake.ticks(cfg, watch, 3);
        return server.asked.some((url) => url.includes("/message?limit=1&"));
      };
      const box = drawn("").slice(drawn("").indexOf("\n\n  ┃") + 2);
      expect([await asked(`     ▣  Build · gpt · 1m 2s\n\n${box}`), await asked(`     ▣  Build · gpt · interrupted\n\n${box}`), await asked(`  ┃\n  ┃  go\n  ┃\n\n     an answer\n\n${box}`), await asked(box)]).toEqual([false, false, true, true]);
    });
  });
  test("fault 32, 79: the server dies and comes back: the client is attached anew, once", async () => {
    await begin(TEXT, 4);
    server.up = false;
    await fake.ticks(cfg, watch, 10);
    expect(fake.everyPane).toHaveLength(1);
    server.up = true;
    await fake.ticks(cfg, watch, 10);
    expect(fake.everyPane).toHaveLength(2);
  });
  test("a server that stays silent for connect_delay is no reason to wait for ever", async () => {
    server.up = false;
    await begin(TEXT, 1);
    expect(fake.everyPane).toHaveLength(0);
    await fake.ticks(cfg, watch, 2);
    expect(fake.everyPane).toHaveLength(1);
  });
});

describe("a text that an opencode server may have taken already, before a crash", () => {
  const OC = '[backend.oc]\nkind = "opencode"\nbin = "oc"\nserver = "http://127.0.0.1:4096"\n[[agent]]\nname = "a"\nbackend = "oc"\nwatch = "heal"\n';
  let said: { role: string; created: number; text: string }[];
  let answers: boolean;
  let prompts: string[];
  beforeEach(async () => {
    [said, answers, prompts] = [[], true, []];
    fake.http = async ({ method, url, body }) => {
      const path = new URL(url).pathname;
      if (path.endsWith("/prompt_async")) prompts.push(JSON.parse(body!).parts[0].text);
      if (path.endsWith("/message") && !answers) return { ok: false, status: 408, body: "" };
      const conversation = said.map(({ role, created, text }) => ({ info: { role, time: { created } }, parts: [{ text }] }));
      const known: Record<string, unknown> = {
        "/global/health": { healthy: true }, "/session/status": {}, "/permission": [], "/question": [], "/session/ses_1/message": conversation,
      };
      return { ok: true, status: 200, body: JSON.stringify(method === "POST" ? { id: "ses_1" } : known[path] ?? { id: "ses_1" }) };
    };
    fake.tmux.onStart = (one) => void (one.text = "     ▣ Build · gpt · 2s\n\n  ┃\n  ┃  \n  ┃\n  ┃  Build  gpt\n  ╹▀▀▀▀▀▀▀▀▀▀▀▀\n   12K (1%)  ctrl+p commands");
    await begin(OC, 3);
  });
  /** A claim that was handed over `tries` times before the watchdog died. */
  const claim = (tries: number): void => void watch.outbox.push(message({ text: "hear this", made: fake.wall, tries }));

  test.each<[string, number, () => void, number]>([
    ["it is there: not said again", 1, () => said.push({ role: "user", created: fake.wall + 800, text: "hear this" }), 0],
    ["it is there by a server whose clock is a little behind", 1, () => said.push({ role: "user", created: fake.wall - 4_000, text: "hear this" }), 0],
    ["the same words, but from long before: said", 1, () => said.push({ role: "user", created: fake.wall - 60_000, text: "hear this" }), 1],
    ["other words: said", 1, () => said.push({ role: "user", created: fake.wall + 800, text: "something else" }), 1],
    ["the agent's own words: said", 1, () => said.push({ role: "assistant", created: fake.wall + 800, text: "hear this" }), 1],
    ["nothing is there: said", 1, () => {}, 1],
    ["the first try does not ask at all", 0, () => (answers = false), 1],
  ])("%s", async (_, tries, before, times) => {
    before();
    claim(tries);
    await ticks(2);
    expect([prompts, watch.outbox]).toEqual([Array(times).fill("hear this"), []]);
  });
  /** The server's answers to a text that is given to it, and whether the conversation shows it then. */
  const answering = (status: number, shown = false) => {
    const { http: ask } = fake;
    fake.http = async (request) => {
      const answer = await ask(request);
      if (!request.url.includes("/prompt_async")) return answer;
      if (shown) said.push({ role: "user", created: fake.wall, text: prompts.at(-1)! });
      return { ok: status === 200, status, body: status === 200 ? "taken" : "" };
    };
  };
  test.each([408, 502, 504])("an answer %p leaves it open: it is given anew only when the conversation lacks it for long, and twice at most", async (status) => {
    answering(status);
    claim(0);
    await ticks(1);
    expect([prompts.length, watch.outbox[0]?.why]).toEqual([1, "passed to its client; not visible there yet"]);
    await ticks(40);
    expect([prompts.length, watch.outbox, watch.unproven.map(({ text }) => text)]).toEqual([2, [], ["hear this"]]);
    expect(fake.logged("typed, with no sign that the client accepted it")).toHaveLength(1);
  });
  test("while it is open, a newer text of its cause comes after it; withdrawn, it is not taken back, and not given anew", async () => {
    answering(408);
    claim(0);
    const [given] = watch.outbox;
    await ticks(1);
    enqueue(watch, "a", "claim", "the newer one");
    operator({ queue: [{ ...given, expires: 0 }] });
    await ticks(1);
    expect([prompts, watch.outbox.map(({ text }) => text)]).toEqual([["hear this"], ["hear this", "the newer one"]]);
    answering(200);
    await ticks(20);
    expect([prompts, watch.unproven.map(({ text }) => text)]).toEqual([["hear this", "the newer one"], ["hear this"]]);
  });
  test("an answer that is lost, and the conversation shows it", async () => {
    answering(408, true);
    claim(0);
    await ticks(3);
    expect([prompts.length, watch.outbox, watch.unproven]).toEqual([1, [], []]);
  });
  test("a watchdog that dies each time with the text on its way gives it twice at most", async () => {
    claim(0);
    for (let nth = 0; nth < 5; nth++) {
      const { http: ask } = fake;
      fake.http = async (request) => {
        const answer = await ask(request);
        if (request.url.includes("/prompt_async")) throw new Error("its end");
        return answer;
      };
      await ticks(8);
      fake.http = ask;
      watch = await fake.watch(cfg);
    }
    expect([prompts.length, watch.unproven.length]).toEqual([2, 1]);
  });
  test.each([0, 400, 500])("an answer %p is a no: it is tried until it is taken", async (status) => {
    const { http: ask } = fake;
    answering(status);
    claim(0);
    await ticks(6);
    expect([prompts.length, watch.outbox[0]?.why]).toEqual([6, "the opencode server did not accept it"]);
    fake.http = ask;
    await ticks(1);
    expect([watch.outbox, watch.unproven]).toEqual([[], []]);
  });
  test("on a full disk nothing is given, nothing counts as given, and nothing is lost", async () => {
    const { writeAtomic } = world;
    claim(0);
    world.writeAtomic = async () => Promise.reject(Object.assign(new Error("ENOSPC"), { code: "ENOSPC" }));
    await ticks(8);
    expect([prompts, watch.outbox.map(({ tries }) => tries), watch.unproven]).toEqual([[], [0], []]);
    world.writeAtomic = writeAtomic;
    await ticks(2);
    expect([prompts, watch.outbox]).toEqual([["hear this"], []]);
  });
  test("one that says yes in other words than JSON has taken it", async () => {
    answering(200);
    claim(0);
    await ticks(3);
    expect([prompts.length, watch.outbox]).toEqual([1, []]);
  });
  test.each([["send x", ["hear this"]], ["claim", []]])("while its account is limited: %s", async (cause, told) => {
    const { key } = accountOf(cfg, cfg.agents.get("a")!);
    watch.accounts[key] = { name: "oc", class: "5h", resetAt: fake.wall + 3_600_000, asker: "", askedAt: 0, liftedAt: 0 };
    watch.outbox.push(message({ text: "hear this", cause, made: fake.wall }));
    await ticks(2);
    expect([prompts, watch.outbox.length]).toEqual([told, 1 - told.length]);
  });
  test("as long as the server does not say, it waits; each try is on disk before it is made", async () => {
    answers = false;
    claim(1);
    await ticks(3);
    expect([prompts, watch.outbox[0]?.why]).toEqual([[], "the opencode server does not answer"]);
    answers = true;
    const { http: ask } = fake;
    fake.http = async (request) => {
      if (request.url.includes("prompt_async")) expect((await fake.watch(cfg)).outbox[0]!.tries).toBe(2);
      return ask(request);
    };
    await ticks(1);
    expect([prompts, watch.outbox]).toEqual([["hear this"], []]);
  });
});

describe("a client that ends, and its turn at the server", () => {
  const OC = '[defaults]\nbackend = "oc"\nwatch = "heal"\n[backend.oc]\nkind = "opencode"\nbin = "oc"\nserver = "http://127.0.0.1:4096"\n' +
    '[loop]\nphases = [{ id = "p1", plan = "1.md", status = "S1.md" }, { id = "p2", plan = "2.md", status = "S2.md" }]\n[[agent]]\nname = "a"\nkind = "loop"\nrole = "builder"\n[[agent]]\nname = "b"\nprompt = "Work."\n';
  let aborted: string[];
  let prompts: string[];
  let status: number;
  beforeEach(async () => {
    fake = fakeWorld(realFolder());
    [aborted, prompts, status] = [[], [], 200];
    let made = 0;
    fake.http = async ({ method, url, body }) => {
      const { pathname } = new URL(url);
      const [, id] = /^\/session\/(\w+)\/abort$/.exec(pathname) ?? [];
      if (id) aborted.push(id);
      if (id && status === 408) fake.turn(5_000);
      if (id) return { ok: status === 200, status, body: "true" };
      if (pathname.endsWith("/prompt_async")) prompts.push(`${pathname.split("/")[2]}: ${JSON.parse(body!).parts[0].text}`);
      const known: Record<string, unknown> = { "/global/health": { healthy: true }, "/session/status": {}, "/permission": [], "/question": [] };
      return { ok: true, status: 200, body: JSON.stringify(method === "POST" ? { id: `ses_${made += 1}` } : known[pathname] ?? []) };
    };
    fake.tmux.onStart = (one) => void (one.text = "     ▣ Build · gpt · 2s\n\n  ┃\n  ┃  \n  ┃\n  ┃  Build  gpt\n  ╹▀▀▀▀▀▀▀▀▀▀▀▀\n   12K (1%)  ctrl+p commands");
    await begin(OC, 3);
    prompts.length = 0;
  });
  /** As a server that was away: its clients are ended and attached anew. */
  const heal = () => void (memoryOf(watch, "a").serverDown = true);
  const move = () => void (watch.intent = { id: "m", from: "p1", to: "p2", run: "", at: fake.wall });

  test.each<[string, () => unknown, number]>([
    ["healed", heal, 2],
    ["a phase move", move, 2],
    ["down", () => command("down", "a", "--config", cfg.path), 1],
    ["restart", () => command("restart", "a", "--config", cfg.path), 2],
    ["it ended by itself", () => fake.tmux.exit("agents-a", 1), 2],
    ["a person closed its session", () => fake.tmux.kill(fake.tmux.of("agents-a")), 2],
    ["a person closed its session, and then down", () => {
      fake.tmux.kill(fake.tmux.of("agents-a"));
      return command("down", "a", "--config", cfg.path);
    }, 1],
    ["a person closed its session, and then up", () => {
      fake.tmux.kill(fake.tmux.of("agents-a"));
      return command("up", "a", "--config", cfg.path);
    }, 2],
  ])("%s: that turn ends too, and no other", async (_, before, clients) => {
    await before();
    await ticks(3);
    expect([[...new Set(aborted)], starts()]).toEqual([["ses_1"], clients]);
    expect(fake.logged("does not say")).toEqual([]);
  });
  test.each([[408, 2], [500, 2], [404, 0], [0, 0], [200, 0]])("a server that answers %p is asked again before the next start if that told nothing, and holds nobody up", async (answer, said) => {
    status = answer;
    heal();
    await ticks(3);
    const asked = said || 1;
    expect([aborted, starts(), fake.logged("agents-a: its opencode server does not say that it ended the turn").length]).toEqual([Array(asked).fill("ses_1"), 2, said]);
  });
  test("a restart where no watchdog runs gives the kickoff itself, and does not wait for its own order to end", async () => {
    await ticks(3);
    prompts.length = 0;
    const before = fake.wall;
    expect(await command("restart", "b", "--config", cfg.path)).toMatchObject({ code: 0 });
    expect([prompts.length, fake.wall - before < 20_000, (await fake.watch(cfg)).outbox]).toEqual([1, true, []]);
  });
  test.each(["down", "up"])("%s in a copy of the fleet's folder ends no turn of the fleet", async (order) => {
    await ticks(2);
    const copy = realFolder();
    for (const [path, text] of fake.files) if (path.startsWith(fake.home)) fake.files.set(path.replace(fake.home, copy), text);
    for (const folder of fake.folders) fake.folders.add(folder.replace(fake.home, copy));
    fake.files.set(join(copy, "agents.toml"), OC.replace("[defaults]", '[defaults]\nsession_prefix = "copy-"'));
    await command(order, "a", "--config", join(copy, "agents.toml"));
    expect(aborted).toEqual([]);
    await command("down", "a", "--config", cfg.path);
    expect(aborted).toEqual(["ses_1"]);
  });
  test("a client without a conversation of ours has no turn there", async () => {
    fake.tmux.of("agents-a").marks["@agents_conversation"] = "";
    await command("down", "a", "--config", cfg.path);
    expect(aborted).toEqual([]);
  });
  test.each<[string, () => unknown]>([["the same round healed", heal], ["a phase move", move], ["a phase move is about to end", () => {
    move();
    const { text } = world;
    world.text = async (path) => path === phaseIdxFile(cfg) ? Promise.reject(new Error("EIO")) : text(path);
  }], ["a person took down since the look", () => {
    const { http: ask } = fake;
    fake.http = (request) => {
      if (request.url.includes("/question")) operator({ held: { a: fake.wall } });
      return ask(request);
    };
  }]])("whom %s: no text goes to the conversation that it had", async (_, before) => {
    before();
    watch.outbox.push(message({ text: "hear this", made: fake.wall }));
    await ticks(1);
    expect([prompts.filter((one) => one.includes("hear this")), watch.outbox.map(({ cause }) => cause)]).toEqual([[], expect.arrayContaining(["claim"])]);
  });
});

describe("an opencode client and the service that is its server", () => {
  const config = (ready: string) => '[backend.oc]\nkind = "opencode"\nbin = "oc"\nserver = "http://127.0.0.1:4096"\nconnect_delay = 60\n' +
    `[[agent]]\nname = "a"\nbackend = "oc"\nwatch = "heal"\n[[service]]\nname = "web"\ncommand = "serve"\nready = "${ready}"\n`;
  let up: boolean;
  beforeEach(() => {
    up = true;
    fake.http = async ({ url }) => up
      ? { ok: true, status: 200, body: JSON.stringify(url.includes("/health") ? { healthy: true } : { id: "ses_1" }) } : { ok: false, status: 0, body: "" };
    fake.tmux.onStart = (one) => void (one.text = "     ▣ Build · gpt · 2s\n\n  ┃\n  ┃  \n  ┃\n  ┃  Build  gpt\n  ╹▀▀▀▀▀▀▀▀▀▀▀▀\n   12K (1%)  ctrl+p commands");
  });
  const another = (): FakePane => {
    const { marks } = fake.tmux.of("agents-web");
    fake.tmux.kill(fake.tmux.of("agents-web"));
    fake.turn(5_000);
    const web = fake.tmux.add("agents-web");
    web.marks = { ...marks, "@agents_started": `${Math.floor(fake.wall / 1000)}` };
    return web;
  };
  test.each<[string, string, () => void, number]>([
    ["a server of later is another one: attached anew", "4096", () => void another(), 2],
    ["the one that was there before it is the one it has", "4096", () => {}, 1],
    ["another port is another server", "4097", () => void another(), 1],
    ["one of later that has ended serves nobody", "4096", () => void Object.assign(another(), { dead: true, status: 0 }), 1],
  ])("%s", async (_, ready, before, wanted) => {
    await begin(config(ready), 3);
    expect(starts()).toBe(1);
    operator({ held: { web: fake.wall } }); // nobody starts it again
    before();
    await lookAround(cfg, watch);
    fake.http = async ({ url }) => ({ ok: true, status: 200, body: /permission|question/.test(url) ? "[]" : "{}" });
    await ticks(4);
    expect([starts(), fake.logged("its server was restarted").length]).toEqual([wanted, wanted - 1]);
    expect(memoryOf(watch, "a").verdict).not.toBe("unsure"); // the server answers
  });
  test("a server that was away before this client began is no reason to end it", async () => {
    await begin(config("4096"), 3);
    memoryOf(watch, "a").serverDown = true; // as a look found it
    fake.http = async ({ url }) => ({ ok: true, status: 200, body: /permission|question/.test(url) ? "[]" : "{}" });
    fake.tmux.exit("agents-a", 1);
    await ticks(8);
    expect([starts(), fake.logged("its server was restarted")]).toEqual([2, []]);
  });
  test("each time it is started again it waits for its server anew", async () => {
    await begin(config("4096"), 3);
    cfg.services.clear();
    up = false;
    fake.tmux.exit("agents-a", 1);
    await ticks(2); // 30 s each: less than connect_delay
    expect(starts()).toBe(1);
    await ticks(2);
    expect(starts()).toBe(2);
  });
  test("one that was taken down as its server answered waits for it anew", async () => {
    await begin(config("4096"), 3);
    cfg.services.clear();
    up = false;
    fake.tmux.exit("agents-a", 1);
    await ticks(1);
    const { http: ask } = fake;
    fake.http = (request) => {
      if (request.url.includes("/health")) operator({ held: { a: fake.wall } });
      return ask(request);
    };
    up = true;
    await ticks(1);
    expect([starts(), memoryOf(watch, "a").life.state]).toEqual([1, "backoff"]);
    [fake.http, up] = [ask, false];
    operator({});
    await ticks(1);
    expect(starts()).toBe(1);
    await ticks(3);
    expect(starts()).toBe(2);
  });
  test("its word is heard in the same look", async () => {
    await begin(config("4096"), 3);
    fake.http = async ({ url }) => {
      await Promise.resolve();
      const mine = [{ sessionID: "ses_1", permission: "bash" }];
      return { ok: true, status: 200, body: JSON.stringify(url.includes("/permission") ? mine : url.includes("/question") ? [] : {}) };
    };
    expect((await lookAround(cfg, watch)).get("a")!.verdict.why).toBe("permission: bash");
  });
});

describe("an opencode server", () => {
  const OC = '[backend.oc]\nkind = "opencode"\nbin = "oc"\nserver = "http://127.0.0.1:4096"\n[[agent]]\nname = "a"\nbackend = "oc"\nwatch = "heal"\n';
  test("nobody listens: 0; one that drops the connection is there: 408", async () => {
    const dropping = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: (socket) => void socket.terminate() } });
    const { port } = dropping;
    const get = () => http({ method: "GET", url: `http://127.0.0.1:${port}/x` });
    expect((await get()).status).toBe(408);
    dropping.stop(true);
    expect((await get()).status).toBe(0);
  });
  const serve = () => {
    let down: number | null = null;
    fake.http = async ({ url }) => {
      if (down !== null) return { ok: false, status: down, body: "" };
      const body = url.includes("/health") ? { healthy: true } : url.includes("/session?") ? { id: "ses_1" } : url.includes("/session/status") ? {} : [];
      return { ok: true, status: 200, body: JSON.stringify(body) };
    };
    return (status: number | null) => void (down = status);
  };
  test("one answer that is lost restarts nobody; one that nobody gave does", async () => {
    const answer = serve();
    await begin(OC);
    answer(408);
    await ticks(1);
    answer(null);
    await ticks(3);
    expect(starts()).toBe(1);
    answer(0);
    await ticks(1);
    answer(null);
    await ticks(3);
    expect(starts()).toBe(2);
  });
  test("what it says is taken by its shape: ids, permissions, messages", async () => {
    const say = (over: Record<string, unknown>) => void (fake.http = async ({ url }) => ({ ok: true, status: 200, body: JSON.stringify(
      Object.entries(over).find(([path]) => new URL(url).pathname === path)?.[1] ?? (url.includes("/health") ? { healthy: true } : url.includes("/session?") ? { id: "ses_1" } : url.includes("/session/status") ? {} : [])) }));
    say({ "/session": { id: "ses_1\tx\ny" } });
    await begin(OC);
    expect(starts()).toBe(1);
    expect(fake.tmux.of("agents-a").marks["@agents_conversation"]).toBe("");
    fake.tmux.of("agents-a").marks["@agents_conversation"] = "ses_1";
    const why = async (over: Record<string, unknown>) => {
      say(over);
      return (await lookAround(cfg, watch)).get("a")!.verdict.why;
    };
    for (const permission of ["bash", "external_directory", "mcp:x.y/*"]) {
      expect(await why({ "/permission": [null, { sessionID: "ses_1", permission }] })).toBe(`permission: ${permission}`);
    }
    for (const permission of ["\x1b[2Jx", "a\tb", "x".repeat(200), 7.5e300, { a: 1 }, ["x y"], undefined]) {
      expect(await why({ "/permission": [{ sessionID: "ses_1", permission }] })).toMatch(/^permission: one without a proper name$/);
    }
    expect(await why({ "/session/status": { ses_1: { type: "retry", message: `usage limit \x1b[2J\u202e${"y".repeat(1_000_000)}` } } })).toMatch(/^usage limit y{287}…$/);
    for (const path of ["/permission", "/question"]) {
      for (const status of [0, 404, 408, 500, 200, 401]) {
        say({});
        const { http } = fake;
        fake.http = async (request) => new URL(request.url).pathname === path ? { ok: status === 200, status, body: status === 200 ? "<!doctype html>" : "" } : http(request);
        expect((await lookAround(cfg, watch)).get("a")!.verdict.why).toBe(`the opencode server ${status === 401 ? "wants a password" : "does not answer"}`);
      }
    }
    for (const odd of [[], "x", 3, { ses_1: 3 }, { ses_1: { type: {} } }, { ses_1: null }]) expect(await why({ "/session/status": odd })).toBe("the opencode server does not answer");
    for (const path of ["/permission", "/question"]) {
      for (const odd of [{}, "x", 3]) expect(await why({ [path]: odd })).toBe("the opencode server does not answer");
      expect(await why({ [path]: [null, 3, {}, { sessionID: "ses_2" }] })).not.toContain("answer");
    }
    for (const [status, known] of [[404, false], [200, true], [408, true], [500, true]] as const) {
      say({});
      const { http } = fake;
      fake.http = async (request) => new URL(request.url).pathname === "/session/ses_1" ? { ok: status === 200, status, body: "{}" } : http(request);
      const { verdict, why } = (await lookAround(cfg, watch)).get("a")!.verdict;
      expect([status, verdict !== "unsure", why === "the opencode server has no such conversation"]).toEqual([status, known, !known]);
    }
  });
  test("a client that was started without it waits for it no more", async () => {
    serve()(408);
    await begin(OC, 5);
    expect([starts(), memoryOf(watch, "a").life.state]).toEqual([1, "up"]);
  });
});

describe("a client whose name left the config", () => {
  beforeEach(() => {
    for (const dir of ["clone", "other"]) fake.folders.add(`/fleet/${dir}`);
  });
  const where = (name: string, dir: string): string => `[[agent]]\nname = "${name}"\nbackend = "claude"\nwatch = "heal"\ndir = "${dir}"\n`;
  const blocked = () => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === "blocked").map(({ agent, why, cure }) => [agent, why, cure]);
  const orphans = async () => orphansOf(cfg, await snapshot(cfg)).map(({ name, pane }) => [name, pane.dead]);
  const runs = (name: string) => fake.tmux.panes.filter((pane) => pane.session === `agents-${name}` && !pane.dead).length;
  /** The config as it is after an edit, for the rounds that follow. */
  async function edit(text: string): Promise<void> {
    cfg = await fake.config(text);
  }
  const SAID = "tester, no longer in the config, is at work in its folder; end it: agents down tester";

  test("renamed: no second client in the same folder, said once, and started once the other is gone", async () => {
    await begin(where("tester", "clone"));
    expect([runs("tester"), await orphans()]).toEqual([1, []]);
    await edit(where("critic", "clone"));
    await ticks(5);
    expect([runs("tester"), runs("critic"), await orphans(), blocked()]).toEqual([1, 0, [["tester", false]], [["critic", SAID, "status"]]]);
    fake.tmux.kill(fake.tmux.of("agents-tester"));
    await ticks(3);
    expect([runs("critic"), await orphans(), blocked().length]).toEqual([1, [], 1]);
  });
  test.each<[string, string, number]>([
    ["in another folder", where("critic", "other"), 1],
    ["in a folder that the config gives to several", where("critic", "clone") + where("writer", "clone"), 1],
    ["beside one that is disabled there", `${where("critic", "clone")}${where("writer", "clone")}enabled = false\n`, 0],
  ])("%s", async (_, text, started) => {
    await begin(where("tester", "clone"));
    await edit(text);
    await ticks(3);
    expect([runs("tester"), runs("critic")]).toEqual([1, started]);
  });
  test("a service is no client that edits: an agent is started in its folder", async () => {
    await begin('[[service]]\nname = "web"\ncommand = "serve"\ndir = "clone"\n');
    await edit(where("critic", "clone"));
    await ticks(3);
    expect([await orphans(), runs("critic")]).toEqual([[["web", false]], 1]);
  });
  test("its ended client is in nobody's way", async () => {
    await begin(where("tester", "clone"));
    fake.tmux.exit("agents-tester", 0);
    await edit(where("critic", "clone"));
    await ticks(3);
    expect([runs("critic"), await orphans()]).toEqual([1, [["tester", true]]]);
  });
  test("that tmux does not say where it works is no leave to start another", async () => {
    await begin(where("tester", "clone"));
    await edit(where("critic", "clone"));
    fake.tmux.of("agents-tester").cwd = "";
    await ticks(3);
    expect([runs("critic"), blocked()]).toEqual([0, [["critic", expect.stringContaining("tmux does not say whether tester"), "status"]]]);
  });
  test.each([["another", "clone", 1], ["the same", "other", 0]])("a folder on a disk that does not answer is not looked at; by its name it is %s", async (_, dir, started) => {
    await begin(where("tester", "other"));
    const hung = cfg.agents.get("tester")!.dir;
    const asked: string[] = [];
    await edit(where("critic", dir));
    Object.assign(world, { answers: async (path: string) => path !== hung || dir === "other", realPath: (path: string) => (asked.push(path), path) });
    await ticks(3);
    expect([runs("tester"), runs("critic"), asked.filter((path) => path === hung)]).toEqual([1, started, []]);
  });
  test("never one of another fleet, of a person, or of the original", async () => {
    await begin(where("critic", "clone"));
    const other = { "@agents_session": "agents-tester", "@agents_backend": "claude" };
    Object.assign(fake.tmux.add("agents-tester"), { marks: { ...other, "@agents_home": "/other/.agents/state" } });
    Object.assign(fake.tmux.add("agents-writer"), { marks: { "@agents_session": "agents-writer", "@agents_backend": "claude" } });
    fake.tmux.add("agents-human");
    expect(await orphans()).toEqual([]);
  });
  test("the session that shows the watchdog's log is no client, whatever prefix it has", async () => {
    await begin(where("tester", "clone"));
    for (const unit of ["watchdog", "builder"]) {
      const session = `night-${unit}`;
      Object.assign(fake.tmux.add(session), { marks: { "@agents_session": session, "@agents_home": cfg.stateDir, "@agents_unit": unit } });
    }
    expect(await orphans()).toEqual([["night-builder", false]]);
  });
  test("with the prefix changed it is named by its session; who is in the config still is no orphan", async () => {
    await begin(where("tester", "clone"));
    await edit(`[defaults]\nsession_prefix = "night-"\n${where("tester", "clone")}`);
    expect(await orphans()).toEqual([]);
    await edit(`[defaults]\nsession_prefix = "night-"\n${where("critic", "clone")}`);
    expect(await orphans()).toEqual([["agents-tester", false]]);
  });
});

describe("a client of another fleet", () => {
  const THEIRS = "/night/.agents/state";
  const agents = (dir: string, ...names: string[]): string => names.map((name) => `[[agent]]\nname = "${name}"\nbackend = "claude"\nwatch = "heal"\ndir = "${dir}"\n`).join("");
  /** Our fleet, whose only agent would start where another fleet has a pane. */
  async function beside(dir: string, more: Record<string, string> = {}, ...names: string[]) {
    fake = fakeWorld(realFolder());
    fake.tmux.onStart = (one) => void (one.doing = "busy");
    for (const one of ["clone", "other"]) fake.folders.add(`${fake.home}/${one}`);
    const pane = Object.assign(fake.tmux.add("night-builder"), { cwd: `${fake.home}/clone`,
      marks: { "@agents_session": "night-builder", "@agents_backend": "claude", "@agents_home": THEIRS, "@agents_unit": "builder", ...more } });
    await begin(agents(dir, "a", ...names));
    return pane;
  }
  const SAID = "builder of the fleet of /night/.agents is at work in its folder";

  test("in the folder of an agent: it is not started there, whoever asks, and the other is named; it starts once that has ended", async () => {
    const pane = await beside("clone");
    for (const words of [["up", "a"], ["restart", "a"]]) expect((await command(...words, "--config", cfg.path)).code).toBe(1);
    expect([starts("a"), fake.logged(`a: ${SAID}; end it: agents down builder --config CONFIG`).length]).toEqual([0, 2]);
    await ticks(2);
    expect([starts("a"), fake.tmux.panes.includes(pane)]).toEqual([0, true]);
    const { agents: [row] } = JSON.parse((await command("status", "--json", "--config", cfg.path)).out);
    expect([row.detail, row.cure, row.needsHuman]).toEqual([SAID, "down builder --config CONFIG", true]);
    expect((await command("explain", "a", "--config", cfg.path)).out).toContain(`leaves it down: ${SAID}`);
    fake.tmux.kill(pane);
    await ticks(3);
    expect(starts("a")).toBe(1);
  });
  test("tmux is asked once for the folders of all clients, not once for each agent", async () => {
    const { marks } = await beside("clone");
    Object.assign(fake.tmux.add("night-tester"), { cwd: `${fake.home}/other`, marks: { ...marks, "@agents_session": "night-tester", "@agents_unit": "tester" } });
    await begin(agents("clone", "a") + agents("other", "b"));
    await command("up", "a", "b", "--config", cfg.path);
    const { tmux } = world;
    let calls = 0;
    world.tmux = (args, ...rest) => (calls += Number(args.some((arg) => arg.includes("pane_start_path"))), tmux(args, ...rest));
    const asked = async (look: () => Promise<unknown>): Promise<number> => (calls = 0, await look(), calls);
    expect([await asked(() => ticks(1)), await asked(() => command("status", "--config", cfg.path)), await asked(() => command("restart", "a", "b", "--config", cfg.path))]).toEqual([1, 1, 1]);
  });
  test("elsewhere: no agent has the folders of all the others looked at", async () => {
    await beside("clone");
    const names = Array.from({ length: 30 }, (_, nth) => `a${nth}`);
    await begin(names.map((name) => agents(name, name)).join(""), 0);
    const { answers } = world;
    let asked = 0;
    world.answers = (path) => (asked += 1, answers(path));
    await command("status", "--config", cfg.path);
    expect(asked).toBeLessThan(names.length * 10);
  });
  test("is ended by its own config, which its keeper names; the folders of others are not looked at on a disk that does not answer", async () => {
    const pane = await beside("clone");
    const { answers, realPath } = world;
    const asked: string[] = [];
    Object.assign(world, { answers: async (path: string) => !path.startsWith("/day") && answers(path), realPath: (path: string) => (asked.push(path), realPath(path)) });
    const proc = (pid: number | string, words: string[]) => {
      for (const [file, text] of Object.entries({ cmdline: ["bun", "agents.ts", ...words].join("\0"), status: "Uid:\t1000\t1000\n", mountinfo: "22 1 / /" })) fake.files.set(`/proc/${pid}/${file}`, text);
    };
    proc("self", ["up"]);
    proc(11, ["keep", "--last-good", "/day/.agents/state/agents.toml", "--config", "/day/agents.toml"]);
    proc(12, ["keep", "--last-good", `${THEIRS}/agents.toml`, "--config", "/night/my agents.toml"]);
    await command("up", "a", "--config", cfg.path);
    expect(fake.logged(`a: ${SAID}; end it: agents down builder --config '/night/my agents.toml'`)).toHaveLength(1);
    // its folder was moved since, and another fleet's is in the old place
    pane.marks["@agents_fleet"] = "theirs";
    proc(13, ["keep", "--last-good", "/moved/.agents/state/agents.toml", "--config", "/moved/agents.toml"]);
    fake.files.set("/moved/.agents/state/fleet", "theirs\n1:1\n");
    await command("up", "a", "--config", cfg.path);
    expect(fake.logged(`a: ${SAID}; end it: agents down builder --config /moved/agents.toml`)).toHaveLength(1);
    expect(asked.filter((path) => path.startsWith("/day"))).toEqual([]);
  });
  test.each<[string, string, Record<string, string>, string[]]>([
    ["in another folder", "other", {}, []],
    ["that is a service", "clone", { "@agents_backend": "" }, []],
    ["in a folder that our config gives to several", "clone", {}, ["b"]],
  ])("%s is in nobody's way", async (_, dir, marks, names) => {
    await beside(dir, marks, ...names);
    expect(starts("a")).toBe(1);
  });
  test("in a folder that our config gives to several by different paths is in nobody's way; to none but one it is", async () => {
    await beside("clone");
    const paths = [`${fake.home}/clone`, "/mounted", "/elsewhere"];
    world.folderId = (path) => ({ [paths[0]!]: "1:1", "/mounted": "1:1", "/elsewhere": "1:2" }[path] ?? "");
    for (const path of paths) fake.folders.add(path);
    const begun = async (other: string): Promise<number> => (await begin(agents("clone", "a") + agents(other, "b")), starts("a"));
    expect([await begun("/elsewhere"), await begun("/mounted")]).toEqual([0, 1]);
    const spelled = await beside("clone").then(() => begun(`${fake.home}//other/../clone/`));
    expect(spelled).toBe(1);
  });
});

test("a start that cannot be stored, as on a full disk, makes no further conversation at an opencode server: the one it made is used, unless the server forgot it", async () => {
  const made: string[] = [];
  let forgot = "";
  fake.http = async ({ method, url }) => {
    const { pathname } = new URL(url);
    if (method === "POST" && pathname === "/session") made.push(`ses_${made.length + 1}`);
    if (forgot && pathname === `/session/${forgot}`) return { ok: false, status: 404, body: "" };
    return { ok: true, status: 200, body: JSON.stringify(pathname === "/global/health" ? { healthy: true } : { id: made.at(-1) }) };
  };
  await begin('[[agent]]\nname = "a"\nbackend = "opencode"\nwatch = "heal"\nprompt = "x"\n', 0);
  const write = fake.write.bind(fake);
  fake.write = (path, text) => {
    if (path.endsWith("/watch.json")) throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
    write(path, text);
  };
  await ticks(10);
  expect([made, starts("a")]).toEqual([["ses_1"], 0]);
  forgot = "ses_1";
  await ticks(5);
  expect([made, starts("a")]).toEqual([["ses_1", "ses_2"], 0]);
  fake.write = write;
  await ticks(2);
  expect([made, fake.everyPane.map(({ argv }) => argv.at(-1))]).toEqual([["ses_1", "ses_2"], ["ses_2"]]);
});

test("a conversation made for a start that failed is not used in another folder, as where dir was changed since", async () => {
  const made: string[] = [];
  fake.http = async ({ method, url }) => {
    const { pathname, searchParams } = new URL(url);
    if (method === "POST" && pathname === "/session") made.push(searchParams.get("directory")!);
    return { ok: true, status: 200, body: JSON.stringify(pathname === "/global/health" ? { healthy: true } : { id: `ses_${made.length}` }) };
  };
  const opencode = (dir: string) => `[[agent]]\nname = "a"\nbackend = "opencode"\nwatch = "heal"\nprompt = "x"\ndir = "${dir}"\n`;
  for (const dir of ["old", "new"]) fake.folders.add(`/fleet/${dir}`);
  await begin(opencode("old"), 0);
  const write = fake.write.bind(fake);
  fake.write = (path, text) => {
    if (path.endsWith("/watch.json")) throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
    write(path, text);
  };
  await ticks(5);
  expect([made, starts("a")]).toEqual([["/fleet/old"], 0]);
  fake.write = write;
  await fake.ticks(await fake.config(opencode("new")), watch, 5);
  expect([made, fake.everyPane.map(({ argv }) => argv.at(-1))]).toEqual([["/fleet/old", "/fleet/new"], ["ses_2"]]);
});
