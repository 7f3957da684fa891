"""Received DICOM objects, kept on the disk until their predictions are."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from threading import Lock

from ..errors import DeploymentError
from ..prediction.journal import unwritable


class SpoolFullError(DeploymentError):
    """The spool holds as many objects as it may."""


class Spool:
    """A folder of files that wait to be predicted.

    Args:
        folder (`Path`):
            The folder. It is made if it is missing; files in it from an earlier run wait too.
        capacity (`int`, *optional*, defaults to 1000):
            How many files may wait.

    Raises:
        [`DeploymentError`]: When the folder cannot be made or read.
    """

    def __init__(self, folder: Path, capacity: int = 1000) -> None:
        self.folder, self.capacity, self._lock = folder, capacity, Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for partial in folder.glob(".*.partial"):  # cut off by a kill; its sender was not told that it is stored
                partial.unlink()
            self._waiting = dict.fromkeys(sorted(file.name for file in folder.glob("[!.]*")))
        except OSError as error:
            raise unwritable(folder, error) from error

    def __len__(self) -> int:
        return len(self._waiting)

    def store(self, name: str, data: bytes) -> None:
        """Write a file, and return when it is safe on the disk. The same file again changes nothing.

        Raises:
            [`SpoolFullError`]: When too many files wait.
            [`DeploymentError`]: When the file cannot be written.
        """
        with self._lock:
            if name not in self._waiting and len(self._waiting) >= self.capacity:
                raise SpoolFullError(f"{self.capacity} files wait already. Send again later.")
            partial, path = self.folder / f".{name}.partial", self.folder / name
            try:
                with partial.open("wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                partial.replace(path)
                self._sync_folder()
            except OSError as error:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise unwritable(self.folder, error) from error
            self._waiting[name] = None

    def first(self, count: int) -> list[Path]:
        """Return the files that have waited longest."""
        with self._lock:
            return [self.folder / name for name, _ in zip(self._waiting, range(count), strict=False)]

    def remove(self, file: Path) -> None:
        """Delete a file that is done."""
        with self._lock:
            file.unlink(missing_ok=True)
            self._waiting.pop(file.name, None)

    def _sync_folder(self) -> None:
        """Make a new name as safe as the file itself, where folders can be opened."""
        if os.name == "posix":
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
