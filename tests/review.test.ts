/** What is said is kept, what is asked twice is looked at twice, what is taken down stays so: corner cases, over the fake world. */
import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  cmdSend, cmdUp, type Config, curPhase, decideDeadlock, decideDrop, decideHeal, type Memory, memoryOf, operatorOf, type Phase,
  phaseIdxFile, reloadConfig, save, say, type VerdictName, type Watch, world,
} from "../agents.ts";
import { type FakePane, FLEET, type FakeWorld, fakeWorld } from "./kit.ts";

const { http } = world;
const HOUR = 3600_000;
const agents = (...names: string[]): string => names.map((name) => `[[agent]]\nname = "${name}"\nbackend = "claude"\nwatch = "heal+stall"\n`).join("");
const TYPED = '[backend.plain]\nkind = "typed"\nbin = "plain"\nready_re = "auto mode"\n';

let home: string;
let fake: FakeWorld;
let cfg: Config;
let watch: Watch;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "corners-")); // for the locks of commands
  fake = fakeWorld(home);
  fake.tmux.onStart = (pane) => void (pane.doing = "busy");
});
afterEach(() => {
  fake.restore();
  rmSync(home, { recursive: true });
});

const begin = async (text: string, ticks = 3): Promise<void> => {
  cfg = await fake.config(text);
  watch = fake.watch(cfg);
  await fake.ticks(cfg, watch, ticks);
};
const ticks = (count: number) => fake.ticks(cfg, watch, count);
const pane = (name = "a"): FakePane => fake.tmux.of(`agents-${name}`);
const starts = (name = "a"): number => fake.everyPane.filter((one) => one.session === `agents-${name}`).length;
const file = (name: string): string => join(cfg.stateDir, name);
const operator = (some: object | string): void => void fake.files.set(file("operator.json"), typeof some === "string" ? some : JSON.stringify(some));
/** Runs `act` before each call to tmux that it is told of. */
const beforeTmux = (act: (args: string[], stdin: string) => void): void => {
  const run = fake.tmux.run.bind(fake.tmux);
  fake.tmux.run = (args, stdin = "") => (act(args, stdin), run(args, stdin));
};
/** The close look at one screen, styles and all, that comes before keys are sent and clients ended. */
const closeLook = (stdin: string): boolean => stdin.includes("capture-pane -p -e");
/** What Linux says of a process: its state and when it began. */
const stat = (pid: number, born: number, state = "S"): void =>
  void fake.files.set(`/proc/${pid}/stat`, `${pid} (x) ${[state, 1, pid, ...Array(16).fill(0), born].join(" ")}`);
const send = (...words: string[]): Promise<number> => cmdSend({ path: cfg.path, words, options: { timeout: "3" } });
const up = (...words: string[]): Promise<number> => cmdUp({ path: cfg.path, words, options: {} });

describe("what is ended is the client that was meant", () => {
  test("a stranger that was given the number of a client that ended is not touched", async () => {
    fake.tmux.onStart = (one) => stat(one.pid, 111);
    await begin(agents("a"));
    const old = pane();
    fake.tmux.exit("agents-a", 1);
    fake.processes.set(old.pid, old);
    old.ignores = ["SIGHUP"]; // which is tmux's, and goes to the pane's terminal
    stat(old.pid, 222);
    fake.effects = [];
    await ticks(4);
    expect([starts(), fake.processes.has(old.pid), fake.effects.filter((what) => what.startsWith("signal"))]).toEqual([2, true, []]);
  });
  test("what was taken down and outlives its session is ended by the watchdog", async () => {
    await begin(agents("a"));
    const old = pane();
    old.ignores = ["SIGHUP", "SIGTERM"];
    operator({ held: { a: fake.wall } });
    fake.tmux.kill(old);
    await ticks(3);
    expect([starts(), fake.processes.has(old.pid)]).toEqual([1, false]);
  });
  test("up ends a client that outlived its session before it starts another", async () => {
    await begin(agents("a"));
    const old = pane();
    old.ignores = ["SIGHUP", "SIGTERM"];
    fake.tmux.kill(old);
    let both = false;
    fake.tmux.onStart = () => void (both ||= fake.processes.has(old.pid));
    expect([await up("a"), starts(), both]).toEqual([0, 2, false]);
  });
});

describe("a lost socket is not the end of a server", () => {
  const GONE = "error connecting to /tmp/tmux-0/default (No such file or directory)";
  beforeEach(async () => {
    await begin(agents("a", "b"));
    const { pid, start } = fake.tmux.server;
    fake.files.set("/proc/stat", `cpu 1 2 3\nbtime ${start - 1000}\n`);
    stat(pid, 100_000);
  });
  test("while the server lives nobody is ended or started, and it is said once what to do", async () => {
    fake.effects = [];
    fake.tmux.trouble = GONE;
    await ticks(10);
    fake.tmux.trouble = "";
    await ticks(2);
    expect([starts("a"), starts("b"), fake.processes.size]).toEqual([1, 1, 2]);
    expect(fake.effects.filter((what) => /^(signal|tmux (new|kill))/.test(what))).toEqual([]);
    expect(fake.logged(`kill -USR1 ${fake.tmux.server.pid} makes it again`)).toHaveLength(1);
  });
  test("once it is dead all come back", async () => {
    stat(fake.tmux.server.pid, 100_000, "Z");
    fake.tmux.killServer();
    await ticks(3);
    expect([starts("a"), starts("b")]).toEqual([2, 2]);
  });
});

describe("a declared answer goes to the declared dialog alone", () => {
  const ANSWERS = `[[backend.claude.answer]]\nre = "trust the files"\nkeys = ["Enter"]\n${agents("a")}`;
  const dialog = (question: string) => ["", "─".repeat(80), ` ${question}`, " ❯ 1. Yes", "   2. No", "", " Esc to cancel · Tab to amend", ""].join("\n");
  beforeEach(() => begin(ANSWERS));
  test("it is answered", async () => {
    pane().doing = "dialog";
    pane().text = dialog("Do you trust the files in this folder?");
    await ticks(2);
    expect(pane().approved).toBe(1);
  });
  test("an agent that quotes it above another one answers nothing", async () => {
    pane().said = "● The README says: Do you trust the files in this folder?";
    pane().doing = "dialog";
    await ticks(4);
    expect([pane().enters, pane().approved]).toEqual([0, 0]);
  });
  test("another one that stands there by then gets no key", async () => {
    pane().doing = "dialog";
    pane().text = dialog("Do you trust the files in this folder?");
    beforeTmux((_, stdin) => void (closeLook(stdin) && (pane().text = dialog("Do you want to proceed?"))));
    await ticks(4);
    expect([pane().enters, pane().approved]).toEqual([0, 0]);
  });
});

describe("what a command works on is left alone, for as long as it may", () => {
  beforeEach(async () => {
    await begin(agents("a"));
    fake.tmux.exit("agents-a", 1);
  });
  test("it is started after that, without a word from anybody", async () => {
    operator({ busy: { a: fake.wall + 60_000 } });
    await ticks(2);
    expect(starts()).toBe(1);
    await ticks(2);
    expect(starts()).toBe(2);
  });
  test("a time that only a wrong clock can have told holds nothing", async () => {
    operator({ busy: { a: fake.wall + 10 * HOUR } });
    await ticks(2);
    expect(starts()).toBe(2);
  });
});

test("what is taken down between the look and the start is not started", async () => {
  await begin(agents("a", "b"));
  fake.tmux.exit("agents-a", 1);
  beforeTmux((args) => void (args[0] === "source-file" && operator({ held: { a: 1 } })));
  await ticks(3);
  expect(starts()).toBe(1);
});

describe("what the operator wants", () => {
  beforeEach(async () => {
    await begin(agents("a", "b"));
    operator({ held: { a: fake.wall } });
    fake.tmux.kill(pane());
    await ticks(2);
  });
  test("a file that can not be read for a while starts nothing that was taken down", async () => {
    const read = fake.read.bind(fake);
    fake.read = (path) => {
      if (path === file("operator.json")) throw new Error("EIO: i/o error");
      return read(path);
    };
    await ticks(4);
    expect(starts()).toBe(1);
  });
  test.each(["{half", "null", '{"held":null}', '{"queue":{},"released":null,"busy":[1]}', '"x"'])("%s in it stops no care for the others", async (text) => {
    operator(text);
    fake.tmux.exit("agents-b", 1);
    await ticks(3);
    expect([starts("b"), fake.logged("ERROR")]).toEqual([2, []]);
    expect(operatorOf(cfg)).toEqual({ held: expect.any(Object), busy: expect.any(Object), released: expect.any(Object), queue: expect.any(Array) });
  });
});

describe("a text is said once, and never lost", () => {
  const queued = (count: number) => Array.from({ length: count }, (_, nth) =>
    ({ id: `q${nth}`, target: "a", text: `text ${nth}`, cause: `send ${nth}`, made: 1, tries: 0 }));
  test("four hundred queued ones are taken over once", async () => {
    await begin(agents("a"));
    pane().doing = "dialog";
    operator({ queue: queued(400) });
    for (let round = 0; round < 4; round++) {
      await ticks(1);
      expect(watch.outbox).toHaveLength(400);
    }
    watch = fake.watch(cfg);
    await ticks(1);
    expect(watch.outbox).toHaveLength(400);
  });
  test("what the queue has forgotten is forgotten", async () => {
    await begin(agents("a"));
    operator({ queue: queued(3) });
    await ticks(1);
    operator({ queue: [{ ...queued(4).at(-1)! }] });
    await ticks(5);
    expect(watch.taken).toEqual(["q3"]);
    expect(fake.received("agents-a")).toEqual(["text 0", "text 1", "text 2", "text 3"]);
  });
  test("a newer one does not take back what stands typed in the box", async () => {
    await begin(agents("a"));
    pane().doing = "idle";
    pane().takesEnter = false;
    say(watch, "a", "claim", "the first claim");
    await ticks(1);
    say(watch, "a", "claim", "the second claim");
    pane().takesEnter = true;
    await ticks(3);
    expect([pane().received, watch.outbox]).toEqual([["the first claim", "the second claim"], []]);
  });
  test("the end of a limit does not take back the question that stands typed in the box", async () => {
    await begin(agents("a"));
    Object.assign(pane(), { doing: "limit", banner: "You've hit your limit", takesEnter: false });
    for (let nth = 0; nth < 60 && !pane().draft; nth++) await ticks(1);
    expect(pane().draft).not.toBe("");
    pane().doing = "busy";
    await ticks(2);
    expect(fake.logged("limit lifted")).toHaveLength(1);
    Object.assign(pane(), { doing: "idle", takesEnter: true });
    say(watch, "a", "claim", "the claim");
    await ticks(3);
    expect([pane().received.at(-1), watch.outbox]).toEqual(["the claim", []]);
  });

  const typedAgent = `${TYPED}[[agent]]\nname = "a"\nbackend = "plain"\nwatch = "heal"\nprompt = "the work"\n`;
  const typedLoop = FLEET.replace(/(role = "\w+")/g, '$1\nbackend = "plain"').replace('prompt = "Upgrade everything."', '$&\nbackend = "plain"').replace("[[agent]]", `${TYPED}[[agent]]`);
  /** For each start: whether the first text of that client was on disk when it began. */
  const noteBoots = (): boolean[] => {
    const there: boolean[] = [];
    fake.tmux.onStart = (one) => {
      const { outbox } = JSON.parse(fake.files.get(file("watch.json")) ?? '{"outbox":[]}');
      there.push(outbox.some((message: { target: string; cause: string }) => message.cause === "boot" && `agents-${message.target}` === one.session));
    };
    return there;
  };
  test("the first text of a client is on disk before there is a client", async () => {
    cfg = await fake.config(typedAgent);
    const there = noteBoots();
    await begin(typedAgent);
    expect(there).toEqual([true]);
    await ticks(1);
    expect(fake.received("agents-a")).toEqual([expect.stringContaining("kickoff-agents-a.txt")]);
  });
  test("a phase move, and the task at the end of all: their first texts too", async () => {
    await begin(typedLoop);
    const there = noteBoots();
    watch.intent = { id: "m1", from: "p1", to: "p2", run: "", at: fake.wall };
    await ticks(3);
    watch.intent = { id: "m2", from: "p2", to: "", run: "upgrader", at: fake.wall };
    await ticks(3);
    expect(there).toEqual([true, true, true]);
    expect(watch.intent).toBeNull();
  });
  test("the first text of a client that was made in spite of an error is said", async () => {
    cfg = await fake.config(typedAgent);
    const run = fake.tmux.run.bind(fake.tmux);
    fake.tmux.run = (args, stdin) => {
      const ran = run(args, stdin);
      return args.includes("new-session") ? { ok: false, out: "", err: "no answer in time", timedOut: true } : ran;
    };
    await begin(typedAgent, 5);
    expect([starts(), fake.received("agents-a")]).toEqual([1, [expect.stringContaining("kickoff-agents-a.txt")]]);
  });
  test("a kickoff counts as told only once its client was started", async () => {
    const text = `${agents("a")}resume = true\nprompt = "phase one"\n`;
    await begin(text);
    fake.tmux.exit("agents-a", 1);
    cfg = await fake.config(text.replace("one", "two"));
    const run = fake.tmux.run.bind(fake.tmux);
    let fails = 1;
    fake.tmux.run = (args, stdin) => args.includes("new-session") && fails-- > 0
      ? { ok: false, out: "", err: "fork failed", timedOut: false } : run(args, stdin);
    await ticks(4);
    const restored = (nth: number) => fake.everyPane[nth]!.argv.join(" ").includes("conversation was restored");
    expect([starts(), restored(1)]).toEqual([2, false]);
    fake.tmux.exit("agents-a", 1);
    await ticks(4);
    expect([starts(), restored(2)]).toEqual([3, true]);
  });
});

describe("send", () => {
  let printed: { mockRestore(): void };
  beforeEach(async () => {
    printed = spyOn(process.stdout, "write").mockImplementation(() => true);
    await begin(agents("a"));
    pane().doing = "idle";
  });
  afterEach(() => printed.mockRestore());
  test("what nobody waits for any more was not delivered", async () => {
    pane().doing = "dialog";
    const { sleep } = world;
    world.sleep = async (ms) => {
      fake.wall += HOUR;
      await sleep(ms);
    };
    expect(await send("a", "hear this")).toBe(1);
    expect([fake.logged("not delivered to a").length, operatorOf(cfg).queue, pane().received]).toEqual([1, [], []]);
  });
  test("five at once without a watchdog: each text once, and none is left to come again", async () => {
    const { sleep } = world;
    world.sleep = async (ms) => {
      await sleep(ms);
      await Bun.sleep(20); // in which the other one goes on
    };
    const texts = ["one", "two", "three", "four", "five"].map((word) => `${word} of the five texts`);
    expect(await Promise.all(texts.map((text) => send("a", text)))).toEqual(texts.map(() => 0));
    expect(pane().received.toSorted()).toEqual(texts.toSorted());
    world.sleep = sleep;
    watch = fake.watch(cfg);
    await ticks(3);
    expect([pane().received.length, watch.outbox]).toEqual([5, []]);
  });
});

describe("up", () => {
  test("who was started by somebody else while up paused is not told its kickoff again", async () => {
    fake.tmux.onStart = () => {};
    const names = ["a", "b", "c", "d"];
    await begin(`[watchdog]\nstart_batch = 1\n[backend.typed]\nbin = "typed"\nconnect_delay = 0\n${names.map((name) =>
      `[[agent]]\nname = "${name}"\nbackend = "typed"\nprompt = "Work."\n`).join("")}`, 0);
    const sleep = world.sleep;
    world.sleep = async (ms) => {
      if (ms > 900 && !starts("d")) fake.tmux.add("agents-d");
      await sleep(ms);
    };
    expect([await up(...names), ...names.map((name) => starts(name))]).toEqual([0, 1, 1, 1, 1]);
    expect(names.map((name) => pane(name).received.length)).toEqual([1, 1, 1, 0]);
  });
  test("one agent's error is its own: the others are started, exit 1", async () => {
    await begin(agents("a", "b"), 0);
    const write = fake.write.bind(fake);
    fake.write = (path, text) => {
      if (path.endsWith("kickoff-agents-a.txt")) throw new Error("EACCES: permission denied");
      write(path, text);
    };
    expect([await up("a", "b"), starts("a"), starts("b")]).toEqual([1, 0, 1]);
    expect(fake.logged("a: EACCES: permission denied")).toHaveLength(1);
  });
  test("a phase that can not be read stops the loops alone", async () => {
    await begin(FLEET, 0);
    fake.files.set(phaseIdxFile(cfg), "99");
    expect([await up("orchestrator", "builder"), starts("orchestrator"), starts("builder")]).toEqual([1, 1, 0]);
    expect(fake.logged(/builder: .*out of range/)).toHaveLength(1);
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
  test("a client that was started without it waits for it no more", async () => {
    serve()(408);
    await begin(OC, 5);
    expect([starts(), memoryOf(watch, "a").waitingSince]).toEqual([1, 0]);
  });
});

describe("a phase move that makes no sense any more is dropped", () => {
  const list = ["p1", "p2", "p3"].map((id): Phase => ({ id, plan: "", status: "", models: {} }));
  test.each<[string, { from: string; to: string }, string, string]>([
    ["not begun", { from: "p1", to: "p2" }, "p1", ""],
    ["stored, not done", { from: "p1", to: "p2" }, "p2", ""],
    ["its phase was removed", { from: "p1", to: "gone" }, "p1", "not in the config"],
    ["another was set by hand", { from: "p1", to: "p2" }, "p3", "set by hand"],
    ["the end of all", { from: "p3", to: "" }, "p3", ""],
    ["the end of all, but an earlier one was set by hand", { from: "p3", to: "" }, "p1", "set by hand"],
    ["the phase can not be read", { from: "p1", to: "p2" }, "", "set by hand"],
  ])("%s", (_, intent, here, why) => {
    const said = decideDrop(intent, here, list);
    if (why) expect(said).toContain(why);
    else expect(said).toBe("");
  });
  const THREE = FLEET.replace('id = "p2"', 'id = "p3", plan = "3", status = "S3" },\n  { id = "p2"');
  const slow = async (): Promise<void> => {
    await begin(THREE);
    for (const name of ["builder", "adversary"]) pane(name).ignores = ["SIGHUP", "SIGTERM"];
    watch.intent = { id: "m", from: "p1", to: "p2", run: "", at: fake.wall };
  };
  test("its phase is taken out of the config while the old clients end: the loops go on", async () => {
    await slow();
    await ticks(1);
    cfg = await fake.config(THREE.replace(/\n.*id = "p2".*/, ""));
    await ticks(4);
    expect([watch.intent, curPhase(cfg)!.id, fake.logged("is dropped").length]).toEqual([null, "p1", 1]);
    expect([starts("builder"), starts("adversary"), pane("builder").dead]).toEqual([2, 2, false]);
  });
  test("another phase is set by hand meanwhile: it stays", async () => {
    await slow();
    await ticks(1);
    fake.files.set(phaseIdxFile(cfg), "1\n");
    fake.files.delete(file("phase-id"));
    await ticks(4);
    expect([watch.intent, curPhase(cfg)!.id, pane("builder").marks["@agents_phase"]]).toEqual([null, "p3", "p3"]);
  });
});

test("agents that nobody watches are no part of a mass death: the ladder holds for the others", async () => {
  await begin(["u", "v", "w"].map((name) => agents(name).replace("heal+stall", "none")).join("") + agents("a"), 0);
  for (const name of ["u", "v", "w"]) fake.tmux.add(`agents-${name}`).doing = "busy";
  await ticks(5);
  for (const name of ["u", "v", "w"]) fake.tmux.exit(`agents-${name}`);
  await ticks(2);
  fake.tmux.onStart = (one) => fake.tmux.exit(one.session, 1);
  fake.tmux.exit("agents-a", 1);
  await ticks(120);
  expect([fake.logged("ended together"), memoryOf(watch, "a").parked]).toEqual([[], expect.stringContaining("5 starts")]);
});

describe("an agent that is at work by the moment of its end is not ended", () => {
  test.each<["idle" | "fatal", number]>([["idle", 60], ["fatal", 3]])("%s before", async (doing, count) => {
    await begin(agents("a"));
    pane().doing = doing;
    beforeTmux((_, stdin) => void (closeLook(stdin) && (pane().doing = "busy")));
    await ticks(count);
    expect([starts(), pane().dead, pane().doing]).toEqual([1, false, "busy"]);
    expect(fake.logged(/stall:|FATAL/)).toEqual([]);
  });
});

describe("the config is read again", () => {
  const live = async (count: number): Promise<void> => {
    for (let nth = 0; nth < count; nth++) {
      cfg = await reloadConfig(cfg, watch);
      await ticks(1);
    }
  };
  test("a new rule is heard at once, also of a screen that does not change", async () => {
    await begin(agents("a"));
    pane().doing = "idle";
    pane().said = "● Shall I deploy (yes/no)";
    await live(3);
    expect(memoryOf(watch, "a").verdict).toBe("idle");
    fake.files.set(cfg.path, `[[backend.claude.rule]]\nverdict = "blocked"\nre = "Shall I deploy"\n${agents("a")}`);
    await live(1);
    expect(memoryOf(watch, "a").verdict).toBe("blocked");
  });
  test("what two reads agree on is taken, not what a third one finds", async () => {
    await begin(agents("a"));
    fake.files.set(cfg.path, agents("a", "b"));
    const read = fake.read.bind(fake);
    let reads = 0;
    fake.read = (path) => (path === cfg.path && (reads += 1) > 2 ? agents("c") : read(path));
    cfg = await reloadConfig(cfg, watch);
    expect([[...cfg.agents.keys()], cfg.source]).toEqual([["a", "b"], agents("a", "b")]);
  });
});

describe("times that are not of this client, or of no clock", () => {
  test("another client in the same session has not been idle for as long as the old one", async () => {
    await begin(agents("a"));
    pane().doing = "idle";
    const idleFor = cfg.backends.get("claude")!.stallIdle / 30;
    await ticks(idleFor - 2);
    const old = pane();
    expect(starts()).toBe(1);
    fake.tmux.kill(old);
    Object.assign(fake.tmux.add("agents-a"), { doing: "idle", marks: old.marks });
    await ticks(idleFor - 2);
    expect([starts(), fake.logged("stall:")]).toEqual([2, []]);
    await ticks(6);
    expect(starts()).toBe(3);
  });
  const memory = (some: Partial<Memory>): Memory => ({ ...memoryOf(watch, "x"), ...some });
  test("a pause that is longer than any is over", async () => {
    await begin(agents("a"));
    const of = (nextStart: number) => decideHeal(memory({ nextStart }), false, true, fake.wall, 300_000).do;
    expect([of(fake.wall + 300_000), of(fake.wall + 10 * 8766 * HOUR), of(fake.wall)]).toEqual(["wait", "start", "start"]);
    fake.tmux.exit("agents-a", 1);
    memoryOf(watch, "a").nextStart = fake.wall + 10 * 8766 * HOUR;
    memoryOf(watch, "a").aliveSince = 0;
    memoryOf(watch, "a").buried = `${watch.server} ${pane().id}`;
    save(cfg, watch);
    watch = fake.watch(cfg);
    await ticks(2);
    expect(starts()).toBe(2);
  });
  test("up releases what was parked by a clock that ran ahead", async () => {
    await begin(agents("a"));
    fake.tmux.exit("agents-a", 1);
    Object.assign(memoryOf(watch, "a"), { parked: "x", parkedAt: fake.wall + HOUR });
    operator({ released: { a: fake.wall } });
    await ticks(2);
    expect([memoryOf(watch, "a").parked, starts()]).toEqual(["", 2]);
  });
  test("who is held or rests has no start before it, for which to look", async () => {
    await begin(FLEET);
    for (const name of ["builder", "orchestrator"]) memoryOf(watch, name).nextStart = fake.wall + 1000;
    watch.intent = { id: "m", from: "p1", to: "p2", run: "", at: fake.wall };
    pane("adversary").ignores = ["SIGHUP", "SIGTERM"];
    operator({ held: { orchestrator: 1 } });
    await ticks(1);
    expect([memoryOf(watch, "builder").nextStart, memoryOf(watch, "orchestrator").nextStart]).toEqual([0, 0]);
  });
});

test.each<[VerdictName[], boolean]>([
  [["idle", "idle"], true], [["idle", "waiting"], false], [["waiting", "waiting"], false], [["idle", "active"], false], [["idle"], false],
])("a deadlock is two that rest, not one that said until when it waits: %j", (verdicts, wanted) =>
  expect(decideDeadlock(verdicts, 0, 900, 900)).toBe(wanted));
