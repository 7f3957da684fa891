"""Processes that write shards, each a whole one at a time. A process that dies stops the job and is named."""

from __future__ import annotations

import contextlib
import gc
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from threadpoolctl import threadpool_limits

from ..errors import DatasetError, MLCAKError
from ..worker_processes import WHY_PROCESSES_DIE, explained_start, process_context
from .shards import ShardTask, write_shard

_IMAGE, _SHARD = "image", "shard"  # what a process reports as done


def write_shards(tasks: Sequence[ShardTask], num_proc: int, seen: Callable[[], object]) -> None:
    """Write shards, the first failure ends it.

    Args:
        tasks: The shards.
        num_proc: Processes that write at the same time; 1 writes in this one.
        seen: Called after each image.

    Raises:
        DicomError: A radiograph cannot be read, with on_error="raise".
        DatasetError: A file cannot be written, or a process died.
    """
    if num_proc > 1 and len(tasks) > 1:
        _write_in_processes(tasks, num_proc, seen)
        return
    # One thread, as in the processes: a sum in another order could end in another last bit.
    with threadpool_limits(limits=1):
        for task in tasks:
            write_shard(task, seen)


@dataclass
class _Worker:
    process: Any
    tasks: Any
    task: ShardTask

    def give(self, task: ShardTask) -> None:
        """Give it a shard to write."""
        self.task = task
        with self._named_if_dead():
            self.tasks.send(task)

    def answer(self) -> Any:
        """What it reports next: an image, a shard, or an error."""
        with self._named_if_dead():
            return self.tasks.recv()

    @contextlib.contextmanager
    def _named_if_dead(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            raise DatasetError(
                f"the process that wrote {self.task.name} died ({how}); {WHY_PROCESSES_DIE}. Finished shards are kept,"
                " and the same command continues"
            ) from None


def _write_in_processes(tasks: Sequence[ShardTask], num_proc: int, seen: Callable[[], object]) -> None:
    context = process_context(__name__)
    waiting, workers = deque(tasks), dict[Any, _Worker]()
    try:
        for _ in range(min(num_proc, len(tasks))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            with explained_start():
                process.start()
            theirs.close()  # else its end would stay open, and its death unnoticed
            workers[ours] = _Worker(process, ours, waiting[0])
            workers[ours].give(waiting.popleft())
        while workers:
            ready: Any
            for ready in connection.wait(list(workers)):
                worker = workers[ready]
                message = worker.answer()
                if message == _IMAGE:
                    seen()
                elif message == _SHARD and waiting:
                    worker.give(waiting.popleft())
                elif message == _SHARD:
                    ready.close()
                    workers.pop(ready).process.join()
                else:
                    raise message
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.join()


def _serve(tasks: Any) -> None:
    """Write the shards that come, until the other end closes: when all is done, or the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it as well, and ends this process
    gc.freeze()  # a collection would write to every page that this process shares with the others, and so copy it
    with threadpool_limits(limits=1), contextlib.suppress(EOFError, ConnectionError):
        while True:
            task = tasks.recv()
            try:
                write_shard(task, lambda: tasks.send(_IMAGE))
                tasks.send(_SHARD)
            except MLCAKError as error:
                tasks.send(error)
            except Exception:
                tasks.send(RuntimeError(f"in {task.name}:\n{traceback.format_exc()}"))
