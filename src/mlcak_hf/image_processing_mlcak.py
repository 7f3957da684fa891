"""Image processor of MLCAK models: any radiograph -> square, area-reduced, normalised `pixel_values`.

Everything is computed in float32: no step goes through 8 bit, so a 12- or 16-bit radiograph keeps its grey levels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .image_geometry_mlcak import (
    FIT_CHOICES,
    apply_weights,
    area_resize,
    area_weights,
    bilinear_weights,
    check_choice,
    fit_to_square,
    map_boxes,
)

logger = logging.get_logger(__name__)

# ITU-R 601-2 luma, as PIL's own "L" conversion, but without its rounding to 8 bit.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# Float images may miss [0, 1] by rounding, not by more.
_RANGE_TOLERANCE = 1e-5
# A 16-bit radiograph clipped to 8 bits has 99.6 % white pixels.
_WHITE_SHARE = 0.98
_VOI_CHOICES = ("dicom", "percentile", "none")
_OWN_SETTINGS = ("size", "fit", "lowres", "image_mean", "image_std", "value_range", "voi", "do_normalize")


def to_unit_range(
    image: Any, value_range: Sequence[float] | None = None, input_data_format: str | None = None
) -> np.ndarray:
    """
    Turn any accepted image into one grey float32 image in [0, 1]. Nothing is guessed.

    uint8 is divided by 255, uint16 by 65535, booleans are 0 and 1, floats must already lie in [0, 1]. Everything else
    (12 bits stored in 16, signed integers, PIL mode "I") needs `value_range`. Colour becomes luma (equal channels stay
    what they are); transparency is laid over black.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            PIL image of any mode; array of shape `(H, W)`, or `(H, W, C)` / `(C, H, W)` with 1, 3 or 4 channels.
        value_range (`Sequence[float]`, *optional*):
            `(low, high)`: the values that become 0 and 1. Values outside are an error.
        input_data_format (`str`, *optional*):
            `"channels_first"` or `"channels_last"`, for arrays in which both could be meant.

    Returns:
        `np.ndarray` of shape `(H, W)`: float32 in [0, 1].

    Raises:
        ValueError: If type, shape, dtype or values are not among the above; the message says what to pass.
    """
    array = _as_array(image)
    if array.size == 0 or array.ndim not in (2, 3):
        raise ValueError(
            f"An image must have shape (H, W), (H, W, C) or (C, H, W) and at least one pixel; got shape {array.shape}. "
            "Pass several images as a list."
        )
    if array.ndim == 3:
        array = _channels_last(array, "channels_last" if isinstance(image, Image.Image) else input_data_format)
    unit = _scale(array, value_range)
    if unit.ndim == 2:
        return unit
    if unit.shape[-1] == 4:
        if value_range is not None:
            raise ValueError("value_range has no meaning for an alpha channel: drop the alpha channel first.")
        unit = unit[..., :-1] * unit[..., -1:]
    first = unit[..., 0]
    grey = first if np.all(unit == first[..., None]) else np.clip(unit @ _LUMA, 0, 1)
    return np.ascontiguousarray(grey)


def _as_array(image: Any) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, torch.Tensor):
        return np.asarray((image.float() if image.dtype == torch.bfloat16 else image).detach().cpu())
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"An image must be a PIL image, a numpy array or a torch tensor; got {type(image).__name__}. "
            "Read files (DICOM, 16-bit PNG) with mlcak_hf.read_radiograph."
        )
    if image.mode.startswith("I;16"):
        # Read by byte order: some Pillow versions hand out big-endian files byte-swapped or refuse them.
        order = {"I;16B": ">u2", "I;16N": "=u2"}.get(image.mode, "<u2")
        return np.frombuffer(image.tobytes(), dtype=order).reshape(image.height, image.width)
    if image.mode in ("LA", "La", "PA", "RGBa") or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode not in ("1", "L", "RGB", "RGBA", "I", "F"):
        image = image.convert("RGB")
    return np.asarray(image)


def _channels_last(array: np.ndarray, input_data_format: str | None) -> np.ndarray:
    first, last = array.shape[0] in (1, 3, 4), array.shape[-1] in (1, 3, 4)
    if input_data_format is not None:
        name = str(getattr(input_data_format, "value", input_data_format))
        check_choice("input_data_format", name, ("channels_first", "channels_last"))
        first, last = first and name == "channels_first", last and name == "channels_last"
    if first == last:
        raise ValueError(
            f"A three-axis image must be (H, W, C) or (C, H, W) with 1, 3 or 4 channels; got shape {array.shape}. "
            "Pass several grey images as a list. Where both are possible, pass input_data_format "
            '("channels_first" or "channels_last").'
        )
    return np.moveaxis(array, 0, -1) if first else array


def _scale(array: np.ndarray, value_range: Sequence[float] | None) -> np.ndarray:
    kind = array.dtype.kind
    if value_range is None and (kind == "b" or (kind == "u" and array.dtype.itemsize <= 2)):
        white = np.float32(1 if kind == "b" else np.iinfo(array.dtype).max)
        return np.asarray(array.astype(np.float32) / white)
    if kind not in "buif" or (value_range is None and kind != "f"):
        raise ValueError(
            f"{array.dtype} pixels have no range of their own: pass real numbers and value_range=(low, high), the "
            "values that become black and white, e.g. (0, 4095) for 12 bits."
        )
    low, high = (0, 1) if value_range is None else _check_value_range(value_range)
    unit = array if value_range is None else (array.astype(np.float64) - low) / (high - low)
    # Written so that NaN, for which every comparison is false, fails too.
    if not (unit.min() >= -_RANGE_TOLERANCE and unit.max() <= 1 + _RANGE_TOLERANCE):
        raise ValueError(
            f"Image values must lie in [{low:g}, {high:g}] and be finite; they run from {array.min():g} to "
            f"{array.max():g}. Pass value_range=(low, high), or read the file with mlcak_hf.read_radiograph."
        )
    return np.clip(unit.astype(np.float32), 0, 1)


def _check_value_range(value_range: Sequence[float]) -> tuple[float, float]:
    if len(value_range) != 2 or not -math.inf < value_range[0] < value_range[1] < math.inf:
        raise ValueError(f"value_range must be two ascending finite numbers (low, high); got {value_range}.")
    return float(value_range[0]), float(value_range[1])


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
        ValueError: If a setting lies outside its range.

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
            ValueError: If the shape or the values are others.
        """
        images = np.asarray(images)
        if images.ndim != 3 or images.size == 0:
            raise ValueError(f"reduce expects images of shape (batch, height, width); got shape {images.shape}.")
        if images.dtype.kind != "f":
            raise ValueError(f"reduce expects floats in [0, 1]; got dtype {images.dtype}. Use to_unit_range first.")
        return _reduce(_scale(images, None), {name: getattr(self, name) for name in _OWN_SETTINGS})

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
            raise ValueError(f"lowres must lie between 1 and size ({height}), or be None; got {settings['lowres']}.")
        for name in ("image_mean", "image_std"):
            settings[name] = tuple(np.atleast_1d(settings[name]).astype(float).tolist())
        mean, std = settings["image_mean"], settings["image_std"]
        if len(mean) not in (1, 3) or len(std) != len(mean) or not all(0 < value < math.inf for value in std):
            raise ValueError(
                "image_mean and image_std must hold one number per channel (1 or 3 of them), deviations above 0; "
                f"got image_mean={list(mean)}, image_std={list(std)}."
            )
        if settings["value_range"] is not None:
            settings["value_range"] = _check_value_range(settings["value_range"])
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
    side, lowres, images = settings["size"]["height"], settings["lowres"], fit_to_square(images, settings["fit"])
    if lowres is None:
        images = area_resize(images, side, side)
    else:
        weights = bilinear_weights(lowres, side)
        images = apply_weights(area_resize(images, lowres, lowres), weights, weights)
    mean, std = (np.array(settings[name], np.float32).reshape(1, -1, 1, 1) for name in ("image_mean", "image_std"))
    if not settings["do_normalize"]:
        return np.repeat(images[:, None], mean.size, axis=1)
    return np.asarray((images[:, None] - mean) / std)


__all__ = ["MLCAKImageProcessor", "area_resize", "area_weights", "fit_to_square", "map_boxes", "to_unit_range"]
