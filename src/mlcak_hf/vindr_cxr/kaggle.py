"""VinDr-CXR in Kaggle's layout (VinBigData): its training images with 14 of the findings.

train/<image_id>.dicom (or .dcm, .png, .jpg)   test/: without labels, not used
train.csv   image_id, class_name, class_id, rad_id, x_min, y_min, x_max, y_max: a row per box, or "No finding"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import LabelError
from ..preparation.image_folder import radiograph_files
from ..preparation.tables import Table
from .labels import NO_FINDING, VINDR_CXR_LABELS, Reading, canonical_label, filled_cell
from .vindr_folder import BOX_EDGES, VinDrFolder

KAGGLE_LABELS: tuple[str, ...] = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration"),
    *("Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", NO_FINDING),
)
"""The labels of `train.csv` in the order of their class_id; it lacks the other 13 of VinDr-CXR's 28."""


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
