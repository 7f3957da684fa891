/** One result in full: the verdict, the radiograph with its heatmap, what the model saw, and all numbers. */
import { element, greyBytes, paint } from "./dom.js";
import { attentionOver, colourOf, explanation, tinted } from "./heatmap.js";
import { capital, number, verdictOf } from "./words.js";

/** @typedef {import("../engine/worker.js").Answer} Answer */
/** @typedef {import("../engine/decisions.js").Facts} Facts */
/** @typedef {import("../engine/decisions.js").Decision} Decision */
/** @typedef {import("./engine.js").Picture} Picture */

/**
 * @param {string} name @param {Answer} answer @param {Facts} facts
 * @param {{heatmap: boolean, toggle: () => void}} view
 * @returns {{nodes: HTMLElement[], show: (picture: Picture, heatmap: boolean) => void}}
 */
export function detailOf(name, answer, facts, { heatmap, toggle }) {
  const { prediction, seen, attention } = answer;
  const { kind, headline, lines } = verdictOf(prediction, facts);
  const verdict = element("div", { class: `verdict ${kind}` }, element("h3", {}, headline));
  verdict.append(...lines.map((line) => element("p", {}, line)));
  const canvas = element("canvas", { role: "img", "aria-label": `The radiograph ${name}` });
  const figure = element("figure", { class: "radiograph" }, canvas);
  const button = element("button", { type: "button", "aria-pressed": heatmap, click: toggle }, "Heatmap");
  const caption = element("p", { class: "legend" });
  if (attention !== null) {
    caption.append(legend(), explanation(attention), " ", element("strong", {}, "Not a location of disease."));
    figure.append(element("figcaption", {}, button, caption));
  }
  const figures = element("div", { class: "figures", hidden: prediction.error !== null }, figure);
  if (seen !== null) figures.append(seenByModel(seen));
  const nodes = [element("h2", { class: "name" }, name), verdict, figures, ...tables(prediction)];
  /** @param {Picture} picture @param {boolean} shown */
  const show = ({ height, width, pixels }, shown) => {
    const over = shown && attention !== null ? attentionOver(attention, answer, facts.fit, { height, width }) : null;
    paint(canvas, height, width, tinted(pixels, over));
    button.setAttribute("aria-pressed", String(shown));
    caption.hidden = !shown;
  };
  caption.hidden = !heatmap;
  return { nodes, show };
}

/** @param {Float32Array} seen @returns {HTMLElement} */
function seenByModel(seen) {
  const side = Math.sqrt(seen.length);
  const canvas = element("canvas", { role: "img", "aria-label": `The same image at ${side} x ${side} pixels` });
  paint(canvas, side, side, tinted(greyBytes(seen), null));
  return element("figure", { class: "seen" }, canvas, element("figcaption", {}, `What the model saw: ${side} x ${side} pixels`));
}

/** @returns {HTMLElement} The colours from 1x to 16x. */
function legend() {
  const stops = Array.from({ length: 9 }, (_, i) => `rgb(${colourOf(i / 8).map(Math.round).join(" ")})`);
  const bar = element("span", { class: "colours", "aria-hidden": "true" });
  bar.style.backgroundImage = `linear-gradient(to right, ${stops.join(", ")})`;
  return element("span", { class: "scale" }, "1x", bar, "16x");
}

/** @param {import("../engine/decisions.js").Prediction} prediction @returns {HTMLElement[]} */
function tables({ probabilities, findings, decisions }) {
  const learned = Object.entries(findings).filter(([, value]) => !Number.isNaN(value));
  const sorted = learned.sort(([, a], [, b]) => b - a);
  return [
    ...table("Labels", "global", Object.entries(probabilities), decisions),
    ...table("Findings", "finding", sorted, decisions),
  ];
}

/** @param {string} title @param {string} head @param {[string, number][]} rows @param {Record<string, Decision>} decisions */
function table(title, head, rows, decisions) {
  if (!rows.length) return [];
  const found = rows.map(([name]) => decisions[`${head}/${name}`]);
  const columns = /** @type {[string, (decision: Decision) => string][]} */ ([
    ["Calibrated", ({ calibrated }) => (calibrated === null ? "" : number(calibrated))],
    ["Threshold", ({ threshold }) => (threshold === null ? "" : number(threshold))],
    ["Decision", ({ decision }) => decision],
    ["Triage", ({ triage }) => triage],
  ]).filter(([, cell]) => found.some((decision) => decision && cell(decision)));
  const header = ["Probability", ...columns.map(([name]) => name)].map((name) => element("th", { scope: "col" }, name));
  const body = rows.map(([name, value], i) => {
    const decision = found[i];
    const cells = columns.map(([label, cell]) => element("td", { "data-label": label }, decision ? cell(decision) : ""));
    const bar = element("td", { "data-label": "Probability" }, meter(value, decision?.threshold ?? null), number(value));
    return element("tr", {}, element("th", { scope: "row" }, capital(name)), bar, ...cells);
  });
  const head_ = element("thead", {}, element("tr", {}, element("th", { scope: "col" }, title), ...header));
  return [element("table", {}, head_, element("tbody", {}, ...body))];
}

/** @param {number} value @param {number | null} threshold @returns {HTMLElement} */
function meter(value, threshold) {
  const filled = element("span", { class: "filled" });
  filled.style.width = `${100 * value}%`;
  const bar = element("span", { class: "meter", "aria-hidden": "true" }, filled);
  if (threshold !== null) {
    const mark = element("span", { class: "mark" });
    mark.style.left = `${100 * threshold}%`;
    bar.append(mark);
  }
  return bar;
}
