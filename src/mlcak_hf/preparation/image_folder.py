"""A folder of radiographs, matched with the images that a table names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..errors import DatasetError, MLCAKError
from ..radiographs.file_search import RADIOGRAPH_SUFFIXES, search_radiographs
from .source import SKIP, SkippedImage
from .tables import bare_id, id_key

FolderT = TypeVar("FolderT", bound="ImageFolder")


class _Problem(NamedTuple):
    headline: str
    remedy: str
    detail: str
    error: type[MLCAKError]


@dataclass
class ImageFolder:
    """Files of one folder, by image id as the file (otherwise the first table) spells it.

    Args:
        name (`str`):
            Name of the folder, such as train.
        files (`dict[str, Path]`):
            The radiographs.
        problems (`dict`):
            The first problem of each image that cannot be used.
        table_notes (`Counter[str]`):
            What was corrected without losing anything, with its number.
    """

    name: str
    files: dict[str, Path] = field(default_factory=dict)
    problems: dict[str, _Problem] = field(default_factory=dict)
    table_notes: Counter[str] = field(default_factory=Counter)
    _spelling: dict[str, str] = field(default_factory=dict)

    @classmethod
    def scan(cls: type[FolderT], path: Path, name: str | None = None, deep: bool = False) -> FolderT:
        """List the radiographs of a folder.

        Args:
            path (`Path`):
                The folder.
            name (`str`, *optional*):
                Name for reports; by default its own.
            deep (`bool`, *optional*, defaults to `False`):
                List its sub-folders as well, and DICOM files of any name.

        Returns:
            `ImageFolder`: The folder with its files.

        Raises:
            [`DatasetError`]: When it cannot be read or holds no radiograph.
        """
        folder = cls(name or path.name)
        files_of: dict[str, list[str]] = {}
        for file in radiograph_files(path, deep):
            image_id = folder.identify(file.name)
            files_of.setdefault(image_id, []).append(file.name)
            if file.is_file():
                folder.files.setdefault(image_id, file)
            else:
                found = "a folder" if file.is_dir() else "a broken link"
                folder.refuse(image_id, f"of {folder.name}/ with {found} in place of the file", "Put the file there")
        for image_id, names in files_of.items():
            if len(names) > 1:
                headline, detail = f"with more than one file in {folder.name}/", ", ".join(sorted(set(names)))
                folder.refuse(image_id, headline, "Keep one, or rename them", detail)
        if not files_of:
            entries = [entry.name + "/" * entry.is_dir() for entry in sorted(path.iterdir())]
            problem = f"must hold radiographs ({', '.join(RADIOGRAPH_SUFFIXES)}); got {listed(entries)}"
            raise DatasetError(f"{folder.name}/ {problem}. Put the image files directly into it, or download them.")
        return folder

    def identify(self, written: str) -> str:
        """Return the one spelling of an image id: that of its file, otherwise the first one met."""
        return self._spelling.setdefault(id_key(written), bare_id(written))

    def refuse(
        self, image_id: str, headline: str, remedy: str, detail: str = "", error: type[MLCAKError] = DatasetError
    ) -> None:
        """Record the first problem of an image."""
        self.problems.setdefault(image_id, _Problem(headline, remedy, detail, error))

    def repeated(self, table: str) -> None:
        """Count a row that repeats another one."""
        self.table_notes[f"row(s) of {table} repeat another row and were used once"] += 1

    def match(self, table: str, named: Iterable[str]) -> None:
        """Refuse images of the table without a file, and files without a row."""
        names = set(named)
        for image_id in names - self.files.keys():
            self.refuse(image_id, f"named in {table}, but without a file in {self.name}/", "Download them again")
        for image_id in self.files.keys() - names - self.problems.keys():
            self.refuse(image_id, f"in {self.name}/, but not named in {table}", "Add their rows or remove the files")

    def raise_problems(self) -> None:
        """Raise one error for all images with the first kind of problem, if there is a problem."""
        if not self.problems:
            return
        first = min(self.problems.items())[1]
        same = sorted(image_id for image_id, p in self.problems.items() if p.headline == first.headline)
        named = [f"{i} ({self.problems[i].detail.rstrip('.')})" if self.problems[i].detail else i for i in same]
        problem = f"{len(same)} image(s) {first.headline}: {listed(named, 5)}"
        raise first.error(f"{problem}. {first.remedy}, or leave them out: {SKIP}.")

    def skipped(self) -> list[SkippedImage]:
        """Return the images with a problem, by id."""
        return [
            SkippedImage(image_id, f"{p.headline}{': ' if p.detail else ''}{p.detail}", self.name)
            for image_id, p in sorted(self.problems.items())
        ]


def radiograph_files(folder: Path, deep: bool = False) -> list[Path]:
    """List the files of a folder that are named as radiographs, sorted, without hidden files.

    Args:
        folder (`Path`):
            The folder.
        deep (`bool`, *optional*, defaults to `False`):
            List its sub-folders as well, and DICOM files of any name.

    Returns:
        `list[Path]`: The files.

    Raises:
        [`DatasetError`]: When the folder cannot be read, or with `deep` holds no radiograph.
    """
    if deep:
        search = search_radiographs([folder])
        for path, reason in search.unreadable.items():
            if path.is_dir():
                raise DatasetError(f"{path.name}/: {reason} Allow it, or move the folder away.")
        return sorted([*search.files, *search.unreadable])
    try:
        files = list(folder.iterdir())
    except OSError as error:
        raise DatasetError(
            f"{folder.name}/ cannot be read ({error.strerror}). Name a folder that you may list."
        ) from None
    return sorted(file for file in files if file.name.lower().endswith(RADIOGRAPH_SUFFIXES) and file.name[0] != ".")


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return the first names, and how many more there are."""
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
