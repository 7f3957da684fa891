"""VinDr-CXR's tables of labels and boxes, in PhysioNet's and in Kaggle's layout.

PhysioNet:
    train/<image_id>.dicom  test/<image_id>.dicom
    annotations/image_labels_{train,test}.csv   0 or 1 for 28 labels; a row per reader in train, a consensus row in test
    annotations/annotations_{train,test}.csv    boxes in original pixels
Kaggle (VinBigData), the training images with 14 of the findings:
    train/<image_id>.dicom (or .dcm, .png, .jpg)   test/: without labels, not used
    train.csv   image_id, class_name, class_id, rad_id, x_min, y_min, x_max, y_max: a row per box, or "No finding"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..configuration_mlcak import VINDR_CXR_FINDINGS
from ..errors import LabelError
from ..preparation.image_folder import radiograph_files
from ..preparation.tables import Table
from .labels import NO_FINDING, VINDR_CXR_LABELS, Reading, canonical_header, canonical_label, filled_cell, parse_vote
from .vindr_folder import BOX_EDGES, VinDrFolder

KAGGLE_LABELS: tuple[str, ...] = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration"),
    *("Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", NO_FINDING),
)
"""The labels of Kaggle's `train.csv` in the order of their class_id; it lacks the other 13 of VinDr-CXR's 28."""


def read_physionet(root: Path) -> list[VinDrFolder]:
    """Read the folders train and test with their tables.

    Args:
        root (`Path`):
            The data folder. Its layout must be complete.

    Returns:
        `list[VinDrFolder]`: Train and test.

    Raises:
        [`DatasetError`]: When a folder is empty, a table is not a CSV file, or a column is missing.
        [`LabelError`]: When a table has an unknown label in its header.
    """
    folders = []
    for name, readers in (("train", ("rad_id",)), ("test", ())):
        folder = VinDrFolder.scan(root / name)
        labels = Table(root / "annotations" / f"image_labels_{name}.csv")
        boxes = Table(root / "annotations" / f"annotations_{name}.csv")
        _read_labels(folder, labels, readers)
        _read_boxes(folder, boxes, readers, labels.name)
        folder.match(labels.name, folder.readings)
        folder.note_disagreements(labels.name, boxes.name)
        folder.note_reader_counts()
        folders.append(folder)
    return folders


def _read_labels(folder: VinDrFolder, table: Table, readers: tuple[str, ...]) -> None:
    table.header = canonical_header(table.header, ("image_id", *readers), table.name)
    lines: dict[tuple[str, str], int] = {}

    def use(image_id: str, line: int, row: dict[str, str]) -> None:
        readings = folder.readings.setdefault(image_id, {})
        reader = filled_cell(row, "rad_id") if readers else ""
        reading = Reading(reader, tuple(parse_vote(row, label) for label in VINDR_CXR_LABELS))
        *marked, last = reading.marked or [""]
        if last == NO_FINDING and marked:
            raise LabelError(f"'{NO_FINDING}' is 1 together with {', '.join(marked)}")
        first = lines.setdefault((image_id, reader), line)
        if readings.setdefault(reader, reading) != reading:
            raise LabelError(f"it contradicts line {first}, which has the same image and reader")
        if first != line:
            folder.repeated(table.name)

    folder.read_rows(table, (*readers, *VINDR_CXR_LABELS), use)


def _read_boxes(folder: VinDrFolder, table: Table, readers: tuple[str, ...], labels_table: str) -> None:
    def use(image_id: str, line: int, row: dict[str, str]) -> None:
        finding = canonical_label(row["class_name"])
        if finding not in VINDR_CXR_FINDINGS:
            if any(row[edge] for edge in BOX_EDGES):
                folder.table_notes[f"box(es) of {table.name} belong to a global label and were not used"] += 1
            return
        reader = filled_cell(row, "rad_id") if readers else ""
        if reader not in folder.readings.get(image_id, ()):
            raise LabelError(f"{labels_table} has no reading of this image{' by ' * bool(reader)}{reader}")
        folder.add_box(image_id, finding, reader, row, table.name)

    folder.read_rows(table, (*readers, "class_name", *BOX_EDGES), use)


def read_kaggle(root: Path) -> list[VinDrFolder]:
    """Read the folder train with its table.

    Args:
        root (`Path`):
            The data folder. Its layout must be complete.

    Returns:
        `list[VinDrFolder]`: Train alone.

    Raises:
        [`DatasetError`]: When the folder is empty, the table is not a CSV file, or a column is missing.
    """
    folder, table = VinDrFolder.scan(root / "train"), Table(root / "train.csv")
    lines: dict[tuple[str, str], dict[str, int]] = {}  # first line of each label, by image and reader

    def use(image_id: str, line: int, row: dict[str, str]) -> None:
        folder.readings.setdefault(image_id, {})
        reader, label = filled_cell(row, "rad_id"), _label(row)
        labels = lines.setdefault((image_id, reader), {})
        first = labels.setdefault(label, line)
        if NO_FINDING in labels and len(labels) > 1:
            marked = " and ".join(f"{name} in line {number}" for name, number in labels.items())
            raise LabelError(f"reader {reader} marked {marked}")
        if label != NO_FINDING:
            folder.add_box(image_id, label, reader, row, table.name)
        elif first != line:
            folder.repeated(table.name)

    folder.read_rows(table, ("class_name", "rad_id", *BOX_EDGES), use)
    for (image_id, reader), labels in lines.items():
        votes = tuple(int(name in labels) for name in VINDR_CXR_LABELS)
        folder.readings[image_id][reader] = Reading(reader, votes)
    folder.match(table.name, folder.readings)
    folder.note_reader_counts()
    if (root / "test").is_dir() and (unlabelled := radiograph_files(root / "test")):
        folder.table_notes["file(s) of test/ have no labels on Kaggle and were not used"] += len(unlabelled)
    return [folder]


def _label(row: Mapping[str, str]) -> str:
    label = canonical_label(filled_cell(row, "class_name"), KAGGLE_LABELS)
    expected = str(KAGGLE_LABELS.index(label))
    if row.get("class_id") and row["class_id"].removesuffix(".0") != expected:
        raise LabelError(f"class_id must be {expected} for {label}; got {row['class_id']}")
    return label
