/** A clean clone has no packages. Bun would fetch them on its own, but not where several processes do it at once. */
import { join, resolve } from "node:path";
import { once } from "./once.ts";

const ROOT = resolve(import.meta.dir, "..");
const installed = (): Promise<boolean> => Bun.file(join(ROOT, "node_modules", "smol-toml", "package.json")).exists();

await once(join(ROOT, "node_modules.lock"), installed, () => {
  const ran = Bun.spawnSync([process.execPath, "install", "--frozen-lockfile"], { cwd: ROOT });
  if (ran.exitCode !== 0) throw new Error(`bun install: ${ran.stderr}`);
});
