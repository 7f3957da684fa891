"""Compressed images: what their headers declare, and JPEG 2000 decoded at a fraction of its size.

Pillow gives access to OpenJPEG's reduced decoding; the other decoders used here do not. The result is exact: the
wavelet samples stored in the file. `reduced.py` turns them into area averages.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Coding = Literal["JPEG", "JPEG Lossless", "JPEG-LS", "JPEG 2000"]

# JPEG's frame markers. Progressive and arithmetic coding are left out: DICOM retired them, and a progressive image can
# take hours to decode.
_FRAMES: dict[int, Coding] = {0xC0: "JPEG", 0xC1: "JPEG", 0xC3: "JPEG Lossless", 0xF7: "JPEG-LS"}
_OTHER_FRAMES = {*range(0xC0, 0xD0)} - {0xC0, 0xC1, 0xC3, 0xC4, 0xC8, 0xCC}

# Markers of JPEG 2000 (ISO/IEC 15444-1, annex A): start of codestream, always followed by the size; coding style of all
# components and of one; start of a tile.
_START_AND_SIZE = b"\xff\x4f\xff\x51"
_STYLE, _COMPONENT_STYLE, _TILE = 0xFF52, 0xFF53, 0xFF90
# After two markers, a length and the capabilities: edges of the image and origin, size and origin of the tiles,
# components, and of the first component depth (bits - 1, the highest bit set for signed samples) and steps.
_SIZE_AT, _SIZE = 8, struct.Struct(">8IH3B")
_DEPTH_AT = 42


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
        signed (`bool`, *optional*, defaults to `False`):
            Whether samples are signed.
        levels (`int`, *optional*, defaults to 0):
            Levels of the wavelet transform that reduced decoding can leave out. 0 unless the image is a single
            JPEG 2000 component that starts at the origin.
        reversible (`bool`, *optional*, defaults to `False`):
            Whether it is the 5/3 transform; otherwise the 9/7 transform, which only lossy files have.
        bare (`bool`, *optional*, defaults to `True`):
            Whether the codestream is not wrapped in a JP2 file.
    """

    coding: Coding
    rows: int
    columns: int
    components: int
    precision: int
    tiles: int = 1
    signed: bool = False
    levels: int = 0
    reversible: bool = False
    bare: bool = True

    @property
    def clipped(self) -> bool:
        """Whether the decoder clips low-pass samples to the range of the stored values."""
        return not (self.reversible and self.bare and self.precision < 16)


def read_frame_header(data: bytes) -> FrameHeader | None:
    """Read the header of a JPEG, JPEG Lossless, JPEG-LS, JPEG 2000 or High-Throughput JPEG 2000 image.

    Args:
        data (`bytes`):
            The compressed image, or at least its headers.

    Returns:
        [`FrameHeader`]: What it declares. `None` for any other data, or if the headers are cut off.
    """
    return _jpeg(data) if data[:2] == b"\xff\xd8" else _jpeg_2000(data)


def _jpeg(data: bytes) -> FrameHeader | None:
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _FRAMES:
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, position + 4)
            return FrameHeader(_FRAMES[marker], rows, columns, components, precision)
        elif marker in _OTHER_FRAMES or marker == 0xDA:  # an unsupported process, or a scan without frame header
            return None
        else:
            position += 2 + _number(data, position + 2)
    return None


def _jpeg_2000(data: bytes) -> FrameHeader | None:
    start = data.find(_START_AND_SIZE, 0, 4096)
    if start < 0 or len(data) < start + _SIZE_AT + _SIZE.size:
        return None
    right, bottom, left, top, *tile, components, depth, step_x, step_y = _SIZE.unpack_from(data, start + _SIZE_AT)
    tile_width, tile_height, tile_left, tile_top = tile
    if not (tile_width and tile_height and step_x and step_y):
        return None
    levels, reversible, position = 0, False, start + 4 + _number(data, start + 4)
    while (marker := _number(data, position)) > 0xFF00 and marker not in (_TILE, _COMPONENT_STYLE):
        if marker == _STYLE and len(data) > position + 13:
            levels, reversible = data[position + 9], data[position + 13] == 1
        position += 2 + _number(data, position + 2)
    if marker != _TILE or any((left, top, tile_left, tile_top)) or (components, step_x, step_y) != (1, 1, 1):
        levels = 0
    return FrameHeader(
        "JPEG 2000",
        rows=-(-bottom // step_y) + -top // step_y,
        columns=-(-right // step_x) + -left // step_x,
        components=components,
        precision=(depth & 127) + 1,
        tiles=((tile_left - right) // tile_width) * ((tile_top - bottom) // tile_height),
        signed=bool(depth & 128),
        levels=levels,
        reversible=reversible,
        bare=start == 0,
    )


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


class _DeeperFrame(io.BytesIO):
    """A bare JPEG 2000 codestream that declares one more bit per sample, without a copy of it."""

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.tell()
        data = super().read(size)
        at = _DEPTH_AT - start
        return data if not 0 <= at < len(data) else data[:at] + bytes([data[at] + 1]) + data[at + 1 :]


def decode_low_pass(frame: bytes, header: FrameHeader, reduction: int) -> npt.NDArray[np.float32]:
    """Decode the low-pass samples of a JPEG 2000 image.

    Args:
        frame (`bytes`):
            The compressed image.
        header ([`FrameHeader`]):
            Its header.
        reduction (`int`):
            How many levels to leave out, 1 to `header.levels`.

    Returns:
        `np.ndarray` of shape `(ceil(rows / 2**reduction), ceil(columns / 2**reduction))`: float32 in stored values.
        Near sharp edges they exceed the range of the stored values, unless `header.clipped`.

    Raises:
        OSError: When the data is damaged or Pillow cannot read it.
    """
    step, bits, source = 1 << reduction, header.precision, io.BytesIO(frame)
    if not header.clipped:
        # Declaring one more bit prevents the clipping. The reversible transform uses the precision only to shift the
        # samples by half their range.
        source, bits = _DeeperFrame(frame), bits + 1
    height, width = -(-header.rows // step), -(-header.columns // step)
    with Image.open(source, formats=("JPEG2000",)) as image:
        image.reduce = reduction
        # Pillow rounds the reduced size but OpenJPEG takes the ceiling: without this, half of all sizes fail.
        image._size = (width * step, height * step)
        image.load()
        if image.mode not in ("L", "I;16") or image.size != (width, height):
            raise OSError(f"Unexpected mode {image.mode} or size {image.size}.")
        samples = np.asarray(image)
    # Pillow shifts the samples to the top of 8 or 16 bits, and signed ones above zero.
    zero = (1 << (bits - 1)) - (0 if header.signed else 1 << (header.precision - 1))
    return np.asarray((samples >> (8 * samples.itemsize - bits)).astype(np.float32) - np.float32(zero))
