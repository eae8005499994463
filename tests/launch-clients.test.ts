/** Clients that are told their work after they were started: opencode by its server, typed ones by their pane. */
import { expect } from "bun:test";
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Fleet, real, signal, TUI, until } from "./real.ts";

/** What an opencode server answers, as measured, and what it was asked to do. */
function fakeServer() {
  const facts = { permissions: [] as object[], busy: false, prompts: [] as { session: string; text: string; model: unknown }[], sessions: 0, aborted: [] as string[] };
  const server = Bun.serve({
    port: 0, hostname: "127.0.0.1",
    async fetch(request) {
      const { pathname } = new URL(request.url);
      const [, , session, verb] = pathname.split("/");
      if (pathname === "/global/health") return Response.json({ healthy: true });
      if (pathname === "/permission") return Response.json(facts.permissions);
      if (pathname === "/question") return Response.json([]);
      if (pathname === "/session/status") return Response.json(facts.busy ? { ses_1: { type: "busy" } } : {});
      if (pathname === "/session" && request.method === "POST") return Response.json({ id: `ses_${(facts.sessions += 1)}` });
      if (verb === "prompt_async") {
        const body = (await request.json()) as { parts: { text: string }[]; model?: unknown };
        facts.prompts.push({ session: session!, text: body.parts[0]!.text, model: body.model });
        return new Response(null, { status: 204 });
      }
      if (verb === "abort") facts.aborted.push(session!);
      return pathname.startsWith("/session/") ? Response.json({ id: session }) : new Response("", { status: 404 });
    },
  });
  return { ...facts, facts, url: `http://127.0.0.1:${server.port}`, stop: () => server.stop(true) };
}

const opencode = (f: Fleet, url: string, more = ""): void => void f.write("agents.toml", f.text({
  ...f.plan, toml: `[backend.oc]\nkind = "opencode"\nbin = ${JSON.stringify(TUI)}\nserver = "${url}"\nready_re = "auto mode on"\nconnect_delay = 2\n${more}`,
}));

real("fault 76: opencode: a session is made, attached, and told its kickoff by the server, with the model", {
  agents: [{ name: "a1", backend: "oc", model: "anthropic/claude-x/y", prompt: "the work", watch: "heal" }],
}, async (f) => {
  const server = fakeServer();
  try {
    opencode(f, server.url);
    await f.up();
    await until(() => server.facts.prompts.length);
    expect(f.starts("a1")).toEqual([["tui", "attach", server.url, "--dir", f.dir, "--session", "ses_1"]]);
    expect(server.facts.prompts).toEqual([{
      session: "ses_1", text: expect.stringContaining(join(f.state, "kickoff-t-a1.txt")),
      model: { providerID: "anthropic", modelID: "claude-x/y" },
    }]);
    // fault 78: a permission that waits at the server: blocked, nothing typed, no restart
    server.facts.permissions.push({ id: "p1", sessionID: "ses_1", permission: "bash" });
    await until(async () => (await f.states()).of.a1!.startsWith("blocked: permission: bash"), undefined, 250);
    const sent = await f.run(["send", "a1", "not now", "--timeout", "2"]);
    expect([sent.code, sent.err]).toEqual([1, expect.stringContaining("permission: bash")]);
    expect([f.bytes("a1"), server.facts.prompts.length, f.starts("a1").length]).toEqual(["", 1, 1]);
    server.facts.permissions.length = 0;
    expect((await f.run(["send", "a1", "now; it may"])).code).toBe(0);
    expect(server.facts.prompts[1]).toMatchObject({ session: "ses_1", text: "now; it may" });
    expect(f.bytes("a1")).toBe("");
  } finally {
    server.stop();
  }
});

real("fault 57: an opencode server that stays silent: attached after connect_delay, the pane is used, others start at once", {
  agents: [{ name: "a1", backend: "oc", prompt: "the work", watch: "heal" }, { name: "b1", watch: "heal" }],
}, async (f) => {
  const server = fakeServer();
  server.stop();
  opencode(f, server.url, "box_re = '^❯\u00a0(?<text>.*)$'\n");
  await f.up();
  await f.ready("a1", "b1");
  expect(f.starts("a1")).toEqual([["tui", "attach", server.url, "--dir", f.dir]]);
  await until(() => f.submits("a1").length, 12_000);
  expect(f.submits("a1")).toEqual([expect.stringContaining("kickoff-t-a1.txt")]);
});

real("down and up in a copy of the folder of a fleet at work leave that fleet alone: its client, its turn, its conversation, its watchdog", {
  agents: [{ name: "a1", backend: "oc", prompt: "the work", watch: "heal", resume: true }],
}, async (f) => {
  const server = fakeServer();
  const copy = mkdtempSync(join(tmpdir(), "copy-"));
  try {
    opencode(f, server.url, "supports_resume = true\n");
    await f.up();
    await until(() => server.facts.prompts.length);
    await until(() => JSON.parse(f.read(".agents/state/watch.json")).agents.a1.conversation === "ses_1");
    const [client, watchdog] = [await f.pid("a1"), f.lock("watchdog")];
    for (const name of ["agents.toml", ".agents"]) cpSync(f.path(name), join(copy, name), { recursive: true });
    const inCopy = (...words: string[]) => f.run([...words, "--config", join(copy, "agents.toml")]);
    const before = f.read("agents.toml");
    await inCopy("down");
    // without that it says whose the session of this name is
    expect((await inCopy("up")).err).toContain("belongs to the fleet of");
    writeFileSync(join(copy, "agents.toml"), before.replace(/session_prefix = "[^"]*"/, 'session_prefix = "copy-"'));
    expect((await inCopy("up")).code).toBe(0);
    await until(() => server.facts.prompts.length === 2);
    expect([f.starts("a1").map((argv) => argv.at(-1)), server.facts.prompts.map(({ session }) => session)]).toEqual([["ses_1", "ses_2"], ["ses_1", "ses_2"]]);
    expect((await inCopy("down")).code).toBe(0);
    expect([server.facts.aborted, await f.pid("a1"), f.lock("watchdog")]).toEqual([["ses_2"], client, watchdog]);
    expect(await f.run(["down"])).toMatchObject({ code: 0 });
    expect(server.facts.aborted).toEqual(["ses_2", "ses_1"]);
  } finally {
    server.stop();
    rmSync(copy, { recursive: true });
  }
});

real("an opencode agent resumes its session where the server knows it", {
  agents: [{ name: "a1", backend: "oc", prompt: "the work", watch: "heal", resume: true }],
}, async (f) => {
  const server = fakeServer();
  try {
    opencode(f, server.url, "supports_resume = true\n");
    await f.up();
    await until(() => server.facts.prompts.length);
    signal(await f.pid("a1"), "SIGKILL");
    await until(() => server.facts.prompts.length === 2, 12_000);
    expect(f.starts("a1")[1]).toContain("ses_1");
    expect(server.facts.prompts[1]).toMatchObject({ session: "ses_1", text: expect.stringContaining("continue where you stopped") });
  } finally {
    server.stop();
  }
});

real("a typed client is started, waited for, and told its kickoff through its pane", {
  agents: [{ name: "a1", backend: "plain", prompt: "the work", watch: "heal" }],
}, async (f) => {
  f.write("agents.toml", f.text({
    ...f.plan, toml: `[backend.plain]\nkind = "typed"\nbin = ${JSON.stringify(TUI)}\nready_re = "auto mode on"\n`,
  }));
  await f.up();
  await until(() => f.submits("a1").length, 12_000);
  expect(f.submits("a1")).toEqual([expect.stringContaining("kickoff-t-a1.txt")]);
  expect(f.read(".agents/state/kickoff-t-a1.txt")).toBe("the work");
});
