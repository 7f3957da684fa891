/** What the headers of compressed images declare, as in `mlcak_hf/radiographs/dicom/codestream.py`. */

/**
 * @typedef {object} FrameHeader
 * @property {"JPEG" | "JPEG Lossless" | "JPEG-LS" | "JPEG 2000"} coding
 * @property {number} at Where the frame header begins.
 * @property {number} rows
 * @property {number} columns
 * @property {number} components
 * @property {number} precision Bits per sample.
 * @property {number} tiles
 * @property {boolean} signed
 * @property {number} levels Wavelet levels that reduced decoding can leave out.
 * @property {boolean} reversible Whether it is the 5/3 transform.
 * @property {boolean} clipped Whether the decoder clips low-pass samples to the range of the stored values.
 */

/** @type {Record<number, FrameHeader["coding"]>} */
const FRAMES = { 0xc0: "JPEG", 0xc1: "JPEG", 0xc3: "JPEG Lossless", 0xf7: "JPEG-LS" };
const NO_FRAME = [0xc4, 0xc8, 0xcc];
const [STYLE, COMPONENT_STYLE, TILE] = [0xff52, 0xff53, 0xff90];

/** Position of the byte that declares the depth, in a bare JPEG 2000 codestream. */
export const DEPTH_AT = 42;

/**
 * @param {Uint8Array} data @param {boolean} [progressive] Whether progressive JPEG counts; DICOM retired it.
 * @returns {FrameHeader | null} `null` for any other data, or if the headers are cut off.
 */
export function readFrameHeader(data, progressive = false) {
  return data[0] === 0xff && data[1] === 0xd8 ? jpeg(data, progressive) : jpeg2000(data);
}

/** @param {Uint8Array} data @param {boolean} progressive @returns {FrameHeader | null} */
function jpeg(data, progressive) {
  let at = 2;
  while (at + 10 <= data.length && data[at] === 0xff) {
    const marker = data[at + 1];
    const coding = FRAMES[marker] ?? (progressive && marker === 0xc2 ? "JPEG" : undefined);
    if (marker === 0xff) at += 1;
    else if (coding) {
      const [precision, rows, columns, components] = [data[at + 4], word(data, at + 5), word(data, at + 7), data[at + 9]];
      const whole = { tiles: 1, signed: false, levels: 0, reversible: false, clipped: true };
      return { coding, at, rows, columns, components, precision, ...whole };
    } else if ((marker >= 0xc0 && marker < 0xd0 && !NO_FRAME.includes(marker)) || marker === 0xda) return null;
    else at += 2 + word(data, at + 2);
  }
  return null;
}

/** @param {Uint8Array} data @returns {FrameHeader | null} */
function jpeg2000(data) {
  let start = 0;
  while (start < 4096 && !(data[start] === 0xff && data[start + 1] === 0x4f && word(data, start + 2) === 0xff51)) start++;
  if (start === 4096 || data.length < start + 43) return null;
  const view = new DataView(data.buffer, data.byteOffset + start);
  const [right, bottom, left, top, tileWidth, tileHeight, tileLeft, tileTop] = Array.from({ length: 8 }, (_, i) =>
    view.getUint32(8 + 4 * i),
  );
  const [components, depth, stepX, stepY] = [view.getUint16(40), ...data.subarray(start + 42, start + 45)];
  if (!(tileWidth && tileHeight && stepX && stepY)) return null;
  let [levels, reversible, at] = [0, false, start + 4 + word(data, start + 4)];
  for (let marker; (marker = word(data, at)) > 0xff00 && marker !== TILE && marker !== COMPONENT_STYLE; ) {
    if (marker === STYLE && data.length > at + 13) [levels, reversible] = [data[at + 9], data[at + 13] === 1];
    at += 2 + word(data, at + 2);
  }
  const plain = components === 1 && stepX === 1 && stepY === 1 && !(left || top || tileLeft || tileTop);
  if (word(data, at) !== TILE || !plain) levels = 0;
  const precision = (depth & 127) + 1;
  return {
    coding: "JPEG 2000",
    at: start,
    rows: Math.ceil(bottom / stepY) - Math.ceil(top / stepY),
    columns: Math.ceil(right / stepX) - Math.ceil(left / stepX),
    components,
    precision,
    tiles: Math.ceil((right - tileLeft) / tileWidth) * Math.ceil((bottom - tileTop) / tileHeight),
    signed: (depth & 128) > 0,
    levels,
    reversible,
    clipped: !(reversible && start === 0 && precision < 16),
  };
}

/** @param {Uint8Array} data @param {number} at @returns {number} */
function word(data, at) {
  return at + 1 < data.length ? (data[at] << 8) | data[at + 1] : 0;
}
