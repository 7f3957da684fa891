"""Phantoms on disk, in the layout of VinDr-CXR on PhysioNet."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from transformers.utils import logging

from ..errors import DatasetError
from ..vindr_cxr.labels import NO_FINDING, VINDR_CXR_LABELS
from ..worker_processes import map_in_processes
from .dicom_format import DicomFormat, to_dicom
from .plan import (
    DRAWN_FINDINGS,
    SPLITS,
    Exposure,
    Patient,
    check_prevalence,
    draw_findings,
    group_id,
    image_id,
    patient_index,
    stream,
)
from .readers import Reading, consensus, read_by_three
from .render import render_phantom

#: Written beside the images; a folder without it is never cleared.
RECORD = "phantom.json"
#: Smallest picture on which the anatomy can still be drawn.
MIN_SIZE_PX = 64


@dataclass(frozen=True)
class PhantomReport:
    """What `write_phantoms` made.

    Args:
        output_dir: Folder in the VinDr-CXR layout.
        groups_file: CSV with image_id and group_id (the made-up patient).
        num_images: Images per split.
        num_abnormal: Images per split that truly show a finding.
        finding_counts: Per split, the images that truly show each drawn finding.
        transfer_syntaxes: Images per name of the transfer syntax, over both splits.
    """

    output_dir: Path
    groups_file: Path
    num_images: dict[str, int]
    num_abnormal: dict[str, int]
    finding_counts: dict[str, dict[str, int]]
    transfer_syntaxes: dict[str, int]


@dataclass(frozen=True)
class _Written:
    split: str
    image_id: str
    group_id: str
    truth: tuple[str, ...]
    readings: tuple[Reading, ...]
    transfer_syntax: str


def write_phantoms(
    output_dir: str | os.PathLike[str],
    num_train: int = 1000,
    num_test: int = 300,
    size_px: int = 512,
    seed: int = 0,
    num_proc: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    prevalence: Mapping[str, float] | None = None,
) -> PhantomReport:
    """Write synthetic chest radiographs as DICOM files with annotations, laid out exactly as VinDr-CXR.

    Train images are read by three readers who disagree; test images carry the truth as a consensus. Findings are drawn
    independently of each other and of format, exposure and noise. Only `DRAWN_FINDINGS` ever occur; the other columns
    are 0. `groups.csv` names the made-up patient of each image, some of whom have two.

    Args:
        output_dir: Folder to make. It must not hold phantoms already, unless `overwrite`.
        num_train: Number of train images.
        num_test: Number of test images.
        size_px: Typical length of the shorter side in pixels, at least 64.
        seed: Same seed, same bytes, whatever `num_proc` is.
        num_proc: Number of processes; `None` uses one.
        progress: Whether to show a progress bar.
        overwrite: Replace phantoms that an earlier call wrote here.
        prevalence: Share of images with a finding, 0 to 1, for those of `DRAWN_FINDINGS` that shall differ from
            `PREVALENCE`.

    Returns:
        Counts and places of what was written.

    Raises:
        DatasetError: If the folder is in use or cannot be written to, a number is out of range, or a process dies.

    Example:
        >>> from mlcak_hf.data.phantom import write_phantoms
        >>> report = write_phantoms("phantoms", num_train=8, num_test=4)  # doctest: +SKIP
    """
    if num_train < 0 or num_test < 0 or num_train + num_test == 0:
        raise DatasetError(f"Expected at least one phantom, got num_train={num_train} and num_test={num_test}.")
    if size_px < MIN_SIZE_PX:
        raise DatasetError(f"size_px must be at least {MIN_SIZE_PX} for anatomy to be drawn, got {size_px}.")
    if num_proc is not None and num_proc < 1:
        raise DatasetError(f"num_proc must be at least 1, got {num_proc}.")
    shares = check_prevalence(prevalence)
    root, counts = Path(output_dir), dict(zip(SPLITS, (num_train, num_test), strict=True))
    with _explained_write(root):
        _make_room(root, overwrite)
        return _write_all(root, counts, size_px, seed, shares, num_proc or 1, progress)


def _write_all(
    root: Path,
    counts: dict[str, int],
    size_px: int,
    seed: int,
    shares: dict[str, float],
    num_proc: int,
    progress: bool,
) -> PhantomReport:
    # Written first, so that a stopped run can be overwritten.
    record = {"seed": seed, "size_px": size_px, "num_images": counts, "prevalence": shares}
    (root / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name in (*SPLITS, "annotations"):
        (root / name).mkdir(exist_ok=True)

    jobs = [(split, index) for split in SPLITS for index in range(counts[split])]
    work = functools.partial(_write_one, root, seed, size_px, shares)
    results = map_in_processes(work, jobs, num_proc, doing="drawing phantoms", preload=__name__)
    written = list(logging.tqdm(results, total=len(jobs), desc="phantoms", unit="image", disable=not progress))
    for split in SPLITS:
        _write_annotations(root / "annotations", split, [w for w in written if w.split == split])
    groups_file = root / "groups.csv"
    _write_csv(groups_file, ["image_id", "group_id"], ([w.image_id, w.group_id] for w in written))
    report = PhantomReport(
        output_dir=root,
        groups_file=groups_file,
        num_images=counts,
        num_abnormal={split: sum(bool(w.truth) for w in written if w.split == split) for split in SPLITS},
        finding_counts={
            split: {name: sum(name in w.truth for w in written if w.split == split) for name in DRAWN_FINDINGS}
            for split in SPLITS
        },
        transfer_syntaxes=_tally(w.transfer_syntax for w in written),
    )
    summary = {k: v for k, v in asdict(report).items() if k not in ("output_dir", "groups_file", "num_images")}
    (root / RECORD).write_text(json.dumps(record | summary, indent=2) + "\n", encoding="utf-8")
    return report


@contextlib.contextmanager
def _explained_write(root: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into one DatasetError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"Cannot write phantoms to {root}: {error.strerror or error}. Name a folder that can be written to, on a"
            " disk with space; phantoms that lie there already are replaced with overwrite=True (--overwrite)."
        ) from None


def _make_room(root: Path, overwrite: bool) -> None:
    if root.exists() and not root.is_dir():
        raise DatasetError(f"{root} is a file; name a folder for the phantoms.")
    if not root.exists() or not any(root.iterdir()):
        root.mkdir(parents=True, exist_ok=True)
        return
    if not (root / RECORD).is_file():
        raise DatasetError(f"{root} holds files that are no phantoms ({RECORD} is missing); choose an empty folder.")
    if not overwrite:
        raise DatasetError(f"{root} already holds phantoms; name another folder, or pass overwrite=True (--overwrite).")
    for name in (*SPLITS, "annotations"):
        shutil.rmtree(root / name, ignore_errors=True)


@functools.cache  # once per process
def _keep_freed_memory() -> None:
    """Make the C library keep the memory of freed arrays, which saves a fifth of the time.

    glibc raises its thresholds to the size of the largest block freed so far; elsewhere this has no effect.
    """
    block = np.empty(31 * 2**20, dtype=np.uint8)
    del block


def _write_one(root: Path, seed: int, size_px: int, shares: dict[str, float], job: tuple[str, int]) -> _Written:
    _keep_freed_memory()
    split, index = job
    phantom = render_phantom(seed, split, index, size_px, draw_findings(seed, split, index, shares))
    form = DicomFormat.draw(stream(seed, split, index, "format"))
    identity, group = image_id(seed, split, index), group_id(seed, split, index)
    exposure = Exposure.draw(seed, split, index, size_px, Patient.draw(seed, split, patient_index(index)))
    ds = to_dicom(phantom, form, identity, group, exposure.cm_per_px, stream(seed, split, index, "tags"))
    ds.save_as(root / split / f"{identity}.dicom", enforce_file_format=True)
    truth = consensus(phantom.findings)
    readings: tuple[Reading, ...] = (truth,)
    if split == "train":
        height, width = phantom.pixels.shape
        generator = stream(seed, split, index, "readers")
        readings = read_by_three(phantom.findings, phantom.mimics, height, width, generator)
    return _Written(split, identity, group, truth.findings, readings, form.transfer_syntax.name)


def _write_annotations(folder: Path, split: str, written: list[_Written]) -> None:
    # The released files differ between the splits: only train names the reader, and one column is spelt differently.
    train = split == "train"
    reader = ["rad_id"] if train else []
    labels = [name if train or name != "Other diseases" else "Other disease" for name in VINDR_CXR_LABELS]

    def label_rows() -> Iterator[list[object]]:
        for image in written:
            for reading in image.readings:
                present = {*reading.findings, *reading.diagnoses}
                values = [int(name in present) for name in VINDR_CXR_LABELS]
                yield [image.image_id, *([reading.reader] if train else []), *values]

    def box_rows() -> Iterator[list[object]]:
        for image in written:
            for reading in image.readings:
                start = [image.image_id, *([reading.reader] if train else [])]
                if not reading.boxes:
                    yield [*start, NO_FINDING, "", "", "", ""]
                for name, box in reading.boxes:
                    yield [*start, name, *(f"{edge:.3f}" for edge in box)]

    _write_csv(folder / f"image_labels_{split}.csv", ["image_id", *reader, *labels], label_rows())
    columns = ["image_id", *reader, "class_name", "x_min", "y_min", "x_max", "y_max"]
    _write_csv(folder / f"annotations_{split}.csv", columns, box_rows())


def _write_csv(path: Path, header: list[str], rows: Iterable[list[object]] | Iterable[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _tally(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
