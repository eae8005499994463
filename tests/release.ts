/**
 * Makes a release in dist/: `bun run release [TARGET…]`: the packed tarball for npm, an executable for
 * each target, and SHA256SUMS of what was made. Bun fetches the runtime of another machine once, and
 * keeps it; a target without one is named, the others are made, and the exit code is 1.
 */
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";

const ROOT = resolve(import.meta.dir, "..");
const DIST = join(ROOT, "dist");
const TARGETS = ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"];
const HERE = `${process.platform}-${process.arch}`;

async function run(argv: string[], cwd = ROOT): Promise<{ ok: boolean; said: string }> {
  const child = Bun.spawn(argv, { cwd, stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: 300_000, killSignal: "SIGKILL" });
  const said = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { ok: (await child.exited) === 0, said: said.join("").trim() };
}

const reasonOf = (said: string): string => said.split("\n").findLast((line) => /error|fail/i.test(line)) ?? said.split("\n").at(-1)!;

/** The words with which package.json builds the executable, for another target. */
function buildWords(script: string, target: string, file: string): string[] {
  const words = script.split(" && ").at(-1)!.split(" ").slice(1);
  return [process.execPath, ...words.with(-1, file), `--target=bun-${target}`];
}

/** Builds one executable, and tries it where it runs; "" = it is there. */
async function build(script: string, version: string, target: string): Promise<string> {
  const file = join(DIST, `agents-${target}`);
  for (const path of [file, `${file}.map`]) rmSync(path, { force: true });
  const built = await run(buildWords(script, target, file));
  if (!built.ok || !existsSync(file)) return reasonOf(built.said);
  rmSync(`${file}.map`, { force: true });
  if (target !== HERE) return "";
  const [said, tested] = [await run([file, "--version"], "/"), await run([file, "selftest"], "/")];
  if (said.ok && said.said === version && tested.ok) return "";
  rmSync(file);
  return `it does not work: ${tested.ok ? said.said : reasonOf(tested.said)}`;
}

async function pack(name: string): Promise<string> {
  const packed = await run([process.execPath, "pm", "pack", "--quiet", "--destination", DIST]);
  if (packed.ok && existsSync(join(DIST, name))) return name;
  throw new Error(`the tarball was not made: ${packed.said}`);
}

async function sums(names: string[]): Promise<void> {
  const lines = await Promise.all(names.map(async (name) => {
    const hash = new Bun.CryptoHasher("sha256").update(await Bun.file(join(DIST, name)).arrayBuffer());
    return `${hash.digest("hex")}  ${name}\n`;
  }));
  await Bun.write(join(DIST, "SHA256SUMS"), lines.join(""));
}

async function release(targets: string[]): Promise<number> {
  const { name, version, scripts } = await Bun.file(join(ROOT, "package.json")).json();
  mkdirSync(DIST, { recursive: true });
  rmSync(join(DIST, "SHA256SUMS"), { force: true });
  const made = [await pack(`${name}-${version}.tgz`)];
  const missing: string[] = [];
  console.log(`made ${made[0]}`);
  for (const target of targets) {
    const why = await build(scripts.build, version, target);
    if (why) missing.push(target);
    else made.push(`agents-${target}`);
    console.log(why ? `NOT made: agents-${target}: ${why}` : `made agents-${target}, ${target === HERE ? "and tried it" : "not run here"}`);
  }
  await sums(made);
  if (missing.length) console.error(`release ${version} is incomplete: ${missing.join(", ")}`);
  return missing.length ? 1 : 0;
}

process.exitCode = await release(process.argv.length > 2 ? process.argv.slice(2) : TARGETS);
