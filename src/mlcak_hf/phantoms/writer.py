"""Writing of phantoms in the layout of VinDr-CXR on PhysioNet."""

from __future__ import annotations

import csv
import functools
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..errors import DatasetError
from ..vindr_cxr.labels import NO_FINDING, VINDR_CXR_LABELS
from ..worker_processes import map_in_processes
from .dicom_format import DicomFormat, to_dicom
from .plan import DRAWN_FINDINGS, PREVALENCE, SPLITS, check_findings, draw_findings, group_id, image_id, stream
from .readers import Boxes, labels_of, read_by_three
from .render import render_phantom

#: Written beside the images; a folder without the record is never cleared.
RECORD, GROUPS = "phantom.json", "groups.csv"
#: Smallest size at which the anatomy can be drawn.
MIN_SIZE_PX = 64
_FOLDERS = (*SPLITS, "annotations")


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
            got = f"{self.num_train} and {self.num_test}"
            raise DatasetError(f"num_train and num_test must be 0 or more, and not both 0; got {got}.")
        if self.size_px < MIN_SIZE_PX:
            raise DatasetError(f"size_px must be at least {MIN_SIZE_PX}; got {self.size_px}.")
        check_findings(tuple(self.prevalence))
        for name, share in self.prevalence.items():
            if not 0 <= share <= 1:
                raise DatasetError(f"The prevalence of {name} must be between 0 and 1; got {share}.")


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


def write_phantoms(
    output_dir: str | Path, *, num_proc: int = 1, overwrite: bool = False, **options: Any
) -> PhantomReport:
    """Write synthetic chest radiographs as DICOM files with annotations, in exactly the layout of VinDr-CXR.

    Three readers, who disagree, annotate each training image; test images carry the truth as a consensus. Findings are
    independent of each other and of format, exposure and noise. Only `DRAWN_FINDINGS` occur; the other columns are 0.
    `groups.csv` names the fictitious patient of each image; some patients have two images.

    Args:
        output_dir (`str` or `Path`):
            Folder to write.
        num_proc (`int`, *optional*, defaults to 1):
            Number of processes.
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
    try:
        _make_room(root, overwrite)
        return _write_all(root, choices, num_proc)
    except OSError as error:
        raise DatasetError(
            f"Cannot write phantoms to {root}: {error.strerror or error}. Name a folder on a writable disk with free"
            " space; overwrite=True (--overwrite) replaces phantoms that are already there."
        ) from None


def _make_room(root: Path, overwrite: bool) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if not any(root.iterdir()):
        return
    if not (root / RECORD).is_file():
        raise DatasetError(f"{root} contains files other than phantoms ({RECORD} is missing). Name an empty folder.")
    if not overwrite:
        raise DatasetError(f"{root} holds phantoms already. Name another folder, or pass overwrite=True (--overwrite).")
    for name in _FOLDERS:
        shutil.rmtree(root / name, ignore_errors=True)


def _write_all(root: Path, options: PhantomOptions, num_proc: int) -> PhantomReport:
    counts = dict(zip(SPLITS, (options.num_train, options.num_test), strict=True))
    prevalence = {**PREVALENCE, **options.prevalence}
    record = {"seed": options.seed, "size_px": options.size_px, "num_images": counts, "prevalence": prevalence}
    _write_json(root / RECORD, record)  # first, so that a stopped run can be overwritten
    for name in _FOLDERS:
        (root / name).mkdir(exist_ok=True)

    places = [(options.seed, split, index) for split in SPLITS for index in range(counts[split])]
    work = functools.partial(_write_one, root, options.size_px, prevalence)
    results = map_in_processes(work, places, num_proc, doing="drawing phantoms", preload=__name__)
    results = logging.tqdm(results, total=len(places), desc="phantoms", unit="image", disable=None)
    written = dict(zip(places, results, strict=True))
    _write_csv(root / GROUPS, [["image_id", "group_id"], *([image_id(*p), group_id(*p)] for p in places)])
    truths: dict[str, list[set[str]]] = {}
    for split in SPLITS:
        of_split = {place: found for place, found in written.items() if place[1] == split}
        truths[split] = [{name for name, _ in truth} for truth, _, _ in of_split.values()]
        readings = {image_id(*place): readings for place, (_, readings, _) in of_split.items()}
        _write_annotations(root / "annotations", split, readings)
    summary: dict[str, Any] = {
        "num_abnormal": {split: sum(map(bool, truths[split])) for split in SPLITS},
        "finding_counts": {split: {f: sum(f in t for t in truths[split]) for f in DRAWN_FINDINGS} for split in SPLITS},
        "transfer_syntaxes": dict(sorted(Counter(syntax for _, _, syntax in written.values()).items())),
    }
    _write_json(root / RECORD, record | summary)
    return PhantomReport(root, root / GROUPS, counts, **summary)


@functools.cache  # once per process
def _keep_freed_memory() -> None:
    """Make the C library keep the memory of freed arrays, which saves a fifth of the time.

    glibc raises its thresholds to the size of the largest block freed so far; elsewhere this has no effect.
    """
    block = np.empty(31 * 2**20, dtype=np.uint8)
    del block


def _write_one(
    root: Path, size_px: int, prevalence: Mapping[str, float], place: tuple[int, str, int]
) -> tuple[Boxes, dict[str, Boxes], str]:
    """Write one image; return what it shows, what each reader marks, and the name of its transfer syntax."""
    _keep_freed_memory()
    phantom = render_phantom(*place, size_px, draw_findings(*place, prevalence))
    form, identity = DicomFormat(stream(*place, "format")), image_id(*place)
    ds = to_dicom(phantom, form, identity, group_id(*place), stream(*place, "tags"))
    ds.save_as(root / place[1] / f"{identity}.dicom", enforce_file_format=True)
    truth = [(finding.name, box) for finding in phantom.findings for box in finding.boxes]
    readings = {"": truth}
    if place[1] == "train":
        readings = read_by_three(phantom.findings, phantom.mimics, phantom.pixels.shape, stream(*place, "readers"))
    return truth, readings, form.transfer_syntax.name


def _write_annotations(folder: Path, split: str, readings: Mapping[str, Mapping[str, Boxes]]) -> None:
    # The released tables differ between the splits: only train names the reader, and one column has another spelling.
    ids, other = (["image_id", "rad_id"], "Other diseases") if split == "train" else (["image_id"], "Other disease")
    columns = [other if name == "Other diseases" else name for name in VINDR_CXR_LABELS]
    label_rows: list[list[object]] = [[*ids, *columns]]
    box_rows: list[list[object]] = [[*ids, "class_name", "x_min", "y_min", "x_max", "y_max"]]
    for image, of_image in readings.items():
        for reader, boxes in of_image.items():
            start, labels = [image, reader][: len(ids)], labels_of(boxes)
            label_rows.append([*start, *(int(name in labels) for name in VINDR_CXR_LABELS)])
            rows: list[list[object]] = [[*start, name, *(f"{edge:.3f}" for edge in box)] for name, box in boxes]
            box_rows += rows or [[*start, NO_FINDING, "", "", "", ""]]
    _write_csv(folder / f"image_labels_{split}.csv", label_rows)
    _write_csv(folder / f"annotations_{split}.csv", box_rows)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
