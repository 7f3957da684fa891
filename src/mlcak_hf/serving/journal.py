"""`RESULTS.journal`: what was predicted, one line a file, written and read here. It survives a kill and a full disk."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from ..errors import DeploymentError

_FORMAT = 1


class Entry(NamedTuple):
    """One predicted file.

    Args:
        key (`str`):
            Identity of the file, such as its path, size and time.
        row (`dict`):
            Its row in the results.
    """

    key: str
    row: dict[str, Any]


class Journal:
    """An append-only file of JSON lines. A line counts when it is complete, so a kill loses at most the batch in hand.

    The first line names the model: rows of two models must not be mixed. Only one process may hold a journal.

    Args:
        path (`Path`):
            The file. It is made with its folder.
        model (`dict[str, str]`):
            Name and digest of the model, as in [`FilePredictor.provenance`].

    Raises:
        [`DeploymentError`]: When another process holds the journal, it belongs to another model, or cannot be written.
    """

    def __init__(self, path: Path, model: dict[str, str]) -> None:
        self.path, self._keys = path, set[str]()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path.with_name(f".{path.name}.lock"))
            self._lock.acquire(timeout=0)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except Timeout:
            raise DeploymentError(
                f"Another process is writing to {path}. Stop it, or name another output (--output)."
            ) from None
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            self._open(model)
        except BaseException:
            self.close()
            raise

    def _open(self, model: dict[str, str]) -> None:
        self._end = self._complete_bytes()
        os.ftruncate(self._file, self._end)  # the rest of a line that a kill cut off
        known = {"format": _FORMAT, "weights": model.get("weights", "")}
        if not self._end:
            self._append(_line(known))
            return
        lines = self._lines()
        if next(lines, None) != known:
            raise DeploymentError(
                f"The journal {self.path} belongs to another model, or is damaged. Name another output (--output)."
            )
        self._keys.update(str(line["key"]) for line in lines)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows from the beginning, in the order in which they were added."""
        lines = self._lines()
        next(lines)
        return (line["row"] for line in lines)

    def add(self, entries: Sequence[Entry]) -> None:
        """Append entries, and return when they are on the disk.

        Raises:
            [`DeploymentError`]: When they cannot be written. Then none of them is in the journal.
        """
        self._append(b"".join(_line(entry._asdict()) for entry in entries))
        self._keys.update(entry.key for entry in entries)

    def close(self) -> None:
        """Close the file and let another process have it."""
        os.close(self._file)
        self._lock.release()

    def _append(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise unwritable(self.path, error) from error
        self._end += len(data)

    def _complete_bytes(self) -> int:
        """Length of the file up to its last complete line."""
        with self.path.open("rb") as stream:
            return sum(len(line) for line in stream if line.endswith(b"\n"))

    def _lines(self) -> Iterator[Any]:
        with self.path.open("rb") as stream:
            for line in stream:
                try:
                    yield json.loads(line)
                except ValueError:
                    raise DeploymentError(
                        f"The journal {self.path} is damaged. Name another output (--output); its files are then "
                        "predicted again."
                    ) from None


def _line(content: Any) -> bytes:
    # ASCII only: the name of a file need not be valid text.
    return json.dumps(content, allow_nan=False).encode("ascii") + b"\n"


def unwritable(path: Path, error: OSError) -> DeploymentError:
    """Say in one sentence why a file cannot be written, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DeploymentError(
            f"The disk of {path} is full. Free some space and run the same command again: no result is lost, and no "
            "file is predicted twice."
        )
    return DeploymentError(f"{path} cannot be written ({error.strerror}). Name another place.")
