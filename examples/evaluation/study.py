"""Train and compare models over folds and seeds, from one protocol file; an interrupted study resumes.

    python examples/evaluation/study.py --protocol examples/evaluation/study.yaml --output runs/study

First it prints how many hours and how much disk the study takes; it trains rows without a known cost for a few steps
to find out. Then it runs what is missing, and writes the tables of what is finished: study.md, study.json and
study.html. --workers 2 runs two cells at a time; started several times on one file system, or as a scheduler's array,
the processes share the cells. Machines without a common file system run --only 0/2 and --only 1/2, and --merge FOLDER
copies the cells of another one here. --gap_only runs the teachers and the baselines alone: will distillation help?
--rehearsal trains every row with one seed on at most 32 images for two epochs: does all of it run on this machine?
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from mlcak_hf.evaluation.report.tables import rich_table
from mlcak_hf.evaluation.report.wording import statements
from mlcak_hf.evaluation.study.cells import Study
from mlcak_hf.evaluation.study.page import write_study
from mlcak_hf.evaluation.study.plan import plan, time_rows
from mlcak_hf.evaluation.study.protocol import Protocol
from mlcak_hf.evaluation.study.results import collect
from mlcak_hf.evaluation.study.runner import Runner
from mlcak_hf.script import parse_recipe, run_script


@dataclass
class StudyOptions:
    """Which study, and how to run it."""

    protocol: str = field(metadata={"help": "Protocol file (YAML or JSON)."})
    output: str = field(metadata={"help": "Folder of the study; finished cells there are kept."})
    workers: int = field(default=1, metadata={"help": "Cells that run at the same time."})
    only: str = field(default="0/1", metadata={"help": "i/n: run only the folds i, i + n, ... on this machine."})
    launcher: str = field(default=sys.executable, metadata={"help": 'Starts a script, such as "accelerate launch -q".'})
    timing_steps: int = field(default=10, metadata={"help": "Steps of the short timing; 0 leaves it out."})
    gap_only: bool = field(default=False, metadata={"help": "Only the teachers and the baselines."})
    rehearsal: bool = field(default=False, metadata={"help": "One seed, at most 32 images, two epochs: does it run?"})
    plan_only: bool = field(default=False, metadata={"help": "Print hours and disk, and stop."})
    table_only: bool = field(default=False, metadata={"help": "Train nothing; write the tables of the finished cells."})
    merge: list[str] = field(default_factory=list, metadata={"help": "Folders of this study from other machines."})


def main() -> None:
    """Merge, print the plan, run what is missing, write the tables."""
    (options,) = parse_recipe([StudyOptions])
    protocol = Protocol.load(options.protocol)
    if options.rehearsal:
        protocol = replace(protocol, rehearsal=True)
    study = Study(protocol, options.output, options.gap_only)
    runner = Runner(study, Path(__file__).parents[1], options.workers, shlex.split(options.launcher))
    console = Console()
    for folder in options.merge:
        console.print(f"{study.merge(folder)} cells copied from {folder}.", highlight=False, markup=False)
    failures = []
    if not options.table_only:
        if options.timing_steps:
            with sigterm_exits():
                time_rows(runner, options.timing_steps)
        console.print("\n".join(plan(study, options.workers)), highlight=False, markup=False, soft_wrap=True)
        if options.plan_only:
            return
        with sigterm_exits():
            failures = runner.run(options.only)
    for failure in failures:  # Now, because without enough finished cells there is no table.
        console.print(failure, highlight=False, markup=False, soft_wrap=True)
    result = collect(study)
    written = write_study(study, result)
    for table in result.tables:
        console.print(rich_table(table))
        console.print("\n".join(statements(table)), highlight=False, markup=False, soft_wrap=True)
    lines = ["", *result.lines, "", f"Written: {', '.join(map(str, written))}"]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    if failures:
        raise SystemExit(f"error: {len(failures)} cells failed; the reasons are above the tables.")


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM raise `SystemExit`, so that the runner stops the scripts it has started."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    run_script(main)
