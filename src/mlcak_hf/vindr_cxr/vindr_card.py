"""The sentences of a dataset card that depend on VinDr-CXR."""

from __future__ import annotations

from pathlib import Path

from ..preparation.source import SourceCard
from .labels import GLOBAL_LABELS, VINDR_CXR_LABELS
from .options import VinDrOptions

CITATION = """\
@article{nguyen2022vindr,
  title = {{VinDr-CXR}: An open dataset of chest {X}-rays with radiologist's annotations},
  author = {Nguyen, Ha Q. and Lam, Khanh and Le, Linh T. and others},
  journal = {Scientific Data},
  volume = {9},
  pages = {429},
  year = {2022},
  doi = {10.1038/s41597-022-01498-w}
}"""
LICENSE = {
    "license": "other",
    "license_name": "physionet-credentialed-health-data-license-1.5.0",
    "license_link": "https://physionet.org/content/vindr-cxr/view-license/1.0.0/",
}
_NOTICE = (
    "**Research use only. Do not pass this folder on.** If its source is VinDr-CXR, PhysioNet's credentialed data use"
    " agreement forbids sharing the images or anything they can be made from, including a private upload to which"
    " others have access."
)
_PHANTOM_NOTICE = (
    "**Synthetic images.** They were drawn by `mlcak phantom` and show no patient. They test software; a model trained"
    " on them is of no use on radiographs."
)
_AGGREGATION_TEXT = {
    "majority": "more than half of the readers said yes.",
    "any": "at least one reader said yes.",
    "all": "all readers said yes.",
    "mean": "the share of the readers who said yes (soft targets).",
    "none": "one row per reader in `train`; more than half of the readers in `validation`.",
}


def vindr_card(data_dir: Path, options: VinDrOptions) -> SourceCard:
    """Return the card's sentences for a folder and its options.

    Args:
        data_dir (`Path`):
            The folder. Phantoms in it are recognised by their record, as they carry no licence of PhysioNet.
        options (`VinDrOptions`):
            The choices, with the detected layout.

    Returns:
        `SourceCard`: The sentences.
    """
    phantoms = (data_dir / "phantom.json").is_file()  # written by `mlcak phantom`
    test = "`test` is the source's own test set: read it once, at the end."
    if options.layout == "kaggle":
        test = (
            "`test` was set aside from Kaggle's training images by a hash of the group, the same for every seed, as"
            " Kaggle's own test images have no labels. Read it once, at the end, and do not compare its numbers with"
            " those of VinDr-CXR's test set."
        )
    soft = options.aggregation == "mean"
    columns = {
        "`label`": "share of the readers who called the image abnormal" if soft else "0 normal, 1 abnormal",
        "`findings`": "the 22 local findings by name; -1 = never annotated",
        "`global_labels`": f"{', '.join(GLOBAL_LABELS)}; -1 = never annotated",
        "`votes`, `num_readers`": "how many of how many readers said yes to each of the 28 labels",
    }
    if options.aggregation == "none":
        columns["`reader`"] = "the reader of the row; empty in validation and test"
    consensus = " Test labels are the source's consensus, one reading." if options.layout == "physionet" else ""
    return SourceCard(
        title="Synthetic chest radiographs (phantoms)" if phantoms else "Chest radiographs in VinDr-CXR's layout",
        notice=_PHANTOM_NOTICE if phantoms else _NOTICE,
        made_from="a local folder laid out as VinDr-CXR",
        license={} if phantoms else LICENSE,
        splits=[test],
        columns=columns,
        labels=[
            f'Labels: {_AGGREGATION_TEXT[options.aggregation]} "Abnormal" is 1 - "No finding" of each reader, then'
            f" aggregated in the same way, so an image may be abnormal while no single finding is.{consensus}",
            f"Annotated by the source: {', '.join(options.annotated or VINDR_CXR_LABELS)}.",
        ],
        citation="" if phantoms else CITATION,
    )
