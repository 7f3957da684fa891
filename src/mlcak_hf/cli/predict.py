"""`mlcak predict`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import ValueRangeOption, Voi
from .terminal import console

if TYPE_CHECKING:
    from ..prediction.result import Prediction


def predict(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a trained model.")],
    inputs: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG files, or folders of them.")],
    table_format: Annotated[
        Literal["table", "csv", "json"] | None,
        typer.Option("--format", help="Format of the predictions. By default that of the output's suffix, or a table."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write: .csv, .json or .txt.")] = None,
    heatmaps: Annotated[Path | None, typer.Option(help="Folder for pictures of the model's attention.")] = None,
    batch_size: Annotated[int, typer.Option(help="Radiographs per forward pass.", min=1)] = 16,
    workers: Annotated[int, typer.Option(help="Number of processes that read while the model runs.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Threads of the model on the CPU.", min=1)] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps. By default the first GPU, else the CPU.")] = (
        None
    ),
    value_range: ValueRangeOption = None,
    voi: Annotated[
        Voi | None,
        typer.Option(
            help="Range of grey values: the file's window, percentiles, or all stored bits. By default that"
            " of the training images."
        ),
    ] = None,
    on_suspect: Annotated[
        Literal["warn", "refuse"],
        typer.Option(help="What to do with images that do not look like an upright frontal chest radiograph."),
    ] = "warn",
) -> None:
    """Predict the global label and the local findings of radiographs.

    Exit code 1 if a file cannot be read or is refused.
    """
    import torch

    from ..prediction.outputs import check_outputs
    from ..prediction.predictor import RadiographPredictor
    from ..prediction.tables import choose_format, write_predictions

    paths, errors = _find(inputs, heatmaps), console(stderr=True)
    check_outputs(paths, output, heatmaps)
    chosen = choose_format(table_format, output)
    torch.set_num_threads(threads)
    predictor = RadiographPredictor.from_pretrained(
        model, device=device, value_range=value_range, voi=voi, on_suspect=on_suspect
    )
    if predictor.voi != predictor.processor.voi:
        errors.print(f"Warning: the model was trained with --voi {predictor.processor.voi}, not {predictor.voi}.")
    counts: Counter[str] = Counter()

    def counted() -> Iterator[Prediction]:
        for prediction in predictor.stream(paths, batch_size, heatmaps_dir=heatmaps, progress=True, workers=workers):
            kind = "refused" if prediction.refused_because else "predicted"
            counts["unreadable" if prediction.error else kind] += 1
            yield prediction

    try:
        write_predictions(counted(), chosen, output, console(), predictor.provenance)
    except KeyboardInterrupt:
        errors.print(f"Stopped. {_summary(counts, len(paths))}")
        raise typer.Exit(130) from None
    if output is not None:
        errors.print(f"Predictions: {output}")
    if heatmaps is not None:
        errors.print(f"Heatmaps: {heatmaps}")
    if predictor.unlearned_findings:
        names = ", ".join(sorted(predictor.unlearned_findings))
        errors.print(f"Left empty, because the model never saw them in training: {names}.")
    errors.print(_summary(counts, len(paths)))
    errors.print("Research use only: not a medical device, not for diagnosis.")
    if counts["unreadable"] or counts["refused"]:
        raise typer.Exit(1)


def _find(inputs: list[Path], heatmaps: Path | None) -> list[Path]:
    """List the radiographs. A missing path is kept, so that it becomes a row, unless nothing else is found."""
    from ..errors import DatasetError
    from ..radiographs.file_search import find_radiographs

    found: list[Path] = []
    missing: list[DatasetError] = []
    for given in inputs:
        try:
            found += find_radiographs(given, exclude=[] if heatmaps is None else [heatmaps])
        except DatasetError as error:
            missing.append(error)
            found.append(given)
    if len(missing) == len(inputs):
        raise missing[0]
    return found


def _summary(counts: Counter[str], found: int) -> str:
    kinds = ("predicted", "refused", "unreadable")
    return f"{found} found: {', '.join(f'{counts[kind]} {kind}' for kind in kinds)}."
