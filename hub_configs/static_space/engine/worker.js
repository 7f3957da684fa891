/** Reads and predicts files in a worker, so that the page stays responsive and can end a decoder that hangs. */
import { nothing, predictionFrom } from "./decisions.js";
import { setCodecs } from "./dicom/codecs.js";
import { RadiographError } from "./errors.js";
import { CHECKED_PX, imageWarnings, NOTHING_VISIBLE, sizeWarnings } from "./input_checks.js";
import { Model } from "./model.js";
import { NO_CONTRAST, readPicture, readRadiograph } from "./read.js";
import { ontoSquare } from "./resampling.js";

/** @typedef {import("./decisions.js").Facts} Facts */
/** @typedef {import("./decisions.js").Prediction} Prediction */
/**
 * @typedef {object} Settings
 * @property {import("./decisions.js").Rule} rule Which threshold decides.
 * @property {boolean} refuseSuspect Whether an image with a warning is refused.
 * @property {string} voi "dicom", "percentile" or "none".
 * @property {[number, number] | null} valueRange
 */
/**
 * @typedef {object} Answer
 * @property {Prediction} prediction
 * @property {import("./model.js").Outputs["attention"]} attention
 * @property {Float32Array | null} seen
 * @property {number} height Of the file, in pixels; 0 if it could not be read.
 * @property {number} width
 */
/**
 * @typedef {{start: {runtime: ArrayBuffer, openjpeg: ArrayBuffer, charls: ArrayBuffer, preprocess: ArrayBuffer,
 *   model: ArrayBuffer, facts: Facts}}} Start
 * @typedef {{predict: Uint8Array, settings: Settings}} Predict
 * @typedef {{picture: Uint8Array, longest: number, settings: Settings}} Picture
 */

/** @type {Model} */
let model;

/** @param {Start["start"]} start */
async function start({ facts, openjpeg, charls, ...binaries }) {
  setCodecs(openjpeg, charls);
  model = await Model.load(binaries, facts);
  await model.run(new Float32Array(readSize() ** 2)); // the first run prepares buffers that the others reuse
}

/** One read serves the model and the checks: area averages over whole blocks are those of the smaller square. */
function readSize() {
  const size = model.facts.lowres ?? model.facts.size_px;
  return Math.ceil(CHECKED_PX / size) * size;
}

/** @param {Uint8Array} bytes @param {Settings} settings @returns {Promise<Answer>} */
async function predict(bytes, settings) {
  const { facts } = model;
  const answer = { prediction: nothing(), attention: null, seen: null, height: 0, width: 0 };
  try {
    const read = await readRadiograph(bytes, { ...settings, size: readSize(), fit: facts.fit });
    const { height, width, content } = read;
    const checked = content.samples.length
      ? ontoSquare(content, CHECKED_PX, "squash")
      : ontoSquare({ height: readSize(), width: readSize(), samples: read.square, table: null }, CHECKED_PX, "squash");
    const warnings = [...sizeWarnings(height, width), ...read.warnings, ...imageWarnings(checked)];
    const refusal = read.problem ?? (warnings.includes(NOTHING_VISIBLE) ? NO_CONTRAST : null);
    const warning = refusal === null && warnings.length ? warnings.join("; ") : null;
    if (refusal !== null || (warning !== null && settings.refuseSuspect)) {
      const refused = { ...nothing(), warning, refused_because: refusal ?? warning };
      return { ...answer, prediction: refused, height, width };
    }
    const outputs = await model.run(read.square);
    const prediction = predictionFrom(facts, outputs, warning, settings);
    return { prediction, attention: outputs.attention, seen: outputs.seen, height, width };
  } catch (error) {
    return { ...answer, prediction: { ...nothing(), error: sentence(error) } };
  }
}

/** @param {unknown} error @returns {string} */
function sentence(error) {
  if (error instanceof RadiographError) return error.message;
  if (error instanceof RangeError) return "The browser has no memory left for this image. Close other tabs, or reduce it.";
  return "The file cannot be read; it may be damaged or cut off. Download or export it again, or leave it out.";
}

/** @param {Uint8Array} bytes @param {number} longest @param {Settings} settings */
async function picture(bytes, longest, settings) {
  const { height, width, samples, table } = await readPicture(bytes, {
    ...settings,
    size: readSize(),
    fit: model.facts.fit,
    pictureSize: longest,
  });
  const pixels = new Uint8ClampedArray(samples.length);
  for (let i = 0; i < pixels.length; i++) pixels[i] = 255 * (table === null ? samples[i] : table[samples[i]]);
  return { height, width, pixels };
}

self.onmessage = async (/** @type {MessageEvent} */ { data }) => {
  try {
    const { id, ...request } = data;
    let answer = null;
    if (request.start) await start(request.start);
    else if (request.predict) answer = await predict(request.predict, request.settings);
    else answer = await picture(request.picture, request.longest, request.settings);
    self.postMessage({ id, answer });
  } catch (error) {
    self.postMessage({ id: data.id, failed: sentence(error), detail: String(error) });
  }
};
