"""A model card made from measured numbers: what was not measured or recorded says so."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig, PreTrainedConfig

from ..errors import DeploymentError
from ..image_processing_mlcak import MLCAKImageProcessor
from ..pretrained import load_processor, loading, weights_digest
from ..shipped import hub_configs_dir
from ..training.record import TRAINING_FILE, TrainingRecord, without_folders
from .measurements import Evaluation

_REMEDY = "Name the folder that a training script wrote."
_TAGS = ("chest-xray", "medical", "mlcak", "knowledge-distillation", "vision-transformer", "low-resolution")


def create_model_card(
    config: PreTrainedConfig,
    processor: MLCAKImageProcessor | None = None,
    *,
    model_name: str,
    model_id: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    training: Mapping[str, Any] | None = None,
    evaluation: Evaluation | None = None,
    limits: Sequence[str] = (),
) -> ModelCard:
    """Make the model card of a teacher or student.

    Args:
        config: The model's configuration.
        processor: Its processor.
        model_name: Name of the model; also that of the entry in the `model-index`.
        model_id: Where the model will be found, for the snippets: `"your-name/model"` or a folder; its name by default.
        base_model: Hub id of the checkpoint that the training started from; None if it started from scratch.
        datasets: Hub ids of the training datasets; a dataset that is not on the Hub is named in `training`.
        training: What was trained on what and how, in the order to be shown. Of paths, only the last part is shown: a
            card is public, the folders of a machine are not.
        evaluation: Measured numbers, from [`Evaluation.from_comparison`]; without them the card says "not measured".
        limits: Sentences about limits of this very model, ahead of those that hold for all.

    Returns:
        The card, with metadata for the Hub; `card.save(folder / "README.md")` writes it.
    """
    results = _eval_results(evaluation)
    metadata = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=list(_TAGS),
        base_model=base_model,
        datasets=list(datasets) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=model_name if results else None,
        eval_results=results or None,
    )
    template = (hub_configs_dir() / "model_card_template.md").read_text(encoding="utf-8")
    # Not ModelCard.from_template: it neither trims the lines of block tags nor refuses a misspelt name.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    content = environment.from_string(template).render(
        card_data=metadata.to_yaml(),
        model_name=model_name,
        model_id=model_id or model_name,
        config=config,
        backbone=config.backbone_config,
        processor=processor,
        single_label=config.problem_type == "single_label_classification",
        global_labels=", ".join(config.global_labels),
        findings=list(config.local_labels),
        training=without_folders(training or {}),
        evaluation=evaluation,
        cell=_cell,
        limits=[*limits, *_limits(config, evaluation)],
    )
    return ModelCard(content)


def card_for_folder(
    folder: str | os.PathLike[str],
    comparison: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    row: str | None = None,
    *,
    model_name: str | None = None,
    model_id: str | None = None,
    limits: Sequence[str] = (),
) -> ModelCard:
    """Make the card of the model in a folder from what lies there: configuration, processor and training.json.

    Args:
        folder: What a training script wrote. Without a training.json the card says that the training was not recorded.
        comparison: The comparison.json that has the model among its rows; without it the card says "not measured".
        row: Name of the model's row; by default the folder's name.
        model_name: Name of the model; by default the folder's name.
        model_id: Where the model will be found, for the snippets; by default `model_name`.
        limits: Sentences about limits of this very model.

    Returns:
        The card; `card.save(folder / "README.md")` writes it.

    Raises:
        DeploymentError: If the folder holds no MLCAK model, one of the files is not what it must be, or the row was
            measured with other weights than the folder's.
    """
    folder = Path(folder)
    name = model_name or folder.resolve().name
    for file in ("config.json", "preprocessor_config.json"):
        if not (folder / file).is_file():
            raise DeploymentError(f"{folder} has no {file}: name the folder that a training script wrote.")
    with loading(folder, remedy=_REMEDY, error=DeploymentError):
        config = AutoConfig.from_pretrained(folder)
    if config.model_type != "mlcak":
        raise DeploymentError(f"{folder} holds a model of type {config.model_type!r}, expected 'mlcak'.")
    processor = load_processor(folder, config, error=DeploymentError)
    evaluation = None
    if comparison is not None:
        row = row or folder.resolve().name
        evaluation = Evaluation.from_comparison(comparison, row)
        _check_is_of(evaluation, row, folder, config, processor)
    training = TrainingRecord.load(folder) if (folder / TRAINING_FILE).is_file() else None
    card = create_model_card(
        config,
        processor,
        model_name=name,
        model_id=model_id,
        base_model=training.base_model if training else None,
        training=training.rows if training else None,
        evaluation=evaluation,
        limits=[*limits, *(training.limits if training else ())],
    )
    # A later training in this folder recognizes by it that the card describes other weights.
    card.data["weights_sha256"] = weights_digest(folder)
    return card


def _check_is_of(
    evaluation: Evaluation, row: str, folder: Path, config: PreTrainedConfig, processor: MLCAKImageProcessor
) -> None:
    """Refuse the numbers of another model, as far as the evaluation recorded whose they are."""
    remedy = "name this model's row (--row), or evaluate it again."
    if evaluation.image_size_px not in (None, config.image_size):
        raise DeploymentError(
            f"The numbers of row {row!r} are of a model for {evaluation.image_size_px} px images, but {folder} takes "
            f"{config.image_size} px: {remedy}"
        )
    if evaluation.lowres_px not in (None, processor.lowres):
        raise DeploymentError(
            f"The numbers of row {row!r} are of images that were reduced to {evaluation.lowres_px} px first, which "
            f"{folder} does not do by itself: {remedy}"
        )
    recorded = evaluation.weights and None not in evaluation.weights
    if recorded and weights_digest(folder) not in evaluation.weights:
        raise DeploymentError(
            f"The numbers of row {row!r} were measured with other weights than those in {folder}: {remedy}"
        )


def _eval_results(evaluation: Evaluation | None) -> list[EvalResult]:
    """The measurements as entries of the `model-index`, intervals in their names."""
    if evaluation is None:
        return []
    slug = re.sub(r"[^a-z0-9]+", "-", evaluation.dataset.lower()).strip("-") or "unnamed"
    results = []
    for measured in evaluation.measurements():
        if measured.metric is None:
            continue
        interval = measured.interval
        of_interval = "" if interval is None else f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
        results.append(
            EvalResult(
                task_type="image-classification",
                task_name="Chest radiograph classification",
                dataset_type=slug,
                dataset_name=evaluation.dataset,
                dataset_split=evaluation.split,
                metric_type=measured.metric,
                metric_name=measured.title + of_interval,
                metric_value=round(measured.value, 4),
            )
        )
    return results


def _limits(config: PreTrainedConfig, evaluation: Evaluation | None) -> list[str]:
    """Limits that follow from what the model is and from what was, or was not, measured."""
    size = config.image_size
    limits = [
        f"The model sees {size} x {size} pixels. Findings that are small on the original, such as nodules, thin "
        "pneumothorax lines and fine fibrosis, may be gone from such an image.",
        "Attention maps show where the class token looked. They are no localisation and no explanation of a disease.",
        "No decision threshold comes with the model. Choose one on validation data of your own, for the sensitivity or "
        "specificity that you need; 0.5 is not such a choice.",
    ]
    if evaluation is None:
        limits.append("Neither discrimination nor calibration was measured: its outputs are scores, not probabilities.")
        return limits
    if "calibration_error_global" in evaluation.overall:
        limits.append(
            "Calibration was measured for the global task, on this test set's share of abnormal images; elsewhere the "
            "share differs, and the outputs are off by it. Findings' outputs are scores, not probabilities."
        )
    else:
        limits.append("Calibration was not measured: its outputs are scores, not probabilities.")
    limits.append(
        f"All numbers are for the {evaluation.split} split of {evaluation.dataset} only; elsewhere expect others. The "
        "intervals are over its images and say nothing about other hospitals."
    )
    if evaluation.runs == 1:
        limits.append("The numbers come from a single training run: another seed gives others.")
    else:
        limits.append(f"The numbers are means over {evaluation.runs} training runs, of which this model is one.")
    if evaluation.single_class:
        names = ", ".join(evaluation.single_class)
        limits.append(f"Not measured, because the split holds one class only: {names}.")
    if evaluation.unannotated:
        names = ", ".join(evaluation.unannotated)
        limits.append(f"Not measured, because the split never annotated them: {names}.")
    unknown = [name for name in config.local_labels if name not in evaluation.present]
    if unknown:
        limits.append(f"Not evaluated at all: {', '.join(unknown)}.")
    return limits


def _cell(value: Any) -> str:
    """A value as a cell of a Markdown table."""
    if isinstance(value, float):
        value = f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_cell, value))
    return " ".join(("" if value is None else str(value)).split()).replace("|", "\\|")
