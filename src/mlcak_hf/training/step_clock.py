"""Where the time of a training step goes: waiting for data, the teacher, and the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback


class StepClock(TrainerCallback):
    """Adds up the time of the steps since the last reading, from asking for a batch to the end of the optimizer step.

    Evaluation, saving and logging lie between steps and do not count. On a CUDA device the teacher is timed by events,
    so that timing makes nobody wait; a step is timed by the process, which waits for the loss in every step.

    Args:
        device: that the teacher runs on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._asked_at: float | None = None
        self._reset()

    def _reset(self) -> None:
        self._step_s = self._wait_s = self._teacher_s = 0.0
        self._teacher_events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the fetching of a step's batches, with which the step begins."""
        self._asked_at = time.perf_counter()
        try:
            yield
        finally:
            self._wait_s += time.perf_counter() - self._asked_at

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """Time a forward pass of the teacher."""
        if self.device.type == "cuda":
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

    def read(self) -> Tensor:
        """Return the seconds since the last reading: steps, waiting in them, the teacher in them; shape `(3,)`."""
        for begin, end in self._teacher_events:
            end.synchronize()
            self._teacher_s += begin.elapsed_time(end) / 1000
        seconds = torch.tensor([self._step_s, self._wait_s, self._teacher_s], device=self.device)
        self._reset()
        return seconds
