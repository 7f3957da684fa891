"""The images of each split: what the folder holds, divided as the choices say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers.utils import logging

from ..errors import DatasetError
from ..preparation.group_split import held_out_groups
from ..preparation.rows import VinDrCXRConfig, group_pseudonyms
from .layout import ImageRecord, LeftOut, read_layout

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class DatasetSplits:
    """All images of a dataset before any of them is read.

    Args:
        images: The images of "train", "validation" (if there is one) and "test" (unless Kaggle's `test_fraction` is 0),
            in the order of the tables.
        pseudonyms: Names of the groups in the dataset; None where the groups are the image ids.
        left_out: Images that the tables or the folder make unusable, with on_error="skip".
        remarks: What was put right or passed over in the tables, one sentence each with its number.
    """

    images: dict[str, list[ImageRecord]]
    pseudonyms: dict[str, str] | None
    left_out: list[LeftOut]
    remarks: list[str] = field(default_factory=list)


def read_splits(config: VinDrCXRConfig) -> DatasetSplits:
    """Read a folder's tables and divide its images.

    Args:
        config: The choices.

    Returns:
        The splits, none of them empty.

    Raises:
        DatasetError: Folder, tables or groups are not as they must be, or a split would be empty.
        LabelError: An unknown label, or labels that contradict themselves.
    """
    layout = read_layout(str(config.data_dir), config.groups, config.on_error, config.layout, config.sizes)
    for remark in layout.remarks:
        logger.warning(remark)
    train, test = layout.train, layout.test
    if config.test_fraction is not None:
        # By a hash without the seed: whatever the seed, models are tested on the same images.
        train, test = _split_off(train, config.test_fraction, "test", "test_fraction")
    train, validation = split_validation(train, config.validation_fraction, config.seed)
    images = {"train": train, "validation": validation, "test": test}
    if not validation:
        del images["validation"]
    if config.test_fraction == 0:
        del images["test"]
    for name, records in images.items():
        if not records:
            raise DatasetError(f"no usable image for the split {name} in {config.data_dir}; complete the download")
    return DatasetSplits(images, group_pseudonyms(layout) if config.groups else None, layout.left_out, layout.remarks)


def split_validation(
    records: Sequence[ImageRecord], fraction: float, seed: int
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Set aside whole groups for validation, as `held_out_groups` chooses them by the seed.

    Args:
        records: Images of the training folder.
        fraction: Share of the images to aim at, 0 <= fraction < 1; whole groups come as close as they can.
        seed: Another seed, another split.

    Returns:
        Images for training and for validation, both in their original order; none for validation if `fraction` is 0.

    Raises:
        DatasetError: `fraction` is out of range, or there are fewer than two groups to divide.
    """
    return _split_off(records, fraction, str(seed), "validation_fraction")


def _split_off(
    records: Sequence[ImageRecord], fraction: float, salt: str, name: str
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    if not 0 <= fraction < 1:
        raise DatasetError(f"{name} must be at least 0 and less than 1, but {fraction} came")
    if fraction == 0:
        return list(records), []
    groups = [record.group for record in records]
    chosen = held_out_groups(groups, fraction, salt)
    if not chosen:
        raise DatasetError(f"{len(set(groups))} group(s) cannot be divided by {name}; set it to 0")
    rest = [record for record in records if record.group not in chosen]
    return rest, [record for record in records if record.group in chosen]
