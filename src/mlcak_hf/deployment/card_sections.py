"""Sections that are added to a model card: notes by a person, results on other datasets, explanation maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard

from ..errors import DeploymentError
from ..evaluation.comparison import RARE
from ..evaluation.evidence.record import Evidence, load_results
from ..evaluation.explanations.map_report import Explanations
from ..evaluation.report import wording
from ..weights import weights_digest


def add_notes(card: ModelCard, notes: str | Path) -> None:
    """Add what no program can know, such as the patients and the licence of the data, in front of "How to use".

    Args:
        card (`ModelCard`):
            Card of the model; changed in place.
        notes (`str` or `Path`):
            A Markdown file with headings of its own.

    Raises:
        [`DeploymentError`]: When the file cannot be read.
    """
    try:
        text = Path(notes).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeploymentError(f"The notes {notes} must be a Markdown file; got: {error}.") from error
    _insert(card, "## How to use", text.strip())


def add_other_datasets(card: ModelCard, evaluations: Sequence[str | Path]) -> None:
    """Add a table of results on other datasets, also of models trained on those, in front of the limits.

    Args:
        card (`ModelCard`):
            Card of the model; changed in place.
        evaluations (`Sequence[str | Path]`):
            Files evaluation.json of `mlcak evaluate`; a row for each.

    Raises:
        [`MLCAKError`]: When a file cannot be read or is not an evaluation.
    """
    rows = ["| Model | Dataset | Images | AUROC [95 % interval] |", "|---|---|---:|---:|"]
    for path in evaluations:
        found = load_results(path)
        if not isinstance(found, Evidence):
            raise DeploymentError(f"{path} must be an evaluation.json of `mlcak evaluate`; got a comparison.")
        estimate = found.row.metrics.get("auroc_global")
        auroc = "-" if estimate is None else f"{wording.number(estimate)} {wording.interval(estimate)}"
        marks, known = [], found.row.trained_on
        if count := found.row.training_images():
            marks.append(f"{count} of these images were used in training")
        elif not known or None in known:
            marks.append("not known whether trained on these images")
        if any(name.startswith("global/") for name in found.comparison.rare_labels):
            marks.append(f"fewer than {RARE} patients of a class")
        marked = f" ({'; '.join(marks)})" if marks else ""
        images, dataset = f"{found.comparison.n_images}{marked}", found.comparison.context.get("dataset")
        rows.append(f"| {found.row.name} | {dataset} | {images} | {auroc} |")
    text = "An AUROC of 0.5 is chance. A model is not known to work on images of another source than those below."
    _insert(card, "## Limits", "\n\n".join(["## Other datasets", text, "\n".join(rows)]))


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
    report = record.of_weights(weights_digest(folder), model)
    where = " of ".join(str(record.context[key]) for key in ("split", "dataset") if record.context.get(key))
    section = [
        "## Explanations",
        f"Explanation maps against the boxes of {report.pairs} findings in {report.images} images of {report.patients} "
        f"patients ({where}). Shares are means, with 95 % intervals of the differences.",
        "\n".join(f"- {line}" for line in report.statements()),
    ]
    _insert(card, "## Limits", "\n\n".join(section))


def _insert(card: ModelCard, heading: str, section: str) -> None:
    before, found, after = card.content.partition(f"\n{heading}\n")
    card.content = "\n".join([before.rstrip("\n"), "", section, ""]) + found + after
