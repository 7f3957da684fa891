"""Predictions as a table for people, CSV for spreadsheets, or JSON for programs."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import MLCAKError
from .outputs import check_outputs
from .predictor import Prediction

_FORMATS = ("table", "csv", "json")
_HIGHEST_FINDINGS = 3


def write_predictions(
    predictions: Iterable[Prediction],
    table_format: str = "table",
    output: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> int:
    """Write predictions to a file or to the terminal.

    CSV and JSON are written as the predictions arrive, so that a long run needs no more memory than a short one. CSV
    has the columns `file`, `global/<label>` and `finding/<name>` with probabilities, `heatmap` and `error`; JSON is a
    list of objects with the same content. The table shows each global label and the three highest findings.

    Args:
        predictions: What `RadiographPredictor.stream` or `predict` gave, failures included.
        table_format: `"table"`, `"csv"` or `"json"`.
        output: File to write, made with its folder; the console's stream by default. One that is there is replaced
            only when all is written.
        console: Where to write without `output`; standard output by default.

    Returns:
        The number of files that could not be read.

    Raises:
        MLCAKError: If the format is none of the three, or `output` is or may be a radiograph, or a folder.
    """
    if table_format not in _FORMATS:
        raise MLCAKError(f"Unknown format {table_format!r}: expected one of {', '.join(_FORMATS)}.")
    check_outputs([prediction.file for prediction in predictions] if isinstance(predictions, Sequence) else (), output)
    failed = 0

    def counted() -> Iterator[Prediction]:
        nonlocal failed
        for prediction in predictions:
            check_outputs([prediction.file], output)
            failed += prediction.error is not None
            yield prediction

    with ExitStack() as stack:
        if output is not None:
            console = Console(file=stack.enter_context(_opened(Path(output))), width=160)
        console = console or Console()
        if table_format == "csv":
            _write_csv(counted(), console.file)
        elif table_format == "json":
            _write_json(counted(), console.file)
        else:
            _print_table(list(counted()), console)
    return failed


@contextmanager
def _opened(output: Path) -> Iterator[IO[str]]:
    """A file to write, made with its folder; one that is there keeps its content until the new one is whole.

    Which radiographs a stream reads is known only at its end, and the file could be one of them.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    replaces = output.is_file()
    written = output.resolve().with_name(f".{output.name}.{os.getpid()}.partial") if replaces else output
    try:
        # newline="": the csv module writes line ends itself.
        with written.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        if replaces:
            written.replace(output.resolve())
    finally:
        if replaces:
            written.unlink(missing_ok=True)


def _print_table(predictions: list[Prediction], console: Console) -> None:
    readable = [prediction for prediction in predictions if prediction.error is None]
    if readable:
        labels = list(readable[0].probabilities)
        has_findings = any(prediction.findings for prediction in readable)
        has_heatmaps = any(prediction.heatmap for prediction in readable)
        folder = _common_folder(readable)
        table = Table(title=Text(folder), title_justify="left")
        table.add_column("File", overflow="fold")
        for label in labels:
            table.add_column(Text(label), justify="right")
        if has_findings:
            table.add_column("Highest findings")
        if has_heatmaps:
            table.add_column("Heatmap", overflow="fold")
        for prediction in readable:
            file = os.path.relpath(prediction.file, folder) if folder else str(prediction.file)
            cells = [file, *(f"{prediction.probabilities[label]:.3f}" for label in labels)]
            if has_findings:
                highest = sorted(prediction.findings.items(), key=lambda item: -item[1])[:_HIGHEST_FINDINGS]
                cells.append(", ".join(f"{name} {probability:.2f}" for name, probability in highest))
            if has_heatmaps:
                cells.append(prediction.heatmap.name if prediction.heatmap else "")
            table.add_row(*map(Text, cells))  # Text: a file name with brackets is no markup.
        console.print(table)
    for prediction in predictions:
        if prediction.error is not None:
            console.print(Text(f"not read: {prediction.file}: {prediction.error}", style="red"))


def _common_folder(predictions: list[Prediction]) -> str:
    """The folder that all files share, named once above the table instead of in every row; empty if there is none."""
    try:
        folder = os.path.commonpath([prediction.file.parent for prediction in predictions])
    except ValueError:  # Relative paths beside absolute ones.
        return ""
    return "" if folder in (os.curdir, os.sep) else folder


def _write_csv(predictions: Iterable[Prediction], file: IO[str]) -> None:
    writer: csv.DictWriter[str] | None = None
    waiting: list[dict[str, Any]] = []  # Failures ahead of the first success, which tells the columns.
    for prediction in predictions:
        waiting.append(_csv_row(prediction))
        if prediction.error is not None and writer is None:
            continue
        if writer is None:
            writer = csv.DictWriter(file, list(waiting[-1]), restval="")
            writer.writeheader()
        writer.writerows(waiting)
        waiting.clear()
    if writer is None:
        writer = csv.DictWriter(file, ["file", "heatmap", "error"], restval="")
        writer.writeheader()
        writer.writerows(waiting)


def _csv_row(prediction: Prediction) -> dict[str, Any]:
    return {
        "file": str(prediction.file),
        **{f"global/{label}": f"{value:.6g}" for label, value in prediction.probabilities.items()},
        **{f"finding/{name}": f"{value:.6g}" for name, value in prediction.findings.items()},
        "heatmap": str(prediction.heatmap or ""),
        "error": prediction.error or "",
    }


def _write_json(predictions: Iterable[Prediction], file: IO[str]) -> None:
    separator = "[\n"
    for prediction in predictions:
        file.write(separator + json.dumps(_json_object(prediction), ensure_ascii=False))
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def _json_object(prediction: Prediction) -> dict[str, Any]:
    return {
        "file": str(prediction.file),
        "probabilities": prediction.probabilities,
        "findings": prediction.findings,
        "attention": None if prediction.attention is None else prediction.attention.tolist(),
        "heatmap": None if prediction.heatmap is None else str(prediction.heatmap),
        "error": prediction.error,
    }
