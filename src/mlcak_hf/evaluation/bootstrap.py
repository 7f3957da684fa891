"""Intervals by bootstrap over patients: one table of draws, shared by every model, statistics computed for all at once.

A draw takes as many groups (patients; images where unknown) as there are, with replacement. It is kept as a weight per
image: how often its group was drawn. Statistics of weighted images then need no copies, and every model sees the same
draws, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MLCAKError
from .metrics import SPECIFICITY
from .scores import FloatArray, LabelArray, TaskScores

Weights = NDArray[np.int32]

LEVEL = 0.95
# The 2.5 % quantile of fewer draws than this would be their minimum.
MIN_DRAWS = 40


@dataclass(frozen=True)
class Interval:
    """A value, its percentile interval, and how many draws could be used.

    `low` and `high` are NaN where fewer than 40 draws could be used. A draw is dropped where a label that the
    statistic needs has one class only in it: `dropped` counts them.
    """

    value: float
    low: float
    high: float
    draws: int
    dropped: int

    def contains(self, point: float) -> bool:
        """Whether the interval holds this point; an undefined interval excludes nothing, so it holds every one."""
        return not (point < self.low or point > self.high)


def draw_weights(groups: Sequence[Any] | NDArray[Any], n_draws: int = 2000, seed: int = 0) -> Weights:
    """Draw groups with replacement.

    Args:
        groups (sequence of length `n`): Group (patient) of each image; a different value each where unknown.
        n_draws (`int`, defaults to 2000): At least 40.
        seed (`int`, defaults to 0): The same groups, number and seed give the same draws.

    Returns:
        `np.ndarray` of shape `(n, n_draws)`, int32: how often each image occurs in each draw.

    Raises:
        MLCAKError: Too few draws, or no images.
    """
    if n_draws < MIN_DRAWS:
        raise MLCAKError(f"a 95 % interval needs at least {MIN_DRAWS} bootstrap draws, got {n_draws}")
    if not len(groups):
        raise MLCAKError("there are no images to draw from")
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    n_groups = int(index.max()) + 1
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_draws)
    # Images first: gathering rows by rank then reads whole lines of memory.
    return np.ascontiguousarray(counts.T.astype(np.int32)[index])


def auroc_draws(scores: FloatArray, labels: LabelArray, weights: Weights) -> FloatArray:
    """AUROC in every draw, by ranks, ties counted half.

    Args:
        scores (`np.ndarray` of shape `(n,)`): Scores.
        labels (`np.ndarray` of shape `(n,)`): 1, 0, or -1 where missing.
        weights (`np.ndarray` of shape `(n, draws)`): From [`draw_weights`].

    Returns:
        `np.ndarray` of shape `(draws,)`; NaN where a draw has one class only.
    """
    positive, negative = labels == 1, labels == 0
    order = np.argsort(scores[negative], kind="stable")
    ranked = scores[negative][order]
    # below[k]: weight of the k lowest negatives.
    below = np.zeros((len(ranked) + 1, weights.shape[1]), dtype=np.int32)
    np.cumsum(weights[negative][order], axis=0, out=below[1:])
    lower = below[np.searchsorted(ranked, scores[positive], side="left")]
    lower += below[np.searchsorted(ranked, scores[positive], side="right")]
    wins = 0.5 * np.einsum("pd,pd->d", weights[positive], lower, dtype=np.float64, casting="same_kind")
    pairs = weights[positive].sum(axis=0, dtype=np.float64) * below[-1]
    return _ratio(wins, pairs)


def average_precision_draws(scores: FloatArray, labels: LabelArray, weights: Weights) -> FloatArray:
    """Average precision in every draw; arguments and result as [`auroc_draws`]."""
    true_positives, false_positives = _curve(scores, labels, weights)
    positives, negatives = true_positives[-1], false_positives[-1]
    flagged = true_positives + false_positives
    precision = np.divide(true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0)
    gained = np.diff(true_positives, axis=0, prepend=0)
    return np.where(negatives > 0, _ratio((gained * precision).sum(axis=0), positives), np.nan)


def sensitivity_draws(
    scores: FloatArray, labels: LabelArray, weights: Weights, specificity: float = SPECIFICITY
) -> FloatArray:
    """Sensitivity at a specificity in every draw (threshold chosen anew in each); otherwise as [`auroc_draws`]."""
    true_positives, false_positives = _curve(scores, labels, weights)
    positives, negatives = true_positives[-1], false_positives[-1]
    allowed = false_positives <= (1 - specificity + 1e-9) * negatives
    reached = np.where(allowed, true_positives, 0.0).max(axis=0)
    return np.where(negatives > 0, _ratio(reached, positives), np.nan)


def mean_draws(values: FloatArray, weights: Weights) -> FloatArray:
    """Mean of a value per image in every draw; images whose value is NaN are left out."""
    known = np.isfinite(values)
    return _ratio(values[known] @ weights[known], weights[known].sum(axis=0, dtype=np.float64))


_STATISTICS = {
    "auroc": auroc_draws,
    "average_precision": average_precision_draws,
    "sensitivity_at_90_specificity": sensitivity_draws,
}


def label_draws(task: TaskScores, weights: Weights, metric: str = "auroc") -> FloatArray:
    """A ranking metric of every label in every draw.

    Args:
        task ([`TaskScores`]): Scores and labels.
        weights (`np.ndarray` of shape `(n, draws)`): From [`draw_weights`].
        metric (`str`): `"auroc"`, `"average_precision"` or `"sensitivity_at_90_specificity"`.

    Returns:
        `np.ndarray` of shape `(labels, draws)`; NaN where a label has one class only.
    """
    statistic = _STATISTICS[metric]
    return np.stack(
        [statistic(task.scores[:, index], task.labels[:, index], weights) for index in range(len(task.names))]
    )


def macro_draws(per_label: FloatArray, both_classes: NDArray[np.bool_]) -> FloatArray:
    """Mean over labels in every draw, over the same labels in each.

    Args:
        per_label (`np.ndarray` of shape `(labels, draws)`): From [`label_draws`].
        both_classes (`np.ndarray` of shape `(labels,)`): Labels that have both classes in the whole set.

    Returns:
        `np.ndarray` of shape `(draws,)`; NaN where one of those labels has one class only in the draw: a mean over
        fewer labels would be another quantity.
    """
    if not both_classes.any():
        return np.full(per_label.shape[1], np.nan)
    return np.asarray(per_label[both_classes].mean(axis=0))


def percentile_interval(value: float, draws: ArrayLike, level: float = LEVEL) -> Interval:
    """Percentile interval of a statistic from its value in every draw; NaN draws are dropped and counted.

    Args:
        value (`float`): The statistic on the whole set.
        draws (array-like of shape `(draws,)`): The statistic in every draw.
        level (`float`, defaults to 0.95): Share of the draws inside.

    Returns:
        [`Interval`]
    """
    array = np.asarray(draws, dtype=np.float64)
    kept = array[np.isfinite(array)]
    dropped = len(array) - len(kept)
    if len(kept) < MIN_DRAWS:
        return Interval(float(value), float("nan"), float("nan"), len(kept), dropped)
    tail = (1 - level) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high), len(kept), dropped)


def _curve(scores: FloatArray, labels: LabelArray, weights: Weights) -> tuple[FloatArray, FloatArray]:
    """True and false positives at every distinct threshold, highest first, each of shape `(thresholds, draws)`."""
    known = labels >= 0
    scores, labels, weights = scores[known], labels[known], weights[known]
    order = np.argsort(-scores, kind="stable")
    ranked, is_positive = scores[order], (labels[order] == 1)[:, None]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else np.array([], dtype=int)
    nothing = np.zeros((1, weights.shape[1]))
    columns = (weights[order] * is_positive, weights[order] * ~is_positive)
    true_positives, false_positives = (
        np.concatenate([nothing, np.cumsum(column, axis=0)[ends].astype(np.float64)]) for column in columns
    )
    return true_positives, false_positives


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Quotient, NaN where nothing is divided."""
    undefined = np.full(np.shape(numerator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator > 0))
