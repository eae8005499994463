/** The shape of the file: its sections in their order, and little that points ahead. */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { codeOf, partsOf } from "./source.ts";

const SOURCE = readFileSync(join(import.meta.dir, "..", "agents.ts"), "utf8");
const SECTIONS = [...SOURCE.matchAll(/^\/\/ ── (.+?) ─+$/gm)].map((match) => ({ name: match[1]! }));
/** Names that a declaration makes for itself: parameters, and what is declared inside. */
const ownNames = (code: string): Set<string> => new Set(
  [...code.matchAll(/(?:const|let|function|class) (\w+)|(?:const|let) ([[{][^=]*)=|(?:^|[(,{[]\s*|\.\.\.)(\w+)(?=\??(?::|\s*[,)\]}=]))|\b(\w+) =>/gm)]
    .flatMap((match) => match.slice(1).flatMap((part) => part?.match(/\w+/g) ?? [])));

/** What it uses of others; the names of fields are none. */
const usedNames = (code: string): Set<string> => new Set(code.replace(/(?<=[\w)\]!?]\??\.)[A-Za-z_]\w*|(?<=[{,(]\s*|^\s+)[A-Za-z_]\w*(?=\??:\s)/gm, "").match(/[A-Za-z_]\w*/g));

test("the sections stand in their order, and the map in the header names them", () => {
  expect(SECTIONS.map(({ name }) => name)).toEqual([
    "types", "the world", "config", "logging", "processes and locks", "tmux", "git", "activity, limit and fatal detection", "phases and prompts", "resume id",
    "agent launch", "the clients' own word", "state", "observation", "outbox and typing", "usage limit", "stall detection", "healing", "wake",
    "handoff signalling", "phase advance", "watchdog loop", "standing by", "notices to people", "the command line", "up, down, restart",
    "what comes next", "status", "status as text", "phase, attach, send, notify, migrate", "explain, capture, selftest", "logs", "events", "report", "the live view", "the page", "doctor", "demo, init, completion, unit", "main"]);
});

test("a test file is named after the section that it tests, unless it tests the whole program", () => {
  const whole = ["cost", "crash", "fleet", "house", "install", "liveness", "mirror", "moved", "outside", "pictures", "promises", "readme", "real", "sim", "supervision"];
  const words = new Set(SECTIONS.flatMap(({ name }) => name.split(/, | and /)).flatMap((name) => name.split(" ").flatMap((_, at, all) => all.slice(at).map((__, end) => all.slice(at, at + end + 1).join("-")))));
  const named = readdirSync(import.meta.dir).flatMap((file) => /^(.*)\.test\.ts$/.exec(file)?.[1] ?? []);
  expect(named.length).toBeGreaterThan(40);
  expect(named.filter((name) => ![...words, ...whole].some((word) => name === word || name.startsWith(`${word}-`)))).toEqual([]);
});

test("at most thirty references run ahead across a banner", () => {
  const { code } = codeOf(SOURCE);
  const place = (banner: string) => SECTIONS.findIndex(({ name }) => name === banner);
  const parts = partsOf(SOURCE);
  const home = new Map(parts.toReversed().map(({ name, banner }) => [name, place(banner)]));
  const ahead = parts.flatMap(({ name, banner, from, to }) => {
    const body = code.slice(from, to).replace(name, "");
    const own = ownNames(body);
    return [...usedNames(body)].filter((word) => !own.has(word) && home.get(word)! > place(banner)).map((word) => `${name} → ${word}`);
  });
  expect(ahead.length, ahead.join("\n")).toBeLessThanOrEqual(30);
});

test("no line is longer than a hundred columns", () => {
  const long = SOURCE.split("\n").flatMap((line, at) => [...line].length > 100 ? `${at + 1}: ${line}` : []);
  expect(long).toEqual([]);
});

test("what is exported is what a test asks for, or had its name in the original", () => {
  const files = [...new Bun.Glob("**/*.{ts,mjs}").scanSync(import.meta.dir)].filter((file) => !file.includes("node_modules"));
  const asked = new Set(files.flatMap((file) => readFileSync(join(import.meta.dir, file), "utf8").match(/\w+/g) ?? []));
  const original = readFileSync(join(import.meta.dir, "mirror.test.ts"), "utf8").split("const ORIGINAL = `")[1]!.split("`")[0]!.match(/\w+/g)!
    .map((name) => name.replace(/^_/, "").replace(/_(.)/g, (_, letter) => letter.toUpperCase()));
  const exported = [...SOURCE.matchAll(/^export (?:async )?(?:function|const|class|interface|type) (\w+)/gm)].map((match) => match[1]!);
  expect(exported.length).toBeGreaterThan(100);
  expect(exported.filter((name) => !asked.has(name) && !original.includes(name))).toEqual([]);
});

test("the path of a claim names functions that there are, in the order in which they call each other", () => {
  const { code } = codeOf(SOURCE);
  const parts = partsOf(SOURCE);
  const way = SOURCE.slice(SOURCE.indexOf("// The path of a claim"), SOURCE.indexOf("/** Forgets whose turn it was"));
  const rows = way.split(/^\/\/ {3}(?=\w)/m).slice(1).map((row) => [/^\w+/.exec(row)![0], [...row.matchAll(/`(\w+)`/g)].map((match) => match[1]!)] as const);
  expect(rows.map(([name]) => name)).toEqual(["startFetch", "handoffCheck", "deliverAll", "pingSession", "noteDelivery"]);
  const bodyOf = (name: string) => parts.filter((part) => part.name === name).map(({ from, to }) => code.slice(from, to)).join("");
  const calls = (name: string, body = bodyOf(name)): string => body + parts.filter((part) => part.name !== name && new RegExp(`\\b${part.name}\\(`).test(body)).map((part) => bodyOf(part.name)).join("");
  for (const [name, steps] of rows) for (const step of steps) expect([name, step, new RegExp(`\\b${step}\\(`).test(name === "pingSession" && step === "tellServer" ? bodyOf("deliver") : calls(name))]).toEqual([name, step, true]);
});

test("each call that the header names is made", () => {
  const { code } = codeOf(SOURCE);
  const parts = partsOf(SOURCE);
  const header = SOURCE.slice(0, SOURCE.indexOf("*/"));
  const calls = header.match(/\w+(?: → \w+(?:, \w+)*)+/g)!.flatMap((chain) => chain.split(" → ").flatMap((to, at, all) => at ? to.split(", ").map((name) => [all[at - 1]!, name] as const) : []));
  expect(calls.length).toBeGreaterThan(20);
  const makes = ([from, to]: readonly [string, string]) => parts.some((part) => part.name === from && new RegExp(`(?<!function )\\b${to}\\(`).test(code.slice(part.from, part.to)));
  expect(calls.filter((call) => !makes(call))).toEqual([]);
});

/** What else goes past the world, each for a reason of its own. */
const DIRECT = {
  config: ["lstatSync", "statSync", "Bun.spawnSync"], // whose file was found; the parser, where it is not installed yet
  "standing by": ["Bun.spawn"], // the keeper and the watchdog: they outlive whoever starts them
  "notices to people": ["statSync"], // whether others can read a secret
  "logs": ["statSync", "Bun.file"], // what is followed byte by byte
  "the live view": ["Bun.spawn"], // a command that takes over the terminal
  doctor: ["accessSync", "statSync", "statfsSync"], // whose folders they are, and how full the disk is
  "demo, init, completion, unit": ["mkdtempSync", "writeFileSync"], // a fresh folder; files that must not be there yet
};

test("nothing but the world and the rooms of processes and locks touches what is outside, with few exceptions; of the supervisor none", () => {
  const { code } = codeOf(SOURCE);
  const files = [...SOURCE.matchAll(/^import \{([^}]*)\} from "node:fs";/gm)].flatMap((match) => match[1]!.split(",").map((name) => name.trim())).filter((name) => name !== "constants");
  expect(files).toContain("readFileSync");
  const direct = new RegExp(`(?<![\\w.])(?:${files.join("|")}|fetch|Bun\\.spawn\\w*|Bun\\.(?:file|write)|process\\.kill)(?=\\()`, "g");
  const found: Record<string, string[]> = {};
  for (const { banner, from, to } of partsOf(SOURCE)) {
    if (["the world", "processes and locks"].includes(banner)) continue;
    for (const call of code.slice(from, to).match(direct) ?? []) found[banner] = [...new Set([...(found[banner] ?? []), call])].sort();
  }
  expect(found).toEqual(Object.fromEntries(Object.entries(DIRECT).map(([banner, calls]) => [banner, calls.toSorted()])));
});

test("no file of the state is read at once but who has a lock and where a round is: the rest by Bun.file, with a deadline", () => {
  const { code } = codeOf(SOURCE);
  const parts = partsOf(SOURCE);
  const callers = (call: string): string[] => parts.filter((part) => part.banner !== "the world" && part.name !== call && new RegExp(`(?<![\\w.])${call}\\(`).test(code.slice(part.from, part.to)))
    .map(({ name }) => name).sort();
  // what ships, prompts, the system, a client's own files, captures
  expect(callers("world\\.read")).toEqual(["examineScope", "judgeCaptures", "promptText", "textNow", "triedVersions"]);
  expect(callers("textNow")).toEqual(["backgroundFolder", "lockHolder", "readNote", "readProc", "secretOf", "writePid"]);
});

test("where a unit stands is changed by enter alone, and each state stands in the table above the type and in the README", () => {
  const { code } = codeOf(SOURCE);
  const writers = partsOf(SOURCE).filter(({ from, to }) => /\.life = |\blife: (?!Life|StoredLife|T\b)/.test(code.slice(from, to))).map(({ name }) => name);
  expect(writers.toSorted()).toEqual(["enter", "freshMemory", "loadedMemory"]);
  const table = SOURCE.slice(SOURCE.indexOf("Only `enter` moves it"), SOURCE.indexOf("export type Life"));
  const states = new Set([...SOURCE.slice(SOURCE.indexOf("export type Down"), SOURCE.indexOf("What the watchdog remembers of one")).matchAll(/state: ("\w+"(?: \| "\w+")*)/g)]
    .flatMap((match) => match[1]!.match(/\w+/g)!));
  expect([...states].toSorted()).toEqual(["backoff", "done", "held", "parked", "starting", "stopping", "up", "waiting"]);
  for (const state of states) expect(table).toMatch(new RegExp(`^ \\*   ${state} `, "m"));
  const movers = partsOf(SOURCE).filter(({ name, from, to }) => !name.startsWith("enter") && /(?<!function )\benter(?:Down|Stopping)?\(/.test(code.slice(from, to))).map(({ name }) => name);
  const named = table.slice(table.indexOf("Who moves it"), table.indexOf("A running client"));
  expect([...named.matchAll(/`(\w+)`: /g)].map((match) => match[1]!).toSorted()).toEqual(movers.toSorted());
  const readme = readFileSync(join(import.meta.dir, "..", "README.md"), "utf8");
  for (const state of states) if (!["up", "held"].includes(state)) expect(readme).toMatch(new RegExp(`^\\|.*\\b${state}\\b.* \\|`, "m"));
});

/** What is remembered or shared, by the names that it has everywhere. */
const SHARED = ["memory", "watch", "operator", "message", "cfg", "shared", "volatile", "errors"];
const PLACE = String.raw`(?:[.!?]+\w+|!?\[[^\]]*\])`;

/** The same by the names that a body gives to parts of it, be it one by one or by a pattern. What `...rest` gets is a copy. */
function namesOfShared(body: string): string[] {
  const pattern = String.raw`(\w+|\{(?:[^{}]|\{[^{}]*\})*\}|\[[^\[\]]*\])`;
  const namesIn = (one: string): string[] => [...one.matchAll(/(?<![.\w])\w+(?!\w|: )/g)].map(([name]) => name);
  const taken = [...body.matchAll(new RegExp(String.raw`(\{(?:[^{}]|\{[^{}]*\})*\}): (?:Readonly<)?(?:Memory|Watch|Operator|Message|Config)\b`, "g"))].flatMap(([, one]) => namesIn(one!));
  const names = new Set([...SHARED, ...taken]);
  for (let known = 0; known < names.size;) {
    known = names.size;
    const part = String.raw`(?:${[...names].join("|")})${PLACE}*`;
    const alias = new RegExp(String.raw`\b(?:(?:const|let) ${pattern} = ${part}!?(?=[;,]| \?\?)|const ${pattern} of (?:Object\.(?:values|entries)\()?${part}\))`, "g");
    for (const [, set, each] of body.matchAll(alias)) for (const name of namesIn((set ?? each)!)) names.add(name);
  }
  return [...names];
}

/** How a body changes what is remembered or shared: a field set, counted, deleted, or filled by a method; undefined = it does not. */
function changeIn(body: string): string | undefined {
  const whose = String.raw`(?<![.\w])(?:${namesOfShared(body).join("|")})\b`;
  const part = String.raw`${whose}${PLACE}*`;
  const field = String.raw`${whose}${PLACE}+`;
  return new RegExp(String.raw`${field}!? (?:\|\||&&|\?\?|[+-])?= |${field}!?(?:\+\+|--)|Object\.assign\(${whose}|\bdelete ${whose}` +
    String.raw`|${part}[!?]*\.(?:push|pop|shift|unshift|splice|sort|reverse|fill|set|add|clear|delete|getOrInsert\w*)\(`).exec(body)?.[0];
}

test.each<[string, boolean]>([
  ["memory.y = 1", true], ["const { x } = memory; x.y = 1", true], ["const { x: z } = memory; z!.y ??= 1", true], ["const { x: { z } } = memory; z.y += 1", true],
  ["const [x] = watch.outbox; delete x.y", true], ["const x = watch.agents[name]!; Object.assign(x, y)", true], ["const { x } = watch; const { z } = x; z.push(1)", true],
  ["for (const one of watch.outbox) one.y = 1", true], ["for (const [, one] of Object.entries(watch.agents)) one.y++", true], ["({ outbox }: Watch) => outbox.shift()", true],
  ["function f({ volatile: { lasting } }: Watch) { lasting[x] = 1; }", true],
  ["let { x } = memory; x = 1", false], ["const { x, ...others } = memory; others.y = 1", false], ["const { x } = fresh; x.y = 1", false], ["const x = memory.y + 1; z.x = 2", false], ["const x = readingOf(memory); x.y = 1", false],
])("what a body changes is seen: %s", (body, changes) => expect(changeIn(body) !== undefined).toBe(changes));

test("observe writes nothing, and says nothing; learn alone takes what was seen into the memory", () => {
  const { code } = codeOf(SOURCE);
  const parts = partsOf(SOURCE);
  const bodyOf = (name: string) => parts.filter((part) => part.name === name).map(({ from, to }) => code.slice(from, to)).join("\n");
  const writes = new RegExp(String.raw`\b(?:emit|log|trouble|guard|attempt|enter\w*|note(?!Stage)\w*|save\w*|read\w*State|memoryOf)\(`); // its stage is for whoever ends one that hangs
  for (const name of ["observe", "lookAtScreens", "readLook", "memoryOfClient", "lookAtSessions", "screenMayHaveChanged", "draftIn", "withOwnWord"]) {
    expect(bodyOf(name)).not.toBe("");
    expect([name, writes.exec(bodyOf(name))?.[0] ?? changeIn(bodyOf(name))]).toEqual([name, undefined]);
  }
  for (const name of ["noteTogether", "noteClient", "noteLook", "noteUnseen"]) {
    expect([name, parts.filter(({ from, to }) => new RegExp(`\\b${name}\\(`).test(code.slice(from, to).replace(new RegExp(`function ${name}\\(`), ""))).map((part) => part.name)]).toEqual([name, ["learn"]]);
  }
});

/** The functions of such a name, the world's own apart. */
const functionsCalled = (name: RegExp): string[] =>
  partsOf(SOURCE).filter((part) => part.banner !== "the world" && name.test(part.name) && /^(?:export )?(?:async )?function|=>/.test(SOURCE.slice(part.from, part.to))).map((part) => part.name);

/** The declarations outside the world: the body of each, and which of the others it uses. */
const BODIES = new Map(partsOf(SOURCE).filter(({ banner }) => banner !== "the world").map(({ name, from, to }) => [name, codeOf(SOURCE).code.slice(from, to)]));
const USES = new Map([...BODIES].map(([name, body]) => {
  const own = ownNames(body.replace(name, ""));
  return [name, [...usedNames(body)].filter((word) => word !== name && !own.has(word) && BODIES.has(word))];
}));

/** How a function comes to do something, name by name: by itself, or by what it uses but for `except`; null = it does not. */
function wayTo(act: (body: string) => string | undefined, except: string[]): (name: string) => string | null {
  const done = new Map<string, string | undefined>();
  const did = (name: string) => done.getOrInsertComputed(name, () => act(BODIES.get(name)!));
  return (name) => {
    const ways = [[name]];
    for (const way of ways) { // which grows as it is walked
      const last = way.at(-1)!;
      if (except.includes(last)) continue;
      const found = did(last);
      if (found) return [...way, found].join(" → ");
      for (const next of USES.get(last)!) if (!ways.some((one) => one.at(-1) === next)) ways.push([...way, next]);
    }
    return null;
  };
}

/** What may be changed on the way to an answer. */
const ON_THE_WAY = {
  memoryOf: "a unit that nobody has asked for yet gets an empty memory", loadWatch: "a memory that cannot be parsed is kept aside",
  readingFor: "a pattern that takes too long is switched off before it is tried again", cfgPath: "a config of another user is named as it is passed over",
  COMMANDS: "a table of what others do",
};

test("what has the name of a question changes nothing, signals nobody and says nothing, nor does what it asks", () => {
  const question = /^(?:(?:is|are|has|may|must|can|will|was|why|decide|detect|parse|assess|needs|holds|never|passes|shares|describe)(?=[A-Z])|judge|detect|observe$|closeLook|lookAt(?!Screens)|snapshot|sessionAlive|standingText|notReady|phaseDone|next)|Of$/;
  const act = new RegExp(String.raw`\bworld\.(?:writeAtomic|append|remove|print|log)\w*\(|\bworld\.signal\((?!.*, 0\))|\b(?:sendKeys|killPane|killSession|newSession|pipeToLog)\(`);
  const does = (body: string) => act.exec(body)?.[0] ?? changeIn(body);
  const [questions, wayOf] = [functionsCalled(question), wayTo(does, Object.keys(ON_THE_WAY))];
  expect(questions.length).toBeGreaterThan(250);
  expect(questions.map(wayOf).filter((way) => way !== null)).toEqual([]);
  for (const name of ["continueStopping", "learn", "stopLoops", "submit"]) expect([name, wayOf(name) === null]).toEqual([name, false]);
  for (const name of Object.keys(ON_THE_WAY)) expect([name, wayTo(does, Object.keys(ON_THE_WAY).filter((one) => one !== name))(name) === null]).toEqual([name, false]);
});

test("a decision is made of what it is given alone: not even the clock is read", () => {
  const [decisions, wayOf] = [functionsCalled(/^(?:decide(?=[A-Z])|detect$)/), wayTo((body) => /(?<!, now = )\bworld\.\w+|\bprocess\.\w+|\bDate\.now\b/.exec(body)?.[0], [])];
  expect(decisions.length).toBeGreaterThan(25);
  expect(decisions.map(wayOf).filter((way) => way !== null)).toEqual([]);
  expect(wayOf("isRecent")).toBeNull();
  expect(wayOf("learn")).not.toBeNull();
});

test("no promise is dropped: what is stored before it is done has been written when the next line runs", () => {
  const { code } = codeOf(SOURCE);
  const waiting = partsOf(SOURCE).filter(({ from, to }) => /^(export )?(async function|const \w+ = async )|^[^{]*\): Promise</.test(code.slice(from, to))).map(({ name }) => name);
  for (const name of ["save", "storePhase", "saveLimitState", "beat"]) expect(waiting).toContain(name);
  const calls = new RegExp(`(?:(?<!\\.)\\b(?:${waiting.join("|")})|\\bworld\\.(?:writeAtomic|tmux|git|http|sleep))\\(`, "g");
  const dropped = [...code.matchAll(calls)].filter(({ index }) => /([;{})]|\belse)\s*$/.test(code.slice(Math.max(0, index - 200), index)) && !/^[^(]*\(\w+\??: /.test(code.slice(index, index + 200)))
    .map(({ index }) => `${code.slice(0, index).split("\n").length}: ${SOURCE.slice(index, index + 60).split("\n")[0]}`);
  expect(dropped).toEqual([]);
});

test("a unit is started in one way, and a family is told to end in one: by a round, or by a command that waits for it", () => {
  const { code } = codeOf(SOURCE);
  const parts = partsOf(SOURCE);
  const callers = (name: string): string[] => parts.filter((part) => part.name !== name && new RegExp(`(?<!function )\\b${name}\\(`).test(code.slice(part.from, part.to))).map((part) => part.name);
  expect([callers("startAgent"), callers("startService"), callers("begin")]).toEqual([["begin"], ["begin"], ["beginCounted", "startAll"]]);
  expect(callers("beginCounted")).toEqual(["startByWatchdog", "startLoops", "runOnComplete"]);
  expect(callers("noteStart")).toEqual(["beginCounted"]);
  expect(callers("enterStopping")).toEqual(["beginStopping"]);
  expect(callers("signalAll")).toEqual(["signalFamilies"]);
  expect(callers("signalFamilies")).toEqual(["endFamilies", "beginStopping", "continueStopping"]);
  for (const name of ["beginStopping", "continueStopping", "stopLeftOver", "stopLoops"]) { // whether a family is gone, its unit's life says
    const { from, to } = parts.find((part) => part.name === name)!;
    expect([name, /\): (\S+) \{$/m.exec(code.slice(from, to))?.[1]]).toEqual([name, expect.stringMatching(/^(?:Promise<)?void>?$/)]);
  }
  expect(callers("killSession")).toEqual(["stopPanes", "beginStopping", "moveLog", "followLog", "stopUnits"]);
});

test("there is one round, and one close look right before a hand is laid on a client", () => {
  const { code } = codeOf(SOURCE);
  const parts = partsOf(SOURCE);
  const callers = (name: string): string[] => parts.filter((part) => part.name !== name && new RegExp(`(?<![\\w.]|function )${name}\\(`).test(code.slice(part.from, part.to))).map((part) => part.name);
  expect(callers("round")).toEqual(["tick", "quickRound"]);
  for (const name of ["careFor", "continueMove", "settleAccounts"]) expect([name, callers(name)]).toEqual([name, ["round"]]);
  for (const name of ["superviseAgent", "healOne"]) expect([name, callers(name).filter((one) => !["careFor", "superviseAgent"].includes(one))]).toEqual([name, []]);
  expect(callers("readScreen")).toEqual(["closeLook", "verdictStillHolds", "screenOf"]);
  expect(callers("pressEnter")).toEqual(["submit"]);
  expect(callers("closeLook")).toEqual(["lookAtBox", "answerDialog"]);
});

test("what counts before what in a verdict is a table at its sources, and each step is taken in the one place that it names", () => {
  const { code } = codeOf(SOURCE);
  const parts = partsOf(SOURCE);
  const callers = (name: string): string[] => parts.filter((part) => part.name !== name && new RegExp(`(?<![\\w.]|function )${name}\\(`).test(code.slice(part.from, part.to))).map((part) => part.name);
  const table = SOURCE.slice(SOURCE.indexOf("Where a verdict may come from besides"), SOURCE.indexOf("const SOURCES"));
  const steps = [...table.matchAll(/^ \*   (\w+) .* `(\w+)`$/gm)].map(([, step, by]) => [step, by]);
  expect(steps).toEqual([["screen", "screenVerdict"], ["process", "withOwnWord"], ["disk", "withOwnWord"], ["files", "withOwnWord"], ["server", "judge"], ["time", "judge"], ["account", "readLook"], ["draft", "readLook"], ["change", "noteLook"]]);
  for (const [, name] of table.matchAll(/`(\w+)`/g)) expect([name, parts.some((part) => part.name === name) || ["status", "explain", "moves", "rule", "where", "own", "silent", "Memory"].includes(name!)]).toEqual([name, true]);
  for (const name of ["decideClaude", "decideError", "decideCodex"]) expect([name, callers(name)]).toEqual([name, ["withOwnWord"]]);
  for (const name of ["decideOpencode", "decideBackground"]) expect([name, callers(name)]).toEqual([name, ["judge"]]);
  expect(callers("withOwnWord")).toEqual(["judge", "closeLook"]);
  expect(callers("judge")).toEqual(["readLook", "judgeLook"]);
  // whoever comes to a client's own files has asked their disk: the callers of both, `lookAtScreens` for `readLook`, `lookAtPanes` for each of its `judgeLook`
  expect([callers("askOwnDisks"), callers("readLook")]).toEqual([["lookAtScreens", "closeLook", "judgeLook", "lookAtPanes"], ["lookAtScreens"]]);
  expect(callers("decideAccount")).toEqual(["readLook", "whyLeft", "holdOf"]);
  expect(callers("neverRests")).toEqual(["noteLook"]);
  const findings = SOURCE.slice(SOURCE.indexOf("const FINDINGS"), SOURCE.indexOf("/** An operator's rule is never taken"));
  const given = [...SOURCE.matchAll(/\brule: "(\w[\w ]*)"/g)].map((match) => match[1]!);
  expect(given.length).toBeGreaterThan(5);
  expect(given.filter((name) => !findings.includes(`"${name}"`))).toEqual([]);
});

test("what comes next of a living client is said by the decisions that make it, for status and explain alike", () => {
  const { code } = codeOf(SOURCE);
  const parts = partsOf(SOURCE);
  const callers = (name: string): string[] => parts.filter((part) => part.name !== name && new RegExp(`(?<![\\w.]|function )${name}\\(`).test(code.slice(part.from, part.to))).map((part) => part.name);
  expect(callers("nextStep")).toEqual(["stepOf", "explainLive"]);
  expect(callers("decideNext")).toEqual(["nextStep", "explainFile"]);
  expect(callers("decideNextDown")).toEqual(["nextOfDown", "nextDue"]);
});

test("no statement leaves a promise of this file to itself: it is awaited, returned, or `void` says so", () => {
  const { code } = codeOf(SOURCE);
  const names = partsOf(SOURCE).filter(({ from, to }) => /^(?:export )?(?:async |const \w+ = async\b|[^{]*?\): Promise<)/.test(code.slice(from, to))).map(({ name }) => name);
  const left = [...code.matchAll(/(?<=[;{}]\s*\n *|(?:else|\)) )(\w+)\(/g)].filter(([, name]) => names.includes(name!))
    .filter(({ index }) => /^\w+\([^;]*\);/.test(code.slice(index))).map(({ 1: name, index }) => `${SOURCE.slice(0, index).split("\n").length}: ${name}`);
  expect([names.length > 100, left]).toEqual([true, []]);
});

/** Whose words a decision may go by: of programs that give no other answer, and of what an older version stored. */
const BY_WORDS = {
  needTools: "tmux's", refused: "tmux's", takenDown: "of version 0.1.0",
  decideChannel: "git's, as news or not", sendNow: "those it would repeat",
};

test("no decision goes by a sentence that is made for people: what it says has a kind beside it", () => {
  const sentence = String.raw`(?:\w+[.!?\[\]\d]*\.)?\b(?:why|does)\b`;
  const asked = new RegExp(String.raw`${sentence}!?\)? [!=]== (?!why\b|null|undefined|"")|${sentence}!?\??\.(?:startsWith|endsWith|includes|match)\(|\.(?:test|exec)\(${sentence}!?\)`);
  const found = partsOf(SOURCE).filter(({ from, to }) => asked.test(SOURCE.slice(from, to)));
  expect(found.map(({ name }) => name).toSorted()).toEqual(Object.keys(BY_WORDS).toSorted());
});

test("a command that a message quotes is whole, to be copied as it stands", () => {
  const names = [...SOURCE.matchAll(/^  \{ name: "(\w+)", args/gm)].map(([, name]) => name).filter((name) => name !== "watchdog"); // also the name of one
  expect(names.length).toBeGreaterThan(20);
  const command = new RegExp(`"(?:${names.join("|")})(?: [^"]*)?"`, "g");
  const literals = (line: string) => line.replace(/\$\{[^}]*\}/g, "NAME").match(/"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`/g) ?? [];
  const short = SOURCE.split("\n").flatMap((line, at) => literals(line)
    .flatMap((text) => (text.startsWith('"') ? [] : text.match(command) ?? [])).map((found) => `${at + 1}: ${found}`));
  expect(short).toEqual([]);
});
