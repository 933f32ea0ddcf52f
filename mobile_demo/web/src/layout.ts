// What a model file takes and gives, checked before it is compiled.

import { Problem } from "./problem";
import { isTflite, signatures, type TensorInfo } from "./tflite";

const SIGNATURE = "serving_default";
export const IMAGE = "image";
export const PRESENT = "present";
const PROBABILITY = "probability";
const LOGITS = "logits"; // of a model whose numbers are no probabilities
const ATTENTION = ["rollout", "attention"]; // an optional second output: [1, rows, columns] or [1, patches]

export interface Layout {
  inputs: TensorInfo[];
  outputs: TensorInfo[];
  answer: TensorInfo;
  logits: boolean; // whether that is no probability
  attention: TensorInfo | null;
  classes: number;
}

/** Throws Problem "notTflite" or "badSignature". */
export function layoutOf(file: Uint8Array, name: string): Layout {
  if (!isTflite(file)) throw new Problem("notTflite", name);
  let found;
  try {
    found = signatures(file);
  } catch {
    throw new Problem("notTflite", name);
  }
  const signature = found.find(({ key }) => key === SIGNATURE);
  if (!signature) {
    const keys = found.map(({ key }) => key).join(", ");
    throw new Problem("badSignature", name, keys || "no signature");
  }
  const { inputs, outputs } = signature;
  const answer = [PROBABILITY, LOGITS].map((name) => outputs.find((output) => output.name === name)).find(Boolean);
  const multimodal = inputs.some((input) => input.name === PRESENT);
  const pictures = inputs.filter((input) => input.name === IMAGE || input.shape.length === 4);
  const fits =
    answer?.shape.length === 2 &&
    (multimodal || (inputs.length === 1 && inputs[0].name === IMAGE)) &&
    pictures.every(({ shape }) => shape.length === 4 && [1, 3].includes(shape[3])) &&
    [...inputs, ...outputs].every(({ shape, dtype }) => shape[0] === 1 && dtype !== "other");
  if (!fits) {
    const list = (tensors: TensorInfo[]) =>
      tensors.map((tensor) => `${tensor.name} [${tensor.shape.join(", ")}]`).join(", ");
    throw new Problem("badSignature", name, `${list(inputs)} → ${list(outputs)}`);
  }
  const attention = outputs.find((output) => ATTENTION.includes(output.name)) ?? null;
  const logits = answer!.name === LOGITS;
  return { inputs, outputs, answer: answer!, logits, attention, classes: answer!.shape[1] };
}
