"""Seeded views: one random exposure and geometry of a stored radiograph, of which teacher and student see the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import RecipeError

#: Raised whenever the same numbers would make another view: teacher caches of the old one are then refused.
VIEW_DEFINITION = 3


@dataclass(frozen=True)
class View:
    """One drawn view: what `view_pixels` makes of one image. The defaults change nothing.

    Args:
        rotation_deg: counter-clockwise rotation about the centre, in degrees.
        scale: enlargement about the centre; above 1 zooms in.
        shift_x: move to the right, as a fraction of the width.
        shift_y: move down, as a fraction of the height.
        flip: mirror left and right, before the other moves.
        gamma: exponent of the stored grey values in [0, 1]; exposure comes before geometry.
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
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise RecipeError(f"{name} of the views must lie in [{low}, {high}]; got {getattr(self, name)}.")

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
