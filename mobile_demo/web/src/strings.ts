// Every sentence of the page, in English and Chinese, and the errors that a person can understand.

export const LANGUAGES = ["en", "zh"] as const;
export type Language = (typeof LANGUAGES)[number];

const en = {
  title: "keras_vit: the model in your hand",
  otherLanguage: "中文",
  about: (classes: number, size: string) => `${classes} classes, ${size} pixels`,
  stage: "Picture",
  empty: "Point the camera at something, or drop a picture here.",
  private: "Everything runs on this device. No picture leaves it.",
  camera: "Camera",
  stop: "Stop",
  flip: "Other camera",
  photo: "Photo",
  attention: "Attention",
  answers: "Answer",
  waiting: "No answer yet",
  files: "Model file",
  filesHint: "The same model, stored in different ways.",
  compare: "Compare all",
  comparing: "Comparing …",
  settings: "Settings",
  runsOn: "Runs on",
  threads: (n: number) => (n === 1 ? "CPU, 1 thread" : `CPU, ${n} threads`),
  gpu: "WebGPU",
  openFile: "Open another .tflite file",
  dropHere: "Drop a picture, or a .tflite file",
  starting: "Starting LiteRT …",
  loading: (name: string, percent: number) => `Loading ${name}: ${percent}%`,
  preparing: (name: string) => `Preparing ${name} …`,
  ready: (name: string) => `${name} is ready.`,
  milliseconds: (ms: string) => `${ms} ms`,
  framesPerSecond: (n: string) => `${n} fps`,
  said: (label: string, percent: string) => `${label}, ${percent}`,
  sameAnswer: "same answer",
  classNumber: (n: number) => `class ${n}`,
  example: "What the model gets",
  use: (name: string) => `Use ${name}`,
  cannotGive: (name: string) => `${name}: not from this page, counts as absent`,
  textHint: "Type a text",
  unknownWords: (words: string) => `Words that the model does not know: ${words}`,
  cutWords: (count: number, length: number) =>
    `${count === 1 ? "One word is" : `${count} words are`} cut: the model takes ${length}.`,
  nothingPresent: "Give the model at least one thing: a picture or a text.",
  needsPicture: "Open the camera or a photo first.",
  close: "Close",
  offline: "You are offline. What was opened before still works.",
  onCpuInstead: "WebGPU does not take all of this model, so it runs on the CPU.",
  device: (isolated: boolean, simd: boolean) =>
    `LiteRT.js, WebAssembly ${simd ? "with relaxed SIMD" : "SIMD"}${isolated ? ", threads" : ", one thread"}`,
  errors: {
    noExport: () =>
      "There is no model beside this page. Start it with: keras-vit demo-app EXPORT_DIR. You can open a .tflite file.",
    badManifest: () =>
      "manifest.json cannot be read. Export the model again with keras-vit export. You can open a .tflite file.",
    noFiles: () =>
      "This export directory has no .tflite file. Export the model again, or open a .tflite file.",
    noSimd: () =>
      "This browser is too old: it has no WebAssembly SIMD, which the models need. Update it, or try another browser.",
    noRuntime: () =>
      "LiteRT could not be loaded. Check the connection and try again; if that does not help, build the page with: make web",
    cameraInsecure: () =>
      "Browsers allow the camera only on https:// pages and on localhost. Start keras-vit demo-app with --https, or choose a photo.",
    cameraDenied: () =>
      "The camera is blocked. Allow it for this page in the browser's settings, or choose a photo.",
    cameraMissing: () => "No camera was found on this device. Choose a photo instead.",
    cameraBusy: () => "The camera is in use by another program, or does not start. Close that program, or choose a photo.",
    notTflite: (name: string) => `${name} is not a TFLite file, or it is damaged. Choose one that keras-vit export wrote.`,
    badSignature: (name: string, has: string) =>
      `${name} is another kind of model: it has ${has}. This page needs image → probability. Export it with keras-vit export.`,
    changed: (name: string) =>
      `${name} is not the file that was exported: its checksum differs from manifest.json. Export the model again.`,
    missing: (name: string) => `${name} is not on the server. Export the model again, or choose another file.`,
    download: (name: string) => `${name} did not arrive whole: the connection was lost. Check it and choose the file again.`,
    outOfMemory: (name: string) =>
      `This device has too little memory for ${name}. Close other pages, or choose a smaller file such as int8 or int4.`,
    modelFailed: (name: string, why: string) => `${name} cannot run in this browser (${why}). Choose another file.`,
    labels: (labels: string, classes: string) =>
      `The labels do not fit: ${labels} names for ${classes} classes. Numbers are shown instead.`,
    notAnImage: (name: string) =>
      `${name} is not a picture that this browser can read. Try a JPEG, PNG or WebP file.`,
    tooThin: (name: string) => `${name} is too long and thin to fill the model's square. Crop it first.`,
    tooLarge: (name: string) => `${name} is too large for this browser. Make it smaller first.`,
    nothingPasted: () => "There is no picture in the clipboard.",
    unexpected: (why: string) => `Something went wrong (${why}). Reload the page, or choose another file.`,
  },
};

type Strings = typeof en;

const zh: Strings = {
  title: "keras_vit：手中的模型",
  otherLanguage: "English",
  about: (classes, size) => `${classes} 个类别，${size} 像素`,
  stage: "图片",
  empty: "将相机对准物体，或把图片拖到这里。",
  private: "一切都在本设备上运行，图片不会离开设备。",
  camera: "相机",
  stop: "停止",
  flip: "切换相机",
  photo: "照片",
  attention: "注意力",
  answers: "答案",
  waiting: "还没有答案",
  files: "模型文件",
  filesHint: "同一个模型，以不同方式存储。",
  compare: "全部比较",
  comparing: "正在比较…",
  settings: "设置",
  runsOn: "运行于",
  threads: (n) => `CPU，${n} 个线程`,
  gpu: "WebGPU",
  openFile: "打开另一个 .tflite 文件",
  dropHere: "拖入图片或 .tflite 文件",
  starting: "正在启动 LiteRT…",
  loading: (name, percent) => `正在加载 ${name}：${percent}%`,
  preparing: (name) => `正在准备 ${name}…`,
  ready: (name) => `${name} 已就绪。`,
  milliseconds: (ms) => `${ms} 毫秒`,
  framesPerSecond: (n) => `${n} 帧/秒`,
  said: (label, percent) => `${label},${percent}`,
  sameAnswer: "答案相同",
  classNumber: (n) => `类别 ${n}`,
  example: "模型的输入",
  use: (name) => `使用 ${name}`,
  cannotGive: (name) => `${name}：本页无法提供，视为缺失`,
  textHint: "输入文字",
  unknownWords: (words) => `模型不认识的词：${words}`,
  cutWords: (count, length) => `截去了 ${count} 个词：模型最多接受 ${length} 个。`,
  nothingPresent: "请至少提供一项输入：图片或文字。",
  needsPicture: "请先打开相机或照片。",
  close: "关闭",
  offline: "当前离线。之前打开过的内容仍可使用。",
  onCpuInstead: "WebGPU 不支持该模型的全部运算，因此在 CPU 上运行。",
  device: (isolated, simd) =>
    `LiteRT.js，WebAssembly ${simd ? "relaxed SIMD" : "SIMD"}，${isolated ? "多线程" : "单线程"}`,
  errors: {
    noExport: () => "本页旁边没有模型。请用 keras-vit demo-app EXPORT_DIR 启动，或打开一个 .tflite 文件。",
    badManifest: () => "无法读取 manifest.json。请用 keras-vit export 重新导出，或打开一个 .tflite 文件。",
    noFiles: () => "导出目录中没有 .tflite 文件。请重新导出模型，或打开一个 .tflite 文件。",
    noSimd: () => "浏览器版本过旧：没有模型所需的 WebAssembly SIMD。请更新或换用其他浏览器。",
    noRuntime: () => "无法加载 LiteRT。请检查网络后重试；如仍无效，请用 make web 构建本页。",
    cameraInsecure: () =>
      "浏览器只允许 https:// 页面和 localhost 使用相机。请用 --https 启动 keras-vit demo-app，或选择照片。",
    cameraDenied: () => "相机被禁止。请在浏览器设置中允许本页使用相机，或选择照片。",
    cameraMissing: () => "本设备上没有找到相机。请选择照片。",
    cameraBusy: () => "相机正被其他程序使用或无法启动。请关闭该程序，或选择照片。",
    notTflite: (name) => `${name} 不是 TFLite 文件，或已损坏。请选择由 keras-vit export 写出的文件。`,
    badSignature: (name, has) =>
      `${name} 是另一种模型：它有 ${has}。本页需要 image → probability。请用 keras-vit export 导出。`,
    changed: (name) => `${name} 不是导出时的文件：校验和与 manifest.json 不符。请重新导出模型。`,
    missing: (name) => `服务器上没有 ${name}。请重新导出模型，或选择其他文件。`,
    download: (name) => `${name} 没有完整下载：网络中断。请检查网络后重新选择该文件。`,
    outOfMemory: (name) => `本设备内存不足，无法运行 ${name}。请关闭其他页面，或选择较小的文件，如 int8 或 int4。`,
    modelFailed: (name, why) => `${name} 无法在此浏览器中运行（${why}）。请选择其他文件。`,
    labels: (labels, classes) => `标签不匹配：${labels} 个名称，${classes} 个类别。改为显示编号。`,
    notAnImage: (name) => `${name} 不是此浏览器能读取的图片。请使用 JPEG、PNG 或 WebP 文件。`,
    tooThin: (name) => `${name} 过于细长，无法填满模型的画面。请先裁剪。`,
    tooLarge: (name) => `${name} 对此浏览器来说太大。请先缩小。`,
    nothingPasted: () => "剪贴板中没有图片。",
    unexpected: (why) => `出现问题（${why}）。请重新加载页面，或选择其他文件。`,
  },
};

const ALL: Record<Language, Strings> = { en, zh };
const KEY = "language";

let chosen: Language = remembered() ?? (navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en");

/** The sentences of the chosen language. */
export function say(): Strings {
  return ALL[chosen];
}

export function language(): Language {
  return chosen;
}

export function chooseLanguage(next: Language) {
  chosen = next;
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // Without storage it holds until the page is closed.
  }
}

function remembered(): Language | null {
  try {
    const value = localStorage.getItem(KEY) as Language | null;
    return value && LANGUAGES.includes(value) ? value : null;
  } catch {
    return null;
  }
}
