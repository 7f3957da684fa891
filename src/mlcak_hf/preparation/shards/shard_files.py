"""The shards of a dataset: a fixed number of images of a split in one Parquet file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from transformers.utils import logging

from ...errors import DatasetError
from ...worker_processes import stream_from_processes
from ..rows import ImageNotes, dataset_features, image_rows, unreadable
from ..source import ImageRecord, PreparationSource, SourceImages
from .plan import PreparationPlan
from .work_folder import WorkFolder, explained_write, put

logger = logging.get_logger(__name__)

_ROWS_PER_GROUP = 64  # the most that a writing or streaming process holds at once
_METADATA_KEY = b"mlcak"


class Shard(NamedTuple):
    """File name without its suffix, split, and images in the order of the rows."""

    name: str
    split: str
    images: Sequence[ImageRecord]


def start_work(work: WorkFolder, plan: PreparationPlan, may_restart: bool, restart: str) -> None:
    """Resume unfinished work of the same plan; refuse any other, or remove it.

    Args:
        work (`WorkFolder`):
            The folder to work in.
        plan (`PreparationPlan`):
            What is to be written.
        may_restart (`bool`):
            Remove unfinished work that does not match.
        restart (`str`):
            Sentence that says how to start again, for the message.
    """
    if work.plan_file.is_file():
        there = PreparationPlan.read(work.plan_file)
        modified = "images of the source were modified since" if there.files_state != plan.files_state else ""
        reason = there.difference(plan) or modified
        if reason and not may_restart:
            work.refuse_other_processes()
            raise DatasetError(f"{work.path} holds unfinished work that does not match: {reason}. {restart}")
        if reason or work.is_published:
            work.discard()
    work.start(plan.as_json())


def write_shards(
    source: PreparationSource,
    images: SourceImages,
    plan: PreparationPlan,
    work: WorkFolder,
    names: Sequence[str],
    num_proc: int,
) -> int:
    """Write the missing shards among the named ones; return how many were finished before.

    Raises:
        [`DicomError`]: When a radiograph cannot be read, with `on_error="raise"`.
        [`DatasetError`]: When a file cannot be written, or a process dies.
    """
    shards, size = [], plan.images_per_shard
    for split, records in images.splits.items():
        for number, name in enumerate(plan.shard_names(split)):
            if name in names:
                shards.append(Shard(name, split, records[number * size : (number + 1) * size]))
    none_skipped = source.options.on_error == "raise"
    missing = [shard for shard in shards if not is_finished(work, plan, shard.name, none_skipped)]
    done = len(shards) - len(missing)
    if done:
        logger.warning(f"{done} of {len(shards)} shards were finished before; continuing with the others.")
    work.forget_unfinished(shard.name for shard in missing)
    total, to_read = (sum(len(shard.images) for shard in some) for some in (shards, missing))
    missing.sort(key=lambda shard: len(shard.images), reverse=True)  # so that no process waits at the end
    try:
        images_done = stream_from_processes(
            partial(_write_shard, source, plan, work),
            missing,
            num_proc,
            doing=lambda shard: f"writing {shard.name}",
            preload=__name__,
            advice="Finished shards are kept, and the same command continues.",
        )
        shown = {"desc": "radiographs", "unit": "image", "disable": None}
        for _ in logging.tqdm(images_done, total=total, initial=total - to_read, **shown):
            pass
    finally:
        work.forget_unfinished(shard.name for shard in missing)
    return done


def is_finished(work: WorkFolder, plan: PreparationPlan, name: str, none_skipped: bool = False) -> bool:
    """Return whether a shard is complete and what would be written now."""
    path = work.data / f"{name}.parquet"
    if not path.is_file():
        return False
    try:
        _, notes = read_shard_notes(path, plan.fingerprint)
    except DatasetError as error:
        logger.warning(f"{error} It is written again.")
        return False
    if notes.skipped and none_skipped:
        raise unreadable(notes.skipped[0].reason)
    return True


def _write_shard(source: PreparationSource, plan: PreparationPlan, work: WorkFolder, shard: Shard) -> Iterator[None]:
    """Write the file of a shard; yields after each image. The bytes depend on the images and choices alone."""
    notes = ImageNotes()
    schema = dataset_features(source.label_features()).arrow_schema
    waiting: list[dict[str, Any]] = []
    path, unfinished = work.data / f"{shard.name}.parquet", work.begin(shard.name)
    with explained_write(path):
        # Statistics would hold a second copy of small images, and PNG does not profit from a dictionary.
        parquet = {"use_dictionary": False, "write_statistics": False}
        with unfinished.open("xb") as stream, pq.ParquetWriter(stream, schema, **parquet) as writer:
            for record in shard.images:
                waiting += [row for _, row in image_rows(source, shard.split, record, notes)]
                while len(waiting) >= _ROWS_PER_GROUP:
                    writer.write_table(pa.Table.from_pylist(waiting[:_ROWS_PER_GROUP], schema=schema))
                    del waiting[:_ROWS_PER_GROUP]
                yield
            if waiting:
                writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
            made_of = {"fingerprint": plan.fingerprint, "choices": plan.choices, "software": plan.software}
            recorded = made_of | {"shard": shard.name, "images": len(shard.images), **asdict(notes)}
            writer.add_key_value_metadata({_METADATA_KEY: json.dumps(recorded)})
        put(unfinished, path)


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
        found = type(error).__name__
        raise DatasetError(f"{path} is not a complete shard ({found}). Copy or prepare it again.") from None
    if recorded.get("fingerprint") != fingerprint or recorded.get("shard") != path.stem:
        raise DatasetError(f"{path} belongs to a dataset of other choices, files or software. Remove the file.")
    return images, notes
