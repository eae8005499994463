/** Notices to people: received whole by a real listener, by a secret that is only named, tried again. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { type AgentEvent, childEnv, decideNotices, loadWatch, NOTICE_TRIES, noteNotices, noticeText, notifyPeople, run, save, untoldEvents, world } from "../agents.ts";
import { agents, command, Death, realFolder, scene } from "./kit.ts";
import { type Fleet, life, quote, real, SELF, signal, spawn, until } from "./real.ts";

interface Post {
  text: string;
  type: string;
}

/** A listener on loopback; `answer` says with which status it answers a post, and when. */
function listener(answer: (post: Post) => number | Promise<number> = () => 200) {
  const posts: Post[] = [];
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, idleTimeout: 60, fetch: async (request) => {
    const post = { text: await request.text(), type: request.headers.get("content-type") ?? "" };
    posts.push(post);
    return new Response("", { status: await answer(post) });
  } });
  return { posts, url: `http://127.0.0.1:${server.port}/fleet`, stop: () => server.stop(true) };
}

/** The events in the posts of a listener that is told by JSON. */
const eventsIn = (posts: Post[]): AgentEvent[] => posts.flatMap(({ text }) => JSON.parse(text).events);

describe("notify --test", () => {
  const dir = mkdtempSync(join(tmpdir(), "notice-"));
  const heard = listener();
  beforeAll(() => void heard.posts.splice(0));
  afterAll(() => {
    heard.stop();
    rmSync(dir, { recursive: true });
  });
  const prepared = (keys: string, words = ["--test"]): string[] => {
    const config = join(dir, "agents.toml");
    writeFileSync(config, `[notify]\n${keys}\n[[agent]]\nname = "a"\nbackend = "claude"\n`);
    heard.posts.length = 0;
    return ["notify", ...words, "--config", config];
  };
  const notify = (keys: string, words?: string[]) => command(...prepared(keys, words));
  /** From a shell of somebody whose home folder this is. */
  const notifyAtHome = (keys: string, env: Record<string, string> = {}) =>
    spawn([...SELF, ...prepared(keys)], { env: { PATH: process.env.PATH, HOME: dir, ...env } });
  const secret = (mode: number): string => {
    const path = join(dir, `secret-${mode.toString(8)}`);
    writeFileSync(path, `${heard.url}\n`);
    chmodSync(path, mode);
    return path;
  };

  /** Its config stands in the home folder, here. */
  const SAID = `~ (agents-) on ${hostname()}\ntest: a test of the notices`;

  test("a notice arrives whole, as text and as JSON", async () => {
    expect(await notifyAtHome(`url = "${heard.url}"`)).toEqual({ code: 0, out: "sent\n", err: "" });
    expect(heard.posts).toEqual([{ text: SAID, type: "text/plain; charset=utf-8" }]);
    expect((await notifyAtHome(`url = "json:${heard.url}"`)).code).toBe(0);
    expect(heard.posts[0]!.type).toBe("application/json");
    expect(JSON.parse(heard.posts[0]!.text)).toMatchObject({ text: SAID, events: [{ event: "test" }] });
  });

  test("the command gets the events on its standard input, the text in its environment", async () => {
    const ran = await notifyAtHome(`command = '''cat > "$HOME/stdin"; printf %s "$AGENTS_NOTICE" > "$HOME/notice"'''`);
    expect([ran.code, ran.out]).toEqual([0, "sent\n"]);
    expect(JSON.parse(readFileSync(join(dir, "stdin"), "utf8"))).toEqual([expect.objectContaining({ event: "test", why: "a test of the notices" })]);
    expect(readFileSync(join(dir, "notice"), "utf8")).toBe(SAID);
    const failed = await notify('command = "echo no such phone >&2; exit 3"');
    expect(failed).toEqual({ code: 1, out: "", err: "agents: notify: the command failed: no such phone\n" });
    expect((await notify('command = "printf %0300d 0 >&2; exit 3"')).err).toBe(`agents: notify: the command failed: ${"0".repeat(200)}\n`);
  });

  test.each(["", "json:"])("a secret URL is named, not written: %p", async (form) => {
    expect((await notifyAtHome(`url = "${form}env:HOOK"`, { HOOK: heard.url })).code).toBe(0);
    expect(heard.posts).toHaveLength(1);
    expect((await notify(`url = "${form}file:${secret(0o600)}"`)).code).toBe(0);
    expect(heard.posts).toHaveLength(1);
    expect((await notifyAtHome(`url = "${form}file:~/secret-600"`)).code).toBe(0);
    expect(heard.posts).toHaveLength(1);
  });

  test("a secret that is not set, not there, or readable by others is an error, and nothing is sent", async () => {
    const unset = await notify('url = "env:HOOK"');
    expect([unset.code, unset.err]).toEqual([1, "agents: notify: env:HOOK is not set\n"]);
    for (const mode of [0o644, 0o640, 0o604, 0o620]) {
      const path = secret(mode);
      const open = await notify(`url = "file:${path}"`);
      expect([open.code, open.err]).toEqual([1, `agents: notify: ${path} is readable by others (chmod 600 it)\n`]);
    }
    const fifo = join(realFolder(), "fifo");
    Bun.spawnSync(["mkfifo", "-m", "600", fifo]);
    const waited = await notify(`url = "file:${fifo}"`);
    expect([waited.code, waited.err]).toEqual([1, `agents: notify: ${fifo} is empty or unreadable\n`]);
    const gone = await notify('url = "file:/nowhere/hook"');
    expect([gone.code, gone.err]).toEqual([1, expect.stringContaining("/nowhere/hook")]);
    expect(heard.posts).toEqual([]);
  });

  describe("the README's lines for [notify]", () => {
    const README = readFileSync(join(import.meta.dir, "..", "README.md"), "utf8");
    const lines = /^```toml\n\[notify\]\n([^]*?)^```/m.exec(README)![1]!.trim().split("\n");
    test("for ntfy, Slack, Telegram and mail", () => expect(lines.map((line) => /ntfy|Slack|telegram|mail/.exec(line)?.[0])).toEqual(["ntfy", "Slack", "telegram", "mail"]));
    test.each(lines.filter((line) => line.startsWith("url")))("%s", async (line) => {
      writeFileSync(join(dir, ".slack-webhook"), `${heard.url}\n`, { mode: 0o600 });
      expect(await notifyAtHome(line.replace("https://ntfy.sh/YOUR-TOPIC", heard.url))).toEqual({ code: 0, out: "sent\n", err: "" });
      expect(heard.posts).toHaveLength(1);
      expect(heard.posts[0]!.text).toInclude("test: a test of the notices");
    });
    test.each(lines.filter((line) => line.startsWith("command")))("%s", async (line) => {
      const bin = join(dir, "bin");
      mkdirSync(bin, { recursive: true });
      for (const name of ["curl", "mail"]) {
        writeFileSync(join(bin, name), `#!/bin/sh\n{ printf '<%s>' ${name} "$@"; [ ${name} = curl ] || cat; } >"$HOME/got"\n`, { mode: 0o755 });
      }
      writeFileSync(join(dir, ".telegram"), "123:abc\n");
      expect(await notifyAtHome(line, { PATH: `${bin}:${process.env.PATH}` })).toEqual({ code: 0, out: "sent\n", err: "" });
      expect(readFileSync(join(dir, "got"), "utf8")).toBe(line.includes("curl")
        ? `<curl><-fsS><https://api.telegram.org/bot123:abc/sendMessage><-d><chat_id=YOU><--data-urlencode><text=${SAID}>`
        : `<mail><-s><agents><you@example.org>${SAID}\n`);
    });
  });
  test("nothing to tell by: exit 1; without --test: exit 2", async () => {
    expect(await notify("")).toEqual({ code: 1, out: "", err: "agents: [notify] names neither command nor url\n" });
    expect(await notify(`url = "${heard.url}"`, [])).toEqual({ code: 2, out: "", err: "agents: usage: notify --test\n" });
    expect(heard.posts).toEqual([]);
  });

  test("a listener that refuses or hangs is a failure, within the deadline", async () => {
    const hangs = listener(({ text }) => (text.startsWith("{") ? new Promise(() => {}) : 500));
    const refused = await notify(`url = "${hangs.url}"`);
    expect([refused.code, refused.err]).toEqual([1, expect.stringContaining("answered 500")]);
    const { timeout } = AbortSignal;
    const deadlines: number[] = [];
    AbortSignal.timeout = (ms) => (deadlines.push(ms), timeout.call(AbortSignal, 100));
    try {
      const { cfg } = await scene(`[notify]\nurl = "json:${hangs.url}"\n${agents("a")}`, { ticks: 0 });
      const hung = await command("notify", "--test", "--config", cfg.path);
      expect([hung, deadlines]).toEqual([{ code: 1, out: "", err: "agents: notify: the URL did not answer (TimeoutError)\n" }, [10_000]]);
      const nobody = await scene(`[notify]\nurl = "http://127.0.0.1:9/secret"\n${agents("a")}`, { ticks: 0 });
      expect((await command("notify", "--test", "--config", nobody.cfg.path)).err).toBe("agents: notify: the URL did not answer (ECONNREFUSED)\n");
    } finally {
      AbortSignal.timeout = timeout;
      hangs.stop();
    }
  });
});

test("the fleet, and a line per event: who, what, until when, what to type", () => {
  const until = "2026-06-15T12:00:00.000Z";
  const events: AgentEvent[] = [{ at: "", event: "blocked", agent: "a", why: "a dialog" }, { at: "", event: "phase", from: "p1", to: "p2" },
    { at: "", event: "parked", agent: "b", why: "5 starts" }, { at: "", event: "limited", agent: "c", class: "5h", until }, { at: "", event: "config", why: "line 3" }];
  const [fleet, blocked, phase, parked, limited, config] = noticeText(events, "~/night (agents-) on host").split("\n");
  expect([fleet, blocked, phase]).toEqual(["~/night (agents-) on host", "a blocked: a dialog · agents attach a", "phase p1 → p2"]);
  expect([parked, limited, config]).toEqual(["b parked: 5 starts · agents up b", expect.stringMatching(/^c limited until .*\d\d:00 · agents status$/), "config: line 3 · agents doctor"]);
  expect(noticeText([{ at: "", event: "blocked", agent: "a", why: "its old client cannot be ended", cure: "status" }], "fleet")).toEndWith("\na blocked: its old client cannot be ended · agents status");
  expect(noticeText([{ at: "", event: "config", to: "ok", why: "it is valid again" }], "fleet")).toBe("fleet\nconfig → ok: it is valid again");
  expect(noticeText([{ at: "", event: "limited", agent: "c", class: "other", until: "", asks: until }], "fleet")).toMatch(/\nc limited with no reset time, asked again at .*\d\d:00 · agents status$/);
});

test("a line is one line, printable and cut, and fifty of them fit into a variable", () => {
  const hostile: AgentEvent = { at: "", event: "deadlock", agent: "a", why: `one\n\x1b]52;c;eA==\x07\x1b[31mtwo\u202e${"😀".repeat(100_000)}` };
  const [line, ...more] = noticeText([hostile], "fleet").split("\n").slice(1);
  expect([[...line!].slice(0, 22).join(""), more, /[\p{Cc}\p{Cf}]/u.test(line!)]).toEqual(["a deadlock: one two😀😀😀", [], false]);
  expect([...line!].length).toBe(400 + " · agents status".length);
  const fifty = noticeText(Array(500).fill(hostile), "fleet");
  expect([fifty.split("\n").length, Buffer.byteLength(`AGENTS_NOTICE=${fifty}`) < 128 * 1024]).toEqual([51, true]);
});

test("what an event says is cut before it is written anywhere", async () => {
  const { fake, cfg, watch, ticks, file } = await scene(`[notify]\ncommand = "true"\n${agents("a")}`);
  noteNotices(cfg, watch, "x", 1);
  for (let tries = 1; tries < NOTICE_TRIES; tries++) noteNotices(cfg, watch, `E2BIG \x1b[2J${"x".repeat(1_000_000)}`, 1);
  await ticks();
  const events = fake.files.get(file("events.jsonl"))!;
  expect([events.length < 5_000, /\x1b|\\u001b/.test(events), fake.files.get(file("watch.json"))!.length < 5_000]).toEqual([true, false, true]);
});

test("a batch that cannot be sent is dropped after its tries, which status and an event say; later ones go", async () => {
  const { fake, cfg, watch, again, file } = await scene(agents("a"));
  const tries = Array.from({ length: NOTICE_TRIES }, () => {
    fake.turn(60_000);
    return noteNotices(cfg, watch, "the command failed: E2BIG", 7);
  });
  expect(tries).toEqual([...Array(NOTICE_TRIES - 1).fill(true), false]);
  await save(cfg, watch);
  const said = await command("status", "--config", cfg.path);
  expect([said.code, said.out]).toEqual([3, expect.stringMatching(/^notices: none sent for 9m; 7 dropped, the last 0s ago: the command failed: E2BIG$/m)]);
  expect(fake.files.get(file("events.jsonl"))).toContain('"event":"notices","dropped":7,"why":"the command failed: E2BIG"');
  expect(fake.logged("dropped 7 notices after")).toHaveLength(1);
  expect(noteNotices(cfg, await again(), "", 3)).toBe(false);
  await save(cfg, await loadWatch(cfg));
});

test("a failure that passes needs nobody, one that lasts does, a loss is shown for a day", () => {
  const fail = (before: ReturnType<typeof decideNotices>, times: number, at = 0) =>
    Array.from({ length: times }).reduce<typeof before>((last) => decideNotices(last, "why", 2, at), before);
  expect(decideNotices(null, "", 2, 5)).toBeNull();
  expect(decideNotices(fail(null, 1), "", 2, 5)).toBeNull();
  expect(fail(null, 2, 5)).toEqual({ tries: 2, since: 5, dropped: 0, droppedAt: 0, why: "why" });
  expect(fail(null, NOTICE_TRIES, 5)).toEqual({ tries: 0, since: 5, dropped: 2, droppedAt: 5, why: "why" });
  expect(decideNotices(fail(null, NOTICE_TRIES, 5), "", 2, 9)).toEqual({ tries: 0, since: 0, dropped: 2, droppedAt: 5, why: "why" });
});

test("`status` says so from the third failure on, and of a loss for a day", async () => {
  const { fake, cfg, watch } = await scene(agents("a"));
  const shown = async (why = "E2BIG"): Promise<string> => {
    noteNotices(cfg, watch, why, 7);
    await save(cfg, watch);
    return /^notices: .*$/m.exec((await command("status", "--config", cfg.path)).out)?.[0] ?? "";
  };
  expect([await shown(), await shown(), await shown()]).toEqual(["", "", "notices: none sent for 0s: E2BIG"]);
  for (let tries = 3; tries < NOTICE_TRIES; tries++) await shown();
  fake.turn(24 * 3_600_000 - 1_000);
  expect(await shown("")).toBe("notices: 7 dropped, the last 23h ago: E2BIG");
  fake.turn(1_000);
  expect(await shown("")).toBe("");
});

test("`status` says so from the first failure on where events are lost by it, as they wait", async () => {
  const { fake, cfg, watch } = await scene(agents("a"));
  const shown = async (droppedAt: number) => {
    watch.notices = { tries: 1, since: fake.wall, dropped: 3, droppedAt, why: "E2BIG" };
    await save(cfg, watch);
    return /^notices: .*$/m.exec((await command("status", "--config", cfg.path)).out)?.[0];
  };
  expect(await shown(fake.wall)).toBe("notices: none sent for 0s; 3 dropped, the last 0s ago: E2BIG");
  expect(await shown(fake.wall - 1_000)).toBe("notices: 3 dropped, the last 1s ago: E2BIG");
});

test("what a watchdog left untold is told by the next one, for an hour", () => {
  const began = Date.UTC(2026, 5, 15, 12);
  const event = (event: string, ago: number, more: object = {}): AgentEvent => ({ at: new Date(began - ago * 1000).toISOString(), event, ...more });
  const untold = (...events: AgentEvent[]) => untoldEvents(events, ["blocked", "parked"], began).map(({ agent }) => agent);
  const at = (ago: number) => new Date(began - ago * 1000).toISOString();
  expect(untold(event("blocked", 30, { agent: "a" }), event("state", 20, { agent: "b" }), event("parked", 10, { agent: "c" }))).toEqual(["a", "c"]);
  expect(untold(event("blocked", 3_700, { agent: "old" }), event("blocked", 0, { agent: "of this watchdog" }))).toEqual([]);
  // it happened while the notice before it was on its way
  expect(untold(event("blocked", 30, { agent: "a" }), event("blocked", 20, { agent: "b" }), event("notified", 10, { upTo: at(30) }))).toEqual(["b"]);
  expect(untold(event("blocked", 30, { agent: "a" }), event("notices", 10, { dropped: 1 }))).toEqual([]);
});

test("a receiver that is away: longer pauses, the command told once, the newest fifty kept, a batch given up after its tries", async () => {
  const answers: number[] = [];
  const heard = listener(() => answers.shift() ?? 200);
  const told = join(realFolder(), "told");
  try {
    const { fake, cfg, watch } = await scene(`[notify]\nurl = "json:${heard.url}"\ncommand = "cat >> '${told}'"\nevents = ["blocked"]\n${agents("a")}`);
    cfg.notify.events.push("notices"); // an event that a test can make as it likes
    const now = () => new Date(fake.wall).toISOString();
    fake.files.set(join(cfg.stateDir, "events.jsonl"), `${JSON.stringify({ at: now(), event: "blocked", agent: "untold" })}\n`);
    fake.turn(1);
    // an event each, numbered by what it says was dropped
    const other = await fake.watch(cfg);
    const happen = (from: number, to: number): void => {
      for (let nth = from; nth <= to; nth++) {
        other.notices = { tries: NOTICE_TRIES - 1, since: 1, dropped: 0, droppedAt: 0, why: "" };
        noteNotices(cfg, other, "x", nth);
      }
    };
    const pauses: number[] = [];
    const happens: Record<number, () => void> = {
      1: () => void answers.push(500, 500), 2: () => happen(1, 60), 3: () => happen(61, 61), 5: () => happen(62, 63),
      7: () => (happen(70, 70), answers.push(...Array(NOTICE_TRIES).fill(500))), [7 + NOTICE_TRIES]: () => happen(80, 80),
    };
    world.sleep = async (ms) => {
      pauses.push(ms / 1000);
      fake.turn(ms);
      happens[pauses.length]?.();
      if (pauses.length === 9 + NOTICE_TRIES) throw new Death("enough");
    };
    await expect(notifyPeople(() => cfg, watch)).rejects.toThrow("enough");
    expect(pauses).toEqual([1, 5, 10, 1, 1, 1, 1, 5, 10, 20, 40, 80, 160, 300, 300, 300, 1, 1, 1]);
    const said = (events: AgentEvent[]) => events.map(({ agent, dropped }) => agent ?? dropped);
    const numbers = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, nth) => from + nth);
    const first = ["untold"];
    expect(heard.posts.map(({ text }) => said(JSON.parse(text).events))).toEqual([first, first, first, numbers(11, 60), numbers(61, 63), ...Array(NOTICE_TRIES).fill([70]), [1, 80]]);
    expect(readFileSync(told, "utf8").trim().split("\n").map((line) => said(JSON.parse(line)))).toEqual([first, numbers(11, 60), numbers(61, 63), [70], [1, 80]]);
    expect(fake.logged("dropped 1 notice after 10 tries: notify: the URL answered 500").length).toBeGreaterThan(0);
    // what the next watchdog need not tell: all up to the last of a batch
    const posted = JSON.parse(heard.posts.at(-1)!.text).events as AgentEvent[];
    const record = fake.files.get(join(cfg.stateDir, "events.jsonl"))!.trim().split("\n").map((line) => JSON.parse(line) as AgentEvent);
    expect([record.findLast(({ event }) => event === "notified")!.upTo, posted[0]!.at < posted[1]!.at]).toEqual([posted[1]!.at, true]);
    // the ten that were too many, and the batch that was given up
    expect([fake.logged("dropped 10 notices: more than 50 wait").length, watch.notices?.dropped]).toEqual([1, 11]);
  } finally {
    heard.stop();
  }
});

test("what waits while [notify] is taken out of the config was not told", async () => {
  const { fake, cfg, watch, file } = await scene(`[notify]\ncommand = "false"\nevents = ["blocked"]\n${agents("a")}`);
  fake.files.set(file("events.jsonl"), `${JSON.stringify({ at: new Date(fake.wall).toISOString(), event: "blocked", agent: "a" })}\n`);
  fake.turn(1);
  let [now, sleeps] = [cfg, 0];
  world.sleep = async (ms) => {
    fake.turn(ms);
    sleeps += 1;
    if (sleeps === 2) now = await fake.config(agents("a"));
    if (sleeps === 4) throw new Death("enough");
  };
  await expect(notifyPeople(() => now, watch)).rejects.toThrow("enough");
  expect([fake.files.get(file("events.jsonl"))!.includes('"notified"'), fake.logged("notify: the command failed").length]).toEqual([false, 1]);
});

test.each(["env:", "json:env:"])("the variable that [notify] names by %s reaches no other program", async (form) => {
  process.env.HOOK_OF_TEST = "https://example.org/secret";
  try {
    const { pane } = await scene(`[notify]\nurl = "${form}HOOK_OF_TEST"\n${agents("a")}`);
    expect([childEnv().HOOK_OF_TEST, childEnv(true).HOOK_OF_TEST]).toEqual([undefined, process.env.HOOK_OF_TEST]);
    expect((await run(["sh", "-c", "echo [$HOOK_OF_TEST]"], 5_000)).out).toBe("[]\n");
    expect(pane().room.options["-HOOK_OF_TEST"]).toBe("removed");
  } finally {
    delete process.env.HOOK_OF_TEST;
  }
});

test.concurrent("a command is over at its own exit, whatever it left in the background holds open", async () => {
  const began = performance.now();
  const ran = await run(["sh", "-c", "echo said; sleep 30 & echo $!; exit 3"], 20_000);
  const [said, child] = ran.out.trim().split("\n");
  process.kill(Number(child), "SIGKILL");
  expect([ran.ok, ran.timedOut, said, performance.now() - began < 10_000]).toEqual([false, false, "said", true]);
  expect((await run(["sh", "-c", "sleep 30 & kill $!; exit 0"], 20_000)).ok).toBe(true);
  const much = await run(["sh", "-c", "head -c 3000000 /dev/zero"], 20_000);
  expect([much.ok, much.out.length]).toEqual([true, 3_000_000]);
});

/** The [notify] of a fleet whose command files what it is told, a line per notice. */
const notified = (f: Fleet, keys: string, more = ""): void => void f.write("agents.toml", f.text({
  ...f.plan, toml: `[notify]\ncommand = ${JSON.stringify(`cat >> ${quote(f.path("told"))}`)}\n${keys}\n${more}`,
}));
const commandTold = (f: Fleet): AgentEvent[][] => f.read("told").split("\n").filter(Boolean).map((line) => JSON.parse(line));

const away = life({
  agents: [{ name: "a1", watch: "heal" }], toml: '[notify]\nurl = "env:FLEET_HOOK"\n', env: { FLEET_HOOK: "https://example.org/secret" },
});
/** More than are kept for a receiver that is away: agents whose folder is not there, each an event and none a process. */
const MORE = 53;
/** Its next dialog is an event again, and is told by the keys that are in force by then. */
const atWork = async (f: Fleet): Promise<void> => {
  f.control("a1", "idle");
  await until(() => f.events("state").findLast(({ agent }) => agent === "a1")!.to === "idle");
  await f.ticks(2);
};

real("a running watchdog tells what [notify] lists and nothing else; a receiver that is away is tried again, and it alone", {
  agents: [{ name: "a1", watch: "heal" }, { name: "b1", watch: "heal" }], watchdog: { signal_interval: 1 },
}, async (f) => {
  const answers = [500, 500];
  const heard = listener(() => answers.shift() ?? 200);
  try {
    const path = f.write("hook", heard.url);
    chmodSync(path, 0o600);
    notified(f, `url = ${JSON.stringify(`json:file:${path}`)}\nevents = ["blocked"]`);
    await f.up();
    await f.ready("a1", "b1");
    f.control("a1", "dialog");
    await until(() => f.log.includes("the URL answered 500; trying again in 5 s"));
    expect(eventsIn(heard.posts)).toMatchObject([{ event: "blocked", agent: "a1" }]);
    // what happens meanwhile waits behind it
    f.control("b1", "dialog");
    await until(() => f.events("blocked").length === 2);
    await until(() => heard.posts.length === 4, 30_000);
    expect(heard.posts.slice(1, 3)).toEqual([heard.posts[0]!, heard.posts[0]!]);
    expect(eventsIn(heard.posts).map(({ event, agent }) => `${agent} ${event}`)).toEqual(["a1 blocked", "a1 blocked", "a1 blocked", "b1 blocked"]);
    expect(commandTold(f)).toMatchObject([[{ event: "blocked", agent: "a1" }], [{ event: "blocked", agent: "b1" }]]);
    expect(f.events().map(({ event }) => event)).toContain("state");
    await until(() => f.events("notified").length === 2);
    expect(f.events("notified").map(({ told }) => told)).toEqual([["a1 blocked"], ["b1 blocked"]]);
    expect([f.log.match(/trying again in \d+ s/g), JSON.parse(heard.posts[3]!.text).text]).toEqual([["trying again in 5 s", "trying again in 10 s"], expect.stringMatching(/ \(t-\) on .*\nb1 blocked: .* · agents attach b1$/)]);
  } finally {
    heard.stop();
  }
});

away("the variable that [notify] names is the watchdog's own, whoever started the tmux server", async (f) => {
  const environ = (pid: number): boolean => readFileSync(`/proc/${pid}/environ`, "utf8").includes("FLEET_HOOK");
  await f.up();
  await f.ready("a1");
  expect([environ(f.lock("watchdog")), environ(await f.pid("a1")), environ(await f.serverPid())]).toEqual([true, false, false]);
  // a server of somebody who had it in the same login
  await f.tmux("set-environment", "-g", "FLEET_HOOK", "https://example.org/secret");
  expect((await f.run(["restart", "a1"])).code).toBe(0);
  expect(environ(await f.pid("a1"))).toBe(false);
});

away("what happened while the receiver was away is told by the watchdog that follows one that was killed", async (f) => {
  let away = true;
  const heard = listener(() => (away ? 500 : 200));
  try {
    notified(f, `url = ${JSON.stringify(`json:${heard.url}`)}\nevents = ["blocked"]`);
    await f.up();
    await f.ready("a1");
    await atWork(f);
    f.control("a1", "dialog");
    await until(() => heard.posts.length);
    signal(f.lock("watchdog"), "SIGKILL");
    away = false;
    const before = heard.posts.length;
    await until(() => heard.posts.length > before, 40_000);
    expect(eventsIn(heard.posts.slice(-1))).toMatchObject([{ event: "blocked", agent: "a1" }]);
  } finally {
    heard.stop();
  }
});

away("a receiver that is away gets the first notice and the newest fifty once it is back", async (f) => {
  let away = true;
  const blocked = () => f.events("blocked").map(({ agent }) => String(agent)).filter((name) => name.startsWith("s"));
  const heard = listener(async () => {
    if (!away) return 200;
    // the last post that fails is held until more has happened than is kept
    away = !(await until(() => blocked().length === MORE, 9_000).catch(() => false));
    return 500;
  });
  try {
    const others = Array.from({ length: MORE }, (_, nth) => `[[agent]]\nname = "s${nth}"\ndir = "nowhere"\nwatch = "heal"\n`).join("");
    notified(f, `url = ${JSON.stringify(`json:${heard.url}`)}\nevents = ["blocked"]`);
    await atWork(f);
    f.control("a1", "dialog");
    await until(() => heard.posts.length);
    notified(f, `url = ${JSON.stringify(`json:${heard.url}`)}\nevents = ["blocked"]`, others);
    await until(() => blocked().length === MORE, 40_000);
    const names = blocked();
    await until(() => eventsIn(heard.posts).some(({ agent }) => agent === names.at(-1)), 40_000);
    expect(heard.posts.slice(0, -1).every(({ text }) => text === heard.posts[0]!.text)).toBe(true);
    expect(eventsIn(heard.posts.slice(0, 1))).toMatchObject([{ event: "blocked", agent: "a1" }]);
    expect(eventsIn(heard.posts.slice(-1)).map(({ agent }) => agent)).toEqual(names.slice(-50));
  } finally {
    heard.stop();
  }
});

test("a notice can tell of a text without a proof, and does so only where it is asked to", async () => {
  for (const [events, wanted] of [["", false], ['events = ["unconfirmed"]', true]] as const) {
    const { cfg } = await scene(`[notify]\ncommand = "cat"\n${events}\n${agents("a")}`, { ticks: 0 });
    expect(cfg.notify.events.includes("unconfirmed")).toBe(wanted);
  }
});
