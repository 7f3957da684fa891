"""The plan of a preparation, made before any image is read. Equal plans give equal bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, astuple, dataclass, fields
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from ...errors import DatasetError
from ..source import PreparationSource, SkippedImage, SourceCard, SourceImages

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
        choices = source.options.choices()
        software = {name: found[0].version for name in _SOFTWARE if (found := list(distributions(name=name)))}
        skipped = [astuple(image) for image in images.skipped]
        made_of = {"choices": choices, "software": software, "skipped": skipped, "per_shard": IMAGES_PER_SHARD}
        content = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
        state = hashlib.sha256()
        for split, records in images.splits.items():
            for record in records:
                try:
                    file = Path(record.path).stat()
                    size, changed_ns = file.st_size, file.st_mtime_ns
                except OSError:  # reading it will say what is wrong
                    size, changed_ns = -1, -1
                # Everything known about an image except its folder, which differs between machines.
                known = [getattr(record, entry.name) for entry in fields(record) if entry.name not in ("path", "group")]
                content.update(repr((split, *known, Path(record.path).name, record.group, size)).encode())
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
            reason = f"{path.parent} holds no unfinished dataset ({error.strerror})"
            raise DatasetError(f"{reason}. Name one of `mlcak prepare --shard`.") from None
        except (ValueError, TypeError, KeyError):
            raise DatasetError(f"{path} is damaged. Copy it again, or remove {path.parent}.") from None

    def difference(self, other: PreparationPlan) -> str | None:
        """Say how this plan differs from another; `None` if both give the same bytes."""
        if self.fingerprint == other.fingerprint:
            return None
        found = changed_choices(self.choices, other.choices) or changed_choices(self.software, other.software)
        return found or "other tables or images"


def changed_choices(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Say which of our values differ from theirs; empty if none does."""
    names = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name} {ours.get(name)!r} instead of {theirs.get(name)!r}" for name in names)
