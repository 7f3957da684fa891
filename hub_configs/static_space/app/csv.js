/** Predictions as CSV, with the columns of `mlcak predict --format csv`. */

/** @typedef {import("../engine/decisions.js").Facts} Facts */
/** @typedef {import("../engine/decisions.js").Prediction} Prediction */

/** @param {{name: string, prediction: Prediction}[]} results @param {Facts} facts @returns {string} */
export function toCsv(results, facts) {
  const rows = results.map((result) => row(result, facts));
  // The first success has every column.
  const first = rows.find((_, i) => Object.keys(results[i].prediction.probabilities).length);
  const columns = Object.keys(first ?? rows[0] ?? {});
  const lines = [columns, ...rows.map((cells) => columns.map((column) => cells[column] ?? ""))];
  return lines.map((cells) => `${cells.map(quoted).join(",")}\r\n`).join("");
}

/** @param {{name: string, prediction: Prediction}} result @param {Facts} facts @returns {Record<string, string>} */
function row({ name, prediction }, facts) {
  /** @type {Record<string, string>} */
  const cells = { file: name, image_id: stem(name) };
  for (const [label, value] of Object.entries(prediction.probabilities)) cells[`global/${label}`] = sixDigits(value);
  for (const [label, value] of Object.entries(prediction.findings)) cells[`finding/${label}`] = sixDigits(value);
  for (const [label, decision] of Object.entries(prediction.decisions)) {
    for (const [what, value] of Object.entries(decision)) {
      cells[`${label}/${what}`] = typeof value === "number" ? sixDigits(value) : (value ?? "");
    }
  }
  const { warning, refused_because: refused, error } = prediction;
  const notes = { heatmap: "", warning: warning ?? "", refused_because: refused ?? "", error: error ?? "" };
  const weights = (facts.weights ?? "").slice(0, 12);
  return { ...cells, ...notes, model: facts.model, mlcak_version: facts.mlcak_version, weights };
}

/** @param {string} name @returns {string} The file's name without folder and suffix. */
export function stem(name) {
  const last = name.split("/").at(-1) ?? name;
  const dot = last.lastIndexOf(".");
  return dot > 0 ? last.slice(0, dot) : last;
}

/** @param {number} value @returns {string} As Python's `:.6g`; empty for NaN. */
export function sixDigits(value) {
  if (Number.isNaN(value)) return "";
  const [digits, exponent] = value.toExponential(5).split("e");
  if (value !== 0 && (Number(exponent) < -4 || Number(exponent) > 5)) {
    const short = digits.replace(/\.?0+$/, "");
    return `${short}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
  }
  return String(Number(value.toPrecision(6)));
}

/** @param {string} cell @returns {string} */
function quoted(cell) {
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}
