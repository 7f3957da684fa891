"""One folder of VinDr-CXR (train, test): its files, the readings and the boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..configuration_mlcak import VINDR_CXR_FINDINGS
from ..errors import LabelError
from ..preparation.image_folder import ImageFolder
from ..preparation.source import Box, ImageRecord
from ..preparation.tables import Table, check_image_id, id_key, parse_number
from .labels import Reading

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

    def read_rows(self, table: Table, columns: Sequence[str], use: Callable[[str, int, dict[str, str]], None]) -> None:
        """Read the rows of a table, and refuse the images of wrong rows.

        Args:
            table (`Table`):
                The table.
            columns (`Sequence[str]`):
                Columns needed besides image_id.
            use (`Callable`):
                Called with image id, line number and cells by column; raises a [`LabelError`] if the row is wrong.
        """
        for line, row in table.named_rows(("image_id", *columns)):
            image_id = self.identify(row["image_id"])
            try:
                check_image_id(row["image_id"])
                use(image_id, line, row)
            except LabelError as error:
                detail = f"line {line}: {error}"
                self.refuse(image_id, f"with unusable rows in {table.name}", "Correct the rows", detail, LabelError)

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
        records = []
        for image_id, readings in self.readings.items():
            key, boxes = id_key(image_id), tuple(self.boxes.get(image_id, ()))
            if groups is not None and key not in groups:
                self.refuse(image_id, f"of {self.name}/ without a group in the groups file", "Add their rows")
            if image_id not in self.problems:
                path, group = str(self.files[image_id]), image_id if groups is None else groups[key]
                records.append(VinDrRecord(image_id, path, group, boxes, sizes.get(key), tuple(readings.values())))
        return records

    def note_reader_counts(self) -> None:
        """Count the images with more or fewer readers than most, as a note."""
        usable = self.readings.keys() - self.problems.keys()
        readers = Counter(len(self.readings[image_id]) for image_id in usable)
        if len(readers) > 1:
            usual = max(readers, key=lambda number: (readers[number], number))
            text = f"image(s) of {self.name}/ were not read by {usual} reader(s), as most were"
            self.table_notes[text] = readers.total() - readers[usual]

    def note_disagreements(self, labels_table: str, boxes_table: str) -> None:
        """Count where the readings and the boxes of the two tables differ, as notes; all are kept."""
        usable = self.readings.keys() - self.problems.keys()
        readings = [(image_id, reading) for image_id in usable for reading in self.readings[image_id].values()]
        marked = {(image_id, reading.reader, label) for image_id, reading in readings for label in reading.marked}
        framed = [(image_id, box.reader, box.finding) for image_id in usable for box in self.boxes.get(image_id, ())]
        local = {mark for mark in marked if mark[2] in VINDR_CXR_FINDINGS}
        unmarked, unframed = sum(mark not in marked for mark in framed), len(local.difference(framed))
        self.table_notes += Counter(
            {
                f"box(es) of {boxes_table} frame a finding that their reader did not mark in {labels_table}": unmarked,
                f"finding(s) marked in {labels_table} have no box in {boxes_table}": unframed,
            }
        )
