"""DICOM file -> float32 radiograph in [0, 1], 0 = dark (air). Refuses whatever it would have to guess.

A pixel's grey value depends on its stored value alone: modality transform, then VOI, then polarity. So the whole chain
is worked out once, in double precision, for each of the 2**BitsStored possible values, and looked up for the image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DicomError
from ..grey_values import VOI_MODES, Voi, percentile_limits
from ..resampling import pixel_edges, resample, weights_onto_square
from .opened import OpenDicom, explained, open_dicom
from .pixels import decode_pixels
from .reduced import read_reduced
from .transforms import file_limits


def read_dicom(path: str | Path, voi: Voi = "dicom") -> npt.NDArray[np.float32]:
    """Read a single-frame grayscale DICOM file with its polarity corrected.

    Transfer syntaxes: uncompressed (little and big endian, implicit and explicit), deflated, RLE, JPEG baseline, JPEG
    2000 and High-Throughput JPEG 2000; JPEG Extended, JPEG Lossless and JPEG-LS where imagecodecs is installed.

    Args:
        path: The file.
        voi: Where the limits come from that become 0 and 1. "dicom": the first item of the file's VOI LUT Sequence, or
            else its first window (LINEAR, LINEAR_EXACT or SIGMOID), after the modality transform; a file with neither
            is read as with "none". "percentile": the 1st and 99th percentile after the modality transform, taken once
            at a reference size of 256 px without the padding. "none": the range of the stored bits, through the
            modality transform. A LUT's range is what its bits per entry can hold.

    Returns:
        float32 of shape (Rows, Columns) in [0, 1]; MONOCHROME1 is inverted after the VOI step. Pixels that the file
        marks as padding (Pixel Padding Value) lie outside the image and are 0, whatever the mode and polarity.

    Raises:
        DicomError: The file cannot be read, or not without guessing; names the file and the remedy, no patient data.
    """
    opened = open_dicom(_checked(path, voi))
    codes, grey = _read_pixels(opened, Path(path), voi)
    return np.asarray(grey[codes])


def read_dicom_resized(
    path: str | Path, size_px: int, fit: str = "pad", voi: Voi = "dicom"
) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """Read a DICOM file as a small square: what `read_dicom` and an area average give, without the full image.

    JPEG 2000 files are decoded at a half, a quarter or an eighth of their size where that makes no difference that
    matters (see `reduced.py`).

    Args:
        path: The file.
        size_px: Side of the square, in pixels.
        fit: "pad" or "squash".
        voi: As in `read_dicom`.

    Returns:
        float32 of shape (size_px, size_px) in [0, 1], and the file's (Rows, Columns).

    Raises:
        DicomError: As in `read_dicom`.
    """
    path = _checked(path, voi)
    opened = open_dicom(path)
    size = (opened.layout.rows, opened.layout.columns)
    with explained(path, f"decode its pixels ({opened.layout.syntax_name})"):
        image = read_reduced(opened, size_px, fit, voi)
    if image is None:
        codes, grey = _read_pixels(opened, path, voi)
        weights = weights_onto_square(pixel_edges(size[0]), pixel_edges(size[1]), size_px, fit)
        image = np.clip(resample(codes, *weights, grey=grey.__getitem__), 0.0, 1.0)
    return np.asarray(image), size


def _checked(path: str | Path, voi: str) -> Path:
    if voi not in VOI_MODES:
        raise DicomError(f"voi must be one of {', '.join(VOI_MODES)}, but {voi!r} came")
    return Path(path)


def _read_pixels(opened: OpenDicom, path: Path, voi: Voi) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """Decode all pixels: their stored values, shape (Rows, Columns), and the grey value of each stored value."""
    values, padded = opened.values, opened.padded
    with explained(path, f"decode its pixels ({opened.layout.syntax_name})"):
        codes = decode_pixels(opened.dataset, opened.layout)
    with explained(path, "apply its grey-value transforms"):
        low, high = opened.stored_range
        windowed = file_limits(opened.dataset, values) if voi == "dicom" else None
        if voi == "percentile":
            low, high = percentile_limits(values.astype(np.float32)[codes], None if padded is None else ~padded[codes])
        grey = np.clip((values - low) / (high - low) if windowed is None else windowed, 0.0, 1.0)
        if opened.layout.inverted:
            grey = 1.0 - grey
        if padded is not None:
            grey[padded] = 0.0
    return codes, grey.astype(np.float32)
