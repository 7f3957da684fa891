"""`mlcak inspect`, `mlcak prepare` and `mlcak merge`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Context, Option

from ..errors import DatasetError
from ..radiographs.choices import Fit, Voi
from ..vindr_cxr.choices import VoteRule
from .options import LayoutOption, SizesOption, ValueRangeOption

if TYPE_CHECKING:
    from ..preparation.report import PreparationReport


def inspect(
    data_dir: Annotated[Path, Argument(help="VinDr-CXR as downloaded, from PhysioNet or Kaggle.")],
    layout: LayoutOption = "auto",
    sizes: SizesOption = None,
    json_file: Annotated[Path | None, Option("--json", help="Write everything found to this JSON file.")] = None,
    contact_sheet: Annotated[Path | None, Option(help="Write a picture of 24 radiographs to this PNG file.")] = None,
    workers: Annotated[int, Option(help="Number of processes that read.", min=1)] = 1,
) -> None:
    """Check a download before preparing it: files, damage, labels, readers, time and disk space needed."""
    from rich.console import Console

    from ..vindr_cxr.inspection.inspect import inspect_vindr_cxr

    report = inspect_vindr_cxr(
        data_dir, layout=layout, sizes=sizes, json_file=json_file, contact_sheet=contact_sheet, num_proc=workers
    )
    out = Console()
    out.print(*report.renderables(), sep="\n")
    if json_file is not None:
        out.print(f"JSON: {json_file}")
    if contact_sheet is not None:
        out.print(f"Contact sheet: {contact_sheet}")


def prepare(
    context: Context,
    data_dir: Annotated[Path, Argument(help="VinDr-CXR as downloaded, or any folder with --labels.")],
    output: Annotated[Path, Argument(help="Folder to write: Parquet files and a dataset card.")],
    size_px: Annotated[int, Option("--size", help="Side of the stored square images, in pixels.", min=8)] = 256,
    bits: Annotated[Literal["8", "16"], Option(help="Bits per pixel of the stored images.")] = "8",
    fit: Annotated[Fit, Option(help="Pad to a square, or squash.")] = "pad",
    voi: Annotated[Voi, Option(help="Grey values: the file's window, percentiles, or all stored bits.")] = "dicom",
    value_range: ValueRangeOption = None,
    aggregation: Annotated[VoteRule, Option(help="How the readers' votes become labels.")] = "majority",
    annotated: Annotated[
        list[str] | None,
        Option(help="A label that this source annotated; repeat. All others count as missing, not as negative."),
    ] = None,
    groups: Annotated[Path | None, Option(help="CSV file with image_id, group_id: patients, for the split.")] = None,
    labels: Annotated[
        Path | None, Option(help="For any other folder: CSV file with a row of labels per image.")
    ] = None,
    image_column: Annotated[str, Option(help="With --labels: column of file names.")] = "image_id",
    label_column: Annotated[
        str, Option(help="With --labels: column of 0 and 1 or class names; `none` derives it from the findings.")
    ] = "label",
    findings: Annotated[list[str] | None, Option(help="With --labels: a finding's column of 0 and 1; repeat.")] = None,
    patient_column: Annotated[str | None, Option(help="With --labels: column of patients.")] = None,
    validation_fraction: Annotated[float, Option(help="Share of the images for validation.")] = 0.15,
    seed: Annotated[int, Option(help="Seed of the validation split.")] = 0,
    on_error: Annotated[
        Literal["raise", "skip"], Option(help="Stop at unusable images, or skip and list them.")
    ] = "raise",
    layout: LayoutOption = "auto",
    sizes: SizesOption = None,
    test_fraction: Annotated[
        float | None, Option(help="Kaggle or --labels: share of the test split.", show_default="0.15")
    ] = None,
    workers: Annotated[int, Option(help="Number of processes that decode.", min=1)] = 1,
    shard: Annotated[
        str | None, Option(metavar="I/N", help="Write only part I of N, such as 0/4; `mlcak merge` joins the parts.")
    ] = None,
    overwrite: Annotated[bool, Option(help="Replace a dataset in the output folder.")] = False,
) -> None:
    """Turn VinDr-CXR, or any folder with a CSV file of labels, into a small dataset. Nothing is uploaded.

    Run the same command again to resume after an interruption or an error.
    """
    # The command's parameters have the names of the options. Not `context.params`: a list that was not given is empty
    # there, which would mean that nothing was annotated.
    choices = locals() | {"bits": int(bits)}
    from rich.console import Console

    from ..labels_csv.labels_source import LabelsOptions, LabelsSource
    from ..preparation.prepare import prepare_dataset, prepare_part
    from ..vindr_cxr.options import VinDrOptions
    from ..vindr_cxr.vindr_source import VinDrSource

    for_vindr, for_labels = ({option.name for option in fields(kind)} for kind in (VinDrOptions, LabelsOptions))
    own, other = (for_vindr, for_labels) if labels is None else (for_labels, for_vindr)
    for name in other - own:
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
            problem = "needs --labels" if labels is None else "is not for --labels; leave it out"
            raise DatasetError(f"--{name.replace('_', '-')} {problem}.")
    chosen = {name: choices[name] for name in own}
    source = (
        LabelsSource(data_dir, LabelsOptions(**chosen)) if labels else VinDrSource(data_dir, VinDrOptions(**chosen))
    )
    if shard is None:
        print_preparation(prepare_dataset(source, output, num_proc=workers, overwrite=overwrite))
        return
    part = prepare_part(source, output, _part(shard), num_proc=workers, overwrite=overwrite)
    out = Console()
    out.print(f"Part {shard}: {part.written} shard(s) written, {part.found} found. {part.work_dir} now holds")
    out.print(f"{part.finished} of {part.of} shards. When all parts are done: mlcak merge {output} [PART ...]")


def merge(
    output: Annotated[Path, Argument(help="Folder to write. OUTPUT.partial beside it holds one part, or all of them.")],
    parts: Annotated[list[Path] | None, Argument(help="Folders with parts from other machines.")] = None,
    overwrite: Annotated[bool, Option(help="Replace a dataset in the output folder.")] = False,
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
    from rich.console import Console

    from ..preparation.suspect_images import suspect_sentences

    out = Console()
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
