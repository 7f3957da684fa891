"""Images that look wrong but are kept: they are listed, and a person decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..radiographs.polarity import looks_inverted
from ..radiographs.read import Radiograph
from .source import Box, ImageRecord

SUSPICIONS = {
    "inverted": "image(s) seem to be inverted (bones dark, air bright), although the header says otherwise. Look at"
    " them; if the header is wrong, correct its Photometric Interpretation and prepare again",
    "boxes_outside": "image(s) have a box that extends beyond the image, so the boxes may refer to another size."
    " Check the tables and, for PNG and JPEG files, the sizes of the originals (--sizes)",
    "reshaped": "PNG or JPEG image(s) with boxes have other proportions than the original. Scaled boxes fit if the"
    " image was squashed, but not if it was padded or cropped",
    "underfilled_range": "16-bit image(s) use less than an eighth of their value range, so few grey levels are left."
    " Name the range of the stored values, 0 and 4095 for 12 bits (--value-range 0 4095)",
    "no_contrast": "image(s) have no usable contrast: almost all pixels have the same grey value. Check the window of"
    " the file, or ignore it (--voi percentile)",
}


def suspicions(record: ImageRecord, radiograph: Radiograph) -> list[str]:
    """Return every kind of [`SUSPICIONS`] that applies to an image.

    Args:
        record (`ImageRecord`):
            The image, with boxes as in the tables.
        radiograph (`Radiograph`):
            The image as it is stored.
    """
    size = radiograph.original_height, radiograph.original_width
    found = {
        "inverted": looks_inverted(radiograph.pixels),
        "boxes_outside": any(beyond_px(box, *(record.boxes_size or size)) > 0 for box in record.boxes),
        "reshaped": is_reshaped(record, *size),
        "underfilled_range": radiograph.underfilled,
        "no_contrast": radiograph.no_contrast,
    }
    return [kind for kind, suspect in found.items() if suspect]


def suspect_sentences(images: Mapping[str, list[str]]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield kind, a sentence with the number of images, and their ids, for every kind that occurs."""
    for kind, text in SUSPICIONS.items():
        if ids := images.get(kind):
            yield kind, f"{len(ids)} {text}", ids


def beyond_px(box: Box, height: float, width: float) -> float:
    """Return by how many pixels a box extends beyond an image of this size; 0 or less if it does not."""
    return max(-box.x_min, -box.y_min, box.x_max - width, box.y_max - height)


def is_reshaped(record: ImageRecord, height: int, width: int) -> bool:
    """Return whether an image with boxes has other proportions than the original that the boxes refer to."""
    if not record.boxes or record.boxes_size is None:
        return False
    original_height, original_width = record.boxes_size
    # A side may have been rounded by half a pixel.
    return abs(height * original_width - width * original_height) > 0.5 * (original_height + original_width)
