import { real, until, signal, spawn } from "./real.ts";
for (let i = 0; i < 12; i++) real("smoke" + i, { agents: [{ name: "a1", watch: "heal" }] }, async (f) => {
  await f.up(); await f.ready("a1");
  const pid = await f.pid("a1");
  signal(pid, "SIGKILL");
  try { await until(() => f.starts("a1").length === 2, 4000); } catch {
  console.log(pid, (await spawn(["ps", "-e", "-o", "pid,ppid,pgid,stat,args"])).out.split("\n").filter((l) => l.includes(String(pid))).join("\n").slice(0, 1500));
  console.log(await f.tmux("list-panes", "-a", "-F", "#{session_name} #{pane_pid} #{pane_dead} #{pane_dead_status} #{pane_dead_signal}"));
  console.log(f.log, f.read(".agents/state/watch.json"));
  throw 1; }
});
