// Builds the page into ../page, which `keras-vit demo-app` serves and which is part of the Python package.
//
// File names have no hashes, so that a rebuild changes only what changed. LiteRT's wasm files go in as .gz:
// a third of their size, and browsers unpack them.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

const LITERT = "node_modules/@litertjs/core";
// jspi: only for WebNN and for models that are split between WebGPU and CPU.
const WASM = readdirSync(`${LITERT}/wasm`).filter((name) => !name.includes("jspi"));

function offlinePage(): Plugin {
  return {
    name: "offline-page",
    apply: "build",
    enforce: "post",
    generateBundle(_, bundle) {
      for (const name of WASM) {
        const source = gzipSync(readFileSync(`${LITERT}/wasm/${name}`), { level: 9 });
        this.emitFile({ type: "asset", fileName: `wasm/${name}.gz`, source });
      }
      const shell = Object.keys(bundle).filter((name) => !name.startsWith("wasm/") && name !== "index.html");
      const files = ["./", ...shell, ...readdirSync("public")].sort();
      const hash = createHash("sha256");
      for (const name of shell.sort()) {
        const part = bundle[name];
        hash.update(name).update(part.type === "chunk" ? part.code : part.source);
      }
      for (const name of readdirSync("public").sort()) hash.update(readFileSync(`public/${name}`));
      hash.update(readFileSync("index.html")).update(readFileSync("src/sw.js"));
      const version = JSON.parse(readFileSync(`${LITERT}/package.json`, "utf8")).version;
      const source = readFileSync("src/sw.js", "utf8")
        .replace("__SHELL__", JSON.stringify(files))
        .replace("__VERSION__", JSON.stringify(hash.digest("hex").slice(0, 12)))
        .replace("__LITERT__", JSON.stringify(version));
      this.emitFile({ type: "asset", fileName: "sw.js", source });
    },
  };
}

const names = {
  entryFileNames: "assets/[name].js",
  chunkFileNames: "assets/[name].js",
  assetFileNames: "assets/[name][extname]",
};

export default defineConfig({
  base: "./",
  build: {
    outDir: "../page",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: false,
    rollupOptions: { output: names },
  },
  worker: { format: "iife", rollupOptions: { output: names } },
  plugins: [offlinePage()],
});
