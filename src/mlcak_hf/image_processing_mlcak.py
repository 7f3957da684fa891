"""Image processor of MLCAK models: any radiograph -> square, area-reduced, normalised `pixel_values`.

Everything is computed in float32: no step goes through 8 bit, so a 12- or 16-bit radiograph keeps its grey levels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .image_geometry_mlcak import FIT_CHOICES, area_resize, check_choice, fit_to_square, make_pixel_values, map_boxes
from .unit_range_mlcak import ordered_range, scale_to_unit, to_unit_range

logger = logging.get_logger(__name__)

# A 16-bit radiograph clipped to 8 bits has 99.6 % white pixels.
_WHITE_SHARE = 0.98
_VOI_CHOICES = ("dicom", "percentile", "none")
_OWN_SETTINGS = ("size", "fit", "lowres", "image_mean", "image_std", "value_range", "voi", "do_normalize")


class MLCAKImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of [`MLCAKImageProcessor`] beyond those of every image processor."""

    fit: str
    lowres: int | None
    value_range: list[float | int] | tuple[float | int, ...] | None
    voi: str


# Settings of the base class that have no place in this processor's fixed path: refused, not silently ignored.
_FOREIGN_SETTINGS = (
    *("do_convert_rgb", "do_resize", "resample", "do_rescale"),
    *("do_center_crop", "crop_size", "do_pad", "pad_size", "data_format"),
)


class MLCAKImageProcessor(PilBackend):
    r"""
    Makes `pixel_values` of radiographs: grey -> [0, 1] -> square -> area average (-> low resolution and back) ->
    normalise. Needs no torchvision and never goes through 8 bit.

    Args:
        size (`dict[str, int]`, defaults to `{"height": 224, "width": 224}`): Side of the square input, in pixels.
        fit (`str`, defaults to `"pad"`): How other shapes become a square: `"pad"` (with 0, centred) or `"squash"`.
        lowres (`int`, *optional*): Area-reduce to this many pixels first, then enlarge bilinearly to `size`: a low
            resolution image for a model of higher resolution.
        image_mean (`list[float]`, defaults to `[0.5]`): One mean per channel; its length (1 or 3) is the number of
            channels, a second and third one repeat the grey channel.
        image_std (`list[float]`, defaults to `[0.25]`): One standard deviation per channel.
        value_range (`list[float]`, *optional*): Values that become 0 and 1, for every image that goes through
            `processor(...)`. `None`: see [`to_unit_range`].
        voi (`str`, defaults to `"dicom"`): How files must be read before this processor (`"dicom"`, `"percentile"` or
            `"none"`); kept here for those who read files, not applied to arrays.
        do_normalize (`bool`, defaults to `True`): Subtract the mean and divide by the standard deviation.

    Raises:
        ValueError: If a setting is outside its range.

    Example:

    ```python
    >>> import numpy as np
    >>> from mlcak_hf import MLCAKImageProcessor

    >>> processor = MLCAKImageProcessor(size={"height": 28, "width": 28})
    >>> processor(np.zeros((1024, 800), dtype=np.uint8), return_tensors="pt")["pixel_values"].shape
    torch.Size([1, 1, 28, 28])
    ```"""

    valid_kwargs = MLCAKImageProcessorKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012 - the base class declares it so
    size = {"height": 224, "width": 224}  # noqa: RUF012
    fit = "pad"
    lowres = None
    image_mean = [0.5]  # noqa: RUF012
    image_std = [0.25]  # noqa: RUF012
    value_range = None
    voi = "dicom"
    do_normalize = True

    def reduce(self, images: np.ndarray) -> np.ndarray:
        """
        The processor's geometry and normalisation for grey images that are already in [0, 1].

        Args:
            images (`np.ndarray` of shape `(B, H, W)`): Real numbers in [0, 1]; `value_range` does not apply.

        Returns:
            `np.ndarray` of shape `(B, C, S, S)`: float32, bit for bit what `processor(images)` gives.

        Raises:
            ValueError: If the shape or the values are wrong.
        """
        images = np.asarray(images)
        if images.ndim != 3 or images.size == 0:
            raise ValueError(f"reduce expects images of shape (batch, height, width); got shape {images.shape}.")
        if images.dtype.kind != "f":
            raise ValueError(f"reduce expects floats in [0, 1]; got dtype {images.dtype}. Use to_unit_range first.")
        return _reduce(scale_to_unit(images, None), {name: getattr(self, name) for name in _OWN_SETTINGS})

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """Flatten nested lists and four-axis batches into a list of single images."""
        if isinstance(images, (list, tuple)):
            return [image for entry in images for image in self._prepare_images_structure(entry)]
        if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
            return list(images)
        return [images]

    def process_image(  # type: ignore[override]
        self,
        image: Any,
        value_range: Sequence[float] | None = None,
        input_data_format: str | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Turn one image into grey float32 `(H, W)` in [0, 1]; see [`to_unit_range`]."""
        unit = to_unit_range(image, value_range=value_range, input_data_format=input_data_format)
        if np.mean(unit == 1) > _WHITE_SHARE:
            logger.warning_once(
                "An image is almost entirely white. A pipeline clips 16-bit files to white: read them with "
                "mlcak_hf.read_radiograph first."
            )
        return unit

    def _preprocess(self, images: list[np.ndarray], **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        if not images:
            raise ValueError("Expected at least one image; got an empty list.")
        reduced = [_reduce(image[None], kwargs) for image in images]
        return BatchFeature(data={"pixel_values": np.concatenate(reduced)}, tensor_type=kwargs["return_tensors"])

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        settings: dict[str, Any] = super()._standardize_kwargs(**kwargs)
        refused = [name for name in _FOREIGN_SETTINGS if settings.get(name) is not None]
        if refused:
            raise ValueError(f"MLCAKImageProcessor has no {refused}; its settings are {list(_OWN_SETTINGS)}.")
        check_choice("fit", settings["fit"], FIT_CHOICES)
        check_choice("voi", settings["voi"], _VOI_CHOICES)
        size = settings["size"]
        height, width = size.get("height"), size.get("width")
        if height is None or height != width or height < 1:
            raise ValueError(f'size must be a square {{"height": S, "width": S}} with S >= 1; got {dict(size)}.')
        if settings["lowres"] is not None and not 1 <= settings["lowres"] <= height:
            raise ValueError(f"lowres must be between 1 and size ({height}), or None; got {settings['lowres']}.")
        for name in ("image_mean", "image_std"):
            settings[name] = tuple(np.atleast_1d(settings[name]).astype(float).tolist())
        mean, std = settings["image_mean"], settings["image_std"]
        if len(mean) not in (1, 3) or len(std) != len(mean) or not all(0 < value < math.inf for value in std):
            raise ValueError(
                "image_mean and image_std must hold one number per channel (1 or 3 of them), deviations above 0; "
                f"got image_mean={list(mean)}, image_std={list(std)}."
            )
        if settings["value_range"] is not None:
            settings["value_range"] = ordered_range(settings["value_range"])
        return settings

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Nothing to add: `_standardize_kwargs` has checked every setting that is used."""

    def to_dict(self) -> dict[str, Any]:
        """Settings as saved in `preprocessor_config.json`: this processor's own, without unused ones of the base."""
        settings: dict[str, Any] = super().to_dict()
        own = {name: settings.get(name) for name in _OWN_SETTINGS}
        kept = {name: value for name, value in settings.items() if name not in ImagesKwargs.__annotations__}
        return kept | {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}


def _reduce(images: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Make `(B, C, S, S)` of grey images `(B, H, W)` in [0, 1]."""
    mean, std = settings["image_mean"], settings["image_std"]
    if not settings["do_normalize"]:
        mean, std = [0.0] * len(mean), [1.0] * len(mean)
    return make_pixel_values(images, settings["size"]["height"], settings["fit"], settings["lowres"], mean, std)


__all__ = ["MLCAKImageProcessor", "area_resize", "fit_to_square", "map_boxes", "to_unit_range"]
