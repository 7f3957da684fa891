"""What was measured of one model's maps, pair by pair of an image and a finding: saved, read and pooled over folds."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MLCAKError
from ..scores import FloatArray

_FORMAT = 2
#: Scores of a map, and whether a higher one is better.
MAP_METRICS = {"pointing": True, "energy": True, "iou": True, "deletion": False, "insertion": True}
#: What each method is compared with: names of maps are `method`, `method/baseline` and `random`.
FLOORS = ("random", "mean map", "random weights")
_ARRAYS = ("area", "scores", "correlation")


@dataclass(frozen=True)
class MapMeasurement:
    """Scores of a model's maps for pairs of an image and a finding that has boxes in it.

    Args:
        model (`str`):
            Name of the model. Measurements of one name are folds of one row.
        key (`dict`):
            What determines the result: digest of the weights, dataset, split and options.
        images, groups, findings (`tuple[str, ...]` of length `pairs`):
            Image, patient and finding of each pair. Without ids, an image is named by its row, and its fold.
        area (`np.ndarray` of shape `(pairs,)`):
            Share of the radiograph that is inside the boxes of the finding.
        scores (`dict[str, np.ndarray]` of shape `(metrics, pairs)`):
            For each map, its scores in the order of `MAP_METRICS`; NaN where not measured.
        correlation (`dict[str, np.ndarray]` of shape `(pairs,)`):
            For each method, the rank correlation with the map of random weights.
        shares (`dict[str, list[float]]`):
            For each map, the share of patches of the overlap that the validation images chose, one for each fold.
        empty (`dict[str, float]`):
            For each method, the share of maps without any positive value on the radiograph. They count as uniform.
        unknown_findings (`tuple[str, ...]`):
            Findings with boxes that the model does not have.
        trained_on (`int`, *optional*):
            How many of the images the model was trained on; `None` if it is not known.
    """

    model: str
    key: dict[str, Any]
    images: tuple[str, ...]
    groups: tuple[str, ...]
    findings: tuple[str, ...]
    area: FloatArray
    scores: dict[str, FloatArray]
    correlation: dict[str, FloatArray]
    shares: dict[str, list[float]]
    empty: dict[str, float]
    unknown_findings: tuple[str, ...]
    trained_on: int | None

    def __len__(self) -> int:
        return len(self.images)

    def save(self, path: str | Path) -> None:
        """Write to an `.npz` file of numbers and plain strings; nothing is pickled."""
        arrays: dict[str, Any] = {"area": self.area}
        for name in ("scores", "correlation"):
            arrays |= {f"{name}/{key}": values for key, values in getattr(self, name).items()}
        words = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in _ARRAYS}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as handle:
            np.savez_compressed(handle, words=np.asarray(json.dumps({"format": _FORMAT, **words})), **arrays)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> MapMeasurement:
        """Read what [`~MapMeasurement.save`] wrote.

        Raises:
            [`MLCAKError`]: When the file holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            words = json.loads(str(arrays["words"]))
            if words.pop("format") != _FORMAT:
                raise ValueError("it has another format")
            for name in ("images", "groups", "findings", "unknown_findings"):
                words[name] = tuple(words[name])
            for kind in ("scores", "correlation"):
                own = {name: values for name, values in arrays.items() if name.startswith(f"{kind}/")}
                words[kind] = {name.removeprefix(f"{kind}/"): values for name, values in own.items()}
            return cls(area=arrays["area"], **words)
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise MLCAKError(f"{path} is not a measurement of maps ({error}). Delete it to measure again.") from error


def pool_folds(folds: Sequence[MapMeasurement]) -> MapMeasurement:
    """Put the measurements of the folds of one row together.

    Args:
        folds (`Sequence[MapMeasurement]`):
            Of different images.

    Returns:
        [`MapMeasurement`]

    Raises:
        [`MLCAKError`]: When an image is in several of them, or they were measured with different options.
    """
    first = folds[0]
    if len(folds) == 1:
        return first
    seen = [image for fold in folds for image in set(fold.images)]
    if len(set(seen)) < len(seen):
        raise MLCAKError(
            f"Models of one name must be folds with different images; those of {first.model!r} share "
            f"{len(seen) - len(set(seen))} images. Give each model a name of its own, or evaluate the split `fold`."
        )
    if any(fold.scores.keys() != first.scores.keys() for fold in folds):
        raise MLCAKError(f"The folds of {first.model!r} must have the same maps. Measure them with the same options.")
    trained = [fold.trained_on for fold in folds]
    return MapMeasurement(
        model=first.model,
        key={"parts": [fold.key for fold in folds]},
        images=tuple(image for fold in folds for image in fold.images),
        groups=tuple(group for fold in folds for group in fold.groups),
        findings=tuple(finding for fold in folds for finding in fold.findings),
        area=np.concatenate([fold.area for fold in folds]),
        scores={name: np.concatenate([fold.scores[name] for fold in folds], axis=1) for name in first.scores},
        correlation={name: np.concatenate([fold.correlation[name] for fold in folds]) for name in first.correlation},
        shares={name: [each for fold in folds for each in fold.shares.get(name, [])] for name in first.scores},
        empty={
            name: float(np.average([fold.empty[name] for fold in folds], weights=[len(fold) for fold in folds]))
            for name in first.empty
        },
        unknown_findings=tuple(sorted({name for fold in folds for name in fold.unknown_findings})),
        trained_on=None if None in trained else sum(filter(None, trained)),
    )
