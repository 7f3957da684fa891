"""Canvases: stored radiographs decoded once, from which every epoch and every run makes its views."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
from datasets import Dataset
from transformers.utils import logging

from ..errors import DatasetError
from ..image_processing_mlcak import MLCAKImageProcessor, area_resize, fit_to_square, to_unit_range

logger = logging.get_logger(__name__)

#: Side to which larger images are reduced before a view is made of them; stored datasets keep it.
CANVAS_PX = 256
_FORMAT = 1
_PIXELS, _INDEX, _ABOUT = "pixels.bin", "index.npy", "about.json"
_UNFINISHED = "-unfinished-"
_ABANDONED_AFTER_S = 24 * 3600


def make_canvas(image: Any, processor: MLCAKImageProcessor, canvas_px: int = CANVAS_PX) -> np.ndarray:
    """Turn an image into the square that views are made of.

    Args:
        image: PIL image or array, as `to_unit_range` takes it.
        processor: says what a square is (`fit`) and which values are black and white (`value_range`).
        canvas_px: a larger image is reduced by area to this side.

    Returns:
        float32 of shape `(S, S)` in [0, 1], with S at most `canvas_px`.

    Raises:
        ValueError: if the image's values have no defined range.
    """
    canvas = fit_to_square(to_unit_range(image, processor.value_range), processor.fit)
    side = min(max(canvas.shape), canvas_px)
    return canvas if canvas.shape == (side, side) else area_resize(canvas, side, side)


class Canvases:
    """Canvases in a file, in the order of their dataset. Made by [`decode_once`].

    They are read from the file, not mapped into memory: the memory of the process stays flat, the operating system
    keeps what it has room for, and worker processes and runs share that.

    Args:
        folder: where `decode_once` wrote them.

    Attributes:
        exact: whether every image was stored as a grey square of 8 or 16 bits no larger than the canvas, so that
            nothing was reduced or rounded and a model's evaluation may read them too.

    Example:

    ```python
    >>> canvases = decode_once(dataset, MLCAKImageProcessor())  # doctest: +SKIP
    >>> canvases[0].shape, canvases[0].dtype  # doctest: +SKIP
    ((256, 256), dtype('uint8'))
    ```
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.exact = bool(json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))["exact"])
        # Per canvas: offset in the file, side, bytes per pixel.
        self._index = np.load(self.folder / _INDEX)

    def __len__(self) -> int:
        """Return the number of canvases."""
        return len(self._index)

    def __getitem__(self, position: int) -> np.ndarray:
        """Read the canvas of a row: uint8 or uint16 of shape `(S, S)`, 0 black and the largest value white.

        Raises:
            DatasetError: if the file is gone or has been cut short.
        """
        offset, side, width = self._index[position].tolist()
        # Opened for every read (10 microseconds): nothing is shared between processes, and nothing is to be closed.
        try:
            with (self.folder / _PIXELS).open("rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(side * side * width)
        except OSError as error:
            raise DatasetError(f"The decoded images are gone ({error}). Start again: they are made anew.") from error
        if len(data) < side * side * width:
            raise DatasetError(f"{self.folder / _PIXELS} has been cut short. Delete {self.folder}: it is made anew.")
        return np.frombuffer(data, dtype=np.uint8 if width == 1 else np.uint16).reshape(side, side)


def decode_once(
    rows: Dataset,
    processor: MLCAKImageProcessor,
    image_column: str = "image",
    canvas_px: int = CANVAS_PX,
    folder: str | Path | None = None,
) -> Canvases:
    """Decode the images of a dataset into a file, or open the file that an earlier run wrote.

    The file's name is a hash of the rows' fingerprint and of the arguments; another dataset, split or way of making
    squares is another file. It appears only when it is whole. Nothing deletes it: the folder is a cache like the
    others of `datasets` beside it, and can be deleted whenever no training runs. What a killed process left unfinished
    is removed by the next run with the same images: at once on the same machine, after a day without a write if it
    may be another machine's, which shares the folder and may still be at work.

    Args:
        rows: an opened split.
        processor: the student's or the teacher's image processor; they make the same squares.
        image_column: column of images.
        canvas_px: larger images are reduced to this side.
        folder: where such files lie; None means `mlcak-canvases` in the cache of `datasets` (`HF_DATASETS_CACHE`).
            256 x 256 images of 8 bits take 64 KiB each: 1 GB for 15,000.

    Returns:
        The canvases, in the order of the rows.

    Raises:
        DatasetError: if an image is missing or cannot be used, naming its row, or if the file cannot be written.
    """
    parent = Path(datasets.config.HF_DATASETS_CACHE) / "mlcak-canvases" if folder is None else Path(folder)
    limits = None if processor.value_range is None else [float(value) for value in processor.value_range]
    made_from = [_FORMAT, rows._fingerprint, image_column, canvas_px, processor.fit, limits]
    target = parent / hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:24]
    _forget_killed(target)
    if not target.is_dir():
        unfinished = target.with_name(f"{target.name}{_UNFINISHED}{_machine()}-{os.getpid()}")
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            _write(unfinished, rows.select_columns([image_column]), processor, image_column, canvas_px)
            _publish(unfinished, target)
        except OSError as error:
            raise DatasetError(
                f"The decoded images cannot be written to {parent}: {error}. Free some space, set HF_DATASETS_CACHE "
                "to a folder that has it, or decode them in every epoch (decode_once=false)."
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return Canvases(target)


def _write(folder: Path, rows: Dataset, processor: MLCAKImageProcessor, image_column: str, canvas_px: int) -> None:
    index, exact = np.zeros((len(rows), 3), dtype=np.int64), True
    with (folder / _PIXELS).open("wb") as file:
        for position in logging.tqdm(range(len(rows)), desc="Decoding images once", unit="image"):
            image = _image(rows, position, image_column)
            try:
                canvas = make_canvas(image, processor, canvas_px)
            except ValueError as error:
                raise DatasetError(f"The image of row {position} cannot be used: {error}") from error
            offset = file.tell()
            width, same = _append(file, canvas)
            index[position] = offset, len(canvas), width
            kept = max(image.size) <= canvas_px and (processor.fit == "pad" or image.width == image.height)
            exact = exact and same and kept
    np.save(folder / _INDEX, index)
    (folder / _ABOUT).write_text(json.dumps({"format": _FORMAT, "exact": exact}), encoding="utf-8")


def _forget_killed(target: Path) -> None:
    """Remove the unfinished folders for the same images whose processes are gone; others may be at work on theirs."""
    for folder in target.parent.glob(f"{target.name}{_UNFINISHED}*"):
        machine, _, pid = folder.name.partition(_UNFINISHED)[2].rpartition("-")
        killed = machine == _machine() and _is_gone(int(pid))
        if killed or time.time() - _last_write(folder) > _ABANDONED_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)


def _is_gone(pid: int) -> bool:
    if os.name != "posix":  # elsewhere, asking with a signal would end it
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False


def _machine() -> str:
    """Name within which process numbers are unique: of the machine, or of a container on it. Hashed, as it may be told.

    A container has numbers of its own and can have the machine's name.
    """
    numbers = Path("/proc/self/ns/pid")
    named = [platform.node(), str(numbers.readlink()) if numbers.is_symlink() else ""]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:8]


def _last_write(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:  # its process renamed or removed it just now
        return time.time()


def _publish(unfinished: Path, target: Path) -> None:
    try:
        unfinished.rename(target)
    except OSError:
        # Another process made the same file in the meantime.
        if not target.is_dir():
            raise


def _image(rows: Dataset, position: int, image_column: str) -> Any:
    try:
        image = rows[position][image_column]  # a PIL image
    except Exception as error:
        raise DatasetError(f"The image of row {position} cannot be decoded: {error}") from error
    if image is None:
        raise DatasetError(f"Row {position} has no image in column {image_column!r}.")
    return image


def _append(file: BinaryIO, canvas: np.ndarray) -> tuple[int, bool]:
    """Write a canvas in as few bytes as it needs: (bytes per pixel, whether what is read will be bit for bit it)."""
    for dtype in (np.uint8, np.uint16):
        white = np.float32(np.iinfo(dtype).max)
        stored = np.rint(canvas * white).astype(dtype)
        same = np.array_equal(stored.astype(np.float32) / white, canvas)
        if same:
            break
    file.write(stored.tobytes())
    return stored.itemsize, same
