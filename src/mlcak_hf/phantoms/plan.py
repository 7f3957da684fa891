"""Choices about a phantom: patient, exposure and findings, each from an independent random stream."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DatasetError

SPLITS: tuple[str, ...] = ("train", "test")

#: Small, thin or fine findings, which a 28 px image loses.
SMALL_FINDINGS: tuple[str, ...] = ("Nodule/Mass", "Pneumothorax", "Pulmonary fibrosis")
#: Findings that change outlines or whole regions, which a 28 px image keeps.
LARGE_FINDINGS: tuple[str, ...] = ("Aortic enlargement", "Cardiomegaly", "Consolidation", "Pleural effusion")
#: All findings that phantoms can show. The other columns of the VinDr-CXR layout exist and are always 0.
DRAWN_FINDINGS: tuple[str, ...] = tuple(sorted(SMALL_FINDINGS + LARGE_FINDINGS))

#: Default share of images with each finding. Findings are drawn independently, so that a large one says nothing about a
#: small one; about half of all images have none.
PREVALENCE: Mapping[str, float] = {
    "Aortic enlargement": 0.10,
    "Cardiomegaly": 0.11,
    "Consolidation": 0.11,
    "Nodule/Mass": 0.08,
    "Pleural effusion": 0.11,
    "Pneumothorax": 0.08,
    "Pulmonary fibrosis": 0.08,
}

#: One patient in this many has two images, at successive positions of the split.
PATIENT_CYCLE = 4


def stream(seed: int, split: str, index: int, name: str) -> np.random.Generator:
    """Random generator of one choice about one image.

    With separate streams, choices are independent: the format or the noise cannot depend on how many numbers the
    findings used.

    Args:
        seed (`int`):
            Seed of the dataset.
        split (`str`):
            `"train"` or `"test"`.
        index (`int`):
            Position of the image (or number of the patient) in the split.
        name (`str`):
            Name of the choice.
    """
    return np.random.default_rng([seed, SPLITS.index(split), index, zlib.crc32(name.encode())])


def image_id(seed: int, split: str, index: int) -> str:
    """Name of the image: 32 hexadecimal digits, as in VinDr-CXR."""
    return hashlib.md5(f"mlcak phantom {seed} {split} {index}".encode(), usedforsecurity=False).hexdigest()


def patient_index(index: int) -> int:
    """Number of the patient at this position of a split."""
    cycle, rest = divmod(index, PATIENT_CYCLE + 1)
    return cycle * PATIENT_CYCLE + min(rest, PATIENT_CYCLE - 1)


def group_id(seed: int, split: str, index: int) -> str:
    """Pseudonymous patient of the image at this position of a split."""
    text = f"mlcak phantom patient {seed} {split} {patient_index(index)}"
    return "g" + hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:10]


def draw_findings(seed: int, split: str, index: int, prevalence: Mapping[str, float] = PREVALENCE) -> tuple[str, ...]:
    """True findings of an image, in the order of `DRAWN_FINDINGS`."""
    uniform = stream(seed, split, index, "findings").random(len(DRAWN_FINDINGS))
    return tuple(name for name, u in zip(DRAWN_FINDINGS, uniform, strict=True) if u < prevalence[name])


def check_findings(findings: Sequence[str]) -> tuple[str, ...]:
    """Findings in the order of `DRAWN_FINDINGS`.

    Raises:
        [`DatasetError`]: When phantoms cannot show one of them.
    """
    unknown = sorted(set(findings) - set(DRAWN_FINDINGS))
    if unknown:
        raise DatasetError(f"Findings must be in {', '.join(DRAWN_FINDINGS)}; got {', '.join(unknown)}.")
    return tuple(name for name in DRAWN_FINDINGS if name in findings)


@dataclass(frozen=True)
class Patient:
    """Anatomy shared by all images of a patient. Lengths in cm, as projected on the detector."""

    female: bool
    age_years: int
    half_width: float  # inner half width of the rib cage
    lung_height: float  # from apex to right diaphragm at full inspiration
    depth: float  # front to back of the trunk
    wall: float  # lateral thickness of the chest wall
    heart_ratio: float  # cardiothoracic ratio without cardiomegaly
    heart_right_share: float
    knob: float  # how far the aortic knob extends beyond the left mediastinal border
    rib_pitch: float
    rib_drop: float
    rib_half_width: float
    scoliosis: float
    breast: float
    vessels: float

    @classmethod
    def draw(cls, seed: int, split: str, patient: int) -> Patient:
        """Draw the patient with this number."""
        g = stream(seed, split, patient, "patient")
        female = bool(g.random() < 0.47)
        age = int(np.clip(g.normal(52, 17), 18, 92))
        size = g.normal(0, 1)
        build = g.normal(0, 1)
        half_width = float(np.clip((12.6 if female else 13.9) + 0.75 * size + 0.35 * build, 11.2, 16.0))
        height = (20.3 if female else 22.6) + 1.1 * size + g.normal(0, 0.9)
        return cls(
            female=female,
            age_years=age,
            half_width=half_width,
            lung_height=float(np.clip(height, 17.5, 26.0)),
            depth=float(np.clip(20.5 + 1.9 * build + 0.6 * size, 16.5, 27.0)),
            wall=float(np.clip(3.2 + 0.9 * build, 1.8, 6.0)),
            heart_ratio=float(np.clip(g.normal(0.445, 0.028), 0.37, 0.495)),
            heart_right_share=float(g.uniform(0.27, 0.37)),
            knob=float(np.clip(g.normal(0.75, 0.2) + 0.006 * (age - 50), 0.3, 1.25)),
            rib_pitch=float(g.uniform(0.094, 0.106)),
            rib_drop=float(g.uniform(0.75, 1.3)),
            rib_half_width=float(g.uniform(0.52, 0.68)),
            scoliosis=float(g.normal(0, 0.35)),
            breast=float(np.clip(g.normal(1.0, 0.45), 0.15, 2.2)) if female else 0.0,
            vessels=float(g.uniform(0.8, 1.25)),
        )


@dataclass(frozen=True)
class Exposure:
    """Pose, field of view and exposure of one image. Lengths in cm, angles in radians."""

    height: int
    width: int
    cm_per_px: float
    apex_row: float
    midline_column: float
    angle: float
    yaw: float  # rotation of the patient, which moves the mediastinum relative to the spine
    inspiration: float
    dose: float
    scatter: float
    contrast: float
    brightness: float
    gamma: float
    blur_px: float
    collimation: tuple[float, float, float, float] | None  # left, top, right, bottom, relative to the size
    collimation_angle: float

    @classmethod
    def draw(cls, seed: int, split: str, index: int, size_px: int, patient: Patient) -> Exposure:
        """Draw the exposure of one image; `size_px` is the typical shorter side."""
        g = stream(seed, split, index, "exposure")
        short = round(size_px * g.uniform(0.92, 1.12))
        long = round(short * float(g.choice([1.0, 1.1, 1.17, 1.22], p=[0.15, 0.25, 0.3, 0.3])))
        portrait = bool(g.random() < 0.72)
        height, width = (long, short) if portrait else (short, long)
        inspiration = float(g.uniform(0.80, 0.9)) if g.random() < 0.15 else float(g.uniform(0.93, 1.03))
        # The field of view contains the lungs with a varying margin.
        need_width = 2 * (patient.half_width + g.uniform(2.2, 6.5))
        need_height = patient.lung_height * inspiration + 4.5 + g.uniform(4.5, 11.0)
        cm_per_px = float(max(need_width / width, need_height / height))
        spare = height * cm_per_px - need_height
        top = g.uniform(3.0, 6.0) + spare * g.uniform(0.2, 0.5)
        collimated = g.random() < 0.35
        edges = tuple(float(v) for v in np.where(g.random(4) < 0.6, g.uniform(0.005, 0.05, 4), 0.0))
        return cls(
            height=height,
            width=width,
            cm_per_px=cm_per_px,
            apex_row=float(top / cm_per_px),
            midline_column=float(width * 0.5 + g.normal(0, 0.018) * width),
            angle=float(np.clip(g.normal(0, 0.022), -0.07, 0.07)),
            yaw=float(np.clip(g.normal(0, 0.35), -0.9, 0.9)),
            inspiration=inspiration,
            dose=float(np.exp(g.normal(0, 0.45))),
            scatter=float(g.uniform(0.25, 0.6)),
            contrast=float(np.exp(g.normal(0, 0.10))),
            brightness=float(g.normal(0, 0.035)),
            gamma=float(np.exp(g.normal(0, 0.12))),
            blur_px=float(g.uniform(0.3, 0.75)),
            collimation=edges if collimated and any(edges) else None,  # type: ignore[arg-type]
            collimation_angle=float(g.normal(0, 0.008)),
        )
