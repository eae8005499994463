/** The demo: a real fleet from an empty folder to the completed sequence, and nothing left after it. */
import { expect } from "bun:test";
import { chmodSync, existsSync } from "node:fs";
import { allowed, type Fleet, lives, real, spawn, until } from "./real.ts";
import { rounds } from "./sim.ts";

/** The fleet's own agents.toml is not used: the demo writes one. */
const plan = { agents: [{ name: "unused" }] };

/** No identity of git, as on a fresh machine. */
function bare(f: Fleet): void {
  for (const name of Object.keys(f.env)) if (name.startsWith("GIT_")) delete f.env[name];
}

/** What people have in their git: a key that must be unlocked, hooks that refuse, another name for a remote. */
function habits(f: Fleet): void {
  chmodSync(f.write("home/hooks/pre-commit", "#!/bin/sh\nexit 1\n"), 0o755);
  f.write("home/.gitconfig", `[commit]\ngpgSign = true\n[push]\ngpgSign = true\n[user]\nsigningKey = locked\n[clone]\ndefaultRemoteName = upstream\n[core]\nhooksPath = "${f.path("home/hooks")}"\n`);
}

const nothingRuns = (f: Fleet) => until(() => f.processes().every(({ pid }) => !lives(pid)), 3_000);

real("demo runs both phases to the end in under 60 s, exit 0, and leaves nothing running", plan, async (f) => {
  bare(f);
  habits(f);
  const began = performance.now();
  const ran = await f.run(["demo", f.path("de mo's")]);
  expect([ran.code, ran.err]).toEqual([0, expect.not.stringMatching(/ERROR|warning/)]);
  const took = performance.now() - began;
  expect(took).toBeLessThan(await allowed(60_000, took));
  expect(ran.out).toContain(", all done");
  expect(ran.err).not.toContain("did not complete");
  // the folder has blanks and a quote: what is printed to be typed is what a shell takes
  const [, words] = /^complete in \d+ s; the commits: (git -C .*watch'? log --oneline origin\/main)\n$/m.exec(ran.out)!;
  const log = (await spawn(["sh", "-c", `${words} --format=%s`], { env: f.env })).out.trimEnd();
  expect(log.split("\n").reverse()).toEqual(["Begin the demonstration", ...["one", "two"].flatMap((id) =>
    [`claim(${id}): work-${id}.txt is ready`, `review(${id}): PASS`, `status(${id}): done`])]);
  expect(await f.sessions()).toEqual([]);
  await nothingRuns(f);
});

real("demo: Ctrl-C while it is still being made leaves nothing running either", plan, async (f) => {
  bare(f);
  const demo = f.start(["demo", f.path("demo")]);
  await until(() => existsSync(f.path("demo", "agents.toml")), 8_000, 5);
  demo.kill("SIGINT");
  await until(() => demo.exitCode !== null || demo.signalCode !== null, 20_000);
  await nothingRuns(f);
});

// by hand one of the two, which one function hears
for (const name of rounds(["SIGINT", "SIGTERM"] as const, ["SIGTERM"] as const)) {
  real(`demo: ${name} in the middle ends it, exit 130, and nothing is left running`, plan, async (f) => {
    bare(f);
    const demo = f.start(["demo", f.path("demo")]);
    await until(() => existsSync(f.path("demo", ".agents", "state", "events.jsonl")) && f.read("demo/.agents/state/events.jsonl").includes("commit"), 30_000);
    demo.kill(name);
    await until(() => demo.exitCode !== null, 20_000);
    expect(demo.exitCode).toBe(130);
    await nothingRuns(f);
  });
}

real("demo --keep leaves it running and says how to look at it and how to end it", plan, async (f) => {
  bare(f);
  const ran = await f.run(["demo", f.path("demo"), "--keep"]);
  expect([ran.code, ran.out]).toEqual([0, expect.stringMatching(/^look at it .*: .* attach builder --config /m)]);
  expect(await f.sessions()).toHaveLength(3);
  const said = (what: string) => spawn(["sh", "-c", new RegExp(`^${what}: (.*)$`, "m").exec(ran.out)![1]!], { env: f.env });
  expect((await said("status")).out).toMatch(/ ● (\d+s ago|starting)\n/);
  expect((await said("end it")).code).toBe(0);
  await nothingRuns(f);
});

real("demo touches no folder that holds something: exit 2", plan, async (f) => {
  f.write("full/file", "mine");
  const ran = await f.run(["demo", f.path("full")]);
  expect([ran.code, ran.out, ran.err, f.read("full/file")]).toEqual([2, "", expect.stringContaining("is not empty"), "mine"]);
  expect(await f.sessions()).toEqual([]);
});
