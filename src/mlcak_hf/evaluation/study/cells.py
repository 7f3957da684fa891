"""The cells of a study and their folder: what each one runs, and what it recorded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ...data.sources import refuse_missing
from ...data.training_data import DataArguments, open_training_data
from ...errors import MLCAKError
from ...script import parse_recipe
from ..predictions import ModelPredictions
from .protocol import Protocol, StudyRow

_RECORD, _PROTOCOL = "cell.json", "protocol.json"
LOG_FILE, TIMING_FILE = "log.txt", "timing.json"
_FIXED = ("dataset", "data", "folds", "images_sha256")


@dataclass(frozen=True)
class Cell:
    """One row on one fold with one seed.

    Args:
        row ([`StudyRow`]):
            What is trained.
        fold (`int`), seed (`int`):
            On which part of the data, and with which seed.
        folder (`Path`):
            Where its record, predictions, log and model are.
        teachers (`tuple[Cell, ...]`, *optional*, defaults to `()`):
            Cells that teach this one.
        tuned_by (`Cell`, *optional*):
            The cell that tries the row's tuning on this fold; `None` for that cell, and for a row that is not tuned.
    """

    row: StudyRow
    fold: int
    seed: int
    folder: Path
    teachers: tuple[Cell, ...] = ()
    tuned_by: Cell | None = None

    @property
    def name(self) -> str:
        """Name for people."""
        return f"{self.row.name}, fold {self.fold}, seed {self.seed}"

    @property
    def model(self) -> Path:
        """Folder of the model of a finished cell."""
        return self.folder / "model"

    @property
    def record(self) -> dict[str, Any] | None:
        """What the finished cell recorded; `None` before it is finished."""
        return read_json(self.folder / _RECORD, "protocol_sha256")

    def save(self, record: Mapping[str, Any]) -> None:
        """Mark the cell as finished."""
        write_json(self.folder / _RECORD, record)

    @property
    def is_ready(self) -> bool:
        """Whether the cells that it needs are finished."""
        return all(each.record for each in (*self.teachers, self.tuned_by) if each is not None)

    @property
    def trials(self) -> Sequence[dict[str, Any]]:
        """Options that are added to those of the row: those to try, or the chosen ones."""
        if self.tuned_by is not None:
            return [(self.tuned_by.record or {})["trial"]]
        return self.row.tuning or [{}]

    @property
    def prediction_files(self) -> list[Path]:
        """Files of the predictions for the images that were held out; the model fed with low resolution comes last."""
        found = (self.folder / "evaluation" / "predictions").glob("*.npz")
        return sorted(found, key=lambda path: (len(path.stem), path.stem))

    def predictions(self) -> Iterator[ModelPredictions]:
        """Load these predictions."""
        return map(ModelPredictions.load, self.prediction_files)


class Study:
    """
    The cells of a protocol in a folder.

    Args:
        protocol ([`Protocol`]):
            What to run. The folder keeps it; another one is refused as soon as a cell has started.
        folder (`str` or `Path`):
            Folder of the study. Cells that are finished there are kept.
        gap_only (`bool`, *optional*, defaults to `False`):
            Only the teachers and the baselines.

    Raises:
        [`MLCAKError`]: When the folder holds a study with another protocol or other images, or cannot be written.
        [`DatasetError`]: When the dataset is a file or a folder that does not exist.
    """

    def __init__(self, protocol: Protocol, folder: str | Path, gap_only: bool = False) -> None:
        self.protocol, self.folder = protocol, Path(folder)
        self.kept = protocol.content | {"protocol_sha256": protocol.digest, "images_sha256": _digest(protocol.dataset)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MLCAKError(f"The output of a study must be a folder; got {folder} ({error.strerror}).") from error
        earlier = read_json(self.folder / _PROTOCOL, "rows", *_FIXED)
        if any(path.name in (LOG_FILE, _RECORD) for path in self.folder.glob("cells/*/*/*/*")):
            self._check(self.folder, earlier or self.kept)
        elif earlier != self.kept:  # Nothing has run. What is known of costs belongs to the earlier protocol.
            (self.folder / TIMING_FILE).unlink(missing_ok=True)
        write_json(self.folder / _PROTOCOL, self.kept)
        cells: dict[tuple[str, int, int], Cell] = {}
        for row in protocol.study_rows:
            for fold in row.folds:
                for seed in row.seeds:
                    teachers = tuple(_teacher(cells, name, fold, seed) for name in row.teacher)
                    at = self.folder / "cells" / row.slug / f"fold-{fold}" / f"seed-{seed}"
                    tuned_by = cells.get((row.name, fold, row.seeds[0])) if row.tuning else None
                    cells[row.name, fold, seed] = Cell(row, fold, seed, at, teachers, tuned_by)
        #: In an order in which each follows those that it needs.
        self.cells = [cell for cell in cells.values() if not gap_only or cell.row.name in protocol.gap_rows]
        foreign = [
            cell.folder for cell in self.cells if cell.record and cell.record["protocol_sha256"] != protocol.digest
        ]
        if foreign:
            raise MLCAKError(f"{foreign[0]} holds a cell of another protocol. Delete it; it will be run again.")

    def _check(self, folder: Path, earlier: Mapping[str, Any]) -> None:
        changed = [key for key in _FIXED if earlier[key] != self.kept[key]]
        old, new = earlier["rows"], self.kept["rows"]
        changed += [f"the row {name!r}" for name in old | new if old.get(name) != new.get(name)]
        if changed:
            raise MLCAKError(
                f"{folder} holds a study with another protocol; it differs in {', '.join(changed)}. A protocol is "
                "fixed when the first cell starts: use the earlier one, or another output folder."
            )

    def training(self, cell: Cell, trial: Mapping[str, Any], output: Path) -> list[str]:
        """Return the script that trains a cell with the options of a trial, and its arguments."""
        options = {**self._data(cell.fold), **cell.row.options, **trial, "seed": cell.seed, "output_dir": output}
        if self.protocol.rehearsal:
            options["max_train_samples"] = min(options["max_train_samples"], self._training_images)
        if cell.teachers:
            options["teacher"] = [teacher.model for teacher in cell.teachers]
        if "cache_views" in options and cell.teachers:
            options["teacher_cache"] = output / "cache"
        script = "train_teacher.py" if cell.row.kind == "teacher" else "distil_student.py"
        return [f"distillation/{script}", *_arguments(options | {"resume_from_checkpoint": True})]

    def evaluation(self, cell: Cell, model: Path) -> list[str]:
        """Return the script that predicts the images that a cell holds out with its model, and its arguments."""
        options = self._data(cell.fold) | {"models": f"{cell.row.name}={model}"}
        options |= {"split": "fold" if self.protocol.folds else "test", "threshold_split": "none"}
        options |= {"lowres": list(cell.row.lowres), "bootstrap_draws": 100, "output": cell.folder / "evaluation"}
        return ["evaluation/evaluate_models.py", *_arguments(options)]

    def _data(self, fold: int) -> dict[str, Any]:
        held_out = {"folds": self.protocol.folds, "fold": fold} if self.protocol.folds else {}
        return {"dataset": self.protocol.dataset, **self.protocol.data, **held_out}

    @cached_property
    def _training_images(self) -> int:
        """Number of training images, of the fold that has the fewest."""
        folds = range(max(self.protocol.folds, 1))
        each = [parse_recipe([DataArguments], _arguments(self._data(fold)))[0] for fold in folds]
        return min(len(open_training_data(args, taught={}).train) for args in each)

    def merge(self, folder: str | Path) -> int:
        """Copy the finished cells of the same study on another machine.

        Args:
            folder (`str` or `Path`):
                Folder of that study.

        Returns:
            `int`: Number of copied cells.

        Raises:
            [`MLCAKError`]: When it holds no study, has another protocol, or another result of the same cell.
        """
        theirs = read_json(Path(folder) / _PROTOCOL, "rows", *_FIXED)
        if theirs is None:
            raise MLCAKError(f"{folder} holds no study: it has no {_PROTOCOL}. Name the output folder of a study.")
        self._check(Path(folder), theirs)
        copied = 0
        for cell in self.cells:
            other = Cell(cell.row, cell.fold, cell.seed, Path(folder) / cell.folder.relative_to(self.folder))
            if other.record is None or other.record == cell.record:
                continue
            if cell.record is not None:
                raise MLCAKError(f"{cell.name} was run twice: {cell.folder} and {other.folder} differ. Delete one.")
            shutil.copytree(other.folder, cell.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_RECORD))
            cell.save(other.record)
            copied += 1
        return copied


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, also while other processes write it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    unfinished.replace(path)


def read_json(path: Path, *needed: str) -> dict[str, Any] | None:
    """Read a mapping that [`write_json`] wrote; `None` if there is no such file.

    Raises:
        [`MLCAKError`]: When it is damaged, or an entry in `needed` is missing.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise MLCAKError(f"{path} cannot be read: {error}. Delete it; it will be written again.") from error
    if not isinstance(content, dict) or not content.keys() >= set(needed):
        raise MLCAKError(f"{path} is damaged. Delete it; it will be written again.")
    return content


def _teacher(cells: Mapping[tuple[str, int, int], Cell], name: str, fold: int, seed: int) -> Cell:
    of_fold = [cell for (row, at, _), cell in cells.items() if (row, at) == (name, fold)]
    return next((cell for cell in of_fold if cell.seed == seed), of_fold[0])


def _digest(dataset: str) -> str | None:
    """SHA-256 of the files of a dataset; `None` for one on the Hub."""
    digest, path = hashlib.sha256(), Path(dataset)
    refuse_missing(dataset)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                for block in iter(partial(stream.read, 1 << 20), b""):
                    digest.update(block)
    return digest.hexdigest() if path.exists() else None


def _arguments(options: Mapping[str, Any]) -> list[str]:
    arguments = []
    for name, value in options.items():
        values = [json.dumps(value)] if isinstance(value, dict) else value if isinstance(value, list) else [value]
        given = [str(each).lower() if isinstance(each, bool) else str(each) for each in values if each is not None]
        arguments += [f"--{name}", *given] if given else []
    return arguments
