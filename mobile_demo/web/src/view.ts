// What is on the page: it shows what main.ts knows, and knows nothing itself.

import type { ModelFile } from "./exported";
import type { Guess } from "./guesses";
import type { Problem } from "./problem";
import { language, say } from "./strings";

export function element<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

const button = (id: string) => element<HTMLButtonElement>(id);

/** Write the chosen language into everything that does not change while the page runs. */
export function translate() {
  document.documentElement.lang = language() === "zh" ? "zh-Hans" : "en";
  document.title = say().title;
  const words = say() as unknown as Record<string, string>;
  for (const each of document.querySelectorAll<HTMLElement>("[data-text]")) {
    each.textContent = words[each.dataset.text!];
  }
  for (const each of document.querySelectorAll<HTMLElement>("[data-title]")) {
    each.title = words[each.dataset.title!];
    each.setAttribute("aria-label", each.title);
  }
  for (const each of document.querySelectorAll<HTMLElement>("[data-label]")) {
    each.setAttribute("aria-label", words[each.dataset.label!]);
  }
  button("language").textContent = say().otherLanguage;
  button("language").lang = language() === "zh" ? "en" : "zh-Hans";
}

export function showProblem(problem: Problem | null) {
  const box = element("problem");
  box.hidden = problem === null;
  if (!problem) return;
  const sentence = say().errors[problem.code] as (...details: string[]) => string;
  box.querySelector("p")!.textContent = sentence(...problem.details);
  box.dataset.code = problem.code;
}

/** The five bars. The rows stay the same elements, so that their bars glide. */
export function showAnswers(guesses: Guess[], logits: boolean) {
  const list = element("answers");
  while (list.children.length > Math.max(guesses.length, 1)) list.lastElementChild!.remove();
  while (list.children.length < guesses.length) {
    const row = document.createElement("li");
    row.innerHTML = '<span class="label"></span><span class="percent"></span><span class="bar"><i></i></span>';
    list.append(row);
  }
  if (!guesses.length) {
    list.innerHTML = "";
    const row = document.createElement("li");
    row.className = "faint";
    row.textContent = say().waiting;
    list.append(row);
    return;
  }
  if (list.querySelector(".faint")) {
    list.innerHTML = "";
    return showAnswers(guesses, logits);
  }
  guesses.forEach(({ label, value }, i) => {
    const [name, percent, bar] = list.children[i].children as unknown as HTMLElement[];
    name.textContent = label;
    name.title = label;
    percent.textContent = shown(value, logits);
    bar.hidden = logits; // which have no limits to draw one between
    bar.style.setProperty("--share", String(value));
  });
}

/** A probability as a percentage, a logit as a number. */
export function shown(value: number, logits: boolean): string {
  return logits ? new Intl.NumberFormat(language(), { maximumSignificantDigits: 4 }).format(value) : percentage(value);
}

function percentage(share: number): string {
  return new Intl.NumberFormat(language(), { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(share);
}

export function number(value: number, digits: number): string {
  const fixed = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return new Intl.NumberFormat(language(), fixed).format(value);
}

/** Milliseconds as people read them: more digits where they are few. */
export function duration(milliseconds: number): string {
  return say().milliseconds(number(milliseconds, milliseconds < 10 ? 1 : 0));
}

export function megabytes(bytes: number): string {
  return bytes < 1e6 ? `${number(bytes / 1e3, 0)} kB` : `${number(bytes / 1e6, 1)} MB`;
}

export function showSpeed(milliseconds: number | null, fps: number | null) {
  const pill = element("speed");
  pill.hidden = milliseconds === null;
  if (milliseconds === null) return;
  const rate = fps === null ? "" : ` · ${say().framesPerSecond(number(fps, fps < 10 ? 1 : 0))}`;
  pill.textContent = duration(milliseconds) + rate;
}

export interface Tried {
  milliseconds: number;
  answer: string;
}

/** One row for each model file: size, and what it took and answered the last time. */
export function showFiles(
  files: ModelFile[],
  chosen: ModelFile | null,
  tried: Map<ModelFile, Tried>,
  choose: (file: ModelFile) => void,
) {
  const list = element("files");
  const slowest = Math.max(...[...tried.values()].map(({ milliseconds }) => milliseconds));
  if (list.childElementCount !== files.length || (list as any).files !== files.map((f) => f.name).join()) {
    list.innerHTML = "";
    (list as any).files = files.map((f) => f.name).join();
    for (const file of files) {
      const row = document.createElement("label");
      row.innerHTML =
        '<input type="radio" name="model" /><span class="name"></span><span class="size"></span>' +
        '<span class="result"></span><span class="time"></span><span class="bar"><i></i></span>';
      row.querySelector("input")!.addEventListener("change", () => choose(file));
      list.append(row);
    }
  }
  files.forEach((file, i) => {
    const row = list.children[i] as HTMLElement;
    const result = tried.get(file);
    row.querySelector("input")!.checked = file === chosen;
    row.querySelector(".name")!.textContent = file.name.replace(/\.tflite$/, "");
    row.querySelector(".size")!.textContent = megabytes(file.bytes);
    row.querySelector(".result")!.textContent = result?.answer ?? "";
    row.querySelector(".time")!.textContent = result ? duration(result.milliseconds) : "";
    const bar = row.querySelector<HTMLElement>(".bar")!;
    bar.hidden = !result;
    bar.style.setProperty("--share", result ? String(result.milliseconds / slowest) : "0");
  });
}

/** A picture as the model sees it: scaled to cover the stage, cropped in the centre. */
export function showPicture(bitmap: ImageBitmap) {
  const canvas = element<HTMLCanvasElement>("picture");
  const { clientWidth, clientHeight } = element("stage");
  const ratio = Math.min(devicePixelRatio || 1, 2);
  canvas.width = Math.round(clientWidth * ratio);
  canvas.height = Math.round(clientHeight * ratio);
  const scale = Math.max(canvas.width / bitmap.width, canvas.height / bitmap.height);
  const context = canvas.getContext("2d")!;
  context.fillStyle = "white"; // as the model sees transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  context.drawImage(bitmap, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
}

/** Where the model looked: the patches that got less than the most are darker. */
export function showAttention(attention: Float32Array | null, shape: number[]) {
  const canvas = element<HTMLCanvasElement>("attention-map");
  canvas.hidden = attention === null;
  if (!attention) return;
  const side = Math.round(Math.sqrt(attention.length));
  const [rows, columns] = shape.length >= 3 ? shape.slice(1, 3) : [side, side];
  canvas.width = columns;
  canvas.height = rows;
  const most = attention.reduce((a, b) => Math.max(a, b), 1e-12);
  const pixels = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    pixels.data.set([8, 14, 24, 205 * (1 - attention[i] / most)], i * 4);
  }
  canvas.getContext("2d")!.putImageData(pixels, 0, 0);
}

/** Which of video, photo and invitation the stage shows. */
export function showStage(what: "empty" | "photo" | "camera", mirrored: boolean) {
  element("empty").hidden = what !== "empty";
  element("picture").hidden = what !== "photo";
  element("video").hidden = what !== "camera";
  element("stage").classList.toggle("mirrored", what === "camera" && mirrored);
  button("camera").setAttribute("aria-pressed", String(what === "camera"));
  button("camera").querySelector("span")!.textContent = what === "camera" ? say().stop : say().camera;
}

export function progress(line: string) {
  element("progress").textContent = line;
}

/** For people who listen to the page. */
export function speak(line: string) {
  element("said").textContent = line;
}
