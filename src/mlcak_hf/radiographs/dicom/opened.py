"""A DICOM file whose header is read and checked: how its pixels are stored, and what each stored value means."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from ...errors import DicomError
from .header import PixelLayout, check_layout, read_image_tags
from .transforms import modality_values, padding_values


@dataclass(frozen=True)
class OpenDicom:
    """What a header says.

    Args:
        dataset: The image tags.
        layout: How the pixels are stored.
        values: Modality value of each stored value, shape (2**bits,).
        stored_range: Modality values that the stored bits can reach.
        padded: Which stored values are padding, shape (2**bits,); None where the file declares none.
    """

    dataset: pydicom.Dataset
    layout: PixelLayout
    values: npt.NDArray[np.float64]
    stored_range: tuple[float, float]
    padded: npt.NDArray[np.bool_] | None


def open_dicom(path: Path) -> OpenDicom:
    """Read and check the header of a file.

    Args:
        path: The file.

    Returns:
        What it says.

    Raises:
        DicomError: It is no single grayscale radiograph, or its header leaves something to guess.
    """
    with explained(path, "read its header"):
        dataset = read_image_tags(path)
        layout = check_layout(dataset)
        values, stored_range = modality_values(dataset, layout)
        return OpenDicom(dataset, layout, values, stored_range, padding_values(dataset, layout))


@contextlib.contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn whatever goes wrong in pydicom and the decoders into one DicomError that names the file."""
    try:
        # pydicom's warnings about odd values quote the file, and in a damaged one that may be the patient's name.
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except DicomError as error:
        raise DicomError(f"{path.name}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        # The cause's own text may quote the file; its type says enough and can hold nobody's name.
        raise DicomError(
            f"{path.name}: cannot {doing} ({type(error).__name__}). The file may be cut off or damaged, or is no DICOM"
            " image; copy or download it again, or leave it out"
        ) from (error if "pixels" in doing else None)
