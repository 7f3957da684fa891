"""Open a dataset for training: its splits, its labels, and how its images were prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers.utils import logging

from ..configuration_mlcak import MLCAKConfig
from ..errors import DatasetError, LabelError
from ..image_processing_mlcak import MLCAKImageProcessor
from ..preparation.report import PreparationReport
from .columns import DatasetColumns, Targets, column_values, finding_names, global_labels, is_annotated
from .decoded_images import decode_once
from .sources import RadiographDataset, hold_out_fold, open_dataset, split_rows

logger = logging.get_logger(__name__)


#: Options that evaluation takes from the training of a model.
SHARED_OPTIONS = (
    "label_column",
    "findings_column",
    "group_column",
    "image_id_column",
    "validation_fraction",
    "split_seed",
    "folds",
    "fold",
)


@dataclass
class DatasetArguments:
    """Which dataset, columns and validation rows; the same for training and evaluation."""

    dataset: str = field(metadata={"help": "Folder that `mlcak prepare` wrote, a Parquet file, or a Hub id."})
    image_column: str = field(default="image", metadata={"help": "Column of images."})
    label_column: str = field(
        default="label", metadata={"help": 'Column of the global label; "none": abnormal if any finding is present.'}
    )
    findings_column: str = field(default="findings", metadata={"help": 'Column of local findings, or "none".'})
    group_column: str | None = field(default=None, metadata={"help": 'Column of patients; default "group" if there.'})
    image_id_column: str | None = field(default=None, metadata={"help": 'Default "image_id" if there.'})
    validation_fraction: float = field(
        default=0.15, metadata={"help": "Share of the training rows set aside if there is no validation split."}
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of that choice; the same for teacher and students."})
    folds: int = field(default=0, metadata={"help": "Cross-validation: number of folds of the training rows."})
    fold: int = field(default=0, metadata={"help": "The fold that is held out: the split `fold` of an evaluation."})

    def columns(self, available: Sequence[str], unlabelled: bool = False) -> DatasetColumns:
        """
        The columns that were named, and the columns "group" and "image_id" if the dataset has them.

        Args:
            available (`Sequence[str]`):
                Columns of the dataset.
            unlabelled (`bool`, *optional*, defaults to `False`):
                Whether labels may be missing. Then a default label or findings column that the dataset does not have is
                none; one that was named must exist.

        Returns:
            [`DatasetColumns`]: Not checked yet.
        """
        roles = ("image", "label", "findings", "group", "image_id")
        named: dict[str, Any] = {role: getattr(self, f"{role}_column") for role in roles}
        for role in ("group", "image_id"):
            named[role] = named[role] or (role if role in available else None)
        for role in ("label", "findings"):
            if unlabelled and named[role] == role and role not in available:
                named[role] = None
        return DatasetColumns(**named, unlabelled=unlabelled)

    def split_rule(
        self, available: Sequence[str], split_off: bool, trained: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """
        What decides which label is learned and which rows are for validation, by the names of the options.

        Args:
            available (`Sequence[str]`):
                Columns of the dataset.
            split_off (`bool`):
                Whether validation rows or a fold are split off from the training rows.
            trained (`Mapping[str, Any]`, *optional*):
                Options of a training, which replace these.

        Returns:
            `dict[str, Any]`: Equal for models that were trained on the same rows for the same label.
        """
        args = replace(self, **{name: trained[name] for name in SHARED_OPTIONS if name in trained}) if trained else self
        columns = args.columns(available)
        rule: dict[str, Any] = {"label_column": columns.label or "none"}
        if split_off:
            rule |= {"group_column": columns.group or columns.image_id or "none"}
            options = ("validation_fraction", "split_seed", "folds", "fold")
            rule |= {name: getattr(args, name) for name in options}
        return rule


@dataclass
class DataArguments(DatasetArguments):
    """What to train on."""

    findings: list[str] | None = field(default=None, metadata={"help": "Findings to learn; default: all annotated."})
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Train on this many images, drawn with --split_seed; small draws are parts of larger ones."},
    )
    augment: bool = field(default=True, metadata={"help": "Train on seeded views instead of the stored images."})
    decode_once: bool = field(default=True, metadata={"help": "Keep decoded images in the cache of datasets."})
    device_views: bool = field(default=False, metadata={"help": "Keep decoded images on the GPU; make views there."})


@dataclass(frozen=True)
class TrainingData:
    """
    An opened dataset.

    Args:
        train (`Dataset`):
            Training rows.
        validation (`Dataset`):
            Validation rows.
        columns ([`DatasetColumns`]):
            Which column holds what.
        labels (`dict`):
            Arguments of [`MLCAKConfig`]: `id2label`, `local_labels`, `problem_type`.
        preparation (`dict`):
            The choices of `mlcak prepare`; empty for other datasets.
        whole_train (`Dataset`):
            The split `train`, before a fold, validation rows or a draw were taken from it.
        split_off (`bool`, *optional*, defaults to `False`):
            Whether validation rows or a fold were split off from it.
    """

    train: Dataset
    validation: Dataset
    columns: DatasetColumns
    labels: dict[str, Any]
    preparation: dict[str, Any]
    whole_train: Dataset
    split_off: bool = False

    def set_fit_and_voi(self, processor: MLCAKImageProcessor) -> None:
        """
        Give an image processor the `fit` and `voi` that this dataset was prepared with.

        Args:
            processor ([`MLCAKImageProcessor`]):
                Changed in place, to be saved with the model. Unchanged for datasets that `mlcak prepare` did not write.
        """
        for name in ("fit", "voi"):
            setattr(processor, name, self.preparation.get(name, getattr(processor, name)))

    def radiographs(
        self,
        config: MLCAKConfig,
        processor: MLCAKImageProcessor,
        args: DataArguments,
        check: Callable[[RadiographDataset, RadiographDataset], None] | None = None,
    ) -> tuple[RadiographDataset, RadiographDataset]:
        """
        Rows with the targets of a model, for the collator.

        Args:
            config ([`MLCAKConfig`]):
                Configuration of the model.
            processor ([`MLCAKImageProcessor`]):
                Image processor of the model.
            args ([`DataArguments`]):
                With `decode_once`, the images are decoded now, unless an earlier run did it.
            check (`Callable`, *optional*):
                Called with both datasets when their targets are made, before an image is decoded.

        Returns:
            `tuple[RadiographDataset, RadiographDataset]`: Training and validation. Validation images that cannot be
            kept exactly are decoded each time.

        Raises:
            [`DatasetError`]: If an image or a column cannot be used.
            [`LabelError`]: If a row has a label that the model does not have.
        """
        targets = Targets(config, self.train, self.columns)
        # Labels first: they may be wrong, and decoding takes long.
        train, validation = RadiographDataset(self.train, targets), RadiographDataset(self.validation, targets)
        if check is not None:
            check(train, validation)
        if args.decode_once:
            decoded_images = decode_once(self.train, processor, self.columns.image)
            if decoded_images.exact or args.augment:
                train.decoded_images = decoded_images
            if decoded_images.exact:
                decoded_images = decode_once(self.validation, processor, self.columns.image)
                validation.decoded_images = decoded_images if decoded_images.exact else None
        return train, validation


def open_training_data(args: DataArguments, taught: dict[str, Any] | None = None) -> TrainingData:
    """
    Open a dataset for training.

    Args:
        args ([`DataArguments`]):
            Which dataset, columns and split.
        taught (`dict`, *optional*):
            Labels of a teacher, as in [`TrainingData`]. They replace those of the dataset, which may be missing, except
            for the findings named in `args.findings`.

    Returns:
        [`TrainingData`]: Without a teacher, findings that nobody annotated in the training rows are left out of
        `local_labels`, with a warning.

    Raises:
        [`DatasetError`]: If the dataset, a column, the training split or a finding in `args.findings` is missing, or it
            has fewer than `args.max_train_samples` training rows.
        [`LabelError`]: If its labels cannot be used.
    """
    splits = open_dataset(args.dataset, args.image_column)
    if "train" not in splits:
        raise DatasetError(f"A dataset must have a split 'train'; {args.dataset} has {list(splits)}.")
    available = splits["train"].column_names
    columns = args.columns(available, unlabelled=taught is not None)
    columns.check(splits["train"])
    whole_train = splits["train"]
    splits = hold_out_fold(splits, columns, args.folds, args.fold)
    absent = [role for role in ("label", "findings") if getattr(columns, role) is None]
    if taught is not None and absent:
        logger.warning(f"{args.dataset} is used without a column of {' or '.join(absent)}.")
    split_off = "validation" not in splits or args.folds > 0
    if "validation" in splits:
        train, validation = splits["train"], splits["validation"]
    else:
        train, validation = split_rows(splits["train"], columns, args.validation_fraction, args.split_seed)
        by = columns.group or "image: name a group column if patients have several images"
        logger.warning(f"No validation split: {len(validation)} of {len(splits['train'])} rows split off by {by}.")
    train = _drawn(train, args)
    labels = dict(taught or {})
    if taught is None:
        kind, names = global_labels(train, columns)
        if len(names) < 2:
            raise LabelError(f"The label column {columns.label!r} must hold at least two labels; got {names}.")
        labels["id2label"] = dict(enumerate(names))
        labels["problem_type"] = f"{'multi' if kind == 'several' else 'single'}_label_classification"
    if taught is None or args.findings is not None:
        labels["local_labels"] = _findings_to_learn(train, columns, args.findings)
    return TrainingData(train, validation, columns, labels, stored_choices(args.dataset), whole_train, split_off)


def stored_choices(dataset: str) -> dict[str, Any]:
    """
    Read how a dataset was prepared.

    Args:
        dataset (`str`):
            A folder, or any other source.

    Returns:
        `dict`: The choices of `mlcak prepare`, such as `fit` and `voi`; empty for other datasets.

    Raises:
        [`DatasetError`]: If the record exists but is damaged.
    """
    exists = (Path(dataset) / "preparation.json").exists()
    return dict(PreparationReport.read(dataset).choices) if exists else {}


def _drawn(train: Dataset, args: DataArguments) -> Dataset:
    if args.max_train_samples is None:
        return train
    if not 1 <= args.max_train_samples <= len(train):
        raise DatasetError(
            f"--max_train_samples must be from 1 to the {len(train)} training images; got {args.max_train_samples}."
        )
    return train.shuffle(seed=args.split_seed).select(range(args.max_train_samples))


def _findings_to_learn(train: Dataset, columns: DatasetColumns, wanted: list[str] | None) -> list[str]:
    known = finding_names(train, columns)
    names = known if wanted is None else [name for name in wanted if name.lower() != "none"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DatasetError(f"The dataset has no findings {unknown}; it has {known}. Correct --findings.")
    rows = column_values(train, columns.findings) if names else []
    annotated = [name for name in names if any(is_annotated(row, name) for row in rows)]
    left_out = ", ".join(name for name in names if name not in annotated)
    if left_out:
        logger.warning(f"Findings that nobody annotated in the training rows are left out: {left_out}.")
    return annotated
