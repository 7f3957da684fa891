"""Model cards from measured numbers; what was not measured or recorded is stated as such."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig

from ..errors import DeploymentError
from ..evaluation.comparison import COMPARED, Comparison, Estimate, Row
from ..evaluation.evidence.record import Evidence, load_results
from ..evaluation.report import wording
from ..evaluation.report.verdict import judge
from ..image_processing_mlcak import MLCAKImageProcessor
from ..pretrained import load_config, load_processor
from ..shipped import hub_configs_dir
from ..training.record import TRAINING_FILE, TrainingRecord
from ..weights import weights_digest

_TAGS = ("chest-xray", "medical", "mlcak", "knowledge-distillation", "vision-transformer", "low-resolution")
# What the Hub calls a metric, by its name here up to "_global", "_local_macro" and "/<finding>".
_HUB_METRICS = {
    "auroc": "roc_auc",
    "average_precision": "average_precision",
    "sensitivity_at_90_specificity": "sensitivity_at_90_specificity",
    "brier": "brier_score",
    "calibration_error": "expected_calibration_error",
    "sensitivity_at_threshold": "recall",
    "specificity_at_threshold": "specificity",
}


def create_model_card(
    config: PreTrainedConfig,
    processor: MLCAKImageProcessor | None = None,
    *,
    model_id: str,
    record: TrainingRecord | None = None,
    results: Comparison | Evidence | None = None,
    row: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """Make the model card of a teacher or student.

    Args:
        config ([`MLCAKConfig`]):
            The model's configuration.
        processor ([`MLCAKImageProcessor`], *optional*):
            Its processor.
        model_id (`str`):
            Hub id (`"your-name/student-28"`), or the name of its folder until it has one.
        record ([`TrainingRecord`], *optional*):
            How it was trained; without it, the card says "Not recorded".
        results ([`Comparison`] or [`Evidence`], *optional*):
            Measured numbers; without them, the card says "Not measured".
        row (`str`, *optional*):
            The model's row in a comparison; by default, its name.
        license (`str`, *optional*):
            Licence of the weights, such as `"apache-2.0"`. By default none is stated: it depends on the training data.

    Returns:
        `ModelCard`: With metadata for the Hub. `card.save(folder / "README.md")` writes it.

    Raises:
        [`MLCAKError`]: When the comparison has no such row.
    """
    name = model_id.rsplit("/", 1)[-1]
    evidence, comparison, measured = _measured(results, row or name)
    context = {} if comparison is None else comparison.context
    dataset = Path(str(context.get("dataset") or "an unnamed dataset")).name  # Without its folder.
    split = str(context.get("split") or "unnamed")
    entries = []
    # Numbers from training images must not stand in the metadata, where nobody reads the warning.
    if comparison is not None and measured is not None and not measured.training_images():
        entries = _eval_results(comparison, measured, dataset, split)
    metadata = ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=list(_TAGS),
        base_model=None if record is None else record.base_model,
        metrics=sorted({entry.metric_type for entry in entries}) or None,
        model_name=name if entries else None,
        eval_results=entries or None,
    )
    template = (hub_configs_dir() / "templates" / "model_card.md").read_text(encoding="utf-8")
    # Not ModelCard.from_template, which neither trims the lines of block tags nor refuses misspelt names.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    shown = {
        "card_data": metadata.to_yaml(),
        "model_name": name,
        "model_id": model_id if "/" in model_id else f"path/to/{model_id}",
        "license": license,
        "config": config,
        "processor": processor,
        "record": record,
        "comparison": comparison,
        "measured": measured,
        "evidence": evidence,
        "verdict": None if evidence is None else judge(evidence),
        "dataset": dataset,
        "split": split,
        "wording": wording,
        "compared": COMPARED,
        "number": _number,
        "cell": _cell,
    }
    try:
        return ModelCard(environment.from_string(template).render(shown))
    except jinja2.UndefinedError as error:
        raise DeploymentError(f"The training record is incomplete: {error}. Train the model again.") from error


def card_for_folder(
    folder: str | Path,
    results: Comparison | Evidence | str | Path | None = None,
    row: str | None = None,
    *,
    model_id: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """Make the card of the model in a folder from its configuration, its processor and its training.json.

    Args:
        folder (`str` or `Path`):
            Folder that a training script wrote.
        results ([`Comparison`], [`Evidence`], `str` or `Path`, *optional*):
            Comparison with the model among its rows, or evaluation of the model; or comparison.json, evaluation.json.
        row (`str`, *optional*):
            The model's row in a comparison; by default, the folder's name.
        model_id (`str`, *optional*):
            Hub id of the model; by default, the folder's name.
        license (`str`, *optional*):
            As for [`create_model_card`].

    Returns:
        `ModelCard`

    Raises:
        [`MLCAKError`]: When the folder holds no MLCAK model, a file cannot be read, or the row was measured with
            different weights than the folder's.
    """
    folder = Path(folder)
    config = load_config(folder, error=DeploymentError)
    processor = load_processor(folder, config, error=DeploymentError)
    row = row or folder.resolve().name
    if isinstance(results, str | Path):
        results = load_results(results)
    measured = _measured(results, row)[2]
    if measured is not None:
        _check_same_model(measured, folder, config, processor)
    record = TrainingRecord.load(folder) if (folder / TRAINING_FILE).is_file() else None
    model_id = model_id or folder.resolve().name
    card = create_model_card(
        config, processor, model_id=model_id, record=record, results=results, row=row, license=license
    )
    # A later training in this folder recognises by it that the card describes other weights.
    card.data["weights_sha256"] = weights_digest(folder)
    return card


def _measured(results: Comparison | Evidence | None, row: str) -> tuple[Evidence | None, Comparison | None, Row | None]:
    """Evidence, comparison and row of a model; an evaluation has one row, whatever its name."""
    if isinstance(results, Evidence):
        return results, results.comparison, results.row
    return None, results, None if results is None else results.row(row)


def _check_same_model(row: Row, folder: Path, config: PreTrainedConfig, processor: MLCAKImageProcessor) -> None:
    """Refuse the numbers of a different model, as far as the evaluation recorded which model it was."""
    size, lowres = row.details.get("image_size_px"), row.details.get("lowres_px")
    difference = ""
    if size not in (None, config.image_size):
        difference = f"{size} px images, but the model takes {config.image_size} px"
    elif lowres not in (None, processor.lowres):
        difference = f"images reduced to {lowres} px first, which the model does not do by itself"
    elif row.weights and None not in row.weights and weights_digest(folder) not in row.weights:
        difference = "different weights"
    if difference:
        raise DeploymentError(
            f"Row {row.name!r} was measured with {difference}. Name the row of {folder} (--row), or evaluate it again."
        )


def _number(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    bounds = wording.interval(estimate)
    return f"{wording.number(estimate)} {bounds}" if "," in bounds else wording.number(estimate)


def _eval_results(comparison: Comparison, measured: Row, dataset: str, split: str) -> list[EvalResult]:
    """Entries of the `model-index`, with the intervals in their names."""
    results = []
    findings = {f"auroc/{name}": f"AUROC of {name}" for name in comparison.finding_names}
    for key, text in (wording.TITLES | findings).items():
        family = re.sub(r"(_global|_local_macro|_local_micro)$", "", key.split("/")[0])
        if key not in measured.metrics or family not in _HUB_METRICS:
            continue
        bounds = wording.interval(measured.metrics[key]).strip("[]").replace(", ", " to ")
        results.append(
            EvalResult(
                task_type="image-classification",
                task_name="Chest radiograph classification",
                dataset_type=re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-") or "unnamed",
                dataset_name=dataset,
                dataset_split=split,
                metric_type=_HUB_METRICS[family],
                metric_name=f"{text} (95 % interval {bounds})" if " to " in bounds else text,
                metric_value=round(measured.metrics[key].value, 4),
            )
        )
    return results


def _cell(value: Any) -> str:
    """Format a value as a cell of a Markdown table."""
    if isinstance(value, float):
        value = f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_cell, value))
    return " ".join(("" if value is None else str(value)).split()).replace("|", "\\|")
