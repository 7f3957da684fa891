"""A small radiograph from the low-pass samples of a JPEG 2000 file, if the result equals that of full decoding.

Full decoding applies modality transform, window and polarity to every pixel and averages areas afterwards. Reduced
decoding averages first, in the low-pass samples of the wavelet. The results can differ for two reasons: the low-pass
filter is not a plain average, which shows at sharp edges; and clipping by a window does not commute with averaging.
Both differences are estimated from the low-pass samples, with factors measured on real radiographs. Where they may
matter, the next larger size is decoded, or the full image. The estimate misses one pattern that no radiograph shows: a
drawn grid of lines finer than the samples, at full contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..choices import ValueRange, Voi
from ..grey_values import PERCENTILE_REFERENCE_PX, percentile_limits
from ..resampling import Pixels, Weights, resample, sample_edges, weights_onto_square
from .codestream import FrameHeader, decode_low_pass
from .header import DicomHeader
from .pixels import checked_frame

# Shorter side of the low-pass image over the side of the result; below 2 there are too few samples to average.
_MIN_RATIO = 2.0
_MAX_REDUCTION = 3

# Largest estimated maximum and root mean square difference that is accepted, for images in [0, 1].
_MAX_DIFFERENCE = 8 / 255
_RMS_DIFFERENCE = 10 ** (-52 / 20)

# In the root mean square, edges (neighbours that differ by more than the contrast) weigh more than texture.
_EDGE_CONTRAST = 0.25
_RMS_FACTOR_EDGE, _RMS_FACTOR_TEXTURE = 0.15, 0.08

# Large images are oversampled by their detector or digitizer. Small ones have detail that low-pass samples miss, and
# decode fast anyway.
_SMALLEST_SIDE_PX = 1024


@dataclass(frozen=True)
class Wavelet:
    """How a low-pass sample of a wavelet differs from the average of the pixels around it.

    Args:
        blur (`float`):
            Difference between reduced and full decoding, divided by (contrast between neighbouring samples / samples
            per pixel of the result): slightly more than the largest seen in large radiographs, with and without drawn
            markers, small print and borders, at three levels and four sizes.
        ringing (`tuple[float, float, float]`):
            Largest overshoot of the sample next to an ideal edge, divided by its contrast, at levels 1 to 3.
        noise_left (`float`):
            White noise of a sample divided by that of a pixel, per level: the sum of squares of the filter; its root
            applies along each axis.
        bias (`float`):
            Excess of a sample of noisy pixels, per level, in stored values. Uniform pixels have none.
    """

    blur: float
    ringing: tuple[float, float, float]
    noise_left: float
    bias: float


REVERSIBLE = Wavelet(blur=0.155, ringing=(0.125, 0.141, 0.152), noise_left=0.72, bias=0.5)
"""The 5/3 wavelet of JPEG 2000 (ISO/IEC 15444-1, annex F), which rounds down to integers in two of its steps."""
IRREVERSIBLE = Wavelet(blur=0.19, ringing=(0.068, 0.055, 0.048), noise_left=0.52, bias=0.0)
"""The 9/7 wavelet. Its samples contain less of the finer detail."""

# Decoding at half the size takes a quarter of the time of full decoding, too much to waste. Where a window may clip, or
# the sharpest edge needs more than half the size, two levels smaller are tried first, at a hundredth of the time, and
# larger sizes whose expected difference would exceed the accepted one by this factor are skipped.
_SKIP_ABOVE = 1.1


def read_reduced(
    header: DicomHeader, size_px: int, fit: str, voi: Voi, value_range: ValueRange | None = None
) -> tuple[Pixels, float] | None:
    """Read a small square image of a JPEG 2000 file by reduced decoding.

    Args:
        header ([`DicomHeader`]):
            The header of the file.
        size_px, fit, voi, value_range: As in [`read_radiograph`].

    Returns:
        `tuple`: float32 of shape `(size_px, size_px)` in [0, 1], polarity corrected; and the largest magnitude of the
        stored values. `None` if the image has to be decoded in full.
    """
    dataset, layout, full_range = header.dataset, header.layout, header.stored_range
    window = (value_range or full_range) if header.view is None else header.view.limits
    if header.padded is not None or dataset.get("ModalityLUTSequence") or window is None:
        return None
    frame, declared = checked_frame(dataset, layout)
    # A truncated codestream would give a reduced image of what is left, without an error.
    complete = frame[-16:].rstrip(b"\0").endswith(b"\xff\xd9")
    if not complete or (declared.precision, declared.signed) != (layout.bits, layout.signed):
        return None
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    wavelet = REVERSIBLE if declared.reversible else IRREVERSIBLE
    largest = _largest_reduction(declared, size_px, voi)
    candidates = [*range(largest, 0, -1)]
    may_clip = voi == "percentile" or window[0] > full_range[0] or window[1] < full_range[1]
    may_blur = min(layout.rows, layout.columns) / 2 / size_px < wavelet.blur / _MAX_DIFFERENCE
    if largest and (may_clip or may_blur) and declared.levels > largest:
        candidates.insert(0, min(largest + 2, declared.levels))
    expected = 0.0
    for reduction in candidates:
        if expected * 2.0**reduction > _SKIP_ABOVE:
            continue
        try:
            samples = decode_low_pass(frame, declared, reduction)
        except (OSError, ValueError, SyntaxError):
            return None
        values = samples * np.float32(slope) + np.float32(intercept)
        edges = sample_edges(layout.rows, layout.columns, reduction)
        low, high = percentile_limits(values, edges=edges) if voi == "percentile" else window
        grey = (values - np.float32(low)) / np.float32(high - low)
        weights = weights_onto_square(edges, size_px, fit)
        reach = (full_range[0] - low) / (high - low), (full_range[1] - low) / (high - low)
        ratio = min(grey.shape) / size_px
        difference, rms = expected_difference(grey, weights, ratio, reduction, wavelet, reach, declared.clipped)
        # Half of it is subtracted, so that noisy and uniform pixels are both off by the other half.
        bias = wavelet.bias / 2 * reduction * slope / (high - low)
        difference, rms = difference + abs(bias) / _MAX_DIFFERENCE, rms + abs(bias) / _RMS_DIFFERENCE
        if reduction <= largest and difference <= 1 and rms <= 1:
            if voi != "percentile":  # its limits have the same bias
                grey -= np.float32(bias)
            # Clipped like the pixels before averaging. Where no pixel can exceed [0, 1], samples still do next to
            # sharp edges, and need to, for their average to be right.
            np.clip(grey, 0.0 if reach[0] < 0 else -np.inf, 1.0 if reach[1] > 1 else np.inf, out=grey)
            small = resample(1 - grey if layout.inverted else grey, *weights)
            return np.clip(small, 0.0, 1.0), float(np.abs(samples).max())
        expected = difference / 2.0**reduction  # the difference halves when the size doubles
    return None


def _largest_reduction(declared: FrameHeader, size_px: int, voi: Voi) -> int:
    """Number of levels that can be left out with enough samples for the result and the percentiles."""
    shorter, longer = sorted((declared.rows, declared.columns))
    if shorter < _SMALLEST_SIDE_PX:
        return 0
    ratio = shorter / (_MIN_RATIO * size_px)
    if voi == "percentile":
        ratio = min(ratio, longer / (_MIN_RATIO * PERCENTILE_REFERENCE_PX))
    levels = int(ratio).bit_length() - 1  # each one halves it
    return max(0, min(levels, _MAX_REDUCTION, declared.levels))


def expected_difference(
    grey: Pixels,
    weights: tuple[Weights, Weights],
    ratio: float,
    reduction: int,
    wavelet: Wavelet,
    reach: tuple[float, float],
    clipped: bool,
) -> tuple[float, float]:
    """Estimate how much reduced decoding may differ from full decoding.

    Args:
        grey (`np.ndarray` of shape `(h, w)`):
            Low-pass samples as grey values, not clipped.
        weights (`tuple[Weights, Weights]`):
            Weights of the rows and columns of the result.
        ratio (`float`):
            Samples per pixel of the result.
        reduction (`int`):
            Levels between the samples and the pixels.
        wavelet ([`Wavelet`]):
            The wavelet of the samples.
        reach (`tuple[float, float]`):
            Darkest and brightest grey value that a pixel can have.
        clipped (`bool`):
            Whether the decoder clipped the samples to `reach`.

    Returns:
        `tuple[float, float]`: Largest and root mean square difference, each divided by the accepted one.
    """
    lowest, highest = _among_neighbours(grey, np.minimum), _among_neighbours(grey, np.maximum)
    contrast = np.clip(highest, 0.0, 1.0) - np.clip(lowest, 0.0, 1.0)
    largest = wavelet.blur * float(contrast.max()) / ratio
    blurred = contrast * np.where(contrast > _EDGE_CONTRAST, _RMS_FACTOR_EDGE, _RMS_FACTOR_TEXTURE)
    # An edge is three samples wide; if a pixel of the result covers more samples, edges take a larger share of it.
    rms = _root_mean_square(blurred) * max(1.0, ratio / 3) ** 0.5 / ratio
    ringing = wavelet.ringing[min(reduction, _MAX_REDUCTION) - 1]
    clips = reach[0] < 0, reach[1] > 1
    sides = [side for side, clip in zip((grey, 1 - grey), clips, strict=True) if clipped or clip]
    if beyond := [side for side in sides if float(side.min()) <= 0]:
        lost = np.maximum.reduce([resample(_lost_ringing(side, contrast, ringing), *weights) for side in beyond])
        largest += float(lost.max())
        rms += _root_mean_square(lost)
    if any(clips):
        # The pixels have this many times the noise of the samples, and stay within `reach`.
        factor = np.float32(wavelet.noise_left**-reduction)
        lowest = np.minimum(lowest, np.maximum(grey - factor * (grey - lowest), np.float32(reach[0])))
        highest = np.maximum(highest, np.minimum(grey + factor * (highest - grey), np.float32(reach[1])))
        lowest = lowest if clips[0] else np.maximum(lowest, 0)
        highest = highest if clips[1] else np.minimum(highest, 1)
        mixed = resample(_clipped_mixture(grey, lowest, highest), *weights)
        largest += float(mixed.max())
        rms += _root_mean_square(mixed)
    return largest / _MAX_DIFFERENCE, rms / _RMS_DIFFERENCE


def _root_mean_square(values: Pixels) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _among_neighbours(values: Pixels, pick: np.ufunc) -> Pixels:
    """Minimum or maximum (`pick`) of each sample and its eight neighbours."""
    padded = np.pad(values, 1, mode="edge")
    of_rows = pick(pick(padded[:-2], padded[1:-1]), padded[2:])
    return np.asarray(pick(pick(of_rows[:, :-2], of_rows[:, 1:-1]), of_rows[:, 2:]))


def _clipped_mixture(mean: Pixels, lowest: Pixels, highest: Pixels) -> Pixels:
    """Largest difference between clipping an average to [0, 1] and averaging clipped values.

    For pixels between `lowest` and `highest` with average `mean`, the excess over a limit is largest when all pixels
    are at the two ends: the chord of a convex function.
    """
    span = np.maximum(highest - lowest, np.float32(1e-6))
    above = np.maximum(highest - 1, 0) * (mean - lowest) / span - np.maximum(mean - 1, 0)
    below = np.maximum(-lowest, 0) * (highest - mean) / span - np.maximum(-mean, 0)
    crossing_above, crossing_below = (highest > 1) & (lowest < 1), (highest > 0) & (lowest < 0)
    return np.asarray(np.where(crossing_above, above, 0) + np.where(crossing_below, below, 0), dtype=np.float32)


def _lost_ringing(grey: Pixels, contrast: Pixels, ringing: float) -> Pixels:
    """Largest excess of a sample that ringing at an edge pushed below 0, where it is clipped.

    Samples on the other side of the edge are brighter by the same amount, so without clipping the average would be
    right. If pixels themselves are below 0 the error is smaller, because full decoding clips them as well.
    """
    below = np.maximum(0, (-grey - ringing * contrast) / (1 + ringing))
    return np.asarray(np.where(grey <= 0, ringing * np.maximum(contrast - below, 0), 0), dtype=np.float32)
