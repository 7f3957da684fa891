"""The plan of a preparation, made before any image is read: equal plans give equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...errors import DatasetError
from ..source import ImageRecord, PreparationSource, SkippedImage, SourceCard, SourceImages

IMAGES_PER_SHARD = 256
"""About 10 MB at 256 px: little to repeat after a kill, and few files for all of VinDr-CXR (71)."""

# Everything that affects the bytes; decoders that are not installed are left out.
_SOFTWARE = ("mlcak-hf", "datasets", "numpy", "pillow", "pyarrow", "pydicom", "pylibjpeg-openjpeg", "imagecodecs")


@dataclass(frozen=True)
class PreparationPlan:
    """What a preparation will write.

    Args:
        fingerprint (`str`):
            Digest of the choices, the content of the tables, the names and sizes of the images, and the software.
        files_state (`str`):
            Digest of the same files with their modification times, which differ between machines.
        choices (`dict`):
            Every choice that determines the dataset.
        software (`dict[str, str]`):
            Version of each package.
        images_per_shard (`int`):
            Number of images in every shard of a split except its last.
        shards (`dict[str, int]`):
            Number of shards of each split.
        folders (`dict[str, str]`):
            Source folder of each split.
        skipped (`list[SkippedImage]`):
            Images that the tables or the folder make unusable.
        table_notes (`list[str]`):
            What was corrected or ignored in the tables.
        card (`SourceCard`):
            The source's part of the dataset card, as merging needs no source.
    """

    fingerprint: str
    files_state: str
    choices: dict[str, Any]
    software: dict[str, str]
    images_per_shard: int
    shards: dict[str, int]
    folders: dict[str, str]
    skipped: list[SkippedImage]
    table_notes: list[str]
    card: SourceCard

    @classmethod
    def of(cls, source: PreparationSource, images: SourceImages) -> PreparationPlan:
        """Plan the preparation of a source.

        Args:
            source (`PreparationSource`):
                The source.
            images (`SourceImages`):
                Its images.

        Returns:
            `PreparationPlan`: The plan.
        """
        # on_error does not change a shard: one with an unreadable image is never finished with "raise".
        choices = {name: value for name, value in source.options.choices().items() if name != "on_error"}
        software = _installed_versions()
        made_of = {
            "choices": choices,
            "software": software,
            "skipped": [astuple(image) for image in images.skipped],
            "per_shard": IMAGES_PER_SHARD,
        }
        content = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
        state = hashlib.sha256()
        for split, records in images.splits.items():
            for record in records:
                size, changed_ns = _file_state(Path(record.path))
                content.update(repr((split, *_described(record), size)).encode())
                state.update(repr((record.image_id, size, changed_ns)).encode())
        return cls(
            fingerprint=content.hexdigest(),
            files_state=state.hexdigest(),
            choices=choices,
            software=software,
            images_per_shard=IMAGES_PER_SHARD,
            shards={split: -(-len(records) // IMAGES_PER_SHARD) for split, records in images.splits.items()},
            folders={split: source.folder_of(split) for split in images.splits},
            skipped=images.skipped,
            table_notes=images.table_notes,
            card=source.card(),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What every shard records about the dataset that it belongs to."""
        return {"fingerprint": self.fingerprint, "choices": self.choices, "software": self.software}

    def shard_names(self, split: str | None = None) -> list[str]:
        """Return the file names, without suffix, of the shards of a split or of all splits, in order."""
        return [
            f"{name}-{number:05d}-of-{of:05d}"
            for name, of in self.shards.items()
            for number in range(of)
            if split in (None, name)
        ]

    def as_json(self) -> str:
        """Return the plan as text, for `read`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> PreparationPlan:
        """Read a plan.

        Args:
            path (`Path`):
                Its file.

        Returns:
            `PreparationPlan`: The plan.

        Raises:
            [`DatasetError`]: When the file is missing or damaged.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            skipped = [SkippedImage(**image) for image in values["skipped"]]
            return cls(**values | {"skipped": skipped, "card": SourceCard(**values["card"])})
        except OSError as error:
            raise DatasetError(
                f"{path.parent} holds no unfinished dataset ({error.strerror}). Name the folder that"
                " `mlcak prepare --shard` left."
            ) from None
        except (ValueError, TypeError, KeyError):
            raise DatasetError(f"{path} is damaged. Copy it again, or remove {path.parent}.") from None

    def difference(self, other: PreparationPlan) -> str | None:
        """Say how another plan differs; `None` if both give the same bytes."""
        found = choice_differences(self.choices, other.choices) or choice_differences(self.software, other.software)
        if not found and self.fingerprint != other.fingerprint:
            return "the tables or the images of the source differ"
        return ", ".join(found) or None


def choice_differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Say which values of two dictionaries differ."""
    return [
        f"{name} is {one.get(name)!r} in one and {other.get(name)!r} in the other"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def _installed_versions() -> dict[str, str]:
    versions = {}
    for name in _SOFTWARE:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _file_state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:  # reading it will say what is wrong
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _described(record: ImageRecord) -> Iterator[object]:
    # Everything known about an image except its folder, which differs between machines.
    yield from (getattr(record, entry.name) for entry in fields(record) if entry.name not in ("path", "group"))
    yield Path(record.path).name
    yield record.group
