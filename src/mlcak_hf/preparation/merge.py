"""Join the parts of a dataset that several machines prepared."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..errors import DatasetError
from .image_folder import listed
from .prepare import check_output, clear_up, finish, is_complete
from .report import PREPARATION_FILE, PreparationReport
from .shards.plan import PreparationPlan
from .shards.shard_files import read_shard_notes
from .shards.work_folder import WorkFolder, put

_same = partial(filecmp.cmp, shallow=False)


def merge_prepared(
    output_dir: str | Path, parts: Sequence[str | Path] = (), *, overwrite: bool = False
) -> PreparationReport:
    """Make a dataset from the parts that `mlcak prepare --shard` wrote.

    The bytes are those of a preparation on one machine. The source is not needed.

    Args:
        output_dir (`str` or `Path`):
            Folder to write. `OUTPUT.partial` is a part as well, and the only one if the machines shared the folder.
        parts (`Sequence`, *optional*, defaults to `()`):
            Copies of the `OUTPUT.partial` folders of other machines, under any name. They are kept.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace an earlier dataset in `output_dir`.

    Returns:
        `PreparationReport`: What was written and what was left out.

    Raises:
        [`DatasetError`]: When parts belong to different datasets, a shard is missing, damaged or exists in two
            versions, or the output cannot be written.
    """
    work = WorkFolder(output_dir)
    folders = [WorkFolder.given(part) for part in parts]
    with work.locked():
        work.recover()
        if work.plan_file.is_file():
            folders.insert(0, work)
        elif not folders and not overwrite and (work.output / PREPARATION_FILE).is_file():
            return clear_up(work)  # merged before
        plans = [PreparationPlan.read(folder.plan_file) for folder in folders or [work]]
        plan = plans[0]
        for folder, other in zip(folders, plans, strict=True):
            if reason := plan.difference(other):
                problem = f"{folders[0].path} and {folder.path} must be parts of the same dataset"
                raise DatasetError(f"{problem}; the first has {reason}. Prepare one of them again.")
        copies = {
            name: [path for folder in folders if (path := folder.data / f"{name}.parquet").is_file()]
            for name in plan.shard_names()
        }
        if is_complete(work, plan, overwrite):
            merged = work.output / "data"
            corrected = [p for name, paths in copies.items() for p in paths if not _same(merged / f"{name}.parquet", p)]
            if not corrected:
                return clear_up(work)
            if not overwrite:
                problem = f"{work.output} is complete, but {corrected[0]} holds other images, perhaps corrected ones"
                raise DatasetError(f"{problem}. Replace the dataset with overwrite=True (--overwrite).")
        check_output(work.output, overwrite, plan)
        _check_copies(copies, plan)
        work.start(plan.as_json())
        for name, paths in copies.items():
            if not (target := work.data / f"{name}.parquet").exists():
                unfinished = work.begin(name)
                shutil.copyfile(paths[0], unfinished)
                put(unfinished, target)
        same_source = len({other.files_state for other in plans}) == 1
        return finish(work, plan, plan.files_state if same_source else None)


def _check_copies(copies: dict[str, list[Path]], plan: PreparationPlan) -> None:
    missing = [name for name, paths in copies.items() if not paths]
    if missing:
        problem = f"{len(missing)} of {len(copies)} shards are missing: {listed(missing, 8)}"
        raise DatasetError(f"{problem}. Finish every part (mlcak prepare ... --shard), and name the folder of each.")
    for paths in copies.values():
        for path in paths:
            read_shard_notes(path, plan.fingerprint)
            if not _same(paths[0], path):
                raise DatasetError(f"{paths[0]} and {path} are the same shard but differ. Remove the damaged one.")
