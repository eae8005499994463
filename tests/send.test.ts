/** `send`: exit 0 only for what the client has. */
import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import { closeSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { awaitHand, cmdSend, flock, memoryOf, operatorOf, save, withdraw, world } from "../agents.ts";
import { agents, command, FLEET, fakeWorld, holdLock, message, realFolder, type Scene, scene, together } from "./kit.ts";

let { fake, cfg, watch, pane } = {} as Scene;
const begin = async (text: string, count = 3): Promise<void> => void ({ fake, cfg, watch, pane } = await scene(text, { fake, ticks: count }));
const ticks = (count: number) => fake.ticks(cfg, watch, count);
beforeEach(() => {
  fake = fakeWorld(realFolder());
  fake.tmux.onStart = (one) => void (one.doing = "busy");
});

const send = (...words: string[]): Promise<number> => cmdSend({ path: cfg.path, words, options: { timeout: "3" } });

/** One that an order only wakes. */
const besideWatchdog = (): void => holdLock(fake, cfg.stateDir, Object.assign(fake.tmux.add("x"), { ignores: ["SIGUSR2"] }).pid);

describe("send", () => {
  let printed: { mockRestore(): void };
  beforeEach(async () => {
    printed = spyOn(world, "print").mockImplementation(() => {});
    await begin(agents("a"));
    pane().doing = "idle";
  });
  afterEach(() => printed.mockRestore());
  test("what nobody waits for any more was not delivered", async () => {
    pane().doing = "dialog";
    const { sleep } = world;
    world.sleep = async (ms) => {
      fake.wall += 3600_000;
      await sleep(ms);
    };
    expect(await send("a", "hear this")).toBe(1);
    expect([fake.logged("not delivered to a").length, (await operatorOf(cfg)).queue.map(({ expires }) => expires), pane().received]).toEqual([1, [0], []]);
  });
  test.each<[why: string, down: () => void]>([
    ["stopped by you", () => void fake.files.set(`${cfg.stateDir}/operator.json`, JSON.stringify({ held: { a: 1 } }))],
    ["parked", () => void (memoryOf(watch, "a").life = { state: "parked", why: "exit 125", at: 0 })],
    ["done", () => void (memoryOf(watch, "a").life = { state: "done", at: 0 })],
  ])("an agent that is %s is not waited for, unless the text may wait", async (why, down) => {
    down();
    save(cfg, watch);
    const before = fake.wall;
    await expect(send("a", "hear this")).rejects.toThrow(`a is ${why}: "agents up a" starts it, --queue keeps the message until then`);
    expect([fake.wall - before, (await operatorOf(cfg)).queue]).toEqual([0, []]);
    expect(await cmdSend({ path: cfg.path, words: ["a", "hear this"], options: { queue: true } })).toBe(0);
    expect((await operatorOf(cfg)).queue.length).toBe(1);
  });
  test("an agent that does not run is waited for only where a watchdog would start it", async () => {
    fake.tmux.exit("agents-a", 1);
    const before = fake.wall;
    await expect(send("a", "hear this")).rejects.toThrow('a is not running, and no watchdog would start it: "agents up a" starts it');
    expect([fake.wall - before, (await operatorOf(cfg)).queue]).toEqual([0, []]);
    besideWatchdog();
    expect([await send("a", "hear this"), fake.wall > before]).toEqual([1, true]);
  });
  test.each(['watch = "none"', "enabled = false"])("nor beside a watchdog where it leaves the agent alone: %s", async (setting) => {
    fake.tmux.exit("agents-a", 1);
    cfg = await fake.config(agents("a").replace(/watch = .*/, setting));
    besideWatchdog();
    const before = fake.wall;
    await expect(send("a", "hear this")).rejects.toThrow('a is not running, and no watchdog would start it: "agents up a" starts it');
    expect(fake.wall - before).toBe(0);
  });
  test("a text that was given up is not typed either where the clock was set back meanwhile", async () => {
    pane().doing = "dialog";
    besideWatchdog();
    const { sleep } = world;
    world.sleep = async (ms) => {
      world.sleep = sleep;
      await ticks(1);
      fake.wall -= 3600_000;
      await sleep(ms);
    };
    expect([await send("a", "hear this"), watch.outbox.length]).toEqual([1, 1]);
    expect(fake.logged("not delivered to a")).toHaveLength(1);
    pane().doing = "idle";
    await ticks(3);
    expect([pane().received, watch.outbox]).toEqual([[], []]);
  });
  test("beside a watchdog that has its lock and could not write its pid nothing is typed", async () => {
    besideWatchdog();
    fake.files.delete(`${cfg.stateDir}/watchdog.lock.pid`);
    expect([await send("a", "hear this"), pane().received]).toEqual([1, []]);
  });
  test("a glob names the agent that it matches", async () => {
    expect([await send("[a]", "hear this"), pane().received]).toEqual([0, ["hear this"]]);
    await begin(agents("a", "b"));
    await expect(send("*", "hear this")).rejects.toThrow("* matches a, b: name one of them");
  });
  test("--timeout 0 is no wait, and no wrong use", async () => {
    expect(await cmdSend({ path: cfg.path, words: ["a", "hear this"], options: { timeout: "0" } })).toBe(1);
    expect(fake.logged("not delivered to a")).toHaveLength(1);
  });
  test("who gives up takes the own text back, and leaves that of somebody else in the queue", async () => {
    besideWatchdog();
    await cmdSend({ path: cfg.path, words: ["a", "and this"], options: { queue: true } });
    expect(await send("a", "hear this")).toBe(1);
    expect((await operatorOf(cfg)).queue.map(({ text, expires }) => [text, expires])).toEqual([["and this", undefined], ["hear this", 0]]);
  });
  test("beside a watchdog it looks ten times a second whether that has delivered the text", async () => {
    besideWatchdog();
    const pauses: number[] = [];
    world.sleep = async (ms) => {
      fake.turn(ms);
      watch.delivered = pauses.push(ms) === 5 ? (await operatorOf(cfg)).queue.map(({ id }) => id) : [];
      save(cfg, watch);
    };
    expect([await send("a", "hear this"), pauses]).toEqual([0, Array(5).fill(100)]);
  });
  test("one that the watchdog delivers at the last moment is delivered", async () => {
    besideWatchdog();
    world.sleep = async (ms) => {
      fake.turn(ms);
      if (fake.mono < end) return;
      watch.delivered = (await operatorOf(cfg)).queue.map(({ id }) => id);
      await save(cfg, watch);
    };
    const end = fake.mono + 3_000;
    expect(await send("a", "hear this")).toBe(0);
  });
  test("one that is delivered while it is withdrawn is not called withdrawn", async () => {
    besideWatchdog();
    const text = message({ id: "q1" });
    watch.outbox.push(text);
    await save(cfg, watch);
    const { sleep } = world;
    world.sleep = async (ms) => {
      Object.assign(watch, { outbox: [], delivered: ["q1"] });
      await save(cfg, watch);
      await sleep(ms);
    };
    await withdraw(cfg, text);
    expect(fake.logged("interrupted")).toEqual([expect.stringContaining("interrupted: it was already delivered")]);
  });
  test("it says what it waits for, once, as soon as that takes a while", async () => {
    pane().doing = "dialog";
    besideWatchdog();
    const [from, { sleep }] = [fake.wall, world];
    const said = () => fake.logged(/waiting to reach a: .+ \(Ctrl-C withdraws it\)/).length;
    const silent: number[] = [];
    world.sleep = async (ms) => {
      if (!said()) silent.push(fake.wall - from);
      await sleep(ms);
    };
    expect([await send("a", "hear this"), said()]).toEqual([1, 1]);
    expect(silent.at(-1)).toBeGreaterThan(1_500);
  });
  test("what another message waits for is not said of this one", async () => {
    pane().takesEnter = false;
    await cmdSend({ path: cfg.path, words: ["a", "hear this"], options: { queue: true } });
    await ticks(2);
    const [{ why }] = watch.outbox as [Scene["watch"]["outbox"][number]];
    expect(await send("a", "and this")).toBe(1);
    expect(fake.logged(`not delivered to a within 3 s: an earlier message comes first: ${why}`)).toHaveLength(1);
  });
  test("a text that was interrupted is taken back, also from a watchdog that has it", async () => {
    pane().doing = "dialog";
    for (const take of [0, 2]) {
      await cmdSend({ path: cfg.path, words: ["a", `hear this ${take}`], options: { queue: true } });
      const [text] = (await operatorOf(cfg)).queue;
      await ticks(take);
      expect(watch.outbox.map(({ id }) => id)).toEqual(take ? [text!.id] : []);
      await withdraw(cfg, text!);
      await ticks(1);
      expect(watch.outbox).toEqual([]);
    }
    pane().doing = "idle";
    await ticks(3);
    expect([pane().received, fake.logged("interrupted: the message is withdrawn").length]).toEqual([[], 2]);
  });
  test("a withdrawal outlives the orders that others give before the watchdog, which is woken for it, has seen it", async () => {
    pane().doing = "dialog";
    besideWatchdog();
    const order = (text: string) => cmdSend({ path: cfg.path, words: ["a", text], options: { queue: true } });
    await order("hear this");
    const [text] = (await operatorOf(cfg)).queue;
    await ticks(1);
    fake.effects = [];
    const began = fake.mono;
    await withdraw(cfg, text!);
    expect(fake.mono - began).toBe(3_000);
    expect([fake.effects.filter((what) => what === "signal SIGUSR2").length, fake.logged("interrupted: the watchdog has not withdrawn the message yet").length]).toEqual([1, 1]);
    await order("and this");
    pane().doing = "idle";
    await ticks(3);
    expect(pane().received).toEqual(["and this"]);
    await order("and that");
    expect((await operatorOf(cfg)).queue.map((one) => one.text)).toEqual(["and that"]);
  });
  test("one that stands in the input box is not: status goes on showing it", async () => {
    pane().takesEnter = false;
    await cmdSend({ path: cfg.path, words: ["a", "hear this"], options: { queue: true } });
    const [text] = (await operatorOf(cfg)).queue;
    await ticks(2);
    await withdraw(cfg, text!);
    await ticks(1);
    expect([watch.outbox.map(({ id }) => id), fake.logged('interrupted: it was already typed; see "agents status a"').length]).toEqual([[text!.id], 1]);
  });
  test("one that was typed, and that the client may still take, is not called undelivered", async () => {
    pane().takesEnter = false;
    expect(await send("a", "hear this")).toBe(1);
    expect([fake.logged(/typed into a, not confirmed within 3 s: .+; see "agents status a" for what becomes of it/).length, fake.logged("not delivered").length]).toEqual([1, 0]);
  });
  test("five at once without a watchdog: each text once, and none is left to come again", async () => {
    const texts = ["one", "two", "three", "four", "five"].map((word) => `${word} of the five texts`);
    expect(await together(fake, texts.map((text) => () => send("a", text)))).toEqual(texts.map(() => 0));
    expect(pane().received.toSorted()).toEqual(texts.toSorted());
    watch = await fake.watch(cfg);
    await ticks(3);
    expect([pane().received.length, watch.outbox]).toEqual([5, []]);
  });
});

describe("while a command writes the memory", () => {
  let [path, lock] = ["", 0];
  const holdHand = async (text: string): Promise<void> => {
    await begin(text, 0);
    mkdirSync(cfg.stateDir, { recursive: true });
    path = join(cfg.stateDir, "hand.lock");
    lock = flock(path)!;
  };
  const free = (): void => {
    if (lock) closeSync(lock);
    lock = 0;
  };
  afterEach(free);
  test.each([["is not known", 0], ["is ended", 1]])("a watchdog waits for as long as it takes; one that does not give way and %s", async (_, known) => {
    await holdHand(agents("a"));
    const { pid } = fake.tmux.add("x");
    fake.files.set(`${path}.pid`, `${pid} ${known ? 7 : ""}`);
    if (known) fake.stat(pid, 7);
    const began = fake.mono;
    const { sleep, signal } = world;
    world.signal = (to, what) => {
      if (what === "SIGKILL") free();
      return signal(to, what);
    };
    world.sleep = async (ms) => {
      if (fake.mono - began >= 600_000) free();
      await sleep(ms);
    };
    await awaitHand(cfg);
    const waited = fake.mono - began;
    expect([fake.processes.has(pid), waited >= 180_000, waited >= 600_000]).toEqual([!known, true, !known]);
    expect(fake.logged(known ? `(pid ${pid}) that does not release it: ending it` : "the watchdog will start once it is free")).toHaveLength(known ? 1 : 3);
  });
  test("where the lock cannot be made, as on a full disk, nobody has it", async () => {
    await holdHand(agents("a"));
    free();
    cfg.stateDir = join(cfg.stateDir, "none");
    await awaitHand(cfg);
    expect(fake.logged("hand.lock'; continuing without it")).toHaveLength(1);
  });
  test.each(["a folder", "nothing"])("a lock that is %s is held by nobody", async (what) => {
    await holdHand(agents("a"));
    free();
    rmSync(path);
    if (what === "a folder") mkdirSync(path);
    const began = fake.mono;
    await awaitHand(cfg);
    expect([fake.mono - began, fake.lines]).toEqual([0, []]);
  });
  test("an end of the watchdog ends its wait", async () => {
    await holdHand(agents("a"));
    await awaitHand(cfg, () => fake.mono > 10_005_000);
    expect(fake.mono).toBeLessThan(10_030_000);
  });
  test("up leaves the first look at the remote to others, and takes it where nobody else writes", async () => {
    await holdHand(FLEET);
    await command("up", "builder", "--config", cfg.path);
    expect((await fake.watch(cfg)).sha).toBe("");
    free();
    await command("up", "adversary", "--config", cfg.path);
    expect((await fake.watch(cfg)).sha).not.toBe("");
  });
});
