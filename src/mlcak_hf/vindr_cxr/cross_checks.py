"""Do a folder's tables agree: the readings of each image, the boxes that its readers drew, and how many they are?"""

from __future__ import annotations

from collections import Counter

from ..configuration_mlcak import VINDR_CXR_FINDINGS
from .labels import VINDR_CXR_LABELS
from .source import SourceFolder

_COLUMNS = {name: VINDR_CXR_LABELS.index(name) for name in VINDR_CXR_FINDINGS}


def remark_disagreements(folder: SourceFolder, labels_table: str, boxes_table: str) -> None:
    """Count where readings and boxes differ, as remarks of the folder; nothing is changed or left out.

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
    remarks = {
        f"box(es) of {boxes_table} frame a finding that their reader did not mark in {labels_table}": unmarked,
        f"finding(s) marked in {labels_table} have no box in {boxes_table}": unframed,
    }
    folder.remarks.update({text: count for text, count in remarks.items() if count})


def remark_reader_counts(folder: SourceFolder) -> None:
    """Count the images with more or fewer readers than most, as a remark of the folder.

    Args:
        folder: With all of its readings.
    """
    usable = folder.readings.keys() - folder.problems.keys()
    readers = Counter(len(folder.readings[image_id]) for image_id in usable)
    usual = max(readers, key=readers.__getitem__, default=0)
    if len(readers) > 1:
        text = f"image(s) of {folder.name}/ were not read by {usual} reader(s), as most were"
        folder.remarks[text] = readers.total() - readers[usual]
