"""Report of an inspection: as values, as JSON, and as tables for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .file_facts import FileFacts, grouped
from .reader_agreement import LabelCounts, ReaderAgreement
from .sample import PreparationEstimate, SampledImage

_FORMAT_VERSION = 1
_SHOWN = 3  # files per row of a table; the JSON has all of them


@dataclass(frozen=True)
class Problem:
    """Something to look at before preparing.

    Args:
        kind (`str`):
            `"tables"`, `"skipped"`, `"unreadable"`, `"duplicates"`, `"table_notes"`, or a kind of `SUSPICIONS`.
        text (`str`):
            What is wrong and what to do.
        files (`list[str]`):
            The files, with details in brackets; empty if it concerns no single file.
        number (`int`):
            How often it occurs.
    """

    kind: str
    text: str
    files: list[str]
    number: int


@dataclass(frozen=True)
class InspectionReport:
    """Result of `inspect_vindr_cxr`.

    Args:
        layout (`str`):
            `"physionet"` or `"kaggle"`.
        files (`list[FileFacts]`):
            Image files of the source folders.
        problems (`list[Problem]`):
            What is wrong with files, tables and images.
        counts (`dict[str, LabelCounts]`):
            Labels of each source folder.
        agreement (`ReaderAgreement`, *optional*):
            Agreement of the readers of train/, if an image has at least two.
        sample (`list[SampledImage]`):
            Radiographs read as `prepare` would read them.
        estimate (`PreparationEstimate`, *optional*):
            Time and disk space that `prepare` would need, if a radiograph could be read.
    """

    layout: str
    files: list[FileFacts]
    problems: list[Problem]
    counts: dict[str, LabelCounts]
    agreement: ReaderAgreement | None
    sample: list[SampledImage]
    estimate: PreparationEstimate | None

    @property
    def kinds(self) -> list[dict[str, Any]]:
        """Files by transfer syntax and photometric interpretation, most common first; ranges as [least, most]."""
        return [
            {"transfer syntax": syntax, "photometric": photometric, "files": len(files)}
            | {"unreadable": sum(facts.problem is not None for facts in files)}
            | {name: _range([getattr(facts, name) for facts in files]) for name in ("bits", "rows", "columns")}
            for (syntax, photometric), files in grouped(((f.syntax, f.photometric), f) for f in self.files)
        ]

    def renderables(self) -> Iterator[RenderableType]:
        """Yield tables and paragraphs for the terminal."""
        size = decimal(sum(facts.num_bytes for facts in self.files))
        yield _table(f"{len(self.files):,} image files, {size}, layout: {self.layout}", self.kinds, left=2)
        if self.problems:
            yield _table("Problems", [_problem_row(problem) for problem in self.problems], left=0)
        else:
            yield Text("No problems found: every image of the tables has a file that seems complete.", style="green")
        if self.counts:
            images = " and ".join(f"{counts.images:,} images in {folder}/" for folder, counts in self.counts.items())
            yield _table(f"Labels of {images}", self._label_rows(), left=1)
        if self.agreement is not None:
            yield Text(self.agreement.summary())
        if self.estimate is None:
            yield Text("No radiograph could be read, so mlcak prepare cannot be estimated.")
        else:
            yield Text(self.estimate.summary())

    def as_json(self) -> str:
        """Return everything as JSON, with file names but without paths."""
        values = {"format_version": _FORMAT_VERSION, "kinds": self.kinds} | asdict(self)
        values["sample"] = [image.facts.file for image in self.sample]
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    def _label_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the counts of each label: by majority, by any reader, and the kappas of the readers of train/."""
        for label in next(iter(self.counts.values())).majority:
            row: dict[str, Any] = {"label": label}
            for folder, counts in self.counts.items():
                row[folder] = counts.majority[label]
                if self.agreement is not None and folder == "train":
                    row["train, any"] = counts.some[label]
            if self.agreement is not None:
                agreement = self.agreement.labels[label]
                row |= {"Cohen's kappa": agreement.cohen, "Fleiss' kappa": agreement.fleiss}
            yield row


def _problem_row(problem: Problem) -> dict[str, Any]:
    more = [f"and {len(problem.files) - _SHOWN:,} more"] * (len(problem.files) > _SHOWN)
    return {"number": problem.number, "problem": problem.text, "files": ", ".join(problem.files[:_SHOWN] + more)}


def _range(values: Sequence[int | None]) -> list[int] | None:
    known = [value for value in values if value is not None]
    return [min(known), max(known)] if known else None


def _table(title: str, rows: Iterable[Mapping[str, Any]], left: int) -> RenderableType:
    table, rows = Table(title=title), list(rows)
    if not rows:
        return title
    for number, name in enumerate(rows[0]):
        text = number < left or isinstance(rows[0][name], str)
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return "-".join(str(end) for end in dict.fromkeys(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}" if isinstance(value, float) else escape(value)
