"""Report of an inspection: as values, as JSON, and as tables for the terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...errors import DatasetError
from ...preparation.source import SkippedImage
from ...preparation.suspect_images import SUSPICIONS, suspect_sentences
from .file_facts import FileFacts
from .reader_agreement import LabelCounts, ReaderAgreement
from .sample import PreparationEstimate, SampledImage, bytes_text

Kind = TypeVar("Kind", bound=Hashable)
Member = TypeVar("Member")

_FORMAT_VERSION = 1
_FACTS = ("num_bytes", "syntax", "bits", "photometric", "rows", "columns")
_SHOWN = 3  # file names per row of a table; the JSON has all of them


class BoxOutside(NamedTuple):
    """A box that extends beyond its image."""

    file: str
    finding: str
    reader: str
    beyond_px: float


@dataclass(frozen=True)
class InspectionReport:
    """Result of `inspect_vindr_cxr`.

    Args:
        layout (`str`):
            `"physionet"` or `"kaggle"`.
        files (`list[FileFacts]`):
            Image files of the source folders.
        tables_problem (`str`, *optional*):
            Why the tables cannot be used.
        skipped (`list[SkippedImage]`):
            Images that cannot be used because of their table rows or file names.
        table_notes (`list[str]`):
            What was corrected or ignored in the tables.
        duplicates (`list[list[str]]`):
            Groups of files with the same pixel data.
        counts (`dict[str, LabelCounts]`):
            Labels of each source folder.
        agreement (`ReaderAgreement`, *optional*):
            Agreement of the readers of train/, if an image has at least two.
        boxes_outside (`list[BoxOutside]`):
            Boxes that extend beyond their image.
        reshaped (`list[str]`):
            PNG and JPEG files with boxes whose aspect ratio differs from the original's.
        sample (`list[SampledImage]`):
            Radiographs read as `prepare` would read them.
        estimate (`PreparationEstimate`, *optional*):
            Time and disk space that `prepare` would need, if a radiograph could be read.
        num_proc (`int`):
            Number of processes that read the sample.
        size_px (`int`):
            Size of the stored images in the estimate.
    """

    layout: str
    files: list[FileFacts]
    tables_problem: str | None
    skipped: list[SkippedImage]
    table_notes: list[str]
    duplicates: list[list[str]]
    counts: dict[str, LabelCounts]
    agreement: ReaderAgreement | None
    boxes_outside: list[BoxOutside]
    reshaped: list[str]
    sample: list[SampledImage]
    estimate: PreparationEstimate | None
    num_proc: int
    size_px: int

    @property
    def damaged(self) -> dict[str, str]:
        """Unusable files and the reason, from their headers and from reading the sample."""
        by_header = {_name(facts): facts.problem for facts in self.files if facts.problem is not None}
        return by_header | {_name(i.facts): i.problem for i in self.sample if i.problem is not None}

    @property
    def missing_decoders(self) -> dict[str, int]:
        """Number of files without an installed decoder, by the command that installs it."""
        return dict(Counter(facts.install for facts in self.files if facts.install is not None))

    @property
    def suspect_images(self) -> dict[str, list[str]]:
        """Images that look wrong but would be kept, by kind."""
        suspects = {kind: list(self.reshaped) if kind == "reshaped" else [] for kind in SUSPICIONS}
        for image in self.sample:
            for kind in image.suspicions:
                suspects[kind].append(_name(image.facts))
        return suspects

    def renderables(self) -> Iterator[RenderableType]:
        """Tables and paragraphs for the terminal."""
        yield self._files_table()
        yield self._problems_table()
        if self.counts:
            yield self._labels_table()
        if self.agreement is not None:
            yield Text(self.agreement.summary())
        if self.estimate is None:
            yield Text("No radiograph could be read, so mlcak prepare cannot be estimated.")
        else:
            yield Text(self.estimate.summary(self.size_px, self.num_proc))

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON, with file names but without paths."""
        kinds = [
            {"syntax": kind[0], "bits": kind[1], "photometric": kind[2], "files": len(files)} | _extent(files)
            for kind, files in _grouped(((f.syntax, f.bits, f.photometric), f) for f in self.files)
        ]
        return {
            "format_version": _FORMAT_VERSION,
            "layout": self.layout,
            "kinds": kinds,
            "tables_problem": self.tables_problem,
            "skipped": [asdict(image) for image in self.skipped],
            "table_notes": self.table_notes,
            "damaged": self.damaged,
            "missing_decoders": self.missing_decoders,
            "duplicates": self.duplicates,
            "boxes_outside": [box._asdict() for box in self.boxes_outside],
            "reshaped": self.reshaped,
            "labels": {name: counts._asdict() for name, counts in self.counts.items()},
            "agreement": None if self.agreement is None else asdict(self.agreement),
            "sample": [
                {"file": _name(image.facts), "duration_s": image.duration_s, "stored_bytes": len(image.png),
                 "suspicions": list(image.suspicions), "problem": image.problem}
                for image in self.sample
            ],
            "estimate": None if self.estimate is None else asdict(self.estimate)
            | {"size_px": self.size_px, "num_proc": self.num_proc},
            "files": [
                {"file": _name(facts)}
                | {key: getattr(facts, key) for key in _FACTS}
                for facts in self.files
            ],
        }  # fmt: skip

    def write_json(self, path: Path) -> None:
        """Write `as_dict` to a file.

        Raises:
            [`DatasetError`]: When the file cannot be written.
        """
        try:
            path.write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise DatasetError(f"{path} cannot be written ({error.strerror}). Name a file in a folder.") from None

    def _files_table(self) -> Table:
        total = sum(facts.num_bytes for facts in self.files)
        table = Table(title=f"{len(self.files):,} image files, {bytes_text(total)}, layout of {_LAYOUTS[self.layout]}")
        for name in ("transfer syntax", "photometric"):
            table.add_column(name, no_wrap=True)
        for name in ("bits", "files", "bad", "rows x columns"):
            table.add_column(name, justify="right")
        # One row for all bit depths; the JSON separates them.
        kinds = _grouped(((facts.syntax, facts.photometric), facts) for facts in self.files)
        for (syntax, photometric), files in kinds:
            bits = [facts.bits for facts in files if facts.bits is not None]
            extent = _extent(files)
            table.add_row(
                escape(syntax or "unknown"),
                escape(photometric or "unknown"),
                _range_text([min(bits), max(bits)] if bits else None),
                f"{len(files):,}",
                f"{sum(not facts.usable for facts in files):,}",
                f"{_range_text(extent['rows'])} x {_range_text(extent['columns'])}" if extent["rows"] else "-",
            )
        return table

    def _problems_table(self) -> RenderableType:
        table = Table(title="Problems")
        table.add_column("number", justify="right")
        table.add_column("problem")
        table.add_column("files", overflow="fold")
        for text, names, number in self._problems():
            more = f" and {number - _SHOWN:,} more" if number > _SHOWN and names else ""
            table.add_row(f"{number:,}", escape(text), escape(", ".join(names[:_SHOWN]) + more))
        if not table.row_count:
            return Text("No problems found: every image of the tables has a file that seems complete.", style="green")
        return table

    def _problems(self) -> Iterator[tuple[str, Sequence[str], int]]:
        if self.tables_problem is not None:
            yield f"the tables cannot be used: {self.tables_problem}", [], 1
        for headline, names in _grouped((r.reason.split(": ")[0], f"{r.folder}/{r.image_id}") for r in self.skipped):
            yield f"image(s) {headline}", names, len(names)
        for reason, names in _grouped((reason, name) for name, reason in self.damaged.items()):
            yield f"file(s): {reason}", names, len(names)
        for command, number in self.missing_decoders.items():
            yield f"file(s) without an installed decoder. Run: {command}", [], number
        for group in self.duplicates:
            across = len({name.split("/")[0] for name in group}) > 1
            yield "files with the same pixels" + (", in train/ and in test/" if across else ""), group, len(group)
        if self.boxes_outside:
            worst = max(box.beyond_px for box in self.boxes_outside)
            names = list(dict.fromkeys(box.file for box in self.boxes_outside))
            yield f"box(es) that extend beyond their image, by up to {worst:g} px", names, len(self.boxes_outside)
        for kind, sentence, names in suspect_sentences(self.suspect_images):
            sampled = "" if kind == "reshaped" else f"of the {len(self.sample)} sampled: "
            yield sampled + sentence.partition(" ")[2], names, len(names)
        for note in self.table_notes:
            count, _, text = note.partition(" ")
            yield text, [], int(count)

    def _labels_table(self) -> Table:
        agreement = self.agreement
        several = {folder: agreement is not None and folder == "train" for folder in self.counts}
        table = Table(title="Labels" if agreement is None else "Labels, and kappa of the readers")
        table.add_column("label")
        for folder in self.counts:
            for name in (folder, f"{folder}, any") if several[folder] else (folder,):
                table.add_column(name, justify="right")
        for name in () if agreement is None else ("Cohen", "Fleiss"):
            table.add_column(name, justify="right")
        for label in next(iter(self.counts.values())).majority:
            row = []
            for folder, counts in self.counts.items():
                row += [f"{counts.majority[label]:,}"] + [f"{counts.some[label]:,}"] * several[folder]
            if agreement is not None:
                row += [_kappa_text(agreement.labels[label].cohen), _kappa_text(agreement.labels[label].fleiss)]
            table.add_row(label, *row)
        table.add_section()
        images = []
        for folder, counts in self.counts.items():
            images += [f"{counts.images:,}"] + [""] * several[folder]
        table.add_row("(images)", *images)
        return table


_LAYOUTS = {"physionet": "PhysioNet", "kaggle": "Kaggle"}


def _name(facts: FileFacts) -> str:
    return f"{facts.folder}/{facts.name}"


def _grouped(pairs: Iterable[tuple[Kind, Member]]) -> list[tuple[Kind, list[Member]]]:
    """Members by kind, largest group first."""
    groups: dict[Kind, list[Member]] = {}
    for kind, member in pairs:
        groups.setdefault(kind, []).append(member)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def _extent(files: Sequence[FileFacts]) -> dict[str, Any]:
    """Smallest and largest number of rows and columns, and the total size."""
    rows = [facts.rows for facts in files if facts.rows is not None]
    columns = [facts.columns for facts in files if facts.columns is not None]
    return {
        "rows": [min(rows), max(rows)] if rows else None,
        "columns": [min(columns), max(columns)] if columns else None,
        "num_bytes": sum(facts.num_bytes for facts in files),
    }


def _range_text(ends: list[int] | None) -> str:
    return "-" if ends is None else str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"


def _kappa_text(kappa: float | None) -> str:
    return "-" if kappa is None else f"{kappa:.2f}"
