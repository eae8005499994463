/**
 * The real clients in a fleet of their own: installed once, each with its own home, a made-up key and
 * nothing but loopback, started and supervised by the program as an operator would have it.
 */
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { until } from "../real.ts";

const PROGRAM = resolve(import.meta.dir, "../..");
const CLIENTS = process.env.AGENTS_E2E_CLIENTS || join(PROGRAM, "node_modules/.cache/e2e");
const PACKAGES = { "@anthropic-ai/claude-code": "2.1.330", "opencode-ai": "1.18.33" };

export interface Clients {
  claude: string;
  opencode: string;
}

/** The two programs, installed where they are not yet; else why not. */
export function findClients(): Clients | string {
  try {
    return install();
  } catch (error) {
    return String(error);
  }
}

function install(): Clients | string {
  for (const tool of ["tmux", "npm"]) if (!Bun.which(tool)) return `${tool} is not installed`;
  const modules = join(CLIENTS, "node_modules");
  const found = (): boolean => Object.entries(PACKAGES).every(([name, wanted]) => {
    const file = join(modules, name, "package.json");
    return existsSync(file) && JSON.parse(readFileSync(file, "utf8")).version === wanted;
  });
  if (!found()) {
    mkdirSync(CLIENTS, { recursive: true });
    writeFileSync(join(CLIENTS, "package.json"), '{ "private": true }\n');
    const wanted = Object.entries(PACKAGES).map(([name, version]) => `${name}@${version}`);
    const argv = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", ...wanted];
    // npm refuses this setting of the README's test command in a project's folder
    const env = { ...process.env, npm_config_allow_scripts: undefined };
    const done = Bun.spawnSync(argv, { cwd: CLIENTS, env, timeout: 300_000 });
    if (done.exitCode !== 0 || !found()) return `npm could not install ${wanted.join(" and ")}: ${String(done.stderr).trim().split("\n").at(-1)}`;
  }
  const kind = `${process.platform}-${process.arch}`;
  const clients = {
    claude: join(modules, `@anthropic-ai/claude-code-${kind}`, "claude"),
    opencode: join(modules, `opencode-${kind}`, "bin/opencode"),
  };
  const missing = Object.values(clients).find((path) => !existsSync(path));
  return missing ? `there is no ${missing}` : clients;
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
const PLAIN = 'PATH="$PATH" TERM="$TERM" LANG=C.UTF-8 TZ=UTC';

/** One fleet of real clients, with its model, its tmux server and its watchdog. */
export class Fleet {
  readonly dir = mkdtempSync(join(tmpdir(), "agents-e2e-"));
  readonly project = join(this.dir, "project");
  readonly log = join(this.dir, "model.jsonl");
  private readonly env: Record<string, string | undefined>;
  private model: Bun.Subprocess | null = null;

  constructor() {
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
    this.model = Bun.spawn([process.execPath, join(import.meta.dir, script), `${port}`, this.log, this.project], { stdout: "pipe", stderr: "inherit" });
    await (this.model.stdout as ReadableStream).getReader().read();
    return port;
  }

  /** A home of its own for one Claude Code, in which nothing is asked at the first start. */
  claudeHome(name: string): string {
    const known = { hasCompletedOnboarding: true, projects: { [this.project]: { hasTrustDialogAccepted: true } },
      customApiKeyResponses: { approved: [KEY.slice(-20)], rejected: [] } };
    return resolve(this.file(`homes/${name}/.claude.json`, JSON.stringify(known)), "..");
  }

  /** `bin` as an operator writes it: nothing of this machine's environment reaches the client. */
  claudeBin(client: string, port: number, credential: "key" | "token"): string {
    const own = credential === "key" ? `ANTHROPIC_API_KEY=${KEY}` : "CLAUDE_CODE_OAUTH_TOKEN=sk-ant-oat01-made-up";
    return `env -i HOME="$CLIENT_HOME" ${PLAIN} ANTHROPIC_BASE_URL=http://127.0.0.1:${port} ${own} ${QUIET} ${client}`;
  }

  opencodeBin(client: string, home: string): string {
    const quiet = "OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_LSP_DOWNLOAD=1";
    return `env -i HOME="${home}" ${PLAIN} ${quiet} ${client}`;
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
    this.model?.kill();
    if (this.model && process.env.AGENTS_E2E_KEEP) return void process.stderr.write(`kept: ${this.dir}\n`);
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
