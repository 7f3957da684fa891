"""Which values of a radiograph become 0 and 1: the choices, and limits from percentiles.

Limits come from the file, the caller or percentiles at a fixed reference size, never from the minimum and maximum: a
lead marker or one hot pixel would then set the contrast of the whole radiograph.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import DicomError
from .resampling import Weights, area_overlaps, pixel_edges, resample

Voi = Literal["dicom", "percentile", "none"]
VOI_MODES: tuple[str, ...] = get_args(Voi)
ValueRange = tuple[float, float]

# Percentiles depend on the image size, so they are always taken at one size: this many pixels on the longer side. A
# marker or a collimator edge covers less than 1 % of a radiograph, hence 1 and 99.
PERCENTILE_REFERENCE_PX = 256
PERCENTILES = (1.0, 99.0)

# Share of the stored range below which an image is underfilled: at most 13 of 16 bits are used.
UNDERFILLED_BELOW = 1 / 8


def check_value_range(value_range: ValueRange | None) -> None:
    """Check that a value range is `None` or two ascending finite numbers.

    Raises:
        [`DicomError`]: When it is not.
    """
    if value_range is None:
        return
    ascending = len(value_range) == 2 and value_range[0] < value_range[1]
    if not (ascending and all(map(math.isfinite, value_range))):
        given = ", ".join(f"{value:g}" for value in value_range)
        raise DicomError(
            f"value_range must be two finite numbers, the smaller one first; got ({given}). Use for example (0, 4095)."
        )


def percentile_limits(values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_] | None) -> tuple[float, float]:
    """Compute the 1st and 99th percentile of a radiograph at the reference size (longer side 256 px).

    Args:
        values (`np.ndarray` of shape `(H, W)`):
            The radiograph at its own size.
        valid (`np.ndarray` of shape `(H, W)`, *optional*):
            False where a pixel is padding and does not count.

    Returns:
        `tuple[float, float]`: Lower and upper limit, lower < upper.

    Raises:
        [`DicomError`]: When all pixels are padding or the percentiles coincide.
    """
    edges = pixel_edges(values.shape[0]), pixel_edges(values.shape[1])
    if valid is None or bool(valid.all()):
        return reference_limits(values, *edges)
    weights = _reference_weights(*edges)
    share = resample(valid, *weights)
    total = resample(np.where(valid, values, np.float32(0.0)), *weights)
    counts = share > 1e-3
    if not counts.any():
        raise DicomError('Every pixel is padding, so there is no image. Use voi="none" to see what is stored.')
    return _limits(total[counts] / share[counts])


def reference_limits(
    values: npt.NDArray[np.float32], row_edges: npt.NDArray[np.float64], column_edges: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Compute the limits of [`percentile_limits`] from samples of a radiograph.

    Args:
        values (`np.ndarray` of shape `(h, w)`):
            Samples of the radiograph.
        row_edges, column_edges (`np.ndarray` of shape `(h + 1,)` and `(w + 1,)`):
            Edges of the samples in pixels of the radiograph.

    Returns:
        `tuple[float, float]`: Lower and upper limit, lower < upper.

    Raises:
        [`DicomError`]: When the percentiles coincide.
    """
    return _limits(resample(values, *_reference_weights(row_edges, column_edges)))


def _reference_weights(
    row_edges: npt.NDArray[np.float64], column_edges: npt.NDArray[np.float64]
) -> tuple[Weights, Weights]:
    longer = max(row_edges[-1], column_edges[-1])
    rows, columns = (
        area_overlaps(edges, max(1, round(PERCENTILE_REFERENCE_PX * edges[-1] / longer)))
        for edges in (row_edges, column_edges)
    )
    return rows, columns


def _limits(reference: npt.NDArray[np.float32]) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(reference.astype(np.float64), PERCENTILES))
    if not high - low > 1e-5 * max(abs(low), abs(high)):  # a smaller difference is rounding: one 16-bit step is 1.5e-5
        raise DicomError(
            f"The percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g} are both {low:g}: the image is nearly empty."
            ' Use voi="dicom" or voi="none".'
        )
    return low, high
