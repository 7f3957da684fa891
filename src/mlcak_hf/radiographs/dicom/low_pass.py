"""JPEG 2000 at a half, a quarter or an eighth of its size: the low-pass samples of the codestream, by Pillow.

Pillow hands OpenJPEG's reduced decoding through, which the other decoders here do not. What comes out is exact: the
samples of the wavelet transform that the file holds. What they say about area averages is settled in `reduced.py`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from .codestream import DEPTH_AT, find_image_size

_ONE = (1, 1, 1)  # component, and step along either axis
_END = b"\xff\xd9"


@dataclass(frozen=True)
class Codestream:
    """What the headers of a JPEG 2000 codestream say.

    Args:
        rows, columns: Size of the image.
        bits: Precision of a sample.
        signed: Whether samples are signed.
        levels: Levels of the wavelet transform.
        reversible: Whether it is the 5/3 transform; otherwise the 9/7 one, which only lossy files have.
        bare: Whether there is no JP2 file around it.
    """

    rows: int
    columns: int
    bits: int
    signed: bool
    levels: int
    reversible: bool
    bare: bool = True

    @property
    def cut_off(self) -> bool:
        """Whether low-pass samples beyond the range of the stored values are lost, as decoders clip to it."""
        return not (self.reversible and self.bare and self.bits < 16)


def read_codestream(frame: bytes) -> Codestream | None:
    """Read the main header of a JPEG 2000 codestream, with or without a JP2 file around it.

    Args:
        frame: The compressed image.

    Returns:
        What it says; None where it is cut off or damaged, or no single plain component that starts at the origin.
    """
    found = find_image_size(frame)
    # Without its end, a reduced image would be made of what is left, without a word.
    if found is None or not frame[-16:].rstrip(b"\0").endswith(_END):
        return None
    start, size = found
    if any((size.left, size.top, size.tile_left, size.tile_top)) or (size.components, size.step_x, size.step_y) != _ONE:
        return None

    def number(offset: int, length: int) -> int:
        return int.from_bytes(frame[start + offset : start + offset + length], "big")

    position = 4 + number(4, 2)
    levels, reversible = None, False
    while (marker := number(position, 2)) not in (0xFF90, 0xFFD9) and marker > 0xFF00:
        if marker == 0xFF53:  # a component with levels of its own
            return None
        if marker == 0xFF52:
            levels, reversible = number(position + 9, 1), number(position + 13, 1) == 1
        position += 2 + number(position + 2, 2)
    if levels is None:
        return None
    return Codestream(size.bottom, size.right, size.precision, bool(size.depth & 128), levels, reversible, start == 0)


def decode_low_pass(frame: bytes, codestream: Codestream, reduction: int) -> npt.NDArray[np.float32]:
    """Decode the low-pass samples of a codestream.

    Args:
        frame: The compressed image.
        codestream: Its header.
        reduction: How many levels to leave out, 1 to `codestream.levels`.

    Returns:
        float32 of shape (ceil(rows / 2**reduction), ceil(columns / 2**reduction)), in stored values; beside sharp edges
        they leave the range of the stored values, unless `codestream.cut_off`.

    Raises:
        OSError: The data is damaged, or of a kind that Pillow does not read.
    """
    step, bits = 1 << reduction, codestream.bits
    if not codestream.cut_off:
        # Declared with a bit more than it has, nothing is cut off. It moves the samples by half their range, as the
        # reversible transform knows no other use of the precision.
        view, deeper = memoryview(frame), bytes([frame[DEPTH_AT] + 1])
        frame, bits = b"".join((view[:DEPTH_AT], deeper, view[DEPTH_AT + 1 :])), bits + 1
    with Image.open(io.BytesIO(frame), formats=("JPEG2000",)) as image:
        image.reduce = reduction
        # Pillow rounds the reduced size, OpenJPEG takes the ceiling: without this, half of all sizes fail.
        image._size = tuple(-(-n // step) * step for n in (codestream.columns, codestream.rows))
        image.load()
        if image.mode not in ("L", "I;16"):
            raise OSError(f"unexpected mode {image.mode}")
        samples = np.asarray(image)
    # Pillow moves the samples to the top of 8 or 16 bits, and signed ones above zero.
    depth = 8 if samples.dtype == np.uint8 else 16
    stored = (samples >> (depth - bits)).astype(np.float32)
    zero = 1 << (bits - 1) if codestream.signed else (1 << (bits - 1)) - (1 << (codestream.bits - 1))
    stored -= np.float32(zero)
    expected = (-(-codestream.rows // step), -(-codestream.columns // step))
    if stored.shape != expected:
        raise OSError(f"reduced to {stored.shape}, not {expected}")
    return stored
