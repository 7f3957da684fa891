"""Parts of a dataset that several machines prepared -> the dataset."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import DatasetError
from .prepare import check_output, clear_up, finish, is_complete
from .report import PREPARATION_FILE, PreparationReport
from .shards.plan import PreparationPlan
from .shards.shard_files import read_shard_notes
from .shards.work_folder import WorkFolder, explained_write, put


def merge_prepared(
    output_dir: str | os.PathLike[str], parts: Sequence[str | os.PathLike[str]] = (), *, overwrite: bool = False
) -> PreparationReport:
    """Make a dataset from the parts that `mlcak prepare --shard` wrote.

    The bytes are those of a preparation on one machine. The source is not needed.

    Args:
        output_dir (`str` or `os.PathLike`):
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
    work = WorkFolder(Path(output_dir).expanduser().absolute())
    folders = [WorkFolder.given(Path(part).expanduser().absolute()) for part in parts]
    with explained_write(work.output):
        work.recover()
        if not folders and not overwrite and not work.path.exists() and (work.output / PREPARATION_FILE).is_file():
            return clear_up(work)  # merged before
        if work.plan_file.is_file() or not folders:
            folders.insert(0, work)
        plans = [PreparationPlan.read(folder.plan_file) for folder in folders]
        plan = plans[0]
        _check_same(folders, plans)
        if is_complete(work, plan, overwrite):
            other = _other_shard(work, plan, folders)
            if other is None:
                return clear_up(work)
            if not overwrite:
                raise DatasetError(
                    f"{work.output} is complete, but {other} holds other images, as after a correction of the source."
                    " Replace the dataset with overwrite=True (--overwrite)."
                )
        check_output(work.output, overwrite, plan)
        sources = _find_shards(plan, folders)
        work.start(plan.as_json())
        for name, path in sources.items():
            if not (target := work.data / f"{name}.parquet").exists():
                unfinished = work.begin(name)
                shutil.copyfile(path, unfinished)
                put(unfinished, target)
        same_source = len({other.files_state for other in plans}) == 1
        return finish(work, plan, plan.files_state if same_source else None)


def _check_same(folders: Sequence[WorkFolder], plans: Sequence[PreparationPlan]) -> None:
    for folder, plan in zip(folders, plans, strict=True):
        reason = plans[0].difference(plan)
        if reason is not None:
            raise DatasetError(
                f"{folder.path} and {folders[0].path} must be parts of the same dataset; but {reason}. Prepare one of"
                " them again."
            )


def _other_shard(work: WorkFolder, plan: PreparationPlan, folders: Sequence[WorkFolder]) -> Path | None:
    for name in plan.shard_names():
        finished = work.output / "data" / f"{name}.parquet"
        for folder in folders:
            path = folder.data / finished.name
            if path.is_file() and not filecmp.cmp(finished, path, shallow=False):
                return path
    return None


def _find_shards(plan: PreparationPlan, folders: Sequence[WorkFolder]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    missing = []
    for name in plan.shard_names():
        paths = [path for folder in folders if (path := folder.data / f"{name}.parquet").is_file()]
        if not paths:
            missing.append(name)
            continue
        for path in paths:
            read_shard_notes(path, plan.fingerprint)
            if not filecmp.cmp(paths[0], path, shallow=False):
                raise DatasetError(f"{paths[0]} and {path} are the same shard but differ. Remove the damaged one.")
        found[name] = paths[0]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(plan.shard_names())} shards are missing: {', '.join(missing[:8])}"
            f"{' and more' if len(missing) > 8 else ''}. Finish every part (mlcak prepare ... --shard), and name the"
            " folder of each."
        )
    return found
