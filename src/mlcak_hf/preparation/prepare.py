"""A source of radiographs and labels -> a folder of Parquet files that `load_dataset` reads anywhere.

The work is cut into shards, each written atomically. So the same call resumes after a kill, several machines can share
the work, and the bytes are those of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from transformers.utils import logging

from ..errors import DatasetError
from .card import dataset_card
from .report import PREPARATION_FILE, PreparationReport
from .shards.plan import PreparationPlan, changed_choices
from .shards.shard_files import is_finished, start_work, write_shards
from .shards.work_folder import WorkFolder
from .source import PreparationSource
from .suspect_images import suspect_sentences

logger = logging.get_logger(__name__)

SOURCE_STATE_FILE = ".source-state"
"""Digest of names, sizes and modification times of the source's images. It is not part of the dataset, as the times
differ between machines."""


class PartReport(NamedTuple):
    """What `prepare_part` did.

    Args:
        work_dir (`Path`):
            Folder of the finished shards.
        written (`int`):
            Number of this part's shards that were written now.
        found (`int`):
            Number of this part's shards that were finished before.
        finished (`int`):
            Number of finished shards of all parts in the folder.
        of (`int`):
            Number of shards of the whole dataset.
    """

    work_dir: Path
    written: int
    found: int
    finished: int
    of: int


def prepare_dataset(
    source: PreparationSource, output_dir: str | Path, *, num_proc: int = 1, overwrite: bool = False
) -> PreparationReport:
    """Write a source as a dataset that `load_dataset(output_dir)` reads anywhere. Nothing is uploaded.

    The folder appears when it is complete: `data/{split}-NNNNN-of-NNNNN.parquet`, `README.md` (dataset card) and
    `preparation.json` ([`PreparationReport`]). Unfinished work stays in `OUTPUT.partial`, where the same call resumes.
    A terminal shows a progress bar, unless `transformers.utils.logging.disable_progress_bar` was called.

    Args:
        source (`PreparationSource`):
            The source and its options.
        output_dir (`str` or `Path`):
            Folder to write; must be new or empty.
        num_proc (`int`, *optional*, defaults to 1):
            Number of processes that decode at the same time. The bytes do not depend on it.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace an earlier dataset in `output_dir`, and unfinished work with other choices. A folder with any other
            files is always refused.

    Returns:
        `PreparationReport`: What was written and what was left out.

    Raises:
        [`DatasetError`]: When folder, tables or groups cannot be used, the output cannot be written, or another
            process is writing it.
        [`LabelError`]: When labels are unknown or contradictory.
        [`DicomError`]: When a radiograph cannot be read, with `on_error="raise"`.
    """
    if num_proc < 1:
        raise DatasetError(f"num_proc must be at least 1; got {num_proc}.")
    images, work = source.read(), WorkFolder(output_dir)
    plan = PreparationPlan.of(source, images)
    with work.locked():
        work.recover()
        if is_complete(work, plan, overwrite, source.options.on_error):
            state = work.output / SOURCE_STATE_FILE
            if not state.is_file() or state.read_text(encoding="utf-8").strip() == plan.files_state:
                return clear_up(work)
            if not overwrite:
                modified = f"{work.output} is complete, but images of the source were modified since"
                raise DatasetError(f"{modified}. Prepare them again with overwrite=True (--overwrite).")
        check_output(work.output, overwrite, plan)
        restart = "Remove that folder, or start again with overwrite=True (--overwrite)."
        start_work(work, plan, overwrite or not any(work.data.glob("*.parquet")), restart)
        write_shards(source, images, plan, work, plan.shard_names(), num_proc)
        return finish(work, plan, plan.files_state)


def prepare_part(
    source: PreparationSource,
    output_dir: str | Path,
    part: tuple[int, int],
    *,
    num_proc: int = 1,
    overwrite: bool = False,
) -> PartReport:
    """Write one machine's part of the shards; [`merge_prepared`] makes the dataset from all parts.

    Args:
        source (`PreparationSource`):
            The source and its options.
        output_dir (`str` or `Path`):
            Folder that the dataset is for. The shards stay in `OUTPUT.partial`, where several machines may work at the
            same time; unfinished work with other choices is never removed there.
        part (`tuple[int, int]`):
            `(i, n)`: every n-th shard, beginning with shard i.
        num_proc, overwrite (*optional*):
            As in [`prepare_dataset`].

    Returns:
        `PartReport`: How many shards there are now.

    Raises:
        [`DatasetError`]: When there is no such part, or as in [`prepare_dataset`].

    Example:
        ```python
        >>> from mlcak_hf.preparation.merge import merge_prepared
        >>> from mlcak_hf.preparation.prepare import prepare_part
        >>> from mlcak_hf.vindr_cxr.vindr_source import VinDrSource
        >>> for i in range(2):  # on two machines, with a folder that both see
        ...     prepare_part(VinDrSource("vindr-cxr/1.0.0"), "vindr-256", (i, 2))  # doctest: +SKIP
        >>> report = merge_prepared("vindr-256")  # doctest: +SKIP
        ```
    """
    index, count = part
    if not 0 <= index < count:
        raise DatasetError(f"A part must be I/N with 0 <= I < N; got {index}/{count}. Four machines use 0/4 to 3/4.")
    images, work = source.read(), WorkFolder(output_dir)
    plan = PreparationPlan.of(source, images)
    names = plan.shard_names()
    mine = names[index::count]
    with work.locked(part):
        check_output(work.output, overwrite, plan)
        start_work(work, plan, may_restart=False, restart="Remove that folder, and start every part again.")
        found = write_shards(source, images, plan, work, mine, num_proc)
        finished = sum(is_finished(work, plan, name) for name in names)
    return PartReport(work.path, len(mine) - found, found, finished, len(names))


def is_complete(work: WorkFolder, plan: PreparationPlan, overwrite: bool, on_error: str = "skip") -> bool:
    """Return whether the dataset of this plan is in its place, so that a call after a kill has nothing left to do."""
    try:
        report = PreparationReport.read(work.output)
    except DatasetError:
        return False
    others = report.fingerprint != plan.fingerprint or (report.skipped and on_error == "raise")
    if others or (overwrite and not work.is_published):  # once published, a kill only prevented the clearing up
        return False
    return all((work.output / "data" / f"{name}.parquet").is_file() for name in plan.shard_names())


def clear_up(work: WorkFolder) -> PreparationReport:
    """Finish a preparation that was killed after the dataset had reached its place."""
    logger.warning(f"{work.output} is already complete; nothing to do.")
    work.discard()
    return PreparationReport.read(work.output)


def check_output(output: Path, overwrite: bool, plan: PreparationPlan) -> None:
    """Refuse to write over anything except an earlier dataset, and that only when asked."""
    if output.exists() and not output.is_dir():
        raise DatasetError(f"The output must be a folder; got the file {output}. Name a new folder.")
    is_prepared = (output / PREPARATION_FILE).is_file()
    if not output.exists() or not any(output.iterdir()) or (is_prepared and overwrite):
        return
    if not is_prepared:
        raise DatasetError(f"{output} holds files that are not a prepared dataset. Name a new folder.")
    reason = ""
    with contextlib.suppress(DatasetError):
        there = PreparationReport.read(output)
        reason = changed_choices(there.choices, plan.choices) or changed_choices(there.software, plan.software)
    problem = f"{output} is not empty but holds another dataset{reason and ': '}{reason}"
    raise DatasetError(f"{problem}. Name a new folder, or pass overwrite=True (--overwrite).")


def finish(work: WorkFolder, plan: PreparationPlan, files_state: str | None) -> PreparationReport:
    """Count the rows, write card and report, and move the folder into place.

    Args:
        work (`WorkFolder`):
            Folder with all shards.
        plan (`PreparationPlan`):
            What they should hold.
        files_state (`str`, *optional*):
            Digest of the state of the source's files, to notice later changes. `None` if several machines read copies.

    Returns:
        `PreparationReport`: What was written.
    """
    unknown = {path.name for path in work.data.iterdir()} - {f"{name}.parquet" for name in plan.shard_names()}
    if unknown:
        raise DatasetError(f"{work.data} holds {min(unknown)}, which is not a shard of this dataset. Move it away.")
    report = PreparationReport.count(plan, work.data, work.output)
    work.write_text(work.dataset / PREPARATION_FILE, report.as_json())
    work.write_text(work.dataset / "README.md", str(dataset_card(report, plan.card, work.data)) + "\n")
    if files_state is not None:
        work.write_text(work.dataset / SOURCE_STATE_FILE, files_state + "\n")
    work.publish()
    for _, sentence, ids in suspect_sentences(report.suspect_images):
        logger.warning(f"{sentence}. The first: {ids[0]}.")
    return report
