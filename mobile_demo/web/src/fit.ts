// A picture of any size -> the RGB pixels that the model takes, exactly as keras_vit/training/images.py
// (`fit`) does it with Pillow: alpha over white, scaled to cover, antialiased bilinear, cropped in the centre.
//
// Pillow resizes in two passes, the rows first, with weights in fixed point, and rounds to 8 bits after each.
// So do we, but only for the pixels that the crop keeps, and reading the picture in stripes: a browser's
// canvas may be smaller than a photograph.

const PRECISION_BITS = 32 - 8 - 2;
const MAX_SCALED_PIXELS = 2 ** 27;
const STRIPE_PIXELS = 2 ** 20;

/** RGBA bytes of the rows `top` to `bottom` (exclusive) of a picture, not premultiplied. */
export type ReadRows = (top: number, bottom: number) => Uint8ClampedArray | Uint8Array;

/** A picture so long and thin that it cannot be scaled to cover. */
export class TooThin extends Error {}

/**
 * RGB bytes [targetHeight, targetWidth, 3] of a picture that is `height` x `width`.
 *
 * Throws TooThin where Python raises InputError.
 */
export function fit(
  readRows: ReadRows,
  height: number,
  width: number,
  targetHeight: number,
  targetWidth: number,
): Uint8Array {
  const scale = Math.max(targetHeight / height, targetWidth / width);
  const scaledHeight = Math.max(targetHeight, roundHalfEven(height * scale));
  const scaledWidth = Math.max(targetWidth, roundHalfEven(width * scale));
  const same = height === targetHeight && width === targetWidth;
  if (!same && scaledHeight * scaledWidth > MAX_SCALED_PIXELS) throw new TooThin();
  const columns = weights(width, scaledWidth, (scaledWidth - targetWidth) >> 1, targetWidth);
  const rows = weights(height, scaledHeight, (scaledHeight - targetHeight) >> 1, targetHeight);

  // First pass: every row that the second one needs, narrowed to the crop's columns.
  const top = rows.first[0];
  const bottom = rows.first[targetHeight - 1] + rows.count[targetHeight - 1];
  const narrow = new Uint8Array((bottom - top) * targetWidth * 3);
  const stripe = Math.max(1, Math.floor(STRIPE_PIXELS / width));
  for (let start = top; start < bottom; start += stripe) {
    const end = Math.min(start + stripe, bottom);
    const rgba = readRows(start, end);
    overWhite(rgba);
    for (let y = start; y < end; y++) {
      const from = (y - start) * width * 4;
      const to = (y - top) * targetWidth * 3;
      for (let x = 0; x < targetWidth; x++) {
        resample(rgba, from + columns.first[x] * 4, 4, columns, x, narrow, to + x * 3);
      }
    }
  }

  const fitted = new Uint8Array(targetHeight * targetWidth * 3);
  for (let y = 0; y < targetHeight; y++) {
    const from = (rows.first[y] - top) * targetWidth * 3;
    for (let x = 0; x < targetWidth; x++) {
      resample(narrow, from + x * 3, targetWidth * 3, rows, y, fitted, (y * targetWidth + x) * 3);
    }
  }
  return fitted;
}

/** Grey bytes of RGB ones, as Pillow's "L" and `to_channels` in images.py make them. */
export function luma(rgb: Uint8Array): Uint8Array {
  const grey = new Uint8Array(rgb.length / 3);
  for (let i = 0; i < grey.length; i++) {
    grey[i] = (rgb[3 * i] * 19595 + rgb[3 * i + 1] * 38470 + rgb[3 * i + 2] * 7471 + 32768) >> 16;
  }
  return grey;
}

interface Weights {
  size: number; // how many weights are kept for each pixel
  first: Int32Array; // the first source pixel of each
  count: Int32Array; // how many source pixels
  values: Int32Array; // fixed point
}

/** Pillow's triangle for the pixels `offset` to `offset + wanted` of a line that goes from `from` to `to` pixels. */
function weights(from: number, to: number, offset: number, wanted: number): Weights {
  const scale = from / to;
  const support = Math.max(scale, 1);
  const size = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(wanted);
  const count = new Int32Array(wanted);
  const values = new Int32Array(wanted * size);
  const exact = new Float64Array(size);
  for (let i = 0; i < wanted; i++) {
    if (from === to) {
      // Pillow leaves out a pass that changes nothing.
      [first[i], count[i], values[i * size]] = [i + offset, 1, 1 << PRECISION_BITS];
      continue;
    }
    const center = (i + offset + 0.5) * scale;
    first[i] = Math.max(0, Math.trunc(center - support + 0.5));
    count[i] = Math.min(from, Math.trunc(center + support + 0.5)) - first[i];
    let sum = 0;
    for (let k = 0; k < count[i]; k++) {
      // Pillow multiplies by the reciprocal: a division would round differently.
      const distance = Math.abs((k + first[i] - center + 0.5) * (1 / support));
      exact[k] = distance < 1 ? 1 - distance : 0;
      sum += exact[k];
    }
    for (let k = 0; k < count[i]; k++) {
      const value = sum === 0 ? exact[k] : exact[k] / sum;
      values[i * size + k] = Math.trunc(0.5 + value * (1 << PRECISION_BITS));
    }
  }
  return { size, first, count, values };
}

/** One RGB pixel: `count[i]` pixels of `source`, `step` bytes apart, weighted, rounded to 8 bits. */
function resample(
  source: Uint8Array | Uint8ClampedArray,
  from: number,
  step: number,
  { size, count, values }: Weights,
  i: number,
  target: Uint8Array,
  to: number,
) {
  let red = 1 << (PRECISION_BITS - 1);
  let green = red;
  let blue = red;
  const start = i * size;
  for (let k = 0; k < count[i]; k++, from += step) {
    const weight = values[start + k];
    red += source[from] * weight;
    green += source[from + 1] * weight;
    blue += source[from + 2] * weight;
  }
  target[to] = Math.min(255, red >> PRECISION_BITS);
  target[to + 1] = Math.min(255, green >> PRECISION_BITS);
  target[to + 2] = Math.min(255, blue >> PRECISION_BITS);
}

/** Pillow's alpha_composite over opaque white, in place. */
function overWhite(rgba: Uint8Array | Uint8ClampedArray) {
  for (let i = 0; i < rgba.length; i += 4) {
    const alpha = rgba[i + 3];
    if (alpha === 255) continue;
    for (let c = i; c < i + 3; c++) {
      const sum = (rgba[c] * alpha + 255 * (255 - alpha)) * 128 + (128 << 7);
      rgba[c] = alpha === 0 ? 255 : (((sum >> 8) + sum) >> 8) >> 7;
    }
  }
}

/** To the nearest integer, halves to the even one, as Python's `round`. */
function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
