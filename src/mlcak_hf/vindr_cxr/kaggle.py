"""VinBigData on Kaggle: the training images of VinDr-CXR with 14 of its findings.

train/<image_id>.dicom (or .dcm, or pictures)   test/: without labels, not used
train.csv   image_id, class_name, class_id, rad_id, x_min, y_min, x_max, y_max: a row per box, or "No finding"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import LabelError
from ..preparation.image_folder import SKIP_OR, radiograph_files
from ..preparation.tables import Table, check_image_id
from .labels import NO_FINDING, VINDR_CXR_LABELS, Reading, canonical_label, parse_reader
from .vindr_folder import BOX_EDGES, VinDrFolder, note_reader_counts

FOLDERS = ("train",)
TABLES = ("train.csv",)
KAGGLE_LABELS: tuple[str, ...] = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    NO_FINDING,
)
"""The labels of `train.csv` at their class_id; the other 13 of VinDr-CXR's 28 were left out of it."""


def read_folders(root: Path) -> list[VinDrFolder]:
    """Read the labelled folder with its table.

    Args:
        root: The data folder, with everything in `FOLDERS` and `TABLES`.

    Returns:
        Train alone.

    Raises:
        DatasetError: The folder is empty, the table no table, a column missing.
    """
    folder = VinDrFolder.scan(root / "train")
    _read_table(folder, root / "train.csv")
    folder.match("train.csv", folder.readings)
    note_reader_counts(folder)
    unlabelled = len(radiograph_files(root / "test")) if (root / "test").is_dir() else 0
    if unlabelled:
        folder.table_notes["file(s) of test/ have no labels on Kaggle and were not used"] += unlabelled
    return [folder]


def _read_table(folder: VinDrFolder, path: Path) -> None:
    marked: dict[tuple[str, str], dict[str, int]] = {}  # label -> first line, for each reading
    seen: set[tuple[str, ...]] = set()
    for line, row in Table(path).named_rows(("image_id", "class_name", "rad_id", *BOX_EDGES)):
        image_id = folder.identify(row["image_id"])
        folder.readings.setdefault(image_id, {})
        try:
            check_image_id(row["image_id"])
            reader, label = parse_reader(row["rad_id"]), _label(row)
            labels = marked.setdefault((image_id, reader), {})
            labels.setdefault(label, line)
            if NO_FINDING in labels and len(labels) > 1:
                other = next(name for name in labels if name != NO_FINDING)
                raise LabelError(
                    f"reader {reader} says '{NO_FINDING}' in line {labels[NO_FINDING]} and {other} in line"
                    f" {labels[other]}"
                )
            if label != NO_FINDING:
                folder.add_box(image_id, label, reader, row, path.name)
            elif (image_id, reader) in seen:
                folder.repeated(path.name)
            seen.add((image_id, reader))
        except LabelError as error:
            headline = f"with unusable rows in {path.name}"
            folder.refuse(image_id, headline, f"Correct the rows, {SKIP_OR}", f"line {line}: {error}", LabelError)
    for (image_id, reader), labels in marked.items():
        reading = Reading(reader, tuple(int(name in labels) for name in VINDR_CXR_LABELS))
        folder.readings[image_id][reader] = reading


def _label(row: Mapping[str, str]) -> str:
    """The label of a row, of which name and number must agree where both are there."""
    if not row["class_name"]:
        raise LabelError("column 'class_name' is empty")
    label = canonical_label(row["class_name"], KAGGLE_LABELS)
    expected = KAGGLE_LABELS.index(label)
    if row.get("class_id") and row["class_id"] not in (str(expected), f"{expected}.0"):
        raise LabelError(f"class_id {row['class_id']} is not that of {label}, which is {expected}")
    return label
