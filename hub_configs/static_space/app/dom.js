/** Short ways to make elements. Text is always set as text, so that no file name can become markup. */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Record<string, string | boolean | number | ((event: Event) => void)>} [attributes]
 * @param {...(Node | string | null)} children @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false) made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** @template {HTMLElement} T @param {string} id @returns {T} */
export function byId(id) {
  return /** @type {T} */ (document.getElementById(id));
}

/**
 * @param {HTMLCanvasElement} canvas @param {number} height @param {number} width @param {Uint8ClampedArray} pixels RGBA.
 */
export function paint(canvas, height, width, pixels) {
  canvas.height = height;
  canvas.width = width;
  const image = new ImageData(/** @type {Uint8ClampedArray<ArrayBuffer>} */ (pixels), width, height);
  canvas.getContext("2d")?.putImageData(image, 0, 0);
}

/** @param {Float32Array} values In [0, 1]. @returns {Uint8ClampedArray} */
export function greyBytes(values) {
  return Uint8ClampedArray.from(values, (value) => value * 255);
}
