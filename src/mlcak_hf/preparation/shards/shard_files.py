"""One shard: a fixed number of images of a split in one Parquet file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DatasetError
from ..rows import ImageNotes, dataset_features, image_rows
from ..source import ImageRecord, PreparationSource
from .work_folder import WorkFolder, explained_write, put

_ROWS_PER_GROUP = 64  # the most that a writing or streaming process holds at once
_METADATA_KEY = b"mlcak"


@dataclass(frozen=True)
class ShardTask:
    """What a process needs to write one shard.

    Args:
        name (`str`):
            Name of the file, without its suffix.
        split (`str`):
            Split of its images.
        images (`Sequence[ImageRecord]`):
            Images in the order of the rows.
        source (`PreparationSource`):
            Where images and labels come from.
        identity (`Mapping[str, Any]`):
            Fingerprint, choices and software of the dataset that the shard belongs to.
        work (`WorkFolder`):
            Where the finished file goes.
    """

    name: str
    split: str
    images: Sequence[ImageRecord]
    source: PreparationSource
    identity: Mapping[str, Any]
    work: WorkFolder


def write_shard(task: ShardTask) -> Iterator[None]:
    """Write the file of a shard; yields after each image. The bytes depend on the images and choices alone.

    Args:
        task (`ShardTask`):
            The shard.

    Raises:
        [`DicomError`]: When a radiograph cannot be read, with `on_error="raise"`.
        [`DatasetError`]: When the file cannot be written, as on a full disk.
    """
    notes = ImageNotes()
    schema = dataset_features(task.source.label_features()).arrow_schema
    waiting: list[dict[str, Any]] = []
    path, unfinished = task.work.data / f"{task.name}.parquet", task.work.begin(task.name)
    with explained_write(path):
        try:
            # Statistics would hold a second copy of small images, and PNG does not profit from a dictionary.
            parquet = {"use_dictionary": False, "write_statistics": False}
            with unfinished.open("xb") as stream, pq.ParquetWriter(stream, schema, **parquet) as writer:
                for record in task.images:
                    waiting += [row for _, row in image_rows(task.source, task.split, record, notes)]
                    while len(waiting) >= _ROWS_PER_GROUP:
                        writer.write_table(pa.Table.from_pylist(waiting[:_ROWS_PER_GROUP], schema=schema))
                        del waiting[:_ROWS_PER_GROUP]
                    yield
                if waiting:
                    writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
                recorded = {**task.identity, "images": len(task.images), **asdict(notes)}
                writer.add_key_value_metadata({_METADATA_KEY: json.dumps(recorded)})
            put(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def read_shard_notes(path: Path, fingerprint: str) -> tuple[int, ImageNotes]:
    """Read the metadata of a finished shard.

    Args:
        path (`Path`):
            File of the shard.
        fingerprint (`str`):
            Fingerprint of the dataset that it should belong to.

    Returns:
        `tuple[int, ImageNotes]`: The number of its images, skipped ones included, and what was found in them.

    Raises:
        [`DatasetError`]: When the file is truncated or damaged, or belongs to another dataset.
    """
    try:
        recorded = json.loads((pq.read_metadata(path).metadata or {})[_METADATA_KEY])
        images, notes = int(recorded["images"]), ImageNotes.from_dict(recorded)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path} is not a complete shard ({type(error).__name__}). Copy or prepare it again."
        ) from None
    if recorded.get("fingerprint") != fingerprint or recorded.get("shard") != path.stem:
        raise DatasetError(
            f"{path} belongs to a different dataset (other choices, files or software). Remove the file."
        )
    return images, notes
