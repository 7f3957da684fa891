"""Card of a native export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard

from ...pretrained import Source
from ...probabilities import MULTI_LABEL
from ...shipped import resolve_checkpoint
from ...weights import weights_digest
from .deviation import Deviation
from .export_card import export_card

#: A drawing for the widget, in the exported folder.
EXAMPLE_IMAGE = "phantom.png"


def native_card(
    source: Source, name: str, labels: Sequence[str], problem_type: str, deviations: Sequence[Deviation], backend: str
) -> ModelCard:
    """Make the card of a native export.

    Args:
        source (`str` or `Path`):
            The original model.
        name (`str`):
            Name of the exported folder, or its Hub id.
        labels (`Sequence[str]`):
            Labels, in the order of the logits.
        problem_type (`str`):
            How logits become probabilities.
        deviations (`Sequence` of [`Deviation`]):
            Measured differences; the first one where no image is resized.
        backend (`str`):
            What the stock processor resized with, such as `"pil"`.

    Returns:
        `ModelCard`
    """
    folder = Path(resolve_checkpoint(str(source)))
    metadata = {
        "library_name": "transformers",
        "widget": [{"src": EXAMPLE_IMAGE, "example_title": "A drawing, not a patient"}],
        "original_weights_sha256": weights_digest(source),
    }
    return export_card(
        "native_model_card.md",
        source,
        metadata,
        name=name,
        original=folder.name if folder.is_dir() else str(source),
        example=EXAMPLE_IMAGE,
        labels=labels,
        multi_label=problem_type == MULTI_LABEL,
        deviations=deviations,
        backend=backend,
    )
