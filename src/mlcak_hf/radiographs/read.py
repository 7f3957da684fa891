"""Any radiograph file (DICOM, PNG, JPEG) -> float32 in [0, 1], 0 = dark (air)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import DicomError
from .choices import FITS, VOI_MODES, Fit, ValueRange, Voi, check_value_range
from .dicom.image import read_dicom
from .grey_values import PERCENTILES
from .png_jpeg import SIGNATURES, read_png_jpeg
from .resampling import Pixels, resample, sample_edges, weights_onto_square

NO_CONTRAST = (
    "The image has no usable contrast: almost all pixels have the same grey value. Read it with"
    ' voi="percentile" (--voi percentile) if the file\'s window is wrong, or leave it out.'
)
"""Why an image without contrast cannot be used, and what to do."""
DICOM_HEAD_BYTES = 132  # preamble and "DICM"
_LEAST_CONTRAST = 1 / 64  # between the percentiles 1 and 99; real radiographs of low contrast have 1/8 and more
_OTHER_KINDS = {b"%PDF": "PDF", b"PK\x03\x04": "ZIP", b"BM": "BMP", b"GIF8": "GIF", b"RIFF": "WebP"}
_OTHER_KINDS |= {b"II*\0": "TIFF", b"MM\0*": "TIFF"}


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
            Whether the image has more than 12 bits, of which it uses at most 1/8 of the range, typically 12 bits stored
            in 16. Never with a window, `voi="percentile"` or a `value_range`.
        no_contrast (`bool`, *optional*, defaults to `False`):
            Whether almost all pixels have the same grey value, typically because the window misses all pixels. Low
            contrast does not count.
        is_dicom (`bool`, *optional*, defaults to `False`):
            Whether the content of the file is DICOM, whatever its name.
    """

    pixels: Pixels
    original_height: int
    original_width: int
    underfilled: bool = False
    no_contrast: bool = False
    is_dicom: bool = False

    @property
    def contrast_problem(self) -> str | None:
        """Why the grey values cannot be used and what to do; `None` if they can."""
        if self.underfilled:
            return (
                "The image uses at most an eighth of its 16-bit range, as 12 bits stored in 16 do. Give the values that"
                " become black and white, 0 and 4095 for 12 bits: value_range=(0, 4095) (--value-range 0 4095)."
            )
        return NO_CONTRAST if self.no_contrast else None


def read_radiograph(
    path: str | Path,
    size_px: int | None = None,
    fit: Fit = "pad",
    voi: Voi = "dicom",
    value_range: ValueRange | None = None,
) -> Pixels:
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
            The values that become 0 and 1 in files without a window, such as (0, 4095) for 12 bits in a 16-bit PNG;
            values outside are clipped. For DICOM, values after the modality transform, like Window Center. Defaults to
            the range of the stored bits.

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
    """Read a radiograph like [`read_radiograph`], and also return its original size and whether it has contrast.

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
    head = stream.read(DICOM_HEAD_BYTES)
    is_dicom = head[-4:] == b"DICM" and not head.startswith(SIGNATURES)
    if is_dicom:
        pixels, (height, width), underfilled = read_dicom(stream, size_px, fit, voi, value_range)
    elif head.startswith(SIGNATURES):
        pixels, underfilled = read_png_jpeg(stream, voi, value_range)
        height, width = pixels.shape
        if size_px is not None:
            pixels = resize_radiograph(pixels, size_px, fit)
    else:
        raise DicomError(why_not_dicom(head))
    content = pixels if size_px is None or fit != "pad" else without_padding(pixels, height, width)
    sample = content[:: max(1, content.shape[0] // 256), :: max(1, content.shape[1] // 256)]
    no_contrast = content.size > 0 and bool(np.ptp(np.percentile(sample, PERCENTILES)) < _LEAST_CONTRAST)
    return Radiograph(pixels, height, width, underfilled, no_contrast, is_dicom)


def without_padding(square: Pixels, height: int, width: int) -> Pixels:
    """Return the part of a padded square that shows nothing but the radiograph.

    Args:
        square (`np.ndarray` of shape `(size_px, size_px)`):
            The radiograph, read with `fit="pad"`.
        height, width (`int`):
            Its original size, in pixels.

    Returns:
        `np.ndarray`: A view without the rows or columns that are padding, even in part.
    """
    side, longer = len(square), max(height, width)
    cut = -(-side * (longer - min(height, width) + 1) // (2 * longer)) if height != width else 0
    return square[:, cut : side - cut] if height > width else square[cut : side - cut]


def why_not_dicom(head: bytes) -> str:
    """Explain why a file that is not a PNG or JPEG cannot be DICOM.

    Args:
        head (`bytes`):
            The first 132 bytes of the file.

    Returns:
        `str`: What it is instead, and what to do.
    """
    if not head:
        return "The file is empty. Copy or download it again."
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "The file is an HTML page, not a radiograph: the download failed. Download it again."
    for signature, kind in _OTHER_KINDS.items():
        if head.startswith(signature):
            return f"The file must be DICOM, PNG or JPEG; it is a {kind} file. Convert it, or leave it out."
    if head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0":
        return 'The file has no DICOM preamble (128 bytes and "DICM"). Export it again, or add one with dcmconv.'
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "The file must be DICOM, PNG or JPEG; it is a text file. Leave it out."
    return "The file is not DICOM, PNG or JPEG, or is damaged. Download or export it again, or leave it out."


def resize_radiograph(image: Pixels, size_px: int, fit: Fit = "pad") -> Pixels:
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
    weights = weights_onto_square(sample_edges(image.shape[0], image.shape[1]), size_px, fit)
    return np.asarray(np.clip(resample(image, *weights), 0.0, 1.0))
