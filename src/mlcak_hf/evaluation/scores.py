"""Scores and labels of a task, the basis of every metric: one column of each per label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import LabelError, MLCAKError
from ..probabilities import MULTI_LABEL, SINGLE_LABEL

FloatArray = NDArray[np.float64]
LabelArray = NDArray[np.int8]


@dataclass(frozen=True)
class TaskScores:
    """Scores and labels of one task, one column per label.

    Args:
        scores (`np.ndarray` of shape `(n, labels)`, float64):
            Probabilities. Ranking metrics take any score.
        labels (`np.ndarray` of shape `(n, labels)`, int8):
            1 present, 0 absent, -1 missing.
        names (`tuple[str, ...]`):
            Name of each column.
        folds (`np.ndarray` of shape `(n,)`, *optional*):
            Fold of each image, if the scores of each fold come from a model of its own. Ranking metrics then compare
            only images of the same fold, because the models of two folds scale their scores differently.

    Raises:
        [`MLCAKError`]: When shapes disagree, a name occurs twice, or a score is not finite.
        [`LabelError`]: When a label is not 1, 0 or -1.
    """

    scores: FloatArray
    labels: LabelArray
    names: tuple[str, ...]
    folds: NDArray[np.intp] | None = None

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or self.scores.shape != self.labels.shape or self.scores.shape[1] != len(self.names):
            raise MLCAKError(
                f"Scores and labels must have one column per name; got scores {self.scores.shape}, labels "
                f"{self.labels.shape} and {len(self.names)} names."
            )
        if self.folds is not None and self.folds.shape != (len(self.scores),):
            raise MLCAKError(f"There must be a fold for each of {len(self.scores)} images; got {self.folds.shape}.")
        if len(set(self.names)) != len(self.names):
            raise MLCAKError(f"Label names must differ; got {', '.join(self.names)}.")
        if not np.isfinite(self.scores).all():
            raise MLCAKError(
                "Scores must be finite; got NaN or infinity. The model has diverged: lower the learning rate."
            )
        if not np.isin(self.labels, (-1, 0, 1)).all():
            raise LabelError("Labels must be 1 (present), 0 (absent) or -1 (missing). Apply `hard_labels` first.")

    def __len__(self) -> int:
        return len(self.scores)

    def column(self, index: int | np.integer[Any]) -> tuple[FloatArray, LabelArray]:
        """Select the scores and labels of one label without missing ones, each of shape `(valid,)`."""
        valid = self.labels[:, index] >= 0
        return self.scores[valid, index], self.labels[valid, index]

    def class_counts(self) -> NDArray[np.int64]:
        """Count the images without and with each label, in shape `(labels, 2)`; missing labels count in neither."""
        return np.stack([(self.labels == 0).sum(axis=0), (self.labels == 1).sum(axis=0)], axis=1)

    @property
    def both_classes(self) -> NDArray[np.bool_]:
        """Whether a label has images of both classes, with folds in at least one of them, of shape `(labels,)`."""
        folds = np.zeros(len(self), dtype=np.intp) if self.folds is None else self.folds
        of_folds = [self.labels[folds == fold] for fold in np.unique(folds)]
        found = [(labels == 0).any(axis=0) & (labels == 1).any(axis=0) for labels in of_folds]
        return np.asarray(np.any([np.zeros(len(self.names), dtype=bool), *found], axis=0))

    def take(self, rows: NDArray[Any]) -> TaskScores:
        """Select images, by indices or a mask."""
        folds = None if self.folds is None else self.folds[rows]
        return TaskScores(self.scores[rows], self.labels[rows], self.names, folds)


def hard_labels(labels: ArrayLike) -> LabelArray:
    """Turn soft labels into present, absent or missing.

    A label is present if it is above one half (a tie of readers is not a finding), and missing if it is negative (-1 in
    datasets, -100 in padding).

    Args:
        labels (array-like of any shape):
            Values in [0, 1], negative if missing.

    Returns:
        `np.ndarray` of the same shape, int8: 1, 0 or -1.

    Raises:
        [`LabelError`]: When a label is above 1 or NaN.

    Example:

    ```python
    >>> hard_labels([1.0, 0.5, 0.67, -1.0])
    array([ 1,  0,  1, -1], dtype=int8)
    ```
    """
    array = np.asarray(labels, dtype=np.float64)
    if np.isnan(array).any() or (array > 1).any():
        worst = "NaN" if np.isnan(array).any() else f"{np.nanmax(array):g}"
        raise LabelError(f"Labels must be in [0, 1], or negative if missing; got {worst}.")
    return np.where(array < 0, -1, array > 0.5).astype(np.int8)


def local_scores(scores: ArrayLike, labels: ArrayLike, names: Sequence[str]) -> TaskScores:
    """Make the task of the local findings.

    Args:
        scores (array-like of shape `(n, findings)`):
            Probabilities.
        labels (array-like of shape `(n, findings)`):
            Labels in [0, 1], -1 if missing; soft labels go through [`hard_labels`].
        names (`Sequence[str]`):
            Names of the findings.

    Returns:
        [`TaskScores`]
    """
    return TaskScores(np.asarray(scores, dtype=np.float64), hard_labels(labels), tuple(names))


def global_scores(
    scores: ArrayLike, labels: ArrayLike, names: Sequence[str] | None = None, problem_type: str = SINGLE_LABEL
) -> TaskScores:
    """Make the task of the global labels.

    - Single label, two classes: one column, the probability of the second class ("Abnormal").
    - Single label, more classes: one column per class, against the rest.
    - Multi-label: one column per label.

    Args:
        scores (array-like of shape `(n,)`, `(n, 1)` or `(n, classes)`):
            Probabilities.
        labels (array-like of shape `(n,)` or `(n, classes)`):
            Class indices, -1 if missing; or soft targets, in which a negative entry marks the whole row (single label)
            or itself (multi-label) as missing.
        names (`Sequence[str]`, *optional*):
            Class names; "Abnormal" for a binary task by default, otherwise the indices.
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`):
            `"single_label_classification"` or `"multi_label_classification"`.

    Returns:
        [`TaskScores`]

    Raises:
        [`MLCAKError`]: When the shapes fit none of the cases above.
    """
    score_array = np.asarray(scores, dtype=np.float64)
    label_array = np.asarray(labels, dtype=np.float64)
    if np.isnan(label_array).any():
        raise LabelError("Global labels must not be NaN. Write -1 for a missing label.")
    if score_array.ndim == 1:
        score_array = score_array[:, None]
    classes = score_array.shape[1]
    names = None if names is None else tuple(names)
    if problem_type != MULTI_LABEL:
        label_array = _class_indices(label_array, max(classes, 2))
        if classes <= 2:
            score_array, names = score_array[:, -1:], ("Abnormal",) if names is None else names[-1:]
        else:
            label_array = np.where(label_array < 0, -1, label_array == np.arange(classes))
    labels = hard_labels(label_array.reshape(-1, score_array.shape[1]))
    return TaskScores(score_array, labels, tuple(map(str, range(classes))) if names is None else names)


def _class_indices(labels: FloatArray, classes: int) -> FloatArray:
    """Class of each image, of shape `(n, 1)`, from indices or soft labels; -1 if missing."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        if labels.shape[1] != classes:
            raise MLCAKError(f"Soft labels must have {classes} columns, one per class; got {labels.shape[1]}.")
        # The likelier class; for two classes a tie is "not present", as in `hard_labels`.
        labels = np.where((labels < 0).any(axis=1), -1.0, labels.argmax(axis=1))
    if labels.max(initial=-1) >= classes:
        raise LabelError(f"Class indices must be below {classes}; got {labels.max():g}.")
    return labels.reshape(-1, 1)


def undefined_labels(global_task: TaskScores, local_task: TaskScores | None) -> dict[str, list[str]]:
    """List the labels without a curve, those of the global task as `global/<label>`.

    Args:
        global_task ([`TaskScores`]):
            The global task.
        local_task ([`TaskScores`], *optional*):
            The local findings.

    Returns:
        `dict[str, list[str]]`: `single_class_labels` have one class only, `unannotated_labels` are always missing.
    """
    found: dict[str, list[str]] = {"single_class_labels": [], "unannotated_labels": []}
    for task, prefix in ((global_task, "global/"), (local_task, "")):
        if task is None:
            continue
        for name, counts, defined in zip(task.names, task.class_counts(), task.both_classes, strict=True):
            if not defined:
                found["single_class_labels" if counts.any() else "unannotated_labels"].append(prefix + name)
    return found
