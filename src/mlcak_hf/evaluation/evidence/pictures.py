"""Pictures for the report, as data URIs: what the model saw of an image, and where its maps point."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...data.decoded_images import to_square
from ...data.sources import RadiographDataset
from ...explanation.explain import explain
from ...explanation.overlay import colour_over, relative_to_uniform
from ...image_processing_mlcak import MLCAKImageProcessor, area_resize
from .record import Evidence, WorstError

#: Side of each picture, in pixels.
_PICTURE_PX = 160
#: Images of each kind whose maps are shown.
_EXPLAINED = 2
#: The maps beside each image: the same for every label, and of the label.
SHOWN_METHODS = ("attention", "gradient")


@dataclass(frozen=True)
class Pictures:
    """Pictures of the report.

    Args:
        errors (`dict[int, str]`):
            By row: the stored image, and beside it what the model sees.
        maps (`tuple[tuple[str, WorstError, str], ...]`):
            Kind of image, the image, and its picture: the stored image and a map of each of [`SHOWN_METHODS`].
    """

    errors: dict[int, str] = field(default_factory=dict)
    maps: tuple[tuple[str, WorstError, str], ...] = ()


def draw_pictures(
    evidence: Evidence, network: Any, processor: MLCAKImageProcessor, dataset: RadiographDataset
) -> Pictures:
    """Draw the worst errors, and the maps of some of them and of typical images.

    Args:
        evidence ([`Evidence`]):
            Names the images.
        network ([`MLCAKForCXRClassification`]), processor ([`MLCAKImageProcessor`]):
            The model. There are no maps of a model without attention.
        dataset ([`RadiographDataset`]):
            The images.

    Returns:
        [`Pictures`]
    """
    errors = {error.row: _seen(dataset[error.row]["image"], processor) for error in evidence.errors}
    if not network.config.has_attention:
        return Pictures(errors)
    kinds = {"Typical": evidence.typical}
    for heading, present in (("False alarm", False), ("Missed", True)):
        kinds[heading] = tuple(error for error in evidence.errors if error.present == present)[:_EXPLAINED]
    maps = [
        (kind, shown, _explained(dataset[shown.row]["image"], shown.label, network, processor))
        for kind, several in kinds.items()
        for shown in several
    ]
    return Pictures(errors, tuple(maps))


def _seen(image: Any, processor: MLCAKImageProcessor) -> str:
    """Draw a stored image, and beside it what the model sees of it."""
    square = to_square(image, processor)
    seen = area_resize(square, *(2 * [processor.lowres or processor.size["height"]]))
    return _side_by_side([_panel(square), _panel(seen, Image.Resampling.NEAREST)])


def _explained(image: Any, label: str, network: Any, processor: MLCAKImageProcessor) -> str:
    """Draw a stored image, and beside it the maps of a label."""
    square = to_square(image, processor)
    pixels = torch.from_numpy(processor.reduce(square[None])).to(network.device)
    found = explain(network, pixels, [_index(network, label)], SHOWN_METHODS)
    panels, size_px = [_panel(square)], network.config.image_size
    shown = np.asarray(panels[0], dtype=np.float32) / np.float32(255)
    for method in SHOWN_METHODS:
        panels.append(colour_over(shown, relative_to_uniform(found[method][0]), shown.shape, size_px, "squash"))
    return _side_by_side(panels)


def _index(network: Any, label: str) -> int:
    """Place of a global label, which may have the name of a finding."""
    config = network.config
    return len(config.local_labels) + list(config.global_labels).index(label)


def _panel(pixels: np.ndarray, kind: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    grey = Image.fromarray(np.uint8(np.clip(pixels, 0, 1) * 255 + 0.5))
    return grey.resize((_PICTURE_PX, _PICTURE_PX), kind)


def _side_by_side(panels: Sequence[Image.Image]) -> str:
    mode = "RGB" if any(panel.mode == "RGB" for panel in panels) else "L"
    width = len(panels) * (_PICTURE_PX + 4) - 4
    together = Image.new(mode, (width, _PICTURE_PX), "white")
    for place, panel in enumerate(panels):
        together.paste(panel.convert(mode), (place * (_PICTURE_PX + 4), 0))
    buffer = io.BytesIO()
    together.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
