"""The dataset card of a prepared dataset."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from ..shipped import hub_configs_dir
from ..vindr_cxr.builder import CITATION
from .report import PreparationReport

_VOI_TEXT = {
    "dicom": "the limits of the file's VOI LUT or window become 0 and {highest}; the stored bit range where it has"
    " neither",
    "percentile": "percentiles {percentiles} at {percentile_reference_px} px become 0 and {highest}",
    "none": "the stored bit range becomes 0 to {highest}",
}
_AGGREGATION_TEXT = {
    "majority": "more than half of the readers said yes.",
    "any": "at least one reader said yes.",
    "all": "all readers said yes.",
    "mean": "the share of the readers who said yes (soft targets).",
    "none": "a row per reader in `train`; more than half of the readers in `validation`.",
}


def dataset_card(report: PreparationReport, data: Path) -> DatasetCard:
    """Write the card of a prepared dataset.

    Args:
        report: What it holds.
        data: Its Parquet files.

    Returns:
        The card.
    """
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
            configs=[{"config_name": f"prepared-{_digest(data)}", "data_files": files}],
        ),
        template_path=str(hub_configs_dir() / "dataset_card_template.md"),
        pretty_name=name,
        software=report.software,
        splits=[{"split": split, **asdict(summary)} for split, summary in report.splits.items()],
        choices=report.choices,
        num_left_out=len(report.left_out),
        left_out_reasons=[{"reason": reason, "count": count} for reason, count in reasons.items()],
        remarks=report.remarks,
        doubts=[{"kind": kind, "sentence": sentence} for kind, sentence, _ in report.doubts.sentences()],
        voi_text=_VOI_TEXT[report.choices["voi"]].format(highest=2 ** report.choices["bits"] - 1, **report.choices),
        aggregation_text=_AGGREGATION_TEXT[report.choices["aggregation"]],
        citation=CITATION,
    )
    return card


def _digest(data: Path) -> str:
    """Name the content of the Parquet files: the same rows in the same shards, the same digest."""
    digest = hashlib.sha256()
    for shard in sorted(data.iterdir()):
        with shard.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]
