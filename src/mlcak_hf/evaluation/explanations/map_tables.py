"""Tables of explanation scores in Markdown."""

from __future__ import annotations

from pathlib import Path

from ...explanation.choices import METHODS
from ..comparison import NOTICE, RARE
from .map_report import DECIDING, Explanations, MapReport, MapScore, Measured
from .measurement import FLOORS, MAP_METRICS

_TITLES = {
    "pointing": "Pointing",
    "energy": "Energy",
    "iou": "IoU",
    "deletion": "Deletion (low is better)",
    "insertion": "Insertion",
}
_NOTES = (
    "Intervals are 95 %, by bootstrap over patients. A pair is an image and a finding with boxes in it.",
    "Pointing: the highest patch touches a box of the finding. Energy: share of the map inside the boxes. IoU: overlap "
    "of the boxes with the highest patches, as many as the validation images chose. Deletion and insertion: mean "
    "probability of the finding while patches are removed from the image, or added, in the order of the map.",
    "Mean map: the mean of the same method's maps of training images with the finding, the same for every image. "
    "Random weights: the method's maps of the untrained model.",
    f"✓ beats, ✗ loses to the baseline: on {DECIDING} over all pairs, at 5 % after Holm's correction over all methods "
    "and baselines of a model. This holds for the trained model, not for another training run.",
)


def write_explanations(explanations: Explanations, folder: str | Path) -> list[Path]:
    """Write `explanations.json` and `explanations.md`.

    Args:
        explanations ([`Explanations`]):
            What to write.
        folder (`str` or `Path`):
            Existing folder.

    Returns:
        `list[Path]`: The written files.
    """
    paths = [Path(folder) / f"explanations.{kind}" for kind in ("json", "md")]
    explanations.to_json(paths[0])
    paths[1].write_text(map_tables(explanations), encoding="utf-8")
    return paths


def map_tables(explanations: Explanations) -> str:
    """Write the tables of every model: all pairs, by finding and by box size.

    Args:
        explanations ([`Explanations`]):
            What to write.

    Returns:
        `str`
    """
    context = explanations.context
    lines = [f"# Explanations: {' · '.join(str(context[key]) for key in ('dataset', 'split') if context.get(key))}"]
    for report in explanations.reports:
        lines += ["", f"## {report.model}", "", *_facts(report), "", *_methods(report), "", *_gains(report)]
        for kind, heading in (("finding", "By finding"), ("size", "By share of the radiograph inside the boxes")):
            lines += ["", f"{heading}, energy:", "", *_by_group(report, kind)]
        lines += ["", *(f"- {line}" for line in report.statements())]
    return "\n".join([*lines, "", *(f"{note}  " for note in _NOTES), NOTICE]) + "\n"


def _facts(report: MapReport) -> list[str]:
    facts = [f"{report.pairs} pairs in {report.images} images of {report.patients} patients."]
    if report.unknown_findings:
        facts.append(f"Not measured, because the model lacks these findings: {', '.join(report.unknown_findings)}.")
    if not report.shares:
        facts.append("No overlap, because no validation image has boxes of these findings.")
    else:
        chosen = (f"{name} {_in_percent(report.shares[name])}" for name in METHODS if name in report.shares)
        facts.append(f"Patches of the overlap, chosen on validation images: {', '.join(chosen)}.")
    if not any("mean map" in score.floors for score in report.scores):
        facts.append("No mean map, because there are no training images.")
    empty = [f"{method} {100 * share:.0f} %" for method, share in report.empty.items() if share]
    if empty:
        facts.append(f"Maps without any positive value on the radiograph, which count as uniform: {', '.join(empty)}.")
    return [" ".join(facts)]


def _in_percent(shares: list[float]) -> str:
    values = sorted({f"{100 * share:.0f}" for share in shares}, key=float)
    return f"{' or '.join(values)} %"


def _methods(report: MapReport) -> list[str]:
    """Every metric of every method and baseline over all pairs."""
    metrics = [metric for metric in MAP_METRICS if any(score.metric == metric for score in report.scores)]
    rows = [["Map", *(_TITLES[metric] for metric in metrics)]]
    of_all = {(score.method, score.metric): score for score in report.scores if score.kind == "all"}
    for method in METHODS:
        scores = [of_all.get((method, metric)) for metric in metrics]
        rows.append([f"**{method}**", *(_cell(score.own if score else None) for score in scores)])
        for floor in FLOORS[1:]:
            floors = [score.floors.get(floor) if score else None for score in scores]
            if any(floors):
                rows.append([f"{method}, {floor}", *map(_cell, floors)])
    random = [next((of_all[key].floors["random"] for key in of_all if key[1] == metric), None) for metric in metrics]
    return _table([*rows, ["random", *map(_cell, random)]])


def _gains(report: MapReport) -> list[str]:
    """Energy above each baseline, and the correlation with random weights."""
    rows = [["Energy above", *FLOORS, "Rank correlation with random weights"]]
    for method in METHODS:
        score = report.score(method)
        gains = {} if score is None else score.gains
        cells = [f"{_cell(gains.get(floor), True)} {_mark(score, floor)}".strip() for floor in FLOORS]
        rows.append([method, *cells, _cell(report.correlation.get(method))])
    return _table(rows)


def _by_group(report: MapReport, kind: str) -> list[str]:
    names = list(dict.fromkeys(score.group for score in report.scores if score.kind == kind))
    rows = [["", "Pairs, patients", "random", *(f"{method}{end}" for method in METHODS for end in ("", " - mean map"))]]
    for name in names:
        scores = [score for score in report.scores if (score.kind, score.group, score.metric) == (kind, name, DECIDING)]
        few = " (too few)" if scores[0].patients < RARE else ""
        row = [name, f"{scores[0].pairs}, {scores[0].patients}{few}", _cell(scores[0].floors["random"])]
        for score in scores:
            row += [_cell(score.own), _cell(score.gains.get("mean map"), True)]
        rows.append(row)
    return _table(rows)


def _mark(score: MapScore | None, floor: str) -> str:
    return {"beats": "✓", "loses to": "✗"}.get(score.verdict(floor), "") if score else ""


def _cell(measured: Measured | None, signed: bool = False) -> str:
    if measured is None:
        return "-"
    sign = "+" if signed else ""
    bounds = "" if measured.low is None else f" [{measured.low:{sign}.3f}, {measured.high:{sign}.3f}]"
    return f"{measured.value:{sign}.3f}{bounds}"


def _table(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]]
