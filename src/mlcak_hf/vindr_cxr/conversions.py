"""PNG and JPEG conversions of either layout: the sizes of the original radiographs, to which the boxes refer.

Nothing is guessed: the sizes come from `train_meta.csv` and `test_meta.csv` (image_id, dim0 = rows, dim1 = columns), as
Kaggle's conversions carry them, or from a table that the user names, or the user says that they are the pictures' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DatasetError
from ..preparation.image_folder import SKIP_OR
from ..preparation.tables import PICTURE_SUFFIXES, Table, id_key, put_value
from .options import SAME
from .vindr_folder import VinDrFolder

# Original sizes as Kaggle's conversions call them (an array's dimensions), and as everybody else does.
_SIZE_COLUMNS = (("dim0", "dim1"), ("height", "width"))


def size_tables(root: Path, folders: Sequence[str], sizes: str | None) -> list[Path]:
    """Say which files the original sizes come from.

    Args:
        root: The data folder.
        folders: Names of its source folders.
        sizes: A table; "same"; None for those beside the images, where they are.

    Returns:
        The files; none where there is none or none is wanted.
    """
    if sizes == SAME:
        return []
    if sizes is not None:
        return [Path(sizes)]
    return [path for name in folders if (path := root / f"{name}_meta.csv").is_file()]


def original_sizes(root: Path, folders: Sequence[VinDrFolder], sizes: str | None) -> Mapping[str, tuple[int, int]]:
    """Find the size that the boxes of each picture refer to; refuse single pictures of unknown size that have boxes.

    Args:
        root: The data folder.
        folders: Its source folders, with all boxes.
        sizes: As in `size_tables`.

    Returns:
        (rows, columns) by `id_key`; nothing for DICOM files, whose boxes are in their own pixels.

    Raises:
        DatasetError: Pictures have boxes, but no size is known at all; or sizes are given where there is no picture.
    """
    pictures = [
        (folder, image_id)
        for folder in folders
        for image_id, path in folder.files.items()
        if path.suffix.lower() in PICTURE_SUFFIXES
    ]
    if not pictures and sizes is not None:
        raise DatasetError(
            "sizes (--sizes) are those of the originals of PNG or JPEG files, but the folder holds DICOM files alone,"
            " which know their own; leave them out"
        )
    if not pictures or sizes == SAME:
        return {}
    tables = size_tables(root, [folder.name for folder in folders], sizes)
    framed = [(folder, image_id) for folder, image_id in pictures if folder.boxes.get(image_id)]
    if framed and not tables:
        raise DatasetError(
            f"{len(framed)} PNG or JPEG file(s) have boxes in pixels of the original radiographs, whose sizes are not"
            " known. Name a CSV with image_id, height, width of the originals, such as Kaggle's train_meta.csv"
            " (--sizes FILE), or say that the pictures have the originals' size (--sizes same)"
        )
    known: dict[str, tuple[int, int]] = {}
    for path in tables:
        known |= read_sizes(path)
    for folder, image_id in framed:
        if id_key(image_id) not in known:
            headline = (
                f"of {folder.name}/ with boxes, but without a size in {' or '.join(path.name for path in tables)}"
            )
            folder.refuse(image_id, headline, f"Add their rows, {SKIP_OR}")
    return {id_key(image_id): known[id_key(image_id)] for _, image_id in pictures if id_key(image_id) in known}


def read_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """Read the sizes of the original radiographs, to which boxes refer.

    Args:
        path: CSV with image_id and dim0, dim1 (rows, columns) or height, width; other columns do not matter, and an
            image may occur more than once.

    Returns:
        (rows, columns) by `id_key` of the image.

    Raises:
        DatasetError: No such file or column, no size in a cell, or an image with two sizes.
    """
    if not path.is_file():
        raise DatasetError(f"there is no file {path.name} with the sizes; it is a CSV with image_id, height and width")
    table = Table(path)
    pair = next((pair for pair in _SIZE_COLUMNS if set(pair) <= set(table.header)), None)
    if pair is None or "image_id" not in table.header:
        raise DatasetError(
            f"{path.name}: the columns image_id and dim0, dim1 (rows, columns) or height, width are needed; it has"
            f" {', '.join(table.header)}"
        )
    sizes: dict[str, tuple[int, int]] = {}
    for line, row in table.named_rows(("image_id", *pair)):
        try:
            height, width = (float(row[name]) for name in pair)
        except ValueError:
            height = width = 0.0
        if not (height >= 1 and width >= 1 and height.is_integer() and width.is_integer()):
            raise DatasetError(
                f"{path.name}: line {line} needs whole numbers of pixels in {' and '.join(pair)}, but holds"
                f" {row[pair[0]]!r} and {row[pair[1]]!r}"
            )
        put_value(sizes, row, (int(height), int(width)), f"{path.name}: line {line} gives image {{}} a second size")
    return sizes
