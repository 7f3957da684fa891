"""Choose temperatures, thresholds and the reference of a trained model, on images that it was not trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from ..data.columns import column_values
from ..errors import LabelError, MLCAKError, RecipeError
from ..evaluation.arguments import EvaluatedModel, EvaluationArguments, EvaluationData
from ..evaluation.calibration import calibration_floor, reliability
from ..evaluation.evidence.data_choice import findings_may_be_missing, renamed_labels
from ..evaluation.run import SplitOutputs, split_outputs
from ..evaluation.scores import TaskScores
from ..pretrained import load_model
from ..training.training_images import TrainingImages
from ..trust.operating_points import LabelPoints, OperatingPoints, PointTargets, choose_temperatures
from ..trust.reference import Reference
from ..weights import weights_digest

GLOBAL, FINDING = "global", "finding"


@dataclass(frozen=True)
class CalibrationChoices:
    """Where operating points come from, and what they are for.

    Args:
        split (`str`, *optional*, defaults to `"validation"`):
            Split that temperatures and thresholds are chosen on.
        reference (`str`, *optional*):
            Split of training images to fit the reference to; `None` for none.
        test_split (`str`, *optional*):
            Split to measure the calibration on, besides `split`.
        targets ([`PointTargets`], *optional*):
            What the thresholds are for.
        false_refusals (`float`, *optional*, defaults to 0.05):
            Share of images like those of `split` that the reference refuses.
        renamed (`Sequence[str]`, *optional*):
            `name=label` for names in the label column that the model calls differently.
    """

    split: str = "validation"
    reference: str | None = None
    test_split: str | None = None
    targets: PointTargets = field(default_factory=PointTargets)
    false_refusals: float = 0.05
    renamed: Sequence[str] = ()


@dataclass(frozen=True)
class CalibrationRow:
    """Calibration of one head on one split, before or after the temperature.

    `floor` and `floor_95` are mean and 95th percentile of the error that perfect probabilities would have by chance.
    """

    head: str
    split: str
    images: int
    temperature: float | None
    brier: float
    error: float
    floor: float
    floor_95: float


@dataclass(frozen=True)
class TriageRow:
    """What the triage limits of a label gave on one split: shares of its positives, of its negatives and of all images.

    `positives_low` and `negatives_high` are the errors that the limits bound.
    """

    label: str
    split: str
    positives_low: float
    negatives_high: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibrated:
    """What `mlcak calibrate` found.

    Args:
        points ([`OperatingPoints`]):
            Temperatures and thresholds.
        reference ([`Reference`], *optional*):
            The reference, if one was fitted.
        calibration (`tuple[CalibrationRow, ...]`):
            Calibration before and after, by head and split.
        triage (`tuple[TriageRow, ...]`):
            What the triage limits gave, by label and split.
        left_out (`dict[str, int]`):
            Images of each split that the model was trained on, and which were left out.
    """

    points: OperatingPoints
    reference: Reference | None
    calibration: tuple[CalibrationRow, ...]
    triage: tuple[TriageRow, ...]
    left_out: dict[str, int]


@dataclass(frozen=True)
class _Held:
    """Outputs of a split without the images that the model was trained on."""

    heads: dict[str, TaskScores]
    groups: Sequence[Any] | None
    class_tokens: NDArray[Any]
    digests: set[bytes]
    left_out: int


def calibrate_model(folder: str | Path, args: EvaluationArguments, choices: CalibrationChoices) -> Calibrated:
    """Choose the operating points of a model. Its weights do not change, and nothing is written.

    Args:
        folder (`str` or `Path`):
            Folder of the model.
        args ([`EvaluationArguments`]):
            The dataset and its columns.
        choices ([`CalibrationChoices`]):
            Splits and targets.

    Returns:
        [`Calibrated`]

    Raises:
        [`MLCAKError`]: When the folder has no weights, a split is missing, or every image was trained on.
    """
    model = EvaluatedModel(Path(folder).resolve().name, str(folder))
    digest = weights_digest(folder) if Path(folder).is_dir() else None
    if digest is None:
        raise RecipeError(f"The model must be a local folder with weights; got {folder}. Copy or download it first.")
    if not os.access(folder, os.W_OK):
        raise RecipeError(
            f"The folder of the model must be writable; {folder} is not. Copy it, and calibrate the copy."
        )
    data = findings_may_be_missing(EvaluationData.open(replace(args, split=choices.split), [model]))
    config = model.load_config()
    data = replace(data, splits=renamed_labels(data, config.global_labels, choices.renamed))
    for name in filter(None, (choices.split, choices.test_split)):
        _check_labels(data.radiographs(name, config).targets, [*config.global_labels, *config.local_labels], name)
    if choices.reference is not None:
        data.split(choices.reference)
    processor, accelerator = model.load_processor(), Accelerator(cpu=not torch.accelerator.is_available())
    network: Any = load_model(model.folder, model.role)
    network.to(accelerator.device)
    known = TrainingImages.load(folder)
    held: dict[str, _Held] = {}
    for split in dict.fromkeys(filter(None, (choices.split, choices.test_split))):
        found = split_outputs(network, processor, data, split, accelerator)
        held[split] = _held_out(found, known, data, split)
    chosen = held[choices.split]
    problem_type = str(network.config.problem_type)
    temperatures = choose_temperatures(
        {head: (task.scores, task.labels) for head, task in chosen.heads.items()}, problem_type
    )
    points = OperatingPoints(
        weights=digest,
        dataset=Path(args.dataset).name,
        split=choices.split,
        n_images=len(chosen.class_tokens),
        targets=choices.targets,
        labels={
            f"{head}/{name}": LabelPoints.choose(
                task.scores[:, column], task.labels[:, column], choices.targets, chosen.groups
            )
            for head, task in chosen.heads.items()
            for column, name in enumerate(task.names)
        },
        temperatures=temperatures,
        problem_type=problem_type,
    )
    reference = None
    if choices.reference is not None:
        training = split_outputs(network, processor, data, choices.reference, accelerator)
        # The validation rows may have been split off from these; where the training images are known, only they count.
        rows = [
            bytes(image) not in chosen.digests and (known is None or known.count([bytes(image)]) > 0)
            for image in training.digests
        ]
        reference = Reference.fit(
            training.class_tokens[rows], chosen.class_tokens, digest, points.dataset, choices.false_refusals
        )
    return Calibrated(
        points,
        reference,
        tuple(row for split, of in held.items() for row in measured_calibration(points, of.heads, split)),
        tuple(row for split, of in held.items() for row in measured_triage(points, of.heads, split)),
        {split: of.left_out for split, of in held.items()},
    )


def measured_calibration(points: OperatingPoints, heads: dict[str, TaskScores], split: str) -> list[CalibrationRow]:
    """Measure the calibration of each head that has a temperature, before and after.

    Args:
        points ([`OperatingPoints`]):
            The temperatures.
        heads (`dict[str, TaskScores]`):
            Scores by head.
        split (`str`):
            Name of the split.
    """
    rows = []
    for head, task in heads.items():
        calibrated = points.calibrated(head, task.scores)
        for temperature, scores in ((None, task.scores), (points.temperatures.get(head), calibrated)):
            if scores is None:
                continue
            measured = TaskScores(scores, task.labels, task.names)
            floor, known = calibration_floor(measured), task.labels >= 0
            columns = [measured.column(index) for index in np.flatnonzero(known.any(axis=0))]
            if floor is None:
                continue
            error = float(np.mean([reliability(*column).expected_calibration_error for column in columns]))
            brier = float(np.mean([np.mean((column - labels) ** 2) for column, labels in columns]))
            rows.append(
                CalibrationRow(head, split, len(task), temperature, brier, error, floor.mean, floor.percentile_95)
            )
    return rows


def measured_triage(points: OperatingPoints, heads: dict[str, TaskScores], split: str) -> list[TriageRow]:
    """Measure the triage of each label that has limits, and both classes.

    Args:
        points ([`OperatingPoints`]):
            The limits.
        heads (`dict[str, TaskScores]`):
            Scores by head.
        split (`str`):
            Name of the split.
    """
    rows = []
    for head, task in heads.items():
        for column, name in enumerate(task.names):
            label, (scores, labels) = points.labels[f"{head}/{name}"], task.column(column)
            called = np.array([label.triage(score) for score in scores.tolist()])
            if not called.any() or len(np.unique(labels)) < 2:
                continue
            low, high = called == "low", called == "high"
            errors = float(low[labels == 1].mean()), float(high[labels == 0].mean())
            rows.append(TriageRow(f"{head}/{name}", split, *errors, float(low.mean()), float(high.mean())))
    return rows


def _check_labels(targets: Mapping[str, NDArray[Any]], known: Sequence[str], split: str) -> None:
    if not any((values >= 0).any() for values in targets.values()):
        raise LabelError(
            f"The split {split!r} must have labels of the model's {', '.join(known)}; it has none. Name their column "
            "with --label_column or --findings_column."
        )


def _held_out(found: SplitOutputs, known: TrainingImages | None, data: EvaluationData, split: str) -> _Held:
    """Leave out the images that the model was trained on."""
    kept = np.array([known is None or not known.count([bytes(image)]) for image in found.digests], dtype=bool)
    if not kept.any():
        raise MLCAKError(
            f"The split {split!r} must hold images that the model was not trained on; it was trained on all "
            f"{len(kept)}. Name another split or dataset."
        )
    heads = {GLOBAL: found.global_task.take(kept)}
    if found.local_task is not None:
        heads[FINDING] = found.local_task.take(kept)
    column = data.columns.group
    groups = (
        None
        if column is None
        else [value for value, keep in zip(column_values(data.split(split), column), kept, strict=True) if keep]
    )
    return _Held(heads, groups, found.class_tokens[kept], set(map(bytes, found.digests[kept])), int((~kept).sum()))
