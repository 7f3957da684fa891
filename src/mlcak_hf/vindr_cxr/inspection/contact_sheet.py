"""Contact sheet: a figure of sampled radiographs as `prepare` would store them, to check polarity and windowing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DatasetError
from .sample import SampledImage

_COLUMNS = 6
_INK, _PAPER, _WARNING = "#1a1a1a", "white", "#c62828"


def draw_contact_sheet(sample: Sequence[SampledImage], path: Path, num_files: int) -> None:
    """Draw sampled radiographs with their main properties; suspicious and unreadable ones are marked in red.

    Args:
        sample (`Sequence[SampledImage]`):
            Radiographs to draw.
        path (`Path`):
            PNG file to write.
        num_files (`int`):
            Number of files that they were sampled from, for the title.

    Raises:
        [`DatasetError`]: When there is no image.
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps global state

    if not sample:
        raise DatasetError("A contact sheet needs at least one image; got none. See the problems of the files.")
    lines = -(-len(sample) // _COLUMNS)
    figure = Figure(figsize=(2.3 * _COLUMNS, 2.95 * lines + 0.9), dpi=110, facecolor=_PAPER, layout="constrained")
    figure.suptitle(
        f"{len(sample)} of {num_files:,} radiographs as mlcak prepare stores them (voi=dicom): air should be dark and"
        " bone bright, with detail in both",
        fontsize=11,
        color=_INK,
    )
    grid = figure.subplots(lines, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for image, axes in zip(sample, grid.flat, strict=False):
        _draw(axes, image)
    figure.savefig(path, format="png")


def _draw(axes: Any, image: SampledImage) -> None:
    facts = image.facts
    axes.axis("on")
    axes.set(xticks=[], yticks=[])
    title = "CANNOT BE READ" if image.problem else "SUSPECT" if image.suspicions else ""
    if "inverted" in image.suspicions:
        title = "LOOKS INVERTED"
    for spine in axes.spines.values():
        spine.set(color=_WARNING if title else "#9e9e9e", linewidth=3 if title else 0.8)
    if image.problem is None:
        pixels = image.pixels
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=np.iinfo(pixels.dtype).max, interpolation="nearest")
    else:
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        text = textwrap.fill(image.problem, 30, max_lines=9)
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=6, color=_WARNING)
    axes.set_title(title, fontsize=7.5, color=_WARNING, fontweight="bold")
    name = facts.file if len(facts.file) <= 30 else f"{facts.file[:18]}...{facts.file[-9:]}"
    syntax = textwrap.shorten(str(facts.syntax), 40, placeholder="...")
    below = f"{name}\n{facts.photometric}, {facts.bits} bit, {facts.rows} x {facts.columns}\n{syntax}"
    axes.set_xlabel(below, fontsize=6.5, color=_INK)
