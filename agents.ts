#!/usr/bin/env -S bun --no-env-file --config=/dev/null
/**
 * agents.ts keeps a fleet of coding-agent TUIs (Claude Code, opencode, Codex, Gemini, others by
 * config) at work in tmux, unattended, for days: one script, one config file.
 *
 * agents.toml declares every agent: loop pairs, orchestrators, assistants, one-shot tasks. The
 * watchdog reads the same file, so what is started and what is supervised cannot drift apart. Git
 * is the only channel between the agents.
 *
 * Read it from the top. A function gathers facts, asks a pure `decide…`, `detect` or `parse…`
 * function, as a rule one above it in the same section, and acts. Everything outside the
 * process is reached through `world`; the few exceptions are named there.
 *
 * Four tables carry most of it: `Life`, the states of a unit and what moves them; `SOURCES`, what
 * counts before what in a verdict; `Message`, the steps of a text; the path of a claim, above the
 * hand-offs.
 *
 * To follow a round or a command through its calls:
 *
 *   watchdogLoop → tick → round            every signal_interval; quickRound → round in between
 *   round → lookAround → observe, learn    who runs and what the screens say, kept as Memory
 *   round → tendFleet → handoffCheck       new commits become texts for the other side
 *   round → continueMove                   from one phase to the next
 *   round → careFor → superviseAgent       limits, stalls, dialogs; and deaths:
 *   superviseAgent → healOne → startByWatchdog → beginCounted → begin
 *   begin → startAgent → startSession → newSession
 *   round → deliverAll → deliver → pingSession
 *   cmdUp → startAndWait → startAll → begin
 *   cmdDown → stopUnits → killSession
 *   cmdStatus → readStatus → lookForStatus, statusFrom
 *
 * "The original" is agents.py, the Python script that this program replaces: its functions keep
 * their names here (`start_agent` is `startAgent`), and a fleet that it started is taken over.
 *
 *   types, the world         the nouns, and the one seam to the outside
 *   config, logging          agents.toml and the table of its keys; the log and the events
 *   processes and locks      what runs, what belongs to which client, who may act
 *   tmux                     one snapshot a round, screens, new sessions
 *   git                      the remote's branch and the clone: commits, files, what went wrong
 *   detection                one verdict from one look at a screen, by rules as data
 *   phases, resume id        which phase the loop pair is in; which conversation to resume
 *   agent launch             how each kind of client is started
 *   the clients' own word    what a client's files or its server know better than its screen
 *   state                    everything that outlives the watchdog
 *   observation              what a round sees, and what it remembers of that
 *   outbox and typing        texts for agents: queued, typed into the input box, proven delivered
 *   usage limit … phase advance   what a round may have to do: limits, deaths, hand-offs
 *   watchdog loop            one round after another: the last section of the supervisor
 *   standing by, notices     the keeper; telling people
 *   the command line, up …   words and options; orders, and waiting for their result
 *   what comes next, status  what will be done about each unit, and what is known of it
 *   status as text … main    one section for each kind of command
 */
import { accessSync, appendFileSync, closeSync, constants, existsSync, fstatSync, fsyncSync,
  lchownSync, lstatSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, readlinkSync,
  readSync, realpathSync, renameSync, rmSync, statfsSync, statSync, writeFileSync,
  writeSync } from "node:fs";
import type { Stats } from "node:fs";
import { homedir, hostname, tmpdir, userInfo } from "node:os";
import { basename, dirname, isAbsolute, join, resolve } from "node:path";
import { parseArgs, styleText } from "node:util";
import type { TomlError } from "smol-toml";

/** Whether this is the compiled binary, which has its files embedded and re-executes itself. */
const COMPILED = Bun.isStandaloneExecutable;
/** The program's folder; `agents.toml` and `prompts/` in it win over the embedded ones. */
const SCRIPT_DIR = COMPILED ? dirname(process.execPath) : import.meta.dir;

// ── types ───────────────────────────────────────────────────────────────────────
// The nouns. Durations in the config are seconds; times in memory and in events are milliseconds.
//
//   message, text   a message is for an agent, its text the words of it; a notice is for people
//   taken           accepted by its client: `delivered` with proof of it, `unproven` without
//   ended, gone     its client no longer runs; `down`: and its `Life` says why
//   family          a client and all processes that it started
//   stranger        a session with the name of one of ours, made by somebody else
//   rival           a client of another fleet, or no longer in the config, in a unit's folder
//   room            a fleet's mark on all that it runs; `rooms`: our sessions with a person's pane
//   hand            a lock: of a command that writes the memory while no watchdog runs;
//                   a `Handoff`: the config of the hand-offs
//   ward            what the keeper watches over: the watchdog
//
// A type that a table or a function gives is derived from it, as those of agents.toml from KEYS.
// A look gives a client's verdict; what a round saw of a unit is an `Observation`, as a variable
// always `seen` (a field `seen` counts what was on a screen, or holds keys of commits); what is
// done about the unit is its `Life`. `held` is down by an order; a probe asks whether a usage limit
// is over. What is stored keeps its field names, of which some are the original's.

/** A coding client as data: how it is launched, typed to and read. */
export type Backend = ReturnType<typeof readBackend>;
export type BackendKind = Backend["kind"];

/** A program that is no coding client, kept running in tmux beside the agents. */
type Service = Table<typeof KEYS.service> & { session: string };

export type Agent = Omit<Table<typeof KEYS.agent>, "wake"> & {
  session: string;
  wake?: Table<typeof KEYS.wake>;
};

/** Anything that is kept running in a tmux session of its own. */
export type Unit = Agent | Service;

/** `plan` is a file in the plan folder, `status` one in the docs_dir of the repository. */
export type Phase = Table<typeof KEYS.phase>;
export type Handoff = Table<typeof KEYS.handoff>;
type Settings = Table<typeof KEYS.watchdog>;

/** The validated agents.toml: every path absolute, every key checked. */
export type Config = ReturnType<typeof buildConfig>;

/** A pane as tmux reports it (`PANE_FIELDS`). */
export type Pane = { [Key in keyof typeof PANE_FIELDS]: ReturnType<(typeof PANE_FIELDS)[Key][1]> }
  & {
    /** Wall ms at which tmux was asked; absent = not known. */
    askedAt?: number;
    /** It is the last pane of somebody else's session, which must not end with it. */
    pinned?: boolean;
  };

/** One look at the whole tmux server. `ok: false` is "could not look", which is never "gone". */
export interface Snapshot extends ReturnType<typeof sortPanes> {
  ok: boolean;
  why: string;
  server: string;
  /** How many rows of tmux's list were ignored because they could not be read for certain. */
  refused: number;
}

/**
 * A text for an agent, kept on disk until its client has received it. Each step is stored before it
 * is taken, so a crash leaves one of these:
 *
 *   no `pasted`                      queued; its client has nothing of it
 *   `seen`, `pasted`                 in the input box, or still in tmux's buffer
 *   `pasted` alone                   given to a server, whose conversation shows if it arrived
 *   `entered` equals `tries`         Enter was pressed; the screen must show whether it was taken
 *   its id in `Watch.delivered`      received, and no longer in the outbox
 *   in `Watch.unproven`              typed without proof that it was taken; not typed again
 */
export interface Message {
  id: string;
  target: string;
  text: string;
  cause: string;
  /** Wall ms. */
  made: number;
  tries: number;
  /** How often its beginning was on the screen before the last paste. */
  seen?: number;
  /**
   * The last paste, or gift to a server: the client's pid, which one to it this is, wall ms, empty
   * boxes since.
   */
  pasted?: { pid: number; nth: number; at: number; empty: number };
  /** The number of the last try in which Enter was pressed. */
  entered?: number;
  /** How many tries pressed Enter, or gave it to a server. */
  copies?: number;
  /** Why it still waits, for `status`. */
  why?: string;
  /** As in `Wait`. */
  during?: Wait["during"];
  /** The state in which people were last told of it; absent = they were not. */
  undelivered?: Delivery["state"];
  /** Wall ms since when only a person can let it through. */
  stuck?: number;
  /** Wall ms since when it is without proof; absent = an older version stored it. */
  unprovenAt?: number;
  /** The subjects of the commits it reports, oldest first. */
  subjects?: string[];
  /** How many earlier commits it only counts. */
  more?: number;
  /** Wall ms after which it is dropped; absent = never. */
  expires?: number;
}

/** The process group of a client; `born` tells it from a later process with the same pid. */
interface Group {
  pid: number;
  born: string;
}

/** The client of a pane; `made` tells it from one that has its pid and birth after a reboot. */
export interface Client extends Group {
  /** Wall ms of its pane's start; absent = noted by an older version. */
  made?: number;
}

/** A family of processes that was told to end. */
export interface Stopping extends Group {
  /** Wall ms. */
  since: number;
  /** The launches whose processes are to end with the group. */
  marks?: string[];
  /** Its client was told by a signal, and its pane may stay. */
  inPlace?: boolean;
  /** Wall ms of the first SIGKILL. */
  killed?: number;
  /** What even SIGKILL did not end, for a person to see; "" or absent = nothing yet. */
  stuck?: string;
}

/** Down, and what ends that. */
export type Down = Readonly<
  /** Wall ms before which no start is made; 0 = at once. */
  | { state: "backoff"; until: number }
  /** Wall ms since when; `up` releases it. */
  | { state: "parked"; why: string; at: number }
  | { state: "done"; at: number }
  | { state: "held" }>;

/**
 * The state of one agent or service. Only `enter` moves it (`beginCounted` takes back a start that
 * was never tried, `noteEnding` notes how an end goes on, `takeBack` times that lie ahead):
 *
 *   state      what it means                             what moves it on
 *   backoff    down until its time has come              its time: waiting, or starting
 *   waiting    its client's server does not answer yet   an answer, or a timeout: starting;
 *                                                        another need is gone: backoff
 *   starting   started, its client not yet seen          seen: up; not there: as after its end
 *   up         its client runs                           its end: backoff, parked or done;
 *                                                        told to end: stopping
 *   stopping   its old processes are being ended         all of them are gone: `then`
 *   parked     it ended too often, or for good           `up`: backoff, due at once
 *   done       a task that ended with 0                  `up`, on_complete: backoff, due at once
 *   held       a person took it down                     `up`: backoff, due at once
 *
 * Who moves it, by section; `due` is a backoff that is over:
 *
 *   observation   `noteClient`: up · `forgetUncared`: due, where nobody deals with its end
 *   healing       `noteStart`: starting · `noteNeed`: waiting · `beginCounted`: due, a start failed
 *                 `beginStopping`: stopping · `continueStopping`: whatever is `then`
 *                 `noteDeath`: backoff or done; through it, `park`: parked
 *                 `leaveDown`: held · `leaveAlone`: due, for when the loops are let go again
 *   phase advance `startLoops`: due · `runOnComplete`: backoff
 *   the loop      `applyReleases`: due, by `up` · `noteGap`: the same state by another clock
 *
 * A running client makes its unit `up` from any state, whoever started it, also where it was told
 * to end and is still there (unless its pane is one that only shows its end, or a phase moves).
 * What an older client left is ended first, by stopping, before a unit that is held or due is
 * started; a phase move and on_complete start a unit from any state. What people order
 * (`operator.json`) comes before all this, and alone decides: a unit held there is not started.
 *
 * Life is what the watchdog does about a unit; its `Verdict`, beside it, is what its client does.
 * `status` makes one word for people, the `Condition`, out of the two:
 *
 *   live agent     verdict active: working · booting: starting · any other: the same word
 *                  while a usage limit holds it back: limited
 *   live service   running
 *   no client      Life parked, done: the same word · held, or unable to start: stopped
 *                  backoff: backoff, then ended (its dead pane is there) or stopped
 *                  what is left of its client cannot be ended: ending
 *   no tmux        unknown
 */
export type Life = Readonly<
  /** Monotonic ms. */
  | { state: "up" | "starting" | "waiting"; since: number }
  | { state: "stopping"; family: Readonly<Stopping>; then: Down }
  | Down>;

/** Down, to be started as soon as possible. */
const DUE: Down = { state: "backoff", until: 0 };

/**
 * What a client does, by one look at its screen and at what it says of itself (see `SOURCES` for
 * what counts before what):
 *
 *   active    a turn is under way                background  only work that it left running is
 *   idle      at its prompt, nothing running     waiting     idle, and it said until when
 *   limited   in a usage limit                   blocked     a person has to answer or to pay
 *   fatal     only a restart can help            unsure      the look does not tell
 */
const VERDICTS = [
  "active", "background", "blocked", "limited", "fatal", "waiting", "idle", "unsure",
] as const;
export type VerdictName = (typeof VERDICTS)[number];

type LimitClass = "5h" | "weekly" | "model" | "money" | "other";

/**
 * `resetAt`: wall ms, without slack. `native`: the client will go on by itself at the reset.
 * `exact`: the reset is a timestamp of the client's, not read from a banner.
 */
export interface Limit {
  class: LimitClass; resetAt: number | null; banner: string; native: boolean; exact?: boolean;
}

/** `text`: what matched, on one line. `waitingUntil`: wall ms. `why`: a few words for a person. */
export interface Verdict {
  verdict: VerdictName; rule: string; where: string; text: string;
  limit: Limit | null; waitingUntil: number | null; why: string;
  /** The state in the client's own session file, where it has one. */
  own?: string;
  /** The verdict if the error on the screen is real; it may be an answer that quotes one. */
  doubted?: Verdict;
  /** Its screen does not show how its last turn ended, or what error did: it was pushed off. */
  cutOff?: true;
  /** What it said last, if that is short and it rests: it may be an error that no rule knows. */
  last?: string;
  /** How its sources contradict each other. */
  odd?: string;
}

/** What the watchdog remembers of one agent or service, as it begins. */
const freshMemory = () => ({
  /** Wall ms of the starts since the last healthy minute. */
  starts: [] as number[],
  /** Steps up the restart ladder. */
  failures: 0,
  life: DUE as Life,
  lastFatal: 0,
  restarts: { day: "", count: 0 },
  verdict: "unsure" as VerdictName | "gone" | "booting",
  why: "",
  /** Wall ms since when the verdict holds. */
  since: 0,
  /** Wall ms at which its newest client was started, whoever did it; 0 = none, or all is done. */
  bootedAt: 0,
  /** The dead pane that was dealt with last: any other one is news, also where no watchdog ran. */
  buried: "",
  /** The client that was seen last, until it is gone or another one is seen. */
  client: null as Client | null,
  /** The dialog that was answered last, and how many were since the start. */
  answered: "",
  answers: 0,
  /** Wall ms of the newest `up` that released it. */
  releasedAt: 0,
  ...freshTransient(),
});

/** The same later on; all but `Transient` is on disk. */
export interface Memory extends ReturnType<typeof freshMemory> {
  /** The id of its conversation on its server, until a turn there has ended with it. */
  conversation?: string | undefined;
  /** It has run for a healthy minute: its program is there, or was. */
  ran?: boolean;
  /** The version of its client and the model in use, as the client states them. */
  version?: string;
  model?: string | undefined;
  /** The `since` of the unsure verdict that people were told of last. */
  unsureTold?: number;
  /** When (wall ms) only background work was left. */
  backgroundSince?: number | undefined;
  /** Fruitless restarts for a stall in a row, and the count that people were told of last. */
  stalls?: number;
  stallsTold?: number;
  /** When (wall ms) the last dialog was answered. */
  answeredAt?: number | undefined;
  /** Its keys were sent, perhaps to no effect yet: a stopped tmux delivers them once it goes on. */
  answering?: boolean | undefined;
  /** What its start waits for (`notReady`), and since when, wall ms. */
  awaits?: { need: string; since: number } | undefined;
  /** Why it is left running though a restart is due: another could not be started. */
  hindered?: string | undefined;
  /** A restart for idleness was put off because an unsent text is in the input box. */
  draft?: boolean | undefined;
  /** The pane's `stampOf` when its screen was last read; absent = not known. Stored at rest. */
  drawStamp?: string | undefined;
}

/** The part of a memory that dies with the watchdog, as it begins. Times are monotonic ms. */
const freshTransient = () => ({
  idleSince: 0,
  sameSince: 0,
  /** Hashes of the last screen, and of the same without digits if it was at its prompt. */
  picture: "",
  outline: "",
  /** The verdict of the rules alone on that screen. */
  byRules: null as Verdict | null,
  /** When the screen was last read. */
  readAt: 0,
  serverDown: false,
  unsureLooks: 0,
  /** Since when an idle screen has not come to rest, and when it last changed. */
  unrest: null as { since: number; last: number } | null,
  /** It died together with others, and its end has not been dealt with yet. */
  together: false,
  /** What its process executed when it was found to be no shell; "" = not known. */
  executable: "",
  /** The pid whose version is known; 0 = none. */
  versionOf: 0,
  /** Looks in a row whose sources contradicted each other. */
  oddLooks: 0,
  /** The wrong backend that its pane showed at the last look; "" = none. */
  mismatch: "",
});
type Transient = ReturnType<typeof freshTransient>;

/** Everything that the watchdog remembers, as it begins. */
export const freshWatch = () => ({
  /** The head up to which commits were handled; `baselineOf` says whether it is this channel's. */
  sha: "",
  /** The channel that `sha` is of; "" = an older version stored it. */
  shaOf: "",
  /** The keys of the commits already handled, newest last: a rebase repeats nothing. */
  seen: [] as string[],
  inboxes: {} as Record<string, string>,
  /** Who is to commit next, and the subject of the claim or review that says so. */
  turn: null as { owes: string; subject: string; at: number } | null,
  deadlocked: "",
  outbox: [] as Message[],
  /** The ids of messages that were taken over but are still in the command line's queue. */
  taken: [] as string[],
  /** The ids of the latest deliveries, newest last: `send` waits for its own here. */
  delivered: [] as string[],
  /** The latest texts of each target that were typed without proof that they were taken. */
  unproven: [] as Message[],
  agents: {} as Record<string, Memory>,
  /** A phase move under way: replayed after a crash, cleared last. */
  intent: null as { id: string; from: string; to: string; run: string; at: number } | null,
  /** Wall ms at which each wake is due. */
  wakeDue: {} as Record<string, number>,
  server: "",
  /** The fleet (`room`) whose server and clients it names; "" = an older version stored it. */
  room: "",
  /** The clients that are not in the config, and that people were told of. */
  orphans: [] as string[],
  /** What was said once about a client's version, such as `untried claude 3.0.0`. */
  versions: [] as string[],
  /** The limits in force, by account and, for a limit of one model, by model too. */
  accounts: {} as Record<string, AccountLimit>,
  /** null = nobody has looked at the remote yet. */
  channel: null as Channel | null,
  /** null = every notice to people has gone out. */
  notices: null as Notices | null,
  volatile: freshRuntime(),
});

/** The same later on; all but `volatile` is `state/watch.json`. */
export interface Watch extends ReturnType<typeof freshWatch> {
  /** Wall ms since when the commit of `turn` has been owed; absent = not known. */
  owedSince?: number | undefined;
  /** Who was down by order at the last tick; absent = an older version stored it. */
  held?: Operator["held"];
}

/** The part that dies with the watchdog, as it begins. */
const freshRuntime = () => ({
  ticks: 0,
  lastTick: 0,
  lastHeavy: -Infinity,
  lastNow: 0,
  errors: {} as Record<string, string>,
  /** Since when (monotonic ms) what `HINDERS` has lasted, and whether people were told. */
  lasting: {} as Record<string, { since: number; told: boolean }>,
  fetch: null as Promise<void> | null,
  fetched: null as Fetched | null,
  /** The commit up to which commits and inboxes were handled. */
  handled: "",
  quietSince: 0,
  /** watch.json as it was last written. */
  saved: "",
  /** Events of what was decided but is not stored yet; see `emitStored`. */
  unsaid: [] as [event: EventName, fields: Record<string, unknown>][],
  /** Settles once every save so far has ended. */
  saving: Promise.resolve(),
  /** Why the pushed status file could not be read; "" = it could. */
  unread: "",
  /** How many starts this round may still make. */
  startsLeft: 0,
});

/**
 * The remote's branch at the last look. `empty`: the repository has no branch at all yet;
 * `branch missing`: it has others; `failing`: git could not look.
 */
const CHANNEL_STATES = ["ok", "empty", "branch missing", "failing"] as const;
type ChannelState = (typeof CHANNEL_STATES)[number];

/** The state of the hand-off channel, and since when (wall ms). */
export interface Channel {
  /** Which one it is (`channelOf`); absent = an older version stored it. */
  of?: string;
  state: ChannelState;
  why: string;
  /** What a person can do about it. */
  cure: string;
  since: number;
  /** It was bad on more than one look: people have been told, and hear when it works again. */
  told: boolean;
}

/** A limit of an account; every agent that uses the account waits for it. */
interface AccountLimit {
  /** For people: `claude (default)`. */
  name: string;
  class: LimitClass;
  /** Wall ms. */
  resetAt: number;
  /** The agent that probes for all of them; "" = none can. */
  asker: string;
  /** Wall ms at which it probed, or since when none can; 0 = not yet. */
  askedAt: number;
  /** Wall ms since when that agent works again; 0 = it does not. */
  liftedAt: number;
}

/** Trouble with the notices to people. */
export interface Notices {
  /** Failed tries of the current batch. */
  tries: number;
  /** Wall ms since when none has gone out; 0 = the last one did. */
  since: number;
  /** Events that nobody was told of, and wall ms of the last one lost. */
  dropped: number;
  droppedAt: number;
  why: string;
}

/** The result of one look at the remote; `head` is "" unless `state` is ok. */
export interface Fetched extends Pick<Channel, "state" | "why" | "cure"> {
  /** git ran into its deadline. */
  hung: boolean;
  head: string;
  /** The config that it was made by. */
  hand: Handoff;
  /** The new commits of a head not handled before, and the inboxes at that head. */
  news?: { commits: Commit[]; inboxes: Map<string, PushedFile> };
}

/** One line of events.jsonl; `at` is ISO 8601 in UTC. */
export interface AgentEvent {
  at: string;
  event: string;
  agent?: string;
  [key: string]: unknown;
}

interface EventKind {
  /** The colour of its word on a terminal. */
  colour?: "red" | "yellow" | "green";
  /** A report lists it. */
  trouble?: true;
  /** [notify] can send it; true = it does so by default. */
  notify?: boolean;
  /**
   * The command that a notice of it suggests, `attach` and `up` with the agent's name. An event may
   * bring a `cure` of its own: a client that does not run cannot be attached to.
   */
  cure?: "attach" | "up" | "status" | "doctor";
}

/** All kinds of events. */
const EVENTS = {
  blocked: { colour: "red", trouble: true, notify: true, cure: "attach" },
  unsure: { colour: "red", trouble: true, notify: true, cure: "attach" },
  parked: { colour: "red", trouble: true, notify: true, cure: "up" },
  limited: { colour: "yellow", notify: true, cure: "status" },
  lifted: { notify: true },
  phase: { colour: "green", notify: true },
  complete: { colour: "green", notify: true },
  stalled: { colour: "yellow", trouble: true, notify: false },
  deadlock: { colour: "red", trouble: true, notify: true, cure: "status" },
  handoff: { colour: "yellow", trouble: true, notify: true, cure: "doctor" },
  config: { colour: "yellow", trouble: true, notify: true, cure: "doctor" },
  watchdog: { notify: true },
  trouble: { colour: "red", trouble: true, notify: true, cure: "doctor" },
  untried: { notify: true },
  drift: { colour: "yellow", trouble: true, notify: true },
  fatal: { colour: "red", trouble: true },
  undelivered: { colour: "red", trouble: true, notify: true, cure: "attach" },
  unconfirmed: { colour: "yellow", trouble: true, notify: false },
  pattern: { colour: "yellow", trouble: true },
  notices: { colour: "yellow", trouble: true },
  down: { colour: "yellow" },
  orphan: { colour: "yellow", trouble: true, notify: true },
  commit: { colour: "green" },
  answered: {}, delivered: {}, notified: {}, order: {}, start: {}, state: {}, version: {},
} satisfies Record<string, EventKind>;
type EventName = keyof typeof EVENTS;

/** The kind of an event in events.jsonl, which another version may have written. */
const kindOf = (event: string): EventKind =>
  (Object.hasOwn(EVENTS, event) ? EVENTS[event as EventName] : {});

/**
 * What people ordered; only the command line writes it, and before it acts. Who obeys:
 *
 *   held       every start (`mayNotStart`), and each round (`whyHandsOff`, then `leaveDown`)
 *   busy       each round, which leaves the unit alone until the command lets go of it, or ends
 *   released   the next tick (`applyReleases`): the unit is due, and its ladder begins anew
 *   queue      the next round, which takes the texts over (`takeQueued`)
 */
interface Operator {
  /** Wall ms at which a unit, or `watchdog`, was taken down; `up` deletes the entry. */
  held: Record<string, number>;
  /** Wall ms until which a command works on a unit: the watchdog leaves it alone. */
  busy: Record<string, number>;
  /** The process of that command: its pid and when it began. */
  owners?: Record<string, string>;
  released: Record<string, number>;
  queue: Message[];
}

/** Decisions are data; `why` is the log line. */
type Decision<Do> = Do extends string ? { do: Do; why: string } : never;

/** An error for people, with its exit code: 1 failed, 2 usage, 3 something needs a human. */
export class CliError extends Error {
  constructor(
    message: string,
    readonly code = 1,
  ) {
    super(message);
  }
}

export function die(message: string, code = 1): never {
  throw new CliError(message, code);
}

/** A disk, or tmux, did not answer in time: what is there is not known. */
export class NoAnswer extends CliError {}

// ── the world ───────────────────────────────────────────────────────────────────
// `world`, below, is the one seam to the outside. Tests replace its members and turn the clock;
// apart from locks and stage notes (and `spawnKeeper`), nothing else in a tick touches a process, a
// file or the network.

export interface ExecResult {
  ok: boolean;
  out: string;
  err: string;
  timedOut: boolean;
  /** With which code it ended, over 128 = by a signal; absent = it did not end, or never ran. */
  code?: number | undefined;
}

interface HttpAnswer {
  ok: boolean;
  status: number;
  body: string;
}

type OnChunk = (part: Uint8Array) => void;

/** ms. tmux answers within a few; 5 s means a stopped server. git may talk to a slow remote. */
const TMUX_DEADLINE = 5_000;
const GIT_DEADLINE = 20_000;
const HTTP_DEADLINE = 5_000;

/** In the environment of everything that a unit starts: `<fleet>/<name>/<launch>`. */
const UNIT_MARK = "AGENTS_UNIT";
/** The variables that [notify] reads a secret from: no child process gets them. */
const secretNames = new Set<string>();

/**
 * Set by a git hook or a client that calls this program, for its own children. With them git would
 * use another repository, and Claude Code refuses to start "inside another Claude Code session".
 */
const CALLERS_OWN = [
  "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX",
  "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH",
  "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_CONFIG_PARAMETERS",
  "CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT", "GEMINI_CLI",
  "CODEX_SANDBOX", "CODEX_SANDBOX_NETWORK_DISABLED",
];

/**
 * The environment for a child: without one-off overrides, and without what the caller's tmux, git
 * hook, client or Bun set for themselves. Without a unit's mark too: a watchdog that an agent
 * started with `up` is no part of that agent. `own`: the child is this program and may have the
 * secrets.
 */
export function childEnv(own = false): Record<string, string | undefined> {
  const dropped = new RegExp(`^(AGENT_(MODEL|BACKEND)_.*|${UNIT_MARK}|BUN_OPTIONS|BUN_BE_BUN|` +
    `TMUX|TMUX_PANE|${CALLERS_OWN.join("|")})$`);
  return Object.fromEntries(Object.entries(process.env).filter(([key]) =>
    !dropped.test(key) && (own || !secretNames.has(key))));
}

/** The result of a promise, or `otherwise` if it takes longer than `ms`. */
function within<T>(ms: number, promised: Promise<T>, otherwise: T): Promise<T> {
  let timer: Timer;
  const late = new Promise<T>((resolve) => (timer = setTimeout(() => resolve(otherwise), ms)));
  return Promise.race([promised, late]).finally(() => clearTimeout(timer));
}

const textOf = (parts: Uint8Array[]): string => Buffer.concat(parts).toString();

/** ms. Once a program has exited, its output is complete when nothing came for twice this long. */
const PIPES_REST = 500;

/**
 * Runs a program in a process group of its own, so that the deadline (ms) kills its children too.
 * Its own exit ends the wait: a child that it left behind may hold its pipes open for ever.
 * `began` hears of the group.
 */
export async function run(
  argv: string[], deadline: number, env: object = {}, stdin = "", take?: OnChunk,
  began?: (group: number) => void,
): Promise<ExecResult> {
  try {
    const child = Bun.spawn(argv, {
      env: { ...childEnv(), ...env },
      stdin: stdin ? new TextEncoder().encode(stdin) : "ignore",
      stdout: "pipe",
      stderr: "pipe",
      cwd: "/",
      detached: true,
    });
    began?.(child.pid);
    let timedOut = false;
    // a stopped tmux server keeps its dead client's pipes open for ever
    const pipes = new AbortController();
    const timer = setTimeout(() => {
      timedOut = true;
      world.signal(-child.pid, "SIGTERM"); // git removes its lock files then
      setTimeout(() => world.signal(-child.pid, "SIGKILL"), 500);
      pipes.abort();
    }, deadline);
    const out: Uint8Array[] = [];
    const err: Uint8Array[] = [];
    let came = 0;
    const drain = (pipe: ReadableStream<Uint8Array>, next: OnChunk) =>
      pipe.pipeTo(new WritableStream({
        write(part) {
          came += 1;
          next(part);
        },
      }), { signal: pipes.signal }).catch((error) => {
        if (!pipes.signal.aborted) throw error;
      });
    let whole = false;
    const printed = Promise.all([
      drain(child.stdout, take ?? ((part) => out.push(part))),
      drain(child.stderr, (part) => err.push(part)),
    ]).then(() => (whole = true));
    // a program stuck on a dead network disk does not even end by SIGKILL
    const code = await within(deadline + 2_000, child.exited, null)
      .finally(() => clearTimeout(timer));
    // twice: if this process was suspended, the first wait times out before anything is read
    let quiet = 0;
    for (let rests = 2 + deadline / PIPES_REST; !whole && quiet < 2 && rests > 0; rests--) {
      const before = came;
      await within(PIPES_REST, printed, false);
      quiet = came === before ? quiet + 1 : 0;
    }
    const cut = !whole && quiet < 2;
    pipes.abort();
    await printed;
    return { ok: code === 0 && !timedOut && !cut, out: textOf(out),
      err: timedOut ? "no answer in time" : cut ? "its output has no end" : textOf(err).trim(),
      timedOut, code: code ?? undefined };
  } catch (error) {
    return { ok: false, out: "", err: messageOf(error), timedOut: false };
  }
}

/**
 * A command of tmux without the last letter of its name, which tmux completes: for the whole name
 * it first looks for an alias (`command-alias`), by which an operator may have made it another.
 */
const unaliased = (command: string): string => command.replace(/^([a-z]+-[a-z]+)[a-z]/, "$1");

/** A command is first, behind a `;`, what `if-shell` runs, or begins a line of a file. */
function realTmux(args: string[], stdin?: string, take?: OnChunk): Promise<ExecResult> {
  const first = args[0] === "-L" ? 2 : 0;
  const inner = args[first] === "if-shell" ? args.length - 1 : first;
  const commands = args.map((arg, at) =>
    ([first, inner].includes(at) || args[at - 1] === ";" ? unaliased(arg) : arg));
  const isFile = args[first] === "source-file";
  const input = isFile ? stdin?.split("\n").map(unaliased).join("\n") : stdin;
  return run(["tmux", "-u", ...commands], TMUX_DEADLINE, {}, input, take);
}

/**
 * git never prompts and writes nothing unasked. The clone's own settings for ssh and credentials
 * stay in force, so GIT_ASKPASS is unset: even empty, it would win over core.askPass.
 */
const GIT_ENV = {
  GIT_TERMINAL_PROMPT: "0",
  GIT_ASKPASS: undefined,
  SSH_ASKPASS: "",
  SSH_ASKPASS_REQUIRE: "never",
  GCM_INTERACTIVE: "never",
  GIT_OPTIONAL_LOCKS: "0",
  GIT_LITERAL_PATHSPECS: "1", // a name may begin with a colon
  GIT_NO_LAZY_FETCH: "1", // reading the local clone must not contact the remote
  LC_ALL: "C",
};

/** No background housekeeping, and none of the clone's hooks run for the watchdog. */
const GIT_CONFIG = [
  "gc.auto=0", "maintenance.auto=false", "core.hooksPath=/dev/null", "core.fsmonitor=false",
  "log.showSignature=false", "i18n.logOutputEncoding=UTF-8",
].flatMap((setting) => ["-c", setting]);

/** Bytes of output allowed for one git command; beyond that the command counts as failed. */
const GIT_OUTPUT_MAX = 8_000_000;

/** The groups of the gits at work: no Ctrl-C reaches them, and one may wait for ever. */
const gits = new Set<number>();
const endGits = (): void => {
  for (const group of gits) world.signal(-group, "SIGTERM"); // git removes its lock files then
};

/** What ends a command that does not heed it, with its exit code; `endGits` hears of the exit. */
const DEADLY = { SIGINT: 130, SIGTERM: 143 } as const;
const dieOf = (name: keyof typeof DEADLY): void => {
  if (process.listenerCount(name) === 1) process.exit(DEADLY[name]);
};

/** Notes which gits are at work: they end with this process. */
function noteGit(group: number, works: boolean): void {
  if (!gits.size) {
    process.on("exit", endGits);
    for (const name in DEADLY) process.on(name, dieOf);
  }
  if (works) gits.add(group);
  else gits.delete(group);
  if (gits.size) return;
  process.off("exit", endGits);
  for (const name in DEADLY) process.off(name, dieOf);
}

/** `env` is added to what git always gets. */
async function realGit(
  repo: string, args: string[], env: Record<string, string> = {},
): Promise<ExecResult> {
  const remote = ["ls-remote", "fetch"].includes(args[0]!);
  const parts: Uint8Array[] = [];
  let [size, group] = [0, 0];
  const ran = await run(["git", "-C", repo, ...GIT_CONFIG, ...args], GIT_DEADLINE,
    { ...GIT_ENV, ...(remote ? await quietSsh(repo) : {}), ...env }, "", (part) => {
      size += part.length;
      if (size <= GIT_OUTPUT_MAX) parts.push(part);
    }, (pid) => noteGit(group = pid, true));
  noteGit(group, false);
  if (!ran.ok && remote) ownSsh.delete(repo);
  if (size <= GIT_OUTPUT_MAX) return { ...ran, out: textOf(parts) };
  return { ...ran, ok: false, err: `git ${args[0]} printed more than 8 MB` };
}

/** Whether a clone's config sets core.sshCommand; asked again after the remote has failed. */
const ownSsh = new Map<string, Promise<boolean>>();

/**
 * An ssh that fails instead of prompting, unless somebody chose one. GIT_SSH_COMMAND would win over
 * core.sshCommand, and that over GIT_SSH, so all three are checked first.
 */
async function quietSsh(repo: string): Promise<Record<string, string>> {
  if (process.env.GIT_SSH_COMMAND || process.env.GIT_SSH) return {};
  const ask = ["git", "-C", repo, "config", "--default", "", "--get", "core.sshCommand"];
  const isSet = await ownSsh.getOrInsertComputed(repo, () =>
    run(ask, GIT_DEADLINE).then(({ ok, out }) => !ok || out.trim() !== ""));
  return isSet ? {} : { GIT_SSH_COMMAND: "ssh -oBatchMode=yes -oConnectTimeout=10" };
}

/** The text of a stream; one that is too large or never ends throws. */
async function textWithin(
  max: number, tooLarge: string, stream: AsyncIterable<Uint8Array> | Uint8Array[],
): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of stream) {
    size += part.length;
    if (size > max) throw new Error(tooLarge); // cancels the stream
    parts.push(part);
  }
  return textOf(parts);
}

const bodyOf = (answer: Response): Promise<string> =>
  textWithin(2_000_000, "an answer of more than 2 MB", answer.body ?? []);

/** Follows redirects on the same host only; one to another host is returned as the answer. */
async function fetchHere(url: string, init: RequestInit, hops = 3): Promise<Response> {
  const answer = await fetch(url, { ...init, redirect: "manual" });
  const to = URL.parse(answer.headers.get("location") ?? "", url);
  const kept = init.method === "GET" || answer.status >= 307;
  if (answer.status < 300 || answer.status > 399 || !kept || !hops ||
    to?.hostname !== new URL(url).hostname) return answer;
  await answer.body?.cancel();
  return fetchHere(to.href, init, hops - 1);
}

/** One request with a deadline; `CONNECT tcp://host:port` only asks whether the port is open. */
async function realHttp(
  request: { method: string; url: string; body?: string },
): Promise<HttpAnswer> {
  try {
    if (request.method === "CONNECT") {
      const { hostname, port } = new URL(request.url);
      const socket = Bun.connect({ hostname, port: Number(port), socket: { data() {} } });
      void socket.then((open) => open.end(), () => {});
      const open = await within(HTTP_DEADLINE, socket, null);
      return { ok: open !== null, status: open ? 0 : 408, body: "" };
    }
    const answer = await fetchHere(request.url, {
      method: request.method,
      ...(request.body === undefined ? {} : { body: request.body }),
      headers: { "content-type": "application/json" },
      signal: AbortSignal.timeout(HTTP_DEADLINE),
    });
    return { ok: answer.ok, status: answer.status, body: await bodyOf(answer) };
  } catch (error) {
    // 0: nobody listens; 408: somebody may, but did not answer
    const refused = ["ECONNREFUSED", "ConnectionRefused"].includes(errorCode(error));
    return { ok: false, status: refused ? 0 : 408, body: "" };
  }
}

/** To `kill`, 0 means our own group, -1 every process and 1 is init: none is ever a client. */
const isPid = (pid: number): boolean => Number.isSafeInteger(pid) && Math.abs(pid) > 1;

/** A negative pid is a process group; signal 0 only asks. False = no such process. */
function realSignal(pid: number, signal: NodeJS.Signals | 0): boolean {
  if (!isPid(pid)) return false;
  try {
    return process.kill(pid, signal);
  } catch (error) {
    return errorCode(error) === "EPERM";
  }
}

/** What `get` returns, or `otherwise` if it throws. */
function tried<T>(get: () => T, otherwise: T): T {
  try {
    return get();
  } catch {
    return otherwise;
  }
}

/** The system's word for an error, such as ENOENT; "" = it has none. */
function errorCode(error: unknown): string {
  const { code } = error as { code?: unknown };
  return typeof code === "string" ? code : "";
}

/** Whether an error says that there is no such file, or no such folder above it. */
const isAbsent = (error: unknown): boolean => ["ENOENT", "ENOTDIR"].includes(errorCode(error));

/**
 * Whether an error is one of a disk or of tmux, and says nothing of what was asked for; a loop of
 * links is something else in the place of a file.
 */
const isUnread = (error: unknown): boolean =>
  error instanceof NoAnswer || !["", "ELOOP"].includes(errorCode(error));

/** What `use` returns of a file; null = there is no such file. */
function ifThere<T>(use: () => T): T | null {
  try {
    return use();
  } catch (error) {
    if (isAbsent(error)) return null;
    throw error;
  }
}

/** Opens a file for `use` alone; non-blocking, as opening a fifo would wait for a writer. */
function withFile<T>(path: string, flags: number, use: (file: number) => T): T {
  const file = openSync(path, flags | constants.O_NONBLOCK);
  try {
    return use(file);
  } finally {
    closeSync(file);
  }
}

/**
 * Moves a folder or a fifo, or a link to one, out of the place of a file. Returns what is there and
 * takes writes at once: a file, or a device such as /dev/null; undefined = nothing yet.
 */
function setAside(path: string): Stats | undefined {
  // null: it cannot be looked at, such as a link to itself
  const there = tried(() => statSync(path, { throwIfNoEntry: false }), null);
  if (there === undefined || there?.isFile() || there?.isCharacterDevice()) return there;
  renameSync(path, existsSync(`${path}.bad`) ? `${path}.bad.${Date.now()}` : `${path}.bad`);
}

/**
 * Gives what root has made in another user's folder to that user, whose fleet could neither read
 * nor replace it: one `sudo agents down NAME` would lock its watchdog out of the orders.
 */
function passToOwner(path: string): void {
  if (process.getuid?.() !== 0) return;
  const { uid, gid } = statSync(dirname(path));
  // not what a link leads to; and some disks know no owners
  if (uid !== 0) tried(() => lchownSync(path, uid, gid), undefined);
}

/** Numbers the temporary files: two writes at the same time must not share one. */
let written = 0;

/** Temporary file, fsync, rename: a reader sees the old text or the new, never a part of it. */
async function realWriteAtomic(path: string, text: string): Promise<void> {
  const temporary = `${path}.${process.pid}.${(written += 1)}.tmp`;
  try {
    setAside(path);
    // opened here because Bun.write ignores `mode` for short texts: others could read the file
    const file = openSync(temporary, "w", 0o600);
    try {
      await Bun.write(Bun.file(file), text);
      passToOwner(temporary);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
  } catch (error) {
    if (existsSync(temporary)) rmSync(temporary); // its own error would hide this one
    const fault = error as Error;
    // a full disk names no file; other errors name the temporary one, which differs at each try and
    // would be logged each time
    fault.message = fault.message.replaceAll(temporary, path);
    throw Object.assign(fault, { path });
  }
}

/** Calls of the system that Bun has not, or at a price; loaded by the first, as they cost 2 MB. */
const system = once(() => {
  const { dlopen } = import.meta.require("bun:ffi") as typeof import("bun:ffi");
  const library = process.platform === "darwin" ? "libSystem.B.dylib" : "libc.so.6";
  return dlopen(library, { flock: { args: ["int", "int"], returns: "int" },
    poll: { args: ["ptr", "u64", "int"], returns: "int" },
    localtime_r: { args: ["ptr", "ptr"], returns: "ptr" } }).symbols;
});

/** The system's own way to local time; null = it has no file for it, or cannot be called. */
const localtime = once(() =>
  (existsSync("/etc/localtime") ? tried(() => system().localtime_r, null) : null));

/**
 * Year, month, day, hour, minute and second. JavaScript's first look at local time costs more than
 * the start of Bun; it is needed for a zone in TZ alone, of which the system may have no file.
 */
function localParts(
  at: Moment,
): [year: number, month: number, day: number, hour: number, minute: number, second: number] {
  const day = new Date(at);
  const call = process.env.TZ === undefined && !Number.isNaN(Number(day)) ? localtime() : null;
  const tm = new Int32Array(14); // its first six numbers; the system writes the others, too
  if (!call?.(new BigInt64Array([BigInt(Math.floor(Number(day) / 1000))]), tm)) {
    return [day.getFullYear(), day.getMonth() + 1, day.getDate(),
      day.getHours(), day.getMinutes(), day.getSeconds()];
  }
  const [second = 0, minute = 0, hour = 0, date = 0, month = 0, year = 0] = tm;
  return [year + 1900, month + 1, date, hour, minute, second];
}

/** Locks an open file for as long as it stays open; false = another process has it. */
function lockOpen(file: number, shared = false): boolean {
  const [LOCK_SH, LOCK_EX, LOCK_NB] = [1, 2, 4];
  return system().flock(file, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) === 0;
}

/** Whether a path still leads to the file that was opened by it. */
const isStillAt = (path: string, file: number): boolean =>
  statSync(path, { throwIfNoEntry: false })?.ino === fstatSync(file).ino;

/** Renames a full file, unless another process just did: a second time would lose its content. */
const rotate = (path: string): boolean => ifThere(() =>
  withFile(path, constants.O_RDWR, (file) => {
    const isOurs = lockOpen(file) && isStillAt(path, file);
    if (isOurs) renameSync(path, `${path}.1`);
    return isOurs;
  })) ?? false;

/**
 * Rotates to `<path>.1` once the file is over `cap` bytes. True = the file is a new one, so that
 * whoever had the path open writes elsewhere.
 */
function realAppend(path: string, text: string, cap = Infinity): boolean {
  const size = setAside(path)?.size;
  const full = (size ?? 0) > cap && rotate(path);
  const isNew = full || size === undefined;
  if (text) appendFileSync(path, text, { mode: 0o600 });
  if (text && isNew) passToOwner(path);
  return isNew;
}

/** The largest file, in bytes, that is read whole; those of a fleet are under 1 MB. */
const READ_MAX = 16_000_000;

/** Only a regular file is read: a fifo or a device may never end. */
function refuseUnreadable(path: string, stat: Stats, max: number): void {
  const wrong = stat.isDirectory() ? "is a folder" : !stat.isFile() ? "is not a regular file"
    : stat.size > max ? `is too large (${Math.round(stat.size / 1e6)} MB)` : "";
  if (wrong) throw new Error(`${path} ${wrong}`);
}

const readRegular = <T>(
  path: string, read: (file: number, size: number) => T, max = Infinity,
): T | null => ifThere(() => withFile(path, constants.O_RDONLY, (file) => {
  const stat = fstatSync(file);
  refuseUnreadable(path, stat, max);
  return read(file, stat.size);
}));

/** Whether a file is inside the binary: such a file has no descriptor. */
const isEmbedded = (path: string): boolean => COMPILED && path.startsWith(import.meta.dir);

/** null = there is no such file; any other trouble throws. */
function realRead(path: string): string | null {
  if (isEmbedded(path)) return existsSync(path) ? readFileSync(path, "utf8") : null;
  // no fifo is there, and a look at all processes reads hundreds: a fifth of the time
  if (path.startsWith("/proc/")) return ifThere(() => readFileSync(path, "utf8"));
  return readRegular(path, (file) => readFileSync(file, "utf8"), READ_MAX);
}

/** How long, ms, to wait for a file: a network disk that is away never answers. */
const READ_DEADLINE = 5_000;

/** How many questions to disks are late, and may still hold threads. */
let unanswered = 0;

/** What a disk answers; null = nothing in time. */
async function inTime<T>(asked: Promise<T>, ms = READ_DEADLINE): Promise<T | null> {
  const answer = await within(ms, asked, null);
  if (answer !== null) return answer;
  unanswered += 1;
  asked.catch(() => {}).finally(() => (unanswered -= 1));
  return null;
}

/** The same for callers that can wait; a disk that does not answer in time throws. */
async function realText(path: string): Promise<string | null> {
  if (isEmbedded(path)) return realRead(path);
  const file = Bun.file(path);
  const read = async (): Promise<string> => {
    // before it is opened, as opening a fifo would wait
    refuseUnreadable(path, await file.stat(), READ_MAX);
    return file.text();
  };
  try {
    const text = await inTime(read());
    if (text === null) throw new NoAnswer(`${path} cannot be read: the disk does not answer`);
    return text;
  } catch (error) {
    if (isAbsent(error)) return null;
    throw error;
  }
}

/** The questions to disks that are still open, by place, and what they are asked for, by path. */
const asked = new Map<string, Promise<boolean>>();
const askedFor = new Map<string, Promise<boolean>>();

/** The last one; a thread asks them one after the other. */
let lastAsked: Promise<unknown> = Promise.resolve();

/** Where disks begin, as it was when the first of the questions that are open now was asked. */
let disks: string[] = [];

/** The same at this moment; [] where the system does not tell. */
function readDisks(): string[] {
  const rows = tried(() => world.read("/proc/self/mountinfo") ?? "", "").trim().split("\n");
  return rows.flatMap((row) => row.split(" ", 5)[4] ?? []).map((point) =>
    point.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(parseInt(code, 8))));
}

/** Where the disk of a path begins; the path itself where that is not known. */
function diskOf(path: string): string {
  const above = disks.filter((point) =>
    path === point || path.startsWith(point.replace(/\/?$/, "/")));
  return above.sort((one, other) => other.length - one.length)[0] ?? path;
}

/**
 * A disk that hangs holds the thread that asks it. On two cores Bun has two of them, and without
 * them no file at all is read: while one hangs, other disks are asked by processes.
 */
async function ask(place: string): Promise<boolean> {
  if (!unanswered) {
    lastAsked = lastAsked.then(() => Bun.file(place).stat()).catch(() => {});
    if (await inTime(lastAsked.then(() => true), 1_000)) return asked.delete(place);
  }
  const child = Bun.spawn(["stat", place], { stdio: ["ignore", "ignore", "ignore"] });
  child.unref();
  const end = () => child.kill("SIGKILL");
  process.on("exit", end);
  void child.exited.finally(() => process.off("exit", end));
  return within(READ_DEADLINE, child.exited.then(() => asked.delete(place)), false);
}

/** The longest chain of links that the system follows. */
const LINKS_MAX = 40;

/**
 * Whether the disk of a path answers in time; to be asked before the calls that cannot wait. A
 * process whose thread waits for a name below that another one looks up there cannot even be
 * killed: the place where the disk begins is asked first, which looks up none, and once for all
 * that is on it. A link is read only once its folder has answered; then its target is asked.
 */
async function askFor(path: string, links = 0): Promise<boolean> {
  // where no process can be started, whoever asks next tries again
  const answers = (place: string) => asked.getOrInsertComputed(place, () =>
    ask(place).catch(() => !asked.delete(place)));
  const [disk, folder] = [diskOf(path), dirname(path)];
  if (!(await answers(disk))) return false;
  if (disk === path) return true;
  if (folder !== disk && !(await answers(folder))) return false;
  let target = "";
  try {
    target = readlinkSync(path);
  } catch (error) {
    if (isAbsent(error)) return true; // the folder's own disk says so
  }
  return target && links < LINKS_MAX ? askFor(resolve(folder, target), links + 1) : answers(path);
}

/** The same, once for all who ask at the same time: most agents have their files in one folder. */
function realAnswers(path: string): Promise<boolean> {
  if (!askedFor.size) disks = readDisks();
  return askedFor.getOrInsertComputed(path,
    () => askFor(path).finally(() => askedFor.delete(path)));
}

function readPart(file: number, from: number, bytes: number): string {
  const part = Buffer.alloc(bytes);
  return part.toString("utf8", 0, readSync(file, part, 0, bytes, from));
}

/**
 * Wall ms of the last change; null = there is no such file. A link to itself has a time of its own:
 * something is in the place of the file.
 */
function realMtime(path: string): number | null {
  try {
    return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? null;
  } catch (error) {
    return isAbsent(error) ? null : lstatSync(path).mtimeMs;
  }
}

/** The paths that a process has open; [] = none, or the system does not tell. */
function realOpened(pid: number): string[] {
  const folder = `/proc/${pid}/fd`;
  // one may be closed in the meantime
  const target = (name: string) => tried(() => [readlinkSync(join(folder, name))], []);
  return tried(() => readdirSync(folder), []).flatMap(target);
}

/** Waits while a pipe is full: nothing is lost without an error. A reader that left is an EPIPE. */
function writeAll(file: typeof OUT | typeof ERR, text: string): void {
  let rest = Buffer.from(text);
  while (rest.length) {
    try {
      rest = rest.subarray(writeSync(file, rest));
    } catch (error) {
      if (errorCode(error) !== "EAGAIN") throw error;
      Bun.sleepSync(5); // somebody has set it not to block
    }
  }
}

/** The descriptors of standard output and standard error. */
const [OUT, ERR] = [1, 2] as const;

/** The running program's world; tests replace its members. */
export const world = {
  /** Wall clock, ms. */
  now: () => Date.now(),
  /** Monotonic clock, ms. */
  mono: () => performance.now(),
  sleep: (ms: number): Promise<void> => Bun.sleep(ms),
  /** `take` gets the output in parts as they come; `out` then stays empty. */
  tmux: realTmux,
  git: realGit,
  http: realHttp,
  signal: realSignal,
  read: realRead,
  text: realText,
  answers: realAnswers,
  /** The first or the last `bytes` bytes of a file; null = there is no such file. */
  head: (path: string, bytes: number): string | null =>
    readRegular(path, (file, size) => readPart(file, 0, Math.min(size, bytes))),
  tail: (path: string, bytes: number): string | null => readRegular(path, (file, size) =>
    readPart(file, Math.max(size - bytes, 0), Math.min(size, bytes))),
  writeAtomic: realWriteAtomic,
  append: realAppend,
  remove: (path: string): void => void ifThere(() => {
    setAside(path);
    rmSync(path, { force: true });
  }),
  mtime: realMtime,
  isFolder: (path: string): boolean => tried(() => statSync(path).isDirectory(), false),
  /** The names in a folder; [] = there is no such folder, any other trouble throws. */
  list: (path: string): string[] => ifThere(() => readdirSync(path)) ?? [],
  opened: realOpened,
  /** The folder at a path by device and number: a move keeps them, no copy has them; "" = none. */
  folderId: (path: string): string => tried(() => {
    const { dev, ino } = statSync(path, { bigint: true });
    return `${dev}:${ino}`;
  }, ""),
  /** A path with its links resolved. Throws where there is none. */
  realPath: (path: string): string => realpathSync(path),
  /** The current folder of a process, "… (deleted)" once that was removed; "" = not known. */
  folder: (pid: number): string => tried(() => readlinkSync(`/proc/${pid}/cwd`), ""),
  /** The executable of a process; "" = not known. */
  executable: (pid: number): string => tried(() => readlinkSync(`/proc/${pid}/exe`), ""),
  print: (text: string): void => writeAll(OUT, text),
  /** On standard error; a reader that has gone is not an error. */
  printError: (text: string): void => tried(() => writeAll(ERR, text), undefined),
  /** The width of the terminal that shows standard error; Infinity = none does. */
  errorWidth: (): number =>
    (maybeTerminal(ERR) && process.stderr.isTTY ? process.stderr.columns || 80 : Infinity),
  log: (text: string): void => writeError(text),
};
export type World = typeof world;

/** A line, which may be coloured, broken between words; `rest` begins all but the first. */
export const wrapLine = (line: string, width: number, rest = ""): string[] =>
  (Bun.stringWidth(line) <= width ? [line]
    : Bun.wrapAnsi(line, Math.max(width - rest.length, 8), { hard: true })
      .replaceAll("\n", `\n${rest}`).split("\n"));

// Node's streams take 10 ms to load, a tenth of a `status`: they are only asked what nothing else
// knows, and only where there may be a terminal.

/** Whether a descriptor may be a terminal: a device, not /dev/null; it may even be closed. */
const maybeTerminal = (file: number): boolean => tried(() => {
  const shown = fstatSync(file);
  return shown.isCharacterDevice() && shown.rdev !== statSync("/dev/null").rdev;
}, false);

/** Whether standard output is a terminal. */
const isTerminal = once((): boolean => maybeTerminal(OUT) && process.stdout.isTTY);

/** Whether whoever read what is printed has gone, which a pipe says without being written to. */
function isHungUp(): boolean {
  const [POLLERR, POLLHUP] = [8, 16];
  const asked = new Int32Array([OUT, 0]); // a `pollfd`, whose last 16 bits are the answer
  system().poll(asked, 1, 0);
  return ((asked[1]! >> 16) & (POLLERR | POLLHUP)) !== 0;
}

function writeError(text: string): void {
  const width = world.errorWidth();
  const lines = text.split("\n").flatMap((line) => wrapLine(line, width, "  "));
  world.printError(`${lines.join("\n")}\n`);
}

/** Those of some paths whose disks answer. */
const answering = async (paths: string[]): Promise<string[]> =>
  (await Promise.all(paths.map(async (path) => await world.answers(path) ? [path] : []))).flat();

/** A path with its links followed; one that cannot be followed stays as it is. */
const linkless = (path: string): string => tried(() => world.realPath(path), path);

/**
 * Whether two paths lead to one folder or file, by links or as a mount shows one in two places. On
 * disks that do not answer their names alone tell.
 */
async function isSamePlace(one: string, other: string): Promise<boolean> {
  if (one === other) return true;
  if ((await answering([one, other])).length < 2) return false;
  const [here, there] = [one, other].map(world.folderId);
  return linkless(one) === linkless(other) || (here !== "" && here === there);
}

/** Whether two paths name one config; its file may be gone, as while its editor saves it. */
const isSameConfig = async (one: string, other: string): Promise<boolean> =>
  await isSamePlace(one, other) ||
  (basename(one) === basename(other) && isSamePlace(dirname(one), dirname(other)));

/** Whether it is one fleet's, too: relative paths begin in the folder that it is named by. */
const isSameFleet = async (one: string, other: string): Promise<boolean> =>
  await isSamePlace(dirname(one), dirname(other)) && isSameConfig(one, other);

/** Whether there is something at a path; what we may not see, such as another user's, is not. */
const isThere = (path: string): boolean => tried(() => world.mtime(path) !== null, false);

const makeFolder = (path: string, mode = 0o777): void =>
  void mkdirSync(path, { recursive: true, mode });

/** A value that is made when it is first needed. */
function once<T>(make: () => T): () => T {
  let made: { value: T } | null = null;
  return () => (made ??= { value: make() }).value;
}

const messageOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

/** The command that runs this program again, ignoring bunfig.toml and .env of the folder. */
export function selfArgv(): string[] {
  if (COMPILED) return [process.execPath];
  return [process.execPath, "--no-env-file", "--config=/dev/null", import.meta.path];
}

/** A text that ships with the program, such as `prompts/wake.md`; null = there is none. */
function shipped(name: string): string | null {
  return world.read(join(SCRIPT_DIR, name)) ??
    (COMPILED ? world.read(join(import.meta.dir, name)) : null);
}

const CAME_BARE = "this program came without its agents.toml and prompts/";

/**
 * From the embedded package.json: one beside the binary is somebody else's. Read once: a program
 * replaced while it runs is still the old one.
 */
export const version = once((): string =>
  JSON.parse(world.read(join(import.meta.dir, "package.json")) ?? "{}").version ?? "0");

// ── config ──────────────────────────────────────────────────────────────────────
// KEYS says what agents.toml may contain. All faults are reported at once, each with its line; a
// wrong value is never guessed at, and a missing one gets the default in the table.

// Shapes check what comes from outside: any field may be missing or of another type.
type Shape = (value: unknown) => boolean;
const isText = (value: unknown): value is string => typeof value === "string";
const isFlag: Shape = (value) => typeof value === "boolean";
const isNumber = (value: unknown): value is number =>
  typeof value === "number" && Number.isFinite(value);
const isRecord = (value: unknown): value is Record<string, unknown> =>
  value !== null && typeof value === "object" && !Array.isArray(value) && !(value instanceof Date);
const isList = (item: Shape): Shape => (value) => Array.isArray(value) && value.every(item);
const isTable = (item: Shape): Shape => (value) =>
  isRecord(value) && Object.values(value).every(item);
function withFields(fields: Record<string, Shape>): Shape {
  const keys = Object.keys(fields);
  return (value) => isRecord(value) && keys.every((key) => fields[key]!(value[key]));
}
/** null, or absent, or of this shape. */
const orNull = (shape: Shape): Shape => (value) => value == null || shape(value);

/** A JSON object in a text that may be damaged, or not written to its end; null = there is none. */
const parsedRecord = (text: string | null): Record<string, unknown> | null => text ? tried(() => {
  const value: unknown = JSON.parse(text);
  return isRecord(value) ? value : null;
}, null) : null;

/** The value at these nested keys; undefined = there is none. */
const valueAt = (value: unknown, ...keys: string[]): unknown =>
  keys.reduce<unknown>((at, key) => (isRecord(at) ? at[key] : undefined), value);

const listOf = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);

/** Checks a value: null = it is a `T`; else says what is allowed. */
interface Check<T> {
  (value: unknown): string | null;
  lets?: T;
  /** The file must give the key. */
  needed?: true;
}
/** A key with neither default nor `needed` is absent where the file does not give it. */
type Keys = Record<string, [check: Check<unknown>, fallback?: unknown]>;

type CamelCase<Key> = Key extends `${infer Head}_${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}` : Key;
type Given = [unknown, unknown] | [{ needed: true }];
type Lets<Entry> = Entry extends [Check<infer T>, ...unknown[]] ? T : never;
/** The type of a checked table of agents.toml: camelCase keys, defaults filled in. */
type Table<T extends Keys> =
  & { [Key in keyof T as T[Key] extends Given ? CamelCase<Key> : never]: Lets<T[Key]> }
  & { [Key in keyof T as T[Key] extends Given ? never : CamelCase<Key>]?: Lets<T[Key]> };

const needed = <T>(check: Check<T>): Check<T> & { needed: true } =>
  Object.assign((value: unknown) => check(value), { needed: true as const });
/** Checks by a shape, which `allowed` puts in words. */
const allow = <T>(allowed: string, shape: Shape): Check<T> => (value) =>
  (shape(value) ? null : allowed);
/** Arguments, paths and variables end at a NUL, which TOML lets a string hold. */
const withoutNul = <T>(check: Check<T>): Check<T> => (value) => check(value) ??
  ((isText(value) ? value : Object.values(value as object).join("")).includes("\0")
    ? "text without NUL characters" : null);
const text = withoutNul(allow<string>("a string", isText));
const like = (re: RegExp, allowed: string): Check<string> =>
  withoutNul(allow(allowed, (value) => isText(value) && re.test(value)));
const notEmpty = like(/\S/, "a string, not empty");
const texts = withoutNul(allow<string[]>("a list of strings", isList(isText)));
const flag = allow<boolean>("true or false", isFlag);
/** Far larger ones lead to times that no clock can show. */
const seconds = allow<number>("a number of seconds, 0 or more, at most 31536000 (a year)",
  (value) => isNumber(value) && value >= 0 && value <= 31_536_000);
/** A round waits for it. */
const pause = allow<number>("a number of seconds from 0 to 60",
  (value) => isNumber(value) && value >= 0 && value <= 60);
const megabytes = allow<number>("a number of MB, more than 0",
  (value) => isNumber(value) && value > 0);
const count = allow<number>("a whole number, 1 or more",
  (value) => Number.isInteger(value) && Number(value) > 0);
/** The most that tmux takes. */
const cells = allow<number>("a whole number from 1 to 10000",
  (value) => Number.isInteger(value) && Number(value) > 0 && Number(value) <= 10_000);
const table = allow<Raw>("a table", isRecord);
const tables =
  allow<Raw[]>("a list of tables, each in double brackets or [{ … }]", isList(isRecord));
const stringTable =
  withoutNul(allow<Record<string, string>>("a table of strings", isTable(isText)));
/** Of which each entry is checked on its own: its values may be secrets, and are not shown. */
const variables = allow<Record<string, string>>("a table of strings", isRecord);
const oneOf = <const Word extends string>(...words: readonly Word[]): Check<Word> =>
  allow(`one of ${words.map((word) => `"${word}"`).join(", ")}`,
    (value) => words.includes(value as Word));
const pathInside: Check<string> = (value) => notEmpty(value) ??
  (/^(?:[/~]|\.\.(?:\/|$))/.test(join(String(value))) ? "a path inside the repository" : null);
const inboxes: Check<string[]> = (value) => texts(value) ??
  (listOf(value).length > 2 ? "a list of at most two files"
    : listOf(value).some(pathInside) ? "a list of paths inside the repository" : null);
/** No folder such as `.` or `~`: the program removes the file, and would remove all of that. */
const fileName = like(/^\P{Cc}{0,199}[^/.~\p{Cc}]$/u, "the name of a file");
/** The names that the program itself uses in the folder of that file. */
const OUR_STATE = new RegExp(["^(?:watch|operator)\\.json", "^events\\.jsonl", "^agents\\.toml",
  "^heartbeat", "^phase-id$", "^ssh-auth-sock", "^(?:kickoff|told|limited|message)-",
  "\\.(?:id|lock|pid|stage|tmp)$"].join("|"));
const stateName: Check<string> = (value) => fileName(value) ??
  (OUR_STATE.test(resolve("/state", String(value)).replace("/state/", ""))
    ? "a name that the program does not use itself" : null);
/** What the program has in log_dir, where it is. */
const OUR_LOGS = /^(?:(?:state|unsure)\/|SEQUENCE-COMPLETE$|[^/]+\.log(?:\.1)?$)/;
const triggerName: Check<string> = (value) => fileName(value) ??
  (OUR_LOGS.test(resolve("/log", String(value)).replace("/log/", ""))
    ? "a name that the program does not use itself" : null);
/** tmux silently turns `.` and `:` into `_`, and then never finds the session again. */
const sessionName =
  // at most 100: file names are made of it and more words
  like(/^[A-Za-z0-9_][A-Za-z0-9_-]{0,99}$/, "letters, digits, _ and -, not - at the start");
/** Units are stored by name, and models by role, in objects, where `constructor` always is. */
const noneOfOurs = (value: unknown): string | null =>
  (String(value) in {} ? "a name that the program does not use itself" : null);
const unitName: Check<string> = (value) => sessionName(value) ?? noneOfOurs(value);
const roleName: Check<string> = (value) => text(value) ?? noneOfOurs(value);
/** A branch or remote name that git allows (git-check-ref-format), without invisible characters. */
export const isRefName = (name: string): boolean =>
  name !== "" && name.length <= 200 && !NO_REF_RE.test(name);
const NO_REF_RE = /^[-/.]|\.\.|\/[/.]|@\{|\.lock(?:\/|$)|[/.]$|[\s~^:?*[\\\p{Cc}\p{Cf}]/u;
const refName = allow<string>("a name that git allows for a branch",
  (value) => isText(value) && isRefName(value));
const pattern: Check<string> = (value) => {
  if (!isText(value)) return "a regular expression";
  try {
    parsePattern(value);
    return null;
  } catch (error) {
    const fault = messageOf(error).replace(/^Invalid regular expression: /, "");
    return `a regular expression (${fault})`;
  }
};
/** One that matches every text, such as one that ends in "|", would decide each screen. */
const tellingPattern: Check<string> = (value) => pattern(value) ??
  (["", "x"].every((one) => parsePattern(String(value)).test(one))
    ? "a regular expression that does not match every text" : null);
/** In the original's own keys "" means "none". */
const patternOrNone: Check<string> = (value) => (value === "" ? null : tellingPattern(value));
const boxPattern: Check<string> = (value) =>
  pattern(value) ?? (/\(\?<text>/.test(String(value))
    ? null : "a regular expression with a group (?<text>…) for what is typed in the box");
const region = like(/^(?:title|screen|event|box|foot|dialog|last [1-9]\d*)$/,
  '"title", "screen", "event", "box", "foot", "dialog" or "last N"');

/** Anything else would be typed letter by letter. */
const keyName = like(new RegExp("^(?:\\^|(?:[CMS]-)+)?(?:[^\\s\\p{Cc}]|0x[\\da-f]+|F\\d\\d?|" +
  "Enter|KPEnter|Tab|BTab|Space|BSpace|Escape|Up|Down|Left|Right|Home|End|[NP]Page|" +
  "Page(?:Up|Down)|Pg(?:Up|Dn)|IC|Insert|DC|Delete)$", "iu"),
'one key as tmux names it, such as "Enter" or "C-m"');
const keyNames = withoutNul(allow<string[]>("a list of keys, not empty", (value) =>
  isList((one) => isText(one) && one !== "")(value) && listOf(value).length > 0));
/** A path is what `tmux -S` takes. */
const socketName = like(/^[^/\p{Cc}]*$/u, "a name for tmux -L, not a path");
const readiness: Check<string> = (value) => text(value) ??
  (/^\s*\d+\s*$/.test(String(value)) && !(Number(value) > 0 && Number(value) < 65_536)
    ? "a port from 1 to 65535, an address or a command" : null);
/** Of a variable; any other would hold up each start of its unit. */
const isVariable = (name: string): boolean => /^[^=\p{Cc}]+$/u.test(name);
/** Its panes have it as a mark: see `printable`. */
const isBackendName = (name: string): boolean =>
  /^\P{C}{1,100}$/u.test(name) && name.trim() === name;
const isAddress = (value: string): boolean => /^https?:\/\/[^\s/]/.test(value);

/** The kinds of clients; `typed` is any other, as its operator describes it. */
const BUILT_IN = ["claude", "opencode", "codex", "gemini"] as const;
const KINDS = [...BUILT_IN, "typed"] as const;

/** The events that [notify] can send. */
const NOTICE_EVENTS = Object.keys(EVENTS).filter((event) => kindOf(event).notify !== undefined);
const noticeEvents: Check<string[]> = (value) => {
  const wrong = listOf(value).find((event) => !NOTICE_EVENTS.includes(event as string));
  if (Array.isArray(value) && wrong === undefined) return null;
  return `a list of ${NOTICE_EVENTS.join(", ")}` +
    (isText(wrong) ? nearest(wrong, NOTICE_EVENTS) : "");
};

const UNIT_KEYS = {
  name: [needed(unitName)],
  session: [sessionName],
  dir: [text, "."],
  needs: [texts, []],
  /** A command, a port or an address that answers once it is up. */
  ready: [readiness, ""],
  env: [variables, {}],
} satisfies Keys;

/** Every key of agents.toml, table by table: its check and its default. Durations are seconds. */
export const KEYS = {
  "": {
    defaults: [table, {}],
    watchdog: [table, {}],
    backend: [table, {}],
    loop: [table, {}],
    notify: [table, {}],
    agent: [tables, []],
    service: [tables, []],
  },
  defaults: {
    log_dir: [text, ".agents"],
    session_prefix: [sessionName, "agents-"],
    tmux_socket: [socketName, ""],
    cols: [cells, 200],
    rows: [cells, 50],
  },
  watchdog: {
    signal_interval: [seconds, 30],
    heavy_interval: [seconds, 300],
    stall_grace: [seconds, 180],
    stall_max: [count, 3],
    limit_probe_fallback: [seconds, 300],
    limit_probe_far: [seconds, 3600],
    limit_reset_slack: [seconds, 45],
    unsure_after: [seconds, 300],
    background_max: [seconds, 3600],
    waiting_max: [seconds, 604_800],
    restart_delay: [seconds, 10],
    restart_delay_max: [seconds, 300],
    restart_reset: [seconds, 600],
    park_after: [count, 5],
    park_window: [seconds, 1800],
    healthy_after: [seconds, 10],
    start_batch: [count, 10],
    up_wait: [seconds, 10],
    log_max_mb: [megabytes, 50],
  },
  backend: {
    kind: [oneOf(...KINDS), "typed"],
    /** `bin`, `flags` and `preamble` are shell words of the operator. */
    bin: [needed(notEmpty)],
    flags: [text, ""],
    preamble: [text, ""],
    server: [text, ""],
    active_re: [patternOrNone],
    limit_re: [patternOrNone],
    fatal_re: [patternOrNone],
    ready_re: [tellingPattern],
    /** The client's input box; the named group `text` is what is typed in it and not yet sent. */
    box_re: [boxPattern],
    /** The placeholder in an empty box. */
    empty_re: [tellingPattern],
    submit_key: [keyName, "Enter"],
    /** From the moment a pasted text is drawn until Enter. */
    submit_pause: [pause, 1],
    connect_delay: [seconds, 12],
    stall_idle: [seconds, 300],
    log_grace: [seconds, 180],
    native_grace: [seconds, 180],
    supports_resume: [flag, false],
    /** Shell words for a first start and for a resume; `{id}` is the conversation's id. */
    start_args: [text, ""],
    resume_args: [text, ""],
    /** Shell words before the prompt; absent = the prompt is typed. */
    prompt_args: [text],
    remote_control: [flag, false],
    rule: [tables, []],
    answer: [tables, []],
  },
  rule: {
    name: [text],
    verdict: [needed(oneOf(...VERDICTS))],
    where: [region, "screen"],
    re: [needed(tellingPattern)],
    /** The reset of a limit may be anywhere in the region, not only in the line that matched. */
    whole: [flag, false],
  },
  answer: { re: [needed(tellingPattern)], keys: [needed(keyNames)], max: [count, 3] },
  loop: {
    phases: [tables, []],
    state_file: [stateName, "phase-idx"],
    auto_advance: [flag, true],
    done_marker: [notEmpty, "## DONE"],
    deadlock_after: [seconds, 900],
    resume_phase: [flag],
    handoff: [table],
    on_complete: [table],
  },
  phase: {
    /** An empty one would stand for the end of all phases. */
    id: [needed(notEmpty)], plan: [needed(notEmpty)], status: [needed(pathInside)],
    models: [stringTable, {}],
  },
  handoff: {
    repo: [needed(notEmpty)],
    /** Who is told of each claim, and who of each review: the other side. */
    claim_pings: [text, "adversary"],
    review_pings: [text, "builder"],
    /** `claim_pings` reads the first, `review_pings` the second. */
    inboxes: [inboxes, []],
    docs_dir: [pathInside, "machine-docs"],
    branch: [refName, "main"],
    remote: [refName, "origin"],
    claim_re: [tellingPattern, "^claim\\("],
    review_re: [tellingPattern, "^review\\("],
  },
  on_complete: {
    trigger_file: [triggerName, ".run-upgrade-on-complete"], run: [text, "upgrader"],
  },
  wake: { interval: [seconds, 3600], prompt_file: [text, "prompts/wake.md"] },
  service: { ...UNIT_KEYS, command: [needed(notEmpty)] },
  notify: {
    command: [text, ""],
    url: [text, ""],
    /** All but stalls, which the watchdog cures itself: they were most of a night's notices. */
    events: [noticeEvents,
    NOTICE_EVENTS.filter((event) => kindOf(event).notify)],
  },
  agent: {
    ...UNIT_KEYS,
    kind: [oneOf("persistent", "orchestrator", "loop", "task"), "persistent"],
    backend: [needed(text)],
    /** Whose quota it uses; absent = worked out from the credentials in its environment. */
    account: [text],
    model: [text, ""],
    role: [roleName, ""],
    prompt: [text, ""],
    prompt_file: [text, ""],
    enabled: [flag, true],
    watch: [oneOf("none", "heal", "heal+stall"), "none"],
    resume: [flag, false],
    wake: [table],
  },
} satisfies Record<string, Keys>;

const defaultsOf = <T extends Keys>(keys: T): Table<T> =>
  Object.fromEntries(Object.entries(keys)
    .map(([key, [, fallback]]) => [camelCase(key), fallback])) as Table<T>;

/** The upper edge of Gemini's box; with NO_COLOR a plain rule, like others on its screen. */
const GEMINI_TOP = String.raw`(?:▄{8}.*|─{8}.*(?=\n [>*!(]))`;

/**
 * The built-in clients, each as a config would describe it; agents.toml overrides single keys. On
 * `submit_pause`: opencode's screen lags by up to half a second, and Gemini takes an Enter that
 * comes while it is still processing a paste for a newline. On `connect_delay`: what is typed into
 * Codex or Gemini before `ready_re` matches is lost.
 */
const CLIENTS = {
  claude: {
    bin: "claude",
    supports_resume: true,
    start_args: "--session-id {id}",
    resume_args: "--resume {id}",
    prompt_args: "--",
    submit_pause: 0.3,
  },
  opencode: {
    bin: "opencode",
    server: "http://127.0.0.1:4096",
    ready_re: "ctrl\\+p commands",
    submit_key: "C-m",
    submit_pause: 0.5,
  },
  codex: {
    bin: "codex",
    supports_resume: true,
    // else a turn goes on in a daemon after the pane has ended
    start_args: "--no-daemon",
    resume_args: "--no-daemon resume {id}",
    prompt_args: "--",
    connect_delay: 60,
    // the line below its box with model and folder, which wraps in a narrow pane
    ready_re: String.raw`(?m)^  \S.* ·\s+[/~]`,
    // to the end of the screen, and not a menu; an arrow in the first line marks a cut-off draft
    box_re: String.raw`^› (?:.* ↑ *(?<text>(?:\n(?:  .*| ?$))+)(?![^])|(?!\d+\. )(?<text>.*`
      + String.raw`(?:\n(?:  .*| ?$))*?)\n *\n  \S.* ·\s+[/~].*`
      + String.raw`(?:\n(?:  (?! *Browsing\b).*| ?$))*(?![^]))`,
    empty_re: "^Ask Codex",
    submit_pause: 0.3,
  },
  gemini: {
    bin: "gemini",
    supports_resume: true,
    start_args: "--session-id {id}",
    resume_args: "--resume {id}",
    // joined to the prompt in one word: a prompt that begins with "-" would be read as an option
    prompt_args: "--prompt-interactive=",
    connect_delay: 90,
    // the frame of its box, whatever is typed in it
    ready_re: `(?m)^${GEMINI_TOP}\\n [>*] `,
    // the `!` of its shell mode is somebody's draft: what is typed there would be run
    box_re: String.raw`^─{8}.*\n(?:(?![▄▀─]).*\n){1,3}${GEMINI_TOP}\n (?:[>*] +(?! )|(?=! ))`
      + String.raw`(?<text>.*(?:\n(?![▄▀─]).*)*)\n[▀─]{8}.*(?:\n(?:[ ▀].*)?)*(?![^])`,
    // in both modes of /vim a paste and Enter work as ever
    empty_re: "^(?:Type your message|Press '(?:i|Esc)' for )",
    submit_pause: 1,
  },
  typed: {},
} satisfies Record<BackendKind, Raw>;

/** The words of a shell command line, unquoted, after leading `NAME=value` assignments. */
function wordsOf(bin: string): string[] {
  const words = bin.match(/(?:[^\s'"\\]|'[^']*'|"(?:\\.|[^"\\])*"|\\.)+/g) ?? [];
  return words.slice(words.findIndex((one) => !/^\w+=/.test(one)))
    .map((word) => word.replace(/'([^']*)'|"((?:\\.|[^"\\])*)"|\\(.)/g,
      (_, single, double, bare) => single ?? double ?? bare));
}

/** The program of each command line: there are few, and every row of a status asks. */
const programs = new Map<string, string>();
export const programOf = (bin: string): string =>
  programs.getOrInsertComputed(bin, () => wordsOf(bin)[0] ?? "");

/** How to install a client, for the message that it is missing. */
const INSTALL_WITH: Record<string, string> = {
  claude: "npm install -g @anthropic-ai/claude-code",
  opencode: "npm install -g opencode-ai",
  codex: "npm install -g @openai/codex",
  gemini: "npm install -g @google/gemini-cli",
};

/** Compiles a pattern; a leading `(?ims)`, which JavaScript does not know, becomes its flags. */
export function parsePattern(source: string, flags = ""): RegExp {
  const inline = /^\(\?([ims]+)\)/.exec(source);
  const all = new Set([...flags, ...(inline?.[1] ?? "")]);
  return new RegExp(inline ? source.slice(inline[0].length) : source, [...all].join(""));
}

/** Levenshtein distance, for "nearest is …". */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(swap, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}

/** `; nearest is "watch"`, or "" if no word is close. */
export function nearest(word: string, words: Iterable<string>): string {
  const near = [...words]
    .map((other) => ({ other, far: distance(word.toLowerCase(), other.toLowerCase()) }))
    .filter(({ other, far }) => far < Math.max(word.length, other.length) &&
      far <= Math.max(2, other.length / 3))
    .sort((a, b) => a.far - b.far)[0];
  return near ? `; nearest is "${near.other}"` : "";
}

/** A config as it was last split: each table header is over the lines from `at` up to `to`. */
let outline = {
  source: "", lines: [] as string[], heads: [] as { name: string; at: number; to: number }[] };

function outlineOf(source: string): typeof outline {
  if (source === outline.source) return outline; // a file with a thousand faults is split once
  const lines = source.split("\n");
  const names = lines.map((line) => /^\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$/.exec(line)?.[1]
    ?.replace(/["']|\s*(\.)\s*/g, "$1"));
  const heads = names.flatMap((name, at) =>
    name === undefined ? [] : [{ name, at, to: lines.length }]);
  for (const [i, head] of heads.entries()) head.to = heads[i + 1]?.at ?? lines.length;
  return (outline = { source, lines, heads });
}

/** The line (from 1) of a key in the nth table with this header, else of the header; 0 = none. */
export function lineOf(source: string, header: string, nth: number, key: string): number {
  const { lines, heads } = outlineOf(source);
  const bare = RegExp.escape(key.split(".").at(-1)!);
  const opens = new RegExp(`(^\\s*(\\[.*\\.)?|[{,]\\s*)"?${bare}"?\\s*[=.\\]]`);
  // `from`, the line above them, if no line gives the key
  const lineIn = (from: number, to: number): number =>
    from + 1 + lines.slice(from, to).findIndex((line) => opens.test(line));
  if (header === "") {
    const table = heads.find(({ name }) => name.split(".")[0] === key);
    return lineIn(0, heads[0]?.at ?? lines.length) || (table?.at ?? 0) + 1;
  }
  /** In this table or those below it; `undefined` = no line gives the key. */
  const lineUnder = (header: string, nth: number): number | undefined => {
    const named = heads.filter(({ name }) => name === header);
    const [at, end] = [named[nth]?.at ?? lines.length, named[nth + 1]?.at ?? lines.length];
    return heads.filter((head) => head.at >= at && head.at < end &&
      (head.name === header || head.name.startsWith(`${header}.`)))
      .map((head) => [head.at, lineIn(head.at, head.to)]).find(([at, line]) => line! > at!)?.[1];
  };
  const table = heads.filter(({ name }) => name === header)[nth];
  if (!table) {
    // in a value of the table above: `name = { … }`, `name.key = …`, or a list with a row for each
    const [, above = "", name = header] = /^(.*)\.([^.]*)$/.exec(header) ?? [];
    const inline = new RegExp(`^\\s*${RegExp.escape(name)}(?:\\s*=|\\.${bare}\\s*[=.])`);
    const { at, to } = above ? heads.find((head) => head.name === above) ?? { at: 0, to: 0 }
      : { at: 0, to: heads[0]?.at ?? lines.length };
    const from = lines.findIndex((line, i) => i >= at && i < to && inline.test(line));
    if (from < 0) return above ? lineOf(source, above, 0, name) : 0;
    const end = lines.findIndex((line, i) => i >= from && /\]\s*(?:#.*)?$/.test(line));
    const rows = lines.flatMap((line, i) => (i > from && i < end && /^\s*\{/.test(line) ? i : []));
    return (rows[nth] ?? from) + 1;
  }
  const inherited = header === "agent" || header === "service" ? ["defaults"] : [];
  return [header, ...inherited].map((one, at) => lineUnder(one, at ? 0 : nth)).find(Boolean) ??
    table.at + 1;
}

/** The keys of each table with their names in the program; read anew for every unit. */
const namedKeys = new WeakMap<Keys, ReturnType<typeof withNames>>();
const withNames = (keys: Keys) => Object.entries(keys)
  .map(([key, [check, fallback]]) => ({ key, name: camelCase(key), check, fallback }));

/** The tables as a file names them, for who put a key into another one. */
const PLACES = {
  defaults: "[defaults]", watchdog: "[watchdog]", backend: "[backend.NAME]", loop: "[loop]",
  handoff: "[loop.handoff]", notify: "[notify]", agent: "[[agent]]", service: "[[service]]",
} as const;

/** Where a key belongs, as the end of a sentence; "" = nowhere. */
function placeOf(key: string): string {
  const places = Object.entries(PLACES)
    .filter(([name]) => Object.hasOwn(KEYS[name as keyof typeof PLACES], key));
  return places.length ? `; it belongs in ${places.map(([, place]) => place).join(" or ")}` : "";
}

/** Collects every fault of a file instead of stopping at the first. */
class ConfigReader {
  faults: string[] = [];
  warnings: string[] = [];
  /** What reads prompts: once their disks are known to answer. */
  later: (() => void)[] = [];
  constructor(
    readonly path: string,
    readonly source: string,
    readonly wasGood: boolean,
  ) {}

  fault(at: Location, key: string, message: string, list = this.faults): void {
    const line = lineOf(this.source, at.header, at.nth, key);
    list.push(printable([this.path + (line > 0 ? `:${line}` : ""), at.label, key, message]
      .filter(Boolean).join(": ")));
  }

  warning(at: Location, key: string, message: string): void {
    this.fault(at, key, message, this.warnings);
  }

  /**
   * Checks one table against its keys; the result has camelCase keys and every default. `beside`:
   * further keys that may stand in that table.
   */
  read<T extends Keys>(at: Location, raw: object, keys: T, beside: Keys = {}): Table<T> {
    const unknown = Object.keys(raw).filter((key) => !Object.hasOwn(keys, key));
    const words = Object.keys({ ...keys, ...beside });
    for (const key of unknown) {
      this.warning(at, key, `unknown key${placeOf(key) || nearest(key, words)}`);
    }
    const read: Raw = {};
    for (const { key, name, check, fallback } of namedKeys.getOrInsertComputed(keys, withNames)) {
      const value = (raw as Raw)[key];
      const allowed = value === undefined ? null : check(value);
      const kept = allowed === null && value !== undefined ? value : fallback;
      if (kept !== undefined) read[name] = kept;
      if (value === undefined && check.needed) {
        const slip = unknown.find((other) => nearest(other, [key]));
        this.fault(at, key, `missing; it must be ${check(undefined)}` +
          (slip ? ` ("${slip}" is not a key)` : ""));
      }
      if (allowed === null) continue;
      const words = [...allowed.matchAll(/"([^"]+)"/g)].map((match) => match[1]!);
      this.fault(at, key, `${show(value)} is not allowed: ${allowed}` +
        (isText(value) ? nearest(value, words) : ""));
    }
    return read as Table<T>;
  }
}

const camelCase = (key: string): string =>
  key.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
const show = (value: unknown): string => // JSON has no NaN, and leaves what nobody sees as it is
  (typeof value === "number" ? `${value}` : JSON.stringify(value) ?? `${value}`).slice(0, 60)
    .replace(/\p{Cf}/gu, (sign) => `\\u{${sign.codePointAt(0)!.toString(16)}}`);

/**
 * The absolute path of the config for a command: the one it names, else $AGENTS_CONFIG, else the
 * agents.toml in `folder` or above it, as git and compose search, else the one beside the program.
 * One that a watchdog runs on counts even if the file is gone.
 */
export async function cfgPath(
  named = process.env.AGENTS_CONFIG, folder?: string,
): Promise<string> {
  if (named && isAbsolute(named)) return resolve(named);
  const here = resolve(folder ?? tried(() => process.cwd(), null) ??
    die("the folder that you are in was removed: cd to another one", 2));
  if (named) return resolve(here, named);
  const inUse = once(configsInUse);
  for (let at = here; ; at = dirname(at)) {
    const path = join(at, "agents.toml");
    // a link counts wherever it leads: while a disk is away one further up is another fleet's
    if (tried(() => lstatSync(path), null)) {
      if (isOurs(path)) return path;
      log(`${path} belongs to another user and is ignored; name it with --config to use it`);
    } else if (await copyInUse(path, inUse())) {
      return path; // gone while its editor saves it: one further up is another fleet's
    }
    if (dirname(at) === at) return join(SCRIPT_DIR, "agents.toml");
  }
}

/**
 * Whether a config that was found, not named, belongs to us or to root: it runs programs, and
 * anybody can put one into a folder such as /tmp. git checks a repository that it finds likewise.
 */
function isOurs(path: string): boolean {
  const owners = [process.getuid?.() ?? 0, 0, Number(process.env.SUDO_UID)];
  return [lstatSync(path), tried(() => statSync(path), null)]
    .every((one) => !one || owners.includes(one.uid));
}

/** The hash of the agents.toml that ships with the program: unedited, it is nobody's fleet. */
const TEMPLATE = "3qqksgr7w8bxi";

/** smol-toml, installed into the program's folder first where a fresh clone has no packages. */
function tomlParser(): typeof import("smol-toml") {
  // required, it is one file instead of the nine of an import, which take twice as long to load
  const load = () => require("smol-toml") as typeof import("smol-toml");
  try {
    return load();
  } catch {
    const argv = [process.execPath, "install", "--frozen-lockfile", "--production"];
    const done = Bun.spawnSync(argv, { cwd: SCRIPT_DIR, env: childEnv(), timeout: 60_000 });
    if (done.exitCode !== 0) die(`smol-toml is not installed: run "bun install" in ${SCRIPT_DIR}`);
    return load();
  }
}

/** The parser's message; for a string that runs into the end of its line, the real fault. */
function tomlFault({ line, column, message }: TomlError, source: string): string {
  const text = source.split(/\r?\n/)[line - 1] ?? "";
  const slips: [said: string, isMade: boolean, words: string][] = [
    ["control characters are not allowed in strings", text.length < column,
      "a string has no closing quote"],
    ["illegal character in key", /^\s*\[[^\]]*$/.test(text), "a header has no closing bracket"],
    ["illegal character in key", !text.includes("="), "a key has no = behind it"],
    ["invalid value", /^[a-z]/i.test(text.slice(column - 1)), "a string has no quotes"],
  ];
  const made = slips.find(([said, isMade]) => isMade && message.includes(`: ${said}`));
  return made ? message.trimEnd().replace(made[0], made[2]) : message.trimEnd();
}

/**
 * Reads, checks and completes an agents.toml. `env` holds the overrides of a single command
 * (AGENT_MODEL_<name>, AGENT_BACKEND_<name>), none for the watchdog; `known` is the text of the
 * file where it was read already; `wasGood`: that is the copy of one that was good, though a prompt
 * may have gone since. Throws a CliError(2) whose message has one line per fault.
 */
export async function loadConfig(
  path: string, env: Record<string, string | undefined> = {}, known?: string | null,
  wasGood = false,
): Promise<Config> {
  const source = known === undefined ? await readConfig(path) : known;
  if (source === null) {
    const isSaid = process.env.AGENTS_CONFIG && await cfgPath() === path;
    const fault = tried(() => lstatSync(path), null) ? "its link leads to nothing" : "no such file";
    die(`${path}: ${fault} (${isSaid ? "$AGENTS_CONFIG says so; " : ""}` +
      "name one with --config, or make one with init)", 2);
  }
  const { parse, TomlError } = tomlParser();
  let raw: Record<string, unknown>;
  try {
    raw = parse(source);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    die(`${path}:${error.line}:${error.column}: ${tomlFault(error, source)}`, 2);
  }
  const reader = new ConfigReader(path, source, wasGood);
  const unread = source.split("\n").findIndex((line) => line.includes("\ufffd")) + 1;
  if (unread) reader.warnings.push(`${path}:${unread}: not UTF-8, and read as \ufffd`);
  const cfg = buildConfig(reader, raw, env);
  await askPromptDisks(cfg);
  for (const check of reader.later) check();
  if (reader.faults.length) die([...new Set(reader.faults)].join("\n"), 2);
  await readState(cfg);
  return cfg;
}

/** The faults in an error of `loadConfig`; after an empty line it quotes the file. */
const faultsIn = (error: unknown): string[] => messageOf(error).split("\n\n")[0]!.split("\n");

async function readConfig(path: string): Promise<string | null> {
  try {
    return await world.text(path);
  } catch (error) {
    const said = messageOf(error);
    if (error instanceof NoAnswer) die(said, 2);
    const inside = join(path, "agents.toml"); // is there if `path` is the folder of a fleet
    const hint = isThere(inside) ? `; the config in it is ${inside}` : "";
    return die((said.startsWith(path) ? said : `${path}: ${said}`) + hint, 2);
  }
}

type Raw = Record<string, unknown>;

function buildConfig(
  reader: ConfigReader, raw: Raw, env: Record<string, string | undefined>,
) {
  const top = reader.read(ROOT, raw, KEYS[""]);
  const planDir = dirname(reader.path);
  const inherited: Keys = { ...KEYS.agent, ...KEYS.service };
  const at = location("defaults");
  const own = reader.read(at, without(inherited, top.defaults), KEYS.defaults, inherited);
  warnOfUnused(reader, at, top.defaults);
  for (const key of ["name", "session"]) {
    if (key in top.defaults) reader.fault(at, key, "cannot be a default: each needs its own");
  }
  const logDir = absolute(planDir, own.logDir);
  const cfg = {
    ...own,
    path: reader.path,
    source: reader.source,
    planDir,
    logDir,
    stateDir: join(logDir, "state"),
    watchdog: reader.read(location("watchdog"), top.watchdog, KEYS.watchdog),
    backends: readBackends(reader, top.backend),
    agents: new Map<string, Agent>(),
    services: new Map<string, Service>(),
    loop: readLoop(reader, planDir, top.loop),
    notify: reader.read(location("notify"), top.notify, KEYS.notify),
    /** Agents whose model or backend was overridden for this one call. */
    overridden: new Set<string>(),
    warnings: reader.warnings,
    /** The fault of the file on disk, while the last good config stays in force; "" = none. */
    broken: "",
    /** What the state folder said when it was read last. */
    stored: UNREAD,
    /** The mark of this fleet on all that it runs: see `readRoom`. */
    room: "",
  };
  const [ofAgents, ofServices] = [KEYS.agent, KEYS.service].map((keys) => only(keys, top.defaults));
  for (const [nth, raw] of top.agent.entries()) addAgent(reader, cfg, ofAgents!, raw, nth, env);
  for (const [nth, raw] of top.service.entries()) addService(reader, cfg, ofServices!, raw, nth);
  if (!top.agent.length && !top.service.length) {
    const words = ["agent", "service"];
    const slip = Object.keys(raw).find((key) => !Object.hasOwn(KEYS[""], key) &&
      nearest(key, words));
    reader.fault(ROOT, slip ?? "", "it has no [[agent]] and no [[service]]" +
      (slip ? ` ("${slip}" is not a key${nearest(slip, words)})` : ""));
  }
  checkTogether(reader, cfg);
  const [, url = "", secret = ""] = /^(?:json:)?(env:(.*)|[^]*)$/.exec(cfg.notify.url) ?? [];
  // a name with "-" at its start would be an option to tmux
  const isTarget = url.startsWith("env:") ? isVariable(secret) && secret[0] !== "-"
    : cfg.notify.url === "" || isAddress(url) || /^file:./.test(url);
  if (!isTarget) reader.fault(location("notify"), "url", NO_TARGET);
  else if (secret) secretNames.add(secret);
  return cfg;
}

/** The state folder before the first look at it. */
const UNREAD: Stored = { phase: { error: "the state was not read" }, limits: new Map(),
  sshAgent: "" };

/** A table in the file: its header and number to find its line by, and its name for people. */
const location = (header: string, nth = 0, label = `[${header}]`) => ({ label, header, nth });
type Location = ReturnType<typeof location>;
const ROOT = location("", 0, "");
const without = <T extends object, K extends object>(keys: K, all: T): Omit<T, keyof K> =>
  Object.fromEntries(Object.entries(all)
    .filter(([key]) => !Object.hasOwn(keys, key))) as Omit<T, keyof K>;
const only = (keys: object, raw: object): Raw =>
  Object.fromEntries(Object.entries(raw).filter(([key]) => Object.hasOwn(keys, key)));

/** A path in the config: `~/` is the home folder, a relative one starts at the config file. */
const absolute = (base: string, path: string): string =>
  resolve(base, path.replace(/^~(?=\/|$)/, homedir()));

function readBackends(reader: ConfigReader, raw: Raw) {
  const names = new Set<string>([...BUILT_IN, ...Object.keys(raw)]);
  return new Map([...names].map((name) => [name, readBackend(reader, name, raw[name] ?? {})]));
}

/** A backend before its table is applied: by its `kind`, else by a name that is a kind. */
function clientOf(name: string, { kind = name, resume_args: resumes }: Raw): object {
  const known = KINDS.find((one) => one === kind) ?? "typed";
  return { kind: known, ...(resumes === undefined ? {} : { supports_resume: true }),
    ...CLIENTS[known] };
}

function readBackend(reader: ConfigReader, name: string, raw: unknown) {
  const at = location(`backend.${name}`, 0, `backend "${name}"`);
  const allowed = table(raw);
  if (allowed) reader.fault(at, "", `${show(raw)} is not allowed: ${allowed}`);
  if (!isBackendName(name)) {
    reader.fault(at, "", "the name must be 1 to 100 characters on one line, no blank at its ends");
  }
  const given = allowed ? {} : raw as Raw;
  const client: Raw = { ...clientOf(name, given), ...given };
  const near = client.bin === undefined ? nearest(name, BUILT_IN) : "";
  if (near) reader.fault(at, "bin", `missing, and the name is not that of a built-in one${near}`);
  const backend = reader.read(at, near ? { ...client, bin: name } : client, KEYS.backend);
  const part = (key: "rule" | "answer", nth: number): Location =>
    location(`backend.${name}.${key}`, nth, `backend "${name}" ${key} ${nth + 1}`);
  for (const [nth, { where }] of backend.rule.entries()) {
    const around = ["event", "box", "foot", "dialog"].includes(where as string);
    if (around && backend.kind === "typed" && backend.boxRe === undefined) {
      reader.fault(part("rule", nth), "where",
        `${show(where)} needs box_re, which says where the input box stands`);
    }
  }
  if (backend.server && !isAddress(backend.server)) reader.fault(at, "server", NO_ADDRESS);
  const list = <Key extends "rule" | "answer">(key: Key) =>
    backend[key].map((one, nth) => reader.read(part(key, nth), one, KEYS[key]));
  return { ...backend, name, rule: list("rule"), answer: list("answer") };
}

function readLoop(reader: ConfigReader, planDir: string, raw: Raw) {
  const at = location("loop");
  // the keys of [loop.handoff] may also be given in [loop]
  const { handoff, onComplete, ...loop } =
    reader.read(at, without(without(KEYS.loop, KEYS.handoff), raw), KEYS.loop);
  if ("resume_phase" in raw) {
    reader.warning(at, "resume_phase",
      'obsolete, it has no effect once a phase is stored; use "agents phase set"');
  }
  const phases = loop.phases.map((phase, nth) => {
    const label = `phase ${typeof phase.id === "string" ? `"${phase.id}"` : nth + 1}`;
    return reader.read(location("loop.phases", nth, label), phase, KEYS.phase);
  });
  const ids = phases.map((phase) => phase.id);
  for (const id of new Set(ids.filter((id, i) => id !== undefined && ids.indexOf(id) < i))) {
    reader.fault(at, "phases", `two phases have the id "${id}"`);
  }
  for (const key of Object.keys(only(KEYS.handoff, raw))) {
    if (!handoff) reader.warning(at, key, "not used: there is no [loop.handoff]");
    else if (key in handoff) {
      reader.warning(at, key, "not used: it is given in [loop.handoff] too");
    }
  }
  const hand = handoff && reader.read(
    location("loop.handoff"), { ...only(KEYS.handoff, raw), ...handoff }, KEYS.handoff);
  return {
    ...loop, phases,
    handoff: hand && { ...hand, repo: absolute(planDir, hand.repo ?? "") },
    onComplete: onComplete &&
      reader.read(location("loop.on_complete"), onComplete, KEYS.on_complete),
  };
}

/** The table of an agent or service with its defaults, its name, and where it is. */
function unitTable(kind: "agent" | "service", defaults: Raw, raw: Raw, nth: number) {
  const name = typeof raw.name === "string" ? raw.name : "";
  const at = location(kind, nth, `${kind} ${name ? `"${name}"` : nth + 1}`);
  // else a default prompt_file would win over the unit's own prompt
  const own = raw.prompt ? without({ prompt_file: "" }, defaults) : defaults;
  return { name, at, given: { ...own, ...raw } };
}

/** Warns of a prompt in a table where another one counts. */
function warnOfUnused(reader: ConfigReader, at: Location, raw: Raw, kind?: Agent["kind"]): void {
  const unused = ["prompt", "prompt_file"].filter((key) => raw[key]);
  if (kind === "loop") {
    for (const key of unused) {
      reader.warning(at, key, "not used: the prompt of a loop agent is prompts/<role>.md");
    }
  } else if (unused.length > 1) {
    reader.warning(at, "prompt", "not used: prompt_file is given too");
  }
}

/** The value is not shown in these two: it may hold a password. */
const NO_ADDRESS = "it must begin with http:// or https:// and a host";
const NO_TARGET = `${NO_ADDRESS}, or be "env:NAME" or "file:PATH", after "json:" or not`;

/** tmux, the shell of a launch and this program set these, whatever a unit's `env` says. */
const SET_AT_START = ["TMUX_PANE", "PWD", "OLDPWD", "_", UNIT_MARK];

function checkVariables(reader: ConfigReader, at: Location, env: Record<string, string>): void {
  const inEnv = { ...at, label: `${at.label} env` };
  for (const [name, value] of Object.entries<unknown>(env)) {
    const allowed = text(value);
    if (allowed) reader.fault(inEnv, name, `its value is not allowed: ${allowed}`);
    if (!isVariable(name)) {
      reader.fault(inEnv, name,
        `${show(name)} is not allowed: a name that is not empty, without = and control characters`);
    }
    if (SET_AT_START.includes(name)) {
      reader.fault(inEnv, name, "it would be lost: each start sets it anew");
    }
  }
}

const sessionAndDir = (cfg: Config, name: string, unit: { session?: string; dir: string }) => ({
  session: unit.session ?? cfg.sessionPrefix + name, dir: absolute(cfg.planDir, unit.dir) });

function addAgent(
  reader: ConfigReader, cfg: Config, defaults: Raw, raw: Raw, nth: number,
  env: Record<string, string | undefined>,
): void {
  const { name, at, given } = unitTable("agent", defaults, raw, nth);
  const { wake, ...read } = reader.read(at, given, KEYS.agent);
  warnOfUnused(reader, at, raw, read.kind);
  checkVariables(reader, at, read.env);
  const agent: Agent = { ...read, ...sessionAndDir(cfg, name, read) };
  // a shell cannot name a variable with "-": AGENT_MODEL_my_agent is also for "my-agent"
  const override = (what: string) => env[`AGENT_${what}_${name}`] ||
    env[`AGENT_${what}_${name.replaceAll("-", "_")}`];
  const [model, backend] = [override("MODEL"), override("BACKEND")];
  if (model || backend) cfg.overridden.add(name);
  Object.assign(agent, model ? { model } : {}, backend ? { backend } : {});
  if (cfg.agents.has(name)) reader.fault(at, "name", "a second agent with this name");
  if (agent.backend !== undefined && !cfg.backends.has(agent.backend)) {
    const known = [...cfg.backends.keys()];
    reader.fault(at, "backend",
      `unknown backend ${show(agent.backend)}: one of ${known.join(", ")}` +
      nearest(String(agent.backend), known));
  }
  if (wake) agent.wake = reader.read(location("agent", nth, `${at.label} wake`), wake, KEYS.wake);
  if (name) cfg.agents.set(name, agent);
  reader.later.push(() => checkTexts(reader, cfg, agent, at));
}

/** A missing or empty prompt must be found now, not by the watchdog at three in the morning. */
function checkTexts(reader: ConfigReader, cfg: Config, agent: Agent, at: Location): void {
  const wanted: [string, string][] = [["prompt_file", agent.promptFile],
    ["wake.prompt_file", agent.wake?.promptFile ?? ""]];
  if (agent.kind === "loop") {
    if (agent.role) wanted.push(["role", rolePrompt(agent.role)]);
    else {
      reader.fault(at, "role",
        "missing; a loop agent needs one (its prompt is prompts/<role>.md)");
    }
    if (!cfg.loop.phases.length) reader.fault(at, "kind", "a loop agent needs [loop] phases");
  }
  for (const [key, file] of wanted) {
    const fault = file && whyNoText(cfg, file);
    if (fault) reader.fault(at, key, fault, reader.wasGood ? reader.warnings : reader.faults);
  }
}

/** What is wrong with a prompt; "" = nothing. */
function whyNoText(cfg: Config, file: string): string {
  try {
    const value = promptText(cfg, file);
    const what = value === null ? "no such file" : value.trim() ? "" : "an empty file";
    return what && `${what}: ${absolute(cfg.planDir, file)}`;
  } catch (error) {
    return messageOf(error);
  }
}

/** The prompts whose disks did not answer when they were last asked. */
const hungPrompts = new Set<string>();

/** Prompts are read at once: those on a disk that hangs must not be, until it answers again. */
async function askPromptDisks(cfg: Config): Promise<void> {
  const named = [...cfg.agents.values()].flatMap(({ promptFile, wake, role }) =>
    [promptFile, wake?.promptFile ?? "", role && rolePrompt(role)]).filter(Boolean);
  const paths = [PREAMBLE, ...TYPED.map(typedFile), ...named]
    .map((file) => absolute(cfg.planDir, file));
  await Promise.all([...new Set(paths)].map(async (path) =>
    await world.answers(path) ? hungPrompts.delete(path) : hungPrompts.add(path)));
}

/** The texts of `prompts/` that this program types, beside those that the config names. */
const TYPED = ["boot", "continue", "limit-probe", "limit-probe-loop", "claim-ping", "review-ping",
  "inbox-ping", "deadlock-ping"] as const;
const typedFile = (text: typeof TYPED[number]): string => `prompts/${text}.md`;
const rolePrompt = (role: string): string => `prompts/${role}.md`;
const PREAMBLE = "prompts/preamble.md";

/** Dies where one is nowhere, as where agents.ts was copied alone: nothing would be typed. */
function needTexts(cfg: Config): void {
  const isNowhere = (file: string): boolean =>
    !shipped(file)?.trim() && !tried(() => promptText(cfg, file)?.trim(), "");
  if (TYPED.map(typedFile).some(isNowhere)) die(CAME_BARE);
}

function addService(reader: ConfigReader, cfg: Config, defaults: Raw, raw: Raw, nth: number): void {
  const { name, at, given } = unitTable("service", defaults, raw, nth);
  const read = reader.read(at, given, KEYS.service);
  checkVariables(reader, at, read.env);
  if (cfg.services.has(name) || cfg.agents.has(name)) {
    reader.fault(at, "name", "an agent or service has this name already");
  }
  if (name) cfg.services.set(name, { ...read, ...sessionAndDir(cfg, name, read) });
}

/** The faults that only the whole file shows: sessions that collide, names that point nowhere. */
function checkTogether(reader: ConfigReader, cfg: Config): void {
  const sessions = new Map([[watchdogSession(cfg), "the watchdog"]]);
  const all = [...[...cfg.agents.values()].map((one, nth) => ["agent", nth, one] as const),
    ...[...cfg.services.values()].map((one, nth) => ["service", nth, one] as const)];
  const names = all.map(([, , one]) => one.name);
  const needs = new Map(all.map(([, , one]) => [one.name, one.needs]));
  const leadsTo = (from: string, to: string, been = new Set<string>()): boolean =>
    from === to || !!needs.get(from)?.some((next) =>
      !been.has(next) && leadsTo(next, to, been.add(next)));
  for (const [header, nth, one] of all) {
    const at = location(header, nth, `${header} "${one.name}"`);
    if (one.name === "watchdog") reader.fault(at, "name", '"watchdog" is the watchdog\'s own name');
    const taken = sessions.get(one.session);
    if (taken) reader.fault(at, "session", `"${one.session}" is the session of ${taken} too`);
    sessions.set(one.session, at.label);
    for (const need of one.needs.filter((need) => !names.includes(need))) {
      reader.fault(at, "needs", `"${need}" is not an agent or service${nearest(need, names)}`);
    }
    for (const need of one.needs.filter((need) => leadsTo(need, one.name))) {
      reader.fault(at, "needs", `"${need}" needs "${one.name}" in turn: none of them can start`);
    }
  }
  const roles = [...cfg.agents.values()].map(({ role }) => role);
  for (const [nth, { id, models = {} }] of cfg.loop.phases.entries()) {
    for (const role of Object.keys(models).filter((one) => !roles.includes(one))) {
      reader.warning(location("loop.phases", nth, `phase "${id}" models`), role,
        `no agent has this role${nearest(role, roles)}`);
    }
  }
  const run = cfg.loop.onComplete?.run;
  if (run !== undefined && !cfg.agents.has(run)) {
    reader.warning(location("loop.on_complete"), "run",
      `"${run}" is not an agent, and nothing will be started${nearest(run, cfg.agents.keys())}`);
  }
  const targets = cfg.loop.handoff
    ? { claim_pings: cfg.loop.handoff.claimPings, review_pings: cfg.loop.handoff.reviewPings } : {};
  for (const [key, name] of Object.entries(targets)) {
    if (!cfg.agents.has(name)) {
      reader.fault(location("loop.handoff"), key,
        `"${name}" is not an agent${nearest(name, cfg.agents.keys())}`);
    } else if (!cfg.agents.get(name)!.enabled) {
      reader.warning(location("loop.handoff"), key,
        `"${name}" has enabled = false: what it is told waits until you start it`);
    }
  }
}

/** A fleet's name for people: the folder of its config, and its prefix on the tmux server. */
const fleetName = (cfg: Config): string => `${fleetFolder(cfg)} (${cfg.sessionPrefix})`;
const fleetFolder = (cfg: Config): string =>
  dirname(cfg.path).replace(new RegExp(`^${RegExp.escape(homedir())}(?=/|$)`), "~");

const watchdogSession = (cfg: Config): string => `${cfg.sessionPrefix}watchdog`;

/** By agent, its backend without the patterns that were too slow for its screen. */
const reducedBackends = new WeakMap<Config, Map<string, Backend>>();

/** The backend of an agent; the config was checked, so it exists. */
export function backendOf(cfg: Config, agent: Agent): Backend {
  return reducedBackends.get(cfg)?.get(agent.name) ?? cfg.backends.get(agent.backend) ??
    die(`agent ${agent.name}: unknown backend "${agent.backend}"`);
}

/** For commands that write. Other users are kept out: prompts may hold secrets. */
function makeFolders(cfg: Config): void {
  for (const folder of [cfg.stateDir, join(cfg.logDir, "unsure")]) makeFolder(folder, 0o700);
}

const unitsByConfig = new WeakMap<Config, Map<string, Unit>>();
const unitsOf = (cfg: Config): Map<string, Unit> => unitsByConfig.getOrInsertComputed(cfg,
  () => new Map<string, Unit>([...cfg.services, ...cfg.agents]));
const isAgent = (unit: Unit): unit is Agent => "backend" in unit;

// ── logging ─────────────────────────────────────────────────────────────────────
// Diagnostics go to stderr with date and time; the watchdog's also to its log file. Logging never
// throws: error handling calls it, possibly because the disk is full.

/** Characters of a log message: enough for a stack trace. */
const MESSAGE_MAX = 20_000;

/** `routine`: left out while a progress bar on the terminal says as much. */
export function log(message: string, routine = false): void {
  if (routine && barDrawn) return;
  tried(() => world.log(stamped(message)), undefined); // there is no place left to report an error
}

function stamped(message: string): string {
  const clock = dateAndTime(world.now());
  return message.slice(0, MESSAGE_MAX).split("\n")
    .map((line) => `[agents ${clock}] ${printable(line)}`).join("\n");
}

/** ms by which the wall clock may drift from the monotonic one before it counts as a step. */
const CLOCK_STEP = 5_000;

/**
 * A text on one line, without escapes, control and invisible characters (bidi marks, tags). Most
 * texts are plain ASCII, and stay as they are.
 */
export const printable = (value: string): string => (/^[ -~]*$/.test(value) ? value
  : Bun.stripANSI(value).toWellFormed()
    .replace(/[\t-\r\u2028\u2029]/g, " ").replace(/[\p{Cc}\p{Cf}]/gu, ""));

/** The same for a text with lines, tabs and colours of our own. */
const printableText = (value: string): string => value.split(/(\x1b\[[\d;]*m|[\n\t])/)
  .map((part, at) => (at % 2 ? part : printable(part))).join("");

/** A text as lines of this width. */
const wrap = (text: string, width: number, rest?: string): string[] =>
  wrapLine(printable(text), width, rest);

/** Text from outside, such as a commit's subject: one line of at most `max` characters. */
export function plainText(value: string, max: number): string {
  const read = printable(value.slice(0, 20 * max)).replace(/\p{Co}/gu, "")
    .replace(/\s+/g, " ").trim();
  const letters = [...read];
  return letters.length > max ? `${letters.slice(0, max - 1).join("")}…` : read;
}

const hashOf = (value: string, seed?: bigint): string => Bun.hash(value, seed).toString(36);

const shellQuote = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

const quoted = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : shellQuote(word));

const anyOf = (...parts: RegExp[]) =>
  new RegExp(parts.map((part) => part.source).join("|"), parts[0]!.flags);

const newId = (): string => crypto.randomUUID().slice(0, 8);

/** Characters of a commit's subject that are passed on. */
const SUBJECT_MAX = 300;

/** Characters of one field of an event. */
const FIELD_MAX = 500;

/** A field of an event, cut and cleaned: an event is one short line. */
const plainField = (value: unknown): unknown =>
  typeof value === "string" ? plainText(value, FIELD_MAX)
    : Array.isArray(value) ? value.slice(0, 50).map(plainField) : value;

/** Of each log that could not be written, the last text, which is tried again, and why. */
export const unwritten = new Map<string, { text: string; cap: number; why: string }>();

/** Appends to a log, after what it lacks. */
function appendToLog(path: string, text: string, cap: number): void {
  const late = unwritten.get(path)?.text ?? "";
  try {
    world.append(path, late + text, cap);
    unwritten.delete(path);
  } catch (error) {
    unwritten.set(path, { text: text || late, cap, why: messageOf(error) });
    throw error;
  }
}

/** Tries again, as only a write shows that a log can be written; returns why one still cannot. */
function writeLate(): string {
  for (const [path, { cap }] of unwritten) tried(() => appendToLog(path, "", cap), undefined);
  return [...unwritten].map(([path, { why }]) => `${path}: ${why}`).join("; ");
}

/** Appends an event to events.jsonl, and queues it for [notify]; a failed write is only logged. */
function emit(cfg: Config, event: EventName, fields: Record<string, unknown> = {}): void {
  const plain = Object.entries(fields).map(([key, value]) => [key, plainField(value)]);
  const line: AgentEvent = { at: iso(world.now()), event, ...Object.fromEntries(plain) };
  if (notifying && cfg.notify.events.includes(event) && tellsPeople(cfg)) {
    pendingNotices.push(line);
  }
  try {
    // two such files and the rest of the state folder stay under 1 MB
    appendToLog(join(cfg.stateDir, "events.jsonl"), `${JSON.stringify(line)}\n`, 400_000);
  } catch (error) {
    log(`events.jsonl: ${messageOf(error)}`);
  }
}

const tellsPeople = ({ notify }: Config): boolean => Boolean(notify.command || notify.url);

/** The events that people are still to be told of, in order; only the watchdog uses this. */
const pendingNotices: AgentEvent[] = [];
let notifying = false;

let barDrawn = false;

const plural = (number: number, word: string): string =>
  (number ? `${number} ${word}${number > 1 ? "s" : ""}` : "");

/** Joins those parts that say something. */
const joined = (by: string, ...parts: (string | undefined)[]): string =>
  parts.filter(Boolean).join(by);

/** What is said once a trouble is over, by its label; of all others, that it works again. */
const OVER: [RegExp, string][] = [
  [/^stranger (.+)/, "$1: nothing is in the way of its start any more"],
  [/^needs (.+)/, "$1: what it needs is ready"],
  [/^restart (.+)/, "$1: nothing is in the way of its restart any more, or none is due"],
  [/^wake text (.+)/, "$1: its wake text is there again"],
  [/^rows$/, "tmux: all its panes can be read again"],
  [/^tmux$/, "tmux: answering again"],
  [/^git$/, "hand-off: git works again"],
  [/^on_complete$/, "on_complete: nothing waits to be started any more"],
  [/^status file$/, "status file: no longer too large"],
  [/^log_dir$|^tmux_socket$/, "$&: the config names the one in use again"],
  [/^state$/, "state: saved again"],
  [/^state folder$|^operator\.json$|^prompts$/, "$&: readable again"],
  [/^config$|^phase state$/, "$&: valid again"],
  [/^logs$/, "logs: written again"],
  [/^notices$/, "notices: going out again"],
];
const overText = (label: string): string => {
  const name = label.replace(/^guard (?:unit )?/, "");
  const known = OVER.find(([of]) => of.test(name));
  return known ? name.replace(...known) : `${name}: working again`;
};

/** Logs a trouble when it begins, changes and ends; "" = there is none. */
function trouble(watch: Watch, label: string, message: string): void {
  const { errors } = watch.volatile;
  // the usual case: a label that was just made is slow to look up
  if (!message && !Object.keys(errors).length) return;
  if ((errors[label] ?? "") === message) return;
  if (message) {
    errors[label] = message;
    log(message);
    return;
  }
  delete errors[label];
  // the outcome of a message or an answer is logged elsewhere
  if (!/^(message|answer) /.test(label)) log(overText(label));
}

/**
 * Notes the stage of the round, to explain a watchdog that hangs or was killed. It overwrites an
 * open file (`openNote`), which works on a full disk and in a folder that was removed.
 */
let noteStage: (stage: string) => boolean = () => false;

/**
 * Runs one stage; an error in it ends that stage alone, and is logged whenever it changes. `label`
 * is `unit NAME` for what is done for one unit, whose name may be that of another stage.
 */
function guard(watch: Watch, label: string, stage: () => unknown): Promise<void> {
  noteStage(label);
  return attempt(watch, label, stage);
}

/** The same for a step too short to hang, which is not noted as a stage. */
async function attempt(watch: Watch, label: string, stage: () => unknown): Promise<void> {
  trouble(watch, `guard ${label}`, await faultIn(label, stage));
}

/** Runs a stage and returns how it failed; "" = it did not. */
async function faultIn(label: string, stage: () => unknown): Promise<string> {
  try {
    await stage();
    return "";
  } catch (error) {
    return `ERROR: ${label.replace(/^unit /, "")}: ${messageOf(error)}`;
  }
}

// Times and spans in words.

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const UNIT_MS: Record<string, number> = { d: DAY, h: HOUR, m: MINUTE, s: 1000 };
const LONGEST_FIRST = Object.entries(UNIT_MS).map(([unit, length]) => ({ unit, length }));

/** Wall ms, or ISO 8601 as in events; shown in local time. */
type Moment = number | string;

const padded = (numbers: number[]): string[] => numbers.map((n) => String(n).padStart(2, "0"));

/** Such as 2026-11-26. */
const localDate = (at: Moment): string => padded(localParts(at).slice(0, 3)).join("-");

/** Such as 18:29; `length` 8 adds the seconds. */
const clockTime = (at: Moment, length = 5): string =>
  padded(localParts(at).slice(3)).join(":").slice(0, length);

/** To the second; the date is left out where it is that of `today`. */
const dateAndTime = (at: Moment, today?: Moment, length = 8): string =>
  (today !== undefined && localDate(at) === localDate(today) ? "" : `${localDate(at)} `) +
  clockTime(at, length);

/** Whether a time is less than `ms` away, in either direction: a clock may have been set back. */
const isRecent = (at: Moment, ms: number, now = world.now()): boolean =>
  Math.abs(Number(new Date(at)) - now) < ms;

/** To the minute; without the date for times less than 20 hours away. */
const localTime = (at: Moment, now = world.now()): string =>
  (isRecent(at, 20 * HOUR, now) ? clockTime(at) : `${localDate(at)} ${clockTime(at)}`);

/** A text for people: the moments in it, ISO 8601 in UTC, are shown in local time. */
const withLocalTimes = (value: string): string =>
  value.replace(/\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g, (at) => localTime(at));

/** The same with the day of the week, where that is enough to tell the day. */
const dayTime = (ms: number, now = world.now()): string => {
  const hours = (ms - now) / HOUR;
  if (hours < 20 || hours > 6 * 24) return localTime(ms, now);
  return `${new Date(localDate(ms)).toUTCString().slice(0, 3)} ${clockTime(ms)}`;
};

const iso = (ms: number): string => new Date(ms).toISOString();
const isoOrNone = (ms: number | null | undefined): string => (ms ? iso(ms) : "");

// Spans are ms.

/** In whole minutes, or seconds below that: 40 s, 5 min. */
const minutes = (ms: number): string => {
  const s = Math.round(ms / 1000);
  return s >= 60 ? `${Math.round(s / 60)} min` : `${s} s`;
};

/** In the largest unit alone: 59s, 3m, 2h, 4d. */
const ago = (ms: number): string => {
  const span = 1000 * Math.max(0, Math.round(ms / 1000));
  const { unit, length } = LONGEST_FIRST.find((one) => span >= one.length) ?? LONGEST_FIRST.at(-1)!;
  return `${Math.floor(span / length)}${unit}`;
};

const ageOf = (at: Moment, now: number): string => ago(now - Number(new Date(at)));

/** For tables: 0.6s, 12s, 45m, 7h05m; a dash for none. */
function spanText(ms: number): string {
  if (ms < MINUTE) return ms <= 0 ? "-" : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)}s`;
  const all = Math.round(ms / MINUTE);
  return all < 60 ? `${all}m` : `${Math.floor(all / 60)}h${String(all % 60).padStart(2, "0")}m`;
}

// ── processes and locks ─────────────────────────────────────────────────────────
// What runs on this machine, what belongs to which client, and who may act: one watchdog per state
// folder, by a lock that dies with its holder, even on kill -9.

/** HUP at once, TERM after 5 s, KILL after 10 s (s6, overmind: 5 s), to the whole family. */
export function decideStop(ageMs: number): NodeJS.Signals {
  return ageMs < 5_000 ? "SIGHUP" : ageMs < 10_000 ? "SIGTERM" : "SIGKILL";
}

/** ms after SIGKILL. What still runs then hangs in the kernel or is not ours: call a person. */
const KILLED_BY = 2_000;
const cannotEnd = (members: Member[]): string =>
  `cannot be ended: pid ${members.map(({ pid }) => Math.abs(pid)).join(", ")}`;

/**
 * When a process began, in clock ticks since boot, to tell a reused pid from the old one. "" = no
 * such process; "dead" = a zombie (in many containers nobody reaps them).
 */
function bornOf(pid: number): string {
  const { state, born = "" } = statOf(pid);
  return state === "Z" ? "dead" : born;
}

/** What /proc/<pid>/stat says of a process, after its name; the state "" = no such process. */
function statOf(pid: number | string) {
  const stat = readProc(`${pid}/stat`);
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0]!, parent: fields[1], group: fields[2], front: fields[5],
    born: fields[19] };
}

/** A file of /proc; "" = there is none. */
const readProc = (path: string): string => textNow(`/proc/${path}`);

/** Whether the system has a /proc to tell of its processes. */
const hasProc = (): boolean => statOf("self").state !== "";

/** The pids of all processes, and of all but this one; [] without /proc. */
const allPids = (): number[] => world.list("/proc").map(Number).filter((pid) => pid > 0);
const otherPids = (): number[] => allPids().filter((pid) => isPid(pid) && pid !== process.pid);

/** The command line of a process; [""] = there is none. */
const argvOf = (pid: number): string[] =>
  readProc(`${pid}/cmdline`).replace(/\0+$/, "").split("\0");

/** What follows an option in a command line; undefined = it is not there. */
const optionIn = (argv: string[], option: string): string | undefined =>
  argv[argv.indexOf(option) + 1 || argv.length];

/** A file that is read without waiting: of /proc, or of a lock. "" = none that can be read. */
const textNow = (path: string): string => tried(() => world.read(path) ?? "", "");

/**
 * Every process but this one, with the mark of its launch, "" = none or another user's; null =
 * there is no /proc. Takes 50 ms for 1,000 of them, half of that where few marks are `wanted`.
 */
function listProcesses(wanted: (mark: string) => boolean = () => true) {
  if (!hasProc()) return null;
  return otherPids().flatMap((pid) => {
    const mark = variableOf(pid, UNIT_MARK);
    if (!wanted(mark)) return [];
    const { state, group, born = "" } = statOf(pid);
    return ["", "Z", "X"].includes(state) ? [] : [{ pid, born, group: Number(group), mark }];
  });
}

/** A variable of an environment as /proc shows it; "" = it is not set. */
function variableIn(environ: string, name: string): string {
  const all = `\0${environ}\0`;
  const at = all.indexOf(`\0${name}=`);
  return at < 0 ? "" : all.slice(at + name.length + 2, all.indexOf("\0", at + 1));
}

/** A variable of the environment that a process was started with; "" = not set, or hidden. */
const variableOf = (pid: number, name: string): string =>
  variableIn(readProc(`${pid}/environ`), name);

/** The start of every mark of a unit; the id of the launch follows. */
const marksOf = (cfg: Config, name: string): string => `${cfg.room}/${name}/`;

/**
 * A client and everything that it started: whatever is in these groups or has these marks, but for
 * what has the mark of another `room`: a copy of that fleet's folder remembers its groups.
 */
interface Family {
  room: string;
  groups: Group[];
  marks: string[];
}

/** A process of a family; without /proc a whole group, as a negative pid. */
interface Member extends Group {
  /** In the client's own group, which gets its SIGHUP when the pane ends. */
  grouped: boolean;
}

/** The family of a unit at this moment; later launches, with marks of their own, are not in it. */
function familyOf(
  cfg: Config, name: string, groups: (Group | null | undefined)[], all = listProcesses(),
): Family {
  const own = marksOf(cfg, name);
  const marks = (all ?? []).map(({ mark }) => mark).filter((mark) => mark.startsWith(own));
  return { room: cfg.room, groups: groups.filter((group) => group != null),
    marks: [...new Set(marks)] };
}

/** Groups known by their pid alone, which may have been reused. */
const doubtful = new WeakSet<Group>();

/** Whether the pid of a group has not been reused. */
function isSameGroup(group: Group): boolean {
  const { pid, born } = group;
  const now = bornOf(pid);
  return isPid(pid) && !doubtful.has(group) && (now === "" || now === "dead" || now === born);
}

function membersOf({ room, groups, marks }: Family, all = listProcesses()): Member[] {
  const same = groups.filter(isSameGroup);
  if (!all) {
    return same.filter(({ pid }) => world.signal(-pid, 0))
      .map(({ pid, born }) => ({ pid: -pid, born, grouped: true }));
  }
  const found = all.map(({ pid, born, group, mark }) =>
    ({ pid, born, mark, grouped: same.some((one) => one.pid === group) }));
  const isOurs = (mark: string) => mark === "" || mark.startsWith(`${room}/`);
  return found.filter(({ mark, grouped }) => (grouped && isOurs(mark)) || marks.includes(mark));
}

const stillRuns = ({ pid, born }: Member): boolean =>
  (pid < 0 ? world.signal(pid, 0) : bornOf(pid) === born);

function signalAll(members: Member[], signal: NodeJS.Signals): void {
  for (const { pid, grouped } of members) {
    if (signal !== "SIGHUP" || !grouped) world.signal(pid, signal);
  }
}

/** The process group of a pane's client; "dead" if it has ended, as its pid may be reused. */
const groupOf = (pane: Pane): Group =>
  ({ pid: pane.pid, born: pane.dead ? "dead" : bornOf(pane.pid) || "dead" });

/** This process's pid and birth, so that a later process with the pid is not taken for it. */
const signature = (): string => `${process.pid} ${bornOf(process.pid)}`;

/** Characters; each note is padded to this width, so that it covers a longer one. */
const STAGE_WIDTH = 160;
const RESTING = "resting";

/** Opens the note of a watchdog or keeper; the returned function writes it, false = it failed. */
export function openNote(path: string): (stage: string) => boolean {
  let file: number | null = null;
  return (stage) => tried(() => {
    if (file === null) setAside(path);
    file ??= openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NONBLOCK, 0o600);
    writeSync(file, `${process.pid} ${Date.now()} ${stage}`.slice(0, STAGE_WIDTH)
      .padEnd(STAGE_WIDTH).concat("\n"), 0);
    return true;
  }, false); // the note only helps to explain a failure
}

/** A stage note: whose pid, when (wall ms) and which stage; null = it cannot be read. */
export function readNote(path: string): { pid: number; at: number; stage: string } | null {
  const [, pid, at, stage] = /^(\d+) (\d+) (.*?) *$/m.exec(textNow(path)) ?? [];
  return stage === undefined ? null : { pid: Number(pid), at: Number(at), stage };
}

const noteFile = (cfg: Config, what: keyof typeof KEPT): string =>
  join(cfg.stateDir, `${what}.stage`);

type LockName = keyof typeof KEPT | "operator" | "hand";
const lockFile = (cfg: Config, what: LockName): string => join(cfg.stateDir, `${what}.lock`);

/** A lock that exists can be taken even on a disk that became read-only. */
function openToLock(path: string): number {
  try {
    const file = openSync(path, "a+", 0o600);
    passToOwner(path);
    return file;
  } catch (error) {
    if (errorCode(error) !== "EROFS") throw error;
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  }
}

/** Takes a lock, for as long as the returned descriptor is open; null = another process has it. */
export function flock(path: string): number | null {
  setAside(path);
  const file = openToLock(path);
  if (lockOpen(file)) return file;
  closeSync(file);
  return null;
}

/**
 * Whether any process holds a lock, even one that could not write its pid. A lock that is not there
 * is held by nobody; `otherwise` is the answer for one that cannot be opened. Those who ask do not
 * hold it against each other.
 */
function isLocked(path: string, otherwise = true): boolean {
  try {
    return withFile(path, constants.O_RDONLY, (file) => !lockOpen(file, true));
  } catch (error) {
    return !isAbsent(error) && otherwise;
  }
}

/** Takes a lock for the life of this process; null = it was not free for `patience` ms. */
export async function takeLock(path: string, patience = 300): Promise<number | null> {
  for (const end = world.mono() + patience; world.mono() < end; ) {
    const file = flock(path);
    if (file !== null) {
      try {
        await writePid(path);
      } catch (error) {
        log(`${pidFile(path)}: ${messageOf(error)}`); // on a full disk: the lock itself holds
      }
      return file;
    }
    await world.sleep(30);
  }
  return null;
}

const freeLock = (lock: number): void => closeSync(lock);

/**
 * The lock if it is still ours, taken again if its file was removed; null = another process has it.
 * While the folder is missing the old lock is kept: nobody else can take it then.
 */
export async function keepLock(
  cfg: Config, path: string, lock: number, report: (why: string) => void = () => {},
): Promise<number | null> {
  try {
    if (!isStillAt(path, lock)) {
      makeFolders(cfg);
      const taken = await takeLock(path);
      if (taken !== null) closeSync(lock);
      return taken;
    }
    await writePid(path);
    report("");
  } catch (error) {
    report(`${cfg.stateDir}: ${messageOf(error)}; continuing from memory`);
  }
  return lock;
}

/** Writes down who holds a lock, unless that is on disk already. */
async function writePid(path: string): Promise<void> {
  const pid = signature();
  if (textNow(pidFile(path)) !== pid) await world.writeAtomic(pidFile(path), pid);
}

/** Beside a lock: the pid of its holder, written once, as it takes the lock. */
const pidFile = (lock: string): string => `${lock}.pid`;

/** A file's text; "" = there is none, or nobody can read it. A disk that does not answer throws. */
const textIn = (path: string): Promise<string> =>
  world.text(path).then((text) => text ?? "", (error) => {
    if (error instanceof NoAnswer) throw error;
    return "";
  });

/** Whether a lock is there and nobody has it: what is written beside it came with a copy. */
const isFree = (path: string): boolean =>
  tried(() => withFile(path, constants.O_RDONLY, (file) => lockOpen(file, true)), false);

/** Whether a process has the lock of another folder, of which this folder is a copy. */
function hasAnother(pid: number, path: string): boolean {
  const isOther = (one: string) => tried(() => {
    const [theirs, ours] = [statSync(one), statSync(path)];
    return theirs.dev !== ours.dev || theirs.ino !== ours.ino;
  }, false);
  const locks = world.opened(pid).filter((one) => basename(one) === basename(path));
  return locks.length > 0 && locks.every(isOther);
}

/**
 * The pid that holds a lock, if it is still the process that took it; null = nobody, or one that
 * could not write its pid. Where no /proc tells it from a later process with its number, the lock
 * itself shows that somebody has it.
 */
export function lockHolder(path: string): number | null {
  const [pid, born] = textNow(pidFile(path)).split(" ");
  return isPid(Number(pid)) && world.signal(Number(pid), 0) &&
    (born ? bornOf(Number(pid)) === born && !isFree(path) && !hasAnother(Number(pid), path)
      : isLocked(path)) ? Number(pid) : null;
}

const holderOf = (cfg: Config, what: LockName): number | null => lockHolder(lockFile(cfg, what));

/** The holder, in a message: on a full disk its pid is not known. */
const byPid = (pid: number | null): string => (pid === null ? "" : ` (pid ${pid})`);

/** Whether any process has this lock, whether or not it could write its pid beside it. */
const isHeldBySomebody = (cfg: Config, what: LockName): boolean =>
  holderOf(cfg, what) !== null || isLocked(lockFile(cfg, what));

/**
 * Where a fleet is, for people, and for what an older version marked: its state folder, with the
 * links in the path of the config resolved. A link in the place of log_dir is not, as a person may
 * move that folder while the fleet runs.
 */
function homeOf(cfg: Config): string {
  const { planDir, stateDir } = cfg;
  return printable(
    isInside(cfg) ? linkless(planDir) + stateDir.slice(planDir.length) : stateDir);
}

/** Whether the state folder is in that of the config, and moves with it. */
const isInside = ({ planDir, stateDir }: Config): boolean => stateDir.startsWith(`${planDir}/`);

/**
 * By what a state folder is known again, wherever it is by now: the config's folder and the way
 * from there, or the state folder itself. A copy has neither. In its old place the number of the
 * file is enough: many disks have another device number each time that they are mounted.
 */
function placesOf(cfg: Config): string[] {
  const { planDir, stateDir } = cfg;
  const folder = isInside(cfg) && world.folderId(planDir);
  const state = world.folderId(stateDir);
  return [folder ? folder + stateDir.slice(planDir.length) : homeOf(cfg), state,
    state && `${homeOf(cfg)} ${state.split(":")[1]}`].filter(Boolean);
}

/** The mark of a fleet to an older version, which knew it by the path of its state folder alone. */
const roomOf = (home: string): string => hashOf(home).slice(0, 6);

const roomFile = (stateDir: string): string => join(stateDir, "fleet");

/** What is stored of the mark; "" = damaged, null = nothing. Throws where it cannot be read. */
const storedRoom = ({ stateDir }: Config): Promise<string | null> =>
  world.text(roomFile(stateDir)).catch((error) => {
    if (isUnread(error)) throw error;
    return "";
  });

/** Stores the mark of this fleet, before anything is started with it. */
async function storeRoom(cfg: Config): Promise<void> {
  const text = [cfg.room, ...placesOf(cfg), ""].join("\n");
  if (await storedRoom(cfg) !== text) await world.writeAtomic(roomFile(cfg.stateDir), text);
}

/**
 * Where the folder of this config is by now, as the lock shows that a process has open in it, and
 * the mark beside that: log_dir alone may be moved, too. "" = at its path, or not known.
 */
async function movedTo(cfg: Config, pid: number): Promise<string> {
  const way = cfg.stateDir.slice(cfg.planDir.length);
  const folders = !isInside(cfg) ? [] : world.opened(pid).filter((path) =>
    path.endsWith(".lock") && dirname(path).endsWith(way));
  const here = ["", world.folderId(cfg.planDir)];
  for (const folder of folders.map((path) => dirname(path).slice(0, -way.length))) {
    const id = world.folderId(folder);
    const marks = here.includes(id) ? "" : await textIn(roomFile(folder + way)).catch(() => "");
    if (marks.split("\n").includes(id + way)) return folder;
  }
  return "";
}

/** The arguments by which keeper and watchdog start, and recognise, each other. */
const KEPT = { watchdog: ["watchdog", "--kept"], keeper: ["keep", "--last-good"] } as const;

/** The user of a process; undefined = there is none, or no /proc. */
const userOf = (pid: number | string): string | undefined =>
  /^Uid:\s*(\d+)/m.exec(readProc(`${pid}/status`))?.[1];

/**
 * Whether a process is our user's and sees the same files: in a container the same path may be
 * another file, and another user's fleet keeps its state elsewhere.
 */
function sharesOurFiles(pid: number): boolean {
  const mounts = (of: number | string) => readProc(`${of}/mountinfo`);
  return userOf(pid) !== undefined && userOf(pid) === userOf("self") &&
    mounts(pid) !== "" && mounts(pid) === mounts("self");
}

/** The pids of the watchdogs or keepers of this config, lock or not; [] without /proc. */
export async function supervisorsOf(
  cfg: Config, ...what: (keyof typeof KEPT)[]
): Promise<number[]> {
  const found = allPids().map(async (pid) => {
    const argv = argvOf(pid);
    const isOne = what.some((one) => optionIn(argv, KEPT[one][0]) === KEPT[one][1]);
    if (!isOne || !sharesOurFiles(pid)) return [];
    const isOurs = await isSameFleet(configOf(pid), cfg.path);
    return isOurs && !(await movedTo(cfg, pid)) ? [pid] : [];
  });
  return (await Promise.all(found)).flat();
}

/** The config that a process names in its command line; "" = none. */
function configOf(pid: number): string {
  const path = optionIn(argvOf(pid), "--config");
  return path ? resolve(world.folder(pid), path) : "";
}

/** The configs that watchdogs and keepers of ours name, with their last good copies. */
function configsInUse(): Map<string, string> {
  return new Map(allPids().flatMap((pid): [string, string][] => {
    const argv = argvOf(pid);
    const [copy, path] = [optionIn(argv, "--last-good"), configOf(pid)];
    return copy && path && sharesOurFiles(pid) ? [[path, copy]] : [];
  }));
}

/** The last good copy of a config that a watchdog or keeper runs on; undefined = none does. */
async function copyInUse(path: string, inUse = configsInUse()): Promise<string | undefined> {
  for (const [one, copy] of inUse) if (await isSameFleet(one, path)) return copy;
}

// ── tmux ────────────────────────────────────────────────────────────────────────
// ALWAYS an exact target. tmux matches a bare "-t fleet-assistant" by prefix and glob, so it would
// capture or kill "fleet-assistant3" (bug found 2026-06-13). "=name" means that session alone; a
// known pane is addressed by its id "%n", as "=name:" is whatever window a person has opened.

export const targetSession = (session: string): string => `=${session}`;
export const targetPane = (session: string): string => `=${session}:`;

/** Ends one command of several; it is no argument that anybody could give. */
const THEN = "\0";

/** One tmux client, on the configured socket; an argument ending in `;` would end the command. */
function tmux(cfg: Config, args: string[], stdin?: string, take?: OnChunk): Promise<ExecResult> {
  const socket = cfg.tmuxSocket ? ["-L", cfg.tmuxSocket] : [];
  const escaped = args.map((arg) => (arg === THEN ? ";" : arg.replace(/;$/, "\\;")));
  return world.tmux([...socket, ...escaped], stdin, take);
}

const isOne = (value: string): boolean => value === "1";
const numberOrNull = (value: string): number | null => (value === "" ? null : Number(value));
const inMs = (value: string): number => Math.round(Number(value) * 1000);

/**
 * A pane by its fields: what tmux is asked for, and how the answer is read. Marks are `@agents_…`
 * options that we set at launch; an option that is not set is "". Free text comes last.
 */
const PANE_FIELDS = {
  sessionId: ["#{session_id}", String],
  id: ["#{pane_id}", String],
  pid: ["#{pane_pid}", Number],
  dead: ["#{pane_dead}", isOne],
  status: ["#{pane_dead_status}", numberOrNull],
  signal: ["#{pane_dead_signal}", numberOrNull],
  piped: ["#{pane_pipe}", isOne],
  /** A person has turned its input off: what is typed into it is dropped. */
  inputOff: ["#{pane_input_off}", isOne],
  /** Wall ms at which its client was started. */
  created: ["#{?@agents_started,#{@agents_started},#{session_created}}", inMs],
  /** Wall ms, to the second, of the last drawing in its window; 0 = not known. */
  activity: ["#{window_activity}", inMs],
  /** Columns and rows: a resize redraws the screen. */
  size: ["#{pane_width}x#{pane_height}", String],
  /** Mark: the session that it was made as, then its unit's; "" = the pane is not ours. */
  session: ["#{@agents_session}", String],
  /** Mark: the backend that it was started with. */
  backend: ["#{@agents_backend}", String],
  /** Mark: the phase that it was started in. */
  phase: ["#{@agents_phase}", String],
  /** Mark: what it was started for, such as a phase move. */
  cause: ["#{@agents_cause}", String],
  /** Mark: the id of the client's conversation on its server (opencode). */
  conversation: ["#{@agents_conversation}", String],
  /** Mark: the model that it was started with, "default" = its own choice; "" = not known. */
  model: ["#{@agents_model}", String],
  /** Mark: the state folder of the fleet that made it; "" = made by hand, or by the original. */
  home: ["#{@agents_home}", String],
  /** Mark: the `room` of that fleet; "" = an older version made it. */
  fleet: ["#{@agents_fleet}", String],
  /** Mark of its session: the same; "" = we did not make the session. */
  room: ["#{@agents_room}", String],
  /** Mark: the unit that it was made for, in whatever session; "" = an older version made it. */
  unit: ["#{@agents_unit}", String],
  /** Mark: the pid that we started in it; any other pid is a person's. 0 = not known. */
  startedPid: ["#{@agents_pid}", Number],
  /** The tmux server: its pid and when it began; "" = there is none. */
  server: ["#{pid} #{start_time}", String],
  /** The session it is in now; people may have moved it. */
  sessionName: ["#{session_name}", String],
  /** The program in the foreground, which may set it to anything; read only without our mark. */
  command: ["#{?@agents_session,,#{pane_current_command}}", String],
  title: ["#{pane_title}", String],
} satisfies Record<string, [format: string, read: (value: string) => unknown]>;
const PANE_COLUMNS = Object.entries(PANE_FIELDS)
  .map(([key, [format, read]]) => ({ key, format, read }));
const PANE_FORMAT = PANE_COLUMNS.map(({ format }) => format).join("\t");

/** Parses a row of `list-panes -F PANE_FORMAT`; null = its fields cannot be told for certain. */
export function parsePane(row: string): Pane | null {
  const values = row.split("\t");
  if (values.length !== PANE_COLUMNS.length || !/^\$\d+\t%\d+\t\d+\t[01]\t/.test(row) ||
    /[\x00-\x08\x0a-\x1f\x7f]/.test(row)) return null;
  const pane: Raw = {};
  let at = 0;
  for (const { key, read } of PANE_COLUMNS) pane[key] = read(values[at++]!);
  return pane as Pane;
}

/**
 * The panes with our mark, by the session that each was made as, wherever they are now. A pane
 * linked into several sessions has a row in each: the row in a session of ours counts.
 */
export function ownPanes(panes: Pane[], room = ""): Map<string, Pane> {
  const own = new Map<string, Pane>();
  // a live pane first, then one in a session that we made, then one under its own name
  const rank = (pane: Pane) => (pane.dead ? 0 : 4) + (pane.room === room ? 2 : 0) +
    (pane.sessionName === pane.session ? 1 : 0);
  for (const pane of panes) {
    const other = own.get(pane.session);
    if (pane.session && (!other || rank(pane) > rank(other))) own.set(pane.session, pane);
  }
  for (const there of Map.groupBy(panes, (pane) => pane.sessionId).values()) {
    // somebody else's session that holds nothing but panes of ours would end with them
    const isOurs = there.some((pane) => pane.room === room || pane.sessionName === pane.session);
    if (isOurs || there.some((pane) => !pane.session)) continue;
    for (const { session, id } of there) {
      if (own.get(session)!.id === id) own.get(session)!.pinned = true;
    }
  }
  return own;
}

/**
 * Tells by a command line whether an unmarked session, started by the original or by hand, runs the
 * program of a unit; without a unit, whether it runs the watchdog.
 */
function claimOf(cfg: Config, unit: Unit | undefined): (argv: string[]) => boolean {
  if (!unit) return isWatchdog;
  if (!isAgent(unit)) {
    return (argv) => argv.includes(unit.command) || isCallOf(wordsOf(unit.command), argv);
  }
  const clients = [...cfg.backends.values()].map((backend) => wordsOf(backend.bin));
  return (argv) => clients.some((words) => isCallOf(words, argv));
}

/** Whether a command line is a watchdog, of the original or of this program. */
export const isWatchdog = (argv: string[]): boolean => argv.some((word, at) =>
  /^agents(\.(py|ts))?$/.test(basename(word)) && argv[at + 1] === "watchdog");

const INTERPRETER = /^(node|bun|deno|npx|python[\d.]*|ruby|env|bash|sh)$/;

/** Whether `argv` runs the program `words`, directly or by an interpreter. */
export function isCallOf(words: string[], argv: string[]): boolean {
  const [program = "", ...rest] = words;
  const named = (word = "") => program !== "" && basename(word) === basename(program);
  if (INTERPRETER.test(basename(program))) {
    return rest.length > 0 && named(argv[0]) && rest.every((word, at) => argv[at + 1] === word);
  }
  return named(argv[0]) || (INTERPRETER.test(basename(argv[0] ?? "")) && named(argv[1]));
}

/** The most processes of one pane that are looked at. */
const TREE_MAX = 50;

/** The processes of a pane, its own first; without /proc only that one. */
function pidsIn(pane: Pane): number[] {
  const pids = [pane.pid];
  for (let at = 0; at < pids.length && at < TREE_MAX; at++) {
    const born = readProc(`${pids[at]}/task/${pids[at]}/children`).split(" ").filter(Boolean);
    pids.push(...born.map(Number));
  }
  return pids.slice(0, TREE_MAX);
}

/** The command lines of a pane's processes; without /proc only the name that tmux gives. */
const processesIn = (pane: Pane): string[][] =>
  (hasProc() ? pidsIn(pane).map(argvOf) : [[pane.command]]);

/** How a person calls the tmux server of this fleet. */
const tmuxByHand = ({ tmuxSocket }: Config): string =>
  `tmux${tmuxSocket ? ` -L ${tmuxSocket}` : ""}`;

/** How tmux says that it has no server, or no session: any other failure says nothing of them. */
const NO_TMUX_SERVER = /no server running|\(No such file or directory\)/;
const NO_TMUX_SESSION = /no current target/;
const runsNothing = ({ err }: ExecResult): boolean =>
  NO_TMUX_SERVER.test(err) || NO_TMUX_SESSION.test(err);
/** How it says that its server ended while it was asked: the next question tells what is there. */
const ENDED_MEANWHILE = /^(?:server exited|lost server)/;

/** One look at everything that runs. "No server" means nothing does; a timeout means nothing. */
export async function snapshot(cfg: Config, first = true): Promise<Snapshot> {
  // random, so that no program can forge a row with its title
  const mark = `@${newId()} `;
  const askedAt = world.now();
  const ran = await tmux(cfg, ["list-panes", "-a", "-F", mark + PANE_FORMAT]);
  if (first && !ran.ok && ENDED_MEANWHILE.test(ran.err)) return snapshot(cfg, false);
  if (!ran.ok && !runsNothing(ran)) {
    return { ok: false, why: ran.err || "tmux did not answer", server: "", refused: 0,
      ...sortPanes(cfg, []) };
  }
  const rows = ran.ok ? ran.out.split(mark).slice(1) : [];
  // a hook of the operator may print lines of its own after a row
  const panes = rows.map((row) => parsePane(row.split("\n", 1)[0]!))
    .filter((pane) => pane !== null);
  for (const pane of panes) pane.askedAt = askedAt;
  // tmux 3.3 may take seconds to collect an exit status; the end of another child makes it hurry
  if (first && panes.some((pane) =>
    pane.dead && pane.status === null && bornOf(pane.pid) === "dead")) {
    await tmux(cfg, ["run-shell", "true"]);
    return snapshot(cfg, false);
  }
  // a server may be there without a pane (exit-empty off)
  const server = panes[0]?.server ?? (NO_TMUX_SERVER.test(ran.err) ? ""
    : (await tmux(cfg, ["display-message", "-p", PANE_FIELDS.server[0]])).out.trim());
  return { ok: true, why: "", server, refused: rows.length - panes.length,
    ...sortPanes(cfg, panes) };
}

const NO_TMUX = "tmux was not found: install it (apt-get install tmux, brew install tmux)";
/** Whether a program that failed is not there at all; one that is there may fail in any words. */
const isMissing = (program: "tmux" | "git"): boolean =>
  Bun.which(program, { PATH: process.env.PATH ?? "" }) === null;

/** A look, for whoever can do nothing without it. */
function usable(snap: Snapshot): Snapshot {
  if (snap.ok) return snap;
  throw new NoAnswer(isMissing("tmux") ? NO_TMUX : `tmux: ${snap.why}`);
}

/** Sorts panes into ours, those of other fleets, and the sessions of people. */
function sortPanes(cfg: Config, panes: Pane[]) {
  const { room } = cfg;
  // older versions marked a pane by paths alone, some with the target of a log_dir that is a link
  const homes = once(() => [homeOf(cfg), printable(linkless(cfg.stateDir))]);
  const isOurs = ({ home, fleet }: Pane) =>
    home === "" || (fleet ? fleet === room : homes().includes(home) || roomOf(home) === room);
  const foreign = panes.filter((pane) => !isOurs(pane));
  // a client stays its unit's where the config names another session by now
  for (const pane of panes.filter((one) => one.home && isOurs(one))) {
    pane.session = unitsOf(cfg).get(pane.unit)?.session ?? pane.session;
  }
  const own = ownPanes(panes.filter((pane) => !foreign.includes(pane)), room);
  const sessions = Map.groupBy(panes, (pane) => pane.sessionName);
  const units = new Map([...unitsOf(cfg).values()].map((unit) => [unit.session, unit]));
  for (const [session, there] of sessions) {
    const named = units.has(session) || session === watchdogSession(cfg);
    if (!named || own.has(session) || there.some((pane) => pane.session || pane.room)) continue;
    const claim = claimOf(cfg, units.get(session));
    const pane = there.find((one) => !one.dead && processesIn(one).some(claim));
    if (pane) own.set(session, pane);
  }
  const mine = new Set([...own.values()].map((pane) => pane.id));
  const others = [...sessions].filter(([name, there]) => !there.some(({ id, room: of }) =>
    mine.has(id) || of === room) && !foreign.some((pane) => pane.sessionName === name));
  return {
    /** Our panes, by the session of the unit that each was made for. */
    panes: own,
    /** The panes of other fleets. */
    foreign,
    /** The sessions without a pane of ours, by name, with the program in each. */
    strangers: new Map(others.map(([name, there]) =>
      [name, there[0]!.dead ? "a program that has ended" : there[0]!.command || "something"])),
    /** The sessions of ours in which a person has opened a window or pane, by name. */
    rooms: new Set(panes.filter(({ room: of, sessionName, id }) =>
      of === room && own.get(sessionName)?.id !== id).map((pane) => pane.sessionName)),
  };
}

/** null = could not look; a pane whose program has ended counts as not alive. */
export function sessionAlive(snap: Snapshot, session: string): boolean | null {
  if (!snap.ok) return null;
  const pane = snap.panes.get(session);
  return pane !== undefined && !pane.dead;
}

/** The program in front; known only of a pane without our mark. */
export function sessionCommand(snap: Snapshot, session: string): string {
  return snap.panes.get(session)?.command ?? "";
}

/**
 * Ends our pane; its session goes with its last pane. The pid must match, as a restarted tmux
 * server gives out the same ids again. false = the pane may stay, because it is pinned or tmux did
 * not answer: its client was told to end.
 */
export async function killSession(cfg: Config, pane: Pane): Promise<boolean> {
  if (!pane.pinned && await killPane(cfg, pane)) return true;
  if (!pane.dead) world.signal(-pane.pid, "SIGHUP");
  return false;
}

async function killPane(cfg: Config, { id, pid }: { id: string; pid: number }): Promise<boolean> {
  const ran = await tmux(cfg,
    ["if-shell", "-F", "-t", id, `#{==:#{pane_pid},${pid}}`, `kill-pane -t '${id}'`]);
  return ran.ok;
}

// in a dead pane, tmux's line on how the client ended may have scrolled the first line away
const captureOf = ({ dead }: Pane): string[] =>
  ["capture-pane", "-p", "-J", ...(dead ? ["-S", "-1"] : [])];

/** The pane's text, wrapped lines joined; null = could not look, which is not an empty screen. */
export async function capturePane(cfg: Config, pane: Pane): Promise<string | null> {
  const ran = await tmux(cfg, [...captureOf(pane), "-t", pane.id]);
  return ran.ok ? ran.out : null;
}

/**
 * Characters of screens after which garbage is collected, which takes 5 to 8 ms. With half of this
 * a watchdog of 400 agents has 64 to 69 MB instead of 66 to 73 (measured); 100 are promised.
 */
const COLLECT_AFTER = 2_000_000;
/** What a tick leaves as garbage for one agent besides its screen, in characters. */
const LEFT_PER_AGENT = 1_500;
let uncollected = 0;

function collect(characters: number): void {
  uncollected += characters;
  if (uncollected < COLLECT_AFTER) return;
  uncollected = 0;
  Bun.gc(true);
}

/** Splits a stream at each mark, wherever its parts end. */
function cutAt(mark: string, take: (block: string) => void): OnChunk {
  let rest: Uint8Array = new Uint8Array();
  return (part) => {
    const all = Buffer.concat([rest, part]);
    let from = 0;
    for (let at = 0; (at = all.indexOf(mark, from)) >= 0; from = at + mark.length) {
      take(all.toString("utf8", from, at));
    }
    rest = all.subarray(from);
  };
}

/**
 * Captures all screens with one tmux client and hands each over as it comes, so that those of a
 * large fleet are never all in memory. A missing one is captured again on its own; null = could not
 * look.
 */
export async function captureAll(
  cfg: Config, panes: Pane[], take: (pane: Pane, text: string | null) => void,
): Promise<void> {
  if (!panes.length) return;
  const mark = `@@${newId()} `;
  const missing = new Map(panes.map((pane) => [pane.id, pane]));
  // the id without its `%`, which display-message would expand as part of a date
  const lines = panes.map((pane) => `display-message -p '${mark}${pane.id.slice(1)}'\n` +
    `${captureOf(pane).join(" ")} -t '${pane.id}'\n`);
  const end = `display-message -p '${mark}'\n`;
  const ran = await tmux(cfg, ["source-file", "-"], lines.join("") + end, cutAt(mark, (block) => {
    const head = block.indexOf("\n");
    const pane = missing.get(`%${block.slice(0, head)}`);
    if (!pane || block.length === head + 1) return;
    missing.delete(pane.id);
    take(pane, block.slice(head + 1));
    collect(block.length);
  }));
  for (const pane of missing.values()) {
    take(pane, ran.timedOut ? null : await capturePane(cfg, pane));
  }
}

/**
 * Sends keys to a pane's program: not to copy mode, nor to panes synchronized with it. false = tmux
 * did not deliver them, null = it is not known: a stopped one does when it is resumed (3.3a).
 */
async function sendKeys(cfg: Config, { id }: Pane, keys: string[]): Promise<boolean | null> {
  const { ok, timedOut } = await tmux(cfg,
    ["set-option", "-p", "-t", id, "synchronize-panes", "off", THEN,
      "copy-mode", "-q", "-t", id, THEN, "send-keys", "-t", id, "--", ...keys]);
  return ok || (timedOut ? null : false);
}

/** tmux expands `#` in its arguments and, in a pipe's command, `%` too. */
const noFormat = (value: string): string => value.replaceAll("#", "##");
const pipeCommand = (path: string): string =>
  noFormat(`umask 077; exec cat >> ${shellQuote(path)}`).replaceAll("%", "%%");

export const sessionLogPath = ({ logDir }: Config, session: string): string =>
  `${logDir}/${session}.log`;

/** Logs what a pane prints. No `-o`, which would turn logging off at the second call. */
export async function pipeToLog(cfg: Config, target: string, logPath: string): Promise<void> {
  await tmux(cfg, ["pipe-pane", "-t", target, pipeCommand(logPath)]);
}

interface NewSession {
  session: string;
  cwd: string;
  argv: string[];
  env: Record<string, string>;
  /** "" = not logged. */
  logPath: string;
  /** Pane options `@agents_<key>`: they live and die with the pane. */
  marks: Record<string, string>;
  /** The session exists already: people have windows in it. */
  room?: boolean;
  /** A pane of ours to start in, whose client has ended. */
  pane?: Pane | undefined;
  /** The launch's mark in the program's environment; absent = it is not a unit. */
  unit?: string;
}

/** Runs in a pane until it is set up; if we crash before that, it ends by itself. */
const STAND_IN = ["sleep", "30"];

/** Why tmux made no pane; that it did not answer in time is no refusal. */
function whyNoPane({ err, timedOut }: ExecResult): string {
  if (timedOut) throw new NoAnswer(`tmux: ${err}`);
  return err || "tmux refused";
}

const envArgs = (env: Record<string, string>): string[] =>
  Object.entries(env).flatMap(([key, value]) => ["-e", `${key}=${value}`]);

/**
 * A pane for a client; a string says why there is none. Only what tmux returns identifies it: an
 * operator's hook may have split it, activated another, or renamed its session by now. `pid` is the
 * stand-in's, 0 in an old pane, which has none. A new session gets its real name last, so that one
 * left half-made by a crash is in nobody's way: `unnamed` is its id, "" if it has its name.
 */
async function makePane(cfg: Config, plan: NewSession) {
  if (plan.pane) return { id: plan.pane.id, pid: 0, unnamed: "" };
  const temporary = `starting-${newId()}`;
  const how = ["-d", "-P", "-F", "#{pane_id} #{pane_pid} #{session_id}", "-c", noFormat(plan.cwd),
    ...envArgs(plan.env)];
  const args = plan.room
    ? ["new-window", "-t", targetPane(plan.session), ...how, ...STAND_IN]
    : ["new-session", "-s", temporary, "-x", `${cfg.cols}`, "-y", `${cfg.rows}`, ...how,
      ...STAND_IN, THEN, "set-option", "-t", targetPane(temporary), "destroy-unattached", "off"];
  for (let attempt = 0; ; attempt++) {
    const ran = await tmux(cfg, args);
    const [, id, pid, session] = /^(%\d+) (\d+) (\$\d+)$/m.exec(ran.out) ?? [];
    if (id) return { id, pid: Number(pid), unnamed: plan.room ? "" : session! };
    // a server that is about to exit still accepts clients, and drops them
    if (attempt || !/server exited|lost server/.test(ran.err)) return whyNoPane(ran);
    await world.sleep(300);
  }
}

const MISSING = "does not exist";
const NO_FOLDER = "is not a folder";

/** What is wrong with a folder, such as one on a disk that is away; "" = nothing. */
async function folderFault(dir: string): Promise<string> {
  if (!(await world.answers(dir))) return "cannot be read (its disk does not answer)";
  try {
    return world.mtime(dir) === null ? MISSING : world.isFolder(dir) ? "" : NO_FOLDER;
  } catch (error) {
    return `cannot be read (${messageOf(error)})`;
  }
}

/** Why nothing can be started in a folder; "" = it can. */
async function whyNoFolder(dir: string): Promise<string> {
  const fault = await folderFault(dir);
  return fault && `dir ${dir} ${fault}`;
}

/**
 * Starts a program in a pane of our own that outlives it; "" = started, else why not. Size, marks
 * and log are set up while the stand-in runs, so they hold from the program's first byte.
 */
export async function newSession(cfg: Config, plan: NewSession): Promise<string> {
  const away = await whyNoFolder(plan.cwd);
  if (away) return away;
  const made = await makePane(cfg, plan);
  if (typeof made === "string") return made;
  const { id, pid, unnamed } = made;
  const set = (scope: string, key: string, value: string) =>
    ["set-option", scope, "-t", id, key, value, THEN];
  const marks = { session: plan.session, home: homeOf(cfg), fleet: cfg.room,
    started: `${world.now() / 1000}`, ...plan.marks };
  const env = plan.unit ? { ...plan.env, [UNIT_MARK]: plan.unit } : plan.env;
  const ran = await tmux(cfg, [
    ...(unnamed ? ["rename-session", "-t", unnamed, plan.session, THEN,
      "set-option", "-t", unnamed, "@agents_room", cfg.room, THEN] : []),
    ...(pid ? [...set("-w", "window-size", "manual"),
      "resize-window", "-t", id, "-x", `${cfg.cols}`, "-y", `${cfg.rows}`, THEN]
      // without -k: fails if somebody uses the pane by now. To a dead pane no log can be attached
      : ["respawn-pane", "-t", id, ...STAND_IN, THEN]),
    ...set("-p", "remain-on-exit", "on"),
    ...Object.entries(marks).flatMap(([key, value]) =>
      set("-p", `@agents_${key}`, printable(value))),
    // the tmux server may have inherited them from the person or client that started it
    ...[...secretNames, ...CALLERS_OWN].flatMap((name) =>
      ["set-environment", "-t", id, "-r", name, THEN]),
    ...(plan.logPath ? ["pipe-pane", "-t", id, pipeCommand(plan.logPath), THEN] : []),
    "respawn-pane", "-k", "-t", id, "-c", noFormat(plan.cwd),
    ...envArgs(env), ...plan.argv, THEN,
    "set-option", "-p", "-F", "-t", id, "@agents_pid", "#{pane_pid}", THEN,
    "display-message", "-p", "-t", id, "made #{@agents_pid}",
  ]);
  // not by the exit code: a hook of the operator that fails is not our failure
  if (/^made \d+$/m.test(ran.out)) return "";
  if (pid) await killPane(cfg, { id, pid });
  return whyNoPane(ran);
}

/**
 * One pane's screen: with wrapped lines joined (`look`), as drawn, and with colours. All three keep
 * the blanks at the end of a line: a prompt that one of them shows, the others must show too. null:
 * tmux does not show it, or the pane is another by now: a restarted server gives out the same ids.
 */
type Screen = NonNullable<Awaited<ReturnType<typeof readScreen>>>;
async function readScreen(cfg: Config, pane: Pane) {
  const mark = `@@${newId()}`;
  const capture = (flags: string) =>
    `display-message -p '${mark}'\ncapture-pane -p ${flags} -t '${pane.id}'\n`;
  const facts = `display-message -p -t '${pane.id}' ` +
    "'#{pane_dead} #{pane_pid} #{cursor_y} #{pane_title}'\n";
  const ran = await tmux(
    cfg, ["source-file", "-"], facts + capture("-J") + capture("-N") + capture("-e -N"));
  const [head = "", text = "", plain = "", styled = ""] = ran.out.split(`${mark}\n`);
  const [, dead, pid, row, title = ""] = /^(\d) (\d+) (\d+) ?(.*)/.exec(head) ?? [];
  if (!ran.ok || dead !== "0" || Number(pid) !== pane.pid) return null;
  return { look: { text, title }, plain, styled, cursorLine: plain.split("\n")[Number(row)] ?? "" };
}

// ── git ─────────────────────────────────────────────────────────────────────────
// The channel between the agents: the remote's branch, and what the clone has of it. "Nothing new",
// "not there" and "git could not say" are three answers.

/** The commits that are compared with those already seen where the old head is unknown. */
const RECENT_MAX = 200;
/** The most commits of one look. */
const COMMITS_MAX = 2_000;
/** What stands for a head in a repository that has no commit yet: all that follows is new. */
const NO_COMMIT = "0".repeat(40);

/** What one side of the loop commits for the other to read. */
const CAUSES = ["claim", "review"] as const;
type Cause = (typeof CAUSES)[number];

export interface Commit {
  /** Author, author time and subject: what a rebase leaves alone. */
  key: string;
  subject: string;
  /** When it was made, wall ms, to the second. */
  at?: number;
  sha?: string;
  /** What it changes, hashed; of claims and reviews only. null = git gave no answer in time. */
  change?: string | null;
  /** A rewrite of the branch made it of one with the same key. */
  rewritten?: true;
}

export const git = (
  repo: string, args: string[], env?: Record<string, string>,
): Promise<ExecResult> => world.git(repo, args, env);

/** Named in full: a local branch or tag called origin/main would be taken for it. */
const trackingRef = (hand: Handoff): string => `refs/remotes/${hand.remote}/${hand.branch}`;

/** `size` in bytes; the text of a file that is too large to be read is "". */
type PushedFile = { state: "found"; text: string; size: number; object: string }
  | { state: "absent" | "no branch" } | { state: "failed"; why: string };

/** How git calls a folder in the list of a branch. */
const TREE = "040000";

/**
 * What the branch has at these paths, and the folders above them: their modes, by path. All of it
 * was read: of a folder that is damaged, git show says that what is in it does not exist.
 */
async function listPushed(
  hand: Handoff, paths: string[],
): Promise<Map<string, string> | PushedFile> {
  const { ok, out, err } = await git(hand.repo,
    ["ls-tree", "-t", "-z", "--full-tree", trackingRef(hand), "--", ...paths]);
  if (/Not a valid object name/.test(err)) return { state: "no branch" };
  if (!ok) return { state: "failed", why: `git ls-tree: ${gitWords(err)}` };
  return new Map([...out.matchAll(/(\d+) [^\t]+\t([^\0]+)\0/g)]
    .map(([, mode, path]) => [path!, mode!]));
}

/**
 * Pushed files by their names, each in the docs folder or at the root. "Absent" and "git failed"
 * are two answers.
 */
export async function showPushed(
  hand: Handoff, ...names: string[]
): Promise<Map<string, PushedFile>> {
  if (!names.length) return new Map();
  // git finds nothing at `docs//name` or `docs/./name`
  const inDocs = (name: string) => join(hand.docsDir, name);
  const atRoot = (name: string) => join(name);
  const listed = await listPushed(hand, names.flatMap((name) => [inDocs(name), atRoot(name)]));
  const show = async (path: string): Promise<PushedFile> => {
    if (!(listed instanceof Map)) return listed;
    if (listed.has(path)) return showPath(hand, path);
    return listed.get(dirname(path)) === TREE ? { state: "absent" }
      : follow(hand, path, await throughFolder(hand, path), FILE_LINKS_MAX);
  };
  const shown = new Map<string, PushedFile>();
  for (const name of names) {
    const file = await show(inDocs(name));
    shown.set(name, file.state === "absent" ? await show(atRoot(name)) : file);
  }
  return shown;
}

const NOT_IN_BRANCH = /does not exist|exists on disk, but not in/;

/** The most links that lead to one file. */
const FILE_LINKS_MAX = 5;

/** The file at a path of the branch; `links`: how many more links may lead to it. */
async function showPath(hand: Handoff, path: string, links = FILE_LINKS_MAX): Promise<PushedFile> {
  const failed = (why: string): PushedFile => ({ state: "failed", why });
  const { ok, out, err } = await git(hand.repo, ["show", `${trackingRef(hand)}:${path}`]);
  if (!ok && /invalid object name|unknown revision/.test(err)) return { state: "no branch" };
  if (!ok && /printed more than/.test(err)) return weighPushed(hand, path);
  if (!ok && !NOT_IN_BRANCH.test(err)) return failed(`git show: ${gitWords(err)}`);
  const target = ok ? await linkedFrom(hand, path, out)
    : links ? await throughFolder(hand, path) : "";
  if (target || !ok) return follow(hand, path, target, links);
  return out.startsWith("version https://git-lfs.github.com/spec/")
    ? failed(`${path} is kept in Git LFS, which git show cannot read`)
    : { state: "found", text: out, size: Buffer.byteLength(out), object: "" };
}

/** The file that a link in the place of a path, or of a folder above it, leads to. */
async function follow(
  hand: Handoff, path: string, target: Target, links: number,
): Promise<PushedFile> {
  if (!target) return { state: "absent" };
  if (typeof target !== "string") return { state: "failed", why: target.unknown };
  return target.startsWith("../") || isAbsolute(target) || !links
    ? { state: "failed", why: `${path} is a symlink that leads to no file of the branch` }
    : showPath(hand, target, links - 1);
}

/** Where a link leads; "" = there is none, `unknown`: why nobody can say. */
type Target = string | { unknown: string };

/** The path without the link that a folder above it is. */
async function throughFolder(hand: Handoff, path: string): Promise<Target> {
  const folder = dirname(path);
  if (folder === ".") return "";
  const { ok, out, err } = await git(hand.repo, ["show", `${trackingRef(hand)}:${folder}`]);
  if (/printed more than/.test(err)) return ""; // the list of a large folder
  const there = await (NOT_IN_BRANCH.test(err) ? throughFolder(hand, folder)
    : linkedFrom(hand, folder, ok ? out : null));
  return there && typeof there === "string" ? join(there, basename(path)) : there;
}

/** `shown`: what git shows there, null = it does not: a link's is its target, without a newline. */
async function linkedFrom(hand: Handoff, path: string, shown: string | null): Promise<Target> {
  if (shown === "" || (shown && (shown.length > 1_000 || shown.includes("\n")))) return "";
  const { ok, out } = await git(hand.repo,
    ["ls-tree", "--full-tree", trackingRef(hand), "--", path]);
  if (out.startsWith("160000 ")) {
    return { unknown: `${path} is a submodule, whose files are not in the branch` };
  }
  if (!ok || shown === null) return { unknown: `git could not say what ${path} is` };
  return out.startsWith("120000 ")
    ? isAbsolute(shown) ? shown : join(dirname(path), shown) : "";
}

/** What is known of a file that is too large to be read. */
async function weighPushed(hand: Handoff, path: string): Promise<PushedFile> {
  const ran = await git(hand.repo, ["ls-tree", "-l", "--full-tree", trackingRef(hand), "--", path]);
  const [, object = "", size] = /^\d+ blob (\w+) +(\d+)\t/.exec(ran.out) ?? [];
  if (!size) return { state: "failed", why: `git ls-tree: ${gitWords(ran.err)}` };
  return { state: "found", text: "", size: Number(size), object };
}

/** What git said, without its advice. */
const gitWords = (err: string): string => {
  const lines = err.split(/\n\s*\n/)[0]!.split("\n")
    .filter((line) => !/^(warning|hint):|:$/i.test(line))
    .map((line) => line.replace(/^(fatal|error): /, "").replace(/\.$/, ""));
  return plainText([...new Set(lines)].slice(0, 3).join("; "), SUBJECT_MAX) || "no reason given";
};

/** What a person can do where git says so; the first that fits. */
const GIT_CURES: [said: RegExp, cure: (hand: Handoff, found: string[]) => string][] = [
  [/cannot change to|not a git repository/, ({ repo }) =>
    `clone the repository to ${quoted(repo)}, or fix repo in [loop.handoff]`],
  [/dubious ownership in repository at '([^']+)'/, (_, [, owned]) =>
    `git config --global --add safe.directory ${quoted(owned!)}`],
  [/No space left/, () => "make room on the disk"],
  [/is a symlink|is kept in Git LFS/, () => "commit the file itself in its place"],
  [/is a submodule/, () => "make it a folder of the repository itself, or name one in docs_dir"],
  [/unknown option/, () => "git 2.29 or newer is needed"],
  [/lazy fetching disabled|promisor/, ({ repo }) =>
    `${quoted(repo)} is a partial clone: make a full one in its place`],
  [/exists; cannot create|cannot create.* exists/, ({ repo, remote }) =>
    `git -C ${quoted(repo)} remote prune ${remote}`],
  [anyOf(/bad object|corrupt|object file|missing (blob|tree|commit)|unable to read/,
    /unresolved delta|bad sha1|broken|did not send all|[Cc]ould not read [0-9a-f]{40}/,
    /not a tree object/),
    ({ repo }) => `the clone is damaged: move ${quoted(repo)} away and clone it again`],
  [/Host key verification failed/, () => "connect to the host once by hand and accept its key"],
  [/could not read (Username|Password)|Authentication failed|terminal prompts disabled/, () =>
    "give the clone a credential helper: the watchdog answers no prompt"],
  // of ssh the words stand alone, or behind the name of the host
  [/insufficient permission|Read-only file system|(?:create|open|write|lock|update) .*denied/,
    ({ repo }) => `let this user write to ${quoted(repo)}`],
  [/Permission denied/, () =>
    'see that "ssh-add -l" lists the key, then run "agents up" again from that login'],
  [/does not appear to be a git repository|Repository not found|not found/i,
    ({ repo, remote }) => `see where it points: git -C ${quoted(repo)} remote get-url ${remote}`],
];

function cureFor(said: string, hand: Handoff): string | undefined {
  for (const [fits, cure] of GIT_CURES) {
    const found = fits.exec(said);
    if (found) return cure(hand, found);
  }
}

const tryGit = ({ repo }: Handoff, command: string): string =>
  `run it yourself: git -C ${quoted(repo)} ${command}`;

/**
 * What git failed at: one that takes the folder for no clone, as a damaged one or one of another
 * user's, says only that it knows no such remote.
 */
async function explained({ repo, remote }: Handoff, ran: ExecResult): Promise<ExecResult> {
  if (!ran.err.includes(`'${remote}' does not appear to be a git repository`)) return ran;
  const clone = await git(repo, ["rev-parse", "--git-dir"]);
  return clone.ok ? ran : clone;
}

/** A look that did not succeed: git's reason, and what a person can do about it. */
async function failedLook(
  cfg: Config, hand: Handoff, what: string, answer: ExecResult,
): Promise<Fetched> {
  const ran = await explained(hand, answer);
  const failed = (why: string, cure: string): Fetched =>
    ({ state: "failing", why, cure, hung: ran.timedOut, head: "", hand });
  const byHand = tryGit(hand, `${what} ${hand.remote}`);
  const why = ran.timedOut
    ? `no answer in time (git ${what}, ${GIT_DEADLINE / 1000} s)` : gitWords(ran.err);
  if (ran.timedOut) return failed(why, byHand);
  const lock = /Unable to create '([^']+\.lock)': File exists/.exec(ran.err)?.[1];
  if (lock) return failed(why, careful(lock));
  const socket = sshEnv(cfg).SSH_AUTH_SOCK;
  if (socket && /Could not read from remote|Permission denied/.test(ran.err) &&
      !/does not appear to be a git/.test(ran.err) && !isThere(socket)) {
    return failed(`${why}; the ssh agent ${plainText(socket, 200)} is gone`,
      'run "agents up" from a login that has one: the watchdog then uses that');
  }
  return failed(why, cureFor(ran.err, hand) ?? byHand);
}

/** A look at a head whose files git cannot read, and why; "" = it can. */
function unreadable(fetched: Fetched, why: string): Fetched {
  const { state, hand } = fetched;
  return !why || state !== "ok" ? fetched
    : { ...fetched, state: "failing", why, cure: cureFor(why, hand) ?? tryGit(hand, "fsck") };
}

/** The ssh agent for git: that of the newest login that ran `up`, or the one that we inherited. */
function sshEnv(cfg: Config): Record<string, string> {
  const sockets = [cfg.stored.sshAgent, process.env.SSH_AUTH_SOCK]
    .filter((path) => path?.startsWith("/")) as string[];
  const socket = sockets.find(isThere) ?? sockets[0];
  return socket ? { SSH_AUTH_SOCK: socket } : {};
}

/** The lines of `ls-remote`: the remote's refs and what they point to. */
const parseRefs = (out: string): Map<string, string> =>
  new Map([...out.matchAll(/^([0-9a-f]{40,64})\t(\S+)$/gm)].map(([, sha, ref]) => [ref!, sha!]));

/** The remote without our branch: a new repository, or one with other branches. */
function withoutBranch(hand: Handoff, refs: Map<string, string>, sha: string): Fetched {
  const { branch, remote } = hand;
  const without = (state: ChannelState, why: string, cure: string): Fetched =>
    ({ state, why, cure, hung: false, head: "", hand });
  const names = [...refs.keys()].flatMap((ref) => /^refs\/heads\/(.+)$/.exec(ref)?.[1] ?? []);
  const why = `${remote} has no branch`;
  if (!names.length && ["", NO_COMMIT].includes(sha)) {
    return without("empty", `${why} yet; the first push of ${branch} makes it`, "");
  }
  const near = names.filter(isRefName).slice(0, 1_000)
    .sort((a, b) => distance(branch, a) - distance(branch, b));
  if (!near.length) return without("branch missing", `${why} ${branch}`, `push ${branch} again`);
  const shown = near.slice(0, 5).map((name) => plainText(name, 60)).join(", ");
  const others = names.length > 5 ? ` and ${names.length - 5} more` : "";
  return without("branch missing", `${why} ${branch}; it has ${shown}${others}`,
    `set branch = ${JSON.stringify(near[0])} in [loop.handoff], or push ${branch}`);
}

/** The remote's head, asked for by its full name: other refs may end like it. */
async function lookAtRemote(cfg: Config, hand: Handoff, sha: string): Promise<Fetched> {
  const ref = `refs/heads/${hand.branch}`;
  const listed = await git(hand.repo, ["ls-remote", hand.remote, ref], sshEnv(cfg));
  if (!listed.ok) return failedLook(cfg, hand, "ls-remote", listed);
  const head = parseRefs(listed.out).get(ref);
  if (head) return { state: "ok", why: "", cure: "", hung: false, head, hand };
  const all = await git(hand.repo, ["ls-remote", "--heads", hand.remote], sshEnv(cfg));
  if (!all.ok) return failedLook(cfg, hand, "ls-remote", all);
  return withoutBranch(hand, parseRefs(all.out), sha);
}

/**
 * Whether a git is at work in a clone: its hooks and its editor may keep a lock for hours. null =
 * the system does not say, of all processes (macOS) or of another user's.
 */
function gitWorksIn(repo: string): boolean | null {
  const pids = allPids();
  const folders = pids.filter((pid) => basename(argvOf(pid)[0]!) === "git")
    .map((pid) => world.folder(pid));
  if (folders.some((folder) => `${folder}/`.startsWith(`${linkless(repo)}/`))) return true;
  return pids.length && !folders.includes("") ? false : null;
}

/** How a lock is removed that may be a living git's. */
const careful = (path: string): string => `if no git is running there: rm ${quoted(path)}`;

/** The first of these lock files that no living git can hold, in words; null = none. */
function staleLock(hand: Handoff, paths: string[]): Pick<Fetched, "state" | "why" | "cure"> | null {
  for (const path of paths.map((one) => resolve(hand.repo, one))) {
    const age = world.now() - (world.mtime(path) ?? Infinity);
    const works = age > GIT_DEADLINE ? gitWorksIn(hand.repo) : true;
    if (!works) return { state: "failing",
      why: `a killed git left the lock ${path}, ${ago(age)} old`,
      cure: works === null ? careful(path) : `rm ${quoted(path)}` };
  }
  return null;
}

/** What the clone has of the branch, "" = nothing that can be read, and a lock in its way. */
async function lookAtClone(
  hand: Handoff,
): Promise<{ here: string; lock: ReturnType<typeof staleLock> }> {
  const locks = [`${trackingRef(hand)}.lock`, "packed-refs.lock", "shallow.lock"];
  const { out } = await git(hand.repo, ["rev-parse",
    ...locks.flatMap((path) => ["--git-path", path]),
    "-q", "--verify", `${trackingRef(hand)}^{commit}`]);
  const lines = out.trim().split("\n");
  const isLock = (line: string) => line.endsWith(".lock");
  return { here: lines.find((line) => !isLock(line)) ?? "",
    lock: staleLock(hand, lines.filter(isLock)) };
}

/** The remote's head, and what would keep it from being fetched; changes nothing. */
async function inspectChannel(cfg: Config, hand: Handoff, sha: string): Promise<Fetched> {
  const found = await lookAtRemote(cfg, hand, sha);
  return found.head ? { ...found, ...(await lookAtClone(hand)).lock } : found;
}

/** The remote's head, fetched only where it moved or what is here is damaged. */
async function fetchHead(cfg: Config, hand: Handoff, sha: string): Promise<Fetched> {
  const found = await lookAtRemote(cfg, hand, sha);
  if (!found.head) return found;
  const { here, lock } = await lookAtClone(hand);
  if (here !== found.head) {
    const fetched = await git(hand.repo,
      // an agent that works in the same clone reads FETCH_HEAD; what the clone's config maps in
      // addition may be the branch that is checked out, which git refuses
      ["fetch", "-q", "--no-write-fetch-head", "--no-tags", "--no-recurse-submodules",
        "--refmap=", hand.remote,
        `+refs/heads/${hand.branch}:${trackingRef(hand)}`], sshEnv(cfg));
    if (!fetched.ok) return failedLook(cfg, hand, "fetch", fetched);
  }
  return { ...found, ...lock };
}

/** Author time and subject survive a rebase; the commit's own name does not. */
const LOG_FORMAT = "--format=%H%x00%at %an%x00%s"; // a name may hold a tab, and nothing a NUL
const parseCommits = (out: string): Commit[] =>
  out.split("\n").filter(Boolean).reverse().map((line) => {
    const [sha = "", made, shown = ""] = line.split("\0");
    const subject = shown.trimEnd(); // git fills up to the width at which it cuts
    return { sha, key: hashOf(`${made}\t${subject}`), at: parseInt(made!) * 1000,
      subject: plainText(subject, SUBJECT_MAX) };
  });

/** What a subject says its commit is; a pattern of the operator may make it both. */
const causesOf = (subject: string, hand: Handoff): Cause[] =>
  CAUSES.filter((cause) => parsePattern(hand[`${cause}Re` as const], "i").test(subject));

/** What git says of a head that has nothing in common with another, or is not in the clone. */
const isUnrelated = ({ code, err }: ExecResult): boolean =>
  code === 1 || /Not a valid (commit|object) name/.test(err);

/** The newest commits of a range. Subjects of more than 8 MB in all are cut. */
async function logOf(hand: Handoff, range: string, most: number): Promise<ExecResult> {
  const ask = (format: string) => git(hand.repo, ["log", format, range, `-${most}`, "--"]);
  const ran = await ask(LOG_FORMAT);
  return /printed more than/.test(ran.err)
    ? ask(LOG_FORMAT.replace("%s", `%<(${SUBJECT_MAX},trunc)%s`)) : ran;
}

/**
 * The commits since the last look, at most the 2,000 newest, also where the branch was rewritten
 * since; the recent ones where the old head is unknown. A string: why git could not say.
 */
async function commitsSince(hand: Handoff, sha: string, head: string): Promise<Commit[] | string> {
  const isKnown = sha !== "" && sha !== NO_COMMIT;
  const base = isKnown ? await git(hand.repo, ["merge-base", sha, head]) : null;
  if (base && !base.ok && !isUnrelated(base)) return `git merge-base: ${gitWords(base.err)}`;
  const ran = await (base?.ok ? logOf(hand, `${sha}..${head}`, COMMITS_MAX)
    : logOf(hand, head, sha === NO_COMMIT ? COMMITS_MAX : RECENT_MAX));
  if (!ran.ok) return `git log: ${gitWords(ran.err)}`;
  const commits = await withChanges(hand, parseCommits(ran.out));
  if (!base?.ok || base.out.trim() === sha) return commits;
  const replaced = await logOf(hand, `${head}..${sha}`, COMMITS_MAX);
  if (!replaced.ok) return `git log: ${gitWords(replaced.err)}`;
  const keys = new Set(parseCommits(replaced.out).map(({ key }) => key));
  return commits.map((one) => (keys.has(one.key) ? { ...one, rewritten: true } : one));
}

/** A change as its author made it, whatever the clone's config says of diffs. */
const CHANGE_FORMAT = ["--format=%x00%H", "-p", "-m", "--first-parent", "-U0", "--binary",
  "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv", "-O/dev/null"];

/**
 * What commits change, hashed, by their names. A rebase moves lines and renames objects, so neither
 * is hashed. null = git gave no answer in time. One that git cannot show, as in a partial clone, or
 * in 8 MB, is left out: it must not hide the others, which are asked for in halves then.
 */
async function changesOf(hand: Handoff, names: string[]): Promise<Map<string, string | null>> {
  if (!names.length) return new Map();
  const ran = await git(hand.repo, ["show", ...CHANGE_FORMAT, ...names, "--"]);
  if (ran.timedOut) return new Map(names.map((name) => [name, null]));
  if (ran.ok) {
    return new Map(ran.out.split("\0").map((part) => {
      const [sha = "", ...lines] = part.trimEnd().split("\n");
      const change = lines.filter((line) => line && !/^(@@|index )/.test(line)).join("\n");
      return [sha, hashOf(change)];
    }));
  }
  const half = names.length >> 1;
  if (!half) return new Map();
  return new Map([...await changesOf(hand, names.slice(0, half)),
    ...await changesOf(hand, names.slice(half))]);
}

/** Adds what the 100 newest claims and reviews change; others are known by their keys alone. */
async function withChanges(hand: Handoff, commits: Commit[]): Promise<Commit[]> {
  const names = commits.filter(({ subject }) => causesOf(subject, hand).length)
    .map(({ sha }) => sha!).slice(-100);
  const changes = await changesOf(hand, names);
  return commits.map((commit) => {
    const change = changes.get(commit.sha!);
    return change === undefined ? commit : { ...commit, change };
  });
}

// ── activity, limit and fatal detection ─────────────────────────────────────────
// One verdict from one look at a pane, by rules as data. Rules are anchored in regions of the
// screen: an agent that quotes a footer or a banner must not be taken for the real one.

/**
 * Where a rule looks; a rule never matches a region that is not on the screen.
 *
 *   a number   the last N non-blank lines
 *   title      the pane's title                screen   all lines, their trailing blanks cut
 *   plain      the screen as captured, blanks included: a prompt may end in one
 *   event      the newest block above the input box, on one line
 *   done       the lines that closed its turn  turn     everything since the newest prompt
 *   box        the text in the input box       foot     what is below the box
 *   dialog     what has taken the place of the box
 *   rest       the box, if the client shows that it is not at work
 */
export type Where =
  "title" | "screen" | "plain" | "event" | "done" | "turn" | "box" | "foot" | "dialog" | "rest"
  | number;
/** `whole`: the banner is the whole region, not only the line that matched. */
export interface Rule {
  name: string; verdict: VerdictName; where: Where; re: RegExp; whole?: boolean; why?: string;
  /** Text that every match contains: a screen without it need not be searched. */
  has?: string;
  /** What it matches keeps changing during work: a spinner, a counter. */
  animated?: boolean;
  /** The answer to suggest to an operator for this question of the client. */
  answer?: DeclaredAnswer;
  /** The operator's own pattern as the config has it; absent = a built-in rule. */
  given?: string;
  /** The key that closes this menu without choosing, or what names it; a text in the box stays. */
  closes?: string | RegExp;
  /** On the last rule: how the client draws its box, unless like Claude Code or opencode. */
  box?: TypedBox;
}
/** As in `[[backend.NAME.answer]]`. */
type DeclaredAnswer = { re: string; keys: string[] };
/** One capture of a pane, `text` with wrapped lines joined and blank lines kept. */
interface ScreenText { text: string; title: string }

// The rules.

const CLAUDE_BANNER = anyOf(
  /^⎿ You['’]ve (?:hit|reached) your [^·]*?(?:limit|budget)\b/,
  /^⎿ You['’]re out of (?:extra usage|usage credits)|^⎿ Your org is out of usage/,
  /^⎿ Claude (?:AI )?usage limit reached|^⎿ [\w -]+ limit reached ∙/,
);

// Checked first, as a client that has ended leaves its box or dialog on the screen. The prompt of
// Claude Code's screen reader mode is a `$` too, below a line that names its mode.
const GONE: Rule[] = [
  { name: "wrapper", verdict: "unsure", where: 1, why: "the client has ended",
    re: /^EXITED\b|Pane is dead \((?:status|signal) .*\)$/ },
  { name: "shell", verdict: "unsure", where: 2, why: "a shell prompt, no client",
    re: /^(?!\w.* on(?: {2}·.*)?\n)(?:.*\n)?(?:\[[^\]\n]*\]|[^\s❯┃]*)[$#]$/ },
];

/** The rule for an error that ended the turn and that no other rule knows. */
const UNKNOWN_ERROR = "error";
// Errors that need a person; the others pass by the next prompt or a restart.
const ERROR_THAT_STAYS = new RegExp("^[⎿●] API Error(?!:? (?:4\\d\\d )?(?:[a-z]|" + [
  "(?:Repeated )?5\\d\\d\\b", ".*(?:\\b429\\b|Rate limit|timed out|output token maximum)",
  ".*\\b(?:temporarily (?:limiting|unavailable)|may be incomplete)\\b", "\\(?Connection ",
  "(?:The|No|Part of the) response ", "Stream idle timeout", "Overloaded", "Request was aborted",
  "Your computer went to sleep ", "Unable to connect to API(?! ?:)",
].join("|") + "))");

/** In the box of Claude Code's agents view: a text sent there starts another session. */
const NEW_SESSION = /^describe a task for a new\b/;

const question = (
  name: string, why: string, re: RegExp, ...[declared, ...keys]: string[]
): Rule => ({ name, verdict: "blocked", where: "dialog", why,
  // a later line that begins with a capital: the client has ended, and its dialog is a leftover
  re: new RegExp(`${re.source}(?![^]*\\n[A-Z])`, "m"),
  ...(declared === undefined ? {} : { answer: { re: declared, keys } }) });

/** What Claude Code asks at its start, with the answer that an operator might declare. */
const CLAUDE_QUESTIONS: Rule[] = [
  question("trust", "asks whether to trust its folder",
    /^ *Quick safety check: [^]*\n *❯ No, exit\n *Yes, I trust this folder$/,
    String.raw`^\s*❯ No, exit\s*\n\s+Yes, I trust this folder\s*$`, "Down", "Enter"),
  question("trust, numbered", "asks whether to trust its folder",
    /^ *Quick safety check: [^]*\n *❯ 1\. Yes, I trust this folder$/,
    String.raw`^\s*❯ 1\. Yes, I trust this folder\s*$`, "Enter"),
  question("bypass", "asks whether to go without permissions",
    /^ *WARNING: Claude Code running in Bypass Permissions mode$/,
    String.raw`^\s*❯ (?:1\. )?No, exit\s*\n\s+(?:2\. )?Yes, I accept\s*$`, "Down", "Enter"),
  question("renderer", "asks whether to try the fullscreen renderer",
    /^ *Try the new fullscreen renderer\?$/,
    String.raw`^\s*❯ 1\. Yes, try it\s*\n\s+2\. Not now\s*$`, "Down", "Enter"),
  question("theme", "asks for a theme", /^ *Let's get started\.\s*\n *Choose the text style /,
    String.raw`^\s*Let.s get started\.\s*$`, "Enter"),
  question("API key", "asks whether to use the API key of its environment",
    /^ *Detected a custom API key\b/,
    String.raw`^\s*❯ (?:2\. )?No \(recommended\)`, "Up", "Enter"),
  question("summary", "asks whether to resume from a summary",
    /^ *❯ 1\. Resume from summary\b/,
    String.raw`^\s*❯ 1\. Resume from summary\b`, "Enter"),
  question("settings", "asks what to do about its faulty settings",
    /^ *❯ 1\. Fix with Claude\n *2\. Exit and fix manually$/),
];

/** How opencode's palette, pickers and forms begin: a title, and the key that closes them. */
const POPUP_TITLE = /(?<= {3})[A-Z]\S*(?: \S+)* {4,}esc(?:\/enter)?(?!.)/;
/** In place of agent and model in opencode's box: the shell mode that `!` begins. */
const OPENCODE_SHELL = /^ +┃ {2}Shell(?: {4}|$)/; // the sidebar may stand beside it

/** The last rule for a client: its input box is there, and nothing else says that it is busy. */
const AT_PROMPT: Rule =
  { name: "prompt", verdict: "idle", where: "rest", why: "at its prompt", re: /(?:)/ };

/** How a client draws its input box, as the config describes it. */
type TypedBox = Pick<Backend, "boxRe" | "emptyRe">;

/** The compiled patterns of the config, by flags and source. */
const patterns = new Map<string, RegExp>();

/** The last rule for a client whose box is described: it is on the screen. */
const AT_BOX = "box_re";
const atBox = (boxRe: string, emptyRe?: string): Rule => ({
  name: AT_BOX, verdict: "idle", where: "plain", why: "at its prompt", re: boxRegExp(boxRe),
  given: boxRe, box: { boxRe, ...(emptyRe === undefined ? {} : { emptyRe }) },
});

/** Commands of Gemini that may cure an error, take it out of the conversation or leave that. */
const GEMINI_REMEDY = String.raw`/(?:auth|model|clear|compress|chat|resume|rewind|restore|init)\b`;
/** What a person's `/stats` and the like printed, which is no turn. */
const GEMINI_REPLIES = String.raw`(?:\n▄{8}.*\n > (?!${GEMINI_REMEDY})/\S.*`
  + String.raw`(?:\n(?!✦|▄|✕ \[API ).*)*)*`;
// Gemini's newest error: between it and the box there is nothing but a hint of its own.
const geminiError = (said: RegExp): Pick<Rule, "where" | "has" | "re"> => ({
  where: "screen", has: "✕ [API Error: ", re: new RegExp(
    String.raw`^✕ \[API Error: (?:${said.source}).*(?:\n(?![✦✕▄]).*)*`
    + String.raw`${GEMINI_REPLIES}\n${GEMINI_TOP}(?:\n(?!▄).*)*(?![^])`, "m") });
/** An error of which the screen has only the end. */
const CUT_OFF = "error cut off";
/** The same error with its first line scrolled away; `@` = anywhere in the rest of it. */
const geminiCut = (holds: RegExp): Pick<Rule, "where" | "has" | "re"> => ({
  where: "screen", has: "ℹ This request failed.", re: new RegExp(
    String.raw`(?![^]*^✕ )${holds.source.replaceAll("@", String.raw`(?:(?!^ℹ )[^])*`)}[^]*`
    + String.raw`^ℹ This request failed\..*(?:\n(?![✦✕▄]).*)*\n${GEMINI_TOP}(?:\n(?!▄).*)*(?![^])`,
    "miy") });
/** Gemini's status line, right above its box: a wider drawing may have left others further up. */
const geminiStatus = (line: string): RegExp => new RegExp(
  String.raw`^${line}.*(?:\n {9}.*)?\n─{8}.*\n(?:(?![▄▀─]).*\n){1,3}${GEMINI_TOP}`, "m");
/** A framed dialog of Gemini with such a line in it, and no input box below it. */
const geminiFrame = (holds: RegExp): RegExp => new RegExp(
  String.raw`^ ?│${holds.source}.*(?:\n ?│.*)*\n ?╰─+╯(?:\n(?!${GEMINI_TOP}).*)*(?![^])`, "m");

/** How Codex refuses a command that a person typed. */
const CODEX_REFUSALS = [".*\\bUse /\\w+ to see ", ".* to use /\\w+\\.", "Cannot open "];

/** What Codex asks at its start and near a limit, where Enter would trust or change the model. */
const CODEX_QUESTIONS: Rule[] = [
  question("login", "asks how to log in", /^ *Welcome to Codex, [^]*\bPress enter to continue/),
  question("trust", "asks whether to trust its folder",
    /^ *Trust this folder\? [^]*\n› 1\. Trust and continue$/,
    String.raw`^› 1\. Trust and continue\s*$`, "Enter"),
  question("hooks", "asks to review its hooks",
    /^ *Hooks need review\n[^]*\n› 1\. Review hooks$/,
    String.raw`^› 1\. Review hooks\s*\n[^]*^\s+3\. Continue without trusting`,
    "Down", "Down", "Enter"),
  question("new model", "asks whether to try a new model", /^› 1\. Try new model$/,
    String.raw`^› 1\. Try new model\s*\n\s+2\. Use existing model\s*$`, "Down", "Enter"),
  question("smaller model", "asks whether to change to a smaller model", /^› 1\. Switch to \S+/,
    String.raw`^› 1\. Switch to \S+ [^]*^ +enter select · esc back\s*$`, "Escape"),
];

const GEMINI_QUESTIONS: Rule[] = [
  question("trust", "asks whether to trust its folder",
    geminiFrame(/ +Do you trust the files in this folder\?/),
    String.raw`^ ?│ ● 1\. Trust folder \(`, "Enter"),
  question("login", "asks how to authenticate",
    geminiFrame(/ +How would you like to authenticate for this project\?/)),
];

/** Whether a verdict is by one of these rules, whose `why` says what is asked. */
const namesQuestion = ({ rule, where }: Verdict): boolean =>
  [...CLAUDE_QUESTIONS, ...CODEX_QUESTIONS, ...GEMINI_QUESTIONS]
    .some((one) => one.name === rule && one.where === where);

/**
 * The built-in rules, measured on the versions in `MEASURED`. The first match wins; without any the
 * verdict is `unsure`. A `typed` client is idle only by what its operator describes (`restRules`),
 * never by a box that looks like another client's: Qwen Code draws its box at work too. Without a
 * description its process decides (`screenVerdict`). They are made once a screen is read: no start
 * waits for them.
 */
export const builtInRules = once((): Record<BackendKind, Rule[]> => ({
  claude: [
    { name: "no session", verdict: "fatal", where: 3, why: "no such session to resume",
      re: /^No conversation found with session ID:/m },
    // the client's message has scrolled away; in a narrow pane the end of it, the id, is left
    { name: "died at start", verdict: "fatal", where: "screen", why: "it ended as it started",
      re: /^\s*(?:[\da-f-]{36}\s+)?Pane is dead \(status 1\b/ },
    { name: "resume hint", verdict: "unsure", where: 4, why: "the client has ended",
      re: /^Resume this session with:\s+claude --resume/m },
    { name: "suspended", verdict: "unsure", where: 2, why: "suspended: run fg in its pane",
      re: /^Claude Code (?:is|has been) suspended\. Run `fg`/ },
    ...GONE,
    { name: "agents view", verdict: "blocked", where: "title", why: "the agents view is open",
      re: /(?:^|· )claude agents$/ },
    { name: "agents view foot", verdict: "blocked", where: "foot", why: "the agents view is open",
      re: / · enter to return · space to reply · / },
    { name: "agents view box", verdict: "blocked", where: "box", why: "the agents view is open",
      re: NEW_SESSION },
    { name: "search", verdict: "blocked", where: "foot", why: "the history search is open",
      re: /^ {2}search prompts:/ },
    { name: "limit menu", verdict: "limited", where: "dialog", closes: "Escape",
      re: /^\s*What do you want to do\?[^]*\d\. Stop and wait for limit/ },
    ...CLAUDE_QUESTIONS,
    { name: "dialog hint", verdict: "blocked", where: "dialog", why: "a dialog is open",
      re: /^(?:.* · | *)(?:(?:Press )?Enter to \w+\b|Esc to \w+\b).*(?:\n.*){0,2}(?![^])/m },
    { name: "dialog choice", verdict: "blocked", where: "dialog", why: "a dialog is open",
      re: /^(?: *❯ (?:\d+\. \S|No, exit|No \()| *\d+\. Deny \(esc\)| +❯ ✔ )(?![^]*\n[A-Z])/m },
    { name: "dialog cut off", verdict: "blocked", where: "screen", why: "a dialog is open",
      re: /^[─▔]{8}.*\n {1,2}[A-Z].*(?:\n(?: .*)?){8,}(?![^])/m },
    { name: "title", verdict: "active", where: "title", why: "busy title", animated: true,
      re: /^[◐◑⠁-⣿] / },
    // anchored to the client's own line: an operator's status line above it may say anything
    { name: "footer", verdict: "active", where: "foot", why: "busy footer",
      re: anyOf(/^ {2}[⏵⏸].* · (?:(?:esc|ctrl\+c) to interrupt\b|e(?:sc?)?…$)/m,
        /^ {2}esc to interrupt · ← /m) },
    { name: "spinner", verdict: "active", where: "event", why: "spinner", animated: true,
      re: /^[·✢✳✶✻✽*∗] (?:\S.*…(?: \((?:esc |(?:\d+[hm] )*\d+s\b)|$)|.*retrying in \d+s · att)/i },
    { name: "transcript", verdict: "blocked", where: 1, why: "its transcript view is open",
      re: /^\s*Showing detailed transcript · / },
    { name: "limit footer", verdict: "limited", where: "foot",
      re: /^ {2}⚠ Usage limit reached(?: · (?:limit resets|continuing) |\n +Continuing )/m },
    { name: "limit banner", verdict: "limited", where: "event", whole: true, re: CLAUDE_BANNER },
    { name: "credit", verdict: "blocked", where: "event", why: "no credit",
      re: anyOf(/^[⎿●] (?:Credit balance (?:is )?too low|Your usage allocation has been disabled)/,
        /^[⎿●] Your (?:seat type doesn['’]t include |group['’]s usage limit is set to )/,
        /^[⎿●] (?:Fable|Haiku|Mythos|Opus|Sonnet)(?: [^·]{1,40})? requires usage credits\b/) },
    { name: "login", verdict: "blocked", where: "event", why: "login needed",
      re: anyOf(/^[⎿●] (?:Please run \/login ·|Invalid API key|OAuth token |API Error: 401 )/,
        /^[⎿●] (?:Failed to authenticate[.:]|Could not refresh your login:|Invalid [\w ]+ · Fix )/,
        /^[⎿●] (?:Not logged in · Please|Authentication required ·|Your apiKeyHelper script is )/,
        /^[⎿●] (?:Anthropic profile l|L)ogin (?:expired|reached its time limit) ·/,
        /^[⎿●] [A-Z][\w ]+ (?:credentials expired or invalid|authentication failed) ·/) },
    { name: "no login", verdict: "blocked", where: "foot", why: "login needed",
      re: /\bNot logged in · [Rr]un \/login$/m },
    { name: "account", verdict: "blocked", where: "event", why: "the account or model is refused",
      re: anyOf(/^[⎿●] Your (?:\w+ belongs to a disabled |organization has disabled )/,
        /^[⎿●] (?:Your account is on hold |Usage is paused for your organization\.)/,
        /^[⎿●] Claude Code can't use your /,
        /^[⎿●] (?:There's an issue with the selected model |The model \S+ is not available on )/,
        /^[⎿●] (?:Claude \w+ is not available with |This service is disabled for your org)/,
        /^[⎿●] (?:Your organization's gateway|Gateway) refused the request\b/) },
    { name: "poisoned", verdict: "fatal", where: "event", why: "the conversation is broken",
      re: /^[⎿●] API Error: 400 (?:\S+: |.*\. Run \/rewind to recover )/ },
    { name: "too long", verdict: "fatal", where: "event", why: "the conversation is too long",
      re: /^[⎿●] (?:Prompt is too long|Context limit reached ·|Request too large \()/ },
    { name: UNKNOWN_ERROR, verdict: "blocked", where: "event", why: "an error that no rule knows",
      re: ERROR_THAT_STAYS },
    { name: "fix first", verdict: "blocked", where: "box", why: "a person must fix the account",
      re: /^Once fixed, resend your message$/ },
    { name: "rewind", verdict: "fatal", where: "box", why: "the conversation is broken",
      re: /^Run \/rewind to go back$/ },
    { name: "background work", verdict: "background", where: "event", why: "background work",
      re: /^✻ Waiting for \d+ .* to finish/ },
    { name: "still running", verdict: "background", where: "done", why: "background work",
      re: / · \d+ .*\bstill running$/m },
    { name: "background footer", verdict: "background", where: "foot", why: "background work",
      re: anyOf(/^ {2}(?:[⏵⏸].* · )?(?:(?:\d+ [a-z][a-z ]+(?:, )?)+|.* \(running\)) · .*↓ to /m,
        /^ {2}[⏵⏸].* · \d+ (?:local agent|shell|background task)s?(?: ·|$)/m) },
    { name: "wake-up", verdict: "background", where: "turn", why: "it has scheduled a wake-up",
      has: "ScheduleWakeup(",
      re: /(?:[^]*\n)?● ScheduleWakeup\(.*\n {2}⎿\s+Next wakeup scheduled for (?<clock>[\d:]+)/y },
    AT_PROMPT,
  ],
  opencode: [
    { name: "trace", verdict: "fatal", where: 3, why: "the client crashed",
      re: /^ +at .*\/\$bunfs\/.*(?:\nPane is dead \(status [1-9].*)?(?![^])/m },
    { name: "continue hint", verdict: "unsure", where: 3, why: "the client has ended",
      re: /^ *Continue {2}opencode -s ses_/m },
    ...GONE,
    { name: "no server", verdict: "unsure", where: "screen", why: "its server does not answer",
      re: /^(?:.*\n){0,7}.*┃ +Unable to connect\b[^┃\n]*┃/ },
    { name: "limit retry", verdict: "limited", where: "foot", whole: true,
      re: /^(?=[^]*(?:\bretrying\b|attempt\s+#\d))[^]*(?:usage.{0,3}(?:limit|exc)|quota)/i },
    { name: "permission", verdict: "blocked", where: "dialog", why: "permission dialog",
      re: /┃ +△ (?:Permission required|Always allow)|Allow once\s+Allow always\s+Reject/ },
    { name: "question", verdict: "blocked", where: "dialog", why: "question",
      re: /┃(?<=^[^┃\n]*┃).*enter (?:submit|confirm)\s+esc dismiss/m },
    { name: "picker", verdict: "blocked", where: "dialog", why: "a dialog is open",
      re: POPUP_TITLE },
    { name: "bar", verdict: "active", where: "foot", why: "busy bar", animated: true,
      re: /^ {2,4}[⬝■]/m },
    { name: "interrupt", verdict: "active", where: "foot", why: "busy footer",
      re: /esc\s+(?:again to )?interrupt|\bretrying\b|attempt\s+#\d/ },
    { name: "credit", verdict: "blocked", where: "event", why: "no credit",
      re: anyOf(/^Insufficient (?:credits|balance)/i, /^Your credit balance/i,
        /^Quota exceeded\. Check your plan/i) },
    { name: "limit error", verdict: "limited", where: "event", whole: true,
      re: /^(?:.{0,40}usage.{0,3}limit|Free usage exceeded|.{0,40}quota exceeded)/i },
    { name: "access", verdict: "blocked", where: "event", why: "key, login or model refused",
      re: anyOf(/^(?:Incorrect|(?:AI Gateway .*)?Invalid) API key/,
        /^(?:Token refresh failed|Unauthorized|Your account does not|Forbidden)/,
        /^(?:The model .* not |Model not found: )/) },
    { name: "bad request", verdict: "fatal", where: "event", why: "the conversation is broken",
      re: /^Bad request\b/i },
    AT_PROMPT,
  ],
  codex: [
    { name: "no session", verdict: "fatal", where: 3, why: "no such session to resume",
      re: /^ERROR: No saved session found with ID /m },
    { name: "resume hint", verdict: "unsure", where: 3, why: "the client has ended",
      re: /^(?:To continue this session, run|Session ID: [\da-f-]{36}$)/m },
    ...GONE,
    { name: "action required", verdict: "blocked", where: "title", why: "an approval or a question",
      re: /^\[ ?[!.] ?\] Action Required/ },
    ...CODEX_QUESTIONS,
    // its last line, which wraps in a narrow pane, says what Enter does
    { name: "dialog", verdict: "blocked", where: "dialog", why: "a dialog is open",
      re: /^(?=.*(?:\n.*){0,3}(?![^])) *(?:\S.* [|·] )?(?:Press )?enter(?:\/esc)? \S/m },
    { name: "dialog choice", verdict: "blocked", where: "dialog", why: "a dialog is open",
      re: /^ *› \d+\. \S/m },
    // over the transcript; the box stays below it, but its last line, which names keys, is gone
    { name: "popup", verdict: "blocked", where: "screen", why: "a dialog is open", has: "enter ",
      re: new RegExp(String.raw`^.* {2}(?:Press )?enter \S.*\besc \w+(?:[ │|].*)?\n(?:.*\n)*`
        + String.raw`› Ask Codex .*\n\n {2}\S.* · [/~].*`
        + String.raw`(?:\n {2}(?! *[←?⚠]|esc |tab )\S.*)?(?![^])`, "m") },
    // the first line has its tab; what is typed then is none of the agent's own conversation
    { name: "side", verdict: "blocked", where: "screen", why: "a side conversation is open",
      re: /^(?:.*│)? \S.* × +\+\n/ },
    { name: "pager", verdict: "blocked", where: "dialog", why: "its pager is open",
      re: /^─{8,} +\d+% ─\n(?: .*\n?)+(?![^])/m },
    { name: "search", verdict: "blocked", where: "foot", why: "the history search is open",
      re: /^ {2}reverse-i-search:/m },
    { name: "server lost", verdict: "unsure", where: 14, why: "its server is lost",
      re: /^[•◦] Reconnecting to server…/m },
    // the only sign of work while an answer is drawn
    { name: "title", verdict: "active", where: "title", why: "busy title", animated: true,
      re: /^[⠁-⣿] / },
    // "Worked for" closes a turn. A narrow pane cuts the time off; only work has a blinking bullet
    { name: "working", verdict: "active", where: 14, why: "spinner", animated: true,
      re: new RegExp(String.raw`^(?:◦ \S.*…$|[•◦] \S.* \((?:\d+[hm] )*\d+s • esc to interrupt\))`
        + String.raw`(?:.*\n(?!  Worked for ))*.*(?![^])`, "m") },
    // no quote can begin with the square: what a model or a person says is indented
    { name: "usage limit", verdict: "limited", where: "event", whole: true,
      re: /^■ You['’]ve hit your usage limit/ },
    { name: "broken conversation", verdict: "fatal", where: "event",
      why: "the conversation is broken",
      re: /^■ (?:Codex ran out of room in|\{\s*"error":)/ },
    // login, plan, quota, model: all but the errors that the next prompt may get past
    { name: "error", verdict: "blocked", where: "event", why: "an error that stays",
      re: new RegExp("^■ (?!" + [
        "Conversation interrupted", "exceeded retry limit, last status: (?:429|5)",
        "We['’]re currently experiencing", "Selected model is at capacity", "stream disconnected",
        "Connection failed: ", "Error while reading the server response", "request timed out",
        "interrupted \\(Ctrl-C\\)", "Policy-restricted capacity is unavailable",
        "unexpected status 5",
        ...CODEX_REFUSALS,
      ].join("|") + ")") },
    atBox(CLIENTS.codex.box_re, CLIENTS.codex.empty_re),
  ],
  gemini: [
    { name: "no session", verdict: "fatal", where: 6, why: "no such session to resume",
      re: /^Error resuming session: Invalid session identifier/m },
    { name: "resume hint", verdict: "unsure", where: 3, why: "the client has ended",
      re: /To resume this session: gemini/ },
    ...GONE,
    { name: "action required", verdict: "blocked", where: "title", why: "an approval or a question",
      re: /^✋/ },
    // before the title, which may still say that it works
    { name: "limit menu", verdict: "limited", where: 20, closes: /[^]*\n ?│ [● ] (\d)\. Stop /,
      re: geminiFrame(/ +(?:Usage limit reached for|You have exhausted your) /) },
    ...GEMINI_QUESTIONS,
    { name: "dialog", verdict: "blocked", where: 20, why: "a dialog is open",
      re: geminiFrame(/(?=.*(?:● +\d+\. |\b(?:Enter|Esc) to ))/) },
    { name: "session browser", verdict: "blocked", where: 20, why: "a picker is open",
      re: /^ [❯ ] #\d+ +│ .*(?:\n(?![▄─]).*)*(?![^])/m },
    { name: "search", verdict: "blocked", where: 12, why: "the history search is open",
      re: /^[▄─]{8}.*\n \(r:\) .*(?:\n(?![▄▀─]).*)*\n[▀─]{8}/m },
    // before the title, which does not move during work, so that a frozen client is noticed
    { name: "spinner", verdict: "active", where: 12, why: "spinner", animated: true,
      re: geminiStatus(" [⠁-⣿] ") },
    // the newest block, above its to-do list; in the first column, where a model says nothing
    { name: "compressing", verdict: "active", where: "screen", why: "it compresses", animated: true,
      has: "Compressing chat history",
      re: new RegExp(String.raw`^[⠁-⣿] Comp.*(?:\n(?![✦✕ℹ▄▀╭]).*)*\n${GEMINI_TOP}`, "m") },
    { name: "title", verdict: "active", where: "title", why: "busy title", re: /^[✦⏲]/ },
    // it hides that it compresses; at rest a hint follows what is said, if there is room for one
    { name: "queued", verdict: "active", where: "screen", why: "it has queued what it was given",
      has: "Queued (press ", re: new RegExp(String.raw`^ {2}Queued \(press \S+ to edit\):\n`
        + String.raw`(?:(?! *\? for) {4}.*\n|\n)+`
        + String.raw`─{8}.*(?:\n(?![✦✕ℹ▄▀╭]).*)*\n${GEMINI_TOP}`, "m") },
    { name: "tool", verdict: "active", where: 12, why: "its tool prints nothing",
      has: "\n ! ", re: geminiStatus(" ! ") },
    // not MODEL_CAPACITY_EXHAUSTED, which is transient
    { name: "quota", verdict: "limited", ...geminiError(
      /You have exhausted your|Quota exceeded|\{"error":\{"code":429,"message":"(?:Quota|You)/) },
    { name: "broken conversation", verdict: "fatal", why: "the conversation is broken",
      ...geminiError(/\{"error":\{"code":400,"message":"(?!API\s+key)/) },
    // key, login, model: all but the errors that the next prompt may get past
    { name: "error", verdict: "blocked", why: "an error that stays",
      ...geminiError(/(?!terminated|.*(?:fetch failed|"code":(?:429|5)))/) },
    // the same three with the beginning scrolled away; a quota is known by its advice
    { name: "quota cut off", verdict: "limited",
      ...geminiCut(/(?=@(?:AI\s+Studio|another\s+\/auth\s+method))/) },
    { name: "broken conversation cut off", verdict: "fatal", why: "the conversation is broken",
      ...geminiCut(/(?=@"INVALID_ARGUMENT")(?!@API[_\s]+key)/) },
    // only an API error ends in a bracket, not a complaint about an answer, which the next may cure
    { name: CUT_OFF, verdict: "blocked", why: "an error, cut off",
      ...geminiCut(/(?=@\]\n+ℹ )(?!@"(?:UNAVAILABLE|INTERNAL|RESOURCE_EXHAUSTED)")/) },
    atBox(CLIENTS.gemini.box_re, CLIENTS.gemini.empty_re),
  ],
  typed: [
    { name: "marker", verdict: "unsure", where: "screen", why: "nothing shows that it rests",
      re: /WAITING-UNTIL:/, box: {} },
  ],
}));

// Regions: a screen taken apart.

interface Regions {
  lines: string[]; above: string[]; screen: string; plain: string; title: string;
  /** The most expensive region, so it is computed on demand. */
  newest: () => Newest;
  /** null = not on the screen. */
  box: string | null; foot: string | null; dialog: string | null;
}

/**
 * `event`, `done`: as in `Where`, "" for none. `doubtful`: an error, or an answer quoting one.
 * `cutOff`: the event has left the screen.
 */
interface Newest { event: string; done?: string; doubtful?: boolean; cutOff?: boolean }

/** Line numbers of an input box: of its text (`from`, `to`) and its drawing (`first`, `last`). */
interface Box {
  kind: "claude" | "opencode"; from: number; to: number; first: number; last: number;
}

const oneLine = (text: string) => text.replace(/\s+/g, " ").trim();
/**
 * Every screen goes through this first. macOS draws `⏺` where Linux draws `●`; other line ends than
 * a newline become blanks, or `^` and `.` would see more lines than there are.
 */
const splitLines = (text: string) => text.replaceAll("⏺", "●")
  .replace(/[\r\u2028\u2029]/g, " ").split("\n").map((line) => line.trimEnd());

/** The last lines that are not blank; counted from below, as many rules ask for a few of them. */
function lastLines(lines: string[], count: number): string {
  const last: string[] = [];
  for (let at = lines.length - 1; at >= 0 && last.length < count; at--) {
    if (lines[at]) last.unshift(lines[at]!);
  }
  return last.join("\n");
}

/** The last line of `text` that is not blank, trimmed; "" when there is none. */
export const lastNonemptyLine = (text: string): string =>
  text.trimEnd().split("\n").at(-1)!.trim();

// Between two horizontal lines; old versions draw a frame.
function claudeBox(lines: string[]): Box | null {
  const isRule = (line: string) => /^[╭╰]?─{8}/.test(line);
  const last = lines.findLastIndex(isRule);
  const first = lines.slice(0, Math.max(last, 0)).findLastIndex(isRule);
  if (first < 0 || !/^(?:│ )?[❯>!](?:\s|$)/.test(lines[first + 1]!)) return null;
  return { kind: "claude", from: first + 1, to: last - 1, first, last };
}

// On the home screen of a wide pane it is in the middle, below a logo; an answer may quote one.
function opencodeBox(lines: string[]): Box | null {
  const last = lines.findLastIndex((line) => /^ +╹▀{8}/.test(line));
  // Claude Code alone writes these in the first column: its transcript quotes an opencode screen
  if (last < 1 || lines.some((line) => /^[●❯✻─▔]/.test(line))) return null;
  const first = lines.slice(0, last).findLastIndex((line) => !/^ +┃/.test(line)) + 1;
  const isHome = lines.slice(0, first).every((line) => /^[ ▀▄█]*$/.test(line));
  if (!isHome && !/^ {1,6}╹/.test(lines[last]!)) return null;
  return { kind: "opencode", from: first + 1, to: last - 3, first, last };
}

/** The clients whose input box is known without a description. */
const KNOWN_BOXES = { claude: claudeBox, opencode: opencodeBox };
const hasKnownBox = (kind: BackendKind): kind is Box["kind"] => Object.hasOwn(KNOWN_BOXES, kind);
/** Whether its box is read by what is known: a description of the operator's comes first. */
const usesKnownBox = (kind: BackendKind, boxRe: string | undefined): kind is Box["kind"] =>
  boxRe === undefined && hasKnownBox(kind);

// Lines that may follow an event without being newer ones: the limit's menu command, the line about
// continuing, the one that closes the turn, tips, the effort line, the survey. The survey takes a
// box that holds one digit alone as its answer (2.1.330), no longer text.
const FOOTER_LINES = anyOf(
  /^$|^[·✢✳✶✻✽*] [^…]* for \d+[hms]|^❯ (?:\/|Unknown slash command: )rate-limit-options/,
  /^● Usage limit reached ·|^\S \w+ · \/effort|^ +⎿\s+Tip:|Automatic continue cancelled/,
  /^● How is Claude doing this session\?/,
);

/** The line above in the first column, of which an indented line is part; -1 = there is none. */
const ownerOf = (lines: string[], at: number): number =>
  lines.slice(0, at).findLastIndex((line) => /^\S/.test(line));

/**
 * Whether the text behind a `⎿` is the client's own: always under a prompt, and below the output of
 * a tool. Right under a `●` it is the output of that tool or sub-agent, or part of an answer.
 */
function clientSays(lines: string[], at: number): boolean {
  const before = lines[at - 1] ?? "";
  const owner = ownerOf(lines, at);
  if (/^❯/.test(lines[owner] ?? "")) return true;
  return before === "" ? lines[owner + 1]!.startsWith("  ⎿") : !before.startsWith("● ");
}

/** Whether this version ends its own errors with `· done`; null = the screen does not say. */
function printsDoneBehindErrors(lines: string[], foot: string): boolean | null {
  const shown = lines.findLast((line) => /^(?: ▐▛|╭─).* Claude Code v\d/.test(line));
  const [, minor, patch] = /Claude Code v\d+\.(\d+)\.(\d+)/.exec(shown ?? "") ?? [];
  if (minor) return minor === "1" && Number(patch) >= 237 && Number(patch) < 326;
  // later versions show this hint only until the first turn
  return / · ←/.test(foot) ? true : null;
}

/**
 * Whether a block is an answer that begins with a quoted error; null = it may as well be the
 * client's own. A real error is one paragraph, and only the versions between Claude Code 2.1.236
 * and 2.1.326 ended it with a line that says `· done`.
 */
function isQuote(lines: string[], at: number, end: number, done: string, foot: string) {
  const block = lines.slice(at, end);
  const [, ...more] = block.join("\n").split(/\n\n+/);
  if (block[0]!.startsWith("  ⎿") && !clientSays(lines, at)) return true;
  if (more.some((text) => !FOOTER_LINES.test(text.trim()))) return /^(?:●|  ⎿)/.test(block[0]!);
  if (!block[0]!.startsWith("●") || !done.includes(" · done ")) return false;
  const own = printsDoneBehindErrors(lines, foot);
  return own === null ? null : !own;
}

/** What may cure an error or take it out of the conversation: what was newest counts no longer. */
const CLAUDE_REMEDY = new RegExp("^❯ /(?:login|logout|model|clear|compact|rewind|resume|branch|"
  + "fork|upgrade|extra-usage|usage-credits|setup)\\b");

/**
 * The line of a person's `/context`, `!ls` and the like whose output begins at `at`; -1 = there is
 * none. It is no turn, unless a command of the operator's ran into an error.
 */
function commandOf(lines: string[], at: number, block: string): number {
  if (!block.startsWith("⎿")) return -1;
  const owner = ownerOf(lines, at);
  const asked = lines[owner] ?? "";
  if (!/^(?:❯ \/|! )/.test(asked)) return -1;
  const isTurn = /^⎿ (?:Interrupted|API Error)\b/.test(block) || builtInRules().claude.some(
    ({ where, re }) => where === "event" && re.test(block));
  const cures = CLAUDE_REMEDY.test(asked) && !block.startsWith("⎿ Kept ");
  return isTurn || cures ? -1 : owner;
}

/** Whether a `⎿` begins the to-do list of a spinner, which is no newer than that. */
const hangsOnSpinner = (lines: string[], at: number): boolean =>
  /^ {2}⎿(?!\s+Tip:)/.test(lines[at]!) &&
  /^[·✢✳✶✻✽*∗] \S.*…/.test(lines[ownerOf(lines, at)] ?? "");

function claudeNewest(lines: string[], foot: string): Newest {
  let [end, done] = [lines.length, ""];
  for (let at = end - 1; at >= 0; at--) {
    if (!/^(?:\S|  ⎿)/.test(lines[at]!) || hangsOnSpinner(lines, at)) continue;
    const block = oneLine(lines.slice(at, end).join("\n").split("\n\n")[0]!);
    const command = commandOf(lines, at, block);
    if (command >= 0) {
      at = end = command;
      continue;
    }
    if (!FOOTER_LINES.test(lines[at]!)) {
      const quote = isQuote(lines, at, end, done, foot);
      return { event: quote ? "" : block, done, doubtful: quote === null };
    }
    done += / for \d/.test(lines[at]!) ? `${block}\n` : "";
    end = at;
  }
  return { event: "", done, cutOff: true };
}

// A popup lies over the transcript and the box, in the middle of the pane; a quote of one is not.
function opencodePopup(lines: string[], box: Box): number {
  const edge = lines[box.last]!;
  const centred = edge.indexOf("╹") + edge.length;
  return lines.findIndex((line) => {
    const title = POPUP_TITLE.exec(line);
    const off = title ? title.index + line.length - centred : NaN;
    return Math.abs(off) < 2 || Math.abs(off - 42) < 2; // 42: the sidebar of a wide session
  });
}

// Without the toast that may cover the transcript and the sidebar beside it.
function opencodePage(lines: string[], box: Box): string[] {
  const width = lines[box.last]!.length;
  return lines.slice(0, box.first)
    .map((line) => line.replace(/┃[^┃]*┃[^┃]*$/, "").slice(0, width).trimEnd());
}

// An error that ended the turn is a box with a bar right above a `▣` line without a duration. A
// prompt is drawn alike, but right below the `▣` of the turn before.
function opencodeNewest(lines: string[]): Newest {
  const blocks = lines.join("\n").trim().split(/\n\s*\n/);
  const [mark = "", error = "", before = ""] = blocks.slice(-3).reverse();
  const isMark = (block: string) => /^\s*▣/.test(block);
  if (isMark(mark) && / · (?:[\dhms. ]+|interrupted)$/.test(mark)) return { event: "" };
  const isError = isMark(mark) && /^\s*┃/.test(error) && !isMark(before);
  return { event: isError ? oneLine(error.replace(/┃/g, " ")) : "", cutOff: true };
}

// Without a box there is a dialog, from the first horizontal line below the transcript to the end.
// Without that line it is half drawn or scrolled, and what is above it is not trusted.
function splitDialog(lines: string[]): { above: string[]; dialog: string[] } {
  const mark = lines.findLastIndex((line) => /^(?:[●✻] |❯ (?!\d+\. |No))/.test(line));
  const rule = lines.findIndex((line, at) => at > mark && /^[─▔]{8}/.test(line));
  const above = lines.slice(0, Math.max(rule, 0));
  return { above, dialog: lines.slice(Math.max(mark, rule) + 1) };
}

// The `!` of shell mode stays in the text: whatever is typed behind it would be run.
function boxContent(lines: string[], box: Box, frame = lines[box.last]!.length): string {
  const [width, edge] = box.kind === "claude"
    ? [Infinity, /^(?:│ )?(?:[❯>].?| {2})|\s*│$/g] : [frame, /^ +┃ {0,2}/];
  return lines.slice(box.from, box.to + 1)
    .map((line) => line.slice(0, width).replace(edge, "")).join("\n").trim();
}

// Claude Code 2.0 draws its prompts with `>`.
const asDrawnNow = (lines: string[], box: Box | null): string[] =>
  (box && lines[box.from]![0] === ">"
    ? lines.map((line) => line.replace(/^>(?=\s|$)/, "❯")) : lines);

function readRegions({ text, title }: ScreenText): Regions {
  const raw = splitLines(text.trimEnd());
  const claude = claudeBox(raw);
  const lines = asDrawnNow(raw, claude);
  const whole = { lines, screen: lines.join("\n"), plain: text, title };
  const box = claude ?? opencodeBox(lines);
  if (!box) {
    const { above, dialog } = splitDialog(lines);
    const foot = lastLines(lines, 3);
    return { ...whole, above: lines, newest: once(() => claudeNewest(above, foot)),
      box: null, foot, dialog: dialog.join("\n") };
  }
  const foot = lines.slice(box.last + 1).join("\n");
  if (claude) {
    const above = lines.slice(0, box.first);
    return { ...whole, above, newest: once(() => claudeNewest(above, foot)),
      box: boxContent(lines, box), foot, dialog: null };
  }
  const above = opencodePage(lines, box);
  const popup = opencodePopup(lines, box);
  return { ...whole, above, newest: once(() => opencodeNewest(above)), foot,
    ...(popup < 0 ? { box: boxContent(lines, box), dialog: null }
      : { box: null, dialog: lines.slice(popup).join("\n") }) };
}

/** How Codex begins the parts of a turn. */
const CODEX_MARK = /^[›•◦■✗─]/;
/** How Codex and Gemini begin what they say themselves. */
const SAID = /^[•◦■✗✦✕]/;
/** How Codex begins its replies to a person's `/status`, `!ls` and the like, which are no turns. */
const CODEX_REPLY = new RegExp("^(?:/[a-z][\\w-]*(?: |$)|• (?:Unrecognized command '|You ran )|"
  + `■ (?:${CODEX_REFUSALS.join("|")}))`);

/** The lines without the replies to commands at their end: what was newest before still is. */
function withoutReplies(lines: string[]): string[] {
  const isReply = (line: string, at: number) => !lines[at - 1] && CODEX_REPLY.test(line);
  const last = lines.findLastIndex((line, at) => CODEX_MARK.test(line) && !isReply(line, at));
  const reply = lines.findIndex((line, at) => at > last && isReply(line, at));
  return last < 0 || reply < 0 ? lines : lines.slice(0, reply);
}

/** The text from the last paragraph that begins in the first column, else the last paragraph. */
function newestBlock(above: string[]): string {
  const lines = withoutReplies(above);
  const begins = (column: RegExp) =>
    lines.findLastIndex((line, at) => column.test(line) && !lines[at - 1]);
  const first = begins(/^\S/);
  const block = lines.slice(Math.max(first < 0 ? begins(/\S/) : first, 0)).join("\n");
  return `${/^ */.exec(block)![0]}${oneLine(block)}`;
}

/** The regions around a described input box, which is searched for when a rule asks for them. */
function describedRegions({ text, title }: ScreenText, description: TypedBox): Regions {
  const lines = splitLines(text.trimEnd());
  const found = once(() => findBox(text, description));
  return {
    // with the box: parseWaitingUntil takes the lowest prompt line for it
    lines, above: lines, screen: lines.join("\n"), plain: text, title,
    newest: once(() => {
      const event = found()
        ? newestBlock(splitLines(text.slice(0, found()!.from).trimEnd())) : "";
      return { event, cutOff: !SAID.test(event) };
    }),
    get box() {
      return found()?.text ?? null;
    },
    get foot() {
      return found() && splitLines(text.slice(found()!.to).trimEnd()).slice(1).join("\n");
    },
    get dialog() {
      return found() ? null : lastLines(lines, 20);
    },
  };
}

/** Whether a text was typed into a box; what the client itself writes there is none. */
const hasDraft = ({ box }: Regions): boolean => Boolean(box) && !PLACEHOLDER.test(box!);

/**
 * Whether work may not show: a draft replaces the busy footer, a narrow pane cuts it off, and
 * nothing else shows rest.
 */
function mayHideWork(screen: Regions): boolean {
  const { event, done } = screen.newest();
  return (hasDraft(screen) || /^ {2}[⏵⏸].*…$/m.test(screen.foot ?? "")) && !done &&
    !/^✳ /.test(screen.title) && /^[●❯⎿]/.test(event);
}

function regionOf(screen: Regions, where: Where): string | null {
  if (typeof where === "number") return lastLines(screen.lines, where);
  if (where === "event" || where === "done") return screen.newest()[where] ?? "";
  if (where === "turn") {
    const prompt = screen.above.findLastIndex((line) => /^❯ \S/.test(line));
    return screen.above.slice(prompt + 1).join("\n");
  }
  if (where === "rest") return mayHideWork(screen) ? null : screen.box;
  return screen[where];
}

// Limits: the class and the reset of the banner that is live.

const LIMIT_CLASSES: [LimitClass, RegExp][] = [
  // a limit that names its reset ends by the clock too, even if a person could pay before
  ["money", new RegExp("^(?!.*\\bresets?\\b).*(?:spend|credit balance|\\borg[^·]*limit|" +
    "insufficient (?:credit|balance)|usage.credits? limit|out of (?:extra )?usage|budget)", "i")],
  ["5h", /\b(?:5.?h(?:our)?|session) (?:usage )?limit/i],
  ["weekly", /\bweekly\b/i],
  ["model", anyOf(/\b(?:opus|sonnet|haiku|fable|fast)\b[^·]*limit|\bon this model\b/i,
    /\blimit reached for all \w+ models\b/i)],
];
const isLimitClass: Shape = (value) => Object.hasOwn(LIMIT_NAMES, String(value));
const LIMIT_NAMES: Record<LimitClass, string> = {
  "5h": "5-hour limit", weekly: "weekly limit", model: "limit of one model", money: "out of credit",
  other: "usage limit",
};

const classOf = (banner: string): LimitClass =>
  LIMIT_CLASSES.find(([, re]) => re.test(banner))?.[0] ?? "other";

// The matched line, or its paragraph if the line names no time: narrow panes wrap the banner.
function bannerAt(region: string, index: number, now: number): string {
  const from = region.lastIndexOf("\n", index) + 1;
  const [paragraph] = region.slice(from).replace(/^\s+/, "").split(/\n\s*\n/, 1);
  const lines = paragraph!.split("\n", 8);
  return oneLine(parseResetEpoch(lines[0]!, now) === null ? lines.join(" ") : lines[0]!);
}

// The footer and the menu name neither time zone nor kind of limit; the banner above them does.
function limitOf(screen: Regions, rule: Rule, region: string, index: number, now: number): Limit {
  const own = rule.whole ? oneLine(region) : bannerAt(region, index, now);
  const { event } = screen.newest();
  const above = rule.where !== "event" && CLAUDE_BANNER.test(event) ? event : "";
  const banner = above || own;
  const resetAt = parseResetEpoch(banner, now) ?? parseResetEpoch(own, now);
  const kind = classOf(banner);
  return {
    // below a Codex banner, the note of an earlier answer may still name the other window
    class: kind === "5h" && resetAt !== null && resetAt > now + 6 * HOUR ? "other" : kind,
    banner, resetAt,
    native: /^\s*(?:⚠ .* · c|C)ontinuing\b/m.test(screen.foot ?? ""),
  };
}

function limitWhy({ class: kind, resetAt }: Limit, now: number): string {
  if (resetAt === null) return LIMIT_NAMES[kind];
  const day = resetAt - now > DAY ? `${localDate(resetAt)} ` : "";
  return `${LIMIT_NAMES[kind]}, resets ${day}${clockTime(resetAt)}`;
}

/** The input box in a region that has one: what an agent wrote above it may look like one. */
function lowestBox(region: string, { given: boxRe = "" }: Rule): string {
  const found = findBox(region, { boxRe });
  return found ? region.slice(found.from, found.to) : "";
}

// Credit does not come back with time: a person has to pay, so it is never waited for.
function ruled(screen: Regions, rule: Rule, match: RegExpExecArray, now: number): Verdict {
  const unpaid = rule.verdict === "blocked" && classOf(match[0]) === "money";
  const limit = rule.verdict === "limited" || unpaid
    ? limitOf(screen, rule, match.input, match.index, now) : null;
  const found: Verdict = {
    verdict: limit?.class === "money" ? "blocked" : rule.verdict, rule: rule.name,
    where: typeof rule.where === "number" ? `last ${rule.where}` : rule.where,
    text: oneLine(rule.name === AT_BOX ? lowestBox(match.input, rule) : match[0]).slice(0, 200),
    limit, waitingUntil: match.groups?.clock ? clockNear(match.groups.clock, now) : null,
    why: rule.why ?? (limit ? limitWhy(limit, now) : rule.name),
  };
  return rule.where === "event" && screen.newest().doubtful
    ? { ...found, verdict: "unsure", limit: null, doubted: found,
      why: `an error, or text that quotes one: ${found.why}` }
    : found;
}

/** By the first rule that matches; if none does, nothing is known. */
function verdictBy(rules: Rule[], screen: Regions, now: number): Verdict {
  const regions: RegionsRead = new Map();
  for (const rule of rules) {
    const match = matchOf(screen, rule, regions);
    if (match) return ruled(screen, rule, match, now);
  }
  const unknown = { verdict: "unsure", where: "screen", limit: null, waitingUntil: null,
    text: lastNonemptyLine(screen.screen) } as const;
  if (!screen.screen) return { ...unknown, rule: "blank", why: "blank screen" };
  return screen.box === null ? { ...unknown, rule: "none", why: "no input box is recognised" }
    : { ...unknown, rule: DRAFT,
      why: `${hasDraft(screen) ? "a draft" : "a narrow pane"} hides whether it is working` };
}

/** The rule of a verdict when a draft in the box hides whether the client works. */
const DRAFT = "draft";
const SOMEONES_DRAFT = "someone's draft is in the input box";
const OUR_DRAFT =
  "our unconfirmed message is still in the input box; submit or clear it by hand";
/** The rule for the menu that a limit opens. */
const LIMIT_MENU = "limit menu";

/** The verdict of a client at its prompt that scheduled a wake-up, or said until when it waits. */
function decideWaiting(
  verdict: Verdict, said: number | null, now: number, longest: number,
): Verdict {
  const { waitingUntil: wakeUp, why } = verdict;
  if (wakeUp !== null) {
    return wakeUp > now ? verdict
      : { ...verdict, verdict: "idle", why: `its ${iso(wakeUp)} wake-up did not happen` };
  }
  if (said === null) return verdict;
  const at = iso(said);
  if (said > now + longest) {
    return { ...verdict, why: `${why}; its WAITING-UNTIL ${at} is too far ahead to wait for` };
  }
  const marked: Verdict = { ...verdict, rule: "marker", where: "screen", waitingUntil: said };
  if (said > now) return { ...marked, verdict: "waiting", why: `waits until ${at}` };
  return verdict.verdict === "background" ? verdict : { ...marked, why: `its wait ended ${at}` };
}

/** The time (wall ms) nearest to `now` at which this machine's clock shows `clock`. */
function clockNear(clock: string, now: number): number {
  const [hours = 0, minutes = 0, seconds = 0] = clock.split(":").map(Number);
  const today = new Date(now).setHours(hours, minutes, seconds, 0);
  return today + Math.round((now - today) / DAY) * DAY;
}

/** What the rules of one look have read: many of them read the same region. */
type RegionsRead = Map<Where, string | null>;

/** What a rule finds. Without a closure for each of the forty of a look: most cost less than it. */
function matchOf(
  screen: Regions, { where, has, re, given }: Rule, regions: RegionsRead,
): RegExpExecArray | null {
  if (has !== undefined && !screen.screen.includes(has)) return null;
  let region = regions.get(where);
  if (region === undefined) regions.set(where, region = regionOf(screen, where));
  if (region === null) return null;
  re.lastIndex = 0; // a sticky pattern matches at the start only
  return given === undefined ? re.exec(region) : timedExec(re, region, given);
}

const timedExec = (re: RegExp, region: string, given: string): RegExpExecArray | null =>
  timed(given, () => re.exec(region));

/**
 * The verdict of one look: by the first rule that matches, else `unsure`. That it is idle has its
 * evidence too: its box is there, and no rule above says that it is busy (`AT_PROMPT`). A client at
 * its prompt may have said until when it waits. `now` is wall ms, `longest` the longest
 * wait that is believed, in ms. Nothing is kept between looks: for a limit the caller keeps the
 * `resetAt` of its first look at the banner.
 */
export function detect(
  rules: Rule[], look: ScreenText, now: number,
  longest = KEYS.watchdog.waiting_max[1] * 1000,
): Verdict {
  const described = rules.at(-1)?.box;
  const screen = described ? describedRegions(look, described) : readRegions(look);
  const verdict = verdictBy(rules, screen, now);
  const hidesEnd = [AT_PROMPT.name, AT_BOX, CUT_OFF].includes(verdict.rule);
  if (hidesEnd && screen.newest().cutOff) verdict.cutOff = true;
  const { event } = hidesEnd ? screen.newest() : { event: "" };
  // what a client says of an error is short
  if (verdict.verdict === "idle" && event && event.length < 300) verdict.last = event;
  const rests = ["idle", "background"].includes(verdict.verdict) || verdict.rule === "marker";
  const said = rests && screen.screen.includes("WAITING-UNTIL:")
    ? parseWaitingUntil(screen.above.join("\n")) : null;
  return decideWaiting(verdict, said, now, longest);
}

/**
 * Until when the agent said it waits: the last `WAITING-UNTIL: <iso>` of its last turn, as wall ms;
 * null = there is none with a readable time. Only the agent's own lines count: in Claude Code
 * nothing below a prompt (`❯`) or in a tool's output (`⎿`), in opencode nothing behind `┃`. A newer
 * prompt ends the turn; in opencode so does the `▣` after the marker's own. The lowest prompt line
 * of an undescribed client is its input box.
 */
export function parseWaitingUntil(text: string): number | null {
  let isOwn = true; // whether the lines are the agent's own
  let stamp = ""; // the time of the newest marker; "" once its turn is over
  let turnEnds = 0; // `▣` lines since the marker
  let asked = ""; // the lowest prompt since the marker, in opencode "┃"; it may be the input box
  for (const line of splitLines(text)) {
    if (/^(?:●|❯|  ⎿)/.test(line)) isOwn = line.startsWith("●");
    const marker = /^[\s●•◦▪*_`>+-]*WAITING-UNTIL:[*_`\s]*(\S+)/.exec(line);
    const prompt = /^ {0,2}[❯›>](?: |$)/.exec(line); // as an undescribed client may draw it
    if (marker && isOwn) [stamp, turnEnds, asked] = [marker[1]!, 0, ""];
    else if (/^❯ \S/.test(line) || (/^ +▣ /.test(line) && turnEnds++)) stamp = "";
    else if (/^ {1,6}╹/.test(line)) asked = ""; // above it was the input box, not a prompt
    else if (prompt || (asked === "┃" && line && !/^ +┃/.test(line))) {
      if (asked) stamp = "";
      asked = prompt ? line.slice(prompt[0].length) : "";
    } else if (/^ {1,6}┃ +\S/.test(line)) asked = "┃";
  }
  const time = asked === "┃" ? "" : stamp.replace(/[*_.,)\]`]+$/, "");
  const at = /^\d{4}-\d\d-\d\d/.test(time) ? Date.parse(time) : NaN;
  return Number.isNaN(at) ? null : at;
}

// Reset times, in every form that a client has used so far.

const MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split(" ");
const WEEKDAYS = "sun mon tue wed thu fri sat".split(" ");
const LEAD = String.raw`(?:^|\b(?:resets?|again|automatically|until)\b)\s*(?:on |at )?\s*`;
const DATE = String.raw`(?<month>${MONTHS.join("|")})[a-z]*\.? (?<day>\d{1,2})(?:st|nd|rd|th)?`;
const CLOCK = String.raw`(?<hour>\d{1,2})(?::(?<minute>\d\d))?\s*(?:(?<half>[ap])m)?\b`;
const WHEN = new RegExp(
  LEAD + String.raw`(?:(?<weekday>${WEEKDAYS.join("|")})[a-z]*,? (?:at )?)?`
  + `(?:${DATE}(?:,? (?<year>\\d{4}))?,? (?:at )?)?`
  + String.raw`(?=\d{1,2}(?::\d\d|\s*[ap]m))${CLOCK}`, "i");
const UNIT = String.raw`\d+\s*(?:d(?:ays?)?|h(?:ours?|rs?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)`
  + "(?![a-z])";
const RELATIVE =
  new RegExp(String.raw`\b(?:in|after)\b:?\s*(${UNIT}(?:(?:[\s,]|and\b)*${UNIT})*)`, "i");

/** How a zone may stand behind a clock. */
const ZONE_BEHIND = /^\s*((?:UTC|GMT)[+-]\d{1,2}(?::?\d\d)?|[+-]\d\d:?\d\d|[A-Z]{3,4})(?![\w:])/;

/** UTC offsets of abbreviated time zones, which no library resolves reliably. */
const zones = once((): Record<string, string> => Object.fromEntries(`
  UTC+00:00 GMT+00:00 WET+00:00 BST+01:00 WEST+01:00 CET+01:00 CEST+02:00 EET+02:00 EEST+03:00
  MSK+03:00 IST+05:30 SGT+08:00 HKT+08:00 AWST+08:00 JST+09:00 KST+09:00 ACST+09:30 AEST+10:00
  AEDT+11:00 NZST+12:00 NZDT+13:00 BRT-03:00 ART-03:00 AST-04:00 ADT-03:00 EST-05:00 EDT-04:00
  CST-06:00 CDT-05:00 MST-07:00 MDT-06:00 PST-08:00 PDT-07:00 AKST-09:00 AKDT-08:00 HST-10:00
`.trim().split(/\s+/).map((zone) => [zone.slice(0, -6), zone.slice(-6)])));

const zonedAt = (epoch: number, zone: string): Temporal.ZonedDateTime =>
  new Date(epoch).toTemporalInstant().toZonedDateTimeISO(zone);

// The epochs of a wall clock: two in the hour that a zone repeats in autumn, else the same one
// twice; in the hour that it skips in spring, moved on by the gap.
const epochsAt = (wall: Temporal.PlainDateTime, zone: string): number[] =>
  (["compatible", "later"] as const).map((disambiguation) =>
    wall.toZonedDateTime(zone, { disambiguation }).epochMilliseconds);

/** The zone of a name; null = none is known. */
const namedZone = (name: string): string | null =>
  tried(() => Temporal.Now.zonedDateTimeISO(zones()[name] ?? name).timeZoneId, null);

/** The same, or that of an offset such as `GMT+1` or `+0530`, as a banner may name it. */
function knownZone(name: string): string | null {
  const [, sign, hours = "", minutes = "00"] =
    /^(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d\d))?$/.exec(name) ?? [];
  return namedZone(sign ? `${sign}${hours.padStart(2, "0")}:${minutes}` : name);
}

type Groups = Record<string, string | undefined>;

function timeOfDay({ hour, minute, half }: Groups): Temporal.PlainTime | null {
  const [hours, minutes] = [Number(hour), Number(minute ?? 0)];
  if (minutes > 59 || hours > 23 || (half && (hours < 1 || hours > 12))) return null;
  const shown = half ? hours % 12 + (half.toLowerCase() === "p" ? 12 : 0) : hours;
  return new Temporal.PlainTime(shown, minutes);
}

// The days that a banner may mean, the likeliest first; mostly it is one of the first two.
function daysMeant(when: Groups, today: Temporal.PlainDate): IteratorObject<Temporal.PlainDate> {
  if (when.month) {
    const month = MONTHS.indexOf(when.month.toLowerCase()) + 1;
    const years = when.year ? [Number(when.year)] : [today.year - 1, today.year, today.year + 1];
    return years.values().map((year) =>
      new Temporal.PlainDate(year, month, 1).add({ days: Number(when.day) - 1 }));
  }
  const days = Array(10).keys().map((nth) => today.add({ days: nth - 1 }));
  const weekday = WEEKDAYS.indexOf(when.weekday?.toLowerCase() ?? "");
  return weekday < 0 ? days : days.filter((day) => day.dayOfWeek % 7 === weekday);
}

/** The first time that a banner may mean and that is at most `past` ms ago. */
function occurrence(when: Groups, now: number, zone: string, past: number): number | null {
  const time = timeOfDay(when);
  if (time === null) return null;
  const epochs = daysMeant(when, zonedAt(now - past, zone).toPlainDate())
    .map((day) => epochsAt(day.toPlainDateTime(time), zone))
    .find((each) => when.year || each.some((epoch) => epoch > now - past)) ?? [];
  return epochs.find((epoch) => epoch > now) ?? epochs.at(-1) ?? null;
}

/**
 * How long ago, ms, a reset without a date may be: its clock is cut to the minute, so it may come
 * up to 60 s after it, and a banner is seen up to a tick of 30 s after it was drawn.
 */
const JUST_PASSED = 90_000;

/**
 * How long ago, ms, a reset may be. A date is not moved to next year on the day after it, as its
 * banner may still be on the screen; Codex gives a date for every reset that is not today; and a
 * 5-hour limit is never more than 6 h ahead.
 */
function mayBePast(banner: string, when: Groups, now: number, zone: string): number {
  if (when.month) return DAY;
  if (/^■ .*\btry again at\b/.test(banner)) {
    return Math.max(now - zonedAt(now, zone).startOfDay().epochMilliseconds, JUST_PASSED);
  }
  return classOf(banner) === "5h" ? 18 * HOUR : JUST_PASSED;
}

function relativeMs(span: string): number {
  const parts = [...span.toLowerCase().matchAll(/(\d+)\s*([dhms])/g)];
  return parts.reduce((sum, [, count, unit]) => sum + Number(count) * UNIT_MS[unit!]!, 0);
}

/**
 * The reset that a banner names, as wall ms; null = it names none. `zone` is for banners that name
 * none. A time without a date means its next occurrence unless it has just passed: a banner that is
 * still shown long after its reset reads as tomorrow, so callers keep the first parse of it.
 */
export function parseResetEpoch(banner: string, now: number, zone?: string): number | null {
  const epoch = /\|(\d{10})(\d{3})?(?!\d)/.exec(banner);
  if (epoch) return Number(epoch[1]) * 1000 + Number(epoch[2] ?? 0);
  const shown = oneLine(banner);
  const match = WHEN.exec(shown);
  if (!match?.groups) {
    const span = relativeMs(RELATIVE.exec(shown)?.[1] ?? "");
    // a retry within seconds is no reset
    return span && (span >= MINUTE || !/\bretrying\b/i.test(shown)) ? now + span : null;
  }
  const behind = ZONE_BEHIND.exec(shown.slice(match.index + match[0].length))?.[1];
  const named = [...shown.matchAll(/\(([A-Za-z][\w/+:-]*)\)/g)].map((one) => one[1]);
  const known = [behind, ...named, zone].values().filter((name) => name !== undefined)
    .map(knownZone).find((each) => each !== null);
  const local = known ?? Intl.DateTimeFormat().resolvedOptions().timeZone;
  return occurrence(match.groups, now, local, mayBePast(shown, match.groups, now, local));
}

// The input box: the text that a person, or we, typed and did not send.

const PLACEHOLDER = anyOf(
  /^(?:Press up to edit queued messages|Resend your message to try again|Try ".*")$/,
  /^(?:Once fixed, resend your message|Run \/rewind to go back)$|^Ask anything(?:…|\.{3})? "/,
);

// Ghost text is drawn faint or, in a terminal without faint, grey (ECMA-48 SGR; the greys that
// clients use). tmux resets the two separately: after `0;2`, `39` leaves it faint. Dark letters on
// a coloured background (`badge`) are no ghost text but the token of a long paste.
interface Sgr { faint: boolean; grey: boolean; badge: boolean }
const GREY = /(?:^|;)(?:90|38;5;(?:8|23[2-9]|24\d)|38;2;(\d+);\1;\1)$/;

const NO_SGR: Sgr = { faint: false, grey: false, badge: false };

/** Whether an SGR sequence sets a background with a hue; null = it sets no background. */
function isColoured(sgr: string): boolean | null {
  const back = /(?:^|;)(?:48;5;(\d+)|48;2;(\d+);(\d+);(\d+)|(4[0-79]))(?=;|$)/
    .exec(sgr.replace(/38;(?:5;\d+|2;\d+;\d+;\d+)/g, ""));
  if (!back) return null;
  const [, index, red, green, blue, basic] = back;
  if (index) return Number(index) < 232 && !["0", "7", "8", "15", "16"].includes(index);
  return basic ? !["40", "47", "49"].includes(basic) : red !== green || green !== blue;
}

function applySgr(before: Sgr, sgr: string): Sgr {
  const plain = sgr.replace(/[34]8;(?:5;\d+|2;\d+;\d+;\d+)/g, "").split(";");
  const { faint, grey, badge } = sgr === "" || plain.includes("0") ? NO_SGR : before;
  return {
    faint: plain.includes("2") || (faint && !plain.includes("22")),
    grey: GREY.test(sgr) || (grey && !/(?:^|;)(?:3[0-9]|9[1-7])(?:;|$)/.test(sgr)),
    badge: isColoured(sgr) ?? badge,
  };
}

// The screen without its colours, and the same with the ghost text blanked out.
function dropGhostText(styled: string): { plain: string; bright: string } {
  let [sgr, plain, bright] = [NO_SGR, "", ""];
  for (const piece of styled.split(/(\x1b\[[\d;]*m)/)) {
    const code = /^\x1b\[([\d;]*)m$/.exec(piece);
    if (code) sgr = applySgr(sgr, code[1]!);
    else {
      plain += piece;
      bright += sgr.faint || (sgr.grey && !sgr.badge) ? piece.replace(/[^\n]/g, " ") : piece;
    }
  }
  return { plain, bright };
}

/** A `box_re` that matches only within six lines of the bottom: a box further up is a quote. */
function boxRegExp(boxRe: string): RegExp {
  const { source, flags } = compiled(boxRe, "m");
  return compiled(`(?:${source})(?=.*(?:\\n.*){0,5}\\s*(?![^]))`, flags);
}

/**
 * A described input box: its unsent text, and the offsets of its start and of the text's end. The
 * lowest match is the box: one that an agent quotes is above it.
 */
function findBox(screen: string, { boxRe, emptyRe }: TypedBox) {
  if (boxRe === undefined) return null;
  const { source, flags } = boxRegExp(boxRe);
  const last = timed(boxRe, () => [...screen.matchAll(new RegExp(source, `${flags}dg`))].at(-1));
  if (!last) return null;
  const shown = last.groups?.text?.trim() ?? "";
  const empty = emptyRe !== undefined && timed(emptyRe, () => compiled(emptyRe, "").test(shown));
  const to = last.indices!.groups?.text?.[1] ?? last.index + last[0].length;
  return { text: empty ? "" : shown, from: last.index, to };
}

/**
 * The unsent text in the input box: null = no box is recognised, "" = it is empty or shows a
 * placeholder. `styled` is the same screen with its colours (`-e`); without it ghost text is known
 * by its wording alone. A `typed` client has the box that `box_re` describes, or none.
 */
export function composerText(
  kind: BackendKind, plain: string, styled?: string, box: TypedBox = {},
): string | null {
  const { plain: shown, bright } = styled ? dropGhostText(styled) : { plain, bright: plain };
  if (!usesKnownBox(kind, box.boxRe)) {
    return findBox(bright, box)?.text === "" ? "" : findBox(shown, box)?.text ?? null;
  }
  const lines = splitLines(shown.trimEnd());
  const found = KNOWN_BOXES[kind](lines);
  if (!found) return null;
  const all = boxContent(lines, found);
  if (kind === "claude" && NEW_SESSION.test(all)) return null;
  // measured by the plain screen, as the lower edge may be grey too
  const own = boxContent(splitLines(bright), found, lines[found.last]!.length);
  // of ghost text, the first letter is under the cursor and therefore not dim
  const text = PLACEHOLDER.test(all) || (own.length <= 1 && all.length > 1) ? "" : own;
  // as in Claude Code's box, where it stands: whatever is typed behind it would be run
  return kind === "opencode" && OPENCODE_SHELL.test(lines[found.last - 1]!) ? `!${text}` : text;
}

/** The screen above the input box: a text there was sent, one in the box was not. */
function aboveBox(kind: BackendKind, plain: string, box: TypedBox): string {
  if (!usesKnownBox(kind, box.boxRe)) return plain.slice(0, findBox(plain, box)?.from ?? 0);
  const lines = splitLines(plain.trimEnd());
  return lines.slice(0, KNOWN_BOXES[kind](lines)?.first ?? 0).join("\n");
}

/** Whether a text in the box would pass for an empty box, or for a box of its own. */
function hidesInBox({ kind, boxRe, emptyRe }: Backend, value: string): boolean {
  if (usesKnownBox(kind, boxRe)) {
    return PLACEHOLDER.test(value.trim()) || NEW_SESSION.test(value);
  }
  return (boxRe !== undefined && compiled(boxRe, "m").test(value)) ||
    (emptyRe !== undefined && compiled(emptyRe, "").test(value.trim()));
}

// The rules of a backend: the operator's patterns and the built-in ones.

/** How long, ms, an operator's pattern may take for one screen. */
const PATTERN_MAX = 200;
/** Those that took longer for the agent whose screen is read now; see `readingFor`. */
let slowPatterns: Set<string> | null = null;

/** Times a match of an operator's pattern, twice if slow: the machine may just have been busy. */
function timed<T>(given: string | undefined, match: () => T): T {
  const began = performance.now();
  const found = match();
  if (given === undefined || performance.now() - began <= PATTERN_MAX) return found;
  const again = performance.now();
  match();
  if (performance.now() - again > PATTERN_MAX) slowPatterns?.add(given);
  return found;
}

/**
 * Reads what an agent shows, and switches off for it the patterns that are too slow: they would
 * delay all others at every tick. None hangs, as Bun gives up on a match after about a second
 * (measured on 1.4.5).
 */
function readingFor<T>(cfg: Config, agent: Agent, read: () => T): T {
  const slow = slowPatterns = new Set<string>();
  const found = read();
  slowPatterns = null;
  for (const pattern of slow) switchOff(cfg, agent, pattern);
  return found;
}

function switchOff(cfg: Config, agent: Agent, slow: string): void {
  const whole = backendOf(cfg, agent);
  const names = PATTERN_KEYS.filter((key) => whole[key] === slow);
  const backend = { ...whole, rule: whole.rule.filter(({ re }) => re !== slow),
    answer: whole.answer.filter(({ re }) => re !== slow) };
  for (const key of names) delete backend[key];
  reducedBackends.getOrInsertComputed(cfg, () => new Map()).set(agent.name, backend);
  log(`${agent.name}: the pattern ${show(slow)} of backend "${whole.name}" takes over ` +
    `${PATTERN_MAX} ms for its screen: switched off for it until the config changes`);
  emit(cfg, "pattern", { agent: agent.name, pattern: slow });
}

const PATTERN_KEYS = ["activeRe", "limitRe", "fatalRe", "readyRe", "boxRe", "emptyRe"] as const;

/** A pattern of the config, ignoring case as in the original; null = not given, or "". */
export function backendRe(
  backend: Backend, key: "activeRe" | "limitRe" | "fatalRe" | "readyRe",
): RegExp | null {
  const source = backend[key];
  return source ? compiled(source, key === "readyRe" ? "" : "i") : null;
}

function compiled(source: string, flags: string): RegExp {
  return patterns.getOrInsertComputed(`${flags} ${source}`, () => parsePattern(source, flags));
}

/** What the program calls its findings that no rule of `builtInRules` makes. */
const FINDINGS = ["blank", "none", DRAFT, "marker", "in front", "server", "turn", "busy", "waiting",
  "shell", "idle", "account", "log_grace", "folder"];

/** An operator's rule never has the name of one of the program's: those are looked up by name. */
function nameOfOwn({ kind }: Backend, name: string | undefined, nth: number): string {
  const isTaken = builtInRules()[kind].some((rule) => rule.name === name) ||
    FINDINGS.includes(name ?? "");
  return isTaken ? `${name} (yours)` : name ?? `rule ${nth + 1}`;
}

const compiledRules = new WeakMap<Backend, Rule[]>();

/** The operator's rules, then the built-in ones; active_re and so on replace those of a verdict. */
export const rulesOf = (backend: Backend): Rule[] =>
  compiledRules.getOrInsertComputed(backend, compileRules);

function compileRules(backend: Backend): Rule[] {
  const own = backend.rule.map((rule, nth): Rule => ({
    name: nameOfOwn(backend, rule.name, nth), verdict: rule.verdict,
    where: Number(/^last (\d+)$/.exec(rule.where)?.[1]) || rule.where as Exclude<Where, number>,
    re: compiled(rule.re.replaceAll("⏺", "●"), ""), given: rule.re, whole: rule.whole,
  }));
  let rules = builtInRules()[backend.kind].filter(({ box }) => !box);
  const replacing = [["activeRe", "active"], ["limitRe", "limited"], ["fatalRe", "fatal"]] as const;
  for (const [key, verdict] of replacing) {
    const re = backendRe(backend, key);
    // completed opencode turns leave their footers on the screen
    const where = backend.kind === "opencode" && key === "activeRe" ? 10 : "screen";
    if (re) rules = replaceRules(rules, { name: key, verdict, where, re, given: backend[key]! });
  }
  return [...own, ...rules, ...restRules(backend)];
}

/** The rule by which a described client is idle: its box, else its ready mark. */
function restRules(backend: Backend): Rule[] {
  const { boxRe, emptyRe, readyRe } = backend;
  const drawn = hasKnownBox(backend.kind);
  if (boxRe !== undefined) {
    const { box, ...rule } = atBox(boxRe, emptyRe);
    return [{ ...rule, ...(drawn ? {} : { box }) }];
  }
  if (drawn) return [];
  if (readyRe === undefined) return builtInRules().typed;
  return [{ name: "ready_re", verdict: "idle", where: "screen", why: "at its prompt",
    re: compiled(readyRe, "m"), given: readyRe, box: {} }];
}

/** Puts a rule in the place of the last one of its verdict, else behind all that outrank it. */
function replaceRules(rules: Rule[], rule: Rule): Rule[] {
  const last = rules.findLastIndex((one) => one.verdict === rule.verdict);
  const rank = (verdict: VerdictName) => ["blocked", "active", "limited", "fatal"].indexOf(verdict);
  const behind = rules.findLastIndex((one) => rank(one.verdict) < rank(rule.verdict)) + 1;
  return rules.toSpliced(last < 0 ? behind : last, 0, rule)
    .filter((one) => one === rule || one.verdict !== rule.verdict);
}

/**
 * Whether the client that we started is in the foreground of its pane, running and not stopped. One
 * without our mark is recognised by its command. False also where the system does not tell.
 */
function isInFront(cfg: Config, agent: Agent, pane: Pane): boolean {
  const { state, group, front } = statOf(pane.pid);
  const ours = pane.startedPid > 0 || pane.backend !== "" ||
    pane.command === expectedBackendCmd(cfg, agent);
  return state !== "" && !/[TtZX]/.test(state) && group === front && ours &&
    !isLeftShell(argvOf(pane.pid), backendOf(cfg, agent));
}

/** Whether an interactive shell has taken the client's place, as after `client; exec sh`. */
function isLeftShell([program = "", ...words]: string[], { bin }: Backend): boolean {
  const name = basename(program).replace(/^-/, "");
  return /^(?:ba|da|z|k|fi)?sh$/.test(name) && name !== basename(programOf(bin)) &&
    words.every((word) => !word || word.startsWith("-"));
}

/**
 * The verdict of one look at an agent's screen. If its operator describes neither box nor ready
 * mark, a client in the foreground is at its prompt, provided that its screen does not change.
 */
function screenVerdict(cfg: Config, agent: Agent, pane: Pane, look: ScreenText): Verdict {
  const backend = backendOf(cfg, agent);
  const longest = cfg.watchdog.waitingMax * 1000;
  const verdict = readingFor(cfg, agent, () =>
    detect(rulesOf(backend), look, world.now(), longest));
  const described = backend.boxRe !== undefined || backend.readyRe !== undefined;
  const unknown = verdict.verdict === "unsure" && ["none", DRAFT, "marker"].includes(verdict.rule);
  if (backend.kind !== "typed" || described || !unknown) return verdict;
  return isInFront(cfg, agent, pane) ? { ...verdict, verdict: "idle", rule: "in front",
    where: "process", why: "its client is in the foreground" } : verdict;
}

// ── phases and prompts ──────────────────────────────────────────────────────────
// The loop pair works through a sequence of phases. A stored phase that cannot be read is an error
// that stops the loops, and never phase 0: that would start the whole build again.

/** A line under DONE that puts the verdict off instead of giving it; without its Markdown marks. */
export const DONE_PLACEHOLDER_RE = new RegExp(
  "^\\s*" +
    // "This phase is still …", "Status: not yet", "Evidence: TODO"
    "(?:(?:this|the|it|we|phase|section|status|evidence|verdict|done|build|gates?|items?|work|" +
    "is|are|was|has|have|been)[\\s:]+)*" +
    "(?:" +
    [
      "not (?:yet|done|complete|finished|ready|reached|started|verified|applicable)\\b",
      "(?:incomplete|unfinished|unverified|pending|ongoing|blocked|partial(?:ly)?)\\b",
      "(?:tbd|tba|tbc|to[ -]?do|fixme|xxx|wip|n/?a)\\b",
      "in[ -]progress\\b|(?:almost|nearly)\\b|(?:still|currently) (?!all\\b)",
      "(?:awaiting|awaits|waiting|wait for)\\b",
      "(?:none|nothing) (?:yet|so far|here)\\b",
      "(?:none|nothing|no|false|open|unknown|later|soon|never|empty|placeholder)\\W*$",
      "written here only\\b|only (?:when|once|after|if)\\b|(?:when|once|until|if) all\\b",
      "(?:do not|don['’]t|never) (?:write|add|fill|put|set)\\b",
      "(?:to be|will be) (?:written|filled|done|added|determined|decided|verified|confirmed)\\b",
      "(?:fill|write|add|put|insert|describe) (?:in|this|here|the|one|your|evidence)\\b",
      "<(?!https?:)[^>]*>|\\.{3}|…",
    ].join("|") +
    ")",
  "i",
);

/** Begins a hidden block at the start of a line: a code fence (groups 1, 2) or a comment (3). */
const HIDES_LINE_RE = /^ {0,3}(?:(`{3,})(?=[^`\n]*$)|(~{3,})|(<!--))/gm;
/** The same, or a comment in running text. */
const HIDES_RE = new RegExp(`${HIDES_LINE_RE.source}|<!--`, "gm");
/** More code blocks and comments than any real status file has. */
const HIDDEN_MAX = 1_000;
const EMPHASIS_RE = /~~.*?~~|[*_`~]+/g;
const MARKS_RE = /^(?:\s|>|[-+•–—]|\d+[.)]\s|\[[xX✓✔]\]|[☑✅✓✔]|["“‘'(]|\[(?=\p{L}))+/u;
const OPEN_BOX_RE = /^(?:\[\s*[-/]?\s*\]|[☐⬜❌✗✘⏳🚧])/u;
const HEADING_RE = /^#(?:#|\s|$)/;
const UNDERLINE_RE = /^ {0,3}(?:=+|-+)\s*$/;

/** Whether a line is evidence: words, and not a heading, an unticked box or a placeholder. */
function isEvidence(line: string): boolean {
  const said = line.replace(EMPHASIS_RE, "").replace(MARKS_RE, "");
  if (HEADING_RE.test(said) || OPEN_BOX_RE.test(said)) return false;
  return /[\p{L}\p{N}]/u.test(said) && !DONE_PLACEHOLDER_RE.test(said);
}

/** The end of the code block or comment that begins at `open`; -1 = it has none. */
function hiddenEnd(text: string, open: RegExpExecArray): number {
  const from = open.index + open[0].length;
  const fence = open[1] ?? open[2];
  if (!fence) {
    const end = text.indexOf("-->", from);
    return end < 0 ? -1 : end + 3;
  }
  const close = new RegExp(`^ {0,3}${fence[0]}{${fence.length}}[\`~]*[ \\t]*$`, "gm");
  close.lastIndex = text.indexOf("\n", from) + 1 || text.length;
  return close.test(text) ? close.lastIndex : -1;
}

/**
 * The text without code blocks and comments; null = it has too many of them. An unclosed one hides
 * the rest if it begins a line; in running text an unclosed `<!--` is plain text, and so is each
 * later one there: so no part of the text is searched twice.
 */
function visibleText(text: string): string | null {
  if (!/`{3}|~{3}|<!--/.test(text)) return text;
  const shown: string[] = [];
  let opens = new RegExp(HIDES_RE);
  let from = 0;
  for (let open; (open = opens.exec(text)); ) {
    const end = hiddenEnd(text, open);
    if (end < 0 && open[0] === "<!--" && open[3] === undefined) {
      const next = opens.lastIndex;
      opens = new RegExp(HIDES_LINE_RE);
      opens.lastIndex = next;
      continue;
    }
    if (shown.push(text.slice(from, open.index)) > HIDDEN_MAX) return null;
    if (end < 0) return `${shown.join(" ")} `;
    opens.lastIndex = from = end;
  }
  return [...shown, text.slice(from)].join(" ");
}

/** The most DONE headings that are looked at. */
const HEADINGS_MAX = 100;
/** Characters of a line that are searched for evidence. */
const EVIDENCE_MAX = 2_000;

/** What follows a heading alone on its line: the first line with text, and the one below that. */
const BELOW_RE = /\s*\n([^\n]*)(?:\n([^\n]*))?/y;

/** Whether the heading that ends at `end` fills its line, with evidence below it. */
function isProven(page: string, end: number): boolean {
  BELOW_RE.lastIndex = end;
  const [, first = "", below = ""] = BELOW_RE.exec(page) ?? [];
  return isEvidence(first.slice(0, EVIDENCE_MAX)) && !UNDERLINE_RE.test(below);
}

/**
 * Whether a status file says that its phase is done: a heading that equals `marker`, with evidence
 * as the first line below it. Strict on purpose: a DONE overlooked costs a message to the builder,
 * one imagined ends a phase that nobody verified. Linear in the length of the text.
 */
export function isDone(text: string, marker: string): boolean {
  const heading = marker.trim();
  if (heading === "" || !text.includes(heading)) return false;
  const page = visibleText(`\n${text.replace(/^\uFEFF/, "")}`) ?? "";
  let at = page.indexOf(`\n${heading}`);
  for (let nth = 0; at >= 0 && nth < HEADINGS_MAX; nth++) {
    if (isProven(page, at + 1 + heading.length)) return true;
    at = page.indexOf(`\n${heading}`, at + 1);
  }
  return false;
}

export const phases = (cfg: Config): Phase[] => cfg.loop.phases;
const completeFile = ({ logDir }: Config): string => `${logDir}/SEQUENCE-COMPLETE`;

/** By either of two witnesses: a log folder that is gone does not start the loops again. */
function isComplete(cfg: Config): boolean {
  const { phase } = cfg.stored;
  const { complete, idx } = ("id" in phase ? parsedRecord(phase.id) : null) ?? {};
  // a hand may have moved on since
  const isLast = complete === true && "index" in phase &&
    (phase.index === null || Number(phase.index) === idx);
  return isLast || world.mtime(completeFile(cfg)) !== null;
}

/**
 * The index of the current phase. The stored id decides if it belongs to the stored index, as the
 * phases may have been reordered; else the index was moved by hand or by the original, and counts.
 * Where the index is gone the id alone says it: only without both is it the first phase.
 */
export function decidePhase(
  index: string | null, stored: string | null, list: Phase[],
): { idx: number } | { error: string } {
  const ids = list.map((phase) => phase.id).join(", ");
  if (index === null && stored === null) return { idx: 0 };
  const wrong = (what: string) => ({ error: `${what}; run "agents phase set" (phases: ${ids})` });
  const { id, idx: written } = parsedRecord(stored) ?? {};
  if (index === null && !isText(id)) return wrong("the phase file is gone, and phase-id damaged");
  if (index !== null && !/^\d+\s*$/.test(index)) {
    return wrong(`the phase file holds ${show(index)}, not a number`);
  }
  const idx = Number(index ?? written);
  if (isText(id) && Number(written) === idx && list[idx]?.id !== id) {
    const moved = list.findIndex((phase) => phase.id === id);
    return moved < 0 ? wrong(`phase "${id}" is not in the config any more`) : { idx: moved };
  }
  return idx < list.length ? { idx } : wrong(`phase index ${idx} is out of range`);
}

/** The index into `phases`, or what is wrong with what is stored of it. */
function readIdx(cfg: Config): ReturnType<typeof decidePhase> {
  const { phase } = cfg.stored;
  return "error" in phase ? phase : decidePhase(phase.index, phase.id, phases(cfg));
}

export function curIdx(cfg: Config): number {
  const found = readIdx(cfg);
  return "idx" in found ? found.idx : die(found.error);
}

/** The current phase; null where the config has none. */
export function curPhase(cfg: Config): Phase | null {
  return phases(cfg).length ? phases(cfg)[curIdx(cfg)]! : null;
}

/** What is wrong with the stored phase, "" = nothing. */
function phaseTrouble(cfg: Config): string {
  const found = phases(cfg).length ? readIdx(cfg) : { idx: 0 };
  return "error" in found ? found.error : "";
}

/** The current phase; null where there is none, or none that can be read. */
const knownPhase = (cfg: Config): Phase | null => (phaseTrouble(cfg) ? null : curPhase(cfg));

/** A status file in a work tree: in the docs folder, else where old repositories keep it. */
export function resolveStateFile(repo: string, docsDir: string, name: string): string {
  const path = join(repo, docsDir, name);
  return world.mtime(path) === null ? join(repo, name) : path;
}

/** Bytes: a larger status file never counts as DONE. */
const STATUS_MAX = 100_000;

const channelOf = ({ repo, remote, branch }: Handoff): string =>
  `${repo} ${remote} ${branch}`;

/** Whether the remote itself said that it has no such branch: a clone without it proves nothing. */
const isBranchless = (channel: Channel | null, hand: Handoff): boolean =>
  channel?.of === channelOf(hand) && ["empty", "branch missing"].includes(channel.state);

/**
 * What the status file of a phase says. DONE counts once it is pushed; only where the remote has no
 * such branch, by the last look (`channel`), is the work tree read. `done`: null = git could not
 * say, and `unread` says why; `size`: bytes, of a file that was seen.
 */
async function readDone(
  cfg: Config, status: string, channel: Channel | null,
): Promise<{ done: boolean | null; unread: string; size?: number }> {
  const hand = cfg.loop.handoff;
  if (!hand) return { done: false, unread: "" };
  const pushed = (await showPushed(hand, status)).get(status)!;
  if (pushed.state === "failed") return { done: null, unread: pushed.why };
  const unseen = pushed.state === "no branch" && !isBranchless(channel, hand);
  if (unseen) return { done: null, unread: "" };
  const content = pushed.state === "found" ? pushed.text
    : pushed.state === "no branch"
      ? await world.text(resolveStateFile(hand.repo, hand.docsDir, status)) : null;
  const size = pushed.state === "found" ? pushed.size : Buffer.byteLength(content ?? "");
  const done = content !== null && size <= STATUS_MAX && isDone(content, cfg.loop.doneMarker);
  return { done, unread: "", size };
}

/** Whether a phase is done; null = git could not say. */
export const phaseDone = async (
  cfg: Config, status: string, channel: Channel | null,
): Promise<boolean | null> => (await readDone(cfg, status, channel)).done;

/** The same for the watchdog, which notes why git could not say, or why it never will. */
export async function notePhaseDone(
  cfg: Config, watch: Watch, status: string,
): Promise<boolean | null> {
  const { done, unread, size } = await readDone(cfg, status, watch.channel);
  watch.volatile.unread = unread;
  if (size !== undefined) {
    trouble(watch, "status file", size > STATUS_MAX
      ? `${status} is ${Math.round(size / 1000)} kB: over 100 kB it never counts as DONE` : "");
  }
  return done;
}

/** The phase's own model for a role wins over the agent's. */
export function roleModel(cfg: Config, agent: Agent): string {
  const own = agent.role && knownPhase(cfg)?.models[agent.role];
  return own || agent.model;
}

/** A prompt beside the config wins over the one that ships with the program; null = neither. */
export function promptText(cfg: Config, file: string): string | null {
  const path = absolute(cfg.planDir, file);
  if (hungPrompts.has(path)) throw new NoAnswer(`${path}: its disk does not answer`);
  return world.read(path) ?? (isAbsolute(file) ? null : shipped(file));
}

/** Fills in variables such as `{phase.id}`; braces around any other word are left as they are. */
export function render(value: string, variables: Record<string, string>): string {
  return value.replace(/\{([a-z_.]+)\}/g, (whole, key) =>
    Object.hasOwn(variables, key) ? variables[key]! : whole);
}

/**
 * A text of `prompts/` as it is typed: rendered, on one line. Where the operator's own is empty or
 * cannot be read, the one that ships is used: an agent must hear something.
 */
function renderLine(cfg: Config, file: string, variables: Record<string, string>): string {
  const line = (value: string | null) =>
    render(value ?? "", variables).split(/\s+/).join(" ").trim();
  let own = "";
  const path = absolute(cfg.planDir, file);
  try {
    own = line(promptText(cfg, file));
    promptFaults.delete(path);
  } catch (error) {
    promptFaults.set(path, `${messageOf(error)}; the text that ships is used instead`);
  }
  return own || line(shipped(file));
}

/** Why texts of `prompts/` cannot be read, by their path. */
const promptFaults = new Map<string, string>();

function variablesOf(cfg: Config, agent: Agent): Record<string, string> {
  const phase = knownPhase(cfg);
  return {
    agent: agent.name,
    role: agent.role,
    supervisor: `${COMPILED ? process.execPath : import.meta.path} --config ${cfg.path}`,
    plan_dir: cfg.planDir,
    docs_dir: cfg.loop.handoff?.docsDir ?? "machine-docs",
    done_marker: cfg.loop.doneMarker,
    ...(phase ? { "phase.id": phase.id, "phase.plan": absolute(cfg.planDir, phase.plan),
      "phase.status": phase.status } : {}),
  };
}

export function buildLoopKickoff(cfg: Config, agent: Agent): string {
  const role = neededPrompt(cfg, agent, rolePrompt(agent.role));
  const preamble = promptText(cfg, PREAMBLE) ?? "";
  return render(`${preamble}\n${role}`, variablesOf(cfg, agent));
}

export function agentPrompt(cfg: Config, agent: Agent): string {
  if (agent.kind === "loop") return buildLoopKickoff(cfg, agent);
  if (!agent.promptFile) return agent.prompt;
  const value = neededPrompt(cfg, agent, agent.promptFile, "prompt_file ");
  return render(value, variablesOf(cfg, agent));
}

/** A prompt without which an agent would have nothing to do. */
function neededPrompt(cfg: Config, agent: Agent, file: string, key = ""): string {
  const value = promptText(cfg, file);
  return value?.trim() ? value
    : die(`agent ${agent.name}: ${key}${file} is ${value === null ? "missing" : "empty"}`);
}

// ── resume id ───────────────────────────────────────────────────────────────────
// The id of the client's conversation, so that a healed agent goes on instead of starting over. It
// is written once a launch makes it known, and dropped when resuming it proves fatal.

const idFile = (cfg: Config, agent: Agent): string => join(cfg.stateDir, `${agent.name}.id`);
/** The id file of the launchers before the original; `migrate` copies it. */
const legacyIdFile = (cfg: Config, agent: Agent): string =>
  join(cfg.logDir, `.${agent.name}-session-id`);

/** Whether a value looks like an id: it becomes an argument of a command and part of a URL. */
const isId = (value: unknown): value is string =>
  typeof value === "string" && /^[\w-]{1,128}$/.test(value);

/** The id in a file; a malformed one costs the conversation, not the agent. */
async function idIn(path: string): Promise<string | null> {
  const text = await world.text(path).catch((error) => {
    if (isUnread(error)) throw error; // or another conversation would be begun in its place
    return null;
  });
  const id = text?.trim();
  return isId(id) ? id : null;
}

export async function resumeId(cfg: Config, agent: Agent): Promise<string | null> {
  return await idIn(idFile(cfg, agent)) ?? await idIn(legacyIdFile(cfg, agent));
}

/**
 * The pid of another fleet's client that is in a conversation, as its arguments or its open files
 * show: a copy of that fleet's folder has the id too, and may be older than `Watch.room`.
 */
function otherIn(
  { kind, server }: Backend, id: string, others: ReturnType<typeof ofOtherFleets>,
): number | undefined {
  const words = kind === "opencode" ? [id, server] : [id]; // another server may have the same id
  return others.find(({ pid }) => words.every((word) => argvOf(pid).includes(word)) ||
    world.opened(pid).some((path) => path.endsWith(`-${id}.jsonl`)))?.pid;
}

/** The processes that say themselves to be of another fleet. */
function ofOtherFleets(cfg: Config) {
  const ours = `${cfg.room}/`;
  return listProcesses((mark) => mark !== "" && !mark.startsWith(ours)) ?? [];
}

/**
 * The conversation to go on with; null = none is known, or it is another fleet's, which an opencode
 * server and Codex find from any folder.
 */
async function idToResume(cfg: Config, agent: Agent): Promise<string | null> {
  const id = await resumeId(cfg, agent);
  const other = id === null ? undefined : otherIn(backendOf(cfg, agent), id, ofOtherFleets(cfg));
  if (other === undefined) return id;
  log(`${agent.name}: a client of another fleet (pid ${other}) is in its conversation`);
  await dropResumeId(cfg, agent); // nor does that one's record tell of our client
  return null;
}

async function dropResumeId(cfg: Config, agent: Agent): Promise<void> {
  if (await resumeId(cfg, agent).catch(() => true)) {
    log(`${agent.name}: resume id discarded: the next start is a new conversation`);
  }
  world.remove(idFile(cfg, agent));
  world.remove(legacyIdFile(cfg, agent));
}

// ── agent launch ────────────────────────────────────────────────────────────────
// bin, flags, preamble and a service's command are the operator's shell code. Everything else
// reaches the client as arguments that no shell parses; the client becomes the pane's own process.

/** A launch ends with this code, and no other program, if it does not find its client. */
const NO_PROGRAM = 99;

/** Looks for the program of a launch; `go` is "exec", or "" for a function of the preamble. */
const NEED_PROGRAM = 'need() { while case $1 in *=*) :;; *) false;; esac; do shift; done; ' +
  `case $(command -v "$1") in "") echo "agents: $1 was not found"; exit ${NO_PROGRAM};; ` +
  '*/*) go=exec;; *) go=;; esac; }';

/** What it says then: the last line of its screen. */
const SAYS_NO_PROGRAM = /^agents: (.+) was not found$/;

/**
 * What the shell of a launch, bash or sh, said last where it did not find another program. The exit
 * code alone does not tell: a client passes on that of a shell in it.
 */
const NOT_FOUND = new RegExp("^agents: (?:(?:line )?\\d+: )?(?:exec: )?(?:line \\d+: )?(.+?)" +
  "(?:(?:: command|:) not found|: No such file or directory)$");

/**
 * What bash, and other shells, say of a script whose interpreter is not there; the others say that
 * of a script that is not there, too.
 */
const NO_INTERPRETER = anyOf(/^agents: line \d+: (.+): cannot execute: required file not found$/,
  /^agents: (?:\d+: exec|exec: line \d+): (.+): not found$/);

const isRelative = (program: string): boolean => program.includes("/") && !isAbsolute(program);

/** That a program was not found; of a relative path also where it begins. */
const notFound = (program: string, dir: string): string =>
  `${program} was not found${isRelative(program) ? ` in ${dir}` : ""}`;

/** The same of one that an agent starts with, and what helps. */
function notFoundFor(cfg: Config, agent: Agent, program: string): string {
  const source = INSTALL_WITH[basename(program)];
  const key = backendOf(cfg, agent).preamble.includes(program) ? "preamble" : "bin";
  return `${notFound(program, agent.dir)}; ` +
    (source ? `get it with: ${source}` : `see ${key} in [backend.${agent.backend}]`);
}

/**
 * The shell script of a pane: the operator's preamble, a check that the program exists, then the
 * client in place of the shell. Its `$1` is the prompt, as text or as the path of a file; the other
 * arguments go to the client.
 */
export function launchScript(backend: Backend, prompt: "file" | "text" | "none"): string {
  const before = (backend.promptArgs ?? "--").replace(/(?<!=)$/, " ");
  const bin = backend.bin.trim();
  return [
    backend.preamble,
    NEED_PROGRAM,
    `need ${bin}`,
    // a client whose prompt cannot be read would start with an empty one
    `prompt=${prompt === "file" ? '$(cat -- "$1") || exit' : "$1"}; shift`,
    `$go ${/^\w+=/.test(bin) ? "env " : ""}${bin} "$@" ${backend.flags}` +
      (prompt === "none" ? "" : ` ${before}"$prompt"`),
  ].filter(Boolean).join("\n");
}

/** bash if there is one, as preambles such as `source …` expect it. */
const SHELL = Bun.which("bash") ?? "/bin/sh";
const inShell = (script: string, args: string[] = []): string[] =>
  [SHELL, "-c", script, "agents", ...args];

/** What tmux sets after a pane's `-e`: PATH to its caller's, SHELL to its own `default-shell`. */
const SET_BY_TMUX = ["PATH", "SHELL"];
const exportsOf = ({ env }: Unit): string =>
  SET_BY_TMUX.filter((name) => env[name] !== undefined)
    .map((name) => `export ${name}=${shellQuote(env[name]!)}\n`).join("");

/**
 * The same in a unit's folder, or not at all: tmux starts it elsewhere if it cannot go there; and
 * with what tmux would not leave of the unit's `env`.
 */
const inFolder = (unit: Unit, script: string, args?: string[]): string[] =>
  inShell(`${exportsOf(unit)}cd -- ${shellQuote(unit.dir)} || exit\n${script}`, args);

/**
 * What came of a start. It may run already, whoever started it; a later order may forbid it; and
 * what was not tried, on a full disk or where tmux did not answer, is no fault of the unit. `why`:
 * "" = its client runs.
 */
interface Started {
  outcome: "started" | "runs" | "forbidden" | "untried" | "failed";
  why: string;
}

/** It runs already, and is left alone. */
const RUNS: Started = { outcome: "runs", why: "" };
/** Why a start was dropped: a later order forbids it. */
const OVERTAKEN = 'not started: "agents down" was run after this';

/** Does something under the lock of the orders: a later order finds it done. */
async function betweenOrders<T>(cfg: Config, work: () => Promise<T>): Promise<T> {
  // a hung command only delays a start; without the folder of the lock there are no orders
  const lock = await takeLock(lockFile(cfg, "operator"), 5_000).catch(() => null);
  try {
    return await work();
  } finally {
    if (lock !== null) freeLock(lock);
  }
}

/**
 * Starts a unit's program, unless it has been ordered to stay down by now. `byHand`: for a command,
 * which may start a unit that a command is busy with.
 */
async function startSession(
  cfg: Config, unit: Unit, snap: Snapshot, byHand: boolean,
  program: Pick<NewSession, "argv" | "env" | "marks">,
): Promise<Started> {
  const { name, session, dir: cwd } = unit;
  const place = placeFor(snap, session);
  return betweenOrders(cfg, async (): Promise<Started> => {
    if (await mayNotStart(cfg, name, byHand)) return { outcome: "forbidden", why: OVERTAKEN };
    // tmux refuses a second session of one name, but not a second client's window in that session
    if (place.room && sessionAlive(usable(await snapshot(cfg)), session)) return RUNS;
    const marks = { ...program.marks, unit: name };
    const why = await newSession(cfg, { ...program, marks, ...place, session, cwd,
      logPath: sessionLogPath(cfg, session), unit: marksOf(cfg, name) + newId() });
    return why ? refused(cfg, session, why) : { outcome: "started", why: "" };
  });
}

interface LaunchPlan {
  backend: Backend;
  model: string;
  /** The file that holds `prompt`. */
  kickoff: string;
  prompt: string;
  /** The client has had this prompt before: a resumed conversation only needs a word to go on. */
  repeated: boolean;
}

interface Launch {
  argv: string[];
  env: Record<string, string>;
  /** A first text that must be typed; "" = there is none. */
  boot: string;
  /** The id of the conversation; null = not known. */
  id: string | null;
}

/**
 * The words that start or resume a conversation, without those that the operator already gives: a
 * client may refuse a switch that comes twice.
 */
function startWords(backend: Backend, id: string | null, known: boolean): string[] {
  const words = wordsOf(known ? backend.resumeArgs : backend.startArgs);
  if (id === null && words.some((word) => word.includes("{id}"))) return [];
  const given = [backend.bin, backend.flags].flatMap(wordsOf);
  return words.filter((word) => !given.includes(word))
    .map((word) => word.replaceAll("{id}", id ?? ""));
}

/** Whether a client chooses the id of a conversation itself, and is asked for it later. */
const choosesId = ({ startArgs, resumeArgs }: Backend): boolean =>
  !startArgs.includes("{id}") && resumeArgs.includes("{id}");

/** A text instead of the whole prompt: to go on, or to read the prompt's file; "" = no prompt. */
function shortPrompt(cfg: Config, agent: Agent, plan: LaunchPlan, goesOn: boolean): string {
  if (goesOn) return renderLine(cfg, typedFile("continue"), variablesOf(cfg, agent));
  return plan.prompt && renderLine(cfg, typedFile("boot"), { kickoff: plan.kickoff });
}

/**
 * A client without a server. It takes its prompt as an argument or, without `prompt_args`, typed
 * once it is ready. A resumed one is only told to go on.
 */
async function launchClient(cfg: Config, agent: Agent, plan: LaunchPlan): Promise<Launch> {
  const { backend, model, kickoff, prompt, repeated } = plan;
  const resumes = agent.resume && backend.supportsResume && backend.resumeArgs !== "";
  const known = resumes ? await idToResume(cfg, agent) : null;
  const id = known ?? (resumes && !choosesId(backend) ? crypto.randomUUID() : null);
  const args = [
    ...startWords(backend, id, known !== null),
    ...(backend.remoteControl ? ["--remote-control", agent.session] : []),
    ...(model ? ["--model", model] : []),
  ];
  const typed = backend.promptArgs === undefined;
  const goesOn = known !== null && repeated;
  // the client must read a prompt that nears the kernel's 128 KiB for one argument
  const short = typed || goesOn || Buffer.byteLength(prompt) > 100_000
    ? shortPrompt(cfg, agent, plan, goesOn) : "";
  const script = launchScript(backend, typed ? "none" : short ? "text" : prompt ? "file" : "none");
  return { argv: inFolder(agent, script, [typed ? "" : short || kickoff, ...args]), env: {},
    boot: typed ? short : "", id };
}

/** An opencode client attaches to its server, and to a session made there if the server answers. */
async function launchOpencode(cfg: Config, agent: Agent, plan: LaunchPlan): Promise<Launch> {
  const { backend, model, repeated } = plan;
  const kept = agent.resume ? await idToResume(cfg, agent) : null;
  const id = (kept && (await opencodeKnows(backend, agent, kept)) ? kept : null) ??
    (await unusedSession(backend, agent));
  const args = ["attach", backend.server, "--dir", agent.dir, ...(id ? ["--session", id] : [])];
  const boot = shortPrompt(cfg, agent, plan, kept !== null && kept === id && repeated);
  const env = { NO_COLOR: "1",
    ...(model ? { OPENCODE_CONFIG_CONTENT: JSON.stringify({ model }) } : {}) };
  return { argv: inFolder(agent, launchScript(backend, "none"), ["", ...args]), env, boot, id };
}

/** Whether a client is too young to be typed to; an age below 0 is a clock that was set back. */
export function isBooting(backend: Backend, ageMs: number, screen: string): boolean {
  const boots = backend.kind === "claude" ? CLAUDE_COLD : backend.connectDelay * 1000;
  if (ageMs < 0 || ageMs >= boots) return false;
  if (backend.kind === "claude") return true;
  return !timed(backend.readyRe, () => backendRe(backend, "readyRe")?.test(screen));
}

/** ms. Claude Code answers its first request about 2.8 s after its start; no keys before that. */
const CLAUDE_COLD = 3_000;

interface StartOptions {
  /** Ends a running client first, and waits until its process is gone. */
  force?: boolean;
  /** What it is started for, such as a phase move: a mark on its pane. */
  cause?: string;
  /** As in `startSession`. */
  byHand?: boolean;
  /** Just now nothing of it was left. */
  cleared?: boolean;
  /** Takes a first text that must be typed. */
  onBoot?: (boot: string) => unknown;
}

/**
 * The one way to start a unit; one that runs is left alone. Returns why it did not start instead of
 * throwing, so that the start of other units goes on.
 */
async function begin(
  cfg: Config, watch: Watch, unit: Unit, snap: Snapshot, options: StartOptions,
): Promise<Started> {
  try {
    const done = isAgent(unit) ? await startAgent(cfg, watch, unit, snap, options)
      : await startService(cfg, watch, unit, snap, options);
    if (done.outcome === "runs") {
      const pane = snap.panes.get(unit.session);
      log(`${pane?.room ? pane.sessionName : unit.session} already running, leaving it`, true);
    }
    return done;
  } catch (error) {
    return { outcome: isUnread(error) ? "untried" : "failed", why: messageOf(error) };
  }
}

/** Why a unit may not be started; null = it may, in the place that `clearPlace` makes. */
async function whyNotBegun(
  cfg: Config, unit: Unit, snap: Snapshot, force = false,
): Promise<Started | null> {
  const barred = whyBarred(cfg, usable(snap), unit.session);
  if (barred) return { outcome: "failed", why: barred };
  const pane = snap.panes.get(unit.session);
  if (pane && !pane.dead && !force) return RUNS;
  const obstacle = await obstacleTo(cfg, snap, unit);
  return obstacle ? { outcome: "failed", why: obstacle } : null;
}

/** Ends what is left of a unit before its start; null = it is gone, else why it cannot start. */
async function clearPlace(
  cfg: Config, watch: Watch, unit: Unit, snap: Snapshot, cleared = false,
): Promise<Started | null> {
  const pane = snap.panes.get(unit.session);
  const group = pane ? groupOf(pane) : null; // not every client that we end has our mark
  if (pane) await stopPanes(cfg, [pane]);
  else await endTurns(cfg, [lostConversation(cfg, watch, unit)]);
  const left = pane || !cleared ? await leftOver(cfg, watch, unit, [group]) : null;
  const stuck = left ? await endFamilies([left]) : [];
  return stuck.length ? { outcome: "failed", why: cannotEnd(stuck) } : null;
}

export async function startAgent(
  cfg: Config, watch: Watch, agent: Agent, snap: Snapshot, options: StartOptions = {},
): Promise<Started> {
  const prevented = await whyNotBegun(cfg, agent, snap, options.force) ??
    await clearPlace(cfg, watch, agent, snap, options.cleared);
  if (prevented) return prevented;
  const backend = backendOf(cfg, agent);
  const model = roleModel(cfg, agent);
  const prompt = agentPrompt(cfg, agent);
  const kickoff = await storeKickoff(cfg, agent, prompt);
  if (kickoff instanceof Error) return { outcome: "untried", why: messageOf(kickoff) };
  const repeated = await kickoffGiven(cfg, agent.session, prompt);
  const plan = { backend, model, kickoff, prompt, repeated };
  const launch = await (backend.kind === "opencode"
    ? launchOpencode(cfg, agent, plan) : launchClient(cfg, agent, plan));
  const phase = agent.kind === "loop" ? (curPhase(cfg)?.id ?? "-") : "-";
  log(`starting ${agent.session} (${backend.name}, kind=${agent.kind}, phase=${phase}, ` +
    `model=${model || "default"})`, true);
  // the first text is stored before its client exists, as a crash may come in between
  if (launch.boot) await options.onBoot?.(launch.boot);
  const { argv, env, id } = launch;
  const result = await startSession(cfg, agent, snap, options.byHand === true, {
    argv, env: { ...agent.env, ...env },
    marks: {
      backend: agent.backend, model: model || "default", phase, cause: options.cause ?? "",
      conversation: backend.kind === "opencode" ? (id ?? "") : "",
    },
  });
  if (result.outcome !== "started") return result;
  unusedSessions.delete(agent.name);
  if (id && agent.resume) await keepResumeId(cfg, agent, id);
  if (!launch.boot) await noteKickoffGiven(cfg, agent.session);
  emit(cfg, "start", { agent: agent.name, backend: backend.name, model, phase });
  return result;
}

export async function startService(
  cfg: Config, watch: Watch, service: Service, snap: Snapshot, options: StartOptions,
): Promise<Started> {
  const prevented = await whyNotBegun(cfg, service, snap) ??
    await clearPlace(cfg, watch, service, snap, options.cleared);
  if (prevented) return prevented;
  log(`starting service ${service.session}`, true);
  const result = await startSession(cfg, service, snap, options.byHand === true,
    { argv: inFolder(service, service.command), env: service.env, marks: {} });
  if (result.outcome === "started") emit(cfg, "start", { agent: service.name });
  return result;
}

const kickoffFile = (cfg: Config, session: string): string =>
  join(cfg.stateDir, `kickoff-${session}.txt`);

/** Stores the kickoff for the client to read: in the state folder, else as a temporary file. */
function storeKickoff(cfg: Config, agent: Agent, prompt: string): Promise<string | Error> {
  const path = kickoffFile(cfg, agent.session);
  const elsewhere = join(tmpdir(), `agents-${agent.session}-${crypto.randomUUID()}.txt`);
  return world.writeAtomic(path, prompt).then(() => path, (why: unknown) =>
    world.writeAtomic(elsewhere, prompt).then(() => elsewhere, () => new Error(messageOf(why))));
}

/** Writes something that a running client can do without: a full disk must not undo its start. */
async function writeOrLog(write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    log(messageOf(error));
  }
}

const keepResumeId = (cfg: Config, agent: Agent, id: string): Promise<void> =>
  writeOrLog(() => world.writeAtomic(idFile(cfg, agent), `${id}\n`));

const kickoffGivenFile = (cfg: Config, session: string): string =>
  join(cfg.stateDir, `told-${session}`);

const kickoffGiven = async (cfg: Config, session: string, prompt: string): Promise<boolean> =>
  await textIn(kickoffGivenFile(cfg, session)) === hashOf(prompt);

/** Remembers that the client has had its kickoff, so that it need not be repeated on a resume. */
const noteKickoffGiven = (cfg: Config, session: string): Promise<void> => writeOrLog(async () =>
  world.writeAtomic(
    kickoffGivenFile(cfg, session), hashOf(await textIn(kickoffFile(cfg, session)))));

// What may be in the way of a start: other sessions, other fleets, clients that left the config.

/** What holds the session that a unit needs, and how to go on; "" = the name is free or ours. */
function strangerIn(cfg: Config, snap: Snapshot, session: string): string {
  const runs = snap.strangers.get(session);
  const tmux = tmuxByHand(cfg);
  const target = targetSession(session);
  return runs === undefined ? "" : `the session ${session} was not made by this fleet and holds ` +
    `no client (it runs ${runs}); leaving it alone. End it (${tmux} kill-session -t ${target}) ` +
    `or rename it (${tmux} rename-session -t ${target} NAME), then: up`;
}

/** A client of this fleet whose name has left the config: it is no longer supervised. */
interface Orphan {
  /** The session without the fleet's prefix, if it has that. */
  name: string;
  session: string;
  /** null = only processes of it are left. */
  pane: Pane | null;
}

/** Only panes that carry the mark of this fleet count. */
export function orphansOf(cfg: Config, snap: Snapshot): (Orphan & { pane: Pane })[] {
  const known = new Set([...unitsOf(cfg).values()].map(({ session }) => session));
  return [...snap.panes]
    .filter(([session, pane]) => pane.home !== "" && pane.session === session &&
      !known.has(session) && session !== watchdogSession(cfg) && pane.unit !== LOG.unit)
    .map(([session, pane]) => ({ session, pane, name: session.startsWith(cfg.sessionPrefix)
      ? session.slice(cfg.sessionPrefix.length) : session }));
}

/** A client in the way of a start, and the command that ends it, without `agents`. */
interface Rival {
  why: string;
  cure: string;
}

/** The folders in which the panes of a look were started; tmux is asked once for all agents. */
const foldersByLook = new WeakMap<Snapshot, ReturnType<typeof tmux>>();

/**
 * The client at work in the folder where an agent would start, an orphan or of another fleet: two
 * would undo each other's changes. If the config itself puts several agents into the folder, that
 * is the operator's choice.
 */
async function rivalOf(cfg: Config, snap: Snapshot, unit: Unit): Promise<Rival | null> {
  const clients = [
    ...orphansOf(cfg, snap).map(({ name, pane }) =>
      ({ pane, who: `${name}, no longer in the config,`, cure: async () => `down ${name}` })),
    ...snap.foreign.map((pane) =>
      ({ pane, who: `${unitIn(pane)} of ${fleetOf(pane)}`, cure: () => endAbroad(pane) })),
  ].filter(({ pane }) => !pane.dead && pane.backend); // a service, without one, edits nothing
  if (!isAgent(unit) || !clients.length) return null;
  const asked = await foldersByLook.getOrInsertComputed(snap, () =>
    tmux(cfg, ["list-panes", "-a", "-F", "#{pane_id} #{pane_start_path}"]));
  for (const { pane, who, cure } of clients) {
    const row = asked.out.split("\n").find((line) => line.startsWith(`${pane.id} `));
    const dir = row?.slice(pane.id.length + 1);
    const why = `${who} is at work in its folder`;
    if (dir && !(await isSamePlace(dir, unit.dir))) continue;
    if (await isShared(cfg, unit)) return null;
    return { why: dir ? why : `tmux does not say whether ${why}`, cure: await cure() };
  }
  return null;
}

/** Whether the config gives the folder of an agent to another one, too. */
async function isShared(cfg: Config, { name, dir }: Unit): Promise<boolean> {
  const others = [...cfg.agents.values()].filter((other) => other.name !== name && other.enabled);
  const shared = await Promise.all(others.map((other) => isSamePlace(other.dir, dir)));
  return shared.includes(true);
}

/** What only a person can clear out of the way of a unit's start; "" = nothing. */
const obstacleTo = async (cfg: Config, snap: Snapshot, unit: Unit): Promise<string> =>
  await whyNoFolder(unit.dir) || strangerIn(cfg, snap, unit.session) ||
    rivalText(await rivalOf(cfg, snap, unit));

const unitIn = (pane: Pane): string => pane.unit || pane.session;
const fleetOf = (pane: Pane): string => `the fleet of ${dirname(pane.home)}`;

/** What ends a client of another fleet; its config is known as long as a keeper names it. */
async function endAbroad(pane: Pane): Promise<string> {
  let config = "CONFIG";
  const roomIn = async (folder: string) =>
    (await world.answers(folder) ? textIn(roomFile(folder)).catch(() => "") : "");
  const isTheirs = async (folder: string) => (pane.fleet === ""
    ? isSamePlace(folder, pane.home) : (await roomIn(folder)).startsWith(`${pane.fleet}\n`));
  for (const [path, copy] of configsInUse()) {
    if (await isTheirs(dirname(copy))) config = quoted(path);
  }
  return `down ${quoted(unitIn(pane))} --config ${config}`;
}

const rivalText = (rival: Rival | null): string =>
  rival ? `${rival.why}; end it: agents ${rival.cure}` : "";

/** Which other fleet has a session of this name, and what helps; "" = none has. */
function foreignIn(cfg: Config, { foreign }: Snapshot, session: string): string {
  const pane = foreign.find(({ sessionName }) => sessionName === session);
  if (!pane) return "";
  const gone = pane.home === homeOf(cfg) ? ", which was moved or removed" : "";
  return `the session ${session} belongs to ${fleetOf(pane)}${gone}; set session_prefix in ` +
    "[defaults]";
}

/** Why nothing may be started in the session of this name; "" = it may. */
function whyBarred(cfg: Config, snap: Snapshot, session: string): string {
  if (!snap.ok) return `tmux: ${snap.why}`;
  return foreignIn(cfg, snap, session) || strangerIn(cfg, snap, session);
}

/** Where a unit starts, if not in a new session. */
function placeFor(snap: Snapshot, session: string): Pick<NewSession, "room" | "pane"> {
  const pane = snap.panes.get(session);
  return { room: snap.rooms.has(session), pane: pane?.pinned ? pane : undefined };
}

/** The result of a start that tmux refused: somebody else may have started the unit meanwhile. */
async function refused(cfg: Config, session: string, why: string): Promise<Started> {
  // tmux's words
  const snap = why.startsWith("duplicate session") ? usable(await snapshot(cfg)) : null;
  // running or not: a short task may have ended by now
  if (snap?.panes.has(session)) return RUNS;
  return { outcome: "failed", why: (snap && whyBarred(cfg, snap, session)) || why };
}

// Ending what runs.

type Conversed = Pick<Pane, "session" | "backend" | "conversation">;

/** What is known of the conversation of a client whose pane went without us. */
const lostConversation = (cfg: Config, watch: Watch, { name, session }: Named): Conversed => ({
  session, backend: cfg.agents.get(name)?.backend ?? "",
  conversation: watch.agents[name]?.conversation ?? "" });

async function endTurns(cfg: Config, of: Conversed[]): Promise<void> {
  const talking = of.filter(({ conversation }) => conversation);
  const others = talking.length ? ofOtherFleets(cfg) : [];
  await Promise.all(talking.map((one) => endTurn(cfg, one, others)));
}

/** The processes of a fleet; those of `groups` may have no mark, so that all are listed then. */
function listFleet(cfg: Config, groups: (Group | null)[]) {
  const grouped = groups.some((group) => group != null);
  return listProcesses((mark) => grouped || mark.startsWith(`${cfg.room}/`));
}

/**
 * What is left of the clients of a unit that does not run; null = nothing. The panes are looked at
 * after the processes, so that a client started in the meantime does not count as left over. Throws
 * if one still runs in the session that the config named before.
 */
async function leftOver(
  cfg: Config, watch: Watch, unit: Unit, groups: (Group | null)[],
  all = listFleet(cfg, groups),
): Promise<Family | null> {
  const family = familyOf(cfg, unit.name, groups, all);
  const members = membersOf(family, all);
  if (!members.length) return null;
  const snap = usable(await lookAtSessions(cfg, watch));
  const moved = orphansOf(cfg, snap).find(({ pane }) =>
    !pane.dead && members.some(({ pid }) => Math.abs(pid) === pane.pid));
  if (moved) die(`${unit.name} still runs in the session ${moved.session}, where the config had ` +
    `it before: restart ${unit.name} to move it`);
  return sessionAlive(snap, unit.session) ? null : family;
}

function familyIn(cfg: Config, pane: Pane): Family {
  const unit = [...unitsOf(cfg).values()].find(({ session }) => session === pane.session);
  const groups = [groupOf(pane)];
  return unit ? familyOf(cfg, unit.name, groups) : { room: cfg.room, groups, marks: [] };
}

/**
 * Ends panes and waits until the families of those that live are gone: two clients in one clone
 * would corrupt it. The unit of a dead pane may run again by now, started by somebody else.
 */
async function stopPanes(cfg: Config, panes: Pane[]): Promise<void> {
  const families = panes.filter(({ dead }) => !dead).map((pane) => familyIn(cfg, pane));
  for (const pane of panes) await killSession(cfg, pane);
  await awaitEnd(cfg, panes, families);
}

/** Waits until families and panes are gone; returns what cannot be ended. */
async function awaitEnd(
  cfg: Config, panes: Pane[], families: Family[], lost: Conversed[] = [],
): Promise<Member[]> {
  const [left] = await Promise.all([
    endFamilies(families), endTurns(cfg, [...panes, ...lost])]);
  const pinned = panes.filter((pane) => pane.pinned && !pane.dead);
  // a pane can be reused once tmux has noticed that its client ended
  for (let tries = 0; pinned.length && tries < 20; tries++) {
    const snap = await snapshot(cfg);
    if (pinned.every(({ session }) => !sessionAlive(snap, session))) break;
    await world.sleep(100);
  }
  return left;
}

/** Whom a signal to families that are being ended reached, as far as they still run. */
interface Signalled {
  signal: NodeJS.Signals | "";
  left: Member[];
}

const NOT_YET: Signalled = { signal: "", left: [] };

/**
 * Sends families the signal for their age, ms. Only the full list shows processes born in the
 * meantime, but it costs more: it is read for each new signal, and once nobody known is left.
 */
function signalFamilies(families: Family[], before: Signalled, age: number): Signalled {
  const signal = decideStop(age);
  const known = before.left.filter(stillRuns);
  if (known.length && signal === before.signal) return { signal, left: known };
  const all = listProcesses();
  const left = families.flatMap((family) => membersOf(family, all));
  signalAll(left, signal);
  return { signal, left };
}

/**
 * Ends families whose panes are gone, with 12 s before their last members count as unkillable.
 * Returns those.
 */
async function endFamilies(families: Family[]): Promise<Member[]> {
  const began = world.mono();
  for (let last = NOT_YET; ; ) {
    const age = world.mono() - began;
    last = signalFamilies(families, last, age);
    if (!last.left.length || age > 10_000 + KILLED_BY) return last.left;
    await world.sleep(50);
  }
}

// ── the clients' own word ───────────────────────────────────────────────────────
// What clients say of themselves. An opencode server knows what no screen shows (a permission asked
// for before the client attached), and a text given to it cannot land in a dialog. Claude Code
// states in a session file for each process whether it works, waits for a person or rests. Codex
// logs every turn of a conversation in its rollout file, which it keeps open. Gemini notes what is
// said in a chat file for each conversation, and what is submitted in one log for each folder.

const SESSION_FILE = "session file";
const TRANSCRIPT = "transcript";
const ROLLOUT = "rollout";
const CHAT = "chat file";
/** Not a client's own word; a rule may have the same name, but not the same `where`. */
const ACCOUNT = "account";

/**
 * Where a verdict may come from besides the rules on the screen. Each step may overrule what those
 * above it found:
 *
 *   screen       the rules; without any, a client that is in front     `screenVerdict`
 *   process      another program in the pane, or its folder is gone:   `withOwnWord`
 *                neither screen nor file counts
 *   disk         that of its files does not answer: nothing counts     `withOwnWord`
 *   files        Claude Code's session file, then its transcript       `withOwnWord`
 *                where the screen shows an error, what may be one, or
 *                no end of the last turn; Codex's rollout; Gemini's chat
 *                file where the screen shows only the end of an error
 *   server       opencode's overrules the screen; where it says idle,  `judge`
 *                the screen decides, and where that shows no end of
 *                the last turn, an error that the server has of it
 *   time         background work that takes too long is idleness       `judge`
 *   account      at rest, while others wait for a limit they share     `readLook`
 *   draft        an unsent text that put a restart off                 `readLook`
 *   change       what has just changed is not at rest                  `noteLook`
 *
 * Whoever asks goes as far down as it needs: `closeLook`, right before a key, to the files;
 * `judgeLook`, before a client is ended and for `status` and `explain`, to time; a small round to
 * the draft; a full one to the end. `status` and `explain` take the last steps in their own way, as
 * they do not look twice and name an account's limit beside the verdict: see `decideNow`, `holdOf`,
 * `whyLeft` and `explainLive`.
 *
 * A new source gets a line here, an entry below and, where the table names it, its step: a pure
 * `decide…` beside the others, and a branch that asks it. Then look at
 *
 *   files          `ownFolder`: only what that names is asked whether its disk answers, and every
 *                  reader asks `isSilent`; `readEnd`, `readAgain` to read them
 *   words          `FINDINGS` for `rule`, `DRAWN` for errors that left the screen, whatever
 *                  compares `where` or `rule`, `isOdd`, `own` (Claude's session file alone)
 *   no question    `stillRests`, which asks no source of an idle client that drew nothing
 *   memory         `Memory`, `MEMORY_SHAPES`, `NEW_CLIENT`, `PAST` for a wall time
 *   proof          `submittedIn`, `isInPlaceOfBox`: whether a text was taken
 *   facts          `readModel`, `readVersion`, `MEASURED`; `noteConversation` to resume
 *   commands       `conversationSource` (logs), `cmdCapture`, `examineStarts` (doctor)
 *
 * For a new kind of client the compiler asks for `CLIENTS`, `builtInRules` and `MEASURED`, and
 * for nothing else. `moves`: when it reports work the screen must change too, and a frozen screen
 * means a dead client.
 */
const SOURCES = {
  process: { label: "its process", moves: false },
  disk: { label: "the disk of its files", moves: false },
  [SESSION_FILE]: { label: "its session file", moves: true },
  [TRANSCRIPT]: { label: "its transcript", moves: false },
  [ROLLOUT]: { label: "its rollout file", moves: true },
  [CHAT]: { label: "its chat file", moves: false },
  server: { label: "its server", moves: false },
  [ACCOUNT]: { label: "the limit of its account", moves: false },
} as const;

const sourceOf = ({ where }: Verdict): { label: string; moves: boolean } | undefined =>
  Object.hasOwn(SOURCES, where) ? SOURCES[where as keyof typeof SOURCES] : undefined;

// opencode: its server.

function callOpencode(
  backend: Backend, dir: string, path: string, body?: object,
): Promise<HttpAnswer> {
  const url = `${backend.server.replace(/\/$/, "")}${path}` +
    `${path.includes("?") ? "&" : "?"}directory=${encodeURIComponent(dir)}`;
  return world.http(body
    ? { method: "POST", url, body: JSON.stringify(body) } : { method: "GET", url });
}

/** What an answer holds; null = it is none. */
const contentOf = ({ ok, body }: HttpAnswer): unknown =>
  (ok ? tried(() => JSON.parse(body || "{}"), null) : null);

const askOpencode = async (...request: Parameters<typeof callOpencode>): Promise<unknown> =>
  contentOf(await callOpencode(...request));

/** It answers, but nobody without its password. */
const wantsPassword = ({ status }: HttpAnswer): boolean => status === 401;

const askHealth = (backend: Backend): Promise<HttpAnswer> =>
  callOpencode(backend, "/", "/global/health");
const isHealthy = (answer: HttpAnswer): boolean =>
  valueAt(contentOf(answer), "healthy") === true;

async function opencodeSession(backend: Backend, agent: Agent): Promise<string | null> {
  const made = await askOpencode(backend, agent.dir, "/session", { title: agent.session });
  const id = valueAt(made, "id");
  return isId(id) ? id : null;
}

/** The conversations that were made for a start, by agent, until that start is made. */
const unusedSessions = new Map<string, { id: string; dir: string }>();

/** A new conversation; the one of a start that failed, as on a full disk, is used again. */
async function unusedSession(backend: Backend, agent: Agent): Promise<string | null> {
  const left = unusedSessions.get(agent.name);
  if (left?.dir === agent.dir && await opencodeKnows(backend, agent, left.id)) return left.id;
  const id = await opencodeSession(backend, agent);
  if (id) unusedSessions.set(agent.name, { id, dir: agent.dir });
  return id;
}

/** Only the server's "not found" counts as no, never a slow or missing answer. */
async function opencodeKnows(backend: Backend, agent: Agent, id: string): Promise<boolean> {
  return (await callOpencode(backend, agent.dir, `/session/${id}`)).status !== 404;
}

/** Whether a text given to the server before has arrived; null = no answer. */
async function opencodeHas(
  backend: Backend, agent: Agent, pane: Pane, message: Message,
): Promise<boolean | null> {
  const list = await askOpencode(
    backend, agent.dir, `/session/${pane.conversation}/message?limit=50`);
  if (!Array.isArray(list)) return null;
  return list.some((one) => valueAt(one, "info", "role") === "user" &&
    Number(valueAt(one, "info", "time", "created") ?? 0) > message.made - CLOCK_STEP &&
    listOf(valueAt(one, "parts")).some((part) => valueAt(part, "text") === message.text));
}

/**
 * Gives a text to the server, which queues it during a turn; false = it did not take it, null = it
 * is not known: no answer came in time, or only one of a proxy.
 */
async function promptOpencode(
  cfg: Config, agent: Agent, pane: Pane, value: string,
): Promise<boolean | null> {
  const [providerID, ...rest] = roleModel(cfg, agent).split("/");
  const model = rest.length ? { model: { providerID, modelID: rest.join("/") } } : {};
  const body = { parts: [{ type: "text", text: value }], ...model };
  const path = `/session/${pane.conversation}/prompt_async`;
  const { ok, status } = await callOpencode(backendOf(cfg, agent), agent.dir, path, body);
  return ok || (status === 408 || status > 500 ? null : false);
}

/**
 * Ends the turn of a client that ends or has ended. A server would go on with it, out of sight and
 * beside the next client, and asks nobody whether the client is still there (1.18.33). false = it
 * does not say that it did.
 */
async function endTurn(
  cfg: Config, { session, backend, conversation }: Conversed,
  others?: ReturnType<typeof ofOtherFleets>,
): Promise<boolean> {
  const server = cfg.backends.get(backend);
  if (!conversation || server?.kind !== "opencode") return true;
  const unit = [...unitsOf(cfg).values()].find((one) => one.session === session);
  const other = otherIn(server, conversation, others ?? ofOtherFleets(cfg));
  if (other !== undefined) return true; // the turn may be theirs
  const path = `/session/${conversation}/abort`;
  const { ok, status } = await callOpencode(server, unit?.dir ?? "/", path, {});
  // where nobody listens, or the conversation is not known, there is no turn
  const ended = ok || status === 0 || status === 404;
  if (!ended) log(`${session}: its opencode server does not say that it ended the turn`);
  return ended;
}

type OpencodeFacts = Awaited<ReturnType<typeof readOpencode>>;

/** How the last turn of a conversation ended, where opencode's server has an error of it. */
function parseOpencodeEnd(messages: unknown) {
  const info = valueAt(listOf(messages).at(-1), "info");
  const name = wordsIn(valueAt(info, "error", "name"), 60);
  if (!name) return null;
  const time = valueAt(info, "time");
  return {
    name, text: wordsIn(valueAt(info, "error", "data", "message")) || name,
    at: Number(valueAt(time, "completed") ?? valueAt(time, "created")) || 0,
    // as by a person, by the length of an answer, or an error after which it tried several times
    passes: ["MessageAbortedError", "MessageOutputLengthError"].includes(name) ||
      valueAt(info, "error", "data", "isRetryable") === true,
  };
}

async function readOpencode(backend: Backend, agent: Agent, pane: Pane, screen: Verdict) {
  const answers = await Promise.all(["/session/status", "/permission", "/question"].map((path) =>
    callOpencode(backend, agent.dir, path)));
  const [statuses, ...lists] = answers.map(contentOf);
  const [asked, question] = lists.map((list) =>
    listOf(list).find((one) => valueAt(one, "sessionID") === pane.conversation));
  // it leaves out who is idle, and every conversation that is not its own (1.18.33)
  const own = valueAt(statuses, pane.conversation);
  const type = wordsIn(valueAt(own, "type"), 40);
  const status = type ? { type, message: wordsIn(valueAt(own, "message")) } : undefined;
  // only a list says that nothing is asked: to what it does not know it answers with 200 and HTML
  const healthy = isRecord(statuses) && lists.every(Array.isArray) &&
    (own === undefined || status !== undefined);
  // a screen at rest need not show how the last turn ended, or in words that no rule knows
  const asks = screen.verdict === "idle" && screen.cutOff && healthy && !status;
  const end = asks ? parseOpencodeEnd(await askOpencode(
    backend, agent.dir, `/session/${pane.conversation}/message?limit=1`)) : null;
  return {
    healthy, status, wantsPassword: answers.some(wantsPassword),
    // one from before this client: a person has started it anew since
    end: end && end.at > pane.created - CLOCK_STEP ? end : null,
    // nobody listens: whatever answers later is another server
    down: answers[0]!.status === 0 && !answers[0]!.ok,
    // another server already, which says nothing of our conversation
    stranger: healthy && !status && !(await opencodeKnows(backend, agent, pane.conversation)),
    // even without a proper name it is a question that a person must answer
    permission: asked === undefined ? undefined
      : /^[\w.:*/-]{1,128}$/.exec(String(valueAt(asked, "permission") ?? ""))?.[0] ??
        "one without a proper name",
    question: question !== undefined,
  };
}

const byServer = (verdict: VerdictName, why: string): Verdict =>
  ({ verdict, rule: "server", where: "server", text: "", limit: null, waitingUntil: null, why });

/** The server counts before the screen, where the busy bar keeps moving after the server died. */
export function decideOpencode(
  facts: OpencodeFacts, screen: Verdict, now: number, rules = builtInRules().opencode,
): Verdict {
  if (!facts.healthy) {
    return byServer("unsure", `the opencode server ${
      facts.wantsPassword ? "wants a password" : "does not answer"}`);
  }
  if (facts.stranger) return byServer("unsure", "the opencode server has no such conversation");
  if (facts.permission !== undefined) return byServer("blocked", `permission: ${facts.permission}`);
  if (facts.question) return byServer("blocked", "question");
  if (!facts.status || facts.status.type === "idle") {
    if (facts.end) return decideOpencodeEnd(facts.end, screen, now, rules);
    return screen.verdict === "active" || screen.rule === "none"
      ? byServer("idle", "at its prompt") : screen;
  }
  const { type, message = "" } = facts.status;
  const isLimit = type === "retry" && /usage.{0,3}limit|quota/i.test(message);
  if (!isLimit) return byServer("active", type);
  const resetAt = parseResetEpoch(message, now);
  return { ...byServer("limited", message),
    limit: { class: "other", resetAt, banner: message, native: true } };
}

/** What an error is that opencode's server has of the last turn, and that no rule saw. */
function decideOpencodeEnd(
  end: NonNullable<OpencodeFacts["end"]>, screen: Verdict, now: number, rules: Rule[],
): Verdict {
  const found = redrawn("opencode", rules, end, now, (limit) => limit);
  if (found) return { ...found, where: "server" };
  const isKnown = drawnAs("opencode", rules, end).rule !== AT_PROMPT.name;
  return isKnown || end.passes ? screen : byServer("blocked", `${end.text} (${end.name})`);
}

/** A client's own words, on one line; "" if they are no text. */
const wordsIn = (value: unknown, max = SUBJECT_MAX): string =>
  (typeof value === "string" ? plainText(value, max) : "");

/** A client's statement of its version, "" if it does not look like one. */
const versionIn = (value: unknown): string =>
  (typeof value === "string" ? /^\d[\w.+-]{0,30}$/.exec(value)?.[0] ?? "" : "");

// Claude Code: the session file of its process, and the transcript of its conversation.

/** The state of a running client by Claude Code's session file. */
export type ClaudeWord = NonNullable<ReturnType<typeof parseClaudeWord>>;

/**
 * The session file of the process `pid`, which began at `born` (clock ticks; "" = not known); null
 * = it is malformed or another process's. `fresh`: its time says that this process wrote it, where
 * it does not tell `born`. Measured on Claude Code 2.1.220 to 2.1.332; 2.0 writes none.
 */
function claudeSession(
  file: string, pid: number, born: string, fresh: boolean,
): Record<string, unknown> | null {
  const said = parsedRecord(file);
  if (said?.pid !== pid) return null;
  return (born && isText(said.procStart) ? said.procStart === born : fresh) ? said : null;
}

/** The state in a session file; null = none that is valid, or that of a background session. */
export function parseClaudeWord(file: string, pid: number, born: string, fresh: boolean) {
  const said = claudeSession(file, pid, born, fresh);
  if (!said || (said.kind ?? "interactive") !== "interactive") return null;
  const status = (["busy", "waiting", "shell", "idle"] as const).find((one) => one === said.status);
  return status === undefined ? null : {
    status, waitsFor: status === "waiting" ? wordsIn(said.waitingFor, 60) || "a dialog" : "",
    version: versionIn(said.version),
    // the conversation, and the folder in which it was begun
    conversation: isId(said.sessionId) ? said.sessionId : "",
    cwd: typeof said.cwd === "string" ? said.cwd.slice(0, 4096) : "",
  };
}

/** What a client's file said when it was last read. */
interface Reading<T> {
  said: T;
  /** Wall ms of the change that was read; null = there was no file. */
  changed: number | null;
  /** That change was old when it was read, so that a later one has a different time. */
  settled: boolean;
}

/** Reads a file by `read`, and again only after a change, for which it costs one `stat` to look. */
function readAgain<T>(
  last: Reading<T> | undefined, path: string, read: (changed: number | null) => T,
): Reading<T> {
  const changed = world.mtime(path);
  if (last?.settled && last.changed === changed) return last;
  return { said: read(changed), changed, settled: (changed ?? 0) <= world.now() - CLOCK_STEP };
}

/** The session file of a pane's client. */
interface SessionFile {
  pane: number;
  /** The client: the pane's own process, or one that a wrapper started in its group. */
  pid: number;
  /** When a client that a wrapper started began; "" = it is the pane's own process. */
  born: string;
  folder: string;
  last?: Reading<ClaudeWord | null>;
  /** Monotonic ms of the last search for it. */
  sought: number;
}

const sessionFiles = new WeakMap<Config, Map<string, SessionFile>>();
/** How often, ms, to search for the file of a client that has none: it may have just started. */
const SEEK_EVERY = 10_000;

/** The variables of a client: those of its process, else `env` over ours. */
function clientVariables(pid: number, env: Record<string, string>): (name: string) => string {
  const environ = readProc(`${pid}/environ`);
  return (name) => (environ ? variableIn(environ, name) : env[name] ?? process.env[name] ?? "");
}

/** The config folder of a Claude Code. */
function claudeFolder(pid: number, env: Record<string, string> = {}): string {
  const of = clientVariables(pid, env);
  return of("CLAUDE_CONFIG_DIR") || join(of("HOME") || homedir(), ".claude");
}

/** Whether a wrapper's client has ended; the wrapper may have started another. */
const hasLeft = ({ pane, pid, born }: SessionFile): boolean =>
  pid !== pane && bornOf(pid) !== born;

/** The session file that is known of a pane's client; null = it is to be searched for, or again. */
function knownFile(cfg: Config, { session }: Agent, { pid }: Pane): SessionFile | null {
  const file = sessionFiles.get(cfg)?.get(session);
  if (file?.pane !== pid) return null;
  const isLost = file.last?.changed == null || hasLeft(file);
  return isLost && world.mono() - file.sought >= SEEK_EVERY ? null : file;
}

/** Where clients write their session files, as their environments say, by the panes of one look. */
const foldersOfLook = new WeakMap<Pane, string>();
const sessionsFolder = (cfg: Config, agent: Agent, pane: Pane): string =>
  knownFile(cfg, agent, pane)?.folder ?? foldersOfLook.getOrInsertComputed(pane,
    () => join(claudeFolder(pane.pid, agent.env), "sessions"));

/** Who has a session file in a folder, by process group, and when (monotonic ms) that was so. */
interface Search {
  clients: Map<string | undefined, number>;
  at: number;
}
const searches = new WeakMap<Config, Map<string, Search>>();
/** How long, ms, a search is good for: all clients of one look are found by the same. */
const SEARCH_LASTS = 1_000;

function clientsIn(cfg: Config, folder: string): Search["clients"] {
  const known = searches.getOrInsertComputed(cfg, () => new Map());
  const last = known.get(folder);
  if (last && world.mono() - last.at < SEARCH_LASTS) return last.clients;
  const pids = world.list(folder).slice(0, 1000)
    .map((name) => Number(/^(\d+)\.json$/.exec(name)?.[1])).filter(isPid);
  // of several in one group the first counts
  const clients = new Map(pids.toReversed().map((pid) => [statOf(pid).group, pid]));
  known.set(folder, { clients, at: world.mono() });
  return clients;
}

/** Finds the file of a pane's client: by the pane's pid, else by one of its process group. */
function seekSessionFile(cfg: Config, folder: string, pane: Pane): SessionFile {
  const found = world.mtime(`${folder}/${pane.pid}.json`) !== null ? pane.pid
    : clientsIn(cfg, folder).get(String(pane.pid)) ?? pane.pid;
  return { pane: pane.pid, pid: found, born: found === pane.pid ? "" : bornOf(found), folder,
    sought: world.mono() };
}

/** The folder with a client's own files; "" = none are read. */
function ownFolder(cfg: Config, agent: Agent, pane: Pane): string {
  const { kind } = backendOf(cfg, agent);
  if (kind === "claude") return sessionsFolder(cfg, agent, pane);
  return kind === "codex" ? codexHomeOf(agent)
    : kind === "gemini" ? geminiFolder(agent, pane) : "";
}

/** The folder of each client's own files, by session; null = its disk does not answer. */
const ownFolders = new Map<string, string | null>();
const isSilent = ({ session }: Agent): boolean => ownFolders.get(session) === null;

/**
 * Asks the disks with the own files of some clients, once for all in one folder. Where one does not
 * answer, nothing there is touched: the call would never return, and one agent's disk would end the
 * care of all. Each waits for its own.
 */
function askOwnDisks(cfg: Config, clients: [Agent, Pane][]): Map<Agent, Promise<void>> {
  const folders = Map.groupBy(clients, ([agent, pane]) => ownFolder(cfg, agent, pane));
  const ask = async (folder: string, there: [Agent, Pane][]): Promise<void> => {
    const answers = !folder || await world.answers(folder);
    for (const [{ session }] of there) ownFolders.set(session, answers ? folder : null);
  };
  return new Map([...folders].flatMap(([folder, there]) => {
    const asked = ask(folder, there);
    return there.map(([agent]): [Agent, Promise<void>] => [agent, asked]);
  }));
}

/**
 * The state of a pane's client by its session file; null = none that can be believed, so that the
 * screen decides.
 */
function readClaudeWord(
  cfg: Config, agent: Agent, pane: Pane, folder = sessionsFolder(cfg, agent, pane),
): ClaudeWord | null {
  if (isSilent(agent)) return null;
  const files = sessionFiles.getOrInsertComputed(cfg, () => new Map());
  return tried(() => {
    const file = knownFile(cfg, agent, pane) ?? seekSessionFile(cfg, folder, pane);
    files.set(agent.session, file);
    const { pid, last } = file;
    const path = `${file.folder}/${pid}.json`;
    // the file of 2.1.330 has 700 bytes
    file.last = readAgain(last, path, (changed) => changed === null ? null : parseClaudeWord(
      world.tail(path, 16_384) ?? "", pid, bornOf(pid), changed > pane.created - CLOCK_STEP));
    return hasLeft(file) ? null : file.last.said;
  }, null); // somebody else's, or not a file
}

/** Rules for a screen that is not the client's: its session file says nothing about that. */
const AWAY = ["wrapper", "shell", "resume hint", "suspended"];
/** Whether a verdict is about the newest turn, and not about a dialog or view on top of it. */
const isOfTurn = ({ where }: Verdict): boolean => ["event", "box", "turn", "done"].includes(where);

/** Whether the session file and a finding on the screen cannot both be true for long. */
function isOdd({ status }: ClaudeWord, screen: Verdict): boolean {
  if (status === "busy") return ["idle", "limited", "fatal"].includes(screen.verdict);
  if (status === "waiting") return ["idle", "active"].includes(screen.verdict);
  return screen.verdict === "active";
}

/**
 * One verdict from the session file and the screen. The file tells of work and dialogs that are not
 * drawn, and of rest that a draft hides. The screen decides on limits and errors, which the file
 * does not know, and on a search or another view, which it calls idle.
 */
export function decideClaude(word: ClaudeWord | null, screen: Verdict): Verdict {
  if (!word) return screen;
  const own = word.status + (word.waitsFor && ` (${word.waitsFor})`);
  const odd = isOdd(word, screen)
    ? `its session file says ${own}, its screen ${screen.verdict} (${screen.rule})` : "";
  const drawn: Verdict = { ...screen, own, ...(odd ? { odd } : {}) };
  const byFile = (verdict: VerdictName, why: string): Verdict => ({ ...drawn, verdict, why,
    rule: word.status, where: SESSION_FILE, text: "", limit: null, waitingUntil: null });
  if (AWAY.includes(screen.rule) || screen.rule === LIMIT_MENU) return drawn;
  const { verdict, where } = screen;
  if (word.status === "busy") {
    const open = verdict === "blocked" && !isOfTurn(screen);
    return open || verdict === "active" ? drawn : byFile("active", "it says it is working");
  }
  if (word.status === "waiting") {
    const drawnToo = ["blocked", "limited"].includes(verdict) || where === "title";
    return drawnToo ? drawn : byFile("blocked", `it waits: ${word.waitsFor}`);
  }
  if (word.status === "shell") {
    return verdict === "idle" || screen.rule === DRAFT
      ? byFile("background", "one of its shells is still running") : drawn;
  }
  return screen.rule === DRAFT ? byFile("idle", "it says it is at its prompt") : drawn;
}

/** How the last turn of a transcript ended. */
export type TranscriptEnd = ReturnType<typeof errorIn>;

const LIMIT_TYPES: Record<string, LimitClass> = {
  five_hour: "5h", seven_day: "weekly", seven_day_opus: "model", seven_day_sonnet: "model",
};
/** ms. No client's limit lasts longer: a reset further off, or as long past, is nonsense. */
const RESET_FURTHEST = 40 * DAY;
/** A possible reset, as wall ms. */
const isReset: Shape = (value) =>
  isNumber(value) && Number(value) < world.now() + RESET_FURTHEST;
const isResetSeconds: Shape = (value) => isNumber(value) && isReset(Number(value) * 1000);

/** The text of an entry, or of its first part. */
function textOfEntry(entry: Record<string, unknown>): string {
  const [part] = [valueAt(entry, "message", "content") ?? entry.content].flat();
  return String(isRecord(part) ? part.text : part);
}

const NO_ERROR: TranscriptEnd = { error: "", text: "", at: 0, limit: null };

/** The entries on those lines of a conversation's file, newest first, without a sub-agent's. */
function* newestEntries(tail: string, wanted: RegExp): Generator<Record<string, unknown>> {
  for (const line of tail.split("\n").reverse()) {
    const entry = wanted.test(line) && parsedRecord(line);
    if (entry && entry.isSidechain !== true) yield entry;
  }
}

/**
 * Reads the last entry of the conversation itself from the end of a transcript; null = none. An
 * error that comes at once may be written before the prompt that met it (seen in 2.1.307).
 */
export function parseTranscriptEnd(tail: string, now: number): TranscriptEnd | null {
  const timeOf = ({ timestamp }: Record<string, unknown>) => Date.parse(String(timestamp));
  let kept = false; // whether the command above this line left everything as it was
  let last: Record<string, unknown> | null = null;
  for (const entry of newestEntries(tail, /"type":"(?:user|assistant|system)"/)) {
    if (entry.isMeta === true) continue;
    const text = textOfEntry(entry);
    // what a person ran; older versions note it as an entry of the user
    const [ran, command] = /^<(?:command-name>(\/[\w-]+)|(?:local-command|bash)-)/.exec(text) ?? [];
    if (!last && command && !kept && CLAUDE_REMEDY.test(`❯ ${command}`)) return NO_ERROR;
    kept = text.startsWith("<local-command-stdout>Kept ");
    if (ran || !["user", "assistant"].includes(String(entry.type))) continue;
    if (last) {
      if (timeOf(entry) > timeOf(last)) last = entry;
      break;
    }
    last = entry;
  }
  return last && (last.isApiErrorMessage === true ? errorIn(last, now) : NO_ERROR);
}

/** The error that an entry is; "" = none. `text`: what the screen says of it; `at`: wall ms. */
function errorIn(entry: Record<string, unknown>, now: number) {
  const seconds = valueAt(entry, "quotaLimits", "resetsAt");
  const resetAt = Number(seconds) * 1000;
  const known = isNumber(seconds) && Math.abs(resetAt - now) < RESET_FURTHEST;
  return {
    error: wordsIn(entry.error, 40) || "unknown", text: wordsIn(textOfEntry(entry)),
    at: Date.parse(String(entry.timestamp)) || now,
    // the usage limit that ended the turn: its class, null = not known, and reset (wall ms)
    limit: known && entry.apiError === "usage_limit_reached"
      ? { class: LIMIT_TYPES[String(valueAt(entry, "quotaLimits", "rateLimitType"))] ?? null,
        resetAt } : null,
  };
}

/** Bytes read from an end of a conversation's file: enough for a large tool result or two. */
const END_MAX = 262_144;
/** The most files that are remembered, for each way to read them. */
const FILES_KNOWN = 500;
type Parser<T> = (tail: string) => T;
type Readings<T> = Map<string, Reading<T | null>>;
const readings = new Map<Parser<unknown>, Readings<unknown>>();

/** What the end of a file says; null = there is none, or it cannot be read. */
function readEnd<T>(path: string, parse: Parser<T>): T | null {
  if (!path) return null;
  const known = readings.getOrInsertComputed(parse, () => new Map()) as Readings<T>;
  return tried(() => {
    const end = readAgain(known.get(path), path, (changed) =>
      changed === null ? null : parse(world.tail(path, END_MAX) ?? ""));
    if (known.size >= FILES_KNOWN) known.clear();
    known.set(path, end);
    return end.said;
  }, null); // somebody else's, or not a file
}

/** Claude Code's transcript of a conversation that was begun in the folder `cwd`. */
const conversationFile = (claude: string, cwd: string, id: string): string =>
  join(claude, "projects", cwd.replace(/[^A-Za-z0-9]/g, "-"), `${id}.jsonl`);

/** The transcript of a running client's conversation; "" = its session file does not say. */
function transcriptOf(cfg: Config, agent: Agent, word: ClaudeWord): string {
  const folder = sessionFiles.get(cfg)?.get(agent.session)?.folder;
  return folder && word.conversation && word.cwd
    ? conversationFile(dirname(folder), word.cwd, word.conversation) : "";
}

const parseTranscript = (tail: string) =>
  ({ end: parseTranscriptEnd(tail, world.now()), model: parseModel(tail) });

const readTranscript = (cfg: Config, agent: Agent, word: ClaudeWord) =>
  readEnd(transcriptOf(cfg, agent, word), parseTranscript);

/** Errors that pass by themselves: the next prompt gets past them. */
const PASSING_ERRORS = ["server_error", "rate_limit", "overloaded"];
const ERROR_WORDS: Record<string, string> = {
  authentication_failed: "login needed", billing_error: "no credit",
};

/** Whether an error of the transcript is what the client said `last`. */
const isShownIn = (last: string | undefined, { text }: TranscriptEnd): boolean =>
  text !== "" && last !== undefined && last.includes(text.slice(0, 30));

/** Whether an error that no rule knows needs a person; rules know the API's own. */
const staysUnknown = ({ error, text }: TranscriptEnd): boolean =>
  error !== "" && !PASSING_ERRORS.includes(error) && !/^API Error|try again/i.test(text);

/** Whether a screen shows what the transcript knows better: a limit, or an error of the turn. */
const showsError = (verdict: Verdict): boolean => verdict.verdict === "limited" ||
  (isOfTurn(verdict) && ["blocked", "fatal", "unsure"].includes(verdict.verdict));

/** A text that was submitted to a client, by its own record; `at`: wall ms; `by`: which client. */
interface Submitted { text: string; at: number; by?: unknown }

/**
 * With the beginning of the record, where its end is all of it: what is not in it since then was
 * not submitted. A conversation that was begun after a text says nothing of that.
 */
const fromItsBeginning = (parse: Parser<Submitted[]>): Parser<Submitted[]> => (tail) => {
  const begun = /"timestamp":"([^"]+)"/.exec(tail)?.[1] ?? "";
  const isWhole = Buffer.byteLength(tail) < END_MAX - 4;
  return [...parse(tail), ...(isWhole ? [{ text: "", at: Date.parse(begun) - 1 }] : [])];
};

/** What a transcript, or a rollout, has of the user's: prompts, also those that wait for a turn. */
const parsePrompts = fromItsBeginning((tail) =>
  [...newestEntries(tail, /"(?:type|role)":"user"|"operation":"enqueue"/)].map((entry) => {
    const said = isRecord(entry.payload) ? entry.payload : entry;
    const content = valueAt(said, "message", "content") ?? said.content;
    const parts: unknown[] = Array.isArray(content) ? content : [{ text: content }];
    return { text: parts.map((part) => valueAt(part, "text") ?? "").join("\n"),
      at: Date.parse(String(entry.timestamp)) };
  }));

/** An error as a file of its client has it; `at`: wall ms. */
interface FiledError { text: string; at: number }

/** How each client draws, right above its box, the error that ended its last turn. */
const DRAWN = {
  claude: (text: string) => `❯ .\n  ⎿  ${text}\n\n${"─".repeat(20)}\n❯\n${"─".repeat(20)}`,
  codex: (text: string) => `${text}\n\n›\x20\n\n  . · /`,
  opencode: (text: string) => `  ┃\n  ┃  ${text}\n  ┃\n\n     ▣  .\n\n  ┃\n  ┃\n  ┃\n  ┃  .\n` +
    `  ╹${"▀".repeat(text.length + 8)}\n   ctrl+p commands`,
  gemini: (text: string) =>
    `✕ ${text}\n\n${"─".repeat(20)}\n .\n${"▄".repeat(20)}\n > .\n${"▀".repeat(20)}`,
};

const drawnAs = (kind: keyof typeof DRAWN, rules: Rule[], { text, at }: FiledError): Verdict =>
  detect(rules, { text: DRAWN[kind](text), title: "" }, at);

/**
 * An error that has left the screen, judged as if it were still there; null = it is over. `exact`:
 * what its client knows of a limit besides the banner.
 */
function redrawn(
  kind: keyof typeof DRAWN, rules: Rule[], error: FiledError, now: number,
  exact: (limit: Limit) => Limit,
): Verdict | null {
  const found = drawnAs(kind, rules, error);
  if (found.verdict === "blocked" || found.verdict === "fatal") return found;
  if (found.verdict !== "limited" || !found.limit) return null;
  const limit = exact(found.limit);
  return limit.resetAt !== null && limit.resetAt <= now ? null
    : { ...found, limit, why: limitWhy(limit, now) };
}

/** A limit that a client's file has in words that no rule knows, until its reset. */
const filedLimit = (screen: Verdict, where: string, limit: Limit, now: number): Verdict =>
  ((limit.resetAt ?? 0) <= now ? screen
    : { ...screen, verdict: "limited", rule: "turn", where, limit, why: limitWhy(limit, now) });

/**
 * A limit or an error on the screen, completed from the transcript: the exact reset, the kind of an
 * error that no rule knows, and whether a possible quote is one.
 */
export function decideError(
  end: TranscriptEnd | null, rests: boolean, screen: Verdict, now: number,
): Verdict {
  if (!end) return screen;
  const shown = screen.doubted && end.error ? { ...screen.doubted, own: screen.own! } : screen;
  const idle = (why: string): Verdict => ({ ...shown, verdict: "idle", where: TRANSCRIPT,
    limit: null, why });
  if (shown.doubted) return rests ? idle("at its prompt: it quotes an error") : shown;
  if (shown.limit && shown.verdict === "limited" && end.limit) {
    const { class: kind, resetAt } = end.limit;
    const limit = { ...shown.limit, class: kind ?? shown.limit.class, resetAt, exact: true };
    return { ...shown, limit, why: limitWhy(limit, now) };
  }
  if (rests && isShownIn(shown.last, end)) {
    if (end.limit) {
      return filedLimit(shown, TRANSCRIPT, { class: end.limit.class ?? "other", banner: end.text,
        native: false, resetAt: end.limit.resetAt, exact: true }, now);
    }
    if (staysUnknown(end)) {
      return { ...shown, verdict: "blocked", rule: UNKNOWN_ERROR, where: TRANSCRIPT, text: end.text,
        why: ERROR_WORDS[end.error] ?? `${end.text} (${end.error})` };
    }
  }
  if (shown.rule !== UNKNOWN_ERROR || !end.error) return shown;
  if (PASSING_ERRORS.includes(end.error) && rests) return idle("at its prompt after an error");
  return { ...shown, why: ERROR_WORDS[end.error] ?? `${shown.why} (${end.error})` };
}

// Models and versions.

/** A model's name. The entry of an error has `<synthetic>` instead. */
const MODEL_NAME = /^[\w.:/[\]-]{1,64}$/;

/** The model that gave the last answer in a transcript; "" = not known. */
export const parseModel = (tail: string): string => newestEntries(tail, /"type":"assistant"/)
  .map((entry) => (entry.type === "assistant" ? wordsIn(valueAt(entry, "message", "model")) : ""))
  .find((model) => MODEL_NAME.test(model)) ?? "";

/** The model by the client's own account, also after `/model`; "" = not known, or at work. */
function readModel(
  cfg: Config, agent: Agent, pane: Pane, screen: string, { verdict, own }: Verdict,
): string {
  const { kind } = backendOf(cfg, agent);
  if (kind === "codex") {
    // the line below its box: model, effort and folder
    const [, model = ""] = /^ {2}(\S+)(?: \S+){0,2} · [/~]/m
      .exec(screen.slice(screen.lastIndexOf("\n› "))) ?? [];
    return MODEL_NAME.test(model) ? model : "";
  }
  // the transcript changes all through a turn, so it is read once that is over
  const isOver = kind === "claude" && own && verdict !== "active";
  const word = isOver ? readClaudeWord(cfg, agent, pane) : null;
  return word ? readTranscript(cfg, agent, word)?.model ?? "" : "";
}

/** The oldest and the newest version that detection was measured on. */
const MEASURED: Record<BackendKind, [string, string] | null> = {
  claude: ["2.0.76", "2.1.332"], opencode: ["1.14.41", "1.18.34"],
  codex: ["0.169.0", "0.171.0"], gemini: ["0.61.0", "0.61.0"], typed: null,
};

/** Whether a version is outside of those that detection was measured on. */
export function isUntried(kind: BackendKind, version: string): boolean {
  const [oldest, newest] = MEASURED[kind] ?? [];
  return oldest !== undefined && (Bun.semver.order(version, oldest) < 0 ||
    Bun.semver.order(version, newest!) > 0);
}

/** The line with a client's version that it draws at its start. */
const VERSION_LINES: Partial<Record<BackendKind, RegExp>> = {
  claude: /^(?: ▐▛|╭─).* Claude Code v(\d+\.\d+\.\d+)\b/m,
  codex: /^ +>_ OpenAI Codex \(v(\d+\.\d+\.\d+)\) *$/m,
  gemini: /^ ▝▜▄ +Gemini CLI v(\d+\.\d+\.\d+) *$/m,
};

/** The version of the client in a pane; "" = it never tells, null = it has not told yet. */
async function readVersion(
  cfg: Config, agent: Agent, pane: Pane, screen: string, own: boolean,
): Promise<string | null> {
  const backend = backendOf(cfg, agent);
  if (own && backend.kind === "claude") {
    const { version } = readClaudeWord(cfg, agent, pane) ?? {};
    if (version) return version;
  }
  const line = VERSION_LINES[backend.kind];
  // most screens have no such line, and this finds out at a tenth of the cost
  if (line && !screen.includes(" v") && !screen.includes("(v")) return null;
  if (line) return line.exec(screen)?.[1] ?? null;
  if (backend.kind !== "opencode" || !pane.conversation) return "";
  const health = await askOpencode(backend, agent.dir, "/global/health");
  return isRecord(health) ? versionIn(health.version) : null;
}

// Codex: the rollout of its conversation.

/** The end of a rollout, Codex's file of a conversation. */
type CodexWord = ReturnType<typeof parseRolloutEnd>;

/** The events of a rollout that have one of the types, newest first; `at`: wall ms. */
function* newestEvents(
  tail: string, types: string[],
): Generator<Record<string, unknown> & { at: number }> {
  const wanted = new RegExp(`"type":"(?:${types.join("|")})"`);
  for (const { type, payload, timestamp } of newestEntries(tail, wanted)) {
    const at = Date.parse(String(timestamp));
    if (type !== "event_msg" || !isRecord(payload) || !at) continue;
    if (types.includes(String(payload.type))) yield { ...payload, at };
  }
}

/** The newest turn in Codex 0.169.0; approvals are part of a turn. null = there is none. */
function newestTurn(tail: string) {
  // the settings are what `/model` changes, and each turn as it begins
  const events = [...newestEvents(tail,
    ["task_started", "task_complete", "turn_aborted", "thread_settings_applied"])];
  const ids = (which: (event: Record<string, unknown>) => boolean) =>
    new Set(events.filter(which).map((event) => event.turn_id));
  // what a person ran is a turn that nothing triggered, and that ends without a word
  const untriggered = ids((event) =>
    valueAt(event, "turn_attribution", "turn_trigger") === null);
  const silent = ids((event) => event.last_agent_message === null && !event.error);
  const commands = untriggered.intersection(silent);
  const turns = events.filter((event) => !commands.has(event.turn_id));
  const newest = turns.find(({ type }) => type !== "thread_settings_applied");
  if (!newest) return null;
  return {
    open: newest.type === "task_started", at: newest.at,
    // what ended it, as the screen draws it; "" = no error did
    error: isRecord(newest.error)
      ? `■ ${plainText(String(newest.error.message), SUBJECT_MAX)}` : "",
    limited: valueAt(newest, "error", "codex_error_info") === "usage_limit_exceeded",
    cured: turns[0] !== newest, // by what was changed since
  };
}

/** Reads the newest turn and the newest limits from the end of a rollout. */
export function parseRolloutEnd(tail: string) {
  const [count] = newestEvents(tail, ["token_count"]);
  return { turn: newestTurn(tail), windows: windowsOf(count?.rate_limits) };
}

/** The windows of its limits: % used, length in minutes, wall ms of the reset. */
function windowsOf(limits: unknown) {
  return ["primary", "secondary"].map((which) => valueAt(limits, which)).flatMap((one) => {
    if (!isRecord(one) || !isNumber(one.resets_at) || !isNumber(one.used_percent)) return [];
    return [{ used: Number(one.used_percent), minutes: Number(one.window_minutes) || 0,
      resetAt: Number(one.resets_at) * 1000 }];
  });
}

/** ms. A banner's time is cut to the minute, and comes a moment after the rollout's. */
const BANNER_BEHIND = 2 * MINUTE;
const WINDOW_CLASSES: Record<number, LimitClass> = { 300: "5h", 10_080: "weekly" };

/** The limit that a screen or a turn's end names, with the reset and class of its window. */
function exactLimit(limit: Limit, windows: CodexWord["windows"], now: number): Limit {
  const { resetAt: shown } = limit;
  const live = windows.filter(({ used, resetAt }) => Math.abs(resetAt - now) < RESET_FURTHEST
    && (used >= 100 || (shown !== null && Math.abs(resetAt - shown) < BANNER_BEHIND)));
  const last = live.sort((a, b) => b.resetAt - a.resetAt)[0];
  if (!last) return limit;
  const { minutes: length, resetAt } = last;
  return { ...limit, class: WINDOW_CLASSES[length] ?? limit.class, resetAt, exact: true };
}

/**
 * Codex's screen, completed from its rollout: the exact reset and class of a limit, a limit or an
 * error that has left the screen, and a turn that is not drawn. `born`: wall ms of the process's
 * start; a turn begun before that was cut off.
 */
export function decideCodex(
  word: CodexWord | null, screen: Verdict, born: number, now: number,
  rules = builtInRules().codex,
): Verdict {
  if (!word) return screen;
  if (screen.limit && screen.verdict === "limited") {
    const limit = exactLimit(screen.limit, word.windows, now);
    return { ...screen, limit, why: limit.exact ? limitWhy(limit, now) : screen.why };
  }
  const turn = screen.verdict === "idle" && word.turn && word.turn.at > born - CLOCK_STEP
    ? word.turn : null;
  const byTurn = { ...screen, rule: "turn", where: ROLLOUT, text: "" };
  if (turn?.open) return { ...byTurn, verdict: "active", why: "it says a turn is in progress" };
  const found = turn?.error ? redrawn("codex", rules, { text: turn.error, at: turn.at }, now,
    (limit) => exactLimit(limit, word.windows, now)) : null;
  // a limit ends with its reset, not when its banner leaves the screen
  const counts = found?.limit?.resetAt || (screen.cutOff && !turn?.cured);
  if (found && counts) return { ...found, rule: "turn", where: ROLLOUT };
  return turn?.limited ? filedLimit(screen, ROLLOUT, exactLimit(
    { class: "other", banner: turn.error, native: false, resetAt: null }, word.windows, now), now)
    : screen;
}

/** `rollout-<when it began>-<id of the conversation>.jsonl` */
const ROLLOUT_NAME = /\/rollout-[\dT-]{19}-([\w-]{36})\.jsonl$/;
const idOfRollout = (path: string): string => ROLLOUT_NAME.exec(path)?.[1] ?? "";

/** A rollout's first line: not a sub-agent's (`own`), the folder, and when it began (wall ms). */
interface RolloutHead { own: boolean; cwd: string; began: number }
const heads = new Map<string, RolloutHead>();

/** The record on the first line of a conversation's file. */
const firstEntry = (path: string): Record<string, unknown> | null =>
  parsedRecord((world.head(path, END_MAX) ?? "").split("\n", 1)[0]!);

/** null = the file cannot be read, so that the screen alone decides. */
function rolloutHead(path: string): RolloutHead | null {
  const known = heads.get(path);
  if (known) return known;
  const first = tried(() => firstEntry(path), null)?.payload;
  if (!isRecord(first)) return null;
  const head = { own: (first.thread_source ?? "user") === "user", cwd: String(first.cwd),
    began: Date.parse(String(first.timestamp)) };
  if (heads.size >= FILES_KNOWN) heads.clear();
  heads.set(path, head);
  return head;
}

const codexHome = (own: string, home: string): string => own || join(home, ".codex");

/** The folder of an agent's Codex: by the agent's `env`, else by our environment. */
const codexHomeOf = ({ env }: Agent): string =>
  codexHome(env.CODEX_HOME ?? process.env.CODEX_HOME ?? "", env.HOME ?? homedir());

/** An agent's rollouts from the day of `since` (wall ms) on; by default all. */
function rolloutsSince(agent: Agent, since = 0): string[] {
  const below = (folder: string) => world.list(folder).filter((name) => /^\d{2,4}$/.test(name))
    .map((name) => join(folder, name));
  const root = join(codexHomeOf(agent), "sessions"); // of folders YYYY/MM/DD
  // from one day earlier: the client dates them by its own time zone
  const first = join(root, new Date(Math.max(since - DAY, 0)).toISOString().slice(0, 10)
    .replaceAll("-", "/"));
  return below(root).flatMap(below).flatMap(below).filter((day) => day >= first)
    .flatMap((day) => world.list(day).map((name) => join(day, name)))
    .filter((path) => ROLLOUT_NAME.test(path));
}

/** The conversations that were begun in an agent's folder since its client was started. */
async function begunRollouts(agent: Agent, pane: Pane): Promise<string[]> {
  const begun: string[] = [];
  for (const path of rolloutsSince(agent, pane.created)) {
    const head = rolloutHead(path);
    const isNew = head?.own && head.began > pane.created - CLOCK_STEP;
    if (isNew && await isSamePlace(head.cwd, agent.dir)) begun.push(path);
  }
  return begun;
}

/** The last search by `rolloutInFolder`: when (monotonic ms), the new ones, the resumed one. */
const soughtRollouts =
  new WeakMap<Agent, { pane: string; at: number; begun: string[]; resumed: string }>();

/**
 * The rollout of a client whose open files the system does not show (macOS): the one begun in its
 * folder since its start (`begun`), else that of the conversation it was to resume. If there are
 * several, or another Codex agent works in the folder, those begun may not be this client's.
 */
async function rolloutInFolder(cfg: Config, agent: Agent, pane: Pane) {
  const mark = `${pane.id} ${pane.created}`;
  let sought = soughtRollouts.get(agent);
  const found = sought && (sought.begun.length > 0 || sought.resumed !== "");
  if (sought?.pane !== mark || !found || world.mono() - sought.at >= SEEK_EVERY) {
    const begun = await begunRollouts(agent, pane);
    const resumed = begun.length ? "" : rolloutOfId(agent, await resumeId(cfg, agent));
    sought = { pane: mark, at: world.mono(), begun, resumed };
    soughtRollouts.set(agent, sought);
  }
  const { begun, resumed } = sought;
  const others = [...cfg.agents.values()].filter((other) => other !== agent && other.enabled &&
    backendOf(cfg, other).kind === "codex");
  const shared = await Promise.all(others.map(async (other) =>
    await isSamePlace(other.dir, agent.dir) &&
    isSamePlace(codexHomeOf(other), codexHomeOf(agent))));
  const path = begun.length === 1 && !shared.includes(true) ? begun[0]! : resumed;
  return { path, begun };
}

/** The rollout of a conversation by its id; "" = there is none. */
const rolloutOfId = (agent: Agent, id: string | null): string =>
  (id && rolloutsSince(agent).find((path) => idOfRollout(path) === id)) || "";

/**
 * The rollout that a pane's Codex writes; "" = none. Of those it has open it is the one written
 * last: after /new and /resume all stay open (measured, 0.171.0). The first process with one is the
 * client: those that it runs may be a Codex too, or read other rollouts. `begun`: where the system
 * does not show what is open, as in `rolloutInFolder`.
 */
async function rolloutOf(cfg: Config, agent: Agent, pane: Pane) {
  const none = { path: "", begun: [] as string[] };
  if (isSilent(agent)) return none;
  // every process has at least its terminal open
  if (!world.opened(pane.pid).length) return rolloutInFolder(cfg, agent, pane);
  for (const pid of pidsIn(pane)) {
    const open = world.opened(pid).filter((path) => ROLLOUT_NAME.test(path))
      .map((path) => ({ path, at: tried(() => world.mtime(path) ?? 0, 0) }));
    const own = open.sort((a, b) => b.at - a.at || (basename(a.path) < basename(b.path) ? 1 : -1))
      .find(({ path }) => rolloutHead(path)?.own);
    if (own) return { ...none, path: own.path };
  }
  return none;
}

/**
 * The conversation that a running Claude Code is in, if something was said in it: without that it
 * cannot be resumed. "" = there is none, or it is not known.
 */
async function claudeConversation(cfg: Config, agent: Agent, pane: Pane): Promise<string> {
  const said = await submittedIn(cfg, agent, pane) ?? [];
  const isPrompt = ({ text }: Submitted) => text.trim() !== "" && !text.startsWith("<");
  return said.some(isPrompt) ? readClaudeWord(cfg, agent, pane)?.conversation ?? "" : "";
}

/**
 * Stores the id of a conversation that the client chose itself, or that a person has begun or taken
 * up in it: in that one the kickoff was not given.
 */
async function noteConversation(cfg: Config, agent: Agent, pane: Pane): Promise<void> {
  const { kind, supportsResume } = backendOf(cfg, agent);
  // no other kind says which one it is in
  if (!agent.resume || !supportsResume || !["claude", "codex"].includes(kind)) return;
  const kept = await resumeId(cfg, agent);
  let id = "";
  if (kind === "claude" && readClaudeWord(cfg, agent, pane)?.conversation !== kept) {
    id = await claudeConversation(cfg, agent, pane);
  } else if (kind === "codex") {
    const { path, begun } = await rolloutOf(cfg, agent, pane);
    id = idOfRollout(path);
    // an id stored while this rollout was the only candidate may be another client's after all
    if (!id && begun.some((one) => idOfRollout(one) === kept)) await dropResumeId(cfg, agent);
  }
  if (!id || id === kept) return;
  if (kept) world.remove(kickoffGivenFile(cfg, agent.session));
  await keepResumeId(cfg, agent, id);
}

// Gemini: the file of its conversation, and the log of what was submitted in its folder.

function geminiFolder({ env }: Agent, { pid }: Pane): string {
  const of = clientVariables(pid, env);
  return join(of("GEMINI_CLI_HOME") || of("HOME") || homedir(), ".gemini");
}

/** The folder with Gemini's own files on an agent's folder; "" = it has none yet. */
function geminiProject(agent: Agent, pane: Pane): string {
  const home = geminiFolder(agent, pane);
  const known = readEnd(join(home, "projects.json"), parsedRecord);
  // it lists folders as the system names them; others than its own may be on a disk that hangs
  const name = valueAt(known, "projects", world.folder(pane.pid) || linkless(agent.dir));
  return typeof name === "string" && isId(name) ? join(home, "tmp", name) : "";
}

/** Reads the end of Gemini's `logs.json`, a list of records that is written anew each time. */
const parseLog = (tail: string): Submitted[] => tail.split("\n  {\n").slice(1).flatMap((part) => {
  const entry = parsedRecord(`{${part.split("\n  }")[0]}}`);
  return entry ? [{ text: String(entry.message), at: Date.parse(String(entry.timestamp)),
    by: entry.sessionId }] : [];
});

/** What was submitted to the Gemini that was started with that id; null = not known. */
const submittedTo = (project: string, id: string): Submitted[] | null =>
  readEnd(project && join(project, "logs.json"), parseLog)
    ?.filter(({ by }) => by === id) ?? null;

/** The error that ended the last turn of a conversation in Gemini's file of it; null = none did. */
function parseChatEnd(tail: string): FiledError | null {
  for (const entry of newestEntries(tail, /"type":"(?:user|gemini|error)"/)) {
    const { type, timestamp } = entry;
    const text = textOfEntry(entry);
    if (type === "error" && text.startsWith("[API Error: ")) {
      return { text: plainText(text, SUBJECT_MAX), at: Date.parse(String(timestamp)) || 0 };
    }
    // what a person runs in its shell mode is noted as said by the user
    const isTurn = type === "gemini" ||
      (type === "user" && !text.startsWith("I ran the following shell command:"));
    if (isTurn) return null;
  }
  return null;
}

/** The file of the conversation with that id; "" = there is none. */
function chatFile(project: string, id: string): string {
  const folder = join(project, "chats");
  // a resumed one leaves an empty file beside the one that it goes on with
  return world.list(folder).filter((name) => name.endsWith(`-${id.slice(0, 8)}.jsonl`))
    .map((name) => join(folder, name)).filter((path) => firstEntry(path)?.sessionId === id)
    .sort((a, b) => (world.mtime(b) ?? 0) - (world.mtime(a) ?? 0))[0] ?? "";
}

/** The error that ended the last turn of a Gemini that was started with the id; null = none did. */
function readChatEnd(agent: Agent, pane: Pane, id: string): FiledError | null {
  const project = geminiProject(agent, pane);
  const chat = project && tried(() => chatFile(project, id), "");
  const end = readEnd(chat, parseChatEnd);
  if (!end || end.at < pane.created - CLOCK_STEP) return null;
  const cured = submittedTo(project, id)?.some(({ text, at }) =>
    at > end.at && new RegExp(`^${GEMINI_REMEDY}`).test(text));
  return cured ? null : end;
}

// All of it together.

/** What was submitted to a client lately, by its own record; null = it keeps none that we know. */
async function submittedIn(cfg: Config, agent: Agent, pane: Pane): Promise<Submitted[] | null> {
  const { kind } = backendOf(cfg, agent);
  if (isSilent(agent)) return null;
  if (kind === "gemini") {
    const id = await resumeId(cfg, agent);
    const said = id ? submittedTo(geminiProject(agent, pane), id) : null;
    // an id that this client has never used, or a log begun anew, does not tell what it was given
    return said?.some(({ at }) => at > pane.created - CLOCK_STEP) ? said : null;
  }
  if (kind === "codex") {
    return readEnd((await rolloutOf(cfg, agent, pane)).path, parsePrompts);
  }
  const word = kind === "claude" ? readClaudeWord(cfg, agent, pane) : null;
  return word && readEnd(transcriptOf(cfg, agent, word), parsePrompts);
}

const NO_VERDICT: Verdict = { verdict: "unsure", rule: "", where: "", text: "", limit: null,
  waitingUntil: null, why: "" };

/** Whether an executable may be a shell, by whatever name it was called: dash, ksh93, busybox. */
const mayBeShell = (executable: string): boolean => /sh|box|^$/.test(basename(executable));

/**
 * Whether a person's program, or a shell, has taken the place of the client that we started.
 * `left`: a shell may have, since an earlier look found none.
 */
const isReplaced = (
  cfg: Config, agent: Agent, { startedPid, pid, session }: Pane, left: boolean,
): boolean => (startedPid > 0 && startedPid !== pid) ||
  (left && session !== "" && isLeftShell(argvOf(pid), backendOf(cfg, agent)));

/** The pid mark of a pane that was taken over: what a shell in it executes keeps its pid. */
const NOBODY = 1;

/** What the process in a pane says against its screen and its files; null = nothing. */
function processVerdict(
  cfg: Config, agent: Agent, pane: Pane, left: boolean,
): Verdict | null {
  const restart = `run "agents restart ${agent.name}"`;
  if (isReplaced(cfg, agent, pane, left)) {
    const why = `its pane runs something other than the client we started; ${restart}`;
    return { ...NO_VERDICT, where: "process", why };
  }
  if (!world.folder(pane.pid).endsWith(" (deleted)")) return null;
  const why = `its folder was removed; put it back, then ${restart}`;
  return { ...NO_VERDICT, verdict: "blocked", rule: "folder", where: "process", why };
}

/**
 * The verdict of an agent's screen, corrected by its process and its client's files, whose disk
 * whoever looks has asked: see `askOwnDisks`.
 */
async function withOwnWord(
  cfg: Config, agent: Agent, pane: Pane, screen: Verdict, left = true,
): Promise<Verdict> {
  const byProcess = processVerdict(cfg, agent, pane, left);
  if (byProcess) return byProcess;
  const folder = ownFolders.get(agent.session);
  if (folder === null) {
    return { ...NO_VERDICT, where: "disk", why: "the disk with its own files does not answer" };
  }
  const backend = backendOf(cfg, agent);
  const [{ kind }, rules] = [backend, rulesOf(backend)];
  if (kind === "codex") {
    const { path } = await rolloutOf(cfg, agent, pane);
    const word = readEnd(path, parseRolloutEnd);
    return readingFor(cfg, agent, () =>
      decideCodex(word, screen, pane.created, world.now(), rules));
  }
  if (kind === "gemini" && screen.cutOff) {
    const id = await resumeId(cfg, agent);
    const end = id ? readChatEnd(agent, pane, id) : null;
    const found = end && readingFor(cfg, agent, () =>
      redrawn("gemini", rules, end, world.now(), (limit) => limit));
    return found ? { ...found, where: CHAT } : screen;
  }
  const word = kind === "claude" ? readClaudeWord(cfg, agent, pane, folder) : null;
  const verdict = decideClaude(word, screen);
  const isCutOff = verdict.cutOff && verdict.verdict === "idle";
  const mayBeError = word?.status === "idle" && verdict.last !== undefined;
  if (!word || !(isCutOff || mayBeError || showsError(verdict))) return verdict;
  const [end, now] = [readTranscript(cfg, agent, word)?.end ?? null, world.now()];
  const gone = isCutOff && end?.error ? readingFor(cfg, agent, () =>
    redrawn("claude", rules, end, now, (limit) =>
      ({ ...limit, resetAt: end.limit?.resetAt ?? limit.resetAt }))) : null;
  const shown = gone ? { ...gone, where: TRANSCRIPT, own: verdict.own! } : verdict;
  return decideError(end, word.status === "idle", shown, now);
}

/** Background work that takes longer than `longest` ms no longer protects a client. */
export function decideBackground(
  verdict: Verdict, since: number | undefined, now: number, longest: number,
): Verdict {
  if (verdict.verdict !== "background" || !since || now - since < longest) return verdict;
  return { ...verdict, verdict: "idle",
    why: `${verdict.why}, for longer than ${minutes(longest)}` };
}

/**
 * A screen's verdict, corrected by all that the client says of itself, and by time. `earlier`:
 * since when (wall ms) it has done only background work, as far as an earlier look knows; `left`:
 * see `isReplaced`.
 */
async function judge(
  cfg: Config, agent: Agent, pane: Pane, screen: Verdict, earlier: number | undefined,
  left = true,
) {
  const backend = backendOf(cfg, agent);
  const byFiles = await withOwnWord(cfg, agent, pane, screen, left);
  const server = backend.kind === "opencode" && pane.conversation
    ? await readOpencode(backend, agent, pane, byFiles) : null;
  const now = world.now();
  const verdict = server ? readingFor(cfg, agent, () =>
    decideOpencode(server, byFiles, now, rulesOf(backend))) : byFiles;
  // a look that understands nothing does not say that the work has ended
  const backgroundSince = verdict.verdict === "background" ? Math.min(earlier || Infinity, now)
    : verdict.verdict === "unsure" ? earlier : undefined;
  const longest = cfg.watchdog.backgroundMax * 1000;
  return { verdict: decideBackground(verdict, backgroundSince, now, longest), backgroundSince,
    serverDown: server?.down ?? false };
}

// ── state ───────────────────────────────────────────────────────────────────────
// What outlives the watchdog: its memory, the phase, the limits, and what people ordered. It is all
// stored before it is acted upon. Each field is checked when it is read, as another version may
// have written it; each read has a deadline, as the disk may be a network's.

// no `join` for what each tick asks for: it took 3 % of one
const watchFile = ({ stateDir }: Config): string => `${stateDir}/watch.json`;
const operatorFile = ({ stateDir }: Config): string => `${stateDir}/operator.json`;
const heartbeatFile = ({ stateDir }: Config): string => `${stateDir}/heartbeat`;

/** All changes of state go through here, except loading and undoing a start. */
function enter(memory: Memory, life: Life): void {
  memory.life = life;
}

/** The same for a unit that does not run; while its old client still ends, this comes after it. */
const enterDown = (memory: Memory, down: Down): void =>
  enter(memory, memory.life.state === "stopping" ? { ...memory.life, then: down } : down);

/** Marks a client as ending: no other is started before its whole family is gone. */
const enterStopping = (memory: Memory, family: Stopping): void =>
  enter(memory, { state: "stopping", family, then: downOf(memory.life) });

/** The state that follows once nothing of the client is left. */
function downOf(life: Life): Down {
  if (life.state === "stopping") return life.then;
  return "since" in life ? DUE : life;
}

/** The family that is still being ended; null = none. */
const endingOf = ({ life }: Memory): Readonly<Stopping> | null =>
  life.state === "stopping" ? life.family : null;

/** Notes how the end of a family goes on. It stays the same object: `doubtful` knows it by that. */
function noteEnding(memory: Memory, news: Partial<Stopping>): void {
  if (memory.life.state === "stopping") Object.assign(memory.life.family, news);
}

/** Monotonic ms since when its client is known to run; null = it does not run. */
const aliveSince = ({ life }: Memory): number | null =>
  life.state === "up" || life.state === "starting" ? life.since : null;

/** Only a person, or a new phase, starts it again. */
const isOver = ({ life }: Memory): boolean => ["parked", "done"].includes(downOf(life).state);

/** Moves the wall-clock times of a life by `step` ms, after the clock was set back. */
function shifted<T extends Life>(life: T, step: number): T {
  if (life.state === "backoff") return { ...life, until: life.until && life.until + step };
  return life.state === "stopping" ? { ...life, then: shifted(life.then, step) } : life;
}

/** A life in the format of version 0.1.0. Who runs is not stored: the next look shows it. */
export function storedLife(memory: Memory) {
  const down = downOf(memory.life);
  return {
    nextStart: down.state === "backoff" ? down.until : 0,
    parked: down.state === "parked" ? down.why : "", parkedAt: "at" in down ? down.at : 0,
    finished: down.state === "done", stopping: endingOf(memory),
  };
}

function loadedLife(stored: ReturnType<typeof storedLife>): Life {
  const { nextStart, parked, parkedAt, finished, stopping } = stored;
  const down: Down = parked ? { state: "parked", why: parked, at: parkedAt }
    : finished ? { state: "done", at: parkedAt } : { state: "backoff", until: nextStart };
  return stopping ? { state: "stopping", family: stopping, then: down } : down;
}

const TRANSIENT = freshTransient();
/**
 * What is not stored, for JSON to leave out: each save does this for each agent, and a copy without
 * these takes longer.
 */
const UNSTORED: Partial<typeof TRANSIENT & Pick<Memory, "life">> = Object.fromEntries(
  [...Object.keys(TRANSIENT), "life"].map((key) => [key, undefined]));
/** What is stored of a fresh one, for the types of its fields; made once for all. */
const FRESH_LIFE = storedLife(freshMemory());
const FRESH_STORED = without(UNSTORED, { ...freshMemory(), ...FRESH_LIFE });

function storedMemory(memory: Memory) {
  const { starts, failures } = memory;
  return { starts, failures, ...storedLife(memory), ...memory as Partial<Memory>, ...UNSTORED,
    // of a client at work it would be another one at each save
    drawStamp: memory.verdict === "idle" ? memory.drawStamp : undefined };
}

/** A fresh memory, overlaid with what was on disk. */
function loadedMemory(value: unknown): Memory {
  const { nextStart, parked, parkedAt, finished, stopping, ...others } =
    { ...FRESH_LIFE, ...soundFields(FRESH_STORED, value, MEMORY_SHAPES) };
  return { ...freshMemory(), ...others,
    life: loadedLife({ nextStart, parked, parkedAt, finished, stopping }) };
}

export function memoryOf(watch: Watch, name: string): Memory {
  if (!Object.hasOwn(watch.agents, name)) watch.agents[name] = freshMemory();
  return watch.agents[name]!;
}

/**
 * Whether a client was told to end whose pane stays until then: the last one of a person's session,
 * or one that tmux did not close.
 */
function endsInPlace(memory: Memory, pane: Pane | null): boolean {
  const ending = endingOf(memory);
  return ending?.pid === pane?.pid && Boolean(pane?.pinned || ending?.inPlace);
}

/** Fields of the memory that hold a wall time of the past. */
const PAST = ["since", "at", "made", "stuck", "unprovenAt", "owedSince", "backgroundSince",
  "unsureTold", "droppedAt", "askedAt", "liftedAt", "killed", "answeredAt"];

/** Moves times that lie ahead to now: the clock has been set back since. */
function takeBack(value: object | null, now = world.now()): void {
  for (const key of Object.keys(value ?? {})) {
    const one = (value as Raw)[key];
    if (typeof one === "object") {
      if (key !== "client") takeBack(one, now); // its times are what tells it from another
    } else if (Number(one) > now && PAST.includes(key)) (value as Raw)[key] = now;
  }
}

/** A client's process; pids 0 and 1 never are. */
const GROUP = {
  pid: (value: unknown) => Number.isInteger(value) && Number(value) > 1, born: isText,
};

/** Checks for stored fields whose shape a fresh value does not show. */
const MEMORY_SHAPES: Record<string, Shape> = {
  ran: isFlag, version: isText, model: isText, conversation: isId,
  unsureTold: isNumber, backgroundSince: isNumber, stalls: isNumber, stallsTold: isNumber,
  answering: isFlag, answeredAt: isNumber, draft: isFlag, hindered: isText, drawStamp: isText,
  awaits: withFields({ need: isText, since: isNumber }),
  starts: isList(isNumber), client: orNull(withFields(GROUP)),
  stopping: orNull(withFields({ ...GROUP, since: isNumber, marks: orNull(isList(isText)),
    stuck: orNull(isText), killed: orNull(isNumber), inPlace: orNull(isFlag) })),
  restarts: withFields({ day: isText, count: isNumber }),
};
const WATCH_SHAPES: Record<string, Shape> = {
  accounts: isTable(withFields({ name: isText, class: isLimitClass, resetAt: isReset,
    asker: isText, askedAt: isNumber, liftedAt: isNumber })),
  versions: isList(isText), orphans: isList(isText),
  seen: isList(isText), taken: isList(isText), delivered: isList(isText),
  inboxes: isTable(isText),
  wakeDue: isTable(isNumber), held: isTable(isNumber),
  turn: orNull(withFields({ owes: isText, subject: isText, at: isNumber })), owedSince: isNumber,
  intent: orNull(withFields({ id: isText, from: isText, to: isText, run: isText })),
  channel: orNull(withFields({ state: (value) => CHANNEL_STATES.includes(value as ChannelState),
    why: isText, cure: isText, since: isNumber, told: isFlag })),
  notices: orNull(withFields(
    { tries: isNumber, since: isNumber, dropped: isNumber, droppedAt: isNumber, why: isText })),
};
const MESSAGE = {
  id: isText, target: isText, text: isText, cause: isText, made: isNumber, tries: isNumber,
};
const MESSAGE_SHAPES: Record<string, Shape> = {
  ...MESSAGE, seen: isNumber, entered: isNumber, copies: isNumber,
  pasted: withFields({ pid: isNumber, nth: isNumber, at: isNumber, empty: isNumber }),
  subjects: isList(isText), more: isNumber, why: isText, during: isText, stuck: isNumber,
  unprovenAt: isNumber, expires: isNumber, undelivered: isText,
};

/** The stored messages; entries that are no message are dropped. */
const soundMessages = (list: unknown): Message[] => (Array.isArray(list) ? list : [])
  .filter(withFields(MESSAGE)).map((one) => sound({} as Message, one, MESSAGE_SHAPES));

/** The stored fields that are sound; a bad field is dropped alone. */
function soundFields<T extends object>(
  fresh: T, stored: unknown, shapes: Record<string, Shape>,
): Partial<T> {
  const good: Raw = {};
  for (const key of isRecord(stored) ? Object.keys(stored) : []) {
    const value = (stored as Raw)[key];
    // an optional field is missing from a fresh value: its shape alone decides
    const isKnown = key in fresh;
    if ((!isKnown || sameShape(fresh[key as keyof T], value)) &&
      (shapes[key]?.(value) ?? isKnown)) good[key] = value;
  }
  return good as Partial<T>;
}

/** A fresh value with the sound ones of the stored fields. */
const sound = <T extends object>(fresh: T, stored: unknown, shapes: Record<string, Shape>): T =>
  ({ ...fresh, ...soundFields(fresh, stored, shapes) });

/** What a memory names that runs; a copy of another fleet's folder names what that fleet runs. */
const RUNNING = { client: null, conversation: undefined, stopping: null };

/** Parses a stored memory; throws if the text is none. */
function parseWatch(cfg: Config, stored: string): Watch {
  const fresh = freshWatch();
  const raw: unknown = JSON.parse(stored);
  if (!isRecord(raw)) die("it is not a watchdog's memory");
  takeBack(raw);
  const known = sound(fresh, raw, WATCH_SHAPES);
  const isCopy = known.room !== "" && known.room !== cfg.room;
  if (isCopy) Object.assign(known, { room: "", server: "" });
  const agents = Object.entries(known.agents).filter(([, memory]) => isRecord(memory))
    .map(([name, memory]) => [name, loadedMemory(isCopy ? { ...memory, ...RUNNING } : memory)]);
  return { ...known, volatile: fresh.volatile, outbox: soundMessages(known.outbox),
    unproven: soundMessages(known.unproven), agents: Object.fromEntries(agents) };
}

/** ms. Without /proc, a memory's groups are believed only if its watchdog ran this recently. */
const LONGEST_ABSENCE = 300_000;

async function doubtGroups(cfg: Config, watch: Watch): Promise<Watch> {
  const ranAt = hasProc() ? world.now() : (await readBeat(cfg)).at ?? 0;
  if (isRecent(ranAt, LONGEST_ABSENCE)) return watch;
  for (const memory of Object.values(watch.agents)) {
    for (const group of [memory.client, endingOf(memory)]) if (group) doubtful.add(group);
  }
  return watch;
}

/**
 * What an earlier watchdog remembered. A damaged file is kept aside; for it, and for one that is
 * gone, the copy from some minutes ago is used: what was sent since then is sent again, but no
 * hand-off is lost.
 */
export async function loadWatch(cfg: Config): Promise<Watch> {
  let stored: string | null = null;
  let fault: unknown = null;
  try {
    stored = await world.text(watchFile(cfg));
    if (stored !== null) return await doubtGroups(cfg, parseWatch(cfg, stored));
  } catch (error) {
    if (error instanceof NoAnswer) throw error; // or what is not known would be overwritten
    fault = error;
  }
  // if it is not a regular file, the next write moves it out of the way
  const bad = stored;
  if (bad !== null) await writeOrLog(() => world.writeAtomic(`${watchFile(cfg)}.bad`, bad));
  const copy = await copiedWatch(cfg);
  if (fault !== null && !copy && isUnread(fault)) throw fault;
  const why = fault === null ? " is gone" // no write leaves the folder without it
    : `: ${messageOf(fault)}${bad === null ? "" : "; kept as watch.json.bad"}`;
  if (copy) log(`${watchFile(cfg)}${why}; using the last copy`);
  else if (fault !== null) log(`${watchFile(cfg)}${why}; starting without it`);
  return copy ?? freshWatch();
}

const watchCopyFile = (cfg: Config): string => `${watchFile(cfg)}.copy`;

async function copiedWatch(cfg: Config): Promise<Watch | null> {
  try {
    return await doubtGroups(cfg, parseWatch(cfg, await textIn(watchCopyFile(cfg))));
  } catch (error) {
    if (error instanceof NoAnswer) throw error;
    return null;
  }
}

/** Keeps a second copy of the memory, in case the disk damages the first. */
async function copyWatch(cfg: Config, { volatile: { saved } }: Watch): Promise<void> {
  const path = watchCopyFile(cfg);
  const age = Math.abs(world.now() - (world.mtime(path) ?? 0));
  const due = saved !== "" && age >= cfg.watchdog.heavyInterval * 1000;
  if (due && await textIn(path) !== saved) await world.writeAtomic(path, saved);
}

/** Whether a stored value has the type of the fresh one; other types are not converted. */
function sameShape(fresh: unknown, value: unknown): boolean {
  if (value === null) return fresh === null;
  if (fresh === null) return true;
  return typeof fresh === typeof value && Array.isArray(fresh) === Array.isArray(value);
}

/**
 * Writes what must outlive the watchdog, if it changed. Throws on a full disk: then the caller must
 * not act. Saves queue: none may return while an earlier one is still writing the same change.
 */
export function save(cfg: Config, watch: Watch): Promise<void> {
  const saved = watch.volatile.saving.then(() => writeWatch(cfg, watch));
  watch.volatile.saving = saved.catch(() => {});
  return saved;
}

async function writeWatch(cfg: Config, watch: Watch): Promise<void> {
  const agents = Object.entries(watch.agents)
    .map(([name, memory]) => [name, storedMemory(memory)]);
  const stored = JSON.stringify({ ...watch, shaOf: watch.shaOf || undefined,
    room: watch.room || undefined,
    channel: watch.channel ?? undefined,
    notices: watch.notices ?? undefined,
    unproven: watch.unproven.length ? watch.unproven : undefined,
    versions: watch.versions.length ? watch.versions : undefined,
    orphans: watch.orphans.length ? watch.orphans : undefined,
    accounts: Object.keys(watch.accounts).length ? watch.accounts : undefined,
    agents: Object.fromEntries(agents), volatile: undefined });
  const { unsaid } = watch.volatile;
  const due = unsaid.length;
  if (stored !== watch.volatile.saved) {
    await world.writeAtomic(watchFile(cfg), stored);
    watch.volatile.saved = stored;
  }
  for (const [event, fields] of unsaid.splice(0, due)) emit(cfg, event, fields);
}

/** An event that the next save emits: what a crash loses is decided again, and said then. */
const emitStored = (
  watch: Watch, event: EventName, fields: Record<string, unknown>,
): void => void watch.volatile.unsaid.push([event, fields]);

/** A save on which the next step does not depend: a failure is logged, and work goes on. */
const saveOrLog = (cfg: Config, watch: Watch): Promise<void> =>
  attempt(watch, "state", () => save(cfg, watch));

/**
 * The parts of the state folder that rounds and commands depend on: read at the start of each, then
 * updated as we write. Not here: orders (see `operatorOf`), and what only a start or an end reads.
 */
export interface Stored {
  /** What was read of the phase; or why it cannot be read, and what was read before. */
  phase: PhaseTexts | { error: string; known?: PhaseTexts | undefined };
  /** By session; null = its file is gone. */
  limits: Map<string, LimitState | null>;
  sshAgent: string;
}

/**
 * The mark of this fleet. It is stored, so that a fleet whose folder is moved keeps its own;
 * neither a copy nor another folder in the old place has it.
 */
async function readRoom(cfg: Config): Promise<string> {
  const stored = await storedRoom(cfg).catch(() => "");
  const [room = "", ...places] = stored?.split("\n") ?? [];
  const isMark = /^\w+$/.test(room) && places.some(Boolean);
  if (isMark && placesOf(cfg).some((place) => places.includes(place))) return room;
  const [home, folder] = [homeOf(cfg), world.folderId(cfg.planDir)];
  return roomOf(!isMark && await isOlder(cfg) ? home : home + folder);
}

/** Whether an older version began this fleet, as its memory says where no mark does. */
async function isOlder(cfg: Config): Promise<boolean> {
  for (const path of [watchFile(cfg), watchCopyFile(cfg)]) {
    const text = await textIn(path).catch(() => "");
    const memory = tried((): unknown => JSON.parse(text), null);
    if (isRecord(memory)) return ["", roomOf(homeOf(cfg))].includes(`${memory.room ?? ""}`);
  }
  return false;
}

export const phaseIdxFile = (cfg: Config): string => join(cfg.stateDir, cfg.loop.stateFile);
const phaseIdFile = ({ stateDir }: Config): string => `${stateDir}/phase-id`;
const sshAgentFile = ({ stateDir }: Config): string => `${stateDir}/ssh-auth-sock`;
/**
 * Reads all of it at once into `cfg.stored`. Of a folder or a file that cannot be read just now,
 * what was read last holds: no limit is lifted, and no loop goes back to the first phase.
 */
export async function readState(cfg: Config): Promise<void> {
  cfg.room ||= await readRoom(cfg);
  try {
    if (cfg.stored !== UNREAD && world.mtime(cfg.stateDir) === null) return;
    const [phase, limits, sshAgent] = await Promise.all(
      [readPhaseFiles(cfg), readLimits(cfg), readSshAgent(cfg)]);
    cfg.stored = { phase, limits, sshAgent };
  } catch (error) {
    if (cfg.stored !== UNREAD) return;
    cfg.stored = { ...UNREAD, phase: { error: messageOf(error) }, limits: new Map() };
  }
}

/** The texts of both files of the phase; null = there is none. */
interface PhaseTexts {
  index: string | null;
  id: string | null;
}

/** Where both files are gone what is known holds; `phaseAdvanceCheck` stores it again. */
async function readPhaseFiles(cfg: Config): Promise<Stored["phase"]> {
  const { phase } = cfg.stored;
  const known = "error" in phase ? phase.known : phase;
  try {
    const [index, id] = await Promise.all(
      [world.text(phaseIdxFile(cfg)), world.text(phaseIdFile(cfg))]);
    return index === null && id === null && known ? known : { index, id };
  } catch (error) {
    return { error: messageOf(error), known };
  }
}

const readSshAgent = (cfg: Config): Promise<string> => world.text(sshAgentFile(cfg))
  .then((text) => text?.trim() ?? cfg.stored.sshAgent, () => cfg.stored.sshAgent);

/** The id first: beside an older index it does not count until its own is written too. */
async function storePhase(cfg: Config, idx: number, complete?: true): Promise<void> {
  const phase = { index: `${idx}`,
    id: `${JSON.stringify({ id: phases(cfg)[idx]!.id, idx, complete })}\n` };
  await world.writeAtomic(phaseIdFile(cfg), phase.id);
  await world.writeAtomic(phaseIdxFile(cfg), phase.index);
  cfg.stored.phase = phase;
}

/** The hold of one agent, in the original's format. */
export interface LimitState {
  /** Wall s: nothing is typed before but what a person sends (`whyLimited`). */
  until: number;
  /** How often it was probed. */
  nudges: number;
  /** The banner as first seen and when: the same one may move the hold only earlier. */
  banner?: string;
  class?: LimitClass;
  setAt?: number;
  resetAt?: number;
  /** Wall s at which it last took a text, as a probe is; absent = none yet, or its probe waits. */
  asked?: number;
}

export const limitStatePath = (cfg: Config, session: string): string =>
  join(cfg.stateDir, `limited-${session}.json`);

const LIMIT_SHAPES: Record<string, Shape> = {
  banner: isText, setAt: isNumber, resetAt: isResetSeconds, class: isLimitClass, asked: isNumber,
};

/**
 * The limits by their files: for most agents there is none, and a look at the folder says so. One
 * that cannot be read is the one that was read last, or else one without a reset time.
 */
async function readLimits(cfg: Config): Promise<Stored["limits"]> {
  const sessions = world.list(cfg.stateDir)
    .flatMap((file) => /^limited-(.+)\.json$/.exec(file)?.[1] ?? []);
  const unknown = { nudges: 0, until: world.now() / 1000 + cfg.watchdog.limitProbeFallback };
  return new Map(await Promise.all(sessions.map(async (session) => [session,
    await world.text(limitStatePath(cfg, session))
      .then(parseLimitState).catch(() => cfg.stored.limits.get(session) ?? unknown)] as const)));
}

/** Throws where the file is damaged: that does not mean that there is no limit. */
function parseLimitState(text: string | null): LimitState | null {
  if (text === null) return null;
  const state = parsedRecord(text);
  if (!state || !isResetSeconds(state.until)) die("it is not a limit's file");
  const wrong = (key: string) => key in state && !LIMIT_SHAPES[key]!(state[key]);
  for (const key of Object.keys(LIMIT_SHAPES).filter(wrong)) delete state[key];
  return { ...state, until: Number(state.until), nudges: Number(state.nudges) || 0 };
}

export const loadLimitState = (cfg: Config, session: string): LimitState | null =>
  cfg.stored.limits.get(session) ?? null;

/** Whether a hold lasts: a clock that was set back behind its beginning makes none longer. */
const isHolding = ({ until, setAt = 0 }: LimitState, now: number): boolean =>
  now / 1000 < until && now / 1000 >= setAt - 60;

/** The hold that keeps an agent from its work, whatever its screen shows by now; null = none. */
function holdOn(cfg: Config, { session }: Agent): LimitState | null {
  const hold = loadLimitState(cfg, session);
  return hold && isHolding(hold, world.now()) ? hold : null;
}

const holdWords = ({ class: kind = "other", resetAt }: LimitState): string =>
  `its ${LIMIT_NAMES[kind]} holds${resetAt ? ` until ${dayTime(resetAt * 1000)}` : ""}`;

export async function saveLimitState(
  cfg: Config, session: string, state: LimitState,
): Promise<void> {
  await world.writeAtomic(limitStatePath(cfg, session), JSON.stringify(state));
  cfg.stored.limits.set(session, state);
}

export function clearLimitState(cfg: Config, session: string): void {
  if (!cfg.stored.limits.has(session)) return;
  world.remove(limitStatePath(cfg, session));
  cfg.stored.limits.delete(session);
}

/** The orders as they were read last, by state folder. */
const lastOperator = new Map<string, { source: string | null; operator: Operator }>();
/** Why they cannot be read at present, by state folder. */
const operatorFaults = new Map<string, string>();

/**
 * The operator's orders; not to be modified. They are read each time they are asked for: an order
 * counts from the moment it is given, not from the next round. A file that is unreadable, or gone,
 * never means start: what was read last stays in force, or else what the watchdog remembers as
 * taken down. `atFault`: what is done first about a file that cannot be used.
 */
export async function operatorOf(
  cfg: Config, atFault: (why: string, source: string | null, error: unknown) => unknown = () => {},
): Promise<Operator> {
  const last = lastOperator.get(cfg.stateDir);
  let source: string | null = null;
  try {
    const away = () => (world.mtime(cfg.stateDir) === null ? last?.source : undefined);
    source = await world.text(operatorFile(cfg)) ?? away() ?? null;
    if (source === null) {
      // no order removes the file; the memory may be gone with it
      const operator = { ...NO_ORDERS, held: last?.operator.held ?? await takenDown(cfg) };
      lastOperator.set(cfg.stateDir, { source, operator });
      operatorFaults.set(cfg.stateDir, Object.keys(operator.held).length === 0 ? ""
        : "operator.json is gone; what was down stays down");
      return operator;
    }
    const operator = source === last?.source ? last.operator : parseOperator(source);
    operatorFaults.delete(cfg.stateDir);
    lastOperator.set(cfg.stateDir, { source, operator });
    return operator;
  } catch (error) {
    const why = `operator.json: ${messageOf(error)}`;
    await atFault(why, source, error);
    operatorFaults.set(cfg.stateDir, `${why}; using its last readable state`);
    return last?.operator ?? { ...NO_ORDERS, held: await takenDown(cfg) };
  }
}

const NO_ORDERS: Operator = { held: {}, busy: {}, released: {}, queue: [] };
const OPERATOR_SHAPES: Record<string, Shape> = {
  held: isTable(isNumber), busy: isTable(isNumber), released: isTable(isNumber),
  owners: isTable(isText),
};

/** Parses the orders of a file; throws if there are none in it. */
function parseOperator(source: string): Operator {
  const raw: unknown = JSON.parse(source);
  if (!isRecord(raw)) die("it is not a file of orders");
  return { ...sound(NO_ORDERS, raw, OPERATOR_SHAPES), queue: soundMessages(raw.queue) };
}

/** Who was down by order when the watchdog saved last, and since when (wall ms). */
async function takenDown(cfg: Config): Promise<Operator["held"]> {
  const { held, agents } = await loadWatch(cfg);
  // version 0.1.0 stored no more than this reason
  return held ?? Object.fromEntries(Object.entries(agents)
    .flatMap(([name, { why, since }]) => (why === "stopped by you" ? [[name, since]] : [])));
}

const BY_YOU = "stopped by you";

/** Whether a unit (or `watchdog`) has the order to stay down. */
const isHeld = (operator: Operator, name: string): boolean => operator.held[name] !== undefined;

const busyText = (owner: string): string =>
  `another command${owner && ` (pid ${owner.split(" ")[0]})`} is starting it`;

/**
 * Why this process must leave a unit alone, "" = it need not: it is down by order, or another
 * command is working on it, for as long as that command lives and renews its mark.
 */
function whyHandsOff(operator: Operator, name: string): string {
  if (isHeld(operator, name)) return BY_YOU;
  const left = (operator.busy[name] ?? 0) - world.now();
  const owner = operator.owners?.[name] ?? "";
  return left > 0 && left <= BUSY_MAX && owner !== signature() && !hasEnded(owner)
    ? busyText(owner) : "";
}

/** Whether what signed so has ended for certain; without /proc, once no process has its pid. */
function hasEnded(signed: string): boolean {
  const [word, born] = signed.split(" ");
  const pid = Number(word);
  return hasProc() ? Boolean(born) && bornOf(pid) !== born : isPid(pid) && !world.signal(pid, 0);
}

const CUT_SHORT = "the command that was restarting it was cut short";

/**
 * Whether a command took a unit in hand while a client ran there, since `booted` (wall ms), and has
 * ended without letting go of it; for as long as it would have kept it without another word.
 */
function wasCutShort({ busy, owners }: Operator, name: string, booted: number): boolean {
  const taken = (busy[name] ?? 0) - BUSY_FOR;
  return taken > booted && isRecent(taken, BUSY_FOR) && hasEnded(owners?.[name] ?? "");
}

/** Whether an order keeps a unit from being started; `byHand`: as in `startSession`. */
async function mayNotStart(cfg: Config, name: string, byHand = false): Promise<boolean> {
  const operator = await operatorOf(cfg);
  return byHand ? isHeld(operator, name) : whyHandsOff(operator, name) !== "";
}

/** ms until the watchdog takes over from a command that does not renew its mark: it hangs. */
const BUSY_FOR = 60_000;
/** The most that a mark of an older version lasts, ms; also caps it after a clock was set back. */
const BUSY_MAX = 10 * BUSY_FOR;

/** Whether nobody waits for a text any more. */
const isLate = ({ expires = Infinity }: Message, now = world.now()): boolean => expires <= now;

/** The texts of the command line that no watchdog has taken over yet. */
const freshTexts = ({ taken }: Watch, { queue }: Operator): Message[] =>
  queue.filter((message) => !taken.includes(message.id) && !isLate(message));

/** The orders for who writes them back: unread ones must be known, damaged ones are kept aside. */
const ordersToChange = (cfg: Config): Promise<Operator> =>
  operatorOf(cfg, async (why, source, error) => {
    if (isUnread(error)) die(`${why}; the order was not saved`);
    if (source === null) return;
    await world.writeAtomic(`${operatorFile(cfg)}.bad`, source);
    log(`${why}; kept as operator.json.bad. Run "agents down" again for any unit that should ` +
      "be stopped, and resend queued messages");
  });

/** Changes the orders, under a lock: otherwise one of two commands could lose its change. */
async function changeOperator(cfg: Config, change: (operator: Operator) => void): Promise<void> {
  makeFolders(cfg);
  // the last of 40 orders at once waits for seconds
  const lock = await takeLock(lockFile(cfg, "operator"), 30_000);
  if (lock === null) die(`${lockFile(cfg, "operator")} is held by another command` +
    byPid(holderOf(cfg, "operator")));
  try {
    const operator = structuredClone(await ordersToChange(cfg));
    const { taken, outbox } = await loadWatch(cfg);
    // one that is taken back stays until whoever took it over has seen that
    operator.queue = operator.queue.filter((message) => isLate(message)
      ? outbox.some(({ id }) => id === message.id) : !taken.includes(message.id));
    change(operator);
    await world.writeAtomic(operatorFile(cfg), JSON.stringify(operator));
  } finally {
    freeLock(lock);
  }
}

/**
 * Warns of orders in another folder beside the config, which nobody reads since log_dir was
 * changed. Looks for them until this fleet has a memory of its own.
 */
async function warnOfOrdersElsewhere(cfg: Config): Promise<void> {
  if (world.mtime(watchFile(cfg)) !== null) return;
  for (const name of world.list(cfg.planDir)) {
    const stateDir = join(cfg.planDir, name, "state");
    const old = { ...cfg, stateDir };
    if (stateDir === cfg.stateDir || !isThere(operatorFile(old)) ||
      holderOf(old, "watchdog") !== null) continue;
    const [operator, watch] = [await operatorOf(old), await loadWatch(old)];
    const down = Object.keys(operator.held).filter((unit) => unitsOf(cfg).has(unit));
    const texts = [...freshTexts(watch, operator), ...watch.outbox]
      .filter(({ target }) => cfg.agents.has(target)).length;
    const found = joined(", ", down.length ? `keep ${down.join(", ")} down` : "",
      texts ? `${plural(texts, "message")} to send` : "");
    if (found) {
      return log(`warning: orders remain in ${stateDir}: ${found}; if log_dir was changed, ` +
        `move its files to ${cfg.stateDir}, or give the orders again`);
    }
  }
}

/** The heartbeat of the last tick, without fields that are not sound; `interval` in s. */
async function readBeat(cfg: Config) {
  const fresh: { at?: string; pid?: number; version?: string; interval?: number;
    unlogged?: string } = {};
  // the keeper, which asks for it all the time, must outlive a disk that does not answer
  const text = await textIn(heartbeatFile(cfg)).catch(() => "");
  return sound(fresh, parsedRecord(text),
    { at: isText, pid: isNumber, version: isText, interval: isNumber, unlogged: isText });
}

type WatchdogState = Awaited<ReturnType<typeof readWatchdog>>;

/** Whether a watchdog has its lock and cannot write its pid: the disk is full, or read-only. */
async function isMute(cfg: Config): Promise<boolean> {
  const isIt = () => holderOf(cfg, "watchdog") === null &&
    isLocked(lockFile(cfg, "watchdog"), false); // one that cannot be looked at says nothing
  if (!isIt()) return false;
  await world.sleep(300); // by then it has written its pid, or cannot
  return isIt();
}

/**
 * Who runs as watchdog; `stale`: it runs, but missed three ticks, or its first three, or is `mute`:
 * it cannot write; `stage`: what it did then.
 */
async function readWatchdog(cfg: Config) {
  const mute = await isMute(cfg);
  const pid = mute ? (await supervisorsOf(cfg, "watchdog"))[0] ?? null : holderOf(cfg, "watchdog");
  const beat = await readBeat(cfg);
  // a heartbeat of another watchdog, or none that can be read, says nothing of this one
  const last = (beat.pid === pid && Date.parse(beat.at ?? "")) ||
    (world.mtime(pidFile(lockFile(cfg, "watchdog"))) ?? NaN);
  const interval = beat.interval ?? cfg.watchdog.signalInterval;
  const stale = mute || (pid !== null && world.now() - last > 3 * Math.max(interval, 5) * 1000);
  const note = stale ? readNote(noteFile(cfg, "watchdog")) : null;
  const halted = stale && pid !== null && statOf(pid).state === "T"
    ? `stopped by a signal (kill -CONT ${pid})` : "";
  const unlogged = beat.pid === pid && beat.unlogged;
  return { running: mute || pid !== null, pid, heartbeat: beat.at ?? "", stale, mute,
    // absent while it can write its logs
    ...(unlogged ? { unlogged: plainText(unlogged, FIELD_MAX) } : {}),
    version: beat.version ?? "", stage: halted || (note && note.pid === pid ? note.stage : "") };
}

/** Why nothing of what is due may be done; "" = a watchdog is at work. */
const whyNothingDone = ({ running, stale, mute }: WatchdogState): string =>
  (!running ? 'not running, so nothing is done; "agents up watchdog" starts it'
    : mute ? 'running, but cannot write, so nothing may be done; see "agents doctor"'
    : stale ? 'stale, so nothing may be done; see "agents logs watchdog"' : "");

// ── observation ─────────────────────────────────────────────────────────────────
// One look at everything, once per round: `observe` reads which panes live, what their screens and
// servers say; `learn` writes what was seen into the memory, and says what went wrong in a look. A
// look itself only notes its stage, and switches off a pattern that is too slow.

/** What one round knows of one agent or service; a parameter `seen` is one of these. */
type Observation = Presence & {
  snap: Snapshot;
  /** What is believed of it, once that was learned. */
  verdict: Verdict;
  /** null = nobody asks for its screen, or it has none; a string says why nothing was seen. */
  look: Look | string | null;
  /** How the look failed, "" = it did not; null = nobody looked. */
  fault: string | null;
  /** Its client was started so recently that it cannot be typed to yet. */
  booting: boolean;
  /** Why nothing may be done to it: see `whyHandsOff`; "" = it may. */
  handsOff: string;
  /** It is down by order. */
  held: boolean;
  /** A phase move was under way when this was seen: the loops are in its hands. */
  moving: boolean;
};

/** `alive`: null = could not look. */
type Presence = { alive: true; pane: Pane } | { alive: false | null; pane: Pane | null };
type SeenAlive = Extract<Observation, { alive: true }>;

/** What one round saw, by the name of the unit. */
type Observations = Map<string, Observation>;

/** What one look at an agent's screen gave. */
type Look = Awaited<ReturnType<typeof readLook>>;

/** What a new client in the same session begins with: nothing that was true of the old one. */
const NEW_CLIENT = { ...TRANSIENT, since: 0, model: undefined, backgroundSince: undefined,
  answered: "", answers: 0, answering: undefined, awaits: undefined, draft: undefined,
  hindered: undefined, drawStamp: undefined };

/** When a process began, s since 1970; NaN = there is none, or no /proc. */
function startedAt(pid: number): number {
  const boot = /^btime (\d+)/m.exec(readProc("stat"))?.[1];
  const CLOCK_TICKS = 100;
  return Number(boot) + Number(bornOf(pid) || NaN) / CLOCK_TICKS;
}

/** Whether the tmux server of the last look still runs: by its pid and the second it began. */
function serverLives(server: string): boolean {
  const [pid = 0, started = NaN] = server.split(" ").map(Number);
  return Math.abs(startedAt(pid) - started) < 5;
}

/** The name of the socket that a tmux server made, still there or not; "" = not known. */
function socketOf(pid: number): string {
  const open = world.opened(pid).flatMap((target) => /^socket:\[(\d+)\]$/.exec(target)?.[1] ?? []);
  const bound = readProc(`${pid}/net/unix`).split("\n").map((row) => / (\d+) (\/.*)$/.exec(row));
  return basename(bound.find((row) => row && open.includes(row[1]!))?.[2] ?? "");
}

/**
 * Who runs. A server that lives, but not at its socket, cannot be seen: while one of our clients
 * still runs it is ours, merely out of reach. Without one, the fleet has another server by now.
 */
async function lookAtSessions(cfg: Config, watch: Watch): Promise<Snapshot> {
  const snap = await snapshot(cfg);
  if (!snap.ok || snap.server === watch.server || !serverLives(watch.server)) return snap;
  const clients = Object.values(watch.agents).flatMap(({ client }) => client ?? []);
  if (!membersOf({ room: cfg.room, groups: clients, marks: [] }).length) return snap;
  const [pid = ""] = watch.server.split(" ");
  if (userOf(pid) !== userOf("self")) {
    return { ...snap, ok: false,
      why: `the tmux server (pid ${pid}) is another user's: run this as that one` };
  }
  const socket = socketOf(Number(pid));
  const changed = !["", cfg.tmuxSocket || "default"].includes(socket);
  const cure = changed ? `set tmux_socket back to ${show(socket)}, run "agents down", change it, ` +
      'run "agents up"'
    : `kill -USR1 ${pid} makes it create the socket again`;
  return { ...snap, ok: false,
    why: `the tmux server (pid ${pid}) runs, but not at this socket; ${cure}` };
}

/** Who runs, for a command that can do nothing without it. */
async function neededSnapshot(cfg: Config): Promise<Snapshot> {
  return usable(await lookAtSessions(cfg, await loadWatch(cfg)));
}

/** For parking, a minute alive is healthy; for the delay it is `healthy_after`. */
const HEALTHY_MINUTE = 60_000;

/** Marks the end of an unwatched agent as dealt with; else each round would take it for news. */
function forgetUncared(watch: Watch, unit: Unit, { handsOff }: Observation): void {
  const cared = !handsOff && (!isAgent(unit) || isWatched(unit));
  const memory = memoryOf(watch, unit.name);
  if (!cared && aliveSince(memory) !== null) enterDown(memory, DUE);
}

/**
 * Marks who died together with others since the last look: one event, no fault of their own. It
 * counts until their end is dealt with, which a small round does for some of them only.
 */
function noteTogether(cfg: Config, watch: Watch, observations: Observations): void {
  const [first] = observations.values();
  if (!first) return;
  const { snap } = first;
  const restarted = snap.ok && watch.server !== "" && snap.server !== watch.server;
  if (snap.ok && snap.server) Object.assign(watch, { server: snap.server, room: cfg.room });
  const gone = [...unitsOf(cfg).values()]
    .filter(({ name }) => observations.get(name)!.alive === false);
  for (const unit of gone) forgetUncared(watch, unit, observations.get(unit.name)!);
  const died = gone.filter((unit) => {
    const since = aliveSince(memoryOf(watch, unit.name));
    return since !== null && world.mono() - since >= HEALTHY_MINUTE;
  });
  if (!restarted && died.length < 3) return;
  const fresh = died.filter((unit) => !memoryOf(watch, unit.name).together);
  if (fresh.length > 1) {
    log(`${fresh.length} units died at once${restarted ? ": the tmux server was restarted" : ""}`);
  }
  for (const unit of fresh) memoryOf(watch, unit.name).together = true;
}

const isClientIn = ({ pid, created }: Pane, { client }: Memory): boolean =>
  client?.pid === pid && (client.made ?? created) === created;

/** Notes the client in a unit's pane; a new one starts with a clean memory. */
function noteClient(watch: Watch, unit: Unit, pane: Pane): void {
  const memory = memoryOf(watch, unit.name);
  if (endsInPlace(memory, pane)) return;
  const known = isClientIn(pane, memory);
  if (!known) Object.assign(memory, { ...NEW_CLIENT, bootedAt: pane.created,
    conversation: pane.conversation || undefined });
  if (!known || doubtful.has(memory.client!)) {
    memory.client = { ...groupOf(pane), made: pane.created };
  }
  // we told it to end, but the signal never arrived (a crash, a full disk): it may be at work now;
  // not in a move, which tells it again. Another client is started only after the old one's family
  if (endingOf(memory)?.pid === pane.pid && watch.intent) return;
  if (!known || memory.life.state !== "up") {
    enter(memory, { state: "up", since: world.mono() - Math.max(0, world.now() - pane.created) });
  }
  if (world.mono() - aliveSince(memory)! >= HEALTHY_MINUTE) memory.ran = true;
}

/** What is remembered, without what was true of an earlier client alone. */
function memoryOfClient(watch: Watch, unit: Unit, pane: Pane): Memory {
  const memory = Object.hasOwn(watch.agents, unit.name) ? watch.agents[unit.name]! : freshMemory();
  return isClientIn(pane, memory) || endsInPlace(memory, pane)
    ? memory : { ...memory, ...NEW_CLIENT };
}

/** One look at everything: who runs, and what is on the screens whose verdict can matter. */
export async function observe(
  cfg: Config, watch: Watch, only?: Set<string>,
): Promise<Observations> {
  const snap = await lookAtSessions(cfg, watch);
  // read after the look: who restarts an agent by hand holds it first, and ends it then
  const operator = await operatorOf(cfg);
  const observations = new Map<string, Observation>();
  const wanted: Agent[] = [];
  for (const unit of unitsOf(cfg).values()) {
    const pane = snap.panes.get(unit.session) ?? null;
    const alive = sessionAlive(snap, unit.session);
    const presence: Presence = alive && pane
      ? { alive, pane } : { alive: alive === null ? null : false, pane };
    const handsOff = whyHandsOff(operator, unit.name);
    observations.set(unit.name, { snap, ...presence, verdict: NO_VERDICT, look: null,
      fault: null, booting: isAgent(unit) && pane !== null && isYoung(cfg, unit, pane, ""),
      moving: watch.intent !== null, handsOff, held: isHeld(operator, unit.name) });
    if (alive && isAgent(unit) && !handsOff && needsVerdict(watch, unit) &&
        (!only || only.has(unit.name))) {
      wanted.push(unit);
    }
  }
  await lookAtScreens(cfg, watch, wanted, observations, only === undefined);
  return observations;
}

const isYoung = (cfg: Config, agent: Agent, pane: Pane, screen: string): boolean =>
  readingFor(cfg, agent, () =>
    isBooting(backendOf(cfg, agent), world.now() - pane.created, screen));

/** Reads the screens that may have changed and judges each as it arrives; `full` = a whole tick. */
async function lookAtScreens(
  cfg: Config, watch: Watch, agents: Agent[], observations: Observations, full: boolean,
): Promise<void> {
  const looks: Promise<void>[] = [];
  const paneOf = (agent: Agent): Pane => observations.get(agent.name)!.pane!;
  // asked when the first screen is there: the others come within moments
  const disks = once(() => askOwnDisks(cfg, agents.map((agent) => [agent, paneOf(agent)])));
  const take = async (agent: Agent, pane: Pane, text: string | null): Promise<void> => {
    const seen = observations.get(agent.name)!;
    noteStage(`look ${agent.name}`);
    seen.fault = await faultIn(`look ${agent.name}`, async () => {
      seen.booting &&= isYoung(cfg, agent, pane, text ?? "");
      await disks().get(agent);
      seen.look = await readLook(cfg, watch, agent, pane, text);
    });
    seen.look ??= "the watchdog could not read what it says of itself; see its log";
  };
  const unread = new Map<Pane, Agent>();
  for (const agent of agents) {
    const pane = paneOf(agent);
    if (full && !screenMayHaveChanged(cfg, watch, agent, pane)) looks.push(take(agent, pane, null));
    else unread.set(pane, agent);
  }
  await captureAll(cfg, [...unread.keys()], (pane, text) => {
    const agent = unread.get(pane)!;
    if (text !== null) looks.push(take(agent, pane, text));
    else observations.get(agent.name)!.look = "tmux did not show its screen";
  });
  await Promise.all(looks);
}

const isWatched = (agent: Agent): boolean => agent.enabled && agent.watch !== "none";

const needsVerdict = (watch: Watch, agent: Agent): boolean =>
  (agent.enabled &&
    (agent.watch !== "none" || agent.wake !== undefined || agent.kind === "loop")) ||
  watch.outbox.some((message) => message.target === agent.name);

/** Whether a loop agent is left alone: a phase move has it in its hands, or all phases are done. */
const isLeftAlone = (cfg: Config, watch: Watch, agent: Agent, { moving }: Observation): boolean =>
  agent.kind === "loop" && (moving || watch.intent !== null || isComplete(cfg));

/** Whether the same picture would get this verdict at any time. */
const isTimeless = (verdict: Verdict | null): boolean =>
  verdict !== null && verdict.limit === null && verdict.waitingUntil === null &&
  verdict.where !== "process";

/**
 * While this stays the same, so does the screen. Absent = that is not certain: tmux notes the time
 * of what is drawn to the second, and both clocks may be stepped a little. A screen is read after
 * tmux was asked for its pane: what was old by then shows in it.
 */
const stampOf = ({ activity, size, title, askedAt = activity }: Pane): string | undefined =>
  (activity > 0 && askedAt - activity > CLOCK_STEP
    ? hashOf(`${activity} ${size} ${title}`) : undefined);

/** Whether a screen is for certain the one that was read last. */
const showsTheSame = (memory: Memory, pane: Pane): boolean =>
  memory.drawStamp !== undefined && memory.drawStamp === stampOf(pane);

/** Whether a screen must be read: reading costs most by far, and most screens do not change. */
function screenMayHaveChanged(cfg: Config, watch: Watch, agent: Agent, pane: Pane): boolean {
  const memory = memoryOfClient(watch, agent, pane);
  return !showsTheSame(memory, pane) || !isTimeless(memory.byRules) ||
    memory.verdict === "unsure" ||
    world.mono() - memory.readAt >= cfg.watchdog.heavyInterval * 1000 ||
    watch.outbox.some((message) => message.target === agent.name);
}

/** A hash of what a pane shows, to tell whether it still shows that. */
const pictureOf = ({ text, title }: ScreenText): string =>
  hashOf(text, Bun.hash(title) as bigint);

/** Digits do not count as a change: a clock in a status line is no sign of work. */
const withoutDigits = (value: string): string => value.replace(/\d+/g, "0");

/** What an agent's screen and its sources say. `text`: null = nothing was drawn since. */
async function readLook(
  cfg: Config, watch: Watch, agent: Agent, pane: Pane, text: string | null,
) {
  const memory = memoryOfClient(watch, agent, pane);
  const picture = text === null ? memory.picture : pictureOf({ text, title: pane.title });
  const same = picture === memory.picture;
  const fresh = () => screenVerdict(cfg, agent, pane, { text: text!, title: pane.title });
  // a copy, since a part of a string keeps the whole of it in memory, and here every screen
  const byRules: Verdict = same && isTimeless(memory.byRules) ? memory.byRules!
    : JSON.parse(JSON.stringify(fresh()));
  // a shell that takes its place draws its prompt, and is another program
  const executable = text === null ? memory.executable : world.executable(pane.pid);
  const left = text !== null && (executable !== memory.executable || mayBeShell(executable));
  const own = await judge(cfg, agent, pane, byRules, memory.backgroundSince, left);
  const probed = probeOf(watch, agent) !== undefined;
  let verdict = decideAccount(
    accountLimitOf(cfg, watch, agent), agent.name, probed, own.verdict, world.now());
  const draft = memory.draft === true && verdict.verdict === "idle"
    ? await draftIn(cfg, watch, agent, pane) : "";
  if (draft) verdict = { ...verdict, verdict: "blocked", rule: DRAFT, where: "box",
    why: draft === "ours" ? OUR_DRAFT : SOMEONES_DRAFT };
  // nothing new is known of a client that says nothing itself and has drawn nothing
  const asks = memory.versionOf !== pane.pid && (text !== null || Boolean(verdict.own));
  return {
    // of the rules alone; of all sources, account and draft too
    ...own, byRules, verdict,
    draft: draft !== "", // an unsent text that put a restart off is still in its box
    same, // its picture is that of the last look
    // hashes of the picture, and of one at a prompt without its digits
    picture, outline: !same && verdict.verdict === "idle" ? hashOf(withoutDigits(text!)) : "",
    drawn: text !== null,
    executable: own.verdict.where === "process" ? "" : executable,
    // null = its client did not say, undefined = it was not asked
    version: asks
      ? await readVersion(cfg, agent, pane, text ?? "", verdict.own !== undefined) : undefined,
    model: text === null ? "" : readModel(cfg, agent, pane, text, verdict), // "" = nothing new
    // the screen itself, where it may have to be kept for a person
    text: memory.unsureLooks === UNSURE_LOOKS - 1 ? text ?? "" : "",
  };
}

/**
 * Takes into the memory what was seen: who ended together, which client runs, what is believed of
 * each. `full`: a whole tick; a small round notes no verdict, its looks are too close together.
 */
export async function learn(
  cfg: Config, watch: Watch, observations: Observations, full: boolean,
): Promise<void> {
  noteTogether(cfg, watch, observations);
  const units = unitsOf(cfg);
  for (const [name, seen] of observations) {
    const unit = units.get(name)!;
    const { pane, look, fault } = seen;
    if (fault !== null) trouble(watch, `guard look ${name}`, fault);
    if (seen.alive) noteClient(watch, unit, seen.pane);
    if (!isAgent(unit) || !pane || !look) continue;
    await attempt(watch, `learn ${name}`, async () => {
      if (typeof look !== "string") {
        seen.verdict = await noteLook(cfg, watch, unit, pane, look, full);
      } else if (full) await noteUnseen(cfg, watch, unit, look);
    });
  }
}

/** How each round begins: reads the state, looks, learns, and may start another batch. */
export async function lookAround(
  cfg: Config, watch: Watch, only?: Set<string>,
): Promise<Observations> {
  await readState(cfg);
  const observations = await observe(cfg, watch, only);
  await learn(cfg, watch, observations, only === undefined);
  watch.volatile.startsLeft = cfg.watchdog.startBatch;
  return observations;
}

/** A look that gave nothing: nothing is believed, and time that nobody saw is not idle time. */
async function noteUnseen(cfg: Config, watch: Watch, agent: Agent, why: string): Promise<void> {
  Object.assign(memoryOf(watch, agent.name), { idleSince: 0, sameSince: 0 });
  await noteVerdict(cfg, watch, agent, { ...NO_VERDICT, why }, "");
}

/** Whether a session printed within this many seconds; only used where no earlier look is known. */
export function logRecentlyTouched(cfg: Config, session: string, ageSeconds: number): boolean {
  const at = world.mtime(sessionLogPath(cfg, session));
  return at !== null && isRecent(at, ageSeconds * 1000);
}

/**
 * Whether a turn is in progress. An opencode pane whose text changed within `log_grace` counts too:
 * its content is compared, for a repaint of the same text is no sign of life.
 */
export function paneActive(cfg: Config, agent: Agent, verdict: Verdict, memory: Memory): boolean {
  if (verdict.verdict === "active") return true;
  const { kind, logGrace } = backendOf(cfg, agent);
  if (verdict.verdict !== "idle" || kind !== "opencode") return false;
  if (!memory.sameSince) return logRecentlyTouched(cfg, agent.session, logGrace);
  return world.mono() - memory.sameSince < logGrace * 1000;
}

/** Notes what was drawn; true = it is a change: at a prompt, more than a clock that moves on. */
function noteDrawing(memory: Memory, pane: Pane, look: Look): boolean {
  const { same, picture, byRules, verdict, executable } = look;
  const outline = same ? memory.outline : look.outline;
  const changed = verdict.verdict === "idle" ? outline !== memory.outline : !same;
  // a first look has nothing to compare with
  if (changed || !memory.sameSince) memory.sameSince = memory.picture ? world.mono() : 0;
  if (look.drawn) Object.assign(memory, { readAt: world.mono(), drawStamp: stampOf(pane) });
  Object.assign(memory, { picture, outline, byRules, executable });
  return changed;
}

/** Notes which client it is, and what is known of it. */
async function noteFacts(
  cfg: Config, watch: Watch, agent: Agent, pane: Pane, look: Look,
): Promise<void> {
  // what a person runs in its place has conversations of its own; that of a client that is being
  // ended may just have been discarded
  if (look.verdict.where !== "process" && memoryOf(watch, agent.name).life.state === "up") {
    await attempt(watch, `conversation of ${agent.name}`,
      () => noteConversation(cfg, agent, pane));
  }
  noteOdd(cfg, watch, agent, look.verdict.odd ?? "");
  if (look.model) memoryOf(watch, agent.name).model = look.model;
  if (look.version !== undefined) noteVersion(cfg, watch, agent, pane, look.version);
}

/** What is believed of an agent after a look; "idle" needs a second look. */
async function noteLook(
  cfg: Config, watch: Watch, agent: Agent, pane: Pane, look: Look, full: boolean,
): Promise<Verdict> {
  const memory = memoryOf(watch, agent.name);
  const { backgroundSince, draft } = look;
  Object.assign(memory, { backgroundSince, draft: draft || undefined });
  if (look.serverDown) memory.serverDown = true;
  const replaced = look.verdict.where === "process" && look.verdict.verdict === "unsure";
  if (replaced && pane.startedPid !== NOBODY) {
    await tmux(cfg, ["set-option", "-p", "-t", pane.id, "@agents_pid", `${NOBODY}`]);
  }
  if (!full) return look.verdict;
  await noteFacts(cfg, watch, agent, pane, look);
  const changed = noteDrawing(memory, pane, look);
  let { verdict } = look;
  if (paneActive(cfg, agent, verdict, memory) && verdict.verdict !== "active") {
    verdict = { ...verdict, verdict: "active", rule: "log_grace",
      why: "its screen changed a moment ago" };
  }
  const restless: Verdict =
    { ...verdict, verdict: "unsure", why: "its screen changes, but shows no work" };
  const tentative = verdict.verdict === "idle" && changed;
  if (tentative) verdict = restless;
  const enough = backendOf(cfg, agent).stallIdle * 1000;
  memory.unrest =
    decideUnrest(memory.unrest, look.verdict.verdict, changed, world.mono(), enough);
  const never = neverRests(agent, memory.unrest, enough);
  if (never || !tentative || memory.unsureLooks >= UNSURE_LOOKS - 1) {
    await noteVerdict(cfg, watch, agent, never ? restless : verdict, look.text);
  } else {
    memory.unsureLooks += 1;
    // a turn that no look saw is over: as for the stall, it rests since now
    if (memory.verdict === "idle" && memory.sameSince) memory.since = world.now();
  }
  return verdict;
}

/** What a look adds to the unrest of a client; null = it works, waits, or has rested `enough`. */
function decideUnrest(
  old: Memory["unrest"], verdict: VerdictName, moved: boolean, now: number, enough: number,
): Memory["unrest"] {
  if (verdict !== "idle" && verdict !== "unsure") return null;
  if (verdict === "unsure") return old && { ...old, last: now };
  if (moved) return { since: old?.since ?? now, last: now };
  return old && now - old.last < enough ? old : null;
}

/**
 * Whether a screen without work has kept changing for as long as it would have to rest before its
 * agent counts as stalled: without a word to a person it would go on like that for ever.
 */
const neverRests = (agent: Agent, unrest: Memory["unrest"], enough: number): boolean =>
  agent.watch === "heal+stall" && unrest !== null && unrest.last - unrest.since >= enough &&
  enough > 0;

/**
 * One look at one agent at this moment, right before something is done to it: its screen, and the
 * verdict of that and of its client's files; a server is not asked.
 */
async function closeLook(cfg: Config, agent: Agent, pane: Pane) {
  const screen = await readScreen(cfg, pane);
  await askOwnDisks(cfg, [[agent, pane]]).get(agent);
  return screen && { screen,
    verdict: await withOwnWord(cfg, agent, pane, screenVerdict(cfg, agent, pane, screen.look)) };
}

/**
 * What one look says of an agent: all its sources, but no account and no draft. `disks`
 * asks the disk with its own files, where others are asked with it.
 */
async function judgeLook(
  cfg: Config, agent: Agent, pane: Pane, look: ScreenText, earlier: number | undefined,
  disks = () => askOwnDisks(cfg, [[agent, pane]]),
): Promise<Verdict> {
  const byRules = screenVerdict(cfg, agent, pane, look);
  await disks().get(agent);
  return (await judge(cfg, agent, pane, byRules, earlier)).verdict;
}

/** One more look at the moment of a kill: the tick's may be old, and the agent at work by now. */
async function verdictStillHolds(
  cfg: Config, watch: Watch, agent: Agent, seen: SeenAlive,
): Promise<boolean> {
  const { backgroundSince, picture, outline } = memoryOf(watch, agent.name);
  const screen = await readScreen(cfg, seen.pane);
  if (!screen) return false;
  const { verdict } = await judgeLook(cfg, agent, seen.pane, screen.look, backgroundSince);
  if (verdict !== seen.verdict.verdict) return false;
  // at work or idle, it is ended because its screen stands still
  return !["active", "idle"].includes(verdict) || pictureOf(screen.look) === picture ||
    (verdict === "idle" && hashOf(withoutDigits(screen.look.text)) === outline);
}

/** Notes what is logged once for the whole fleet about a client's version; false = it was. */
function sayOnce(watch: Watch, what: string): boolean {
  if (watch.versions.includes(what)) return false;
  watch.versions = [...watch.versions, what].slice(-50);
  return true;
}

/** Another version of a client is an event; one that detection was not tried on is said once. */
function noteVersion(
  cfg: Config, watch: Watch, agent: Agent, pane: Pane, version: string | null,
): void {
  const memory = memoryOf(watch, agent.name);
  const { kind, name } = backendOf(cfg, agent);
  if (version !== null) memory.versionOf = pane.pid;
  if (!version) return;
  if (memory.version && memory.version !== version) {
    log(`${agent.name}: its client is now ${name} ${version}, was ${memory.version}`);
    emit(cfg, "version", { agent: agent.name, from: memory.version, to: version });
  }
  memory.version = version;
  if (!isUntried(kind, version) || !sayOnce(watch, `untried ${name} ${version}`)) return;
  const why = `${name} ${version} is untested (tested: ${MEASURED[kind]!.join(" to ")})`;
  log(`${why}: check it with "agents explain ${agent.name}"`);
  emit(cfg, "untried", { agent: agent.name, why });
}

/** This many looks in a row are no accident: the file may lag behind the screen by a second. */
const ODD_LOOKS = 3;

/** Sources that contradict each other: the client has changed; said once for each version of it. */
function noteOdd(cfg: Config, watch: Watch, agent: Agent, odd: string): void {
  const memory = memoryOf(watch, agent.name);
  memory.oddLooks = odd ? memory.oddLooks + 1 : 0;
  const client = `${agent.backend} ${memory.version ?? "of unknown version"}`;
  if (memory.oddLooks !== ODD_LOOKS || !sayOnce(watch, `drift ${client}`)) return;
  log(`${agent.name} (${client}): ${odd}; "agents capture" saves its screen as a test`);
  emit(cfg, "drift", { agent: agent.name, version: memory.version ?? "", why: odd });
}

/** Unsure for this many looks in a row: the screen is kept for a person to see. */
const UNSURE_LOOKS = 5;

async function noteVerdict(
  cfg: Config, watch: Watch, agent: Agent, verdict: Verdict, screen: string,
): Promise<void> {
  const memory = memoryOf(watch, agent.name);
  memory.unsureLooks = verdict.verdict === "unsure" ? memory.unsureLooks + 1 : 0;
  if (memory.unsureLooks === UNSURE_LOOKS) {
    const file = join(cfg.logDir, "unsure", `${agent.name}.txt`);
    if (screen) await world.writeAtomic(file, screen); // else tmux does not show it
    log(`${agent.name}: its screen is not recognised (${verdict.why}); ` +
      `${screen && `saved to ${file}, `}no action taken`);
  }
  noteState(cfg, watch, agent.name, verdict.verdict, verdict.why);
  if (isUnsureTooLong(memory, cfg.watchdog.unsureAfter, world.now()) &&
      memory.unsureTold !== memory.since) {
    memory.unsureTold = memory.since;
    const lasted = minutes(world.now() - memory.since);
    log(`${agent.name} has been unsure for ${lasted}; it needs you`);
    emit(cfg, "unsure", { agent: agent.name, why: `${verdict.why} for ${lasted}` });
  }
}

/** What an operator may declare as the answer to a question of a client. */
const answerTo = (
  cfg: Config, agent: Agent, rule: string | undefined,
): DeclaredAnswer | undefined =>
  rulesOf(backendOf(cfg, agent)).find(({ name }) => name === rule)?.answer;

/** An agent that stays unsure for `after` s needs a person. */
const isUnsureTooLong = (memory: Memory, after: number, now: number): boolean =>
  memory.verdict === "unsure" && memory.since > 0 && now - memory.since >= after * 1000;

/** A change of state is an event; what needs a person is also logged, once. */
function noteState(
  cfg: Config, watch: Watch, name: string, state: Memory["verdict"], why: string,
): void {
  const memory = memoryOf(watch, name);
  const same = memory.verdict === state && (state !== "blocked" || memory.why === why);
  memory.why = why;
  if (same && memory.since) return;
  emit(cfg, "state", { agent: name, from: memory.since ? memory.verdict : "", to: state, why });
  if (state === "blocked") {
    log(`${name} is blocked: ${why}; it needs you`);
    emit(cfg, "blocked", { agent: name, why });
  }
  memory.verdict = state;
  memory.since = world.now();
}

// ── outbox and typing ───────────────────────────────────────────────────────────
// Nothing said is lost: a text is on disk before it is typed and until its client has it. A target
// that is dead, booting, blocked, limited or unsure keeps its texts waiting.

/** Why a text has to wait. */
interface Wait {
  why: string;
  /** The state of its agent that has to end first; absent = it waits for something else. */
  during?: Memory["verdict"] | undefined;
  /** Only a person can let it through. */
  person?: boolean;
}

/**
 * What became of a text. `waiting` and `failed` are retried, and people hear of `failed`.
 * `unproven`: it was typed, nothing shows that it was taken, and it is not typed again.
 */
interface Delivery extends Wait {
  state: "delivered" | "waiting" | "failed" | "unproven";
}

/** ms between two looks; how many tell what a key did, and what a paste did on a busy machine. */
const LOOK_EVERY = 100;
const LOOKS = 20;
const PASTE_LOOKS = 30;

const compact = (value: string): string => value.replace(/[\s│┃`*_]+/g, "");
/** The beginning by which a text is recognised on a screen that wraps and frames it. */
const headOf = (value: string, length = 40): string => compact(value).slice(0, length);
/** Enough of it to tell two hand-offs apart, whose first words are the same. */
const TOLD_APART = 160;
const timesIn = (screen: string, value: string): number =>
  compact(screen).split(headOf(value, TOLD_APART)).length - 1;

/**
 * Whether its client may have a text, in its input box or by its server: it is not taken back, and
 * nobody is told that it was not delivered. An older version stored `seen` alone.
 */
const wasPasted = ({ seen, pasted }: Message): boolean => (seen ?? pasted) !== undefined;

/** Nobody types this many characters of our text by chance. */
const PART_MIN = 40;

/**
 * Whether a client shows a paste of ours as a token: `[Pasted text #1 +89 lines]`, `[Pasted ~3
 * lines]`, `[Pasted Content 1200 chars]`, `[paste #1 +12 lines]`. Its figure must be ours; clients
 * count lines or breaks.
 */
function isToken(composer: string, value: string): boolean {
  const token = /^\[pasted?\b[^\][]*?(?:(\d+) (lines?|chars?|characters))?\]$/i
    .exec(composer.trim());
  if (!token) return false;
  const lines = value.trimEnd().split("\n").length;
  const [, count, unit] = token;
  if (!unit) return lines === 1 && value.length > PART_MIN;
  return /^l/i.test(unit) ? [lines, lines - 1].includes(Number(count))
    : [value.length, Buffer.byteLength(value)].includes(Number(count));
}

/**
 * Whether what is in the box is the text that we pasted, and nothing else: whole, as a token,
 * or the end of it where the box is too small. Its beginning alone counts where `box_re` may see no
 * more than the first line of a box; elsewhere somebody has cut off the rest.
 */
function isOurText(composer: string, value: string, cutBox = true): boolean {
  const [shown, whole] = [compact(composer), compact(value)];
  if (!shown) return false;
  const part = shown.length >= PART_MIN &&
    (whole.endsWith(shown) || (cutBox && whole.startsWith(shown)));
  return shown === whole || part || isToken(composer, value);
}

/** Whether a draft cannot be ours; a piece of our text may be half drawn. */
const isForeign = (composer: string, value: string): boolean =>
  !compact(value).includes(compact(composer)) && !isMixed(composer, value);

/** Whether our text, or a token of some paste, stands in the box among other things. */
const isMixed = (composer: string, value: string): boolean =>
  compact(composer).includes(headOf(value)) || /\[pasted?\b[^\]]*\]/i.test(composer);

/** Whether our text may be in a described box further up: a list below can look like a box. */
function mayStandAbove(screen: string, { boxRe }: Backend, value: string): boolean {
  if (boxRe === undefined) return false;
  const { source, flags } = compiled(boxRe, "m");
  return [...screen.matchAll(new RegExp(source, `${flags}g`))]
    .some(({ groups }) => isOurText(groups?.text ?? "", value));
}

/**
 * Whose unsent text is in an agent's box, which a restart would lose; "" = nobody's, as what is in
 * the outbox is typed again. Not known where tmux does not show the pane, or no box is recognised.
 */
async function draftIn(
  cfg: Config, watch: Watch, agent: Agent, pane: Pane,
): Promise<"" | "someone's" | "ours" | "not shown" | "no box"> {
  const look = await lookAtBox({ cfg, agent, pane });
  if (!look) return "not shown";
  if (look.composer === null) return "no box";
  const stands = (message: Message) =>
    message.target === agent.name && wasPasted(message) && holdsText(look, message);
  if (look.composer === "" || watch.outbox.some(stands)) return "";
  return watch.unproven.some(stands) ? "ours" : "someone's";
}

export type Typing =
  | { do: "type" | "submit" | "await" | "done" | "unproven" }
  | { do: "wait" } & Wait;

/** The cause of a limit's probe: the original's word, which the files keep. */
const PROBE = "nudge";

/** Why nothing may be said to an agent now, null = it may. A probe is what a limit waits for. */
function whyNotNow(
  { verdict, rule, why }: Verdict, cause: string, composer: string | null = null,
): Wait | null {
  const patient = cause === "wake" || cause === PROBE;
  // what is in the box says by itself what may be done with it; an empty one may be that of a
  // client at work
  const unsure = verdict === "unsure" && (rule !== DRAFT || (patient && composer === ""));
  const waits = verdict === "blocked" || verdict === "fatal" || unsure ||
    (verdict === "limited" && cause !== PROBE) ||
    (patient && ["active", "background", "waiting"].includes(verdict));
  return waits ? { why: `${verdict}: ${why}`, during: verdict } : null;
}

/**
 * Whether a text may be typed now. `composer`: what is in the input box; null = no box is
 * recognised, which is not an empty box. `above`: what is above it. Enter answers a dialog, so
 * nothing is ever typed into one.
 */
export function decideTyping(
  verdict: Verdict, message: Message, composer: string | null, above: string, cutBox = true,
): Typing {
  const pasted = wasPasted(message);
  const isAbove = timesIn(above, message.text) > (message.seen ?? Infinity);
  if (composer === null && isAbove && message.entered !== undefined) return { do: "done" };
  const wait = whyNotNow(verdict, message.cause, composer);
  if (wait) return { do: "wait", ...wait };
  if (composer === null) return { do: "wait", person: true, why: "its input box is not visible" };
  if (composer === "") return { do: isAbove ? "done" : "type" };
  if (pasted && isOurText(composer, message.text, cutBox)) return { do: "submit" };
  return { do: "wait", person: true, why: pasted && isMixed(composer, message.text)
    ? "our message is mixed with other text in the input box; submit or clear it by hand"
    : SOMEONES_DRAFT };
}

/** Whether the end of a text stands at the cursor: it was not taken, in a client without a box. */
function isAtCursor({ cursorLine }: Screen, { text: value }: Message): boolean {
  const line = compact(cursorLine).slice(-16);
  return line !== "" && compact(value).endsWith(line);
}

/**
 * The same where no input box can be recognised: a text is typed once, and never called delivered.
 * Enter is pressed while it `stands` at the cursor, never for one out of sight; nor once more
 * (`wasEntered`) where something else is on the screen by now.
 */
export function decideBlind(
  verdict: Verdict, message: Message, stands: boolean, wasEntered: boolean,
): Typing {
  const wait = whyNotNow(verdict, message.cause);
  if (wait && !wasEntered) return { do: "wait", ...wait };
  if (!wasPasted(message)) return { do: "type" };
  return { do: stands && !wait ? "submit" : "unproven" };
}

/**
 * A paste that was not seen for this many ms and looks is lost: a client that has drawn since must
 * have read it; one that has drawn nothing may be frozen, and show it when it goes on.
 */
const PASTE_LATE = { drew: 20_000, still: 120_000 };
const LATE_LOOKS = 3;
/** A text that may have been taken twice, or was lost twice by one client, is not typed again. */
const COPIES_MAX = 2;

/**
 * What to do about a pasted text that is neither in the empty box nor above it, or one for a
 * server that is not in the conversation.
 */
function decideAgain(
  message: Message, { pid, activity }: Pick<Pane, "pid" | "activity">, now: number,
): Typing {
  const { pasted, copies = 0 } = message;
  if (!pasted) return { do: "type" };
  const patience = activity > pasted.at ? PASTE_LATE.drew : PASTE_LATE.still;
  const late = Math.abs(now - pasted.at) < patience || pasted.empty < LATE_LOOKS;
  if (late && pasted.pid === pid) return { do: "await" };
  const lost = pasted.pid === pid ? pasted.nth : 0;
  return { do: Math.max(copies, lost) < COPIES_MAX && !isLate(message, now) ? "type" : "unproven" };
}

/**
 * Whether what a client shows has replaced its input box, as a dialog does: a text of ours on such
 * a screen has been sent. opencode draws some of its dialogs over the box.
 */
const isInPlaceOfBox = (kind: BackendKind, { verdict }: Verdict): boolean =>
  ["claude", "codex", "gemini"].includes(kind) && ["blocked", "limited"].includes(verdict);

/** A close look, and what is in the input box (null = none is recognised) and above it. */
type BoxLook = NonNullable<Awaited<ReturnType<typeof lookAtBox>>>;

async function lookAtBox({ cfg, agent, pane }: Pick<Errand, "cfg" | "agent" | "pane">) {
  const backend = backendOf(cfg, agent);
  const look = await closeLook(cfg, agent, pane);
  if (!look) return null;
  const { plain, styled } = look.screen;
  return readingFor(cfg, agent, () => {
    const composer = composerText(backend.kind, plain, styled, backend);
    const above = composer === null && isInPlaceOfBox(backend.kind, look.verdict) ? plain
      : aboveBox(backend.kind, plain, backend);
    // `box_re` may see no more than the first line of the box
    return { ...look, composer, above, cutBox: backend.boxRe !== undefined };
  });
}

/** Whether a text of ours is in the box, and nothing else. */
const holdsText = ({ composer, cutBox }: BoxLook, { text }: Message): boolean =>
  composer !== null && isOurText(composer, text, cutBox);

const UNSHOWN: Delivery = { state: "waiting", why: "tmux did not show the pane" };
/** The next round drops it. */
const GIVEN_UP: Delivery = { state: "waiting", why: "nobody waits for it any more" };
/** Whether a client's input box can be recognised at all. */
const hasBox = (backend: Backend): boolean =>
  hasKnownBox(backend.kind) || backend.boxRe !== undefined;

/** One text on its way to one client. */
interface Errand {
  cfg: Config;
  watch: Watch;
  agent: Agent;
  backend: Backend;
  pane: Pane;
  message: Message;
  /** The cause whose permission applies: a text already in the box goes in place of the one due. */
  cause: string;
}

/**
 * Types a message into an agent's own pane and proves that it was taken: it stood in the input box,
 * and left it. The message is stored before it is pasted and before Enter, for a crash may come in
 * between; whoever looks next knows by it that what is in the box is ours.
 */
export async function pingSession(errand: Errand): Promise<Delivery> {
  const { message } = errand;
  let look = await lookAtBox(errand);
  if (look && errand.cause === PROBE) look = await closeMenu(errand, look);
  if (!look) return UNSHOWN;
  let typing = await typingNow(errand, look);
  if (typing.do === "await" && await wasNeverPasted(errand)) {
    message.pasted!.nth -= 1;
    typing = { do: "type" };
  }
  const failed = typing.do === "type" ? await paste(errand, look) : null;
  if (failed) return failed;
  const isPasted = typing.do === "type" || typing.do === "await";
  const drawn = isPasted ? await awaitPaste(errand) : typing.do === "submit";
  if (drawn === null) return UNSHOWN;
  return drawn ? submit(errand) : outcomeOf(typing, errand.backend);
}

/** Closes the menu that a limit has opened over the box that a probe needs. */
async function closeMenu(errand: Errand, first: BoxLook): Promise<BoxLook | null> {
  const { verdict, rule } = first.verdict;
  const { closes = "" } =
    builtInRules()[errand.backend.kind].find(({ name }) => name === rule) ?? {};
  const key = typeof closes === "string" ? closes : closes.exec(first.screen.plain)?.[1];
  if (verdict !== "limited" || !key) return first;
  await sendKeys(errand.cfg, errand.pane, [key]);
  let look: BoxLook | null = null;
  for (let looks = 0; looks < LOOKS; looks++) {
    await world.sleep(LOOK_EVERY);
    look = await lookAtBox(errand);
    if (look && look.composer !== null) break;
  }
  return look;
}

/** Whether a recorded prompt is a text of ours; a short one may be a part of what others say. */
function isSaidIn(prompt: string, value: string): boolean {
  const [said, own] = [prompt, value].map((one) => one.replace(/\s+/g, ""));
  return own!.length < PART_MIN ? said === own : timesIn(prompt, value) > 0;
}

/**
 * Whether its client has recorded a text for which Enter was pressed; null = it is not known. What
 * a client does with a command, it records in its own way.
 */
async function isRecorded({ cfg, agent, pane, message }: Errand): Promise<boolean | null> {
  const { entered, pasted, text: value } = message;
  if (entered === undefined || !pasted || /^[/!]/.test(value)) return null;
  const said = await submittedIn(cfg, agent, pane) ?? [];
  return said.some(({ text, at }) => at > pasted.at - CLOCK_STEP && isSaidIn(text, value)) ||
    (said.some(({ at }) => at < pasted.at) ? false : null);
}

/** What proves a text sent on a screen; what takes the place of the box shows others as well. */
const proofOn = ({ composer, above }: BoxLook, recorded: boolean | null): string =>
  (composer === null && recorded === false ? "" : above);

/**
 * What to do after one look; an empty box counts against a paste that is late. `enters`: how often
 * Enter was pressed since the text was there; absent = whether it is there has to be seen first.
 */
async function typingNow(errand: Errand, look: BoxLook, enters?: number): Promise<Typing> {
  const { message, pane, cause } = errand;
  const { verdict, composer, cutBox } = look;
  if (!hasBox(errand.backend)) {
    const stands = enters === 0 || isAtCursor(look.screen, message);
    return decideBlind(verdict, { ...message, cause }, stands, Boolean(enters));
  }
  const recorded = await isRecorded(errand);
  if (recorded && !holdsText(look, message)) return { do: "done" };
  const typing = decideTyping(
    verdict, { ...message, cause }, composer, proofOn(look, recorded), cutBox);
  if (typing.do !== "type") return typing;
  // a client at work may keep what it was given for later
  const waits = recorded === false && verdict.verdict === "active";
  if (message.pasted && !waits) message.pasted.empty += 1;
  const again = decideAgain(message, pane, world.now());
  return recorded === false && (waits || again.do === "await")
    ? { do: "wait", why: NO_SIGN } : again;
}

const NO_SIGN = "Enter was pressed; no sign yet that it was accepted";

function outcomeOf({ do: next, ...wait }: Typing, backend: Backend): Delivery {
  if ("why" in wait) return { state: "waiting", ...wait };
  if (next === "done") return { state: "delivered", why: "it is in the conversation" };
  if (next === "unproven") return { state: "unproven", why: hasBox(backend)
    ? "typed, with no sign that the client accepted it; look at its screen"
    : "its client's input box is not recognised: describe it as box_re in " +
      `[backend.${backend.name}]` };
  return { state: "waiting", why: "passed to its client; not visible there yet" };
}

/**
 * Stores the next step with a text before it is taken, and returns what takes that back; if it
 * cannot be stored, nothing is changed.
 */
async function intend({ cfg, watch, message }: Errand, step: Partial<Message>) {
  const before = { ...message };
  const undo = (): void => {
    for (const key of Object.keys(step) as (keyof Message)[]) delete message[key];
    Object.assign(message, before);
  };
  Object.assign(message, step);
  try {
    await save(cfg, watch);
  } catch (error) {
    undo();
    throw error;
  }
  return undo;
}

/** Whether nobody waits for a text any more, by what the command line says of it at this moment. */
const isGivenUp = async ({ cfg, message }: Errand): Promise<boolean> => isLate(message) ||
  (await operatorOf(cfg)).queue.some((one) => one.id === message.id && isLate(one));

/**
 * Stores that a client is given a text now; false = nobody waits for it any more, so it is not.
 * That is asked once it is stored: who gives a text up sees there whether it may still be taken.
 */
async function intendGiving(errand: Errand, step: Partial<Message>): Promise<boolean> {
  const undo = await intend(errand, step);
  const isOver = await isGivenUp(errand);
  if (isOver) undo();
  return !isOver;
}

const bufferOf = ({ id }: Message): string => `agents-${id}`;

/** tmux drops a buffer as it pastes it: where it is still there, a crash came before the paste. */
async function wasNeverPasted({ cfg, message }: Errand): Promise<boolean> {
  const listed = await tmux(cfg, ["list-buffers", "-F", "#{buffer_name}"]);
  return listed.ok && listed.out.split("\n").includes(bufferOf(message));
}

/** What a text is once it was given to the client in a pane one more time. */
function nextPaste({ tries, pasted }: Message, { pid }: Pane): Pick<Message, "tries" | "pasted"> {
  const before = pasted?.pid === pid ? pasted.nth : 0;
  return { tries: tries + 1, pasted: { pid, nth: before + 1, at: world.now(), empty: 0 } };
}

/**
 * The text as one bracketed paste: whole in every try, however long or however many lines. Returns
 * why there was none; null = there was.
 */
async function paste(errand: Errand, { above }: BoxLook): Promise<Delivery | null> {
  const { cfg, pane, message } = errand;
  await shorten(errand);
  const buffer = bufferOf(message);
  const loaded = await tmux(cfg, ["load-buffer", "-b", buffer, "-"], message.text);
  if (!loaded.ok) return { state: "failed", why: `load-buffer: ${loaded.err}` };
  const step = { seen: timesIn(above, message.text), ...nextPaste(message, pane) };
  if (!await intendGiving(errand, step)) {
    await tmux(cfg, ["delete-buffer", "-b", buffer]);
    return GIVEN_UP;
  }
  const pasted = await tmux(cfg, ["copy-mode", "-q", "-t", pane.id, THEN,
    "paste-buffer", "-p", "-d", "-b", buffer, "-t", pane.id]);
  return pasted.ok ? null : { state: "failed", why: `paste-buffer: ${pasted.err}` };
}

/**
 * Waits until the paste stands in the box, if that can be recognised, and then for as long as the
 * client needs; null = tmux does not show the box.
 */
async function awaitPaste(errand: Errand): Promise<boolean | null> {
  const { backend, message } = errand;
  if (!hasBox(backend)) {
    await world.sleep(backend.submitPause * 1000);
    return true;
  }
  for (let looks = 0; looks < PASTE_LOOKS; looks++) {
    const look = await lookAtBox(errand);
    if (!look) return null;
    const drawn = holdsText(look, message);
    if (look.composer === "") message.pasted!.empty += 1;
    await world.sleep(drawn ? backend.submitPause * 1000 : LOOK_EVERY);
    if (drawn) return true;
  }
  return false;
}

/** A text too long to type, or that its box would hide, goes to a file for the client to read. */
async function shorten({ cfg, backend, message }: Errand): Promise<void> {
  // no client shows 8 kB in its box
  const fits = Buffer.byteLength(message.text) <= 8_000 && !hidesInBox(backend, message.text);
  if (fits || wasPasted(message)) return;
  const file = join(cfg.stateDir, `message-${message.id}.txt`);
  await world.writeAtomic(file, message.text);
  message.text = renderLine(cfg, typedFile("boot"), { kickoff: file });
}

/** Enter, at most three times, each time after another look: at the text, and for a dialog. */
async function submit(errand: Errand): Promise<Delivery> {
  for (let enters = 0; enters < 3; enters++) {
    const look = await lookAtBox(errand);
    if (!look) return UNSHOWN;
    const typing = await typingNow(errand, look, enters);
    if (typing.do !== "submit") return outcomeOf(typing, errand.backend);
    await pressEnter(errand);
    const found = await whatBecame(errand);
    if (found === "left") return { state: "delivered", why: "typed" };
    if (found === "unknown") return { state: "waiting", why: NO_SIGN };
  }
  return hasBox(errand.backend)
    ? { state: "failed", person: true, why: "still in the input box after three Enters" }
    : outcomeOf({ do: "unproven" }, errand.backend);
}

async function pressEnter(errand: Errand): Promise<void> {
  const { cfg, backend, pane, message } = errand;
  const first = message.entered !== message.tries;
  await intend(errand, {
    entered: message.tries, copies: (message.copies ?? 0) + (first ? 1 : 0) });
  await sendKeys(cfg, pane, [backend.submitKey]);
}

/**
 * What became of a text after Enter. It has left when its client has recorded it and it is not in
 * the box (what was recorded may be an equal text of a moment ago), or when the box is empty and it
 * stands above. Where a client keeps no record, also when two looks running find
 * the box without it: a single one may fall into a redraw. A screen without a box, and without a
 * dialog in its place, says nothing.
 */
async function whatBecame(errand: Errand): Promise<"left" | "stands" | "unknown"> {
  const { backend, message } = errand;
  if (!hasBox(backend)) {
    await world.sleep(LOOK_EVERY * LOOKS);
    return "stands"; // unless the next look shows that it does not
  }
  let [stands, gone] = [false, 0];
  for (let looks = 0; looks < LOOKS; looks++) {
    await world.sleep(LOOK_EVERY);
    const look = await lookAtBox(errand);
    if (!look) return "unknown";
    const { composer, screen } = look;
    const recorded = await isRecorded(errand);
    // a dialog or a limit that its turn met at once may have taken the place of the box
    const isAbove = timesIn(proofOn(look, recorded), message.text) > (message.seen ?? 0);
    const isTaken = recorded && !holdsText(look, message);
    if (isTaken || (!composer && isAbove)) return "left";
    if (composer === "" || (composer && isForeign(composer, message.text) &&
        !mayStandAbove(screen.plain, backend, message.text))) gone += 1;
    else [stands, gone] = [holdsText(look, message), 0];
    if (gone >= 2 && recorded === null) return "left";
  }
  return stands && !gone ? "stands" : "unknown";
}

/** Queues a text in place of an older one of the same cause to the same target. */
export function enqueue(watch: Watch, target: string, cause: string, value: string): void {
  // one that may stand typed in the input box is not taken back: it would pass for a person's draft
  const old = watch.outbox.find((one) =>
    one.target === target && one.cause === cause && !wasPasted(one));
  watch.outbox = watch.outbox.filter((one) => one !== old);
  const { stuck, undelivered } = old ?? {};
  watch.outbox.push({ ...messageFor(target, cause, value),
    ...(stuck === undefined ? {} : { stuck }), ...(undelivered ? { undelivered } : {}) });
}

const messageFor = (target: string, cause: string, value: string): Message =>
  ({ id: newId(), target, text: typeable(value), cause, made: world.now(), tries: 0 });

/**
 * A text without what a terminal takes for keys (a Ctrl-C in a commit's subject could end its
 * reader) and what makes it look like another text. A last word such as `@file` opens a list in the
 * box, and Enter would pick an entry of it: a blank closes the list. So it does for a backslash,
 * behind which Claude Code takes Enter for a new line.
 */
export function typeable(value: string): string {
  const typed = value.replace(/\r\n?/g, "\n")
    .replace(/\x1b\[[\d;?]*[A-Za-z~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]|\p{Bidi_Control}/gu, "");
  return /[@$#]|\\$/.test(typed.split(/\s/).at(-1)!) ? `${typed} ` : typed;
}

/** The first text of a client that is about to be started: stored before there is a client. */
const queueBoot = (
  cfg: Config, watch: Watch, name: string,
) => async (boot: string): Promise<void> => {
  watch.outbox = watch.outbox.filter((one) => one.target !== name || one.cause !== "boot");
  enqueue(watch, name, "boot", boot);
  await save(cfg, watch);
};

/**
 * The next text for each target: a kickoff, then in the order they were made. For a limited target
 * the probe comes first, then what a person sends: the rest waits. A wake comes last, and so does a
 * probe once the limit is lifted: they alone wait for an agent at rest.
 */
export function nextMessages(
  outbox: Message[], isLimited: (target: string) => boolean = () => false,
): Message[] {
  const rank = ({ cause, target }: Message): number => passesLimit(cause) && isLimited(target)
    ? cause === PROBE ? 0 : 1 : { boot: 2, wake: 4, [PROBE]: 4 }[cause] ?? 3;
  return [...Map.groupBy(outbox, ({ target }) => target).values()]
    .map((texts) => texts.toSorted((a, b) => rank(a) - rank(b))[0]!);
}

/** Delivers what can be delivered, one text per target, the targets side by side. */
export async function deliverAll(
  cfg: Config, watch: Watch, observations: Observations, only?: Set<string>,
): Promise<void> {
  const isLimited = (target: string) => {
    const [agent, seen] = [cfg.agents.get(target), observations.get(target)];
    return seen?.verdict.verdict === "limited" || Boolean(agent && holdOn(cfg, agent));
  };
  const due = nextMessages(watch.outbox, isLimited)
    .filter((message) => !only || only.has(message.target));
  for (const label of Object.keys(watch.volatile.errors)) {
    if (label.startsWith("message ") && !watch.outbox.some(({ id }) => label.endsWith(id))) {
      delete watch.volatile.errors[label];
    }
  }
  for (let at = 0; at < due.length; at += cfg.watchdog.startBatch) {
    const batch = due.slice(at, at + cfg.watchdog.startBatch);
    const began = world.mono();
    await Promise.all(batch.map((message) => guard(watch, `deliver ${message.target}`, () =>
      deliver(cfg, watch, message, observations.get(message.target)))));
    // agents that waited for a limit do not all go on at once: a batch takes at least a second
    const paced = batch.some(({ cause }) => cause === PROBE) && at + batch.length < due.length;
    const left = began + 1_000 - world.mono();
    if (paced && left > 0) await world.sleep(left);
  }
}

const NO_AGENT = "no such agent in the config";

async function deliver(
  cfg: Config, watch: Watch, message: Message, seen: Observation | undefined,
): Promise<void> {
  const agent = cfg.agents.get(message.target);
  const note = (delivery: Delivery, said = message) => noteDelivery(cfg, watch, said, delivery);
  if (!agent) return note({ state: "failed", why: NO_AGENT, person: true });
  const { cause } = message;
  const wait = await whyUntold(cfg, watch, agent, seen) ??
    (passesLimit(cause) ? null : whyLimited(cfg, agent, seen!, cause));
  if (wait) return note({ state: "waiting", ...wait });
  const [backend, pane] = [backendOf(cfg, agent), seen!.pane!];
  const errand: Errand = { cfg, watch, agent, backend, pane, message, cause };
  if (backend.kind === "opencode" && pane.conversation) {
    return note(await tellServer(errand, seen!.verdict));
  }
  if (pane.inputOff) {
    const cure = `run "${tmuxByHand(cfg)} select-pane -e -t ${pane.id}"`;
    return note({ state: "waiting", person: true, why: `the input of its pane is off; ${cure}` });
  }
  const said = await standingText(errand);
  if (!said) return note(UNSHOWN);
  if (watch.unproven.includes(said)) {
    watch.unproven = watch.unproven.filter((one) => one !== said);
    watch.outbox.push(said);
  }
  return note(await pingSession({ ...errand, message: said }), said);
}

/**
 * Why nothing can be said to an agent, whatever is on its screen; null = it can. Since the look a
 * person or this very round may have ended its client, whose server would take a text all the same.
 */
async function whyUntold(
  cfg: Config, watch: Watch, agent: Agent, seen: Observation | undefined,
): Promise<Wait | null> {
  const handsOff = seen?.handsOff || whyHandsOff(await operatorOf(cfg), agent.name);
  if (handsOff) return { why: handsOff };
  if (seen?.alive === null) return { why: `tmux: ${seen.snap.why}` }; // it may well run
  if (!seen?.alive) return { why: "not running", during: "gone" };
  if (agent.kind === "loop" && watch.intent) return { why: "a phase move is under way" };
  if (memoryOf(watch, agent.name).life.state !== "up") return { why: "its client is being ended" };
  // a dialog hides what tells that a client is ready
  return seen.booting && seen.verdict.verdict !== "blocked"
    ? { why: "it is starting", during: "booting" } : null;
}

/** Whether a text may go to an agent whose limit is only remembered, not shown. */
const passesLimit = (cause: string): boolean => cause === PROBE || cause.startsWith("send ");

/** Why a text waits for the end of a limit that its agent need not show any more; null = none. */
function whyLimited(
  cfg: Config, agent: Agent, { verdict }: Observation, cause: string,
): Wait | null {
  const hold = holdOn(cfg, agent);
  if (!hold && verdict.where !== ACCOUNT) return null;
  return whyNotNow(verdict, cause) ?? (hold && { why: holdWords(hold) });
}

/** Hands a text to an opencode server, whose record of the conversation is the proof. */
async function tellServer(errand: Errand, verdict: Verdict): Promise<Delivery> {
  const { cfg, agent, backend, pane, message, cause } = errand;
  // what its account lets through does not wait for the verdict that the account gave
  const wait = verdict.where === ACCOUNT ? null : whyNotNow(verdict, cause);
  if (wait) return { state: "waiting", ...wait };
  const there = message.tries > 0 && (await opencodeHas(backend, agent, pane, message));
  if (there === null) return { state: "waiting", why: "the opencode server does not answer" };
  if (there) return { state: "delivered", why: "it is in the conversation already" };
  if (message.pasted) message.pasted.empty += 1;
  const again = decideAgain(message, pane, world.now());
  if (again.do !== "type") return outcomeOf(again, backend);
  const { copies = 0, pasted } = message;
  const step = { ...nextPaste(message, pane), copies: copies + 1 };
  if (!await intendGiving(errand, step)) return GIVEN_UP;
  const taken = await promptOpencode(cfg, agent, pane, message.text);
  if (taken) return { state: "delivered", why: "by the server" };
  if (taken === null) return outcomeOf({ do: "await" }, backend);
  Object.assign(message, { copies, pasted });
  return { state: "waiting", why: "the opencode server did not accept it" };
}

/**
 * The text to type now: the one that is due, unless another of ours is in the box. That one goes
 * first, with the permission of the one that is due: nothing else can be typed before it is sent.
 * An unproven text that is above the box by now is proven. null = tmux does not show the box.
 */
async function standingText(errand: Errand): Promise<Message | null> {
  const { watch, message: due } = errand;
  const pasted = [due, ...watch.outbox, ...watch.unproven].filter((one) =>
    one.target === due.target && wasPasted(one));
  if (!hasBox(errand.backend) || pasted.every((one) => one === due)) return due;
  const look = await lookAtBox(errand);
  if (!look) return null;
  const { verdict, composer, above } = look;
  const unproven = watch.unproven.filter(({ target }) => target === due.target);
  const recorded = await Promise.all(
    unproven.map((message) => isRecorded({ ...errand, message })));
  const standing = composer ? pasted.find((one) => holdsText(look, one))
    : unproven.find((one, nth) =>
      recorded[nth] || decideTyping(verdict, one, composer, above).do === "done");
  return standing ?? due;
}

/** Whether a text has waited for a person for as long as a screen may stay unsure. */
const isStuck = (cfg: Config, { stuck }: Message, now = world.now()): boolean =>
  stuck !== undefined && now - stuck >= cfg.watchdog.unsureAfter * 1000;

async function noteDelivery(
  cfg: Config, watch: Watch, message: Message, delivery: Delivery,
): Promise<void> {
  const { state, why, during, person } = delivery;
  if (state === "delivered") return noteDelivered(cfg, watch, message, why);
  Object.assign(message, { why, during });
  if (!person) delete message.stuck;
  else message.stuck ??= world.now();
  const word = DELIVERY_WORDS[state];
  if (state === "waiting" ? isStuck(cfg, message) && !message.undelivered
    : message.undelivered !== state) {
    message.undelivered = state;
    const said = { agent: message.target, cause: message.cause, why: `${word}: ${why}` };
    if (state === "unproven") emit(cfg, "unconfirmed", said);
    else emit(cfg, "undelivered", said);
  }
  const line = `${word}: ${message.cause} to ${message.target}: ${why}`;
  if (state !== "unproven") return trouble(watch, `message ${message.id}`, line);
  watch.outbox = watch.outbox.filter((one) => one.id !== message.id);
  message.unprovenAt = world.now();
  // the last ones to each agent are kept, to be shown and to be recognised in its box
  const all = Map.groupBy([...watch.unproven, message], ({ target }) => target);
  watch.unproven = [...all.values()].flatMap((texts) => texts.slice(-20));
  await noteAsked(cfg, watch, message);
  await save(cfg, watch);
  log(line);
  trouble(watch, `message ${message.id}`, "");
}

/** What people read; files and JSON keep "unproven". */
const DELIVERY_WORDS = { waiting: "waiting", failed: "failed", unproven: "unconfirmed" };

/** Any text that a limited agent was given asks whether it is over: what it shows now answers. */
async function noteAsked(cfg: Config, watch: Watch, { target }: Message): Promise<void> {
  const session = cfg.agents.get(target)?.session ?? "";
  const hold = loadLimitState(cfg, session);
  if (hold) await writeOrLog(() =>
    saveLimitState(cfg, session, { ...hold, asked: world.now() / 1000 }));
  const asks = Object.values(watch.accounts).filter(({ asker }) => asker === target);
  for (const shared of asks) shared.askedAt = world.now();
}

async function noteDelivered(
  cfg: Config, watch: Watch, message: Message, why: string,
): Promise<void> {
  watch.outbox = watch.outbox.filter((one) => one.id !== message.id);
  // another text proves nothing of these; the same one was said again
  watch.unproven = watch.unproven.filter(({ target, text }) =>
    target !== message.target || text !== message.text);
  const agent = cfg.agents.get(message.target);
  if (message.cause === "boot" && agent) await noteKickoffGiven(cfg, agent.session);
  watch.delivered = [...watch.delivered, message.id].slice(-200);
  await noteAsked(cfg, watch, message);
  await save(cfg, watch);
  log(`delivered: ${message.cause} to ${message.target} (${why})`);
  emit(cfg, "delivered", { agent: message.target, cause: message.cause,
    ms: Math.round(world.now() - message.made), tries: message.tries });
  trouble(watch, `message ${message.id}`, "");
}

/**
 * ms for which the file of a long text is kept. Nothing shows when it is read: a client may keep
 * the text for after its turn, and a weekly limit may hold it up before and after it is typed.
 */
const FILES_KEPT = 15 * DAY;

/** Removes the files of long texts that were typed long ago. */
function sweepTexts(cfg: Config, watch: Watch): void {
  const kept = [...watch.outbox, ...watch.unproven].map(({ id }) => id);
  for (const file of world.list(cfg.stateDir)) {
    const id = /^message-(\w+)\.txt$/.exec(file)?.[1];
    if (!id || kept.includes(id)) continue;
    const path = join(cfg.stateDir, file);
    if (world.now() - (world.mtime(path) ?? 0) >= FILES_KEPT) world.remove(path);
  }
}

/** Whether a text without proof is still shown as such: nobody tells us that one was dealt with. */
const isShown = ({ made, unprovenAt = made }: Message): boolean => world.now() - unprovenAt < DAY;

/**
 * Drops the texts of agents that left the config a day ago, saying so, and those shown as unproven
 * for a day whose client is gone: in the box of one that runs, such a text must not pass for a
 * person's draft.
 */
function dropLost(cfg: Config, watch: Watch): void {
  const lost = watch.outbox.filter(({ target, stuck = Infinity }) =>
    !cfg.agents.has(target) && world.now() - stuck >= DAY);
  for (const { cause, target } of lost) log(`dropped: ${cause} to ${target}: ${NO_AGENT}`);
  if (lost.length) watch.outbox = watch.outbox.filter((message) => !lost.includes(message));
  watch.unproven = watch.unproven.filter((message) => isShown(message) ||
    (cfg.agents.has(message.target) && message.pasted !== undefined &&
      watch.agents[message.target]?.client?.pid === message.pasted.pid));
}

/** Drops what has expired, takes over what the command line queued; returns whom that is for. */
async function takeQueued(cfg: Config, watch: Watch): Promise<string[]> {
  const operator = await operatorOf(cfg);
  const { queue } = operator;
  // a text that was taken over is withdrawn by the queue, which only the command line writes
  const back = new Set(queue.filter((one) => isLate(one)).map(({ id }) => id));
  for (const message of watch.outbox) if (back.has(message.id)) message.expires = 0;
  watch.outbox = watch.outbox.filter((message) => wasPasted(message) || !isLate(message));
  dropLost(cfg, watch);
  const fresh = freshTexts(watch, operator);
  if (!fresh.length) return [];
  for (const message of fresh) {
    if (message.cause === "boot") watch.outbox = watch.outbox.filter((one) =>
      one.target !== message.target || one.cause !== "boot");
    watch.outbox.push({ ...message });
  }
  // an id is forgotten once the queue has forgotten it, or the text would come again
  const queued = new Set(queue.map(({ id }) => id));
  watch.taken = [...watch.taken, ...fresh.map(({ id }) => id)].filter((id) => queued.has(id));
  await save(cfg, watch);
  return fresh.map((message) => message.target);
}

/** Wakes a sleeping watchdog: something was queued for it. */
const POKE = "SIGUSR2";

/** Leaves texts to the watchdog, and wakes it. */
async function queueMessages(cfg: Config, messages: Message[]): Promise<void> {
  await changeOperator(cfg, (operator) => void operator.queue.push(...messages));
  poke(cfg);
}

function poke(cfg: Config): void {
  const pid = holderOf(cfg, "watchdog");
  if (pid !== null) world.signal(pid, POKE);
}

/** How often, ms, pending units are looked at between two ticks. */
const ATTEND_INTERVAL = 400;

/** ms. Longer than a pass over a hundred agents that all answer only at their deadlines. */
const HAND_HUNG = 180_000;

/**
 * Waits until no command writes the memory, or until `isOver`: those that come later see who has
 * the watchdog's lock. One that does not give way, such as one stopped by Ctrl-Z, is ended: it has
 * stored each step before it took it.
 */
export async function awaitHand(cfg: Config, isOver = () => false): Promise<void> {
  const path = lockFile(cfg, "hand");
  const isFree = async (): Promise<boolean> => {
    try {
      const lock = await takeLock(path, ATTEND_INTERVAL);
      if (lock !== null) freeLock(lock);
      return lock !== null;
    } catch (error) {
      log(`${messageOf(error)}; continuing without it`); // as on a full disk
      return true;
    }
  };
  for (let since = world.mono(); !isOver() && !(await isFree()); ) {
    noteStage("waiting for a command");
    if (world.mono() - since < HAND_HUNG) continue;
    const pid = lockHolder(path);
    const isSure = pid !== null && bornOf(pid) !== "";
    log(`${path} is held by ${pid === null ? "somebody" : `a command (pid ${pid})`} that does ` +
      `not release it: ${isSure ? "ending it" : "the watchdog will start once it is free"}`);
    if (isSure) world.signal(pid, "SIGKILL");
    since = world.mono();
  }
}

/**
 * Does what writes the watchdog's memory where no watchdog runs: one command at a time, and a
 * watchdog that starts meanwhile waits. null = it was not done: somebody else may write.
 */
async function byHand<T>(
  cfg: Config, patience: number, write: (isAlone: () => boolean) => Promise<T>,
): Promise<T | null> {
  const isAlone = () => !isHeldBySomebody(cfg, "watchdog");
  const lock = isAlone() ? await takeLock(lockFile(cfg, "hand"), patience) : null;
  if (lock === null) return null;
  try {
    return isAlone() ? await write(isAlone) : null; // one may have begun before we had the lock
  } finally {
    freeLock(lock);
  }
}

/** Delivers queued texts by hand, until a watchdog starts; what is not delivered stays queued. */
async function deliverByHand(cfg: Config, messages: Message[], deadline: number): Promise<void> {
  await byHand(cfg, 100, async (isAlone) => {
    const watch = await loadWatch(cfg);
    const targets = new Set(messages.map((message) => message.target));
    const settled = (operator: Operator) => messages.every(({ id, target }) =>
      watch.delivered.includes(id) || watch.unproven.some((one) => one.id === id) ||
      isHeld(operator, target));
    while (!settled(await operatorOf(cfg)) && world.mono() < deadline && isAlone()) {
      await takeQueued(cfg, watch);
      await deliverAll(cfg, watch, await lookAround(cfg, watch, targets), targets);
      if (!settled(await operatorOf(cfg))) await world.sleep(ATTEND_INTERVAL);
    }
    await save(cfg, watch);
  });
}

// ── usage limit ─────────────────────────────────────────────────────────────────
// An agent in a usage limit is left alone: a restart cannot help it, and would burn quota. After
// the reset one short text asks whether the window is open again. The state file is the original's.

/** s. A limit is probed before a reset further off than this: plans change, limits are lifted. */
const FAR_RESET = 6 * 3600;

/** Until when to hold, wall s. */
export function nextLimitUntil(
  settings: Settings, limit: Pick<Limit, "resetAt" | "native"> | null, nativeGrace: number,
  now: number,
): number {
  if (limit?.resetAt == null) return now / 1000 + settings.limitProbeFallback;
  const reset = limit.resetAt / 1000 + settings.limitResetSlack + (limit.native ? nativeGrace : 0);
  const far = now / 1000 + settings.limitProbeFar;
  return reset - now / 1000 > FAR_RESET ? Math.min(reset, far) : reset;
}

export function limitNudgeMsg(cfg: Config, agent: Agent): string {
  const steady = agent.kind === "persistent" || agent.kind === "orchestrator" ||
    !phases(cfg).length;
  return renderLine(cfg, typedFile(steady ? "limit-probe" : "limit-probe-loop"),
    variablesOf(cfg, agent));
}

/** What a limit asks for; none where there is no limit. */
export function decideLimit(
  state: LimitState | null, verdict: Verdict, now: number,
): Decision<"none" | "hold" | "probe" | "lift"> {
  const limited = verdict.verdict === "limited";
  if (!state) return limited ? { do: "hold", why: verdict.why } : { do: "none", why: "" };
  const since = Math.abs(now - (state.asked ?? NaN) * 1000); // NaN if it was not asked: never late
  // a turn that has only just begun may still meet the limit
  if (verdict.verdict === "active") return since < LIMIT_SHOWS
    ? { do: "hold", why: "" } : { do: "lift", why: "it works again" };
  if (verdict.verdict === "unsure" || verdict.verdict === "blocked") return { do: "none", why: "" };
  if (!limited && since >= LIMIT_STAYS) {
    return { do: "lift", why: "at its prompt after its probe" };
  }
  const reset = state.resetAt ?? state.until;
  if (!limited && now / 1000 >= reset) return { do: "lift", why: "at its prompt after the reset" };
  if (isHolding(state, now)) return { do: "hold", why: "" };
  // the banner of a reset that is far off may be gone by now
  return limited || verdict.verdict === "idle"
    ? { do: "probe", why: `limit probe #${state.nudges + 1}` } : { do: "hold", why: "" };
}

/** The hold for a banner: a known banner keeps its reset, unless a later parse is earlier. */
function holdFor(cfg: Config, agent: Agent, verdict: Verdict, old: LimitState | null): LimitState {
  const now = world.now();
  const { limit } = verdict;
  const same = old && old.banner === limit?.banner && now / 1000 >= (old.setAt ?? Infinity) - 60;
  const known = same && !limit?.exact && old.resetAt !== undefined ? old.resetAt * 1000 : Infinity;
  const resetAt = limit?.resetAt != null ? Math.min(limit.resetAt, known) : null;
  const past = resetAt !== null && resetAt <= now;
  const until = nextLimitUntil(
    cfg.watchdog, limit && { ...limit, resetAt: past && old ? null : resetAt },
    backendOf(cfg, agent).nativeGrace, now);
  return {
    until, nudges: old?.nudges ?? 0, setAt: now / 1000, banner: limit?.banner ?? verdict.text,
    class: limit?.class ?? "other", ...(resetAt !== null ? { resetAt: resetAt / 1000 } : {}),
    ...(old?.asked !== undefined ? { asked: old.asked } : {}),
  };
}

/** An agent that is held back: what it shows now, its hold, and the limit of its account. */
interface Limited {
  cfg: Config;
  watch: Watch;
  agent: Agent;
  verdict: Verdict;
  state: LimitState;
  shared: AccountLimit | null;
}

/** True while the agent is inside a usage-limit window: the callers then suppress all healing. */
export async function limitTick(
  cfg: Config, watch: Watch, agent: Agent, verdict: Verdict,
): Promise<boolean> {
  const state = loadLimitState(cfg, agent.session);
  const shared = accountLimitOf(cfg, watch, agent);
  if (!state && verdict.where === ACCOUNT) return true;
  const action = decideLimit(state, verdict, world.now());
  if (action.do === "none") return state !== null;
  if (action.do === "lift") {
    liftLimit(cfg, watch, agent, shared, action.why);
    return false;
  }
  if (!state) {
    await beginHold(cfg, watch, agent, verdict);
    return true;
  }
  // one agent probes for all of an account
  const probes = action.do === "probe" && (!shared || shared.asker === agent.name);
  const one: Limited = { cfg, watch, agent, verdict, state, shared };
  await (probes ? probeLimit(one) : keepHold(one));
  return true;
}

function liftLimit(
  cfg: Config, watch: Watch, agent: Agent, shared: AccountLimit | null, why: string,
): void {
  if (shared) Object.assign(shared, { asker: agent.name, liftedAt: world.now() });
  clearLimitState(cfg, agent.session);
  log(`usage limit lifted on ${agent.name}: ${why}`);
  emit(cfg, "lifted", { agent: agent.name });
  watch.outbox = watch.outbox.filter((message) =>
    !isProbe(agent.name)(message) || wasPasted(message));
}

async function beginHold(cfg: Config, watch: Watch, agent: Agent, verdict: Verdict): Promise<void> {
  const hold = holdFor(cfg, agent, verdict, null);
  await saveLimitState(cfg, agent.session, hold);
  const until = hold.resetAt !== undefined
    ? `holding until ${localTime(hold.until * 1000)}`
    : `no reset time shown; probing at ${localTime(hold.until * 1000)}`;
  log(`usage limit on ${agent.name}: ${verdict.why}; ${until}, not restarting it`);
  // it may be asked long before a reset that is far off, and has to be where none is named
  emit(cfg, "limited", { agent: agent.name, class: hold.class,
    until: isoOrNone((hold.resetAt ?? 0) * 1000), asks: iso(hold.until * 1000) });
  shareLimit(cfg, watch, agent, hold);
}

/** Holds on, by what the screen says now: a limit that a probe has met, or an earlier end. */
async function keepHold(one: Limited): Promise<void> {
  const { cfg, watch, agent, verdict, state, shared } = one;
  const asked = (state.asked ?? 0) * 1000;
  // what shows by then is what a probe met, not what stood there before it
  const answered = !probeOf(watch, agent) && world.now() - asked >= LIMIT_STAYS;
  const met = answered ? newLimit(one) : null;
  const hold = met ?? tighterHold(one);
  if (hold) await saveLimitState(cfg, agent.session, hold);
  // a banner from before another one's work proves nothing against that
  const stands = answered && asked >= (shared?.liftedAt ?? 0);
  if (verdict.limit && stands) shareLimit(cfg, watch, agent, met ?? state);
}

/**
 * A new client asks by itself: the hold of the one before it is over, and so is its probe. A start
 * that lies ahead was made before the clock was set back, and tells nothing.
 */
function forgetHold(cfg: Config, watch: Watch, agent: Agent, { created }: Pane): void {
  if (created > world.now()) return;
  watch.outbox = watch.outbox.filter((message) =>
    !isProbe(agent.name)(message) || message.made >= created);
  const hold = loadLimitState(cfg, agent.session);
  if (!hold || (hold.setAt ?? Infinity) * 1000 >= created) return;
  clearLimitState(cfg, agent.session);
  log(`${agent.name} was restarted: the limit of its old client no longer holds it`);
}

/** Asks whether the limit is over; a probe that nobody has heard yet is not asked once more. */
async function probeLimit({ cfg, watch, agent, verdict, state, shared }: Limited): Promise<void> {
  const shown = verdict.verdict === "limited" && verdict.where !== ACCOUNT;
  // at its prompt, with no banner to go by, it gets the time to answer
  const time = Math.max(cfg.watchdog.limitProbeFallback, 2 * LIMIT_SHOWS / 1000);
  const hold = shown ? holdFor(cfg, agent, verdict, state)
    : { ...state, until: world.now() / 1000 + time };
  if (probeOf(watch, agent)) return saveLimitState(cfg, agent.session, hold);
  hold.nudges += 1;
  delete hold.asked; // until it has the probe
  await saveLimitState(cfg, agent.session, hold);
  if (shared) shared.askedAt = world.now();
  log(`limit probe #${hold.nudges} on ${agent.name}: asking it to continue`);
  if (hold.nudges === 3) {
    log(`WARNING: ${agent.name} is still limited after 3 probes; ` +
      "will keep probing, will not restart it");
  }
  enqueue(watch, agent.name, PROBE, limitNudgeMsg(cfg, agent));
}

/** The hold for a limit that a probe has met: another banner than before, with a time to come. */
function newLimit({ cfg, agent, verdict, state }: Limited): LimitState | null {
  const { banner, resetAt } = verdict.limit ?? {};
  return state.asked !== undefined && banner !== undefined && banner !== state.banner &&
    (resetAt ?? 0) > world.now() ? holdFor(cfg, agent, verdict, null) : null;
}

/**
 * A stepped clock, or a banner that names an earlier time, may end a hold sooner, never later; the
 * client's own epoch, which may come a look after the banner, counts as it is. null = as before.
 */
function tighterHold({ cfg, agent, verdict, state }: Limited): LimitState | null {
  if (verdict.verdict !== "limited" || !verdict.limit || state.nudges > 0) return null;
  const fresh = holdFor(cfg, agent, verdict, state);
  const exact = verdict.limit.exact && Math.abs(fresh.resetAt! - (state.resetAt ?? 0)) > 1;
  return exact || fresh.until < state.until - 1
    ? { ...fresh, setAt: state.setAt ?? fresh.setAt! } : null;
}

// Agents that use one account share its limits: each of them would meet the same banner, and forty
// probes at the reset would use up what has just come back.

/** What in an agent's environment says whose quota it uses. */
const CREDENTIAL = /^(?:HOME|.*_HOME|.*CONFIG_DIR|.*_TOKEN|.*_KEY|.*_URL|AWS_.*|GOOGLE_.*)$/;

const credentials = new WeakMap<Agent, { mark: string; shown: string }>();

/** The credentials of an agent's own; `mark` tells them apart, and "" = those of everybody. */
function credentialsIn({ env }: Agent): { mark: string; shown: string } {
  const own = Object.entries(env).filter(([key]) => CREDENTIAL.test(key)).sort()
    .map(([key, value]) => [key, value.startsWith("/") ? resolve(value) : value] as const);
  const mark = own.length ? hashOf(JSON.stringify(own)) : "";
  // a folder may be shown, a secret not
  const folder = own.find(([key]) => /HOME$|CONFIG_DIR$/.test(key))?.[1];
  return { mark, shown: folder ?? mark.slice(0, 4) };
}

/** Whose quota an agent uses; of an opencode client also that of its model's provider. */
export function accountOf(cfg: Config, agent: Agent): { key: string; name: string } {
  const { name, kind } = backendOf(cfg, agent);
  const provider = kind === "opencode" ? roleModel(cfg, agent).split("/")[0]! : "";
  const { mark, shown } = credentials.getOrInsertComputed(agent, credentialsIn);
  // without blanks, of which `OF_MODEL` is made
  return { key: [name, provider, agent.account ?? mark].map(encodeURIComponent).join(" "),
    name: `${name} (${agent.account ?? (shown || provider || "default")})` };
}

const OF_MODEL = " of model ";

/** Under what a limit is kept; one of a model holds that model alone. */
function accountKey(
  cfg: Config, agent: Agent, ofModel: boolean, { key } = accountOf(cfg, agent),
): string {
  return ofModel ? `${key}${OF_MODEL}${roleModel(cfg, agent)}` : key;
}

/** The limit of its account that an agent must wait for; null = none. */
export function accountLimitOf(cfg: Config, watch: Watch, agent: Agent): AccountLimit | null {
  if (!Object.keys(watch.accounts).length) return null;
  const account = accountOf(cfg, agent);
  const found = [false, true].flatMap((ofModel) =>
    watch.accounts[accountKey(cfg, agent, ofModel, account)] ?? []);
  return found.toSorted((a, b) => b.resetAt - a.resetAt)[0] ?? null;
}

/** The limit that the start of an agent waits for, its account's or its own; null = none. */
function limitAhead(
  cfg: Config, watch: Watch, agent: Agent,
): Pick<AccountLimit, "class" | "resetAt"> | null {
  const hold = holdOn(cfg, agent);
  return accountLimitOf(cfg, watch, agent) ??
    (hold && { class: hold.class ?? "other", resetAt: hold.until * 1000 });
}

/** The agents that share the account, or its model, of a limit. */
const sharersOf = (cfg: Config, key: string): Agent[] => [...cfg.agents.values()].filter((agent) =>
  agent.enabled && accountKey(cfg, agent, key.includes(OF_MODEL)) === key);

/** By this long, ms, after a probe, or after work was seen, a limit that still holds has shown. */
const LIMIT_SHOWS = 10_000;
/** What shows this long, ms, after a probe is no remnant of before it. */
const LIMIT_STAYS = 60_000;

const accountWords = ({ name, class: kind, resetAt }: AccountLimit, now = world.now()): string =>
  `${name}: ${LIMIT_NAMES[kind]} until ${dayTime(resetAt, now)}`;

/**
 * What an agent at rest counts as while its account is limited: it could do nothing. The one that
 * asks is believed once its probe has had the time to meet the limit again.
 */
export function decideAccount(
  shared: AccountLimit | null, name: string, pending: boolean, verdict: Verdict, now: number,
): Verdict {
  const rests = ["idle", "background", "waiting"].includes(verdict.verdict);
  if (!shared || !rests) return verdict;
  const asked = shared.askedAt > 0 && !pending && now - shared.askedAt >= LIMIT_SHOWS;
  if (shared.asker === name && (asked || shared.liftedAt > 0)) return verdict;
  return { ...verdict, verdict: "limited", rule: ACCOUNT, where: ACCOUNT, limit: null,
    waitingUntil: null, why: accountWords(shared, now) };
}

const isProbe = (name: string) => ({ target, cause }: Message): boolean =>
  target === name && cause === PROBE;
/** The probe that an agent has not got yet. */
const probeOf = (watch: Watch, { name }: Agent): Message | undefined =>
  watch.outbox.find(isProbe(name));

/** Makes the limit of one agent that of its account, where others use that too. */
function shareLimit(cfg: Config, watch: Watch, agent: Agent, hold: LimitState): void {
  const { class: kind = "other", resetAt = 0 } = hold;
  const key = accountKey(cfg, agent, kind === "model");
  const old = watch.accounts[key];
  if (kind === "money" || resetAt * 1000 <= world.now() ||
      (old && !old.liftedAt && old.resetAt >= resetAt * 1000) ||
      sharersOf(cfg, key).length < 2) return;
  const model = kind === "model" ? `, ${roleModel(cfg, agent) || "default model"}` : "";
  const fresh = { name: accountOf(cfg, agent).name + model, class: kind, resetAt: resetAt * 1000,
    asker: old?.asker ?? "", askedAt: 0, liftedAt: 0 };
  watch.accounts[key] = fresh;
  log(`${accountWords(fresh)}; its ${sharersOf(cfg, key).length} agents wait`);
}

/** A probe that could not be typed for this long, ms, is left to another agent. */
const PROBE_PATIENCE = 600_000;

/** Whether an agent can probe for its account: it shows the limit, and can be typed to. */
function canProbe(cfg: Config, watch: Watch, agent: Agent, observations: Observations): boolean {
  const seen = observations.get(agent.name);
  const probe = probeOf(watch, agent);
  return agent.watch !== "none" && seen?.alive === true && !seen.handsOff &&
    !isLeftAlone(cfg, watch, agent, seen) && seen.verdict.verdict === "limited" &&
    loadLimitState(cfg, agent.session) !== null &&
    (!probe || isRecent(probe.made, PROBE_PATIENCE));
}

/** Who probes for each account, and the end of a limit: one that probed works, or none can. */
async function settleAccounts(
  cfg: Config, watch: Watch, observations: Observations,
): Promise<void> {
  const now = world.now();
  for (const [key, shared] of Object.entries(watch.accounts)) {
    const sharers = sharersOf(cfg, key);
    // a clock that was set back must not make a wait longer
    Object.assign(shared, { askedAt: Math.min(shared.askedAt, now),
      liftedAt: Math.min(shared.liftedAt, now) });
    // one that meets the limit again after all has not lifted it, and may not be able to probe
    if (observations.get(shared.asker)?.verdict.verdict === "limited") shared.liftedAt = 0;
    if (shared.liftedAt) {
      if (now - shared.liftedAt >= LIMIT_SHOWS) await freeAccount(cfg, watch, key, sharers);
      continue;
    }
    const able = sharers.filter((agent) => canProbe(cfg, watch, agent, observations));
    const same = able.find(({ name }) => name === shared.asker);
    // it works on its probe, or has come to rest after it
    if (!same && observations.get(shared.asker)?.alive === true &&
        now - shared.askedAt < PROBE_PATIENCE) continue;
    const asker = same ?? able[0];
    if ((asker?.name ?? "") !== shared.asker) {
      Object.assign(shared, { asker: asker?.name ?? "", askedAt: 0 });
    }
    if (asker) continue;
    shared.askedAt ||= now;
    // what nobody can probe is believed for as long as one agent's own limit is
    const until = nextLimitUntil(
      cfg.watchdog, { resetAt: shared.resetAt, native: false }, 0, shared.askedAt);
    if (now / 1000 >= until) await freeAccount(cfg, watch, key, sharers);
  }
}

/** The others follow: those that show the limit are asked now, the rest simply goes on. */
async function freeAccount(
  cfg: Config, watch: Watch, key: string, sharers: Agent[],
): Promise<void> {
  log(`${watch.accounts[key]!.name}: its limit is over, its agents resume`);
  delete watch.accounts[key];
  for (const { session } of sharers) {
    const state = loadLimitState(cfg, session);
    if (state) await saveLimitState(cfg, session, { ...state, until: world.now() / 1000 });
  }
}

// ── stall detection ─────────────────────────────────────────────────────────────
// Idle without having said until when it waits: something went wrong, the agent is started afresh.
// Every branch needs `stall_idle` of idleness on the monotonic clock; one look is never enough.

/** A frozen picture of work in progress is only believed dead after a minute at least. */
const FROZEN_MIN = 60;

export interface StallFacts {
  verdict: VerdictName;
  /** s of unbroken idleness, and of an unchanged screen. */
  idle: number;
  same: number;
  /** The matched rule draws something that moves: a spinner, a counter. */
  animated: boolean;
  /** s since the WAITING-UNTIL passed; null = no marker. */
  past: number | null;
  stallIdle: number;
  grace: number;
}

export function decideStall(facts: StallFacts): Decision<"none" | "restart"> {
  const { verdict, idle, same, past, stallIdle, grace } = facts;
  if (verdict === "active" && facts.animated && same >= Math.max(stallIdle, FROZEN_MIN)) {
    return { do: "restart",
      why: `its screen shows work but has not moved for ${Math.round(same)} s` };
  }
  if (verdict !== "idle") return { do: "none", why: "" };
  if (past !== null) {
    if (past <= grace || Math.min(idle, past) < stallIdle) return { do: "none", why: "" };
    return { do: "restart",
      why: `past its WAITING-UNTIL by ${Math.round(past)} s, it did not go on by itself` };
  }
  if (idle < stallIdle) return { do: "none", why: "" };
  return { do: "restart", why: `idle ${Math.round(idle)} s with no WAITING-UNTIL marker` };
}

/** s. The longest pause before another restart: even if nobody helps, it is tried now and then. */
const STALL_PAUSE_MAX = 6 * 3600;

/** s of idleness before the next restart: doubled for each one in vain after `max` of them. */
export const stallPause = (stallIdle: number, stalls: number, max: number): number =>
  Math.max(stallIdle, Math.min(stallIdle * 2 ** Math.max(0, stalls - max + 1), STALL_PAUSE_MAX));

const stallPauseOf = (cfg: Config, agent: Agent, { stalls = 0 }: Memory): number =>
  stallPause(backendOf(cfg, agent).stallIdle, stalls, cfg.watchdog.stallMax);

/**
 * Whether a restart was worth it: the agent says until when it waits, left work in the background,
 * or drew new things (`busy` - `same`, s) for as long as it may be idle. One short turn is not.
 */
export const isFruitful = (
  verdict: VerdictName, busy: number, same: number, stallIdle: number,
): boolean => verdict === "waiting" || verdict === "background" ||
  (verdict === "active" && busy - same >= stallIdle);

/** Forgets the failed restarts: the last one led to something, or a person stepped in. */
const endStalls = (memory: Memory): void => {
  delete memory.stalls;
  delete memory.stallsTold;
};

/** What people are told, and `status` shows, of an agent that no restart helps; "" = one may. */
const uselessRestarts = ({ stallsTold = 0 }: Memory): string =>
  stallsTold ? `restarted ${stallsTold} times for being idle, to no effect` : "";

/** Reports once per useless restart, from `stall_max` on, that the agent is idle again. */
function noteUselessRestarts(
  cfg: Config, agent: Agent, memory: Memory, verdict: VerdictName, idle: number,
): void {
  const { stalls = 0, stallsTold } = memory;
  if (verdict !== "idle" || idle < backendOf(cfg, agent).stallIdle) return;
  if (!stalls || stalls < cfg.watchdog.stallMax || stallsTold === stalls) return;
  memory.stallsTold = stalls;
  const why = uselessRestarts(memory);
  log(`${agent.name} needs you: ${why}; the next restart waits ` +
    minutes(1000 * stallPauseOf(cfg, agent, memory)));
  emit(cfg, "blocked", { agent: agent.name, why });
}

/** Where a draft may be in a box that is not recognised: this many pauses without a change. */
const NO_BOX_PAUSES = 2;

/** Stall care of one agent; `true` = its restart is due. */
export async function stallCheckOne(
  cfg: Config, watch: Watch, agent: Agent, seen: SeenAlive,
): Promise<boolean> {
  const memory = memoryOf(watch, agent.name);
  const mono = world.mono();
  const { verdict } = seen;
  if (verdict.verdict !== "idle") memory.idleSince = 0;
  else memory.idleSince ||= mono;
  const backend = backendOf(cfg, agent);
  const idle = memory.idleSince ? (mono - memory.idleSince) / 1000 : 0;
  const same = memory.sameSince ? (mono - memory.sameSince) / 1000 : 0;
  const busy = (world.now() - memory.since) / 1000;
  if (isFruitful(verdict.verdict, busy, same, backend.stallIdle)) endStalls(memory);
  noteUselessRestarts(cfg, agent, memory, verdict.verdict, idle);
  const stallIdle = stallPauseOf(cfg, agent, memory);
  const action = decideStall({
    verdict: verdict.verdict, idle, same,
    animated: verdict.verdict === "active" && (sourceOf(verdict)?.moves ||
      rulesOf(backend).some((rule) => rule.name === verdict.rule && rule.animated)),
    past: verdict.waitingUntil === null ? null : (world.now() - verdict.waitingUntil) / 1000,
    stallIdle,
    grace: cfg.watchdog.stallGrace,
  });
  if (action.do !== "restart" || !(await verdictStillHolds(cfg, watch, agent, seen))) return false;
  // `readLook` keeps it so for as long as the draft stands there
  const draft = verdict.verdict === "idle" ? await draftIn(cfg, watch, agent, seen.pane) : "";
  memory.draft = draft === "someone's" || draft === "ours" || undefined;
  // without a box only the screen tells that nobody has typed for as long again
  const isLeft = draft === "no box" && Math.min(idle, same) >= NO_BOX_PAUSES * stallIdle;
  if (draft && !isLeft) return false;
  await endForRestart(cfg, watch, agent, seen, action.why, false, () => {
    log(`stall: ${agent.name} (${agent.session}) ${action.why}; ending and restarting it`);
    emit(cfg, "stalled", { agent: agent.name, why: action.why });
    memory.stalls = (memory.stalls ?? 0) + 1;
  });
  return true;
}

// ── healing ─────────────────────────────────────────────────────────────────────
// What died is started again, up a ladder: at once if it had been healthy, then after 10 s doubling
// to 5 min (Kubernetes); parked if it never stays up (supervisord's FATAL, systemd's burst of 5).

/** s6: exit 125 asks not to be restarted. */
const EXIT_PERMANENT = 125;
/** What a shell means by its exit code; a client may pass it on. */
const UNRUN: Record<number, string> = {
  126: ": it, or a shell in it, could not run a command",
  127: ": it, or a shell in it, did not find a command",
};

/** The name of the program that the config gives an agent. */
export function expectedBackendCmd(cfg: Config, agent: Agent): string {
  return basename(programOf(backendOf(cfg, agent).bin));
}

/** Only a definite OTHER backend is a mismatch: a shell during start-up is not. */
export function backendMismatch(cfg: Config, agent: Agent, pane: Pane): boolean {
  if (pane.backend) return pane.cause !== "override" && pane.backend !== agent.backend;
  const others = [...cfg.backends.values()]
    .filter((one) => one.name !== agent.backend).map((one) => basename(programOf(one.bin)));
  return others.includes(pane.command) && pane.command !== expectedBackendCmd(cfg, agent);
}

/** How a client ended, by what tmux says of its pane. */
const endOf = ({ status, signal }: Pick<DeathFacts, "status" | "signal">): string =>
  (status === null ? `signal ${signal ?? "?"}` : `exit ${status}`);
const endInWords = (facts: Parameters<typeof endOf>[0]): string =>
  endOf(facts) + (UNRUN[facts.status ?? 0] ?? "");

const INTERPRETER_OF = "the interpreter of ";

/** What a launch, or a client's shell, said that could not run a program; `missing`: if known. */
function unrunBy({ status, backend }: Pick<Pane, "status" | "backend">, screen: string) {
  const lines = tailOf(withoutEnd(screen), 12).split("\n");
  if (status === NO_PROGRAM) {
    const program = SAYS_NO_PROGRAM.exec(lines.at(-1)!)?.[1] ?? "";
    return { missing: plainText(program, SUBJECT_MAX), line: "" };
  }
  if (!UNRUN[status ?? 0]) return { missing: "", line: "" };
  const line = lines.findLast((one) =>
    /(?:not found|No such file or directory|ermission denied|cannot execute.*)$/.test(one)) ?? "";
  const last = status === 127 ? lines.at(-1)! : "";
  const [, script, executed] = NO_INTERPRETER.exec(last) ?? [];
  // a client's program is there when it is executed, as `NEED_PROGRAM` found it
  const found = script ?? (backend ? executed : undefined);
  const missing = found ? INTERPRETER_OF + found : NOT_FOUND.exec(last)?.[1] ?? "";
  return { missing: plainText(missing, SUBJECT_MAX), line: plainText(line, SUBJECT_MAX) };
}

/** What to do about a client that has ended; `delay`: s until it is started. */
type AfterDeath = { failures: number } &
  (Decision<"finish" | "park"> | Decision<"wait"> & { delay: number });

export function decideDeath(facts: DeathFacts, settings: Settings): AfterDeath {
  const { failures, starts, status, lived } = facts;
  if (facts.kind === "task" && status === 0) {
    return { do: "finish", why: "done (exit 0)", failures };
  }
  const missing = facts.missing && `${facts.missing} not found`;
  if (missing && !facts.ran) return { do: "park", why: missing, failures };
  if (status === EXIT_PERMANENT) return { do: "park", why: "exit 125 (do not restart)", failures };
  if (facts.blameless) return { do: "wait", why: "died together with others", delay: 0, failures };
  if (starts >= settings.parkAfter) {
    return { do: "park", why: missing || `${starts} starts in ` +
      `${minutes(1000 * settings.parkWindow)} without a healthy minute`, failures };
  }
  const healthy = lived >= settings.healthyAfter * 1000;
  const step = lived >= settings.restartReset * 1000 ? 0 : Math.max(failures, healthy ? 0 : 1);
  const delay = step === 0
    ? 0 : Math.min(settings.restartDelay * 2 ** (step - 1), settings.restartDelayMax);
  const how = missing || (status === null && facts.signal === undefined
    ? "its session was closed" : joined(": ", `ended (${endInWords(facts)})`, facts.line));
  return { do: "wait", why: how, delay, failures: step + 1 };
}

const hinderedText = ({ hindered }: Memory): string =>
  (hindered ? `not restarted: ${hindered}` : "");

/**
 * Ends a client for a restart, unless another could not be started: then it stays, and `hindered`
 * says why. The start waits, round by round, until all of it is gone. `note` comes before the end.
 */
async function endForRestart(
  cfg: Config, watch: Watch, agent: Agent, { pane, snap }: SeenAlive, why: string,
  blameless = false, note: () => unknown = () => {},
): Promise<void> {
  if (limitAhead(cfg, watch, agent)) return; // it could be started only once that is over
  const memory = memoryOf(watch, agent.name);
  const need = await unreadyNeed(cfg, agent, snap);
  const prevented = (agent.kind === "loop" && phaseTrouble(cfg)) || (need && unreadyText(need)) ||
    await whyIrreplaceable(cfg, snap, agent);
  memory.hindered = prevented || undefined;
  if (prevented) return;
  await note();
  Object.assign(memory, { idleSince: 0, sameSince: 0 });
  noteDeath(cfg, watch, agent, null, why, blameless);
  memory.buried = deathKey(watch.server, pane);
  await beginStopping(cfg, watch, agent, familyOf(cfg, agent.name, [groupOf(pane)]), pane);
}

/** Whom the watchdog's last signal reached; the next watchdog looks for them anew. */
const signalled = new WeakMap<Memory, Signalled>();

/**
 * Begins to end a unit's family, for the watchdog; `continueStopping` goes on, look by look. It is
 * stored before it is done, if the disk lets it. `pane`: null = only processes are left.
 */
async function beginStopping(
  cfg: Config, watch: Watch, unit: Unit, family: Family, pane: Pane | null,
): Promise<void> {
  const memory = memoryOf(watch, unit.name);
  const { groups, marks } = family;
  const group = groups[0] ?? membersOf(family).map(({ pid }) => ({ pid, born: "dead" }))[0];
  if (group && memory.life.state !== "stopping") {
    enterStopping(memory, { ...group, since: world.now(), marks });
    await saveOrLog(cfg, watch);
  }
  if (pane) {
    const [closed, ended] = await Promise.all([killSession(cfg, pane), endTurn(cfg, pane)]);
    if (ended) delete memory.conversation; // else the next start asks once more
    if (!closed) noteEnding(memory, { inPlace: true });
  }
  signalled.set(memory, signalFamilies([family], NOT_YET, 0));
}

/** The starts that count towards parking it, after a life of this many ms. */
const startsThatCount = (cfg: Config, memory: Memory, lived: number): number[] =>
  (lived >= HEALTHY_MINUTE ? [] : memory.starts.filter((at) =>
    at > world.now() - cfg.watchdog.parkWindow * 1000 && at <= world.now() + 1000));

export type DeathFacts = ReturnType<typeof deathOf>;

/** What the ladder goes by for a client that has ended, or would if it ended now. */
const deathOf = (
  cfg: Config, unit: Unit, memory: Memory, pane: Pane | null, lived: number, screen = "",
) => ({
  kind: isAgent(unit) ? unit.kind : "service" as const,
  status: pane?.status ?? null,
  signal: pane?.signal, // null = none that tmux names; undefined = its session was closed
  lived, // ms
  failures: memory.failures,
  starts: startsThatCount(cfg, memory, lived).length,
  blameless: false, // no fault of its own: many ended together, or its server was restarted
  ...unrunBy(pane ?? { status: null, backend: "" }, screen),
  ran: memory.ran === true, // here, before: a program that is missing now may just be updated
});

const deathKey = (server: string, pane: Pane): string => `${server} ${pane.id}`;

/** How long, ms, the client of a dead pane lived for certain: until it drew for the last time. */
const livedIn = ({ activity, created }: Pane): number => Math.max(0, activity - created);

/**
 * Goes up the ladder for one death, and says so. `pane`: its dead one, with its `screen`; null =
 * there is none.
 */
function noteDeath(
  cfg: Config, watch: Watch, unit: Unit, pane: Pane | null, why = "", blameless = false,
  screen = "",
): void {
  const memory = memoryOf(watch, unit.name);
  const now = world.now();
  const since = aliveSince(memory); // null = it died while no watchdog looked
  const lived = since !== null ? world.mono() - since : pane ? livedIn(pane) : 0;
  memory.starts = startsThatCount(cfg, memory, lived);
  const death = { ...deathOf(cfg, unit, memory, pane, lived, screen), blameless };
  const action = decideDeath(death, cfg.watchdog);
  memory.failures = action.failures;
  if (action.do === "finish") {
    // dated now: an `up` from before the end does not ask for another run
    enterDown(memory, { state: "done", at: now });
  } else if (action.do === "park") {
    park(cfg, memory, unit, why ? `${why} · ${action.why}` : action.why);
  } else {
    enterDown(memory, { state: "backoff", until: now + action.delay * 1000 });
    const later = action.delay ? ` in ${Math.round(action.delay)} s` : "";
    log(`${unit.name} (${unit.session}) ${why || action.why}; restarting${later}`);
  }
  emit(cfg, "down", { agent: unit.name, why: why || action.why, status: death.status });
}

function park(cfg: Config, memory: Memory, { name, session }: Unit, why: string): void {
  enterDown(memory, { state: "parked", why, at: world.now() });
  log(`${name} (${session}) is parked: ${why}; run "agents up ${name}" to start it again`);
  emit(cfg, "parked", { agent: name, why });
}

export function decideHeal(
  life: Life, now: number, longest = Infinity,
): Decision<"start" | "hold" | "wait"> {
  const down = downOf(life);
  if (down.state === "parked") return { do: "hold", why: `parked: ${down.why}` };
  if (down.state === "done") return { do: "hold", why: "done" };
  if (life.state === "stopping") return { do: "wait", why: "its old process is still ending" };
  // a pause longer than the ladder's longest was set by a clock that ran ahead
  if (down.state === "backoff" && down.until > now && down.until <= now + longest) {
    return { do: "wait", why: "backoff" };
  }
  return { do: "start", why: "" };
}

/** Sends the next signal to a family that was told to end, until all of it is gone. */
function continueStopping(cfg: Config, watch: Watch, unit: Unit): void {
  const memory = memoryOf(watch, unit.name);
  const old = endingOf(memory);
  if (!old) return;
  // a clock that was set back while no watchdog looked must not put the next signal off
  noteEnding(memory, { since: Math.min(old.since, world.now()) });
  const family = { room: cfg.room, groups: [old], marks: old.marks ?? [] };
  const before = signalled.get(memory) ?? NOT_YET;
  const now = signalFamilies([family], before, world.now() - old.since);
  signalled.set(memory, now);
  if (!now.left.length) {
    if (old.stuck) log(`${unit.name}: its old processes have ended`);
    enter(memory, downOf(memory.life));
  } else if (now.signal === "SIGKILL") {
    noteStuck(cfg, unit, memory, now.left);
  }
}

/** Says once that even SIGKILL did not end what must end before another client may start. */
function noteStuck(cfg: Config, unit: Unit, memory: Memory, left: Member[]): void {
  const { killed: first = Infinity, stuck } = endingOf(memory)!;
  const killed = Math.min(first, world.now());
  noteEnding(memory, { killed });
  if (world.now() - killed < KILLED_BY) return;
  const why = cannotEnd(left);
  if (!stuck) {
    log(`${unit.name} needs you: its old client ${why}; not starting another beside it`);
    emit(cfg, "blocked", { agent: unit.name, why, cure: "status" });
  }
  noteEnding(memory, { stuck: why });
}

/** Ends what outlived the session or the client of a unit. */
async function stopLeftOver(cfg: Config, watch: Watch, unit: Unit): Promise<void> {
  const memory = memoryOf(watch, unit.name);
  if (memory.life.state !== "stopping") {
    const left = await leftOver(cfg, watch, unit, [memory.client]);
    if (left) await beginStopping(cfg, watch, unit, left, null);
    else memory.client = null;
  }
  continueStopping(cfg, watch, unit);
}

/**
 * Of a unit that a person took down, only ends what outlived its client; of one that a command
 * works on, only what was told to end before: the command sees to the rest, and a client that it
 * has started and that has ended since is news once it lets go.
 */
async function leaveDown(cfg: Config, watch: Watch, unit: Unit, seen: Observation): Promise<void> {
  const memory = memoryOf(watch, unit.name);
  if (!seen.held) return void continueStopping(cfg, watch, unit);
  if (seen.alive === false && seen.pane) memory.buried = deathKey(seen.snap.server, seen.pane);
  if (!isOver(memory)) enterDown(memory, { state: "held" });
  if (seen.alive !== false) return;
  if (memory.client || endingOf(memory)) await stopLeftOver(cfg, watch, unit);
  noteState(cfg, watch, unit.name, "gone", BY_YOU);
}

/** A loop agent in a phase move, or after the last phase: only what was told to end is ended. */
function leaveAlone(cfg: Config, watch: Watch, agent: Agent): void {
  const memory = memoryOf(watch, agent.name);
  continueStopping(cfg, watch, agent);
  const isDown = aliveSince(memory) === null;
  if (isDown && downOf(memory.life).state === "backoff") enterDown(memory, DUE);
}

/** Heals an agent or service: what is gone is started, what is broken is ended and then started. */
export async function healOne(
  cfg: Config, watch: Watch, unit: Unit, seen: Observation,
): Promise<void> {
  const memory = memoryOf(watch, unit.name);
  if (seen.alive === null) return;
  if (seen.alive) {
    noteObstacle(cfg, watch, unit, "stranger", "");
    noteObstacle(cfg, watch, unit, "needs", "");
    if (endsInPlace(memory, seen.pane)) continueStopping(cfg, watch, unit);
    else if (isAgent(unit)) await healLiving(cfg, watch, unit, seen);
    return;
  }
  continueStopping(cfg, watch, unit);
  const death = seen.pane ? deathKey(seen.snap.server, seen.pane) : "";
  const isNews = aliveSince(memory) !== null ||
    (death !== "" && death !== memory.buried && !isOver(memory));
  if (memory.life.state !== "stopping" && isNews) {
    const screen = await lastScreen(cfg, seen.pane);
    if (seen.pane && isAgent(unit)) await noteFatalEnd(cfg, watch, unit, screen);
    // the end of one that exited is its own
    const cut = (seen.pane?.status ?? null) === null &&
      wasCutShort(await operatorOf(cfg), unit.name, memory.bootedAt);
    noteDeath(cfg, watch, unit, seen.pane, cut ? CUT_SHORT : "", cut || memory.together, screen);
    memory.buried = death;
    memory.together = false;
  }
  if (memory.client && !isOver(memory)) await stopLeftOver(cfg, watch, unit);
  const action = decideHeal(memory.life, world.now(), cfg.watchdog.restartDelayMax * 1000);
  if (action.do !== "start") return;
  // a start that this prevents is not counted as a death, and is tried again
  const obstacle = await obstacleTo(cfg, seen.snap, unit);
  noteObstacle(cfg, watch, unit, "stranger", obstacle);
  if (!obstacle) await startByWatchdog(cfg, watch, unit, seen);
}

/** Says once what only a person can clear away, and that it is over: `why` is "" then. */
function noteObstacle(
  cfg: Config, watch: Watch, { name }: Unit, kind: "stranger" | "needs" | "wake text", why: string,
): void {
  const label = `${kind} ${name}`;
  if (why && !watch.volatile.errors[label]) {
    emit(cfg, "blocked", { agent: name, why, cure: "status" });
  }
  trouble(watch, label, why && `${name} needs you: ${why}`);
}

/** A client that ended at once may say why: a resume id that led there twice is not used again. */
async function noteFatalEnd(
  cfg: Config, watch: Watch, agent: Agent, screen: string,
): Promise<void> {
  const verdict = readingFor(cfg, agent, () =>
    detect(rulesOf(backendOf(cfg, agent)), { text: screen, title: "" }, world.now()));
  if (verdict.verdict === "fatal") await noteFatal(cfg, watch, agent, verdict.why);
}

/** The second fatal error within the window discards the resume id. */
async function noteFatal(cfg: Config, watch: Watch, agent: Agent, why: string): Promise<void> {
  const memory = memoryOf(watch, agent.name);
  const again = isRecent(memory.lastFatal, cfg.watchdog.parkWindow * 1000);
  memory.lastFatal = world.now();
  if (again) await dropResumeId(cfg, agent);
  log(`FATAL: ${agent.name} (${agent.session}): ${why}`);
  emit(cfg, "fatal", { agent: agent.name, why });
}

/** Whether an opencode client's service began after it did: its screen is out of date then. */
function serverIsNewer(cfg: Config, agent: Agent, snap: Snapshot, pane: Pane): boolean {
  const port = pane.conversation ? /:(\d+)/.exec(backendOf(cfg, agent).server)?.[1] : undefined;
  return port !== undefined && [...cfg.services.values()].some((service) => {
    const other = snap.panes.get(service.session);
    return other !== undefined && !other.dead && other.created > pane.created &&
      new RegExp(`\\b${port}\\b`).test(`${service.ready} ${service.command}`);
  });
}

async function healLiving(cfg: Config, watch: Watch, agent: Agent, seen: SeenAlive): Promise<void> {
  const memory = memoryOf(watch, agent.name);
  const { pane } = seen;
  const runs = backendMismatch(cfg, agent, pane)
    ? pane.backend || sessionCommand(seen.snap, agent.session) : "";
  const before = memory.mismatch;
  memory.mismatch = runs;
  // a pane without our mark shows what is in front just now: one look is not enough
  if (runs && runs === before) {
    return endForRestart(cfg, watch, agent, seen, `runs ${runs}, the config says ${agent.backend}`);
  }
  if (runs) return;
  // neither a screen that was not shown nor a silent server says that the server is back
  const hasAnswered = seen.verdict.rule !== "" &&
    (seen.verdict.rule !== "server" || seen.verdict.verdict !== "unsure");
  if (hasAnswered && (memory.serverDown || serverIsNewer(cfg, agent, seen.snap, pane))) {
    return endForRestart(cfg, watch, agent, seen, "its server was restarted", true,
      () => (memory.serverDown = false));
  }
  if (seen.verdict.verdict !== "fatal") return;
  if (!(await verdictStillHolds(cfg, watch, agent, seen))) return;
  const { why } = seen.verdict;
  await endForRestart(cfg, watch, agent, seen, `fatal: ${why}`, false,
    () => noteFatal(cfg, watch, agent, why));
}

/** ms after its keys until what is drawn is no longer the end of the dialog that they answered. */
const ANSWER_DRAWN = 2_000;

/**
 * Answers a dialog that the operator declared: on a fresh look, within the dialog alone (what an
 * agent quotes above it must not answer), once per appearance. One that reads the same is another
 * one if something was drawn after the end of the first. Keys that may not have come are sent again
 * if the dialog stands there for one more look.
 */
async function answerDialog(
  cfg: Config, watch: Watch, agent: Agent, { verdict, pane }: SeenAlive,
): Promise<void> {
  const memory = memoryOf(watch, agent.name);
  const backend = backendOf(cfg, agent);
  const label = `answer ${agent.name}`;
  const forget = (): void => {
    Object.assign(memory, { answered: "", answering: undefined });
    trouble(watch, label, "");
  };
  if (!["blocked", "limited"].includes(verdict.verdict)) return forget();
  if (!backend.answer.length || pane.inputOff) return;
  const fresh = await closeLook(cfg, agent, pane);
  if (fresh?.verdict.verdict !== verdict.verdict) return;
  if (memory.answering) return forget();
  const { look } = fresh.screen;
  const dialog = hasKnownBox(backend.kind) ? readRegions(look).dialog : tailOf(look.text, 8);
  const shown = Bun.hash(dialog ?? "").toString(36);
  const stands = memory.answered === shown &&
    pane.activity < (memory.answeredAt ?? Infinity) + ANSWER_DRAWN;
  const answer = stands ? null : declaredAnswer(cfg, agent, dialog ?? "");
  if (!answer) return;
  const [{ match, keys, max }, { answers }] = [answer, memory];
  if (answers >= max) {
    return trouble(watch, label, `${agent.name}: answered ${max} times, will not answer again`);
  }
  Object.assign(memory,
    { answered: shown, answeredAt: world.now(), answers: answers + 1, answering: true });
  await save(cfg, watch);
  log(`${agent.name}: answering ${show(match)} with ${keys.join(" ")}, as declared`);
  const carried = await sendKeys(cfg, pane, keys);
  if (carried !== null) memory.answering = undefined;
  if (carried === false) Object.assign(memory, { answered: "", answers });
  else emit(cfg, "answered", { agent: agent.name, match, keys });
}

/** The first declared answer that fits a dialog, with the words that it fits; null = none does. */
function declaredAnswer(cfg: Config, agent: Agent, dialog: string) {
  for (const answer of backendOf(cfg, agent).answer) {
    const match = readingFor(cfg, agent, () =>
      timed(answer.re, () => compiled(answer.re, "m").exec(dialog)?.[0]));
    if (match) return { ...answer, match };
  }
  return null;
}

/** What an ended client left on its screen; "" = there is no pane, or tmux does not show it. */
const lastScreen = async (cfg: Config, pane: Pane | null | undefined): Promise<string> =>
  (pane && await capturePane(cfg, pane)) ?? "";

/** A dead pane's text without tmux's line on how its client ended. */
const withoutEnd = (screen: string): string => screen.replace(/^Pane is dead.*$/gm, "");

const tailOf = (value: string, lines: number): string =>
  value.trimEnd().split("\n").filter((line) => line.trim()).slice(-lines).join("\n");

/**
 * All care for an agent: a declared answer to its dialog; then the limit, as a limited one must not
 * be restarted; then stall, heal.
 */
async function superviseAgent(
  cfg: Config, watch: Watch, agent: Agent, seen: Observation,
): Promise<void> {
  const memory = memoryOf(watch, agent.name);
  if (seen.alive && !endsInPlace(memory, seen.pane)) {
    await answerDialog(cfg, watch, agent, seen);
    if (await limitTick(cfg, watch, agent, seen.verdict)) {
      memory.idleSince = 0;
      return;
    }
    if (agent.watch === "heal+stall" && (await stallCheckOne(cfg, watch, agent, seen))) return;
  } else if (seen.alive === null) {
    // time that nobody saw does not count as idle
    Object.assign(memory, { idleSince: 0, sameSince: 0 });
  }
  await healOne(cfg, watch, agent, seen);
  if (seen.alive === false) {
    noteState(cfg, watch, agent.name, "gone", whyDown(cfg, watch, agent, memory));
  }
}

function whyDown(cfg: Config, watch: Watch, agent: Agent, memory: Memory): string {
  const down = downOf(memory.life);
  if (down.state === "parked") return down.why;
  if (down.state === "done") return "done";
  if (accountLimitOf(cfg, watch, agent)) return "waiting for the usage limit to end";
  return awaitsText(memory) || "restarting";
}

/** Starts a unit from the loop: only once what it needs is ready, and a batch at most per tick. */
async function startByWatchdog(
  cfg: Config, watch: Watch, unit: Unit, seen: Observation,
): Promise<void> {
  const memory = memoryOf(watch, unit.name);
  if (isAgent(unit) && unit.kind === "loop" && phaseTrouble(cfg)) return;
  if (isAgent(unit) && limitAhead(cfg, watch, unit)) return;
  if (watch.volatile.startsLeft <= 0) return;
  const { life } = memory;
  const since = life.state === "waiting" ? life.since : world.mono();
  const need = await notReady(cfg, unit, seen.snap, since);
  noteNeed(memory, need, since);
  noteObstacle(cfg, watch, unit, "needs",
    need && whyUnready(await operatorOf(cfg), unit, memory, world.now()));
  if (need) return;
  if (await mayNotStart(cfg, unit.name)) return; // taken down since the look
  await stopLeftOver(cfg, watch, unit);
  if (endingOf(memory)) return;
  watch.volatile.startsLeft -= 1;
  const done = await beginCounted(cfg, watch, unit, seen.snap);
  if (done.outcome === "untried") throw new Error(done.why);
  if (done.outcome !== "failed") return;
  log(`${unit.name}: could not be started: ${done.why}`);
  noteDeath(cfg, watch, unit, null, done.why);
}

/**
 * Starts a unit for the watchdog. The start is counted before it is made: a crash right after it
 * must not make it free. One that was not tried (see `Started`), or is forbidden, is not counted.
 */
async function beginCounted(
  cfg: Config, watch: Watch, unit: Unit, snap: Snapshot, options: StartOptions = {},
): Promise<Started> {
  const memory = memoryOf(watch, unit.name);
  const before = structuredClone(memory);
  noteStart(memory, options.cause === undefined);
  if (snap.panes.get(unit.session)?.pinned) memory.buried = ""; // another client dies in this pane
  await saveOrLog(cfg, watch);
  const done = await begin(
    cfg, watch, unit, snap, { ...options, onBoot: queueBoot(cfg, watch, unit.name) });
  const { starts, restarts } = before;
  if (["untried", "forbidden"].includes(done.outcome)) Object.assign(memory, before);
  if (done.outcome === "runs") Object.assign(memory, { starts, restarts });
  if (done.outcome === "failed") {
    enterDown(memory, DUE); // or its time in "starting" would count as a life
    memory.restarts = restarts;
  }
  return done;
}

/** `heals`: it is one of the day's restarts, if it ever ran before; what a move starts is none. */
function noteStart(memory: Memory, heals: boolean): void {
  if (heals) {
    const day = localDate(world.now());
    const count = memory.restarts.day === day ? memory.restarts.count : 0;
    memory.restarts = { day, count: count + (memory.bootedAt ? 1 : 0) };
  }
  memory.starts = [...memory.starts, world.now()].slice(-50);
  memory.bootedAt = world.now();
  enter(memory, { state: "starting", since: world.mono() });
  Object.assign(memory, { picture: "", outline: "", answers: 0 });
}

/** What a unit may have to wait for that has no name in the config. */
const SERVER = "the opencode server";
const awaitsText = ({ awaits }: Memory): string => (awaits ? `waits for ${awaits.need}` : "");
const unreadyText = (need: string): string => `it waits for ${need}, which is not ready`;

/** Which of the units that it needs is not ready, those `along` with it apart; "" = none. */
async function unreadyNeed(
  cfg: Config, unit: Unit, snap: Snapshot, along: Unit[] = [],
): Promise<string> {
  for (const need of unit.needs) {
    const other = unitsOf(cfg).get(need);
    if (!other || along.includes(other)) continue;
    if (!(await oncePerLook(snap, need, () => isReady(cfg, other, snap)))) return need;
  }
  return "";
}

/**
 * What a unit must wait for: another unit, by its name, or SERVER; "" = nothing. `since`: monotonic
 * ms since when it waits for its client's server; `connect_delay` is the longest.
 */
async function notReady(
  cfg: Config, unit: Unit, snap: Snapshot, since = world.mono(),
): Promise<string> {
  const need = await unreadyNeed(cfg, unit, snap);
  if (need || !isAgent(unit)) return need;
  const backend = backendOf(cfg, unit);
  if (backend.kind !== "opencode" || world.mono() - since >= backend.connectDelay * 1000) return "";
  const healthy = await oncePerLook(snap, backend.server,
    async () => isHealthy(await askHealth(backend)));
  return healthy ? "" : SERVER;
}

/** Notes what a start waits for, "" = nothing; `since`: as in `notReady`. */
function noteNeed(memory: Memory, need: string, since: number): void {
  if (need === SERVER) enter(memory, { state: "waiting", since });
  else if (memory.life.state === "waiting") enter(memory, DUE);
  if (memory.awaits?.need !== need) memory.awaits = need ? { need, since: world.now() } : undefined;
}

/** A start waits this long, ms, for what it needs before a person is told. */
const NEEDS_PATIENCE = 300_000;

/** Why a start has waited for too long; "" = it has not, or a person took down what it needs. */
function whyUnready(operator: Operator, unit: Unit, { awaits }: Memory, now: number): string {
  return !awaits || !unit.needs.includes(awaits.need) || isHeld(operator, awaits.need) ||
    now - awaits.since < NEEDS_PATIENCE ? "" : `not started: ${unreadyText(awaits.need)}`;
}

/** Whether a restart waits for a unit that a person took down: that person knows. */
const waitsForYou = (operator: Operator, { needs }: Unit, { hindered }: Memory): boolean =>
  needs.some((need) => isHeld(operator, need) && hindered === unreadyText(need));

const answersByLook = new WeakMap<Snapshot, Map<string, Promise<boolean>>>();

/** A server that hangs costs its deadline once per look, not once per agent that waits for it. */
const oncePerLook = (
  snap: Snapshot, what: string, ask: () => Promise<boolean>,
): Promise<boolean> =>
  answersByLook.getOrInsertComputed(snap, () => new Map()).getOrInsertComputed(what, ask);

/**
 * Runs `$1` and ends it after 4 s, with all that it started (without bash, it alone). Our deadline
 * of 5 s ends only the tmux client: what hangs would run on, joined by one more at each look.
 */
const WITH_DEADLINE = 'end() { kill -9 -- -"$1" || kill -9 "$1"; }; ' +
  'exec </dev/null >/dev/null 2>&1; ' +
  'set -m; /bin/sh -c "$1" & it=$!; (sleep 4; end $it) & limit=$!; ' +
  "wait $it; code=$?; end $limit; exit $code";

/** `ready` is a port, an address, or a command that exits with 0; without it, a living session. */
export async function isReady(cfg: Config, unit: Unit, snap: Snapshot): Promise<boolean> {
  if (sessionAlive(snap, unit.session) !== true) return false;
  const ready = unit.ready.trim();
  if (!ready) return true;
  if (/^\d+$/.test(ready)) {
    return (await world.http({ method: "CONNECT", url: `tcp://127.0.0.1:${ready}` })).ok;
  }
  if (/^https?:\/\//.test(ready)) {
    const answer = await world.http({ method: "GET", url: ready });
    // what asks its visitors to log in, here or elsewhere, is up
    return answer.ok || wantsPassword(answer) || (answer.status >= 300 && answer.status < 400);
  }
  return await codeOf(cfg, ready) === 0;
}

/** With what code a shell command ends, in the environment of the panes; undefined = in none. */
async function codeOf(cfg: Config, line: string): Promise<number | undefined> {
  const command = [SHELL, "-c", WITH_DEADLINE, "look", line].map(shellQuote).join(" ");
  const ran = await tmux(cfg, ["run-shell", noFormat(`exec ${command}`)]);
  return ran.ok ? 0 : ran.code;
}

/** That a start of an agent would not find its program; "" = it would, or only a start can tell. */
async function whyNoProgram(cfg: Config, agent: Agent): Promise<string> {
  const { bin, preamble } = backendOf(cfg, agent);
  const look = `${NEED_PROGRAM}\nneed ${bin.trim()}`;
  const script = [
    // whatever else a preamble does is not done for a program that is found without it
    ...(preamble ? [`(${look}\n) && exit`, preamble] : []),
    look,
  ].join("\n");
  const { PATH } = process.env; // tmux gives a pane that of its caller
  // what a preamble leaves in the background, such as an ssh-agent, ends with its client
  const mark = marksOf(cfg, agent.name) + newId();
  const own = { ...(PATH === undefined ? {} : { PATH }), ...agent.env, [UNIT_MARK]: mark };
  const variables = Object.entries(own).map(([key, value]) => `${key}=${value}`);
  const line = ["exec", "env", ...variables, ...inFolder(agent, script)].map(shellQuote).join(" ");
  return await codeOf(cfg, line) === NO_PROGRAM ? notFoundFor(cfg, agent, programOf(bin)) : "";
}

/**
 * Why nothing could take the place of a client that is ended, beside what it would wait for; "" =
 * something could, as far as anybody can tell.
 */
const whyIrreplaceable = async (cfg: Config, snap: Snapshot, unit: Unit): Promise<string> =>
  await obstacleTo(cfg, snap, unit) || (isAgent(unit) ? whyNoProgram(cfg, unit) : "");

// ── wake ────────────────────────────────────────────────────────────────────────
// Scheduled texts for persistent agents. A wake waits for an idle agent; those missed meanwhile, by
// a limit, a dialog or a suspended machine, come as one.

export function decideWake(
  due: number, now: number, alive: boolean | null, verdict: VerdictName,
): Decision<"none" | "hold" | "wake"> {
  if (now < due) return { do: "none", why: "" };
  if (!alive) return { do: "hold", why: "not running" };
  return verdict === "idle" ? { do: "wake", why: "scheduled wake" } : { do: "hold", why: verdict };
}

/** Queues the text of an agent's wake once that is due and the agent idle. */
export async function wakeAgent(
  cfg: Config, watch: Watch, agent: Agent, seen: Observation,
): Promise<void> {
  if (!agent.wake) return;
  const now = world.now();
  const interval = agent.wake.interval * 1000;
  const stored = watch.wakeDue[agent.name];
  // a clock that was stepped back must not put a wake off for longer than its interval
  const due = stored === undefined || stored > now + interval ? now + interval : stored;
  watch.wakeDue[agent.name] = due;
  const action = decideWake(due, now, seen.alive,
    whyLimited(cfg, agent, seen, "wake") ? "limited" : seen.verdict.verdict);
  if (action.do !== "wake") return;
  const { promptFile } = agent.wake;
  const value = renderLine(cfg, promptFile, variablesOf(cfg, agent));
  noteObstacle(cfg, watch, agent, "wake text",
    value ? "" : `not woken: no text can be read in ${absolute(cfg.planDir, promptFile)}`);
  if (!value) return;
  log(`waking ${agent.name} (${agent.session}) for its scheduled pass`);
  enqueue(watch, agent.name, "wake", value);
  watch.wakeDue[agent.name] = now + interval;
  await save(cfg, watch);
}

// ── handoff signalling ──────────────────────────────────────────────────────────
// The pair talks through commits: a claim is told to the adversary, a review to the builder, a
// changed inbox to its reader. What was seen and the text about it are stored in one write.
// A channel that does not work is reported: otherwise its silence would look like "nothing new".
//
// The path of a claim, from its push until the other side has it:
//
//   startFetch        beside the rounds `readRemote` looks at the remote's head; if it moved,
//                     `fetchHead` fetches it and `commitsSince` lists what is new
//   handoffCheck      a small round at once, else the next one: `decideHandoff` says which commits
//                     are news and to whom, `announceCommits` queues one text for all of them;
//                     text and commits are stored in one write
//   deliverAll        the end of the same round: `nextMessages` takes one text per target, and
//                     `deliver` asks what no screen shows (`whyUntold`, `whyLimited`)
//   pingSession       by a close look each time: `decideTyping`, `paste`, `submit`, `whatBecame`,
//                     each step stored before it is taken; for opencode `tellServer` instead
//   noteDelivery      what became of it; the client's own record, the screen above its box or its
//                     server proves it. The next round retries what waits or failed

/** Forgets whose turn it was; what was seen and is still to be said is kept, not to be lost. */
export function handoffReset(watch: Watch): void {
  watch.turn = null;
  delete watch.owedSince;
  watch.deadlocked = "";
  watch.volatile.quietSince = 0;
}

/** The head up to which this channel was handled; "" = none: what another one had says nothing. */
const baselineOf = ({ sha, shaOf }: Pick<Watch, "sha" | "shaOf">, hand: Handoff): string =>
  (["", channelOf(hand)].includes(shaOf) ? sha : "");

/** Who is told of a claim, or of a review, and who makes it. */
const readerOf = (cause: Cause, hand: Handoff): string => hand[`${cause}Pings` as const];
const authorOf = (cause: Cause, hand: Handoff): string =>
  readerOf(cause === "claim" ? "review" : "claim", hand);

/** The key of a commit together with what it changes: an amended commit has another. */
const changeKey = ({ key, change }: Commit): string => `${key}.${change}`;

/** Whether it is known what a commit changes, if it can be: by that alone an amended one is new. */
const isCompared = ({ change }: Commit): boolean => change !== null;

/** What new commits ask to be said, oldest first: every claim and every review among them. */
export function decideHandoff(commits: Commit[], keys: string[], hand: Handoff) {
  const known = new Set(keys);
  // of a commit that an older version handled only the key is known: that is enough
  const compared = new Set(keys.filter((key) => key.includes("."))
    .map((key) => key.split(".")[0]!));
  const isNew = (commit: Commit) => !(commit.rewritten || known.has(commit.key)) ||
    (typeof commit.change === "string" && compared.has(commit.key) &&
      !known.has(changeKey(commit)));
  return commits.filter(isNew).flatMap(({ subject, sha }) =>
    causesOf(subject, hand).map((cause) =>
      ({ cause, subject, sha, target: readerOf(cause, hand) })));
}

/** All that a tick wants to know of the remote, read beside it, each command with its deadline. */
async function readRemote(cfg: Config, hand: Handoff, watch: Watch): Promise<Fetched> {
  const { handled } = watch.volatile;
  const sha = baselineOf(watch, hand);
  // the first look of a watchdog compares once more what an older version saw
  const learned = watch.seen.some((key) => key.includes("."));
  const fetched = await fetchHead(cfg, hand, sha);
  const { head } = fetched;
  const phase = watch.volatile.unread ? knownPhase(cfg) : null;
  if (phase) await notePhaseDone(cfg, watch, phase.status); // it may be readable again
  if (!head || (sha && head === handled)) return fetched;
  const commits = head === sha && learned
    ? [] : await commitsSince(hand, head === sha ? "" : sha, head);
  if (typeof commits === "string") return { ...unreadable(fetched, commits), head: "" };
  const inboxes = await showPushed(hand, ...hand.inboxes.slice(0, 2));
  const failed = [...inboxes.values()].find((shown) => shown.state === "failed");
  const why = failed?.why ??
    (commits.every(isCompared) ? "" : "git show: no answer in time");
  return { ...unreadable(fetched, why), news: { commits, inboxes } };
}

/** One look at a time, beside the tick; none while there is nothing left to hand over. */
function startFetch(cfg: Config, watch: Watch): void {
  const { volatile } = watch;
  const hand = cfg.loop.handoff;
  if (!hand || volatile.fetch) return;
  if (isComplete(cfg)) {
    watch.channel = null; // how it was when somebody looked last would be shown for ever
    delete volatile.errors.git;
    return;
  }
  volatile.fetch = readRemote(cfg, hand, watch)
    .catch((error) => failedLook(cfg, hand, "ls-remote",
      { ok: false, out: "", err: messageOf(error), timedOut: false }))
    .then((found) => void (volatile.fetched = found))
    .finally(() => (volatile.fetch = null));
}

/** Before anything starts: says what keeps hand-offs from working, and takes the first baseline. */
async function checkChannel(cfg: Config): Promise<void> {
  const hand = cfg.loop.handoff;
  if (!hand || isComplete(cfg)) return;
  const sha = baselineOf(await loadWatch(cfg), hand);
  const isFirst = !sha && !isHeldBySomebody(cfg, "watchdog");
  const asked = isFirst ? takeBaseline(cfg, hand) : inspectChannel(cfg, hand, sha);
  if (!(await within(2_000, asked, null))) {
    log(`hand-off: waiting for an answer of ${hand.remote} (${hand.repo})`);
  }
  const found = await asked;
  if (found.why) log(`hand-off: ${channelText(found)}`);
}

/**
 * The very first start begins at the head as it stands before any agent can push. Where nobody can
 * say what it is, the time is noted instead: commits made after that are news. git may take its
 * minutes, so it is asked before the lock is taken.
 */
async function takeBaseline(cfg: Config, hand: Handoff): Promise<Fetched> {
  const since = world.now();
  const fetched = await fetchHead(cfg, hand, "");
  const { head } = fetched;
  const commits = head ? await commitsSince(hand, "", head) : [];
  const found = typeof commits === "string" ? unreadable(fetched, commits) : fetched;
  // another command may be writing the memory
  await byHand(cfg, 30_000, async () => {
    const watch = await loadWatch(cfg);
    if (baselineOf(watch, hand)) return; // another command took it meanwhile
    if (typeof commits === "string" || (!head && found.state !== "empty")) {
      const told = watch.channel?.told ?? false; // people are told by the watchdog
      watch.channel = { ...decideChannel(watch.channel, found, since), told };
    } else noteCommits(watch, hand, commits, head || NO_COMMIT);
    await save(cfg, watch);
  });
  return found;
}

function noteCommits(watch: Watch, hand: Handoff, commits: Commit[], head: string): void {
  const keys = commits.flatMap((commit) =>
    typeof commit.change === "string" ? [commit.key, changeKey(commit)] : [commit.key]);
  const fresh = new Set(keys);
  // a claim or a review has two
  watch.seen = [...watch.seen.filter((key) => !fresh.has(key)), ...fresh]
    .slice(-4 * RECENT_MAX);
  // the very first commit is no claim that somebody has to answer
  if (head === NO_COMMIT) watch.deadlocked = head;
  watch.sha = head;
  watch.shaOf = channelOf(hand);
}

const isBad = (state: ChannelState): boolean => state === "branch missing" || state === "failing";
const channelText = ({ why, cure }: { why: string; cure: string }): string =>
  (cure ? `${why}; ${cure}` : why);

/**
 * How the channel is after one more look. People are told at the second bad look in a row, or at a
 * first one that used up git's deadline: what passes within one tick wakes nobody, and what lasts
 * is told before the third.
 */
export function decideChannel(before: Channel | null, found: Fetched, now: number): Channel {
  const { state } = found;
  const of = channelOf(found.hand);
  if (!isBad(state)) {
    return before?.state === state ? { ...before, of }
      : { of, state, why: found.why, cure: found.cure, since: now, told: false };
  }
  const wasBad = before !== null && isBad(before.state);
  // a port or an age that differs is no news
  const numberless = (said: string) => said.replace(/\d+/g, "#");
  const same = wasBad && before.state === state && numberless(before.why) === numberless(found.why);
  const { why, cure } = same ? before : found;
  return { of, state, why, cure, since: wasBad ? before.since : now, told: wasBad || found.hung };
}

/** Notes what a look found; tells people that hand-offs do not work, and that they do again. */
function noteChannel(cfg: Config, watch: Watch, found: Fetched): void {
  const before = watch.channel;
  const channel = decideChannel(before, found, world.now());
  watch.channel = channel;
  trouble(watch, "git", isBad(channel.state) ? `hand-off: ${channelText(channel)}` : "");
  const news = { from: before?.told ? before.state : "ok", to: channel.state };
  if (channel.told && news.from !== news.to) {
    emit(cfg, "handoff", { ...news, why: channelText(channel) });
  } else if (before?.told && !channel.told) {
    const why = `working again after ${minutes(world.now() - before.since)}`;
    log(`hand-off: ${why}`);
    emit(cfg, "handoff", { ...news, why });
  }
}

/** Looks at what the last fetch brought and queues what is to be said about it. */
export async function handoffCheck(cfg: Config, watch: Watch): Promise<void> {
  const hand = cfg.loop.handoff;
  const { volatile } = watch;
  const { fetched } = volatile;
  volatile.fetched = null;
  if (!hand || fetched?.hand !== hand) return; // the next look goes by the config that holds now
  const before = watch.channel;
  noteChannel(cfg, watch, unreadable(fetched, volatile.unread));
  if (!isBad(watch.channel!.state)) watch.owedSince ??= world.now();
  const baseline = baselineOf(watch, hand);
  if (fetched.state === "empty" && !baseline) noteCommits(watch, hand, [], NO_COMMIT);
  if (!fetched.news) return;
  const { commits, inboxes } = fetched.news;
  // without a baseline this head becomes it: news is only what was made while none could be taken
  const blindSince = before && isBad(before.state) ? before.since : Infinity;
  const news = baseline === fetched.head ? []
    : baseline ? commits : commits.filter(({ at = 0 }) => at + 1000 > blindSince);
  const announced = decideHandoff(news, watch.seen, hand);
  const sure = checkInboxes(cfg, watch, hand, inboxes);
  for (const { cause, subject, sha } of announced) {
    emitStored(watch, "commit", { agent: authorOf(cause, hand), kind: cause, subject, sha });
    endStalls(memoryOf(watch, authorOf(cause, hand)));
  }
  for (const cause of CAUSES) {
    const subjects = announced.filter((one) => one.cause === cause).map(({ subject }) => subject);
    if (subjects.length) announceCommits(cfg, watch, hand, cause, subjects);
  }
  const last = announced.at(-1);
  if (last) {
    watch.turn = { owes: last.target, subject: last.subject, at: world.now() };
    watch.owedSince = world.now();
  }
  // where git did not answer they are compared once more, if there is anything to compare with
  const compared = commits.every(isCompared);
  noteCommits(watch, hand, commits, compared || !baseline ? fetched.head : baseline);
  await save(cfg, watch);
  if (sure && compared) volatile.handled = fetched.head;
}

/** One text for all claims, or all reviews: of this push, and those not told yet; it names ten. */
function announceCommits(
  cfg: Config, watch: Watch, hand: Handoff, cause: Cause, announced: string[],
): void {
  const target = readerOf(cause, hand);
  const waiting = watch.outbox.find((message) =>
    message.target === target && message.cause === cause && !wasPasted(message));
  // an older version stored the text alone: it is told beside the new one
  if (waiting && !waiting.subjects) waiting.cause = `earlier ${cause}`;
  const all = [...(waiting?.subjects ?? []), ...announced];
  const subjects = all.slice(-10);
  const more = (waiting?.more ?? 0) + all.length - subjects.length;
  const subject = nameCommits(cause, subjects, more);
  log(`handoff: ${subject} → ${target}`);
  const variables = { ...variablesOf(cfg, cfg.agents.get(target)!), subject,
    from: authorOf(cause, hand) };
  enqueue(watch, target, cause, renderLine(cfg, typedFile(`${cause}-ping`), variables));
  Object.assign(watch.outbox.at(-1)!, { subjects, ...(more ? { more } : {}) });
}

/** One subject as it stands; of several their number and each, `more` earlier ones only counted. */
function nameCommits(cause: Cause, subjects: string[], more: number): string {
  const all = subjects.length + more;
  if (all === 1) return subjects[0]!;
  return `${all} ${cause}s, each to be answered: ${subjects.join("; ")}` +
    (more ? `; and ${more} more before them` : "");
}

/** Queues a text for each inbox whose content changed; false = git could not say, look again. */
function checkInboxes(
  cfg: Config, watch: Watch, hand: Handoff, inboxes: Map<string, PushedFile>,
): boolean {
  let sure = true;
  for (const [nth, [file, shown]] of [...inboxes].entries()) {
    // the head is known: a clone without the branch was disturbed in between
    if (shown.state === "failed" || shown.state === "no branch") sure = false;
    // its reader deleted or emptied it: the same text is news when it comes again
    const isEmpty = shown.state === "absent" ||
      (shown.state === "found" && !shown.object && !shown.text.trim());
    if (isEmpty) delete watch.inboxes[file];
    if (isEmpty || shown.state !== "found") continue;
    const hash = shown.object || new Bun.CryptoHasher("md5").update(shown.text).digest("hex");
    if (watch.inboxes[file] === hash) continue;
    const owner = readerOf(CAUSES[nth]!, hand);
    log(`handoff: ${file} changed → ${owner}`);
    const size = shown.size > 1_000_000
      ? ` (${(shown.size / 1e6).toFixed(1)} MB: look before you read it whole)` : "";
    const variables = { ...variablesOf(cfg, cfg.agents.get(owner)!),
      file: join(hand.docsDir, file) + size, owner };
    enqueue(watch, owner, `inbox ${file}`, renderLine(cfg, typedFile("inbox-ping"), variables));
    watch.inboxes[file] = hash;
  }
  return sure;
}

/** Whose commit comes next: without any in this phase it is the claim of the first. */
const owesCommit = ({ turn }: Watch, hand: Handoff): string =>
  turn?.owes ?? authorOf("claim", hand);

/** Both sides rest, nothing is on its way, the phase not done: who owes the next commit is told. */
export function decideDeadlock(
  verdicts: VerdictName[], pending: number, quietFor: number, after: number,
): boolean {
  const resting = verdicts.length > 1 && verdicts.every((verdict) => verdict === "idle");
  return resting && pending === 0 && quietFor >= after;
}

async function deadlockCheck(cfg: Config, watch: Watch, observations: Observations): Promise<void> {
  const hand = cfg.loop.handoff;
  if (!hand || watch.intent || isComplete(cfg) || phaseTrouble(cfg)) return;
  if (!watch.channel || isBad(watch.channel.state)) return; // the commit may have come
  const sides = CAUSES.map((cause) => readerOf(cause, hand));
  const verdicts = sides.map((name) => {
    const [agent, seen] = [cfg.agents.get(name), observations.get(name)];
    if (!agent || !seen) return "unsure";
    return whyLimited(cfg, agent, seen, "deadlock") ? "limited" : seen.verdict.verdict;
  });
  const pending = watch.outbox.filter((message) => sides.includes(message.target)).length;
  const resting = decideDeadlock(verdicts, pending, 0, 0);
  const { volatile } = watch;
  volatile.quietSince = resting ? volatile.quietSince || world.mono() : 0;
  const quiet = resting ? (world.mono() - volatile.quietSince) / 1000 : 0;
  if (!decideDeadlock(verdicts, pending, quiet, cfg.loop.deadlockAfter) ||
      watch.deadlocked === watch.sha) return;
  const phase = curPhase(cfg);
  if (phase && (await notePhaseDone(cfg, watch, phase.status)) !== false) return;
  const owes = owesCommit(watch, hand);
  const subject = watch.turn?.subject ?? "nothing has been claimed yet";
  const reason = `both sides have been idle for ${minutes(1000 * quiet)}, ` +
    `nothing is on its way, the last word was: ${subject}`;
  log(`deadlock: ${reason} → ${owes}`);
  const variables = { ...variablesOf(cfg, cfg.agents.get(owes)!), reason, subject };
  enqueue(watch, owes, "deadlock", renderLine(cfg, typedFile("deadlock-ping"), variables));
  watch.deadlocked = watch.sha;
  emitStored(watch, "deadlock", { agent: owes, why: reason });
  await save(cfg, watch);
}

// ── phase advance ───────────────────────────────────────────────────────────────
// A move is an intent on disk: stop the loops, store the phase, start them with its texts. Each
// step can be repeated, so a crash at any of them is mended by doing them all again.

export const loopAgents = (cfg: Config): Agent[] =>
  [...cfg.agents.values()].filter((agent) => agent.kind === "loop" && agent.enabled);

/** Whether a loop's pane does not belong to this move yet. */
const isOfOldPhase = (pane: Pane, move: string): boolean =>
  (pane.dead ? !pane.pinned : pane.cause !== move);

/** Ends the loops that do not belong to this move yet. */
export async function stopLoops(
  cfg: Config, watch: Watch, snap: Snapshot, move: string,
): Promise<void> {
  for (const agent of loopAgents(cfg)) {
    const memory = memoryOf(watch, agent.name);
    const pane = snap.panes.get(agent.session);
    if (pane && isOfOldPhase(pane, move)) {
      if (memory.life.state !== "stopping") log(`ending ${agent.session}`);
      await beginStopping(cfg, watch, agent, familyIn(cfg, pane), pane);
    }
    if (pane) continueStopping(cfg, watch, agent);
    else await stopLeftOver(cfg, watch, agent);
  }
}

/** Whether nothing of the loops is left from before this move, as far as this look shows. */
const areLoopsGone = (cfg: Config, watch: Watch, { panes }: Snapshot, move: string): boolean =>
  loopAgents(cfg).every(({ name, session }) => {
    const pane = panes.get(session);
    return !(pane && isOfOldPhase(pane, move)) && !endingOf(memoryOf(watch, name));
  });

export async function startLoops(
  cfg: Config, watch: Watch, snap: Snapshot, move: string,
): Promise<void> {
  for (const agent of loopAgents(cfg)) {
    if (await mayNotStart(cfg, agent.name) || sessionAlive(snap, agent.session)) continue;
    const memory = memoryOf(watch, agent.name);
    memory.failures = 0;
    enterDown(memory, DUE);
    // a round starts it, in its new phase, once its limit is over: if it is watched
    if (isWatched(agent) && limitAhead(cfg, watch, agent)) continue;
    const done = await beginCounted(cfg, watch, agent, snap, { cause: move });
    if (!done.why) continue;
    log(`${agent.name}: could not be started: ${done.why}`);
    if (!isWatched(agent)) {
      emit(cfg, "blocked", { agent: agent.name, why: `not started: ${done.why}`, cure: "up" });
    }
  }
}

export function decideAdvance(
  idx: number, total: number, done: boolean, complete: boolean,
): "none" | "advance" | "complete" {
  if (!done) return "none";
  if (idx + 1 < total) return "advance";
  return complete ? "none" : "complete";
}

/**
 * On the heavy tick: begins a move when the current phase is DONE. A complete sequence stays
 * complete until the operator appends a phase: then the loops go on with that.
 */
export async function phaseAdvanceCheck(cfg: Config, watch: Watch): Promise<void> {
  const isUnstored = (): boolean =>
    world.mtime(cfg.stateDir) !== null && world.mtime(phaseIdFile(cfg)) === null;
  // a person may have set the phase since the look
  if (isUnstored()) await readState(cfg);
  if (phaseTrouble(cfg)) return;
  // the phase that the loops are in is that one still where the config lists it elsewhere later
  if (isUnstored()) await storePhase(cfg, curIdx(cfg), isComplete(cfg) || undefined);
  if (!phases(cfg).length || !cfg.loop.autoAdvance || watch.intent) return;
  const [list, idx] = [phases(cfg), curIdx(cfg)];
  const phase = list[idx]!;
  const done = await notePhaseDone(cfg, watch, phase.status) === true;
  const next = decideAdvance(idx, list.length, done, isComplete(cfg));
  if (next === "none") return;
  const to = next === "advance" ? list[idx + 1]!.id : "";
  log(to ? `PHASE ${phase.id} DONE, moving on to ${to}`
    : `PHASE SEQUENCE COMPLETE (${phase.id} DONE), stopping the loops`);
  watch.intent = { id: newId(), from: phase.id, to,
    run: to ? "" : triggered(cfg), at: world.now() };
  await save(cfg, watch);
}

const triggerFile = (cfg: Config): string =>
  absolute(cfg.logDir, cfg.loop.onComplete?.triggerFile ?? "");

/** The task to run on completion: only where the operator asked for it by the trigger file. */
function triggered(cfg: Config): string {
  const { onComplete } = cfg.loop;
  return onComplete && world.mtime(triggerFile(cfg)) !== null ? onComplete.run : "";
}

/** Why a move under way no longer makes sense; "" = it does. */
export function decideDrop(
  intent: { from: string; to: string }, here: string, list: Phase[],
): string {
  if (here !== intent.from && here !== intent.to) return "the phase was set by hand";
  return intent.to && !list.some((phase) => phase.id === intent.to)
    ? "it is not in the config any more" : "";
}

/** A move is over, whatever became of it: what it waited for is no trouble any more. */
function endMove(watch: Watch): void {
  watch.intent = null;
  trouble(watch, "on_complete", "");
}

/** Drops a move that makes no sense any more; true = it goes on. */
async function confirmMove(
  cfg: Config, watch: Watch, intent: { from: string; to: string },
): Promise<boolean> {
  await readState(cfg); // a person may have set the phase since the look
  if (phaseTrouble(cfg)) return false; // nor dropped: nobody has set what cannot be read
  const dropped = decideDrop(intent, curPhase(cfg)?.id ?? "", phases(cfg));
  if (!dropped) return true;
  log(`phase move ${intent.from} → ${intent.to || "the end"} is dropped: ${dropped}`);
  endMove(watch);
  await save(cfg, watch);
  return false;
}

/** Does the steps of a move that are still to be done; called until it clears the intent. */
async function continueMove(cfg: Config, watch: Watch, snap: Snapshot): Promise<void> {
  const { intent } = watch;
  if (!intent || !snap.ok || !(await confirmMove(cfg, watch, intent))) return;
  await stopLoops(cfg, watch, snap, intent.id);
  if (!areLoopsGone(cfg, watch, snap, intent.id)) return;
  if (!(await confirmMove(cfg, watch, intent))) return; // ending them took its time
  if (intent.to) {
    const idx = phases(cfg).findIndex((phase) => phase.id === intent.to);
    await storePhase(cfg, idx);
    world.remove(completeFile(cfg));
    handoffReset(watch);
    await startLoops(cfg, watch, snap, intent.id);
  } else {
    if (!(await runOnComplete(cfg, watch, snap, intent))) return;
    // whoever starts them again, it is no restart
    for (const { name } of loopAgents(cfg)) memoryOf(watch, name).bootedAt = 0;
    await storePhase(cfg, curIdx(cfg), true);
    await world.writeAtomic(completeFile(cfg),
      `phase sequence complete ${dateAndTime(world.now())}; the loops are stopped\n`);
    // by then [loop.on_complete] may be gone, or ask for another task
    if (intent.run && triggered(cfg) === intent.run) world.remove(triggerFile(cfg));
  }
  endMove(watch);
  if (intent.to) emitStored(watch, "phase", { from: intent.from, to: intent.to });
  else emitStored(watch, "complete", { phase: intent.from, why: "all phases are done" });
  await save(cfg, watch);
}

/** Starts the task once: its pane carries the move's mark, also after it has ended. */
async function runOnComplete(
  cfg: Config, watch: Watch, snap: Snapshot, intent: { id: string; run: string },
): Promise<boolean> {
  const agent = cfg.agents.get(intent.run);
  if (intent.run && !agent) {
    const why = `on_complete: ${NO_AGENT}; it was not started`;
    log(`${intent.run} needs you: ${why}`);
    emit(cfg, "blocked", { agent: intent.run, why, cure: "status" });
  }
  if (!agent || snap.panes.get(agent.session)?.cause === intent.id) return true;
  const memory = memoryOf(watch, agent.name);
  const down = downOf(memory.life);
  const { restartDelay, restartDelayMax } = cfg.watchdog;
  const longest = Math.max(restartDelay, restartDelayMax) * 1000;
  if (decideHeal(down, world.now(), longest).do === "wait") return false;
  if (isHeld(await operatorOf(cfg), agent.name)) {
    log(`on_complete: ${agent.name} is not started: ${BY_YOU}`);
    return true;
  }
  const prevented =
    sessionAlive(snap, agent.session) && await whyIrreplaceable(cfg, snap, agent);
  if (!prevented) log(`on_complete: starting ${agent.name}`);
  memory.failures = 0;
  const done = prevented ? { outcome: "failed", why: prevented }
    : await beginCounted(cfg, watch, agent, snap, { force: true, cause: intent.id });
  if (done.outcome === "started") return true;
  enterDown(memory, { state: "backoff", until: world.now() + restartDelay * 1000 });
  trouble(watch, "on_complete",
    `on_complete: ${agent.name} could not be started: ${done.why}; it will be retried`);
  return false;
}

// ── watchdog loop ───────────────────────────────────────────────────────────────
// Looking takes two tmux clients per tick whatever the number of agents, one if nothing was drawn;
// what is typed, started or looked at closely takes more. The care of each unit and each later
// stage has a guard of its own: an error concerns that one alone and is logged once. One in the
// look itself ends that round, never the supervision.

export const watched = (cfg: Config): Agent[] => [...cfg.agents.values()].filter(isWatched);

/** Notes who is held; what `up` released is no longer parked, done, held or backing off. */
async function applyReleases(cfg: Config, watch: Watch): Promise<void> {
  const { held, released } = await operatorOf(cfg);
  watch.held = held;
  for (const [name, at] of Object.entries(released)) {
    const memory = watch.agents[name];
    if (!memory || at === memory.releasedAt) continue;
    const down = downOf(memory.life);
    if ("at" in down && at <= down.at && down.at <= world.now()) continue;
    Object.assign(memory, { failures: 0, starts: [], releasedAt: at });
    endStalls(memory);
    if (aliveSince(memory) === null) enterDown(memory, DUE);
  }
}

/** A busy round may take this long, ms: longer than many intervals, and still no gap. */
const LONG_ROUND = 60_000;

/** After a suspend or a clock step: idle clocks start anew, and no wait grows by the step. */
function noteGap(cfg: Config, watch: Watch): void {
  const { volatile } = watch;
  const [mono, now] = [world.mono(), world.now()];
  const gap = Math.max(mono - volatile.lastTick, now - volatile.lastNow);
  const step = now - volatile.lastNow - (mono - volatile.lastTick);
  const setBack = step < -CLOCK_STEP;
  if (volatile.ticks > 0 &&
      (gap > Math.max(3 * cfg.watchdog.signalInterval * 1000, LONG_ROUND) || setBack)) {
    log(`${Math.round(gap / 1000)} s since the last tick: idle timers restarted`);
    volatile.quietSince = 0;
    for (const memory of Object.values(watch.agents)) {
      Object.assign(memory, { idleSince: 0, sameSince: 0, drawStamp: undefined,
        unrest: null, backgroundSince: memory.backgroundSince && now });
      if (memory.verdict === "unsure" && memory.since) memory.since = now;
      if (setBack) enter(memory, shifted(memory.life, step));
    }
    if (setBack) {
      takeBack({ ...watch, volatile: null });
      for (const name of Object.keys(watch.wakeDue)) watch.wakeDue[name]! += step;
    }
  }
  volatile.lastTick = mono;
  volatile.lastNow = now;
  volatile.ticks += 1;
}

/**
 * Tells people once of each client that runs and is not in the config: a look shows them, whenever
 * they left it, also while no watchdog ran.
 */
function noteOrphans(cfg: Config, watch: Watch, snap: Snapshot): void {
  if (!snap.ok) return;
  const names = orphansOf(cfg, snap).filter(({ pane }) => !pane.dead).map(({ name }) => name);
  const fresh = names.filter((name) => !watch.orphans.includes(name));
  if (fresh.length) log(`no longer in the config, left running: ${fresh.join(", ")}`);
  for (const agent of fresh) {
    emitStored(watch, "orphan", { agent, cure: `down ${agent}`,
      why: "it left the config; its client is left running, and nobody watches it" });
  }
  watch.orphans = names;
}

/**
 * What a tick does for the fleet as a whole, before any unit: hand-offs, and on its own, longer
 * interval the heavy part (phase advance, old texts).
 */
async function tendFleet(cfg: Config, watch: Watch, observations: Observations): Promise<void> {
  const { volatile } = watch;
  const [first] = observations.values();
  trouble(watch, "tmux", first && !first.snap.ok ? `tmux: ${first.snap.why}` : "");
  trouble(watch, "rows", first?.snap.refused
    ? `${first.snap.refused} panes have names that break tmux's list: left alone` : "");
  if (first) noteOrphans(cfg, watch, first.snap);
  const hasLoops = loopAgents(cfg).length > 0;
  if (hasLoops) {
    if (volatile.fetched) await guard(watch, "hand-off", () => handoffCheck(cfg, watch));
    await guard(watch, "fetch", () => startFetch(cfg, watch));
  }
  if (world.mono() - volatile.lastHeavy >= cfg.watchdog.heavyInterval * 1000) {
    volatile.lastHeavy = world.mono();
    if (hasLoops && !phaseTrouble(cfg)) {
      await guard(watch, "phase", () => phaseAdvanceCheck(cfg, watch));
    }
    await guard(watch, "messages", () => sweepTexts(cfg, watch));
  }
  await guard(watch, "logs", () => keepLogs(cfg, watch, observations));
}

/** The texts that a tick finds due: none once all phases are done, or where nobody can say so. */
async function remindFleet(cfg: Config, watch: Watch, observations: Observations): Promise<void> {
  let complete = true; // where the folder cannot be read nobody is woken
  await guard(watch, "completion", () => (complete = isComplete(cfg)));
  if (complete) return;
  for (const agent of cfg.agents.values()) {
    if (!agent.enabled || !agent.wake) continue;
    const seen = observations.get(agent.name)!;
    await guard(watch, `wake ${agent.name}`, () => wakeAgent(cfg, watch, agent, seen));
  }
  await guard(watch, "deadlock", () => deadlockCheck(cfg, watch, observations));
}

/**
 * What a round does for one unit: what people ordered comes first, then a phase move. A small round
 * only heals: its looks are too close for more.
 */
async function careFor(
  cfg: Config, watch: Watch, unit: Unit, seen: Observation, full: boolean,
): Promise<void> {
  const agent = isAgent(unit) ? unit : null;
  // what was told to end while it was still watched is seen to its end
  if (agent && !isWatched(agent)) return void continueStopping(cfg, watch, unit);
  if (seen.handsOff) return leaveDown(cfg, watch, unit, seen);
  if (agent && seen.alive) {
    const { pane } = seen;
    // a file that cannot be removed holds up nothing else
    await attempt(watch, `limit of ${agent.name}`, () => forgetHold(cfg, watch, agent, pane));
  }
  if (agent && isLeftAlone(cfg, watch, agent, seen)) return leaveAlone(cfg, watch, agent);
  return agent && full
    ? superviseAgent(cfg, watch, agent, seen) : healOne(cfg, watch, unit, seen);
}

/**
 * One round: look and learn; what concerns the whole fleet; a phase move; the accounts; each unit,
 * services first; wakes and the deadlock; then say what is to be said. `names`: a small round
 * between two ticks, for these alone: a phase move goes on, and what is down is healed, but no
 * limit, stall or dialog is dealt with.
 */
async function round(cfg: Config, watch: Watch, names?: Set<string>): Promise<Observations> {
  const full = names === undefined;
  const observations = await lookAround(cfg, watch, names);
  const [first] = observations.values();
  if (full) await tendFleet(cfg, watch, observations);
  // one that begins now may be over before the loops' turn, who were seen before it
  if (watch.intent) for (const seen of observations.values()) seen.moving = true;
  if (first) await guard(watch, "phase move", () => continueMove(cfg, watch, first.snap));
  if (full) {
    trouble(watch, "prompts", [...promptFaults.values()].join("; "));
    trouble(watch, "operator.json", operatorFaults.get(cfg.stateDir) ?? "");
    trouble(watch, "phase state", loopAgents(cfg).length ? phaseTrouble(cfg) : "");
    await guard(watch, "accounts", () => settleAccounts(cfg, watch, observations));
  }
  for (const [name, unit] of unitsOf(cfg)) {
    if (!full && !names.has(name)) continue;
    const seen = observations.get(name)!;
    await guard(watch, `unit ${name}`, async () => {
      const memory = memoryOf(watch, name);
      if (full && seen.alive !== null) memory.hindered = undefined; // its care says it anew
      await careFor(cfg, watch, unit, seen, full);
      const hindered = hinderedText(memory);
      const isTold = hindered && !waitsForYou(await operatorOf(cfg), unit, memory);
      trouble(watch, `restart ${name}`, isTold ? `${name} needs you: ${hindered}` : "");
    });
  }
  if (full) await remindFleet(cfg, watch, observations);
  await guard(watch, "outbox", async () => {
    // in a small round a text that comes now may be for others, whom nobody has looked at
    if (full) await takeQueued(cfg, watch);
    await deliverAll(cfg, watch, observations, names);
  });
  return observations;
}

/**
 * What keeps the watchdog from its work, by the labels of `trouble`. The heartbeat is what is
 * written each tick: on a full disk it fails first.
 */
const HINDERS = new RegExp("^(?:tmux|phase state|operator\\.json|state folder|logs|" +
  "guard (?:heartbeat|tick|hand-off|phase|phase move|outbox|completion|accounts|deadlock)|" +
  "(?:guard (?:unit|learn|wake|deliver)|restart) (.+))$");

/**
 * Tells people of troubles that have lasted for five minutes: while one does, no look can tell them
 * of anything else.
 */
function tellTroubles(cfg: Config, { volatile: { errors, lasting } }: Watch): void {
  for (const label of new Set([...Object.keys(errors), ...Object.keys(lasting)])) {
    const [hinders, agent] = HINDERS.exec(label) ?? [];
    const why = errors[label];
    // the care of one that left the config is over, whatever its last error was
    if (!hinders || !why || (agent && !unitsOf(cfg).has(agent))) {
      if (lasting[label]?.told) emit(cfg, "trouble", { agent, to: "ok", why: overText(label) });
      delete lasting[label];
      continue;
    }
    const known = lasting[label] ??= { since: world.mono(), told: false };
    if (known.told || world.mono() - known.since < 5 * MINUTE) continue;
    known.told = true;
    const lasted = minutes(world.mono() - known.since);
    emit(cfg, "trouble", { agent, why: `${why.replace(/^ERROR: /, "")}, for ${lasted}` });
  }
}

/** The full round, every `signal_interval`. */
export async function tick(cfg: Config, watch: Watch): Promise<Snapshot | undefined> {
  noteGap(cfg, watch);
  tellTroubles(cfg, watch);
  await applyReleases(cfg, watch);
  const observations = await round(cfg, watch);
  const stored = save(cfg, watch);
  await guard(watch, "state", async () => {
    await stored;
    await copyWatch(cfg, watch);
  });
  await guard(watch, "heartbeat", async () => {
    await stored; // a nearly full disk may have room for the heartbeat alone
    const why = writeLate();
    await beat(cfg, why);
    trouble(watch, "logs", why && `a log cannot be written: ${why}`);
  });
  collect(observations.size * LEFT_PER_AGENT);
  const [first] = observations.values();
  return first?.snap;
}

/**
 * Proof for `status` that it lives and can store what it does: time, pid and what is running;
 * `unlogged`: which log it cannot write, and why.
 */
async function beat(cfg: Config, unlogged: string): Promise<void> {
  const pulse = { at: iso(world.now()), pid: process.pid, version: version(),
    interval: cfg.watchdog.signalInterval, ...(unlogged ? { unlogged } : {}) };
  await world.writeAtomic(heartbeatFile(cfg), JSON.stringify(pulse));
}

/** Caps session logs, with one rotation; logs a pane again whose logging stopped. */
async function keepLogs(cfg: Config, watch: Watch, observations: Observations): Promise<void> {
  const cap = cfg.watchdog.logMaxMb * 1_000_000;
  const units = unitsOf(cfg);
  for (const [name, { pane, alive }] of observations) {
    if (!alive) continue;
    const path = sessionLogPath(cfg, units.get(name)!.session);
    await attempt(watch, `log of ${name}`, async () => {
      if (world.append(path, "", cap) || !pane.piped) await pipeToLog(cfg, pane.id, path);
    });
  }
}

/** A first text or a phase move that takes longer than this, ms, goes on by the ticks alone. */
const BOOT_PATIENCE = 120_000;

/** Units that must not wait for the next tick: ending, waiting for a server, due, just started. */
export function pendingUnits(cfg: Config, watch: Watch): Set<string> {
  const interval = cfg.watchdog.signalInterval * 1000;
  const [overdue, soon] = [world.now() - interval, world.now() + interval];
  const names = watch.outbox.filter(({ cause, during, made }) =>
    (cause === "boot" || during === "booting") && isRecent(made, BOOT_PATIENCE))
    .map((message) => message.target);
  for (const [name, unit] of unitsOf(cfg)) {
    const { life } = memoryOf(watch, name);
    // one that could not be started for a whole tick waits for the ticks
    const due = life.state === "backoff" && life.until > overdue && life.until < soon;
    const ending = life.state === "stopping" && !life.family.stuck;
    // by then it is started without its server, unless something else holds it
    const waits = life.state === "waiting" && isAgent(unit) &&
      world.mono() - life.since < backendOf(cfg, unit).connectDelay * 1000 + interval;
    if (ending || waits || due) names.push(name);
  }
  return new Set(names);
}

/** Whether anything must not wait for the next tick. */
export const isUrgent = (cfg: Config, watch: Watch): boolean =>
  watch.volatile.fetch !== null || watch.volatile.fetched !== null ||
  pendingUnits(cfg, watch).size > 0 ||
  (watch.intent !== null && isRecent(watch.intent.at, BOOT_PATIENCE));

/** The small round between two ticks, for the units that wait for something. */
export async function quickRound(cfg: Config, watch: Watch): Promise<void> {
  const names = new Set([...pendingUnits(cfg, watch), ...await takeQueued(cfg, watch)]);
  if (watch.volatile.fetched) {
    await guard(watch, "hand-off", () => handoffCheck(cfg, watch));
    for (const message of watch.outbox) names.add(message.target);
  }
  if (!names.size && !watch.intent) return;
  await round(cfg, watch, names);
  await guard(watch, "state", () => save(cfg, watch));
}

/**
 * The config as it stands now; the last good one while the file is half-written, broken or gone. A
 * change is taken when two reads agree; what vanished from it is never ended (see `noteOrphans`).
 */
export async function reloadConfig(cfg: Config, watch: Watch): Promise<Config> {
  try {
    await askPromptDisks(cfg);
    const source = await world.text(cfg.path);
    if (source === cfg.source) {
      noteConfigGood(cfg, watch);
      return cfg;
    }
    await world.sleep(200);
    if (await world.text(cfg.path) !== source) return cfg;
    const next = await loadConfig(cfg.path, {}, source);
    for (const [key, field] of [["log_dir", "logDir"], ["tmux_socket", "tmuxSocket"]] as const) {
      trouble(watch, key, next[field] === cfg[field] ? "" : staysText(key, cfg[field]));
    }
    const { logDir, stateDir, tmuxSocket, stored, room } = cfg;
    Object.assign(next, { logDir, stateDir, tmuxSocket, stored, room });
    await moveLog(cfg, next);
    log("config reloaded");
    for (const warning of next.warnings) log(`warning: ${warning}`);
    noteConfigGood(cfg, watch);
    for (const memory of Object.values(watch.agents)) memory.byRules = null; // by the old rules
    await copyConfig(next, watch);
    return next;
  } catch (error) {
    const fresh = watch.volatile.errors.config === undefined;
    trouble(watch, "config", `the last good config stays in force: ${messageOf(error)}`);
    if (fresh) emit(cfg, "config", { why: faultsIn(error).join("; ") });
    return cfg;
  }
}

const staysText = (key: string, value: string): string =>
  `${key} stays ${show(value)} while the fleet runs: restore the old value, ` +
  'run "agents down", change it, run "agents up"';

/** Keeps the copy by which commands go on while the file is broken, or its folder gone. */
const copyConfig = (cfg: Config, watch: Watch): Promise<void> =>
  guard(watch, "config copy", async () => {
    await storeRoom(cfg);
    await world.writeAtomic(lastGoodFile(cfg), cfg.source);
  });

/** The watchdog's log is named after its session, which another session_prefix renames. */
async function moveLog(cfg: Config, next: Config): Promise<void> {
  if (watchdogSession(cfg) === watchdogSession(next)) return;
  if (loggedTo) loggedTo = sessionLogPath(next, watchdogSession(next));
  const pane = (await snapshot(cfg)).panes.get(watchdogSession(cfg));
  // without our mark it may be this very watchdog, run there by hand
  if (pane?.home) await killSession(cfg, pane);
}

/** That the config is valid again is an event, as its fault was. */
function noteConfigGood(cfg: Config, watch: Watch): void {
  if (watch.volatile.errors.config) emit(cfg, "config", { to: "ok", why: "it is valid again" });
  trouble(watch, "config", "");
}

/**
 * What the loop learns by signals: to end, or that something was queued. `kept`: it has no terminal
 * to lose, so SIGHUP asks it for another look, as it does a daemon.
 */
function listen(kept: boolean) {
  const signals = { stop: false, poked: false, wake() {} };
  for (const signal of ["SIGTERM", "SIGINT", ...(kept ? [] : ["SIGHUP"])]) {
    // not `once`: a second one, of a keeper told to end too, must not kill it before its last save
    process.on(signal, () => {
      if (!signals.stop) log(`watchdog stopping (${signal})`);
      signals.stop = true;
      signals.wake();
    });
  }
  for (const signal of [POKE, ...(kept ? ["SIGHUP"] : [])]) {
    process.on(signal, () => {
      signals.poked = true;
      signals.wake();
    });
  }
  return signals;
}

/** Logs the start, and cleans up after an earlier watchdog, whose last note is `before`. */
async function announceStart(
  cfg: Config, watch: Watch, before: ReturnType<typeof readNote>,
): Promise<void> {
  await guard(watch, "left-overs", () => sweepTemporaries(cfg));
  await copyConfig(cfg, watch);
  for (const warning of cfg.warnings) log(`warning: ${warning}`);
  await guard(watch, "orders elsewhere", () => warnOfOrdersElsewhere(cfg));
  const died = before && before.stage !== "ended" ? `(pid ${before.pid}) died` +
    (before.stage === RESTING ? "" : ` during "${before.stage}"`) : "";
  if (died) log(`the watchdog before this one ${died}`);
  const { heartbeat: last } = await readWatchdog(cfg);
  emit(cfg, "watchdog", { why: died ? `started after the one before ${died}` : "started",
    version: version(), last });
  log(`watchdog up: ${phaseLine(cfg)}, ` +
    `signal=${cfg.watchdog.signalInterval}s heavy=${cfg.watchdog.heavyInterval}s, ` +
    `watching: ${watched(cfg).map((agent) => agent.name).join(", ") || "none"}`);
}

/** Sleeps for so many ms, or until it is woken. */
function nap(sleeper: { wake(): void }, pause: number): Promise<void> {
  const woken = new Promise<void>((resolve) => (sleeper.wake = resolve));
  return Promise.race([world.sleep(pause), woken]);
}

/** Sleeps until the next tick, in small steps while something is pending. */
async function restUntil(
  due: number, cfg: Config, watch: Watch, signals: ReturnType<typeof listen>,
): Promise<void> {
  while (!signals.stop && world.mono() < due) {
    const pause = Math.min(due - world.mono(), isUrgent(cfg, watch) ? ATTEND_INTERVAL : Infinity);
    await nap(signals, signals.poked ? 0 : pause);
    signals.poked = false;
    if (signals.stop || world.mono() >= due) continue;
    await guard(watch, "attend", () => quickRound(cfg, watch));
    noteStage(RESTING);
  }
}

/**
 * How much later than usual code is compiled, in effect never: a compiler does not pay for what
 * runs once in 30 s. It took 10 MB and a tenth of the CPU more (100 agents, a tick every 6 s).
 */
export const RARELY_RUN = 1_000_000;

/**
 * The supervisor. Ends on SIGTERM, SIGINT or SIGHUP; exit 100 if another one holds the lock. `kept`
 * = a keeper started it: it makes sure that there is one, and takes SIGHUP for "look again".
 */
export async function watchdogLoop(path: string, kept = false, lastGood = ""): Promise<number> {
  Bun.unsafe.setJITPolicy(RARELY_RUN);
  let cfg = await firstConfig(path, lastGood);
  makeFolders(cfg);
  const signals = listen(kept); // whoever sees its pid may poke it
  const lockPath = lockFile(cfg, "watchdog");
  let lock = await takeLock(lockPath);
  if (lock === null) {
    log(`another watchdog is already running${byPid(lockHolder(lockPath))}`);
    return 100;
  }
  if (isHeld(await operatorOf(cfg), "watchdog")) {
    if (kept) return 0;
    // started by hand, or by its service: a later order
    await changeOperator(cfg, (operator) => void delete operator.held.watchdog)
      .catch((error) => log(messageOf(error)));
  }
  logToFile(cfg);
  const before = readNote(noteFile(cfg, "watchdog"));
  // from here on its keeper sees whether it moves
  noteStage = openNote(noteFile(cfg, "watchdog"));
  noteStage("starting");
  await awaitHand(cfg, () => signals.stop);
  await storedRoom(cfg); // a guess would be stored, and the fleet's own clients be another's
  const watch = await loadWatch(cfg);
  process.on("unhandledRejection",
    (error) => trouble(watch, "unhandled", `ERROR: ${messageOf(error)}`));
  await announceStart(cfg, watch, before);
  const keeper = keeperCare();
  const hasMoved = follower(cfg, lockPath, kept, lastGood !== "");
  void notifyPeople(() => cfg, watch);
  while (!signals.stop) {
    const began = world.mono();
    const held: number = lock;
    if (await hasMoved(held)) return 1;
    lock = await keepLock(cfg, lockPath, held, (why) => trouble(watch, "state folder", why));
    if (lock === null) return 0; // the folder was removed, and another watchdog took its place
    if (lock !== held) {
      watch.volatile.saved = "";
      noteStage = openNote(noteFile(cfg, "watchdog"));
    }
    if (lock !== held || !isThere(lastGoodFile(cfg))) await copyConfig(cfg, watch);
    cfg = await reloadConfig(cfg, watch);
    await guard(watch, "tick", async () => {
      const snap = await tick(cfg, watch);
      if (kept) trouble(watch, "keeper", keeper(cfg, noteStage("keeper")));
      if (snap && lastGood) await followLog(cfg, snap);
    });
    const interval = Math.max(cfg.watchdog.signalInterval * 1000, 50);
    noteStage(RESTING);
    await restUntil(began + interval, cfg, watch, signals);
  }
  if (await hasMoved(lock, true)) return 1;
  await guard(watch, "state", () => save(cfg, watch));
  noteStage("ended");
  const partner = kept ? holderOf(cfg, "keeper") : null;
  if (partner !== null) world.signal(partner, "SIGTERM");
  return 0;
}

/** Removes what a write that was killed half-way left behind. */
function sweepTemporaries(cfg: Config): void {
  for (const file of world.list(cfg.stateDir)) {
    const path = join(cfg.stateDir, file);
    const made = file.endsWith(".tmp") ? world.mtime(path) : null;
    if (made !== null && world.now() - made > 60_000) world.remove(path);
  }
}

/** The config at the start; a watchdog that was restarted falls back to the last good one. */
async function firstConfig(path: string, lastGood: string): Promise<Config> {
  try {
    return await loadConfig(path);
  } catch (error) {
    const source = lastGood ? await world.text(lastGood) : null;
    if (source === null) throw error;
    log(`the last good config is in force: ${messageOf(error)}`);
    return loadConfig(path, {}, source, true);
  }
}

const lastGoodFile = (cfg: Config): string => join(cfg.stateDir, "agents.toml");

/** The path of the watchdog's own log; "" = not written yet. */
let loggedTo = "";

/** From here on each line also goes to the watchdog's own log, which is rotated at its cap. */
function logToFile(cfg: Config): void {
  loggedTo = sessionLogPath(cfg, watchdogSession(cfg));
  const print = world.log;
  world.log = (line) => {
    try {
      appendToLog(loggedTo, `${line}\n`, cfg.watchdog.logMaxMb * 1_000_000);
    } finally {
      print(line);
    }
  };
}

function phaseLine(cfg: Config): string {
  const list = phases(cfg);
  if (!list.length) return "no phases";
  return phaseTrouble(cfg) || `phase ${curPhase(cfg)!.id} [${curIdx(cfg) + 1}/${list.length}]`;
}

/** The loop agents that run; `older`: only those on the kickoff of another phase than this one. */
export function loopSessionsAlive(cfg: Config, snap: Snapshot, older = false): Agent[] {
  const now = knownPhase(cfg)?.id ?? "";
  return loopAgents(cfg).filter((agent) => sessionAlive(snap, agent.session) &&
    (!older || ![now, ""].includes(snap.panes.get(agent.session)!.phase)));
}

// ── standing by ─────────────────────────────────────────────────────────────────
// The keeper starts the watchdog again, and ends one that hangs; the watchdog does the same for its
// keeper.

const spawnSelf = (words: string[], detached = false, self = selfArgv()): Bun.Subprocess =>
  Bun.spawn([...self, ...words],
    { cwd: "/", env: childEnv(true), stdio: ["ignore", "ignore", "ignore"], detached });

/** Starts the keeper, detached from any terminal; it starts the watchdog. */
function spawnKeeper(cfg: Config, self = selfArgv()): Bun.Subprocess {
  const keeper = spawnSelf([...KEPT.keeper, lastGoodFile(cfg), "--config", cfg.path], true, self);
  keeper.unref();
  return keeper;
}

/**
 * Goes on as the watchdog of a moved config: by a keeper, or, where none started this one, in its
 * own process, which stays in its terminal or service. `last`: it had a copy to fall back to.
 */
function moveOn(cfg: Config, self: string[], kept: boolean, last: boolean): void {
  if (kept) return void spawnKeeper(cfg, self);
  endGits(); // nobody would wait for them
  const copy = last ? ["--last-good", lastGoodFile(cfg)] : [];
  process.execve!(self[0]!, [...self, "watchdog", ...copy, "--config", cfg.path],
    process.env as Record<string, string>);
}

/**
 * Tells whether the folder of this config was moved, and our lock with it: what is in the old place
 * is another fleet's. Whoever does not end goes on where it is now (see `moveOn`).
 */
function follower(
  cfg: Config, path: string, kept = true, last = true,
): (lock: number, ends?: boolean) => Promise<boolean> {
  const [home, program] = [`${linkless(cfg.planDir)}/`, selfArgv().at(-1)!];
  return async (lock, ends = false) => {
    const folder = tried(() => isStillAt(path, lock), false) ? "" : await movedTo(cfg, process.pid);
    if (!folder) return false;
    const now = (one: string) => folder + one.slice(cfg.planDir.length);
    if (loggedTo) loggedTo = now(loggedTo);
    log(`the fleet's folder is ${folder} now`);
    freeLock(lock);
    // a program in that folder was moved, too
    const self = program.startsWith(home) ? join(folder, program.slice(home.length)) : program;
    const there = { ...cfg, path: now(cfg.path), stateDir: now(cfg.stateDir) };
    noteStage("ended");
    if (!ends) moveOn(there, selfArgv().with(-1, self), kept, last);
    return true;
  };
}

/** A watchdog or keeper counts as hung once it has stood still for this long, ms. */
export const HUNG_AFTER = 120_000;

/** Whether a child still runs; one that a signal ended has no exit code either. */
const isRunning = ({ exitCode, signalCode }: Bun.Subprocess): boolean =>
  exitCode === null && signalCode === null;

/** It hangs once it has not moved for this long, ms: ten of its intervals (s), at least `least`. */
export const hungAfter = (interval: number, least = HUNG_AFTER): number =>
  Math.max(10 * interval * 1000, least);

/**
 * Measures how long a sign has not changed, ms on the monotonic clock, which stops while the
 * machine is suspended. `null` is "could not look": no evidence, so the time starts over, as
 * it does after half of `hangs`, ms, without a look: then the observer itself stood still, as in a
 * paused machine, and what it looks at may have too.
 */
export function stillness(): (sign: string | null, hangs: number) => number {
  let [last, since, looked] = ["", 0, 0];
  return (sign, hangs) => {
    const now = world.mono();
    if (sign === null || sign !== last || now - looked > hangs / 2) since = now;
    [last, looked] = [sign ?? "", now];
    return now - since;
  };
}

/**
 * Makes a check that starts a missing keeper and replaces one that hangs. It says why no keeper
 * could be started; "" = one runs, or is on its way. `writes`: as in `Ward.look`.
 */
export function keeperCare(): (cfg: Config, writes: boolean) => string {
  const still = stillness();
  let [started, startedAt] = [null as Bun.Subprocess | null, 0];
  return (cfg, writes) => {
    const keeper = holderOf(cfg, "keeper");
    const note = readNote(noteFile(cfg, "keeper"));
    const sign = writes && note?.pid === keeper ? `${note.at}` : null;
    const hangs = hungAfter(cfg.watchdog.signalInterval);
    if (keeper !== null) started = null; // it, or another one, is past its start
    if (keeper !== null && still(sign, hangs) < hangs) return "";
    // on a loaded machine a keeper needs seconds to get its lock; a second one would only add load
    const isStarting = keeper === null && started !== null && isRunning(started) &&
      world.mono() - startedAt < MINUTE;
    // where its pid could not be written, on a full disk, the lock itself shows that one runs
    if (isStarting || (keeper === null && isLocked(lockFile(cfg, "keeper")))) return "";
    if (keeper !== null) world.signal(keeper, "SIGKILL");
    started?.kill("SIGKILL"); // it hangs before its lock: they must not pile up
    log(keeper === null ? "no keeper, starting one"
      : `the keeper (pid ${keeper}) is hung: replacing it`);
    try {
      [started, startedAt] = [spawnKeeper(cfg), world.mono()];
      return "";
    } catch (error) {
      return `the keeper could not be started: ${messageOf(error)}`;
    }
  };
}

/** Marks the pane that shows the watchdog's log, whatever its session is called: no client. */
const LOG = { unit: "watchdog" };

/** Opens a session that shows the watchdog's log, if there is none; closing it ends nothing. */
async function followLog(cfg: Config, snap: Snapshot): Promise<void> {
  const session = watchdogSession(cfg);
  if (sessionAlive(snap, session) !== false || whyBarred(cfg, snap, session)) return;
  const pane = snap.panes.get(session);
  if (pane) await killSession(cfg, pane);
  const path = sessionLogPath(cfg, session);
  const argv = ["tail", "-n", "200", "-F", path];
  await newSession(cfg, { session, cwd: cfg.logDir, argv, env: {}, logPath: "", marks: LOG,
    ...placeFor(snap, session) }).catch((error) => log(messageOf(error)));
}

/**
 * The hidden `keep`: starts a watchdog a second after the last one died, and ends one that has hung
 * for two minutes. `least`: see hungAfter. Exits 100 where another keeper has the lock.
 */
export async function keep(path: string, lastGood: string, least = HUNG_AFTER): Promise<number> {
  const cfg = await firstConfig(path, lastGood);
  makeFolders(cfg);
  const lockPath = lockFile(cfg, "keeper");
  let lock = await takeLock(lockPath);
  if (lock === null) return 100;
  // read under the lock: `down` first writes its order and then looks up who holds the lock
  if (isHeld(await operatorOf(cfg), "watchdog")) return 0;
  logToFile(cfg);
  const signals = { stop: false, wake() {} };
  for (const signal of ["SIGTERM", "SIGINT"]) {
    process.on(signal, () => {
      signals.stop = true;
      signals.wake();
    });
  }
  process.on("SIGHUP", () => signals.wake()); // "look again"
  const ward = new Ward(cfg, path, least, () => signals.wake());
  const note = openNote(noteFile(cfg, "keeper"));
  const isOver = (): boolean => signals.stop || ward.ended === 0;
  const hasMoved = follower(cfg, lockPath);
  while (!isOver()) {
    if (await hasMoved(lock)) break;
    lock = await keepLock(cfg, lockPath, lock);
    if (lock === null) return 0;
    await ward.look(note("keeping"));
    if (!isOver()) await nap(signals, ward.rest());
  }
  ward.child?.kill("SIGTERM");
  await ward.child?.exited;
  return 0;
}

/** The next pause, ms: doubled up to half a minute, until one has lived for a healthy minute. */
export function pauseAfter(pause: number, lived: number): number {
  return lived >= HEALTHY_MINUTE ? 2_000 : Math.min(pause * 2, 30_000);
}

/** The watchdog that a keeper looks after: started when there is none, ended when it hangs. */
export class Ward {
  child: Bun.Subprocess | null = null;
  /** The exit code of the last watchdog that this keeper started; 0 = it was meant to end. */
  ended: number | null = null;
  /** How long to wait before the next start, ms, and when that is, monotonic ms. */
  private pause = 1_000;
  private nextStart = 0;
  private startedAt = 0;
  private lastSaid = "";
  /** The hung watchdog that was asked to end, and when, monotonic ms. */
  private asked: { pid: number; at: number } | null = null;
  private stillFor = stillness();
  private unlockedFor = stillness();
  /** `noted`: called when a watchdog that this keeper started has ended. */
  constructor(
    readonly cfg: Config, readonly path: string, readonly least: number,
    readonly noted = (): void => {},
  ) {}

  /** For how long, ms, there is nothing to look at: a second, or less where a start is due. */
  rest(): number {
    const left = this.child ? 0 : this.nextStart - world.mono();
    return left > 0 ? Math.min(left, 1_000) : 1_000;
  }

  /** `writes`: the keeper itself can write. On a full disk a silent watchdog is not a hung one. */
  async look(writes: boolean): Promise<void> {
    const pid = holderOf(this.cfg, "watchdog");
    if (pid !== null) this.unlockedFor(null, this.least);
    if (pid !== null && !this.child) this.waitBeforeStart(1_000);
    if (pid !== null) return this.endIfHung(pid, writes);
    if (!this.child) {
      this.asked = null;
      if (world.mono() < this.nextStart) return;
    }
    const unlocked = this.child?.pid ?? (await supervisorsOf(this.cfg, "watchdog"))[0];
    if (unlocked === undefined) this.start();
    else this.endIfUnlocked(unlocked);
  }

  /**
   * A watchdog runs without a lock here: it has just been started, or the state folder was removed.
   * It takes one within a round; a second watchdog would start without its memory. One that takes
   * too long hangs, as at a file of a dead disk, unless somebody has that lock: on a full disk no
   * pid says who.
   */
  private endIfUnlocked(pid: number): void {
    const longest = Math.max(2_000 * this.cfg.watchdog.signalInterval, this.least);
    if (this.unlockedFor(`${pid}`, longest) < longest ||
      isLocked(lockFile(this.cfg, "watchdog"))) return;
    this.say(`the watchdog (pid ${pid}) holds no lock in ${this.cfg.stateDir}; ending it`);
    world.signal(pid, "SIGKILL");
  }

  private async endIfHung(pid: number, writes: boolean): Promise<void> {
    const note = readNote(noteFile(this.cfg, "watchdog"));
    const isKnown = writes && note?.pid === pid;
    const beat = await readBeat(this.cfg);
    const hangs = hungAfter(beat.interval ?? this.cfg.watchdog.signalInterval, this.least);
    const stillFor = this.stillFor(isKnown ? `${note.at} ${beat.at}` : null, hangs);
    if (!isKnown || stillFor < hangs) return;
    if (this.asked?.pid !== pid) {
      log(`the watchdog (pid ${pid}) has not moved for ${minutes(stillFor)}, ` +
        `at: ${note.stage}; ending it`);
      this.asked = { pid, at: world.mono() };
    }
    world.signal(pid, world.mono() - this.asked.at < 5_000 ? "SIGTERM" : "SIGKILL");
  }

  private start(): void {
    try {
      const child = spawnSelf([...KEPT.watchdog,
        "--last-good", lastGoodFile(this.cfg), "--config", this.path]);
      this.child = child;
      this.startedAt = world.mono();
      void child.exited.then((code) => this.noteEnd(code, child.signalCode));
    } catch (error) {
      this.say(`the watchdog could not be started: ${messageOf(error)}; trying again`);
      this.waitBeforeStart(Math.min(this.pause * 2, 10_000));
    }
  }

  /** A watchdog that exits by itself could not start. */
  private noteEnd(code: number, signal: NodeJS.Signals | number | null): void {
    // one that hung and then heeded the signal was not meant to end for good
    [this.child, this.ended, this.asked] = [null, this.asked ? null : code, null];
    const pause = signal ? 1_000 : pauseAfter(this.pause, world.mono() - this.startedAt);
    const when = pause > 1_000 ? ` in ${pause / 1_000} s` : "";
    const ended = `the watchdog ended (${signal ?? `exit ${code}`}), starting another${when}`;
    if (code === 100) this.say("another watchdog has the lock");
    else if (this.ended !== 0) this.say(ended, signal !== null);
    this.waitBeforeStart(pause);
    this.noted();
  }

  private waitBeforeStart(pause: number): void {
    this.pause = pause;
    this.nextStart = world.mono() + pause;
  }

  /** Logs a message once; `always`: also where it is the same as the last one. */
  private say(message: string, always = false): void {
    if (always || message !== this.lastSaid) log(message);
    this.lastSaid = message;
  }
}

// ── notices to people ───────────────────────────────────────────────────────────
// Sent beside the rounds and never in their way: in batches, retried with growing pauses.

/** A notice may take at most this long, ms; a receiver that hangs gets it later. */
const NOTICE_DEADLINE = 10_000;

/** The most events in one notice, and the most that are kept for a receiver that is away. */
const NOTICES_MAX = 50;

/** Characters per line, so that all lines fit the 128 kB that Linux allows a variable. */
const NOTICE_LINE = 400;

/** Tries per batch, 20 minutes in all: one that cannot be sent must not hold up later ones. */
export const NOTICE_TRIES = 10;

/** The text of a notice, for a phone: the fleet, then a line per event with what to type. */
export function noticeText(events: AgentEvent[], fleet: string): string {
  const lines = events.slice(0, NOTICES_MAX).map((one) => {
    const { event, agent, why, from, to, until, asks } = one;
    const help = String(one.cure ?? kindOf(event).cure ?? "");
    const named = help === "attach" || help === "up";
    const cure = named ? agent && `${help} ${agent}` : to === "ok" ? "" : help;
    const at = until ? `until ${localTime(String(until))}`
      : asks ? `with no reset time, asked again at ${localTime(String(asks))}` : "";
    const what = joined(" ", agent, event, from || to ? `${from ?? ""} → ${to ?? ""}` : "", at);
    const said = plainText(joined(": ", what, String(why ?? "")), NOTICE_LINE);
    return cure ? `${said} · agents ${cure}` : said;
  });
  return [plainText(fleet, SUBJECT_MAX), ...lines].join("\n");
}

/**
 * The record of failing notices after one more try to send `events` (a number) of them; `why` is
 * "" where they went out, `now` is wall ms. null = nothing failed and nothing was dropped.
 */
export function decideNotices(
  before: Notices | null, why: string, events: number, now: number,
): Notices | null {
  const known = before ?? { tries: 0, since: 0, dropped: 0, droppedAt: 0, why: "" };
  if (!why) return known.dropped ? { ...known, tries: 0, since: 0 } : null;
  const failed = { ...known, why, tries: known.tries + 1, since: known.since || now };
  return failed.tries < NOTICE_TRIES ? failed
    : { ...failed, tries: 0, dropped: known.dropped + events, droppedAt: now };
}

/** A notice may fail this often before `status` says so: most outages are over in a minute. */
const NOTICE_PATIENCE = 3;

const noticesFail = (notices: Notices | null): boolean =>
  notices !== null && notices.since > 0 && (notices.tries >= NOTICE_PATIENCE ||
    notices.droppedAt >= notices.since);

/** What `status` says of the notices: while they fail, and for a day after some were dropped. */
function noticesText(notices: Notices | null, now: number): string {
  if (!notices) return "";
  const { since, dropped, droppedAt, why } = notices;
  const lost = dropped && now - droppedAt < DAY
    ? `${dropped} dropped, the last ${ago(now - droppedAt)} ago` : "";
  const failing = noticesFail(notices) ? `none sent for ${ago(now - since)}` : "";
  const both = joined("; ", failing, lost);
  return both && `${both}: ${why}`;
}

/** Reads a secret that the config only names: `env:NAME`, or `file:PATH` (mode 600). */
function secretOf(value: string): string {
  if (value.startsWith("env:")) {
    return process.env[value.slice(4)] ?? die(`notify: ${value} is not set`);
  }
  if (!value.startsWith("file:")) return value;
  const path = absolute("/", value.slice(5));
  if ((statSync(path).mode & 0o077) !== 0) {
    die(`notify: ${path} is readable by others (chmod 600 it)`);
  }
  return textNow(path).trim() || die(`notify: ${path} is empty or unreadable`);
}

/**
 * Sends one notice by command (events as JSON on its stdin) and by URL (text; JSON for `json:…`).
 * `done` remembers what went out, so that a retry sends only the rest.
 */
async function sendNotice(
  cfg: Config, events: AgentEvent[], done = new Set<string>(),
): Promise<void> {
  const { notify } = cfg;
  const message = noticeText(events, `${fleetName(cfg)} on ${hostname()}`);
  if (notify.command && !done.has("command")) {
    const ran = await run([SHELL, "-c", notify.command], NOTICE_DEADLINE,
      { AGENTS_NOTICE: message }, `${JSON.stringify(events)}\n`);
    if (!ran.ok) die(`notify: the command failed: ${ran.err.slice(0, 200)}`);
    done.add("command");
  }
  if (!notify.url) return;
  const json = notify.url.startsWith("json:");
  const answer = await fetchHere(secretOf(json ? notify.url.slice(5) : notify.url), {
    method: "POST",
    body: json ? JSON.stringify({ text: message, events }) : message,
    headers: json ? { "content-type": "application/json" }
      : { title: "agents", "content-type": "text/plain; charset=utf-8" },
    signal: AbortSignal.timeout(NOTICE_DEADLINE),
  }).catch((error: Error & { code?: unknown }) =>
    // never its message, which names the URL with what is secret in it
    die(`notify: the URL did not answer (${isText(error.code) ? error.code : error.name})`));
  if (!answer.ok) die(`notify: the URL answered ${answer.status}`);
}

/**
 * The events of these kinds that an ended watchdog left untold, of the last hour before `began`:
 * what is older is no news.
 */
export function untoldEvents(events: AgentEvent[], kinds: string[], began: number): AgentEvent[] {
  const last = events.findLast(({ event }) => ["notified", "notices"].includes(event));
  const told = Date.parse(String(last?.upTo ?? last?.at ?? ""));
  const from = Math.max(began - HOUR, told || 0);
  return events.filter(({ at, event }) =>
    kinds.includes(event) && Date.parse(at) > from && Date.parse(at) < began);
}

/** Sends the pending notices, beside the rounds, until the process ends. */
export async function notifyPeople(config: () => Config, watch: Watch): Promise<never> {
  const { notify } = config();
  const began = world.now();
  notifying = true;
  if (tellsPeople(config())) {
    await guard(watch, "notices before", async () => {
      const untold = untoldEvents(await readEvents(config()), notify.events, began);
      pendingNotices.unshift(...untold.slice(-NOTICES_MAX));
    });
  }
  let events: AgentEvent[] = [];
  const done = new Set<string>();
  for (let pause = 1; ; ) {
    await world.sleep(pause * 1000);
    if (!events.length) events = pendingNotices.splice(0, NOTICES_MAX);
    if (!events.length) continue;
    const why = await sendNotice(config(), events, done).then(() => "", messageOf);
    const told = events.map(({ agent, event, to }) =>
      joined(" ", agent, event, to ? `→ ${to}` : ""));
    // [notify] may have been taken out of the config since
    if (!why && tellsPeople(config())) {
      emit(config(), "notified", { told, upTo: events.at(-1)!.at });
    }
    if (!noteNotices(config(), watch, why, events.length)) {
      [events, pause] = [[], 1];
      done.clear();
      continue;
    }
    // a receiver that was away for days gets only the newest
    const lost = pendingNotices.splice(0, pendingNotices.length - NOTICES_MAX).length;
    if (lost) noteLost(watch, lost);
    pause = Math.min(Math.max(5, pause * 2), 300);
    trouble(watch, "notices", `${why}; trying again in ${pause} s`);
  }
}

/** Counts events that were dropped while an earlier batch is still being tried. */
function noteLost(watch: Watch, lost: number): void {
  const notices = watch.notices!;
  Object.assign(notices, { dropped: notices.dropped + lost, droppedAt: world.now() });
  log(`dropped ${plural(lost, "notice")}: more than ${NOTICES_MAX} wait`);
}

/** Records how a delivery went; true = send the same events again. */
export function noteNotices(cfg: Config, watch: Watch, why: string, events: number): boolean {
  watch.notices = decideNotices(watch.notices, plainText(why, FIELD_MAX), events, world.now());
  if (!why) trouble(watch, "notices", "");
  if (!why || watch.notices?.tries) return why !== "";
  log(`dropped ${plural(events, "notice")} after ${NOTICE_TRIES} tries: ${why}`);
  emit(cfg, "notices", { dropped: events, why });
  return false;
}

// ── the command line ────────────────────────────────────────────────────────────
// What all commands share: words and options, printing, and which fleet they act on.

interface Call {
  path: string;
  /** The config was found, not named. */
  implied?: boolean;
  /** Where the file is broken, the command uses the last good config. */
  lenient?: boolean;
  words: string[];
  options: Record<string, string | boolean | undefined>;
}

/** What the system means by the codes that a person can do something about. */
const REFUSALS: Record<string, string> = {
  EACCES: "permission denied", EPERM: "not permitted", EROFS: "the disk is mounted read-only",
  ENOSPC: "the disk is full", EDQUOT: "your disk quota is used up",
  ENOTDIR: "not a directory", EISDIR: "it is a folder",
  EEXIST: "a file is in the way", ENOENT: "no such file or folder",
};

/** Path and reason of what the system refused; "" = the error is not of that kind. */
function refusalOf(error: unknown): string {
  const { code, path } = error as { code?: unknown; path?: unknown };
  if (typeof code !== "string") return "";
  return code in REFUSALS && typeof path === "string" ? `${path}: ${REFUSALS[code]}`
    : messageOf(error);
}

/** Prints why a command failed; returns its exit code. */
function sayError(error: unknown): number {
  const known = error instanceof CliError;
  // a stack is for bugs of this program
  const said = known ? messageOf(error)
    : refusalOf(error) || ((error as Error)?.stack ?? messageOf(error));
  writeError(`agents: ${printableText(said)}`);
  return known ? error.code : 1;
}

// a reader that has seen enough, as in `… | head`, is not an error and must not stop work half-way
let readerGone = false;

/** Whether it has gone, for what may print nothing more for hours, as in `… -f | grep -q`. */
const hasNoReader = (): boolean => (readerGone ||= isHungUp());

/** Prints as it is. Output that is lost in another way than by its reader is an error: exit 1. */
function printRaw(text: string): void {
  if (readerGone) return;
  try {
    world.print(text);
  } catch (error) {
    readerGone = true;
    if (errorCode(error) === "EPIPE") return;
    process.exitCode = sayError(Object.assign(error as Error, { path: "standard output" }));
  }
}

const print = (text: string): void => printRaw(`${printableText(text)}\n`);

/** Prints, as the last thing that a command does: returns exit code 0. */
const printed = (value: string): number => (print(value), 0);

/** Columns of the terminal, or of a valid COLUMNS; Infinity in a pipe, where nothing is cut. */
function terminalWidth(): number {
  const [said] = /^[1-9]\d{0,3}$/.exec(process.env.COLUMNS ?? "") ?? [];
  const shown = isTerminal() ? process.stdout.columns : 0;
  return shown || Number(said ?? (isTerminal() ? 80 : Infinity));
}

type Style = "red" | "yellow" | "green" | "cyan" | "magenta" | "blue" | "dim" | "bold" | "inverse";

/** Colours only for a terminal: `styleText` asks the stream, and respects NO_COLOR. */
const paint = (style: Style, value: string): string =>
  (isTerminal() || process.env.FORCE_COLOR ? styleText(style, value, { stream: process.stdout })
    : value);

/** The config as it is now; if it is broken, the last good one for a lenient command. */
async function currentConfig(call: Call): Promise<Config> {
  const cfg = await loadConfig(call.path, process.env).catch(async (error) => {
    const last = call.lenient ? await lastGoodConfig(call.path, error) : null;
    if (!last) throw error;
    return last;
  });
  joinServer(cfg);
  return cfg;
}

/**
 * Goes to the tmux server of the running watchdog, else to that of a client: under another shell's
 * TMUX_TMPDIR, clients at work would be taken for gone, ended and started again.
 */
function joinServer(cfg: Config): void {
  const watchdog = holderOf(cfg, "watchdog") ?? holderOf(cfg, "keeper");
  if (watchdog !== null) {
    const environ = readProc(`${watchdog}/environ`);
    if (!environ) return;
    const folder = variableIn(environ, "TMUX_TMPDIR");
    if (folder) process.env.TMUX_TMPDIR = folder;
    else delete process.env.TMUX_TMPDIR;
    return;
  }
  const ours = `${cfg.room}/`;
  for (const pid of otherPids()) {
    const environ = readProc(`${pid}/environ`);
    if (!variableIn(environ, UNIT_MARK).startsWith(ours)) continue;
    // the process of a pane itself: what it has started may live in a tmux server of its own
    const [socket, server] = variableIn(environ, "TMUX").split(",");
    if (!socket || statOf(pid).parent !== server) continue;
    process.env.TMUX_TMPDIR = dirname(dirname(socket));
    return;
  }
}

/** Why the config that was found is not a fleet: it is the untouched example. "" = it is one. */
function whyOnlyExample({ implied }: Call, { path, source }: Config): string {
  const folder = dirname(path);
  const ships = folder === SCRIPT_DIR || isThere(join(folder, "agents.ts"));
  return implied && ships && hashOf(source) === TEMPLATE
    ? `${path} is the example that ships, not a fleet: ` +
      "name a config with --config, or make one: agents init fleet" : "";
}

/**
 * The config for one command, its warnings logged. `shows`: the command itself prints that the file
 * is broken.
 */
async function configFor(call: Call, shows = false): Promise<Config> {
  const cfg = await currentConfig(call);
  const noFleet = whyOnlyExample(call, cfg);
  if (noFleet) die(noFleet, 2);
  if (cfg.broken && !shows) log(paint("red", cfg.broken));
  if (!cfg.broken) for (const warning of cfg.warnings) log(`warning: ${warning}`);
  return cfg;
}

/** The config that a watchdog still uses while the file is broken; null = no watchdog does. */
async function lastGoodConfig(path: string, error: unknown): Promise<Config | null> {
  // a watchdog that was started by hand names no copy
  const [, folder] = /^\s*log_dir\s*=\s*["']([^"']+)["']/m.exec(await textIn(path)) ?? [];
  const logDir = absolute(dirname(path), folder ?? defaultsOf(KEYS.defaults).logDir);
  const state = dirname(await copyInUse(path) ?? join(logDir, "state", "agents.toml"));
  const source = await textIn(join(state, "agents.toml"));
  const lock = join(state, "watchdog.lock");
  const pid = lockHolder(lock);
  if (!source || (pid === null && !isLocked(lock, false))) return null;
  // two configs may share a log folder: the watchdog's command line says which one it runs
  const named = pid !== null && configOf(pid);
  if (named && !(await isSameConfig(named, path))) return null;
  const good = await loadConfig(path, process.env, source, true);
  const [fault] = faultsIn(error);
  // where the file itself is that one, a prompt has gone
  const since = await textIn(path) === source ? "" : await brokenSince(good);
  return { ...good, broken: `${fault}; ${since}running on the last good one` };
}

/** Since when a config is broken, as its watchdog saw; until that has, when the file changed. */
async function brokenSince(cfg: Config): Promise<string> {
  const events = await readEvents(cfg);
  const told = events.slice(events.findLastIndex(({ event }) => event === "watchdog") + 1)
    .findLast(({ event }) => event === "config");
  if (told && told.to !== "ok") return `broken since ${localTime(told.at)}, `;
  const changed = world.mtime(cfg.path);
  return changed === null ? "" : `changed at ${localTime(changed)}, `;
}

/**
 * The units ("watchdog" and `more` too) that these names and globs mean, each once. An unknown name
 * is a usage error before anything is done.
 */
function expandNames(cfg: Config, words: string[], more: string[] = []): string[] {
  return namesAmong([...new Set([...unitsOf(cfg).keys(), "watchdog", ...more])], words,
    "agent or service");
}

/** What to say after a word that is not one of these. */
const instead = (word: string, known: readonly string[]): string =>
  (known.length ? `${nearest(word, known)} (there are: ${known.join(", ")})` : " (there is none)");

/** The known names that these words mean, names or globs; `what` calls them in the error. */
function namesAmong(known: string[], words: string[], what: string): string[] {
  const found = words.flatMap((word) => {
    if (known.includes(word)) return [word];
    // what is left out must be known too: with a slip in it, `!name` would mean all
    const without = word.startsWith("!") && namesAmong(known, [word.slice(1)], what);
    const meant = known.filter((name) =>
      (without ? !without.includes(name) : new Bun.Glob(word).match(name)));
    return meant.length ? meant : die(`no ${what} "${word}"${instead(word, known)}`, 2);
  });
  return [...new Set(found)];
}

/** The one name that a word matched; a usage error if it matched several. */
function onlyName(names: string[], word: string): string {
  if (names.length > 1) die(`${word} matches ${names.join(", ")}: name one of them`, 2);
  return names[0]!;
}

/** The one agent, service or "watchdog" that a word names. */
const oneName = (cfg: Config, word: string): string => onlyName(expandNames(cfg, [word]), word);

/** The one agent that a word names; `why` says what cannot be done with anything else. */
function oneAgent(cfg: Config, word: string, why: string): string {
  const agents = [...cfg.agents.keys()];
  const other = cfg.services.has(word) ? "a service" : word === "watchdog" ? "the watchdog" : "";
  if (other) die(`${word} is ${other}, no agent: ${why}${instead(word, agents)}`, 2);
  return onlyName(namesAmong(agents, [word], "agent"), word);
}

// Text laid out for a terminal.

/** Cuts a text, which may be coloured, to `width` columns; the last one is then an ellipsis. */
function cut(cell: string, width: number): string {
  if (Bun.stringWidth(cell) <= width) return cell;
  const room = Math.max(0, width - 1);
  const start = Bun.sliceAnsi(cell, 0, room);
  // sliceAnsi keeps a wide letter that lies across the edge
  return `${Bun.stringWidth(start) > room ? Bun.sliceAnsi(cell, 0, room - 1) : start}…`;
}

/** Cuts or pads a text to exactly `width` columns. */
function fit(cell: string, width: number): string {
  const shown = cut(cell, width);
  return shown + " ".repeat(Math.max(0, width - Bun.stringWidth(shown)));
}

/** A name of exactly `width` columns, cut in its middle: many begin alike and differ at the end. */
function fitName(name: string, width: number): string {
  if (name.length <= width || !/^[ -~]+$/.test(name)) return fit(name, width);
  const head = width >> 1;
  return `${name.slice(0, head)}…${name.slice(name.length - (width - head - 1))}`;
}

/** One line with text at its left and right end; the left is cut if both do not fit. */
function spread(left: string, right: string, width: number): string {
  if (width === Infinity) return joined("  ", left, right);
  const room = width - Bun.stringWidth(right) - (right ? 1 : 0);
  return right && room > 0 ? `${fit(left, room)} ${right}` : cut(left, width);
}

const widest = (texts: string[]): number =>
  Math.max(0, ...texts.map((text) => Bun.stringWidth(text)));

/**
 * Lines of columns as wide as their widest cell; the first row is the title, the first column holds
 * names. Where a line would be longer than `width`, the columns in `give` shrink, one after the
 * other, to their least width.
 */
export function columns(
  rows: string[][], width: number, give: [column: number, least: number][],
): string[] {
  const cells = rows.map((row) => row.map(printable));
  const wide = rows[0]!.map((_, i) => widest(cells.map((row) => row[i]!)));
  const used = wide.filter((one) => one > 0);
  let over = used.reduce((sum, one) => sum + one, 0) + 2 * (used.length - 1) - width;
  for (const [column, least] of give) {
    const less = Math.max(0, Math.min(over, wide[column]! - least));
    wide[column]! -= less;
    over -= less;
  }
  return cells.map((row) =>
    row.map((cell, i) => (i ? fit : fitName)(cell, wide[i]!)).join("  ").trimEnd());
}

/** Joins parts by dots, on as many lines as needed. */
function flow(parts: string[], width: number): string[] {
  const lines: string[] = [];
  for (const part of parts) {
    const longer = lines.length ? `${lines.at(-1)} · ${part}` : part;
    if (lines.length && Bun.stringWidth(longer) > width) lines.push(part);
    else lines.splice(-1, 1, longer);
  }
  return lines.map((line) => cut(line, width));
}

/** Keys with their values, each on lines of its own and wrapped; without empty ones. */
function factLines(
  facts: [key: string, values: string | string[]][], width: number, indent = 10,
): string[] {
  return facts.flatMap(([key, values]) => [values].flat().filter(Boolean)
    .flatMap((value) => wrap(value, width - indent))
    .map((line, i) => `${(i ? "" : key).padEnd(indent)}${line}`));
}

/** With fewer columns than these a clause of the help goes below its word. */
const CLAUSE_LEAST = 24;

/** A word of the help and its clause, wrapped and indented to the terminal's width. */
function hanging(word: string, clause: string): string {
  const width = terminalWidth();
  const below = width - word.length < CLAUSE_LEAST;
  const left = below ? " ".repeat(6) : word;
  const text = Bun.wrapAnsi(clause, Math.max(width - left.length, CLAUSE_LEAST))
    .replaceAll("\n", `\n${" ".repeat(left.length)}`);
  return below ? `${word.trimEnd()}\n${left}${text}` : word + text;
}

// What is found wrong, for `doctor` and before `up`.

export interface Finding {
  /** What was checked: a stable word for scripts. */
  check: string;
  level: "ok" | "warn" | "fail";
  what: string;
  cure: string;
}

type Found = Omit<Finding, "check">;
type Findings = Found | Found[];
const good = (what: string): Found => ({ level: "ok", what, cure: "" });
const warn = (what: string, cure: string): Found => ({ level: "warn", what, cure });
const fail = (what: string, cure: string): Found => ({ level: "fail", what, cure });

const UNTOLD = warn("nobody is told when an agent needs a person",
  "set command or url in [notify]");

/** The version that tmux says it is, if that is too old; else "". */
function tooOld(said: string): string {
  const [found = ""] = /\d+\.\d+/.exec(said) ?? [];
  // 3.2 is the first with the formats and pane options used here
  return found && Bun.semver.order(`${found}.0`, "3.2.0") < 0 ? found : "";
}

/**
 * `client` is what `tmux -V` prints, `server` the version of the running server: "" = none runs,
 * null = nobody asked. The two differ after an upgrade, which leaves the old server running.
 */
export function assessTmux(client: string, server: string | null): Findings {
  const [found] = /\d+\.\d+\w*/.exec(client) ?? ["?"];
  if (tooOld(found)) return fail(`${found} is too old`, "install 3.2 or newer");
  if (server && server !== found) {
    return warn(`the client is ${found}, the running server ${server}`, NEW_SERVER);
  }
  return good(`${found}${server === "" ? ", no server runs" : ""}`);
}

const NEW_SERVER =
  "when it suits: agents down, end your other sessions, tmux kill-server, agents up";
const EXITS = "exit-unattached is on: tmux ends with all agents whenever nobody is attached";
const assessExit = (exits: boolean): Findings => exits
  ? warn(EXITS, "tmux set -s exit-unattached off, and the same in tmux.conf") : [];

// ── up, down, restart ───────────────────────────────────────────────────────────
// What people order. A command acts by itself, under the lock of orders that every start of the
// watchdog takes too, and does not ask the watchdog to: an order must hold even if that hangs or is
// of an older version. The watchdog follows the result.

/**
 * Asks the tmux server for its version and for exit-unattached. `start`: if none runs, one starts
 * for this question, reads the operator's tmux.conf and ends at once.
 */
async function askServer(
  cfg: Config, start = false,
): Promise<{ version: string; exits: boolean; why: string }> {
  const ran = await tmux(cfg, [...(start ? ["start-server", THEN] : []),
    "show-options", "-sv", "exit-unattached", THEN, "display-message", "-p", "#{version}"]);
  const [exits = "", version = ""] = ran.ok ? ran.out.split("\n") : [];
  return { version, exits: exits === "on", why: ran.ok ? "" : ran.err };
}

/** Dies where tmux or git is missing or too old; warns about settings of tmux that will hurt. */
async function needTools(cfg: Config): Promise<void> {
  const asked = await tmux(cfg, ["-V"]);
  if (!asked.ok) die(isMissing("tmux") ? NO_TMUX : `tmux: ${asked.err}`);
  const old = tooOld(asked.out);
  if (old) die(`tmux ${old} is too old: 3.2 or newer is needed`);
  const server = await askServer(cfg);
  if (/protocol version|server version/.test(server.why)) {
    die(`the running tmux server and ${asked.out.trim()} are not compatible ` +
      `(${server.why}): ${NEW_SERVER}`);
  }
  for (const finding of [assessTmux(asked.out, server.version), assessExit(server.exits)].flat()) {
    if (finding.level !== "ok") log(`warning: ${finding.what}: ${finding.cure}`);
  }
  if (cfg.loop.handoff && isMissing("git")) die(NO_GIT);
}

const NO_GIT = "git was not found: install it (apt-get install git, brew install git)";

/** Records what a person ordered: an event, and a line in the watchdog's log. */
function noteOrder(cfg: Config, command: string, names: string[]): void {
  emit(cfg, "order", { by: "operator", command, names });
  try {
    world.append(sessionLogPath(cfg, watchdogSession(cfg)),
      `${stamped(`order: ${`${command} ${names.join(", ")}`.trim()} (by operator)`)}\n`);
  } catch (error) {
    log(`the order is not in the watchdog's log: ${messageOf(error)}`);
  }
}

/** Ends a watchdog of the original, which ran in the session that now only shows the log. */
async function endOriginalWatchdog(cfg: Config, snap: Snapshot): Promise<void> {
  if (!snap.ok) log(`tmux: ${snap.why}: an old agents.py watchdog, if one runs, is not ended`);
  const pane = snap.panes.get(watchdogSession(cfg));
  if (!pane || pane.dead || pane.session) return;
  log(`ending the old agents.py watchdog in ${watchdogSession(cfg)}`);
  await stopPanes(cfg, [pane]);
}

/** Under load a watchdog may take this long, ms, to get its lock after its keeper started. */
const WATCHDOG_START_MAX = 30_000;
/**
 * ms. A keeper that has not moved for so long is hung: each of its checks takes 5 s at most. One
 * that was there before ours and has started no watchdog by then may run a program that is gone.
 */
const KEEPER_PATIENCE = 10_000;

/** Says why the watchdog's log is not shown: somebody else's session has its name. */
function nameLogStranger(cfg: Config, snap: Snapshot): void {
  const stranger = strangerIn(cfg, snap, watchdogSession(cfg));
  if (stranger) log(`the watchdog's log is not shown: ${stranger}`);
}

/** No order says that the watchdog is to stay down. */
const isWanted = async (cfg: Config): Promise<boolean> =>
  !isHeld(await operatorOf(cfg), "watchdog");

/** After an upgrade: ends watchdog and keeper if the heartbeat names another version than ours. */
async function retireOtherVersion(cfg: Config): Promise<void> {
  const holder = () => holderOf(cfg, "watchdog");
  const [pid, beat] = [holder(), await readBeat(cfg)];
  if (pid === null || beat.pid !== pid || !beat.version || beat.version === version()) return;
  log(`replacing the watchdog of version ${beat.version} by ${version()}; the agents keep working`);
  // another `up` may be doing the same: the watchdog that it started must not be ended
  await stopWatchdog(cfg, async () => await isWanted(cfg) && [pid, null].includes(holder()));
}

/**
 * Starts the keeper and waits for the watchdog to take its lock; false = it did not, see the log.
 * `wasDown`: it was ordered down before, so one that still runs may be about to end.
 */
export async function startWatchdog(cfg: Config, wasDown = false): Promise<boolean> {
  if (wasDown) await stopWatchdog(cfg, () => isWanted(cfg));
  else await retireOtherVersion(cfg);
  const holder = holderOf(cfg, "watchdog");
  for (const pid of holder === null ? await supervisorsOf(cfg, "watchdog") : [holder]) {
    const [path, copy] = [configOf(pid), optionIn(argvOf(pid), "--last-good")];
    // it goes back to the log_dir that it began with, though that was moved
    const strays = path && copy && await isSameConfig(path, cfg.path) &&
      !(await isSamePlace(dirname(copy), cfg.stateDir));
    if (strays) die(staysText("log_dir", dirname(dirname(copy))));
  }
  if (holder !== null || await isMute(cfg)) {
    const { stale, mute } = await readWatchdog(cfg);
    const hint = stale && !mute ? ', but stale: "agents restart watchdog" replaces it' : "";
    log(`watchdog already running${hint}`);
    nameLogStranger(cfg, await snapshot(cfg));
    return true;
  }
  await endOriginalWatchdog(cfg, await snapshot(cfg));
  const keeper = await betweenOrders(cfg, async () => {
    if (!(await isWanted(cfg))) return log(`watchdog: ${OVERTAKEN}`);
    // the log first: a watchdog that already runs would open the same session at the same moment
    const snap = await snapshot(cfg);
    nameLogStranger(cfg, snap);
    world.append(sessionLogPath(cfg, watchdogSession(cfg)), "");
    await followLog(cfg, snap);
    log("starting watchdog");
    return spawnKeeper(cfg);
  });
  return keeper ? awaitWatchdog(cfg, keeper) : false;
}

/** Waits for the watchdog that a keeper of ours was started for; false = it did not start. */
async function awaitWatchdog(cfg: Config, first: Bun.Subprocess): Promise<boolean> {
  let keeper = first;
  const running = () => holderOf(cfg, "watchdog") !== null;
  const deadline = world.mono() + WATCHDOG_START_MAX;
  // ours ends if another `up` was first with a keeper, which then starts the watchdog
  const kept = () => isRunning(keeper) || isHeldBySomebody(cfg, "keeper");
  const still = stillness();
  let ended = 0;
  while (!running() && kept() && world.mono() < deadline) {
    // where a keeper was there before ours, it starts the watchdog, if it can
    const pid = holderOf(cfg, "keeper");
    const moved = pid === keeper.pid ? readNote(noteFile(cfg, "keeper"))?.at : "";
    const stood = still(`${pid} ${moved}`, KEEPER_PATIENCE);
    if (pid !== null && pid !== ended && stood >= KEEPER_PATIENCE) {
      log(`the keeper (pid ${pid}) starts no watchdog: replacing it`);
      world.signal(ended = pid, "SIGKILL");
      keeper = spawnKeeper(cfg);
    }
    await world.sleep(50);
  }
  return running();
}

/** What became of a watchdog that was told to end, and what is said of it. */
const WATCHDOG_END = {
  absent: "watchdog: not running", ended: "watchdog ended",
  overtaken: 'watchdog left running: "agents up" was run after this',
  stuck: "watchdog: it cannot be ended, not even by SIGKILL",
  unknown: "watchdog: nobody can say whether it runs: its lock is another's, or cannot be read",
};
type WatchdogEnd = keyof typeof WATCHDOG_END;

/**
 * Ends keeper and watchdog for as long as the order for it `stands`. The keeper goes first, or it
 * would start another. SIGKILL follows after 8 s, and after 12 s it gives up.
 */
async function stopWatchdog(cfg: Config, stands: () => Promise<boolean>): Promise<WatchdogEnd> {
  const locks = [lockFile(cfg, "keeper"), lockFile(cfg, "watchdog")];
  let end: WatchdogEnd = "absent";
  let pids: number[] = [];
  for (let tries = 0; tries < 240; tries++) {
    pids = pids.filter((pid) => !["", "dead"].includes(bornOf(pid)));
    // only a look at all processes, which costs more, shows one that began in the meantime
    if (!pids.length || tries % 40 === 0) {
      pids = [...new Set(locks.map(lockHolder).filter((pid) => pid !== null).concat(
        await supervisorsOf(cfg, "keeper", "watchdog")))];
    }
    if (!pids.length) {
      return end === "absent" && isLocked(lockFile(cfg, "watchdog")) ? "unknown" : end;
    }
    if (!(await stands())) return "overtaken";
    end = "ended";
    if (tries % 40 === 0) {
      for (const pid of pids) world.signal(pid, tries < 160 ? "SIGTERM" : "SIGKILL");
    }
    await world.sleep(50);
  }
  return "stuck";
}

/** The last lines of a screen, indented, for the message that a client could not be started. */
async function lastWords(cfg: Config, pane: Pane): Promise<string> {
  return tailOf(withoutEnd(await lastScreen(cfg, pane)), 5).split("\n")
    .map((line) => `    ${line}`).join("\n");
}

type Named = Pick<Service, "name" | "session">;

/** A unit that could not be started or ended. */
interface Failure {
  name: string;
  why: string;
  /** Only a person can help: exit code 3. */
  stuck?: boolean;
}

const exceptFailed = (units: Unit[], failed: Failure[]): Unit[] =>
  units.filter((unit) => !failed.some(({ name }) => name === unit.name));

/** Takes back that a unit was ordered down. */
function release(operator: Operator, name: string): void {
  delete operator.held[name];
  operator.released[name] = world.now();
}

/**
 * Marks the units that this command is about to start. The watchdog leaves them alone: it might
 * start one in the meantime, and the command would start it again.
 */
function takeInHand(operator: Operator, units: Unit[]): void {
  operator.owners ??= {};
  for (const { name } of units) {
    operator.busy[name] = world.now() + BUSY_FOR;
    operator.owners[name] = signature();
  }
}

/**
 * Renews our marks, and returns the units that we still have in hand. Not one that ran when this
 * command began, nor one that a watchdog took over: a task may have run and ended there.
 */
async function keepInHand(cfg: Config, units: Unit[]): Promise<Unit[]> {
  const watched = isHeldBySomebody(cfg, "watchdog");
  const left = ({ busy }: Operator, { name }: Unit) => (busy[name] ?? 0) - world.now();
  const ours = (operator: Operator) => units.filter((unit) =>
    operator.owners?.[unit.name] === signature() && (!watched || left(operator, unit) > 0));
  const operator = await operatorOf(cfg);
  if (ours(operator).some((unit) => left(operator, unit) < BUSY_FOR / 2)) {
    // on a full disk they lapse: a watchdog takes over, and without one nobody does
    await changeOperator(cfg, (now) => takeInHand(now, ours(now))).catch(() => {});
  }
  return ours(operator);
}

/** Only our mark goes: what was ordered in the meantime stands. It is void once we have ended. */
async function letGo(cfg: Config, units: Unit[]): Promise<void> {
  const isOurs = ({ owners }: Operator, { name }: Unit) => owners?.[name] === signature();
  const operator = await operatorOf(cfg);
  if (!units.some((unit) => isOurs(operator, unit))) return;
  await changeOperator(cfg, (operator) => {
    for (const { name } of units.filter((unit) => isOurs(operator, unit))) {
      delete operator.busy[name];
      delete operator.owners![name];
      if (!isHeld(operator, name)) operator.released[name] = world.now();
    }
  }).catch((error) => log(messageOf(error)));
}

/** Hands this login's ssh agent to the watchdog, whose own login may have ended. */
async function leaveSshAgent(cfg: Config): Promise<void> {
  const socket = process.env.SSH_AUTH_SOCK;
  if (!cfg.loop.handoff || !socket || !isThere(socket)) return;
  if (cfg.stored.sshAgent !== socket) await world.writeAtomic(sshAgentFile(cfg), socket);
  cfg.stored.sshAgent = socket;
}

const REPEAT =
  'to repeat one take DONE out of its status file, push that, and run "agents phase set ID"';
const SEQUENCE_COMPLETE =
  `all phases are done; add a phase to [loop] and run "agents phase next", or ${REPEAT}`;

const upStarts = (name: string): string => `"agents up ${name}" starts it`;

const isLoop = (unit: Unit): boolean => isAgent(unit) && unit.kind === "loop";

/** The loop agents among these that nothing may start now: their phases are done, or unreadable. */
function barredLoops(cfg: Config, units: Unit[]): Failure[] {
  const why = phaseTrouble(cfg) || (isComplete(cfg) ? SEQUENCE_COMPLETE : "");
  return why ? units.filter(isLoop).map(({ name }) => ({ name, why })) : [];
}

/**
 * The config for a command that orders something. Two configs that share a log_dir share its locks,
 * orders and memory: to one of them, the clients of the other have left the config.
 */
async function configToAct(call: Call): Promise<Config> {
  const cfg = await configFor(call);
  const pid = holderOf(cfg, "watchdog") ?? holderOf(cfg, "keeper");
  const other = (pid !== null && configOf(pid)) || cfg.path;
  if (isThere(other) && !(await isSameConfig(other, cfg.path))) {
    die(`${cfg.logDir} is in use by the fleet of ${other} (pid ${pid}): give ${cfg.path} ` +
      `a log_dir of its own, or end that one: agents down --config ${quoted(other)}`);
  }
  return cfg;
}

/** Dies where this very config runs with another log_dir, as its file was edited since. */
async function checkLogDir(cfg: Config, { foreign }: Snapshot): Promise<void> {
  const homes = new Set(foreign.map(({ home }) => home));
  homes.delete(homeOf(cfg));
  for (const home of await answering([...homes])) {
    const pid = lockHolder(join(home, "watchdog.lock"));
    const path = pid !== null && !(await movedTo(cfg, pid)) && configOf(pid);
    if (path && await isSameConfig(path, cfg.path)) die(staysText("log_dir", dirname(home)));
  }
}

/** `up`: services first, then agents, a batch at a time; returns once every client runs. */
export async function cmdUp(call: Call): Promise<number> {
  const cfg = await configToAct(call);
  needTexts(cfg);
  const names = expandNames(cfg, call.words);
  await needTools(cfg);
  makeFolders(cfg);
  await storeRoom(cfg).catch((error) => log(messageOf(error)));
  await warnOfOrdersElsewhere(cfg).catch((error) => log(`warning: ${messageOf(error)}`));
  const wanted = [...unitsOf(cfg).values()].filter((unit) =>
    names.length ? names.includes(unit.name) : !isAgent(unit) || unit.enabled);
  const barred = barredLoops(cfg, wanted);
  const units = exceptFailed(wanted, barred);
  // loops whose phases are all done are no failure where nobody named them
  const rests = !names.length && barred.length > 0 && !phaseTrouble(cfg);
  if (rests) log(`not started: ${barred.map(({ name }) => name).join(", ")}: ${SEQUENCE_COMPLETE}`);
  const withWatchdog = !names.length || names.includes("watchdog");
  let wasDown = false;
  const snap = await snapshot(cfg);
  await checkLogDir(cfg, snap);
  // what runs already stays in the watchdog's hands
  const down = units.filter(({ session }) => sessionAlive(snap, session) !== true);
  await changeOperator(cfg, (operator) => {
    for (const { name } of wanted) release(operator, name);
    takeInHand(operator, down);
    if (!withWatchdog) return;
    wasDown = isHeld(operator, "watchdog");
    delete operator.held.watchdog;
  });
  try {
    noteOrder(cfg, "up", orderedNames(wanted, withWatchdog));
    await leaveSshAgent(cfg);
    if (wanted.some(isLoop) && !rests) await checkChannel(cfg);
    const code = await startAndWait(cfg, units, rests ? [] : barred, async () => {
      if (!withWatchdog || (await startWatchdog(cfg, wasDown))) return [];
      const why = isHeld(await operatorOf(cfg), "watchdog") ? OVERTAKEN
        : `did not start; see ${sessionLogPath(cfg, watchdogSession(cfg))}`;
      return [{ name: "watchdog", why }];
    });
    nameOrphans(orphansOf(cfg, await snapshot(cfg)));
    return code;
  } finally {
    await letGo(cfg, down);
  }
}

const orderedNames = (units: Unit[], withWatchdog: boolean): string[] =>
  [...units.map(({ name }) => name), ...(withWatchdog ? ["watchdog"] : [])];

/** The groups in which what a unit left running may be. */
function oldGroups(watch: Watch, { name }: Unit): (Group | null)[] {
  const memory = memoryOf(watch, name);
  return [endingOf(memory), memory.client];
}

/**
 * Ends what a unit left running when its session went; returns what cannot be ended. `all`: the
 * processes of the fleet.
 */
async function endLeftOver(
  cfg: Config, watch: Watch, unit: Unit, all: ReturnType<typeof listFleet>,
): Promise<Failure[]> {
  try {
    const left = await leftOver(cfg, watch, unit, oldGroups(watch, unit), all);
    const stuck = left ? await endFamilies([left]) : [];
    return stuck.length ? [stuckAt(unit, stuck)] : [];
  } catch (error) {
    return [{ name: unit.name, why: messageOf(error) }];
  }
}

/** The failure of a unit some of whose processes could not be ended. */
const stuckAt = ({ name }: Named, members: Member[]): Failure =>
  ({ name, why: cannotEnd(members), stuck: true });

/** Starts what does not run, `start_batch` at a time; collects first texts in `boots`. */
async function startAll(
  cfg: Config, wanted: Unit[], boots: Message[], step: Step,
): Promise<Failure[]> {
  const known = await loadWatch(cfg);
  const failures: Failure[] = [];
  const began: number[] = [];
  const groups = wanted.flatMap((unit) => oldGroups(known, unit));
  let [listed, all] = [-Infinity, null as ReturnType<typeof listFleet>];
  const processes = () => {
    const isOld = world.mono() - listed > RUNNING_AFTER;
    if (isOld) [listed, all] = [world.mono(), listFleet(cfg, groups)];
    return all;
  };
  let snap = usable(await lookAtSessions(cfg, known));
  let looked = world.mono();
  for (const [nth, unit] of wanted.entries()) {
    step(nth, unit.name);
    const before = began.at(-cfg.watchdog.startBatch) ?? -Infinity;
    await world.sleep(Math.max(0, before + RUNNING_AFTER - world.mono()));
    // the watchdog may have started some of them in the meantime
    if (world.mono() - looked > RUNNING_AFTER) [snap, looked] = [await snapshot(cfg), world.mono()];
    try {
      const running = sessionAlive(snap, unit.session) === true;
      let need = "";
      if (!running) [need, snap] = await awaitNeeds(cfg, unit, snap, wanted.slice(nth + 1));
      if (need) {
        failures.push({ name: unit.name, why: `not started: ${unreadyText(need)}` });
        continue;
      }
      if (!running && !(await keepInHand(cfg, [unit])).length) continue;
      const stuck = running ? [] : await endLeftOver(cfg, known, unit, processes());
      failures.push(...stuck);
      if (stuck.length) continue;
      if (isLoop(unit)) await readState(cfg); // another phase may have begun while it waited
      const cause = cfg.overridden.has(unit.name) ? "override" : "";
      const first = async (boot: string) => {
        const message = messageFor(unit.name, "boot", boot);
        boots.push(message);
        await queueMessages(cfg, [message]);
      };
      const done = await begin(cfg, known, unit, snap,
        { cause, byHand: true, cleared: true, onBoot: first });
      if (done.why) failures.push({ name: unit.name, why: done.why });
      if (done.outcome !== "started") continue;
      began.push(world.mono());
      if (!isAgent(unit)) snap = await snapshot(cfg);
    } finally {
      await letGo(cfg, [unit]);
    }
  }
  return failures;
}

/**
 * Waits for what a unit needs, up to `up_wait` or `connect_delay`; `need` = it is not ready. In the
 * meantime it and those that come `later` stay in hand.
 */
async function awaitNeeds(
  cfg: Config, unit: Unit, snap: Snapshot, later: Unit[],
): Promise<[need: string, snap: Snapshot]> {
  const connects = isAgent(unit) ? backendOf(cfg, unit).connectDelay + 1 : 0;
  const patience = world.mono() + Math.max(cfg.watchdog.upWait, connects) * 1000;
  let since: number | undefined;
  for (;;) {
    await keepInHand(cfg, [unit, ...later]);
    const need = await notReady(cfg, unit, snap, since);
    if (need === SERVER) since ??= world.mono();
    if (!need || world.mono() >= patience) return [need, snap];
    await world.sleep(200);
    snap = await snapshot(cfg);
  }
}

/**
 * Waits, before units are restarted, until what those that run need is ready, up to `up_wait`:
 * those for which it is not are not to be ended. What is restarted with them is no matter.
 */
async function awaitNeedsOfLiving(
  cfg: Config, units: Unit[], first: Snapshot,
): Promise<Failure[]> {
  const patience = world.mono() + cfg.watchdog.upWait * 1000;
  const living = units.filter(({ session }) => sessionAlive(first, session));
  for (let snap = first; ; snap = await snapshot(cfg)) {
    const asked = await Promise.all(living.map((unit) => unreadyNeed(cfg, unit, snap, units)));
    const waiting = living.flatMap(({ name }, nth) => asked[nth]
      ? [{ name, why: `not restarted: ${unreadyText(asked[nth])}` }] : []);
    if (!waiting.length || world.mono() >= patience) return waiting;
    await keepInHand(cfg, units);
    await world.sleep(200);
  }
}

/** Reports the progress of a long command: how many are done, and what it is doing. */
type Step = (done: number, what: string) => void;

/** From this many steps on a bar is drawn; fewer lines are read at a glance. */
const BAR_FROM = 20;

/**
 * Draws a progress bar on a terminal: routine lines are then dropped, others appear above it. In a
 * pipe, or with few steps, there is no bar and every line is printed.
 */
async function withBar<T>(total: number, work: (step: Step) => Promise<T>): Promise<T> {
  if (total < BAR_FROM || world.errorWidth() === Infinity) return work(() => {});
  const print = world.log;
  let shown = "";
  const draw = () => world.printError(`\r${fit(shown, world.errorWidth() - 1)}\r`);
  barDrawn = true;
  world.log = (line) => {
    const bar = shown;
    shown = "";
    draw();
    print(line);
    shown = bar;
    draw();
  };
  try {
    return await work((done, what) => {
      const full = Math.round((30 * done) / total);
      shown = `${done}/${total} [${"█".repeat(full)}${"·".repeat(30 - full)}] ${what}`;
      draw();
    });
  } finally {
    barDrawn = false;
    world.log = print;
    if (shown) world.printError("\n");
  }
}

/** Types the first texts where no watchdog runs; the rest stays queued until one does. */
async function bootAll(cfg: Config, boots: Message[]): Promise<void> {
  const delays = boots.map(({ target }) => backendOf(cfg, cfg.agents.get(target)!).connectDelay);
  await deliverByHand(cfg, boots, world.mono() + (Math.max(...delays) + 20) * 1000);
}

/** A client counts as running after this long, ms: one that is not installed ends within 100. */
const RUNNING_AFTER = 1_000;

/** Waits up to `up_wait` for all clients to run; returns those that ended or never started. */
async function awaitClients(cfg: Config, units: Unit[], step: Step): Promise<Failure[]> {
  const deadline = world.mono() + cfg.watchdog.upWait * 1000;
  for (;;) {
    const snap = await snapshot(cfg);
    const operator = await operatorOf(cfg);
    const isNew = (pane: Pane) => !pane.dead && world.now() - pane.created < RUNNING_AFTER;
    const late = units.filter((unit) => {
      const pane = snap.panes.get(unit.session);
      return !isHeld(operator, unit.name) && (!pane || isNew(pane));
    }).map(({ session }) => snap.panes.get(session));
    const dead = units.filter((unit) => sessionAlive(snap, unit.session) !== true);
    step(units.length - dead.length,
      late.length ? `running, waiting for ${late.length}` : "running");
    if (late.length && world.mono() < deadline) {
      // nothing but the end of one is news, and that needs no tmux
      const isRunning = (pane?: Pane) => pane && isNew(pane) && world.signal(pane.pid, 0);
      do await world.sleep(100);
      while (world.mono() < deadline && late.every(isRunning));
      continue;
    }
    if (!snap.ok) die(`tmux: ${snap.why}`);
    const failures = await Promise.all(dead.map((unit) => isHeld(operator, unit.name)
      ? { name: unit.name, why: OVERTAKEN }
      : explainDeath(cfg, unit, snap.panes.get(unit.session))));
    return failures.filter((failure) => failure !== null);
  }
}

/** Why a client does not run after its start; null = it is a task that has already succeeded. */
async function explainDeath(
  cfg: Config, unit: Unit, pane: Pane | undefined,
): Promise<Failure | null> {
  const failed = (why: string): Failure => ({ name: unit.name, why });
  if (!pane) return failed("its session is gone");
  if (isAgent(unit) && unit.kind === "task" && pane.status === 0) return null;
  const { missing } = unrunBy(pane, await lastScreen(cfg, pane));
  if (missing.startsWith(INTERPRETER_OF)) {
    return failed(`${missing} was not found; see the first line of that file`);
  }
  if (missing) {
    return failed(isAgent(unit)
      ? notFoundFor(cfg, unit, missing) : notFound(missing, unit.dir));
  }
  const words = await lastWords(cfg, pane);
  const ended = `its client ended (${endInWords(pane)})`;
  return failed(words.trim() ? `${ended}:\n${words}` : ended);
}

/**
 * `down`: stores the order first, which every start checks, then ends the watchdog, so that nothing
 * is healed. All stays down until `up`; what a later `up` already took back is left alone.
 */
export async function cmdDown(call: Call): Promise<number> {
  const strays = call.options.orphans === true;
  if (strays && call.words.length) die("usage: down [name… | --orphans]", 2);
  const cfg = await configToAct(call);
  await needTools(cfg);
  const snap = await snapshot(cfg);
  await checkLogDir(cfg, snap);
  const orphans = findOrphans(cfg, strays ? usable(snap) : snap);
  const names = expandNames(cfg, call.words, orphans.map(({ name }) => name));
  const every = !names.length && !strays;
  const units = [...unitsOf(cfg).values()].filter(({ name }) => every || names.includes(name));
  const ending = orphans.filter(({ name }) => strays || names.includes(name));
  const withWatchdog = every || names.includes("watchdog");
  if (strays && !ending.length) {
    await loadWatch(cfg); // throws where it cannot be read: of another user's fleet nothing is seen
    log("no orphans: every client that runs is in the config");
  }
  const ordered = orderedNames(units, withWatchdog);
  // the config may name them again, as after a half-finished edit
  const strayed = ending.map(({ name }) => name);
  const order = await storeDown(cfg, [...ordered, ...strayed]);
  if (order !== "absent") {
    noteOrder(cfg, strays ? "down --orphans" : "down", [...ordered, ...strayed]);
  }
  const stands = async (name: string): Promise<boolean> =>
    order !== "stored" || !ordered.includes(name) || isHeld(await operatorOf(cfg), name);
  let end: WatchdogEnd = "absent";
  if (withWatchdog) {
    end = await stopWatchdog(cfg, () => stands("watchdog"));
    log(WATCHDOG_END[end]);
  }
  const stuck = await stopUnits(cfg, [...units, ...ending], stands, withWatchdog);
  for (const { name, why, stuck: isStuck } of stuck) {
    log(`${name}: ${why}`);
    if (isStuck) emit(cfg, "blocked", { agent: name, why });
  }
  for (const { pid, what, dir } of await findBackground(cfg, units)) {
    log(`left running: ${what} in ${dir} (pid ${pid}), which this fleet did not start`);
  }
  nameOrphans(orphans.filter((one) => !ending.includes(one)));
  return stuck.length || ["stuck", "unknown"].includes(end) ? 3 : order === "failed" ? 1 : 0;
}

/** Orders units to stay down; "absent" = there is no folder to store that in. */
async function storeDown(
  cfg: Config, names: string[],
): Promise<"stored" | "failed" | "absent"> {
  if (!tried(() => world.mtime(cfg.logDir) !== null, true)) return "absent";
  try {
    await changeOperator(cfg, (operator) => {
      for (const name of names) operator.held[name] = world.now();
    });
    return "stored";
  } catch (error) {
    // agents must be stoppable even where the order cannot be stored, as on a full disk
    log(`could not save the down order (${messageOf(error)}); ` +
      "the watchdog may restart these units");
    return "failed";
  }
}

/** Orphans with a pane, and those of which only processes with this fleet's mark are left. */
function findOrphans(cfg: Config, snap: Snapshot): Orphan[] {
  const orphans = orphansOf(cfg, snap);
  const known = [...unitsOf(cfg).keys(), ...orphans.map(({ name }) => name)];
  const fleet = `${cfg.room}/`;
  const all = listFleet(cfg, []) ?? [];
  // an agent that has another name by now keeps its session, where a client has the mark of the old
  const kept = new Set([...unitsOf(cfg).values()].map(({ session }) => {
    const pid = snap.panes.get(session)?.pid;
    return all.find((one) => one.pid === pid)?.mark;
  }));
  const marked = new Set(all.flatMap(({ mark }) =>
    kept.has(mark) ? [] : [mark.slice(fleet.length).split("/")[0]!]));
  const left = [...marked].filter((name) => sessionName(name) === null && !known.includes(name));
  return [...orphans, ...left.map((name) =>
    ({ name, session: `${cfg.sessionPrefix}${name}`, pane: null }))];
}

function nameOrphans(orphans: Orphan[]): void {
  for (const { name, pane } of orphans) {
    const what = pane?.dead ? "its dead pane is still there" : "its client is still running";
    log(`${name} left the config, ${what}; end it: agents down ${name}`);
  }
}

/**
 * Ends units with everything that they started; returns what cannot be ended. `stands`: whether the
 * order still holds for a name. `withLog`: also the session that shows the watchdog's log.
 */
async function stopUnits(
  cfg: Config, units: Named[], stands: (name: string) => Promise<boolean>, withLog = false,
): Promise<Failure[]> {
  let unread = "";
  const known = await loadWatch(cfg).catch((error) => {
    unread = messageOf(error);
    log(`${unread}; ending without the watchdog's memory what has a pane or our mark`);
    return freshWatch();
  });
  const families = new Map<Named, Family>();
  const panes: Pane[] = [];
  const lost: Conversed[] = [];
  const others: Failure[] = [];
  await betweenOrders(cfg, async () => {
    const look = await lookAtSessions(cfg, known);
    const snap = look.ok ? look : usable(await snapshot(cfg));
    if (!look.ok) log(`tmux: ${look.why}; ending the clients without it; their panes stay`);
    const follow = snap.panes.get(watchdogSession(cfg));
    if (follow && withLog && await stands("watchdog")) panes.push(follow);
    const all = listProcesses();
    for (const unit of units) {
      if (!(await stands(unit.name))) continue;
      const pane = snap.panes.get(unit.session);
      const memory = memoryOf(known, unit.name);
      const groups = [pane && groupOf(pane), endingOf(memory), memory.client];
      const { marks, ...family } = familyOf(cfg, unit.name, groups, all);
      // an orphan that was started under another prefix carries another mark
      const own = all?.find(({ pid }) => pid === pane?.pid)?.mark;
      const whole = { ...family, marks: own ? [...marks, own] : marks };
      families.set(unit, whole);
      // nothing shows that it is ours, nor that nothing of ours runs
      const other = foreignIn(cfg, snap, unit.session);
      const byHand = `${tmuxByHand(cfg)} kill-session -t ${targetSession(unit.session)}`;
      if (other) {
        others.push({ name: unit.name, why: `${other}, or end what is left of it: ${byHand}` });
      }
      const running = pane || membersOf(whole, all).length;
      if (running) log(`ending ${unit.session}`);
      else if (!other && !unread) {
        log(`${unit.name}: not running${strangerNote(cfg, snap, unit.session)}`);
      } else if (!other) {
        // another user's has a tmux server and marks that nobody else sees
        others.push({ name: unit.name, why: `nobody can say whether it runs: ${unread}` });
      }
      if (pane) panes.push(pane);
      else lost.push(lostConversation(cfg, known, unit));
    }
    for (const pane of panes) await killSession(cfg, pane);
  });
  const left = await awaitEnd(cfg, panes, [...families.values()], lost);
  const all = left.length ? listProcesses() : [];
  const stuck = [...families].flatMap(([unit, family]) => {
    const members = left.length ? membersOf(family, all) : [];
    return members.length ? [stuckAt(unit, members)] : [];
  });
  const ended = [...families.keys()].filter((unit) =>
    !stuck.some(({ name }) => name === unit.name));
  return [...others, ...stuck, ...await endAgain(cfg, ended, stands)];
}

/**
 * Ends once more what runs again, and returns what runs even then: as a pane ends, a tmux hook of
 * the operator's may respawn it, or one that was still to be ended.
 */
async function endAgain(
  cfg: Config, units: Named[], stands: (name: string) => Promise<boolean>,
): Promise<Failure[]> {
  for (let tries = 0; ; tries++) {
    const snap = await snapshot(cfg);
    if (!snap.ok) log(`tmux: ${snap.why}; it does not show whether anything runs again`);
    const again: [Named, Pane][] = [];
    for (const unit of units) {
      const pane = snap.panes.get(unit.session);
      if (pane && !pane.dead && await stands(unit.name)) again.push([unit, pane]);
    }
    if (!again.length || tries) {
      const by = `something restarts it, such as a hook; see: ${tmuxByHand(cfg)} show-hooks -g`;
      return again.map(([{ name }, { pid }]) =>
        ({ name, why: `runs again (pid ${pid}): ${by}`, stuck: true }));
    }
    await stopPanes(cfg, again.map(([, pane]) => pane));
  }
}

/**
 * How long, ms, `down` and `doctor` wait for the disk of just any process of this user. Where one
 * hangs, the others have answered by then: the thread that it holds is left after a second.
 */
const BACKGROUND_PATIENCE = 2_000;

/** The folder of the Claude Code background session that a process is; null = it is none. */
function backgroundFolder(pid: number, path: string): string | null {
  try {
    const written = world.mtime(path);
    if (written === null) return null;
    const fresh = written >= startedAt(pid) * 1000 - CLOCK_STEP;
    const session = claudeSession(textNow(path), pid, bornOf(pid), fresh);
    return session?.kind === "bg" ? String(session.cwd ?? "") : null;
  } catch {
    return null; // it is another user's
  }
}

/** The Claude Code background sessions among processes, and the folder of each. */
async function backgroundFolders(pids: number[]): Promise<[number, string][]> {
  const homes = [...Map.groupBy(pids, (pid) => claudeFolder(pid))];
  const found = homes.map(async ([home, there]): Promise<[number, string][]> => {
    if (!(await within(BACKGROUND_PATIENCE, world.answers(home), false))) return [];
    const sessions = join(home, "sessions");
    const names = new Set(tried(() => world.list(sessions), [])); // else it is another user's
    return there.filter((pid) => names.has(`${pid}.json`)).flatMap((pid): [number, string][] => {
      const folder = backgroundFolder(pid, join(sessions, `${pid}.json`));
      return folder === null ? [] : [[pid, folder]];
    });
  });
  return (await Promise.all(found)).flat();
}

/** Whether a command line is that of Codex's app server, or of the loop that updates it. */
export const isCodexDaemon = (argv: string[]): boolean => argv.some((word, at) =>
  /^codex\b/.test(basename(word)) &&
  argv.slice(at + 1).some((one) => one === "app-server" || one === "pid-update-loop"));

/**
 * Background sessions and daemons of clients in our folders that do not carry our mark: the person
 * is told of them, and decides.
 */
async function findBackground(cfg: Config, units: Unit[]) {
  const agents = units.filter(isAgent);
  const dirs = (await answering(agents.map(({ dir }) => dir))).map(linkless);
  const isOurs = (dir: string) => dirs.some((one) => dir === one || dir.startsWith(`${one}/`));
  const isCodex = ({ kind, bin }: Backend) => kind === "codex" || programOf(bin).endsWith("codex");
  const homes = agents.filter((agent) => isCodex(backendOf(cfg, agent))).map(codexHomeOf);
  const fleet = `${cfg.room}/`;
  const others = otherPids().filter((pid) => !variableOf(pid, UNIT_MARK).startsWith(fleet));
  const sessions = new Map(await backgroundFolders(others));
  return others.flatMap((pid) => {
    const folder = sessions.get(pid);
    if (folder !== undefined) {
      return isOurs(folder) ? [{ pid, what: "Claude Code's background session", dir: folder }] : [];
    }
    if (!isCodexDaemon(argvOf(pid))) return [];
    const dir = world.folder(pid);
    const home = codexHome(variableOf(pid, "CODEX_HOME"), variableOf(pid, "HOME"));
    return isOurs(dir) || homes.includes(home) ? [{ pid, what: "Codex's daemon", dir }] : [];
  });
}

/** What to add to "not running" where a stranger's session has the unit's name. */
function strangerNote(cfg: Config, snap: Snapshot, session: string): string {
  const stranger = foreignIn(cfg, snap, session) || strangerIn(cfg, snap, session);
  return stranger && `; ${stranger}`;
}

/**
 * Ends units and starts them again; until then a mark tells the watchdog to leave them alone.
 * `earlier`: failures so far.
 */
async function restartUnits(
  cfg: Config, wanted: Unit[], fresh: boolean, earlier: Failure[] = [],
): Promise<number> {
  // nothing is ended that could not be started again
  const snap = await neededSnapshot(cfg);
  await checkLogDir(cfg, snap);
  const asked = wanted.map(async (unit) =>
    ({ name: unit.name, why: await whyIrreplaceable(cfg, snap, unit) }));
  const prevented = (await Promise.all(asked)).filter(({ why }) => why);
  const units = exceptFailed(wanted, prevented);
  await changeOperator(cfg, (operator) => {
    for (const { name } of units) release(operator, name);
    takeInHand(operator, units);
  });
  try {
    prevented.push(...await awaitNeedsOfLiving(cfg, units, snap));
    const ending = exceptFailed(units, prevented);
    const stuck = await stopUnits(cfg, ending,
      async (name) => !isHeld(await operatorOf(cfg), name));
    if (fresh) for (const unit of ending) if (isAgent(unit)) await dropResumeId(cfg, unit);
    return await startAndWait(
      cfg, exceptFailed(ending, stuck), [...earlier, ...prevented, ...stuck]);
  } finally {
    await letGo(cfg, units);
  }
}

/**
 * The second half of `up` and `restart`: starts units, types the first texts, waits, and says who
 * failed. `earlier`: failures so far; `between`: runs after the starts. Returns the exit code.
 */
async function startAndWait(
  cfg: Config, units: Unit[], earlier: Failure[], between?: () => Promise<Failure[]>,
): Promise<number> {
  const boots: Message[] = [];
  const failures = await withBar(units.length, async (step) => {
    const early = [...earlier, ...(await startAll(cfg, units, boots, step))];
    early.push(...((await between?.()) ?? []));
    if (boots.length && !isHeldBySomebody(cfg, "watchdog")) await bootAll(cfg, boots);
    return [...early, ...(await awaitClients(cfg, exceptFailed(units, early), step))];
  });
  for (const { name, why } of failures) log(`${name}: ${why}`);
  if (!failures.length) return 0;
  // a server that this start brought up could not be asked before; the option may have ended it
  if ((await askServer(cfg, true)).exits) log(EXITS);
  return failures.some(({ stuck }) => stuck) ? 3 : 1;
}

/** `restart`: the units first, then the watchdog if it is named. */
export async function cmdRestart(call: Call): Promise<number> {
  const cfg = await configToAct(call);
  const names = expandNames(cfg, call.words);
  await needTools(cfg);
  makeFolders(cfg);
  await storeRoom(cfg).catch((error) => log(messageOf(error)));
  const wanted = [...unitsOf(cfg).values()].filter((unit) => names.includes(unit.name));
  const barred = barredLoops(cfg, wanted);
  const units = exceptFailed(wanted, barred);
  const withWatchdog = names.includes("watchdog");
  noteOrder(cfg, "restart", orderedNames(units, withWatchdog));
  const code = wanted.length
    ? await restartUnits(cfg, units, call.options.fresh === true, barred) : 0;
  if (!withWatchdog) return code;
  await changeOperator(cfg, (operator) => void delete operator.held.watchdog);
  const end = await stopWatchdog(cfg, () => isWanted(cfg));
  if (end !== "stuck") return (await startWatchdog(cfg)) ? code : 1;
  log(WATCHDOG_END.stuck);
  return 3;
}

// ── what comes next ─────────────────────────────────────────────────────────────
// What the watchdog will do, by its own decisions asked ahead of time: for status and explain.

type Due = keyof typeof DUES;

/** What a clock decides: its word, alone and with a name; its condition; what is said once past. */
const DUES = {
  wake: { word: "wake", of: "wake NAME", if: "", passed: "wake when idle" },
  probe: { word: "probe", of: "probe NAME", if: "", passed: "probing now" },
  stall: { word: "restart", of: "restart NAME", if: " if idle", passed: "restart due" },
  person: { word: "alert you", of: "alert you about NAME", if: " if unsure", passed: "needs you" },
  idle: { word: "treat as idle", of: "treat NAME as idle", if: "", passed: "counts as idle" },
  start: { word: "start", of: "start NAME", if: "", passed: "starts now" },
} as const;

/**
 * What the watchdog does next about an agent, and when (wall ms; null = no clock decides it).
 * `stays`: it stays down until a person starts it, by `up`.
 */
export interface Next { does: string; at: number | null; due?: Due; stays?: true }
/** What `decideNext` goes by; durations are seconds, as in the config, moments wall ms. */
export interface NextFacts {
  settings: Settings; nativeGrace: number; stallIdle: number; watch: Agent["watch"];
  hold: LimitState | null;
  idleSince: number;
  /** Since when it is unsure, and since when it does only background work. */
  unsureSince?: number;
  backgroundSince?: number;
  /** When its next wake is due. */
  wakeAt?: number | undefined;
  /** What the ladder would go by if it ended now. */
  death?: DeathFacts;
  /** Why the watchdog leaves it alone whatever it shows; "" = it does not. */
  left?: string;
  now: number;
}

export function decideNext(verdict: Verdict, facts: NextFacts): Next {
  if (facts.left) return { does: `leaves it alone: ${facts.left}`, at: null };
  if (verdict.verdict === "blocked") return NEEDS_YOU;
  if (facts.watch === "none") return { does: 'leaves it alone: watch is "none"', at: null };
  return nextOfLimit(verdict, facts) ?? nextOfVerdict(verdict, facts);
}

function nextOfLimit(
  verdict: Verdict, { settings, nativeGrace, hold, now }: NextFacts,
): Next | null {
  const action = decideLimit(hold, verdict, now);
  if (action.do === "none") return null;
  if (action.do === "lift") return { does: `ends the hold: ${action.why}`, at: now };
  if (action.do === "probe") return { does: "asks it to go on", at: now, due: "probe" };
  const until = hold ? hold.until : nextLimitUntil(settings, verdict.limit, nativeGrace, now);
  return { does: "leaves it alone, and asks it to go on", at: until * 1000, due: "probe" };
}

/** A restart in words: the ladder may delay the start, or park the agent instead. */
function restartWords({ death, settings }: NextFacts): string {
  const action = death && decideDeath(death, settings);
  if (action?.do === "park") return `ends it and parks it (${action.why})`;
  const delay = action?.do === "wait" ? action.delay : 0;
  return delay ? `ends it and starts it again ${delay} s later` : "restarts it";
}

const NEEDS_YOU: Next = { does: "types nothing and restarts nothing: it needs you", at: null };

function nextOfVerdict({ verdict, waitingUntil }: Verdict, facts: NextFacts): Next {
  const { settings, stallIdle, watch, idleSince, wakeAt, now } = facts;
  const restarts = restartWords(facts);
  if (verdict === "fatal") return { does: restarts, at: now };
  if (verdict === "unsure") return nextOfUnsure(facts);
  if (verdict === "active") return { does: "leaves it alone while it works", at: null };
  if (verdict === "background") {
    const { backgroundSince: since = now } = facts;
    return { does: "waits for its background work, then treats it as idle",
      at: Math.max(waitingUntil ?? 0, since + settings.backgroundMax * 1000), due: "idle" };
  }
  const wake: Next | null = verdict === "idle" && wakeAt !== undefined
    ? { does: "sends its wake", at: wakeAt, due: "wake" } : null;
  if (watch === "heal") return wake ?? { does: 'leaves it alone: watch is "heal"', at: null };
  const past = waitingUntil === null
    ? 0 : waitingUntil + Math.max(settings.stallGrace, stallIdle) * 1000;
  const at = Math.max(past, idleSince + stallIdle * 1000, now);
  if (wake && wake.at! < at) return wake;
  return verdict === "waiting" ? { does: `waits, then ${restarts} if it has not gone on`, at }
    : { does: `${restarts} if it is still idle`, at, due: "stall" };
}

function nextOfUnsure({ settings, unsureSince: since, now }: NextFacts): Next {
  const due = since === undefined ? null : since + settings.unsureAfter * 1000;
  if (due !== null && due <= now) return NEEDS_YOU;
  return { does: `does nothing; keeps the screen after ${UNSURE_LOOKS} looks, ` +
    "and reports it to you if it stays so", at: due, due: "person" };
}

const leavesDown = (why: string): Next => ({ does: `leaves it down: ${why}`, at: null });
const staysDown = (why: string): Next => ({ ...leavesDown(why), stays: true });

/** What the watchdog does next about a client that is down. `fresh`: an end not noted yet. */
export function decideNextDown(
  memory: Memory, fresh: DeathFacts | null, settings: Settings, now: number,
): Next {
  const action = decideHeal(memory.life, now, settings.restartDelayMax * 1000);
  const down = downOf(memory.life);
  if (action.do === "hold") return staysDown(action.why);
  if (memory.life.state === "stopping") return { does: `starts it later: ${action.why}`, at: null };
  const end = fresh && decideDeath(fresh, settings);
  if (end?.do === "finish") return staysDown(end.why);
  if (end?.do === "park") return { does: `parks it: ${end.why}`, at: now, stays: true };
  const delay = end ? end.delay * 1000 : 0;
  const at = action.do === "wait" && down.state === "backoff" ? down.until : now + delay;
  return { does: "starts it", at, due: "start" };
}

type StepLook = Pick<StatusLook, "watch" | "operator" | "complete" | "now">;
type StepFacts = { pane: Pane; memory: Memory; verdict: Verdict; hold: LimitState | null };

/** Why the watchdog leaves an agent alone; "" = it does not. `verdict`: null = it does not run. */
function whyLeft(
  cfg: Config, { watch, operator, complete, now }: StepLook, agent: Agent,
  hold: LimitState | null, verdict: Verdict | null,
): string {
  const handsOff = whyHandsOff(operator, agent.name);
  if (handsOff) return handsOff;
  if (!agent.enabled) return "it is not enabled";
  if (!verdict && hold && isHolding(hold, now)) return holdWords(hold);
  const shared = hold && verdict ? null : accountLimitOf(cfg, watch, agent);
  const holds = !verdict || verdict.verdict === "fatal" || // a restart waits for it, too
    decideAccount(shared, agent.name, false, verdict, now) !== verdict;
  if (shared && holds) return accountWords(shared);
  if (agent.kind !== "loop") return "";
  return watch.intent ? "a phase move is under way" : complete ? "all phases are done" : "";
}

/** When the next wake of an agent is due, wall ms; absent = none comes. */
const wakeAtOf = ({ watch, complete }: StepLook, { name, wake }: Agent): number | undefined =>
  (wake && !complete ? watch.wakeDue[name] : undefined);

/** Since when (wall ms) a client is in this state: as the watchdog remembers, else as it drew. */
function sinceWhen(
  verdict: Memory["verdict"], memory: Memory, { created, activity }: Pane, now: number,
): number {
  if (memory.since >= created && memory.verdict === verdict) return memory.since;
  return verdict === "active" ? now : Math.max(created, Math.min(activity || now, now));
}

/**
 * What the watchdog does next about an agent whose client runs: its own decisions, asked ahead of
 * time. `memory` and `verdict` are what is believed of it now.
 */
function nextStep(
  cfg: Config, look: StepLook, agent: Agent, { pane, memory, verdict, hold }: StepFacts,
): Next {
  const { now } = look;
  const since = sinceWhen(verdict.verdict, memory, pane, now);
  const backend = backendOf(cfg, agent);
  const pauses = hasBox(backend) ? 1 : NO_BOX_PAUSES;
  return decideNext(verdict, {
    settings: cfg.watchdog, nativeGrace: backend.nativeGrace,
    stallIdle: pauses * stallPauseOf(cfg, agent, memory), watch: agent.watch, hold,
    idleSince: since, unsureSince: since, backgroundSince: memory.backgroundSince || now,
    wakeAt: wakeAtOf(look, agent),
    left: whyLeft(cfg, look, agent, hold, verdict) || memory.hindered || "",
    death: deathOf(cfg, agent, memory, null, now - pane.created), now,
  });
}

async function nextOfDown(
  cfg: Config, look: StepLook, agent: Agent, snap: Snapshot,
): Promise<Next> {
  const { now } = look;
  const memory = memoryOf(look.watch, agent.name);
  const pane = snap.panes.get(agent.session);
  const fresh = pane && memory.buried !== deathKey(snap.server, pane)
    ? deathOf(cfg, agent, memory, pane, livedIn(pane), await lastScreen(cfg, pane)) : null;
  const taken = strangerIn(cfg, snap, agent.session) ||
    rivalText(await rivalOf(cfg, snap, agent));
  const left = whyLeft(cfg, look, agent, loadLimitState(cfg, agent.session), null) ||
    (agent.watch === "none" ? 'watch is "none"' : "");
  const ordered = isHeld(look.operator, agent.name) || !agent.enabled || agent.watch === "none";
  if (left && ordered && !taken) return staysDown(left);
  if (taken || left) return leavesDown(taken || left);
  const next = decideNextDown(memory, fresh, cfg.watchdog, now);
  const need = next.due === "start" ? await notReady(cfg, agent, snap) : "";
  return need ? { does: `waits for ${need}`, at: null } : next;
}

const dueOf = ({ due, at }: Next): { next: Due; at: number } | null =>
  (due && at !== null ? { next: due, at } : null);

// ── status ──────────────────────────────────────────────────────────────────────
// What is known of every unit, from one look at everything: the rows of `status`, as data.

type Condition =
  | "working" | "background" | "idle" | "waiting" | "limited" | "blocked" | "unsure"
  | "fatal" | "starting" | "running" | "ending" | "parked" | "backoff" | "ended" | "done"
  | "stopped" | "unknown";

/** A state for people: `state` in one phrase, the rest in parts; `until` is wall ms. */
const described = (
  condition: Condition, state: string, detail = "",
  more: { until?: number; needsHuman?: boolean } = {},
) => ({ state, condition, detail, until: null as number | null, needsHuman: false, ...more });
type Described = ReturnType<typeof described>;

/** A unit's state in words: what a person or the ladder decided, else what its screen says. */
export function describeState(memory: Memory, facts: StateFacts): Described {
  const { pane, stuck } = facts;
  if (stuck) return described("ending", stuck, stuck, { needsHuman: true });
  return pane && !pane.dead ? describeLiving(memory, facts) : describeDown(memory, facts);
}

function describeDown(memory: Memory, facts: StateFacts): Described {
  const { pane, held, enabled, kind, now, stranger, rival, cannot, words } = facts;
  // a code of ours says nothing to people, and what our launch said is all of it
  const unfound = pane?.status === NO_PROGRAM && SAYS_NO_PROGRAM.test(words);
  const end = !pane ? "" : unfound ? words.replace(/^agents: /, "")
    : joined(": ", endOf(pane), words);
  if (held) return described("stopped", BY_YOU, "by you");
  const down = downOf(memory.life);
  if (cannot && enabled && down.state !== "done") {
    return described("stopped", `cannot start: ${cannot}`, cannot, { needsHuman: true });
  }
  if (down.state === "parked") {
    return described("parked", `parked: ${down.why}`, joined(" · ", unfound ? "" : end, down.why),
      { needsHuman: true });
  }
  if (down.state === "done" || (kind === "task" && pane?.status === 0)) {
    return described("done", "done");
  }
  if (kind === "loop" && facts.complete) {
    return described("stopped", "stopped (all phases done)", "all phases done");
  }
  if (rival) return described("stopped", `not running: ${rival}`, rival, { needsHuman: enabled });
  if (stranger !== undefined) {
    const why = `its session holds no client, but ${stranger}`;
    return described("stopped", `not running: ${why}`, why, { needsHuman: enabled });
  }
  if (down.state === "backoff" && down.until > now) {
    const { failures } = memory;
    return described("backoff", `backoff ${ago(down.until - now)} (${ordinal(failures)})`,
      joined(" · ", end, failures ? `failure ${failures}` : ""), { until: down.until });
  }
  if (!pane && !enabled) return described("stopped", "stopped (disabled)", "disabled");
  const { ahead } = facts;
  const after = ahead ? `starts after ${dayTime(ahead.resetAt)} (${LIMIT_NAMES[ahead.class]})`
    : awaitsText(memory);
  const more = { needsHuman: !ahead && Boolean(facts.unready) };
  return pane
    ? described("ended", `ended (${endOf(pane)})`, joined(" · ", end, after), more)
    : described("stopped", joined(": ", "stopped", after), after, more);
}

/** 1st, 2nd, 3rd, 4th, 11th, 21st. */
function ordinal(n: number): string {
  const teen = n % 100 > 10 && n % 100 < 14;
  return `${n}${(!teen && ["th", "st", "nd", "rd"][n % 10]) || "th"}`;
}

/** Whether the client runs and is not being ended. */
const isLiving = (condition: Condition): boolean =>
  !["ending", "parked", "backoff", "ended", "done", "stopped", "unknown"].includes(condition);

function describeLiving(memory: Memory, facts: StateFacts): Described {
  const { limit, now, unsureAfter, words, byYou } = facts;
  const { verdict, why } = memory;
  if (limit && verdict !== "blocked") {
    const at = (limit.resetAt ?? limit.until) * 1000;
    const kind = limit.class === "other" ? "" : limit.class;
    const until = at > now ? dayTime(at) : "";
    return described("limited",
      joined(" ", "limited", until && `until ${until}`, kind && `(${kind})`),
      joined(", ", until && `to ${until}`, kind, until ? "" : "its reset has passed"),
      { until: at });
  }
  if (!memory.since || verdict === "gone") return described("running", "RUNNING");
  const condition = verdict === "active" ? "working" : verdict === "booting" ? "starting" : verdict;
  const vain = verdict === "blocked" ? "" : hinderedText(memory) || uselessRestarts(memory);
  const needsHuman = verdict === "blocked" || (vain !== "" && !byYou) ||
    isUnsureTooLong(memory, unsureAfter, now);
  const said = vain || (needsHuman || verdict === "unsure" ? why : "");
  const isTold = ["fatal", "background", "limited", "waiting"].includes(verdict);
  return described(condition, `${verdict}${said && `: ${said}`} ${ago(now - memory.since)}`,
    vain || words || (isTold ? why : said), { needsHuman });
}

// The words of a client.

/** What a unit's pane shows now; with a verdict if it is an agent that runs. */
interface UnitScreen { text: string; verdict?: Verdict }

/** What a client asks a person, until when it waits, or what it said as it ended; "" = none. */
function clientWords({ text, verdict }: UnitScreen, pane: Pane): string {
  if (pane.dead) return tellingLine(text);
  if (verdict?.waitingUntil && verdict.verdict === "waiting") {
    return `to ${localTime(verdict.waitingUntil)}`;
  }
  if (verdict?.verdict !== "blocked" || namesQuestion(verdict)) return "";
  if (verdict.where === "event") return lineOfText(text, verdict);
  const question = parseQuestion(text, pane.title);
  return verdict.where === "dialog" || question.endsWith("?") ? question : "";
}

/** The most telling line of an ended client: its last error, else its last line. */
function tellingLine(text: string): string {
  const lines = tailOf(withoutEnd(text), 12).split("\n");
  const tells = /error|cannot|not found|fail|denied|refused|panic/i;
  const said = lines.findLast((line) => tells.test(line));
  return plainText(said ?? lines.at(-1) ?? "", SUBJECT_MAX);
}

/** The whole line whose beginning a rule matched. */
function lineOfText(text: string, verdict: Verdict): string {
  const line = splitLines(text).findLast((one) => oneLine(one).startsWith(verdict.text));
  return line ? plainText(line.replace(/^[\s●⎿■✕]+/, ""), SUBJECT_MAX) : "";
}

/** A line of a dialog that offers a choice. */
const CHOICE = /^(?:[❯›>●○] *)?(?:\d+[.)] |✔ |(?:Yes|No|Allow|Deny)\b)/;
/** The last line above a dialog. */
const DIALOG_BEGINS = /^(?:[•■✕✖●✻]|[›❯] (?!\d|No\b|Yes\b|✔))/;
/** A question that says no more than the dialog's title. */
const PLAIN_QUESTION = /^Do you want to (?:proceed|continue)\?$/;

/**
 * What a dialog asks, on one line: its question, or its subject where the question is a plain one;
 * "" = neither can be told for certain.
 */
export function parseQuestion(text: string, title = ""): string {
  const { dialog, lines } = readRegions({ text, title });
  if (dialog === null) return "";
  const all = dialog.split("\n").map((line) => line.replace(/[│┃║]/g, " ").trim());
  const asked = all.findLastIndex((line) => line.startsWith("△"));
  const from = asked < 0 ? all.findLastIndex((line) => DIALOG_BEGINS.test(line)) : asked - 1;
  const until = all.findIndex((line, at) => at > from && CHOICE.test(line));
  const isTitled = asked >= 0 ||
    (from < 0 && /^[─▔]{8}/.test(lines[lines.length - all.length - 1] ?? ""));
  const own = all.slice(from + 1, until < 0 ? undefined : until)
    .map((line) => line.replace(/^[△←→☐◆?•]+ */, ""));
  const question = own.findLast((line) => line.endsWith("?"));
  if (question && !PLAIN_QUESTION.test(question)) return plainText(question, SUBJECT_MAX);
  return isTitled ? plainText(subjectOf(own, question), SUBJECT_MAX) : "";
}

/** A dialog's heading and what it is about: the text in its frame, else the line below. */
function subjectOf(own: string[], question = ""): string {
  const framed = own.findIndex((line) => /^╌{8}/.test(line));
  const [heading = "", next = ""] = own.filter((line) => line && !/^[─▔╌╭╰]/.test(line));
  const body = framed < 0 ? next : own.slice(framed + 1).find(Boolean) ?? "";
  return joined(": ", heading.replace(/:$/, ""), body === question ? "" : body);
}

// One look at everything.

/** Everything that the rows of one `status` are made from. */
type StatusLook = Awaited<ReturnType<typeof lookForStatus>>;

/** The agents that must not be started now because of another client in their folder. */
async function rivalsOf(cfg: Config, snap: Snapshot) {
  const rivals = new Map<string, Rival>();
  for (const agent of cfg.agents.values()) {
    if (sessionAlive(snap, agent.session) !== false) continue;
    const rival = await rivalOf(cfg, snap, agent);
    if (rival) rivals.set(agent.name, rival);
  }
  return rivals;
}

/** Whether the watchdog found this client idle and nothing was drawn since: no need to read it. */
const stillRests = (memory: Memory, pane: Pane, { running, mute }: WatchdogState): boolean =>
  running && !mute && memory.verdict === "idle" && memory.since >= pane.created &&
  showsTheSame(memory, pane);

/** Reads all panes in one call, those of ended clients for their last words. Changes nothing. */
async function lookAtPanes(
  cfg: Config, watch: Watch, snap: Snapshot, watchdog: WatchdogState, named: string[],
): Promise<Map<string, UnitScreen>> {
  const screens = new Map<string, UnitScreen>();
  const units = new Map<Pane, Unit>();
  for (const unit of unitsOf(cfg).values()) {
    const pane = snap.panes.get(unit.session);
    const memory = memoryOf(watch, unit.name);
    const asked = named.length ? named.includes(unit.name) : pane?.dead || isAgent(unit);
    if (!pane || !asked) continue;
    if (named.length || pane.dead || !stillRests(memory, pane, watchdog)) {
      units.set(pane, unit);
    } else {
      const verdict: Verdict = { ...NO_VERDICT, verdict: "idle", why: memory.why };
      screens.set(unit.name, { text: "", verdict });
    }
  }
  const looks: Promise<unknown>[] = [];
  const disks = once(() => askOwnDisks(cfg, [...units].flatMap(([pane, unit]) =>
    !pane.dead && isAgent(unit) ? [[unit, pane] as [Agent, Pane]] : [])));
  await captureAll(cfg, [...units.keys()], (pane, text) => {
    const unit = units.get(pane)!;
    if (text === null) return;
    const one: UnitScreen = { text };
    screens.set(unit.name, one);
    if (pane.dead || !isAgent(unit)) return;
    const { backgroundSince } = memoryOf(watch, unit.name);
    // no verdict means unsure: unreadable files of one client must not hide the other agents
    looks.push(judgeLook(cfg, unit, pane, { text, title: pane.title }, backgroundSince, disks)
      .then((verdict) => (one.verdict = verdict), () => {}));
  });
  await within(STATUS_PATIENCE, Promise.all(looks), []);
  return screens;
}

/** Gathers what `status` shows. `named`: read these screens and no others; none = all agents. */
async function lookForStatus(cfg: Config, named: string[] = []) {
  const watch = await loadWatch(cfg);
  // while tmux works; the first question after the local date alone takes 4 ms
  const [snap, watchdog, today] = await Promise.all([lookAtSessions(cfg, watch),
    readWatchdog(cfg), localDate(world.now()), readState(cfg)]);
  if (!snap.ok && isMissing("tmux")) die(NO_TMUX);
  const [screens, operator, rivals] = await Promise.all(
    [lookAtPanes(cfg, watch, snap, watchdog, named), operatorOf(cfg), rivalsOf(cfg, snap)]);
  const queue = [...watch.outbox, ...freshTexts(watch, operator)];
  const dirs = [...unitsOf(cfg).values()]
    .filter(({ session }) => sessionAlive(snap, session) === false).map(({ dir }) => dir);
  const faults = new Map(await Promise.all([...new Set(dirs)].map(async (dir) =>
    [dir, await folderFault(dir)] as const)));
  return {
    snap, watch, operator, queue, watchdog, complete: isComplete(cfg), now: world.now(), today,
    screens, // by unit name; no entry = its screen was not read, or could not be
    rivals, // by the name of an agent that does not run, the client in its folder
    faults, // what is wrong with the folders of units that do not run; see `folderFault`
  };
}

// What is believed of one unit now.

/** For this long, ms, after it last changed, no screen proves that its client is idle. */
const STILL_AFTER = 2_000;

/**
 * The verdict on a running agent as of now (wall ms). `since` is what the watchdog remembers of the
 * same client, or when it drew last. `young`: it was just started. `quiet`: ms without drawing
 * after which an idle screen is believed.
 */
export function decideNow(
  shown: Verdict | undefined, memory: Memory, pane: Pane, young: boolean, quiet: number,
  now: number,
): Pick<Memory, "verdict" | "why" | "since"> {
  const known = memory.since >= pane.created ? memory : null;
  if (young && shown?.verdict !== "blocked") { // a client may begin with a question
    return { verdict: "booting", why: "it was started a moment ago", since: pane.created };
  }
  if (!shown) {
    const since = known?.verdict === "unsure" ? known.since : now;
    return { verdict: "unsure", why: "its screen could not be read", since };
  }
  const drawn = pane.activity || now;
  if (shown.verdict === "idle" && known?.draft && known.verdict === "blocked") return known;
  const moves = now - drawn < quiet && (known?.verdict === "active" || shown.where === "process");
  const { verdict, why } = shown.verdict === "idle" && moves
    ? { verdict: "active" as const, why: "its screen changed a moment ago" } : shown;
  return { verdict, why, since: sinceWhen(verdict, memory, pane, now) };
}

type UnitNow = ReturnType<typeof unitNow>;

/**
 * One unit as it is now. `live`: its pane, if the client in it runs. `memory`: with the verdict of
 * this look; a unit that does not run keeps its last one.
 */
function unitNow(cfg: Config, look: StatusLook, unit: Unit) {
  const { snap, watch, screens, now } = look;
  const agent = isAgent(unit) ? unit : null;
  const pane = snap.panes.get(unit.session);
  const live = pane && !pane.dead ? pane : null;
  const shown = screens.get(unit.name);
  const memory = memoryOf(watch, unit.name);
  const one = { unit, agent, pane, live, shown, memory, hold: holdOf(cfg, look, unit) };
  if (!agent || !live) return one;
  const backend = backendOf(cfg, agent);
  const quiet = backend.kind === "opencode" ? backend.logGrace * 1000 : STILL_AFTER;
  const young = isBooting(backend, now - live.created, shown?.text ?? "");
  const verdict = decideNow(shown?.verdict, memory, live, young, quiet, now);
  return { ...one, memory: { ...memory, ...verdict } };
}

/** The usage limit that holds a unit, its own or its account's; null = none, or just lifted. */
function holdOf(
  cfg: Config, { snap, screens, now, watch }: StatusLook, unit: Unit,
): LimitState | null {
  const hold = snap.panes.has(unit.session) ? loadLimitState(cfg, unit.session) : null;
  const verdict = screens.get(unit.name)?.verdict;
  if (hold) return verdict && decideLimit(hold, verdict, now).do === "lift" ? null : hold;
  const shared = isAgent(unit) && verdict ? accountLimitOf(cfg, watch, unit) : null;
  if (!shared || decideAccount(shared, unit.name, false, verdict!, now) === verdict) return null;
  return { until: shared.resetAt / 1000, nudges: 0, class: shared.class };
}

/** Why a unit cannot be started, whatever the ladder says; undefined = it can. */
function whyCannotStart(
  cfg: Config, { snap, faults }: StatusLook, { dir, session }: Unit,
): string | undefined {
  const fault = faults.get(dir);
  if (!fault) return foreignIn(cfg, snap, session) || undefined;
  const home = `${dirname(cfg.path)}/`;
  const shown = dir.startsWith(home) ? dir.slice(home.length) : dir;
  return [MISSING, NO_FOLDER].includes(fault) ? `no folder ${shown}` : `folder ${shown} ${fault}`;
}

/** What is left of a client that could not be ended; undefined = nothing. */
function stuckNow(cfg: Config, memory: Memory): string | undefined {
  const stopping = endingOf(memory);
  if (!stopping?.stuck) return undefined;
  const left = membersOf(
    { room: cfg.room, groups: [stopping], marks: stopping.marks ?? [] });
  return left.length ? cannotEnd(left) : undefined;
}

type StateFacts = ReturnType<typeof stateFacts>;

/** What the words for a state go by, besides the memory; `now` is wall ms, `unsureAfter` s. */
const stateFacts = (
  cfg: Config, look: StatusLook, { unit, agent, pane, shown, memory, hold }: UnitNow,
) => ({
  pane, held: isHeld(look.operator, unit.name), enabled: agent?.enabled ?? true, limit: hold,
  kind: agent?.kind ?? "service", complete: look.complete, now: look.now,
  unsureAfter: cfg.watchdog.unsureAfter,
  // the program in a session of its name that is not ours
  stranger: look.snap.strangers.get(unit.session),
  // why it is not started: another client works in its folder
  rival: look.rivals.get(unit.name)?.why,
  // what is left of its old client that cannot be ended
  stuck: stuckNow(cfg, memory),
  cannot: whyCannotStart(cfg, look, unit), // why it cannot start at all
  // what it asks, or said as it ended
  words: shown && pane ? clientWords(shown, pane) : "",
  ahead: agent && limitAhead(cfg, look.watch, agent), // the limit that its start waits for
  unready: whyUnready(look.operator, unit, memory, look.now), // why its start is overdue
  byYou: waitsForYou(look.operator, unit, memory), // a person knows why it is not restarted
});

/** The state of one unit in words, from everything `status` gathered. */
const stateOf = (cfg: Config, look: StatusLook, one: UnitNow): Described => (look.snap.ok
  ? describeState(one.memory, stateFacts(cfg, look, one))
  : described("unknown", `unknown (tmux: ${look.snap.why})`, `tmux: ${look.snap.why}`,
    { needsHuman: true }));

/** What the watchdog does next about an agent, for row and card; null = its client is not up. */
function stepOf(
  cfg: Config, look: StatusLook, { agent, live, shown, memory, hold }: UnitNow,
): Next | null {
  const { verdict } = memory;
  if (!agent || !live || verdict === "gone" || verdict === "booting") return null;
  const believed = { ...(shown?.verdict ?? NO_VERDICT), verdict };
  return nextStep(cfg, look, agent, { pane: live, memory, verdict: believed, hold });
}

/** What is due next, as its row shows it; null = nothing by the clock, or no watchdog to do it. */
function nextDue(
  cfg: Config, look: StatusLook, one: UnitNow, condition: Condition,
): { next: Due; at: number } | null {
  const { watchdog, now } = look;
  const { agent, memory } = one;
  if (!agent || whyNothingDone(watchdog)) return null;
  if (condition === "backoff") return dueOf(decideNextDown(memory, null, cfg.watchdog, now));
  if (!isLiving(condition) || condition === "blocked") return null;
  const step = stepOf(cfg, look, one);
  const due = step && dueOf(step);
  const wake = wakeAtOf(look, agent);
  return due ?? (wake === undefined ? null : { next: "wake", at: wake });
}

// The rows, and the fleet as a whole.

/** What `status` knows of one agent or service. Times are ISO 8601; "" = none, or not known. */
export type StatusRow = ReturnType<typeof statusRow>;

/** Whether what a text waits for is over: it dates from the last tick, the row from now. */
const isPast = ({ during }: Message, { verdict }: Memory, running: boolean): boolean =>
  running ? during !== undefined && during !== verdict : during !== "gone";

function statusRow(cfg: Config, look: StatusLook, unit: Unit) {
  const { watch, queue, now, today } = look;
  const one = unitNow(cfg, look, unit);
  const { agent, live, memory } = one;
  const running = live !== null;
  const own = live && isClientIn(live, memory) ? memory.model : "";
  const isMine = (message: Message) => message.target === unit.name;
  const mine = queue.filter(isMine);
  const unproven = watch.unproven.filter((message) => isMine(message) && isShown(message));
  const [first = unproven.at(-1)] = mine;
  const waiting = first && !isPast(first, memory, running) ? first : null;
  const { state, condition, detail, until, ...said } = stateOf(cfg, look, one);
  const verdict = one.shown?.verdict;
  const needsHuman = said.needsHuman || mine.some((message) => isStuck(cfg, message, now));
  const rival = look.rivals.get(unit.name);
  const due = nextDue(cfg, look, one, condition);
  const answer = agent && condition === "blocked" ? answerTo(cfg, agent, verdict?.rule) : undefined;
  return {
    name: unit.name, kind: agent?.kind ?? "service",
    backend: agent ? live?.backend || agent.backend : "-",
    model: agent ? own || live?.model || roleModel(cfg, agent) || "default" : "-",
    // "client": the client names it now; else it was or will be started with it
    modelFrom: (own ? "client" : "start") as "client" | "start",
    watch: agent?.watch ?? "-", session: unit.session, running,
    state, condition, detail, // in a phrase; the same as data, in one word and its details
    needsHuman,
    verdict: memory.verdict, why: memory.why, // what its screen and its client say
    since: isoOrNone(condition === "parked" && memory.life.state === "parked"
      ? memory.life.at || memory.since : memory.since),
    // until when it is limited, waits or is not started
    until: isoOrNone(until ?? verdict?.waitingUntil ?? verdict?.limit?.resetAt),
    // what the watchdog does next by the clock
    next: due?.next ?? ("" as const), nextAt: isoOrNone(due?.at),
    // since when the other side of the loop waits for its commit
    owesSince: running && !look.complete && cfg.loop.handoff &&
      owesCommit(watch, cfg.loop.handoff) === unit.name ? isoOrNone(watch.owedSince) : "",
    messages: mine.length, messagesWhy: waiting?.why ?? "",
    // the state of the agent that has to end first; "" = they wait for something else
    messagesDuring: waiting?.during ?? ("" as const),
    unproven: unproven.length, // recent texts, typed without proof that the client took them
    restartsToday: memory.restarts.day === today ? memory.restarts.count : 0,
    // the command that helps, without `agents`
    cure: !needsHuman ? "" : running ? `attach ${unit.name}`
      : condition === "parked" ? `up ${unit.name}` : condition === "unknown" ? "doctor"
      : rival ? rival.cure : "",
    // an answer to its client's question that the config could declare
    ...(answer ? { answer } : {}),
    version: running ? (memory.version ?? "") : "",
  };
}

/** The limits of accounts, and how many of their agents wait for each. */
function accountRows(cfg: Config, { watch, operator }: StatusLook, rows: StatusRow[]) {
  const waits = ({ name }: Agent) => rows.some((row) => row.name === name &&
    (row.running || !isHeld(operator, name)) &&
    !["working", "blocked", "parked", "done"].includes(row.condition));
  return Object.entries(watch.accounts).map(([key, shared]) => {
    const waiting = sharersOf(cfg, key).filter(waits).length;
    const said = waiting === 1 ? "1 agent waits" : `${waiting} agents wait`;
    return { name: shared.name, class: shared.class, until: isoOrNone(shared.resetAt), waiting,
      text: `${accountWords(shared)}, ${said}` };
  });
}

/** The hand-off channel as the watchdog found it last; null = the config has none. */
function readChannel(cfg: Config, { channel }: Watch, operator: Operator) {
  const agents = loopAgents(cfg);
  if (!cfg.loop.handoff || !agents.length) return null;
  const { state, why, cure, since, told } = channel ??
    { state: "unknown" as const, since: 0, why: "", cure: "", told: false };
  const used = !isComplete(cfg) && agents.some(({ name }) => operator.held[name] === undefined);
  return { state, since: isoOrNone(since), why, cure,
    // a missing branch is the remote's own word; a mere failure may pass
    needsHuman: used && (told || state === "branch missing") };
}

/** How long, ms, `status` waits for clients' servers, and for git: whether the phase is DONE. */
const STATUS_PATIENCE = 3_000;

async function readPhase(cfg: Config, { intent, channel }: Watch) {
  const list = phases(cfg);
  if (!list.length) return null;
  const error = phaseTrouble(cfg);
  const { id, plan, status } = (error ? null : curPhase(cfg)) ?? { id: "", plan: "", status: "" };
  return {
    id, index: error ? -1 : curIdx(cfg), total: list.length, plan,
    done: !error &&
      await within(STATUS_PATIENCE, phaseDone(cfg, status, channel), false) === true,
    complete: isComplete(cfg),
    // where a phase move under way leads: a phase id or "the end"; "" = none is under way
    moving: intent ? intent.to || "the end" : "", error,
  };
}

/** The stable content of `status --json`, versioned; `named`: of these units alone. */
export type Status = Awaited<ReturnType<typeof statusFrom>>;

async function statusFrom(cfg: Config, look: StatusLook, named: string[] = []) {
  const { snap, watch, operator, watchdog, now } = look;
  const rows = (units: Map<string, Unit>) => [...units.values()]
    .filter(({ name }) => !named.length || named.includes(name))
    .map((unit) => statusRow(cfg, look, unit));
  const [agents, services] = [rows(cfg.agents), rows(cfg.services)];
  const phase = await readPhase(cfg, watch);
  const handoff = readChannel(cfg, watch, operator);
  const known = new Set([...unitsOf(cfg).values()]
    .map((one) => one.session).concat(watchdogSession(cfg)));
  const isSupervised = (one: StatusRow) =>
    cfg.agents.get(one.name)!.enabled && one.watch !== "none" &&
    !(isHeld(operator, one.name) && !one.running) && !["done", "parked"].includes(one.condition);
  const ranBefore = world.mtime(watchFile(cfg)) !== null;
  const expected = agents.some((one) => isSupervised(one) && (one.running || ranBefore));
  return {
    version: 1 as const,
    fleet: fleetName(cfg), folder: fleetFolder(cfg), prefix: cfg.sessionPrefix,
    // what is wrong with the config, where the watchdog runs on the last good one
    configError: cfg.broken, phase, agents, services, handoff,
    // `missing`: none runs where one should; false after a `down` of everything
    watchdog: { ...watchdog, missing: !watchdog.running && expected },
    // to people: absent while they go out
    ...(watch.notices ? { notices:
      { dropped: watch.notices.dropped, text: noticesText(watch.notices, now),
        needsHuman: noticesFail(watch.notices) } } : {}),
    accounts: accountRows(cfg, look, agents),
    unknownSessions: [...snap.panes.keys(), ...snap.strangers.keys()]
      .filter((name) => name.startsWith(cfg.sessionPrefix) && !known.has(name))
      .map((name) => plainText(name, SUBJECT_MAX)).sort(),
    // of those, clients of this fleet that are no longer in the config
    orphans: orphansOf(cfg, snap).map(({ name, session, pane }) =>
      ({ name, session, running: !pane.dead })),
    olderPhase: loopSessionsAlive(cfg, snap, true).map((agent) => agent.name),
    needsHuman: [...agents, ...services, ...(handoff ? [handoff] : [])]
      .some((one) => one.needsHuman) || Boolean(phase?.error) || cfg.broken !== "" ||
      noticesFail(watch.notices) ||
      (watchdog.running ? watchdog.stale || watchdog.unlogged !== undefined : expected),
  };
}

const readStatus = async (cfg: Config) => statusFrom(cfg, await lookForStatus(cfg));

// ── status as text ──────────────────────────────────────────────────────────────
// The same for a person: one line, a table, a card of each unit; no line wider than the terminal.

/** Whether nothing runs, and nothing should: before the first `up`, and after a `down` of all. */
const isStopped = ({ agents, services, watchdog }: Status): boolean =>
  !watchdog.running && !watchdog.missing &&
  // where tmux cannot be asked nobody knows what runs
  ![...agents, ...services].some(({ running, condition }) => running || condition === "unknown");

/** The fleet in one short line, for tmux's status line: how many work, need you, are limited. */
export function statusLine(status: Status): string {
  const { agents, watchdog, needsHuman, prefix, configError } = status;
  const counted = (sign: string, some: StatusRow[]) => (some.length ? sign + some.length : "");
  const are = (...conditions: Condition[]) =>
    agents.filter(({ condition }) => conditions.includes(condition));
  const needy = agents.filter((one) => one.needsHuman);
  const faults = joined(" ", configError ? "✗ config" : "",
    watchdog.missing || watchdog.stale || watchdog.unlogged ? "✗ watchdog" : "");
  return joined(" ", prefix.replace(/-$/, ""), counted("●", are("working", "background")),
    counted("!", needy), counted("◐", are("limited")), faults,
    isStopped(status) ? "stopped" : status.phase?.complete ? "done" : "",
    needy.length || (needsHuman && !faults) ? `${needy.map(({ name }) => name).join(" ")}?` : "");
}

/** On fewer columns KIND, BACKEND and MODEL are shown only if they differ. */
const WIDE = 100;
/** On fewer columns, as on a phone over ssh, each unit gets one short line. */
const NARROW = 60;

export function statusText(status: Status, width: number): string {
  const { head, title, lines, foot } = statusParts(status, rowsOf(status), width);
  return [...head, ...title, ...lines, ...foot].join("\n");
}

const needyFirst = <T extends { needsHuman: boolean }>(all: T[]): T[] =>
  all.toSorted((a, b) => Number(b.needsHuman) - Number(a.needsHuman));

/** Agents, then services; those that need a person come first. */
const rowsOf = ({ agents, services }: Status): StatusRow[] => needyFirst([...agents, ...services]);

/** The parts of `status`: the head, the table's title, a line for each of `rows`, the foot. */
function statusParts(status: Status, rows: StatusRow[], width: number) {
  const now = world.now();
  const all = rowsOf(status);
  const isNarrow = width < NARROW;
  const due = dueFirst(all, now);
  const painted = (style: Style, texts: string[]) => texts.filter(Boolean)
    .flatMap((text) => wrap(text, width)).map((line) => paint(style, line));
  const table = isNarrow ? shortTable(rows, width, now) : longTable(rows, width, now);
  const urgent = fleetMatters(status, now).filter((one) => one.needsHuman);
  return {
    head: [
      ...painted("red", [status.configError]),
      headline(status, width, now),
      ...countLines(status, all, isNarrow ? "" : due, width),
      ...painted("red", urgent.map(({ what }) => what)),
    ],
    title: isNarrow ? [] : table.slice(0, 1),
    lines: isNarrow ? table : table.slice(1),
    foot: [
      ...(isNarrow && due ? [cut(due, width)] : []),
      ...painted("yellow", remarksOf(status, now)),
    ],
  };
}

/** The time of day, and the age of the watchdog's heartbeat. */
function pulse({ running, stale, heartbeat }: WatchdogState, width: number, now: number): string {
  const clock = clockTime(now, width < NARROW ? 5 : 8);
  const beat = heartbeat ? ` ${ageOf(heartbeat, now)} ago`
    : stale ? " no heartbeat" : " starting";
  return `${clock}${width < NARROW ? " " : "  "}` +
    (running ? `${stale ? "✗" : "●"}${beat}` : "○ no watchdog");
}

/** The first line: the fleet, its phase, the time of day, the age of the watchdog's heartbeat. */
function headline(status: Status, width: number, now: number): string {
  const { phase, watchdog } = status;
  const right = pulse(watchdog, width, now);
  const place = phase?.id ? `${phase.id} ${phase.index + 1}/${phase.total}${phaseWord(phase)}` : "";
  const [folder, long] = [basename(status.folder), place && `phase ${place}`];
  const room = width - Bun.stringWidth(right) - 2;
  // the fleet's name is cut before its phase
  const least = cut(printable(folder), Math.max(4, room - Bun.stringWidth(place) - 3));
  const forms = [
    [status.fleet, long, place && basename(phase!.plan)],
    [status.fleet, long], [folder, long], [folder, place], [least, place],
  ].map((parts) => printable(joined(" · ", ...parts)));
  const left = forms.find((form) => Bun.stringWidth(form) <= room) ?? forms.at(-1)!;
  return paint("bold", spread(left, right, width));
}

const phaseWord = ({ moving, complete, done }: NonNullable<Status["phase"]>): string =>
  moving ? `, moving on to ${moving}` : complete ? ", all done" : done ? ", DONE" : "";

/** How many need you, work, and so on; on a wide enough terminal also what is due first. */
function countLines(status: Status, rows: StatusRow[], due: string, width: number): string[] {
  const needy = rows.filter((row) => row.needsHuman).length;
  const others = Map.groupBy(rows.filter((row) => !row.needsHuman && row.kind !== "service"),
    (row) => countedAs(row, status.phase?.complete === true, width));
  const calls = needy ? `${needy} ${needy > 1 ? "need" : "needs"} you`
    : status.needsHuman ? "" : "nothing needs you";
  const counts = [
    calls,
    ...GROUPS.flatMap((group) => others.has(group) ? `${others.get(group)!.length} ${group}` : []),
  ].filter(Boolean);
  const lines = flow(counts, width);
  const fits = lines.length === 1 && Bun.stringWidth(`${lines[0]}${due}`) < width;
  const all = fits ? [spread(lines[0]!, due, width)]
    : [...lines, ...(due ? [cut(printable(due), width)] : [])];
  return all.map((line) => calls && line.startsWith(calls)
    ? paint(needy ? "red" : "green", calls) + line.slice(calls.length) : line);
}

/** The groups that the count line names, in this order. */
const GROUPS = ["working", "work", "background", "limited", "starting", "idle", "waiting", "unsure",
  "rest", "done", "down"];

/** `complete`: all phases are done, and the loops rest for good. */
function countedAs({ condition, kind }: StatusRow, complete: boolean, width: number): string {
  if (["fatal", "backoff", "ending", "starting"].includes(condition)) return "starting";
  if (condition === "done" || (complete && kind === "loop" && condition === "stopped")) {
    return "done";
  }
  if (!isLiving(condition)) return "down";
  if (width >= NARROW) return condition === "running" ? "idle" : condition;
  // an agent that could not be read is not said to rest
  if (condition === "limited" || condition === "unsure") return condition;
  return condition === "working" || condition === "background" ? "work" : "rest";
}

function dueFirst(rows: StatusRow[], now: number): string {
  const [first] = rows.filter((row) => row.next && Date.parse(row.nextAt) > now)
    .toSorted((a, b) => Date.parse(a.nextAt) - Date.parse(b.nextAt));
  return first?.next ? `next: ${DUES[first.next].of.replace("NAME", () => first.name)} ` +
    dayTime(Date.parse(first.nextAt)) + DUES[first.next].if : "";
}

const withCure = (what: string, cure: string): string => `${what}${cure && `  — ${cure}`}`;

/** What is wrong with the fleet as a whole, with the cure: not all of it needs a person yet. */
function fleetMatters(
  { phase, handoff, watchdog, notices }: Status, now: number,
): Pick<OpenMatter, "what" | "needsHuman">[] {
  const since = handoff && handoff.since ? ` for ${ageOf(handoff.since, now)}` : "";
  const { heartbeat, stage } = watchdog;
  const beat = heartbeat ? `, heartbeat ${ageOf(heartbeat, now)} ago` : ", no heartbeat";
  // while no watchdog looks, what was found last says nothing about now
  const channel = handoff && handoff.state !== "empty" &&
    (watchdog.running || handoff.needsHuman) ? handoff : null;
  const matters: [what: string, needsHuman: boolean][] = [
    [phase?.error ? `phase: ${phase.error}` : "", true],
    [channel?.why ? withCure(`hand-off: ${channel.state}${since}: ${channel.why}`, channel.cure)
      : "", channel?.needsHuman ?? false],
    [watchdog.missing ? withCure("watchdog: stopped", "agents up watchdog")
      : watchdog.mute ? withCure("watchdog: runs, but cannot write", "agents doctor")
      : watchdog.stale ? `watchdog: STALE${beat}${stage ? `, at: ${stage}` : ""}`
      : watchdog.unlogged
        ? withCure(`watchdog: cannot write ${watchdog.unlogged}`, "agents doctor") : "", true],
    [watchdog.running && watchdog.version && watchdog.version !== version()
      ? withCure(`watchdog: of version ${watchdog.version}, this is ${version()}`,
        "agents up watchdog") : "", false],
    [notices?.text ? `notices: ${notices.text}` : "", notices?.needsHuman ?? false],
  ];
  return matters.flatMap(([what, needsHuman]) => (what ? [{ what, needsHuman }] : []));
}

/** How to declare answers to the clients' questions, to be copied into agents.toml. */
function answersFor(agents: StatusRow[]): string[] {
  const asked = Map.groupBy(agents.filter(({ answer }) => answer),
    ({ backend, answer }) => answerToml(backend, answer!).join("\n"));
  return [...asked].flatMap(([toml, [row]]) =>
    [`${row!.name} ${row!.why}; to have it answered, add to agents.toml:`, ...toml.split("\n")]);
}

const answerToml = (backend: string, { re, keys }: DeclaredAnswer): string[] =>
  [`[[backend.${backend}.answer]]`, `re = '${re}'`, `keys = ${JSON.stringify(keys)}`];

/** Remarks: nothing is wrong, but worth knowing; one line each. */
function remarksOf(status: Status, now: number): string[] {
  const { handoff, unknownSessions, orphans, olderPhase, agents, accounts } = status;
  const unknown = unknownSessions.filter((name) =>
    !orphans.some(({ session }) => session === name));
  return [
    isStopped(status) ? 'the fleet is stopped: "agents up" starts it' : "",
    ...fleetMatters(status, now).flatMap(({ what, needsHuman }) => (needsHuman ? [] : [what])),
    ...accounts.map(({ text }) => text),
    ...orphans.map(({ name, running }) => `${name} left the config, its ` +
      `${running ? "client is still running" : "dead pane is still there"} → agents down ${name}`),
    ...answersFor(agents),
    handoff?.state === "empty" && handoff.why
      ? withCure(`hand-off: ${handoff.why}`, handoff.cure) : "",
    unknown.length ? `sessions not in the config: ${unknown.join(", ")}` : "",
    olderPhase.length ? `still on an older phase's kickoff: ${olderPhase.join(", ")} ` +
      `("agents phase set ID --restart" moves them too)` : "",
  ].filter(Boolean);
}

// The table.

/** The reasons get at least this many columns; names are cut to make room for them. */
const REASONS_LEAST = 30;
/** The reasons get this many columns before KIND, BACKEND or MODEL are shown. */
const REASONS_GOOD = 44;

function longTable(rows: StatusRow[], width: number, now: number): string[] {
  const states = rows.map((row) => stateText(row, now));
  const optional = optionalColumns(rows, width, widest(states));
  const head = ["  AGENT", ...optional.map((key) => key.toUpperCase()), "STATE"];
  const cells = rows.map((row, i) => [`${row.needsHuman ? "!" : " "} ${row.name}`,
    ...optional.map((key) => row[key]), states[i]!]);
  const last = head.length - 1;
  const left = columns([head, ...cells], width - 2 - REASONS_LEAST,
    [...optional.map((_, i): [number, number] => [i + 1, 6]), [0, 14], [last, 12]]);
  const wide = widest(left);
  return left.map((line, i) => {
    const row = rows[i - 1];
    if (!row) return paint("bold", line);
    const reasons = reasonText(row, width - wide - 2, now);
    return paintRow(row, reasons ? `${fit(line, wide)}  ${reasons}` : line);
  });
}

type Optional = "kind" | "backend" | "model";

/**
 * Which of KIND, BACKEND, MODEL fit beside the reasons and a state of so many columns; below WIDE
 * columns only what differs.
 */
function optionalColumns(rows: StatusRow[], width: number, state: number): Optional[] {
  const agents = rows.filter((row) => row.kind !== "service");
  let room = width - 2 - REASONS_GOOD - 4 - widest(rows.map(({ name }) => name)) - state;
  const differs = (key: Optional) => new Set(agents.map((row) => row[key])).size > 1;
  const order = (["model", "kind", "backend"] as const)
    .toSorted((a, b) => Number(differs(b)) - Number(differs(a)));
  const shown = order.filter((key) => {
    const wide = 2 + widest([key, ...rows.map((row) => row[key])]);
    if (wide > room || (width < WIDE && !differs(key))) return false;
    room -= wide;
    return true;
  });
  return (["kind", "backend", "model"] as const).filter((key) => shown.includes(key));
}

const stateText = (row: StatusRow, now: number): string =>
  joined(" ", row.condition, ageText(row, now));

function ageText({ condition, since, until }: StatusRow, now: number): string {
  if (condition === "backoff") return ago(Date.parse(until) - now);
  const aged = isLiving(condition) ? !["limited", "running"].includes(condition)
    : condition === "parked";
  return since && aged ? ageOf(since, now) : "";
}

/** What is due next, for the row's line: a time that has passed is never shown as to come. */
function dueText({ next, nextAt }: StatusRow, now: number): string {
  if (!next) return "";
  const at = Date.parse(nextAt);
  const due = DUES[next];
  return at > now ? `${due.word} ${dayTime(at)}${due.if}` : due.passed;
}

/**
 * The reason, what waits, what is due. The restarts and the cure after it are shortened as far as
 * it needs to stay whole: the cure loses the name, which the row already has, and is left out
 * where the reason would get fewer than 16 columns.
 */
function reasonText(row: StatusRow, room: number, now: number): string {
  const { cure, restartsToday } = row;
  const text = printable(
    joined(" · ", row.detail, commitText(row, now), queueText(row), dueText(row, now)));
  const [restarts, sign] = [plural(restartsToday, "restart"), restartSign(row)];
  const forms = [[restarts, cure], [sign, cure], [sign, cure.split(" ")[0]]];
  const tails = (restarts || cure ? forms : [])
    .map(([many, help]) => joined("  ", many, help && printable(`→ ${help}`)));
  const leaves = (columns: number) => (tail: string) =>
    Bun.stringWidth(tail) + 3 + columns <= room;
  const tail = tails.find(leaves(Bun.stringWidth(text))) ?? tails.find(leaves(REASONS_GOOD)) ??
    tails.slice(-1).find(leaves(16)) ?? sign;
  const said = cut(text, Math.max(0, room - Bun.stringWidth(tail) - (tail ? 3 : 0)))
    .replace(/ · ?…$/, "…");
  return joined(restarts ? " · " : "  ", said, tail);
}

const restartSign = ({ restartsToday }: StatusRow): string =>
  (restartsToday ? `${restartsToday}↺` : "");

/** A loop without a claim or review for two hours is worth a look. */
const commitText = ({ owesSince }: StatusRow, now: number): string =>
  owesSince && now - Date.parse(owesSince) >= 2 * HOUR
    ? `no commit in this phase for ${ageOf(owesSince, now)}` : "";

/** How many texts wait for it and why, and how many it may or may not have taken. */
function queueText(row: StatusRow): string {
  const { messages, messagesWhy, messagesDuring, unproven, running, state, verdict } = row;
  const isShown = (running && messagesDuring === verdict) || messagesWhy === state;
  const why = messagesWhy && !isShown ? ` (${messagesWhy})` : "";
  const texts = joined(", ", messages ? `${plural(messages, "message")} waiting` : "",
    unproven ? `${unproven} unconfirmed` : "");
  return texts && texts + why;
}

/** The table for a phone: a line for each unit with its name, age, state and reason. */
function shortTable(rows: StatusRow[], width: number, now: number): string[] {
  const name = Math.min(12, Math.max(4, Math.min(widest(rows.map((row) => row.name)), width - 20)));
  return rows.map((row) => {
    const restarts = row.restartsToday ? ` ${restartSign(row)}` : "";
    const head = `${row.needsHuman ? "!" : " "} ${fitName(printable(row.name), name)} ` +
      `${ageText(row, now).padStart(3)} `;
    const by = row.needsHuman ? ": " : row.condition === "limited" ? " " : " · ";
    const said = row.condition === "blocked" && row.detail ? row.detail
      : joined(by, row.condition, row.detail || dueText(row, now));
    const room = width - Bun.stringWidth(head) - Bun.stringWidth(restarts);
    return paintRow(row, head + cut(printable(said), Math.max(0, room)) + restarts);
  });
}

const rowClass = ({ needsHuman, condition, running }: StatusRow): "need" | "warn" | "dim" | "" =>
  needsHuman ? "need"
    : ["limited", "backoff", "fatal", "unsure", "unknown"].includes(condition) ? "warn"
    : running ? "" : "dim";
const ROW_STYLES = { need: "red", warn: "yellow", dim: "dim" } as const;

function paintRow(row: StatusRow, line: string): string {
  const stands = rowClass(row);
  return stands ? paint(ROW_STYLES[stands], line) : line;
}

// Cards.

/** Everything that is known of one unit, with the last lines that it shows. */
export type Card = Awaited<ReturnType<typeof cardOf>>;

async function cardOf(cfg: Config, look: StatusLook, row: StatusRow) {
  const { snap, watch, queue } = look;
  const one = unitNow(cfg, look, unitsOf(cfg).get(row.name)!);
  const { agent, live, shown } = one;
  const verdict = shown?.verdict;
  const next = !agent || !snap.ok ? null
    : live ? stepOf(cfg, look, one) : await nextOfDown(cfg, look, agent, snap);
  const texts = [...queue, ...watch.unproven.filter(isShown)]
    .filter(({ target }) => target === row.name);
  const events = eventsOf(await readEvents(cfg), row.name, row.kind === "loop");
  const idle = whyNothingDone(look.watchdog);
  // why the watchdog ended it: no pane of it is left to tell
  const last = events.findLast(({ event }) => event === "down" || event === "start");
  const end = row.condition === "backoff" && !snap.panes.has(row.session) && last?.event === "down"
    ? reasonOf(String(last.why)) : "";
  return {
    ...row, detail: joined(" · ", end, row.detail),
    // what decided it, and what the client itself says; null = the screen was not read
    evidence: verdict ? { rule: verdict.rule, where: verdict.where, text: verdict.text,
      ...(verdict.own ? { own: verdict.own } : {}) } : null,
    nextStep: !next ? "" : idle ? `the watchdog is ${idle}`
      : `${next.does}${next.at === null ? "" : ` at ${dayTime(next.at)}`}`,
    texts: texts.map(({ made, cause, text, tries, why = "" }) =>
      ({ made: isoOrNone(made), cause, text: plainText(text, SUBJECT_MAX), tries, why })),
    restarts: restartsOf(events).slice(-5),
    screen: tailOf(shown?.text ?? "", 12).split("\n").map(printable).filter(Boolean),
  };
}

const isNamedIn = ({ names }: AgentEvent, name: string): boolean =>
  Array.isArray(names) && names.includes(name);

/**
 * The events that tell how an agent's time went: its own, the watchdog's, the end of its loop, the
 * orders to restart it.
 */
const eventsOf = (events: AgentEvent[], name: string, isLoop: boolean): AgentEvent[] =>
  events.filter((one) => one.agent === name || one.event === "watchdog" ||
    (one.event === "complete" && isLoop) || (one.event === "order" && isNamedIn(one, name) &&
      String(one.command).startsWith("restart")));

/** A reason without the seconds that differ each time, so that reasons of one kind are equal. */
const reasonOf = (why: string): string => why.replace(/(?: (?:for|by))? \d+ s\b/g, "");

/** Starts that follow a death, each with the reason of the death. */
function restartsOf(events: AgentEvent[]): { at: string; why: string }[] {
  let reason: string | null = null;
  return events.flatMap(({ event, at, why }) => {
    const before = reason;
    if (event === "start") reason = null;
    if (event === "down") reason = reasonOf(String(why));
    if (event === "order") reason = "by you";
    return event === "start" && before !== null ? [{ at, why: before }] : [];
  });
}

function cardText(card: Card, watchdog: WatchdogState, width: number): string {
  const now = world.now();
  const { evidence, texts, restarts, condition, since, detail } = card;
  const aged = ageText(card, now);
  const facts: [string, string | string[]][] = [
    ["is", card.kind === "service" ? card.kind : joined(" · ", card.kind,
      `${joined(" ", card.backend, card.version)}, ` +
        `${card.running && card.modelFrom === "start" ? "started with " : ""}model ${card.model}`,
      `watch ${card.watch}`)],
    ["state", condition + (aged && ` for ${aged}, since ${localTime(since)}`)],
    ["why", detail.replace(/^to (?=\S* ?\d)/, "until ") ||
      (card.running ? withLocalTimes(card.why) : "")],
    ["evidence", evidence?.rule
      ? joined(": ", `rule "${evidence.rule}" (${evidence.where})`, evidence.text) : ""],
    ["it says", evidence?.own ?? ""],
    ["messages", texts.map(({ made, cause, text, why }) =>
      `${cause.split(" ")[0]} (${joined("; ", `${ageOf(made, now)} old`, why)}): ${text}`)],
    ["restarts", [card.restartsToday ? `${card.restartsToday} today` : "",
      ...restarts.map(({ at, why }) => `${localTime(at)}  ${why}`)]],
    ["next", card.nextStep || dueText(card, now)],
    ["cure", card.cure && `agents ${card.cure}`],
    ["answer", card.answer ? answerToml(card.backend, card.answer) : ""],
  ];
  const style = card.needsHuman ? "red" : "bold";
  const title = printable(`${card.needsHuman ? "! " : ""}${card.name}`);
  return [paint(style, spread(title, pulse(watchdog, width, now), width)),
    ...factLines(facts, width),
    ...(card.screen.length ? [paint("dim", "─".repeat(Math.min(width, 80)))] : []),
    ...card.screen.map((line) => cut(line, width))].join("\n");
}

// The command.

/** `status`: the fleet, or cards of the named units; exit code 3 if something needs a person. */
export async function cmdStatus(call: Call): Promise<number> {
  if (call.options.line && !call.words.length) return printStatusLine(call);
  const cfg = await configFor(call, !call.words.length);
  if (call.words.length) return showCards(call, cfg);
  // a command that one of its keys has started goes on without it
  if (call.options.watch) return runAndExit(() => showLive(call, cfg));
  const status = await readStatus(cfg);
  print(call.options.json ? JSON.stringify(status, null, 2) : statusText(status, terminalWidth()));
  return status.needsHuman ? 3 : 0;
}

/** `status --line`. tmux shows only what is printed, so an error is printed as the line. */
async function printStatusLine(call: Call): Promise<number> {
  try {
    const status = await readStatus(await configFor(call, true));
    print(statusLine(status));
    return status.needsHuman ? 3 : 0;
  } catch (error) {
    const [fault = ""] = faultsIn(error);
    print(`agents ✗ ${fault.replaceAll(`${dirname(call.path)}/`, "")}`);
    return error instanceof CliError ? error.code : 1;
  }
}

async function showCards(call: Call, cfg: Config): Promise<number> {
  if (call.options.watch || call.options.line) {
    die("status: --watch and --line take no names: they show the whole fleet", 2);
  }
  const names = expandNames(cfg, call.words).filter((name) => name !== "watchdog");
  if (!names.length) {
    die('status: no watchdog details; "agents logs watchdog" shows what it did', 2);
  }
  const look = await lookForStatus(cfg, names);
  const status = await statusFrom(cfg, look, names);
  const card = (row: StatusRow) => cardOf(cfg, look, row);
  const [agents, services] = await Promise.all([
    Promise.all(status.agents.map(card)), Promise.all(status.services.map(card))]);
  const width = terminalWidth();
  print(call.options.json ? JSON.stringify({ ...status, agents, services }, null, 2)
    : [...agents, ...services].map((one) => cardText(one, status.watchdog, width)).join("\n\n"));
  return status.needsHuman ? 3 : 0;
}

// ── phase, attach, send, notify, migrate ────────────────────────────────────────
// What people order day by day.

/** `phase show | next | set ID`, or its index: checked before anything is written. */
export async function cmdPhase(call: Call): Promise<number> {
  const [verb = "show", wanted] = call.words;
  const verbs = ["show", "next", "set"];
  if (!verbs.includes(verb)) die(`phase: unknown "${verb}"${instead(verb, verbs)}`, 2);
  const cfg = await (verb === "show" ? configFor({ ...call, lenient: true }) : configToAct(call));
  const ids = phases(cfg).map(({ id }) => id);
  if (!ids.length) die("the config has no phases");
  if (verb === "show") {
    return printed(`phase ${curPhase(cfg)!.id} [${curIdx(cfg) + 1}/${ids.length}]  ` +
      `seq: ${ids.join(" ")}${isComplete(cfg) ? "  all done" : ""}`);
  }
  const idx = verb === "next" ? curIdx(cfg) + 1 : phaseNamed(ids, wanted);
  const id = ids[idx] ??
    die(`"${ids.at(-1)}" is the last phase: add one to [loop], or ${REPEAT}`);
  makeFolders(cfg);
  await storePhase(cfg, idx);
  world.remove(completeFile(cfg));
  emit(cfg, "phase", { to: id, by: "operator" });
  noteOrder(cfg, `phase ${verb}`, [id]);
  print(`the phase is now ${id} (${idx + 1}/${ids.length})`);
  const { status } = phases(cfg)[idx]!;
  if (cfg.loop.autoAdvance && await phaseDone(cfg, status, (await loadWatch(cfg)).channel)) {
    log(`${id} is DONE already: the watchdog moves on. To repeat it, take DONE out of ` +
      `${status} and push that, then set it again`);
  }
  if (call.options.restart) return restartUnits(cfg, loopAgents(cfg), false);
  const older = loopSessionsAlive(cfg, await snapshot(cfg), true).map((agent) => agent.name);
  if (older.length) {
    log(`still on the old phase's prompt: ${older.join(", ")}; ` +
      `"agents phase set ${id} --restart" moves them too`);
  }
  return 0;
}

/** The index of the phase that `phase set` means, by its id or its index. */
function phaseNamed(ids: string[], wanted?: string): number {
  if (wanted === undefined) die(`phase set: which one? (there are: ${ids.join(", ")})`, 2);
  const idx = ids.includes(wanted) || !/^\d+$/.test(wanted) ? ids.indexOf(wanted) : Number(wanted);
  return ids[idx] ? idx : die(`phase set: no phase "${wanted}"${instead(wanted, ids)}`, 2);
}

const sessionNamed = (cfg: Config, name: string): string =>
  unitsOf(cfg).get(name)?.session ?? watchdogSession(cfg);

/** Where it is said why a unit, or the watchdog, does not run. */
const seeWhy = (name: string): string =>
  `see "agents ${name === "watchdog" ? "logs" : "status"} ${name}"`;

/** `attach`: this process becomes tmux, attached to the session; inside tmux it switches to it. */
async function cmdAttach(call: Call): Promise<number> {
  const cfg = await configFor(call);
  const name = oneName(cfg, call.words[0]!);
  const session = sessionNamed(cfg, name);
  const snap = await neededSnapshot(cfg);
  const pane = snap.panes.get(session);
  if (!pane) die(`${name} is not running${strangerNote(cfg, snap, session)}: ${seeWhy(name)}`);
  if (!isTerminal() || !process.stdin.isTTY) die("attach needs a terminal");
  const socket = cfg.tmuxSocket ? ["-L", cfg.tmuxSocket] : [];
  const only = call.options["read-only"] ? ["-r"] : [];
  const [window = "", server = ""] = (await tmux(cfg,
    ["display-message", "-p", "-t", pane.id, "#{window_id} #{socket_path}"])).out.trim().split(" ");
  const target = `${pane.sessionId}:${window}.${pane.id}`;
  if (server && process.env.TMUX?.split(",")[0] === server) {
    // tmux has no read-only visit: the person's whole client becomes read-only
    if (only.length) log("this client stays read-only until you detach it (prefix, then d)");
    const { ok, err } = await run(
      ["tmux", "-S", server, unaliased("switch-client"), ...only, "-t", target],
      TMUX_DEADLINE, { TMUX: process.env.TMUX!, TMUX_PANE: process.env.TMUX_PANE });
    return ok ? 0 : die(`tmux: ${err.trim()}`);
  }
  const argv = ["tmux", "-u", ...socket, unaliased("attach-session"), ...only, "-t", target];
  process.execve!(Bun.which("tmux")!, argv, childEnv() as Record<string, string>);
  return 1;
}

/** `send`: delivers a text to an agent as the watchdog would; exit code 0 only if it was taken. */
export async function cmdSend(call: Call): Promise<number> {
  const cfg = await configToAct(call);
  const [wanted = "", ...words] = call.words;
  const name = oneAgent(cfg, wanted, "it takes no messages");
  const input = words.length === 1 && words[0] === "-"
    ? Bun.stdin.stream() : [Buffer.from(words.join(" "))];
  // dozens that wait must fit into a file of the state
  const tooLong = "a message of more than 200 kB: put it into a file and name that";
  const value = (await textWithin(200_000, tooLong, input)
    .catch((error) => die(`send: ${messageOf(error)}`, 2)))
    .trimEnd();
  const timeout = Number(call.options.timeout ?? 60);
  makeFolders(cfg);
  const id = newId();
  const message: Message = { ...messageFor(name, `send ${id}`, value), id };
  if (!message.text.trim()) die("send: the message is empty", 2);
  if (call.options.queue) {
    noteOrder(cfg, "send", [name]);
    await queueMessages(cfg, [message]);
    log(`queued for ${name}`);
    return 0;
  }
  const down = await whyStaysDown(cfg, name);
  if (down) die(`${name} is ${down}, --queue keeps the message until then`);
  noteOrder(cfg, "send", [name]);
  process.once("SIGINT", () => void withdraw(cfg, message).finally(() => process.exit(130)));
  const { fate, why } = await sendNow(cfg, message, timeout * 1000);
  if (fate === "delivered") return printed(`delivered to ${name}`);
  log(fate === "unproven" ? `${name}: ${DELIVERY_WORDS[fate]}: ${why}`
    : fate === "typed"
    ? `typed into ${name}, not confirmed within ${timeout} s: ${why}; ${lookAfter(name)}`
    : `not delivered to ${name} within ${timeout} s: ${why}`);
  return 1;
}

/** Why an agent stays down until a person acts, and how; "" = it runs, or will be started. */
async function whyStaysDown(cfg: Config, name: string): Promise<string> {
  const agent = cfg.agents.get(name)!;
  const [barred] = barredLoops(cfg, [agent]);
  const cure = barred?.why ?? upStarts(name);
  if (isHeld(await operatorOf(cfg), name)) return `${BY_YOU}: ${cure}`;
  const { state } = downOf(memoryOf(await loadWatch(cfg), name).life);
  if (state === "parked" || state === "done") return `${state}: ${cure}`;
  if (sessionAlive(await snapshot(cfg), agent.session) !== false) return "";
  if (barred) return `not running: ${cure}`;
  const kept = isWatched(agent) && ["watchdog" as const, "keeper" as const]
    .some((what) => isHeldBySomebody(cfg, what));
  return kept ? "" : `not running, and no watchdog would start it: ${cure}`;
}

/**
 * What has become of a text, as the watchdog stored it last; "" = it does not have it. `typed`: it
 * may be taken at any moment.
 */
function fateOf(
  { delivered, unproven, outbox }: Watch, { id }: Message,
): "delivered" | "unproven" | "typed" | "waiting" | "" {
  if (delivered.includes(id)) return "delivered";
  if (unproven.some((one) => one.id === id)) return "unproven";
  const found = outbox.find((one) => one.id === id);
  return found ? wasPasted(found) ? "typed" : "waiting" : "";
}

/** Says in the queue that nobody waits for a text any more, by no clock: one may be set back. */
const recall = (cfg: Config, message: Message): Promise<void> =>
  changeOperator(cfg, (operator) => void (operator.queue = [
    ...operator.queue.filter(({ id }) => id !== message.id), { ...message, expires: 0 }]));

/** Waits up to `patience`, ms, for what becomes of one text. */
async function sendNow(cfg: Config, message: Message, patience: number) {
  const expires = world.now() + patience;
  const began = world.mono();
  const deadline = began + patience;
  await queueMessages(cfg, [{ ...message, expires }]);
  let why = "the watchdog has not picked it up yet";
  for (let said = ""; ; await world.sleep(100)) {
    await deliverByHand(cfg, [message], deadline);
    const isOver = world.mono() >= deadline;
    // nothing is typed after that: a look that begins then is the last one
    if (isOver) await recall(cfg, message);
    const watch = await loadWatch(cfg);
    const fate = fateOf(watch, message);
    const { unproven, outbox } = watch;
    const ahead = outbox.find((one) => one.target === message.target && one.why);
    why = [...unproven, ...outbox].find(({ id }) => id === message.id)?.why ??
      (ahead ? `an earlier message comes first: ${ahead.why}` : why);
    if (isOver || fate === "delivered" || fate === "unproven") return { fate, why };
    // most texts are taken before there is anything to say
    if (why !== said && world.mono() - began >= 2_000) {
      said = why;
      log(`waiting to reach ${message.target}: ${said} (Ctrl-C withdraws it)`);
    }
  }
}

/** Withdraws a text that nobody waits for any more, unless it is in the input box already. */
export async function withdraw(cfg: Config, message: Message): Promise<void> {
  await recall(cfg, message);
  poke(cfg);
  const until = world.mono() + 3_000; // for the watchdog to put it away
  const fateNow = async () => fateOf(await loadWatch(cfg), message);
  let fate = await fateNow();
  // where no watchdog runs, the next one finds in the queue that it is taken back
  const isTaken = () => fate === "waiting" && isHeldBySomebody(cfg, "watchdog");
  for (; isTaken() && world.mono() < until; fate = await fateNow()) await world.sleep(100);
  const after = lookAfter(message.target);
  log(fate === "delivered" ? "interrupted: it was already delivered"
    : fate === "typed" || fate === "unproven" ? `interrupted: it was already typed; ${after}`
    : isTaken() ? `interrupted: the watchdog has not withdrawn the message yet; ${after}`
    : "interrupted: the message is withdrawn");
}

const lookAfter = (name: string): string => `see "agents status ${name}" for what becomes of it`;

export async function cmdNotify(call: Call): Promise<number> {
  if (!call.options.test) die("usage: notify --test", 2);
  const cfg = await configFor(call);
  if (!tellsPeople(cfg)) die("[notify] names neither command nor url");
  await sendNotice(cfg,
    [{ at: iso(world.now()), event: "test", why: "a test of the notices" }]);
  return printed("sent");
}

export async function cmdMigrate(call: Call): Promise<number> {
  const cfg = await configFor(call);
  makeFolders(cfg);
  const legacy = (await world.text(join(cfg.logDir, ".phase-idx")))?.trim();
  const { phase } = cfg.stored;
  if ("error" in phase) die(phase.error);
  if (legacy && phase.index === null) {
    log(`NOTE: the old .phase-idx holds ${legacy}; numbers may have moved since, ` +
      `so it is not copied: run "agents phase set" yourself`);
  }
  if (phase.index !== null && phase.id === null && phases(cfg).length) {
    const trouble = phaseTrouble(cfg);
    if (trouble) log(trouble);
    else await storePhase(cfg, curIdx(cfg));
  }
  for (const agent of cfg.agents.values()) {
    const id = await resumeId(cfg, agent);
    if (id) await world.writeAtomic(idFile(cfg, agent), id);
    if (id || agent.resume) log(`${agent.name} resume id: ${id ?? "(none)"}`);
  }
  log(`migrate done: ${cfg.stateDir}`);
  return 0;
}

// ── explain, capture, selftest ──────────────────────────────────────────────────
// How screens are read and why, and the captures that test that.

/** A verdict as JSON; times are ISO 8601, `resetAt` is the banner's own, without slack. */
function verdictJson(
  { verdict, rule, where, text, limit, waitingUntil, why, own }: Verdict,
): object {
  const shown = limit && { class: limit.class, resetAt: isoOrNone(limit.resetAt) || null };
  return { verdict, rule, where, text, limit: shown,
    waitingUntil: isoOrNone(waitingUntil) || null, why, ...(own === undefined ? {} : { own }) };
}

/** Prints keys and values in columns, without empty ones. */
const printFacts = (facts: [string, string | null][]): number => printed(factLines(
  facts.map(([key, value]) => [key, withLocalTimes(value ?? "").split("\n")]),
  terminalWidth(), 9).join("\n"));

const nextText = (next: Next): string =>
  (next.at === null ? next.does : `${next.does} at ${iso(next.at)}`);

function printVerdict(
  call: Call, verdict: Verdict, next: Next, more: [string, string | null][] = [],
): number {
  if (call.options.json) return printed(JSON.stringify(verdictJson(verdict)));
  const { limit, waitingUntil } = verdict;
  return printFacts([
    ["verdict", `${verdict.verdict}: ${verdict.why}`],
    ["source", sourceOf(verdict)?.label ?? "its screen"],
    ["it says", verdict.own ? `${verdict.own} (${SOURCES[SESSION_FILE].label})` : null],
    ["but", verdict.odd ?? null],
    ["rule", `${verdict.rule} (${verdict.where})`],
    ["text", verdict.text || null],
    ["limit", limit && `${limit.class}, ` +
      `${limit.resetAt === null ? "no reset time" : `resets ${iso(limit.resetAt)}`}`],
    ["waits", waitingUntil === null ? null : `until ${iso(waitingUntil)}`],
    ["next", nextText(next)],
    ...more,
  ]);
}

/** The rules, backend and settings for `explain --file`: built in unless --config is given. */
async function backendFor(call: Call, name: string): Promise<[Rule[], Backend, Settings]> {
  const cfg = call.options.config ? await configFor(call) : null;
  const known: string[] = cfg ? [...cfg.backends.keys()] : [...KINDS];
  if (!known.includes(name)) die(`explain: unknown backend "${name}"${instead(name, known)}`, 2);
  const backend = cfg?.backends.get(name) ??
    { ...defaultsOf(KEYS.backend), name, rule: [], answer: [] };
  const rules = cfg ? rulesOf(backend) : builtInRules()[name as BackendKind];
  return [rules, backend, cfg?.watchdog ?? defaultsOf(KEYS.watchdog)];
}

async function readPaneFile(file: string): Promise<string> {
  if (file === "-") {
    return textWithin(2_000_000, "a screen of more than 2 MB", Bun.stdin.stream())
      .catch((error) => die(`explain: ${messageOf(error)}`));
  }
  const text = await world.text(file)
    .catch((error) => die(`explain: ${file}: ${messageOf(error)}`));
  return text ?? die(`explain: ${file}: no such file`);
}

async function explainFile(call: Call, file: string): Promise<number> {
  const { backend: name, title = "", at } = call.options;
  if (name === undefined) {
    die(`explain: --file needs --backend (${Object.keys(builtInRules()).join(", ")})`, 2);
  }
  const now = at === undefined ? world.now() : Date.parse(String(at));
  const [rules, backend, settings] = await backendFor(call, String(name));
  // a person may have captured it with its colours (`-e`), or saved it with other line ends
  const text = Bun.stripANSI(await readPaneFile(file)).replace(/^\uFEFF/, "")
    .replaceAll("\r\n", "\n");
  const verdict = detect(rules, { text, title: String(title) }, now);
  const { nativeGrace, stallIdle } = backend;
  return printVerdict(call, verdict, decideNext(verdict, {
    settings, nativeGrace, stallIdle, watch: "heal+stall", hold: null, idleSince: now, now,
  }));
}

async function namedAgent(cfg: Config, word: string): Promise<[Agent, Pane | undefined]> {
  const agent = cfg.agents.get(oneAgent(cfg, word, "its screen is not read"))!;
  return [agent, (await neededSnapshot(cfg)).panes.get(agent.session)];
}

const notRunning = (name: string, pane: Pane | undefined): string =>
  `${name} is not running${pane ? ` (${endOf(pane)})` : ""}`;

const screenOf = async (cfg: Config, agent: Agent, pane: Pane): Promise<Screen> =>
  (await readScreen(cfg, pane)) ?? die(`${agent.name}: its pane could not be read`);

/** What to say where no watchdog is at work, so that nothing will be done. */
const watchdogFact = async (cfg: Config): Promise<[string, string | null]> =>
  ["watchdog", whyNothingDone(await readWatchdog(cfg)) || null];

/** Reads a running agent as the watchdog does: twice, as a changing screen is not believed idle. */
async function explainLive(call: Call, cfg: Config, agent: Agent, pane: Pane): Promise<number> {
  const first = await screenOf(cfg, agent, pane);
  await world.sleep(300);
  const { look } = await screenOf(cfg, agent, pane);
  const watch = await loadWatch(cfg);
  const memory = memoryOf(watch, agent.name);
  let verdict = await judgeLook(cfg, agent, pane, look, memory.backgroundSince);
  const moves = withoutDigits(first.look.text) !== withoutDigits(look.text);
  if (verdict.verdict === "idle" && moves) {
    verdict = { ...verdict, verdict: "unsure", why: "its screen changes" };
  }
  const step = { watch, operator: await operatorOf(cfg), complete: isComplete(cfg),
    now: world.now() };
  const next = nextStep(cfg, step, agent,
    { pane, memory, verdict, hold: loadLimitState(cfg, agent.session) });
  return printVerdict(call, verdict, next, [await watchdogFact(cfg)]);
}

/** Explains an agent that is down: how it ended, its last words, and how it comes back. */
async function explainDown(
  call: Call, cfg: Config, agent: Agent, pane: Pane | undefined,
): Promise<number> {
  const look = await lookForStatus(cfg, [agent.name]);
  const { state } = stateOf(cfg, look, unitNow(cfg, look, agent));
  const next = await nextOfDown(cfg, look, agent, look.snap);
  const end = pane ? (await explainDeath(cfg, agent, pane))?.why ?? endOf(pane) : null;
  const facts: [string, string | null][] = [
    ["state", state], ["end", end], ["next", nextText(next)],
    ["cure", barredLoops(cfg, [agent])[0]?.why ?? (next.stays ? upStarts(agent.name) : null)],
    await watchdogFact(cfg),
  ];
  if (call.options.json) print(JSON.stringify(Object.fromEntries(facts)));
  else printFacts(facts);
  return die(notRunning(agent.name, pane));
}

async function cmdExplain(call: Call): Promise<number> {
  const { file, backend, title, at } = call.options;
  const [word] = call.words;
  if (file !== undefined && word) die("explain: a name or --file, not both", 2);
  if (file !== undefined) return explainFile(call, String(file));
  if (backend ?? title ?? at) die("explain: --backend, --title and --at go with --file", 2);
  const cfg = await configFor(call);
  const [agent, pane] = await namedAgent(cfg, word!);
  return pane && !pane.dead
    ? explainLive(call, cfg, agent, pane) : explainDown(call, cfg, agent, pane);
}

/** Keys, tokens and ids, without the prefixes by which a rule may know them: those are kept. */
const SECRET = new RegExp([
  String.raw`\b[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}\b`,
  String.raw`(?<=\b(?:sk-|gh[pousr]_|github_pat_|glpat-|xox[a-z]-|AKIA|ses_|eyJ|Bearer ))` +
    String.raw`[\w.-]{8,}`,
  String.raw`(?<=\b(?:token|secret|password|api[ _-]?key)\b["']?\s*[=:]\s*["']?)[^\s"']{6,}`,
  String.raw`\b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{32,}\b`,
].join("|"), "gi");
const FILLER = "/srv/fleet/agents/main/project";

/** Replaces these paths, and all secrets, with filler of the same length: columns stay put. */
export function scrub(value: string, paths: string[]): string {
  const longest = paths.filter((path) => path.length > 1).sort((a, b) => b.length - a.length);
  const filled = longest.reduce(
    (rest, path) => rest.replaceAll(path, FILLER.padEnd(path.length, "x").slice(0, path.length)),
    value);
  return filled.replace(SECRET, (secret) => secret.replace(/[A-Za-z0-9]/g, "0"));
}

/** The version of a client, by its screen or by asking the program; "" = not known. */
async function clientVersion(screen: string, backend: Backend, agent: Agent): Promise<string> {
  const shown = VERSION_LINES[backend.kind]?.exec(screen)?.[1];
  // a typed client is never asked: it may be a script that would start working
  if (shown || backend.kind === "typed") return shown ?? "";
  const asked = await run(["sh", "-c",
    `cd ${shellQuote(agent.dir)} && ${backend.bin} --version`], TMUX_DEADLINE);
  return /\d{1,9}\.\d{1,9}\.\d{1,9}/.exec(asked.out)?.[0] ?? "";
}

/** The folder of a backend's captures: that of its kind, or its own if it is a typed one. */
const captureFolder = ({ kind, name }: Backend): string =>
  kind === "typed" ? name.replace(/[^\w-]/g, "_") : kind;

async function cmdCapture(call: Call): Promise<number> {
  const [name = "", label = ""] = call.words;
  const [, expected, what] = /^([^-]*)(?:-([\w-]+))?$/.exec(label) ?? [];
  if (!expected || !VERDICTS.includes(expected as VerdictName)) {
    const word = expected ?? label;
    die(`capture: "${word}" is not a verdict${instead(word, VERDICTS)}`, 2);
  }
  if (!what) die(`capture: say what it shows: ${expected}-<what>, in letters, digits and -`, 2);
  const cfg = await configFor(call);
  const [agent, pane] = await namedAgent(cfg, name);
  if (!pane || pane.dead) die(`${notRunning(agent.name, pane)}: ${seeWhy(agent.name)}`);
  const backend = backendOf(cfg, agent);
  const path = join(SCRIPT_DIR, "tests", "fixtures", captureFolder(backend), label);
  if (isThere(`${path}.txt`) || isThere(`${path}.json`)) {
    die(`capture: ${path}.txt exists already`);
  }
  const { look } = await screenOf(cfg, agent, pane);
  const [cols, rows] = pane.size.split("x").map(Number);
  const clean = (value: string) => scrub(value, [agent.dir, cfg.planDir, homedir()]);
  const shown = { text: clean(look.text), title: clean(look.title) };
  const version = await clientVersion(look.text, backend, agent);
  const at = world.now();
  const verdict = detect(rulesOf(backend), shown, at);
  makeFolder(dirname(path));
  await world.writeAtomic(`${path}.txt`, shown.text);
  const word = backend.kind === "claude" ? readClaudeWord(cfg, agent, pane) : null;
  const side = { title: shown.title, cols, rows, version, at: iso(at), made: "real",
    ...(word ? { word: { status: word.status, waitsFor: word.waitsFor } } : {}) };
  await world.writeAtomic(`${path}.json`, `${JSON.stringify(side)}\n`);
  const right = verdict.verdict === expected ? "as it should be" : `it should be ${expected}`;
  return printed([`${path}.txt`, `${path}.json`,
    `the rules now say: ${verdict.verdict} (${verdict.rule}): ${right}`].join("\n"));
}

/** Folders of captures with known verdicts: beside the program, then in the binary. */
const fixtureFolders = (): string[] => [...new Set([join(SCRIPT_DIR, "tests", "fixtures"),
  join(import.meta.dir, "fixtures"), join(import.meta.dir, "tests", "fixtures")])];

const fixtureFolder = (): string | null =>
  fixtureFolders().find((folder) => world.list(join(folder, "claude")).length) ?? null;

/** Judges all captures: the first word of a file's name is the verdict that it must get. */
export function selftest(
  rulesFor: (backend: BackendKind) => Rule[], folder = fixtureFolder(),
) {
  return folder === null ? []
    : BUILT_IN.flatMap((kind) => judgeCaptures(rulesFor(kind), folder, kind));
}

/** The outcome of one capture; `reset`: when its limit ends by its sidecar, ISO 8601, or "". */
export type SelfTest = ReturnType<typeof judgeCaptures>[number];

/** Judges one client's captures, except those (`"only"`) that no screen rule can tell. */
function judgeCaptures(rules: Rule[], folder: string, client: string) {
  const files = world.list(join(folder, client)).filter((file) => file.endsWith(".txt")).sort();
  return files.flatMap((file) => {
    const path = join(folder, client, file);
    const side = JSON.parse(world.read(path.replace(/txt$/, "json")) ?? "{}");
    if (side.only !== undefined) return [];
    const at = Date.parse(side.at ?? "") || world.now();
    const verdict = detect(rules, { text: world.read(path) ?? "", title: side.title ?? "" }, at);
    const reset = String(side.reset ?? "");
    const right = !reset || (verdict.limit?.resetAt != null &&
      Math.abs(verdict.limit.resetAt - Date.parse(reset)) < 60_000);
    const expected = file.split("-")[0]!;
    return [{ file: `${client}/${file}`, expected, verdict, reset,
      ok: verdict.verdict === expected && right }];
  });
}

/** `selftest`: tests the built-in rules; with --config also reports on the operator's own. */
export async function cmdSelftest(call: Call): Promise<number> {
  const results = selftest((kind) => builtInRules()[kind]);
  if (!results.length) die("selftest: no fixture was found, nothing was tested");
  const wrong = results.filter((result) => !result.ok);
  for (const one of wrong) print(`FAIL ${wrongText(one)}`);
  const used = new Set(results.map((result) => result.verdict.rule));
  const idle = BUILT_IN.flatMap((kind) => builtInRules()[kind])
    .filter((rule) => !used.has(rule.name));
  for (const rule of idle) print(`no fixture exercises the rule "${rule.name}" (${rule.verdict})`);
  print(`${results.length - wrong.length} passed, ${wrong.length} failed`);
  if (call.options.config) await reportOwnRules(await configFor(call));
  return wrong.length ? 1 : 0;
}

const wrongText = ({ file, expected, verdict }: SelfTest): string =>
  `${file}: ${verdict.verdict} (${verdict.rule || verdict.why}), expected ${expected}`;

/** For information: it has no effect on the exit code. */
async function reportOwnRules(cfg: Config): Promise<void> {
  for (const backend of cfg.backends.values()) {
    const mine = fixtureFolders().flatMap((folder) =>
      judgeCaptures(rulesOf(backend), folder, captureFolder(backend)));
    if (!mine.length) continue;
    const differ = mine.filter((result) => !result.ok);
    print(`with the rules of backend "${backend.name}": ` +
      `${mine.length - differ.length} of ${mine.length} right`);
    for (const one of differ) print(`  ${wrongText(one)}`);
  }
}

// ── logs ────────────────────────────────────────────────────────────────────────
// What agents were told, said and did; what services and the watchdog printed.

/** One line of a conversation; `at` is wall ms, 0 = not known. */
export interface Turn { at: number; who: "told" | "said" | "tool" | "error"; text: string }

/** A turn is cut to this many characters. */
const TURN_MAX = 2_000;
/** The keys of a tool's input that say most about it, the best first. */
const TOOL_INPUTS = ["command", "cmd", "file_path", "filePath", "path", "pattern", "query", "url",
  "description", "prompt"];

const turn = (at: number, who: Turn["who"], text: unknown): Turn[] => {
  const plain = isText(text) ? plainText(text, TURN_MAX) : "";
  return plain ? [{ at, who, text: plain }] : [];
};

/** A tool and its most telling input, on one line. */
function toolText(name: unknown, input: unknown): string {
  const given = isText(input) ? parsedRecord(input) ?? { command: input } : input;
  const facts = isRecord(given) ? given : {};
  const [said = ""] = [...TOOL_INPUTS.map((key) => facts[key]), ...Object.values(facts)]
    .map((value) => (Array.isArray(value) && value.every(isText) ? value.join(" ") : value))
    .filter(isText);
  return `${isText(name) ? name : "a tool"} ${said}`.trim();
}

/** The text of a tool's result, which is a string or a list of parts. */
const resultText = (content: unknown): unknown => (Array.isArray(content)
  ? content.map((part) => valueAt(part, "text")).join(" ") : content);

/** A slash command, or what one printed, without the tags around it in Claude Code's transcript. */
const withoutTags = (text: unknown): unknown => (isText(text) && text.startsWith("<")
  ? text.slice(0, 20 * TURN_MAX).replace(new RegExp("<command-message>[^]*?</command-message>|" +
    "</?(?:command-name|command-args|local-command-std(?:out|err)|bash-(?:input|std(?:out|err)))>",
    "g"), " ") : text);

/** The turns in a line of a Claude Code transcript; sub-agents and the client's notes have none. */
export function parseClaudeTurns(line: string): Turn[] {
  const entry = /"type":"(?:user|assistant)"/.test(line) ? parsedRecord(line) : null;
  if (!entry || entry.isSidechain === true || entry.isMeta === true) return [];
  const at = Date.parse(String(entry.timestamp)) || 0;
  const who = entry.isApiErrorMessage === true ? "error" : entry.type === "user" ? "told" : "said";
  return [valueAt(entry, "message", "content")].flat().flatMap((part) => {
    if (!isRecord(part)) return turn(at, who, withoutTags(part));
    if (part.type === "text") return turn(at, who, withoutTags(part.text));
    if (part.type === "tool_use") return turn(at, "tool", toolText(part.name, part.input));
    return part.type === "tool_result" && part.is_error === true
      ? turn(at, "error", resultText(part.content)) : [];
  });
}

/** The turns in a line of a Codex rollout, without the instructions that Codex adds itself. */
export function parseCodexTurns(line: string): Turn[] {
  const entry = /"(?:response_item|event_msg)"/.test(line) ? parsedRecord(line) : null;
  const said = isRecord(entry?.payload) ? entry.payload : {};
  const at = Date.parse(String(entry?.timestamp)) || 0;
  if (entry?.type === "event_msg") {
    if (said.type === "task_complete") return turn(at, "error", valueAt(said, "error", "message"));
    return said.type !== "turn_aborted" ? []
      : turn(at, "error", `the turn was ${said.reason ?? "aborted"}`);
  }
  if (/^(?:function|custom_tool)_call$/.test(String(said.type))) {
    return turn(at, "tool", toolText(said.name, said.arguments ?? said.input));
  }
  const who = said.role === "user" ? "told" : said.role === "assistant" ? "said" : null;
  if (said.type !== "message" || !who) return [];
  return listOf(said.content).map((part) => valueAt(part, "text"))
    .flatMap((text) => (/^\s*<[a-z_]+>/.test(String(text)) ? [] : turn(at, who, text)));
}

/** The turns in a conversation as opencode's server returns it, oldest first. */
export function parseOpencodeTurns(messages: unknown): Turn[] {
  return listOf(messages).flatMap((message) => {
    const { info, parts } = isRecord(message) ? message : {};
    if (!isRecord(info)) return [];
    const at = Number(valueAt(info, "time", "created")) || 0;
    const who = info.role === "user" ? "told" : "said";
    return [...listOf(parts).flatMap((part) => {
      if (!isRecord(part) || part.synthetic === true) return [];
      if (part.type === "text") return turn(at, who, part.text);
      return part.type !== "tool" ? []
        : [...turn(at, "tool", toolText(part.tool, valueAt(part, "state", "input"))),
          ...turn(at, "error", valueAt(part, "state", "error"))];
    }), ...turn(at, "error", valueAt(info, "error", "data", "message"))];
  });
}

const TURN_STYLES = { told: "bold", tool: "dim", error: "red" } as const;

const turnLines = (turns: Turn[], width: number): string => turns.map(({ at, who, text }) => {
  const time = at ? dateAndTime(at, world.now()) : "--:--:--";
  const line = cut(`${time} ${who.padEnd(5)} ${text}`, width);
  return `${who === "said" ? line : paint(TURN_STYLES[who], line)}\n`;
}).join("");

/** What `logs` reads for one name. */
interface Source {
  /** "" = a server has the conversation. */
  path: string;
  /** Why this is not the conversation, and what it is instead; "" = it is. */
  note: string;
  /** What is there now; of a long file, its end. */
  tail(): Promise<string>;
  /** What comes after that, until the reader is gone or it `isOver`, which is asked every 3 s. */
  added(isOver: () => Promise<boolean>): AsyncGenerator<string>;
}

/** Bytes of a log's end that `logs` reads: enough for as many lines as a person reads. */
const LOG_TAIL = 2_000_000;

/** A file, made readable by `clean` piece by piece; after a rotation it is read from its start. */
function fileSource(path: string, clean: (raw: string) => string, note = ""): Source {
  let at = 0;
  return {
    path, note,
    async tail() {
      at = statSync(path).size;
      return clean(await Bun.file(path).slice(Math.max(0, at - LOG_TAIL), at).text());
    },
    async *added(isOver) {
      let decoder = new TextDecoder(); // keeps the bytes of a character that is not written yet
      for (let looks = 1; !hasNoReader(); await world.sleep(200), looks += 1) {
        if (looks % 15 === 0 && await isOver()) return; // 3 s
        const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
        if (size < at) [at, decoder] = [0, new TextDecoder()];
        if (size === at) continue;
        const bytes = await Bun.file(path).slice(at, size).arrayBuffer();
        at = size;
        yield clean(decoder.decode(bytes, { stream: true }));
      }
    },
  };
}

/** A conversation that a server has; `ask` gets its end, null = no answer. */
function serverSource(ask: () => Promise<Turn[] | null>, width: number): Source {
  const shown = new Set<string>(); // hashes; what one answer leaves out may be in the next
  const tail = async () => {
    const turns = (await ask() ?? []).map((one) => ({ one, hash: hashOf(JSON.stringify(one)) }));
    const fresh = turns.filter(({ hash }) => !shown.has(hash)).map(({ one }) => one);
    for (const { hash } of turns) shown.add(hash);
    return turnLines(fresh, width);
  };
  return {
    path: "", note: "", tail,
    async *added() {
      while (!hasNoReader()) {
        await world.sleep(2_000); // each time it sends as much
        yield await tail();
      }
    },
  };
}

/** Makes a reader of JSON lines; an incomplete last line waits for the next call. */
function turnReader(parse: (line: string) => Turn[], width: number): (raw: string) => string {
  let rest = "";
  return (raw) => {
    const lines = (rest + raw).split("\n");
    rest = lines.pop()!.slice(-LOG_TAIL);
    return turnLines(lines.flatMap(parse), width);
  };
}

/** The file of an agent's conversation: the one in use, else the one to be resumed; "" = none. */
async function conversationOf(cfg: Config, agent: Agent, pane: Pane | undefined): Promise<string> {
  const { kind } = backendOf(cfg, agent);
  const id = await resumeId(cfg, agent);
  const live = pane && !pane.dead ? pane : null;
  if (kind === "claude") {
    const word = live && readClaudeWord(cfg, agent, live);
    if (word) return transcriptOf(cfg, agent, word);
    const folder = agent.env.CLAUDE_CONFIG_DIR ?? claudeFolder(0, agent.env);
    return id ? conversationFile(folder, world.realPath(agent.dir), id) : "";
  }
  if (kind !== "codex") return "";
  return live ? (await rolloutOf(cfg, agent, live)).path : rolloutOfId(agent, id);
}

/** The conversation of an agent; null = its client keeps none that can be read. */
async function conversationSource(
  cfg: Config, agent: Agent, snap: Snapshot, width: number,
): Promise<Source | null> {
  const backend = backendOf(cfg, agent);
  const pane = snap.panes.get(agent.session);
  const id = (pane?.conversation ?? "") || await resumeId(cfg, agent) || "";
  if (backend.kind === "opencode" && backend.server && isId(id)) {
    const ask = () => askOpencode(backend, agent.dir, `/session/${id}/message?limit=200`);
    const turns = async () => {
      const messages = await ask();
      return Array.isArray(messages) ? parseOpencodeTurns(messages) : null;
    };
    return await ask() === null ? null : serverSource(turns, width);
  }
  const path = await conversationOf(cfg, agent, pane).catch(() => "");
  if (!path || !statSync(path, { throwIfNoEntry: false })?.isFile()) return null;
  const parse = backend.kind === "codex" ? parseCodexTurns : parseClaudeTurns;
  return fileSource(path, turnReader(parse, width));
}

/** What a unit's pane printed, or the watchdog's log; a string says why there is none. */
function paneSource(cfg: Config, name: string, raw: boolean): Source | string {
  const unit = unitsOf(cfg).get(name);
  const path = sessionLogPath(cfg, sessionNamed(cfg, name));
  if (!isThere(path)) return `${name} has no log yet: ${path} does not exist`;
  if (!statSync(path).isFile()) return `${path} is not a file`;
  const note = unit && isAgent(unit) && !raw ? `${name}: no transcript of its client was found, ` +
    "this is what it printed, made readable (--screen: the screen as it is now)" : "";
  return fileSource(path, raw ? String : unit ? cleanLog : linesOf, note);
}

/** Colours that tell names apart. */
const NAME_STYLES: Style[] = ["cyan", "magenta", "blue", "green", "yellow"];

/** `logs --screen`: the screens as they are now, each under its name if there are several. */
async function printScreens(cfg: Config, names: string[]): Promise<number> {
  const snap = await neededSnapshot(cfg);
  for (const name of names) {
    const pane = snap.panes.get(sessionNamed(cfg, name));
    const text = pane ? await capturePane(cfg, pane) : null;
    if (text === null) die(`${notRunning(name, pane)}: ${seeWhy(name)}`);
    if (names.length > 1) print(paint("bold", `── ${name}`));
    print(linesOf(text).trimEnd());
  }
  return 0;
}

async function cmdLogs(call: Call): Promise<number> {
  const cfg = await configFor(call);
  const names = expandNames(cfg, call.words);
  const lines = Number(call.options.lines ?? 50);
  if (call.options.screen) return printScreens(cfg, names);
  const raw = call.options.raw === true;
  const wide = widest(names);
  const width = terminalWidth() - (names.length > 1 ? wide + 3 : 0);
  const snap = raw ? null : await snapshot(cfg);
  const found = await Promise.all(names.map(async (name, nth) => {
    const agent = cfg.agents.get(name);
    const source = (agent && snap && await conversationSource(cfg, agent, snap, width)) ??
      paneSource(cfg, name, raw);
    if (typeof source === "string") return names.length > 1 ? log(source) : die(source);
    const again = async () => (agent && !raw
      ? conversationSource(cfg, agent, await snapshot(cfg), width) : null);
    const label = names.length > 1
      ? `${paint(NAME_STYLES[nth % NAME_STYLES.length]!, `${name.padEnd(wide)} |`)} ` : "";
    return { name, source, again, head: (text: string) => text.replace(/^(?=.)/gm, label) };
  }));
  const logs = found.filter((one) => one !== undefined);
  if (!logs.length) return 1;
  const texts = await Promise.all(logs.map(async ({ name, source, head }) => {
    if (source.note) log(source.note);
    const text = head(await source.tail()).trimEnd();
    if (!text) log(`${name}: nothing to show in ${source.path || "its conversation"} yet`);
    return text.split("\n").slice(-lines).join("\n");
  }));
  // not by `print`, which would change raw bytes
  for (const text of texts) if (lines > 0 && text) printRaw(`${text}\n`);
  if (call.options.follow) {
    await Promise.all(logs.map(({ source, again, head }) => followSource(source, again, head)));
  }
  return 0;
}

/** Prints what is added to a source, and then to the one in which it goes on after a restart. */
async function followSource(
  source: Source, again: () => Promise<Source | null>, head: (text: string) => string,
): Promise<void> {
  let next = null as Source | null;
  const isOver = async () => {
    next = await again();
    return Boolean(next?.path) && next!.path !== source.path;
  };
  for await (const text of source.added(isOver)) {
    if (text.trim()) printRaw(head(text.endsWith("\n") ? text : `${text}\n`));
  }
  if (next && !readerGone) await followSource(next, again, head);
}

/** Lines without control characters: an older watchdog wrote its log as it came. */
const linesOf = (raw: string): string => raw.split("\n").map(printable).join("\n");

/** Makes a TUI's output readable: cursor moves end a line, lines drawn again are dropped. */
export function cleanLog(raw: string): string {
  const moved = raw.replace(/\x1b\[\d*;?\d*[HfABEFGd]|\x1b\[[23]?J|\r\n?/g, "\n");
  const lines = moved.split("\n").map((line) => printable(line).trimEnd());
  const recent: string[] = [];
  return lines.filter((line) => {
    if (!/[\p{L}\p{N}]/u.test(line) || recent.includes(line)) return false;
    recent.push(line);
    if (recent.length > 60) recent.shift();
    return true;
  }).join("\n");
}

// ── events ──────────────────────────────────────────────────────────────────────
// The record: what events.jsonl holds, read back and shown line by line.

/**
 * The events in lines of events.jsonl. One that a full disk or a crash cut short is skipped; the
 * next one then shares its line, and is found by its beginning, which no string can contain.
 */
export function parseEvents(lines: string): AgentEvent[] {
  return lines.split(/\n|(?=\{"at":")/).map((line) => parsedRecord(line) as AgentEvent | null)
    .flatMap((event) => (event && Number.isFinite(Date.parse(event.at)) ? [event] : []));
}

/** One file of the record; where it cannot be read, a line that says so. */
async function recordIn(path: string): Promise<{ text: string; unread?: true }> {
  try {
    return { text: await world.text(path) ?? "" };
  } catch (error) {
    if (error instanceof NoAnswer) throw error;
    const at = iso(tried(() => world.mtime(path), null) ?? world.now());
    const why = `${messageOf(error)}: its events are left out`;
    return { text: JSON.stringify({ at, event: "trouble", why }), unread: true };
  }
}

/** The lines of events.jsonl, oldest first, with those of the last rotation. */
async function readRecord(cfg: Config): Promise<{ lines: string[]; isWhole: boolean }> {
  const path = join(cfg.stateDir, "events.jsonl");
  const files = [await recordIn(`${path}.1`), await recordIn(path)];
  return { lines: files.flatMap(({ text }) => text.split("\n")).filter(Boolean),
    isWhole: !files.some(({ unread }) => unread) };
}

/** The events that come after those in the lines `known`; `isOver` is asked before each look. */
async function* eventsAfter(
  cfg: Config, known: string[], isOver: () => boolean,
): AsyncGenerator<AgentEvent> {
  let [older, seen] = [new Set<string>(), new Set(known)];
  for (let over = false; !over;) {
    over = isOver();
    await Bun.sleep(200);
    const { lines, isWhole } = await readRecord(cfg);
    const fresh = lines.filter((line) => !seen.has(line) && !older.has(line));
    yield* parseEvents(fresh.join("\n"));
    // forgotten is what was rotated away: neither what cannot be read for a moment, nor what one
    // look has missed because the files were rotated between its two readings
    if (isWhole) [older, seen] = [seen, new Set(lines)];
    else for (const line of fresh) seen.add(line);
  }
}

/** The events on record, oldest first; `last`: only those in that many lines at the end. */
const readEvents = async (cfg: Config, last = Infinity): Promise<AgentEvent[]> =>
  parseEvents((await readRecord(cfg)).lines.slice(-last).join("\n"));

/** All kinds of events, as `events --event` accepts them. */
export const EVENT_NAMES = Object.keys(EVENTS).sort();

/** A fact of an event for people; events.jsonl has the whole of it. */
const factText = (key: string, value: unknown): string =>
  key === "sha" ? String(value).slice(0, 7)
    : Array.isArray(value) ? value.join(", ")
    : withLocalTimes(typeof value === "object" ? JSON.stringify(value) : String(value));

/** An event as a line for people; `times`: how many were alike, the first at `since` (ISO). */
export function eventText(
  { at, event, ...rest }: AgentEvent, now: number, times = 1, since = "",
): string {
  const facts = Object.entries(rest).filter(([, value]) => value !== "" && value !== null)
    .map(([key, value]) => printable(`${key}=${factText(key, value)}`));
  const style = kindOf(event).colour;
  const word = printable(event).padEnd(10);
  const name = style ? paint(style, word) : word;
  const first = since ? ` since ${clockTime(since)}` : "";
  return `${paint("dim", dateAndTime(at, now))} ${name} ` +
    `${facts.join(" ")}${times > 1 ? ` (${times} times${first})` : ""}`;
}

/** Equal events, shown as one: the last of them, how many, and when the first was (ISO 8601). */
interface Fold { event: AgentEvent; times: number; since: string }

/** How many of its agent's latest events are searched for an equal one: a restart makes six. */
const FOLD_WITHIN = 8;
/** What comes back after this long, ms, is shown by itself, so that a night keeps its order. */
const FOLD_APART = HOUR;

/**
 * Folds events that differ from one of their agent's last few only in time and numbers into one, at
 * the time of the last: what other agents do meanwhile hides no repeat. Commits are never folded.
 */
export function foldEvents(events: AgentEvent[]): Fold[] {
  const folded = new Set<Fold & { key: string }>();
  const lately = new Map<string, (Fold & { key: string })[]>();
  for (const event of events) {
    const { agent = "", at, sha } = event;
    const key = withoutDigits(JSON.stringify({ ...event, at: "" }));
    const near = lately.get(agent) ?? [];
    const before = sha ? undefined : near.findLast((one) => one.key === key &&
      Date.parse(at) - Date.parse(one.event.at) < FOLD_APART);
    const fold = { event, key, times: (before?.times ?? 0) + 1, since: before?.since ?? at };
    if (before) folded.delete(before);
    folded.add(fold);
    lately.set(agent, [...near.filter((one) => one !== before), fold].slice(-FOLD_WITHIN));
  }
  return [...folded];
}

/** The ms in a duration such as 30m, 24h or 7d; null = it is none. */
export function parseSince(value: string): number | null {
  const [, number, unit = ""] = /^(\d{1,5})([mhd])$/.exec(value) ?? [];
  return Number(number) * UNIT_MS[unit]! || null;
}

/** How far back a command looks, ms. */
const sinceOf = ({ options }: Call): number => parseSince(String(options.since ?? "24h"))!;

/** Whether an event belongs to one of these, or is an order that names one; [] = all. */
const isAbout = (one: AgentEvent, wanted: string[]): boolean =>
  !wanted.length || wanted.some((name) => isNamedIn(one, name) ||
    name === (one.event === "watchdog" ? one.event : one.agent));

async function cmdEvents(call: Call): Promise<number> {
  const from = world.now() - sinceOf(call);
  const named = String(call.options.event ?? "").split(",").filter(Boolean);
  const kinds = namesAmong(EVENT_NAMES, named, "event");
  const cfg = await configFor(call);
  const { lines } = await readRecord(cfg);
  const all = parseEvents(lines.join("\n"));
  // an agent that left the config still has a past
  const names = expandNames(cfg, call.words, [...new Set(all.flatMap(({ agent }) => agent ?? []))]);
  const wanted = (event: AgentEvent) => Date.parse(event.at) >= from && isAbout(event, names) &&
    (!kinds.length || kinds.includes(event.event));
  const width = isTerminal() ? terminalWidth() : Infinity;
  const tell = (event: AgentEvent, times?: number, since?: string) =>
    print(call.options.json ? JSON.stringify(event)
      : wrapLine(eventText(event, world.now(), times, since), width, "  ").join("\n"));
  const events = all.filter(wanted);
  if (!events.length && !call.options.json) {
    log(`no ${names.length || kinds.length ? "such " : ""}event since ${localTime(from)}`);
  }
  if (!isTerminal() || call.options.json) for (const event of events) tell(event);
  else for (const { event, times, since } of foldEvents(events)) tell(event, times, since);
  if (!call.options.follow) return 0;
  for await (const event of eventsAfter(cfg, lines, hasNoReader)) {
    if (wanted(event)) tell(event);
  }
  return 0;
}

// ── report ──────────────────────────────────────────────────────────────────────
// What happened, for a person in the morning: from the record; what is open, from `status`.

/** How `report` sorts an agent's time; `unknown` = no watchdog looked, or nothing could be read. */
const ACTIVITIES = ["active", "idle", "limited", "blocked", "down", "unknown"] as const;
type Activity = (typeof ACTIVITIES)[number];
const ACTIVITY_OF: Record<string, Activity> = {
  active: "active", background: "active", idle: "idle", waiting: "idle", limited: "limited",
  blocked: "blocked", fatal: "down", gone: "down",
};

/** What the record says of an agent at one moment; `state` goes by its last verdict. */
interface Standing { state: Activity; limited: boolean; down: boolean; needsYou: boolean }

/**
 * What an event changes in that; `gone` is the state of that name. A start ends a limit, whose hold
 * the watchdog drops then, too; until then it shows as down.
 */
const CHANGES: Record<string, Partial<Standing>> = {
  limited: { limited: true }, lifted: { limited: false },
  down: { down: true, limited: false }, complete: { down: true, limited: false },
  start: { down: false, limited: false, needsYou: false },
  state: { down: false, needsYou: false }, gone: { down: false, limited: false },
  blocked: { needsYou: true }, unsure: { needsYou: true }, parked: { needsYou: true },
};

function standingAfter({ event, to }: AgentEvent, before: Standing): Standing {
  const state = event === "state" ? ACTIVITY_OF[String(to)] ?? "unknown"
    // until its first verdict nothing is known of a new client but that it is not down
    : event === "start" && before.state === "down" ? "unknown" : before.state;
  return { ...before, ...CHANGES[event === "state" && to === "gone" ? "gone" : event], state };
}

/** A stretch of time, wall ms; `to` is not part of it. */
interface Span { from: number; to: number }

/** A span of an agent's time; `needsYou`: it was waiting for a person, whatever it was doing. */
interface Stretch extends Span { doing: Activity; needsYou: boolean }

/** Something unsettled. `agent` is "" for the fleet; `cure` is the command, without `agents`. */
interface OpenMatter {
  agent: string;
  what: string;
  cure: string;
  needsHuman: boolean;
}

/** An agent's time as stretches without a gap. A limit outranks its screen, a death both. */
function stretchesOf(events: AgentEvent[], { from, to }: Span, lastLook: number): Stretch[] {
  const stretches: Stretch[] = [];
  let standing: Standing = { state: "unknown", limited: false, down: false, needsYou: false };
  let at = from;
  // nobody looked between the last heartbeat of one watchdog and the start of the next, which comes
  // after the starts that `up` makes
  const gaps = events.filter(({ last }) => last)
    .map((one): Span => ({ from: Date.parse(String(one.last)), to: Date.parse(one.at) }));
  const upTo = (end: number, looked: boolean) => {
    const { state, limited, down, needsYou } = standing;
    const doing = !looked ? "unknown" : down ? "down" : limited ? "limited" : state;
    const [next, waits] = [Math.min(end, to), looked && (needsYou || doing === "blocked")];
    if (next > at) stretches.push({ from: at, to: next, doing, needsYou: waits });
    at = Math.max(at, next);
  };
  const until = (end: number, looked = true) => {
    for (const gap of gaps.filter((one) => one.to > at && one.from < end)) {
      upTo(gap.from, looked);
      upTo(Math.min(gap.to, end), false);
    }
    upTo(end, looked);
  };
  for (const event of events) {
    until(Math.min(Date.parse(event.at), lastLook));
    standing = standingAfter(event, standing);
  }
  until(lastLook);
  until(to, false);
  return stretches;
}

const isWithin = ({ at }: { at: string }, { from, to }: Span): boolean =>
  Date.parse(at) >= from && Date.parse(at) < to;
const overlap = (a: Span, b: Span): number =>
  Math.max(0, Math.min(a.to, b.to) - Math.max(a.from, b.from));
/** The longest time in `within` that no span covers. */
export function longestGap(spans: Span[], within: Span) {
  let [best, at] = [{ from: within.from, to: within.from }, within.from];
  const end = { from: within.to, to: within.to };
  for (const one of [...spans.toSorted((a, b) => a.from - b.from), end]) {
    const to = Math.min(one.from, within.to);
    if (to - at > best.to - best.from) best = { from: at, to };
    at = Math.max(at, one.to);
  }
  return { from: iso(best.from), to: iso(best.to), ms: best.to - best.from };
}

/** The lengths a slot may have, ms: round on a clock. */
const SLOT_STEPS = [
  ...[1000, MINUTE].flatMap((unit) => [1, 2, 3, 5, 10, 15, 20, 30].map((count) => count * unit)),
  ...[1, 2, 3, 4, 6, 8, 12, 24].map((hours) => hours * HOUR),
];

/** Columns of the names before the bars. */
const barLabel = (names: string[]): number => Math.max(5, Math.min(14, widest(names)));

/** A bar has at least this many slots where nothing limits them: fewer would hide much. */
const SLOTS_LEAST = 20;

/**
 * The slots of a bar, round on the local clock: as many as there is `room` for, so that the whole
 * time is shown; 0 = no limit, and they are as long as SLOTS_LEAST of them allow.
 */
function slotsOf({ from, to }: Span, room = 0): Span[] {
  const span = to - from;
  const most = Math.max(1, room - 1); // the first one may begin before `from`
  const slot = room > 0
    ? SLOT_STEPS.find((step) => span <= most * step) ?? DAY * Math.ceil(span / (most * DAY))
    : span >= SLOTS_LEAST * DAY ? DAY * Math.floor(span / (SLOTS_LEAST * DAY))
    : SLOT_STEPS.findLast((step) => span >= SLOTS_LEAST * step) ?? SLOT_STEPS[0]!;
  const shift = new Date(from).getTimezoneOffset() * MINUTE;
  const first = Math.floor((from - shift) / slot) * slot + shift;
  const starts = Array.from({ length: Math.ceil((to - first) / slot) }, (_, i) => first + i * slot);
  return starts.map((start) => ({ from: start, to: start + slot }));
}

/** The stretches in each slot, where both are in their order and none overlaps another. */
function stretchesIn(slots: Span[], stretches: Stretch[]): Stretch[][] {
  let first = 0;
  return slots.map(({ from, to }) => {
    while (first < stretches.length && stretches[first]!.to <= from) first += 1;
    let end = first;
    while (end < stretches.length && stretches[end]!.from < to) end += 1;
    return stretches.slice(first, end);
  });
}

/** How much of a span each activity took, ms. */
function spentIn(span: Span, stretches: Stretch[]): Record<Activity, number> {
  const spent = { active: 0, idle: 0, limited: 0, blocked: 0, down: 0, unknown: 0 };
  for (const one of stretches) spent[one.doing] += overlap(one, span);
  return spent;
}

/** The active share of what is known of a slot, 0 to 1; null = nothing is. */
function activeShare(slot: Span, stretches: Stretch[]): number | null {
  const { active, idle, limited, blocked, down } = spentIn(slot, stretches);
  const looked = active + idle + limited + blocked + down;
  return looked ? active / looked : null;
}

/** What the characters of a timeline mean; the higher a block, the more of its slot was work. */
const TIMELINE_KEY =
  "▁▄█ at work  · idle  ▒ limited  ! waited for you  x down or done  ↺ restarted";
const SLOT_SIGNS: Record<Activity, string> =
  { active: "", idle: "·", limited: "▒", blocked: "!", down: "x", unknown: " " };

/**
 * An agent's time as a bar, a character for each slot. What a person must not miss is shown however
 * short it was: that the agent waited for a person, or else that it was restarted. Otherwise a slot
 * shows what took most of it. `mine`: the agent's events and the watchdog's, in their order;
 * `lastLook`: until when (wall ms) a watchdog looked.
 */
export function timeline(mine: AgentEvent[], slots: Span[], lastLook: number): string {
  const window = { from: slots[0]?.from ?? 0, to: slots.at(-1)?.to ?? 0 };
  const stretches = stretchesOf(mine, window, lastLook);
  const restarts = restartsOf(mine).map(({ at }) => Date.parse(at));
  return stretchesIn(slots, stretches).map((here, nth) => {
    const slot = slots[nth]!;
    if (here.some(({ needsYou }) => needsYou)) return "!";
    if (restarts.some((at) => at >= slot.from && at < slot.to)) return "↺";
    const spent = spentIn(slot, here);
    // one known moment says more than an unknown hour
    const [most = "unknown"] = ACTIVITIES.filter((doing) => doing !== "unknown" && spent[doing])
      .sort((a, b) => spent[b] - spent[a]);
    const share = activeShare(slot, here) ?? 0;
    const works = most === "active" || (most === "idle" && share > 0);
    return works ? " ▁▂▃▄▅▆▇█"[Math.ceil(share * 8)]! : SLOT_SIGNS[most];
  }).join("");
}

/** One agent of a report. Durations are ms, moments ISO 8601 in UTC. */
export type AgentReport = ReturnType<typeof reportAgent>;

function reportAgent(
  agent: string, mine: AgentEvent[], window: Span, known: Span, slots: Span[],
) {
  const stretches = stretchesOf(mine, window, known.to);
  const recent = mine.filter((event) => isWithin(event, window));
  const named = (event: string) => recent.filter((one) => one.event === event);
  const waits = named("delivered").map((event) => Number(event.ms)).sort((a, b) => a - b);
  const commits = (kind: string) => named("commit").filter((event) => event.kind === kind).length;
  const restarts = restartsOf(mine).filter((one) => isWithin(one, window));
  const reasons = [...Map.groupBy(restarts, ({ why }) => why)];
  const first = Date.parse(mine.find((event) => event.agent === agent)?.at ?? "");
  const from = Math.min(Math.max(first || known.to, known.from), known.to);
  return {
    agent,
    // when the record first mentions it; "" = never
    firstSeen: first && first < window.to ? iso(from) : "",
    spent: spentIn(window, stretches),
    silence: longestGap(stretches.filter(({ doing }) => doing === "active"),
      { from, to: known.to }),
    restarts: { count: restarts.length,
      why: Object.fromEntries(reasons.map(([why, all]) => [why, all.length])) },
    // those typed into it, and how long they waited until its client had them
    texts: {
      delivered: waits.length,
      undelivered: named("undelivered").length + named("unconfirmed").length,
      medianMs: waits.length
        ? (waits[(waits.length - 1) >> 1]! + waits[waits.length >> 1]!) / 2 : null,
      maxMs: waits.at(-1) ?? null,
    },
    commits: { claim: commits("claim"), review: commits("review") },
    // the active share of each slot, 0 to 1, and the same slots as drawn by `timeline`
    bar: stretchesIn(slots, stretches).map((here, nth) => activeShare(slots[nth]!, here)),
    timeline: timeline(mine, slots, known.to),
  };
}

/** The last verdict on each gate, by subjects such as `review(gate): PASS …` or `FAIL …`. */
function gatesOf(commits: { at: string; kind: string; subject: string }[]) {
  const gates = new Map<string, { at: string; gate: string; passed: boolean }>();
  for (const { at, kind, subject } of commits) {
    const [, gate, verdict] = /\(([^)]+)\)[^:]*:\s*(PASS|FAIL)\b/.exec(subject) ?? [];
    if (kind !== "review" || !gate) continue;
    gates.delete(gate);
    gates.set(gate, { at, gate, passed: verdict === "PASS" });
  }
  return [...gates.values()];
}

/** What the record says besides each agent's time. */
function fleetRecord(recent: AgentEvent[]) {
  const named = (name: string) => recent.filter(({ event }) => event === name);
  const moved = recent.findLast(({ event }) => event === "complete" || event === "phase");
  const commits = named("commit").map(({ at, agent = "", kind, sha, subject }) => ({
    at, agent, kind: String(kind ?? ""), sha: String(sha ?? ""), subject: String(subject ?? "") }));
  return {
    // `from` is "" where a person set the phase
    phases: named("phase")
      .map((event) => ({ at: event.at, from: String(event.from ?? ""), to: String(event.to) })),
    complete: moved?.event === "complete" ? moved.at : "", // the last phase, and none set since
    commits,
    gates: gatesOf(commits),
    // what may need a person
    troubles: recent.filter(({ event, to: state }) =>
      kindOf(event).trouble && !["ok", "empty"].includes(String(state)))
      .map(({ at, event, agent = "", why = "" }) => ({ at, event, agent, why: String(why) })),
    // those that went out, each with the events it named
    notices: named("notified").map(({ at, told }) =>
      ({ at, told: Array.isArray(told) ? told.map(String) : [] })),
  };
}

/** The stable content of `report --json`. */
export type Report = ReturnType<typeof summariseEvents>;

/**
 * What happened between `from` and `to` (wall ms). `events` are in their order and reach back
 * before `from` as far as the record does. `names` are listed even if nothing happened to them, the
 * common silence is that of `loops`, and `lastLook` is when the watchdog last looked.
 */
export function summariseEvents(
  events: AgentEvent[], from: number, to: number,
  facts: { names?: string[]; loops?: string[]; lastLook?: number; fleet?: string;
    open?: OpenMatter[]; notifies?: boolean; width?: number } = {},
) {
  const window = { from, to };
  const lastLook = Math.max(from, Math.min(facts.lastLook ?? to, to));
  const known = {
    from: Math.min(lastLook, Math.max(from, Date.parse(events[0]?.at ?? "") || lastLook)),
    to: lastLook,
  };
  const recent = events.filter((event) => isWithin(event, window));
  const names = [...new Set([...(facts.names ?? []),
    ...recent.flatMap((event) => event.agent ?? [])])];
  const loops = facts.loops?.length ? facts.loops : names;
  const mine = (name: string) => eventsOf(events, name, facts.loops?.includes(name) ?? false);
  const slots = slotsOf({ from: recent.length ? known.from : from, to },
    (facts.width ?? 0) - barLabel(names) - 2);
  const busy = loops.flatMap((name) =>
    stretchesOf(mine(name), window, lastLook).filter((one) => one.doing === "active"));
  return {
    version: 1 as const, fleet: facts.fleet ?? "", from: iso(from), to: iso(to),
    // until when the watchdog looked: what came later is unknown
    seen: iso(lastLook),
    recorded: iso(known.from), // when the record begins, if later than `from`
    // when each slot of the bars begins: at least 20 of them, from `recorded` on
    slotMs: slots[0]!.to - slots[0]!.from,
    slots: slots.map((slot) => iso(slot.from)),
    open: facts.open ?? [],
    notifies: facts.notifies ?? true, // whether [notify] names a command or an address now
    agents: names.map((name) => reportAgent(name, mine(name), window, known, slots)),
    // the longest time in which none of these was active
    silence: longestGap(busy, known),
    silenceOf: facts.loops?.length ? "loops" as const : "agents" as const,
    ...fleetRecord(recent),
  };
}

/** Conditions of an agent that does not work, and with which the watchdog goes on by itself. */
const WAITS: Condition[] = ["limited", "backoff", "ended", "ending"];

/** What is unsettled in the fleet at `now` (wall ms); what needs a person comes first. */
export function openMatters(status: Status, now: number): OpenMatter[] {
  const fleet = [
    ...(status.configError ? [{ what: status.configError, needsHuman: true }] : []),
    ...fleetMatters(status, now)].map((one) => ({ agent: "", cure: "", ...one }));
  // the question of who needs a person, the last words of who is down
  const said = (row: StatusRow) => (row.needsHuman || !row.running) && row.detail
    ? `${stateText(row, now)}: ${row.detail}` : row.state;
  const rows = [...status.agents, ...status.services]
    .filter((row) => row.needsHuman || WAITS.includes(row.condition))
    .map((row) => ({ agent: row.name, needsHuman: row.needsHuman, cure: row.cure,
      what: said(row) + (row.messages ? ` · ${plural(row.messages, "message")} waiting` : "") }));
  const orphans = status.orphans.map(({ name }) => ({ agent: name, needsHuman: false,
    what: "left the config, its client is still there", cure: `down ${name}` }));
  const stopped = isStopped(status)
    ? [{ agent: "", what: "the fleet is stopped", cure: "up", needsHuman: false }] : [];
  return needyFirst([...fleet, ...stopped, ...rows, ...orphans]);
}

/** The times above the bars: minutes, hours or days of the month, by how long a slot is. */
function rulerText({ slots, slotMs }: Report): string {
  const wide = slotMs < HOUR ? 6 : 3;
  const step = SLOT_STEPS.find((one) => one >= Math.max(wide * slotMs, MINUTE)) ?? DAY;
  return slots.reduce((line, at, i) => {
    const [, , day, hour, minute, second] = localParts(at);
    const clock = (hour * 60 + minute) * MINUTE + second * 1000;
    if (line.length > i || (step < DAY ? clock % step : clock >= slotMs)) return line;
    const mark = step < DAY ? clockTime(at, wide - 1)
      : String(day).padStart(2, "0");
    return `${line.padEnd(i)}${mark} `;
  }, "").trimEnd();
}

/** A section of a report: prose ("" = none), tables, and bars, whose columns stay aligned. */
interface Section {
  title: string;
  items?: string[];
  tables?: string[][][];
  bars?: [label: string, cells: string][];
}

/** A moment without its year, and without its day where that is the day of `today`. */
const momentText = (at: string, today?: string, length = 5): string =>
  dateAndTime(at, today, length).replace(/^\d+-/, "");

/** Which fleet and time the report covers, and how much of that time was recorded. */
function reportHead({ fleet, from, to, seen, recorded }: Report): Section {
  const last = seen > from
    ? `the watchdog last looked at ${momentText(seen, to)}` : "no watchdog was running at the time";
  const begins = recorded > from && seen > from
    ? `the record begins at ${momentText(recorded, to)}; nothing is known before that` : "";
  const span = `${momentText(from)} to ${momentText(to, from)}`;
  return { title: joined(" · ", fleet, span), items: [begins, seen === to ? "" : last] };
}

const openText = ({ agent, what, cure, needsHuman }: OpenMatter): string =>
  (needsHuman ? "! " : "") + joined(": ", agent, what) + (cure ? ` → agents ${cure}` : "");

function achieved({ phases: moves, complete, gates, commits, to }: Report): Section {
  const when = (at: string) => momentText(at, to);
  const advanced = moves.map((move) =>
    `${move.from ? `${move.from} → ` : "set to "}${move.to} (${when(move.at)})`);
  const named = (passed: boolean) => gates.filter((one) => one.passed === passed)
    .map(({ gate }) => gate).join(", ");
  return { title: "Achieved", items: [
    `phases: ${advanced.join(", ") || "none advanced"}` +
      (complete ? `; complete at ${when(complete)}` : ""),
    `gates passed: ${named(true) || "none"}`,
    named(false) && `gates failing: ${named(false)}`,
    commits.length ? `${plural(commits.length, "commit")}:` : "no commits",
    ...commits.map(({ at, agent, sha, subject }) =>
      joined(" ", when(at), sha.slice(0, 7), agent, subject)),
  ] };
}

function restartsText({ agent, restarts: { count, why } }: AgentReport): string {
  const reasons = Object.entries(why).sort((a, b) => b[1] - a[1]);
  const said = reasons.map(([reason, times]) => reason + (times > 1 ? ` ×${times}` : ""));
  return `${agent}: ${plural(count, "restart")}: ${said.join(", ")}`;
}

const UNKNOWN_TIME = "nothing is known about this time";

/** Where the time went; an agent's time counts from when it was first seen. */
function costs({ agents, silence, silenceOf, from, to }: Report): Section {
  const before = ({ firstSeen }: AgentReport) => Date.parse(firstSeen || to) - Date.parse(from);
  const times = agents.map((one) => [one.agent,
    ...ACTIVITIES.map((doing) =>
      spanText(one.spent[doing] - (doing === "unknown" ? before(one) : 0))),
    spanText(one.silence.ms)]);
  const deeds = agents.map((one) => [
    one.agent,
    one.texts.undelivered ? `${one.texts.delivered} (${one.texts.undelivered} undelivered)`
      : String(one.texts.delivered || "-"),
    spanText(one.texts.medianMs ?? 0), spanText(one.texts.maxMs ?? 0),
    joined(", ", plural(one.commits.claim, "claim"), plural(one.commits.review, "review")) || "-",
    String(one.restarts.count || "-"),
  ]);
  const told = (rows: string[][]) =>
    rows.filter((row) => row.slice(1).some((cell) => cell !== "-"));
  const when = (at: string) => momentText(at, to, silence.ms < 10 * MINUTE ? 8 : 5);
  const quiet = silence.ms ? `, from ${when(silence.from)} to ${when(silence.to)}` : "";
  return { title: "What it cost",
    tables: [
      [["AGENT", ...ACTIVITIES.map((doing) => doing.toUpperCase()), "SILENCE"], ...told(times)],
      [["AGENT", "MESSAGES", "MEDIAN", "LONGEST", "COMMITS", "RESTARTS"], ...told(deeds)],
    ].filter((table) => table.length > 1),
    items: [...agents.filter(({ restarts }) => restarts.count).map(restartsText),
      agents.some(({ firstSeen }) => firstSeen) ? "" : UNKNOWN_TIME,
      quiet && `longest silence of ${silenceOf === "loops" ? "the loop" : "all"} ` +
        `(none at work): ${spanText(silence.ms)}${quiet}`] };
}

/** One line for all troubles of one kind of one agent, so that none is left out. */
function foldTroubles({ troubles, to }: Report): string[] {
  const kinds = Map.groupBy(troubles, ({ agent, event }) => `${agent ? `${agent} ` : ""}${event}`);
  return [...kinds].map(([kind, all]) => {
    const { at, why } = all.at(-1)!;
    const [times, last] = all.length > 1 ? [` ×${all.length}`, "last "] : ["", ""];
    const reason = withLocalTimes(reasonOf(why)).replace(/\s+/g, " ");
    return `${kind}${times}: ${reason} (${last}${momentText(at, to)})`;
  });
}

function reportSections(report: Report): Section[] {
  const { agents, open, troubles, notices, notifies, to } = report;
  const label = barLabel(agents.map((one) => one.agent));
  const bars = agents.filter(({ timeline: bar }) => bar.trim());
  return [
    reportHead(report),
    { title: "Open", items: open.length ? open.map(openText) : ["nothing is open"] },
    achieved(report),
    bars.length ? { title: "Timeline", items: [TIMELINE_KEY],
      bars: [{ agent: "", timeline: rulerText(report) }, ...bars]
        .map((one) => [fitName(one.agent, label), one.timeline.padEnd(report.slots.length)]) }
      : { title: "Timeline", items: [UNKNOWN_TIME] },
    costs(report),
    { title: "Troubles", items: troubles.length ? foldTroubles(report) : ["none"] },
    { title: "Notices", items: !notices.length
      ? [notifies ? "none went out" : `none went out: ${UNTOLD.what}; ${UNTOLD.cure}`]
      : notices.map(({ at, told }) => `${momentText(at, to)} ${told.join(", ")}`) },
  ];
}

/** A table without empty columns; where `width` is too narrow for it, one entry for each row. */
function tableText(table: string[][], width: number): string[] {
  const told = table[0]!.map((_, i) => i === 0 || table.slice(1).some((row) => row[i] !== "-"));
  const [head, ...rows] = table.map((row) => row.filter((_, i) => told[i]));
  if (head!.length === 1) return [];
  const lines = columns([head!, ...rows], width, [[0, 14]]);
  if (lines.every((line) => Bun.stringWidth(line) <= width)) return lines;
  return rows.flatMap(([name, ...cells]) => {
    const facts = cells.flatMap((cell, i) =>
      (cell === "-" ? [] : `${head![i + 1]!.toLowerCase()} ${cell}`));
    return facts.length ? wrap(`${name}: ${facts.join(" · ")}`, width, "  ") : [];
  });
}

/** A bar with its label; if it is too wide, only its newest part, without half a time above it. */
function barText([label, cells]: [string, string], width: number): string {
  const from = Math.max(0, cells.length - Math.max(1, width - label.length - 2));
  const shown = cells.slice(from);
  const half = label.trim() || /^ ?$/.test(cells[from - 1] ?? "") ? "" : /^\S*/.exec(shown)![0];
  return `${label}  ${" ".repeat(half.length)}${shown.slice(half.length)}`.trimEnd();
}

export function reportText(report: Report, width: number): string {
  return reportSections(report).map(({ title, items = [], tables = [], bars = [] }) => [
    ...wrap(title, width, "  ").map((line) => paint("bold", line)),
    ...bars.map((bar) => barText(bar, width)),
    ...tables.map((table) => tableText(table, width)).filter((lines) => lines.length)
      .flatMap((lines) => [...lines, ""]),
    ...items.filter(Boolean).flatMap((item) => wrap(item, width, "  "))
      .map((line) => (line.startsWith("! ") ? paint("red", line) : line)),
  ].join("\n").trimEnd()).join("\n\n");
}

/** Escapes Markdown, so that a commit's subject makes no link, table or heading. */
const escapeMarkdown = (value: string): string =>
  printable(value).replace(/[\\`*_{}[\]<>|~#]/g, "\\$&");

export function reportMarkdown(report: Report): string {
  const row = (cells: string[]) => `| ${cells.map(escapeMarkdown).join(" | ")} |`;
  return reportSections(report).map(({ title, items = [], tables = [], bars = [] }, i) => [
    `${i ? "##" : "#"} ${escapeMarkdown(title)}`,
    bars.length ? ["```", ...bars.map((bar) => barText(bar, Infinity)), "```"].join("\n") : "",
    ...tables.map(([head, ...rows]) =>
      [row(head!), row(head!.map(() => "---")), ...rows.map(row)].join("\n")),
    items.filter(Boolean).map((item) => `- ${escapeMarkdown(item)}`).join("\n"),
  ].filter(Boolean).join("\n\n")).join("\n\n");
}

/** Until when a watchdog looked at the agents, wall ms. */
const lastLookOf = ({ running, stale, heartbeat }: WatchdogState, events: AgentEvent[]): number =>
  running && !stale ? world.now()
    : Date.parse(heartbeat) || Date.parse(events.at(-1)?.at ?? "") || 0;

async function cmdReport(call: Call): Promise<number> {
  const cfg = await configFor(call, true);
  const events = await readEvents(cfg);
  const { json, md } = call.options;
  const open = await readStatus(cfg).then((status) => openMatters(status, world.now()), (error) =>
    [{ agent: "", what: `could not look: ${messageOf(error)}`, cure: "doctor", needsHuman: true }]);
  const width = terminalWidth();
  const now = world.now();
  const report = summariseEvents(events, now - sinceOf(call), now, {
    width: json || md || width === Infinity ? 0 : width,
    names: [...cfg.agents.keys()], fleet: fleetName(cfg), open,
    loops: loopAgents(cfg).map((agent) => agent.name), notifies: tellsPeople(cfg),
    lastLook: lastLookOf(await readWatchdog(cfg), events),
  });
  return printed(json ? JSON.stringify(report, null, 2)
    : md ? reportMarkdown(report) : reportText(report, width));
}

// ── the live view ───────────────────────────────────────────────────────────────
// `status --watch`: the table of `status`, kept up to date, with the latest events below; keys run
// other commands.

export const NEW_VIEW = {
  /** Name of the row that keys act on. */
  selected: "",
  filter: "",
  /** `filter`, `send`: keys are text. `ask`: to confirm `order`. `page`: a text is shown. */
  mode: "list" as "list" | "filter" | "send" | "ask" | "page",
  input: "",
  order: "down" as "restart" | "down",
  page: [] as string[],
  /** Index of the first line of the page on the screen. */
  top: 0,
  /** The outcome of the last order. */
  note: "",
};
export type View = typeof NEW_VIEW;

/** What a key made of the view, and asks for: to quit, or to run a command on a unit. */
interface Pressed {
  view: View;
  act?: { do: "quit" } | { do: "run"; words: string[] };
}

/** Keys of the list, each with its word, mostly the command that it runs, and its help. */
const LIVE_KEYS: [key: string, word: string, clause: string][] = [
  ["⏎", "attach", "attach to it; detach to return"],
  ["l", "logs", "what it was told, said and did"],
  ["e", "explain", "how its screen is read, and why"],
  ["s", "send", "type a message into it"],
  ["r", "restart", "end it and start it again"],
  ["u", "up", "start it, also when parked"],
  ["d", "down", "stop it until you run up"],
  ["/", "find", "show matching rows; Esc: all"],
  ["?", "help", "this page"],
  ["q", "quit", "leave; the fleet keeps running"],
];
const helpPage = (): string[] => [
  ...[...LIVE_KEYS, ["↑ ↓", "", "or k and j: another row"] as const]
    .map(([key, short, clause]) => `${fit(key, 4)}${fit(short, 9)}${clause}`),
  "", "in the bars:", ...wrap(TIMELINE_KEY, 44),
];

/** The keys in what a terminal sent: each a character or a name. */
export function parseKeys(sent: string): string[] {
  const names: Record<string, string> = { A: "up", B: "down", H: "home", F: "end", "5~": "pageup",
    "6~": "pagedown", "\r": "enter", "\n": "enter", "\x7f": "erase", "\b": "erase",
    "\x1b": "escape", "\x03": "quit", "\x04": "quit" };
  return [...sent.matchAll(/\x1b[[O]([\d;]*[A-Za-z~])|[^]/gu)]
    .flatMap(([all, code]) => names[code ?? all] ?? (code ? [] : all));
}

/** What a key does; `names`: the rows in their order. */
export function pressKey(view: View, key: string, names: string[]): Pressed {
  const list: View = { ...view, mode: "list", input: "" };
  if (key === "quit") return { view, act: { do: "quit" } };
  if (view.mode === "page") return { view: pageKey(view, key) };
  if (view.mode === "ask") {
    return key === "y" ? { view: list, act: { do: "run", words: [view.order, view.selected] } }
      : { view: { ...list, note: `${view.order} ${view.selected}: not done` } };
  }
  if (view.mode !== "list") return inputKey(view, key);
  return listKey({ ...view, note: "" }, key, names);
}

function pageKey(view: View, key: string): View {
  const steps: Record<string, number> = { j: 1, down: 1, k: -1, up: -1, pagedown: 10, " ": 10,
    pageup: -10, home: -Infinity, end: Infinity };
  const step = steps[key];
  if (step === undefined) return { ...view, mode: "list", page: [], top: 0 };
  return { ...view, top: Math.max(0, Math.min(view.page.length - 1, view.top + step)) };
}

/** A key while a message is typed, or the filter, which applies as it is typed. */
function inputKey(view: View, key: string): Pressed {
  const isFilter = view.mode === "filter";
  const list: View = { ...view, mode: "list", input: "" };
  if (key === "escape") return { view: isFilter ? { ...list, filter: "" } : list };
  if (key === "enter") {
    return isFilter || !view.input.trim() ? { view: list }
      : { view: list, act: { do: "run", words: ["send", view.selected, view.input] } };
  }
  const input = key === "erase" ? [...view.input].slice(0, -1).join("")
    : [...key].length === 1 && printable(key) ? view.input + key : view.input;
  return { view: { ...view, input, ...(isFilter ? { filter: input } : {}) } };
}

function listKey(view: View, key: string, names: string[]): Pressed {
  const at = Math.max(0, names.indexOf(view.selected));
  const moves: Record<string, number> = { j: at + 1, down: at + 1, k: at - 1, up: at - 1, home: 0,
    g: 0, end: names.length - 1, G: names.length - 1, pagedown: at + 10, pageup: at - 10 };
  const selected = names[Math.max(0, Math.min(names.length - 1, moves[key] ?? at))] ?? "";
  const next: View = { ...view, selected };
  const shown = key === "enter" ? "⏎" : key;
  const [, word] = LIVE_KEYS.find(([one]) => one === shown) ?? [];
  if (word === "quit") return { view: next, act: { do: "quit" } };
  if (word === "help") return { view: { ...next, mode: "page", page: helpPage(), top: 0 } };
  if (word === "find") return { view: { ...next, mode: "filter", input: view.filter } };
  if (key === "escape") return { view: { ...next, filter: "" } };
  if (!word || !selected) return { view: next };
  if (word === "send") return { view: { ...next, mode: "send", input: "" } };
  if (word === "restart" || word === "down") return { view: { ...next, mode: "ask", order: word } };
  return { view: next, act: { do: "run", words: [word, selected] } };
}

const filtered = (rows: StatusRow[], filter: string): StatusRow[] =>
  rows.filter(({ name, kind, backend, model, condition, detail }) =>
    [name, kind, backend, model, condition, detail].join(" ").toLowerCase()
      .includes(filter.toLowerCase()));

/** The live view as exactly `height` lines, none wider than `width`; `events`, oldest first. */
export function liveLines(
  status: Status, view: View, events: AgentEvent[], width: number, height: number,
): string[] {
  if (view.mode === "page") {
    const lines = view.page.slice(view.top, view.top + height - 1).map((line) => cut(line, width));
    return filled(lines, [paint("dim", cut("j k scroll · any other key: back", width))], height);
  }
  const rows = filtered(rowsOf(status), view.filter);
  const { head, title, lines, foot } = statusParts(status, rows, width);
  const last = [cut(lineOfView(view), width), paint("dim", keyLine(width))];
  const top = head.slice(0, Math.max(1, height - last.length - 3));
  const room = Math.max(1, height - top.length - title.length - last.length);
  const at = Math.max(0, rows.findIndex((row) => row.name === view.selected));
  const from = Math.max(0, Math.min(at - (room >> 1), lines.length - room));
  const table = lines.map((line, i) => (i === at ? markRow(line, width) : line))
    .slice(from, from + room);
  const left = room - table.length;
  const lastLook = lastLookOf(status.watchdog, events);
  // five lines stay free for the latest events
  const bars = barLines(rows, events, lastLook, width, left - foot.length - 5);
  const below = [...foot, ...bars,
    ...historyLines(events, width, left - foot.length - bars.length)];
  return filled([...top, ...title, ...table, ...below.slice(0, left)], last, height);
}

/** Marks the selected row, in a way that is seen without colours too. */
const markRow = (line: string, width: number): string =>
  paint("inverse", fit(line.replace(/^((?:\x1b\[\d+m)*.) /, "$1▸"), width));

/** Exactly `height` lines: as many of `above` as fit, empty ones, and `last` at the bottom. */
const filled = (above: string[], last: string[], height: number): string[] =>
  [...above.slice(0, Math.max(0, height - last.length)),
    ...Array(Math.max(0, height - above.length - last.length)).fill(""), ...last].slice(0, height);

/** Each agent's last 20 minutes as a bar, those that need you first, as far as there is room. */
function barLines(
  rows: StatusRow[], events: AgentEvent[], lastLook: number, width: number, room: number,
): string[] {
  const agents = rows.filter(({ kind }) => kind !== "service");
  const label = Math.max(11, Math.min(14, widest(agents.map(({ name }) => name))));
  const across = width - label - 4;
  if (room < 3 || across <= SLOTS_LEAST) return [];
  const now = world.now();
  const slots = slotsOf({ from: now - 20 * MINUTE, to: now }, across);
  const bars = agents.slice(0, room)
    .map(({ name, kind }) =>
      [name, timeline(eventsOf(events, name, kind === "loop"), slots, lastLook)] as const)
    .filter(([, bar]) => bar.trim()).slice(0, room - 2);
  return !bars.length ? [] : [
    paint("dim", "─".repeat(width)),
    paint("dim", `  ${fit("last 20 min", label)}  ` +
      spread(clockTime(slots[0]!.from), clockTime(now), slots.length)),
    ...bars.map(([name, bar]) => `  ${fitName(printable(name), label)}  ${bar}`),
  ];
}

function historyLines(events: AgentEvent[], width: number, room: number): string[] {
  if (room < 3) return [];
  // the table and the bars show the states, which would soon hide all else
  const lines = foldEvents(events.filter(({ event }) => event !== "state")).slice(1 - room)
    .map(({ event, times }) => cut(eventText(event, world.now(), times), width));
  return lines.length ? [paint("dim", "─".repeat(width)), ...lines] : [];
}

function lineOfView({ mode, input, order, selected, note, filter }: View): string {
  if (mode === "filter") return `/${input}▏`;
  if (mode === "send") return `to ${selected}: ${input}▏`;
  if (mode === "ask") return `${order} ${selected}? y/n`;
  return note || (filter ? `only rows with "${filter}"; Esc shows all` : "");
}

function keyLine(width: number): string {
  const named = (all: boolean) => LIVE_KEYS.map(([key, short]) =>
    (key !== "q" && (all || "/?".includes(key)) ? `${key} ${short}` : key)).join("  ");
  return Bun.stringWidth(named(true)) <= width ? named(true) : cut(named(false), width);
}

type Terminal = ReturnType<typeof takeTerminal>;

/** Takes the terminal: in raw mode, on its alternate screen, until `close`. */
function takeTerminal(press: (key: string) => void) {
  const { stdin, stdout } = process;
  const decoder = new TextDecoder();
  const read = (bytes: Uint8Array) =>
    parseKeys(decoder.decode(bytes, { stream: true })).forEach(press);
  let ours = false;
  const open = () => {
    ours = true;
    stdin.setRawMode(true).on("data", read).resume();
    stdout.write("\x1b[?1049h\x1b[?25l");
  };
  const close = () => {
    if (!ours) return;
    ours = false;
    stdin.off("data", read).pause();
    stdin.setRawMode(false);
    stdout.write("\x1b[?25h\x1b[?1049l");
  };
  open();
  return {
    close,
    draw: (lines: string[]) => void (ours && stdout.write(
      `\x1b[H${lines.map((line) => `${printableText(line)}\x1b[K`).join("\r\n")}\x1b[J`)),
    // restored while other work uses it
    lend: (work: () => Promise<unknown>) => (close(), work().finally(open)),
  };
}

/** `status --watch`, until `q`, Ctrl-C or a signal; it leaves the terminal as it was. */
async function showLive(call: Call, first: Config): Promise<number> {
  if (!isTerminal() || !process.stdin.isTTY) die("status --watch needs a terminal");
  if (process.env.TERM === "dumb") {
    die("status --watch cannot draw on this terminal (TERM=dumb); " +
      '"agents events -f" prints line by line');
  }
  let [cfg, view, status, events] =
    [first, NEW_VIEW, await readStatus(first), await lastEvents(first)];
  const end = Promise.withResolvers<number>();
  const over = new AbortController();
  const draw = () => {
    const { columns: width = 80, rows = 24 } = process.stdout;
    terminal.draw(liveLines(status, view, events, width, rows));
  };
  const press = (key: string) => {
    const names = filtered(rowsOf(status), view.filter).map(({ name }) => name);
    const pressed = pressKey(view, key, names);
    view = pressed.view;
    if (pressed.act?.do === "quit") end.resolve(0);
    if (pressed.act?.do === "run") {
      void perform(cfg, pressed.act.words, terminal, over.signal, (change) => {
        view = { ...view, ...change };
        draw();
      });
    }
    draw();
  };
  const terminal = takeTerminal(press);
  const signals = { SIGTERM: 143, SIGHUP: 129, SIGINT: 130 } as const;
  for (const [name, code] of Object.entries(signals)) process.on(name, () => end.resolve(code));
  // a terminal that was closed under a parent that ignores SIGHUP says it in no other way
  for (const name of ["end", "error"]) process.stdin.on(name, () => end.resolve(signals.SIGHUP));
  process.stdout.on("resize", draw);
  const look = async () => {
    cfg = await currentConfig(call).catch((error) =>
      ({ ...cfg, broken: `${faultsIn(error)[0]}; showing what it said before` }));
    status = await readStatus(cfg).catch((error) => ({ ...status, configError: messageOf(error) }));
    events = await lastEvents(cfg);
  };
  const clock = setInterval(draw, 1_000);
  const isEnded = end.promise.then(() => true);
  draw();
  try {
    // in between only its clock moves; a look may hang, which must not delay the end
    while (!(await within(2_000, isEnded, false))) {
      await Promise.race([look().then(draw), isEnded]);
    }
    return await end.promise;
  } finally {
    clearInterval(clock);
    over.abort();
    terminal.close();
  }
}

/** The last events: more than the live view can show. */
const lastEvents = (cfg: Config): Promise<AgentEvent[]> => readEvents(cfg, 1_000);

/** Runs a command: `attach` in the terminal itself, others as a page or a note of how it ended. */
async function perform(
  cfg: Config, words: string[], terminal: Terminal, signal: AbortSignal,
  change: (some: Partial<View>) => void,
): Promise<void> {
  const [command = "", name = "", ...text] = words;
  const argv = [...selfArgv(), command, name, "--config", cfg.path];
  const said = `${command} ${name}`;
  if (command === "attach") {
    let code: number | null = 0;
    await terminal.lend(async () => (code = await Bun.spawn(argv, { signal, env: process.env,
      stdio: ["inherit", "inherit", "inherit"] }).exited));
    return change({ note: code ? `${said}: failed` : "" });
  }
  change({ note: `${said} …` });
  const { columns: width = 80, rows = 24 } = process.stdout;
  const more = command === "logs" ? ["-n", "500"] : text.length ? ["--", ...text] : [];
  // an agent may end slowly at a restart
  const ran = await run([...argv, ...more], 2 * MINUTE, { COLUMNS: `${width}` });
  const lines = `${ran.out}${ran.err}`.trimEnd().split("\n").flatMap((line) => wrap(line, width));
  if (command !== "logs" && command !== "explain") {
    return change({ note: `${said}: ${ran.ok ? "done" : lines.at(-1) || "failed"}` });
  }
  const top = command === "logs" ? Math.max(0, lines.length - rows + 1) : 0;
  change({ mode: "page", page: lines, top, note: "" });
}

// ── the page ────────────────────────────────────────────────────────────────────
// `serve`: the fleet on a phone, read-only, for whoever has the address with its token.

/** Columns of the page: a phone held upright. */
const PAGE_COLUMNS = 44;

const PAGE_STYLE = `
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --dim: #667; --need: #b3261e;
  --warn: #8a5a00; --line: #d5d9df }
@media (prefers-color-scheme: dark) { :root { --back: #111417; --text: #e4e7eb; --dim: #8b949e;
  --need: #ff8078; --warn: #e3b341; --line: #30363d } }
body { margin: 0; padding: 12px; background: var(--back); color: var(--text) }
pre { margin: 0 0 12px; overflow-x: auto;
  font: clamp(11px, calc((100vw - 24px) / 27), 16px) / 1.5 ui-monospace, Menlo, monospace }
pre + pre { border-top: 1px solid var(--line); padding-top: 12px }
a { color: inherit; text-decoration: none; display: block; padding: 5px 0 }
.need { color: var(--need); font-weight: bold }
.warn { color: var(--warn) }
.dim { color: var(--dim) }
`;

/** The page may load and run nothing, is not framed or stored, and leaks its address to no one. */
const pageHeaders = once(() => ({
  "cache-control": "no-store", "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin",
  "content-security-policy": "default-src 'none'; " +
    `style-src 'sha256-${Bun.SHA256.hash(PAGE_STYLE, "base64")}'; ` +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}));

const html = (text: string): string => Bun.escapeHTML(Bun.stripANSI(printableText(text)));

/** A page of preformatted blocks of HTML, which reloads itself every 5 s. */
const pageOf = (title: string, blocks: string[]): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<title>${html(title)}</title>
<style>${PAGE_STYLE}</style>
</head>
<body>
${blocks.filter(Boolean).map((block) => `<pre>${block}</pre>`).join("\n")}
</body>
</html>
`;

/** The last hour of these agents, a bar for each; no line is wider than the page. */
async function pageBars(cfg: Config, names: string[]): Promise<string> {
  const agents = names.flatMap((name) => cfg.agents.get(name) ?? []);
  if (!agents.length) return "";
  const now = world.now();
  const events = await readEvents(cfg);
  const lastLook = lastLookOf(await readWatchdog(cfg), events);
  const begins = Math.min(Date.parse(events[0]?.at ?? "") || 0, now - SLOTS_LEAST * 1000);
  const wide = Math.min(12, widest(agents.map(({ name }) => name)));
  const slots = slotsOf({ from: Math.max(now - HOUR, begins), to: now }, PAGE_COLUMNS - wide - 1);
  const { from, to } = slots[0]!;
  return html([`since ${localTime(from)}, ${ago(to - from)} each`,
    ...agents.map(({ name, kind }) => `${fitName(name, wide)} ` +
      timeline(eventsOf(events, name, kind === "loop"), slots, lastLook)),
    ...wrap(TIMELINE_KEY, PAGE_COLUMNS)].join("\n"));
}

/** The page of the fleet: its status, each row a link, and the last hour. */
async function fleetPage(cfg: Config, root: string): Promise<string> {
  const status = await readStatus(cfg);
  const rows = rowsOf(status);
  const { head, lines, foot } = statusParts(status, rows, PAGE_COLUMNS);
  const links = rows.map((row, at) => `<a class="${rowClass(row)}" ` +
    `href="${root}${encodeURIComponent(row.name)}">${html(lines[at]!)}</a>`);
  const needy = rows.filter(({ needsHuman }) => needsHuman).length;
  return pageOf(`${needy ? `(${needy}) ` : ""}${basename(status.folder)}`, [
    `${html(head.join("\n"))}\n${links.join("")}${html(foot.join("\n"))}`,
    await pageBars(cfg, status.agents.map(({ name }) => name)),
  ]);
}

/** The page of one unit: its card, the end of its screen in full width, and its last hour. */
async function unitPage(cfg: Config, root: string, name: string): Promise<string> {
  const look = await lookForStatus(cfg, [name]);
  const status = await statusFrom(cfg, look, [name]);
  const [row] = rowsOf(status);
  const card = await cardOf(cfg, look, row!);
  return pageOf(name, [
    `<a href="${root}">← ${html(basename(status.folder))}</a>` +
      html(cardText({ ...card, screen: [] }, status.watchdog, PAGE_COLUMNS)),
    html(card.screen.join("\n")),
    await pageBars(cfg, [name]),
  ]);
}

/** How long two digests take to compare tells nothing about the token. */
const sameSecret = (given: string, token: string): boolean =>
  Bun.SHA256.hash(given, "hex") === Bun.SHA256.hash(token, "hex");

/**
 * What a request asks for: the name of a unit, "" = the whole fleet; null = no such page. The host
 * must be loopback: a site that rebinds its own name to loopback could read the answer.
 */
export function parsePagePath(path: string, host: string, token: string): string | null {
  const [given = "", name = "", ...more] = path.split("/").slice(1);
  const local = ["127.0.0.1", "localhost", "[::1]"]
    .includes(URL.parse(`http://${host}`)?.hostname ?? "");
  if (!sameSecret(given, token) || !local || more.length) return null;
  return tried(() => decodeURIComponent(name), null);
}

/** Answers one request; `show` makes the page of a unit or of the fleet, null = not found. */
export async function answerPage(
  request: Request, token: string, show: (name: string) => Promise<string | null>,
): Promise<Response> {
  const say = (text: string, status: number, more: Record<string, string> = {}) =>
    new Response(text, { status, headers: { ...pageHeaders(), ...more } });
  if (!["GET", "HEAD"].includes(request.method)) return say("", 405, { allow: "GET, HEAD" });
  const { pathname } = new URL(request.url);
  const name = parsePagePath(pathname, request.headers.get("host") ?? "", token);
  const asHtml = { "content-type": "text/html; charset=utf-8" };
  try {
    const page = name === null ? null : await show(name);
    return page === null ? say("not found\n", 404) : say(page, 200, asHtml);
  } catch (error) {
    return say(pageOf("trouble", [html(messageOf(error))]), 500, asHtml);
  }
}

/** `serve`: serves the page until it is ended. Each request reads the config anew. */
async function cmdServe(call: Call): Promise<number> {
  const cfg = await configFor(call);
  const token = Buffer.from(crypto.getRandomValues(new Uint8Array(18))).toString("base64url");
  const show = async (name: string) => {
    const now = await currentConfig(call);
    const root = `/${token}/`;
    if (!name) return fleetPage(now, root);
    return unitsOf(now).has(name) ? unitPage(now, root, name) : null;
  };
  const server = servePage(Number(call.options.port ?? 8675), (request) =>
    answerPage(request, token, show));
  const { port } = server;
  log(`anyone with this address can see ${fleetName(cfg)}; Ctrl-C stops it. ` +
    `From another machine: ssh -L ${port}:127.0.0.1:${port} ${hostname()}, ` +
    "then open the same address there");
  print(`http://127.0.0.1:${port}/${token}/`);
  await new Promise((end) => ["SIGINT", "SIGTERM"].forEach((name) => process.once(name, end)));
  await server.stop(true);
  return 0;
}

function servePage(port: number, fetch: (request: Request) => Promise<Response>) {
  try {
    // by default, outside of development, Bun would share the port with any other that asks
    return Bun.serve({ hostname: "127.0.0.1", port, fetch, maxRequestBodySize: 0,
      development: false, reusePort: false });
  } catch (error) {
    const taken = errorCode(error) === "EADDRINUSE";
    return die(taken ? `port ${port} is taken: name another with --port, or 0 for a free one`
      : `the page cannot be served: ${messageOf(error)}`);
  }
}

// ── doctor ──────────────────────────────────────────────────────────────────────
// Checks of everything that the fleet depends on, each with its cure.

/**
 * Whether something may end the tmux server by accident. `cgroups` is its /proc/<pid>/cgroup,
 * `unit` what systemd says of its unit, `linger` whether the user lingers.
 */
export function assessScope(
  cgroups: string, unit: { killMode: string; oomPolicy: string }, linger: boolean,
): Findings {
  const path = cgroupOf(cgroups);
  const last = basename(path);
  const spared = unit.killMode === "process" && unit.oomPolicy === "continue";
  if (last.endsWith(".service") && !spared) {
    const how = `KillMode=${unit.killMode || "?"}, OOMPolicy=${unit.oomPolicy || "?"}`;
    return warn(
      `the tmux server runs inside ${last} (${how}): it and all agents die with that unit`,
      "KillMode=process and OOMPolicy=continue in it, " +
        "or start tmux outside: systemd-run --user --scope tmux new -d");
  }
  if (/\/user-\d+\.slice\//.test(`${path}/`) && !linger) {
    return warn("the tmux server runs in a login session, which may kill it at logout",
      "loginctl enable-linger");
  }
  return good(`the tmux server survives a logout${path ? ` (${last || "no unit"})` : ""}`);
}

/** The path in systemd's own hierarchy; "" = systemd knows of none, as in a container. */
const cgroupOf = (cgroups: string): string =>
  /^(?:0:|\d+:name=systemd):(\/.*\.(?:service|scope|slice).*)$/m.exec(cgroups)?.[1] ?? "";

/** Whether the rules were tried on a version: patch releases change screens of Claude only. */
export function wasTried(kind: BackendKind, version: string, tried: string[]): boolean {
  const parts = kind === "claude" ? 3 : 2;
  const head = (value: string) => value.split(".").slice(0, parts).join(".");
  return tried.some((one) => head(one) === head(version));
}

function triedVersions(kind: BackendKind): string[] {
  const folder = join(fixtureFolder() ?? "", kind);
  const sidecars = world.list(folder).filter((file) => file.endsWith(".json"));
  // one that cannot be read, such as another user's, costs itself alone
  const versions = sidecars.map((file) => tried(() =>
    String(JSON.parse(world.read(join(folder, file)) ?? "{}").version ?? ""), ""));
  return [...new Set(versions)].filter((one) => /^\d+\.\d+\.\d+$/.test(one));
}

async function examineTmux(cfg: Config | null): Promise<Findings> {
  const client = await world.tmux(["-V"]);
  if (!client.ok) return examineFailed("tmux", client);
  if (!cfg) return assessTmux(client.out, null);
  const server = await tmux(cfg, ["list-sessions", "-F", "#{pid} #{version}"]);
  if (server.timedOut) {
    return fail("the tmux server does not answer", "if it was stopped: kill -CONT <its pid>");
  }
  if (!server.ok && !runsNothing(server)) {
    return fail(`the tmux server does not answer: ${server.err}`,
      /name too long/i.test(server.err) ? "set TMUX_TMPDIR to a folder with a shorter path"
        : /create directory/.test(server.err) ? "set TMUX_TMPDIR to a folder of yours"
        : "run it yourself: tmux ls");
  }
  const { ok, why } = await lookAtSessions(cfg, await loadWatch(cfg));
  if (!ok) return fail(why, "");
  const [pid, running = ""] = server.out.split("\n")[0]!.split(" ");
  return [assessTmux(client.out, running), assessExit((await askServer(cfg, !pid)).exits),
    ...(pid ? [await examineScope(pid)] : [])].flat();
}

async function examineScope(pid: string): Promise<Findings> {
  const cgroups = world.read(`/proc/${pid}/cgroup`);
  if (cgroups === null || world.mtime("/run/systemd/system") === null) return [];
  const path = cgroupOf(cgroups);
  const last = basename(path);
  const manager = path.includes("/user@") ? ["--user"] : [];
  const asked = last.endsWith(".service")
    ? (await run(["systemctl", ...manager, "show", "-p", "KillMode", "-p", "OOMPolicy", last],
      LOOK_DEADLINE)).out : "";
  const value = (key: string) => new RegExp(`^${key}=(.*)$`, "m").exec(asked)?.[1] ?? "";
  const linger = isThere(`/var/lib/systemd/linger/${userInfo().username}`);
  return assessScope(cgroups,
    { killMode: value("KillMode"), oomPolicy: value("OOMPolicy") }, linger);
}

/** How long, ms, a program may take to say its version. */
const LOOK_DEADLINE = 5_000;

async function examineGit(): Promise<Findings> {
  const asked = await run(["git", "--version"], LOOK_DEADLINE);
  if (asked.ok) return good(asked.out.replace("git version ", "").trim());
  return examineFailed("git", asked);
}

/** That a program does not say its version. */
const examineFailed = (program: "tmux" | "git", { err }: ExecResult): Findings =>
  (isMissing(program) ? fail("not found", `apt-get install ${program}, brew install ${program}`)
    : fail(`it fails: ${err || "it does not say why"}`, `run it yourself: ${program}`));

/** Where to look a client up: a relative path leads elsewhere in each folder of its agents. */
async function foldersOf(users: Agent[], { bin }: Backend): Promise<string[]> {
  const dirs = new Set(users.map(({ dir }) => dir));
  const there = (await answering([...dirs])).filter(isThere);
  return isRelative(programOf(bin)) ? there : there.slice(0, 1);
}

/**
 * Looks a client up as its pane would: in its folder, after the preamble, in the same shell, by the
 * PATH that the `env` of all these users has, undefined = ours. A typed client is not asked for its
 * version: it may be any script, which would go to work.
 */
async function examineClient(
  backend: Backend, users: Agent[], PATH: string | undefined,
): Promise<Found> {
  const program = programOf(backend.bin);
  const [first = "/", ...others] = await foldersOf(users, backend);
  const goTo = (dir: string) => `cd -- ${shellQuote(dir)}\n`;
  const look =
    `command -v ${program} >/dev/null 2>&1 || { echo "agents-missing $PWD" >&2; exit 127; }\n`;
  const script = [goTo(first), backend.preamble, "\n", look,
    ...others.map((dir) => goTo(dir) + look)].join("");
  const ask = backend.kind === "typed" ? "" : `${backend.bin} --version`;
  const own = PATH === undefined ? {} : { PATH };
  const asked = await run(inShell(script + ask), LOOK_DEADLINE, own);
  const missing = /^agents-missing (.*)$/m.exec(asked.err);
  if (missing) {
    const source = INSTALL_WITH[basename(program)];
    const by = PATH === undefined ? ""
      : ` by the PATH of ${users.map(({ name }) => name).join(", ")}`;
    return (users.some(({ enabled }) => enabled) ? fail : warn)(
      notFound(program, missing[1]!) + by, source ?? `see bin in [backend.${backend.name}]`);
  }
  const byHand = `run it yourself: ${program} --version`;
  if (asked.timedOut) return warn(`${program} --version took longer than 5 s`, byHand);
  if (!ask) return good(program);
  const found = asked.out.match(/\d+\.\d+(\.\d+)?/g)?.at(-1);
  if (!found) {
    return asked.ok
      ? good(`${program}, version not known`) : warn(`${program} --version failed`, byHand);
  }
  const tried = triedVersions(backend.kind);
  if (wasTried(backend.kind, found, tried)) return good(`${program} ${found}`);
  return warn(
    `${program} ${found}: the detection rules are untested on it (tested: ${tried.join(", ")})`,
    "watch it for a while; where status is wrong, run: capture");
}

/** The same for all agents of a backend: those whose `env` has a PATH are looked up by that. */
async function examineClients(cfg: Config, backend: Backend): Promise<Findings> {
  const users = [...cfg.agents.values()].filter((agent) => agent.backend === backend.name);
  const byPath = [...Map.groupBy(users, ({ env }) => env.PATH)];
  const found = await Promise.all(
    byPath.map(([PATH, some]) => examineClient(backend, some, PATH)));
  return [...new Map(found.map((one) => [one.what, one])).values()];
}

/** The path itself if it exists, else the nearest folder above it that does. */
const existing = (path: string): string =>
  (isThere(path) || dirname(path) === path ? path : existing(dirname(path)));

/** A folder that nothing can be written to; `code` is why. */
export const assessRefusal = (path: string, code: string): Found =>
  fail(joined(": ", `${path} cannot be written`, REFUSALS[code]),
    `${code === "EROFS" ? "remount it" : "make it yours"}, or choose another log_dir`);

/** Checks a folder of ours: it holds prompts and screens, which nobody else should read. */
function examineFolder(path: string): Findings {
  const there = existing(path);
  const found = statSync(there);
  if (!found.isDirectory()) {
    return fail(`${there} is not a folder`, "move it away, or choose another log_dir");
  }
  try {
    accessSync(there, constants.W_OK | constants.X_OK);
  } catch (error) {
    return assessRefusal(there, errorCode(error));
  }
  if (there !== path) return good(`${path} does not exist yet; up makes it`);
  if (found.uid !== userInfo().uid) {
    return fail(`${path} belongs to another user (uid ${found.uid})`,
      "run as that user, or choose another");
  }
  if (!(found.mode & 0o077)) return good(path);
  return warn(`${path} is open to others (mode ${(found.mode & 0o777).toString(8)})`,
    `chmod 700 ${quoted(path)}`);
}

/** Checks the folders that agents, services and the hand-off work in: nothing creates them. */
async function examineDirs(cfg: Config): Promise<Findings> {
  const users = Map.groupBy(unitsOf(cfg).values(), ({ dir }) => dir);
  const wrong = await Promise.all([...users].map(async ([dir, units]) => {
    const fault = await folderFault(dir);
    const isNeeded = units.some((unit) => !isAgent(unit) || unit.enabled);
    return !fault ? [] : (isNeeded ? fail : warn)(`${dir} ${fault}`, fault === MISSING
      ? "clone it there, or fix dir" : "see that its disk is mounted, or fix dir");
  }));
  return orGood(wrong.flat(), `${users.size} there`);
}

const orGood = (wrong: Found[], what: string): Findings => (wrong.length ? wrong : good(what));

/** An agent is told to read the plan of its phase; a later one may still have to be written. */
function examinePlans({ loop: { phases }, planDir }: Config): Findings {
  const missing = phases.filter(({ plan }) => !isThere(absolute(planDir, plan)));
  return orGood(missing.map(({ id, plan }) =>
    warn(`phase ${id}: ${absolute(planDir, plan)} does not exist`,
      "write it, or fix plan in [loop]")), `${phases.length} there`);
}

/** Whether the disk has room; `free` is bytes. */
export function assessDisk(free: number): Findings {
  const gigabytes = `${(free / 1e9).toFixed(1)} GB free`;
  if (free < 100e6) return fail(gigabytes, "make room: on a full disk no state can be stored");
  return free < 1e9
    ? warn(gigabytes, "make room, or lower log_max_mb in [watchdog]") : good(gigabytes);
}

function examineDisk(path: string): Findings {
  const { bavail, bsize } = statfsSync(existing(path));
  return assessDisk(bavail * bsize);
}

async function examineServer(backend: Backend): Promise<Findings> {
  const answer = await askHealth(backend);
  const at = backend.server.replace(/\/\/[^/]*@/, "//"); // without a password
  if (isHealthy(answer)) return good(at);
  return wantsPassword(answer)
    ? warn(`the opencode server at ${at} wants a password`,
      `server = "${at.replace("//", "//opencode:PASSWORD@")}", and ` +
        "OPENCODE_SERVER_PASSWORD in the env of its agents")
    : warn(`no opencode server answers at ${at}`,
      'declare it as a [[service]] and run "agents up", or: opencode serve');
}

/** Checks the hand-off's remote, as this login sees it and as the watchdog does. */
async function examineChannel(cfg: Config, hand: Handoff): Promise<Findings> {
  const watch = await loadWatch(cfg);
  const { channel } = watch;
  const found = await inspectChannel(cfg, hand, baselineOf(watch, hand));
  if (isBad(found.state)) return fail(found.why, found.cure);
  if (channel?.told && (await readWatchdog(cfg)).running) {
    return fail(`the watchdog cannot use it: ${channel.why}`, channel.cure);
  }
  return good(found.why || `${hand.remote}/${hand.branch} at ${found.head.slice(0, 8)}`);
}

async function examineWatchdog(cfg: Config): Promise<Findings> {
  const { running, pid, stale, mute, unlogged, heartbeat, version: its } = await readWatchdog(cfg);
  if (!running) {
    const { watchdog } = await readStatus(cfg);
    return (watchdog.missing ? fail : warn)("not running", "agents up watchdog");
  }
  if (mute) return fail(`it runs, but cannot write to ${cfg.stateDir}`,
    "make room on its disk, and see that it is not read-only");
  if (stale) {
    return fail(`pid ${pid} last heartbeat: ${heartbeat || "none"}`,
      "agents logs watchdog; then down and up watchdog");
  }
  if (unlogged) {
    return fail(`it cannot write ${unlogged}`, "make it writable: see ls -l, lsattr and df");
  }
  if (its && its !== version()) {
    return warn(`it runs version ${its}, this is ${version()}`, "agents up watchdog");
  }
  return good(`pid ${pid}, ` +
    (heartbeat ? `heartbeat ${ageOf(heartbeat, world.now())} ago` : "no heartbeat yet"));
}

async function examineNotices(cfg: Config): Promise<Findings> {
  if (!tellsPeople(cfg)) return UNTOLD;
  const { notices } = await loadWatch(cfg);
  const text = noticesText(notices, world.now());
  if (!text) return good("configured");
  return (noticesFail(notices) ? fail : warn)(text, "agents notify --test");
}

/** Whether the clock can be right; `now` is wall ms, `zone` the value of TZ. */
export function assessClock(now: number, zone: string): Findings {
  if (new Date(now).getUTCFullYear() < 2025) {
    return fail(`the clock says ${iso(now)}`, "set it: limits and wakes depend on it");
  }
  const name = zone.replace(/^:/, "");
  if (name && namedZone(name) === null) {
    return warn(`TZ=${zone} is not a known time zone: times are read as UTC`,
      "TZ=Europe/Berlin, say");
  }
  return good(
    `${iso(now).slice(0, 16)}Z, zone ${name || Intl.DateTimeFormat().resolvedOptions().timeZone}`);
}

/** Whether the locale is UTF-8, without which screens cannot be read. */
export function assessLocale(env: Record<string, string | undefined>): Findings {
  const locale = env.LC_ALL || env.LC_CTYPE || env.LANG || "";
  if (/utf-?8/i.test(locale)) return good(locale);
  return warn(`${locale || "none is set"}: clients may show ? in place of lines and symbols`,
    "export LANG=C.UTF-8");
}

/** Whether a folder, or one above it, has an entry in `known` that `says` it is trusted. */
const isTrusted = (known: unknown, dir: string, says: (entry: unknown) => boolean): boolean =>
  isRecord(known) && Object.entries(known).some(([path, entry]) =>
    (dir === path || dir.startsWith(`${path.replace(/\/$/, "")}/`)) && says(entry));

/** What a client asks before it works, unless that is settled, each with what settles it. */
const openQuestions = (
  client: string, all: [settled: boolean, what: string, cure: string][],
): Found[] => all.filter(([settled]) => !settled)
  .map(([, what, cure]) => warn(`${client} asks ${what}`, cure));

/**
 * What Codex would ask before it works in `dir`. `settings` is its config.toml, null = there is
 * none; `has`: whether a file lies beside it.
 */
export function assessCodexStart(
  settings: Raw | null, dir: string, flags: string, has: (file: string) => boolean,
): Found[] {
  const provider = valueAt(settings, "model_provider");
  const login = has("auth.json") || (typeof provider === "string" &&
    valueAt(settings, "model_providers", provider, "env_key") !== undefined);
  const trusted = isTrusted(valueAt(settings, "projects"), dir, (entry) =>
    valueAt(entry, "trust_level") === "trusted");
  const calm = valueAt(settings, "notice", "hide_rate_limit_model_nudge") === true;
  const reviewed = !has("hooks.json") || JSON.stringify(settings).includes("trusted_hash") ||
    wordsOf(flags).includes("--dangerously-bypass-hook-trust");
  return openQuestions("Codex", [
    [login, "how to log in", "codex login, or a model_provider with env_key in config.toml"],
    [trusted, `whether to trust ${dir}`,
      `[projects.${JSON.stringify(dir)}] trust_level = "trusted" in config.toml`],
    [calm, "near a limit whether to change the model, which Enter does",
      "[notice] hide_rate_limit_model_nudge = true in config.toml"],
    [reviewed, "to review its hooks",
      "review them once by hand, or --dangerously-bypass-hook-trust in flags"],
  ]);
}

/** The same for Gemini CLI, by its settings.json and trustedFolders.json. */
export function assessGeminiStart(
  settings: Raw | null, trusted: Raw | null, dir: string, flags: string,
): Found[] {
  const known = isTrusted(trusted, dir, (entry) => entry === "TRUST_FOLDER") ||
    wordsOf(flags).includes("--skip-trust");
  return openQuestions("Gemini", [
    [valueAt(settings, "security", "auth", "selectedType") !== undefined, "how to authenticate",
      "security.auth.selectedType in settings.json"],
    [known, `whether to trust ${dir}`,
      `${JSON.stringify(dir)}: "TRUST_FOLDER" in trustedFolders.json, or --skip-trust in flags`],
  ]);
}

/** A client's settings file, TOML or JSON; null = there is none that can be read. */
async function settingsIn(path: string): Promise<Raw | null> {
  const source = await textIn(path);
  if (!path.endsWith(".toml")) return parsedRecord(source);
  const { parse } = tomlParser();
  return source ? tried(() => parse(source), null) : null;
}

/** What clients would ask at their start; those whose `bin` sets another home are not checked. */
async function examineStarts(cfg: Config, agents: Agent[]): Promise<Findings> {
  const found = await Promise.all(agents.map(async (agent) => {
    const { kind, bin, flags } = backendOf(cfg, agent);
    if (/(?:^|\s)(?:CODEX_)?HOME=/.test(bin)) return [];
    const folder = kind === "codex" ? codexHomeOf(agent)
      : join(agent.env.HOME ?? homedir(), ".gemini");
    const has = (file: string) => isThere(join(folder, file));
    const read = (file: string) => settingsIn(join(folder, file));
    return kind === "codex"
      ? assessCodexStart(await read("config.toml"), agent.dir, flags, has)
      : assessGeminiStart(await read("settings.json"), await read("trustedFolders.json"),
        agent.dir, flags);
  }));
  const all = new Map(found.flat().map((one) => [one.what, one]));
  return orGood([...all.values()], "nothing is asked");
}

/** A check and its findings; [] = there is nothing of the kind to check. */
type DoctorCheck = [check: string, examine: () => Findings | Promise<Findings>];

function fleetChecks(cfg: Config): DoctorCheck[] {
  const agents = [...cfg.agents.values()];
  const enabled = agents.filter((agent) => agent.enabled);
  const usedBy = (some: Agent[]) =>
    [...cfg.backends.values()].filter(({ name }) => some.some(({ backend }) => backend === name));
  const needed = usedBy(enabled);
  const asking = enabled.filter((agent) =>
    ["codex", "gemini"].includes(backendOf(cfg, agent).kind));
  const hasLoop = loopAgents(cfg).length > 0;
  return [
    ...usedBy(agents).map((one): DoctorCheck =>
      [`client ${one.name}`, () => examineClients(cfg, one)]),
    ["first start", () => (asking.length ? examineStarts(cfg, asking) : [])],
    ...needed.filter(({ kind, server }) => kind === "opencode" && server)
      .map((one): DoctorCheck => [`server ${one.name}`, () => examineServer(one)]),
    ["log_dir", () => examineFolder(cfg.logDir)],
    ["state", () => examineFolder(cfg.stateDir)],
    ["dirs", () => examineDirs(cfg)],
    ["plans", () => (hasLoop ? examinePlans(cfg) : [])],
    ["handoff", () => (hasLoop && cfg.loop.handoff ? examineChannel(cfg, cfg.loop.handoff) : [])],
    ["background", async () => (await findBackground(cfg, agents)).map(({ pid, what, dir }) =>
      warn(`${what} runs in ${dir} (pid ${pid})`,
        `it keeps running beside the fleet; end it in its client, or: kill ${pid}`))],
    ["disk", () => examineDisk(cfg.logDir)],
    ["watchdog", () => examineWatchdog(cfg)],
    ["notify", () => examineNotices(cfg)],
  ];
}

/**
 * `doctor`: checks everything that the fleet depends on. Exit code 3 if a check fails, 0 if none
 * does; 2 if there is no fleet, when only the machine is checked.
 */
async function cmdDoctor(call: Call): Promise<number> {
  let faults: string[] = [];
  const loaded = await loadConfig(call.path, process.env).catch((error: unknown) => {
    faults = faultsIn(error);
    return lastGoodConfig(call.path, error);
  });
  const noFleet = loaded && !loaded.broken ? whyOnlyExample(call, loaded) : "";
  const cfg = noFleet ? null : loaded;
  if (cfg) joinServer(cfg);
  const cure = cfg ? "fix it; the fleet runs on the last good one, which is examined here"
    : "fix it, or name another with --config";
  const config = noFleet ? [fail(noFleet, "agents init fleet")]
    : faults.length ? faults.map((fault) => fail(fault, cure))
    : [good(call.path), ...loaded!.warnings.map((one) => warn(one, "fix or remove the key"))];
  const checks: DoctorCheck[] = [
    ["tmux", () => examineTmux(cfg)], ["git", examineGit], ["config", () => config],
    ...(cfg ? fleetChecks(cfg) : []),
    ["clock", () => assessClock(world.now(), process.env.TZ ?? "")],
    ["locale", () => assessLocale(process.env)],
  ];
  const all = (await Promise.all(checks.map(async ([check, examine]) => {
    const found = await Promise.try(examine)
      .catch((error: unknown) => fail(messageOf(error), "check it yourself"));
    return [found].flat().map((one): Finding => ({ check, ...one }));
  }))).flat();
  const ok = !all.some(({ level }) => level === "fail");
  const colour = { ok: "green", warn: "yellow", fail: "red" } as const;
  const lineOf = ({ check, level, what, cure }: Finding) => paint(colour[level], level) +
    hanging(level.padEnd(6), withCure(`${check}: ${what}`, cure)).slice(level.length);
  print(call.options.json ? JSON.stringify({ version: 1, ok, findings: all }, null, 2)
    : all.map(lineOf).join("\n"));
  return noFleet ? 2 : ok ? 0 : 3;
}

// ── demo, init, completion, unit ────────────────────────────────────────────────
// How a person begins, and what shells and systemd need.

// The demo: an ordinary fleet in a fresh folder, with two scripted clients. Everything around them
// is real: tmux, git, the watchdog, the texts, the phase moves.

/** The smallest client: it reads lines at a prompt; its first argument is its role. */
const DEMO_CLIENT = `#!/bin/sh
# commit SUBJECT FILE TEXT
commit() {
  mkdir -p "$(dirname "$2")" && printf "$3" >"$2" && git add -A &&
    git commit -qm "$1" && git push -q origin HEAD:main && echo "pushed $1"
}
set -f
while printf '> ' && read -r text; do
  echo "working ..."
  git pull -q --rebase origin main
  case $text in "read "*) text=$(tr '\\n' ' ' <"\${text#read }") ;; esac
  case $text in phase=*)
    id=\${text#phase=} status=\${text#*status=} docs=\${text#*docs=}
    id=\${id%% *} status=\${status%% *} docs=\${docs%% *}
  esac
  case $1:$text in
    builder:phase=*) commit "claim($id): work-$id.txt is ready" "work-$id.txt" "work of $id\\n" ;;
    builder:*) if grep -qs PASS "$docs/REVIEW-$id.md"
      then commit "status($id): done" "$docs/$status" \
"# $id\\n\\n## DONE\\n\\nReviewed with PASS.\\n"
      else echo "no PASS yet, waiting"; fi ;;
    adversary:phase=*) echo "waiting for a claim" ;;
    adversary:*) verdict=FAIL; [ -e "work-$id.txt" ] && verdict=PASS
      commit "review($id): $verdict" "$docs/REVIEW-$id.md" "$id: $verdict\\n" ;;
  esac
done
`;

const DEMO_FILES: Record<string, string> = {
  "prompts/boot.md": "read {kickoff}\n",
  "prompts/preamble.md": "phase={phase.id} status={phase.status} docs={docs_dir}\n",
  "prompts/builder.md": "Builder: claim the phase, and write DONE once it passed review.\n",
  "prompts/adversary.md": "Adversary: check what is claimed and say PASS or FAIL.\n",
  "one.md": "Make work-one.txt.\n",
  "two.md": "Make work-two.txt.\n",
  "client.sh": DEMO_CLIENT,
};

function demoConfig(prefix: string, client: string): string {
  const agent = (role: string) => `[backend.${role}]
kind = "typed"
bin = ${JSON.stringify(`sh ${shellQuote(client)} ${role}`)}
box_re = '^> ?(?<text>.*)$'
ready_re = '^>'

[[agent]]
name = "${role}"
kind = "loop"
role = "${role}"
dir = "${role}"
backend = "${role}"
`;
  return `[defaults]
session_prefix = "${prefix}"
watch = "heal+stall"

[watchdog]
signal_interval = 1
heavy_interval = 2

${["builder", "adversary"].map(agent).join("\n")}
[loop]
phases = [
  { id = "one", plan = "one.md", status = "STATUS-one.md" },
  { id = "two", plan = "two.md", status = "STATUS-two.md" },
]

[loop.handoff]
repo = "watch"
`;
}

async function demoGit(dir: string, ...args: string[]): Promise<void> {
  const ran = await git(dir, args);
  if (!ran.ok) die(`demo: git ${args[0]}: ${ran.err}`);
}

async function makeDemo(dir: string, prefix: string): Promise<string> {
  makeFolder(dir);
  if (world.list(dir).length) die(`demo: ${dir} is not empty; name a fresh folder`, 2);
  await demoGit(dir, "init", "-q", "--bare", "-b", "main", "origin.git");
  for (const clone of ["builder", "adversary", "watch"]) {
    // nobody is there to unlock the key that signs a person's commits, or to satisfy their hooks,
    // and what lives for minutes needs no maintenance
    const settings = [`user.name=demo ${clone}`, `user.email=${clone}@demo.invalid`,
      "commit.gpgSign=false", "push.gpgSign=false", "core.hooksPath=/dev/null",
      "maintenance.auto=false"].flatMap((setting) => ["-c", setting]);
    await demoGit(dir, "clone", "-q", "-o", "origin", ...settings, "origin.git", clone);
    if (clone !== "builder") continue;
    const inClone = (...args: string[]) => demoGit(join(dir, clone), ...args);
    // the history that the others are cloned with
    await inClone("checkout", "-q", "-B", "main");
    await inClone("commit", "-q", "--allow-empty", "-m", "Begin the demonstration");
    await inClone("push", "-q", "-u", "origin", "main");
  }
  makeFolder(join(dir, "prompts"));
  const files = { ...DEMO_FILES, "agents.toml": demoConfig(prefix, join(dir, "client.sh")) };
  for (const [name, text] of Object.entries(files)) await world.writeAtomic(join(dir, name), text);
  return join(dir, "agents.toml");
}

async function cmdDemo(call: Call): Promise<number> {
  const dir = call.words[0] ? resolve(call.words[0]) : mkdtempSync(join(tmpdir(), "agents-demo-"));
  if (isMissing("git")) die(NO_GIT);
  const prefix = `demo-${newId().slice(0, 4)}-`;
  const path = await makeDemo(dir, prefix);
  print(`a fleet of two scripted agents in ${dir}`);
  const cfg = await loadConfig(path);
  needTexts(cfg);
  const inDemo: Call = { path, words: [], options: {} };
  let interrupted = false;
  const interrupt = () => void (interrupted = true);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, interrupt);
  const began = world.mono();
  try {
    if ((await cmdUp(inDemo)) !== 0) return 1;
    if (call.options.keep) {
      const config = `--config ${quoted(path)}`;
      for (const [what, words] of [["look at it (prefix, then d, to leave)", "attach builder"],
        ["status", "status"], ["end it", "down"]]) {
        print(`${what}: ${selfWords()} ${words} ${config}`);
      }
      return 0;
    }
    const giveUp = () => interrupted || readerGone || world.mono() - began > 3 * MINUTE;
    for await (const event of eventsAfter(cfg, [], () => giveUp() || isComplete(cfg))) {
      print(eventText(event, world.now()));
      if (event.event === "phase") print(statusText(await readStatus(cfg), terminalWidth()));
    }
    const complete = isComplete(cfg);
    let status = await readStatus(cfg);
    // that all is complete is announced a moment before the move is stored as done
    while (complete && status.phase?.moving && !giveUp()) status = await readStatus(cfg);
    print(statusText(status, terminalWidth()));
    if (!complete) {
      log(interrupted ? "demo: interrupted" : "demo: it did not complete in time");
      return interrupted ? 130 : 1;
    }
    return printed(`complete in ${Math.round((world.mono() - began) / 1000)} s; ` +
      `the commits: git -C ${quoted(join(dir, "watch"))} log --oneline origin/main`);
  } finally {
    if (!call.options.keep) await cmdDown(inDemo);
  }
}

/** This program as a person would call it. */
function selfWords(): string {
  const self = COMPILED ? world.realPath(process.execPath) : import.meta.path;
  const name = COMPILED ? basename(process.execPath) : "agents";
  const installed = Bun.which(name, { PATH: process.env.PATH ?? "" });
  if (installed && world.realPath(installed) === self) return name;
  return COMPILED ? quoted(self) : `bun ${quoted(self)}`;
}

// A fleet to start from.

/** The config with the [[agent]]s and [[service]]s that need opencode made into comments. */
function withoutOpencode(source: string): string {
  const needs = /^\[\[(agent|service)\]\](?=[^]*^[^#\n]*"opencode\b)/m;
  return source.split(/^(?=\[)/m)
    .map((table) => (needs.test(table) ? table.replace(/^(?=[^#\n])/gm, "# ") : table)).join("");
}

/** The shipped config, adapted to the clients that were found; with none it stays as it is. */
export function configWith(source: string, found: string[]): string {
  const [claude, opencode] = [found.includes("claude"), found.includes("opencode")];
  if (claude) return opencode ? source : withoutOpencode(source);
  return opencode ? source.replace(/^(\s*backend\s*=\s*)"claude"/gm, '$1"opencode"') : source;
}

/** Creates a file; false = it exists already and is left as it is. */
function writeNew(path: string, value: string): boolean {
  try {
    writeFileSync(path, value, { flag: "wx", mode: 0o644 });
    return true;
  } catch (error) {
    if (errorCode(error) === "EEXIST") return false;
    return die(`${path}: ${messageOf(error)}`);
  }
}

/** The file names of the prompts in the binary and beside the program. */
function shippedPrompts(): string[] {
  const files = [import.meta.dir, SCRIPT_DIR].flatMap((one) => world.list(join(one, "prompts")));
  return [...new Set(files.filter((file) => file.endsWith(".md")))].sort();
}

/** `init`: writes agents.toml and prompts/; exit code 1 if an agents.toml was there already. */
async function cmdInit(call: Call): Promise<number> {
  const dir = resolve(call.words[0] ?? ".");
  const found = Object.keys(INSTALL_WITH)
    .filter((client) => Bun.which(client, { PATH: process.env.PATH ?? "" }));
  const prompts = shippedPrompts();
  const source = shipped("agents.toml");
  if (source === null || !prompts.length) die(CAME_BARE);
  makeFolder(dir); // by itself: an error names what could not be made
  makeFolder(join(dir, "prompts"));
  const files = [["agents.toml", configWith(source, found)] as const,
    ...prompts.map((file) => [`prompts/${file}`, shipped(`prompts/${file}`) ?? ""] as const)];
  const kept = files.filter(([name, value]) => !writeNew(join(dir, name), value))
    .map(([name]) => name);
  print(`${plural(files.length - kept.length, "file") || "nothing"} written to ${dir}`);
  for (const name of kept) log(`${join(dir, name)} exists already: kept as it is`);
  const missing = found.length ? [] : Object.entries(INSTALL_WITH);
  for (const [client, how] of missing) print(`${client} was not found; get it with: ${how}`);
  if (kept.includes("agents.toml")) return 1;
  if (found.join() === "opencode") {
    print("claude was not found: the agents use opencode, whose models are named provider/model");
  }
  if (found.join() === "claude") print("opencode was not found: what needs it is commented out");
  const path = join(dir, "agents.toml");
  print(`next: set the paths of your clones and plans in ${path}, then:`);
  for (const word of ["doctor", "up"]) print(`  ${selfWords()} ${word} --config ${quoted(path)}`);
  return 0;
}

// Completion: the shells ask the hidden `complete`, which knows the table of commands.

/** The options that are shown, with their names. */
const optionsOf = ({ options = {} }: Command) =>
  Object.entries(options).map(([name, option]) => ({ name, ...option }))
    .filter(({ clause }) => clause);

/** What may stand where Tab was pressed: words with their clauses, or what the shell looks up. */
type Offers = [word: string, clause: string][] | ":files" | ":folders";

/** What fits at word `at` of a line, whose words are as they were typed, quotes and all. */
async function offersAt(at: number, line: string[]): Promise<Offers> {
  const valued = ["--config", ...SHOWN.flatMap(optionsOf).flatMap(({ type, name, short }) =>
    (type === "string" ? [`--${name}`, `-${short}`] : []))];
  // bash makes a word of the = in --config=PATH
  const [before = [], after = []] = [line.slice(1, at), line.slice(at + 1)]
    .map((part) => part.filter((one) => one !== "="));
  const [word = "", last = ""] = [line[at], before.at(-1)];
  if (last === "--config" || word.startsWith("--config=")) return ":files";
  if (last === "--event") return Object.keys(EVENTS).map((kind) => [kind, ""]);
  if (valued.includes(last)) return [];
  const [said, ...words] = before.filter((one, nth) =>
    !one.startsWith("-") && !valued.includes(before[nth - 1] ?? ""));
  const command = SHOWN.find(({ name }) => name === said);
  if (word.startsWith("-")) {
    const own = command ? optionsOf(command) : [{ name: "version", clause: "its version" }];
    return [...own.map(({ name, clause }): [string, string] => [`--${name}`, clause]),
      ["--config", "config file"], ["--help", "usage"]];
  }
  if (said === undefined) return SHOWN.map(({ name, clause }) => [name, clause]);
  const { args = "" } = command ?? {};
  if (args.includes("DIR")) return ":folders";
  const fleet = () => configIn([...before, "", ...after]);
  const offered = args.includes("name…") || (args.includes("name") && !words.length)
    ? namesOf(await fleet()).filter((name) => name !== "watchdog" || !UNWATCHED.includes(said))
    : said === "phase" && words[0] === "set" && words.length === 1
    ? phases(await fleet()).map(({ id }) => id)
    : args.includes("|") && !args.includes("name") && !words.length
    ? args.replace(/<[^>]*>/g, "").match(/[a-z]+/g) ?? [] : [];
  return offered.map((one) => [one, ""]);
}

/** Commands that do not take the watchdog's name. */
const UNWATCHED = ["status", "send", "explain", "capture"];

/** The config that a line names, or goes by; throws if it cannot be read. */
async function configIn(line: string[]): Promise<Config> {
  const config = line.find((one, nth) => line[nth - 1] === "--config" || /^--config=./.test(one));
  const path = config?.replace(/^--config=|[\\"']/g, "").replace(/^~(?=\/)/, homedir());
  return fleetAt(await cfgPath(path));
}

const fleetAt = (path: string): Promise<Config> =>
  currentConfig({ path, lenient: true, words: [], options: {} });
const namesOf = (cfg: Config): string[] => [...unitsOf(cfg).keys(), "watchdog"];

/** The hidden `complete -- SHELL AT WORD…`. */
async function cmdComplete({ words: [shell, at, ...line] }: Call): Promise<number> {
  const offers = await offersAt(Number(at), line).catch((): Offers => []);
  return printed(typeof offers === "string" ? offers : offers.map(([word, clause]) =>
    (shell === "zsh" && clause ? `${word}:${clause}` : word)).join("\n"));
}

const COMPLETIONS = new Map([
  ["bash", `# bash completion for agents; put this line into ~/.bashrc:  \
source <(agents completion bash)
_agents() {
  local word="\${COMP_WORDS[COMP_CWORD]}" self="\${COMP_WORDS[0]/#\\~\\//$HOME/}" offers IFS=$'\\n'
  offers="$("$self" complete -- bash "$COMP_CWORD" "\${COMP_WORDS[@]}" 2>/dev/null)"
  [[ $word == "=" ]] && word=""
  case "$offers" in
    :files) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$word")) ;;
    :folders) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$word")) ;;
    *) COMPREPLY=($(compgen -W "$offers" -- "$word")) ;;
  esac
}
complete -F _agents agents agents.ts`],
  ["zsh", `#compdef agents agents.ts
# zsh completion for agents; put this line into ~/.zshrc, after compinit:  \
source <(agents completion zsh)
_agents() {
  local -a offers
  offers=(\${(f)"$(\${~words[1]} complete -- zsh $((CURRENT - 1)) "\${words[@]}" 2>/dev/null)"})
  case $offers[1] in
    :files) compset -P '--config='; _files ;;
    :folders) _files -/ ;;
    *) _describe agents offers ;;
  esac
}
if [[ $funcstack[1] == _agents ]]; then _agents "$@"
else
  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
  compdef _agents agents agents.ts
fi`],
]);

const cmdCompletion = async ({ words: [shell = ""] }: Call): Promise<number> =>
  printed(COMPLETIONS.get(shell) ?? die("usage: completion bash | zsh", 2));

/** The hidden `names`, which the scripts of version 0.2.0 ask: the fleet's names, one on a line. */
const cmdNames = async (call: Call): Promise<number> =>
  printed(namesOf(await fleetAt(call.path)).join("\n"));

// Supervision across reboots.

/** A word of a systemd unit: quoted, with `%` doubled, or it would begin a specifier. */
export const unitWord = (word: string): string =>
  `"${word.replace(/[\\"]/g, "\\$&").replaceAll("%", "%%")}"`;
/** An argument of ExecStart, with `$` doubled; systemd expands no variables in the first one. */
const unitArgument = (word: string, nth: number): string =>
  unitWord(nth ? word.replaceAll("$", "$$$$") : word);

/** A systemd user unit that runs `argv` with what matters of `env`. */
export function unitText(argv: string[], env: Record<string, string | undefined>): string {
  const kept = ["PATH", "TMUX_TMPDIR", "LANG"].filter((key) => env[key])
    .map((key) => `Environment=${unitWord(`${key}=${env[key]}`)}`);
  return "# A systemd user unit for the watchdog. Save it as " +
    `~/.config/systemd/user/agents.service, then:
#   systemctl --user daemon-reload
#   systemctl --user enable --now agents
#   loginctl enable-linger
# The last one keeps your units running while you are not logged in. To stop supervision:
# systemctl --user stop agents ("agents down watchdog" would be undone two seconds later).
[Unit]
Description=agents: keeps a fleet of coding agents at work in tmux
# never give up starting it
StartLimitIntervalSec=0

[Service]
# where clients are found, and the tmux server that you use
${kept.join("\n")}
ExecStart=${argv.map(unitArgument).join(" ")}
# however it ended, it must come back
Restart=always
# and soon: until then nobody looks after the agents
RestartSec=2
# end only the watchdog: the tmux server and the agents may run in this unit too
KillMode=process
# an agent that the kernel kills for lack of memory must not take the others with it
OOMPolicy=continue

[Install]
# at the start of your user manager; with linger that is at boot
WantedBy=default.target`;
}

async function cmdUnit(call: Call): Promise<number> {
  const cfg = await configFor(call);
  for (const name of secretNames) {
    log(`the unit has no ${name}, which [notify] needs: set it with ` +
      '"systemctl --user edit agents", or name a file instead, "file:PATH"');
  }
  return printed(unitText([...selfArgv(), "watchdog", "--last-good", lastGoodFile(cfg),
    "--config", cfg.path], process.env));
}

// ── main ────────────────────────────────────────────────────────────────────────
// Dispatch, help, completion and the README's list of commands all come from one table.

/** A command; `clause` is its line of help, as is an option's ("" = the option is not shown). */
interface Command {
  name: string;
  args: string;
  clause: string;
  example?: string;
  /** How many words it takes; absent = any number, or none where `args` names none. */
  words?: [least: number, most: number];
  /** Whether these words, with these options, are a call of it at all. */
  fits?(call: Call): boolean;
  options?: Record<string, Option>;
  hidden?: boolean;
  /** It only looks, or ends things: while the file is broken it uses the last good config. */
  lenient?: true;
  run(call: Call): Promise<number>;
}

interface Option {
  type: "string" | "boolean"; short?: string; clause: string; value?: string;
  /** Which values it takes, and what they are called. */
  takes?: (value: string) => boolean; what?: string;
}

const JSON_OPTION = { json: { type: "boolean", clause: "print JSON instead of text" } } as const;
const SINCE_OPTION = { since: { type: "string", value: "TIME",
  clause: "how far back: 30m, 24h (default), 7d",
  takes: (value: string) => parseSince(value) !== null, what: "a time such as 30m, 24h or 7d",
} } as const;

/** All commands, in the order of the help. */
export const COMMANDS: Command[] = [
  { name: "up", args: "[name…]", run: cmdUp,
    example: "agents up 'build*'",
    clause: "start the services, the enabled agents and the watchdog, or only those named" },
  { name: "down", args: "[name…]", lenient: true, run: cmdDown,
    example: "agents down builder",
    clause: "stop everything, or only those named; nothing restarts them until up",
    options: { orphans: { type: "boolean",
      clause: "only clients whose agent is no longer in the config" } } },
  { name: "restart", args: "<name…>", words: [1, Infinity], run: cmdRestart,
    example: "agents restart builder --fresh",
    clause: "end agents or services and start them again",
    options: { fresh: { type: "boolean", clause: "begin a new conversation" } } },
  { name: "status", args: "[name…]", lenient: true, run: cmdStatus,
    example: "agents status --json | jq '.agents[] | select(.needsHuman)'",
    clause: "show every agent, its state and what needs you; with names, all details of them",
    options: { ...JSON_OPTION,
      watch: { type: "boolean",
        clause: "a live view, with keys for the other commands (? lists them)" },
      line: { type: "boolean", clause: "one short line, for tmux's status line" } } },
  { name: "watchdog", args: "",
    example: "agents watchdog --config ~/fleet/agents.toml",
    clause: "run the supervisor loop in the foreground (up starts it detached)",
    options: { kept: { type: "boolean", clause: "" }, "last-good": { type: "string", clause: "" } },
    // it exits at once: a fetch, a notice or a pause must not keep an ended watchdog alive
    run: (call) => runAndExit(() => watchdogLoop(call.path, call.options.kept === true,
      String(call.options["last-good"] ?? ""))) },
  { name: "logs", args: "<name…>", words: [1, Infinity], lenient: true, run: cmdLogs,
    example: "agents logs -f -n 20 builder adversary",
    clause: "show what agents were told, said and did; what services and the watchdog printed",
    options: {
      lines: { type: "string", short: "n", value: "N", clause: "how many lines (50)",
        takes: (value) => /^\d+$/.test(value), what: "a whole number" },
      follow: { type: "boolean", short: "f", clause: "keep printing what is added" },
      screen: { type: "boolean", clause: "the screen as it is now" },
      raw: { type: "boolean", clause: "the bytes as the client wrote them" },
    } },
  { name: "attach", args: "<name>", words: [1, 1], lenient: true, run: cmdAttach,
    example: "agents attach assistant --read-only",
    clause: "attach this terminal to an agent's session",
    options: { "read-only": { type: "boolean", clause: "watch only, type nothing" } } },
  { name: "send", args: "<name> <text… | ->", words: [2, Infinity],
    example: 'agents send builder "go on with the second gate"',
    clause: "type a message into an agent and wait until it has been accepted",
    lenient: true, run: cmdSend,
    options: {
      timeout: { type: "string", value: "S", clause: "how long to wait for that, in seconds (60)",
        takes: (value) => /\d/.test(value) && Number(value) >= 0 && Number(value) < Infinity,
        what: "a number of seconds" },
      queue: { type: "boolean", clause: "do not wait, leave it to the watchdog" },
    } },
  { name: "phase", args: "[show | next | set <id>]", run: cmdPhase,
    fits: ({ words: [verb, ...more] }) => more.length <= (verb === "set" ? 1 : 0),
    example: "agents phase set two --restart",
    clause: "show or change the phase of the loop agents",
    options: { restart: { type: "boolean", clause: "restart the loop agents on the new phase" } } },
  { name: "notify", args: "", clause: "test the settings in [notify]", run: cmdNotify,
    example: "agents notify --test",
    options: { test: { type: "boolean", clause: "send a test notice" } } },
  { name: "explain", args: "<name>", words: [0, 1],
    fits: ({ words, options: { file, backend, title, at } }) =>
      words.length > 0 || (file ?? backend ?? title ?? at) !== undefined,
    example: "agents explain builder",
    clause: "show how an agent's screen is read, which rule decided, and what happens next",
    lenient: true, run: cmdExplain,
    options: {
      ...JSON_OPTION,
      file: { type: "string", value: "PANE",
        clause: "read a captured screen instead; - is standard input" },
      backend: { type: "string", value: "B", clause: "the backend whose screen the file shows" },
      title: { type: "string", value: "T", clause: "the title of its pane" },
      at: { type: "string", value: "ISO", clause: "when it was captured (default: now)",
        takes: (value) => /^\d{4}-\d\d-\d\d/.test(value) && Date.parse(value) > 0,
        what: "an ISO 8601 time" },
    } },
  { name: "capture", args: "<name> <verdict>-<what>", words: [2, 2], lenient: true,
    example: "agents capture builder blocked-new-dialog",
    clause: "save an agent's screen as a test of the detection rules", run: cmdCapture },
  { name: "selftest", args: "", run: cmdSelftest,
    example: "agents selftest --config ~/fleet/agents.toml",
    clause: "judge all captured screens again and compare the verdicts" },
  { name: "migrate", args: "", run: cmdMigrate,
    example: "agents migrate --config ~/fleet/agents.toml",
    clause: "take over conversation ids from the files of older launchers" },
  { name: "demo", args: "[DIR]", words: [0, 1], run: cmdDemo,
    example: "agents demo --keep ~/demo",
    clause: "run a small real fleet of scripted agents, then end it",
    options: { keep: { type: "boolean", clause: "leave it running and show how to attach" } } },
  { name: "report", args: "", lenient: true, run: cmdReport,
    example: "agents report --since 12h --md",
    clause: "show what is open, what was achieved and what it cost",
    options: { ...SINCE_OPTION,
      md: { type: "boolean", clause: "print Markdown, for a mail or a chat" }, ...JSON_OPTION } },
  { name: "events", args: "[name…]", lenient: true, run: cmdEvents,
    example: "agents events -f builder",
    clause: "show what happened, event by event; on a terminal repeats are folded",
    options: {
      event: { type: "string", value: "NAMES",
        clause: "only these kinds: blocked,limited or 'co*'" },
      ...SINCE_OPTION,
      follow: { type: "boolean", short: "f", clause: "keep printing new ones" },
      json: { type: "boolean", clause: "print each as a line of JSON" },
    } },
  { name: "serve", args: "", lenient: true, run: cmdServe,
    example: "agents serve --port 8675",
    clause: "serve a read-only page for a phone, on this machine only",
    options: { port: { type: "string", value: "N",
      clause: "the port on 127.0.0.1 (8675); 0 picks a free one",
      takes: (value) => /^\d{1,5}$/.test(value) && Number(value) <= 65_535,
      what: "a port (0 to 65535)" } } },
  { name: "doctor", args: "", clause: "check everything the fleet depends on and suggest fixes",
    example: "agents doctor --json | jq '.findings[] | select(.level != \"ok\")'",
    options: JSON_OPTION, run: cmdDoctor },
  { name: "init", args: "[DIR]", words: [0, 1], run: cmdInit,
    example: "agents init ~/fleet",
    clause: "write an agents.toml and prompts/ to start from; keeps files that exist" },
  { name: "completion", args: "bash | zsh", words: [1, 1], run: cmdCompletion,
    example: "agents completion bash >> ~/.bashrc",
    clause: "print a completion script for your shell" },
  { name: "unit", args: "", run: cmdUnit,
    example: "agents unit > ~/.config/systemd/user/agents.service",
    clause: "print a systemd user unit that runs the watchdog" },
  { name: "complete", args: "-- SHELL AT WORD…", clause: "", hidden: true, run: cmdComplete },
  { name: "names", args: "", clause: "", hidden: true, run: cmdNames },
  { name: "keep", args: "", clause: "", hidden: true,
    options: { "last-good": { type: "string", clause: "" }, least: { type: "string", clause: "" } },
    run: (call) => runAndExit(() => keep(call.path, String(call.options["last-good"] ?? ""),
      Number(call.options.least ?? HUNG_AFTER))) },
];

const SHOWN = COMMANDS.filter((one) => !one.hidden);

/** Runs a long-lived command and exits at its end, whatever still runs, as a notice may. */
async function runAndExit(work: () => Promise<number>): Promise<never> {
  try {
    process.exit(await work());
  } catch (error) {
    // nobody sees what a detached process prints
    if (loggedTo) log(`ended by an error: ${(error as Error)?.stack ?? messageOf(error)}`);
    process.exit(sayError(error));
  }
}

const helpEntry = (word: string, wide: number, clause: string): string =>
  hanging(`  ${word.padEnd(wide)} `, clause);

export function helpText(command?: Command): string {
  const common = [
    helpEntry("--config PATH", 26, "config file (default: $AGENTS_CONFIG, else agents.toml here " +
      "or in a folder above, else beside the program)"),
    "  --help, --version",
  ];
  if (command) {
    const options = optionsOf(command).map(({ name, short, value, clause }) => helpEntry(
      `${short ? `-${short}, ` : ""}--${name}${value ? ` ${value}` : ""}`, 26, clause));
    return [`usage: agents ${command.name} ${command.args}`.trim(),
      hanging("  ", command.clause), "", ...options, ...common, "",
      `example: ${command.example}`].join("\n");
  }
  const list = SHOWN.map((one) => helpEntry(`${one.name} ${one.args}`.trim(), 32, one.clause));
  return ["usage: agents [command] [options]", "without a command: status", "",
    ...list, "", ...common, "",
    hanging("exit codes: ", "0 done, 1 failed, 2 usage, 3 something needs a human, " +
      "100 another watchdog runs")].join("\n");
}

/** What other tools call these commands. */
const ALIASES = new Map([["ps", ["status"]], ["ls", ["status"]], ["list", ["status"]],
  ["top", ["status", "--watch"]], ["start", ["up"]], ["stop", ["down"]]]);

const GLOBAL_OPTIONS = {
  config: { type: "string", clause: "the path of an agents.toml" },
  help: { type: "boolean", short: "h", clause: "" }, version: { type: "boolean", clause: "" },
} as const;

/** The message of `parseArgs` about wrong options, in one line and in our words. */
function optionFault(message: string, options: NonNullable<Command["options"]>): string {
  const known = Object.keys(options).map((option) => `--${option}`);
  const [reason = ""] = message.split(/\.\s/);
  const [, unknown = ""] = /^Unknown option '(--?[^'\s]+)/.exec(reason) ?? [];
  if (unknown) {
    return `unknown option ${unknown}${unknown.startsWith("--") ? nearest(unknown, known) : ""}`;
  }
  const valueless = /^Option '(--?[\w-]+).* argument (?:missing|is ambiguous)$/;
  const [, flag = ""] = valueless.exec(reason) ?? [];
  const [, option] = Object.entries(options)
    .find(([name, { short }]) => [`--${name}`, `-${short}`].includes(flag)) ?? [];
  return option ? `${flag} needs a value: ${option.clause}` : reason;
}

/** A command line, whatever its command allows. */
const looseArgs = (args: string[]) =>
  parseArgs({ args, options: GLOBAL_OPTIONS, strict: false, allowPositionals: true });

function checkCall(command: Command, call: Call): void {
  const { words, options } = call;
  const { name, args, words: [least, most] = [0, args ? Infinity : 0] } = command;
  if (!most && words.length) die(`${name} takes no "${words[0]}"`, 2);
  if (words.length < least || words.length > most || command.fits?.(call) === false) {
    const more = optionsOf(command).map((one) => ` [--${joined(" ", one.name, one.value)}]`);
    die(`usage: ${name} ${args}${more.join("")}`, 2);
  }
  for (const [option, { takes, what }] of Object.entries(command.options ?? {})) {
    const value = options[option];
    if (takes && isText(value) && !takes(value)) {
      die(`${name}: --${option} ${show(value)} is not ${what}`, 2);
    }
  }
  // only one of them can decide what is printed
  const forms = ["json", "md", "line", "watch", "screen", "raw"]
    .filter((form) => form in options).map((form) => `--${form}`);
  if (forms.length > 1) die(`${name}: ${forms.join(" and ")} cannot be combined`, 2);
}

/** Parses a command line into a command and its call; throws a CliError with code 2. */
export function parseCall(given: string[]): { command: Command; call: Call } {
  const find = (word: string) => COMMANDS.find((one) => one.name === word);
  const words = looseArgs(given).positionals;
  // an option before the command may have a value, which must not be taken for the command
  const afterOption = given[0]?.startsWith("-")
    ? words.find((word) => find(word) || ALIASES.has(word)) : undefined;
  const said = afterOption ?? words[0] ?? "status";
  const meant = ALIASES.get(said) ?? [said];
  const [name] = meant as [string];
  const argv = words.length ? given.toSpliced(given.indexOf(said), 1, ...meant) : given;
  const command = find(name);
  if (!command) {
    const known = [GLOBAL_OPTIONS, ...COMMANDS.map((one) => one.options ?? {})]
      .flatMap((options: NonNullable<Command["options"]>) => Object.entries(options))
      .flatMap(([option, { short }]) => [`--${option}`, `-${short}`]);
    const [first = ""] = (given[0] ?? "").split("=");
    if (first.startsWith("-") && !known.includes(first)) {
      die(`unknown option ${first}${nearest(first, known)}`, 2);
    }
    die(`unknown command "${name}"${instead(name, SHOWN.map((one) => one.name))}`, 2);
  }
  const options = { ...GLOBAL_OPTIONS, ...command.options };
  try {
    const { values, positionals } = parseArgs({ args: argv, options, allowPositionals: true });
    const config = values.config as string | undefined;
    if (config === "") die(`${name}: --config is empty: is the variable behind it set?`, 2);
    const call: Call = { path: "", implied: !(config || process.env.AGENTS_CONFIG),
      lenient: command.lenient === true, options: values,
      words: positionals.toSpliced(positionals.indexOf(name), 1) };
    if (!values.help && !values.version) checkCall(command, call);
    return { command, call };
  } catch (error) {
    if (error instanceof CliError) throw error;
    die(`${name}: ${optionFault(messageOf(error), options)}`, 2);
  }
}

/** Runs a command line. Returns the exit code, as the help lists them; never throws. */
export async function main(argv: string[]): Promise<number> {
  try {
    const [first = "", ...rest] = argv;
    const words = ["help", "version"].includes(first) ? [...rest, `--${first}`] : argv;
    const { values, positionals } = looseArgs(words);
    if (values.version && !positionals.length) return printed(version());
    if (values.help && !positionals.length) return printed(helpText());
    const { command, call } = parseCall(words);
    if (call.options.help) return printed(helpText(command));
    if (call.options.version) return printed(version());
    return await command.run({ ...call, path: await cfgPath(call.options.config as string) });
  } catch (error) {
    return sayError(error);
  }
}

if (import.meta.main) {
  // code is compiled this much later than usual: a command is over before it would pay (`status`
  // of 100 agents takes a quarter less, `selftest` a fifth)
  Bun.unsafe.setJITPolicy(20);
  const code = await main(process.argv.slice(2));
  process.exitCode ||= code; // output that was lost counts before what it would have said
  if (unanswered) process.exit(); // or it would not end before that disk answers
}
