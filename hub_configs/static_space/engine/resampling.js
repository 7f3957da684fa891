/**
 * Area averages, as in `mlcak_hf/radiographs/resampling.py`.
 *
 * @typedef {{rows: Float64Array, columns: Float64Array}} Edges Edges of the samples, in pixels of the radiograph.
 * @typedef {{inputs: number, starts: Int32Array, shares: Float64Array[]}} Weights
 *   For each output: the first input with a share, and the shares from there on. None for an output in the padding.
 * @typedef {{height: number, width: number, samples: ArrayLike<number>, table: Float32Array | null}} Raster
 *   An image; with a table, its samples are positions in that table.
 */

/**
 * Edges of the area that each sample represents: pixels, or low-pass samples of `reduction` wavelet levels.
 * @param {number} height @param {number} width @param {number} [reduction] @returns {Edges}
 */
export function sampleEdges(height, width, reduction = 0) {
  return { rows: edgesAlong(height, reduction), columns: edgesAlong(width, reduction) };
}

/** @param {number} length @param {number} reduction @returns {Float64Array} */
function edgesAlong(length, reduction) {
  const step = 2 ** reduction;
  const edges = Float64Array.from({ length: Math.ceil(length / step) + 1 }, (_, i) => i * step + 0.5 - step / 2);
  edges[0] = 0;
  edges[edges.length - 1] = length;
  return edges;
}

/**
 * Weights that average samples onto a square; "pad" centres the image, and an odd pixel goes to the end.
 * @param {Edges} edges @param {number} size @param {string} fit @returns {[Weights, Weights]}
 */
export function weightsOntoSquare(edges, size, fit) {
  const [height, width] = [lastOf(edges.rows), lastOf(edges.columns)];
  const side = Math.max(height, width);
  const [down, across] = fit === "pad" ? [side, side] : [height, width];
  return [areaOverlaps(edges.rows, size, down), areaOverlaps(edges.columns, size, across)];
}

/**
 * Share of each sample in each of `count` equal intervals, whose total length `side` is centred on the samples.
 * @param {Float64Array} edges @param {number} count @param {number} [side] @returns {Weights}
 */
export function areaOverlaps(edges, count, side = lastOf(edges)) {
  const inputs = edges.length - 1;
  const starts = new Int32Array(count);
  const shares = [];
  const offset = Math.floor((side - lastOf(edges)) / 2);
  let first = 0;
  for (let out = 0; out < count; out++) {
    const [low, high] = [(out * side) / count - offset, ((out + 1) * side) / count - offset];
    while (first < inputs && edges[first + 1] <= low) first++;
    starts[out] = first;
    const found = [];
    for (let i = first; i < inputs && edges[i] < high; i++) {
      found.push((Math.max(0, Math.min(edges[i + 1], high) - Math.max(edges[i], low)) * count) / side);
    }
    shares.push(Float64Array.from(found));
  }
  return { inputs, starts, shares };
}

/**
 * Average an image with the weights of its rows and columns.
 * @param {Raster} image @param {[Weights, Weights]} weights @returns {Float32Array}
 */
export function resample({ width, samples, table }, [down, across]) {
  const [height, columns] = [down.shares.length, across.shares.length];
  const result = new Float32Array(height * columns);
  const row = new Float64Array(width);
  for (let y = 0; y < height; y++) {
    row.fill(0);
    down.shares[y].forEach((share, i) => {
      const at = (down.starts[y] + i) * width;
      if (table) for (let x = 0; x < width; x++) row[x] += share * table[samples[at + x]];
      else for (let x = 0; x < width; x++) row[x] += share * samples[at + x];
    });
    for (let x = 0; x < columns; x++) {
      const [shares, start] = [across.shares[x], across.starts[x]];
      let sum = 0;
      for (let i = 0; i < shares.length; i++) sum += shares[i] * row[start + i];
      result[y * columns + x] = sum;
    }
  }
  return result;
}

/**
 * Average an image onto a square, clipped to [0, 1].
 * @param {Raster} image @param {number} size @param {string} fit @returns {Float32Array}
 */
export function ontoSquare(image, size, fit) {
  return clipUnit(resample(image, weightsOntoSquare(sampleEdges(image.height, image.width), size, fit)));
}

/** @param {Float32Array} values @returns {Float32Array} */
export function clipUnit(values) {
  return values.map((value) => Math.min(1, Math.max(0, value)));
}

/**
 * The part of a padded square that shows nothing but the radiograph.
 * @param {Float32Array} square @param {number} height @param {number} width @returns {Raster}
 */
export function withoutPadding(square, height, width) {
  const side = Math.sqrt(square.length);
  const longer = Math.max(height, width);
  const cut = height === width ? 0 : Math.ceil((side * (longer - Math.min(height, width) + 1)) / (2 * longer));
  const kept = Math.max(0, side - 2 * cut);
  if (height <= width) {
    return { height: kept, width: side, samples: square.subarray(cut * side, (cut + kept) * side), table: null };
  }
  const samples = new Float32Array(side * kept);
  for (let y = 0; y < side; y++) samples.set(square.subarray(y * side + cut, y * side + cut + kept), y * kept);
  return { height: side, width: kept, samples, table: null };
}

/** @param {Float64Array} values @returns {number} */
export function lastOf(values) {
  return values[values.length - 1];
}
