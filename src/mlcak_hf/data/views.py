"""Seeded views: one random geometry and exposure of a stored radiograph, which teacher and student then both reduce."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ..errors import RecipeError

#: Raised whenever the same numbers would make another view: teacher caches of the old one are then refused.
VIEW_DEFINITION = 1


@dataclass(frozen=True)
class View:
    """One drawn view: what `apply_views` does to one image. The defaults change nothing.

    Args:
        rotation_deg: counter-clockwise rotation about the centre, in degrees.
        scale: enlargement about the centre; above 1 zooms in.
        shift_x: move to the right, as a fraction of the width.
        shift_y: move down, as a fraction of the height.
        flip: mirror left and right, before everything else.
        gamma: exponent of the grey values in [0, 1].
        contrast: factor of the grey values after the exponent; 0 stays 0, so that the background stays dark.
    """

    rotation_deg: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    flip: bool = False
    gamma: float = 1.0
    contrast: float = 1.0

    @property
    def moves(self) -> bool:
        """Whether the geometry changes."""
        return (self.rotation_deg, self.scale, self.shift_x, self.shift_y, self.flip) != (0.0, 1.0, 0.0, 0.0, False)

    def matrix(self) -> np.ndarray:
        """Affine map from the view's coordinates to the stored image's, both -1 to 1 over the image; shape (2, 3)."""
        angle = math.radians(self.rotation_deg)
        inverse_rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = inverse_rotation / self.scale
        matrix = np.concatenate([linear, -linear @ np.array([[2 * self.shift_x], [2 * self.shift_y]])], axis=1)
        if self.flip:
            matrix[0] *= -1
        return matrix


@dataclass(frozen=True)
class ViewParameters:
    """Ranges that views are drawn from. The defaults suit chest radiographs: no flip, because the heart is on one side.

    Args:
        rotation_deg: largest rotation to either side, in degrees; 0 to 180.
        min_scale: smallest enlargement, above 0.
        max_scale: largest enlargement; up to 256/224 = 1.14 a 224 px view of a stored 256 px image invents no detail.
        shift: largest move along each axis, as a fraction of the side; 0 to 0.5.
        flip_probability: 0 to 1.
        max_gamma: exponents of the grey values are drawn between 1/max_gamma and max_gamma; at least 1.
        max_contrast: factors of the grey values are drawn between 1/max_contrast and max_contrast; at least 1.

    Raises:
        RecipeError: if a value lies outside its range.

    Example:

    ```python
    >>> ViewParameters().draw(seed=0, epoch=3, index=17) == ViewParameters().draw(seed=0, epoch=3, index=17)
    True
    >>> ViewParameters.none().draw(seed=0, epoch=3, index=17) == View()
    True
    ```
    """

    rotation_deg: float = 10.0
    min_scale: float = 0.9
    max_scale: float = 1.14
    shift: float = 0.05
    flip_probability: float = 0.0
    max_gamma: float = 1.2
    max_contrast: float = 1.15

    def __post_init__(self) -> None:
        ranges = {
            "rotation_deg": (0.0, 180.0),
            "min_scale": (0.1, self.max_scale),
            "max_scale": (self.min_scale, 10.0),
            "shift": (0.0, 0.5),
            "flip_probability": (0.0, 1.0),
            "max_gamma": (1.0, 10.0),
            "max_contrast": (1.0, 10.0),
        }
        for entry in fields(self):
            low, high = ranges[entry.name]
            value = getattr(self, entry.name)
            if not low <= value <= high:
                raise RecipeError(f"{entry.name} of the views must lie in [{low}, {high}]; got {value}.")

    @classmethod
    def none(cls) -> ViewParameters:
        """Ranges that leave every image as it is stored."""
        return cls(rotation_deg=0, min_scale=1, max_scale=1, shift=0, max_gamma=1, max_contrast=1)

    def draw(self, seed: int, epoch: int, index: int) -> View:
        """Draw the view of one image in one epoch.

        Args:
            seed: of the run; at least 0.
            epoch: counted from 0.
            index: of the image in its dataset.

        Returns:
            The same view for the same three numbers, wherever and in whichever order it is drawn.
        """
        # Always seven draws, so that closing one range moves no other.
        draws = np.random.default_rng([seed, epoch, index]).random(7)
        signed = 2 * draws - 1
        return View(
            rotation_deg=float(self.rotation_deg * signed[0]),
            scale=float(self.min_scale * (self.max_scale / self.min_scale) ** draws[1]),
            shift_x=float(self.shift * signed[2]),
            shift_y=float(self.shift * signed[3]),
            flip=bool(draws[4] < self.flip_probability),
            gamma=float(self.max_gamma ** signed[5]),
            contrast=float(self.max_contrast ** signed[6]),
        )


def apply_views(images: np.ndarray, views: Sequence[View]) -> np.ndarray:
    """Make one view of each image, at the image's own resolution.

    The geometry is sampled bilinearly at the centres of the view's pixels; outside the image it is dark. What comes out
    is again an image of square pixels, which teacher and student reduce by area: both see the same view. Every image is
    computed by itself: its bits depend neither on its neighbours nor on the number of threads.

    Args:
        images: of shape `(B, H, W)`, float32 in [0, 1].
        views: B views.

    Returns:
        float32 of shape `(B, H, W)` in [0, 1]. `View()` returns its image bit for bit.
    """
    result = np.array(images, dtype=np.float32)
    # Image by image, because the planes of one fit into a core's cache and those of a batch do not: twice as fast.
    for image, view in zip(result, views, strict=True):
        if view.moves:
            _move(image, view.matrix())
        if (view.gamma, view.contrast) != (1.0, 1.0):
            _expose(image, view.gamma, view.contrast)
    return result


def _move(image: np.ndarray, matrix: np.ndarray) -> None:
    """Replace an image by what bilinear sampling finds where the matrix sends the centres of its pixels."""
    height, width = image.shape
    # A border of zeros is the dark outside: a sample within a pixel of the edge fades into it.
    bordered = np.zeros((height + 2, width + 2), dtype=np.float32)
    bordered[1:-1, 1:-1] = image
    columns, rows = _source_points(matrix, height, width)
    left, top = np.floor(columns), np.floor(rows)
    columns -= left
    rows -= top
    corner = top.astype(np.intp)
    corner *= width + 2
    corner += left.astype(np.intp)
    # The four pixels around each point are four offsets into the flat image; "clip" holds the last row of the border.
    pixels = bordered.ravel()
    upper = np.take(pixels, corner, mode="clip", out=top)
    _blend(upper, np.take(pixels[1:], corner, mode="clip", out=left), columns)
    lower = np.take(pixels[width + 2 :], corner, mode="clip", out=image)
    _blend(lower, np.take(pixels[width + 3 :], corner, mode="clip", out=left), columns)
    lower -= upper
    lower *= rows
    lower += upper


def _blend(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> None:
    """Move `start` towards `end`, which is used up, by a share of the way."""
    end -= start
    end *= share
    start += end


def _source_points(matrix: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the centres of a view's pixels lie in the bordered image, in pixels: columns and rows, each (H, W)."""
    xs, ys = ((2 * np.arange(n) + 1) / n - 1 for n in (width, height))
    planes = []
    for (of_x, of_y, constant), size in zip(matrix, (width, height), strict=True):
        # An affine map is a sum of a term per column and one per row, both made in double precision.
        per_column = of_x * xs * size / 2
        per_row = (of_y * ys + constant) * size / 2 + (size + 1) / 2
        plane = per_row.astype(np.float32)[:, None] + per_column.astype(np.float32)
        planes.append(np.clip(plane, 0, size + 1, out=plane))
    return planes[0], planes[1]


def _expose(image: np.ndarray, gamma: float, contrast: float) -> None:
    """Replace grey values v by min(contrast * v ** gamma, 1)."""
    # As exp(gamma * log(v)), because numpy's power is three times slower; dark 0 has the logarithm -inf, and stays 0.
    with np.errstate(divide="ignore"):
        np.log(image, out=image)
    image *= np.float32(gamma)
    np.exp(image, out=image)
    image *= np.float32(contrast)
    np.minimum(image, 1, out=image)
