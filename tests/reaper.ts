/**
 * Ends what a test run leaves behind, however the run ended. Its standard input is held by the run
 * alone and names the fleets, a JSON line each: a pipe ends with the process that holds it, by kill -9
 * too. What a fleet started is known by the TMUX_TMPDIR in its environment.
 */
import { readdirSync, readFileSync, rmSync } from "node:fs";

export const signal = (pid: number, name: NodeJS.Signals): void => {
  try {
    process.kill(pid, name);
  } catch {
    // it has ended already
  }
};

/** All processes that a fleet started, by the mark in their environment. */
export function markedBy(tmuxDir: string): { pid: number; command: string }[] {
  const mark = `TMUX_TMPDIR=${tmuxDir}\0`;
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((name) => {
    try {
      if (!`${readFileSync(`/proc/${name}/environ`, "utf8")}\0`.includes(mark)) return [];
      return [{ pid: Number(name), command: readFileSync(`/proc/${name}/cmdline`, "utf8").replaceAll("\0", " ") }];
    } catch {
      return [];
    }
  });
}

/** Ends a fleet without a word, and removes its folders. */
async function reap(dir: string, tmuxDir: string): Promise<void> {
  for (let tries = 0; tries < 40; tries++) {
    const left = markedBy(tmuxDir);
    if (!left.length) break;
    for (const { pid } of left) signal(pid, "SIGKILL");
    await Bun.sleep(25);
  }
  for (const path of [dir, tmuxDir]) rmSync(path, { recursive: true, force: true });
}

if (import.meta.main) {
  process.on("SIGTERM", () => {}); // bun test sends it to the children of a file that has ended
  const fleets = (await Bun.stdin.text()).split("\n").filter(Boolean);
  for (const line of fleets) {
    const { dir, tmuxDir } = JSON.parse(line);
    await reap(dir, tmuxDir);
  }
}
