"""CSV tables with any usual delimiter, with or without a byte-order mark, and with image ids in any spelling."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from ..errors import DatasetError, LabelError
from ..radiographs.file_search import RADIOGRAPH_SUFFIXES

# How spreadsheets and data frames write an empty cell.
_EMPTY_CELLS = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>"})
# An image id names a file, so it must not be able to name one elsewhere.
_IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Value = TypeVar("Value")


def bare_id(written: str) -> str:
    """Remove spaces around an image id, and the suffix of a radiograph, which some tables write."""
    name = written.strip()
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix.lower()}" in RADIOGRAPH_SUFFIXES else name


def id_key(written: str) -> str:
    """Return the same key for all spellings of an image id: letter case and suffix do not matter."""
    return bare_id(written).casefold()


class Table:
    """A CSV file in UTF-8, delimited by commas, semicolons, tabs or | (whichever makes `key` a column).

    Args:
        path (`Path`):
            The file.
        key (`str`, *optional*, defaults to `"image_id"`):
            A column that the table must have.

    Raises:
        [`DatasetError`]: When the file cannot be opened, is empty or is not a CSV file, which may show only while its
            rows are read.
    """

    def __init__(self, path: Path, key: str = "image_id") -> None:
        self.name = path.name
        self._lines = self._read(path, key)
        #: Names of the columns.
        self.header: list[str] = next(self._lines, (0, []))[1]
        if not self.header:
            raise DatasetError(f"{path.name} must be a table with a header; got an empty file. Download it again.")

    def named_rows(
        self, columns: Sequence[str], remedy: str = "Rename the column, or download the table again."
    ) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield line number and cells by column name. A missing cell and NaN, NA, null or none become "".

        Args:
            columns (`Sequence[str]`):
                Columns that must be there.
            remedy (`str`, *optional*):
                What to do if one is missing.

        Raises:
            [`DatasetError`]: When a column is missing or repeated.
        """
        missing = [name for name in columns if name not in self.header]
        if missing:
            wanted, got = ", ".join(map(repr, missing)), ", ".join(self.header)
            raise DatasetError(f"{self.name} must have the column {wanted}; got {got}. {remedy}")
        for name in columns:
            if self.header.count(name) > 1:
                raise DatasetError(f"{self.name} must have one column {name!r}; got {self.header.count(name)}. Rename.")
        for line, cells in self._lines:
            given = ["" if cell.lower() in _EMPTY_CELLS else cell for cell in cells]
            yield line, dict(zip_longest(self.header, given[: len(self.header)], fillvalue=""))

    def _read(self, path: Path, key: str) -> Iterator[tuple[int, list[str]]]:
        line, columns = 0, 0
        try:
            with path.open(newline="", encoding="utf-8-sig") as stream:
                header = stream.readline()
                fitting = (d for d in ",;\t|" if key in (cell.strip().strip('"') for cell in header.split(d)))
                stream.seek(0)
                reader = csv.reader(stream, delimiter=next(fitting, ","))
                for cells in reader:
                    line, columns = reader.line_num, columns or len(cells)
                    if any(cell.strip() for cell in cells[columns:]):
                        raise DatasetError(
                            f"{path.name}: line {line} must have {columns} cells, one per column; got {len(cells)}."
                            " Correct the row, and write decimals with a point."
                        )
                    if any(cells):
                        yield line, [cell.strip() for cell in cells]
        except csv.Error as error:
            raise DatasetError(f"{path.name} is not a CSV file: {error} after line {line}.") from None
        except UnicodeDecodeError as error:
            raise DatasetError(f"{path.name} is not a CSV file in UTF-8 ({error.reason}). Save it as UTF-8.") from None
        except OSError as error:
            raise DatasetError(f"{path.name} cannot be read ({error.strerror}). Name a readable file.") from None


def read_groups(path: Path) -> dict[str, str]:
    """Read which images belong to one patient.

    Args:
        path (`Path`):
            CSV with the columns image_id and group_id.

    Returns:
        `dict[str, str]`: Group by `id_key` of the image.

    Raises:
        [`DatasetError`]: When there is no such file or column, a cell is empty, or an image has two groups.
    """
    groups: dict[str, str] = {}
    for line, row in Table(path).named_rows(("image_id", "group_id")):
        if not row["image_id"] or not row["group_id"]:
            raise DatasetError(f"{path.name}: line {line} must have an image_id and a group_id. Complete the row.")
        put_value(groups, row, row["group_id"], f"{path.name}: line {line} puts image {{}} into a second group")
    return groups


def put_value(values: dict[str, Value], row: Mapping[str, str], value: Value, contradiction: str) -> None:
    """Store the value of an image; another value than before is an error."""
    if values.setdefault(id_key(row["image_id"]), value) != value:
        raise DatasetError(f"{contradiction.format(row['image_id'])}. Remove one of the rows.")


def check_image_id(text: str) -> None:
    """Raise [`LabelError`] if a cell cannot be the name of an image file."""
    if not _IMAGE_ID.fullmatch(text):
        raise LabelError(f"an image id must be letters, digits, '.', '_' and '-'; got {text!r}")


def parse_number(text: str, column: str) -> float:
    """Read the number in a cell.

    Args:
        text (`str`):
            The cell.
        column (`str`):
            Its column, for the message.

    Raises:
        [`LabelError`]: When the cell is empty or not a finite number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        hint = " (write decimals with a point)" if "," in text else ""
        raise LabelError(f"column {column!r} must hold a number; got {text!r}{hint}")
    return number
