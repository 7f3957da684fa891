"""VinDr-CXR's label names, and how the votes of several readers become training targets. Pure: no files here.

Every reader says yes (1) or no (0) to 28 labels: 22 local findings and 6 global ones, of which the last is "No
finding". "Abnormal" is taken per reader (1 - "No finding") and aggregated like any other label, so that "No finding" =
1 - abnormal whatever the aggregation is. An image may be abnormal by majority while no single finding has a majority.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from ..configuration_mlcak import VINDR_CXR_FINDINGS
from ..errors import LabelError
from ..preparation.tables import EMPTY_CELLS

Aggregation = Literal["majority", "any", "all", "mean", "none"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)

NO_FINDING = "No finding"
GLOBAL_LABELS: tuple[str, ...] = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", NO_FINDING)
VINDR_CXR_LABELS: tuple[str, ...] = (*VINDR_CXR_FINDINGS, *GLOBAL_LABELS)

MISSING = -1
NORMAL, ABNORMAL = 0, 1
GLOBAL_CLASS_NAMES: tuple[str, str] = ("Normal", "Abnormal")

# The training table of VinDr-CXR says "Other diseases", its test table "Other disease": one label, two spellings.
_ALIASES = {"Other disease": "Other diseases"}
_NO_FINDING_INDEX = VINDR_CXR_LABELS.index(NO_FINDING)


@dataclass(frozen=True)
class Reading:
    """What one reader said about one image.

    Args:
        reader: Pseudonym of the reader (VinDr-CXR's `rad_id`); "" where the source names none.
        votes: 0 or 1 for each of the 28 labels, in the order of `VINDR_CXR_LABELS`.
    """

    reader: str
    votes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.votes) != len(VINDR_CXR_LABELS):
            raise LabelError(f"a reading holds {len(VINDR_CXR_LABELS)} votes, but {len(self.votes)} came")

    @property
    def abnormal(self) -> int:
        """1 - "No finding" of this reader."""
        return 1 - self.votes[_NO_FINDING_INDEX]

    @property
    def contradiction(self) -> str | None:
        """Names of the labels that this reader marked beside "No finding", or None where the reading is consistent."""
        if self.abnormal:
            return None
        marked = [name for name, vote in zip(VINDR_CXR_LABELS, self.votes, strict=True) if vote and name != NO_FINDING]
        return ", ".join(marked) or None


@dataclass(frozen=True)
class ImageLabels:
    """Targets of one image, or of one reading of it: ints (0, 1, -1 missing), or floats after aggregation="mean".

    Args:
        label: 0 normal, 1 abnormal; the share of readers who called it abnormal after aggregation="mean".
        findings: The 22 local findings, by name in VinDr-CXR's column order.
        global_labels: The 6 global labels by name; "No finding" is always 1 - `label`.
        votes: For each of the 28 labels the number of readers who said yes, -1 where the source never annotated it.
        num_readers: How many readings `votes` counts.
    """

    label: float
    findings: dict[str, float]
    global_labels: dict[str, float]
    votes: dict[str, int]
    num_readers: int


@lru_cache(maxsize=8)
def _by_folded_name(known: tuple[str, ...]) -> dict[str, str]:
    aliases = {alias.casefold(): name for alias, name in _ALIASES.items() if name in known}
    return aliases | {label.casefold(): label for label in known}


def canonical_label(name: str, known: Sequence[str] = VINDR_CXR_LABELS) -> str:
    """Spell a label as this package does.

    Args:
        name: A label as a table or a person writes it. Spaces around it, letter case and VinDr-CXR's two spellings of
            "Other disease(s)" do not matter; nothing is matched by a part of the name.
        known: The names to choose from.

    Returns:
        The member of `known` that is meant.

    Raises:
        LabelError: No such label; names the nearest ones and all that are known.
    """
    by_folded = _by_folded_name(tuple(known))
    folded = " ".join(name.split()).casefold()
    if folded in by_folded:
        return by_folded[folded]
    near = difflib.get_close_matches(folded, by_folded, n=2, cutoff=0.6)
    hint = f" Did you mean {' or '.join(repr(by_folded[n]) for n in dict.fromkeys(near))}?" if near else ""
    raise LabelError(f"unknown label {name!r}.{hint} Known labels: {', '.join(known)}")


def label_columns(header: Sequence[str], other_columns: Sequence[str], source: str) -> dict[str, int]:
    """Find the 28 label columns of an annotation table.

    Args:
        header: The table's column names.
        other_columns: The columns that must be there besides the labels, such as `image_id`.
        source: Name of the table, for the message.

    Returns:
        Column index by name, for `other_columns` and for every one of `VINDR_CXR_LABELS`.

    Raises:
        LabelError: A column is missing, unknown or there twice; names it and the nearest label.
    """
    columns: dict[str, int] = {}
    unknown: list[str] = []
    for index, raw in enumerate(header):
        name = raw.strip().lstrip("\ufeff")
        if name not in other_columns:
            try:
                name = canonical_label(name)
            except LabelError as error:
                unknown.append(str(error).split(" Known labels:")[0])
                continue
        if name in columns:
            raise LabelError(f"{source}: the column {name!r} is there twice; remove one of them")
        columns[name] = index
    missing = [name for name in (*other_columns, *VINDR_CXR_LABELS) if name not in columns]
    if unknown:
        raise LabelError(
            f"{source}: {' '.join(unknown)} Expected columns: {', '.join((*other_columns, *VINDR_CXR_LABELS))}."
            " Rename the column, or remove it."
        )
    if missing:
        raise LabelError(
            f"{source}: no column {', '.join(map(repr, missing))}; it has {', '.join(header)}."
            " A finding that the source never annotated still needs a column of zeros and is then left out of"
            " `annotated` (--annotated)."
        )
    return columns


def parse_vote(text: str, column: str) -> int:
    """Read one cell of an annotation table.

    Args:
        text: "0" or "1" ("0.0" and "1.0" as spreadsheets write them are the same).
        column: Name of the column, for the message.

    Returns:
        0 or 1.

    Raises:
        LabelError: Anything else, an empty cell included.
    """
    vote = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}.get(text.strip())
    if vote is None:
        raise LabelError(f"column {column!r} must hold 0 or 1, but holds {text.strip()!r}")
    return vote


def parse_reader(text: str) -> str:
    """Read the pseudonym of a reader.

    Raises:
        LabelError: The cell is empty, or NaN.
    """
    if text.lower() in EMPTY_CELLS:
        raise LabelError("column 'rad_id' is empty")
    return text


def resolve_annotated(annotated: Iterable[str] | None) -> tuple[str, ...]:
    """Say which of the 28 labels the source annotated at all.

    Args:
        annotated: Names of local and global labels; None means all of them.

    Returns:
        The annotated labels in the order of `VINDR_CXR_LABELS`. "No finding" is always one of them: it is where the
        global label normal / abnormal comes from.

    Raises:
        LabelError: An unknown name, or one string where several names are expected.
    """
    if annotated is None:
        return VINDR_CXR_LABELS
    if isinstance(annotated, str):
        raise LabelError(f"`annotated` must be a list of label names, but the single string {annotated!r} came")
    named = {canonical_label(name) for name in annotated} | {NO_FINDING}
    return tuple(name for name in VINDR_CXR_LABELS if name in named)


def aggregate(
    readings: Sequence[Reading], aggregation: Aggregation = "majority", annotated: Iterable[str] | None = None
) -> ImageLabels:
    """Turn the readings of one image into its targets.

    Args:
        readings: One or more readings. A consensus (VinDr-CXR's test labels) is a single one and passes unchanged.
        aggregation: "majority": more than half of the readers said yes, so that a tie of an even number of readers is a
            no; "any": at least one; "all": every one; "mean": the share of the readers, for soft targets. ("none", a
            row per reader, is aggregation of each reading alone.)
        annotated: Labels that the source annotated; the others are missing (-1), not negative. None: all 28.

    Returns:
        The targets; floats if `aggregation` is "mean", ints otherwise.

    Raises:
        LabelError: No reading, an unknown aggregation, or an unknown name in `annotated`.
    """
    if not readings:
        raise LabelError("an image needs at least one reading")
    if aggregation not in AGGREGATIONS or aggregation == "none":
        raise LabelError(f"aggregation must be majority, any, all or mean here, but {aggregation!r} came")
    known = frozenset(resolve_annotated(annotated))
    num_readers = len(readings)

    def agreed(yes: int) -> float:
        if aggregation == "mean":
            return yes / num_readers
        needed = {"majority": num_readers // 2 + 1, "any": 1, "all": num_readers}[aggregation]
        return int(yes >= needed)

    missing = float(MISSING) if aggregation == "mean" else MISSING
    yes = {name: sum(reading.votes[i] for reading in readings) for i, name in enumerate(VINDR_CXR_LABELS)}
    target = {name: agreed(count) if name in known else missing for name, count in yes.items()}
    abnormal = agreed(sum(reading.abnormal for reading in readings))
    target[NO_FINDING] = 1 - abnormal
    return ImageLabels(
        label=abnormal,
        findings={name: target[name] for name in VINDR_CXR_FINDINGS},
        global_labels={name: target[name] for name in GLOBAL_LABELS},
        votes={name: count if name in known else MISSING for name, count in yes.items()},
        num_readers=num_readers,
    )
