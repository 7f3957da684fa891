"""What one model said about one split: saved, read back, and put in the same order as other models' predictions."""

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

FORMAT = 1


@dataclass(frozen=True)
class ModelPredictions:
    """Predictions of one trained model on one split.

    Args:
        name (`str`):
            Row of the comparison. Several trained models (seeds) of one row share the name and differ in `run`.
        image_ids (`Sequence[str]` of length `n`):
            Which image each score belongs to, each different: models are paired by them.
        global_task ([`TaskScores`]):
            Probabilities and labels of the global task, from [`global_scores`].
        local_task ([`TaskScores`], *optional*):
            The same of the local findings, from [`local_scores`]; `None` for a model without a local head.
        groups (`Sequence[str]` of length `n`, *optional*):
            Patient of each image; `None` where unknown, then every image is its own group.
        description (`str`): What the row is, in words.
        run (`str`): Tells the runs of a row apart; runs of different rows with the same value are paired.
        thresholds (`np.ndarray` of shape `(global labels,)`, *optional*):
            Operating thresholds, chosen on the validation split ([`operating_thresholds`]).
        localisation ([`Localisation`], *optional*): Attention against boxes, if the split has any.
        details (`dict`): Anything that JSON can hold, such as the model's folder and input size.

    Raises:
        MLCAKError: Lengths that disagree, or an image id twice.
    """

    name: str
    image_ids: Sequence[str]
    global_task: TaskScores
    local_task: TaskScores | None = None
    groups: Sequence[str] | None = None
    description: str = ""
    run: str = ""
    thresholds: FloatArray | None = None
    localisation: Localisation | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [str(image_id) for image_id in self.image_ids]
        object.__setattr__(self, "image_ids", tuple(ids))
        if self.groups is not None:
            object.__setattr__(self, "groups", tuple(str(group) for group in self.groups))
        lengths = {
            "image_ids": len(ids),
            "global scores": len(self.global_task),
            "local scores": None if self.local_task is None else len(self.local_task),
            "groups": None if self.groups is None else len(self.groups),
            "localisation": None if self.localisation is None else len(self.localisation.share),
        }
        if len({length for length in lengths.values() if length is not None}) > 1:
            found = ", ".join(f"{length} {name}" for name, length in lengths.items() if length is not None)
            raise MLCAKError(f"predictions of {self.name!r} must have one entry per image each, got {found}")
        if len(set(ids)) != len(ids):
            twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
            raise MLCAKError(f"predictions of {self.name!r} hold image {twice!r} more than once; evaluate by image")
        if self.thresholds is not None and self.thresholds.shape != (len(self.global_task.names),):
            raise MLCAKError(
                f"predictions of {self.name!r} need one threshold per global label ({len(self.global_task.names)}), "
                f"got shape {self.thresholds.shape}"
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, rows: NDArray[np.intp]) -> ModelPredictions:
        """The same predictions for the chosen images, in that order."""
        return replace(
            self,
            image_ids=[self.image_ids[row] for row in rows],
            global_task=self.global_task.take(rows),
            local_task=None if self.local_task is None else self.local_task.take(rows),
            groups=None if self.groups is None else [self.groups[row] for row in rows],
            localisation=None if self.localisation is None else self.localisation.take(rows),
        )

    def save(self, path: str | Path) -> None:
        """Write to one `.npz` file (numbers and plain strings only, nothing pickled)."""
        arrays: dict[str, NDArray[Any]] = {"image_ids": np.asarray(self.image_ids, dtype=np.str_)}
        arrays |= {"global_scores": self.global_task.scores, "global_labels": self.global_task.labels}
        if self.local_task is not None:
            arrays |= {"local_scores": self.local_task.scores, "local_labels": self.local_task.labels}
        if self.groups is not None:
            arrays["groups"] = np.asarray(self.groups, dtype=np.str_)
        if self.thresholds is not None:
            arrays["thresholds"] = self.thresholds
        if self.localisation is not None:
            found = self.localisation
            arrays["localisation"] = np.stack([found.share, found.area, found.hit, found.chance])
        words = {
            "format": FORMAT,
            "name": self.name,
            "description": self.description,
            "run": self.run,
            "details": self.details,
            "global_names": self.global_task.names,
            "finding_names": None if self.local_task is None else self.local_task.names,
        }
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Through a handle: numpy would append ".npz" to any other name.
        with path.open("wb") as handle:
            np.savez_compressed(handle, words=np.asarray(json.dumps(words)), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> ModelPredictions:
        """Read what `save` wrote.

        Raises:
            MLCAKError: No such file, or a file that holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise MLCAKError(f"no predictions file {path}; examples/evaluation/evaluate_models.py writes one per model")
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
            words = json.loads(str(arrays["words"]))
            if words["format"] != FORMAT:
                raise MLCAKError(f"{path} has format {words['format']}, this version reads {FORMAT}; evaluate again")
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
                description=words["description"],
                run=words["run"],
                thresholds=arrays.get("thresholds"),
                localisation=Localisation(*arrays["localisation"]) if "localisation" in arrays else None,
                details=words["details"],
            )
        except MLCAKError:
            raise
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise MLCAKError(f"{path} is not a predictions file of mlcak-hf ({error}); evaluate again") from error


def align(models: Sequence[ModelPredictions]) -> list[ModelPredictions]:
    """Put the predictions of several models in the order of the first, image by image and finding by finding.

    Args:
        models (`Sequence[ModelPredictions]`): At least one.

    Returns:
        The same models, all with the images (and groups) of the first one in its order.

    Raises:
        MLCAKError: Other images, other labels of the same images, other label names, or other groups: such rows
            cannot be compared.
    """
    if not models:
        raise MLCAKError("there are no predictions to compare")
    first = models[0]
    row_of = {image_id: row for row, image_id in enumerate(first.image_ids)}
    aligned = []
    for model in models:
        _same(set(model.image_ids), set(first.image_ids), "images", model, first)
        rows = np.empty(len(first), dtype=np.intp)
        rows[[row_of[image_id] for image_id in model.image_ids]] = np.arange(len(first))
        aligned.append(model.take(rows))
    groups = next((model.groups for model in aligned if model.groups is not None), None)
    # The first model with a local head sets the order of the findings; rows without one take no part.
    local = next((model for model in aligned if model.local_task is not None), None)
    result = []
    for model in aligned:
        changes: dict[str, Any] = {"groups": groups}
        if model.groups is not None and model.groups != groups:
            raise MLCAKError(f"{model.name!r} and {first.name!r} put the same images into different groups")
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
        f"{model.name!r} and {first.name!r} cannot be compared, their {what} differ: {' and '.join(parts)}; "
        "evaluate both on the same split of the same dataset"
    )


def _same_task(
    task: TaskScores, reference: TaskScores, which: str, model: ModelPredictions, first: ModelPredictions
) -> TaskScores:
    """The task with its columns in the reference's order, once names and labels are known to be the same."""
    _same(set(task.names), set(reference.names), f"{which} labels", model, first)
    order = [task.names.index(name) for name in reference.names]
    ordered = TaskScores(task.scores[:, order], task.labels[:, order], reference.names)
    differing = ordered.labels != reference.labels
    if differing.any():
        row, column = np.argwhere(differing)[0]
        raise MLCAKError(
            f"{model.name!r} and {first.name!r} cannot be compared, their {which} labels differ in "
            f"{int(differing.sum())} places, first {reference.names[column]!r} of image {model.image_ids[row]!r}: "
            "evaluate both with the same labels"
        )
    return ordered
