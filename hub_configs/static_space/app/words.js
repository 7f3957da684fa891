/** What a prediction says, in words. */
import { pointOf } from "../engine/decisions.js";

/** @typedef {import("../engine/decisions.js").Facts} Facts */
/** @typedef {import("../engine/decisions.js").Prediction} Prediction */
/** @typedef {import("../engine/decisions.js").Rule} Rule */
/** @typedef {{kind: "positive" | "negative" | "open" | "stopped", short: string, headline: string, lines: string[]}} Verdict */

const TRIAGE = /** @type {Record<string, string>} */ ({
  low: "Triage: low. In calibration, few images with the label scored this low.",
  high: "Triage: high. In calibration, few images without the label scored this high.",
  unsure: "Triage: unsure. The limits of calibration do not decide this score.",
});
const RULES = /** @type {[Rule, string][]} */ ([
  ["youden", "Youden's index"],
  ["sensitivity", "high sensitivity"],
  ["specificity", "high specificity"],
]);

/** @param {Prediction} prediction @param {Facts} facts @returns {Verdict} */
export function verdictOf(prediction, facts) {
  const { warning } = prediction;
  if (prediction.error !== null) {
    return { kind: "stopped", short: "not read", headline: "Not read", lines: [prediction.error] };
  }
  if (prediction.refused_because !== null) {
    return { kind: "stopped", short: "refused", headline: "Refused", lines: [capital(`${prediction.refused_because}`)] };
  }
  if (warning !== null) {
    const lines = [`${capital(warning)}.`, "The probabilities below may mean nothing, so nothing is decided."];
    return { kind: "open", short: "no decision", headline: "No decision", lines };
  }
  const decided = Object.entries(prediction.decisions).filter(([name, { decision }]) => name.startsWith("global/") && decision);
  if (!decided.length) {
    const [name, value] = highest(prediction.probabilities);
    const none = facts.operating_points ? "its labels have no threshold" : "this model has no thresholds";
    const lines = [`The most probable label, with ${number(value)}. Nothing is decided: ${none}.`];
    return { kind: "open", short: `${name} ${number(value)}`, headline: capital(name), lines };
  }
  const said = decided.map(([name, { decision }]) => `${name.replace("global/", "")} ${decision}`);
  const positive = decided.some(([, { decision }]) => decision === "positive");
  const lines = decided.flatMap(([name, found]) => decisionLines(prediction, name.replace("global/", ""), found));
  return { kind: positive ? "positive" : "negative", short: said.join(", "), headline: capital(said.join(", ")), lines };
}

/**
 * @param {Prediction} prediction @param {string} name @param {import("../engine/decisions.js").Decision} found
 * @returns {string[]}
 */
function decisionLines(prediction, name, { threshold, decision, triage }) {
  const side = decision === "positive" ? "reaches" : "is below";
  const value = number(prediction.probabilities[name]);
  return [
    `The probability ${value} ${side} the threshold ${number(Number(threshold))}.`,
    ...(triage ? [TRIAGE[triage]] : []),
  ];
}

/** Options of the threshold, with what each gave on the images that it was chosen on. @param {Facts} facts */
export function ruleOptions(facts) {
  const labels = Object.entries(facts.operating_points?.labels ?? {}).filter(([name]) => name.startsWith("global/"));
  const label = labels.find(([, points]) => points.youden)?.[1];
  if (!label) return [];
  return RULES.flatMap(([rule, words]) => {
    const point = pointOf(label, rule);
    if (!point) return [];
    const gave = `sensitivity ${number(point.sensitivity)}, specificity ${number(point.specificity)}`;
    return [{ rule, words: `${number(point.threshold)}: ${words} (${gave} in calibration)` }];
  });
}

/** @param {Facts} facts @returns {[string, string][]} What to know about the model, as terms and descriptions. */
export function aboutModel(facts) {
  const { operating_points: points } = facts;
  const side = facts.lowres ?? facts.size_px;
  const fit = facts.fit === "pad" ? "Other shapes are padded with black." : "Other shapes are squashed.";
  return [
    ["Model", `${facts.model}, weights ${facts.weights?.slice(0, 12) ?? "unknown"}, exported by mlcak-hf ${facts.mlcak_version}`],
    ["Sees", `${side} x ${side} pixels, by area average. ${fit}`],
    ["Labels", facts.global_labels.join(", ")],
    ["Findings", facts.local_labels.join(", ") || "none"],
    [
      "Thresholds and calibration",
      points
        ? `chosen on ${points.n_images} images (${points.dataset}, ${points.split}). They hold for images like those alone.`
        : "none: run `mlcak calibrate` before exporting to get decisions",
    ],
    ["Unlike the training images", facts.distance_limit === null ? "not checked" : "recognized by the model's own features"],
    ["Notice", facts.notice],
  ];
}

/** @param {Record<string, number>} values @returns {[string, number]} */
function highest(values) {
  return Object.entries(values).reduce((best, entry) => (entry[1] > best[1] ? entry : best));
}

/** @param {number} value @returns {string} Never 0 or 1 for a probability that is neither. */
export function number(value) {
  if (value > 0 && value < 0.005) return "<0.01";
  if (value < 1 && value >= 0.995) return ">0.99";
  return value.toFixed(2);
}

/** @param {string} text @returns {string} */
export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
