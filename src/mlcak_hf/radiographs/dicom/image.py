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
from ..grey_values import Voi, percentile_limits
from ..resampling import pixel_edges, resample, weights_onto_square
from .header import DicomHeader, read_header
from .lookup_tables import file_voi
from .pixels import decode_pixels
from .reduced import read_reduced


def read_dicom(
    stream: BinaryIO, size_px: int | None = None, fit: str = "pad", voi: Voi = "dicom"
) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """Read a single-frame grayscale DICOM file with its polarity corrected.

    MONOCHROME1 is inverted after the VOI step. Pixels that the file marks as padding (Pixel Padding Value) are 0.

    Args:
        stream (`BinaryIO`): The open file.
        size_px, fit, voi: As in [`read_radiograph`].

    Returns:
        `np.ndarray` of shape `(rows, columns)` or `(size_px, size_px)`: float32 in [0, 1]; and the file's own
        `(rows, columns)`.

    Raises:
        [`DicomError`]: When the file cannot be read, or not without guessing. Never quotes patient data.
    """
    header, step = None, "read the header"
    try:
        # pydicom's warnings about odd values quote the file, and in a damaged one that may be the patient's name.
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            header, step = read_header(stream), "decode the pixels"
            size = header.layout.rows, header.layout.columns
            if size_px is not None:
                small = read_reduced(header, size_px, fit, voi)
                if small is not None:
                    return small, size
            codes = decode_pixels(header.dataset, header.layout)
            step = "apply the grey-value transforms"
            grey = _grey_table(header, codes, voi)
            if size_px is None:
                return np.asarray(grey[codes]), size
            weights = weights_onto_square(pixel_edges(size[0]), pixel_edges(size[1]), size_px, fit)
            return np.asarray(np.clip(resample(codes, *weights, grey=grey.__getitem__), 0.0, 1.0)), size
    except (DicomError, MemoryError):
        raise
    except Exception as error:
        # The text of the cause may quote the file; its type cannot.
        syntax = "" if header is None else f"{header.layout.syntax_name}, "
        raise DicomError(
            f"Cannot {step} ({syntax}{type(error).__name__}). The file may be damaged or cut off, or not be a DICOM"
            " image. Download or export it again, or leave it out."
        ) from (error if step == "decode the pixels" else None)


def _grey_table(header: DicomHeader, codes: npt.NDArray[np.uint16], voi: Voi) -> npt.NDArray[np.float32]:
    """Grey value of each stored value, shape `(2**bits,)`."""
    values, (low, high), padded = header.values, header.stored_range, header.padded
    windowed = file_voi(header.dataset, values) if voi == "dicom" else None
    if voi == "percentile":
        low, high = percentile_limits(values.astype(np.float32)[codes], None if padded is None else ~padded[codes])
    grey = np.clip((values - low) / (high - low) if windowed is None else windowed, 0.0, 1.0)
    if header.layout.inverted:
        grey = 1.0 - grey
    if padded is not None:
        grey[padded] = 0.0
    return grey.astype(np.float32)
