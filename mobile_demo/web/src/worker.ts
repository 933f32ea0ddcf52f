// LiteRT.js and the preprocessing, in a worker: the page stays smooth while a model runs, and when one
// takes all memory, this worker ends and not the page.

import { loadAndCompile, loadLiteRt, supportsFeature, Tensor, type CompiledModel } from "@litertjs/core";
import { fit, luma, TooThin } from "./fit";
import type { Layout } from "./layout";
import { Problem, runtimeProblem } from "./problem";
import type { TensorInfo } from "./tflite";

export interface Requests {
  start: { wasm: string; threads: boolean };
  load: { name: string; file: Uint8Array; layout: Layout; threads: number; gpu: boolean };
  picture: { name: string; bitmap: ImageBitmap | null };
  run: { inputs: Record<string, Float32Array | Int32Array> };
}

export interface Replies {
  start: { simd: boolean; gpu: boolean };
  load: { accelerated: boolean };
  picture: undefined;
  run: Answer;
}

export interface Answer {
  values: Float32Array; // one for each class
  attention: Float32Array | null;
  milliseconds: number; // inputs in, run, answer out
  fitting: number; // milliseconds of the preprocessing; 0 where it was done before
}

const NAMES = ["litert_wasm_internal", "litert_wasm_compat_internal", "litert_wasm_threaded_internal"];

interface Model {
  name: string;
  compiled: CompiledModel;
  layout: Layout;
}

interface Picture {
  name: string;
  bitmap: ImageBitmap;
  fitted: Map<string, Uint8Array>; // "height x width x channels" -> RGB, or grey
}

type Values = Float32Array<ArrayBuffer> | Uint8Array<ArrayBuffer> | Int32Array<ArrayBuffer>;

let model: Model | null = null;
let picture: Picture | null = null;

// LiteRT says more than it throws: a run without memory for its tensors returns as if all were well.
let errors: string[] = [];
function listen(line: string) {
  if (line.startsWith("ERROR")) errors.push(line.replace(/^ERROR: (\[.*?\] ?)?/, ""));
}

const actions: { [K in keyof Requests]: (request: Requests[K]) => Promise<Replies[K]> } = {
  async start({ wasm, threads }) {
    const simd = await supportsFeature("relaxedSimd");
    const threaded = threads && simd;
    const script = `${wasm}${threaded ? NAMES[2] : simd ? NAMES[0] : NAMES[1]}.js`;
    // In a worker the library cannot find its own address, which it starts its threads from.
    const locateFile = (file: string) => wasm + file;
    Object.assign(self, { Module: { locateFile, mainScriptUrlOrBlob: script, printErr: listen } });
    try {
      const litert = await loadLiteRt(wasm, { threads: threaded });
      return { simd, gpu: litert.getWebGpuDevice() !== null };
    } catch {
      throw new Problem("noRuntime");
    }
  },

  async load({ name, file, layout, threads, gpu }) {
    model?.compiled.delete();
    model = null;
    errors = [];
    try {
      const compiled = await loadAndCompile(file, {
        accelerator: gpu ? "webgpu" : "wasm",
        cpuOptions: { numThreads: threads },
      });
      const opened = { name, compiled, layout };
      await run(opened, {}, null); // the first run is slower, and is where a model that needs too much fails
      if (errors.some((line) => /failed to (allocate|invoke)/i.test(line))) throw new Error(errors.at(-1));
      model = opened;
      return { accelerated: compiled.isFullyAccelerated };
    } catch (error) {
      throw runtimeProblem(errors.at(-1) ?? error, name);
    }
  },

  async picture({ name, bitmap }) {
    picture?.bitmap.close();
    picture = bitmap && { name, bitmap, fitted: new Map() };
    return undefined;
  },

  async run({ inputs }) {
    if (!model) throw new Error("no model is loaded");
    return run(model, inputs, picture);
  },
};

async function run(
  { name, compiled, layout }: Model,
  inputs: Requests["run"]["inputs"],
  shown: Picture | null,
): Promise<Answer> {
  const started = performance.now();
  const given = layout.inputs.map((input) => inputs[input.name] ?? pixels(input, shown));
  const fitted = performance.now();
  const tensors: Record<string, Tensor> = {};
  let results: Record<string, Tensor> = {};
  try {
    layout.inputs.forEach((input, i) => {
      tensors[input.name] = new Tensor(given[i], input.shape);
    });
    results = await compiled.run(tensors);
    const values = await real(results[layout.answer.name], layout.answer);
    const milliseconds = performance.now() - fitted;
    const attention = layout.attention && (await real(results[layout.attention.name], layout.attention));
    return { values, attention, milliseconds, fitting: fitted - started };
  } catch (error) {
    throw runtimeProblem(error, name);
  } finally {
    for (const tensor of [...Object.values(tensors), ...Object.values(results)]) tensor.delete();
  }
}

/** The picture as the model takes it; zeros where there is none (`present` says so). */
function pixels(input: TensorInfo, shown: Picture | null): Values {
  const total = input.shape.reduce((product, size) => product * size, 1);
  if (input.dtype === "int32") return new Int32Array(total);
  const [, height, width, channels] = input.shape;
  if (input.shape.length !== 4 || (!shown && input.dtype === "float32")) return new Float32Array(total);
  const size = `${height}x${width}x${channels}`;
  let bytes = shown ? shown.fitted.get(size) : new Uint8Array(total);
  if (!bytes) {
    bytes = fitted(shown!.bitmap, height, width, shown!.name);
    if (channels === 1) bytes = luma(bytes);
    shown!.fitted.set(size, bytes);
  }
  if (input.dtype === "float32") return new Float32Array(bytes);
  return Uint8Array.from(bytes, (value) => Math.round(value / (input.scale || 1)) + input.zeroPoint);
}

function fitted(bitmap: ImageBitmap, height: number, width: number, name: string): Uint8Array {
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  const readRows = (top: number, bottom: number) => {
    canvas.width = bitmap.width; // which also clears it
    canvas.height = bottom - top;
    context.drawImage(bitmap, 0, -top);
    return context.getImageData(0, 0, bitmap.width, bottom - top).data;
  };
  try {
    return fit(readRows, bitmap.height, bitmap.width, height, width);
  } catch (error) {
    throw new Problem(error instanceof TooThin ? "tooThin" : "tooLarge", name);
  }
}

async function real(tensor: Tensor, { scale, zeroPoint, dtype }: TensorInfo): Promise<Float32Array> {
  const stored = await tensor.data();
  if (dtype === "float32") return new Float32Array(stored);
  return Float32Array.from(stored, (value) => (value - zeroPoint) * scale);
}

self.onmessage = async ({ data: { id, action, request } }) => {
  try {
    const reply = await actions[action as keyof Requests](request);
    self.postMessage({ id, reply });
  } catch (error) {
    const problem = error instanceof Problem ? error : runtimeProblem(error, model?.name ?? "LiteRT");
    self.postMessage({ id, problem: { code: problem.code, details: problem.details } });
  }
};
