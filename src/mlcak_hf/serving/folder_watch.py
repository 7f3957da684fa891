"""A folder in which radiographs arrive: each is predicted once, when it is complete."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from threading import Event

from ..errors import DatasetError, DeploymentError
from ..prediction.file_predictor import FilePredictor, predict_each
from ..prediction.reading import Prediction
from ..radiographs.file_search import search_radiographs
from .results import FLUSH_S, Results

#: Names that programs give to files that they have not finished writing.
UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload", ".filepart")
_BATCHES_AT_ONCE = 8


class FolderWatch:
    """Predicts the files that arrive in a folder and its subfolders, and adds them to the results.

    A file is predicted when its size and time have not changed for `settle_s`, and again if they change later. Hidden
    files, and files named as unfinished (`.part`, `.tmp` and the like), are left alone.

    Args:
        folder (`Path`):
            The folder.
        predictor ([`FilePredictor`]):
            The model.
        results ([`Results`]):
            Where predictions go. What is in there already is not predicted again.
        settle_s (`float`, *optional*, defaults to 2.0):
            How long a file must not change before it counts as complete, in seconds.
        batch_size (`int`, *optional*, defaults to 16):
            Files per forward pass, and the most that a kill makes to be predicted again.
        exclude (`Iterable` of `Path`, *optional*):
            Subfolders to leave alone.
        further (`Callable`, *optional*):
            Called with each prediction; returns the further columns of its row.

    Raises:
        [`DeploymentError`]: When there is no such folder.
    """

    def __init__(
        self,
        folder: Path,
        predictor: FilePredictor,
        results: Results,
        settle_s: float = 2.0,
        batch_size: int = 16,
        exclude: Iterable[Path] = (),
        further: Callable[[Prediction], Mapping[str, str | None]] = lambda _: {},
    ) -> None:
        if not folder.is_dir():
            raise DeploymentError(f"The folder to watch must exist; got {folder}. Make it first, or correct the path.")
        self.folder, self.exclude = folder, tuple(exclude)
        self._predictor, self._results, self._further = predictor, results, further
        self._settle_s, self._batch_size = settle_s, batch_size
        self._first_seen: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """Number of files that were seen and are not predicted yet."""
        return len(self._first_seen)

    def predict_new(self, stop: Event) -> list[Prediction]:
        """Look once, and predict some of the files that are complete.

        Args:
            stop (`Event`):
                Ends the work after the batch in hand.

        Returns:
            `list` of [`Prediction`]: What was added to the results; at most 8 batches.

        Raises:
            [`DeploymentError`]: When the results cannot be written. What was not written is predicted again next time.
        """
        now = time.monotonic()
        found = {self._key(file): file for file in self._radiographs()}
        new = {key: file for key, file in found.items() if key not in self._results}
        self._first_seen = {key: self._first_seen.get(key, now) for key in new}
        complete = ((key, file) for key, file in new.items() if now - self._first_seen[key] >= self._settle_s)
        done: list[Prediction] = []
        for _ in range(_BATCHES_AT_ONCE):
            batch = dict(islice(complete, self._batch_size))
            if not batch or stop.is_set():
                break
            done += self._predict(batch)
        return done

    def _predict(self, batch: dict[str, Path]) -> list[Prediction]:
        predictions = predict_each(self._predictor, list(batch.values()))
        # A file that changed while it was read waits until it is complete.
        unchanged = [
            (key, prediction)
            for key, prediction in zip(batch, predictions, strict=True)
            if self._key(prediction.file) == key
        ]
        self._results.add((key, prediction, self._further(prediction)) for key, prediction in unchanged)
        for key, _ in unchanged:
            del self._first_seen[key]
        return [prediction for _, prediction in unchanged]

    def _radiographs(self) -> list[Path]:
        try:
            search = search_radiographs([self.folder], self.exclude)
        except DatasetError:  # none yet, or the network drive is away
            return []
        found = [*search.files, *(path for path in search.unreadable if not path.is_dir())]
        return [file for file in found if file.suffix.lower() not in UNFINISHED_SUFFIXES]

    def _key(self, file: Path) -> str:
        try:
            status = file.stat()
        except OSError:  # deleted, or a broken link
            return f"{file.relative_to(self.folder)}|missing"
        return f"{file.relative_to(self.folder)}|{status.st_size}|{status.st_mtime_ns}"


def watch_folder(
    watch: FolderWatch,
    results: Results,
    stop: Event,
    every_s: float = 2.0,
    once: bool = False,
    report: Callable[[Counter[str], int], None] = lambda _counts, _waiting: None,
) -> Counter[str]:
    """Predict files as they arrive until `stop` is set.

    Args:
        watch ([`FolderWatch`]):
            The folder.
        results ([`Results`]):
            Its results.
        stop (`Event`):
            Ends the work after the batch in hand.
        every_s (`float`, *optional*, defaults to 2.0):
            How long to wait between two looks at the folder, in seconds. In a folder so large that a look takes long,
            four times that.
        once (`bool`, *optional*, defaults to `False`):
            Stop when no file is left.
        report (`Callable`, *optional*):
            Called with the outcomes of the files that were just predicted, and the number that is waiting.

    Returns:
        `Counter[str]`: Number of files by outcome.

    Raises:
        [`DeploymentError`]: When the results cannot be written.
    """
    counts: Counter[str] = Counter()
    while not stop.is_set():
        began = time.monotonic()
        outcomes = Counter(prediction.outcome for prediction in watch.predict_new(stop))
        counts += outcomes
        if outcomes:
            report(outcomes, watch.waiting)
        results.flush(FLUSH_S)
        if once and not watch.waiting:
            break
        if not outcomes:
            stop.wait(max(every_s, 4 * (time.monotonic() - began)))
    return counts
