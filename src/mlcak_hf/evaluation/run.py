"""Evaluation of trained models on one split: a model and a split become [`ModelPredictions`]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.collator import MLCAKCollator
from ..data.decoded_images import image_digest
from ..data.training_data import stored_choices
from ..errors import DatasetError, MLCAKError, RecipeError
from ..explanation.class_token import class_token_attention
from ..image_processing_mlcak import MLCAKImageProcessor
from ..pretrained import load_model
from ..probabilities import probabilities
from ..training.training_images import check_shared_split, training_hits
from ..trust.reference import captured_class_tokens
from ..weights import weights_digest
from .arguments import NO_SPLIT, EvaluatedModel, EvaluationArguments, EvaluationData, models_to_evaluate
from .bootstrap import MIN_DRAWS
from .calibration import operating_thresholds
from .compare import compare
from .comparison import Comparison, choose_pairs
from .localisation import attention_on_boxes, has_boxes
from .predictions import ModelPredictions
from .scores import FloatArray, TaskScores, global_scores, local_scores


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
    # Without an accelerator, several processes find each other only with `cpu=True`.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    models = models_to_evaluate(args.models, args.lowres)
    with accelerator.main_process_first():
        data = EvaluationData.open(args, models)
    check_evaluation(models, data)
    args = data.args
    found = [evaluate_model(model, data, accelerator) for model in models]
    if not accelerator.is_main_process:
        return None
    for model, predictions in zip(models, found, strict=True):
        predictions.save(Path(args.output) / "predictions" / f"{model.file_stem}.npz")
    shared = data.shared_patients
    context = args.context | {"num_processes": accelerator.num_processes, "shared_patients": shared}
    return compare(found, args.baseline, args.bootstrap_draws, args.seed, context, args.named_pairs)


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
    choose_pairs(list(dict.fromkeys(model.name for model in models)), args.baseline, args.named_pairs)
    if args.bootstrap_draws < MIN_DRAWS:
        raise RecipeError(f"--bootstrap_draws must be at least {MIN_DRAWS}; got {args.bootstrap_draws}.")
    check_models(models, data)
    names = data.image_names(args.split)
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise DatasetError(
            f"Every image must have its own id; {twice!r} occurs more than once in the column "
            f"{data.columns.image_id!r}. Name another one with --image_id_column, or none to number the images."
        )
    folder = Path(args.output) / "predictions"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for writable in (folder, folder.parent):
            TemporaryFile(dir=writable).close()
    except OSError as error:
        raise RecipeError(f"--output {args.output} cannot be written ({error}). Name another folder.") from error


def check_models(models: Sequence[EvaluatedModel], data: EvaluationData) -> None:
    """Check that models can be evaluated on the splits that were named.

    Args:
        models (`Sequence[EvaluatedModel]`):
            What will be evaluated.
        data ([`EvaluationData`]):
            On what.

    Raises:
        [`MLCAKError`]: When a split is missing, or a model was trained with other rows or another `fit`.
    """
    args = data.args
    for name in {args.split, args.threshold_split} - {NO_SPLIT}:
        data.split(name)
    split_off = "validation" not in data.splits and "validation" in (args.split, args.threshold_split)
    split_off = split_off or args.split == "fold"
    train = data.split(args.split) if data.whole_train is None else data.whole_train
    stored_fit = stored_choices(args.dataset).get("fit")
    for model in models:
        check_shared_split(model.folder, model.role, args, train, split_off)
        fit = model.load_processor().fit
        data.radiographs(args.split, model.load_config())
        if stored_fit not in (None, fit):
            raise DatasetError(
                f"{model.role} ({model.folder}) makes squares with fit {fit!r}, but {args.dataset} was prepared with "
                f"{stored_fit!r}. Evaluate it on a dataset prepared like the one it was trained on."
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
    network: Any = load_model(model.folder, model.role)
    network.to(accelerator.device)
    return evaluate_network(network, model, data, accelerator)[0]


def evaluate_network(
    network: Any, model: EvaluatedModel, data: EvaluationData, accelerator: Accelerator
) -> tuple[ModelPredictions, SplitOutputs]:
    """Evaluate a loaded model.

    Args:
        network ([`MLCAKForCXRClassification`]):
            The model, on the device of the accelerator.
        model, data, accelerator:
            As for [`evaluate_model`].

    Returns:
        `tuple[ModelPredictions, SplitOutputs]`: The predictions, and all outputs for the evaluated images.
    """
    args, columns, processor = data.args, data.columns, model.load_processor()
    rows, size = data.split(args.split), network.config.image_size
    with_attention = has_boxes(rows) and network.config.has_attention
    found = split_outputs(network, processor, data, args.split, accelerator, with_attention)
    digests, thresholds, attention = {"evaluated": map(bytes, found.digests)}, None, found.attention
    if args.threshold_split != NO_SPLIT:
        validation = split_outputs(network, processor, data, args.threshold_split, accelerator)
        digests["thresholds"], thresholds = map(bytes, validation.digests), operating_thresholds(validation.global_task)
    predictions = ModelPredictions(
        name=model.name,
        image_ids=data.image_names(args.split),
        global_task=found.global_task,
        local_task=found.local_task,
        groups=rows[columns.group] if columns.group else None,
        run=model.run,
        thresholds=thresholds,
        localisation=None if attention is None else attention_on_boxes(attention, rows, size, processor.fit),
        # The record may be published, so only the last part of a local path is kept.
        details={
            "trained_on": training_hits(model.folder, digests),
            "folder": Path(model.folder).name,
            "image_size_px": size,
            "lowres_px": model.lowres,
            "weights": weights_digest(model.folder),
        },
    )
    return predictions, found


class SplitOutputs(NamedTuple):
    """What a model gives for the images of a split, in the order of its rows.

    Args:
        global_task ([`TaskScores`]):
            Probabilities and labels of the global task.
        local_task ([`TaskScores`], *optional*):
            The same for the findings; `None` for a model without a local head.
        attention (`np.ndarray` of shape `(n, rows, columns)`, *optional*):
            The class token's attention over the patches, if it was asked for.
        digests (`np.ndarray` of shape `(n, 16)`):
            [`image_digest`] of every image.
        class_tokens (`np.ndarray` of shape `(n, width)`):
            The class token after the final norm, which both heads take.
    """

    global_task: TaskScores
    local_task: TaskScores | None
    attention: FloatArray | None
    digests: np.ndarray
    class_tokens: np.ndarray


def split_outputs(
    network: Any,
    processor: MLCAKImageProcessor,
    data: EvaluationData,
    split: str,
    accelerator: Accelerator,
    with_attention: bool = False,
) -> SplitOutputs:
    """Run a model over a split. The images are shared among the processes.

    Args:
        network ([`MLCAKForCXRClassification`]):
            The model, on the device of the accelerator.
        processor ([`MLCAKImageProcessor`]):
            Its image processor.
        data ([`EvaluationData`]):
            The opened dataset.
        split (`str`):
            Name of the split.
        accelerator (`Accelerator`):
            The processes.
        with_attention (`bool`, *optional*, defaults to `False`):
            Whether to return the class token's attention.

    Returns:
        [`SplitOutputs`]
    """
    config, args = network.config, data.args
    dataset, collate = data.radiographs(split, config), partial(_collate, MLCAKCollator(processor))
    loader = DataLoader(dataset, args.batch_size, num_workers=args.num_workers, collate_fn=collate)
    gathered: dict[str, list[np.ndarray]] = {}
    quiet = not accelerator.is_main_process
    for batch in tqdm(accelerator.prepare(loader), unit="batch", leave=False, disable=quiet or None):
        with torch.inference_mode(), accelerator.autocast(), captured_class_tokens(network) as tokens:
            output = network(batch["pixel_values"], output_attentions=with_attention)
        found = {"index": batch["index"], "digest": batch["digest"], "logits": output.logits.float()}
        found["class_token"] = tokens[0].float()
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
    problem_type = str(config.problem_type)
    scores, targets = probabilities(arrays["logits"], problem_type), dataset.targets
    local = attention = None
    if "local_logits" in arrays:
        local = local_scores(probabilities(arrays["local_logits"]), targets["local_targets"], config.local_labels)
    if with_attention:
        attention = class_token_attention(arrays["attention"], config.num_prefix_tokens, network.grid_size)
    global_task = global_scores(scores, targets["labels"], config.global_labels, problem_type)
    return SplitOutputs(global_task, local, attention, arrays["digest"], arrays["class_token"])


def _collate(collator: MLCAKCollator, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Pixels, their digests, and each row's place in the split, which puts gathered rows in order."""
    digests = torch.tensor([list(image_digest(row["image"])) for row in rows], dtype=torch.uint8)
    return collator(rows) | {"index": torch.tensor([row["index"] for row in rows]), "digest": digests}
