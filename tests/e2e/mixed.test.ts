/**
 * Loops of two different real clients on models of loopback: what each is told makes it run a script
 * of its clone, which commits what is its turn. Claim, review, DONE and the phase move are theirs.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { until } from "../real.ts";
import { findClient, Fleet, freePort, type Kind } from "./clients.ts";

/** Generous: two clients start twice each, and each of their turns takes seconds. */
const PATIENCE = 280_000;

/** Makes what the loop waits for from an agent: its clone says which phase it is, its folder its role. */
const ACT = `#!/bin/sh
git pull -q --rebase origin main
docs=machine-docs
for id in one two; do grep -qs '^## DONE' $docs/STATUS-$id.md || break; done
push() { git add -A && git commit -qm "$1" && git push -q origin HEAD:main && echo "pushed $1"; }
mkdir -p $docs
case $(basename "$PWD") in
builder)
  if grep -qs PASS $docs/REVIEW-$id.md; then
    printf '## DONE\\n\\nReviewed with PASS.\\n' >$docs/STATUS-$id.md; push "status($id): done"
  elif [ ! -e work-$id.txt ]; then
    echo "work of $id" >work-$id.txt; push "claim($id): work-$id.txt is ready"
  fi ;;
adversary)
  if [ -e work-$id.txt ] && [ ! -e $docs/REVIEW-$id.md ]; then
    echo PASS >$docs/REVIEW-$id.md; push "review($id): PASS"
  fi ;;
esac
echo "nothing is left"
`;

/** A text that any of the mocks answers with a call of the script. */
const acting = (text: string): string => `${text} [[act]] @@act\n`;

/** How a client becomes an agent of the loop that asks nobody: its table, and its keys. */
const TABLES: Record<Kind, (fleet: Fleet, program: string, name: string) => Promise<{ table: string; agent: string }>> = {
  codex: async (fleet, program, name) => {
    const home = fleet.codexHome(name, await fleet.startModel("codex-api.mjs"), join(fleet.dir, name));
    return { table: `flags = "-a never -s danger-full-access"\nbin = '''${fleet.codexBin(program)}'''`, agent: `env = { CLIENT_HOME = "${home}" }` };
  },
  claude: async (fleet, program, name) => {
    const port = await fleet.startModel("claude-api.mjs");
    return { table: `flags = "--permission-mode default --allowedTools Bash"\nbin = '''${fleet.claudeBin(program, port, "key")}'''`,
      agent: `env = { CLIENT_HOME = "${fleet.claudeHome(name, join(fleet.dir, name))}" }` };
  },
  gemini: async (fleet, program, name) => {
    const port = await fleet.startModel("gemini-api.mjs");
    return { table: `flags = "-m gemini-2.5-pro --approval-mode yolo"\nbin = '''${fleet.geminiBin(program, port)}'''`,
      agent: `env = { CLIENT_HOME = "${fleet.geminiHome(name, join(fleet.dir, name))}" }` };
  },
  opencode: async (fleet, program, name) => {
    const bin = fleet.opencodeBin(program, fleet.opencodeHome(await fleet.startModel("openai-api.mjs"), "m1"));
    const port = await freePort();
    const server = `http://127.0.0.1:${port}`;
    return { agent: 'model = "mock/m1"\nneeds = ["server"]',
      table: `server = "${server}"\nbin = '''${bin}'''\nconnect_delay = 60\n[[service]]\nname = "server"\ndir = "${name}"\n`
        + `ready = "${server}/global/health"\ncommand = '''exec ${bin} serve --hostname 127.0.0.1 --port ${port}'''` };
  },
};

/** A repository with the script, and a clone of it for each role and for the watchdog. */
function makeRepository(fleet: Fleet): void {
  const git = (at: string, ...words: string[]) => {
    const ran = Bun.spawnSync(["git", "-C", join(fleet.dir, at), ...words]);
    if (ran.exitCode !== 0) throw new Error(`git ${words.join(" ")}: ${ran.stderr}`);
  };
  mkdirSync(join(fleet.dir, "origin.git"));
  git("origin.git", "init", "-q", "--bare", "-b", "main");
  for (const clone of ["builder", "adversary", "watch"]) {
    git(".", "clone", "-q", "origin.git", clone);
    git(clone, "config", "user.name", clone);
    git(clone, "config", "user.email", `${clone}@example.invalid`);
    if (clone !== "builder") continue;
    fleet.file("builder/act.sh", ACT);
    git(clone, "checkout", "-q", "-B", "main");
    git(clone, "add", "-A");
    git(clone, "commit", "-qm", "Begin");
    git(clone, "push", "-q", "-u", "origin", "main");
  }
}

describe.each([{ builder: "codex", adversary: "claude" }, { builder: "gemini", adversary: "opencode" }] as const)("$builder builds, $adversary reviews", (roles) => {
  const programs = { builder: findClient(roles.builder), adversary: findClient(roles.adversary) };
  const ready = Boolean(programs.builder && programs.adversary);
  const real = (name: string, body: () => Promise<void>) => test.skipIf(!ready)(name, body, PATIENCE);
  const fleet = new Fleet();
  const subjects = () => String(Bun.spawnSync(["git", "-C", join(fleet.dir, "origin.git"), "log", "--reverse", "--format=%s", "main"]).stdout).trim().split("\n");

  beforeAll(async () => {
    if (!ready) return;
    makeRepository(fleet);
    for (const [name, text] of Object.entries({ boot: "read {kickoff}", builder: "Builder of {phase.id}.", adversary: "Adversary of {phase.id}.",
      "claim-ping": "{from} pushed {subject}: review it.", "review-ping": "{from} pushed {subject}: read it." })) fleet.file(`prompts/${name}.md`, acting(text));
    fleet.file("prompts/preamble.md", "Phase {phase.id}.\n");
    for (const phase of ["one", "two"]) fleet.file(`${phase}.md`, `Make work-${phase}.txt.\n`);
    const tables: string[] = [];
    for (const role of ["builder", "adversary"] as const) {
      const { table, agent } = await TABLES[roles[role]](fleet, programs[role], role);
      tables.push(`[[agent]]\nname = "${role}"\nkind = "loop"\nrole = "${role}"\ndir = "${role}"\nbackend = "${roles[role]}"\nwatch = "heal"\n${agent}\n`,
        `[backend.${roles[role]}]\n${table}\n`);
    }
    fleet.file("agents.toml", ["[watchdog]\nsignal_interval = 2\nheavy_interval = 4\nup_wait = 60", ...tables,
      '[loop]\nphases = [\n  { id = "one", plan = "one.md", status = "STATUS-one.md" },\n  { id = "two", plan = "two.md", status = "STATUS-two.md" },\n]',
      '[loop.handoff]\nrepo = "watch"\n'].join("\n"));
    expect(await fleet.run(["up"])).toMatchObject({ code: 0 });
  }, PATIENCE);
  afterAll(() => fleet.end(), PATIENCE);

  real("both phases go from claim to review to done, in this order, and the sequence is complete", async () => {
    await until(() => fleet.events().some(({ event }) => event === "complete"), PATIENCE - 10_000, 500);
    expect(subjects()).toEqual(["Begin", ...["one", "two"].flatMap((id) => [`claim(${id}): work-${id}.txt is ready`, `review(${id}): PASS`, `status(${id}): done`])]);
  });

  real("each hand-off came to its agent's model, once", async () => {
    for (const id of ["one", "two"]) for (const subject of [`claim(${id}): work-${id}.txt is ready`, `review(${id}): PASS`]) {
      expect([subject, fleet.times(`pushed ${subject}:`)]).toEqual([subject, 1]);
    }
  });

  real("down leaves nothing behind", async () => {
    expect(await fleet.run(["down"])).toMatchObject({ code: 0 });
    expect(fleet.running()).toEqual([]);
  });
});
