"""Calibration of probabilities, and operating thresholds chosen on one split for use on another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .bootstrap import DrawWeights, MetricDraws, mean_draws
from .metrics import SPECIFICITY
from .scores import FloatArray, LabelArray, TaskScores

N_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Bins of a reliability diagram: mean score, observed rate and number of images of each."""

    mean_score: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between score and rate, weighted by the images in each bin."""
        return float(np.average(np.abs(np.subtract(self.mean_score, self.observed)), weights=self.count))


def reliability(scores: FloatArray, labels: LabelArray) -> Reliability:
    """Compute the reliability in ten bins that hold about the same number of images.

    On a small test set, most bins of equal width would be empty. Equal scores always share a bin, so the result does
    not depend on the order of the images, and there may be fewer bins.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Probabilities.
        labels (`np.ndarray` of shape `(n,)`):
            1, 0, or -1 if missing (left out).

    Returns:
        [`Reliability`]
    """
    known = labels >= 0
    scores, labels = scores[known], labels[known]
    if not len(scores):
        return Reliability((), (), ())
    edges = np.unique(np.quantile(scores, np.arange(1, N_BINS) / N_BINS, method="higher"))
    _, index = np.unique(np.searchsorted(edges, scores, side="right"), return_inverse=True)
    count = np.bincount(index)
    mean_score = np.bincount(index, weights=scores) / count
    observed = np.bincount(index, weights=labels.astype(np.float64)) / count
    return Reliability(*(tuple(values.tolist()) for values in (mean_score, observed, count)))


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


def operating_thresholds(task: TaskScores) -> FloatArray:
    """Choose the threshold of every label with [`operating_threshold`]; shape `(labels,)`."""
    return np.array([operating_threshold(*task.column(index)) for index in range(len(task.names))])


def calibration_draws(task: TaskScores, weights: DrawWeights) -> dict[str, MetricDraws]:
    """Average calibration metrics over the annotated labels of the global task.

    Args:
        task ([`TaskScores`]):
            The global task.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `dict[str, MetricDraws]`: Brier score (mean squared distance between probability and label) and calibration
        error. The error has no interval: resampling inflates it.
    """
    annotated = np.flatnonzero((task.labels >= 0).any(axis=0))
    if not len(annotated):
        return {}
    squares = np.where(task.labels >= 0, (task.scores - task.labels) ** 2, np.nan)
    errors = [reliability(*task.column(index)).expected_calibration_error for index in annotated]
    return {
        "brier_global": mean_draws(squares[:, annotated], weights),
        "calibration_error_global": MetricDraws(float(np.mean(errors))),
    }


def threshold_draws(task: TaskScores, thresholds: FloatArray | None, weights: DrawWeights) -> dict[str, MetricDraws]:
    """Average sensitivity and specificity at fixed thresholds over the labels with both classes.

    Args:
        task ([`TaskScores`]):
            The global task.
        thresholds (`np.ndarray` of shape `(labels,)`, *optional*):
            From [`operating_thresholds`], on another split. An image is positive if its score reaches the threshold.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `dict[str, MetricDraws]`: Empty without a threshold for each of those labels.
    """
    usable = task.both_classes
    if thresholds is None or not usable.any() or not np.isfinite(thresholds[usable]).all():
        return {}
    flagged = task.scores >= thresholds
    return {
        "sensitivity_at_threshold_global": mean_draws(np.where(task.labels == 1, flagged, np.nan)[:, usable], weights),
        "specificity_at_threshold_global": mean_draws(np.where(task.labels == 0, ~flagged, np.nan)[:, usable], weights),
    }
