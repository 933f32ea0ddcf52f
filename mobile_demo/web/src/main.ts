// The page's state, and what each button does.

import { Camera } from "./camera";
import { Example } from "./example";
import { localFile, openExport, type Exported, type ModelFile } from "./exported";
import { labelsFit, ranked, type Guess } from "./guesses";
import { layoutOf, type Layout } from "./layout";
import { Problem } from "./problem";
import { Runtime } from "./runtime";
import { chooseLanguage, language, say } from "./strings";
import * as view from "./view";
import type { Answer } from "./worker";
import "./style.css";

const TOP = 5;
const RUNS = 5; // of each file when all are compared; the median is shown
const PICTURES = ["tooThin", "tooLarge"]; // problems of a picture, not of the model
const PREFERRED = ["int8_static", "int8", "float32"]; // what opens first
// A module with one i8x16 instruction: what every variant of LiteRT.js needs.
const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);

const { element } = view;
const camera = new Camera(element<HTMLVideoElement>("video"));
const runtime = new Runtime();
const example = new Example(() => void answer());
const runsOn = element<HTMLSelectElement>("runs-on");

let exported: Exported | null = null;
let files: ModelFile[] = [];
let chosen: ModelFile | null = null;
let loaded: { file: ModelFile; layout: Layout } | null = null; // in the worker
let device: { simd: boolean; gpu: boolean } | null = null;
let photo: ImageBitmap | null = null;
let labels: string[] = [];
let last: Answer | null = null;
let problem: Problem | null = null;
let fps: number | null = null;
let watching = 0; // which run of `watch` is the current one: a flipped camera starts another
const tried = new Map<ModelFile, view.Tried>();

// Everything that uses the worker waits for its turn, so that a file never changes under a running answer.
let turn: Promise<unknown> = Promise.resolve();
function inTurn<T>(action: () => Promise<T>): Promise<T | undefined> {
  const done = turn.then(action).catch((error) => {
    report(error);
    return undefined;
  });
  turn = done;
  return done;
}

function report(error: unknown) {
  problem = error instanceof Problem ? error : new Problem("unexpected", String((error as Error)?.message ?? error));
  view.showProblem(problem);
  view.progress("");
}

function clearProblem() {
  problem = null;
  view.showProblem(null);
}

// Models

async function begin() {
  showLanguage();
  drawPatches();
  await offline();
  const wanted = new URLSearchParams(location.search).get("export") ?? "export/";
  const base = new URL(wanted.endsWith("/") ? wanted : `${wanted}/`, document.baseURI);
  try {
    if (base.origin === location.origin) exported = await openExport(base.href);
    labels = exported?.labels ?? [];
    files = exported?.files ?? [];
  } catch (error) {
    report(error);
  }
  example.take(exported);
  if (!WebAssembly?.validate(SIMD)) {
    report(new Problem("noSimd"));
    return;
  }
  view.progress(say().starting);
  await inTurn(startRuntime);
  const first = PREFERRED.map((name) => files.find((file) => file.name === `${name}.tflite`)).find(Boolean);
  if (files.length) await choose(first ?? files[0]);
  else view.progress("");
  showFiles();
}

async function startRuntime() {
  loaded = null;
  device = await runtime.start();
  element("device").textContent = say().device(self.crossOriginIsolated, device.simd);
  if (!runsOn.options.length) listDevices();
}

function listDevices() {
  const before = runsOn.value;
  runsOn.innerHTML = "";
  const cores = self.crossOriginIsolated && device?.simd ? navigator.hardwareConcurrency || 1 : 1;
  for (const n of [1, 2, 4, 8].filter((n) => n <= cores)) runsOn.add(new Option(say().threads(n), String(n)));
  if (device?.gpu) runsOn.add(new Option(say().gpu, "webgpu"));
  // More threads than four bring little, and phones have slow cores beside the fast ones.
  runsOn.value = before || String(Math.min(4, 2 ** Math.floor(Math.log2(cores))));
}

/** Load a file into the worker, and answer with it. */
async function choose(file: ModelFile) {
  chosen = file;
  showFiles();
  await inTurn(() => load(file));
  await answer();
}

async function load(file: ModelFile) {
  if (loaded?.file === file) return;
  loaded = null;
  clearProblem();
  const name = file.name;
  view.progress(say().loading(name, 0));
  try {
    const bytes = await file.load((share) => view.progress(say().loading(name, Math.round(100 * share))));
    const layout = layoutOf(bytes, name);
    view.progress(say().preparing(name));
    const gpu = runsOn.value === "webgpu";
    const request = { name, file: bytes, layout, threads: Number(runsOn.value) || 1, gpu };
    const { accelerated } = await runtime.ask("load", request, [bytes.buffer]);
    loaded = { file, layout };
    if (labels.length && !labelsFit(labels.length, layout)) {
      report(new Problem("labels", String(labels.length), String(layout.classes)));
    }
    const [, height, width] = layout.inputs.find(({ shape }) => shape.length === 4)?.shape ?? [1, 1, 1];
    element("stage").style.setProperty("--ratio", String(width / height));
    element("attention").hidden = layout.attention === null;
    element("about").textContent = say().about(layout.classes, `${width} × ${height}`);
    view.progress(gpu && !accelerated ? say().onCpuInstead : say().ready(name));
  } catch (error) {
    await recover(error);
    throw error;
  }
}

/** After a failed model: nothing is chosen, and what is left of a failed runtime is not trusted. */
async function recover(error: unknown) {
  chosen = null;
  showFiles();
  if (!(error instanceof Problem) || !["outOfMemory", "modelFailed", "unexpected"].includes(error.code)) return;
  await startRuntime();
  if (photo) await runtime.ask("picture", { name: "", bitmap: await createImageBitmap(photo) });
}

// Answers

/** Ask the model about the photo, or the text alone. The camera asks by itself. */
async function answer() {
  if (camera.open) return;
  await inTurn(async () => {
    if (!loaded) return;
    if (!example.ready(photo !== null)) {
      last = null;
      showLast();
      view.progress(example.multimodal ? say().nothingPresent : say().ready(loaded.file.name));
      return;
    }
    await ask();
    view.progress("");
    const [best] = guesses();
    if (best) view.speak(say().said(best.label, view.shown(best.value, loaded.layout.logits)));
  });
}

async function ask(): Promise<Answer> {
  const { file, layout } = loaded!;
  try {
    last = await runtime.ask("run", { inputs: example.inputs(layout) });
  } catch (error) {
    if (!(error instanceof Problem && PICTURES.includes(error.code))) await recover(error);
    throw error;
  }
  const before = tried.get(file)?.milliseconds;
  // A camera's times waver: show their running mean.
  const milliseconds = camera.open && before ? before * 0.8 + last.milliseconds * 0.2 : last.milliseconds;
  tried.set(file, { milliseconds, answer: guesses()[0].label });
  showLast();
  return last;
}

function guesses(): Guess[] {
  if (!last) return [];
  return ranked(last.values, loaded?.layout.logits ?? false, labels, TOP, say().classNumber);
}

/** Run every file on the picture that is there. */
async function compare() {
  await stopCamera(true);
  const before = chosen;
  const button = element<HTMLButtonElement>("compare");
  button.disabled = true;
  button.textContent = say().comparing;
  for (const file of files) {
    chosen = file;
    showFiles();
    await inTurn(async () => {
      await load(file);
      if (!example.ready(photo !== null)) throw new Problem("unexpected", say().needsPicture);
      const times = [];
      for (let run = 0; run < RUNS; run++) times.push((await ask()).milliseconds);
      times.sort((a, b) => a - b);
      tried.set(file, { milliseconds: times[RUNS >> 1], answer: guesses()[0].label });
    });
  }
  button.disabled = false;
  button.textContent = say().compare;
  const shown = problem;
  const remembered = new Map(tried);
  if (before) await choose(before);
  for (const [file, result] of remembered) tried.set(file, result);
  showLast();
  if (shown) report(shown);
}

function showLast() {
  view.showAnswers(guesses(), loaded?.layout.logits ?? false);
  view.showSpeed(last && loaded ? (tried.get(loaded.file)?.milliseconds ?? null) : null, camera.open ? fps : null);
  const wanted = element("attention").getAttribute("aria-pressed") === "true";
  view.showAttention(wanted ? (last?.attention ?? null) : null, loaded?.layout.attention?.shape ?? []);
  showFiles();
}

function showFiles() {
  view.showFiles(files, chosen, tried, (file) => void choose(file));
  element("compare").hidden = files.length < 2;
}

// Pictures

async function openPicture(source: Blob, name: string) {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(source, {
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
      colorSpaceConversion: "none",
    });
  } catch {
    report(new Problem("notAnImage", name));
    return;
  }
  clearProblem();
  await showPhoto(bitmap, name);
}

async function showPhoto(bitmap: ImageBitmap, name: string) {
  await stopCamera(false);
  photo?.close();
  photo = bitmap;
  view.showStage("photo", false);
  view.showPicture(bitmap);
  example.pictureOpened(true);
  await inTurn(async () => {
    await runtime.ask("picture", { name, bitmap: await createImageBitmap(bitmap) });
  });
  await answer();
}

async function openFiles(list: Iterable<File>) {
  for (const file of list) {
    if (file.name.endsWith(".tflite")) await openModel(file);
    else if (file.name === "labels.txt") await openLabels(file);
    else await openPicture(file, file.name);
  }
}

async function openModel(file: File) {
  const added = localFile(file);
  const before = chosen;
  files = [...files.filter(({ name, url }) => url || name !== added.name), added];
  await choose(added);
  if (loaded?.file !== added) {
    // It is no model for this page: leave things as they were.
    const shown = problem;
    files = files.filter((each) => each !== added);
    if (before) await choose(before);
    if (shown) report(shown);
  }
  showFiles();
}

async function openLabels(file: File) {
  labels = (await file.text()).replace(/\r?\n$/, "").split(/\r?\n/);
  clearProblem();
  if (loaded && !labelsFit(labels.length, loaded.layout)) {
    report(new Problem("labels", String(labels.length), String(loaded.layout.classes)));
  }
  showLast();
}

// Camera

async function startCamera() {
  try {
    await camera.start();
  } catch (error) {
    view.showStage(photo ? "photo" : "empty", false);
    report(error);
    return;
  }
  clearProblem();
  view.progress("");
  view.showStage("camera", camera.facing === "user");
  example.pictureOpened(true);
  element("flip").hidden = !(await camera.hasOther());
  fps = null;
  void watch();
}

/** Answer frame after frame, as fast as the model is, until the camera stops. */
async function watch() {
  const mine = ++watching;
  let before = performance.now();
  while (camera.open && mine === watching) {
    const done = await inTurn(async () => {
      if (!camera.open || !loaded) return false;
      const bitmap = await camera.frame().catch((error) => {
        if (mine === watching) throw error;
        return null; // of a camera that was flipped away
      });
      if (!bitmap) return false;
      await runtime.ask("picture", { name: "", bitmap });
      await ask();
      return true;
    });
    if (done === undefined && mine === watching) await stopCamera(false); // the reason is on the page
    const now = performance.now();
    const rate = 1000 / (now - before);
    if (done) fps = fps === null ? rate : fps * 0.8 + rate * 0.2;
    before = now;
    await new Promise(requestAnimationFrame);
  }
}

/** Stop; `keep` makes the last frame the photo. */
async function stopCamera(keep: boolean) {
  if (!camera.open) return;
  const frame = keep ? await camera.frame().catch(() => null) : null;
  camera.stop();
  element("flip").hidden = true;
  if (frame) await showPhoto(frame, say().photo);
  else view.showStage(photo ? "photo" : "empty", false);
}

// The page

function showLanguage() {
  view.translate();
  view.showStage(camera.open ? "camera" : photo ? "photo" : "empty", camera.facing === "user");
  if (device) {
    element("device").textContent = say().device(self.crossOriginIsolated, device.simd);
    listDevices();
  }
  view.showProblem(problem);
  example.show();
  showLast();
}

/** The picture of the empty stage: a grid of patches, a few of them looked at. */
function drawPatches() {
  const seen = [0, 0, 1, 0, 0, 1, 3, 2, 1, 2, 3, 3, 0, 1, 2, 1];
  element("patches").innerHTML = seen
    .map((n, i) => {
      const [x, y] = [(i % 4) * 24 + 2, Math.floor(i / 4) * 24 + 2];
      return `<rect x="${x}" y="${y}" width="20" height="20" rx="5" opacity="${0.16 + 0.28 * n}" />`;
    })
    .join("");
}

/** Register the service worker, and let it see all that this visit loads, so that the next one needs no network. */
async function offline() {
  if (!("serviceWorker" in navigator) || import.meta.env.DEV) return;
  try {
    await navigator.serviceWorker.register("sw.js");
    if (navigator.serviceWorker.controller) return;
    await Promise.race([
      new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true })),
      new Promise((resolve) => setTimeout(resolve, 3000)),
    ]);
  } catch {
    // Without it (a private window, a self-signed certificate) everything but working offline is there.
  }
}

element("language").addEventListener("click", () => {
  chooseLanguage(language() === "en" ? "zh" : "en");
  showLanguage();
});
element("camera").addEventListener("click", () => void (camera.open ? stopCamera(true) : startCamera()));
element("flip").addEventListener("click", () => {
  camera.facing = camera.facing === "user" ? "environment" : "user";
  watching += 1; // what still waits for a frame of the old one must not stop the new one
  camera.stop();
  void startCamera();
});
element("attention").addEventListener("click", ({ currentTarget }) => {
  const button = currentTarget as HTMLElement;
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  showLast();
});
element("compare").addEventListener("click", () => void compare());
element("problem").querySelector("button")!.addEventListener("click", clearProblem);
runsOn.addEventListener("change", async () => {
  const file = chosen;
  if (!file) return;
  await inTurn(async () => {
    loaded = null;
    tried.clear();
  });
  await choose(file);
});

const picker = element<HTMLInputElement>("file");
for (const [id, accept] of [
  ["photo", "image/*"],
  ["open-file", ".tflite,.txt"],
]) {
  element(id).addEventListener("click", () => {
    picker.accept = accept;
    picker.click();
  });
}
picker.addEventListener("change", () => {
  const list = [...(picker.files ?? [])];
  picker.value = "";
  void openFiles(list);
});

addEventListener("paste", ({ clipboardData }) => {
  if (document.activeElement instanceof HTMLInputElement && document.activeElement.type === "text") return;
  const pasted = [...(clipboardData?.files ?? [])];
  if (pasted.length) void openFiles(pasted);
  else report(new Problem("nothingPasted"));
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("drop").hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").hidden = true;
  void openFiles([...(event.dataTransfer?.files ?? [])]);
});
addEventListener("resize", () => photo && !camera.open && view.showPicture(photo));
addEventListener("visibilitychange", () => document.hidden && void stopCamera(true));
addEventListener("offline", () => view.progress(say().offline));

// For tests and the curious: the whole answer, not only what is shown.
Object.assign(window, {
  kerasVit: { answer: () => last, again: () => inTurn(ask), idle: () => turn, loaded: () => loaded?.file.name ?? null },
});

void begin();
