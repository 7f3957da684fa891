"""Thresholds of a label: for a specificity, for a sensitivity, by Youden's index, and two limits for triage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Labels = NDArray[np.int8]

# 0.9 of 10 images is 9, not 9.000000000000002.
_ROUNDING = 1e-9


def threshold_at_specificity(scores: Scores, labels: Labels, specificity: float) -> float:
    """Choose the lowest threshold that keeps a specificity.

    An image is positive if its score reaches the threshold. Every threshold of this module is halfway between two
    neighbouring scores, so that no image it was chosen on is exactly on it.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Scores of images that the model was not trained on.
        labels (`np.ndarray` of shape `(n,)`):
            1, 0, or -1 if missing (left out).
        specificity (`float`):
            In [0, 1].

    Returns:
        `float`: NaN without negatives.
    """
    negatives = np.sort(scores[labels == 0])
    if not len(negatives):
        return math.nan
    kept = math.ceil(specificity * len(negatives) - _ROUNDING)
    if kept == 0:
        return float(scores[labels >= 0].min())
    last = float(negatives[kept - 1])
    higher = scores[(labels >= 0) & (scores > last)]
    return _between(last, float(higher.min())) if len(higher) else float(np.nextafter(last, np.inf))


def threshold_at_sensitivity(scores: Scores, labels: Labels, sensitivity: float) -> float:
    """Choose the highest threshold that keeps a sensitivity.

    Args:
        scores, labels:
            As for [`threshold_at_specificity`].
        sensitivity (`float`):
            In [0, 1].

    Returns:
        `float`: NaN without positives.
    """
    positives = np.sort(scores[labels == 1])[::-1]
    if not len(positives):
        return math.nan
    kept = math.ceil(sensitivity * len(positives) - _ROUNDING)
    if kept == 0:
        return float(np.nextafter(scores[labels >= 0].max(), np.inf))
    return _halfway_below(float(positives[kept - 1]), scores[labels >= 0])


def youden_threshold(scores: Scores, labels: Labels) -> float:
    """Choose the threshold with the largest sensitivity + specificity - 1; the highest of several.

    Args:
        scores, labels:
            As for [`threshold_at_specificity`].

    Returns:
        `float`: NaN without positives or without negatives.
    """
    known = labels >= 0
    if len(np.unique(labels[known])) < 2:
        return math.nan
    from sklearn.metrics import roc_curve  # not needed to apply a threshold

    false_positive_rate, sensitivity, thresholds = roc_curve(labels[known], scores[known], drop_intermediate=False)
    # The first threshold is infinite: no image is positive.
    best = 1 + int(np.argmax((sensitivity - false_positive_rate)[1:]))
    return _halfway_below(float(thresholds[best]), scores[known])


def triage_limits(
    scores: Scores, labels: Labels, error: float, groups: Sequence[Any] | None = None
) -> tuple[float | None, float | None]:
    """Choose limits for "low", "unsure" and "high" by split-conformal prediction in each class.

    With n positives, `low_below` is the k-th smallest of their scores, k = floor(error (n + 1)). The next positive is
    below it with probability k / (n + 1) or less, whatever the distribution of the scores, if it is exchangeable with
    those n. The same holds for negatives above `high_above`. The probability is over the calibration images and the
    next image together. One image of each patient and class is drawn, because images of one patient are not
    exchangeable with those of the next.

    Args:
        scores, labels:
            As for [`threshold_at_specificity`].
        error (`float`):
            Largest share of the positives that may be "low", and of the negatives that may be "high".
        groups (`Sequence` of length `n`, *optional*):
            Patient of each image; `None` and `""` if unknown.

    Returns:
        `tuple`: `low_below` and `high_above`; `None` with fewer than 1 / error - 1 patients in the class.
    """
    limits: list[float | None] = []
    for label, sign in ((1, 1.0), (0, -1.0)):
        of_class = np.sort(sign * scores[_one_of_each_patient(labels == label, groups)])
        rank = math.floor(error * (len(of_class) + 1) + _ROUNDING)
        limits.append(sign * float(of_class[rank - 1]) if rank else None)
    return limits[0], limits[1]


def triage(score: float, low_below: float | None, high_above: float | None) -> str:
    """Return `"low"`, `"high"` or `"unsure"` for a score, with the limits of [`triage_limits`].

    A score that both limits would decide is unsure.
    """
    low = low_below is not None and score < low_below
    high = high_above is not None and score > high_above
    return "unsure" if low == high else "low" if low else "high"


def _one_of_each_patient(chosen: NDArray[np.bool_], groups: Sequence[Any] | None) -> NDArray[np.intp]:
    """One of the chosen rows of each patient, drawn with a fixed seed."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(chosen))
    if groups is None:
        return rows
    names = [f"\0{row}" if groups[row] in (None, "") else str(groups[row]) for row in rows]
    return rows[np.unique(names, return_index=True)[1]] if names else rows


def _between(lower: float, higher: float) -> float:
    middle = (lower + higher) / 2
    return middle if middle > lower else higher


def _halfway_below(score: float, scores: Scores) -> float:
    lower = scores[scores < score]
    return _between(float(lower.max()), score) if len(lower) else score
