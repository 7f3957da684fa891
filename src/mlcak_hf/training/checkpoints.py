"""Checkpoints that appear only when they are whole, and a resume that passes over others."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import logging

from ..errors import DistillationError

logger = logging.get_logger(__name__)

# No name that anything looking for checkpoints would find.
_UNFINISHED = "unfinished-checkpoint"
_EARLIER = "earlier"
_STATE = "trainer_state.json"
#: What a resume needs, and the files that hold it.
_NEEDED = {
    "weights": "*.safetensors",
    "optimizer": "optimizer*",
    # Without it transformers would start the optimizer anew as well, and say nothing.
    "schedule": "scheduler.pt",
    "random state": "rng_state*.pth",
}


def find_defect(checkpoint: str | Path) -> str | None:
    """Say what a checkpoint lacks to be resumed from.

    Args:
        checkpoint: folder that a trainer wrote, perhaps not to the end.

    Returns:
        The first defect found, in words; None if every file is there and can be opened. Tensors are not read.
    """
    folder = Path(checkpoint)
    try:
        json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{_STATE} is missing or cut short"
    for what, pattern in _NEEDED.items():
        if not any(folder.glob(pattern)):
            return f"it has no {what}"
    for path in sorted(folder.iterdir()):
        if not _opens(path):
            return f"{path.name} is cut short"
    for index in folder.glob("*.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(name for name in shards if not (folder / name).is_file())
        if missing:
            return f"{missing[0]} is missing"
    return None


def _opens(path: Path) -> bool:
    """Whether the table of contents of a file of tensors fits its length; True for other files."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return True
        if path.suffix in (".pt", ".pth", ".bin"):
            # torch writes zip files, whose table of contents comes last.
            return zipfile.is_zipfile(path)
        if path.name.endswith(".index.json"):
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Find the newest checkpoint that can be resumed from; newer ones that are passed over are logged with the reason.

    Args:
        output_dir: of a training run; need not exist.

    Returns:
        The folder, or None where there is none.
    """
    steps = {}
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if folder.is_dir() and step.isdigit():
            steps[int(step)] = folder
    for _, folder in sorted(steps.items(), reverse=True):
        defect = find_defect(folder)
        if defect is None:
            return folder
        logger.warning(f"{folder} is not whole and is passed over: {defect}.")
    return None


class WholeCheckpointTrainer(Trainer):
    """A [`~transformers.Trainer`] whose checkpoints are written under another name and renamed once they are whole.

    A run that is killed at any moment leaves only checkpoints that can be resumed from. With
    `resume_from_checkpoint=True` training goes on from the newest whole one, or starts where there is none. A run that
    starts from the beginning puts the checkpoints of an earlier one in its folder aside, under another name: a later
    resume must not take them for its own.
    """

    _writes_into: str | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, from the beginning or from a checkpoint.

        Args:
            resume_from_checkpoint: a checkpoint's folder; True for the newest whole one in `output_dir`.
            args, kwargs: as for [`~transformers.Trainer.train`].

        Raises:
            DistillationError: if the folder named is no whole checkpoint.
        """
        checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
        # Every process has found its checkpoint before anything is moved.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            # What a run that was killed has left.
            shutil.rmtree(Path(str(self.args.output_dir), _UNFINISHED), ignore_errors=True)
            if checkpoint is None:
                _put_aside(Path(str(self.args.output_dir)))
        self.accelerator.wait_for_everyone()
        return super().train(checkpoint, *args, **kwargs)

    def _checkpoint_to_resume(self, wanted: str | bool | None) -> str | None:
        # Recipes and the command line write the switch as a word.
        word = str(wanted).lower()
        if wanted is None or word == "false":
            return None
        if word == "true":
            found = last_whole_checkpoint(str(self.args.output_dir))
            if found is None:
                logger.warning(
                    f"There is no checkpoint in {self.args.output_dir} yet: training starts from the beginning."
                )
                return None
            logger.warning(f"Training goes on from {found}.")
            return str(found)
        wanted = str(wanted)
        defect = find_defect(wanted) if Path(wanted).is_dir() else "there is no such folder"
        if defect is not None:
            raise DistillationError(
                f"Training cannot go on from {wanted}: {defect}. Name a whole checkpoint, or "
                "resume_from_checkpoint=true for the newest one."
            )
        return wanted

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Fetch the batches of a step: none where the run that is resumed had done all its steps.

        The base class would do one more where `max_steps` ends inside an epoch.
        """
        return (
            ([], None) if self.state.global_step >= self.state.max_steps else super().get_batch_samples(*args, **kwargs)
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint under a name that nobody looks for, then give it its own."""
        run = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(run / _UNFINISHED, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        best_before = self.state.best_model_checkpoint
        with self._writing_into(run / _UNFINISHED):
            super()._save_checkpoint(model, trial)
        # Every process has written its random state.
        self.accelerator.wait_for_everyone()
        # The base class has looked for the best checkpoint where this one was being written.
        best = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        is_best = self.state.best_global_step == self.state.global_step
        self.state.best_model_checkpoint = str(best) if is_best or best.is_dir() else best_before
        if self.args.should_save:
            self.state.save_to_json(str(run / _UNFINISHED / name / _STATE))
            _give_its_name(run / _UNFINISHED / name, run / name)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(run / name))
        if self.args.should_save:
            _delete_old(run, self.args.save_total_limit, self.state.best_model_checkpoint)

    @contextmanager
    def _writing_into(self, folder: Path) -> Iterator[None]:
        self._writes_into = str(folder)
        try:
            yield
        finally:
            self._writes_into = None

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._writes_into is None else self._writes_into

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Wait: what is pushed must be whole, and must not be renamed on its way."""


def _give_its_name(written: Path, named: Path) -> None:
    """Rename a whole checkpoint; one of the same step from an earlier run makes room first, also in one rename."""
    if named.exists():
        named.rename(written.with_name("replaced"))
    written.rename(named)
    shutil.rmtree(written.parent)


def _put_aside(run: Path) -> None:
    """Rename the checkpoints of an earlier run, in the place of those that were put aside before."""
    for checkpoint in run.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        aside = run / f"{_EARLIER}-{checkpoint.name}"
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        logger.warning(f"{checkpoint} is of an earlier run, and is now {aside.name}: this one starts anew.")


def _delete_old(run: Path, limit: int | None, best: str | None) -> None:
    """Keep as many checkpoints as wanted, the newest and the best among them, as `rotate_checkpoints` does."""
    if limit is None or limit <= 0:
        return
    checkpoints = [Path(name) for name in sort_checkpoints(str(run), use_mtime=True)]
    kept = {checkpoints[-1]} if best is None else {checkpoints[-1], Path(best)}
    others = [checkpoint for checkpoint in checkpoints if checkpoint not in kept]
    for checkpoint in others[: max(0, len(checkpoints) - max(limit, len(kept)))]:
        # Out of sight first: a kill while files are being deleted leaves no half of a checkpoint either.
        (run / _UNFINISHED).mkdir(exist_ok=True)
        checkpoint.rename(run / _UNFINISHED / checkpoint.name)
    shutil.rmtree(run / _UNFINISHED, ignore_errors=True)
