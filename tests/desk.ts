/**
 * A person's desk: a folder with stand-ins for clients in its bin/, from which the program is called as from a
 * shell. Nothing of this machine is seen there: not its clients, its zone, its tmux server.
 */
import { afterAll } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT, SELF } from "./program.ts";

export { ROOT, SELF };

export const TWO = '[[agent]]\nname = "builder"\nbackend = "claude"\n[[agent]]\nname = "adversary"\nbackend = "claude"\n' +
  '[[service]]\nname = "server"\ncommand = "sleep 9"\n';

export interface Desk {
  scratch: string;
  bin: string;
  env: Record<string, string> & { PATH: string };
  /** Puts a shell script into bin/. */
  script(name: string, body: string): void;
  /** Calls the program there. */
  call(args: string[], env?: Record<string, string>): { code: number; out: string; err: string };
  /** A folder with an agents.toml; its path. */
  fleet(name: string, toml: string): string;
}

/** One for a test file; it is cleared away after the last test. */
export function desk(): Desk {
  const scratch = mkdtempSync(join(tmpdir(), "agents-desk-"));
  const bin = join(scratch, "bin");
  const env = {
    // what Bun made of the program already: its cache would be empty in an empty home
    BUN_RUNTIME_TRANSPILER_CACHE_PATH: join(homedir(), ".bun", "install", "cache", "@t@"),
    PATH: `${bin}:/usr/local/bin:/usr/bin:/bin`, HOME: scratch, TMUX_TMPDIR: scratch, LANG: "C.UTF-8", TZ: "UTC", TERM: "xterm-256color",
  };
  const script = (name: string, body: string): void => {
    writeFileSync(join(bin, name), `#!/bin/sh\n${body}\n`);
    chmodSync(join(bin, name), 0o755);
  };
  mkdirSync(bin);
  for (const name of ["agents", "agents.ts"]) script(name, `exec ${SELF.map((word) => `'${word}'`).join(" ")} "$@"`);
  afterAll(() => {
    Bun.spawnSync(["tmux", "-L", "people", "kill-server"], { env });
    rmSync(scratch, { recursive: true });
  });
  return {
    scratch, bin, env, script,
    call(args, own = {}) {
      const ran = Bun.spawnSync([...SELF, ...args], { env: { ...env, ...own }, cwd: scratch, timeout: 240_000 });
      return { code: ran.exitCode ?? -1, out: String(ran.stdout), err: String(ran.stderr) };
    },
    fleet(name, toml) {
      const dir = join(scratch, name);
      mkdirSync(dir, { recursive: true });
      writeFileSync(join(dir, "agents.toml"), toml);
      return join(dir, "agents.toml");
    },
  };
}
