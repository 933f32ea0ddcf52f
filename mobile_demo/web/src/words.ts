// A text -> the ids of its words, as keras_vit/modalities/vocabulary.py makes them.

const PADDING = 0;
const UNKNOWN = 1;
const MARKS = 2; // how many ids stand before the first word
// Written without spaces: Chinese characters and Japanese kana, each a word.
const SPACELESS =
  /[\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{3ffff}]/u;

/** The words of a text: runs of letters and digits, single Chinese characters, single symbols. */
export function split(text: string): string[] {
  const visible = text.replace(/\p{Cf}/gu, "");
  const normal = visible.normalize("NFKC").toLowerCase().normalize("NFKC");
  const words: string[] = [];
  let run = "";
  for (const character of normal) {
    if (SPACELESS.test(character)) {
      words.push(run, character);
      run = "";
    } else if (/[\p{L}\p{N}]/u.test(character) || (run && /\p{M}/u.test(character))) {
      run += character;
    } else if (!/\p{M}/u.test(character)) {
      words.push(run, /[\p{S}\p{Cn}]/u.test(character) ? character : "");
      run = "";
    }
  }
  words.push(run);
  return words.filter((word) => word !== "");
}

export interface Encoded {
  ids: Int32Array;
  unknown: string[]; // words that the vocabulary does not have, each once
  cut: number; // words beyond `length`
}

/** int32 [length]: ids, then padding. `words` are those of the vocabulary, from id 2 on. */
export function encode(text: string, words: string[], length: number): Encoded {
  const known = new Map(words.map((word, i) => [word, i + MARKS]));
  const found = split(text);
  const ids = new Int32Array(length).fill(PADDING);
  found.slice(0, length).forEach((word, i) => (ids[i] = known.get(word) ?? UNKNOWN));
  return {
    ids,
    unknown: [...new Set(found)].filter((word) => !known.has(word)),
    cut: Math.max(0, found.length - length),
  };
}
