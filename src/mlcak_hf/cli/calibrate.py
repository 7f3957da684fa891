"""`mlcak calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

if TYPE_CHECKING:
    from rich.table import Table

    from ..deployment.calibrate import Calibrated


def calibrate(
    model: Annotated[Path, Argument(help="Folder of a trained model. Two small files are written beside its weights.")],
    data: Annotated[str, Argument(help="Folder of a prepared dataset, a Parquet, CSV or JSON file, or a Hub id.")],
    split: Annotated[
        str, Option(help="Split to choose temperatures and thresholds on. Images that were trained on are left out.")
    ] = "validation",
    reference: Annotated[
        str | None,
        Option(help="Split with the training images, usually `train`: refuse images that are unlike them."),
    ] = None,
    test_split: Annotated[str | None, Option("--test_split", help="Split to measure the calibration on, too.")] = None,
    sensitivity: Annotated[float, Option(help="Sensitivity of the point `sensitivity`.")] = 0.95,
    specificity: Annotated[float, Option(help="Specificity of the point `specificity`.")] = 0.9,
    triage_error: Annotated[
        float,
        Option("--triage_error", help="Share of positives that may be `low`, and of negatives that may be `high`."),
    ] = 0.05,
    false_refusals: Annotated[
        float, Option("--false_refusals", help="Share of images like those of the split that is refused.")
    ] = 0.05,
    label_column: Annotated[
        str | None, Option("--label_column", help="Column of the global label. By default as in training.")
    ] = None,
    findings_column: Annotated[
        str | None, Option("--findings_column", help="Column of findings, or `none`. By default as in training.")
    ] = None,
    group_column: Annotated[
        str | None, Option("--group_column", help="Column of patients. By default as in training.")
    ] = None,
    rename_label: Annotated[
        list[str] | None,
        Option("--rename_label", metavar="NAME=LABEL", help="A name in the label column that the model calls LABEL."),
    ] = None,
    batch_size: Annotated[int, Option("--batch_size", help="Images per forward pass.", min=1)] = 32,
    num_workers: Annotated[int, Option("--num_workers", help="Processes that decode images.", min=0)] = 0,
) -> None:
    """Choose temperatures and thresholds of a model, and what it refuses. Its weights do not change.

    Writes operating_points.json, and with --reference also reference.npz, which `mlcak predict` uses.
    """
    import datasets
    from rich.console import Console

    from ..deployment.calibrate import CalibrationChoices, calibrate_model
    from ..evaluation.arguments import EvaluationArguments
    from ..trust.operating_points import OPERATING_POINTS_FILE, PointTargets
    from ..trust.reference import REFERENCE_FILE

    console = Console()
    if not console.is_terminal:
        datasets.disable_progress_bars()
    arguments = EvaluationArguments(
        dataset=data,
        models=[],
        output=str(model),
        group_column=group_column,
        batch_size=batch_size,
        num_workers=num_workers,
        label_column=label_column,  # type: ignore[arg-type]
        findings_column=findings_column,  # type: ignore[arg-type]
    )
    targets = PointTargets(sensitivity, specificity, triage_error)
    choices = CalibrationChoices(split, reference, test_split, targets, false_refusals, rename_label or ())
    found = calibrate_model(model, arguments, choices)
    found.points.save(model)
    console.print(_points_table(found), _triage_table(found), _calibration_table(found), sep="\n")
    for line in _notes(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    written = [OPERATING_POINTS_FILE]
    if found.reference is not None:
        found.reference.save(model)
        written.append(REFERENCE_FILE)
    console.print(f"Written: {', '.join(str(model / name) for name in written)}", highlight=False, soft_wrap=True)


def _points_table(found: Calibrated) -> Table:
    from rich.table import Column, Table

    from ..trust.operating_points import OperatingPoint

    targets = found.points.targets
    headings = (
        "Youden",
        f"{100 * targets.sensitivity:.0f} % sensitivity",
        f"{100 * targets.specificity:.0f} % specificity",
    )
    numbers = (Column(name, justify="right") for name in ("With", "Without", *headings))
    table = Table(
        Column("Label", overflow="fold"),
        *numbers,
        title=f"Thresholds, and sensitivity, specificity on {found.points.split}",
    )

    def shown(point: OperatingPoint | None) -> str:
        return "-" if point is None else f"{point.threshold:.3f}\n{point.sensitivity:.2f}, {point.specificity:.2f}"

    for name, label in found.points.labels.items():
        points = [shown(point) for point in (label.youden, label.at_sensitivity, label.at_specificity)]
        table.add_row(name, str(label.positives), str(label.negatives), *points)
    return table


def _triage_table(found: Calibrated) -> Table:
    from rich.table import Column, Table

    headings = ("Low below", "High above", "Low", "High", "Of positives: low", "Of negatives: high")
    numbers = (Column(name, justify="right") for name in headings)
    table = Table(Column("Label", overflow="fold"), "Split", *numbers, title="Triage: low, high, else unsure")
    for row in found.triage:
        label = found.points.labels[row.label]
        limits = ["-" if limit is None else f"{limit:.3f}" for limit in (label.low_below, label.high_above)]
        shares = (f"{100 * share:.1f} %" for share in (row.low, row.high, row.positives_low, row.negatives_high))
        table.add_row(row.label, row.split, *limits, *shares)
    return table


def _calibration_table(found: Calibrated) -> Table:
    from rich.table import Column, Table

    headings = ("Images", "Temperature", "Brier", "Calibration error", "By chance alone: mean", "95th percentile")
    table = Table("Head", "Split", *(Column(name, justify="right") for name in headings), title="Calibration")
    for row in found.calibration:
        temperature = "before" if row.temperature is None else f"{row.temperature:.2f}"
        values = (f"{value:.3f}" for value in (row.brier, row.error, row.floor, row.floor_95))
        table.add_row(row.head, row.split, str(row.images), temperature, *values)
    return table


def _notes(found: Calibrated) -> list[str]:
    points, reference = found.points, found.reference
    notes = [
        f"{split}: {count} images were left out, because the model was trained on them."
        for split, count in found.left_out.items()
        if count
    ]
    for head in ("global", "finding"):
        if head in {name.split("/")[0] for name in points.labels} and head not in points.temperatures:
            notes.append(f"No temperature for the {head} head: too few positives or negatives, or no best one.")
    for name, label in points.labels.items():
        if label.no_threshold:
            notes.append(f"No threshold for {name}: {label.no_threshold}.")
    if len({row.split for row in found.calibration}) == 1:
        notes.append(
            f"The calibration after the temperature is measured on the images that chose it ({points.split}); "
            "--test_split measures it on others."
        )
    if reference is not None:
        notes.append(
            f"Reference: {reference.n_images} training images; distances above {reference.limit:.3g} are refused, "
            f"{100 * reference.false_refusals:.0f} % of images like the {reference.n_held_out} held out."
        )
    return notes
