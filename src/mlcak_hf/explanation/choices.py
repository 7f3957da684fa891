"""What can be explained and how: the choices. This file imports no library, so that commands can offer them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import MLCAKError
from ..image_geometry_mlcak import check_choice

#: Methods, each with what its maps show. The first two are the same for every label.
METHODS = {
    "attention": "attention of the class token",
    "rollout": "attention of the class token, followed through all layers",
    "gradient": "attention that raises the score of the label",
    "grad-cam": "patches that raise the score of the label",
}
#: Methods that need a label.
OF_A_LABEL = ("gradient", "grad-cam")


class LabelledModel(Protocol):
    """A config, or anything else that knows a model's labels."""

    @property
    def global_labels(self) -> Sequence[str]:
        """Names of the global labels."""

    @property
    def local_labels(self) -> Sequence[str]:
        """Names of the findings."""


@dataclass(frozen=True)
class Explanation:
    """Which map to draw.

    Args:
        method (`str`, *optional*, defaults to `"attention"`):
            `"attention"`, `"rollout"`, `"gradient"` or `"grad-cam"`.
        label (`str`, *optional*):
            Finding or global label that `"gradient"` and `"grad-cam"` explain. Defaults to the most probable global
            label of each image.

    Raises:
        [`MLCAKError`]: When there is no such method, or it does not depend on a label.
    """

    method: str = "attention"
    label: str | None = None

    def __post_init__(self) -> None:
        check_choice("The explanation method", self.method, tuple(METHODS), MLCAKError)
        if self.label is not None and self.method not in OF_A_LABEL:
            raise MLCAKError(
                f"A label must be given for {' or '.join(OF_A_LABEL)} only; got {self.label!r} with {self.method!r}, "
                "which is the same for every label. Leave the label out."
            )


def label_names(config: LabelledModel) -> list[str]:
    """Name the labels of [`log_odds`]: the local findings, then the global labels."""
    return [*config.local_labels, *config.global_labels]


def label_index(config: LabelledModel, name: str) -> int:
    """Find a label among those of [`label_names`]. A finding comes before a global label of the same name.

    Raises:
        [`MLCAKError`]: When the model has no such label.
    """
    names = label_names(config)
    if name not in names:
        raise MLCAKError(f"The label must be one of the model's {', '.join(names)}; got {name!r}.")
    return names.index(name)
