"""Whether probabilities can be taken at their word, and thresholds chosen on one split and kept for another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .metrics import SPECIFICITY
from .scores import FloatArray, LabelArray, TaskScores

N_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Bins of a reliability diagram, each array of shape `(bins,)`: mean score, observed rate, number of images."""

    mean_score: FloatArray
    observed: FloatArray
    count: NDArray[np.int64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of score and rate, weighted by the images in each bin; NaN without images."""
        if not self.count.sum():
            return math.nan
        return float(np.average(np.abs(self.mean_score - self.observed), weights=self.count))


@dataclass(frozen=True)
class OperatingPoint:
    """What a fixed threshold does: an image counts as positive where its score reaches the threshold.

    `sensitivity` or `specificity` is NaN where there are no positives or no negatives.
    """

    threshold: float
    sensitivity: float
    specificity: float
    positives: int
    negatives: int


def brier_score(scores: FloatArray, labels: LabelArray) -> float:
    """Mean squared distance of probability and label: 0 is perfect, 0.25 is a constant one half.

    Args:
        scores (`np.ndarray` of shape `(n,)`): Probabilities.
        labels (`np.ndarray` of shape `(n,)`): 1, 0, or -1 where missing (left out).

    Returns:
        `float`, NaN without labels.
    """
    known = labels >= 0
    return float(np.mean((scores[known] - labels[known]) ** 2)) if known.any() else math.nan


def reliability(scores: FloatArray, labels: LabelArray, n_bins: int = N_BINS) -> Reliability:
    """Reliability in bins of equal mass: each holds about the same number of images.

    Bins of equal width would leave most of them empty, and their rates undefined, in a small test set. Equal scores
    always share a bin, so that the result does not depend on the order of the images; there may then be fewer bins.

    Args:
        scores (`np.ndarray` of shape `(n,)`): Probabilities.
        labels (`np.ndarray` of shape `(n,)`): 1, 0, or -1 where missing (left out).
        n_bins (`int`, defaults to 10): Number of bins.

    Returns:
        [`Reliability`]
    """
    known = labels >= 0
    scores, labels = scores[known], labels[known]
    if not len(scores):
        return Reliability(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))
    edges = np.unique(np.quantile(scores, np.arange(1, n_bins) / n_bins, method="higher"))
    _, index = np.unique(np.searchsorted(edges, scores, side="right"), return_inverse=True)
    count = np.bincount(index)
    mean_score = np.bincount(index, weights=scores) / count
    observed = np.bincount(index, weights=labels.astype(np.float64)) / count
    return Reliability(mean_score, observed, count.astype(np.int64))


def expected_calibration_error(scores: FloatArray, labels: LabelArray, n_bins: int = N_BINS) -> float:
    """Expected calibration error over bins of equal mass ([`reliability`])."""
    return reliability(scores, labels, n_bins).expected_calibration_error


def operating_threshold(scores: FloatArray, labels: LabelArray, specificity: float = SPECIFICITY) -> float:
    """Lowest threshold that keeps this specificity; choose it on the **validation** split.

    It lies halfway to the next higher score, so that no image of the split sits on it.

    Args:
        scores (`np.ndarray` of shape `(n,)`): Scores of the validation split.
        labels (`np.ndarray` of shape `(n,)`): 1, 0, or -1 where missing (left out).
        specificity (`float`, defaults to 0.9): In [0, 1].

    Returns:
        `float`; NaN where the split has no negatives.
    """
    negatives = np.sort(scores[labels == 0])
    if not len(negatives):
        return math.nan
    # 1e-9: 0.9 of 10 images is 9, not 9.000000000000002.
    kept = math.ceil(specificity * len(negatives) - 1e-9)
    if kept == 0:
        return float(scores[labels >= 0].min())
    last = float(negatives[kept - 1])
    higher = scores[(labels >= 0) & (scores > last)]
    if not len(higher):
        return float(np.nextafter(last, np.inf))
    following = float(higher.min())
    middle = (last + following) / 2
    return middle if middle > last else following


def at_threshold(scores: FloatArray, labels: LabelArray, threshold: float) -> OperatingPoint:
    """Sensitivity and specificity at a threshold that was fixed before.

    Args:
        scores (`np.ndarray` of shape `(n,)`): Scores.
        labels (`np.ndarray` of shape `(n,)`): 1, 0, or -1 where missing (left out).
        threshold (`float`): From [`operating_threshold`].

    Returns:
        [`OperatingPoint`]
    """
    flagged = scores >= threshold
    positive, negative = labels == 1, labels == 0
    return OperatingPoint(
        threshold=float(threshold),
        sensitivity=float(flagged[positive].mean()) if positive.any() else math.nan,
        specificity=float((~flagged[negative]).mean()) if negative.any() else math.nan,
        positives=int(positive.sum()),
        negatives=int(negative.sum()),
    )


def operating_thresholds(task: TaskScores, specificity: float = SPECIFICITY) -> FloatArray:
    """Threshold of every label of a task, of shape `(labels,)`: [`operating_threshold`] column by column."""
    return np.array([operating_threshold(*task.column(index), specificity) for index in range(len(task.names))])
