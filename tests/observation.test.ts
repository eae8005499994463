/** What is believed of a pane over time: unsure that lasts, work that outlives its turn, clients that nobody described. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, renameSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import {
  type Config, decideBackground, decideTyping, decideWake, describeState, loadWatch, memoryOf, type Message, tick, type Verdict, type Watch, world,
} from "../agents.ts";
import { type FakeWorld, fakeWorld, PLAIN, realFolder } from "./kit.ts";

const AGENT = '[[agent]]\nname = "a"\nbackend = "claude"\nwatch = "heal+stall"\n';
const RULE = "─".repeat(80);
const boxed = (said: string, foot = "⏵⏵ auto mode on (shift+tab to cycle)") =>
  `\n${said}\n\n${RULE}\n❯\u00a0\n${RULE}\n  ${foot}\n`;
const SHELL = boxed("❯ go\n\n● It runs.\n\n✻ Brewed for 3s · 1 shell still running", "⏵⏵ auto mode on · 1 shell · ↓ to manage");

let fake: FakeWorld;
let cfg: Config;
let watch: Watch;
const begin = async (toml = AGENT) => {
  cfg = await fake.config(toml);
  watch = await fake.watch(cfg);
  fake.tmux.onStart = (pane) => void (pane.doing = "busy");
  await fake.ticks(cfg, watch, 4);
};
beforeEach(() => void (fake = fakeWorld()));
afterEach(() => fake.restore());
const pane = () => fake.tmux.of("agents-a");
const memory = () => memoryOf(watch, "a");
const events = (name: string): { why: string }[] => (fake.files.get(`${cfg.stateDir}/events.jsonl`) ?? "")
  .split("\n").filter(Boolean).map((line) => JSON.parse(line)).filter((one) => one.event === name);
const state = () => describeState(memory(), { ...PLAIN, pane: { dead: false } as never, held: false, enabled: true,
  limit: null, kind: "persistent", complete: false, now: fake.wall, unsureAfter: cfg.watchdog.unsureAfter });

test("a client that has the number of the one before it, as after a reboot, begins anew", async () => {
  await begin();
  Object.assign(memory(), { answers: 3, backgroundSince: 5 });
  memory().client!.made! -= 60_000;
  await fake.ticks(cfg, watch, 1);
  expect([memory().answers, memory().backgroundSince, memory().client!.made]).toEqual([0, undefined, pane().created]);
});

test("the fleet is the same one where its log folder is moved away, and a link left in its place", async () => {
  const folder = realFolder();
  fake.restore();
  fake = fakeWorld(folder);
  mkdirSync(join(folder, ".agents", "state"), { recursive: true });
  await begin();
  renameSync(join(folder, ".agents"), join(folder, "moved"));
  symlinkSync("moved", join(folder, ".agents"));
  await fake.ticks(cfg, watch, 6);
  expect([fake.everyPane.length, memory().verdict, fake.logged("belongs to")]).toEqual([1, "active", []]);
  // as whoever marked it found it behind a link
  pane().marks["@agents_home"] = join(folder, "moved", "state");
  delete pane().marks["@agents_fleet"];
  await fake.ticks(cfg, watch, 6);
  expect([fake.everyPane.length, memory().verdict]).toEqual([1, "active"]);
});

describe("unsure that lasts is a person's business", () => {
  const suspended = () => pane().draw("Claude Code is suspended. Run `fg` to bring it back.\nTo undo typing, press ctrl+_.\n", fake.wall);
  test("after unsure_after it is said once, and status shows it", async () => {
    await begin();
    suspended();
    await fake.ticks(cfg, watch, 9);
    expect([events("unsure").length, state().needsHuman]).toEqual([0, false]);
    await fake.ticks(cfg, watch, 4);
    expect(events("unsure").map(({ why }) => why)).toEqual(["suspended: run fg in its pane for 5 min"]);
    expect([state().needsHuman, state().state]).toEqual([true, expect.stringContaining("unsure: suspended")]);
    expect(fake.logged("a has been unsure for 5 min; it needs you")).toHaveLength(1);
    await fake.ticks(cfg, watch, 60);
    expect([events("unsure").length, pane().enters, fake.everyPane.length]).toEqual([1, 0, 1]);
  });
  test("nor again by a watchdog that was started in between, but in the next episode", async () => {
    await begin();
    suspended();
    await fake.ticks(cfg, watch, 15);
    watch = await loadWatch(cfg);
    await fake.ticks(cfg, watch, 15);
    expect(events("unsure")).toHaveLength(1);
    pane().text = null;
    await fake.ticks(cfg, watch, 3);
    suspended();
    await fake.ticks(cfg, watch, 15);
    expect(events("unsure")).toHaveLength(2);
  });
  test("a suspended machine makes nobody unsure for long, and the key is obeyed", async () => {
    await begin(`[watchdog]\nunsure_after = 120\n${AGENT}`);
    suspended();
    await fake.ticks(cfg, watch, 2);
    fake.turn(8 * 3600_000);
    await fake.ticks(cfg, watch, 2);
    expect(events("unsure")).toHaveLength(0);
    await fake.ticks(cfg, watch, 4);
    expect(events("unsure")).toHaveLength(1);
  });
});

describe("work that outlives its turn", () => {
  test("P34: no restart within background_max, then the stall clock", async () => {
    await begin();
    pane().draw(SHELL, fake.wall);
    await fake.ticks(cfg, watch, 120);
    expect([memory().verdict, fake.everyPane.length]).toEqual(["background", 1]);
    await fake.ticks(cfg, watch, 5);
    expect([memory().verdict, memory().why]).toEqual(["idle", "background work, for longer than 60 min"]);
    await fake.ticks(cfg, watch, 14);
    expect(fake.everyPane.length).toBe(2);
    expect(fake.logged("stall: a")).toHaveLength(1);
  });
  test("a turn in between begins it anew; a restarted watchdog does not", async () => {
    await begin(`[watchdog]\nbackground_max = 600\n${AGENT}`);
    for (const again of [false, true]) {
      pane().draw(SHELL, fake.wall);
      await fake.ticks(cfg, watch, 18);
      expect(memory().verdict).toBe("background");
      if (again) watch = await loadWatch(cfg);
      else pane().text = null;
      await fake.ticks(cfg, watch, 4);
    }
    expect(memory().verdict).toBe("idle");
  });
  test("a look that understands nothing does not begin it anew", async () => {
    await begin(`[watchdog]\nbackground_max = 600\n${AGENT}`);
    await fake.ticks(cfg, watch, 24, (nth) =>
      pane().draw(nth % 6 === 3 ? "Claude Code is suspended. Run `fg` to bring it back.\n" : SHELL, fake.wall));
    expect(memory().verdict).toBe("idle");
  });
  test("a clock that was set back while no watchdog ran does not make it longer", async () => {
    await begin(`[watchdog]\nbackground_max = 600\n${AGENT}`);
    pane().draw(SHELL, fake.wall);
    await fake.ticks(cfg, watch, 4);
    fake.wall -= 86_400_000;
    watch = await loadWatch(cfg);
    await fake.ticks(cfg, watch, 24);
    expect(memory().verdict).toBe("idle");
  });
  test("hand-offs are typed, wakes and probes wait", () => {
    const verdict = { verdict: "background", rule: "", where: "", text: "", limit: null, waitingUntil: null, why: "background work" } as Verdict;
    const message = (cause: string): Message => ({ id: "1", target: "a", text: "Pull.", cause, made: 0, tries: 0 });
    expect(decideTyping(verdict, message("claim"), "", "").do).toBe("type");
    for (const cause of ["wake", "nudge"]) expect(decideTyping(verdict, message(cause), "", "").do).toBe("wait");
    expect(decideWake(0, 1, true, "background").do).toBe("hold");
    expect(decideBackground(verdict, 0, 1e12, 1).verdict).toBe("background");
  });
});

describe("a typed client that nobody described", () => {
  const TYPED = `[backend.x]\nkind = "typed"\nbin = "x"\nconnect_delay = 0\n${AGENT.replace('"claude"', '"x"')}`;
  const stat = (front: (pid: number) => number, now = "S") => {
    const { pid } = pane();
    fake.files.set(`/proc/${pid}/stat`, `${pid} (x y) ${now} 1 ${pid} ${pid} 34816 ${front(pid)} ${"0 ".repeat(13)}77 0`);
  };
  const settle = async (text: string) => {
    pane().draw(text, fake.wall);
    await fake.ticks(cfg, watch, 3);
    return [memory().verdict, memory().why];
  };
  beforeEach(async () => {
    await begin(TYPED);
    stat((pid) => pid);
  });
  test("is idle while its client is in front and its screen rests", async () => {
    expect(await settle("ready\n> ")).toEqual(["idle", "its client is in the foreground"]);
  });
  test("is unsure where another program is in front, where it is stopped, where nothing tells", async () => {
    stat((pid) => pid + 1);
    expect((await settle("builder$ vi x\n~\n~"))[0]).toBe("unsure");
    stat((pid) => pid, "T");
    expect((await settle("ready\n>  "))[0]).toBe("unsure");
    fake.files.delete(`/proc/${pane().pid}/stat`);
    expect((await settle("ready\n>   "))[0]).toBe("unsure");
  });
  test("is not what a person has started in its pane, nor a shell that took its place", async () => {
    expect((await settle("ready\n> "))[0]).toBe("idle");
    fake.files.set(`/proc/${pane().pid}/cmdline`, "bash\0-i\0");
    expect((await settle("builder$ "))[0]).toBe("unsure");
    fake.tmux.run(["respawn-pane", "-k", "-t", pane().id, "vi"]);
    stat((pid) => pid);
    expect((await settle("~\n~"))[0]).toBe("unsure");
  });
  test("is unsure while its screen moves", async () => {
    for (const letter of "abcdefg") {
      pane().draw(`working ${letter}\n`, fake.wall);
      await fake.ticks(cfg, watch);
    }
    expect([memory().verdict, memory().why]).toEqual(["unsure", "its screen changes, but shows no work"]);
  });
  test("a screen that stays the same does not prove it twice", async () => {
    await settle("ready\n> ");
    stat((pid) => pid, "T");
    await fake.ticks(cfg, watch, 2);
    expect(memory().verdict).toBe("unsure");
  });
});

test("a wait of thousands of years is named and ends in a restart", async () => {
  await begin();
  pane().doing = "idle";
  pane().said = "● WAITING-UNTIL: 9026-01-01T00:00:00Z";
  await fake.ticks(cfg, watch, 4);
  expect([memory().verdict, memory().why]).toEqual(["idle", expect.stringContaining("9026-01-01T00:00:00.000Z is too far ahead")]);
  await fake.ticks(cfg, watch, 12);
  expect(fake.everyPane.length).toBe(2);
  cfg = await fake.config(AGENT);
  pane().doing = "idle";
  pane().said = `● WAITING-UNTIL: ${new Date(fake.wall + 2 * 3600_000).toISOString()}`;
  await fake.ticks(cfg, watch, 4);
  expect(memory().verdict).toBe("waiting");
  cfg = await fake.config(`[watchdog]\nwaiting_max = 3600\n${AGENT}`);
  await fake.ticks(cfg, watch, 4);
  expect(memory().verdict).toBe("idle");
});

test("a client that works and draws now and then makes nothing to store, whatever its screen shows", async () => {
  await begin();
  const drawn = async (nth: number) => {
    const busy = `● Step ${nth}.\n\n✻ Working… (${nth}s · ↓ 1k tokens)`;
    pane().draw(boxed(busy, "⏵⏵ auto mode on · esc to interrupt"), fake.wall - 10_000);
    await fake.ticks(cfg, watch);
  };
  await drawn(0);
  const path = `${cfg.stateDir}/watch.json`;
  const before = fake.files.get(path);
  for (let nth = 1; nth < 5; nth++) await drawn(nth);
  expect([memory().verdict, fake.files.get(path)]).toEqual(["active", before]);
  // once it rests, status has to know the screen again
  pane().draw(boxed("● Done."), fake.wall - 10_000);
  await fake.ticks(cfg, watch, 3);
  const { agents } = JSON.parse(fake.files.get(path)!);
  expect([memory().verdict, agents.a.drawStamp]).toEqual(["idle", memory().drawStamp]);
  expect(memory().drawStamp).toBeString();
});

test.each([["node", 1], ["bash", 4], ["busybox", 4], ["", 4]])("of four looks at a client at work by %p %d ask whether a shell has its place; one that has is seen at the next", async (name, asks) => {
  await begin();
  const { read } = world;
  const line = `/proc/${pane().pid}/cmdline`;
  let asked = 0;
  Object.assign(world, { executable: () => name && `/usr/bin/${name}`, read: (path: string) => (path === line && asked++, read(path)) });
  const looks = async (times: number) => {
    for (let nth = 0; nth < times; nth++) {
      pane().draw(boxed(`● Step ${fake.wall}.\n\n✻ Working… (3s · ↓ 1k tokens)`, "⏵⏵ auto mode on · esc to interrupt"), fake.wall - 10_000);
      await fake.ticks(cfg, watch, 1);
    }
  };
  await looks(4);
  expect([memory().verdict, asked]).toEqual(["active", asks]);
  fake.files.set(line, "bash\0-i\0");
  world.executable = () => "/usr/bin/bash";
  await looks(1);
  expect(memory().why).toStartWith("its pane runs something other than the client we started");
  // what is executed in it has its pid, and is a person's
  fake.files.set(line, "claude\0");
  world.executable = () => "/usr/bin/node";
  await looks(2);
  expect(memory().verdict).toBe("unsure");
});

test("what is drawn in the second of a look that takes long is seen by the next one", async () => {
  await begin();
  pane().draw(boxed("● Done."), fake.wall - 10_000);
  await fake.ticks(cfg, watch, 3);
  const { answers } = world;
  const second = Math.floor(fake.wall / 1000) * 1000 + 1000;
  fake.turn(second - fake.wall);
  pane().draw(boxed("● Done. More."), second);
  world.answers = async () => {
    pane().draw("Do you want to proceed?\n❯ 1. Yes\n  2. No\n\nEsc to cancel · Tab to amend\n", second + 700);
    fake.turn(10_000); // as where a disk or a server is asked in vain
    return true;
  };
  await tick(cfg, watch);
  world.answers = answers;
  expect(memory().verdict).toBe("idle");
  await fake.ticks(cfg, watch);
  expect(memory().verdict).toBe("blocked");
});
