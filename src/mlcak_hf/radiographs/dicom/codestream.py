"""Headers of compressed images: size, precision and coding, read without decoding."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

Coding = Literal["JPEG", "JPEG Lossless", "JPEG-LS", "JPEG 2000"]

# JPEG's frame markers. Progressive and arithmetic coding are left out: DICOM retired them, and a progressive image can
# take hours to decode.
_FRAMES: dict[int, Coding] = {0xC0: "JPEG", 0xC1: "JPEG", 0xC3: "JPEG Lossless", 0xF7: "JPEG-LS"}
_OTHER_FRAMES = {*range(0xC0, 0xD0)} - {0xC0, 0xC1, 0xC3, 0xC4, 0xC8, 0xCC}

_CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000: start of codestream, always followed by SIZ
_SIZE_AT, _SIZE = 8, struct.Struct(">8IH3B")  # after two markers, a length and the capabilities
DEPTH_AT = 42
"""Position of `ImageSize.depth` in a JPEG 2000 codestream."""


@dataclass(frozen=True)
class FrameHeader:
    """What a compressed image declares.

    Args:
        coding (`str`):
            How it is compressed.
        rows, columns (`int`):
            Size in pixels.
        components (`int`):
            Samples per pixel.
        precision (`int`):
            Bits per sample.
        tiles (`int`, *optional*, defaults to 1):
            Number of tiles of a JPEG 2000 image.
    """

    coding: Coding
    rows: int
    columns: int
    components: int
    precision: int
    tiles: int = 1


class ImageSize(NamedTuple):
    """Marker segment SIZ of a JPEG 2000 codestream (ISO/IEC 15444-1, A.5.1), for the first component.

    Args:
        right, bottom, left, top (`int`):
            Edges of the image on the reference grid; right and bottom are exclusive.
        tile_width, tile_height, tile_left, tile_top (`int`):
            Size and origin of the tiles.
        components (`int`):
            Samples per pixel.
        depth (`int`):
            Bits per sample minus one; the highest bit is set for signed samples.
        step_x, step_y (`int`):
            Grid steps between samples.
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


def find_image_size(data: bytes) -> tuple[int, ImageSize] | None:
    """Find a JPEG 2000 codestream, bare or in a JP2 file, and read its size.

    Args:
        data (`bytes`):
            The compressed image, or at least its headers.

    Returns:
        `tuple[int, ImageSize]`: Start of the codestream, and its size. `None` if there is none or it is cut off.
    """
    start = data.find(_CODESTREAM, 0, 4096)
    if start < 0 or len(data) < start + _SIZE_AT + _SIZE.size:
        return None
    return start, ImageSize(*_SIZE.unpack_from(data, start + _SIZE_AT))


def read_frame_header(data: bytes) -> FrameHeader | None:
    """Read the header of a JPEG, JPEG Lossless, JPEG-LS, JPEG 2000 or High-Throughput JPEG 2000 image.

    Args:
        data (`bytes`):
            The compressed image, or at least its headers.

    Returns:
        [`FrameHeader`]: What it declares. `None` for any other data, or if the headers are cut off.
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
        elif marker in _OTHER_FRAMES or marker == 0xDA:  # an unsupported process, or a scan without frame header
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
    return FrameHeader("JPEG 2000", rows, columns, size.components, (size.depth & 127) + 1, across * down)


def _number(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")
