"""DecodedImages: stored radiographs decoded once, from which every epoch and every run makes its views."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
from datasets import Dataset
from filelock import FileLock
from transformers.utils import logging

from ..errors import DatasetError
from ..image_processing_mlcak import MLCAKImageProcessor, area_resize, fit_to_square, to_unit_range

logger = logging.get_logger(__name__)

#: Larger images are reduced to this side before a view is made of them. Prepared datasets store this size.
MAX_DECODED_PX = 256
_FORMAT = 3
_PIXELS, _INDEX, _DIGESTS = "pixels.bin", "index.npy", "digests.npy"
_DIGEST_BYTES = 16


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


def image_digest(image: Any) -> bytes:
    """
    Hash the decoded pixels of an image, so that the same radiograph is found in another file or compression.

    Args:
        image (`PIL.Image.Image` or `np.ndarray`):
            A decoded image.

    Returns:
        `bytes` of length 16: The first half of a SHA-256 over shape and pixels.
    """
    pixels = np.asarray(image)
    # Whether a library decodes 16 bits to int32 or uint16 must not matter.
    pixels = np.ascontiguousarray(pixels if pixels.dtype == np.uint8 else pixels.astype("<f4"))
    return hashlib.sha256(f"{pixels.shape} ".encode() + pixels.tobytes()).digest()[:_DIGEST_BYTES]


class DecodedImages:
    """
    The decoded images of a dataset, in the order of its rows. Made by [`decode_once`].

    Every image is read when it is needed, without a memory map: the process's memory stays flat, and worker processes
    and runs share the operating system's page cache.

    Args:
        folder (`str` or `Path`):
            Folder that `decode_once` wrote.

    Attributes:
        exact (`bool`):
            Whether every image was a grey square of 8 or 16 bits, no larger than 256 pixels: then nothing was reduced
            or rounded, and evaluation may use the decoded images too.
        digests (`np.ndarray` of shape `(n, 16)`, uint8):
            [`image_digest`] of every image before it was reduced.

    Example:

    ```python
    >>> images = decode_once(dataset, MLCAKImageProcessor())  # doctest: +SKIP
    >>> images[0].shape, images[0].dtype  # doctest: +SKIP
    ((256, 256), dtype('uint8'))
    ```
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        # Per image: offset in the file, side, bytes per pixel, and whether these are exactly the image.
        self._index = np.load(self.folder / _INDEX)
        self.exact = bool(self._index[:, 3].all())
        self.digests = np.load(self.folder / _DIGESTS)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._index)

    @property
    def sizes(self) -> np.ndarray:
        """Side in pixels and bytes per pixel of every image, int64 of shape `(n, 2)`."""
        return np.asarray(self._index[:, 1:3])

    def __getitem__(self, position: int) -> np.ndarray:
        """
        Read the image of a row.

        Returns:
            `np.ndarray` of shape `(S, S)`: uint8 or uint16, from 0 (black) to the largest value (white).

        Raises:
            [`DatasetError`]: If the file is missing or truncated.
        """
        offset, side, width, _ = self._index[position].tolist()
        # Opened for every read (10 microseconds), so that processes share no file handle and none has to be closed.
        try:
            with (self.folder / _PIXELS).open("rb", buffering=0) as file:
                file.seek(offset)
                return np.frombuffer(file.read(side * side * width), f"u{width}").reshape(side, side)
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{self.folder / _PIXELS} must hold the decoded image of row {position}; got: {error}. "
                f"Delete {self.folder}; the images will be decoded again."
            ) from error


def decode_once(
    rows: Dataset, processor: MLCAKImageProcessor, image_column: str = "image", folder: str | Path | None = None
) -> DecodedImages:
    """
    Decode the images of a dataset into a file, or open the file that an earlier run wrote.

    The folder's name is a hash of the rows' fingerprint and of the arguments, so every dataset, split and `fit` has its
    own folder. It is written atomically, under a lock: of several processes one decodes and the others wait. What a
    killed process left behind is removed by the next run on the same images. Like the other caches of `datasets`, the
    folder may be deleted whenever no training runs.

    Args:
        rows (`Dataset`):
            An opened split.
        processor ([`MLCAKImageProcessor`]):
            The image processor of the student or of the teacher; both make the same squares.
        image_column (`str`, *optional*, defaults to `"image"`):
            Column of images. Those larger than 256 pixels are reduced to this side.
        folder (`str` or `Path`, *optional*):
            Parent folder. Defaults to `mlcak-decoded-images` in the cache of `datasets` (`HF_DATASETS_CACHE`). An 8-bit
            image of 256 x 256 pixels takes 64 KiB, 15,000 of them 1 GB.

    Returns:
        [`DecodedImages`]: In the order of the rows.

    Raises:
        [`DatasetError`]: If an image is missing or cannot be used (its row is named), or the file cannot be written.
    """
    parent = Path(datasets.config.HF_DATASETS_CACHE) / "mlcak-decoded-images" if folder is None else Path(folder)
    made_from = [_FORMAT, rows._fingerprint, image_column, MAX_DECODED_PX, processor.fit, processor.value_range]
    target = parent / hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:24]
    unfinished = target.with_suffix(".unfinished")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if not target.is_dir():
                _write(unfinished, rows.select_columns([image_column]), processor)
                unfinished.rename(target)
    except OSError as error:
        raise DatasetError(
            f"The decoded images cannot be written to {parent}: {error}. Free some space, set HF_DATASETS_CACHE "
            "to a folder with enough space, or decode the images in every epoch (decode_once=false)."
        ) from error
    return DecodedImages(target)


def _write(folder: Path, rows: Dataset, processor: MLCAKImageProcessor) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    index = np.zeros((len(rows), 4), dtype=np.int64)
    digests = np.zeros((len(rows), _DIGEST_BYTES), dtype=np.uint8)
    try:
        with (folder / _PIXELS).open("wb") as file:
            for position in logging.tqdm(range(len(rows)), desc="Decoding images once", unit="image"):
                image, square = _decode(rows, position, processor)
                kept = max(image.size) <= MAX_DECODED_PX and (processor.fit == "pad" or image.width == image.height)
                offset = file.tell()
                width, same = _append(file, square)
                index[position] = offset, len(square), width, kept and same
                digests[position] = np.frombuffer(image_digest(image), np.uint8)
        np.save(folder / _INDEX, index)
        np.save(folder / _DIGESTS, digests)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _decode(rows: Dataset, position: int, processor: MLCAKImageProcessor) -> tuple[Any, np.ndarray]:
    try:
        (image,) = rows[position].values()  # a PIL image
        return image, to_square(image, processor)
    except Exception as error:
        raise DatasetError(f"The image of row {position} cannot be decoded: {error}") from error


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
