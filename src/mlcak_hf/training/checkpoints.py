"""Write checkpoints atomically, and resume from the newest complete one."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import logging

from ..errors import DistillationError

logger = logging.get_logger(__name__)

# A name that a search for checkpoints does not find.
_UNFINISHED = "unfinished-checkpoint"
#: What a resume needs, and the files that hold it.
_NEEDED = {
    "trainer state": "trainer_state.json",
    "weights": "*.safetensors",
    "optimizer": "optimizer*",
    # Without it transformers would silently restart the optimizer as well.
    "schedule": "scheduler.pt",
    "random state": "rng_state*.pth",
}


def find_defect(checkpoint: str | Path) -> str | None:
    """Find out why training cannot resume from a checkpoint.

    Args:
        checkpoint (`str` or `Path`):
            A folder that a trainer wrote, perhaps not to the end.

    Returns:
        `str`: The first defect found; `None` if every file exists and can be opened. Tensors are not read.
    """
    for what, pattern in _NEEDED.items():
        if not any(Path(checkpoint).glob(pattern)):
            return f"it has no {what}"
    for path in sorted(Path(checkpoint).iterdir()):
        if not _is_complete(path):
            return f"{path.name} is truncated"
    return None


def _is_complete(path: Path) -> bool:
    """Whether a file is as long as its table of contents says; `True` for files without one."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return True
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError):
        return False
    # torch writes zip files, which end with their table of contents.
    return path.suffix not in (".pt", ".pth") or zipfile.is_zipfile(path)


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Find the newest checkpoint to resume from. Newer ones that are incomplete are logged with the reason.

    Args:
        output_dir (`str` or `Path`):
            Folder of a training run; need not exist.

    Returns:
        `Path`: The folder; `None` without one.
    """
    for checkpoint in reversed(sort_checkpoints(str(output_dir))):
        defect = find_defect(checkpoint)
        if defect is None:
            return Path(checkpoint)
        logger.warning(f"{checkpoint} is incomplete and is passed over: {defect}.")
    return None


class WholeCheckpointTrainer(Trainer):
    """A [`~transformers.Trainer`] that writes every checkpoint under another name and renames it when it is complete.

    A run that is killed at any moment leaves only checkpoints that can be resumed from. A run that starts from the
    beginning renames the checkpoints of an earlier one in its folder, so that a later resume does not use them.
    """

    _writes_into: str | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, from the beginning or from a checkpoint.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                Folder of a checkpoint; `True` for the newest complete one in `output_dir`, if there is one.
            args, kwargs:
                As for [`~transformers.Trainer.train`].

        Raises:
            [`DistillationError`]: When the given checkpoint is incomplete.
        """
        run = Path(str(self.args.output_dir))
        checkpoint = self._checkpoint_to_resume(run, resume_from_checkpoint)
        # Every process has found its checkpoint before anything is renamed.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            shutil.rmtree(run / _UNFINISHED, ignore_errors=True)
            for earlier in [] if checkpoint else run.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                aside = run / f"earlier-{earlier.name}"
                shutil.rmtree(aside, ignore_errors=True)
                earlier.rename(aside)
                logger.warning(f"{earlier} belongs to an earlier run and is now {aside.name}.")
        self.accelerator.wait_for_everyone()
        return super().train(checkpoint, *args, **kwargs)

    def _checkpoint_to_resume(self, run: Path, wanted: str | bool | None) -> str | None:
        # Recipes and the command line give the switch as text.
        if wanted is None or str(wanted).lower() == "false":
            return None
        if str(wanted).lower() == "true":
            found = last_whole_checkpoint(run)
            logger.warning(f"Training resumes from {found}." if found else f"Training starts: no checkpoint in {run}.")
            return str(found) if found else None
        defect = find_defect(str(wanted)) if Path(str(wanted)).is_dir() else "there is no such folder"
        if defect is not None:
            raise DistillationError(
                f"Training cannot resume from {wanted}: {defect}. Name a complete one, or true for the newest."
            )
        return str(wanted)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Fetch the batches of a step: none if the resumed run had done all its steps.

        The base class would do one more where `max_steps` ends inside an epoch.
        """
        finished = self.state.global_step >= self.state.max_steps
        return ([], None) if finished else super().get_batch_samples(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        name, unfinished = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", run / _UNFINISHED
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        best_before = self.state.best_model_checkpoint
        self._writes_into = str(unfinished)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._writes_into = None
        # Every process has written its random state.
        self.accelerator.wait_for_everyone()
        # The base class has looked for the best checkpoint where this one was being written.
        best = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        is_best = self.state.best_global_step == self.state.global_step
        self.state.best_model_checkpoint = str(best) if is_best or best.is_dir() else best_before
        if self.args.should_save:
            self.state.save_to_json(str(unfinished / name / "trainer_state.json"))
            if (run / name).exists():  # From an incomplete attempt at the same step.
                (run / name).rename(unfinished / "replaced")
            (unfinished / name).rename(run / name)
            _delete_old(run, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(run / name))

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._writes_into is None else self._writes_into

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Do nothing: a checkpoint is pushed once it has its own name."""


def _delete_old(run: Path, limit: int | None, best: str | None) -> None:
    """Keep as many checkpoints as wanted, the newest and the best among them, as `rotate_checkpoints` does."""
    if limit and limit > 0:
        checkpoints = [Path(name) for name in sort_checkpoints(str(run), use_mtime=True)]
        kept = {checkpoints[-1], Path(best or checkpoints[-1])}
        others = [checkpoint for checkpoint in checkpoints if checkpoint not in kept]
        for checkpoint in others[: max(0, len(checkpoints) - max(limit, len(kept)))]:
            # Renamed first, so that a kill while files are being deleted leaves no half of a checkpoint.
            checkpoint.rename(run / _UNFINISHED / checkpoint.name)
    shutil.rmtree(run / _UNFINISHED, ignore_errors=True)
