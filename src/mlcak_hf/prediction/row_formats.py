"""Rows of predictions as CSV, JSON, JSON lines or Parquet, written one at a time."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .file_predictor import FilePredictor
from .reading import Prediction

if TYPE_CHECKING:
    import pyarrow

_PARQUET_ROWS = 4096  # in one row group: what is held in memory


def write_rows(
    rows: Iterable[dict[str, Any]], table_format: str, output: Path, provenance: Mapping[str, str] | None = None
) -> None:
    """Write rows to a file, one at a time.

    Args:
        rows (`Iterable`):
            From [`json_row`].
        table_format (`str`):
            `"csv"`, `"json"`, `"jsonl"` or `"parquet"`.
        output (`Path`):
            The file, made with its folder. An existing one is replaced only when all is written.
        provenance (`Mapping[str, str]`, *optional*):
            Names of the columns that rows of no file at all would have.
    """
    with replaced_when_whole(output) as written:
        if table_format == "parquet":
            _write_parquet(rows, written, provenance)
        else:
            with opened_text(written) as stream:
                write_text(rows, table_format, stream, provenance)


def write_text(
    rows: Iterable[dict[str, Any]], table_format: str, stream: IO[str], provenance: Mapping[str, str] | None
) -> None:
    """Write rows to a stream as `"csv"`, `"json"` or `"jsonl"`; the arguments are those of [`write_rows`]."""
    if table_format == "csv":
        _write_csv(rows, stream, provenance)
    elif table_format == "json":
        _write_json(rows, stream)
    else:
        stream.writelines(f"{row_to_json(row)}\n" for row in rows)


@contextmanager
def replaced_when_whole(output: Path) -> Iterator[Path]:
    """Yield the path to write, in a folder that exists. An existing file keeps its content until the new one is whole.

    Which radiographs a stream reads is known only at its end, and the file could be one of them.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    replaces = output.is_file()
    written = output.resolve().with_name(f".{output.name}.{os.getpid()}.partial") if replaces else output
    try:
        yield written
        if replaces:
            written.replace(output.resolve())
    finally:
        if replaces:
            written.unlink(missing_ok=True)


def opened_text(path: Path) -> IO[str]:
    """Open a file to write text."""
    # newline="": the csv module writes line ends itself.
    # backslashreplace: the name of a file need not be valid text.
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def _with_columns(
    rows: Iterable[dict[str, Any]], provenance: Mapping[str, str] | None
) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Columns, which the first radiograph with probabilities defines, and the cells of every row."""
    waiting, arriving = [], iter(rows)
    for row in arriving:
        waiting.append(_flat(row))
        if row["probabilities"]:
            break
    columns = list(waiting[-1] if waiting else flat_row(Prediction(Path()), provenance or {}))
    return columns, chain(waiting, map(_flat, arriving))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    cells = {name: value for name, value in row.items() if name not in ("file", "image_id", "attention")}
    numbers = {f"global/{label}": value for label, value in cells.pop("probabilities").items()}
    numbers |= {f"finding/{name}": value for name, value in cells.pop("findings").items()}
    decided = {f"{name}/{what}": value for name, of in cells.pop("decisions").items() for what, value in of.items()}
    return {"file": row["file"], "image_id": row["image_id"], **numbers, **decided, **cells}


def flat_row(prediction: Prediction, provenance: Mapping[str, str]) -> dict[str, Any]:
    """Return a prediction as the columns of a table: the names, then numbers and texts, `None` where there is none."""
    return _flat(json_row(prediction, provenance))


def table_columns(predictor: FilePredictor) -> list[str]:
    """Return every column that a [`flat_row`] of the predictor can have."""
    probabilities, findings = (dict.fromkeys(names, 0.5) for names in (predictor.global_labels, predictor.local_labels))
    prediction = Prediction(Path(), probabilities, findings)
    prediction.findings |= dict.fromkeys(predictor.unlearned_findings & prediction.findings.keys(), float("nan"))
    predictor.safeguards.apply(prediction, None, "warn")
    return list(flat_row(prediction, predictor.provenance))


def csv_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a [`flat_row`] as the cells of a CSV file."""
    return {
        name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
        for name, value in row.items()
    }


def _write_csv(rows: Iterable[dict[str, Any]], stream: IO[str], provenance: Mapping[str, str] | None) -> None:
    columns, cells = _with_columns(rows, provenance)
    writer = csv.DictWriter(stream, columns, restval="")
    writer.writeheader()
    for row in cells:
        writer.writerow(csv_cells(row))


def _write_parquet(rows: Iterable[dict[str, Any]], output: Path, provenance: Mapping[str, str] | None) -> None:
    columns, cells = _with_columns(rows, provenance)
    write_parquet(cells, columns, output)


def write_parquet(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], output: Path) -> None:
    """Write rows from [`flat_row`] to a Parquet file, one group of rows in memory at a time.

    Args:
        rows (`Iterable`):
            The rows; what a row lacks is null.
        columns (`Sequence[str]`):
            The columns to write.
        output (`Path`):
            The file.
    """
    from pyarrow.parquet import ParquetWriter

    arriving = iter(rows)
    with ParquetWriter(output, arrow_table([], columns).schema) as writer:
        while group := list(islice(arriving, _PARQUET_ROWS)):
            writer.write_table(arrow_table(group, columns))


def arrow_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pyarrow.Table:
    """Return rows from [`flat_row`] as a table of pyarrow, with the same types whatever the rows hold."""
    import pyarrow

    types = [(name, pyarrow.float64() if _is_number(name) else pyarrow.string()) for name in columns]
    arrays = {name: [_as_parquet(row.get(name)) for row in rows] for name in columns}
    return pyarrow.table(arrays, schema=pyarrow.schema(types))


def _is_number(column: str) -> bool:
    return column.startswith(("global/", "finding/")) and not column.endswith(("/decision", "/triage"))


def _as_parquet(value: Any) -> float | str | None:
    # The name of a file need not be valid text.
    return value if value is None or isinstance(value, float) else str(value).encode(errors="backslashreplace").decode()


def _write_json(rows: Iterable[dict[str, Any]], stream: IO[str]) -> None:
    separator = "[\n"
    for row in rows:
        stream.write(separator + row_to_json(row))
        separator = ",\n"
    stream.write("[]\n" if separator == "[\n" else "\n]\n")


def row_to_json(row: Mapping[str, Any]) -> str:
    """Return a row of [`json_row`] as one line of JSON."""
    return json.dumps(row, ensure_ascii=False)


def json_row(prediction: Prediction, provenance: Mapping[str, str]) -> dict[str, Any]:
    """Return a prediction as an object of JSON, with the entries of `provenance`, such as the model and its version."""
    names = {"file": str(prediction.file), "image_id": prediction.image_id}
    findings = {name: None if math.isnan(value) else value for name, value in prediction.findings.items()}
    decisions = {name: found._asdict() for name, found in prediction.decisions.items()}
    attention = None if prediction.attention is None else prediction.attention.tolist()
    heatmap = None if prediction.heatmap is None else str(prediction.heatmap)
    changed = {"findings": findings, "decisions": decisions, "attention": attention, "heatmap": heatmap}
    return {**names, **vars(prediction), **names, **changed, **provenance}
