"""How often do the input checks of `mlcak predict` warn of good radiographs, and how often do they miss changed ones?

Checked are all images of the Parquet files and all DICOM files below a folder: untouched, inverted, upside down and
turned by 90 degrees; with a flat image and white noise for each. They are split into halves by a hash of the patient,
DICOM files, for which no patient is known here, by their names: a copy of a Parquet image may be in the other half.

The shipped weights were fitted to one half of the patients by another hash, and the shipped limits chosen with the
figures of all images in view, so for the shipped checks neither half is an untouched test set. Therefore the script
also fits weights and limits again, on the first half only: the last row is held out, except for such copies.

    python examples/benchmarks/input_checks.py --data-dir data

Exit status 1 if the shipped checks miss a bar in either half. 7,000 images take about 5 minutes on one free core.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mlcak_hf.errors import MLCAKError
from mlcak_hf.radiographs.polarity import brightness_grid
from mlcak_hf.radiographs.read import read_with_facts
from mlcak_hf.trust import input_checks
from mlcak_hf.trust.input_checks import file_warnings, image_warnings

HALVES = {
    "shipped": ("first half", "second half"),
    "refitted": ("first half, used to set thresholds", "second half, held out"),
}
# Variant: how it is made, and the least share with a warning; for untouched images, the largest.
VARIANTS = {
    "untouched": (lambda image: image, 0.01),
    "inverted": (lambda image: 1 - image, 0.95),
    "upside down": (lambda image: image[::-1], 0.90),
    "turned left": (np.rot90, 0.90),
    "turned right": (lambda image: np.rot90(image, 3), 0.90),
    "flat": (lambda image: np.full_like(image, image.mean()), 1.0),
    "noise": (lambda image: np.random.default_rng(int(1e6 * image[0, 0])).random(image.shape, np.float32), 1.0),
}
FALSE_WARNINGS = 0.004  # share of the first half below each of the two refitted limits
RIDGE = 30.0
CHECKED_PX = 64


def list_images(data_dir: Path) -> Iterator[tuple[str, Path]]:
    """Yield (patient, or name of a DICOM file; file); images of Parquet files in a temporary file, one at a time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image"
        for parquet in sorted(data_dir.rglob("*.parquet")):
            columns = pq.read_table(parquet, columns=["patient_id", "image"]).to_pydict()
            for patient, image in zip(columns["patient_id"], columns["image"], strict=True):
                file.write_bytes(image["bytes"])
                yield str(patient), file
    yield from ((file.stem, file) for file in sorted(data_dir.rglob("*.dicom")))


def refit(grids: np.ndarray) -> dict[str, object]:
    """Fit both discriminants to brightness grids `(n, 5, 5)` and set their limits: the constants of the checks."""
    upright = (grids - grids.mean((1, 2), keepdims=True)) / grids.std((1, 2), keepdims=True)
    both = np.concatenate([upright, upright[:, :, ::-1]])
    turned = np.concatenate([np.rot90(both, k, (1, 2)) for k in (1, 3)])
    found = {}
    for name, other in (("UPSIDE_DOWN", both[:, ::-1]), ("TURNED", turned)):
        x = np.concatenate([both] * (len(other) // len(both)) + [other]).reshape(-1, 25)
        y = np.repeat([1.0, -1.0], len(other))
        weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(25), x.T @ y).reshape(5, 5)
        limit = np.quantile((upright * weights).sum((1, 2)), FALSE_WARNINGS)
        found |= {f"_NOT_{name}": weights, "_LEAST_UPRIGHT" if name == "UPSIDE_DOWN" else "_LEAST_NOT_TURNED": limit}
    return found


def read_halves(data_dir: Path) -> tuple[list[list[tuple[np.ndarray, bool]]], int]:
    """Images at the size that is checked, each with whether its file gives a warning, by half; and how many failed."""
    halves, unreadable = [[], []], 0
    for patient, file in track(list_images(data_dir), "reading", total=None):
        try:
            read = read_with_facts(file, CHECKED_PX, "squash")
        except MLCAKError:
            unreadable += 1
            continue
        warned = bool(file_warnings(file, (read.original_height, read.original_width)) or read.contrast_problem)
        half = hashlib.md5(patient.encode(), usedforsecurity=False).digest()[0] % 2
        halves[half].append((read.pixels, warned))
    return halves, unreadable


def shares(half: list[tuple[np.ndarray, bool]], title: str) -> dict[str, float]:
    """Share of images with a warning, for each variant; a warning about the file counts for the untouched image."""
    found = dict.fromkeys(VARIANTS, 0)
    for image, of_file in track(half, title):
        for name, (make, _) in VARIANTS.items():
            found[name] += bool(image_warnings(make(image))) or (name == "untouched" and of_file)
    return {name: count / len(half) for name, count in found.items()}


def main() -> int:
    """Read all images, check every variant, print both halves, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    halves, unreadable = read_halves(parser.parse_args().data_dir)
    refitted = refit(np.stack([brightness_grid(image) for image, _ in halves[0]]))
    table, missed = Table("checks", "half", "images", *VARIANTS), []
    for checks, constants in (("shipped", {}), ("refitted", refitted)):
        for name, half in zip(HALVES[checks], halves, strict=True):
            with patch.dict(vars(input_checks), constants):
                found = shares(half, f"{checks}, {name}")
            table.add_row(checks, name, str(len(half)), *(f"{100 * share:.2f} %" for share in found.values()))
            for variant, (_, bar) in VARIANTS.items():
                met = found[variant] <= bar if variant == "untouched" else found[variant] >= bar
                missed += [] if met or checks == "refitted" else [f"{variant} ({name})"]
    out = Console(width=140)
    out.print(table, f"Unreadable: {unreadable}.", sep="\n")
    out.print(f"Bars missed: {', '.join(missed)}." if missed or unreadable else "Every bar is met.")
    return int(bool(missed or unreadable))


if __name__ == "__main__":
    sys.exit(main())
