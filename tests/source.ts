/** agents.ts as text: what is code in it, and which declaration it belongs to. */

const codes = new Map<string, ReturnType<typeof blanked>>();
/** The source with comments, strings and patterns blanked; every character stays where it is. Made once: all rules of the house ask for it. */
export const codeOf = (source: string) => codes.getOrInsertComputed(source, blanked);

function blanked(source: string): { code: string; patterns: [from: number, to: number][] } {
  const code = source.split(""); // not by code points: places are counted in units
  const patterns: [number, number][] = [];
  const blank = (from: number, to: number) => {
    for (let i = from; i < to; i++) if (code[i] !== "\n") code[i] = " ";
  };
  const closing = (from: number, end: string): number => {
    for (let i = from; i < source.length; i++) {
      if (source[i] === "\\") {
        i += 1;
        continue;
      }
      if (source[i] === "[" && end === "/") while (source[++i] !== "]") if (source[i] === "\\") i += 1;
      if (source[i] === end) return i + 1;
    }
    return source.length;
  };
  /** Walks over code until an unmatched `}`; returns where it stands. */
  const walk = (from: number): number => {
    for (let i = from, depth = 0; i < source.length; i++) {
      const [here, next] = [source[i]!, source[i + 1]];
      let end = 0;
      if (here === "/" && next === "/") end = source.indexOf("\n", i);
      else if (here === "/" && next === "*") end = source.indexOf("*/", i) + 2;
      else if (here === '"' || here === "'") end = closing(i + 1, here);
      else if (here === "/" && /(^|[(,=:[!&|?{};]|=>|return|\n)\s*$/.test(source.slice(Math.max(0, i - 12), i))) {
        end = closing(i + 1, "/");
        patterns.push([i, end]);
      } else if (here === "`") end = template(i + 1);
      else if (here === "{") depth += 1;
      else if (here === "}" && depth-- === 0) return i;
      if (!end) continue;
      if (here !== "`") blank(i, end);
      i = end - 1;
    }
    return source.length;
  };
  const template = (from: number): number => {
    for (let i = from; i < source.length; i++) {
      if (source[i] === "`") {
        blank(from, i);
        return i + 1;
      }
      if (source[i] === "\\") {
        i += 1;
        continue;
      }
      else if (source.startsWith("${", i)) {
        blank(from, i);
        i = walk(i + 2);
        from = i + 1;
      }
    }
    return source.length;
  };
  walk(0);
  return { code: code.join(""), patterns };
}

export interface Part {
  name: string;
  banner: string;
  from: number;
  to: number;
}

/** Functions, classes, constants and variables at the top level, in their order. */
export const partsOf = (source: string): Part[] => parts.getOrInsertComputed(source, declared);
const parts = new Map<string, Part[]>();
function declared(source: string): Part[] {
  const heads = [...source.matchAll(/^(?:export )?(?:(?:async )?function\*?|const|let|class) (\w+)/gm)];
  const banners = [...source.matchAll(/^\/\/ ── (.+?) ─+$/gm)];
  const ends = [...heads, ...banners, ...source.matchAll(/^(?:\/\*\*|\/\/|(?:export )?interface|(?:export )?type|import|if) ?/gm)].map(({ index }) => index).sort((a, b) => a - b);
  return heads.map((head) => ({
    name: head[1]!, banner: banners.findLast(({ index }) => index < head.index)?.[1] ?? "",
    from: head.index, to: ends.find((at) => at > head.index) ?? source.length,
  }));
}
