"""`comparison.json`: the record of several models on the same images, written and read here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from ..errors import MLCAKError
from .bootstrap import Interval, MetricDraws, percentile_interval
from .calibration import Reliability
from .significance import ALPHA, DeLong

_FORMAT = 4
NOTICE = "Research use only: not a medical device, not a basis for a diagnosis."
#: Metrics in which rows are compared.
COMPARED = ("auroc_global", "auroc_local_macro")
#: With fewer patients than this in a class, resampling them says little about other patients.
RARE = 10
#: With more draws dropped than this share, the others no longer represent the test set.
MOST_DROPPED = 0.05


@dataclass(frozen=True)
class Estimate:
    """A metric of a row: its mean over the runs.

    `interval` is `None` for metrics without one, `deviation` (n - 1, over the runs) for a single run. `delong` is only
    defined for the AUROC of one label, if each patient has one image.
    """

    value: float
    interval: Interval | None
    deviation: float | None
    runs: int
    delong: DeLong | None = None

    @classmethod
    def of_run(cls, found: MetricDraws) -> Estimate | None:
        """Estimate of a single run; `None` if the metric is not defined."""
        if not math.isfinite(found.value):
            return None
        return cls(found.value, percentile_interval(found.draws) if len(found.draws) else None, None, 1)


@dataclass(frozen=True)
class ClassCount:
    """Number of images without and with a label; images in which it is missing count in neither.

    `fewest_patients` counts the patients of the class that has fewer of them.
    """

    absent: int
    present: int
    fewest_patients: int

    @property
    def rare(self) -> bool:
        """Whether there are both classes, but too few patients of one of them."""
        return 0 < self.fewest_patients < RARE


@dataclass(frozen=True)
class Row:
    """One row of a comparison: a model, or several training runs of it.

    Args:
        name (`str`):
            Name of the row.
        runs (`tuple[str, ...]`):
            Name of each run.
        metrics (`dict[str, Estimate]`):
            Estimates by metric, such as `"auroc_global"` or `"auroc/<finding>"`.
        reliability ([`Reliability`]):
            Reliability of the global probabilities, all runs and labels together.
        weights (`tuple[str | None, ...]`):
            Digest of each run's weights; `None` for a model from the Hub.
        thresholds (`tuple[dict[str, float], ...]`):
            Operating thresholds of each run, by label.
        trained_on (`tuple[dict[str, int] | None, ...]`):
            How many of the `"evaluated"` images, and of those behind the `"thresholds"`, each run or its teachers were
            trained on, and how many of these `"by_teachers"` alone; `None` if it is not known.
        details (`dict[str, Any]`):
            What else is known about the first run, such as its input size.
    """

    name: str
    runs: tuple[str, ...]
    metrics: dict[str, Estimate]
    reliability: Reliability
    weights: tuple[str | None, ...] = ()
    thresholds: tuple[dict[str, float], ...] = ()
    trained_on: tuple[dict[str, int] | None, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def learner(self, name: str) -> str:
        """Name the row, with its teachers if only they were trained on some of the images."""
        return f"{name}, or a model that taught it," if self.training_images("by_teachers") else name

    def training_images(self, part: str = "evaluated") -> int:
        """Most of the evaluated images, or of those behind the thresholds, that any of the runs was trained on."""
        return max((known.get(part, 0) for known in self.trained_on if known), default=0)


@dataclass(frozen=True)
class Difference:
    """`model` minus `baseline` in one metric.

    Args:
        model (`str`):
            Row that is compared.
        baseline (`str`):
            Row that it is compared with.
        metric (`str`):
            Compared metric.
        estimate ([`Estimate`]):
            The difference. Its interval counts patients and training runs where the runs are paired, else patients.
        per_run (`tuple[float, ...]`):
            Difference of each pair of runs; empty if the runs do not pair.
        no_verdict (`str`):
            Why nothing can be claimed; empty if there is a verdict.
        p_value (`float`, *optional*):
            Adjusted by Holm's method for all comparisons that have a verdict.
        least_difference (`float`, *optional*):
            Smallest difference that would be beyond noise on this test set, after Bonferroni's correction.
    """

    model: str
    baseline: str
    metric: str
    estimate: Estimate
    per_run: tuple[float, ...]
    no_verdict: str = ""
    p_value: float | None = None
    least_difference: float | None = None

    @property
    def beyond_noise(self) -> bool:
        """Whether the difference is more than the noise of patients and training runs; never without a verdict."""
        return self.p_value is not None and self.p_value <= ALPHA


@dataclass(frozen=True)
class Recovered:
    """The share of the gap between a teacher and a baseline that a model recovers in a metric.

    `gap` is the teacher minus the baseline, `gain` the model minus the baseline. The interval of `share` counts
    patients and training runs ([`share_interval`]).
    """

    model: str
    teacher: str
    baseline: str
    metric: str
    gap: float
    gain: float
    share: Estimate


@dataclass(frozen=True)
class Comparison:
    """Models on the same images, as [`compare`] measured them.

    Example:

    ```python
    >>> comparison = Comparison.from_json("runs/comparison/comparison.json")  # doctest: +SKIP
    >>> comparison.row("student-mlcak").metrics["auroc_global"].value  # doctest: +SKIP
    0.853
    ```
    """

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    finding_names: tuple[str, ...]
    single_class_labels: tuple[str, ...]
    unannotated_labels: tuple[str, ...]
    class_counts: dict[str, ClassCount]
    n_images: int
    n_groups: int
    groups_known: bool
    n_draws: int
    seed: int
    context: dict[str, Any] = field(default_factory=dict)
    recovered: tuple[Recovered, ...] = ()

    @property
    def rare_labels(self) -> tuple[str, ...]:
        """Labels with both classes but fewer than ten patients in one of them; their intervals are too narrow."""
        return tuple(name for name, count in self.class_counts.items() if count.rare)

    def row(self, name: str) -> Row:
        """Find a row by its name.

        Raises:
            [`MLCAKError`]: When there is no such row.
        """
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            names = ", ".join(repr(row.name) for row in self.rows)
            raise MLCAKError(f"The comparison has no row {name!r}; it has {names}. Name one of them.")
        return found

    def to_json(self, path: str | Path) -> None:
        """Write to a file."""
        record = {"format": _FORMAT, "notice": NOTICE, **asdict(self)}
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> Comparison:
        """Read what [`~Comparison.to_json`] wrote.

        Raises:
            [`MLCAKError`]: When the file is not a comparison, or has a different format.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            if record["format"] == _FORMAT:
                return cast(Comparison, read_dataclass(cls, record))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MLCAKError(
                f"{path} is not a comparison of models ({type(error).__name__}: {error}). Name the comparison.json "
                "that `mlcak compare` wrote."
            ) from error
        raise MLCAKError(f"{path} must have format {_FORMAT}; got {record['format']}. Evaluate the models again.")


def choose_pairs(
    names: Sequence[str], baseline: str | None = None, pairs: Sequence[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """Choose the rows to compare: the named pairs, or each row with the baseline, the plain student, or the first row.

    Args:
        names (`Sequence[str]`):
            Names of the rows.
        baseline (`str`, *optional*):
            Row that the others are compared with.
        pairs (`Sequence[tuple[str, str]]`, *optional*):
            Pairs of rows that were asked for, instead of a baseline.

    Returns:
        `list[tuple[str, str]]`: The second row of each pair is subtracted from the first.

    Raises:
        [`MLCAKError`]: When a name is not that of a row, a pair occurs twice, or a baseline is given as well.
    """
    rows = ", ".join(map(repr, names))
    if baseline is not None and baseline not in names:
        raise MLCAKError(f"The baseline must be one of the rows {rows}; got {baseline!r}.")
    if not pairs:
        plain = [name for name in names if "plain" in name.lower()]
        baseline = baseline or (plain[0] if len(plain) == 1 else names[0])
        return [(name, baseline) for name in names if name != baseline]
    if baseline is not None:
        raise MLCAKError("Either a baseline or pairs must be given; got both. Remove one of them.")
    for pair in pairs:
        if pair[0] == pair[1] or not set(pair) <= set(names):
            raise MLCAKError(f"A pair must be two of the rows {rows}; got {pair[0]!r} and {pair[1]!r}.")
    if len(set(map(frozenset, pairs))) < len(pairs):
        raise MLCAKError(
            f"Every pair must occur once; got {', '.join(map(' and '.join, pairs))}. Remove the repeated one."
        )
    return list(pairs)


def read_dataclass(kind: Any, value: Any) -> Any:
    """Turn JSON types into a dataclass, a tuple or a dictionary, as the annotation `kind` says."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: read_dataclass(hint, value[name]) for name, hint in hints.items() if name in value})
    inner = get_args(kind)
    if get_origin(kind) is tuple:
        return tuple(read_dataclass(inner[0], entry) for entry in value)
    if get_origin(kind) is dict:
        return {key: read_dataclass(inner[1], entry) for key, entry in value.items()}
    return value if value is None or not inner else read_dataclass(inner[0], value)
