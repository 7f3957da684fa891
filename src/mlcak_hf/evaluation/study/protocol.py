"""The protocol of a study: what is trained, on which folds and seeds, fixed before anything runs."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from ...data.training_data import DataArguments, DatasetArguments
from ...data.views import ViewParameters
from ...errors import RecipeError
from ...script import read_recipe
from ...shipped import close_name, resolve_recipe
from ...training.arguments import MLCAKTrainingArguments
from ...training.setup import StudentArguments

_PER_CELL = {"dataset", "folds", "fold", "seed", "output_dir", "teacher", "teacher_cache", "resume_from_checkpoint"}
_DATA = {each.name for each in fields(DatasetArguments)} - _PER_CELL
_SCRIPT = (StudentArguments, DataArguments, ViewParameters, MLCAKTrainingArguments)
_TRAINING = {each.name for kind in _SCRIPT for each in fields(kind)} - _DATA - _PER_CELL
#: What a row says besides the options of its training script.
_ROW = {"kind", "teacher", "folds", "seeds", "baseline", "ablation", "tuning", "lowres"}
#: Options of every row in a rehearsal; a smaller dataset is used whole. In a first step, while the learning rate warms
#: up, a model learns nothing.
REHEARSAL = {"max_train_samples": 32, "num_train_epochs": 2}

_Type = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least  # YAML's true is an int for Python.


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and all(map(of, value))


def _is_options(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_name, value))


def _is_sizes(value: Any) -> bool:
    """Whether it is a mapping of pixels to models; JSON writes the pixels as text."""
    return isinstance(value, dict) and all(str(px).isdecimal() and _is_name(value[px]) for px in value)


_NAME: _Type = ("a name", _is_name)
_NUMBERS: _Type = ("a list of whole numbers, 0 or larger", partial(_is_list, of=_is_number))
_OPTIONS: _Type = ("a mapping of options to values", _is_options)
_TRIALS: _Type = ("a list of mappings of options to values", partial(_is_list, of=_is_options))
#: What each entry of a protocol must be, in words and as a check.
_ENTRY_TYPES: dict[str, _Type] = {
    "dataset": ("a folder, a file or a Hub id", _is_name),
    "rows": ("a mapping of at least one name to options", lambda value: isinstance(value, dict) and len(value) > 0),
    "baseline": _NAME,
    "teacher": _OPTIONS,
    "student": _OPTIONS,
    "sizes": ("a mapping of pixels to models", _is_sizes),
    "tuning": _TRIALS,
    "data": _OPTIONS,
    "folds": ("0 (the dataset's own test split) or at least 2", lambda value: _is_number(value) and value != 1),
    "seeds": _NUMBERS,
    "rehearsal": ("true or false", lambda value: isinstance(value, bool)),
}
_ROW_TYPES: dict[str, _Type] = {
    "config": _NAME,
    "teacher": ("a name or a list of names", lambda value: _is_name(value) or _is_list(value, _is_name)),
    "folds": _NUMBERS,
    "seeds": _NUMBERS,
    "baseline": _NAME,
    "tuning": _TRIALS,
    "lowres": ("a list of sizes in pixels", partial(_is_list, of=partial(_is_number, least=1))),
}


@dataclass(frozen=True)
class StudyRow:
    """One row of the table: a model that is trained on every fold with every seed.

    Args:
        name (`str`):
            Name of the row.
        kind (`str`):
            `"teacher"` (trained alone by train_teacher.py) or `"student"` (distil_student.py).
        options (`dict[str, Any]`):
            Options of that script.
        baseline (`str`):
            Row that it is compared with.
        teacher (`tuple[str, ...]`):
            Rows that teach this one: the models of the same fold and seed, or of their first seed.
        folds (`tuple[int, ...]`), seeds (`tuple[int, ...]`):
            Which cells the row has.
        tuning (`tuple[dict[str, Any], ...]`):
            Options that are tried on every fold with the first seed; the best on the validation rows is used.
        lowres (`tuple[int, ...]`):
            Sizes in pixels for rows of the same model fed with low resolution.
        ablation (`str`):
            Which choice this row varies; empty for the others.
    """

    name: str
    kind: str
    options: dict[str, Any]
    baseline: str
    teacher: tuple[str, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    tuning: tuple[dict[str, Any], ...]
    lowres: tuple[int, ...]
    ablation: str

    @property
    def slug(self) -> str:
        """Name of the row's folder."""
        return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in self.name)


@dataclass(frozen=True)
class Protocol:
    """What a study trains and compares.

    Args:
        dataset (`str`):
            As in `--dataset` of the training scripts.
        rows (`dict[str, dict]`):
            Options of each row's training script by the row's name, and what [`StudyRow`] says. A teacher comes before
            its students.
        baseline (`str`):
            Row that every other row is compared with, at the same size.
        teacher (`dict`), student (`dict`):
            Options of every teacher and of every student. `config` names a recipe.
        sizes (`dict[int, str]`):
            Model by input size in pixels. A student that names no model is trained at every size.
        tuning (`list[dict]`):
            Options that every row tries. A row may name its own, but as many.
        data (`dict`):
            Options of the dataset for every script, such as `label_column`.
        folds (`int`, *optional*, defaults to 5):
            Number of folds by patient: every image is predicted once per seed, by a model that has not seen its
            patient. 0 evaluates on the dataset's own split `test`.
        seeds (`list[int]`, *optional*, defaults to `[0, 1, 2]`):
            Seeds of training.
        rehearsal (`bool`, *optional*, defaults to `False`):
            Whether every model is trained with its first seed on at most 32 images for two epochs, only to show that it
            runs.

    Raises:
        [`RecipeError`]: When an entry cannot be used.
    """

    dataset: str
    rows: dict[str, dict[str, Any]]
    baseline: str
    teacher: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] = field(default_factory=dict)
    sizes: dict[int, str] = field(default_factory=dict)
    tuning: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    folds: int = 5
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    rehearsal: bool = False

    @classmethod
    def load(cls, path: str | Path) -> Protocol:
        """Read a protocol file (YAML or JSON).

        Raises:
            [`RecipeError`]: When the file cannot be read, or an entry is missing, unknown or cannot be used.
        """
        content = read_recipe(path, [each.name for each in fields(cls)])
        missing = {"dataset", "rows", "baseline"} - content.keys()
        if missing:
            raise RecipeError(f"The protocol {path} must name {', '.join(sorted(missing))}.")
        return cls(**content)

    def __post_init__(self) -> None:
        _check_types(vars(self), _ENTRY_TYPES)
        for name, options in self.rows.items():
            _check_types({"name": name}, {"name": ("text, in quotes if it is a number", _is_name)}, " of a row")
            _check_types({"options": options}, {"options": _OPTIONS}, f" of row {name!r}")
            _check_types(options, _ROW_TYPES, f" of row {name!r}")
        for kind in ("teacher", "student"):
            _check_types(getattr(self, kind), {"config": _NAME}, f" of {kind}")
        _refuse_unknown("data", self.data, _DATA)
        rows = self.study_rows
        if len({row.slug for row in rows}) < len(rows) or "=" in "".join(self.rows):
            raise RecipeError(f"Rows must differ in letters and digits, and have no '='; got {', '.join(self.rows)}.")
        for place, row in enumerate(rows):
            needed = [[other for other in rows[:place] if other.name == name] for name in row.teacher]
            needed.append([other for other in rows if other.name == row.baseline])
            if not all(found and set(row.folds) <= set(found[0].folds) for found in needed):
                raise RecipeError(
                    f"The teachers of {row.name!r} must be rows before it, its baseline a row, all with its folds; got "
                    f"teacher {list(row.teacher)} and baseline {row.baseline!r}."
                )
        if len({len(row.tuning) for row in rows}) > 1:
            counts = ", ".join(f"{row.name} {len(row.tuning)}" for row in rows)
            raise RecipeError(f"Every row must be tuned over the same number of trials; got {counts}.")

    @cached_property
    def study_rows(self) -> list[StudyRow]:
        """The rows, students at every size."""
        return [self._row(name, px) for name in self.rows for px in self._sizes(name)]

    @property
    def gap_rows(self) -> set[str]:
        """The teachers and the baselines: is there a gap that distillation could close?"""
        return {row.name for row in self.study_rows if row.kind == "teacher" or row.baseline == row.name}

    @property
    def content(self) -> dict[str, Any]:
        """All that decides the results, without folders of this machine."""
        rows = {row.name: asdict(row) for row in self.study_rows}
        kept = {"dataset": Path(self.dataset).name, "data": self.data, "folds": self.folds, "rows": rows}
        return cast(dict[str, Any], json.loads(json.dumps(kept)))

    @property
    def digest(self) -> str:
        """SHA-256 of the content: results of different protocols are never put into one table."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()

    def _sizes(self, name: str) -> list[int | None]:
        row = self.rows.get(name, {})
        return [None] if not self.sizes or row.get("kind") == "teacher" or "model" in row else [*self.sizes]

    def _at_size(self, name: str, px: int | None) -> str:
        """Name of a row at a size; at the first of its sizes for a row without one."""
        sizes = self._sizes(name)
        size = px if px in sizes else sizes[0]
        return name if size is None else f"{name} {size} px"

    def _row(self, name: str, px: int | None) -> StudyRow:
        given = self.rows[name]
        kind = given.get("kind", "student")
        if kind not in ("teacher", "student"):
            raise RecipeError(f"kind of row {name!r} must be 'teacher' or 'student'; got {kind!r}.")
        defaults = (self.teacher if kind == "teacher" else self.student) | ({"model": self.sizes[px]} if px else {})
        options = _with_recipe(defaults | {key: given[key] for key in given if key not in _ROW})
        if self.rehearsal:
            options.pop("max_steps", None)  # It would take the place of the epochs.
            options |= REHEARSAL | ({"cache_views": 1} if options.get("cache_views") else {})
        tuning = given.get("tuning", self.tuning)
        for each in (options, *tuning):
            _refuse_unknown(f"row {name!r}", each, _TRAINING)
        every_fold = range(max(self.folds, 1))
        folds, seeds, teacher = (given.get(key, default) for key, default in
                                 (("folds", every_fold), ("seeds", self.seeds), ("teacher", [])))  # fmt: skip
        if not folds or not seeds or not set(folds) <= set(every_fold):
            raise RecipeError(f"Row {name!r} must have seeds, and folds among {[*every_fold]}; got {folds}, {seeds}.")
        teacher = [teacher] if isinstance(teacher, str) else teacher
        seeds = seeds[:1] if self.rehearsal else seeds
        return StudyRow(
            name=self._at_size(name, px),
            kind=kind,
            options=options,
            baseline=self._at_size(given.get("baseline", self.baseline), px),
            teacher=tuple(self._at_size(each, px) for each in teacher),
            folds=tuple(folds),
            seeds=tuple(seeds),
            tuning=tuple(tuning),
            lowres=tuple(given.get("lowres", ())),
            ablation=str(given.get("ablation", "")),
        )


def _with_recipe(options: dict[str, Any]) -> dict[str, Any]:
    """Replace `config` by what the recipe says, so that a later change of the recipe changes the protocol."""
    recipe = options.pop("config", None)
    known = read_recipe(resolve_recipe(recipe), sorted(_TRAINING | {"seed"})) if recipe else {}
    known.pop("seed", None)
    return known | options


def _check_types(given: Mapping[str, Any], types: Mapping[str, _Type], where: str = "") -> None:
    for name, (expected, is_right) in types.items():
        if name in given and not is_right(given[name]):
            raise RecipeError(f"{name}{where} must be {expected}; got {reprlib.repr(given[name])}.")


def _refuse_unknown(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    for key in given:
        if key not in known:
            raise RecipeError(f"The protocol must not name {key!r} in {where}.{close_name(key, sorted(known))}")
