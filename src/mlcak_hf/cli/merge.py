"""`mlcak merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .prepare import print_preparation


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
