"""`mlcak inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .options import LayoutOption, SizesOption


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
