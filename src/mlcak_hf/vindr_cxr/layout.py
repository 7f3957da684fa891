"""What a data folder holds, in the layout of PhysioNet or Kaggle."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, cast

from ..errors import DatasetError
from ..preparation.image_folder import SKIP_OR, file_states, listed
from ..preparation.source import SkippedImage
from ..preparation.tables import id_key, read_groups
from . import kaggle, physionet
from .conversions import original_sizes, size_tables
from .options import VinDrOptions
from .vindr_folder import VinDrFolder, VinDrRecord

_MODULES: dict[str, ModuleType] = {"physionet": physionet, "kaggle": kaggle}
_EXPECTED = "PhysioNet's layout has train/, test/ and annotations/*.csv, Kaggle's has train/ and train.csv"


@dataclass
class VinDrLayout:
    """What a data folder holds.

    Args:
        name (`str`):
            `"physionet"` or `"kaggle"`.
        train (`list[VinDrRecord]`):
            The usable images of train/, in the order of the tables.
        test (`list[VinDrRecord]`):
            Those of test/; none on Kaggle, whose test images have no labels.
        skipped (`list[SkippedImage]`):
            The images that cannot be used.
        table_notes (`list[str]`):
            What was corrected or ignored in the tables, one sentence each.
    """

    name: str
    train: list[VinDrRecord]
    test: list[VinDrRecord]
    skipped: list[SkippedImage]
    table_notes: list[str]


def detect_layout(data_dir: str | os.PathLike[str], layout: str = "auto") -> Literal["physionet", "kaggle"]:
    """Detect the layout of a folder from its tables, and check that it is complete.

    Args:
        data_dir (`str` or `os.PathLike`):
            Local folder.
        layout (`str`, *optional*, defaults to `"auto"`):
            `"physionet"` or `"kaggle"` if it is known.

    Returns:
        `str`: `"physionet"` or `"kaggle"`.

    Raises:
        [`DatasetError`]: When it is not a readable local folder, or has the tables of neither layout, of both, or only
            a part of a layout.
    """
    if "://" in str(data_dir):
        raise DatasetError(
            f"data_dir must be a local folder; got the address {data_dir}. VinDr-CXR's data use agreement forbids"
            " passing the data on: download it with your own account and name the folder."
        )
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder. Name the folder with the images and tables. {_EXPECTED}.")
    if layout == "auto":
        layout = _detected(root)
    module = _MODULES[layout]
    missing = [f"{name}/" for name in module.FOLDERS if not (root / name).is_dir()]
    try:
        missing += [name for name in module.TABLES if not (root / name).is_file()]
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read ({error.strerror}). Make its folder readable.") from None
    if missing:
        raise DatasetError(
            f"{root} is not laid out as on {'PhysioNet' if layout == 'physionet' else 'Kaggle'}: it lacks"
            f" {', '.join(missing)}. {_EXPECTED}. Name that folder, and complete the download."
        )
    return cast('Literal["physionet", "kaggle"]', layout)


def _detected(root: Path) -> str:
    fitting = _fitting(root)
    if len(fitting) == 1:
        return fitting[0]
    try:
        entries = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise DatasetError(f"{root} cannot be read ({error.strerror}). Name a folder that you may list.") from None
    if fitting:
        raise DatasetError(
            f"{root} has the tables of both layouts, annotations/ and train.csv. Choose one with layout='physionet' or"
            " layout='kaggle' (--layout)."
        )
    inside = [name for name in entries if name.endswith("/") and _fitting(root / name)]
    remedy = f"Name its folder {inside[0]}." if inside else "Name the folder that holds them."
    raise DatasetError(f"{root} must have a known layout; got {listed(entries)}. {_EXPECTED}. {remedy}")


def _fitting(folder: Path) -> list[str]:
    try:
        signs = {"physionet": (folder / "annotations").is_dir(), "kaggle": (folder / "train.csv").is_file()}
    except OSError:  # no permission to look into it
        return []
    return [name for name, there in signs.items() if there]


def source_folders(layout: str) -> tuple[str, ...]:
    """Return the folders with labelled images: "train" and "test", or "train" alone on Kaggle."""
    folders: tuple[str, ...] = _MODULES[layout].FOLDERS
    return folders


def layout_fingerprint(data_dir: str | os.PathLike[str], options: VinDrOptions | None = None) -> str:
    """Identify the content of a folder: text of the tables; name, size and modification time of every image file.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder.
        options (`VinDrOptions`, *optional*):
            The choices, of which layout, groups and sizes count.

    Returns:
        `str`: A hexadecimal digest that changes whenever one of them does.

    Raises:
        [`DatasetError`]: When a table cannot be read, or as in [`detect_layout`].
    """
    options = options or VinDrOptions()
    root, module = Path(data_dir).expanduser(), _MODULES[detect_layout(data_dir, options.layout)]
    digest = hashlib.sha256()
    sizes = None if options.sizes is None else str(options.sizes)
    for path in [*(root / name for name in module.TABLES), *size_tables(root, module.FOLDERS, sizes)]:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise DatasetError(f"{path.name} cannot be read ({error.strerror}). Name a readable file.") from None
    for name in module.FOLDERS:
        digest.update(repr((name, list(file_states(root / name)))).encode())
    if options.groups is not None:
        digest.update(repr(sorted(read_groups(Path(options.groups)).items())).encode())
    return digest.hexdigest()


def read_layout(data_dir: str | os.PathLike[str], options: VinDrOptions | None = None) -> VinDrLayout:
    """Read the tables of a folder and match them with its files.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder.
        options (`VinDrOptions`, *optional*):
            The choices, of which layout, groups, sizes and on_error count.

    Returns:
        `VinDrLayout`: The usable images and the skipped ones.

    Raises:
        [`DatasetError`]: When a folder, table or column is missing; or, with `on_error="raise"`, an image has no file,
            row, group or size.
        [`LabelError`]: When a label is unknown or not 0 or 1, or readings are contradictory.
    """
    options = options or VinDrOptions()
    name = detect_layout(data_dir, options.layout)
    root = Path(data_dir).expanduser()
    by_image = None if options.groups is None else read_groups(Path(options.groups))
    folders: list[VinDrFolder] = _MODULES[name].read_folders(root)
    _refuse_images_in_both(folders)
    original = original_sizes(root, folders, None if options.sizes is None else str(options.sizes))
    records = {folder.name: folder.records(by_image, original) for folder in folders}
    train = folders[0]
    test_groups = {record.group for record in records.get("test", ())}
    for record in records["train"]:
        if record.group in test_groups:
            headline = "of train/ from a group (patient) that is also in test/"
            train.refuse(record.image_id, headline, f"Correct the groups file, {SKIP_OR}")
    if options.on_error == "raise":
        for folder in folders:
            folder.raise_problems()
    table_notes = [f"{count} {text}" for folder in folders for text, count in folder.table_notes.items()]
    skipped = [image for folder in folders for image in folder.skipped()]
    usable = [record for record in records["train"] if record.image_id not in train.problems]
    return VinDrLayout(name, usable, records.get("test", []), skipped, table_notes)


def _refuse_images_in_both(folders: list[VinDrFolder]) -> None:
    train, *others = folders
    elsewhere = {id_key(image_id) for folder in others for image_id in folder.readings}
    for image_id in train.readings:
        if id_key(image_id) in elsewhere:
            headline = "of train/ that are also in test/"
            train.refuse(image_id, headline, f"Remove them from one of the two tables, {SKIP_OR}")
