"""Temperature scaling: one number per head that makes its probabilities better calibrated and changes no logit."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..probabilities import MULTI_LABEL, SINGLE_LABEL, probabilities
from .thresholds import Labels, Scores

_SMALLEST, _LARGEST = 0.05, 20.0


def with_temperature(scores: ArrayLike, temperature: float, problem_type: str = MULTI_LABEL) -> NDArray[np.float64]:
    """Divide the logits behind probabilities by a temperature.

    The logits are recovered from the probabilities: softmax(log p / T) = softmax(z / T), and likewise for the sigmoid.

    Args:
        scores (array-like of shape `(n, labels)`):
            Probabilities of one head, as from [`probabilities`].
        temperature (`float`):
            T; above 1 makes probabilities less extreme.
        problem_type (`str`, *optional*, defaults to `"multi_label_classification"`):
            As for [`probabilities`]. A single column is a probability of its own, whatever the type.

    Returns:
        `np.ndarray` of shape `(n, labels)`.

    Example:

    ```python
    >>> with_temperature([[0.2, 0.8]], 2.0, "single_label_classification").round(3)
    array([[0.333, 0.667]])
    ```
    """
    array = np.asarray(scores, dtype=np.float64)
    kind = problem_type if array.shape[-1] > 1 else MULTI_LABEL
    present = np.log(np.maximum(array, np.finfo(np.float64).tiny))
    if kind == SINGLE_LABEL:
        return probabilities(present / temperature, kind)
    absent = np.log(np.maximum(1 - array, np.finfo(np.float64).epsneg))
    return probabilities((present - absent) / temperature)


def fit_temperature(scores: Scores, labels: Labels, problem_type: str = MULTI_LABEL) -> float | None:
    """Find the temperature with the largest likelihood of the labels (Guo et al., ICML 2017).

    Args:
        scores (`np.ndarray` of shape `(n, labels)`):
            Probabilities of one head for images that the model was not trained on.
        labels (`np.ndarray` of shape `(n, labels)`):
            1, 0, or -1 if missing (left out).
        problem_type (`str`, *optional*, defaults to `"multi_label_classification"`):
            As for [`with_temperature`].

    Returns:
        `float`: Between 0.05 and 20; `None` if the likelihood keeps growing towards one of these, as it does when the
        scores separate the classes perfectly.
    """
    known = labels >= 0
    if problem_type == SINGLE_LABEL and scores.shape[1] > 1:
        rows = known.all(axis=1)
        scores, known, wrong = scores[rows], labels[rows] == 1, None
    else:
        wrong = labels == 0

    def loss(log_temperature: float) -> float:
        found = with_temperature(scores, math.exp(log_temperature), problem_type)
        likelihood = found if wrong is None else np.where(wrong, 1 - found, found)
        return float(-np.log(np.maximum(likelihood[known], np.finfo(np.float64).tiny)).mean())

    return _minimum(loss)


def _minimum(loss: Callable[[float], float]) -> float | None:
    from scipy.optimize import minimize_scalar  # not needed to apply a temperature

    ends = math.log(_SMALLEST), math.log(_LARGEST)
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-4})
    # Where the classes are separated, the loss is as small at the end: it is flat there.
    return None if min(map(loss, ends)) <= found.fun + 1e-6 else math.exp(found.x)
