/** Every function of the original has its counterpart under its own name, and the seam is no wider. */
import { expect, test } from "bun:test";
import * as agents from "../agents.ts";

const ORIGINAL = `
_cfg_path load_config backend_of log die TS TP session_alive session_command kill_session capture_pane pipe_to_log
new_session ping_session _re _session_log_path _log_recently_touched pane_active phases phase_idx_file cur_idx cur_phase
resolve_state_file phase_done role_model build_loop_kickoff agent_prompt resume_id start_agent start_service
_limit_state_path _load_limit_state _save_limit_state _clear_limit_state _parse_reset_epoch _next_limit_until
_limit_nudge_msg limit_tick _last_nonempty_line _parse_waiting_until stall_check_one _expected_backend_cmd
backend_mismatch heal_one wake_agent handoff_reset _git _show_pushed handoff_check loop_agents stop_loops start_loops
phase_advance_check watched watchdog_loop loop_sessions_alive start_watchdog cmd_up cmd_down cmd_status cmd_phase
cmd_migrate cmd_selftest main`.trim().split(/\s+/);

const RENAMED: Record<string, string> = { TS: "targetSession", TP: "targetPane", _re: "backendRe", _git: "git" };
const counterpart = (name: string): string =>
  RENAMED[name] ?? name.replace(/^_/, "").replace(/_(.)/g, (_, letter) => letter.toUpperCase());

test("the original has 64 functions", () => expect(new Set(ORIGINAL).size).toBe(64));

test.each(ORIGINAL.map((name) => [name, counterpart(name)]))("%s is %s", (_, name) =>
  expect(typeof (agents as Record<string, unknown>)[name]).toBe("function"));

test("the seam has twenty-seven members", () => expect(Object.keys(agents.world).sort()).toEqual([
  "answers", "append", "errorWidth", "executable", "folder", "folderId", "git", "head", "http", "isFolder", "list", "log", "mono", "mtime", "now", "opened", "print", "printError", "read", "realPath", "remove", "signal", "sleep", "tail", "text", "tmux", "writeAtomic",
]));
