"""Columns of any dataset of radiographs -> the targets of an MLCAK model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value

from ..configuration_mlcak import GLOBAL_CLASS_NAMES, MLCAKConfig
from ..errors import DatasetError, LabelError
from ..probabilities import MULTI_LABEL

# Entries of a list of findings that mean "no finding".
_NO_FINDING = frozenset({"", "no finding", "no findings", "normal"})
# Names of the labels 0 and 1 if the dataset does not name them.
_DERIVED_LABELS = list(GLOBAL_CLASS_NAMES)
_MISSING = -1.0


@dataclass(frozen=True)
class DatasetColumns:
    """
    Names of the columns. `None` or `"none"`: no such column.

    Args:
        image (`str`, *optional*, defaults to `"image"`):
            Images.
        label (`str`, *optional*, defaults to `"label"`):
            Global label: a ClassLabel, name, integer, boolean, or the probability of label 1; for a multi-label head a
            struct of numbers or a list of names. `None`: abnormal if any finding is present.
        findings (`str`, *optional*, defaults to `"findings"`):
            Local findings: a struct of numbers by name (1 present, 0 absent, -1 missing), a list of names, or a list of
            ClassLabel ids.
        group (`str`, *optional*):
            Patient, or another group that a split must keep together.
        image_id (`str`, *optional*):
            Name of the image.
        unlabelled (`bool`, *optional*, defaults to `False`):
            Whether label and findings may both be `None`, for training with a teacher. They are then missing (-1).
    """

    image: str = "image"
    label: str | None = "label"
    findings: str | None = "findings"
    group: str | None = None
    image_id: str | None = None
    unlabelled: bool = False

    def __post_init__(self) -> None:
        # Command lines and recipes write "none".
        for name in ("label", "findings", "group", "image_id"):
            if str(getattr(self, name)).lower() in ("none", ""):
                object.__setattr__(self, name, None)

    def check(self, dataset: Dataset) -> None:
        """
        Check that the columns exist.

        Raises:
            [`DatasetError`]: If a column is missing, or if neither label nor findings are named and labels are needed.
        """
        for role in ("image", "label", "findings", "group", "image_id"):
            name = getattr(self, role)
            if name is not None and name not in dataset.column_names:
                raise DatasetError(
                    f"The dataset has no column {name!r} for the {role}; it has {dataset.column_names}. "
                    f'Name the {role} column, or "none" if it may be missing.'
                )
        if self.label is None and self.findings is None and not self.unlabelled:
            raise DatasetError(
                "A dataset must have a label column or a findings column; both are none. Name one, or train a student "
                "without labels by a teacher (alpha, beta or gamma above 0)."
            )


def global_labels(dataset: Dataset, columns: DatasetColumns) -> tuple[str, list[str]]:
    """
    Find out how a dataset gives the global label.

    Args:
        dataset (`Dataset`):
            The training rows.
        columns ([`DatasetColumns`]):
            Names of the columns.

    Returns:
        `tuple[str, list[str]]`: The kind of label: `"several"` per image, `"name"`, `"integer"`, `"probability"` of
        label 1, or `"derived"` from the findings. And the labels in the order of their ids: the fields of a struct, the
        names of a ClassLabel, the sorted texts of a text column, `"0"` to the largest integer, else
        `["Normal", "Abnormal"]`.

    Raises:
        [`DatasetError`]: If the column has an unsupported type.
    """
    if columns.label is None:
        return "derived", _DERIVED_LABELS
    names = _names_in(dataset, columns.label)
    if names is not None:
        return "several", names
    feature = dataset.features[columns.label]
    if isinstance(feature, ClassLabel):
        return "name", list(feature.names)
    # Other columns, such as lists and images, have no unique values.
    kind = feature.dtype if isinstance(feature, Value) else ""
    if not kind.endswith("string") and not kind.startswith(("float", "int", "uint", "bool")):
        raise DatasetError(
            f"The label column {columns.label!r} must hold names or numbers; it is {feature}. Name another column."
        )
    values = [value for value in dataset.unique(columns.label) if value not in (None, "")]
    if kind.endswith("string"):
        return "name", sorted(values)
    if kind.startswith("float"):
        return "probability", _DERIVED_LABELS
    largest = int(max(values, default=0))
    return "integer", [str(i) for i in range(largest + 1)] if largest > 1 else _DERIVED_LABELS


def finding_names(dataset: Dataset, columns: DatasetColumns) -> list[str]:
    """
    Names of the local findings of a dataset.

    Args:
        dataset (`Dataset`):
            The training rows.
        columns ([`DatasetColumns`]):
            Names of the columns.

    Returns:
        `list[str]`: The fields of a struct or the names of a ClassLabel in their order, or the sorted names in a list
        of names; entries such as "No finding" are left out. Empty without findings.

    Raises:
        [`DatasetError`]: If the column has an unsupported type.
    """
    if columns.findings is None:
        return []
    names = _names_in(dataset, columns.findings)
    if names is None:
        raise DatasetError(
            f"The column {columns.findings!r} must be a struct of numbers or a list of names; "
            f"it is {dataset.features[columns.findings]}."
        )
    return [name for name in names if _is_finding(name)]


class Targets:
    """
    Make the targets that a model's `forward` takes from the rows of a dataset.

    Args:
        config ([`MLCAKConfig`]):
            Configuration of the model; its names determine the order.
        dataset (`Dataset`):
            The training rows; the types of their columns determine how every later row is read.
        columns ([`DatasetColumns`]):
            Names of the columns.

    Raises:
        [`DatasetError`]: If a column has an unsupported type.
        [`LabelError`]: If the dataset has none of the model's findings, or labels that do not fit its head.
    """

    def __init__(self, config: MLCAKConfig, dataset: Dataset, columns: DatasetColumns) -> None:
        self.columns = columns
        self._labels, self._findings = config.global_labels, list(config.local_labels)
        self._kind, self._label_ids = global_labels(dataset, columns)
        self._finding_ids = [] if columns.findings is None else _names_in(dataset, columns.findings)
        known = finding_names(dataset, columns)
        if self._findings and not set(self._findings) & set(known) and (known or not columns.unlabelled):
            raise LabelError(
                f"The dataset has none of the model's findings {self._findings}; it has {known}. "
                "Name the findings to train on, or a model without local findings."
            )
        if self._kind == "probability" and len(self._labels) != 2:
            raise LabelError(
                f"The label column {columns.label!r} holds probabilities of label 1, so the model must have two global "
                f"labels; it has {self._labels}."
            )
        several = self._kind == "several"
        self._multi_label = config.problem_type == MULTI_LABEL
        if several != self._multi_label and not (columns.unlabelled and columns.label is None):
            raise LabelError(
                f"The label column {columns.label!r} holds {'several labels' if several else 'one label'} per image, "
                f"but the model's problem_type is {config.problem_type!r}: name another column, or use another model."
            )

    def encode(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """
        Targets of all rows, made without decoding an image.

        Args:
            dataset (`Dataset`):
                Rows with the columns of the training rows.

        Returns:
            `dict[str, np.ndarray]`: `labels`, int64 of shape `(n,)` (-1 if missing), or float32 of shape
            `(n, num_labels)` for probabilities and multi-label heads; and, if the model has findings, `local_targets`,
            float32 of shape `(n, num_local_labels)` in [0, 1], or -1 if missing. A finding that the dataset never names
            is missing, not absent.

        Raises:
            [`DatasetError`]: If a column is missing.
            [`LabelError`]: If the model does not have a row's label; the row is named.
        """
        self.columns.check(dataset)
        targets: dict[str, list[Any]] = {"labels": [], "local_targets": []}
        columns = (column_values(dataset, name) for name in (self.columns.label, self.columns.findings))
        for number, (label, findings) in enumerate(zip(*columns, strict=True)):
            try:
                findings = _by_name(findings, self._finding_ids or ())
                targets["labels"].append(self._encode_label(label, findings))
                targets["local_targets"].append(_ordered(findings, self._findings))
            except LabelError as error:
                raise LabelError(f"Row {number}: {error}") from None
        return {name: np.stack(values) for name, values in targets.items() if name == "labels" or self._findings}

    def _encode_label(self, value: Any, findings: Mapping[str, Any]) -> Any:
        if self._multi_label:
            return _ordered(_by_name(value, self._label_ids), self._labels)
        if self._kind == "probability":
            share = _share(value)
            return np.full(2, _MISSING, np.float32) if share < 0 else np.array([1 - share, share], np.float32)
        if self._kind == "derived":
            known = [n for name, n in findings.items() if n is not None and n >= 0 and _is_finding(name)]
            # A teacher may know other labels, which cannot be derived from the findings.
            return np.int64(max(known) > 0.5 if known and self._labels == _DERIVED_LABELS else -1)
        if value in (None, "", -1):
            return np.int64(-1)
        if self._kind == "integer" and 0 <= value < len(self._labels):
            return np.int64(value)
        name = self._label_ids[value] if self._kind == "name" and not isinstance(value, str) else str(value)
        if name not in self._labels:
            close = difflib.get_close_matches(name, self._labels, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise LabelError(f"The global label {name!r} is not one of the model's {self._labels}.{hint}")
        return np.int64(self._labels.index(name))


def column_values(dataset: Dataset, column: str | None) -> list[Any]:
    """All values of a column; `None` for every row if there is no such column."""
    if column is None:
        return [None] * len(dataset)
    return list(dataset.select_columns([column]).with_format(None)[column])


def is_annotated(value: Any, name: str) -> bool:
    """Whether a row says if a finding is present: a list always does, a struct unless it holds -1 or nothing."""
    return _share(value.get(name)) >= 0 if isinstance(value, Mapping) else value is not None


def _by_name(value: Any, known: Sequence[str]) -> Mapping[str, Any]:
    """A struct as it is, or a list of names or of indices into `known` as 0 and 1."""
    if value is None or isinstance(value, Mapping):
        return value or {}
    present = {known[entry] if isinstance(entry, int) else entry for entry in value}
    return {name: int(name in present) for name in {*known, *present}}


def _ordered(numbers: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    return np.array([_share(numbers.get(name)) for name in names], np.float32)


def _share(value: Any) -> float:
    if value is None or value != value or value < 0:
        return _MISSING
    if value > 1:
        raise LabelError(f"A label must lie in [0, 1], or be -1 or empty if it is missing; got {value}.")
    return float(value)


def _is_finding(name: str) -> bool:
    return name.strip().lower() not in _NO_FINDING


def _names_in(dataset: Dataset, column: str) -> list[str] | None:
    """Names in a column of structs, or of lists of names or ClassLabel ids; `None` for other columns."""
    feature = dataset.features[column]
    if isinstance(feature, dict):
        return list(feature)
    element = getattr(feature, "feature", None)
    if isinstance(element, ClassLabel):
        return list(element.names)
    # Columns of a CSV file are "large_string".
    if not str(getattr(element, "dtype", "")).endswith("string"):
        return None
    return sorted({name for row in column_values(dataset, column) for name in row or () if name is not None})
