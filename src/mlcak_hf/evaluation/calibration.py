"""Calibration of probabilities, and operating thresholds chosen on one split for use on another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..trust.thresholds import threshold_at_specificity
from .bootstrap import LEVEL, DrawWeights, MetricDraws, mean_draws
from .metrics import SPECIFICITY
from .scores import FloatArray, LabelArray, TaskScores

N_BINS = 10
FLOOR_DRAWS = 1000
# Labels are drawn in parts, so that a large dataset needs no gigabytes.
_FLOOR_ENTRIES = 4_000_000


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
    index = _bins(scores)
    count = np.bincount(index)
    mean_score = np.bincount(index, weights=scores) / count
    observed = np.bincount(index, weights=labels.astype(np.float64)) / count
    return Reliability(*(tuple(values.tolist()) for values in (mean_score, observed, count)))


def _bins(scores: FloatArray) -> NDArray[np.intp]:
    """Bin of each score, numbered from 0."""
    edges = np.unique(np.quantile(scores, np.arange(1, N_BINS) / N_BINS, method="higher"))
    return np.unique(np.searchsorted(edges, scores, side="right"), return_inverse=True)[1]


@dataclass(frozen=True)
class CalibrationFloor:
    """Calibration error of perfect probabilities on as many images: mean and 95th percentile."""

    mean: float
    percentile_95: float


def calibration_floor(task: TaskScores, draws: int = FLOOR_DRAWS, seed: int = 0) -> CalibrationFloor | None:
    """Measure the calibration error that the scores would have if they were perfectly calibrated.

    Labels are drawn from the scores themselves, so that every difference from them is chance. A calibration error
    below the 95th percentile cannot be told from perfect calibration on these images. Errors are averaged over the
    annotated labels, as in [`calibration_draws`].

    Args:
        task ([`TaskScores`]):
            Scores; of the labels only which are missing matters.
        draws (`int`, *optional*, defaults to 1000):
            Number of times that labels are drawn.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.

    Returns:
        [`CalibrationFloor`]: `None` without labels.
    """
    random = np.random.default_rng(seed)
    errors = [_floor_draws(task.column(index)[0], draws, random) for index in range(len(task.names))]
    known = [drawn for drawn in errors if len(drawn)]
    if not known:
        return None
    mean = np.mean(known, axis=0)
    return CalibrationFloor(float(mean.mean()), float(np.quantile(mean, LEVEL)))


def _floor_draws(scores: FloatArray, draws: int, random: np.random.Generator) -> FloatArray:
    """Calibration error of each draw of the labels of one column."""
    if not len(scores):
        return np.empty(0)
    index = _bins(scores)
    members = (index == np.arange(index.max() + 1)[:, None]).astype(np.float64)
    expected, found = members @ scores, np.empty(draws)
    for first in range(0, draws, step := max(1, _FLOOR_ENTRIES // len(scores))):
        drawn = random.random((len(scores), min(step, draws - first))) < scores[:, None]
        found[first : first + step] = np.abs(members @ drawn - expected[:, None]).sum(axis=0) / len(scores)
    return found


def operating_thresholds(task: TaskScores) -> FloatArray:
    """Choose the threshold of every label with [`threshold_at_specificity`], 90 %; shape `(labels,)`."""
    columns = (task.column(index) for index in range(len(task.names)))
    return np.array([threshold_at_specificity(scores, labels, SPECIFICITY) for scores, labels in columns])


def calibration_draws(task: TaskScores, weights: DrawWeights) -> dict[str, MetricDraws]:
    """Average calibration metrics over the annotated labels of the global task.

    Args:
        task ([`TaskScores`]):
            The global task.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `dict[str, MetricDraws]`: Brier score (mean squared distance between probability and label), calibration error,
        and mean and 95th percentile of its floor ([`calibration_floor`]). The error has no interval: resampling
        inflates it.
    """
    annotated = np.flatnonzero((task.labels >= 0).any(axis=0))
    if not len(annotated):
        return {}
    squares = np.where(task.labels >= 0, (task.scores - task.labels) ** 2, np.nan)
    errors = [reliability(*task.column(index)).expected_calibration_error for index in annotated]
    floor = calibration_floor(task)
    assert floor is not None
    return {
        "brier_global": mean_draws(squares[:, annotated], weights),
        "calibration_error_global": MetricDraws(float(np.mean(errors))),
        "calibration_floor_global": MetricDraws(floor.mean),
        "calibration_floor_95_global": MetricDraws(floor.percentile_95),
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
