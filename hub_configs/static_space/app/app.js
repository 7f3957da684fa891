/** The page: files in, results out. */
import { textAsset } from "./assets.js";
import { toCsv, stem } from "./csv.js";
import { detailOf } from "./detail.js";
import { byId, element, greyBytes, paint } from "./dom.js";
import { Engine } from "./engine.js";
import { droppedFiles, pastedFiles } from "./files.js";
import { tinted } from "./heatmap.js";
import { aboutModel, ruleOptions, verdictOf } from "./words.js";

/** @typedef {import("./engine.js").Answer} Answer */
/** @typedef {{name: string, file: File, answer: Answer | null, row: HTMLButtonElement}} Entry */

const MAX_BYTES = 512 * 1024 ** 2;
const PICTURE_PX = 700;

/** @type {Entry[]} */
let entries = [];
/** @type {Entry | null} */
let selected = null;
let heatmap = true;
let running = false;
/** Goes up with every change of the settings. */
let version = 0;
/** @type {import("../engine/decisions.js").Facts} */
let facts;
/** @type {Engine} */
let engine;
/** @type {((heatmap: boolean) => void) | null} */
let redraw = null;

const [status, list, detail] = [byId("status"), byId("list"), byId("detail")];
const form = /** @type {HTMLFormElement} */ (byId("settings"));

/** @returns {import("../engine/worker.js").Settings} */
function settings() {
  const data = new FormData(form);
  const [black, white] = [data.get("black"), data.get("white")].map((text) => (text === "" ? NaN : Number(text)));
  const rule = /** @type {import("../engine/decisions.js").Rule} */ (data.get("rule") || "youden");
  return {
    rule,
    refuseSuspect: data.get("suspect") === "refuse",
    voi: String(data.get("voi")),
    valueRange: black < white ? [black, white] : null,
  };
}

/** @param {{name: string, file: File}[]} chosen */
function add(chosen) {
  if (!chosen.length) return;
  for (const { name, file } of chosen) {
    const row = element("button", { type: "button" });
    const entry = { name, file, answer: null, row };
    row.addEventListener("click", () => select(entry, true));
    entries.push(entry);
    describe(entry);
    list.append(element("li", {}, row));
  }
  byId("work").hidden = false;
  document.body.classList.add("working");
  byId("count").textContent = entries.length === 1 ? "1 file" : `${entries.length} files`;
  if (!selected) select(entries[0], false);
  void run();
}

/** Predict whatever has no answer yet, one file after the other. */
async function run() {
  if (running) return;
  setRunning(true);
  for (let entry; (entry = entries.find(({ answer }) => answer === null)) !== undefined; ) {
    const done = entries.filter(({ answer }) => answer !== null).length;
    status.textContent = `Reading ${done + 1} of ${entries.length}: ${entry.name}`;
    const asked = version;
    const answer = await answerFor(entry);
    if (asked !== version) continue; // the settings changed meanwhile
    entry.answer = answer;
    describe(entry);
    if (entry === selected) await show(entry);
  }
  setRunning(false);
  status.textContent = summary();
}

/** @param {boolean} now */
function setRunning(now) {
  running = now;
  /** @type {HTMLButtonElement} */ (byId("save")).disabled = now;
}

/** @param {Entry} entry @returns {Promise<Answer>} */
async function answerFor({ file }) {
  try {
    if (file.size > MAX_BYTES) {
      const size = `${Math.round(file.size / 1024 ** 2)} MB`;
      throw new Error(`A file must have at most ${MAX_BYTES / 1024 ** 2} MB; this one has ${size}. Leave it out.`);
    }
    return await engine.predict(await bytesOf(file), settings());
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const prediction = { probabilities: {}, findings: {}, decisions: {}, warning: null, refused_because: null, error: message };
    return { prediction, attention: null, seen: null, height: 0, width: 0 };
  }
}

/** @param {File} file @returns {Promise<Uint8Array>} */
async function bytesOf(file) {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Error("The file cannot be opened: it was moved, changed or is not readable. Open it again.");
  }
}

/** @returns {string} */
function summary() {
  const kinds = entries.map(({ answer }) => (answer ? verdictOf(answer.prediction, facts).kind : "stopped"));
  const stopped = kinds.filter((kind) => kind === "stopped").length;
  if (!entries.length) return "";
  return stopped ? `Done. ${stopped} of ${entries.length} could not be read or were refused.` : "Done.";
}

/** Fill in a row of the list. @param {Entry} entry */
function describe({ name, answer, row }) {
  const verdict = answer ? verdictOf(answer.prediction, facts) : null;
  const thumbnail = element("canvas", { class: "thumbnail", "aria-hidden": "true" });
  if (answer?.seen) {
    const side = Math.sqrt(answer.seen.length);
    paint(thumbnail, side, side, tinted(greyBytes(answer.seen), null));
  }
  const said = element("span", { class: `said ${verdict?.kind ?? ""}` }, verdict?.short ?? "waiting");
  row.replaceChildren(thumbnail, element("span", { class: "words" }, element("span", { class: "file" }, name), said));
}

/** @param {Entry} entry @param {boolean} scroll */
function select(entry, scroll) {
  selected?.row.removeAttribute("aria-current");
  selected = entry;
  entry.row.setAttribute("aria-current", "true");
  void show(entry);
  // On a phone the result is below the list.
  if (scroll && detail.offsetTop > list.offsetTop + 40) detail.scrollIntoView({ block: "start" });
}

/** @param {Entry} entry */
async function show(entry) {
  redraw = null;
  if (entry.answer === null) {
    detail.replaceChildren(element("h2", { class: "name" }, entry.name), element("p", {}, "Waiting for its turn."));
    return;
  }
  const made = detailOf(entry.name, entry.answer, facts, { heatmap, toggle: toggleHeatmap });
  detail.replaceChildren(...made.nodes);
  if (entry.answer.prediction.error !== null) return;
  try {
    const picture = await engine.picture(await bytesOf(entry.file), PICTURE_PX, settings());
    if (entry !== selected) return;
    redraw = (shown) => made.show(picture, shown);
    redraw(heatmap);
  } catch (error) {
    status.textContent = error instanceof Error ? error.message : String(error);
  }
}

function toggleHeatmap() {
  heatmap = !heatmap;
  redraw?.(heatmap);
}

function clear() {
  entries = [];
  selected = null;
  redraw = null;
  list.replaceChildren();
  detail.replaceChildren();
  byId("work").hidden = true;
  document.body.classList.remove("working");
  status.textContent = "";
  byId("open").focus();
}

function again() {
  version++;
  for (const entry of entries) {
    entry.answer = null;
    describe(entry);
  }
  if (selected) void show(selected);
  void run();
}

function save() {
  const done = entries.flatMap(({ name, answer }) => (answer ? [{ name, prediction: answer.prediction }] : []));
  const url = URL.createObjectURL(new Blob([toCsv(done, facts)], { type: "text/csv" }));
  const link = element("a", { href: url, download: `${stem(facts.model)}-predictions.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Arrow keys move in the list. @param {KeyboardEvent} event */
function moveInList(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const at = entries.findIndex(({ row }) => row === document.activeElement);
  const next = step === undefined || at < 0 ? undefined : entries[at + step];
  if (!next) return;
  event.preventDefault();
  next.row.focus();
  select(next, false);
}

function listen() {
  const chooser = /** @type {HTMLInputElement} */ (byId("chooser"));
  byId("open").addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    add(Array.from(chooser.files ?? [], (file) => ({ name: file.name, file })));
    chooser.value = "";
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dragging");
  });
  addEventListener("drop", async (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    if (event.dataTransfer) add(await droppedFiles(event.dataTransfer));
  });
  addEventListener("paste", (event) => event.clipboardData && add(pastedFiles(event.clipboardData)));
  list.addEventListener("keydown", moveInList);
  byId("save").addEventListener("click", save);
  byId("clear").addEventListener("click", clear);
  form.addEventListener("change", again);
}

function fillIn() {
  const options = ruleOptions(facts);
  const select_ = /** @type {HTMLSelectElement} */ (form.elements.namedItem("rule"));
  select_.append(...options.map(({ rule, words }) => element("option", { value: rule }, words)));
  form.querySelector(".points")?.toggleAttribute("hidden", !options.length);
  /** @type {HTMLSelectElement} */ (form.elements.namedItem("voi")).value = facts.voi;
  const terms = aboutModel(facts).flatMap(([term, words]) => [element("dt", {}, term), element("dd", {}, words)]);
  const licences = element("button", { type: "button" }, "Show the licences of the software in this page");
  licences.addEventListener("click", async () => licences.replaceWith(element("pre", { tabindex: 0 }, await textAsset("LICENSES.txt"))));
  byId("about").append(element("dl", {}, ...terms), licences);
}

async function workOffline() {
  const note = byId("offline");
  if (location.protocol === "file:") {
    note.textContent = "This page is a single file and needs no network.";
  } else if ("serviceWorker" in navigator) {
    try {
      await navigator.serviceWorker.register("service_worker.js");
      await navigator.serviceWorker.ready;
      note.textContent = "Saved in this browser: the page now opens without a network.";
    } catch {
      note.textContent = "This browser does not keep the page: without a network, it opens from the single-file version only.";
    }
  }
}

async function start() {
  facts = JSON.parse(await textAsset("model/model.json"));
  engine = new Engine(facts);
  fillIn();
  listen();
  document.body.dataset.ready = "true";
  await engine.started();
  await workOffline();
}

start().catch((error) => {
  status.textContent = `The page could not start: ${error instanceof Error ? error.message : error}`;
});
