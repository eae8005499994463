/** What is said to an agent is on disk until its client has it, and is never typed into a dialog. */
import { beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { decideTyping, isBooting, type Message, nextMessages, say, type Typing, type VerdictName } from "../agents.ts";
import { agents, fakeWorld, FLEET, message, realFolder, type Scene, scene, verdict } from "./kit.ts";

describe("decideTyping", () => {
  const { text } = message();
  test.each<[string, VerdictName, Partial<Message>, string | null, string, Typing["do"]]>([
    ["idle, an empty box", "idle", {}, "", "", "type"],
    ["idle, no box known", "idle", {}, null, "", "type"],
    ["waiting for something else: a claim is typed", "waiting", {}, "", "", "type"],
    ["working: a claim is queued by the client", "active", {}, "", "", "type"],
    ["working: a wake is not", "active", { cause: "wake" }, "", "", "wait"],
    ["working: nor a nudge", "active", { cause: "nudge" }, "", "", "wait"],
    ["waiting: a wake waits", "waiting", { cause: "wake" }, "", "", "wait"],
    ["idle: a wake is typed", "idle", { cause: "wake" }, "", "", "type"],
    ["fault 9, P2: at a dialog nothing is typed", "blocked", {}, "", "", "wait"],
    ["fault 54: limited: a claim waits", "limited", {}, "", "", "wait"],
    ["limited: a nudge is what it is for", "limited", { cause: "nudge" }, "", "", "type"],
    ["limited: a kickoff waits", "limited", { cause: "boot" }, "", "", "wait"],
    ["broken: wait", "fatal", {}, "", "", "wait"],
    ["not understood: wait", "unsure", {}, "", "", "wait"],
    ["a person's draft: wait", "idle", {}, "half a sentence", "", "wait"],
    ["a person's draft, typed before: wait", "idle", { seen: 0 }, "half a sentence", "", "wait"],
    ["pasted before, it stands in the box: Enter alone", "idle", { seen: 0 }, text, "", "submit"],
    ["pasted before, as a token: Enter alone", "idle", { seen: 0 }, "[Pasted text #1 +89 lines]", "", "submit"],
    ["pasted before, and it stands on the screen: done", "idle", { seen: 0 }, "", `❯ ${text}\n\n● OK`, "done"],
    ["pasted before, but that is the one from before: once more", "idle", { seen: 1 }, "", `❯ ${text}\n\n● OK`, "type"],
    ["pasted before, nothing to be seen of it: once more", "idle", { seen: 0 }, "", "● OK", "type"],
    ["the same text on the screen, not pasted yet: type", "idle", {}, "", `❯ ${text}`, "type"],
    ["a text that a frame wraps is known again", "idle", { seen: 0 }, "", `  ┃  ${text.slice(0, 20)}\n  ┃  ${text.slice(20)}`, "done"],
  ])("%s", (_, state, some, composer, screen, wanted) =>
    expect(decideTyping(verdict(state), message(some), composer, screen).do).toBe(wanted));
});

describe("nextMessages", () => {
  test("one for each target, in order", () => {
    const list = [message({ id: "1" }), message({ id: "2", target: "b" }), message({ id: "3", cause: "review" })];
    expect(nextMessages(list).map(({ id }) => id)).toEqual(["1", "2"]);
  });
  test("a kickoff before all else", () =>
    expect(nextMessages([message({ id: "1" }), message({ id: "2", cause: "boot" })]).map(({ id }) => id)).toEqual(["2"]));
  test("none of none", () => expect(nextMessages([])).toEqual([]));
});

describe("over the fake world", () => {
  const TEXT = ["a", "b"].map((name) => `[[agent]]\nname = "${name}"\nbackend = "claude"\nwatch = "heal"\n`).join("");
  let { fake, cfg, watch, pane } = {} as Scene;
  beforeEach(async () => void ({ fake, cfg, watch, pane } = await scene(TEXT)));
  const waits = () => watch.outbox.map(({ why }) => why);

  test("in the order in which they were said, one per tick and target", async () => {
    say(watch, "a", "claim", "first of all");
    say(watch, "a", "review", "second then");
    say(watch, "b", "claim", "to the other");
    await fake.ticks(cfg, watch);
    expect([pane().received, pane("b").received]).toEqual([["first of all"], ["to the other"]]);
    await fake.ticks(cfg, watch);
    expect(pane().received).toEqual(["first of all", "second then"]);
    expect(watch.outbox).toEqual([]);
  });

  test("a newer text of the same cause takes the place of the old", async () => {
    pane().doing = "dialog";
    say(watch, "a", "claim", "old");
    await fake.ticks(cfg, watch, 3);
    say(watch, "a", "claim", "new");
    pane().doing = "idle";
    await fake.ticks(cfg, watch, 3);
    expect(pane().received).toEqual(["new"]);
  });

  test("why it waits is kept for status, and said once", async () => {
    say(watch, "a", "claim", "x");
    pane().doing = "dialog";
    await fake.ticks(cfg, watch, 5);
    expect(waits()).toEqual(["blocked: a dialog is open"]);
    expect(fake.logged("waiting: claim to a")).toHaveLength(1);
    pane().doing = "limit";
    await fake.ticks(cfg, watch);
    expect(waits()[0]).toStartWith("limited: 5-hour limit");
    pane().doing = "blank";
    await fake.ticks(cfg, watch);
    expect(waits()[0]).toStartWith("unsure:");
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ held: { a: 1 } }));
    await fake.ticks(cfg, watch);
    expect(waits()).toEqual(["stopped by you"]);
    say(watch, "nobody", "claim", "x");
    await fake.ticks(cfg, watch);
    expect(waits().at(-1)).toBe("no such agent in the config");
  });

  test("a person's draft is left alone", async () => {
    pane().draft = "half a sentence";
    say(watch, "a", "claim", "x".repeat(50));
    await fake.ticks(cfg, watch, 3);
    expect([pane().draft, pane().enters, waits()[0]]).toEqual(["half a sentence", 0, "someone's draft stands in the input box"]);
    pane().draft = "";
    await fake.ticks(cfg, watch);
    expect(pane().received).toEqual(["x".repeat(50)]);
  });

  test("Enter three times at most, the text is pasted once", async () => {
    pane().takesEnter = false;
    say(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch);
    expect([pane().enters, pane().draft, watch.outbox.length]).toEqual([3, "hear this", 1]);
    expect(waits()[0]).toContain("after three times Enter");
    pane().takesEnter = true;
    await fake.ticks(cfg, watch);
    expect([pane().received, watch.outbox]).toEqual([["hear this"], []]);
  });

  test("fault 9: a dialog that opens after the paste gets no Enter", async () => {
    const one = pane();
    const paste = one.paste.bind(one);
    one.paste = (value) => {
      paste(value);
      one.doing = "dialog";
    };
    say(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch, 5);
    expect([one.enters, one.approved]).toEqual([0, 0]);
    one.doing = "idle";
    await fake.ticks(cfg, watch, 2);
    expect(one.received).toEqual(["hear this"]);
  });

  test("fault 9: nor one that opens between the look at the paste and the Enter", async () => {
    const one = pane();
    const run = fake.tmux.run.bind(fake.tmux);
    let looks = -1;
    fake.tmux.run = (args, stdin) => {
      if (args.includes("paste-buffer")) looks = 0;
      else if (looks >= 0 && args[0] === "source-file" && (looks += 1) === 2) one.doing = "dialog";
      return run(args, stdin);
    };
    say(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch, 5);
    expect([one.doing, one.enters, one.approved]).toEqual(["dialog", 0, 0]);
    one.doing = "idle";
    await fake.ticks(cfg, watch, 2);
    expect(one.received).toEqual(["hear this"]);
  });

  test("fault 9: a client that ended is no proof of delivery", async () => {
    say(watch, "a", "claim", "hear this");
    fake.tmux.exit("agents-a", 1);
    await fake.ticks(cfg, watch);
    expect(watch.outbox).toHaveLength(1);
    await fake.ticks(cfg, watch, 3);
    expect(fake.received("agents-a")).toEqual(["hear this"]);
  });

  test("fault 61: beyond 8 KB it goes to a file, which is still there when the client reads about it", async () => {
    const long = "ä".repeat(4001);
    say(watch, "a", "claim", long);
    pane().takesEnter = false;
    await fake.ticks(cfg, watch, 2);
    expect([pane().received, pane().enters, watch.outbox.length]).toEqual([[], 6, 1]);
    pane().takesEnter = true;
    await fake.ticks(cfg, watch);
    expect(pane().received[0]!.length).toBeLessThan(300);
    const file = /\S+\.txt/.exec(pane().received[0]!)![0];
    expect(fake.files.get(file)).toBe(long);
    expect(watch.outbox).toEqual([]);
  });

  test("fault 61: many lines, a ; at the end, 8,000 characters arrive whole", async () => {
    for (const [nth, text] of ["one\ntwo;\n\nthree;", "x;", "y".repeat(8000)].entries()) {
      say(watch, "a", `cause ${nth}`, text);
      await fake.ticks(cfg, watch);
      expect(pane().received.at(-1)).toBe(text);
    }
  });

  test("fault 77: a client that was just started is not typed to for three seconds", async () => {
    cfg = await fake.config(`[watchdog]\nsignal_interval = 1\n${TEXT}`);
    fake.tmux.exit("agents-a", 1);
    say(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch, 3);
    expect([pane().dead, pane().received, waits()]).toEqual([false, [], ["booting"]]);
    await fake.ticks(cfg, watch, 3);
    expect(pane().received).toEqual(["hear this"]);
  });

  test("fault 77: nor is one that nobody watches, whose text came after the look", async () => {
    cfg = await fake.config('[watchdog]\nsignal_interval = 1\n[[agent]]\nname = "a"\nbackend = "claude"\n');
    watch = fake.watch(cfg);
    for (const one of [...fake.tmux.panes]) fake.tmux.kill(one);
    fake.tmux.add("agents-a");
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ queue: [message({ text: "hear this" })] }));
    await fake.ticks(cfg, watch, 3);
    expect([pane().received, waits()]).toEqual([[], ["booting"]]);
    await fake.ticks(cfg, watch, 3);
    expect(pane().received).toEqual(["hear this"]);
  });

  test("fault 8: it outlives the watchdog", async () => {
    pane().doing = "dialog";
    say(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch);
    watch = fake.watch(cfg);
    pane().doing = "idle";
    await fake.ticks(cfg, watch, 3);
    expect(pane().received).toEqual(["hear this"]);
  });

  test("what up queued is taken over once", async () => {
    const queue = [message({ id: "q1", cause: "boot", text: "begin" })];
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ queue }));
    await fake.ticks(cfg, watch, 2);
    watch = fake.watch(cfg);
    await fake.ticks(cfg, watch, 3);
    expect(pane().received).toEqual(["begin"]);
  });

  test("a client that was just started is not typed to yet; a clock set back makes none young", async () => {
    const claude = cfg.backends.get("claude")!;
    const opencode = cfg.backends.get("opencode")!;
    expect([0, 2999, 3000, -3600_000].map((age) => isBooting(claude, age, ""))).toEqual([true, true, false, false]);
    expect(isBooting(opencode, 1000, "  12K (1%)  ctrl+p commands")).toBe(false);
    expect([1000, 11_999, 12_000].map((age) => isBooting(opencode, age, ""))).toEqual([true, true, false]);
  });
});

describe("a text is said once, and never lost", () => {
  const TYPED = '[backend.plain]\nkind = "typed"\nbin = "plain"\nready_re = "auto mode"\n';
  let { fake, cfg, watch, pane, starts, operator } = {} as Scene;
  const begin = async (text: string, count = 3): Promise<void> =>
    void ({ fake, cfg, watch, pane, starts, operator } = await scene(text, { fake, ticks: count }));
  const ticks = (count: number) => fake.ticks(cfg, watch, count);
  beforeEach(() => {
    fake = fakeWorld(realFolder());
    fake.tmux.onStart = (one) => void (one.doing = "busy");
  });
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
      const { outbox } = JSON.parse(fake.files.get(join(cfg.stateDir, "watch.json")) ?? '{"outbox":[]}');
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
