"""Open any dataset of radiographs, split off validation rows, and give its rows with targets to a collator."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Image, load_dataset

from ..configuration_mlcak import MLCAKConfig
from ..errors import DatasetError
from ..preparation.group_split import fold_numbers, held_out_groups
from .columns import DatasetColumns, Targets, column_values
from .decoded_images import DecodedImages, image_digest

_FILE_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}


def open_dataset(source: str | Path, image_column: str = "image") -> DatasetDict:
    """
    Open a prepared dataset, a Parquet, CSV or JSON file, an image folder, or a dataset on the Hub.

    Args:
        source (`str` or `Path`):
            A folder, a file, or a Hub id.
        image_column (`str`, *optional*, defaults to `"image"`):
            Column of images, or of image files; relative paths in a CSV or JSON file start from its folder.

    Returns:
        `DatasetDict`: The splits; a single file is the split `train`.

    Raises:
        [`DatasetError`]: If it cannot be opened or has no such column.
    """
    path = Path(source)
    refuse_missing(source)
    if path.is_file() and path.suffix not in _FILE_BUILDERS:
        raise DatasetError(f"{source} must be one of {', '.join(_FILE_BUILDERS)}. Convert it, or name its folder.")
    file = {"path": _FILE_BUILDERS[path.suffix], "data_files": str(path)} if path.is_file() else {"path": str(source)}
    try:
        splits = load_dataset(**file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"The dataset {source} cannot be opened: {error}") from error
    for name, split in splits.items():
        if image_column not in split.column_names:
            raise DatasetError(f"{source} has no image column {image_column!r}; it has {split.column_names}.")
        if not isinstance(split.features[image_column], Image):
            if str(getattr(split.features[image_column], "dtype", "")).endswith("string"):
                split = split.map(_resolve_path, fn_kwargs={"column": image_column, "folder": str(path.parent)})
            splits[name] = split.cast_column(image_column, Image())
    return splits


def refuse_missing(source: str | Path) -> None:
    """
    Refuse a dataset that is neither here nor, by its name, on the Hub.

    Args:
        source (`str` or `Path`):
            A folder, a file, or a Hub id.

    Raises:
        [`DatasetError`]: If there is no such folder or file.
    """
    path = Path(source)
    if not path.exists() and (path.is_absolute() or path.suffix in _FILE_BUILDERS or str(source).count("/") > 1):
        raise DatasetError(f"There is no dataset at {source}. Name a folder, a Parquet, CSV or JSON file, or a Hub id.")


def _resolve_path(row: dict[str, Any], column: str, folder: str) -> dict[str, Any]:
    is_local = row[column] and "://" not in row[column]
    return {column: str(Path(folder) / row[column]) if is_local else row[column]}


def stored_image(rows: Dataset, row: int, column: str) -> Any:
    """
    Read the image of a row.

    Args:
        rows (`Dataset`):
            An opened split.
        row (`int`):
            Number of the row.
        column (`str`):
            Column of images.

    Returns:
        A PIL image, or `None` if the row has none.

    Raises:
        [`DatasetError`]: If its file is missing or damaged.
    """
    try:
        return rows[row][column]
    except OSError as error:
        raise DatasetError(f"The image of row {row} cannot be read: {error}. Correct or remove the row.") from error


def split_rows(
    dataset: Dataset, columns: DatasetColumns, fraction: float = 0.15, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """
    Split rows into training and validation rows, for a dataset without a validation split.

    The split depends on the seed and the groups alone, not on the order of the rows, so teacher and students share it.
    Whole groups come as close to the fraction as they can, by the same rule as for VinDr-CXR.

    Args:
        dataset (`Dataset`):
            The rows.
        columns ([`DatasetColumns`]):
            Images with the same `group` stay together. Without it, or where it is missing (null or ""), every image is
            a group of its own.
        fraction (`float`, *optional*, defaults to 0.15):
            Share of the rows for validation, between 0 and 1.
        seed (`int`, *optional*, defaults to 0):
            Seed of the split.

    Returns:
        `tuple[Dataset, Dataset]`: Training and validation rows, neither empty.

    Raises:
        [`DatasetError`]: If the fraction is out of range or there are fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise DatasetError(f"validation_fraction must lie between 0 and 1, both excluded; got {fraction}.")
    groups = _groups(dataset, columns)
    chosen = held_out_groups(groups, fraction, str(seed))
    if not chosen:
        raise DatasetError(
            f"A dataset must have at least two groups to split off validation rows; its {len(groups)} rows have "
            f"{len(set(groups))}. Add a validation split, or name another group column."
        )
    is_validation = np.array([group in chosen for group in groups])
    return dataset.select(np.flatnonzero(~is_validation)), dataset.select(np.flatnonzero(is_validation))


def hold_out_fold(splits: DatasetDict, columns: DatasetColumns, folds: int, fold: int) -> DatasetDict:
    """
    Move one fold of the training rows to a split of its own, by patient, for cross-validation.

    Args:
        splits (`DatasetDict`):
            Opened splits.
        columns ([`DatasetColumns`]):
            As for [`split_rows`].
        folds (`int`):
            Number of folds; 0 changes nothing.
        fold (`int`):
            The fold to hold out, 0 to `folds - 1`.

    Returns:
        `DatasetDict`: `train` without the fold, and the fold as `fold`.

    Raises:
        [`DatasetError`]: If the numbers are out of range, there is no `train`, or there are fewer patients than folds.
    """
    if not folds:
        return splits
    if folds < 2 or not 0 <= fold < folds:
        raise DatasetError(f"folds must be at least 2, and fold one of 0 to folds - 1; got folds={folds}, fold={fold}.")
    if "train" not in splits:
        raise DatasetError(
            f"Folds are parts of the split 'train'; the dataset has {', '.join(splits)}. Set folds to 0."
        )
    train = splits["train"]
    numbers = np.array(fold_numbers(_groups(train, columns), folds, "folds"))
    if len(np.unique(numbers)) < folds:
        raise DatasetError(f"{folds} folds need at least {folds} patients; got {len(np.unique(numbers))}. Use fewer.")
    held_out = numbers == fold
    parts = {"train": train.select(np.flatnonzero(~held_out)), "fold": train.select(np.flatnonzero(held_out))}
    return DatasetDict({**splits, **parts})


def _groups(dataset: Dataset, columns: DatasetColumns) -> list[str]:
    named = enumerate(column_values(dataset, columns.group or columns.image_id))
    return [f"row {row}" if group in (None, "") else str(group) for row, group in named]


class RadiographDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """
    Rows for [`MLCAKCollator`]: the stored image, its targets, and its place in the dataset.

    The targets of all rows are made at once, so that a wrong label fails before training starts.

    Args:
        rows (`Dataset`):
            An opened split.
        targets ([`Targets`]):
            Made from the training split.

    Attributes:
        decoded_images ([`DecodedImages`], *optional*):
            The images of the same rows, from [`decode_once`]. `None` decodes an image each time it is read.
        with_images (`bool`):
            Whether a row contains its image; `False` while a [`DeviceImages`] holds them.

    Raises:
        [`LabelError`]: If a row has a label that the model does not have.

    Example:

    ```python
    >>> train = RadiographDataset(splits["train"], Targets(model.config, splits["train"], columns))  # doctest: +SKIP
    >>> sorted(train[0])  # doctest: +SKIP
    ['image', 'index', 'labels', 'local_targets']
    ```
    """

    def __init__(self, rows: Dataset, targets: Targets) -> None:
        self.targets = targets.encode(rows)
        self.decoded_images: DecodedImages | None = None
        self.with_images = True
        self._image_column = targets.columns.image
        self._images = rows.select_columns([self._image_column])
        self._names = column_values(rows, targets.columns.image_id)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Return one row.

        Returns:
            `dict`: `decoded` (array) or `image` (PIL image), `index` (`int`), `labels`, and `local_targets` if the
            model has findings.
        """
        row = {"index": int(index)} | {name: values[index] for name, values in self.targets.items()}
        if not self.with_images:
            return row
        if self.decoded_images is not None:
            return row | {"decoded": self.decoded_images[index]}
        image = stored_image(self._images, int(index), self._image_column)
        if image is None:
            raise DatasetError(f"Row {index} has no image in column {self._image_column!r}.")
        return row | {"image": image}

    def image_name(self, index: int) -> str:
        """Return the image id of a row, or its number if the dataset has no ids."""
        name = self._names[int(index)]
        return f"row {index}" if name is None else str(name)

    def digest(self, index: int) -> bytes:
        """Return the [`image_digest`] of a row's image."""
        if self.decoded_images is not None:
            return bytes(self.decoded_images.digests[index])
        return image_digest(self[index]["image"])

    def pixel_fingerprint(self) -> str:
        """Return a SHA-256 of the stored images in their order, without decoding them. It is part of a cache's key."""
        hashed = hashlib.sha256()
        for row in self._images.cast_column(self._image_column, Image(decode=False)):
            stored = row[self._image_column] or {"bytes": b"", "path": None}
            data = Path(stored["path"]).read_bytes() if stored["bytes"] is None else stored["bytes"]
            hashed.update(len(data).to_bytes(8, "little"))
            hashed.update(data)
        return hashed.hexdigest()


def describe_targets(dataset: RadiographDataset, config: MLCAKConfig) -> dict[str, Any]:
    """
    Count rows, and the positive and known labels by name. A soft label above 0.5 is positive.

    Args:
        dataset ([`RadiographDataset`]):
            Rows with targets.
        config ([`MLCAKConfig`]):
            Configuration of the model.

    Returns:
        `dict`: `{"rows": n, "global": {name: positives}, "local": {name: [positives, known]}}`.
    """
    labels = dataset.targets["labels"]
    if labels.ndim == 1:
        labels = labels[:, None] == np.arange(len(config.global_labels))
    positives = (labels > 0.5).sum(axis=0).tolist()
    counts: dict[str, Any] = {"rows": len(dataset), "global": dict(zip(config.global_labels, positives, strict=True))}
    if "local_targets" in dataset.targets:
        local = dataset.targets["local_targets"]
        positives_and_known = np.stack([(local > 0.5).sum(axis=0), (local >= 0).sum(axis=0)], axis=1).tolist()
        counts["local"] = dict(zip(config.local_labels, positives_and_known, strict=True))
    return counts
