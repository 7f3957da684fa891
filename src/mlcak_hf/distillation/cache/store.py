"""A teacher cache on disk: the teachers' outputs for V seeded views of every training image."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...configuration_mlcak import MLCAKConfig
from ...errors import CacheError
from ..teachers import TeacherOutputs
from .key import CACHE_FORMAT, differences

#: Description of a cache, written before the first shard.
CACHE_FILE = "cache.json"
_DIGEST_BYTES = hashlib.sha256().digest_size
# Every mapped shard keeps a file open, so their number is limited.
_MAX_SHARDS = 256
_MIN_SHARD_IMAGES = 128


class TeacherCache:
    """The outputs of one or several teachers for V views of every image, memory-mapped.

    `cache.json` describes what the cache was built from. Every shard holds the records of some images, ordered by view,
    then image, and ends with a SHA-256 over the key and everything before it. Several runs share the pages in memory.

    Args:
        folder (`str` or `os.PathLike`):
            A folder that `build_teacher_cache` wrote.
        verify (`bool`, *optional*, defaults to `True`):
            Whether to read every shard once and compare checksums (seconds per GB).

    Raises:
        [`CacheError`]: When there is no cache, it has another format, or it is incomplete or damaged.

    Example:

    ```python
    >>> cache = TeacherCache("runs/teacher-cache")  # doctest: +SKIP
    >>> cache.read([5, 3], view=0).attention.shape  # doctest: +SKIP
    torch.Size([2, 1, 50, 50])
    ```
    """

    def __init__(self, folder: str | os.PathLike[str], verify: bool = True) -> None:
        self.files = CacheFiles.open(folder)
        self.key, self.num_images, self.num_views = self.files.key, self.files.num_images, self.files.num_views
        self.teachers = [MLCAKConfig(**config) for config in self.files.teachers]
        self.num_bytes = self.num_images * self.files.bytes_per_image
        self._shards: dict[int, np.ndarray] = {}
        absent = [number for number in range(self.files.num_shards) if not self.files.path(number).exists()]
        if absent:
            raise CacheError(
                f"The teacher cache {folder} is incomplete: {len(absent)} of its {self.files.num_shards} shards are "
                "missing. Run the command that built it again, with --teacher."
            )
        damaged = [n for n in range(self.files.num_shards) if verify and not self.files.is_whole(n)]
        if damaged:
            raise CacheError(
                f"The teacher cache {folder} is damaged: {self.files.path(damaged[0]).name} "
                f"({len(damaged)} of {self.files.num_shards} shards) is truncated, changed, or belongs to a different "
                "cache. Run the command that built it again, with --teacher."
            )

    def check(self, expected: Mapping[str, Any]) -> None:
        """Check that the cache was built from the expected teachers, images and views.

        Args:
            expected (`Mapping[str, Any]`):
                The parts of the key that the caller knows.

        Raises:
            [`CacheError`]: When a part differs.
        """
        self.files.check(expected)

    def read(self, index: Sequence[int], view: int, attention: bool = True) -> TeacherOutputs:
        """Read the teachers' outputs for one view of some images.

        Args:
            index (`Sequence[int]`):
                Positions of the images in the dataset.
            view (`int`):
                Number of the view, 0 to V - 1.
            attention (`bool`, *optional*, defaults to `True`):
                Whether to read the attention too.

        Returns:
            [`TeacherOutputs`]: float32 logits and float16 attention.
        """
        records = np.empty(len(index), self.files.record)
        for position, image in enumerate(index):
            number, place = divmod(int(image), self.files.shard_images)
            records[position] = self._shard(number)[view, place]
        fields = {name: torch.from_numpy(records[name].copy()) for name in self.files.record.names or ()}
        return TeacherOutputs(
            fields["logits"], fields.get("local_logits"), fields.get("attention") if attention else None
        )

    def _shard(self, number: int) -> np.ndarray:
        if number not in self._shards:
            self._shards[number] = self.files.map(number)
        return self._shards[number]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped pages behind: worker processes map the files themselves."""
        return self.__dict__ | {"_shards": {}}


class CacheFiles:
    """The files of a cache: names, layout and checksums.

    Args:
        folder (`Path`):
            Folder of the cache.
        description (`Mapping[str, Any]`):
            The content of `cache.json`.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder, self.description = folder, dict(description)
        self.key: dict[str, Any] = description["key"]
        self.teachers: list[dict[str, Any]] = description["teachers"]
        self.num_images: int = self.key["number of images"]
        self.num_views: int = self.key["number of views"]
        self.record = np.dtype([(name, kind, tuple(shape)) for name, kind, shape in description["record"]])
        self.shard_images: int = description["images per shard"]
        self.num_shards = -(-self.num_images // self.shard_images)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> CacheFiles:
        """Read `cache.json`.

        Raises:
            [`CacheError`]: When it is missing or has another format.
        """
        path = Path(folder, CACHE_FILE)
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            version = description["key"]["format"]
            files = cls(Path(folder), description) if version == CACHE_FORMAT else None
        except FileNotFoundError:
            raise CacheError(
                f"There is no teacher cache in {folder}. Build one with examples/distillation/cache_teacher.py."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheError(
                f"{path} must describe a teacher cache, but cannot be read ({error!r}). Delete the folder."
            ) from error
        if files is None:
            raise CacheError(
                f"The teacher cache {folder} must have format {CACHE_FORMAT}; got {version}. Build it again."
            )
        return files

    def create(self) -> None:
        """Write `cache.json` atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._replace(self.folder / CACHE_FILE, json.dumps(self.description, indent=1).encode())

    def check(self, expected: Mapping[str, Any]) -> None:
        """Compare parts of the key; see `TeacherCache.check`."""
        unlike = differences(expected, self.key)
        if unlike:
            raise CacheError(
                f"The teacher cache {self.folder} was built from something else ({'; '.join(unlike)}). "
                "Name another folder, or delete this one."
            )

    def path(self, number: int) -> Path:
        """Return the path of a shard."""
        return self.folder / f"shard-{number:05d}-of-{self.num_shards:05d}.npy"

    def images(self, number: int) -> range:
        """Return the positions of a shard's images in the dataset."""
        start = number * self.shard_images
        return range(start, min(start + self.shard_images, self.num_images))

    def shape(self, number: int) -> tuple[int, int]:
        """Return (views, images) of a shard."""
        return self.num_views, len(self.images(number))

    @property
    def bytes_per_image(self) -> int:
        """Size of all views of an image, in bytes."""
        return int(self.num_views * self.record.itemsize)

    def write(self, number: int, records: np.ndarray) -> None:
        """Write a shard atomically.

        Args:
            number (`int`):
                Number of the shard.
            records (`np.ndarray` of shape `(views, images)`):
                Records of the cache's type.

        Raises:
            [`CacheError`]: When the disk is full or cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, records)
        contents = buffer.getbuffer()
        hashed = self._hash(number)
        hashed.update(contents)
        self._replace(self.path(number), contents, hashed.digest())

    def is_whole(self, number: int) -> bool:
        """Return whether a shard exists, belongs to this cache, and is unchanged."""
        hashed, last = self._hash(number), b""
        try:
            with self.path(number).open("rb") as file:
                while block := file.read(1 << 22):
                    block = last + block
                    hashed.update(memoryview(block)[:-_DIGEST_BYTES])
                    last = block[-_DIGEST_BYTES:]
        except FileNotFoundError:
            return False
        return last == bytes(hashed.digest())

    def map(self, number: int) -> np.ndarray:
        """Map a shard into memory: records of shape `(views, images)`."""
        mapped: np.ndarray = np.load(self.path(number), mmap_mode="r")
        return mapped

    def _hash(self, number: int) -> Any:
        """Start a checksum with key and number, so that it fails for a shard of a different cache or position."""
        return hashlib.sha256(json.dumps([self.key, number], sort_keys=True).encode())

    def _replace(self, path: Path, *parts: bytes | memoryview) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CacheError(
                f"The teacher cache {self.folder} cannot be written ({error.strerror}). Free some space or name "
                "another folder, and run the same command again to resume."
            ) from error


def images_per_shard(num_images: int) -> int:
    """Return the number of images per shard of a new cache: few, so that a killed build loses little."""
    return max(_MIN_SHARD_IMAGES, -(-num_images // _MAX_SHARDS))


def cached_views(folder: str | os.PathLike[str]) -> int | None:
    """Return the number of views of the cache in a folder, complete or not; `None` without a cache."""
    return CacheFiles.open(folder).num_views if Path(folder, CACHE_FILE).exists() else None
