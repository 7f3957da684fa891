"""CSV tables as people have them: with a byte-order mark, with ; or tab or |, with image ids spelt in other ways."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import DatasetError, LabelError

DICOM_SUFFIXES = (".dicom", ".dcm", ".dic")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
RADIOGRAPH_SUFFIXES = DICOM_SUFFIXES + PICTURE_SUFFIXES

_DELIMITERS = ",;\t|"
# How spreadsheets and data frames write that there is nothing.
EMPTY_CELLS = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>"})
# An image id names a file, so it must not be able to name one elsewhere.
_IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Value = TypeVar("Value")


def bare_id(written: str) -> str:
    """An image id without spaces around it and without a radiograph's suffix, as some tables write it."""
    name = written.strip()
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix.lower()}" in RADIOGRAPH_SUFFIXES else name


def id_key(written: str) -> str:
    """What two spellings of the same image id have in common: letter case and suffix do not matter."""
    return bare_id(written).casefold()


class Table:
    """A CSV file in UTF-8; its delimiter is the one of comma, semicolon, tab and | that splits off the column image_id.

    Args:
        path: The file.

    Raises:
        DatasetError: It cannot be opened, is empty, or is no CSV text; the latter may come while its rows are read.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._lines = self._read(path)
        #: Names of the columns.
        self.header: list[str] = next(self._lines, (0, []))[1]
        if not self.header:
            raise DatasetError(f"{path.name} is empty; a table with a header was expected. Download it again")

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number, cells) of every row that is not blank."""
        return self._lines

    def named_rows(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield (line number, cells by column name), with "" for whatever stands for nothing (NaN, NA, null, none).

        Args:
            columns: Columns that must be there; a row too short to hold a column has "" in it.

        Raises:
            DatasetError: A column is missing.
        """
        missing = [name for name in columns if name not in self.header]
        if missing:
            raise DatasetError(
                f"{self.name}: no column {', '.join(map(repr, missing))}; it has {', '.join(self.header)}. Name the"
                " column so, or download the table again"
            )
        for line, cells in self:
            given = dict(zip(self.header, cells, strict=False))
            yield (
                line,
                {name: "" if (cell := given.get(name, "")).lower() in EMPTY_CELLS else cell for name in self.header},
            )

    def _read(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        try:
            with path.open(newline="", encoding="utf-8-sig") as stream:
                delimiter = _delimiter(stream.readline())
                stream.seek(0)
                reader = csv.reader(stream, delimiter=delimiter)
                columns = 0
                try:
                    for cells in reader:
                        columns = columns or len(cells)
                        if any(cell.strip() for cell in cells[columns:]):
                            raise DatasetError(
                                f"{path.name}: line {reader.line_num} has {len(cells)} cells, but the table has "
                                f"{columns} columns, so that values would count for the wrong ones. Correct the row; "
                                "decimals are written with a point"
                            )
                        if any(cells):
                            yield reader.line_num, [cell.strip() for cell in cells]
                except csv.Error as error:
                    raise DatasetError(f"{path.name}: line {reader.line_num} is no CSV text ({error})") from None
        except UnicodeDecodeError as error:
            raise DatasetError(f"{path.name} is no CSV text in UTF-8 ({error.reason}); save it as UTF-8") from None
        except OSError as error:
            raise DatasetError(f"{path.name} cannot be read ({error.strerror}); it must be a readable file") from None


def _delimiter(header: str) -> str:
    for delimiter in _DELIMITERS:
        if "image_id" in (cell.strip().strip('"') for cell in header.split(delimiter)):
            return delimiter
    return ","


def read_groups(path: Path) -> dict[str, str]:
    """Read which images belong to one patient.

    Args:
        path: CSV with the columns image_id and group_id.

    Returns:
        Group by `id_key` of the image.

    Raises:
        DatasetError: No such file or column, an empty cell, or an image in two groups.
    """
    if not path.is_file():
        raise DatasetError(f"there is no groups file {path}; it is a CSV with the columns image_id and group_id")
    table = Table(path)
    if not {"image_id", "group_id"} <= set(table.header):
        raise DatasetError(
            f"{path.name}: the columns image_id and group_id are needed; it has {', '.join(table.header)}"
        )
    groups: dict[str, str] = {}
    for line, row in table.named_rows(("image_id", "group_id")):
        if not row["image_id"] or not row["group_id"]:
            raise DatasetError(f"{path.name}: line {line} needs both an image_id and a group_id")
        put_value(groups, row, row["group_id"], f"{path.name}: line {line} puts image {{}} into a second group")
    return groups


def put_value(values: dict[str, Value], row: Mapping[str, str], value: Value, contradiction: str) -> None:
    """Remember an image's value; a second, other one is an error."""
    if values.setdefault(id_key(row["image_id"]), value) != value:
        raise DatasetError(f"{contradiction.format(row['image_id'])}; an image has one")


def check_image_id(text: str) -> None:
    """Make sure that a cell names an image.

    Raises:
        LabelError: It is empty, or holds what no file name of an image holds.
    """
    if not _IMAGE_ID.fullmatch(text):
        raise LabelError(f"{text!r} is no image id")


def parse_number(text: str, column: str) -> float:
    """Read a number of a table.

    Args:
        text: The cell.
        column: Its column, for the message.

    Returns:
        The number.

    Raises:
        LabelError: The cell is empty or no number, such as one with a decimal comma.
    """
    try:
        number = float(text or "nan")
    except ValueError:
        hint = " (write decimals with a point)" if "," in text else ""
        raise LabelError(f"column {column!r} must hold a number, but holds {text!r}{hint}") from None
    if number - number != 0:  # NaN or infinite
        raise LabelError(f"column {column!r} must hold a number, but {f'holds {text!r}' if text else 'is empty'}")
    return number
