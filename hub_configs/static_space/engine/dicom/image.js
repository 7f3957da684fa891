/** DICOM file -> grey values, 0 = dark (air), as in `mlcak_hf/radiographs/dicom/image.py`. */
import { percentileLimits, UNDERFILLED_BELOW } from "../grey_values.js";
import { lowPassPicture, readReduced } from "./reduced.js";
import { readHeader, readTags } from "./header.js";
import { decodePixels, REDUCIBLE } from "./pixels.js";

/** @typedef {import("./header.js").Header} Header */
/** @typedef {import("../read.js").Reading} Reading */

const EXPECTED = /** @type {[string, string, string[]][]} */ ([
  ["Modality", "x00080060", ["CR", "DX", "DR", "RG"]],
  ["BodyPartExamined", "x00180015", ["CHEST", "THORAX", "PORTCHEST", "PORT CHEST", "LUNG"]],
  ["ViewPosition", "x00185101", ["PA", "AP"]],
]);

/**
 * @param {Uint8Array} bytes @param {Reading} reading
 * @returns {Promise<import("../read.js").Decoded>}
 */
export async function readDicom(bytes, reading) {
  const { tags, syntax } = await readTags(bytes);
  const header = readHeader(tags, syntax, reading.voi);
  const { rows: height, columns: width } = header.layout;
  const facts = { height, width, isDicom: true, warnings: headerWarnings(tags) };
  const reducible = REDUCIBLE.includes(syntax);
  if (reducible && reading.pictureSize) {
    const picture = await lowPassPicture(header, reading.pictureSize, reading);
    if (picture) return { ...facts, raster: picture, underfilled: false };
  }
  const reduced = reducible && !reading.pictureSize ? await readReduced(header, reading) : null;
  if (reduced) {
    return { ...facts, square: reduced.square, underfilled: isUnderfilled(header, null, reduced.largest, reading) };
  }
  const codes = await decodePixels(header);
  const raster = { height, width, samples: codes, table: greyTable(header, codes, reading) };
  return { ...facts, raster, underfilled: isUnderfilled(header, codes, 0, reading) };
}

/** Grey value of each stored value. @param {Header} header @param {Uint16Array} codes @param {Reading} reading */
function greyTable({ layout, values, range, padded, view }, codes, { voi, valueRange }) {
  let [low, high] = valueRange ?? range;
  if (voi === "percentile") {
    const image = { height: layout.rows, width: layout.columns, samples: codes, table: Float32Array.from(values) };
    [low, high] = percentileLimits(image, padded && Float32Array.from(padded, (is) => 1 - is));
  }
  const grey = view === null ? values.map((value) => (value - low) / (high - low)) : view.apply(values);
  const table = new Float32Array(grey.length);
  grey.forEach((value, code) => {
    const clipped = Math.min(1, Math.max(0, value));
    table[code] = padded?.[code] ? 0 : layout.inverted ? 1 - clipped : clipped;
  });
  return table;
}

/**
 * Whether few of the stored bits are used though they set the limits.
 * @param {Header} header @param {Uint16Array | null} codes @param {number} magnitude The largest, without codes.
 * @param {Reading} reading @returns {boolean}
 */
function isUnderfilled({ tags, layout, padded, view }, codes, magnitude, { voi, valueRange }) {
  const { bits, signed } = layout;
  if (bits <= 12 || voi === "percentile" || view !== null || valueRange || tags.item("x00283000")) return false;
  codes?.forEach((code) => {
    if (padded?.[code]) return;
    magnitude = Math.max(magnitude, signed && code >= 2 ** (bits - 1) ? 2 ** bits - code : code);
  });
  return magnitude < 2 ** bits * UNDERFILLED_BELOW;
}

/** What is unusual about the header; only coded values are shown. @param {import("./header.js").Tags} tags */
function headerWarnings(tags) {
  return EXPECTED.flatMap(([keyword, tag, expected]) => {
    const value = tags.text(tag).toUpperCase();
    if (!value || expected.includes(value)) return [];
    const shown = /^[\p{L}\p{N}]+$/u.test(value.replaceAll(/[_ ]/g, "")) && value.length <= 16 ? value : "another value";
    return [`not a frontal chest radiograph by its header (${keyword} ${shown})`];
  });
}
