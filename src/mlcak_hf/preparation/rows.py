"""Images and readings -> rows of the dataset, and the choices that shape them."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL
import pydicom
from PIL import Image

from ..configuration_mlcak import VINDR_CXR_FINDINGS
from ..errors import DatasetError, DicomError, LabelError
from ..radiographs.grey_values import (
    PERCENTILE_REFERENCE_PX,
    PERCENTILES,
    VOI_MODES,
    ValueRange,
    Voi,
    check_value_range,
)
from ..radiographs.png_jpeg import HEAD_BYTES, SIGNATURES
from ..radiographs.read import FITS, Fit, read_with_facts
from ..vindr_cxr.conversions import SAME
from ..vindr_cxr.kaggle import KAGGLE_LABELS
from ..vindr_cxr.labels import (
    AGGREGATIONS,
    GLOBAL_CLASS_NAMES,
    GLOBAL_LABELS,
    VINDR_CXR_LABELS,
    Aggregation,
    Reading,
    aggregate,
    resolve_annotated,
)
from ..vindr_cxr.layout import LAYOUTS, ImageRecord, Layout, VinDrLayout, detect_layout, layout_fingerprint
from ..vindr_cxr.tables import DICOM_SUFFIXES
from .suspect_images import Doubts

BITS = (8, 16)


@dataclass
class VinDrCXRConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Choices that settle what the dataset contains; see `load_vindr_cxr` for each of them.

    `layout` holds what was detected where it was "auto"; with Kaggle's, `annotated` and `test_fraction` get defaults.
    """

    version: datasets.Version | str = field(default_factory=lambda: datasets.Version("1.0.0"))
    size_px: int = 256
    bits: int = 8
    fit: Fit = "pad"
    voi: Voi = "dicom"
    value_range: ValueRange | None = None
    aggregation: Aggregation = "majority"
    annotated: Sequence[str] | None = None
    groups: str | None = None
    validation_fraction: float = 0.15
    seed: int = 0
    on_error: str = "raise"
    layout: Layout = "auto"
    sizes: str | None = None
    test_fraction: float | None = None
    data_dir: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"fit": FITS, "voi": VOI_MODES, "aggregation": AGGREGATIONS, "on_error": ("raise", "skip")}
        choices["layout"] = LAYOUTS
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                error = LabelError if name == "aggregation" else DatasetError
                raise error(f"{name} must be one of {', '.join(allowed)}, but {getattr(self, name)!r} came")
        if self.size_px < 1:
            raise DatasetError(f"size_px must be at least 1, but {self.size_px} came")
        if self.bits not in BITS:
            raise DatasetError(f"bits must be one of {', '.join(map(str, BITS))}, but {self.bits!r} came")
        if not 0 <= self.validation_fraction < 1:
            raise DatasetError(
                f"validation_fraction must be at least 0 and below 1, but {self.validation_fraction} came"
            )
        check_value_range(self.value_range)
        if self.value_range is not None:
            self.value_range = (float(self.value_range[0]), float(self.value_range[1]))
        if self.annotated is not None:
            self.annotated = resolve_annotated(self.annotated)
        if self.groups is not None:
            self.groups = str(self.groups)
        if self.sizes is not None:
            self.sizes = str(self.sizes)
        if self.data_dir is None:
            raise DatasetError("data_dir is needed: the local folder that holds the images and their tables")
        self.layout = detect_layout(self.data_dir, self.layout)
        self.data_dir = str(Path(self.data_dir).expanduser())
        if self.layout == "kaggle":
            self._settle_kaggle()
        elif self.test_fraction is not None:
            raise DatasetError("test_fraction is for Kaggle's layout, which has no labelled test set; leave it out")

    def _settle_kaggle(self) -> None:
        """Choices that follow from what Kaggle's table lacks: half of the labels, and a test set."""
        unknown = [name for name in self.annotated or () if name not in KAGGLE_LABELS]
        if unknown:
            raise LabelError(
                f"Kaggle's train.csv never annotated {', '.join(unknown)}; `annotated` (--annotated) can name only"
                f" {', '.join(KAGGLE_LABELS)}"
            )
        self.annotated = self.annotated or resolve_annotated(KAGGLE_LABELS)
        self.test_fraction = 0.15 if self.test_fraction is None else self.test_fraction
        if not 0 <= self.test_fraction < 1:
            raise DatasetError(f"test_fraction must be at least 0 and below 1, but {self.test_fraction} came")

    def choices(self) -> dict[str, Any]:
        """Every choice that shapes the dataset, as plain values; no path, which may name a person."""
        return {
            "size_px": self.size_px,
            "bits": self.bits,
            "fit": self.fit,
            "voi": self.voi,
            "value_range": None if self.value_range is None else list(self.value_range),
            "percentiles": list(PERCENTILES) if self.voi == "percentile" else None,
            "percentile_reference_px": PERCENTILE_REFERENCE_PX if self.voi == "percentile" else None,
            "aggregation": self.aggregation,
            "annotated": list(resolve_annotated(self.annotated)),
            "groups": "file" if self.groups else "image",
            "validation_fraction": self.validation_fraction,
            "seed": self.seed,
            "on_error": self.on_error,
            "layout": self.layout,
            "sizes": self.sizes if self.sizes in (None, SAME) else "file",
            "test_fraction": self.test_fraction,
        }

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: Any = None) -> str:
        """Name the cache folder by the choices and the content of the data folder, so that no stale one is reused."""
        from mlcak_hf import __version__

        identity = {
            "choices": json.dumps(self.choices(), sort_keys=True),
            "content": layout_fingerprint(str(self.data_dir), self.groups, self.layout, self.sizes),
            "software": f"{__version__} {self.version} {pydicom.__version__} {PIL.__version__}",
        }
        return str(super().create_config_id(identity, custom_features))


def vindr_features(aggregation: Aggregation = "majority") -> datasets.Features:
    """Columns of the dataset.

    Args:
        aggregation: "mean" makes the targets float32 shares of readers; "none" adds the column `reader`.

    Returns:
        The features; -1 is missing in `label`, `findings`, `global_labels` and `votes`.
    """
    soft = aggregation == "mean"
    target = datasets.Value("float32" if soft else "int8")
    edge = datasets.Value("float32")
    columns: dict[str, Any] = {
        "image_id": datasets.Value("string"),
        "image": datasets.Image(),
        "label": datasets.Value("float32") if soft else datasets.ClassLabel(names=list(GLOBAL_CLASS_NAMES)),
        "findings": dict.fromkeys(VINDR_CXR_FINDINGS, target),
        "global_labels": dict.fromkeys(GLOBAL_LABELS, target),
        "votes": {name: datasets.Value("int8") for name in VINDR_CXR_LABELS},
        "num_readers": datasets.Value("int8"),
        "boxes": datasets.List(
            {
                "finding": datasets.Value("string"),
                "reader": datasets.Value("string"),
                "x_min": edge,
                "y_min": edge,
                "x_max": edge,
                "y_max": edge,
            }
        ),
        "original_height": datasets.Value("int32"),
        "original_width": datasets.Value("int32"),
        "group": datasets.Value("string"),
    }
    if aggregation == "none":
        columns["reader"] = datasets.Value("string")
    return datasets.Features(columns)


def image_rows(
    record: ImageRecord,
    config: VinDrCXRConfig,
    per_reader: bool,
    pseudonyms: Mapping[str, str] | None,
    doubts: Doubts | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read one image and make its rows.

    Args:
        record: What the tables say about it.
        config: The choices.
        per_reader: A row per reader instead of one.
        pseudonyms: Names of the groups in the dataset; None leaves them as they are.
        doubts: Gets the image's id where something about it seems wrong.

    Yields:
        Key and row, with the columns of `vindr_features`.

    Raises:
        DicomError: The file cannot be read, or is a picture named as a DICOM file.
    """
    radiograph = read_with_facts(record.path, config.size_px, config.fit, config.voi, config.value_range)
    _refuse_disguised(Path(record.path))
    if doubts is not None:
        doubts.look_at(record, radiograph)
    record = replace(record, boxes=record.boxes_in(radiograph.original_height, radiograph.original_width))
    common = {
        "image_id": record.image_id,
        "image": {"bytes": _png(radiograph.pixels, config.bits), "path": None},
        "original_height": radiograph.original_height,
        "original_width": radiograph.original_width,
        "group": record.group if pseudonyms is None else pseudonyms[record.group],
    }
    if not per_reader:
        yield record.image_id, common | _targets(record, config, record.readings)
        return
    for reading in record.readings:
        yield f"{record.image_id}/{reading.reader}", common | _targets(record, config, (reading,), reading.reader)


def _refuse_disguised(path: Path) -> None:
    """Refuse a picture that is named as a DICOM file: the boxes are taken to be in pixels of a DICOM file."""
    if path.suffix.lower() not in DICOM_SUFFIXES:
        return
    with path.open("rb") as stream:
        if stream.read(HEAD_BYTES).startswith(SIGNATURES):
            raise DicomError(
                f"{path.name}: it is a PNG or JPEG picture with the name of a DICOM file, so that nothing says to which"
                " size its boxes refer; give it the name of what it is, or download the original"
            )


def _targets(
    record: ImageRecord, config: VinDrCXRConfig, readings: Sequence[Reading], reader: str = ""
) -> dict[str, Any]:
    """Columns that follow from the readings: that of `reader` in a row per reader, else all."""
    aggregation, annotated = config.aggregation, config.annotated
    labels = aggregate(readings, "majority" if aggregation == "none" else aggregation, annotated)
    counted = aggregate(record.readings, "majority", annotated)
    boxes = [box for box in record.boxes if reader in ("", box.reader)]
    columns: dict[str, Any] = {
        "label": labels.label,
        "findings": labels.findings,
        "global_labels": labels.global_labels,
        "votes": counted.votes,
        "num_readers": counted.num_readers,
        "boxes": [box._asdict() for box in boxes],
    }
    if aggregation == "none":
        columns["reader"] = reader
    return columns


def group_pseudonyms(layout: VinDrLayout) -> dict[str, str]:
    """Number the groups, in no order that tells anything about their ids.

    Args:
        layout: All usable images.

    Returns:
        Running name by group.
    """
    ranked = sorted(
        {r.group for r in (*layout.train, *layout.test)}, key=lambda g: uuid.uuid5(uuid.NAMESPACE_OID, g).hex
    )
    return {group: f"group-{number:06d}" for number, group in enumerate(ranked)}


def _png(image: np.ndarray[Any, np.dtype[np.float32]], bits: int) -> bytes:
    """Store a square in [0, 1] as PNG of 8 or 16 bits."""
    stream = io.BytesIO()
    levels = np.rint(image * np.float32(2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    # Level 4 writes files as small as the default's in half the time, measured on radiographs.
    Image.fromarray(levels).save(stream, format="PNG", compress_level=4)
    return stream.getvalue()
