/** A builder, an adversary and a real repository: hand-offs and phases, by the command line, on real tmux and git. */
import { expect } from "bun:test";
import { chmodSync, existsSync, rmSync } from "node:fs";
import { type Fleet, fleet, handoffStorm, life, loopPlan, real, signal, until } from "./real.ts";
import { rounds } from "./sim.ts";

// ── hand-offs ───────────────────────────────────────────────────────────────────

const started = async (f: Fleet): Promise<void> => {
  await f.repository("builder", "adversary");
  await f.up();
  await f.ready("builder", "adversary");
  await until(() => JSON.parse(f.read(".agents/state/watch.json")).sha);
};
/** The texts that a client is given from now on. */
const hears = (f: Fleet, name: string): () => string[] => {
  const before = f.submits(name).length;
  return () => f.submits(name).slice(before);
};

/** A look a second: most of what these fleets do is waiting for git. */
const watchdog = { signal_interval: 1 };

const handoff = life(loopPlan({ handoff: { inboxes: ["TO-ADVERSARY.md", "TO-BUILDER.md"] }, watchdog }));

handoff("claims, reviews and inboxes reach their reader, once each, and nobody else", async (f) => {
  await started(f);
  await f.push("builder", "claim(one): the parser; it's \"done\" $HOME;");
  await until(() => f.submits("adversary").length);
  await f.push("builder", "claims-parser: no claim at all");
  await f.push("builder", "review(one): FAIL, see the notes");
  await until(() => f.submits("builder").length);
  await f.push("builder", "a letter", { "machine-docs/TO-BUILDER.md": "read me\n" });
  await until(() => f.submits("builder").length === 2);
  await f.push("builder", "a letter", { "machine-docs/TO-ADVERSARY.md": "read me\n" });
  await until(() => f.submits("adversary").length === 2);
  await f.ticks(3);
  expect(f.submits("adversary")).toEqual([
    expect.stringContaining("claim(one): the parser; it's \"done\" $HOME;"), expect.stringContaining("machine-docs/TO-ADVERSARY.md"),
  ]);
  expect(f.submits("builder")).toEqual([
    expect.stringContaining("review(one): FAIL, see the notes"), expect.stringContaining("machine-docs/TO-BUILDER.md"),
  ]);
});

handoff("fault 52: a rewritten history: nothing repeated, nothing lost", async (f) => {
  const [heard, builder] = [hears(f, "adversary"), hears(f, "builder")];
  await f.push("builder", "claim(one): first");
  await until(() => heard().length === 1);
  await f.git("builder", "reset", "-q", "--hard", "HEAD~1");
  await f.git("builder", "commit", "-q", "--allow-empty", "-m", "something below it");
  await f.git("builder", "cherry-pick", "--allow-empty", "origin/main");
  await f.git("builder", "commit", "-q", "--allow-empty", "-m", "claim(one): second");
  await f.git("builder", "push", "-q", "--force", "origin", "HEAD:main");
  await until(() => heard().length >= 2);
  await f.ticks(3);
  expect(heard()).toEqual([expect.stringContaining("claim(one): first"), expect.stringContaining("claim(one): second")]);
  expect(builder()).toEqual([]);
});

handoff("P2, fault 8: a claim for an adversary that is down waits, and is there when it is back; one that was pushed while no watchdog ran is delivered (fault 7); a placeholder is not DONE (fault 21)", async (f) => {
  const [heard, starts] = [hears(f, "adversary"), f.starts("builder").length];
  await f.run(["down", "adversary"]);
  await f.push("builder", "claim(one): to nobody");
  await until(() => f.log.includes("waiting: claim to adversary: stopped by you"));
  expect((await f.states()).messages.adversary).toBe(1);
  await f.up("adversary");
  await until(() => heard().length, 15_000);
  expect(heard()).toEqual([expect.stringContaining("claim(one): to nobody")]);

  await f.run(["down", "watchdog"]);
  await f.push("builder", "claim(one): in the night");
  await f.up("watchdog");
  await until(() => heard().length === 2);
  expect(heard()[1]).toContain("claim(one): in the night");

  await f.push("builder", "status", { "machine-docs/STATUS-one.md": "## DONE\n\n- [ ] not yet\n" });
  await f.push("builder", "claim(one): to see that it was read");
  await until(() => heard().length === 3);
  await f.ticks(4);
  expect(f.starts("builder")).toHaveLength(starts);
});

const KILLS = rounds(20, 6);

real(`P1: ${KILLS} hand-offs, the watchdog killed by -9 at a random moment of each: all arrive, two copies at most`, loopPlan({ watchdog }), async (f) => {
  // in three fleets: most of it is waiting for a watchdog to be started again
  const others = rounds([7, 7], []).map((kills) => ({ kills, f: fleet(f.plan) }));
  const storms = await Promise.all([{ kills: 6, f }, ...others].map((one) => handoffStorm(one.f, one.kills)));
  await Promise.all(others.map((one) => one.f.reap()));
  const [copies, sorted] = [storms.flatMap((storm) => storm.copies), storms.flatMap(({ took }) => took).toSorted((a, b) => a - b)];
  console.log(`hand-offs under kill -9: copies ${copies.join(" ")}; ms median ${sorted[sorted.length >> 1]}, worst ${sorted.at(-1)}`);
  expect(copies.length).toBeGreaterThanOrEqual(KILLS);
  expect(Math.min(...copies)).toBeGreaterThanOrEqual(1);
  expect(Math.max(...copies)).toBeLessThanOrEqual(2);
});

// ── phases ──────────────────────────────────────────────────────────────────────

const DONE = { "machine-docs/STATUS-one.md": "# one\n\n## DONE\n\nAll gates pass, see REVIEW-one.md.\n" };

const phases = life(loopPlan({
  phase: { models: { builder: "the big one" } }, agents: [{ name: "a1", watch: "heal" }, { name: "upgrader", kind: "task", enabled: false, prompt: "upgrade" }],
  loop: { on_complete: { run: "upgrader" } }, watchdog,
}));
/** Phases that come behind those of the plan, and another trigger. */
const goOn = (f: Fleet, ...ids: string[]): void => {
  const more = ids.map((id) => ({ id, plan: `${id}.md`, status: `STATUS-${id}.md` }));
  f.write("agents.toml", f.text({ ...f.plan, loop: {
    ...f.plan.loop, phases: [...(f.plan.loop!.phases as never[]), ...more], on_complete: { trigger_file: "run-it", run: "upgrader" },
  } }));
};

phases("fault 20: DONE counts once it is pushed; then the loops start again, by the phase's own model; a claim that is pushed around the move is delivered (fault 63); without its trigger file nothing runs on completion", async (f) => {
  await started(f);
  f.write("builder/machine-docs/STATUS-one.md", DONE["machine-docs/STATUS-one.md"]);
  f.write("watch/machine-docs/STATUS-one.md", DONE["machine-docs/STATUS-one.md"]);
  await f.ticks(4);
  expect(f.starts("builder")).toHaveLength(1);
  await f.push("builder", "status(one): done", DONE);
  await until(() => f.log.includes("PHASE one DONE"), 8_000, 10);
  await f.push("builder", "claim(two): at once");
  await until(() => f.submits("adversary").some((text) => text.includes("claim(two): at once")), 20_000);
  await until(() => f.starts("builder").length === 2 && f.starts("adversary").length === 2, 15_000);
  expect(f.starts("builder")[1]).toEqual(["tui", "--model", "the big one", "--", expect.stringContaining("two.md")]);
  expect(f.starts("adversary")[1]!.slice(0, 2)).toEqual(["tui", "--"]);
  expect([f.read(".agents/state/phase-idx").trim(), f.starts("a1").length]).toEqual(["1", 1]);
  expect((await f.run(["phase"])).out).toContain("phase two [2/2]");

  await f.push("builder", "status(two): done", { "machine-docs/STATUS-two.md": DONE["machine-docs/STATUS-one.md"] });
  await until(() => existsSync(f.path(".agents", "SEQUENCE-COMPLETE")), 15_000);
  await f.ticks(3);
  expect(f.starts("upgrader")).toEqual([]);
});

phases("fault 30: on completion the task runs once, where its trigger file stands; a new phase goes on", async (f) => {
  const begun = (...names: string[]) => names.map((name) => f.starts(name).length);
  const complete = () => existsSync(f.path(".agents", "SEQUENCE-COMPLETE"));
  goOn(f, "three");
  await until(() => begun("builder", "adversary").join() === "3,3", 15_000);
  f.write(".agents/run-it", "");
  await f.push("builder", "status(three): done", { "machine-docs/STATUS-three.md": DONE["machine-docs/STATUS-one.md"] });
  await until(complete, 15_000);
  await f.ready("upgrader");
  f.control("upgrader", "exit 0");
  expect(existsSync(f.path(".agents", "run-it"))).toBe(false);
  await f.ticks(4);
  expect(begun("upgrader", "builder")).toEqual([1, 3]);
  expect((await f.sessions()).filter((name) => /builder|adversary/.test(name))).toEqual([]);
  const status = await f.run(["status"]);
  expect([status.code, status.out]).toEqual([0, expect.stringContaining(", all done")]);
  goOn(f, "three", "four");
  await until(() => begun("builder", "adversary").join() === "4,4", 15_000);
  expect(complete()).toBe(false);
  expect([begun("upgrader"), f.starts("builder")[3]!.at(-1)]).toEqual([[1], expect.stringContaining("four.md")]);
});

// ── the channel ─────────────────────────────────────────────────────────────────

const channel = life(loopPlan({ watchdog }));

channel("the branch is missing: up, status, doctor, an event name it; told again when it is there", async (f) => {
  await f.repository("builder", "adversary");
  await f.git("builder", "push", "-q", "origin", "main:master");
  await f.git("origin.git", "symbolic-ref", "HEAD", "refs/heads/master");
  await f.git("builder", "push", "-q", "origin", ":main");
  const up = await f.run(["up"], { env: { SSH_AUTH_SOCK: f.write("agent.1", "") } });
  expect(up.err).toContain("hand-off: origin has no branch main; it has master; set branch = \"master\" in [loop.handoff], or push main");
  expect(up.err.indexOf("hand-off: ")).toBeLessThan(up.err.indexOf("starting"));
  expect(up.code).toBe(0);
  await until(() => f.events("handoff").length);
  expect(f.events("handoff")).toEqual([expect.objectContaining({ from: "ok", to: "branch missing", why: expect.stringContaining("it has master") })]);
  const json = await f.run(["status", "--json"]);
  expect([json.code, JSON.parse(json.out)]).toEqual([3, expect.objectContaining({ version: 1, needsHuman: true, handoff: expect.objectContaining({ state: "branch missing", cure: expect.stringContaining("master") }) })]);
  const status = await f.run(["status"]);
  expect([status.code, status.out]).toEqual([3, expect.stringMatching(/hand-off: branch missing for \d+s: origin has no branch main; it has master {2}— set branch/)]);
  const doctor = await f.run(["doctor"]);
  expect([doctor.code, doctor.out]).toEqual([3, expect.stringMatching(/fail {2}handoff: origin has no branch main/)]);
  await f.push("builder", "claim(one): on main");
  await until(() => f.events("handoff").length === 2);
  expect(f.events("handoff").at(-1)).toMatchObject({ from: "branch missing", to: "ok" });
  const after = await f.run(["status", "--json"]);
  expect([after.code, JSON.parse(after.out).handoff.state]).toEqual([0, "ok"]);
  expect((await f.run(["doctor"])).out).toMatch(/ok {4}handoff: origin\/main at [0-9a-f]{8}/);
});

channel("the ssh agent of the login that ran up is gone: status says so, an up from a new login mends it", async (f) => {
  const events = f.events("handoff").length;
  const origin = f.path("origin.git");
  const ssh = f.write("ssh.sh", `#!/bin/sh\n[ -e "$SSH_AUTH_SOCK" ] || { echo 'x@host: Permission denied (publickey).' >&2; exit 255; }\nshift $(($# - 1))\neval "$1"\n`);
  chmodSync(ssh, 0o755);
  await f.git("watch", "config", "core.sshCommand", `sh '${ssh.replaceAll("'", "'\\''")}'`);
  await f.git("watch", "remote", "set-url", "origin", `ssh://x@host.invalid${origin}`);
  const sockets = [f.path("agent.1"), f.write("agent.2", "")];
  const pid = f.lock("watchdog");
  await f.push("builder", "claim(one): by the first agent");
  await until(() => f.submits("adversary").some((text) => text.includes("by the first agent")), 15_000);
  rmSync(sockets[0]!);
  await until(() => f.events("handoff").length > events);
  await until(() => JSON.parse(f.read(".agents/state/watch.json")).channel?.told); // stored after the event
  const status = await f.run(["status", "--json"]);
  expect([status.code, JSON.parse(status.out).handoff.why]).toEqual([3, expect.stringMatching(/the ssh agent .*agent\.1 is gone/)]);
  await f.run(["up"], { env: { SSH_AUTH_SOCK: sockets[1]! } });
  await f.push("builder", "claim(one): by the new agent");
  await until(() => f.submits("adversary").some((text) => text.includes("by the new agent")), 15_000);
  expect([f.lock("watchdog"), f.events("handoff").at(-1)]).toEqual([pid, expect.objectContaining({ to: "ok" })]);
});

channel("P16, fault 17: a remote that hangs stops nothing, and once it answers nothing is lost", async (f) => {
  const [heard, starts] = [hears(f, "adversary"), f.starts("builder").length];
  const ssh = await f.git("watch", "config", "core.sshCommand");
  await f.git("watch", "config", "core.sshCommand", "sleep 1000;:");
  await until(() => f.processes().some(({ command }) => command.includes("sleep 1000")), 8_000, 250);
  await f.push("builder", "claim(one): while it hangs");
  signal(await f.pid("builder"), "SIGKILL");
  await until(() => f.starts("builder").length === starts + 1);
  await f.ticks(3);
  expect(heard()).toEqual([]);
  await f.git("watch", "config", "core.sshCommand", ssh);
  await until(() => heard().length, 40_000);
  expect(f.log.match(/hand-off: no answer in time/g)).toHaveLength(1);
  expect(heard()).toEqual([expect.stringContaining("claim(one): while it hangs")]);
  await until(async () => !(await f.states()).messages.adversary); // and the watchdog knows it
});
