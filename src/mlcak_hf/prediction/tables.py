"""Predictions as a table for people, CSV for spreadsheets, or JSON for programs."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from heapq import nlargest
from itertools import compress
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ..errors import MLCAKError
from .outputs import check_outputs
from .reading import Prediction

_FORMATS = {".txt": "table", ".csv": "csv", ".json": "json", "table": "table", "csv": "csv", "json": "json"}
_HIGHEST_FINDINGS = 3


def choose_format(table_format: str | None = None, output: str | os.PathLike[str] | None = None) -> str:
    """Return the format to write: the given one, or the one that the output's suffix names.

    Args:
        table_format (`str`, *optional*):
            `"table"`, `"csv"` or `"json"`.
        output (`str` or `os.PathLike`, *optional*):
            The file to write. Without it the format is `"table"` by default.

    Raises:
        [`MLCAKError`]: When the format is unknown, or neither given nor named by the suffix.
    """
    given = table_format or ("table" if output is None else Path(output).suffix.lower())
    if given not in _FORMATS:
        raise MLCAKError(
            "The format must be 'table', 'csv' or 'json', or the suffix of the output must be .csv, .json or .txt; got "
            f"{given!r}. Rename the output, or choose a format (--format csv)."
        )
    return _FORMATS[given]


def write_predictions(
    predictions: Iterable[Prediction],
    table_format: str | None = None,
    output: str | os.PathLike[str] | None = None,
    console: Console | None = None,
    provenance: Mapping[str, str] | None = None,
) -> int:
    """Write predictions to a file or to the terminal.

    CSV and JSON are written as the predictions arrive, so that memory does not grow with the number of files. CSV has
    the columns `file`, `image_id`, `global/<label>` and `finding/<name>` with probabilities, `heatmap`, `warning`,
    `refused_because`, `error`, and those of `provenance`; JSON is a list of objects with the same content. With
    operating points, every label that has them also has `.../calibrated`, `.../threshold`, `.../decision` and
    `.../triage`. The table shows each global label, its decision, and the three highest findings. A finding that the
    model never saw in training is empty.

    Args:
        predictions (`Iterable` of [`Prediction`]):
            The predictions, failures included.
        table_format (`str`, *optional*):
            `"table"`, `"csv"` or `"json"`. Defaults to the format of the output's suffix, see [`choose_format`].
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

    with ExitStack() as stack:
        if output is not None:
            console = Console(file=stack.enter_context(_opened(Path(output))), width=120)
        console = console or Console()
        if chosen == "csv":
            _write_csv(counted(), console.file, provenance or {})
        elif chosen == "json":
            _write_json(counted(), console.file, provenance or {})
        else:
            _print_table(list(counted()), console)
    return failed


@contextmanager
def _opened(output: Path) -> Iterator[IO[str]]:
    """Open a file to write, with its folder. An existing file keeps its content until the new one is complete.

    Which radiographs a stream reads is known only at its end, and the file could be one of them.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    replaces = output.is_file()
    written = output.resolve().with_name(f".{output.name}.{os.getpid()}.partial") if replaces else output
    try:
        # newline="": the csv module writes line ends itself.
        # backslashreplace: the name of a file need not be valid text.
        with written.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            yield stream
        if replaces:
            written.replace(output.resolve())
    finally:
        if replaces:
            written.unlink(missing_ok=True)


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


def _write_csv(predictions: Iterable[Prediction], file: IO[str], provenance: Mapping[str, str]) -> None:
    writer: csv.DictWriter[str] | None = None
    waiting: list[dict[str, Any]] = []  # failures before the first success, which defines the columns
    for prediction in predictions:
        waiting.append(csv_cells(flat_row(prediction, provenance)))
        if writer is None and prediction.probabilities:
            writer = csv.DictWriter(file, list(waiting[-1]), restval="")
            writer.writeheader()
        if writer is not None:
            writer.writerows(waiting)
            waiting.clear()
    if writer is None:
        writer = csv.DictWriter(file, list(flat_row(Prediction(Path()), provenance)))
        writer.writeheader()
        writer.writerows(waiting)


def flat_row(prediction: Prediction, provenance: Mapping[str, str]) -> dict[str, Any]:
    """Return a prediction as the columns of a table: the names, then numbers and texts, `None` where there is none."""
    row = json_row(prediction, provenance)
    del row["attention"]
    names = {name: row.pop(name) for name in ("file", "image_id")}
    numbers = {f"global/{label}": value for label, value in row.pop("probabilities").items()}
    numbers |= {f"finding/{name}": value for name, value in row.pop("findings").items()}
    decided = {f"{name}/{what}": value for name, of in row.pop("decisions").items() for what, value in of.items()}
    return names | numbers | decided | row


def csv_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a [`flat_row`] as the cells of a CSV file."""
    return {
        name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
        for name, value in row.items()
    }


def _write_json(predictions: Iterable[Prediction], file: IO[str], provenance: Mapping[str, str]) -> None:
    separator = "[\n"
    for prediction in predictions:
        file.write(separator + json.dumps(json_row(prediction, provenance), ensure_ascii=False))
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def json_row(prediction: Prediction, provenance: Mapping[str, str]) -> dict[str, Any]:
    """Return a prediction as an object of JSON."""
    names = {"file": str(prediction.file), "image_id": prediction.image_id}
    findings = {name: None if math.isnan(value) else value for name, value in prediction.findings.items()}
    decisions = {name: found._asdict() for name, found in prediction.decisions.items()}
    attention = None if prediction.attention is None else prediction.attention.tolist()
    heatmap = None if prediction.heatmap is None else str(prediction.heatmap)
    changed = {"findings": findings, "decisions": decisions, "attention": attention, "heatmap": heatmap}
    return {**names, **vars(prediction), **names, **changed, **provenance}
