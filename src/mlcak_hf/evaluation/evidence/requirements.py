"""`--require "auroc_global>=0.9"`: what a model must reach, for scripts that act on the exit status."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RecipeError
from ...shipped import close_name
from ..metrics import METRICS
from ..report.wording import TITLES
from .record import Evidence

_FORM = re.compile(r"\s*([^<>=]+?)\s*(>=|<=|>|<)\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)\s*")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Requirement:
    """A metric, how it is compared, and with what.

    Args:
        text (`str`):
            As it was given.
        metric (`str`):
            A metric, `<metric>.low` or `<metric>.high` for the ends of its interval, or `share_refused`.
        comparison (`str`):
            `">="`, `"<="`, `">"` or `"<"`.
        bound (`float`):
            The number.
    """

    text: str
    metric: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read a requirement.

        Raises:
            [`RecipeError`]: When it has a different form.
        """
        matched = _FORM.fullmatch(text)
        if matched is None:
            raise RecipeError(f"--require must have the form 'auroc_global>=0.9'; got {text!r}.")
        return cls(text.strip(), matched[1], matched[2], float(matched[3]))

    def check_name(self, config: Any) -> None:
        """Refuse a metric that no evaluation of this model could have.

        Args:
            config ([`MLCAKConfig`]):
                The model's configuration.

        Raises:
            [`RecipeError`]: It suggests the closest name.
        """
        labels = [f"{metric}_global/{name}" for metric in METRICS for name in config.global_labels]
        labels += [f"{metric}/{name}" for metric in METRICS for name in config.local_labels]
        known = ["share_refused", *TITLES, *labels]
        if re.sub(r"\.(low|high)$", "", self.metric) not in known:
            hint = close_name(self.metric, known) or f" Name one of {', '.join(['share_refused', *TITLES])}."
            raise RecipeError(f"--require {self.text}: there is no metric {self.metric!r}.{hint}")

    def failure(self, evidence: Evidence) -> str:
        """Say why the requirement is not met; an empty string if it is.

        Args:
            evidence ([`Evidence`]):
                What was measured.
        """
        value, images = evidence.numbers.get(self.metric), evidence.row.training_images()
        if value is None:
            return f"{self.text}: not met, because {self.metric} could not be measured on these images."
        if not _COMPARISONS[self.comparison](value, self.bound):
            return f"{self.text}: not met; {self.metric} is {value:.4f}."
        if images and self.metric != "share_refused":
            who = evidence.row.learner("the model")
            return f"{self.text}: not met, because {who} was trained on {images} of these images."
        return ""


def failed_requirements(requirements: Sequence[Requirement], evidence: Evidence) -> list[str]:
    """List the requirements that are not met, each with its reason."""
    return [reason for requirement in requirements if (reason := requirement.failure(evidence))]
