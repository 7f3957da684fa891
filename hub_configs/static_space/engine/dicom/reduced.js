/**
 * Large JPEG 2000 files decoded at a fraction of their size, as in `mlcak_hf/radiographs/dicom/reduced.py`, which says
 * why: what blurs, rings or clips differently from a full decode is estimated, and where it may matter, more is decoded.
 */
import { percentileLimits } from "../grey_values.js";
import { clipUnit, resample, sampleEdges, weightsOntoSquare } from "../resampling.js";
import { decodeJpeg2000 } from "./codecs.js";
import { DEPTH_AT } from "./codestream.js";
import { checkedFrame } from "./pixels.js";

/** @typedef {import("./header.js").Header} Header */
/** @typedef {import("../read.js").Reading} Reading */
/** @typedef {import("../resampling.js").Weights} Weights */
/** @typedef {{blur: number, ringing: number[], noiseLeft: number, bias: number}} Wavelet */

const [MIN_RATIO, MAX_REDUCTION, SMALLEST_SIDE_PX, SKIP_ABOVE] = [2, 3, 1024, 1.1];
const [MAX_DIFFERENCE, RMS_DIFFERENCE] = [8 / 255, 10 ** (-52 / 20)];
const [EDGE_CONTRAST, RMS_FACTOR_EDGE, RMS_FACTOR_TEXTURE] = [0.25, 0.15, 0.08];
const REFERENCE_PX = 256;

/** @type {Wavelet} The 5/3 transform. */
const REVERSIBLE = { blur: 0.155, ringing: [0.125, 0.141, 0.152], noiseLeft: 0.72, bias: 0.5 };
/** @type {Wavelet} The 9/7 transform. */
const IRREVERSIBLE = { blur: 0.19, ringing: [0.068, 0.055, 0.048], noiseLeft: 0.52, bias: 0 };

/** What reduced decoding needs to know; `null` if the image has to be decoded in full. @param {Header} header */
function reducible(header, /** @type {Reading} */ { valueRange, voi }) {
  const { tags, layout, range } = header;
  const window = header.view === null ? (valueRange ?? range) : header.view.limits;
  if (header.padded !== null || tags.item("x00283000") || window === null) return null;
  const { frame, declared } = checkedFrame(header);
  const tail = frame.subarray(-16);
  let end = tail.length;
  while (end > 0 && tail[end - 1] === 0) end--;
  // A truncated codestream would give a reduced image of what is left, without an error.
  const complete = end >= 2 && tail[end - 2] === 0xff && tail[end - 1] === 0xd9;
  if (!complete || declared.precision !== layout.bits || declared.signed !== layout.signed) return null;
  const [slope, intercept] = [tags.number("x00281053") || 1, tags.number("x00281052") || 0];
  return { frame, declared, window, slope, intercept, percentile: voi === "percentile" };
}

/**
 * @param {Header} header @param {Reading} reading
 * @returns {Promise<{square: Float32Array, largest: number} | null>} Also the largest magnitude of the stored values.
 */
export async function readReduced(header, reading) {
  const found = reducible(header, reading);
  if (found === null) return null;
  const { frame, declared, window, slope, intercept, percentile } = found;
  const { layout, range } = header;
  const size = reading.size;
  const wavelet = declared.reversible ? REVERSIBLE : IRREVERSIBLE;
  const largest = largestReduction(declared, size, percentile);
  const candidates = Array.from({ length: largest }, (_, i) => largest - i);
  const mayClip = percentile || window[0] > range[0] || window[1] < range[1];
  const mayBlur = Math.min(layout.rows, layout.columns) / 2 / size < wavelet.blur / MAX_DIFFERENCE;
  if (largest && (mayClip || mayBlur) && declared.levels > largest) {
    candidates.unshift(Math.min(largest + 2, declared.levels));
  }
  let expected = 0;
  for (const reduction of candidates) {
    if (expected * 2 ** reduction > SKIP_ABOVE) continue;
    const low = await lowPass(frame, declared, reduction);
    if (low === null) return null;
    const values = low.samples.map((sample) => sample * slope + intercept);
    const edges = sampleEdges(layout.rows, layout.columns, reduction);
    const image = { height: low.rows, width: low.columns, samples: values, table: null };
    const [black, white] = percentile ? percentileLimits(image, null, edges) : window;
    const grey = values.map((value) => (value - black) / (white - black));
    const weights = weightsOntoSquare(edges, size, reading.fit);
    const reach = range.map((value) => (value - black) / (white - black));
    const samples = { ...image, samples: grey };
    let [difference, rms] = expectedDifference(samples, weights, size, reduction, wavelet, reach, declared.clipped);
    const bias = ((wavelet.bias / 2) * reduction * slope) / (white - black);
    difference += Math.abs(bias) / MAX_DIFFERENCE;
    rms += Math.abs(bias) / RMS_DIFFERENCE;
    if (reduction <= largest && difference <= 1 && rms <= 1) {
      const [least, most] = [reach[0] < 0 ? 0 : -Infinity, reach[1] > 1 ? 1 : Infinity];
      const shown = grey.map((value) => {
        const clipped = Math.min(most, Math.max(least, percentile ? value : value - bias));
        return layout.inverted ? 1 - clipped : clipped;
      });
      const square = clipUnit(resample({ ...image, samples: shown }, weights));
      return { square, largest: low.samples.reduce((best, value) => Math.max(best, Math.abs(value)), 0) };
    }
    expected = difference / 2 ** reduction; // the difference halves when the size doubles
  }
  return null;
}

/**
 * A picture for people: the low-pass samples themselves, at least `longest` pixels on the longer side.
 * @param {Header} header @param {number} longest @param {Reading} reading
 * @returns {Promise<import("../resampling.js").Raster | null>}
 */
export async function lowPassPicture(header, longest, reading) {
  const found = reducible(header, reading);
  if (found === null || found.percentile) return null;
  const { frame, declared, window, slope, intercept } = found;
  const { inverted, rows, columns } = header.layout;
  const reduction = Math.min(MAX_REDUCTION, declared.levels, Math.floor(Math.log2(Math.max(rows, columns) / longest)));
  const low = reduction < 1 ? null : await lowPass(frame, declared, reduction);
  if (low === null) return null;
  const samples = low.samples.map((sample) => {
    const grey = Math.min(1, Math.max(0, (sample * slope + intercept - window[0]) / (window[1] - window[0])));
    return inverted ? 1 - grey : grey;
  });
  return { height: low.rows, width: low.columns, samples, table: null };
}

/**
 * Low-pass samples in stored values. They exceed the range of the stored values near sharp edges, unless clipped:
 * declaring one more bit prevents the clipping.
 * @param {Uint8Array} frame @param {import("./codestream.js").FrameHeader} declared @param {number} reduction
 */
async function lowPass(frame, declared, reduction) {
  let shift = 0;
  if (!declared.clipped) {
    frame = frame.slice();
    frame[DEPTH_AT] += 1;
    // The reversible transform uses the precision only to shift unsigned samples by half their range.
    shift = declared.signed ? 0 : 2 ** (declared.precision - 1);
  }
  try {
    const { samples, rows, columns } = await decodeJpeg2000(frame, reduction);
    if (samples.length !== rows * columns) return null;
    return { samples: Float32Array.from(samples, (sample) => sample - shift), rows, columns };
  } catch {
    return null;
  }
}

/** @param {import("./codestream.js").FrameHeader} declared @param {number} size @param {boolean} percentile */
function largestReduction(declared, size, percentile) {
  const [shorter, longer] = [Math.min(declared.rows, declared.columns), Math.max(declared.rows, declared.columns)];
  if (shorter < SMALLEST_SIDE_PX) return 0;
  let ratio = shorter / (MIN_RATIO * size);
  if (percentile) ratio = Math.min(ratio, longer / (MIN_RATIO * REFERENCE_PX));
  const levels = ratio < 1 ? -1 : Math.floor(Math.log2(Math.floor(ratio)));
  return Math.max(0, Math.min(levels, MAX_REDUCTION, declared.levels));
}

/**
 * How much reduced decoding may differ from full decoding: the largest and the root mean square difference, each divided
 * by the accepted one.
 * @param {import("../resampling.js").Raster} image Grey values, not clipped. @param {[Weights, Weights]} weights
 * @param {number} size @param {number} reduction @param {Wavelet} wavelet @param {number[]} reach @param {boolean} clipped
 * @returns {[number, number]}
 */
function expectedDifference(image, weights, size, reduction, wavelet, reach, clipped) {
  const grey = /** @type {Float32Array} */ (image.samples);
  const ratio = Math.min(image.height, image.width) / size;
  let lowest = amongNeighbours(image, Math.min);
  let highest = amongNeighbours(image, Math.max);
  const unit = (/** @type {number} */ value) => Math.min(1, Math.max(0, value));
  const contrast = grey.map((_, i) => unit(highest[i]) - unit(lowest[i]));
  let largest = (wavelet.blur * maximum(contrast)) / ratio;
  const blurred = contrast.map((c) => c * (c > EDGE_CONTRAST ? RMS_FACTOR_EDGE : RMS_FACTOR_TEXTURE));
  let rms = (rootMeanSquare(blurred) * Math.max(1, ratio / 3) ** 0.5) / ratio;
  const ringing = wavelet.ringing[Math.min(reduction, MAX_REDUCTION) - 1];
  const clips = [reach[0] < 0, reach[1] > 1];
  const sides = [grey, grey.map((value) => 1 - value)].filter((_, i) => clipped || clips[i]);
  const beyond = sides.filter((side) => side.some((value) => value <= 0));
  /** @param {Float32Array} samples */
  const reduced = (samples) => resample({ ...image, samples }, weights);
  if (beyond.length) {
    const lost = beyond.map((side) => reduced(lostRinging(side, contrast, ringing)));
    const most = lost[0].map((value, i) => Math.max(value, lost.at(-1)?.[i] ?? value));
    largest += maximum(most);
    rms += rootMeanSquare(most);
  }
  if (clips[0] || clips[1]) {
    // The pixels have this many times the noise of the samples, and stay within `reach`.
    const factor = wavelet.noiseLeft ** -reduction;
    lowest = lowest.map((low, i) => Math.min(low, Math.max(grey[i] - factor * (grey[i] - low), reach[0])));
    highest = highest.map((high, i) => Math.max(high, Math.min(grey[i] + factor * (high - grey[i]), reach[1])));
    if (!clips[0]) lowest = lowest.map((low) => Math.max(low, 0));
    if (!clips[1]) highest = highest.map((high) => Math.min(high, 1));
    const mixed = reduced(clippedMixture(grey, lowest, highest));
    largest += maximum(mixed);
    rms += rootMeanSquare(mixed);
  }
  return [largest / MAX_DIFFERENCE, rms / RMS_DIFFERENCE];
}

/** @param {Float32Array} values @returns {number} */
const maximum = (values) => values.reduce((best, value) => Math.max(best, value), -Infinity);
/** @param {Float32Array} values @returns {number} */
const rootMeanSquare = (values) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);

/**
 * Minimum or maximum of each sample and its eight neighbours.
 * @param {import("../resampling.js").Raster} image @param {(...values: number[]) => number} pick @returns {Float32Array}
 */
function amongNeighbours({ height, width, samples }, pick) {
  const ofRows = new Float32Array(height * width);
  const found = new Float32Array(height * width);
  for (let y = 0, i = 0; y < height; y++) {
    const [up, down] = [y ? -width : 0, y < height - 1 ? width : 0];
    for (let x = 0; x < width; x++, i++) ofRows[i] = pick(samples[i + up], samples[i], samples[i + down]);
  }
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      found[i] = pick(ofRows[i - (x ? 1 : 0)], ofRows[i], ofRows[i + (x < width - 1 ? 1 : 0)]);
    }
  }
  return found;
}

/**
 * Largest difference between clipping an average to [0, 1] and averaging clipped values.
 * @param {Float32Array} mean @param {Float32Array} lowest @param {Float32Array} highest @returns {Float32Array}
 */
function clippedMixture(mean, lowest, highest) {
  return mean.map((value, i) => {
    const [low, high] = [lowest[i], highest[i]];
    const span = Math.max(high - low, 1e-6);
    const above = high > 1 && low < 1 ? ((high - 1) * (value - low)) / span - Math.max(value - 1, 0) : 0;
    const below = high > 0 && low < 0 ? (-low * (high - value)) / span - Math.max(-value, 0) : 0;
    return above + below;
  });
}

/**
 * Largest excess of a sample that ringing at an edge pushed below 0, where it is clipped.
 * @param {Float32Array} grey @param {Float32Array} contrast @param {number} ringing @returns {Float32Array}
 */
function lostRinging(grey, contrast, ringing) {
  return grey.map((value, i) => {
    const below = Math.max(0, (-value - ringing * contrast[i]) / (1 + ringing));
    return value <= 0 ? ringing * Math.max(contrast[i] - below, 0) : 0;
  });
}
