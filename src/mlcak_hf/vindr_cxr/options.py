"""The choices of a preparation of VinDr-CXR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..errors import LabelError
from ..preparation.options import PreparationOptions
from .choices import Layout, VoteRule
from .conversions import SAME_SIZES
from .labels import VINDR_CXR_LABELS, resolve_annotated


@dataclass(frozen=True)
class VinDrOptions(PreparationOptions):
    """Every choice for VinDr-CXR, besides those of [`PreparationOptions`].

    Args:
        aggregation (`str`, *optional*, defaults to `"majority"`):
            How the readers' votes become labels: `"majority"` (more than half of the readers), `"any"`, `"all"`,
            `"mean"` (soft targets), or `"none"`: one row per reader in the training split, with the targets and boxes
            of that reader and the votes of all. Validation stays by image and by majority. Test labels are a consensus.
        annotated (`Sequence[str]`, *optional*):
            Names of the labels that the source annotated; the others are missing (-1), not 0. `None` means all 28, or
            the 15 of Kaggle.
        layout (`str`, *optional*, defaults to `"auto"`):
            `"physionet"` or `"kaggle"`. `"auto"` detects it from the tables present.
        sizes (`str`, *optional*):
            For PNG and JPEG files: a CSV with the sizes of the original radiographs, which the boxes refer to
            (image_id and dim0, dim1 or height, width), or `"same"` if the files have the original sizes. `None` uses
            train_meta.csv and test_meta.csv. Boxes in the dataset are in pixels of the file.
        test_fraction (`float`, *optional*):
            Share of Kaggle's images set aside as the test split, by whole groups and independent of the seed, as
            Kaggle's own test images have no labels. `None` means 0.15. Not for PhysioNet's layout.

    `groups` is a CSV with the columns image_id and group_id.

    Raises:
        [`DatasetError`]: When a choice is not one of the values above.
        [`LabelError`]: When a label or the aggregation is unknown.

    Example:
        ```python
        >>> from mlcak_hf import VinDrOptions

        >>> VinDrOptions(size_px=128, aggregation="any").bits
        8
        ```
    """

    aggregation: VoteRule = "majority"
    annotated: Sequence[str] | None = None
    layout: Layout = "auto"
    sizes: str | Path | None = None
    test_fraction: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_one_of(LabelError, aggregation=get_args(VoteRule))
        self._check_one_of(layout=get_args(Layout))
        if self.test_fraction is not None:
            self._check_fraction("test_fraction")
        if self.annotated is not None:
            object.__setattr__(self, "annotated", resolve_annotated(self.annotated))
        if self.sizes is not None:
            object.__setattr__(self, "sizes", str(self.sizes))

    def choices(self) -> dict[str, Any]:
        """Return the choices as plain values; no path, which may name a person."""
        return super().choices() | {
            "aggregation": self.aggregation,
            "annotated": list(self.annotated or VINDR_CXR_LABELS),
            "layout": self.layout,
            "sizes": self.sizes if self.sizes in (None, SAME_SIZES) else "file",
            "test_fraction": self.test_fraction,
        }
