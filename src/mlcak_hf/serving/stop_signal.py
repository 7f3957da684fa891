"""Ctrl-C and SIGTERM as a wish to stop, so that the work in hand is finished first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType


@contextmanager
def stop_on_signal() -> Iterator[Event]:
    """Set an event on the first Ctrl-C or SIGTERM inside the block. A second one has its usual effect.

    Yields:
        `Event`: Set when the program should stop.
    """
    stop = Event()
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in usual:
        signal.signal(number, ask_to_stop)
    try:
        yield stop
    finally:
        restore()
