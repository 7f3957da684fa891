"""Every number of one model in a comparison, with its value in each bootstrap draw where it has an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import bootstrap
from .bootstrap import Weights
from .calibration import at_threshold, brier_score, expected_calibration_error
from .metrics import METRICS, task_metrics
from .predictions import ModelPredictions
from .scores import FloatArray, TaskScores

#: Titles of the measures, in the order of the table.
TITLES = {
    "auroc_global": "AUROC global",
    "auroc_local_macro": "AUROC local macro",
    "auroc_local_micro": "AUROC local micro",
    "average_precision_global": "Average precision",
    "average_precision_local_macro": "Average precision local macro",
    "sensitivity_at_90_specificity_global": "Sensitivity at 90 % specificity",
    "sensitivity_at_90_specificity_local_macro": "Sensitivity at 90 % specificity, local macro",
    "brier_global": "Brier score",
    "calibration_error_global": "Calibration error",
    "sensitivity_at_threshold_global": "Sensitivity at validation threshold",
    "specificity_at_threshold_global": "Specificity at validation threshold",
    "attention_ratio": "Attention on boxes",
    "pointing_game": "Pointing game",
    "pointing_game_chance": "Pointing game by chance",
}


@dataclass(frozen=True)
class Measure:
    """A value (`None` where undefined) and its draws, of shape `(draws,)` (`None` where it has no interval)."""

    value: float | None
    draws: FloatArray | None = None


def measure(model: ModelPredictions, weights: Weights) -> dict[str, Measure]:
    """All measures of one model; keys as in `TITLES`, besides `auroc/<finding>` and `auroc_global/<label>`.

    Args:
        model ([`ModelPredictions`]): Predictions in the order of the draws.
        weights (`np.ndarray` of shape `(n, draws)`): From [`draw_weights`].

    Returns:
        `dict[str, Measure]`; what the model has no head, threshold or box for is absent.
    """
    values = task_metrics(model.global_task, model.local_task)
    lists = ("single_class_labels", "unannotated_labels")
    result = {key: Measure(value) for key, value in values.items() if key not in lists}
    for metric in METRICS:
        result |= _with_draws(metric, f"{metric}_global", f"{metric}_global/", model.global_task, result, weights)
    if model.local_task is not None:
        # Intervals of every metric of every finding would cost minutes; JSON has their values.
        result |= _with_draws("auroc", "auroc_local_macro", "auroc/", model.local_task, result, weights)
    result |= _calibration(model, weights)
    if model.localisation is not None and model.localisation.has_boxes.any():
        found = model.localisation
        share, area = (bootstrap.mean_draws(array, weights) for array in (found.share, found.area))
        result["attention_ratio"] = Measure(found.ratio, share / area)
        result["pointing_game"] = Measure(found.pointing, bootstrap.mean_draws(found.hit, weights))
        result["pointing_game_chance"] = Measure(float(np.nanmean(found.chance)))
    return result


def _with_draws(
    metric: str, mean_key: str, prefix: str, task: TaskScores, measures: dict[str, Measure], weights: Weights
) -> dict[str, Measure]:
    """A ranking metric with its draws: the mean over labels, and each label that has a key of its own."""
    draws = bootstrap.label_draws(task, weights, metric)
    result = {mean_key: Measure(measures[mean_key].value, bootstrap.macro_draws(draws, task.both_classes))}
    for name, of_label in zip(task.names, draws, strict=True):
        if prefix + name in measures:
            result[prefix + name] = Measure(measures[prefix + name].value, of_label)
    return result


def _calibration(model: ModelPredictions, weights: Weights) -> dict[str, Measure]:
    """Means over the global labels. The calibration error has no interval: resampling inflates it."""
    task = model.global_task
    columns = [(task.scores[:, index], task.labels[:, index]) for index in range(len(task.names))]
    annotated = [index for index, (_, labels) in enumerate(columns) if (labels >= 0).any()]
    if not annotated:
        return {}
    squares = np.where(task.labels >= 0, (task.scores - task.labels) ** 2, np.nan)
    brier_draws = np.mean([bootstrap.mean_draws(squares[:, index], weights) for index in annotated], axis=0)
    result = {
        "brier_global": Measure(float(np.mean([brier_score(*columns[index]) for index in annotated])), brier_draws),
        "calibration_error_global": Measure(
            float(np.mean([expected_calibration_error(*columns[index]) for index in annotated]))
        ),
    }
    usable = [index for index in annotated if model.thresholds is not None and task.both_classes[index]]
    if model.thresholds is None or not usable or not np.isfinite(model.thresholds[usable]).all():
        return result
    points = [at_threshold(*columns[index], model.thresholds[index]) for index in usable]
    flagged = task.scores >= model.thresholds
    for key, wanted, hits in (
        ("sensitivity", 1, flagged),
        ("specificity", 0, ~flagged),
    ):
        rates = np.where(task.labels == wanted, hits, np.nan)
        draws = np.mean([bootstrap.mean_draws(rates[:, index], weights) for index in usable], axis=0)
        value = float(np.mean([getattr(point, key) for point in points]))
        result[f"{key}_at_threshold_global"] = Measure(value, draws)
    return result
