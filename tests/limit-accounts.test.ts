/** A limit is the account's: one agent meets it, all that use the account wait, one asks for all, the others follow. */
import { describe, expect, test } from "bun:test";
import { accountLimitOf, accountOf, clearLimitState, curPhase, deliverAll, loadLimitState, memoryOf, save } from "../agents.ts";
import { agents, command, FLEET, holdLock, message, realFolder, scene, type Scene, type Setting } from "./kit.ts";

const NAMES = ["a", "b", "c"];
/** Three agents of one account, at rest; `more` stands in the table of each. */
const three = (more = "", setting: Setting = {}) => scene(agents(...NAMES).replaceAll("[[agent]]", `[[agent]]\n${more}`), setting);
/** Noon is when the scene begins: the limit lifts at two. */
const RESET = Date.UTC(2026, 5, 15, 14);
const limit = (it: Scene, name: string, banner = "You've hit your 5-hour limit · resets 2pm (UTC)"): void =>
  void Object.assign(it.pane(name), { doing: "limit", banner });
const until = (it: Scene, at: number) => it.ticks(Math.ceil((at - it.fake.wall) / 30_000));
const probes = (it: Scene, name: string): number => it.told(name).filter((text) => text.includes("if you can work again")).length;
const every = (it: Scene, of: (name: string) => unknown) => NAMES.map(of);
const verdicts = (it: Scene) => every(it, (name) => memoryOf(it.watch, name).verdict);
const queue = (it: Scene, target: string, cause = "claim") => void it.watch.outbox.push(message({ id: `for-${target}`, target, cause, made: it.fake.wall }));
/** What a client does with a probe: it works for a while, then rests; or meets the limit again. */
const answers = (it: Scene, name: string, doing: "busy" | "limit", banner?: string) => {
  it.pane(name).onSubmit = () => void Object.assign(it.pane(name), { doing, ...(banner ? { banner } : {}) });
};

describe("while one agent shows a limit with a reset", () => {
  test("the others count as limited: no hand-off, no wake, no stall restart", async () => {
    const it = await three('wake = { interval = 60, prompt_file = "prompts/wake.md" }');
    limit(it, "a");
    await it.ticks(2);
    const told = it.told("c").length;
    queue(it, "b");
    await it.ticks(60);
    expect(verdicts(it)).toEqual(["limited", "limited", "limited"]);
    expect([it.told("c").length, it.told("b").some((text) => text.includes("newest claim")), probes(it, "a")]).toEqual([told, false, 0]);
    expect(it.watch.outbox.find(({ id }) => id === "for-b")!.why).toBe("limited: claude (default): 5-hour limit until 14:00");
    expect(every(it, (name) => it.starts(name))).toEqual([1, 1, 1]);
  });
  test("one that dies is started again only after the reset", async () => {
    const it = await three();
    limit(it, "a");
    await it.ticks(2);
    it.fake.tmux.exit("agents-c", 1);
    await it.ticks(20);
    expect(it.starts("c")).toBe(1);
    const [, , row] = JSON.parse((await command("status", "--json", "--config", it.cfg.path)).out).agents;
    expect(row).toMatchObject({ condition: "ended", detail: expect.stringContaining("starts after 14:00 (5-hour limit)") });
    answers(it, "a", "busy");
    await until(it, RESET + 300_000);
    expect(it.starts("c")).toBe(2);
  });
  test("a phase that is done then is followed by the next, whose kickoffs wait for the reset", async () => {
    const it = await scene(FLEET.replace('name = "orchestrator"', 'name = "orchestrator"\naccount = "its own"'));
    it.fake.git.push("init", { "README.md": "r" });
    limit(it, "builder");
    await it.ticks(3);
    it.fake.git.push("status(p1): done", { "machine-docs/STATUS-p1.md": "# Status\n\n## DONE\n\nAll gates PASS.\n" });
    await it.ticks(30);
    expect([curPhase(it.cfg)!.id, it.watch.intent]).toEqual(["p2", null]);
    expect([it.starts("builder"), it.starts("adversary")]).toEqual([1, 1]);
    await until(it, RESET + 200_000);
    expect([it.starts("builder"), it.starts("adversary")]).toEqual([2, 2]);
    expect(it.pane("builder").marks["@agents_phase"]).toBe("p2");
  });
  test("who works goes on, and what a person sends is typed", async () => {
    const it = await three();
    it.pane("c").doing = "busy";
    limit(it, "a");
    await it.ticks(2);
    expect(verdicts(it)[2]).toBe("active");
    queue(it, "b", "send x");
    await it.ticks(2);
    expect(it.told("b").at(-1)).toStartWith("Supervisor: look");
  });
  test("what a person sends to the one that asks is a question too: its answer, however short, frees all", async () => {
    const it = await three();
    limit(it, "a");
    await it.ticks(2);
    expect(Object.values(it.watch.accounts)).toMatchObject([{ asker: "a", askedAt: 0 }]);
    it.pane("a").doing = "idle"; // its banner is gone, as after /clear
    await it.ticks(5);
    expect(verdicts(it)).toEqual(["limited", "limited", "limited"]);
    queue(it, "a", "send x");
    await it.ticks(6);
    expect([it.told("a").at(-1), it.watch.accounts, loadLimitState(it.cfg, "agents-a"), probes(it, "a")]).toEqual([expect.stringMatching(/^Supervisor: look/), {}, null, 0]);
    expect(verdicts(it)).toEqual(["idle", "idle", "idle"]);
  });
  test("one that meets the limit again with what a person sent stays in it, with the others", async () => {
    const it = await three();
    limit(it, "a");
    await it.ticks(2);
    it.pane("a").doing = "idle";
    answers(it, "a", "limit");
    queue(it, "a", "send x");
    await it.ticks(10);
    expect([it.told("a").length, Object.keys(it.watch.accounts).length, verdicts(it)]).toEqual([1, 1, ["limited", "limited", "limited"]]);
  });
  test("status has a line for the account, and the watchdog that follows knows it", async () => {
    const it = await three("", { home: realFolder() });
    limit(it, "a", "You've hit your weekly limit · resets Jun 18, 4am (UTC)");
    await it.ticks(3);
    await it.again();
    await it.ticks(1);
    holdLock(it.fake, it.cfg.stateDir, it.pane("a").pid);
    const { out } = await command("status", "--config", it.cfg.path);
    const line = `claude (default): weekly limit until ${new Date("2026-06-18T04:00Z").toLocaleDateString("en-US", { weekday: "short" })} `;
    expect(out).toContain(line);
    expect(out).toContain(", 3 agents wait");
    const status = JSON.parse((await command("status", "--json", "--config", it.cfg.path)).out);
    expect(status.accounts).toMatchObject([{ name: "claude (default)", class: "weekly", until: "2026-06-18T04:00:00.000Z", waiting: 3 }]);
    expect(status.agents.map(({ condition }: { condition: string }) => condition)).toEqual(["limited", "limited", "limited"]);
    expect((await command("explain", "b", "--config", it.cfg.path)).out).toContain("leaves it alone: claude (default): weekly limit until");
    // who is down by order, or waits for a person, does not wait for the reset
    it.operator({ held: { b: 1 } });
    it.fake.tmux.kill(it.pane("b"));
    it.pane("c").doing = "dialog";
    expect((await command("status", "--config", it.cfg.path)).out).toContain(", 1 agent waits");
  });
  test("status believes a new client of the one that asked, ten seconds after that", async () => {
    const it = await three();
    limit(it, "a");
    await it.ticks(3);
    clearLimitState(it.cfg, "agents-a");
    it.pane("a").doing = "idle";
    for (const shared of Object.values(it.watch.accounts)) Object.assign(shared, { asker: "a", askedAt: it.fake.wall });
    await save(it.cfg, it.watch);
    const conditions = async () => JSON.parse((await command("status", "--json", "--config", it.cfg.path)).out).agents.map((one: { condition: string }) => one.condition);
    expect(await conditions()).toEqual(["limited", "limited", "limited"]);
    it.fake.turn(10_000);
    expect(await conditions()).toEqual(["idle", "limited", "limited"]);
  });
});

describe("at the reset", () => {
  test("one asks first; once it works the others follow", async () => {
    const it = await three();
    for (const name of ["a", "b"]) limit(it, name);
    queue(it, "c");
    answers(it, "a", "busy");
    await until(it, RESET + it.cfg.watchdog.limitResetSlack * 1000 - 30_000);
    expect(every(it, (name) => probes(it, name))).toEqual([0, 0, 0]);
    await it.ticks(3);
    expect(every(it, (name) => probes(it, name))).toEqual([1, 0, 0]);
    answers(it, "b", "busy");
    await it.ticks(3);
    expect(every(it, (name) => probes(it, name))).toEqual([1, 1, 0]);
    expect(it.told("c").at(-1)).toStartWith("Supervisor: look");
    expect(it.watch.accounts).toEqual({});
    await it.ticks(3);
    expect([loadLimitState(it.cfg, "agents-a"), loadLimitState(it.cfg, "agents-b")]).toEqual([null, null]);
  });
  test("a probe that is answered between two looks is an answer", async () => {
    const it = await three();
    for (const name of ["a", "b"]) limit(it, name);
    it.pane("a").onSubmit = () => void (it.pane("a").doing = "idle");
    await until(it, RESET + 240_000);
    expect([it.watch.accounts, probes(it, "a"), probes(it, "b")]).toEqual([{}, 1, 1]);
  });
  test("it has the time to answer before it is asked once more, however often a limit is probed", async () => {
    const it = await scene(`[watchdog]\nsignal_interval = 2\nlimit_probe_fallback = 2\n${agents(...NAMES)}`);
    limit(it, "a", "You've hit your 5-hour limit · resets 12:05pm (UTC)");
    await it.ticks(2);
    it.pane("a").doing = "idle";
    await it.ticks(200);
    expect([it.watch.accounts, probes(it, "a")]).toEqual([{}, 1]);
  });
  test("where it lifts early the others are asked then, not at their own hour", async () => {
    const it = await three();
    for (const name of ["a", "b"]) limit(it, name, "You've hit your weekly limit · resets Jun 18, 4am (UTC)");
    await it.ticks(4);
    answers(it, "b", "busy");
    it.pane("a").doing = "busy";
    await it.ticks(4);
    expect([it.watch.accounts, probes(it, "b")]).toEqual([{}, 1]);
  });
  test("work that the limit ends at once frees nobody", async () => {
    const it = await scene(`[watchdog]\nsignal_interval = 2\n${agents(...NAMES)}`);
    for (const name of ["a", "b"]) limit(it, name, "You've hit your 5-hour limit · resets 12:05pm (UTC)");
    answers(it, "a", "busy");
    let busy = 0;
    await it.ticks(240, () => {
      if (it.pane("a").doing === "busy" && (busy += 1) === 4) limit(it, "a", "You've hit your 5-hour limit · resets 5pm (UTC)");
    });
    expect([busy, ...every(it, (name) => probes(it, name))]).toEqual([4, 1, 0, 0]);
    expect(Object.values(it.watch.accounts)).toMatchObject([{ resetAt: Date.UTC(2026, 5, 15, 17), liftedAt: 0 }]);
  });
  test("one that meets the limit again holds all of them until the new reset", async () => {
    const it = await three();
    for (const name of ["a", "b"]) limit(it, name);
    answers(it, "a", "limit", "You've hit your 5-hour limit · resets 5pm (UTC)");
    await until(it, RESET + 900_000);
    expect(every(it, (name) => probes(it, name))).toEqual([1, 0, 0]);
    expect(accountLimitOf(it.cfg, it.watch, it.cfg.agents.get("c")!)!.resetAt).toBe(Date.UTC(2026, 5, 15, 17));
    expect(verdicts(it)).toEqual(["limited", "limited", "limited"]);
  });
  test("where the one that asks is gone another does; where nobody can ask, all go on", async () => {
    const it = await three();
    for (const name of NAMES) limit(it, name);
    await it.ticks(3);
    it.operator({ held: { a: it.fake.wall } });
    answers(it, "b", "limit", "You've hit your 5-hour limit · resets 5pm (UTC)");
    await until(it, RESET + 300_000);
    expect(every(it, (name) => probes(it, name))).toEqual([0, 1, 0]);
    const alone = await three();
    limit(alone, "a");
    await alone.ticks(3);
    alone.operator({ held: { a: alone.fake.wall } });
    queue(alone, "b");
    await until(alone, RESET + 300_000);
    expect([alone.told("b").at(-1)?.slice(0, 16), alone.watch.accounts]).toEqual(["Supervisor: look", {}]);
  });
  test("a loop agent that rests after the last phase asks for nobody", async () => {
    const it = await scene(FLEET);
    it.fake.git.push("init", { "README.md": "r" });
    for (const name of ["builder", "orchestrator"]) limit(it, name);
    await it.ticks(3);
    expect(Object.values(it.watch.accounts)[0]!.asker).toBe("builder");
    it.fake.files.set(`${it.cfg.logDir}/SEQUENCE-COMPLETE`, "");
    answers(it, "orchestrator", "busy");
    await until(it, RESET + 300_000);
    expect([it.watch.accounts, probes(it, "builder"), probes(it, "orchestrator")]).toEqual([{}, 0, 1]);
  });
  test("where nobody is left to ask, a far reset is believed as long as between two probes of one", async () => {
    const it = await three();
    limit(it, "a", "You've hit your weekly limit · resets Jun 18, 4am (UTC)");
    await it.ticks(3);
    for (const name of NAMES) it.fake.tmux.exit(`agents-${name}`, 1);
    await it.ticks(3);
    expect(every(it, (name) => it.starts(name))).toEqual([1, 1, 1]);
    await it.again();
    await it.ticks(130);
    expect([every(it, (name) => it.starts(name)), it.watch.accounts]).toEqual([[2, 2, 2], {}]);
  });
  test("a clock that is set back does not hold them until it has caught up", async () => {
    const it = await three();
    for (const name of ["a", "b"]) limit(it, name);
    answers(it, "a", "busy");
    await until(it, RESET + it.cfg.watchdog.limitResetSlack * 1000);
    for (let nth = 0; nth < 10 && !Object.values(it.watch.accounts)[0]?.liftedAt; nth++) await it.ticks(1);
    expect(Object.values(it.watch.accounts)[0]!.liftedAt).toBeGreaterThan(0);
    it.fake.wall -= 7 * 86_400_000;
    await it.ticks(4);
    expect(it.watch.accounts).toEqual({});
  });
  test("who has lifted it, meets it again and rests from then on holds nobody for ever", async () => {
    const it = await scene(FLEET);
    limit(it, "builder");
    answers(it, "builder", "busy");
    await until(it, RESET + it.cfg.watchdog.limitResetSlack * 1000);
    for (let nth = 0; nth < 10 && !Object.values(it.watch.accounts)[0]?.liftedAt; nth++) await it.ticks(1);
    expect(Object.values(it.watch.accounts)[0]!.liftedAt).toBeGreaterThan(0);
    limit(it, "builder", "You've hit your usage limit");
    it.fake.files.set(`${it.cfg.logDir}/SEQUENCE-COMPLETE`, "");
    await it.ticks(120);
    expect(it.watch.accounts).toEqual({});
  });
  test("a banner that went at the reset proves nothing: its agent is asked", async () => {
    const it = await three();
    for (const name of ["a", "b"]) limit(it, name);
    await it.ticks(3);
    it.pane("a").doing = "idle";
    answers(it, "a", "limit", "You've hit your 5-hour limit · resets 5pm (UTC)");
    await until(it, RESET + 600_000);
    expect(every(it, (name) => probes(it, name))).toEqual([1, 0, 0]);
    expect(verdicts(it)).toEqual(["limited", "limited", "limited"]);
  });
  test("start_batch of them a second; other texts wait for no clock", async () => {
    for (const [cause, seconds] of [["nudge", 2], ["claim", 0]] as const) {
      const names = Array.from({ length: 7 }, (_, nth) => `n${nth}`);
      const it = await scene(`[watchdog]\nstart_batch = 3\n${agents(...names)}`);
      for (const target of names) queue(it, target, cause);
      const before = it.fake.mono;
      // nobody can be typed to: what passes is the pace alone
      await deliverAll(it.cfg, it.watch, new Map());
      expect(it.fake.mono - before).toBe(seconds * 1_000);
    }
  });
});

describe("whose limit it is", () => {
  test("agents of one backend with the same credentials share an account, unless they name one", async () => {
    const it = await scene(`[backend.claude]\nkind = "claude"\nbin = "claude"\n[backend.other]\nkind = "claude"\nbin = "claude"\n${agents("a", "b", "c", "d", "e", "f")}`
      .replace('name = "b"', 'name = "b"\nenv = { LANG = "C" }').replace('name = "c"', 'name = "c"\nenv = { CLAUDE_CONFIG_DIR = "/srv/two" }')
      .replace('name = "d"', 'name = "d"\naccount = "work"').replace('name = "e"', 'name = "e"\naccount = "work"\nenv = { ANTHROPIC_API_KEY = "sk-secret" }')
      .replace('name = "f"\nbackend = "claude"', 'name = "f"\nbackend = "other"'), { ticks: 0 });
    const of = (name: string) => accountOf(it.cfg, it.cfg.agents.get(name)!);
    expect([of("a").key === of("b").key, of("a").key === of("c").key, of("d").key === of("e").key, of("a").key === of("d").key, of("a").key === of("f").key])
      .toEqual([true, false, true, false, false]);
    expect(["a", "c", "e", "f"].map((name) => of(name).name)).toEqual(["claude (default)", "claude (/srv/two)", "claude (work)", "other (default)"]);
  });
  test("a folder of credentials is one however it is written", async () => {
    const dirs = ["/srv/two", "/srv//two/", "/srv/x/../two", "/srv/twos"];
    const it = await scene(dirs.map((dir, nth) => `${agents(`a${nth}`)}env = { CLAUDE_CONFIG_DIR = "${dir}" }\n`).join(""), { ticks: 0 });
    const keys = [...it.cfg.agents.values()].map((agent) => accountOf(it.cfg, agent).key);
    expect(keys.map((key) => keys.indexOf(key))).toEqual([0, 0, 0, 3]);
  });
  test("another account goes on", async () => {
    const it = await scene(agents("a", "b", "c").replace('name = "c"', 'name = "c"\naccount = "mine"'));
    limit(it, "a");
    await it.ticks(3);
    expect(verdicts(it)).toEqual(["limited", "limited", "idle"]);
  });
  test("an account that is called as that of a model is shared all the same", async () => {
    const it = await scene(agents("a", "b", "c").replace(/name = "[ab]"/g, '$&\naccount = "work of model opus"'));
    limit(it, "a");
    await it.ticks(3);
    expect(verdicts(it)).toEqual(["limited", "limited", "idle"]);
  });
  test("a limit of one model holds that model only", async () => {
    const it = await scene(agents("a", "b", "c").replace('name = "a"', 'name = "a"\nmodel = "opus"').replace('name = "b"', 'name = "b"\nmodel = "opus"'));
    limit(it, "a", "You've hit your Opus limit · resets Jun 17, 4am (UTC)");
    await it.ticks(3);
    expect(verdicts(it)).toEqual(["limited", "limited", "idle"]);
    expect(Object.values(it.watch.accounts)).toMatchObject([{ name: "claude (default), opus", class: "model" }]);
  });
  test("Codex and Gemini share theirs likewise, and Gemini's is that of a model", async () => {
    const agent = (name: string, backend: string, more = "") => `[[agent]]\nname = "${name}"\nbackend = "${backend}"\nwatch = "heal"\nprompt = "Work."\n${more}\n`;
    const it = await scene(agent("a", "codex") + agent("b", "codex") + agent("c", "codex", 'env = { CODEX_HOME = "/srv/two" }')
      + agent("g", "gemini", 'model = "pro"') + agent("h", "gemini", 'model = "pro"') + agent("i", "gemini", 'model = "flash"'));
    const codex = (said: string) => `› go\n\n${said}\n\n› Ask Codex to do anything\n\n  gpt-6-sol high · /fleet\n  ? for shortcuts\n`;
    const rule = (mark: string) => mark.repeat(40);
    const gemini = (said: string) => `${said}\n\n${rule("─")}\n Shift+Tab to accept edits\n${rule("▄")}\n >   Type your message or @path/to/file\n${rule("▀")}\n workspace\n`;
    for (const name of ["a", "b", "c"]) it.pane(name).text = codex("• OK");
    for (const name of ["g", "h", "i"]) it.pane(name).text = gemini("✦ OK");
    it.pane("a").text = codex("■ You’ve hit your usage limit. Visit https://chatgpt.com/settings/usage to purchase more credits or try again at 2:00 PM.");
    it.pane("g").text = gemini("✕ [API Error: You have exhausted your capacity on this model. Your quota will reset after 3h12m5s.]\n\nℹ This request failed. Press F12 for diagnostics.");
    await it.ticks(4);
    const verdictOf = (name: string) => memoryOf(it.watch, name).verdict;
    expect(["a", "b", "c", "g", "h", "i"].map(verdictOf)).toEqual(["limited", "limited", "idle", "limited", "limited", "idle"]);
    expect(Object.values(it.watch.accounts).map(({ name }) => name)).toEqual(["codex (default)", "gemini (default), pro"]);
  });
  test("a limit without a reset, or of an agent that is alone, is that agent's", async () => {
    const it = await three();
    limit(it, "a", "You've hit your weekly limit");
    await it.ticks(3);
    expect([verdicts(it), it.watch.accounts]).toEqual([["limited", "idle", "idle"], {}]);
    const alone = await scene(agents("a"));
    limit(alone, "a");
    await alone.ticks(3);
    expect([memoryOf(alone.watch, "a").verdict, alone.watch.accounts]).toEqual(["limited", {}]);
  });
});
