/** The page's own modules, without a browser. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateSync } from "node:zlib";

const SPACE = new URL("../../hub_configs/static_space/", import.meta.url);
const load = (/** @type {string} */ name) => import(new URL(name, SPACE).href);
const { areaOverlaps, ontoSquare, sampleEdges, withoutPadding } = await load("engine/resampling.js");
const { percentiles, roundHalfEven } = await load("engine/grey_values.js");
const { readPng } = await load("engine/png.js");
const { decodeRunLengths } = await load("engine/dicom/run_lengths.js");
const { readFrameHeader } = await load("engine/dicom/codestream.js");
const { predictionFrom, probabilities, triage, withTemperature } = await load("engine/decisions.js");
const { imageWarnings, sizeWarnings } = await load("engine/input_checks.js");
const { sixDigits, stem, toCsv } = await load("app/csv.js");
const { attentionOver } = await load("app/heatmap.js");
const { number, ruleOptions, verdictOf } = await load("app/words.js");

/** @param {ArrayLike<number>} found @param {number[]} expected @param {number} [tolerance] */
function close(found, expected, tolerance = 1e-6) {
  assert.equal(found.length, expected.length);
  expected.forEach((value, i) => assert.ok(Math.abs(found[i] - value) <= tolerance, `${found[i]} is not ${value}`));
}

/** A PNG by hand. @param {number[]} header @param {number[]} rows @param {[string, number[]][]} [more] */
function png([width, height, depth, colour, interlaced = 0], rows, more = []) {
  const chunk = (/** @type {string} */ kind, /** @type {Uint8Array | number[]} */ body) => {
    const head = Buffer.alloc(8);
    head.writeUInt32BE(body.length);
    head.write(kind, 4);
    return Buffer.concat([head, Buffer.from(body), Buffer.alloc(4)]);
  };
  const size = Buffer.alloc(8);
  size.writeUInt32BE(width);
  size.writeUInt32BE(height, 4);
  return new Uint8Array(
    Buffer.concat([
      Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
      chunk("IHDR", [...size, depth, colour, 0, 0, interlaced]),
      ...more.map(([kind, body]) => chunk(kind, body)),
      chunk("IDAT", deflateSync(Buffer.from(rows))),
      chunk("IEND", []),
    ]),
  );
}

/** @type {any} */
const FACTS = {
  model: "m",
  weights: "0123456789abcdef",
  mlcak_version: "1",
  global_labels: ["normal", "pneumonia"],
  local_labels: ["Nodule", "Unseen"],
  unlearned_findings: ["Unseen"],
  problem_type: "single_label_classification",
  operating_points: {
    problem_type: "single_label_classification",
    temperatures: { global: 2 },
    labels: {
      "global/pneumonia": {
        youden: { threshold: 0.4, sensitivity: 0.9, specificity: 0.8 },
        at_sensitivity: { threshold: 0.2, sensitivity: 0.95, specificity: 0.7 },
        at_specificity: null,
        low_below: 0.1,
        high_above: 0.6,
      },
    },
  },
  distance_limit: 5,
};
const SETTINGS = { rule: "youden", refuseSuspect: false };
const outputs = (/** @type {number[]} */ logits, distance = 1) => ({ logits, localLogits: [0, 3], distance });

test("an area average of whole blocks is their mean", () => {
  const samples = Float32Array.from({ length: 16 }, (_, i) => i / 16);
  close(ontoSquare({ height: 4, width: 4, samples, table: null }, 2, "pad"), [2.5, 4.5, 10.5, 12.5].map((v) => v / 16));
});

test("fractional blocks share their pixels, and every row of weights adds up to 1", () => {
  const { starts, shares } = areaOverlaps(sampleEdges(5, 1).rows, 2);
  assert.deepEqual([...starts], [0, 2]);
  close(shares[0], [0.4, 0.4, 0.2]);
  close(shares[1], [0.2, 0.4, 0.4]);
});

test("padding is dark and centred, and an odd pixel goes to the end", () => {
  const image = { height: 3, width: 2, samples: new Float32Array(6).fill(1), table: null };
  close(ontoSquare(image, 3, "pad"), [1, 1, 0, 1, 1, 0, 1, 1, 0]);
  assert.equal(withoutPadding(new Float32Array(36), 3, 2).width, 2);
});

test("low-pass samples begin half a sample before their block", () => {
  assert.deepEqual([...sampleEdges(8, 8, 2).rows], [0, 2.5, 8]);
});

test("percentiles are interpolated as in numpy, and halves are rounded to even as in Python", () => {
  assert.deepEqual(percentiles([4, 1, 3, 2], [0, 50, 99]), [1, 2.5, 3.9699999999999998]);
  assert.deepEqual([0.5, 1.5, 2.5, 2.4].map(roundHalfEven), [0, 2, 2, 2]);
});

test("a 16-bit PNG keeps its 16 bits", async () => {
  const { bits, samples } = await readPng(png([2, 1, 16, 0], [0, 1, 2, 255, 254]));
  assert.deepEqual([bits, ...samples], [16, 0x0102, 0xfffe]);
});

test("every filter of PNG is undone", async () => {
  const rows = [1, 10, 5, 0, 0, /* up */ 2, 1, 1, 1, 1, /* average */ 3, 1, 1, 1, 1, /* Paeth */ 4, 1, 1, 1, 1];
  const { samples } = await readPng(png([4, 4, 8, 0], rows));
  assert.deepEqual([...samples], [10, 15, 15, 15, 11, 16, 16, 16, 6, 12, 15, 16, 7, 13, 16, 17]);
});

test("small depths are scaled as in Pillow, and an interlaced PNG is put together", async () => {
  assert.deepEqual([...(await readPng(png([4, 1, 4, 0], [0, 0x0f, 0x81]))).samples], [0, 255, 136, 17]);
  // Passes of a 2 x 2 image: the corner, its right neighbour, the second row.
  assert.deepEqual([...(await readPng(png([2, 2, 8, 0, 1], [0, 1, 0, 2, 0, 3, 4]))).samples], [1, 2, 3, 4]);
});

test("a palette becomes colour, with its transparency", async () => {
  const colours = /** @type {[string, number[]][]} */ ([["PLTE", [1, 2, 3, 4, 5, 6]], ["tRNS", [7]]]);
  const { channels, samples } = await readPng(png([2, 1, 8, 3], [0, 0, 1], colours));
  assert.deepEqual([channels, ...samples], [4, 1, 2, 3, 7, 4, 5, 6, 255]);
});

test("a PNG that declares more than it has, or more than fits, is refused with a sentence", async () => {
  await assert.rejects(readPng(png([9, 9, 8, 0], [0, 1])), /damaged or cut off/);
  await assert.rejects(readPng(png([60000, 60000, 8, 0], [0])), /at most|60,000,000 pixels/);
  await assert.rejects(readPng(png([1, 1, 16, 2], [0, 0, 0, 0, 0, 0, 0])), /with 16 bits must be grey/);
});

test("run lengths are unpacked plane by plane", () => {
  const frame = new Uint8Array(64 + 6);
  const view = new DataView(frame.buffer);
  [2, 64, 66].forEach((value, i) => view.setUint32(4 * i, value, true));
  frame.set([255, 1, 1, 7, 8, 128], 64); // the high byte 1 twice; the low bytes 7 and 8
  assert.deepEqual([...decodeRunLengths(frame, 2, 2)], [0x0107, 0x0108]);
  assert.throws(() => decodeRunLengths(frame, 9, 2), /ends after 2 of 9 pixels/);
});

test("a codestream says its size and depth, and other bytes say nothing", () => {
  const jpeg = Uint8Array.of(0xff, 0xd8, 0xff, 0xe0, 0, 2, 0xff, 0xc0, 0, 11, 8, 0, 3, 0, 4, 1, 0, 0, 0);
  const { coding, rows, columns, precision } = readFrameHeader(jpeg);
  assert.deepEqual([coding, rows, columns, precision], ["JPEG", 3, 4, 8]);
  assert.equal(readFrameHeader(new Uint8Array(5000)), null);
});

test("probabilities take a softmax or a sigmoid, and temperature pulls them towards the middle", () => {
  close(probabilities([0, Math.log(3)], "single_label_classification"), [0.25, 0.75]);
  close(probabilities([Math.log(3)]), [0.75]);
  close(withTemperature([0.2, 0.8], 2, "single_label_classification"), [1 / 3, 2 / 3]);
  close(withTemperature([0.8], 2, ""), [2 / 3]);
});

test("triage is unsure between the limits, and where both would decide", () => {
  const limits = { low_below: 0.2, high_above: 0.7 };
  assert.deepEqual([0.1, 0.5, 0.9].map((score) => triage(score, limits)), ["low", "unsure", "high"]);
  assert.equal(triage(0.5, { low_below: 0.6, high_above: 0.4 }), "unsure");
  assert.equal(triage(0.5, { low_below: null, high_above: null }), "");
});

test("a threshold decides, unless the image has a warning", () => {
  const decided = predictionFrom(FACTS, outputs([0, Math.log(3)]), null, SETTINGS);
  assert.deepEqual(decided.decisions["global/pneumonia"].decision, "positive");
  assert.ok(Number.isNaN(decided.findings.Unseen));
  const warned = predictionFrom(FACTS, outputs([0, Math.log(3)]), "noise", SETTINGS);
  assert.equal(warned.decisions["global/pneumonia"].decision, "");
  assert.equal(verdictOf(warned, FACTS).headline, "No decision");
});

test("an image unlike the training images gets a warning, or is refused on request", () => {
  const far = outputs([0, 1], 6.789);
  assert.equal(predictionFrom(FACTS, far, null, SETTINGS).warning, "unlike the training images (distance 6.79, limit 5)");
  const refused = predictionFrom(FACTS, far, null, { ...SETTINGS, refuseSuspect: true });
  assert.match(refused.refused_because, /unlike the training images/);
  assert.deepEqual(refused.probabilities, {});
});

test("noise, flat images and odd sizes are named", () => {
  let state = 1;
  const noise = Float32Array.from({ length: 4096 }, () => (state = (state * 48271) % 2147483647) / 2147483647);
  assert.deepEqual(imageWarnings(noise), ["noise"]);
  assert.deepEqual(imageWarnings(new Float32Array(4096)), ["no contrast"]);
  assert.deepEqual(sizeWarnings(300, 50), ["too small (50 x 300 px)", "extreme shape (50 x 300 px)"]);
});

test("numbers are written as Python writes them", () => {
  const written = [0.00634587123, 1e-5, 1.5e-7, 0.1, 1, 0, NaN, 123456789].map(sixDigits);
  assert.deepEqual(written, ["0.00634587", "1e-05", "1.5e-07", "0.1", "1", "0", "", "1.23457e+08"]);
  assert.deepEqual(["a/b.c.png", ".hidden", "x"].map(stem), ["b.c", ".hidden", "x"]);
});

test("a failure before the first success has the columns of the success, and names are quoted", () => {
  const nothing = { probabilities: {}, findings: {}, decisions: {}, warning: null, refused_because: null, error: null };
  const good = predictionFrom(FACTS, outputs([0, 0]), null, SETTINGS);
  const results = [{ name: 'a "b", c.png', prediction: { ...nothing, error: "No." } }, { name: "d.png", prediction: good }];
  const [header, first, second] = toCsv(results, FACTS).split("\r\n");
  assert.match(header, /^file,image_id,global\/normal,global\/pneumonia,finding\/Nodule,finding\/Unseen,global\/pneumonia\/cal/);
  assert.match(first, /^"a ""b"", c.png","a ""b"", c",,,/);
  assert.match(second, /^d.png,d,0.5,0.5,0.5,,0.5,0.4,positive,unsure,,,,,m,1,0123456789ab$/);
});

test("probabilities that are not 0 or 1 are never shown as such", () => {
  assert.deepEqual([0.001, 0.5, 0.999, 1, 0].map(number), ["<0.01", "0.50", ">0.99", "1.00", "0.00"]);
});

test("the threshold can be chosen among those that the model has", () => {
  assert.deepEqual(ruleOptions(FACTS).map(({ rule }) => rule), ["youden", "sensitivity"]);
});

test("attention in the padding of a portrait image is left out", () => {
  const attention = { rows: 1, columns: 4, values: Float32Array.of(9, 1, 1, 9) };
  const over = attentionOver(attention, { height: 40, width: 20 }, "pad", { height: 1, width: 2 });
  close(over, [0.2, 0.2]); // 1 of 20, in multiples of uniform attention
});
