"""What was predicted, one line a file, beside the table: written and read here. It survives a kill and a full disk."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from ..errors import DeploymentError
from .reading import Prediction
from .row_formats import json_row

_FORMAT = 2
_REMEDY = "Use the same model and options, name another output, or delete it to start again."


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

    The first line holds the choices of the run: rows of two models, or of other options, must not be mixed. Only one
    process may hold a journal.

    Args:
        path (`Path`):
            The file. It is made with its folder.
        choices (`Mapping[str, Any]`):
            What must be the same to resume, as in [`FilePredictor.choices`]. Anything JSON can hold.

    Raises:
        [`DeploymentError`]: When another process holds the journal, it belongs to a run with other choices, or it
            cannot be written.
    """

    def __init__(self, path: Path, choices: Mapping[str, Any]) -> None:
        self.path, self._keys = path, set[str]()
        self._lock_file = path.with_name(f".{path.name}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._lock_file)
            self._lock.acquire(timeout=0)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except Timeout:
            raise DeploymentError(
                f"Another process is writing to {path}. Stop it, or name another output (--output)."
            ) from None
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            self._open(json.loads(json.dumps(choices)))
        except BaseException:
            self.close()
            raise

    def _open(self, choices: dict[str, Any]) -> None:
        self._end = self._complete_bytes()
        os.ftruncate(self._file, self._end)  # the rest of a line that a kill cut off
        if not self._end:
            self._append(_line({"format": _FORMAT, "choices": choices}))
            return
        lines = self._lines()
        header = next(lines)
        if not isinstance(header, dict) or header.get("format") != _FORMAT or "choices" not in header:
            raise self._damaged()
        known = header["choices"]
        if changed := sorted(name for name in {*known, *choices} if known.get(name) != choices.get(name)):
            raise DeploymentError(f"{self.path} holds the rows of a run with another {', '.join(changed)}. {_REMEDY}")
        try:
            self._keys.update(str(line["key"]) for line in lines)
        except (KeyError, TypeError):
            raise self._damaged() from None

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows from the beginning, in the order in which they were added."""
        lines = self._lines()
        next(lines)
        return (line["row"] for line in lines)

    def add(self, entries: Sequence[Entry], safe: bool = True) -> None:
        """Append entries.

        Args:
            entries (`Sequence` of [`Entry`]):
                What to append.
            safe (`bool`, *optional*, defaults to `True`):
                Return when they are on the disk. Without it, they survive a kill, but not a power cut.

        Raises:
            [`DeploymentError`]: When they cannot be written. Then none of them is in the journal.
        """
        self._append(b"".join(_line(entry._asdict()) for entry in entries), safe)
        self._keys.update(entry.key for entry in entries)

    def close(self) -> None:
        """Close the file and let another process have it."""
        if self._file >= 0:
            os.close(self._file)
            self._lock.release()
        self._file = -1

    def delete(self) -> None:
        """Close the file and delete it, once the table is whole."""
        self.close()
        self.path.unlink()
        self._lock_file.unlink(missing_ok=True)

    def _append(self, data: bytes, safe: bool = True) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            if safe:
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
                    raise self._damaged() from None

    def _damaged(self) -> DeploymentError:
        return DeploymentError(f"{self.path} must hold the rows of earlier predictions, but cannot be read. {_REMEDY}")


class UnfinishedRun:
    """The journal `OUTPUT.unfinished` of `mlcak predict`, until the table is written.

    A killed process loses at most the batch in hand. Opening the file again gives what is done.

    Args:
        output (`Path`):
            The table that is written in the end.
        choices (`Mapping[str, Any]`):
            As in [`Journal`].
        provenance (`Mapping[str, str]`, *optional*):
            Further entries of each row.

    Raises:
        [`DeploymentError`]: As from [`Journal`].
    """

    def __init__(self, output: Path, choices: Mapping[str, Any], provenance: Mapping[str, str] | None = None) -> None:
        self._journal = Journal(output.with_name(f"{output.name}.unfinished"), choices)
        self.file, self._provenance = self._journal.path, provenance or {}
        #: When it was opened: files that are done, heatmaps drawn of them, and how many were predicted and so on.
        self.done: set[str] = set()
        self.heatmaps: list[Path] = []
        self.outcomes: Counter[str] = Counter()
        for row in self.rows():
            self.done.add(row["file"])
            self.heatmaps += [] if row["heatmap"] is None else [Path(row["heatmap"])]
            self.outcomes["unreadable" if row["error"] else "refused" if row["refused_because"] else "predicted"] += 1

    def __enter__(self) -> UnfinishedRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def add(self, prediction: Prediction) -> None:
        """Write the row of one radiograph."""
        row = json_row(prediction, self._provenance)
        self._journal.add([Entry(row["file"], row)], safe=False)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read all rows, one at a time."""
        return self._journal.rows()

    def delete(self) -> None:
        """Delete the file, once the output is whole."""
        self._journal.delete()


def _line(content: Any) -> bytes:
    # ASCII only: the name of a file need not be valid text.
    return json.dumps(content).encode("ascii") + b"\n"


def unwritable(path: Path, error: OSError) -> DeploymentError:
    """Say in one sentence why a file cannot be written, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DeploymentError(
            f"The disk of {path} is full. Free some space and run the same command again: no result is lost, and no "
            "file is predicted twice."
        )
    return DeploymentError(f"{path} cannot be written ({error.strerror}). Name another place.")
