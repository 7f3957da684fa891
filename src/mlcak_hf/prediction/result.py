"""What is predicted for one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass
class Prediction:
    """The model's output for one file, or the reason why there is none.

    Args:
        file (`Path`):
            The radiograph.
        probabilities (`dict[str, float]`):
            Probability of each global label. They sum to 1 for a single-label model. Empty on an error.
        findings (`dict[str, float]`):
            Probability of each local finding; NaN for one that the model never saw in training. Empty for a model
            without a local head.
        attention (`np.ndarray` of shape `(rows, columns)`, *optional*):
            The class token's row of the MLCAK map over the patches.
        heatmap (`Path`, *optional*):
            The heatmap that was written.
        warning (`str`, *optional*):
            Why the image may not be an upright frontal chest radiograph.
        refused_because (`str`, *optional*):
            Why there are no probabilities although the file could be read.
        error (`str`, *optional*):
            Why the file could not be read.
    """

    file: Path
    probabilities: dict[str, float] = field(default_factory=dict)
    findings: dict[str, float] = field(default_factory=dict)
    attention: npt.NDArray[np.float32] | None = None
    heatmap: Path | None = None
    warning: str | None = None
    refused_because: str | None = None
    error: str | None = None

    @property
    def outcome(self) -> str:
        """`"unreadable"`, `"refused"` or `"predicted"`."""
        return (
            "unreadable" if self.error is not None else "refused" if self.refused_because is not None else "predicted"
        )

    @property
    def image_id(self) -> str:
        """The file's name without its suffix: the `image_id` of the same radiograph in a prepared dataset."""
        return self.file.stem
