"""A table of predictions that grows by one row a file: CSV, JSON lines or Parquet, always rebuilt from its journal."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import DeploymentError
from ..prediction.file_predictor import FilePredictor
from ..prediction.journal import Entry, Journal, unwritable
from ..prediction.outputs import check_outputs
from ..prediction.reading import Prediction
from ..prediction.row_formats import csv_cells, flat_row, json_row, row_to_json, table_columns, write_parquet

_SUFFIXES = (".csv", ".jsonl", ".parquet")
#: How often a table that cannot grow is written while files arrive, in seconds.
FLUSH_S = 10.0


class Results:
    """The results of one model on files that arrive one after the other.

    Each row is on the disk in the journal (`results.csv.journal`) before it is in the table. The table is written from
    the journal at the start, so that both agree after a kill or a full disk.

    Args:
        output (`Path`):
            The table; its suffix, `.csv`, `.jsonl` or `.parquet`, decides the format. It has the columns of
            `mlcak predict`. Parquet files cannot grow, so such a table is written by [`flush`][Results.flush] only.
        predictor ([`FilePredictor`]):
            Its labels are the columns, and its name and weights are in each row.
        columns (`Sequence[str]`, *optional*):
            Further columns of texts.

    Raises:
        [`DeploymentError`]: When the suffix is another one, `output` was not written by this class or for this model,
            another process writes to it, or it cannot be written.
        [`MLCAKError`]: When `output` is a folder or is named like a radiograph.
    """

    def __init__(self, output: Path, predictor: FilePredictor, columns: Sequence[str] = ()) -> None:
        self.output, self._provenance = output, predictor.provenance
        self._suffix = output.suffix.lower()
        check_outputs((), output)
        if self._suffix not in _SUFFIXES:
            raise DeploymentError(
                f"The suffix of the output must be .csv, .jsonl or .parquet; got {output.name}. Rename it."
            )
        journal = output.with_name(f"{output.name}.journal")
        if output.exists() and not journal.exists():
            raise DeploymentError(
                f"{output} exists, but its journal {journal.name} does not, so that adding to it could lose or repeat "
                "rows. Name another output (--output)."
            )
        self._is_behind, self._rebuilt, self._took_s = True, 0.0, 0.0
        self._columns = [*table_columns(predictor), *columns]
        self._journal = Journal(journal, predictor.choices)
        try:
            self._rebuild()
        except BaseException:
            self._journal.close()
            raise

    def __contains__(self, key: object) -> bool:
        return key in self._journal

    def __len__(self) -> int:
        return len(self._journal)

    def add(self, predictions: Iterable[tuple[str, Prediction, Mapping[str, str | None]]]) -> None:
        """Add predictions with the keys of their files and the further columns, and return when they are on the disk.

        Raises:
            [`DeploymentError`]: When they cannot be written.
        """
        row_of = json_row if self._suffix == ".jsonl" else flat_row
        entries = [
            Entry(key, _as_text({**row_of(prediction, self._provenance), **further}))
            for key, prediction, further in predictions
        ]
        if not entries:
            return
        self._journal.add(entries)
        if self._suffix == ".parquet" or self._is_behind or not self.output.exists():
            self._is_behind = True
            return
        try:
            with self.output.open("a", encoding="utf-8", newline="") as stream:
                self._write_text([entry.row for entry in entries], stream)
        except OSError as error:
            self._is_behind = True  # part of a row may have been written
            raise unwritable(self.output, error) from error

    def flush(self, every_s: float = 0.0) -> None:
        """Write the table again if it is behind its journal.

        Args:
            every_s (`float`, *optional*, defaults to 0.0):
                Not sooner than this after the last time, in seconds, and not sooner than 20 times what that took.

        Raises:
            [`DeploymentError`]: When it cannot be written.
        """
        least_s = max(every_s, 20 * self._took_s) if every_s else 0.0
        if self._is_behind and time.monotonic() - self._rebuilt >= least_s:
            self._rebuild()

    def close(self) -> None:
        """Write the table if it is behind, and let another process have the journal."""
        try:
            self.flush()
        finally:
            self._journal.close()

    def _rebuild(self) -> None:
        self._is_behind, began = True, time.monotonic()
        partial = self.output.with_name(f".{self.output.name}.partial")
        try:
            if self._suffix == ".parquet":
                write_parquet(self._journal.rows(), self._columns, partial)
            else:
                with partial.open("w", encoding="utf-8", newline="") as stream:
                    if self._suffix == ".csv":
                        csv.writer(stream).writerow(self._columns)
                    self._write_text(self._journal.rows(), stream)
            partial.replace(self.output)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise unwritable(self.output, error) from error
        self._is_behind, self._rebuilt = False, time.monotonic()
        self._took_s = self._rebuilt - began

    def _write_text(self, rows: Iterable[dict[str, Any]], stream: IO[str]) -> None:
        if self._suffix == ".jsonl":
            stream.writelines(f"{row_to_json(row)}\n" for row in rows)
        else:
            csv.DictWriter(stream, self._columns, restval="").writerows(map(csv_cells, rows))


def _as_text(row: dict[str, Any]) -> dict[str, Any]:
    """Escape what is not text in the name of a file, which Parquet cannot hold."""
    names = {name: row[name].encode("utf-8", "backslashreplace").decode() for name in ("file", "image_id")}
    return row | names
