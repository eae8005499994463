/** Idle without a word about waiting: restarted, but never on one look, one marker or one clock step. */
import { beforeEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { decideStall, describeState, handoffReset, isFruitful, loadWatch, memoryOf, parseEvents, parseWaitingUntil, type StallFacts, stallPause, world } from "../agents.ts";
import { closeLook, command, FLEET, message, PLAIN, type Scene, scene } from "./kit.ts";

describe("decideStall", () => {
  const facts: StallFacts = { verdict: "idle", idle: 0, same: 0, animated: false, past: null, stallIdle: 300, grace: 180 };
  test.each<[string, Partial<StallFacts>, "none" | "restart"]>([
    ["idle for long", { idle: 300 }, "restart"],
    ["idle, not long enough", { idle: 299 }, "none"],
    ["fault 13: a marker that passed, one look", { idle: 0, past: 4 * 3600 }, "none"],
    ["fault 13: a marker that passed, idle for long", { idle: 300, past: 4 * 3600 }, "restart"],
    ["a marker that passed a moment ago", { idle: 4000, past: 179 }, "none"],
    ["within the grace and stall_idle after the wait", { idle: 4000, past: 299 }, "none"],
    ["the wait passed by more than both", { idle: 4000, past: 301 }, "restart"],
    ["waiting", { verdict: "waiting", idle: 4000 }, "none"],
    ["limited", { verdict: "limited", idle: 4000, same: 4000 }, "none"],
    ["fault 78: at a dialog", { verdict: "blocked", idle: 4000, same: 4000 }, "none"],
    ["fault 44: could not look", { verdict: "unsure", idle: 4000, same: 4000 }, "none"],
    ["active, the screen moves", { verdict: "active", same: 2, animated: true }, "none"],
    ["P13: active by a spinner that is frozen", { verdict: "active", same: 300, animated: true }, "restart"],
    ["active by something that does not move anyway", { verdict: "active", same: 9000, animated: false }, "none"],
    ["a spinner is given a minute at least", { verdict: "active", same: 59, animated: true, stallIdle: 5 }, "none"],
  ])("%s", (_, some, wanted) => expect(decideStall({ ...facts, ...some }).do).toBe(wanted));
});

describe("parseWaitingUntil", () => {
  const at = (iso: string) => Date.parse(iso);
  test.each<[string, string, number | null]>([
    ["none", "● Done.", null],
    ["the agent's own line", "● WAITING-UNTIL: 2026-06-15T14:00:00Z", at("2026-06-15T14:00:00Z")],
    ["with an offset", "● WAITING-UNTIL: 2026-06-15T14:00:00+02:00", at("2026-06-15T12:00:00Z")],
    ["marked and with a full stop", "● **WAITING-UNTIL: 2026-06-15T14:00:00Z**.", at("2026-06-15T14:00:00Z")],
    ["fault 14: the last WAITING-UNTIL marker counts", "● WAITING-UNTIL: 2026-06-15T10:00:00Z\n\n● WAITING-UNTIL: 2026-06-15T18:00:00Z", at("2026-06-15T18:00:00Z")],
    ["fault 15: above opencode's footer", "     WAITING-UNTIL: 2026-06-15T14:00:00Z\n\n     ▣ Build · gpt · 2s\n\n  ┃\n  ┃  Build\n  ╹▀▀▀▀▀▀▀▀▀\n  12.4K (1%)  ctrl+p commands", at("2026-06-15T14:00:00Z")],
    ["a date that is none", "● WAITING-UNTIL: soon", null],
    ["a day alone", "● WAITING-UNTIL: 2026-06-15", at("2026-06-15")],
    ["a month that is none", "● WAITING-UNTIL: 2026-13-15T14:00:00Z", null],
    ["quoted in a prompt", "❯ write WAITING-UNTIL: 2026-06-15T14:00:00Z\n  WAITING-UNTIL: 2026-06-15T14:00:00Z", null],
    ["in a tool's output", "● Bash(cat x)\n  ⎿  WAITING-UNTIL: 2026-06-15T14:00:00Z\n     WAITING-UNTIL: 2026-06-15T14:00:00Z", null],
    ["within a sentence", "● I write WAITING-UNTIL: 2026-06-15T14:00:00Z when I wait", null],
  ])("%s", (_, text, wanted) => expect(parseWaitingUntil(text)).toBe(wanted));
});

describe("stallCheckOne, over the fake world", () => {
  const TEXT = '[[agent]]\nname = "a"\nbackend = "claude"\nwatch = "heal+stall"\n';
  let { fake, cfg, watch, pane, starts } = {} as Scene;
  beforeEach(async () => void ({ fake, cfg, watch, pane, starts } = await scene(TEXT, { ticks: 4, doing: "busy" })));
  const iso = (offset: number) => new Date(fake.wall + offset * 1000).toISOString();
  /** Ticks until a further start, at most `most`. */
  const ticksToRestart = async (most = 40): Promise<number> => {
    const before = starts();
    for (let nth = 0; nth < most; nth++) {
      if (starts() > before) return nth;
      await fake.ticks(cfg, watch);
    }
    return Infinity;
  };

  test("P13: idle: restarted within stall_idle and two ticks", async () => {
    pane().doing = "idle";
    const ticks = await ticksToRestart();
    expect(ticks).toBeGreaterThanOrEqual(10);
    expect(ticks).toBeLessThanOrEqual(13);
    expect(fake.logged(/stall: .*idle 300 s with no WAITING-UNTIL marker/)).toHaveLength(1);
  });
  test("P13: a frozen spinner: restarted within stall_idle and two ticks", async () => {
    pane().frozen = fake.wall;
    expect(await ticksToRestart()).toBeLessThanOrEqual(13);
  });
  test("work that a rule without a spinner sees may stand still", async () => {
    ({ fake, cfg, watch, pane, starts } = await scene(`${TEXT}[backend.claude]\nrule = [{ name = "still", verdict = "active", re = "STANDS STILL" }]\n`, { ticks: 4 }));
    Object.assign(pane(), { doing: "idle", said: "● STANDS STILL" });
    expect([await ticksToRestart(), watch.agents.a!.verdict]).toEqual([Infinity, "active"]);
  });
  test("a spinner that moves again at the moment of the end: not restarted before it has stood still for as long again", async () => {
    pane().frozen = fake.wall;
    let moved = 0;
    fake.beforeTmux((_, stdin) => {
      if (!closeLook(stdin) || moved) return;
      moved = fake.wall;
      pane().frozen = fake.wall + 1_000;
    });
    await ticksToRestart();
    expect([moved > 0, starts(), fake.wall - moved >= 300_000]).toEqual([true, 2, true]);
  });
  test.each<[string, string, number]>([["something new", "● Another thing.", 1], ["another time of day", "● Ready at 12:01.", 2]])(
    "an idle one whose screen shows %s at the moment of the end: it counts as moving, or not, as at every look", async (_, said, clients) => {
      pane().doing = "idle";
      pane().said = "● Ready at 11:59.";
      let ended = false;
      fake.beforeTmux((__, stdin) => {
        if (!closeLook(stdin) || ended) return;
        ended = true;
        pane().said = said;
      });
      await ticksToRestart(15);
      expect([ended, starts()]).toEqual([true, clients]);
    });
  test("P13: a dead pane is restarted at the next tick", async () => {
    fake.tmux.exit("agents-a", 1);
    expect(await ticksToRestart()).toBeLessThanOrEqual(2);
  });
  test("a busy agent is never restarted", async () => expect(await ticksToRestart(500)).toBe(Infinity));
  test("work in between begins the idleness anew", async () => {
    for (let round = 0; round < 5; round++) {
      pane().doing = "idle";
      await fake.ticks(cfg, watch, 9);
      pane().doing = "busy";
      await fake.ticks(cfg, watch, 1);
    }
    expect(starts()).toBe(1);
  });
  test("so does a turn that no look saw, in status too; another watchdog is none", async () => {
    pane().doing = "idle";
    pane().said = "● One.";
    await fake.ticks(cfg, watch, 5);
    const before = memoryOf(watch, "a").since;
    await fake.ticks(cfg, watch = await fake.watch(cfg), 3);
    expect(memoryOf(watch, "a").since).toBe(before);
    pane().said = "● Another.";
    const from = fake.wall;
    await fake.ticks(cfg, watch, 3);
    expect([memoryOf(watch, "a").verdict, memoryOf(watch, "a").since >= from]).toEqual(["idle", true]);
    const row = JSON.parse((await command("status", "--json", "--config", cfg.path)).out).agents[0];
    expect(row.since).toBe(new Date(memoryOf(watch, "a").since).toISOString());
    const early = await ticksToRestart();
    expect([early >= 7, early <= 11]).toEqual([true, true]);
  });
  test("fault 78: at a dialog it is neither restarted nor typed to", async () => {
    pane().doing = "dialog";
    expect(await ticksToRestart(100)).toBe(Infinity);
    expect([pane().enters, fake.logged("is blocked").length]).toEqual([0, 1]);
  });
  test("a person's draft in the box of an idle one: not restarted, needs you, until it is gone", async () => {
    pane().doing = "idle";
    pane().draft = "what I was about to say";
    expect(await ticksToRestart(100)).toBe(Infinity);
    expect([pane().draft, fake.logged("is blocked: someone's draft is in the input box")]).toEqual(["what I was about to say", [expect.any(String)]]);
    expect(memoryOf(watch, "a").verdict).toBe("blocked");
    watch = await fake.watch(cfg); // another watchdog knows it from the memory
    await fake.ticks(cfg, watch, 2);
    expect(memoryOf(watch, "a").verdict).toBe("blocked");
    pane().draft = "";
    await fake.ticks(cfg, watch, 2);
    expect(memoryOf(watch, "a").verdict).toBe("idle");
    expect(await ticksToRestart()).toBeLessThanOrEqual(13);
  });
  test("where tmux does not show the box, nobody says that there is no draft in it: not restarted", async () => {
    pane().doing = "idle";
    pane().draft = "what I was about to say";
    const { tmux } = world;
    let looks = 0; // two before an end: whether it is idle still, and the box
    world.tmux = async (args, stdin, ...rest) => closeLook(stdin ?? "") && (looks += 1) % 2 === 0
      ? { ok: false, out: "", err: "no answer in time", timedOut: true } : tmux(args, stdin, ...rest);
    expect(await ticksToRestart(40)).toBe(Infinity);
    expect([looks > 10, fake.logged("is blocked: someone's draft")]).toEqual([true, []]);
  });
  test("where no box is recognised a person may be typing: put off until nothing was drawn for twice as long", async () => {
    pane().doing = "idle";
    const usual = await ticksToRestart();
    const screen = (draft: string) => `ready>\n${draft}`;
    fake.restore();
    ({ fake, cfg, watch, pane, starts } = await scene('[[agent]]\nname = "a"\nbackend = "plain"\nwatch = "heal+stall"\n' +
      `[backend.plain]\nkind = "typed"\nbin = "tui"\nconnect_delay = 1\nready_re = "ready>"\nstall_idle = ${cfg.backends.get("claude")!.stallIdle}\n`, { ticks: 4 }));
    fake.stat(pane().pid, 1); // in front of its pane
    pane().text = screen("");
    await fake.ticks(cfg, watch, usual - 3);
    pane().text = screen("what I was about to say");
    expect(await ticksToRestart(usual * 2 - 4)).toBe(Infinity);
    expect(await ticksToRestart(8)).toBe(1);
  });
  test("our text whose end a person has cut off is that person's draft", async () => {
    const value = "pull, read the newest claim, try to break it, and commit your review of it with PASS or FAIL";
    pane().doing = "idle";
    pane().draft = value.slice(0, 60);
    watch.outbox.push(message({ target: "a", text: value, made: fake.wall, tries: 1, seen: 0 }));
    expect([await ticksToRestart(100), pane().draft]).toEqual([Infinity, value.slice(0, 60)]);
  });
  test("our own message, without proof and still in the box, is no draft of a person, also after the day for which it is shown", async () => {
    const text = "pull, read the newest claim, try to break it";
    Object.assign(pane(), { doing: "idle", draft: text });
    const pasted = { pid: pane().pid, nth: 1, at: fake.wall, empty: 0 };
    watch.unproven.push(message({ target: "a", text, made: fake.wall, unprovenAt: fake.wall, tries: 1, seen: 0, pasted }));
    expect([await ticksToRestart(100), pane().draft, fake.logged("someone's draft")]).toEqual([Infinity, text, []]);
    expect(fake.logged("a is blocked: our unconfirmed message is still in the input box")).toHaveLength(1);
    fake.turn(86_400_000);
    await fake.ticks(cfg, watch, 3);
    const { agents: [card] } = JSON.parse((await command("status", "a", "--json", "--config", cfg.path)).out);
    expect([card.condition, card.detail, card.unproven, card.texts]).toEqual(["blocked", expect.stringContaining("our unconfirmed message"), 0, []]);
    // the next client cannot have it
    fake.tmux.exit("agents-a", 1);
    await fake.ticks(cfg, watch, 3);
    expect([starts(), watch.unproven]).toEqual([2, []]);
  });
  const told = () => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === "unsure").map(({ why }) => why);
  test.each([2, 3, 5, 9])("a screen without work that changes at every look but one in %d, for ever: a person hears of it", async (every) => {
    pane().doing = "idle";
    for (let nth = 0; nth < 80; nth++) {
      pane().said = `● ${"abcdefghijklmnopqrstuvwxyz"[Math.floor(nth / every) % 26]}`;
      await fake.ticks(cfg, watch);
    }
    expect([starts(), told()]).toEqual([1, [expect.stringContaining("its screen changes, but shows no work")]]);
    expect(await ticksToRestart()).toBeLessThanOrEqual(25);
  });
  test("a screen that is understood at every other look alone: a person hears of it", async () => {
    for (let nth = 0; nth < 80; nth++) {
      pane().doing = nth % 3 ? "idle" : "blank";
      await fake.ticks(cfg, watch);
    }
    expect([starts(), told().length]).toEqual([1, 1]);
  });
  test("a blank screen leads to nothing", async () => {
    pane().doing = "blank";
    expect(await ticksToRestart(100)).toBe(Infinity);
  });
  test("it waits as long as it said, and is restarted when it does not go on", async () => {
    pane().doing = "idle";
    pane().said = `● WAITING-UNTIL: ${iso(3600)}`;
    await fake.ticks(cfg, watch, 119);
    expect(starts()).toBe(1);
    expect(await ticksToRestart()).toBeLessThanOrEqual(14);
    expect(fake.logged(/stall: .*past its WAITING-UNTIL/)).toHaveLength(1);
  });
  test("fault 13: an expired marker and one idle look between two tools is no stall", async () => {
    pane().said = `● WAITING-UNTIL: ${iso(-4 * 3600)}`;
    for (let round = 0; round < 20; round++) {
      pane().doing = "idle";
      await fake.ticks(cfg, watch, 2);
      pane().doing = "busy";
      await fake.ticks(cfg, watch, 2);
    }
    expect(starts()).toBe(1);
  });
  test("fault 14: an old marker above a new one", async () => {
    pane().doing = "idle";
    pane().said = `● WAITING-UNTIL: ${iso(-4 * 3600)}\n\n● WAITING-UNTIL: ${iso(4 * 3600)}`;
    expect(await ticksToRestart(100)).toBe(Infinity);
  });
  test("fault 16: a suspended machine makes nobody idle", async () => {
    pane().doing = "idle";
    await fake.ticks(cfg, watch, 3);
    fake.turn(8 * 3600_000);
    await fake.ticks(cfg, watch, 9);
    expect(starts()).toBe(1);
    expect(await ticksToRestart()).toBeLessThanOrEqual(4);
  });
  test("rounds that take longer than three short intervals are no gap: a stalled agent is still found", async () => {
    cfg = await fake.config(`[watchdog]\nsignal_interval = 1\n${TEXT}`);
    pane().doing = "idle";
    fake.beforeTmux(() => fake.turn(3_000));
    expect(await ticksToRestart(400)).toBeLessThan(200);
  });
  test("fault 16: nor does a wall clock that was set", async () => {
    pane().doing = "idle";
    await fake.ticks(cfg, watch, 3);
    for (const step of [3600_000, -3600_000, 10 * 365 * 86400_000]) {
      fake.wall += step;
      await fake.ticks(cfg, watch, 2);
    }
    expect(starts()).toBe(1);
  });
  test("watch = heal is not stalled", async () => {
    cfg = await fake.config(TEXT.replace("heal+stall", "heal"));
    pane().doing = "idle";
    expect(await ticksToRestart(60)).toBe(Infinity);
  });
  test("fault 44: while tmux does not answer nobody is idle", async () => {
    pane().doing = "idle";
    await fake.ticks(cfg, watch, 3);
    fake.tmux.trouble = "hang";
    await fake.ticks(cfg, watch, 40);
    fake.tmux.trouble = "";
    await fake.ticks(cfg, watch, 5);
    expect(starts()).toBe(1);
  });
});

describe("restarts of which nothing comes", () => {
  test.each<[stalls: number, pause: number]>([[0, 300], [2, 300], [3, 600], [4, 1200], [6, 4800], [12, 6 * 3600], [1000, 6 * 3600]])("after %d in a row the next one waits %d s", (stalls, pause) =>
    expect(stallPause(300, stalls, 3)).toBe(pause));
  test.each<[string, Parameters<typeof isFruitful>, boolean]>([
    ["it says until when it waits", ["waiting", 0, 0, 300], true],
    ["work in the background", ["background", 0, 0, 300], true],
    ["a long turn", ["active", 300, 0, 300], true],
    ["a short turn", ["active", 299, 0, 300], false],
    ["a long turn that draws nothing new", ["active", 3000, 2900, 300], false],
    ["idle", ["idle", 3000, 0, 300], false],
    ["a dialog", ["blocked", 3000, 0, 300], false],
    ["limited", ["limited", 3000, 0, 300], false],
  ])("worth it: %s", (_, facts, wanted) => expect(isFruitful(...facts)).toBe(wanted));

  const TEXT = '[[agent]]\nname = "a"\nbackend = "claude"\nwatch = "heal+stall"\n';
  let it = {} as Scene;
  /** The minutes, from one to the next, at which it is started. */
  async function pauses(count: number): Promise<number[]> {
    const found: number[] = [];
    for (let last = it.fake.wall; found.length < count; ) {
      const before = it.starts();
      for (let nth = 0; it.starts() === before; nth++) {
        if (nth > 2000) return found;
        await it.ticks();
      }
      found.push(Math.round((it.fake.wall - last) / 60_000));
      last = it.fake.wall;
    }
    return found;
  }
  const told = () => parseEvents(it.fake.files.get(it.file("events.jsonl"))!).filter(({ event }) => event === "blocked").map(({ why }) => why);
  const state = () => describeState(memoryOf(it.watch, "a"), { ...PLAIN, pane: it.pane() as never, held: false, enabled: true, limit: null, kind: "task", complete: false, now: it.fake.wall, unsureAfter: it.cfg.watchdog.unsureAfter });
  const SAID = (times: number) => `restarted ${times} times for being idle, to no effect`;

  test("an agent that hears nothing: after three it needs you, and the pauses double", async () => {
    it = await scene(TEXT);
    const found = await pauses(3);
    expect(Math.max(...found)).toBeLessThanOrEqual(7);
    expect([told(), state().needsHuman]).toEqual([[], false]);
    await it.ticks(12);
    expect(told()).toEqual([SAID(3)]);
    expect(state()).toMatchObject({ needsHuman: true, state: expect.stringMatching(/^idle: restarted 3 times for being idle, to no effect \d+m$/) });
    expect(it.fake.logged(/a needs you: restarted 3 times .*; the next restart waits 10 min/)).toHaveLength(1);
    const [fourth, fifth, sixth] = await pauses(3);
    expect([fourth! <= 6, fifth! >= 20 && fifth! <= 22, sixth! >= 40 && sixth! <= 42]).toEqual([true, true, true]);
    expect(told()).toEqual([SAID(3), SAID(4), SAID(5)]);
    // a watchdog that starts anew knows of it
    expect(memoryOf(await loadWatch(it.cfg), "a").stalls).toBe(6);
  });
  test("one short turn after each restart is nothing either", async () => {
    it = await scene(TEXT);
    it.fake.tmux.onStart = (pane) => void (pane.doing = "busy");
    for (let nth = 0; nth < 4; nth++) {
      it.pane().doing = "idle";
      await pauses(1);
      await it.ticks(3);
    }
    it.pane().doing = "idle";
    await it.ticks(13);
    expect(told()).toEqual([SAID(3), SAID(4)]);
  });
  test.each<[string, (it: Scene) => unknown, number, restarts: number]>([
    ["it works for as long as it may be idle", ({ pane }) => (pane().doing = "busy"), 14, 0],
    ["it says until when it waits", ({ pane, fake }) => (pane().said = `● WAITING-UNTIL: ${new Date(fake.wall + 600_000).toISOString()}`), 3, 0],
    ["a person runs up or restart", ({ operator, fake }) => operator({ held: {}, busy: {}, released: { a: fake.wall }, queue: [] }), 3, 1],
  ])("it is over once %s", async (_, change, ticks, restarts) => {
    it = await scene(TEXT);
    await pauses(3);
    await it.ticks(12);
    expect(state().needsHuman).toBe(true);
    change(it);
    await it.ticks(ticks);
    expect([state().needsHuman, memoryOf(it.watch, "a").stalls ?? 0]).toEqual([false, restarts]);
  });
  test("it is not over before it has worked for that long", async () => {
    it = await scene(TEXT);
    await pauses(3);
    await it.ticks(3);
    it.pane().doing = "busy";
    const left: unknown[] = [];
    await it.ticks(13, () => left.push(memoryOf(it.watch, "a").stalls));
    expect(left).toEqual([...Array(11).fill(3), undefined, undefined]);
  });
  test("a claim or a review is its author's", async () => {
    it = await scene(FLEET);
    it.fake.git.push("init", { "README.md": "r" });
    await it.ticks(3);
    const began = it.watch.owedSince!;
    expect(began).toBeGreaterThan(0);
    for (const name of ["builder", "adversary"]) Object.assign(memoryOf(it.watch, name), { stalls: 4, stallsTold: 4 });
    it.fake.git.push("claim(p1): G1");
    await it.ticks(3);
    expect(["builder", "adversary"].map((name) => memoryOf(it.watch, name).stalls)).toEqual([undefined, 4]);
    // the wait for the next commit begins with each, and with each phase
    expect(it.watch.owedSince).toBeGreaterThan(began);
    handoffReset(it.watch);
    expect(it.watch.owedSince).toBeUndefined();
  });
});

test("a Gemini whose spinner stands still hangs, though its title says that it works", async () => {
  const it = await scene('[[agent]]\nname = "a"\nbackend = "gemini"\nwatch = "heal+stall"\n', { ticks: 1 });
  const folder = join(import.meta.dir, "fixtures/gemini");
  it.pane().text = readFileSync(join(folder, "active-think-80x24.txt"), "utf8");
  it.pane().title = () => JSON.parse(readFileSync(join(folder, "active-think-80x24.json"), "utf8")).title;
  await it.ticks(16);
  expect(it.fake.logged("stall: a")).toEqual([expect.stringContaining("its screen shows work but has not moved for")]);
});
