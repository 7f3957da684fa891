"""Curves and calibration of one label: ROC, precision-recall, net benefit, reliability."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from ..calibration import calibration_floor, reliability
from ..scores import FloatArray, LabelArray, TaskScores
from .record import CalibrationOfLabel, Curves

_POINTS = 200
_THRESHOLDS = np.arange(1, 100) / 100


def net_benefit(
    sensitivity: FloatArray, specificity: FloatArray, threshold: FloatArray, prevalence: float
) -> FloatArray:
    r"""Net benefit of acting on the images at or above a threshold (Vickers and Elkin, Med. Decis. Making 26, 2006).

    $$NB = \pi\,Se - (1 - \pi)(1 - Sp)\,\frac{t}{1 - t}$$

    Args:
        sensitivity, specificity (`np.ndarray` of shape `(thresholds,)`):
            At each threshold.
        threshold (`np.ndarray` of shape `(thresholds,)`):
            Probability above which one would act, below 1.
        prevalence (`float`):
            Share of images with the label.

    Returns:
        `np.ndarray` of shape `(thresholds,)`: true positives per image, minus false positives at their exchange rate.
    """
    harm = threshold / (1 - threshold)
    return np.asarray(prevalence * sensitivity - (1 - prevalence) * (1 - specificity) * harm)


def at_prevalence(scores: FloatArray, observed: float, prevalence: float) -> FloatArray:
    r"""Adjust probabilities to another prevalence by Bayes' rule: the odds change by the ratio of the prior odds.

    $$\frac{p'}{1 - p'} = \frac{p}{1 - p} \cdot \frac{\pi' / (1 - \pi')}{\pi / (1 - \pi)}$$

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Probabilities for images; the share `observed` of them has the label.
        observed, prevalence (`float`):
            Share of the images with the label, there and where the probabilities are wanted.

    Returns:
        `np.ndarray` of shape `(n,)`.

    Example:

    ```python
    >>> at_prevalence(np.array([0.5, 0.9]), 0.5, 0.1).round(3).tolist()
    [0.1, 0.5]
    ```
    """
    present, absent = scores * prevalence / observed, (1 - scores) * (1 - prevalence) / (1 - observed)
    return np.asarray(present / (present + absent))


def draw_curves(scores: FloatArray, labels: LabelArray, prevalence: float | None = None) -> Curves:
    """Compute the curves of one label.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Probabilities.
        labels (`np.ndarray` of shape `(n,)`):
            1 and 0, both present.
        prevalence (`float`, *optional*):
            For the decision curve, for which the probabilities are adjusted to it; by default that of `labels`.

    Returns:
        [`Curves`]
    """
    false_positive, sensitivity, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    observed = float(labels.mean())
    share = observed if prevalence is None else prevalence
    acted_on = scores if prevalence is None else at_prevalence(scores, observed, prevalence)
    flagged = acted_on[:, None] >= _THRESHOLDS
    found, cleared = flagged[labels == 1].mean(axis=0), 1 - flagged[labels == 0].mean(axis=0)
    everyone = net_benefit(np.ones(len(_THRESHOLDS)), np.zeros(len(_THRESHOLDS)), _THRESHOLDS, share)
    series = (
        *_thinned(false_positive, sensitivity),
        *_thinned(recall[::-1], precision[::-1]),
        _THRESHOLDS,
        net_benefit(found, cleared, _THRESHOLDS, share),
        everyone,
    )
    return Curves(*(tuple(np.round(values, 5).tolist()) for values in series))


def calibrate_label(scores: FloatArray, labels: LabelArray, seed: int = 0) -> CalibrationOfLabel:
    """Measure the calibration of one label, beside what a perfectly calibrated model would show.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Probabilities.
        labels (`np.ndarray` of shape `(n,)`):
            1 and 0, at least one of them.
        seed (`int`, *optional*, defaults to 0):
            Seed of the labels that are drawn from the scores for the floor.

    Returns:
        [`CalibrationOfLabel`]
    """
    bins, rate = reliability(scores, labels), float(labels.mean())
    floor = calibration_floor(TaskScores(scores[:, None], labels[:, None], ("",)), seed=seed)
    assert floor is not None
    return CalibrationOfLabel(
        brier=float(np.mean((scores - labels) ** 2)),
        brier_of_rate=rate * (1 - rate),
        error=bins.expected_calibration_error,
        floor=floor,
        mean_score=float(scores.mean()),
        observed=rate,
        reliability=bins,
    )


def _thinned(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(int))
    return x[kept], y[kept]
