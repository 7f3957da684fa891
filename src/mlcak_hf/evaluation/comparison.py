"""What a comparison of models holds: rows, paired differences, and how they are written down."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bootstrap import Interval
from .calibration import Reliability
from .measures import TITLES
from .metrics import SPECIFICITY

if TYPE_CHECKING:
    from rich.table import Table

NOTICE = "Research use only: not a medical device, no basis for a diagnosis."
#: Measures whose differences between rows are stated.
COMPARED = ("auroc_global", "auroc_local_macro")
#: With fewer images than this in a class, resampling them says little about other patients.
RARE = 10
FORMAT = 1


@dataclass(frozen=True)
class Estimate:
    """A measure of a row: mean over its runs, interval over the images, deviation over the runs.

    `interval` is `None` for measures without one, `deviation` (n - 1) is `None` for a single run.
    """

    value: float
    interval: Interval | None
    deviation: float | None
    runs: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes null."""
        known = self.interval if self.interval is not None and not math.isnan(self.interval.low) else None
        result: dict[str, Any] = {"value": self.value, "low": None, "high": None}
        if known is not None:
            result |= {"low": known.low, "high": known.high}
        if self.interval is not None:
            result |= {"draws": self.interval.draws, "dropped_draws": self.interval.dropped}
        return result | {"deviation": self.deviation, "runs": self.runs}


@dataclass(frozen=True)
class Row:
    """One row of a comparison: its estimates by key (see `measures.TITLES`; also `auroc/<finding>`)."""

    name: str
    description: str
    runs: tuple[str, ...]
    estimates: dict[str, Estimate]
    reliability: Reliability
    details: dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """A paired difference of two rows in one measure: `model` minus `baseline`."""

    model: str
    baseline: str
    metric: str
    estimate: Estimate
    per_run: tuple[float, ...]

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0, or the paired runs disagree about the sign."""
        interval = self.estimate.interval
        if interval is None or interval.contains(0.0):
            return True
        return min(self.per_run, default=1.0) <= 0 <= max(self.per_run, default=1.0)

    def statement(self) -> str:
        """One line, such as `student - plain, AUROC global: +0.021 [-0.010, 0.052]: within noise`."""
        value = f"{self.estimate.value:+.3f}"
        if self.estimate.deviation is not None:
            value += f" ± {self.estimate.deviation:.3f} over {self.estimate.runs} runs"
        verdict = "within noise" if self.within_noise else "beyond noise"
        return (
            f"{self.model} - {self.baseline}, {TITLES.get(self.metric, self.metric)}: {value} "
            f"{format_interval(self.estimate)}: {verdict}"
        )


@dataclass(frozen=True)
class Comparison:
    """Models on the same images. Made by [`compare`]; write it with `to_json`, `to_markdown`, `table` and `figure`."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    finding_names: tuple[str, ...]
    single_class_labels: tuple[str, ...]
    unannotated_labels: tuple[str, ...]
    class_counts: dict[str, tuple[int, int]]
    n_images: int
    n_groups: int
    groups_known: bool
    n_draws: int
    seed: int
    context: dict[str, Any] = field(default_factory=dict)
    #: Operating thresholds by row: of every run that has some, by label.
    thresholds: dict[str, tuple[dict[str, float], ...]] = field(default_factory=dict)

    @property
    def rare_labels(self) -> tuple[str, ...]:
        """Labels that have both classes, but fewer than ten images in one of them: their intervals are too narrow."""
        return tuple(name for name, counts in self.class_counts.items() if 0 < min(counts) < RARE)

    def noise_statements(self) -> list[str]:
        """Which differences are within noise, a line each; then what the intervals do not contain."""
        lines = [difference.statement() for difference in self.differences]
        if lines and any(len(row.runs) < 2 for row in self.rows):
            lines.append(
                "The intervals are over the test images. Rows with a single training run say nothing about the noise "
                "of training itself: repeat with other seeds before believing a difference."
            )
        return lines

    def footer(self) -> list[str]:
        """What the numbers rest on, and the research-use notice."""
        unit = f"{self.n_groups} patients" if self.groups_known else "images (patients unknown)"
        lines = [
            f"{self.n_images} images; 95 % intervals by bootstrap over {unit}, {self.n_draws} draws shared by all "
            f"rows{'; ± is the deviation over runs' if any(len(row.runs) > 1 for row in self.rows) else ''}."
        ]
        lines.append(
            "AP, Sens., Brier, ECE: average precision, sensitivity at 90 % specificity, Brier score and calibration "
            "error (ten bins of equal size) of the global task."
        )
        thresholds = self._thresholds()
        if thresholds:
            lines.append(
                f"Operating thresholds, for {SPECIFICITY:.0%} specificity on the "
                f"{self.context.get('threshold_split', 'validation')} split: {thresholds}."
            )
        if any("attention_ratio" in row.estimates for row in self.rows):
            lines.append(
                "Attention on boxes: share of the class token's attention inside the readers' boxes over their share "
                "of the image (1 = attention that ignores them)."
            )
        if self.single_class_labels:
            lines.append(f"One class only in this split, no curve defined: {', '.join(self.single_class_labels)}.")
        if self.unannotated_labels:
            lines.append(f"Never annotated in this split: {', '.join(self.unannotated_labels)}.")
        if self.rare_labels:
            lines.append(
                f"Fewer than {RARE} images of one class: {', '.join(self.rare_labels)}. Bootstrap intervals of so few "
                "are too narrow."
            )
        for metric in COMPARED:
            dropped = [row.estimates[metric].interval for row in self.rows if metric in row.estimates]
            most = max((interval.dropped for interval in dropped if interval is not None), default=0)
            if most:
                lines.append(
                    f"{TITLES[metric]}: {most} of {self.n_draws} draws held one class only of a rare label and were "
                    "dropped."
                )
        return [*lines, NOTICE]

    def _thresholds(self) -> str:
        """Operating thresholds of every row and run, in words."""
        by_row = []
        for name, runs in self.thresholds.items():
            labels = {label: [run[label] for run in runs if label in run] for run in runs for label in run}
            values = [f"{label} {' / '.join(f'{value:.3f}' for value in of)}" for label, of in labels.items()]
            if values:
                by_row.append(f"{name} {', '.join(values)}")
        return "; ".join(by_row)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types; a value that is not defined is `None`."""
        return {
            "format": FORMAT,
            "notice": NOTICE,
            "context": self.context,
            "n_images": self.n_images,
            "n_groups": self.n_groups,
            "groups_known": self.groups_known,
            "n_draws": self.n_draws,
            "seed": self.seed,
            "finding_names": list(self.finding_names),
            "single_class_labels": list(self.single_class_labels),
            "unannotated_labels": list(self.unannotated_labels),
            "rare_labels": list(self.rare_labels),
            "class_counts": {name: {"absent": a, "present": p} for name, (a, p) in self.class_counts.items()},
            "titles": TITLES,
            "thresholds": {name: list(runs) for name, runs in self.thresholds.items()},
            "rows": [
                {
                    "name": row.name,
                    "description": row.description,
                    "runs": list(row.runs),
                    "details": row.details,
                    "metrics": {key: estimate.to_dict() for key, estimate in row.estimates.items()},
                    "reliability": {
                        "mean_score": row.reliability.mean_score.tolist(),
                        "observed": row.reliability.observed.tolist(),
                        "count": row.reliability.count.tolist(),
                    },
                }
                for row in self.rows
            ],
            "differences": [
                {
                    "model": difference.model,
                    "baseline": difference.baseline,
                    "metric": difference.metric,
                    **difference.estimate.to_dict(),
                    "per_run": list(difference.per_run),
                    "within_noise": difference.within_noise,
                }
                for difference in self.differences
            ],
            "statements": self.noise_statements(),
            "footer": self.footer(),
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict()` to a file."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def table(self) -> Table:
        """For the terminal: `rich.console.Console().print(comparison.table())`."""
        from .report.tables import rich_table

        return rich_table(self)

    def to_markdown(self) -> str:
        """The table, the differences and the footer, for a model card or a README."""
        from .report.tables import markdown

        return markdown(self)

    def figure(self, path: str | Path) -> None:
        """Draw dots and intervals per model, per finding, and the reliability, to a PNG, SVG or PDF file."""
        from .report.figure import draw_comparison

        draw_comparison(self, path)


def format_interval(estimate: Estimate) -> str:
    """`[0.912, 0.945]`, or nothing where there is no interval."""
    if estimate.interval is None or math.isnan(estimate.interval.low):
        return "[no interval]" if estimate.interval is not None else ""
    return f"[{estimate.interval.low:.3f}, {estimate.interval.high:.3f}]"
