"""Choices about a phantom: patient, exposure and findings, each from an independent random stream."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping

import numpy as np

from ..errors import DatasetError

SPLITS: tuple[str, ...] = ("train", "test")

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
#: All findings that phantoms can show. The other columns of the VinDr-CXR layout exist and are always 0.
DRAWN_FINDINGS: tuple[str, ...] = tuple(PREVALENCE)

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


def patient_number(index: int) -> int:
    """Number of the patient at this position of a split."""
    cycle, rest = divmod(index, PATIENT_CYCLE + 1)
    return cycle * PATIENT_CYCLE + min(rest, PATIENT_CYCLE - 1)


def group_id(seed: int, split: str, index: int) -> str:
    """Pseudonymous patient of the image at this position of a split."""
    text = f"mlcak phantom patient {seed} {split} {patient_number(index)}"
    return "g" + hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:10]


def draw_findings(seed: int, split: str, index: int, prevalence: Mapping[str, float] = PREVALENCE) -> tuple[str, ...]:
    """True findings of an image, in the order of `DRAWN_FINDINGS`."""
    uniform = stream(seed, split, index, "findings").random(len(DRAWN_FINDINGS))
    return tuple(name for name, u in zip(DRAWN_FINDINGS, uniform, strict=True) if u < prevalence[name])


def check_findings(findings: Iterable[str]) -> None:
    """Check that phantoms can show these findings.

    Raises:
        [`DatasetError`]: When they cannot.
    """
    if unknown := sorted(set(findings) - set(DRAWN_FINDINGS)):
        raise DatasetError(f"Findings must be in {', '.join(DRAWN_FINDINGS)}; got {', '.join(unknown)}.")


class Patient:
    """Anatomy shared by all images of a patient. Lengths in cm, as projected on the detector."""

    def __init__(self, seed: int, split: str, number: int) -> None:
        g = stream(seed, split, number, "patient")
        self.female = g.random() < 0.47
        self.age_years = int(np.clip(g.normal(52, 17), 18, 92))
        size, build = g.normal(0, 1), g.normal(0, 1)
        half_width = (12.6 if self.female else 13.9) + 0.75 * size + 0.35 * build
        height = (20.3 if self.female else 22.6) + 1.1 * size + g.normal(0, 0.9)
        self.half_width = float(np.clip(half_width, 11.2, 16.0))  # inner half width of the rib cage
        self.lung_height = float(np.clip(height, 17.5, 26.0))  # from apex to right diaphragm at full inspiration
        self.depth = float(np.clip(20.5 + 1.9 * build + 0.6 * size, 16.5, 27.0))  # front to back of the trunk
        self.wall = float(np.clip(3.2 + 0.9 * build, 1.8, 6.0))  # lateral thickness of the chest wall
        self.heart_ratio = float(np.clip(g.normal(0.445, 0.028), 0.37, 0.495))  # cardiothoracic, if not enlarged
        self.heart_right_share = g.uniform(0.27, 0.37)
        # How far the aortic knob extends beyond the left mediastinal border.
        self.knob = float(np.clip(g.normal(0.75, 0.2) + 0.006 * (self.age_years - 50), 0.3, 1.25))
        self.rib_pitch = g.uniform(0.094, 0.106)
        self.rib_drop = g.uniform(0.75, 1.3)
        self.rib_half_width = g.uniform(0.52, 0.68)
        self.scoliosis = g.normal(0, 0.35)
        self.breast = float(np.clip(g.normal(1.0, 0.45), 0.15, 2.2)) if self.female else 0.0
        self.vessels = g.uniform(0.8, 1.25)


class Exposure:
    """Pose, field of view and exposure of one image. Lengths in cm, angles in radians.

    Args:
        seed (`int`):
            Seed of the dataset.
        split (`str`):
            `"train"` or `"test"`.
        index (`int`):
            Position of the image in the split.
        size_px (`int`):
            Typical length of the shorter side in pixels.
    """

    def __init__(self, seed: int, split: str, index: int, size_px: int) -> None:
        self.patient = patient = Patient(seed, split, patient_number(index))
        g = stream(seed, split, index, "exposure")
        short = round(size_px * g.uniform(0.92, 1.12))
        long = round(short * g.choice([1.0, 1.1, 1.17, 1.22], p=[0.15, 0.25, 0.3, 0.3]))
        portrait = g.random() < 0.72
        self.height: int = long if portrait else short
        self.width: int = short if portrait else long
        self.inspiration = g.uniform(0.80, 0.9) if g.random() < 0.15 else g.uniform(0.93, 1.03)
        # The field of view contains the lungs with a varying margin.
        need_width = 2 * (patient.half_width + g.uniform(2.2, 6.5))
        need_height = patient.lung_height * self.inspiration + 4.5 + g.uniform(4.5, 11.0)
        self.cm_per_px = max(need_width / self.width, need_height / self.height)
        spare = self.height * self.cm_per_px - need_height
        self.apex_row = (g.uniform(3.0, 6.0) + spare * g.uniform(0.2, 0.5)) / self.cm_per_px
        collimated = g.random() < 0.35
        edges = np.where(g.random(4) < 0.6, g.uniform(0.005, 0.05, 4), 0.0)
        self.collimation = edges * collimated  # left, top, right, bottom, relative to the size
        self.midline_column = self.width * 0.5 + g.normal(0, 0.018) * self.width
        self.angle = float(np.clip(g.normal(0, 0.022), -0.07, 0.07))
        # Rotation of the patient, which moves the mediastinum relative to the spine.
        self.yaw = float(np.clip(g.normal(0, 0.35), -0.9, 0.9))
        self.dose = float(np.exp(g.normal(0, 0.45)))
        self.scatter = g.uniform(0.25, 0.6)
        self.contrast = float(np.exp(g.normal(0, 0.10)))
        self.brightness = g.normal(0, 0.035)
        self.gamma = float(np.exp(g.normal(0, 0.12)))
        self.blur_px = g.uniform(0.3, 0.75)
        self.collimation_angle = g.normal(0, 0.008)
