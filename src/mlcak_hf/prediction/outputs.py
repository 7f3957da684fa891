"""Names of the files made from predictions, and checks that they can be written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path

from ..errors import MLCAKError
from ..radiographs.file_search import RADIOGRAPH_SUFFIXES


def check_outputs(
    radiographs: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    heatmaps_dir: str | os.PathLike[str] | None = None,
) -> None:
    """Check that the outputs can be written and that none overwrites a radiograph.

    Args:
        radiographs (`Iterable`):
            The files that are read.
        output (`str` or `os.PathLike`, *optional*):
            File for the predictions.
        heatmaps_dir (`str` or `os.PathLike`, *optional*):
            Folder for the heatmaps.

    Raises:
        [`MLCAKError`]: When `output` is a radiograph, has the suffix of one, or is a folder, `heatmaps_dir` holds a
            radiograph or is a file, or either cannot be written.
    """
    files = _identities(radiographs)
    if output is not None:
        output = Path(output)
        if output.suffix.lower() in RADIOGRAPH_SUFFIXES or files.keys() & _identities([output]).keys():
            raise MLCAKError(f"The output {output} is, or is named like, a radiograph. Name a .csv file, for example.")
        if output.is_dir():
            raise MLCAKError(f"The output {output} is a folder. Name a file, such as {output / 'predictions.csv'}.")
        _check_can_be_written(output.parent, f"The output {output}")
    if heatmaps_dir is not None:
        folder = Path(heatmaps_dir)
        if folder.is_file():
            raise MLCAKError(f"The heatmap folder {folder} is a file. Name a folder.")
        there = _identities(folder.iterdir() if folder.is_dir() else ())
        if inside := there.keys() & files.keys():
            name = there[inside.pop()].name
            raise MLCAKError(f"The heatmap folder {folder} holds the radiograph {name}. Name another folder.")
        _check_can_be_written(folder, f"The heatmap folder {folder}")


def _check_can_be_written(folder: Path, what: str) -> None:
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)
    if not (there.is_dir() and os.access(there, os.W_OK)):
        problem = "is read-only" if there.is_dir() else "is a file"
        raise MLCAKError(f"{what} cannot be written, because {there} {problem}. Name another place.")


def _identities(paths: Iterable[str | os.PathLike[str]]) -> dict[tuple[int, int], Path]:
    """The existing files by device and inode: links, or a file system that ignores case, give one file many names."""
    found = {}
    for path in map(Path, paths):
        try:
            status = path.stat()
        except OSError:
            continue  # A missing file cannot be overwritten; reading it reports the error.
        found[status.st_dev, status.st_ino] = path
    return found


class HeatmapNames:
    """Unique names for the heatmaps of radiographs: the stem of the input, with a number where two share it.

    Only the file name is used, never a DICOM tag, so that no name can carry patient data from the header. Names are
    compared without case, because some file systems do not distinguish `A.png` from `a.png`.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of the heatmaps.
        used (`Iterable` of `Path`, *optional*):
            Heatmaps of an earlier part of the run, with names that are not given again.
    """

    def __init__(self, folder: str | os.PathLike[str], used: Iterable[Path] = ()) -> None:
        self.folder = Path(folder)
        self._used = {path.stem.casefold() for path in used}

    def next(self, file: Path) -> Path:
        """Return the path for the heatmap of a file: `stem.png`, then `stem-2.png`, `stem-3.png`, ..."""
        numbered = chain([file.stem], (f"{file.stem}-{number}" for number in count(2)))
        name = next(name for name in numbered if name.casefold() not in self._used)
        self._used.add(name.casefold())
        return self.folder / f"{name}.png"
