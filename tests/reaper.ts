/**
 * Ends what a test run leaves behind, however the run ended. Its standard input is held by the run
 * alone and names the folders of each fleet, a JSON line each: a pipe ends with the process that holds
 * it, by kill -9 too. What a fleet started is known by one of its folders in its environment.
 */
import { readdirSync, readFileSync, rmSync } from "node:fs";

/** The process that ends what this one leaves behind; started with the first fleet. */
let reaper: Bun.FileSink | undefined;

function startReaper(): Bun.FileSink {
  const child = Bun.spawn([process.execPath, import.meta.path], {
    cwd: "/", env: { PATH: process.env.PATH }, stdin: "pipe", stdout: "ignore", stderr: "ignore", detached: true,
  });
  child.unref();
  return child.stdin;
}

/** However this process ends: what these folders mark is ended then, and they are removed. */
export function reapAfter(...folders: string[]): void {
  reaper ??= startReaper();
  reaper.write(`${JSON.stringify(folders)}\n`);
  reaper.flush();
}

export const signal = (pid: number, name: NodeJS.Signals): void => {
  // 0 is the group of the tests themselves, -1 everybody
  if (!(pid > 1)) throw new Error(`no process has the number ${pid}`);
  try {
    process.kill(pid, name);
  } catch {
    // it has ended already
  }
};

/** All processes with one of these folders, or a path in it, as the value of a variable. */
export function markedBy(...folders: string[]): { pid: number; command: string }[] {
  const marks = folders.flatMap((folder) => [`=${folder}\0`, `=${folder}/`]);
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((name) => {
    try {
      const environment = `${readFileSync(`/proc/${name}/environ`, "utf8")}\0`;
      if (!marks.some((mark) => environment.includes(mark))) return [];
      return [{ pid: Number(name), command: readFileSync(`/proc/${name}/cmdline`, "utf8").replaceAll("\0", " ") }];
    } catch {
      return [];
    }
  });
}

/** Takes off the disks that a test has mounted in a folder, which cannot be removed with them. */
function unmountIn(folder: string): void {
  const points = readFileSync("/proc/self/mountinfo", "utf8").split("\n").filter(Boolean)
    .map((row) => row.split(" ")[4]!.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(parseInt(code, 8))));
  for (const point of points) if (point.startsWith(`${folder}/`)) Bun.spawnSync(["umount", "-l", point]);
}

/** Ends a fleet without a word, and removes its folders. */
export async function reap(folders: string[]): Promise<void> {
  for (let tries = 0; tries < 80; tries++) {
    const left = markedBy(...folders);
    if (!left.length) break;
    for (const { pid } of left) signal(pid, "SIGKILL");
    await Bun.sleep(25);
  }
  for (const folder of folders) {
    unmountIn(folder);
    rmSync(folder, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  process.on("SIGTERM", () => {}); // bun test sends it to the children of a file that has ended
  const fleets = (await Bun.stdin.text()).split("\n").filter(Boolean);
  for (const line of fleets) await reap(JSON.parse(line));
}
