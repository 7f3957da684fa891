"""A VinDr-CXR folder -> a folder of Parquet files that plain `load_dataset` reads anywhere. Nothing is uploaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData
from rich.markup import escape
from rich.table import Table

from ...errors import DatasetError
from ...recipes import hub_configs_dir
from ..radiograph import Fit
from .builder import VinDrCXR
from .labels import Aggregation
from .layout import FOLDERS, Layout, LeftOut, checked_data_dir

PREPARATION_FILE = "preparation.json"
_FORMAT_VERSION = 1
_SPLITS = ("train", "validation", "test")

_VOI_TEXT = {
    "dicom": "the limits of the file's VOI LUT or window become 0 and 255; the stored bit range where it has neither",
    "percentile": "percentiles {percentiles} at {percentile_reference_px} px become 0 and 255",
    "none": "the stored bit range becomes 0 to 255",
}
_AGGREGATION_TEXT = {
    "majority": "more than half of the readers said yes.",
    "any": "at least one reader said yes.",
    "all": "all readers said yes.",
    "mean": "the share of the readers who said yes (soft targets).",
    "none": "a row per reader in `train`; more than half of the readers in `validation`.",
}


@dataclass(frozen=True)
class SplitSummary:
    """What a written split holds.

    Args:
        rows: Rows; more than images only with a row per reader.
        images: Different images.
        normal: Rows that are normal; with soft targets those below one half.
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
    """What `prepare_vindr_cxr` made.

    Args:
        output_dir: The dataset's folder.
        choices: Every choice that shaped it.
        sources: For each source folder (train, test) the number of images found, used and left out.
        splits: What each written split holds.
        left_out: Every image that is not in the dataset: image id, reason, source folder.
    """

    output_dir: Path
    choices: dict[str, Any]
    sources: dict[str, dict[str, int]]
    splits: dict[str, SplitSummary]
    left_out: list[LeftOut]

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
        packages = ("mlcak-hf", "datasets", "numpy", "pillow", "pydicom", "pylibjpeg-openjpeg")
        return {
            "format_version": _FORMAT_VERSION,
            "software": {name: version(name) for name in packages},
            "choices": self.choices,
            "sources": self.sources,
            "splits": {name: asdict(summary) for name, summary in self.splits.items()},
            "left_out": [record._asdict() for record in self.left_out],
        }


def prepare_vindr_cxr(
    data_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    size_px: int = 256,
    fit: Fit = "pad",
    voi: str = "dicom",
    aggregation: Aggregation = "majority",
    annotated: Sequence[str] | None = None,
    groups: str | os.PathLike[str] | None = None,
    validation_fraction: float = 0.15,
    seed: int = 0,
    on_error: str = "raise",
    layout: Layout = "auto",
    sizes: str | os.PathLike[str] | None = None,
    test_fraction: float | None = None,
    num_proc: int | None = None,
    overwrite: bool = False,
) -> PreparationReport:
    """Write a local folder in VinDr-CXR's layout as a dataset that `load_dataset(output_dir)` reads anywhere.

    The folder appears only when it is complete: `data/{split}-NNNNN-of-NNNNN.parquet`, `README.md` (dataset card) and
    `preparation.json` (choices, images of each split, and what was left out).

    Args:
        data_dir: Folder in PhysioNet's or Kaggle's layout, as in `mlcak_hf.data.load_vindr_cxr`.
        output_dir: Folder to write; must be new or empty.
        size_px, fit, voi, aggregation, annotated, groups, validation_fraction, seed, on_error, layout, sizes,
            test_fraction, num_proc: As in `mlcak_hf.data.load_vindr_cxr`.
        overwrite: Replace a dataset that an earlier preparation left in `output_dir`. Any other folder with files in it
            is refused all the same.

    Returns:
        What was written and what was left out.

    Raises:
        DatasetError: Folder, tables, groups or output folder are not as they must be.
        LabelError: An unknown label or aggregation, or labels that contradict themselves.
        DicomError: A radiograph cannot be read, with on_error="raise".

    Example:

    ```python
    >>> from mlcak_hf.data import prepare_vindr_cxr
    >>> report = prepare_vindr_cxr("vindr-cxr/1.0.0", "vindr-256", num_proc=4, on_error="skip")
    >>> report.splits["train"].images, len(report.left_out)
    ```
    """
    source, output = checked_data_dir(data_dir, layout), Path(output_dir).expanduser().absolute()
    _check_output(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    work = output.parent / f".{output.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        builder = VinDrCXR(
            cache_dir=str(work / "cache"),
            data_dir=str(source),
            size_px=size_px,
            fit=fit,
            voi=voi,
            aggregation=aggregation,
            annotated=annotated,
            groups=None if groups is None else str(groups),
            validation_fraction=validation_fraction,
            seed=seed,
            on_error=on_error,
            layout=layout,
            sizes=None if sizes is None else str(sizes),
            test_fraction=test_fraction,
        )
        builder.download_and_prepare(output_dir=str(work / "written"), file_format="parquet", num_proc=num_proc)
        folder = work / "dataset"
        splits = _move_shards(work / "written", folder / "data")
        report = PreparationReport(
            output,
            builder.config.choices(),
            _sources(splits, builder.left_out, builder.config.layout),
            splits,
            builder.left_out,
        )
        preparation = json.dumps(report.as_dict(), indent=1, ensure_ascii=False)
        (folder / PREPARATION_FILE).write_text(preparation + "\n", encoding="utf-8")
        _card(report, _digest(folder / "data"), str(builder.info.citation)).save(folder / "README.md")
        _put_in_place(folder, output, work / "replaced")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def read_preparation(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read how a prepared dataset was made.

    Args:
        folder: What `prepare_vindr_cxr` wrote.

    Returns:
        `choices`, `sources` and `splits` (with the image ids of each), `left_out`, `software`, `format_version`.

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


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise DatasetError(f"{output} is a file; name a folder to write the dataset to")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise DatasetError(f"{output} is not empty; name a new folder, or pass overwrite=True (--overwrite)")
    if not (output / PREPARATION_FILE).is_file():
        raise DatasetError(f"{output} holds no prepared dataset but other files, and is left alone; name a new folder")


def _move_shards(written: Path, data: Path) -> dict[str, SplitSummary]:
    """Give the Parquet files their final names, and count what is really in them."""
    data.mkdir(parents=True)
    splits: dict[str, SplitSummary] = {}
    for split in _SPLITS:
        shards = sorted(written.glob(f"*-{split}.parquet")) or sorted(written.glob(f"*-{split}-*.parquet"))
        if not shards:
            continue
        for number, shard in enumerate(shards):
            shard.rename(data / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
        splits[split] = _summary(sorted(data.glob(f"{split}-*.parquet")))
        if not splits[split].rows:
            raise DatasetError(f"every image of the split {split} had to be left out; see why with on_error='raise'")
    return splits


def _summary(shards: Sequence[Path]) -> SplitSummary:
    table = pa.concat_tables(pq.read_table(shard, columns=["image_id", "label", "group"]) for shard in shards)
    ids, labels = table["image_id"].to_pylist(), table["label"].to_pylist()
    abnormal = sum(label >= 0.5 for label in labels)
    images = list(dict.fromkeys(ids))
    groups = len(set(table["group"].to_pylist()))
    return SplitSummary(len(ids), len(images), len(ids) - abnormal, abnormal, groups, images)


def _sources(splits: Mapping[str, SplitSummary], left_out: Sequence[LeftOut], layout: str) -> dict[str, dict[str, int]]:
    """Account for every image of a source folder: found = used + left out."""
    sources = {}
    for folder in ("train",) if layout == "kaggle" else FOLDERS:  # on Kaggle, every split comes from train/
        used = sum(s.images for n, s in splits.items() if layout == "kaggle" or (n == "test") == (folder == "test"))
        missing = sum(record.folder == folder for record in left_out)
        sources[folder] = {"found": used + missing, "used": used, "left_out": missing}
    return sources


def _digest(data: Path) -> str:
    """Name the content of the Parquet files: the same rows in the same shards, the same digest."""
    digest = hashlib.sha256()
    for shard in sorted(data.iterdir()):
        with shard.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]


def _card(report: PreparationReport, digest: str, citation: str) -> DatasetCard:
    images = sum(summary.images for summary in report.splits.values())
    files = [{"split": split, "path": f"data/{split}-*"} for split in report.splits]
    reasons = Counter(f"image(s) of {r.folder}/: {r.reason.split(': ')[0]}" for r in report.left_out)
    name = "Chest radiographs in VinDr-CXR's layout"
    card: DatasetCard = DatasetCard.from_template(
        DatasetCardData(
            pretty_name=name,
            license="other",
            license_name="physionet-credentialed-health-data-license-1.5.0",
            license_link="https://physionet.org/content/vindr-cxr/view-license/1.0.0/",
            task_categories=["image-classification"],
            size_categories="n<1K" if images < 1000 else "1K<n<10K" if images < 10_000 else "10K<n<100K",
            tags=["medical", "radiology", "chest-x-ray", "mlcak"],
            # `load_dataset(folder)` keeps its cache by folder and configuration name, whatever becomes of the files:
            # with a constant name, a dataset prepared anew in the same folder would be read as the old one.
            configs=[{"config_name": f"prepared-{digest}", "data_files": files}],
        ),
        template_path=str(hub_configs_dir() / "dataset_card_template.md"),
        pretty_name=name,
        version=version("mlcak-hf"),
        splits=[{"split": split, **asdict(summary)} for split, summary in report.splits.items()],
        choices=report.choices,
        num_left_out=len(report.left_out),
        left_out_reasons=[{"reason": reason, "count": count} for reason, count in reasons.items()],
        voi_text=_VOI_TEXT[report.choices["voi"]].format(**report.choices),
        aggregation_text=_AGGREGATION_TEXT[report.choices["aggregation"]],
        citation=citation,
    )
    return card


def _put_in_place(folder: Path, output: Path, replaced: Path) -> None:
    """Let the finished folder appear at once; an old one is set aside first and comes back if that fails."""
    if not output.exists():
        folder.rename(output)
        return
    output.rename(replaced)
    try:
        folder.rename(output)
    except OSError:
        replaced.rename(output)
        raise
