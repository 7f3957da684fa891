"""Predictions of one model on one split: saved, read, and put in the same order as those of other models."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MLCAKError
from .localisation import Localisation
from .scores import FloatArray, TaskScores

_FORMAT = 2


@dataclass(frozen=True)
class ModelPredictions:
    """Predictions of one trained model on one split.

    Args:
        name (`str`):
            Row of the comparison. Runs (seeds) of one row share the name and differ in `run`.
        image_ids (`Sequence[str]` of length `n`):
            Id of each image, each different. Models are paired by them.
        global_task ([`TaskScores`]):
            Probabilities and labels of the global task, from [`global_scores`].
        local_task ([`TaskScores`], *optional*):
            The same for the local findings, from [`local_scores`]; `None` for a model without a local head.
        groups (`Sequence[str]` of length `n`, *optional*):
            Patient of each image, `""` if unknown: such an image is a group of its own.
        run (`str`, *optional*, defaults to `""`):
            Name of the run. Runs of different rows with the same name are paired.
        thresholds (`np.ndarray` of shape `(global labels,)`, *optional*):
            Operating thresholds, chosen on the validation split by [`operating_thresholds`].
        localisation (`dict[str, Localisation]`, *optional*):
            Attention on boxes: of every finding that has boxes by its name, of all boxes together under `""`.
        details (`dict`, *optional*):
            Anything that JSON can hold, such as the input size.

    Raises:
        [`MLCAKError`]: When lengths disagree or an image id occurs twice.
    """

    name: str
    image_ids: Sequence[str]
    global_task: TaskScores
    local_task: TaskScores | None = None
    groups: Sequence[str] | None = None
    run: str = ""
    thresholds: FloatArray | None = None
    localisation: dict[str, Localisation] | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [str(image_id) for image_id in self.image_ids]
        object.__setattr__(self, "image_ids", tuple(ids))
        if self.groups is not None:
            object.__setattr__(self, "groups", tuple("" if group is None else str(group) for group in self.groups))
        lengths = {
            "image_ids": len(ids),
            "global scores": len(self.global_task),
            "local scores": None if self.local_task is None else len(self.local_task),
            "groups": None if self.groups is None else len(self.groups),
        }
        lengths |= {f"localisation {name}": len(found.share) for name, found in (self.localisation or {}).items()}
        if len({length for length in lengths.values() if length is not None}) > 1:
            found = ", ".join(f"{length} {name}" for name, length in lengths.items() if length is not None)
            raise MLCAKError(f"Predictions of {self.name!r} must have one entry per image; got {found}.")
        if len(set(ids)) != len(ids):
            twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
            raise MLCAKError(
                f"Predictions of {self.name!r} must have one entry per image; got image {twice!r} more than once. "
                "Name the column of image ids, or evaluate one reading per image."
            )
        if self.thresholds is not None and self.thresholds.shape != (len(self.global_task.names),):
            raise MLCAKError(
                f"Predictions of {self.name!r} must have one threshold per global label "
                f"({len(self.global_task.names)}); got shape {self.thresholds.shape}."
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, rows: NDArray[np.intp]) -> ModelPredictions:
        """Select images, in the order of `rows`."""
        return replace(
            self,
            image_ids=[self.image_ids[row] for row in rows],
            global_task=self.global_task.take(rows),
            local_task=None if self.local_task is None else self.local_task.take(rows),
            groups=None if self.groups is None else [self.groups[row] for row in rows],
            localisation=self.localisation and {name: found.take(rows) for name, found in self.localisation.items()},
        )

    def save(self, path: str | Path) -> None:
        """Write to an `.npz` file of numbers and plain strings; nothing is pickled."""
        arrays: dict[str, NDArray[Any]] = {"image_ids": np.asarray(self.image_ids, dtype=np.str_)}
        arrays |= {"global_scores": self.global_task.scores, "global_labels": self.global_task.labels}
        if self.local_task is not None:
            arrays |= {"local_scores": self.local_task.scores, "local_labels": self.local_task.labels}
        if self.groups is not None:
            arrays["groups"] = np.asarray(self.groups, dtype=np.str_)
        if self.thresholds is not None:
            arrays["thresholds"] = self.thresholds
        if self.localisation:
            arrays["localisation"] = np.stack([found.arrays() for found in self.localisation.values()])
        words = {
            "format": _FORMAT,
            "name": self.name,
            "run": self.run,
            "details": self.details,
            "global_names": self.global_task.names,
            "finding_names": None if self.local_task is None else self.local_task.names,
            "localised": list(self.localisation or ()),
        }
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Through a handle: numpy would append ".npz" to any other name.
        with path.open("wb") as handle:
            np.savez_compressed(handle, words=np.asarray(json.dumps(words)), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> ModelPredictions:
        """Read what [`~ModelPredictions.save`] wrote.

        Raises:
            [`MLCAKError`]: When the file is missing or holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise MLCAKError(f"There is no file {path}. Name one that examples/evaluation/evaluate_models.py wrote.")
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
            words = json.loads(str(arrays["words"]))
            if words["format"] != _FORMAT:
                raise MLCAKError(f"{path} must have format {_FORMAT}; got {words['format']}. Evaluate again.")
            global_task = TaskScores(arrays["global_scores"], arrays["global_labels"], tuple(words["global_names"]))
            local_task = None
            if words["finding_names"] is not None:
                names = tuple(words["finding_names"])
                local_task = TaskScores(arrays["local_scores"], arrays["local_labels"], names)
            return cls(
                name=words["name"],
                image_ids=arrays["image_ids"].tolist(),
                global_task=global_task,
                local_task=local_task,
                groups=arrays["groups"].tolist() if "groups" in arrays else None,
                run=words["run"],
                thresholds=arrays.get("thresholds"),
                localisation=dict(zip(words["localised"], map(Localisation.of, arrays["localisation"]), strict=True))
                if "localisation" in arrays
                else None,
                details=words["details"],
            )
        except MLCAKError:
            raise
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise MLCAKError(f"{path} is not a predictions file of mlcak-hf ({error}). Evaluate again.") from error


def align(models: Sequence[ModelPredictions]) -> list[ModelPredictions]:
    """Put the predictions of several models in the order of the first, image by image and finding by finding.

    Args:
        models (`Sequence[ModelPredictions]`):
            At least one.

    Returns:
        `list[ModelPredictions]`: All with the images and groups of the first, in its order.

    Raises:
        [`MLCAKError`]: When images, their labels, label names or groups differ, so that the rows cannot be compared.
    """
    if not models:
        raise MLCAKError("There are no predictions to compare. Name at least one model.")
    first = models[0]
    row_of = {image_id: row for row, image_id in enumerate(first.image_ids)}
    aligned = []
    for model in models:
        _same(set(model.image_ids), set(first.image_ids), "images", model, first)
        rows = np.empty(len(first), dtype=np.intp)
        rows[[row_of[image_id] for image_id in model.image_ids]] = np.arange(len(first))
        aligned.append(model.take(rows))
    groups = next((model.groups for model in aligned if model.groups is not None), None)
    # The first model with a local head sets the order of the findings.
    local = next((model for model in aligned if model.local_task is not None), None)
    result = []
    for model in aligned:
        changes: dict[str, Any] = {"groups": groups}
        if model.groups is not None and model.groups != groups:
            raise MLCAKError(
                f"{model.name!r} and {first.name!r} cannot be compared: they put the same images into different "
                "groups. Evaluate both with the same group column."
            )
        changes["global_task"] = _same_task(model.global_task, first.global_task, "global", model, first)
        if model.local_task is not None and local is not None and local.local_task is not None:
            changes["local_task"] = _same_task(model.local_task, local.local_task, "local", model, local)
        result.append(replace(model, **changes))
    return result


def _same(found: set[str], expected: set[str], what: str, model: ModelPredictions, first: ModelPredictions) -> None:
    if found == expected:
        return
    only_model, only_first = sorted(found - expected), sorted(expected - found)
    parts = [
        f"{len(names)} only in {owner!r} (such as {names[0]!r})"
        for names, owner in ((only_model, model.name), (only_first, first.name))
        if names
    ]
    raise MLCAKError(
        f"{model.name!r} and {first.name!r} cannot be compared, their {what} differ: {' and '.join(parts)}. "
        "Evaluate both on the same split of the same dataset."
    )


def _same_task(
    task: TaskScores, reference: TaskScores, which: str, model: ModelPredictions, first: ModelPredictions
) -> TaskScores:
    """Put the columns in the reference's order, after checking that names and labels are equal."""
    _same(set(task.names), set(reference.names), f"{which} labels", model, first)
    order = [task.names.index(name) for name in reference.names]
    ordered = TaskScores(task.scores[:, order], task.labels[:, order], reference.names)
    differing = ordered.labels != reference.labels
    if differing.any():
        row, column = np.argwhere(differing)[0]
        raise MLCAKError(
            f"{model.name!r} and {first.name!r} cannot be compared, their {which} labels differ in "
            f"{int(differing.sum())} places, first {reference.names[column]!r} of image {model.image_ids[row]!r}. "
            "Evaluate both with the same labels."
        )
    return ordered
