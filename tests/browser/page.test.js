/** The page in a real Chromium, against Python. `make test-browser` prepares the folder named by MLCAK_BROWSER_WORK. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { serve } from "./server.js";

const WORK = process.env.MLCAK_BROWSER_WORK ?? new URL("../../.browser/work", import.meta.url).pathname;
const NET_LOG = join(WORK, "net-log.json");
const OPERATING_POINTS = new URL("../../hub_configs/checkpoints/pneumonia-28/operating_points.json", import.meta.url);
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const GOOD = filesOf("good");
const QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"];
const MOBILE = { width: 390, height: 844 };

/** What each bad file is answered. */
const BAD = /** @type {Record<string, RegExp>} */ ({
  "archive.dcm": /it is a ZIP file/,
  "colour.dcm": /colour or palette image/,
  "cut-off.dcm": /damaged or cut off/,
  "cut-off.jpg": /damaged or cut off/,
  "cut-off.png": /damaged or cut off/,
  "damaged-j2k.dcm": /./, // a damaged codestream may decode to something
  "damaged-jpeg-ls.dcm": /./,
  "declares-60000.dcm": /at most|1 to 60,000,000 pixels/,
  "empty.png": /The file is empty/,
  "grey-card.png": /no usable contrast/,
  "huge.png": /1 to 60,000,000 pixels/,
  "jpeg-12.dcm": /JPEG of 12 bits cannot be read in a browser/,
  "no-rows.dcm": /Rows is missing/,
  "page.png": /The file is an HTML page/,
  "photograph.jpg": /in colour/,
  "text.dcm": /it is a text file/,
  "twelve-in-sixteen.png": /at most an eighth of its 16-bit range/,
  "two-frames.dcm": /Number of Frames is 2/,
  "window-of-0.dcm": /Window Width is 0/,
});

/** @type {import("playwright-core").Browser} */
let browser;
/** @type {Awaited<ReturnType<typeof serve>>} */
let server;
/** Everything that any page said on its console. @type {string[]} */
const said = [];
/** Every address that any page asked for. @type {Set<string>} */
const asked = new Set();

/** Shared by the tests that need no page of their own. @type {import("playwright-core").Page} */
let page;

before(async () => {
  server = await serve(join(WORK, "page"));
  browser = await launch([`--log-net-log=${NET_LOG}`]);
  page = await opened();
});

beforeEach(async () => {
  if (await page.isVisible("#clear")) await page.click("#clear");
});

after(async () => {
  await browser?.close();
  await server?.stop();
});

/** @param {string[]} [more] */
function launch(more = []) {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: [...QUIET, ...more] });
}

/** @param {string} kind @returns {string[]} */
function filesOf(kind) {
  return readdirSync(join(WORK, kind)).sort().map((name) => join(WORK, kind, name));
}

/** @param {import("playwright-core").BrowserContextOptions & {url?: string}} [options] */
async function opened({ url = server.url, ...options } = {}) {
  const context = await browser.newContext({ acceptDownloads: true, viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(200_000); // a busy machine takes its time
  page.on("console", (message) => said.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => said.push(String(error)));
  context.on("request", (request) => asked.add(request.url()));
  await page.goto(url);
  await page.waitForSelector("body[data-ready]");
  return page;
}

/** @param {import("playwright-core").Page} page @param {string[]} files */
async function predicted(page, files) {
  const before = await page.locator("#list li").count();
  await page.setInputFiles("#chooser", files);
  await isDone(page, before + files.length);
}

/** @param {import("playwright-core").Page} page @param {number} count */
async function isDone(page, count) {
  await page.waitForFunction(
    (expected) =>
      document.querySelectorAll("#list li").length === expected &&
      /^Done/.test(document.getElementById("status")?.textContent ?? ""),
    count,
  );
}

/** @param {import("playwright-core").Page} page @returns {Promise<Record<string, string>[]>} */
async function savedRows(page) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
  return parsed(readFileSync(await download.path(), "utf8"));
}

/** @param {string} csv @returns {Record<string, string>[]} */
function parsed(csv) {
  const cells = (/** @type {string} */ line) =>
    [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map(([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain);
  const [header, ...lines] = csv.trim().split(/\r?\n/).map(cells);
  return lines.map((line) => Object.fromEntries(header.map((name, i) => [name, line[i]])));
}

/** Numbers in a warning may differ in the last digit. @param {string} text @returns {string} */
const withoutNumbers = (text) => text.replaceAll(/[\d.]+(?=[,)])/g, "#");

test("every syntax, depth and polarity gives Python's probabilities to 1e-3, and its decisions", async (t) => {
  await predicted(page, GOOD);
  const [found, expected] = [await savedRows(page), parsed(readFileSync(join(WORK, "expected.csv"), "utf8"))];
  assert.ok(found.length >= 30 && found.length === expected.length);
  assert.deepEqual(Object.keys(found[0]), Object.keys(expected[0]));
  let largest = 0;
  found.forEach((row, i) => {
    const wanted = expected[i];
    assert.equal(row.image_id, wanted.image_id);
    for (const [name, value] of Object.entries(wanted)) {
      if (name === "file") continue;
      const isNumber = /^(global|finding)\/[^/]+(\/(calibrated|threshold))?$/.test(name) && value !== "";
      if (!isNumber) assert.equal(withoutNumbers(row[name]), withoutNumbers(value), `${row.file}: ${name}`);
      else largest = Math.max(largest, Math.abs(Number(row[name]) - Number(value)));
      if (isNumber) assert.ok(Math.abs(Number(row[name]) - Number(value)) <= 1e-3, `${row.file}: ${row[name]} is not ${value}`);
    }
  });
  t.diagnostic(`${found.length} radiographs, largest difference of a probability ${largest.toExponential(1)}`);
});

test("every bad file is answered with a sentence, and the page goes on", async () => {
  await predicted(page, [...filesOf("bad"), GOOD[0]]);
  const rows = await savedRows(page);
  for (const row of rows.slice(0, -1)) {
    const answer = row.error || row.refused_because || row.warning || "decoded";
    assert.match(answer, BAD[row.file], row.file);
    assert.match(answer, /[.)]$|colour|turned|noise|decoded|training/, row.file);
  }
  assert.deepEqual(rows.slice(0, -1).map(({ file }) => file), Object.keys(BAD));
  assert.notEqual(rows.at(-1)?.["global/pneumonia"], "");
  await page.click("#list li:nth-child(2) button");
  assert.match(await page.innerText(".verdict"), /Not read/);
});

test("files are dropped and pasted too", async () => {
  const bytes = [...readFileSync(join(WORK, "good", "grey-8.png"))];
  for (const kind of ["drop", "paste"]) {
    await page.evaluate(
      ([event, content]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(content)], `${event}.png`, { type: "image/png" }));
        const options = { bubbles: true, cancelable: true };
        if (event === "drop") window.dispatchEvent(new DragEvent("drop", { ...options, dataTransfer: transfer }));
        else window.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
      },
      /** @type {[string, number[]]} */ ([kind, bytes]),
    );
    await isDone(page, kind === "drop" ? 1 : 2);
  }
  assert.deepEqual((await savedRows(page)).map(({ file }) => file), ["drop.png", "paste.png"]);
});

test("the settings change the threshold, the grey values and what is refused", async () => {
  await predicted(page, [join(WORK, "bad", "twelve-in-sixteen.png"), GOOD[0]]);
  await page.click("summary:has-text('Settings')");
  await page.fill("input[name=black]", "0");
  await page.fill("input[name=white]", "4095");
  await page.keyboard.press("Tab");
  await page.selectOption("select[name=rule]", "sensitivity");
  await isDone(page, 2);
  const [picture, dicom] = await savedRows(page);
  assert.equal(picture.refused_because, "");
  const known = JSON.parse(readFileSync(OPERATING_POINTS, "utf8")).labels["global/pneumonia"].at_sensitivity.threshold;
  assert.equal(dicom["global/pneumonia/threshold"], known.toPrecision(6));
  await page.selectOption("select[name=suspect]", "refuse");
  await isDone(page, 2);
  for (const row of await savedRows(page)) assert.equal(row.refused_because, row.warning);
  await page.evaluate(() => /** @type {HTMLFormElement} */ (document.getElementById("settings")).reset());
});

test("the keyboard is enough, and the heatmap can be switched off", async () => {
  await predicted(page, GOOD.slice(0, 3));
  await page.focus("#list li:nth-child(1) button");
  await page.keyboard.press("ArrowDown");
  assert.equal(await page.innerText(".name"), "big-endian-8.dcm");
  await page.waitForFunction(() => (document.querySelector("canvas[role=img]")?.height ?? 0) > 150);
  const shown = () => page.$eval(".radiograph canvas", (canvas) => /** @type {HTMLCanvasElement} */ (canvas).toDataURL());
  const before = await shown();
  await page.focus("button[aria-pressed]");
  await page.keyboard.press("Enter");
  assert.equal(await page.getAttribute("button[aria-pressed]", "aria-pressed"), "false");
  assert.notEqual(await shown(), before);
});

test("axe-core finds no serious violation, wide and narrow, light and dark", async () => {
  const page = await opened({ bypassCSP: true });
  const violations = async () => {
    await page.evaluate(AXE);
    const { violations } = await page.evaluate(() => /** @type {any} */ (window).axe.run());
    return violations.filter((/** @type {any} */ { impact }) => ["serious", "critical"].includes(impact));
  };
  assert.deepEqual(await violations(), []);
  await predicted(page, [join(WORK, "bad", "text.dcm"), ...GOOD.slice(0, 4)]);
  for (const summary of await page.$$("summary")) await summary.click();
  for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
    await page.emulateMedia({ colorScheme });
    for (const row of [1, 2, 4]) {
      await page.click(`#list li:nth-child(${row}) button`);
      assert.deepEqual(await violations(), []);
    }
  }
  await page.setViewportSize(MOBILE);
  assert.deepEqual(await violations(), []);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= MOBILE.width, `the page is ${width} px wide on a phone of ${MOBILE.width} px`);
  await page.context().close();
});

test("the page and its worker cannot connect to another server", async () => {
  let visits = 0;
  const other = createServer((_, response) => response.end(String(++visits)));
  await new Promise((resolve) => other.listen(0, "127.0.0.1", () => resolve(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (other.address());
  await predicted(page, GOOD.slice(0, 1));
  const silent = said.length;
  const attempt = (/** @type {string} */ url) =>
    fetch(url, { mode: "no-cors" }).then(
      () => "connected",
      () => "refused",
    );
  const url = `http://127.0.0.1:${port}/`;
  assert.equal(await page.evaluate(attempt, url), "refused");
  assert.equal(await page.workers()[0].evaluate(attempt, url), "refused");
  assert.equal(visits, 0);
  other.close();
  said.splice(silent); // the browser reports what it refused
  asked.delete(url);
});

test("after one visit the page opens and predicts with its server stopped", async () => {
  const own = await serve(join(WORK, "page"));
  const page = await opened({ url: own.url });
  await page.waitForFunction(() => /without a network/.test(document.getElementById("offline")?.textContent ?? ""));
  await own.stop();
  await page.reload();
  await page.waitForSelector("body[data-ready]");
  await predicted(page, GOOD.slice(0, 2));
  assert.notEqual((await savedRows(page))[1]["global/pneumonia"], "");
  await page.context().close();
});

test("the single file opens from a disk and gives the same numbers", async (t) => {
  const [name] = readdirSync(join(WORK, "single"));
  const path = join(WORK, "single", name);
  const some = GOOD.filter((file) => /j2k-12|jpeg-ls-12|jpeg-8\.|grey-16|implicit/.test(file));
  const page = await opened({ url: pathToFileURL(path).href });
  await predicted(page, some);
  const expected = parsed(readFileSync(join(WORK, "expected.csv"), "utf8"));
  for (const row of await savedRows(page)) {
    const wanted = expected.find(({ image_id: id }) => id === row.image_id);
    assert.ok(Math.abs(Number(row["global/pneumonia"]) - Number(wanted?.["global/pneumonia"])) <= 1e-3);
  }
  t.diagnostic(`${name}: ${(statSync(path).size / 1e6).toFixed(1)} MB`);
  await page.context().close();
});

test("no page said anything on its console, and no request left the page", async () => {
  assert.deepEqual(said, []);
  const foreign = [...asked].filter((url) => !/^(http:\/\/127\.0\.0\.1:|file:|blob:|data:)/.test(url));
  assert.deepEqual(foreign, []);
  await browser.close();
  // The browser's own log has requests that a page cannot see. Some are the browser's own, without an initiator.
  const { events } = JSON.parse(readFileSync(NET_LOG, "utf8"));
  /** @type {[string, string][]} */
  const requests = events.flatMap((/** @type {any} */ { params }) => (params?.url && params.initiator ? [[params.initiator, params.url]] : []));
  const ofPages = requests.filter(([initiator]) => /127\.0\.0\.1|null|file:/.test(initiator));
  assert.ok(ofPages.length > 10, `only ${ofPages.length} requests in the log`);
  assert.deepEqual(ofPages.filter(([, url]) => !/^(http:\/\/127\.0\.0\.1:|blob:|data:)/.test(url)), []);
});
