"""`evaluation.json`: the record of one model on one dataset, written and read here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from ...errors import MLCAKError
from ..calibration import CalibrationFloor, Reliability
from ..comparison import NOTICE, Comparison, Estimate, Row, read_dataclass
from ..explanations.map_report import MapReport
from .self_check import SelfCheck

EVALUATION_FILE = "evaluation.json"
_FORMAT = 2
#: The reason of images that are further from the training images than the model's limit.
UNLIKE = "unlike the training images"


@dataclass(frozen=True)
class Curves:
    """Curves of one global label, thinned out for drawing.

    Args:
        false_positive_rate, sensitivity (`tuple[float, ...]`):
            The ROC curve.
        recall, precision (`tuple[float, ...]`):
            The precision-recall curve.
        threshold, net_benefit, net_benefit_of_all (`tuple[float, ...]`):
            The decision curve: net benefit of acting on the model, and of acting on every image. Not acting is 0.
    """

    false_positive_rate: tuple[float, ...]
    sensitivity: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]
    threshold: tuple[float, ...]
    net_benefit: tuple[float, ...]
    net_benefit_of_all: tuple[float, ...]


@dataclass(frozen=True)
class CalibrationOfLabel:
    """How well the probabilities of one global label agree with its observed rate.

    Args:
        brier (`float`):
            Mean squared distance between probability and label.
        brier_of_rate (`float`):
            Brier score of predicting the observed rate for every image.
        error (`float`):
            Expected calibration error.
        floor ([`CalibrationFloor`]):
            That error for perfect probabilities on as many images.
        mean_score, observed (`float`):
            Mean probability, and share of images with the label.
        reliability ([`Reliability`]):
            The bins behind `error`.
    """

    brier: float
    brier_of_rate: float
    error: float
    floor: CalibrationFloor
    mean_score: float
    observed: float
    reliability: Reliability


@dataclass(frozen=True)
class MeasuredPoint:
    """What one threshold does on the evaluated images.

    Args:
        label (`str`):
            Global label that the threshold decides on.
        rule (`str`):
            How the threshold was chosen.
        threshold (`float`):
            An image is positive if its probability reaches it.
        chosen_here (`bool`):
            Whether it was chosen on the evaluated images, so that the figures are too good.
        sensitivity, specificity ([`Estimate`]):
            On the evaluated images.
        ppv, npv ([`Estimate`], *optional*):
            Predictive values at the named prevalence; `None` if no image, or every image, is positive.
    """

    label: str
    rule: str
    threshold: float
    chosen_here: bool
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate | None
    npv: Estimate | None


@dataclass(frozen=True)
class LabelEvidence:
    """One global label that has both classes."""

    name: str
    prevalence: float
    curves: Curves
    calibration: CalibrationOfLabel
    points: tuple[MeasuredPoint, ...]


@dataclass(frozen=True)
class Subgroup:
    """The images with one value of a column, or one range of its numbers.

    `auroc` is the mean over the labels with enough images; `None` with `left_out`, which says why. `present` is the
    number of images with the label, `predicted` the mean probability of the first global label.
    """

    column: str
    value: str
    images: int
    patients: int
    present: int
    predicted: float | None
    auroc: Estimate | None
    left_out: str = ""


@dataclass(frozen=True)
class ShiftEffect:
    """The global AUROC on perturbed images, and its difference from the same images as they are."""

    name: str
    auroc: Estimate
    difference: Estimate


@dataclass(frozen=True)
class WorstError:
    """An image to look at, such as a confident mistake: its row, what the reference says, and the probability."""

    row: int
    label: str
    present: bool
    score: float


@dataclass(frozen=True)
class InputQuality:
    """What the input checks and the model's `reference.npz` say about the images.

    Args:
        images (`int`):
            Number of images with at least one reason.
        refused, warned (`dict[str, int]`):
            Number of images by reason: at most one reason per image from the input checks, and [`UNLIKE`].
        most_unlike (`int`, *optional*):
            Number of images that may be unlike the training images by chance; `None` without a reference.
        false_refusals (`float`, *optional*):
            Share of images like the held-out ones that the reference refuses.
    """

    images: int
    refused: dict[str, int]
    warned: dict[str, int]
    most_unlike: int | None = None
    false_refusals: float | None = None

    @property
    def unlike(self) -> int:
        """Number of images that are unlike the training images."""
        return self.warned.get(UNLIKE, 0)

    @property
    def suspect(self) -> int:
        """Number of images that the input checks refuse or warn about."""
        return sum(self.refused.values()) + sum(self.warned.values()) - self.unlike


@dataclass(frozen=True)
class Evidence:
    """One model on one dataset, as [`measure`] found it.

    Args:
        comparison ([`Comparison`]):
            A comparison with one row: metrics with intervals, counts, thresholds, training images.
        labels (`tuple[LabelEvidence, ...]`):
            The global labels with both classes.
        prevalence (`float`, *optional*):
            The prevalence that predictive values and net benefit are for; `None`: that of the evaluated images.
        inputs ([`InputQuality`]):
            What the input checks found.
        subgroups (`tuple[Subgroup, ...]`):
            In the order of the named columns.
        shifts (`tuple[ShiftEffect, ...]`):
            By perturbation; empty if they were not measured.
        shifted_images (`int`):
            Number of images that were perturbed.
        errors (`tuple[WorstError, ...]`):
            The most confident mistakes.
        self_check ([`SelfCheck`]):
            What the model predicts for a phantom.
        typical (`tuple[WorstError, ...]`):
            Correct predictions with the median score of their class.
        explanations ([`MapReport`], *optional*):
            How well the model's explanation maps find boxes, if `--explanations` named a measurement.
        facts (`dict[str, Any]`):
            Model, training, dataset and software, for the checklist.
    """

    comparison: Comparison
    labels: tuple[LabelEvidence, ...]
    prevalence: float | None
    inputs: InputQuality
    subgroups: tuple[Subgroup, ...]
    shifts: tuple[ShiftEffect, ...]
    shifted_images: int
    errors: tuple[WorstError, ...]
    self_check: SelfCheck
    facts: dict[str, Any] = field(default_factory=dict)
    typical: tuple[WorstError, ...] = ()
    explanations: MapReport | None = None

    @property
    def row(self) -> Row:
        """Metrics of the model."""
        return self.comparison.rows[0]

    @property
    def share_refused(self) -> float:
        """Share of the images that the input checks object to, or that are unlike the training images."""
        return self.inputs.images / self.comparison.n_images

    @property
    def numbers(self) -> Mapping[str, float]:
        """What a requirement may name: every metric, the ends of its interval, and the share of refused images."""
        found = {"share_refused": self.share_refused}
        for name, estimate in self.row.metrics.items():
            found[name] = estimate.value
            if (interval := estimate.interval) is not None and interval.low is not None and interval.high is not None:
                found |= {f"{name}.low": interval.low, f"{name}.high": interval.high}
        return found

    def save(self, path: str | Path) -> None:
        """Write to a file."""
        content = {"format": _FORMAT, "notice": NOTICE, **asdict(self)}
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Evidence:
        """Read what [`~Evidence.save`] wrote.

        Args:
            path (`str` or `Path`):
                The file, or the folder that contains it.

        Raises:
            [`MLCAKError`]: When the file is something else, or has a different format.
        """
        file = Path(path) / EVALUATION_FILE if Path(path).is_dir() else Path(path)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["format"] == _FORMAT and "self_check" in content:
                found = cast(Evidence, read_dataclass(cls, content))
                full = found.comparison.rows and found.comparison.n_images > 0
                if not full or not all(map(math.isfinite, found.numbers.values())):
                    raise ValueError("it must have a model, images and finite metrics")
                return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MLCAKError(
                f"{file} is not the record of an evaluation ({type(error).__name__}: {error}). Name the "
                f"{EVALUATION_FILE} that `mlcak evaluate` wrote."
            ) from error
        raise MLCAKError(f"{file} must be an {EVALUATION_FILE} of format {_FORMAT}. Run `mlcak evaluate` again.")


def load_results(path: str | Path) -> Comparison | Evidence:
    """Read an `evaluation.json` or a `comparison.json`.

    Args:
        path (`str` or `Path`):
            The file.

    Raises:
        [`MLCAKError`]: When it is neither.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if "format" not in content:
            raise ValueError("it has no format")
    except (OSError, ValueError, TypeError) as error:
        raise MLCAKError(
            f"{path} must be the {EVALUATION_FILE} that `mlcak evaluate` wrote, or the comparison.json that `mlcak "
            f"compare` wrote, but cannot be read ({error}). Name one of them, or evaluate again."
        ) from error
    return Evidence.load(path) if "self_check" in content else Comparison.from_json(path)
