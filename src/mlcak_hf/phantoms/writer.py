"""Writing of phantoms in the layout of VinDr-CXR on PhysioNet."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..errors import DatasetError
from ..vindr_cxr.labels import NO_FINDING, VINDR_CXR_LABELS
from ..worker_processes import map_in_processes
from .dicom_format import DicomFormat, to_dicom
from .plan import DRAWN_FINDINGS, PREVALENCE, SPLITS, check_findings, draw_findings, group_id, image_id, stream
from .readers import SimulatedReading, consensus, read_by_three
from .render import render_phantom

#: Written beside the images; a folder without it is never cleared.
RECORD = "phantom.json"
#: Smallest size at which the anatomy can be drawn.
MIN_SIZE_PX = 64


@dataclass(frozen=True)
class PhantomOptions:
    """Options of a dataset of phantoms.

    Args:
        num_train (`int`, *optional*, defaults to 1000):
            Number of training images.
        num_test (`int`, *optional*, defaults to 300):
            Number of test images.
        size_px (`int`, *optional*, defaults to 512):
            Typical length of the shorter side in pixels, at least 64.
        seed (`int`, *optional*, defaults to 0):
            The same seed writes the same bytes, with any number of processes.
        prevalence (`Mapping[str, float]`, *optional*):
            Share of images with a finding, 0 to 1, for findings that differ from `PREVALENCE`.

    Raises:
        [`DatasetError`]: When an option is out of range.
    """

    num_train: int = 1000
    num_test: int = 300
    size_px: int = 512
    seed: int = 0
    prevalence: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_train < 0 or self.num_test < 0 or self.num_train + self.num_test == 0:
            raise DatasetError(
                f"num_train and num_test must add up to at least 1; got num_train={self.num_train} and"
                f" num_test={self.num_test}."
            )
        if self.size_px < MIN_SIZE_PX:
            raise DatasetError(f"size_px must be at least {MIN_SIZE_PX}; got {self.size_px}.")
        check_findings(tuple(self.prevalence))
        for name, share in self.prevalence.items():
            if not 0 <= share <= 1:
                raise DatasetError(f"The prevalence of {name} must be between 0 and 1; got {share}.")

    @property
    def num_images(self) -> dict[str, int]:
        """Number of images of each split."""
        return dict(zip(SPLITS, (self.num_train, self.num_test), strict=True))


@dataclass(frozen=True)
class PhantomReport:
    """Summary of a written dataset of phantoms.

    Args:
        output_dir (`Path`):
            Folder in the layout of VinDr-CXR.
        groups_file (`Path`):
            CSV with image_id and group_id (the fictitious patient).
        num_images (`dict`):
            Number of images of each split.
        num_abnormal (`dict`):
            Number of images of each split that truly show a finding.
        finding_counts (`dict`):
            For each split, the number of images that truly show each finding.
        transfer_syntaxes (`dict`):
            Number of images of each transfer syntax.
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
    truth: SimulatedReading
    readings: tuple[SimulatedReading, ...]
    transfer_syntax: str


def write_phantoms(
    output_dir: str | os.PathLike[str],
    *,
    num_proc: int = 1,
    progress: bool = True,
    overwrite: bool = False,
    **options: Any,
) -> PhantomReport:
    """Write synthetic chest radiographs as DICOM files with annotations, in exactly the layout of VinDr-CXR.

    Three readers, who disagree, annotate each training image; test images carry the truth as a consensus. Findings are
    independent of each other and of format, exposure and noise. Only `DRAWN_FINDINGS` occur; the other columns are 0.
    `groups.csv` names the fictitious patient of each image; some patients have two images.

    Args:
        output_dir (`str` or `os.PathLike`):
            Folder to write.
        num_proc (`int`, *optional*, defaults to 1):
            Number of processes.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace phantoms that an earlier call wrote to the folder.
        options:
            Fields of [`PhantomOptions`].

    Returns:
        [`PhantomReport`]: Paths and counts.

    Raises:
        [`DatasetError`]: When an option is out of range, the folder is in use or not writable, or a process dies.

    Example:
        ```python
        >>> from mlcak_hf.phantoms.writer import write_phantoms

        >>> report = write_phantoms("phantoms", num_train=8, num_test=4)  # doctest: +SKIP
        ```
    """
    if num_proc < 1:
        raise DatasetError(f"num_proc must be at least 1; got {num_proc}.")
    choices, root = PhantomOptions(**options), Path(output_dir)
    with _explained_write(root):
        _make_room(root, overwrite)
        return _write_all(root, choices, num_proc, progress)


def _write_all(root: Path, options: PhantomOptions, num_proc: int, progress: bool) -> PhantomReport:
    counts = options.num_images
    record = {"seed": options.seed, "size_px": options.size_px, "num_images": counts}
    record |= {"prevalence": {**PREVALENCE, **options.prevalence}}
    _write_json(root / RECORD, record)  # first, so that a stopped run can be overwritten
    for name in (*SPLITS, "annotations"):
        (root / name).mkdir(exist_ok=True)

    jobs = [(split, index) for split in SPLITS for index in range(counts[split])]
    work = functools.partial(_write_one, root, options)
    results = map_in_processes(work, jobs, num_proc, doing="drawing phantoms", preload=__name__)
    written = list(logging.tqdm(results, total=len(jobs), desc="phantoms", unit="image", disable=not progress))
    groups_file = root / "groups.csv"
    _write_csv(groups_file, ["image_id", "group_id"], ([image.image_id, image.group_id] for image in written))
    truths: dict[str, list[tuple[str, ...]]] = {}
    for split in SPLITS:
        of_split = [image for image in written if image.split == split]
        truths[split] = [image.truth.findings for image in of_split]
        _write_annotations(root / "annotations", split, of_split)
    report = PhantomReport(
        output_dir=root,
        groups_file=groups_file,
        num_images=counts,
        num_abnormal={split: sum(map(bool, truths[split])) for split in SPLITS},
        finding_counts={split: {f: sum(f in t for t in truths[split]) for f in DRAWN_FINDINGS} for split in SPLITS},
        transfer_syntaxes=dict(sorted(Counter(image.transfer_syntax for image in written).items())),
    )
    summary = {k: v for k, v in asdict(report).items() if k not in ("output_dir", "groups_file", "num_images")}
    _write_json(root / RECORD, record | summary)
    return report


@contextlib.contextmanager
def _explained_write(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"Cannot write phantoms to {root}: {error.strerror or error}. Name a folder on a writable disk with free"
            " space; overwrite=True (--overwrite) replaces phantoms that are already there."
        ) from None


def _make_room(root: Path, overwrite: bool) -> None:
    if root.exists() and not root.is_dir():
        raise DatasetError(f"The output must be a folder; got the file {root}. Name a new folder.")
    if not root.exists() or not any(root.iterdir()):
        root.mkdir(parents=True, exist_ok=True)
        return
    if not (root / RECORD).is_file():
        raise DatasetError(f"{root} contains files other than phantoms ({RECORD} is missing). Name an empty folder.")
    if not overwrite:
        raise DatasetError(
            f"{root} already contains phantoms. Name another folder, or replace them with overwrite=True (--overwrite)."
        )
    for name in (*SPLITS, "annotations"):
        shutil.rmtree(root / name, ignore_errors=True)


@functools.cache  # once per process
def _keep_freed_memory() -> None:
    """Make the C library keep the memory of freed arrays, which saves a fifth of the time.

    glibc raises its thresholds to the size of the largest block freed so far; elsewhere this has no effect.
    """
    block = np.empty(31 * 2**20, dtype=np.uint8)
    del block


def _write_one(root: Path, options: PhantomOptions, job: tuple[str, int]) -> _Written:
    _keep_freed_memory()
    place = (options.seed, *job)
    findings = draw_findings(*place, {**PREVALENCE, **options.prevalence})
    phantom = render_phantom(*place, options.size_px, findings)
    form, identity, group = DicomFormat.draw(stream(*place, "format")), image_id(*place), group_id(*place)
    ds = to_dicom(phantom, form, identity, group, stream(*place, "tags"))
    ds.save_as(root / job[0] / f"{identity}.dicom", enforce_file_format=True)
    truth = consensus(phantom.findings)
    readings: tuple[SimulatedReading, ...] = (truth,)
    if job[0] == "train":
        size = phantom.exposure.height, phantom.exposure.width
        readings = read_by_three(phantom.findings, phantom.mimics, size, stream(*place, "readers"))
    return _Written(job[0], identity, group, truth, readings, form.transfer_syntax.name)


def _write_annotations(folder: Path, split: str, written: list[_Written]) -> None:
    # The released tables differ between the splits: only train names the reader, and one column has another spelling.
    train = split == "train"
    ids = ["image_id", "rad_id"] if train else ["image_id"]
    columns = [name if train or name != "Other diseases" else "Other disease" for name in VINDR_CXR_LABELS]
    label_rows: list[list[object]] = []
    box_rows: list[list[object]] = []
    for image in written:
        for reading in image.readings:
            start = [image.image_id, reading.reader][: len(ids)]
            present = {*reading.findings, *reading.diagnoses}
            label_rows.append([*start, *(int(name in present) for name in VINDR_CXR_LABELS)])
            box_rows += [[*start, name, *(f"{edge:.3f}" for edge in box)] for name, box in reading.boxes]
            if not reading.boxes:
                box_rows.append([*start, NO_FINDING, "", "", "", ""])
    _write_csv(folder / f"image_labels_{split}.csv", [*ids, *columns], label_rows)
    _write_csv(folder / f"annotations_{split}.csv", [*ids, "class_name", "x_min", "y_min", "x_max", "y_max"], box_rows)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _write_csv(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
