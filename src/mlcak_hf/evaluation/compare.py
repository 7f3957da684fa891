"""Comparing models on the same images: runs become rows, rows become paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import MLCAKError
from .bootstrap import draw_weights, percentile_interval
from .calibration import reliability
from .comparison import COMPARED, Comparison, Difference, Estimate, Row
from .measures import Measure, measure
from .predictions import ModelPredictions, align
from .scores import SINGLE_LABEL, FloatArray, global_scores, local_scores

#: Measures of one row: run -> key -> measure.
Runs = dict[str, dict[str, Measure]]


def compare(
    models: Sequence[ModelPredictions],
    baseline: str | None = None,
    n_draws: int = 2000,
    seed: int = 0,
    context: dict[str, Any] | None = None,
) -> Comparison:
    """Compare models on the same images, with the same bootstrap draws for all.

    Args:
        models (`Sequence[ModelPredictions]`):
            Runs of the same `name` form one row. Rows keep the order in which their names first occur.
        baseline (`str`, *optional*):
            Row that the others are compared with; by default each row is compared with every row before it.
        n_draws (`int`, defaults to 2000): Bootstrap draws.
        seed (`int`, defaults to 0): Seed of the draws.
        context (`dict`, *optional*):
            What was compared (dataset, split, ...), kept in the JSON file; `threshold_split` is where the models'
            operating thresholds come from, "validation" by default.

    Returns:
        [`Comparison`]

    Raises:
        MLCAKError: Predictions of other images or labels, a run twice, or a baseline that is no row.

    Example:

    ```python
    >>> comparison = compare([ModelPredictions.load(path) for path in paths], baseline="student-plain")
    >>> print("\n".join(comparison.noise_statements()))
    ```
    """
    aligned = align(models)
    names = list(dict.fromkeys(model.name for model in aligned))
    if baseline is not None and baseline not in names:
        raise MLCAKError(f"the baseline {baseline!r} is none of the models {', '.join(map(repr, names))}")
    first = aligned[0]
    weights = draw_weights(first.groups if first.groups is not None else first.image_ids, n_draws, seed)
    runs: dict[str, dict[str, tuple[ModelPredictions, dict[str, Measure]]]] = {name: {} for name in names}
    for model in aligned:
        if model.run in runs[model.name]:
            raise MLCAKError(f"{model.name!r} came twice with run {model.run!r}; give each run another `run`")
        runs[model.name][model.run] = (model, measure(model, weights))
    measured = {name: {run: measures for run, (_, measures) in of_row.items()} for name, of_row in runs.items()}
    local = next((model.local_task for model in aligned if model.local_task is not None), None)
    tasks = [(first.global_task, "global/")] + ([(local, "")] if local is not None else [])
    counts = {
        prefix + name: (int(absent), int(present))
        for task, prefix in tasks
        for name, (absent, present) in zip(task.names, task.class_counts(), strict=True)
    }
    return Comparison(
        rows=tuple(_row(name, [model for model, _ in runs[name].values()], measured[name]) for name in names),
        differences=tuple(_differences(names, measured, baseline)),
        finding_names=() if local is None else local.names,
        single_class_labels=tuple(prefix + name for task, prefix in tasks for name in task.single_class_names()),
        unannotated_labels=tuple(prefix + name for task, prefix in tasks for name in task.unannotated_names()),
        class_counts=counts,
        n_images=len(first),
        n_groups=len(set(first.groups if first.groups is not None else first.image_ids)),
        groups_known=first.groups is not None and tuple(first.groups) != tuple(first.image_ids),
        n_draws=n_draws,
        seed=seed,
        context=dict(context or {}),
        thresholds={
            name: thresholds
            for name, of_row in runs.items()
            if (thresholds := tuple(filter(None, (_thresholds(model) for model, _ in of_row.values()))))
        },
    )


def evaluate_predictions(
    scores: ArrayLike,
    labels: ArrayLike,
    local_predictions: ArrayLike | None = None,
    local_labels: ArrayLike | None = None,
    finding_names: Sequence[str] = (),
    groups: Sequence[Any] | None = None,
    problem_type: str = SINGLE_LABEL,
    n_draws: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Measure one model from plain arrays.

    Args:
        scores (array-like of shape `(n,)` or `(n, classes)`): Global probabilities.
        labels (array-like of shape `(n,)` or `(n, classes)`): Global labels, -1 where missing.
        local_predictions (array-like of shape `(n, findings)`, *optional*): Local probabilities.
        local_labels (array-like of shape `(n, findings)`, *optional*): Local labels, -1 where missing.
        finding_names (`Sequence[str]`): Names of the findings.
        groups (sequence of length `n`, *optional*): Patient of each image.
        problem_type (`str`): Of the global task.
        n_draws (`int`, defaults to 2000): Bootstrap draws.
        seed (`int`, defaults to 0): Seed of the draws.

    Returns:
        `dict`: for every defined measure `{"value", "low", "high", ...}` (keys as in `measures.TITLES`, besides
        `auroc/<finding>`).
    """
    task = global_scores(scores, labels, problem_type=problem_type)
    local = None
    if local_predictions is not None and local_labels is not None:
        local = local_scores(local_predictions, local_labels, finding_names)
    ids = [str(index) for index in range(len(task))]
    model = ModelPredictions("model", ids, task, local, None if groups is None else [str(group) for group in groups])
    estimates = compare([model], n_draws=n_draws, seed=seed).rows[0].estimates
    return {key: estimate.to_dict() for key, estimate in estimates.items()}


def _thresholds(model: ModelPredictions) -> dict[str, float]:
    """Operating thresholds by label; of one that the other split held one class of, there is none."""
    if model.thresholds is None:
        return {}
    named = zip(model.global_task.names, model.thresholds.tolist(), strict=True)
    return {name: value for name, value in named if np.isfinite(value)}


def _row(name: str, models: list[ModelPredictions], measured: Runs) -> Row:
    runs = list(measured.values())
    keys = [key for key in runs[0] if all(key in of_run for of_run in runs)]
    estimates = {key: _estimate([of_run[key] for of_run in runs]) for key in keys}
    # All runs and labels in one diagram: a figure has room for one line per row.
    scores = np.concatenate([model.global_task.scores.ravel() for model in models])
    labels = np.concatenate([model.global_task.labels.ravel() for model in models])
    return Row(
        name=name,
        description=models[0].description,
        runs=tuple(measured),
        estimates={key: estimate for key, estimate in estimates.items() if estimate is not None},
        reliability=reliability(scores, labels),
        details=models[0].details,
    )


def _estimate(measures: Sequence[Measure]) -> Estimate | None:
    """Mean over runs, in the whole set and in every draw."""
    values = [of_run.value for of_run in measures if of_run.value is not None]
    draws = [of_run.draws for of_run in measures if of_run.draws is not None]
    if not values or len(values) < len(measures):
        return None
    mean = float(np.mean(values))
    interval = percentile_interval(mean, np.mean(draws, axis=0)) if len(draws) == len(measures) else None
    return Estimate(mean, interval, _deviation(values), len(values))


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _differences(names: list[str], measured: dict[str, Runs], baseline: str | None) -> list[Difference]:
    pairs = [(name, other) for position, name in enumerate(names) for other in names[:position]]
    if baseline is not None:
        pairs = [(name, baseline) for name in names if name != baseline]
    return [
        difference
        for name, other in pairs
        for metric in COMPARED
        if (difference := _difference(name, other, metric, measured)) is not None
    ]


def _difference(name: str, other: str, metric: str, measured: dict[str, Runs]) -> Difference | None:
    """`name` minus `other`: means over runs in every draw; run by run only where both rows have the same runs."""
    ours, theirs = (
        {run: measures[metric] for run, measures in measured[row].items() if metric in measures}
        for row in (name, other)
    )
    our_mean, their_mean = _estimate(list(ours.values())), _estimate(list(theirs.values()))
    if our_mean is None or their_mean is None:
        return None
    value = our_mean.value - their_mean.value
    draws = _mean_draws(ours) - _mean_draws(theirs)
    paired: tuple[float, ...] = ()
    if len(ours) > 1 and set(ours) == set(theirs):
        paired = tuple(float((ours[run].value or 0.0) - (theirs[run].value or 0.0)) for run in ours)
    estimate = Estimate(value, percentile_interval(value, draws), _deviation(paired), max(len(paired), 1))
    return Difference(name, other, metric, estimate, paired)


def _mean_draws(runs: dict[str, Measure]) -> FloatArray:
    return np.asarray(np.mean([of_run.draws for of_run in runs.values() if of_run.draws is not None], axis=0))
