"""Whether a difference between two models exceeds the noise of patients and of training runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

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
