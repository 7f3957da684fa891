"""The folder `OUTPUT.partial`, in which a dataset is written before it becomes OUTPUT."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ...errors import DatasetError, MLCAKError

_PLAN_FILE = "plan.json"


class WorkFolder:
    """The folder of an unfinished dataset. A kill at any moment leaves nothing in it that could be mistaken.

    ```
    plan.json        what is being written; the first file to appear and the last to go
    dataset/data/    finished shards, each renamed into place; `dataset` becomes OUTPUT at the end
    unfinished/      files that are being written, and what a kill left of them
    replaced/        the earlier dataset of OUTPUT, between two renames
    discarded/       the same, once it is no longer needed
    whole.lock       held by the process that writes the dataset, named in whole.owner
    part-0-of-2.lock held by the process that writes this part, named in part-0-of-2.owner
    ```

    Args:
        output (`str` or `Path`):
            Folder that the dataset is for.
        path (`Path`, *optional*):
            The unfinished folder, if it has another name.

    Raises:
        [`DatasetError`]: When the output is the root of a file system.
    """

    def __init__(self, output: str | Path, path: Path | None = None) -> None:
        self.output = Path(output).expanduser().absolute()
        if not self.output.name:
            raise DatasetError(f"The output must be a folder of its own; got {self.output}. Name a new folder in it.")
        self.path = path or self.output.with_name(f"{self.output.name}.partial")
        self.plan_file = self.path / _PLAN_FILE
        self.dataset = self.path / "dataset"
        self.data = self.dataset / "data"
        self.unfinished = self.path / "unfinished"
        self._replaced, self._discarded = self.path / "replaced", self.path / "discarded"
        self._own = "whole"

    @classmethod
    def given(cls, part: str | Path) -> WorkFolder:
        """Return the unfinished folder that a path names: the folder itself, whatever its name, or its output."""
        path = Path(part).expanduser().absolute()
        if (path / _PLAN_FILE).is_file():
            return cls(path, path)
        return cls(path.parent / path.name.removesuffix(".partial"))

    @property
    def is_published(self) -> bool:
        """Whether the dataset has left this folder, and only the removal of the folder is missing."""
        return self.plan_file.is_file() and not self.dataset.exists()

    @contextlib.contextmanager
    def locked(self, part: tuple[int, int] | None = None) -> Iterator[None]:
        """Keep other processes from writing the same shards, and explain errors of the disk.

        Args:
            part (`tuple[int, int]`, *optional*):
                `(i, n)`: only this part is written, so that others may write other parts of n. `None`: everything.

        Raises:
            [`DatasetError`]: When another process writes these shards, or the folder cannot be written.
        """
        with explained_write(self.output), contextlib.ExitStack() as held:
            self.path.mkdir(parents=True, exist_ok=True)
            held.callback(self._remove_if_empty)
            with contextlib.ExitStack() as whole:
                # A part holds it only while it looks for others, so that no two begin at the same moment.
                whole.enter_context(self._lock("whole", timeout_s=1))
                self.refuse_other_processes(part)
                if part is None:
                    held.push(whole.pop_all())
                else:
                    self._own = f"part-{part[0]}-of-{part[1]}"
                    held.enter_context(self._lock(self._own))
            yield

    def refuse_other_processes(self, beside: tuple[int, int] | None = None) -> None:
        """Raise if another process writes a part here.

        Args:
            beside (`tuple[int, int]`, *optional*):
                `(i, n)`: parts of n may be written.

        Raises:
            [`DatasetError`]: With the other process.
        """
        for path in sorted(self.path.glob("part-*.lock")):
            if path.stem != self._own and not (beside and path.stem.endswith(f"-of-{beside[1]}")):
                with self._lock(path.stem):  # also removes what a killed process left
                    pass

    @contextlib.contextmanager
    def _lock(self, name: str, timeout_s: float = 0) -> Iterator[None]:
        lock, owner = FileLock(self.path / f"{name}.lock", timeout=timeout_s), self.path / f"{name}.owner"
        try:
            lock.acquire()
        except Timeout:
            by = owner.read_text(encoding="utf-8") if owner.is_file() else "another process"
            raise DatasetError(f"{self.output} is being prepared by {by}. Wait until it ends.") from None
        try:
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
        finally:
            for path in (owner, self.path / f"{name}.lock"):
                path.unlink(missing_ok=True)
            lock.release()

    def recover(self) -> None:
        """Put the earlier dataset back if a kill came between the two renames of `publish`."""
        if self._replaced.is_dir() and not self.output.exists():
            self._replaced.rename(self.output)

    def start(self, plan: str) -> None:
        """Make the folder for a plan, unless it is there already.

        Raises:
            [`DatasetError`]: When there is such a folder with other files.
        """
        known = {self.plan_file, self.dataset, self.unfinished}
        unknown = [path for path in self.path.iterdir() if path not in known and path.suffix not in (".lock", ".owner")]
        if unknown and not self.plan_file.is_file():
            raise DatasetError(f"{self.path} is needed to work in, but holds other files. Move them away.")
        for folder in (self.data, self.unfinished):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.plan_file.is_file():
            self.write_text(self.plan_file, plan)

    def begin(self, name: str) -> Path:
        """Return a new name for an unfinished file, which a writer that outlived its job cannot know."""
        return self.unfinished / f"{name}.{uuid.uuid4().hex}"

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file atomically."""
        unfinished = self.begin(path.name)
        with unfinished.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        put(unfinished, path)

    def forget_unfinished(self, names: Iterable[str]) -> None:
        """Remove unfinished files of these shards; other machines may be writing others."""
        for name in names:
            for path in self.unfinished.glob(f"{name}.*"):
                path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Move the finished dataset into place. The earlier one is set aside, and comes back if that fails."""
        _sync(self.data)
        _sync(self.dataset)
        if self.output.exists():
            self.output.rename(self._replaced)
        try:
            self.dataset.rename(self.output)
        except OSError:
            self.recover()
            raise
        _sync(self.output.parent)
        self.discard()

    def discard(self) -> None:
        """Remove the folder, the plan last."""
        if self._replaced.exists():
            self._replaced.rename(self._discarded)  # half removed, it must not come back
        for folder in (self._discarded, self.dataset, self.unfinished):
            shutil.rmtree(folder, ignore_errors=True)
        self.plan_file.unlink(missing_ok=True)
        self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()


def put(unfinished: Path, path: Path) -> None:
    """Give a finished file its name, after all of it has reached the disk."""
    _sync(unfinished)
    unfinished.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def explained_write(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and other errors of writing into one `DatasetError` with a remedy."""
    try:
        yield
    except OSError as error:
        if isinstance(error, MLCAKError):  # a radiograph that is not there is a FileNotFoundError, too
            raise
        raise DatasetError(
            f"Cannot write {path}: {error.strerror or error}. Finished shards are kept: free space or correct the"
            " permissions, and the same command continues."
        ) from error
