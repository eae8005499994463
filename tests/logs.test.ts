/** `logs`: the end of what a client wrote, as text, and what comes after it. */
import { describe, expect, test } from "bun:test";
import { appendFileSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { cleanLog } from "../agents.ts";
import { type Fleet, real, SELF, until } from "./real.ts";

describe("cleanLog", () => {
  test.each([
    ["plain", "one\ntwo\n", "one\ntwo"],
    ["colours, titles and links go", "\x1b[31mred\x1b[0m\x1b]0;title\x07 \x1b]8;;http://x\x07link\x1b]8;;\x07", "red link"],
    ["a cursor move ends a line", "left\x1b[3;10Hright\x1b[2Kdown\x1b[5Gx1", "left\nrightdown\nx1"],
    ["cleared screens and carriage returns too", "a1\x1b[2Jb1\x1b[Jc1\rd1\r\ne1", "a1\nb1\nc1\nd1\ne1"],
    ["a line that is drawn again is dropped", "same\nother\nsame\n", "same\nother"],
    ["what has no letter or digit is dropped", "────\n❯ \n│ text │\n", "│ text │"],
    ["other control characters go", "a\x00b\x08c\x7fd  \n", "abcd"],
    ["what turns letters round goes", "a\u202eb\u2067c\u200fd", "abcd"],
  ])("%s", (_, raw, text) => expect(cleanLog(raw)).toBe(text));
  test("a line that comes back much later is news", () => {
    const between = (count: number) => Array.from({ length: count }, (_, nth) => `line ${nth}`).join("\n");
    expect(cleanLog(`again\n${between(59)}\nagain`).match(/again/g)).toHaveLength(1);
    expect(cleanLog(`again\n${between(60)}\nagain`).match(/again/g)).toHaveLength(2);
  });
});

const plan = { agents: [{ name: "a1" }], services: [{ name: "web", command: "x" }] };
const log = (f: Fleet, name: string): string => f.write(`.agents/t-${name}.log`, "");

real("logs prints the last lines, as many as are asked for, cleaned or raw", plan, async (f) => {
  writeFileSync(log(f, "a1"), Array.from({ length: 80 }, (_, nth) => `\x1b[32mline ${nth}\x1b[0m\r\n`).join(""));
  const printed = async (...words: string[]) => (await f.run(["logs", "a1", ...words])).out;
  expect(await printed()).toBe(Array.from({ length: 50 }, (_, nth) => `line ${nth + 30}\n`).join(""));
  expect(await printed("-n", "2")).toBe("line 78\nline 79\n");
  expect(await printed("--lines", "0")).toBe("");
  expect(await printed("-n", "1", "--raw")).toBe("\x1b[32mline 79\x1b[0m\n");
  for (const bad of ["x", "-1", "1.5"]) {
    const ran = await f.run(["logs", "a1", `--lines=${bad}`]);
    expect([ran.code, ran.out, ran.err]).toEqual([2, "", `agents: logs: --lines "${bad}" is not a whole number\n`]);
  }
  writeFileSync(log(f, "web"), "\n");
  expect(await f.run(["logs", "web"])).toEqual({ code: 0, out: "", err: "" });
  writeFileSync(log(f, "watchdog"), "same\nsame\n");
  expect((await f.run(["logs", "watchdog"])).out).toBe("same\nsame\n");
  expect(await f.run(["logs"])).toMatchObject({ code: 2, err: "agents: usage: logs <name…>\n" });
  writeFileSync(log(f, "web"), "served\n");
  expect((await f.run(["logs", "w*"])).out).toBe("web      | served\nwatchdog | same\nwatchdog | same\n");
});

/** Waits until the follower has looked so many times more: it gives way to others each time. */
async function looksMore(f: Fleet, count: number, name = "a1"): Promise<void> {
  const { pid } = f.processes().find(({ command }) => command.includes(` logs ${name} -f `) && !command.startsWith("bash"))!;
  const turns = () => Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);
  const before = turns();
  await until(() => turns() >= before + count);
}

real("logs shows the watchdog's log without what an older one wrote there raw; a character cut by a write is one", plan, async (f) => {
  const path = log(f, "watchdog");
  writeFileSync(path, "claim \x1b]0;x\x07\x1b[31mred\u202e\n");
  expect((await f.run(["logs", "watchdog"])).out).toBe("claim red\n");
  const follow = f.start(["logs", "watchdog", "-f", "-n", "0"]);
  let shown = "";
  const reading = (async () => {
    const decoder = new TextDecoder();
    for await (const bytes of follow.stdout) shown += decoder.decode(bytes, { stream: true });
  })();
  await until(() => {
    if (!shown) appendFileSync(path, "it follows\n");
    return shown;
  }, 8_000, 500);
  const bytes = Buffer.from("全部👍");
  for (const at of [0, 4, 8]) {
    await looksMore(f, 3, "watchdog");
    appendFileSync(path, bytes.subarray(at, at + 4));
  }
  await until(() => shown.includes("👍"));
  follow.kill();
  await reading;
  expect(shown.replaceAll("\n", "")).toEndWith("it follows全部👍");
});

real("logs -f goes on with what comes, over a rotation, until its reader has seen enough", plan, async (f) => {
  const path = log(f, "a1");
  writeFileSync(path, "before\n");
  const follow = [...SELF, "logs", "a1", "-f", "--config", f.config];
  const shell = Bun.spawn(["bash", "-c", '"$@" | for nth in 1 2 3 4; do IFS= read -r line; echo "$line" >> shown; done; echo "exit ${PIPESTATUS[0]}" > ended', "bash", ...follow],
    { cwd: f.dir, env: f.env, stdio: ["ignore", "ignore", "inherit"] });
  const shows = (text: string) => until(() => f.read("shown") === text);
  await shows("before\n");
  appendFileSync(path, "\x1b[1mfirst\x1b[0m\r\n");
  await shows("before\nfirst\n");
  // no line end yet: it is shown at once
  appendFileSync(path, "second");
  await shows("before\nfirst\nsecond\n");
  renameSync(path, `${path}.1`);
  await looksMore(f, 3);
  writeFileSync(path, "new\n");
  await shows("before\nfirst\nsecond\nnew\n");
  // a pipe that nobody reads is noticed at the next write
  await until(() => {
    appendFileSync(path, `more ${performance.now()}\n`);
    return f.read("ended") === "exit 0\n";
  });
  expect(await shell.exited).toBe(0);
});

real("logs -f in a terminal shows what comes and ends by Ctrl-C", plan, async (f) => {
  const path = log(f, "watchdog");
  writeFileSync(path, "before\n");
  const person = await f.terminal(["logs", "watchdog", "--follow", "-n", "5"]);
  await until(async () => (await person.screen()).includes("before"));
  for (let nth = 0; nth < 3; nth++) {
    appendFileSync(path, `line ${nth}\n`);
    await until(async () => (await person.screen()).includes(`line ${nth}`));
  }
  const followers = () => f.processes().filter(({ command }) => command.includes("--follow"));
  expect(followers()).not.toEqual([]);
  await person.keys("C-c");
  await until(() => !followers().length);
});
