"""An image file and its labels -> rows of the dataset. `prepare` and the builder share this one pipeline."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from ..errors import DicomError
from ..radiographs.file_search import DICOM_SUFFIXES
from ..radiographs.read import read_with_facts
from .source import SKIP, ImageRecord, PreparationSource, SkippedImage
from .suspect_images import SUSPICIONS, suspicions


@dataclass
class ImageNotes:
    """What was found while images were read.

    Args:
        skipped (`list[SkippedImage]`):
            Images that could not be read.
        suspect_images (`dict[str, list[str]]`):
            Ids of the images that look wrong but are kept, by kind.
    """

    skipped: list[SkippedImage] = field(default_factory=list)
    suspect_images: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in SUSPICIONS})

    @classmethod
    def merge(cls, parts: Sequence[ImageNotes]) -> ImageNotes:
        """Join the notes of several parts, sorted so that the order does not depend on the processes."""
        skipped = sorted(chain(*(part.skipped for part in parts)), key=attrgetter("folder", "image_id"))
        suspects = {kind: sorted(i for part in parts for i in part.suspect_images[kind]) for kind in SUSPICIONS}
        return cls(skipped, suspects)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageNotes:
        """Return what `dataclasses.asdict` made a dictionary of."""
        return cls([SkippedImage(**image) for image in values["skipped"]], values["suspect_images"])


def dataset_features(label_features: tuple[dict[str, Any], dict[str, Any]]) -> datasets.Features:
    """Return the columns of a dataset; -1 is a missing label.

    Args:
        label_features (`tuple[dict, dict]`):
            Label columns of the source before and after the boxes.

    Returns:
        `datasets.Features`: The columns.
    """
    edges = {name: datasets.Value("float32") for name in ("x_min", "y_min", "x_max", "y_max")}
    labels, more_labels = label_features
    return datasets.Features(
        {
            "image_id": datasets.Value("string"),
            "image": datasets.Image(),
            **labels,
            "boxes": datasets.List({"finding": datasets.Value("string"), "reader": datasets.Value("string"), **edges}),
            "original_height": datasets.Value("int32"),
            "original_width": datasets.Value("int32"),
            "group": datasets.Value("string"),
            **more_labels,
        }
    )


def image_rows(
    source: PreparationSource, split: str, record: ImageRecord, notes: ImageNotes
) -> list[tuple[str, dict[str, Any]]]:
    """Read one image and make its rows.

    Args:
        source (`PreparationSource`):
            Where images and labels come from.
        split (`str`):
            Split of the image.
        record (`ImageRecord`):
            The image and its labels.
        notes (`ImageNotes`):
            Receives the image if it is skipped or looks wrong.

    Returns:
        `list`: Key and row, with the columns of [`dataset_features`]. Empty for a skipped image.

    Raises:
        [`DicomError`]: When the image cannot be read, or is a PNG or JPEG named as a DICOM file, with
            `on_error="raise"`.
    """
    options = source.options
    try:
        radiograph = read_with_facts(record.path, options.size_px, options.fit, options.voi, options.value_range)
        if not radiograph.is_dicom and (path := Path(record.path)).suffix.lower() in DICOM_SUFFIXES:
            # Boxes of a file that is named as DICOM are taken to be in its own pixels.
            problem = f"{path.name}: the file is a PNG or JPEG image with the name of a DICOM file"
            raise DicomError(f"{problem}, so the size of its boxes is unknown. Rename it, or download the original.")
    except DicomError as error:
        if options.on_error == "raise":
            raise unreadable(str(error)) from None
        notes.skipped.append(SkippedImage(record.image_id, str(error), source.folder_of(split)))
        return []
    for kind in suspicions(record, radiograph):
        notes.suspect_images[kind].append(record.image_id)
    record = replace(record, boxes=record.boxes_in(radiograph.original_height, radiograph.original_width))
    common = {
        "image_id": record.image_id,
        "image": {"bytes": _png(radiograph.pixels, options.bits), "path": None},
        "original_height": radiograph.original_height,
        "original_width": radiograph.original_width,
        "group": record.group,
    }
    return [(key, common | labels) for key, labels in source.label_rows(record, split)]


def unreadable(reason: str) -> DicomError:
    """Return the error for an image that must not be skipped."""
    return DicomError(f"{reason.rstrip('.')}. To leave such images out, pass {SKIP}.")


def _png(image: np.ndarray[Any, np.dtype[np.float32]], bits: int) -> bytes:
    stream = io.BytesIO()
    levels = np.rint(image * np.float32(2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    # On radiographs, level 4 writes files as small as the default in half the time.
    Image.fromarray(levels).save(stream, format="PNG", compress_level=4)
    return stream.getvalue()
