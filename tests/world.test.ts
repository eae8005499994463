/** The one seam to the outside, on the real disk. */
import { describe, expect, onTestFinished, test } from "bun:test";
import { chownSync, closeSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { cmdMigrate, flock, log, printable, run, world, wrapLine } from "../agents.ts";
import { agents, command, fakeWorld, FLEET, realFolder } from "./kit.ts";
import { SELF, spawn } from "./real.ts";

const REAL = { ...world };

test("a path below something that is no folder is a file that is not there; a folder is an error", () => {
  const folder = realFolder();
  writeFileSync(join(folder, "file"), "x");
  expect([world.read(join(folder, "file")), world.read(join(folder, "none")), world.read(join(folder, "file", "below"))]).toEqual(["x", null, null]);
  expect(() => world.read(folder)).toThrow("a folder");
});

test.each([undefined, "America/St_Johns"])("a line of the log has the local time, in the machine's zone or in TZ (%p)", (zone) => {
  const { TZ } = process.env;
  const enter = (name?: string) => void (name === undefined ? delete process.env.TZ : (process.env.TZ = name));
  onTestFinished(() => enter(TZ));
  enter(zone);
  const fake = fakeWorld();
  for (const at of ["1969-12-31T23:59:58.500Z", "2026-01-01T00:00:00Z", "2026-07-09T11:05:09.999Z", "2028-02-29T12:00:00Z", "2040-12-31T23:59:59Z"]) {
    fake.wall = Date.parse(at);
    log(`now ${at}`);
    const day = new Date(fake.wall);
    const date = [day.getFullYear(), day.getMonth() + 1, day.getDate()].map((n) => `${n}`.padStart(2, "0")).join("-");
    expect(fake.logged(`now ${at}`)).toEqual([`[agents ${date} ${day.toTimeString().slice(0, 8)}] now ${at}`]);
  }
});

/** Runs words where the machine's own zone is another one. */
const inTokyo = (...words: string[]) => spawn(["unshare", "-rm", "sh", "-c",
  'mount --bind /usr/share/zoneinfo/Asia/Tokyo /etc/localtime && exec "$@"', "sh", ...words], { env: { PATH: process.env.PATH, HOME: "/nonexistent" } });
test.skipIf((await inTokyo("date", "+%Z")).out !== "JST\n")("the machine's zone is heeded, as by date", async () => {
  const config = join(realFolder(), "agents.toml");
  writeFileSync(config, agents("a1"));
  const [before, shown, after] = [await inTokyo("date", "+%H"), await inTokyo(...SELF, "status", "--config", config), await inTokyo("date", "+%H")];
  expect([before.out, after.out]).toContain(`${/ (\d\d):\d\d:\d\d /.exec(shown.out)?.[1]}\n`);
});

test("what cannot be written is named, not the temporary file, which is another one each time", async () => {
  const path = join(realFolder(), "away", "file");
  const said = async () => (await REAL.writeAtomic(path, "x").catch((error) => error)).message;
  expect([await said(), await said()]).toEqual(Array(2).fill(expect.stringMatching(new RegExp(`^ENOENT: .*, open '${path}'$`))));
});

test.skipIf(process.getuid?.() !== 0)("what root writes into another user's folder is that user's", async () => {
  const folder = realFolder();
  const at = (name: string) => join(folder, name);
  for (const [uid, gid] of [[12_345, 23_456], [0, 0]] as const) {
    chownSync(folder, uid, gid);
    await REAL.writeAtomic(at("orders"), "x");
    REAL.append(at("log"), "x");
    closeSync(flock(at("lock"))!);
    expect(readdirSync(folder).map((name) => [name, statSync(at(name)).uid, statSync(at(name)).gid]).sort()).toEqual(["lock", "log", "orders"].map((name) => [name, uid, gid]));
    for (const name of readdirSync(folder)) rmSync(at(name));
  }
});

test("a folder that is not there has no names in it; one that cannot be looked at is no empty one", () => {
  const folder = realFolder();
  writeFileSync(join(folder, "file"), "x");
  symlinkSync(join(folder, "loop"), join(folder, "loop"));
  expect([world.list(folder).sort(), world.list(join(folder, "none")), world.list(join(folder, "file"))]).toEqual([["file", "loop"], [], []]);
  expect(() => world.list(join(folder, "loop"))).toThrow("ELOOP");
});

test("a disk that a hundred agents ask at the same time is asked, and looked for, once", async () => {
  const folder = realFolder();
  const first = REAL.answers(folder);
  expect(REAL.answers(folder)).toBe(first);
  expect(await first).toBe(true);
  expect(REAL.answers(folder)).not.toBe(first); // it may hang by now
});

test("where disks begin is read once for all who ask at the same time, and again for who asks later", async () => {
  const folder = realFolder();
  const reads: string[] = [];
  const ask = (...names: string[]) => Promise.all(names.map((name) => REAL.answers(join(folder, name))));
  await ask("before"); // after what else is still asked
  world.read = (path) => (reads.push(path), REAL.read(path));
  try {
    expect([await ask("a", "b", "c"), reads]).toEqual([[true, true, true], ["/proc/self/mountinfo"]]);
    expect([await ask("a"), reads.length]).toEqual([[true], 2]);
  } finally {
    world.read = REAL.read;
  }
});

test("where nothing is, the disk of its folder is asked, and that of the machine by its name", async () => {
  const folder = realFolder();
  writeFileSync(join(folder, "file"), "x");
  const { file } = Bun;
  const places: unknown[] = [];
  Object.assign(Bun, { file: (path: string) => (places.push(path), file(path)) });
  try {
    world.read = () => "1 0 8:1 / / rw - ext4 /dev/sda rw\n";
    expect([await REAL.answers(join(folder, "none")), places]).toEqual([true, ["/", folder]]);
    expect([await REAL.answers(join(folder, "file")), places.slice(2)]).toEqual([true, ["/", folder, join(folder, "file")]]);
    world.read = () => null; // such as on macOS
    places.length = 0;
    expect([await REAL.answers(join(folder, "file")), new Set(places)]).toEqual([true, new Set([join(folder, "file")])]);
  } finally {
    Object.assign(Bun, { file });
    world.read = REAL.read;
  }
});

test("a disk that no process could be started to ask is asked again the next time", async () => {
  const { file, spawn } = Bun;
  const hung = Promise.withResolvers<unknown>();
  const place = realFolder();
  try {
    Object.assign(Bun, { file: () => ({ stat: () => hung.promise }), spawn: () => {
      throw Object.assign(new Error("EAGAIN: posix_spawn 'stat'"), { code: "EAGAIN" });
    } });
    expect(await REAL.answers(place)).toBe(false);
    Object.assign(Bun, { spawn });
    expect(await REAL.answers(place)).toBe(true);
  } finally {
    Object.assign(Bun, { file, spawn });
    hung.resolve(null);
  }
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

test("a full log that another process is rotating is not rotated a second time: that would lose it", () => {
  const path = join(realFolder(), "events.jsonl");
  writeFileSync(path, "full");
  const other = flock(path)!;
  expect([world.append(path, " two", 3), readdirSync(dirname(path))]).toEqual([false, ["events.jsonl"]]);
  closeSync(other);
  expect([world.append(path, "three", 3), world.read(path), world.read(`${path}.1`)]).toEqual([true, "three", "full two"]);
});

test("only a regular file of a sensible size is read, and nothing is waited for", async () => {
  const folder = realFolder();
  const at = (name: string) => join(folder, name);
  for (const argv of [["mkfifo", at("fifo")], ["ln", "-s", "loop", at("loop")], ["ln", "-s", "/dev/zero", at("device")], ["truncate", "-s", "1G", at("huge")]]) {
    expect(Bun.spawnSync(argv).exitCode).toBe(0);
  }
  expect(() => world.read(at("fifo"))).toThrow("not a regular file");
  expect(() => world.read(at("device"))).toThrow("not a regular file");
  expect(() => world.read(at("huge"))).toThrow("too large (1074 MB)");
  writeFileSync(at("short"), "of five");
  for (const [part, short] of [[world.head, "of f"], [world.tail, "five"]] as const) {
    expect([part(at("huge"), 4), part(at("short"), 4), part(at("short"), 400), part(at("none"), 4)]).toEqual(["\0".repeat(4), short, "of five", null]);
  }
  expect(() => world.read(at("loop"))).toThrow("ELOOP");
  for (const [name, why] of [["fifo", "not a regular file"], ["device", "not a regular file"], ["huge", "too large (1074 MB)"], ["loop", "ELOOP"], [".", "is a folder"]] as const) {
    expect(await world.text(at(name)).catch((error) => error.message)).toContain(why);
  }
  writeFileSync(at("file"), "x");
  expect([await world.text(at("file")), await world.text(at("none")), await world.text(at("file/below"))]).toEqual(["x", null, null]);
});

test("of a file that may be large its end is read, and nothing of what is no file", () => {
  const folder = realFolder();
  const at = (name: string) => join(folder, name);
  writeFileSync(at("file"), "first\nlast\n");
  expect([world.tail(at("file"), 5), world.tail(at("file"), 500), world.tail(at("none"), 5)]).toEqual(["last\n", "first\nlast\n", null]);
  Bun.spawnSync(["truncate", "-s", "20G", at("huge")]);
  expect(world.tail(at("huge"), 3)).toBe("\0\0\0");
  Bun.spawnSync(["mkfifo", at("fifo")]);
  expect(() => world.tail(at("fifo"), 5)).toThrow("not a regular file");
});

test("what stands in a file's place is kept aside by the next write, one after the other", async () => {
  const folder = realFolder();
  const path = join(folder, "watch.json");
  mkdirSync(join(path, "inside"), { recursive: true });
  await world.writeAtomic(path, "one");
  expect((statSync(path).mode & 0o777).toString(8)).toBe("600");
  expect([world.read(path), statSync(join(folder, "watch.json.bad", "inside")).isDirectory()]).toEqual(["one", true]);
  rmSync(path);
  Bun.spawnSync(["mkfifo", path]);
  world.append(path, "two");
  expect(world.read(path)).toBe("two");
  expect(readdirSync(folder).filter((name) => name.startsWith("watch.json.bad"))).toHaveLength(2);
});

test("a link to what is no file, and a ring of links, are kept aside like the thing itself", () => {
  const folder = realFolder();
  const at = (name: string) => join(folder, name);
  Bun.spawnSync(["mkfifo", at("fifo")]);
  for (const target of ["fifo", folder, "ring"]) {
    rmSync(at("ring"), { force: true });
    symlinkSync(target, at("ring"));
    world.append(at("ring"), "taken");
    expect(world.read(at("ring"))).toBe("taken");
  }
  symlinkSync("real", at("link"));
  world.append(at("link"), "through");
  symlinkSync("/dev/null", at("nothing"));
  world.append(at("nothing"), "away");
  expect([world.read(at("real")), readlinkSync(at("nothing"))]).toEqual(["through", "/dev/null"]);
});

const WRONG: Record<string, (path: string) => void> = {
  "a folder": (path) => mkdirSync(path), "a ring of links": (path) => symlinkSync(path, path),
  "a link to a fifo": (path) => (Bun.spawnSync(["mkfifo", `${path}.fifo`]), symlinkSync(`${path}.fifo`, path)),
};
describe.each(Object.keys(WRONG))("%s in the place of a lock", (what) => {
  test.each(["operator.lock", "operator.lock.pid"])("stops no order: %s", async (name) => {
    const fake = fakeWorld(realFolder());
    const cfg = await fake.config(FLEET);
    Object.assign(world, { read: REAL.read, writeAtomic: REAL.writeAtomic });
    await Bun.write(cfg.path, FLEET);
    mkdirSync(cfg.stateDir, { recursive: true });
    WRONG[what]!(join(cfg.stateDir, name));
    expect((await command("down", "builder", "--config", cfg.path)).code).toBe(0);
    expect(readFileSync(join(cfg.stateDir, "operator.lock.pid"), "utf8")).toStartWith(`${process.pid} `);
  });
});

test.each([0, 1, -1, Number.NaN])("the number %p is no process that anybody meant", (pid) => expect(world.signal(pid, 0)).toBe(false));

describe("a server's answer", () => {
  const asked = async (answer: (request: Request) => Response) => {
    const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: answer });
    try {
      return await world.http({ method: "GET", url: `http://127.0.0.1:${server.port}/x` });
    } finally {
      server.stop(true);
    }
  };
  const to = (host: string, path: string) => (request: Request) => {
    const { pathname, port } = new URL(request.url);
    return pathname === path ? new Response("here") : new Response("", { status: 302, headers: { location: `http://${host}:${port}${path}` } });
  };
  test("of at most 2 MB is read", async () => expect((await asked(() => new Response("x".repeat(1_900_000)))).body.length).toBe(1_900_000));
  test("that is larger, or has no end, is none, and costs neither time nor memory", async () => {
    const before = process.memoryUsage.rss();
    const part = new Uint8Array(100_000);
    let sent = 0;
    const endless = () => new Response(new ReadableStream({ pull: (to) => {
      sent += part.length;
      to.enqueue(part);
    } }));
    expect(await asked(endless)).toEqual({ ok: false, status: 408, body: "" });
    expect([sent < 50_000_000, process.memoryUsage.rss() - before < 100_000_000]).toEqual([true, true]);
  });
  test("is followed on its own host alone", async () => {
    expect(await asked(to("127.0.0.1", "/y"))).toEqual({ ok: true, status: 200, body: "here" });
    expect(await asked(to("localhost", "/y"))).toEqual({ ok: false, status: 302, body: "" });
    expect((await asked(() => new Response("", { status: 302, headers: { location: "/again" } }))).status).toBe(302);
  });
});

test("a message on a terminal is broken between words; in a pipe it is one line", () => {
  const { printError, errorWidth } = world;
  const said = (width: number): string => {
    let text = "";
    Object.assign(world, { errorWidth: () => width || Infinity, printError: (part: string) => void (text += part) });
    try {
      world.log(`[agents 2026-06-15 12:00:00] builder: ${"its client ended ".repeat(4)}\n    its last words`);
    } finally {
      Object.assign(world, { printError, errorWidth });
    }
    return text;
  };
  const lines = said(44).trimEnd().split("\n");
  for (const line of lines) expect(line.length).toBeLessThanOrEqual(44);
  expect([lines[0], lines[1]!.startsWith("  "), lines.at(-1)]).toEqual(["[agents 2026-06-15 12:00:00] builder: its", true, "    its last words"]);
  expect(said(0).split("\n").length).toBe(3);
});
test("a line that fits keeps what it begins with, as a page of the live view does", () => {
  expect(wrapLine("          a value below its key", 40)).toEqual(["          a value below its key"]);
  expect(wrapLine("one two three", 9, "  ")).toEqual(["one two", "  three"]);
});

test("no escape, control or bidi character of anybody's text reaches a log", () => {
  const fake = fakeWorld();
  log("one \x1b]52;c;eA==\x07\x1b[31mred\x1b[0m\u202e\u2066x\x9b2J\r\ntwo\x00\t\u{e0041}3");
  log("x".repeat(1_000_000));
  expect(fake.lines[0]!.replace(/\[agents [^\]]*\]/g, "-").split("\n")).toEqual(["- one redx ", "- two 3"]);
  expect(fake.lines[1]!.length).toBeLessThan(21_000);
  expect(printable("a\nb\u2028c é 全 👍 \ue0a0")).toBe("a b c é 全 👍 \ue0a0");
});

test.concurrent("a program that no signal ends holds nobody up: in a call to a dead network disk none is heard", async () => {
  let group = 0;
  const { signal } = world;
  world.signal = (pid, name) => pid === -group || signal(pid, name); // of those beside it each one is
  const began = performance.now();
  try {
    const ran = await run(["sleep", "25"], 200, {}, "", undefined, (pid) => void (group = pid));
    expect(ran).toEqual({ ok: false, out: "", err: "no answer in time", timedOut: true });
    expect(performance.now() - began).toBeLessThan(15_000);
  } finally {
    world.signal = signal;
    if (group) process.kill(group, "SIGKILL");
  }
}, 40_000);

describe("what a program printed, after its own exit", () => {
  test.concurrent("is read while more of it comes, however slowly", async () => {
    const ran = await run(["sh", "-c", "(for nth in 1 2 3 4 5 6; do sleep 0.3; echo $nth; done) & exit 0"], 20_000);
    expect(ran).toMatchObject({ ok: true, out: "1\n2\n3\n4\n5\n6\n", code: 0 });
  });
  test.concurrent("counts as whole where a child that is left behind keeps the pipe open and is silent", async () => {
    const ran = await run(["sh", "-c", "echo all; sleep 25 & echo $! >&2"], 20_000);
    process.kill(Number(ran.err), "SIGKILL");
    expect(ran).toMatchObject({ ok: true, out: "all\n" });
  });
  test.concurrent("is a part, which is no answer, where it has no end", async () => {
    const ran = await run(["sh", "-c", "(while echo on; do sleep 0.1; done) & echo $! >&2"], 500);
    expect(ran).toMatchObject({ ok: false, err: "its output has no end" });
  });
  test.concurrent("its code says how it ended", async () => {
    const codes = await Promise.all(["exit 0", "exit 1", "kill -9 $$"].map((script) => run(["sh", "-c", script], 5_000)));
    expect(codes.map(({ ok, code }) => [ok, code])).toEqual([[true, 0], [false, 1], [false, 137]]);
  });
});
