"""`mlcak export`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ..errors import DeploymentError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..deployment.export.deviation import Deviation
    from ..deployment.export.onnx_check import OnnxDifference


class Format(str, Enum):
    """What to export to."""

    VIT = "vit"
    ONNX = "onnx"
    SPACE = "space"
    PAGE = "page"


class WeightType(str, Enum):
    """How the weights of an ONNX file are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


class Head(str, Enum):
    """Which labels a native model has."""

    BOTH = "both"
    GLOBAL = "global"


def export(
    model: Annotated[str, Argument(help="Folder of a trained model, Hub id, or name of a shipped checkpoint.")],
    output: Annotated[Path, Argument(help="New or empty folder.")],
    to: Annotated[
        Format,
        Option(
            help="`vit`: a stock ViT that plain transformers loads without remote code, for 8-bit images. `onnx`: "
            "files for onnxruntime, with their preprocessing. `space`: a Gradio app for a Hugging Face Space, without "
            "torch. `page`: a page that predicts in the browser, offline."
        ),
    ],
    head: Annotated[
        Head, Option(help="For `vit`: `both` for global labels and findings in one multi-label head, or `global`.")
    ] = Head.BOTH,
    javascript: Annotated[
        bool, Option("--javascript", help="For `vit`: also write onnx/model.onnx, which transformers.js reads.")
    ] = False,
    dtype: Annotated[
        list[WeightType] | None,
        Option(help="For `onnx`: how weights are stored, float32 by default. Repeat it for several files."),
    ] = None,
    single_file: Annotated[
        bool, Option("--single-file", help="For `page`: one HTML file that opens from a disk, without a web server.")
    ] = False,
) -> None:
    """Export a trained model to another format, and measure how far its probabilities are from the original's."""
    from rich.console import Console

    console = Console()
    if head is not Head.BOTH and to is not Format.VIT:
        raise DeploymentError("--head belongs to `--to vit`; the other formats have both heads. Leave it out.")
    if javascript and to is not Format.VIT:
        raise DeploymentError("--javascript belongs to `--to vit`. Leave it out.")
    if dtype and to is not Format.ONNX:
        raise DeploymentError("--dtype belongs to `--to onnx`; the other formats have float32 weights. Leave it out.")
    if single_file and to is not Format.PAGE:
        raise DeploymentError("--single-file belongs to `--to page`. Leave it out.")
    if to is Format.ONNX:
        _export_onnx(model, output, dtype or [WeightType.FLOAT32], console)
    elif to is Format.SPACE:
        _export_app(model, output)
    elif to is Format.PAGE:
        _export_page(model, output, single_file, console)
    else:
        _export_vit(model, output, head, javascript, console)
    console.print(f"Written: {output}", highlight=False, soft_wrap=True)


def _export_vit(model: str, output: Path, head: Head, javascript: bool, console: Console) -> None:
    from ..deployment.export.native_vit import export_vit

    made = export_vit(model, output, head.value, javascript=javascript)
    console.print(_deviation_table(made.deviations))
    console.print(f"{len(made.labels)} labels.", highlight=False)


def _export_onnx(model: str, output: Path, dtypes: list[WeightType], console: Console) -> None:
    from ..deployment.export.onnx_folder import export_onnx
    from ..prediction.onnx_metadata import PREPROCESS_FILE

    made = export_onnx(model, output, [dtype.value for dtype in dtypes])
    console.print(_difference_table(made.differences))
    console.print(f"{PREPROCESS_FILE}: pixel values to {made.pixel_difference:.1e}.", highlight=False)


def _export_app(model: str, output: Path) -> None:
    from ..deployment.gradio_app import export_space

    export_space(model, output)


def _export_page(model: str, output: Path, single_file: bool, console: Console) -> None:
    from rich.table import Column, Table

    from ..deployment.browser_page import export_page

    made = export_page(model, output, single_file)
    table = Table("File", Column("kB", justify="right"))
    for name, size in made.sizes.items():
        table.add_row(name, f"{size / 1e3:,.1f}")
    console.print(table)
    console.print(f"A visitor downloads {made.downloaded / 1e6:.1f} MB (compressed).", highlight=False)


def _difference_table(differences: list[OnnxDifference]) -> Table:
    from rich.table import Column, Table

    names = ("Size", "Logit", "Probability", "Attention", "Distance (relative)")
    headings = (Column(name, justify="right") for name in names)
    table = Table(Column("File", no_wrap=True), *headings, title="Largest difference from PyTorch")
    for row in differences:
        values = (row.logit, row.probability, row.attention, row.distance)
        cells = ("" if value is None else f"{value:.1e}" for value in values)
        table.add_row(row.file, f"{row.megabytes:.1f} MB", *cells)
    return table


def _deviation_table(deviations: tuple[Deviation, ...]) -> Table:
    from rich.table import Column, Table

    headings = (Column(name, justify="right") for name in ("Images", "Mean difference", "Largest difference"))
    table = Table("Size (height x width)", *headings, title="Difference from the original's probabilities")
    for row in deviations:
        table.add_row(f"{row.height} x {row.width}", str(row.images), f"{row.mean:.1e}", f"{row.largest:.1e}")
    return table
