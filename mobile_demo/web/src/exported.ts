// An export directory: manifest.json, labels.txt, and the bytes of its .tflite files.

import { Problem } from "./problem";

export interface ModelFile {
  name: string;
  url: string;
  bytes: number;
  sha256: string;
  load(progress: (share: number) => void): Promise<Uint8Array<ArrayBuffer>>;
}

export interface Modality {
  name: string;
  kind: "image" | "text" | "other";
  words: string[]; // of a text: the vocabulary from id 2 on
  length: number; // of a text: how many words the model takes
}

export interface Exported {
  labels: string[];
  modalities: Modality[]; // in the order of the input `present`; empty for a model of images alone
  files: ModelFile[];
}

/** Read the export directory at `base`, an address with a slash at its end. */
export async function openExport(base: string): Promise<Exported> {
  let manifest;
  const answer = await fetch(`${base}manifest.json`, { cache: "no-cache" }).catch(() => null);
  if (!answer?.ok) throw new Problem("noExport");
  try {
    manifest = await answer.json();
    const listed: { name: string; bytes: number; sha256: string }[] = manifest.artifacts;
    const files = listed
      .filter(({ name }) => name.endsWith(".tflite"))
      .map(({ name, bytes, sha256 }) => served(base, name, bytes, sha256 ?? ""));
    const modalities = (manifest.modalities ?? []).map(modality);
    const opened = { labels: await labels(base, manifest.labels), modalities, files };
    if (!files.length) throw new Problem("noFiles");
    return opened;
  } catch (error) {
    throw error instanceof Problem ? error : new Problem("badManifest");
  }
}

async function labels(base: string, noted: unknown): Promise<string[]> {
  const answer = await fetch(`${base}labels.txt`, { cache: "no-cache" }).catch(() => null);
  if (!answer?.ok) return Array.isArray(noted) ? noted : [];
  return (await answer.text()).replace(/\r?\n$/, "").split(/\r?\n/);
}

function modality([name, { class_name, config }]: [string, any]): Modality {
  const kind = class_name === "Image" ? "image" : class_name === "Text" ? "text" : "other";
  // A vocabulary may be only its size; then nothing can be typed.
  const readable = kind === "text" && Array.isArray(config.vocabulary);
  return {
    name,
    kind: kind === "text" && !readable ? "other" : kind,
    words: readable ? config.vocabulary : [],
    length: config.length ?? 0,
  };
}

function served(base: string, name: string, bytes: number, sha256: string): ModelFile {
  // The checksum in the address makes the cached copy of one export differ from the next one's.
  const url = `${base}${name.split("/").map(encodeURIComponent).join("/")}?v=${sha256.slice(0, 16)}`;
  return { name, url, bytes, sha256, load: (progress) => download(url, name, bytes, sha256, progress) };
}

/** A file from the person's own device. */
export function localFile(file: File): ModelFile {
  return {
    name: file.name,
    url: "",
    bytes: file.size,
    sha256: "",
    load: async () => new Uint8Array(await file.arrayBuffer()),
  };
}

async function download(
  url: string,
  name: string,
  bytes: number,
  sha256: string,
  progress: (share: number) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  const answer = await fetch(url).catch(() => null);
  if (!answer) throw new Problem("download", name);
  if (!answer.ok || !answer.body) throw new Problem("missing", name);
  const total = Number(answer.headers.get("content-length")) || bytes;
  const pieces: Uint8Array[] = [];
  let arrived = 0;
  try {
    const reader = answer.body.getReader();
    for (let step = await reader.read(); !step.done; step = await reader.read()) {
      pieces.push(step.value);
      arrived += step.value.length;
      progress(Math.min(1, arrived / total));
    }
  } catch {
    throw new Problem("download", name);
  }
  if (arrived < total) throw new Problem("download", name);
  let whole: Uint8Array<ArrayBuffer>;
  try {
    whole = new Uint8Array(arrived);
  } catch {
    throw new Problem("outOfMemory", name);
  }
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  if (sha256 && crypto.subtle && (await hex(whole)) !== sha256) throw new Problem("changed", name);
  return whole;
}

async function hex(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
