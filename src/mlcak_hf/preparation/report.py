"""What a prepared dataset holds, counted in its files, and the record of it beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table

from ..errors import DatasetError
from ..vindr_cxr.layout import LeftOut
from .plan import PreparationPlan
from .shards import read_notes
from .suspect_images import Doubts

PREPARATION_FILE = "preparation.json"
_FORMAT_VERSION = 2


@dataclass(frozen=True)
class SplitSummary:
    """What a written split holds.

    Args:
        rows: Rows; more than images only with a row per reader.
        images: Different images.
        normal: Rows that are normal; with soft targets those up to one half.
        abnormal: The other rows.
        groups: Different groups (patients where known).
        image_ids: The images, in the order of the rows.
    """

    rows: int
    images: int
    normal: int
    abnormal: int
    groups: int
    image_ids: list[str]


@dataclass(frozen=True)
class PreparationReport:
    """What `prepare_vindr_cxr` or `merge_prepared` made.

    Args:
        output_dir: The dataset's folder.
        choices: Every choice that shaped it.
        sources: For each source folder (train, test) the number of images found, used and left out.
        splits: What each written split holds.
        left_out: Every image that is not in the dataset: image id, reason, source folder.
        software: Version by package.
        fingerprint: Names what it was made of.
        doubts: Images that are in the dataset as they are, though something about them seems wrong.
        remarks: What was put right or passed over in the tables, one sentence each with its number.
    """

    output_dir: Path
    choices: dict[str, Any]
    sources: dict[str, dict[str, int]]
    splits: dict[str, SplitSummary]
    left_out: list[LeftOut]
    software: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    doubts: Doubts = field(default_factory=Doubts)
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def count(cls, plan: PreparationPlan, data: Path, output: Path) -> PreparationReport:
        """Count what is really in the finished shards.

        Args:
            plan: What they were to be.
            data: Their folder.
            output: The folder that the dataset is for.

        Returns:
            The report.

        Raises:
            DatasetError: A shard is damaged, or a split has no image left.
        """
        left_out, doubts, splits = list(plan.left_out), Doubts(), dict[str, SplitSummary]()
        for split in plan.shards:
            shards = [data / f"{name}.parquet" for name in plan.shard_names(split)]
            notes = [read_notes(shard, plan.fingerprint) for shard in shards]
            splits[split] = _summary(shards)
            unread = [record for note in notes for record in note.left_out]
            if splits[split].images + len(unread) != sum(note.images for note in notes):
                raise DatasetError(f"the shards of {split} in {data} do not hold what they say; prepare them again")
            if not splits[split].images:
                raise DatasetError(f"every image of the split {split} had to be left out; on_error='raise' says why")
            left_out += unread
            for note in notes:
                doubts.add(note.doubts)
        left_out.sort(key=lambda record: (record.folder, record.image_id))
        sources = _sources(splits, left_out, plan.choices["layout"])
        return cls(
            output,
            plan.choices,
            sources,
            splits,
            left_out,
            plan.software,
            plan.fingerprint,
            doubts,
            plan.remarks,
        )

    def table(self) -> Table:
        """The splits as a table for the terminal."""
        table = Table(title="Prepared dataset")
        table.add_column("split")
        for name in ("rows", "images", "normal", "abnormal", "groups"):
            table.add_column(name, justify="right")
        for split, summary in self.splits.items():
            counts = (summary.rows, summary.images, summary.normal, summary.abnormal, summary.groups)
            table.add_row(split, *map(str, counts))
        return table

    def left_out_table(self) -> Table:
        """The left-out images and the reason for each, as a table for the terminal."""
        table = Table("folder", "image", "reason", title=f"Left out: {len(self.left_out)} image(s)")
        for record in self.left_out:
            table.add_row(record.folder, record.image_id, escape(record.reason))  # syntax names contain brackets
        return table

    def as_dict(self) -> dict[str, Any]:
        """All of it but the folder, as plain values: what `preparation.json` holds."""
        return {
            "format_version": _FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "software": self.software,
            "choices": self.choices,
            "sources": self.sources,
            "splits": {name: asdict(summary) for name, summary in self.splits.items()},
            "left_out": [record._asdict() for record in self.left_out],
            "doubts": asdict(self.doubts),
            "remarks": self.remarks,
        }

    def as_json(self) -> str:
        """Return the text of `preparation.json`."""
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> PreparationReport:
        """Read the report of a prepared dataset; as `read_preparation`."""
        record = read_preparation(folder)
        return cls(
            folder,
            record["choices"],
            record["sources"],
            {name: SplitSummary(**summary) for name, summary in record["splits"].items()},
            [LeftOut(**entry) for entry in record["left_out"]],
            record["software"],
            record.get("fingerprint", ""),
            Doubts(**record["doubts"]),
            record.get("remarks", []),
        )


def read_preparation(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read how a prepared dataset was made.

    Args:
        folder: What `prepare_vindr_cxr` wrote.

    Returns:
        `choices`, `sources` and `splits` (with the image ids of each), `left_out`, `doubts`, `remarks`,
        `software`, `fingerprint`, `format_version`.

    Raises:
        DatasetError: The folder holds no such record, or one of another version.
    """
    path = Path(folder) / PREPARATION_FILE
    try:
        preparation = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DatasetError(f"{path} is not there; name a folder that `mlcak prepare` wrote") from None
    except ValueError as error:
        raise DatasetError(f"{path} is damaged ({error}); prepare the dataset again") from None
    found = preparation.get("format_version") if isinstance(preparation, dict) else None
    if found != _FORMAT_VERSION:
        raise DatasetError(f"{path} has format_version {found!r}, not {_FORMAT_VERSION}; prepare the dataset again")
    return dict(preparation)


def _summary(shards: Sequence[Path]) -> SplitSummary:
    table = pa.concat_tables(pq.read_table(shard, columns=["image_id", "label", "group"]) for shard in shards)
    ids, labels = table["image_id"].to_pylist(), table["label"].to_pylist()
    abnormal = sum(label > 0.5 for label in labels)
    images = list(dict.fromkeys(ids))
    groups = len(set(table["group"].to_pylist()))
    return SplitSummary(len(ids), len(images), len(ids) - abnormal, abnormal, groups, images)


def source_folder(split: str, layout: str) -> str:
    """Name the folder that a split's images come from: on Kaggle, every split comes from train/."""
    return "test" if split == "test" and layout != "kaggle" else "train"


def _sources(splits: dict[str, SplitSummary], left_out: Sequence[LeftOut], layout: str) -> dict[str, dict[str, int]]:
    """Account for every image of a source folder: found = used + left out."""
    sources = {}
    for folder in dict.fromkeys(source_folder(split, layout) for split in ("train", "test")):
        used = sum(summary.images for split, summary in splits.items() if source_folder(split, layout) == folder)
        missing = sum(record.folder == folder for record in left_out)
        sources[folder] = {"found": used + missing, "used": used, "left_out": missing}
    return sources
