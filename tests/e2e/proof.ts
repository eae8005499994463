/** What is proven of a real client: a text is with the model whole and once, or nothing came through. */
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../real.ts";
import { type Fleet, textOf } from "./clients.ts";

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
