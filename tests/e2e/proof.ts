/** What is proven of a real client: a text is with the model whole and once, or nothing came through. */
import { expect } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../real.ts";
import { type Fleet, note, textOf } from "./clients.ts";

/** Generous: on a busy machine the first answer of an opencode server has taken half a minute. */
export const PATIENCE = 150_000;
export const SIZES = [[300, "line"], [300, "lines"], [3000, "line"], [3000, "lines"]] as const;
/** The prompt after a restart. */
export const CONTINUE = "you were restarted and your earlier conversation was restored";

/** A text that was sent is with the model, whole, and stands there once; nothing else came with it. */
export async function expectArrived(fleet: Fleet, text: string): Promise<void> {
  const id = text.split(" ")[0]!;
  const { said } = await fleet.arrived(id);
  expect(said.findLast((one) => one.includes(id))).toContain(text);
  expect(fleet.times(id)).toBe(2); // where it begins and where it ends
}

export async function expectSent(fleet: Fleet, name: string, text: string): Promise<void> {
  expect(await fleet.send(name, text)).toMatchObject({ code: 0, out: `delivered to ${name}\n` });
  await expectArrived(fleet, text);
}

/** `send` gives up, says why, and nothing came through. */
export async function expectHeld(fleet: Fleet, name: string, why: RegExp): Promise<string> {
  const text = textOf(300, "line");
  const shown = () => fleet.screen(name).replace(/^●/gm, " "); // it blinks
  const before = shown();
  const { code, out, err } = await fleet.send(name, text, 5);
  expect({ code, out }).toEqual({ code: 1, out: "" });
  expect(err).toMatch(why);
  expect(fleet.times(text.split(" ")[0]!)).toBe(0);
  expect(shown()).toBe(before);
  return text;
}

export const untilState = (fleet: Fleet, name: string, state: string) =>
  until(async () => (await fleet.state(name)).state.startsWith(state), 60_000, 500);

/**
 * A dialog is never typed into; after a human answered it by a key, the rest is delivered. `made`: the
 * file that only this answer lets the client make. `meanwhile`: what else holds as long as it asks.
 */
export async function expectAnswered(
  fleet: Fleet, { asking, shows, yes, made }: { asking: string; shows: RegExp; yes: string; made: string },
  meanwhile: () => Promise<unknown> = async () => {},
): Promise<void> {
  const done = () => [fleet.conversation(asking)!.results, existsSync(made)];
  await expectSent(fleet, "asks", asking);
  await untilState(fleet, "asks", "blocked");
  await meanwhile();
  const held = await expectHeld(fleet, "asks", /blocked/);
  const queued = textOf(3000, "lines");
  await fleet.run(["send", "asks", "--queue", queued]);
  await Bun.sleep(4_500); // two looks, at which nothing happens
  expect(await fleet.state("asks")).toMatchObject({ messages: 1, messagesWhy: expect.stringContaining("blocked"), state: expect.stringContaining("blocked") });
  await meanwhile();
  expect(fleet.screen("asks")).toMatch(shows);
  expect(done()).toEqual([0, false]);
  fleet.keys("asks", yes);
  await expectArrived(fleet, queued);
  expect(done()).toEqual([1, true]);
  expect(fleet.times(held)).toBe(0);
}

/** What is too long to type lies in a file that the message names, and stays there to be read. */
export async function expectFile(fleet: Fleet, name: string): Promise<void> {
  const text = textOf(20_000, "lines");
  expect(await fleet.send(name, text)).toMatchObject({ code: 0 });
  const file = join(fleet.dir, ".agents/state/message-");
  const { said } = await fleet.arrived(file);
  const path = /\S+\/message-[\w-]+\.txt/.exec(said.findLast((one) => one.includes(file))!)![0];
  await Bun.sleep(2_500);
  expect(readFileSync(path, "utf8")).toBe(text);
}

export function expectOnce(fleet: Fleet): void {
  const ids = new Set(fleet.asked().flatMap(({ said }) => said.join("\n").match(/text-\d+-\w+/g) ?? []));
  expect(ids.size).toBeGreaterThan(8);
  for (const id of ids) expect([id, fleet.times(id)]).toEqual([id, 2]);
}

/** Something comes between the client and its screen at a random moment around Enter. */
async function disturb(fleet: Fleet, name: string): Promise<void> {
  const [pane, window] = [fleet.pane(name), `=agents-${name}:`];
  const pid = Number(fleet.tmux("display-message", "-p", "-t", pane, "#{pane_pid}"));
  await Bun.sleep(Math.random() * 3_000);
  const kind = Math.floor(Math.random() * 3);
  if (kind === 0) {
    fleet.tmux("resize-window", "-t", window, "-x", "70", "-y", "24");
    await Bun.sleep(Math.random() * 1_500);
    return void fleet.tmux("resize-window", "-t", window, "-x", "200", "-y", "50");
  }
  if (kind === 1) return fleet.keys(name, "C-l"); // draws anew
  process.kill(pid, "SIGSTOP"); // its picture is late
  await Bun.sleep(Math.random() * 5_000);
  process.kill(pid, "SIGCONT");
}

/** Of each client; the check of each commit makes do with fewer, for one takes five seconds. */
const DISTURBED = Number(process.env.DISTURBED ?? 50);

/** Many texts: what is called delivered is with the model, whole, at most twice; nobody is deaf. */
export async function expectUndisturbed(fleet: Fleet, name: string): Promise<void> {
  const texts = Array.from({ length: DISTURBED }, (_, nth) => textOf(nth % 5 ? 200 : 2_000, nth % 2 ? "lines" : "line"));
  const delivered: string[] = [];
  for (const text of texts) {
    const [{ code }] = await Promise.all([fleet.send(name, text, 90), disturb(fleet, name)]);
    if (code === 0) delivered.push(text);
  }
  note(`${name}: ${delivered.length} of ${texts.length} disturbed texts were delivered`);
  for (const text of delivered) {
    const id = text.split(" ")[0]!;
    expect((await fleet.arrived(id)).said.findLast((one) => one.includes(id))).toContain(text);
    expect(fleet.times(id)).toBeLessThanOrEqual(4); // where it begins and where it ends
  }
  expect(delivered.length).toBeGreaterThanOrEqual(Math.floor(DISTURBED * 0.92));
  await expectSent(fleet, name, textOf(300, "lines"));
}

const turnOf = (fleet: Fleet, text: string) => fleet.asked().find(({ said }) => said.at(-1)!.includes(text))!;
const ended = (fleet: Fleet, id: number): boolean => readFileSync(fleet.log, "utf8").includes(`"end":${id},`);

/** The four sizes while a turn runs: exit 0 before it ends, the model has them all after it. */
export async function expectSentInTurn(fleet: Fleet, name: string, slow: string): Promise<void> {
  const busy = textOf(200, "line", slow);
  await expectSent(fleet, name, busy);
  const turn = turnOf(fleet, busy);
  const texts = SIZES.map(([length, lines]) => textOf(length, lines));
  for (const text of texts) expect(await fleet.send(name, text)).toMatchObject({ code: 0 });
  expect(ended(fleet, turn.id)).toBe(false);
  for (const text of texts) await expectArrived(fleet, text);
  const order = fleet.conversation(texts[0]!.split(" ")[0]!)!.said.join("\n");
  const places = texts.map((text) => order.indexOf(text.split(" ")[0]!));
  expect(places).toEqual(places.toSorted((a, b) => a - b));
}
