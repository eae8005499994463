/** What up, down and restart do, also when they are cut short, or come two at once. */
import { beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, readlinkSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { cmdRestart, cmdUp, phaseIdxFile, world } from "../agents.ts";
import { agents, command, fakeWorld, FLEET, realFolder, type Scene, scene } from "./kit.ts";
import { allowed, type Fleet, life, lives, quote, real, TUI, until } from "./real.ts";

describe("up", () => {
  let { fake, cfg, pane, starts } = {} as Scene;
  const begin = async (text: string, count = 3): Promise<void> => void ({ fake, cfg, pane, starts } = await scene(text, { fake, ticks: count }));
  beforeEach(() => {
    fake = fakeWorld(realFolder());
    fake.tmux.onStart = (one) => void (one.doing = "busy");
  });
  const up = (...words: string[]): Promise<number> => cmdUp({ path: cfg.path, words, options: {} });

  test("who was started by somebody else while up paused is not told its kickoff again", async () => {
    fake.tmux.onStart = (one) => fake.stat(one.pid, 1); // in front of its pane
    const names = ["a", "b", "c", "d"];
    await begin(`[watchdog]\nstart_batch = 1\n[backend.typed]\nbin = "typed"\nconnect_delay = 0\n${names.map((name) =>
      `[[agent]]\nname = "${name}"\nbackend = "typed"\nprompt = "Work."\n`).join("")}`, 0);
    const sleep = world.sleep;
    world.sleep = async (ms) => {
      if (ms > 900 && !starts("d")) fake.tmux.add("agents-d");
      await sleep(ms);
    };
    expect([await up(...names), ...names.map((name) => starts(name))]).toEqual([0, 1, 1, 1, 1]);
    expect(names.map((name) => pane(name).received.length)).toEqual([1, 1, 1, 0]);
  });
  test("where no watchdog runs it types the first texts for as long as the slowest client takes to connect, and 20 s more; what is left stays queued", async () => {
    fake.tmux.onStart = (one) => {
      one.doing = "idle";
      if (one.session === "agents-a") fake.stat(one.pid, 1); // in front of its pane
    };
    await begin([["a", 5], ["b", 30]].map(([name, delay]) => `[backend.${name}]\nkind = "typed"\nbin = "typed"\nconnect_delay = ${delay}\n[[agent]]\nname = "${name}"\nbackend = "${name}"\nprompt = "Work."\n`).join(""), 0);
    const began = fake.mono;
    expect([await up("a", "b"), Math.floor((fake.mono - began) / 5_000)]).toEqual([0, 10]);
    expect(await Promise.all(["a", "b"].map(async (name) => [pane(name).received.length, (await fake.watch(cfg)).outbox.filter(({ target }) => target === name).length]))).toEqual([[1, 0], [0, 1]]);
  });
  test("a task that somebody else started meanwhile, and that has ended by now, was started all the same", async () => {
    await begin('[[agent]]\nname = "a"\nkind = "task"\nbackend = "claude"\n', 0);
    let first = true;
    fake.beforeTmux((args) => {
      if (!first || !args.includes("new-session")) return;
      first = false;
      fake.tmux.add("agents-a").marks = { "@agents_session": "agents-a", "@agents_home": cfg.stateDir, "@agents_backend": "claude" };
      fake.tmux.exit("agents-a", 0);
    });
    expect([await up("a"), starts("a")]).toEqual([0, 1]);
  });
  test("after the last phase the loops are not started again: it is said, and the others are", async () => {
    await begin(FLEET, 0);
    fake.files.set(join(cfg.logDir, "SEQUENCE-COMPLETE"), "done");
    fake.git.push("init");
    expect([await up("orchestrator"), starts("orchestrator")]).toEqual([0, 1]);
    expect([await up("builder"), starts("builder"), fake.logged("all phases are done; add a phase to [loop] and run \"agents phase next\", or to repeat one take DONE out of its status file").length]).toEqual([1, 0, 1]);
    // nor do explain and send say that up would start one
    fake.tmux.exit("agents-orchestrator", 125);
    const said = (...words: string[]) => command(...words, "--config", cfg.path);
    expect((await said("explain", "builder")).out).toMatch(/^cure +all phases are done; add a phase to \[loop\]/m);
    expect((await said("explain", "orchestrator")).out).toMatch(/^cure +"agents up orchestrator" starts it$/m);
    const before = fake.wall;
    expect((await said("send", "builder", "hear this")).err).toStartWith("agents: builder is not running: all phases are done; add a phase to [loop]");
    expect(fake.wall).toBe(before);
    await said("down", "builder");
    expect((await said("send", "builder", "hear this")).err).toStartWith("agents: builder is stopped by you: all phases are done; add a phase to [loop]");
  });
  test.each([
    ["are done", "all phases are done", () => fake.files.set(join(cfg.logDir, "SEQUENCE-COMPLETE"), "done")],
    ["cannot be read", "is out of range", () => fake.files.set(phaseIdxFile(cfg), "99")],
  ])("restart ends no loop that it must not start again: the phases %s", async (_, why, spoil) => {
    await begin(FLEET);
    const pids = () => ["builder", "orchestrator"].map((name) => pane(name).pid);
    const [builder, other] = pids();
    spoil();
    expect(await cmdRestart({ path: cfg.path, words: ["builder", "orchestrator"], options: {} })).toBe(1);
    expect([pids()[0], pids()[1] === other, pane("builder").dead]).toEqual([builder, false, false]);
    expect(fake.logged("builder: ").join()).toContain(why);
  });
  test("restart ends no client that could not be started again: its folder is not there, or a client that left the config is in it", async () => {
    const fleet = (dir: string, ...names: string[]) => `${names.map((name) => `[[agent]]\nname = "${name}"\nbackend = "claude"\nwatch = "heal"\ndir = "/at/${name === "a" ? dir : name}"\n`).join("")}`;
    for (const name of ["a", "b", "old"]) fake.folders.add(`/at/${name}`);
    await begin(fleet("a", "a", "b", "old"));
    const { pid } = pane("a");
    for (const [dir, why] of [["gone", "a: dir /at/gone does not exist"], ["old", "a: old, no longer in the config, is at work in its folder"]] as const) {
      cfg = await fake.config(fleet(dir, "a", "b"));
      const before = starts("b");
      expect([dir, await cmdRestart({ path: cfg.path, words: ["a", "b"], options: {} })]).toEqual([dir, 1]);
      expect([pane("a").pid, pane("a").dead, starts("a"), starts("b")]).toEqual([pid, false, 1, before + 1]);
      expect(fake.logged(why)).toHaveLength(1);
    }
  });
  test("restart ends no client whose program is not there any more", async () => {
    await begin(agents("a", "b"));
    const { pid } = pane("a");
    fake.tmux.shell = () => 99;
    expect(await cmdRestart({ path: cfg.path, words: ["a"], options: {} })).toBe(1);
    expect([pane("a").pid, pane("a").dead, starts("a"), fake.logged("a: claude was not found").length]).toEqual([pid, false, 1, 1]);
  });
  describe("what an agent needs", () => {
    let open = true;
    const restart = (...words: string[]): Promise<number> => cmdRestart({ path: cfg.path, words, options: {} });
    beforeEach(async () => {
      open = true;
      fake.http = async () => ({ ok: open, status: open ? 200 : 0, body: "" });
      await begin(`[[service]]\nname = "web"\ncommand = "serve"\nready = "8080"\n${agents("a")}needs = ["web"]\n${agents("b")}`);
    });
    test("and is not ready within up_wait: restart leaves it at work, and restarts the others", async () => {
      const { pid } = pane("a");
      open = false;
      const began = fake.mono;
      expect(await restart("a", "b")).toBe(1);
      expect([pane("a").pid, pane("a").dead, starts("a"), starts("b")]).toEqual([pid, false, 1, 2]);
      expect(fake.logged("a: not restarted: it waits for web, which is not ready")).toHaveLength(1);
      expect(fake.mono - began).toBeGreaterThanOrEqual(cfg.watchdog.upWait * 1000);
      expect(JSON.parse(fake.files.get(join(cfg.stateDir, "operator.json"))!)).toMatchObject({ held: {}, busy: {}, owners: {} });
    });
    test("and is ready a moment later: restart waits for it with its client at work", async () => {
      open = false;
      const { sleep } = world;
      let dead: boolean | undefined;
      world.sleep = async (ms) => {
        dead ??= pane("a").dead;
        open = true;
        await sleep(ms);
      };
      expect([await restart("a"), dead, starts("a")]).toEqual([0, false, 2]);
    });
    test("and is restarted with it: that it was not ready is no matter", async () => {
      open = false;
      fake.tmux.onStart = (one) => {
        one.doing = "busy";
        open ||= one.session === "agents-web";
      };
      const began = fake.mono;
      expect([await restart("web", "a"), starts("web"), starts("a")]).toEqual([0, 2, 2]);
      expect(fake.mono - began).toBeLessThan(cfg.watchdog.upWait * 1000);
    });
  });
  test("a start that its folder prevents leaves what the last client of its pane said", async () => {
    fake.folders.add("/at/a");
    await begin(`${agents("a")}dir = "/at/a"\n`);
    fake.tmux.exit("agents-a", 1, "segmentation fault");
    fake.folders.delete("/at/a");
    expect([await up("a"), pane("a").dead, pane("a").text]).toEqual([1, true, expect.stringContaining("segmentation fault")]);
    expect(fake.logged("a: dir /at/a does not exist")).toHaveLength(1);
  });
  test("a phase that begins while a restart ends its loop is the phase that it starts in", async () => {
    await begin(FLEET);
    const { sleep } = world;
    world.sleep = (ms) => {
      fake.files.set(phaseIdxFile(cfg), "1");
      return sleep(ms);
    };
    const kill = fake.tmux.kill.bind(fake.tmux);
    fake.tmux.kill = (...args: Parameters<typeof kill>) => {
      fake.files.set(phaseIdxFile(cfg), "1");
      return kill(...args);
    };
    expect(await cmdRestart({ path: cfg.path, words: ["builder"], options: {} })).toBe(0);
    expect(pane("builder").marks["@agents_phase"]).toBe(cfg.loop.phases[1]!.id);
  });
  test("one agent's error is its own: the others are started, exit 1", async () => {
    await begin(agents("a", "b"), 0);
    const write = fake.write.bind(fake);
    fake.write = (path, text) => {
      if (path.endsWith("kickoff-agents-a.txt")) throw new Error("EACCES: permission denied");
      write(path, text);
    };
    expect([await up("a", "b"), starts("a"), starts("b")]).toEqual([1, 0, 1]);
    expect(fake.logged("a: EACCES: permission denied")).toHaveLength(1);
  });
  test("a start that failed is no client to be given time", async () => {
    await begin(`[watchdog]\nstart_batch = 1\n${agents("a", "b", "c", "d")}`, 0);
    fake.beforeTmux((args) => {
      if (args.includes("new-session")) throw new Error("EIO: i/o error, spawn");
    });
    const began = fake.mono;
    expect([await up("a", "b", "c", "d"), starts("a"), fake.mono - began]).toEqual([1, 0, 0]);
  });
  test("what a unit needs is asked for now and then until up_wait is over, then it is named", async () => {
    await begin('[watchdog]\nup_wait = 10\n[[agent]]\nname = "a"\nbackend = "claude"\nneeds = ["web"]\n[[service]]\nname = "web"\ncommand = "serve"\nready = "8080"\n', 0);
    let looks = 0;
    fake.beforeTmux(() => {
      if ((looks += 1) > 1_000) throw new Error("it looks without a pause");
    });
    expect([await up("a", "web"), starts("a"), fake.logged("a: not started: it waits for web")]).toEqual([1, 0, [expect.any(String)]]);
    expect(looks).toBeGreaterThan(20);
    expect(looks).toBeLessThan(150);
  });
  test("a phase that cannot be read stops the loops alone", async () => {
    await begin(FLEET, 0);
    fake.files.set(phaseIdxFile(cfg), "99");
    expect([await up("orchestrator", "builder"), starts("orchestrator"), starts("builder")]).toEqual([1, 1, 0]);
    expect(fake.logged(/builder: .*out of range/)).toHaveLength(1);
  });
});

/** The environment that a process was started with. */
const environ = (pid: number): string[] => readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
/** What operator.json says. */
const wanted = (f: Fleet) => JSON.parse(f.read(".agents/state/operator.json") || "{}");
/** The clients of an agent that live now. */
const clients = (f: Fleet, name: string): number[] =>
  [...new Set(f.ledger(name).flatMap((fact) => (fact.pid && lives(fact.pid) ? [fact.pid] : [])))];

/** Their clients take 10 s to end: each test has one of its own, and they wait at once. */
const stubborn = life({
  agents: ["a1", "b1", "c1"].map((name) => ({ name, watch: "heal+stall", env: { TUI_IGNORE_HUP: "1" } })), watchdog: { signal_interval: 1 },
}, async (f) => {
  await f.up();
  await f.ready("a1", "b1", "c1");
  await f.ticks(2);
});

/** A command that was ended once the session of its agent was gone. */
async function cutShort(f: Fleet, word: string, name: string, by: NodeJS.Signals): Promise<void> {
  const command = f.start([word, name]);
  await until(async () => !(await f.sessions()).includes(`t-${name}`));
  command.kill(by);
  await command.exited;
}

stubborn("a restart that is cut short takes nothing down for good", async (f) => {
  await cutShort(f, "restart", "a1", "SIGINT");
  const { held, busy } = wanted(f);
  expect([held.a1, busy]).toEqual([undefined, expect.objectContaining({ a1: expect.any(Number) })]);
  expect(busy.a1 - Date.now()).toBeLessThan(60_000);
  expect((await f.states()).of.a1).not.toBe("stopped by you");
  await until(() => f.starts("a1").length === 2, 20_000);
  expect(clients(f, "a1")).toHaveLength(1);
  // none where a round came between the end of its session and that of the command
  expect(f.events("down").filter(({ agent, why }) => agent === "a1" && why !== "the command that was restarting it was cut short")).toEqual([]);
});

stubborn("down that is cut short, then up: never two clients", async (f) => {
  const [[old], begun] = [clients(f, "b1"), f.starts("b1").length];
  await cutShort(f, "down", "b1", "SIGKILL");
  expect(clients(f, "b1")).toEqual([old!]);
  let most = 0;
  const timer = setInterval(() => void (most = Math.max(most, clients(f, "b1").length)), 10);
  try {
    await f.up("b1");
    await until(() => f.starts("b1").length === begun + 1);
    expect([most, lives(old!)]).toEqual([1, false]);
  } finally {
    clearInterval(timer);
  }
});

stubborn("down that is cut short: the watchdog ends what is left, and starts nothing", async (f) => {
  const [[old], begun] = [clients(f, "c1"), f.starts("c1").length];
  await cutShort(f, "down", "c1", "SIGKILL");
  await until(() => !lives(old!), 15_000);
  await f.ticks(2);
  expect([f.starts("c1").length, (await f.states()).of.c1]).toEqual([begun, "stopped by you"]);
});

const called = life({
  agents: [{ name: "a1", watch: "heal" }, { name: "b1", backend: "gone", watch: "heal" }, { name: "c1", backend: "slow", watch: "heal", dir: "work" }],
  watchdog: { signal_interval: 1 }, toml: ["gone", "slow"].map((name) => `[backend.${name}]\nkind = "claude"\nbin = "./${name}"\n`).join(""),
});

called("from a shell with another TMUX_TMPDIR: the fleet is seen where it runs, and no client is taken for gone", async (f) => {
  const elsewhere = { env: { TMUX_TMPDIR: f.path() } };
  const seen = async () => JSON.parse((await f.run(["status", "--json"], elsewhere)).out).agents.map(({ running }: { running: boolean }) => running);
  await f.up("a1");
  await f.ready("a1");
  const pid = await f.pid("a1");
  for (const more of [[], ["watchdog"]]) {
    expect(await seen()).toEqual([true, false, false]);
    expect((await f.run(["up", "a1", ...more], elsewhere)).code).toBe(0);
    expect([await f.pid("a1"), f.starts("a1").length]).toEqual([pid, 1]);
  }
  expect((await f.run(["doctor"], elsewhere)).out).toMatch(/^ok +tmux: [\d.a-z]+$/m);
  expect((await f.run(["down"], elsewhere)).code).toBe(0);
  expect([await f.sessions(), lives(pid)]).toEqual([[], false]);
});

called("calls that come at once wait for each other: each text is queued", async (f) => {
  await f.up("a1");
  const lock = Bun.spawn(["flock", join(f.state, "operator.lock"), "cat"], { stdin: "pipe", stdout: "pipe" });
  lock.stdin.write("held\n");
  lock.stdin.flush();
  await lock.stdout.getReader().read();
  const texts = Array.from({ length: 4 }, (_, nth) => `text ${nth}`);
  const calls = texts.map((text) => f.start(["send", "a1", text, "--queue"]));
  // longer than a call takes that does not wait, and half of what one waits for the lock
  await Bun.sleep(Math.min(await allowed(1_000), 5_000));
  expect(calls.map(({ exitCode }) => exitCode)).toEqual(texts.map(() => null));
  lock.stdin.end();
  expect(await Promise.all(calls.map(({ exited }) => exited))).toEqual(texts.map(() => 0));
  expect(wanted(f).queue.map(({ text }: { text: string }) => text).toSorted()).toEqual(texts);
});

called("restart, and a watchdog that finds it on a wrong backend, leave a client at work whose program is gone", async (f) => {
  const [gone, slow] = ["gone", "slow"].map((name) => f.path(name));
  f.write("agents.toml", f.text().replace('"./gone"', JSON.stringify(quote(gone!))).replace('"./slow"', JSON.stringify(`sh ${quote(slow!)}`)));
  f.write("gone", `#!/bin/sh\nexec ${TUI} "$@"\n`);
  chmodSync(gone!, 0o755);
  // for the test below: between the end of its client and the start of a new one its folder goes
  f.write("slow", `trap : HUP TERM\n${TUI} "$@"\nrmdir ${quote(f.path("work"))}\n`);
  mkdirSync(f.path("work"));
  await f.up();
  await f.ready("b1", "c1");
  const pid = await f.pid("b1");
  rmSync(gone!);
  const ran = await f.run(["restart", "b1"]);
  expect([ran.code, ran.err]).toEqual([1, expect.stringContaining(`b1: ${gone} was not found; see bin in [backend.gone]`)]);
  await f.tmux("set-option", "-p", "-t", "=t-b1:", "@agents_backend", "claude");
  await until(() => JSON.parse(f.read(".agents/state/watch.json")).agents.b1.hindered);
  expect((await f.states()).of.b1).toContain(`not restarted: ${gone} was not found`);
  expect([await f.pid("b1"), f.starts("b1").length]).toEqual([pid, 1]);
});

called("a restart that fails leaves the agent to the watchdog", async (f) => {
  const begun = f.starts("c1").length;
  const ran = await f.run(["restart", "c1"]);
  expect([ran.code, ran.err]).toEqual([1, expect.stringContaining("work does not exist")]);
  expect([wanted(f).held, wanted(f).busy]).toEqual([{}, {}]);
  mkdirSync(f.path("work"));
  await until(() => f.starts("c1").length === begun + 1);
});

real("a command stores the first text of a client before it starts it", {
  agents: [{ name: "a1", backend: "plain", prompt: "the work" }, { name: "b1", needs: ["web"] }],
  services: [{ name: "web", command: "exec sleep 1000", ready: "false" }], watchdog: { up_wait: 2 }, backend: { connect_delay: 1 },
}, async (f) => {
  const client = f.write("client", `#!/bin/sh\ncp ${quote(join(f.state, "operator.json"))} ${quote(f.path("seen"))}\nexec ${TUI}\n`);
  f.write("agents.toml", f.text({
    ...f.plan, toml: `[backend.plain]\nkind = "typed"\nbin = ${JSON.stringify(`sh ${quote(client)}`)}\nready_re = "auto mode on"\nconnect_delay = 1\n`,
  }));
  // b1 waits for what never comes: long after the client of a1 began
  expect((await f.run(["up", "a1", "b1", "web"])).code).toBe(1);
  expect(JSON.parse(f.read("seen")).queue).toEqual([expect.objectContaining({ target: "a1", cause: "boot" })]);
  expect(f.submits("a1")).toEqual([expect.stringContaining("kickoff-t-a1.txt")]);
});

real("a client whose name left the config: named by status, up and down, no other beside it, ended by its name or with --orphans", {
  agents: [{ name: "a1", watch: "heal", dir: "one" }, { name: "b1", watch: "heal", dir: "two" }, { name: "c1", watch: "heal", dir: "three" }],
  watchdog: { signal_interval: 1 },
}, async (f) => {
  for (const dir of ["one", "two", "three", "four", "five"]) f.write(`${dir}/README`, "r");
  await f.up();
  await f.ready("a1", "b1", "c1");
  // another fleet on the same server, and a person: neither is ours to end
  const other = await f.tmux("new-session", "-dP", "-F", "#{pane_id}", "-s", "t-other", "-c", f.path("five").replaceAll("#", "##"), "sleep", "600");
  for (const [mark, value] of Object.entries({ session: "t-other", backend: "scripted", home: "/other/.agents/state" })) await f.tmux("set-option", "-p", "-t", other, `@agents_${mark}`, value);
  await f.tmux("new-session", "-d", "-s", "t-human", "sleep", "600");
  const pids = await Promise.all(["a1", "b1", "c1"].map((name) => f.pid(name)));
  const edited = { ...f.plan, agents: [{ name: "a2", watch: "heal", dir: "one" }, { name: "d1", watch: "heal", dir: "four" }, { name: "e1", watch: "heal", dir: "five" }] };
  f.write("agents.toml", f.text(edited));
  await until(() => f.events("orphan").length === 3);
  expect(f.events("orphan").map(({ agent }) => agent).sort()).toEqual(["a1", "b1", "c1"]);
  await until(() => f.events("blocked").some(({ agent }) => agent === "a2"));
  await until(() => f.starts("d1").length);

  const status = await f.run(["status", "--json"]);
  const { agents, orphans } = JSON.parse(status.out);
  expect([status.code, agents[0].cure, agents[0].detail, orphans]).toEqual([3, "down a1", "a1, no longer in the config, is at work in its folder",
    ["a1", "b1", "c1"].map((name) => ({ name, session: `t-${name}`, running: true }))]);
  const text = await f.run(["status"]);
  for (const name of ["a1", "b1", "c1"]) expect(text.out).toContain(`${name} left the config, its client is still running → agents down ${name}`);
  const up = await f.run(["up"]);
  expect([up.code, up.err]).toEqual([1, expect.stringContaining("a2: a1, no longer in the config, is at work in its folder; end it: agents down a1")]);
  expect(up.err).toContain("e1: t-other of the fleet of /other/.agents is at work in its folder; end it: agents down t-other --config CONFIG");
  expect(f.starts("e1")).toEqual([]);
  expect(up.err).toContain("b1 left the config, its client is still running; end it: agents down b1");
  expect((await f.run(["explain", "a2"])).out).toContain("leaves it down: a1, no longer in the config, is at work");
  expect(f.starts("a2")).toEqual([]);

  const down = await f.run(["down", "a1"]);
  expect([down.code, lives(pids[0]!), down.err.includes("b1 left the config")]).toEqual([0, false, true]);
  await until(() => f.starts("a2").length === 1);
  await f.ready("a2");
  const kept = await f.pid("a2");
  const all = await f.run(["down", "--orphans"]);
  expect([all.code, pids.map(lives), lives(kept)]).toEqual([0, [false, false, false], true]);
  expect((await f.tmux("list-sessions", "-F", "#{session_name}")).split("\n").sort()).toEqual(["t-a2", "t-d1", "t-human", "t-other", "t-watchdog"]);
  const none = await f.run(["down", "--orphans"]);
  expect([none.code, none.err]).toEqual([0, expect.stringContaining("no orphans:")]);
  expect((await f.run(["down", "--orphans", "a2"])).code).toBe(2);
  expect((await f.run(["down", "a1"])).code).toBe(2);
});

// ── launches ────────────────────────────────────────────────────────────────────

const ODD = `we ird'\$HOME#{pid}%d "x"`;
/** Each has what one of the tests is about; all are started by one call of `up`. */
const launches = life({
  agents: [
    { name: "odd", dir: ODD, model: `o'p"u$s #S %d \`id\`;`, prompt: `--help "it's" $HOME \`id\` #{pid} %d;\nsecond\tline\n` },
    { name: "dash", prompt: "-x", env: { ODD: `v'"$HOME #S;` } },
    { name: "none", prompt: "" },
    { name: "long", prompt_file: "long.md" },
    { name: "longer", prompt_file: "longer.md" },
    { name: "hostile", dir: "hostile", watch: "heal" },
    { name: "a-1", model: "usual", watch: "heal" }, { name: "b1", watch: "heal" }, { name: "c1", watch: "heal" },
    { name: "prepared", backend: "prepared", env: { A: "1" } },
  ],
  toml: `[backend.other]\nkind = "claude"\nbin = ${JSON.stringify(`${TUI} other`)}\n` +
    `[backend.prepared]\nkind = "claude"\nbin = ${JSON.stringify(TUI)}\npreamble = 'export FROM="preamble $A"'\n`,
  env: { CLAUDECODE: "1", GIT_INDEX_FILE: "/nowhere", GIT_NAMESPACE: "other" }, watchdog: { signal_interval: 1 },
});
const TEXTS = [90_000, 150_000].map((size) => `begin ${"é $x ' ".repeat(size / 8)} end`) as [string, string];
/** Of one launch: a model and a backend, and a setting of Bun. */
const ONE_OFF = { AGENT_MODEL_a_1: "one-off", AGENT_BACKEND_c1: "other", BUN_OPTIONS: "--smol" };

launches("no code and no setting of the folder it is called in, or of an agent's folder, reaches the program", async (f) => {
  const folder = f.path("hostile");
  f.write("hostile/bunfig.toml", 'preload = ["./evil.ts"]\n');
  f.write("hostile/evil.ts", `require("fs").writeFileSync(${JSON.stringify(f.path("executed"))}, "x")\n`);
  f.write("hostile/.env", "AGENT_MODEL_hostile=from-dot-env\nTUI_SCRIPT=builder\n");
  f.write("hostile/tsconfig.json", "{ broken");
  mkdirSync(f.path(ODD));
  f.write("long.md", TEXTS[0]);
  f.write("longer.md", TEXTS[1]);
  expect((await f.run(["up"], { cwd: folder, env: ONE_OFF })).code).toBe(0);
  await f.ready(...f.plan.agents!.map(({ name }) => name));
  expect((await f.run(["send", "hostile", "hello"], { cwd: folder })).code).toBe(0);
  expect((await f.run(["status"], { cwd: folder })).code).toBe(0);
  expect([f.starts("hostile"), existsSync(f.path("executed"))]).toEqual([[["tui"]], false]);
});

launches("fault 39: paths, models and prompts of any letters reach the client as they stand, one of 90 KB as an argument, one of 150 KB as a file to read", async (f) => {
  const [one] = f.plan.agents!;
  // "$(cat)" drops the last newline, as a shell does
  expect(f.starts("odd")).toEqual([["tui", "--model", one!.model as string, "--", (one!.prompt as string).trimEnd()]]);
  expect(f.starts("dash")).toEqual([["tui", "--", "-x"]]);
  expect(f.starts("none")).toEqual([["tui"]]);
  expect(readlinkSync(`/proc/${await f.pid("odd")}/cwd`)).toBe(f.path(ODD));
  expect(environ(await f.pid("dash"))).toContain(`ODD=v'"$HOME #S;`);
  // the client is the pane's own process: no shell stays between
  expect(f.ledger("odd")[0]!.pid).toBe(await f.pid("odd"));
  expect(f.starts("long")[0]!.at(-1) === TEXTS[0]).toBe(true);
  const told = f.starts("longer")[0]!.at(-1)!;
  const kickoff = join(f.state, "kickoff-t-longer.txt");
  expect(told).toContain(kickoff);
  expect(readFileSync(kickoff, "utf8") === TEXTS[1]).toBe(true);
  expect(statSync(kickoff).mode & 0o077).toBe(0);
});

launches("fault 36: a one-off model and backend reach their launch, and neither the server, the other agents nor the watchdog; one in the file is a restart", async (f) => {
  const names = /AGENT_MODEL|AGENT_BACKEND|BUN_OPTIONS/;
  expect(f.starts("a-1")).toEqual([["tui", "--model", "one-off"]]);
  expect(await f.tmux("show-environment", "-g")).not.toMatch(names);
  for (const { pid, command } of f.processes()) {
    if (lives(pid)) expect([command, environ(pid).join("\n")]).toEqual([command, expect.not.stringMatching(names)]);
  }
  await f.ticks(3);
  // each runs until its agent is started again, and is no mismatch
  expect([f.starts("a-1").length, f.starts("c1")]).toEqual([1, [["tui", "other"]]]);
  // the next start by the watchdog is by the file again
  process.kill(await f.pid("a-1"), "SIGKILL");
  await until(() => f.starts("a-1").length === 2);
  expect(f.starts("a-1")[1]).toEqual(["tui", "--model", "usual"]);
  const edited = f.plan.agents!.map((agent) => (agent.name === "b1" ? { ...agent, backend: "other" } : agent));
  f.write("agents.toml", f.text({ ...f.plan, agents: edited }));
  await until(() => f.starts("b1").length === 2);
  expect([f.starts("b1"), f.starts("c1")]).toEqual([[["tui"], ["tui", "other"]], [["tui", "other"]]]);
});

launches("the operator's preamble runs in the pane's shell; what a git hook or a client that calls up sets for its own children reaches no agent, whoever started the server", async (f) => {
  const leaked = (pid: number) => environ(pid).filter((one) => /^(CLAUDECODE|GIT_INDEX_FILE|GIT_NAMESPACE)=/.test(one));
  expect(environ(await f.pid("prepared"))).toContain("FROM=preamble 1");
  expect([leaked(await f.serverPid()), leaked(await f.pid("prepared"))]).toEqual([[], []]);
  for (const name of ["CLAUDECODE", "GIT_INDEX_FILE"]) await f.tmux("set-environment", "-g", name, "1");
  expect((await f.run(["restart", "prepared"])).code).toBe(0);
  expect(leaked(await f.pid("prepared"))).toEqual([]);
});
