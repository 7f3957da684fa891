"""`mlcak predict`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Exit, Option

from ..errors import MLCAKError
from ..radiographs.choices import Voi
from ..radiographs.file_search import FileSearch, search_radiographs
from .options import ValueRangeOption

if TYPE_CHECKING:
    from ..prediction.predictor import RadiographPredictor


def predict(
    model: Annotated[str, Argument(help="Folder or Hub id of a trained model.")],
    inputs: Annotated[list[Path], Argument(help="DICOM, PNG or JPEG files, or folders of them.")],
    table_format: Annotated[
        Literal["table", "csv", "json"] | None,
        Option("--format", help="Format of the predictions. By default that of the output's suffix, or a table."),
    ] = None,
    output: Annotated[Path | None, Option(help="File to write: .csv, .json or .txt.")] = None,
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
    workers: Annotated[int, Option(help="Number of processes that read while the model runs.", min=1)] = 1,
    threads: Annotated[int, Option(help="Threads of the model on the CPU.", min=1)] = 1,
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
    import torch
    from rich.console import Console
    from transformers.utils import logging

    from ..explanation.explain import Explanation
    from ..prediction.outputs import check_outputs
    from ..prediction.predictor import RadiographPredictor
    from ..prediction.reading import Prediction
    from ..prediction.tables import choose_format, write_predictions

    explanation = Explanation(explain, label)
    _check_drawn(heatmaps, explanation == Explanation())
    search, errors = search_radiographs(inputs, exclude=[heatmaps] if heatmaps else []), Console(stderr=True)
    if not errors.is_terminal:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    check_outputs(search.files, output, heatmaps)
    chosen = choose_format(table_format, output)
    torch.set_num_threads(threads)
    predictor = RadiographPredictor.from_pretrained(
        model, device=device, value_range=value_range, voi=voi, on_suspect=on_suspect, operating_point=operating_point
    )
    if predictor.voi != predictor.processor.voi:
        errors.print(f"Warning: the model was trained with --voi {predictor.processor.voi}, not {predictor.voi}.")
    counts: Counter[str] = Counter()

    def counted() -> Iterator[Prediction]:
        unreadable = [Prediction(path, error=reason) for path, reason in search.unreadable.items()]
        predicted = predictor.stream(
            search.files, batch_size, False, heatmaps, progress=True, workers=workers, explanation=explanation
        )
        for prediction in chain(unreadable, predicted):
            counts[prediction.outcome] += 1
            yield prediction

    try:
        write_predictions(counted(), chosen, output, Console(), predictor.provenance)
    except KeyboardInterrupt:
        errors.print(f"Stopped. {_summary(counts, search)}")
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


def _check_drawn(heatmaps: Path | None, by_default: bool) -> None:
    if heatmaps is None and not by_default:
        raise MLCAKError("--explain and --label say what the heatmaps show. Name their folder with --heatmaps.")


def _left_empty(predictor: RadiographPredictor) -> list[str]:
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
