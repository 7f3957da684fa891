"""The dataset card of a prepared dataset."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from ..shipped import hub_configs_dir
from .report import PreparationReport
from .source import SourceCard
from .suspect_images import suspect_sentences

_VOI_TEXT = {
    "dicom": "the limits of the file's VOI LUT or window become 0 and {highest}, or those of the stored bit range if"
    " the file has neither",
    "percentile": "percentiles {percentiles} at {percentile_reference_px} px become 0 and {highest}",
    "none": "the stored bit range becomes 0 to {highest}",
}


def dataset_card(report: PreparationReport, source: SourceCard, data: Path) -> DatasetCard:
    """Write the card of a prepared dataset.

    Args:
        report (`PreparationReport`):
            What the dataset holds.
        source (`SourceCard`):
            The sentences that depend on the source.
        data (`Path`):
            Folder of its Parquet files.

    Returns:
        `DatasetCard`: The card.
    """
    digest, images = hashlib.sha256(), sum(summary.images for summary in report.splits.values())
    for shard in sorted(data.iterdir()):
        digest.update(shard.read_bytes())
    files = [{"split": split, "path": f"data/{split}-*"} for split in report.splits]
    reasons = Counter(f"image(s) of {image.folder}/: {image.reason.split(': ')[0]}" for image in report.skipped)
    card: DatasetCard = DatasetCard.from_template(
        DatasetCardData(
            pretty_name=source.title,
            **source.license,
            task_categories=["image-classification"],
            size_categories="n<1K" if images < 1000 else "1K<n<10K" if images < 10_000 else "10K<n<100K",
            tags=["medical", "radiology", "chest-x-ray", "mlcak"],
            # `load_dataset(folder)` caches by folder and configuration name, not by content. With a constant name, a
            # dataset prepared again in the same folder would be read as the old one.
            configs=[{"config_name": f"prepared-{digest.hexdigest()[:12]}", "data_files": files}],
        ),
        template_path=str(hub_configs_dir() / "templates" / "dataset_card.md"),
        source=source,
        **vars(report),
        reasons=reasons,
        suspects=list(suspect_sentences(report.suspect_images)),
        voi_text=_VOI_TEXT[report.choices["voi"]].format(highest=2 ** report.choices["bits"] - 1, **report.choices),
    )
    return card
