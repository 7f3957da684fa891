"""Calibration of probabilities, and operating thresholds chosen on one split for use on another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bootstrap import DrawWeights, MetricDraws, mean_draws
from .metrics import SPECIFICITY
from .scores import FloatArray, LabelArray, TaskScores

N_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Bins of a reliability diagram: mean score, observed rate and number of images, each of shape `(bins,)`."""

    mean_score: FloatArray
    observed: FloatArray
    count: NDArray[np.int64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between score and rate, weighted by the images in each bin; NaN without images."""
        if not self.count.sum():
            return math.nan
        return float(np.average(np.abs(self.mean_score - self.observed), weights=self.count))


@dataclass(frozen=True)
class OperatingPoint:
    """Sensitivity and specificity of a fixed threshold: an image is positive if its score reaches it.

    `sensitivity` is NaN without positives, `specificity` without negatives.
    """

    threshold: float
    sensitivity: float
    specificity: float
    positives: int
    negatives: int


def brier_score(scores: FloatArray, labels: LabelArray) -> float:
    """Average the squared distance between probability and label: 0 is perfect, a constant 0.5 scores 0.25.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Probabilities.
        labels (`np.ndarray` of shape `(n,)`):
            1, 0, or -1 if missing (left out).

    Returns:
        `float`: NaN without labels.
    """
    known = labels >= 0
    return float(np.mean((scores[known] - labels[known]) ** 2)) if known.any() else math.nan


def reliability(scores: FloatArray, labels: LabelArray, n_bins: int = N_BINS) -> Reliability:
    """Compute the reliability in bins that hold about the same number of images.

    On a small test set, most bins of equal width would be empty. Equal scores always share a bin, so the result does
    not depend on the order of the images, and there may be fewer bins.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Probabilities.
        labels (`np.ndarray` of shape `(n,)`):
            1, 0, or -1 if missing (left out).
        n_bins (`int`, *optional*, defaults to 10):
            Number of bins.

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
    """Compute the expected calibration error over the bins of [`reliability`]."""
    return reliability(scores, labels, n_bins).expected_calibration_error


def operating_threshold(scores: FloatArray, labels: LabelArray, specificity: float = SPECIFICITY) -> float:
    """Choose the lowest threshold that keeps this specificity, on the **validation** split.

    It is halfway to the next higher score, so that no image of the split is exactly on it.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Scores of the validation split.
        labels (`np.ndarray` of shape `(n,)`):
            1, 0, or -1 if missing (left out).
        specificity (`float`, *optional*, defaults to 0.9):
            In [0, 1].

    Returns:
        `float`: NaN if the split has no negatives.
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
    """Compute sensitivity and specificity at a threshold that was chosen elsewhere.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Scores.
        labels (`np.ndarray` of shape `(n,)`):
            1, 0, or -1 if missing (left out).
        threshold (`float`):
            From [`operating_threshold`].

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
    """Choose the threshold of every label with [`operating_threshold`]; shape `(labels,)`."""
    return np.array([operating_threshold(*task.column(index), specificity) for index in range(len(task.names))])


def calibration_draws(task: TaskScores, weights: DrawWeights) -> dict[str, MetricDraws]:
    """Average calibration metrics over the annotated labels of the global task.

    Args:
        task ([`TaskScores`]):
            The global task.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `dict[str, MetricDraws]`: Brier score and calibration error. The error has no interval: resampling inflates it.
    """
    annotated = np.flatnonzero((task.labels >= 0).any(axis=0))
    if not len(annotated):
        return {}
    squares = np.where(task.labels >= 0, (task.scores - task.labels) ** 2, np.nan)
    brier = np.mean([brier_score(*task.column(index)) for index in annotated])
    error = np.mean([expected_calibration_error(*task.column(index)) for index in annotated])
    draws = np.mean([mean_draws(squares[:, index], weights) for index in annotated], axis=0)
    return {"brier_global": MetricDraws(float(brier), draws), "calibration_error_global": MetricDraws(float(error))}


def threshold_draws(task: TaskScores, thresholds: FloatArray | None, weights: DrawWeights) -> dict[str, MetricDraws]:
    """Average sensitivity and specificity at fixed thresholds over the labels with both classes.

    Args:
        task ([`TaskScores`]):
            The global task.
        thresholds (`np.ndarray` of shape `(labels,)`, *optional*):
            From [`operating_thresholds`], on another split.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `dict[str, MetricDraws]`: Empty without a threshold for each of those labels.
    """
    usable = np.flatnonzero(task.both_classes)
    if thresholds is None or not len(usable) or not np.isfinite(thresholds[usable]).all():
        return {}
    points = [at_threshold(*task.column(index), thresholds[index]) for index in usable]
    flagged = task.scores >= thresholds
    result = {}
    for key, wanted, hits in (("sensitivity", 1, flagged), ("specificity", 0, ~flagged)):
        rates = np.where(task.labels == wanted, hits, np.nan)
        draws = np.mean([mean_draws(rates[:, index], weights) for index in usable], axis=0)
        value = float(np.mean([getattr(point, key) for point in points]))
        result[f"{key}_at_threshold_global"] = MetricDraws(value, draws)
    return result
