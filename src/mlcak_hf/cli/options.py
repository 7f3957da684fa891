"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from ..radiographs.choices import ValueRange
from ..vindr_cxr.choices import Layout

LayoutOption = Annotated[Layout, Option(help="Source layout. `auto` detects it from the tables present.")]
SizesOption = Annotated[
    str | None,
    Option(
        help="For PNG and JPEG files: a CSV file with image_id, height, width of the originals, which the boxes refer"
        " to, or `same` if the images have their original size."
    ),
]
ValueRangeOption = Annotated[
    ValueRange | None,
    Option(
        metavar="LOW HIGH",
        help="Stored values of PNG and JPEG files that become black and white, such as 0 4095 for 12 bits in 16.",
    ),
]
