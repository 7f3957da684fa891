"""A comparison as a figure: dots and intervals per model and per finding, and the reliability of the probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..comparison import Comparison, Estimate, Row
from .wording import TITLES, footer, title

# Okabe and Ito's colours are distinct with every common colour blindness; markers differ too, for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
GREY = "#666666"


def draw_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draw a comparison and write it to a file.

    Left: global AUROC, macro AUROC over findings, reliability of the global probabilities. Right, if there are local
    heads: AUROC per finding with its number of images. Lines are 95 % intervals.

    Args:
        comparison ([`Comparison`]):
            What to draw.
        path (`str` or `Path`):
            File to write; its suffix chooses the format (PNG, SVG, PDF).
    """
    rows = comparison.rows
    findings = [name for name in comparison.finding_names if any(f"auroc/{name}" in row.metrics for row in rows)]
    has_local = bool(findings)
    summaries = ["auroc_global", *(["auroc_local_macro"] if has_local else [])]
    strip = 0.5 + 0.32 * len(rows)
    left_height = len(summaries) * (strip + 0.75) + 3.6
    height = max(left_height, 1.4 + len(findings) * (0.14 + 0.08 * len(rows))) if has_local else left_height
    # Not pyplot: library code must not touch global figures or choose a backend.
    figure = Figure(figsize=(11.5 if has_local else 6.2, height + 0.9), layout="constrained", dpi=150)
    grid = figure.add_gridspec(
        len(summaries) + 1,
        2 if has_local else 1,
        height_ratios=[strip] * len(summaries) + [height - strip * len(summaries)],
    )
    for position, key in enumerate(summaries):
        _draw_summary(figure.add_subplot(grid[position, 0]), rows, key)
    _draw_reliability(figure.add_subplot(grid[len(summaries), 0]), rows)
    if has_local:
        _draw_findings(figure.add_subplot(grid[:, 1]), comparison, findings)
    figure.suptitle(title(comparison), fontsize=12, fontweight="bold")
    notes = [part for line in footer(comparison) for part in wrap(line, 165 if has_local else 85)]
    figure.supxlabel("\n".join(notes), fontsize=7, color=GREY)
    figure.savefig(path)


def _draw_summary(axes: Any, rows: Sequence[Row], key: str) -> None:
    for position, row in enumerate(rows):
        estimate = row.metrics.get(key)
        if estimate is None:
            axes.text(0.5, position, "no such head", color=GREY, fontsize=8, va="center")
            continue
        _dot(axes, estimate, position, position, size=7)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_title(TITLES[key], loc="left", fontsize=10)
    _auroc_axis(axes, [row.metrics[key] for row in rows if key in row.metrics])


def _draw_findings(axes: Any, comparison: Comparison, findings: Sequence[str]) -> None:
    rows = [row for row in comparison.rows if any(f"auroc/{name}" in row.metrics for name in findings)]
    index = {row.name: position for position, row in enumerate(comparison.rows)}
    offsets = np.linspace(-0.3, 0.3, len(rows)) if len(rows) > 1 else np.zeros(1)
    shown = []
    for place in range(0, len(findings), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="#f3f3f3", zorder=0, linewidth=0)
    for place, name in enumerate(findings):
        for row, offset in zip(rows, offsets, strict=True):
            estimate = row.metrics.get(f"auroc/{name}")
            if estimate is not None:
                _dot(axes, estimate, place + offset, index[row.name], size=4.5, faint=name in comparison.rare_labels)
                shown.append(estimate)
    labels = [f"{name}  ({comparison.class_counts[name].present})" for name in findings]
    axes.set_yticks(range(len(findings)), labels, fontsize=8)
    axes.set_ylim(len(findings) - 0.5, -0.5)
    axes.set_title("AUROC per finding (images that have it; dotted: too few)", loc="left", fontsize=10)
    _auroc_axis(axes, shown)


def _draw_reliability(axes: Any, rows: Sequence[Row]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    for position, row in enumerate(rows):
        bins = row.reliability
        axes.plot(
            bins.mean_score,
            bins.observed,
            color=COLOURS[position % len(COLOURS)],
            marker=MARKERS[position % len(MARKERS)],
            markersize=5,
            linewidth=1.2,
            alpha=0.9,
            label=row.name,
        )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal", adjustable="box", anchor="N")
    axes.set_xlabel("Predicted probability (bins of equal size)", fontsize=8)
    axes.set_ylabel("Observed rate", fontsize=8)
    axes.set_title("Reliability, global task", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.tick_params(labelsize=8)
    _plain(axes)


def _dot(axes: Any, estimate: Estimate, height: float, style: int, size: float, faint: bool = False) -> None:
    """Draw a value and its interval, dotted if the interval is unreliable."""
    colour = COLOURS[style % len(COLOURS)]
    interval = estimate.interval
    if interval is not None and interval.low is not None:
        dashes = (0, (1, 1.5)) if faint else "-"
        axes.plot([interval.low, interval.high], [height, height], color=colour, linewidth=1.6, linestyle=dashes)
    axes.plot(
        estimate.value,
        height,
        marker=MARKERS[style % len(MARKERS)],
        color=colour,
        markersize=size,
        markeredgecolor="white",
        markeredgewidth=0.5,
        linestyle="none",
        zorder=3,
    )


def _auroc_axis(axes: Any, estimates: Sequence[Estimate]) -> None:
    lows = [
        estimate.interval.low
        for estimate in estimates
        if estimate.interval is not None and estimate.interval.low is not None
    ]
    lowest = min([*lows, *(estimate.value for estimate in estimates), 0.5])
    axes.set_xlim(max(0.0, np.floor(lowest * 20) / 20 - 0.01), 1.005)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
