"""Comparing models on the same images: runs become rows, rows become paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MLCAKError
from .bootstrap import DrawWeights, Interval, MetricDraws, draw_weights, group_indices, label_draws, percentile_interval
from .calibration import calibration_draws, reliability, threshold_draws
from .comparison import (
    COMPARED,
    MOST_DROPPED,
    RARE,
    ClassCount,
    Comparison,
    Difference,
    Estimate,
    Recovered,
    Row,
    choose_pairs,
)
from .localisation import attention_draws
from .metrics import METRICS, task_metrics
from .predictions import ModelPredictions, align, label_scores
from .scores import FloatArray, TaskScores, undefined_labels
from .significance import ALPHA, delong, half_width, holm, p_value, share_interval

#: Metrics of the runs of one row: run -> metric -> draws.
Runs = dict[str, dict[str, MetricDraws]]


def compare(
    models: Sequence[ModelPredictions],
    baseline: str | None = None,
    n_draws: int = 2000,
    seed: int = 0,
    context: dict[str, Any] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    gaps: Sequence[tuple[str, str, str]] = (),
) -> Comparison:
    """Compare models on the same images, with the same bootstrap draws for all.

    A difference is beyond noise if its interval, which counts patients and training runs ([`half_width`]), excludes 0
    after Holm's correction for all the comparisons. With folds, join the out-of-fold predictions of each seed first
    and keep their folds in the tasks: a run is a seed, and images are ranked within their fold only.

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
        pairs (`Sequence[tuple[str, str]]`, *optional*):
            Rows to compare, instead of each with the baseline. They must be chosen before the results are known.
        gaps (`Sequence[tuple[str, str, str]]`, *optional*):
            Model, teacher and baseline: which share of the gap between the last two the first recovers. It is only
            given where the gap has a verdict and its interval is above 0. The pairs must hold both differences.

    Returns:
        [`Comparison`]

    Raises:
        [`MLCAKError`]: When the images or labels differ, a run occurs twice, or a row to compare does not exist.

    Example:

    ```python
    >>> comparison = compare([ModelPredictions.load(path) for path in paths], baseline="student-plain")
    >>> comparison.to_json("comparison.json")
    ```
    """
    aligned = align(models)
    first = aligned[0]
    groups = first.image_ids if first.groups is None else first.groups
    weights = draw_weights(groups, n_draws, seed, first.global_task.folds)
    rows: dict[str, list[ModelPredictions]] = {}
    measured: dict[str, Runs] = {}
    for model in aligned:
        of_row = measured.setdefault(model.name, {})
        if model.run in of_row:
            raise MLCAKError(f"Each run must occur once; got {model.name!r} twice with run {model.run!r}. Rename one.")
        rows.setdefault(model.name, []).append(model)
        of_row[model.run] = run_metrics(model, weights)
    pairs = choose_pairs(list(rows), baseline, pairs)
    local = next((model.local_task for model in aligned if model.local_task is not None), None)
    tasks = [("auroc_global", "global/", first.global_task), ("auroc_local_macro", "", local)]
    index = group_indices(groups)
    counts = {metric: _class_counts(task, index) for metric, _, task in tasks if task is not None}
    rare = {metric: [name for name, count in of_task.items() if count.rare] for metric, of_task in counts.items()}
    made = tuple(_row(runs, measured[name]) for name, runs in rows.items())
    unfit = {
        row.name: f"{row.learner(row.name)} was trained on {row.training_images()} of these images"
        for row in made
        if row.training_images()
    }
    differences = tuple(_differences(measured, pairs, rare, unfit))
    comparison = Comparison(
        rows=made,
        differences=differences,
        finding_names=() if local is None else local.names,
        **{name: tuple(labels) for name, labels in undefined_labels(first.global_task, local).items()},
        class_counts={
            prefix + name: count for metric, prefix, _ in tasks for name, count in counts.get(metric, {}).items()
        },
        n_images=len(first),
        n_groups=int(index.max()) + 1,
        groups_known=first.groups is not None and any(first.groups) and tuple(first.groups) != tuple(first.image_ids),
        n_draws=n_draws,
        seed=seed,
        context=dict(context or {}),
        recovered=tuple(_recovered(measured, differences, gaps)),
    )
    return _add_delong(comparison, rows) if comparison.n_groups == comparison.n_images else comparison


def run_metrics(model: ModelPredictions, weights: DrawWeights) -> dict[str, MetricDraws]:
    """Compute every metric of one run.

    Args:
        model ([`ModelPredictions`]):
            Predictions in the order of the draws.
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `dict[str, MetricDraws]`: By the names of [`task_metrics`], and calibration, thresholds and attention. Metrics
        that need a head, thresholds or boxes that the model lacks are absent.
    """
    task, local = model.global_task, model.local_task
    lists = ("single_class_labels", "unannotated_labels")
    found = {key: value for key, value in task_metrics(task, local).items() if key not in lists and value is not None}
    result = {key: MetricDraws(value) for key, value in found.items()}
    # Intervals of every metric of every finding would take minutes; the record has their values.
    with_draws = [(name, f"{name}_global", f"{name}_global/", task) for name in METRICS]
    with_draws += [("auroc", "auroc_local_macro", "auroc/", local)] if local else []
    for name, mean_key, prefix, of_task in with_draws:
        draws, mean = label_draws(name, of_task, weights)
        keys = [mean_key, *(prefix + label for label in of_task.names)]
        result |= {
            key: MetricDraws(found[key], of) for key, of in zip(keys, [mean, *draws], strict=True) if key in found
        }
    result |= calibration_draws(task, weights) | threshold_draws(task, model.thresholds, weights)
    return result | attention_draws(model.localisation or {}, weights)


def _row(models: list[ModelPredictions], measured: Runs) -> Row:
    runs = list(measured.values())
    # One curve for all runs and labels: a figure has room for one line per row.
    scores = np.concatenate([model.global_task.scores.ravel() for model in models])
    labels = np.concatenate([model.global_task.labels.ravel() for model in models])
    return Row(
        name=models[0].name,
        runs=tuple(measured),
        metrics={key: _estimate(runs, key) for key in runs[0] if all(key in of_run for of_run in runs)},
        reliability=reliability(scores, labels),
        weights=tuple(model.details.get("weights") for model in models),
        thresholds=tuple(filter(None, (_thresholds(model) for model in models))),
        trained_on=tuple(model.details.get("trained_on") for model in models),
        details={key: value for key, value in models[0].details.items() if key not in ("weights", "trained_on")},
    )


def _thresholds(model: ModelPredictions) -> dict[str, float]:
    """Operating thresholds by label, without labels that had one class in the other split."""
    values = [] if model.thresholds is None else model.thresholds.tolist()
    return {name: value for name, value in zip(model.global_task.names, values, strict=False) if math.isfinite(value)}


def _mean_draws(runs: Sequence[dict[str, MetricDraws]], metric: str) -> FloatArray:
    return np.asarray(np.mean([of_run[metric].draws for of_run in runs], axis=0))


def _estimate(runs: Sequence[dict[str, MetricDraws]], metric: str) -> Estimate:
    """Average over the runs, on the whole set and in every draw."""
    values = [of_run[metric].value for of_run in runs]
    draws = _mean_draws(runs, metric)
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), percentile_interval(draws) if len(draws) else None, deviation, len(values))


def _class_counts(task: TaskScores, groups: NDArray[np.intp]) -> dict[str, ClassCount]:
    counts = {}
    for name, labels, (absent, present) in zip(task.names, task.labels.T, task.class_counts().tolist(), strict=True):
        fewest = min(len(np.unique(groups[labels == wanted])) for wanted in (0, 1))
        counts[name] = ClassCount(absent, present, fewest)
    return counts


def _add_delong(comparison: Comparison, runs: Mapping[str, Sequence[ModelPredictions]]) -> Comparison:
    """Add DeLong's intervals and paired tests to the AUROCs of single labels; each patient has one image."""

    def added(estimate: Estimate, metric: str, *names: str) -> Estimate:
        found = [label_scores(runs[name], metric) for name in names]
        known = [each for each in found if each is not None]
        if len(known) < len(names):
            return estimate
        folds = runs[names[0]][0].global_task.folds
        theirs = known[1][0] if len(known) > 1 else None
        return replace(estimate, delong=delong(known[0][1], known[0][0], theirs, folds))

    rows = tuple(
        replace(row, metrics={metric: added(of, metric, row.name) for metric, of in row.metrics.items()})
        for row in comparison.rows
    )
    pairs = tuple(
        replace(pair, estimate=added(pair.estimate, pair.metric, pair.model, pair.baseline))
        for pair in comparison.differences
    )
    return replace(comparison, rows=rows, differences=pairs)


def _differences(
    measured: dict[str, Runs], pairs: Sequence[tuple[str, str]], rare: dict[str, list[str]], unfit: dict[str, str]
) -> list[Difference]:
    """Differences of the pairs, the p-values of those with a verdict adjusted for their number."""
    wanted = [(*pair, metric) for pair in pairs for metric in COMPARED]
    both = [(name, other, metric) for name, other, metric in wanted
            if all(metric in of_run for row in (name, other) for of_run in measured[row].values())]  # fmt: skip
    found = []
    for name, other, metric in both:
        reasons = [reason for row, reason in unfit.items() if row in (name, other)]
        if rare[metric]:
            reasons.append(f"fewer than {RARE} patients in a class of {', '.join(rare[metric])}")
        found.append(_difference(name, other, metric, measured, "; ".join(reasons)))
    tested = [place for place, (difference, _) in enumerate(found) if not difference.no_verdict]
    result = [difference for difference, _ in found]
    noise = [(found[place][1], result[place].estimate.deviation or 0.0, len(result[place].per_run)) for place in tested]
    adjusted = holm([p_value(result[place].estimate.value, *sd) for place, sd in zip(tested, noise, strict=True)])
    for place, sd, p in zip(tested, noise, adjusted, strict=True):
        least = half_width(*sd, ALPHA / len(tested))
        result[place] = replace(result[place], p_value=float(p), least_difference=least)
    return result


def _difference(
    name: str, baseline: str, metric: str, measured: dict[str, Runs], unfit: str
) -> tuple[Difference, float]:
    """Difference of two rows, without its p-value, and its standard deviation over the draws."""
    ours, theirs = measured[name], measured[baseline]
    our_mean, their_mean = (np.mean([of_run[metric].value for of_run in runs.values()]) for runs in (ours, theirs))
    draws = _mean_draws(list(ours.values()), metric) - _mean_draws(list(theirs.values()), metric)
    value, interval = float(our_mean - their_mean), percentile_interval(draws)
    image_deviation = float(np.nanstd(draws, ddof=1)) if interval.draws > 1 else 0.0
    paired = len(ours) > 1 and set(ours) == set(theirs)
    per_run = tuple(ours[run][metric].value - theirs[run][metric].value for run in ours if paired)
    deviation = float(np.std(per_run, ddof=1)) if paired else None
    reasons = {
        unfit: unfit,
        "a single training run": min(len(ours), len(theirs)) < 2,
        "the rows do not have the same runs": not paired,
        "too many draws without both classes": interval.dropped > MOST_DROPPED * len(draws),
    }
    reason = next((reason for reason, applies in reasons.items() if applies), "")
    if deviation is not None:
        width = half_width(image_deviation, deviation, len(per_run))
        interval = replace(interval, low=value - width, high=value + width)
    estimate = Estimate(value, interval, deviation, max(len(per_run), 1))
    return Difference(name, baseline, metric, estimate, per_run, reason), image_deviation


def _recovered(
    measured: Mapping[str, Runs], differences: Sequence[Difference], gaps: Sequence[tuple[str, str, str]]
) -> list[Recovered]:
    """Shares of the gaps with a verdict and an interval above 0."""
    known = {(each.model, each.baseline, each.metric): each for each in differences}
    found = []
    for (name, teacher, baseline), metric in ((names, metric) for names in gaps for metric in COMPARED):
        gap, gain = known.get((teacher, baseline, metric)), known.get((name, baseline, metric))
        if gap is None or gain is None or gap.no_verdict or gain.no_verdict:
            continue
        base, draws = _mean_draws(list(measured[baseline].values()), metric), []
        for row in (name, teacher):
            draws.append(_mean_draws(list(measured[row].values()), metric) - base)
        usable = np.isfinite(draws).all(axis=0)
        covariance = np.cov(np.stack(draws)[:, usable])
        per_run = dict(zip(measured[teacher], gap.per_run, strict=True))
        gaps_of_runs = [per_run[run] for run in measured[name]]
        ends = share_interval(gain.estimate.value, gap.estimate.value, covariance, gain.per_run, gaps_of_runs)
        if ends is None or gap.estimate.value <= 0:
            continue
        interval = Interval(*ends, int(usable.sum()), int((~usable).sum()))
        share = Estimate(gain.estimate.value / gap.estimate.value, interval, None, len(gain.per_run))
        found.append(Recovered(name, teacher, baseline, metric, gap.estimate.value, gain.estimate.value, share))
    return found
