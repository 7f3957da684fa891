"""PNG and JPEG files -> float32 in [0, 1]: radiographs that were exported as pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import DicomError
from ..image_processing_mlcak import to_unit_range
from .dicom.header import MAX_PIXELS
from .grey_values import Voi, percentile_limits

ValueRange = tuple[float, float]

#: So many bytes at the beginning of a file tell whether it is a picture, and how a PNG stores its pixels.
HEAD_BYTES = 26
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "P", "RGB", "RGBA")
_PNG_COLOURS = {2: "RGB", 4: "grey with alpha", 6: "RGB with alpha"}  # the colour types that may have 16 bits
_CRUSHED_BELOW = 1 / 8  # of the range: 13 bits or fewer in 16


class Picture(NamedTuple):
    """What a PNG or JPEG file shows.

    Args:
        pixels: float32 of shape (H, W) in [0, 1].
        crushed: Whether its values fill less than 1/8 of 16 bits and nothing said what becomes white: 12 bits in 16.
    """

    pixels: npt.NDArray[np.float32]
    crushed: bool


def is_picture(head: bytes) -> bool:
    """Whether a file is a PNG or JPEG, by its first `HEAD_BYTES` bytes."""
    return head.startswith((_PNG, _JPEG))


def lost_depth(head: bytes) -> str | None:
    """Tell a PNG of 16 bits in colour or with transparency, of which Pillow reads 8 and says nothing.

    Args:
        head: The first `HEAD_BYTES` bytes of a PNG or JPEG file.

    Returns:
        Why it cannot be read and what to do; None for any other file.
    """
    # A PNG begins with its signature and the chunk IHDR: width, height, bit depth, colour type.
    if not head.startswith(_PNG) or len(head) < HEAD_BYTES:
        return None
    bits, colours = head[24], _PNG_COLOURS.get(head[25])
    if bits != 16 or colours is None:
        return None
    return f"it is a PNG of 16 bits in {colours}, of which only 8 bits could be read; save it as 16-bit grey"


def check_value_range(value_range: ValueRange | None) -> None:
    """Refuse anything but None or two ascending finite numbers.

    Args:
        value_range: As in `read_radiograph`.

    Raises:
        DicomError: It is something else.
    """
    if value_range is None:
        return
    ascending = len(value_range) == 2 and value_range[0] < value_range[1]
    if not (ascending and all(map(math.isfinite, value_range))):
        given = ", ".join(f"{value:g}" for value in value_range)
        raise DicomError(
            f"value_range must be two finite numbers, the smaller one first, such as (0, 4095); ({given}) came"
        )


def read_picture(path: Path, voi: Voi = "dicom", value_range: ValueRange | None = None) -> Picture:
    """Read a PNG or JPEG file, upright as its orientation mark says.

    Args:
        path: The file.
        voi: "percentile" takes the limits from the image; otherwise they are those of `value_range`.
        value_range: Stored values that become 0 and 1; None for the range of the stored bits.

    Returns:
        The picture, colour as its luminance.

    Raises:
        DicomError: The file cannot be read, or is no picture of a radiograph.
    """
    picture = _decoded(path)
    if picture.mode == "I":  # what older Pillow versions make of a 16-bit PNG
        image = to_unit_range(np.asarray(picture).astype(np.uint16))
    else:
        image = to_unit_range(picture.convert("RGBA") if picture.mode == "LA" else picture)
    # Percentiles are limits of the image's own, and crush nothing.
    open_range = picture.mode.startswith("I") and value_range is None and voi != "percentile"
    crushed = open_range and float(image.max()) < _CRUSHED_BELOW
    if value_range is not None:
        image = _within(image, picture.mode, value_range)
    return Picture(_between_percentiles(image, path.name) if voi == "percentile" else image, crushed)


def _decoded(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            frames, mode = getattr(picture, "n_frames", 1), picture.mode
            if picture.width * picture.height > MAX_PIXELS:
                raise DicomError(
                    f"{path.name}: it has {picture.height} x {picture.width} pixels; up to {MAX_PIXELS:,} are read"
                )
            if frames != 1 or mode not in _MODES:
                raise DicomError(
                    f"{path.name}: it has {frames} frame(s) in colour mode {mode}; a radiograph is one frame, grey or"
                    " RGB. Export the original again"
                )
            # A photograph's orientation mark is an instruction of the file, and `datasets` follows it as well.
            return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, DicomError):
            raise
        raise DicomError(
            f"{path.name}: cannot read this picture ({type(error).__name__}). It may be cut off or damaged; copy or"
            " download it again, or leave it out"
        ) from error


def _within(image: npt.NDArray[np.float32], mode: str, value_range: ValueRange) -> npt.NDArray[np.float32]:
    """Make the stored values low..high of an image in [0, 1] its 0 and 1, and cut off what lies outside."""
    low, high = value_range
    stored = image.astype(np.float64) * (65535 if mode.startswith("I") else 1 if mode == "1" else 255)
    if mode in ("1", "L") or mode.startswith("I"):
        stored = np.rint(stored)  # the whole numbers of the file; luminances are none
    return np.asarray(np.clip((stored - low) / (high - low), 0.0, 1.0), dtype=np.float32)


def _between_percentiles(image: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    try:
        low, high = percentile_limits(image, None)
    except DicomError as error:
        raise DicomError(f"{name}: {error}") from None
    return np.asarray(np.clip((image - low) / (high - low), 0.0, 1.0), dtype=np.float32)
