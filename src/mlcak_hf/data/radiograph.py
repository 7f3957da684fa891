"""Any radiograph file (DICOM, PNG, JPEG) -> float32 in [0, 1], 0 = dark (air)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import DicomError
from ..image_processing_mlcak import to_unit_range
from .dicom import MAX_PIXELS, read_dicom, read_dicom_resized
from .intensity import VOI_MODES, Voi, percentile_limits
from .resampling import pixel_edges, resample, weights_onto_square

Fit = Literal["pad", "squash"]
FITS: tuple[str, ...] = get_args(Fit)

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PICTURE_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "P", "RGB", "RGBA")


class RadiographNotFoundError(DicomError, FileNotFoundError):
    """The file that should be read does not exist."""


def read_radiograph(
    path: str | Path, size_px: int | None = None, fit: Fit = "pad", voi: Voi = "dicom"
) -> npt.NDArray[np.float32]:
    """Read a radiograph from a DICOM, PNG or JPEG file, told apart by their content.

    Args:
        path: The file. PNG with 8 or 16 bits, JPEG; colour becomes its luminance. For DICOM see
            `mlcak_hf.data.read_dicom`.
        size_px: Side of the square to return, in pixels; None keeps the file's own size and shape.
        fit: With `size_px`: "pad" with 0 to a square, after polarity is right, or "squash" both sides to it.
        voi: What becomes 0 and 1. "dicom": the limits of the file's VOI LUT or window, or the range of the stored bits
            where the file has neither, as in every PNG and JPEG. "percentile": the 1st and 99th percentile, taken once
            at a reference size of 256 px without padding, hence the same for every `size_px`. "none": the range of the
            stored bits.

    Returns:
        float32 in [0, 1] of shape (H, W), or (size_px, size_px) by area average. 0 is dark (air).

    Raises:
        DicomError: No such file (also a FileNotFoundError), an unreadable or unsupported one, or one that cannot be
            read without guessing; the message names the file and the remedy.

    Example:

    ```python
    >>> from mlcak_hf.data import read_radiograph
    >>> read_radiograph("chest.dicom", size_px=28).shape
    (28, 28)
    ```
    """
    if size_px is not None:
        return read_resized(path, size_px, fit, voi).pixels
    path = _checked(path, fit, voi)
    return _read_picture(path, voi) if _is_picture(path) else read_dicom(path, voi)


@dataclass(frozen=True)
class ResizedRadiograph:
    """A small square image of a radiograph, and how large the file's own image is.

    Args:
        pixels: float32 of shape (size_px, size_px) in [0, 1]. 0 is dark (air).
        original_height, original_width: Of the file's image, in pixels.
    """

    pixels: npt.NDArray[np.float32]
    original_height: int
    original_width: int


def read_resized(path: str | Path, size_px: int, fit: Fit = "pad", voi: Voi = "dicom") -> ResizedRadiograph:
    """Read a radiograph as a small square: `read_radiograph` with the size of the original.

    Args:
        path, size_px, fit, voi: As in `read_radiograph`.

    Returns:
        The square and the original size.

    Raises:
        DicomError: As in `read_radiograph`.
    """
    path = _checked(path, fit, voi)
    if size_px < 1:
        raise DicomError(f"size_px must be at least 1 or None, but {size_px} came")
    if _is_picture(path):
        image = _read_picture(path, voi)
        return ResizedRadiograph(resize_radiograph(image, size_px, fit), *image.shape)
    pixels, size = read_dicom_resized(path, size_px, fit, voi)
    return ResizedRadiograph(pixels, *size)


def _checked(path: str | Path, fit: str, voi: str) -> Path:
    if fit not in FITS:
        raise DicomError(f"fit must be one of {', '.join(FITS)}, but {fit!r} came")
    if voi not in VOI_MODES:
        raise DicomError(f"voi must be one of {', '.join(VOI_MODES)}, but {voi!r} came")
    return Path(path)


def _is_picture(path: Path) -> bool:
    """Whether a file is a PNG or JPEG by its first bytes; anything else is taken for DICOM."""
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_PNG))
    except FileNotFoundError:
        # Only the name: reasons are kept in prepared datasets, and a folder may name a person.
        raise RadiographNotFoundError(f"there is no file {path.name} in the folder named; check the path") from None
    except OSError as error:
        raise DicomError(f"{path.name} cannot be opened ({error.strerror}); it must be a readable file") from None
    return head.startswith((_PNG, _JPEG))


def resize_radiograph(image: npt.NDArray[np.float32], size_px: int, fit: Fit = "pad") -> npt.NDArray[np.float32]:
    """Bring a radiograph to a square by area average.

    Args:
        image: Polarity corrected, shape (H, W), in [0, 1].
        size_px: Side of the square in pixels.
        fit: "pad" centres the image on a dark square first; "squash" scales both sides to the square.

    Returns:
        float32 of shape (size_px, size_px) in [0, 1].
    """
    weights = weights_onto_square(pixel_edges(image.shape[0]), pixel_edges(image.shape[1]), size_px, fit)
    return np.asarray(np.clip(resample(image, *weights), 0.0, 1.0))


def _read_picture(path: Path, voi: Voi) -> npt.NDArray[np.float32]:
    """Read a PNG or JPEG file; shape (H, W)."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            frames, mode = getattr(picture, "n_frames", 1), picture.mode
            if picture.width * picture.height > MAX_PIXELS:
                raise DicomError(
                    f"{path.name}: it has {picture.height} x {picture.width} pixels; up to {MAX_PIXELS:,} are read"
                )
            if frames != 1 or mode not in _PICTURE_MODES:
                raise DicomError(
                    f"{path.name}: it has {frames} frame(s) in colour mode {mode}; a radiograph is one frame, grey or"
                    " RGB. Export the original again"
                )
            # A photograph's orientation mark is an instruction of the file, and `datasets` follows it as well.
            upright = ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, DicomError):
            raise
        raise DicomError(
            f"{path.name}: cannot read this picture ({type(error).__name__}). It may be cut off or damaged; copy or"
            " download it again, or leave it out"
        ) from error
    if upright.mode == "I":  # what older Pillow versions make of a 16-bit PNG
        image = to_unit_range(np.asarray(upright).astype(np.uint16))
    else:
        image = to_unit_range(upright.convert("RGBA") if upright.mode == "LA" else upright)
    if voi != "percentile":
        return image
    try:
        low, high = percentile_limits(image, None)
    except DicomError as error:
        raise DicomError(f"{path.name}: {error}") from None
    return np.asarray(np.clip((image - low) / (high - low), 0.0, 1.0), dtype=np.float32)
