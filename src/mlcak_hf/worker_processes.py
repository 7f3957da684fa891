"""Processes that share work on many images: started without fork, and a death of one told in a sentence."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context, parent_process
from typing import Any, TypeVar

from .errors import DatasetError

Job = TypeVar("Job")
Result = TypeVar("Result")

#: What a person can do about a process that died.
WHY_PROCESSES_DIE = "often the memory was full (use fewer workers), or a decoder crashed"


def process_context(preload: str) -> Any:
    """Choose how processes are started.

    Not by fork: a copy of a process with threads can hang. A fork server imports the libraries once, for all.

    Args:
        preload: Module that the processes need, to be imported by the fork server.

    Returns:
        A context of `multiprocessing`.
    """
    context: Any = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([preload])
    return context


@contextlib.contextmanager
def explained_start() -> Iterator[None]:
    """Turn the death of the fork server, while a process is started, into a DatasetError.

    Raises:
        DatasetError: The process could not be started.
    """
    try:
        yield
    except (EOFError, ConnectionError):
        raise DatasetError(
            f"no further process could be started; {WHY_PROCESSES_DIE}. What is printed above may tell more; one worker"
            " needs no other process"
        ) from None


def map_in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    num_proc: int,
    *,
    doing: str,
    preload: str,
    chunk_size: int = 1,
    initializer: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """Apply a function to many jobs in other processes.

    Args:
        function: Can be pickled, as its jobs and results.
        jobs: What it is called with.
        num_proc: Number of processes.
        doing: What a process does, for the error: "drew phantoms".
        preload: As in `process_context`.
        chunk_size: Jobs that a process takes at once.
        initializer: Called once in each process.

    Yields:
        The results, in the order of the jobs.

    Raises:
        DatasetError: A process died, or none could be started.
        Exception: What the function raises.
    """
    context = process_context(preload)
    try:
        with ProcessPoolExecutor(num_proc, context, _start_process, (initializer,)) as pool:
            with explained_start():
                results = pool.map(function, jobs, chunksize=chunk_size)
            yield from results
    except BrokenProcessPool:
        raise DatasetError(f"a process that {doing} died; {WHY_PROCESSES_DIE}. Start again") from None


def _start_process(initializer: Callable[[], object] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it as well, and ends this process
    # A pool's processes would wait for ever for a parent that was killed.
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    if initializer is not None:
        initializer()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
