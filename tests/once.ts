/** For what several workers, or several runs, need once. */
import { mkdirSync, rmSync } from "node:fs";

/** So many tenths of a second: then whoever has the lock was ended at work. */
const PATIENCE = 600;

/** The first one that comes does the work, the others wait for it; nobody does it where it is done. */
export async function once(lock: string, done: () => boolean | Promise<boolean>, work: () => void): Promise<void> {
  for (let tries = 0; !(await done()); tries++) {
    try {
      mkdirSync(lock, { recursive: tries > PATIENCE });
    } catch {
      await Bun.sleep(100);
      continue;
    }
    try {
      if (!(await done())) work();
    } finally {
      rmSync(lock, { recursive: true, force: true });
    }
  }
}
