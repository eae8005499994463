/** The one seam to the outside, on the real disk. */
import { expect, test } from "bun:test";
import { statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cmdMigrate, world } from "../agents.ts";
import { fakeWorld, FLEET, realFolder } from "./kit.ts";

test("a path below something that is no folder is a file that is not there; a folder is an error", () => {
  const folder = realFolder();
  writeFileSync(join(folder, "file"), "x");
  expect([world.read(join(folder, "file")), world.read(join(folder, "none")), world.read(join(folder, "file", "below"))]).toEqual(["x", null, null]);
  expect(() => world.read(folder)).toThrow("EISDIR");
});

test("the folders that hold prompts and screens are closed to others, whatever the umask", async () => {
  const fake = fakeWorld(realFolder());
  const cfg = await fake.config(FLEET);
  const before = process.umask(0);
  try {
    await cmdMigrate({ path: cfg.path, words: [], options: {} });
  } finally {
    process.umask(before);
  }
  for (const folder of [cfg.stateDir, join(cfg.logDir, "unsure")]) expect((statSync(folder).mode & 0o7777).toString(8)).toBe("700");
});
