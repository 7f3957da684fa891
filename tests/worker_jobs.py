"""Jobs of worker processes, which import this file: it imports nothing heavy (see test_worker_processes)."""

from __future__ import annotations

import os
import signal
import time

from mlcak_hf.errors import DatasetError


def double(number: int) -> int:
    if number < 0:
        raise DatasetError(f"{number} is less than 0")
    return 2 * number


def die(*arguments: object) -> None:
    """Die as a process does when the memory is full."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleeping(duration_s: float) -> int:
    time.sleep(duration_s)
    return os.getpid()
