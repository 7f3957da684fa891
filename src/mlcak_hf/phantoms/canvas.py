"""The detector grid in anatomical centimetres, tables of outlines on it, and antialiased drawing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .plan import Exposure

FloatArray: TypeAlias = npt.NDArray[np.float32]

_TABLE_STEP_CM = 0.02
_SMOOTHING_STEP_CM = 0.1  # smoothing at the table's own step would cost as much as drawing
_TABLE_RANGE_CM = 60.0
_TABLE_SIZE = int(2 * _TABLE_RANGE_CM / _TABLE_STEP_CM) + 1


def smooth_curve(points: Sequence[tuple[float, float]], smoothing_cm: float = 0.0) -> FloatArray:
    """Tabulate a curve through (position, value) points, by straight pieces rounded over `smoothing_cm`."""
    coarse = np.linspace(-_TABLE_RANGE_CM, _TABLE_RANGE_CM, round(2 * _TABLE_RANGE_CM / _SMOOTHING_STEP_CM) + 1)
    x, y = np.asarray(points, dtype=np.float64).T
    values: npt.NDArray[np.float64] = np.interp(coarse, x, y)
    if smoothing_cm > 0:
        half = max(1, round(smoothing_cm / _SMOOTHING_STEP_CM))
        kernel = np.hanning(2 * half + 3)[1:-1]
        values = np.convolve(np.pad(values, half, mode="edge"), kernel / kernel.sum(), mode="valid")
    return np.interp(table_axis(), coarse, values).astype(np.float32)


def table_axis() -> FloatArray:
    """Return the positions in cm at which `smooth_curve` tabulates."""
    return np.linspace(-_TABLE_RANGE_CM, _TABLE_RANGE_CM, _TABLE_SIZE, dtype=np.float32)


def at(table: FloatArray, position: npt.ArrayLike) -> FloatArray:
    """Look a tabulated curve up at positions in cm (any shape)."""
    index = (np.asarray(position) + _TABLE_RANGE_CM) * (1 / _TABLE_STEP_CM) + 0.5
    values: FloatArray = table[np.clip(index.astype(np.int32), 0, _TABLE_SIZE - 1)]
    return values


def ramp(distance: npt.NDArray[np.floating[Any]], width: float) -> FloatArray:
    """Go from 0 to 1 while `distance` goes from -width / 2 to width / 2, with rounded ends (smoothstep)."""
    t: FloatArray = distance * np.float32(1 / width)  # in place from here on: this is called some thirty times an image
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    out: FloatArray = np.float32(3) - np.float32(2) * t
    out *= t
    out *= t
    return out


def enlarge(small: FloatArray, height: int, width: int) -> FloatArray:
    """Resize an array to (height, width) with a bicubic filter."""
    large: FloatArray = np.asarray(
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32
    )
    return large


def soften(image: FloatArray, sigma_px: float) -> FloatArray:
    """Blur by a three-tap filter of about the given deviation along both axes; what lies at the edge stays inside."""
    side = np.float32(min(0.33, 0.5 * sigma_px**2 / (0.5 + sigma_px**2)))
    out: FloatArray = image.copy()
    for axis in (0, 1):
        middle = np.moveaxis(out, axis, 0)
        step: FloatArray = middle[1:] - middle[:-1]
        step *= side
        middle[:-1] += step
        middle[1:] -= step
    return out


class Canvas:
    """Grid of one image.

    `x` and `y` are the anatomical coordinates of every pixel in cm, of shape (height, width): `x` is 0 at the spine and
    positive towards the image's right (the patient's left), `y` is 0 at the lung apex and positive downwards.
    """

    def __init__(self, exposure: Exposure, coarser: int = 1) -> None:
        """Lay the grid out; with `coarser` = 2 at half the resolution, for what has no fine detail."""
        self.height, self.width = -(-exposure.height // coarser), -(-exposure.width // coarser)
        self.cm_per_px = exposure.cm_per_px * coarser
        self._cos, self._sin = float(np.cos(exposure.angle)), float(np.sin(exposure.angle))
        self._pivot = 10.0  # cm below the apex: the patient leans about the middle of the chest
        self._column0 = (exposure.midline_column + 0.5) / coarser - 0.5
        self._row0 = (exposure.apex_row + 0.5) / coarser - 0.5
        across = ((np.arange(self.width, dtype=np.float32) - self._column0) * self.cm_per_px)[None, :]
        down = ((np.arange(self.height, dtype=np.float32) - self._row0) * self.cm_per_px - self._pivot)[:, None]
        self.x: FloatArray = across * np.float32(self._cos) + down * np.float32(self._sin)
        self.y: FloatArray = down * np.float32(self._cos) - across * np.float32(self._sin) + np.float32(self._pivot)
        scale = np.float32(1 / _TABLE_STEP_CM)
        offset = np.float32(_TABLE_RANGE_CM / _TABLE_STEP_CM + 0.5)
        self._y_index = np.clip(self.y * scale + offset, 0, _TABLE_SIZE - 1).astype(np.int32)
        self._x_index = np.clip(self.x * scale + offset, 0, _TABLE_SIZE - 1).astype(np.int32)

    def part(self, rows: slice, columns: slice) -> Canvas:
        """Return the same grid cut to some rows and columns, for looking curves up there only."""
        cut = copy.copy(self)
        cut.x, cut.y = self.x[rows, columns], self.y[rows, columns]
        cut._x_index, cut._y_index = self._x_index[rows, columns], self._y_index[rows, columns]
        return cut

    def by_y(self, table: FloatArray) -> FloatArray:
        """Look a curve over `y` up at every pixel."""
        values: FloatArray = table[self._y_index]
        return values

    def by_x(self, table: FloatArray) -> FloatArray:
        """Look a curve over `x` up at every pixel."""
        values: FloatArray = table[self._x_index]
        return values

    def to_pixels(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map anatomical points (..., 2) as (x, y) in cm to (column, row), pixel centres at whole numbers."""
        p = np.asarray(points, dtype=np.float64)
        x, y = p[..., 0], p[..., 1] - self._pivot
        column = (x * self._cos - y * self._sin) / self.cm_per_px + self._column0
        row = (x * self._sin + y * self._cos + self._pivot) / self.cm_per_px + self._row0
        return np.stack([column, row], axis=-1)

    def box(self, points: npt.ArrayLike, margin: float = 0.0) -> tuple[float, float, float, float]:
        """Return (x_min, y_min, x_max, y_max) in pixel edges around anatomical points, kept inside the image."""
        p = self.to_pixels(points).reshape(-1, 2) + 0.5
        margin_px = margin / self.cm_per_px
        low, high = p.min(0) - margin_px, p.max(0) + margin_px
        limits = np.array([self.width, self.height])
        low, high = np.clip(low, 0, limits - 2), np.clip(high, 0, limits)
        high = np.maximum(high, low + 2)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def window(self, points: npt.ArrayLike, margin: float = 0.0) -> tuple[slice, slice]:
        """Return the rows and columns that hold the points, for work on a small part of the image."""
        x0, y0, x1, y1 = self.box(points, margin)
        return slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))

    def draw(self, paint: Callable[[Pen], None], oversample: int = 2) -> FloatArray:
        """Return what `paint` draws on a layer, antialiased, as float32 in [0, 1] of shape (height, width)."""
        image = Image.new("L", (self.width * oversample, self.height * oversample))
        paint(Pen(self, ImageDraw.Draw(image), oversample))
        layer: FloatArray = np.asarray(image.reduce(oversample), dtype=np.float32)
        layer *= np.float32(1 / 255)
        return layer


class Pen:
    """Draws on one oversampled layer, in anatomical coordinates; `value` is in [0, 1] and replaces what is there."""

    def __init__(self, canvas: Canvas, draw: ImageDraw.ImageDraw, oversample: int) -> None:
        self._canvas, self._draw, self._oversample = canvas, draw, oversample

    def _xy(self, points: npt.ArrayLike) -> list[float]:
        xy: list[float] = ((self._canvas.to_pixels(points) + 0.5) * self._oversample - 0.5).ravel().tolist()
        return xy

    def polygon(self, points: npt.ArrayLike, value: float) -> None:
        """Fill a polygon (n, 2)."""
        self._draw.polygon(self._xy(points), fill=int(255 * value))

    def polygons(self, polygons: npt.NDArray[np.float64], value: float) -> None:
        """Fill several polygons (count, n, 2)."""
        fill = int(255 * value)
        pixels = (self._canvas.to_pixels(polygons) + 0.5) * self._oversample - 0.5
        for polygon in pixels.reshape(len(polygons), -1).tolist():
            self._draw.polygon(polygon, fill=fill)

    def line(self, points: npt.ArrayLike, value: float, width: float) -> None:
        """Draw a polyline (n, 2) of `width` cm."""
        width_px = max(1, round(width / self._canvas.cm_per_px * self._oversample))
        self._draw.line(
            self._xy(points), fill=int(255 * value), width=width_px, joint="curve" if width_px > 3 else None
        )

    def lines(self, paths: npt.NDArray[np.float64], value: float, width: float) -> None:
        """Draw separate polylines (n, points, 2) of one width."""
        width_px = max(1, round(width / self._canvas.cm_per_px * self._oversample))
        fill = int(255 * value)
        pixels = (self._canvas.to_pixels(paths) + 0.5) * self._oversample - 0.5
        for piece in pixels.reshape(len(paths), -1).tolist():
            self._draw.line(piece, fill=fill, width=width_px)


def band(path: npt.NDArray[np.float64], half_width: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the polygons (..., 2 n, 2) of strips along paths (..., n, 2)."""
    tangent = np.empty_like(path)
    tangent[..., 1:-1, :] = path[..., 2:, :] - path[..., :-2, :]
    tangent[..., 0, :], tangent[..., -1, :] = path[..., 1, :] - path[..., 0, :], path[..., -1, :] - path[..., -2, :]
    length = np.maximum(np.hypot(tangent[..., 0], tangent[..., 1]), 1e-9)
    offset = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    offset *= (np.asarray(half_width, dtype=np.float64) / length)[..., None]
    return np.concatenate([path + offset, (path - offset)[..., ::-1, :]], axis=-2)
