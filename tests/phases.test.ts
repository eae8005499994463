/** Which phase it is, and what its loops are told: what cannot be read holds them, it is never phase 0. */
import { beforeEach, describe, expect, spyOn, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  agentPrompt, buildLoopKickoff, type Channel, CliError, cmdMigrate, cmdPhase, curIdx, curPhase, decidePhase, type Phase, phaseDone, phaseIdxFile,
  promptText, readState, render, resolveStateFile, roleModel, world,
} from "../agents.ts";
import { agents, fakeWorld, FLEET, realFolder, type Scene, scene } from "./kit.ts";

const phase = (id: string): Phase => ({ id, plan: `${id}.md`, status: `STATUS-${id}.md`, models: {} });
const LIST = ["a", "b", "c"].map(phase);
const stored = (id: string, idx: number): string => JSON.stringify({ id, idx });

describe("decidePhase", () => {
  test.each<[string, string | null, string | null, number | RegExp]>([
    ["no file: the first phase", null, null, 0],
    ["the index alone, as the original wrote it", "2", null, 2],
    ["the id alone: the index was lost", null, stored("c", 2), 2],
    ["the id alone, of phases reordered since", null, stored("a", 2), 0],
    ["the id alone, of a phase that was removed", null, stored("gone", 1), /phase "gone" is not in the config any more/],
    ["the id alone, damaged", null, "{half", /the phase file is gone, and phase-id damaged/],
    ["a line end behind it", "1\n", null, 1],
    ["index and id agree", "1", stored("b", 1), 1],
    ["fault 12: phases reordered, the id counts", "0", stored("b", 0), 1],
    ["reordered, and the first one now", "1", stored("a", 1), 0],
    ["a hand moved the index, it counts", "2", stored("b", 1), 2],
    ["fault 12: the phase was removed", "1", stored("gone", 1), /phase "gone" is not in the config any more.*phases: a, b, c/],
    ["fault 12: out of range", "99", null, /phase index 99 is out of range/],
    ["fault 12: negative", "-1", null, /holds "-1", not a number/],
    ["fault 11: an empty file is an error, not phase 0", "", null, /holds "", not a number/],
    ["fault 11: an empty file beside a good id", "", stored("b", 1), /holds ""/],
    ["a number with words", "7x", null, /not a number/],
    ["a double minus", "--5", null, /not a number/],
    ["a digit that is none here", "²", null, /not a number/],
    ["an id file that is no JSON", "1", "{half", 1],
    ["an id file of another kind", "1", '"b"', 1],
    ["an id file that says null", "1", "null", 1],
    ["an id that is no text", "1", '{"id": 3, "idx": 1}', 1],
  ])("%s", (_, index, id, wanted) => {
    const found = decidePhase(index, id, LIST);
    if (typeof wanted === "number") expect(found).toEqual({ idx: wanted });
    else expect("error" in found ? found.error : "").toMatch(wanted);
  });
});

describe("over the fake world", () => {
  let { fake, cfg } = {} as Scene;
  beforeEach(async () => void ({ fake, cfg } = await scene(FLEET, { fake: fakeWorld(realFolder()), ticks: 0 })));

  const call = async (...words: string[]): Promise<{ code: number; out: string }> => {
    const print = spyOn(world, "print").mockImplementation(() => {});
    try {
      const code = await cmdPhase({ path: cfg.path, words, options: {} });
      return { code, out: print.mock.calls.map(([line]) => String(line)).join("") };
    } finally {
      print.mockRestore();
    }
  };
  const refused = async (...words: string[]): Promise<CliError> => {
    const before = new Map(fake.files);
    const error = await call(...words).then(() => null, (thrown) => thrown);
    expect(error).toBeInstanceOf(CliError);
    expect(fake.files).toEqual(before);
    return error;
  };
  const file = (name: string): string | undefined => fake.files.get(join(cfg.stateDir, name));

  test("an order for a fleet that was never up makes its folders", async () => {
    await call("next");
    expect(existsSync(cfg.stateDir)).toBe(true);
  });
  test("show, next, set by id and by index", async () => {
    expect((await call()).out).toBe("phase p1 [1/2]  seq: p1 p2\n");
    expect((await call("next")).out).toBe("the phase is now p2 (2/2)\n");
    expect(file("phase-idx")).toBe("1");
    expect(file("phase-id")).toBe('{"id":"p2","idx":1}\n');
    fake.write(join(cfg.logDir, "SEQUENCE-COMPLETE"), "done");
    expect((await call()).out).toBe("phase p2 [2/2]  seq: p1 p2  all done\n");
    await call("set", "p1");
    await readState(cfg);
    expect(curIdx(cfg)).toBe(0);
    await call("set", "1");
    await readState(cfg);
    expect(curPhase(cfg)!.id).toBe("p2");
  });

  test("fault 12: a phase that does not exist is refused before anything is written", async () => {
    await call("set", "p2");
    for (const wanted of ["99", "-1", "--5", "²", "abc", "p3", "p2 ", "1.5", ""]) {
      expect([wanted, (await refused("set", wanted)).code, file("phase-idx"), file("phase-id")]).toEqual([wanted, 2, "1", '{"id":"p2","idx":1}\n']);
    }
    expect((await refused("set", "p3")).message).toContain('nearest is "p1"');
  });

  test("fault 67: an unknown verb is an error, and no command dies of a bad phase", async () => {
    expect((await refused("foo")).message).toContain('unknown "foo"');
    expect((await refused("set")).code).toBe(2);
    fake.files.set(phaseIdxFile(cfg), "99");
    expect((await refused("show")).message).toContain("out of range");
    expect((await refused("next")).message).toContain("out of range");
    expect((await call("set", "p2")).code).toBe(0);
  });

  test("fault 67: no phases", async () => {
    await fake.config('[[agent]]\nname = "a"\nbackend = "claude"\n');
    for (const words of [[], ["next"], ["set", "0"]]) expect((await refused(...words)).message).toBe("the config has no phases");
  });

  test("fault 33: a phase move clears the completion", async () => {
    fake.write(join(cfg.logDir, "SEQUENCE-COMPLETE"), "done");
    await call("set", "p1");
    expect(fake.files.has(join(cfg.logDir, "SEQUENCE-COMPLETE"))).toBe(false);
  });

  test("a phase that a person sets takes back that it was the last", async () => {
    fake.write(join(cfg.stateDir, "phase-id"), '{"id":"p2","idx":1,"complete":true}\n');
    fake.write(join(cfg.stateDir, "phase-idx"), "1");
    await call("set", "p2");
    expect(file("phase-id")).toBe('{"id":"p2","idx":1}\n');
  });

  test("next in the last phase is refused: it begins nothing, and what is complete stays so", async () => {
    await call("set", "p2");
    fake.write(join(cfg.logDir, "SEQUENCE-COMPLETE"), "done");
    const error = await refused("next");
    expect([error.code, error.message]).toEqual([1, expect.stringContaining('"p2" is the last phase: add one to [loop], or to repeat one take DONE out')]);
  });

  test("set to one that is DONE already says that it is not repeated, and how it would be", async () => {
    const said = async (...words: string[]) => (fake.lines.length = 0, await call(...words), fake.logged("DONE"));
    expect(await said("set", "p1")).toEqual([]);
    fake.git.push("done", { "machine-docs/STATUS-p1.md": "## DONE\n\nAll gates PASS.\n" });
    fake.git.run(["fetch"]);
    expect(await said("set", "p1")).toEqual([expect.stringContaining(
      "p1 is DONE already: the watchdog moves on. To repeat it, take DONE out of STATUS-p1.md and push that, then set it again")]);
    expect(await said("next")).toEqual([]);
    fake.git.failing = ["show"]; // git cannot say
    expect(await said("set", "p1")).toEqual([]);
    fake.git.failing = [];
    await fake.config(FLEET.replace("[loop]\n", "[loop]\nauto_advance = false\n"));
    expect(await said("set", "p1")).toEqual([]);
  });

  test("fault 34: loops that stay on the old kickoff are named", async () => {
    fake.tmux.add("agents-builder").marks = { "@agents_phase": "p1", "@agents_session": "agents-builder" };
    await call("set", "p2");
    expect(fake.logged("still on the old phase's prompt: builder;")).toHaveLength(1);
  });

  test("fault 11: a write that fails leaves the old phase, at every step", async () => {
    await call("set", "p2");
    const writes = ["write phase-id", "write phase-idx"];
    for (const done of [0, 1]) {
      fake.effects = [];
      fake.dieAt = done + 1;
      await expect(call("set", "p1")).rejects.toThrow(`died at effect ${done + 1}: ${writes[done]}`);
      fake.revive();
      await readState(cfg);
      expect([curIdx(cfg), curPhase(cfg)!.id, fake.effects]).toEqual([1, "p2", writes.slice(0, done)]);
    }
    fake.effects = [];
    await call("set", "p1");
    await readState(cfg);
    expect([curIdx(cfg), fake.effects.slice(0, 2)]).toEqual([0, writes]);
  });

  test("migrate maps the original's index to an id", async () => {
    fake.files.set(phaseIdxFile(cfg), "1");
    await cmdMigrate({ path: cfg.path, words: [], options: {} });
    expect(file("phase-id")).toBe('{"id":"p2","idx":1}\n');
    await fake.config(FLEET.replace("phases = [", 'phases = [\n  { id = "p0", plan = "p0.md", status = "S.md" },'));
    expect((await call("show")).out).toContain("phase p2 [3/3]");
  });

  test("migrate begins no phase of its own: where none is stored, and for the number of an older launcher, which is named", async () => {
    const migrate = async () => (fake.lines.length = 0, await cmdMigrate({ path: cfg.path, words: [], options: {} }), fake.logged("the old .phase-idx holds 1;").length);
    expect([await migrate(), file("phase-idx"), file("phase-id")]).toEqual([0, undefined, undefined]);
    fake.files.set(join(cfg.logDir, ".phase-idx"), "1\n");
    expect([await migrate(), file("phase-idx"), file("phase-id")]).toEqual([1, undefined, undefined]);
    await call("set", "p2");
    expect([await migrate(), file("phase-id")]).toEqual([0, '{"id":"p2","idx":1}\n']);
  });

  test("migrate takes over the ids of older launchers, and names those that have none", async () => {
    await fake.config(`${agents("a")}resume = true\n${agents("b")}resume = true\n${agents("c")}`);
    fake.files.set(join(cfg.logDir, ".a-session-id"), "old-id-1\n");
    await cmdMigrate({ path: cfg.path, words: [], options: {} });
    expect([file("a.id"), file("b.id")]).toEqual(["old-id-1", undefined]);
    expect(fake.logged(" resume id: ").map((line) => line.replace(/^\[.*?\] /, ""))).toEqual(["a resume id: old-id-1", "b resume id: (none)"]);
  });

  test("a role's model: the phase's own, then the agent's", async () => {
    const builder = cfg.agents.get("builder")!;
    expect(roleModel(cfg, { ...builder, model: "haiku" })).toBe("haiku");
    fake.files.set(phaseIdxFile(cfg), "1");
    await readState(cfg);
    expect(roleModel(cfg, { ...builder, model: "haiku" })).toBe("opus");
    expect(roleModel(cfg, cfg.agents.get("adversary")!)).toBe("");
    fake.files.set(phaseIdxFile(cfg), "99");
    await readState(cfg);
    expect(roleModel(cfg, { ...builder, model: "haiku" })).toBe("haiku");
  });

  test("a kickoff is the preamble and the role, with every place filled", () => {
    for (const name of ["builder", "adversary"]) {
      const text = buildLoopKickoff(cfg, cfg.agents.get(name)!);
      expect(text).toContain("STATUS-p1.md");
      expect(text).toContain(join(fake.home, "plan-1.md"));
      expect(text).toContain("machine-docs");
      expect(text).not.toMatch(/\{(agent|role|plan_dir|docs_dir|done_marker|phase\.\w+)\}/);
    }
  });

  test("a prompt beside the config wins over the one that ships", () => {
    fake.files.set(join(fake.home, "prompts/builder.md"), "Own words for {phase.id}.");
    expect(buildLoopKickoff(cfg, cfg.agents.get("builder")!)).toEndWith("\nOwn words for p1.");
    expect(promptText(cfg, "prompts/none.md")).toBeNull();
  });

  test("other agents: their prompt, or their file", () => {
    const agent = cfg.agents.get("orchestrator")!;
    expect(agentPrompt(cfg, agent)).toBe("Look after the fleet.");
    fake.files.set(join(fake.home, "own.md"), "From a file.");
    expect(agentPrompt(cfg, { ...agent, promptFile: "own.md" })).toBe("From a file.");
    expect(() => agentPrompt(cfg, { ...agent, promptFile: "none.md" })).toThrow("prompt_file none.md is missing");
    fake.files.set(join(fake.home, "own.md"), " \n");
    expect(() => agentPrompt(cfg, { ...agent, promptFile: "own.md" })).toThrow("prompt_file own.md is empty");
    fake.files.set(join(fake.home, "prompts/builder.md"), "");
    expect(() => buildLoopKickoff(cfg, cfg.agents.get("builder")!)).toThrow("prompts/builder.md is empty");
  });

  describe("fault 20: DONE counts once it is pushed", () => {
    const DONE = "## DONE\n\nAll gates PASS.\n";
    const repo = (): string => cfg.loop.handoff!.repo;
    test("not while it stands in the work tree alone", async () => {
      fake.git.push("x", { "README.md": "r" });
      fake.git.run(["fetch"]);
      fake.files.set(`${repo()}/machine-docs/STATUS-p1.md`, DONE);
      expect(await phaseDone(cfg, "STATUS-p1.md", null)).toBe(false);
      fake.git.push("done", { "machine-docs/STATUS-p1.md": DONE });
      expect(await phaseDone(cfg, "STATUS-p1.md", null)).toBe(false);
      fake.git.run(["fetch"]);
      expect(await phaseDone(cfg, "STATUS-p1.md", null)).toBe(true);
    });
    test("at the root of the repository too", async () => {
      fake.git.push("done", { "STATUS-p1.md": DONE });
      fake.git.run(["fetch"]);
      expect(await phaseDone(cfg, "STATUS-p1.md", null)).toBe(true);
    });
    test("the work tree counts where the remote said that it has no such branch, and no sooner", async () => {
      fake.files.set(`${repo()}/STATUS-p1.md`, DONE);
      const channel = { of: `${repo()} origin main`, state: "empty", why: "", cure: "", since: 0, told: false } as const;
      const done = (some: Partial<Channel> | null) => phaseDone(cfg, "STATUS-p1.md", some && { ...channel, ...some });
      expect([await done({}), await done({ state: "branch missing" })]).toEqual([true, true]);
      expect([await done(null), await done({ state: "failing" }), await done({ state: "ok" }), await done({ of: `${repo()} origin dev` })]).toEqual([null, null, null, null]);
    });
    test("git that fails is not done", async () => {
      fake.files.set(`${repo()}/STATUS-p1.md`, DONE);
      fake.git.failing = ["show"];
      expect(await phaseDone(cfg, "STATUS-p1.md", null)).toBeNull();
    });
  });

  test("a state file is below the docs folder, else at the root", () => {
    expect(resolveStateFile("/r", "docs", "S.md")).toBe("/r/S.md");
    fake.files.set("/r/docs/S.md", "x");
    expect(resolveStateFile("/r", "docs", "S.md")).toBe("/r/docs/S.md");
  });
});

test("render fills places that are known and leaves other braces alone", () => {
  expect(render("{a} {a.b} {c} { a } {A} {}", { a: "1", "a.b": "2" })).toBe("1 2 {c} { a } {A} {}");
  expect(render("{a}", { a: "{b}", b: "x" })).toBe("{b}");
  expect(render("{constructor}", {})).toBe("{constructor}");
});
