"""A comparison in words: titles, numbers, statements about differences, and the notes below a table."""

from __future__ import annotations

from ..comparison import COMPARED, NOTICE, RARE, Comparison, Difference, Estimate, Row
from ..metrics import SPECIFICITY

#: Titles of the metrics, in the order of a table.
TITLES = {
    "auroc_global": "AUROC global",
    "auroc_local_macro": "AUROC local macro",
    "auroc_local_micro": "AUROC local micro",
    "average_precision_global": "Average precision",
    "average_precision_local_macro": "Average precision local macro",
    "sensitivity_at_90_specificity_global": "Sensitivity at 90 % specificity",
    "sensitivity_at_90_specificity_local_macro": "Sensitivity at 90 % specificity, local macro",
    "brier_global": "Brier score",
    "calibration_error_global": "Calibration error",
    "calibration_floor_global": "Calibration error by chance alone, mean",
    "calibration_floor_95_global": "Calibration error by chance alone, 95th percentile",
    "sensitivity_at_threshold_global": "Sensitivity at validation threshold",
    "specificity_at_threshold_global": "Specificity at validation threshold",
    "attention_ratio": "Attention on boxes",
    "pointing_game": "Pointing game",
    "pointing_game_chance": "Pointing game by chance",
}


_WITHIN_FOLDS = (
    "AUROC, AP and Sens. rank each image only among those of its fold, which the same model predicted. They are means "
    "over the folds, weighted by pairs (AUROC) or positives, and patients are redrawn within folds. Brier and ECE are "
    "over all images."
)


def number(estimate: Estimate, decimals: int = 3) -> str:
    """Format a value with its deviation over the runs: `0.912 ± 0.004`."""
    value = f"{estimate.value:.{decimals}f}"
    return value if estimate.deviation is None else f"{value} ± {estimate.deviation:.{decimals}f}"


def interval(estimate: Estimate) -> str:
    """Format the interval: `[0.912, 0.945]`; an empty string for metrics without one."""
    if estimate.interval is None:
        return ""
    if estimate.interval.low is None:
        return "[no interval]"
    return f"[{estimate.interval.low:.3f}, {estimate.interval.high:.3f}]"


def floor(row: Row, metric: str) -> str:
    """Format the calibration error by chance alone, mean and 95th percentile: `0.041–0.062`; empty for other metrics.

    Records of earlier versions do not have it.
    """
    found = [row.metrics.get(key) for key in ("calibration_floor_global", "calibration_floor_95_global")]
    known = [estimate for estimate in found if estimate is not None and metric == "calibration_error_global"]
    return "–".join(f"{estimate.value:.3f}" for estimate in known)


def statement(difference: Difference) -> str:
    """State one difference in a line: `student - plain, AUROC global: +0.021 [-0.010, 0.052]: within noise (...)`."""
    estimate, p = difference.estimate, difference.p_value
    runs = "" if estimate.deviation is None else f" ± {estimate.deviation:.3f} over {estimate.runs} runs"
    verdict = f"no verdict ({difference.no_verdict})"
    if p is not None:
        adjusted = f"adjusted p {_p(p)}"
        least = f"least detectable difference {difference.least_difference:.3f}"
        verdict = f"{'beyond' if difference.beyond_noise else 'within'} noise ({adjusted}; {least})"
    if estimate.delong is not None:
        verdict += f"; DeLong's test, patients only: p {_p(estimate.delong.p_value)}"
    compared = f"{difference.model} - {difference.baseline}, {TITLES[difference.metric]}"
    return f"{compared}: {estimate.value:+.3f}{runs} {interval(estimate)}: {verdict}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def statements(comparison: Comparison) -> list[str]:
    """State every difference in a line of its own, then what the intervals count."""
    differences = comparison.differences
    lines = [statement(difference) for difference in differences]
    if any(difference.p_value is not None for difference in differences):
        lines.append(
            "Intervals of differences count patients and training runs. A difference is beyond noise if it is "
            "significant at 5 % after Holm's correction for all comparisons above."
        )
    if not all(difference.per_run for difference in differences):
        lines.append(
            "Intervals of differences without paired runs count the test images only. Train every row with the same "
            "seeds, at least two, before believing a difference."
        )
    return lines


def basis(comparison: Comparison) -> str:
    """State what the numbers rest on: images, patients and draws."""
    unit = f"{comparison.n_groups} patients" if comparison.groups_known else "images (patients unknown)"
    runs = "; ± is the deviation over runs" if any(len(row.runs) > 1 for row in comparison.rows) else ""
    return (
        f"{comparison.n_images} images; 95 % intervals by bootstrap over {unit}, {comparison.n_draws} draws shared by "
        f"all rows{runs}."
    )


def row_name(row: Row) -> str:
    """Name a row with its number of runs, marked if it was trained on the evaluated images."""
    runs = f"{len(row.runs)} runs" if len(row.runs) > 1 else ""
    marks = ", ".join(filter(None, (runs, "trained on these images" if row.training_images() else "")))
    return f"{row.name} ({marks})" if marks else row.name


def warnings(comparison: Comparison) -> list[str]:
    """Name rows trained on the evaluated images or on those behind their thresholds, and patients in both splits."""
    lines = [f"Warning: {line}" for line in shared_patients(comparison)]
    for row in comparison.rows:
        who = f"Warning: {row.learner(row.name)} was trained on"
        if count := row.training_images():
            lines.append(f"{who} {count} of these {comparison.n_images} images, so its numbers are too good.")
        if count := row.training_images("thresholds"):
            lines.append(f"{who} {count} of the images that its operating thresholds come from.")
    return lines


def shared_patients(comparison: Comparison) -> list[str]:
    """Say that patients are in both splits; empty if none are."""
    shared = comparison.context.get("shared_patients")
    where = f"{shared} of the {comparison.n_groups} patients are also in the split `train` of this dataset"
    return [f"{where}, so the numbers of models trained on it are too good. Split it by patient."] if shared else []


def footer(comparison: Comparison) -> list[str]:
    """Write the notes below a table: what the numbers rest on, what is missing, and the research-use notice."""
    rows, split = comparison.rows, comparison.context.get("threshold_split", "validation")
    chosen = "; ".join(f"{row.name} {thresholds(row)}" for row in rows if row.thresholds)
    single, never, rare = (
        ", ".join(names)
        for names in (comparison.single_class_labels, comparison.unannotated_labels, comparison.rare_labels)
    )
    unknown = ", ".join(row.name for row in rows if not row.trained_on or None in row.trained_on)
    delong = "; ".join(f"{row.name} {_delong(row)}" for row in rows if _delong(row))
    notes = {
        f"DeLong's 95 % intervals of the global AUROC: {delong}.": delong,
        f"It is not recorded on which images these models, or their initial weights, were trained: {unknown}.": unknown,
        f"Operating thresholds, for {100 * SPECIFICITY:.0f} % specificity on the {split} split: {chosen}.": chosen,
        "Attention on boxes: share of the class token's attention inside the readers' boxes, over their share of the "
        "radiograph (1 = attention that ignores them).": any("attention_ratio" in row.metrics for row in rows),
        f"One class only in this split, no curve defined: {single}.": single,
        f"Never annotated in this split: {never}.": never,
        f"Fewer than {RARE} patients of one class: {rare}. Bootstrap intervals of so few are too narrow.": rare,
    }
    for metric in COMPARED:
        intervals = [row.metrics[metric].interval for row in rows if metric in row.metrics]
        most = max((found.dropped for found in intervals if found), default=0)
        dropped = f"{most} of {comparison.n_draws} draws had one class only of a rare label and were dropped"
        notes[f"{TITLES[metric]}: {dropped}."] = most
    return [
        basis(comparison),
        "AP, Sens., Brier, ECE: average precision, sensitivity at 90 % specificity, Brier score and calibration error "
        "(ten bins of equal size) of the global task.",
        *[_WITHIN_FOLDS] * (comparison.context.get("folds", 1) > 1),
        "Next to or below ECE: the error that perfectly calibrated probabilities would show on these images by chance "
        "(mean and 95th percentile, or the latter alone).",
        *(note for note, applies in notes.items() if applies),
        NOTICE,
    ]


def _delong(row: Row) -> str:
    found = row.metrics.get("auroc_global")
    if found is None or found.delong is None:
        return ""
    return f"[{found.delong.low:.3f}, {found.delong.high:.3f}]"


def thresholds(row: Row) -> str:
    """List the operating thresholds by label, with a value for every run: `Abnormal 0.400 / 0.550`."""
    labels = {label: [run[label] for run in row.thresholds if label in run] for run in row.thresholds for label in run}
    return ", ".join(f"{label} {' / '.join(f'{value:.3f}' for value in of)}" for label, of in labels.items())


def title(comparison: Comparison) -> str:
    """Title a table or figure with the dataset and its split."""
    where = " · ".join(str(comparison.context[key]) for key in ("dataset", "split") if comparison.context.get(key))
    return f"Comparison{': ' + where if where else ''}"
