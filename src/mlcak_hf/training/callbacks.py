"""Callbacks of the trainer: the epoch of the views, a line per evaluation, and the log of the steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback

_PARTS = ("loss_global", "loss_local", "distil_global", "distil_local", "distil_attention")


class EpochCallback(TrainerCallback):
    """Tell the collator the epoch of its views, when an epoch starts or is resumed.

    Args:
        collator ([`MLCAKCollator`] or [`CachedCollator`]):
            Has `set_epoch(epoch)` and shares the number with its worker processes.
    """

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass on the number of the epoch, counted from 0."""
        # When epoch 3 is resumed in its middle, state.epoch is 3.4.
        self.collator.set_epoch(int(state.epoch or 0))


class EvaluationPrinter(TrainerCallback):
    """Print a line per evaluation, where there is no progress bar; transformers would print every log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print the loss and the metric that chooses the best checkpoint."""
        metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
        names = [name for name in dict.fromkeys(["eval_loss", f"eval_{metric}"]) if name in logs]
        values = ", ".join(f"{name} {logs[name]:.4g}" for name in names)
        if values and state.is_world_process_zero:
            print(f"epoch {state.epoch or 0:.4g}, step {state.global_step}: {values}", flush=True)


class StepLog(TrainerCallback):
    """Sums over the steps since the last log: the parts of the loss, images, and where the time went.

    The time of a step is that from asking for its batches to the end of the optimizer step, so evaluation, saving and
    logging do not count. On a CUDA device the teacher is timed by events, which make no process wait.

    Args:
        accelerator (`accelerate.Accelerator`):
            Adds up the sums of all processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._asked_at: float | None = None
        self._reset()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log about ten times in a run that is shorter than `logging_steps`, which would leave no curves."""
        if state.logging_steps > state.max_steps:
            state.logging_steps = max(1, state.max_steps // 10)

    def _reset(self) -> None:
        self._parts: dict[str, Tensor] = {}
        self._images = self._step_s = self._wait_s = self._teacher_s = 0.0
        self._teacher_events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time how long a step waits for its batches; the step begins here."""
        self._asked_at = time.perf_counter()
        try:
            yield
        finally:
            self._wait_s += time.perf_counter() - self._asked_at

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """Time a forward pass of the teacher."""
        if self._accelerator.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            yield
            end.record()
            self._teacher_events.append((begin, end))
        else:
            begun_at = time.perf_counter()
            yield
            self._teacher_s += time.perf_counter() - begun_at

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a step."""
        if self._asked_at is not None:
            self._step_s += time.perf_counter() - self._asked_at
            self._asked_at = None

    def add(self, parts: Mapping[str, Tensor], num_items: Any, images: float) -> None:
        """Add a micro-batch.

        Args:
            parts (`Mapping[str, torch.Tensor]`):
                The parts of its loss, divided by `num_items`.
            num_items (`torch.Tensor` or `int`):
                Images of the whole step.
            images (`float`):
                Images of the micro-batch.
        """
        for name, part in parts.items():
            self._parts[name] = self._parts.get(name, 0.0) + (part.detach() * num_items).float()
        self._images += images

    def read(self) -> dict[str, float]:
        """Return the means since the last reading, over images and processes; empty if there was no step."""
        if not self._parts:
            return {}
        for begin, end in self._teacher_events:
            end.synchronize()
            self._teacher_s += begin.elapsed_time(end) / 1000
        zero = next(iter(self._parts.values())).new_zeros(())
        counts = zero.new_tensor([self._images, self._step_s, self._wait_s, self._teacher_s])
        own = torch.stack([*(self._parts.get(name, zero) for name in _PARTS), *counts])
        *parts, images, step_s, wait_s, teacher_s = self._accelerator.reduce(own, reduction="sum").tolist()
        means = {name: part / images for name, part in zip(_PARTS, parts, strict=True) if name in self._parts}
        # Seconds are added up over processes, which work side by side.
        means["images_per_second"] = images * self._accelerator.num_processes / step_s
        means["data_wait_share"] = wait_s / step_s
        if teacher_s:
            means["teacher_share"] = teacher_s / step_s
        self._reset()
        return means
