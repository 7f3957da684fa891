"""Grey values: DICOM windows and look-up tables, and percentile limits. Pure functions of arrays.

Every way of setting the limits is settled by the file or by one fixed reference size, never by the minimum and maximum:
a lead marker or one hot pixel would otherwise set the contrast of the whole radiograph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import DicomError
from .resampling import Weights, area_overlaps, pixel_edges, resample

Voi = Literal["dicom", "percentile", "none"]
VOI_MODES: tuple[str, ...] = get_args(Voi)

# Percentiles depend on the size they are taken at, so there is one size for all: the longer side of the image has this
# many pixels. A marker or a collimator edge takes less than 1 % of a radiograph, hence 1 and 99.
PERCENTILE_REFERENCE_PX = 256
PERCENTILES = (1.0, 99.0)


def apply_window(values: npt.NDArray[Any], center: float, width: float, function: str) -> npt.NDArray[np.float64]:
    """Apply a DICOM window (PS3.3 C.11.2.1.2 and C.11.2.1.3), whose limits become 0 and 1.

    Args:
        values: Values after the modality transform, of any shape.
        center: Window Center.
        width: Window Width, >= 1 for LINEAR and > 0 for the others.
        function: VOI LUT Function: "LINEAR", "LINEAR_EXACT" or "SIGMOID".

    Returns:
        float64 of the same shape, in [0, 1].

    Raises:
        DicomError: A function or width that the standard does not allow.
    """
    if not (math.isfinite(center) and math.isfinite(width)):
        raise DicomError(f"the window's center ({center}) and width ({width}) must be finite numbers")
    smallest = 1.0 if function == "LINEAR" else 0.0
    if width < smallest or width <= 0:
        raise DicomError(f"Window Width is {width:g}; {function} needs {'at least 1' if smallest else 'more than 0'}")
    x = np.asarray(values, dtype=np.float64)
    if function == "LINEAR":
        if width == 1:
            return (x > center - 0.5).astype(np.float64)
        return np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
    if function == "LINEAR_EXACT":
        return np.clip((x - center) / width + 0.5, 0.0, 1.0)
    if function == "SIGMOID":
        # Beyond +-350 the result is 0 or 1 to the last bit of a double; exp would overflow there.
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - center) / width, -350.0, 350.0))))
    raise DicomError("its VOI LUT Function is none of LINEAR, LINEAR_EXACT, SIGMOID")  # it may hold anything else


@dataclass(frozen=True)
class LookUpTable:
    """A DICOM look-up table (PS3.3 C.11.1.1 and C.11.2.1.1).

    Args:
        first: The input value that the first entry maps; smaller inputs get the first entry, larger than the last
            one's the last entry.
        entries: The table, integers in [0, 2**bits - 1].
        bits: Bits per entry, 8 to 16.
    """

    first: int
    entries: npt.NDArray[np.int64]
    bits: int

    @property
    def largest(self) -> int:
        """The largest value an entry can hold: the table's output range is 0 to this, whatever the entries are."""
        return (1 << self.bits) - 1

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Map values of any shape; fractions are cut off, as the table has one entry per whole number."""
        index = np.clip(np.floor(np.asarray(values, dtype=np.float64)) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index.astype(np.int64)])


def percentile_limits(values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_] | None) -> tuple[float, float]:
    """Take the 1st and 99th percentile of a radiograph at the fixed reference size (longer side 256 px).

    Args:
        values: The radiograph at its own size, shape (H, W).
        valid: False where a pixel is padding and does not count, shape (H, W); None if all count.

    Returns:
        Lower and upper limit, lower < upper.

    Raises:
        DicomError: All pixels are padding, or the percentiles coincide (an empty exposure): no limits can be taken.
    """
    edges = pixel_edges(values.shape[0]), pixel_edges(values.shape[1])
    if valid is None or bool(valid.all()):
        return reference_limits(values, *edges)
    weights = _onto_reference(*edges)
    share = resample(valid, *weights)
    total = resample(np.where(valid, values, np.float32(0.0)), *weights)
    counts = share > 1e-3
    if not counts.any():
        raise DicomError('every pixel is padding; there is no image. Use voi="none" to see what is stored')
    return _limits(total[counts] / share[counts])


def reference_limits(
    values: npt.NDArray[np.float32], row_edges: npt.NDArray[np.float64], column_edges: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Take the limits of `percentile_limits` from samples of a radiograph.

    Args:
        values: Samples, shape (h, w).
        row_edges, column_edges: Where they lie: their edges in pixels of the radiograph.

    Returns:
        Lower and upper limit, lower < upper.

    Raises:
        DicomError: The percentiles coincide.
    """
    return _limits(resample(values, *_onto_reference(row_edges, column_edges)))


def _onto_reference(
    row_edges: npt.NDArray[np.float64], column_edges: npt.NDArray[np.float64]
) -> tuple[Weights, Weights]:
    """Weights onto the reference size, which keeps the shape of the image."""
    longer = max(row_edges[-1], column_edges[-1])
    rows, columns = (
        area_overlaps(edges, max(1, round(PERCENTILE_REFERENCE_PX * edges[-1] / longer)))
        for edges in (row_edges, column_edges)
    )
    return rows, columns


def _limits(reference: npt.NDArray[np.float32]) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(reference.astype(np.float64), PERCENTILES))
    if not high - low > 1e-5 * max(abs(low), abs(high)):  # less is rounding: a 16-bit step is 1.5e-5 of the range
        raise DicomError(
            f"the percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g} are both {low:g}: the image is nearly empty."
            ' Use voi="dicom" or voi="none" for it'
        )
    return low, high
