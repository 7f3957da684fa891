"""What a source of radiographs and labels must offer to be prepared as a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .options import PreparationOptions

SKIP = "on_error='skip' (--on-error skip)"


@dataclass(frozen=True)
class SkippedImage:
    """An image that is not in the dataset, and why."""

    image_id: str
    reason: str
    folder: str


class Box(NamedTuple):
    """A finding that a reader marked; edges in pixels of the original."""

    finding: str
    reader: str
    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True)
class ImageRecord:
    """One image as the tables describe it; a source adds its labels.

    Args:
        image_id (`str`):
            Name of the image, as its file spells it.
        path (`str`):
            Its file.
        group (`str`):
            Images of one patient share a group. It goes into the dataset, so a source replaces the ids of patients
            by running numbers ([`number_groups`]). The image id where patients are unknown.
        boxes (`tuple[Box, ...]`, *optional*, defaults to `()`):
            Boxes of all readers.
        boxes_size (`tuple[int, int]`, *optional*):
            Rows and columns of the image that the boxes refer to, if it is not the file itself.
    """

    image_id: str
    path: str
    group: str
    boxes: tuple[Box, ...] = ()
    boxes_size: tuple[int, int] | None = None

    def boxes_in(self, height: int, width: int) -> tuple[Box, ...]:
        """Scale the boxes to the pixels of the file: a conversion may be smaller than the original."""
        if self.boxes_size is None or self.boxes_size == (height, width):
            return self.boxes
        y, x = height / self.boxes_size[0], width / self.boxes_size[1]
        return tuple(Box(b.finding, b.reader, b.x_min * x, b.y_min * y, b.x_max * x, b.y_max * y) for b in self.boxes)


@dataclass(frozen=True)
class SourceImages:
    """All images of a source, before any of them is read.

    Args:
        splits (`dict[str, list[ImageRecord]]`):
            Images of each split, in the order of the tables.
        skipped (`list[SkippedImage]`):
            Images that cannot be used, found before any image is read.
        table_notes (`list[str]`):
            What was corrected or ignored in the tables, one sentence each.
    """

    splits: dict[str, list[Any]]
    skipped: list[SkippedImage]
    table_notes: list[str]


@dataclass(frozen=True)
class SourceCard:
    """The sentences of a dataset card that depend on the source.

    Args:
        title (`str`):
            Name of the dataset.
        notice (`str`):
            First paragraph: what may be done with the data.
        made_from (`str`):
            What the dataset was prepared from.
        license (`dict[str, Any]`):
            Licence entries of the card's metadata; empty if the licence is unknown.
        splits (`list[str]`):
            How the splits were made.
        columns (`dict[str, str]`):
            Label columns and their content.
        labels (`list[str]`):
            How the labels were made.
        citation (`str`):
            BibTeX entry; empty if there is none.
    """

    title: str
    notice: str
    made_from: str
    license: dict[str, Any] = field(default_factory=dict)
    splits: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    citation: str = ""


class PreparationSource(Protocol):
    """A local source of radiographs and labels. It is pickled to worker processes, so it holds no images."""

    options: PreparationOptions

    def read(self) -> SourceImages:
        """Read the tables and divide the images into splits; no image is opened."""

    def label_features(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the label columns before and after the boxes, as `datasets` features."""

    def label_rows(self, record: Any, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a key and the label columns (with `boxes`) for each row of an image."""

    def folder_of(self, split: str) -> str:
        """Return the folder that the images of a split come from."""

    def card(self) -> SourceCard:
        """Return the sentences of the dataset card that depend on this source."""
