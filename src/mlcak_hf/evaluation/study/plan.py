"""What a study will cost, said before it runs: hours and disk, from finished cells or from a short timing."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import MLCAKError, RecipeError
from ...training.record import TrainingRecord
from .cells import TIMING_FILE, Cell, Study, read_json, write_json
from .runner import Runner

_IMAGE_BYTES = 65536  # decoded once: 256 x 256 pixels of 8 bits
_CHECKPOINTS = 6  # two of them, each with the weights and two moments of the optimizer


def time_rows(runner: Runner, steps: int) -> None:
    """Train each row without a known cost for a few steps, and write what a whole cell will take to `timing.json`.

    Args:
        runner ([`Runner`]):
            Runs the scripts.
        steps (`int`):
            Optimizer steps, at least 1. The evaluation is timed as a whole.

    Raises:
        [`MLCAKError`]: When a row cannot be trained: a mistake in the protocol is found before hours are spent.
    """
    if steps < 1:
        raise RecipeError(f"timing_steps must be at least 1, or 0 to leave the timing out; got {steps}.")
    study = runner.study
    known = _known(study)
    first = {cell.row.name: cell for cell in reversed(study.cells)}
    finished = {cell.row.name for cell in study.cells if cell.record and not cell.record.get("restarted")}
    missing = {name for name in first if name not in known and name not in finished}
    missing |= {teacher for name in missing for teacher in first[name].row.teacher}
    short = {"max_steps": steps, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    with tempfile.TemporaryDirectory(dir=study.folder, prefix="timing-") as folder:
        timed: dict[str, Cell] = {}
        for row in study.protocol.study_rows:
            if row.name not in missing:
                continue
            teachers = tuple(timed[name] for name in row.teacher)
            to = Path(folder) / row.slug
            cell = Cell(replace(row, tuning=()), row.folds[0], row.seeds[0], to, teachers)
            timed[row.name] = cell
            failure = runner.run_cell(cell, short)
            if failure:
                raise MLCAKError(f"The row {row.name!r} cannot be trained: {failure}")
            known[row.name] = _extrapolate(cell, steps)
    write_json(study.folder / TIMING_FILE, known)


def _known(study: Study) -> dict[str, dict[str, Any]]:
    return read_json(study.folder / TIMING_FILE) or {}


def _extrapolate(cell: Cell, steps: int) -> dict[str, Any]:
    record, content = cell.record or {}, TrainingRecord.load(cell.model).content
    images, arguments = content["train"]["rows"], content["arguments"]
    batch = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"]
    epochs = arguments["num_train_epochs"]
    loop = next(entry["train_runtime"] for entry in reversed(content["log"]) if "train_runtime" in entry)
    evaluation = content["validation"]["metrics"]["eval_runtime"]
    whole = cell.row.options.get("max_steps", math.ceil(images / batch) * epochs)
    start = record["seconds"]["train"] - loop - evaluation
    seconds = start + loop / steps * whole + (epochs + 1) * evaluation + record["seconds"]["evaluate"]
    images += content["validation"]["rows"]
    return {"seconds": seconds, "bytes": record["bytes"], "images": images, "source": f"timed over {steps} steps"}


def plan(study: Study, workers: int = 1) -> list[str]:
    """Say what is to be run, how many hours it takes and how much disk it needs.

    Args:
        study ([`Study`]):
            The cells.
        workers (`int`, *optional*, defaults to 1):
            Cells that run at the same time.

    Returns:
        `list[str]`: A line per row with the source of its figure, then the sums.
    """
    known = _known(study)
    total, size, missing = 0.0, 0, [cell for cell in study.cells if not cell.record]
    lines = [f"{len(study.cells)} cells, {len(study.cells) - len(missing)} finished, {len(missing)} to run:"]
    for name in dict.fromkeys(cell.row.name for cell in missing):
        of_row = [cell for cell in missing if cell.row.name == name]
        done = [cell.record for cell in study.cells if cell.row.name == name and cell.record]
        # The first seed of a fold trains every trial.
        runs = sum(max(len(cell.row.tuning), 1) if cell.tuned_by is None else 1 for cell in of_row)
        cost = known.get(name, {"seconds": math.nan, "bytes": 0, "images": 0, "source": ""})
        whole = [sum(each["seconds"].values()) / len(each["validation"]) for each in done if not each["restarted"]]
        if whole:
            source = f"mean of {len(whole)} finished cells"
            cost = cost | {"seconds": sum(whole) / len(whole), "bytes": done[0]["bytes"], "source": source}
        if math.isnan(cost["seconds"]):
            return [lines[0], "Hours and disk are unknown, because nothing was timed: set --timing_steps."]
        total += runs * cost["seconds"]
        size += len(of_row) * cost["bytes"]
        lines.append(f"  {name}: {runs} x {cost['seconds'] / 60:.1f} minutes ({cost['source']})")
    shared = f", {total / 3600 / workers:.1f} in {workers}" if workers > 1 else ""
    lines.append(f"About {total / 3600:.1f} hours in one process{shared}.")
    images, largest = (max((cost[key] for cost in known.values()), default=0) for key in ("images", "bytes"))
    decoded = images * _IMAGE_BYTES * max(study.protocol.folds, 1)
    checkpoints = workers * _CHECKPOINTS * largest
    lines.append(
        f"Disk: about {size / 1e9:.2f} GB for the results, {checkpoints / 1e9:.2f} GB for checkpoints while cells run, "
        f"and at most {decoded / 1e9:.2f} GB for decoded images in the cache of datasets."
    )
    return lines
