/** A usage limit holds an agent: no reboot, one question per interval after the reset. */
import { beforeEach, describe, expect, test } from "bun:test";
import {
  clearLimitState, decideLimit, type Limit, limitNudgeMsg, type LimitState, limitStatePath, limitTick, loadLimitState, nextLimitUntil, readState,
  saveLimitState, snapshot, startAgent, enqueue, type VerdictName, world,
} from "../agents.ts";
import { agents, command, FLEET, type Scene, scene, verdict } from "./kit.ts";

const NOW = Date.UTC(2026, 5, 15, 12);
const s = (offset: number): number => NOW / 1000 + offset;
const limit = (resetIn: number | null, native = false): Limit =>
  ({ class: "5h", resetAt: resetIn === null ? null : NOW + resetIn * 1000, banner: "b", native });

describe("decideLimit", () => {
  const held: LimitState = { until: s(600), nudges: 0, setAt: s(-600), resetAt: s(555) };
  const due: LimitState = { ...held, until: s(-1), resetAt: s(-46) };
  test.each<[string, LimitState | null, VerdictName, string]>([
    ["no banner, no state", null, "idle", "none"],
    ["a banner: hold", null, "limited", "hold"],
    ["a dialog is no limit", null, "blocked", "none"],
    ["before the reset: hold", held, "limited", "hold"],
    ["before the reset the banner is gone: hold on", held, "idle", "hold"],
    ["it works: lift", held, "active", "lift"],
    ["its probe may meet the limit yet: hold on", { ...held, asked: s(-2) }, "active", "hold"],
    ["it works on its probe: lift", { ...held, asked: s(-10) }, "active", "lift"],
    ["a clock that was set back holds none that works", { ...held, asked: s(7200) }, "active", "lift"],
    ["could not look: nothing", held, "unsure", "none"],
    ["a dialog: nothing", held, "blocked", "none"],
    ["after the reset the banner still stands: probe", due, "limited", "probe"],
    ["after the reset it is at its prompt: lift", due, "idle", "lift"],
    ["after the reset it waits: lift", due, "waiting", "lift"],
    ["a state of the original, held", { until: s(600), nudges: 0 }, "limited", "hold"],
    ["a state of the original, due", { until: s(-1), nudges: 2 }, "limited", "probe"],
    ["fault 47: the clock was stepped back behind its beginning: not held longer", { ...held, setAt: s(3600), until: s(7200) }, "limited", "probe"],
  ])("%s", (_, state, name, wanted) => expect(decideLimit(state, verdict(name), NOW).do).toBe(wanted as never));
});

test("the client's own epoch counts, also where it comes a look after the banner's; what stays as it is moves no hold", async () => {
  const { fake, cfg, watch } = await scene(FLEET, { ticks: 0 });
  const agent = cfg.agents.get("builder")!;
  const look = (ms: number, exact: boolean) =>
    limitTick(cfg, watch, agent, { ...verdict("limited"), limit: { ...limit(null), resetAt: fake.wall + ms, ...(exact ? { exact } : {}) } });
  await look(3_600_000, false);
  await look(3_642_000, false);
  expect(loadLimitState(cfg, agent.session)!.resetAt).toBe((fake.wall + 3_600_000) / 1000);
  await look(3_642_000, true);
  expect(loadLimitState(cfg, agent.session)!.resetAt).toBe((fake.wall + 3_642_000) / 1000);
  // one that is far off: the next look at it does not put the probe off again
  await look(100 * 3_600_000, true);
  const { until } = loadLimitState(cfg, agent.session)!;
  const reset = fake.wall + 100 * 3_600_000;
  fake.turn(600_000);
  await look(reset - fake.wall, true);
  expect(loadLimitState(cfg, agent.session)!.until).toBe(until);
});

describe("nextLimitUntil", () => {
  let { fake, cfg } = {} as Scene;
  beforeEach(async () => void ({ fake, cfg } = await scene(FLEET, { ticks: 0 })));
  test.each<[string, Limit | null, number]>([
    ["no limit: the fallback", null, 300],
    ["no time on the screen: the fallback", limit(null), 300],
    ["the reset and a slack", limit(1800), 1845],
    ["a client that goes on by itself gets its grace", limit(1800, true), 2025],
    ["fault 47: far off: looked at once an hour, not every 5 min", limit(3 * 86400), 3600],
    ["six hours off: to the reset", limit(6 * 3600 - 60), 6 * 3600 - 15],
  ])("%s", (_, one, wanted) => expect(nextLimitUntil(cfg.watchdog, one, 180, NOW)).toBe(s(wanted)));

  test("the end of a limit takes back the question that nobody typed yet, and no other text", async () => {
    const watch = await fake.watch(cfg);
    const agent = cfg.agents.get("orchestrator")!;
    await saveLimitState(cfg, agent.session, { until: fake.wall / 1000 + 600, nudges: 1 });
    for (const [target, cause] of [["orchestrator", "nudge"], ["orchestrator", "wake"], ["builder", "nudge"]] as const) enqueue(watch, target, cause, "x");
    expect(await limitTick(cfg, watch, agent, verdict("active"))).toBe(false);
    // a client's rule of that name is no limit of its account: nothing is held for it
    expect(await limitTick(cfg, watch, agent, { ...verdict("blocked"), rule: "account", where: "event" })).toBe(false);
    expect(watch.outbox.map(({ target, cause }) => [target, cause])).toEqual([["orchestrator", "wake"], ["builder", "nudge"]]);
  });

  test("the state file is the original's; a damaged one is no word that there is none", async () => {
    const read = async (text: string): Promise<LimitState | null> => {
      fake.files.set(limitStatePath(cfg, "x"), text);
      await readState(cfg);
      return loadLimitState(cfg, "x");
    };
    expect(loadLimitState(cfg, "x")).toBeNull();
    expect(await read('{"until": 1781524845.5, "nudges": 1}')).toEqual({ until: 1781524845.5, nudges: 1 });
    // no client's reset is in the year 2999
    for (const bad of ["", "{", "null", "3", '{"until": "x"}', "[]", '{"until": 32472144000, "nudges": 1}', '{"until": null}', '{"until": [5]}', '{"until": true}']) {
      expect(await read(bad)).toEqual({ until: 1781524845.5, nudges: 1 }); // the last one
    }
    expect(await read('{"until": 1781524845.5, "nudges": 1, "resetAt": 32472144000}')).toEqual({ until: 1781524845.5, nudges: 1 });
    await saveLimitState(cfg, "x", { until: 5, nudges: 0 });
    expect([loadLimitState(cfg, "x"), await read(fake.files.get(limitStatePath(cfg, "x"))!)]).toEqual([{ until: 5, nudges: 0 }, { until: 5, nudges: 0 }]);
    clearLimitState(cfg, "x");
    clearLimitState(cfg, "x");
    expect([loadLimitState(cfg, "x"), fake.files.has(limitStatePath(cfg, "x"))]).toEqual([null, false]);
  });

  test("a loop is asked to go on with its loop, another with its work", () => {
    expect(limitNudgeMsg(cfg, cfg.agents.get("builder")!)).toContain("STATUS-p1.md");
    expect(limitNudgeMsg(cfg, cfg.agents.get("orchestrator")!)).not.toContain("STATUS");
  });
});

describe("limitTick, over the fake world", () => {
  const TEXT = '[[agent]]\nname = "a"\nbackend = "claude"\nwatch = "heal+stall"\n';
  let { fake, cfg, watch, pane, starts } = {} as Scene;
  beforeEach(async () => void ({ fake, cfg, watch, pane, starts } = await scene(TEXT, { ticks: 2 })));
  const limited = (banner = "You've hit your 5-hour limit · resets 3pm (UTC)") => Object.assign(pane(), { doing: "limit", banner });
  const minutes = (count: number) => fake.ticks(cfg, watch, count * 2);
  const state = () => loadLimitState(cfg, "agents-a");

  test("held until the reset without a key, then asked once, then lifted", async () => {
    limited();
    await minutes(179);
    expect([pane().enters, starts()]).toEqual([0, 1]);
    pane().onSubmit = () => void (pane().doing = "busy");
    await minutes(6);
    expect(fake.received("agents-a")).toHaveLength(1);
    expect(state()).toBeNull();
    expect(fake.logged("limit lifted")).toHaveLength(1);
  });

  test("P15, fault 25: a banner that stays is probed at most once per interval, for ever, never rebooted", async () => {
    limited("You've hit your limit");
    pane().onSubmit = () => void (pane().said = "❯ go on\n  ⎿  You've hit your limit");
    await minutes(60);
    expect(starts()).toBe(1);
    expect(pane().received.length).toBeGreaterThanOrEqual(9);
    expect(pane().received.length).toBeLessThanOrEqual(12);
    expect(fake.logged("still limited after 3 probes")).toHaveLength(1);
  });

  test("a probe that is caught at work before it meets the limit ends no hold, and counts on", async () => {
    ({ fake, cfg, watch, pane, starts } = await scene(`[watchdog]\nsignal_interval = 2\nlimit_probe_fallback = 20\n${TEXT}`, { ticks: 2 }));
    limited("You've hit your limit");
    let busy = 0;
    pane().onSubmit = () => void (pane().doing = "busy");
    await fake.ticks(cfg, watch, 200, () => {
      if (pane().doing === "busy" && (busy += 1) % 3 === 0) limited("You've hit your limit");
    });
    expect([fake.logged("limit lifted").length, fake.logged("usage limit on").length, fake.logged("after 3 probes").length]).toEqual([0, 1, 1]);
    expect(state()!.nudges).toBeGreaterThan(3);
    pane().onSubmit = undefined;
    pane().doing = "busy";
    await fake.ticks(cfg, watch, 10);
    expect(state()).toBeNull();
  });

  test("fault 48: the banner of a limit that was lifted does not hold for another day", async () => {
    limited();
    await minutes(181);
    pane().doing = "busy";
    await minutes(2);
    Object.assign(pane(), { doing: "limit" });
    await minutes(30);
    expect(state() === null || state()!.until < fake.wall / 1000 + 3600 + 45).toBe(true);
  });

  test("fault 47: a weekly limit is looked at once an hour", async () => {
    limited("You've hit your weekly limit · resets Jun 19, 10pm (UTC)");
    pane().onSubmit = () => void limited("You've hit your weekly limit · resets Jun 19, 10pm (UTC)");
    await minutes(5 * 60);
    expect(pane().received.length).toBeGreaterThanOrEqual(3);
    expect(pane().received.length).toBeLessThanOrEqual(5);
    expect(starts()).toBe(1);
  });

  test("a weekly limit that was lifted early ends with a short answer to its probe", async () => {
    limited("You've hit your weekly limit · resets Jun 19, 10pm (UTC)");
    await minutes(5);
    pane().onSubmit = () => void Object.assign(pane(), { doing: "idle", said: "● Going on. Nothing is left to do." });
    await minutes(70);
    expect(state()).toBeNull();
    expect(fake.logged("limit lifted")).toHaveLength(1);
  });
  test("one whose banner of a far reset is gone is asked too, and goes on", async () => {
    limited("You've hit your weekly limit · resets Jun 19, 10pm (UTC)");
    await minutes(5);
    Object.assign(pane(), { doing: "idle", said: "● Cleared." });
    await minutes(70);
    expect([fake.logged("limit probe").length, state()]).toEqual([1, null]);
  });
  test("the same banner, read again later, never extends the hold", async () => {
    limited("You've hit your 5-hour limit · resets 12:30pm (UTC)");
    await minutes(1);
    const { until } = state()!;
    await minutes(20);
    expect(state()!.until).toBe(until);
  });

  test("P14: a clock that goes back an hour holds no longer than the true reset", async () => {
    limited("You've hit your 5-hour limit · resets 12:30pm (UTC)");
    await minutes(2);
    fake.wall -= 3600_000;
    await minutes(40);
    expect(pane().received.length).toBeGreaterThan(0);
    expect(starts()).toBe(1);
  });

  test("fault 55, 54: nothing but the probe is typed into a limited agent", async () => {
    cfg = await fake.config(`${TEXT}wake = { interval = 60 }\n`);
    await minutes(2);
    pane().received = [];
    limited();
    await minutes(60);
    expect(pane().enters).toBe(1);
    expect(pane().received).toEqual([]);
  });

  describe("a hold whose banner is gone, as after /clear", () => {
    const WEEKLY = "You've hit your weekly limit · resets Jun 19, 10pm (UTC)";
    /** The client rests at its prompt, and a claim waits for it. */
    const cleared = async (banner?: string) => {
      limited(banner);
      await minutes(2);
      Object.assign(pane(), { doing: "idle", said: "● Cleared." });
      enqueue(watch, "a", "claim", "a claim");
    };
    test("lets no hand-off and no wake through, before the reset has come", async () => {
      cfg = await fake.config(`${TEXT}wake = { interval = 600 }\n`);
      await cleared();
      await minutes(170);
      expect([pane().received, fake.logged("waking a").length]).toEqual([[], 0]);
      expect(watch.outbox).toMatchObject([{ cause: "claim", why: "its 5-hour limit holds until 15:00" }]);
      await minutes(20);
      expect([fake.received("agents-a")[0], state()]).toEqual(["a claim", null]);
    });
    test("lets the probe through before the claim, though that came first", async () => {
      await cleared(WEEKLY);
      await minutes(62);
      expect(pane().received).toEqual([expect.stringContaining("if you can work again"), "a claim"]);
    });
    test("lets through what a person sends, also past the claim", async () => {
      await cleared();
      enqueue(watch, "a", "send 1", "a word");
      await minutes(1);
      expect(pane().received).toEqual(["a word"]);
    });
    test("is told as such by status, beside the text", async () => {
      await cleared();
      await minutes(2);
      const { out } = await command("status", "--json", "--config", cfg.path);
      expect(JSON.parse(out).agents[0]).toMatchObject({ condition: "limited", messages: 1, messagesWhy: "its 5-hour limit holds until 15:00" });
    });
  });

  describe("an agent that dies in its limit", () => {
    test("is started once that is over, for its start would meet it; status says until when it waits", async () => {
      limited();
      await minutes(2);
      fake.tmux.exit("agents-a", 1);
      await minutes(60);
      expect(starts()).toBe(1);
      const { out } = await command("status", "--json", "--config", cfg.path);
      expect(JSON.parse(out).agents[0]).toMatchObject({ condition: "ended", detail: expect.stringContaining("starts after 15:00 (5-hour limit)") });
      expect((await command("explain", "a", "--config", cfg.path)).out).toContain("leaves it down: its 5-hour limit holds until 15:00");
      await minutes(122);
      expect([starts(), state(), fake.logged("limit probe").length]).toEqual([2, null, 0]);
    });
    test("is started to try within limit_probe_far where the reset is far off", async () => {
      limited("You've hit your weekly limit · resets Jun 19, 10pm (UTC)");
      await minutes(2);
      fake.tmux.exit("agents-a", 1);
      await minutes(62);
      expect([starts(), state()]).toEqual([2, null]);
    });
    test("leaves its probe to nobody", async () => {
      limited("You've hit your limit");
      pane().draft = "half a thought";
      await minutes(7);
      expect(watch.outbox).toHaveLength(1);
      fake.tmux.exit("agents-a", 1);
      await minutes(7);
      expect([starts(), watch.outbox, fake.received("agents-a")]).toEqual([2, [], []]);
    });
    test("is held by nothing once a person has started it", async () => {
      limited();
      await minutes(2);
      fake.tmux.exit("agents-a", 1);
      await minutes(2);
      expect((await startAgent(cfg, watch, cfg.agents.get("a")!, await snapshot(cfg))).outcome).toBe("started");
      enqueue(watch, "a", "claim", "a claim");
      await minutes(2);
      expect([fake.received("agents-a"), state()]).toEqual([["a claim"], null]);
    });
    test("a clock that was set back behind the start of its client drops no hold", async () => {
      await minutes(1);
      fake.wall -= 3600_000;
      limited("You've hit your 5-hour limit · resets 4pm (UTC)");
      await minutes(50);
      expect([fake.logged("usage limit on").length, fake.logged("started anew")]).toEqual([1, []]);
    });
  });

  test("money comes back by no clock: blocked, neither probed nor rebooted", async () => {
    limited("You've hit your monthly spend limit.");
    await minutes(60);
    expect([pane().enters, starts()]).toEqual([0, 1]);
    expect(fake.logged("is blocked")).toHaveLength(1);
  });

  test("P33: the hold ends while hand-offs, a wake and a kickoff wait: the probe goes first, one at a time", async () => {
    limited();
    await minutes(170);
    for (const cause of ["wake", "review", "claim", "boot", "send 1"]) enqueue(watch, "a", cause, `a ${cause}`);
    pane().onSubmit = () => void (pane().doing = "idle");
    await minutes(16);
    expect(state()).toBeNull();
    expect(pane().received[0]).not.toStartWith("a ");
    expect(pane().received.slice(1)).toEqual(["a send 1", "a boot", "a review", "a claim", "a wake"]);
    expect(watch.outbox).toEqual([]);
  });

  test("P33: a probe that is not heard is not asked again beside it", async () => {
    limited();
    pane().draft = "half a thought";
    await minutes(240);
    expect(watch.outbox.map(({ cause, tries }) => [cause, tries])).toEqual([["nudge", 0]]);
    expect(state()!.nudges).toBe(1);
    pane().draft = "";
    await minutes(1);
    expect(pane().received).toHaveLength(1);
    await minutes(30);
    expect(pane().received.length).toBeGreaterThan(2);
  });

  test("a probe that waited behind a draft is answered as soon as any: its answer counts from when it was heard", async () => {
    limited("You've hit your limit");
    pane().draft = "half a thought";
    await minutes(17);
    expect([state()!.nudges, pane().received]).toEqual([1, []]);
    pane().draft = "";
    pane().onSubmit = () => void Object.assign(pane(), { doing: "idle", said: "● Nothing is left to do." });
    await minutes(1);
    expect([pane().received.length, state() === null]).toEqual([1, false]);
    await minutes(2);
    expect(state()).toBeNull();
  });

  test("a person's text that is answered ends the hold, as a probe's does", async () => {
    limited("You've hit your weekly limit · resets Jun 19, 10pm (UTC)");
    await minutes(5);
    Object.assign(pane(), { doing: "idle", said: "● Cleared." });
    enqueue(watch, "a", "send 1", "a word");
    await minutes(3);
    expect([pane().received, state()]).toEqual([["a word"], null]);
  });

  test("P33: a hand-off that stands in the box of a limited client goes as its probe", async () => {
    enqueue(watch, "a", "claim", "a claim, which stands in the box");
    Object.assign(watch.outbox[0]!, { seen: 0, tries: 1 });
    pane().draft = "a claim, which stands in the box";
    limited();
    await minutes(175);
    expect(pane().enters).toBe(0);
    pane().onSubmit = () => void (pane().doing = "idle");
    await minutes(16);
    expect([fake.received("agents-a")[0], state()]).toEqual(["a claim, which stands in the box", null]);
  });

  test("P33: the menu of a limit is closed for the probe, never answered", async () => {
    Object.assign(pane(), { doing: "menu", banner: "You've hit your weekly limit · resets 3pm (UTC)" });
    await minutes(175);
    expect(pane().doing).toBe("menu");
    pane().onSubmit = () => void (pane().doing = "busy");
    await minutes(16);
    expect([pane().approved, pane().received.length, state()]).toEqual([0, 1, null]);
  });
});

describe("P38: the menu that Gemini opens at its daily limit", () => {
  const frame = (choices: string[]) => `╭${"─".repeat(70)}╮\n│ Usage limit reached for all Pro models.${" ".repeat(30)}│\n│${" ".repeat(70)}│\n`
    + `${choices.map((choice, nth) => `│ ${nth ? " " : "●"} ${nth + 1}. ${choice.padEnd(64)}│\n`).join("")}╰${"─".repeat(70)}╯\n`;
  test.each([
    [["Keep trying", "Stop"], ["2"]], [["Keep trying", "Switch to gemini-2.5-flash", "Stop"], ["3"]], [["Switch to gemini-2.5-flash", "Upgrade for higher limits", "Stop"], ["3"]],
    [["Keep trying", "Switch to Stop"], []],
  ] as const)("the probe closes %p by its Stop, and is not typed into it", async (choices, keys) => {
    const { fake, cfg, watch } = await scene('[[agent]]\nname = "a"\nbackend = "gemini"\nwatch = "heal"\n', { ticks: 1 });
    const pane = fake.tmux.of("agents-a");
    pane.text = frame([...choices]);
    await fake.ticks(cfg, watch, 2);
    expect([loadLimitState(cfg, "agents-a")?.resetAt, pane.keys]).toEqual([undefined, []]);
    await fake.ticks(cfg, watch, 12);
    expect([pane.keys.slice(0, 1), pane.enters, pane.draft, pane.received]).toEqual([[...keys], 0, "", []]);
  });
});

test("a limit's file that cannot be removed holds up no start, and is said once", async () => {
  const it = await scene(agents("a"), { doing: "limit" });
  expect(it.fake.files.has(it.file("limited-agents-a.json"))).toBe(true);
  const { remove } = world;
  world.remove = (path) => {
    if (path.includes("/limited-")) throw new Error("EACCES: permission denied");
    remove(path);
  };
  it.fake.tmux.exit("agents-a", 1);
  await it.ticks(370);
  expect([it.starts(), it.fake.logged("EACCES").length]).toEqual([2, 1]);
});
