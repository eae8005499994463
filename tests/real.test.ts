/** The harness itself: whatever ends a test run, what it started ends with it. */
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { lives, until } from "./real.ts";
import { markedBy } from "./reaper.ts";

/** A test file that makes a fleet, notes where, and stays. */
const file = (note: string): string => `
import { renameSync, writeFileSync } from "node:fs";
import { real } from ${JSON.stringify(join(import.meta.dir, "real.ts"))};
real("stays", { agents: [{ name: "a1", watch: "heal" }] }, async (f) => {
  await f.up();
  await f.ready("a1");
  writeFileSync(${JSON.stringify(`${note}.new`)}, JSON.stringify([f.dir, f.tmuxDir, process.pid]));
  renameSync(${JSON.stringify(`${note}.new`)}, ${JSON.stringify(note)});
  await Bun.sleep(1e9);
});
`;

for (const [name, signal, flags] of [
  ["SIGKILL of a parallel run", "SIGKILL", ["--parallel=2"]],
  ["SIGTERM of a parallel run", "SIGTERM", ["--parallel=2"]],
  ["SIGKILL of a serial run", "SIGKILL", []],
] as [string, NodeJS.Signals, string[]][]) {
  test.concurrent(`${name} leaves no tmux server, watchdog, keeper or client for 30 s`, async () => {
    const folder = mkdtempSync(join(tmpdir(), "agents-real-"));
    const notes = ["one", "two"].slice(0, flags.length + 1).map((note) => join(folder, note));
    for (const note of notes) writeFileSync(`${note}.test.ts`, file(note));
    const run = Bun.spawn([process.execPath, "test", ...flags], { cwd: folder, stdin: "ignore", stdout: "ignore", stderr: "ignore" });
    try {
      await until(() => notes.every(existsSync), 20_000);
      const made = notes.map((note) => JSON.parse(readFileSync(note, "utf8")) as [string, string, number]);
      for (const [, tmuxDir] of made) {
        const commands = markedBy(tmuxDir).map(({ command }) => command);
        for (const part of ["tmux", " keep ", " watchdog ", " tui"]) expect(commands).toContainEqual(expect.stringContaining(part));
      }
      run.kill(signal);
      await run.exited;
      await until(() => made.every(([dir, tmuxDir, worker]) => !lives(worker) && !markedBy(tmuxDir).length && !existsSync(dir) && !existsSync(tmuxDir)), 30_000);
    } finally {
      run.kill("SIGKILL");
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

test("SIGKILL of a run with the real clients leaves no model, client or tmux server for 30 s", async () => {
  const folder = mkdtempSync(join(tmpdir(), "agents-real-"));
  const note = join(folder, "note");
  writeFileSync(`${note}.test.ts`, `
import { renameSync, writeFileSync } from "node:fs";
import { test } from "bun:test";
import { Fleet } from ${JSON.stringify(join(import.meta.dir, "e2e/clients.ts"))};
test("stays", async () => {
  const f = new Fleet();
  await f.startModel("claude-api.mjs");
  f.tmux("-f", "/dev/null", "new-session", "-d", \`env -i HOME="\${f.dir}/homes/a1" PATH="$PATH" sleep 1e9\`);
  writeFileSync(${JSON.stringify(`${note}.new`)}, f.dir);
  renameSync(${JSON.stringify(`${note}.new`)}, ${JSON.stringify(note)});
  await Bun.sleep(1e9);
}, 1e9);
`);
  const run = Bun.spawn([process.execPath, "test"], { cwd: folder, stdin: "ignore", stdout: "ignore", stderr: "ignore" });
  try {
    await until(() => existsSync(note), 20_000);
    const dir = readFileSync(note, "utf8");
    const commands = () => markedBy(dir).map(({ command }) => command);
    for (const part of ["tmux", "claude-api.mjs", "sleep 1e9"]) await until(() => commands().some((one) => one.includes(part)));
    run.kill("SIGKILL");
    await until(() => !commands().length && !existsSync(dir), 30_000);
  } finally {
    run.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  }
});
