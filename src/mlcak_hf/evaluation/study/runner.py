"""Run the cells of a study in processes of their own; a finished cell is never run again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm.auto import tqdm

from ...errors import MLCAKError, RecipeError
from ...training.record import TRAINING_FILE, TrainingRecord
from ...weights import weights_digest
from ..comparison import COMPARED, Comparison
from .cells import LOG_FILE, Cell, Study

_LAST_LINES = 5
_POLL_S = 2.0
#: Outcome of a cell that another process is running.
_BUSY = "busy"


def _without_place(argument: str, study: Path) -> str:
    """Write the study's folder as "." and any other absolute path as its last part."""
    argument = re.sub(rf"(^|=){re.escape(str(study))}(?=/|$)", r"\1.", argument)
    return Path(argument).name if Path(argument).is_absolute() else argument


class Runner:
    """
    Runs cells as processes.

    Args:
        study ([`Study`]):
            The cells.
        scripts (`str` or `Path`):
            Folder `examples/`, which holds the training and evaluation scripts.
        workers (`int`, *optional*, defaults to 1):
            Cells that run at the same time. On several GPUs each worker gets one of them.
        launcher (`Sequence[str]`, *optional*):
            Command that starts a script. Defaults to this Python; `accelerate launch ...` gives several processes to
            each cell.

    Raises:
        [`RecipeError`]: When there is no worker, or the launcher is not a program.
    """

    def __init__(
        self, study: Study, scripts: str | Path, workers: int = 1, launcher: Sequence[str] = (sys.executable,)
    ) -> None:
        if workers < 1:
            raise RecipeError(f"workers must be at least 1; got {workers}.")
        if not launcher or shutil.which(launcher[0]) is None:
            raise RecipeError(f"launcher must start with a program that is installed; got {' '.join(launcher)!r}.")
        self.study, self.scripts, self.launcher = study, Path(scripts), list(launcher)
        self.free_workers = list(range(workers))
        self._children: set[subprocess.Popen[bytes]] = set()
        every = ",".join(map(str, range(torch.cuda.device_count())))
        self._devices = os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",")

    def run(self, only: str = "0/1") -> list[str]:
        """
        Run every cell that is not finished. Processes that share the folder share the work.

        Args:
            only (`str`, *optional*, defaults to `"0/1"`):
                `i/n` runs only the folds i, i + n, ..., so that n machines without a common folder share a study.

        Returns:
            `list[str]`: A sentence for each cell that failed or could not start.

        Raises:
            [`RecipeError`]: When `only` has another form.
        """
        first, _, machines = only.partition("/")
        if not (first.isdecimal() and machines.isdecimal() and int(first) < int(machines)):
            raise RecipeError(f"only must have the form i/n, with i from 0 to n - 1; got {only!r}.")
        waiting = [cell for cell in self.study.cells if not cell.record and cell.fold % int(machines) == int(first)]
        failures: list[str] = []
        running: dict[Future[str], Cell] = {}
        workers = len(self.free_workers)
        with ThreadPoolExecutor(workers) as pool, tqdm(total=len(waiting), unit="cell", disable=None) as bar:
            try:
                while waiting or running:
                    for cell in [cell for cell in waiting if cell.is_ready][: workers - len(running)]:
                        waiting.remove(cell)
                        running[pool.submit(self.run_cell, cell)] = cell
                    if not running:
                        failures += [f"{cell.name}: not started, a cell that it needs failed." for cell in waiting]
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        cell, outcome = running.pop(future), future.result()
                        if outcome == _BUSY:
                            waiting.append(cell)
                        else:
                            failures += [f"{cell.name}: {outcome}"] if outcome else []
                            bar.update()
            finally:
                for child in list(self._children):
                    child.terminate()
        return failures

    def run_cell(self, cell: Cell, extra: Mapping[str, Any] | None = None) -> str:
        """
        Train a model, predict the images that were held out, and record both.

        Args:
            cell ([`Cell`]):
                A cell that is ready.
            extra (`Mapping`, *optional*):
                Options that replace those of the row, for a short timing.

        Returns:
            `str`: Why it failed; empty if it is finished.
        """
        cell.folder.mkdir(parents=True, exist_ok=True)
        with (cell.folder / LOG_FILE).open("a", encoding="utf-8") as log:
            try:
                # The process that trains inherits the locked file, and keeps the lock if this process is killed.
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(_POLL_S)
                return _BUSY
            worker = self.free_workers.pop()
            try:
                if not cell.record:
                    cell.save(self._train_and_predict(cell, extra or {}, log, worker))
            except MLCAKError as error:
                return str(error)
            finally:
                self.free_workers.append(worker)
        return ""

    def _train_and_predict(self, cell: Cell, extra: Mapping[str, Any], log: TextIO, worker: int) -> dict[str, Any]:
        restarted, trials = log.tell() > 0, cell.trials
        folders = [cell.folder / f"trial-{number}" for number in range(len(trials))]
        commands = [
            self.study.training(cell, {**trial, **extra}, to) for trial, to in zip(trials, folders, strict=True)
        ]
        seconds = {"train": 0.0}
        for command, folder in zip(commands, folders, strict=True):
            if not (folder / TRAINING_FILE).is_file():
                seconds["train"] += self._start(command, log, worker)
            for leftover in (*folder.glob("checkpoint-*"), folder / "cache"):
                shutil.rmtree(leftover, ignore_errors=True)
        found = [TrainingRecord.load(folder).content["validation"]["metrics"] for folder in folders]
        scores = [metrics.get(f"eval_{COMPARED[0]}", 0.0) for metrics in found]
        best = scores.index(max(scores))
        commands.append(self.study.evaluation(cell, folders[best]))
        seconds["evaluate"] = self._start(commands[-1], log, worker)
        shutil.rmtree(cell.model, ignore_errors=True)  # of a process that was killed right after the next line
        folders[best].rename(cell.model)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        rows = Comparison.from_json(cell.folder / "evaluation" / "comparison.json").rows
        return {
            "row": cell.row.name,
            "fold": cell.fold,
            "seed": cell.seed,
            "commands": [" ".join(_without_place(part, self.study.folder) for part in command) for command in commands],
            "trial": trials[best],
            "validation": scores,
            "metrics": {
                row.name: {name: of.value for name, of in row.metrics.items() if name in COMPARED} for row in rows
            },
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "restarted": restarted,
            "bytes": sum(path.stat().st_size for path in cell.folder.rglob("*") if path.is_file()),
            "protocol_sha256": self.study.protocol.digest,
            "weights_sha256": weights_digest(cell.model),
            "predictions_sha256": {
                path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in cell.prediction_files
            },
        }

    def _start(self, command: list[str], log: TextIO, worker: int) -> float:
        """Run a script, and return its seconds."""
        whole = [*self.launcher, str(self.scripts / command[0]), *command[1:]]
        log.write(f"\n$ {' '.join(whole)}\n")
        log.flush()
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        if len(self._devices) > 1 and len(self.launcher) == 1:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[worker % len(self._devices)]
        start = time.monotonic()
        child = subprocess.Popen(whole, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        self._children.add(child)
        code = child.wait()
        self._children.discard(child)
        if code:
            lines = Path(log.name).read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
            raise MLCAKError(f"exit code {code}. {log.name} ends with: {' / '.join(filter(None, lines))}")
        return time.monotonic() - start
