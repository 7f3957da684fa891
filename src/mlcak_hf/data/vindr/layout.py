"""VinDr-CXR as PhysioNet lays it out on disk: which images there are, what the readers said, who belongs together.

train/<image_id>.dicom  test/<image_id>.dicom
annotations/image_labels_{train,test}.csv   0 or 1 for 28 labels; a row per reader in train, a consensus row in test
annotations/annotations_{train,test}.csv    boxes in original pixels
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...configuration_mlcak import VINDR_CXR_FINDINGS
from ...errors import DatasetError, LabelError, MLCAKError
from .labels import NO_FINDING, VINDR_CXR_LABELS, Reading, canonical_label, label_columns, parse_vote

FOLDERS = ("train", "test")
_SUFFIX = ".dicom"
_BOX_EDGES = ("x_min", "y_min", "x_max", "y_max")
# An image id names a file, so it must not be able to name one elsewhere.
_IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SKIP = "or go on without them: on_error='skip' (--on-error skip)"


class LeftOut(NamedTuple):
    """One image that is not in the dataset, and why."""

    image_id: str
    reason: str
    folder: str


class Box(NamedTuple):
    """A finding that a reader framed; edges in original pixels."""

    finding: str
    reader: str
    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True)
class ImageRecord:
    """All that the tables say about one image.

    Args:
        image_id: Name of the image.
        path: Its DICOM file.
        readings: One per reader; a single consensus reading in the test set.
        boxes: The readers' boxes.
        group: The images of one patient share a group; the image id where patients are unknown.
    """

    image_id: str
    path: str
    readings: tuple[Reading, ...]
    boxes: tuple[Box, ...]
    group: str


@dataclass
class VinDrLayout:
    """The usable images of both folders, in the order of the tables, and those that had to be left out."""

    train: list[ImageRecord]
    test: list[ImageRecord]
    left_out: list[LeftOut]


class _Problem(NamedTuple):
    headline: str
    remedy: str
    detail: str
    error: type[MLCAKError]


@dataclass
class _Folder:
    """One of the two folders while it is being read."""

    name: str
    files: dict[str, Path]
    readings: dict[str, dict[str, Reading]] = field(default_factory=dict)
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    problems: dict[str, _Problem] = field(default_factory=dict)

    def refuse(
        self, image_id: str, headline: str, remedy: str, detail: str = "", error: type[MLCAKError] = DatasetError
    ) -> None:
        """Note the first problem of an image."""
        self.problems.setdefault(image_id, _Problem(headline, remedy, detail, error))


def checked_data_dir(data_dir: str | os.PathLike[str]) -> Path:
    """Make sure that a folder is laid out as VinDr-CXR.

    Args:
        data_dir: Local folder with train/, test/ and annotations/.

    Returns:
        Its path.

    Raises:
        DatasetError: It is a URL, is not there, or lacks one of the folders and tables.
    """
    if "://" in str(data_dir):
        raise DatasetError(
            f"data_dir must be a local folder, but the address {data_dir} came. VinDr-CXR's data use agreement forbids"
            " passing the data on: download it from PhysioNet with your own account and name the folder"
        )
    root = Path(data_dir).expanduser()
    tables = [f"annotations/{kind}_{folder}.csv" for folder in FOLDERS for kind in ("image_labels", "annotations")]
    missing = [f"{name}/" for name in FOLDERS if not (root / name).is_dir()]
    missing += [name for name in tables if not (root / name).is_file()]
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}; name the one that holds train/, test/ and annotations/")
    if missing:
        raise DatasetError(
            f"{root} is not laid out as VinDr-CXR on PhysioNet: it lacks {', '.join(missing)}. Name the folder that"
            " holds train/, test/ and annotations/, and complete the download"
        )
    return root


def layout_fingerprint(data_dir: str | Path, groups: str | Path | None) -> str:
    """Identify a folder's content: text of the tables, and name, size and time of change of every DICOM file.

    Args:
        data_dir: Folder laid out as VinDr-CXR.
        groups: The groups file, if there is one.

    Returns:
        A hexadecimal digest that changes whenever one of them does.

    Raises:
        DatasetError: As `checked_data_dir`, or no such groups file.
    """
    root = checked_data_dir(data_dir)
    digest = hashlib.sha256()
    for folder in FOLDERS:
        for kind in ("image_labels", "annotations"):
            digest.update((root / "annotations" / f"{kind}_{folder}.csv").read_bytes())
        with os.scandir(root / folder) as entries:
            stats = sorted(
                (e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries if e.name.endswith(_SUFFIX)
            )
        digest.update(repr((folder, stats)).encode())
    if groups is not None:
        digest.update(repr(sorted(_read_groups(Path(groups)).items())).encode())
    return digest.hexdigest()


def read_layout(data_dir: str | Path, groups: str | Path | None = None, on_error: str = "raise") -> VinDrLayout:
    """Read the tables of a folder and match them with its files.

    Args:
        data_dir: Folder laid out as VinDr-CXR.
        groups: CSV with the columns image_id and group_id, which says which images belong to one patient.
        on_error: "raise" stops at the first kind of problem; "skip" leaves the images concerned out and lists them.

    Returns:
        The usable images and the left-out ones.

    Raises:
        DatasetError: Folder, table or column missing; an image without file, file without row, image without group.
        LabelError: An unknown label, a cell that is not 0 or 1, a reading that contradicts itself.
    """
    root = checked_data_dir(data_dir)
    by_image = None if groups is None else _read_groups(Path(groups))
    folders = [_read_folder(root, name) for name in FOLDERS]
    train, test = folders
    for image_id in train.readings.keys() & test.readings.keys():
        train.refuse(image_id, "of train/ that are also in test/", f"Remove them from one of the two tables, {_SKIP}")
    records = {folder.name: _records(folder, by_image) for folder in folders}
    test_groups = {record.group for record in records["test"]}
    for record in records["train"]:
        if record.group in test_groups:
            headline = "of train/ from a group (patient) that is also in test/"
            train.refuse(record.image_id, headline, f"Correct the groups file, {_SKIP}")
    if on_error == "raise":
        for folder in folders:
            _raise_problems(folder)
    left_out = [
        LeftOut(image_id, f"{p.headline}{': ' if p.detail else ''}{p.detail}", folder.name)
        for folder in folders
        for image_id, p in sorted(folder.problems.items())
    ]
    return VinDrLayout([r for r in records["train"] if r.image_id not in train.problems], records["test"], left_out)


def split_validation(
    records: Sequence[ImageRecord], fraction: float, seed: int
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Set aside whole groups for validation.

    The groups are ranked by a hash of seed and group, so the split depends neither on the order of the tables nor on
    the machine, and leaving an image out moves no other group except at the border.

    Args:
        records: Images of the training folder.
        fraction: Share of the images to aim at, 0 <= fraction < 1; whole groups come as close as they can.
        seed: Another seed, another split.

    Returns:
        Images for training and for validation, both in their original order; none for validation if `fraction` is 0.

    Raises:
        DatasetError: `fraction` is out of range, or there are fewer than two groups to divide.
    """
    if not 0 <= fraction < 1:
        raise DatasetError(f"validation_fraction must be at least 0 and less than 1, but {fraction} came")
    if fraction == 0:
        return list(records), []
    sizes: dict[str, int] = {}
    for record in records:
        sizes[record.group] = sizes.get(record.group, 0) + 1
    if len(sizes) < 2:
        raise DatasetError(
            f"{len(sizes)} group(s) cannot be divided into training and validation; set the fraction to 0"
        )
    ranked = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
    target, held, chosen = fraction * len(records), 0, set[str]()
    for group in ranked[:-1]:
        if chosen and abs(held + sizes[group] - target) > abs(held - target):
            break
        chosen.add(group)
        held += sizes[group]
    train = [record for record in records if record.group not in chosen]
    return train, [record for record in records if record.group in chosen]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of a CSV file, header first."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except (UnicodeDecodeError, csv.Error) as error:
            raise DatasetError(f"{path.name}: line {reader.line_num + 1} is no CSV text in UTF-8 ({error})") from None


def _read_folder(root: Path, name: str) -> _Folder:
    with os.scandir(root / name) as entries:
        files = {e.name[: -len(_SUFFIX)]: Path(e.path) for e in entries if e.name.endswith(_SUFFIX)}
    folder = _Folder(name, files)
    _read_labels(folder, root / "annotations" / f"image_labels_{name}.csv")
    _read_boxes(folder, root / "annotations" / f"annotations_{name}.csv")
    again = f"Download them again (one {_SUFFIX} file per image), {_SKIP}"
    for image_id in folder.readings.keys() - files.keys():
        folder.refuse(image_id, f"named in image_labels_{name}.csv, but without a file in {name}/", again)
    for image_id in files.keys() - folder.readings.keys() - folder.problems.keys():
        headline = f"in {name}/, but not named in image_labels_{name}.csv"
        folder.refuse(image_id, headline, f"Add their rows or remove the files, {_SKIP}")
    return folder


def _read_labels(folder: _Folder, path: Path) -> None:
    rows = _rows(path)
    other = ("image_id", "rad_id") if folder.name == "train" else ("image_id",)
    columns = label_columns(next(rows, (0, [""]))[1], other, path.name)
    bad = f"with unusable labels in {path.name}"
    remedy = f"Correct the rows, {_SKIP}"
    for line, cells in rows:
        image_id = cells[columns["image_id"]].strip() if len(cells) > columns["image_id"] else ""
        readings = folder.readings.setdefault(image_id, {})
        try:
            if not _IMAGE_ID.fullmatch(image_id):
                raise LabelError(f"{image_id!r} is no image id")
            if len(cells) <= max(columns.values()):
                raise LabelError(f"it has {len(cells)} cells, but {max(columns.values()) + 1} are needed")
            reader = cells[columns["rad_id"]].strip() if "rad_id" in columns else ""
            if "rad_id" in columns and not reader:
                raise LabelError("column 'rad_id' is empty")
            if reader in readings:
                raise LabelError("a second row of the same image" + (f" and reader {reader}" if reader else ""))
            reading = Reading(reader, tuple(parse_vote(cells[columns[label]], label) for label in VINDR_CXR_LABELS))
            if reading.contradiction:
                raise LabelError(f"'{NO_FINDING}' is 1 together with {reading.contradiction}")
            readings[reader] = reading
        except LabelError as error:
            folder.refuse(image_id, bad, remedy, f"line {line}: {error}", LabelError)


def _read_boxes(folder: _Folder, path: Path) -> None:
    rows = _rows(path)
    header = [name.strip() for name in next(rows, (0, [""]))[1]]
    needed = ("image_id", *(("rad_id",) if folder.name == "train" else ()), "class_name", *_BOX_EDGES)
    missing = [name for name in needed if name not in header]
    if missing:
        raise DatasetError(f"{path.name}: no column {', '.join(map(repr, missing))}; it has {', '.join(header)}")
    for line, cells in rows:
        row = dict.fromkeys(header, "") | dict(zip(header, (cell.strip() for cell in cells), strict=False))
        image_id = row["image_id"]
        try:
            if len(cells) < len(header):
                raise LabelError(f"it has {len(cells)} cells, but {len(header)} are needed")
            finding = canonical_label(row["class_name"])
            if finding not in VINDR_CXR_FINDINGS and not any(row[edge] for edge in _BOX_EDGES):
                continue  # "No finding" and the diseases have no place in the image
            edges = tuple(float(row[edge] or "nan") for edge in _BOX_EDGES)
            if not (all(map(math.isfinite, edges)) and edges[0] < edges[2] and edges[1] < edges[3]):
                raise LabelError(f"{finding}: the box {', '.join(row[e] or 'empty' for e in _BOX_EDGES)} has no area")
            if image_id not in folder.readings:
                raise LabelError(f"the image is not named in image_labels_{folder.name}.csv")
            folder.boxes.setdefault(image_id, []).append(Box(finding, row.get("rad_id", ""), *edges))
        except ValueError as error:  # LabelError is one, and so is what float() raises
            detail = f"line {line}: {str(error).split(' Known labels:')[0]}"
            remedy = f"Correct the rows (labels are spelt as in image_labels_train.csv), {_SKIP}"
            folder.refuse(image_id, f"with unusable boxes in {path.name}", remedy, detail, LabelError)


def _read_groups(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise DatasetError(f"there is no groups file {path}; it is a CSV with the columns image_id and group_id")
    rows = _rows(path)
    header = [name.strip() for name in next(rows, (0, [""]))[1]]
    if not {"image_id", "group_id"} <= set(header):
        raise DatasetError(f"{path.name}: the columns image_id and group_id are needed; it has {', '.join(header)}")
    groups: dict[str, str] = {}
    for line, cells in rows:
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        image_id, group = row.get("image_id", ""), row.get("group_id", "")
        if not image_id or not group:
            raise DatasetError(f"{path.name}: line {line} needs both an image_id and a group_id")
        if groups.setdefault(image_id, group) != group:
            raise DatasetError(f"{path.name}: line {line} puts image {image_id} into a second group; an image has one")
    return groups


def _records(folder: _Folder, groups: dict[str, str] | None) -> list[ImageRecord]:
    if groups is not None:
        for image_id in folder.readings.keys() - groups.keys():
            folder.refuse(image_id, f"of {folder.name}/ without a group in the groups file", f"Add their rows, {_SKIP}")
    return [
        ImageRecord(
            image_id,
            str(folder.files[image_id]),
            tuple(readings.values()),
            tuple(folder.boxes.get(image_id, ())),
            image_id if groups is None else groups[image_id],
        )
        for image_id, readings in folder.readings.items()
        if image_id not in folder.problems
    ]


def _raise_problems(folder: _Folder) -> None:
    """Raise one error for all images that share the first problem's kind."""
    if not folder.problems:
        return
    first = min(folder.problems.items())[1]
    same = sorted(image_id for image_id, p in folder.problems.items() if p.headline == first.headline)
    named = [f"{i} ({folder.problems[i].detail})" if folder.problems[i].detail else i for i in same[:5]]
    more = f" and {len(same) - 5} more" if len(same) > 5 else ""
    raise first.error(f"{len(same)} image(s) {first.headline}: {', '.join(named)}{more}. {first.remedy}")
