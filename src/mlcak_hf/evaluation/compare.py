"""Comparing models on the same images: runs become rows, rows become paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import MLCAKError
from ..probabilities import MULTI_LABEL
from .bootstrap import (
    DrawWeights,
    Interval,
    MetricDraws,
    draw_weights,
    group_indices,
    label_draws,
    macro_draws,
    percentile_interval,
)
from .calibration import calibration_draws, reliability, threshold_draws
from .comparison import COMPARED, RARE, ClassCount, Comparison, Difference, Estimate, Row
from .localisation import attention_draws
from .metrics import METRICS, MLCAKMetric
from .predictions import ModelPredictions, align
from .scores import TaskScores
from .significance import ALPHA, half_width, holm, p_value

#: With more draws dropped than this share, the others no longer represent the test set.
_MOST_DROPPED = 0.05


#: Metrics of the runs of one row: run -> metric -> draws.
Runs = dict[str, dict[str, MetricDraws]]


def compare(
    models: Sequence[ModelPredictions],
    baseline: str | None = None,
    n_draws: int = 2000,
    seed: int = 0,
    context: dict[str, Any] | None = None,
) -> Comparison:
    """Compare models on the same images, with the same bootstrap draws for all.

    A difference is beyond noise if its interval, which counts patients and training runs ([`half_width`]), excludes 0
    after Holm's correction for all the comparisons. With folds, pool the out-of-fold predictions of each seed first:
    a run is a seed.

    Args:
        models (`Sequence[ModelPredictions]`):
            Runs with the same `name` form one row. Rows keep the order in which their names first occur.
        baseline (`str`, *optional*):
            Row that every other row is compared with. Defaults to the only row whose name contains "plain", or else to
            the first row. It must be chosen before the results are known.
        n_draws (`int`, *optional*, defaults to 2000):
            Number of bootstrap draws.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.
        context (`dict`, *optional*):
            What was compared (`dataset`, `split`, `threshold_split`), kept in the record.

    Returns:
        [`Comparison`]

    Raises:
        [`MLCAKError`]: When the images or labels differ, a run occurs twice, or the baseline is not a row.

    Example:

    ```python
    >>> comparison = compare([ModelPredictions.load(path) for path in paths], baseline="student-plain")
    >>> comparison.to_json("comparison.json")
    ```
    """
    aligned = align(models)
    first = aligned[0]
    groups = first.image_ids if first.groups is None else first.groups
    weights = draw_weights(groups, n_draws, seed)
    rows: dict[str, list[ModelPredictions]] = {}
    measured: dict[str, Runs] = {}
    for model in aligned:
        of_row = measured.setdefault(model.name, {})
        if model.run in of_row:
            raise MLCAKError(f"Each run must occur once; got {model.name!r} twice with run {model.run!r}. Rename one.")
        rows.setdefault(model.name, []).append(model)
        of_row[model.run] = run_metrics(model, weights)
    baseline = choose_baseline(list(rows), baseline)
    local = next((model.local_task for model in aligned if model.local_task is not None), None)
    tasks = [(first.global_task, "global/")] + ([(local, "")] if local is not None else [])
    rare = {"auroc_global": _rare(first.global_task, groups)}
    if local is not None:
        rare["auroc_local_macro"] = _rare(local, groups)
    return Comparison(
        rows=tuple(_row(runs, measured[name]) for name, runs in rows.items()),
        differences=tuple(_differences(measured, baseline, rare)),
        finding_names=() if local is None else local.names,
        single_class_labels=tuple(prefix + name for task, prefix in tasks for name in task.single_class_names()),
        unannotated_labels=tuple(prefix + name for task, prefix in tasks for name in task.unannotated_names()),
        class_counts={
            prefix + name: ClassCount(int(absent), int(present))
            for task, prefix in tasks
            for name, (absent, present) in zip(task.names, task.class_counts(), strict=True)
        },
        n_images=len(first),
        n_groups=int(group_indices(groups).max()) + 1,
        groups_known=first.groups is not None and any(first.groups) and tuple(first.groups) != tuple(first.image_ids),
        n_draws=n_draws,
        seed=seed,
        context=dict(context or {}),
    )


def choose_baseline(names: Sequence[str], baseline: str | None = None) -> str:
    """Choose the row that the others are compared with: the named one, the plain student, or the first.

    Args:
        names (`Sequence[str]`):
            Names of the rows.
        baseline (`str`, *optional*):
            Name that was asked for.

    Returns:
        `str`: One of the names.

    Raises:
        [`MLCAKError`]: When the baseline is not one of the names.
    """
    if baseline is not None and baseline not in names:
        raise MLCAKError(f"The baseline must be one of the rows {', '.join(map(repr, names))}; got {baseline!r}.")
    plain = [name for name in names if "plain" in name.lower()]
    return baseline or (plain[0] if len(plain) == 1 else names[0])


def run_metrics(model: ModelPredictions, weights: DrawWeights) -> dict[str, MetricDraws]:
    """Compute every metric of one run.

    Args:
        model ([`ModelPredictions`]):
            Predictions in the order of the draws.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `dict[str, MetricDraws]`: By the names of [`MLCAKMetric`], and calibration, thresholds and attention. Metrics
        that need a head, thresholds or boxes that the model lacks are absent.
    """
    task, local = model.global_task, model.local_task
    # The columns are independent by now, so that every task is multi-label.
    metric = MLCAKMetric(local.names if local else (), task.names, MULTI_LABEL, keep_in_memory=True)
    inputs = {"predictions": task.scores, "references": task.labels}
    if local is not None:
        inputs |= {"local_predictions": local.scores, "local_references": local.labels}
    values = metric.compute(**inputs)
    lists = ("single_class_labels", "unannotated_labels")
    result = {key: MetricDraws(value) for key, value in values.items() if key not in lists}
    for name in METRICS:
        result |= _with_draws(name, f"{name}_global", f"{name}_global/", task, result, weights)
    if local is not None:
        # Intervals of every metric of every finding would take minutes; the record has their values.
        result |= _with_draws("auroc", "auroc_local_macro", "auroc/", local, result, weights)
    result |= calibration_draws(task, weights) | threshold_draws(task, model.thresholds, weights)
    return result | attention_draws(model.localisation or {}, weights)


def _with_draws(
    metric: str, mean_key: str, prefix: str, task: TaskScores, values: dict[str, MetricDraws], weights: DrawWeights
) -> dict[str, MetricDraws]:
    """Add draws to a ranking metric: the mean over the labels, and each label that has a key of its own."""
    draws = label_draws(task, weights, metric)
    result = {mean_key: MetricDraws(values[mean_key].value, macro_draws(draws, task.both_classes))}
    for name, of_label in zip(task.names, draws, strict=True):
        if prefix + name in values:
            result[prefix + name] = MetricDraws(values[prefix + name].value, of_label)
    return result


def _row(models: list[ModelPredictions], measured: Runs) -> Row:
    runs = list(measured.values())
    keys = [key for key in runs[0] if all(key in of_run for of_run in runs)]
    estimates = {key: _estimate([of_run[key] for of_run in runs]) for key in keys}
    # One curve for all runs and labels: a figure has room for one line per row.
    scores = np.concatenate([model.global_task.scores.ravel() for model in models])
    labels = np.concatenate([model.global_task.labels.ravel() for model in models])
    return Row(
        name=models[0].name,
        runs=tuple(measured),
        metrics={key: estimate for key, estimate in estimates.items() if estimate is not None},
        reliability=reliability(scores, labels),
        weights=tuple(model.details.get("weights") for model in models),
        thresholds=tuple(filter(None, (_thresholds(model) for model in models))),
        details={key: value for key, value in models[0].details.items() if key != "weights"},
    )


def _thresholds(model: ModelPredictions) -> dict[str, float]:
    """Operating thresholds by label, without labels that had one class in the other split."""
    if model.thresholds is None:
        return {}
    named = zip(model.global_task.names, model.thresholds.tolist(), strict=True)
    return {name: value for name, value in named if np.isfinite(value)}


def _estimate(runs: Sequence[MetricDraws]) -> Estimate | None:
    """Average over the runs, on the whole set and in every draw."""
    values = [of_run.value for of_run in runs if of_run.value is not None]
    draws = [of_run.draws for of_run in runs if of_run.draws is not None]
    if not values or len(values) < len(runs):
        return None
    interval = percentile_interval(np.mean(draws, axis=0)) if len(draws) == len(runs) else None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), interval, deviation, len(values))


def _rare(task: TaskScores, groups: Sequence[Any]) -> list[str]:
    """Labels with both classes, but too few patients in one of them."""
    index = group_indices(groups)
    names = []
    for name, labels, both in zip(task.names, task.labels.T, task.both_classes, strict=True):
        if both and min(len(np.unique(index[labels == present])) for present in (0, 1)) < RARE:
            names.append(name)
    return names


def _differences(measured: dict[str, Runs], baseline: str, rare: dict[str, list[str]]) -> list[Difference]:
    found = [
        _difference(name, baseline, metric, measured, rare[metric])
        for name in measured
        for metric in COMPARED
        if name != baseline and all(_estimate(_of(measured[row], metric)) for row in (name, baseline))
    ]
    tested = [position for position, (difference, _) in enumerate(found) if not difference.no_verdict]
    noise = [(found[position][1], found[position][0].estimate.deviation or 0.0) for position in tested]
    counts = [len(found[position][0].per_run) for position in tested]
    values = [found[position][0].estimate.value for position in tested]
    adjusted = holm([p_value(value, *sd, runs) for value, sd, runs in zip(values, noise, counts, strict=True)])
    result = [difference for difference, _ in found]
    for position, sd, runs, p in zip(tested, noise, counts, adjusted, strict=True):
        least = half_width(*sd, runs, ALPHA / len(tested))
        result[position] = replace(result[position], p_value=float(p), least_difference=least)
    return result


def _difference(
    name: str, baseline: str, metric: str, measured: dict[str, Runs], rare: list[str]
) -> tuple[Difference, float]:
    """Difference of two rows, without its p-value, and its standard deviation over the draws."""
    ours, theirs = measured[name], measured[baseline]
    our_draws, their_draws = (
        np.mean([of_run.draws for of_run in _of(runs, metric) if of_run.draws is not None], axis=0)
        for runs in (ours, theirs)
    )
    draws = our_draws - their_draws
    interval = percentile_interval(draws)
    paired = len(ours) > 1 and set(ours) == set(theirs)
    per_run = tuple((ours[run][metric].value or 0.0) - (theirs[run][metric].value or 0.0) for run in ours if paired)
    values = [np.mean([of_run.value for of_run in _of(runs, metric)]) for runs in (ours, theirs)]
    value, deviation = float(values[0] - values[1]), float(np.std(per_run, ddof=1)) if paired else None
    reason = _no_verdict(len(ours), len(theirs), paired, rare, interval)
    image_deviation = float(np.nanstd(draws, ddof=1)) if interval.draws > 1 else 0.0
    if deviation is not None:
        width = half_width(image_deviation, deviation, len(per_run))
        interval = replace(interval, low=value - width, high=value + width)
    estimate = Estimate(value, interval, deviation, max(len(per_run), 1))
    return Difference(name, baseline, metric, estimate, per_run, reason), image_deviation


def _no_verdict(ours: int, theirs: int, paired: bool, rare: list[str], interval: Interval) -> str:
    """Why a difference says nothing about other patients and training runs; empty if it does."""
    if min(ours, theirs) < 2:
        return "a single training run"
    if not paired:
        return "the rows do not have the same runs"
    if rare:
        return f"fewer than {RARE} patients in a class of {', '.join(rare)}"
    if interval.dropped > _MOST_DROPPED * (interval.draws + interval.dropped):
        return "too many draws without both classes"
    return ""


def _of(runs: Runs, metric: str) -> list[MetricDraws]:
    return [of_run.get(metric, MetricDraws(None)) for of_run in runs.values()]
