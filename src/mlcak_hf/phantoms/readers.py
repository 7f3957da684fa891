"""Three readers who disagree about each training image, and the consensus of the test images."""

from __future__ import annotations

import numpy as np

from ..vindr_cxr.labels import NO_FINDING
from .canvas import PixelBox
from .findings import Finding
from .plan import DRAWN_FINDINGS

NUM_READERS, READERS_PER_IMAGE = 17, 3

#: What one reader marks: pairs (finding, box in pixels of the image). Empty means "No finding".
Boxes = list[tuple[str, PixelBox]]

#: Diagnosis that readers give for a finding; for every other finding it is "Other diseases".
DIAGNOSIS: dict[str, str] = {"Consolidation": "Pneumonia", "Nodule/Mass": "Lung tumor"}

# Probabilities of an average reader.
_MISS_OBVIOUS, _MISS_SUBTLE, _MISTAKE_MIMIC, _INVENT = 0.04, 0.30, 0.12, 0.006
_JITTER = 0.06  # standard deviation of a box edge, relative to the size of the box


def labels_of(boxes: Boxes) -> set[str]:
    """Names of the findings and of the diagnoses they lead to, or "No finding"."""
    findings = {name for name, _ in boxes}
    return findings | {DIAGNOSIS.get(name, "Other diseases") for name in findings} or {NO_FINDING}


def read_by_three(
    findings: tuple[Finding, ...], mimics: tuple[Finding, ...], size: tuple[int, ...], g: np.random.Generator
) -> dict[str, Boxes]:
    """Boxes that three different readers draw on an image, by reader (`"R1"` to `"R17"`).

    Each reader has an individual skill, misses subtle findings more often than obvious ones, sometimes mistakes a mimic
    for a finding, rarely invents one, and draws slightly inaccurate boxes.

    Args:
        findings (`tuple`):
            The true findings.
        mimics (`tuple`):
            Structures that look like a finding.
        size (`tuple`):
            Height and width of the image in pixels.
        g (`np.random.Generator`):
            Generator of the readings of this image.
    """
    readings: dict[str, Boxes] = {}
    for number in sorted(g.choice(NUM_READERS, READERS_PER_IMAGE, replace=False) + 1):
        carelessness = 0.6 + 0.8 * (number * 7 % NUM_READERS) / NUM_READERS  # fixed for each reader
        boxes = readings[f"R{number}"] = []
        for finding in findings:
            miss = carelessness * (_MISS_SUBTLE + (_MISS_OBVIOUS - _MISS_SUBTLE) * finding.conspicuity)
            if g.random() >= miss:
                boxes += [(finding.name, _jitter(box, size, g)) for box in finding.boxes]
        for mimic in mimics:
            if g.random() < carelessness * _MISTAKE_MIMIC:
                boxes.append((mimic.name, _jitter(mimic.boxes[0], size, g)))
        for name in DRAWN_FINDINGS:
            if g.random() < carelessness * _INVENT:
                x, y = g.uniform(0.15, 0.7) * size[1], g.uniform(0.15, 0.7) * size[0]
                wide, high = g.uniform(0.05, 0.25, 2) * min(size)
                boxes.append((name, _jitter((x, y, x + wide, y + high), size, g)))
    return readings


def _jitter(box: PixelBox, size: tuple[int, ...], g: np.random.Generator) -> PixelBox:
    low, high = np.array(box).reshape(2, 2)
    deviation = _JITTER * (high - low) + 0.5
    corners = np.clip(np.array([low, high]) + g.normal(0, 1, (2, 2)) * deviation, 0, size[::-1])
    # A box keeps at least two pixels inside the image.
    low = np.minimum(corners.min(axis=0), np.subtract(size[::-1], 2.0))
    high = np.maximum(corners.max(axis=0), low + 2.0)
    return (*low.tolist(), *high.tolist())
