/** Loaded before each test file. */
import { setDefaultTimeout } from "bun:test";
import { mkdirSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";

/** ms; Bun's own 5 s are a limit for a machine at rest. What waits for something has its own limit. */
setDefaultTimeout(300_000);

const ROOT = resolve(import.meta.dir, "..");
const LOCK = join(ROOT, "node_modules.lock");
/** So many tenths of a second: then whoever has the lock was ended while it installed. */
const PATIENCE = 600;
const installed = (): Promise<boolean> => Bun.file(join(ROOT, "node_modules", "smol-toml", "package.json")).exists();

/**
 * A clean clone has no packages. Bun would fetch them on its own, but not where several workers do it
 * at once: the first one installs them, the others wait for it.
 */
for (let tries = 0; !(await installed()); tries++) {
  try {
    mkdirSync(LOCK, { recursive: tries > PATIENCE });
  } catch {
    await Bun.sleep(100);
    continue;
  }
  const ran = Bun.spawnSync([process.execPath, "install", "--frozen-lockfile"], { cwd: ROOT });
  rmSync(LOCK, { recursive: true, force: true });
  if (ran.exitCode !== 0) throw new Error(`bun install: ${ran.stderr}`);
}
