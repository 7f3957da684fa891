"""The first screen of a report: does this model fit this data, in words, with the reasons and the open questions."""

from __future__ import annotations

from dataclasses import dataclass

from ..comparison import MOST_DROPPED, RARE, Estimate
from ..evidence.record import CalibrationOfLabel, Evidence
from .wording import shared_patients

#: Names for the lower end of the AUROC's interval, from the best.
_BANDS = ((0.9, "well"), (0.8, "fairly well"), (0.7, "moderately"), (0.5, "weakly"))
#: If the input checks object to a larger share, the data are not what the model expects.
_MANY_SUSPECT = 0.05
#: An AUROC whose interval is wider answers no question about small differences.
_WIDE = 0.1


@dataclass(frozen=True)
class Verdict:
    """What a report says first.

    Args:
        answer (`str`):
            `"fits"`, `"fits with reservations"`, `"does not fit"` or `"cannot be said"`.
        sentence (`str`):
            The answer in a sentence.
        reasons (`tuple[str, ...]`):
            Why.
        open_questions (`tuple[str, ...]`):
            What this test set is too small to answer.
    """

    answer: str
    sentence: str
    reasons: tuple[str, ...]
    open_questions: tuple[str, ...]


def judge(evidence: Evidence) -> Verdict:
    """Judge a model on a dataset by rules that the report states.

    Args:
        evidence ([`Evidence`]):
            What was measured.

    Returns:
        [`Verdict`]
    """
    comparison, auroc = evidence.comparison, evidence.row.metrics.get("auroc_global")
    images, questions = evidence.row.training_images(), _open_questions(evidence)
    sentence = "Whether this model fits these images cannot be said from them."
    if images:
        who = evidence.row.learner("The model")
        why = f"{who} was trained on {images} of these {comparison.n_images} images, so every number is too good."
        return Verdict("cannot be said", sentence, (why,), questions)
    if auroc is None:
        why = "No global label has images of both classes, so nothing can be ranked."
        return Verdict("cannot be said", sentence, (why,), questions)
    rare = [name.removeprefix("global/") for name in comparison.rare_labels if name.startswith("global/")]
    low, high = _ends(auroc)
    if rare or low is None or high is None:
        why = (
            f"Fewer than {RARE} patients of one class of {', '.join(rare) or 'the global label'}: too few to judge by."
        )
        return Verdict("cannot be said", sentence, (why,), questions)
    if auroc.interval is not None and auroc.interval.dropped > MOST_DROPPED * comparison.n_draws:
        why = (
            f"{auroc.interval.dropped} of {comparison.n_draws} draws of patients held one class only, so the AUROC has "
            "no interval that could be believed."
        )
        return Verdict("cannot be said", sentence, (why,), questions)
    if low <= 0.5:
        why = f"Its AUROC of {_value(auroc)} is not shown to be better than chance (0.5)."
        return Verdict("does not fit", "This model is not shown to work on these images.", (why,), questions)
    band = next(word for bound, word in _BANDS if low >= bound)
    reasons = [f"It separates the classes {band}: AUROC {_value(auroc)}."]
    reservations = [] if low >= 0.8 else ["The lower end of the AUROC's interval is below 0.8."]
    for found, is_reservation in (*_calibration(evidence), _suspect(evidence), *_unlike(evidence), *_gaps(evidence)):
        (reservations if is_reservation else reasons).append(found)
    reservations += shared_patients(comparison)
    if high < 0.7:
        return Verdict("does not fit", "This model does not fit these images.", (*reasons, *reservations), questions)
    if reservations:
        sentence = "This model fits these images with reservations."
        return Verdict("fits with reservations", sentence, (*reasons, *reservations), questions)
    return Verdict("fits", "This model fits these images.", tuple(reasons), questions)


def describe_calibration(label: CalibrationOfLabel) -> tuple[str, bool]:
    """Say in a sentence whether probabilities can be taken at their word, and whether that is a reservation."""
    error = f"calibration error {label.error:.3f}"
    floor = (
        f"at most {label.floor.percentile_95:.3f} in 95 of 100 cases for a perfectly calibrated model on as many images"
    )
    if label.error <= label.floor.percentile_95:
        return (
            f"Its probabilities agree with the observed rates as far as these images can tell: {error} ({floor}).",
            False,
        )
    direction = "too high" if label.mean_score > label.observed else "too low"
    mean = f"on average {100 * label.mean_score:.0f} % predicted, {100 * label.observed:.0f} % observed"
    if abs(label.mean_score - label.observed) < 0.02:
        direction, mean = "too extreme or too cautious", f"the average is right ({mean}), single values are not"
    return f"Its probabilities are {direction}: {error} ({floor}); {mean}. Calibrate it on your own images.", True


def _calibration(evidence: Evidence) -> list[tuple[str, bool]]:
    several = len(evidence.labels) > 1
    found = [(label.name, *describe_calibration(label.calibration)) for label in evidence.labels]
    return [(f"{name}: {text}" if several else text, wrong) for name, text, wrong in found]


def _suspect(evidence: Evidence) -> tuple[str, bool]:
    """What the input checks say, and whether that is a reservation."""
    count = evidence.comparison.n_images
    share = evidence.inputs.suspect / count
    many = share > _MANY_SUSPECT
    shown = f"{100 * share:.1f} % of {count} images"
    text = f"By the input checks, {shown} do not look like upright frontal chest radiographs."
    return text + (" Look at the data before believing any number." if many else ""), many


def _unlike(evidence: Evidence) -> list[tuple[str, bool]]:
    """What the distance from the training images says; nothing for a model without `reference.npz`."""
    inputs, count = evidence.inputs, evidence.comparison.n_images
    if inputs.most_unlike is None:
        return []
    many = inputs.unlike > inputs.most_unlike
    text = (
        f"{100 * inputs.unlike / count:.1f} % of {count} images are unlike the training images; the model's limit is "
        f"set for {100 * (inputs.false_refusals or 0):.1f} %, and up to {100 * inputs.most_unlike / count:.1f} % are "
        "explained by chance."
    )
    return [(text + (" These images differ from those the model was trained for." if many else ""), many)]


def _gaps(evidence: Evidence) -> list[tuple[str, bool]]:
    """Subgroups and perturbations in which the AUROC is clearly lower."""
    found, overall = [], evidence.row.metrics["auroc_global"]
    for subgroup in evidence.subgroups:
        high = subgroup.auroc and _ends(subgroup.auroc)[1]
        low = _ends(overall)[0]
        if high and low and high < low:
            found.append(
                (f"It is worse where {subgroup.column} is {subgroup.value}: AUROC {_value(subgroup.auroc)}.", True)
            )
    worst = min(evidence.shifts, key=lambda shift: shift.difference.value, default=None)
    if worst is not None and worst.difference.value < -0.05 and (_ends(worst.difference)[1] or 0) < 0:
        text = (
            f"It is sensitive to how images are made: {worst.name} changes the AUROC by {worst.difference.value:+.3f}."
        )
        found.append((text, True))
    return found


def _open_questions(evidence: Evidence) -> tuple[str, ...]:
    comparison, questions = evidence.comparison, []
    auroc = evidence.row.metrics.get("auroc_global")
    if auroc is not None:
        low, high = _ends(auroc)
        if low is not None and high is not None and high - low > _WIDE:
            questions.append(
                f"How good it is within {_WIDE}: the interval of the AUROC is {high - low:.2f} wide. About "
                f"{((high - low) / _WIDE) ** 2:.1f} times as many images would narrow it to {_WIDE}."
            )
    rare = [name.removeprefix("global/") for name in comparison.rare_labels]
    if rare:
        questions.append(f"Anything about labels with fewer than {RARE} patients of one class: {', '.join(rare)}.")
    never = set(comparison.unannotated_labels)
    if comparison.finding_names and never >= set(comparison.finding_names):
        questions.append("Anything about findings: these images have no labels of them.")
        never -= set(comparison.finding_names)
    undefined = [name.removeprefix("global/") for name in (*comparison.single_class_labels, *sorted(never))]
    if undefined:
        questions.append(f"Anything about labels without images of both classes: {', '.join(undefined)}.")
    left_out = [f"{each.column} {each.value}" for each in evidence.subgroups if each.auroc is None]
    if left_out:
        questions.append(f"Whether it is as good for {', '.join(left_out)}: too few patients.")
    if not evidence.subgroups:
        questions.append("Whether it is as good for every group of patients: name columns with --subgroup.")
    if not comparison.groups_known:
        questions.append("Whether images of one patient agree: no patients are known, so intervals may be too narrow.")
    return tuple(questions)


def _ends(estimate: Estimate) -> tuple[float | None, float | None]:
    return (None, None) if estimate.interval is None else (estimate.interval.low, estimate.interval.high)


def _value(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    low, high = _ends(estimate)
    return f"{estimate.value:.3f}" + ("" if low is None else f" (95 % interval {low:.3f} to {high:.3f})")
