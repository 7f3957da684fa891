"""What a compressed image declares about itself, read from its first bytes without decoding it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

Coding = Literal["JPEG", "JPEG Lossless", "JPEG-LS", "JPEG 2000"]

# JPEG's frame markers. Progressive and arithmetic ones are left out: DICOM retired them, and a progressive image may
# hide hours of work in a few thousand scans.
_FRAMES: dict[int, Coding] = {0xC0: "JPEG", 0xC1: "JPEG", 0xC3: "JPEG Lossless", 0xF7: "JPEG-LS"}
_OTHER_FRAMES = {*range(0xC0, 0xD0)} - {0xC0, 0xC1, 0xC3, 0xC4, 0xC8, 0xCC}

_CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000: start of codestream, then always its size
_SIZE_AT, _SIZE = 8, struct.Struct(">8IH3B")  # behind two markers, a length and the capabilities
DEPTH_AT = 42
"""Where a JPEG 2000 codestream holds `ImageSize.depth`."""


@dataclass(frozen=True)
class FrameHeader:
    """What a compressed image declares.

    Args:
        coding: How it is compressed.
        rows: Height in pixels.
        columns: Width in pixels.
        components: Samples per pixel.
        precision: Bits per sample.
        tiles: Pieces that JPEG 2000 cuts an image into; 1 for the others.
    """

    coding: Coding
    rows: int
    columns: int
    components: int
    precision: int
    tiles: int = 1


class ImageSize(NamedTuple):
    """The marker segment SIZ of a JPEG 2000 codestream (ISO/IEC 15444-1, A.5.1), of its first component.

    Args:
        right, bottom, left, top: Of the image on the reference grid; right and bottom lie outside.
        tile_width, tile_height, tile_left, tile_top: Of the tiles.
        components: Samples per pixel.
        depth: Bits per sample less one; the highest bit is set where they are signed.
        step_x, step_y: Steps of the grid from sample to sample.
    """

    right: int
    bottom: int
    left: int
    top: int
    tile_width: int
    tile_height: int
    tile_left: int
    tile_top: int
    components: int
    depth: int
    step_x: int
    step_y: int

    @property
    def precision(self) -> int:
        """Bits per sample."""
        return (self.depth & 127) + 1


def find_image_size(data: bytes) -> tuple[int, ImageSize] | None:
    """Find a JPEG 2000 codestream, with or without a JP2 file around it, and read its size.

    Args:
        data: The compressed image, or at least its headers.

    Returns:
        Where the codestream starts, and its size; None where there is none or it is cut off.
    """
    start = data.find(_CODESTREAM, 0, 4096)
    if start < 0 or len(data) < start + _SIZE_AT + _SIZE.size:
        return None
    return start, ImageSize(*_SIZE.unpack_from(data, start + _SIZE_AT))


def read_frame_header(data: bytes) -> FrameHeader | None:
    """Read the frame header of a JPEG, JPEG Lossless, JPEG-LS, JPEG 2000 or High-Throughput JPEG 2000 codestream.

    Args:
        data: The compressed image, or at least its headers.

    Returns:
        What it declares, or None if `data` is none of these or its headers are cut off.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    found = find_image_size(data)
    return None if found is None else _jpeg_2000(found[1])


def _jpeg(data: bytes) -> FrameHeader | None:
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _FRAMES:
            precision, components = data[position + 4], data[position + 9]
            rows, columns = (_number(data, position + at, 2) for at in (5, 7))
            return FrameHeader(_FRAMES[marker], rows, columns, components, precision)
        elif marker in _OTHER_FRAMES or marker == 0xDA:  # a process we do not read; image data without a frame header
            return None
        else:
            position += 2 + _number(data, position + 2, 2)
    return None


def _jpeg_2000(size: ImageSize) -> FrameHeader | None:
    if not (size.tile_width and size.tile_height and size.step_x and size.step_y):
        return None
    rows = -(-size.bottom // size.step_y) + -size.top // size.step_y
    columns = -(-size.right // size.step_x) + -size.left // size.step_x
    across, down = (size.tile_left - size.right) // size.tile_width, (size.tile_top - size.bottom) // size.tile_height
    return FrameHeader("JPEG 2000", rows, columns, size.components, size.precision, across * down)


def _number(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")
