"""Pixel Data -> stored values, with one fixed decoder per family of transfer syntaxes."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid
from pydicom.encaps import get_frame

from ...errors import DicomError
from .codestream import Coding, FrameHeader, read_frame_header
from .frame_decoder import decode_frame
from .header import PixelLayout
from .isolated import decode_isolated
from .run_lengths import decode_run_lengths

# A real radiograph has noise and compresses to a third (lossless) or a fiftieth (lossy). A few kilobytes that claim
# tens of millions of pixels come from a damaged or hostile file. Small images may be empty.
_MAX_COMPRESSION = 2_000
_SMALL_PIXELS = 4_000_000

_MAX_TILES = 10_000  # OpenJPEG keeps about 6 kB for each
_END_OF_IMAGE = b"\xff\xd9"  # in JPEG, JPEG-LS and JPEG 2000

_PLAIN, _RUN_LENGTHS = "plain", "run lengths"
_JPEG_8_BIT, _JPEG = "PIL.Image.open", "imagecodecs.jpeg8_decode"
_JPEG_LS, _JPEG_2000 = "imagecodecs.jpegls_decode", "openjpeg.decode"

# The decoder is fixed, so that a file gives the same numbers whatever else is installed.
READABLE_SYNTAXES: dict[str, str] = {
    **dict.fromkeys((uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian), _PLAIN),
    uid.DeflatedExplicitVRLittleEndian: _PLAIN,
    uid.RLELossless: _RUN_LENGTHS,
    uid.JPEGBaseline8Bit: _JPEG_8_BIT,
    **dict.fromkeys((uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1), _JPEG),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), _JPEG_LS),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000), _JPEG_2000),
    **dict.fromkeys((uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), _JPEG_2000),
}
"""Name of the decoder of every transfer syntax that can be read, by UID."""

_CODINGS: dict[str, tuple[Coding, ...]] = {
    _JPEG_8_BIT: ("JPEG",),
    _JPEG: ("JPEG", "JPEG Lossless"),
    _JPEG_LS: ("JPEG-LS",),
    _JPEG_2000: ("JPEG 2000",),
}

# With 4,000 damaged codestreams of each kind, OpenJPEG (JPEG 2000, also High-Throughput), libjpeg-turbo and Pillow
# never crashed or hung; CharLS (JPEG-LS) was busy for more than 15 s with 7 of the first 139. The formats that
# imagecodecs decodes are rare, so all of them run in a process of their own, which adds 30 ms to the 100 to 300 ms of
# 2880 x 2304 px. Its other decoders of JPEG Lossless are not used: `jpegsof3` crashed on 1 of 4,000 files, `ljpeg` on
# 33.
_ISOLATED = (_JPEG, _JPEG_LS)

_LOSSY = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000, uid.HTJ2K)
_LOSSY_MARGIN = 32  # values up to this fraction of the range beyond it are clipped; more contradicts the header

_REMEDY = "Download or export the file again."
_INSTALL = {"imagecodecs": "pip install imagecodecs", "openjpeg": "pip install pylibjpeg-openjpeg"}


def missing_decoder(syntax: str) -> str | None:
    """Return the command that installs the missing decoder of a transfer syntax.

    Args:
        syntax (`str`):
            UID of the transfer syntax.

    Returns:
        `str`: For example `"pip install imagecodecs"`. `None` if nothing is missing or the syntax is not in
        `READABLE_SYNTAXES`.
    """
    module = READABLE_SYNTAXES.get(syntax, "").partition(".")[0]
    return _INSTALL[module] if module in _INSTALL and importlib.util.find_spec(module) is None else None


def decode_pixels(dataset: pydicom.Dataset, layout: PixelLayout) -> npt.NDArray[np.uint16]:
    """Decode the pixels of a file.

    Returns:
        `np.ndarray` of shape `(rows, columns)`: The lowest `layout.bits` bits of each pixel.

    Raises:
        [`DicomError`]: When there is no decoder, or the data contradicts the header.
    """
    decoder = READABLE_SYNTAXES.get(layout.syntax)
    if decoder is None:
        remedy = "Convert the file to Explicit VR Little Endian, for example with gdcmconv --raw."
        raise DicomError(f"Cannot read radiographs in the transfer syntax {layout.syntax_name}. {remedy}")
    # Uncompressed files may use the bits above the stored ones for other data (PS3.5 8.1.1).
    used_bits, rows, columns = np.uint16((1 << layout.bits) - 1), layout.rows, layout.columns
    if decoder == _PLAIN:
        return np.asarray(_plain_pixels(dataset, layout) & used_bits)
    if decoder == _RUN_LENGTHS:
        frame = _first_frame(dataset, layout)
        return np.asarray(decode_run_lengths(frame, rows, columns, layout.allocated_bits // 8) & used_bits)
    if (line := missing_decoder(layout.syntax)) is not None:
        raise DicomError(f"No decoder for {layout.syntax_name} is installed. Run: {line}.")
    frame, header = checked_frame(dataset, layout)
    isolated = decoder in _ISOLATED
    values = decode_isolated(decoder, frame, rows, columns) if isolated else decode_frame(decoder, frame)
    if values.shape != (rows, columns):
        raise DicomError(f"The pixels must have shape ({rows}, {columns}); got {values.shape}. Export the file again.")
    return _stored_bits(values, header.precision, layout)


def checked_frame(dataset: pydicom.Dataset, layout: PixelLayout) -> tuple[bytes, FrameHeader]:
    """Extract the compressed image from a file of a JPEG family and check it against the header before decoding.

    Returns:
        `tuple[bytes, FrameHeader]`: The codestream and its own header.

    Raises:
        [`DicomError`]: When the codestream is cut off or too large, or contradicts the header.
    """
    frame = _first_frame(dataset, layout)
    return frame, check_frame(frame, layout)


def check_frame(frame: bytes, layout: PixelLayout) -> FrameHeader:
    """Check a codestream against the header of its file; its beginning and its end are enough.

    Raises:
        [`DicomError`]: When the codestream is cut off, or contradicts the header.
    """
    header = read_frame_header(frame)
    if header is None or header.coding not in _CODINGS[READABLE_SYNTAXES[layout.syntax]]:
        found = "unreadable" if header is None else header.coding
        declared = f"{layout.syntax_name}, as the header declares"
        raise DicomError(f"The compressed data must be {declared}; it is {found}. {_REMEDY}")
    if (problem := _contradiction(frame, header, layout)) is not None:
        raise DicomError(f"{problem}. {_REMEDY}")
    return header


def _contradiction(frame: bytes, header: FrameHeader, layout: PixelLayout) -> str | None:
    size, declared = f"{header.rows} x {header.columns}", f"{layout.rows} x {layout.columns}"
    if size != declared:
        return f"The header declares {declared} pixels, the compressed data {size}"
    if header.components != 1 or not 1 < header.precision <= 16:
        return f"One component of 2 to 16 bits is needed; got {header.components} component(s) of {header.precision}"
    if not 0 < header.tiles <= _MAX_TILES:
        return f"The image must have at most {_MAX_TILES:,} tiles; got {header.tiles}"
    if header.precision < layout.bits:
        return f"The header declares {layout.bits} bits stored, the compressed data {header.precision}"
    if header.coding == "JPEG" and layout.signed:
        return "DICOM does not allow lossy JPEG of signed pixels (PS3.5 8.2.1)"
    return None if _END_OF_IMAGE in frame[-64:] else "The compressed data is cut off"


def _first_frame(dataset: pydicom.Dataset, layout: PixelLayout) -> bytes:
    element: Any = dataset.get_item("PixelData", keep_deferred=True)
    if element.value is None:  # still in the file
        dataset.buffer.seek(element.value_tell)
    frame = get_frame(element.value or dataset.buffer, 0, number_of_frames=1)
    pixels = layout.rows * layout.columns
    if pixels > _SMALL_PIXELS and pixels > _MAX_COMPRESSION * len(frame):
        size = f"{layout.rows} x {layout.columns}"
        raise DicomError(f"{len(frame):,} compressed bytes cannot hold a radiograph of {size} pixels. {_REMEDY}")
    return frame


def check_length(num_bytes: int, layout: PixelLayout) -> None:
    """Check the number of bytes of uncompressed pixels.

    Raises:
        [`DicomError`]: When the header declares another number.
    """
    row = layout.columns * layout.allocated_bits // 8
    needed = layout.rows * row
    # Some writers pad the end of the file; a whole spare row means that Rows or Columns are wrong.
    if not needed <= num_bytes < needed + max(2, row):
        pixels = f"{layout.rows} x {layout.columns} pixels of {layout.allocated_bits} bits"
        raise DicomError(f"{pixels} are {needed:,} bytes; got {num_bytes:,} bytes. The file may be cut off. {_REMEDY}")


def _plain_pixels(dataset: pydicom.Dataset, layout: PixelLayout) -> npt.NDArray[np.uint16]:
    element, width, shape = dataset["PixelData"], layout.allocated_bits // 8, (layout.rows, layout.columns)
    data, pixels = element.value, layout.rows * layout.columns
    check_length(len(data), layout)
    order = "<" if layout.syntax.is_little_endian else ">"
    if width == 1 and order == ">" and element.VR == "OW":  # big-endian words swap each pair of bytes
        data = np.frombuffer(data, dtype=">u2", count=len(data) // 2).astype("<u2").tobytes()
    return np.frombuffer(data, dtype=f"{order}u{width}", count=pixels).reshape(shape).astype(np.uint16)


def _stored_bits(values: npt.NDArray[np.integer], precision: int, layout: PixelLayout) -> npt.NDArray[np.uint16]:
    """Convert the values of a codestream of `precision` bits to the lowest `layout.bits` bits of each pixel.

    Only the header says whether pixels are signed (of the codestreams, only JPEG 2000 can, and not reliably), so the
    values are taken as bit patterns. Unlike in plain pixels, a value beyond Bits Stored means that the header is wrong.
    """
    if layout.signed or values.dtype.kind == "i":
        values = values.astype(np.int32) & ((1 << precision) - 1)
        if layout.signed:
            sign = 1 << (precision - 1)
            values = (values ^ sign) - sign
    low = -(1 << (layout.bits - 1)) if layout.signed else 0
    high = low + (1 << layout.bits) - 1
    # Lossy compression overshoots at sharp edges.
    margin = (1 << layout.bits) // _LOSSY_MARGIN if layout.syntax in _LOSSY else 0
    smallest, largest = int(values.min()), int(values.max())
    if smallest < low - margin or largest > high + margin:
        raise DicomError(f"The pixels do not fit into the {layout.bits} bits that Bits Stored declares. {_REMEDY}")
    if smallest < low or largest > high:
        values = values.clip(low, high)
    return np.asarray(values.astype(np.uint16) & np.uint16((1 << layout.bits) - 1))
