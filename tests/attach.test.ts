/** `attach` in a real terminal: it becomes tmux, shows the agent's own session, and leaves it alone. */
import { expect } from "bun:test";
import { life, lives, quote, real, SELF, until } from "./real.ts";

const plan = { agents: [{ name: "a1" }, { name: "a10" }] };

const fleet = life(plan);

fleet("attach says what is in its way", async (f) => {
  const said = async (...words: string[]) => {
    const { code, out, err } = await f.run(["attach", ...words]);
    return [code, out, err];
  };
  await f.up("a1");
  expect(await said("a1")).toEqual([1, "", "agents: attach needs a terminal\n"]);
  expect(await said("a10")).toEqual([1, "", "agents: a10 is not running: see \"agents status a10\"\n"]);
  expect(await said("watchdog")).toEqual([1, "", "agents: watchdog is not running: see \"agents logs watchdog\"\n"]);
  expect(await said("a2")).toEqual([2, "", expect.stringContaining('no agent or service "a2"; nearest is "a1"')]);
  expect(await said()).toEqual([2, "", "agents: usage: attach <name> [--read-only]\n"]);
});

fleet("attach shows the session of the agent; keys reach it, with --read-only they do not; from a pane of the same server it takes this client there, and nests none; detaching ends nothing", async (f) => {
  await f.up("a1", "a10");
  await f.ready("a1", "a10");
  // keys that come in one go, as on a loaded machine, are keys all the same, and no paste
  await f.tmux("set-option", "-g", "assume-paste-time", "0");
  const client = await f.pid("a1");
  const person = await f.terminal(["attach", "a1"]);
  await until(async () => (await f.tmux("list-clients", "-F", "#{session_name} #{client_readonly}")) === "t-a1 0");
  await person.keys("-l", "typed by hand");
  await person.shows((text) => text.includes("typed by hand"));
  await until(async () => (await f.screen("a1")).includes("typed by hand"));
  expect([f.bytes("a1"), f.bytes("a10")]).toEqual(["typed by hand", ""]);
  await person.keys("C-b", "d");
  expect(await person.ended()).toBe("exit 0");
  expect([await f.pid("a1"), lives(client), await f.tmux("list-clients")]).toEqual([client, true, ""]);

  const reader = await f.terminal(["attach", "a1", "--read-only"]);
  await until(async () => (await f.tmux("list-clients", "-F", "#{session_name} #{client_readonly}")) === "t-a1 1");
  await reader.keys("-l", "more");
  // it would have come before this, which the same server is asked for
  await reader.keys("C-b", "d");
  expect([await reader.ended(), f.bytes("a1")]).toEqual(["exit 0", "typed by hand"]);

  await f.tmux("new-session", "-d", "-s", "human", "sh");
  const other = await f.terminal(["attach", "a1"]);
  const shows = (session: string) => until(async () => (await f.tmux("list-clients", "-F", "#{session_name}")) === session);
  await shows("t-a1");
  await f.tmux("switch-client", "-c", await f.tmux("list-clients", "-F", "#{client_name}"), "-t", "human");
  await shows("human");
  const words = [...SELF, "attach", "a10", "--config", f.config].map(quote).join(" ");
  const exit = f.path("exit");
  await f.tmux("send-keys", "-t", "human", "-l", `${words}; echo "exit $?" >${quote(exit)}`);
  await f.tmux("send-keys", "-t", "human", "Enter");
  await shows("t-a10");
  expect(await until(() => f.read("exit"))).toBe("exit 0\n");
  await other.keys("C-b", "d");
  expect([await other.ended(), await f.pid("a1")]).toEqual(["exit 0", client]);
});

real("attach on another socket, from inside of tmux, and to the watchdog's log", {
  ...plan, defaults: { tmux_socket: "fleet" },
}, async (f) => {
  await f.up("a1", "watchdog");
  const clients = () => f.tmux("-L", "fleet", "list-clients", "-F", "#{session_name}");
  const person = await f.terminal(["attach", "watchdog"]);
  await until(async () => (await clients()) === "t-watchdog");
  await person.shows((text) => text.includes("watchdog up"));
  await person.keys("C-b", "d");
  expect(await person.ended()).toBe("exit 0");
  const server = Number(await f.tmux("-L", "fleet", "display-message", "-p", "#{pid}"));
  process.kill(server, "SIGSTOP");
  const { code, out, err } = await f.run(["attach", "a1"]);
  expect([code, out, err]).toEqual([1, "", "agents: tmux: no answer in time\n"]);
  process.kill(server, "SIGCONT");
  await f.tmux("-L", "fleet", "kill-server");
});
