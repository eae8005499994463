/**
 * Texts to one client, with something in between at a random moment around Enter: a dialog, a popup, a
 * cleared or half drawn screen, a late picture, a resize, a machine that is slow. What was called
 * delivered is judged by what the client received.
 */
import { enqueue, type Watch } from "../agents.ts";
import { type Disturbance, type FakePane } from "./fakes.ts";
import { FakeWorld } from "./kit.ts";
import { randomOf } from "./sim.ts";

const KINDS: Disturbance["kind"][] = ["dialog", "popup", "cleared", "half drawn", "late", "narrow"];
/** ms from the beginning of a delivery to Enter, for a paste that is drawn at once. */
const TO_ENTER = 300;

export interface Outcome {
  delivered: number;
  /** Texts that were called delivered and never received, more than two copies, what nobody sent. */
  false: string[];
  copies: string[];
  merged: string[];
  /** A text of ours stood in the box and no later one came through. */
  deaf: string[];
  unproven: number;
  /** Texts that were received more than once. */
  twice: number;
}

const isSettled = (watch: Watch, id: string): boolean =>
  watch.delivered.includes(id) || watch.unproven.some((one) => one.id === id);

const BACKENDS = {
  claude: "",
  // with a session file and a transcript
  recorded: "env = { CLAUDE_CONFIG_DIR = '/conf' }\n",
  typed: "[backend.typed]\nbin = 'tui'\nconnect_delay = 1\nbox_re = '^❯ (?<text>[^]*?)\\n─{8}'\n",
};

/** So many disturbed deliveries; a seed that failed fails again. */
export async function disturbed(seed: number, count: number, backend: keyof typeof BACKENDS): Promise<Outcome> {
  const random = randomOf(seed);
  const fake = new FakeWorld();
  const outcome: Outcome = { delivered: 0, false: [], copies: [], merged: [], deaf: [], unproven: 0, twice: 0 };
  try {
    const cfg = await fake.config(`[[agent]]\nname = "a"\nbackend = "${backend === "typed" ? "typed" : "claude"}"\nwatch = "heal"\n${BACKENDS[backend]}`);
    let watch = await fake.watch(cfg);
    await fake.ticks(cfg, watch, 3);
    const pane: FakePane = fake.tmux.of("agents-a");
    const sent = new Set<string>();
    const write = (path: string, text: string) => (fake.files.set(path, text), fake.times.set(path, fake.wall));
    const transcript = "/conf/projects/-x/r.jsonl";
    if (backend === "recorded") {
      write(transcript, "");
      write(`/conf/sessions/${pane.pid}.json`, JSON.stringify({ pid: pane.pid, status: "idle", sessionId: "r", cwd: "/x" }));
    }
    for (let nth = 0; nth < count; nth++) {
      const text = `claim ${seed}-${nth}: look at ${"this and that, ".repeat(Math.floor(random() * 30))}then say PASS or FAIL.`;
      const kind = KINDS[Math.floor(random() * KINDS.length)]!;
      const from = fake.wall + TO_ENTER - 1_000 + random() * 3_000;
      pane.disturbance = { kind, from, to: from + 200 + random() ** 3 * 100_000 };
      // what a client at work prints pushes a text out of sight
      const hides = random() < 0.3;
      pane.onSubmit = (content) => {
        if (hides) pane.said = "● OK.";
        if (backend === "recorded") write(transcript, `${fake.files.get(transcript)!.slice(-20_000)}${JSON.stringify({ type: "user", timestamp: new Date(fake.wall), message: { content } })}\n`);
      };
      pane.slow = random() < 0.2 ? random() * 6_000 : 0;
      const tell = async (value: string): Promise<boolean> => {
        sent.add(value);
        enqueue(watch, "a", `claim ${sent.size}`, value);
        const { id } = watch.outbox.at(-1)!;
        for (let ticks = 0; ticks < 15 && !isSettled(watch, id); ticks++) {
          // the watchdog itself is a new one now and then
          if (ticks && random() < 0.05) watch = await fake.watch(cfg);
          await fake.ticks(cfg, watch);
        }
        const copies = pane.received.filter((one) => one === value).length;
        const [at, delivered] = [`seed ${seed}, ${nth}: ${kind}, slow ${Math.round(pane.slow)}`, watch.delivered.includes(id)];
        if (delivered && copies === 0) outcome.false.push(at);
        if (copies > 2) outcome.copies.push(at);
        outcome.twice += Number(copies > 1);
        outcome.delivered += Number(delivered);
        outcome.unproven += Number(watch.unproven.some((one) => one.id === id));
        return isSettled(watch, id);
      };
      const first = await tell(text);
      Object.assign(pane, { disturbance: null, slow: 0 });
      if (!first || !(await tell(`and then ${nth}`)) || pane.draft) outcome.deaf.push(`seed ${seed}, ${nth}: ${kind}: ${watch.outbox[0]?.why}`);
      outcome.merged.push(...pane.received.filter((one) => !sent.has(one)));
      fake.lines.length = fake.effects.length = pane.received.length = 0;
    }
    return outcome;
  } finally {
    fake.restore();
  }
}
