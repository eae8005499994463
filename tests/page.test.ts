/** The page: who may see it, what it shows of what, and that looking changes nothing. */
import { describe, expect, onTestFinished, spyOn, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { answerPage, parsePagePath } from "../agents.ts";
import { agents, command, scene } from "./kit.ts";
import { type Fleet, real, signal, spawn, until } from "./real.ts";

const TOKEN = "dGhlIHRva2VuIG9mIGl0";

describe("what a request is for", () => {
  test.each([
    ["the fleet", `/${TOKEN}/`, "127.0.0.1:8675", ""], ["the fleet, without a slash", `/${TOKEN}`, "localhost:8675", ""],
    ["an agent, over a tunnel from another port", `/${TOKEN}/builder`, "localhost:9000", "builder"],
    ["a name that is written in percents", `/${TOKEN}/%C3%BC%20x`, "[::1]:8675", "ü x"],
    ["another token", `/${TOKEN.replace("d", "e")}/`, "127.0.0.1:8675", null], ["a part of the token", `/${TOKEN.slice(0, -1)}/`, "127.0.0.1:8675", null],
    ["more than the token", `/${TOKEN}x/`, "127.0.0.1:8675", null], ["no token", "/", "127.0.0.1:8675", null], ["an agent without one", "/builder", "127.0.0.1:8675", null],
    ["a path below an agent", `/${TOKEN}/builder/x`, "127.0.0.1:8675", null], ["broken percents", `/${TOKEN}/%E0%A4%A`, "127.0.0.1:8675", null],
    ["a name that leads to loopback: DNS rebinding", `/${TOKEN}/`, "evil.example:8675", null],
    ["a name that begins alike", `/${TOKEN}/`, "localhost.evil.example", null], ["no host", `/${TOKEN}/`, "", null], ["half a host", `/${TOKEN}/`, "[::1", null],
  ])("%s", (_, path, host, expected) => expect(parsePagePath(path, host, TOKEN)).toBe(expected));
});

describe("the answer", () => {
  const shown: string[] = [];
  const show = async (name: string) => {
    shown.push(name);
    if (name === "bad") throw new Error("agents.toml <line 3>");
    return name === "builder" || !name ? `page of ${name || "the fleet"}` : null;
  };
  const ask = (path: string, method = "GET", host = "127.0.0.1:1") => answerPage(new Request(`http://${host}${path}`, { method, headers: { host } }), TOKEN, show);

  test("may be kept, framed, or filled from elsewhere by nobody, also where it is an error", async () => {
    for (const [path, method] of [[`/${TOKEN}/`, "GET"], ["/x", "GET"], [`/${TOKEN}/bad`, "GET"], [`/${TOKEN}/`, "POST"]] as const) {
      const { headers } = await ask(path, method);
      expect(headers.get("cache-control")).toBe("no-store");
      expect(headers.get("referrer-policy")).toBe("no-referrer");
      expect(headers.get("content-security-policy")).toMatch(/^default-src 'none'; style-src 'sha256-[\w+/]{43}='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'$/);
    }
  });
  test("is the same 404 for a wrong token, an unknown name and a foreign host; nothing is looked at without the token", async () => {
    const unknown = await ask(`/${TOKEN}/nobody`);
    shown.length = 0;
    for (const answer of [await ask("/"), await ask("/x/builder"), await ask(`/${TOKEN}/builder`, "GET", "evil.example")]) {
      expect([answer.status, await answer.text()]).toEqual([404, "not found\n"]);
    }
    expect([unknown.status, await unknown.text(), shown]).toEqual([404, "not found\n", []]);
  });
  test.each(["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])("to %s is that it only shows, with the token or without", async (method) => {
    shown.length = 0;
    for (const path of [`/${TOKEN}/`, "/"]) {
      const answer = await ask(path, method);
      expect([answer.status, answer.headers.get("allow"), await answer.text()]).toEqual([405, "GET, HEAD", ""]);
    }
    expect(shown).toEqual([]);
  });
  test("where it cannot look is the reason, escaped, on a page that tries again", async () => {
    const answer = await ask(`/${TOKEN}/bad`);
    const text = await answer.text();
    expect([answer.status, text]).toEqual([500, expect.stringContaining("agents.toml &lt;line 3&gt;")]);
    expect(text).toContain('<meta http-equiv="refresh" content="5">');
  });
});

test("it is served on this machine alone, on the port that the help names unless --port names another", async () => {
  const { cfg } = await scene(agents("a"));
  const listened: unknown[] = [];
  const serve = spyOn(Bun, "serve").mockImplementation((({ hostname, port }: { hostname: string; port: number }) => {
    listened.push([hostname, port]);
    throw new Error("enough");
  }) as never);
  onTestFinished(() => serve.mockRestore());
  for (const words of [[], ["--port", "9000"]]) await command("serve", ...words, "--config", cfg.path);
  expect((await command("serve", "--help")).out).toContain("the port on 127.0.0.1 (8675)");
  expect(listened).toEqual([["127.0.0.1", 8675], ["127.0.0.1", 9000]]);
});

/** `serve` on a free port, as soon as it has said its address. */
async function serving(f: Fleet, ...words: string[]) {
  const child = f.start(["serve", "--port", "0", ...words]);
  const reader = child.stdout.getReader();
  let said = "";
  while (!said.includes("\n")) said += new TextDecoder().decode((await reader.read()).value);
  const address = said.trim();
  expect(address).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/[\w-]{24}\/$/);
  const page = async (path = "", init?: RequestInit) => {
    const answer = await fetch(address + path, init);
    return { status: answer.status, type: answer.headers.get("content-type"), text: await answer.text() };
  };
  return { child, address, page };
}

/** Every file of the fleet's state with its bytes, and every session of its tmux. */
const stateOf = async (f: Fleet) => [
  ...(existsSync(f.state) ? readdirSync(f.state, { recursive: true, encoding: "utf8" }) : []).sort().map((name) => {
    try {
      return [name, readFileSync(join(f.state, name), "utf8")];
    } catch {
      return [name];
    }
  }), await f.tmux("list-panes", "-a", "-F", "#{session_name} #{pane_pid} #{cursor_y} #{history_size}"),
];

/** Its own words, with tags in them, in the transcript of its screen. */
const hostile = { agents: [{ name: "one", watch: "heal" }, { name: "lost", dir: "no<b>where" }] };

real("serve: status, card, screen and bars for whoever has the address; what is outside is text, and nothing changes", hostile, async (f) => {
  await f.run(["up", "one"]);
  await f.ready("one");
  await f.run(["down", "watchdog"]);
  f.write("shown", "❯ go on\n\n● <script>alert(1)</script> & so on\n");
  f.control("one", `screen ${f.path("shown")}`);
  await until(async () => (await f.screen("one")).includes("<script>"));
  // of a record of 39.5 minutes slots of one minute do not fit beside the names
  const begun = { at: new Date(Date.now() - 39.5 * 60_000).toISOString(), event: "state", agent: "one", to: "active" };
  f.write(".agents/state/events.jsonl", `${JSON.stringify(begun)}\n${f.read(".agents/state/events.jsonl")}`);
  const { child, page } = await serving(f);
  const before = await stateOf(f);
  const fleet = await page();
  expect([fleet.status, fleet.type]).toEqual([200, "text/html; charset=utf-8"]);
  expect(fleet.text).toMatch(/<a class="need" href="\/[\w-]{24}\/lost">! lost /);
  expect(fleet.text).toMatch(/<a class="[a-z]*" href="\/[\w-]{24}\/one">/);
  expect(fleet.text).toContain("restarted</pre>");
  const drawn = fleet.text.replace(/[^]*<body>/, "").replaceAll("</a>", "\n").replace(/<[^>]+>/g, "").replace(/&[#\w]+;/g, "?");
  for (const line of drawn.split("\n")) expect(Bun.stringWidth(line), line).toBeLessThanOrEqual(44);
  const one = await page("one");
  expect(one.text).toContain("● &lt;script&gt;alert(1)&lt;/script&gt; &amp; so on");
  expect(one.text).toMatch(/^is +persistent · scripted/m);
  expect((await page("lost")).text).toContain("no&lt;b&gt;where");
  for (const text of [fleet.text, one.text]) expect(text).not.toContain("<script");
  expect(await page("one", { method: "HEAD" })).toMatchObject({ status: 200, text: "" });
  expect([(await page("two")).status, (await page("one", { method: "POST" })).status]).toEqual([404, 405]);
  expect(await stateOf(f)).toEqual(before);
  // the config is read anew: an agent more, then a fault, then all is well again
  f.write("agents.toml", f.text({ ...f.plan, agents: [...f.plan.agents!, { name: "more" }] }));
  expect((await page()).text).toMatch(/href="\/[\w-]{24}\/more"/);
  f.write("agents.toml", 'broken = "');
  expect(await page()).toMatchObject({ status: 500, text: expect.stringContaining("agents.toml") });
  f.write("agents.toml", f.text());
  expect((await page()).status).toBe(200);
  signal(child.pid, "SIGTERM");
  expect(await child.exited).toBe(0);
});

real("serve: a port that is taken is an error that says so", { agents: [{ name: "one" }] }, async (f) => {
  const { child, address } = await serving(f);
  const port = new URL(address).port;
  expect(await f.run(["serve", "--port", port])).toMatchObject({ code: 1, out: "", err: expect.stringContaining(`port ${port} is taken: name another with --port`) });
  signal(child.pid, "SIGTERM");
  expect(await child.exited).toBe(0);
});

const chromium = Bun.which("chromium") ?? Bun.which("google-chrome");
/** The colour of a PNG's first pixel: whatever its filter, that one is stored as it is. */
function firstPixel(png: Uint8Array): number[] {
  const view = new DataView(png.buffer, png.byteOffset);
  const parts: Uint8Array[] = [];
  for (let at = 8; at < png.length; at += 12 + view.getUint32(at)) {
    if (String.fromCharCode(...png.subarray(at + 4, at + 8)) === "IDAT") parts.push(png.subarray(at + 8, at + 8 + view.getUint32(at)));
  }
  return [...Bun.inflateSync(Buffer.concat(parts).subarray(2, -4)).subarray(1, 4)];
}

// a machine without a browser holds the page by the tests above
if (!chromium) console.warn("page.test.ts: no Chromium is installed, the page is not drawn");
real(`serve: drawn by Chromium on a phone of 390 by 844, light and dark${chromium ? "" : " (skipped: none is installed)"}`, { agents: [{ name: "one" }] }, async (f) => {
  if (!chromium) return;
  const { child, address } = await serving(f);
  const dir = mkdtempSync(join(tmpdir(), "agents-page-"));
  try {
    for (const [scheme, colour] of [[1, [0xff, 0xff, 0xff]], [0, [0x11, 0x14, 0x17]]] as const) {
      const shot = join(dir, `${scheme}.png`);
      const drawn = await spawn([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--hide-scrollbars", `--user-data-dir=${join(dir, "profile")}`, "--window-size=390,844",
        `--blink-settings=preferredColorScheme=${scheme}`, `--screenshot=${shot}`, address], { ms: 60_000 });
      expect(existsSync(shot), drawn.err).toBe(true);
      const png = readFileSync(shot);
      expect([png.readUInt32BE(16), png.readUInt32BE(20), firstPixel(png)]).toEqual([390, 844, [...colour]]);
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  signal(child.pid, "SIGTERM");
  await child.exited;
});
