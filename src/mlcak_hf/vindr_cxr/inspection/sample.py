"""A sample of radiographs, read as `mlcak prepare` would read them, for the estimate and the contact sheet."""

from __future__ import annotations

import io
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.filesize import decimal

from ...errors import DatasetError
from ...preparation.rows import ImageNotes, image_rows
from ..labels import VINDR_CXR_LABELS, Reading
from ..vindr_folder import VinDrRecord
from ..vindr_source import VinDrSource
from .file_facts import FileFacts, grouped

_ANY_READING = Reading("", (0,) * len(VINDR_CXR_LABELS))  # only the image matters here

_COLUMNS = 6
_INK, _PAPER, _WARNING = "#1a1a1a", "white", "#c62828"


@dataclass(frozen=True)
class SampledImage:
    """A radiograph as `prepare` would store it.

    Args:
        facts (`FileFacts`):
            The file.
        png (`bytes`):
            The stored image; empty if it cannot be read.
        duration_s (`float`):
            Time to read it in one process.
        problem (`str`, *optional*):
            Why it cannot be read.
        suspicions (`tuple[str, ...]`):
            Kinds of `SUSPICIONS` that apply.
    """

    facts: FileFacts
    png: bytes = b""
    duration_s: float = 0.0
    problem: str | None = None
    suspicions: tuple[str, ...] = ()


@dataclass(frozen=True)
class PreparationEstimate:
    """Estimated time and disk space of a preparation.

    Args:
        images (`int`):
            Images that would be prepared.
        sampled (`int`):
            Images read for the estimate.
        duration_s (`float`):
            Time that the processes need together.
        num_bytes (`int`):
            Size of the stored images.
        size_px (`int`):
            Side of the stored images.
        num_proc (`int`):
            Number of processes.
    """

    images: int
    sampled: int
    duration_s: float
    num_bytes: int
    size_px: int
    num_proc: int

    def summary(self) -> str:
        """Return a sentence for the terminal."""
        return (
            f"Estimate for mlcak prepare --size {self.size_px} --workers {self.num_proc}: about"
            f" {timedelta(seconds=max(1, round(self.duration_s)))} (h:m:s) and {decimal(self.num_bytes)} for"
            f" {self.images:,} images, from {self.sampled} sampled radiographs read with as many processes."
        )


def choose_sample(files: Sequence[FileFacts], number: int) -> list[FileFacts]:
    """Choose readable files, spread over transfer syntaxes, photometric interpretations and bit depths.

    Args:
        files (`Sequence[FileFacts]`):
            All files.
        number (`int`):
            Number of files to choose.

    Returns:
        `list[FileFacts]`: Files of each kind in turn, the most common kind first, evenly spaced within a kind.
    """
    kinds = grouped(((f.syntax, f.photometric, f.bits), f) for f in files if f.problem is None)
    turns = sorted((turn, kind) for kind, (_, alike) in enumerate(kinds) for turn in range(len(alike)))
    shares = Counter(kind for _, kind in turns[:number])
    return [alike[i * len(alike) // shares[k]] for k, (_, alike) in enumerate(kinds) for i in range(shares[k])]


def read_sampled(source: VinDrSource, facts: FileFacts) -> SampledImage:
    """Read one radiograph as `prepare` would; an error becomes its `problem`."""
    path = Path(source.data_dir) / facts.file
    record, notes = VinDrRecord(path.name, str(path), "", readings=(_ANY_READING,)), ImageNotes()
    start = time.perf_counter()
    try:
        rows = image_rows(source, "test", record, notes)
    except Exception as error:  # one file must not hide the others; the text of the error may quote it
        return SampledImage(facts, problem=f"The file cannot be read ({type(error).__name__}).")
    if notes.skipped:
        return SampledImage(facts, problem=notes.skipped[0].reason.removeprefix(f"{path.name}: "))
    suspicions = tuple(kind for kind, images in notes.suspect_images.items() if images)
    return SampledImage(facts, rows[0][1]["image"]["bytes"], time.perf_counter() - start, suspicions=suspicions)


def estimate(
    sample: Sequence[SampledImage], files: Sequence[FileFacts], size_px: int, num_proc: int
) -> PreparationEstimate | None:
    """Extrapolate from a sample to all files, separately for each transfer syntax.

    Args:
        sample (`Sequence[SampledImage]`):
            Sampled images.
        files (`Sequence[FileFacts]`):
            Files that would be prepared.
        size_px (`int`):
            Side of the stored images.
        num_proc (`int`):
            Number of processes, for the sample and for the preparation.

    Returns:
        [`PreparationEstimate`] or `None`: The estimate; `None` if no image could be read.
    """
    good = [image for image in sample if image.problem is None]
    if not good:
        return None
    duration_s = num_bytes = 0.0
    for syntax, number in Counter(facts.syntax for facts in files).items():
        like = [image for image in good if image.facts.syntax == syntax] or good
        # The median, as the first image of each process takes longer: it loads the decoder.
        duration_s += number * float(np.median([image.duration_s for image in like]))
        num_bytes += number * float(np.mean([len(image.png) for image in like]))
    return PreparationEstimate(len(files), len(good), duration_s / num_proc, round(num_bytes), size_px, num_proc)


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
        pixels = np.asarray(Image.open(io.BytesIO(image.png)))
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
