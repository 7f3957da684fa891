"""A sample of radiographs, read as `mlcak prepare` would read them, to check them and to estimate time and size."""

from __future__ import annotations

import io
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...image_geometry_mlcak import map_boxes
from ...preparation.rows import ImageNotes, image_rows
from ..labels import NO_FINDING, VINDR_CXR_LABELS, Reading
from ..vindr_folder import VinDrRecord
from ..vindr_source import VinDrSource
from .file_facts import FileFacts

# Only the image matters here, so that any reading will do.
_READING = Reading("", tuple(int(name == NO_FINDING) for name in VINDR_CXR_LABELS))
_warm: set[str] = set()


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
        suspicions (`tuple[str, ...]`):
            Kinds of `SUSPICIONS` that it belongs to.
        problem (`str`, *optional*):
            Why it cannot be read.
    """

    facts: FileFacts
    png: bytes = b""
    duration_s: float = 0.0
    suspicions: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def pixels(self) -> npt.NDArray[np.float32]:
        """Stored image in [0, 1] of shape (size_px, size_px)."""
        with Image.open(io.BytesIO(self.png)) as picture:
            return np.asarray(np.asarray(picture, dtype=np.float32) / np.float32(255))

    @property
    def inner(self) -> npt.NDArray[np.float32]:
        """Stored image without its padding."""
        pixels, size = self.pixels, (self.facts.rows or 1, self.facts.columns or 1)
        x0, y0, x1, y1 = map_boxes([[0, 0, size[1], size[0]]], size, pixels.shape, "pad")[0]
        return pixels[math.ceil(y0) : math.floor(y1), math.ceil(x0) : math.floor(x1)]


@dataclass(frozen=True)
class PreparationEstimate:
    """Estimated time and disk space of a preparation.

    Args:
        images (`int`):
            Images that would be prepared.
        sampled (`int`):
            Images read for the estimate.
        duration_s (`float`):
            Total time of all processes.
        num_bytes (`int`):
            Size of the stored images.
    """

    images: int
    sampled: int
    duration_s: float
    num_bytes: int

    def summary(self, size_px: int, num_proc: int) -> str:
        """Sentence for the terminal, for images of this size and this number of processes."""
        return (
            f"Estimate for mlcak prepare --size {size_px} --workers {num_proc}: about"
            f" {_time_text(self.duration_s / num_proc)} and {bytes_text(self.num_bytes)} for {self.images:,} images,"
            f" from {self.sampled} sampled radiographs read with as many processes."
        )


def bytes_text(number: float) -> str:
    """Size in B, kB, MB, GB or TB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit != "B" else f"{number:.0f} B"
        number /= 1000
    return f"{number:.3g} TB"


def _time_text(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def choose_sample(files: Sequence[FileFacts], number: int) -> list[FileFacts]:
    """Choose usable files, spread over transfer syntaxes, photometric interpretations and bit depths.

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
        if facts.usable:
            kinds.setdefault((facts.syntax, facts.photometric, facts.bits), []).append(facts)
    ranked = sorted(kinds.values(), key=len, reverse=True)
    shares = [0] * len(ranked)
    for _ in range(min(number, sum(map(len, ranked)))):
        open_kinds = [k for k, kind in enumerate(ranked) if shares[k] < len(kind)]
        shares[min(open_kinds, key=lambda k: (shares[k], k))] += 1
    return [kind[i * len(kind) // share] for kind, share in zip(ranked, shares, strict=True) for i in range(share)]


def read_sampled(source: VinDrSource, facts: FileFacts) -> SampledImage:
    """Read one radiograph as `prepare` would; an error becomes its `problem`."""
    root = Path(source.data_dir)
    path = str(root / facts.folder / facts.name)
    record = VinDrRecord(facts.name, path, facts.name, readings=(_READING,))
    notes = ImageNotes()
    try:
        if str(facts.syntax) not in _warm:  # the first call loads the decoder
            image_rows(source, "test", record, ImageNotes())
            _warm.add(str(facts.syntax))
        start = time.perf_counter()
        rows = image_rows(source, "test", record, notes)
        duration_s = time.perf_counter() - start
    except Exception as error:  # one file must not hide the others
        return SampledImage(facts, problem=f"it cannot be read ({type(error).__name__})")
    if notes.skipped:
        reason = notes.skipped[0].reason.replace(f"{root}{os.sep}", "")  # a path may contain a name
        return SampledImage(facts, problem=reason.removeprefix(f"{facts.name}: "))
    found = tuple(kind for kind, images in notes.suspect_images.items() if images)
    return SampledImage(facts, rows[0][1]["image"]["bytes"], duration_s, found)


def estimate(sample: Sequence[SampledImage], files: Sequence[FileFacts]) -> PreparationEstimate | None:
    """Extrapolate from a sample to all files, separately for each transfer syntax.

    Args:
        sample (`Sequence[SampledImage]`):
            Sampled images.
        files (`Sequence[FileFacts]`):
            Files that would be prepared.

    Returns:
        [`PreparationEstimate`] or `None`: The estimate; `None` if no image could be read.
    """
    good = [image for image in sample if image.problem is None]
    if not good:
        return None
    duration_s = num_bytes = 0.0
    for syntax, number in Counter(facts.syntax for facts in files).items():
        like = [image for image in good if image.facts.syntax == syntax] or good
        duration_s += number * float(np.mean([image.duration_s for image in like]))
        num_bytes += number * float(np.mean([len(image.png) for image in like]))
    return PreparationEstimate(len(files), len(good), duration_s, round(num_bytes))
