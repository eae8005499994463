/** Everything that the fleet stands on is looked at, and each finding has its cure. */
import { beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Finding, assessClock, assessCodexStart, assessDisk, assessGeminiStart, assessLocale, assessRefusal, assessScope, assessTmux, version, wasTried, world } from "../agents.ts";
import { desk, ROOT, SELF, TWO } from "./desk.ts";
import { command, type FakeWorld, fakeWorld, holdLock } from "./kit.ts";

const { scratch, bin, env, script, call, fleet } = desk();
const DAY = Date.parse("2026-03-01T00:00:00Z");

const level = (found: unknown): string => [found].flat().map((one) => (one as Finding).level).join();
const USER = "/user.slice/user-1000.slice";
const NONE = { killMode: "control-group", oomPolicy: "stop" };
const SAFE = { killMode: "process", oomPolicy: "continue" };

describe("doctor", () => {
  test.each([
    ["tmux 3.3a", "", "ok"], ["tmux 3.3a", "3.3a", "ok"], ["tmux 3.4", "3.3a", "warn"], ["tmux 3.1c", "", "fail"],
    ["tmux 2.9", "2.9", "fail"], ["tmux next-3.6", "", "ok"], ["tmux master", "", "ok"],
  ])("%s with the server %p is %s", (client, server, expected) => expect(level(assessTmux(client, server))).toBe(expected));
  test("of a server that nobody asked nothing is said", () =>
    expect([assessTmux("tmux 3.3a", ""), assessTmux("tmux 3.3a", null)]).toMatchObject([{ what: "3.3a, no server runs" }, { what: "3.3a" }]));

  test.each([
    ["0::/system.slice/manager.service", NONE, false, "warn"],
    ["0::/system.slice/manager.service", SAFE, false, "ok"],
    [`0::${USER}/user@1000.service/app.slice/agents.service`, NONE, true, "warn"],
    [`0::${USER}/user@1000.service/app.slice/agents.service`, SAFE, true, "ok"],
    [`0::${USER}/user@1000.service/tmux-spawn-1.scope`, NONE, true, "ok"],
    [`0::${USER}/user@1000.service/tmux-spawn-1.scope`, NONE, false, "warn"],
    [`0::${USER}/session-3.scope`, NONE, false, "warn"],
    [`9:memory:/x.service\n1:name=systemd:${USER}/session-3.scope\n0::/`, NONE, true, "ok"],
    ["0::/", NONE, false, "ok"], ["", NONE, false, "ok"], ["0::/docker/0a1b", NONE, false, "ok"],
  ])("%s, %p, linger %p: %s", (cgroup, unit, linger, expected) => expect(level(assessScope(cgroup, unit, linger))).toBe(expected));

  test("a unit that kills is named with its cure", () => {
    const found = assessScope("0::/system.slice/manager.service", NONE, false) as Finding;
    expect(found.what).toContain("manager.service");
    expect(found.cure).toContain("systemd-run --user --scope");
  });

  test.each([
    ["claude", "2.1.330", true], ["claude", "2.1.331", false], ["opencode", "1.18.99", true], ["opencode", "1.19.0", false],
  ] as const)("%s %s tried: %p", (kind, version, expected) => expect(wasTried(kind, version, ["2.1.330", "2.1.197", "1.18.33"])).toBe(expected));

  const CODEX = { model_provider: "m", model_providers: { m: { env_key: "K" } }, notice: { hide_rate_limit_model_nudge: true }, projects: { "/work": { trust_level: "trusted" } } };
  const asked = (found: { what: string }[]) => found.map(({ what }) => what.replace(/^\w+ asks /, ""));
  const codex = (settings: object | null, dir = "/work/a", flags = "", ...files: string[]) =>
    asked(assessCodexStart(settings as never, dir, flags, (file) => files.includes(file)));
  test("P38: what Codex asks as it starts, and what answers it beforehand", () => {
    expect(codex(CODEX)).toEqual([]);
    expect(codex(null)).toEqual(["how to log in", "whether to trust /work/a", "near a limit whether to change the model, which Enter does"]);
    expect(codex(null, "/work/a", "", "auth.json")).not.toContain("how to log in");
    expect(codex(CODEX, "/workshop")).toEqual(["whether to trust /workshop"]);
    expect(codex({ ...CODEX, projects: { "/work/a": { trust_level: "untrusted" } } })).toEqual(["whether to trust /work/a"]);
    expect(codex({ ...CODEX, model_provider: "other" })).toEqual(["how to log in"]);
    expect(codex(CODEX, "/work", "", "hooks.json")).toEqual(["to review its hooks"]);
    expect(codex(CODEX, "/work", "--dangerously-bypass-hook-trust", "hooks.json")).toEqual([]);
    expect(assessCodexStart(CODEX, '/x"y', "", () => false)[0]!.cure).toBe('[projects."/x\\"y"] trust_level = "trusted" in config.toml');
  });
  test("P38: what Gemini asks as it starts", () => {
    const gemini = (settings: object | null, trusted: object | null, flags = "") => asked(assessGeminiStart(settings as never, trusted as never, "/work/a", flags));
    const SETTINGS = { security: { auth: { selectedType: "gemini-api-key" } } };
    expect(gemini(SETTINGS, { "/work": "TRUST_FOLDER" })).toEqual([]);
    expect(gemini(SETTINGS, null, "--skip-trust")).toEqual([]);
    expect(gemini(null, { "/work/a": "DO_NOT_TRUST" })).toEqual(["how to authenticate", "whether to trust /work/a"]);
  });
  test("P38: doctor reads the settings in the home of each agent, and leaves out one that bin sends elsewhere", () => {
    const at = fleet("first-start", `[backend.away]\nkind = "codex"\nbin = "env HOME=/else codex"\n${["codex", "gemini", "away"].map((kind) => `[[agent]]\nname = "${kind}-1"\nbackend = "${kind}"\nenv = { HOME = "${join(scratch, "client-home")}" }\n`).join("")}`);
    mkdirSync(join(scratch, "client-home", ".codex"), { recursive: true });
    writeFileSync(join(scratch, "client-home", ".codex", "config.toml"), `[notice]\nhide_rate_limit_model_nudge = true\n[projects."/"]\ntrust_level = "trusted"\n`);
    const found = examine(at).of("first start");
    expect(found.split("\n").map((line) => line.split(" ").slice(0, 5).join(" "))).toEqual(["warn Codex asks how to", "warn Gemini asks how to", "warn Gemini asks whether to"]);
  });

  test("why a folder cannot be written is said, with what helps", () => {
    expect(assessRefusal("/a", "EROFS")).toMatchObject({ what: "/a cannot be written: the disk is mounted read-only", cure: "remount it, or choose another log_dir" });
    expect(assessRefusal("/a", "EACCES")).toMatchObject({ what: "/a cannot be written: permission denied", cure: "make it yours, or choose another log_dir" });
  });
  test("disk, clock, zone, locale", () => {
    expect([99e6, 101e6, 999e6, 1e9].map((free) => level(assessDisk(free)))).toEqual(["fail", "warn", "warn", "ok"]);
    // GMT+1 is west of Greenwich to the C library, and UTC to us
    expect([assessClock(0, ""), ...["Nowhere/City", "GMT+1", ":Europe/Berlin", ""].map((zone) => assessClock(DAY, zone))].map(level))
      .toEqual(["fail", "warn", "warn", "ok", "ok"]);
    expect([assessLocale({}), assessLocale({ LANG: "C" }), assessLocale({ LANG: "de_DE.UTF-8" }), assessLocale({ LANG: "C.utf8" }),
      assessLocale({ LANG: "C.UTF-8", LC_ALL: "POSIX" })].map(level)).toEqual(["warn", "warn", "ok", "ok", "warn"]);
  });

  /** The findings of `doctor --json`, by check. */
  function findings(code: number, out: string): { code: number; of: (check: string) => string } {
    const { findings, ok, version } = JSON.parse(out) as { version: number; ok: boolean; findings: Finding[] };
    expect([version, ok]).toEqual([1, code === 0]);
    return { code, of: (check) => findings.filter((one) => one.check === check).map((one) => `${one.level} ${one.what} ${one.cure}`).join("\n") };
  }
  function examine(path: string, env: Record<string, string> = {}) {
    const { code, out } = call(["doctor", "--json", "--config", path], env);
    return findings(code, out);
  }

  /** Begun before the tests here, and read by the last one: a client that hangs is given 5 s. */
  let hung: Bun.Subprocess<"ignore", "pipe", "ignore">;
  beforeAll(() => {
    script("hangs", "sleep 60");
    const path = fleet("hung", `${TWO}[backend.claude]\nbin = "hangs"\n`);
    hung = Bun.spawn([...SELF, "doctor", "--json", "--config", path], { env, cwd: scratch, stdio: ["ignore", "pipe", "ignore"] });
  });

  test("a missing client fails, a tried one is fine, an unknown version warns", () => {
    const toml = (preamble = "") => `${TWO}[backend.claude]\nbin = "FOO=1 klaude"\npreamble = "${preamble}"\n`;
    const path = fleet("doctor", toml());
    const missing = examine(path);
    expect([missing.of("client claude"), missing.code]).toEqual(["fail klaude was not found see bin in [backend.claude]", 3]);
    script("klaude", 'test "$FOO" = 1 && echo "2.1.330 (Claude Code)"');
    const tried = examine(path);
    expect([tried.of("client claude"), tried.code]).toEqual([expect.stringMatching(/^ok klaude 2\.1\.330/), 0]);
    script("klaude", 'echo "9.9.9 (Claude Code)"');
    expect(examine(path).of("client claude")).toMatch(/^warn klaude 9.9.9: the detection rules are untested on it .*capture$/);
    fleet("doctor", toml("klaude() { echo 2.1.197; }"));
    expect(examine(path).of("client claude")).toStartWith("ok klaude 2.1.197");
    script("worker", `touch '${join(scratch, "went to work")}'`);
    const typed = fleet("doctor", '[[agent]]\nname = "x"\nbackend = "t"\n[backend.t]\nbin = "worker --go"\n');
    expect(examine(typed).of("client t")).toBe("ok worker ");
    expect(existsSync(join(scratch, "went to work"))).toBe(false);
    // a relative path leads elsewhere in each folder
    for (const dir of ["near", "far"]) mkdirSync(join(scratch, "doctor", dir), { recursive: true });
    writeFileSync(join(scratch, "doctor", "near", "own"), "", { mode: 0o700 });
    const own = (...dirs: string[]) => fleet("doctor", `backend.t.bin = "./own"\n${dirs.map((dir) => `[[agent]]\nname = "${dir}"\nbackend = "t"\ndir = "${dir}"\n`).join("")}`);
    expect(examine(own("near")).of("client t")).toBe("ok ./own ");
    expect(examine(own("near", "far")).of("client t")).toBe(`fail ./own was not found in ${join(scratch, "doctor", "far")} see bin in [backend.t]`);
    // and an agent may have a PATH of its own
    const by = (...agents: [string, string][]) => fleet("doctor", `backend.t.bin = "own"\n${agents.map(([name, env]) => `[[agent]]\nname = "${name}"\nbackend = "t"\n${env}\n`).join("")}`);
    const near = `env = { PATH = "${join(scratch, "doctor", "near")}" }`;
    expect(examine(by(["x", near], ["y", near])).of("client t")).toBe("ok own ");
    expect(examine(by(["x", near], ["y", ""])).of("client t")).toBe("ok own \nfail own was not found see bin in [backend.t]");
    expect(examine(by(["x", near], ["y", 'env = { PATH = "/nowhere" }'], ["z", 'env = { PATH = "/nowhere" }\nenabled = false'])).of("client t"))
      .toBe("ok own \nfail own was not found by the PATH of y, z see bin in [backend.t]");
  }, 300_000);

  test("an opencode server that is asked for is looked for: one that answers, one that does not, one that is ill, one with a password, which is not shown", async () => {
    let [healthy, password] = [true, ""];
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: ({ url, headers }) =>
      (password && headers.get("authorization") !== `Basic ${btoa(`opencode:${password}`)}` ? new Response("", { status: 401 })
        : new URL(url).pathname === "/global/health" ? Response.json({ healthy }) : new Response("", { status: 404 })) });
    const url = `http://127.0.0.1:${server.port}`;
    const looked = async (enabled: boolean, at = url): Promise<string> => {
      const path = fleet("server", `[[agent]]\nname = "x"\nbackend = "oc"\nenabled = ${enabled}\n` +
        `[backend.oc]\nkind = "opencode"\nbin = "true"\nserver = "${at}"\n`);
      const child = Bun.spawn([...SELF, "doctor", "--json", "--config", path], { env, stdout: "pipe" });
      const { findings } = JSON.parse(await new Response(child.stdout).text()) as { findings: Finding[] };
      return findings.filter(({ check }) => check === "server oc").map(({ level, what, cure }) => `${level} ${what} ${cure}`).join();
    };
    expect(await looked(true)).toBe(`ok ${url} `);
    password = "pw";
    expect(await looked(true)).toBe(`warn the opencode server at ${url} wants a password server = "http://opencode:PASSWORD@127.0.0.1:${server.port}", and OPENCODE_SERVER_PASSWORD in the env of its agents`);
    expect(await looked(true, url.replace("//", "//opencode:pw@"))).toBe(`ok ${url} `);
    [healthy, password] = [false, ""];
    const silent = `warn no opencode server answers at ${url} declare it as a [[service]] and run "agents up", or: opencode serve`;
    expect(await looked(true)).toBe(silent);
    await server.stop(true);
    expect([await looked(true), await looked(false)]).toEqual([silent, ""]);
  });

  /** What doctor finds in the fake world, with stand-ins from bin/. */
  async function found(check: string, toml: string, set: (fake: FakeWorld, state: string) => void, said: (one: Finding) => string = ({ level, what }) => `${level} ${what}`): Promise<string> {
    const fake = fakeWorld(join(scratch, "faked"));
    const cfg = await fake.config(toml);
    set(fake, cfg.stateDir);
    const { PATH } = process.env;
    process.env.PATH = env.PATH;
    try {
      const { findings } = JSON.parse((await command("doctor", "--json", "--config", cfg.path)).out) as { findings: Finding[] };
      return findings.filter((one) => one.check === check).map(said).join("\n");
    } finally {
      process.env.PATH = PATH;
    }
  }

  test("whose unit the tmux server dies with is asked of systemd, where there is one", async () => {
    script("systemctl", `echo "$@" > '${join(scratch, "asked")}'; printf 'KillMode=process\\nOOMPolicy=%s\\n' "$(cat '${join(scratch, "policy")}')"`);
    const scope = (cgroup: string, systemd: boolean) => found("tmux", TWO, (fake) => {
      fake.tmux.add("agents-builder");
      if (cgroup) fake.files.set(`/proc/${fake.tmux.server.pid}/cgroup`, cgroup);
      if (systemd) fake.files.set("/run/systemd/system/x", "");
    });
    const unit = "0::/system.slice/manager.service\n";
    writeFileSync(join(scratch, "policy"), "stop");
    expect(await scope(unit, true)).toBe(
      "ok 3.3a\nwarn the tmux server runs inside manager.service (KillMode=process, OOMPolicy=stop): it and all agents die with that unit");
    expect(readFileSync(join(scratch, "asked"), "utf8")).toBe("show -p KillMode -p OOMPolicy manager.service\n");
    writeFileSync(join(scratch, "policy"), "continue");
    expect(await scope(unit, true)).toBe("ok 3.3a\nok the tmux server survives a logout (manager.service)");
    await scope(`0::${USER}/user@1000.service/app.slice/agents.service\n`, true);
    expect(readFileSync(join(scratch, "asked"), "utf8")).toBe("--user show -p KillMode -p OOMPolicy agents.service\n");
    expect([await scope(unit, false), await scope("", true)]).toEqual(["ok 3.3a", "ok 3.3a"]);
  }, 300_000);

  test("the watchdog: none, one that gives signs, one that gave its last, one of another version", async () => {
    const watchdog = (beat: object | null) => found("watchdog", TWO, (fake, state) => {
      const { pid } = fake.tmux.add("agents-builder");
      if (!beat) return;
      holdLock(fake, state, pid);
      if ("mute" in beat) fake.files.delete(join(state, "watchdog.lock.pid"));
      fake.files.set(join(state, "heartbeat"), JSON.stringify({ pid, interval: 30, version: version(), at: new Date(fake.wall - 90_000).toISOString(), ...beat }));
    });
    expect(await watchdog(null)).toBe("warn not running");
    // one should run, as after a reboot: status is exit 3 then, too
    expect(await found("watchdog", `${TWO}[defaults]\nwatch = "heal"\n`, (fake, state) => fake.files.set(join(state, "watch.json"), "{}"))).toBe("fail not running");
    expect(await watchdog({})).toMatch(/^ok pid \d+, heartbeat 1m ago$/);
    expect(await watchdog({ at: "" })).toMatch(/^ok pid \d+, no heartbeat yet$/);
    expect(await watchdog({ interval: 29 })).toMatch(/^fail pid \d+ last heartbeat: 2026-06-15T11:58:30\.000Z$/);
    expect(await watchdog({ mute: true })).toMatch(/^fail it runs, but cannot write to .*\/state$/);
    expect(await watchdog({ unlogged: "/a.log: EPERM" })).toBe("fail it cannot write /a.log: EPERM");
    expect(await watchdog({ version: "0.0.9" })).toBe(`warn it runs version 0.0.9, this is ${version()}`);
  }, 300_000);

  test("a capture that another user saved, or that is damaged, says nothing of a client", async () => {
    script("klaude", "echo '2.1.330 (Claude Code)'");
    const withOther = (other: string) => found("client claude", `${TWO}[backend.claude]\nbin = "klaude"\n`, (fake) => {
      for (const [name, text] of [["a", other], ["b", '{"version":"2.1.330"}']]) fake.files.set(join(ROOT, "tests/fixtures/claude", `idle-${name}.json`), text!);
      const { read } = world;
      world.read = (path) => {
        if (read(path) === "secret") throw new Error("EACCES: permission denied");
        return read(path);
      };
    });
    expect([await withOther("{"), await withOther("secret")]).toEqual(["ok klaude 2.1.330", "ok klaude 2.1.330"]);
  }, 300_000);

  test("a tmux server that refuses is not none", async () => {
    const err = "error connecting to /tmp/tmux-0/default (Permission denied)";
    const refuses = (said: string, says?: (one: Finding) => string) => found("tmux", TWO, (fake) => {
      const run = fake.tmux.run.bind(fake.tmux);
      fake.tmux.run = (args, stdin) => args.includes("list-sessions") ? { ok: false, out: "", err: said, timedOut: false } : run(args, stdin);
    }, says);
    const cure = (said: string) => refuses(said, (one) => one.cure);
    expect(await refuses(err)).toBe(`fail the tmux server does not answer: ${err}`);
    expect([await cure(err), await cure("error connecting to /tmp/xxx/tmux-0/default (File name too long)"), await cure("couldn't create directory /tmp/file/tmux-0 (Not a directory)")])
      .toEqual(["run it yourself: tmux ls", "set TMUX_TMPDIR to a folder with a shorter path", "set TMUX_TMPDIR to a folder of yours"]);
    expect(await refuses("no server running on /tmp/tmux-0/default")).toMatch(/^ok .*, no server runs/);
  }, 300_000);

  test("notices that do not go out, and those that were given up", async () => {
    const TOLD = `[notify]\ncommand = "true"\n${TWO}`;
    const notices = (some: object | null, toml = TOLD) => found("notify", toml, (fake, state) => {
      if (some) fake.files.set(join(state, "watch.json"), JSON.stringify({ notices: { tries: 0, since: 0, dropped: 0, droppedAt: 0, why: "E2BIG", ...some } }));
    });
    expect(await notices(null, TWO)).toStartWith("warn nobody is told");
    expect([await notices(null), await notices({ tries: 1, since: 1 })]).toEqual(["ok configured", "ok configured"]);
    const hour = Date.UTC(2026, 5, 15, 11);
    expect(await notices({ tries: 3, since: hour })).toBe("fail none sent for 1h: E2BIG");
    expect(await notices({ dropped: 7, droppedAt: hour })).toBe("warn 7 dropped, the last 1h ago: E2BIG");
  }, 300_000);

  test("the plans that the phases name", () => {
    const path = fleet("plans", `loop.phases = [{ id = "p1", plan = "p1.md", status = "S.md" }, { id = "p2", plan = "sub/p2.md", status = "T.md" }]\n${["builder", "adversary"].map((role) =>
      `[[agent]]\nname = "${role}"\nkind = "loop"\nrole = "${role}"\nbackend = "claude"\n`).join("")}[backend.claude]\nbin = "true"\n`);
    const folder = join(scratch, "plans");
    expect(examine(path).of("plans").split("\n")).toEqual(["p1.md", "sub/p2.md"].map((plan, at) =>
      `warn phase p${at + 1}: ${join(folder, plan)} does not exist write it, or fix plan in [loop]`));
    mkdirSync(join(folder, "sub"));
    for (const plan of ["p1.md", "sub/p2.md"]) writeFileSync(join(folder, plan), "plan\n");
    expect(examine(path).of("plans")).toBe("ok 2 there ");
  });

  test("folders: not there yet, open to others, a file in the way, a dir that is missing", () => {
    const path = fleet("folders", `${TWO}[backend.claude]\nbin = "true"\n`);
    const logs = join(scratch, "folders", ".agents");
    expect(examine(path).of("log_dir")).toBe(`ok ${logs} does not exist yet; up makes it `);
    mkdirSync(join(logs, "state"), { recursive: true, mode: 0o700 });
    expect(examine(path).of("state")).toStartWith("ok");
    chmodSync(logs, 0o755);
    expect(examine(path).of("log_dir")).toMatch(/^warn .*mode 755.*chmod 700/);
    fleet("folders", `[defaults]\nlog_dir = "agents.toml"\ndir = "nowhere"\n${TWO}`);
    const folders = examine(path);
    expect(folders.of("log_dir")).toContain("fail");
    expect(folders.of("dirs")).toMatch(/^fail .*nowhere does not exist clone/);
    fleet("folders", `[defaults]\nbackend = "claude"\n${TWO.replace("[[service]]", '[[agent]]\nname = "spare"\nenabled = false\ndir = "nowhere"\n[[service]]')}`);
    expect(examine(path).of("dirs")).toStartWith("warn");
    // more than a disk knows how to look for
    fleet("folders", `[defaults]\ndir = "${"x".repeat(300)}"\n${TWO}`);
    expect(examine(path).of("dirs")).toMatch(/^fail .*x cannot be read \(ENAMETOOLONG.* see that its disk is mounted, or fix dir$/);
  });

  test("a config that does not load, and one with warnings", () => {
    expect(examine(fleet("bad", '[[agent]]\nname = "x"\n')).of("config")).toMatch(/^fail .*backend.*missing/);
    expect(examine(join(scratch, "none.toml")).of("config")).toContain("no such file");
    // a fault is one finding, whatever the file looks like around it
    expect(examine(fleet("unclosed", '[defaults]\nbackend = "claude\n[watchdog]\n')).of("config")).toMatch(/^fail \S+agents\.toml:2:\d+: [^\n]+ fix it, or name another with --config$/);
    expect(examine(fleet("warns", `${TWO}[watchdog]\nsignal_intervall = 3\n`)).of("config")).toMatch(/warn .*nearest is "signal_interval"/);
  });

  test("a running tmux server is looked at", () => {
    const path = fleet("server", `[defaults]\ntmux_socket = "people"\n${TWO}`);
    Bun.spawnSync(["tmux", "-L", "people", "-f", "/dev/null", "new-session", "-d", "sleep 60"], { env: env });
    expect(examine(path).of("tmux")).toMatch(/^ok \d+\.\d+\w* /);
    expect(examine(path, { PATH: bin }).of("tmux")).toContain("fail not found");
    // one that is there, and ends as a shell does that does not find something
    const broken = mkdtempSync(join(scratch, "broken-"));
    for (const name of ["tmux", "git"]) writeFileSync(join(broken, name), "#!/bin/sh\necho libevent not found >&2; exit 127\n", { mode: 0o755 });
    const found = examine(path, { PATH: `${broken}:/bin` });
    expect(["tmux", "git"].map(found.of)).toEqual(["tmux", "git"].map((name) => `fail it fails: libevent not found run it yourself: ${name}`));
  });

  test("text: a line each, the cure behind a dash", () => {
    const { out } = call(["doctor", "--config", join(scratch, "none.toml")], { TZ: "Nowhere/City" });
    for (const line of out.trim().split("\n")) expect(line).toMatch(/^(ok  |warn|fail)  \w+: /);
    expect(out).toMatch(/^warn  clock: .*  — /m);
    const narrow = call(["doctor", "--config", "none.toml"], { TZ: "Nowhere/City", COLUMNS: "44" }).out;
    for (const line of narrow.trim().split("\n")) {
      expect(line).toMatch(/^(?:ok  |warn|fail|    )  \S/);
      // a path that is longer than that is left whole, to be copied
      if (line.trim().includes(" ")) expect([line, line.length <= 44]).toEqual([line, true]);
    }
  });

  test("a client that hangs does not hang it", async () => {
    const out = await new Response(hung.stdout).text();
    expect(findings(await hung.exited, out).of("client claude")).toStartWith("warn hangs --version took longer");
  });
});
