"""Pixel grid in anatomical centimetres, tabulated curves on it, and antialiased drawing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .plan import Exposure

FloatArray: TypeAlias = npt.NDArray[np.float32]
Points: TypeAlias = npt.NDArray[np.float64]

_TABLE_STEP_CM = 0.02
_SMOOTHING_STEP_CM = 0.1  # smoothing at the table's own step would cost as much as drawing
_TABLE_RANGE_CM = 60.0
_TABLE_SIZE = int(2 * _TABLE_RANGE_CM / _TABLE_STEP_CM) + 1


def smooth_curve(positions: npt.ArrayLike, values: npt.ArrayLike, smoothing_cm: float) -> FloatArray:
    """Tabulate a piecewise linear curve, smoothed over `smoothing_cm`."""
    coarse = np.linspace(-_TABLE_RANGE_CM, _TABLE_RANGE_CM, round(2 * _TABLE_RANGE_CM / _SMOOTHING_STEP_CM) + 1)
    half = max(1, round(smoothing_cm / _SMOOTHING_STEP_CM))
    kernel = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(np.interp(coarse, np.asarray(positions, float), np.asarray(values, float)), half, mode="edge")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return np.interp(table_axis(), coarse, smooth).astype(np.float32)


def table_axis() -> FloatArray:
    """Positions of a tabulated curve, in cm."""
    return np.linspace(-_TABLE_RANGE_CM, _TABLE_RANGE_CM, _TABLE_SIZE, dtype=np.float32)


def at(table: FloatArray, position: npt.ArrayLike) -> FloatArray:
    """Look up a tabulated curve at positions in cm (any shape)."""
    index = (np.asarray(position) + _TABLE_RANGE_CM) * (1 / _TABLE_STEP_CM) + 0.5
    return table[np.clip(index.astype(np.int32), 0, _TABLE_SIZE - 1)]


def ramp(distance: npt.NDArray[np.floating[Any]], width: float) -> FloatArray:
    """Smoothstep from 0 to 1 over distances from -width / 2 to width / 2."""
    t: FloatArray = distance * np.float32(1 / width)  # in place from here on: called about thirty times per image
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    out: FloatArray = np.float32(3) - np.float32(2) * t
    out *= t
    out *= t
    return out


def enlarge(small: npt.NDArray[np.floating[Any]], height: int, width: int) -> FloatArray:
    """Resize an array to (height, width) with a bicubic filter."""
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def bezier(start: Points, control: Points, end: Points, count: int) -> Points:
    """Points (count, 2) on a quadratic Bezier curve."""
    t = np.linspace(0, 1, count)[:, None]
    return np.asarray((1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end)


def circle(count: int) -> Points:
    """Points (count, 2) on the unit circle."""
    turn = np.linspace(0, 2 * np.pi, count)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def soften(image: FloatArray, sigma_px: float) -> FloatArray:
    """Blur along both axes with a three-tap filter of about this deviation; the sum stays the same."""
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
    """Pixel grid of one image.

    Args:
        exposure (`Exposure`):
            Size, pixel size and pose.
        coarser (`int`, *optional*, defaults to 1):
            Factor by which the resolution is reduced, for structures without fine detail.

    Attributes:
        x (`np.ndarray` of shape `(height, width)`):
            Distance of each pixel from the spine in cm, positive towards the image's right (the patient's left).
        y (`np.ndarray` of shape `(height, width)`):
            Distance of each pixel below the lung apex in cm.
    """

    def __init__(self, exposure: Exposure, coarser: int = 1) -> None:
        self.height, self.width = -(-exposure.height // coarser), -(-exposure.width // coarser)
        self.cm_per_px = exposure.cm_per_px * coarser
        self._cos, self._sin = float(np.cos(exposure.angle)), float(np.sin(exposure.angle))
        self._pivot = 10.0  # cm below the apex: the patient leans around the middle of the chest
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
        """The same grid cropped to some rows and columns."""
        cut = copy.copy(self)
        cut.x, cut.y = self.x[rows, columns], self.y[rows, columns]
        cut._x_index, cut._y_index = self._x_index[rows, columns], self._y_index[rows, columns]
        return cut

    def by_y(self, table: FloatArray) -> FloatArray:
        """Look up a curve over `y` at every pixel."""
        return np.asarray(table[self._y_index])

    def by_x(self, table: FloatArray) -> FloatArray:
        """Look up a curve over `x` at every pixel."""
        return np.asarray(table[self._x_index])

    def ellipse(self, centre: Sequence[float] | Points, rx: float, ry: float) -> npt.NDArray[np.floating[Any]]:
        """Squared distance of every pixel from `centre`, in units of the half axes: 1 on the ellipse."""
        return ((self.x - centre[0]) / rx) ** 2 + ((self.y - centre[1]) / ry) ** 2

    def noise(self, g: np.random.Generator, cell_cm: float) -> FloatArray:
        """Smooth noise of unit deviation with features of about `cell_cm`."""
        cells = cell_cm / self.cm_per_px
        shape = int(self.height / cells) + 3, int(self.width / cells) + 3
        return enlarge(g.standard_normal(shape, dtype=np.float32), self.height, self.width)

    def to_pixels(self, points: npt.ArrayLike) -> Points:
        """Map points (..., 2) from (x, y) in cm to (column, row), with pixel centres at whole numbers."""
        p = np.asarray(points, dtype=np.float64)
        x, y = p[..., 0], p[..., 1] - self._pivot
        column = (x * self._cos - y * self._sin) / self.cm_per_px + self._column0
        row = (x * self._sin + y * self._cos + self._pivot) / self.cm_per_px + self._row0
        return np.stack([column, row], axis=-1)

    def box(self, points: npt.ArrayLike, margin: float = 0.0) -> tuple[float, float, float, float]:
        """Box (x_min, y_min, x_max, y_max) in pixels around anatomical points, clipped to the image."""
        p = self.to_pixels(points).reshape(-1, 2) + 0.5
        margin_px = margin / self.cm_per_px
        low, high = p.min(0) - margin_px, p.max(0) + margin_px
        limits = np.array([self.width, self.height])
        low, high = np.clip(low, 0, limits - 2), np.clip(high, 0, limits)
        high = np.maximum(high, low + 2)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def window(self, points: npt.ArrayLike, margin: float = 0.0) -> tuple[slice, slice]:
        """Rows and columns that contain the points."""
        x0, y0, x1, y1 = self.box(points, margin)
        return slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))

    def draw(self, paint: Callable[[Pen], None], oversample: int = 2) -> FloatArray:
        """Draw an antialiased layer, float32 in [0, 1] of shape (height, width)."""
        image = Image.new("L", (self.width * oversample, self.height * oversample))
        paint(Pen(self, ImageDraw.Draw(image), oversample))
        layer: FloatArray = np.asarray(image.reduce(oversample), dtype=np.float32)
        layer *= np.float32(1 / 255)
        return layer


class Pen:
    """Draws on an oversampled layer in anatomical coordinates; a `value` in [0, 1] replaces what was drawn before."""

    def __init__(self, canvas: Canvas, draw: ImageDraw.ImageDraw, oversample: int) -> None:
        self._canvas, self._draw, self._oversample = canvas, draw, oversample

    def _pieces(self, points: npt.ArrayLike) -> list[list[float]]:
        pixels = (self._canvas.to_pixels(points) + 0.5) * self._oversample - 0.5
        pieces: list[list[float]] = pixels.reshape(-1, 2 * pixels.shape[-2]).tolist()
        return pieces

    def polygon(self, points: npt.ArrayLike, value: float) -> None:
        """Fill one polygon (n, 2) or several (count, n, 2)."""
        for piece in self._pieces(points):
            self._draw.polygon(piece, fill=int(255 * value))

    def line(self, points: npt.ArrayLike, value: float, width: float, rounded: bool = True) -> None:
        """Draw one polyline (n, 2) or several (count, n, 2), `width` cm wide, with or without rounded joints."""
        width_px = max(1, round(width / self._canvas.cm_per_px * self._oversample))
        joint = "curve" if rounded and width_px > 3 else None
        for piece in self._pieces(points):
            self._draw.line(piece, fill=int(255 * value), width=width_px, joint=joint)


def band(path: Points, half_width: npt.ArrayLike) -> Points:
    """Outlines (..., 2 n, 2) of strips along paths (..., n, 2)."""
    tangent = np.empty_like(path)
    tangent[..., 1:-1, :] = path[..., 2:, :] - path[..., :-2, :]
    tangent[..., 0, :], tangent[..., -1, :] = path[..., 1, :] - path[..., 0, :], path[..., -1, :] - path[..., -2, :]
    length = np.maximum(np.hypot(tangent[..., 0], tangent[..., 1]), 1e-9)
    offset = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    offset *= (np.asarray(half_width, dtype=np.float64) / length)[..., None]
    return np.concatenate([path + offset, (path - offset)[..., ::-1, :]], axis=-2)
