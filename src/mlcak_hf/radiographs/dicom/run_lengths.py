"""RLE Lossless (PS3.5 annex G): each byte of the pixels is a separate plane, packed in runs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...errors import DicomError

_HEADER = 64
_REMEDY = "Download or export the file again."


def decode_run_lengths(frame: bytes, rows: int, columns: int, bytes_per_pixel: int) -> npt.NDArray[np.uint16]:
    """Decode one RLE frame.

    Args:
        frame (`bytes`):
            Segment table and segments, the most significant byte first.
        rows, columns (`int`):
            Size in pixels.
        bytes_per_pixel (`int`):
            1 or 2, also the number of segments.

    Returns:
        `np.ndarray` of shape `(rows, columns)`: The bits of the pixels.

    Raises:
        [`DicomError`]: When the segment table contradicts the header, or a segment has too few pixels.
    """
    count, *starts = (int(n) for n in np.frombuffer(frame[:_HEADER].ljust(_HEADER, b"\0"), dtype="<u4"))
    edges, pixels = [*starts[:bytes_per_pixel], len(frame)], rows * columns
    if count != bytes_per_pixel or edges[0] < _HEADER or any(end <= start for start, end in pairwise(edges)):
        needs = f"{bytes_per_pixel} bytes per pixel and {len(frame):,} bytes of data"
        raise DicomError(f"The RLE segment table (of {count} segments) does not match {needs}. {_REMEDY}")
    image = np.zeros(pixels, dtype=np.uint16)
    for start, end in pairwise(edges):
        plane = _unpack_rows(frame[start:end], rows, columns) or _unpack(frame[start:end], pixels)
        if len(plane) < pixels:
            raise DicomError(f"The RLE data ends after {len(plane):,} of {pixels:,} pixels. {_REMEDY}")
        image = image << np.uint16(8) | np.frombuffer(plane, dtype=np.uint8, count=pixels)
    return image.reshape(rows, columns)


def _unpack_rows(segment: bytes, rows: int, columns: int) -> bytes | None:
    """Unpack with Pillow's fast TIFF decoder; `None` if it fails.

    It does not accept runs across rows, which DICOM forbids (PS3.5 G.3.1) but some writers produce.
    """
    try:
        return Image.frombytes("L", (columns, rows), segment, "packbits", "L").tobytes()
    except (ValueError, OSError):
        return None


def _unpack(segment: bytes, pixels: int) -> bytearray:
    """Unpack runs until there are enough pixels, which limits the memory that a damaged file can take."""
    plane, at = bytearray(), 0
    while at < len(segment) and len(plane) < pixels:
        control = segment[at]
        if control < 128:
            plane += segment[at + 1 : at + 2 + control]
        elif control > 128:
            plane += segment[at + 1 : at + 2] * (257 - control)
        at += 2 + control if control < 128 else 2 if control > 128 else 1
    return plane
