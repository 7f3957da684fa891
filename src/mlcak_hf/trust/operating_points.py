"""`operating_points.json`: temperatures, thresholds and triage limits of a model, written and read here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MLCAKError
from ..probabilities import MULTI_LABEL
from ..weights import weights_digest
from .temperature import fit_temperature, with_temperature
from .thresholds import (
    Labels,
    Scores,
    threshold_at_sensitivity,
    threshold_at_specificity,
    triage,
    triage_limits,
    youden_threshold,
)

OPERATING_POINTS_FILE = "operating_points.json"
#: With fewer positives or negatives, a threshold is chosen by chance.
FEWEST = 10
_FORMAT = 1


@dataclass(frozen=True)
class PointTargets:
    """What operating points are chosen for.

    Args:
        sensitivity (`float`, *optional*, defaults to 0.95):
            Sensitivity of the point `at_sensitivity`.
        specificity (`float`, *optional*, defaults to 0.9):
            Specificity of the point `at_specificity`.
        triage_error (`float`, *optional*, defaults to 0.05):
            Largest share of the positives that may be "low", and of the negatives that may be "high".

    Raises:
        [`MLCAKError`]: When a value is not between 0 and 1.
    """

    sensitivity: float = 0.95
    specificity: float = 0.9
    triage_error: float = 0.05

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 < value < 1:
                raise MLCAKError(f"{name} must be between 0 and 1, both excluded; got {value}.")


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the uncalibrated probability, and what it gave on the images that it was chosen on."""

    threshold: float
    sensitivity: float
    specificity: float

    @classmethod
    def measure(cls, threshold: float, scores: Scores, labels: Labels) -> OperatingPoint:
        """Measure a threshold on labelled images with both classes."""
        flagged = scores >= threshold
        return cls(threshold, float(flagged[labels == 1].mean()), float((~flagged)[labels == 0].mean()))


@dataclass(frozen=True)
class LabelPoints:
    """Operating points of one label.

    Args:
        positives, negatives (`int`):
            Images with and without the label.
        youden, at_sensitivity, at_specificity ([`OperatingPoint`], *optional*):
            The points; `None` with fewer than 10 positives or negatives.
        low_below, high_above (`float`, *optional*):
            Limits of [`triage_limits`].
        no_threshold (`str`):
            Why there are no points; empty if there are.
    """

    positives: int
    negatives: int
    youden: OperatingPoint | None = None
    at_sensitivity: OperatingPoint | None = None
    at_specificity: OperatingPoint | None = None
    low_below: float | None = None
    high_above: float | None = None
    no_threshold: str = ""

    @classmethod
    def choose(
        cls, scores: Scores, labels: Labels, targets: PointTargets, groups: Sequence[Any] | None = None
    ) -> LabelPoints:
        """Choose the points of one label from scores and labels (1, 0, or -1 if missing) of shape `(n,)`."""
        positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
        if min(positives, negatives) < FEWEST:
            few = f"{positives} positives and {negatives} negatives; at least {FEWEST} of each are needed"
            return cls(positives, negatives, no_threshold=few)
        sensitive = threshold_at_sensitivity(scores, labels, targets.sensitivity)
        specific = threshold_at_specificity(scores, labels, targets.specificity)
        low_below, high_above = triage_limits(scores, labels, targets.triage_error, groups)
        return cls(
            positives,
            negatives,
            youden=OperatingPoint.measure(youden_threshold(scores, labels), scores, labels),
            at_sensitivity=OperatingPoint.measure(sensitive, scores, labels),
            at_specificity=OperatingPoint.measure(specific, scores, labels),
            low_below=low_below,
            high_above=high_above,
        )

    def point(self, rule: str) -> OperatingPoint | None:
        """Return the point of a rule: `"youden"`, `"sensitivity"` or `"specificity"`."""
        points = {"youden": self.youden, "sensitivity": self.at_sensitivity, "specificity": self.at_specificity}
        return points[rule]

    def triage(self, score: float) -> str:
        """Return `"low"`, `"high"` or `"unsure"`; empty without limits."""
        limits = (self.low_below, self.high_above)
        return "" if limits == (None, None) else triage(score, *limits)


@dataclass(frozen=True)
class OperatingPoints:
    """Temperatures and thresholds of one model, chosen on images that it was not trained on.

    Args:
        weights (`str`):
            SHA-256 of the weights, as from [`weights_digest`].
        dataset, split (`str`):
            Where the images come from.
        n_images (`int`):
            Number of images.
        targets ([`PointTargets`]):
            What the points were chosen for.
        labels (`dict[str, LabelPoints]`):
            Points by `"global/<label>"` and `"finding/<name>"`.
        temperatures (`dict[str, float]`):
            Temperature by head, `"global"` and `"finding"`; a head without one is absent.
        problem_type (`str`):
            That of the global head.

    Example:

    ```python
    >>> points = OperatingPoints.load("runs/student")  # doctest: +SKIP
    >>> points.labels["global/Abnormal"].youden  # doctest: +SKIP
    OperatingPoint(threshold=0.43, sensitivity=0.9, specificity=0.85)
    ```
    """

    weights: str
    dataset: str
    split: str
    n_images: int
    targets: PointTargets
    labels: dict[str, LabelPoints]
    temperatures: dict[str, float] = field(default_factory=dict)
    problem_type: str = MULTI_LABEL

    def calibrated(self, head: str, scores: ArrayLike) -> NDArray[np.float64] | None:
        """Return calibrated probabilities of a head, `"global"` or `"finding"`; `None` without a temperature.

        Args:
            head (`str`):
                `"global"` or `"finding"`.
            scores (array-like of shape `(n, labels)`):
                Its probabilities; of a single-label head all of them, or the last of two.
        """
        if head not in self.temperatures:
            return None
        problem_type = self.problem_type if head == "global" else MULTI_LABEL
        return with_temperature(scores, self.temperatures[head], problem_type)

    def record(self) -> dict[str, Any]:
        """Return the content of `operating_points.json`."""
        return {"format": _FORMAT, **asdict(self)}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `operating_points.json` beside the weights."""
        text = json.dumps(self.record(), indent=1, ensure_ascii=False, allow_nan=False)
        Path(folder, OPERATING_POINTS_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> OperatingPoints:
        """Read the content of `operating_points.json`, as [`record`] returns it.

        Raises:
            `ValueError`, `KeyError`, `TypeError` or `AttributeError`: When it is not such a record.
        """
        entries = dict(record)
        if entries.pop("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        labels = {name: _label_points(entry) for name, entry in entries.pop("labels").items()}
        _check_numbers(entries.get("temperatures", {}))
        return cls(targets=PointTargets(**entries.pop("targets")), labels=labels, **entries)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], weights: str | None = None) -> OperatingPoints | None:
        """Read the operating points of the model in a folder; `None` if there are none.

        Args:
            folder (`str` or `os.PathLike`):
                Folder of the model.
            weights (`str`, *optional*):
                [`weights_digest`] of the folder, if it is known already.

        Raises:
            [`MLCAKError`]: When the file is damaged or was made for other weights.
        """
        file = Path(folder, OPERATING_POINTS_FILE)
        if not file.is_file():
            return None
        try:
            found = cls.from_record(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MLCAKError(
                f"{file} must hold operating points, but cannot be read ({error}). Run `mlcak calibrate` again, or "
                "delete it."
            ) from error
        check_weights(file, found.weights, weights or weights_digest(folder))
        return found


def check_weights(file: Path, made_for: str, weights: str | None) -> None:
    """Refuse a file that was made for other weights than those beside it.

    Raises:
        [`MLCAKError`]: When the digests differ.
    """
    if made_for != weights:
        raise MLCAKError(
            f"{file} must belong to the weights beside it, but was made for others. Run `mlcak calibrate` again, or "
            "delete it."
        )


def choose_temperatures(heads: dict[str, tuple[Scores, Labels]], problem_type: str) -> dict[str, float]:
    """Fit the temperature of each head that has enough positives and negatives.

    Args:
        heads (`dict`):
            Probabilities and labels of shape `(n, labels)` by head, `"global"` and `"finding"`.
        problem_type (`str`):
            That of the global head.

    Returns:
        `dict[str, float]`: Without heads that have fewer than 10 positives or negatives, or no best temperature.
    """
    found = {}
    for head, (scores, labels) in heads.items():
        if min((labels == 1).sum(), (labels == 0).sum()) < FEWEST:
            continue
        temperature = fit_temperature(scores, labels, problem_type if head == "global" else MULTI_LABEL)
        if temperature is not None:
            found[head] = temperature
    return found


def _label_points(entry: dict[str, Any]) -> LabelPoints:
    names = ("youden", "at_sensitivity", "at_specificity")
    _check_numbers({name: entry[name] for name in ("positives", "negatives")})
    _check_numbers({name: entry[name] for name in ("low_below", "high_above") if entry[name] is not None})
    for point in (entry[name] for name in names if entry[name] is not None):
        _check_numbers(point)
    points = {name: None if entry[name] is None else OperatingPoint(**entry[name]) for name in names}
    return LabelPoints(**(entry | points))


def _check_numbers(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float):
            raise ValueError(f"{name} must be a number; got {value!r}")
