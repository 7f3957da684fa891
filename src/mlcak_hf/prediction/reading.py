"""Read radiographs at the sizes that a prediction needs, in this process or in worker processes.

Nothing here imports torch, so that a worker process starts in a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import MLCAKError
from ..radiographs.choices import Fit, ValueRange, Voi
from ..radiographs.read import (
    NO_CONTRAST,
    Radiograph,
    read_radiograph,
    read_with_facts,
    resize_radiograph,
    without_padding,
)
from ..trust.input_checks import NOTHING_VISIBLE, file_warnings, image_warnings

OnSuspect = Literal["warn", "refuse"]

#: Side of the square that is checked, and longer side of the picture for a heatmap, in pixels.
CHECKED_PX = 64
DISPLAY_PX = 1024


class Decision(NamedTuple):
    """What the operating points of a model say about one label of an image.

    Args:
        calibrated (`float`, *optional*):
            Calibrated probability; `None` if its head has no temperature.
        threshold (`float`, *optional*):
            Threshold on the uncalibrated probability; `None` for a label without one.
        decision (`str`):
            `"positive"` if the probability reaches the threshold, else `"negative"`; empty without a threshold, and for
            an image with a warning.
        triage (`str`):
            `"low"`, `"high"` or `"unsure"`; empty as the decision is.
    """

    calibrated: float | None
    threshold: float | None
    decision: str
    triage: str


@dataclass
class Prediction:
    """The model's output for one file, or the reason why there is none.

    Args:
        file (`Path`):
            The radiograph.
        probabilities (`dict[str, float]`):
            Probability of each global label. They sum to 1 for a single-label model. Empty on an error.
        findings (`dict[str, float]`):
            Probability of each local finding; NaN for one that the model never saw in training. Empty for a model
            without a local head.
        decisions (`dict[str, Decision]`):
            Calibrated probability, threshold and decision by `"global/<label>"` and `"finding/<name>"`. Empty without
            the operating points that `mlcak calibrate` writes.
        attention (`np.ndarray` of shape `(rows, columns)`, *optional*):
            The class token's row of the MLCAK map over the patches.
        heatmap (`Path`, *optional*):
            The heatmap that was written.
        warning (`str`, *optional*):
            Why the image may not be an upright frontal chest radiograph, or is unlike the training images.
        refused_because (`str`, *optional*):
            Why there are no probabilities although the file could be read.
        error (`str`, *optional*):
            Why the file could not be read.
    """

    file: Path
    probabilities: dict[str, float] = field(default_factory=dict)
    findings: dict[str, float] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    attention: npt.NDArray[np.float32] | None = None
    heatmap: Path | None = None
    warning: str | None = None
    refused_because: str | None = None
    error: str | None = None

    @property
    def outcome(self) -> str:
        """`"unreadable"`, `"refused"` or `"predicted"`."""
        return "unreadable" if self.error else "refused" if self.refused_because else "predicted"

    @property
    def image_id(self) -> str:
        """The file's name without its suffix: the `image_id` of the same radiograph in a prepared dataset."""
        return self.file.stem


class ReadFile(NamedTuple):
    """A file that was read and checked.

    Args:
        prediction ([`Prediction`]):
            What is known so far: the file, and its warning, or why it was refused or could not be read.
        radiograph ([`Radiograph`], *optional*):
            The radiograph as the square for the model. `None` if nothing is to be predicted.
        picture (`np.ndarray` of shape `(H, W)`, *optional*):
            The radiograph in its own proportions, for a heatmap.
    """

    prediction: Prediction
    radiograph: Radiograph | None = None
    picture: npt.NDArray[np.float32] | None = None


def read_file(
    file: Path,
    size_px: int,
    fit: Fit,
    voi: Voi,
    value_range: ValueRange | None,
    on_suspect: OnSuspect,
    with_picture: bool,
) -> ReadFile:
    """Read and check one file.

    Args:
        file (`Path`):
            The file.
        size_px (`int`):
            Side of the square for the model, in pixels.
        fit, voi, value_range: As in [`read_radiograph`].
        on_suspect (`str`):
            As in [`RadiographPredictor`].
        with_picture (`bool`):
            Whether to read a picture for a heatmap too.
    """
    prediction = Prediction(file)
    try:
        # One read serves the model and the checks: area averages over whole blocks are those of the smaller square.
        blocks = -(-CHECKED_PX // size_px)
        read = read_with_facts(file, blocks * size_px, fit, voi, value_range)
        height, width = read.original_height, read.original_width
        content = read.pixels if fit == "squash" else without_padding(read.pixels, height, width)
        warnings = [
            *file_warnings(file, (height, width)),
            *image_warnings(resize_radiograph(content, CHECKED_PX, "squash") if content.size else read.pixels),
        ]
        prediction.refused_because = read.contrast_problem or (NO_CONTRAST if NOTHING_VISIBLE in warnings else None)
        if prediction.refused_because is None and warnings:
            prediction.warning = "; ".join(warnings)
            prediction.refused_because = prediction.warning if on_suspect == "refuse" else None
        if prediction.refused_because is not None:
            return ReadFile(prediction)
        square = replace(read, pixels=resize_radiograph(read.pixels, size_px, "squash"))
        if not with_picture:
            return ReadFile(prediction, square)
        if max(height, width) <= DISPLAY_PX:
            return ReadFile(prediction, square, read_radiograph(file, voi=voi, value_range=value_range))
        # Reading a square of the display size can use the reduced resolutions of JPEG 2000; its padding is cut off.
        padded = read_radiograph(file, DISPLAY_PX, "pad", voi, value_range)
        return ReadFile(prediction, square, without_padding(padded, height, width))
    except (MLCAKError, OSError) as error:
        # The message begins with the name of the file, which is beside it in every form of output.
        return ReadFile(Prediction(file, error=str(error).removeprefix(f"{file.name}: ")))


def read_ahead(read: Iterator[ReadFile], batch_size: int) -> Iterator[list[ReadFile]]:
    """Yield batches of files; meanwhile a thread reads the next batch.

    Pillow holds Python's lock while it decodes JPEG 2000 at a reduced size; only processes then read beside the model.

    Args:
        read (`Iterator` of [`ReadFile`]):
            Files, which are read when they are asked for.
        batch_size (`int`):
            Files of a batch.
    """
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(lambda: list(islice(read, batch_size)))
        while batch := reading.result():
            reading = reader.submit(lambda: list(islice(read, batch_size)))
            yield batch
