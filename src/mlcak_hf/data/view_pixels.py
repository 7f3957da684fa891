"""The pixels of a view for models of any size: exact area averages of one continuous transform of a stored radiograph.

A view first exposes the stored pixels. Between their centres the image goes on linearly along its rows, and from row to
row linearly along the columns of the view; outside it is dark. The view's geometry moves that continuous image, and
every model's pixels are its area averages: a student's are those of what its teacher sees, and each is as sharp as its
own size allows.

The averages are integrals of piecewise linear functions, so they are differences of piecewise quadratic ones: along the
rows of the image over narrow columns of the view, then along these columns. Only the slanted ends of a narrow column
are taken as straight. (Catmull and Smith, "3-D transformations of images in scanline order", SIGGRAPH 1980.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..image_processing_mlcak import area_resize, to_unit_range
from .views import View

# Columns of a view are at most so many stored pixels wide: enough for 0.1/255 at 28 px, and one column a pixel where a
# stored 256 px image becomes 224 px.
_COLUMN_PX = 1.25


def view_pixels(image: np.ndarray, view: View, sides: Sequence[int]) -> list[np.ndarray]:
    """Make the pixels of one view for models of several sizes.

    The bits depend neither on the other sizes nor on the number of threads.

    Args:
        image: a square: uint8 or uint16 (0 black, the largest value white) or float32 in [0, 1], of shape `(S, S)`.
        view: what to make of it. One without geometry is reduced as the image processor reduces.
        sides: of the models' inputs, in pixels.

    Returns:
        float32 of shape `(side, side)` in [0, 1] for every side.
    """
    if not view.moves:
        return [area_resize(expose(image, view), side, side) for side in sides]
    of_x, of_y = view.matrix()
    if abs(of_x[0]) < abs(of_x[1]):
        # A turn by more than 45 degrees: the view's rows run along the image's columns.
        of_x, of_y, image = of_y, of_x, image.T
    rows = expose(image, view)
    by_columns: dict[int, np.ndarray] = {}
    pixels = []
    for side in sides:
        columns = side * math.ceil(len(rows) / (_COLUMN_PX * side))
        if columns not in by_columns:
            by_columns[columns] = _average_along_rows(rows, of_x, of_y, columns)
        averages = _average_along_columns(by_columns[columns], of_y, side)
        pixels.append(np.clip(averages.reshape(side, -1, side).mean(axis=1).T, 0, 1))
    return pixels


def expose(image: np.ndarray, view: View) -> np.ndarray:
    """Grey values v of a view's exposure: min(contrast * v ** gamma, 1).

    Args:
        image: uint8, uint16 or float32 in [0, 1], of any shape.
        view: says gamma and contrast.

    Returns:
        float32 in [0, 1].
    """
    if image.dtype.kind == "u":
        # Of every grey value once, not of every pixel.
        values = np.arange(np.iinfo(image.dtype).max + 1, dtype=image.dtype)
        exposed: np.ndarray = np.take(expose(to_unit_range(values[None])[0], view), image)
        return exposed
    if (view.gamma, view.contrast) == (1.0, 1.0):
        return image
    exposed = image ** np.float32(view.gamma)
    exposed *= np.float32(view.contrast)
    np.minimum(exposed, 1, out=exposed)
    return exposed


def _average_along_rows(rows: np.ndarray, of_x: np.ndarray, of_y: np.ndarray, columns: int) -> np.ndarray:
    """Average each row of the image, `(height, width)`, over columns of the view: `(columns, height)`."""
    # A row of the image is a line through the view: where it meets the view's x, its own x is this affine function.
    slope = of_x[0] - of_x[1] * of_y[0] / of_y[1]
    start = of_x[2] + of_x[1] / of_y[1] * (_centres(len(rows)) - of_y[2])
    return np.ascontiguousarray(_average_lines(rows, start, slope, columns).T)


def _average_along_columns(columns: np.ndarray, of_y: np.ndarray, side: int) -> np.ndarray:
    """Average each column of the view, `(columns, height)`, over the view's rows: `(columns, side)`."""
    return _average_lines(columns, of_y[2] + of_y[0] * _centres(len(columns)), of_y[1], side)


def _average_lines(lines: np.ndarray, start: np.ndarray, slope: float, count: int) -> np.ndarray:
    """Average lines, which go on linearly between their samples and fade into the dark beside them, over intervals.

    Args:
        lines: float32 of shape `(L, n)`.
        start: of shape `(L,)`. With both axes from -1 to 1, place t of the view is place `start + slope * t` of a line.
        slope: not 0.
        count: m; the view's axis is cut into so many intervals.

    Returns:
        float32 of shape `(L, m)`.
    """
    number, length = lines.shape
    # A sample of darkness at either end.
    starts = np.zeros((number, length + 2), dtype=np.float32)
    starts[:, 1:-1] = lines
    bends = np.zeros_like(starts)
    np.subtract(starts[:, 1:], starts[:, :-1], out=bends[:, :-1])
    bends *= np.float32(0.5)
    # The integral from the first sample to sample k + f is sums[k] + starts[k] * f + bends[k] * f ** 2.
    sums = np.zeros_like(starts)
    np.add(starts[:, :-1], bends[:, :-1], out=sums[:, 1:])
    # By PyTorch, which is four times as fast as numpy here, and adds in double precision.
    sums = torch.from_numpy(sums).cumsum(dim=1).numpy()
    # Where the edges of the intervals lie, in samples.
    edges = slope * length / 2 * (2 * np.arange(count + 1) / count - 1) + (length + 1) / 2
    places = (start * length / 2).astype(np.float32)[:, None] + edges.astype(np.float32)
    np.clip(places, 0, length + 1, out=places)
    sample = places.astype(np.int32)
    places -= sample
    sample += (np.arange(number, dtype=np.int32) * (length + 2))[:, None]
    integrals = np.take(bends, sample)
    for coefficients in (starts, sums):
        integrals *= places
        integrals += np.take(coefficients, sample)
    averages: np.ndarray = integrals[:, 1:] - integrals[:, :-1]
    averages *= np.float32(count / (slope * length))
    return averages


def _centres(n: int) -> np.ndarray:
    """Centres of n pixels on an axis from -1 to 1."""
    return (2 * np.arange(n) + 1) / n - 1
