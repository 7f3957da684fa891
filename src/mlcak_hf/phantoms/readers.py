"""Three readers who disagree about each train image, and the consensus of the test images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .findings import Box, Finding
from .plan import DRAWN_FINDINGS

NUM_READERS = 17
READERS_PER_IMAGE = 3

#: The diagnosis that a reader gives with a finding; every other finding goes with "Other diseases".
DIAGNOSIS: dict[str, str] = {"Consolidation": "Pneumonia", "Nodule/Mass": "Lung tumor"}

_MISS_PLAIN, _MISS_SUBTLE = 0.04, 0.30
_TAKEN_IN_BY_MIMIC = 0.12
_INVENTED = 0.006
_JITTER = 0.06  # deviation of a box edge as a share of the box


@dataclass(frozen=True)
class Reading:
    """What one reader, or the consensus, wrote down about an image.

    Args:
        reader: "R1" to "R17", or "" for the consensus.
        boxes: (finding, box) pairs in pixels of the image; empty means "No finding".
    """

    reader: str
    boxes: tuple[tuple[str, Box], ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings, each once."""
        named = {name for name, _ in self.boxes}
        return tuple(name for name in DRAWN_FINDINGS if name in named)

    @property
    def diagnoses(self) -> tuple[str, ...]:
        """Global labels that go with the findings, under their train names; "No finding" if there are none."""
        if not self.boxes:
            return ("No finding",)
        return tuple(dict.fromkeys(DIAGNOSIS.get(name, "Other diseases") for name in self.findings))


def consensus(findings: tuple[Finding, ...]) -> Reading:
    """Return the truth as a reading."""
    return Reading("", tuple((finding.name, box) for finding in findings for box in finding.boxes))


def read_by_three(
    findings: tuple[Finding, ...],
    mimics: tuple[Finding, ...],
    height: int,
    width: int,
    g: np.random.Generator,
) -> tuple[Reading, ...]:
    """Return the readings of three different readers.

    Each has a skill of their own, misses subtle findings more often than plain ones, is sometimes taken in by a mimic,
    seldom invents a finding, and draws boxes with an unsteady hand.

    Args:
        findings: The truth.
        mimics: What looks like a finding.
        height: Of the image in pixels.
        width: Of the image in pixels.
        g: Generator of this image's readings.
    """
    numbers = sorted(g.choice(NUM_READERS, READERS_PER_IMAGE, replace=False) + 1)
    return tuple(_read(int(number), findings, mimics, height, width, g) for number in numbers)


def _read(
    number: int,
    findings: tuple[Finding, ...],
    mimics: tuple[Finding, ...],
    height: int,
    width: int,
    g: np.random.Generator,
) -> Reading:
    carelessness = 0.6 + 0.8 * (number * 7 % NUM_READERS) / NUM_READERS  # fixed for each reader
    boxes: list[tuple[str, Box]] = []
    for finding in findings:
        miss = carelessness * (_MISS_SUBTLE + (_MISS_PLAIN - _MISS_SUBTLE) * finding.conspicuity)
        if g.random() >= miss:
            boxes += [(finding.name, _jitter(box, height, width, g)) for box in finding.boxes]
    for mimic in mimics:
        if g.random() < carelessness * _TAKEN_IN_BY_MIMIC:
            boxes += [(mimic.name, _jitter(box, height, width, g)) for box in mimic.boxes[:1]]
    for name in DRAWN_FINDINGS:
        if g.random() < carelessness * _INVENTED:
            x, y = g.uniform(0.15, 0.7) * width, g.uniform(0.15, 0.7) * height
            size = g.uniform(0.05, 0.25, 2) * min(height, width)
            boxes.append((name, _jitter((x, y, x + size[0], y + size[1]), height, width, g)))
    return Reading(f"R{number}", tuple(boxes))


def _jitter(box: Box, height: int, width: int, g: np.random.Generator) -> Box:
    x0, y0, x1, y1 = box
    sx, sy = _JITTER * (x1 - x0) + 0.5, _JITTER * (y1 - y0) + 0.5
    shift = g.normal(0, 1, 4) * (sx, sy, sx, sy)
    x0, x1 = sorted(np.clip((x0 + shift[0], x1 + shift[2]), 0, width).tolist())
    y0, y1 = sorted(np.clip((y0 + shift[1], y1 + shift[3]), 0, height).tolist())
    # A box keeps at least two pixels, inside the image.
    x0, y0 = min(x0, width - 2.0), min(y0, height - 2.0)
    return x0, y0, max(x1, x0 + 2.0), max(y1, y0 + 2.0)
