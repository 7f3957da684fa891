/** A Space that came through the loopback Hub, in a real Chromium. `make test-space` prepares the folder named by MLCAK_SPACE_WORK. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const WORK = process.env.MLCAK_SPACE_WORK ?? "";
const PYTHON = process.env.MLCAK_SPACE_PYTHON ?? "";
const SCREENSHOTS = process.env.MLCAK_SPACE_SCREENSHOTS;
const QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"];
const SLOW = 120_000; // a busy machine takes its time

/** @type {import("playwright-core").Browser} */
let browser;
/** @type {import("playwright-core").Page} */
let page;
/** @type {import("node:child_process").ChildProcess} */
let app;
let url = "";
/** @type {string[]} */
const said = [];
/** @type {Set<string>} */
const asked = new Set();
/** Everything that the app printed. */
let printed = "";

before(async () => {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: QUIET });
  url = await started();
  page = await opened();
});

after(async () => {
  await browser?.close();
  app?.kill();
});

/** Start the app; its address. */
async function started() {
  const port = await new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = /** @type {import("node:net").AddressInfo} */ (probe.address());
      probe.close(() => resolve(port));
    });
  });
  const env = { ...process.env, GRADIO_SERVER_PORT: String(port), PYTHONPATH: "", PYTHONUNBUFFERED: "1" };
  app = spawn(PYTHON, ["app.py"], { cwd: join(WORK, "app"), env });
  for (const stream of [app.stdout, app.stderr]) stream?.on("data", (text) => (printed += text));
  const url = `http://127.0.0.1:${port}/`;
  for (const end = Date.now() + SLOW; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, 300))) {
    if (app.exitCode !== null) break;
    if (await fetch(url).then((answer) => answer.ok, () => false)) return url;
  }
  throw new Error(`The app did not start: ${printed}`);
}

/** @param {{width: number, height: number}} viewport */
async function opened(viewport = { width: 1280, height: 900 }) {
  const page = await (await browser.newContext({ viewport })).newPage();
  page.setDefaultTimeout(SLOW);
  page.on("console", (message) => message.type() === "error" && said.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => said.push(String(error)));
  page.on("request", (request) => asked.add(request.url()));
  await page.goto(url);
  await page.waitForSelector("#result .empty");
  return page;
}

/** Wait for a result that was not there before, and return its text.
 * @param {import("playwright-core").Page} on @param {() => Promise<unknown>} act */
async function answered(on, act) {
  await on.$$eval("#result .box, #result .scores, #result .pictures, #result .empty", (old) => old.forEach((part) => part.classList.add("old")));
  await act();
  await on.waitForSelector("#result .box:not(.old), #result .scores:not(.old)");
  return (await on.locator("#result .box, #result .scores, #result .pictures").allInnerTexts()).join("\n");
}

/** Upload a file, in place of another. @param {string} file @param {import("playwright-core").Page} on */
async function shown(file, on = page) {
  await cleared(on);
  return answered(on, () => on.setInputFiles("input[type=file]", file));
}

/** @param {import("playwright-core").Page} on */
async function cleared(on) {
  const clear = on.getByLabel(/clear|remove/i);
  if (!(await clear.count())) return;
  await clear.first().click();
  await on.waitForSelector("#result .empty");
}

/** @param {import("playwright-core").Page} on @param {string} name */
async function photographed(on, name) {
  if (SCREENSHOTS) await on.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage: true });
}

test("every example gives Python's probabilities, decision and warning", async () => {
  const expected = JSON.parse(readFileSync(join(WORK, "expected.json"), "utf8"));
  assert.equal(Object.keys(expected).length, 4);
  for (const [name, { probabilities, decision, warning }] of Object.entries(expected)) {
    const text = await shown(join(WORK, "app", "examples", name));
    for (const value of Object.values(probabilities)) assert.match(text, new RegExp(`probability ${value}`), name);
    assert.ok(text.includes(decision), `${name}: ${text}`);
    assert.equal(/Warning\./.test(text), warning !== null, `${name}: ${text}`);
    const sizes = await page.$$eval("#result img", (images) => images.map((image) => /** @type {HTMLImageElement} */ (image).naturalWidth));
    assert.equal(sizes.length, 3);
    assert.equal(sizes[1], 28);
  }
});

test("an example is one click away", async () => {
  const page = await opened();
  assert.match(await answered(page, () => page.getByText("phantom-2.dcm").first().click()), /probability/);
  await photographed(page, "app");
  await page.context().close();
});

test("every bad file is one sentence, and the app goes on", async () => {
  const bad = /** @type {Record<string, RegExp>} */ ({
    "text.dcm": /Not read\. .*text file/,
    "page.png": /Not read\. .*HTML page/,
    "photograph.jpg": /colour/,
    "grey-card.png": /Refused\. No usable contrast|contrast/,
    "huge.png": /Not read\. /,
    "cut-off.dcm": /Not read\. /,
    "empty.png": /Not read\. .*empty/,
  });
  for (const [name, sentence] of Object.entries(bad)) {
    const text = await shown(join(WORK, "bad", name));
    assert.match(text, sentence, name);
    assert.equal(await page.locator("#result .box").count(), 1, name);
    if (name === "text.dcm") await photographed(page, "not-read");
  }
  assert.match(await shown(join(WORK, "app", "examples", "phantom-2.dcm")), /probability/);
});

test("without a file, the button asks for one", async () => {
  await cleared(page);
  const text = await answered(page, () => page.getByRole("button", { name: "Predict" }).click());
  assert.match(text, /Choose a radiograph first/);
});

test("an unsuitable image is refused on request, with its reason", async () => {
  const text = await shown(join(WORK, "app", "examples", "phantom-upside-down.png"));
  assert.match(text, /Warning\. .*Nothing is decided/);
  await page.getByRole("button", { name: "Settings" }).click();
  const refused = await answered(page, () => page.getByLabel("Refuse").check());
  assert.match(refused, /^Refused\. .+\.$/);
  assert.match(await answered(page, () => page.getByLabel("Predict with a warning").check()), /probability/);
});

test("on a phone, findings are listed and nothing is wider than the screen", async () => {
  const page = await opened({ width: 390, height: 844 });
  const text = await shown(join(WORK, "app", "examples", "phantom-3.png"), page);
  assert.match(text, /Findings[^]*Pneumothorax/);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 390, `the page is ${width} px wide on a phone of 390 px`);
  await photographed(page, "phone");
  await page.context().close();
});

test("no error on the console or in the app, and no other host was asked", async () => {
  assert.deepEqual(said, []);
  assert.deepEqual([...asked].filter((url) => !/^(http:\/\/127\.0\.0\.1:|blob:|data:)/.test(url)), []);
  assert.ok(asked.size > 10);
  assert.doesNotMatch(printed, /Traceback|Error/);
  assert.equal(app.exitCode, null);
});
