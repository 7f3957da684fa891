"""Any radiograph file (DICOM, PNG, JPEG) -> float32 in [0, 1], 0 = dark (air)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import DicomError
from .dicom.image import read_dicom
from .grey_values import VOI_MODES, ValueRange, Voi, check_value_range
from .png_jpeg import HEAD_BYTES, SIGNATURES, lost_depth, read_png_jpeg
from .resampling import pixel_edges, resample, weights_onto_square

Fit = Literal["pad", "squash"]
FITS: tuple[str, ...] = get_args(Fit)


class RadiographNotFoundError(DicomError, FileNotFoundError):
    """The file to be read does not exist."""


@dataclass(frozen=True)
class Radiograph:
    """A radiograph and what is known about its file.

    Args:
        pixels (`np.ndarray` of shape `(H, W)` or `(size_px, size_px)`):
            float32 in [0, 1]. 0 is dark (air).
        original_height, original_width (`int`):
            Size of the image in the file, in pixels.
        underfilled (`bool`, *optional*, defaults to `False`):
            Whether a 16-bit image uses at most 1/8 of its range, typically 12 bits stored in 16. Never with
            `voi="percentile"` or a `value_range`.
    """

    pixels: npt.NDArray[np.float32]
    original_height: int
    original_width: int
    underfilled: bool = False


def read_radiograph(
    path: str | Path,
    size_px: int | None = None,
    fit: Fit = "pad",
    voi: Voi = "dicom",
    value_range: ValueRange | None = None,
) -> npt.NDArray[np.float32]:
    """Read a radiograph from a DICOM, PNG or JPEG file. The content decides, not the name.

    DICOM files may be uncompressed, deflated, RLE, JPEG baseline, JPEG 2000 or High-Throughput JPEG 2000, and, where
    imagecodecs is installed, JPEG Extended, JPEG Lossless or JPEG-LS. PNG may have 8 or 16 bits. Colour becomes
    luminance.

    Args:
        path (`str` or `Path`):
            The file.
        size_px (`int`, *optional*):
            Side of the square to return, in pixels. `None` keeps the size and shape of the file.
        fit (`str`, *optional*, defaults to `"pad"`):
            With `size_px`: `"pad"` to a square with 0, after the polarity is corrected, or `"squash"` both sides.
        voi (`str`, *optional*, defaults to `"dicom"`):
            What becomes 0 and 1. `"dicom"`: the limits of the file's first VOI LUT or window, or the range of the
            stored bits if it has neither, as in every PNG and JPEG. `"percentile"`: the 1st and 99th percentile, taken
            at a reference size of 256 px without padding, hence the same for every `size_px`. `"none"`: the range of
            the stored bits.
        value_range (`tuple[float, float]`, *optional*):
            For PNG and JPEG: the stored values that become 0 and 1, such as (0, 4095) for 12 bits in a 16-bit PNG;
            values outside are clipped. Defaults to the range of the stored bits.

    Returns:
        `np.ndarray` of shape `(H, W)` or `(size_px, size_px)`: float32 in [0, 1] by area average. 0 is dark (air).

    Raises:
        [`DicomError`]: When the file does not exist (also a `FileNotFoundError`), is unreadable or unsupported, or
            could only be read by guessing. The message names the file and the remedy.

    Example:

    ```python
    >>> from mlcak_hf import read_radiograph
    >>> read_radiograph("chest.dicom", size_px=28).shape
    (28, 28)
    ```
    """
    return read_with_facts(path, size_px, fit, voi, value_range).pixels


def read_with_facts(
    path: str | Path,
    size_px: int | None = None,
    fit: Fit = "pad",
    voi: Voi = "dicom",
    value_range: ValueRange | None = None,
) -> Radiograph:
    """Read a radiograph like [`read_radiograph`], and also return its original size and whether it is underfilled.

    Args:
        path, size_px, fit, voi, value_range: As in [`read_radiograph`].

    Returns:
        [`Radiograph`]: The pixels and what is known about the file.

    Raises:
        [`DicomError`]: As in [`read_radiograph`].
    """
    if fit not in FITS:
        raise DicomError(f"fit must be 'pad' or 'squash'; got {fit!r}.")
    if voi not in VOI_MODES:
        raise DicomError(f"voi must be 'dicom', 'percentile' or 'none'; got {voi!r}.")
    if size_px is not None and size_px < 1:
        raise DicomError(f"size_px must be at least 1 or None; got {size_px}.")
    if value_range is not None:
        check_value_range(value_range)
    path = Path(path)
    try:
        with path.open("rb") as stream:
            return _read(stream, size_px, fit, voi, value_range)
    except DicomError as error:
        raise DicomError(f"{path.name}: {error}") from error.__cause__
    except FileNotFoundError:
        # The name only: reasons are stored in prepared datasets, and a folder may be named after a person.
        raise RadiographNotFoundError(f"{path.name}: The file does not exist. Check the path.") from None
    except OSError as error:
        raise DicomError(f"{path.name}: The file cannot be opened ({error.strerror}). Check its permissions.") from None


def _read(stream: BinaryIO, size_px: int | None, fit: Fit, voi: Voi, value_range: ValueRange | None) -> Radiograph:
    head = stream.read(HEAD_BYTES)
    if not head.startswith(SIGNATURES):
        if value_range is not None:
            raise DicomError(
                "value_range is for PNG and JPEG; a DICOM has its own window or `voi`. Leave value_range out."
            )
        pixels, (height, width) = read_dicom(stream, size_px, fit, voi)
        return Radiograph(pixels, height, width)
    problem = lost_depth(head)
    if problem is not None:
        raise DicomError(problem)
    pixels, underfilled = read_png_jpeg(stream, voi, value_range)
    height, width = pixels.shape
    return Radiograph(
        pixels if size_px is None else resize_radiograph(pixels, size_px, fit), height, width, underfilled
    )


def resize_radiograph(image: npt.NDArray[np.float32], size_px: int, fit: Fit = "pad") -> npt.NDArray[np.float32]:
    """Resize a radiograph to a square by area average.

    Args:
        image (`np.ndarray` of shape `(H, W)`):
            The radiograph in [0, 1], with its polarity corrected.
        size_px (`int`):
            Side of the square in pixels.
        fit (`str`, *optional*, defaults to `"pad"`):
            `"pad"` centres the image on a dark square first; `"squash"` scales both sides to the square.

    Returns:
        `np.ndarray` of shape `(size_px, size_px)`: float32 in [0, 1].
    """
    weights = weights_onto_square(pixel_edges(image.shape[0]), pixel_edges(image.shape[1]), size_px, fit)
    return np.asarray(np.clip(resample(image, *weights), 0.0, 1.0))
