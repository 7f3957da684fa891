"""Where an unfinished dataset lies, beside its place: what is in it after a kill is whole, or is never looked at."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...errors import DatasetError, MLCAKError

_PLAN_FILE = "plan.json"


class WorkFolder:
    """The folder `OUTPUT.partial`.

    ```
    plan.json        what is being made; written when the folders are there, removed when they are gone
    dataset/data/    finished shards, each renamed into place; the whole of `dataset` becomes OUTPUT at the end
    unfinished/      files that are being written, and what a kill left of them
    replaced/        the dataset that was in OUTPUT before, between two renames
    discarded/       the same, once it is no longer needed
    ```

    Args:
        output: The folder that the dataset is for.
        path: The unfinished folder, where it bears another name.

    Raises:
        DatasetError: The output is the root of a file system.
    """

    def __init__(self, output: Path, path: Path | None = None) -> None:
        if not output.name:
            raise DatasetError(f"{output} cannot be the dataset's folder; name a new folder in it")
        self.output = output
        self.path = path or output.with_name(f"{output.name}.partial")
        self.plan_file = self.path / _PLAN_FILE
        self.dataset = self.path / "dataset"
        self.data = self.dataset / "data"
        self.unfinished = self.path / "unfinished"
        self._replaced, self._discarded = self.path / "replaced", self.path / "discarded"

    @classmethod
    def given(cls, path: Path) -> WorkFolder:
        """The unfinished folder that is meant by a path: the folder itself, whatever its name, or its output's."""
        if (path / _PLAN_FILE).is_file():
            return cls(path, path)
        return cls(path.with_name(path.name.removesuffix(".partial")) if path.name else path)

    @property
    def is_published(self) -> bool:
        """Whether a dataset came out of this folder, which was then not cleared any more."""
        return self.plan_file.is_file() and not self.dataset.exists()

    @property
    def has_shards(self) -> bool:
        """Whether a shard is finished."""
        return any(self.data.glob("*.parquet"))

    def recover(self) -> None:
        """Put the old dataset back, if a kill came between its setting aside and the appearance of the new one."""
        if self._replaced.is_dir() and not self.output.exists():
            self._replaced.rename(self.output)

    def start(self, plan: str) -> None:
        """Make the folder for a plan, or leave it as it is if it is there already.

        Raises:
            DatasetError: There is such a folder, but with other things in it.
        """
        known = {self.plan_file, self.dataset, self.unfinished}
        if self.path.exists() and not self.plan_file.is_file() and set(self.path.iterdir()) - known:
            raise DatasetError(f"{self.path} holds other files, and is needed to work in; move them away")
        for folder in (self.data, self.unfinished):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.plan_file.is_file():
            self.write_whole(self.plan_file, plan)

    def begin(self, name: str) -> Path:
        """Name a file to write before it gets its real name.

        The name is new each time: a writer that outlived its job never meets the next one in the same file.
        """
        return self.unfinished / f"{name}.{uuid.uuid4().hex}"

    def write_whole(self, path: Path, text: str) -> None:
        """Write a text file that is there whole or not at all."""
        unfinished = self.begin(path.name)
        with unfinished.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        put(unfinished, path)

    def forget_unfinished(self, names: Iterable[str]) -> None:
        """Remove what a kill left of shards that are about to be written; other machines may be at work on others."""
        wanted = set(names)
        for path in self.unfinished.iterdir() if self.unfinished.is_dir() else ():
            if path.name.split(".")[0] in wanted:
                path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Let the finished dataset appear at once; an old one is set aside first and comes back if that fails."""
        sync_folder(self.data)
        sync_folder(self.dataset)
        if self.output.exists():
            self.output.rename(self._replaced)
        try:
            self.dataset.rename(self.output)
        except OSError:
            self.recover()
            raise
        sync_folder(self.output.parent)
        self.discard()

    def discard(self) -> None:
        """Remove the folder, the plan last: a kill in between leaves nothing that could be taken for something else."""
        if self._replaced.exists():
            self._replaced.rename(self._discarded)  # half removed, it must not come back
        for folder in (self._discarded, self.dataset, self.unfinished):
            shutil.rmtree(folder, ignore_errors=True)
        self.plan_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody put files of their own into it
            self.path.rmdir()


def put(unfinished: Path, path: Path) -> None:
    """Give a finished file its name, once all of it is on the disk."""
    with unfinished.open("rb") as stream:
        os.fsync(stream.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make sure that names in a folder are on the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained_write(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into one DatasetError that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, MLCAKError):  # a radiograph that is not there is a FileNotFoundError, too
            raise
        raise DatasetError(
            f"cannot write {path}: {error.strerror or error}. What was finished is kept: mend the cause (free space,"
            " permissions), and the same command continues"
        ) from error
