"""Names of the files made from predictions, and checks that they can be written."""

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import MLCAKError
from ..radiographs.file_search import RADIOGRAPH_SUFFIXES


def check_outputs(
    radiographs: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    heatmaps_dir: str | os.PathLike[str] | None = None,
) -> None:
    """Refuse to write over a radiograph, or to where nothing can be written.

    Args:
        radiographs: The files that are read.
        output: File for the predictions.
        heatmaps_dir: Folder for the heatmaps.

    Raises:
        MLCAKError: If `output` is one of the radiographs, is called like one, or is a folder, `heatmaps_dir` holds one
            of them or is a file, or either cannot be made where it is to lie.
    """
    files = _identities(radiographs)
    if output is not None:
        if Path(output).suffix.lower() in RADIOGRAPH_SUFFIXES or files.keys() & _identities([output]).keys():
            raise MLCAKError(
                f"The output {output} is, or is called like, a radiograph: name another file, such as predictions.csv."
            )
        if Path(output).is_dir():
            raise MLCAKError(
                f"The output {output} is a folder: name a file, such as {Path(output) / 'predictions.csv'}."
            )
        _check_can_be_written(Path(output).parent, f"The output {output}")
    if heatmaps_dir is not None:
        if Path(heatmaps_dir).is_file():
            raise MLCAKError(f"Heatmaps cannot be written to {heatmaps_dir}, which is a file: name a folder.")
        there = _identities(Path(heatmaps_dir).iterdir() if Path(heatmaps_dir).is_dir() else ())
        inside = next((there[identity] for identity in there if identity in files), None)
        if inside is not None:
            raise MLCAKError(
                f"The heatmaps' folder {heatmaps_dir} holds the radiograph {inside.name}, which a heatmap could "
                "overwrite: name another folder."
            )
        _check_can_be_written(Path(heatmaps_dir), f"The heatmaps' folder {heatmaps_dir}")


def _check_can_be_written(folder: Path, what: str) -> None:
    """Look whether a folder is, or could be made, where files can be written."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)
    if not (there.is_dir() and os.access(there, os.W_OK)):
        problem = "cannot be written to" if there.is_dir() else "is a file"
        raise MLCAKError(f"{what} cannot be made, because {there} {problem}: name another place.")


def _identities(paths: Iterable[str | os.PathLike[str]]) -> dict[tuple[int, int], Path]:
    """The files that exist, by device and number: one file has many names where links or a blind case lead to it."""
    found = {}
    for path in map(Path, paths):
        try:
            status = path.stat()
        except OSError:
            continue  # What is not there cannot be overwritten; reading it says so.
        found[status.st_dev, status.st_ino] = path
    return found


class OutputNames:
    """Names for the files made from radiographs: the input's stem, told apart by a number where two inputs share it.

    Only the file name is used, never a DICOM tag, so that no name can carry what the header says of the patient. Names
    are compared without case, because some file systems do not tell `A.png` from `a.png`.

    Args:
        folder: Folder that the files are written to.
        suffix: Their suffix, with its dot.
    """

    def __init__(self, folder: str | os.PathLike[str], suffix: str) -> None:
        self.folder = Path(folder)
        self.suffix = suffix
        self._used: set[str] = set()

    def next(self, file: Path) -> Path:
        """Return the path for the file made from `file`: `stem.png`, then `stem-2.png`, `stem-3.png` and so on."""
        name = file.stem
        count = 1
        while name.casefold() in self._used:
            count += 1
            name = f"{file.stem}-{count}"
        self._used.add(name.casefold())
        return self.folder / f"{name}{self.suffix}"
