"""Intervals by bootstrap over patients: one set of draws for every model, all draws computed at once.

A draw takes as many patients as there are, with replacement, and is kept as a weight per image: how often its patient
was drawn. Weighted statistics need no copies of images, and every model sees the same draws, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MLCAKError
from .metrics import SPECIFICITY, fold_weight
from .scores import FloatArray, LabelArray, TaskScores

DrawWeights = NDArray[np.int32]

LEVEL = 0.95
# The 2.5 % quantile of fewer draws would be their minimum.
MIN_DRAWS = 40


@dataclass(frozen=True)
class Interval:
    """A 95 % interval and the number of draws behind it.

    `low` and `high` are `None` if fewer than 40 draws were usable. `dropped` counts the draws in which a label has one
    class only, so that the metric is undefined.
    """

    low: float | None
    high: float | None
    draws: int
    dropped: int


class MetricDraws(NamedTuple):
    """A metric of one run and its value in every draw; no draws if it has no interval."""

    value: float
    draws: FloatArray = np.empty(0)


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


def draw_weights(
    groups: Sequence[Any], n_draws: int = 2000, seed: int = 0, folds: NDArray[np.intp] | None = None
) -> DrawWeights:
    """Draw groups with replacement.

    Args:
        groups (`Sequence` of length `n`):
            Group (patient) of each image, as for [`group_indices`].
        n_draws (`int`, *optional*, defaults to 2000):
            Number of draws, at least 40.
        seed (`int`, *optional*, defaults to 0):
            Equal groups, numbers and seeds give equal draws.
        folds (`np.ndarray` of shape `(n,)`, *optional*):
            Fold of each image. Groups are drawn within their fold, as many as it has.

    Returns:
        `np.ndarray` of shape `(n, n_draws)`, int32: how often each image occurs in each draw.

    Raises:
        [`MLCAKError`]: When there are too few draws, no images, or images of one group in several folds.
    """
    if n_draws < MIN_DRAWS:
        raise MLCAKError(f"A 95 % interval needs at least {MIN_DRAWS} bootstrap draws; got {n_draws}. Ask for more.")
    if not len(groups):
        raise MLCAKError("There are no images to draw from. Check the split.")
    index = group_indices(groups)
    generator = np.random.default_rng(seed)
    counts = np.full((int(index.max()) + 1, n_draws), -1, dtype=np.int32)
    folds = np.zeros(len(index), dtype=np.intp) if folds is None else folds
    for fold in np.unique(folds):
        members = np.unique(index[folds == fold])
        split = int((counts[members, 0] >= 0).sum())
        if split:
            raise MLCAKError(
                f"All images of a patient must be in one fold; {split} patients of fold {fold} are in another one too. "
                "Name the column of patients when you train and evaluate."
            )
        drawn = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=n_draws)
        counts[members] = drawn.T
    # Images first: gathering rows by rank then reads contiguous memory.
    return np.ascontiguousarray(counts[index])


def mean_draws(values: FloatArray, weights: DrawWeights) -> MetricDraws:
    """Average a value per image and label over the images, then over the labels, leaving NaN out.

    Args:
        values (`np.ndarray` of shape `(n, labels)`):
            Each label has at least one value.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        [`MetricDraws`]: NaN for draws in which a label has no value.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    draws = _ratio(filled.T @ weights, known.T.astype(np.float64) @ weights).mean(axis=0)
    return MetricDraws(float(np.nanmean(values, axis=0).mean()), draws)


def ranking_draws(
    metric: str,
    scores: FloatArray,
    labels: LabelArray,
    weights: DrawWeights,
    folds: NDArray[np.intp] | None = None,
) -> FloatArray:
    """Compute a ranking metric in every draw.

    Args:
        metric (`str`):
            A name in [`METRICS`].
        scores (`np.ndarray` of shape `(n,)`):
            Scores.
        labels (`np.ndarray` of shape `(n,)`):
            1, 0, or -1 if missing.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].
        folds (`np.ndarray` of shape `(n,)`, *optional*):
            Fold of each image. The metric is then the mean over the folds, weighted by [`fold_weight`].

    Returns:
        `np.ndarray` of shape `(draws,)`: NaN for draws with one class only, with folds in each of them.
    """
    if folds is not None:
        total, size = np.zeros((2, weights.shape[1]))
        for fold in np.unique(folds):
            own, drawn = labels[folds == fold], weights[folds == fold]
            found = ranking_draws(metric, scores[folds == fold], own, drawn)
            counts = [drawn[own == wanted].sum(axis=0, dtype=np.float64) for wanted in (1, 0)]
            weight = np.where(np.isfinite(found), fold_weight(metric, *counts), 0.0)
            total, size = total + weight * np.nan_to_num(found), size + weight
        return _ratio(total, size)
    positive, negative = labels == 1, labels == 0
    if metric == "auroc":
        # Faster than the curve below, for the AUROC of every finding: wins of each positive, ties counted half.
        order = np.argsort(scores[negative], kind="stable")
        below = np.zeros((len(order) + 1, weights.shape[1]), dtype=np.int32)
        np.cumsum(weights[negative][order], axis=0, out=below[1:])
        places = [np.searchsorted(scores[negative][order], scores[positive], side=side) for side in ("left", "right")]
        wins = (weights[positive] * (below[places[0]] + below[places[1]]).astype(np.float64)).sum(axis=0) / 2
        return _ratio(wins, weights[positive].sum(axis=0, dtype=np.float64) * below[-1])
    order = np.flatnonzero(labels >= 0)
    order = order[np.argsort(-scores[order], kind="stable")]
    # True positives and flagged images at every distinct threshold, the highest first.
    distinct = np.append(np.diff(scores[order]) != 0, True)[: len(order)]
    true = np.cumsum(weights[order] * positive[order, None], axis=0, dtype=np.float64)[distinct]
    flagged = np.cumsum(weights[order], axis=0, dtype=np.float64)[distinct]
    positives, negatives = (weights[each].sum(axis=0, dtype=np.float64) for each in (positive, negative))
    if metric == "average_precision":
        precision = np.divide(true, flagged, out=np.zeros_like(true), where=flagged > 0)
        found = (np.diff(true, axis=0, prepend=0) * precision).sum(axis=0)
    else:
        allowed = flagged - true <= (1 - SPECIFICITY + 1e-9) * negatives
        found = np.where(allowed, true, 0.0).max(axis=0, initial=0.0)
    return np.where(negatives > 0, _ratio(found, positives), np.nan)


def label_draws(metric: str, task: TaskScores, weights: DrawWeights) -> tuple[FloatArray, FloatArray]:
    """Compute a ranking metric of every label, and its mean over the labels with both classes, in every draw.

    Args:
        metric (`str`):
            A name in [`METRICS`].
        task ([`TaskScores`]):
            Scores and labels.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `tuple`: The labels, of shape `(labels, draws)`, and their mean, of shape `(draws,)`. The mean is NaN if one of
        its labels has one class only in the draw: over fewer labels it would be a different quantity.
    """
    draws = np.stack(
        [
            ranking_draws(metric, *columns, weights, task.folds)
            for columns in zip(task.scores.T, task.labels.T, strict=True)
        ]
    )
    averaged = draws[task.both_classes]
    return draws, averaged.mean(axis=0) if len(averaged) else np.full(weights.shape[1], np.nan)


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
    enough = len(kept) >= MIN_DRAWS
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist() if enough else (None, None)
    return Interval(low, high, len(kept), len(array) - len(kept))


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, giving NaN where the denominator is 0."""
    undefined = np.full(np.shape(numerator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator > 0))
