"""DICOM file -> float32 radiograph in [0, 1], 0 = dark (air). Refuses whatever it would have to guess.

The grey value of a pixel depends on its stored value alone: modality transform, VOI, polarity. So the whole chain is
computed once, in double precision, for each of the 2**BitsStored possible values, and then looked up for the image.
"""

from __future__ import annotations

import warnings
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pydicom

from ...errors import DicomError
from ..choices import ValueRange, Voi
from ..grey_values import UNDERFILLED_BELOW, percentile_limits
from ..resampling import Pixels, resample, sample_edges, weights_onto_square
from .header import DicomHeader, read_header
from .pixels import decode_pixels
from .reduced import read_reduced

_REDUCIBLE = (pydicom.uid.JPEG2000Lossless, pydicom.uid.JPEG2000)


def read_dicom(
    stream: BinaryIO, size_px: int | None, fit: str, voi: Voi, value_range: ValueRange | None
) -> tuple[Pixels, tuple[int, int], bool]:
    """Read a single-frame grayscale DICOM file with its polarity corrected.

    MONOCHROME1 is inverted after the VOI step. Pixels that the file marks as padding (Pixel Padding Value) are 0.

    Args:
        stream (`BinaryIO`): The open file.
        size_px, fit, voi, value_range: As in [`read_radiograph`].

    Returns:
        `tuple`: float32 of shape `(rows, columns)` or `(size_px, size_px)` in [0, 1]; the file's own `(rows, columns)`;
        and whether the image is underfilled, see [`Radiograph`].

    Raises:
        [`DicomError`]: When the file cannot be read, or not without guessing. Never quotes patient data.
    """
    header, step = None, "read the header"
    try:
        # pydicom's warnings about odd values quote the file, and in a damaged one that may be the patient's name.
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            header, step = read_header(stream, voi), "decode the pixels"
            size, reduced = (header.layout.rows, header.layout.columns), None
            if size_px is not None and header.layout.syntax in _REDUCIBLE:
                reduced = read_reduced(header, size_px, fit, voi, value_range)
            if reduced is not None:
                return reduced[0], size, _is_underfilled(header, reduced[1], voi, value_range)
            codes = decode_pixels(header.dataset, header.layout)
            step = "apply the grey-value transforms"
            grey = _grey_table(header, codes, voi, value_range)
            underfilled = _is_underfilled(header, codes, voi, value_range)
            if size_px is None:
                return grey[codes], size, underfilled
            weights = weights_onto_square(sample_edges(*size), size_px, fit)
            return np.clip(resample(codes, *weights, grey=grey.__getitem__), 0.0, 1.0), size, underfilled
    except (DicomError, MemoryError):
        raise
    except Exception as error:
        # The text of the cause may quote the file; its type cannot.
        syntax = "" if header is None else f"{header.layout.syntax_name}, "
        raise DicomError(
            f"Cannot {step} ({syntax}{type(error).__name__}). The file may be damaged or cut off, or not be a DICOM"
            " image. Download or export it again, or leave it out."
        ) from (error if step == "decode the pixels" else None)


def _grey_table(header: DicomHeader, codes: npt.NDArray[np.uint16], voi: Voi, value_range: ValueRange | None) -> Pixels:
    """Grey value of each stored value, shape `(2**bits,)`."""
    values, (low, high), padded = header.values, value_range or header.stored_range, header.padded
    if voi == "percentile":
        low, high = percentile_limits(values.astype(np.float32)[codes], None if padded is None else ~padded[codes])
    grey = np.clip((values - low) / (high - low) if header.view is None else header.view.apply(values), 0.0, 1.0)
    if header.layout.inverted:
        grey = 1.0 - grey
    if padded is not None:
        grey[padded] = 0.0
    return grey.astype(np.float32)


def _is_underfilled(
    header: DicomHeader, stored: npt.NDArray[np.uint16] | float, voi: Voi, value_range: ValueRange | None
) -> bool:
    """Whether few of the stored bits are used though they set the limits; `stored`: codes, or the largest magnitude."""
    bits, has_table = header.layout.bits, bool(header.dataset.get("ModalityLUTSequence"))
    if bits <= 12 or voi == "percentile" or header.view is not None or value_range is not None or has_table:
        return False
    if not isinstance(stored, float):
        codes = stored if header.padded is None else stored[~header.padded[stored]]
        if header.layout.signed:
            codes = np.where(codes >= 1 << (bits - 1), (1 << bits) - codes.astype(np.int32), codes)
        stored = float(codes.max(initial=0))
    return stored < (1 << bits) * UNDERFILLED_BELOW
