"""A figure of the training curves, from the trainer's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

Log = Sequence[Mapping[str, Any]]

# Okabe and Ito's colours, told apart with every common colour blindness; dashes differ too, for print.
_LOSSES = {
    "loss": ("total", "#000000", "-"),
    "loss_global": ("global label", "#0072B2", "-"),
    "loss_local": ("local findings", "#D55E00", "-"),
    "distil_global": ("distilled: global", "#0072B2", (0, (4, 1.5))),
    "distil_local": ("distilled: local", "#D55E00", (0, (4, 1.5))),
    "distil_attention": ("distilled: attention", "#009E73", (0, (4, 1.5))),
}
_AUROCS = {
    "eval_auroc_global": ("global label", "#0072B2", "-"),
    "eval_auroc_global_shifted": ("global label, perturbed", "#56B4E9", (0, (1, 1))),
    "eval_auroc_local_macro": ("local findings, macro", "#D55E00", (0, (4, 1.5))),
}
_SHARES = {"data_wait_share": ("waiting for data", "#E69F00", "-"), "teacher_share": ("teacher", "#CC79A7", "-")}
_GREY = "#666666"
#: Logged values that are smoothed into one line where there are more.
_POINTS = 60


def draw_training_curves(log: Log, path: str | Path, title: str = "") -> None:
    """Draw what a trainer logged: the parts of the loss, validation AUROC, learning rate, and where the time went.

    Faint lines are the logged values, strong ones their mean over neighbouring logs. A curve that was not logged is
    left out.

    Args:
        log (`Sequence[Mapping]`):
            `trainer.state.log_history`, or `log` of a training.json.
        path (`str` or `Path`):
            File; its suffix chooses the format (PNG, SVG, PDF).
        title (`str`, *optional*, defaults to `""`):
            Title of the figure.
    """
    # A Figure of its own, not pyplot's: library code must not touch global figures or choose a backend.
    figure = Figure(figsize=(11, 6.6), layout="constrained", dpi=130)
    losses, auroc, rate, time = figure.subplots(2, 2).ravel()
    for axes in (losses, auroc, rate, time):
        axes.set_xlabel("epoch", fontsize=8)
        axes.grid(color="#e4e4e4", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, max([float(entry.get("epoch") or 0) for entry in log], default=0) or 1)
    _draw(losses, log, _LOSSES, "Parts of the loss, before their weights (last value)")
    if losses.dataLim.ymin > 0:
        losses.set_yscale("log")
    _draw(auroc, log, _AUROCS, "AUROC on validation (last value)", marker="o")
    if auroc.has_data():
        auroc.set_ylim(min(0.48, auroc.dataLim.ymin - 0.02), 1.0)
        auroc.axhline(0.5, color=_GREY, linewidth=1, linestyle=(0, (1, 2)))
        _mark_best(auroc, *_curve(log, "eval_auroc_global"))
    else:
        auroc.text(0.5, 0.5, "not evaluated", transform=auroc.transAxes, ha="center", color=_GREY, fontsize=9)
    rate.plot(*_curve(log, "learning_rate"), color="#000000", linewidth=1.6)
    rate.set_title("Learning rate", loc="left", fontsize=10)
    rate.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    rate.set_ylim(bottom=0)
    _, speed = _curve(log, "images_per_second")
    _draw(time, log, _SHARES, f"Time: {np.median(speed):,.0f} images a second (median)" if len(speed) else "Time")
    time.set_ylim(0, 1)
    time.set_ylabel("share of the steps' time", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.savefig(path)


def _curve(log: Log, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs and values of what was logged under a name; undefined values are left out."""
    points: dict[float, float] = {}
    for entry in log:
        if entry.get("epoch") is not None and isinstance(entry.get(name), (int, float)):
            # The first of an epoch: the best model is evaluated once more at the end.
            points.setdefault(float(entry["epoch"]), float(entry[name]))
    return np.array(list(points)), np.array(list(points.values()))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the mean over neighbours on both sides, fewer near the ends."""
    window = np.ones(2 * (len(values) // _POINTS) + 1)
    smoothed: np.ndarray = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
    return smoothed


def _draw(axes: Any, log: Log, styles: Mapping[str, Any], title: str, marker: str = "") -> None:
    """Draw the smoothed curves, and faintly the logged values of long ones."""
    axes.set_title(title, loc="left", fontsize=10)
    for name, (label, colour, dashes) in styles.items():
        epochs, values = _curve(log, name)
        if not len(values):
            continue
        smoothed = _smooth(values)
        if len(values) > _POINTS:
            axes.plot(epochs, values, color=colour, linewidth=0.6, alpha=0.25)
        style = {"color": colour, "linestyle": dashes, "linewidth": 1.6, "marker": marker, "markersize": 4}
        axes.plot(epochs, smoothed, label=f"{label}  {smoothed[-1]:.3g}", clip_on=not marker, **style)
        # Beside the axes, where it hides no curve.
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02), borderaxespad=0.2)


def _mark_best(axes: Any, epochs: np.ndarray, values: np.ndarray) -> None:
    if len(values):
        best, colour = int(values.argmax()), _AUROCS["eval_auroc_global"][1]
        point, text = (epochs[best], values[best]), f"best {values[best]:.3f}"
        axes.plot(*point, marker="o", markersize=10, fillstyle="none", color=colour, clip_on=False)
        # Inside the axes: the legend is beside them, and the ticks are below.
        across, up = axes.transAxes.inverted().transform(axes.transData.transform(point))
        side = "left" if across < 0.15 else "right" if across > 0.85 else "center"
        text_at = {"xytext": (0, -16 if up > 0.3 else 10), "textcoords": "offset points", "ha": side}
        axes.annotate(text, point, fontsize=8, color=colour, **text_at)
