"""Build a teacher cache: one pass of the teachers over V seeded views of every image, split over processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging

from ...configuration_mlcak import MLCAKConfig
from ...errors import CacheError
from ..attention import Aggregation, AttentionAlignment
from ..compatibility import check_teachers
from ..finite_check import first_names, rows_not_finite
from ..teachers import TeacherKnowledge, Teachers, as_list
from .key import CACHE_FORMAT, attention_key, pixels_key, processors_key, teacher_configs, teacher_key, views_key
from .store import CACHE_FILE, CacheFiles, TeacherCache, images_per_shard

logger = logging.get_logger(__name__)


def build_teacher_cache(
    folder: str | os.PathLike[str],
    teachers: Any,
    student: Any,
    dataset: Any,
    collator: Any,
    *,
    num_views: int,
    student_levels: Sequence[int] | None = None,
    attention: bool = True,
    aggregation: Aggregation = "mean",
    batch_size: int = 32,
    num_workers: int = 0,
    autocast: torch.dtype | None = None,
    progress_bar: bool = True,
) -> TeacherCache:
    """Build a teacher cache, go on building one, or open it if it is whole.

    Under `accelerate launch` each process makes its own shards, and all return when the cache is whole. A build that is
    killed loses at most the shards it was making. Nothing is loaded or run that is not needed: whether a whole cache is
    the right one follows from the fingerprints.

    Args:
        folder: of the cache; only one build at a time.
        teachers: a folder or a Hub id (or a model), or several of them: then the mean of what they know is kept.
        student: one of the students (or its config) that it is for. Others with the same grid of patches, levels and
            findings can use it too.
        dataset: training rows, each with its image and `index`.
        collator: the training collator, with every teacher's image processor (`MLCAKCollator`).
        num_views: V, at least 1. Epoch e of the training sees view e modulo V of every image.
        student_levels, aggregation: as in `MLCAKTrainingArguments`.
        attention: whether attention is kept; it is nearly all of the cache's size.
        batch_size: images at once.
        num_workers: worker processes that make views.
        autocast: `torch.bfloat16` or `torch.float16` runs the teachers in mixed precision.
        progress_bar: show one, on the main process.

    Returns:
        The cache, whole and verified.

    Raises:
        CacheError: if the folder holds a cache of something else, or there is no room for it.
        DistillationError: if a teacher cannot teach this student.
    """
    # Several processes on a machine without accelerator find each other only if told that they are on CPUs.
    state = PartialState(cpu=not torch.accelerator.is_available())
    kept: dict[str, Any] = {"student_levels": student_levels, "attention": attention, "aggregation": aggregation}
    description = describe_cache(teachers, student, dataset, collator, num_views=num_views, autocast=autocast, **kept)
    files = CacheFiles(Path(folder), description)
    if Path(folder, CACHE_FILE).exists():
        files = CacheFiles.open(folder)
        files.check(description["key"])
    elif state.is_main_process:
        files.create()
    missing = [number for number in range(files.num_shards) if not files.is_whole(number)]
    if missing:
        _check_room(files, missing)
    if missing and state.is_main_process:
        for partial in files.folder.glob(".*.partial"):
            partial.unlink()
    # Nobody writes before everybody has seen which shards are missing.
    state.wait_for_everyone()
    if missing:
        device = state.device
        asked = Teachers(teachers, student, **kept).prepare(lambda model: model.to(device), device)
        mine = missing[state.process_index :: state.num_processes]
        batches = _batches(files, mine, dataset, collator, batch_size, num_workers)
        with logging.tqdm(
            total=sum(len(files.images(number)) for number in mine) * num_views,
            desc="Teacher cache",
            unit="view",
            disable=not (progress_bar and state.is_main_process),
        ) as bar:
            name_of = getattr(dataset, "image_name", "row {}".format)
            _fill(files, asked, batches, device, autocast, bar, name_of)
        state.wait_for_everyone()
    return TeacherCache(folder, verify=bool(missing) and state.is_main_process)


def describe_cache(
    teachers: Any,
    student: Any,
    dataset: Any,
    collator: Any,
    *,
    num_views: int,
    student_levels: Sequence[int] | None = None,
    attention: bool = True,
    aggregation: Aggregation = "mean",
    autocast: torch.dtype | None = None,
) -> dict[str, Any]:
    """What `cache.json` of such a cache holds: key, record layout and the configs of the teachers.

    Args:
        teachers, student, dataset, collator, num_views, student_levels, attention, aggregation, autocast: as for
            `build_teacher_cache`.

    Returns:
        JSON.

    Raises:
        CacheError: if views or processors do not suit a cache.
        DistillationError: if a teacher cannot teach this student.
    """
    if num_views < 1:
        raise CacheError(f"A teacher cache needs at least 1 view of every image; got {num_views}.")
    if num_views > 1 and getattr(collator, "views", None) is None:
        raise CacheError(f"Without views (augment=false) all {num_views} views of an image are the same: ask for 1.")
    processors = as_list(collator.teacher_processor)
    if None in processors or len(processors) != len(as_list(teachers)):
        raise CacheError(
            f"The collator must have the image processor of each of the {len(as_list(teachers))} teachers "
            "(MLCAKCollator(..., teacher_processor=...))."
        )
    described = teacher_configs(teachers)
    configs = [MLCAKConfig(**config) for config in described]
    alignments = check_teachers(
        configs, student, student_levels=student_levels, attention=attention, aggregation=aggregation
    )
    key: dict[str, Any] = {"format": CACHE_FORMAT, "number of views": num_views}
    key |= {"precision": "float32" if autocast is None else str(autocast).removeprefix("torch.")}
    key |= pixels_key(dataset) | views_key(collator) | processors_key(processors)
    key |= teacher_key(teachers) | attention_key(alignments, configs)
    return {
        "key": key,
        "record": _record(configs[0], alignments[0]),
        "images per shard": images_per_shard(len(dataset)),
        "teachers": described,
    }


def _record(config: Any, alignment: AttentionAlignment | None) -> list[list[Any]]:
    """Fields of what is kept of a view: name, type, shape."""
    fields: list[list[Any]] = [["logits", "<f4", [config.num_labels]]]
    if config.local_labels:
        fields.append(["local_logits", "<f4", [len(config.local_labels)]])
    if alignment is not None:
        tokens = 1 + alignment.target_grid[0] * alignment.target_grid[1]
        maps = 1 if alignment.aggregation == "mean" else len(alignment.teacher_levels)
        fields.append(["attention", "<f2", [maps, tokens, tokens]])
    return fields


def _check_room(files: CacheFiles, missing: Sequence[int]) -> None:
    needed = sum(len(files.images(number)) for number in missing) * files.bytes_per_image
    files.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(files.folder).free
    if needed > free:
        raise CacheError(
            f"The teacher cache needs {needed / 1e9:.3f} GB more in {files.folder}, where {free / 1e9:.3f} GB are "
            "free. Make room, name another folder, or ask for fewer views."
        )


class _Views(Dataset[dict[str, Any]]):
    """Rows by (view, index), each with the number of the view."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        view, index = item
        row = self.dataset[index]
        if row.get("index") != index:
            raise CacheError(
                f"Row {index} of the dataset says that its index is {row.get('index')}. A cache is read by the index "
                "of a row, which must be its place in the dataset (RadiographDataset)."
            )
        return {**row, "view": view}


class _CollateOneView:
    """Only the teachers' pixels of rows of one view, whose collator is fixed to it: workers share no number."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.collator.at_epoch(rows[0]["view"])(rows)
        return {name: value for name, value in batch.items() if name.startswith("teacher_pixel_values")}


def _batches(
    files: CacheFiles, shards: Sequence[int], dataset: Any, collator: Any, batch_size: int, num_workers: int
) -> Iterator[tuple[int, int, slice, dict[str, torch.Tensor]]]:
    """(shard, view, places in the shard, the teachers' pixels), shard by shard and view by view."""
    places = [
        (number, view, slice(start, min(start + batch_size, len(files.images(number)))))
        for number in shards
        for view in range(files.num_views)
        for start in range(0, len(files.images(number)), batch_size)
    ]
    sampler = [[(view, index) for index in files.images(number)[chosen]] for number, view, chosen in places]
    loader = DataLoader(
        _Views(dataset), batch_sampler=sampler, collate_fn=_CollateOneView(collator), num_workers=num_workers
    )
    for (number, view, chosen), batch in zip(places, loader, strict=True):
        yield number, view, chosen, batch


def _fill(
    files: CacheFiles,
    teachers: Teachers,
    batches: Iterator[tuple[int, int, slice, dict[str, torch.Tensor]]],
    device: torch.device,
    autocast: torch.dtype | None,
    bar: Any,
    name_of: Callable[[int], str],
) -> None:
    """Ask the teachers and write each shard, while they are already asked about the next one."""
    current, records = -1, np.empty(0)
    written: Future[None] | None = None
    with ThreadPoolExecutor(max_workers=1) as writer:
        for number, view, chosen, batch in batches:
            if number != current:
                written = _hand_over(writer, files, current, records, written)
                current, records = number, np.zeros(files.shape(number), files.record)
            with torch.autocast(device.type, autocast) if autocast is not None else nullcontext():
                known = teachers({name: pixels.to(device, non_blocking=True) for name, pixels in batch.items()})
            _keep(records[view, chosen], known, [name_of(index) for index in files.images(number)[chosen]])
            bar.update(chosen.stop - chosen.start)
        written = _hand_over(writer, files, current, records, written)
        if written is not None:
            written.result()


def _hand_over(
    writer: ThreadPoolExecutor, files: CacheFiles, number: int, records: np.ndarray, written: Future[None] | None
) -> Future[None] | None:
    """Write a whole shard in the background; an error of the last one comes up here."""
    if written is not None:
        written.result()
    return writer.submit(files.write, number, records) if number >= 0 else None


def _keep(records: np.ndarray, known: TeacherKnowledge, names: list[str]) -> None:
    """Put what is known of some images into their records; refuse NaN and Inf, and name the images."""
    not_finite = rows_not_finite(vars(known))
    if not_finite:
        rows = sorted({row for rows in not_finite.values() for row in rows})
        raise CacheError(
            f"A teacher's {' and '.join(not_finite)} are not finite numbers for {len(rows)} of {len(names)} images: "
            f"{first_names(rows, names)}. Check its weights and these images; with float16, build in bfloat16 or "
            "float32."
        )
    for name in records.dtype.names or ():
        records[name] = getattr(known, name).cpu().numpy()
