"""Which values of a radiograph become 0 and 1: limits from percentiles.

Limits come from the file, the caller or percentiles at a fixed reference size, never from the minimum and maximum: a
lead marker or one hot pixel would then set the contrast of the whole radiograph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DicomError
from .resampling import Edges, Pixels, area_overlaps, resample, sample_edges

# Percentiles depend on the image size, so they are always taken at one size: this many pixels on the longer side. A
# marker or a collimator edge covers less than 1 % of a radiograph, hence 1 and 99.
PERCENTILE_REFERENCE_PX = 256
PERCENTILES = (1.0, 99.0)

# Share of the stored range below which an image is underfilled: at most 13 of 16 bits are used.
UNDERFILLED_BELOW = 1 / 8


def percentile_limits(
    values: Pixels, valid: npt.NDArray[np.bool_] | None = None, edges: Edges | None = None
) -> tuple[float, float]:
    """Compute the 1st and 99th percentile of a radiograph at the reference size (longer side 256 px).

    Args:
        values (`np.ndarray` of shape `(h, w)`):
            The pixels of the radiograph, or samples of it.
        valid (`np.ndarray` of shape `(h, w)`, *optional*):
            False where a pixel is padding and does not count.
        edges (`tuple` of `np.ndarray`, *optional*):
            Edges of the samples in pixels of the radiograph, see [`sample_edges`].

    Returns:
        `tuple[float, float]`: Lower and upper limit, lower < upper.

    Raises:
        [`DicomError`]: When all pixels are padding or the percentiles coincide.
    """
    rows, columns = sample_edges(*values.shape) if edges is None else edges
    longer = max(rows[-1], columns[-1])
    weights = (
        area_overlaps(rows, max(1, round(PERCENTILE_REFERENCE_PX * rows[-1] / longer))),
        area_overlaps(columns, max(1, round(PERCENTILE_REFERENCE_PX * columns[-1] / longer))),
    )
    if valid is None or bool(valid.all()):
        reference = resample(values, *weights)
    else:
        share = resample(valid, *weights)
        counts = share > 1e-3
        if not counts.any():
            raise DicomError('Every pixel is padding, so there is no image. Use voi="none" to see what is stored.')
        reference = resample(np.where(valid, values, np.float32(0.0)), *weights)[counts] / share[counts]
    low, high = (float(value) for value in np.percentile(reference.astype(np.float64), PERCENTILES))
    if not high - low > 1e-5 * max(abs(low), abs(high)):  # a smaller difference is rounding: one 16-bit step is 1.5e-5
        problem = f"The lower and the upper percentile are both {low:g}: the image is nearly empty"
        raise DicomError(f'{problem}. Use voi="dicom" or voi="none".')
    return low, high


def stretch(values: npt.NDArray[Any], low: float, high: float) -> Pixels:
    """Map `low` to 0 and `high` to 1, and clip."""
    return np.clip((values - low) / (high - low), 0.0, 1.0).astype(np.float32)
