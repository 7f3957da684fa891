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
from torch import Tensor

from ...configuration_mlcak import MLCAKConfig
from ...errors import CacheError
from ..logit_teachers import LogitTeacherConfig
from ..teachers import TeacherOutputs
from .key import CACHE_FORMAT, differences

#: Description of a cache, written before the first shard.
CACHE_FILE = "cache.json"
_DIGEST_BYTES = hashlib.sha256().digest_size


class CacheFiles:
    """The files of a cache, complete or not: names, layout and checksums.

    `cache.json` describes what the cache was built from. Every shard holds the records of some images, ordered by view,
    then image, and ends with a SHA-256 over the key and everything before it.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of the cache.
        description (`Mapping[str, Any]`, *optional*):
            The content of `cache.json`. Defaults to that of the folder's file.

    Raises:
        [`CacheError`]: When the file is missing or has another format.
    """

    def __init__(self, folder: str | os.PathLike[str], description: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / CACHE_FILE
        try:
            self.description = json.loads(path.read_text(encoding="utf-8")) if description is None else description
            self.key: dict[str, Any] = self.description["key"]
            if self.key["format"] != CACHE_FORMAT:
                raise CacheError(
                    f"The teacher cache {folder} must have format {CACHE_FORMAT}; got {self.key['format']}. "
                    "Build it again."
                )
            self.num_images: int = self.key["number of images"]
            self.num_views: int = self.key["number of views"]
            self.teachers = [
                MLCAKConfig(**config) if config.get("model_type") == "mlcak" else LogitTeacherConfig(**config)
                for config in self.description["teachers"]
            ]
            self.record = np.dtype([(name, kind, tuple(shape)) for name, kind, shape in self.description["record"]])
            self.shard_images: int = self.description["images per shard"]
        except FileNotFoundError:
            raise CacheError(
                f"There is no teacher cache in {folder}. Build one with examples/distillation/cache_teacher.py."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheError(
                f"{path} must describe a teacher cache, but cannot be read ({error!r}). Delete the folder."
            ) from error
        self.num_shards = -(-self.num_images // self.shard_images)
        self.num_bytes = self.num_images * self.num_views * self.record.itemsize

    def create(self) -> None:
        """Write `cache.json` atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._replace(self.folder / CACHE_FILE, json.dumps(self.description, indent=1).encode())

    def check(self, expected: Mapping[str, Any]) -> None:
        """Check that the cache was built from the expected teachers, images and views.

        Args:
            expected (`Mapping[str, Any]`):
                The parts of the key that the caller knows.

        Raises:
            [`CacheError`]: When a part differs.
        """
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
        self._replace(self.path(number), buffer.getbuffer(), self._digest(number, buffer.getbuffer()))

    def is_whole(self, number: int) -> bool:
        """Return whether a shard exists, belongs to this cache, and is unchanged."""
        try:
            contents = np.memmap(self.path(number), np.uint8, "r")
        except (FileNotFoundError, ValueError):  # An empty file cannot be mapped.
            return False
        return self._digest(number, contents[:-_DIGEST_BYTES]) == contents[-_DIGEST_BYTES:].tobytes()

    def _digest(self, number: int, contents: Any) -> bytes:
        """Hash key and number too, so that the checksum fails for a shard of a different cache or position."""
        hashed = hashlib.sha256(json.dumps([self.key, number], sort_keys=True).encode())
        hashed.update(contents)
        return hashed.digest()

    def _replace(self, path: Path, *parts: bytes | memoryview) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CacheError(
                f"The teacher cache {self.folder} cannot be written ({error.strerror}). Free some space or name "
                "another folder, and run the same command again to resume."
            ) from error


class TeacherCache(CacheFiles):
    """The outputs of one or several teachers for V views of every image, memory-mapped: several runs share the pages.

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
        super().__init__(folder)
        self._shards: dict[int, np.ndarray] = {}
        absent = [number for number in range(self.num_shards) if not self.path(number).exists()]
        damaged = [number for number in range(self.num_shards) if verify and not self.is_whole(number)]
        if absent or damaged:
            defect = f"incomplete: {len(absent)} of its {self.num_shards} shards are missing"
            if not absent:
                first = f"{self.path(damaged[0]).name} ({len(damaged)} of {self.num_shards} shards)"
                defect = f"damaged: {first} is truncated, changed, or belongs to a different cache"
            raise CacheError(
                f"The teacher cache {folder} is {defect}. Run the command that built it again, with --teacher."
            )

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
        records = np.empty(len(index), self.record)
        for position, image in enumerate(index):
            number, place = divmod(int(image), self.shard_images)
            if number not in self._shards:
                self._shards[number] = np.load(self.path(number), mmap_mode="r")
            records[position] = self._shards[number][view, place]
        names = [name for name in self.record.names or () if attention or name != "attention"]
        return TeacherOutputs(**{name: torch.from_numpy(records[name].copy()) for name in names})

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped pages behind: worker processes map the files themselves."""
        return self.__dict__ | {"_shards": {}}


class CachedCollator:
    """A collator that adds the cached outputs of the teachers; in epoch e it makes view e modulo V.

    Args:
        collator ([`MLCAKCollator`]):
            Makes the views; it is copied.
        cache ([`TeacherCache`]):
            Cache of the same views.
        attention (`bool`, *optional*, defaults to `True`):
            Whether attention is taught.
    """

    def __init__(self, collator: Any, cache: TeacherCache, attention: bool = True) -> None:
        # The copy shares the epoch and makes the same views, without the teachers' pixels.
        self.collator = collator.for_evaluation()
        self.collator.views = self.views = collator.views
        self.cache, self.attention = cache, attention

    def set_epoch(self, epoch: int) -> None:
        """Switch to the view of an epoch, in this process and in running workers."""
        self.collator.set_epoch(epoch % self.cache.num_views)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate rows, each with its `index`.

        Returns:
            `dict[str, torch.Tensor]`: The collator's batch and the teachers' outputs ([`TeacherOutputs.to_batch`]).
        """
        batch: dict[str, Tensor] = self.collator(rows)
        known = self.cache.read([row["index"] for row in rows], self.collator.epoch, self.attention)
        return batch | known.to_batch()

    def add_pixels(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the student's pixels, if the collator leaves them to the device."""
        return self.collator.add_pixels(batch) if hasattr(self.collator, "add_pixels") else batch
