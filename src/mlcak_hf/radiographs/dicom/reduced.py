"""A small radiograph from the low-pass samples of a JPEG 2000 file, where that is the same image as the long way gives.

The long way decodes every pixel, applies modality transform, window and polarity to each, and averages over areas. The
short way averages the samples of the wavelet's low-pass image first. Two things can make a difference: the low-pass
filter is no plain average, which shows at sharp edges; and a window that clips mixes clipped and unclipped pixels
differently before and after averaging. Both are estimated from the low-pass image itself, with factors measured on real
radiographs, and an image for which they may matter is decoded at the next larger size, or in full. What no radiograph
shows and the estimate does not see: a drawn grid of lines finer than the samples, at full contrast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydicom.uid import JPEG2000, JPEG2000Lossless

from ..grey_values import PERCENTILE_REFERENCE_PX, Voi, reference_limits
from ..resampling import Weights, low_pass_edges, resample, weights_onto_square
from .low_pass import Codestream, decode_low_pass, read_codestream
from .opened import OpenDicom
from .pixels import checked_frame
from .transforms import linear_modality, linear_window

# Shorter side of the low-pass image over the side of the result; below 2 an average has too few samples to it.
_MIN_RATIO = 2.0
_MAX_REDUCTION = 3

# Largest and root mean square difference, of the range [0, 1], that an image may have by the estimate.
_MAX_DIFFERENCE = 8 / 255
_RMS_DIFFERENCE = 10 ** (-52 / 20)

# Edges count for more in the root mean square than texture does: (contrast from which on it is an edge, factors).
_EDGE_CONTRAST = 0.25
_RMS_FACTOR_EDGE, _RMS_FACTOR_TEXTURE = 0.15, 0.08

# The detector or digitizer of a large image resolves less than its pixels; small ones have detail that no low-pass
# sample shows, and decode fast anyway.
_SMALLEST_SIDE_PX = 1024


@dataclass(frozen=True)
class Wavelet:
    """How a low-pass sample of a wavelet differs from the average of the pixels around it.

    Args:
        blur: Difference of the two ways over (contrast between neighbouring samples / samples per pixel of the result):
            a little more than the largest seen in large radiographs, with and without drawn markers, small print and
            borders, at three levels and four sizes.
        ringing: How far the sample beside an ideal edge overshoots at most, over the edge's contrast, at levels 1 to 3.
        noise_left: White noise of a sample over that of a pixel, per level: the filter's sum of squares, whose root
            counts along either axis.
        bias: By how many stored values a sample of noisy pixels is too high, per level; that of even ones is not.
    """

    blur: float
    ringing: tuple[float, float, float]
    noise_left: float
    bias: float


REVERSIBLE = Wavelet(blur=0.155, ringing=(0.125, 0.141, 0.152), noise_left=0.72, bias=0.5)
"""The wavelet 5/3 of JPEG 2000 (ISO/IEC 15444-1, annex F), which rounds down to whole numbers in two of its steps."""
IRREVERSIBLE = Wavelet(blur=0.19, ringing=(0.068, 0.055, 0.048), noise_left=0.52, bias=0.0)
"""The wavelet 9/7. Its samples show less of what is finer than they are."""

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
    if layout.syntax not in (JPEG2000Lossless, JPEG2000) or opened.padded is not None:
        return None
    modality = linear_modality(opened.dataset)
    limits = linear_window(opened.dataset, opened.stored_range) if voi == "dicom" else opened.stored_range
    if modality is None or limits is None:
        return None
    frame, _ = checked_frame(opened.dataset, layout)
    codestream = read_codestream(frame)
    if codestream is None or codestream != replace(
        codestream, rows=layout.rows, columns=layout.columns, bits=layout.bits, signed=layout.signed
    ):
        return None
    largest = _largest_reduction(codestream, size_px, voi)
    candidates = list(range(largest, 0, -1))
    may_clip = voi == "percentile" or min(limits) > min(opened.stored_range) or max(limits) < max(opened.stored_range)
    wavelet = REVERSIBLE if codestream.reversible else IRREVERSIBLE
    may_blur = min(layout.rows, layout.columns) / 2 / size_px < wavelet.blur / _MAX_DIFFERENCE
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
        reach = sorted((value - low) / (high - low) for value in opened.stored_range)
        difference, rms = expected_difference(
            grey, weights, min(grey.shape) / size_px, reduction, wavelet, (reach[0], reach[1]), codestream.cut_off
        )
        # Half of it is taken away, so that both kinds of pixels are off by the other half.
        bias = wavelet.bias / 2 * reduction * modality[0] / (high - low)
        difference, rms = difference + abs(bias) / _MAX_DIFFERENCE, rms + abs(bias) / _RMS_DIFFERENCE
        if reduction <= largest and difference <= 1 and rms <= 1:
            if voi != "percentile":  # whose limits have the same bias
                grey -= np.float32(bias)
            np.clip(grey, *clipping(reach[0], reach[1]), out=grey)
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


def clipping(darkest: float, brightest: float) -> tuple[float, float]:
    """Say where low-pass samples are clipped before they are averaged: where pixels are.

    Where no pixel leaves [0, 1], samples leave it beside sharp edges, and just that makes their average right.

    Args:
        darkest, brightest: Grey values that pixels can have.

    Returns:
        Lowest and highest grey value.
    """
    return (0.0 if darkest < 0 else -np.inf), (1.0 if brightest > 1 else np.inf)


def expected_difference(
    grey: npt.NDArray[np.float32],
    weights: tuple[Weights, Weights],
    ratio: float,
    reduction: int,
    wavelet: Wavelet,
    reach: tuple[float, float],
    cut_off: bool,
) -> tuple[float, float]:
    """Estimate by how much the short way may differ from the long one.

    Args:
        grey: Low-pass samples as grey values, not clipped.
        weights: Onto the result.
        ratio: Samples per pixel of the result.
        reduction: Levels between the samples and the pixels.
        wavelet: Whose samples they are.
        reach: Darkest and brightest grey value that a pixel can have.
        cut_off: Whether the decoder kept the samples between the two.

    Returns:
        Largest and root mean square difference, as shares of what is allowed.
    """
    lowest, highest = _among_neighbours(grey, np.minimum), _among_neighbours(grey, np.maximum)
    contrast = np.clip(highest, 0.0, 1.0) - np.clip(lowest, 0.0, 1.0)
    largest = wavelet.blur * float(contrast.max()) / ratio
    blurred = contrast * np.where(contrast > _EDGE_CONTRAST, _RMS_FACTOR_EDGE, _RMS_FACTOR_TEXTURE)
    # An edge is three samples wide here; where a pixel of the result takes more, its share of the result is larger.
    rms = _root_mean_square(blurred) * max(1.0, ratio / 3) ** 0.5 / ratio
    ringing = wavelet.ringing[min(reduction, _MAX_REDUCTION) - 1]
    clips = reach[0] < 0, reach[1] > 1
    sides = [side for side, clip in zip((grey, 1 - grey), clips, strict=True) if cut_off or clip]
    if beyond := [side for side in sides if float(side.min()) <= 0]:
        lost = np.maximum.reduce([resample(_lost_ringing(side, contrast, ringing), *weights) for side in beyond])
        largest += float(lost.max())
        rms += _root_mean_square(lost)
    if any(clips):
        lowest, highest = _widened(grey, lowest, highest, wavelet.noise_left**-reduction, reach)
        lowest = lowest if clips[0] else np.maximum(lowest, 0)
        highest = highest if clips[1] else np.minimum(highest, 1)
        mixed = resample(_clipped_mixture(grey, lowest, highest), *weights)
        largest += float(mixed.max())
        rms += _root_mean_square(mixed)
    return largest / _MAX_DIFFERENCE, rms / _RMS_DIFFERENCE


def _root_mean_square(values: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


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


def _widened(
    grey: npt.NDArray[np.float32],
    lowest: npt.NDArray[np.float32],
    highest: npt.NDArray[np.float32],
    factor: float,
    reach: tuple[float, float],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Between what pixels lie, who have `factor` times the noise of the samples and keep to their reach."""
    lower = np.maximum(grey - np.float32(factor) * (grey - lowest), np.float32(reach[0]))
    upper = np.minimum(grey + np.float32(factor) * (highest - grey), np.float32(reach[1]))
    return np.minimum(lowest, lower), np.maximum(highest, upper)


def _lost_ringing(
    grey: npt.NDArray[np.float32], contrast: npt.NDArray[np.float32], ringing: float
) -> npt.NDArray[np.float32]:
    """How much too bright a sample is at most, which an edge has pressed below 0 and which is clipped there.

    The samples on the edge's other side are brighter by as much, so that the average would be right without clipping.
    Where pixels themselves lie below 0 the loss is smaller: they count as 0 on the long way too.
    """
    below = np.maximum(0, (-grey - ringing * contrast) / (1 + ringing))
    return np.asarray(np.where(grey <= 0, ringing * np.maximum(contrast - below, 0), 0), dtype=np.float32)
