"""Size that a compressed image declares about itself, read from its first bytes without decoding it."""

from __future__ import annotations

_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # JPEG's frame markers; 0xF7 is JPEG-LS


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Read rows and columns from a JPEG, JPEG-LS or JPEG 2000 codestream.

    Args:
        data: The compressed image, or at least its headers.

    Returns:
        (rows, columns), or None if `data` is none of these or too short.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000: start of codestream, then always its size
    if start >= 0 and len(data) >= start + 24:
        x1, y1, x0, y0 = (int.from_bytes(data[start + i : start + i + 4], "big") for i in (8, 12, 16, 20))
        return y1 - y0, x1 - x0
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _START_OF_FRAME:
            return (
                int.from_bytes(data[position + 5 : position + 7], "big"),
                int.from_bytes(data[position + 7 : position + 9], "big"),
            )
        elif marker == 0xDA:  # image data: too late for a frame header
            return None
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None
