"""What `mlcak calibrate` wrote beside a model, applied to predictions: calibrated probability, decision, refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..trust.operating_points import OperatingPoints
from ..trust.reference import DistanceLimit
from .reading import Decision, OnSuspect, Prediction

Rule = Literal["youden", "sensitivity", "specificity"]


@dataclass(frozen=True)
class Safeguards:
    """Operating points and reference of a model.

    Args:
        points ([`OperatingPoints`], *optional*):
            Temperatures and thresholds.
        reference ([`DistanceLimit`], *optional*):
            Which images are refused.
        rule (`str`, *optional*, defaults to `"youden"`):
            Which threshold decides: `"youden"`, `"sensitivity"` or `"specificity"`.
    """

    points: OperatingPoints | None = None
    reference: DistanceLimit | None = None
    rule: Rule = "youden"

    def apply(self, prediction: Prediction, distance: float | None, on_suspect: OnSuspect) -> None:
        """Fill in the decisions of a prediction, or why there are none.

        An image with a warning gets no decision: little is known about the model on such images.

        Args:
            prediction ([`Prediction`]):
                With probabilities and findings.
            distance (`float`, *optional*):
                Its distance from the training images, if there is a reference.
            on_suspect (`str`):
                As in [`RadiographPredictor`].
        """
        reason = None if self.reference is None or distance is None else self.reference.refusal(distance)
        if reason is not None:
            prediction.warning = "; ".join(filter(None, (prediction.warning, reason)))
            if on_suspect == "refuse":
                prediction.refused_because = prediction.warning
                prediction.probabilities, prediction.findings, prediction.attention = {}, {}, None
                return
        prediction.decisions = self._decisions(prediction)

    def _decisions(self, prediction: Prediction) -> dict[str, Decision]:
        found: dict[str, Decision] = {}
        for head, scores in (("global", prediction.probabilities), ("finding", prediction.findings)):
            if self.points is None or not scores:
                continue
            values = self.points.calibrated(head, [list(scores.values())])
            calibrated = {} if values is None else dict(zip(scores, values[0].tolist(), strict=True))
            for name, score in scores.items():
                label = self.points.labels.get(f"{head}/{name}")
                # A finding that the model never saw in training has NaN.
                if label is None or score != score:
                    continue
                point = label.point(self.rule)
                if point is None and name not in calibrated:
                    continue
                decides = point is not None and prediction.warning is None
                found[f"{head}/{name}"] = Decision(
                    calibrated.get(name),
                    None if point is None else point.threshold,
                    ("positive" if score >= point.threshold else "negative") if decides and point else "",
                    label.triage(score) if decides else "",
                )
        return found
