/** A builder, an adversary and a real repository: hand-offs and phases, by the command line, on real tmux and git. */
import { expect } from "bun:test";
import { chmodSync, existsSync, rmSync } from "node:fs";
import { type Fleet, loopPlan, real, signal, until } from "./real.ts";

// ── hand-offs ───────────────────────────────────────────────────────────────────

const inboxes = { inboxes: ["TO-ADVERSARY.md", "TO-BUILDER.md"] };
const started = async (f: Fleet): Promise<void> => {
  await f.repository("builder", "adversary");
  await f.up();
  await f.ready("builder", "adversary");
  await until(() => JSON.parse(f.read(".agents/state/watch.json")).sha);
};

real("claims, reviews and inboxes reach their reader, once each, and nobody else", loopPlan({ handoff: inboxes }), async (f) => {
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

real("fault 52: a rewritten history: nothing repeated, nothing lost", loopPlan(), async (f) => {
  await started(f);
  await f.push("builder", "claim(one): first");
  await until(() => f.submits("adversary").length === 1);
  await f.git("builder", "reset", "-q", "--hard", "HEAD~1");
  await f.git("builder", "commit", "-q", "--allow-empty", "-m", "something below it");
  await f.git("builder", "cherry-pick", "--allow-empty", "origin/main");
  await f.git("builder", "commit", "-q", "--allow-empty", "-m", "claim(one): second");
  await f.git("builder", "push", "-q", "--force", "origin", "HEAD:main");
  await until(() => f.submits("adversary").length >= 2);
  await f.ticks(3);
  expect(f.submits("adversary")).toEqual([expect.stringContaining("claim(one): first"), expect.stringContaining("claim(one): second")]);
});

real("P16, fault 17: a remote that hangs stops nothing, and once it answers nothing is lost", loopPlan({
  env: { GIT_SSH_COMMAND: "sleep 1000;:" },
}), async (f) => {
  await started(f);
  const url = await f.git("watch", "remote", "get-url", "origin");
  await f.git("watch", "remote", "set-url", "origin", "git@nowhere.invalid:x.git");
  await until(() => f.processes().some(({ command }) => command.includes("sleep 1000")));
  await f.push("builder", "claim(one): while it hangs");
  signal(await f.pid("builder"), "SIGKILL");
  await until(() => f.starts("builder").length === 2);
  await f.ticks(3);
  expect(f.submits("adversary")).toEqual([]);
  await f.git("watch", "remote", "set-url", "origin", url);
  await until(() => f.submits("adversary").length, 40_000);
  expect(f.log.match(/hand-off: no answer in time/g)).toHaveLength(1);
  expect(f.submits("adversary")).toEqual([expect.stringContaining("claim(one): while it hangs")]);
});

real("P2, fault 8: a claim for an adversary that is down waits, and is there when it is back; one that was pushed while no watchdog ran is delivered (fault 7); a placeholder is not DONE (fault 21)", loopPlan(), async (f) => {
  await started(f);
  await f.run(["down", "adversary"]);
  await f.push("builder", "claim(one): to nobody");
  await until(() => f.log.includes("waiting: claim to adversary"));
  expect((await f.states()).messages.adversary).toBe(1);
  await f.up("adversary");
  await until(() => f.submits("adversary").length, 15_000);
  expect(f.submits("adversary")).toEqual([expect.stringContaining("claim(one): to nobody")]);

  await f.run(["down", "watchdog"]);
  await f.push("builder", "claim(one): in the night");
  await f.up("watchdog");
  await until(() => f.submits("adversary").length === 2);
  expect(f.submits("adversary")[1]).toContain("claim(one): in the night");

  await f.push("builder", "status", { "machine-docs/STATUS-one.md": "## DONE\n\n- [ ] not yet\n" });
  await f.push("builder", "claim(one): to see that it was read");
  await until(() => f.submits("adversary").length === 3);
  await f.ticks(4);
  expect(f.starts("builder")).toHaveLength(1);
});

// ── phases ──────────────────────────────────────────────────────────────────────

const DONE = { "machine-docs/STATUS-one.md": "# one\n\n## DONE\n\nAll gates pass, see REVIEW-one.md.\n" };

real("fault 20: DONE counts once it is pushed; then the loops start again, by the phase's own model; a claim that is pushed around the move is delivered (fault 63); without its trigger file nothing runs on completion", loopPlan({
  phase: { models: { builder: "the big one" } }, agents: [{ name: "a1", watch: "heal" }, { name: "upgrader", kind: "task", enabled: false }],
  loop: { on_complete: { run: "upgrader" } },
}), async (f) => {
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

real("fault 30: on completion the task runs once, where its trigger file stands; a new phase goes on", loopPlan({
  agents: [{ name: "upgrader", kind: "task", enabled: false, prompt: "upgrade" }],
  loop: { phases: [{ id: "one", plan: "one.md", status: "STATUS-one.md" }], on_complete: { trigger_file: "run-it", run: "upgrader" } },
}), async (f) => {
  await started(f);
  f.write(".agents/run-it", "");
  await f.push("builder", "status(one): done", DONE);
  await until(() => existsSync(f.path(".agents", "SEQUENCE-COMPLETE")), 15_000);
  await f.ready("upgrader");
  f.control("upgrader", "exit 0");
  expect(existsSync(f.path(".agents", "run-it"))).toBe(false);
  await f.ticks(4);
  expect([f.starts("upgrader").length, f.starts("builder").length]).toEqual([1, 1]);
  expect((await f.sessions()).filter((name) => /builder|adversary/.test(name))).toEqual([]);
  const status = await f.run(["status"]);
  expect([status.code, status.out]).toEqual([0, expect.stringContaining("sequence complete")]);
  const more = { ...f.plan.loop, phases: [...(f.plan.loop!.phases as never[]), { id: "two", plan: "two.md", status: "STATUS-two.md" }] };
  f.write("agents.toml", f.text({ ...f.plan, loop: more as never }));
  await until(() => f.starts("builder").length === 2 && f.starts("adversary").length === 2, 15_000);
  expect(existsSync(f.path(".agents", "SEQUENCE-COMPLETE"))).toBe(false);
  expect([f.starts("upgrader").length, f.starts("builder")[1]!.at(-1)]).toEqual([1, expect.stringContaining("two.md")]);
});

// ── the channel ─────────────────────────────────────────────────────────────────

real("the branch is missing: up, status, doctor, an event name it; told again when it is there", loopPlan(), async (f) => {
  await f.repository("builder", "adversary");
  await f.git("builder", "push", "-q", "origin", "main:master");
  await f.git("origin.git", "symbolic-ref", "HEAD", "refs/heads/master");
  await f.git("builder", "push", "-q", "origin", ":main");
  const up = await f.run(["up"]);
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

real("the ssh agent of the login that ran up is gone: status says so, an up from a new login mends it", loopPlan(), async (f) => {
  await f.repository("builder", "adversary");
  const origin = f.path("origin.git");
  const ssh = f.write("ssh.sh", `#!/bin/sh\n[ -e "$SSH_AUTH_SOCK" ] || { echo 'x@host: Permission denied (publickey).' >&2; exit 255; }\nshift $(($# - 1))\neval "$1"\n`);
  chmodSync(ssh, 0o755);
  await f.git("watch", "config", "core.sshCommand", `sh '${ssh.replaceAll("'", "'\\''")}'`);
  await f.git("watch", "remote", "set-url", "origin", `ssh://x@host.invalid${origin}`);
  const sockets = [f.write("agent.1", ""), f.write("agent.2", "")];
  await f.run(["up"], { env: { SSH_AUTH_SOCK: sockets[0]! } });
  await until(() => JSON.parse(f.read(".agents/state/watch.json")).channel?.state === "ok");
  const pid = f.lock("watchdog");
  rmSync(sockets[0]!);
  await until(() => f.events("handoff").length);
  await until(() => JSON.parse(f.read(".agents/state/watch.json")).channel?.told); // stored after the event
  const status = await f.run(["status", "--json"]);
  expect([status.code, JSON.parse(status.out).handoff.why]).toEqual([3, expect.stringMatching(/the ssh agent .*agent\.1 is gone/)]);
  await f.run(["up"], { env: { SSH_AUTH_SOCK: sockets[1]! } });
  await f.push("builder", "claim(one): by the new agent");
  await until(() => f.submits("adversary").length, 15_000);
  expect([f.lock("watchdog"), f.events("handoff").at(-1)]).toEqual([pid, expect.objectContaining({ to: "ok" })]);
});
