"""A model's AUROC in parts of the test set: by view, sex, age, site or any other column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value
from numpy.typing import NDArray

from ...errors import DatasetError
from ..bootstrap import DrawWeights, MetricDraws, label_draws
from ..comparison import RARE, Estimate
from ..metrics import METRICS
from ..scores import TaskScores
from .record import Subgroup

#: Columns with more different numbers are divided into quarters.
_MOST_VALUES = 10


def check_subgroup_columns(rows: Dataset, names: Sequence[str]) -> None:
    """Check that columns can divide the images.

    Args:
        rows (`Dataset`):
            The images.
        names (`Sequence[str]`):
            Of the columns.

    Raises:
        [`DatasetError`]: When a column is missing, or holds lists, structs or images.
    """
    for name in names:
        if name not in rows.column_names:
            raise DatasetError(
                f"The dataset has no column {name!r} for --subgroup; it has {rows.column_names}. Name one of them."
            )
        if not isinstance(rows.features[name], Value | ClassLabel):
            raise DatasetError(
                f"A column for --subgroup must hold texts, numbers or class labels; {name!r} is {rows.features[name]}. "
                "Name another one."
            )


def values_of_column(values: Sequence[Any]) -> list[str]:
    """Name the subgroup of every image.

    Args:
        values (`Sequence` of length `n`):
            A column; `None`, `""` and NaN are "unknown". With more than ten different numbers, they are divided at
            their quartiles.

    Returns:
        `list[str]` of length `n`.
    """
    known = [value for value in values if value not in (None, "") and value == value]
    if len(set(known)) <= _MOST_VALUES or not all(isinstance(value, int | float) for value in known):
        return [str(value) if value not in (None, "") and value == value else "unknown" for value in values]
    edges = np.unique(np.quantile(np.asarray(known, dtype=float), (0, 0.25, 0.5, 0.75, 1)))
    last = len(edges) - 2
    names = [
        f"{low:g} to {'' if place == last else 'below '}{high:g}" for place, (low, high) in enumerate(pairwise(edges))
    ]
    return [
        "unknown"
        if value in (None, "") or value != value
        else names[min(int(np.searchsorted(edges, float(value), side="right")) - 1, len(names) - 1)]
        for value in values
    ]


def measure_subgroups(
    task: TaskScores, columns: Mapping[str, Sequence[Any]], groups: NDArray[np.intp], weights: DrawWeights
) -> tuple[Subgroup, ...]:
    """Measure every subgroup with at least ten patients in each class.

    Args:
        task ([`TaskScores`]):
            The global task.
        columns (`Mapping[str, Sequence]`):
            The columns, with one value per image.
        groups (`np.ndarray` of shape `(n,)`):
            From [`group_indices`].
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `tuple[Subgroup, ...]`: The others are listed without a number.
    """
    found = []
    for column, values in columns.items():
        named = np.asarray(values_of_column(values))
        for value in sorted(set(named.tolist())):
            rows = np.flatnonzero(named == value)
            found.append(_measure(column, value, task.take(rows), groups[rows], weights[rows]))
    return tuple(found)


def _measure(column: str, value: str, task: TaskScores, groups: NDArray[np.intp], weights: DrawWeights) -> Subgroup:
    fewest = np.array([min(len(set(groups[labels == wanted])) for wanted in (0, 1)) for labels in task.labels.T])
    scores, labels = task.column(0)
    counts = (len(task), len(set(groups)), int((labels == 1).sum()), float(scores.mean()) if len(scores) else None)
    usable = np.flatnonzero(fewest >= RARE)
    if not len(usable):
        return Subgroup(column, value, *counts, None, f"fewer than {RARE} patients in a class")
    kept = TaskScores(task.scores[:, usable], task.labels[:, usable], tuple(task.names[index] for index in usable))
    _, draws = label_draws("auroc", kept, weights)
    exact = float(np.mean([METRICS["auroc"](*kept.column(index)[::-1]) for index in range(len(usable))]))
    return Subgroup(column, value, *counts, Estimate.of_run(MetricDraws(exact, draws)))
