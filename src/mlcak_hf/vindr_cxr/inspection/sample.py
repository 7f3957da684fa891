"""A few radiographs read as `mlcak prepare` would read them: how they look, how long it takes, how large they get."""

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

from ...errors import DicomError
from ...image_geometry_mlcak import map_boxes
from ...preparation.rows import RowReader, image_rows
from ...preparation.suspect_images import SuspectImages
from ..labels import NO_FINDING, VINDR_CXR_LABELS, Reading
from ..vindr_folder import VinDrRecord
from ..vindr_source import VinDrSource
from .file_facts import FileFacts

# Any reading does where only the image matters.
_READING = Reading("", tuple(int(name == NO_FINDING) for name in VINDR_CXR_LABELS))
_warm: set[str] = set()


@dataclass(frozen=True)
class SampledImage:
    """One radiograph as it would be stored.

    Args:
        facts: Its file.
        png: The stored image; empty if it cannot be read.
        duration_s: Seconds of work on it in one process.
        inverted: Whether it looks like the negative of a chest.
        crushed: Whether it is a 16-bit picture that seems to hold 12 bits, of which few grey levels are left.
        problem: Why it cannot be read.
    """

    facts: FileFacts
    png: bytes = b""
    duration_s: float = 0.0
    inverted: bool = False
    crushed: bool = False
    problem: str | None = None

    @property
    def pixels(self) -> npt.NDArray[np.float32]:
        """The stored image in [0, 1], shape (size_px, size_px)."""
        return stored_pixels(self.png)

    @property
    def inner(self) -> npt.NDArray[np.float32]:
        """The stored image without the padding that made it square."""
        pixels, size = self.pixels, (self.facts.rows or 1, self.facts.columns or 1)
        x0, y0, x1, y1 = map_boxes([[0, 0, size[1], size[0]]], size, pixels.shape, "pad")[0]
        return pixels[math.ceil(y0) : math.floor(y1), math.ceil(x0) : math.floor(x1)]


@dataclass(frozen=True)
class Estimate:
    """Time and disk that a preparation takes, from a sample.

    Args:
        images: Images that would be prepared.
        sampled: Images really read for it.
        duration_s: Seconds of work, all processes together.
        num_bytes: Size of the stored images.
    """

    images: int
    sampled: int
    duration_s: float
    num_bytes: int


def stored_pixels(png: bytes) -> npt.NDArray[np.float32]:
    """Read a stored image back to [0, 1], shape (size_px, size_px)."""
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(np.asarray(picture, dtype=np.float32) / np.float32(255))


def choose_sample(files: Sequence[FileFacts], number: int) -> list[FileFacts]:
    """Choose usable files, spread over transfer syntaxes, photometric interpretations and bit depths.

    Args:
        files: All files.
        number: How many to choose, if there are as many.

    Returns:
        The chosen ones: in turn one of each kind, the commonest kind first, and evenly spaced within a kind.
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
    """Read one radiograph as a preparation with these choices would; what goes wrong is in `problem`."""
    root = Path(source.data_dir)
    path = str(root / facts.folder / facts.name)
    record = VinDrRecord(facts.name, path, facts.name, readings=(_READING,))
    reader = RowReader(source, "test", None)
    try:
        if str(facts.syntax) not in _warm:  # a decoder's first call loads it
            list(image_rows(record, reader, SuspectImages()))
            _warm.add(str(facts.syntax))
        start = time.perf_counter()
        suspects = SuspectImages()
        ((_, row),) = image_rows(record, reader, suspects)
        png = row["image"]["bytes"]
        duration_s = time.perf_counter() - start
    except DicomError as error:
        reason = str(error).replace(f"{root}{os.sep}", "")  # a path may name a person
        return SampledImage(facts, problem=reason.removeprefix(f"{facts.name}: "))
    except Exception as error:  # whatever one file does, the others are still to be told
        return SampledImage(facts, problem=f"it cannot be read ({type(error).__name__})")
    return SampledImage(facts, png, duration_s, bool(suspects.inverted), bool(suspects.underfilled_range))


def estimate(sample: Sequence[SampledImage], files: Sequence[FileFacts]) -> Estimate | None:
    """Extrapolate a sample to the files to prepare, each transfer syntax from its own images.

    Args:
        sample: The images read.
        files: The files to prepare.

    Returns:
        The estimate; None if no image could be read.
    """
    good = [image for image in sample if image.problem is None]
    if not good:
        return None
    duration_s = num_bytes = 0.0
    for syntax, number in Counter(facts.syntax for facts in files).items():
        like = [image for image in good if image.facts.syntax == syntax] or good
        duration_s += number * float(np.mean([image.duration_s for image in like]))
        num_bytes += number * float(np.mean([len(image.png) for image in like]))
    return Estimate(len(files), len(good), duration_s, round(num_bytes))
