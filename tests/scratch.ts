/** Where tests make their folders. */
import { readFileSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";

/** Bytes; the tests need a tenth of it. */
const ENOUGH = 1_000_000_000;

/**
 * In memory, where Linux has such a place, it is large enough and programs may be run from it: to make a file there
 * takes a tenth of the processor time that it takes on a disk where thousands of others were just removed.
 */
export const SCRATCH = isFit("/dev/shm") ? "/dev/shm" : tmpdir();

function isFit(folder: string): boolean {
  try {
    const options = readFileSync("/proc/mounts", "utf8").split("\n").map((line) => line.split(" "))
      .find(([, place, type]) => place === folder && type === "tmpfs")?.[3]?.split(",") ?? ["ro"];
    const { bavail, bsize } = statfsSync(folder);
    return !options.includes("noexec") && options.includes("rw") && bavail * bsize > ENOUGH;
  } catch {
    return false; // no Linux
  }
}
