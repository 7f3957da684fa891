/** The class token's attention in colour over a radiograph, as in `mlcak_hf/explanation/overlay.py`. */

/** @typedef {{rows: number, columns: number, values: Float32Array}} Attention */

const [FULL_COLOUR, CLEARLY_UNEVEN, STRONGEST_TINT] = [16, 1.5, 0.65];
/** Matplotlib's "inferno" at every sixteenth. */
const INFERNO = [
  [0, 0, 4], [11, 7, 36], [33, 12, 74], [61, 9, 101], [87, 16, 110], [113, 25, 110], [138, 34, 106], [163, 44, 97],
  [188, 55, 84], [210, 70, 68], [228, 90, 49], [241, 115, 29], [249, 142, 9], [252, 172, 17], [249, 203, 53],
  [242, 234, 105], [252, 255, 164],
]; // prettier-ignore

/**
 * For each shown pixel, the two nearest cells and the weight of the first: flat at the centres (smoothstep), because
 * linear blending in two directions draws a four-pointed star.
 * @param {number} count Shown pixels. @param {number} length Of the original. @param {number} before Padding before it.
 * @param {number} side Of the square, in original pixels. @param {number} cells
 * @returns {{first: number, second: number, weight: number}[]}
 */
function blend(count, length, before, side, cells) {
  return Array.from({ length: count }, (_, i) => {
    const position = ((((i + 0.5) * length) / count + before) / side) * cells;
    const between = Math.min(cells - 1, Math.max(0, position - 0.5));
    const first = Math.floor(between);
    const near = 1 - (between - first);
    return { first, second: Math.min(cells - 1, first + 1), weight: near * near * (3 - 2 * near) };
  });
}

/**
 * @param {Attention} attention @param {{height: number, width: number}} original @param {string} fit
 * @param {{height: number, width: number}} shown @returns {Float32Array} In multiples of uniform attention, per pixel.
 */
export function attentionOver({ rows, columns, values }, original, fit, shown) {
  const total = values.reduce((sum, value) => sum + value, 0);
  const relative = values.map((value) => (total > 0 ? (value * values.length) / total : 0));
  const longer = Math.max(original.height, original.width);
  const [down, across] = [original.height, original.width].map((length, axis) => {
    const side = fit === "pad" ? longer : length;
    const [count, cells] = axis ? [shown.width, columns] : [shown.height, rows];
    return blend(count, length, Math.floor((side - length) / 2), side, cells);
  });
  const found = new Float32Array(shown.height * shown.width);
  const line = new Float32Array(columns);
  down.forEach((at, y) => {
    for (let c = 0; c < columns; c++) {
      const [upper, lower] = [relative[at.first * columns + c], relative[at.second * columns + c]];
      line[c] = at.weight * upper + (1 - at.weight) * lower;
    }
    across.forEach(({ first, second, weight }, x) => {
      found[y * shown.width + x] = weight * line[first] + (1 - weight) * line[second];
    });
  });
  return found;
}

/**
 * @param {Uint8ClampedArray} grey @param {Float32Array | null} over @returns {Uint8ClampedArray} RGBA.
 */
export function tinted(grey, over) {
  const pixels = new Uint8ClampedArray(4 * grey.length);
  for (let i = 0; i < grey.length; i++) {
    const strength = over === null ? 0 : Math.log(Math.min(FULL_COLOUR, Math.max(1, over[i]))) / Math.log(FULL_COLOUR);
    const tint = STRONGEST_TINT * strength;
    const colour = colourOf(strength);
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = grey[i] * (1 - tint) + colour[c] * tint;
    pixels[4 * i + 3] = 255;
  }
  return pixels;
}

/** @param {number} strength In [0, 1]. @returns {number[]} */
export function colourOf(strength) {
  const at = strength * (INFERNO.length - 1);
  const first = Math.min(INFERNO.length - 2, Math.floor(at));
  return INFERNO[first].map((value, c) => value + (INFERNO[first + 1][c] - value) * (at - first));
}

/** @param {Attention} attention @returns {string} What the map is, and when it says little. */
export function explanation({ rows, columns, values }) {
  const total = values.reduce((sum, value) => sum + value, 0);
  const most = total > 0 ? (Math.max(...values) * values.length) / total : 0;
  const uneven = most < CLEARLY_UNEVEN ? ` It is nearly uniform here, at most ${most.toFixed(2)}x.` : "";
  return `Where the class token attends, in ${rows} x ${columns} patches. 1x: as much as if all got the same.${uneven}`;
}
