"""A moving average of the weights, in place of the trained weights; statistics of BatchNorm in several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.utils import logging

from ..errors import DistillationError
from .checkpoints import WholeCheckpointTrainer

logger = logging.get_logger(__name__)

_TRAINED_WEIGHTS = "trained_weights.pt"


class AveragingTrainer(WholeCheckpointTrainer):
    """A trainer that, with `ema_decay` above 0, evaluates and saves a moving average of the weights.

    After every optimizer step, `average = d * average + (1 - d) * weights` with
    `d = min(ema_decay, (1 + step) / (10 + step))`, so that the first steps are soon forgotten. The model of a
    checkpoint is the average; the trained weights are beside it, so that training resumes bit for bit.
    """

    args: Any
    model: Any
    _average: list[Tensor] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.ema_decay > 0:
            self.add_callback(_Averaging(self))

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the average into the model."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        if self._average is None:
            return
        for weight, average in zip(_averaged(self.model), self._average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate or predict with the average."""
        with self._averaged():
            share_statistics(self.model)
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the average; in a checkpoint, also the trained weights."""
        with self._averaged():
            super().save_model(output_dir, _internal_call)
        if self._average is not None and _internal_call and self.args.should_save:
            torch.save(self.model.state_dict(), Path(str(output_dir)) / _TRAINED_WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        file, averages = Path(resume_from_checkpoint) / _TRAINED_WEIGHTS, self.args.ema_decay > 0
        if file.is_file() != averages:
            raise DistillationError(
                f"Training {'with' if averages else 'without'} ema_decay cannot resume from {resume_from_checkpoint}, "
                f"which was written {'without' if averages else 'with'} it. Resume with the options of the start."
            )
        if averages:
            self._average = [weight.detach().clone() for weight in _averaged(self.model)]
            self.model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))


def _averaged(model: Any) -> list[Tensor]:
    """List what is averaged: the weights, and the statistics of BatchNorm."""
    return [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]


class _Averaging(TrainerCallback):
    def __init__(self, trainer: AveragingTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._trainer._average = [weight.detach().clone() for weight in _averaged(self._trainer.model)]

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        decay = min(args.ema_decay, (1 + state.global_step) / (10 + state.global_step))
        for weight, average in zip(_averaged(self._trainer.model), self._trainer._average or [], strict=True):
            average.lerp_(weight, 1 - decay)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The best checkpoint, if it has been loaded, is an average already.
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._trainer._exchange()
        self._trainer._average = None


def warn_of_batch_norm(model: nn.Module, args: Any) -> None:
    """Warn if the statistics of BatchNorm depend on how the images of a step are divided.

    Args:
        model (`torch.nn.Module`):
            The model that is trained.
        args ([`MLCAKTrainingArguments`]):
            Accumulation and processes.
    """
    divided = args.gradient_accumulation_steps > 1 or args.world_size > 1
    if divided and args.local_process_index == 0 and _has_batch_norm(model):
        logger.warning(
            "This model has BatchNorm, so accumulation and several processes are not exact: its statistics are those "
            f"of {args.train_batch_size} images, not of the whole step. Resuming is exact."
        )


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Give every process the statistics of the first one, whose model is saved; each has seen other images."""
    if _has_batch_norm(model):
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer))


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
