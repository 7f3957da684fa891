"""Area averages of large radiographs: weights onto the final square, and products that touch only what they need."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..image_geometry_mlcak import nonzero_runs, weigh_columns, weigh_rows

Weights = npt.NDArray[np.float32]


def pixel_edges(n: int) -> npt.NDArray[np.float64]:
    """Edges of n pixels in pixels: 0, 1, ..., n."""
    return np.arange(n + 1, dtype=np.float64)


def low_pass_edges(n: int, reduction: int) -> npt.NDArray[np.float64]:
    """Edges, in pixels, of what each low-pass sample of a wavelet transform stands for.

    The filters of JPEG 2000 are symmetric about a pixel: low-pass sample i of r levels lies on the centre of pixel
    `2**r * i`, which is `0.5 * (1 - 2**-r)` samples before the centre of the block of `2**r` pixels. So it stands for
    `2**r` pixels about that centre; the first and the last one stand for what is left at the ends.

    Args:
        n: Length of the image, in pixels.
        reduction: r, the number of levels, at least 0.

    Returns:
        float64 of shape (ceil(n / 2**r) + 1,), ascending from 0 to n.
    """
    step = 1 << reduction
    edges = np.arange(-(-n // step) + 1, dtype=np.float64) * step + 0.5 - step / 2
    edges[0], edges[-1] = 0, n
    return edges


def weights_onto_square(
    row_edges: npt.NDArray[np.float64], column_edges: npt.NDArray[np.float64], size_px: int, fit: str
) -> tuple[Weights, Weights]:
    """Weights that average an image's samples onto the final square, by the share of each sample in each pixel.

    Args:
        row_edges, column_edges: Edges of the samples in pixels, ascending from 0 to the height and to the width.
        size_px: Side of the square.
        fit: "pad" (dark, centred; an odd pixel goes to the end) or "squash".

    Returns:
        float32 weights `(size_px, rows)` and `(size_px, columns)`: for whole pixels those of `area_resize` after
        `fit_to_square`. Rows that lie in the padding are 0.
    """
    longer = max(row_edges[-1], column_edges[-1])
    rows, columns = (
        area_overlaps(edges, size_px, longer if fit == "pad" else None) for edges in (row_edges, column_edges)
    )
    return rows, columns


def area_overlaps(edges: npt.NDArray[np.float64], n_out: int, side: float | None = None) -> Weights:
    """Share of each sample in each of `n_out` equal intervals.

    Args:
        edges: Edges of the samples, ascending from 0 to the length.
        n_out: Number of intervals.
        side: What the intervals divide: at least the length, which lies in its middle (whole numbers); None is the
            length itself.

    Returns:
        float32 of shape (n_out, samples).
    """
    side = edges[-1] if side is None else side
    out = np.arange(n_out + 1) * (side / n_out) - (side - edges[-1]) // 2
    # Between two cuts lies one sample and one interval; comparing all samples with all intervals takes far longer.
    cuts = np.union1d(edges, np.clip(out, edges[0], edges[-1]))
    lengths = np.diff(cuts)
    middles = cuts[:-1] + lengths / 2
    # What rounding puts beyond the last one is a part of nothing, and counts for it.
    intervals = np.minimum(np.searchsorted(out, middles, side="right") - 1, n_out - 1)
    samples = np.minimum(np.searchsorted(edges, middles, side="right") - 1, len(edges) - 2)
    shares = np.zeros((n_out, len(edges) - 1), dtype=np.float32)
    np.add.at(shares, (intervals, samples), lengths * (n_out / side))
    return shares


def resample(
    image: npt.NDArray[np.generic],
    row_weights: Weights,
    column_weights: Weights,
    grey: Callable[[npt.NDArray[np.generic]], npt.NDArray[np.float32]] | None = None,
) -> npt.NDArray[np.float32]:
    """Resample an image; its rows are turned into grey values a few at a time, so that no large copy is made.

    Args:
        image: Shape (H, W).
        row_weights, column_weights: Shapes (h, H) and (w, W).
        grey: What to make of the rows, shape (n, W), before they are averaged; None takes them as they are.

    Returns:
        float32 of shape (h, w): `row_weights @ grey(image) @ column_weights.T`.
    """
    few_rows = np.empty((len(row_weights), image.shape[1]), dtype=np.float32)
    for out, taken, weights in nonzero_runs(row_weights):
        rows = image[taken] if grey is None else grey(image[taken])
        weigh_rows(weights, np.asarray(rows, dtype=np.float32), out=few_rows[out])
    result = np.empty((len(row_weights), len(column_weights)), dtype=np.float32)
    for out, taken, weights in nonzero_runs(column_weights):
        weigh_columns(few_rows[:, taken], weights, out=result[:, out])
    return result
