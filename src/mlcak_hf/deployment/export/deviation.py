"""How far an exported model's probabilities are from those of the model it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import DeploymentError
from ...image_geometry_mlcak import area_resize
from ...phantoms.render import render_phantom

#: Number of phantoms. Each is measured a second time, mirrored.
PHANTOMS = 25
_PHANTOM_PX = 1024
_SIZES = ((256, 256), (512, 512), (1024, 832), (832, 1024))  # height, width

Classifier = Callable[[Sequence[Image.Image]], NDArray[np.float64]]


@dataclass(frozen=True)
class Deviation:
    """Difference of the probabilities on images of one size.

    Args:
        height, width (`int`):
            Size of the images, in pixels.
        images (`int`):
            Number of images.
        mean, largest (`float`):
            Mean and largest absolute difference over images and labels.
    """

    height: int
    width: int
    images: int
    mean: float
    largest: float


def draw_phantoms(count: int) -> list[NDArray[np.float32]]:
    """Draw large synthetic radiographs in [0, 1], always the same ones."""
    return [np.clip(render_phantom(seed=1, index=i, size_px=_PHANTOM_PX).pixels, 0, 1) for i in range(count)]


def grey_image(pixels: NDArray[np.float32], height: int, width: int) -> Image.Image:
    """Make an 8-bit image of the given size."""
    return Image.fromarray(np.round(area_resize(pixels, height, width) * 255).astype(np.uint8))


def measured_deviations(original: Classifier, exported: Classifier, side: int) -> tuple[Deviation, ...]:
    """Compare two classifiers on generated images of `side` x `side` pixels and of other sizes.

    Args:
        original, exported (`Callable`):
            From 8-bit images to probabilities of shape `(n, labels)`.
        side (`int`):
            Side of the images that the exported model takes without resizing them.

    Returns:
        `tuple` of [`Deviation`]: The one for `side` first.
    """
    phantoms, rows = draw_phantoms(PHANTOMS), []
    for height, width in dict.fromkeys([(side, side), *_SIZES]):
        images = [grey_image(view, height, width) for pixels in phantoms for view in (pixels, pixels[:, ::-1])]
        difference = np.abs(original(images) - exported(images))
        rows.append(Deviation(height, width, len(images), float(difference.mean()), float(difference.max())))
    return tuple(rows)


def check_deviation(deviation: Deviation, limit: float) -> None:
    """Refuse an export that differs by more than rounding.

    Raises:
        [`DeploymentError`]: When the largest difference is above the limit, or not a number.
    """
    if not deviation.largest <= limit:
        raise DeploymentError(
            f"The exported model must give the same probabilities to {limit:g} at {deviation.height} x "
            f"{deviation.width} px; they differ by {deviation.largest:.2g}. Nothing was written; check the model's "
            "weights."
        )
