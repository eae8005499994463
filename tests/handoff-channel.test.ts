/** The hand-off channel on real git: what keeps it from working is seen and told, what was pushed is told, to the last one. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, statSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Channel, type Config, decideChannel, decideHandoff, type Fetched, type Handoff, isRefName, notePhaseDone, plainText, showPushed, type Watch, world } from "../agents.ts";
import { GIT_ENV } from "./git.ts";
import { command, FLEET, type FakeWorld, fakeWorld, realFolder } from "./kit.ts";
import { SCRATCH } from "./scratch.ts";
import { SELF } from "./program.ts";
import { until } from "./wait.ts";

// dozens of real gits each, on a machine that may have other work
setDefaultTimeout(60_000);
const { git: REAL_GIT, folder: REAL_FOLDER } = world;

/** git in a folder, as an agent calls it. */
function gitIn(folder: string, ...args: string[]): string {
  if (folder === dir) at();
  const ran = Bun.spawnSync(["git", "-C", folder, ...args], { env: { ...process.env, ...GIT_ENV, ...dated } });
  if (ran.exitCode !== 0) throw new Error(`git ${args.join(" ")}: ${ran.stderr}`);
  return ran.stdout.toString().trim();
}
/** One author time for all commits that are made until it is changed. */
let dated: Record<string, string> = {};

/** Made once: a bare origin with a builder's clone, and the same with a first commit and the watchdog's clone. */
const MADE = mkdtempSync(join(SCRATCH, "channel "));
beforeAll(() => {
  [dir, isCopied] = [join(MADE, "empty"), true];
  mkdirSync(dir);
  gitIn(dir, "init", "-q", "--bare", "-b", "main", "origin.git");
  gitIn(dir, "clone", "-q", "origin.git", "builder");
  gitIn(at("builder"), "checkout", "-q", "-B", "main");
  share();
  copy("empty", dir = join(MADE, "begun"));
  commit("Begin", { "README.md": "read me\n", "machine-docs/README.md": "read me\n" });
  push();
  clone();
});
afterAll(() => rmSync(MADE, { recursive: true, force: true }));
function copy(what: "empty" | "begun", to = dir): void {
  isCopied = true;
  const from = join(MADE, what);
  cpSync(from, to, { recursive: true, verbatimSymlinks: true });
  for (const clone of ["builder", "watch"].map((name) => join(to, name, ".git", "config")).filter((path) => existsSync(path))) {
    writeFileSync(clone, readFileSync(clone, "utf8").replace(from, to));
  }
}

let dir: string;
/** Whether the repositories are there: copied for the first that asks for a path of theirs. */
let isCopied = false;
let fake: FakeWorld;
let cfg: Config;
let watch: Watch;
let env: Record<string, string | undefined>;
beforeEach(async () => {
  env = { ...process.env };
  process.env.GIT_SSH_COMMAND = "ssh"; // chosen: it need not be asked for in each clone
  dated = {};
  [dir, isCopied] = [mkdtempSync(join(SCRATCH, "channel ")), false];
  fake = fakeWorld(realFolder());
  world.git = (repo, args, more) => {
    commands.push(args[0]!);
    return args[0] === "fetch" ? REAL_GIT(repo, args, more) : askOnce(repo, args, more);
  };
  const mtime = world.mtime;
  world.mtime = (path) => (path.startsWith(dir) ? (existsSync(path) ? lockTime(path) : null) : mtime(path));
  await configure();
});
afterEach(() => {
  fake.restore();
  for (const name of Object.keys(process.env)) if (!(name in env)) delete process.env[name];
  Object.assign(process.env, env);
  rmSync(dir, { recursive: true, force: true });
});
const commands: string[] = [];
/** The files of a repository, with what is in them; an object's name says that, and its size whether it is whole. */
const filesOf = (repo: string): string[] =>
  (existsSync(repo) ? readdirSync(repo, { recursive: true, withFileTypes: true }) : []).filter((one) => one.isFile()).map((one) => {
    const path = join(one.parentPath, one.name);
    const { mode, size } = statSync(path);
    return `${path} ${mode} ${path.includes("/objects/") ? size : readFileSync(path, "latin1")}`;
  });
/** What git said of repositories with such files, wherever they were: of these it says the same, and is not asked again. */
const said = new Map<string, Promise<string>>();
const askOnce: typeof REAL_GIT = async (repo, args, more) => {
  const clone = filesOf(repo);
  const files = args[0] !== "ls-remote" ? clone : [
    ...clone.filter((file) => !/^[^ ]* [^ ]*\/(objects|refs)\//.test(file)), // its remote answers
    ...readdirSync(dir).filter((name) => name.endsWith(".git")).flatMap((name) => filesOf(join(dir, name)))];
  const asked = JSON.stringify([repo, args, more, files]).replaceAll(dir, "");
  const answer = await said.getOrInsertComputed(asked, async () => JSON.stringify(await REAL_GIT(repo, args, more)).replaceAll(dir, "<dir>"));
  return JSON.parse(answer.replaceAll("<dir>", dir));
};
const fail = (message: string): never => {
  throw new Error(message);
};
/** How long ago, on the fake clock, a file of the clone was written: an hour, or just now for `fresh`. */
const fresh = new Set<string>();
const lockTime = (path: string): number => fake.wall - (fresh.has(path) ? 0 : 3_600_000);
function at(...names: string[]): string {
  if (!isCopied) copy("empty");
  return join(dir, ...names);
}
const configure = async (edit = (text: string) => text): Promise<void> => {
  cfg = await fake.config(edit(FLEET.replace('repo = "project"', `repo = ${JSON.stringify(join(dir, "watch"))}`)));
  watch = await fake.watch(cfg);
};
const clone = (...options: string[]): void => void gitIn(dir, "clone", "-q", "--no-hardlinks", ...options, "origin.git", "watch");
const commit = (subject: string, files: Record<string, string> = {}): void => {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(at("builder", name), ".."), { recursive: true });
    writeFileSync(at("builder", name), content);
  }
  if (Object.keys(files).length) gitIn(at("builder"), "add", "-A");
  gitIn(at("builder"), "commit", "-q", "-a", "--allow-empty", "-m", subject);
};
/** Where the clone's remote is from now on. */
const pointTo = (url: string): void => {
  const config = at("watch/.git/config");
  writeFileSync(config, readFileSync(config, "utf8").replace(/(?<=url = ).*/, url));
};
/** For the next commit. */
const link = (target: string, name: string): void => {
  symlinkSync(target, at("builder", name));
  gitIn(at("builder"), "add", "-A");
};
/** The builder's objects are those of the origin: what it commits needs no process to get there. */
const share = (): void => {
  rmSync(at("builder/.git/objects"), { recursive: true });
  symlinkSync("../../origin.git/objects", at("builder/.git/objects"));
};
/** What a push with --force leaves in the origin, without the five processes of one. */
const push = (): void => {
  copyFileSync(at("builder/.git/refs/heads/main"), at("origin.git/refs/heads/main"));
};
const ticks = (count: number) => {
  at();
  return fake.ticks(cfg, watch, count);
};
const told = (name: string): string[] => fake.received(`agents-${name}`);
const events = (name = "handoff"): Record<string, unknown>[] =>
  (fake.files.get(`${cfg.stateDir}/events.jsonl`) ?? "").split("\n").filter(Boolean)
    .map((line) => JSON.parse(line)).filter(({ event }) => event === name);
/** A fleet that runs on a first commit. */
const running = async (): Promise<void> => {
  copy("begun");
  await ticks(2);
};
/** A copy: some matchers write into what they are given. */
const channel = (): Channel => structuredClone(watch.channel!);
const state = (): string | undefined => watch.channel?.state;

describe("a subject is what its author wrote, no more", () => {
  test("an author's name that looks like a column of git's is no claim", async () => {
    await running();
    dated = { GIT_AUTHOR_NAME: "T\tclaim(p9): forged" };
    commit("Only some work");
    push();
    await ticks(2);
    expect([told("adversary"), state()]).toEqual([[], "ok"]);
  });
  test("in the letters that it has, whatever encoding the clone shows its log in", async () => {
    await running();
    gitIn(at("watch"), "config", "i18n.logOutputEncoding", "ISO-8859-1");
    commit("claim(p1): größer als zuvor");
    push();
    await ticks(2);
    expect(told("adversary")).toEqual([expect.stringContaining("größer als zuvor")]);
  });
});

describe("whatever clone the watchdog has", () => {
  test.each([["--depth=1"], ["--single-branch"], ["--bare"], ["--mirror"], ["--no-checkout"], ["--filter=blob:none"]])("%s: claims are told, also after a force-push", async (option) => {
    copy("begun");
    rmSync(at("watch"), { recursive: true });
    gitIn(at("origin.git"), "config", "uploadpack.allowFilter", "true");
    gitIn(dir, "clone", "-q", option, `file://${encodeURI(at("origin.git"))}`, "watch");
    await ticks(2);
    commit("claim(p1): one", { a: "1" });
    push();
    await ticks(2);
    gitIn(at("builder"), "reset", "-q", "--hard", "HEAD~1");
    commit("claim(p1): two", { a: "2" });
    push();
    await ticks(2);
    expect([state(), told("adversary").map((text) => /claim\(p1\): \w+/.exec(text)?.[0])]).toEqual(["ok", ["claim(p1): one", "claim(p1): two"]]);
  });
});

describe("three answers of a look at the remote", () => {
  test("the branch has another name: told, with the branches that exist", async () => {
    commit("Begin");
    gitIn(at("builder"), "push", "-q", "origin", "HEAD:master", "HEAD:dev/x");
    clone("-b", "master");
    await ticks(3);
    expect(channel()).toMatchObject({ state: "branch missing", told: true, cure: expect.stringContaining("or push main") });
    expect(watch.channel!.why).toMatch(/^origin has no branch main; it has .*master/);
    expect(events()).toEqual([expect.objectContaining({ from: "ok", to: "branch missing", why: expect.stringContaining("no branch main") })]);
    push();
    await ticks(2);
    expect([state(), events().at(-1)]).toEqual(["ok", expect.objectContaining({ from: "branch missing", to: "ok" })]);
    expect(fake.logged("hand-off: origin has no branch")).toHaveLength(1);
  });

  test("a new repository: no trouble, and the first push of all is told", async () => {
    clone();
    await ticks(5);
    expect([state(), watch.channel!.why, events(), fake.logged(/ERROR|hand-off/)]).toEqual(["empty", "origin has no branch yet; the first push of main makes it", [], []]);
    commit("Begin");
    commit("claim(p1): G1");
    push();
    await ticks(2);
    expect([state(), told("adversary").length]).toEqual(["ok", 1]);
  });

  test("a branch that was there and is deleted is missing, also where it was the only one", async () => {
    await running();
    gitIn(at("builder"), "push", "-q", "origin", "HEAD:other");
    gitIn(at("origin.git"), "update-ref", "-d", "refs/heads/main");
    await ticks(3);
    expect([state(), events().length]).toEqual(["branch missing", 1]);
    gitIn(at("origin.git"), "update-ref", "-d", "refs/heads/other");
    await ticks(2);
    expect([state(), watch.channel!.why]).toEqual(["branch missing", "origin has no branch main"]);
  });

  test("a name that begins with a colon is no pattern", async () => {
    await running();
    commit("files", { ":a.md": "at the root", "machine-docs/:b.md": "in the docs folder" });
    push();
    await ticks(2);
    const shown = await showPushed(cfg.loop.handoff!, ":a.md", ":b.md", ":c.md");
    expect([...shown].map(([name, { state }]) => [name, state])).toEqual([[":a.md", "found"], [":b.md", "found"], [":c.md", "absent"]]);
  });

  test("a ref that ends alike is not the branch", async () => {
    await running();
    gitIn(at("builder"), "push", "-q", "origin", "HEAD:refs/backup/refs/heads/main");
    commit("claim(p1): G1");
    push();
    await ticks(2);
    expect(told("adversary")).toHaveLength(1);
    gitIn(at("origin.git"), "update-ref", "-d", "refs/heads/main");
    await ticks(2);
    expect(state()).toBe("branch missing");
  });

  test("a local branch or tag named like the remote's hides nothing", async () => {
    await running();
    gitIn(at("watch"), "branch", "origin/main");
    gitIn(at("watch"), "tag", "origin/main");
    commit("status(p1): done", { "machine-docs/STATUS-p1.md": "## DONE\n\nAll PASS.\n", "machine-docs/BUILDER-INBOX.md": "hello" });
    push();
    await ticks(2);
    expect([await showPushed(cfg.loop.handoff!, "STATUS-p1.md").then((shown) => [...shown.values()].map(({ state }) => state)), told("builder").length]).toEqual([["found"], 1]);
  });
});

describe("what keeps git from answering is told with its cure, within three ticks, and that it is over", () => {
  const cases: [string, () => void | Promise<void>, RegExp, RegExp, () => void][] = [
    ["the remote is gone", () => pointTo(at("nowhere.git")), /nowhere\.git/, /remote get-url origin/,
      () => pointTo(at("origin.git"))],
    ["the remote refuses", () => {
      world.git = REAL_GIT; // a server is no file of a repository
      pointTo("http://127.0.0.1:1/x.git");
    }, /127\.0\.0\.1.*(refused|Failed to connect)/, /run it yourself/,
      () => pointTo(at("origin.git"))],
    ["the clone is gone", () => rmSync(at("watch"), { recursive: true }), /cannot change to/, /clone the repository to .*watch/, () => clone()],
    ["the clone is none", () => rmSync(at("watch", ".git"), { recursive: true }), /not a git repository/, /clone the repository to .*watch/,
      () => (rmSync(at("watch"), { recursive: true }), clone())],
    ["the clone's HEAD is damaged", () => writeFileSync(at("watch", ".git", "HEAD"), "garbage"), /not a git repository/, /clone the repository to .*watch/,
      () => (rmSync(at("watch"), { recursive: true }), clone())],
    ["the clone has no such remote", () => gitIn(at("watch"), "remote", "rename", "origin", "upstream"), /'origin' does not appear/, /remote get-url origin/,
      () => gitIn(at("watch"), "remote", "rename", "upstream", "origin")],
    ["an inbox is a link out of the branch", () => {
      commit("docs", { "machine-docs/README.md": "" });
      link("/etc/passwd", "machine-docs/BUILDER-INBOX.md");
      commit("a link");
      push();
    }, /BUILDER-INBOX\.md is a symlink/, /commit the file itself/, () => rmSync(at("builder/machine-docs/BUILDER-INBOX.md"))],
    ["the head's commit is damaged", () => {
      const sha = gitIn(at("watch"), "rev-parse", "refs/remotes/origin/main");
      const path = at("watch", ".git/objects", sha.slice(0, 2), sha.slice(2));
      chmodSync(path, 0o644);
      truncateSync(path, 0);
    }, /empty|bad object|corrupt/, /move .*watch.* away and clone it again/, () => (rmSync(at("watch"), { recursive: true }), clone())],
  ];
  test.each(cases)("%s", async (_, harm, why, cure, mend) => {
    await running();
    await harm();
    await ticks(3);
    expect(channel()).toMatchObject({ state: "failing", told: true, why: expect.stringMatching(why), cure: expect.stringMatching(cure) });
    expect(events()).toEqual([expect.objectContaining({ from: "ok", to: "failing", why: expect.stringMatching(why) })]);
    await ticks(8);
    expect([events().length, fake.logged("hand-off: ")]).toEqual([1, [expect.stringMatching(cure)]]);
    mend();
    commit("claim(p1): after it");
    push();
    await ticks(4);
    expect([state(), events().length, events().at(-1)!.to, told("adversary").length]).toEqual(["ok", 2, "ok", 1]);
  });

  // git itself decides by the owner: root can be none of another user's folder here
  test.each([
    ["the clone", "rev-parse", "watch"], ["the remote", "ls-remote", "origin.git"],
  ])("a folder of another user's is named with its cure: %s", async (_, command, folder) => {
    await running();
    const { git } = world;
    const owned = `fatal: detected dubious ownership in repository at '${at(folder)}'\n`
      + `To add an exception for this directory, call:\n\n\tgit config …\n`;
    const unknown = "fatal: 'origin' does not appear to be a git repository\n";
    world.git = async (repo, args, more) => (args[0] === command || args[0] === "ls-remote"
      ? { ok: false, out: "", err: args[0] === command ? owned : unknown, timedOut: false } : git(repo, args, more));
    await ticks(3);
    expect(channel()).toMatchObject({ state: "failing", why: `detected dubious ownership in repository at '${at(folder)}'`,
      cure: `git config --global --add safe.directory '${at(folder)}'` });
  });

  test.each([
    ["error: insufficient permission for adding an object to repository database .git/objects", /let .* write to .*watch/],
    ["error: cannot lock ref 'refs/remotes/origin/main': Unable to create '/w/.git/refs/remotes/origin/main.lock': Permission denied", /let .* write to .*watch/],
    ["error: cannot update the ref: unable to create directory for '.git/refs/x': Read-only file system", /let .* write to .*watch/],
    ["git@host: Permission denied (publickey).\nfatal: Could not read from remote repository.", /ssh-add -l/],
    ["T@host: Permission denied, please try again.", /ssh-add -l/],
  ])("who may not write is no matter of keys: %s", async (err, cure) => {
    await running();
    commit("claim(p1): one");
    push();
    const { git } = world;
    world.git = async (repo, args, more) => (args[0] === "fetch" ? { ok: false, out: "", err, timedOut: false } : git(repo, args, more));
    await ticks(3);
    expect(channel()).toMatchObject({ state: "failing", cure: expect.stringMatching(cure), why: expect.not.stringMatching(/\.(?:;|$)/) });
  });

  test("once all phases are done nobody looks at it, and nothing is said of how it was", async () => {
    await running();
    pointTo(at("nowhere.git"));
    await ticks(3);
    expect(watch.channel).toMatchObject({ state: "failing", told: true });
    fake.write(join(cfg.logDir, "SEQUENCE-COMPLETE"), "done");
    await ticks(2);
    expect([watch.channel, fake.logged("hand-off: ").length, watch.volatile.errors]).toEqual([null, 1, {}]);
    fake.files.delete(join(cfg.logDir, "SEQUENCE-COMPLETE"));
    await ticks(3);
    expect([watch.channel!.told, events().length]).toEqual([true, 2]);
  });

  test("one bad look wakes nobody", async () => {
    await running();
    pointTo(at("nowhere.git"));
    await ticks(1);
    pointTo(at("origin.git"));
    await ticks(5);
    expect([state(), events()]).toEqual(["ok", []]);
  });

  test.each(["refs/remotes/origin/main.lock", "packed-refs.lock", "shallow.lock"])("%s that a killed git left: named, never removed", async (lock) => {
    await running();
    fake.stat(1, 1);
    const path = at("watch/.git", lock);
    writeFileSync(path, "");
    await ticks(3);
    expect(channel()).toMatchObject({ state: "failing", told: true, cure: `rm '${path}'` });
    expect(existsSync(path)).toBe(true);
    rmSync(path);
    await ticks(2);
    expect([state(), events().map(({ to }) => to)]).toEqual(["ok", ["failing", "ok"]]);
  });

  test("a lock of a git that is at work now is no trouble, until it blocks a fetch twice", async () => {
    await running();
    const path = at("watch/.git/refs/remotes/origin/main.lock");
    fresh.add(path);
    writeFileSync(path, "");
    await ticks(3);
    expect(state()).toBe("ok");
    commit("claim(p1): G1");
    push();
    await ticks(3);
    expect([state(), watch.channel!.cure]).toEqual(["failing", `if no git is running there: rm '${path}'`]);
    rmSync(path);
    await ticks(3);
    expect([state(), told("adversary").length]).toEqual(["ok", 1]);
  });

  test("a lock of a git that a hook or an editor keeps at work is no trouble, however old it is", async () => {
    await running();
    const path = at("watch/.git/packed-refs.lock");
    writeFileSync(path, "");
    const git = Bun.spawn(["git", "-C", at("watch"), "cat-file", "--batch"], { stdin: "pipe", stdout: "ignore" });
    fake.files.set(`/proc/${git.pid}/cmdline`, "git\0-C\0watch\0cat-file\0--batch\0");
    const { folder } = world;
    world.folder = (pid) => (pid === git.pid ? REAL_FOLDER : folder)(pid);
    await until(() => realpathSync(`/proc/${git.pid}/cwd`) === realpathSync(at("watch")));
    await ticks(3);
    expect([state(), events()]).toEqual(["ok", []]);
    git.kill();
    await git.exited;
    fake.files.delete(`/proc/${git.pid}/cmdline`);
    fake.stat(1, 1);
    await ticks(3);
    expect(channel()).toMatchObject({ state: "failing", told: true, cure: `rm '${path}'` });
  });

  test.each<[string, () => void]>([
    ["the system does not say what runs (macOS)", () => {}],
    ["a git of another user runs, nobody sees where", () => void fake.files.set("/proc/7/cmdline", "git\0gc\0")],
  ])("where %s no lock is called dead for sure", async (_, arrange) => {
    await running();
    arrange();
    const path = at("watch/.git/packed-refs.lock");
    writeFileSync(path, "");
    await ticks(3);
    expect(channel()).toMatchObject({ state: "failing", cure: `if no git is running there: rm '${path}'` });
  });

  test("an index.lock is in the way of no fetch", async () => {
    await running();
    fake.stat(1, 1);
    writeFileSync(at("watch/.git/index.lock"), "");
    commit("claim(p1): one");
    push();
    await ticks(3);
    expect([state(), told("adversary").length]).toEqual(["ok", 1]);
  });

  test.each([["file", "machine-docs/STATUS-p1.md"], ["folder", "machine-docs"]])("a pushed %s that cannot be read: not done, and told", async (_, name) => {
    await running();
    commit("status(p1): done", { "machine-docs/STATUS-p1.md": "## DONE\n\nAll PASS.\n" });
    push();
    await ticks(2);
    const object = gitIn(at("watch"), "rev-parse", `refs/remotes/origin/main:${name}`);
    rmSync(at("watch/.git/objects", object.slice(0, 2), object.slice(2)));
    expect(await notePhaseDone(cfg, watch, "STATUS-p1.md")).toBeNull();
    await ticks(3);
    expect([state(), watch.channel!.cure]).toEqual(["failing", expect.stringContaining("clone it again")]);
  });

  test("it is remembered over a restart, and told once", async () => {
    await running();
    pointTo(at("nowhere.git"));
    await ticks(3);
    const before = watch.channel;
    watch = await fake.watch(cfg);
    expect(watch.channel).toEqual(before);
    await ticks(4);
    expect(events()).toHaveLength(1);
  });
});

describe("decideChannel", () => {
  const look = (some: Partial<Fetched>): Fetched => ({ state: "ok", why: "", cure: "", hung: false, head: "", hand: {} as Handoff, ...some });
  const bad = look({ state: "failing", why: "port 1 refused" });
  const was = (some: Partial<Channel>): Channel => ({ state: "failing", why: "port 1 refused", cure: "", since: 1, told: false, ...some });
  test.each<[string, Channel | null, Partial<Fetched>, Partial<Channel>]>([
    ["the first look is good", null, {}, { state: "ok", since: 9 }],
    ["it stays good", was({ state: "ok" }), {}, { state: "ok", since: 1 }],
    ["a first bad look", was({ state: "ok" }), bad, { since: 9, told: false }],
    ["a second", was({}), bad, { since: 1, told: true }],
    ["a first that hung", null, { ...bad, hung: true }, { since: 9, told: true }],
    ["only a number differs", was({}), { ...bad, why: "port 2 refused" }, { why: "port 1 refused" }],
    ["another reason", was({}), { ...bad, why: "no route" }, { why: "no route", since: 1, told: true }],
    ["it is valid again", was({ told: true }), {}, { state: "ok", since: 9, told: false }],
  ])("%s", (_, before, found, wanted) => expect(decideChannel(before, look(found), 9)).toMatchObject(wanted));
});

describe("the clone's own way to its remote", () => {
  /** An ssh that says which one it is, and what it was given. */
  const ssh = (name: string): string => {
    writeFileSync(at(name), `#!/bin/sh\necho "${name} $* sock=$SSH_AUTH_SOCK" >> '${at("calls")}'\nexit 255\n`, { mode: 0o755 });
    return at(name);
  };
  const calls = (): string => (existsSync(at("calls")) ? readFileSync(at("calls"), "utf8") : "");
  beforeEach(() => {
    for (const name of ["GIT_SSH", "GIT_SSH_COMMAND", "SSH_AUTH_SOCK"]) delete process.env[name];
    world.git = REAL_GIT; // an ssh or a server is no file of a repository
    copy("begun");
    pointTo("ssh://nobody@host.invalid/x");
    process.env.PATH = `${dir}:${process.env.PATH}`;
    ssh("ssh");
  });
  const quoted = (path: string): string => `'${path}'`;

  test("nobody chose: an ssh that never asks", async () => {
    await ticks(2);
    expect(calls()).toMatch(/^ssh -oBatchMode=yes -oConnectTimeout=10 .*host\.invalid/);
  });
  test.each<[string, () => unknown]>([
    ["core.sshCommand", () => gitIn(at("watch"), "config", "core.sshCommand", quoted(ssh("own")))],
    ["GIT_SSH", () => (process.env.GIT_SSH = ssh("own"))],
    ["GIT_SSH_COMMAND", () => (process.env.GIT_SSH_COMMAND = quoted(ssh("own")))],
  ])("%s stays in force", async (_, choose) => {
    choose();
    await ticks(2);
    expect(calls()).toStartWith("own ");
    expect(calls()).not.toContain("BatchMode");
  });
  test("an ssh that is chosen while the remote fails is used at the next look", async () => {
    await ticks(2);
    gitIn(at("watch"), "config", "core.sshCommand", quoted(ssh("own")));
    writeFileSync(at("calls"), "");
    await ticks(2);
    expect(calls()).toContain("own ");
  });
  test("core.askPass is asked, an askpass of the login is not", async () => {
    for (const name of ["ask", "gui"]) writeFileSync(at(name), `#!/bin/sh\necho ${name} >> '${at("calls")}'\necho x\n`, { mode: 0o755 });
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1",
      fetch: () => new Response("", { status: 401, headers: { "www-authenticate": 'Basic realm="x"' } }) });
    process.env.GIT_ASKPASS = process.env.SSH_ASKPASS = at("gui");
    pointTo(`http://127.0.0.1:${server.port}/x.git`);
    await ticks(2);
    expect([calls(), watch.channel!.cure]).toEqual(["", expect.stringContaining("credential helper")]);
    gitIn(at("watch"), "config", "core.askPass", at("ask"));
    await ticks(2);
    await server.stop(true);
    expect(new Set(calls().split("\n").filter(Boolean))).toEqual(new Set(["ask"]));
  });
  test("an ssh agent that is gone is named; the one that up leaves is used", async () => {
    process.env.SSH_AUTH_SOCK = at("agent.1");
    await ticks(3);
    expect(channel()).toMatchObject({ state: "failing", told: true, why: expect.stringContaining(`the ssh agent ${at("agent.1")} is gone`), cure: expect.stringContaining('run "agents up" from a login') });
    writeFileSync(at("agent.2"), "");
    fake.files.set(`${cfg.stateDir}/ssh-auth-sock`, at("agent.2"));
    await ticks(2);
    expect(calls().trim().split("\n").at(-1)).toEndWith(`sock=${at("agent.2")}`);
    expect(watch.channel!.why).not.toContain("is gone");
  });
  test("what stands in the place of the ssh agent's file does not silence the channel", async () => {
    const { read } = world;
    world.read = (path) => (path.endsWith("ssh-auth-sock") ? fail(`${path} is a folder`) : read(path));
    pointTo(at("nowhere.git"));
    await ticks(3);
    expect(channel()).toMatchObject({ state: "failing", told: true, why: expect.stringContaining("nowhere.git") });
  });
  test("a fetch that is never done in time is named with the one to do by hand: the look at the remote works", async () => {
    pointTo(at("origin.git"));
    const { git } = world;
    world.git = async (repo, args, more) => (args[0] === "fetch" ? { ok: false, out: "", err: "", timedOut: true } : git(repo, args, more));
    commit("claim(p1): huge");
    push();
    await ticks(3);
    expect(channel()).toMatchObject({ state: "failing", told: true, cure: `run it yourself: git -C '${at("watch")}' fetch origin` });
  });
  test("no hook and no fsmonitor of the clone runs", async () => {
    pointTo(at("origin.git"));
    const trap = `#!/bin/sh\necho ran >> '${at("trap")}'\n`;
    mkdirSync(at("watch/.git/hooks"));
    for (const hook of ["reference-transaction", "post-checkout", "pre-auto-gc", "fsmonitor-watchman"]) {
      writeFileSync(at("watch/.git/hooks", hook), trap, { mode: 0o755 });
    }
    gitIn(at("watch"), "config", "core.fsmonitor", at("watch/.git/hooks/fsmonitor-watchman"));
    commit("claim(p1): G1", { "machine-docs/BUILDER-INBOX.md": "x" });
    push();
    await ticks(3);
    expect([state(), existsSync(at("trap"))]).toEqual(["ok", false]);
  });
});

describe("every claim and every review is told", () => {
  test("several of one push: one text names each, one event each with its commit", async () => {
    await running();
    for (const subject of ["claim(p1): G1", "fix: x", "claim(p1): G2", "review(p1): PASS", "claim(p1): G3"]) commit(subject);
    push();
    await ticks(2);
    expect(told("adversary")).toEqual([expect.stringContaining("builder pushed 3 claims, each to be answered: claim(p1): G1; claim(p1): G2; claim(p1): G3. Pull")]);
    expect(told("builder")).toEqual([expect.stringContaining("adversary pushed review(p1): PASS. Pull")]);
    expect(events("commit").map(({ kind, subject, sha }) => [kind, subject, String(sha).length])).toEqual([
      ["claim", "claim(p1): G1", 40], ["claim", "claim(p1): G2", 40], ["review", "review(p1): PASS", 40], ["claim", "claim(p1): G3", 40]]);
    expect(events("commit")[3]!.sha).toBe(gitIn(at("builder"), "rev-parse", "HEAD"));
    expect(watch.turn).toMatchObject({ owes: "adversary", subject: "claim(p1): G3" });
  });
  test("of many the newest ten are named, the others counted", async () => {
    await running();
    for (let nth = 1; nth <= 13; nth++) commit(`claim(p1): G${nth}.`);
    push();
    await ticks(2);
    expect(told("adversary")[0]).toContain("13 claims");
    expect(told("adversary")[0]!.match(/G\d+\./g)).toHaveLength(10);
    expect(told("adversary")[0]).toContain("claim(p1): G13.; and 3 more before them. Pull");
    expect(events("commit")).toHaveLength(13);
  });
  test("those of a later push join what still waits to be told", async () => {
    await running();
    fake.tmux.of("agents-adversary").doing = "dialog";
    for (const nth of [1, 2]) {
      commit(`claim(p1): G${nth}`);
      push();
      await ticks(2);
    }
    fake.tmux.of("agents-adversary").doing = "busy";
    await ticks(2);
    expect(told("adversary")).toEqual([expect.stringContaining("2 claims, each to be answered: claim(p1): G1; claim(p1): G2.")]);
  });
  test("a text that an older version queued is not replaced", async () => {
    await running();
    fake.tmux.of("agents-adversary").doing = "dialog";
    commit("claim(p1): G1");
    push();
    await ticks(2);
    for (const message of watch.outbox) delete message.subjects;
    commit("claim(p1): G2");
    push();
    await ticks(2);
    fake.tmux.of("agents-adversary").doing = "busy";
    await ticks(4);
    expect(told("adversary").map((text) => /G\d/.exec(text)![0]).sort()).toEqual(["G1", "G2"]);
  });
});

describe("a rewritten branch", () => {
  /** Commits on top of the builder's head that change nothing, all of them newer than any other. */
  const pile = (count: number): void => {
    const later = Math.floor(Date.now() / 1000) + 60;
    const made = Array.from({ length: count }, (_, nth) =>
      `commit refs/heads/main\ncommitter S <s@s> ${later + nth} +0000\ndata 4\nside\n${nth ? "" : "from refs/heads/main^0\n"}\n`);
    const ran = Bun.spawnSync(["git", "-C", at("builder"), "fast-import", "--quiet"], { stdin: Buffer.from(made.join("")) });
    expect(ran.exitCode).toBe(0);
  };
  test("a claim of the push that rewrites it is told, with three hundred commits above it; what was there before is not", async () => {
    commit("Begin");
    for (const nth of [1, 2]) commit(`claim(p1): old ${nth}`);
    pile(250);
    commit("work");
    push();
    clone();
    await ticks(2);
    gitIn(at("builder"), "commit", "-q", "--amend", "--allow-empty", "-m", "work, amended");
    commit("claim(p1): new");
    pile(300);
    push();
    await ticks(2);
    expect([state(), told("adversary")]).toEqual(["ok", [expect.stringContaining("pushed claim(p1): new. Pull")]]);
  });
  test("a rebase of more claims than are remembered tells none of them again", async () => {
    copy("begun");
    commit("first");
    for (let nth = 1; nth <= 3; nth++) commit(`claim(p1): old ${nth}`);
    push();
    await ticks(2);
    watch.seen = [];
    const claims = gitIn(at("builder"), "rev-parse", "HEAD");
    gitIn(at("builder"), "reset", "-q", "--hard", "HEAD~4");
    commit("another first");
    gitIn(at("builder"), "cherry-pick", "--allow-empty", `${claims}~3..${claims}`);
    commit("claim(p1): new");
    push();
    await ticks(2);
    expect(told("adversary")).toEqual([expect.stringContaining("pushed claim(p1): new. Pull")]);
  });
  test("the first push into a new repository: a claim is told, with three hundred commits above it", async () => {
    clone();
    await ticks(2);
    commit("claim(p1): new");
    pile(300);
    push();
    await ticks(2);
    expect(told("adversary")).toEqual([expect.stringContaining("pushed claim(p1): new. Pull")]);
  });
});

describe("an amended commit is new work, a rebased one is not", () => {
  const claims = (): number => told("adversary").length;
  /** A claim at a fixed author time, told. */
  const claimed = async (files: Record<string, string>): Promise<void> => {
    await running();
    commit("work", { "code.txt": "1\n2\n3\n4\n5\n6\n7\n8\n9\n" });
    push();
    dated = { GIT_AUTHOR_DATE: "2026-06-15T12:00:00Z" };
    commit("claim(p1): G1", files);
    push();
    await ticks(2);
    expect(claims()).toBe(1);
  };
  const again = async (): Promise<number> => {
    push();
    await ticks(2);
    return claims();
  };

  test("amended, with the same subject and time: told again", async () => {
    await claimed({ "code.txt": "1\n2\n3\n4\n5\n6\n7\n8\nnine\n" });
    writeFileSync(at("builder", "code.txt"), "1\n2\n3\n4\n5\n6\n7\n8\nNINE\n");
    gitIn(at("builder"), "commit", "-q", "-a", "--amend", "--no-edit");
    expect(await again()).toBe(2);
    expect(await again()).toBe(2);
  });
  test.each(["claim.bin", "code.txt"])("only a byte or a blank of %s is other: told again", async (name) => {
    await claimed({ [name]: "a\0b\nx = 1\n" });
    writeFileSync(at("builder", name), "a\0b\n  x = 1\n");
    gitIn(at("builder"), "commit", "-q", "-a", "--amend", "--no-edit");
    expect(await again()).toBe(2);
  });
  test("amended, with a claim above it whose change is too large to be read: told again", async () => {
    await claimed({ "code.txt": "one\n" });
    commit("claim(p1): vendored", { "vendored.txt": `${"x".repeat(99)}\n`.repeat(82_000) });
    expect(await again()).toBe(2);
    const vendored = gitIn(at("builder"), "rev-parse", "HEAD");
    gitIn(at("builder"), "reset", "-q", "--hard", "HEAD~1");
    writeFileSync(at("builder", "code.txt"), "two\n");
    gitIn(at("builder"), "commit", "-q", "-a", "--amend", "--no-edit");
    gitIn(at("builder"), "cherry-pick", vendored);
    expect(await again()).toBe(3);
    expect(told("adversary").at(-1)).toContain("pushed claim(p1): G1. Pull");
  });
  test("amended where the clone's config orders a diff by a file that is gone: told again", async () => {
    await claimed({ "code.txt": "one\n" });
    writeFileSync(at("builder", "code.txt"), "two\n");
    gitIn(at("builder"), "commit", "-q", "-a", "--amend", "--no-edit");
    gitIn(at("watch"), "config", "diff.orderFile", at("gone"));
    expect(await again()).toBe(2);
  });
  test("rebased over a change of the same file: not told again", async () => {
    await claimed({ "code.txt": "1\n2\n3\n4\n5\n6\n7\n8\nnine\n" });
    const claim = gitIn(at("builder"), "rev-parse", "HEAD");
    gitIn(at("builder"), "reset", "-q", "--hard", "HEAD~1");
    commit("other work", { "code.txt": "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n" });
    gitIn(at("builder"), "cherry-pick", claim);
    expect(gitIn(at("builder"), "rev-parse", "HEAD")).not.toBe(claim);
    expect(await again()).toBe(1);
  });
  test("an empty claim that is rebased: not told again; a history that comes back neither", async () => {
    await claimed({});
    const claim = gitIn(at("builder"), "rev-parse", "HEAD");
    gitIn(at("builder"), "reset", "-q", "--hard", "HEAD~1");
    expect(await again()).toBe(1);
    gitIn(at("builder"), "reset", "-q", "--hard", claim);
    expect(await again()).toBe(1);
    gitIn(at("builder"), "commit", "-q", "--amend", "--no-edit", "--allow-empty", "--reset-author");
    expect(await again()).toBe(1);
  });
  test("what an older version saw is not told again; what is amended after the upgrade is", async () => {
    await claimed({ "code.txt": "one\n" });
    watch.seen = watch.seen.filter((key) => !key.includes("."));
    watch.channel = null;
    fake.files.set(`${cfg.stateDir}/watch.json`, JSON.stringify({ ...watch, volatile: undefined }));
    watch = await fake.watch(cfg);
    await ticks(2);
    expect(claims()).toBe(1);
    writeFileSync(at("builder", "code.txt"), "two\n");
    gitIn(at("builder"), "commit", "-q", "-a", "--amend", "--no-edit");
    expect(await again()).toBe(2);
  });
  test("decideHandoff: of a commit whose change nobody knows the key alone counts", () => {
    const one = { key: "k", subject: "claim(p1): G1" };
    const told = (seen: string[], change?: string) => decideHandoff([change ? { ...one, change } : one], seen, cfg.loop.handoff!).length;
    expect([told([]), told(["k"], "b"), told(["k", "k.a"], "b"), told(["k", "k.a"], "a"), told(["k", "k.a"])]).toEqual([1, 0, 1, 0, 0]);
  });
});

describe("what comes from outside is bounded and clean", () => {
  test("a subject of a megabyte, escapes, bidi: one line of 300 characters, in the text, the event and the log", async () => {
    await running();
    const subject = `claim(p1): \x1b[31mred\x1b]52;c;aGk=\x07\u202e\u2066evil\u200b ${"x".repeat(1_000_000)}`;
    writeFileSync(at("message"), subject);
    gitIn(at("builder"), "commit", "-q", "--allow-empty", "-F", at("message"));
    push();
    await ticks(2);
    const said = String(events("commit")[0]!.subject);
    expect(said).toStartWith("claim(p1): redevil x");
    expect([...said].length).toBe(300);
    expect(told("adversary")).toEqual([expect.stringContaining(`pushed ${said}. Pull`)]);
    expect(fake.lines.join("").match(/[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]/g)).toBeNull();
    expect([...fake.files].filter(([path]) => path.startsWith(cfg.stateDir)).reduce((sum, [, text]) => sum + text.length, 0)).toBeLessThan(100_000);
  });
  test.each<[string, string]>([
    ["a\tb\nc\rd", "a b c d"], ["\x1b]0;title\x07x\x9b31m", "x"], ["\x07a\x00\x7fb", "ab"], ["\u202ex\u2069\ufeff\u{e0041}y", "xy"], ["  é 全 👍  ", "é 全 👍"], ["x".repeat(301), `${"x".repeat(299)}…`],
  ])("plainText %p", (value, wanted) => expect(plainText(value, 300)).toBe(wanted));
  test("subjects of more than 8 MB in all, which git prints cut: each claim is told, and none twice", async () => {
    await running();
    commit("claim(p1): before");
    writeFileSync(at("message"), `claim(p1): long ${"x".repeat(8_100_000)}`);
    gitIn(at("builder"), "commit", "-q", "--allow-empty", "-F", at("message"));
    commit("claim(p1): after");
    push();
    await ticks(2);
    gitIn(at("builder"), "commit", "-q", "--amend", "--allow-empty", "-m", "claim(p1): amended");
    push();
    await ticks(2);
    expect([state(), told("adversary").map((text) => [...text.matchAll(/claim\(p1\): (\w+)/g)].map(([, word]) => word))])
      .toEqual(["ok", [["before", "long", "after"], ["amended"]]]);
  });
  test("an inbox of 8.5 MB: its reader is told how large it is, once", async () => {
    await running();
    commit("inbox", { "machine-docs/BUILDER-INBOX.md": "0123456789abcdef\n".repeat(500_000) });
    push();
    await ticks(2);
    expect(told("builder")).toEqual([expect.stringContaining("machine-docs/BUILDER-INBOX.md (8.5 MB: look before you read it whole)")]);
    commit("other");
    push();
    await ticks(2);
    expect([told("builder").length, state()]).toEqual([1, "ok"]);
  });
  test("a status file over 100 kB is never DONE, and that is said once", async () => {
    await running();
    const done = "## DONE\n\nAll gates PASS.\n";
    for (const [size, wanted] of [[90_000, true], [420_000, false], [8_100_000, false]] as const) {
      commit("status", { "machine-docs/STATUS-p1.md": done + "x\n".repeat(size / 2) });
      push();
      gitIn(at("watch"), "fetch", "-q");
      expect(await notePhaseDone(cfg, watch, "STATUS-p1.md")).toBe(wanted);
      await notePhaseDone(cfg, watch, "STATUS-p1.md");
    }
    expect(fake.logged("STATUS-p1.md is 420 kB: over 100 kB it never counts as DONE")).toHaveLength(1);
  });
  test("a status file that is a link is read where it leads; one that leads out of the branch is told", async () => {
    await running();
    commit("status", { "STATUS.md": "## DONE\n\nAll gates PASS.\n", "machine-docs/README.md": "" });
    for (const [target, wanted, why] of [
      ["../STATUS.md", true, ""], ["/etc/passwd", null, "is a symlink that leads to no file"], ["../../x", null, "is a symlink that leads to no file"], ["STATUS-p1.md", null, "is a symlink that leads to no file"],
      ["no-such-file", false, ""],
    ] as const) {
      rmSync(at("builder/machine-docs/STATUS-p1.md"), { force: true });
      link(target, "machine-docs/STATUS-p1.md");
      commit(`a link to ${target}`);
      push();
      gitIn(at("watch"), "fetch", "-q");
      expect([target, await notePhaseDone(cfg, watch, "STATUS-p1.md"), watch.volatile.unread]).toEqual([target, wanted, why ? expect.stringContaining(why) : ""]);
    }
  });
  test.each(["docs", "docs/loop"])("a docs folder that is a link is followed: %s", async (folder) => {
    await running();
    commit("status", { [`real/${folder.split("/")[1] ?? "x"}/STATUS-p1.md`]: "## DONE\n\nAll gates PASS.\n" });
    link(folder === "docs" ? "real/x" : "real", "docs");
    commit("a link");
    push();
    await configure((text) => text.replace("[loop.handoff]", `[loop.handoff]\ndocs_dir = "${folder}"`));
    gitIn(at("watch"), "fetch", "-q");
    expect([await notePhaseDone(cfg, watch, "STATUS-p1.md"), await notePhaseDone(cfg, watch, "STATUS-p2.md"), watch.volatile.unread]).toEqual([true, false, ""]);
    // a git that does not answer for the folder has not said that there is no such file
    const { git } = world;
    world.git = async (dir, args, ...rest) => (args.some((word) => word.endsWith(`:${folder}`)) ? { ok: false, out: "", err: "timed out", timedOut: true } as never : git(dir, args, ...rest));
    await notePhaseDone(cfg, watch, "STATUS-p1.md");
    world.git = git;
    expect(watch.volatile.unread).toContain("git could not say what");
  });
  test.each(["docs", "docs/loop"])("a docs folder in a submodule is told with its cure: %s", async (folder) => {
    await running();
    await configure((text) => text.replace("[loop.handoff]", `[loop.handoff]\ndocs_dir = "${folder}"`));
    gitIn(at("builder"), "update-index", "--add", "--cacheinfo", `160000,${"1".repeat(40)},docs`);
    gitIn(at("builder"), "commit", "-q", "-m", "a submodule");
    push();
    await ticks(3);
    expect(await notePhaseDone(cfg, watch, "STATUS-p1.md")).toBeNull();
    await ticks(1);
    expect(channel()).toMatchObject({ state: "failing", why: "docs is a submodule, whose files are not in the branch", cure: expect.stringContaining("docs_dir") });
  });
  test("a status file that is kept in Git LFS is told", async () => {
    await running();
    commit("status", { "machine-docs/STATUS-p1.md": `version https://git-lfs.github.com/spec/v1\noid sha256:${"0".repeat(64)}\nsize 5\n` });
    push();
    await ticks(3);
    expect(await notePhaseDone(cfg, watch, "STATUS-p1.md")).toBeNull();
    expect(watch.volatile.unread).toContain("machine-docs/STATUS-p1.md is kept in Git LFS");
  });
  test("a repository with SHA-256 names: claims are told, an empty one's first as well, and DONE is seen", async () => {
    rmSync(at("origin.git"), { recursive: true });
    rmSync(at("builder"), { recursive: true });
    gitIn(dir, "init", "-q", "--bare", "-b", "main", "--object-format=sha256", "origin.git");
    for (const name of ["builder", "watch"]) {
      gitIn(dir, "init", "-q", "-b", "main", "--object-format=sha256", name);
      gitIn(at(name), "remote", "add", "origin", at("origin.git"));
    }
    share();
    await ticks(4);
    expect(state()).toBe("empty");
    for (const subject of ["claim(p1): the first", "claim(p1): the second"]) {
      commit(subject);
      push();
      await ticks(3);
    }
    commit("status", { "machine-docs/STATUS-p1.md": "## DONE\n\nAll gates PASS.\n" });
    push();
    await ticks(3);
    expect([state(), told("adversary"), await notePhaseDone(cfg, watch, "STATUS-p1.md")]).toEqual(["ok", [expect.stringContaining("the first"), expect.stringContaining("the second")], true]);
  });
  test.each<[string, boolean]>([
    ["main", true], ["feature/x-1", true], ["v1.2", true], ["ünï", true], ["", false], ["-x", false], ["/x", false], ["x/", false], ["a..b", false], ["a//b", false], ["a/.b", false],
    ["x.lock", false], ["x.lock/y", false], ["a b", false], ["a:b", false], ["a\x1b", false], ["a\u202eb", false], ["a@{1", false], ["x.", false], ["x".repeat(201), false],
  ])("isRefName %p", (name, wanted) => expect(isRefName(name)).toBe(wanted));
  test("a branch that is no name is a fault of the config", () =>
    expect(configure((text) => text.replace("[loop.handoff]", '[loop.handoff]\nbranch = "--upload-pack=x"'))).rejects.toThrow(/branch: .*a name that git allows/));
});

test("a quiet look is two gits, as before; a claim costs one more than its log", async () => {
  await running();
  commands.length = 0;
  await ticks(4);
  expect(commands).toEqual(Array(4).fill(["ls-remote", "rev-parse"]).flat());
  commit("claim(p1): G1");
  push();
  commands.length = 0;
  await ticks(1);
  expect(commands.filter((name) => !["ls-remote", "rev-parse"].includes(name))).toEqual(["fetch", "merge-base", "log", "show", "ls-tree"]);
});

describe("what is pushed before anybody could say where the branch stood", () => {
  /** The same clock for commits as for the watchdog. */
  const now = (): void => void (dated = { GIT_AUTHOR_DATE: new Date(fake.wall).toISOString() });
  const claims = (): string[] => told("adversary").map((text) => /claim\(p1\): \w+/.exec(text)![0]);
  beforeEach(() => {
    now();
    dated.GIT_AUTHOR_DATE = "2026-06-01T00:00:00Z";
  });

  test("while the remote did not answer from the first start on: the claim is told, what is older is not", async () => {
    copy("begun");
    commit("claim(p1): old");
    push();
    pointTo(at("nowhere.git"));
    await ticks(3);
    now();
    commit("claim(p1): first");
    push();
    pointTo(at("origin.git"));
    watch = await fake.watch(cfg);
    await ticks(3);
    expect([state(), claims()]).toEqual(["ok", ["claim(p1): first"]]);
  });

  test("while the branch was missing: the push that makes it is told, with what it stands on left alone", async () => {
    commit("claim(p1): old");
    gitIn(at("builder"), "push", "-q", "origin", "HEAD:master");
    clone("-b", "master");
    await ticks(3);
    expect(state()).toBe("branch missing");
    now();
    commit("claim(p1): first");
    push();
    await ticks(3);
    expect([state(), claims()]).toEqual(["ok", ["claim(p1): first"]]);
  });

  test("another branch in the config begins at its head, and what came while the old one failed is told", async () => {
    await running();
    commit("claim(p1): old");
    gitIn(at("builder"), "push", "-q", "origin", "HEAD:dev");
    const other = (text: string) => text.replace("[loop.handoff]", '[loop.handoff]\nbranch = "dev"');
    const to = async (edit = (text: string) => text): Promise<void> => void (cfg = await fake.config(edit(FLEET.replace('repo = "project"', `repo = ${JSON.stringify(at("watch"))}`))));
    await to(other);
    await ticks(3);
    expect([state(), claims()]).toEqual(["ok", []]);
    now();
    commit("claim(p1): next");
    gitIn(at("builder"), "push", "-q", "origin", "HEAD:dev");
    await ticks(3);
    expect(claims()).toEqual(["claim(p1): next"]);
    // back again, at a head that was handled as the other branch's
    gitIn(at("builder"), "push", "-q", "origin", "HEAD:main");
    await to();
    await ticks(3);
    commit("claim(p1): third");
    push();
    await ticks(3);
    expect(claims()).toEqual(["claim(p1): next", "claim(p1): third"]);
    gitIn(at("origin.git"), "update-ref", "-d", "refs/heads/main");
    await ticks(3);
    now();
    commit("claim(p1): unseen");
    gitIn(at("builder"), "push", "-q", "origin", "HEAD:dev");
    await to(other);
    await ticks(3);
    expect(claims().at(-1)).toBe("claim(p1): unseen");
  });

  test("another clone begins at its head too", async () => {
    await running();
    commit("claim(p1): old");
    gitIn(dir, "init", "-q", "--bare", "-b", "main", "other.git");
    gitIn(at("builder"), "push", "-q", at("other.git"), "HEAD:main");
    gitIn(dir, "clone", "-q", "other.git", "elsewhere");
    cfg = await fake.config(FLEET.replace('repo = "project"', `repo = ${JSON.stringify(at("elsewhere"))}`));
    await ticks(3);
    expect([state(), claims()]).toEqual(["ok", []]);
  });
});

test.each([["is killed", { ok: false, out: "", err: "", timedOut: false, code: 137 }], ["never ran", { ok: false, out: "", err: "", timedOut: false }]])("a git that %s as it compares the heads says nothing of the history", async (_, ran) => {
  await running();
  const { git } = world;
  world.git = async (repo, args, more) => (args[0] === "merge-base" ? ran : git(repo, args, more));
  commit("claim(p1): one");
  push();
  await ticks(3);
  expect([state(), watch.channel!.why, told("adversary")]).toEqual(["failing", expect.stringContaining("git merge-base"), []]);
});

test("a warning beside the answer that a head is no ancestor takes nothing from it", async () => {
  await running();
  commit("claim(p1): one");
  push();
  await ticks(2);
  const { git } = world;
  world.git = async (repo, args, more) => {
    const ran = await git(repo, args, more);
    return args[0] === "merge-base" ? { ...ran, err: "warning: commit-graph is out of date" } : ran;
  };
  gitIn(at("builder"), "reset", "-q", "--hard", "HEAD~1");
  commit("claim(p1): two");
  push();
  await ticks(3);
  expect([state(), told("adversary").length]).toEqual(["ok", 2]);
});

test.each(["+refs/*:refs/*", "+refs/heads/*:refs/heads/*"])("a clone whose config maps the branch onto itself too (%s) is fetched in", async (refspec) => {
  await running();
  gitIn(at("watch"), "config", "remote.origin.fetch", refspec);
  commit("claim(p1): one");
  push();
  await ticks(2);
  expect([state(), told("adversary").length]).toEqual(["ok", 1]);
});

test("FETCH_HEAD is left to whoever else works in the clone", async () => {
  await running();
  writeFileSync(at("watch/.git/FETCH_HEAD"), "an agent's\n");
  commit("claim(p1): one");
  push();
  await ticks(2);
  expect([told("adversary").length, readFileSync(at("watch/.git/FETCH_HEAD"), "utf8")]).toEqual([1, "an agent's\n"]);
});

test("up notes that nobody could say where the branch stood before it starts anything, and the watchdog tells people", async () => {
  copy("begun");
  pointTo(at("nowhere.git"));
  const began = fake.wall;
  await command("up", "builder", "--config", cfg.path);
  watch = await fake.watch(cfg);
  expect(channel()).toMatchObject({ state: "failing", since: began, told: false });
  await ticks(2);
  expect([channel().told, events().length]).toEqual([true, 1]);
});

test("up says what it waits for while the remote does not answer", async () => {
  copy("begun");
  world.git = async () => {
    await until(() => fake.logged("hand-off: waiting for an answer of origin").length);
    return { ok: false, out: "", err: "", timedOut: true };
  };
  await command("up", "builder", "--config", cfg.path);
  expect(fake.logged("hand-off: ")).toEqual([expect.stringContaining("waiting for an answer"), expect.stringContaining("no answer in time (git ls-remote, 20 s)")]);
});

test.each([["doctor", "SIGINT", 130], ["watchdog", "SIGTERM", 0]] as const)("%s that ends by %s while the remote does not answer leaves no git behind", async (word, signal, code) => {
  const folder = realFolder();
  let [asked, left] = [0, 0];
  const remote = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {}, open: () => void (asked += 1), close: () => void (left += 1) } });
  gitIn(folder, "init", "-q", "--template=", "watch");
  gitIn(join(folder, "watch"), "remote", "add", "origin", `git://127.0.0.1:${remote.port}/project`);
  writeFileSync(join(folder, "agents.toml"), FLEET.replace('repo = "project"', 'repo = "watch"').replace('"heal+stall"', '"none"'));
  const child = Bun.spawn([...SELF, word, "--config", join(folder, "agents.toml")], { env: { ...process.env, ...GIT_ENV, HOME: folder, TMUX_TMPDIR: folder }, stdio: ["ignore", "ignore", "ignore"] });
  try {
    await until(() => asked > 0);
    child.kill(signal);
    expect(await child.exited).toBe(code);
    await until(() => left === asked);
  } finally {
    child.kill("SIGKILL");
    remote.stop(true);
  }
});
