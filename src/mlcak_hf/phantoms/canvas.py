"""Pixel grid in anatomical centimetres, tabulated curves on it, and antialiased drawing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .plan import Exposure

#: Images, tables and layers are float32; points (..., 2) are float64.
Array = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
PixelBox = tuple[float, float, float, float]

_STEP_CM, _RANGE_CM = 0.02, 60.0
_SMOOTHING_STEP_CM = 0.1  # smoothing at the table's own step would cost as much as drawing
_OVERSAMPLE = 2
_PIVOT_CM = 10.0  # below the apex: the patient leans around the middle of the chest

#: Positions of a tabulated curve, in cm.
TABLE_AXIS = np.linspace(-_RANGE_CM, _RANGE_CM, int(2 * _RANGE_CM / _STEP_CM) + 1, dtype=np.float32)


def smooth_curve(positions: Sequence[float], values: Sequence[float], smoothing_cm: float) -> Array:
    """Tabulate a piecewise linear curve, smoothed over `smoothing_cm`."""
    coarse = np.linspace(-_RANGE_CM, _RANGE_CM, round(2 * _RANGE_CM / _SMOOTHING_STEP_CM) + 1)
    half = max(1, round(smoothing_cm / _SMOOTHING_STEP_CM))
    kernel = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(np.interp(coarse, positions, values), half, mode="edge")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return np.interp(TABLE_AXIS, coarse, smooth).astype(np.float32)


def at(table: Array, position: npt.ArrayLike) -> Array:
    """Look up a tabulated curve at positions in cm (any shape)."""
    index = (np.asarray(position) + _RANGE_CM) * (1 / _STEP_CM) + 0.5
    return table[np.clip(index.astype(np.int32), 0, len(TABLE_AXIS) - 1)]


def ramp(distance: Array, width: float) -> Array:
    """Smoothstep from 0 to 1 over distances from -width / 2 to width / 2."""
    t: Array = np.clip(distance * np.float32(1 / width) + 0.5, 0, 1)
    return (3 - 2 * t) * t * t


def enlarge(small: Array, height: int, width: int) -> Array:
    """Resize an array to (height, width) with a bicubic filter."""
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def bezier(start: Array, control: Array, end: Array, count: int) -> Array:
    """Points (count, 2) on a quadratic Bezier curve."""
    t = np.linspace(0, 1, count)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def circle(count: int) -> Array:
    """Points (count, 2) on the unit circle."""
    turn = np.linspace(0, 2 * np.pi, count)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def band(path: Array, half_width: npt.ArrayLike) -> Array:
    """Outlines (..., 2 n, 2) of strips along paths (..., n, 2)."""
    tangent = np.gradient(path, axis=-2)
    length = np.maximum(np.hypot(tangent[..., 0], tangent[..., 1]), 1e-9)
    offset = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1) * (half_width / length)[..., None]
    return np.concatenate([path + offset, (path - offset)[..., ::-1, :]], axis=-2)


def soften(image: Array, sigma_px: float) -> Array:
    """Blur along both axes with a three-tap filter of about this deviation; the sum stays the same."""
    side = min(0.33, 0.5 * sigma_px**2 / (0.5 + sigma_px**2))
    out: Array = image.copy()
    for lines in (out, out.T):
        step = np.diff(lines, axis=0) * side
        lines[:-1] += step
        lines[1:] -= step
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
        self._column0 = (exposure.midline_column + 0.5) / coarser - 0.5
        self._row0 = (exposure.apex_row + 0.5) / coarser - 0.5
        across = ((np.arange(self.width, dtype=np.float32) - self._column0) * self.cm_per_px)[None, :]
        down = ((np.arange(self.height, dtype=np.float32) - self._row0) * self.cm_per_px - _PIVOT_CM)[:, None]
        self.x: Array = across * self._cos + down * self._sin
        self.y: Array = down * self._cos - across * self._sin + _PIVOT_CM
        self._x_index, self._y_index = (
            np.clip(v * (1 / _STEP_CM) + (_RANGE_CM / _STEP_CM + 0.5), 0, len(TABLE_AXIS) - 1).astype(np.int32)
            for v in (self.x, self.y)
        )

    def around(self, points: npt.ArrayLike, margin: float = 0.0) -> tuple[tuple[slice, slice], Canvas]:
        """Rows and columns that contain the points, and the grid cropped to them."""
        x0, y0, x1, y1 = self.box(points, margin)
        window = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
        cut = copy.copy(self)
        for name in ("x", "y", "_x_index", "_y_index"):
            setattr(cut, name, getattr(self, name)[window])
        return window, cut

    def by_y(self, table: Array) -> Array:
        """Look up a curve over `y` at every pixel."""
        return np.asarray(table[self._y_index])

    def by_x(self, table: Array) -> Array:
        """Look up a curve over `x` at every pixel."""
        return np.asarray(table[self._x_index])

    def ellipse(self, centre: Sequence[float] | Array, rx: float, ry: float) -> Array:
        """Squared distance of every pixel from `centre`, in units of the half axes: 1 on the ellipse."""
        return ((self.x - centre[0]) / rx) ** 2 + ((self.y - centre[1]) / ry) ** 2

    def noise(self, g: np.random.Generator, cell_cm: float) -> Array:
        """Smooth noise of unit deviation with features of about `cell_cm`."""
        cells = cell_cm / self.cm_per_px
        shape = int(self.height / cells) + 3, int(self.width / cells) + 3
        return enlarge(g.standard_normal(shape, dtype=np.float32), self.height, self.width)

    def to_pixels(self, points: npt.ArrayLike) -> Array:
        """Map points (..., 2) from (x, y) in cm to (column, row), with pixel centres at whole numbers."""
        p = np.asarray(points, dtype=np.float64)
        x, y = p[..., 0], p[..., 1] - _PIVOT_CM
        column = (x * self._cos - y * self._sin) / self.cm_per_px + self._column0
        row = (x * self._sin + y * self._cos + _PIVOT_CM) / self.cm_per_px + self._row0
        return np.stack([column, row], axis=-1)

    def box(self, points: npt.ArrayLike, margin: float = 0.0) -> PixelBox:
        """Box (x_min, y_min, x_max, y_max) in pixels around anatomical points, clipped to the image."""
        p = self.to_pixels(points).reshape(-1, 2) + 0.5
        limits, margin_px = np.array([self.width, self.height]), margin / self.cm_per_px
        low = np.clip(p.min(0) - margin_px, 0, limits - 2)
        high = np.maximum(np.clip(p.max(0) + margin_px, 0, limits), low + 2)
        return (*low.tolist(), *high.tolist())


class Pen:
    """Draws an antialiased layer in anatomical coordinates; a `value` in [0, 1] replaces what was drawn before."""

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self._image = Image.new("L", (canvas.width * _OVERSAMPLE, canvas.height * _OVERSAMPLE))
        self._draw = ImageDraw.Draw(self._image)

    def _pieces(self, points: npt.ArrayLike) -> Any:
        pixels = (self._canvas.to_pixels(points) + 0.5) * _OVERSAMPLE - 0.5
        return pixels.reshape(-1, 2 * pixels.shape[-2]).tolist()

    def polygon(self, points: npt.ArrayLike, value: float) -> Pen:
        """Fill one polygon (n, 2) or several (count, n, 2)."""
        for piece in self._pieces(points):
            self._draw.polygon(piece, fill=int(255 * value))
        return self

    def line(self, points: npt.ArrayLike, value: float, width: float, rounded: bool = True) -> Pen:
        """Draw one polyline (n, 2) or several (count, n, 2), `width` cm wide, with or without rounded joints."""
        width_px = max(1, round(width / self._canvas.cm_per_px * _OVERSAMPLE))
        joint = "curve" if rounded and width_px > 3 else None
        for piece in self._pieces(points):
            self._draw.line(piece, fill=int(255 * value), width=width_px, joint=joint)
        return self

    def layer(self) -> Array:
        """What was drawn, float32 in [0, 1] of shape (height, width)."""
        drawn: Array = np.asarray(self._image.reduce(_OVERSAMPLE)) * np.float32(1 / 255)
        return drawn
