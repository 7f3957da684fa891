"""The items of the CLAIM checklist that a program can answer from the record of an evaluation.

Mongan, Moy and Kahn, "Checklist for Artificial Intelligence in Medical Imaging (CLAIM)", Radiology: Artificial
Intelligence 2(2), 2020. The numbers are those of that version.
"""

from __future__ import annotations

from typing import NamedTuple

from ..evidence.record import Evidence

_UNKNOWN = "Not recorded with this model."
_METRICS = "AUROC, average precision, sensitivity, specificity, PPV, NPV, Brier score, calibration error, net benefit."


class ClaimItem(NamedTuple):
    """Number, subject and answer of one item."""

    number: int
    subject: str
    answer: str


def claim_items(evidence: Evidence) -> list[ClaimItem]:
    """Answer items of the checklist.

    Args:
        evidence ([`Evidence`]):
            What was measured.

    Returns:
        `list[ClaimItem]`: In the order of the checklist. All other items need a person.
    """
    answers = {
        7: ("Data sources", _source(evidence)),
        9: ("Data preprocessing", _preprocessing(evidence)),
        13: ("Missing data", _missing(evidence)),
        20: ("How data were assigned to partitions", _partitions(evidence)),
        21: ("Level at which partitions are disjoint", _disjoint(evidence)),
        22: ("Model", _model(evidence)),
        23: ("Software", ", ".join(f"{name} {version}" for name, version in evidence.facts["software"].items())),
        24: ("Initial weights", str(evidence.facts["trained"].get("initial_weights") or _UNKNOWN)),
        25: ("Training", _training(evidence)),
        26: ("How the final model was chosen", _chosen(evidence)),
        28: ("Metrics", _METRICS),
        29: ("Uncertainty", _uncertainty(evidence)),
        30: ("Robustness", _robustness(evidence)),
        34: ("Demographic and clinical characteristics", _characteristics(evidence)),
        36: ("Accuracy and its precision", "See the first section and the operating points."),
        37: ("Failure analysis", f"The {len(evidence.errors)} most confident errors are listed."),
    }
    return [ClaimItem(number, *answer) for number, answer in answers.items()]


def _source(evidence: Evidence) -> str:
    context, count = evidence.comparison.context, evidence.comparison
    unit = f" of {count.n_groups} patients" if count.groups_known else ""
    images = f"{context['dataset']}, {context['images']}: {count.n_images} images{unit}"
    return f"{images}. Where and when they were taken: ask its owner."


def _preprocessing(evidence: Evidence) -> str:
    facts = evidence.facts
    lowres = f", reduced to {facts['lowres_px']} px first" if facts["lowres_px"] else ""
    return (
        f"Grey values in [0, 1] (window: {facts['voi']}), made square by {facts['fit']}, area average to "
        f"{facts['image_size_px']} px{lowres}."
    )


def _missing(evidence: Evidence) -> str:
    n_images = evidence.comparison.n_images
    missing = {
        name: n_images - count.absent - count.present for name, count in evidence.comparison.class_counts.items()
    }
    missing = {name.removeprefix("global/"): count for name, count in missing.items() if count}
    if not missing:
        return "No label is missing."
    return (
        "Images without a label are left out of its figures: " + ", ".join(f"{n} {c}" for n, c in missing.items()) + "."
    )


def _partitions(evidence: Evidence) -> str:
    if not evidence.row.trained_on or evidence.row.trained_on[0] is None:
        return "Not known whether the model was trained on these images."
    count, who = evidence.row.training_images(), evidence.row.learner("The model")
    return f"{who} was trained on {count} of the evaluated images, by hashes of their pixels." if count else (
        "None of the evaluated images was a training image, by hashes of their pixels."
    )  # fmt: skip


def _disjoint(evidence: Evidence) -> str:
    column = evidence.facts["group_column"]
    return "Images; no column of patients was named." if column is None else f"Patients, by the column {column}."


def _model(evidence: Evidence) -> str:
    facts, weights = evidence.facts, evidence.self_check.weights
    digest = f" SHA-256 of the weights: {weights[:12]}..." if weights else ""
    return (
        f"{facts['backbone']}, {facts['layers']} layers, {facts['parameters'] / 1e6:.1f} million parameters, input "
        f"{facts['image_size_px']} px; global labels {', '.join(facts['global_labels'])}.{digest}"
    )


def _training(evidence: Evidence) -> str:
    trained = evidence.facts["trained"]
    if not trained:
        return _UNKNOWN
    teachers = f", taught by {' and '.join(map(str, trained['teachers']))}" if trained["teachers"] else ""
    return (
        f"{trained['images']} images of {trained['dataset']}, {trained['epochs']:g} epochs, {trained['steps']} steps, "
        f"{trained['optimizer']}, learning rate {trained['learning_rate']}, seed {trained['seed']}{teachers}."
    )


def _chosen(evidence: Evidence) -> str:
    trained = evidence.facts["trained"]
    if not trained:
        return _UNKNOWN
    if trained["chosen_by"] is None:
        return "The last step; no checkpoint was chosen."
    return f"By {trained['chosen_by']}, on {trained['validation_images']} validation images."


def _uncertainty(evidence: Evidence) -> str:
    unit = "patients" if evidence.comparison.groups_known else "images"
    return f"95 % intervals by bootstrap over {unit}, {evidence.comparison.n_draws} draws."


def _robustness(evidence: Evidence) -> str:
    names = ", ".join(shift.name for shift in evidence.shifts)
    return f"AUROC under {names} on {evidence.shifted_images} images." if names else "Not measured."


def _characteristics(evidence: Evidence) -> str:
    columns = list(dict.fromkeys(subgroup.column for subgroup in evidence.subgroups))
    return f"Counts by {', '.join(columns)}: see the subgroups." if columns else "No column was named with --subgroup."
