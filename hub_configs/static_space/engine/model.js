/** The exported model in onnxruntime-web: a square of grey values -> outputs. */
import * as ort from "onnxruntime-web/wasm";

/**
 * @typedef {object} Outputs
 * @property {Float32Array} logits
 * @property {Float32Array | null} localLogits
 * @property {{rows: number, columns: number, values: Float32Array} | null} attention
 * @property {number | null} distance
 * @property {Float32Array} seen What the model saw, in [0, 1].
 */

export class Model {
  /** @param {ort.InferenceSession} preprocess @param {ort.InferenceSession} model @param {import("./decisions.js").Facts} facts */
  constructor(preprocess, model, facts) {
    this.preprocess = preprocess;
    this.model = model;
    this.facts = facts;
  }

  /**
   * @param {{runtime: ArrayBuffer, preprocess: ArrayBuffer, model: ArrayBuffer}} binaries
   * @param {import("./decisions.js").Facts} facts
   */
  static async load({ runtime, preprocess, model }, facts) {
    ort.env.wasm.wasmBinary = runtime;
    ort.env.wasm.numThreads = 1; // more need headers that a plain folder cannot send
    ort.env.logLevel = "error";
    const [first, second] = [
      await ort.InferenceSession.create(new Uint8Array(preprocess)),
      await ort.InferenceSession.create(new Uint8Array(model)),
    ];
    return new Model(first, second, facts);
  }

  /** @param {Float32Array} square Grey values in [0, 1]. @returns {Promise<Outputs>} */
  async run(square) {
    const side = Math.sqrt(square.length);
    const image = new ort.Tensor("float32", square, [side, side]);
    const { pixel_values: pixels } = await this.preprocess.run({ image });
    const found = await this.model.run({ pixel_values: pixels });
    const attention = found.attention;
    const [mean, std] = [this.facts.image_mean[0], this.facts.image_std[0]];
    const channel = floats(pixels).subarray(0, this.facts.size_px ** 2);
    return {
      logits: floats(found.logits),
      localLogits: found.local_logits ? floats(found.local_logits) : null,
      attention: attention && { rows: attention.dims[1], columns: attention.dims[2], values: floats(attention) },
      distance: found.distance ? floats(found.distance)[0] : null,
      seen: channel.map((value) => value * std + mean),
    };
  }
}

/** @param {ort.Tensor} tensor @returns {Float32Array} */
function floats(tensor) {
  return /** @type {Float32Array} */ (tensor.data);
}
