"""What the training scripts need to know of a dataset: its splits, its labels, and how its images were stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers.utils import logging

from ..errors import DatasetError
from ..image_processing_mlcak import MLCAKImageProcessor
from ..preparation.report import read_preparation
from .columns import DatasetColumns, Targets, finding_names, global_label_names, has_several_labels, is_annotated
from .decoded_images import decode_once
from .sources import RadiographDataset, open_dataset, split_validation

if TYPE_CHECKING:
    from ..configuration_mlcak import MLCAKConfig

logger = logging.get_logger(__name__)


@dataclass
class DatasetArguments:
    """Which dataset, which of its columns, and which rows become validation: of training and evaluation alike."""

    dataset: str = field(metadata={"help": "Folder that `mlcak prepare` wrote, a Parquet file, or a Hub id."})
    image_column: str = field(default="image", metadata={"help": "Column of images."})
    label_column: str = field(default="label", metadata={"help": 'Column of the global label; "none": any finding.'})
    findings_column: str = field(default="findings", metadata={"help": 'Column of local findings, or "none".'})
    group_column: str | None = field(default=None, metadata={"help": 'Column of patients; default "group" if there.'})
    image_id_column: str | None = field(default=None, metadata={"help": 'Default "image_id" if there.'})
    validation_fraction: float = field(
        default=0.15, metadata={"help": "Of the training rows, by patient, where the dataset has no validation split."}
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of that split; the same for teacher and students."})

    def columns(self, available: Sequence[str], unlabelled: bool = False) -> DatasetColumns:
        """The columns that were named, and the usual ones for groups and image ids where the dataset has them.

        Args:
            available: columns of the dataset.
            unlabelled: whether labels may be missing altogether. Then a column of labels or of findings that nobody
                named and the dataset does not have is none; one that was named must be there.

        Returns:
            Which column holds what; not checked.
        """
        label, findings = self.label_column, self.findings_column
        if unlabelled:
            usual = {entry.name: entry.default for entry in fields(DatasetArguments)}
            label = "none" if label == usual["label_column"] and label not in available else label
            findings = "none" if findings == usual["findings_column"] and findings not in available else findings
        return DatasetColumns(
            image=self.image_column,
            label=label,
            findings=findings,
            group=self.group_column or ("group" if "group" in available else None),
            image_id=self.image_id_column or ("image_id" if "image_id" in available else None),
            unlabelled=unlabelled,
        )


@dataclass
class DataArguments(DatasetArguments):
    """What to train on."""

    findings: list[str] | None = field(
        default=None, metadata={"help": "Names of the local findings to learn; default: all that are annotated."}
    )
    augment: bool = field(default=True, metadata={"help": "Train on seeded views instead of the stored images."})
    decode_once: bool = field(
        default=True, metadata={"help": "Keep decoded images in the cache of datasets, for all epochs and runs."}
    )


@dataclass(frozen=True)
class TrainingData:
    """An opened dataset, ready to be turned into targets.

    Args:
        train: training rows.
        validation: validation rows.
        columns: which column holds what.
        labels: what a model's config takes: `id2label`, `local_labels`, `problem_type`.
        preparation: the choices of `mlcak prepare`; empty for other datasets.
    """

    train: Dataset
    validation: Dataset
    columns: DatasetColumns
    labels: dict[str, Any]
    preparation: dict[str, Any]

    def processor(self, image_size: int, processor: MLCAKImageProcessor | None = None) -> MLCAKImageProcessor:
        """Image processor of a model of this size that makes squares and reads files as this dataset was made.

        Args:
            image_size: side of the model's input, in pixels.
            processor: settings to start from; the defaults if None.

        Returns:
            The processor, to be saved with the model.
        """
        processor = MLCAKImageProcessor() if processor is None else processor
        processor.size = {"height": image_size, "width": image_size}
        for name in ("fit", "voi"):
            setattr(processor, name, self.preparation.get(name, getattr(processor, name)))
        return processor

    def radiographs(
        self,
        config: MLCAKConfig,
        processor: MLCAKImageProcessor,
        args: DataArguments,
        check: Callable[[RadiographDataset, RadiographDataset], None] | None = None,
    ) -> tuple[RadiographDataset, RadiographDataset]:
        """Rows with the targets of a model, for the collator.

        Args:
            config: of the model.
            processor: of the model.
            args: as the dataset was opened with; `decode_once` decodes its images now, unless that was done before.
            check: called with both, once their targets are there and before an image is decoded.

        Returns:
            (training, validation). Images that a canvas does not keep exactly are decoded anew for evaluation.

        Raises:
            DatasetError: if an image or a column cannot be used.
            LabelError: if a row has a label that the model does not have.
        """
        targets = Targets(config, self.train, self.columns)
        # First the labels, which may be wrong; decoding takes its time.
        train, validation = RadiographDataset(self.train, targets), RadiographDataset(self.validation, targets)
        if check is not None:
            check(train, validation)
        if args.decode_once:
            canvases = decode_once(self.train, processor, self.columns.image)
            if canvases.exact or args.augment:
                train.canvases = canvases
            if canvases.exact:
                canvases = decode_once(self.validation, processor, self.columns.image)
                validation.canvases = canvases if canvases.exact else None
        return train, validation


def open_training_data(args: DataArguments, taught: dict[str, Any] | None = None) -> TrainingData:
    """Open a dataset for training.

    Args:
        args: which dataset, columns and split.
        taught: labels of a teacher, as `TrainingData.labels` has them; the dataset's own may then be missing.

    Returns:
        Its training and validation rows, labels and choices. Findings that nobody annotated in the training rows are no
        local labels: nothing could be learnt of them without a teacher. What is left out is logged. With a teacher the
        labels are the teacher's, but for the findings named in `findings`.

    Raises:
        DatasetError: if the dataset, a column or the training split is missing, or it knows no finding named in
            `findings`.
        LabelError: if its labels cannot be used.
    """
    splits = open_dataset(args.dataset, args.image_column)
    if "train" not in splits:
        raise DatasetError(f"{args.dataset} has no split 'train'; it has {list(splits)}.")
    available = splits["train"].column_names
    columns = args.columns(available, unlabelled=taught is not None)
    columns.check(splits["train"])
    absent = [role for role in ("label", "findings") if getattr(columns, role) is None]
    if taught is not None and absent:
        logger.warning(f"{args.dataset} is used without a column of {' or '.join(absent)}.")
    if "validation" in splits:
        train, validation = splits["train"], splits["validation"]
    else:
        train, validation = split_validation(splits["train"], columns, args.validation_fraction, args.split_seed)
        by = columns.group or "image: name a group column if patients have several images"
        logger.warning(f"No validation split: {len(validation)} of {len(splits['train'])} rows split off by {by}.")
    if taught is None:
        several = has_several_labels(train, columns)
        labels = {
            "id2label": dict(enumerate(global_label_names(train, columns))),
            "local_labels": _local_labels(train, columns, args.findings),
            "problem_type": "multi_label_classification" if several else "single_label_classification",
        }
    else:
        own = {} if args.findings is None else {"local_labels": _local_labels(train, columns, args.findings)}
        labels = taught | own
    return TrainingData(train, validation, columns, labels, stored_choices(args.dataset))


def stored_choices(dataset: str) -> dict[str, Any]:
    """How a dataset was prepared.

    Args:
        dataset: a folder, or anything else that was opened.

    Returns:
        The choices of `mlcak prepare`, such as `fit` and `voi`; empty for other datasets.

    Raises:
        DatasetError: if their record is there but damaged.
    """
    try:
        return dict(read_preparation(dataset)["choices"])
    except DatasetError:
        if (Path(dataset) / "preparation.json").exists():
            raise
        return {}


def _local_labels(train: Dataset, columns: DatasetColumns, wanted: list[str] | None) -> list[str]:
    known = finding_names(train, columns)
    unknown = [name for name in wanted or () if name not in known and name.lower() != "none"]
    if unknown:
        raise DatasetError(f"The dataset has no findings {unknown}; it has {known}.")
    names = known if wanted is None else [name for name in wanted if name in known]
    if not names:
        return []
    rows = train.select_columns([str(columns.findings)]).with_format(None)[columns.findings]
    annotated = [name for name in names if any(is_annotated(row, name) for row in rows)]
    left_out = [name for name in names if name not in annotated]
    if left_out:
        logger.warning(f"Findings that nobody annotated in the training rows are left out: {', '.join(left_out)}.")
    return annotated
