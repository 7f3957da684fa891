/** Pixel Data -> stored values, with the checks of `mlcak_hf/radiographs/dicom/pixels.py`. */
import { RadiographError } from "../errors.js";
import { decodeJpeg2000, decodeJpegBaseline, decodeJpegLossless, decodeJpegLs } from "./codecs.js";
import { readFrameHeader } from "./codestream.js";
import { decodeRunLengths } from "./run_lengths.js";

/** @typedef {import("./header.js").Header} Header */
/** @typedef {import("./header.js").Layout} Layout */
/** @typedef {import("./codestream.js").FrameHeader} FrameHeader */

const ROOT = "1.2.840.10008.1.2";
/** @type {Record<string, [string, string, boolean]>} Name, coding, and whether it is lossy, by UID. */
const SYNTAXES = {
  [ROOT]: ["Implicit VR Little Endian", "plain", false],
  [`${ROOT}.1`]: ["Explicit VR Little Endian", "plain", false],
  [`${ROOT}.2`]: ["Explicit VR Big Endian", "plain", false],
  [`${ROOT}.1.99`]: ["Deflated Explicit VR Little Endian", "plain", false],
  [`${ROOT}.5`]: ["RLE Lossless", "run lengths", false],
  [`${ROOT}.4.50`]: ["JPEG Baseline", "JPEG", true],
  [`${ROOT}.4.51`]: ["JPEG Extended", "JPEG", true],
  [`${ROOT}.4.57`]: ["JPEG Lossless", "JPEG Lossless", false],
  [`${ROOT}.4.70`]: ["JPEG Lossless", "JPEG Lossless", false],
  [`${ROOT}.4.80`]: ["JPEG-LS Lossless", "JPEG-LS", false],
  [`${ROOT}.4.81`]: ["JPEG-LS Near-lossless", "JPEG-LS", true],
  [`${ROOT}.4.90`]: ["JPEG 2000 Lossless", "JPEG 2000", false],
  [`${ROOT}.4.91`]: ["JPEG 2000", "JPEG 2000", true],
  [`${ROOT}.4.201`]: ["High-Throughput JPEG 2000 Lossless", "JPEG 2000", false],
  [`${ROOT}.4.202`]: ["High-Throughput JPEG 2000 Lossless", "JPEG 2000", false],
  [`${ROOT}.4.203`]: ["High-Throughput JPEG 2000", "JPEG 2000", true],
};
export const REDUCIBLE = [`${ROOT}.4.90`, `${ROOT}.4.91`];

const [MAX_COMPRESSION, SMALL_PIXELS, MAX_TILES, LOSSY_MARGIN] = [2000, 4_000_000, 10_000, 32];
const REMEDY = "Download or export the file again.";

/** @param {Header} header @returns {Promise<Uint16Array>} The lowest `bits` bits of each pixel. */
export async function decodePixels(header) {
  const { layout } = header;
  const used = 2 ** layout.bits - 1;
  const [name, coding] = SYNTAXES[layout.syntax] ?? ["of an unknown transfer syntax", ""];
  if (!coding) {
    throw new RadiographError(`Files ${name} cannot be read. Convert the file to Explicit VR Little Endian.`);
  }
  if (coding === "plain") return plainPixels(header).map((value) => value & used);
  if (coding === "run lengths") {
    const frame = firstFrame(header);
    const pixels = decodeRunLengths(frame, layout.rows * layout.columns, layout.allocatedBits / 8);
    return pixels.map((value) => value & used);
  }
  const { frame, declared } = checkedFrame(header);
  if (coding === "JPEG" && declared.precision !== 8) {
    const problem = `JPEG of ${declared.precision} bits cannot be read in a browser`;
    throw new RadiographError(`${problem}. Convert the file to Explicit VR Little Endian.`);
  }
  return storedBits(await decoded(coding, frame, declared, name), declared.precision, layout);
}

/** @param {string} coding @param {Uint8Array} frame @param {FrameHeader} declared @param {string} name */
async function decoded(coding, frame, declared, name) {
  let found;
  try {
    if (coding === "JPEG Lossless") return decodeJpegLossless(frame, declared.precision);
    const decode = { JPEG: decodeJpegBaseline, "JPEG-LS": decodeJpegLs, "JPEG 2000": decodeJpeg2000 }[coding];
    found = await /** @type {typeof decodeJpegLs} */ (decode)(frame);
  } catch {
    throw new RadiographError(`Cannot decode the pixels (${name}). The file may be damaged or cut off. ${REMEDY}`);
  }
  if (found.rows !== declared.rows || found.columns !== declared.columns) {
    const [size, made] = [`${declared.rows} x ${declared.columns}`, `${found.rows} x ${found.columns}`];
    throw new RadiographError(`The pixels must have shape ${size}; got ${made}. Export the file again.`);
  }
  return found.samples;
}

/** The compressed image, checked against the header before decoding. @param {Header} header */
export function checkedFrame(header) {
  const { layout } = header;
  const [frame, declared] = [firstFrame(header), readFrameHeader(firstFrame(header))];
  const [name, coding] = SYNTAXES[layout.syntax];
  if (declared === null || declared.coding !== coding) {
    const found = declared === null ? "unreadable" : declared.coding;
    throw new RadiographError(`The compressed data must be ${name}, as the header declares; it is ${found}. ${REMEDY}`);
  }
  const problem = contradiction(frame, declared, layout);
  if (problem !== null) throw new RadiographError(`${problem}. ${REMEDY}`);
  return { frame, declared };
}

/** @param {Uint8Array} frame @param {FrameHeader} declared @param {Layout} layout @returns {string | null} */
function contradiction(frame, declared, layout) {
  const [size, expected] = [`${declared.rows} x ${declared.columns}`, `${layout.rows} x ${layout.columns}`];
  if (size !== expected) return `The header declares ${expected} pixels, the compressed data ${size}`;
  const { components, precision, tiles } = declared;
  if (components !== 1 || precision < 2 || precision > 16) {
    return `One component of 2 to 16 bits is needed; got ${components} component(s) of ${precision}`;
  }
  if (tiles < 1 || tiles > MAX_TILES) return `The image must have at most ${MAX_TILES} tiles; got ${tiles}`;
  if (precision < layout.bits) return `The header declares ${layout.bits} bits stored, the compressed data ${precision}`;
  if (declared.coding === "JPEG" && layout.signed) return "DICOM does not allow lossy JPEG of signed pixels (PS3.5 8.2.1)";
  const tail = frame.subarray(-64);
  const ends = tail.some((byte, i) => byte === 0xff && tail[i + 1] === 0xd9);
  return ends ? null : "The compressed data is cut off";
}

/** @param {Header} header @returns {Uint8Array} */
function firstFrame({ tags, layout }) {
  const { fragments } = tags.dataset.elements.x7fe00010;
  if (!fragments?.length) throw new RadiographError(`The file has no compressed frame. ${REMEDY}`);
  const parts = fragments.map((/** @type {{position: number, length: number}} */ { position, length }) =>
    tags.dataset.byteArray.subarray(position, position + length),
  );
  const frame = parts.length === 1 ? parts[0] : concatenated(parts);
  const pixels = layout.rows * layout.columns;
  if (pixels > SMALL_PIXELS && pixels > MAX_COMPRESSION * frame.length) {
    const [bytes, size] = [frame.length.toLocaleString("en"), `${layout.rows} x ${layout.columns}`];
    throw new RadiographError(`${bytes} compressed bytes cannot hold a radiograph of ${size} pixels. ${REMEDY}`);
  }
  return frame;
}

/** @param {Uint8Array[]} parts @returns {Uint8Array} */
function concatenated(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}

/** @param {Header} header @returns {Uint16Array} */
function plainPixels({ tags, layout }) {
  const element = tags.dataset.elements.x7fe00010;
  const data = tags.bytes("x7fe00010") ?? new Uint8Array(0);
  const row = (layout.columns * layout.allocatedBits) / 8;
  const needed = layout.rows * row;
  // Some writers pad the end of the file; a whole spare row means that Rows or Columns are wrong.
  if (data.length < needed || data.length >= needed + Math.max(2, row)) {
    const pixels = `${layout.rows} x ${layout.columns} pixels of ${layout.allocatedBits} bits`;
    const [due, given] = [needed.toLocaleString("en"), data.length.toLocaleString("en")];
    throw new RadiographError(`${pixels} are ${due} bytes; got ${given} bytes. The file may be cut off. ${REMEDY}`);
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const pixels = new Uint16Array(layout.rows * layout.columns);
  const little = tags.littleEndian;
  if (layout.allocatedBits === 16) return pixels.map((_, i) => view.getUint16(2 * i, little));
  // Big-endian words swap each pair of bytes.
  const swap = !little && element.vr === "OW" ? 1 : 0;
  return pixels.map((_, i) => data[i ^ swap]);
}

/**
 * Values of a codestream -> the lowest bits of each pixel. Only the header says whether pixels are signed, so values are
 * taken as bit patterns. A value beyond Bits Stored means that the header is wrong.
 * @param {import("./codecs.js").Samples} values @param {number} precision @param {Layout} layout @returns {Uint16Array}
 */
function storedBits(values, precision, layout) {
  const { bits, signed, rows, columns } = layout;
  const [mask, sign] = [2 ** precision - 1, 2 ** (precision - 1)];
  const low = signed ? -(2 ** (bits - 1)) : 0;
  const high = low + 2 ** bits - 1;
  // Lossy compression overshoots at sharp edges.
  const margin = SYNTAXES[layout.syntax][2] ? 2 ** bits / LOSSY_MARGIN : 0;
  const used = 2 ** bits - 1;
  const found = new Uint16Array(rows * columns);
  for (let i = 0; i < found.length; i++) {
    let value = values[i] & mask;
    if (signed) value = (value ^ sign) - sign;
    if (value < low - margin || value > high + margin || i >= values.length) {
      const problem = `The pixels do not fit into the ${bits} bits that Bits Stored declares`;
      throw new RadiographError(`${problem}. ${REMEDY}`);
    }
    found[i] = Math.min(high, Math.max(low, value)) & used;
  }
  return found;
}
