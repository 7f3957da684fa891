"""Columns of any dataset of radiographs -> the targets of an MLCAK model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import ClassLabel, Dataset

from ..errors import DatasetError, LabelError

if TYPE_CHECKING:
    from ..configuration_mlcak import MLCAKConfig

#: Entries of a list of findings that say that there is none.
NO_FINDING = frozenset({"", "no finding", "no findings", "normal"})
#: Global labels where the dataset names none: of the numbers 0 and 1, or by whether there is any finding.
DERIVED_LABELS = ["Normal", "Abnormal"]
_MISSING = -1.0


@dataclass(frozen=True)
class DatasetColumns:
    """Which column holds what.

    Args:
        image: images.
        label: global label: ClassLabel, name, integer, boolean, or the probability of label 1; for a multi-label head a
            struct of numbers or a list of names. None: abnormal where any finding is present.
        findings: local findings: a struct of numbers by name (1 present, 0 absent, -1 missing), a list of names, or a
            list of ClassLabel ids. None: there are none.
        group: patient (or other group) that a split must keep together; None: every image is its own.
        image_id: name of the image; None: its place in the dataset.
        unlabelled: whether label and findings may both be None: then all labels are missing (-1), as is every finding
            of a model where the dataset has no findings. A teacher needs no labels.
    """

    image: str = "image"
    label: str | None = "label"
    findings: str | None = "findings"
    group: str | None = None
    image_id: str | None = None
    unlabelled: bool = False

    def __post_init__(self) -> None:
        # "none" is how a command line or a recipe says that there is no such column.
        for name in ("label", "findings", "group", "image_id"):
            if str(getattr(self, name)).lower() in ("none", ""):
                object.__setattr__(self, name, None)

    def check(self, dataset: Dataset) -> None:
        """Check that the columns exist.

        Raises:
            DatasetError: if one is missing, with what the dataset has, or if neither label nor findings are named where
                labels are needed.
        """
        for role in ("image", "label", "findings", "group", "image_id"):
            name = getattr(self, role)
            if name is not None and name not in dataset.column_names:
                remedy = "" if role == "image" else ' or "none" if there is none'
                raise DatasetError(
                    f"The dataset has no column {name!r} for the {role}; it has {dataset.column_names}. "
                    f"Name the {role} column{remedy}."
                )
        if self.label is None and self.findings is None and not self.unlabelled:
            raise DatasetError(
                "A dataset needs a label column or a findings column; both are none. Only with a teacher (alpha, beta "
                "or gamma above 0) can a student be trained without labels."
            )


def global_label_names(dataset: Dataset, columns: DatasetColumns) -> list[str]:
    """Names of the global labels, in the order of their ids.

    Args:
        dataset: the training rows.
        columns: which column holds what.

    Returns:
        The ClassLabel's names; the sorted names of a column of strings; `["Normal", "Abnormal"]` for numbers 0 and 1,
        for probabilities, and where abnormal follows from the findings; the fields of a struct.

    Raises:
        DatasetError: if the column is missing or of no usable kind.
        LabelError: if fewer than two labels occur.
    """
    columns.check(dataset)
    if columns.label is None:
        return list(DERIVED_LABELS)
    feature = dataset.features[columns.label]
    if has_several_labels(dataset, columns) or isinstance(feature, ClassLabel):
        names = _names_in(dataset, columns.label)
    else:
        labels = dataset.select_columns([columns.label]).unique(columns.label)
        values = [value for value in labels if value is not None and value != ""]
        if feature.dtype == "string":
            names = sorted(values)
        elif "int" in feature.dtype and max(values, default=0) > 1:
            names = [str(i) for i in range(max(values) + 1)]
        else:
            names = list(DERIVED_LABELS)
    if len(names) < 2:
        raise LabelError(f"The label column {columns.label!r} has fewer than two labels: {names}.")
    return names


def has_several_labels(dataset: Dataset, columns: DatasetColumns) -> bool:
    """Whether the label column holds several labels per image (a struct or a list), which needs a multi-label head."""
    if columns.label is None:
        return False
    feature = dataset.features[columns.label]
    return isinstance(feature, dict) or _element(feature) is not feature


def finding_names(dataset: Dataset, columns: DatasetColumns) -> list[str]:
    """Names of the local findings that a dataset knows.

    Args:
        dataset: the training rows.
        columns: which column holds what.

    Returns:
        The struct's fields or the ClassLabel's names in their order, or the sorted names in a list of names, without
        entries such as "No finding"; empty without findings.

    Raises:
        DatasetError: if the column is missing or of no usable kind.
    """
    columns.check(dataset)
    if columns.findings is None:
        return []
    return [name for name in _names_in(dataset, columns.findings) if name.strip().lower() not in NO_FINDING]


def is_annotated(value: Any, name: str) -> bool:
    """Whether a row's findings say yes or no to a finding: a list always does, a struct unless it holds -1 or none."""
    if isinstance(value, Mapping):
        return _share(value.get(name)) >= 0
    return value is not None


class Targets:
    """Rows of a dataset -> the labels that a model's forward takes.

    Args:
        config: the model's: its names decide the order.
        dataset: the training rows; what their columns are decides how every later row is read.
        columns: which column holds what.

    Raises:
        DatasetError: if a column is missing or of no usable kind.
        LabelError: if the dataset has a global label that the model does not have, or none of the model's findings.
    """

    def __init__(self, config: MLCAKConfig, dataset: Dataset, columns: DatasetColumns) -> None:
        self.columns = columns
        self.label_names = config.global_labels
        self.finding_names = list(config.local_labels)
        self.multi_label = config.problem_type == "multi_label_classification"
        known = finding_names(dataset, columns)
        without_findings = columns.unlabelled and not known
        if self.finding_names and not set(self.finding_names) & set(known) and not without_findings:
            raise LabelError(
                f"The dataset has none of the model's findings {self.finding_names}; it has {known}. "
                "Name the findings to train on, or a model without local findings."
            )
        self._finding_ids = [] if columns.findings is None else _names_in(dataset, columns.findings)
        feature = None if columns.label is None else dataset.features[columns.label]
        several = has_several_labels(dataset, columns)
        named = columns.label is not None and (several or isinstance(feature, ClassLabel))
        self._label_ids = _names_in(dataset, str(columns.label)) if named else None
        self.soft_labels = feature is not None and str(getattr(feature, "dtype", "")).startswith("float")
        if self.soft_labels and len(self.label_names) != 2:
            raise LabelError(
                f"The label column {columns.label!r} holds probabilities of label 1, so the model must have two global "
                f"labels; it has {self.label_names}."
            )
        if several != self.multi_label and not (columns.unlabelled and columns.label is None):
            raise LabelError(
                f"The label column {columns.label!r} holds {'several labels' if several else 'one label'} per image, "
                f"but the model's problem_type is {config.problem_type!r}: name another column, or use another model."
            )

    def labels(self, row: Mapping[str, Any]) -> np.ndarray:
        """Global label of a row.

        Returns:
            int64 of shape `()`, -1 missing; float32 of shape `(num_labels,)` for probabilities and multi-label heads.

        Raises:
            LabelError: if the row has a label that the model does not have.
        """
        if self.multi_label:
            value = None if self.columns.label is None else row[self.columns.label]
            return _several(value, self.label_names, self._label_ids or ())
        if self.columns.label is None:
            findings = None if self.columns.findings is None else row[self.columns.findings]
            # A teacher may have been trained for other labels, of which the findings say nothing.
            known = self.label_names == DERIVED_LABELS
            return np.asarray(self._abnormal(findings) if known else -1, dtype=np.int64)
        value = row[self.columns.label]
        if self.soft_labels:
            share = _share(value)
            return np.full(2, _MISSING, np.float32) if share < 0 else np.array([1 - share, share], np.float32)
        return np.asarray(self._label_id(value), dtype=np.int64)

    def local_labels(self, row: Mapping[str, Any]) -> np.ndarray:
        """Local findings of a row.

        Returns:
            float32 of shape `(num_local_labels,)` in [0, 1], -1 missing; a finding that the dataset never names is
            missing, not absent.
        """
        value = row[self.columns.findings] if self.columns.findings is not None else None
        return _several(value, self.finding_names, self._finding_ids)

    def encode(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """Targets of all rows, without decoding an image.

        Args:
            dataset: rows with the columns of the training rows.

        Returns:
            `labels` of shape `(n,)` or `(n, num_labels)` and, if the model has findings, `local_labels` `(n, F)`.

        Raises:
            DatasetError, LabelError: as above, with the row's number.
        """
        self.columns.check(dataset)
        named = [name for name in (self.columns.label, self.columns.findings) if name is not None]
        targets: dict[str, list[np.ndarray]] = {"labels": []}
        if self.finding_names:
            targets["local_labels"] = []
        rows = dataset.select_columns(named).with_format(None) if named else ({} for _ in range(len(dataset)))
        for number, row in enumerate(rows):
            try:
                targets["labels"].append(self.labels(row))
                if self.finding_names:
                    targets["local_labels"].append(self.local_labels(row))
            except LabelError as error:
                raise LabelError(f"Row {number}: {error}") from None
        return {name: np.stack(values) for name, values in targets.items()}

    def _label_id(self, value: Any) -> int:
        if value is None or value == "" or value == -1:
            return -1
        if isinstance(value, str):
            name = value
        elif self._label_ids is not None:
            name = self._label_ids[value]
        elif 0 <= int(value) < len(self.label_names):
            return int(value)
        else:
            name = str(value)
        if name not in self.label_names:
            close = difflib.get_close_matches(name, self.label_names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise LabelError(f"The global label {name!r} is not one of the model's {self.label_names}.{hint}")
        return self.label_names.index(name)

    def _abnormal(self, value: Any) -> int:
        """1 with any finding of the row (the model's or not), 0 with none, -1 where nothing was annotated."""
        if value is None:
            return -1
        if isinstance(value, Mapping):
            numbers = [number for number in value.values() if number is not None and number >= 0]
            return int(max(numbers) > 0.5) if numbers else -1
        return int(any(isinstance(entry, int) or entry.strip().lower() not in NO_FINDING for entry in value))


def _share(value: Any) -> float:
    """A number in [0, 1]; -1 where it is missing (None, not a number, negative)."""
    if value is None or value != value or value < 0:
        return _MISSING
    if value > 1:
        raise LabelError(f"A label must lie in [0, 1], or be -1 or empty where it is missing; got {value}.")
    return float(value)


def _several(value: Any, names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Vector of several labels from a struct of numbers, or from a list of names or of ids into `known`."""
    if value is None:
        return np.full(len(names), _MISSING, np.float32)
    if isinstance(value, Mapping):
        return np.array([_share(value.get(name)) for name in names], np.float32)
    present = {known[entry] if isinstance(entry, int) else str(entry) for entry in value}
    return np.array([float(name in present) if name in known else _MISSING for name in names], np.float32)


def _names_in(dataset: Dataset, column: str) -> list[str]:
    """Names that a column of several labels, or of ClassLabel ids, speaks of."""
    feature = dataset.features[column]
    if isinstance(feature, dict):
        return list(feature)
    element = _element(feature)
    if isinstance(element, ClassLabel):
        return list(element.names)
    if element is feature or getattr(element, "dtype", None) != "string":
        raise DatasetError(f"The column {column!r} must be a struct of numbers or a list of names; it is {feature}.")
    lists = dataset.select_columns([column]).with_format(None)[column]
    return sorted({name for row in lists for name in row or () if name is not None})


def _element(feature: Any) -> Any:
    """What a list holds; the feature itself where it is no list."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", feature)
