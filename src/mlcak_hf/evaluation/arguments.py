"""Which models to evaluate, on which images: as a command line or a recipe names them, and opened."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from datasets import Dataset, DatasetDict

from ..configuration_mlcak import MLCAKConfig
from ..data.columns import DatasetColumns, Targets, column_values
from ..data.sources import RadiographDataset, hold_out_fold, open_dataset, split_rows
from ..data.training_data import SHARED_OPTIONS, DatasetArguments
from ..errors import DatasetError, MLCAKError, RecipeError
from ..image_processing_mlcak import MLCAKImageProcessor
from ..pretrained import load_config, load_processor
from ..shipped import resolve_checkpoint
from ..training.record import TRAINING_FILE, TrainingRecord
from ..training.training_images import is_trained_on

NO_SPLIT = "none"
_AS_TRAINED = "Default: as in the training of the models."


@dataclass(kw_only=True)
class EvaluationArguments(DatasetArguments):
    """Which models to evaluate, on which images, and where to write the results."""

    models: list[str] = field(metadata={"help": "name=folder of each trained model; runs of one row share a name."})
    output: str = field(metadata={"help": "Folder to write."})
    # `None` until `as_trained`: as in the training.json of the models.
    label_column: str = field(default=None, metadata={"help": _AS_TRAINED})  # type: ignore[assignment]
    findings_column: str = field(default=None, metadata={"help": _AS_TRAINED})  # type: ignore[assignment]
    validation_fraction: float = field(default=None, metadata={"help": _AS_TRAINED})  # type: ignore[assignment]
    split_seed: int = field(default=None, metadata={"help": _AS_TRAINED})  # type: ignore[assignment]
    folds: int = field(default=None, metadata={"help": _AS_TRAINED})  # type: ignore[assignment]
    fold: int = field(default=None, metadata={"help": _AS_TRAINED})  # type: ignore[assignment]
    split: str = field(default="test", metadata={"help": "Split to evaluate."})
    threshold_split: str = field(
        default="validation",
        metadata={"help": 'Split on which thresholds are chosen; "none", as if it shares images with --split.'},
    )
    baseline: str | None = field(
        default=None, metadata={"help": 'Row to compare the others with. Default: the one named "plain", or the first.'}
    )
    pairs: list[str] = field(
        default_factory=list,
        metadata={
            "help": "name=name: the only rows to compare, the first minus the second. Default: with the baseline."
        },
    )
    lowres: list[str] = field(
        default_factory=list,
        metadata={"help": "Pixels, or name=pixels: add rows with images reduced to this size, then enlarged."},
    )
    batch_size: int = field(default=32, metadata={"help": "Images per process and batch."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    bootstrap_draws: int = field(default=2000, metadata={"help": "Number of bootstrap draws for the intervals."})
    seed: int = field(default=0, metadata={"help": "Seed of the draws."})

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"--{name} must be at least {least}; got {getattr(self, name)}.")

    @property
    def context(self) -> dict[str, Any]:
        """What is evaluated, for the records: of the dataset only the name, because a record may be published."""
        return {"dataset": Path(self.dataset).name, "split": self.split, "threshold_split": self.threshold_split}

    @property
    def named_pairs(self) -> list[tuple[str, str]]:
        """The pairs of `--pairs`."""
        return [_pair(given, "--pairs", "name=name") for given in self.pairs]

    def as_trained(self, trained: Mapping[str, Any], available: Sequence[str]) -> EvaluationArguments:
        """Take the options that were not given from a training, or else from the defaults of training.

        Args:
            trained (`Mapping[str, Any]`):
                Options of the training; empty if they are not known.
            available (`Sequence[str]`):
                Columns of the dataset. A column that another dataset does not have is not taken.

        Returns:
            [`EvaluationArguments`]: All with a value.
        """
        options: dict[str, Any] = {entry.name: entry.default for entry in fields(DatasetArguments)}
        for name in SHARED_OPTIONS:
            value = trained.get(name)
            if value is not None and (not name.endswith("_column") or value in ("none", *available)):
                options[name] = value
        return replace(self, **{name: options[name] for name in SHARED_OPTIONS if getattr(self, name) is None})


@dataclass(frozen=True)
class EvaluatedModel:
    """One trained model: a row of the comparison, or a run of one."""

    name: str
    folder: str
    run: str = ""
    lowres: int | None = None

    @property
    def role(self) -> str:
        """What error messages call it."""
        return f"model {self.name}"

    @property
    def file_stem(self) -> str:
        """Name for its files, of at most 180 bytes; other names and runs have other ones."""
        stem = "@".join(quote(part, safe=" ") for part in (self.name, self.run) if part)
        return stem if len(stem) <= 180 else f"{stem[:140]}@{sha256(stem.encode()).hexdigest()[:32]}"

    @property
    def training_options(self) -> Mapping[str, Any]:
        """Options of its dataset in `training.json`; empty for a model without one, as from the Hub."""
        known = (Path(self.folder) / TRAINING_FILE).is_file()
        return TrainingRecord.load(self.folder).content["data"] if known else {}

    def load_config(self) -> MLCAKConfig:
        """Load its configuration."""
        return load_config(self.folder, self.role)

    def load_processor(self) -> MLCAKImageProcessor:
        """Load its image processor, set to the low resolution of the row."""
        processor = load_processor(self.folder, self.load_config(), self.role)
        if self.lowres is not None:
            processor.lowres = self.lowres  # type: ignore[assignment]  # declared as None
        return processor


@dataclass(frozen=True)
class EvaluationData:
    """An opened dataset, its columns, and the arguments that choose its splits."""

    splits: DatasetDict
    columns: DatasetColumns
    args: EvaluationArguments
    #: The split `train` with the fold that was held out.
    whole_train: Dataset | None = None

    @classmethod
    def open(cls, args: EvaluationArguments, models: Sequence[EvaluatedModel]) -> EvaluationData:
        """Open the dataset; options that were not given are those of the first model's training.

        Its folds are those of the dataset that it was trained on, and of no other. The column of findings is that of
        the first model with findings.
        """
        splits = open_dataset(args.dataset, args.image_column)
        rows, train, folds_given = next(iter(splits.values())), splits.get("train"), args.folds is not None
        first = next((model for model in models if model.training_options), None)
        options = dict(first.training_options) if first else {}
        findings = [model.training_options.get("findings_column") for model in models]
        if named := [column for column in findings if column not in (None, "none")]:
            options["findings_column"] = named[0]
        args = args.as_trained(options, rows.column_names)
        if first and args.folds and not folds_given:
            theirs = train is not None and is_trained_on(first.folder, args.dataset, train, args.image_column)
            args = args if theirs else replace(args, folds=0, fold=0)
        if args.threshold_split in overlapping_splits(args.split, splits):
            args = replace(args, threshold_split=NO_SPLIT)  # They would be too good on the evaluated images.
        columns = args.columns(rows.column_names)
        columns.check(rows)
        return cls(hold_out_fold(splits, columns, args.folds, args.fold), columns, args, train)

    def split(self, name: str) -> Dataset:
        """Find a split. A missing `validation` is set aside from the training rows, as training does."""
        if name in self.splits:
            return self.splits[name]
        if name == "validation" and "train" in self.splits:
            args = self.args
            return split_rows(self.splits["train"], self.columns, args.validation_fraction, args.split_seed)[1]
        raise DatasetError(
            f"{self.args.dataset} has no split {name!r}; it has {', '.join(self.splits)}. Name one of them."
        )

    def image_names(self, name: str) -> list[str]:
        """Ids of the images of a split. One without an id is named by its row, and by its fold, where rows repeat."""
        before = f"fold {self.args.fold} of {self.args.folds}, " if name == "fold" else ""
        ids = enumerate(column_values(self.split(name), self.columns.image_id))
        return [f"{before}row {row}" if given in (None, "") else str(given) for row, given in ids]

    @property
    def shared_patients(self) -> int:
        """Number of patients of the evaluated split that also have training images; a correct split has none."""
        name, column = self.args.split, self.columns.group
        if column is None or name not in self.splits or "train" not in self.splits or name == "train":
            return 0
        both = [set(column_values(self.splits[split], column)) - {None, ""} for split in ("train", name)]
        return len(both[0] & both[1])

    def radiographs(self, name: str, config: MLCAKConfig) -> RadiographDataset:
        """Pair the rows of a split with the targets of a model."""
        rows = self.split(name)
        return RadiographDataset(rows, Targets(config, self.splits.get("train", rows), self.columns))


def overlapping_splits(split: str, splits: Collection[str]) -> set[str]:
    """Name the splits that share images with one: a split `validation` that is not stored is a part of `train`.

    Args:
        split (`str`):
            The split.
        splits (`Collection[str]`):
            The splits that the dataset holds.
    """
    parts = {"train", "validation"}
    return parts if split in parts and "validation" not in splits else {split}


def models_to_evaluate(models: Sequence[str], lowres: Sequence[str] = ()) -> list[EvaluatedModel]:
    """Read `--models` and `--lowres`.

    Args:
        models (`Sequence[str]`):
            `name=folder` of each model. Runs with the same name are numbered in the given order.
        lowres (`Sequence[str]`, *optional*):
            `name=pixels` for a row of one model, or pixels for a row of every model with a larger input.

    Returns:
        `list[EvaluatedModel]`

    Raises:
        [`MLCAKError`]: When an entry has a different form, or its folder or name is missing.
    """
    rows: list[EvaluatedModel] = []
    pairs = [_pair(given, "--models", "name=folder") for given in models]
    names = [name for name, _ in pairs]
    for position, (name, given) in enumerate(pairs):
        folder = resolve_checkpoint(given)
        if not Path(folder).is_dir() and (folder.count("/") != 1 or Path(folder).is_absolute()):
            raise MLCAKError(f"--models {name}={folder}: there is no such folder. Name one that training wrote.")
        run = str(names[: position + 1].count(name)) if names.count(name) > 1 else ""
        rows.append(EvaluatedModel(name, folder, run))
    reduced = []
    for given in lowres:
        chosen, pixels = _pair(given, "--lowres", "name=pixels") if "=" in given else (None, given)
        if not pixels.isdecimal() or int(pixels) < 1:
            raise RecipeError(f"--lowres must be a number of pixels, or name=pixels; got {given!r}.")
        if chosen not in (None, *names):
            raise RecipeError(f"--lowres {given}: {chosen!r} is not the name of a model in --models.")
        for row in rows:
            if row.name == chosen or (chosen is None and row.load_config().image_size > int(pixels)):
                reduced.append(replace(row, name=f"{row.name} fed {pixels} px", lowres=int(pixels)))
    return rows + reduced


def _pair(given: str, option: str, form: str) -> tuple[str, str]:
    name, _, value = given.partition("=")
    if not name or not value:
        raise RecipeError(f"{option} must have the form {form}; got {given!r}.")
    return name, value
