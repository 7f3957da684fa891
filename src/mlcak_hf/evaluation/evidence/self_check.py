"""A phantom and the probabilities that a model must give for it: a check that works anywhere, without data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ...errors import MLCAKError
from ...phantoms.render import render_phantom
from ...probabilities import probabilities
from ..comparison import read_dataclass

SELF_CHECK_FILE = "self_check.json"
#: Largest accepted difference of a probability. Other processors and libraries differ by about 1e-6.
TOLERANCE = 1e-3
_SIZE_PX = 256


@dataclass(frozen=True)
class SelfCheck:
    """What a model predicts for a phantom.

    Args:
        seed (`int`):
            Seed of the phantom.
        phantom_mean (`float`):
            Mean grey value of the phantom, to recognize a machine that draws another one.
        weights (`str`, *optional*):
            SHA-256 of the weights; `None` for a model from the Hub.
        probabilities (`dict[str, float]`):
            By label: the global labels as `global/<label>`, and the findings.
    """

    seed: int
    phantom_mean: float
    weights: str | None
    probabilities: dict[str, float]

    @classmethod
    def of_model(cls, network: Any, processor: Any, weights: str | None = None, seed: int = 0) -> SelfCheck:
        """Predict a phantom.

        Args:
            network ([`MLCAKForCXRClassification`]), processor ([`MLCAKImageProcessor`]):
                The model.
            weights (`str`, *optional*):
                SHA-256 of its weights.
            seed (`int`, *optional*, defaults to 0):
                Seed of the phantom.
        """
        phantom = np.clip(render_phantom(seed, size_px=_SIZE_PX).pixels, 0, 1).astype(np.float32)
        pixels = torch.from_numpy(processor.reduce(phantom[None]))
        with torch.inference_mode():
            output = network(pixels.to(network.device))
        config = network.config
        scores = probabilities(output.logits.float().cpu(), str(config.problem_type))[0]
        found = {f"global/{name}": score for name, score in zip(config.global_labels, scores, strict=True)}
        if output.local_logits is not None:
            found |= dict(zip(config.local_labels, probabilities(output.local_logits.float().cpu())[0], strict=True))
        rounded = {name: round(float(score), 6) for name, score in found.items()}
        return cls(seed, round(float(phantom.mean()), 4), weights, rounded)

    def differences(self, found: SelfCheck) -> list[str]:
        """Say how another prediction of the same phantom differs.

        Args:
            found ([`SelfCheck`]):
                The prediction to check.

        Returns:
            `list[str]`: One sentence per difference; empty if the model gives what it must.
        """
        if abs(self.phantom_mean - found.phantom_mean) > TOLERANCE:
            return [
                f"This machine draws another phantom (mean grey value {found.phantom_mean}, not {self.phantom_mean}), "
                "so the model cannot be checked. Use the version of mlcak-hf that wrote the self-check."
            ]
        if set(self.probabilities) != set(found.probabilities):
            return ["The model has other labels than the self-check."]
        return [
            f"{name}: {found.probabilities[name]:.4f}, but it must be {expected:.4f}."
            for name, expected in self.probabilities.items()
            if not abs(found.probabilities[name] - expected) <= TOLERANCE
        ]

    def _check_values(self) -> None:
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0; got {self.seed!r}")
        for name, value in {"phantom_mean": self.phantom_mean, **self.probabilities}.items():
            if not isinstance(value, int | float):
                raise ValueError(f"{name} must be a number; got {value!r}")

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `self_check.json` into the folder of a model."""
        Path(folder, SELF_CHECK_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SelfCheck:
        """Read a `self_check.json`, or the self-check inside an `evaluation.json`.

        Args:
            path (`str` or `os.PathLike`):
                The file, or the folder of a model.

        Raises:
            [`MLCAKError`]: When there is none, or it cannot be read.
        """
        file = Path(path) / SELF_CHECK_FILE if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise MLCAKError(
                f"There is no self-check at {file}. `mlcak evaluate` measures it, and `mlcak card FOLDER --evaluation "
                f"evaluation.json` writes {SELF_CHECK_FILE} beside the weights."
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            found = cast(SelfCheck, read_dataclass(cls, content.get("self_check", content)))
            found._check_values()
            return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MLCAKError(f"{file} cannot be read as a self-check ({error!r}). Evaluate the model again.") from error
