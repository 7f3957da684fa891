"""One folder of VinDr-CXR (train, test): its files, the readings and the boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..configuration_mlcak import VINDR_CXR_FINDINGS
from ..errors import LabelError
from ..preparation.image_folder import SKIP_OR, ImageFolder
from ..preparation.source import Box, ImageRecord
from ..preparation.tables import id_key, parse_number
from .labels import VINDR_CXR_LABELS, Reading

_COLUMNS = {name: VINDR_CXR_LABELS.index(name) for name in VINDR_CXR_FINDINGS}
BOX_EDGES = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True)
class VinDrRecord(ImageRecord):
    """One image with its readings.

    Args:
        readings (`tuple[Reading, ...]`):
            One per reader; a single consensus reading in the test set.
    """

    readings: tuple[Reading, ...] = ()


@dataclass
class VinDrFolder(ImageFolder):
    """A folder with the readings and boxes of its images.

    Args:
        readings (`dict[str, dict[str, Reading]]`):
            By image, then by reader.
        boxes (`dict[str, list[Box]]`):
            By image.
    """

    readings: dict[str, dict[str, Reading]] = field(default_factory=dict)
    boxes: dict[str, list[Box]] = field(default_factory=dict)

    def add_box(self, image_id: str, finding: str, reader: str, row: Mapping[str, str], table: str) -> None:
        """Add the box of a table's row. Swapped corners are corrected, a repeated box is counted.

        Args:
            image_id (`str`):
                Image of the box.
            finding (`str`):
                Finding in the box.
            reader (`str`):
                Reader who marked it.
            row (`Mapping[str, str]`):
                Cells of the row, by column.
            table (`str`):
                Name of the table.

        Raises:
            [`LabelError`]: When an edge is not a number, or the box has no area.
        """
        x0, y0, x1, y1 = (parse_number(row[edge], edge) for edge in BOX_EDGES)
        if x0 == x1 or y0 == y1:
            raise LabelError(f"{finding}: the box {', '.join(row[edge] for edge in BOX_EDGES)} has no area")
        if x0 > x1 or y0 > y1:
            self.table_notes[f"box(es) of {table} had swapped corners, which were corrected"] += 1
        box = Box(finding, reader, min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        boxes = self.boxes.setdefault(image_id, [])
        if box in boxes:
            self.repeated(table)
        else:
            boxes.append(box)

    def records(self, groups: Mapping[str, str] | None, sizes: Mapping[str, tuple[int, int]]) -> list[VinDrRecord]:
        """Return the images that can be used.

        Args:
            groups (`Mapping[str, str]`, *optional*):
                Group by `id_key`. `None` makes every image its own group.
            sizes (`Mapping[str, tuple[int, int]]`):
                Size that the boxes refer to, by `id_key`, if it is not that of the file.
        """
        if groups is not None:
            for image_id in self.readings:
                if id_key(image_id) not in groups:
                    headline = f"of {self.name}/ without a group in the groups file"
                    self.refuse(image_id, headline, f"Add their rows, {SKIP_OR}")
        return [
            VinDrRecord(
                image_id,
                str(self.files[image_id]),
                image_id if groups is None else groups[id_key(image_id)],
                tuple(self.boxes.get(image_id, ())),
                sizes.get(id_key(image_id)),
                tuple(readings.values()),
            )
            for image_id, readings in self.readings.items()
            if image_id not in self.problems
        ]


def note_disagreements(folder: VinDrFolder, labels_table: str, boxes_table: str) -> None:
    """Count where readings and boxes differ, as notes of the folder; nothing is changed or left out.

    Args:
        folder: With all of its readings and boxes.
        labels_table: Name of the table of readings.
        boxes_table: Name of the table of boxes.
    """
    unmarked = unframed = 0
    for image_id, readings in folder.readings.items():
        if image_id in folder.problems:
            continue
        framed = {(box.reader, box.finding) for box in folder.boxes.get(image_id, ())}
        for reader, reading in readings.items():
            for finding, column in _COLUMNS.items():
                unframed += bool(reading.votes[column]) and (reader, finding) not in framed
        unmarked += sum(not readings[box.reader].votes[_COLUMNS[box.finding]] for box in folder.boxes.get(image_id, ()))
    notes = {
        f"box(es) of {boxes_table} frame a finding that their reader did not mark in {labels_table}": unmarked,
        f"finding(s) marked in {labels_table} have no box in {boxes_table}": unframed,
    }
    folder.table_notes.update({text: count for text, count in notes.items() if count})


def note_reader_counts(folder: VinDrFolder) -> None:
    """Count the images with more or fewer readers than most, as a note of the folder.

    Args:
        folder: With all of its readings.
    """
    usable = folder.readings.keys() - folder.problems.keys()
    readers = Counter(len(folder.readings[image_id]) for image_id in usable)
    usual = max(readers, key=readers.__getitem__, default=0)
    if len(readers) > 1:
        text = f"image(s) of {folder.name}/ were not read by {usual} reader(s), as most were"
        folder.table_notes[text] = readers.total() - readers[usual]
