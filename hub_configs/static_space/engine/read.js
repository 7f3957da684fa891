/** Any radiograph file -> grey values in [0, 1], 0 = dark (air). The content decides, not the name. */
import { readDicom } from "./dicom/image.js";
import { RadiographError } from "./errors.js";
import { percentileLimits, PERCENTILES, percentiles, stretch, UNDERFILLED_BELOW } from "./grey_values.js";
import { readJpeg } from "./jpeg.js";
import { readPng } from "./png.js";
import { ontoSquare, withoutPadding } from "./resampling.js";

/**
 * @typedef {object} Reading How a file is read.
 * @property {number} size Side of the square, in pixels.
 * @property {string} fit "pad" or "squash".
 * @property {string} voi "dicom", "percentile" or "none".
 * @property {[number, number] | null} valueRange Values that become 0 and 1 in files without a window.
 * @property {number} [pictureSize] Longer side of a picture for people, instead of the square.
 */
/**
 * @typedef {object} Decoded
 * @property {number} height Of the file, in pixels.
 * @property {number} width
 * @property {boolean} isDicom
 * @property {boolean} underfilled Whether a 16-bit image uses at most an eighth of its range.
 * @property {string[]} warnings What is unusual about the header or the colours.
 * @property {import("./resampling.js").Raster} [raster] All pixels, or
 * @property {Float32Array} [square] the square.
 */
/**
 * @typedef {object} Radiograph
 * @property {Float32Array} square
 * @property {import("./resampling.js").Raster} content The square without its padding.
 * @property {number} height Of the file, in pixels.
 * @property {number} width
 * @property {string[]} warnings
 * @property {string | null} problem Why the grey values cannot be used.
 */

export const NO_CONTRAST =
  "The image has no usable contrast: almost all pixels have the same grey value. If the file's window is wrong, choose " +
  "percentiles in the settings; otherwise leave it out.";
const UNDERFILLED =
  "The image uses at most an eighth of its 16-bit range, as 12 bits stored in 16 do. In the settings, give the values " +
  "that become black and white: 0 and 4095 for 12 bits.";
const LEAST_CONTRAST = 1 / 64;
const COLOUR = 0.03;
const LUMA = [0.299, 0.587, 0.114];
const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const JPEG = [0xff, 0xd8, 0xff];
const OTHER_KINDS = /** @type {[string, string][]} */ ([
  ["%PDF", "PDF"], ["PK\x03\x04", "ZIP"], ["BM", "BMP"], ["GIF8", "GIF"], ["RIFF", "WebP"], ["II*\0", "TIFF"], ["MM\0*", "TIFF"],
]); // prettier-ignore

/** @param {Uint8Array} bytes @param {Reading} reading @returns {Promise<Radiograph>} */
export async function readRadiograph(bytes, reading) {
  const { height, width, raster, square: made, underfilled, warnings } = await decode(bytes, reading);
  const square = made ?? ontoSquare(/** @type {NonNullable<typeof raster>} */ (raster), reading.size, reading.fit);
  const whole = { height: reading.size, width: reading.size, samples: square, table: null };
  const content = reading.fit === "pad" ? withoutPadding(square, height, width) : whole;
  const [low, high] = percentiles(everyFew(content), PERCENTILES);
  const noContrast = content.samples.length > 0 && high - low < LEAST_CONTRAST;
  return { square, content, height, width, warnings, problem: underfilled ? UNDERFILLED : noContrast ? NO_CONTRAST : null };
}

/** @param {import("./resampling.js").Raster} image @returns {ArrayLike<number>} At most about 256 rows and columns. */
function everyFew({ height, width, samples }) {
  const [down, across] = [Math.max(1, height >> 8), Math.max(1, width >> 8)];
  const kept = [];
  for (let y = 0; y < height; y += down) for (let x = 0; x < width; x += across) kept.push(samples[y * width + x]);
  return kept;
}

/**
 * @param {Uint8Array} bytes @param {Reading} reading With a `pictureSize`.
 * @returns {Promise<import("./resampling.js").Raster>}
 */
export async function readPicture(bytes, reading) {
  const { raster } = await decode(bytes, reading);
  return /** @type {NonNullable<typeof raster>} */ (raster);
}

/** @param {Uint8Array} bytes @param {Reading} reading @returns {Promise<Decoded>} */
async function decode(bytes, reading) {
  const [png, jpeg] = [PNG, JPEG].map((signature) => signature.every((byte, i) => bytes[i] === byte));
  if (!png && !jpeg) {
    if (String.fromCharCode(...bytes.subarray(128, 132)) === "DICM") return readDicom(bytes, reading);
    throw new RadiographError(whyNotDicom(bytes.subarray(0, 132)));
  }
  const picture = png ? await readPng(bytes) : await readJpeg(bytes);
  const { height, width, bits } = picture;
  let grey = greyOf(picture);
  const brightest = grey.reduce((best, value) => Math.max(best, value), 0);
  const { voi, valueRange } = reading;
  const underfilled = bits === 16 && !valueRange && voi !== "percentile" && brightest < UNDERFILLED_BELOW;
  if (valueRange) {
    const white = 2 ** bits - 1;
    const stored = (/** @type {number} */ value) => (picture.channels === 1 ? Math.round(value * white) : value * white);
    grey = grey.map((value) => stretch(stored(value), ...valueRange));
  }
  const raster = { height, width, samples: grey, table: null };
  if (voi === "percentile") {
    const limits = percentileLimits(raster);
    raster.samples = grey.map((value) => stretch(value, ...limits));
  }
  return { height, width, isDicom: false, underfilled, raster, warnings: isColoured(picture) ? ["in colour"] : [] };
}

/** Colour becomes luminance; equal channels stay what they are; transparency is over black. */
function greyOf(/** @type {import("./png.js").Picture} */ { height, width, channels, bits, samples }) {
  const white = 2 ** bits - 1;
  if (channels === 1) return new Float32Array(samples).map((value) => value / white);
  const grey = new Float32Array(height * width);
  const colours = channels < 3 ? 1 : 3;
  let neutral = true;
  for (let i = 0; neutral && colours === 3 && i < grey.length; i++) {
    const at = i * channels;
    neutral = samples[at] === samples[at + 1] && samples[at] === samples[at + 2];
  }
  for (let i = 0; i < grey.length; i++) {
    const at = i * channels;
    const alpha = channels > colours ? samples[at + colours] / white : 1;
    const value = neutral
      ? samples[at]
      : LUMA[0] * samples[at] + LUMA[1] * samples[at + 1] + LUMA[2] * samples[at + 2];
    grey[i] = Math.min(1, (value / white) * alpha);
  }
  return grey;
}

/** Whether channels differ on average; JPEG compression of grey does not count. */
function isColoured(/** @type {import("./png.js").Picture} */ { height, width, channels, samples }) {
  if (channels < 3) return false;
  const means = [0, 1, 2].map((channel) => {
    const plane = new Uint8Array(height * width).map((_, i) => samples[i * channels + channel]);
    return ontoSquareOf(plane, height, width);
  });
  const spread = means[0].map((value, i) => {
    const [red, green, blue] = [value, means[1][i], means[2][i]];
    return Math.max(red, green, blue) - Math.min(red, green, blue);
  });
  return spread.reduce((sum, value) => sum + value, 0) / spread.length > COLOUR;
}

/** @param {Uint8Array} plane @param {number} height @param {number} width @returns {Float32Array} */
function ontoSquareOf(plane, height, width) {
  const table = Float32Array.from({ length: 256 }, (_, i) => i / 255);
  return ontoSquare({ height, width, samples: plane, table }, 64, "squash");
}

/** @param {Uint8Array} head The first bytes of a file that is not PNG, JPEG or DICOM. @returns {string} */
export function whyNotDicom(head) {
  if (!head.length) return "The file is empty. Copy or download it again.";
  const start = String.fromCharCode(...head);
  if (/^\s*<(!doctype html|html)/i.test(start)) {
    return "The file is an HTML page, not a radiograph: the download failed. Download it again.";
  }
  const kind = OTHER_KINDS.find(([signature]) => start.startsWith(signature))?.[1];
  if (kind) return `The file must be DICOM, PNG or JPEG; it is a ${kind} file. Convert it, or leave it out.`;
  if ((head[0] === 2 || head[0] === 8) && head[1] === 0 && head[3] === 0) {
    return 'The file has no DICOM preamble (128 bytes and "DICM"). Export it again.';
  }
  if (head.every((byte) => byte >= 32 || [9, 10, 12, 13].includes(byte))) {
    return "The file must be DICOM, PNG or JPEG; it is a text file. Leave it out.";
  }
  return "The file is not DICOM, PNG or JPEG, or is damaged. Download or export it again, or leave it out.";
}
