/** Stored values -> grey values, as in `mlcak_hf/radiographs/dicom/lookup_tables.py`. */
import { RadiographError } from "../errors.js";

/** @typedef {import("./header.js").Tags} Tags */
/**
 * A window or look-up table: what it makes of values, and the values that become 0 and 1 if it is linear between them.
 * @typedef {{apply: (values: Float64Array) => Float64Array, limits: [number, number] | null}} View
 */

const REMEDY = "Choose another range of grey values in the settings.";

/**
 * Apply the modality transform to every value that a pixel can hold.
 * @param {Tags} tags @param {Int32Array} stored
 * @returns {{values: Float64Array, range: [number, number]}} Also the range that the stored bits can express.
 */
export function modalityValues(tags, stored) {
  const item = tags.item("x00283000");
  if (item) {
    const table = lookupTable(item, "Modality LUT");
    return { values: table.entriesAt(Float64Array.from(stored)), range: [0, table.largest] };
  }
  const [slope, intercept] = [tags.number("x00281053"), tags.number("x00281052")];
  if ((slope === null) !== (intercept === null)) {
    throw new RadiographError("The file has only one of Rescale Slope and Intercept. Export it with both or neither.");
  }
  const values = new Float64Array(stored).map((value) => (slope === null ? value : value * slope + Number(intercept)));
  const low = values.reduce((best, value) => Math.min(best, value));
  const high = values.reduce((best, value) => Math.max(best, value));
  if (!(Number.isFinite(low) && Number.isFinite(high) && high > low)) {
    throw new RadiographError("Rescale Slope and Intercept leave no grey values. Export the file again.");
  }
  return { values, range: [low, high] };
}

/**
 * Which stored values are padding; `null` if the file declares none.
 * @param {Tags} tags @param {Int32Array} stored @param {boolean} signed @returns {Uint8Array | null}
 */
export function paddingValues(tags, stored, signed) {
  const value = tags.word("x00280120");
  if (value === null) return null;
  const ends = [value, tags.word("x00280121") ?? value].map((end) => asWord(end, signed)).sort((a, b) => a - b);
  const padded = new Uint8Array(stored.length);
  stored.forEach((code, i) => (padded[i] = Number(code >= ends[0] && code <= ends[1])));
  return padded;
}

/** The file's first VOI LUT or window; a LUT is preferred. @param {Tags} tags @returns {View | null} */
export function findVoi(tags) {
  const item = tags.item("x00283010");
  if (item) {
    const table = lookupTable(item, "VOI LUT");
    return { apply: (values) => table.entriesAt(values).map((entry) => entry / table.largest), limits: null };
  }
  const [center, width] = [tags.number("x00281050", REMEDY), tags.number("x00281051", REMEDY)];
  const name = (tags.text("x00281056") || "LINEAR").toUpperCase();
  if (center === null && width === null) return null;
  if (center === null || width === null) fail("The file has only one of Window Center and Window Width.");
  if (!["LINEAR", "LINEAR_EXACT", "SIGMOID"].includes(name)) {
    fail("The VOI LUT Function must be LINEAR, LINEAR_EXACT or SIGMOID.");
  }
  if (width <= 0 || (name === "LINEAR" && width < 1)) {
    fail(`Window Width is ${width}; ${name} needs ${name === "LINEAR" ? "at least 1" : "more than 0"}.`);
  }
  return window(center, width, name);
}

/** @param {string} problem @returns {never} */
function fail(problem) {
  throw new RadiographError(`${problem} ${REMEDY}`);
}

/** PS3.3 C.11.2.1.2 and C.11.2.1.3. @param {number} center @param {number} width @param {string} name @returns {View} */
function window(center, width, name) {
  if (name === "SIGMOID") {
    const power = (/** @type {number} */ value) => Math.min(350, Math.max(-350, (-4 * (value - center)) / width));
    return { apply: (values) => values.map((value) => 1 / (1 + Math.exp(power(value)))), limits: null };
  }
  if (name === "LINEAR") [center, width] = [center - 0.5, width - 1];
  if (width === 0) return { apply: (values) => values.map((value) => Number(value > center)), limits: null };
  const limits = /** @type {[number, number]} */ ([center - width / 2, center + width / 2]);
  return { apply: (values) => values.map((value) => (value - center) / width + 0.5), limits };
}

/**
 * A look-up table (PS3.3 C.11.1.1 and C.11.2.1.1). Many writers declare 16 bits whatever the entries use, so the largest
 * entry decides where the range ends. Values outside the table get its first or last entry.
 * @param {Tags} item @param {string} what
 */
function lookupTable(item, what) {
  const [descriptor, data] = [item.words("x00283002"), item.bytes("x00283006")];
  if (descriptor === null || descriptor.length !== 3 || data === null) {
    return fail(`The ${what} has no complete LUT Descriptor and LUT Data.`);
  }
  const [count, first, bits] = [descriptor[0] || 65536, descriptor[1], descriptor[2]];
  const words = data.length >= 2 * count ? item.words("x00283006") : null;
  const entries = Float64Array.from((words ?? data).slice(0, count));
  const most = entries.reduce((best, entry) => Math.max(best, entry), 0);
  if (bits < 8 || bits > 16 || entries.length !== count || most >= 2 ** bits) {
    return fail(`The ${what} declares ${count} entries of ${bits} bits, but its data does not match.`);
  }
  if (most === 0) return fail(`The ${what} maps every value to 0, which leaves no grey values.`);
  /** @param {Float64Array} values @returns {Float64Array} */
  const entriesAt = (values) => {
    const start = asWord(first, values.some((value) => value < 0));
    return values.map((value) => entries[Math.min(count - 1, Math.max(0, Math.floor(value) - start))]);
  };
  return { entriesAt, largest: 2 ** (32 - Math.clz32(most)) - 1 };
}

/** A 16-bit word, which a writer may have stored with the wrong sign. @param {number} value @param {boolean} signed */
function asWord(value, signed) {
  const word = ((value % 65536) + 65536) % 65536;
  return signed && word >= 32768 ? word - 65536 : word;
}
