/** Limits of grey values, as in `mlcak_hf/radiographs/grey_values.py`. */
import { RadiographError } from "./errors.js";
import { areaOverlaps, lastOf, resample, sampleEdges } from "./resampling.js";

/** @typedef {import("./resampling.js").Raster} Raster */
/** @typedef {import("./resampling.js").Edges} Edges */

const REFERENCE_PX = 256;
export const PERCENTILES = [1, 99];

/** Share of the stored range below which an image is underfilled: at most 13 of 16 bits are used. */
export const UNDERFILLED_BELOW = 1 / 8;

/**
 * Percentiles with linear interpolation, as numpy's default.
 * @param {ArrayLike<number>} values @param {number[]} shares In percent. @returns {number[]}
 */
export function percentiles(values, shares) {
  const sorted = Float64Array.from(values).sort();
  return shares.map((share) => {
    const at = (share / 100) * (sorted.length - 1);
    const low = Math.floor(at);
    const high = Math.min(low + 1, sorted.length - 1);
    return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
  });
}

/**
 * The 1st and 99th percentile at the reference size of 256 px, without padding.
 * @param {Raster} image @param {Float32Array | null} [valid] By sample value of an image with a table: 0 for padding.
 * @param {Edges} [edges] @returns {[number, number]}
 */
export function percentileLimits(image, valid = null, edges = sampleEdges(image.height, image.width)) {
  const [height, width] = [lastOf(edges.rows), lastOf(edges.columns)];
  const longer = Math.max(height, width);
  /** @type {[import("./resampling.js").Weights, import("./resampling.js").Weights]} */
  const weights = [
    areaOverlaps(edges.rows, Math.max(1, roundHalfEven((REFERENCE_PX * height) / longer))),
    areaOverlaps(edges.columns, Math.max(1, roundHalfEven((REFERENCE_PX * width) / longer))),
  ];
  let reference = resample(image, weights);
  if (valid !== null && image.table !== null) {
    const share = resample({ ...image, table: valid }, weights);
    const kept = image.table.map((value, i) => (valid[i] ? value : 0));
    const sums = resample({ ...image, table: kept }, weights);
    reference = sums.map((sum, i) => sum / share[i]).filter((_, i) => share[i] > 1e-3);
    if (!reference.length) {
      throw new RadiographError("Every pixel is padding, so there is no image. Leave the file out.");
    }
  }
  const [low, high] = percentiles(reference, PERCENTILES);
  if (!(high - low > 1e-5 * Math.max(Math.abs(low), Math.abs(high)))) {
    throw new RadiographError("Nearly all pixels have the same value: the image is nearly empty. Leave the file out.");
  }
  return [low, high];
}

/** @param {number} value @param {number} low @param {number} high @returns {number} 0 at `low`, 1 at `high`. */
export function stretch(value, low, high) {
  return Math.min(1, Math.max(0, (value - low) / (high - low)));
}

/** @param {number} value @returns {number} As Python's `round`. */
export function roundHalfEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value - Math.trunc(value)) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
