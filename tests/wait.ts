/** Waiting for what real processes do, with limits that follow the machine. */
import { resolve } from "node:path";

/** One start of the program took this long, ms, on the two cores at rest where all limits were chosen. */
const START_AT_REST = 40;
const START = [process.execPath, "--no-env-file", "--config=/dev/null", resolve(import.meta.dir, "../agents.ts"), "--version"];

/** No start takes longer, ms; one whose end is not told, as seen once, must not hold a wait for ever. */
const SLOWEST_START = 30_000;

/** No two looks are further apart, ms, however long one takes. */
const SLOWEST_LOOK = 1_000;

/** What takes at most so many ms at rest may take this many on the machine as it is just now; no question of one that `took` less. */
export async function allowed(ms: number, took = ms): Promise<number> {
  if (took < ms) return ms;
  const began = performance.now();
  const start = Bun.spawn(START, { env: process.env, stdio: ["ignore", "ignore", "ignore"] });
  await Promise.race([start.exited, Bun.sleep(SLOWEST_START)]);
  return ms * Math.max(1, (performance.now() - began) / START_AT_REST);
}

/**
 * Waits until `fn` is truthy; an error counts as "not yet", and is what is told in the end. The limit
 * is meant for a machine at rest: one that is slower by then gets as much more. Where a look takes
 * long, as one that starts a program does, the next one waits longer than that: looking is not the work.
 */
export async function until<T>(fn: () => T | Promise<T>, ms = 8_000, every = 50): Promise<NonNullable<T>> {
  const began = performance.now();
  const passed = () => performance.now() - began;
  let last: unknown;
  let looked = 0;
  for (let limit = ms; ; await Bun.sleep(Math.max(every, Math.min(2 * looked, SLOWEST_LOOK)))) {
    const before = passed();
    try {
      last = await fn();
      if (last) return last as NonNullable<T>;
    } catch (error) {
      last = error;
    }
    looked = passed() - before;
    if (passed() > limit) limit = await allowed(ms);
    if (passed() > limit) throw new Error(`not within ${Math.round(limit)} ms: ${fn}\nlast: ${Bun.inspect(last)}`);
  }
}
