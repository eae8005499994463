/**
 * Death at every effect. A scenario runs once to count its effects; then, for each of them, the tick that makes it runs
 * again with a supervisor that dies right before it, and another one goes on with the same files.
 */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { curPhase } from "../agents.ts";
import { fakeWorld, FLEET, type Scene, scene } from "./kit.ts";

const DONE = "# Status\n\n## DONE\n\nAll gates PASS.\n";
const file = ({ fake, cfg }: Scene, name: string): string => fake.files.get(join(cfg.stateDir, name)) ?? "";
const alive = ({ fake }: Scene, name: string) => fake.tmux.panes.find((pane) => pane.session === `agents-${name}` && !pane.dead);
const told = ({ fake }: Scene, name: string, what: string): number => fake.received(`agents-${name}`).filter((text) => text.includes(what)).length;

/** A fleet at work on its first phase, two ticks after its start. */
async function begin(text = FLEET, doing: "busy" | "idle" = "busy"): Promise<Scene> {
  const fake = fakeWorld();
  fake.tmux.onStart = (pane) => void (pane.doing = doing);
  fake.git.push("init", { "README.md": "r" });
  const it = await scene(text, { fake });
  fake.effects = [];
  return it;
}

/**
 * Runs `act` (which says how many ticks it needs) once without death, then once per effect from a copy of how all stood
 * before the tick of that effect, and checks each end. `ticks` are those after the revival.
 */
async function atEveryEffect(make: () => Promise<Scene>, act: (it: Scene) => number, check: (it: Scene, at: string) => void, ticks = 5): Promise<number> {
  const whole = await make();
  const before: Scene[] = [];
  await whole.ticks(act(whole), () => void before.push(whole.copy()));
  check(whole, "no death");
  const { effects } = whole.fake;
  for (let nth = 1; nth <= effects.length; nth++) {
    const its = before.findLastIndex(({ fake }) => fake.effects.length < nth);
    const it = before[its]!.copy();
    it.fake.enter();
    it.fake.dieAt = nth;
    await it.ticks(before.length - its);
    expect(it.fake.effects).toEqual(effects.slice(0, nth - 1));
    it.fake.revive();
    await it.again();
    await it.ticks(ticks);
    try {
      check(it, `death at effect ${nth} of ${effects.length}: ${effects[nth - 1]}`);
    } catch (error) {
      throw new Error(`death at effect ${nth} of ${effects.length} (${effects[nth - 1]}): ${(error as Error).message}`);
    }
  }
  return effects.length;
}

describe("P1: a hand-off arrives at least once, at most twice, whatever the moment of death", () => {
  for (const doing of ["idle", "busy"] as const) {
    test(`claim and inbox, the client is ${doing}`, async () => {
      const count = await atEveryEffect(() => begin(FLEET, doing), ({ fake }) => {
        fake.git.push("claim(p1): G1", { "machine-docs/BUILDER-INBOX.md": "Look." });
        return 3;
      }, (it) => {
        for (const [name, what] of [["adversary", "claim(p1): G1"], ["builder", "BUILDER-INBOX"]] as const) {
          expect(told(it, name, what)).toBeGreaterThanOrEqual(1);
          expect(told(it, name, what)).toBeLessThanOrEqual(2);
        }
        expect(it.watch.outbox).toEqual([]);
      });
      expect(count).toBeGreaterThan(10);
    });
  }
});

/** Both loops run on the texts of the phase that is stored. */
function rightPhase(it: Scene, allowed: string[]): void {
  const phase = curPhase(it.cfg)!.id;
  expect(allowed).toContain(phase);
  expect(it.watch.intent).toBeNull();
  for (const name of ["builder", "adversary"]) {
    expect(alive(it, name)?.marks["@agents_phase"]).toBe(phase);
    expect(file(it, `kickoff-agents-${name}.txt`)).toContain(`STATUS-${phase}.md`);
  }
}

describe("P17, fault 30: a phase move ends in one of two states", () => {
  const UNWATCHED = FLEET.replaceAll('kind = "loop"', 'kind = "loop"\nwatch = "none"');
  for (const [name, text] of [["watched loops", FLEET], ["loops that nobody heals", UNWATCHED]] as const) {
    test(`an advance, ${name}`, async () => {
      const make = async (): Promise<Scene> => {
        const it = await begin(text);
        for (const one of ["builder", "adversary"]) if (!alive(it, one)) {
          const pane = it.fake.tmux.add(`agents-${one}`);
          pane.marks = { "@agents_session": `agents-${one}`, "@agents_phase": "p1", "@agents_backend": "claude" };
          it.fake.files.set(join(it.cfg.stateDir, `kickoff-agents-${one}.txt`), "STATUS-p1.md");
        }
        return it;
      };
      const count = await atEveryEffect(make, ({ fake }) => {
        fake.git.push("status(p1): done", { "machine-docs/STATUS-p1.md": DONE });
        return 14;
      }, (it) => rightPhase(it, ["p2"]), 14);
      expect(count).toBeGreaterThan(15);
    });
  }
  test("it never goes back to phase 0, also where it began at the second of three", async () => {
    const text = FLEET.replace("\n]", '\n  { id = "p3", plan = "p3.md", status = "STATUS-p3.md" },\n]');
    const make = async (): Promise<Scene> => {
      const it = await begin(text);
      it.fake.git.push("x", { "machine-docs/STATUS-p1.md": DONE });
      await it.fake.ticks(it.cfg, it.watch, 14);
      it.fake.effects = [];
      return it;
    };
    await atEveryEffect(make, ({ fake }) => {
      fake.git.push("status(p2): done", { "machine-docs/STATUS-p2.md": DONE });
      return 14;
    }, (it) => rightPhase(it, ["p3"]), 14);
  });
});

describe("P17, fault 30: completion, with a task at its end", () => {
  const make = async (): Promise<Scene> => {
    const it = await begin();
    it.fake.files.set(join(it.cfg.stateDir, "phase-idx"), "1");
    it.fake.write(join(it.cfg.logDir, ".run-upgrade-on-complete"), "");
    for (const name of ["builder", "adversary"]) it.fake.tmux.of(`agents-${name}`).marks["@agents_phase"] = "p2";
    it.fake.effects = [];
    return it;
  };
  test("the loops are stopped, the task ran once, the trigger is gone", async () => {
    const count = await atEveryEffect(make, ({ fake }) => {
      fake.git.push("status(p2): done", { "machine-docs/STATUS-p2.md": DONE });
      return 14;
    }, (it) => {
      const { fake, cfg, watch } = it;
      expect(watch.intent).toBeNull();
      expect(fake.files.has(join(cfg.logDir, "SEQUENCE-COMPLETE"))).toBe(true);
      expect(fake.files.has(join(cfg.logDir, ".run-upgrade-on-complete"))).toBe(false);
      expect([alive(it, "builder"), alive(it, "adversary")]).toEqual([undefined, undefined]);
      expect(it.starts("upgrader")).toBe(1);
      expect(curPhase(cfg)!.id).toBe("p2");
    }, 14);
    expect(count).toBeGreaterThan(10);
  });
});

test("a wake arrives at least once, at most twice", async () => {
  const make = async (): Promise<Scene> => {
    const it = await begin(FLEET, "idle");
    it.watch.wakeDue.orchestrator = it.fake.wall;
    return it;
  };
  await atEveryEffect(make, () => 3, (it) => {
    // before the first write nobody knew that it was due: it comes an hour later
    const known = it.watch.wakeDue.orchestrator! > it.fake.wall - 600_000 && told(it, "orchestrator", "regular pass") === 0;
    expect(told(it, "orchestrator", "regular pass") + Number(known)).toBeGreaterThanOrEqual(1);
    expect(told(it, "orchestrator", "regular pass")).toBeLessThanOrEqual(2);
  });
});

test("a declared answer is given to a dialog once, also where that closes later than the next watchdog looks", async () => {
  const make = async (): Promise<Scene> => {
    const it = await begin(`[[backend.claude.answer]]\nre = "want to proceed"\nkeys = ["y", "Enter"]\n${FLEET}`, "idle");
    const from = it.fake.wall;
    Object.assign(it.fake.tmux.of("agents-orchestrator"), { slow: 1.5 * it.cfg.watchdog.signalInterval * 1000, disturbance: { kind: "dialog", from, to: Infinity } });
    return it;
  };
  // its client gets the keys after the first tick that follows
  const count = await atEveryEffect(make, () => 1, ({ fake }, at) => expect(fake.tmux.of("agents-orchestrator").keys).toEqual(at === "no death" ? [] : ["y"]));
  expect(count).toBeGreaterThan(3);
});

test("a stall restart: it runs afterwards, never two at once", async () => {
  const make = async (): Promise<Scene> => {
    const it = await begin();
    it.fake.tmux.of("agents-orchestrator").doing = "idle";
    await it.fake.ticks(it.cfg, it.watch, 10);
    it.fake.effects = [];
    return it;
  };
  const count = await atEveryEffect(make, ({ fake }) => {
    fake.tmux.of("agents-orchestrator").ignores = ["SIGHUP"];
    return 4;
  }, (it) => {
    expect(alive(it, "orchestrator")).toBeDefined();
    expect(it.starts("orchestrator")).toBe(2);
    expect(it.fake.everyPane.filter((pane) => pane.session === "agents-orchestrator" && it.fake.processes.has(pane.pid))).toHaveLength(1);
    expect(it.watch.agents.orchestrator!.life.state).not.toBe("stopping");
  }, 16);
  expect(count).toBeGreaterThan(5);
});
