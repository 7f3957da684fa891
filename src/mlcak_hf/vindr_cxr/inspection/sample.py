"""A sample of radiographs, read as `mlcak prepare` would read them, to check them and to estimate time and size."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.filesize import decimal

from ...preparation.rows import ImageNotes, image_rows
from ..labels import VINDR_CXR_LABELS, Reading
from ..vindr_folder import VinDrRecord
from ..vindr_source import VinDrSource
from .file_facts import FileFacts

_ANY_READING = Reading("", (0,) * len(VINDR_CXR_LABELS))  # only the image matters here


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

    @property
    def pixels(self) -> npt.NDArray[np.integer]:
        """Stored image of shape (size_px, size_px), uint8 or uint16."""
        with Image.open(io.BytesIO(self.png)) as picture:
            return np.asarray(picture)


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
    kinds: dict[tuple[object, ...], list[FileFacts]] = {}
    for facts in files:
        if facts.problem is None:
            kinds.setdefault((facts.syntax, facts.photometric, facts.bits), []).append(facts)
    ranked = sorted(kinds.values(), key=len, reverse=True)
    shares = [0] * len(ranked)
    for _ in range(min(number, sum(map(len, ranked)))):
        open_kinds = [k for k, kind in enumerate(ranked) if shares[k] < len(kind)]
        shares[min(open_kinds, key=lambda k: (shares[k], k))] += 1
    return [kind[i * len(kind) // share] for kind, share in zip(ranked, shares, strict=True) for i in range(share)]


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
