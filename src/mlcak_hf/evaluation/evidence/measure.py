"""Predictions of one model become its record: one pure function, without files and without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..bootstrap import DrawWeights, MetricDraws, draw_weights, group_indices, label_draws
from ..compare import compare
from ..comparison import Estimate
from ..metrics import METRICS
from ..predictions import ModelPredictions
from ..scores import TaskScores
from .decision_points import ChosenThreshold, measure_points, thresholds_chosen_here
from .image_pass import ImagePass
from .label_curves import calibrate_label, draw_curves
from .record import Evidence, LabelEvidence, ShiftEffect, WorstError
from .self_check import SelfCheck
from .subgroups import measure_subgroups

_FIXED = ChosenThreshold("fixed beforehand", 0.5)
#: Pictures of errors of each kind.
_ERRORS = 6


@dataclass(frozen=True)
class Measurement:
    """What to measure, besides the predictions.

    Args:
        n_draws (`int`, *optional*, defaults to 2000), seed (`int`, *optional*, defaults to 0):
            Bootstrap draws and their seed.
        prevalence (`float`, *optional*):
            For predictive values and net benefit; by default that of the images.
        subgroups (`Mapping[str, Sequence]`, *optional*):
            Columns with one value per image.
        thresholds (`Mapping[str, Sequence[ChosenThreshold]]`, *optional*):
            Thresholds that were chosen elsewhere, by global label.
        context (`dict`, *optional*), facts (`dict`, *optional*):
            Kept in the record.
    """

    n_draws: int = 2000
    seed: int = 0
    prevalence: float | None = None
    subgroups: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    thresholds: Mapping[str, Sequence[ChosenThreshold]] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def measure(predictions: ModelPredictions, images: ImagePass, self_check: SelfCheck, wanted: Measurement) -> Evidence:
    """Measure everything that the report of one model shows.

    Args:
        predictions ([`ModelPredictions`]):
            Of one model on one split.
        images ([`ImagePass`]):
            Input checks and perturbed predictions of the same images.
        self_check ([`SelfCheck`]):
            Of the same model.
        wanted ([`Measurement`]):
            What to measure.

    Returns:
        [`Evidence`]
    """
    comparison = compare([predictions], n_draws=wanted.n_draws, seed=wanted.seed, context=wanted.context)
    groups = predictions.image_ids if predictions.groups is None else predictions.groups
    weights, task = draw_weights(groups, wanted.n_draws, wanted.seed), predictions.global_task
    labels = tuple(_measure_label(task, int(index), weights, wanted) for index in np.flatnonzero(task.both_classes))
    return Evidence(
        comparison=comparison,
        labels=labels,
        prevalence=wanted.prevalence,
        inputs=images.inputs,
        subgroups=measure_subgroups(task, wanted.subgroups, group_indices(groups), weights),
        shifts=_measure_shifts(task, images, weights),
        shifted_images=len(images.shifted_rows),
        errors=worst_errors(task),
        typical=typical_images(task),
        self_check=self_check,
        facts=wanted.facts,
    )


def _measure_label(task: TaskScores, index: int, weights: DrawWeights, wanted: Measurement) -> LabelEvidence:
    name, (scores, labels) = task.names[index], task.column(index)
    share = float(labels.mean()) if wanted.prevalence is None else wanted.prevalence
    chosen = [*wanted.thresholds.get(name, ())]
    chosen = [*(chosen or thresholds_chosen_here(scores, labels)), _FIXED]
    return LabelEvidence(
        name=name,
        prevalence=share,
        curves=draw_curves(scores, labels, wanted.prevalence),
        calibration=calibrate_label(scores, labels, wanted.seed),
        points=measure_points(name, task.scores[:, index], task.labels[:, index], weights, chosen, share),
    )


def _measure_shifts(task: TaskScores, images: ImagePass, weights: DrawWeights) -> tuple[ShiftEffect, ...]:
    rows = images.shifted_rows
    before, weights = task.take(rows), weights[rows]
    usable = np.flatnonzero(before.both_classes)
    if not len(usable):
        return ()
    reference = _mean_auroc(before, usable, weights)
    effects = []
    for name, scores in images.shifted_scores.items():
        found = _mean_auroc(TaskScores(scores, before.labels, before.names), usable, weights)
        auroc = Estimate.of_run(found)
        change = Estimate.of_run(MetricDraws(found.value - reference.value, found.draws - reference.draws))
        if auroc is not None and change is not None:
            effects.append(ShiftEffect(name, auroc, change))
    return tuple(effects)


def _mean_auroc(task: TaskScores, usable: Sequence[int] | Any, weights: DrawWeights) -> MetricDraws:
    values = [METRICS["auroc"](*task.column(index)[::-1]) for index in usable]
    return MetricDraws(float(np.mean(values)), label_draws("auroc", task, weights)[1])


def worst_errors(task: TaskScores, count: int = _ERRORS) -> tuple[WorstError, ...]:
    """Find the most confident mistakes of every global label.

    Args:
        task ([`TaskScores`]):
            The global task.
        count (`int`, *optional*, defaults to 6):
            Number of false alarms, and of missed images, at most.

    Returns:
        `tuple[WorstError, ...]`: Images without the label and a score of at least one half, the highest first; then
        images with it and a lower score, the lowest first.
    """
    found = []
    for name, scores, labels in zip(task.names, task.scores.T, task.labels.T, strict=True):
        for present in (False, True):
            wrong = np.flatnonzero((labels == int(present)) & ((scores < 0.5) == present))
            order = wrong[np.argsort(scores[wrong] if present else -scores[wrong], kind="stable")][:count]
            found += [WorstError(int(row), name, present, float(scores[row])) for row in order]
    return tuple(found)


def typical_images(task: TaskScores) -> tuple[WorstError, ...]:
    """Find the correct prediction with the median score of each class of every global label.

    Args:
        task ([`TaskScores`]):
            The global task.

    Returns:
        `tuple[WorstError, ...]`: An image without the label and one with it, where any is on the right side of 0.5.
    """
    found = []
    for name, scores, labels in zip(task.names, task.scores.T, task.labels.T, strict=True):
        for present in (False, True):
            right = np.flatnonzero((labels == int(present)) & ((scores >= 0.5) == present))
            if len(right):
                row = right[np.argsort(scores[right], kind="stable")[(len(right) - 1) // 2]]
                found.append(WorstError(int(row), name, present, float(scores[row])))
    return tuple(found)
