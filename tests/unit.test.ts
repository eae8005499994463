/** The systemd unit, as systemd itself reads it. */
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { unitText, unitWord } from "../agents.ts";
import { desk, TWO } from "./desk.ts";

const { scratch, env, call, fleet } = desk();

describe("unit", () => {
  test("words are quoted as systemd reads them", () => {
    expect(unitWord('a "b" 100% c\\d')).toBe('"a \\"b\\" 100%% c\\\\d"');
    const text = unitText(["/opt/a $b/agents", "watchdog", "--config", "/x $HOME/50%/agents.toml"], { PATH: "/usr/bin", LANG: "" });
    expect(text).toContain('ExecStart="/opt/a $b/agents" "watchdog" "--config" "/x $$HOME/50%%/agents.toml"\n');
    expect(text).toContain('Environment="PATH=/usr/bin"\n');
    expect(text).not.toContain("LANG");
    const comments = text.split("\n").filter((line, i, all) => /^(Restart|KillMode|OOMPolicy|WantedBy)/.test(line) && !all[i - 1]!.startsWith("# "));
    expect(comments).toEqual([]);
  });

  test("the variable that [notify] names is not in it, which is said", () => {
    const said = (notify: string) => {
      const { code, out, err } = call(["unit", "--config", fleet("notify", `${notify}${TWO}`)], { HOOK: "https://example.org/secret" });
      return [code, out.includes("HOOK"), /the unit has no HOOK, which \[notify\] needs/.test(err)];
    };
    expect(said('[notify]\nurl = "json:env:HOOK"\n')).toEqual([0, false, true]);
    expect(said('[notify]\nurl = "json:file:/x"\n')).toEqual([0, false, false]);
  });

  test("systemd accepts it, from a folder with a space and a per cent sign", () => {
    const dir = join(scratch, "50% of it");
    const path = fleet("50% of it", TWO);
    const { code, out } = call(["unit", "--config", path]);
    expect(code).toBe(0);
    for (const word of ["Restart=always", "RestartSec=2", "KillMode=process", "OOMPolicy=continue", "WantedBy=default.target", "enable-linger"]) {
      expect(out).toContain(word);
    }
    if (!Bun.which("systemd-analyze")) return console.warn("SKIPPED: there is no systemd-analyze here, the unit was NOT verified");
    writeFileSync(join(dir, "agents.service"), out);
    const verified = Bun.spawnSync(["systemd-analyze", "verify", "--user", join(dir, "agents.service")], { env: { ...env, XDG_RUNTIME_DIR: scratch } });
    expect([verified.exitCode, String(verified.stderr)]).toEqual([0, ""]);
  });
});
