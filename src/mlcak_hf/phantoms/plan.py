"""What one phantom is: who is imaged, how, with which findings. Every choice has a random stream of its own."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ..errors import DatasetError

SPLITS: tuple[str, ...] = ("train", "test")

#: Findings that a 28 px image loses: small, thin or fine.
SMALL_FINDINGS: tuple[str, ...] = ("Nodule/Mass", "Pneumothorax", "Pulmonary fibrosis")
#: Findings that a 28 px image keeps: they change outlines or whole regions.
LARGE_FINDINGS: tuple[str, ...] = ("Aortic enlargement", "Cardiomegaly", "Consolidation", "Pleural effusion")
#: All findings that are ever drawn. The other columns of the VinDr-CXR layout exist and are always 0.
DRAWN_FINDINGS: tuple[str, ...] = tuple(sorted(SMALL_FINDINGS + LARGE_FINDINGS))

#: Share of images with each finding. Findings are drawn independently of each other, so that a large one says nothing
#: about a small one; together they leave about half of all images without any. `write_phantoms` takes others.
PREVALENCE: dict[str, float] = {
    "Aortic enlargement": 0.10,
    "Cardiomegaly": 0.11,
    "Consolidation": 0.11,
    "Nodule/Mass": 0.08,
    "Pleural effusion": 0.11,
    "Pneumothorax": 0.08,
    "Pulmonary fibrosis": 0.08,
}

#: One patient in this many has two images, which stand next to each other in the split.
PATIENT_CYCLE = 4


def stream(seed: int, split: str, index: int, name: str) -> np.random.Generator:
    """Return the random generator of one choice about one image.

    Separate streams make the choices independent: what is drawn for the format or the noise cannot depend on how many
    numbers the findings used.

    Args:
        seed: Seed of the whole data set.
        split: "train" or "test".
        index: Position of the image (or of the patient) in the split.
        name: Name of the choice.
    """
    return np.random.default_rng([seed, SPLITS.index(split), index, zlib.crc32(name.encode())])


def image_id(seed: int, split: str, index: int) -> str:
    """Return the image's name, 32 hexadecimal digits as in VinDr-CXR."""
    return hashlib.md5(f"mlcak phantom {seed} {split} {index}".encode(), usedforsecurity=False).hexdigest()


def patient_index(index: int) -> int:
    """Return the number of the patient whose image stands at this position of a split."""
    cycle, rest = divmod(index, PATIENT_CYCLE + 1)
    return cycle * PATIENT_CYCLE + min(rest, PATIENT_CYCLE - 1)


def group_id(seed: int, split: str, index: int) -> str:
    """Return the pseudonymous patient group of the image at this position."""
    text = f"mlcak phantom patient {seed} {split} {patient_index(index)}"
    return "g" + hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:10]


def check_prevalence(given: Mapping[str, float] | None) -> dict[str, float]:
    """Return the share of images with each drawn finding: as given, else as in `PREVALENCE`.

    Raises:
        DatasetError: if a finding is never drawn, or a share lies outside 0 to 1.
    """
    check_findings(tuple(given or ()))
    for name, share in (given or {}).items():
        if not 0 <= share <= 1:
            raise DatasetError(f"The prevalence of {name} must lie between 0 and 1; got {share}.")
    return PREVALENCE | dict(given or {})


def draw_findings(
    seed: int, split: str, index: int, prevalence: Mapping[str, float] = MappingProxyType(PREVALENCE)
) -> tuple[str, ...]:
    """Return the findings that the image truly has, in the order of `DRAWN_FINDINGS`."""
    uniform = stream(seed, split, index, "findings").random(len(DRAWN_FINDINGS))
    return tuple(name for name, u in zip(DRAWN_FINDINGS, uniform, strict=True) if u < prevalence[name])


def check_findings(findings: Sequence[str]) -> tuple[str, ...]:
    """Return the findings in drawing order; raise `DatasetError` for one that is never drawn."""
    unknown = sorted(set(findings) - set(DRAWN_FINDINGS))
    if unknown:
        raise DatasetError(f"Phantoms cannot show {', '.join(unknown)}; choose from {', '.join(DRAWN_FINDINGS)}.")
    return tuple(name for name in DRAWN_FINDINGS if name in findings)


@dataclass(frozen=True)
class Patient:
    """Anatomy that all images of one patient share. Lengths in cm, as projected on the detector."""

    female: bool
    age_years: int
    half_width: float  # of the rib cage, inside
    lung_height: float  # apex to right diaphragm, at full inspiration
    depth: float  # front to back of the trunk
    wall: float  # chest wall at the side
    heart_ratio: float  # of the normal heart to the rib cage
    heart_right_share: float
    knob: float  # aortic knob beyond the left mediastinal border
    rib_pitch: float
    rib_drop: float
    rib_half_width: float
    scoliosis: float
    breast: float
    vessels: float

    @classmethod
    def draw(cls, seed: int, split: str, patient: int) -> Patient:
        """Draw the patient from the stream of their number."""
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
    """How one image was taken. Lengths in cm, angles in radians."""

    height: int
    width: int
    cm_per_px: float
    apex_row: float
    midline_column: float
    angle: float
    yaw: float  # turn of the patient: the mediastinum moves against the spine
    inspiration: float
    dose: float
    scatter: float
    contrast: float
    brightness: float
    gamma: float
    blur_px: float
    collimation: tuple[float, float, float, float] | None  # left, top, right, bottom as shares of the size
    collimation_angle: float

    @classmethod
    def draw(cls, seed: int, split: str, index: int, size_px: int, patient: Patient) -> Exposure:
        """Draw pose, field of view and exposure of one image; `size_px` is the typical shorter side."""
        g = stream(seed, split, index, "exposure")
        short = round(size_px * g.uniform(0.92, 1.12))
        long = round(short * float(g.choice([1.0, 1.1, 1.17, 1.22], p=[0.15, 0.25, 0.3, 0.3])))
        portrait = bool(g.random() < 0.72)
        height, width = (long, short) if portrait else (short, long)
        inspiration = float(g.uniform(0.80, 0.9)) if g.random() < 0.15 else float(g.uniform(0.93, 1.03))
        # The field of view holds the lungs with a varying margin.
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
