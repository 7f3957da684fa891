"""Pixels of any image -> one grey image in [0, 1]. Needs neither torch nor transformers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from .image_geometry_mlcak import check_choice

# ITU-R 601-2 luma, as PIL's own "L" conversion, but without its rounding to 8 bit.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# Float images may miss [0, 1] by rounding, not by more.
_RANGE_TOLERANCE = 1e-5


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
    unit = scale_to_unit(array, value_range)
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
    if hasattr(image, "detach"):  # a tensor; importing torch takes seconds that processes reading files can save
        return np.asarray((image.float() if "bfloat16" in str(image.dtype) else image).detach().cpu())
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


def scale_to_unit(array: np.ndarray, value_range: Sequence[float] | None) -> np.ndarray:
    """Scale numbers of any dtype to [0, 1]; see [`to_unit_range`]."""
    kind = array.dtype.kind
    if value_range is None and (kind == "b" or (kind == "u" and array.dtype.itemsize <= 2)):
        white = np.float32(1 if kind == "b" else np.iinfo(array.dtype).max)
        return np.asarray(array.astype(np.float32) / white)
    if kind not in "buif" or (value_range is None and kind != "f"):
        raise ValueError(
            f"{array.dtype} pixels have no range of their own: pass real numbers and value_range=(low, high), the "
            "values that become black and white, e.g. (0, 4095) for 12 bits."
        )
    low, high = (0, 1) if value_range is None else ordered_range(value_range)
    unit = array if value_range is None else (array.astype(np.float64) - low) / (high - low)
    # Written so that NaN, for which every comparison is false, fails too.
    if not (unit.min() >= -_RANGE_TOLERANCE and unit.max() <= 1 + _RANGE_TOLERANCE):
        raise ValueError(
            f"Image values must lie in [{low:g}, {high:g}] and be finite; they run from {array.min():g} to "
            f"{array.max():g}. Pass value_range=(low, high), or read the file with mlcak_hf.read_radiograph."
        )
    return np.clip(unit.astype(np.float32), 0, 1)


def ordered_range(value_range: Sequence[float]) -> tuple[float, float]:
    """Return a value range as floats; raise a `ValueError` unless it is two ascending finite numbers."""
    if len(value_range) != 2 or not -math.inf < value_range[0] < value_range[1] < math.inf:
        raise ValueError(f"value_range must be two ascending finite numbers (low, high); got {value_range}.")
    return float(value_range[0]), float(value_range[1])
