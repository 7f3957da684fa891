"""Compressed or plain Pixel Data -> stored values, by one fixed decoder per family of transfer syntaxes."""

from __future__ import annotations

import importlib.util

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import get_frame
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from ...errors import DicomError
from .codestream import Coding, FrameHeader, read_frame_header
from .frame_decoder import decode_frame
from .header import PixelLayout
from .isolated import decode_isolated
from .run_lengths import decode_run_lengths

# A real radiograph has noise and compresses to a third without loss, to a fiftieth with; a few kilobytes that claim
# tens of millions of pixels are a damaged or hostile file. Small images may be as empty as they like.
_MAX_COMPRESSION = 2_000
_SMALL_PIXELS = 4_000_000

_MAX_TILES = 10_000  # OpenJPEG keeps about 6 kB for each
_END = b"\xff\xd9"  # of image, in JPEG, JPEG-LS and JPEG 2000 alike

_PLAIN, _RUN_LENGTHS = "plain", "run lengths"
_JPEG_8_BIT, _JPEG = "PIL.Image.open", "imagecodecs.jpeg8_decode"
_JPEG_LS, _JPEG_2000 = "imagecodecs.jpegls_decode", "openjpeg.decode"

# One fixed decoder per family, so that the same file gives the same numbers whatever else is installed.
READABLE_SYNTAXES: dict[str, str] = {
    ImplicitVRLittleEndian: _PLAIN,
    ExplicitVRLittleEndian: _PLAIN,
    ExplicitVRBigEndian: _PLAIN,
    DeflatedExplicitVRLittleEndian: _PLAIN,
    RLELossless: _RUN_LENGTHS,
    JPEGBaseline8Bit: _JPEG_8_BIT,
    JPEGExtended12Bit: _JPEG,
    JPEGLossless: _JPEG,
    JPEGLosslessSV1: _JPEG,
    JPEGLSLossless: _JPEG_LS,
    JPEGLSNearLossless: _JPEG_LS,
    JPEG2000Lossless: _JPEG_2000,
    JPEG2000: _JPEG_2000,
    HTJ2KLossless: _JPEG_2000,
    HTJ2KLosslessRPCL: _JPEG_2000,
    HTJ2K: _JPEG_2000,
}
"""Every transfer syntax that is read, by UID, and the name of its decoder."""

_CODINGS: dict[str, tuple[Coding, ...]] = {
    _JPEG_8_BIT: ("JPEG",),
    _JPEG: ("JPEG", "JPEG Lossless"),
    _JPEG_LS: ("JPEG-LS",),
    _JPEG_2000: ("JPEG 2000",),
}

# Of 4,000 damaged codestreams of each kind, OpenJPEG (JPEG 2000, also High-Throughput), libjpeg-turbo and Pillow
# brought down or held up the process with none; CharLS (JPEG-LS) was busy for more than 15 s with 7 of the first 139.
# What imagecodecs decodes is rare, so all of it pays for a process of its own: 30 ms on top of 100 to 300 for 2880 x
# 2304 px. Its other decoders of JPEG Lossless are not used: `jpegsof3` died of 1 in 4,000, `ljpeg` of 33.
_ISOLATED = (_JPEG, _JPEG_LS)

_INSTALL = {"imagecodecs": "pip install imagecodecs", "openjpeg": "pip install pylibjpeg-openjpeg"}


def missing_decoder(syntax: str) -> str | None:
    """Name the pip line of the decoder that a transfer syntax needs and that is not installed.

    Args:
        syntax: UID of the transfer syntax.

    Returns:
        The line, for example "pip install imagecodecs". None if nothing is missing, and for a syntax outside of
        `READABLE_SYNTAXES`, for which nothing helps but converting the file.
    """
    module = READABLE_SYNTAXES.get(syntax, "").partition(".")[0]
    return _INSTALL[module] if module in _INSTALL and importlib.util.find_spec(module) is None else None


def decode_pixels(dataset: pydicom.Dataset, layout: PixelLayout) -> npt.NDArray[np.uint16]:
    """Decode to the lowest `bits` bits of each pixel, shape (Rows, Columns)."""
    decoder = READABLE_SYNTAXES.get(layout.syntax)
    if decoder is None:
        raise DicomError(
            f"its transfer syntax {layout.syntax_name} holds no still radiograph that can be read; convert the file to"
            " Explicit VR Little Endian (for example with gdcmconv --raw)"
        )
    # Uncompressed files may use the bits above the stored ones for anything (PS3.5 8.1.1), so there they are cut off.
    used_bits = np.uint16((1 << layout.bits) - 1)
    if decoder == _PLAIN:
        return np.asarray(_plain_pixels(dataset, layout) & used_bits)
    if decoder == _RUN_LENGTHS:
        frame = _first_frame(dataset, layout)
        return np.asarray(
            decode_run_lengths(frame, layout.rows, layout.columns, layout.allocated_bits // 8) & used_bits
        )
    if (line := missing_decoder(layout.syntax)) is not None:
        raise DicomError(f"no decoder for {layout.syntax_name} is installed; run: {line}")
    frame, header = checked_frame(dataset, layout)
    if decoder in _ISOLATED:
        values = decode_isolated(decoder, frame, layout.rows, layout.columns)
    else:
        values = decode_frame(decoder, frame)
    if values.shape != (layout.rows, layout.columns):
        raise DicomError(f"its pixels have shape {values.shape}, not ({layout.rows}, {layout.columns})")
    return _stored_bits(values, header.precision, layout)


def checked_frame(dataset: pydicom.Dataset, layout: PixelLayout) -> tuple[bytes, FrameHeader]:
    """Take the compressed image out of a file, and refuse one that contradicts the file's header before decoding it.

    Args:
        dataset: The image tags of a file in one of the JPEG families.
        layout: What its header says.

    Returns:
        The codestream and what it declares.

    Raises:
        DicomError: It is cut off, or of another size or kind than the header says, or beyond all measure.
    """
    frame = _first_frame(dataset, layout)
    header = read_frame_header(frame)
    if header is None or header.coding not in _CODINGS[READABLE_SYNTAXES[layout.syntax]]:
        found = "nothing that can be read" if header is None else header.coding
        raise DicomError(
            f"its compressed data is {found}, not the {layout.syntax_name} that the header declares; download or export"
            " it again"
        )
    if (header.rows, header.columns) != (layout.rows, layout.columns):
        raise DicomError(
            f"the header declares {layout.rows} x {layout.columns} pixels, its compressed data {header.rows} x"
            f" {header.columns}; download or export it again"
        )
    if header.components != 1 or not 1 < header.precision <= 16 or not 0 < header.tiles <= _MAX_TILES:
        raise DicomError(
            f"its compressed data has {header.components} component(s) of {header.precision} bits in {header.tiles}"
            f" tile(s); one of 2 to 16 bits in at most {_MAX_TILES:,} is read. Export the original radiograph again"
        )
    if header.coding == "JPEG" and layout.signed:
        raise DicomError("it is lossy JPEG of signed pixels, which DICOM does not allow (PS3.5 8.2.1); export it again")
    if _END not in frame[-64:]:
        raise DicomError("its compressed data is cut off; download or export it again")
    return frame, header


def _first_frame(dataset: pydicom.Dataset, layout: PixelLayout) -> bytes:
    frame = bytes(get_frame(dataset.PixelData, 0, number_of_frames=1))
    pixels = layout.rows * layout.columns
    if pixels > _SMALL_PIXELS and pixels > _MAX_COMPRESSION * len(frame):
        raise DicomError(
            f"{len(frame):,} compressed bytes cannot hold a radiograph of {layout.rows} x {layout.columns} pixels;"
            " download or export it again"
        )
    return frame


def _plain_pixels(dataset: pydicom.Dataset, layout: PixelLayout) -> npt.NDArray[np.uint16]:
    """View uncompressed Pixel Data as an image, shape (Rows, Columns)."""
    element, width = dataset["PixelData"], layout.allocated_bits // 8
    row, needed = layout.columns * width, layout.rows * layout.columns * width
    # Some writers fill up the end of the file; as much as a row says that Rows or Columns are wrong.
    if not needed <= len(element.value) < needed + max(2, row):
        raise DicomError(
            f"it holds {len(element.value):,} bytes of pixels, but {layout.rows} x {layout.columns} of"
            f" {layout.allocated_bits} bits are {needed:,}; it may be cut off or damaged. Download or export it again"
        )
    order = "<" if layout.syntax.is_little_endian else ">"
    if width == 1 and order == ">" and element.VR == "OW":  # bytes in pairs, which big endian turns round
        pairs = np.frombuffer(element.value, dtype=">u2", count=len(element.value) // 2)
        return pairs.astype("<u2").view(np.uint8)[:needed].reshape(layout.rows, layout.columns).astype(np.uint16)
    image = np.frombuffer(element.value, dtype=f"{order}u{width}", count=layout.rows * layout.columns)
    return image.reshape(layout.rows, layout.columns).astype(np.uint16)


def _stored_bits(values: npt.NDArray[np.integer], precision: int, layout: PixelLayout) -> npt.NDArray[np.uint16]:
    """Bring what a codestream of `precision` bits holds to the lowest bits of each pixel, shape (Rows, Columns).

    The header says whether pixels are signed. Not every codestream can (JPEG 2000 alone does, and not always rightly),
    so its numbers are taken as bits. These codestreams have their own precision: unlike in plain pixels, a number
    beyond Bits Stored means that the header is wrong.
    """
    if layout.signed or values.dtype.kind == "i":
        values = values.astype(np.int32) & ((1 << precision) - 1)
        if layout.signed:
            sign = 1 << (precision - 1)
            values = (values ^ sign) - sign
    low, high = (
        (-(1 << (layout.bits - 1)), (1 << (layout.bits - 1)) - 1) if layout.signed else (0, (1 << layout.bits) - 1)
    )
    if int(values.min()) < low or int(values.max()) > high:
        raise DicomError(
            f"its pixels do not fit into the {layout.bits} bits that Bits Stored declares; export it again"
        )
    return np.asarray(values.astype(np.uint16) & np.uint16((1 << layout.bits) - 1))
