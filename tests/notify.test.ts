/** Notices to people: received whole by a real listener, with a deadline for one that hangs. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { noticeText } from "../agents.ts";
import { SELF, spawn } from "./real.ts";

async function notify(url: string): Promise<{ code: number; out: string; err: string }> {
  const dir = mkdtempSync(join(tmpdir(), "notice-"));
  const config = join(dir, "agents.toml");
  writeFileSync(config, `[notify]\nurl = "${url}"\n[[agent]]\nname = "a"\nbackend = "claude"\n`);
  try {
    return await spawn([...SELF, "notify", "--test", "--config", config], { env: { PATH: process.env.PATH, HOME: dir } });
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test("a notice arrives whole, as text and as JSON", async () => {
  const bodies: string[] = [];
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: async (request) => {
    bodies.push(await request.text());
    return new Response("ok");
  } });
  expect((await notify(`http://127.0.0.1:${server.port}/fleet`)).code).toBe(0);
  expect((await notify(`json:http://127.0.0.1:${server.port}/fleet`)).code).toBe(0);
  await server.stop(true);
  expect(bodies[0]).toBe("test a test of the notices");
  expect(JSON.parse(bodies[1]!)).toMatchObject({ text: bodies[0], events: [{ event: "test" }] });
});

test("a listener that refuses or hangs is a failure, within the deadline", async () => {
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, idleTimeout: 60, fetch: ({ url }) =>
    url.endsWith("/hangs") ? new Promise<Response>(() => {}) : new Response("no", { status: 500 }) });
  const refused = await notify(`http://127.0.0.1:${server.port}/refuses`);
  expect([refused.code, refused.err]).toEqual([1, expect.stringContaining("answered 500")]);
  const hung = await notify(`http://127.0.0.1:${server.port}/hangs`);
  expect([hung.code, hung.err]).toEqual([1, expect.stringContaining("did not answer")]);
  await server.stop(true);
}, 300_000);

test("one line per event", () => {
  expect(noticeText([{ at: "", event: "blocked", agent: "a", why: "a dialog" }, { at: "", event: "phase", from: "p1", to: "p2" }]))
    .toBe("a blocked a dialog\nphase p1 → p2");
});
