"""The `mlcak` command: parses, calls the library, prints. Training is started with `accelerate launch`, not here."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import DatasetError, DeploymentError, MLCAKError

if TYPE_CHECKING:
    from .phantoms.writer import PhantomReport
    from .preparation.report import PreparationReport

app = typer.Typer(
    name="mlcak",
    help="Low-resolution chest X-ray classification (MLCAK). Research use only: not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

ValueRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="LOW HIGH", help="For PNG, JPEG: stored values that become black and white; 0 4095 for 12 bits."
    ),
]

# What a command needs is imported inside it: the others should not wait seconds for datasets, pydicom and the like.


class Fit(str, Enum):
    """How a radiograph becomes a square."""

    pad = "pad"
    squash = "squash"


class Bits(str, Enum):
    """Bits per pixel of the stored images."""

    eight = "8"
    sixteen = "16"


class Voi(str, Enum):
    """Where the grey values' limits come from."""

    dicom = "dicom"
    percentile = "percentile"
    none = "none"


class Aggregation(str, Enum):
    """How the readers' votes become targets."""

    majority = "majority"
    any = "any"
    all = "all"
    mean = "mean"
    none = "none"


class OnError(str, Enum):
    """What to do with an image that cannot be used."""

    raise_ = "raise"
    skip = "skip"


class Layout(str, Enum):
    """How the tables and images lie in a folder."""

    auto = "auto"
    physionet = "physionet"
    kaggle = "kaggle"


class TableFormat(str, Enum):
    """Form of the predictions."""

    table = "table"
    csv = "csv"
    json = "json"


@app.command()
def phantom(
    output: Annotated[Path, typer.Argument(help="Folder to write; it gets VinDr-CXR's layout.")],
    train: Annotated[int, typer.Option(help="Number of training radiographs.", min=1)] = 1000,
    test: Annotated[int, typer.Option(help="Number of test radiographs.", min=1)] = 300,
    size_px: Annotated[int, typer.Option("--size", help="Typical shorter side, in pixels.", min=64)] = 512,
    prevalence: Annotated[
        list[str] | None, typer.Option(help='Share of images with a finding, such as "Cardiomegaly=0.2" (repeat it).')
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that draw at the same time.", min=1)] = 1,
    overwrite: Annotated[bool, typer.Option(help="Replace phantoms that an earlier run left in the folder.")] = False,
) -> None:
    """Write synthetic chest radiographs as DICOM, in the exact layout of VinDr-CXR on PhysioNet."""
    from .phantoms.writer import write_phantoms

    report = write_phantoms(
        output,
        num_train=train,
        num_test=test,
        size_px=size_px,
        seed=seed,
        num_proc=workers,
        overwrite=overwrite,
        prevalence=dict(_named_share(given) for given in prevalence or ()),
    )
    _print_phantoms(report)


def _named_share(given: str) -> tuple[str, float]:
    name, _, share = given.rpartition("=")
    try:
        return name, float(share)
    except ValueError:
        raise DatasetError(f'--prevalence needs NAME=SHARE, such as "Cardiomegaly=0.2"; got {given!r}') from None


def _print_phantoms(report: PhantomReport) -> None:
    table = Table(title="Synthetic radiographs")
    table.add_column("truly showing")
    for split in report.num_images:
        table.add_column(split, justify="right")
    table.add_row("(images)", *map(str, report.num_images.values()))
    table.add_row("any finding", *map(str, report.num_abnormal.values()), end_section=True)
    for finding in next(iter(report.finding_counts.values())):
        table.add_row(finding, *(str(counts[finding]) for counts in report.finding_counts.values()))
    console.print(table)
    syntaxes = ", ".join(f"{name} {count}" for name, count in report.transfer_syntaxes.items())
    console.print(f"Transfer syntaxes: {syntaxes}")
    console.print(f"Phantoms: {report.output_dir}   patients: {report.groups_file}")


@app.command()
def inspect(
    data_dir: Annotated[Path, typer.Argument(help="VinDr-CXR as downloaded, from PhysioNet or Kaggle.")],
    layout: Annotated[Layout, typer.Option(help="Whose layout; auto tells by the tables that lie there.")] = (
        Layout.auto
    ),
    sizes: Annotated[
        str | None,
        typer.Option(help="For PNG, JPEG: CSV with image_id, height, width of the originals (for the boxes), or same."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for everything found, as JSON.")] = None,
    contact_sheet: Annotated[Path | None, typer.Option(help="PNG file for a picture of 24 of the radiographs.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that read at the same time.", min=1)] = 1,
) -> None:
    """Look at a download before anything is built of it: files, damage, labels, readers, time and disk to prepare."""
    from .vindr_cxr.inspection.inspect import inspect_vindr_cxr

    report = inspect_vindr_cxr(
        data_dir,
        layout=layout.value,
        sizes=sizes,
        json_file=json_file,
        contact_sheet=contact_sheet,
        num_proc=workers,
    )
    console.print(*report.renderables(), sep="\n")
    if json_file is not None:
        console.print(f"JSON: {json_file}")
    if contact_sheet is not None:
        console.print(f"Contact sheet: {contact_sheet}")


@app.command()
def prepare(
    data_dir: Annotated[Path, typer.Argument(help="VinDr-CXR as downloaded, from PhysioNet or Kaggle.")],
    output: Annotated[Path, typer.Argument(help="Folder to write: Parquet files and a dataset card.")],
    size_px: Annotated[int, typer.Option("--size", help="Side of the stored square images, in pixels.", min=8)] = 256,
    bits: Annotated[Bits, typer.Option(help="Bits per pixel of the stored images.")] = Bits.eight,
    fit: Annotated[Fit, typer.Option(help="Pad to a square, or squash.")] = Fit.pad,
    voi: Annotated[Voi, typer.Option(help="Limits of the grey values: the file's, percentiles, none.")] = Voi.dicom,
    value_range: ValueRange = None,
    aggregation: Annotated[Aggregation, typer.Option(help="How readers' votes become labels.")] = Aggregation.majority,
    annotated: Annotated[
        list[str] | None,
        typer.Option(help="A label that this source annotated (repeat it); the others count as missing, not as 0."),
    ] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV with image_id,group_id: patients, for the split.")] = None,
    validation_fraction: Annotated[float, typer.Option(help="Share of the images kept for validation.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Seed of the validation split.")] = 0,
    on_error: Annotated[OnError, typer.Option(help="Stop at an unusable image, or leave it out and list it.")] = (
        OnError.raise_
    ),
    layout: Annotated[Layout, typer.Option(help="Whose layout; auto tells by the tables that lie there.")] = (
        Layout.auto
    ),
    sizes: Annotated[
        str | None,
        typer.Option(help="For PNG, JPEG: CSV with image_id, height, width of the originals (for the boxes), or same."),
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Kaggle's layout: share of the images kept as test split.", show_default="0.15")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that decode at the same time.", min=1)] = 1,
    shard: Annotated[
        str | None, typer.Option(help="Write part I of N only, such as 0/4; `mlcak merge` makes the dataset of all.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a dataset that lies in the output folder.")] = False,
) -> None:
    """Turn a VinDr-CXR download into a small dataset that `load_dataset` reads anywhere. Nothing is uploaded.

    After a kill or an error the same command goes on from where it was.
    """
    from .preparation.prepare import prepare_vindr_cxr, prepare_vindr_cxr_part

    choices: dict[str, Any] = {
        "size_px": size_px,
        "bits": int(bits.value),
        "fit": fit.value,
        "voi": voi.value,
        "value_range": value_range,
        "aggregation": aggregation.value,
        "annotated": annotated,
        "groups": groups,
        "validation_fraction": validation_fraction,
        "seed": seed,
        "on_error": on_error.value,
        "layout": layout.value,
        "sizes": sizes,
        "test_fraction": test_fraction,
        "num_proc": workers,
        "overwrite": overwrite,
    }
    if shard is None:
        _print_prepared(prepare_vindr_cxr(data_dir, output, **choices))
        return
    part = prepare_vindr_cxr_part(data_dir, output, _part(shard), **choices)
    console.print(f"Part {shard}: {part.written} shard(s) written, {part.found} found. {part.work_dir} now holds")
    console.print(f"{part.finished} of {part.of} shards. When all parts are done: mlcak merge {output} [PART ...]")


def _part(given: str) -> tuple[int, int]:
    index, _, count = given.partition("/")
    try:
        return int(index), int(count)
    except ValueError:
        raise DatasetError(f"--shard needs I/N, such as 0/4; got {given!r}") from None


@app.command()
def merge(
    output: Annotated[Path, typer.Argument(help="Folder to write; OUTPUT.partial beside it holds a part, or all.")],
    parts: Annotated[list[Path] | None, typer.Argument(help="Parts of other machines: folders of any name.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a dataset that lies in the output folder.")] = False,
) -> None:
    """Make the dataset of the parts that `mlcak prepare --shard` wrote, once all of them are there."""
    from .preparation.merge import merge_prepared

    _print_prepared(merge_prepared(output, parts or (), overwrite=overwrite))


def _print_prepared(report: PreparationReport) -> None:
    console.print(report.table())
    if report.left_out:
        console.print(report.left_out_table())
    for remark in report.remarks:
        console.print(f"Tables: {remark}")
    for kind, sentence, ids in report.doubts.sentences():
        named = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        console.print(f"Doubtful: {sentence}. They are {named}; all: preparation.json, doubts.{kind}")
    console.print(f"Dataset ({report.choices['layout']}): {report.output_dir}")


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a trained model.")],
    inputs: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG files, or folders of them.")],
    table_format: Annotated[TableFormat, typer.Option("--format", help="Form of the result.")] = TableFormat.table,
    output: Annotated[Path | None, typer.Option(help="File for the result instead of the terminal.")] = None,
    heatmaps: Annotated[Path | None, typer.Option(help="Folder for pictures of what the model attended to.")] = None,
    batch_size: Annotated[int, typer.Option(help="Radiographs in the model at once.", min=1)] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; by default the best there is.")] = None,
    value_range: ValueRange = None,
) -> None:
    """Predict the global label and the local findings of radiographs. Exit code 1 if a file could not be read."""
    from .prediction.outputs import check_outputs
    from .prediction.predictor import RadiographPredictor
    from .prediction.tables import write_predictions
    from .radiographs.file_search import find_radiographs

    exclude = [] if heatmaps is None else [heatmaps]
    paths = [path for given in inputs for path in find_radiographs(given, exclude=exclude)]
    check_outputs(paths, output, heatmaps)
    predictor = RadiographPredictor.from_pretrained(model, device=device, value_range=value_range)
    predictions = predictor.stream(paths, batch_size=batch_size, heatmaps_dir=heatmaps, progress=True)
    failed = write_predictions(predictions, table_format.value, output=output, console=console)
    if output is not None:
        errors.print(f"Predictions: {output}")
    if heatmaps is not None:
        errors.print(f"Heatmaps: {heatmaps}")
    errors.print("Research use only: not a medical device, no basis for a diagnosis.")
    if failed:
        raise typer.Exit(1)


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(help="Folder of a trained model; its README.md is written.")],
    comparison: Annotated[Path | None, typer.Option(help="comparison.json with the model's measured numbers.")] = None,
    row: Annotated[str | None, typer.Option(help="The model's row in it; by default the folder's name.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; by default the folder's name.")] = None,
    repo_id: Annotated[str | None, typer.Option(help="Where it will be found on the Hub, for the snippets.")] = None,
) -> None:
    """Write the model card of a trained model from what was measured; what was not says so."""
    from .deployment.model_card import card_for_folder

    made = card_for_folder(folder, comparison, row, model_name=name, model_id=repo_id)
    made.save(folder / "README.md")
    console.print(f"Model card: {folder / 'README.md'}")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a trained model with its card, or a prepared dataset.")],
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hub.")],
    public: Annotated[bool, typer.Option(help="Let everyone see it; private otherwise.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    i_may_share_this_data: Annotated[
        bool,
        typer.Option(
            "--i-may-share-this-data",
            help="For a dataset: I have read its data use agreement, and it lets me upload this. VinDr-CXR's does not"
            " let anyone else have access.",
        ),
    ] = False,
) -> None:
    """Upload a trained model to the Hugging Face Hub: weights, configuration, code and card; no data beside them.

    A folder that `mlcak prepare` wrote is refused without --i-may-share-this-data, and then becomes a private dataset.
    """
    from .deployment.publish import push_to_hub
    from .deployment.publish_dataset import is_prepared_dataset, push_dataset_to_hub

    if is_prepared_dataset(folder):
        if public:
            raise DeploymentError(f"{folder} is a dataset of radiographs; it is pushed to a private repository only")
        commit = push_dataset_to_hub(folder, repo_id, i_may_share_this_data=i_may_share_this_data, revision=revision)
    else:
        commit = push_to_hub(folder, repo_id, private=not public, revision=revision)
    console.print(f"Pushed: {commit.commit_url}")


def main() -> NoReturn:
    """Entry point: an error that a person can mend is one line on stderr, without a traceback."""
    try:
        app()
    except MLCAKError as error:
        errors.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("stopped")
        sys.exit(130)
    sys.exit(0)
