"""Card of an export to ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import ModelCard

from ...prediction.onnx_metadata import OnnxMetadata
from ...pretrained import Source
from ...probabilities import SINGLE_LABEL
from .export_card import export_card
from .onnx_check import NOISE, PHANTOMS, OnnxDifference


def onnx_card(
    source: Source,
    name: str,
    metadata: OnnxMetadata,
    differences: Sequence[OnnxDifference],
    pixel_difference: float,
) -> ModelCard:
    """Make the card of an export to ONNX.

    Args:
        source (`str` or `Path`):
            The original model.
        name (`str`):
            Name of the exported folder.
        metadata ([`OnnxMetadata`]):
            What the files say about themselves.
        differences (`Sequence` of [`OnnxDifference`]):
            Measured differences of the model files.
        pixel_difference (`float`):
            Largest difference of the preprocessing graph from the processor.

    Returns:
        `ModelCard`
    """
    return export_card(
        "onnx_model_card.md",
        source,
        {"library_name": "onnx", "original_weights_sha256": metadata.weights},
        name=name,
        metadata=metadata,
        channels=len(metadata.image_mean),
        single_label=metadata.problem_type == SINGLE_LABEL,
        differences=differences,
        pixel_difference=pixel_difference,
        phantoms=PHANTOMS,
        noise=NOISE,
    )
