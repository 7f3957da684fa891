"""What the cards of all exports have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCard, ModelCardData

from ...pretrained import Source
from ...shipped import hub_configs_dir, resolve_checkpoint


def export_card(template: str, source: Source, header: Mapping[str, Any], **facts: Any) -> ModelCard:
    """Make the card of an export. It has the licence of the original's card.

    Args:
        template (`str`):
            Name of a file in `hub_configs/templates`.
        source (`str` or `Path`):
            The original model.
        header (`Mapping[str, Any]`):
            Entries at the top of the card besides those of every export, such as `library_name`.
        facts:
            What the template is filled with.

    Returns:
        `ModelCard`
    """
    original = Path(resolve_checkpoint(str(source))) / "README.md"
    data = ModelCardData(
        language="en",
        license=ModelCard.load(original).data.license if original.is_file() else None,
        pipeline_tag="image-classification",
        tags=["chest-xray", "medical", "mlcak", "low-resolution"],
        **header,
    )
    text = (hub_configs_dir() / "templates" / template).read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return ModelCard(environment.from_string(text).render(card_data=data.to_yaml(), **facts))
