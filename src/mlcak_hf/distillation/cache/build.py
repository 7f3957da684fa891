"""Build a teacher cache: run the teachers once on V seeded views of every image, split over processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging

from ...configuration_mlcak import MLCAKConfig
from ...data.collator import teacher_pixel_keys
from ...errors import CacheError
from ..attention import AttentionAlignment, AttentionOptions
from ..compatibility import check_teachers
from ..finite_check import first_names, rows_not_finite
from ..teachers import TeacherOutputs, Teachers, as_list
from .key import CACHE_FORMAT, attention_key, pixels_key, processors_key, teacher_configs, teacher_key, views_key
from .store import CACHE_FILE, CacheFiles, TeacherCache, images_per_shard

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class CacheOptions:
    """How a teacher cache is built.

    Args:
        num_views (`int`, *optional*, defaults to 4):
            V, at least 1. Epoch e of a training sees view e modulo V of every image.
        attention ([`AttentionOptions`], *optional*):
            Which attention is stored; it is nearly all of the cache's size. Defaults to all levels, averaged.
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

    num_views: int = 4
    attention: AttentionOptions = field(default_factory=AttentionOptions)
    batch_size: int = 32
    num_workers: int = 0
    autocast: torch.dtype | None = None
    progress_bar: bool = True

    def __post_init__(self) -> None:
        if self.num_views < 1:
            raise CacheError(f"cache_views must be at least 1; got {self.num_views}. Ask for one view or more.")


def build_teacher_cache(
    folder: str | os.PathLike[str],
    teachers: Any,
    student: Any,
    dataset: Any,
    collator: Any,
    options: CacheOptions | None = None,
) -> TeacherCache:
    """Build a teacher cache, resume building it, or open it if it is complete.

    Under `accelerate launch`, each process builds its own shards, and all return when the cache is complete. A build
    that is killed loses at most the shards in progress. Opening a complete cache neither loads nor runs a teacher:
    digests show whether it is the right one.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of the cache. Only one build may use it at a time.
        teachers (a model, `str` or `os.PathLike`, or several of them):
            Models, folders or Hub ids; the mean over several is stored.
        student ([`MLCAKForCXRClassification`] or [`MLCAKConfig`]):
            One of the students of the cache. Others with the same grid of patches, levels and findings can use it too.
        dataset:
            Training rows, each with its image and `index`.
        collator ([`MLCAKCollator`]):
            The training collator, with the image processor of every teacher.
        options ([`CacheOptions`], *optional*):
            Views, attention and speed.

    Returns:
        [`TeacherCache`]: The cache, complete and verified.

    Raises:
        [`CacheError`]: When the folder holds a different cache, or the disk is too small.
        [`DistillationError`]: When a teacher cannot teach this student.
    """
    options = CacheOptions() if options is None else options
    # Several processes on a machine without accelerator find each other only if told that they are on CPUs.
    state = PartialState(cpu=not torch.accelerator.is_available())
    description = describe_cache(teachers, student, dataset, collator, options)
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
        models = Teachers(teachers, student, options.attention).prepare(lambda model: model.to(device), device)
        mine = missing[state.process_index :: state.num_processes]
        batches = _batches(files, mine, dataset, collator, options)
        with logging.tqdm(
            total=sum(len(files.images(number)) for number in mine) * options.num_views,
            desc="Teacher cache",
            unit="view",
            disable=not (options.progress_bar and state.is_main_process),
        ) as bar:
            name_of = getattr(dataset, "image_name", "row {}".format)
            _fill(files, models, batches, device, options.autocast, bar, name_of)
        state.wait_for_everyone()
    return TeacherCache(folder, verify=bool(missing) and state.is_main_process)


def describe_cache(teachers: Any, student: Any, dataset: Any, collator: Any, options: CacheOptions) -> dict[str, Any]:
    """Return what `cache.json` contains: the key, the record layout and the configs of the teachers.

    Args:
        teachers, student, dataset, collator, options:
            As for `build_teacher_cache`.

    Returns:
        `dict[str, Any]`: JSON.

    Raises:
        [`CacheError`]: When views or processors do not suit a cache.
        [`DistillationError`]: When a teacher cannot teach this student.
    """
    if options.num_views > 1 and getattr(collator, "views", None) is None:
        raise CacheError(
            f"cache_views must be 1 without augmentation, because all views of an image are the same; got "
            f"{options.num_views}. Ask for 1 view, or set augment=true."
        )
    processors = as_list(collator.teacher_processor)
    if None in processors or len(processors) != len(as_list(teachers)):
        raise CacheError(
            f"The collator must have the image processor of each of the {len(as_list(teachers))} teachers. Pass them: "
            "MLCAKCollator(..., teacher_processor=...)."
        )
    described = teacher_configs(teachers)
    configs = [MLCAKConfig(**config) for config in described]
    alignments = check_teachers(configs, student, options.attention)
    key: dict[str, Any] = {"format": CACHE_FORMAT, "number of views": options.num_views}
    key |= {"precision": "float32" if options.autocast is None else str(options.autocast).removeprefix("torch.")}
    key |= pixels_key(dataset) | views_key(collator) | processors_key(processors)
    key |= teacher_key(teachers) | attention_key(alignments, configs)
    return {
        "key": key,
        "record": _record(configs[0], alignments[0]),
        "images per shard": images_per_shard(len(dataset)),
        "teachers": described,
    }


def _record(config: Any, alignment: AttentionAlignment | None) -> list[list[Any]]:
    """Return name, type and shape of every field that is stored of a view."""
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
            f"The teacher cache needs {needed / 1e9:.3f} GB more in {files.folder}, but only {free / 1e9:.3f} GB are "
            "free. Free some space, name another folder, or ask for fewer views."
        )


class _Views(Dataset[dict[str, Any]]):
    """Rows of a dataset, selected by (view, index)."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        view, index = item
        row = self.dataset[index]
        if row.get("index") != index:
            raise CacheError(
                f"The index of row {index} must be {index}; got {row.get('index')}. A cache is read by index: use a "
                "RadiographDataset, or number the rows."
            )
        return {**row, "view": view}


class _CollateOneView:
    """Collate the teachers' pixels of rows of one view; each batch fixes its own view, so workers share no state."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.collator.at_epoch(rows[0]["view"])(rows)
        return {name: batch[name] for name in teacher_pixel_keys(len(as_list(self.collator.teacher_processor)))}


def _batches(
    files: CacheFiles, shards: Sequence[int], dataset: Any, collator: Any, options: CacheOptions
) -> Iterator[tuple[int, int, slice, dict[str, torch.Tensor]]]:
    """Yield (shard, view, positions in the shard, the teachers' pixels), shard by shard and view by view."""
    size = options.batch_size
    places = [
        (number, view, slice(start, min(start + size, len(files.images(number)))))
        for number in shards
        for view in range(files.num_views)
        for start in range(0, len(files.images(number)), size)
    ]
    sampler = [[(view, index) for index in files.images(number)[chosen]] for number, view, chosen in places]
    loader = DataLoader(
        _Views(dataset), batch_sampler=sampler, collate_fn=_CollateOneView(collator), num_workers=options.num_workers
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
    """Run the teachers and write each shard while they already run on the next one."""
    current, records = -1, np.empty(0)
    written: Future[None] | None = None
    with ThreadPoolExecutor(max_workers=1) as writer:
        for number, view, chosen, batch in batches:
            if number != current:
                written = _hand_over(writer, files, current, records, written)
                current, records = number, np.zeros(files.shape(number), files.record)
            with torch.autocast(device.type, autocast) if autocast is not None else nullcontext():
                outputs = teachers({name: pixels.to(device, non_blocking=True) for name, pixels in batch.items()})
            _keep(records[view, chosen], outputs, [name_of(index) for index in files.images(number)[chosen]])
            bar.update(chosen.stop - chosen.start)
        written = _hand_over(writer, files, current, records, written)
        if written is not None:
            written.result()


def _hand_over(
    writer: ThreadPoolExecutor, files: CacheFiles, number: int, records: np.ndarray, written: Future[None] | None
) -> Future[None] | None:
    """Write a complete shard in the background; an error while writing the last one is raised here."""
    if written is not None:
        written.result()
    return writer.submit(files.write, number, records) if number >= 0 else None


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
