"""What a compressed image declares about itself, read from its first bytes without decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Coding = Literal["JPEG", "JPEG Lossless", "JPEG-LS", "JPEG 2000"]

# JPEG's frame markers. Progressive and arithmetic ones are left out: DICOM retired them, and a progressive image may
# hide hours of work in a few thousand scans.
_FRAMES: dict[int, Coding] = {0xC0: "JPEG", 0xC1: "JPEG", 0xC3: "JPEG Lossless", 0xF7: "JPEG-LS"}
_OTHER_FRAMES = {*range(0xC0, 0xD0)} - {0xC0, 0xC1, 0xC3, 0xC4, 0xC8, 0xCC}


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


def read_frame_header(data: bytes) -> FrameHeader | None:
    """Read the frame header of a JPEG, JPEG Lossless, JPEG-LS, JPEG 2000 or High-Throughput JPEG 2000 codestream.

    Args:
        data: The compressed image, or at least its headers.

    Returns:
        What it declares, or None if `data` is none of these or its headers are cut off.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000: start of codestream, then always its size
    return None if start < 0 else _jpeg_2000(data[start + 4 : start + 45])


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


def _jpeg_2000(size: bytes) -> FrameHeader | None:
    """Read the marker segment SIZ from behind its marker (ISO/IEC 15444-1, A.5.1)."""
    if len(size) < 41:
        return None
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = (
        _number(size, at, 4) for at in range(4, 36, 4)
    )
    step_x, step_y = size[39], size[40]
    if not (tile_width and tile_height and step_x and step_y):
        return None
    rows, columns = -(-bottom // step_y) + -top // step_y, -(-right // step_x) + -left // step_x
    tiles = -((tile_left - right) // tile_width) * -((tile_top - bottom) // tile_height)
    return FrameHeader("JPEG 2000", rows, columns, _number(size, 36, 2), (size[38] & 127) + 1, tiles)


def _number(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")
