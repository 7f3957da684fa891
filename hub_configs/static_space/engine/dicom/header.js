/** DICOM header -> how the pixels are stored and what their values mean. Only single grayscale images. */
import dicomParser from "dicom-parser";
import { RadiographError } from "../errors.js";
import { MAX_PIXELS } from "../png.js";
import { findVoi, modalityValues, paddingValues } from "./lookup_tables.js";

/**
 * @typedef {object} Layout
 * @property {string} syntax
 * @property {number} rows
 * @property {number} columns
 * @property {number} bits
 * @property {number} allocatedBits
 * @property {boolean} signed
 * @property {boolean} inverted MONOCHROME1.
 */
/**
 * @typedef {object} Header
 * @property {Tags} tags
 * @property {Layout} layout
 * @property {Float64Array} values After the modality transform, of each possible stored value.
 * @property {[number, number]} range Smallest and largest value that the stored bits can express.
 * @property {Uint8Array | null} padded Which stored values are padding.
 * @property {import("./lookup_tables.js").View | null} view The file's VOI LUT or window.
 */

const [DEFLATED, BIG_ENDIAN] = ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"];
const MAX_INFLATED = 1_000_000_000;
const DAMAGED = "The file may be damaged or cut off, or not be a DICOM image. Download or export it again, or leave it out.";

/** Typed access to the elements of a data set. Only coded values are ever shown, never text that may name a patient. */
export class Tags {
  /** @param {any} dataset @param {boolean} [littleEndian] */
  constructor(dataset, littleEndian = true) {
    this.dataset = dataset;
    this.littleEndian = littleEndian;
  }

  /** @param {string} tag @returns {Uint8Array | null} */
  bytes(tag) {
    const element = this.dataset.elements[tag];
    if (!element || !element.length) return null;
    return this.dataset.byteArray.subarray(element.dataOffset, element.dataOffset + element.length);
  }

  /** 16-bit words, unsigned. @param {string} tag @returns {number[] | null} */
  words(tag) {
    const bytes = this.bytes(tag);
    if (bytes === null) return null;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return Array.from({ length: bytes.length >> 1 }, (_, i) => view.getUint16(2 * i, this.littleEndian));
  }

  /** @param {string} tag @returns {number | null} */
  word(tag) {
    return this.words(tag)?.[0] ?? null;
  }

  /** @param {string} tag @returns {string} Empty without a value. */
  text(tag) {
    return (this.dataset.string(tag) ?? "").trim();
  }

  /** The first number of a decimal or integer string. @param {string} tag @param {string} [remedy] @returns {number | null} */
  number(tag, remedy = "Export the file again.") {
    const first = this.text(tag).split("\\")[0].trim();
    if (first === "") return null;
    const value = Number(first);
    if (!Number.isFinite(value)) throw new RadiographError(`A value in the header is not a finite number. ${remedy}`);
    return value;
  }

  /** The first item of a sequence. @param {string} tag @returns {Tags | null} */
  item(tag) {
    const found = this.dataset.elements[tag]?.items?.[0]?.dataSet;
    return found ? new Tags(found, this.littleEndian) : null;
  }
}

/** @param {Uint8Array} bytes @returns {Promise<{tags: Tags, syntax: string}>} */
export async function readTags(bytes) {
  try {
    const meta = dicomParser.readPart10Header(bytes);
    const syntax = (meta.string("x00020010") ?? "").trim();
    if (!syntax) {
      const problem = "The Transfer Syntax UID is missing; the file may be cut off.";
      throw new RadiographError(`${problem} Download or export it again.`);
    }
    if (syntax === DEFLATED) {
      const inflated = await inflate(bytes.subarray(meta.position));
      const stream = new dicomParser.ByteStream(dicomParser.littleEndianByteArrayParser, inflated, 0);
      const dataset = new dicomParser.DataSet(stream.byteArrayParser, stream.byteArray, {});
      dicomParser.parseDicomDataSetExplicit(dataset, stream);
      return { tags: new Tags(dataset), syntax };
    }
    return { tags: new Tags(dicomParser.parseDicom(bytes), syntax !== BIG_ENDIAN), syntax };
  } catch (error) {
    if (error instanceof RadiographError) throw error;
    throw new RadiographError(`Cannot read the DICOM header. ${DAMAGED}`);
  }
}

/**
 * One padding byte after the end is allowed. Browsers take it for an error, and may lose what came before it.
 * @param {Uint8Array} deflated @returns {Promise<Uint8Array>}
 */
async function inflate(deflated) {
  try {
    return await inflateExactly(deflated);
  } catch (error) {
    if (error instanceof RadiographError || deflated.at(-1) !== 0) throw error;
    return inflateExactly(deflated.subarray(0, -1));
  }
}

/** @param {Uint8Array} deflated @returns {Promise<Uint8Array>} */
async function inflateExactly(deflated) {
  const stream = new Blob([/** @type {BlobPart} */ (deflated)]).stream();
  const reader = stream.pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  let total = 0;
  for (let next; !(next = await reader.read()).done; parts.push(next.value)) {
    total += next.value.length;
    if (total > MAX_INFLATED) {
      await reader.cancel();
      const most = MAX_INFLATED.toLocaleString("en");
      throw new RadiographError(`The file expands to more than ${most} bytes. Export the radiograph again.`);
    }
  }
  const found = new Uint8Array(total);
  let at = 0;
  for (const part of parts) {
    found.set(part, at);
    at += part.length;
  }
  return found;
}

/** @param {Tags} tags @param {string} syntax @param {string} voi @returns {Header} */
export function readHeader(tags, syntax, voi) {
  const layout = checkLayout(tags, syntax);
  const codes = 2 ** layout.bits;
  const stored = new Int32Array(codes).map((_, code) =>
    layout.signed && code >= codes / 2 ? code - codes : code,
  );
  const { values, range } = modalityValues(tags, stored);
  const padded = paddingValues(tags, stored, layout.signed);
  return { tags, layout, values, range, padded, view: voi === "dicom" ? findVoi(tags) : null };
}

/** @param {Tags} tags @param {string} syntax @returns {Layout} */
function checkLayout(tags, syntax) {
  const pixelData = tags.dataset.elements.x7fe00010;
  if (!pixelData || !(pixelData.length || pixelData.fragments?.length)) {
    const kind = tags.dataset.elements.x7fe00008 || tags.dataset.elements.x7fe00009 ? "floating-point" : "no";
    throw new RadiographError(`Pixels of 8 to 16 bits are needed; the file has ${kind} pixel data. Export it again.`);
  }
  /** @param {string} tag @param {string} name @returns {number} */
  const needed = (tag, name) => {
    const value = tags.word(tag);
    if (value === null) throw new RadiographError(`${name} is missing and cannot be guessed. Export the file again.`);
    return value;
  };
  const samples = needed("x00280002", "SamplesPerPixel");
  const [rows, columns] = [needed("x00280010", "Rows"), needed("x00280011", "Columns")];
  const [allocatedBits, bits] = [needed("x00280100", "BitsAllocated"), needed("x00280101", "BitsStored")];
  const representation = needed("x00280103", "PixelRepresentation");
  const frames = tags.number("x00280008") ?? 1;
  if (frames !== 1) {
    const problem = `A radiograph must have one frame; Number of Frames is ${frames}`;
    throw new RadiographError(`${problem}. Export a single frame.`);
  }
  const photometric = tags.text("x00280004");
  if (samples !== 1 || !["MONOCHROME1", "MONOCHROME2"].includes(photometric)) {
    const problem = `It is a colour or palette image (${samples} samples per pixel)`;
    const remedy = "Export the original MONOCHROME1 or MONOCHROME2 radiograph, not a screen capture.";
    throw new RadiographError(`${problem}. ${remedy}`);
  }
  if (!(rows * columns > 0 && rows * columns <= MAX_PIXELS)) {
    const [most, size] = [MAX_PIXELS.toLocaleString("en"), `${rows} x ${columns}`];
    throw new RadiographError(`The image must have 1 to ${most} pixels; the file declares ${size}. Reduce it.`);
  }
  const highBit = tags.word("x00280102") ?? bits - 1;
  const whole = [8, 16].includes(allocatedBits) && bits > 1 && bits <= allocatedBits;
  if (!whole || highBit !== bits - 1 || representation > 1) {
    const declared = `Bits Allocated ${allocatedBits}, Bits Stored ${bits}, High Bit ${highBit} and Pixel Representation`;
    const problem = `${declared} ${representation} do not describe pixels of 8 to 16 bits`;
    throw new RadiographError(`${problem}. Export the file again.`);
  }
  const inverted = photometric === "MONOCHROME1";
  return { syntax, rows, columns, bits, allocatedBits, signed: representation === 1, inverted };
}
