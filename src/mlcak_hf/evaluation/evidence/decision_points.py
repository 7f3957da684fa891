"""What a threshold does: sensitivity, specificity, and predictive values at a prevalence, with intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...trust.operating_points import OperatingPoints
from ...trust.thresholds import threshold_at_sensitivity, threshold_at_specificity
from ..bootstrap import DrawWeights, MetricDraws, mean_draws
from ..comparison import Estimate
from ..metrics import SPECIFICITY
from ..scores import FloatArray, LabelArray
from .record import MeasuredPoint


class ChosenThreshold(NamedTuple):
    """A threshold and how it was chosen; `chosen_here` if it was on the evaluated images."""

    rule: str
    threshold: float
    chosen_here: bool = False


def predictive_values(sensitivity: Any, specificity: Any, prevalence: Any) -> tuple[Any, Any]:
    """Compute PPV and NPV by Bayes' rule.

    Args:
        sensitivity, specificity, prevalence (`float` or `np.ndarray`):
            In [0, 1].

    Returns:
        `tuple`: Positive and negative predictive value; NaN where no image, or every image, is positive.

    Example:

    ```python
    >>> ppv, npv = predictive_values(0.9, 0.9, 0.5)
    >>> round(float(ppv), 3), round(float(npv), 3)
    (0.9, 0.9)
    ```
    """
    true_positive, false_negative = prevalence * sensitivity, prevalence * (1 - sensitivity)
    true_negative, false_positive = (1 - prevalence) * specificity, (1 - prevalence) * (1 - specificity)
    with np.errstate(invalid="ignore", divide="ignore"):
        ppv = np.divide(true_positive, true_positive + false_positive)
        npv = np.divide(true_negative, true_negative + false_negative)
    return ppv, npv


def thresholds_chosen_here(scores: FloatArray, labels: LabelArray) -> list[ChosenThreshold]:
    """Choose thresholds on the evaluated images themselves, where no others are known.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Probabilities.
        labels (`np.ndarray` of shape `(n,)`):
            1 and 0, both present.

    Returns:
        `list[ChosenThreshold]`: For 90 % specificity, and for 90 % sensitivity.
    """
    specific = threshold_at_specificity(scores, labels, SPECIFICITY)
    sensitive = threshold_at_sensitivity(scores, labels, SPECIFICITY)
    return [
        ChosenThreshold(f"{100 * SPECIFICITY:.0f} % specificity on these images", specific, True),
        ChosenThreshold(f"{100 * SPECIFICITY:.0f} % sensitivity on these images", sensitive, True),
    ]


def thresholds_of_model(
    points: OperatingPoints | None, name: str, dataset: str, splits: Collection[str]
) -> list[ChosenThreshold]:
    """List the thresholds of a global label in a model's `operating_points.json`.

    Args:
        points ([`OperatingPoints`], *optional*):
            What `mlcak calibrate` chose.
        name (`str`):
            The label.
        dataset (`str`):
            Dataset that they are measured on.
        splits (`Collection[str]`):
            The splits of it that share images with the evaluated ones.

    Returns:
        `list[ChosenThreshold]`: Empty if there are none.
    """
    label = None if points is None else points.labels.get(f"global/{name}")
    if points is None or label is None:
        return []
    where = f"on {points.dataset}, {points.split}"
    rules = {
        f"largest sensitivity + specificity {where}": label.youden,
        f"{100 * points.targets.sensitivity:.0f} % sensitivity {where}": label.at_sensitivity,
        f"{100 * points.targets.specificity:.0f} % specificity {where}": label.at_specificity,
    }
    here = points.dataset == dataset and points.split in splits
    return [ChosenThreshold(rule, point.threshold, here) for rule, point in rules.items() if point is not None]


def measure_points(
    name: str,
    scores: FloatArray,
    labels: LabelArray,
    weights: DrawWeights,
    chosen: Sequence[ChosenThreshold],
    prevalence: float,
) -> tuple[MeasuredPoint, ...]:
    """Measure thresholds on the evaluated images.

    Args:
        name (`str`):
            The label.
        scores, labels (`np.ndarray` of shape `(n,)`):
            Probabilities; 1, 0, or -1 if missing. Both classes are present.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].
        chosen (`Sequence[ChosenThreshold]`):
            The thresholds.
        prevalence (`float`):
            For the predictive values.

    Returns:
        `tuple[MeasuredPoint, ...]`
    """
    made = []
    for rule, threshold, chosen_here in chosen:
        flagged = scores >= threshold
        found = [
            mean_draws(np.where(labels == wanted, flagged == bool(wanted), np.nan)[:, None], weights)
            for wanted in (1, 0)
        ]
        values = predictive_values(found[0].value, found[1].value, prevalence)
        draws = predictive_values(found[0].draws, found[1].draws, prevalence)
        predictive = [Estimate.of_run(MetricDraws(float(v), d)) for v, d in zip(values, draws, strict=True)]
        sensitivity, specificity = (Estimate.of_run(each) for each in found)
        if sensitivity is not None and specificity is not None:
            made.append(MeasuredPoint(name, rule, float(threshold), chosen_here, sensitivity, specificity, *predictive))
    return tuple(made)
