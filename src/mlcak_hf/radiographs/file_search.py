"""Which files of a folder are radiographs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import DatasetError

RADIOGRAPH_SUFFIXES = frozenset({".dcm", ".dic", ".dicom", ".jpeg", ".jpg", ".png"})

_DICOM_MAGIC_OFFSET = 128
_DICOM_MAGIC = b"DICM"


def find_radiographs(path: str | os.PathLike[str], exclude: Iterable[str | os.PathLike[str]] = ()) -> list[Path]:
    """List the radiographs at a path.

    In a folder, files count by their suffix (`.dcm`, `.dic`, `.dicom`, `.png`, `.jpg`, `.jpeg`, in any case); files of
    any other name count if they carry the DICOM magic bytes. Hidden files and `DICOMDIR` indices do not. A file that is
    named directly is taken as it is, so that a wrong one is reported when it is read and not silently passed over.

    Args:
        path: A file, or a folder that is searched with its subfolders.
        exclude: Folders to leave out, such as one inside `path` that heatmaps are written to.

    Returns:
        The files, sorted by path.

    Raises:
        DatasetError: If `path` does not exist, or is a folder without a radiograph.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DatasetError(f"No file or folder at {path}. Name a radiograph (DICOM, PNG or JPEG) or a folder of them.")
    left_out = {Path(folder).resolve() for folder in exclude}
    found: list[Path] = []
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = [
            name for name in subfolders if not name.startswith(".") and Path(folder, name).resolve() not in left_out
        ]
        found += [Path(folder, name) for name in names if _is_radiograph(Path(folder, name))]
    if not found:
        suffixes = ", ".join(sorted(RADIOGRAPH_SUFFIXES))
        raise DatasetError(
            f"No radiographs in {path}: expected files ending in {suffixes}, or DICOM files of any other name."
        )
    return sorted(found)


def _is_radiograph(file: Path) -> bool:
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR":
        return False
    if file.suffix.lower() in RADIOGRAPH_SUFFIXES:
        return file.is_file()
    try:
        with file.open("rb") as stream:
            stream.seek(_DICOM_MAGIC_OFFSET)
            return stream.read(len(_DICOM_MAGIC)) == _DICOM_MAGIC
    except OSError:
        return False  # A socket, a broken link, a file of another user: nothing that is called a radiograph.
