"""JPEG 2000 at a half, a quarter or an eighth of its size: the low-pass samples of the codestream, decoded by Pillow.

Pillow gives access to OpenJPEG's reduced decoding; the other decoders used here do not. The result is exact: the
wavelet samples stored in the file. `reduced.py` turns them into area averages.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from .codestream import DEPTH_AT, find_image_size

_SINGLE = (1, 1, 1)  # one component, and steps of 1 along both axes
_END = b"\xff\xd9"


@dataclass(frozen=True)
class Codestream:
    """Main header of a JPEG 2000 codestream.

    Args:
        rows, columns (`int`):
            Size of the image.
        bits (`int`):
            Precision of a sample.
        signed (`bool`):
            Whether samples are signed.
        levels (`int`):
            Levels of the wavelet transform.
        reversible (`bool`):
            Whether it is the 5/3 transform; otherwise the 9/7 transform, which only lossy files have.
        bare (`bool`, *optional*, defaults to `True`):
            Whether the codestream is not wrapped in a JP2 file.
    """

    rows: int
    columns: int
    bits: int
    signed: bool
    levels: int
    reversible: bool
    bare: bool = True

    @property
    def clipped(self) -> bool:
        """Whether the decoder clips low-pass samples to the range of the stored values."""
        return not (self.reversible and self.bare and self.bits < 16)


def read_codestream(frame: bytes) -> Codestream | None:
    """Read the main header of a JPEG 2000 codestream, bare or in a JP2 file.

    Args:
        frame (`bytes`):
            The compressed image.

    Returns:
        [`Codestream`]: The header. `None` if it is cut off or damaged, or is not a single component that starts at the
        origin.
    """
    found = find_image_size(frame)
    # A truncated codestream would give a reduced image of what is left, without an error.
    if found is None or not frame[-16:].rstrip(b"\0").endswith(_END):
        return None
    start, size = found
    if (
        any((size.left, size.top, size.tile_left, size.tile_top))
        or (size.components, size.step_x, size.step_y) != _SINGLE
    ):
        return None

    def number(offset: int, length: int) -> int:
        return int.from_bytes(frame[start + offset : start + offset + length], "big")

    position = 4 + number(4, 2)
    levels, reversible = None, False
    while (marker := number(position, 2)) not in (0xFF90, 0xFFD9) and marker > 0xFF00:
        if marker == 0xFF53:  # component with its own number of levels
            return None
        if marker == 0xFF52:
            levels, reversible = number(position + 9, 1), number(position + 13, 1) == 1
        position += 2 + number(position + 2, 2)
    if levels is None:
        return None
    return Codestream(
        size.bottom, size.right, (size.depth & 127) + 1, bool(size.depth & 128), levels, reversible, start == 0
    )


def decode_low_pass(frame: bytes, codestream: Codestream, reduction: int) -> npt.NDArray[np.float32]:
    """Decode the low-pass samples of a codestream.

    Args:
        frame (`bytes`):
            The compressed image.
        codestream ([`Codestream`]):
            Its header.
        reduction (`int`):
            How many levels to leave out, 1 to `codestream.levels`.

    Returns:
        `np.ndarray` of shape `(ceil(rows / 2**reduction), ceil(columns / 2**reduction))`: float32 in stored values.
        Near sharp edges they exceed the range of the stored values, unless `codestream.clipped`.

    Raises:
        OSError: When the data is damaged or Pillow cannot read it.
    """
    step, bits = 1 << reduction, codestream.bits
    if not codestream.clipped:
        # Declaring one more bit prevents the clipping. The reversible transform uses the precision only to shift the
        # samples by half their range.
        view, deeper = memoryview(frame), bytes([frame[DEPTH_AT] + 1])
        frame, bits = b"".join((view[:DEPTH_AT], deeper, view[DEPTH_AT + 1 :])), bits + 1
    with Image.open(io.BytesIO(frame), formats=("JPEG2000",)) as image:
        image.reduce = reduction
        # Pillow rounds the reduced size but OpenJPEG takes the ceiling: without this, half of all sizes fail.
        image._size = tuple(-(-n // step) * step for n in (codestream.columns, codestream.rows))
        image.load()
        if image.mode not in ("L", "I;16"):
            raise OSError(f"Unexpected mode {image.mode}.")
        samples = np.asarray(image)
    # Pillow shifts the samples to the top of 8 or 16 bits, and signed ones above zero.
    depth = 8 if samples.dtype == np.uint8 else 16
    stored = (samples >> (depth - bits)).astype(np.float32)
    zero = 1 << (bits - 1) if codestream.signed else (1 << (bits - 1)) - (1 << (codestream.bits - 1))
    stored -= np.float32(zero)
    expected = (-(-codestream.rows // step), -(-codestream.columns // step))
    if stored.shape != expected:
        raise OSError(f"The reduced image must have shape {expected}; got {stored.shape}.")
    return stored
