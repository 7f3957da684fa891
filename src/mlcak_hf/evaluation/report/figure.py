"""A comparison as a figure: dots and intervals per model and per finding, and the reliability of the probabilities."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ..comparison import Comparison, Estimate, Row
from .wording import TITLES, footer, row_name, title, warnings

# Okabe and Ito's colours are distinct with every common colour blindness; markers differ too, for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
GREY, DASHES = "#666666", (0, (4, 3))

#: Height, position of the model (its colour and marker), value, and line style of the interval.
Dot = tuple[float, int, Estimate, Any]
#: Label, estimate and colour of a line in [`dot_figure`], and whether its dot is filled.
LabelledDot = tuple[str, Estimate, str, bool]


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
    summaries = ["auroc_global", "auroc_local_macro"] if findings else ["auroc_global"]
    columns = 2 if findings else 1
    strip = 0.5 + 0.32 * len(rows)
    left_height = len(summaries) * (strip + 0.75) + 3.6
    height = max(left_height, 1.4 + len(findings) * (0.14 + 0.08 * len(rows)) if findings else 0)
    # Not pyplot: library code must not touch global figures or choose a backend.
    figure = Figure(figsize=(1 + 5.2 * columns, height + 0.9), layout="constrained", dpi=150)
    heights = [strip] * len(summaries) + [height - strip * len(summaries)]
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for place, key in enumerate(summaries):
        shown = [(position, position, row.metrics[key], "-") for position, row in enumerate(rows) if key in row.metrics]
        axes = figure.add_subplot(grid[place, 0])
        _draw_aurocs(axes, shown, [_label(row) for row in rows], TITLES[key])
        for position in set(range(len(rows))) - {position for position, *_ in shown}:
            axes.text(0.5, position, "no such head", color=GREY, fontsize=8, va="center")
    _draw_reliability(figure.add_subplot(grid[-1, 0]), rows)
    if findings:
        _draw_findings(figure.add_subplot(grid[:, 1]), comparison, findings)
    marked = [part for line in warnings(comparison) for part in wrap(line, 50 * columns)]
    figure.suptitle("\n".join([title(comparison), *marked]), fontsize=12, fontweight="bold")
    notes = [part for line in footer(comparison) for part in wrap(line, 80 * columns + 5)]
    figure.supxlabel("\n".join(notes), fontsize=7, color=GREY)
    figure.savefig(path)


def _draw_findings(axes: Any, comparison: Comparison, findings: Sequence[str]) -> None:
    rows = [(index, row) for index, row in enumerate(comparison.rows) if "auroc_local_macro" in row.metrics]
    offsets = np.linspace(-0.3, 0.3, len(rows)) if len(rows) > 1 else np.zeros(1)
    shown: list[Dot] = []
    for place, name in enumerate(findings):
        line = (0, (1, 1.5)) if name in comparison.rare_labels else "-"
        for (index, row), offset in zip(rows, offsets, strict=True):
            if f"auroc/{name}" in row.metrics:
                shown.append((place + offset, index, row.metrics[f"auroc/{name}"], line))
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color="#f3f3f3", zorder=0, linewidth=0)
    labels = [f"{name}  ({comparison.class_counts[name].present})" for name in findings]
    _draw_aurocs(axes, shown, labels, "AUROC per finding (images that have it; dotted: too few)", size=4.5)


def _draw_aurocs(axes: Any, dots: Sequence[Dot], labels: Sequence[str], heading: str, size: float = 7) -> None:
    """Draw a dot and the line of its interval for each value, at the height of its label."""
    lowest = 0.5
    for height, position, estimate, line in dots:
        style, interval = _style(position), estimate.interval
        if interval is not None and interval.low is not None:
            axes.plot([interval.low, interval.high], [height] * 2, color=style["color"], linewidth=1.6, linestyle=line)
            lowest = min(lowest, interval.low)
        axes.plot(
            estimate.value, height, **style, markersize=size, markeredgecolor="white", markeredgewidth=0.5, zorder=3
        )
        lowest = min(lowest, estimate.value)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(max(0.0, np.floor(lowest * 20) / 20 - 0.01), 1.005)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=DASHES, zorder=1)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    _finish(axes, heading)


def _draw_reliability(axes: Any, rows: Sequence[Row]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=DASHES)
    for position, row in enumerate(rows):
        bins = row.reliability
        axes.plot(bins.mean_score, bins.observed, **_style(position), markersize=5, linewidth=1.2, label=_label(row))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal", adjustable="box", anchor="N")
    axes.set_xlabel("Predicted probability (bins of equal size)", fontsize=8)
    axes.set_ylabel("Observed rate", fontsize=8)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.tick_params(axis="y", labelsize=8)
    _finish(axes, "Reliability, global task")


def dot_figure(dots: Sequence[LabelledDot], line: float = 0.0, width: float = 8, heading: str = "") -> Figure | None:
    """Draw one line per dot, with its interval.

    Args:
        dots (`Sequence[LabelledDot]`):
            From the top.
        line (`float`, *optional*, defaults to 0):
            Value that is marked by a vertical line.
        width (`float`, *optional*, defaults to 8):
            Width in inches.
        heading (`str`, *optional*):
            Title of the axes.

    Returns:
        `Figure`: `None` without dots.
    """
    if not dots:
        return None
    figure = Figure(figsize=(width, 0.8 + 0.32 * len(dots)), layout="constrained")
    axes = small_axes(figure, (1, 1, 1), heading)
    for place, (_, of, colour, filled) in enumerate(dots):
        if of.interval and of.interval.low is not None:
            axes.plot([of.interval.low, of.interval.high], [place, place], color=colour, linewidth=1.5)
        axes.plot(of.value, place, "o", color=colour, markerfacecolor=colour if filled else "white")
    axes.set_yticks(range(len(dots)), [label for label, *_ in dots], fontsize=8)
    axes.set_ylim(len(dots) - 0.5, -0.5)
    axes.axvline(line, color=GREY, linewidth=1, linestyle=DASHES)
    axes.locator_params(axis="x", nbins=5)
    return figure


def small_axes(figure: Figure, place: tuple[int, int, int], heading: str) -> Any:
    """Add axes with small labels and without the upper and right border."""
    axes = figure.add_subplot(*place)
    _finish(axes, heading)
    axes.tick_params(labelsize=8)
    return axes


def inline_svg(figure: Figure, name: str) -> str:
    """Write a figure as SVG text for an HTML page, the same for the same figure and name."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _label(row: Row) -> str:
    return "\n".join(wrap(row_name(row), 24))


def _style(position: int) -> dict[str, str]:
    return {"color": COLOURS[position % len(COLOURS)], "marker": MARKERS[position % len(MARKERS)]}


def _finish(axes: Any, heading: str) -> None:
    axes.set_title(heading, loc="left", fontsize=10)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
