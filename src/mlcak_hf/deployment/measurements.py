"""Measured numbers as a model card shows them, taken from the comparison that the evaluation wrote."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DeploymentError
from ..training.record import without_folders

# What the Hub calls a metric, by the evaluation's key up to "_global", "_local_macro" and "/<label>".
_HUB_METRICS = {
    "auroc": "roc_auc",
    "average_precision": "average_precision",
    "sensitivity_at_90_specificity": "sensitivity_at_90_specificity",
    "brier": "brier_score",
    "calibration_error": "expected_calibration_error",
    "sensitivity_at_threshold": "recall",
    "specificity_at_threshold": "specificity",
}
_PER_FINDING = "auroc/"
_OF_ROWS = ("auroc_global", "auroc_local_macro")
_REMEDY = "name the comparison.json that examples/evaluation/evaluate_models.py wrote."


@dataclass(frozen=True)
class Measurement:
    """One measured number.

    Attributes:
        title: What was measured, such as `"AUROC global"` or `"AUROC of Cardiomegaly"`.
        metric: The metric as the Hub names it, such as `"roc_auc"`; None if the Hub has no such metric.
        value: The number; a mean where there were several runs.
        interval: Its 95 % interval, if there is one.
        deviation: Standard deviation over the runs, if there were several.
    """

    title: str
    metric: str | None
    value: float
    interval: tuple[float, float] | None = None
    deviation: float | None = None

    def text(self) -> str:
        """The number as a table cell, such as `0.812 [0.744, 0.871]`."""
        text = f"{self.value:.3f}"
        if self.deviation is not None:
            text += f" ± {self.deviation:.3f}"
        if self.interval is not None:
            text += f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        return text


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation measured of one model.

    Attributes:
        dataset: Name of the dataset.
        split: Its split.
        overall: Numbers of the whole task, by the evaluation's keys.
        findings: AUROC of each finding, by its name.
        present: Images with each finding, and images in which it was annotated, by its name.
        runs: Number of training runs that the numbers are means of.
        beside: The models of the same comparison, this one among them: name -> the numbers they are compared in.
        statements: Sentences about this model's differences to the others.
        single_class: Labels of which the split holds one class only, so that no curve exists.
        unannotated: Labels that the split never annotated.
        basis: What the numbers rest on: images, intervals.
        weights: Digests of the weights that were measured, one for every run (see `weights_digest`), None where a model
            was not a local folder; empty where the evaluation did not record them.
        image_size_px: Side of the images that the model takes; None where the evaluation did not record it.
        lowres_px: What its images were reduced to first, where the evaluation asked for that; None otherwise.
    """

    dataset: str
    split: str
    overall: Mapping[str, Measurement]
    findings: Mapping[str, Measurement]
    present: Mapping[str, tuple[int, int]]
    runs: int
    beside: Mapping[str, Mapping[str, Measurement]]
    statements: tuple[str, ...]
    single_class: tuple[str, ...]
    unannotated: tuple[str, ...]
    basis: str
    weights: tuple[str | None, ...] = ()
    image_size_px: int | None = None
    lowres_px: int | None = None

    @classmethod
    def from_comparison(cls, comparison: Mapping[str, Any] | str | os.PathLike[str], model: str) -> "Evaluation":
        """Take one model's numbers from a comparison.

        Args:
            comparison: What `mlcak_hf.evaluation.Comparison.to_dict` gave, or the JSON file that `to_json` wrote.
            model: Name of the model's row.

        Raises:
            DeploymentError: If the file is missing or something else, or has no such row.
        """
        if not isinstance(comparison, Mapping):
            comparison = _read(Path(comparison))
        try:
            rows = {row["name"]: row for row in comparison["rows"]}
            if model not in rows:
                raise DeploymentError(f"The comparison has no model {model!r}, only {', '.join(map(repr, rows))}.")
            titles, context = comparison["titles"], comparison["context"]
            metrics = rows[model]["metrics"]
            counts = comparison["class_counts"]
            statements = zip(comparison["differences"], comparison["statements"], strict=False)
            return cls(
                dataset=str(without_folders(context.get("dataset")) or "an unnamed dataset"),
                split=str(context.get("split") or "unnamed"),
                overall={key: _measurement(key, titles[key], metrics[key]) for key in titles if key in metrics},
                findings={
                    name: _measurement(_PER_FINDING, f"AUROC of {name}", metrics[_PER_FINDING + name])
                    for name in comparison["finding_names"]
                    if _PER_FINDING + name in metrics
                },
                present={name: (row["present"], row["present"] + row["absent"]) for name, row in counts.items()},
                runs=len(rows[model]["runs"]),
                beside={
                    name: {
                        key: _measurement(key, titles[key], row["metrics"][key])
                        for key in _OF_ROWS
                        if key in row["metrics"]
                    }
                    for name, row in rows.items()
                },
                statements=tuple(text for pair, text in statements if model in (pair["model"], pair["baseline"])),
                single_class=tuple(name.removeprefix("global/") for name in comparison["single_class_labels"]),
                unannotated=tuple(name.removeprefix("global/") for name in comparison["unannotated_labels"]),
                basis=comparison["footer"][0],
                weights=tuple(context.get("weights", {}).get(model, ())),
                image_size_px=rows[model].get("details", {}).get("image_size_px"),
                lowres_px=rows[model].get("details", {}).get("lowres_px"),
            )
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise DeploymentError(
                f"This is no comparison of models ({type(error).__name__}: {error}): {_REMEDY}"
            ) from error

    def measurements(self) -> list[Measurement]:
        """All numbers, the overall ones first."""
        return [*self.overall.values(), *self.findings.values()]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        comparison = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeploymentError(f"{path} cannot be read as a comparison ({error}): {_REMEDY}") from error
    return comparison if isinstance(comparison, Mapping) else {}


def _measurement(key: str, title: str, estimate: Mapping[str, Any]) -> Measurement:
    family = key.split("/")[0].removesuffix("_global").removesuffix("_local_macro").removesuffix("_local_micro")
    low, high = estimate["low"], estimate["high"]
    return Measurement(
        title=title,
        metric=_HUB_METRICS.get(family),
        value=estimate["value"],
        interval=None if low is None or high is None else (low, high),
        deviation=estimate["deviation"],
    )
