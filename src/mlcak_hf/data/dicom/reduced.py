"""A small radiograph from the low-pass samples of a JPEG 2000 file, where that is the same image as the long way gives.

The long way decodes every pixel, applies modality transform, window and polarity to each, and averages over areas. The
short way averages the samples of the wavelet's low-pass image first. Two things can make a difference: the low-pass
filter is no plain average, which shows at sharp edges; and a window that clips mixes clipped and unclipped pixels
differently before and after averaging. Both are estimated from the low-pass image itself, with factors measured on real
radiographs, and an image for which they may matter is decoded at the next larger size, or in full.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom.uid import JPEG2000TransferSyntaxes

from ..intensity import PERCENTILE_REFERENCE_PX, Voi, reference_limits
from ..resampling import Weights, low_pass_edges, resample, weights_onto_square
from .grey import linear_modality, linear_window
from .low_pass import Codestream, decode_low_pass, read_codestream
from .opened import OpenDicom
from .pixels import checked_frame

# Shorter side of the low-pass image over the side of the result; below 2 an average has too few samples to it.
_MIN_RATIO = 2.0
_MAX_REDUCTION = 3

# Largest and root mean square difference, of the range [0, 1], that an image may have by the estimate.
_MAX_DIFFERENCE = 8 / 255
_RMS_DIFFERENCE = 10 ** (-52 / 20)

# Difference of the two ways over (contrast between neighbouring low-pass samples / samples per pixel of the result):
# a little more than the largest seen in large radiographs, with and without drawn markers and borders, at three levels,
# four sizes and both wavelets (`examples/benchmarks/low_pass_estimate.py`). The detector or digitizer of a large image
# resolves less than its pixels; small ones have detail that no low-pass sample shows, and decode fast anyway.
_EDGE_FACTOR = 0.13
# Edges count for more in the root mean square than texture does: (contrast from which on it is an edge, factors).
_EDGE_CONTRAST = 0.25
_RMS_FACTOR_EDGE, _RMS_FACTOR_TEXTURE = 0.15, 0.08
_SMALLEST_SIDE_PX = 1024

# Half the size takes a quarter of the time of the long way, too much for an attempt in vain. Where a window may clip,
# or half the size is too small for the sharpest edge, the image is looked at two levels smaller first, at a hundredth,
# and levels are left out at which the difference would still be too large by this factor.
_HOPELESS = 1.1


def read_reduced(opened: OpenDicom, size_px: int, fit: str, voi: Voi) -> npt.NDArray[np.float32] | None:
    """Read a small square image the short way.

    Args:
        opened: The file's header.
        size_px: Side of the square.
        fit: "pad" or "squash".
        voi: As in `read_dicom`.

    Returns:
        float32 of shape (size_px, size_px) in [0, 1], polarity corrected; None where only the long way is right.
    """
    layout = opened.layout
    if layout.syntax not in JPEG2000TransferSyntaxes or opened.padded is not None:
        return None
    modality = linear_modality(opened.dataset)
    limits = linear_window(opened.dataset, opened.stored_range) if voi == "dicom" else opened.stored_range
    if modality is None or limits is None:
        return None
    frame, _ = checked_frame(opened.dataset, layout)
    codestream = read_codestream(frame)
    if codestream is None or codestream != Codestream(
        layout.rows, layout.columns, layout.bits, layout.signed, codestream.levels
    ):
        return None
    largest = _largest_reduction(codestream, size_px, voi)
    candidates = list(range(largest, 0, -1))
    may_clip = voi == "percentile" or min(limits) > min(opened.stored_range) or max(limits) < max(opened.stored_range)
    may_blur = min(layout.rows, layout.columns) / 2 / size_px < _EDGE_FACTOR / _MAX_DIFFERENCE
    if largest and (may_clip or may_blur) and codestream.levels > largest:
        candidates.insert(0, min(largest + 2, codestream.levels))
    expected = 0.0
    for reduction in candidates:
        if expected * 2.0**reduction > _HOPELESS:
            continue
        try:
            samples = decode_low_pass(frame, codestream, reduction)
        except (OSError, ValueError, SyntaxError):
            return None
        values = samples * np.float32(modality[0]) + np.float32(modality[1])
        edges = (low_pass_edges(layout.rows, reduction), low_pass_edges(layout.columns, reduction))
        low, high = reference_limits(values, *edges) if voi == "percentile" else limits
        grey = (values - np.float32(low)) / np.float32(high - low)
        weights = weights_onto_square(*edges, size_px, fit)
        difference, rms = expected_difference(grey, weights, min(grey.shape) / size_px)
        if reduction <= largest and difference <= 1 and rms <= 1:
            np.clip(grey, 0.0, 1.0, out=grey)
            return np.clip(resample(1 - grey if layout.inverted else grey, *weights), 0.0, 1.0)
        expected = difference / 2.0**reduction  # half as large at twice the size
    return None


def _largest_reduction(codestream: Codestream, size_px: int, voi: Voi) -> int:
    """How many levels can be left out so that enough samples stay for the result and for the percentiles."""
    shorter, longer = sorted((codestream.rows, codestream.columns))
    if shorter < _SMALLEST_SIDE_PX:
        return 0
    reduction = 0
    while reduction < min(_MAX_REDUCTION, codestream.levels):
        step = 2 << reduction
        if shorter < _MIN_RATIO * size_px * step:
            break
        if voi == "percentile" and longer < _MIN_RATIO * PERCENTILE_REFERENCE_PX * step:
            break
        reduction += 1
    return reduction


def expected_difference(
    grey: npt.NDArray[np.float32], weights: tuple[Weights, Weights], ratio: float
) -> tuple[float, float]:
    """Estimate by how much the short way may differ from the long one.

    Args:
        grey: Low-pass samples as grey values, not clipped.
        weights: Onto the result.
        ratio: Samples per pixel of the result.

    Returns:
        Largest and root mean square difference, as shares of what is allowed.
    """
    lowest, highest = _among_neighbours(grey, np.minimum), _among_neighbours(grey, np.maximum)
    contrast = np.clip(highest, 0.0, 1.0) - np.clip(lowest, 0.0, 1.0)
    largest = _EDGE_FACTOR * float(contrast.max()) / ratio
    blurred = contrast * np.where(contrast > _EDGE_CONTRAST, _RMS_FACTOR_EDGE, _RMS_FACTOR_TEXTURE)
    # An edge is three samples wide here; where a pixel of the result takes more, its share of the result is larger.
    rms = float(np.sqrt(np.mean(np.square(blurred)) * max(1.0, ratio / 3))) / ratio
    if float(lowest.min()) < 0 or float(highest.max()) > 1:
        mixed = resample(_clipped_mixture(grey, lowest, highest), *weights)
        largest += float(mixed.max())
        rms += float(np.sqrt(np.mean(np.square(mixed))))
    return largest / _MAX_DIFFERENCE, rms / _RMS_DIFFERENCE


def _among_neighbours(values: npt.NDArray[np.float32], pick: np.ufunc) -> npt.NDArray[np.float32]:
    """Smallest or largest value (`pick`) of each sample and its eight neighbours."""
    padded = np.pad(values, 1, mode="edge")
    of_rows = pick(pick(padded[:-2], padded[1:-1]), padded[2:])
    return np.asarray(pick(pick(of_rows[:, :-2], of_rows[:, 1:-1]), of_rows[:, 2:]))


def _clipped_mixture(
    mean: npt.NDArray[np.float32], lowest: npt.NDArray[np.float32], highest: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Largest difference between clipping an average to [0, 1] and averaging clipped values.

    With pixels between `lowest` and `highest` whose average is `mean`, the excess over a limit is largest when all
    pixels lie at the two ends: the chord of a convex function.
    """
    span = np.maximum(highest - lowest, np.float32(1e-6))
    above = np.maximum(highest - 1, 0) * (mean - lowest) / span - np.maximum(mean - 1, 0)
    below = np.maximum(-lowest, 0) * (highest - mean) / span - np.maximum(-mean, 0)
    crossing_above, crossing_below = (highest > 1) & (lowest < 1), (highest > 0) & (lowest < 0)
    return np.asarray(np.where(crossing_above, above, 0) + np.where(crossing_below, below, 0), dtype=np.float32)
