"""A VinDr-CXR folder -> a folder of Parquet files that plain `load_dataset` reads anywhere. Nothing is uploaded.

The work is cut into shards. Each is finished or not begun, whatever happens in between, so that the same call goes on
after a kill, several machines can share the work, and the bytes are those of an undisturbed run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..errors import DatasetError, DicomError
from ..radiographs.grey_values import ValueRange
from ..radiographs.read import Fit
from ..vindr_cxr.labels import Aggregation
from ..vindr_cxr.layout import Layout
from ..vindr_cxr.splits import DatasetSplits, read_splits
from ..worker_processes import stream_from_processes
from . import shards
from .card import dataset_card
from .plan import PreparationPlan
from .report import PREPARATION_FILE, PreparationReport, read_preparation, source_folder
from .rows import VinDrCXRConfig
from .shards import SKIP, ShardTask, read_notes, write_shard
from .work_folder import WorkFolder, explained_write

logger = logging.get_logger(__name__)

SOURCE_STATE_FILE = ".source-state"
"""Digest of names, sizes and times of change of the source's images. It stays beside the dataset's files, not in them:
the same images have other times on another machine."""
_CHANGED = "images of the source were written anew"


@dataclass(frozen=True)
class PartReport:
    """What `prepare_vindr_cxr_part` did.

    Args:
        work_dir: Where the finished shards lie.
        written: Number of this part's shards that it wrote.
        found: Number of this part's shards that were finished before.
        finished: Number of shards of all parts that lie there.
        of: Number of shards of the whole dataset.
    """

    work_dir: Path
    written: int
    found: int
    finished: int
    of: int


def prepare_vindr_cxr(
    data_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    size_px: int = 256,
    bits: int = 8,
    fit: Fit = "pad",
    voi: str = "dicom",
    value_range: ValueRange | None = None,
    aggregation: Aggregation = "majority",
    annotated: Sequence[str] | None = None,
    groups: str | os.PathLike[str] | None = None,
    validation_fraction: float = 0.15,
    seed: int = 0,
    on_error: str = "raise",
    layout: Layout = "auto",
    sizes: str | os.PathLike[str] | None = None,
    test_fraction: float | None = None,
    num_proc: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> PreparationReport:
    """Write a local folder in VinDr-CXR's layout as a dataset that `load_dataset(output_dir)` reads anywhere.

    The folder appears only when it is complete: `data/{split}-NNNNN-of-NNNNN.parquet`, `README.md` (dataset card) and
    `preparation.json` (choices, images of each split, and what was left out). Until then the work lies beside it in
    `OUTPUT.partial`; after a kill or an error the same call goes on from there.

    Args:
        data_dir: Folder in PhysioNet's or Kaggle's layout, as in `mlcak_hf.load_vindr_cxr`.
        output_dir: Folder to write; must be new or empty.
        size_px, fit, voi, value_range, aggregation, annotated, groups, validation_fraction, seed, on_error, layout,
            sizes, test_fraction: As in `mlcak_hf.load_vindr_cxr`.
        bits: Of the stored images, 8 or 16 per pixel.
        num_proc: Processes that decode at the same time; the bytes do not depend on it.
        overwrite: Replace a dataset that an earlier preparation left in `output_dir`, and work that it left unfinished
            with other choices. Any other folder with files in it is refused all the same.
        progress: Whether to show a progress bar.

    Returns:
        What was written and what was left out.

    Raises:
        DatasetError: Folder, tables, groups or output folder are not as they must be, unfinished work of other choices
            lies there, or something cannot be written.
        LabelError: An unknown label or aggregation, or labels that contradict themselves.
        DicomError: A radiograph cannot be read, with on_error="raise".

    Example:

    ```python
    >>> from mlcak_hf.data import prepare_vindr_cxr
    >>> report = prepare_vindr_cxr("vindr-cxr/1.0.0", "vindr-256", num_proc=4, on_error="skip")
    >>> report.splits["train"].images, len(report.left_out)
    ```
    """
    config = VinDrCXRConfig(
        size_px=size_px,
        bits=bits,
        fit=fit,
        voi=voi,  # type: ignore[arg-type]  # checked there
        value_range=value_range,
        aggregation=aggregation,
        annotated=annotated,
        groups=None if groups is None else str(groups),
        validation_fraction=validation_fraction,
        seed=seed,
        on_error=on_error,
        layout=layout,
        sizes=None if sizes is None else str(sizes),
        test_fraction=test_fraction,
        data_dir=str(data_dir),
    )
    work = WorkFolder(Path(output_dir).expanduser().absolute())
    splits = read_splits(config)
    plan = PreparationPlan.of(config, splits)
    with explained_write(work.output):
        work.recover()
        if is_complete(work, plan, overwrite, on_error):
            if not _source_changed(work, plan):
                return clear_up(work)
            if not overwrite:
                raise DatasetError(
                    f"{work.output} is complete, but {_CHANGED} since; prepare them again with overwrite=True"
                    " (--overwrite)"
                )
        check_output(work.output, overwrite)
        _start(work, plan, may_restart=overwrite or not work.has_shards)
    _write(work, plan, plan.shard_names(), config, splits, num_proc, progress)
    with explained_write(work.output):
        return finish(work, plan, plan.files_state)


def prepare_vindr_cxr_part(
    data_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    part: tuple[int, int],
    *,
    num_proc: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **choices: Any,
) -> PartReport:
    """Write one machine's part of the shards of a dataset; `merge_prepared` makes the dataset of all parts.

    Args:
        data_dir, output_dir, num_proc, overwrite, progress: As in `prepare_vindr_cxr`. The shards are left in
            `OUTPUT.partial`, where several machines may work at the same time. Unfinished work of other choices there
            is never removed.
        part: (i, n): those shards whose number among all, from 0, leaves i when divided by n.
        choices: The other arguments of `prepare_vindr_cxr`.

    Returns:
        How many shards there are now.

    Raises:
        DatasetError, LabelError, DicomError: As `prepare_vindr_cxr`, or no such part.

    Example:

    ```python
    >>> from mlcak_hf.data import merge_prepared, prepare_vindr_cxr_part
    >>> for i in range(2):  # on two machines, with a folder that both see
    ...     prepare_vindr_cxr_part("vindr-cxr/1.0.0", "vindr-256", (i, 2))
    >>> report = merge_prepared("vindr-256")
    ```
    """
    index, count = part
    if not 0 <= index < count:
        raise DatasetError(f"a part is I/N with 0 <= I < N, 0/4 to 3/4 for four machines, but {index}/{count} came")
    config = VinDrCXRConfig(data_dir=str(data_dir), **choices)
    work = WorkFolder(Path(output_dir).expanduser().absolute())
    splits = read_splits(config)
    plan = PreparationPlan.of(config, splits)
    with explained_write(work.output):
        check_output(work.output, overwrite)
        _start(work, plan, may_restart=False, start_anew="remove that folder, and begin every part anew")
    names = plan.shard_names()[index::count]
    found = _write(work, plan, names, config, splits, num_proc, progress)
    finished = sum(_finished(work, plan, name) for name in plan.shard_names())
    return PartReport(work.path, len(names) - found, found, finished, len(plan.shard_names()))


def is_complete(work: WorkFolder, plan: PreparationPlan, overwrite: bool, on_error: str = "skip") -> bool:
    """Whether the dataset of this very plan is in its place, so that a call after a kill has nothing left to do."""
    try:
        record = read_preparation(work.output)
    except DatasetError:
        return False
    if record.get("fingerprint") != plan.fingerprint or (record["left_out"] and on_error == "raise"):
        return False
    if overwrite and not work.is_published:  # else a kill only kept the call from clearing up
        return False
    return all((work.output / "data" / f"{name}.parquet").is_file() for name in plan.shard_names())


def _source_changed(work: WorkFolder, plan: PreparationPlan) -> bool:
    """Whether images were written anew since the dataset was made, as far as it says of which state they were."""
    state_file = work.output / SOURCE_STATE_FILE
    return state_file.is_file() and state_file.read_text(encoding="utf-8").strip() != plan.files_state


def clear_up(work: WorkFolder) -> PreparationReport:
    """Do what remains of a preparation that a kill met after the dataset had come to its place."""
    logger.warning(f"{work.output} is complete already; nothing to do.")
    work.discard()
    return PreparationReport.read(work.output)


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse to write over anything but an older dataset, and that only when asked."""
    if not output.exists():
        return
    if not output.is_dir():
        raise DatasetError(f"{output} is a file; name a folder to write the dataset to")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise DatasetError(f"{output} is not empty; name a new folder, or pass overwrite=True (--overwrite)")
    if not (output / PREPARATION_FILE).is_file():
        raise DatasetError(f"{output} holds no prepared dataset but other files, and is left alone; name a new folder")


def _start(
    work: WorkFolder,
    plan: PreparationPlan,
    may_restart: bool,
    start_anew: str = "remove that folder, or start anew with overwrite=True (--overwrite)",
) -> None:
    """Go on with unfinished work of the same plan; refuse any other, or remove it."""
    if work.plan_file.is_file():
        there = PreparationPlan.read(work.plan_file)
        reason, remedy = there.difference(plan), f"To go on with it, repeat the call that began it; else {start_anew}"
        if reason is None and there.files_state != plan.files_state:
            reason, remedy = f"{_CHANGED} since", start_anew.capitalize()  # no call could go on with it
        if reason is None and not work.is_published:
            return
        if reason is not None and not may_restart:
            raise DatasetError(f"{work.path} holds unfinished work that does not fit: {reason}. {remedy}")
        work.discard()
    work.start(plan.as_json())


def _write(
    work: WorkFolder,
    plan: PreparationPlan,
    names: Sequence[str],
    config: VinDrCXRConfig,
    splits: DatasetSplits,
    num_proc: int | None,
    progress: bool,
) -> int:
    """Write those of the named shards that are not there; return how many were."""
    if num_proc is not None and num_proc < 1:
        raise DatasetError(f"num_proc must be at least 1, but {num_proc} came")
    tasks = {task.name: task for task in _tasks(work, plan, config, splits)}
    missing = [name for name in names if not _finished(work, plan, name, config.on_error)]
    done = len(names) - len(missing)
    if done:
        logger.warning(f"{done} of {len(names)} shards were finished before; going on with the others.")
    work.forget_unfinished(missing)
    images = {name: len(tasks[name].images) for name in names}
    found = sum(images.values()) - sum(images[name] for name in missing)
    missing.sort(key=images.__getitem__, reverse=True)  # small ones last: no process waits long for another
    try:
        images_done = stream_from_processes(
            write_shard,
            [tasks[name] for name in missing],
            num_proc or 1,
            doing=lambda task: f"writing {task.name}",
            advice="Finished shards are kept, and the same command continues.",
            preload=shards.__name__,
        )
        total = sum(images.values())
        bar = logging.tqdm(
            images_done, total=total, initial=found, desc="radiographs", unit="image", disable=not progress
        )
        for _ in bar:
            pass
    finally:
        work.forget_unfinished(missing)
    return done


def _tasks(work: WorkFolder, plan: PreparationPlan, config: VinDrCXRConfig, splits: DatasetSplits) -> list[ShardTask]:
    tasks = []
    for split, images in splits.images.items():
        for number, name in enumerate(plan.shard_names(split)):
            records = images[number * plan.images_per_shard : (number + 1) * plan.images_per_shard]
            tasks.append(
                ShardTask(
                    name=name,
                    source_folder=source_folder(split, config.layout),
                    images=records,
                    per_reader=split == "train" and config.aggregation == "none",
                    config=config,
                    pseudonyms=splits.pseudonyms and {r.group: splits.pseudonyms[r.group] for r in records},
                    identity=plan.identity | {"shard": name},
                    work=work,
                )
            )
    return tasks


def _finished(work: WorkFolder, plan: PreparationPlan, name: str, on_error: str = "skip") -> bool:
    """Whether a shard is there, whole, and such as it would be written now."""
    path = work.data / f"{name}.parquet"
    if not path.is_file():
        return False
    try:
        notes = read_notes(path, plan.fingerprint)
    except DatasetError as error:
        logger.warning(f"{error}; it is written anew.")
        return False
    if notes.left_out and on_error == "raise":
        raise DicomError(f"{notes.left_out[0].reason}. To go on without such images: {SKIP}")
    return True


def finish(work: WorkFolder, plan: PreparationPlan, files_state: str | None) -> PreparationReport:
    """Count, write card and record, and put the folder in its place.

    Args:
        work: With all shards.
        plan: What they were to be.
        files_state: Names the state of the source's files, to notice when they change; None where several machines
            read copies of their own, of which nothing can be said later.

    Returns:
        What was made.
    """
    strangers = {path.name for path in work.data.iterdir()} - {f"{name}.parquet" for name in plan.shard_names()}
    if strangers:
        raise DatasetError(f"{work.data} holds {min(strangers)}, which is no shard of this dataset; move it away")
    report = PreparationReport.count(plan, work.data, work.output)
    work.write_whole(work.dataset / PREPARATION_FILE, report.as_json())
    work.write_whole(work.dataset / "README.md", str(dataset_card(report, work.data)) + "\n")
    if files_state is not None:
        work.write_whole(work.dataset / SOURCE_STATE_FILE, files_state + "\n")
    work.publish()
    for _, sentence, ids in report.doubts.sentences():
        logger.warning(f"{sentence}. The first: {ids[0]}")
    return report
