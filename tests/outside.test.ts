/** What comes from outside costs itself alone, and reaches nobody raw: on real tmux, git and a real server. */
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { allowed, loopPlan, real, signal, until } from "./real.ts";

/** A terminal would act on these: a title, the clipboard, colours, a cleared screen, text that runs backwards. */
const RAW = "\x1b]0;gone\x07\x1b]52;c;aGk=\x07\x1b[31m\x1b[2J\u202eback\u2066wards\x9b31m";
const UNPRINTABLE = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/;

real("P31, P35: an enormous subject, status file and inbox, and escapes in all of them, cost nobody else anything", loopPlan({
  handoff: { inboxes: ["TO-ADVERSARY.md", "TO-BUILDER.md"] }, agents: [{ name: "a1", watch: "heal" }],
}), async (f) => {
  await f.repository("builder", "adversary");
  await f.up();
  await f.ready("builder", "adversary", "a1");
  await until(() => JSON.parse(f.read(".agents/state/watch.json")).sha);
  const beats: number[] = [];
  const looking = setInterval(() => {
    const at = Date.parse(JSON.parse(f.read(".agents/state/heartbeat") || "{}").at);
    if (at > (beats.at(-1) ?? 0)) beats.push(at);
  }, 20);
  await f.push("builder", `claim(one): ${RAW} ${"s".repeat(1_000_000)}`, {
    "machine-docs/STATUS-one.md": `## DONE\n${"<!-- ".repeat(400_000)}`, "machine-docs/TO-BUILDER.md": `${RAW}${"i".repeat(50_000_000)}`,
  });
  await until(() => f.submits("adversary").length && f.submits("builder").length, 30_000);
  signal(await f.pid("a1"), "SIGKILL");
  await until(() => f.starts("a1").length === 2);
  await f.ticks(4);
  clearInterval(looking);
  const gaps = beats.slice(1).map((at, nth) => at - beats[nth]!);
  const longest = Math.max(...gaps);
  expect(longest).toBeLessThan(await allowed(1_500, longest));
  const [told, letter, status, logs] = [f.submits("adversary"), f.submits("builder"), await f.run(["status"]), await f.run(["logs", "watchdog"])];
  expect([told.length, letter.length]).toEqual([1, 1]);
  expect([told[0]!.includes("backwards"), told[0]!.length < 600, letter[0]!.includes("TO-BUILDER.md"), /MB/.test(letter[0]!)]).toEqual([true, true, true, true]);
  const titles = await f.tmux("list-panes", "-a", "-F", "#{session_name} #{window_name} #{pane_title}");
  for (const text of [...told, ...letter, status.out, logs.out, f.log, titles, f.read(".agents/state/events.jsonl")]) expect(UNPRINTABLE.exec(text.replace(/\n/g, ""))?.[0]).toBeUndefined();
  const sizes = ["watch.json", "events.jsonl", "operator.json"].map((name) => f.read(`.agents/state/${name}`).length);
  expect(sizes.reduce((sum, size) => sum + size)).toBeLessThan(1_000_000);
  expect(Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${f.lock("watchdog")}/status`, "utf8"))![1]) / 1000).toBeLessThan(150);
});
