"""Views made in batches on the device that trains: it keeps the decoded images, and workers only draw the views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers.utils import logging

from ..errors import DatasetError
from ..image_geometry_mlcak import bilinear_weights
from ..image_processing_mlcak import MLCAKImageProcessor
from .batched_views import DrawnViews, batched_view_pixels
from .collator import MLCAKCollator, teacher_pixel_keys
from .decoded_images import DecodedImages

logger = logging.get_logger(__name__)

#: Key of the drawn views in a batch that has no pixels yet.
DRAWN_VIEWS = "drawn_views"


class DeviceImages:
    """
    All decoded images of a dataset in the memory of a device, with 8 or 16 bits per pixel as they are on disk.

    Images of one size and depth are kept together; a batch is made of as many parts as it has sizes and depths.

    Args:
        images ([`DecodedImages`]):
            The images.
        device (`torch.device`):
            The device. See [`device_memory_shortage`].
    """

    def __init__(self, images: DecodedImages, device: torch.device) -> None:
        self.device = device
        sizes, group = np.unique(images.sizes, axis=0, return_inverse=True)
        # For every image its group, and its place in it.
        self._group, self._place = group.reshape(-1), np.zeros(len(images), np.int64)
        self._pixels: list[Tensor] = []
        for number, (side, width) in enumerate(sizes.tolist()):
            members = np.flatnonzero(self._group == number)
            self._place[members] = np.arange(len(members))
            kept = torch.empty((len(members), side, side), dtype=torch.uint8 if width == 1 else torch.int16)
            for place, position in enumerate(members.tolist()):
                # PyTorch computes little with uint16; the bits are kept.
                kept[place] = torch.from_numpy(images[position].view(np.uint8 if width == 1 else np.int16).copy())
            self._pixels.append(kept.to(device))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the pixels behind: worker processes do not need them."""
        return self.__dict__ | {"_pixels": []}

    def view_pixels(self, views: DrawnViews, sides: Sequence[int]) -> list[Tensor]:
        """
        Make the pixels of one view each of some images.

        Args:
            views ([`DrawnViews`]):
                Views with the indices of their images.
            sides (`Sequence[int]`):
                Sides of the models' inputs, in pixels.

        Returns:
            `list[torch.Tensor]`: float32 in [0, 1] of shape `(B, side, side)` for every side, on the device.
        """
        views, groups = views.to(self.device), self._group[views.index]
        found = np.unique(groups)
        if len(found) == 1:
            return batched_view_pixels(self._images(found[0], views.index), views, sides)
        made = [torch.empty((len(groups), side, side), device=self.device) for side in sides]
        for group in found:
            members = np.flatnonzero(groups == group)
            part, places = views[members], torch.from_numpy(members).to(self.device)
            own = batched_view_pixels(self._images(group, part.index), part, sides)
            for pixels, of_group in zip(made, own, strict=True):
                pixels[places] = of_group
        return made

    def _images(self, group: int, index: np.ndarray) -> Tensor:
        """Grey values in [0, 1], float32."""
        pixels = self._pixels[group]
        places = torch.from_numpy(self._place[index]).to(self.device, non_blocking=True)
        chosen = pixels.index_select(0, places)
        return chosen / 255 if pixels.dtype == torch.uint8 else (chosen.int() & 0xFFFF) / 65535


def device_memory_shortage(images: DecodedImages, device: torch.device) -> str | None:
    """
    Check that decoded images fit into half of a GPU's free memory; the other half is left for training.

    Args:
        images ([`DecodedImages`]):
            The images.
        device (`torch.device`):
            The device of this process.

    Returns:
        `str`, *optional*: What is short; `None` if the images fit in every process, or the device is not a CUDA GPU.
    """
    sides, widths = images.sizes.T
    needed, free = int((sides * sides * widths).sum()), _free_bytes(device)
    short = None
    if free is not None and needed > free / 2:
        short = f"{needed / 1e9:.3f} GB of decoded images on {device}, more than half of the {free / 1e9:.3f} GB free"
    # Every process makes its views in the same way, because the bits differ.
    return next(filter(None, gather_object([short])), None)


def _free_bytes(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


class DeviceViewCollator(MLCAKCollator):
    """
    An [`MLCAKCollator`] that draws the same views, but leaves their pixels to the device.

    Worker processes return the drawn views under `drawn_views`, and `add_pixels` makes the pixels in the training
    process. They are within 1/255 of those of an `MLCAKCollator`, and depend on seed, epoch and index alone, but for
    rounding. Evaluation is that of an `MLCAKCollator`.

    Args:
        collator ([`MLCAKCollator`]):
            The training collator, with views.
        images ([`DeviceImages`]):
            Images of the training rows, in their order.

    Raises:
        [`DatasetError`]: If the collator has no views.
    """

    def __init__(self, collator: MLCAKCollator, images: DeviceImages) -> None:
        if collator.views is None:
            raise DatasetError("Views on the device need a collator with views. Give it ViewParameters().")
        self.__dict__.update(collator.__dict__)
        self.images = images

    def view_key(self) -> dict[str, Any]:
        """Return what determines a view, for the key of a teacher cache; these views have other bits."""
        key = super().view_key()
        return key | {"definition": f"{key['definition']}, made on the device"}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate rows, each with its `index` and without an image, into labels and drawn views."""
        if self.views is None:
            return super().__call__(rows)
        index = [int(row["index"]) for row in rows]
        views = [self.views.draw(self.seed, self.epoch, each) for each in index]
        return self._with_labels({"index": torch.tensor(index), DRAWN_VIEWS: DrawnViews.of(views, index)}, rows)

    def add_pixels(self, batch: dict[str, Any], student: bool = True) -> dict[str, Any]:
        """
        Make the pixels of a batch that this collator returned.

        Args:
            batch (`dict`):
                The batch; unchanged if it has pixels already.
            student (`bool`, *optional*, defaults to `True`):
                Whether to make the student's pixels, not only the teachers'.

        Returns:
            `dict[str, torch.Tensor]`: The batch of an [`MLCAKCollator`], on the device.
        """
        if DRAWN_VIEWS not in batch:
            return batch
        processors = [self.processor, *self.teacher_processors]
        named = dict(zip(["pixel_values", *teacher_pixel_keys(len(processors) - 1)], processors, strict=True))
        if not student:
            del named["pixel_values"]
        sides = [processor.lowres or processor.size["height"] for processor in named.values()]
        made = self.images.view_pixels(batch[DRAWN_VIEWS], sides)
        pixels = {name: _model_input(each, named[name]) for name, each in zip(named, made, strict=True)}
        return pixels | {name: value for name, value in batch.items() if name != DRAWN_VIEWS}


def _model_input(pixels: Tensor, processor: MLCAKImageProcessor) -> Tensor:
    """Enlarge, normalise and repeat as the image processor does: `(B, side, side)` to `(B, C, S, S)`."""
    lowres: Any = processor.lowres
    if lowres is not None:
        weights = _bilinear(lowres, processor.size["height"], pixels.device)
        pixels = weights @ pixels @ weights.T
    channels = zip(np.atleast_1d(processor.image_mean), np.atleast_1d(processor.image_std), strict=True)
    # Numbers, not tensors: copying them to a GPU would wait for it.
    normalised = [(pixels - float(mean)) / float(std) if processor.do_normalize else pixels for mean, std in channels]
    return torch.stack(normalised, dim=1)


@lru_cache(maxsize=16)
def _bilinear(n_in: int, n_out: int, device: torch.device) -> Tensor:
    return torch.tensor(bilinear_weights(n_in, n_out), device=device)
