"""One source folder (train, test) while its files and tables are brought together, and what comes out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import DatasetError, LabelError, MLCAKError
from .labels import Reading
from .tables import RADIOGRAPH_SUFFIXES, bare_id, id_key, parse_number

BOX_EDGES = ("x_min", "y_min", "x_max", "y_max")
SKIP = "or go on without them: on_error='skip' (--on-error skip)"


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
        image_id: Name of the image, as its file spells it.
        path: Its file.
        readings: One per reader; a single consensus reading in the test set.
        boxes: The readers' boxes.
        group: The images of one patient share a group; the image id where patients are unknown.
        boxes_size: Rows and columns of the image that the boxes refer to; None where that is the file itself.
    """

    image_id: str
    path: str
    readings: tuple[Reading, ...]
    boxes: tuple[Box, ...]
    group: str
    boxes_size: tuple[int, int] | None = None

    def boxes_in(self, height: int, width: int) -> tuple[Box, ...]:
        """The boxes in pixels of the file, once its size is known: a conversion may be smaller than the original."""
        if self.boxes_size is None or self.boxes_size == (height, width):
            return self.boxes
        y, x = height / self.boxes_size[0], width / self.boxes_size[1]
        return tuple(
            box._replace(x_min=box.x_min * x, y_min=box.y_min * y, x_max=box.x_max * x, y_max=box.y_max * y)
            for box in self.boxes
        )


class _Problem(NamedTuple):
    headline: str
    remedy: str
    detail: str
    error: type[MLCAKError]


@dataclass
class SourceFolder:
    """Files, readings and boxes of one folder, by image id as its file (else its first table) spells it.

    Args:
        name: Of the folder: train, test.
        files: The radiographs.
        readings: By image, then by reader.
        boxes: By image.
        problems: The first problem of each image that cannot be used.
        remarks: What was put right without losing anything, with its number.
    """

    name: str
    files: dict[str, Path]
    readings: dict[str, dict[str, Reading]] = field(default_factory=dict)
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    problems: dict[str, _Problem] = field(default_factory=dict)
    remarks: Counter[str] = field(default_factory=Counter)
    _spelling: dict[str, str] = field(default_factory=dict)

    @classmethod
    def scan(cls, root: Path, name: str) -> SourceFolder:
        """List the radiographs of a folder.

        Args:
            root: The data folder.
            name: Of the folder in it.

        Raises:
            DatasetError: It cannot be read, or holds no radiograph at all.
        """
        folder = cls(name, {})
        several: dict[str, list[str]] = {}
        for path in radiograph_files(root / name):
            image_id = folder.identify(path.name)
            several.setdefault(image_id, []).append(path.name)
            if path.is_file():
                folder.files.setdefault(image_id, path)
            elif path.is_dir():
                headline = f"of {name}/ in whose place a folder lies"
                folder.refuse(image_id, headline, f"Put the image file itself there, {SKIP}")
            else:
                folder.refuse(image_id, f"of {name}/ whose file is a broken link", f"Restore the file, {SKIP}")
        for image_id, names in several.items():
            if len(names) > 1:
                headline = f"with more than one file in {name}/"
                folder.refuse(image_id, headline, f"Keep one of them, {SKIP}", ", ".join(names))
        if not several:
            raise DatasetError(
                f"{name}/ holds no radiograph ({', '.join(RADIOGRAPH_SUFFIXES)}); it holds {_listed(root / name)}. Put"
                f" the image files directly into {name}/, and complete the download"
            )
        return folder

    def identify(self, written: str) -> str:
        """The one spelling of an image id: that of its file, or else the first one met."""
        return self._spelling.setdefault(id_key(written), bare_id(written))

    def refuse(
        self, image_id: str, headline: str, remedy: str, detail: str = "", error: type[MLCAKError] = DatasetError
    ) -> None:
        """Note the first problem of an image."""
        self.problems.setdefault(image_id, _Problem(headline, remedy, detail, error))

    def add_box(self, image_id: str, finding: str, reader: str, row: Mapping[str, str], table: str) -> None:
        """Add the box of a table's row; one with swapped corners is put in order, one that is there already is not new.

        Raises:
            LabelError: An edge is no number, or the box has no area.
        """
        x0, y0, x1, y1 = (parse_number(row[edge], edge) for edge in BOX_EDGES)
        if x0 == x1 or y0 == y1:
            raise LabelError(f"{finding}: the box {', '.join(row[edge] for edge in BOX_EDGES)} has no area")
        if x0 > x1 or y0 > y1:
            self.remarks[f"box(es) of {table} had swapped corners and were put in order"] += 1
        box = Box(finding, reader, min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        boxes = self.boxes.setdefault(image_id, [])
        if box in boxes:
            self.repeated(table)
        else:
            boxes.append(box)

    def repeated(self, table: str) -> None:
        """Count a row that says once more what another row has said."""
        self.remarks[f"row(s) of {table} repeat another one and were used once"] += 1

    def match(self, table: str) -> None:
        """Refuse images of the table without a file, and files without a row in it."""
        for image_id in self.readings.keys() - self.files.keys():
            headline = f"named in {table}, but without a file in {self.name}/"
            self.refuse(image_id, headline, f"Download them again, {SKIP}")
        for image_id in self.files.keys() - self.readings.keys() - self.problems.keys():
            headline = f"in {self.name}/, but not named in {table}"
            self.refuse(image_id, headline, f"Add their rows or remove the files, {SKIP}")

    def records(self, groups: Mapping[str, str] | None, sizes: Mapping[str, tuple[int, int]]) -> list[ImageRecord]:
        """The images that can be used.

        Args:
            groups: Group by `id_key`; None makes every image its own.
            sizes: Size that the boxes refer to, by `id_key`, where it is not that of the file.
        """
        if groups is not None:
            for image_id in self.readings:
                if id_key(image_id) not in groups:
                    headline = f"of {self.name}/ without a group in the groups file"
                    self.refuse(image_id, headline, f"Add their rows, {SKIP}")
        return [
            ImageRecord(
                image_id,
                str(self.files[image_id]),
                tuple(readings.values()),
                tuple(self.boxes.get(image_id, ())),
                image_id if groups is None else groups[id_key(image_id)],
                sizes.get(id_key(image_id)),
            )
            for image_id, readings in self.readings.items()
            if image_id not in self.problems
        ]

    def raise_problems(self) -> None:
        """Raise one error for all images that share the first problem's kind; none where there is no problem."""
        if not self.problems:
            return
        first = min(self.problems.items())[1]
        same = sorted(image_id for image_id, p in self.problems.items() if p.headline == first.headline)
        named = [f"{i} ({self.problems[i].detail})" if self.problems[i].detail else i for i in same[:5]]
        more = f" and {len(same) - 5} more" if len(same) > 5 else ""
        raise first.error(f"{len(same)} image(s) {first.headline}: {', '.join(named)}{more}. {first.remedy}")

    def left_out(self) -> list[LeftOut]:
        """The images with a problem, by id."""
        return [
            LeftOut(image_id, f"{p.headline}{': ' if p.detail else ''}{p.detail}", self.name)
            for image_id, p in sorted(self.problems.items())
        ]


def radiograph_files(folder: Path) -> list[Path]:
    """List what is named as a radiograph directly in a folder, hidden files aside, by name.

    Raises:
        DatasetError: The folder cannot be read.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DatasetError(
            f"{folder.name}/ cannot be read ({error.strerror}); it must be a folder that you may list"
        ) from None
    return [folder / name for name in names if name.lower().endswith(RADIOGRAPH_SUFFIXES) and name[0] != "."]


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first names of several, and how many more there are."""
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _listed(folder: Path) -> str:
    return listed([path.name + "/" * path.is_dir() for path in sorted(folder.iterdir())])


def file_states(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of change of every radiograph; zeros for a broken link."""
    for path in radiograph_files(folder):
        try:
            state = path.stat()
        except OSError:
            yield path.name, 0, 0
        else:
            yield path.name, state.st_size, state.st_mtime_ns
