"""`mlcak prepare` and `mlcak merge`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import DatasetError
from ..radiographs.choices import Fit, Voi
from ..vindr_cxr.choices import VoteRule
from .options import LayoutOption, SizesOption, ValueRangeOption
from .terminal import console

if TYPE_CHECKING:
    from ..preparation.report import PreparationReport
    from ..preparation.source import PreparationSource


def prepare(
    context: typer.Context,
    data_dir: Annotated[Path, typer.Argument(help="VinDr-CXR as downloaded, or any folder with --labels.")],
    output: Annotated[Path, typer.Argument(help="Folder to write: Parquet files and a dataset card.")],
    size_px: Annotated[int, typer.Option("--size", help="Side of the stored square images, in pixels.", min=8)] = 256,
    bits: Annotated[Literal["8", "16"], typer.Option(help="Bits per pixel of the stored images.")] = "8",
    fit: Annotated[Fit, typer.Option(help="Pad to a square, or squash.")] = "pad",
    voi: Annotated[
        Voi, typer.Option(help="Range of grey values: the file's window, percentiles, or all stored bits.")
    ] = "dicom",
    value_range: ValueRangeOption = None,
    aggregation: Annotated[VoteRule, typer.Option(help="How the readers' votes become labels.")] = "majority",
    annotated: Annotated[
        list[str] | None,
        typer.Option(help="A label that this source annotated; repeat. All others count as missing, not as negative."),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="CSV file with image_id, group_id: patients, for the split.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Any folder of radiographs: CSV file with a row of labels per image.")
    ] = None,
    image_column: Annotated[str, typer.Option(help="With --labels: column of file names.")] = "image_id",
    label_column: Annotated[
        str, typer.Option(help="With --labels: column of 0 and 1 or class names; `none` derives it from the findings.")
    ] = "label",
    findings: Annotated[
        list[str] | None, typer.Option(help="With --labels: a column of 0 and 1 for one finding; repeat.")
    ] = None,
    patient_column: Annotated[str | None, typer.Option(help="With --labels: column of patients.")] = None,
    validation_fraction: Annotated[float, typer.Option(help="Share of the images for validation.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Seed of the validation split.")] = 0,
    on_error: Annotated[
        Literal["raise", "skip"], typer.Option(help="Stop at an unusable image, or skip and list it.")
    ] = "raise",
    layout: LayoutOption = "auto",
    sizes: SizesOption = None,
    test_fraction: Annotated[
        float | None,
        typer.Option(help="Kaggle or --labels: share of the test split.", show_default="0.15"),
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of processes that decode.", min=1)] = 1,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Write only part I of N, such as 0/4; `mlcak merge` joins the parts."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a dataset in the output folder.")] = False,
) -> None:
    """Turn VinDr-CXR, or any folder with a CSV file of labels, into a small dataset. Nothing is uploaded.

    Run the same command again to resume after an interruption or an error.
    """
    from ..labels_csv.labels_source import LabelsOptions, LabelsSource
    from ..preparation.prepare import prepare_dataset, prepare_part
    from ..vindr_cxr.options import VinDrOptions
    from ..vindr_cxr.vindr_source import VinDrSource

    # The command's parameters have the names of the options.
    kinds = {kind: [option.name for option in fields(kind)] for kind in (VinDrOptions, LabelsOptions)}
    own, other = (VinDrOptions, LabelsOptions) if labels is None else (LabelsOptions, VinDrOptions)
    for name in set(kinds[other]) - set(kinds[own]):
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE":
            without = "needs --labels" if labels is None else "is not for --labels; leave it out"
            raise DatasetError(f"--{name.replace('_', '-')} {without}.")
    choices = {name: context.params[name] for name in kinds[own]} | {"bits": int(bits)}
    source: PreparationSource = (
        VinDrSource(data_dir, VinDrOptions(**choices))
        if labels is None
        else LabelsSource(data_dir, LabelsOptions(**choices))
    )
    if shard is None:
        print_preparation(prepare_dataset(source, output, num_proc=workers, overwrite=overwrite))
        return
    part = prepare_part(source, output, _part(shard), num_proc=workers, overwrite=overwrite)
    out = console()
    out.print(f"Part {shard}: {part.written} shard(s) written, {part.found} found. {part.work_dir} now holds")
    out.print(f"{part.finished} of {part.of} shards. When all parts are done: mlcak merge {output} [PART ...]")


def merge(
    output: Annotated[
        Path, typer.Argument(help="Folder to write. OUTPUT.partial beside it holds one part, or all of them.")
    ],
    parts: Annotated[list[Path] | None, typer.Argument(help="Folders with parts from other machines.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a dataset in the output folder.")] = False,
) -> None:
    """Join the parts that `mlcak prepare --shard` wrote into one dataset."""
    from ..preparation.merge import merge_prepared

    print_preparation(merge_prepared(output, parts or (), overwrite=overwrite))


def _part(given: str) -> tuple[int, int]:
    index, _, count = given.partition("/")
    try:
        return int(index), int(count)
    except ValueError:
        raise DatasetError(f"--shard must be I/N, such as 0/4; got {given!r}.") from None


def print_preparation(report: PreparationReport) -> None:
    """Print what a preparation wrote, left out and noticed."""
    from ..preparation.suspect_images import suspect_sentences

    out = console()
    out.print(report.table())
    if report.skipped:
        out.print(report.skipped_table())
    for note in report.table_notes:
        out.print(f"Tables: {note}.")
    for kind, sentence, ids in suspect_sentences(report.suspect_images):
        named = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        out.print(f"Suspect images: {sentence}. They are {named}; all are in preparation.json, suspect_images.{kind}.")
    if report.choices["groups"] == "image":
        out.print(
            "Splits are by image, as no patients were given (--groups, or --patient-column with --labels): a patient"
            " may be in two splits."
        )
    out.print(f"Dataset: {report.output_dir}")
