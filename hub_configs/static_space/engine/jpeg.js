/** JPEG -> samples, with the browser's own decoder: its pixels equal Pillow's. */
import { readFrameHeader } from "./dicom/codestream.js";
import { RadiographError } from "./errors.js";
import { checkPixels } from "./png.js";

const DAMAGED = "Cannot read this JPEG: the file may be damaged or cut off. Copy or download it again, or leave it out.";

/**
 * Read a JPEG file, upright according to its orientation tag.
 * @param {Uint8Array} bytes @returns {Promise<import("./png.js").Picture>}
 */
export async function readJpeg(bytes) {
  const header = readFrameHeader(bytes, true);
  if (header === null) throw new RadiographError(DAMAGED);
  checkPixels(header.rows, header.columns);
  if (![1, 3].includes(header.components)) {
    const found = `this JPEG has ${header.components} channels`;
    throw new RadiographError(`A radiograph must be grey or RGB; ${found}. Export the original again.`);
  }
  if (!isComplete(bytes, header.at)) throw new RadiographError(DAMAGED);
  const { width, height, data } = await decodeWithBrowser(bytes);
  const samples = new Uint8Array(width * height * header.components);
  if (header.components === 1) samples.forEach((_, i) => (samples[i] = data[4 * i]));
  else for (let i = 0; i < width * height; i++) samples.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
  return { height, width, channels: header.components, bits: 8, samples };
}

/**
 * Browsers fill what a cut-off file lacks with grey, so look for the end after the frame header. A thumbnail before it
 * has an end of its own.
 * @param {Uint8Array} bytes @param {number} from @returns {boolean}
 */
function isComplete(bytes, from) {
  for (let at = bytes.length - 2; at >= from; at--) if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return true;
  return false;
}

/** @param {Uint8Array} bytes @returns {Promise<ImageData>} RGBA. */
export async function decodeWithBrowser(bytes) {
  let bitmap;
  try {
    const blob = new Blob([/** @type {BlobPart} */ (bytes)], { type: "image/jpeg" });
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new RadiographError(DAMAGED);
  }
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  if (context === null) throw new RadiographError("The browser has no memory left for this image. Close other tabs.");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, context.canvas.width, context.canvas.height);
}
