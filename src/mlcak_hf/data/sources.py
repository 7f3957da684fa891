"""Open any dataset of radiographs, split off validation rows, and hand rows with targets to a collator."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Image, load_dataset

from ..errors import DatasetError
from ..preparation.group_split import held_out_groups
from .columns import DatasetColumns, Targets
from .decoded_images import Canvases

if TYPE_CHECKING:
    from ..configuration_mlcak import MLCAKConfig

_FILE_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}


def open_dataset(source: str | Path, image_column: str = "image") -> DatasetDict:
    """Open what `mlcak prepare` wrote, a Parquet, CSV or JSON file, an image folder, or a dataset on the Hub.

    Args:
        source: a folder, a file, or a Hub id.
        image_column: a column of image bytes or paths is decoded as images.

    Returns:
        The splits; a single file is all `train`.

    Raises:
        DatasetError: if nothing can be opened there, or it has no images in that column.
    """
    path = Path(source)
    looks_local = path.exists() or path.is_absolute() or path.suffix in _FILE_BUILDERS or str(source).count("/") > 1
    if looks_local and not path.exists():
        raise DatasetError(f"There is no dataset at {source}. Name a folder, a Parquet, CSV or JSON file, or a Hub id.")
    try:
        if path.is_file():
            if path.suffix not in _FILE_BUILDERS:
                raise DatasetError(f"{source} is none of {sorted(_FILE_BUILDERS)}; convert it, or name its folder.")
            splits = load_dataset(_FILE_BUILDERS[path.suffix], data_files=str(path))
        else:
            splits = load_dataset(str(source))
    except (OSError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"The dataset {source} cannot be opened: {error}") from error
    for name, split in splits.items():
        if image_column not in split.column_names:
            raise DatasetError(f"{source} has no image column {image_column!r}; it has {split.column_names}.")
        if not isinstance(split.features[image_column], Image):
            splits[name] = split.cast_column(image_column, Image())
    return splits


def split_validation(
    dataset: Dataset, columns: DatasetColumns, fraction: float = 0.15, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """Split rows into training and validation by patient, for a dataset that has no validation split.

    The split depends on (seed, group) alone, not on the order of the rows: teacher and students share it. The rule is
    that of VinDr-CXR's: whole groups come as close to the fraction as they can (`held_out_groups`).

    Args:
        dataset: the rows.
        columns: `group` keeps patients together, else `image_id`, else every row is its own group.
        fraction: of the rows that become validation, above 0 and below 1.
        seed: of the split.

    Returns:
        (training, validation), neither empty.

    Raises:
        DatasetError: if the fraction is out of range or there are fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise DatasetError(f"validation_fraction must lie between 0 and 1, both excluded; got {fraction}.")
    column = columns.group or columns.image_id
    groups = [str(group) for group in (dataset[column] if column else range(len(dataset)))]
    chosen = held_out_groups(groups, fraction, str(seed))
    if not chosen:
        raise DatasetError(
            f"The {len(groups)} rows have {len(set(groups))} group; validation rows need a group of their own."
        )
    is_validation = np.array([group in chosen for group in groups])
    return dataset.select(np.flatnonzero(~is_validation)), dataset.select(np.flatnonzero(is_validation))


class RadiographDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows for `MLCAKCollator`: the stored image, its targets, and its place in the dataset. Knows of no teacher.

    Targets of all rows are made at once, so that a wrong label fails before the training, not in it.

    Args:
        rows: an opened split.
        targets: made from the training split.
        canvases: the rows' images, decoded before (`decode_once`); None decodes an image whenever it is asked for.

    Raises:
        LabelError: if a row has a label that the model does not have.

    Example:

    ```python
    >>> train = RadiographDataset(splits["train"], Targets(model.config, splits["train"], columns))  # doctest: +SKIP
    >>> sorted(train[0])  # doctest: +SKIP
    ['image', 'index', 'labels', 'local_labels']
    ```
    """

    def __init__(self, rows: Dataset, targets: Targets, canvases: Canvases | None = None) -> None:
        if canvases is not None and len(canvases) != len(rows):
            raise DatasetError(f"There are {len(canvases)} decoded images for {len(rows)} rows: decode these rows.")
        self.targets, self.canvases = targets.encode(rows), canvases
        self._image_column = targets.columns.image
        self._images = rows.select_columns([self._image_column])
        self._names = None if targets.columns.image_id is None else rows.select_columns([targets.columns.image_id])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one image.

        Returns:
            `canvas` (array) if the images were decoded before, else `image` (PIL); `index` (int), `labels` and, if the
            model has findings, `local_labels`.
        """
        row = {"index": int(index)} | {name: values[index] for name, values in self.targets.items()}
        if self.canvases is not None:
            return row | {"canvas": self.canvases[index]}
        image = self._images[int(index)][self._image_column]
        if image is None:
            raise DatasetError(f"Row {index} has no image in column {self._image_column!r}.")
        return row | {"image": image}

    def image_name(self, index: int) -> str:
        """Return the image id of a row, or its number where the dataset has no ids."""
        if self._names is None:
            return f"row {index}"
        return str(next(iter(self._names[int(index)].values())))

    def pixel_fingerprint(self) -> str:
        """Return a SHA-256 of the stored images in their order, none of them decoded: the key of a teacher cache."""
        hashed = hashlib.sha256()
        for row in self._images.cast_column(self._image_column, Image(decode=False)):
            stored = row[self._image_column] or {"bytes": b"", "path": None}
            data = Path(stored["path"]).read_bytes() if stored["bytes"] is None else stored["bytes"]
            hashed.update(len(data).to_bytes(8, "little"))
            hashed.update(data)
        return hashed.hexdigest()


def describe_targets(dataset: RadiographDataset, config: MLCAKConfig) -> dict[str, Any]:
    """Count what a dataset teaches: rows, and known and positive labels by name; of soft labels, more than one half.

    Args:
        dataset: rows with targets.
        config: of the model that they are for.

    Returns:
        `{"rows": n, "global": {name: positives}, "local": {name: [positives, known]}}`.
    """
    labels = dataset.targets["labels"]
    names = config.global_labels
    columns = labels if labels.ndim == 2 else np.stack([labels == i for i in range(len(names))], axis=1)
    counts: dict[str, Any] = {
        "rows": len(dataset),
        "global": {name: int((columns[:, i] > 0.5).sum()) for i, name in enumerate(names)},
    }
    if "local_labels" in dataset.targets:
        local = dataset.targets["local_labels"]
        counts["local"] = {
            name: [int((local[:, i] > 0.5).sum()), int((local[:, i] >= 0).sum())]
            for i, name in enumerate(config.local_labels)
        }
    return counts
