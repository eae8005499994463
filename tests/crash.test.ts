/**
 * Death at every effect. A scenario runs once to count its effects; then it runs again for each of them
 * with a supervisor that dies right before it, and another one that goes on with the same files.
 */
import { afterEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type Config, curPhase, type Watch } from "../agents.ts";
import { FLEET, type FakeWorld, fakeWorld } from "./kit.ts";

interface Scene {
  fake: FakeWorld;
  cfg: Config;
  watch: Watch;
}

const DONE = "# Status\n\n## DONE\n\nAll gates PASS.\n";
const file = ({ fake, cfg }: Scene, name: string): string => fake.files.get(join(cfg.stateDir, name)) ?? "";
const starts = ({ fake }: Scene, name: string): number => fake.everyPane.filter((pane) => pane.session === `agents-${name}`).length;
const alive = ({ fake }: Scene, name: string) => fake.tmux.panes.find((pane) => pane.session === `agents-${name}` && !pane.dead);
const told = ({ fake }: Scene, name: string, what: string): number => fake.received(`agents-${name}`).filter((text) => text.includes(what)).length;

let last: FakeWorld | null = null;
afterEach(() => last?.restore());

/** A fleet at work on its first phase, two ticks after its start. */
async function begin(text = FLEET, doing: "busy" | "idle" = "busy"): Promise<Scene> {
  last?.restore();
  const fake = (last = fakeWorld());
  fake.tmux.onStart = (pane) => void (pane.doing = doing);
  const cfg = await fake.config(text);
  const scene = { fake, cfg, watch: fake.watch(cfg) };
  fake.git.push("init", { "README.md": "r" });
  await fake.ticks(cfg, scene.watch, 3);
  fake.effects = [];
  return scene;
}

/**
 * Runs `act` (which says how many ticks it needs) once without death, then once per effect, and checks
 * each end. `ticks` are those after the revival.
 */
async function atEveryEffect(make: () => Promise<Scene>, act: (scene: Scene) => number, check: (scene: Scene, at: string) => void, ticks = 5): Promise<number> {
  const whole = await make();
  await whole.fake.ticks(whole.cfg, whole.watch, act(whole));
  check(whole, "no death");
  const effects = [...whole.fake.effects];
  for (let nth = 1; nth <= effects.length; nth++) {
    const scene = await make();
    scene.fake.dieAt = nth;
    await scene.fake.ticks(scene.cfg, scene.watch, act(scene));
    scene.fake.revive();
    scene.watch = scene.fake.watch(scene.cfg);
    await scene.fake.ticks(scene.cfg, scene.watch, ticks);
    try {
      check(scene, `death at effect ${nth} of ${effects.length}: ${effects[nth - 1]}`);
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
      }, (scene) => {
        for (const [name, what] of [["adversary", "claim(p1): G1"], ["builder", "BUILDER-INBOX"]] as const) {
          expect(told(scene, name, what)).toBeGreaterThanOrEqual(1);
          expect(told(scene, name, what)).toBeLessThanOrEqual(2);
        }
        expect(scene.watch.outbox).toEqual([]);
      });
      expect(count).toBeGreaterThan(10);
    });
  }
});

/** Both loops run on the texts of the phase that is stored. */
function rightPhase(scene: Scene, allowed: string[]): void {
  const phase = curPhase(scene.cfg)!.id;
  expect(allowed).toContain(phase);
  expect(scene.watch.intent).toBeNull();
  for (const name of ["builder", "adversary"]) {
    expect(alive(scene, name)?.marks["@agents_phase"]).toBe(phase);
    expect(file(scene, `kickoff-agents-${name}.txt`)).toContain(`STATUS-${phase}.md`);
  }
}

describe("P17, fault 30: a phase move ends in one of two states", () => {
  const UNWATCHED = FLEET.replaceAll('kind = "loop"', 'kind = "loop"\nwatch = "none"');
  for (const [name, text] of [["watched loops", FLEET], ["loops that nobody heals", UNWATCHED]] as const) {
    test(`an advance, ${name}`, async () => {
      const make = async (): Promise<Scene> => {
        const scene = await begin(text);
        for (const one of ["builder", "adversary"]) if (!alive(scene, one)) {
          const pane = scene.fake.tmux.add(`agents-${one}`);
          pane.marks = { "@agents_session": `agents-${one}`, "@agents_phase": "p1", "@agents_backend": "claude" };
          scene.fake.files.set(join(scene.cfg.stateDir, `kickoff-agents-${one}.txt`), "STATUS-p1.md");
        }
        return scene;
      };
      const count = await atEveryEffect(make, ({ fake }) => {
        fake.git.push("status(p1): done", { "machine-docs/STATUS-p1.md": DONE });
        return 14;
      }, (scene) => rightPhase(scene, ["p2"]), 14);
      expect(count).toBeGreaterThan(15);
    });
  }
  test("it never goes back to phase 0, also where it began at the second of three", async () => {
    const text = FLEET.replace("\n]", '\n  { id = "p3", plan = "p3.md", status = "STATUS-p3.md" },\n]');
    const make = async (): Promise<Scene> => {
      const scene = await begin(text);
      scene.fake.git.push("x", { "machine-docs/STATUS-p1.md": DONE });
      await scene.fake.ticks(scene.cfg, scene.watch, 14);
      scene.fake.effects = [];
      return scene;
    };
    await atEveryEffect(make, ({ fake }) => {
      fake.git.push("status(p2): done", { "machine-docs/STATUS-p2.md": DONE });
      return 14;
    }, (scene) => rightPhase(scene, ["p3"]), 14);
  });
});

describe("P17, fault 30: completion, with a task at its end", () => {
  const make = async (): Promise<Scene> => {
    const scene = await begin();
    scene.fake.files.set(join(scene.cfg.stateDir, "phase-idx"), "1");
    scene.fake.write(join(scene.cfg.logDir, ".run-upgrade-on-complete"), "");
    for (const name of ["builder", "adversary"]) scene.fake.tmux.of(`agents-${name}`).marks["@agents_phase"] = "p2";
    scene.fake.effects = [];
    return scene;
  };
  test("the loops are stopped, the task ran once, the trigger is gone", async () => {
    const count = await atEveryEffect(make, ({ fake }) => {
      fake.git.push("status(p2): done", { "machine-docs/STATUS-p2.md": DONE });
      return 14;
    }, (scene) => {
      const { fake, cfg, watch } = scene;
      expect(watch.intent).toBeNull();
      expect(fake.files.has(join(cfg.logDir, "SEQUENCE-COMPLETE"))).toBe(true);
      expect(fake.files.has(join(cfg.logDir, ".run-upgrade-on-complete"))).toBe(false);
      expect([alive(scene, "builder"), alive(scene, "adversary")]).toEqual([undefined, undefined]);
      expect(starts(scene, "upgrader")).toBe(1);
      expect(curPhase(cfg)!.id).toBe("p2");
    }, 14);
    expect(count).toBeGreaterThan(10);
  });
});

test("a wake arrives at least once, at most twice", async () => {
  const make = async (): Promise<Scene> => {
    const scene = await begin(FLEET, "idle");
    scene.watch.wakeDue.orchestrator = scene.fake.wall;
    return scene;
  };
  await atEveryEffect(make, () => 3, (scene) => {
    // before the first write nobody knew that it was due: it comes an hour later
    const known = scene.watch.wakeDue.orchestrator! > scene.fake.wall - 600_000 && told(scene, "orchestrator", "regular pass") === 0;
    expect(told(scene, "orchestrator", "regular pass") + Number(known)).toBeGreaterThanOrEqual(1);
    expect(told(scene, "orchestrator", "regular pass")).toBeLessThanOrEqual(2);
  });
});

test("a stall restart: it runs afterwards, never two at once", async () => {
  const make = async (): Promise<Scene> => {
    const scene = await begin();
    scene.fake.tmux.of("agents-orchestrator").doing = "idle";
    await scene.fake.ticks(scene.cfg, scene.watch, 10);
    scene.fake.effects = [];
    return scene;
  };
  const count = await atEveryEffect(make, ({ fake }) => {
    fake.tmux.of("agents-orchestrator").ignores = ["SIGHUP"];
    return 4;
  }, (scene) => {
    expect(alive(scene, "orchestrator")).toBeDefined();
    expect(starts(scene, "orchestrator")).toBe(2);
    expect(scene.fake.everyPane.filter((pane) => pane.session === "agents-orchestrator" && scene.fake.processes.has(pane.pid))).toHaveLength(1);
    expect(scene.watch.agents.orchestrator!.stopping).toBeNull();
  }, 16);
  expect(count).toBeGreaterThan(5);
});
