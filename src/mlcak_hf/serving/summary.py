"""A running summary of what was predicted, as one page: drift shows in it without any labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from scipy.stats import chisquare

from ..errors import DeploymentError
from ..prediction.file_predictor import FilePredictor
from ..prediction.reading import Prediction
from ..shipped import hub_configs_dir
from ..trust.reference import Reference

BINS = 20
_KINDS = 30
#: With fewer expected images in a bin, the chi-squared test is only rough.
_FEWEST = 5


class RunningSummary:
    """Counts outcomes, warnings and scores since the start. It may be used from several threads.

    Args:
        predictor ([`FilePredictor`]):
            The model.
        compare_with (`Path`, *optional*):
            Results of `mlcak predict` or `mlcak watch` (.csv, .jsonl or .parquet) with the same model on images as they
            should be. Their scores are drawn beside the new ones.

    Raises:
        [`DeploymentError`]: When `compare_with` cannot be read or holds no scores of this model.
    """

    def __init__(self, predictor: FilePredictor, compare_with: Path | None = None) -> None:
        self._predictor, self._lock = predictor, Lock()
        self._labels: list[str] = list(predictor.global_labels)
        self._since = datetime.now(timezone.utc)
        self._outcomes: dict[str, Counter[str]] = {}
        self._reasons: dict[str, Counter[str]] = {"Warnings": Counter(), "Refused": Counter(), "Unreadable": Counter()}
        self._turned_away: Counter[str] = Counter()
        self._scores = {label: np.zeros(BINS, np.int64) for label in self._labels}
        self._checked, self._unlike = 0, 0
        self._expected = {} if compare_with is None else _expected_scores(compare_with, self._labels)

    def add(self, door: str, predictions: Iterable[Prediction]) -> None:
        """Count predictions that came through a door, `"HTTP"` or `"DICOM"`."""
        reference = self._predictor.safeguards.reference
        with self._lock:
            for prediction in predictions:
                self._outcomes.setdefault(door, Counter())[prediction.outcome] += 1
                for title, text in (
                    ("Warnings", None if prediction.refused_because else prediction.warning),
                    ("Refused", prediction.refused_because),
                    ("Unreadable", prediction.error),
                ):
                    self._count(self._reasons[title], text)
                for label, score in prediction.probabilities.items():
                    self._scores[label][min(int(score * BINS), BINS - 1)] += 1
                if reference is not None and (prediction.probabilities or _is_unlike(prediction)):
                    self._checked += 1
                    self._unlike += _is_unlike(prediction)

    def turn_away(self, reason: str) -> None:
        """Count a request that was refused before anything was predicted."""
        with self._lock:
            self._count(self._turned_away, reason)

    @staticmethod
    def _count(counter: Counter[str], text: str | None) -> None:
        for part in (text or "").split("; ") if text else ():
            # Without sizes and distances, so that the same reason is one row.
            kind = part.split(" (")[0].split(". ")[0].split(", got")[0].strip()
            counter[kind if kind in counter or len(counter) < _KINDS else "other reasons"] += 1

    def as_dict(self) -> dict[str, Any]:
        """Return the counts: outcomes by door, reasons, turned away requests, and a histogram for each label."""
        with self._lock:
            return {
                "since": self._since.isoformat(timespec="seconds"),
                "outcomes": {door: dict(counts) for door, counts in self._outcomes.items()},
                "reasons": {title: dict(counts.most_common()) for title, counts in self._reasons.items()},
                "turned_away": dict(self._turned_away.most_common()),
                "scores": {label: counts.tolist() for label, counts in self._scores.items()},
                "unlike": {"checked": self._checked, "unlike": self._unlike},
            }

    def page(self) -> str:
        """Return the summary as an HTML page without scripts."""
        counts, reference = self.as_dict(), self._predictor.safeguards.reference
        template = (hub_configs_dir() / "templates" / "serving_summary.html").read_text(encoding="utf-8")
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        checked = counts["unlike"]["checked"]
        return environment.from_string(template).render(
            **counts,
            model=self._predictor.provenance,
            histograms=[self._histogram(label, np.array(counts["scores"][label])) for label in self._labels],
            tables=[*counts["reasons"].items(), ("Turned away", counts["turned_away"])],
            by_chance=reference.most_refused(checked) if isinstance(reference, Reference) and checked else None,
        )

    def _histogram(self, label: str, counts: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Heights in percent of the highest bar, for the drawing of one label."""
        points = self._predictor.safeguards.points
        found = None if points is None else points.labels.get(f"global/{label}")
        point = None if found is None else found.point(self._predictor.safeguards.rule)
        expected = self._expected.get(label)
        shares = counts / max(1, counts.sum())
        expected_shares = np.zeros(BINS) if expected is None else expected / expected.sum()
        highest = max(float(shares.max()), float(expected_shares.max()), 1e-9)
        return {
            "label": label,
            "total": int(counts.sum()),
            "bars": (100 * shares / highest).round(2).tolist(),
            "expected": None if expected is None else (100 * expected_shares / highest).round(2).tolist(),
            "p": None if expected is None else drift_p_value(counts, expected),
            "threshold": None if point is None else point.threshold,
        }


def drift_p_value(counts: npt.NDArray[np.int64], expected: npt.NDArray[np.int64]) -> float | None:
    """Return how probable differences like these are if both histograms come from the same images.

    Chi-squared test of homogeneity, over neighbouring bins joined until each should hold at least 5 images of either
    histogram.

    Args:
        counts, expected (`np.ndarray` of shape `(BINS,)`):
            Images per bin.

    Returns:
        `float`, *optional*: The p-value; `None` with too few images.
    """
    both, joined, rest = np.stack([counts, expected]).astype(float), [], np.zeros(2)
    if not both.sum(axis=1).all():
        return None
    shares = both.sum(axis=1) / both.sum()
    for column in both.T:
        rest = rest + column
        if (rest.sum() * shares >= _FEWEST).all():
            joined.append(rest)
            rest = np.zeros(2)
    if len(joined) < 2:
        return None
    joined[-1] = joined[-1] + rest
    table = np.array(joined).T
    fitted = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    return float(chisquare(table.ravel(), fitted.ravel(), ddof=table.shape[1]).pvalue)


def _is_unlike(prediction: Prediction) -> bool:
    return "unlike the training images" in (prediction.warning or "")


def _expected_scores(path: Path, labels: Iterable[str]) -> dict[str, npt.NDArray[np.int64]]:
    readers = {".csv": pyarrow.csv.read_csv, ".parquet": pyarrow.parquet.read_table}
    try:
        if path.suffix.lower() == ".jsonl":
            rows = pyarrow.json.read_json(path).column("probabilities").to_pylist()
            columns = {label: [(row or {}).get(label) for row in rows] for label in labels}
        else:
            table = readers[path.suffix.lower()](path)
            columns = {label: table.column(f"global/{label}").to_pylist() for label in labels}
        scores = {
            label: np.array([value for value in column if value is not None], float)
            for label, column in columns.items()
        }
    except (OSError, KeyError, TypeError, ValueError, pyarrow.ArrowException) as error:
        raise DeploymentError(
            f"{path} must be a table of results of this model, .csv, .jsonl or .parquet ({type(error).__name__}). Write"
            " one with `mlcak predict`."
        ) from error
    if not all(map(len, scores.values())):
        raise DeploymentError(f"{path} holds no predictions. Predict images as they should be with `mlcak predict`.")
    return {label: np.histogram(values, BINS, (0, 1))[0] for label, values in scores.items()}
