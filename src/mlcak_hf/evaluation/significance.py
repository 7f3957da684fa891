"""Whether a difference between two models exceeds the noise of patients and of training runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import rankdata

from .scores import FloatArray, LabelArray

#: Share of false claims that is accepted.
ALPHA = 0.05
_SMALLEST_P = 1e-12


def half_width(image_deviation: float, run_deviation: float, runs: int, alpha: float = ALPHA) -> float:
    r"""Half the width of an interval that counts the patients and the training runs.

    $$h = \sqrt{(z_{1-\alpha/2}\, s_{image})^2 + (t_{R-1, 1-\alpha/2}\, s_{run} / \sqrt{R})^2}$$

    With one kind of noise only, this is the usual interval. With both, it is slightly too wide (Cochran's bound).

    Args:
        image_deviation (`float`):
            Standard deviation of the mean difference over bootstrap draws of the patients.
        run_deviation (`float`):
            Standard deviation of the difference over pairs of runs (n - 1).
        runs (`int`):
            Number of pairs of runs, at least 2.
        alpha (`float`, *optional*, defaults to 0.05):
            Accepted probability of a false claim.

    Returns:
        `float`: The half-width, in the unit of the metric.
    """
    run_error = run_deviation / math.sqrt(runs)
    return math.hypot(-ndtri(alpha / 2) * image_deviation, -stdtrit(runs - 1, alpha / 2) * run_error)


def p_value(value: float, image_deviation: float, run_deviation: float, runs: int) -> float:
    """Smallest `alpha` at which the interval of [`half_width`] around a difference excludes 0.

    Args:
        value (`float`):
            Mean difference over the runs.
        image_deviation (`float`):
            As in [`half_width`].
        run_deviation (`float`):
            As in [`half_width`].
        runs (`int`):
            As in [`half_width`].

    Returns:
        `float` in (0, 1].
    """

    def excess(alpha: float) -> float:
        return half_width(image_deviation, run_deviation, runs, alpha) - abs(value)

    if value == 0 or excess(_SMALLEST_P) <= 0:
        return 1.0 if value == 0 else _SMALLEST_P
    return float(brentq(excess, _SMALLEST_P, 1.0, xtol=1e-9))


def share_interval(
    gain: float, gap: float, image_covariance: FloatArray, gains: Sequence[float], gaps: Sequence[float]
) -> tuple[float, float] | None:
    r"""Interval of the share `gain / gap`, by Fieller's method with the noise of patients and of training runs.

    It holds every share $\theta$ for which the interval of [`half_width`] around $gain - \theta\,gap$ includes 0.

    Args:
        gain, gap (`float`):
            Mean differences from the same baseline, over the same runs.
        image_covariance (`np.ndarray` of shape `(2, 2)`):
            Covariance of gain and gap over bootstrap draws of the patients.
        gains, gaps (`Sequence[float]` of length `runs`):
            Both differences in each run; at least 2.

    Returns:
        `tuple[float, float]`: `None` if the interval of the gap includes 0, so that any share is possible.

    References:
        Fieller, Some problems in interval estimation (J. R. Statist. Soc. B 16, 1954).
    """
    runs = len(gains)
    of_images, of_runs = ndtri(ALPHA / 2) ** 2, stdtrit(runs - 1, ALPHA / 2) ** 2 / runs
    noise = of_images * np.asarray(image_covariance) + of_runs * np.cov(gains, gaps)
    # (gain - share gap)^2 <= noise of it: a quadratic inequality in the share.
    square, linear, rest = gap**2 - noise[1, 1], gain * gap - noise[0, 1], gain**2 - noise[0, 0]
    if square <= 0:
        return None
    middle, half = linear / square, math.sqrt(max(linear**2 - square * rest, 0.0)) / square
    return float(middle - half), float(middle + half)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Adjust p-values for the number of comparisons by Holm's method (Scand. J. Statist. 6, 1979).

    Args:
        p_values (`Sequence[float]` of length `m`):
            One for each comparison that was chosen before the results were known.

    Returns:
        `np.ndarray` of shape `(m,)`: At most `alpha` of all families hold a value below `alpha` by chance.

    Example:

    ```python
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    ```
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(adjusted, 1.0)


@dataclass(frozen=True)
class DeLong:
    """DeLong's 95 % interval of an AUROC or of a difference, over independent images; it counts no training runs.

    `p_value` is that of the paired test of a difference, `None` for a single AUROC.
    """

    low: float
    high: float
    p_value: float | None


def placement_values(scores: FloatArray, labels: LabelArray) -> tuple[FloatArray, FloatArray]:
    """Share of the other class that each image is on the right side of, ties counted half, in O(n log n).

    Their mean is the AUROC. They follow from midranks (Sun and Xu, IEEE Signal Processing Letters 21, 2014).

    Args:
        scores (`np.ndarray` of shape `(images, k)`):
            One column per model or run.
        labels (`np.ndarray` of shape `(images,)`):
            1 and 0, both present.

    Returns:
        `tuple`: For the positive images, of shape `(m, k)`, the share of negative images with a lower score; for the
        negative images, of shape `(n, k)`, the share of positive images with a higher score.
    """
    positive, negative = labels == 1, labels == 0
    ranks = rankdata(scores, axis=0)
    below = (ranks[positive] - rankdata(scores[positive], axis=0)) / negative.sum()
    above = 1 - (ranks[negative] - rankdata(scores[negative], axis=0)) / positive.sum()
    return below, above


def delong(
    labels: LabelArray, ours: FloatArray, theirs: FloatArray | None = None, folds: NDArray[np.intp] | None = None
) -> DeLong | None:
    r"""DeLong's interval of the mean AUROC of some runs, or of the difference of two means with its paired test.

    With the placement values $V$ of the $m$ positive and $W$ of the $n$ negative images, averaged over the runs and
    subtracted between the models, the variance is $var(V) / m + var(W) / n$ (Biometrics 44, 1988). With folds, the
    AUROCs within them are averaged, weighted by their pairs $m n$.

    Args:
        labels (`np.ndarray` of shape `(images,)`):
            1, 0, or -1 if missing (left out).
        ours (`np.ndarray` of shape `(images, runs)`):
            Scores of the runs.
        theirs (`np.ndarray` of shape `(images, runs)`, *optional*):
            Scores of the runs to compare with.
        folds (`np.ndarray` of shape `(images,)`, *optional*):
            Fold of each image.

    Returns:
        [`DeLong`]: `None` with fewer than two images of a class in a fold, or without any spread, as for a perfect
        ranking.
    """
    value = variance = pairs = 0.0
    for fold in [None] if folds is None else np.unique(folds):
        known = (labels >= 0) if fold is None else (labels >= 0) & (folds == fold)
        counts = [(labels[known] == wanted).sum() for wanted in (1, 0)]
        if min(counts) < 2:
            return None
        parts = placement_values(ours[known], labels[known])
        values = [part.mean(axis=1) for part in parts]
        if theirs is not None:
            others = placement_values(theirs[known], labels[known])
            values = [mine - other.mean(axis=1) for mine, other in zip(values, others, strict=True)]
        weight = float(counts[0] * counts[1])
        value, pairs = value + weight * float(values[0].mean()), pairs + weight
        variance += weight**2 * sum(float(part.var(ddof=1)) / len(part) for part in values)
    value, deviation = value / pairs, math.sqrt(variance) / pairs
    if deviation < _SMALLEST_P:
        return None
    width, lowest = float(-ndtri(ALPHA / 2)) * deviation, 0.0 if theirs is None else -1.0
    p = None if theirs is None else float(2 * ndtr(-abs(value) / deviation))
    return DeLong(max(lowest, value - width), min(1.0, value + width), p)
