"""Worker processes: started without fork, stopped with their parent, and a clear error when one dies."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from .errors import DatasetError, MLCAKError

Job = TypeVar("Job")
Result = TypeVar("Result")

_LIKELY_CAUSE = "Either the memory was full (use fewer workers) or a decoder crashed"
_RESULT, _DONE, _ERROR = "result", "done", "error"  # messages of a worker


def map_in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    num_proc: int,
    *,
    doing: str,
    preload: str,
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
    chunks = [jobs[start : start + chunk_size] for start in range(0, len(jobs), chunk_size)]
    work = partial(_map_chunk, function)
    early: dict[int, Result] = {}
    received, position = Counter[int](), 0
    for chunk, result in stream_from_processes(
        work, chunks, num_proc, doing=lambda _: doing, advice="Run the command again.", preload=preload
    ):
        early[chunk * chunk_size + received[chunk]] = result
        received[chunk] += 1
        while position in early:
            yield early.pop(position)
            position += 1


def _map_chunk(function: Callable[[Job], Result], chunk: Iterable[Job]) -> Iterator[Result]:
    return map(function, chunk)


def stream_from_processes(
    function: Callable[[Job], Iterable[Result]],
    jobs: Sequence[Job],
    num_proc: int,
    *,
    doing: Callable[[Job], str],
    advice: str,
    preload: str,
) -> Iterator[tuple[int, Result]]:
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
        advice (`str`):
            Sentence that says what to do after a worker died.
        preload (`str`):
            Module that the workers need. It is imported once and shared by all of them.

    Yields:
        `tuple`: Index of the job, and one of its results.

    Raises:
        [`DatasetError`]: When a worker dies or cannot be started.
        [`MLCAKError`]: Raised by the function; any other exception arrives as a `RuntimeError` with its traceback.
    """
    if num_proc == 1 or len(jobs) < 2:
        yield from _stream_here(function, jobs)
        return
    context, waiting = _process_context(preload), deque(range(len(jobs)))
    workers: dict[Any, _Worker] = {}
    try:
        for _ in range(min(num_proc, len(jobs))):
            worker = _Worker(context, function, jobs, doing, advice)
            workers[worker.pipe] = worker
            worker.start_job(waiting.popleft())
        while workers:
            ready: Any
            for ready in connection.wait(list(workers)):
                worker = workers[ready]
                kind, content = worker.receive()
                if kind == _RESULT:
                    yield worker.index, content
                elif kind == _ERROR:
                    raise content
                elif waiting:
                    worker.start_job(waiting.popleft())
                else:
                    ready.close()
                    workers.pop(ready).process.join()
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.join()


def _stream_here(function: Callable[[Job], Iterable[Result]], jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
    with threadpool_limits(limits=1):  # as in a worker, so that floating-point sums have the same order
        for index, job in enumerate(jobs):
            for result in function(job):
                yield index, result


class _Worker:
    """One worker process, as seen by its parent."""

    def __init__(
        self,
        context: Any,
        function: Callable[[Job], Iterable[Any]],
        jobs: Sequence[Job],
        doing: Callable[[Job], str],
        advice: str,
    ) -> None:
        self.index = 0
        self._jobs, self._doing, self._advice = jobs, doing, advice
        self.pipe, other_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(other_end, function), daemon=True)
        try:
            self.process.start()
        except (EOFError, ConnectionError):  # the fork server died
            raise DatasetError(
                f"No worker process could be started. {_LIKELY_CAUSE}; the output above may say more. One worker needs"
                " no other process (--workers 1)."
            ) from None
        other_end.close()  # an open copy would hide the death of the worker

    def start_job(self, index: int) -> None:
        self.index = index
        with self._explained_death():
            self.pipe.send(self._jobs[index])

    def receive(self) -> Any:
        with self._explained_death():
            return self.pipe.recv()

    @contextlib.contextmanager
    def _explained_death(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            doing = self._doing(self._jobs[self.index])
            raise DatasetError(f"A process died while {doing} ({how}). {_LIKELY_CAUSE}. {self._advice}") from None


def _process_context(preload: str) -> Any:
    # A forked copy of a process with threads can hang. A fork server has none, and imports the libraries once for all.
    context: Any = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([preload])
    return context


def _serve(pipe: Any, function: Callable[[Job], Iterable[Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and stops this process
    threading.Thread(target=_exit_with, args=(parent_process(),), daemon=True).start()
    gc.freeze()  # a collection would copy every memory page shared with the other workers
    with threadpool_limits(limits=1), contextlib.suppress(EOFError, ConnectionError):
        while True:
            job = pipe.recv()
            try:
                for result in function(job):
                    pipe.send((_RESULT, result))
                pipe.send((_DONE, None))
            except MLCAKError as error:
                pipe.send((_ERROR, error))
            except Exception:
                pipe.send((_ERROR, RuntimeError(f"A worker process failed:\n{traceback.format_exc()}")))


def _exit_with(parent: Any) -> None:
    """End this process when its parent was killed, even in the middle of a job."""
    parent.join()
    os._exit(1)
