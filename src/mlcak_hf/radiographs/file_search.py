"""Find the radiographs in a folder."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DatasetError

RADIOGRAPH_SUFFIXES = frozenset({".dcm", ".dic", ".dicom", ".jpeg", ".jpg", ".png"})

_DICOM_MAGIC_OFFSET = 128
_DICOM_MAGIC = b"DICM"


@dataclass
class FileSearch:
    """What a search found.

    Args:
        files (`list[Path]`):
            The radiographs, sorted by path.
        unreadable (`dict[Path, str]`):
            Why a file or folder could not be opened: dangling links and missing permissions.
        skipped (`dict[str, int]`):
            Number of skipped files by kind: the suffix (`".bmp"`), `"DICOMDIR"` or `"no suffix"`. Hidden files are not
            counted.
    """

    files: list[Path] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=Counter)


def find_radiographs(path: str | os.PathLike[str], exclude: Iterable[str | os.PathLike[str]] = ()) -> list[Path]:
    """List the radiographs at a path, see [`search_radiographs`].

    Args:
        path (`str` or `PathLike`):
            A file or folder.
        exclude (`Iterable`, *optional*):
            Folders to leave out.

    Returns:
        `list[Path]`: The files, sorted by path.

    Raises:
        [`DatasetError`]: When `path` does not exist, or no radiograph is found.
    """
    search = search_radiographs(path, exclude)
    if search.files:
        return search.files
    suffixes = ", ".join(sorted(RADIOGRAPH_SUFFIXES))
    raise DatasetError(
        f"No radiographs in {Path(path)}. Name a folder of files ending in {suffixes}, or DICOM files of any name."
    )


def search_radiographs(path: str | os.PathLike[str], exclude: Iterable[str | os.PathLike[str]] = ()) -> FileSearch:
    """Search a folder and its subfolders for radiographs, and report what was left out.

    A file is taken for its suffix (`.dcm`, `.dic`, `.dicom`, `.png`, `.jpg`, `.jpeg`, in any case), or for the DICOM
    magic bytes with any other name. Hidden files and `DICOMDIR` indices are left out. If `path` is a file, it is always
    taken, so that a wrong one is reported when it is read.

    Args:
        path (`str` or `PathLike`):
            A file or folder.
        exclude (`Iterable`, *optional*):
            Folders to leave out, such as one inside `path` that heatmaps are written to.

    Returns:
        [`FileSearch`]: The files, and what was skipped or could not be opened.

    Raises:
        [`DatasetError`]: When `path` does not exist.
    """
    path = Path(path)
    if path.is_file():
        return FileSearch([path])
    if not path.is_dir():
        raise DatasetError(f"No file or folder at {path}. Name a radiograph (DICOM, PNG or JPEG) or a folder of them.")
    search, left_out = FileSearch(), {Path(folder).resolve() for folder in exclude}

    def note_unreadable(error: OSError) -> None:
        search.unreadable[Path(error.filename)] = f"The folder cannot be opened ({error.strerror})."

    for folder, subfolders, names in os.walk(path, onerror=note_unreadable):
        subfolders[:] = [
            name for name in subfolders if not name.startswith(".") and Path(folder, name).resolve() not in left_out
        ]
        for name in names:
            if not name.startswith("."):
                _sort_file(Path(folder, name), search)
    search.files.sort()
    return search


def _sort_file(file: Path, search: FileSearch) -> None:
    try:
        kind = _kind_to_skip(file)
    except OSError as error:
        reason = "The file cannot be opened" if file.exists() else "The link is broken"
        search.unreadable[file] = f"{reason} ({error.strerror})."
        return
    if kind is None:
        search.files.append(file)
    else:
        search.skipped[kind] = search.skipped.get(kind, 0) + 1


def _kind_to_skip(file: Path) -> str | None:
    """Kind of a file that is not a radiograph; `None` for a radiograph."""
    if file.name.upper() == "DICOMDIR":
        return "DICOMDIR"
    if not stat.S_ISREG(file.stat().st_mode):
        return "not a file"  # a socket or pipe
    if file.suffix.lower() in RADIOGRAPH_SUFFIXES:
        return None
    with file.open("rb") as stream:
        stream.seek(_DICOM_MAGIC_OFFSET)
        is_dicom = stream.read(len(_DICOM_MAGIC)) == _DICOM_MAGIC
    return None if is_dicom else file.suffix.lower() or "no suffix"
