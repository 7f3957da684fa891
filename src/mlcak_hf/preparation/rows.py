"""An image file and its labels -> rows of the dataset. `prepare` and the builder share this one pipeline."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from ..errors import DicomError
from ..radiographs.png_jpeg import HEAD_BYTES, SIGNATURES
from ..radiographs.read import read_with_facts
from .source import SKIP, ImageRecord, PreparationSource, SkippedImage
from .suspect_images import SuspectImages
from .tables import DICOM_SUFFIXES


@dataclass
class ImageNotes:
    """What was found while images were read.

    Args:
        skipped (`list[SkippedImage]`):
            Images that could not be read.
        suspect_images (`SuspectImages`):
            Images that look wrong but are kept.
    """

    skipped: list[SkippedImage] = field(default_factory=list)
    suspect_images: SuspectImages = field(default_factory=SuspectImages)

    def add(self, other: ImageNotes) -> None:
        """Append the notes of another part of the dataset."""
        self.skipped += other.skipped
        self.suspect_images.add(other.suspect_images)

    def sort(self) -> None:
        """Sort by folder and image id, so that the order does not depend on the processes."""
        self.skipped.sort(key=lambda image: (image.folder, image.image_id))
        self.suspect_images.sort()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        skipped = [image._asdict() for image in self.skipped]
        return {"skipped": skipped, "suspect_images": asdict(self.suspect_images)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageNotes:
        """Return what `as_dict` returned."""
        skipped = [SkippedImage(**image) for image in values["skipped"]]
        return cls(skipped, SuspectImages(**values["suspect_images"]))


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


@dataclass(frozen=True)
class RowReader:
    """Reads images of one split and makes their rows. It is pickled to worker processes.

    Args:
        source (`PreparationSource`):
            Where images and labels come from.
        split (`str`):
            Split of the images.
        pseudonyms (`Mapping[str, str]`, *optional*):
            Name in the dataset of each group. `None` keeps the names.
    """

    source: PreparationSource
    split: str
    pseudonyms: Mapping[str, str] | None

    def rows(self, images: Sequence[ImageRecord], notes: ImageNotes) -> Iterator[list[tuple[str, dict[str, Any]]]]:
        """Yield the keys and rows of each image, an empty list for a skipped one.

        Args:
            images (`Sequence[ImageRecord]`):
                Images in the order of the rows.
            notes (`ImageNotes`):
                Receives skipped and suspect images.

        Raises:
            [`DicomError`]: When an image cannot be read, with `on_error="raise"`.
        """
        for record in images:
            rows = []
            try:
                rows = list(image_rows(record, self, notes.suspect_images))
            except DicomError as error:
                if self.source.options.on_error == "raise":
                    raise unreadable(str(error)) from None
                notes.skipped.append(SkippedImage(record.image_id, str(error), self.source.folder_of(self.split)))
            yield rows


def unreadable(reason: str) -> DicomError:
    """Return the error for an image that must not be skipped."""
    return DicomError(f"{reason.rstrip('.')}. To leave such images out, pass {SKIP}.")


def image_rows(record: ImageRecord, reader: RowReader, suspects: SuspectImages) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read one image and make its rows.

    Args:
        record (`ImageRecord`):
            The image and its labels.
        reader (`RowReader`):
            Source, split and names of the groups.
        suspects (`SuspectImages`):
            Receives the image's id if it looks wrong.

    Yields:
        Key and row, with the columns of [`dataset_features`].

    Raises:
        [`DicomError`]: When the file cannot be read, or is a PNG or JPEG named as a DICOM file.
    """
    options = reader.source.options
    radiograph = read_with_facts(record.path, options.size_px, options.fit, options.voi, options.value_range)
    _refuse_disguised(Path(record.path))
    suspects.inspect(record, radiograph)
    record = replace(record, boxes=record.boxes_in(radiograph.original_height, radiograph.original_width))
    common = {
        "image_id": record.image_id,
        "image": {"bytes": _png(radiograph.pixels, options.bits), "path": None},
        "original_height": radiograph.original_height,
        "original_width": radiograph.original_width,
        "group": record.group if reader.pseudonyms is None else reader.pseudonyms[record.group],
    }
    for key, labels in reader.source.label_rows(record, reader.split):
        yield key, common | labels


def _refuse_disguised(path: Path) -> None:
    # Boxes are taken to be in pixels of the file if it is DICOM, which a renamed conversion would break.
    if path.suffix.lower() not in DICOM_SUFFIXES:
        return
    with path.open("rb") as stream:
        if stream.read(HEAD_BYTES).startswith(SIGNATURES):
            raise DicomError(
                f"{path.name}: the file is a PNG or JPEG image with the name of a DICOM file, so the size that its"
                " boxes refer to is unknown. Rename it, or download the original."
            )


def _png(image: np.ndarray[Any, np.dtype[np.float32]], bits: int) -> bytes:
    stream = io.BytesIO()
    levels = np.rint(image * np.float32(2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    # On radiographs, level 4 writes files as small as the default in half the time.
    Image.fromarray(levels).save(stream, format="PNG", compress_level=4)
    return stream.getvalue()
