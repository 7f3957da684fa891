"""Area averages of large radiographs: weights for the final square, and products that skip zero weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..image_geometry_mlcak import nonzero_runs, weigh_columns, weigh_rows

Pixels = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float32]
Edges = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def sample_edges(height: int, width: int, reduction: int = 0) -> Edges:
    """Return the edges, in pixels, of the area that each sample of an image represents.

    The samples are the pixels, or low-pass samples of a wavelet transform. The filters of JPEG 2000 are symmetric about
    a pixel: low-pass sample i of r levels is centred on pixel `2**r * i`, which is `0.5 * (1 - 2**-r)` samples before
    the centre of the block of `2**r` pixels. It represents `2**r` pixels around that centre; the first and last sample
    represent what is left at the ends.

    Args:
        height, width (`int`):
            Size of the image, in pixels.
        reduction (`int`, *optional*, defaults to 0):
            Number of levels r. 0 for the pixels themselves.

    Returns:
        `tuple` of shapes `(ceil(height / 2**r) + 1,)` and `(ceil(width / 2**r) + 1,)`: Edges of the rows and of the
        columns, float64, ascending from 0 to the height and to the width.
    """
    step = 1 << reduction
    edges = np.arange(-(-max(height, width) // step) + 1, dtype=np.float64) * step + 0.5 - step / 2
    edges[0] = 0
    rows, columns = edges[: -(-height // step) + 1].copy(), edges[: -(-width // step) + 1].copy()
    rows[-1], columns[-1] = height, width
    return rows, columns


def weights_onto_square(edges: Edges, size_px: int, fit: str) -> tuple[Weights, Weights]:
    """Return the weights that average samples of an image onto the final square.

    Args:
        edges (`tuple` of `np.ndarray`):
            Edges of the samples, see [`sample_edges`].
        size_px (`int`):
            Side of the square.
        fit (`str`):
            `"pad"` (dark, centred; an odd pixel goes to the end) or `"squash"`.

    Returns:
        `tuple` of shapes `(size_px, rows)` and `(size_px, columns)`: float32 shares of each sample in each pixel. For
        whole pixels they equal `area_resize` after `fit_to_square`. Rows in the padding are 0.
    """
    side = max(edges[0][-1], edges[1][-1]) if fit == "pad" else None
    return area_overlaps(edges[0], size_px, side), area_overlaps(edges[1], size_px, side)


def area_overlaps(edges: npt.NDArray[np.float64], n_out: int, side: float | None = None) -> Weights:
    """Compute the share of each sample in each of `n_out` equal intervals.

    Args:
        edges (`np.ndarray` of shape `(samples + 1,)`):
            Edges of the samples, ascending from 0 to the length.
        n_out (`int`):
            Number of intervals.
        side (`float`, *optional*, defaults to the length):
            Total length of the intervals; a larger one is centred on the samples.

    Returns:
        `np.ndarray` of shape `(n_out, samples)`: float32.
    """
    side = edges[-1] if side is None else side
    out = np.arange(n_out + 1) * (side / n_out) - (side - edges[-1]) // 2
    # Each piece between two cuts belongs to one sample and one interval; comparing all pairs takes far longer.
    cuts = np.union1d(edges, np.clip(out, edges[0], edges[-1]))
    lengths = np.diff(cuts)
    middles = cuts[:-1] + lengths / 2
    # Rounding may put a piece beyond the last interval or sample; it belongs to the last.
    intervals = np.minimum(np.searchsorted(out, middles, side="right") - 1, n_out - 1)
    samples = np.minimum(np.searchsorted(edges, middles, side="right") - 1, len(edges) - 2)
    shares = np.zeros((n_out, len(edges) - 1), dtype=np.float32)
    np.add.at(shares, (intervals, samples), lengths * (n_out / side))
    return shares


def resample(
    image: npt.NDArray[np.generic],
    row_weights: Weights,
    column_weights: Weights,
    grey: Callable[[npt.NDArray[np.generic]], Pixels] | None = None,
) -> Pixels:
    """Resample an image. Only a few rows at a time become grey values, to avoid a large copy.

    Args:
        image (`np.ndarray` of shape `(H, W)`):
            The image.
        row_weights, column_weights (`np.ndarray` of shapes `(h, H)` and `(w, W)`):
            The weights.
        grey (`Callable`, *optional*):
            Converts rows of shape `(n, W)` to grey values before they are averaged.

    Returns:
        `np.ndarray` of shape `(h, w)`: float32, `row_weights @ grey(image) @ column_weights.T`.
    """
    few_rows = np.empty((len(row_weights), image.shape[1]), dtype=np.float32)
    for out, taken, weights in nonzero_runs(row_weights):
        rows = image[taken] if grey is None else grey(image[taken])
        weigh_rows(weights, np.asarray(rows, dtype=np.float32), out=few_rows[out])
    result = np.empty((len(row_weights), len(column_weights)), dtype=np.float32)
    for out, taken, weights in nonzero_runs(column_weights):
        weigh_columns(few_rows[:, taken], weights, out=result[:, out])
    return result
