"""The results of a study: out-of-fold predictions joined per seed, and the rows compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import MLCAKError
from ..compare import compare
from ..comparison import Comparison, Difference, Recovered
from ..localisation import Localisation
from ..predictions import ModelPredictions
from ..report.wording import TITLES, interval
from ..scores import TaskScores
from .cells import Cell, Study
from .protocol import REHEARSAL

_REHEARSED = (
    f"A rehearsal: every model saw at most {REHEARSAL['max_train_samples']} images twice. These numbers mean nothing."
)


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Args:
        tables (`tuple[Comparison, ...]`):
            The rows whose cells are all finished: those on every fold, whose runs are the seeds, then those on fewer
            folds, each set of folds in a table of its own.
        lines (`tuple[str, ...]`):
            The same in words: can distillation help, what was recovered, and what is missing.
    """

    tables: tuple[Comparison, ...]
    lines: tuple[str, ...]


def collect(study: Study) -> StudyResult:
    """Join the predictions of the finished cells and compare the rows.

    Args:
        study ([`Study`]):
            The study, whole or in part.

    Returns:
        [`StudyResult`]

    Raises:
        [`MLCAKError`]: When the cells of a baseline and another row are not all finished.
    """
    by_row: dict[str, list[Cell]] = {}
    for cell in study.cells:
        by_row.setdefault(cell.row.name, []).append(cell)
    missing = {name: sum(not cell.record for cell in cells) for name, cells in by_row.items()}
    finished = [cells for name, cells in by_row.items() if not missing[name]]
    sets = sorted({cells[0].row.folds for cells in finished}, key=lambda folds: (-len(folds), folds))
    tables = [table for folds in sets if (table := _table(study, finished, folds)) is not None]
    if not tables:
        raise MLCAKError(
            "A baseline and another row must be finished before there is a table; the finished rows are "
            f"{[cells[0].row.name for cells in finished]}. Run the rest, or read the log.txt of the cells."
        )
    lines = [_REHEARSED] if study.protocol.rehearsal else []
    lines += [line for table in tables for line in _headroom(study, table)]
    lines += [_share_in_words(each) for table in tables for each in table.recovered]
    lines += [f"{name}: {count} of {len(by_row[name])} cells are missing." for name, count in missing.items() if count]
    return StudyResult(tuple(tables), tuple(lines))


def _table(study: Study, finished: Sequence[list[Cell]], folds: tuple[int, ...]) -> Comparison | None:
    """Compare the rows on exactly these folds with their baselines."""
    rows = {cells[0].row.name: cells[0].row for cells in finished if cells[0].row.folds == folds}
    baselines = sorted({row.baseline for row in study.protocol.study_rows})
    teaching = {name for row in study.protocol.study_rows for name in row.teacher}
    cells = [cell for of_row in finished for cell in of_row if cell.fold in folds]
    models = pool([cell for cell in cells if cell.row.name in rows or cell.row.name in baselines])
    names = dict.fromkeys(model.name for model in models)
    pairs = []
    for name in names:
        row, fed = rows.get(name), name.partition(" fed ")[2]
        if row is not None and name not in teaching:
            against = [row.baseline]
        else:  # a teacher of other rows, or one that is fed with low resolution
            against = [other for other in baselines if fed and other.endswith(f" {fed}")] or baselines
        is_here = row is not None or fed
        pairs += [(name, other) for other in against if is_here and other != name and other in names]
    if not pairs:
        return None
    split = f"fold {', '.join(map(str, folds))} of {study.protocol.folds}" if study.protocol.folds else "test"
    if len(folds) > 1:
        split = f"out-of-fold predictions of {len(folds)} folds by patient, ranked within each fold"
    context = {"dataset": Path(study.protocol.dataset).name, "split": split, "threshold_split": "none"}
    gaps = [(row.name, row.teacher[0], row.baseline) for row in rows.values() if row.teacher]
    return compare(models, context=context | {"folds": len(folds)}, pairs=pairs, gaps=gaps)


def pool(cells: Sequence[Cell]) -> list[ModelPredictions]:
    """Join the predictions of models that are the same but for the fold.

    Args:
        cells (`Sequence[Cell]`):
            Finished cells.

    Returns:
        `list[ModelPredictions]`: For each row and seed, and each low resolution that it was fed with, every image once,
        with its fold.
    """
    parts: dict[tuple[str, int], dict[int, ModelPredictions]] = {}
    for cell in cells:
        for found in cell.predictions():
            parts.setdefault((found.name, cell.seed), {})[cell.fold] = found
    return [_joined(of, str(seed)) for (_, seed), of in parts.items()]


def _joined(of_folds: Mapping[int, ModelPredictions], run: str) -> ModelPredictions:
    parts = list(of_folds.values())
    folds = np.repeat(list(of_folds), [len(part) for part in parts]) if len(parts) > 1 else None
    first = parts[0]
    findings = dict.fromkeys(name for part in parts for name in part.localisation or {})
    local = [part.local_task for part in parts if part.local_task is not None]
    known = [part.details.get("trained_on") for part in parts]
    trained_on = None if None in known else {"evaluated": sum(each["evaluated"] for each in known if each)}
    return replace(
        first,
        run=run,
        image_ids=[image_id for part in parts for image_id in part.image_ids],
        groups=None if first.groups is None else [group for part in parts for group in part.groups or ()],
        global_task=_join([part.global_task for part in parts], folds),
        local_task=_join(local, folds) if local else None,
        details=first.details | {"weights": None, "trained_on": trained_on},
        localisation={name: _on_boxes(parts, name) for name in findings} or None,
    )


def _on_boxes(parts: Sequence[ModelPredictions], finding: str) -> Localisation:
    """Join the measurements on the boxes of a finding; a fold without such boxes has none."""
    missing = [Localisation(*np.full((len(Localisation._fields), len(part)), np.nan)) for part in parts]
    found = [(part.localisation or {}).get(finding, none) for part, none in zip(parts, missing, strict=True)]
    return Localisation(*map(np.concatenate, zip(*found, strict=True)))


def _join(tasks: Sequence[TaskScores], folds: NDArray[np.intp] | None) -> TaskScores:
    scores, labels = (np.concatenate([getattr(task, name) for task in tasks]) for name in ("scores", "labels"))
    return TaskScores(scores, labels, tasks[0].names, folds)


def _share_in_words(found: Recovered) -> str:
    between = found.share.interval
    ends = [f"{100 * end:.0f}" for end in (between.low, between.high) if end is not None] if between else []
    return (
        f"{found.model} recovers {100 * found.share.value:.0f} % [{', '.join(ends)}] of the gap between "
        f"{found.teacher} and {found.baseline} in {TITLES[found.metric]} ({found.gain:+.3f} of {found.gap:+.3f})."
    )


def _is_gap(gap: Difference) -> bool:
    """Whether the interval, which counts patients and training runs, lies above 0."""
    low = gap.estimate.interval.low if gap.estimate.interval else None
    return not gap.no_verdict and low is not None and low > 0


def _headroom(study: Study, table: Comparison) -> list[str]:
    """Answer whether distillation can help: the headroom below the teacher, and the least gain that can be proven."""
    rows = study.protocol.study_rows
    students = any(row.kind == "student" for row in rows)  # Without students there is nobody to teach.
    teachers = {row.name for row in rows if row.kind == "teacher" and students}
    lines = []
    for gap in table.differences:
        least = f"The least gain that these patients and seeds can prove is about {gap.least_difference or 0:.3f}."
        verdict = f"Distillation can help. {least}"
        if gap.no_verdict:
            verdict = f"No verdict ({gap.no_verdict}), so no share of it is given."
        elif not _is_gap(gap):
            verdict = f"The teacher is not better beyond noise, so there is nothing to recover. {least}"
        headroom = f"{gap.estimate.value:+.3f} {interval(gap.estimate)}"
        if gap.model in teachers:
            lines.append(f"{TITLES[gap.metric]}, headroom from {gap.baseline} to {gap.model}: {headroom}. {verdict}")
    return lines
