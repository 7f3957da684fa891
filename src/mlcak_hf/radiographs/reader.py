"""Any radiograph file (DICOM, PNG, JPEG) -> float32 in [0, 1], 0 = dark (air)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import DicomError
from .dicom.reader import read_dicom, read_dicom_resized
from .grey_values import VOI_MODES, Voi
from .png_jpeg import HEAD_BYTES, Picture, ValueRange, check_value_range, is_picture, lost_depth, read_picture
from .resampling import pixel_edges, resample, weights_onto_square

Fit = Literal["pad", "squash"]
FITS: tuple[str, ...] = get_args(Fit)


class RadiographNotFoundError(DicomError, FileNotFoundError):
    """The file that should be read does not exist."""


def read_radiograph(
    path: str | Path,
    size_px: int | None = None,
    fit: Fit = "pad",
    voi: Voi = "dicom",
    value_range: ValueRange | None = None,
) -> npt.NDArray[np.float32]:
    """Read a radiograph from a DICOM, PNG or JPEG file, told apart by their content.

    Args:
        path: The file. PNG with 8 or 16 bits, JPEG; colour becomes its luminance. For DICOM see
            `mlcak_hf.radiographs.dicom.reader.read_dicom`.
        size_px: Side of the square to return, in pixels; None keeps the file's own size and shape.
        fit: With `size_px`: "pad" with 0 to a square, after polarity is right, or "squash" both sides to it.
        voi: What becomes 0 and 1. "dicom": the limits of the file's VOI LUT or window, or the range of the stored bits
            where the file has neither, as in every PNG and JPEG. "percentile": the 1st and 99th percentile, taken once
            at a reference size of 256 px without padding, hence the same for every `size_px`. "none": the range of the
            stored bits.
        value_range: For PNG and JPEG: the stored values (low, high) that become 0 and 1, such as (0, 4095) for 12 bits
            in a 16-bit PNG; what lies outside is cut off. None: the range of the stored bits.

    Returns:
        float32 in [0, 1] of shape (H, W), or (size_px, size_px) by area average. 0 is dark (air).

    Raises:
        DicomError: No such file (also a FileNotFoundError), an unreadable or unsupported one, one that cannot be read
            without guessing, or `value_range` for a DICOM; the message names the file and the remedy.

    Example:

    ```python
    >>> from mlcak_hf.data import read_radiograph
    >>> read_radiograph("chest.dicom", size_px=28).shape
    (28, 28)
    ```
    """
    if size_px is not None:
        return read_resized(path, size_px, fit, voi, value_range).pixels
    return read_whole(_checked(path, fit, voi, value_range), voi, value_range).pixels


def read_whole(path: str | Path, voi: Voi = "dicom", value_range: ValueRange | None = None) -> Picture:
    """Read a radiograph in its own size: `read_radiograph` that also tells whether a picture seems to need a range.

    Args:
        path, voi, value_range: As in `read_radiograph`.

    Returns:
        The radiograph; a DICOM file is never crushed.

    Raises:
        DicomError: As in `read_radiograph`.
    """
    path = _checked(path, "pad", voi, value_range)
    if _holds_picture(path, value_range):
        return read_picture(path, voi, value_range)
    return Picture(read_dicom(path, voi), crushed=False)


@dataclass(frozen=True)
class ResizedRadiograph:
    """A small square image of a radiograph, and how large the file's own image is.

    Args:
        pixels: float32 of shape (size_px, size_px) in [0, 1]. 0 is dark (air).
        original_height, original_width: Of the file's image, in pixels.
        crushed: Whether it is a 16-bit picture that seems to hold 12 bits, read without `value_range`: its maximum
            stays below 1/8 of the range, so that few grey levels are left of it. Never with voi="percentile".
    """

    pixels: npt.NDArray[np.float32]
    original_height: int
    original_width: int
    crushed: bool = False


def read_resized(
    path: str | Path,
    size_px: int,
    fit: Fit = "pad",
    voi: Voi = "dicom",
    value_range: ValueRange | None = None,
) -> ResizedRadiograph:
    """Read a radiograph as a small square: `read_radiograph` with the size of the original.

    Args:
        path, size_px, fit, voi, value_range: As in `read_radiograph`.

    Returns:
        The square and the original size.

    Raises:
        DicomError: As in `read_radiograph`.
    """
    path = _checked(path, fit, voi, value_range)
    if size_px < 1:
        raise DicomError(f"size_px must be at least 1 or None, but {size_px} came")
    if _holds_picture(path, value_range):
        image, crushed = read_picture(path, voi, value_range)
        height, width = image.shape
        return ResizedRadiograph(resize_radiograph(image, size_px, fit), height, width, crushed)
    pixels, size = read_dicom_resized(path, size_px, fit, voi)
    return ResizedRadiograph(pixels, *size)


def _checked(path: str | Path, fit: str, voi: str, value_range: ValueRange | None) -> Path:
    if fit not in FITS:
        raise DicomError(f"fit must be one of {', '.join(FITS)}, but {fit!r} came")
    if voi not in VOI_MODES:
        raise DicomError(f"voi must be one of {', '.join(VOI_MODES)}, but {voi!r} came")
    check_value_range(value_range)
    return Path(path)


def _holds_picture(path: Path, value_range: ValueRange | None) -> bool:
    """Whether a file is a PNG or JPEG by its first bytes; anything else is taken for DICOM, without value range."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except FileNotFoundError:
        # Only the name: reasons are kept in prepared datasets, and a folder may name a person.
        raise RadiographNotFoundError(f"there is no file {path.name} in the folder named; check the path") from None
    except OSError as error:
        raise DicomError(f"{path.name} cannot be opened ({error.strerror}); it must be a readable file") from None
    picture, problem = is_picture(head), lost_depth(head)
    if problem is not None:
        raise DicomError(f"{path.name}: {problem}")
    if not picture and value_range is not None:
        raise DicomError(
            f"{path.name}: value_range is for PNG and JPEG, and this is neither: a DICOM's own window or `voi` decides."
            " Leave value_range out"
        )
    return picture


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
