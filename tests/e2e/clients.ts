/**
 * The real clients in a fleet of their own: installed once, each with its own home, a made-up key and
 * nothing but loopback, started and supervised by the program as an operator would have it.
 */
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { until } from "../real.ts";
import { markedBy, reapAfter } from "../reaper.ts";

const PROGRAM = resolve(import.meta.dir, "../..");
const CLIENTS = process.env.AGENTS_E2E_CLIENTS || join(PROGRAM, "node_modules/.cache/e2e");

/** The package and the version of each client; `AGENTS_E2E_CLAUDE=2.1.274` and the like pick others. */
const PACKAGES = {
  claude: ["@anthropic-ai/claude-code", "2.1.330"],
  opencode: ["opencode-ai", "1.18.33"],
  codex: ["@openai/codex", "0.171.0"],
  gemini: ["@google/gemini-cli", "0.61.0"],
} as const;
export type Kind = keyof typeof PACKAGES;
export const versionOf = (kind: Kind): string => process.env[`AGENTS_E2E_${kind.toUpperCase()}`] || PACKAGES[kind][1];

/** How a client is called, installed where it is not yet; "" = it is not there, and why is said. */
export function findClient(kind: Kind): string {
  let why = "AGENTS_E2E=1 is not set";
  try {
    const found = process.env.AGENTS_E2E ? install(kind) : "";
    if (found) return found;
  } catch (error) {
    why = String(error);
  }
  note(`SKIPPED: the tests with the real ${kind}: ${why}`);
  return "";
}

function install(kind: Kind): string {
  for (const tool of ["tmux", "npm", "node"]) if (!Bun.which(tool)) throw new Error(`${tool} is not installed`);
  const [name, version] = [PACKAGES[kind][0], versionOf(kind)];
  const folder = join(CLIENTS, `${kind}-${version}`);
  const modules = join(folder, "node_modules");
  const file = join(modules, name, "package.json");
  const found = (): boolean => existsSync(file) && JSON.parse(readFileSync(file, "utf8")).version === version;
  if (!found()) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "package.json"), '{ "private": true }\n');
    const argv = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", `${name}@${version}`];
    // npm refuses this setting of the README's test command in a project's folder
    const env = { ...process.env, npm_config_allow_scripts: undefined };
    const done = Bun.spawnSync(argv, { cwd: folder, env, timeout: 300_000 });
    if (done.exitCode !== 0 || !found()) throw new Error(`npm could not install ${name}@${version}: ${String(done.stderr).trim().split("\n").at(-1)}`);
  }
  const program = programIn(kind, modules);
  if (!existsSync(program)) throw new Error(`there is no ${program}`);
  return kind === "gemini" ? `${Bun.which("node")} ${program}` : program;
}

function programIn(kind: Kind, modules: string): string {
  const machine = `${process.platform}-${process.arch}`;
  if (kind === "claude") return join(modules, `@anthropic-ai/claude-code-${machine}`, "claude");
  if (kind === "opencode") return join(modules, `opencode-${machine}`, "bin/opencode");
  if (kind === "gemini") return join(modules, ".bin/gemini");
  const vendor = join(modules, `@openai/codex-${machine}`, "vendor");
  return join(vendor, existsSync(vendor) ? readdirSync(vendor)[0]! : "", "bin/codex");
}

/** A port that is free now. */
export function freePort(): Promise<number> {
  return new Promise((done) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => done(port));
    });
  });
}

/** What the model was asked: one request of a conversation. */
export interface Asked {
  t: number;
  id: number;
  model: string;
  /** Every text of the user in it, in order. */
  said: string[];
  /** How many tool results. */
  results: number;
}

export interface Ran {
  code: number;
  out: string;
  err: string;
}

const KEY = `sk-ant-api03-${"made-up-".repeat(11)}AA`;
const QUIET = "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1 DISABLE_TELEMETRY=1 DISABLE_ERROR_REPORTING=1";
/** How a client is called in its home, with that in a shell's words: nothing of this machine's environment reaches it. */
const cleanIn = (home: string): string => `env -i HOME="${home}" TMPDIR="${home}/tmp" PATH="$PATH" TERM="$TERM" LANG=C.UTF-8 TZ=UTC`;

/** One fleet of real clients, with its model, its tmux server and its watchdog. */
export class Fleet {
  readonly dir = mkdtempSync(join(tmpdir(), "agents-e2e-"));
  readonly project = join(this.dir, "project");
  readonly log = join(this.dir, "model.jsonl");
  private readonly env: Record<string, string | undefined>;
  private readonly models: Bun.Subprocess[] = [];

  constructor() {
    if (!process.env.AGENTS_E2E_KEEP) reapAfter(this.dir);
    for (const folder of ["project", "tmux"]) mkdirSync(join(this.dir, folder));
    writeFileSync(this.log, "");
    const { TMUX: _tmux, TMUX_PANE: _pane, ...rest } = process.env;
    this.env = { ...rest, TMUX_TMPDIR: join(this.dir, "tmux") };
  }

  file(name: string, text: string): string {
    const path = join(this.dir, name);
    mkdirSync(resolve(path, ".."), { recursive: true });
    writeFileSync(path, text);
    return path;
  }

  /** Starts a mock model; returns its port. */
  async startModel(script: string): Promise<number> {
    const port = await freePort();
    const model = Bun.spawn([process.execPath, join(import.meta.dir, script), `${port}`, this.log, this.project], { env: this.env, stdout: "pipe", stderr: "inherit" });
    this.models.push(model);
    await model.stdout.getReader().read();
    return port;
  }

  /** A client's home, with its temporary files: opencode leaves one of 14 MB at each start. */
  private home(name: string): string {
    const home = join(this.dir, "homes", name);
    mkdirSync(join(home, "tmp"), { recursive: true });
    return home;
  }

  /** A home of its own for one Claude Code, in which nothing is asked at the first start. */
  claudeHome(name: string, dir = this.project): string {
    const known = { hasCompletedOnboarding: true, projects: { [dir]: { hasTrustDialogAccepted: true } },
      customApiKeyResponses: { approved: [KEY.slice(-20)], rejected: [] } };
    this.file(`homes/${name}/.claude.json`, JSON.stringify(known));
    return this.home(name);
  }

  /** `bin` as an operator writes it. */
  claudeBin(client: string, port: number, credential: "key" | "token"): string {
    const own = credential === "key" ? `ANTHROPIC_API_KEY=${KEY}` : "CLAUDE_CODE_OAUTH_TOKEN=sk-ant-oat01-made-up";
    return `${cleanIn("$CLIENT_HOME")} ANTHROPIC_BASE_URL=http://127.0.0.1:${port} ${own} ${QUIET} ${client}`;
  }

  /** A home for opencode with the models of the mock; the first is the one that it takes by itself. */
  opencodeHome(port: number, ...models: string[]): string {
    const of = (name: string) => [name, { name, limit: { context: 1_000_000, output: 8000 } }];
    const provider = { npm: "@ai-sdk/openai-compatible", name: "Mock", options: { baseURL: `http://127.0.0.1:${port}/v1`, apiKey: "made-up" },
      models: Object.fromEntries(models.map(of)) };
    this.file("homes/opencode/.config/opencode/opencode.json", JSON.stringify({ model: `mock/${models[0]}`, provider: { mock: provider } }));
    return this.home("opencode");
  }

  opencodeBin(client: string, home: string): string {
    const quiet = "OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_LSP_DOWNLOAD=1";
    return `${cleanIn(home)} ${quiet} ${client}`;
  }

  /** A home of its own for one Codex, in which nothing is asked at the first start. */
  codexHome(name: string, port: number, dir = this.project): string {
    const config = `model = "gpt-6-sol"
model_provider = "mock"
check_for_update_on_startup = false
[features]
daemon_auto_start = false
[model_providers.mock]
name = "Mock"
base_url = "http://127.0.0.1:${port}/v1"
env_key = "MOCK_API_KEY"
wire_api = "responses"
[notice]
hide_rate_limit_model_nudge = true
[tui]
screen_reader_detection_done = true
[projects."${dir}"]
trust_level = "trusted"
`;
    this.file(`homes/${name}/.codex/config.toml`, config);
    return this.home(name);
  }

  codexBin(client: string): string {
    return `${cleanIn("$CLIENT_HOME")} AGENTS_UNIT="$AGENTS_UNIT" SHELL=/bin/sh MOCK_API_KEY=made-up ${client}`;
  }

  /** The same for one Gemini CLI. */
  geminiHome(name: string, dir = this.project): string {
    const settings = { security: { auth: { selectedType: "gemini-api-key" } }, general: { enableAutoUpdate: false, enableAutoUpdateNotification: false },
      privacy: { usageStatisticsEnabled: false }, telemetry: { enabled: false }, ide: { hasSeenNudge: true } };
    this.file(`homes/${name}/.gemini/trustedFolders.json`, JSON.stringify({ [dir]: "TRUST_FOLDER" }));
    this.file(`homes/${name}/.gemini/settings.json`, JSON.stringify(settings));
    return this.home(name);
  }

  geminiBin(client: string, port: number): string {
    return `${cleanIn("$CLIENT_HOME")} AGENTS_UNIT="$AGENTS_UNIT" COLORTERM=truecolor GEMINI_API_KEY=made-up GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:${port} ${client}`;
  }

  /** The program, called by hand. */
  async run(words: string[], stdin = ""): Promise<Ran> {
    const argv = [process.execPath, "--no-env-file", "--config=/dev/null", join(PROGRAM, "agents.ts"), ...words, "--config", join(this.dir, "agents.toml")];
    const child = Bun.spawn(argv, { env: this.env, stdin: new TextEncoder().encode(stdin), stdout: "pipe", stderr: "pipe" });
    const [out, err, code] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited]);
    return { code, out, err };
  }

  send(name: string, text: string, timeout = 60): Promise<Ran> {
    return this.run(["send", name, "-", "--timeout", `${timeout}`], text);
  }

  async state(name: string): Promise<{ state: string; messages: number; messagesWhy: string; running: boolean }> {
    const { out, err } = await this.run(["status", "--json"]);
    if (!out) throw new Error(err);
    const status = JSON.parse(out);
    return [...status.agents, ...status.services].find((one) => one.name === name);
  }

  tmux(...args: string[]): string {
    return String(Bun.spawnSync(["tmux", ...args], { env: this.env }).stdout);
  }

  /** The agent's own pane: the first one of its session. */
  pane(name: string): string {
    return this.tmux("list-panes", "-s", "-t", `=agents-${name}`, "-F", "#{pane_id}").split("\n")[0]!;
  }

  screen(name: string): string {
    return this.tmux("capture-pane", "-p", "-J", "-t", this.pane(name));
  }

  keys(name: string, ...keys: string[]): void {
    this.tmux("send-keys", "-t", this.pane(name), ...keys);
  }

  pid(name: string): number {
    return Number(this.tmux("display-message", "-p", "-t", this.pane(name), "#{pane_pid}"));
  }

  /** What runs with one of the fleet's homes: its clients and all that they started. */
  running(): string[] {
    return markedBy(join(this.dir, "homes")).map(({ pid, command }) => `${pid} ${command}`);
  }

  asked(): Asked[] {
    const lines = readFileSync(this.log, "utf8").split("\n").filter(Boolean);
    return lines.map((line) => JSON.parse(line)).filter((line) => line.said);
  }

  /** The newest conversation in which this was said. */
  conversation(text: string): Asked | undefined {
    return this.asked().findLast(({ said }) => said.some((one) => one.includes(text)));
  }

  /** The most often that a model ever saw this in one conversation. */
  times(text: string): number {
    return Math.max(0, ...this.asked().map(({ said }) => said.join("\n").split(text).length - 1));
  }

  /** Waits until the model has it, whole. */
  async arrived(text: string, ms = 60_000): Promise<Asked> {
    await until(() => this.times(text) > 0, ms, 100);
    return this.conversation(text)!;
  }

  events(): { at: string; event: string; agent?: string; to?: string; why?: string }[] {
    const path = join(this.dir, ".agents/state/events.jsonl");
    return readFileSync(path, "utf8").split("\n").filter(Boolean).map((line) => JSON.parse(line));
  }

  /** Ends all that this fleet started. */
  async end(): Promise<void> {
    if (existsSync(join(this.dir, "agents.toml"))) {
      await this.run(["down"]);
      this.tmux("kill-server");
    }
    for (const model of this.models) model.kill();
    if (this.models.length && process.env.AGENTS_E2E_KEEP) return void process.stderr.write(`kept: ${this.dir}\n`);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

let made = 0;
/** A text of so many characters that no other text contains, with what shells and terminals trip over. */
export function textOf(length: number, lines: "line" | "lines", rest = ""): string {
  const id = `text-${(made += 1)}-${Math.random().toString(36).slice(2, 8)}`;
  let text = `${id} begins: "quotes" 'and' $HOME \`back\` #{pane_id} é ✓ 100% \\n`;
  for (let i = 0; text.length < length; i++) text += i % 9 === 8 && lines === "lines" ? `\n- item ${i}` : ` word${i}`;
  const end = ` ${rest}the end of ${id};`;
  return `${text.slice(0, length - end.length).trimEnd()}${end}`;
}

export const note = (line: string): void => appendFileSync(2, `${line}\n`);

// called by itself it installs all of them, so that files which run beside each other find them there
if (import.meta.main) for (const kind of Object.keys(PACKAGES) as Kind[]) findClient(kind);
