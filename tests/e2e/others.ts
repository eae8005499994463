/**
 * What codex.test.ts and gemini.test.ts try of their clients: kickoff, texts, drafts, dialogs, limits,
 * an end by force, and what is left behind.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { until } from "../real.ts";
import { findClient, Fleet, textOf } from "./clients.ts";
import { CONTINUE, expectAnswered, expectArrived, expectFile, expectHeld, expectOnce, expectSent, PATIENCE, SIZES, untilState } from "./proof.ts";

interface Client {
  kind: "codex" | "gemini";
  model: string;
  /** Its `bin`, and the home of an agent. */
  bin: (fleet: Fleet, program: string, port: number) => string;
  home: (fleet: Fleet, name: string, port: number) => string;
  flags: string;
  /** What a draft looks like in its box, and a dialog over it; the key that allows what it asks. */
  draft: string;
  dialog: RegExp;
  yes: string;
  /** The directive of its limit, and how the state shows it. */
  limit: string;
  limited: RegExp;
}

export const tryClient = ({ kind, model, bin, home, flags, draft, dialog, yes, limit, limited }: Client): void => describe(kind, () => {
  const program = findClient(kind);
  const ready = program !== "";
  const real = (name: string, body: () => Promise<void>) => test.skipIf(!ready)(name, body, PATIENCE);
  const fleet = new Fleet();
  const kickoff = textOf(3000, "lines");

  beforeAll(async () => {
    if (!ready) return;
    const port = await fleet.startModel(model);
    fleet.file("prompts/kickoff.md", `${kickoff}\n`);
    const agent = (name: string, more = "") =>
      `[[agent]]\nname = "${name}"\nbackend = "${kind}"\ndir = "project"\nwatch = "heal"\nenv = { CLIENT_HOME = "${home(fleet, name, port)}" }\n${more}\n`;
    fleet.file("agents.toml", [
      "[watchdog]\nsignal_interval = 2\nlimit_reset_slack = 1\nlimit_probe_fallback = 30\nup_wait = 40",
      `[backend.${kind}]\nflags = "${flags}"\nbin = '''${bin(fleet, program, port)}'''`,
      agent("one", 'prompt_file = "prompts/kickoff.md"\nresume = true'), agent("asks"), agent("lim"),
      agent("full", "resume = true").replace('"heal"', '"none"'),
    ].join("\n"));
    expect(await fleet.run(["up"])).toMatchObject({ code: 0 });
  }, PATIENCE);
  afterAll(() => fleet.end(), PATIENCE);

  real("the kickoff arrives as an argument, whole and once", async () => {
    await expectArrived(fleet, kickoff);
    for (const name of ["one", "asks", "lim"]) await untilState(fleet, name, "idle");
  });

  for (const [length, lines] of SIZES) {
    real(`${length} characters in ${lines === "line" ? "one line" : "many lines"} at its prompt`, () => expectSent(fleet, "one", textOf(length, lines)));
  }

  real("a text whose last word opens a list of files in the box", async () => {
    fleet.file("project/notes.txt", "one\n");
    await expectSent(fleet, "one", `${textOf(100, "line")} @notes`);
  });

  real("a text that ends in a backslash, behind which Enter is a new line", () => expectSent(fleet, "one", `${textOf(100, "line")} C:\\dir\\`));

  real("20,000 characters: it is told to read a file that is there", () => expectFile(fleet, "one"));

  real("a text while a turn runs", async () => {
    await expectSent(fleet, "one", textOf(200, "line", "[[slow:10]] "));
    await untilState(fleet, "one", "active");
    await expectSent(fleet, "one", textOf(300, "lines"));
  });

  real("a human's draft: nothing is typed until it is gone", async () => {
    await untilState(fleet, "one", "idle");
    fleet.tmux("send-keys", "-t", fleet.pane("one"), "-l", "half a thought");
    await until(() => fleet.screen("one").includes(draft));
    await expectHeld(fleet, "one", /draft/);
    const text = textOf(300, "lines");
    expect(await fleet.run(["send", "one", "--queue", text])).toMatchObject({ code: 0 });
    await Bun.sleep(4_500);
    expect(fleet.times(text)).toBe(0);
    fleet.keys("one", "Enter");
    await expectArrived(fleet, text);
    expect(fleet.asked().some(({ said }) => said.at(-1)!.trim() === "half a thought")).toBe(true);
  });

  real("a dialog is never typed into; after a human answered, the rest is delivered", () => expectAnswered(fleet, {
    asking: textOf(200, "line", "[[ask]] "), shows: dialog, yes, made: join(fleet.project, "asked.txt"),
  }));

  real("a limit holds, is probed once it is over, and lifts", async () => {
    expect(await fleet.send("lim", textOf(200, "line", limit))).toMatchObject({ code: 0 });
    await until(async () => limited.test((await fleet.state("lim")).state), 60_000, 500);
    await expectHeld(fleet, "lim", /limited/);
    await until(() => fleet.events().some(({ agent, event }) => agent === "lim" && event === "lifted"), 60_000, 500);
    await expectSent(fleet, "lim", textOf(300, "line"));
  });

  real("an error that a person's long command has pushed off the screen is one still, until the next prompt", async () => {
    await untilState(fleet, "full", "idle");
    await fleet.send("full", textOf(200, "line", "[[full]] "));
    await untilState(fleet, "full", "fatal");
    fleet.tmux("resize-window", "-t", "=agents-full:", "-x", "80", "-y", "20");
    await Bun.sleep(2_000);
    fleet.keys("full", "!");
    await Bun.sleep(1_000);
    fleet.tmux("send-keys", "-t", fleet.pane("full"), "-l", "seq 300 400");
    await Bun.sleep(1_000);
    fleet.keys("full", "Enter");
    await until(() => /\b400\b/.test(fleet.screen("full")) && !/exceed|ran out of room/.test(fleet.screen("full")));
    fleet.keys("full", "Escape"); // out of Gemini's shell mode
    await Bun.sleep(6_000); // two rounds
    expect((await fleet.state("full")).state).toStartWith("fatal");
    fleet.tmux("send-keys", "-t", fleet.pane("full"), "-l", "go on");
    await Bun.sleep(1_000);
    fleet.keys("full", "Enter");
    await untilState(fleet, "full", "idle");
  });

  real("a client that was killed by force goes on with its conversation", async () => {
    await untilState(fleet, "one", "idle");
    process.kill(fleet.pid("one"), "SIGKILL");
    await fleet.arrived(CONTINUE);
    expect(fleet.conversation(CONTINUE)!.said.join("\n")).toContain(kickoff);
    expect([fleet.times(CONTINUE), fleet.times(kickoff)]).toEqual([1, 1]);
    await expectSent(fleet, "one", textOf(300, "line"));
  });

  real("no text ever came twice", async () => expectOnce(fleet));

  real("down leaves nothing behind, of a turn under way either", async () => {
    await expectSent(fleet, "one", textOf(200, "line", "[[slow:60]] "));
    expect(fleet.running().length).toBeGreaterThan(2);
    expect(await fleet.run(["down"])).toMatchObject({ code: 0 });
    expect(fleet.running()).toEqual([]);
  });
});
