"""What a preparation will make, settled before any image is read: equal plans, equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from ..vindr_cxr.layout import ImageRecord, LeftOut
from ..vindr_cxr.splits import DatasetSplits
from .rows import VinDrCXRConfig

IMAGES_PER_SHARD = 256
"""At 256 px some 10 MB: little to do again after a kill, and few files for the whole of VinDr-CXR (71)."""

# All that has a hand in the bytes; decoders that are not installed are left out.
_SOFTWARE = ("mlcak-hf", "datasets", "numpy", "pillow", "pyarrow", "pydicom", "pylibjpeg-openjpeg", "imagecodecs")


@dataclass(frozen=True)
class PreparationPlan:
    """What a preparation will make.

    Args:
        fingerprint: Names the choices, the content of the tables, names and sizes of the images, and the software.
        files_state: Names the same files with their times of change, which differ from machine to machine.
        choices: Every choice that shapes the dataset.
        software: Version by package.
        images_per_shard: Number of images, read or left out, in every shard of a split but its last.
        shards: Number of shards of each split.
        left_out: Images that the tables or the folder make unusable.
        remarks: What was put right or passed over in the tables.
    """

    fingerprint: str
    files_state: str
    choices: dict[str, Any]
    software: dict[str, str]
    images_per_shard: int
    shards: dict[str, int]
    left_out: list[LeftOut]
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, config: VinDrCXRConfig, splits: DatasetSplits) -> PreparationPlan:
        """Plan a preparation.

        Args:
            config: The choices.
            splits: The images.

        Returns:
            The plan.
        """
        # What to do with unreadable images changes no shard: one with such an image is never finished under "raise".
        choices = {name: value for name, value in config.choices().items() if name != "on_error"}
        software = _installed_versions()
        made_of = {"choices": choices, "software": software, "left_out": splits.left_out, "per_shard": IMAGES_PER_SHARD}
        content = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
        state = hashlib.sha256()
        for split, images in splits.images.items():
            for record in images:
                size, changed_ns = _file_state(Path(record.path))
                content.update(repr((split, *_described(record, splits.pseudonyms), size)).encode())
                state.update(repr((record.image_id, size, changed_ns)).encode())
        shards = {split: -(-len(images) // IMAGES_PER_SHARD) for split, images in splits.images.items()}
        return cls(
            content.hexdigest(),
            state.hexdigest(),
            choices,
            software,
            IMAGES_PER_SHARD,
            shards,
            splits.left_out,
            splits.remarks,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What every shard says of the dataset that it is a part of."""
        return {"fingerprint": self.fingerprint, "choices": self.choices, "software": self.software}

    def shard_names(self, split: str | None = None) -> list[str]:
        """Names of the files of a split's shards, or of all, without suffix, in the order of the dataset."""
        return [
            f"{name}-{number:05d}-of-{of:05d}"
            for name, of in self.shards.items()
            for number in range(of)
            if split in (None, name)
        ]

    def as_json(self) -> str:
        """Return the plan as text; `read` takes it back."""
        values = asdict(self) | {"left_out": [record._asdict() for record in self.left_out]}
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> PreparationPlan:
        """Read a plan.

        Raises:
            DatasetError: There is none, or it is damaged.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**values | {"left_out": [LeftOut(**record) for record in values["left_out"]]})
        except OSError as error:
            raise DatasetError(
                f"{path.parent} holds no unfinished dataset ({error.strerror}); name what `mlcak prepare --shard` left"
            ) from None
        except (ValueError, TypeError, KeyError):
            raise DatasetError(f"{path} is damaged; copy it again, or remove {path.parent}") from None

    def difference(self, other: PreparationPlan) -> str | None:
        """Say in what another plan differs from this one; None if it would make the same bytes of the same files."""
        for kind in ("choices", "software"):
            ours, theirs = getattr(self, kind), getattr(other, kind)
            for name in sorted(ours.keys() | theirs.keys()):
                if ours.get(name) != theirs.get(name):
                    return f"{name} is {ours.get(name)!r} in one and {theirs.get(name)!r} in the other"
        if self.fingerprint != other.fingerprint:
            return "the tables or the images of the source differ"
        return None


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


def _described(record: ImageRecord, pseudonyms: dict[str, str] | None) -> Iterator[object]:
    """All that is known of an image but where it lies and who its patient is."""
    yield from (getattr(record, entry.name) for entry in fields(record) if entry.name not in ("path", "group"))
    yield Path(record.path).name
    yield record.group if pseudonyms is None else pseudonyms[record.group]
