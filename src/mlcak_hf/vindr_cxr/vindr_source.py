"""VinDr-CXR as a source of radiographs and labels, and its preparation in one call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import logging

from ..configuration_mlcak import GLOBAL_CLASS_NAMES, VINDR_CXR_FINDINGS
from ..errors import DatasetError, LabelError
from ..preparation.group_split import make_splits, number_groups
from ..preparation.prepare import prepare_dataset
from ..preparation.report import PreparationReport
from ..preparation.source import PreparationSource, SourceCard, SourceImages
from .label_tables import KAGGLE_LABELS
from .labels import GLOBAL_LABELS, VINDR_CXR_LABELS, Reading, aggregate, count_votes, resolve_annotated
from .layout import LAYOUTS, detect_layout, read_layout
from .options import VinDrOptions
from .vindr_card import vindr_card
from .vindr_folder import VinDrRecord

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class VinDrSource(PreparationSource):
    """A local folder in VinDr-CXR's layout. Nothing is downloaded or uploaded.

    Args:
        data_dir (`str` or `Path`):
            Folder with train/, test/ and annotations/ as on PhysioNet, or with train/ and train.csv as on Kaggle
            (VinBigData). The images are DICOM files, or PNG or JPEG conversions of them.
        options (`VinDrOptions`, *optional*):
            The choices. The source keeps them with the detected layout, and with what follows from it.

    Raises:
        [`DatasetError`]: When the folder has no known layout, or a choice does not suit its layout.
        [`LabelError`]: When a label is named that Kaggle never annotated.
    """

    data_dir: str | Path
    options: VinDrOptions = field(default_factory=VinDrOptions)

    def __post_init__(self) -> None:
        layout, test_fraction = detect_layout(self.data_dir, self.options.layout), self.options.test_fraction
        known = VINDR_CXR_LABELS
        if layout == "kaggle":
            known = resolve_annotated(KAGGLE_LABELS)
            test_fraction = 0.15 if test_fraction is None else test_fraction
        elif test_fraction is not None:
            raise DatasetError("test_fraction is only for Kaggle's layout, which has no labelled test set. Remove it.")
        annotated = self.options.annotated or known
        if unknown := [name for name in annotated if name not in known]:
            missing, allowed = ", ".join(unknown), ", ".join(known)
            raise LabelError(f"Kaggle's train.csv never annotated {missing}. Name only {allowed} (--annotated).")
        options = replace(self.options, layout=layout, annotated=annotated, test_fraction=test_fraction)
        object.__setattr__(self, "data_dir", str(Path(self.data_dir).expanduser()))
        object.__setattr__(self, "options", options)

    def read(self) -> SourceImages:
        """Read the tables and divide the images into splits; no image is opened.

        Returns:
            `SourceImages`: The splits, none of them empty.

        Raises:
            [`DatasetError`]: When folder, tables or groups cannot be used, or a split would be empty.
            [`LabelError`]: When a label is unknown, or labels are contradictory.
        """
        options, found = self.options, read_layout(self.data_dir, self.options)
        for note in found.table_notes:
            logger.warning(note)
        for name, records in found.splits.items():
            if not records:
                raise DatasetError(f"No image of {name}/ in {self.data_dir} can be used. Complete the download.")
        train, test = found.splits["train"], found.splits.get("test", ())
        splits = make_splits(train, options, options.test_fraction or 0, test)
        return replace(found, splits=number_groups(splits) if options.groups else splits)

    def label_features(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the label columns before and after the boxes."""
        return vindr_label_features(self.options.aggregation)

    def label_rows(self, record: VinDrRecord, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield key and label columns of the image, or of each reader with `aggregation="none"`."""
        annotated, aggregation = self.options.annotated or VINDR_CXR_LABELS, self.options.aggregation
        by_reader: dict[str, tuple[Reading, ...]] = {"": record.readings}
        if self.per_reader(split):
            by_reader = {reading.reader: (reading,) for reading in record.readings}
        for reader, readings in by_reader.items():
            columns = aggregate(readings, aggregation, annotated) | {
                "votes": count_votes(record.readings, annotated),
                "num_readers": len(record.readings),
                "boxes": [box._asdict() for box in record.boxes if reader in ("", box.reader)],
            }
            if aggregation == "none":
                columns["reader"] = reader
            yield f"{record.image_id}/{reader}".removesuffix("/"), columns

    def per_reader(self, split: str) -> bool:
        """Return whether a split has one row per reader."""
        return split == "train" and self.options.aggregation == "none"

    def folder_of(self, split: str) -> str:
        """Return the folder that the images of a split come from; on Kaggle it is always train/."""
        folders = LAYOUTS[self.options.layout].folders
        return split if split in folders else folders[0]

    def card(self) -> SourceCard:
        """Return the sentences of the dataset card that depend on VinDr-CXR."""
        return vindr_card(Path(self.data_dir), self.options)


def vindr_label_features(aggregation: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the label columns before and after the boxes; `"mean"` makes the targets float32."""
    soft = aggregation == "mean"
    target = datasets.Value("float32" if soft else "int8")
    labels = {
        "label": target if soft else datasets.ClassLabel(names=list(GLOBAL_CLASS_NAMES)),
        "findings": dict.fromkeys(VINDR_CXR_FINDINGS, target),
        "global_labels": dict.fromkeys(GLOBAL_LABELS, target),
        "votes": {name: datasets.Value("int8") for name in VINDR_CXR_LABELS},
        "num_readers": datasets.Value("int8"),
    }
    return labels, {"reader": datasets.Value("string")} if aggregation == "none" else {}


def prepare_vindr_cxr(
    data_dir: str | Path, output_dir: str | Path, *, num_proc: int = 1, overwrite: bool = False, **choices: Any
) -> PreparationReport:
    """Write a local folder in VinDr-CXR's layout as a dataset that `load_dataset(output_dir)` reads anywhere.

    Args:
        data_dir (`str` or `Path`):
            Folder in PhysioNet's or Kaggle's layout, as in [`VinDrSource`].
        output_dir (`str` or `Path`):
            Folder to write; must be new or empty.
        num_proc (`int`, *optional*, defaults to 1):
            Number of processes that decode at the same time.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace an earlier dataset, as in [`prepare_dataset`].
        choices (*optional*):
            The choices, named as in [`VinDrOptions`].

    Returns:
        `PreparationReport`: What was written and what was left out.

    Raises:
        [`DatasetError`], [`LabelError`], [`DicomError`]: As in [`prepare_dataset`].

    Example:
        ```python
        >>> from mlcak_hf import prepare_vindr_cxr

        >>> report = prepare_vindr_cxr("vindr-cxr/1.0.0", "vindr-256", size_px=256, num_proc=4)  # doctest: +SKIP
        >>> report.splits["train"].images, len(report.skipped)  # doctest: +SKIP
        ```
    """
    source = VinDrSource(data_dir, VinDrOptions(**choices))
    return prepare_dataset(source, output_dir, num_proc=num_proc, overwrite=overwrite)
