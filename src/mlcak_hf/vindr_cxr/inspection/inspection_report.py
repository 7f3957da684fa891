"""What an inspection found: as values, as JSON, and as tables for the terminal."""

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
from .file_facts import FileFacts
from .reader_agreement import ReaderAgreement
from .sample import Estimate, SampledImage

Kind = TypeVar("Kind", bound=Hashable)
Member = TypeVar("Member")

_FORMAT_VERSION = 1
_SHOWN = 3  # names of files in a row of the terminal's tables; the JSON has all


class LabelCounts(NamedTuple):
    """Images of a source folder, and by label those that the majority, or any, of their readers marked."""

    images: int
    majority: dict[str, int]
    some: dict[str, int]


class BoxOutside(NamedTuple):
    """A box that reaches beyond its image, by how many pixels."""

    file: str
    finding: str
    reader: str
    beyond_px: float


@dataclass(frozen=True)
class InspectionReport:
    """What `inspect_vindr_cxr` found.

    Args:
        layout: "physionet" or "kaggle".
        files: Every image file of the source folders.
        tables_problem: Why the tables cannot be used at all; None if they can.
        left_out: Images that the tables and file names make unusable: missing, extra, ambiguous, contradictory.
        remarks: What the reader of the tables put right or passed over.
        duplicates: Names of files with the same pixel data, by group.
        counts: Labels by source folder.
        agreement: Of the readers of train/; None where no image has two.
        boxes_outside: Boxes that reach beyond their image.
        reshaped: Pictures with boxes whose proportions differ from the original's: scaled boxes fit a squashed
            picture, but none that was cropped, padded or turned.
        sample: Radiographs read as a preparation would read them.
        estimate: Time and disk of a preparation; None where no radiograph could be read.
        num_proc: Processes that read the sample.
        size_px: Size of the stored images in the estimate.
    """

    layout: str
    files: list[FileFacts]
    tables_problem: str | None
    left_out: list[SkippedImage]
    remarks: list[str]
    duplicates: list[list[str]]
    counts: dict[str, LabelCounts]
    agreement: ReaderAgreement | None
    boxes_outside: list[BoxOutside]
    reshaped: list[str]
    sample: list[SampledImage]
    estimate: Estimate | None
    num_proc: int
    size_px: int

    @property
    def damaged(self) -> dict[str, str]:
        """Files that cannot be used whatever is installed, and why: by their header, or when they were sampled."""
        by_header = {_name(facts): facts.problem for facts in self.files if facts.problem is not None}
        return by_header | {_name(i.facts): i.problem for i in self.sample if i.problem is not None}

    @property
    def missing_decoders(self) -> dict[str, int]:
        """Number of files that wait for a decoder, by the pip line that installs it."""
        return dict(Counter(facts.install for facts in self.files if facts.install is not None))

    @property
    def inverted(self) -> list[str]:
        """Radiographs of the sample that look like their negative."""
        return [_name(image.facts) for image in self.sample if image.inverted]

    @property
    def crushed(self) -> list[str]:
        """16-bit pictures of the sample that seem to hold 12 bits."""
        return [_name(image.facts) for image in self.sample if image.crushed]

    def renderables(self) -> Iterator[RenderableType]:
        """Yield the tables for the terminal, one after the other."""
        yield self._files_table()
        yield self._problems_table()
        if self.counts:
            yield self._labels_table()
        if self.agreement is not None:
            yield Text(self._agreement_text())
        yield Text(self._estimate_text())

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON; files go by their names, no path is in it."""
        kinds = [
            {"syntax": kind[0], "bits": kind[1], "photometric": kind[2], "files": len(files)} | _extent(files)
            for kind, files in _grouped(((f.syntax, f.bits, f.photometric), f) for f in self.files)
        ]
        return {
            "format_version": _FORMAT_VERSION,
            "layout": self.layout,
            "kinds": kinds,
            "tables_problem": self.tables_problem,
            "left_out": [record._asdict() for record in self.left_out],
            "remarks": self.remarks,
            "damaged": self.damaged,
            "missing_decoders": self.missing_decoders,
            "duplicates": self.duplicates,
            "boxes_outside": [box._asdict() for box in self.boxes_outside],
            "reshaped": self.reshaped,
            "labels": {name: counts._asdict() for name, counts in self.counts.items()},
            "agreement": None if self.agreement is None else asdict(self.agreement),
            "sample": [
                {"file": _name(image.facts), "duration_s": image.duration_s, "stored_bytes": len(image.png),
                 "looks_inverted": image.inverted, "crushed": image.crushed, "problem": image.problem}
                for image in self.sample
            ],
            "estimate": None if self.estimate is None else asdict(self.estimate)
            | {"size_px": self.size_px, "num_proc": self.num_proc},
            "files": [
                {"file": _name(facts), "num_bytes": facts.num_bytes, "syntax": facts.syntax, "bits": facts.bits,
                 "photometric": facts.photometric, "rows": facts.rows, "columns": facts.columns}
                for facts in self.files
            ],
        }  # fmt: skip

    def write_json(self, path: Path) -> None:
        """Write `as_dict` to a file.

        Raises:
            DatasetError: It cannot be written.
        """
        try:
            path.write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise DatasetError(f"{path} cannot be written ({error.strerror}); name a file in a folder") from None

    def _files_table(self) -> Table:
        total = sum(facts.num_bytes for facts in self.files)
        table = Table(
            title=f"{len(self.files):,} image files, {_bytes_text(total)}, laid out as on {_LAYOUTS[self.layout]}"
        )
        table.add_column("transfer syntax", no_wrap=True)
        table.add_column("photometric", no_wrap=True)
        for name in ("bits", "files", "bad", "rows x columns"):
            table.add_column(name, justify="right")
        # A row for all bit depths of a kind: the JSON tells them apart.
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
        table = Table(title="To look at")
        table.add_column("number", justify="right")
        table.add_column("what")
        table.add_column("which", overflow="fold")
        for what, names, number in self._problems():
            more = f" and {number - _SHOWN:,} more" if number > _SHOWN and names else ""
            table.add_row(f"{number:,}", escape(what), escape(", ".join(names[:_SHOWN]) + more))
        if not table.row_count:
            return Text("Nothing to look at: every image of the tables has a file that seems whole.", style="green")
        return table

    def _problems(self) -> Iterator[tuple[str, Sequence[str], int]]:
        if self.tables_problem is not None:
            yield f"the tables cannot be used: {self.tables_problem}", [], 1
        for headline, of_kind in _grouped((r.reason.split(": ")[0], f"{r.folder}/{r.image_id}") for r in self.left_out):
            yield f"image(s) {headline}", of_kind, len(of_kind)
        for reason, of_kind in _grouped((reason, name) for name, reason in self.damaged.items()):
            yield f"file(s): {reason}", of_kind, len(of_kind)
        for line, number in self.missing_decoders.items():
            yield f"file(s) whose decoder is not installed; run: {line}", [], number
        for group in self.duplicates:
            across = len({name.split("/")[0] for name in group}) > 1
            yield "files with the same pixels" + (", in train/ and in test/" if across else ""), group, len(group)
        if self.boxes_outside:
            worst = max(box.beyond_px for box in self.boxes_outside)
            names = list(dict.fromkeys(box.file for box in self.boxes_outside))
            yield f"box(es) that reach out of their image, by up to {worst:g} px", names, len(self.boxes_outside)
        if self.reshaped:
            yield (
                "picture(s) with other proportions than the original: their boxes fit if it was squashed, not if it was"
                " cropped, padded or turned",
                self.reshaped,
                len(self.reshaped),
            )
        if self.inverted:
            yield f"look inverted, of the {len(self.sample)} that were read", self.inverted, len(self.inverted)
        if self.crushed:
            yield (
                f"16-bit picture(s), of the {len(self.sample)} that were read, have no value above an eighth of their"
                " range, so that few grey levels would be left: say what it is, for 12 bits with mlcak prepare"
                " --value-range 0 4095",
                self.crushed,
                len(self.crushed),
            )
        for remark in self.remarks:
            count, _, text = remark.partition(" ")
            yield text, [], int(count)

    def _labels_table(self) -> Table:
        labels = next(iter(self.counts.values())).majority
        readers = self.agreement is not None
        table = Table(title="Labels, and kappa of the readers" if readers else "Labels")
        table.add_column("label")
        for folder in self.counts:
            voted = readers and folder == "train"
            for name in (folder, f"{folder}, any") if voted else (folder,):
                table.add_column(name, justify="right")
        for name in ("Cohen", "Fleiss") if readers else ():
            table.add_column(name, justify="right")
        for label in labels:
            row = []
            for folder, counts in self.counts.items():
                row += [f"{counts.majority[label]:,}"]
                row += [f"{counts.some[label]:,}"] if readers and folder == "train" else []
            if self.agreement is not None:
                agreement = self.agreement.labels[label]
                row += [_kappa_text(agreement.cohen), _kappa_text(agreement.fleiss)]
            table.add_row(label, *row)
        table.add_section()
        images = []
        for folder, counts in self.counts.items():
            images += [f"{counts.images:,}"] + ([""] if readers and folder == "train" else [])
        table.add_row("(images)", *images)
        return table

    def _agreement_text(self) -> str:
        agreement = self.agreement
        assert agreement is not None
        numbers = ", ".join(f"{number:,} image(s) by {count}" for count, number in agreement.readers_per_image.items())
        who = "the same for every image" if agreement.same_readers else "not the same for every image"
        left = agreement.images - agreement.fleiss_images
        return (
            f"{agreement.readers} readers, {who}; {numbers}. Cohen's kappa is the mean over all pairs of readers for"
            " whom it is defined, each from the images that both read; Fleiss' kappa takes readers as interchangeable"
            + (f" and leaves {left:,} image(s) with another number of readers out." if left else ".")
        )

    def _estimate_text(self) -> str:
        if self.estimate is None:
            return "No radiograph could be read, so there is no estimate for mlcak prepare."
        seconds = self.estimate.duration_s / self.num_proc
        return (
            f"Estimate for mlcak prepare --size {self.size_px} --workers {self.num_proc}: about {_time_text(seconds)}"
            f" and {_bytes_text(self.estimate.num_bytes)} for {self.estimate.images:,} images, from"
            f" {self.estimate.sampled} radiographs read just now with as many processes."
        )


_LAYOUTS = {"physionet": "PhysioNet", "kaggle": "Kaggle"}


def _name(facts: FileFacts) -> str:
    return f"{facts.folder}/{facts.name}"


def _grouped(pairs: Iterable[tuple[Kind, Member]]) -> list[tuple[Kind, list[Member]]]:
    """Members by kind, the largest group first."""
    groups: dict[Kind, list[Member]] = {}
    for kind, member in pairs:
        groups.setdefault(kind, []).append(member)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def _extent(files: Sequence[FileFacts]) -> dict[str, Any]:
    """Smallest and largest rows and columns, and all bytes."""
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


def _bytes_text(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit != "B" else f"{number:.0f} B"
        number /= 1000
    return f"{number:.3g} TB"


def _time_text(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
