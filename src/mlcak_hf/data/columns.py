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

#: Entries of a list of findings that mean "no finding".
NO_FINDING = frozenset({"", "no finding", "no findings", "normal"})
#: Names of the labels 0 and 1 if the dataset does not name them.
DERIVED_LABELS = ["Normal", "Abnormal"]
_MISSING = -1.0


@dataclass(frozen=True)
class DatasetColumns:
    """
    Which column holds what. `None` or `"none"` means that there is no such column.

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
            Whether label and findings may both be `None`, as a teacher needs no labels. They are then missing (-1).
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
                remedy = "" if role == "image" else ', or "none" if there is none'
                raise DatasetError(
                    f"The dataset has no column {name!r} for the {role}; it has {dataset.column_names}. "
                    f"Name the {role} column{remedy}."
                )
        if self.label is None and self.findings is None and not self.unlabelled:
            raise DatasetError(
                "A dataset must have a label column or a findings column; both are none. Name one, or train a student "
                "without labels by a teacher (alpha, beta or gamma above 0)."
            )


def global_label_names(dataset: Dataset, columns: DatasetColumns) -> list[str]:
    """
    Names of the global labels, in the order of their ids.

    Args:
        dataset (`Dataset`):
            The training rows.
        columns ([`DatasetColumns`]):
            Which column holds what.

    Returns:
        `list[str]`: The names of a ClassLabel; the sorted texts of a text column; the fields of a struct; and
        `["Normal", "Abnormal"]` for 0 and 1, for probabilities, and if abnormal is derived from the findings.

    Raises:
        [`DatasetError`]: If the column is missing or has an unsupported type.
        [`LabelError`]: If there are fewer than two labels.
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
        if _is_text(feature):
            names = sorted(values)
        elif "int" in feature.dtype and max(values, default=0) > 1:
            names = [str(i) for i in range(max(values) + 1)]
        else:
            names = list(DERIVED_LABELS)
    if len(names) < 2:
        raise LabelError(f"The label column {columns.label!r} must hold at least two labels; got {names}.")
    return names


def has_several_labels(dataset: Dataset, columns: DatasetColumns) -> bool:
    """Whether the label column holds several labels per image (a struct or a list), for a multi-label head."""
    if columns.label is None:
        return False
    feature = dataset.features[columns.label]
    return isinstance(feature, dict) or _element(feature) is not feature


def finding_names(dataset: Dataset, columns: DatasetColumns) -> list[str]:
    """
    Names of the local findings of a dataset.

    Args:
        dataset (`Dataset`):
            The training rows.
        columns ([`DatasetColumns`]):
            Which column holds what.

    Returns:
        `list[str]`: The fields of a struct or the names of a ClassLabel in their order, or the sorted names in a list
        of names; entries such as "No finding" are left out. Empty without findings.

    Raises:
        [`DatasetError`]: If the column is missing or has an unsupported type.
    """
    columns.check(dataset)
    if columns.findings is None:
        return []
    return [name for name in _names_in(dataset, columns.findings) if name.strip().lower() not in NO_FINDING]


def is_annotated(value: Any, name: str) -> bool:
    """Whether a row says if a finding is present: a list always does, a struct unless it holds -1 or nothing."""
    if isinstance(value, Mapping):
        return _share(value.get(name)) >= 0
    return value is not None


class Targets:
    """
    Make the labels that a model's `forward` takes from the rows of a dataset.

    Args:
        config ([`MLCAKConfig`]):
            Configuration of the model; its names determine the order.
        dataset (`Dataset`):
            The training rows; the types of their columns determine how every later row is read.
        columns ([`DatasetColumns`]):
            Which column holds what.

    Raises:
        [`DatasetError`]: If a column is missing or has an unsupported type.
        [`LabelError`]: If the dataset has none of the model's findings, or labels of another kind than its head.
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
        """
        Global label of a row.

        Returns:
            `np.ndarray`: int64 of shape `()`, -1 if missing; or float32 of shape `(num_labels,)` for probabilities and
            multi-label heads.

        Raises:
            [`LabelError`]: If the model does not have the label.
        """
        if self.multi_label:
            value = None if self.columns.label is None else row[self.columns.label]
            return _several(value, self.label_names, self._label_ids or ())
        if self.columns.label is None:
            findings = None if self.columns.findings is None else row[self.columns.findings]
            # A teacher may know other labels, which cannot be derived from the findings.
            known = self.label_names == DERIVED_LABELS
            return np.asarray(self._abnormal(findings) if known else -1, dtype=np.int64)
        value = row[self.columns.label]
        if self.soft_labels:
            share = _share(value)
            return np.full(2, _MISSING, np.float32) if share < 0 else np.array([1 - share, share], np.float32)
        return np.asarray(self._label_id(value), dtype=np.int64)

    def local_targets(self, row: Mapping[str, Any]) -> np.ndarray:
        """
        Local findings of a row.

        Returns:
            `np.ndarray` of shape `(num_local_labels,)`: float32 in [0, 1], or -1 if missing. A finding that the dataset
            never names is missing, not absent.
        """
        value = row[self.columns.findings] if self.columns.findings is not None else None
        return _several(value, self.finding_names, self._finding_ids)

    def encode(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """
        Targets of all rows, made without decoding an image.

        Args:
            dataset (`Dataset`):
                Rows with the columns of the training rows.

        Returns:
            `dict[str, np.ndarray]`: `labels` of shape `(n,)` or `(n, num_labels)` and, if the model has findings,
            `local_targets` of shape `(n, num_local_labels)`.

        Raises:
            [`DatasetError`]: If a column is missing.
            [`LabelError`]: If the model does not have a row's label; the row is named.
        """
        self.columns.check(dataset)
        named = [name for name in (self.columns.label, self.columns.findings) if name is not None]
        targets: dict[str, list[np.ndarray]] = {"labels": []}
        if self.finding_names:
            targets["local_targets"] = []
        rows = dataset.select_columns(named).with_format(None) if named else ({} for _ in range(len(dataset)))
        for number, row in enumerate(rows):
            try:
                targets["labels"].append(self.labels(row))
                if self.finding_names:
                    targets["local_targets"].append(self.local_targets(row))
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
        """1 if the row has any finding (the model's or not), 0 if none, -1 if nothing was annotated."""
        if value is None:
            return -1
        if isinstance(value, Mapping):
            numbers = [number for number in value.values() if number is not None and number >= 0]
            return int(max(numbers) > 0.5) if numbers else -1
        return int(any(isinstance(entry, int) or entry.strip().lower() not in NO_FINDING for entry in value))


def _share(value: Any) -> float:
    """Return a number in [0, 1], or -1 if it is missing (None, NaN or negative)."""
    if value is None or value != value or value < 0:
        return _MISSING
    if value > 1:
        raise LabelError(f"A label must lie in [0, 1], or be -1 or empty if it is missing; got {value}.")
    return float(value)


def _several(value: Any, names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Return a vector of labels from a struct of numbers, or from a list of names or of indices into `known`."""
    if value is None:
        return np.full(len(names), _MISSING, np.float32)
    if isinstance(value, Mapping):
        return np.array([_share(value.get(name)) for name in names], np.float32)
    present = {known[entry] if isinstance(entry, int) else str(entry) for entry in value}
    return np.array([float(name in present) if name in known else _MISSING for name in names], np.float32)


def _names_in(dataset: Dataset, column: str) -> list[str]:
    """Names in a column of several labels or of ClassLabel ids."""
    feature = dataset.features[column]
    if isinstance(feature, dict):
        return list(feature)
    element = _element(feature)
    if isinstance(element, ClassLabel):
        return list(element.names)
    if element is feature or not _is_text(element):
        raise DatasetError(f"The column {column!r} must be a struct of numbers or a list of names; it is {feature}.")
    lists = dataset.select_columns([column]).with_format(None)[column]
    return sorted({name for row in lists for name in row or () if name is not None})


def _is_text(feature: Any) -> bool:
    # Columns of a CSV file are "large_string".
    return str(getattr(feature, "dtype", "")).endswith("string")


def _element(feature: Any) -> Any:
    """Type of a list's entries, or the feature itself if it is not a list."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", feature)
