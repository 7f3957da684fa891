"""Is a frontal chest radiograph the right way round, or shown as its negative?

Some files carry the wrong Photometric Interpretation, and their radiographs arrive with white air and black bones.
Nothing is turned round here: a person looks at what is reported and decides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..image_processing_mlcak import area_resize

# How bright each fifth of a frontal radiograph is, in standard deviations from its mean: dark corners above the
# shoulders, darker lungs on both sides of a bright spine, bright belly below. The mean over 709 radiographs of NIH
# ChestX-ray14, made symmetric.
_UPRIGHT = np.array(
    [
        [-1.8, -1.1, 0.2, -1.1, -1.8],
        [0.2, -0.8, 0.0, -0.8, 0.2],
        [0.0, -0.5, 0.7, -0.5, 0.0],
        [-0.3, 0.7, 1.5, 0.7, -0.3],
        [-0.4, 1.7, 2.1, 1.7, -0.4],
    ]
)
_WORKING_PX = 64
_EMPTY = 0.05  # a row or column whose grey values differ by less belongs to a frame, not to the patient


def looks_inverted(image: npt.NDArray[np.float32]) -> bool:
    """Tell whether a frontal chest radiograph seems to be shown as its negative.

    Args:
        image: Radiograph of shape (H, W) in [0, 1], meant to have 0 = dark (air). A longer side of 256 px is enough.

    Returns:
        True if the image resembles the negative of a chest more than a chest; False also for an image without contrast.
    """
    return upright_resemblance(image) < 0


def upright_resemblance(image: npt.NDArray[np.float32], upright: npt.NDArray[np.float64] = _UPRIGHT) -> float:
    """Correlate a radiograph with the brightness that the fifths of an upright chest have on average.

    Args:
        image: Radiograph of shape (H, W) in [0, 1].
        upright: Brightness of an upright chest, shape (5, 5).

    Returns:
        Correlation in [-1, 1]; that of the negative is the same with the other sign. 0 for an image without contrast.
    """
    fifths = brightness_in_fifths(image)
    if fifths.std() < 1e-3:
        return 0.0
    return float(np.corrcoef(fifths.ravel(), upright.ravel())[0, 1])


def brightness_in_fifths(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Average a radiograph over a grid of 5 x 5 fields, shape (5, 5).

    A uniform frame (padding, collimator) is left out, as it may be black or white whatever the polarity.
    """
    inner = area_resize(np.asarray(image, dtype=np.float32), _WORKING_PX, _WORKING_PX)
    for across in (1, 0):
        low, high = np.percentile(inner, (5, 95), axis=across)
        filled = np.flatnonzero(high - low > _EMPTY)
        if filled.size:
            inner = np.take(inner, np.arange(filled[0], filled[-1] + 1), axis=1 - across)
    return area_resize(inner, 5, 5).astype(np.float64)
