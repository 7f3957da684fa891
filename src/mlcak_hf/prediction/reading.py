"""Read radiographs at the sizes that a prediction needs, in this process or in worker processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import MLCAKError
from ..radiographs.choices import Fit, ValueRange, Voi
from ..radiographs.read import read_radiograph, read_with_facts, resize_radiograph
from ..trust.file_checks import file_warnings
from ..worker_processes import map_in_processes

#: Side of the image whose content is checked, and longer side of a heatmap's picture, in pixels.
CHECKED_PX = 64
DISPLAY_PX = 1024


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Args:
        size_px (`int`):
            Side of the square for the model, in pixels.
        fit, voi, value_range:
            As in [`read_radiograph`].
        with_picture (`bool`, *optional*, defaults to `False`):
            Whether to read a picture for a heatmap too.
    """

    size_px: int
    fit: Fit
    voi: Voi
    value_range: ValueRange | None = None
    with_picture: bool = False


@dataclass
class ReadFile:
    """A file that was read, or the reason why it could not be.

    Args:
        file (`Path`):
            The file.
        square (`np.ndarray` of shape `(size_px, size_px)`, *optional*):
            The radiograph for the model, float32 in [0, 1].
        original_size (`tuple[int, int]`):
            Height and width in the file, in pixels.
        checked (`np.ndarray` of shape `(64, 64)`, *optional*):
            The radiograph squashed to a small square, to check its content.
        warnings (`tuple[str, ...]`):
            What is unusual about the file.
        picture (`np.ndarray` of shape `(height, width)`, *optional*):
            The radiograph in its own proportions, for a heatmap.
        error (`str`, *optional*):
            Why it could not be read.
    """

    file: Path
    square: npt.NDArray[np.float32] | None = None
    original_size: tuple[int, int] = (0, 0)
    checked: npt.NDArray[np.float32] | None = None
    warnings: tuple[str, ...] = ()
    picture: npt.NDArray[np.float32] | None = None
    error: str | None = None


def read_files(files: Iterable[Path], options: ReadOptions, workers: int = 1) -> Iterator[ReadFile]:
    """Read files in their order.

    Args:
        files (`Iterable[Path]`):
            The files. With several workers they are listed before the first is read.
        options ([`ReadOptions`]):
            How to read them.
        workers (`int`, *optional*, defaults to 1):
            Number of processes that read. With 1, files are read in this process, when they are asked for.
    """
    read = partial(read_file, options=options)
    if workers == 1:
        return map(read, files)
    return map_in_processes(read, list(files), workers, doing="reading radiographs", preload=__name__)


def read_file(file: Path, options: ReadOptions) -> ReadFile:
    """Read one file; an unreadable one gives a [`ReadFile`] with `error`."""
    try:
        # One read serves the model and the checks: area averages over whole blocks are those of the smaller square.
        blocks = -(-CHECKED_PX // options.size_px)
        read = read_with_facts(file, blocks * options.size_px, options.fit, options.voi, options.value_range)
        if read.contrast_problem is not None:
            return ReadFile(file, error=read.contrast_problem)
        size = (read.original_height, read.original_width)
        return ReadFile(
            file,
            resize_radiograph(read.pixels, options.size_px, "squash"),
            size,
            checked=resize_radiograph(_without_padding(read.pixels, size, options.fit), CHECKED_PX, "squash"),
            warnings=tuple(file_warnings(file, size)),
            picture=_picture(file, size, options) if options.with_picture else None,
        )
    except (MLCAKError, OSError) as error:
        # The message begins with the name of the file, which is beside it in every form of output.
        return ReadFile(file, error=str(error).removeprefix(f"{file}: ").removeprefix(f"{file.name}: "))


def _without_padding(square: npt.NDArray[np.float32], size: tuple[int, int], fit: Fit) -> npt.NDArray[np.float32]:
    if fit == "squash":
        return square
    side = len(square)
    height, width = (max(1, round(edge * side / max(size))) for edge in size)
    top, left = (side - height) // 2, (side - width) // 2
    return square[top : top + height, left : left + width]


def _picture(file: Path, size: tuple[int, int], options: ReadOptions) -> npt.NDArray[np.float32]:
    longer = max(size)
    if longer <= DISPLAY_PX:
        return read_radiograph(file, voi=options.voi, value_range=options.value_range)
    # Reading a square of the display size can use the reduced resolutions of JPEG 2000; its padding is cut off.
    square = read_radiograph(file, DISPLAY_PX, "pad", options.voi, options.value_range)
    return _without_padding(square, size, "pad")
