// An error that a person is told of: its code names a sentence of strings.ts, which exists in each language.

import type { say } from "./strings";

export type Code = keyof ReturnType<typeof say>["errors"];

export class Problem extends Error {
  readonly details: string[];

  constructor(
    readonly code: Code,
    ...details: string[]
  ) {
    super([code, ...details].join(" "));
    this.details = details;
  }
}

/** What a failure of LiteRT means: too little memory, or a file that it does not take. */
export function runtimeProblem(error: unknown, name: string): Problem {
  if (error instanceof Problem) return error;
  const why = error instanceof Error ? error.message : String(error);
  if (/memory|alloc|OOM|out of bounds|array length/i.test(why)) return new Problem("outOfMemory", name);
  return new Problem("modelFailed", name, why.trim().split("\n").at(-1)!.slice(0, 120));
}
