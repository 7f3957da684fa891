"""The work of one preparation: which shards to write, and writing them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from ...errors import DatasetError
from ...worker_processes import stream_from_processes
from ..rows import unreadable
from ..source import PreparationSource, SourceImages
from . import shard_files
from .plan import PreparationPlan
from .shard_files import ShardTask, read_shard_notes, write_shard
from .work_folder import WorkFolder

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class PreparationJob:
    """A source, its plan, and the folder where its shards are written."""

    source: PreparationSource
    images: SourceImages
    plan: PreparationPlan
    work: WorkFolder

    @classmethod
    def of(cls, source: PreparationSource, output_dir: str | os.PathLike[str]) -> PreparationJob:
        """Read the tables of a source and plan its preparation."""
        work = WorkFolder(Path(output_dir).expanduser().absolute())
        images = source.read()
        return cls(source, images, PreparationPlan.of(source, images), work)

    def tasks(self) -> list[ShardTask]:
        """Return the task of every shard."""
        tasks = []
        for split, records in self.images.splits.items():
            for number, name in enumerate(self.plan.shard_names(split)):
                of_shard = records[number * self.plan.images_per_shard : (number + 1) * self.plan.images_per_shard]
                identity = self.plan.identity | {"shard": name}
                tasks.append(ShardTask(name, split, of_shard, self.source, identity, self.work))
        return tasks

    def start(self, may_restart: bool, restart: str) -> None:
        """Resume unfinished work of the same plan; refuse any other, or remove it."""
        work, plan = self.work, self.plan
        if work.plan_file.is_file():
            there = PreparationPlan.read(work.plan_file)
            reason = there.difference(plan)
            remedy = f"To resume it, repeat the call that began it; otherwise {restart}"
            if reason is None and there.files_state != plan.files_state:
                # No call could resume it.
                reason, remedy = "images of the source were modified since", restart[0].upper() + restart[1:]
            if reason is None and not work.is_published:
                return
            if reason is not None and not may_restart:
                raise DatasetError(f"{work.path} holds unfinished work that does not match: {reason}. {remedy}.")
            work.discard()
        work.start(plan.as_json())

    def write(self, names: Sequence[str], num_proc: int, progress: bool) -> int:
        """Write the missing shards among the named ones; return how many were finished before."""
        tasks = {task.name: task for task in self.tasks()}
        missing = [name for name in names if not self.finished(name, self.source.options.on_error == "raise")]
        done = len(names) - len(missing)
        if done:
            logger.warning(f"{done} of {len(names)} shards were finished before; continuing with the others.")
        self.work.forget_unfinished(missing)
        images = {name: len(tasks[name].images) for name in names}
        total, to_read = sum(images.values()), sum(images[name] for name in missing)
        missing.sort(key=images.__getitem__, reverse=True)  # the longest first, so that no process waits at the end
        try:
            images_done = stream_from_processes(
                write_shard,
                [tasks[name] for name in missing],
                num_proc,
                doing=lambda task: f"writing {task.name}",
                advice="Finished shards are kept, and the same command continues.",
                preload=shard_files.__name__,
            )
            shown = {"desc": "radiographs", "unit": "image", "disable": not progress}
            for _ in logging.tqdm(images_done, total=total, initial=total - to_read, **shown):
                pass
        finally:
            self.work.forget_unfinished(missing)
        return done

    def finished(self, name: str, none_skipped: bool = False) -> bool:
        """Return whether a shard is complete and what would be written now."""
        path = self.work.data / f"{name}.parquet"
        if not path.is_file():
            return False
        try:
            _, notes = read_shard_notes(path, self.plan.fingerprint)
        except DatasetError as error:
            logger.warning(f"{error} It is written again.")
            return False
        if notes.skipped and none_skipped:
            raise unreadable(notes.skipped[0].reason)
        return True
