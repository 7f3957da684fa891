"""VinDr-CXR's label names, and how the votes of several readers become training targets.

Each reader votes yes (1) or no (0) on 28 labels: 22 local findings and 6 global labels. The last global label is "No
finding". "Abnormal" is 1 - "No finding" of each reader and is aggregated like any other label, so "No finding" =
1 - abnormal for every aggregation. An image may be abnormal by majority although no single finding has a majority.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ..configuration_mlcak import VINDR_CXR_FINDINGS
from ..errors import LabelError
from .choices import VoteRule

NO_FINDING = "No finding"
GLOBAL_LABELS: tuple[str, ...] = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", NO_FINDING)
VINDR_CXR_LABELS: tuple[str, ...] = (*VINDR_CXR_FINDINGS, *GLOBAL_LABELS)
MISSING = -1

# The training table of VinDr-CXR spells it "Other diseases", its test table "Other disease".
_ALIASES = {"other disease": "other diseases"}
_VOTES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}  # spreadsheets write decimals


class Reading(NamedTuple):
    """The labels of one image by one reader.

    Args:
        reader (`str`):
            Pseudonym of the reader (`rad_id`); `""` if the source names none.
        votes (`tuple[int, ...]`):
            0 or 1 for each of the 28 labels, in the order of `VINDR_CXR_LABELS`.
    """

    reader: str
    votes: tuple[int, ...]

    @property
    def marked(self) -> list[str]:
        """Labels that the reader marked, in the order of `VINDR_CXR_LABELS`."""
        return [label for label, vote in zip(VINDR_CXR_LABELS, self.votes, strict=True) if vote]


def canonical_label(name: str, known: Sequence[str] = VINDR_CXR_LABELS) -> str:
    """Return the spelling of a label that this package uses.

    Args:
        name (`str`):
            A label. Spaces around it, letter case and VinDr-CXR's two spellings of "Other disease(s)" do not matter.
        known (`Sequence[str]`, *optional*, defaults to `VINDR_CXR_LABELS`):
            Labels to choose from.

    Returns:
        `str`: The label.

    Raises:
        [`LabelError`]: When there is no such label. The message suggests the most similar ones.
    """
    spelling = {label.casefold(): label for label in known}
    folded = " ".join(name.split()).casefold()
    folded = _ALIASES.get(folded, folded)
    if folded in spelling:
        return spelling[folded]
    similar = [repr(spelling[near]) for near in difflib.get_close_matches(folded, spelling, n=2)]
    hint = f"Did you mean {' or '.join(similar)}?" if similar else f"Known labels: {', '.join(known)}."
    raise LabelError(f"Unknown label {name!r}. {hint}")


def canonical_header(header: Sequence[str], other_columns: Sequence[str], table: str) -> list[str]:
    """Return the column names of a table of readings, with the labels in their canonical spelling.

    Args:
        header (`Sequence[str]`):
            The column names in the file.
        other_columns (`Sequence[str]`):
            Columns needed besides the 28 labels.
        table (`str`):
            Name of the table, for the message.

    Returns:
        `list[str]`: The column names, in the order of the file.

    Raises:
        [`LabelError`]: When a column is missing, unknown or repeated.
    """
    try:
        names = [name if name in other_columns else canonical_label(name) for name in header]
    except LabelError as error:
        raise LabelError(f"{table}: {error} Rename the column, or remove it.") from None
    repeated = [repr(name) for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise LabelError(f"{table}: the column {', '.join(repeated)} is there twice. Remove one of them.")
    missing = [repr(name) for name in (*other_columns, *VINDR_CXR_LABELS) if name not in names]
    if missing:
        remedy = (
            "Add zeros for a finding that the source never annotated, and leave it out of `annotated` (--annotated)"
        )
        raise LabelError(f"{table}: no column {', '.join(missing)}. {remedy}.")
    return names


def parse_vote(row: Mapping[str, str], column: str) -> int:
    """Return the vote, 0 or 1, in a cell of a table of readings.

    Raises:
        [`LabelError`]: When the cell holds anything else.
    """
    if row[column] not in _VOTES:
        raise LabelError(f"column {column!r} must hold 0 or 1; got {row[column]!r}")
    return _VOTES[row[column]]


def filled_cell(row: Mapping[str, str], column: str) -> str:
    """Return a cell that must not be empty.

    Raises:
        [`LabelError`]: When it is empty.
    """
    if not row[column]:
        raise LabelError(f"column {column!r} is empty")
    return row[column]


def resolve_annotated(annotated: Collection[str]) -> tuple[str, ...]:
    """Return the labels that a source annotated.

    Args:
        annotated (`Collection[str]`):
            Names of local and global labels.

    Returns:
        `tuple[str, ...]`: The labels in the order of `VINDR_CXR_LABELS`. "No finding" is always one of them, as normal
        and abnormal come from it.

    Raises:
        [`LabelError`]: When a label is unknown, or `annotated` is a string or empty.
    """
    if isinstance(annotated, str):
        raise LabelError(f"annotated must be a list of labels; got the single string {annotated!r}.")
    if not annotated:
        raise LabelError("annotated must name at least one label; got none. Leave it out if all were annotated.")
    named = {canonical_label(name) for name in annotated} | {NO_FINDING}
    return tuple(name for name in VINDR_CXR_LABELS if name in named)


def count_votes(readings: Sequence[Reading], annotated: Collection[str] = VINDR_CXR_LABELS) -> dict[str, int]:
    """Return how many readers marked each of the 28 labels; -1 for labels that are not `annotated`."""
    votes = map(sum, zip(*(reading.votes for reading in readings), strict=True))
    return {label: yes if label in annotated else MISSING for label, yes in zip(VINDR_CXR_LABELS, votes, strict=True)}


def aggregate(
    readings: Sequence[Reading], aggregation: VoteRule = "majority", annotated: Collection[str] = VINDR_CXR_LABELS
) -> dict[str, Any]:
    """Return the training targets of one image.

    Args:
        readings (`Sequence[Reading]`):
            One or more readings. A consensus, as in VinDr-CXR's test set, is a single reading.
        aggregation (`str`, *optional*, defaults to `"majority"`):
            `"majority"`: more than half of the readers said yes, so a tie is a no. `"any"`: at least one. `"all"`: all.
            `"mean"`: the share of the readers. `"none"`: as `"majority"`, for the images without a row per reader.
        annotated (`Collection[str]`, *optional*, defaults to all 28):
            Labels that the source annotated. The others are missing (-1), not negative.

    Returns:
        `dict`: The columns `label` (0 normal, 1 abnormal), `findings` and `global_labels` (dictionaries by label).
        Integers, or floats with `"mean"`.
    """
    number, votes = len(readings), count_votes(readings, annotated)
    needed = {"any": 1, "all": number}.get(aggregation, number // 2 + 1)

    def agreed(yes: int) -> float:
        return yes / number if aggregation == "mean" else int(yes >= needed)

    targets = {label: MISSING if yes == MISSING else agreed(yes) for label, yes in votes.items()}
    abnormal = agreed(number - votes[NO_FINDING])
    targets[NO_FINDING] = 1 - abnormal
    return {
        "label": abnormal,
        "findings": {name: targets[name] for name in VINDR_CXR_FINDINGS},
        "global_labels": {name: targets[name] for name in GLOBAL_LABELS},
    }
