"""Rows of a run that is not finished, beside its output, so that the same command resumes: written and read here."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import MLCAKError
from .reading import Prediction
from .row_formats import json_row, row_to_json

_SUFFIX = ".unfinished"
_FORMAT = 1


class UnfinishedRun:
    """The file `OUTPUT.unfinished`: a line with the choices of the run, then one JSON object per radiograph.

    Every row is on its way to the disk before the next radiograph is predicted, so a killed process loses at most the
    batch in hand. Opening the file again gives what is done.

    Args:
        output (`Path`):
            The table that is written in the end.
        choices (`Mapping[str, Any]`):
            What must be the same to resume: the model and the options that change a row. Anything JSON can hold.
        provenance (`Mapping[str, str]`, *optional*):
            Further entries of each row.

    Raises:
        [`MLCAKError`]: When the file belongs to a run with other choices, is not such a file, is being written by
            another process, or cannot be written.
    """

    def __init__(self, output: Path, choices: Mapping[str, Any], provenance: Mapping[str, str] | None = None) -> None:
        self.file = output.with_name(f"{output.name}{_SUFFIX}")
        #: When it was opened: files that are done, heatmaps drawn of them, and how many were predicted and so on.
        self.done: set[str] = set()
        self.heatmaps: list[Path] = []
        self.outcomes: Counter[str] = Counter()
        self._provenance = provenance or {}
        header = {"mlcak_predictions": _FORMAT, "choices": json.loads(json.dumps(choices))}
        with self._explained():
            output.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.file.open("a+b")
            _lock(self._stream, self.file)
            self._cut_torn_row()
            if self._stream.tell() == 0:
                self._append(json.dumps(header, ensure_ascii=False))
            else:
                self._resume(header)

    def __enter__(self) -> UnfinishedRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def add(self, prediction: Prediction) -> None:
        """Write the row of one radiograph."""
        with self._explained():
            self._append(row_to_json(json_row(prediction, self._provenance)))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read all rows, one at a time."""
        with self.file.open("rb") as stream:
            next(stream)
            for line in stream:
                yield json.loads(line)

    def delete(self) -> None:
        """Delete the file, once the output is whole."""
        self._stream.close()
        self.file.unlink()

    def _append(self, line: str) -> None:
        # backslashreplace: the name of a file need not be valid text. What it writes is an escape of JSON too.
        self._stream.write(f"{line}\n".encode(errors="backslashreplace"))
        self._stream.flush()

    def _cut_torn_row(self) -> None:
        """Drop a last line without an end: the process was killed while it wrote."""
        self._stream.seek(0)
        whole = sum(len(line) for line in self._stream if line.endswith(b"\n"))
        self._stream.truncate(whole)
        self._stream.seek(0, 2)

    def _resume(self, header: Mapping[str, Any]) -> None:
        self._stream.seek(0)
        try:
            found = json.loads(self._stream.readline())
            if found["mlcak_predictions"] != _FORMAT:
                raise ValueError("it has another format")
            changed = {name for name, value in header["choices"].items() if found["choices"].get(name) != value}
            rows = None if changed else map(json.loads, self._stream)
            for row in rows or ():
                self.done.add(row["file"])
                self.heatmaps += [] if row["heatmap"] is None else [Path(row["heatmap"])]
                outcome = "unreadable" if row["error"] else "refused" if row["refused_because"] else "predicted"
                self.outcomes[outcome] += 1
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MLCAKError(
                f"{self.file} must hold the rows of an unfinished run, but cannot be read ({error}). Delete it to "
                "start again."
            ) from error
        if changed:
            raise MLCAKError(
                f"{self.file} holds the rows of an unfinished run with another {', '.join(sorted(changed))}. Use the "
                "same model and options to resume it, or delete it to start again."
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MLCAKError(
                f"{self.file} cannot be written ({error.strerror}). Make room, then run the same command again: it "
                "resumes."
            ) from error


def _lock(stream: Any, file: Path) -> None:
    """Keep other processes away from the file for as long as it is open, where the system can."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise MLCAKError(f"Another process is writing {file}. Wait for it, or name another output.") from None
