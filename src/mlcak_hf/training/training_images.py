"""The images that a model was trained on: `training_images.json`, which is never uploaded, and shared splits."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.decoded_images import image_digest
from ..data.sources import stored_image
from ..data.training_data import DatasetArguments
from ..errors import DatasetError
from .record import TRAINING_FILE, TrainingRecord

TRAINING_IMAGES_FILE = "training_images.json"
#: Training images to be expected among the rows that are looked up to recognize a dataset, and the most rows.
_EXPECTED, _MOST_ROWS = 64, 4096


@dataclass(frozen=True)
class TrainingImages:
    """Tells whether a model was trained on an image, without keeping the image or its name.

    Args:
        sets (`tuple[tuple[str, frozenset[str]], ...]`):
            Salt and salted hashes of every training; the first is that of the initial weights, if they were trained.
        complete (`bool`, *optional*, defaults to `True`):
            Whether these are all. The images behind initial weights or a teacher from the Hub are not known.
        teachers (same as `sets`, *optional*):
            Those of the models that taught it.
    """

    sets: tuple[tuple[str, frozenset[str]], ...]
    complete: bool = True
    teachers: tuple[tuple[str, frozenset[str]], ...] = ()

    @classmethod
    def of_run(
        cls,
        digests: Iterable[bytes],
        earlier: TrainingImages | None = None,
        complete: bool = True,
        teachers: Iterable[TrainingImages | None] = (),
    ) -> TrainingImages:
        """Record a finished training run.

        Args:
            digests (`Iterable[bytes]`):
                [`image_digest`] of every training image.
            earlier ([`TrainingImages`], *optional*):
                Those of the initial weights.
            complete (`bool`, *optional*, defaults to `True`):
                `False` for trained initial weights without such a record.
            teachers (`Iterable`, *optional*):
                Those of the teachers; `None` for one without such a record.
        """
        salt = secrets.token_hex(16)
        hashes = frozenset(_salted(salt, digest) for digest in digests)
        before, taught_by = cls((), complete) if earlier is None else earlier, list(teachers)
        known = [teacher for teacher in taught_by if teacher is not None]
        whole = before.complete and len(known) == len(taught_by) and all(teacher.complete for teacher in known)
        taught = [entry for model in (before, *known) for entry in model.teachers]
        taught += [entry for teacher in known for entry in teacher.sets]
        return cls((*before.sets, (salt, hashes)), whole, tuple(dict.fromkeys(taught)))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TrainingImages | None:
        """Read the record of the model in a folder; `None` if there is none, as for a model from the Hub.

        Raises:
            [`DatasetError`]: When the file is damaged.
        """
        file = Path(folder) / TRAINING_IMAGES_FILE
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            sets, teachers = (
                tuple((bytes.fromhex(entry["salt"]).hex(), frozenset(entry["hashes"])) for entry in entries)
                for entries in (content["sets"], content.get("teachers", []))
            )
            if not sets or any(len(digest) != 32 for _, hashes in (*sets, *teachers) for digest in hashes):
                raise ValueError("no sets of hashes")
            return cls(sets, bool(content.get("complete", True)), teachers)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{file} must list hashes of training images, but cannot be read ({error!r}). Restore it, or delete it "
                "to evaluate without knowing whether the model was trained on the images."
            ) from error

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `training_images.json` into a folder."""
        sets, teachers = (
            [{"salt": salt, "hashes": sorted(hashes)} for salt, hashes in entries]
            for entries in (self.sets, self.teachers)
        )
        content = {"complete": self.complete, "sets": sets, "teachers": teachers}
        Path(folder, TRAINING_IMAGES_FILE).write_text(json.dumps(content), encoding="utf-8")

    def count(self, digests: Iterable[bytes]) -> int:
        """Count the images that the model was trained on.

        Args:
            digests (`Iterable[bytes]`):
                [`image_digest`] of each image.
        """
        return sum(any(_salted(salt, digest) in hashes for salt, hashes in self.sets) for digest in digests)


def training_hits(folder: str | Path, parts: Mapping[str, Iterable[bytes]]) -> dict[str, int] | None:
    """Count the images of each part that a model was trained on.

    Args:
        folder (`str` or `Path`):
            Folder of the model.
        parts (`Mapping[str, Iterable[bytes]]`):
            [`image_digest`] of each image.

    Returns:
        `dict[str, int]`, or `None` if that is not known: without a record, or if the images behind the initial weights
        or a teacher are not known and no image is among the others. Images of its teachers are counted too;
        `"by_teachers"` is the number of those that only they were trained on.
    """
    known = TrainingImages.load(folder)
    if known is None:
        return None
    taught, counts = TrainingImages(known.teachers), dict[str, int]()
    for part, images in parts.items():
        listed = list(images)
        own = known.count(listed)
        only_theirs = taught.count(image for image in listed if not known.count([image]))
        counts[part] = own + only_theirs
        if only_theirs:
            counts["by_teachers"] = counts.get("by_teachers", 0) + only_theirs
    return counts if known.complete or any(counts.values()) else None


def _salted(salt: str, digest: bytes) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + digest).hexdigest()[:32]


def check_shared_splits(teachers: Iterable[Any], args: DatasetArguments, rows: Dataset, split_off: bool) -> None:
    """Refuse teachers that were trained on different training rows of a dataset, or on others than the student.

    Args:
        teachers (`Iterable`):
            Folders of the teachers; others are not checked.
        args, rows, split_off:
            As for [`check_shared_split`].

    Raises:
        [`DatasetError`]: When the options differ.
    """
    rules: dict[str, dict[str, Any]] = {}
    for source in teachers:
        if not isinstance(source, str | Path) or not (Path(source) / TRAINING_FILE).is_file():
            continue
        trained = TrainingRecord.load(source).content["data"]
        if is_trained_on(source, args.dataset, rows, args.image_column):
            rules[str(source)] = args.split_rule(rows.column_names, split_off, trained)
    for name in sorted({name for rule in rules.values() for name in rule}):
        values = {source: rule[name] for source, rule in rules.items()}
        if len(set(values.values())) > 1:
            found = ", ".join(f"--{name} {value} ({source})" for source, value in values.items())
            raise DatasetError(
                f"Teachers must be trained with the same label and validation rows; got {found}. Use teachers of one "
                "split, or train one of them again."
            )
    for source in teachers:
        check_shared_split(source, f"the teacher {source!r}", args, rows, split_off)


def check_shared_split(source: Any, role: str, args: DatasetArguments, rows: Dataset, split_off: bool) -> None:
    """Refuse options that split a dataset differently than in the training of a model, or use another label.

    A model that was trained on another dataset ([`is_trained_on`]), or without a record, is not checked.

    Args:
        source (`str` or `os.PathLike`):
            Folder of the trained model, or anything else, which is not checked.
        role (`str`):
            What the message calls the model.
        args ([`DatasetArguments`]):
            Options of the dataset.
        rows (`Dataset`):
            Training rows of the dataset.
        split_off (`bool`):
            Whether validation rows or a fold are split off from the training rows.

    Raises:
        [`DatasetError`]: When the options differ from those of the training.
    """
    if not isinstance(source, str | Path) or not (Path(source) / TRAINING_FILE).is_file():
        return
    trained = TrainingRecord.load(source).content["data"]
    ours, theirs = (args.split_rule(rows.column_names, split_off, options) for options in (None, trained))
    # Images without labels are taught with the labels of the teacher.
    differing = [name for name in ours if ours[name] != theirs[name] and (name, ours[name]) != ("label_column", "none")]
    if not differing or not is_trained_on(source, args.dataset, rows, args.image_column):
        return
    used, given = (" ".join(f"--{name} {rule[name]}" for name in differing) for rule in (theirs, ours))
    raise DatasetError(
        f"Teacher, students and evaluation must use the same label and validation rows, but {role} was trained on this "
        f"dataset with {used}; got {given}. Add {used}."
    )


def is_trained_on(folder: str | Path, dataset: str, rows: Dataset, image_column: str) -> bool:
    """Whether a model was trained on a dataset: on more than half as many of its rows as if it was.

    Without `training_images.json`, as for a model from the Hub, the dataset is recognized by its name and its number of
    rows.

    Args:
        folder (`str` or `Path`):
            Folder of the model.
        dataset (`str`):
            Folder, file or Hub id of the dataset.
        rows (`Dataset`):
            All of its training rows.
        image_column (`str`):
            Column of images.
    """
    known = TrainingImages.load(folder)
    if known is None:
        return (Path(folder) / TRAINING_FILE).is_file() and _has_name_and_rows(folder, dataset, len(rows))
    if not len(rows):
        return False
    last = TrainingImages(known.sets[-1:])  # without those of the initial weights
    expected = min(1.0, sum(len(hashes) for _, hashes in last.sets) / len(rows))
    count = min(len(rows), _MOST_ROWS, round(_EXPECTED / max(expected, 1e-9)))
    places = np.linspace(0, len(rows) - 1, count).astype(int)
    images = [image for place in places if (image := stored_image(rows, int(place), image_column)) is not None]
    return last.count(map(image_digest, images)) > expected / 2 * len(images)


def _has_name_and_rows(folder: str | Path, dataset: str, rows: int) -> bool:
    content = TrainingRecord.load(folder).content
    options = content["data"]
    if Path(str(options["dataset"])).name != Path(dataset).name:
        return False
    split_off = sum(content[part].get("rows", 0) for part in ("train", "validation"))
    in_part = options.get("folds") or options.get("max_train_samples")
    return bool(split_off == rows or (in_part and split_off < rows))
