"""Worker processes: started without fork, stopped with their parent, and a clear error when one dies."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from .errors import DatasetError, MLCAKError

Job = TypeVar("Job")
Result = TypeVar("Result")

_LIKELY_CAUSE = "Either the memory was full (use fewer workers) or a decoder crashed"


def map_in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], num_proc: int, *, doing: str, preload: str
) -> Iterator[Result]:
    """Apply a function to many jobs in worker processes, and yield the results in the order of the jobs.

    Args:
        function (`Callable`):
            Function of one job. It, its jobs and its results must be picklable.
        jobs (`Sequence`):
            The jobs.
        num_proc (`int`):
            Number of processes; 1 runs the jobs in this process.
        doing (`str`):
            What a worker does, for the error message, such as `"drawing phantoms"`.
        preload (`str`):
            Module that the workers need.

    Raises:
        [`DatasetError`]: When a worker dies or cannot be started.

    Example:
        ```python
        >>> from mlcak_hf.worker_processes import map_in_processes

        >>> list(map_in_processes(abs, [-1, 2, -3], 1, doing="taking absolute values", preload="mlcak_hf.errors"))
        [1, 2, 3]
        ```
    """
    chunk_size = max(1, min(16, len(jobs) // (8 * num_proc)))
    numbered = list(enumerate(jobs))
    chunks = [numbered[start : start + chunk_size] for start in range(0, len(jobs), chunk_size)]
    early: dict[int, Result] = {}
    position = 0
    for number, result in stream_from_processes(
        partial(_map_chunk, function), chunks, num_proc, doing=lambda _: doing, preload=preload
    ):
        early[number] = result
        while position in early:
            yield early.pop(position)
            position += 1


def _map_chunk(function: Callable[[Job], Result], chunk: Sequence[tuple[int, Job]]) -> Iterator[tuple[int, Result]]:
    return ((number, function(job)) for number, job in chunk)


def stream_from_processes(
    function: Callable[[Job], Iterable[Result]],
    jobs: Sequence[Job],
    num_proc: int,
    *,
    doing: Callable[[Job], str],
    preload: str,
    advice: str = "Run the command again.",
) -> Iterator[Result]:
    """Run generators in worker processes, and yield what they produce as soon as it arrives.

    Each process runs one job at a time, with one thread. The first error stops all of them.

    Args:
        function (`Callable`):
            Generator function of one job. It, its jobs and its results must be picklable.
        jobs (`Sequence`):
            The jobs.
        num_proc (`int`):
            Number of processes; 1 runs the jobs in this process.
        doing (`Callable`):
            Says what a worker does with a job, for the error message, such as `"writing train-00001"`.
        preload (`str`):
            Module that the workers need. It is imported once and shared by all of them.
        advice (`str`, *optional*, defaults to `"Run the command again."`):
            Sentence that says what to do after a worker died.

    Raises:
        [`DatasetError`]: When a worker dies or cannot be started.
        [`MLCAKError`]: Raised by the function; any other exception arrives as a `RuntimeError` with its traceback.
    """
    if num_proc == 1 or len(jobs) < 2:
        with threadpool_limits(limits=1):  # as in a worker, so that floating-point sums have the same order
            for job in jobs:
                yield from function(job)
        return
    # A forked copy of a process with threads can hang. A fork server has none, and imports the libraries once for all.
    context: Any = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([preload])  # without effect on spawned processes
    waiting = deque(jobs)
    workers: dict[Any, _Worker] = {}
    try:
        for _ in range(min(num_proc, len(jobs))):
            worker = _Worker(context, function, waiting.popleft())
            workers[worker.pipe] = worker
        while workers:
            for worker in [workers[pipe] for pipe in connection.wait(list(workers))]:
                with worker.explained_death(doing, advice):
                    is_result, content = worker.pipe.recv()
                if is_result:
                    yield content
                elif content is not None:
                    raise content
                elif waiting:
                    worker.job = waiting.popleft()
                    with worker.explained_death(doing, advice):
                        worker.pipe.send(worker.job)
                else:
                    del workers[worker.pipe]
                    worker.pipe.close()
                    worker.process.join()
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.join()


class _Worker:
    """One worker process, as seen by its parent."""

    def __init__(self, context: Any, function: Callable[[Any], Iterable[Any]], job: Any) -> None:
        self.job = job
        self.pipe, other_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(other_end, function, job), daemon=True)
        try:
            self.process.start()
        except (EOFError, ConnectionError):  # the fork server died
            raise DatasetError(
                f"No worker process could be started. {_LIKELY_CAUSE}; the output above may say more. One worker needs"
                " no other process (--workers 1)."
            ) from None
        other_end.close()  # an open copy would hide the death of the worker

    @contextlib.contextmanager
    def explained_death(self, doing: Callable[[Any], str], advice: str) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            died = f"A process died while {doing(self.job)} ({how})"
            raise DatasetError(f"{died}. {_LIKELY_CAUSE}. {advice}") from None


def _serve(pipe: Any, function: Callable[[Any], Iterable[Any]], job: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and stops this process
    threading.Thread(target=_exit_with, args=(parent_process(),), daemon=True).start()
    gc.freeze()  # a collection would copy every memory page shared with the other workers
    with threadpool_limits(limits=1), contextlib.suppress(EOFError, ConnectionError):
        while True:
            error: Exception | None = None
            try:
                for result in function(job):
                    pipe.send((True, result))
            except MLCAKError as raised:
                error = raised
            except Exception:
                error = RuntimeError(f"A worker process failed:\n{traceback.format_exc()}")
            pipe.send((False, error))
            job = pipe.recv()


def _exit_with(parent: Any) -> None:
    """End this process when its parent was killed, even in the middle of a job."""
    parent.join()
    os._exit(1)
