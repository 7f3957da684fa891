"""VinDr-CXR as a source of radiographs and labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import logging

from ..configuration_mlcak import VINDR_CXR_FINDINGS
from ..errors import DatasetError, LabelError
from ..preparation.group_split import number_groups, split_by_group
from ..preparation.source import PreparationSource, SourceCard, SourceImages
from .kaggle import KAGGLE_LABELS
from .labels import (
    GLOBAL_CLASS_NAMES,
    GLOBAL_LABELS,
    VINDR_CXR_LABELS,
    Reading,
    aggregate,
    resolve_annotated,
)
from .layout import detect_layout, read_layout, source_folders
from .options import VinDrOptions
from .vindr_card import vindr_card
from .vindr_folder import VinDrRecord

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class VinDrSource(PreparationSource):
    """A local folder in VinDr-CXR's layout. Nothing is downloaded or uploaded.

    Args:
        data_dir (`str` or `os.PathLike`):
            Folder with train/, test/ and annotations/ as on PhysioNet, or with train/ and train.csv as on Kaggle
            (VinBigData). The images are DICOM files, or PNG or JPEG conversions of them.
        options (`VinDrOptions`, *optional*):
            The choices. The source keeps them with the detected layout, and with what follows from it.

    Raises:
        [`DatasetError`]: When the folder has no known layout, or a choice does not suit its layout.
        [`LabelError`]: When a label is named that Kaggle never annotated.
    """

    data_dir: str | os.PathLike[str]
    options: VinDrOptions = field(default_factory=VinDrOptions)

    def __post_init__(self) -> None:
        options = replace(self.options, layout=detect_layout(self.data_dir, self.options.layout))
        object.__setattr__(self, "data_dir", str(Path(self.data_dir).expanduser()))
        object.__setattr__(self, "options", _for_kaggle(options) if options.layout == "kaggle" else options)
        if options.layout != "kaggle" and options.test_fraction is not None:
            raise DatasetError("test_fraction is only for Kaggle's layout, which has no labelled test set. Remove it.")

    def read(self) -> SourceImages:
        """Read the tables and divide the images into splits; no image is opened.

        Returns:
            `SourceImages`: The splits, none of them empty.

        Raises:
            [`DatasetError`]: When folder, tables or groups cannot be used, or a split would be empty.
            [`LabelError`]: When a label is unknown, or labels are contradictory.
        """
        options = self.options
        layout = read_layout(self.data_dir, options)
        for note in layout.table_notes:
            logger.warning(note)
        train, test = layout.train, layout.test
        if options.test_fraction is not None:
            # The salt is not the seed: models are tested on the same images, whatever the seed.
            train, test = split_by_group(train, options.test_fraction, "test", "test_fraction")
        train, validation = split_validation(train, options.validation_fraction, options.seed)
        images = {"train": train, "validation": validation, "test": test}
        if not validation:
            del images["validation"]
        if options.test_fraction == 0:
            del images["test"]
        for name, records in images.items():
            if not records:
                raise DatasetError(
                    f"The split {name} must hold at least one usable image of {self.data_dir}; got none."
                    " Complete the download."
                )
        return SourceImages(number_groups(images) if options.groups else images, layout.skipped, layout.table_notes)

    def label_features(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the label columns before and after the boxes."""
        return vindr_label_features(self.options.aggregation)

    def label_rows(self, record: VinDrRecord, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield key and label columns of the image, or of each reader with `aggregation="none"`."""
        if not self.per_reader(split):
            yield record.image_id, self._targets(record, record.readings)
            return
        for reading in record.readings:
            yield f"{record.image_id}/{reading.reader}", self._targets(record, (reading,), reading.reader)

    def per_reader(self, split: str) -> bool:
        """Return whether a split has one row per reader."""
        return split == "train" and self.options.aggregation == "none"

    def folder_of(self, split: str) -> str:
        """Return the folder that the images of a split come from; on Kaggle it is always train/."""
        folders = source_folders(self.options.layout)
        return split if split in folders else folders[0]

    def card(self) -> SourceCard:
        """Return the sentences of the dataset card that depend on VinDr-CXR."""
        return vindr_card(Path(self.data_dir), self.options)

    def _targets(self, record: VinDrRecord, readings: Sequence[Reading], reader: str = "") -> dict[str, Any]:
        aggregation, annotated = self.options.aggregation, self.options.annotated
        labels = aggregate(readings, "majority" if aggregation == "none" else aggregation, annotated)
        counted = aggregate(record.readings, "majority", annotated)
        columns: dict[str, Any] = {
            "label": labels.label,
            "findings": labels.findings,
            "global_labels": labels.global_labels,
            "votes": counted.votes,
            "num_readers": counted.num_readers,
            "boxes": [box._asdict() for box in record.boxes if reader in ("", box.reader)],
        }
        if aggregation == "none":
            columns["reader"] = reader
        return columns


def _for_kaggle(options: VinDrOptions) -> VinDrOptions:
    """Settle what Kaggle's table lacks: half of the labels, and a test set."""
    unknown = [name for name in options.annotated or () if name not in KAGGLE_LABELS]
    if unknown:
        raise LabelError(
            f"Kaggle's train.csv never annotated {', '.join(unknown)}. `annotated` (--annotated) can name only"
            f" {', '.join(KAGGLE_LABELS)}."
        )
    return replace(
        options,
        annotated=options.annotated or resolve_annotated(KAGGLE_LABELS),
        test_fraction=0.15 if options.test_fraction is None else options.test_fraction,
    )


def vindr_label_features(aggregation: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the label columns before and after the boxes; `"mean"` makes the targets float32."""
    soft = aggregation == "mean"
    target = datasets.Value("float32" if soft else "int8")
    labels = {
        "label": datasets.Value("float32") if soft else datasets.ClassLabel(names=list(GLOBAL_CLASS_NAMES)),
        "findings": dict.fromkeys(VINDR_CXR_FINDINGS, target),
        "global_labels": dict.fromkeys(GLOBAL_LABELS, target),
        "votes": {name: datasets.Value("int8") for name in VINDR_CXR_LABELS},
        "num_readers": datasets.Value("int8"),
    }
    return labels, {"reader": datasets.Value("string")} if aggregation == "none" else {}


def split_validation(
    records: Sequence[VinDrRecord], fraction: float, seed: int
) -> tuple[list[VinDrRecord], list[VinDrRecord]]:
    """Set aside whole groups for validation; another seed gives another choice."""
    return split_by_group(records, fraction, str(seed), "validation_fraction")
