"""The images of each split: what the folder holds, divided as the choices say."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import DatasetError
from .layout import ImageRecord, LeftOut, read_layout, split_validation
from .rows import VinDrCXRConfig, group_pseudonyms


@dataclass(frozen=True)
class DatasetSplits:
    """All images of a dataset before any of them is read.

    Args:
        images: The images of "train", "validation" (if there is one) and "test", in the order of the tables.
        pseudonyms: Names of the groups in the dataset; None where the groups are the image ids.
        left_out: Images that the tables or the folder make unusable, with on_error="skip".
    """

    images: dict[str, list[ImageRecord]]
    pseudonyms: dict[str, str] | None
    left_out: list[LeftOut]


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
    layout = read_layout(str(config.data_dir), config.groups, config.on_error)
    train, validation = split_validation(layout.train, config.validation_fraction, config.seed)
    images = {"train": train, "validation": validation, "test": layout.test}
    if not validation:
        del images["validation"]
    for name, records in images.items():
        if not records:
            raise DatasetError(f"no usable image for the split {name} in {config.data_dir}; complete the download")
    return DatasetSplits(images, group_pseudonyms(layout) if config.groups else None, layout.left_out)
