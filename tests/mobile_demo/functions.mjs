// The page's pure functions in Node, for the tests in Python: node functions.mjs WEB < cases.json > answers.json
//
// A case is {"function", "argument"}. A picture travels as {"height", "width", "rgba": base64}.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const web = process.argv[2];
const vite = createRequire(`${web}/package.json`).resolve("vite");
const { runnerImport } = await import(pathToFileURL(vite));
const load = async (name) => (await runnerImport(`${web}/src/${name}.ts`)).module;
const { fit, luma, TooThin } = await load("fit");
const { split, encode } = await load("words");
const { layoutOf } = await load("layout");
const { ranked } = await load("guesses");

const functions = {
  fit({ height, width, rgba, target }) {
    const bytes = Buffer.from(rgba, "base64");
    const readRows = (top, bottom) => new Uint8Array(bytes.subarray(top * width * 4, bottom * width * 4));
    try {
      return Buffer.from(fit(readRows, height, width, ...target)).toString("base64");
    } catch (error) {
      if (error instanceof TooThin) return "too thin";
      throw error;
    }
  },
  luma: (rgb) => Buffer.from(luma(new Uint8Array(Buffer.from(rgb, "base64")))).toString("base64"),
  split,
  encode({ text, words, length }) {
    const { ids, unknown, cut } = encode(text, words, length);
    return { ids: [...ids], unknown, cut };
  },
  ranked: ({ values, logits, labels, top }) => ranked(values, logits, labels, top, (i) => `class ${i}`),
  layout(path) {
    try {
      return layoutOf(readFileSync(path), "it");
    } catch (error) {
      return { code: error.code, details: error.details };
    }
  },
};

const given = [];
for await (const piece of process.stdin) given.push(piece);
const cases = JSON.parse(Buffer.concat(given).toString());
const answers = cases.map(({ function: name, argument }) => functions[name](argument));
process.stdout.write(JSON.stringify(answers));
