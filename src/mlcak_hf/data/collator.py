"""Rows of radiographs and labels -> the tensors of a batch, for training (with views) and for evaluation."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DistillationError
from ..image_processing_mlcak import MLCAKImageProcessor, to_unit_range
from .decoded_images import CANVAS_PX, make_canvas
from .view_pixels import view_pixels
from .views import VIEW_DEFINITION, ViewParameters


def teacher_pixel_keys(teachers: int) -> list[str]:
    """Batch keys of the pixels for each teacher: `teacher_pixel_values`, `teacher_pixel_values_2`, ..."""
    return ["teacher_pixel_values", *(f"teacher_pixel_values_{number}" for number in range(2, teachers + 1))][:teachers]


class MLCAKCollator:
    """Make a batch: stored radiographs, one view of each, and its pixels for the student and for the teacher.

    Teacher and student reduce the same view, each to its own size with its own normalisation. Views depend on
    (seed, epoch, index) alone: not on workers, batches or processes.

    Args:
        processor: the (student) model's image processor.
        teacher_processor: the teacher's, or a list with one for each of several teachers; None where there is none.
        views: ranges to draw views from; None takes the images as they are stored.
        seed: of the views.
        canvas_px: larger images are reduced to this side before a view is made of them (four times the time per
            doubling). Stored datasets keep 256 px.

    Raises:
        DistillationError: if teacher and student make a square of a radiograph in different ways.

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
        canvas_px: int = CANVAS_PX,
    ) -> None:
        self.processor, self.teacher_processor = processor, teacher_processor
        for other in self._teacher_processors().values():
            _check_same_radiograph(processor, other)
        self.views, self.seed, self.canvas_px = views, seed, canvas_px
        # In shared memory: worker processes that outlive an epoch see the next one's number.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch whose views are made, counted from 0."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Make the views of another epoch, in this process and in workers that already run."""
        self._epoch.fill_(epoch)

    def for_evaluation(self) -> MLCAKCollator:
        """Return a collator without views or teacher: the pixels that the processor alone makes."""
        other = copy.copy(self)
        other.teacher_processor, other.views = None, None
        return other

    def at_epoch(self, epoch: int) -> MLCAKCollator:
        """Return a collator that makes the views of one epoch only, whatever this one goes on to make."""
        other = copy.copy(self)
        other._epoch = torch.tensor(epoch)
        return other

    def view_key(self) -> dict[str, Any]:
        """What decides a view besides the stored image, its index and the epoch: part of the key of a teacher cache."""
        return {
            "definition": VIEW_DEFINITION,
            "ranges": None if self.views is None else asdict(self.views),
            "seed": None if self.views is None else self.seed,
            "canvas_px": None if self.views is None else self.canvas_px,
            "fit": self.processor.fit,
            "value_range": self.processor.value_range,
        }

    def _teacher_processors(self) -> dict[str, MLCAKImageProcessor]:
        """Image processors of the teachers by what their pixels are called in a batch."""
        if self.teacher_processor is None:
            return {}
        several = isinstance(self.teacher_processor, Sequence)
        processors: Any = self.teacher_processor if several else [self.teacher_processor]
        return dict(zip(teacher_pixel_keys(len(processors)), processors, strict=True))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate rows.

        Args:
            rows: each with `image` (PIL image or array) or `canvas` (of [`Canvases`]), `index` (its place in the
                dataset; only for views), and as far as known `labels` (int, or a vector) and `local_labels` (a vector).

        Returns:
            `pixel_values` `(B, C, S, S)`, with a teacher `teacher_pixel_values` (of a second one
            `teacher_pixel_values_2`); with views `index` `(B,)`, so that the trainer can name an image; and the labels
            that the rows have: int64 `(B,)` or float32 `(B, n)`.

        Raises:
            ValueError: if an image's values have no defined range (see `to_unit_range`).
        """
        make = self._stored if self.views is None else self._seen
        batch = {name: torch.from_numpy(pixels) for name, pixels in make(rows).items()}
        names = ("labels", "local_labels") if self.views is None else ("index", "labels", "local_labels")
        for name in names:
            if name in rows[0]:
                values = np.stack([np.asarray(row[name]) for row in rows])
                kind = torch.int64 if values.dtype.kind in "iu" and values.ndim == 1 else torch.float32
                batch[name] = torch.as_tensor(values).to(kind)
        return batch

    def _models(self) -> dict[str, MLCAKImageProcessor]:
        """Image processors of the student and the teachers by what their pixels are called in a batch."""
        return {"pixel_values": self.processor} | self._teacher_processors()

    def _stored(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Pixels of the images as they are stored; the processors themselves make squares and reduce in one step."""
        images = [
            to_unit_range(row["canvas"]) if "canvas" in row else to_unit_range(row["image"], self.processor.value_range)
            for row in rows
        ]
        return {
            name: np.concatenate([processor.reduce(image[None]) for image in images])
            for name, processor in self._models().items()
        }

    def _seen(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Pixels of one view of each image."""
        assert self.views is not None
        models = self._models()
        # A processor of low resolution enlarges what it was given at that size.
        sides = [processor.lowres or processor.size["height"] for processor in models.values()]
        reduced = [np.empty((len(rows), side, side), dtype=np.float32) for side in sides]
        for place, row in enumerate(rows):
            canvas = row["canvas"] if "canvas" in row else make_canvas(row["image"], self.processor, self.canvas_px)
            view = self.views.draw(self.seed, self.epoch, int(row["index"]))
            for pixels, seen in zip(reduced, view_pixels(canvas, view, sides), strict=True):
                pixels[place] = seen
        return {name: models[name].reduce(pixels) for name, pixels in zip(models, reduced, strict=True)}


def _check_same_radiograph(student: MLCAKImageProcessor, teacher: MLCAKImageProcessor) -> None:
    for name in ("fit", "value_range"):
        # A range is a tuple or, once saved and loaded again, a list.
        values = (getattr(processor, name) for processor in (student, teacher))
        ours, theirs = (tuple(value) if isinstance(value, list) else value for value in values)
        if ours != theirs:
            raise DistillationError(
                f"Teacher and student must see the same radiograph, but their image processors differ in {name}: "
                f"teacher {theirs!r}, student {ours!r}."
            )
