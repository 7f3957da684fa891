/**
 * Probabilities, calibrated probabilities, decisions and refusals, as in `mlcak_hf/probabilities.py`,
 * `trust/temperature.py`, `trust/operating_points.py` and `prediction/decisions.py`.
 *
 * @typedef {{threshold: number, sensitivity: number, specificity: number}} Point
 * @typedef {object} LabelPoints
 * @property {Point | null} youden
 * @property {Point | null} at_sensitivity
 * @property {Point | null} at_specificity
 * @property {number | null} low_below
 * @property {number | null} high_above
 */
/**
 * What `mlcak export` says about a model.
 * @typedef {object} Facts
 * @property {string} model
 * @property {string | null} weights
 * @property {string} mlcak_version
 * @property {string[]} global_labels
 * @property {string[]} local_labels
 * @property {string[]} unlearned_findings
 * @property {string} problem_type
 * @property {number} size_px
 * @property {string} fit
 * @property {number | null} lowres
 * @property {string} voi
 * @property {number[]} image_mean
 * @property {number[]} image_std
 * @property {{dataset: string, split: string, n_images: number, problem_type: string, targets: Record<string, number>,
 *   labels: Record<string, LabelPoints>, temperatures: Record<string, number>} | null} operating_points
 * @property {number | null} distance_limit
 * @property {string} notice
 */
/**
 * @typedef {object} Decision
 * @property {number | null} calibrated
 * @property {number | null} threshold
 * @property {string} decision "positive", "negative", or empty.
 * @property {string} triage "low", "unsure", "high", or empty.
 */
/**
 * @typedef {object} Prediction
 * @property {Record<string, number>} probabilities By global label.
 * @property {Record<string, number>} findings By local finding; NaN for one that was never seen in training.
 * @property {Record<string, Decision>} decisions By "global/<label>" and "finding/<name>".
 * @property {string | null} warning
 * @property {string | null} refused_because
 * @property {string | null} error
 */

/** @typedef {"youden" | "sensitivity" | "specificity"} Rule */

export const SINGLE_LABEL = "single_label_classification";
const POINTS = /** @type {const} */ ({ youden: "youden", sensitivity: "at_sensitivity", specificity: "at_specificity" });

/** @param {ArrayLike<number>} logits @param {string} [problemType] @returns {number[]} */
export function probabilities(logits, problemType = "") {
  const values = Array.from(logits);
  if (problemType !== SINGLE_LABEL) return values.map((value) => 1 / (1 + Math.exp(-value)));
  const largest = Math.max(...values);
  const exponents = values.map((value) => Math.exp(value - largest));
  const sum = exponents.reduce((total, value) => total + value, 0);
  return exponents.map((value) => value / sum);
}

/** @param {number[]} scores @param {number} temperature @param {string} problemType @returns {number[]} */
export function withTemperature(scores, temperature, problemType) {
  const single = problemType === SINGLE_LABEL && scores.length > 1;
  const logits = scores.map((score) => {
    const present = Math.log(Math.max(score, Number.MIN_VALUE));
    const absent = Math.log(Math.max(1 - score, Number.EPSILON / 2));
    return (single ? present : present - absent) / temperature;
  });
  return probabilities(logits, single ? SINGLE_LABEL : "");
}

/** @param {number} score @param {LabelPoints} label @returns {string} A score that both limits would decide is unsure. */
export function triage(score, { low_below: lowBelow, high_above: highAbove }) {
  if (lowBelow === null && highAbove === null) return "";
  const low = lowBelow !== null && score < lowBelow;
  const high = highAbove !== null && score > highAbove;
  return low === high ? "unsure" : low ? "low" : "high";
}

/** @param {LabelPoints} label @param {Rule} rule @returns {Point | null} */
export function pointOf(label, rule) {
  return label[POINTS[rule]];
}

/**
 * A prediction from the outputs of the model.
 * @param {Facts} facts
 * @param {{logits: ArrayLike<number>, localLogits: ArrayLike<number> | null, distance: number | null}} outputs
 * @param {string | null} warning Of the input checks. @param {{rule: Rule, refuseSuspect: boolean}} settings
 * @returns {Prediction}
 */
export function predictionFrom(facts, outputs, warning, { rule, refuseSuspect }) {
  const { distance } = outputs;
  const limit = facts.distance_limit;
  if (distance !== null && limit !== null && distance > limit) {
    const found = `distance ${threeDigits(distance)}, limit ${threeDigits(limit)}`;
    warning = [warning, `unlike the training images (${found})`].filter(Boolean).join("; ");
    if (refuseSuspect) return { ...nothing(), warning, refused_because: warning };
  }
  const global = probabilities(outputs.logits, facts.problem_type);
  const local = outputs.localLogits === null ? [] : probabilities(outputs.localLogits);
  const prediction = nothing();
  prediction.warning = warning;
  prediction.probabilities = Object.fromEntries(facts.global_labels.map((name, i) => [name, global[i]]));
  prediction.findings = Object.fromEntries(
    facts.local_labels.slice(0, local.length).map((name, i) => [name, facts.unlearned_findings.includes(name) ? NaN : local[i]]),
  );
  prediction.decisions = decisions(facts, prediction, rule);
  return prediction;
}

/** @returns {Prediction} */
export function nothing() {
  return { probabilities: {}, findings: {}, decisions: {}, warning: null, refused_because: null, error: null };
}

/** @param {Facts} facts @param {Prediction} prediction @param {Rule} rule @returns {Record<string, Decision>} */
function decisions(facts, prediction, rule) {
  /** @type {Record<string, Decision>} */
  const found = {};
  const points = facts.operating_points;
  if (!points) return found;
  const heads = /** @type {const} */ ([["global", prediction.probabilities], ["finding", prediction.findings]]);
  for (const [head, scores] of heads) {
    const [names, values] = [Object.keys(scores), Object.values(scores)];
    const temperature = points.temperatures[head];
    const kind = head === "global" ? points.problem_type : "";
    const calibrated = temperature === undefined || !names.length ? null : withTemperature(values, temperature, kind);
    names.forEach((name, i) => {
      const label = points.labels[`${head}/${name}`];
      if (!label || Number.isNaN(values[i])) return;
      const point = pointOf(label, rule);
      if (!point && !calibrated) return;
      // An image with a warning gets no decision: its threshold was chosen on images without one.
      const decides = point !== null && prediction.warning === null;
      found[`${head}/${name}`] = {
        calibrated: calibrated?.[i] ?? null,
        threshold: point?.threshold ?? null,
        decision: decides ? (values[i] >= point.threshold ? "positive" : "negative") : "",
        triage: decides ? triage(values[i], label) : "",
      };
    });
  }
  return found;
}

/** @param {number} value @returns {string} As Python's `:.3g`. */
const threeDigits = (value) => String(Number(value.toPrecision(3)));
