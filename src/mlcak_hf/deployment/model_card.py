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
from ..evaluation.report.wording import TITLES, basis, interval, number, statement, thresholds
from ..image_processing_mlcak import MLCAKImageProcessor
from ..pretrained import load_config, load_processor, weights_digest
from ..shipped import hub_configs_dir
from ..training.record import TRAINING_FILE, TrainingRecord

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
_CHOOSE = (
    "Choose one on your own validation data, for the sensitivity or specificity that you need; do not use 0.5 without "
    "checking."
)
_UNCALIBRATED = "Calibration was not measured: the outputs are scores, not probabilities."


def create_model_card(
    config: PreTrainedConfig,
    processor: MLCAKImageProcessor | None = None,
    *,
    model_id: str,
    record: TrainingRecord | None = None,
    comparison: Comparison | None = None,
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
        comparison ([`Comparison`], *optional*):
            Measured numbers; without them, the card says "Not measured".
        row (`str`, *optional*):
            The model's row in the comparison; by default, its name.
        license (`str`, *optional*):
            Licence of the weights, such as `"apache-2.0"`. By default none is stated: it depends on the training data.

    Returns:
        `ModelCard`: With metadata for the Hub. `card.save(folder / "README.md")` writes it.

    Raises:
        [`MLCAKError`]: When the comparison has no such row.
    """
    name = model_id.rsplit("/", 1)[-1]
    measured = None if comparison is None else comparison.row(row or name)
    results = [] if comparison is None or measured is None else _eval_results(comparison, measured)
    metadata = ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=list(_TAGS),
        base_model=None if record is None else record.base_model,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    template = (hub_configs_dir() / "templates" / "model_card.md").read_text(encoding="utf-8")
    # Not ModelCard.from_template, which neither trims the lines of block tags nor refuses misspelt names.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    content = environment.from_string(template).render(
        card_data=metadata.to_yaml(),
        model_name=name,
        model_id=model_id if "/" in model_id else f"path/to/{model_id}",
        license=license,
        config=config,
        processor=processor,
        record=record,
        evaluation=None if comparison is None or measured is None else _evaluation(comparison, measured),
        cell=_cell,
        limits=[*([] if record is None else record.limits), *_limits(config, comparison, measured)],
    )
    return ModelCard(content)


def card_for_folder(
    folder: str | Path,
    comparison: Comparison | str | Path | None = None,
    row: str | None = None,
    *,
    model_id: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """Make the card of the model in a folder from its configuration, its processor and its training.json.

    Args:
        folder (`str` or `Path`):
            Folder that a training script wrote.
        comparison ([`Comparison`], `str` or `Path`, *optional*):
            Comparison with the model among its rows, or its comparison.json.
        row (`str`, *optional*):
            The model's row; by default, the folder's name.
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
    if comparison is not None:
        comparison = comparison if isinstance(comparison, Comparison) else Comparison.from_json(comparison)
        _check_same_model(comparison.row(row), folder, config, processor)
    record = TrainingRecord.load(folder) if (folder / TRAINING_FILE).is_file() else None
    model_id = model_id or folder.resolve().name
    card = create_model_card(
        config, processor, model_id=model_id, record=record, comparison=comparison, row=row, license=license
    )
    # A later training in this folder recognises by it that the card describes other weights.
    card.data["weights_sha256"] = weights_digest(folder)
    return card


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


def _evaluation(comparison: Comparison, measured: Row) -> dict[str, Any]:
    """What the template shows of an evaluation."""
    dataset, split = _evaluated_on(comparison)
    found = {name: measured.metrics.get(f"auroc/{name}") for name in comparison.finding_names}
    counts = {name: (count.present, count.present + count.absent) for name, count in comparison.class_counts.items()}
    beside = comparison.rows if len(comparison.rows) > 1 else ()
    return {
        "dataset": dataset,
        "split": split,
        "basis": basis(comparison),
        "overall": [(text, _number(measured.metrics[key])) for key, text in TITLES.items() if key in measured.metrics],
        "findings": [(name, *counts[name], _number(estimate)) for name, estimate in found.items() if estimate],
        "beside": [(row.name, *(_number(row.metrics.get(key)) for key in COMPARED)) for row in beside],
        "statements": [
            statement(pair) for pair in comparison.differences if measured.name in (pair.model, pair.baseline)
        ],
    }


def _evaluated_on(comparison: Comparison) -> tuple[str, str]:
    """Return the name of the evaluated dataset, without folders, and of its split."""
    dataset = Path(str(comparison.context.get("dataset") or "an unnamed dataset")).name
    return dataset, str(comparison.context.get("split") or "unnamed")


def _limits(config: PreTrainedConfig, comparison: Comparison | None, measured: Row | None) -> list[str]:
    """List the limits that follow from the model and from what was, or was not, measured."""
    limits = [
        f"The model sees {config.image_size} x {config.image_size} pixels. Findings that are small on the original, "
        "such as nodules, thin pneumothorax lines and fine fibrosis, may be lost in such an image.",
        "Attention maps show where the class token looked. They do not localise or explain a disease.",
    ]
    if comparison is None or measured is None:
        limits.append(f"No decision threshold comes with the model. {_CHOOSE}")
        return [*limits, _UNCALIBRATED.replace("Calibration was not", "Neither discrimination nor calibration was")]
    dataset, split = _evaluated_on(comparison)
    limits.append(f"No decision threshold was measured. {_CHOOSE}")
    if measured.thresholds:
        limits[-1] = (
            "The decision thresholds behind the numbers above give 90 % specificity on the "
            f"{comparison.context.get('threshold_split', 'validation')} split of {dataset}: {thresholds(measured)}. "
            "Elsewhere, choose your own on your own validation data."
        )
    limits.append(_UNCALIBRATED)
    if "calibration_error_global" in measured.metrics:
        limits[-1] = (
            "Calibration was measured for the global task, at this test set's share of abnormal images. Where the "
            "share differs, the outputs are off. Outputs for findings are scores, not probabilities."
        )
    runs = len(measured.runs)
    limits += [
        f"All numbers are for the {split} split of {dataset} only. The intervals are over its images and say nothing "
        "about other hospitals.",
        "The numbers come from a single training run; another seed gives different ones."
        if runs == 1
        else f"The numbers are means over {runs} training runs; this model is one of them.",
    ]
    unknown = [name for name in config.local_labels if name not in comparison.class_counts]
    missing = {
        "Not measured, because the split has one class only": comparison.single_class_labels,
        "Not measured, because the split never annotated them": comparison.unannotated_labels,
        "Not evaluated at all": unknown,
    }
    limits += [f"{why}: {', '.join(names).replace('global/', '')}." for why, names in missing.items() if names]
    return limits


def _number(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    bounds = interval(estimate)
    return f"{number(estimate)} {bounds}" if "," in bounds else number(estimate)


def _eval_results(comparison: Comparison, measured: Row) -> list[EvalResult]:
    """Entries of the `model-index`, with the intervals in their names."""
    dataset, split = _evaluated_on(comparison)
    results = []
    for key, text in (TITLES | {f"auroc/{name}": f"AUROC of {name}" for name in comparison.finding_names}).items():
        family = re.sub(r"(_global|_local_macro|_local_micro)$", "", key.split("/")[0])
        if key not in measured.metrics or family not in _HUB_METRICS:
            continue
        bounds = interval(measured.metrics[key]).strip("[]").replace(", ", " to ")
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
