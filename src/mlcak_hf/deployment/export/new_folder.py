"""A folder that appears only when everything in it is written and checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ...errors import DeploymentError


@contextmanager
def new_folder(output: str | Path) -> Iterator[Path]:
    """Yield a folder to write into, which becomes `output` at the end of the block.

    Args:
        output (`str` or `Path`):
            Folder that does not exist yet, or is empty. After an error it is as it was.

    Raises:
        [`DeploymentError`]: When `output` is a file, is not empty, or cannot be written.
    """
    output = Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise DeploymentError(f"The output must be a new or empty folder; got {output}. Name another one, or empty it.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as place:
            folder = Path(place, "export")
            folder.mkdir()
            yield folder
            folder.replace(output)
    except OSError as error:
        raise DeploymentError(f"{output} cannot be written: {error}. Name a folder on a disk with room.") from error
