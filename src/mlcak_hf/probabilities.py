"""Probabilities from logits: the one place that knows which heads take a softmax and which a sigmoid."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"


def probabilities(logits: ArrayLike, problem_type: str = MULTI_LABEL) -> NDArray[np.float64]:
    """Turn logits into probabilities, in float64.

    Args:
        logits (array-like of shape `(n, labels)`):
            Logits of one head.
        problem_type (`str`, *optional*, defaults to `"multi_label_classification"`):
            `"single_label_classification"` takes the softmax over the labels, `"multi_label_classification"` the
            sigmoid of each. Local findings are always multi-label.

    Returns:
        `np.ndarray` of shape `(n, labels)`: probabilities.

    Example:

    ```python
    >>> probabilities([[0.0, 0.0]], "single_label_classification")
    array([[0.5, 0.5]])
    ```
    """
    array = np.asarray(logits, dtype=np.float64)
    if problem_type == SINGLE_LABEL:
        exponents = np.exp(array - array.max(axis=-1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))
    # Two branches, so that neither exponent overflows.
    decay = np.exp(-np.abs(array))
    return np.where(array >= 0, 1.0, decay) / (1.0 + decay)
