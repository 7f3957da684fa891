"""Parts of a dataset that several machines prepared -> the dataset, once all of it is there."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import DatasetError
from .plan import PreparationPlan
from .prepare import check_output, clear_up, finish, is_complete
from .report import PREPARATION_FILE, PreparationReport
from .shards import read_notes
from .work_folder import WorkFolder, explained_write, put


def merge_prepared(
    output_dir: str | os.PathLike[str], parts: Sequence[str | os.PathLike[str]] = (), *, overwrite: bool = False
) -> PreparationReport:
    """Make a dataset of the parts that `prepare_vindr_cxr_part` (`mlcak prepare --shard`) wrote.

    The bytes are those of a preparation on one machine. The source need not be there.

    Args:
        output_dir: Folder to write. What lies in `OUTPUT.partial` is a part as well, and the only one if the machines
            worked in the same folder.
        parts: Folders of other machines, copied here under any name: each the `OUTPUT.partial` that was written there.
            They stay.
        overwrite: Replace a dataset that lies in `output_dir`.

    Returns:
        What was written and what was left out.

    Raises:
        DatasetError: Parts belong to different datasets, shards are missing, damaged or there in two versions, the
            dataset is there of other images, or something cannot be written.
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
        for folder, plan in zip(folders, plans, strict=True):
            reason = plans[0].difference(plan)
            if reason is not None:
                raise DatasetError(f"{folder.path} and {folders[0].path} are no parts of one dataset: {reason}")
        if is_complete(work, plans[0], overwrite):
            other = _other_shard(work, plans[0], folders)
            if other is None:
                return clear_up(work)
            if not overwrite:
                raise DatasetError(
                    f"{work.output} is complete, but {other} holds other images of it, as after a correction of the"
                    " source; replace the dataset with overwrite=True (--overwrite)"
                )
        check_output(work.output, overwrite)
        sources = _shards(plans[0], folders)
        work.start(plans[0].as_json())
        for name, path in sources.items():
            if not (target := work.data / f"{name}.parquet").exists():
                unfinished = work.begin(name)
                shutil.copyfile(path, unfinished)
                put(unfinished, target)
        same_source = len({plan.files_state for plan in plans}) == 1
        return finish(work, plans[0], plans[0].files_state if same_source else None)


def _other_shard(work: WorkFolder, plan: PreparationPlan, folders: Sequence[WorkFolder]) -> Path | None:
    """A shard of the parts that is not the one of the finished dataset; None where all are."""
    for name in plan.shard_names():
        finished = work.output / "data" / f"{name}.parquet"
        for folder in folders:
            path = folder.data / finished.name
            if path.is_file() and not filecmp.cmp(finished, path, shallow=False):
                return path
    return None


def _shards(plan: PreparationPlan, folders: Sequence[WorkFolder]) -> dict[str, Path]:
    """Find every shard, once."""
    found: dict[str, Path] = {}
    missing = []
    for name in plan.shard_names():
        paths = [path for folder in folders if (path := folder.data / f"{name}.parquet").is_file()]
        if not paths:
            missing.append(name)
            continue
        for path in paths:
            read_notes(path, plan.fingerprint)
            if not filecmp.cmp(paths[0], path, shallow=False):
                raise DatasetError(f"{paths[0]} and {path} are the same shard but differ; remove the damaged one")
        found[name] = paths[0]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(plan.shard_names())} shards are missing: {', '.join(missing[:8])}"
            f"{' and more' if len(missing) > 8 else ''}. Finish every part (mlcak prepare ... --shard), and name the"
            " folder of each"
        )
    return found
