"""Measured numbers as a model card shows them, taken from the comparison that the evaluation wrote."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """One measured number.

    Attributes:
        label: What it was measured for: a global label, a finding, or a mean over findings.
        metric: Which metric, as the Hub names it, such as `"roc_auc"`.
        title: The metric's name for people, such as `"AUROC"`.
        value: The number.
        interval: Its 95 % interval, if one was computed.
    """

    label: str
    metric: str
    title: str
    value: float
    interval: tuple[float, float] | None = None

    def text(self) -> str:
        """The number with its interval, such as `0.812 (0.744 to 0.871)`."""
        if self.interval is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.interval[0]:.3f} to {self.interval[1]:.3f})"


@dataclass(frozen=True)
class Evaluation:
    """What is known of one model from one evaluation.

    Attributes:
        dataset: Name of the dataset.
        split: Its split.
        num_images: Number of images in it.
        measurements: Every number that could be computed.
        single_class: Labels for which the split held one class only, so that no curve exists.
        unannotated: Labels that the split never annotated.
        differences: Sentences that set this model beside others of the same comparison.
        method: How the intervals were made.
    """

    dataset: str
    split: str
    num_images: int
    measurements: tuple[Measurement, ...]
    single_class: tuple[str, ...] = ()
    unannotated: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    method: str = ""

    @property
    def has_intervals(self) -> bool:
        """Whether any number has an interval."""
        return any(measured.interval is not None for measured in self.measurements)
