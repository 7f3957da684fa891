"""VinDr-CXR as PhysioNet lays it out.

train/<image_id>.dicom  test/<image_id>.dicom
annotations/image_labels_{train,test}.csv   0 or 1 for 28 labels; a row per reader in train, a consensus row in test
annotations/annotations_{train,test}.csv    boxes in original pixels
"""

from __future__ import annotations

from pathlib import Path

from ..configuration_mlcak import VINDR_CXR_FINDINGS
from ..errors import LabelError
from ..preparation.image_folder import SKIP_OR
from ..preparation.tables import Table, check_image_id
from .labels import NO_FINDING, VINDR_CXR_LABELS, Reading, canonical_label, label_columns, parse_reader, parse_vote
from .vindr_folder import BOX_EDGES, VinDrFolder, note_disagreements, note_reader_counts

FOLDERS = ("train", "test")
TABLES = tuple(f"annotations/{kind}_{name}.csv" for name in FOLDERS for kind in ("image_labels", "annotations"))


def read_folders(root: Path) -> list[VinDrFolder]:
    """Read both folders with their tables.

    Args:
        root: The data folder, with everything in `FOLDERS` and `TABLES`.

    Returns:
        Train and test.

    Raises:
        DatasetError: A folder is empty, a table no table, a column missing.
        LabelError: An unknown label in a table's header.
    """
    folders = [VinDrFolder.scan(root / name) for name in FOLDERS]
    for folder in folders:
        _read_labels(folder, root / "annotations" / f"image_labels_{folder.name}.csv")
        _read_boxes(folder, root / "annotations" / f"annotations_{folder.name}.csv")
        folder.match(f"image_labels_{folder.name}.csv", folder.readings)
        note_disagreements(folder, f"image_labels_{folder.name}.csv", f"annotations_{folder.name}.csv")
        note_reader_counts(folder)
    return folders


def _read_labels(folder: VinDrFolder, path: Path) -> None:
    table = Table(path)
    other = ("image_id", "rad_id") if folder.name == "train" else ("image_id",)
    columns = label_columns(table.header, other, path.name)
    lines: dict[tuple[str, str], int] = {}
    for line, cells in table:
        written = cells[columns["image_id"]] if len(cells) > columns["image_id"] else ""
        image_id = folder.identify(written)
        readings = folder.readings.setdefault(image_id, {})
        try:
            check_image_id(written)
            if len(cells) <= max(columns.values()):
                raise LabelError(f"it has {len(cells)} cells, but {max(columns.values()) + 1} are needed")
            reader = parse_reader(cells[columns["rad_id"]]) if "rad_id" in columns else ""
            reading = Reading(reader, tuple(parse_vote(cells[columns[label]], label) for label in VINDR_CXR_LABELS))
            if reading.contradiction:
                raise LabelError(f"'{NO_FINDING}' is 1 together with {reading.contradiction}")
            first = lines.setdefault((image_id, reader), line)
            if readings.setdefault(reader, reading) != reading:
                by = f" by reader {reader}" if reader else ""
                raise LabelError(f"it contradicts line {first}, a reading of the same image{by}")
            if first != line:
                folder.repeated(path.name)
        except LabelError as error:
            headline = f"with unusable labels in {path.name}"
            folder.refuse(image_id, headline, f"Correct the rows, {SKIP_OR}", f"line {line}: {error}", LabelError)


def _read_boxes(folder: VinDrFolder, path: Path) -> None:
    needed = ("image_id", *(("rad_id",) if folder.name == "train" else ()), "class_name", *BOX_EDGES)
    for line, row in Table(path).named_rows(needed):
        image_id = folder.identify(row["image_id"])
        try:
            finding = canonical_label(row["class_name"])
            if finding not in VINDR_CXR_FINDINGS and not any(row[edge] for edge in BOX_EDGES):
                continue  # "No finding" and the diseases have no place in the image
            if image_id not in folder.readings:
                raise LabelError(f"the image is not named in image_labels_{folder.name}.csv")
            reader = parse_reader(row["rad_id"]) if "rad_id" in needed else ""
            if reader not in folder.readings[image_id]:
                raise LabelError(f"reader {reader} has no reading of the image in image_labels_{folder.name}.csv")
            folder.add_box(image_id, finding, reader, row, path.name)
        except LabelError as error:
            detail = f"line {line}: {str(error).split(' Known labels:')[0]}"
            remedy = f"Correct the rows (labels are spelt as in image_labels_train.csv), {SKIP_OR}"
            folder.refuse(image_id, f"with unusable boxes in {path.name}", remedy, detail, LabelError)
