"""The section of a model card that says what the model's explanation maps are worth."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from ..errors import DeploymentError
from ..evaluation.explanations.map_report import Explanations
from ..pretrained import weights_digest

_BEFORE = "## Limits"


def add_explanations(card: ModelCard, folder: str | Path, explanations: str | Path, model: str) -> None:
    """Add the section "Explanations" to a card, in front of its limits.

    Args:
        card (`ModelCard`):
            Card of the model; changed in place.
        folder (`str` or `Path`):
            Folder of the model.
        explanations (`str` or `Path`):
            The explanations.json that `measure_explanations.py` wrote.
        model (`str`):
            The model's name in it.

    Raises:
        [`MLCAKError`]: When the file cannot be read, has no such model, or measured different weights.
    """
    record = Explanations.from_json(explanations)
    report = record.report(model)
    digest = weights_digest(folder)
    if digest not in report.weights:
        raise DeploymentError(
            f"The explanations of {model!r} were measured with different weights than those in {folder}. Measure again."
        )
    where = " of ".join(str(record.context[key]) for key in ("split", "dataset") if record.context.get(key))
    section = [
        "## Explanations",
        f"Explanation maps against the boxes of {report.pairs} findings in {report.images} images of {report.patients} "
        f"patients ({where}). Shares are means, with 95 % intervals of the differences.",
        "\n".join(f"- {line}" for line in report.statements()),
    ]
    before, limits, after = card.content.partition(f"\n{_BEFORE}\n")
    card.content = "\n".join([before.rstrip("\n"), "", "\n\n".join(section), ""]) + limits + after
