/**
 * A scripted client for tests: driven by what is typed into it, drawn like Claude Code. TUI_LEDGER keeps
 * all that it received, a line of JSON each; the first line of the file TUI_CONTROL sets its state: busy,
 * idle, dialog, limit <banner>, screen <file>, exit <n>, `once …` for one that is not set again.
 */
import { dlopen } from "bun:ffi";
import { appendFileSync, existsSync, readFileSync, rmSync, watch, writeSync } from "node:fs";
import { basename, dirname } from "node:path";

const { TUI_LEDGER = "", TUI_CONTROL = "", TUI_WORK_MS = "400", TUI_IGNORE_HUP } = process.env;
/** How often it draws one at work, one that is read from a file; any other only when something happens, or as often as that, ms. */
const [TURN, FILE, STILL] = [250, 100, 1_000];

/** The terminal by the system's own calls: Node's streams for one take as long to load as all of Bun. */
const { symbols: { tcgetattr, tcsetattr, cfmakeraw, ioctl } } = dlopen("libc.so.6", {
  tcgetattr: { args: ["int", "ptr"], returns: "int" }, tcsetattr: { args: ["int", "int", "ptr"], returns: "int" },
  cfmakeraw: { args: ["ptr"], returns: "void" }, ioctl: { args: ["int", "u64", "ptr"], returns: "int" },
});
const TIOCGWINSZ = 0x5413;
/** As the terminal was before this client; no `termios` is larger. */
const before = new Uint8Array(256);
const isTerminal = tcgetattr(0, before) === 0;
/** Rows, columns, and two in pixels; what a terminal that is gone had last. */
const size = new Uint16Array([24, 80, 0, 0]);

/** One whose terminal is gone lives on, if it ignores that. */
function print(text: string): void {
  try {
    writeSync(1, text);
  } catch {
    // nobody sees it
  }
}

let lines: string[] = [];
let [draft, pasting, state, drawn] = ["", false, "idle", ""];
let since = 0;
const queue: string[] = [];

function note(fact: object): void {
  if (TUI_LEDGER) appendFileSync(TUI_LEDGER, `${JSON.stringify({ at: Date.now(), ...fact })}\n`);
}

function enterState(next: string): void {
  since = Date.now();
  state = next;
}

function draw(): void {
  ioctl(1, TIOCGWINSZ, size);
  const [rows = 24, columns = 80] = size;
  const rule = "─".repeat(columns);
  const busy = state === "busy";
  const [word, rest] = /^(\w+) ?(.*)$/s.exec(state)!.slice(1) as [string, string];
  const box = [rule, `❯\u00a0${draft.replaceAll("\n", "\n  ")}`, rule,
    `  ⏵⏵ auto mode on${busy ? " · esc to interrupt" : " (shift+tab to cycle)"}`];
  const dialog = ["Do you want to proceed?", " ❯ 1. Yes", "   2. No", "", " Esc to cancel · Tab to amend"];
  const turn = Math.floor((Date.now() - since) / TURN);
  const parts = word === "screen" ? [readFileSync(rest.trim(), "utf8")]
    : [...lines.slice(-Math.max(3, rows - 12)), "", ...(busy ? [`✻ Working… (${turn}s · esc to interrupt)`, ""] : []),
      ...(word === "limit" ? ["❯ go on", `  ⎿  ${rest}`, ""] : []), ...(word === "dialog" ? dialog : box)];
  const screen = `\x1b]2;${busy ? "◐" : "✳"} Claude Code\x07\x1b[2J\x1b[H${parts.join("\n").replaceAll("\n", "\r\n")}`;
  const key = `${columns} ${rows} ${screen}`;
  if (key !== drawn) print(screen);
  drawn = key;
}

/** Bytes from the terminal: framed pastes go to the draft, Enter submits, or answers a dialog. */
function receive(bytes: string): void {
  note({ bytes, ...(state.startsWith("dialog") ? { dialog: Date.now() - since } : {}) });
  for (const part of bytes.split(/(\x1b\[20[01]~|[\r\x03\x15\x7f])/)) {
    if (part === "\x1b[200~") pasting = true;
    else if (part === "\x1b[201~") pasting = false;
    else if (part === "\r" && !pasting) enter();
    else if (part === "\x03") leave(0);
    else if (part === "\x15") clear();
    else if (part === "\x7f") draft = draft.slice(0, -1);
    else if (!state.startsWith("dialog")) draft += part.replaceAll("\r", "\n");
  }
  draw();
}

function enter(): void {
  if (state.startsWith("dialog")) {
    note({ approved: true });
    enterState("idle");
  } else if (draft.trim()) {
    queue.push(draft);
    note({ submit: draft });
    draft = "";
  }
}

function clear(): void {
  note({ cleared: draft });
  draft = "";
}

function leave(code: number): never {
  print("\x1b[?2004l");
  if (isTerminal) tcsetattr(0, 0, before);
  process.exit(code);
}

function readControl(): void {
  const word = existsSync(TUI_CONTROL) ? readFileSync(TUI_CONTROL, "utf8").split("\n")[0]!.trim() : "";
  if (!word || word === state) return;
  if (word.startsWith("exit")) leave(Number(word.slice(5)) || 0);
  if (word.startsWith("once ")) rmSync(TUI_CONTROL);
  enterState(word.replace(/^once /, ""));
}

/** Until something happens, but no longer. */
function rest(ms: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    wake = () => (clearTimeout(timer), resolve());
  });
}
let wake = (): void => {};

async function work(message: string): Promise<void> {
  lines.push("", `❯ ${message.split("\n")[0]!.slice(0, 200)}`);
  enterState("busy");
  draw();
  await Bun.sleep(Number(TUI_WORK_MS));
  lines.push("", "● OK");
  lines = lines.slice(-200);
  if (state === "busy") enterState("idle");
  draw();
}

const args = process.argv.slice(2);
if (args.at(-1) === "--version") {
  print("2.1.330 (Claude Code)\n"); // doctor asks, and would wait five seconds
  process.exit();
}
const prompt = args.includes("--") ? args[args.indexOf("--") + 1] : "";
if (prompt) queue.push(prompt);
note({ start: args, pid: process.pid });
if (isTerminal) {
  const raw = before.slice();
  cfmakeraw(raw);
  tcsetattr(0, 0, raw);
}
void (async () => {
  const decoder = new TextDecoder();
  for await (const bytes of Bun.stdin.stream()) {
    receive(decoder.decode(bytes, { stream: true }));
    wake();
  }
})().catch(() => {}); // it has no terminal any more
let isTold = true;
try {
  if (TUI_CONTROL) watch(dirname(TUI_CONTROL), (_, name) => void (name === basename(TUI_CONTROL) && wake()));
} catch {
  isTold = false; // Linux has 128 watchers for a user; without one it looks as often as at a screen's file
}
process.on("SIGWINCH", () => wake());
print("\x1b[?2004h");
process.on("SIGHUP", () => {
  note({ hangup: state, draft });
  if (!TUI_IGNORE_HUP) leave(0);
});
if (TUI_IGNORE_HUP) process.on("SIGTERM", () => undefined);
for (;;) {
  readControl();
  draw();
  const next = state === "idle" ? queue.shift() : undefined;
  if (next) await work(next);
  else await rest(state === "busy" ? TURN : state.startsWith("screen") || !isTold ? FILE : STILL);
}
