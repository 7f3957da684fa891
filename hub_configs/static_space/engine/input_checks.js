/**
 * Whether an image looks like an upright frontal chest radiograph, as in `mlcak_hf/trust/input_checks.py` and
 * `mlcak_hf/radiographs/polarity.py`, which say where the numbers come from.
 */
import { percentiles } from "./grey_values.js";
import { ontoSquare } from "./resampling.js";

/** @typedef {import("./resampling.js").Raster} Raster */

export const CHECKED_PX = 64;
export const NOTHING_VISIBLE = "no contrast";
const [SMALLEST_SIDE_PX, LARGEST_ASPECT] = [64, 2];
const [LEAST_RANGE, LEAST_NEIGHBOUR_CORRELATION, LEAST_UPRIGHT, LEAST_NOT_TURNED, EMPTY] = [0.03, 0.6, -0.06, 0.25, 0.05];

const UPRIGHT = [
  [-1.8, -1.1, 0.2, -1.1, -1.8],
  [0.2, -0.8, 0.0, -0.8, 0.2],
  [0.0, -0.5, 0.7, -0.5, 0.0],
  [-0.3, 0.7, 1.5, 0.7, -0.3],
  [-0.4, 1.7, 2.1, 1.7, -0.4],
];
const NOT_UPSIDE_DOWN = [
  [0.052, -0.228, -0.116, -0.228, 0.052],
  [0.056, 0.116, -0.158, 0.116, 0.056],
  [0, 0, 0, 0, 0],
  [-0.056, -0.116, 0.158, -0.116, -0.056],
  [-0.052, 0.228, 0.116, 0.228, -0.052],
].flat();
const NOT_TURNED = [
  [-0.006, -0.115, 0.166, -0.115, -0.006],
  [0.09, -0.042, 0.156, -0.042, 0.09],
  [-0.236, -0.068, -0.099, -0.068, -0.236],
  [-0.014, 0.001, 0.21, 0.001, -0.014],
  [0.075, -0.009, 0.216, -0.009, 0.075],
].flat();

/** @param {number} height @param {number} width @returns {string[]} What is unusual about the size. */
export function sizeWarnings(height, width) {
  const [shorter, longer] = [Math.min(height, width), Math.max(height, width)];
  return [
    ...(shorter < SMALLEST_SIDE_PX ? [`too small (${width} x ${height} px)`] : []),
    ...(longer > LARGEST_ASPECT * shorter ? [`extreme shape (${width} x ${height} px)`] : []),
  ];
}

/** @param {Float32Array} image Of 64 x 64 px. @returns {string[]} What is unusual about the content. */
export function imageWarnings(image) {
  const [low, high] = percentiles(image, [0.5, 99.5]);
  if (high - low < LEAST_RANGE) return [NOTHING_VISIBLE];
  const inRow = (/** @type {number} */ from, /** @type {number} */ to) =>
    image.filter((_, i) => i % CHECKED_PX >= from && i % CHECKED_PX < to);
  if (correlation(inRow(0, CHECKED_PX - 1), inRow(1, CHECKED_PX)) < LEAST_NEIGHBOUR_CORRELATION) return ["noise"];
  const grid = brightnessGrid(image);
  const [centre, spread] = [mean(grid), Math.max(deviation(grid), 1e-9)];
  const standardised = grid.map((value) => (value - centre) / spread);
  const along = (/** @type {number[]} */ weights) => weights.reduce((sum, weight, i) => sum + weight * standardised[i], 0);
  const turned = along(NOT_TURNED) < LEAST_NOT_TURNED || along(NOT_UPSIDE_DOWN) < LEAST_UPRIGHT;
  return looksInverted(grid) || turned ? ["looks inverted, upside down or turned"] : [];
}

/** @param {ArrayLike<number>} grid @returns {boolean} */
function looksInverted(grid) {
  const resemblance = (/** @type {number[][]} */ chest) => (deviation(grid) < 1e-3 ? 0 : correlation(grid, chest.flat()));
  return -resemblance(UPRIGHT) > Math.max(0, resemblance([...UPRIGHT].reverse()));
}

/** Brightness in a 5 x 5 grid, without a uniform frame. @param {Float32Array} image @returns {Float32Array} */
function brightnessGrid(image) {
  /** @type {Raster} */
  let inner = { height: CHECKED_PX, width: CHECKED_PX, samples: image, table: null };
  inner = transposed(withoutEmptyRows(inner));
  inner = transposed(withoutEmptyRows(inner));
  return ontoSquare(inner, 5, "squash");
}

/** @param {Raster} image @returns {Raster} Between the first and the last row with a range of grey values. */
function withoutEmptyRows({ height, width, samples }) {
  const values = /** @type {Float32Array} */ (samples);
  const filled = Array.from({ length: height }, (_, y) => {
    const [low, high] = percentiles(values.subarray(y * width, (y + 1) * width), [5, 95]);
    return high - low > EMPTY;
  });
  const [first, last] = [filled.indexOf(true), filled.lastIndexOf(true)];
  if (first < 0) return { height, width, samples, table: null };
  return { height: last + 1 - first, width, samples: values.subarray(first * width, (last + 1) * width), table: null };
}

/** @param {Raster} image @returns {Raster} */
function transposed({ height, width, samples }) {
  const turned = Float32Array.from({ length: height * width }, (_, i) => samples[(i % height) * width + Math.floor(i / height)]);
  return { height: width, width: height, samples: turned, table: null };
}

/** @param {ArrayLike<number>} values @returns {number} */
const mean = (values) => Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;

/** @param {ArrayLike<number>} values @returns {number} */
function deviation(values) {
  const centre = mean(values);
  return Math.sqrt(mean(Array.from(values, (value) => (value - centre) ** 2)));
}

/** @param {ArrayLike<number>} a @param {ArrayLike<number>} b @returns {number} */
function correlation(a, b) {
  const [meanA, meanB] = [mean(a), mean(b)];
  return mean(Array.from(a, (value, i) => (value - meanA) * (b[i] - meanB))) / (deviation(a) * deviation(b));
}
