/** What is said to an agent is on disk until its client has it, and is never typed into a dialog. */
import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  builtInRules, cmdSend, cmdStatus, type Config, decideBlind, decideTyping, detect, isBooting, type Message, nextMessages, enqueue, parseEvents, quickRound, typeable, tick, type Typing, type VerdictName, type Watch, world,
} from "../agents.ts";
import { disturbed } from "./delivery.ts";
import type { Disturbance } from "./fakes.ts";
import { agents, closeLook, command, fakeWorld, type FakeWorld, FLEET, message, realFolder, type Scene, scene, verdict } from "./kit.ts";
import { rounds } from "./sim.ts";

test("what is typed has no keys, escapes or marks of direction in it; its lines and letters stay", () => {
  expect(typeable("a\r\nb\tc\x03\x1b[31md\x9b\u202ee\u2066f\u200f\u061c\n  é 全 👨‍👩‍👧 می‌خواهم")).toBe("a\nb\tc" + "def\n  é 全 👨‍👩‍👧 می‌خواهم");
  // linear: a pattern that looks for the end from each @ takes minutes for this
  expect(typeable(`${"@".repeat(300_000)} x`)).toHaveLength(300_002);
  expect(["ask @notes", "see a@b.example", "use $skill", "done @notes.", "@a b", "done", "in C:\\dir\\", "a \\\n b"].map(typeable))
    .toEqual(["ask @notes ", "see a@b.example ", "use $skill ", "done @notes. ", "@a b", "done", "in C:\\dir\\ ", "a \\\n b"]);
});

describe("decideTyping", () => {
  const { text } = message();
  test.each<[string, VerdictName, Partial<Message>, string | null, string, Typing["do"]]>([
    ["idle, an empty box", "idle", {}, "", "", "type"],
    ["idle, but no box is seen: that is not an empty one", "idle", {}, null, "", "wait"],
    ["pasted before, no box is seen, the text on the screen: no proof", "idle", { seen: 0 }, null, `❯ ${text}`, "wait"],
    ["submitted, a dialog in place of the box, the text above it: done", "blocked", { seen: 0, entered: 1 }, null, `> ${text}`, "done"],
    ["submitted, a limit in place of the box, the text above it: done", "limited", { seen: 0, entered: 1 }, null, `> ${text}`, "done"],
    ["submitted, a dialog in place of the box, nothing of the text: wait", "blocked", { seen: 0, entered: 1 }, null, "● OK", "wait"],
    ["pasted only, a dialog in place of the box: no proof", "blocked", { seen: 0 }, null, `> ${text}`, "wait"],
    ["background work: a claim is typed", "background", {}, "", "", "type"],
    ["background work: a wake waits", "background", { cause: "wake" }, "", "", "wait"],
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
    ["pasted before, as a token: Enter alone", "idle", { seen: 0, text: `${text}\n`.repeat(90) }, "[Pasted text #1 +89 lines]", "", "submit"],
    ["a token that counts other lines than ours: wait", "idle", { seen: 0 }, "[Pasted text #1 +89 lines]", "", "wait"],
    ["Codex's token", "idle", { seen: 0, text: "x".repeat(1200) }, "[Pasted Content 1200 chars]", "", "submit"],
    ["opencode's token", "idle", { seen: 0 }, "[Pasted ~1 lines]", "", "submit"],
    ["Gemini's token", "idle", { seen: 0, text: "x\n".repeat(40) }, "[Pasted Text: 40 lines]", "", "submit"],
    ["pi's token, by lines", "idle", { seen: 0, text: "x\n".repeat(12) }, "[paste #1 +12 lines]", "", "submit"],
    ["pi's token, by characters", "idle", { seen: 0, text: "x".repeat(1200) }, "[paste #2 1200 chars]", "", "submit"],
    ["a token and what a person typed behind it", "idle", { seen: 0, text: "x\n".repeat(40) }, "[Pasted Text: 40 lines] and", "", "wait"],
    ["our text and what a person typed behind it", "idle", { seen: 0 }, `${text} y`, "", "wait"],
    ["a person's draft and our text behind it", "idle", { seen: 0 }, `half a thought${text}`, "", "wait"],
    ["the end of our text, in a box that is too small", "idle", { seen: 0 }, text.slice(-55), "", "submit"],
    ["a short end of our text", "idle", { seen: 0 }, text.slice(-20), "", "wait"],
    ["a token, not pasted by us", "idle", {}, "[Pasted ~1 lines]", "", "wait"],
    ["pasted before, and it stands on the screen: done", "idle", { seen: 0 }, "", `❯ ${text}\n\n● OK`, "done"],
    ["pasted before, but that is the one from before: once more", "idle", { seen: 1 }, "", `❯ ${text}\n\n● OK`, "type"],
    ["pasted before, nothing to be seen of it: once more", "idle", { seen: 0 }, "", "● OK", "type"],
    ["the same text on the screen, not pasted yet: type", "idle", {}, "", `❯ ${text}`, "type"],
    ["a text that a frame wraps is known again", "idle", { seen: 0 }, "", `  ┃  ${text.slice(0, 20)}\n  ┃  ${text.slice(20)}`, "done"],
  ])("%s", (_, state, some, composer, screen, wanted) =>
    expect(decideTyping(verdict(state), message(some), composer, screen).do).toBe(wanted));

  test("a footer that a narrow pane cuts off may hide work: what must not interrupt it waits, a text of ours in the box is sent", () => {
    const look = readFileSync(`${import.meta.dir}/fixtures/claude/unsure-no-title-footer-cut-off.txt`, "utf8");
    const found = detect(builtInRules().claude, { text: look, title: "" }, 0);
    const done = (some: Partial<Message>, composer: string) => decideTyping(found, message(some), composer, "").do;
    expect([found.verdict, ...["wake", "nudge", "claim"].map((cause) => done({ cause }, "")), done({ cause: "wake", seen: 0 }, text)]).toEqual(["unsure", "wait", "wait", "type", "submit"]);
  });
});

describe("decideBlind, for a client whose box is not recognised", () => {
  test.each<[string, VerdictName, Partial<Message>, stands: boolean, wasEntered: boolean, Typing["do"]]>([
    ["idle: the text is typed", "idle", {}, false, false, "type"],
    ["at a dialog nothing is typed", "blocked", {}, false, false, "wait"],
    ["it stands at the cursor: Enter", "idle", { seen: 0 }, true, false, "submit"],
    ["it stands at the cursor, at a dialog: no Enter", "blocked", { seen: 0 }, true, false, "wait"],
    ["typed once, and out of sight", "idle", { seen: 0 }, false, false, "unproven"],
    ["after Enter it stands there: once more", "idle", { seen: 0 }, true, true, "submit"],
    ["after Enter it is out of sight", "idle", { seen: 0 }, false, true, "unproven"],
    ["after Enter there is a dialog, which another Enter would answer", "blocked", { seen: 0 }, true, true, "unproven"],
  ])("%s", (_, state, some, stands, wasEntered, wanted) =>
    expect(decideBlind(verdict(state), message(some), stands, wasEntered).do).toBe(wanted));
});

test("no piece of our text that a person could type is taken for ours", () => {
  const { text } = message();
  for (let from = 0; from < text.length; from++) for (let to = from + 1; to < Math.min(from + 30, text.length); to++) {
    const { do: wanted } = decideTyping(verdict("idle"), message({ seen: 0 }), text.slice(from, to).trim() || "x", "");
    if (wanted !== "wait") throw new Error(`${wanted}: ${text.slice(from, to)}`);
  }
});

describe("nextMessages", () => {
  test("a probe before every other text, but for a kickoff", () => {
    const list = [message({ id: "1" }), message({ id: "2", cause: "nudge" }), message({ id: "3", cause: "boot" })];
    expect(nextMessages(list.slice(0, 2), () => true).map(({ id }) => id)).toEqual(["2"]);
    expect(nextMessages(list).map(({ id }) => id)).toEqual(["3"]);
  });
  test("of a limited target before a kickoff too, which waits for it", () => {
    const list = [message({ id: "1", cause: "boot" }), message({ id: "2", cause: "nudge" })];
    expect(nextMessages(list, () => true).map(({ id }) => id)).toEqual(["2"]);
  });
  test("a wake, which waits for an idle agent, keeps no hand-off back", () =>
    expect(nextMessages([message({ id: "1", cause: "wake" }), message({ id: "2" })]).map(({ id }) => id)).toEqual(["2"]));
  test("nor does a probe of one that is no longer limited: it too waits for an agent at rest", () =>
    expect(nextMessages([message({ id: "1", cause: "nudge", seen: 0 }), message({ id: "2" })]).map(({ id }) => id)).toEqual(["2"]));
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
    enqueue(watch, "a", "claim", "first of all");
    enqueue(watch, "a", "review", "second then");
    enqueue(watch, "b", "claim", "to the other");
    await fake.ticks(cfg, watch);
    expect([pane().received, pane("b").received]).toEqual([["first of all"], ["to the other"]]);
    await fake.ticks(cfg, watch);
    expect(pane().received).toEqual(["first of all", "second then"]);
    expect(watch.outbox).toEqual([]);
  });

  test("a newer text of the same cause takes the place of the old", async () => {
    pane().doing = "dialog";
    enqueue(watch, "a", "claim", "old");
    await fake.ticks(cfg, watch, 3);
    enqueue(watch, "a", "claim", "new");
    pane().doing = "idle";
    await fake.ticks(cfg, watch, 3);
    expect(pane().received).toEqual(["new"]);
  });

  test("why it waits is kept for status, and said once", async () => {
    enqueue(watch, "a", "claim", "x");
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
    enqueue(watch, "nobody", "claim", "x");
    await fake.ticks(cfg, watch);
    expect(waits().at(-1)).toBe("no such agent in the config");
  });

  test("whoever has the pane's id by the time of typing, as after a restart of tmux, gets nothing", async () => {
    const others = 70_000;
    fake.beforeTmux((_, stdin) => void (closeLook(stdin) && Object.assign(pane(), { pid: others })));
    enqueue(watch, "a", "claim", "for ours");
    await fake.ticks(cfg, watch);
    expect([pane().pid, pane().received, pane().draft, waits()]).toEqual([others, [], "", [expect.stringContaining("tmux")]]);
  });
  test.each<[string, () => void]>([
    ["in the shell that stayed there", () => void fake.files.set(`/proc/${pane().pid}/cmdline`, "bash\0-i\0")],
    ["in the place of ours", () => void fake.tmux.run(["respawn-pane", "-k", "-t", pane().id, "claude"])],
  ])("a person's own client, started %s, gets nothing, and a person hears of it", async (_, replace) => {
    replace();
    pane().doing = "idle";
    enqueue(watch, "a", "claim", "for ours");
    await fake.ticks(cfg, watch, 16);
    expect([pane().received, pane().enters, pane().draft, waits()]).toEqual([[], 0, "", ["unsure: its pane runs something other than the client we started; run \"agents restart a\""]]);
    expect(fake.logged("a has been unsure for")).toHaveLength(1);
  });

  describe("a text that only a person can let through", () => {
    const said = (kind = "undelivered") => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === kind);
    test("is told of after unsure_after, once, however long it waits", async () => {
      pane().draft = "half a thought";
      enqueue(watch, "a", "claim", "x");
      await fake.ticks(cfg, watch, 10);
      expect(said()).toEqual([]);
      await fake.ticks(cfg, watch, 1);
      expect(said()).toMatchObject([{ agent: "a", cause: "claim", why: expect.stringContaining("draft") }]);
      expect(cfg.notify.events).toContain("undelivered");
      const { out } = await command("status", "--json", "--config", cfg.path);
      expect(JSON.parse(out).agents[0]).toMatchObject({ condition: "idle", needsHuman: true, cure: "attach a" });
      watch = await fake.watch(cfg);
      await fake.ticks(cfg, watch, 200);
      expect(said()).toHaveLength(1);
    });
    test("is the same one where a newer of its kind has taken its place", async () => {
      pane().draft = "half a thought";
      for (let nth = 0; nth < 8; nth++) {
        enqueue(watch, "a", "wake", "look around");
        await fake.ticks(cfg, watch, 4);
      }
      expect(said()).toHaveLength(1);
    });
    test("is none once it goes again: what comes later waits for its own time", async () => {
      pane().draft = "half a thought";
      enqueue(watch, "a", "claim", "x");
      await fake.ticks(cfg, watch, 8);
      pane().draft = "";
      await fake.ticks(cfg, watch, 2);
      pane().draft = "another thought";
      enqueue(watch, "a", "claim", "y");
      await fake.ticks(cfg, watch, 8);
      expect([pane().received, said()]).toEqual([["x"], []]);
    });
  });

  test("a text that fails and waits by turns is told of once", async () => {
    const failed = () => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === "undelivered").map(({ why }) => why);
    const run = fake.tmux.run.bind(fake.tmux);
    fake.tmux.run = (args, stdin) => (args.includes("load-buffer") ? { ok: false, out: "", err: "no room", timedOut: false } : run(args, stdin));
    enqueue(watch, "a", "claim", "x");
    for (let nth = 0; nth < 8; nth++) {
      pane().doing = nth % 2 ? "dialog" : "idle";
      await fake.ticks(cfg, watch, 2);
    }
    expect(failed()).toEqual(["failed: load-buffer: no room"]);
  });

  test("a text for an agent that left the config is told of, waits a day for its return, and goes with a word", async () => {
    const said = () => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === "undelivered");
    enqueue(watch, "nobody", "claim", "x");
    await fake.ticks(cfg, watch, 3);
    expect(said()).toMatchObject([{ agent: "nobody", cause: "claim", why: "failed: no such agent in the config" }]);
    fake.turn(86_300_000);
    await fake.ticks(cfg, watch);
    expect(watch.outbox.length).toBe(1);
    fake.turn(100_000);
    await fake.ticks(cfg, watch, 2);
    expect([watch.outbox, fake.logged("dropped: claim to nobody: no such agent in the config").length]).toEqual([[], 1]);
  });

  test("one that comes back within that time gets it", async () => {
    enqueue(watch, "late", "claim", "for you");
    await fake.ticks(cfg, watch, 3);
    fake.turn(86_000_000);
    cfg = await fake.config(`${TEXT}${agents("late")}`);
    await fake.ticks(cfg, watch, 4);
    expect(fake.received("agents-late")).toEqual(["for you"]);
  });

  test("a person's draft is left alone", async () => {
    pane().draft = "half a sentence";
    enqueue(watch, "a", "claim", "x".repeat(50));
    await fake.ticks(cfg, watch, 3);
    expect([pane().draft, pane().enters, waits()[0]]).toEqual(["half a sentence", 0, "someone's draft is in the input box"]);
    pane().draft = "";
    await fake.ticks(cfg, watch);
    expect(pane().received).toEqual(["x".repeat(50)]);
  });

  test("where the input of the pane is off nothing is typed until it is on again", async () => {
    pane().inputOff = true;
    enqueue(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch, 3);
    expect([watch.outbox.length, watch.outbox[0]!.pasted, waits()[0]]).toEqual(
      [1, undefined, `the input of its pane is off; run "tmux select-pane -e -t ${pane().id}"`]);
    pane().inputOff = false;
    await fake.ticks(cfg, watch);
    expect([pane().received, watch.outbox]).toEqual([["hear this"], []]);
  });

  test("Enter three times at most, the text is pasted once", async () => {
    pane().takesEnter = false;
    enqueue(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch);
    expect([pane().enters, pane().draft, watch.outbox.length]).toEqual([3, "hear this", 1]);
    expect(waits()[0]).toContain("after three Enters");
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
    enqueue(watch, "a", "claim", "hear this");
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
    enqueue(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch, 5);
    expect([one.doing, one.enters, one.approved]).toEqual(["dialog", 0, 0]);
    one.doing = "idle";
    await fake.ticks(cfg, watch, 2);
    expect(one.received).toEqual(["hear this"]);
  });

  test("fault 9: a client that ended is no proof of delivery", async () => {
    enqueue(watch, "a", "claim", "hear this");
    fake.tmux.exit("agents-a", 1);
    await fake.ticks(cfg, watch);
    expect(watch.outbox).toHaveLength(1);
    await fake.ticks(cfg, watch, 3);
    expect(fake.received("agents-a")).toEqual(["hear this"]);
  });

  test("fault 61: beyond 8 KB it goes to a file, which is still there when the client reads about it", async () => {
    const long = "ä".repeat(4001);
    enqueue(watch, "a", "claim", long);
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

  test("a crash between the word that it is pasted and the paste: the next watchdog pastes it at once", async () => {
    enqueue(watch, "a", "claim", "hear this");
    let dies = true;
    fake.beforeTmux((args) => {
      if (dies && args.includes("paste-buffer")) throw new Error("killed");
    });
    await fake.ticks(cfg, watch);
    dies = false;
    expect([watch.outbox[0]!.pasted!.nth, pane().received]).toEqual([1, []]);
    watch = await fake.watch(cfg);
    await fake.ticks(cfg, watch);
    expect([pane().received, watch.outbox]).toEqual([["hear this"], []]);
  });

  test("each long text has a file of its own, which outlives what is delivered after it, and goes after two weeks", async () => {
    const files = () => [...fake.files.keys()].filter((name) => /\/message-\w+\.txt$/.test(name));
    for (const text of ["ä".repeat(4001), "ö".repeat(4001)]) {
      enqueue(watch, "a", "claim", text);
      await fake.ticks(cfg, watch);
    }
    expect(files().map((file) => fake.files.get(file)![0])).toEqual(["ä", "ö"]);
    expect(pane().received.map((text) => /\S+\.txt/.exec(text)![0])).toEqual(files());
    for (let nth = 0; nth < 20; nth++) {
      enqueue(watch, "a", "claim", `text ${nth}`);
      await fake.ticks(cfg, watch);
    }
    await fake.ticks(cfg, watch, 10); // they are looked for now and then
    expect(files()).toHaveLength(2);
    fake.wall -= 30 * 86_400_000; // a clock that was set back makes none older
    await fake.ticks(cfg, watch, 10);
    expect(files()).toHaveLength(2);
    fake.wall += 30 * 86_400_000;
    fake.turn(15 * 86_400_000);
    await fake.ticks(cfg, watch, 10);
    expect(files()).toEqual([]);
  });

  test("the file of a long text is as old as its paste: one that waited for weeks is there when it is read", async () => {
    pane().doing = "dialog";
    enqueue(watch, "a", "claim", "ä".repeat(4001));
    await fake.ticks(cfg, watch, 2);
    fake.turn(20 * 86_400_000);
    pane().doing = "idle";
    await fake.ticks(cfg, watch, 20);
    const [file = ""] = /\S+\.txt/.exec(pane().received.join()) ?? [];
    expect([fake.files.get(file)?.length, watch.outbox]).toEqual([4001, []]);
  });

  test("the file of a long text that still waits stays, however old it is", async () => {
    pane().doing = "blank";
    enqueue(watch, "a", "send", "ä".repeat(4001));
    const mine = join(cfg.stateDir, `message-${watch.outbox[0]!.id}.txt`);
    for (const file of [mine, join(cfg.stateDir, "message-gone.txt")]) fake.files.set(file, "written long ago");
    await fake.ticks(cfg, watch, 11);
    expect([...fake.files.keys()].filter((name) => name.includes("/message-"))).toEqual([mine]);
  });

  test("fault 61: many lines, a ; at the end, 8,000 characters arrive whole", async () => {
    for (const [nth, text] of ["one\ntwo;\n\nthree;", "x;", "y".repeat(8000)].entries()) {
      enqueue(watch, "a", `cause ${nth}`, text);
      await fake.ticks(cfg, watch);
      expect(pane().received.at(-1)).toBe(text);
    }
  });

  test("fault 77: a client that was just started is not typed to for three seconds", async () => {
    cfg = await fake.config(`[watchdog]\nsignal_interval = 1\n${TEXT}`);
    fake.tmux.exit("agents-a", 1);
    enqueue(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch, 3);
    expect([pane().dead, pane().received, waits()]).toEqual([false, [], ["it is starting"]]);
    await fake.ticks(cfg, watch, 3);
    expect(pane().received).toEqual(["hear this"]);
  });

  test("fault 77: nor is one that nobody watches, whose text came after the look", async () => {
    cfg = await fake.config('[watchdog]\nsignal_interval = 1\n[[agent]]\nname = "a"\nbackend = "claude"\n');
    watch = await fake.watch(cfg);
    for (const one of [...fake.tmux.panes]) fake.tmux.kill(one);
    fake.tmux.add("agents-a");
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ queue: [message({ text: "hear this" })] }));
    await fake.ticks(cfg, watch, 3);
    expect([pane().received, waits()]).toEqual([[], ["it is starting"]]);
    await fake.ticks(cfg, watch, 3);
    expect(pane().received).toEqual(["hear this"]);
  });

  test("fault 8: it outlives the watchdog", async () => {
    pane().doing = "dialog";
    enqueue(watch, "a", "claim", "hear this");
    await fake.ticks(cfg, watch);
    watch = await fake.watch(cfg);
    pane().doing = "idle";
    await fake.ticks(cfg, watch, 3);
    expect(pane().received).toEqual(["hear this"]);
  });

  test("what up queued is taken over once", async () => {
    const queue = [message({ id: "q1", cause: "boot", text: "begin" })];
    fake.files.set(join(cfg.stateDir, "operator.json"), JSON.stringify({ queue }));
    await fake.ticks(cfg, watch, 2);
    watch = await fake.watch(cfg);
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
    watch = await fake.watch(cfg);
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
  test("one that comes during a small round for others is told in the next one", async () => {
    await begin(agents("a", "b"));
    pane("a").doing = pane("b").doing = "idle";
    watch.outbox.push(message({ cause: "boot", made: fake.wall }));
    fake.beforeTmux(() => operator({ queue: [{ ...queued(1)[0]!, target: "b" }] }));
    for (const told of [[], ["text 0"]]) {
      await quickRound(cfg, watch);
      expect([pane("a").received.length, pane("b").received]).toEqual([1, told]);
    }
  });
  /** Time that passes at the first moment of that kind, so that a text expires then. */
  const MOMENTS: [when: string, passTime: (turn: () => void) => void][] = [
    ["another is typed to before", (turn) => fake.beforeTmux((args) => void (args.includes("paste-buffer") && turn()))],
    ["it is stored that it is typed now", (turn) => {
      const { writeAtomic } = world;
      world.writeAtomic = async (path, text) => {
        await writeAtomic(path, text);
        if (text.includes('"seen":0') && text.includes('"target":"b"')) turn();
      };
    }],
  ];
  test.each(MOMENTS)("one that nobody waits for any more as %s is not typed, and leaves nothing behind", async (_, passTime) => {
    await begin(`[watchdog]\nstart_batch = 1\n${agents("a", "b")}`);
    pane("a").doing = pane("b").doing = "idle";
    enqueue(watch, "a", "claim", "to the other");
    watch.outbox.push(message({ target: "b", expires: fake.wall + 5_000 }));
    let times = 1;
    passTime(() => void (times-- > 0 && fake.turn(6_000)));
    await ticks(2);
    expect([pane("a").received, pane("b").received, watch.outbox, fake.tmux.buffers.size]).toEqual([["to the other"], [], [], 0]);
  });
  test("one that is withdrawn while the watchdog is on its way to it is not typed", async () => {
    await begin(agents("a"));
    pane().doing = "idle";
    watch.outbox.push(message());
    const [text] = watch.outbox;
    fake.beforeTmux((args) => void (args.includes("load-buffer") && operator({ queue: [{ ...text, expires: 0 }] })));
    await ticks(1);
    expect([pane().received, watch.outbox.map(({ seen, pasted }) => [seen, pasted])]).toEqual([[], [[undefined, undefined]]]);
    await ticks(1);
    expect([pane().received, watch.outbox]).toEqual([[], []]);
  });
  test("one that was typed, and that nobody waits for any more, is not typed anew", async () => {
    await begin(agents("a"));
    pane().doing = "idle";
    let pastes = 0;
    pane().paste = () => void (pastes += 1); // a client that swallows it
    watch.outbox.push(message({ expires: fake.wall + 5_000 }));
    await ticks(30);
    expect([pastes, watch.outbox, watch.unproven.length]).toEqual([1, [], 1]);
  });
  test("a newer one does not take back what stands typed in the box", async () => {
    await begin(agents("a"));
    pane().doing = "idle";
    pane().takesEnter = false;
    enqueue(watch, "a", "claim", "the first claim");
    await ticks(1);
    enqueue(watch, "a", "claim", "the second claim");
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
    enqueue(watch, "a", "claim", "the claim");
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
      return args.includes("respawn-pane") ? { ok: false, out: "", err: "no answer in time", timedOut: true } : ran;
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

describe("P28: nothing is called delivered without proof", () => {
  let fake: FakeWorld;
  let cfg: Config;
  let watch: Watch;
  afterEach(() => fake?.restore());
  const BOX = "box_re = '^❯\u00a0(?<text>[^]*?)\\n─{8}'\n";
  const begin = async (backend = "", name = "claude"): Promise<void> => {
    fake = fakeWorld();
    cfg = await fake.config(`[[agent]]\nname = "a"\nbackend = "${name}"\nwatch = "heal"\n${backend}`);
    watch = await fake.watch(cfg);
    await fake.ticks(cfg, watch, 3);
  };
  const typed = async (more = "") => {
    await begin(`[backend.plain]\nkind = "typed"\nbin = "tui"\nconnect_delay = 1\n${more}`, "plain");
    fake.stat(pane().pid, 1); // in front of its pane
  };
  const pane = () => fake.tmux.of("agents-a");
  const waits = () => watch.outbox.map(({ why }) => why);
  const tell = async (text: string, ticks = 1, cause = "claim"): Promise<string> => {
    enqueue(watch, "a", cause, text);
    const { id } = watch.outbox.at(-1)!;
    await fake.ticks(cfg, watch, ticks);
    return id;
  };
  /** Something comes over the screen at the moment of so many Enters. */
  const atEnter = (kind: Disturbance["kind"], ms: number, times = 1): void => {
    const key = pane().key.bind(pane());
    pane().key = (name) => {
      if (times-- > 0) pane().disturbance = { kind, from: fake.wall, to: fake.wall + ms };
      key(name);
    };
  };

  for (const kind of ["dialog", "popup", "cleared", "half drawn", "late"] as const) {
    test(`${kind} at the moment of Enter: told once, and the agent is not deaf`, async () => {
      await begin();
      atEnter(kind, 100_000);
      const id = await tell("hear this");
      expect(watch.delivered.includes(id)).toBe(kind === "dialog" || kind === "popup"); // Enter closes them
      await fake.ticks(cfg, watch, 6);
      expect(pane().received).toEqual(["hear this"]);
      expect(watch.delivered).toContain(id);
      await tell("and this");
      expect(pane().received).toEqual(["hear this", "and this"]);
    });
  }

  test("a dialog that takes the Enter and stays: not delivered, sent once it is gone", async () => {
    await begin();
    const key = pane().key.bind(pane());
    pane().key = (name) => ((pane().doing = "dialog"), (pane().key = key), key(name));
    const id = await tell("hear this", 3);
    expect([watch.delivered, waits(), pane().enters]).toEqual([[], ["blocked: a dialog is open"], 1]);
    watch = await fake.watch(cfg);
    pane().doing = "idle";
    await fake.ticks(cfg, watch);
    expect([pane().received, watch.delivered]).toEqual([["hear this"], [id]]);
  });

  test("a question that its turn asks at once, in place of the box: the text above it is the proof", async () => {
    await begin();
    pane().onSubmit = () => void (pane().doing = "dialog");
    const id = await tell("hear this");
    expect([pane().received, watch.delivered, waits(), pane().approved]).toEqual([["hear this"], [id], [], 0]);
  });

  test("while something unknown covers the box, it waits on that, for a person to see", async () => {
    await begin();
    pane().text = "an unknown screen, without any box";
    await tell("hear this", 2);
    expect([pane().draft, pane().enters, waits()]).toEqual(["", 0, ["unsure: no input box is recognised"]]);
  });

  test("a person who types behind our text: never submitted, said, and told once it is cleared", async () => {
    await begin();
    const paste = pane().paste.bind(pane());
    pane().paste = (value) => paste(`${value} y`);
    await tell("hear this, whoever it may concern, and tell me what you think of it", 3);
    expect([pane().enters, waits()[0]]).toEqual([0, "our message is mixed with other text in the input box; submit or clear it by hand"]);
    Object.assign(pane(), { draft: "", paste });
    await fake.ticks(cfg, watch, 7);
    expect(pane().received).toEqual(["hear this, whoever it may concern, and tell me what you think of it"]);
  });

  test("a person's y where our paste was lost: never submitted", async () => {
    await begin();
    pane().paste = () => void (pane().draft = "y");
    await tell("try it, verify it", 6);
    expect([pane().enters, pane().draft]).toEqual([0, "y"]);
  });

  test("a paste that shows after 10 s is waited for, and pasted once", async () => {
    await begin();
    pane().slow = 10_000;
    let pastes = 0;
    const paste = pane().paste.bind(pane());
    pane().paste = (value) => ((pastes += 1), paste(value));
    await tell("hear this", 4);
    expect([pastes, pane().received]).toEqual([1, ["hear this"]]);
  });

  for (const [when, command, times] of [["the paste", "paste-buffer", 0], ["Enter", "send-keys", 1]] as const) {
    test(`a tmux that falls silent after ${when} is no box without the text: one look ends the wait, the next round goes on`, async () => {
      await begin();
      let asked = 0;
      const { tmux } = world;
      world.tmux = async (args, ...rest) => {
        if (fake.tmux.trouble) asked += 1;
        const ran = await tmux(args, ...rest);
        if (args.includes(command)) fake.tmux.trouble = "hang";
        return ran;
      };
      enqueue(watch, "a", "claim", "hear this");
      await tick(cfg, watch);
      expect([asked, pane().received.length, waits()[0]]).toEqual([1, times, when === "Enter"
        ? "Enter was pressed; no sign yet that it was accepted" : "tmux did not show the pane"]);
      world.tmux = tmux;
      fake.tmux.trouble = "";
      await fake.ticks(cfg, watch, 2);
      expect([pane().received, pane().enters, watch.outbox]).toEqual([["hear this"], 1, []]);
    });
  }

  test("where tmux does not show the box, no text of ours passes for a person's draft in it", async () => {
    await begin();
    const older = message({ id: "older", text: "the older text, which still stands in the box", cause: "review", tries: 1, seen: 0, made: fake.wall });
    watch.unproven.push(older);
    pane().draft = older.text;
    enqueue(watch, "a", "claim", "hear this");
    const { tmux } = world;
    let silent = true;
    world.tmux = async (args, stdin, ...rest) => {
      if (!silent || !closeLook(stdin ?? "")) return tmux(args, stdin, ...rest);
      silent = false;
      return { ok: false, out: "", err: "no answer in time", timedOut: true };
    };
    await fake.ticks(cfg, watch);
    expect([silent, waits(), watch.outbox[0]?.stuck]).toEqual([false, ["tmux did not show the pane"], undefined]);
    await fake.ticks(cfg, watch, 3);
    expect([pane().received, watch.outbox]).toEqual([[older.text, "hear this"], []]);
  });

  test("an unproven text that stands in the box waits for its Enter in the outbox, and no longer beside it", async () => {
    await begin();
    const older = message({ id: "older", text: "the older text, which still stands in the box", cause: "review", tries: 1, seen: 0, made: fake.wall });
    watch.unproven.push(older);
    pane().draft = older.text;
    pane().takesEnter = false;
    await tell("hear this");
    expect([watch.outbox.map(({ id }) => id === "older"), watch.unproven]).toEqual([[false, true], []]);
    pane().takesEnter = true;
    await fake.ticks(cfg, watch, 3);
    expect([pane().received, watch.outbox, watch.unproven]).toEqual([[older.text, "hear this"], [], []]);
  });

  test("a paste that never came is made again, when several looks have found the box empty", async () => {
    await begin();
    const paste = pane().paste.bind(pane());
    pane().paste = () => void (pane().paste = paste);
    await tell("hear this", 3);
    expect([pane().draft, waits()]).toEqual(["", ["passed to its client; not visible there yet"]]);
    await fake.ticks(cfg, watch, 4);
    expect(pane().received).toEqual(["hear this"]);
  });

  test("a paste that is lost twice is not made a third time: whoever cannot see it would heap them up", async () => {
    await begin();
    let pastes = 0;
    pane().paste = () => void (pastes += 1);
    await tell("hear this", 30);
    expect([pastes, pane().enters, watch.outbox, watch.unproven.length]).toEqual([2, 0, [], 1]);
  });

  test("its own text, left in the box by a watchdog that was ended, is sent before a newer one", async () => {
    await begin();
    pane().draft = "the first";
    watch.outbox = [message({ text: "the second", cause: "review" }), message({ id: "2", text: "the first", seen: 0, tries: 1 })];
    await fake.ticks(cfg, watch, 2);
    expect(pane().received).toEqual(["the first", "the second"]);
  });

  test("typed twice and never seen to be taken: unproven, not typed again, known when it shows up", async () => {
    await begin();
    pane().onSubmit = () => void (pane().said = "● A long answer.");
    atEnter("cleared", 5_000, 2);
    const id = await tell("hear this", 15);
    expect(pane().received).toEqual(["hear this", "hear this"]);
    expect([watch.delivered.includes(id), watch.unproven.map((one) => one.id), watch.outbox]).toEqual([false, [id], []]);
    pane().draft = "hear this";
    await tell("and this", 2);
    expect(pane().received.slice(2)).toEqual(["hear this", "and this"]);
    expect(watch.unproven).toEqual([]);
  });

  test("what is delivered later proves nothing of a text without a proof: it is shown for a day", async () => {
    await begin();
    pane().onSubmit = () => void (pane().said = "● A long answer.");
    atEnter("cleared", 5_000, 2);
    const id = await tell("hear this", 15);
    const other = await tell("get up", 3, "wake");
    expect([watch.delivered, watch.unproven.map((one) => one.id)]).toEqual([[other], [id]]);
    const shown = async () => JSON.parse((await command("status", "--json", "--config", cfg.path)).out).agents[0].unproven;
    expect(await shown()).toBe(1);
    watch = await fake.watch(cfg);
    fake.turn(86_400_000);
    await fake.ticks(cfg, watch, 1);
    expect(await shown()).toBe(0);
  });

  test("that day begins when the text is without a proof, however long it had waited to be typed", async () => {
    await begin();
    pane().onSubmit = () => void (pane().said = "● A long answer.");
    atEnter("cleared", 5_000, 2);
    const id = await tell("hear this", 0);
    watch.outbox[0]!.made -= 25 * 3_600_000;
    await fake.ticks(cfg, watch, 15);
    expect(watch.unproven.map((one) => one.id)).toEqual([id]);
    pane().draft = "hear this";
    await tell("and this", 2);
    expect(pane().received.slice(-2)).toEqual(["hear this", "and this"]);
  });

  test("a text without a proof has one when it shows up in the transcript, or is said again", async () => {
    for (const again of ["shown", "said"]) {
      await begin();
      pane().onSubmit = () => void (pane().said = "● A long answer.");
      atEnter("cleared", 5_000, 2);
      const id = await tell("hear this", 15);
      expect(watch.unproven.map((one) => one.id)).toEqual([id]);
      if (again === "shown") pane().said = "❯ hear this\n\n● A long answer.";
      const next = await tell(again === "shown" ? "and this" : "hear this", 2);
      expect([watch.delivered, watch.unproven]).toEqual([again === "shown" ? [id, next] : [next], []]);
      fake.restore();
    }
  });

  test("a client that takes an Enter soon after a paste for a newline gets another", async () => {
    await typed(`${BOX}submit_pause = 0.3\n`);
    pane().newlineFor = 900;
    const id = await tell("hear this");
    expect([pane().received, pane().enters, watch.delivered.includes(id)]).toEqual([["hear this"], 2, true]);
  });

  test("submit_pause is what passes between a drawn paste and Enter", async () => {
    const taken: number[] = [];
    for (const pause of [0, 4]) {
      await typed(`${BOX}submit_pause = ${pause}\n`);
      const from = fake.wall;
      pane().onSubmit = () => void taken.push(fake.wall - from);
      await tell("hear this");
      fake.restore();
    }
    expect(taken[1]! - taken[0]!).toBe(4_000);
  });

  test("a person's draft in a typed client with a box is waited out", async () => {
    await typed(BOX);
    pane().draft = "my half written thought";
    await tell("hear this", 3);
    expect([pane().draft, pane().enters]).toEqual(["my half written thought", 0]);
    pane().draft = "";
    await fake.ticks(cfg, watch);
    expect(pane().received).toEqual(["hear this"]);
  });

  test("a box_re that sees one line of a box knows the beginning of our text by that", async () => {
    await typed("box_re = '^❯\u00a0(?<text>.*)$'\n");
    const text = "The first line, which is long enough to be nobody's accident.\nThe second.";
    await tell(text);
    expect(pane().received).toEqual([text]);
  });

  /** A client that draws its box as it likes. */
  const drawsBox = (box: (draft: string) => string): void =>
    void Object.defineProperty(pane(), "text", { get: () => `${pane().said}\n\n${box(pane().draft)}\n` });

  for (const [what, text, toml, box] of [
    ["its ghost text", 'Try "make test"', "", null],
    ["the box of its agents view", "describe a task for a new agent", "", null],
    ["its placeholder, by an empty_re that fits more", "Type your message and commit it", "box_re = '^❯ (?<text>[^]*?)\\n─{8}'\nempty_re = 'Type your message'\n", null],
    ["a box of its own", `${"It says of the first line. ".repeat(8)}\n> \nand no more.`, "box_re = '^> (?<text>.*)$'\n", (draft: string) => `> ${draft}`],
  ] as const) {
    test(`a text that reads like ${what} is handed over in a file: in the box it could not be told`, async () => {
      await (toml ? typed(toml) : begin());
      if (box) drawsBox(box);
      const id = await tell(text, 3);
      const file = join(cfg.stateDir, `message-${id}.txt`);
      expect([fake.files.get(file), pane().received]).toEqual([text, [expect.stringContaining(file)]]);
      expect([watch.delivered, pane().draft]).toEqual([[id], ""]);
    });
  }

  test("a text that its box_re overlooks stands on the screen, and is not delivered for that", async () => {
    await typed("box_re = '^> (?<text>.*)$'\n");
    drawsBox((draft) => `> \n${draft}`);
    const id = await tell("hear this", 20);
    expect([watch.delivered, pane().received, watch.unproven.map((one) => one.id)]).toEqual([[], [], [id]]);
  });

  test("a list below the box that looks like one does not mean that our text has left it", async () => {
    await typed("box_re = '^> (?<text>.*)$'\n");
    pane().takesEnter = false;
    drawsBox((draft) => (draft && pane().enters ? `> ${draft}\n\n  pick one:\n> notes.txt\n  more.txt` : `> ${draft}`));
    const id = await tell("hear this", 3);
    expect([watch.delivered, watch.outbox.map((one) => one.id), pane().draft]).toEqual([[], [id], "hear this"]);
  });

  test("without a box: typed once, called unproven, with the cure; later texts still go", async () => {
    await typed();
    const ids = [await tell("hear this"), await tell("and this")];
    await fake.ticks(cfg, watch, 5);
    expect(pane().received).toEqual(["hear this", "and this"]);
    expect([watch.outbox, watch.delivered]).toEqual([[], []]);
    expect(Object.keys(JSON.parse(fake.files.get(join(cfg.stateDir, "watch.json"))!))).toContain("unproven");
    expect(watch.unproven.map(({ id, why }) => [id, why])).toEqual(ids.map((id) => [id,
      "its client's input box is not recognised: describe it as box_re in [backend.plain]"]));
    expect(fake.logged("unconfirmed: claim to a")).toHaveLength(2);
    watch = await fake.watch(cfg);
    await fake.ticks(cfg, watch, 3);
    expect(pane().received).toHaveLength(2);
  });

  test.each([["of another agent are kept beside it", "b", 21], ["of its own are too many beside it", "a", 20]])("twenty texts without a proof %s", async (_, target, kept) => {
    await typed();
    watch.unproven = Array.from({ length: 20 }, (_, nth) => message({ id: `${nth}`, target, unprovenAt: fake.wall }));
    const id = await tell("hear this");
    expect([watch.unproven.length, watch.unproven.at(-1)!.id]).toEqual([kept, id]);
  });

  test("without a box: Enter again while the text stands at the cursor", async () => {
    await typed("submit_pause = 0.3\n");
    const key = pane().key.bind(pane());
    pane().key = () => void (pane().key = key);
    await tell("hear this, whoever it may concern");
    expect([pane().received, pane().enters]).toEqual([["hear this, whoever it may concern"], 1]); // the first key was lost
  });

  test("opencode without its server, its box unknown: the echo of a text is no delivery", async () => {
    await begin("", "opencode");
    pane().marks = {};
    pane().text = "some new home screen\nhear this";
    watch.outbox = [message({ text: "hear this", seen: 0, tries: 1 })];
    await fake.ticks(cfg, watch, 3);
    expect([watch.delivered, watch.outbox.length, pane().enters]).toEqual([[], 1, 0]);
  });

  const TEXTS = rounds(500, 100);
  for (const [backend, seed] of [["claude", 1], ["typed", 2], ["recorded", 3]] as const) {
    test(`${TEXTS} texts to a ${backend} client, disturbed around Enter (seed ${seed})`, async () => {
      const { delivered, unproven, twice, ...wrong } = await disturbed(seed, TEXTS, backend);
      if (backend === "recorded") expect(twice).toBe(0);
      expect(wrong).toEqual({ false: [], copies: [], merged: [], deaf: [] });
      expect(delivered + unproven).toBe(2 * TEXTS);
      expect(unproven).toBeLessThan(TEXTS / 25);
    }, 60_000);
  }
});

describe("what a person sees of it", () => {
  let fake: FakeWorld;
  let printed = "";
  let print: { mockRestore(): void };
  beforeEach(() => {
    printed = "";
    fake = fakeWorld(mkdtempSync(join(tmpdir(), "agents-outbox-")));
    print = spyOn(world, "print").mockImplementation((text) => void (printed += text));
  });
  afterEach(() => {
    print.mockRestore();
    fake.restore();
    rmSync(fake.home, { recursive: true });
  });
  const begin = async (toml: string): Promise<{ cfg: Config; watch: Watch }> => {
    const cfg = await fake.config(toml);
    const watch = await fake.watch(cfg);
    await fake.ticks(cfg, watch, 3);
    return { cfg, watch };
  };
  const status = async (cfg: Config, options = {}): Promise<[code: number, out: string]> => {
    printed = "";
    return [await cmdStatus({ path: cfg.path, words: [], options }), printed];
  };

  test("a text to a client without a box: send exits 1 with the word and the cure, status shows both", async () => {
    const { cfg } = await begin('[[agent]]\nname = "a"\nbackend = "plain"\n[backend.plain]\nkind = "typed"\nbin = "tui"\nconnect_delay = 1\n');
    const [from, call] = [fake.mono, { path: cfg.path, words: ["a", "hear this"], options: { timeout: "60" } }];
    const pane = fake.tmux.add("agents-a");
    pane.marks = { "@agents_backend": "plain" };
    fake.stat(pane.pid, 1); // in front of its pane
    fake.turn(2_000);
    expect(await cmdSend(call)).toBe(1);
    expect(fake.mono - from).toBeLessThan(20_000);
    expect(fake.lines.at(-1)).toContain("a: unconfirmed: its client's input box is not recognised: describe it as box_re in [backend.plain]");
    expect(fake.received("agents-a")).toEqual(["hear this"]);
    const [, table] = await status(cfg);
    expect(table).toContain("1 unconfirmed (its client's input box");
    const row = JSON.parse((await status(cfg, { json: true }))[1]).agents[0];
    expect([row.messages, row.unproven, row.messagesWhy]).toEqual([0, 1, expect.stringContaining("box_re")]);
  });

  test("a text that a draft holds up for ten minutes needs a person, and no longer when it is gone", async () => {
    const { cfg, watch } = await begin('[[agent]]\nname = "a"\nbackend = "claude"\nwatch = "heal"\n');
    fake.tmux.of("agents-a").draft = "half a thought";
    enqueue(watch, "a", "claim", "hear this");
    const needs = async (): Promise<[boolean, string]> => {
      const row = JSON.parse((await status(cfg, { json: true }))[1]).agents[0];
      return [row.needsHuman, row.messagesWhy];
    };
    await fake.ticks(cfg, watch, 2);
    expect(await needs()).toEqual([false, "someone's draft is in the input box"]);
    await fake.ticks(cfg, watch, 20);
    expect(await needs()).toEqual([true, "someone's draft is in the input box"]);
    fake.tmux.of("agents-a").draft = "";
    await fake.ticks(cfg, watch, 1);
    expect(await needs()).toEqual([false, ""]);
  });
});
