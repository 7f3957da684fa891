"""`preparation.json`: what a prepared dataset holds, counted in its files. Written and read here only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Column, Table

from ..errors import DatasetError
from .rows import ImageNotes
from .shards.plan import PreparationPlan
from .shards.shard_files import read_shard_notes
from .source import SkippedImage

PREPARATION_FILE = "preparation.json"
_VERSION = 3


@dataclass(frozen=True)
class SplitSummary:
    """What a written split holds.

    Args:
        rows (`int`):
            Number of rows; greater than `images` only with a row per reader.
        images (`int`):
            Number of different images.
        normal (`int`):
            Rows with a label of at most 0.5; -1 is missing.
        abnormal (`int`):
            Rows with a greater label.
        groups (`int`):
            Number of different groups (patients, if known).
        image_ids (`list[str]`):
            The images, in the order of the rows.
    """

    rows: int
    images: int
    normal: int
    abnormal: int
    groups: int
    image_ids: list[str]


@dataclass(frozen=True)
class PreparationReport:
    """What a preparation wrote and what it left out.

    Args:
        output_dir (`Path`):
            Folder of the dataset.
        fingerprint (`str`):
            Digest of everything that the dataset was made from.
        software (`dict[str, str]`):
            Version of each package.
        choices (`dict`):
            Every choice that determines the dataset.
        sources (`dict[str, dict[str, int]]`):
            For each source folder, the number of images `found`, `used` and `skipped`.
        splits (`dict[str, SplitSummary]`):
            What each split holds.
        table_notes (`list[str]`):
            What was corrected or ignored in the tables.
        skipped (`list[SkippedImage]`):
            Every image that is not in the dataset.
        suspect_images (`dict[str, list[str]]`):
            Ids of the images that look wrong but are kept, by kind.
    """

    output_dir: Path
    fingerprint: str
    software: dict[str, str]
    choices: dict[str, Any]
    sources: dict[str, dict[str, int]]
    splits: dict[str, SplitSummary]
    table_notes: list[str]
    skipped: list[SkippedImage]
    suspect_images: dict[str, list[str]]

    @classmethod
    def count(cls, plan: PreparationPlan, data: Path, output: Path) -> PreparationReport:
        """Count what the finished shards hold.

        Args:
            plan (`PreparationPlan`):
                What they should hold.
            data (`Path`):
                Their folder.
            output (`Path`):
                Folder that the dataset is for.

        Returns:
            `PreparationReport`: The report.

        Raises:
            [`DatasetError`]: When a shard is damaged, or a split has no image left.
        """
        parts, splits, used = [ImageNotes(plan.skipped)], dict[str, SplitSummary](), Counter[str]()
        for split in plan.shards:
            shards = [data / f"{name}.parquet" for name in plan.shard_names(split)]
            recorded = [read_shard_notes(shard, plan.fingerprint) for shard in shards]
            splits[split] = _summary(shards)
            unread = sum(len(notes.skipped) for _, notes in recorded)
            if splits[split].images + unread != sum(number for number, _ in recorded):
                raise DatasetError(f"The shards of {split} in {data} do not match their metadata. Prepare them again.")
            if not splits[split].images:
                raise DatasetError(f"No image of the split {split} could be read. Pass on_error='raise' to see why.")
            parts += [notes for _, notes in recorded]
            used[plan.folders[split]] += splits[split].images
        notes = ImageNotes.merge(parts)
        left_out = Counter(image.folder for image in notes.skipped)
        # Every image of a source folder is accounted for: found = used + skipped.
        sources = {
            folder: {"found": number + left_out[folder], "used": number, "skipped": left_out[folder]}
            for folder, number in used.items()
        }
        made_of = plan.fingerprint, plan.software, plan.choices
        return cls(output, *made_of, sources, splits, plan.table_notes, **vars(notes))

    def table(self) -> Table:
        """Return the splits as a table for the terminal."""
        counts = ("rows", "images", "normal", "abnormal", "groups")
        table = Table("split", *(Column(name, justify="right") for name in counts), title="Prepared dataset")
        for split, summary in self.splits.items():
            table.add_row(split, *(str(getattr(summary, name)) for name in counts))
        return table

    def skipped_table(self) -> Table:
        """Return the skipped images and their reasons as a table for the terminal."""
        table = Table("folder", "image", "reason", title=f"Skipped: {len(self.skipped)} image(s)")
        for image in self.skipped:
            table.add_row(image.folder, image.image_id, escape(image.reason))  # names of syntaxes contain brackets
        return table

    def as_json(self) -> str:
        """Return the text of `preparation.json`."""
        values = {"format_version": _VERSION} | asdict(self)
        del values["output_dir"]
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: str | Path) -> PreparationReport:
        """Read the report of a prepared dataset.

        Args:
            folder (`str` or `Path`):
                Folder that `mlcak prepare` wrote.

        Returns:
            `PreparationReport`: The report.

        Raises:
            [`DatasetError`]: When the folder holds no report, or one of another version.
        """
        path = Path(folder) / PREPARATION_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found = values.pop("format_version", None)
            if found == _VERSION:
                values["splits"] = {name: SplitSummary(**summary) for name, summary in values["splits"].items()}
                return cls(Path(folder), **values | vars(ImageNotes.from_dict(values)))
        except OSError:
            raise DatasetError(f"{path} does not exist. Name a folder that `mlcak prepare` wrote.") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DatasetError(f"{path} is damaged ({error}). Prepare the dataset again.") from None
        raise DatasetError(f"{path} must have format_version {_VERSION}; got {found!r}. Prepare the dataset again.")


def _summary(shards: Sequence[Path]) -> SplitSummary:
    table = pa.concat_tables(pq.read_table(shard, columns=["image_id", "label", "group"]) for shard in shards)
    ids, labels = table["image_id"].to_pylist(), table["label"].to_pylist()
    abnormal, normal = sum(label > 0.5 for label in labels), sum(0 <= label <= 0.5 for label in labels)
    images = list(dict.fromkeys(ids))
    groups = len(set(table["group"].to_pylist()))
    return SplitSummary(len(ids), len(images), normal, abnormal, groups, images)
