// What the numbers of an answer say: the names of classes, the likeliest first.

import type { Layout } from "./layout";

export interface Guess {
  label: string;
  value: number; // a probability, or a logit
}

/** Whether so many names fit a model: one for each class; of the probability of one class also two. */
export function labelsFit(count: number, { classes, logits }: Pick<Layout, "classes" | "logits">): boolean {
  return count === classes || (count === 2 && classes === 1 && !logits);
}

/** The best `top` guesses. Of one class, label 1's probability, that of label 0 stands beside it. */
export function ranked(
  values: ArrayLike<number>,
  logits: boolean,
  labels: string[],
  top: number,
  numbered: (index: number) => string,
): Guess[] {
  let all = Array.from(values);
  const fits = labelsFit(labels.length, { classes: all.length, logits });
  if (all.length === 1 && !logits && !(fits && labels.length === 1)) all = [1 - all[0], all[0]];
  return all
    .map((value, i) => ({ label: fits ? labels[i] : numbered(i), value }))
    .sort((a, b) => b.value - a.value)
    .slice(0, top);
}
