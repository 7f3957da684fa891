"""Intervals of explanation scores over patients, for all pairs of image and finding, by finding and by box size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from ...explanation.choices import METHODS
from ..bootstrap import DrawWeights, draw_weights, group_indices, mean_draws, percentile_interval
from ..comparison import RARE
from ..scores import FloatArray
from ..significance import holm
from .map_report import DECIDING, Explanations, MapReport, MapScore, Measured
from .measurement import FLOORS, MAP_METRICS, MapMeasurement, pool_folds

#: Share of the radiograph inside the boxes: bounds of the groups by size.
SIZES = {"under 1 %": (0.0, 0.01), "1 to 5 %": (0.01, 0.05), "over 5 %": (0.05, math.inf)}


def report_maps(
    measurements: Sequence[MapMeasurement], n_draws: int = 2000, seed: int = 0, context: dict[str, Any] | None = None
) -> Explanations:
    """Report the maps of models, folds of one name pooled.

    Args:
        measurements (`Sequence[MapMeasurement]`):
            At least one.
        n_draws, seed (`int`):
            Of the bootstrap over patients.
        context (`dict`, *optional*):
            What was measured (`dataset`, `split`), kept in the record.

    Returns:
        [`Explanations`]

    Raises:
        [`MLCAKError`]: When measurements of one name cannot be pooled.
    """
    names = dict.fromkeys(each.model for each in measurements)
    pooled = [pool_folds([each for each in measurements if each.model == name]) for name in names]
    return Explanations(tuple(_report(each, n_draws, seed) for each in pooled), n_draws, seed, dict(context or {}))


def _report(measured: MapMeasurement, n_draws: int, seed: int) -> MapReport:
    weights = draw_weights(measured.groups, n_draws, seed)
    scores: list[MapScore] = []
    places: list[tuple[int, str]] = []
    p_values: list[float] = []
    for kind, group, some in _groups(measured):
        for method in METHODS:
            for row, metric in enumerate(MAP_METRICS):
                score, p = _score(measured, (method, metric, row), some, weights)
                if score is None:
                    continue
                if kind == "all" and metric == DECIDING and score.patients >= RARE:
                    places += [(len(scores), floor) for floor in p]
                    p_values += list(p.values())
                scores.append(replace(score, kind=kind, group=group))
    for (place, floor), adjusted in zip(places, holm(p_values), strict=True):
        scores[place].p_values[floor] = float(adjusted)
    return MapReport(
        model=measured.model,
        weights=tuple(key["weights"] for key in measured.key.get("parts", [measured.key])),
        pairs=len(measured),
        images=len(set(measured.images)),
        patients=len(set(measured.groups)),
        scores=tuple(scores),
        correlation={
            name: _measured(values, weights)
            for name, values in measured.correlation.items()
            if np.isfinite(values).any()
        },
        shares={name: values for name, values in measured.shares.items() if values},
        empty=measured.empty,
        unknown_findings=measured.unknown_findings,
        trained_on=measured.trained_on,
    )


def _groups(measured: MapMeasurement) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    findings = np.array(measured.findings)
    yield "all", "", np.ones(len(measured), dtype=bool)
    for finding in sorted(set(measured.findings)):
        yield "finding", finding, findings == finding
    for size, (low, high) in SIZES.items():
        within = (measured.area >= low) & (measured.area < high)
        if within.any():
            yield "size", size, within


def _score(
    measured: MapMeasurement, wanted: tuple[str, str, int], some: NDArray[np.bool_], weights: DrawWeights
) -> tuple[MapScore | None, dict[str, float]]:
    """One score, without its place in the report, and the p-values of its gains before any correction."""
    method, metric, row = wanted
    own = measured.scores[method][row]
    known = np.flatnonzero(some & np.isfinite(own))
    if not len(known):
        return None, {}
    groups, drawn = [measured.groups[pair] for pair in known], weights[known]
    floors, gains, p_values = {}, {}, {}
    for floor in FLOORS:
        name = floor if floor == "random" else f"{method}/{floor}"
        if name not in measured.scores or not np.isfinite(measured.scores[name][row][known]).all():
            continue
        values = measured.scores[name][row][known]
        gain = (own[known] - values) * (1 if MAP_METRICS[metric] else -1)
        floors[floor], gains[floor] = _measured(values, drawn), _measured(gain, drawn)
        p_values[floor] = zero_mean_p_value(gain, groups)
    value = _measured(own[known], drawn)
    return MapScore("", "", method, metric, len(known), len(set(groups)), value, floors, gains, {}), p_values


def zero_mean_p_value(values: FloatArray, groups: Sequence[str]) -> float:
    r"""Compute the p-value of the hypothesis that the mean over pairs is 0, with patients as clusters.

    A t-test with $G - 1$ degrees of freedom for $G$ patients and the variance
    $\frac{G}{G - 1} \sum_g (\sum_{i \in g} (v_i - \bar v))^2 / n^2$.

    Args:
        values (`np.ndarray` of shape `(pairs,)`):
            Finite.
        groups (`Sequence[str]` of length `pairs`):
            Patients.

    Returns:
        `float` in [0, 1].
    """
    residuals = np.bincount(group_indices(groups), weights=values - values.mean())
    patients, mean = len(residuals), float(values.mean())
    if mean == 0 or patients < 2:
        return 1.0
    error = math.sqrt(patients / (patients - 1) * float(residuals @ residuals)) / len(values)
    return float(2 * stdtr(patients - 1, -abs(mean) / error)) if error else 0.0


def _measured(values: FloatArray, weights: DrawWeights) -> Measured:
    mean = mean_draws(values[:, None], weights)
    interval = percentile_interval(mean.draws)
    return Measured(mean.value, interval.low, interval.high)
