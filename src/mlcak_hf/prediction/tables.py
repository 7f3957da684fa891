"""Predictions as a table for people, CSV for spreadsheets, JSON, JSON lines or Parquet for programs."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from heapq import nlargest
from itertools import compress
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ..errors import MLCAKError
from .outputs import check_outputs
from .reading import Prediction
from .row_formats import json_row, opened_text, replaced_when_whole, write_rows, write_text

FORMATS = ("table", "csv", "json", "jsonl", "parquet")
_FORMATS = {".txt": "table"} | {f".{name}": name for name in FORMATS[1:]} | {name: name for name in FORMATS}
_HIGHEST_FINDINGS = 3


def choose_format(table_format: str | None = None, output: str | os.PathLike[str] | None = None) -> str:
    """Return the format to write: the given one, or the one that the output's suffix names.

    Args:
        table_format (`str`, *optional*):
            `"table"`, `"csv"`, `"json"`, `"jsonl"` or `"parquet"`.
        output (`str` or `os.PathLike`, *optional*):
            The file to write. Without it the format is `"table"` by default.

    Raises:
        [`MLCAKError`]: When the format is unknown, neither given nor named by the suffix, or needs a file or a package
            that is missing.
    """
    given = table_format or ("table" if output is None else Path(output).suffix.lower())
    if given not in _FORMATS:
        raise MLCAKError(
            "The format must be 'table', 'csv', 'json', 'jsonl' or 'parquet', or the suffix of the output .csv, .json, "
            f".jsonl, .parquet or .txt; got {given!r}. Rename the output, or choose a format (--format csv)."
        )
    if _FORMATS[given] == "parquet":
        if output is None:
            raise MLCAKError("Parquet is not text and needs a file. Name one (--output predictions.parquet).")
        if importlib.util.find_spec("pyarrow") is None:
            raise MLCAKError("Parquet needs pyarrow, which is not installed. Run: pip install pyarrow.")
    return _FORMATS[given]


def write_predictions(
    predictions: Iterable[Prediction],
    table_format: str | None = None,
    output: str | os.PathLike[str] | None = None,
    console: Console | None = None,
    provenance: Mapping[str, str] | None = None,
) -> int:
    """Write predictions to a file or to the terminal.

    All but the table are written as predictions arrive, so that memory does not grow with the number of files. CSV has
    the columns `file`, `image_id`, `global/<label>` and `finding/<name>` with probabilities, `heatmap`, `warning`,
    `refused_because`, `error`, and those of `provenance`; Parquet has the same columns, JSON is a list of objects with
    the same content, and JSON lines has one object a line. With
    operating points, every label that has them also has `.../calibrated`, `.../threshold`, `.../decision` and
    `.../triage`. The table shows each global label, its decision, and the three highest findings. A finding that the
    model never saw in training is empty.

    Args:
        predictions (`Iterable` of [`Prediction`]):
            The predictions, failures included.
        table_format (`str`, *optional*):
            As in [`choose_format`]. Defaults to the format of the output's suffix, see [`choose_format`].
        output (`str` or `os.PathLike`, *optional*):
            File to write, made with its folder. An existing one is replaced only when all is written. Defaults to the
            console.
        console (`Console`, *optional*):
            Where to write without `output`. Defaults to standard output.
        provenance (`Mapping[str, str]`, *optional*):
            Further columns with the same value in each row, such as the model and its version.

    Returns:
        `int`: the number of files that could not be read or were refused.

    Raises:
        [`MLCAKError`]: When the format is unknown, or `output` is or may be a radiograph, or is a folder.
    """
    chosen = choose_format(table_format, output)
    check_outputs((), output)
    failed = 0

    def counted() -> Iterator[Prediction]:
        nonlocal failed
        for prediction in predictions:
            check_outputs([prediction.file], output)
            failed += prediction.outcome != "predicted"
            yield prediction

    if output is None and chosen == "table":
        _print_table(list(counted()), console or Console())
    elif output is None:
        write_text(
            (json_row(each, provenance or {}) for each in counted()), chosen, (console or Console()).file, provenance
        )
    elif chosen == "table":
        with replaced_when_whole(Path(output)) as written, opened_text(written) as stream:
            _print_table(list(counted()), Console(file=stream, width=120))
    else:
        write_rows((json_row(each, provenance or {}) for each in counted()), chosen, Path(output), provenance)
    return failed


def _print_table(predictions: list[Prediction], console: Console) -> None:
    if shown := [prediction for prediction in predictions if prediction.probabilities]:
        folder = _common_folder(shown)
        labels = (Column(Text(label), justify="right") for label in shown[0].probabilities)
        columns = [Column("File", overflow="fold"), *labels, Column("Calibrated"), Column("Decision")]
        columns += [Column("Highest findings"), Column("Heatmap", overflow="fold")]
        rows = [_cells(prediction, folder) for prediction in shown]
        filled = [any(cells) for cells in zip(*rows, strict=True)]
        table = Table(*compress(columns, filled), title=Text(folder), title_justify="left")
        for row in rows:
            table.add_row(*map(Text, compress(row, filled)))  # Text: brackets in a file name are not markup.
        console.print(table)
    notes = (("Not read", "error", "red"), ("Refused", "refused_because", "red"), ("Warning", "warning", "yellow"))
    for prediction in predictions:
        for kind, attribute, style in notes:
            if reason := getattr(prediction, attribute):
                console.print(Text(f"{kind}: {prediction.file}: {reason}", style=style))


def _cells(prediction: Prediction, folder: str) -> list[str]:
    file = os.path.relpath(prediction.file, folder) if folder else str(prediction.file)
    learned = {name: value for name, value in prediction.findings.items() if not math.isnan(value)}
    highest = nlargest(_HIGHEST_FINDINGS, learned, key=learned.__getitem__)
    findings = ", ".join(f"{name} {learned[name]:.2f}" for name in highest)
    heatmap = prediction.heatmap.name if prediction.heatmap else ""
    probabilities = [f"{probability:.3f}" for probability in prediction.probabilities.values()]
    return [file, *probabilities, *_decision_cells(prediction), findings, heatmap]


def _decision_cells(prediction: Prediction) -> tuple[str, str]:
    """Calibrated probabilities and decisions of the global labels."""
    decided = {name.removeprefix("global/"): found for name, found in prediction.decisions.items() if "global/" in name}
    calibrated = [f"{name} {found.calibrated:.3f}" for name, found in decided.items() if found.calibrated is not None]
    decisions = [
        f"{name} {found.decision} (threshold {found.threshold:.3f}{f', {found.triage}' if found.triage else ''})"
        for name, found in decided.items()
        if found.decision
    ]
    return ", ".join(calibrated), ", ".join(decisions)


def _common_folder(predictions: list[Prediction]) -> str:
    """The folder that all files share, shown once above the table; empty if there is none."""
    try:
        folder = os.path.commonpath([prediction.file.parent for prediction in predictions])
    except ValueError:  # Relative paths beside absolute ones.
        return ""
    return "" if folder in (os.curdir, os.sep) else folder
