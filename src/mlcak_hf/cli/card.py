"""`mlcak card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import console


def card(
    folder: Annotated[Path, typer.Argument(help="Folder of a trained model. Its README.md is written.")],
    comparison: Annotated[Path | None, typer.Option(help="comparison.json with the model's results.")] = None,
    row: Annotated[str | None, typer.Option(help="The model's row in it. By default the folder's name.")] = None,
    repo_id: Annotated[str | None, typer.Option(help="Hub id for the code snippets, such as owner/name.")] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="Licence of the weights, such as apache-2.0. None by default.")
    ] = None,
) -> None:
    """Write the model card of a trained model from its results; what was not measured is marked as such."""
    from ..deployment.model_card import card_for_folder

    made = card_for_folder(folder, comparison, row, model_id=repo_id, license=license_id)
    made.save(folder / "README.md")
    console().print(f"Model card: {folder / 'README.md'}")
