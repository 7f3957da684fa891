"""`mlcak predict`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Exit, Option

from ..errors import MLCAKError
from ..radiographs.choices import Voi
from ..radiographs.file_search import FileSearch, search_radiographs
from .options import ValueRangeOption
from .runtimes import Runtime, load_any_predictor

if TYPE_CHECKING:
    from ..prediction.file_predictor import FilePredictor
    from ..prediction.reading import Prediction


def predict(
    model: Annotated[str, Argument(help="Folder, Hub id or name of a trained model, or an exported ONNX file.")],
    inputs: Annotated[list[Path], Argument(help="DICOM, PNG or JPEG files, or folders of them.")],
    table_format: Annotated[
        Literal["table", "csv", "json", "jsonl", "parquet"] | None,
        Option("--format", help="Format of the predictions. By default that of the output's suffix, or a table."),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            help="File to write: .csv, .json, .jsonl, .parquet or .txt. All but .txt resume: after a kill, the same "
            "command goes on where it was."
        ),
    ] = None,
    heatmaps: Annotated[Path | None, Option(help="Folder for pictures of what the model attended to.")] = None,
    explain: Annotated[
        Literal["attention", "rollout", "gradient", "grad-cam"],
        Option(
            help="What the heatmaps show: attention, followed through all layers, or what raises the label's score."
        ),
    ] = "attention",
    label: Annotated[
        str | None,
        Option(help="Label that gradient and grad-cam explain. By default the most probable global label."),
    ] = None,
    batch_size: Annotated[int, Option(help="Radiographs per forward pass.", min=1)] = 16,
    workers: Annotated[
        int, Option(help="Processes that read while the model runs; 2 or more for thousands of files.", min=1)
    ] = 1,
    threads: Annotated[int, Option(help="Threads of the model on the CPU.", min=1)] = 1,
    runtime: Annotated[
        Runtime | None,
        Option(help="Run the model on PyTorch or on onnxruntime. By default what it is made for."),
    ] = None,
    device: Annotated[str | None, Option(help="cpu, cuda or mps. By default the first GPU, else the CPU.")] = None,
    value_range: ValueRangeOption = None,
    voi: Annotated[
        Voi | None,
        Option(help="Grey values: the file's window, percentiles, or all stored bits. By default as in training."),
    ] = None,
    on_suspect: Annotated[
        Literal["warn", "refuse"],
        Option(
            help="What to do if an image does not look like an upright frontal chest X-ray or is unlike the training"
            " images."
        ),
    ] = "warn",
    operating_point: Annotated[
        Literal["youden", "sensitivity", "specificity"],
        Option(help="Which threshold of `mlcak calibrate` decides."),
    ] = "youden",
) -> None:
    """Predict the global label and the local findings of radiographs.

    Exit code 1 if a file cannot be read or is refused.
    """
    from rich.console import Console

    from ..explanation.choices import Explanation
    from ..prediction.outputs import check_outputs
    from ..prediction.tables import choose_format, write_predictions

    explanation = Explanation(explain, label)
    _check_drawn(heatmaps, explanation == Explanation())
    search, errors = search_radiographs(inputs, exclude=[heatmaps] if heatmaps else []), Console(stderr=True)
    check_outputs(search.files, output, heatmaps)
    chosen = choose_format(table_format, output)
    options = {"value_range": value_range, "voi": voi, "on_suspect": on_suspect, "operating_point": operating_point}
    predictor = load_any_predictor(model, runtime, device, threads, **options)
    if predictor.voi != predictor.model_input.voi:
        errors.print(f"Warning: the model was trained with --voi {predictor.model_input.voi}, not {predictor.voi}.")
    choices = predictor.choices | {"--heatmaps": str(heatmaps), "--explain": explain, "--label": label}
    stream = {"batch_size": batch_size, "workers": workers, "explanation": explanation}
    job, counts = _Job(predictor, search, heatmaps, stream), Counter[str]()
    resumes = output is not None and chosen != "table"
    try:
        if output is not None and resumes:
            _predict_resumably(job, chosen, output, choices, counts)
        else:
            write_predictions(job.counted(counts), chosen, output, Console(), predictor.provenance)
    except KeyboardInterrupt:
        errors.print(f"Stopped. {_summary(counts, search)}" + (" The same command resumes." if resumes else ""))
        raise Exit(130) from None
    for what, path in (("Predictions", output), ("Heatmaps", heatmaps)):
        if path is not None:
            errors.print(f"{what}: {path}")
    for note in _left_empty(predictor):
        errors.print(note)
    errors.print(_summary(counts, search))
    errors.print("Research use only: not a medical device, not for diagnosis.")
    if counts["unreadable"] or counts["refused"]:
        raise Exit(1)


@dataclass(frozen=True)
class _Job:
    """What is predicted, and how."""

    predictor: FilePredictor
    search: FileSearch
    heatmaps: Path | None
    options: dict[str, Any]

    def counted(
        self, counts: Counter[str], done: Container[str] = (), drawn: Iterable[Path] = ()
    ) -> Iterator[Prediction]:
        """Predict all files but those that are done, with other heatmaps than those that are drawn."""
        from ..prediction.outputs import HeatmapNames
        from ..prediction.reading import Prediction

        unreadable = self.search.unreadable.items()
        failed = (Prediction(path, error=reason) for path, reason in unreadable if str(path) not in done)
        files = [file for file in self.search.files if str(file) not in done]
        names = None if self.heatmaps is None else HeatmapNames(self.heatmaps, drawn)
        predicted = self.predictor.stream(files, heatmaps_dir=names, progress=True, **self.options)
        for prediction in chain(failed, predicted):
            counts[prediction.outcome] += 1
            yield prediction


def _predict_resumably(
    job: _Job, table_format: str, output: Path, choices: dict[str, Any], counts: Counter[str]
) -> None:
    from ..prediction.journal import UnfinishedRun
    from ..prediction.row_formats import write_rows

    with UnfinishedRun(output, choices, job.predictor.provenance) as run:
        if run.done:
            print(f"Resuming: {len(run.done)} files are done ({run.file}).", file=sys.stderr)
        counts.update(run.outcomes)
        for prediction in job.counted(counts, run.done, run.heatmaps):
            run.add(prediction)
        write_rows(run.rows(), table_format, output, job.predictor.provenance)
        run.delete()


def _check_drawn(heatmaps: Path | None, by_default: bool) -> None:
    if heatmaps is None and not by_default:
        raise MLCAKError("--explain and --label say what the heatmaps show. Name their folder with --heatmaps.")


def _left_empty(predictor: FilePredictor) -> list[str]:
    notes = []
    if predictor.unlearned_findings:
        names = ", ".join(sorted(predictor.unlearned_findings))
        notes.append(f"Left empty, because the model never saw them in training: {names}.")
    if predictor.safeguards.points is None:
        notes.append("No calibrated probabilities and no decisions: run `mlcak calibrate` for this model first.")
    return notes


def _summary(counts: Counter[str], search: FileSearch) -> str:
    found = len(search.files) + len(search.unreadable)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in ("predicted", "refused", "unreadable"))
    skipped = ", ".join(f"{number} {kind}" for kind, number in sorted(search.skipped.items()))
    return f"{found} found: {kinds}." + (f" Skipped: {skipped}." if skipped else "")
