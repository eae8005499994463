/** Eight hours of a noisy fleet: fifty times over in CI, with sim-second and sim-third, three times by hand; the soak run does it five hundred times. */
import { describe, expect, test } from "bun:test";
import { longRun, rounds, seeds, simulate } from "./sim.ts";

describe("P12, P13: nobody at work is ended, everybody who is stuck is restarted in time", () => {
  test.each(seeds(1, 14))("8 hours, seed %i", async (seed) => {
    const sim = await simulate(seed);
    expect(sim.problems).toEqual([]);
    expect(sim.found).toBeGreaterThan(0);
  }, 300_000);
});

const TICKS = rounds(10_000, 1_000);
test(`P23: ${TICKS} ticks: outbox and state stay as small as they were`, async () => {
  const { sim, growth } = await longRun(TICKS);
  expect(sim.problems).toEqual([]);
  const [early, late] = [growth[4]!, growth[9]!];
  for (const { outbox, all } of growth) {
    expect(outbox).toBeLessThan(12);
    expect(all).toBeLessThan(1_000_000);
  }
  // the commits that are known again are kept up to a number, and once more in the copy; all else not at all
  expect(late.state - early.state).toBeLessThan(16_000);
  expect(Object.keys(sim.watch.agents).length).toBeLessThanOrEqual(6);
}, 300_000);
