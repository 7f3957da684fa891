"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..radiographs.choices import ValueRange
from ..vindr_cxr.choices import Layout

DataDirArgument = Annotated[Path, typer.Argument(help="VinDr-CXR as downloaded, from PhysioNet or Kaggle.")]
LayoutOption = Annotated[Layout, typer.Option(help="Source layout. `auto` detects it from the tables present.")]
SizesOption = Annotated[
    str | None,
    typer.Option(
        help="For PNG and JPEG files: a CSV file with image_id, height, width of the originals, which the boxes refer"
        " to, or `same` if the images have their original size."
    ),
]
ValueRangeOption = Annotated[
    ValueRange | None,
    typer.Option(
        metavar="LOW HIGH",
        help="Stored values of PNG and JPEG files that become black and white, such as 0 4095 for 12 bits in 16.",
    ),
]
