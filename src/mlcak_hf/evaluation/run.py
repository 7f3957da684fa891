"""Evaluation of trained models on one split: a model and a split become [`ModelPredictions`]."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..configuration_mlcak import MLCAKConfig
from ..data.collator import MLCAKCollator
from ..data.columns import DatasetColumns, Targets
from ..data.sources import RadiographDataset, open_dataset, split_rows
from ..data.training_data import stored_choices
from ..errors import DatasetError, MLCAKError, RecipeError
from ..explanation.class_token import class_token_attention
from ..image_processing_mlcak import MLCAKImageProcessor
from ..pretrained import load_model, weights_digest
from ..probabilities import probabilities
from ..training.record import TRAINING_FILE, TrainingRecord
from .arguments import NO_SPLIT, EvaluatedModel, EvaluationArguments, models_to_evaluate
from .bootstrap import MIN_DRAWS
from .calibration import operating_thresholds
from .compare import choose_baseline, compare
from .comparison import Comparison
from .localisation import attention_on_boxes
from .predictions import ModelPredictions
from .scores import FloatArray, TaskScores, global_scores, local_scores


@dataclass(frozen=True)
class EvaluationData:
    """An opened dataset, its columns, and the arguments that choose its splits."""

    splits: DatasetDict
    columns: DatasetColumns
    args: EvaluationArguments

    @classmethod
    def open(cls, args: EvaluationArguments) -> EvaluationData:
        """Open the dataset."""
        splits = open_dataset(args.dataset, args.image_column)
        return cls(splits, args.columns(next(iter(splits.values())).column_names), args)

    def split(self, name: str) -> Dataset:
        """Find a split. A missing `validation` is set aside from the training rows, as training does."""
        if name in self.splits:
            return self.splits[name]
        if name == "validation" and "train" in self.splits:
            args = self.args
            return split_rows(self.splits["train"], self.columns, args.validation_fraction, args.split_seed)[1]
        raise DatasetError(
            f"{self.args.dataset} has no split {name!r}; it has {', '.join(self.splits)}. Name one of them."
        )

    def radiographs(self, name: str, config: MLCAKConfig) -> RadiographDataset:
        """Pair the rows of a split with the targets of a model."""
        rows = self.split(name)
        return RadiographDataset(rows, Targets(config, self.splits.get("train", rows), self.columns))


@dataclass(frozen=True)
class _Outputs:
    """Outputs of a model for every image of a split, in the order of the split."""

    global_task: TaskScores
    local_task: TaskScores | None
    class_attention: FloatArray | None


class _CollateForEvaluation:
    """Pixels from the saved processor, and each row's place, which puts gathered rows in order."""

    def __init__(self, processor: MLCAKImageProcessor) -> None:
        self.collator = MLCAKCollator(processor)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        pixel_values = self.collator([{"image": row["image"]} for row in rows])["pixel_values"]
        return {"pixel_values": pixel_values, "index": torch.tensor([row["index"] for row in rows])}


def run_evaluation(args: EvaluationArguments) -> Comparison | None:
    """Evaluate every model, save its predictions, and compare.

    Args:
        args ([`EvaluationArguments`]):
            What to evaluate.

    Returns:
        [`Comparison`] on the main process, `None` on the others.

    Raises:
        [`MLCAKError`]: When an argument is wrong; found before any model runs.
    """
    # Without an accelerator, several processes only find each other if told that they run on CPUs.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    models = models_to_evaluate(args.models, args.lowres)
    with accelerator.main_process_first():
        data = EvaluationData.open(args)
    check_evaluation(models, data)
    found = [evaluate_model(model, data, accelerator) for model in models]
    if not accelerator.is_main_process:
        return None
    for model in found:
        file = re.sub(r"[^\w.-]+", "-", f"{model.name} {model.run}".strip())
        model.save(Path(args.output) / "predictions" / f"{file}.npz")
    context = {
        "dataset": Path(args.dataset).name,
        "split": args.split,
        "threshold_split": args.threshold_split,
        "num_processes": accelerator.num_processes,
    }
    return compare(found, args.baseline, args.bootstrap_draws, args.seed, context)


def check_evaluation(models: Sequence[EvaluatedModel], data: EvaluationData) -> None:
    """Find mistakes that would otherwise show up after models have run, and create the output folder.

    Args:
        models (`Sequence[EvaluatedModel]`):
            What will be evaluated.
        data ([`EvaluationData`]):
            On what.

    Raises:
        [`MLCAKError`]: When a baseline, split, column, model or folder cannot be used.
    """
    args = data.args
    choose_baseline([model.name for model in models], args.baseline)
    if args.bootstrap_draws < MIN_DRAWS:
        raise RecipeError(f"--bootstrap_draws must be at least {MIN_DRAWS}; got {args.bootstrap_draws}.")
    for name in (args.split, args.threshold_split):
        if name != NO_SPLIT:
            data.split(name)
    rows = data.split(args.split)
    stored_fit = stored_choices(args.dataset).get("fit")
    for model in models:
        processor = model.load_processor()
        Targets(model.load_config(), data.splits.get("train", rows), data.columns)
        if stored_fit is not None and processor.fit != stored_fit:
            raise DatasetError(
                f"{model.role} ({model.folder}) makes squares with fit {processor.fit!r}, but {args.dataset} was "
                f"prepared with {stored_fit!r}. Evaluate it on a dataset prepared like the one it was trained on."
            )
        if args.threshold_split == "validation" and "validation" not in data.splits:
            _check_split_rule(model, args)
    folder = Path(args.output) / "predictions"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK) and os.access(folder.parent, os.W_OK)
    except OSError as error:
        raise RecipeError(f"--output {args.output} cannot be created ({error}). Name another folder.") from error
    if not writable:
        raise RecipeError(f"--output {args.output} is not writable. Name another folder.")


def _check_split_rule(model: EvaluatedModel, args: EvaluationArguments) -> None:
    """Refuse thresholds from images that the model was trained on, because its validation rows were different ones."""
    if not (Path(model.folder) / TRAINING_FILE).is_file():
        return
    trained = TrainingRecord.load(model.folder).content["data"]
    used = {name: trained.get(name) for name in ("validation_fraction", "split_seed")}
    same_dataset = Path(str(trained["dataset"])).name == Path(args.dataset).name
    if same_dataset and used != {name: getattr(args, name) for name in used}:
        options = " ".join(f"--{name} {value}" for name, value in used.items())
        raise DatasetError(
            f"The validation rows must be those of {model.role}, which was trained with {options}; with others, "
            f"thresholds would come from training images. Add {options}."
        )


def evaluate_model(model: EvaluatedModel, data: EvaluationData, accelerator: Accelerator) -> ModelPredictions:
    """Evaluate one model: probabilities, thresholds from validation, attention on boxes.

    Args:
        model ([`EvaluatedModel`]):
            What to evaluate.
        data ([`EvaluationData`]):
            On what.
        accelerator (`Accelerator`):
            The processes that share the images.

    Returns:
        [`ModelPredictions`]
    """
    args, columns, processor = data.args, data.columns, model.load_processor()
    network: Any = load_model(model.folder, model.role)
    network = network.eval().to(accelerator.device)
    rows = data.split(args.split)
    with_boxes = {"boxes", "original_height", "original_width"} <= set(rows.column_names)
    loader = _loader(data, args.split, network.config, processor)
    outputs = _outputs(network, loader, accelerator, with_attention=with_boxes)
    thresholds = None
    if args.threshold_split != NO_SPLIT:
        loader = _loader(data, args.threshold_split, network.config, processor)
        thresholds = operating_thresholds(_outputs(network, loader, accelerator).global_task)
    image_size = network.config.image_size
    localisation = None
    if outputs.class_attention is not None:
        localisation = attention_on_boxes(outputs.class_attention, rows, image_size, processor.fit)
    return ModelPredictions(
        name=model.name,
        image_ids=rows[columns.image_id] if columns.image_id else [str(index) for index in range(len(rows))],
        global_task=outputs.global_task,
        local_task=outputs.local_task,
        groups=rows[columns.group] if columns.group else None,
        run=model.run,
        thresholds=thresholds,
        localisation=localisation,
        # The record may be published, so only the last part of a local path is kept.
        details={
            "folder": Path(model.folder).name,
            "image_size_px": image_size,
            "lowres_px": model.lowres,
            "weights": weights_digest(model.folder),
        },
    )


def _loader(
    data: EvaluationData, split: str, config: MLCAKConfig, processor: MLCAKImageProcessor
) -> DataLoader[dict[str, Any]]:
    return DataLoader(
        data.radiographs(split, config),
        batch_size=data.args.batch_size,
        num_workers=data.args.num_workers,
        collate_fn=_CollateForEvaluation(processor),
    )


def _outputs(
    model: Any, loader: DataLoader[dict[str, Any]], accelerator: Accelerator, with_attention: bool = False
) -> _Outputs:
    """Run a model over a split, shared among the processes."""
    dataset: Any = loader.dataset
    gathered: dict[str, list[np.ndarray]] = {}
    quiet = not accelerator.is_main_process
    for batch in tqdm(accelerator.prepare(loader), unit="batch", leave=False, disable=quiet or None):
        with torch.inference_mode(), accelerator.autocast():
            output = model(batch["pixel_values"], output_attentions=with_attention)
        found = {"index": batch["index"], "logits": output.logits.float()}
        if output.local_logits is not None:
            found["local_logits"] = output.local_logits.float()
        if with_attention:
            # Only the class token's row travels between processes: the whole map is its square.
            found["attention"] = output.mlcak[:, :1].float()
        for name, values in accelerator.gather_for_metrics(found).items():
            gathered.setdefault(name, []).append(values.cpu().numpy())
    arrays = {name: np.concatenate(parts) for name, parts in gathered.items()}
    order = np.argsort(arrays["index"])
    if not np.array_equal(arrays["index"][order], np.arange(len(dataset))):
        raise MLCAKError(f"The processes must return the {len(dataset)} rows of the split; got {len(order)}.")
    arrays = {name: values[order] for name, values in arrays.items()}
    config = model.config
    names, problem_type = config.global_labels, str(config.problem_type)
    scores = probabilities(arrays["logits"], problem_type)
    local = attention = None
    if "local_logits" in arrays:
        scores_local = probabilities(arrays["local_logits"])
        local = local_scores(scores_local, dataset.targets["local_targets"], config.local_labels)
    if with_attention:
        attention = class_token_attention(arrays["attention"], model.num_prefix_tokens, model.grid_size)
    return _Outputs(global_scores(scores, dataset.targets["labels"], names, problem_type), local, attention)
