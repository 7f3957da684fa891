"""What a data folder holds, in the layout of PhysioNet or Kaggle."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import DatasetError
from ..preparation.image_folder import listed
from ..preparation.source import SourceImages
from ..preparation.tables import id_key, read_groups
from .conversions import original_sizes
from .label_tables import read_kaggle, read_physionet
from .options import VinDrOptions
from .vindr_folder import VinDrFolder


class SourceLayout(NamedTuple):
    """A layout that can be read.

    Args:
        title (`str`):
            Its name for people.
        sign (`str`):
            Folder or file that only this layout has.
        folders (`tuple[str, ...]`):
            Folders with labelled images.
        tables (`tuple[str, ...]`):
            Tables that must be there.
        read (`Callable`):
            Function that reads the folders with their tables.
    """

    title: str
    sign: str
    folders: tuple[str, ...]
    tables: tuple[str, ...]
    read: Callable[[Path], list[VinDrFolder]]


_PHYSIONET_TABLES = tuple(
    f"annotations/{kind}_{name}.csv" for name in ("train", "test") for kind in ("image_labels", "annotations")
)
LAYOUTS = {
    "physionet": SourceLayout("PhysioNet", "annotations", ("train", "test"), _PHYSIONET_TABLES, read_physionet),
    "kaggle": SourceLayout("Kaggle", "train.csv", ("train",), ("train.csv",), read_kaggle),
}
_EXPECTED = "PhysioNet's layout has train/, test/ and annotations/*.csv, Kaggle's has train/ and train.csv"


def detect_layout(data_dir: str | Path, layout: str = "auto") -> Literal["physionet", "kaggle"]:
    """Detect the layout of a folder from its tables, and check that it is complete.

    Args:
        data_dir (`str` or `Path`):
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
    try:
        name = _detected(root) if layout == "auto" else layout
        title, _, folders, tables, _ = LAYOUTS[name]
        missing = [f"{folder}/" for folder in folders if not (root / folder).is_dir()]
        missing += [table for table in tables if not (root / table).is_file()]
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read ({error.strerror}). Make it readable.") from None
    if missing:
        problem = f"{root} is not laid out as on {title}: it lacks {', '.join(missing)}"
        raise DatasetError(f"{problem}. {_EXPECTED}. Complete the download.")
    return "kaggle" if name == "kaggle" else "physionet"


def _detected(root: Path) -> str:
    fitting = _fitting(root)
    if len(fitting) > 1:
        problem = f"{root} has the tables of both layouts, annotations/ and train.csv"
        raise DatasetError(f"{problem}. Choose layout='physionet' or layout='kaggle' (--layout).")
    if not fitting:
        entries = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if path.name[0] != ".")
        inside = [name for name in entries if name.endswith("/") and _fitting(root / name)]
        remedy = f"Name its folder {inside[0]}." if inside else "Name the folder that holds them."
        raise DatasetError(f"{root} must have a known layout; got {listed(entries)}. {_EXPECTED}. {remedy}")
    return fitting[0]


def _fitting(folder: Path) -> list[str]:
    # A folder that may not be listed has none.
    return [name for name, layout in LAYOUTS.items() if os.access(folder / layout.sign, os.F_OK)]


def read_layout(data_dir: str | Path, options: VinDrOptions | None = None) -> SourceImages:
    """Read the tables of a folder and match them with its files.

    Args:
        data_dir (`str` or `Path`):
            The folder.
        options (`VinDrOptions`, *optional*):
            The choices. Only layout, groups, sizes and on_error matter.

    Returns:
        `SourceImages`: The usable images of each source folder, and the skipped ones.

    Raises:
        [`DatasetError`]: When a folder, table or column is missing; or, with `on_error="raise"`, an image has no file,
            row, group or size.
        [`LabelError`]: When a label is unknown or not 0 or 1, or readings are contradictory.
    """
    options = options or VinDrOptions()
    root = Path(data_dir).expanduser()
    groups = None if options.groups is None else read_groups(Path(options.groups))
    train, *others = folders = LAYOUTS[detect_layout(root, options.layout)].read(root)
    elsewhere = {id_key(image_id) for folder in others for image_id in folder.readings}
    for image_id in train.readings:
        if id_key(image_id) in elsewhere:
            train.refuse(image_id, "of train/ that are also in test/", "Remove them from one table")
    sizes = original_sizes(root, folders, options.sizes)
    images = {folder.name: folder.records(groups, sizes) for folder in folders}
    test_groups = {record.group for record in images.get("test", ())}
    in_both = "of train/ from a group (patient) that is also in test/"
    for record in images["train"]:
        if record.group in test_groups:
            train.refuse(record.image_id, in_both, "Correct the groups file")
    images["train"] = [record for record in images["train"] if record.image_id not in train.problems]
    if options.on_error == "raise":
        for folder in folders:
            folder.raise_problems()
    table_notes = [f"{count} {text}" for folder in folders for text, count in folder.table_notes.items()]
    return SourceImages(images, [image for folder in folders for image in folder.skipped()], table_notes)
