"""Images that are used as they are, though something about them seems wrong: a person is told, and decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from ..radiographs.polarity import looks_inverted
from ..radiographs.read import Radiograph
from ..vindr_cxr.source import Box, ImageRecord

_SENTENCES = {
    "inverted": "image(s) seem to be inverted (bones dark, air bright), although their header says otherwise. Look at"
    " them; where the header is wrong, correct Photometric Interpretation and prepare anew",
    "boxes_outside": "image(s) have a box that reaches out of them, so that their boxes may refer to another size."
    " Check the tables, and the sizes of the originals where the files are pictures (--sizes)",
    "reshaped": "picture(s) with boxes have other proportions than the original: scaled boxes fit where it was"
    " squashed, not where it was padded or cropped",
    "crushed": "16-bit picture(s) have no value above an eighth of their range, so that few grey levels are left. Say"
    " what their values reach from and to, 0 and 4095 for 12 bits (--value-range 0 4095)",
}


@dataclass
class Doubts:
    """Ids of images by what seems to be wrong with them.

    Args:
        inverted: Those that look like the negative of a chest.
        boxes_outside: Those with a box that reaches out of the image.
        reshaped: Pictures with boxes whose proportions are not those of the original.
        crushed: Pictures of 16 bits whose values keep to the lowest eighth of the range.
    """

    inverted: list[str] = field(default_factory=list)
    boxes_outside: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    crushed: list[str] = field(default_factory=list)

    def look_at(self, record: ImageRecord, radiograph: Radiograph) -> None:
        """Look at one image.

        Args:
            record: What the tables say about it, with boxes as they are there.
            radiograph: The image as it is stored.
        """
        size = radiograph.original_height, radiograph.original_width
        seen = {
            "inverted": looks_inverted(radiograph.pixels),
            "boxes_outside": any(beyond_px(box, *(record.boxes_size or size)) > 0 for box in record.boxes),
            "reshaped": is_reshaped(record, *size),
            "crushed": radiograph.underfilled,
        }
        for kind, doubtful in seen.items():
            if doubtful:
                getattr(self, kind).append(record.image_id)

    def add(self, other: Doubts) -> None:
        """Append the images of another part of the dataset."""
        for kind in fields(self):
            getattr(self, kind.name).extend(getattr(other, kind.name))

    def sentences(self) -> Iterator[tuple[str, str, list[str]]]:
        """Yield kind, a sentence with its number, and the ids, of every kind that there is."""
        for kind, text in _SENTENCES.items():
            ids = getattr(self, kind)
            if ids:
                yield kind, f"{len(ids)} {text}", ids


def beyond_px(box: Box, height: float, width: float) -> float:
    """By how many pixels a box reaches out of an image of this size; 0 or less where it does not."""
    return max(-box.x_min, -box.y_min, box.x_max - width, box.y_max - height)


def is_reshaped(record: ImageRecord, height: int, width: int) -> bool:
    """Whether a picture of this size has boxes, and other proportions than the original that they refer to."""
    if not record.boxes or record.boxes_size is None:
        return False
    original_height, original_width = record.boxes_size
    # A side may have been rounded by half a pixel.
    return abs(height * original_width - width * original_height) > 0.5 * (original_height + original_width)
