/** The last nights of the fifty of sim.test.ts, for another worker in CI. */
import { describe, expect, test } from "bun:test";
import { seeds, simulate } from "./sim.ts";

describe("P12, P13: nobody at work is ended, everybody who is stuck is restarted in time", () => {
  test.each(seeds(33, 50))("8 hours, seed %i", async (seed) => {
    const sim = await simulate(seed);
    expect(sim.problems).toEqual([]);
    expect(sim.found).toBeGreaterThan(0);
  }, 300_000);
});
