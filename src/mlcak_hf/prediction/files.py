"""Which files of a folder are radiographs, and how the files made from them are called."""

import os
from collections.abc import Iterable
from pathlib import Path

from mlcak_hf.errors import DatasetError, MLCAKError

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
