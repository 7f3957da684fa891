"""What a source of radiographs and labels must offer to be prepared as a dataset."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

from ..errors import DatasetError
from .group_split import held_out_groups
from .options import PreparationOptions

SKIP = "on_error='skip' (--on-error skip)"

Record = TypeVar("Record", bound="ImageRecord")


class SkippedImage(NamedTuple):
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
            Images of one patient share a group. The image id where patients are unknown.
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
        return tuple(
            box._replace(x_min=box.x_min * x, y_min=box.y_min * y, x_max=box.x_max * x, y_max=box.y_max * y)
            for box in self.boxes
        )


@dataclass(frozen=True)
class SourceImages:
    """All images of a source, before any of them is read.

    Args:
        splits (`dict[str, list[ImageRecord]]`):
            Images of each split, in the order of the tables.
        pseudonyms (`dict[str, str]`, *optional*):
            Name in the dataset of each group. `None` if the groups are the image ids.
        skipped (`list[SkippedImage]`):
            Images that cannot be used, found before any image is read.
        table_notes (`list[str]`):
            What was corrected or ignored in the tables, one sentence each.
    """

    splits: dict[str, list[Any]]
    pseudonyms: dict[str, str] | None
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


class PreparationSource(ABC):
    """A local source of radiographs and labels. It is pickled to worker processes, so it holds no images."""

    name: ClassVar[str]
    options: PreparationOptions

    @abstractmethod
    def read(self) -> SourceImages:
        """Read the tables and divide the images into splits; no image is opened."""

    @abstractmethod
    def choices(self) -> dict[str, Any]:
        """Return every choice that determines the dataset, as plain values without paths."""

    @abstractmethod
    def label_features(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the label columns before and after the boxes, as `datasets` features."""

    @abstractmethod
    def label_rows(self, record: Any, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a key and the label columns (with `boxes`) for each row of an image."""

    @abstractmethod
    def folder_of(self, split: str) -> str:
        """Return the folder that the images of a split come from."""

    @abstractmethod
    def card(self) -> SourceCard:
        """Return the sentences of the dataset card that depend on this source."""


def split_by_group(
    records: Sequence[Record], fraction: float, salt: str, name: str
) -> tuple[list[Record], list[Record]]:
    """Set whole groups aside with [`held_out_groups`].

    Args:
        records (`Sequence[ImageRecord]`):
            Images to divide.
        fraction (`float`):
            Share of the images to set aside, 0 <= fraction < 1.
        salt (`str`):
            Another salt gives another choice of groups.
        name (`str`):
            Name of the fraction, for the message.

    Returns:
        `tuple[list[ImageRecord], list[ImageRecord]]`: The remaining images and those set aside, in the original order.

    Raises:
        [`DatasetError`]: When there are fewer than two groups.
    """
    if fraction == 0:
        return list(records), []
    groups = [record.group for record in records]
    chosen = held_out_groups(groups, fraction, salt)
    if not chosen:
        raise DatasetError(f"{name} needs at least two groups to divide; got {len(set(groups))}. Set it to 0.")
    rest = [record for record in records if record.group not in chosen]
    return rest, [record for record in records if record.group in chosen]


def group_pseudonyms(records: Sequence[ImageRecord]) -> dict[str, str]:
    """Number the groups, as their ids may name a patient. The order is a hash, so it tells nothing about the ids."""
    ranked = sorted({record.group for record in records}, key=lambda group: uuid.uuid5(uuid.NAMESPACE_OID, group).hex)
    return {group: f"group-{number:06d}" for number, group in enumerate(ranked)}
