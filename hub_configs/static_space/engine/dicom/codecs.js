/** The decoders of compressed pixels, which are WebAssembly and JavaScript of other projects. */
import createCharLS from "@cornerstonejs/codec-charls/decodewasmjs";
import createOpenJPEG from "@cornerstonejs/codec-openjpeg/decodewasmjs";
import { Decoder as LosslessDecoder } from "jpeg-lossless-decoder-js";
import { decodeWithBrowser } from "../jpeg.js";

/** @typedef {Uint8Array | Int8Array | Uint16Array | Int16Array} Samples */

/** @type {Record<string, ArrayBuffer>} */
const binaries = {};
/** @type {Record<string, Promise<any>>} */
const modules = {};

/** @param {ArrayBuffer} openjpeg @param {ArrayBuffer} charls The WebAssembly of both. */
export function setCodecs(openjpeg, charls) {
  Object.assign(binaries, { openjpeg, charls });
}

/** @param {string} name @param {(options: object) => Promise<any>} create */
function loaded(name, create) {
  const quiet = { print: () => {}, printErr: () => {} };
  return (modules[name] ??= create({ wasmBinary: binaries[name], ...quiet }));
}

/**
 * @param {Uint8Array} frame @param {number} [reduction] Wavelet levels to leave out.
 * @returns {Promise<{samples: Samples, rows: number, columns: number}>}
 */
export async function decodeJpeg2000(frame, reduction = 0) {
  const module = await loaded("openjpeg", createOpenJPEG);
  return withDecoder("openjpeg", () => new module.J2KDecoder(), frame, (decoder) => {
    if (reduction) decoder.decodeSubResolution(reduction, 0);
    else decoder.decode();
  }, reduction);
}

/** @param {Uint8Array} frame @returns {Promise<{samples: Samples, rows: number, columns: number}>} */
export async function decodeJpegLs(frame) {
  const module = await loaded("charls", createCharLS);
  return withDecoder("charls", () => new module.JpegLSDecoder(), frame, (decoder) => decoder.decode());
}

/**
 * @param {string} name @param {() => any} make @param {Uint8Array} frame @param {(decoder: any) => void} decode
 * @param {number} [reduction]
 */
function withDecoder(name, make, frame, decode, reduction = 0) {
  let decoder;
  try {
    decoder = make();
    decoder.getEncodedBuffer(frame.length).set(frame);
    decode(decoder);
    const { width, height, bitsPerSample, isSigned } = decoder.getFrameInfo();
    const rows = Math.ceil(height / 2 ** reduction);
    const columns = Math.ceil(width / 2 ** reduction);
    // A copy: the decoder's own memory is freed.
    const bytes = new Uint8Array(decoder.getDecodedBuffer()).slice().buffer;
    const [Narrow, Wide] = isSigned ? [Int8Array, Int16Array] : [Uint8Array, Uint16Array];
    return { samples: bitsPerSample > 8 ? new Wide(bytes) : new Narrow(bytes), rows, columns };
  } catch (error) {
    delete modules[name]; // a decoder that failed may have damaged its memory
    decoder = null;
    throw error;
  } finally {
    decoder?.delete();
  }
}

/** @param {Uint8Array} frame @param {number} precision @returns {Samples} */
export function decodeJpegLossless(frame, precision) {
  const { buffer, byteOffset, byteLength } = frame;
  const bytes = new LosslessDecoder().decompress(buffer, byteOffset, byteLength);
  return precision > 8 ? new Uint16Array(bytes) : new Uint8Array(bytes);
}

/** @param {Uint8Array} frame @returns {Promise<{samples: Samples, rows: number, columns: number}>} */
export async function decodeJpegBaseline(frame) {
  const { data, height, width } = await decodeWithBrowser(frame);
  return { samples: new Uint8Array(height * width).map((_, i) => data[4 * i]), rows: height, columns: width };
}
