"""`explanations.json`: how well explanation maps find boxes, beside their baselines; written and read here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ...errors import MLCAKError
from ...explanation.choices import METHODS
from ..comparison import NOTICE, read_dataclass
from ..significance import ALPHA

_FORMAT = 2
#: The metric of the verdicts, chosen before any result was known.
DECIDING = "energy"


@dataclass(frozen=True)
class Measured:
    """A mean over pairs of image and finding, with its 95 % interval by bootstrap over patients."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class MapScore:
    """One score of one method in one group of pairs, beside its baselines.

    Args:
        kind (`str`):
            `"all"`, `"finding"` or `"size"`.
        group (`str`):
            The finding, or the size of its boxes as a share of the radiograph; `""` for all pairs.
        method (`str`):
            Such as `"attention"`.
        metric (`str`):
            `"pointing"`, `"energy"`, `"iou"`, `"deletion"` or `"insertion"`.
        pairs, patients (`int`):
            How many pairs of image and finding, of how many patients.
        own ([`Measured`]):
            Score of the method's maps.
        floors (`dict[str, Measured]`):
            Scores of the baselines: `"random"`, `"mean map"` and `"random weights"`.
        gains (`dict[str, Measured]`):
            How much better than each baseline, paired; positive is better for every metric.
        p_values (`dict[str, float]`):
            Of the gains, adjusted by Holm's method for all methods and baselines; only for all pairs and energy.
    """

    kind: str
    group: str
    method: str
    metric: str
    pairs: int
    patients: int
    own: Measured
    floors: dict[str, Measured]
    gains: dict[str, Measured]
    p_values: dict[str, float]

    def verdict(self, floor: str) -> str:
        """`"beats"`, `"loses to"` or `"cannot be told from"` the baseline; `""` without a p-value."""
        if floor not in self.p_values:
            return ""
        if self.p_values[floor] > ALPHA:
            return "cannot be told from"
        return "beats" if self.gains[floor].value > 0 else "loses to"


@dataclass(frozen=True)
class MapReport:
    """The maps of one model against boxes.

    Args:
        model (`str`):
            Name of the model.
        weights (`tuple[str | None, ...]`):
            Digest of its weights, or of those of every fold.
        pairs, images, patients (`int`):
            What was measured.
        scores (`tuple[MapScore, ...]`):
            For all pairs, for each finding and for each size of boxes.
        correlation (`dict[str, Measured]`):
            For each method, the mean rank correlation with the maps of random weights.
        shares, empty, unknown_findings, trained_on: As in [`MapMeasurement`].
    """

    model: str
    weights: tuple[str | None, ...]
    pairs: int
    images: int
    patients: int
    scores: tuple[MapScore, ...]
    correlation: dict[str, Measured]
    shares: dict[str, list[float]]
    empty: dict[str, float]
    unknown_findings: tuple[str, ...]
    trained_on: int | None

    def score(self, method: str, metric: str = DECIDING, group: str = "") -> MapScore | None:
        """Find a score; `None` if it was not measured."""
        wanted = (method, metric, group)
        return next((each for each in self.scores if (each.method, each.metric, each.group) == wanted), None)

    def statements(self) -> list[str]:
        """Say in words what the maps are worth, from the numbers alone."""
        lines = []
        for method in METHODS:
            score = self.score(method)
            if score is None:
                continue
            own = f"{100 * score.own.value:.1f} % of the map is inside the boxes"
            parts = [
                f"{verdict} {_FLOOR_NAMES[floor]} ({100 * score.floors[floor].value:.1f} %; {_points(gain)})"
                for floor, gain in score.gains.items()
                if (verdict := score.verdict(floor))
            ]
            lines.append(f"{method}: {own}. It {', '.join(parts)}." if parts else f"{method}: {own}.")
        for verdict, said in _AGAINST_THE_MEAN_MAP.items():
            found = [self.score(method) for method in METHODS]
            methods = [score.method for score in found if score and score.verdict("mean map") == verdict]
            if methods:
                named = " and ".join(filter(None, (", ".join(methods[:-1]), methods[-1])))
                lines.append(f"The maps of {named} {said}")
        if self.trained_on:
            images = f"{self.trained_on} of these {self.images} images"
            lines.append(f"Warning: {images} were used to train the model or its teachers.")
        return lines


@dataclass(frozen=True)
class Explanations:
    """The reports of several models on one split.

    Example:

    ```python
    >>> explanations = Explanations.from_json("runs/explanations/explanations.json")  # doctest: +SKIP
    >>> for line in explanations.report("student").statements():  # doctest: +SKIP
    ...     print(line)
    ```
    """

    reports: tuple[MapReport, ...]
    n_draws: int
    seed: int
    context: dict[str, Any]

    def report(self, model: str) -> MapReport:
        """Find the report of a model.

        Raises:
            [`MLCAKError`]: When there is none.
        """
        found = next((report for report in self.reports if report.model == model), None)
        if found is None:
            names = ", ".join(repr(report.model) for report in self.reports)
            raise MLCAKError(f"The explanations must be those of {model!r}; got those of {names}. Name one of them.")
        return found

    def of_weights(self, digest: str | None, model: str | None = None) -> MapReport:
        """Find the report of given weights.

        Args:
            digest (`str`, *optional*):
                SHA-256 of the weights.
            model (`str`, *optional*):
                Name of the model in these explanations; by default the first one with these weights.

        Raises:
            [`MLCAKError`]: When there is none.
        """
        found = self.reports if model is None else (self.report(model),)
        for report in found:
            if digest is not None and digest in report.weights:
                return report
        names = ", ".join(repr(report.model) for report in found)
        raise MLCAKError(
            f"The explanations of {names} were measured with different weights than those of this model. Measure again."
        )

    def to_json(self, path: str | Path) -> None:
        """Write to a file."""
        record = {"format": _FORMAT, "notice": NOTICE, **asdict(self)}
        Path(path).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> Explanations:
        """Read what [`~Explanations.to_json`] wrote.

        Raises:
            [`MLCAKError`]: When the file holds something else.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            if record["format"] != _FORMAT:
                raise ValueError(f"it has format {record['format']}, not {_FORMAT}")
            return cast(Explanations, read_dataclass(cls, record))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MLCAKError(
                f"{path} must be an explanations.json that measure_explanations.py wrote ({error}). Measure again."
            ) from error


def _points(measured: Measured) -> str:
    """A difference of shares in percentage points."""
    bounds = (
        ""
        if measured.low is None or measured.high is None
        else f" [{100 * measured.low:+.1f}, {100 * measured.high:+.1f}]"
    )
    return f"{100 * measured.value:+.1f}{bounds} points"


_FLOOR_NAMES = {
    "random": "random maps",
    "mean map": "the mean map of training images",
    "random weights": "the maps of random weights",
}
_AGAINST_THE_MEAN_MAP = {
    "loses to": "find the boxes worse than their mean map over training images, which is the same for every image. The "
    "mean map is the better guide.",
    "cannot be told from": "are not shown to find the boxes better than their mean map over training images, which is "
    "the same for every image.",
}
