"""Read radiographs at the sizes that a prediction needs, in this process or in worker processes.

Nothing here imports torch, so that a worker process starts in a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import MLCAKError
from ..radiographs.choices import Fit, ValueRange, Voi
from ..radiographs.read import NO_CONTRAST, read_radiograph, read_with_facts, resize_radiograph, without_padding
from ..trust.file_checks import file_warnings
from ..trust.image_checks import NOTHING_VISIBLE, image_warnings
from ..worker_processes import map_in_processes
from .result import Prediction

OnSuspect = Literal["warn", "refuse"]

#: Side of the image whose content is checked, and longer side of a heatmap's picture, in pixels.
CHECKED_PX = 64
DISPLAY_PX = 1024


@dataclass(frozen=True)
class ReadOptions:
    """How files are read and checked.

    Args:
        size_px (`int`):
            Side of the square for the model, in pixels.
        fit, voi, value_range:
            As in [`read_radiograph`].
        on_suspect (`str`, *optional*, defaults to `"warn"`):
            As in [`RadiographPredictor`].
        with_picture (`bool`, *optional*, defaults to `False`):
            Whether to read a picture for a heatmap too.
    """

    size_px: int
    fit: Fit
    voi: Voi
    value_range: ValueRange | None = None
    on_suspect: OnSuspect = "warn"
    with_picture: bool = False


@dataclass
class ReadFile:
    """A file that was read and checked.

    Args:
        prediction ([`Prediction`]):
            What is known so far: the file, and its warning, or why it was refused or could not be read.
        square (`np.ndarray` of shape `(size_px, size_px)`, *optional*):
            The radiograph for the model, float32 in [0, 1]. `None` if nothing is to be predicted.
        original_size (`tuple[int, int]`):
            Height and width in the file, in pixels.
        picture (`np.ndarray` of shape `(height, width)`, *optional*):
            The radiograph in its own proportions, for a heatmap.
    """

    prediction: Prediction
    square: npt.NDArray[np.float32] | None = None
    original_size: tuple[int, int] = (0, 0)
    picture: npt.NDArray[np.float32] | None = None


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
    """Read and check one file."""
    prediction = Prediction(file)
    try:
        # One read serves the model and the checks: area averages over whole blocks are those of the smaller square.
        blocks = -(-CHECKED_PX // options.size_px)
        read = read_with_facts(file, blocks * options.size_px, options.fit, options.voi, options.value_range)
        height, width = read.original_height, read.original_width
        content = read.pixels if options.fit == "squash" else without_padding(read.pixels, height, width)
        warnings = [
            *file_warnings(file, (height, width)),
            *image_warnings(resize_radiograph(content, CHECKED_PX, "squash") if content.size else read.pixels),
        ]
        nothing_visible = NO_CONTRAST if NOTHING_VISIBLE in warnings else None
        prediction.refused_because = read.contrast_problem or nothing_visible
        if prediction.refused_because is None and warnings:
            prediction.warning = "; ".join(warnings)
            prediction.refused_because = prediction.warning if options.on_suspect == "refuse" else None
        if prediction.refused_because is not None:
            return ReadFile(prediction)
        square = resize_radiograph(read.pixels, options.size_px, "squash")
        picture = _picture(file, height, width, options) if options.with_picture else None
        return ReadFile(prediction, square, (height, width), picture)
    except (MLCAKError, OSError) as error:
        # The message begins with the name of the file, which is beside it in every form of output.
        return ReadFile(Prediction(file, error=str(error).removeprefix(f"{file.name}: ")))


def _picture(file: Path, height: int, width: int, options: ReadOptions) -> npt.NDArray[np.float32]:
    if max(height, width) <= DISPLAY_PX:
        return read_radiograph(file, voi=options.voi, value_range=options.value_range)
    # Reading a square of the display size can use the reduced resolutions of JPEG 2000; its padding is cut off.
    return without_padding(read_radiograph(file, DISPLAY_PX, "pad", options.voi, options.value_range), height, width)
