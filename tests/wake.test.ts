/** A scheduled text comes when its agent is idle, once, however many were missed. */
import { beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { decideWake, parseEvents, type VerdictName, world } from "../agents.ts";
import { type Scene, scene } from "./kit.ts";

describe("decideWake", () => {
  test.each<[string, number, boolean | null, VerdictName, string]>([
    ["not due", 101, true, "idle", "none"],
    ["due and idle", 100, true, "idle", "wake"],
    ["due, but it works", 0, true, "active", "hold"],
    ["fault 55: due, but limited", 0, true, "limited", "hold"],
    ["due, but at a dialog", 0, true, "blocked", "hold"],
    ["due, but it waits", 0, true, "waiting", "hold"],
    ["due, but not understood", 0, true, "unsure", "hold"],
    ["due, but gone", 0, false, "idle", "hold"],
    ["due, but tmux did not answer", 0, null, "unsure", "hold"],
  ])("%s", (_, due, alive, verdict, wanted) => expect(decideWake(due, 100, alive, verdict).do).toBe(wanted as never));
});

describe("over the fake world", () => {
  const TEXT = '[[agent]]\nname = "a"\nbackend = "claude"\nwatch = "heal"\nwake = { interval = 3600 }\n';
  let { fake, cfg, watch, pane } = {} as Scene;
  beforeEach(async () => void ({ fake, cfg, watch, pane } = await scene(TEXT)));
  const wakes = (session = "agents-a") => fake.received(session).filter((text) => text.includes("time for your regular pass")).length;
  const hours = (count: number) => fake.ticks(cfg, watch, count * 120);

  test("where it cannot be told whether all phases are done, nobody is woken", async () => {
    const { mtime } = world;
    world.mtime = (path) => {
      if (path.endsWith("SEQUENCE-COMPLETE")) throw new Error("EIO: i/o error, stat");
      return mtime(path);
    };
    await hours(2);
    expect([wakes(), fake.logged("ERROR: completion: EIO").length]).toEqual([0, 1]);
    world.mtime = mtime;
    await hours(1);
    expect(wakes()).toBe(1);
  });
  test("a text of the operator's own that is gone, or empty, is named to people; the wake comes once it is there", async () => {
    const own = "/fleet/own.md";
    fake.files.set(own, "Look around.");
    cfg = await fake.config(TEXT.replace("3600", '3600, prompt_file = "own.md"'));
    const looks = () => fake.received("agents-a").filter((text) => text === "Look around.").length;
    const needs = () => parseEvents(fake.files.get(join(cfg.stateDir, "events.jsonl"))!).filter(({ event }) => event === "blocked").map(({ why }) => why);
    await hours(1.1);
    for (const [nth, text] of ["", undefined].entries()) {
      text === undefined ? fake.files.delete(own) : fake.files.set(own, text);
      await hours(2);
      expect([looks(), fake.logged("waking").length, needs()]).toEqual([nth + 1, nth + 1, Array(nth + 1).fill(`not woken: no text can be read in ${own}`)]);
      fake.files.set(own, "Look around.");
      await fake.ticks(cfg, watch, 2);
      expect([looks(), fake.logged("its wake text is there again").length]).toEqual([nth + 2, nth + 1]);
    }
  });
  test("one each interval", async () => {
    await hours(10);
    expect(wakes()).toBeGreaterThanOrEqual(9);
    expect(wakes()).toBeLessThanOrEqual(10);
  });
  test("those missed come as one", async () => {
    pane().doing = "busy";
    await hours(5);
    expect(wakes()).toBe(0);
    pane().doing = "idle";
    await fake.ticks(cfg, watch, 20);
    expect(wakes()).toBe(1);
  });
  test("fault 18: an agent that is removed, or gets a wake later, needs no restart", async () => {
    cfg = await fake.config('[[agent]]\nname = "b"\nbackend = "claude"\nwatch = "heal"\n');
    fake.tmux.kill(pane()); // b starts in its folder
    await hours(2);
    cfg = await fake.config(TEXT.replace('"a"', '"b"'));
    await hours(2);
    expect(wakes("agents-b")).toBe(1);
    expect(fake.logged("ERROR")).toEqual([]);
  });
  test("fault 56: the time until the next one outlives the watchdog", async () => {
    await fake.ticks(cfg, watch, 60);
    watch = await fake.watch(cfg);
    await fake.ticks(cfg, watch, 65);
    expect(wakes()).toBe(1);
  });
  test("none once the sequence is complete", async () => {
    fake.write(join(cfg.logDir, "SEQUENCE-COMPLETE"), "x");
    await hours(3);
    expect(wakes()).toBe(0);
  });
  test("a disabled agent is not woken", async () => {
    cfg = await fake.config(`${TEXT}enabled = false\n`);
    await hours(3);
    expect(wakes()).toBe(0);
  });
  test.each([["an hour back", -3600_000], ["an hour on", 3600_000], ["ten years on", 10 * 365 * 86400_000], ["ten years back", -10 * 365 * 86400_000]])("P14: a clock set %s brings no storm and no silence", async (_, step) => {
    await fake.ticks(cfg, watch, 30);
    fake.wall += step;
    await hours(3);
    expect(wakes()).toBeGreaterThanOrEqual(2);
    expect(wakes()).toBeLessThanOrEqual(4);
  });
  test("a suspended machine brings one", async () => {
    fake.turn(8 * 3600_000);
    await fake.ticks(cfg, watch, 20);
    expect(wakes()).toBe(1);
  });
});
