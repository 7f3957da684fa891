"""Rows of radiographs and labels -> the tensors of a batch, for training (with views) and for evaluation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DistillationError
from ..image_processing_mlcak import MLCAKImageProcessor, to_unit_range
from .decoded_images import MAX_DECODED_PX, to_square
from .shifts import SHIFTS
from .view_pixels import view_pixels
from .views import VIEW_DEFINITION, ViewParameters


def teacher_pixel_keys(teachers: int) -> list[str]:
    """
    Name the batch keys that hold the pixels of several teachers.

    Args:
        teachers (`int`):
            Number of teachers.

    Returns:
        `list[str]`: `teacher_pixel_values`, `teacher_pixel_values_2`, `teacher_pixel_values_3`, ...
    """
    return ["teacher_pixel_values" + (f"_{number}" if number > 1 else "") for number in range(1, teachers + 1)]


class MLCAKCollator:
    """
    Make a batch of one view of each radiograph, with its pixels for the student and for every teacher.

    Teachers and student see the same view, each at its own size and with its own normalisation. A view depends on seed,
    epoch and index alone, not on workers, batches or processes.

    Args:
        processor ([`MLCAKImageProcessor`]):
            Image processor of the model, or of the student.
        teacher_processor ([`MLCAKImageProcessor`] or a sequence of them, *optional*):
            Image processor of the teacher, or one for each teacher.
        views ([`ViewParameters`], *optional*):
            Ranges to draw views from. `None` uses the images as they are stored.
        seed (`int`, *optional*, defaults to 0):
            Seed of the views.
        max_px (`int`, *optional*, defaults to 256):
            Larger images are reduced to this side before a view is made. Doubling it takes four times as long.

    Raises:
        [`DistillationError`]: If a teacher's processor has another `fit` or `value_range` than the student's.

    Example:

    ```python
    >>> processor = MLCAKImageProcessor(size={"height": 28, "width": 28})
    >>> collator = MLCAKCollator(processor, views=ViewParameters())
    >>> rows = [{"image": np.zeros((256, 256), np.uint8), "labels": 1, "index": i} for i in range(2)]
    >>> {name: tuple(tensor.shape) for name, tensor in collator(rows).items()}
    {'pixel_values': (2, 1, 28, 28), 'index': (2,), 'labels': (2,)}
    ```
    """

    def __init__(
        self,
        processor: MLCAKImageProcessor,
        teacher_processor: MLCAKImageProcessor | Sequence[MLCAKImageProcessor] | None = None,
        views: ViewParameters | None = None,
        seed: int = 0,
        max_px: int = MAX_DECODED_PX,
    ) -> None:
        given = teacher_processor if isinstance(teacher_processor, Sequence) else [teacher_processor]
        self.processor, self.teacher_processors = processor, [teacher for teacher in given if teacher is not None]
        for teacher in self.teacher_processors:
            _check_same_radiograph(processor, teacher)
        self.views, self.seed, self.max_px = views, seed, max_px
        # In shared memory, so that persistent workers see the epoch change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._shift = torch.tensor(-1)

    @property
    def epoch(self) -> int:
        """Epoch of the views, counted from 0."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the views, in running workers too."""
        self._epoch.fill_(epoch)

    def for_evaluation(self) -> MLCAKCollator:
        """Return a collator without views and teachers, which gives the processor's own pixels."""
        other = copy.copy(self)
        other.teacher_processors, other.views = [], None
        other._shift = torch.tensor(-1).share_memory_()  # type: ignore[no-untyped-call]
        return other

    def each_shift(self) -> Iterator[str]:
        """Perturb the images of an evaluation as each of [`SHIFTS`] in turn, in running workers too."""
        try:
            for number, name in enumerate(SHIFTS):
                self._shift.fill_(number)
                yield name
        finally:
            self._shift.fill_(-1)

    def at_epoch(self, epoch: int) -> MLCAKCollator:
        """Return a collator for the views of one epoch."""
        other = copy.copy(self)
        other._epoch = torch.tensor(epoch)
        return other

    def view_key(self) -> dict[str, Any]:
        """Return what determines a view besides image, index and epoch, for the key of a teacher cache."""
        return {
            "definition": VIEW_DEFINITION,
            "ranges": None if self.views is None else asdict(self.views),
            "seed": None if self.views is None else self.seed,
            "max_px": None if self.views is None else self.max_px,
            "fit": self.processor.fit,
            "value_range": self.processor.value_range,
        }

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """
        Collate rows.

        Args:
            rows (`Sequence[Mapping]`):
                Each with `image` (PIL image or array) or `decoded` (from [`DecodedImages`]); with views `index`, its
                place in the dataset; and optionally `labels` (an integer or a vector) and `local_targets` (a vector).

        Returns:
            `dict[str, torch.Tensor]`: `pixel_values` of shape `(B, C, S, S)`; for teachers `teacher_pixel_values`,
            `teacher_pixel_values_2`, ...; with views `index` of shape `(B,)`; and the labels that the rows have, int64
            of shape `(B,)` or float32 of shape `(B, n)`.

        Raises:
            ValueError: If the range of an image's values is not defined (see [`to_unit_range`]).
        """
        processors = [self.processor, *self.teacher_processors]
        keys = ["pixel_values", *teacher_pixel_keys(len(self.teacher_processors))]
        batch = {}
        for key, processor, images in zip(keys, processors, zip(*map(self._images, rows), strict=True), strict=True):
            reduced = np.concatenate([processor.reduce(image[None]) for image in images])
            batch[key] = torch.from_numpy(reduced)
        return self._with_labels(batch, rows)

    def _with_labels(self, batch: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        # With the index, the trainer can name an image.
        for name in ("labels", "local_targets") if self.views is None else ("index", "labels", "local_targets"):
            if name in rows[0]:
                values = np.stack([np.asarray(row[name]) for row in rows])
                is_class = values.dtype.kind in "iu" and values.ndim == 1
                batch[name] = torch.as_tensor(values).to(torch.int64 if is_class else torch.float32)
        return batch

    def _images(self, row: Mapping[str, Any]) -> list[np.ndarray]:
        """The image or the view of a row, in [0, 1], for the student and for each teacher."""
        processors, shift = [self.processor, *self.teacher_processors], int(self._shift)
        if self.views is not None or shift >= 0:
            image = row["decoded"] if "decoded" in row else to_square(row["image"], self.processor, self.max_px)
            # A processor with `lowres` enlarges an image that already has that size.
            sides, index = [processor.lowres or processor.size["height"] for processor in processors], int(row["index"])
            if self.views is None:
                return list(SHIFTS.values())[shift].pixels(image, index, sides)
            return view_pixels(image, self.views.draw(self.seed, self.epoch, index), sides)
        if "decoded" in row:
            return [to_unit_range(row["decoded"])] * len(processors)
        return [to_unit_range(row["image"], self.processor.value_range)] * len(processors)


def _check_same_radiograph(student: MLCAKImageProcessor, teacher: MLCAKImageProcessor) -> None:
    for name in ("fit", "value_range"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        # A range is a tuple, or a list after loading.
        if ours != theirs and list(ours or ()) != list(theirs or ()):
            raise DistillationError(
                f"Teacher and student must see the same radiograph, but their image processors differ in {name}: "
                f"teacher {theirs!r}, student {ours!r}. Give both processors the same {name}."
            )
