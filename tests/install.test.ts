/** As a newcomer installs it: the packed tarball with npm, into an empty home; then a fleet of their own, and away again. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawn } from "./real.ts";

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
    expect([readdirSync(join(folder, "tests")), readdirSync(join(folder, "tests", "fixtures")).sort()]).toEqual([["fixtures"], ["claude", "opencode"]]);
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
