"""Check the content of a radiograph: no contrast, noise, inverted, upside down, or turned by 90 degrees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..radiographs.polarity import brightness_grid, looks_inverted

# Linear discriminants of the standardised 5 x 5 brightness grid: upright against upside down, and against turned by 90
# degrees. Ridge regression on half of the patients of NIH ChestX-ray14 and Kermany; both mirror-symmetric.
_NOT_UPSIDE_DOWN = np.array(
    [
        [0.052, -0.228, -0.116, -0.228, 0.052],
        [0.056, 0.116, -0.158, 0.116, 0.056],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [-0.056, -0.116, 0.158, -0.116, -0.056],
        [-0.052, 0.228, 0.116, 0.228, -0.052],
    ]
)
_NOT_TURNED = np.array(
    [
        [-0.006, -0.115, 0.166, -0.115, -0.006],
        [0.090, -0.042, 0.156, -0.042, 0.090],
        [-0.236, -0.068, -0.099, -0.068, -0.236],
        [-0.014, 0.001, 0.210, 0.001, -0.014],
        [0.075, -0.009, 0.216, -0.009, 0.075],
    ]
)
# Chosen by hand with the figures of both halves in view; the half that was not fitted is no untouched test set.
_LEAST_UPRIGHT, _LEAST_NOT_TURNED = -0.06, 0.25
_LEAST_RANGE = 0.03
_LEAST_NEIGHBOUR_CORRELATION = 0.6

NOTHING_VISIBLE = "no contrast"


def image_warnings(image: npt.NDArray[np.float32]) -> list[str]:
    """Return what is unusual about the content of a radiograph.

    Args:
        image (`np.ndarray` of shape `(64, 64)`):
            The radiograph in [0, 1], squashed to a square.

    Returns:
        `list[str]`: At most one phrase; `NOTHING_VISIBLE` if nothing can be seen.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    if high - low < _LEAST_RANGE:
        return [NOTHING_VISIBLE]
    if _neighbour_correlation(image) < _LEAST_NEIGHBOUR_CORRELATION:
        return ["noise"]
    grid = brightness_grid(image)
    standardised = (grid - grid.mean()) / max(float(grid.std()), 1e-9)
    upright = (standardised * _NOT_UPSIDE_DOWN).sum() >= _LEAST_UPRIGHT
    turned = (standardised * _NOT_TURNED).sum() < _LEAST_NOT_TURNED
    # A negative and an upside-down chest look alike in the grid, so that they are not told apart.
    return ["looks inverted, upside down or turned"] if looks_inverted(image) or turned or not upright else []


def _neighbour_correlation(image: npt.NDArray[np.float32]) -> float:
    """Correlation of neighbouring pixels: about 0.95 in radiographs, 0 in white noise."""
    return float(np.corrcoef(image[:, :-1].ravel(), image[:, 1:].ravel())[0, 1])
