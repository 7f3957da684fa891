"""Properties of an image file that can be read without decoding it, and damage that can be detected."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from PIL import Image
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from ...errors import DicomError
from ...preparation.tables import DICOM_SUFFIXES, PICTURE_SUFFIXES
from ...radiographs.dicom.codestream import read_frame_header
from ...radiographs.dicom.header import PixelLayout, check_layout, read_image_tags
from ...radiographs.dicom.pixels import READABLE_SYNTAXES, missing_decoder
from ...radiographs.png_jpeg import HEAD_BYTES, SIGNATURES, lost_depth
from ...radiographs.read import DICOM_HEAD_BYTES, why_not_dicom

_PICTURE_BITS = {"1": 1, "I": 16, "I;16": 16, "I;16B": 16, "I;16L": 16}
_HEADER_TAGS: list[Any] = [
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation"),
]
_PHOTOMETRIC = (
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420"),
    *("YBR_ICT", "YBR_RCT"),
)
_LONG_VRS = (b"OB", b"OW", b"UN", b"OL", b"OV")
_ITEM, _ENDS = b"\xfe\xff\x00\xe0", (b"\xfe\xff\xdd\xe0", b"")
_END_OF_IMAGE = b"\xff\xd9"  # in JPEG, JPEG-LS and JPEG 2000 alike
_TAIL_BYTES = 1 << 16
_CUT_OFF = "it ends too early; this is often a cut-off download. Download it again"


@dataclass(frozen=True)
class FileFacts:
    """Properties of a file; `None` where unknown.

    Args:
        folder (`str`):
            Source folder, train or test.
        name (`str`):
            File name.
        num_bytes (`int`):
            File size.
        syntax (`str`, *optional*):
            DICOM keyword of the transfer syntax, such as `"JPEG2000Lossless"`; `"PNG"` or `"JPEG"`.
        bits (`int`, *optional*):
            Bits stored per pixel.
        photometric (`str`, *optional*):
            Photometric interpretation; the colour mode of a PNG or JPEG file.
        rows (`int`, *optional*):
            Height in pixels.
        columns (`int`, *optional*):
            Width in pixels.
        problem (`str`, *optional*):
            Why the file cannot be used.
        install (`str`, *optional*):
            Command that installs the missing decoder.
        pixels_at (`int`):
            Position of the pixel data in the file.
        tail (`str`):
            Digest of the last bytes of the pixel data, to find candidates for duplicates.
    """

    folder: str
    name: str
    num_bytes: int = 0
    syntax: str | None = None
    bits: int | None = None
    photometric: str | None = None
    rows: int | None = None
    columns: int | None = None
    problem: str | None = None
    install: str | None = None
    pixels_at: int = 0
    tail: str = ""

    @property
    def usable(self) -> bool:
        """Whether the header shows no obstacle to reading the file."""
        return self.problem is None and self.install is None


def file_facts(path: Path) -> FileFacts:
    """Read the header of a file and check the lengths it declares; errors become the `problem`."""
    facts = FileFacts(path.parent.name, path.name)
    try:
        with path.open("rb") as stream, warnings.catch_warnings(), pydicom.config.disable_value_validation():
            # pydicom's warnings quote the file, which may contain a name.
            warnings.simplefilter("ignore")
            stream.seek(0, 2)
            facts = replace(facts, num_bytes=stream.tell())
            stream.seek(0)
            head = stream.read(max(HEAD_BYTES, DICOM_HEAD_BYTES))
            picture = head.startswith(SIGNATURES)
            if not picture and head[DICOM_HEAD_BYTES - 4 : DICOM_HEAD_BYTES] != b"DICM":
                return replace(facts, problem=why_not_dicom(head[:DICOM_HEAD_BYTES]))
            facts = _picture(facts, head, stream) if picture else _dicom(facts, path, stream)
            if facts.problem is not None:
                return facts
            if path.suffix.lower() not in (PICTURE_SUFFIXES if picture else DICOM_SUFFIXES):
                kind = facts.syntax if picture else "DICOM"
                return replace(facts, problem=f"its name ends in {path.suffix}, but it is {kind}; rename it")
            return replace(facts, tail=_digest(stream, max(facts.pixels_at, facts.num_bytes - _TAIL_BYTES)))
    except FileNotFoundError:
        return replace(facts, problem="it is a broken link")
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # Pillow's own errors are OSErrors without one
            return replace(facts, problem=f"it cannot be opened ({error.strerror})")
        # The text of the error may quote the file, which may contain a name; its type cannot.
        return replace(
            facts, problem=f"its header cannot be read ({type(error).__name__}); it is damaged or not an image"
        )


def pixel_digest(path: Path, facts: FileFacts) -> str:
    """Digest of the pixel data of a file, independent of its header."""
    with path.open("rb") as stream:
        return _digest(stream, facts.pixels_at)


def _digest(stream: BinaryIO, start: int) -> str:
    digest = hashlib.sha256()
    stream.seek(start)
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _picture(facts: FileFacts, head: bytes, stream: BinaryIO) -> FileFacts:
    with Image.open(stream, formats=("PNG", "JPEG")) as picture:
        facts = replace(
            facts,
            syntax=str(picture.format),
            bits=_PICTURE_BITS.get(picture.mode, 8),
            photometric=picture.mode,
            rows=picture.height,
            columns=picture.width,
            problem=lost_depth(head),
        )
    if facts.problem is not None:
        return replace(facts, bits=16)
    stream.seek(max(0, facts.num_bytes - 4096))
    if (b"IEND" if facts.syntax == "PNG" else _END_OF_IMAGE) not in stream.read():
        return replace(facts, problem=_CUT_OFF)
    return facts


def _dicom(facts: FileFacts, path: Path, stream: BinaryIO) -> FileFacts:
    stream.seek(0)
    dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
    syntax, photometric = dataset.file_meta.get("TransferSyntaxUID"), dataset.get("PhotometricInterpretation")
    facts = replace(
        facts,
        # Only DICOM terms are reported: a damaged file may have any text in their place.
        syntax=None if syntax is None else UID(syntax).keyword or "unknown UID",
        bits=_whole(dataset, "BitsStored"),
        photometric=photometric if photometric in _PHOTOMETRIC else None,
        rows=_whole(dataset, "Rows"),
        columns=_whole(dataset, "Columns"),
    )
    try:
        if syntax is None or syntax == DeflatedExplicitVRLittleEndian:  # refused there, or compressed as a whole
            check_layout(read_image_tags(stream))
        else:
            facts = replace(facts, pixels_at=stream.tell())
            if stream.read(4) in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"):
                dataset.add_new("PixelData", "OB", b"\0\0")  # `check_layout` requires it
            layout = check_layout(dataset)
            if syntax in READABLE_SYNTAXES:
                _check_lengths(stream, facts, layout)
        if syntax not in READABLE_SYNTAXES:
            raise DicomError("its transfer syntax is not one of a readable still image; convert it")
    except DicomError as error:
        return replace(facts, problem=str(error))
    return replace(facts, install=missing_decoder(syntax))


def _whole(dataset: pydicom.Dataset, keyword: str) -> int | None:
    try:
        return int(dataset.get(keyword))
    except (TypeError, ValueError):
        return None


def _check_lengths(stream: BinaryIO, facts: FileFacts, layout: PixelLayout) -> None:
    """Check that the pixel data has the declared length and size."""
    order = "little" if layout.syntax.is_little_endian else "big"
    stream.seek(facts.pixels_at + 4)
    start = stream.read(4)
    if not layout.syntax.is_implicit_VR:
        start = stream.read(4) if start[:2] in _LONG_VRS else start[2:]
    if layout.syntax.is_encapsulated:
        _check_fragments(stream, facts, layout)
        return
    length = int.from_bytes(start, order)  # type: ignore[arg-type]
    row = layout.columns * layout.allocated_bits // 8
    needed = layout.rows * row
    if stream.tell() + min(length, needed) > facts.num_bytes:
        raise DicomError(_CUT_OFF)
    if not needed <= length < needed + max(2, row):
        raise DicomError(
            f"it declares {layout.rows} x {layout.columns} pixels of {layout.allocated_bits} bits, {needed:,} bytes,"
            f" but holds {length:,}; export it again"
        )


def _check_fragments(stream: BinaryIO, facts: FileFacts, layout: PixelLayout) -> None:
    """Check the fragments of compressed pixel data; the first one is the offset table."""
    pieces = 0
    while (tag := stream.read(4)) == _ITEM:
        length = int.from_bytes(stream.read(4), "little")
        start, end = stream.tell(), stream.tell() + length
        if end > facts.num_bytes:
            raise DicomError(_CUT_OFF)
        if pieces == 1 and layout.syntax != RLELossless:  # which has no header
            header = read_frame_header(stream.read(min(1 << 16, length)))
            if header is None:
                raise DicomError("its compressed data cannot be read; download or export it again")
            if (header.rows, header.columns) != (layout.rows, layout.columns):
                raise DicomError(
                    f"its header declares {layout.rows} x {layout.columns} pixels, its compressed data {header.rows} x"
                    f" {header.columns}; download or export it again"
                )
        stream.seek(max(start, end - 64))
        tail = stream.read(min(64, length))
        pieces += 1
    if tag not in _ENDS or pieces < 2:
        raise DicomError("its compressed pixel data is damaged; download it again")
    if layout.syntax != RLELossless and _END_OF_IMAGE not in tail:
        raise DicomError(_CUT_OFF)
