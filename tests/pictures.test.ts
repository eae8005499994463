/**
 * The pictures of the README: what `status` and `report` print of the golden fleet, as SVG; and the same on terminals
 * of other widths, as text. After a change of that text `PICTURES=draw bun test tests/pictures.test.ts` draws them anew.
 */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { main, type Status, statusText, world } from "../agents.ts";
import { fakeWorld, scene } from "./kit.ts";

const GOLDEN = join(import.meta.dir, "fixtures", "state", "v1");
const PICTURES = join(import.meta.dir, "pictures");
const WIDTH = 80;

/** The events of that night as today's version writes them: it gives commits their sha, and other words to one. */
const asToday = (events: string): string => events.replace(/("event":"commit".*)}$/gm, (_, commit: string) =>
  `${commit},"sha":"${Bun.hash(commit).toString(16).padStart(16, "0")}"}`).replaceAll("the text still stands in the input box after three times Enter", "still in the input box after three Enters");

/** The fleet of that night in the fake world: its files, and the clients that run. */
async function night(): Promise<Record<string, string>> {
  const fake = fakeWorld();
  const folder = join(GOLDEN, "night");
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((one) => one.isFile())
    .map(({ parentPath, name }) => join(parentPath, name));
  for (const path of files) {
    const text = readFileSync(path, "utf8");
    fake.files.set(`/fleet/.agents/${path.slice(folder.length + 1)}`, path.includes("events.jsonl") ? asToday(text) : text);
  }
  fake.wall = Date.parse(JSON.parse(fake.files.get("/fleet/.agents/state/heartbeat")!).at) + 5_000;
  const it = await scene(readFileSync(join(GOLDEN, "agents.toml"), "utf8"), { fake, ticks: 0 });
  const running = { builder: "busy", adversary: "dialog", writer: "limit", watcher: "idle", server: "busy" } as const;
  for (const [name, doing] of Object.entries(running)) {
    const pane = fake.tmux.add(`agents-${name}`);
    Object.assign(pane, { doing, created: it.watch.agents[name]!.bootedAt, marks: { "@agents_session": pane.session, "@agents_backend": "claude", "@agents_home": it.cfg.stateDir, "@agents_phase": "one" } });
  }
  fake.git.push("begin", { "README.md": "read me" });
  await it.ticks(2);
  const { pid } = it.pane("builder");
  fake.stat(pid, 7);
  fake.files.set(it.file("watchdog.lock.pid"), `${pid} 7`);
  it.fake.times.set(it.file("watchdog.lock.pid"), it.fake.wall);
  const printed = async (...words: string[]): Promise<string> => {
    const { print } = world;
    let text = "";
    world.print = (part) => void (text += part);
    await main([...words, "--config", it.cfg.path]).finally(() => void (world.print = print));
    return text;
  };
  const texts = { status: await printed("status"), report: await printed("report", "--since", "2h") };
  const layouts: string[] = [];
  for (const [widths, ...words] of LAYOUTS) {
    for (const width of widths) {
      process.env.COLUMNS = `${width}`;
      layouts.push(`$ agents ${words.join(" ")}  # on ${width} columns\n${Bun.stripANSI(await printed(...words))}`);
    }
  }
  // the same rows with names, models and reasons for which there is hardly room
  const status: Status = JSON.parse(await printed("status", "--json"));
  const crowded = { ...status, agents: status.agents.map((row, nth) =>
    ({ ...row, name: `${row.name}-of-the-parser`.slice(0, 12 + nth), model: nth % 2 ? "claude-opus-4-8" : row.model, detail: row.detail || "the tests of the parser" })) };
  for (const width of [60, 66, 72, 80, 90, 96, 110]) {
    layouts.push(`$ agents status  # crowded, on ${width} columns\n${Bun.stripANSI(statusText(crowded, width))}\n`);
  }
  return { ...texts, layouts: layouts.join("\n") };
}

/** On how many columns what is shown; the widths at which a layout changes, and those beside them. */
const LAYOUTS: [widths: number[], ...words: string[]][] = [
  [[30, 44, 59, 60, 99, 100, 140], "status"], [[44, 80], "status", "builder"], [[80], "status", "adversary"],
  [[44], "report", "--since", "2h"], [[80], "report", "--since", "10m"], [[80], "report", "--since", "30m", "--md"],
];

const COLOURS: Record<string, string> = { 31: "#ff7b72", 32: "#7ee787", 33: "#e3b341", 34: "#79c0ff", 35: "#d2a8ff", 36: "#76e3ea" };
const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** Coloured text as a terminal shows it; a cell is 8.4 by 18. */
function svgOf(text: string, command: string): string {
  const [cell, line] = [8.4, 18];
  let style = "";
  const spans = (row: string, y: number): string => {
    let column = 0;
    return row.split(/(\x1b\[[\d;]*m)/).map((part) => {
      const code = /^\x1b\[([\d;]*)m$/.exec(part)?.[1];
      if (code !== undefined) {
        style = code === "1" ? `${style} font-weight="bold"` : code === "2" ? ' opacity=".6"' : COLOURS[code] ? ` fill="${COLOURS[code]}"` : "";
        return "";
      }
      const x = 16 + column * cell;
      column += Bun.stringWidth(part);
      return part.trim() && `<text x="${x.toFixed(1)}" y="${y}" xml:space="preserve"${style}>${escaped(part)}</text>\n`;
    }).join("");
  };
  const rows = [`$ ${command}`, ...text.trimEnd().split("\n")];
  const [width, height] = [Math.round(WIDTH * cell + 32), rows.length * line + 28];
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">
<title>${escaped(command)}</title>
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14" fill="#e6edf3">
${rows.map((row, nth) => spans(row, 30 + nth * line)).join("")}</g>
</svg>
`;
}

/** File name and content of each picture. */
async function pictures(): Promise<Record<string, string>> {
  const kept = { ...process.env };
  Object.assign(process.env, { COLUMNS: `${WIDTH}`, FORCE_COLOR: "1", TZ: "UTC" });
  delete process.env.NO_COLOR;
  try {
    const { layouts, ...texts } = await night();
    return { "layouts.txt": layouts!, ...Object.fromEntries(Object.entries(texts).map(([name, text]) => [`${name}.svg`, svgOf(text, `agents ${name}`)])) };
  } finally {
    for (const key of ["COLUMNS", "FORCE_COLOR", "TZ", "NO_COLOR"]) {
      if (kept[key] === undefined) delete process.env[key];
      else process.env[key] = kept[key];
    }
  }
}

test("the README's pictures show what the program prints today", async () => {
  const drawn = await pictures();
  for (const [name, svg] of Object.entries(drawn)) {
    const path = join(PICTURES, name);
    if (process.env.PICTURES === "draw") writeFileSync(path, svg);
    expect(readFileSync(path, "utf8")).toBe(svg);
  }
  expect(drawn["status.svg"]).toContain('fill="#ff7b72"');
});
