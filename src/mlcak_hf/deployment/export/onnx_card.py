"""Card of an export to ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
from huggingface_hub import ModelCard, ModelCardData

from ...prediction.onnx_metadata import OnnxMetadata
from ...pretrained import Source
from ...probabilities import SINGLE_LABEL
from ...shipped import hub_configs_dir, resolve_checkpoint
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
    original = Path(resolve_checkpoint(str(source))) / "README.md"
    data = ModelCardData(
        language="en",
        license=ModelCard.load(original).data.license if original.is_file() else None,
        library_name="onnx",
        pipeline_tag="image-classification",
        tags=["chest-xray", "medical", "mlcak", "low-resolution"],
        original_weights_sha256=metadata.weights,
    )
    template = (hub_configs_dir() / "templates" / "onnx_model_card.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(template).render(
        card_data=data.to_yaml(),
        name=name,
        metadata=metadata,
        channels=len(metadata.image_mean),
        single_label=metadata.problem_type == SINGLE_LABEL,
        differences=differences,
        pixel_difference=pixel_difference,
        phantoms=PHANTOMS,
        noise=NOISE,
    )
    return ModelCard(text)
