"""Fixed perturbations of validation images, as radiographs of other machines and habits differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..image_processing_mlcak import to_unit_range
from .view_pixels import mean_filter, view_pixels
from .views import View

_CUT = 0.12  # of the width and of the height


@dataclass(frozen=True)
class Shift:
    """
    One perturbation, the same for every image but for the noise, which is seeded by the image.

    Args:
        view ([`View`]): Exposure and geometry.
        blur (`float`, defaults to 0): Side of the square over which the stored image is averaged, as a fraction of the
            image's side.
        noise (`float`, defaults to 0): Standard deviation of the white noise added to the model's input, whose grey
            values are in [0, 1].
    """

    view: View = field(default_factory=View)
    blur: float = 0.0
    noise: float = 0.0

    def pixels(self, image: np.ndarray, index: int, sides: Sequence[int]) -> list[np.ndarray]:
        """
        Make the pixels of a perturbed image.

        Args:
            image (`np.ndarray` of shape `(S, S)`): As for [`view_pixels`].
            index (`int`): Index of the image in its dataset.
            sides (`Sequence[int]`): Sides of the models' inputs, in pixels.

        Returns:
            `list[np.ndarray]`: float32 in [0, 1] of shape `(side, side)` for every side.
        """
        if self.blur:
            image = mean_filter(to_unit_range(image), round(self.blur * len(image)) // 2)
        made = view_pixels(image, self.view, sides)
        if self.noise:
            random = np.random.default_rng(index)
            noise = [random.standard_normal(pixels.shape, np.float32) * np.float32(self.noise) for pixels in made]
            made = [np.clip(pixels + more, 0, 1) for pixels, more in zip(made, noise, strict=True)]
        return made


#: The perturbations of `eval_shifts`, by name. `crop` cuts 12 % off the top and the left.
SHIFTS: dict[str, Shift] = {
    "gamma_0.6": Shift(View(gamma=0.6)),
    "gamma_1.6": Shift(View(gamma=1.6)),
    "contrast_0.6": Shift(View(contrast=0.6)),
    "brightness_0.15": Shift(View(brightness=0.15)),
    "zoom_0.8": Shift(View(scale=0.8)),
    "zoom_1.2": Shift(View(scale=1.2)),
    "crop": Shift(View(scale=1 / (1 - _CUT), shift_x=(1 - 1 / (1 - _CUT)) / 2, shift_y=(1 - 1 / (1 - _CUT)) / 2)),
    "blur": Shift(blur=1 / 12),
    "noise": Shift(noise=0.04),
}
