"""Which images of a dataset are evaluated, and how its label column is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasets import ClassLabel, DatasetDict, Value

from ...data.columns import column_values, global_labels
from ...data.sources import open_dataset
from ...errors import DatasetError, RecipeError
from ...training.training_images import is_trained_on
from ..arguments import NO_SPLIT, EvaluatedModel, EvaluationArguments, EvaluationData


def open_for_model(args: EvaluationArguments, model: EvaluatedModel) -> EvaluationData:
    """Open a dataset, and choose what to evaluate if no split was named.

    Args:
        args ([`EvaluationArguments`]):
            The dataset; `split` is empty if none was named.
        model ([`EvaluatedModel`]):
            The model. Without a findings column, only its global label is evaluated.

    Returns:
        [`EvaluationData`]
    """
    given = vars(args)  # Options that were not given are None until the model's training fills them in.
    available = next(iter(open_dataset(args.dataset, args.image_column).values())).column_names
    named = given["findings_column"] or model.training_options.get("findings_column") or "findings"
    if given["findings_column"] is None and named not in available:
        args = replace(args, findings_column="none")
    data = EvaluationData.open(args, [model])
    split = args.split or choose_split(data, model)
    # Thresholds come from the validation rows of the same dataset, unless these are evaluated.
    with_validation = split not in ("train", "validation") and {"validation", "train"} & set(data.splits)
    chosen = replace(data.args, split=split, threshold_split="validation" if with_validation else NO_SPLIT)
    return findings_may_be_missing(replace(data, args=chosen))


def findings_may_be_missing(data: EvaluationData) -> EvaluationData:
    """Without a column of findings, take the model's findings as missing, which is an error elsewhere."""
    columns = replace(data.columns, unlabelled=data.columns.findings is None and data.columns.label is not None)
    return replace(data, columns=columns)


def choose_split(data: EvaluationData, model: EvaluatedModel) -> str:
    """Choose what to evaluate: the split `test`, or a single split that the model was not trained on as a whole.

    Of a single split that the model was trained on, the fold or the validation rows that its training set aside.

    Args:
        data ([`EvaluationData`]):
            The opened dataset.
        model ([`EvaluatedModel`]):
            The model.

    Raises:
        [`DatasetError`]: When there are several splits and none is called `test`.
    """
    names = list(data.splits)
    if "test" in names:
        return "test"
    if "fold" in names:
        return "fold"
    if len(names) > 1:
        raise DatasetError(f"{data.args.dataset} has the splits {', '.join(names)}. Name one of them with --split.")
    rows, args = data.splits[names[0]], data.args
    trained_on = names == ["train"] and is_trained_on(model.folder, args.dataset, rows, args.image_column)
    return "validation" if trained_on else names[0]


def renamed_labels(data: EvaluationData, known: Sequence[str], renamed: Sequence[str]) -> DatasetDict:
    """Write the names in the label column as the model writes them.

    Args:
        data ([`EvaluationData`]):
            The opened dataset.
        known (`Sequence[str]`):
            The model's global labels. Names that differ in case only are recognized.
        renamed (`Sequence[str]`):
            `name=label` for other names.

    Returns:
        `DatasetDict`: Unchanged if the label column has no names.

    Raises:
        [`RecipeError`]: When a name is not one of the model's labels.
    """
    column, first = data.columns.label, next(iter(data.splits.values()))
    kind = global_labels(data.splits.get("train", first), data.columns)[0]
    if column is None or kind != "name":
        if renamed:
            raise RecipeError("--rename_label is for a label column with names; this one has numbers.")
        return data.splits
    feature = first.features[column]
    in_splits = [name for rows in data.splits.values() if column in rows.column_names for name in rows.unique(column)]
    found = feature.names if isinstance(feature, ClassLabel) else list(dict.fromkeys(filter(None, in_splits)))
    names = {name: label for name in found for label in known if str(name).lower() == label.lower()}
    for given in renamed:
        name, _, label = given.partition("=")
        if label not in known:
            raise RecipeError(f"--rename_label must be name=label with one of {list(known)}; got {given!r}.")
        names[name] = label
    missing = sorted(set(map(str, found)) - set(names))
    if missing:
        raise RecipeError(
            f"The label column {column!r} holds {missing[0]!r}, but the model's labels are {list(known)}. Say which "
            f"one it is with --rename_label {missing[0]}=LABEL."
        )

    def rename(value: Any) -> str:
        if isinstance(feature, ClassLabel) and isinstance(value, int):
            return "" if value < 0 else names[feature.names[value]]
        return names.get(value, "")

    if all(name == label for name, label in names.items()):
        return data.splits
    return DatasetDict(
        {
            split: rows.remove_columns(column).add_column(
                column, [rename(value) for value in column_values(rows, column)], feature=Value("string")
            )
            for split, rows in data.splits.items()
        }
    )
