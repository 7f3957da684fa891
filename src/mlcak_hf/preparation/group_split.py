"""Split a dataset by groups of images (patients): one rule for every dataset."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from ..errors import DatasetError
from .options import PreparationOptions
from .source import ImageRecord

Record = TypeVar("Record", bound=ImageRecord)


def held_out_groups(groups: Sequence[str], fraction: float, salt: str) -> set[str]:
    """Choose whole groups that together hold about a share of the images.

    The groups are ranked by a hash of salt and group. So the choice depends neither on the order of the images nor on
    the machine, and a missing image changes it only at the border.

    Args:
        groups (`Sequence[str]`):
            The group of every image.
        fraction (`float`):
            Share of the images to aim at, 0 < fraction < 1. Whole groups come as close to it as they can.
        salt (`str`):
            Another salt gives another choice.

    Returns:
        `set[str]`: At least one group and never all of them; empty if there are fewer than two.
    """
    sizes = Counter(groups)
    ranked = sorted(sizes, key=lambda group: hashlib.sha256(f"{salt}:{group}".encode()).digest())
    target, held, chosen = fraction * len(groups), 0, set[str]()
    for group in ranked[:-1]:
        if chosen and abs(held + sizes[group] - target) > abs(held - target):
            break
        chosen.add(group)
        held += sizes[group]
    return chosen


def fold_numbers(groups: Sequence[str], folds: int, salt: str) -> list[int]:
    """Deal whole groups to folds of about equal size.

    The groups are ranked by a hash of salt and group; each goes to the smallest fold so far. The result depends neither
    on the order of the images nor on the machine.

    Args:
        groups (`Sequence[str]`):
            The group of every image.
        folds (`int`):
            Number of folds.
        salt (`str`):
            A different salt gives different folds.

    Returns:
        `list[int]`: The fold of every image, 0 to `folds - 1`.
    """
    sizes = Counter(groups)
    filled, fold_of = [0] * folds, {}
    for group in sorted(sizes, key=lambda group: hashlib.sha256(f"{salt}:{group}".encode()).digest()):
        fold_of[group] = filled.index(min(filled))
        filled[fold_of[group]] += sizes[group]
    return [fold_of[group] for group in groups]


def split_by_group(
    records: Sequence[Record], fraction: float, salt: str, name: str
) -> tuple[list[Record], list[Record]]:
    """Set whole groups aside with [`held_out_groups`].

    Args:
        records (`Sequence[ImageRecord]`):
            Images to divide.
        fraction (`float`):
            Share of the images to set aside, 0 <= fraction < 1.
        salt (`str`):
            Another salt gives another choice of groups.
        name (`str`):
            Name of the fraction, for the message.

    Returns:
        `tuple[list[ImageRecord], list[ImageRecord]]`: The remaining images and those set aside, in the original order.

    Raises:
        [`DatasetError`]: When there are fewer than two groups.
    """
    if fraction == 0:
        return list(records), []
    groups = [record.group for record in records]
    chosen = held_out_groups(groups, fraction, salt)
    if not chosen:
        raise DatasetError(f"{name} needs at least two groups to divide; got {len(set(groups))}. Set it to 0.")
    rest = [record for record in records if record.group not in chosen]
    return rest, [record for record in records if record.group in chosen]


def make_splits(
    records: Sequence[Record], options: PreparationOptions, test_fraction: float, test: Sequence[Record] = ()
) -> dict[str, list[Record]]:
    """Divide images into splits by whole groups.

    Args:
        records (`Sequence[ImageRecord]`):
            Images to divide.
        options (`PreparationOptions`):
            Share of the images for validation, and its seed.
        test_fraction (`float`):
            Share of the images to set aside as the test split.
        test (`Sequence[ImageRecord]`, *optional*, defaults to `()`):
            The test split of the source, if it has one.

    Returns:
        `dict[str, list[ImageRecord]]`: The images of train, validation and test; empty splits are left out.
    """
    # The salt is not the seed: models are tested on the same images, whatever the seed.
    rest, set_aside = split_by_group(records, test_fraction, "test", "test_fraction")
    train, validation = split_by_group(rest, options.validation_fraction, str(options.seed), "validation_fraction")
    splits = {"train": train, "validation": validation, "test": [*test, *set_aside]}
    return {name: images for name, images in splits.items() if images}


def number_groups(splits: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Replace the groups by numbers, as their ids may name a patient. The order is a hash, so it reveals no id."""
    groups = {record.group for records in splits.values() for record in records}
    ranked = sorted(groups, key=lambda group: uuid.uuid5(uuid.NAMESPACE_OID, group).hex)
    numbers = {group: f"group-{number:06d}" for number, group in enumerate(ranked)}
    return {name: [replace(r, group=numbers[r.group]) for r in records] for name, records in splits.items()}
