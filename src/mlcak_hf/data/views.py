"""Seeded views: one random exposure and geometry of a stored radiograph, the same for teacher and student."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..errors import RecipeError

#: To be raised when the same parameters give other pixels: older teacher caches are then refused.
VIEW_DEFINITION = 3


@dataclass(frozen=True)
class View:
    """
    Exposure and geometry of one view of a radiograph.

    In the order gamma, contrast, brightness, flip, rotation, scale and stretch, shift.

    Args:
        rotation_deg (`float`, defaults to 0): Counter-clockwise rotation about the centre, in degrees.
        scale (`float`, defaults to 1): Magnification about the centre; above 1 zooms in.
        shift_x (`float`, defaults to 0): Shift to the right, as a fraction of the width.
        shift_y (`float`, defaults to 0): Shift down, as a fraction of the height.
        flip (`bool`, defaults to `False`): Mirror left and right.
        gamma (`float`, defaults to 1): Exponent of the grey values in [0, 1].
        contrast (`float`, defaults to 1): Factor of the grey values after the exponent; the background stays dark.
        stretch (`float`, defaults to 1): Magnification of the width relative to that of the height. `scale` is their
            geometric mean.
        brightness (`float`, defaults to 0): Added to the grey values after the factor.
    """

    rotation_deg: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    flip: bool = False
    gamma: float = 1.0
    contrast: float = 1.0
    stretch: float = 1.0
    brightness: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether the view has another geometry than the stored image."""
        return replace(self, gamma=1.0, contrast=1.0, brightness=0.0) != View()

    def matrix(self) -> np.ndarray:
        """Affine map from the view's coordinates to the stored image's, both -1 to 1 over the image; shape (2, 3)."""
        angle = math.radians(self.rotation_deg)
        inverse_rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = inverse_rotation / (self.scale * np.array([self.stretch**0.5, self.stretch**-0.5]))
        matrix = np.concatenate([linear, -linear @ np.array([[2 * self.shift_x], [2 * self.shift_y]])], axis=1)
        if self.flip:
            matrix[0] *= -1
        return matrix


@dataclass(frozen=True)
class ViewParameters:
    """
    Ranges to draw views from. By default there is no flip, because the heart is on one side.

    Args:
        rotation_deg (`float`, defaults to 10): Largest rotation to either side, in degrees, 0 to 180.
        min_scale (`float`, defaults to 0.9): Smallest magnification, at least 0.1.
        max_scale (`float`, defaults to 1.14): Largest magnification. Up to 256/224 = 1.14, a 224 px view of a stored
            256 px image is not enlarged.
        shift (`float`, defaults to 0.05): Largest shift along each axis, as a fraction of the side, 0 to 0.5.
        flip_probability (`float`, defaults to 0): Probability of a flip, 0 to 1.
        max_gamma (`float`, defaults to 1.2): Exponents lie between 1 / max_gamma and max_gamma; at least 1.
        max_contrast (`float`, defaults to 1.15): Factors lie between 1 / max_contrast and max_contrast; at least 1.
        max_stretch (`float`, defaults to 1): Width relative to height, between 1 / max_stretch and max_stretch; at
            least 1, which is off.
        brightness (`float`, defaults to 0): Largest grey value added or subtracted, 0 to 1; 0 is off.

    Raises:
        [`RecipeError`]: If a value is outside its range.

    Example:

    ```python
    >>> ViewParameters().draw(seed=0, epoch=3, index=17) == ViewParameters().draw(seed=0, epoch=3, index=17)
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
    max_stretch: float = 1.0
    brightness: float = 0.0

    def __post_init__(self) -> None:
        ranges = {
            "rotation_deg": (0.0, 180.0),
            "min_scale": (0.1, self.max_scale),
            "max_scale": (self.min_scale, 10.0),
            "shift": (0.0, 0.5),
            "flip_probability": (0.0, 1.0),
            "max_gamma": (1.0, 10.0),
            "max_contrast": (1.0, 10.0),
            "max_stretch": (1.0, 10.0),
            "brightness": (0.0, 1.0),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise RecipeError(f"{name} of the views must be between {low} and {high}; got {getattr(self, name)}.")

    def draw(self, seed: int, epoch: int, index: int) -> View:
        """
        Draw the view of one image in one epoch.

        Args:
            seed (`int`): Seed of the run, at least 0.
            epoch (`int`): Epoch, counted from 0.
            index (`int`): Index of the image in its dataset.

        Returns:
            [`View`]: It depends on these three numbers alone.
        """
        # Always nine draws, so that a range of zero width changes no other draw.
        draws = np.random.default_rng([seed, epoch, index]).random(9)
        signed = 2 * draws - 1
        return View(
            rotation_deg=float(self.rotation_deg * signed[0]),
            scale=float(self.min_scale * (self.max_scale / self.min_scale) ** draws[1]),
            shift_x=float(self.shift * signed[2]),
            shift_y=float(self.shift * signed[3]),
            flip=bool(draws[4] < self.flip_probability),
            gamma=float(self.max_gamma ** signed[5]),
            contrast=float(self.max_contrast ** signed[6]),
            stretch=float(self.max_stretch ** signed[7]),
            brightness=float(self.brightness * signed[8]),
        )
