"""Read radiographs at the sizes that a prediction needs, in this process or in worker processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import MLCAKError
from ..radiographs.grey_values import ValueRange, Voi
from ..radiographs.read import Fit, read_radiograph, read_with_facts
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
        read = read_with_facts(file, options.size_px, options.fit, options.voi, options.value_range)
        if read.contrast_problem is not None:
            return ReadFile(file, error=read.contrast_problem)
        size = (read.original_height, read.original_width)
        return ReadFile(
            file,
            read.pixels,
            size,
            checked=read_radiograph(file, CHECKED_PX, "squash", options.voi, options.value_range),
            warnings=tuple(file_warnings(file, size)),
            picture=_picture(file, size, options) if options.with_picture else None,
        )
    except (MLCAKError, OSError) as error:
        # The message begins with the name of the file, which is beside it in every form of output.
        return ReadFile(file, error=str(error).removeprefix(f"{file}: ").removeprefix(f"{file.name}: "))


def _picture(file: Path, size: tuple[int, int], options: ReadOptions) -> npt.NDArray[np.float32]:
    longer = max(size)
    if longer <= DISPLAY_PX:
        return read_radiograph(file, voi=options.voi, value_range=options.value_range)
    # Reading a square of the display size can use the reduced resolutions of JPEG 2000; its padding is cut off.
    square = read_radiograph(file, DISPLAY_PX, "pad", options.voi, options.value_range)
    height, width = (max(1, round(side * DISPLAY_PX / longer)) for side in size)
    top, left = (DISPLAY_PX - height) // 2, (DISPLAY_PX - width) // 2
    return square[top : top + height, left : left + width]
