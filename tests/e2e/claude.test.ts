/**
 * The real Claude Code on a model of loopback: what is said arrives whole and exactly once at the model,
 * and nothing else is ever answered, merged or typed. Needs npm once, and then no network:
 * AGENTS_E2E=1 bun test tests/e2e
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../real.ts";
import { findClient, Fleet, textOf, versionOf } from "./clients.ts";
import { CONTINUE, expectAnswered, expectArrived, expectFile, expectHeld, expectOnce, expectSent, expectSentInTurn, expectUndisturbed, PATIENCE, SIZES, untilState } from "./proof.ts";

const claude = findClient("claude");

describe("Claude Code", () => {
  const ready = claude !== "";
  const real = (name: string, body: () => Promise<void>) => test.skipIf(!ready)(name, body, PATIENCE);
  const fleet = new Fleet();
  const kickoff = textOf(3000, "lines");

  beforeAll(async () => {
    if (!ready) return;
    const port = await fleet.startModel("claude-api.mjs");
    fleet.file("prompts/kickoff.md", `${kickoff}\n`);
    const backend = (name: string, credential: "key" | "token", flags = "") =>
      `[backend.${name}]\nkind = "claude"\nsupports_resume = true\nflags = "${flags}"\nbin = '''${fleet.claudeBin(claude, port, credential)}'''\n`;
    const agent = (name: string, backend: string, more: string, home = fleet.claudeHome(name)) =>
      `[[agent]]\nname = "${name}"\nbackend = "${backend}"\ndir = "project"\nwatch = "heal"\nenv = { CLIENT_HOME = "${home}" }\n${more}\n`;
    fleet.file("agents.toml", [
      "[watchdog]\nsignal_interval = 2",
      backend("claude", "key"), backend("asking", "key", "--permission-mode default"), backend("subscriber", "token"),
      agent("one", "claude", 'prompt_file = "prompts/kickoff.md"\nresume = true'),
      agent("asks", "asking", ""), agent("lim", "subscriber", ""), agent("shares", "subscriber", "", join(fleet.dir, "homes/lim")),
    ].join("\n"));
    expect(await fleet.run(["up"])).toMatchObject({ code: 0 });
  }, PATIENCE);
  afterAll(() => fleet.end(), PATIENCE);

  real("the kickoff arrives as an argument, whole and once", () => expectArrived(fleet, kickoff));

  for (const [length, lines] of SIZES) {
    real(`${length} characters in ${lines === "line" ? "one line" : "many lines"} at its prompt`, () => expectSent(fleet, "one", textOf(length, lines)));
  }

  real("its own word is read: at rest, at work, and which version it is", async () => {
    const believed = async () => JSON.parse((await fleet.run(["explain", "one", "--json"])).out);
    await until(async () => (await believed()).own === "idle");
    expect(await fleet.state("one")).toMatchObject({ version: versionOf("claude") });
    await expectSent(fleet, "one", textOf(100, "line", "@@slow:8 "));
    await until(async () => (await believed()).own === "busy");
    expect(await believed()).toMatchObject({ verdict: "active" });
    await until(async () => (await believed()).own === "idle");
  });

  real("all four while a turn runs", () => expectSentInTurn(fleet, "one", "@@slow:12 "));

  real("a text whose last word opens a list of files in the box", async () => {
    fleet.file("project/notes.txt", "one\n");
    await expectSent(fleet, "one", `${textOf(100, "line")} @notes`);
  });

  real("a text that ends in a backslash, behind which Enter is a new line", () => expectSent(fleet, "one", `${textOf(100, "line")} C:\\dir\\`));

  real("20,000 characters: it is told to read a file that is there", () => expectFile(fleet, "one"));

  test.skipIf(!ready)("P28: texts, disturbed around Enter", () => expectUndisturbed(fleet, "one"), 900_000);

  real("a human's draft: nothing is typed until it is gone", async () => {
    fleet.tmux("send-keys", "-t", fleet.pane("one"), "-l", "half a thought");
    await until(() => fleet.screen("one").includes("❯\u00a0half a thought"));
    await expectHeld(fleet, "one", /draft/);
    const text = textOf(300, "lines");
    expect(await fleet.run(["send", "one", "--queue", text])).toMatchObject({ code: 0 });
    await Bun.sleep(2_500);
    expect(fleet.times(text)).toBe(0);
    fleet.keys("one", "Enter");
    await expectArrived(fleet, text);
    expect(fleet.asked().some(({ said }) => said.at(-1) === "half a thought")).toBe(true);
  });

  real("copy-mode is left, a second window and a split pane get nothing", async () => {
    const shells = [
      fleet.tmux("new-window", "-P", "-F", "#{pane_id}", "-t", "=agents-one:", "sh").trim(),
      fleet.tmux("split-window", "-P", "-F", "#{pane_id}", "-t", fleet.pane("one"), "sh").trim(),
    ];
    fleet.tmux("copy-mode", "-t", fleet.pane("one"));
    await expectSent(fleet, "one", textOf(300, "lines"));
    for (const shell of shells) {
      expect(fleet.tmux("capture-pane", "-p", "-t", shell)).not.toContain("text-");
      fleet.tmux("kill-pane", "-t", shell);
    }
  });

  real("a pending permission is never answered; after a human did, the rest is delivered", () => expectAnswered(fleet, {
    asking: textOf(200, "line", "@@bashask "), shows: /Do you want to proceed\?/, yes: "1", made: join(fleet.project, "asked.txt"),
  }, () => until(async () => JSON.parse((await fleet.run(["explain", "asks", "--json"])).out).own === "waiting (permission prompt)")));

  real("a usage limit holds", async () => {
    const limiting = textOf(200, "line", "@@lim5h ");
    expect(await fleet.send("lim", limiting)).toMatchObject({ code: 0 });
    await untilState(fleet, "lim", "limited until");
    // by its transcript, to the second, which older versions leave out: their banner has minutes
    const within = Bun.semver.order(versionOf("claude"), "2.1.307") < 0 ? 60 : 2;
    const resetAt = () => JSON.parse(readFileSync(join(fleet.dir, ".agents/state/limited-agents-lim.json"), "utf8")).resetAt;
    // the transcript may come a look after the banner
    await until(() => Math.abs(resetAt() - (fleet.conversation(limiting)!.t / 1000 + 3 * 3600)) < within, 10_000);
    expect((await fleet.state("lim")).state).toContain("(5h)");
    await expectHeld(fleet, "lim", /limited/);
    // it uses the same account, and has met no limit itself
    await untilState(fleet, "shares", "limited until");
    const { accounts } = JSON.parse((await fleet.run(["status", "--json"])).out);
    expect(accounts).toMatchObject([{ class: "5h", waiting: 2, text: expect.stringMatching(/^subscriber \(.*homes\/lim\): 5-hour limit until .*, 2 agents wait$/) }]);
  });

  real("a killed client goes on with its conversation", async () => {
    fleet.tmux("kill-session", "-t", "=agents-one");
    await fleet.arrived(CONTINUE);
    const { said } = fleet.conversation(CONTINUE)!;
    expect(said.join("\n")).toContain(kickoff);
    expect(fleet.times(CONTINUE)).toBe(1);
    expect(fleet.times(kickoff)).toBe(1);
    await expectSent(fleet, "one", textOf(300, "line"));
  });

  real("a conversation that a person begins by /clear is resumed, with its kickoff", async () => {
    const id = () => readFileSync(join(fleet.dir, ".agents/state/one.id"), "utf8");
    const [before, text] = [id(), textOf(300, "line")];
    expect(await fleet.send("one", "/clear")).toMatchObject({ code: 0 });
    await expectSent(fleet, "one", text);
    await until(() => id() !== before, 20_000, 250);
    fleet.tmux("kill-session", "-t", "=agents-one");
    await until(() => fleet.conversation(text)!.said.join("\n").includes(kickoff), 60_000, 250);
    await expectSent(fleet, "one", textOf(300, "line"));
  });

  real("no text ever came twice", async () => expectOnce(fleet));
});
