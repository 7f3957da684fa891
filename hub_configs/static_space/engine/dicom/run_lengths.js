/** RLE Lossless (PS3.5 annex G): each byte of the pixels is a separate plane, packed in runs. */
import { RadiographError } from "../errors.js";

const REMEDY = "Download or export the file again.";

/**
 * @param {Uint8Array} frame @param {number} pixels @param {number} bytesPerPixel 1 or 2.
 * @returns {Uint16Array} The bits of the pixels.
 */
export function decodeRunLengths(frame, pixels, bytesPerPixel) {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const count = frame.length >= 64 ? view.getUint32(0, true) : 0;
  const edges = Array.from({ length: bytesPerPixel }, (_, i) => (count ? view.getUint32(4 + 4 * i, true) : 0));
  edges.push(frame.length);
  if (count !== bytesPerPixel || edges[0] < 64 || edges.some((edge, i) => i > 0 && edge <= edges[i - 1])) {
    throw new RadiographError(`The RLE segment table (of ${count} segments) does not match the pixels. ${REMEDY}`);
  }
  const image = new Uint16Array(pixels);
  for (let segment = 0; segment < bytesPerPixel; segment++) {
    const done = unpack(frame, edges[segment], edges[segment + 1], image);
    if (done < pixels) throw new RadiographError(`The RLE data ends after ${done} of ${pixels} pixels. ${REMEDY}`);
  }
  return image;
}

/** @param {Uint8Array} frame @param {number} at @param {number} end @param {Uint16Array} image @returns {number} */
function unpack(frame, at, end, image) {
  let done = 0;
  while (at < end && done < image.length) {
    const control = frame[at];
    if (control === 128) {
      at += 1;
      continue;
    }
    const literal = control < 128;
    const count = Math.min(literal ? control + 1 : 257 - control, image.length - done);
    for (let i = 0; i < count; i++, done++) {
      const from = literal ? at + 1 + i : at + 1;
      if (from >= end) return done;
      image[done] = (image[done] << 8) | frame[from];
    }
    at += literal ? 2 + control : 2;
  }
  return done;
}
