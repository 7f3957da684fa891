"""`mlcak predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import ValueRangeOption
from .terminal import console


def predict(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a trained model.")],
    inputs: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG files, or folders of them.")],
    table_format: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="Format of the predictions.")
    ] = "table",
    output: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
    heatmaps: Annotated[Path | None, typer.Option(help="Folder for pictures of the model's attention.")] = None,
    batch_size: Annotated[int, typer.Option(help="Radiographs per forward pass.", min=1)] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps. By default the first GPU, else the CPU.")] = (
        None
    ),
    value_range: ValueRangeOption = None,
) -> None:
    """Predict the global label and the local findings of radiographs. Exit code 1 if a file cannot be read."""
    from ..prediction.outputs import check_outputs
    from ..prediction.predictor import RadiographPredictor
    from ..prediction.tables import write_predictions
    from ..radiographs.file_search import find_radiographs

    exclude = [] if heatmaps is None else [heatmaps]
    paths = [path for given in inputs for path in find_radiographs(given, exclude=exclude)]
    check_outputs(paths, output, heatmaps)
    predictor = RadiographPredictor.from_pretrained(model, device=device, value_range=value_range)
    predictions = predictor.stream(paths, batch_size=batch_size, heatmaps_dir=heatmaps, progress=True)
    failed = write_predictions(predictions, table_format, output=output, console=console())
    errors = console(stderr=True)
    if output is not None:
        errors.print(f"Predictions: {output}")
    if heatmaps is not None:
        errors.print(f"Heatmaps: {heatmaps}")
    errors.print("Research use only: not a medical device, not for diagnosis.")
    if failed:
        raise typer.Exit(1)
