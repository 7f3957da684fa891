"""Prediction as a function of batches, for Ray Data and `datasets.Dataset.map`, which bring the machines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pyarrow
from pyarrow import fs, parquet

from ..errors import DatasetError
from ..radiographs.file_search import RADIOGRAPH_SUFFIXES, find_radiographs
from .file_predictor import FilePredictor, predict_each
from .onnx_predictor import OnnxPredictor, find_onnx_file
from .predictor import RadiographPredictor
from .reading import Prediction
from .row_formats import arrow_table, flat_row, table_columns

_SETTINGS = "settings"


class BatchPredictor:
    """A batch of files in, a table of predictions out, for `map_batches` of Ray Data and `map` of datasets.

    The model is loaded where the object is made, and again in each process that receives the object. A file that cannot
    be read is a row with its reason in `error`.

    Args:
        model (`str`):
            Folder, Hub id or name of a trained model, or a file or folder that `mlcak export --to onnx` wrote.
        file_column (`str`, *optional*, defaults to `"file"`):
            Column of the batch with the files: paths, or URIs of a bucket, such as `s3://archive/1.dcm`.
        bytes_column (`str`, *optional*, defaults to `"bytes"`):
            Column with the content of the files. Where it is missing or null, the file is opened.
        options: `device`, `value_range`, `voi`, `on_suspect` and `operating_point`, as in [`RadiographPredictor`].

    Raises:
        [`MLCAKError`]: When the model cannot be loaded.

    Example:

    ```python
    >>> from mlcak_hf import BatchPredictor
    >>> predict = BatchPredictor("pneumonia-28")
    >>> predict({"file": ["missing.dcm"]}).to_pylist()[0]["error"]
    'The file does not exist. Check the path.'
    ```
    """

    def __init__(self, model: str, file_column: str = "file", bytes_column: str = "bytes", **options: Any) -> None:
        self.model, self.file_column, self.bytes_column, self.options = model, file_column, bytes_column, options
        self._load()

    def _load(self) -> None:
        onnx = find_onnx_file(self.model) is not None
        load: Any = OnnxPredictor if onnx else RadiographPredictor.from_pretrained
        self.predictor: FilePredictor = load(self.model, **self.options)
        choices = json.dumps(self.predictor.choices, sort_keys=True)
        #: Digest of the model and the options. It is in each row, so that rows of two models are never mixed.
        self.settings = hashlib.sha256(choices.encode()).hexdigest()[:12]
        self.columns = [*table_columns(self.predictor), _SETTINGS]

    def __getstate__(self) -> dict[str, Any]:
        # Not the model: another process loads it faster than it receives it. The settings name its weights, so that
        # the cache of datasets does not take the predictions of one model for those of another.
        return {name: value for name, value in vars(self).items() if name != "predictor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._load()

    def __call__(self, batch: Mapping[str, Any] | pyarrow.Table) -> pyarrow.Table:
        """Predict a batch.

        Args:
            batch (`Mapping` or `pyarrow.Table`):
                With the column of files, and perhaps that of their bytes.

        Returns:
            `pyarrow.Table`: A row for each file, with the columns of `mlcak predict` and `settings`, and with the other
            columns of a batch that is a table, except for the bytes.
        """
        names = [str(name) for name in _values(batch, self.file_column)]
        contents = _values(batch, self.bytes_column) or [None] * len(names)
        rows = [
            flat_row(prediction, self.predictor.provenance)
            | {"file": name, "image_id": PurePosixPath(name).stem, _SETTINGS: self.settings}
            for name, prediction in zip(names, self._predict(names, contents), strict=True)
        ]
        table = arrow_table(rows, self.columns)
        if isinstance(batch, pyarrow.Table):
            for name in batch.column_names:
                if name not in (*self.columns, self.bytes_column):
                    table = table.append_column(batch.schema.field(name), batch[name])
        return table

    def _predict(self, names: Sequence[str], contents: Sequence[bytes | None]) -> list[Prediction]:
        found: dict[int, Prediction] = {}
        with TemporaryDirectory(prefix="mlcak-") as folder:
            paths: dict[int, Path] = {}
            for number, (name, content) in enumerate(zip(names, contents, strict=True)):
                try:
                    paths[number] = _local_file(name, content, Path(folder, str(number)))
                except DatasetError as error:
                    found[number] = Prediction(Path(name), error=str(error))
                except (OSError, ValueError) as error:
                    found[number] = Prediction(Path(name), error=f"The file cannot be fetched ({error}).")
            found |= zip(paths, predict_each(self.predictor, list(paths.values())), strict=True)
        return [found[number] for number in range(len(names))]


def _values(batch: Mapping[str, Any] | pyarrow.Table, column: str) -> list[Any]:
    """Values of a column of lists, arrays or a table; none without the column."""
    names = batch.column_names if isinstance(batch, pyarrow.Table) else batch
    if column not in names:
        return []
    values = batch[column]
    return values.to_pylist() if isinstance(values, pyarrow.ChunkedArray) else list(values)


def _local_file(name: str, content: bytes | None, copy: Path) -> Path:
    if content is None and "://" not in name:
        return Path(name)
    if content is None:
        filesystem, path = _filesystem(name)
        with filesystem.open_input_stream(path) as stream:
            content = stream.read()
    copy.write_bytes(content)
    return copy


def list_files(source: str) -> list[str]:
    """List the radiographs in a folder or a bucket.

    Args:
        source (`str`):
            A folder, or a URI such as `s3://archive/2024`. In a bucket, files are known by their suffix.

    Raises:
        [`DatasetError`]: When there are none, or the place cannot be reached.
    """
    if "://" not in source:
        return [str(file) for file in find_radiographs(source)]
    parts = urlsplit(source)
    root = len(_connected(_root(source))[1].rstrip("/"))
    found = [path for path in _list(source) if path.lower().endswith(RADIOGRAPH_SUFFIXES)]
    if not found:
        raise DatasetError(f"There are no radiographs in {source}. Name a place with {', '.join(RADIOGRAPH_SUFFIXES)}.")
    return [parts._replace(path=path[root:]).geturl() for path in found]


def finished_files(output: str, settings: str) -> set[str]:
    """Read which files are done from the Parquet files that earlier runs wrote to a folder or a bucket.

    A Parquet file without an end, which a kill cut off, is deleted; its radiographs are not done.

    Args:
        output (`str`):
            The folder or its URI. It may be missing.
        settings (`str`):
            Of the [`BatchPredictor`] that continues.

    Raises:
        [`DatasetError`]: When rows of another model or other options are there, or the files hold something else.
    """
    filesystem, _ = _filesystem(output)
    done: set[str] = set()
    for path in _list(output):
        if not path.endswith(".parquet"):
            continue
        rows = _rows(filesystem, path)
        if rows is None:
            filesystem.delete_file(path)
        elif rows.keys() != {"file", _SETTINGS} or {*rows[_SETTINGS]} - {settings}:
            raise DatasetError(
                f"{output} holds other data, or rows of another model or with other options. Name another output."
            )
        else:
            done.update(rows["file"])
    return done


def _rows(filesystem: fs.FileSystem, path: str) -> dict[str, list[str]] | None:
    """Files and settings of a Parquet file, if it has such columns; `None` for one without an end."""
    with filesystem.open_input_file(path) as stream:
        try:
            table = parquet.ParquetFile(stream)
        except pyarrow.ArrowInvalid:
            return None
        columns = [name for name in ("file", _SETTINGS) if name in table.schema_arrow.names]
        found: dict[str, list[str]] = table.read(columns).to_pydict()
    return found


def _list(place: str) -> list[str]:
    """Paths of all files in a folder or a bucket, in order; none if it is missing."""
    filesystem, folder = _filesystem(place)
    try:
        found = filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    except OSError as error:
        raise DatasetError(f"{place} cannot be listed ({error}). Check its name and your permissions.") from error
    return sorted(info.path for info in found if info.is_file)


def _filesystem(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder or a URI, and the path in it."""
    if "://" not in place:
        return fs.LocalFileSystem(), str(Path(place).absolute())
    filesystem, root = _connected(_root(place))
    return filesystem, f"{root.rstrip('/')}/{urlsplit(place).path.lstrip('/')}"


def _root(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(path="/" if parts.scheme == "file" else "").geturl()


@cache
def _connected(root: str) -> tuple[fs.FileSystem, str]:
    """The file system of a bucket and the bucket's path in it: connected once, because that takes long."""
    try:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(root)
    except (OSError, ValueError, ImportError) as error:
        raise DatasetError(f"The place {root} cannot be reached ({error}). Name a folder or a bucket.") from error
    return found
