"""Fixed perturbations of validation images, as radiographs of other machines and habits differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from ..image_geometry_mlcak import bilinear_weights
from ..image_processing_mlcak import to_unit_range
from .view_pixels import view_pixels
from .views import View

_CUT = 0.12  # of the width and of the height
_MOVED = 0.08


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
        resolution (`float`, defaults to 1): Side that the model's input is reduced to, as a fraction of its own, before
            it is enlarged again.
    """

    view: View = field(default_factory=View)
    blur: float = 0.0
    noise: float = 0.0
    resolution: float = 1.0

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
            image = _mean_filter(to_unit_range(image), round(self.blur * len(image)) // 2)
        reduced = [max(1, round(self.resolution * side)) for side in sides]
        made = view_pixels(image, self.view, reduced)
        if self.resolution < 1:
            weights = [bilinear_weights(*each) for each in zip(reduced, sides, strict=True)]
            made = [each @ pixels @ each.T for each, pixels in zip(weights, made, strict=True)]
        if self.noise:
            random = np.random.default_rng(index)
            noise = [random.standard_normal(pixels.shape, np.float32) * np.float32(self.noise) for pixels in made]
            made = [np.clip(pixels + more, 0, 1) for pixels, more in zip(made, noise, strict=True)]
        return made


def _mean_filter(image: np.ndarray, reach: int) -> np.ndarray:
    """
    Average over squares that reach so many pixels to every side, or to the border of the image.

    Args:
        image (`np.ndarray` of shape `(H, W)`):
            float32.
        reach (`int`):
            At least 0; the squares have `2 * reach + 1` pixels a side.
    """
    blurred = torch.from_numpy(image)[None, None]
    for window in ((2 * reach + 1, 1), (1, 2 * reach + 1)):
        around = (window[0] // 2, window[1] // 2)
        blurred = F.avg_pool2d(blurred, window, 1, around, count_include_pad=False)
    return blurred[0, 0].numpy()


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
#: Those of a report. Training does not use the others: `shift` moves the image by 8 % to the right and down,
#: `resolution_0.5` halves the side of what the model sees.
REPORTED_SHIFTS: dict[str, Shift] = SHIFTS | {
    "shift": Shift(View(shift_x=_MOVED, shift_y=_MOVED)),
    "resolution_0.5": Shift(resolution=0.5),
}
