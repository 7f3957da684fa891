"""Sizes of the original radiographs, which the boxes refer to, for PNG and JPEG conversions of either layout.

They come from `train_meta.csv` and `test_meta.csv`, as in Kaggle's conversions, or from a table that the user names;
or the user states that the files have the original sizes. Nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import DatasetError
from ..preparation.tables import Table, id_key, put_value
from ..radiographs.file_search import PICTURE_SUFFIXES
from .vindr_folder import VinDrFolder

SAME_SIZES = "same"
_WHOLE_NUMBER = re.compile(r"([1-9]\d*)(\.0*)?")


def original_sizes(root: Path, folders: Sequence[VinDrFolder], sizes: str | Path | None) -> dict[str, tuple[int, int]]:
    """Find the size that the boxes of each PNG or JPEG file refer to; refuse files with boxes but without a size.

    Args:
        root (`Path`):
            The data folder.
        folders (`Sequence[VinDrFolder]`):
            Its source folders, with all boxes.
        sizes (`str` or `Path`, *optional*):
            A CSV file, or `"same"`. `None` uses the tables beside the images.

    Returns:
        `dict[str, tuple[int, int]]`: Rows and columns by `id_key`; none for DICOM files, whose boxes are in their own
        pixels.

    Raises:
        [`DatasetError`]: When files with boxes have no size at all, or sizes are given for DICOM files alone.
    """
    pictures = {id_key(i) for f in folders for i, path in f.files.items() if path.suffix.lower() in PICTURE_SUFFIXES}
    if not pictures and sizes is not None:
        raise DatasetError("sizes (--sizes) is only for PNG and JPEG files; the folder holds DICOM files. Remove it.")
    if not pictures or sizes == SAME_SIZES:
        return {}
    beside = [path for folder in folders if (path := root / f"{folder.name}_meta.csv").is_file()]
    tables = beside if sizes is None else [Path(sizes)]
    known = {key: size for table in tables for key, size in _read_sizes(table).items()}
    with_boxes = [(folder, image_id) for folder in folders for image_id in folder.boxes if id_key(image_id) in pictures]
    if with_boxes and not tables:
        raise DatasetError(
            f"{len(with_boxes)} PNG or JPEG file(s) have boxes in pixels of the original radiographs, whose sizes are"
            " unknown. Name a CSV file with image_id, height, width of the originals (--sizes FILE), or state that the"
            " files have the original sizes (--sizes same)."
        )
    for folder, image_id in with_boxes:
        if id_key(image_id) not in known:
            headline = f"of {folder.name}/ with boxes, but without a size in {' or '.join(t.name for t in tables)}"
            folder.refuse(image_id, headline, "Add their rows")
    return {key: size for key, size in known.items() if key in pictures}


def _read_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """Read rows and columns by `id_key`. An image may be repeated."""
    table = Table(path)
    names = ("dim0", "dim1") if "dim0" in table.header else ("height", "width")
    sizes: dict[str, tuple[int, int]] = {}
    for line, row in table.named_rows(("image_id", *names)):
        height, width = (_WHOLE_NUMBER.fullmatch(row[name]) for name in names)
        if height is None or width is None:
            needs, got = " and ".join(names), " and ".join(repr(row[name]) for name in names)
            at = f"{path.name}: line {line}"
            raise DatasetError(f"{at} must hold whole numbers of pixels in {needs}; got {got}. Correct the row.")
        size = int(height[1]), int(width[1])
        put_value(sizes, row, size, f"{path.name}: line {line} gives image {{}} a second size")
    return sizes
