"""PNG and JPEG conversions of either layout: the sizes of the original radiographs, to which the boxes refer.

Nothing is guessed: the sizes come from `train_meta.csv` and `test_meta.csv` (image_id, dim0 = rows, dim1 = columns), as
Kaggle's conversions carry them, or from a table that the user names, or the user says that they are the pictures' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DatasetError
from .source import SKIP, SourceFolder
from .tables import PICTURE_SUFFIXES, id_key, read_sizes

SAME = "same"


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


def original_sizes(root: Path, folders: Sequence[SourceFolder], sizes: str | None) -> Mapping[str, tuple[int, int]]:
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
            folder.refuse(image_id, headline, f"Add their rows, {SKIP}")
    return {id_key(image_id): known[id_key(image_id)] for _, image_id in pictures if id_key(image_id) in known}
