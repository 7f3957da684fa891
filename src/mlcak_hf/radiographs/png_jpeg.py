"""PNG or JPEG file -> float32 in [0, 1]."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ..errors import DicomError
from ..unit_range_mlcak import to_unit_range
from .choices import ValueRange, Voi
from .dicom.header import MAX_PIXELS
from .grey_values import UNDERFILLED_BELOW, percentile_limits, stretch
from .resampling import Pixels

# This many bytes at the beginning of a file are enough for `SIGNATURES` and [`lost_depth`].
HEAD_BYTES = 26
_PNG = b"\x89PNG\r\n\x1a\n"
SIGNATURES = (_PNG, b"\xff\xd8\xff")
"""How the content of a PNG or JPEG file begins."""
_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "P", "RGB", "RGBA")
_PNG_COLOURS = {2: "RGB", 4: "grey with alpha", 6: "RGB with alpha"}  # colour types that may have 16 bits


def lost_depth(head: bytes) -> str | None:
    """Find a 16-bit PNG in colour or with transparency, which Pillow silently reduces to 8 bits.

    Args:
        head (`bytes`):
            The first `HEAD_BYTES` bytes of a PNG or JPEG file.

    Returns:
        `str`: Why the file cannot be read and what to do. `None` for any other file.
    """
    # A PNG begins with its signature and the chunk IHDR: width, height, bit depth, colour type.
    if not head.startswith(_PNG) or len(head) < HEAD_BYTES or head[24] != 16 or head[25] not in _PNG_COLOURS:
        return None
    return f"A PNG with 16 bits must be grey; this one is {_PNG_COLOURS[head[25]]}. Save it as 16-bit grey."


def read_png_jpeg(stream: BinaryIO, voi: Voi, value_range: ValueRange | None) -> tuple[Pixels, bool]:
    """Read a PNG or JPEG file, upright according to its orientation tag.

    Args:
        stream (`BinaryIO`):
            The open file.
        voi, value_range: As in [`read_radiograph`].

    Returns:
        `tuple`: float32 of shape `(H, W)` in [0, 1], colour as luminance; and whether the image is underfilled, see
        [`Radiograph`].

    Raises:
        [`DicomError`]: When the file cannot be read or is not a single grey or RGB image.
    """
    stream.seek(0)
    if (problem := lost_depth(stream.read(HEAD_BYTES))) is not None:
        raise DicomError(problem)
    picture = _decode(stream)
    sixteen_bits = picture.mode.startswith("I")  # "I" in older Pillow versions
    image = to_unit_range(np.asarray(picture).astype(np.uint16) if picture.mode == "I" else picture)
    # Percentiles adapt to the image, so they cannot leave it underfilled.
    stored_limits = value_range is None and voi != "percentile"
    underfilled = sixteen_bits and stored_limits and float(image.max()) < UNDERFILLED_BELOW
    if value_range is not None:
        stored = image.astype(np.float64) * (65535 if sixteen_bits else 1 if picture.mode == "1" else 255)
        if sixteen_bits or picture.mode in ("1", "L"):
            stored = np.rint(stored)  # the integers of the file; luminances are not integers
        image = stretch(stored, *value_range)
    if voi == "percentile":
        image = stretch(image, *percentile_limits(image))
    return image, underfilled


def _decode(stream: BinaryIO) -> Image.Image:
    stream.seek(0)
    try:
        with Image.open(stream, formats=("PNG", "JPEG")) as picture:
            frames, mode, size = getattr(picture, "n_frames", 1), picture.mode, f"{picture.height} x {picture.width}"
            if picture.width * picture.height > MAX_PIXELS:
                raise DicomError(f"The image must have at most {MAX_PIXELS:,} pixels; got {size} pixels. Reduce it.")
            if frames != 1 or mode not in _MODES:
                found = f"{frames} frame(s) in colour mode {mode}"
                raise DicomError(f"A radiograph must be one grey or RGB frame; got {found}. Export the original again.")
            # Follow a photograph's orientation tag, as `datasets` does.
            return ImageOps.exif_transpose(picture)
    except DicomError:
        raise
    except Image.DecompressionBombError:
        raise DicomError(f"The image must have at most {MAX_PIXELS:,} pixels; it has far more. Reduce it.") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        problem = f"Cannot read this PNG or JPEG ({type(error).__name__}). The file may be damaged or cut off."
        raise DicomError(f"{problem} Copy or download it again, or leave it out.") from error
