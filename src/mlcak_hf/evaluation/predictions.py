"""Predictions of one model on one split: saved, read, and put in the same order as those of other models."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MLCAKError
from .localisation import Localisation
from .scores import FloatArray, LabelArray, TaskScores

_FORMAT = 3
_WORDS = ("name", "image_ids", "groups", "run", "details")


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
        object.__setattr__(self, "image_ids", tuple(map(str, self.image_ids)))
        if self.groups is not None:
            object.__setattr__(self, "groups", tuple("" if group is None else str(group) for group in self.groups))
        counted: dict[str, Any] = {"scores": self.global_task, "local scores": self.local_task, "groups": self.groups}
        counted |= {f"localisations {name}": found.share for name, found in (self.localisation or {}).items()}
        owner = f"Predictions of {self.name!r} must have one"
        for what, values in counted.items():
            if values is not None and len(values) != len(self):
                raise MLCAKError(f"{owner} entry per image; got {len(self)} images and {len(values)} {what}.")
        twice = [image_id for image_id, count in Counter(self.image_ids).items() if count > 1]
        if twice:
            raise MLCAKError(f"{owner} entry per image; got {twice[0]!r} more than once. Name the column of image ids.")
        if self.thresholds is not None and self.thresholds.shape != (len(self.global_task.names),):
            raise MLCAKError(f"{owner} threshold per global label; got {self.thresholds.tolist()}.")

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
        local, found = self.local_task, self.localisation or {}
        arrays = {"global_scores": self.global_task.scores, "global_labels": self.global_task.labels}
        if self.global_task.folds is not None:
            arrays["folds"] = self.global_task.folds
        if local is not None:
            arrays |= {"local_scores": local.scores, "local_labels": local.labels}
        if self.thresholds is not None:
            arrays["thresholds"] = self.thresholds
        if found:
            arrays["localisation"] = np.stack(list(found.values()))
        words = {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in _WORDS},
            "global_names": self.global_task.names,
            "finding_names": None if local is None else local.names,
            "localised": list(found),
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
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            words = json.loads(str(arrays["words"]))
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise MLCAKError(f"{path} is not a file of predictions ({error}). Evaluate the model again.") from error
        if words["format"] != _FORMAT:
            raise MLCAKError(f"{path} must have format {_FORMAT}; got {words['format']}. Evaluate the model again.")
        names, local, folds = words["finding_names"], None, arrays.get("folds")
        if names is not None:
            local = TaskScores(arrays["local_scores"], arrays["local_labels"], tuple(names), folds)
        found = zip(words["localised"], arrays.get("localisation", ()), strict=True)
        return cls(
            **{name: words[name] for name in _WORDS},
            global_task=TaskScores(
                arrays["global_scores"], arrays["global_labels"], tuple(words["global_names"]), folds
            ),
            local_task=local,
            thresholds=arrays.get("thresholds"),
            localisation={name: Localisation(*each) for name, each in found} or None,
        )


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
    reference = models[0]
    aligned = []
    for model in models:
        ordered = model.take(_order(model.name, model.image_ids, reference.image_ids, "images"))
        if reference.groups is None:
            reference = replace(reference, groups=ordered.groups)
        # The first model with a local head sets the order of the findings.
        if reference.local_task is None:
            reference = replace(reference, local_task=ordered.local_task)
        if ordered.groups not in (None, reference.groups):
            raise _cannot_compare(model.name, "it puts the same images into different groups")
        ours, theirs = (
            None if task.folds is None else task.folds.tolist() for task in (ordered.global_task, reference.global_task)
        )
        if ours != theirs:
            raise _cannot_compare(model.name, "its images were predicted in other folds")
        global_task = _align_task("global labels", ordered, ordered.global_task, reference.global_task)
        if ordered.local_task is not None and reference.local_task is not None:
            local_task = _align_task("local labels", ordered, ordered.local_task, reference.local_task)
            ordered = replace(ordered, local_task=local_task)
        aligned.append(replace(ordered, global_task=global_task))
    return [replace(model, groups=reference.groups) for model in aligned]


def _align_task(what: str, model: ModelPredictions, task: TaskScores, reference: TaskScores) -> TaskScores:
    """Put the columns in the reference's order, after checking that names and labels are equal."""
    order = _order(model.name, task.names, reference.names, what)
    ordered = TaskScores(task.scores[:, order], task.labels[:, order], reference.names, task.folds)
    for row, column in np.argwhere(ordered.labels != reference.labels)[:1]:
        where = f"first {reference.names[column]!r} of image {model.image_ids[row]!r}"
        raise _cannot_compare(model.name, f"its {what} differ, {where}")
    return ordered


def label_scores(runs: Sequence[ModelPredictions], metric: str) -> tuple[FloatArray, LabelArray] | None:
    """Scores and labels behind a metric that is the AUROC of one label.

    Args:
        runs (`Sequence[ModelPredictions]`):
            Aligned predictions.
        metric (`str`):
            Such as `"auroc_global"` or `"auroc/<finding>"`.

    Returns:
        `tuple`: Scores of shape `(n, runs)` and labels of shape `(n,)`; `None` for other metrics and for means over
        several labels.
    """
    family, _, label = metric.partition("/")
    tasks = [run.local_task if family == "auroc" else run.global_task for run in runs]
    found = [task for task in tasks if task is not None]
    if family not in ("auroc", "auroc_global") or not found or (not label and len(found[0].names) > 1):
        return None
    column = found[0].names.index(label) if label else 0
    return np.stack([task.scores[:, column] for task in found], axis=1), found[0].labels[:, column]


def _order(name: str, found: Sequence[str], expected: Sequence[str], what: str) -> NDArray[np.intp]:
    """Place of each expected entry among those found, which must be the same."""
    differing = sorted(set(found) ^ set(expected))
    if differing:
        raise _cannot_compare(name, f"its {what} differ, such as {differing[0]!r}")
    place = {entry: index for index, entry in enumerate(found)}
    return np.array([place[entry] for entry in expected], dtype=np.intp)


def _cannot_compare(name: str, why: str) -> MLCAKError:
    return MLCAKError(
        f"{name!r} cannot be compared with the models before it: {why}. Evaluate all on the same split and columns."
    )
