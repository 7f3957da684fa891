"""
The pixels of a view are area averages of one continuous image.

So a student sees the area average of what its teacher sees. Pixels are interpolated linearly along the rows of the
stored image and along the columns of the view; outside the stored image it is dark.

Averages are differences of piecewise quadratic integrals: along the rows of the image over narrow columns of the view,
then along these columns. Slanted ends are corrected to first order. (Catmull and Smith, "3-D transformations of images
in scanline order", SIGGRAPH 1980.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..image_processing_mlcak import area_resize, to_unit_range
from .views import View

# Largest width of a column, in stored pixels: one column for each pixel if a stored 256 px image becomes 224 px.
_COLUMN_PX = 1.25


def view_pixels(image: np.ndarray, view: View, sides: Sequence[int]) -> list[np.ndarray]:
    """
    Make the pixels of one view for models of several sizes.

    The bits depend neither on the other sizes nor on the number of threads.

    Args:
        image (`np.ndarray` of shape `(S, S)`):
            uint8 or uint16 (0 black, the largest value white), or float32 in [0, 1].
        view ([`View`]):
            Exposure and geometry. Without geometry, the image is reduced as by the image processor.
        sides (`Sequence[int]`):
            Sides of the models' inputs, in pixels.

    Returns:
        `list[np.ndarray]`: float32 in [0, 1] of shape `(side, side)` for every side.
    """
    if not view.moves:
        return [area_resize(expose(image, view), side, side) for side in sides]
    of_x, of_y = view.matrix()
    if abs(of_x[0]) < abs(of_x[1]):
        # A turn by more than 45 degrees: the view's rows run along the image's columns.
        of_x, of_y, image = of_y, of_x, image.T
    rows = expose(image, view)
    columns = {side: columns_for(len(rows), side) for side in sides}
    by_columns = {count: _average_along_rows(rows, of_x, of_y, count) for count in set(columns.values())}
    pixels = []
    for side in sides:
        averages = _average_along_columns(*by_columns[columns[side]], of_y, side)
        pixels.append(np.clip(averages.reshape(side, -1, side).mean(axis=1).T, 0, 1))
    return pixels


def columns_for(stored_side: int, side: int) -> int:
    """Count the narrow columns over which a stored image is averaged first: a multiple of the model's side."""
    return side * math.ceil(stored_side / (_COLUMN_PX * side))


def expose(image: np.ndarray, view: View) -> np.ndarray:
    """
    Apply the exposure of a view to grey values v: `contrast * v ** gamma + brightness`, limited to [0, 1].

    Args:
        image (`np.ndarray`):
            uint8, uint16, or float32 in [0, 1], of any shape.
        view ([`View`]):
            Gives `gamma`, `contrast` and `brightness`.

    Returns:
        `np.ndarray`: float32 in [0, 1], of the same shape.
    """
    if image.dtype.kind == "u":
        # Computed once for every grey value, not for every pixel.
        values = np.arange(np.iinfo(image.dtype).max + 1, dtype=image.dtype)
        exposed: np.ndarray = np.take(expose(to_unit_range(values[None])[0], view), image)
        return exposed
    if (view.gamma, view.contrast, view.brightness) == (1.0, 1.0, 0.0):
        return image
    exposed = image ** np.float32(view.gamma)
    exposed *= np.float32(view.contrast)
    exposed += np.float32(view.brightness)
    np.clip(exposed, 0, 1, out=exposed)
    return exposed


def _average_along_rows(
    rows: np.ndarray, of_x: np.ndarray, of_y: np.ndarray, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    Average each row of the image, `(height, width)`, over columns of the view: `(columns, height)`.

    Also returns the mean of (position in the column - its centre) * value, to first order.
    """
    # A row of the image is a line through the view. Its own x, where it meets the view's x, is this affine function.
    slope = of_x[0] - of_x[1] * of_y[0] / of_y[1]
    start = of_x[2] + of_x[1] / of_y[1] * (_centres(len(rows)) - of_y[2])
    averages, ends = _average_lines(rows, start, slope, columns)
    # `ends` holds the values with the opposite sign.
    moments = (ends[:, :-1] - ends[:, 1:]).T * np.float32(1 / (6 * columns))
    return np.ascontiguousarray(averages.T), moments


def _average_along_columns(columns: np.ndarray, moments: np.ndarray, of_y: np.ndarray, side: int) -> np.ndarray:
    """Average each column of the view, `(columns, height)`, over the view's rows: `(columns, side)`."""
    # Away from a column's centre, the image's rows are crossed a little earlier or later.
    shifts = moments * np.float32(of_y[0] * columns.shape[1] / 2)
    return _average_lines(columns, of_y[2] + of_y[0] * _centres(len(columns)), of_y[1], side, shifts)[0]


def _average_lines(
    lines: np.ndarray, start: np.ndarray, slope: float, count: int, shifts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Average lines, linear between their samples and 0 beyond them, over intervals.

    Args:
        lines: float32 of shape `(L, n)`.
        start: of shape `(L,)`. With both axes from -1 to 1, place t of the view is place `start + slope * t` of a line.
        slope: not 0.
        count: m, the number of intervals on the view's axis.
        shifts: of shape `(L, n)`: added to the integral up to each sample.

    Returns:
        float32 of shape `(L, m)`, and without `shifts` minus the values at the ends of the intervals, `(L, m + 1)`.
    """
    number, length = lines.shape
    # With a dark sample at either end.
    starts = np.zeros((number, length + 2), dtype=np.float32)
    starts[:, 1:-1] = lines
    bends = np.zeros_like(starts)
    np.subtract(starts[:, 1:], starts[:, :-1], out=bends[:, :-1])
    bends *= np.float32(0.5)
    # The integral from the first sample to sample k + f is sums[k] + starts[k] * f + bends[k] * f ** 2.
    sums = np.zeros_like(starts)
    np.add(starts[:, :-1], bends[:, :-1], out=sums[:, 1:])
    # PyTorch is four times as fast as numpy here, and adds in double precision.
    sums = torch.from_numpy(sums).cumsum(dim=1).numpy()
    if shifts is not None:
        sums[:, 1:-1] += shifts
        starts[:, :-2] += shifts
        starts[:, 1:-1] -= shifts
    # Ends of the intervals, in samples.
    edges = slope * length / 2 * (2 * np.arange(count + 1) / count - 1) + (length + 1) / 2
    places = (start * length / 2).astype(np.float32)[:, None] + edges.astype(np.float32)
    np.clip(places, 0, length + 1, out=places)
    sample = places.astype(np.int32)
    places -= sample
    sample += (np.arange(number, dtype=np.int32) * (length + 2))[:, None]
    integrals = np.take(bends, sample)
    integrals *= places
    values = np.take(starts, sample)
    integrals += values
    if shifts is None:
        values -= integrals
        values -= integrals
    integrals *= places
    integrals += np.take(sums, sample)
    averages: np.ndarray = integrals[:, 1:] - integrals[:, :-1]
    averages *= np.float32(count / (slope * length))
    return averages, values


def _centres(n: int) -> np.ndarray:
    """Centres of n pixels on an axis from -1 to 1."""
    return (2 * np.arange(n) + 1) / n - 1
