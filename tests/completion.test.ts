/** Completion in a real bash and a real zsh. */
import { beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { COMMANDS } from "../agents.ts";
import { desk, TWO } from "./desk.ts";
import { command } from "./kit.ts";
import { until } from "./wait.ts";

const { scratch, env, call, fleet } = desk();

/** A shell in a real terminal with our completion: what it shows once a line was typed and Tab pressed. */
async function shellOf(argv: string[], prepare: string): Promise<(typed: string, awaited: RegExp) => Promise<string>> {
  const tmux = (...args: string[]) => String(Bun.spawnSync(["tmux", "-L", "people", ...args], { env: env, timeout: 60_000 }).stdout);
  const pane = tmux("-f", "/dev/null", "new-session", "-dP", "-F", "#{pane_id}", "-x", "150", "-y", "40", "-c", join(scratch, "shell"), ...argv).trim();
  const keys = (...words: string[]) => tmux("send-keys", "-t", pane, ...words);
  const screen = () => tmux("capture-pane", "-p", "-t", pane);
  const wait = (what: RegExp) => until(() => what.test(screen())).catch(() => {}); // the screen itself says what is there
  keys("-l", prepare);
  keys("Enter");
  await wait(/^ready/m);
  return async (typed, awaited) => {
    // the line before it is dropped, and an empty screen shows that; C-c would take what is typed after it along
    keys("C-u", "C-l");
    await wait(/^>\s*$/);
    keys("-l", typed);
    keys("Tab");
    await wait(awaited);
    return screen();
  };
}

const SHELLS: Record<string, { argv: string[]; prepare: string }> = {
  bash: { argv: ["env", "PS1=> ", "INPUTRC=/dev/null", "bash", "--norc", "--noprofile", "-i"],
    prepare: "bind 'set show-all-if-ambiguous on'; bind 'set bell-style none'; clear; source <(agents completion bash); echo re''ady" },
  zsh: { argv: ["env", "zsh", "-f", "-i"],
    prepare: "PS1='> '; autoload -Uz compinit; compinit -u -D; unsetopt beep; source <(agents completion zsh); echo re''ady" },
};

describe("completion", () => {
  beforeAll(() => {
    const toml = '[[agent]]\nname = "builder"\nbackend = "claude"\n[[agent]]\nname = "surveyor"\nbackend = "claude"\n';
    fleet("shell", toml);
    fleet("shell/with space", toml.replace("builder", "zebra"));
  });

  test("names lists agents, services and the watchdog", () => {
    expect(call(["names", "--config", fleet("names", TWO)]).out.trim().split("\n").sort()).toEqual(["adversary", "builder", "server", "watchdog"]);
    expect(call(["help"]).out).not.toMatch(/^ {2}names/m);
  });

  test("every shown command and option is offered, no hidden one is", async () => {
    const offered = (...line: string[]) => call(["complete", "--", "bash", `${line.length - 1}`, ...line]).out.trimEnd().split("\n");
    const shown = COMMANDS.filter(({ hidden }) => !hidden);
    expect(offered("agents", "")).toEqual(shown.map(({ name }) => name));
    expect(offered("agents", "-").toSorted()).toEqual(["--config", "--help", "--version"]);
    for (const { name, options = {} } of shown) {
      const own = Object.entries(options).filter(([, { clause }]) => clause).map(([option]) => `--${option}`);
      const { out } = await command("complete", "--", "bash", "2", "agents", name, "-");
      expect([name, ...out.trimEnd().split("\n")]).toEqual([name, ...own, "--config", "--help"]);
    }
    expect([offered("agents", "phase", ""), offered("agents", "report", ""), offered("agents", "keep", "")]).toEqual([["show", "next", "set"], [""], [""]]);
    expect([offered("agents", "init", ""), offered("agents", "up", "--config", ""), offered("agents", "logs", "-n", "")]).toEqual([[":folders"], [":files"], [""]]);
    expect(offered("agents", "events", "--event", "")).toContain("blocked");
    expect(call(["complete", "--", "zsh", "1", "agents", ""]).out).toStartWith(`up:${COMMANDS.find(({ name }) => name === "up")!.clause}\n`);
  });

  test("a name is offered where its command takes one, a phase where one is set", async () => {
    const path = fleet("offers", '[[agent]]\nname = "a1"\nbackend = "claude"\n[loop]\nphases = [{ id = "one", plan = "p.md", status = "s.md" }, { id = "two", plan = "p.md", status = "t.md" }]\n');
    const offered = async (...line: string[]) => (await command("complete", "--", "bash", `${line.length + 1}`, "agents", ...line, "", "--config", path)).out.trimEnd();
    for (const name of ["up", "down", "restart", "logs", "attach", "events"]) expect([name, await offered(name)]).toEqual([name, "a1\nwatchdog"]);
    for (const name of ["status", "send", "explain", "capture"]) expect([name, await offered(name)]).toEqual([name, "a1"]);
    for (const [words, offers] of [["logs a1", "a1\nwatchdog"], ["send a1", ""], ["capture a1", ""], ["attach a1", ""], ["phase", "show\nnext\nset"], ["phase set", "one\ntwo"], ["phase set one", ""], ["phase next", ""], ["completion bash", ""]] as const) {
      expect([words, await offered(...words.split(" "))]).toEqual([words, offers]);
    }
  });

  test("the scripts are sound, and for these shells alone", () => {
    for (const shell of ["bash", "zsh"]) {
      const script = call(["completion", shell]).out;
      if (Bun.which(shell)) expect(Bun.spawnSync([shell, "-n"], { stdin: Buffer.from(script), env: env }).exitCode).toBe(0);
    }
    expect(call(["completion", "fish"])).toEqual({ code: 2, out: "", err: "agents: usage: completion bash | zsh\n" });
  });

  for (const [shell, { argv, prepare }] of Object.entries(SHELLS)) {
    const present = Bun.which(shell, { PATH: env.PATH }) !== null;
    if (!present) console.warn(`SKIPPED: there is no ${shell} here, its completion was NOT tried`);
    const cases: [typed: string, shown: RegExp][] = [
      ["agents rep", /^> agents report/m],
      ["agents sta", /^> agents status/m],
      ["agents status --js", /^> agents status --json/m],
      ["agents up --config agents.toml bui", /^> agents up --config agents.toml builder/m],
      ["agents up --config=agents.toml sur", /^> agents up --config=agents.toml surveyor/m],
      ["agents --config agents.toml down bui", /^> agents --config agents.toml down builder/m],
      ["agents up --config 'with space/agents.toml' ze", /^> agents up --config 'with space\/agents.toml' zebra/m],
      ["agents up --config with\\ space/agents.toml ze", /^> agents up --config with\\ space\/agents.toml zebra/m],
      ["agents up --config ag", /^> agents up --config agents.toml/m],
      ["agents up --config=ag", /^> agents up --config=agents.toml/m],
      ["agents phase ne", /^> agents phase next/m],
      ["agents completion zs", /^> agents completion zsh/m],
      ["agents init wi", /^> agents init with\\ space/m],
      ["../bin/agents.ts rep", /^> ..\/bin\/agents.ts report/m],
      ["agents up --config agents.toml ", /builder +surveyor +watchdog|builder\s+surveyor\s+watchdog/],
    ];
    let started: ReturnType<typeof shellOf> | undefined;
    test.skipIf(!present).each(cases)(`${shell}: %s<Tab>`, async (typed, shown) => {
      const complete = await (started ??= shellOf(argv, prepare));
      expect(await complete(typed, shown)).toMatch(shown);
    }, 300_000);
  }
});
