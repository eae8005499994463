/** As a newcomer installs it, into an empty home, by each way that the README names; and away again. What a release makes, and an upgrade at work. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { version } from "../agents.ts";
import { type Fleet, lives, real, signal, spawn, until } from "./real.ts";
import { SCRATCH } from "./scratch.ts";
import { rounds } from "./sim.ts";

const ROOT = join(import.meta.dir, "..");
const npm = Bun.which("npm");
/** What is installed here is the script: the run of the same tests by the executable need not do it again. */
const other = process.env.AGENTS_BIN !== undefined;

const { name: PACKAGE, files: PACKED } = await Bun.file(join(ROOT, "package.json")).json();
/** The folders of captures that are in the package. */
const SHIPPED: string[] = PACKED.filter((name: string) => name.startsWith("tests/fixtures/"));
const scratch: string[] = [];
afterAll(() => scratch.forEach((dir) => rmSync(dir, { recursive: true, force: true })));

/** A machine of a newcomer: an empty home, Bun, and npm's prefix. The registry and its certificates are the machine's own affair. */
function newcomer() {
  const dir = realpathSync(mkdtempSync(join(SCRATCH, "agents-install-")));
  scratch.push(dir);
  const [home, bin, prefix] = [join(dir, "home"), join(dir, "bin"), join(dir, "prefix")];
  for (const folder of [home, bin]) mkdirSync(folder);
  symlinkSync(realpathSync(process.execPath), join(bin, "bun"));
  const env = {
    ...process.env, HOME: home, PATH: `${prefix}/bin:${bin}:${process.env.PATH}`,
    npm_config_prefix: prefix, npm_config_update_notifier: "false", npm_config_audit: "false", npm_config_fund: "false",
    // what Bun made of the program already: its cache would be empty in an empty home
    BUN_RUNTIME_TRANSPILER_CACHE_PATH: join(homedir(), ".bun", "install", "cache", "@t@"),
    AGENTS_CONFIG: undefined, NODE_ENV: undefined, BUN_INSTALL: undefined, XDG_CACHE_HOME: undefined,
  };
  const command = join(prefix, "bin", "agents");
  return { dir, home, prefix, command, env, call: (...argv: string[]) => spawn(argv, { env, cwd: home, ms: 120_000 }) };
}

/** Of the captures of each client by hand only a few: the thousands of files of each install cost more than all else here. */
const CAPTURES = rounds(Infinity, 12);

/** What a clone of the repository holds, as far as a program of it needs that: no packages. */
function clone(dir: string): string {
  const folder = join(dir, "clone");
  for (const name of [".", "prompts", "tests", ...SHIPPED]) {
    mkdirSync(join(folder, name), { recursive: true });
    const files = readdirSync(join(ROOT, name), { withFileTypes: true }).filter((one) => one.isFile()).map((one) => one.name).sort();
    const wanted = SHIPPED.includes(name) ? files.slice(0, CAPTURES) : files;
    for (const file of wanted) copyFileSync(join(ROOT, name, file), join(folder, name, file));
  }
  return folder;
}
/** One with its packages. */
function workingClone(): string {
  const folder = clone(newcomer().dir);
  symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"));
  return folder;
}

/** The packed tarball, made as `bun run release` makes it, once. */
let made: Promise<string> | undefined;
const pack = (): Promise<string> => made ??= (async () => {
  const { dir } = newcomer();
  const packed = await spawn([process.execPath, "pm", "pack", "--quiet", "--destination", dir], { cwd: clone(dir), ms: 60_000 });
  expect(packed.code, packed.err).toBe(0);
  return join(dir, readdirSync(dir).find((name) => name.endsWith(".tgz"))!);
})();

test("the newest version in the CHANGELOG is the one that the program names", async () => {
  const released = [...(await Bun.file(join(ROOT, "CHANGELOG.md")).text()).matchAll(/^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$/gm)].map((match) => match[1]);
  expect(released).toEqual(released.toSorted((a, b) => Bun.semver.order(b!, a!)));
  expect(released[0]).toBe(version());
});

test("the package has a name of its own: npm update -g would put what the registry has under its name in its place", () => {
  expect(PACKAGE).toBe("agents.ts");
});

describe.skipIf(!npm || other)("npm i -g of the packed tarball", () => {
  const { dir, home, prefix, command, env, call: run } = newcomer();
  const call = (...words: string[]) => run(command, ...words);
  beforeAll(async () => {
    const installed = await run(npm!, "install", "-g", await pack());
    expect(installed.code, installed.err).toBe(0);
  });

  test("the package holds the program, its prompts, example and captures, and no tests", async () => {
    const folder = join(prefix, "lib", "node_modules", PACKAGE);
    expect(readdirSync(folder).filter((name) => name !== "node_modules").sort())
      .toEqual(["CHANGELOG.md", "LICENSE", "README.md", "agents.toml", "agents.ts", "package.json", "prompts", "tests"]);
    const captures = SHIPPED.map((name) => name.split("/").at(-1)!).sort();
    expect([readdirSync(join(folder, "tests")), readdirSync(join(folder, "tests", "fixtures")).sort()]).toEqual([["fixtures"], captures]);
  });

  test("both its names are commands, which read its captures and make a fleet", async () => {
    expect((await call("--version")).out).toBe(`${version()}\n`);
    expect((await run(join(prefix, "bin", "agents.ts"), "--version")).out).toBe(`${version()}\n`);
    const counted = /^\d+ passed, 0 failed$/m;
    const here = await spawn([process.execPath, join(workingClone(), "agents.ts"), "selftest"]);
    expect(counted.exec((await call("selftest")).out)?.[0]).toBe(counted.exec(here.out)![0]);
    expect(await call("status")).toMatchObject({ code: 2, err: expect.stringContaining("is the example that ships, not a fleet") });
    expect((await call("init", "fleet")).code).toBe(0);
    const status = await spawn([command, "status"], { env, cwd: join(home, "fleet", "prompts") });
    expect([status.code, status.out]).toEqual([3, expect.stringMatching(/^~\/fleet \([^]*builder .* no folder .*clones\/builder$/m)]); // the clones are not made yet
  });

  test("uninstalled it is gone, and the fleet's own files stay", async () => {
    expect((await run(npm!, "uninstall", "-g", PACKAGE)).code).toBe(0);
    expect([existsSync(command), existsSync(join(home, "fleet", "agents.toml"))]).toEqual([false, true]);
  });
});

describe.skipIf(!npm || other)("other ways to install it", () => {
  /** npm of another version comes from the registry, in CI; where it does not, that is said and no evidence. The machine's own is tried above. */
  const others = npm && process.env.CI ? [11, 12].filter((major) => !Bun.spawnSync([npm, "--version"]).stdout.toString().startsWith(`${major}.`)) : [];
  test.concurrent.each(others)("npm %d installs the tarball and takes it away", async (major) => {
    const { dir, command, call } = newcomer();
    // as npm packs it, with its packages; to put it together of them, as `add` does, needs each of them in the registry
    const fetched = await call(npm!, "pack", `npm@${major}`, "--pack-destination", dir);
    if (fetched.code !== 0) return console.warn(`npm ${major} could not be fetched, not tried: ${fetched.err.trim().split("\n").at(-1)}`);
    expect((await call("tar", "-xzf", join(dir, fetched.out.trim().split("\n").at(-1)!), "-C", dir)).code).toBe(0);
    const other = (...words: string[]) => call("node", join(dir, "package", "bin", "npm-cli.js"), ...words);
    expect((await other("--version")).out).toStartWith(`${major}.`);
    const installed = await other("install", "-g", await pack());
    expect(installed.code, installed.err).toBe(0);
    expect(await call(command, "--version")).toMatchObject({ code: 0, out: `${version()}\n` });
    expect((await other("uninstall", "-g", PACKAGE)).code).toBe(0);
    expect(existsSync(command)).toBe(false);
  });

  test.concurrent("npm i -g . in a clone links it, packages come with the first call", async () => {
    const { dir, home, command, env, call } = newcomer();
    const installed = await spawn([npm!, "install", "-g", "."], { env, cwd: clone(dir), ms: 120_000 });
    expect(installed.code, installed.err).toBe(0);
    expect((await call(command, "init", "fleet")).code).toBe(0);
    expect(await spawn([command, "status"], { env, cwd: join(home, "fleet") })).toMatchObject({ code: 3, out: expect.stringMatching(/^~\/fleet \(/) });
  });

  test.concurrent("bunx runs it once from a tarball or a clone; bun add -g installs the tarball", async () => {
    const { dir, home, env, call } = newcomer();
    const bun = join(dir, "bin", "bun");
    const tarball = await pack();
    for (const from of [tarball, clone(dir)]) {
      expect(await call(bun, "x", "--package", from, "agents", "--version"), from).toMatchObject({ code: 0, out: `${version()}\n` });
    }
    expect((await call(bun, "add", "-g", tarball)).code).toBe(0);
    expect((await spawn([join(home, ".bun", "bin", "agents"), "--version"], { env })).out).toBe(`${version()}\n`);
    expect((await call(bun, "remove", "-g", PACKAGE)).code).toBe(0);
    expect(existsSync(join(home, ".bun", "bin", "agents"))).toBe(false);
  });
});

describe.skipIf(other)("bun run release", () => {
  const release = async (...targets: string[]) => {
    const folder = workingClone();
    const ran = await spawn([process.execPath, join(folder, "tests", "release.ts"), ...targets]);
    const sums = await Bun.file(join(folder, "dist", "SHA256SUMS")).text();
    return { ...ran, dist: join(folder, "dist"), names: [...sums.matchAll(/^[0-9a-f]{64}  (.+)$/gm)].map((match) => match[1]!) };
  };
  const here = `${process.platform}-${process.arch}`;
  const tarball = `${PACKAGE}-${version()}.tgz`;

  test.concurrent("makes the tarball, an executable that works, and their checksums", async () => {
    const { code, err, out, names, dist } = await release(here);
    expect([code, err, names]).toEqual([0, "", [tarball, `agents-${here}`]]);
    expect(out).toContain(`made agents-${here}, and tried it`);
    const sums = names.map((name) => `${new Bun.CryptoHasher("sha256").update(readFileSync(join(dist, name))).digest("hex")}  ${name}\n`);
    expect(readFileSync(join(dist, "SHA256SUMS"), "utf8")).toBe(sums.join(""));
    // the small one also by the program that people have, which takes half a second for the other
    expect((await spawn(["sha256sum", "--check", "--strict"], { cwd: dist, stdin: sums[0]! })).code).toBe(0);
  });

  test.concurrent("a target that cannot be made is named, and the exit code says so", async () => {
    const { code, err, out, names } = await release("plan9-x64");
    expect([code, err, names]).toEqual([1, `release ${version()} is incomplete: plan9-x64\n`, [tarball]]);
    expect(out).toMatch(/^NOT made: agents-plan9-x64: .*unsupported target/im);
  });
});

/** Version 0.1.0 in a folder of the fleet, as an older install of the program. */
async function older(f: Fleet) {
  const folder = f.path("program");
  mkdirSync(folder);
  const unpacked = await spawn(["tar", "-xzf", join(import.meta.dir, "fixtures", "released", "agents-0.1.0.tar.gz"), "-C", folder]);
  expect(unpacked.code, unpacked.err).toBe(0);
  symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"));
  const self = [process.execPath, "--no-env-file", "--config=/dev/null", join(folder, "agents.ts")];
  return { folder, call: (...words: string[]) => spawn([...self, ...words, "--config", f.config], { env: f.env }) };
}
const beatOf = (f: Fleet): { pid?: number; version?: string } => JSON.parse(f.read(".agents/state/heartbeat") || "{}");
const beats = (f: Fleet, its: string) => until(() => beatOf(f).version === its && beatOf(f).pid === f.lock("watchdog"), 20_000);

/** Two agents at work under 0.1.0, and a text that waits for one of them. */
async function underOlder(f: Fleet) {
  const old = await older(f);
  expect((await old.call("--version")).out).toBe("0.1.0\n");
  const up = await old.call("up");
  expect(up.code, up.err).toBe(0);
  await f.ready("one", "two");
  await beats(f, "0.1.0");
  f.control("two", "dialog");
  await until(async () => (await f.states()).of.two?.startsWith("blocked"), undefined, 250);
  expect((await old.call("send", "two", "before the upgrade", "--queue")).code).toBe(0);
  return { ...old, clients: [await f.pid("one"), await f.pid("two")], pair: [f.lock("watchdog"), f.lock("keeper")] };
}

/** The agents were not touched, what waited arrives once, and the new watchdog takes care. */
async function goesOn(f: Fleet, clients: number[]): Promise<void> {
  expect([await f.pid("one"), await f.pid("two")]).toEqual(clients);
  f.control("two", "idle");
  await until(() => f.submits("two").length);
  f.control("one", "exit 1");
  await until(() => f.starts("one").length === 2);
  await f.ticks(2);
  expect([f.starts("two").length, f.submits("two")]).toEqual([1, ["before the upgrade"]]);
}
const pair = { agents: ["one", "two"].map((name) => ({ name, watch: "heal" })) };

real("up after an upgrade: watchdog and keeper of 0.1.0 hand over, the agents are not touched", pair, async (f) => {
  const { clients, pair: gone } = await underOlder(f);
  const up = await f.up("watchdog");
  expect(up.err).toContain(`replacing the watchdog of version 0.1.0 by ${version()}`);
  await beats(f, version());
  await until(() => f.lock("keeper"));
  expect(gone.map(lives)).toEqual([false, false]);
  expect((await f.up("watchdog")).err).toContain("watchdog already running");
  await goesOn(f, clients);
});

real("the program replaced in place: the keeper of 0.1.0 brings the new watchdog, and up the new keeper", pair, async (f) => {
  const { folder, clients, pair: [watchdog, keeper], call } = await underOlder(f);
  for (const name of ["agents.ts", "agents.toml", "package.json", "prompts"]) cpSync(join(ROOT, name), join(folder, name), { recursive: true });
  signal(watchdog!, "SIGKILL");
  await beats(f, version());
  expect(f.lock("keeper")).toBe(keeper!);
  await goesOn(f, clients);
  expect((await call("restart", "watchdog")).code).toBe(0);
  await until(() => f.lock("keeper") && f.lock("keeper") !== keeper);
  expect(lives(keeper!)).toBe(false);
});
