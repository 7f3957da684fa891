"""Exported ONNX files against PyTorch: real forward passes of both, on phantoms and noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import DeploymentError
from ...explanation.class_token import class_token_attention
from ...image_processing_mlcak import MLCAKImageProcessor
from ...modeling_mlcak import MLCAKForCXRClassification
from ...probabilities import MULTI_LABEL, probabilities
from ...trust.reference import Reference, captured_class_tokens
from .deviation import draw_phantoms
from .onnx_model import Dtype

#: Number of synthetic radiographs, and of images of noise.
PHANTOMS, NOISE = 16, 8
_BATCHES = (1, 2, 5)
#: Largest difference of a probability or of the attention of a patch. Beyond it, an export is refused.
LIMITS: dict[Dtype, float] = {"float32": 1e-5, "float16": 0.01, "int8": 0.1}
#: Largest difference of pixel values from the processor's, for a standard deviation of 0.25.
PIXEL_LIMIT = 2e-6
_SIZES = ((1, 1), (1, 9), (7, 3), (28, 28), (29, 27), (224, 224), (451, 600), (1024, 833))  # height, width

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class OnnxDifference:
    """Largest differences of a file from PyTorch, over all images.

    Args:
        file (`str`):
            Name of the file.
        megabytes (`float`):
            Its size, in millions of bytes.
        logit, probability (`float`):
            Absolute, over the labels of both heads.
        attention (`float`, *optional*):
            Absolute, over patches.
        distance (`float`, *optional*):
            Relative.
    """

    file: str
    megabytes: float
    logit: float
    probability: float
    attention: float | None = None
    distance: float | None = None


def check_images(processor: MLCAKImageProcessor) -> NDArray[np.float32]:
    """Make the pixel values that files are checked on, always the same ones: phantoms, then noise."""
    side = processor.size["height"]
    noise = np.random.default_rng(0).random((NOISE, side, side), dtype=np.float32)
    reduced = [processor.reduce(image[None]) for image in (*draw_phantoms(PHANTOMS), *noise)]
    return np.concatenate(reduced)


@torch.inference_mode()
def torch_outputs(
    model: MLCAKForCXRClassification, reference: Reference | None, pixel_values: NDArray[np.float32]
) -> Arrays:
    """Compute the outputs that an exported file must have, by the model itself."""
    config: Any = model.config
    found: dict[str, list[Any]] = {}
    for image in pixel_values:
        with captured_class_tokens(model) as tokens:
            output = model(pixel_values=torch.from_numpy(image[None]), output_attentions=config.has_attention)
        row = {"logits": output.logits.numpy()}
        if output.local_logits is not None:
            row["local_logits"] = output.local_logits.numpy()
        if config.has_attention:
            row["attention"] = class_token_attention(output.mlcak.numpy(), config.num_prefix_tokens, model.grid_size)
        if reference is not None:
            row["distance"] = reference.distances(tokens[0].numpy())
        for name, values in row.items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(rows) for name, rows in found.items()}


def measured_difference(
    file: Path, expected: Mapping[str, NDArray[Any]], pixel_values: NDArray[np.float32], problem_type: str
) -> OnnxDifference:
    """Run a file on all images, in batches of 1, 2 and 5.

    Args:
        file (`Path`):
            The ONNX file.
        expected (`Mapping[str, np.ndarray]`):
            From [`torch_outputs`].
        pixel_values (`np.ndarray` of shape `(n, C, S, S)`):
            The images.
        problem_type (`str`):
            That of the global head.

    Raises:
        [`DeploymentError`]: When the file has other outputs.
    """
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    if names != list(expected):
        raise DeploymentError(f"{file.name} must have the outputs {list(expected)}; got {names}. Report this.")
    rows: dict[str, list[Any]] = {name: [] for name in names}
    start = 0
    while start < len(pixel_values):
        for size in _BATCHES:
            if batch := list(pixel_values[start : start + size]):
                for name, values in zip(names, session.run(None, {"pixel_values": np.stack(batch)}), strict=True):
                    rows[name].append(values)
            start += size
    found = {name: np.concatenate(values) for name, values in rows.items()}
    heads = {"logits": problem_type, "local_logits": MULTI_LABEL}
    logits = [(found[name], expected[name], kind) for name, kind in heads.items() if name in found]
    return OnnxDifference(
        file.name,
        file.stat().st_size / 1e6,
        max(_largest(ours - theirs) for ours, theirs, _ in logits),
        max(_largest(probabilities(ours, kind) - probabilities(theirs, kind)) for ours, theirs, kind in logits),
        _largest(found["attention"] - expected["attention"]) if "attention" in found else None,
        _largest(found["distance"] / expected["distance"] - 1) if "distance" in found else None,
    )


def check_difference(difference: OnnxDifference, dtype: Dtype) -> None:
    """Refuse a file that differs by more than its type of numbers explains.

    Raises:
        [`DeploymentError`]: When a difference is above the limit of the type, or not a number.
    """
    limit = LIMITS[dtype]
    for what, value in (("probability", difference.probability), ("attention of a patch", difference.attention)):
        if value is not None and not value <= limit:
            raise DeploymentError(
                f"{difference.file} must give every {what} to {limit:g}; it differs by {value:.2g}. Nothing was "
                "written. "
                + ("Check the model's weights." if dtype == "float32" else "Leave this type out (--dtype float32).")
            )
    if dtype == "float32" and difference.distance is not None and not difference.distance <= 1e-3:
        raise DeploymentError(
            f"{difference.file} must give the distance from the training images to 0.1 %; it differs by "
            f"{difference.distance:.2g}. Nothing was written. Run `mlcak calibrate` again."
        )


def check_preprocessing(file: Path, processor: MLCAKImageProcessor) -> float:
    """Compare the preprocessing graph with the processor on images of many sizes; return the largest difference.

    Raises:
        [`DeploymentError`]: When it is more than rounding.
    """
    from onnxruntime import InferenceSession

    session, random = InferenceSession(file, providers=["CPUExecutionProvider"]), np.random.default_rng(0)
    largest = 0.0
    for height, width in _SIZES:
        image = random.random((height, width), dtype=np.float32)
        (found,) = session.run(None, {"image": image})
        largest = max(largest, _largest(found - processor.reduce(image[None])))
    if not largest <= PIXEL_LIMIT * max(1.0, 0.25 / min(processor.image_std)):
        raise DeploymentError(
            f"{file.name} must give the pixel values of the processor to {PIXEL_LIMIT:g}; they differ by "
            f"{largest:.2g}. Nothing was written; report this."
        )
    return largest


def _largest(difference: NDArray[Any]) -> float:
    return float(np.abs(difference).max(initial=0.0))
