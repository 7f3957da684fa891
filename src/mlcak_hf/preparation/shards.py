"""One shard: a fixed number of a split's images in a Parquet file that is there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DatasetError, DicomError
from ..vindr_cxr.layout import ImageRecord, LeftOut
from .rows import VinDrCXRConfig, image_rows, vindr_features
from .suspect_images import Doubts
from .work_folder import WorkFolder, explained_write, put

_ROWS_PER_GROUP = 64  # all that a writing or a streaming process holds at once
_NOTES = b"mlcak"
SKIP = "on_error='skip' (--on-error skip)"


@dataclass(frozen=True)
class ShardTask:
    """All that a process needs to write one shard.

    Args:
        name: Of the file, without its suffix.
        source_folder: "train" or "test": where the images come from.
        images: In the order of the rows.
        per_reader: A row per reader instead of one per image.
        config: The choices.
        pseudonyms: Names of these images' groups in the dataset; None leaves them as they are.
        identity: What the file says of the dataset that it is a part of: fingerprint, choices, software.
        work: Where the finished file goes.
    """

    name: str
    source_folder: str
    images: list[ImageRecord]
    per_reader: bool
    config: VinDrCXRConfig
    pseudonyms: Mapping[str, str] | None
    identity: Mapping[str, Any]
    work: WorkFolder


@dataclass
class ShardNotes:
    """What a shard's file says besides its rows.

    Args:
        images: Number of images that the shard was to hold: those in its rows and those left out.
        left_out: Images that could not be read.
        doubts: Images that are in it, though something about them seems wrong.
    """

    images: int
    left_out: list[LeftOut]
    doubts: Doubts


def write_shard(task: ShardTask) -> Iterator[None]:
    """Read a shard's images and write its file; yields after each image.

    The file gets its name only when all of it is on the disk, with its notes: whatever bears that name is whole. The
    bytes depend on the task's images and choices alone.

    Args:
        task: The shard.

    Raises:
        DicomError: A radiograph cannot be read, with on_error="raise".
        DatasetError: The file cannot be written, as on a full disk.
    """
    notes = ShardNotes(len(task.images), [], Doubts())
    schema = vindr_features(task.config.aggregation).arrow_schema
    waiting: list[dict[str, Any]] = []
    path, unfinished = task.work.data / f"{task.name}.parquet", task.work.begin(task.name)
    with explained_write(path):
        try:
            # Statistics would hold a second copy of small images, and PNG has no use for a dictionary.
            options = {"use_dictionary": False, "write_statistics": False}
            with unfinished.open("xb") as stream, pq.ParquetWriter(stream, schema, **options) as writer:
                for rows in _rows_by_image(task, notes):
                    waiting += rows
                    while len(waiting) >= _ROWS_PER_GROUP:
                        writer.write_table(pa.Table.from_pylist(waiting[:_ROWS_PER_GROUP], schema=schema))
                        del waiting[:_ROWS_PER_GROUP]
                    yield
                if waiting:
                    writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
                writer.add_key_value_metadata({_NOTES: json.dumps({**task.identity, **_plain(notes)})})
            put(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def read_notes(path: Path, fingerprint: str) -> ShardNotes:
    """Read what a finished shard says of itself.

    Args:
        path: Its file.
        fingerprint: Of the dataset that it should be a part of.

    Returns:
        Its notes.

    Raises:
        DatasetError: It is cut off or damaged, or a part of another dataset.
    """
    try:
        recorded = json.loads((pq.read_metadata(path).metadata or {})[_NOTES])
        left_out = [LeftOut(**entry) for entry in recorded["left_out"]]
        notes = ShardNotes(recorded["images"], left_out, Doubts(**recorded["doubts"]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} is no whole shard ({type(error).__name__}); copy or prepare it again") from None
    if recorded.get("fingerprint") != fingerprint or recorded.get("shard") != path.stem:
        raise DatasetError(f"{path} is a shard of another dataset (other choices, files or software); remove it")
    return notes


def _plain(notes: ShardNotes) -> dict[str, Any]:
    return asdict(notes) | {"left_out": [record._asdict() for record in notes.left_out]}


def _rows_by_image(task: ShardTask, notes: ShardNotes) -> Iterator[list[dict[str, Any]]]:
    for record in task.images:
        rows: list[dict[str, Any]] = []
        try:
            rows = [row for _, row in image_rows(record, task.config, task.per_reader, task.pseudonyms, notes.doubts)]
        except DicomError as error:
            if task.config.on_error == "raise":
                raise DicomError(f"{error}. To go on without such images: {SKIP}") from None
            notes.left_out.append(LeftOut(record.image_id, str(error), task.source_folder))
        yield rows
