"""`mlcak export`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

if TYPE_CHECKING:
    from rich.table import Table

    from ..deployment.export.deviation import Deviation


class Format(str, Enum):
    """What to export to."""

    VIT = "vit"


class Head(str, Enum):
    """Which labels a native model has."""

    BOTH = "both"
    GLOBAL = "global"


def export(
    model: Annotated[str, Argument(help="Folder of a trained model, Hub id, or name of a shipped checkpoint.")],
    output: Annotated[Path, Argument(help="New or empty folder.")],
    to: Annotated[
        Format, Option(help="`vit`: a stock ViT that plain transformers loads without remote code, for 8-bit images.")
    ],
    head: Annotated[
        Head, Option(help="For `vit`: `both` for global labels and findings in one multi-label head, or `global`.")
    ] = Head.BOTH,
) -> None:
    """Export a trained model to another format, and measure how far its probabilities are from the original's."""
    from rich.console import Console

    from ..deployment.export.native_vit import export_vit

    console = Console()
    made = export_vit(model, output, head.value)
    console.print(_deviation_table(made.deviations))
    console.print(f"{len(made.labels)} labels. Written: {output}", highlight=False, soft_wrap=True)


def _deviation_table(deviations: tuple[Deviation, ...]) -> Table:
    from rich.table import Column, Table

    headings = (Column(name, justify="right") for name in ("Images", "Mean difference", "Largest difference"))
    table = Table("Size (height x width)", *headings, title="Difference from the original's probabilities")
    for row in deviations:
        table.add_row(f"{row.height} x {row.width}", str(row.images), f"{row.mean:.1e}", f"{row.largest:.1e}")
    return table
