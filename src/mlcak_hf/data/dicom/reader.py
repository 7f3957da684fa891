"""DICOM file -> float32 radiograph in [0, 1], 0 = dark (air). Refuses whatever it would have to guess.

A pixel's grey value depends on its stored value alone: modality transform, then VOI, then polarity. So the whole chain
is worked out once, in double precision, for each of the 2**BitsStored possible values, and looked up for the image.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from ...errors import DicomError
from ..intensity import VOI_MODES, Voi, percentile_limits
from .grey import file_limits, modality_values, padding_values
from .header import check_layout, read_image_tags
from .pixels import decode_pixels


def read_dicom(path: str | Path, voi: Voi = "dicom") -> npt.NDArray[np.float32]:
    """Read a single-frame grayscale DICOM file with its polarity corrected.

    Transfer syntaxes: uncompressed (little and big endian, implicit and explicit), deflated, RLE, JPEG 2000 and JPEG
    baseline; JPEG Lossless and JPEG-LS where their decoder is installed.

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
    path = Path(path)
    if voi not in VOI_MODES:
        raise DicomError(f"voi must be one of {', '.join(VOI_MODES)}, but {voi!r} came")
    with _explained(path, "read its header"):
        dataset = read_image_tags(path)
        layout = check_layout(dataset)
        values, stored_range = modality_values(dataset, layout)
        padded = padding_values(dataset, layout)
    with _explained(path, f"decode its pixels ({layout.syntax.name})"):
        codes = decode_pixels(dataset, layout)
    with _explained(path, "apply its grey-value transforms"):
        if voi == "percentile":
            modality = values.astype(np.float32)[codes]
            low, high = percentile_limits(modality, None if padded is None else ~padded[codes])
            grey = (values - low) / (high - low)
        else:
            windowed = file_limits(dataset, values) if voi == "dicom" else None
            full = (values - stored_range[0]) / (stored_range[1] - stored_range[0])
            grey = full if windowed is None else windowed
        grey = np.clip(grey, 0.0, 1.0)
        if layout.inverted:
            grey = 1.0 - grey
        if padded is not None:
            grey[padded] = 0.0
    return np.asarray(grey.astype(np.float32)[codes])


@contextlib.contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    """Turn whatever goes wrong in pydicom and its plugins into one DicomError that names the file."""
    try:
        # pydicom's warnings about odd values quote the file, and in a damaged one that may be the patient's name.
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except DicomError as error:
        raise DicomError(f"{path.name}: {error}") from None
    except MemoryError:
        raise
    except BaseException as error:
        # The RLE plugin written in Rust panics with an exception outside of `Exception`.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        # The cause's own text may quote the file; its type says enough and can hold nobody's name.
        raise DicomError(
            f"{path.name}: cannot {doing} ({type(error).__name__}). The file may be cut off or damaged, or is no DICOM"
            " image; copy or download it again, or leave it out"
        ) from (error if "pixels" in doing else None)
