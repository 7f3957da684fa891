/** PNG of any kind -> samples. Browsers reduce 16 bits to 8, so files are decoded here. */
import { RadiographError } from "./errors.js";

/**
 * @typedef {object} Picture
 * @property {number} height
 * @property {number} width
 * @property {number} channels 1 (grey), 2 (grey, alpha), 3 (colour) or 4 (colour, alpha).
 * @property {number} bits Bits of a sample, 1 to 16. Alpha and colour have 8.
 * @property {Uint8Array | Uint16Array} samples Channel by channel for each pixel.
 */

export const MAX_PIXELS = 60_000_000;

const CHANNELS = /** @type {Record<number, number>} */ ({ 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 });
const SIXTEEN_BIT_COLOUR = /** @type {Record<number, string>} */ ({ 2: "RGB", 4: "grey with alpha", 6: "RGB with alpha" });
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
const DAMAGED = "Cannot read this PNG: the file may be damaged or cut off. Copy or download it again, or leave it out.";

/** @param {Uint8Array} bytes @returns {Promise<Picture>} */
export async function readPng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 33) throw new RadiographError(DAMAGED);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [depth, colour, interlaced] = [bytes[24], bytes[25], bytes[28]];
  if (depth === 16 && SIXTEEN_BIT_COLOUR[colour]) {
    const found = SIXTEEN_BIT_COLOUR[colour];
    throw new RadiographError(`A PNG with 16 bits must be grey; this one is ${found}. Save it as 16-bit grey.`);
  }
  checkPixels(height, width);
  if (!CHANNELS[colour] || ![1, 2, 4, 8, 16].includes(depth)) throw new RadiographError(DAMAGED);
  const { data, palette, transparency, animated } = chunks(bytes, view);
  if (animated) throw new RadiographError("A radiograph must be one image; this PNG is animated. Export one image.");
  const passes = interlaced ? PASSES : [[0, 0, 1, 1]];
  const sizes = passes.map(([x, y, dx, dy]) => [Math.ceil((width - x) / dx), Math.ceil((height - y) / dy)]);
  const rowBytes = sizes.map(([columns]) => Math.ceil((columns * CHANNELS[colour] * depth) / 8));
  const needed = sizes.reduce((sum, [columns, rows], i) => sum + (columns > 0 ? rows * (rowBytes[i] + 1) : 0), 0);
  const packed = await inflate(data, needed);
  const channels = CHANNELS[colour];
  const samples = depth === 16 ? new Uint16Array(width * height) : new Uint8Array(width * height * channels);
  let at = 0;
  passes.forEach(([x0, y0, dx, dy], pass) => {
    const [columns, rows] = sizes[pass];
    if (columns <= 0) return;
    const line = rowBytes[pass];
    unfilter(packed, at, line, rows, Math.max(1, (channels * depth) >> 3));
    for (let row = 0; row < rows; row++, at += line + 1) {
      const target = ((y0 + row * dy) * width + x0) * channels;
      unpackRow(packed, at + 1, columns * channels, depth, samples, target, dx, channels);
    }
  });
  if (colour === 3) return withPalette({ height, width, channels, bits: depth, samples }, palette, transparency);
  return { height, width, channels, bits: depth === 16 || depth === 1 ? depth : 8, samples: scaled(samples, depth) };
}

/** @param {number} height @param {number} width */
export function checkPixels(height, width) {
  if (height * width > 0 && height * width <= MAX_PIXELS) return;
  const [most, size] = [MAX_PIXELS.toLocaleString("en"), `${height} x ${width}`];
  throw new RadiographError(`The image must have 1 to ${most} pixels; the file declares ${size}. Reduce it.`);
}

/** @param {Uint8Array} bytes @param {DataView} view */
function chunks(bytes, view) {
  const data = [];
  /** @type {Uint8Array[]} */
  let [palette, transparency] = [new Uint8Array(0), new Uint8Array(0)];
  let animated = false;
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, Math.min(at + 8 + length, bytes.length));
    if (kind === "IDAT") data.push(body);
    if (kind === "PLTE") palette = body;
    if (kind === "tRNS") transparency = body;
    if (kind === "acTL" && body.length >= 4) animated = view.getUint32(at + 8) > 1;
    if (kind === "IEND") break;
    at += 12 + length;
  }
  return { data, palette, transparency, animated };
}

/**
 * Inflate at most `needed` bytes, so that a small file cannot fill the memory.
 * @param {Uint8Array[]} parts @param {number} needed @returns {Promise<Uint8Array>}
 */
async function inflate(parts, needed) {
  const found = new Uint8Array(needed);
  let length = 0;
  const stream = new Blob(/** @type {BlobPart[]} */ (parts)).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader();
  try {
    while (length < needed) {
      const { value, done } = await reader.read();
      if (done) break;
      found.set(value.subarray(0, needed - length), length);
      length += value.length;
    }
    await reader.cancel();
  } catch {
    if (length < needed) throw new RadiographError(DAMAGED);
  }
  if (length < needed) throw new RadiographError(DAMAGED);
  return found;
}

/** @param {Uint8Array} data @param {number} at @param {number} line @param {number} rows @param {number} step */
function unfilter(data, at, line, rows, step) {
  for (let row = 0; row < rows; row++, at += line + 1) {
    const [filter, start, above] = [data[at], at + 1, row ? at - line : -1];
    if (filter > 4) throw new RadiographError(DAMAGED);
    if (filter === 0) continue;
    for (let i = 0; i < line; i++) {
      const left = i >= step ? data[start + i - step] : 0;
      const up = above >= 0 ? data[above + i] : 0;
      let add = filter === 1 ? left : filter === 2 ? up : (left + up) >> 1;
      if (filter === 4) add = paeth(left, up, i >= step && above >= 0 ? data[above + i - step] : 0);
      data[start + i] += add;
    }
  }
}

/** @param {number} left @param {number} up @param {number} corner @returns {number} */
function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

/**
 * @param {Uint8Array} packed @param {number} at @param {number} count Samples of the row. @param {number} depth
 * @param {Uint8Array | Uint16Array} samples @param {number} target @param {number} dx @param {number} channels
 */
function unpackRow(packed, at, count, depth, samples, target, dx, channels) {
  for (let i = 0; i < count; i++) {
    let value;
    if (depth === 16) value = (packed[at + 2 * i] << 8) | packed[at + 2 * i + 1];
    else if (depth === 8) value = packed[at + i];
    else value = (packed[at + ((i * depth) >> 3)] >> (8 - depth - ((i * depth) & 7))) & ((1 << depth) - 1);
    samples[target + (dx === 1 ? i : Math.floor(i / channels) * dx * channels + (i % channels))] = value;
  }
}

/** Grey of 2 and 4 bits becomes 8 bits, as in Pillow. @param {Uint8Array | Uint16Array} samples @param {number} depth */
function scaled(samples, depth) {
  return depth === 2 || depth === 4 ? samples.map((value) => (value * 255) / ((1 << depth) - 1)) : samples;
}

/** @param {Picture} picture @param {Uint8Array} palette @param {Uint8Array} transparency @returns {Picture} */
function withPalette({ height, width, samples }, palette, transparency) {
  const channels = transparency.length ? 4 : 3;
  const found = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) found[i * channels + c] = palette[samples[i] * 3 + c] ?? 0;
    if (channels === 4) found[i * 4 + 3] = transparency[samples[i]] ?? 255;
  }
  return { height, width, channels, bits: 8, samples: found };
}
