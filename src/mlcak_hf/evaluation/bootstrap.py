"""Intervals by bootstrap over patients: one set of draws for every model, all draws computed at once.

A draw takes as many patients as there are, with replacement, and is kept as a weight per image: how often its patient
was drawn. Weighted statistics need no copies of images, and every model sees the same draws, so differences are paired.
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

DrawWeights = NDArray[np.int32]

LEVEL = 0.95
# The 2.5 % quantile of fewer draws would be their minimum.
MIN_DRAWS = 40


@dataclass(frozen=True)
class Interval:
    """A 95 % interval and the number of draws behind it.

    `low` and `high` are NaN if fewer than 40 draws were usable. `dropped` counts the draws in which a label has one
    class only, so that the metric is undefined.
    """

    low: float
    high: float
    draws: int
    dropped: int


@dataclass(frozen=True)
class MetricDraws:
    """A metric of one run (`None` if undefined) and its value in every draw (`None` if it has no interval)."""

    value: float | None
    draws: FloatArray | None = None


def group_indices(groups: Sequence[Any]) -> NDArray[np.intp]:
    """Number the groups (patients) of images.

    Args:
        groups (`Sequence` of length `n`):
            Group of each image. `None` and `""` mean that it is unknown: such an image is a group of its own.

    Returns:
        `np.ndarray` of shape `(n,)`: group numbers from 0, equal for images of one group.
    """
    # No group is named "\0...", so that an image of its own never joins one.
    names = [f"\0{row}" if group in (None, "") else str(group) for row, group in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1]


def draw_weights(groups: Sequence[Any], n_draws: int = 2000, seed: int = 0) -> DrawWeights:
    """Draw groups with replacement.

    Args:
        groups (`Sequence` of length `n`):
            Group (patient) of each image, as for [`group_indices`].
        n_draws (`int`, *optional*, defaults to 2000):
            Number of draws, at least 40.
        seed (`int`, *optional*, defaults to 0):
            Equal groups, numbers and seeds give equal draws.

    Returns:
        `np.ndarray` of shape `(n, n_draws)`, int32: how often each image occurs in each draw.

    Raises:
        [`MLCAKError`]: When there are too few draws or no images.
    """
    if n_draws < MIN_DRAWS:
        raise MLCAKError(f"A 95 % interval needs at least {MIN_DRAWS} bootstrap draws; got {n_draws}. Ask for more.")
    if not len(groups):
        raise MLCAKError("There are no images to draw from. Check the split.")
    index = group_indices(groups)
    n_groups = int(index.max()) + 1
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_draws)
    # Images first: gathering rows by rank then reads contiguous memory.
    return np.ascontiguousarray(counts.T.astype(np.int32)[index])


def auroc_draws(scores: FloatArray, labels: LabelArray, weights: DrawWeights) -> FloatArray:
    """AUROC in every draw, by ranks, ties counted half.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Scores.
        labels (`np.ndarray` of shape `(n,)`):
            1, 0, or -1 if missing.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `np.ndarray` of shape `(draws,)`: NaN for draws with one class only.
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


def average_precision_draws(scores: FloatArray, labels: LabelArray, weights: DrawWeights) -> FloatArray:
    """Compute the average precision in every draw; arguments and result as for [`auroc_draws`]."""
    true_positives, false_positives = _curve(scores, labels, weights)
    positives, negatives = true_positives[-1], false_positives[-1]
    flagged = true_positives + false_positives
    precision = np.divide(true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0)
    gained = np.diff(true_positives, axis=0, prepend=0)
    return np.where(negatives > 0, _ratio((gained * precision).sum(axis=0), positives), np.nan)


def sensitivity_draws(
    scores: FloatArray, labels: LabelArray, weights: DrawWeights, specificity: float = SPECIFICITY
) -> FloatArray:
    """Compute the sensitivity at a specificity in every draw, each with its own threshold; see [`auroc_draws`]."""
    true_positives, false_positives = _curve(scores, labels, weights)
    positives, negatives = true_positives[-1], false_positives[-1]
    allowed = false_positives <= (1 - specificity + 1e-9) * negatives
    reached = np.where(allowed, true_positives, 0.0).max(axis=0)
    return np.where(negatives > 0, _ratio(reached, positives), np.nan)


def mean_draws(values: FloatArray, weights: DrawWeights) -> FloatArray:
    """Compute the mean of one value per image in every draw, leaving NaN out."""
    known = np.isfinite(values)
    return _ratio(values[known] @ weights[known], weights[known].sum(axis=0, dtype=np.float64))


_STATISTICS = {
    "auroc": auroc_draws,
    "average_precision": average_precision_draws,
    "sensitivity_at_90_specificity": sensitivity_draws,
}


def label_draws(task: TaskScores, weights: DrawWeights, metric: str = "auroc") -> FloatArray:
    """Compute a ranking metric of every label in every draw.

    Args:
        task ([`TaskScores`]):
            Scores and labels.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].
        metric (`str`, *optional*, defaults to `"auroc"`):
            `"auroc"`, `"average_precision"` or `"sensitivity_at_90_specificity"`.

    Returns:
        `np.ndarray` of shape `(labels, draws)`: NaN where a label has one class only.
    """
    statistic = _STATISTICS[metric]
    return np.stack(
        [statistic(task.scores[:, index], task.labels[:, index], weights) for index in range(len(task.names))]
    )


def macro_draws(per_label: FloatArray, both_classes: NDArray[np.bool_]) -> FloatArray:
    """Average over the labels in every draw, over the same labels in each.

    Args:
        per_label (`np.ndarray` of shape `(labels, draws)`):
            From [`label_draws`].
        both_classes (`np.ndarray` of shape `(labels,)`):
            Which labels have both classes in the whole set.

    Returns:
        `np.ndarray` of shape `(draws,)`: NaN if one of those labels has one class only in the draw. A mean over fewer
        labels would be a different quantity.
    """
    if not both_classes.any():
        return np.full(per_label.shape[1], np.nan)
    return np.asarray(per_label[both_classes].mean(axis=0))


def percentile_interval(draws: ArrayLike) -> Interval:
    """Take the 95 % percentile interval of a statistic; NaN draws are dropped and counted.

    Args:
        draws (array-like of shape `(draws,)`):
            The statistic in every draw.

    Returns:
        [`Interval`]
    """
    array = np.asarray(draws, dtype=np.float64)
    kept = array[np.isfinite(array)]
    low, high = (np.nan, np.nan)
    if len(kept) >= MIN_DRAWS:
        low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), len(kept), len(array) - len(kept))


def _curve(scores: FloatArray, labels: LabelArray, weights: DrawWeights) -> tuple[FloatArray, FloatArray]:
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
    """Divide, giving NaN where the denominator is 0."""
    undefined = np.full(np.shape(numerator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator > 0))
