"""One thread that predicts, and a limited number of requests that wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore

from ..prediction.file_predictor import FilePredictor, predict_each
from ..prediction.reading import Prediction


class PredictQueue:
    """Lets several doors share one model, which predicts in a thread of its own.

    Args:
        predictor ([`FilePredictor`]):
            The model.
        places (`int`, *optional*, defaults to 32):
            How many requests may wait or be predicted at once.
    """

    def __init__(self, predictor: FilePredictor, places: int = 32) -> None:
        self.predictor, self.places = predictor, places
        self._free = BoundedSemaphore(places)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")

    def reserve(self) -> bool:
        """Take a place if one is free. Give it back with [`release`][PredictQueue.release]."""
        return self._free.acquire(blocking=False)

    def release(self) -> None:
        """Give a place back."""
        self._free.release()

    def submit(self, files: Sequence[Path], heatmaps_dir: Path | None = None) -> Future[list[Prediction]]:
        """Predict files in the thread, after what was submitted before.

        Args:
            files (`Sequence` of `Path`):
                The files, as for [`FilePredictor.stream`].
            heatmaps_dir (`Path`, *optional*):
                Folder for their heatmaps.
        """
        return self._thread.submit(predict_each, self.predictor, list(files), heatmaps_dir)

    def close(self) -> None:
        """Finish the work in hand and drop the rest."""
        self._thread.shutdown(cancel_futures=True)
