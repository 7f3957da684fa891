"""A data folder in any of the layouts that people have VinDr-CXR in: which it is, what it holds, who belongs together.

`layout_physionet.py` and `layout_kaggle.py` say how the two releases lie on disk and read their tables;
`layout_pictures.py` is about PNG and JPEG files in place of the DICOM files of either.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, cast, get_args

from ..errors import DatasetError
from . import kaggle as layout_kaggle
from . import physionet as layout_physionet
from .conversions import original_sizes, size_tables
from .source import SKIP, Box, ImageRecord, LeftOut, SourceFolder, file_states, listed
from .tables import id_key, read_groups

__all__ = [
    "LAYOUTS",
    "Box",
    "ImageRecord",
    "Layout",
    "LeftOut",
    "VinDrLayout",
    "detect_layout",
    "layout_fingerprint",
    "read_layout",
    "source_folders",
]

Layout = Literal["auto", "physionet", "kaggle"]
LAYOUTS: tuple[str, ...] = get_args(Layout)

_MODULES: dict[str, ModuleType] = {"physionet": layout_physionet, "kaggle": layout_kaggle}
_LOOKED_FOR = "PhysioNet's layout has train/, test/ and annotations/*.csv, Kaggle's has train/ and train.csv"


@dataclass
class VinDrLayout:
    """What a data folder holds.

    Args:
        name: "physionet" or "kaggle".
        train: The usable images of train/, in the order of the tables.
        test: Those of test/; none on Kaggle, whose test images have no labels.
        left_out: The images that cannot be used, and why.
        remarks: What was put right or passed over, one sentence each with its number.
    """

    name: str
    train: list[ImageRecord]
    test: list[ImageRecord]
    left_out: list[LeftOut]
    remarks: list[str]


def detect_layout(data_dir: str | os.PathLike[str], layout: str = "auto") -> Literal["physionet", "kaggle"]:
    """Tell how a folder is laid out by the tables that lie in it.

    Args:
        data_dir: Local folder.
        layout: "physionet" or "kaggle" where the user has said so; "auto" looks.

    Returns:
        "physionet" or "kaggle".

    Raises:
        DatasetError: It is a URL, no folder, or one that cannot be listed; it has the tables of neither layout, or of
            both; or the layout is there in part only.
    """
    if layout not in LAYOUTS:
        raise DatasetError(f"layout must be one of {', '.join(LAYOUTS)}, but {layout!r} came")
    if "://" in str(data_dir):
        raise DatasetError(
            f"data_dir must be a local folder, but the address {data_dir} came. VinDr-CXR's data use agreement forbids"
            " passing the data on: download it with your own account and name the folder"
        )
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}; name the one that holds the images and tables. {_LOOKED_FOR}")
    if layout == "auto":
        layout = _recognised(root)
    module = _MODULES[layout]
    missing = [f"{name}/" for name in module.FOLDERS if not (root / name).is_dir()]
    try:
        missing += [name for name in module.TABLES if not (root / name).is_file()]
    except OSError as error:
        raise DatasetError(
            f"{error.filename} cannot be read ({error.strerror}); its folder must be readable for you"
        ) from None
    if missing:
        raise DatasetError(
            f"{root} is not laid out as on {'PhysioNet' if layout == 'physionet' else 'Kaggle'}: it lacks"
            f" {', '.join(missing)}. {_LOOKED_FOR}; name that folder, and complete the download"
        )
    return cast('Literal["physionet", "kaggle"]', layout)


def _recognised(root: Path) -> str:
    fitting = _fitting(root)
    if len(fitting) == 1:
        return fitting[0]
    try:
        entries = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise DatasetError(f"{root} cannot be read ({error.strerror}); name a folder that you may list") from None
    if fitting:
        raise DatasetError(
            f"{root} has the tables of both layouts, annotations/ and train.csv; say which to use:"
            " layout='physionet' or layout='kaggle' (--layout)"
        )
    inside = [name for name in entries if name.endswith("/") and _fitting(root / name)]
    remedy = f"name its folder {inside[0]}" if inside else "name the folder that holds them"
    raise DatasetError(f"{root} has no layout that is known: {_LOOKED_FOR}, but it holds {listed(entries)}; {remedy}")


def _fitting(folder: Path) -> list[str]:
    try:
        signs = {"physionet": (folder / "annotations").is_dir(), "kaggle": (folder / "train.csv").is_file()}
    except OSError:  # no permission to look into it
        return []
    return [name for name, there in signs.items() if there]


def source_folders(layout: str) -> tuple[str, ...]:
    """The folders with labelled images: "train" and "test", or "train" alone on Kaggle."""
    folders: tuple[str, ...] = _MODULES[layout].FOLDERS
    return folders


def layout_fingerprint(
    data_dir: str | Path, groups: str | Path | None, layout: str = "auto", sizes: str | None = None
) -> str:
    """Identify a folder's content: text of the tables, and name, size and time of change of every image file.

    Args:
        data_dir: The data folder.
        groups: The groups file, if there is one.
        layout: As in `detect_layout`.
        sizes: As in `read_layout`.

    Returns:
        A hexadecimal digest that changes whenever one of them does.

    Raises:
        DatasetError: As `detect_layout`, no such groups file, or a table that cannot be read.
    """
    root, module = Path(data_dir).expanduser(), _MODULES[detect_layout(data_dir, layout)]
    digest = hashlib.sha256()
    for path in [*(root / name for name in module.TABLES), *size_tables(root, module.FOLDERS, sizes)]:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise DatasetError(f"{path.name} cannot be read ({error.strerror}); it must be a readable file") from None
    for name in module.FOLDERS:
        digest.update(repr((name, list(file_states(root / name)))).encode())
    if groups is not None:
        digest.update(repr(sorted(read_groups(Path(groups)).items())).encode())
    return digest.hexdigest()


def read_layout(
    data_dir: str | Path,
    groups: str | Path | None = None,
    on_error: str = "raise",
    layout: str = "auto",
    sizes: str | None = None,
) -> VinDrLayout:
    """Read the tables of a folder and match them with its files.

    Args:
        data_dir: The data folder.
        groups: CSV with the columns image_id and group_id, which says which images belong to one patient.
        on_error: "raise" stops at the first kind of problem; "skip" leaves the images concerned out and lists them.
        layout: As in `detect_layout`.
        sizes: Where the files are PNG or JPEG: CSV with the sizes of the originals, to which the boxes refer (image_id
            and dim0, dim1 or height, width); "same" where the pictures have them still; None for train_meta.csv and
            test_meta.csv in the folder.

    Returns:
        The usable images and the left-out ones.

    Raises:
        DatasetError: Folder, table or column missing; an image without file, file without row, image without group,
            boxes of pictures without the size that they refer to.
        LabelError: An unknown label, a cell that is not 0 or 1, a reading that contradicts itself or another.
    """
    name = detect_layout(data_dir, layout)
    root = Path(data_dir).expanduser()
    by_image = None if groups is None else read_groups(Path(groups))
    folders: list[SourceFolder] = _MODULES[name].read_folders(root)
    _refuse_images_in_both(folders)
    original = original_sizes(root, folders, sizes)
    records = {folder.name: folder.records(by_image, original) for folder in folders}
    train = folders[0]
    test_groups = {record.group for record in records.get("test", ())}
    for record in records["train"]:
        if record.group in test_groups:
            headline = "of train/ from a group (patient) that is also in test/"
            train.refuse(record.image_id, headline, f"Correct the groups file, {SKIP}")
    if on_error == "raise":
        for folder in folders:
            folder.raise_problems()
    remarks = [f"{count} {text}" for folder in folders for text, count in folder.remarks.items()]
    left_out = [record for folder in folders for record in folder.left_out()]
    usable = [record for record in records["train"] if record.image_id not in train.problems]
    return VinDrLayout(name, usable, records.get("test", []), left_out, remarks)


def _refuse_images_in_both(folders: list[SourceFolder]) -> None:
    train, *others = folders
    elsewhere = {id_key(image_id) for folder in others for image_id in folder.readings}
    for image_id in train.readings:
        if id_key(image_id) in elsewhere:
            headline = "of train/ that are also in test/"
            train.refuse(image_id, headline, f"Remove them from one of the two tables, {SKIP}")
