/** A fleet to start from: what is written, and what is left as it is. */
import { describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { configWith, loadConfig } from "../agents.ts";
import { desk, ROOT, SELF } from "./desk.ts";
import { SCRIPT } from "./program.ts";

const { scratch, bin, env, script, call, fleet } = desk();

describe("init", () => {
  test("an empty folder gets all, a second call changes nothing", () => {
    const dir = join(scratch, "new fleet");
    const first = call(["init", dir]);
    expect([first.code, first.err]).toEqual([0, ""]);
    expect(first.out).toContain(`up --config '${join(dir, "agents.toml")}'`);
    expect(first.out).toContain("claude was not found; get it with: npm install");
    const shipped = readdirSync(join(ROOT, "prompts")).filter((file) => file.endsWith(".md"));
    expect(readdirSync(join(dir, "prompts")).sort()).toEqual(shipped.sort());
    expect(readFileSync(join(dir, "agents.toml"), "utf8")).toBe(readFileSync(join(ROOT, "agents.toml"), "utf8"));
    writeFileSync(join(dir, "agents.toml"), "# mine");
    rmSync(join(dir, "prompts", "wake.md"));
    const second = call(["init", dir]);
    expect(second.code).toBe(1);
    expect(second.err).toContain(`${join(dir, "agents.toml")} exists already: kept`);
    expect(second.out).toContain("1 file written");
    expect(readFileSync(join(dir, "agents.toml"), "utf8")).toBe("# mine");
  });

  test("without a folder: here; what is in the way is said in one line", () => {
    const dir = join(scratch, "here");
    mkdirSync(dir);
    expect(Bun.spawnSync([...SELF, "init"], { env, cwd: dir }).exitCode).toBe(0);
    expect(readdirSync(dir).sort()).toEqual(["agents.toml", "prompts"]);
    const file = join(dir, "agents.toml");
    const said = (...words: string[]) => [call(words).code, call(words).err];
    expect(said("init", file)).toEqual([1, `agents: ${file}: a file is in the way\n`]);
    mkdirSync(join(dir, "x"));
    writeFileSync(join(dir, "x", "prompts"), "");
    expect(said("init", join(dir, "x"))).toEqual([1, `agents: ${join(dir, "x", "prompts")}: a file is in the way\n`]);
    expect(said("demo", file)).toEqual([1, `agents: ${file}: a file is in the way\n`]);
    expect(said("init", "/proc/here")).toEqual([1, "agents: /proc/here: no such file or folder\n"]);
    expect(call(["init", "a", "b"]).code).toBe(2);
  });

  test("what comes next is named as it is installed: by the command, or by the file", () => {
    const linked = join(scratch, "linked-bin");
    mkdirSync(linked);
    const self = SELF.at(-1)!;
    symlinkSync(self, join(linked, "agents"));
    const dir = join(scratch, "named");
    const next = (path: string) => / {2}(.*) doctor --config/.exec(call(["init", dir], { PATH: path }).out)?.[1];
    expect(next(`${linked}:${env.PATH}`)).toBe("agents");
    rmSync(dir, { recursive: true });
    expect(next(env.PATH)).toBe(SELF === SCRIPT ? `bun ${self}` : self);
  });

  test.skipIf(Boolean(process.env.AGENTS_BIN))("agents.ts alone, without prompts/ beside it, starts nothing: it would type empty texts", () => {
    const dir = join(scratch, "alone");
    mkdirSync(dir);
    copyFileSync(join(ROOT, "agents.ts"), join(dir, "agents.ts"));
    for (const name of ["node_modules", "package.json"]) symlinkSync(join(ROOT, name), join(dir, name));
    const alone = (...words: string[]) => {
      const ran = Bun.spawnSync([...SCRIPT.slice(0, -1), join(dir, "agents.ts"), ...words], { env, cwd: scratch });
      return [ran.exitCode, String(ran.stderr)];
    };
    const config = fleet("bare", '[[agent]]\nname = "a1"\nbackend = "claude"\n');
    const refused = [1, "agents: this program came without its agents.toml and prompts/\n"];
    try {
      for (const words of [["up", "--config", config], ["demo", join(dir, "demo")], ["init", join(dir, "fleet")]]) {
        expect([words, ...alone(...words)]).toEqual([words, ...refused]);
      }
    } finally {
      // it looks and ends things as ever: also what was started all the same
      expect(alone("status", "--config", config)[0]).toBe(0);
      expect(alone("down", "--config", config)[0]).toBe(0);
    }
  });

  test("a link that leads nowhere is a file too", () => {
    const dir = join(scratch, "linked");
    mkdirSync(dir);
    symlinkSync(join(scratch, "elsewhere.toml"), join(dir, "agents.toml"));
    expect(call(["init", dir]).code).toBe(1);
    expect(existsSync(join(scratch, "elsewhere.toml"))).toBe(false);
  });

  test("without opencode what needs it becomes comments, and the file still loads", async () => {
    const shipped = readFileSync(join(ROOT, "agents.toml"), "utf8");
    const without = configWith(shipped, ["claude"]);
    expect(without).not.toMatch(/^[^#\n]*"opencode\b/m);
    expect(without.replace(/^# /gm, "")).toBe(shipped.replace(/^# /gm, ""));
    expect(configWith(shipped, [])).toBe(shipped);
    expect(configWith(shipped, ["claude", "opencode"])).toBe(shipped);
    for (const found of [["claude"], ["opencode"], []]) {
      const cfg = await loadConfig(join(ROOT, "agents.toml"), {}, configWith(shipped, found));
      const enabled = [...cfg.agents.values()].filter((agent) => agent.enabled).map((agent) => agent.backend);
      expect(new Set(enabled)).toEqual(new Set([found[0] ?? "claude"]));
      expect([...cfg.services.keys()]).toEqual(found[0] === "claude" ? [] : ["opencode"]);
    }
  });

  test("opencode alone becomes the backend; comments stay", () => {
    const source = '[defaults]\nbackend = "claude" # the client\n# backend = "claude"\n[backend.claude]\nbin = "claude"\n';
    expect(configWith(source, ["opencode"])).toBe(source.replace('backend = "claude" # the', 'backend = "opencode" # the'));
    script("opencode", "echo 1.18.33");
    const { code, out } = call(["init", join(scratch, "open")]);
    rmSync(join(bin, "opencode"));
    expect(code).toBe(0);
    expect(out).toContain("the agents use opencode");
    const toml = readFileSync(join(scratch, "open", "agents.toml"), "utf8");
    expect(toml).toContain('backend = "opencode"');
    expect(toml.split("\n")).toHaveLength(readFileSync(join(ROOT, "agents.toml"), "utf8").split("\n").length);
  });
});
