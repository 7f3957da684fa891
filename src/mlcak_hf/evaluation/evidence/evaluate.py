"""`mlcak evaluate`: one model and one dataset become the record of the report, and the pictures of its errors."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator

from ... import __version__
from ...data.columns import column_values
from ...data.training_data import stored_choices
from ...errors import RecipeError
from ...image_processing_mlcak import MLCAKImageProcessor
from ...pretrained import load_model
from ...shipped import resolve_checkpoint
from ...training.record import TrainingRecord
from ...trust.operating_points import OperatingPoints
from ...trust.reference import Reference
from ...weights import weights_digest
from ..arguments import EvaluatedModel, EvaluationArguments, EvaluationData, overlapping_splits
from ..explanations.map_report import Explanations
from ..metrics import SPECIFICITY
from ..run import check_evaluation, evaluate_network
from .data_choice import open_for_model, renamed_labels
from .decision_points import ChosenThreshold, thresholds_of_model
from .image_pass import PassOptions, pass_over_images, sizes_before_padding
from .measure import Measurement, measure
from .pictures import Pictures, draw_pictures
from .record import Evidence
from .requirements import Requirement
from .self_check import SelfCheck
from .subgroups import check_subgroup_columns


@dataclass(frozen=True)
class EvidenceOptions:
    """Choices of `mlcak evaluate` that a comparison does not have.

    Args:
        subgroups (`Sequence[str]`, *optional*):
            Columns to divide the images by.
        prevalence (`float`, *optional*):
            For predictive values and net benefit; by default that of the images.
        renamed (`Sequence[str]`, *optional*):
            `name=label` for names in the label column that the model calls differently.
        requirements (`Sequence[str]`, *optional*):
            What the model must reach.
        shifted_images (`int`, *optional*, defaults to 500):
            Images that are perturbed to measure robustness, at most; 0 for none.
        pictures (`bool`, *optional*, defaults to `True`):
            Whether to make pictures of the worst errors, and of explanation maps.
        explanations (`str` or `Path`, *optional*):
            The explanations.json of `measure_explanations.py`, measured with the weights of the model.
    """

    subgroups: Sequence[str] = ()
    prevalence: float | None = None
    renamed: Sequence[str] = ()
    requirements: Sequence[str] = ()
    shifted_images: int = 500
    pictures: bool = True
    explanations: str | Path | None = None
    parsed: tuple[Requirement, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise RecipeError(f"--prevalence must be between 0 and 1, both excluded; got {self.prevalence}.")
        object.__setattr__(self, "parsed", tuple(map(Requirement.parse, self.requirements)))


def evaluate_evidence(model: str, args: EvaluationArguments, options: EvidenceOptions) -> tuple[Evidence, Pictures]:
    """Evaluate one model on one dataset.

    Args:
        model (`str`):
            Folder or Hub id of the model.
        args ([`EvaluationArguments`]):
            Dataset, columns and folder. Without a split, it is chosen by [`choose_split`].
        options ([`EvidenceOptions`]):
            What to measure.

    Returns:
        `tuple[Evidence, Pictures]`: The record, and the pictures of the report.

    Raises:
        [`MLCAKError`]: When an option is wrong; found before the model runs.
    """
    model = resolve_checkpoint(model)
    is_local = Path(model).is_dir()
    one = EvaluatedModel(Path(model).resolve().name if is_local else model, model)
    config = one.load_config()
    for requirement in options.parsed:
        requirement.check_name(config)
    explanations = None
    if options.explanations is not None:
        explanations = Explanations.from_json(options.explanations).of_weights(weights_digest(model))
    data = open_for_model(args, one)
    data = replace(data, splits=renamed_labels(data, config.global_labels, options.renamed))
    check_evaluation([one], data)
    args, rows = data.args, data.split(data.args.split)
    check_subgroup_columns(rows, options.subgroups)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    network: Any = load_model(model, one.role)
    network.to(accelerator.device)
    predictions, outputs = evaluate_network(network, one, data, accelerator)
    predictions.save(Path(args.output) / "predictions" / "predictions.npz")
    processor = one.load_processor()
    dataset = data.radiographs(args.split, config)
    passing = PassOptions(
        sizes=sizes_before_padding(rows, stored_choices(args.dataset).get("fit")),
        reference=Reference.load(model) if is_local else None,
        most_shifted=options.shifted_images,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
    )
    images = pass_over_images(network, processor, dataset, outputs.class_tokens, passing)
    split_name = "the whole file" if len(data.splits) == 1 and args.split in data.splits else f"the split {args.split}"
    names, points = predictions.global_task.names, OperatingPoints.load(model) if is_local else None
    splits = overlapping_splits(args.split, data.splits)
    chosen = {name: thresholds_of_model(points, name, Path(args.dataset).name, splits) for name in names}
    if predictions.thresholds is not None:
        rule = f"{100 * SPECIFICITY:.0f} % specificity on the split {args.threshold_split}"
        for name, threshold in zip(names, predictions.thresholds, strict=True):
            chosen[name] += [ChosenThreshold(rule, float(threshold))] if np.isfinite(threshold) else []
    wanted = Measurement(
        n_draws=args.bootstrap_draws,
        seed=args.seed,
        prevalence=options.prevalence,
        subgroups={name: column_values(rows, name) for name in options.subgroups},
        thresholds=chosen,
        context=args.context | {"images": split_name, "shared_patients": data.shared_patients},
        facts=_facts(one, network, processor, data),
    )
    self_check = SelfCheck.of_model(network, processor, predictions.details["weights"])
    evidence = replace(measure(predictions, images, self_check, wanted), explanations=explanations)
    return evidence, draw_pictures(evidence, network, processor, dataset) if options.pictures else Pictures()


def _facts(model: EvaluatedModel, network: Any, processor: MLCAKImageProcessor, data: EvaluationData) -> dict[str, Any]:
    """Collect what the checklist needs; without folders and without text about patients."""
    config, args = network.config, data.args
    trained: dict[str, Any] = {}
    if model.training_options:
        content = TrainingRecord.load(model.folder).content
        arguments, entry = content["arguments"], content["model"]
        trained = {
            "dataset": content["data"].get("dataset"),
            "images": content["train"]["rows"],
            "validation_images": content["validation"]["rows"],
            "initial_weights": entry.get("backbone") or entry.get("initial_weights"),
            "teachers": (entry.get("teacher") or [entry.get("teacher_cache")]) if entry.get("distilled") else [],
            "epochs": content["epochs"],
            "steps": content["steps"],
            "learning_rate": arguments.get("learning_rate"),
            "optimizer": arguments.get("optim"),
            "seed": arguments.get("seed"),
            "chosen_by": arguments.get("metric_for_best_model") if arguments.get("load_best_model_at_end") else None,
        }
    return {
        "model": model.name,
        "backbone": config.backbone_config.model_type,
        "layers": config.backbone_config.num_hidden_layers,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "image_size_px": config.image_size,
        "fit": processor.fit,
        "voi": processor.voi,
        "lowres_px": processor.lowres,
        "global_labels": list(config.global_labels),
        "trained": trained,
        "label_column": data.columns.label,
        "group_column": data.columns.group,
        "preparation": {
            name: value
            for name, value in stored_choices(args.dataset).items()
            if isinstance(value, str | int | float | bool) and "/" not in str(value)
        },
        "software": {
            "mlcak-hf": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
