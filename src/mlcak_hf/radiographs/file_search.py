"""Find the radiographs in a folder."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DatasetError

DICOM_SUFFIXES = (".dicom", ".dcm", ".dic")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
RADIOGRAPH_SUFFIXES = DICOM_SUFFIXES + PICTURE_SUFFIXES


@dataclass
class FileSearch:
    """What a search found.

    Args:
        files (`list[Path]`):
            The radiographs, sorted by path.
        unreadable (`dict[Path, str]`):
            Why a file or folder could not be opened: dangling links and missing permissions.
        skipped (`Counter[str]`):
            Number of skipped files by kind: the suffix (`".bmp"`), `"DICOMDIR"` or `"no suffix"`. Hidden files are not
            counted.
    """

    files: list[Path] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def find_radiographs(path: str | Path, exclude: Iterable[str | Path] = ()) -> list[Path]:
    """List the radiographs at a path, see [`search_radiographs`].

    Args:
        path (`str` or `Path`):
            A file or folder.
        exclude (`Iterable`, *optional*):
            Folders to leave out.

    Returns:
        `list[Path]`: The files, sorted by path.

    Raises:
        [`DatasetError`]: When `path` does not exist, or no radiograph is found.
    """
    search = search_radiographs([path], exclude)
    if not search.files:
        raise _nothing_found([path])
    return search.files


def search_radiographs(paths: Iterable[str | Path], exclude: Iterable[str | Path] = ()) -> FileSearch:
    """Search folders and their subfolders for radiographs, and report what was left out.

    Links to folders are followed, each folder once. A file is taken for its suffix (`.dcm`, `.dic`, `.dicom`, `.png`,
    `.jpg`, `.jpeg`, in any case), or for the DICOM magic bytes with any other name. Hidden files and `DICOMDIR` indices
    are left out. A file in `paths` is always taken, so that a wrong one is reported when it is read.

    Args:
        paths (`Iterable`):
            Files and folders.
        exclude (`Iterable`, *optional*):
            Folders to leave out, such as one inside a path that heatmaps are written to.

    Returns:
        [`FileSearch`]: The files in the order of the paths, and what was skipped or could not be opened.

    Raises:
        [`DatasetError`]: When none of the paths exists, or there is nothing to read or report in them.
    """
    search, left_out = FileSearch(), {Path(folder).resolve() for folder in exclude}
    given = [Path(path) for path in paths]
    for path in given:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            search.unreadable[path] = f"The path cannot be opened ({error.strerror})."
            continue
        search.files += sorted(_search_folder(path, search, left_out)) if is_folder else [path]
    if not search.files and search.unreadable.keys() <= {*given}:
        raise _nothing_found(given)
    return search


def _nothing_found(paths: Sequence[str | Path]) -> DatasetError:
    missing = next((path for path in map(Path, paths) if not path.exists()), None)
    if missing is not None:
        return DatasetError(f"No file or folder at {missing}. Name a DICOM, PNG or JPEG file, or a folder of them.")
    folders, suffixes = ", ".join(map(str, paths)), ", ".join(sorted(RADIOGRAPH_SUFFIXES))
    return DatasetError(f"No radiographs in {folders}. Name a folder of {suffixes} files, or of other DICOM files.")


def _search_folder(path: Path, search: FileSearch, left_out: set[Path]) -> Iterator[Path]:
    def note_unreadable(error: OSError) -> None:
        search.unreadable[Path(error.filename)] = f"The folder cannot be opened ({error.strerror})."

    seen = left_out | {path.resolve()}
    for folder, subfolders, names in os.walk(path, onerror=note_unreadable, followlinks=True):
        # By its real place, because a link may lead back. Sorted, so that the same name is always the first.
        visible = {Path(folder, name).resolve(): name for name in sorted(subfolders, reverse=True) if name[0] != "."}
        subfolders[:] = sorted(name for place, name in visible.items() if place not in seen)
        seen |= visible.keys()
        for file in (Path(folder, name) for name in names if not name.startswith(".")):
            try:
                kind = _kind_to_skip(file)
            except OSError as error:
                reason = "The file cannot be opened" if file.exists() else "The link is broken"
                search.unreadable[file] = f"{reason} ({error.strerror})."
                continue
            if kind is None:
                yield file
            else:
                search.skipped[kind] += 1


def _kind_to_skip(file: Path) -> str | None:
    """Kind of a file that is not a radiograph; `None` for a radiograph."""
    if file.name.upper() == "DICOMDIR":
        return "DICOMDIR"
    if not stat.S_ISREG(file.stat().st_mode):
        return "not a file"  # a socket or pipe
    if file.suffix.lower() in RADIOGRAPH_SUFFIXES:
        return None
    with file.open("rb") as stream:
        is_dicom = stream.read(132)[128:] == b"DICM"
    return None if is_dicom else file.suffix.lower() or "no suffix"
