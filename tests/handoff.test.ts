/** The pair talks through commits: each claim, review and inbox is told, once, to whom it concerns. */
import { beforeEach, describe, expect, test } from "bun:test";
import { type Commit, decideDeadlock, decideHandoff, handoffCheck, showPushed, tick, type VerdictName, world } from "../agents.ts";
import { FLEET, type Scene, scene } from "./kit.ts";

let { fake, cfg, watch, told } = {} as Scene;
beforeEach(async () => void ({ fake, cfg, watch, told } = await scene(FLEET, { ticks: 0 })));
const hand = () => cfg.loop.handoff!;
const ticks = (count: number) => fake.ticks(cfg, watch, count);
/** A fleet that runs, with a first commit seen. */
const running = async (): Promise<void> => {
  fake.git.push("init", { "README.md": "r" });
  await ticks(4);
};

/** Ticks that nobody lets git catch up with: who dies meanwhile is healed all the same. */
const healsBesideGit = async (): Promise<void> => {
  fake.tmux.exit("agents-orchestrator", 1);
  for (let nth = 0; nth < 3; nth++) {
    await tick(cfg, watch);
    fake.turn(30_000);
  }
  expect(fake.everyPane.filter((pane) => pane.session === "agents-orchestrator")).toHaveLength(2);
};

describe("decideHandoff", () => {
  const commits = (...subjects: string[]): Commit[] => subjects.map((subject, i) => ({ key: `k${i}`, subject }));
  test.each<[string, string[], string[]]>([
    ["a claim", ["claim(p1): G1"], ["adversary"]],
    ["a review", ["review(p1): FAIL"], ["builder"]],
    ["both", ["claim(p1): G1", "fix: x", "review(p1): PASS"], ["adversary", "builder"]],
    ["any case", ["Claim(p1): G1"], ["adversary"]],
    ["fault 52: claims-parser is no claim", ["claims-parser: fix", "claim: no brackets", "the claim(x)"], []],
    ["fault 52: reviewers.md is no review", ["reviewers.md: add a name", "reviewed(p1)"], []],
    ["nothing", [], []],
  ])("%s", (_, subjects, targets) =>
    expect(decideHandoff(commits(...subjects), [], hand()).map((ping) => ping.target)).toEqual(targets));
  test("each claim is told, oldest first", () =>
    expect(decideHandoff(commits("claim(p1): G1", "claim(p1): G2"), [], hand()).map((ping) => ping.subject)).toEqual(["claim(p1): G1", "claim(p1): G2"]));
  test("what was seen is not said again", () =>
    expect(decideHandoff(commits("claim(p1): G1"), ["k0"], hand())).toEqual([]));
  test("patterns of the config", () =>
    expect(decideHandoff(commits("gate: G1"), [], { ...hand(), claimRe: "^gate:", claimPings: "x" })).toEqual([{ target: "x", cause: "claim", subject: "gate: G1", sha: undefined }]));
});

describe("decideDeadlock", () => {
  test.each<[string, VerdictName[], number, number, boolean]>([
    ["both rest, nothing is on its way", ["idle", "idle"], 0, 900, true],
    ["both wait until a time of their own choosing", ["waiting", "waiting"], 0, 900, false],
    ["one works", ["idle", "active"], 0, 900, false],
    ["one is limited", ["idle", "limited"], 0, 900, false],
    ["one is not understood", ["idle", "unsure"], 0, 900, false],
    ["something is on its way", ["idle", "idle"], 1, 900, false],
    ["not for long enough", ["idle", "idle"], 0, 899, false],
    ["one alone is no pair", ["idle"], 0, 900, false],
  ])("%s", (_, verdicts, pending, quiet, wanted) => expect(decideDeadlock(verdicts, pending, quiet, 900)).toBe(wanted));
});

test("a claim goes to the adversary, a review to the builder, in our words", async () => {
  await running();
  fake.git.push("claim(p1): G1 is ready");
  await ticks(3);
  expect(told("adversary")).toEqual(["Supervisor: builder pushed claim(p1): G1 is ready. Pull, verify that gate from a clean checkout by trying to break it, and push your verdict as a review commit."]);
  fake.git.push("review(p1): FAIL, see F1");
  await ticks(3);
  expect(told("builder")).toHaveLength(1);
  expect(told("builder")[0]).toContain("adversary pushed review(p1): FAIL, see F1");
  await ticks(20);
  expect([told("adversary").length, told("builder").length]).toEqual([1, 1]);
});

test("of a text whose file is empty the agent hears by the one that ships", async () => {
  fake.files.set("/fleet/prompts/claim-ping.md", " \n");
  await running();
  fake.git.push("claim(p1): G1 is ready");
  await ticks(3);
  expect(told("adversary")).toEqual([expect.stringContaining("builder pushed claim(p1): G1 is ready")]);
});

test("of a text whose file cannot be read the agent hears by the one that ships, once, and that is said until it can", async () => {
  const { read } = world;
  world.read = (path) => {
    if (path === "/fleet/prompts/claim-ping.md") throw new Error("EACCES: permission denied, open 'claim-ping.md'");
    return read(path);
  };
  await running();
  fake.git.push("claim(p1): G1 is ready");
  await ticks(6);
  expect(told("adversary")).toEqual([expect.stringContaining("builder pushed claim(p1): G1 is ready")]);
  expect(fake.logged("EACCES: permission denied, open 'claim-ping.md'; the text that ships is used instead")).toHaveLength(1);
  world.read = read;
  fake.git.push("claim(p1): G2 is ready");
  await ticks(4);
  expect([told("adversary").length, fake.logged("prompts: readable again").length]).toEqual([2, 1]);
});

test.each([["the next watchdog", true], ["the same one", false]])("a commit that could not be stored is no event yet, and then one, by %s", async (_, dies) => {
  await running();
  fake.git.push("claim(p1): G1");
  await ticks(1);
  const events = () => fake.files.get(`${cfg.stateDir}/events.jsonl`)?.match(/"event":"commit"/g)?.length ?? 0;
  const { writeAtomic } = world;
  world.writeAtomic = async (path, text) => {
    if (path.endsWith("watch.json")) throw new Error("EIO: i/o error");
    return writeAtomic(path, text);
  };
  await ticks(3);
  expect(events()).toBe(0);
  world.writeAtomic = writeAtomic;
  if (dies) watch = await fake.watch(cfg);
  await ticks(3);
  expect(events()).toBe(1);
});

test("the first run takes the head as its baseline and says nothing", async () => {
  for (let nth = 0; nth < 5; nth++) fake.git.push(`claim(p1): G${nth}`);
  await ticks(6);
  expect(told("adversary")).toEqual([]);
  expect(watch.sha).toBe(fake.git.remote.at(-1)!.sha);
});

test("fault 7: what was pushed while no watchdog ran is told by the next", async () => {
  await running();
  fake.git.push("claim(p1): G1");
  watch = await fake.watch(cfg);
  await ticks(4);
  expect(told("adversary")).toHaveLength(1);
  watch = await fake.watch(cfg);
  await ticks(4);
  expect(told("adversary")).toHaveLength(1);
});

test("fault 8: a claim waits for an adversary that is dead at that moment", async () => {
  await running();
  fake.tmux.exit("agents-adversary", 125);
  await ticks(2);
  fake.git.push("claim(p1): G1");
  await ticks(10);
  expect(told("adversary")).toEqual([]);
  watch.agents.adversary!.life = { state: "backoff", until: 0 };
  await ticks(4);
  expect(told("adversary").filter((text) => text.includes("G1"))).toHaveLength(1);
});

describe("P2, fault 54: a claim waits while its target cannot take it", () => {
  test.each(["dialog", "limit", "blank"] as const)("%s", async (doing) => {
    await running();
    const pane = fake.tmux.of("agents-adversary");
    Object.assign(pane, { doing });
    fake.git.push("claim(p1): G1");
    await ticks(6);
    expect([told("adversary"), pane.enters, pane.approved]).toEqual([[], 0, 0]);
    pane.doing = "busy";
    await ticks(2);
    expect(told("adversary")).toHaveLength(1);
  });
  test("a person who scrolls back between the paste and Enter does not take the Enter", async () => {
    await running();
    fake.beforeTmux((args) => {
      if (args.includes("send-keys")) fake.tmux.of("agents-adversary").inMode = true;
    });
    fake.git.push("claim(p1): G1");
    await ticks(3);
    expect(told("adversary")).toHaveLength(1);
    expect(fake.tmux.of("agents-adversary").draft).toBe("");
  });
  test("copy-mode is left first (fault 9)", async () => {
    await running();
    fake.tmux.of("agents-adversary").inMode = true;
    fake.git.push("claim(p1): G1");
    await ticks(3);
    expect(told("adversary")).toHaveLength(1);
  });
});

test("fault 52: a force-push repeats nothing and loses nothing", async () => {
  await running();
  fake.git.push("claim(p1): G1");
  await ticks(3);
  fake.git.rewrite();
  fake.git.push("claim(p1): G2");
  await ticks(3);
  expect(told("adversary").map((text) => /G\d/.exec(text)![0])).toEqual(["G1", "G2"]);
});

test("fault 52: a head that vanished while no watchdog ran", async () => {
  await running();
  fake.git.push("claim(p1): G1");
  await ticks(3);
  watch.sha = "f".repeat(40);
  fake.git.push("review(p1): PASS");
  await ticks(3);
  expect([told("adversary").length, told("builder").length]).toEqual([1, 1]);
});

test.each([["gives no answer in time", true], ["cannot show it, as in a partial clone", false]])("an amended claim, where git %s: that tells no new one late, and none twice", async (_, late) => {
  await running();
  const claim = fake.git.push("claim(p1): G1", { work: "one" });
  await ticks(3);
  const run = fake.git.run.bind(fake.git);
  let fails = true;
  fake.git.run = (args) => fails && args.includes("-p") ? { ok: false, out: "", err: "", timedOut: late } : run(args);
  fake.git.remote = [...fake.git.remote.slice(0, -1), { ...claim, sha: "c".repeat(40), files: { ...claim.files, work: "two" } }];
  fake.git.push("claim(p1): G2", { work: "three" });
  await ticks(5);
  const gates = () => told("adversary").map((text) => /G\d/.exec(text)![0]);
  expect([gates(), watch.channel!.state, watch.channel!.why]).toEqual([["G1", "G2"], ...late ? ["failing", "git show: no answer in time"] : ["ok", ""]]);
  fails = false;
  await ticks(5);
  expect([gates(), watch.channel!.state]).toEqual([late ? ["G1", "G2", "G1"] : ["G1", "G2"], "ok"]);
});

describe("inboxes", () => {
  const INBOXES = { adversary: "machine-docs/ADVERSARY-INBOX.md", builder: "machine-docs/BUILDER-INBOX.md" };
  test.each(["adversary", "builder"] as const)("that of the %s is told to the %s", async (name) => {
    await running();
    fake.git.push("note", { [INBOXES[name]]: "Look at F1." });
    await ticks(8);
    expect(told(name)).toHaveLength(1);
    expect(told(name)[0]).toContain(INBOXES[name]);
    expect(told(name === "builder" ? "adversary" : "builder")).toEqual([]);
  });
  test.each([["a deletion", null], ["emptying it", ""], ["a line without a word", " \n"]])("a change is told, %s is not, the same text after it is", async (_, nothing) => {
    await running();
    fake.tmux.of("agents-builder").doing = "busy";
    for (const content of ["one", "two", nothing, "two", "two\n"]) {
      fake.git.push("note", { [INBOXES.builder]: content });
      await ticks(3);
    }
    expect(told("builder")).toHaveLength(4);
  });
  test("fault 53: git that failed is not a file that is gone", async () => {
    await running();
    fake.git.push("note", { [INBOXES.builder]: "one" });
    await ticks(3);
    fake.git.failing = ["show"];
    fake.git.push("other");
    await ticks(3);
    fake.git.failing = [];
    await ticks(3);
    expect(told("builder")).toHaveLength(1);
  });
  test.each(["fatal: unable to access the remote", "fatal: invalid object name 'origin/main'."])("one that is changed while git fails is told later: %s", async (error) => {
    await running();
    fake.git.error = error;
    fake.git.push("claim(one): ready");
    fake.git.failing = ["show"];
    fake.git.push("note", { [INBOXES.builder]: "one" });
    await ticks(3);
    expect(told("builder")).toEqual([]);
    fake.git.failing = [];
    await ticks(3);
    expect(told("builder")).toHaveLength(1);
  });
  test("showPushed: found, absent, no branch, failed", async () => {
    const state = async (name: string) => (await showPushed(hand(), name)).get(name)!.state;
    expect(await state("X.md")).toBe("no branch");
    fake.git.push("x", { "machine-docs/X.md": "docs", "Y.md": "root" });
    fake.git.run(["fetch"]);
    expect([await state("X.md"), await state("Y.md"), await state("Z.md")]).toEqual(["found", "found", "absent"]);
    fake.git.failing = ["show"];
    expect(await state("X.md")).toBe("failed");
  });
});

describe("P16, fault 17: git trouble is local", () => {
  const said = (why: string, how: string): string[] => [`hand-off: ${why}; run it yourself: git -C ${hand().repo} ${how}`];
  const LOST = "unable to access the remote: Could not resolve host";
  // `rev-parse` only spares a fetch: the channel works
  test.each<[string, () => string[]]>([
    ["ls-remote", () => said(LOST, "ls-remote origin")], ["fetch", () => said(LOST, "fetch origin")],
    ["log", () => said(`git log: ${LOST}`, "fsck")], ["merge-base", () => said(`git merge-base: ${LOST}`, "fsck")], ["show", () => said(`git show: ${LOST}`, "fsck")], ["rev-parse", () => []],
  ])("%s fails for a while: nothing is lost, and it is said once", async (command, wanted) => {
    await running();
    fake.git.push("claim(one): ready");
    fake.git.failing = [command];
    fake.git.push("claim(p1): G1", { "machine-docs/BUILDER-INBOX.md": "one" });
    fake.tmux.exit("agents-orchestrator", 1);
    await ticks(10);
    expect(fake.everyPane.filter((pane) => pane.session === "agents-orchestrator")).toHaveLength(2);
    expect(fake.logged(/hand-off: |ERROR/).map((line) => line.replace(/^\[.*?\] /, ""))).toEqual(wanted());
    fake.git.failing = [];
    await ticks(4);
    expect([told("adversary").filter((text) => text.includes("G1")).length, told("builder").filter((text) => text.includes("INBOX")).length]).toEqual([1, 1]);
  });
  test("a remote without the branch is not an error", async () => {
    await ticks(4);
    expect(fake.logged(/ERROR|hand-off/)).toEqual([]);
  });
  test("a fetch that hangs holds up no tick", async () => {
    await running();
    watch.volatile.fetch = new Promise(() => {});
    fake.git.calls = [];
    await healsBesideGit();
    expect(fake.git.calls.filter((call) => /^(ls-remote|fetch)/.test(call))).toEqual([]);
  });
});

test("where nothing changed a tick asks for two heads, and a claim costs no more than it must", async () => {
  await running();
  await ticks(2);
  fake.git.calls = [];
  await ticks(5);
  // each heavy tick, one of ten, also looks for DONE
  const words = fake.git.calls.filter((call) => !/STATUS|^show \S+:machine-docs$/.test(call)).map((call) => call.split(" ")[0]!);
  expect(words).toEqual(Array(5).fill(["ls-remote", "rev-parse"]).flat());
  fake.git.push("claim(one): news");
  fake.git.calls = [];
  await ticks(2);
  expect(fake.git.calls.filter((call) => /^(fetch|log)/.test(call))).toHaveLength(2);
  expect(fake.logged(/handoff: claim\(one\): news/)).toHaveLength(1);
});

test.each(["fetch", "log", "merge-base"])("no tick waits for git %s: what is news is read beside it", async (command) => {
  await running();
  const git = world.git;
  world.git = (repo, args) => (args[0] === command ? new Promise(() => {}) : git(repo, args));
  fake.git.push("claim(one): never read");
  await healsBesideGit();
  expect(watch.volatile.fetch).not.toBeNull();
});

test("a git that does not compare the heads in time says nothing of the history: all that was pushed is told then", async () => {
  await running();
  const { git } = world;
  world.git = async (repo, args) => (args[0] === "merge-base" ? { ok: false, out: "", err: "no answer in time", timedOut: true } : git(repo, args));
  fake.git.push("claim(one): ready");
  for (let nth = 0; nth < 250; nth++) fake.git.push(`note ${nth}`);
  await ticks(3);
  expect(fake.logged("hand-off: git merge-base: no answer in time")).toHaveLength(1);
  world.git = git;
  await ticks(3);
  expect(told("adversary").filter((text) => text.includes("claim(one): ready"))).toHaveLength(1);
});

test("a remote branch that is lost here is fetched again", async () => {
  await running();
  fake.git.tracked = [];
  await ticks(2);
  expect(fake.git.tracked).toEqual(fake.git.remote);
});

test("what was read by another config is read again by the new one", async () => {
  await running();
  fake.git.push("inbox: news", { "machine-docs/ADVERSARY-INBOX.md": "whose is it?" });
  await ticks(1);
  const { inboxes } = hand();
  expect(inboxes).toHaveLength(2);
  cfg = await fake.config(FLEET.replace(/^inboxes = .*$/m, `inboxes = ${JSON.stringify(inboxes.toReversed())}`));
  await ticks(4);
  expect(fake.logged(/ADVERSARY-INBOX.md changed →/)).toEqual([expect.stringMatching(/→ builder$/)]);
});

test("nothing is fetched once the sequence is complete", async () => {
  await running();
  fake.write(`${cfg.logDir}/SEQUENCE-COMPLETE`, "x");
  fake.git.calls = [];
  await ticks(5);
  expect(fake.git.calls).toEqual([]);
});

test("handoffCheck without a hand-off or a fetch does nothing", async () => {
  await handoffCheck(cfg, watch);
  await handoffCheck({ ...cfg, loop: { ...cfg.loop, handoff: undefined as never } }, watch);
  expect(fake.effects).toEqual([]);
});

describe("deadlock", () => {
  /** Both idle, stall care off, for so many minutes. */
  const rest = async (minutes: number): Promise<void> => {
    cfg = await fake.config(FLEET.replace('watch = "heal+stall"', 'watch = "heal"'));
    await running();
    await ticks(minutes * 2);
  };
  const nudged = () => [...told("builder"), ...told("adversary")].filter((text) => text.includes("the next commit is yours"));
  test("both idle for deadlock_after: whoever owes the next commit is told, once per head", async () => {
    await rest(14);
    expect(nudged()).toHaveLength(0);
    await ticks(10);
    expect(told("builder")).toHaveLength(1);
    await ticks(400);
    expect(nudged()).toHaveLength(1);
  });
  test("no side that a limit holds owes a commit, though it rests at its prompt", async () => {
    cfg = await fake.config(FLEET.replace('watch = "heal+stall"', 'watch = "heal"').replace('name = "builder"', 'name = "builder"\naccount = "its own"'));
    await running();
    await ticks(2);
    const builder = fake.tmux.of("agents-builder");
    Object.assign(builder, { doing: "limit", banner: "You've hit your 5-hour limit · resets 3pm (UTC)" });
    await ticks(2);
    builder.doing = "idle";
    await ticks(60);
    expect(nudged()).toEqual([]);
  });
  test("after a claim it is the adversary's turn", async () => {
    await rest(1);
    fake.git.push("claim(p1): G1");
    await ticks(50);
    expect(told("adversary").at(-1)).toContain("the next commit is yours");
    expect(told("builder")).toEqual([]);
  });
  test("a phase that is done needs nobody's commit", async () => {
    cfg = await fake.config(FLEET.replace('watch = "heal+stall"', 'watch = "heal"').replace("[loop]", "[loop]\nauto_advance = false"));
    await running();
    fake.git.push("status(p1): done", { "machine-docs/STATUS-p1.md": "## DONE\n\nEvery gate has a fresh PASS.\n" });
    await ticks(50);
    expect(nudged()).toHaveLength(0);
  });
  test("on a full disk it is an error of this stage, and is told once the disk has room", async () => {
    await rest(14);
    fake.full = true;
    await ticks(10);
    expect(fake.logged(/ERROR: deadlock: ENOSPC/)).toHaveLength(1);
    const events = () => fake.files.get(`${cfg.stateDir}/events.jsonl`)?.match(/"event":"deadlock"/g)?.length ?? 0;
    expect(events()).toBe(0);
    fake.full = false;
    await ticks(4);
    expect([nudged().length, events()]).toEqual([1, 1]);
  });
  test("a hand-off that cannot be stored is said once, also beside ticks in which git has not answered yet", async () => {
    await running();
    fake.full = true;
    fake.git.push("claim(p1): G1");
    await ticks(4);
    const { git } = world;
    const answer = Promise.withResolvers<void>();
    world.git = async (repo, args, more) => {
      if (args[0] === "ls-remote") await answer.promise;
      return git(repo, args, more);
    };
    for (let nth = 0; nth < 3; nth++) await tick(cfg, watch);
    answer.resolve();
    await ticks(4);
    expect([fake.logged(/ERROR: hand-off: ENOSPC/).length, fake.logged("hand-off: working again").length]).toEqual([1, 0]);
    fake.full = false;
    await ticks(4);
    expect([told("adversary").length, fake.logged("hand-off: working again").length]).toEqual([1, 1]);
  });
  test.each(["ls-remote", "show"])("where git %s does not answer nobody owes a commit: it may have come", async (command) => {
    await rest(10);
    fake.git.failing = [command];
    fake.git.push("claim(p1): G1");
    await ticks(30);
    expect(nudged()).toEqual([]);
    fake.git.failing = [];
    await ticks(3);
    expect(told("adversary").filter((text) => text.includes("pushed claim(p1): G1"))).toHaveLength(1);
  });
  test("work in between begins the quiet anew", async () => {
    await rest(10);
    fake.tmux.of("agents-builder").doing = "busy";
    await ticks(2);
    fake.tmux.of("agents-builder").doing = "idle";
    await ticks(25);
    expect(nudged()).toHaveLength(0);
  });
});

test.each<[VerdictName[], boolean]>([
  [["idle", "idle"], true], [["idle", "waiting"], false], [["waiting", "waiting"], false], [["idle", "active"], false], [["idle"], false],
])("a deadlock is two that rest, not one that said until when it waits: %j", (verdicts, wanted) =>
  expect(decideDeadlock(verdicts, 0, 900, 900)).toBe(wanted));

describe("what git says in between is told, and costs nothing", () => {
  test.each([["fetch", "Could not resolve host"], ["log", "git log: unable to access"]])("%s fails: it is said, and the claim is told afterwards", async (command, why) => {
    await running();
    fake.git.push("claim(one): ready");
    fake.git.failing = [command];
    await fake.ticks(cfg, watch, 3);
    expect([fake.logged(why).length, fake.logged("ERROR"), watch.sha.endsWith("1")]).toEqual([1, [], true]);
    fake.git.failing = [];
    await fake.ticks(cfg, watch, 3);
    expect(told("adversary").filter((text) => text.includes("claim(one)"))).toHaveLength(1);
  });
  test("what is to be told and that it was seen are on disk together, before anything else is done", async () => {
    await running();
    fake.git.push("claim(one): ready");
    await ticks(1);
    expect(watch.volatile.fetched).not.toBeNull();
    await handoffCheck(cfg, watch);
    expect([(await fake.watch(cfg)).sha, (await fake.watch(cfg)).outbox.map(({ cause }) => cause)]).toEqual([watch.sha, ["claim"]]);
  });
});
