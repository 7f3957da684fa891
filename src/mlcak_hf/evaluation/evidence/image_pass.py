"""One pass over the images of a split: the input checks, and predictions of perturbed copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ...data.decoded_images import to_square
from ...data.shifts import REPORTED_SHIFTS
from ...data.sources import RadiographDataset
from ...image_processing_mlcak import MLCAKImageProcessor, to_unit_range
from ...probabilities import probabilities
from ...radiographs.read import resize_radiograph, without_padding
from ...trust.input_checks import NOTHING_VISIBLE, image_warnings
from ...trust.reference import Reference
from ..scores import FloatArray, global_scores
from .record import UNLIKE, InputQuality

_CHECKED_PX = 64


@dataclass(frozen=True)
class ImagePass:
    """What one pass over the images found.

    Args:
        inputs ([`InputQuality`]):
            What the input checks say.
        shifted_rows (`np.ndarray` of shape `(m,)`):
            The rows that were perturbed.
        shifted_scores (`dict[str, np.ndarray]`):
            Global scores of these rows by perturbation, of shape `(m, labels)`.
    """

    inputs: InputQuality
    shifted_rows: NDArray[np.intp]
    shifted_scores: dict[str, FloatArray]


@dataclass(frozen=True)
class _Preparation:
    """From a row of the split to its warnings and its perturbed pixels; in worker processes too."""

    processor: MLCAKImageProcessor
    shifted: frozenset[int]
    options: PassOptions

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        perturbed = [row for row in rows if row["index"] in self.shifted]
        squares = [to_square(row["image"], self.processor) for row in perturbed]
        side = self.processor.lowres or self.processor.size["height"]
        pixels = {}
        for name, shift in REPORTED_SHIFTS.items() if perturbed else ():
            made = [
                shift.pixels(square, row["index"], [side])[0] for row, square in zip(perturbed, squares, strict=True)
            ]
            pixels[name] = torch.from_numpy(self.processor.reduce(np.stack(made)))
        return {"warnings": [self._warnings(row) for row in rows], "pixels": pixels}

    def _warnings(self, row: Mapping[str, Any]) -> list[str]:
        image = to_unit_range(row["image"], self.processor.value_range)
        if self.options.sizes is not None:
            image = without_padding(image, *self.options.sizes[row["index"]])
        return image_warnings(resize_radiograph(image, _CHECKED_PX, "squash"))


def sizes_before_padding(rows: Dataset, fit: str | None) -> list[tuple[int, int]] | None:
    """Read the original height and width of images that were stored as padded squares; `None` for other datasets.

    Args:
        rows (`Dataset`):
            The split.
        fit (`str`, *optional*):
            How the dataset made squares.
    """
    names = ["original_height", "original_width"]
    if fit != "pad" or not set(names) <= set(rows.column_names):
        return None
    return [(row[names[0]], row[names[1]]) for row in rows.select_columns(names)]


@dataclass(frozen=True)
class PassOptions:
    """How to pass over the images.

    Args:
        sizes (`Sequence[tuple[int, int]]`, *optional*):
            From [`sizes_before_padding`].
        reference ([`Reference`], *optional*):
            The model's own check; images that it refuses are counted.
        most_shifted (`int`, *optional*, defaults to 500):
            Number of images to perturb at most, evenly spaced over the split; 0 for none.
        batch_size (`int`, *optional*, defaults to 32):
            Images at once.
        num_workers (`int`, *optional*, defaults to 0):
            Processes that decode and perturb images.
    """

    sizes: Sequence[tuple[int, int]] | None = None
    reference: Reference | None = None
    most_shifted: int = 500
    batch_size: int = 32
    num_workers: int = 0


def pass_over_images(
    network: Any,
    processor: MLCAKImageProcessor,
    dataset: RadiographDataset,
    class_tokens: NDArray[Any],
    options: PassOptions,
) -> ImagePass:
    """Check every image, and predict perturbed copies of some of them.

    Args:
        network ([`MLCAKForCXRClassification`]), processor ([`MLCAKImageProcessor`]):
            The model.
        dataset ([`RadiographDataset`]):
            The images.
        class_tokens (`np.ndarray` of shape `(n, width)`):
            The class token of each image, which the reference judges.
        options ([`PassOptions`]):
            What to do.

    Returns:
        [`ImagePass`]
    """
    count = len(dataset)
    rows = np.unique(np.linspace(0, count - 1, min(count, options.most_shifted)).astype(np.intp))
    prepare = _Preparation(processor, frozenset(rows.tolist()), options)
    loader = DataLoader(dataset, options.batch_size, num_workers=options.num_workers, collate_fn=prepare)
    reference, unlike = options.reference, np.zeros(count, dtype=bool)
    if reference is not None:
        unlike = reference.distances(class_tokens) > reference.limit
    refused: Counter[str] = Counter()
    warned: Counter[str] = Counter()
    images, checked, scores = 0, 0, dict[str, list[FloatArray]]()
    for batch in tqdm(loader, unit="batch", leave=False, disable=None):
        for place, warnings in enumerate(batch["warnings"], start=checked):
            reasons = [*warnings, *([UNLIKE] if unlike[place] else [])]
            for reason in reasons:
                (refused if reason == NOTHING_VISIBLE else warned)[reason] += 1
            images += bool(reasons)
        checked += len(batch["warnings"])
        for name, pixels in batch["pixels"].items():
            scores.setdefault(name, []).append(_global_scores(network, pixels))
    shifted = {name: np.concatenate(parts) for name, parts in scores.items()}
    chance = None if reference is None else reference.most_refused(count)
    rate = None if reference is None else reference.false_refusals
    return ImagePass(InputQuality(images, dict(refused), dict(warned), chance, rate), rows, shifted)


def _global_scores(network: Any, pixels: torch.Tensor) -> FloatArray:
    with torch.inference_mode():
        logits = network(pixels.to(network.device)).logits.float().cpu()
    config = network.config
    problem_type = str(config.problem_type)
    unknown = np.full((len(logits), config.num_labels if problem_type.startswith("multi") else 1), -1)
    found = probabilities(logits, problem_type)
    return global_scores(found, unknown, config.global_labels, problem_type).scores
