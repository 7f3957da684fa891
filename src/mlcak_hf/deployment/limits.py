"""What a model card says about the limits of a model."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig

from ..evaluation.comparison import Comparison, Row


def dataset_name(comparison: Comparison) -> str:
    """Name the evaluated dataset, without folders."""
    return Path(str(comparison.context.get("dataset") or "an unnamed dataset")).name


def limits_of(config: PreTrainedConfig, comparison: Comparison | None, measured: Row | None) -> list[str]:
    """List the limits that follow from the model and from what was, or was not, measured.

    Args:
        config ([`MLCAKConfig`]):
            The model's configuration.
        comparison ([`Comparison`], *optional*):
            Its measured numbers.
        measured ([`Row`], *optional*):
            Its row in the comparison.

    Returns:
        `list[str]`: Sentences.
    """
    size = config.image_size
    limits = [
        f"The model sees {size} x {size} pixels. Findings that are small on the original, such as nodules, thin "
        "pneumothorax lines and fine fibrosis, may be lost in such an image.",
        "Attention maps show where the class token looked. They do not localise or explain a disease.",
    ]
    if comparison is None or measured is None:
        return [
            *limits,
            "No decision threshold comes with the model. Choose one on your own validation data, for the sensitivity "
            "or specificity that you need; do not use 0.5 without checking.",
            "Neither discrimination nor calibration was measured: the outputs are scores, not probabilities.",
        ]
    limits.append(_threshold_limit(comparison, measured))
    if "calibration_error_global" in measured.metrics:
        limits.append(
            "Calibration was measured for the global task, at this test set's share of abnormal images. Where the "
            "share differs, the outputs are off. Outputs for findings are scores, not probabilities."
        )
    else:
        limits.append("Calibration was not measured: the outputs are scores, not probabilities.")
    split = comparison.context.get("split") or "unnamed"
    limits.append(
        f"All numbers are for the {split} split of {dataset_name(comparison)} only. The intervals are over its images "
        "and say nothing about other hospitals."
    )
    runs = len(measured.runs)
    if runs == 1:
        limits.append("The numbers come from a single training run; another seed gives different ones.")
    else:
        limits.append(f"The numbers are means over {runs} training runs, of which this model is one.")
    unknown = [name for name in config.local_labels if name not in comparison.class_counts]
    for names, why in (
        (comparison.single_class_labels, "Not measured, because the split has one class only"),
        (comparison.unannotated_labels, "Not measured, because the split never annotated them"),
        (unknown, "Not evaluated at all"),
    ):
        if names:
            limits.append(f"{why}: {', '.join(name.removeprefix('global/') for name in names)}.")
    return limits


def _threshold_limit(comparison: Comparison, measured: Row) -> str:
    if not measured.thresholds:
        return (
            "No decision threshold was measured. Choose one on your own validation data, for the sensitivity or "
            "specificity that you need; do not use 0.5 without checking."
        )
    split = comparison.context.get("threshold_split", "validation")
    values = ", ".join(
        f"{label} {' / '.join(f'{run[label]:.3f}' for run in measured.thresholds if label in run)}"
        for label in measured.thresholds[0]
    )
    return (
        f"The decision thresholds behind the numbers above give 90 % specificity on the {split} split of "
        f"{dataset_name(comparison)}: {values}. Elsewhere, choose your own on your own validation data."
    )
