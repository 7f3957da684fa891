"""How a radiograph is read: the choices. This file imports no library, so that commands can offer them at once."""

from __future__ import annotations

import math
from typing import Literal, get_args

from ..errors import DicomError

Fit = Literal["pad", "squash"]
Voi = Literal["dicom", "percentile", "none"]
ValueRange = tuple[float, float]
FITS: tuple[str, ...] = get_args(Fit)
VOI_MODES: tuple[str, ...] = get_args(Voi)


def check_value_range(value_range: ValueRange) -> None:
    """Check that a value range is two ascending finite numbers.

    Raises:
        [`DicomError`]: When it is not.
    """
    if len(value_range) != 2 or not -math.inf < value_range[0] < value_range[1] < math.inf:
        given = ", ".join(f"{value:g}" for value in value_range)
        raise DicomError(f"value_range must be two ascending finite numbers, such as (0, 4095); got ({given}).")
