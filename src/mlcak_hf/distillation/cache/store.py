"""A cache of what teachers know of V seeded views of every training image: read from disk instead of running them."""

from __future__ import annotations

import copy
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
from ..teachers import TeacherKnowledge
from .key import CACHE_FORMAT, differences

#: Describes a cache; it is written before the first shard.
CACHE_FILE = "cache.json"
_DIGEST_BYTES = hashlib.sha256().digest_size
# So many files are mapped at once at most, whatever the number of images: each keeps a file open.
_MAX_SHARDS = 256
_MIN_SHARD_IMAGES = 128


class TeacherCache:
    """The knowledge of one or several teachers about V views of every image, memory-mapped.

    A folder: `cache.json` says what it was made from; every shard holds some images, its records ordered by view, then
    image, and ends with a SHA-256 of the key and of all that is before it. Several runs share the pages in memory.

    Args:
        folder: what `build_teacher_cache` wrote.
        verify: read every shard once and compare checksums (1 GB takes seconds).

    Attributes:
        key: what it was made from; see `cache_key`.
        num_images, num_views: N and V.
        num_bytes: size of all records.
        teachers: the configs of the teachers.

    Raises:
        CacheError: if there is none, it is of another version, not whole, or damaged.

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
                f"The teacher cache {folder} is not whole: {len(absent)} of its {self.files.num_shards} shards are "
                "missing. Go on building it: the command that built it, with --teacher, makes them."
            )
        damaged = [n for n in range(self.files.num_shards) if verify and not self.files.is_whole(n)]
        if damaged:
            raise CacheError(
                f"The teacher cache {folder} is damaged: {self.files.path(damaged[0]).name} "
                f"({len(damaged)} of {self.files.num_shards} shards) is cut short, changed, or of another cache. "
                "The command that built it, with --teacher, makes these shards anew."
            )

    def check(self, expected: Mapping[str, Any]) -> None:
        """Refuse to stand in for anything but what it was made from.

        Args:
            expected: the parts of the key that the caller knows.

        Raises:
            CacheError: if a part differs; names each with what was expected and what was found.
        """
        self.files.check(expected)

    def read(self, index: Sequence[int], view: int, attention: bool = True) -> TeacherKnowledge:
        """What the teachers know of one view of some images.

        Args:
            index: places of the images in the dataset.
            view: number of the view, 0 to V - 1.
            attention: whether to read the attention too.

        Returns:
            float32 logits and float16 attention.
        """
        records = np.empty(len(index), self.files.record)
        for position, image in enumerate(index):
            number, place = divmod(int(image), self.files.shard_images)
            records[position] = self._shard(number)[view, place]
        fields = {name: torch.from_numpy(records[name].copy()) for name in self.files.record.names or ()}
        return TeacherKnowledge(
            fields["logits"], fields.get("local_logits"), fields.get("attention") if attention else None
        )

    def _shard(self, number: int) -> np.ndarray:
        if number not in self._shards:
            self._shards[number] = self.files.map(number)
        return self._shards[number]

    def __getstate__(self) -> dict[str, Any]:
        """Go to worker processes without the pages: they map the files themselves."""
        return self.__dict__ | {"_shards": {}}


class CacheFiles:
    """The files of a cache: their names, layout and checksums.

    Args:
        folder: of the cache.
        description: what `cache.json` holds.
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
            CacheError: if there is none, or another version wrote it.
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
            raise CacheError(f"{path} does not describe a teacher cache ({error!r}). Delete the folder.") from error
        if files is None:
            raise CacheError(f"The teacher cache {folder} has format {version}, not {CACHE_FORMAT}: build it again.")
        return files

    def create(self) -> None:
        """Write `cache.json`, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._replace(self.folder / CACHE_FILE, json.dumps(self.description, indent=1).encode())

    def check(self, expected: Mapping[str, Any]) -> None:
        """Compare parts of the key; see `TeacherCache.check`."""
        unlike = differences(expected, self.key)
        if unlike:
            raise CacheError(
                f"The teacher cache {self.folder} is of something else. {'; '.join(unlike)}. "
                "Name another folder to build a new one, or delete this one."
            )

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{number:05d}-of-{self.num_shards:05d}.npy"

    def images(self, number: int) -> range:
        """Places of a shard's images in the dataset."""
        start = number * self.shard_images
        return range(start, min(start + self.shard_images, self.num_images))

    def shape(self, number: int) -> tuple[int, int]:
        """(views, images) of a shard."""
        return self.num_views, len(self.images(number))

    @property
    def bytes_per_image(self) -> int:
        """Size of all views of an image."""
        return int(self.num_views * self.record.itemsize)

    def write(self, number: int, records: np.ndarray) -> None:
        """Write a shard, whole or not at all.

        Args:
            number: of the shard.
            records: of shape `(views, images)` and of the cache's record type.

        Raises:
            CacheError: if the disk is full or cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, records)
        contents = buffer.getbuffer()
        hashed = self._hash(number)
        hashed.update(contents)
        self._replace(self.path(number), contents, hashed.digest())

    def is_whole(self, number: int) -> bool:
        """Whether a shard is there, of this cache, and as it was written."""
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
        """The key and the number are part of the checksum: a shard of another cache or place is none of this one."""
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
                f"The teacher cache {self.folder} cannot be written ({error.strerror}). Make room or name another "
                "folder; the same command then goes on where it stopped."
            ) from error


def images_per_shard(num_images: int) -> int:
    """How many images a shard of a new cache holds: few, so that a killed build loses little."""
    return max(_MIN_SHARD_IMAGES, -(-num_images // _MAX_SHARDS))


def cached_views(folder: str | os.PathLike[str]) -> int | None:
    """How many views of an image the cache in a folder has, or will have once it is whole; None without a cache."""
    return CacheFiles.open(folder).num_views if Path(folder, CACHE_FILE).exists() else None


class CachedCollator:
    """A collator that adds what a cache knows of the views it makes; in epoch e it makes view e modulo V.

    Args:
        collator: makes seeded views (`MLCAKCollator`); left as it is.
        cache: of the same views.
        attention: whether attention is taught.
    """

    def __init__(self, collator: Any, cache: TeacherCache, attention: bool = True) -> None:
        # The same views in the same shared epoch, but nobody looks at the teacher's pixels.
        self.collator = copy.copy(collator)
        self.collator.teacher_processor = None
        self.cache, self.attention = cache, attention

    @property
    def views(self) -> Any:
        """The ranges that views are drawn from."""
        return self.collator.views

    @property
    def epoch(self) -> int:
        """The number of the view that is made."""
        return int(self.collator.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Make the view of another epoch, in this process and in workers that already run."""
        self.collator.set_epoch(epoch % self.cache.num_views)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate rows, each with its `index`.

        Returns:
            The collator's batch, and `teacher_logits`, `teacher_local_logits`, `teacher_attention` as far as known.
        """
        batch: dict[str, Tensor] = self.collator(rows)
        known = self.cache.read([row["index"] for row in rows], self.epoch, self.attention)
        batch |= {f"teacher_{name}": value for name, value in vars(known).items() if value is not None}
        return batch
