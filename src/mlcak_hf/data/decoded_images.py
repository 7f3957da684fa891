"""DecodedImages: stored radiographs decoded once, from which every epoch and every run makes its views."""

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

#: Larger images are reduced to this side before a view is made of them. Prepared datasets store this size.
MAX_DECODED_PX = 256
_FORMAT = 1
_PIXELS, _INDEX, _ABOUT = "pixels.bin", "index.npy", "about.json"
_UNFINISHED = "-unfinished-"
_ABANDONED_AFTER_S = 24 * 3600


def to_square(image: Any, processor: MLCAKImageProcessor, max_px: int = MAX_DECODED_PX) -> np.ndarray:
    """
    Turn an image into the square that views are made of.

    Args:
        image (`PIL.Image.Image` or `np.ndarray`):
            Any image that [`to_unit_range`] accepts.
        processor ([`MLCAKImageProcessor`]):
            Its `fit` and `value_range` are used.
        max_px (`int`, *optional*, defaults to 256):
            Larger images are area-reduced to this side, in pixels.

    Returns:
        `np.ndarray` of shape `(S, S)`: float32 in [0, 1], with `S <= max_px`.

    Raises:
        ValueError: If the range of the image's values is not defined.
    """
    square = fit_to_square(to_unit_range(image, processor.value_range), processor.fit)
    side = min(max(square.shape), max_px)
    return square if square.shape == (side, side) else area_resize(square, side, side)


class DecodedImages:
    """
    The decoded images of a dataset, in the order of its rows. Made by [`decode_once`].

    Every image is read from the file when it is asked for. The file is not memory-mapped, so the memory of the process
    stays flat, and the operating system's page cache is shared by worker processes and runs.

    Args:
        folder (`str` or `Path`):
            Folder that `decode_once` wrote.

    Attributes:
        exact (`bool`):
            Whether every image was a grey square of 8 or 16 bits, no larger than `max_px`: then nothing was reduced or
            rounded, and evaluation may use the decoded images too.

    Example:

    ```python
    >>> images = decode_once(dataset, MLCAKImageProcessor())  # doctest: +SKIP
    >>> images[0].shape, images[0].dtype  # doctest: +SKIP
    ((256, 256), dtype('uint8'))
    ```
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.exact = bool(json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))["exact"])
        # Per image: offset in the file, side, bytes per pixel.
        self._index = np.load(self.folder / _INDEX)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._index)

    def __getitem__(self, position: int) -> np.ndarray:
        """
        Read the image of a row.

        Returns:
            `np.ndarray` of shape `(S, S)`: uint8 or uint16, from 0 (black) to the largest value (white).

        Raises:
            [`DatasetError`]: If the file is missing or truncated.
        """
        offset, side, width = self._index[position].tolist()
        # Opened for every read (10 microseconds), so that processes share no file handle and none has to be closed.
        try:
            with (self.folder / _PIXELS).open("rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(side * side * width)
        except OSError as error:
            raise DatasetError(
                f"The decoded images cannot be read: {error}. Start again; they will be decoded again."
            ) from error
        if len(data) < side * side * width:
            raise DatasetError(
                f"{self.folder / _PIXELS} is truncated. Delete {self.folder}; the images will be decoded again."
            )
        return np.frombuffer(data, dtype=np.uint8 if width == 1 else np.uint16).reshape(side, side)


def decode_once(
    rows: Dataset,
    processor: MLCAKImageProcessor,
    image_column: str = "image",
    max_px: int = MAX_DECODED_PX,
    folder: str | Path | None = None,
) -> DecodedImages:
    """
    Decode the images of a dataset into a file, or open the file that an earlier run wrote.

    The folder's name is a hash of the rows' fingerprint and of the arguments, so another dataset, split or `fit` has
    its own folder. It is written atomically and never deleted: like the other caches of `datasets`, it may be deleted
    whenever no training runs. What a killed process left behind is removed by the next run on the same images: at once
    on the same machine, or after a day without a write if another machine may still be writing it.

    Args:
        rows (`Dataset`):
            An opened split.
        processor ([`MLCAKImageProcessor`]):
            The image processor of the student or of the teacher; both make the same squares.
        image_column (`str`, *optional*, defaults to `"image"`):
            Column of images.
        max_px (`int`, *optional*, defaults to 256):
            Larger images are reduced to this side, in pixels.
        folder (`str` or `Path`, *optional*):
            Parent folder. Defaults to `mlcak-decoded-images` in the cache of `datasets` (`HF_DATASETS_CACHE`). An 8-bit
            image of 256 x 256 pixels takes 64 KiB, 15,000 of them 1 GB.

    Returns:
        [`DecodedImages`]: In the order of the rows.

    Raises:
        [`DatasetError`]: If an image is missing or cannot be used (its row is named), or the file cannot be written.
    """
    parent = Path(datasets.config.HF_DATASETS_CACHE) / "mlcak-decoded-images" if folder is None else Path(folder)
    limits = None if processor.value_range is None else [float(value) for value in processor.value_range]
    made_from = [_FORMAT, rows._fingerprint, image_column, max_px, processor.fit, limits]
    target = parent / hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:24]
    _remove_abandoned(target)
    if not target.is_dir():
        unfinished = target.with_name(f"{target.name}{_UNFINISHED}{_machine()}-{os.getpid()}")
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            _write(unfinished, rows.select_columns([image_column]), processor, image_column, max_px)
            _publish(unfinished, target)
        except OSError as error:
            raise DatasetError(
                f"The decoded images cannot be written to {parent}: {error}. Free some space, set HF_DATASETS_CACHE "
                "to a folder with enough space, or decode the images in every epoch (decode_once=false)."
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return DecodedImages(target)


def _write(folder: Path, rows: Dataset, processor: MLCAKImageProcessor, image_column: str, max_px: int) -> None:
    index, exact = np.zeros((len(rows), 3), dtype=np.int64), True
    with (folder / _PIXELS).open("wb") as file:
        for position in logging.tqdm(range(len(rows)), desc="Decoding images once", unit="image"):
            image = _image(rows, position, image_column)
            try:
                square = to_square(image, processor, max_px)
            except ValueError as error:
                raise DatasetError(f"The image of row {position} cannot be used: {error}") from error
            offset = file.tell()
            width, same = _append(file, square)
            index[position] = offset, len(square), width
            kept = max(image.size) <= max_px and (processor.fit == "pad" or image.width == image.height)
            exact = exact and same and kept
    np.save(folder / _INDEX, index)
    (folder / _ABOUT).write_text(json.dumps({"format": _FORMAT, "exact": exact}), encoding="utf-8")


def _remove_abandoned(target: Path) -> None:
    for folder in target.parent.glob(f"{target.name}{_UNFINISHED}*"):
        machine, _, pid = folder.name.partition(_UNFINISHED)[2].rpartition("-")
        # A process of this machine that still runs may be writing it.
        killed = machine == _machine() and _is_gone(int(pid))
        if killed or time.time() - _last_write(folder) > _ABANDONED_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)


def _is_gone(pid: int) -> bool:
    if os.name != "posix":  # elsewhere os.kill would end the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # the process of another user
        return False
    return False


def _machine() -> str:
    # Process ids are unique within a machine or a container, and a container can have its host's name. Hashed, because
    # folder names may be shared.
    numbers = Path("/proc/self/ns/pid")
    named = [platform.node(), str(numbers.readlink()) if numbers.is_symlink() else ""]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:8]


def _last_write(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:  # its process has just renamed or removed it
        return time.time()


def _publish(unfinished: Path, target: Path) -> None:
    try:
        unfinished.rename(target)
    except OSError:
        # Another process may have published the same images in the meantime.
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


def _append(file: BinaryIO, square: np.ndarray) -> tuple[int, bool]:
    """Write a square with 8 bits per pixel if they hold it exactly, else with 16: (bytes per pixel, exact)."""
    for dtype in (np.uint8, np.uint16):
        white = np.float32(np.iinfo(dtype).max)
        stored = np.rint(square * white).astype(dtype)
        same = np.array_equal(stored.astype(np.float32) / white, square)
        if same:
            break
    file.write(stored.tobytes())
    return stored.itemsize, same
