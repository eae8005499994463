/** Loaded before each test file. */
import { setDefaultTimeout } from "bun:test";
import { join, resolve } from "node:path";
import { once } from "./once.ts";

/** ms; Bun's own 5 s are a limit for a machine at rest. What waits for something has its own limit. */
setDefaultTimeout(300_000);

const ROOT = resolve(import.meta.dir, "..");
const installed = (): Promise<boolean> => Bun.file(join(ROOT, "node_modules", "smol-toml", "package.json")).exists();

/** A clean clone has no packages. Bun would fetch them on its own, but not where several workers do it at once. */
await once(join(ROOT, "node_modules.lock"), installed, () => {
  const ran = Bun.spawnSync([process.execPath, "install", "--frozen-lockfile"], { cwd: ROOT });
  if (ran.exitCode !== 0) throw new Error(`bun install: ${ran.stderr}`);
});
