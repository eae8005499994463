/** As a newcomer installs it: the packed tarball with npm, into an empty home; then a fleet of their own, and away again. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { version } from "../agents.ts";
import { type Fleet, lives, real, signal, spawn, until } from "./real.ts";

const ROOT = join(import.meta.dir, "..");
const npm = Bun.which("npm");

describe.skipIf(!npm)("npm i -g of the packed tarball", () => {
  const dir = mkdtempSync(join(tmpdir(), "agents-install-"));
  const [home, bin, prefix] = [join(dir, "home"), join(dir, "bin"), join(dir, "prefix")];
  // the registry and its certificates are the machine's own affair
  const env = { ...process.env, HOME: home, PATH: `${prefix}/bin:${bin}:${process.env.PATH}`, npm_config_prefix: prefix, AGENTS_CONFIG: undefined, NODE_ENV: undefined };
  const call = (...words: string[]) => spawn([join(prefix, "bin", "agents"), ...words], { env, cwd: home });
  beforeAll(async () => {
    for (const folder of [home, bin]) mkdirSync(folder);
    symlinkSync(realpathSync(process.execPath), join(bin, "bun"));
    const packed = await spawn([npm!, "pack", "--pack-destination", dir], { cwd: ROOT, ms: 60_000 });
    expect(packed.code, packed.err).toBe(0);
    const tarball = join(dir, readdirSync(dir).find((name) => name.endsWith(".tgz"))!);
    const installed = await spawn([npm!, "install", "-g", tarball], { env, cwd: home, ms: 120_000 });
    expect(installed.code, installed.err).toBe(0);
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  test("the package holds the program, its prompts, example and captures, and no tests", () => {
    const folder = join(prefix, "lib", "node_modules", "agents");
    expect(readdirSync(folder).filter((name) => name !== "node_modules").sort())
      .toEqual(["CHANGELOG.md", "LICENSE", "README.md", "agents.toml", "agents.ts", "package.json", "prompts", "tests"]);
    expect([readdirSync(join(folder, "tests")), readdirSync(join(folder, "tests", "fixtures")).sort()]).toEqual([["fixtures"], ["claude", "codex", "gemini", "opencode"]]);
  });

  test("both its names are commands, which read its captures and make a fleet", async () => {
    const { version } = await Bun.file(join(ROOT, "package.json")).json();
    expect((await call("--version")).out).toBe(`${version}\n`);
    expect((await spawn([join(prefix, "bin", "agents.ts"), "--version"], { env, cwd: home })).out).toBe(`${version}\n`);
    expect((await call("selftest")).out).toMatch(/^\d+ passed, 0 failed$/m);
    expect(await call("status")).toMatchObject({ code: 2, err: expect.stringContaining("is the example that ships and no fleet") });
    expect((await call("init", "fleet")).code).toBe(0);
    const status = await spawn([join(prefix, "bin", "agents"), "status"], { env, cwd: join(home, "fleet", "prompts") });
    expect([status.code, status.out]).toEqual([0, expect.stringMatching(/^~\/fleet \(/)]);
  });

  test("uninstalled it is gone, and the fleet's own files stay", async () => {
    expect((await spawn([npm!, "uninstall", "-g", "agents"], { env, cwd: home, ms: 60_000 })).code).toBe(0);
    expect([existsSync(join(prefix, "bin", "agents")), existsSync(join(home, "fleet", "agents.toml"))]).toEqual([false, true]);
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
  await until(async () => (await f.states()).of.two?.startsWith("blocked"));
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
