"""The figures of a report on one model: small ones, so that they are legible on a phone and side by side elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..evidence.record import Evidence, LabelEvidence
from .figure import COLOURS, DASHES, GREY, MARKERS, dot_figure, small_axes

_SIZE = (3.6, 3.4)
_WIDE = 7.4
_FINDINGS = 3.6


def report_figures(evidence: Evidence) -> dict[str, Figure]:
    """Draw the figures of a report.

    Args:
        evidence ([`Evidence`]):
            What was measured.

    Returns:
        `dict[str, Figure]`: `roc`, `precision_recall`, `reliability`, `decision`, `findings`, `subgroups` and `shifts`,
        without those that nothing was measured for.
    """
    labels = evidence.labels
    figures: dict[str, Figure | None] = {
        "findings": _findings(evidence),
        "subgroups": dot_figure(
            [
                (f"{each.column} {each.value}  ({each.images})", each.auroc, COLOURS[0], True)
                for each in evidence.subgroups
                if each.auroc is not None
            ],
            evidence.row.metrics["auroc_global"].value if "auroc_global" in evidence.row.metrics else 0.5,
            _FINDINGS + 0.6,
            "AUROC by subgroup (images)",
        ),
        "shifts": dot_figure(
            [(each.name.replace("_", " "), each.difference, COLOURS[0], True) for each in evidence.shifts],
            0.0,
            _FINDINGS + 0.6,
            "Change of the global AUROC",
        ),
    }
    if labels:
        figures |= {
            "roc": _roc(labels),
            "precision_recall": _precision_recall(labels),
            "reliability": _reliability(labels),
            "decision": _decision(labels),
        }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _square(heading: str, x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = small_axes(figure, (1, 1, 1), heading)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    return figure, axes


def _legend_below(figure: Figure) -> None:
    """Add the legend under the axes, where it hides no curve, in extra height."""
    legend = figure.legend(fontsize=7, frameon=False, loc="outside lower left")
    lines = sum(text.get_text().count("\n") + 1 for text in legend.get_texts())
    figure.set_figheight(_SIZE[1] + 0.15 * lines)


def _roc(labels: Sequence[LabelEvidence]) -> Figure:
    figure, axes = _square("ROC curve", "1 - specificity", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DASHES)
    for place, label in enumerate(labels):
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(label.curves.false_positive_rate, label.curves.sensitivity, color=colour, label=label.name)
        for marker, point in zip(MARKERS, label.points, strict=False):
            axes.plot(
                1 - point.specificity.value, point.sensitivity.value, color=colour, marker=marker, linestyle="",
                label="\n".join(wrap(point.rule, 52)) if len(labels) == 1 else None, markersize=6,
                markeredgecolor="white",
            )  # fmt: skip
    _legend_below(figure)
    return figure


def _precision_recall(labels: Sequence[LabelEvidence]) -> Figure:
    figure, axes = _square("Precision and recall", "Recall (sensitivity)", "Precision (PPV on these images)")
    for place, label in enumerate(labels):
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(label.curves.recall, label.curves.precision, color=colour, label=label.name)
        axes.axhline(label.calibration.observed, color=colour, linewidth=1, linestyle=DASHES)
    _legend_below(figure)
    return figure


def _reliability(labels: Sequence[LabelEvidence]) -> Figure:
    figure, axes = _square("Reliability", "Predicted probability (bins of equal size)", "Observed rate")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DASHES)
    for place, label in enumerate(labels):
        bins = label.calibration.reliability
        style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "label": label.name}
        axes.plot(bins.mean_score, bins.observed, markersize=5, linewidth=1.2, **style)
        rate, count = np.array(bins.observed), np.array(bins.count)
        # Wilson's interval of each bin's rate.
        centre = (rate + 1.92 / count) / (1 + 3.84 / count)
        half = 1.96 * np.sqrt(rate * (1 - rate) / count + 0.96 / count**2) / (1 + 3.84 / count)
        axes.vlines(bins.mean_score, centre - half, centre + half, color=style["color"], linewidth=1, alpha=0.6)
    _legend_below(figure)
    return figure


def _decision(labels: Sequence[LabelEvidence]) -> Figure:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = small_axes(figure, (1, 1, 1), "Decision curve")
    highest = 0.01
    for place, label in enumerate(labels):
        curves, colour = label.curves, COLOURS[place % len(COLOURS)]
        axes.plot(curves.threshold, curves.net_benefit, color=colour, label=f"Act on the model ({label.name})")
        axes.plot(
            curves.threshold, curves.net_benefit_of_all, color=colour, linewidth=1, linestyle=DASHES,
            label="Act on every image" if len(labels) == 1 else None,
        )  # fmt: skip
        highest = max(highest, label.prevalence, *curves.net_benefit)
    axes.axhline(0, color=GREY, linewidth=1, label="Act on no image")
    axes.set(xlim=(0, 1), ylim=(-0.25 * highest, 1.1 * highest))
    axes.set_xlabel("Probability at which one would act", fontsize=8)
    axes.set_ylabel("Net benefit per image", fontsize=8)
    _legend_below(figure)
    return figure


def _findings(evidence: Evidence) -> Figure | None:
    metrics, counts, rare = evidence.row.metrics, evidence.comparison.class_counts, evidence.comparison.rare_labels
    dots = [
        (f"{name}  ({counts[name].present})", metrics[f"auroc/{name}"], GREY if name in rare else COLOURS[0],
         name not in rare)
        for name in evidence.comparison.finding_names
        if f"auroc/{name}" in metrics
    ]  # fmt: skip
    return dot_figure(dots, 0.5, _FINDINGS + 0.8, "AUROC by finding (images that have it)")
