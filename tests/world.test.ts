/** The one seam to the outside, on the real disk. */
import { expect, test } from "bun:test";
import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cmdMigrate, world } from "../agents.ts";
import { fakeWorld, FLEET, realFolder } from "./kit.ts";

test("a path below something that is no folder is a file that is not there; a folder is an error", () => {
  const folder = realFolder();
  writeFileSync(join(folder, "file"), "x");
  expect([world.read(join(folder, "file")), world.read(join(folder, "none")), world.read(join(folder, "file", "below"))]).toEqual(["x", null, null]);
  expect(() => world.read(folder)).toThrow("a folder");
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

test("only a regular file of a sensible size is read, and nothing is waited for", () => {
  const folder = realFolder();
  const at = (name: string) => join(folder, name);
  for (const argv of [["mkfifo", at("fifo")], ["ln", "-s", "loop", at("loop")], ["ln", "-s", "/dev/zero", at("device")], ["truncate", "-s", "1G", at("huge")]]) {
    expect(Bun.spawnSync(argv).exitCode).toBe(0);
  }
  expect(() => world.read(at("fifo"))).toThrow("no regular file");
  expect(() => world.read(at("device"))).toThrow("no regular file");
  expect(() => world.read(at("huge"))).toThrow("too large (1074 MB)");
  expect(() => world.read(at("loop"))).toThrow("ELOOP");
});

test("what stands in a file's place is kept aside by the next write, one after the other", () => {
  const folder = realFolder();
  const path = join(folder, "watch.json");
  mkdirSync(join(path, "inside"), { recursive: true });
  world.writeAtomic(path, "one");
  expect([world.read(path), statSync(join(folder, "watch.json.bad", "inside")).isDirectory()]).toEqual(["one", true]);
  rmSync(path);
  Bun.spawnSync(["mkfifo", path]);
  world.append(path, "two");
  expect(world.read(path)).toBe("two");
  expect(readdirSync(folder).filter((name) => name.startsWith("watch.json.bad"))).toHaveLength(2);
});

test.each([0, 1, -1, Number.NaN])("the number %p is no process that anybody meant", (pid) => expect(world.signal(pid, 0)).toBe(false));
