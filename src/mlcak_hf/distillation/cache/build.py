"""Build a teacher cache: run the teachers once on V seeded views of every image, split over processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader
from transformers.utils import logging

from ...data.collator import teacher_pixel_keys
from ...data.device_views import DRAWN_VIEWS
from ...errors import CacheError
from ..finite_check import first_names, image_names, rows_not_finite
from ..teachers import TeacherOutputs, Teachers
from .key import CACHE_FORMAT, cache_key, described_configs
from .store import CACHE_FILE, CacheFiles, TeacherCache

# Every mapped shard keeps a file open, so their number is limited; small ones lose little when a build is killed.
_MAX_SHARDS = 256
_MIN_SHARD_IMAGES = 128


@dataclass(frozen=True)
class CacheOptions:
    """How a teacher cache is built.

    Args:
        num_views (`int`, *optional*):
            V, at least 1. Epoch e of a training sees view e modulo V of every image. Defaults to the number in an
            existing cache, else 4, or 1 without augmentation.
        batch_size (`int`, *optional*, defaults to 32):
            Images per forward pass.
        num_workers (`int`, *optional*, defaults to 0):
            Worker processes that make views.
        autocast (`torch.dtype`, *optional*):
            `torch.bfloat16` or `torch.float16` runs the teachers in mixed precision. Defaults to float32.
        progress_bar (`bool`, *optional*, defaults to `True`):
            Whether the main process shows a progress bar.

    Raises:
        [`CacheError`]: When `num_views` is below 1.
    """

    num_views: int | None = None
    batch_size: int = 32
    num_workers: int = 0
    autocast: torch.dtype | None = None
    progress_bar: bool = True

    def __post_init__(self) -> None:
        if self.num_views is not None and self.num_views < 1:
            raise CacheError(f"cache_views must be at least 1; got {self.num_views}. Ask for one view or more.")


def build_teacher_cache(
    folder: str | os.PathLike[str], teachers: Teachers, dataset: Any, collator: Any, options: CacheOptions | None = None
) -> TeacherCache:
    """Build a teacher cache, resume building it, or open it if it is complete.

    Under `accelerate launch`, each process builds its own shards, and all return when the cache is complete. A build
    that is killed loses at most the shards in progress. Opening a complete cache neither loads nor runs a teacher:
    digests show whether it is the right one.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of the cache. Only one build may use it at a time.
        teachers ([`Teachers`]):
            The teachers, aligned with one of the students of the cache. Others with the same grid of patches, levels
            and findings can use it too. Attention is nearly all of the cache's size.
        dataset:
            Training rows, each with its image and `index`.
        collator ([`MLCAKCollator`]):
            The training collator, with the image processor of every teacher.
        options ([`CacheOptions`], *optional*):
            Views and speed.

    Returns:
        [`TeacherCache`]: The cache, complete and verified.

    Raises:
        [`CacheError`]: When the folder holds a different cache, or the disk is too small.
    """
    options = CacheOptions() if options is None else options
    # Several processes on a machine without accelerator find each other only if told that they are on CPUs.
    state = PartialState(cpu=not torch.accelerator.is_available())
    found = CacheFiles(folder) if Path(folder, CACHE_FILE).exists() else None
    if options.num_views is None:
        options = replace(options, num_views=found.num_views if found else 4 if collator.views is not None else 1)
    files = CacheFiles(folder, describe_cache(teachers, dataset, collator, options))
    if found:
        found.check(files.key)
    elif state.is_main_process:
        files.create()
    missing = [number for number in range(files.num_shards) if not files.is_whole(number)]
    _check_room(files, missing)
    if missing and state.is_main_process:
        for unfinished in files.folder.glob(".*.partial"):
            unfinished.unlink()
    # Nobody writes before everybody has seen which shards are missing.
    state.wait_for_everyone()
    if missing:
        teachers.prepare(lambda model: model.to(state.device), state.device)
        fill_shards(files, missing[state.process_index :: state.num_processes], teachers, dataset, collator, options)
        del teachers.models  # Training from the cache does not need them.
        state.wait_for_everyone()
    return TeacherCache(folder, verify=bool(missing) and state.is_main_process)


def describe_cache(teachers: Teachers, dataset: Any, collator: Any, options: CacheOptions) -> dict[str, Any]:
    """Return what `cache.json` contains: the key, the layout of a record, and the configs of the teachers.

    Args:
        teachers, dataset, collator, options:
            As for `build_teacher_cache`.

    Raises:
        [`CacheError`]: When views or processors do not suit a cache.
    """
    num_views = options.num_views or 1
    if num_views > 1 and collator.views is None:
        raise CacheError(
            f"cache_views must be 1 without augmentation, because all views of an image are the same; got {num_views}. "
            "Ask for 1 view, or set augment=true."
        )
    if len(collator.teacher_processors) != len(teachers.sources):
        raise CacheError(
            f"The collator must have the image processor of each of the {len(teachers.sources)} teachers. Pass them: "
            "MLCAKCollator(..., teacher_processor=...)."
        )
    precision = str(options.autocast or torch.float32).removeprefix("torch.")
    key = {"format": CACHE_FORMAT, "number of views": num_views, "precision": precision}
    alignment, record = teachers.alignment, []
    if teachers.global_columns:
        record.append(["logits", "<f4", [len(teachers.labels.global_labels)]])
    if teachers.local_columns:
        record.append(["local_logits", "<f4", [len(teachers.labels.local_labels)]])
    if alignment is not None:
        tokens = 1 + alignment.target_grid[0] * alignment.target_grid[1]
        maps = 1 if alignment.aggregation == "mean" else len(alignment.teacher_levels)
        record.append(["attention", "<f2", [maps, tokens, tokens]])
    return {
        "key": key | cache_key(teachers, collator, dataset),
        "record": record,
        "images per shard": max(_MIN_SHARD_IMAGES, -(-len(dataset) // _MAX_SHARDS)),
        "teachers": described_configs(teachers),
        "taught": [asdict(taught) for taught in teachers.taught],
    }


def _check_room(files: CacheFiles, missing: Sequence[int]) -> None:
    needed = sum(len(files.images(number)) for number in missing) * files.num_views * files.record.itemsize
    files.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(files.folder).free
    if needed > free:
        raise CacheError(
            f"The teacher cache needs {needed / 1e9:.3f} GB more in {files.folder}, but only {free / 1e9:.3f} GB are "
            "free. Free some space, name another folder, or ask for fewer views."
        )


class _Place(NamedTuple):
    """Some images of one view of a shard."""

    shard: int
    view: int
    images: range


def _teacher_pixels(dataset: Any, collator: Any, place: _Place) -> dict[str, Any]:
    """Make the teachers' pixels for a place, which fixes its own view, so workers share no state.

    Or only draw the views; the device makes their pixels.
    """
    rows = [dataset[index] for index in place.images]
    for index, row in zip(place.images, rows, strict=True):
        if row.get("index") != index:
            raise CacheError(
                f"The index of row {index} must be {index}; got {row.get('index')}. A cache is read by index: use "
                "a RadiographDataset, or number the rows."
            )
    batch = collator.at_epoch(place.view)(rows)
    names = (DRAWN_VIEWS, *teacher_pixel_keys(len(collator.teacher_processors)))
    return {name: batch[name] for name in names if name in batch}


def fill_shards(
    files: CacheFiles, shards: Sequence[int], teachers: Teachers, dataset: Any, collator: Any, options: CacheOptions
) -> None:
    """Run the teachers on the images of some shards, and write each shard while they already run on the next one.

    Args:
        files ([`CacheFiles`]):
            The cache.
        shards (`Sequence[int]`):
            Numbers of the shards.
        teachers, dataset, collator, options:
            As for `build_teacher_cache`; the teachers on their device.
    """
    places: Any = [
        _Place(number, view, files.images(number)[start : start + options.batch_size])
        for number in shards
        for view in range(files.num_views)
        for start in range(0, len(files.images(number)), options.batch_size)
    ]
    # Every place is a batch of its own.
    pixels_of = partial(_teacher_pixels, dataset, collator)
    loader: Any = DataLoader(places, batch_size=None, collate_fn=pixels_of, num_workers=options.num_workers)
    state = PartialState()
    quiet, num_views = not (options.progress_bar and state.is_main_process), sum(len(place.images) for place in places)
    with (
        logging.tqdm(total=num_views, desc="Teacher cache", unit="view", disable=quiet) as bar,
        ThreadPoolExecutor(max_workers=1) as writer,
    ):
        written = writer.submit(lambda: None)
        for number, batches in groupby(zip(places, loader, strict=True), key=lambda batch: batch[0].shard):
            records = np.zeros((files.num_views, len(files.images(number))), files.record)
            for place, batch in batches:
                if DRAWN_VIEWS in batch:
                    batch = collator.add_pixels(batch, student=False)
                with torch.autocast(state.device.type, options.autocast) if options.autocast else nullcontext():
                    outputs = teachers({name: pixels.to(state.device) for name, pixels in batch.items()})
                start, size = place.images.start - files.images(number).start, len(place.images)
                _keep(records[place.view, start : start + size], outputs, image_names(dataset, place.images))
                bar.update(size)
            written.result()  # An error while writing the last shard is raised here.
            written = writer.submit(files.write, number, records)
        written.result()


def _keep(records: np.ndarray, outputs: TeacherOutputs, names: list[str]) -> None:
    not_finite = rows_not_finite(vars(outputs))
    if not_finite:
        rows = sorted({row for rows in not_finite.values() for row in rows})
        raise CacheError(
            f"A teacher's {' and '.join(not_finite)} must be finite; got NaN or Inf for {len(rows)} of {len(names)} "
            f"images: {first_names(rows, names)}. Check its weights and these images, or use bf16 instead of fp16."
        )
    for name in records.dtype.names or ():
        records[name] = getattr(outputs, name).cpu().numpy()
