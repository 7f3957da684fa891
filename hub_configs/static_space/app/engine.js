/** The worker that reads and predicts, started again when a file keeps it busy for too long. */
import { asset, textAsset } from "./assets.js";

/** @typedef {import("../engine/worker.js").Answer} Answer */
/** @typedef {import("../engine/worker.js").Settings} Settings */
/** @typedef {{height: number, width: number, pixels: Uint8ClampedArray}} Picture */

const LIMIT_S = 30;
const FILES = {
  runtime: "runtime/ort-wasm-simd-threaded.wasm",
  openjpeg: "runtime/openjpegwasm_decode.wasm",
  charls: "runtime/charlswasm_decode.wasm",
  preprocess: "model/preprocess.onnx",
  model: "model/model.onnx",
};

export class Engine {
  /** @param {import("../engine/decisions.js").Facts} facts */
  constructor(facts) {
    this.facts = facts;
    /** @type {Map<number, {resolve: (answer: any) => void, reject: (error: Error) => void}>} */
    this.waiting = new Map();
    this.lastId = 0;
    /** @type {Promise<Worker> | null} */
    this.worker = null;
    /** One request after the other, so that each has its own time. @type {Promise<unknown>} */
    this.queue = Promise.resolve();
  }

  /** @returns {Promise<Worker>} */
  started() {
    this.worker ??= this.start();
    this.worker.catch(() => (this.worker = null));
    return this.worker;
  }

  async start() {
    const names = Object.keys(FILES);
    const [code, ...files] = await Promise.all([textAsset("engine.js"), ...Object.values(FILES).map(asset)]);
    // A worker from a blob takes over the page's content security policy; one from a file would have none.
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    const worker = new Worker(url);
    worker.onmessage = ({ data: { id, answer, failed } }) => {
      const { resolve, reject } = this.waiting.get(id) ?? {};
      this.waiting.delete(id);
      if (failed) reject?.(new Error(failed));
      else resolve?.(answer);
    };
    worker.onerror = (event) => this.end(worker, new Error(event.message || "The worker could not be started."));
    const binaries = Object.fromEntries(names.map((name, i) => [name, files[i]]));
    await this.ask(worker, { start: { ...binaries, facts: this.facts } }, files);
    URL.revokeObjectURL(url);
    return worker;
  }

  /** @param {Uint8Array} bytes @param {Settings} settings @returns {Promise<Answer>} */
  predict(bytes, settings) {
    return this.inTurn({ predict: bytes, settings }, bytes);
  }

  /** @param {Uint8Array} bytes @param {number} longest @param {Settings} settings @returns {Promise<Picture>} */
  picture(bytes, longest, settings) {
    return this.inTurn({ picture: bytes, longest, settings }, bytes);
  }

  /** @param {object} request @param {Uint8Array} bytes @returns {Promise<any>} */
  inTurn(request, bytes) {
    const answer = this.queue.then(async () => {
      const worker = await this.started();
      const clock = setTimeout(() => {
        const problem = `Decoding took more than ${LIMIT_S} seconds; the file may be damaged`;
        this.end(worker, new Error(`${problem}. Export it again, or leave it out.`));
      }, LIMIT_S * 1000);
      return this.ask(worker, request, [bytes.buffer]).finally(() => clearTimeout(clock));
    });
    this.queue = answer.catch(() => {});
    return answer;
  }

  /** @param {Worker} worker @param {object} request @param {Transferable[]} transfer @returns {Promise<any>} */
  ask(worker, request, transfer) {
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      worker.postMessage({ id, ...request }, transfer);
    });
  }

  /** @param {Worker} worker @param {Error} error */
  end(worker, error) {
    worker.terminate();
    this.worker = null;
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}
