/** The program under test. */
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { once } from "./once.ts";
import "./packages.ts"; // also for what runs without the set-up of the tests

export const ROOT = resolve(import.meta.dir, "..");
export const SCRIPT = [process.execPath, "--no-env-file", "--config=/dev/null", join(ROOT, "agents.ts")];

/**
 * How tests start it: the executable, or agents.ts, that AGENTS_BIN names; else one made of this source. A run starts
 * it about 900 times, and compiled it is there after a third of the CPU that the script needs. What can differ in the
 * script runs once more with it (`.ci/run`).
 */
const named = process.env.AGENTS_BIN && resolve(ROOT, process.env.AGENTS_BIN);
export const SELF = !named ? [await compiled()] : named.endsWith(".ts") ? SCRIPT : [named];

/** Compiled as `bun run build` does it, but in a place of its own: dist/agents may be at work. */
async function compiled(): Promise<string> {
  const [dir, { scripts }] = [join(ROOT, "dist", "tested"), await Bun.file(join(ROOT, "package.json")).json()];
  const [program, stamp] = [join(dir, "agents"), join(dir, "of")];
  const files = ["{agents.ts,agents.toml,package.json,bun.lock}", "prompts/*", "tests/fixtures/**"]
    .flatMap((files) => [...new Bun.Glob(files).scanSync(ROOT)].sort());
  const now = files.map((file) => [file, statSync(join(ROOT, file))] as const)
    .map(([file, { size, mtimeMs }]) => `${file} ${size} ${mtimeMs}\n`).join("");
  const isOfNow = (): boolean => {
    try {
      return readFileSync(stamp, "utf8") === now && statSync(program).size > 0;
    } catch {
      return false; // none was made yet
    }
  };
  mkdirSync(dir, { recursive: true });
  await once(join(dir, "lock"), isOfNow, () => {
    const part = join(dir, "part");
    const build = scripts.build.replace(/^.*&& bun /, "").replace(/\S+$/, part).split(" ");
    const ran = Bun.spawnSync([process.execPath, ...build], { cwd: ROOT });
    if (ran.exitCode !== 0) throw new Error(`${build.join(" ")}: ${ran.stderr}`);
    renameSync(part, program); // what runs goes on with the file that it has
    rmSync(`${part}.map`, { force: true });
    writeFileSync(stamp, now);
  });
  return program;
}
