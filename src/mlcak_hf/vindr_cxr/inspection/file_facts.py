"""Properties of an image file that can be read without decoding it, and damage that can be detected."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from PIL import Image
from pydicom.encaps import parse_fragments
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from ...errors import DicomError
from ...preparation.tables import DICOM_SUFFIXES, PICTURE_SUFFIXES
from ...radiographs.dicom.codestream import read_frame_header
from ...radiographs.dicom.header import PixelLayout, check_layout, read_image_tags
from ...radiographs.dicom.pixels import READABLE_SYNTAXES, missing_decoder
from ...radiographs.png_jpeg import SIGNATURES, lost_depth
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
_END_OF_IMAGE = b"\xff\xd9"  # in JPEG, JPEG-LS and JPEG 2000 alike
_TAIL_BYTES = 1 << 16
_CUT_OFF = "The file ends too early, often because of a cut-off download. Download it again."


@dataclass
class FileFacts:
    """Properties of a file; `None` where unknown.

    Args:
        file (`str`):
            Folder and name, such as train/a.dicom.
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
            Why the file cannot be read, and what to do.
        pixels_at (`int`):
            Position of the pixel data in the file.
        tail (`str`):
            Digest of the last bytes of the pixel data, to find candidates for duplicates.
    """

    file: str
    num_bytes: int = 0
    syntax: str | None = None
    bits: int | None = None
    photometric: str | None = None
    rows: int | None = None
    columns: int | None = None
    problem: str | None = None
    pixels_at: int = 0
    tail: str = ""


def file_facts(path: Path) -> FileFacts:
    """Read the header of a file and check the lengths it declares; errors become the `problem`."""
    facts = FileFacts(f"{path.parent.name}/{path.name}")
    try:
        with path.open("rb") as stream, warnings.catch_warnings(), pydicom.config.disable_value_validation():
            # pydicom's warnings quote the file, which may contain a name.
            warnings.simplefilter("ignore")
            facts.num_bytes = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            head = stream.read(DICOM_HEAD_BYTES)
            picture = head.startswith(SIGNATURES)
            if picture:
                _read_picture(facts, head, stream)
            elif head[-4:] == b"DICM":
                _read_dicom(facts, stream)
            else:
                raise DicomError(why_not_dicom(head))
            if path.suffix.lower() not in (PICTURE_SUFFIXES if picture else DICOM_SUFFIXES):
                kind = facts.syntax if picture else "DICOM"
                raise DicomError(f"The file is {kind}, but its name ends in {path.suffix}. Rename it.")
            stream.seek(max(facts.pixels_at, facts.num_bytes - _TAIL_BYTES))
            facts.tail = hashlib.sha256(stream.read()).hexdigest()
    except DicomError as error:
        facts.problem = str(error)
    except FileNotFoundError:
        facts.problem = "The file is a broken link. Restore it."
    except Exception as error:
        # Pillow's own errors are OSErrors without a strerror. The text of an error may quote the file, which may
        # contain a name; its type cannot.
        if isinstance(error, OSError) and error.strerror:
            facts.problem = f"The file cannot be opened ({error.strerror}). Check its permissions."
        else:
            facts.problem = f"The file is damaged or not an image ({type(error).__name__}). Download it again."
    return facts


def pixel_digest(path: Path, pixels_at: int) -> str:
    """Return a digest of the pixel data of a file, independent of its header."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(pixels_at)
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_picture(facts: FileFacts, head: bytes, stream: BinaryIO) -> None:
    with Image.open(stream, formats=("PNG", "JPEG")) as picture:
        facts.syntax, facts.photometric = picture.format, picture.mode
        facts.columns, facts.rows = picture.size
    problem = lost_depth(head)
    facts.bits = 16 if problem else _PICTURE_BITS.get(picture.mode, 8)
    if problem is not None:
        raise DicomError(problem)
    stream.seek(max(0, facts.num_bytes - 4096))
    if (b"IEND" if facts.syntax == "PNG" else _END_OF_IMAGE) not in stream.read():
        raise DicomError(_CUT_OFF)


def _read_dicom(facts: FileFacts, stream: BinaryIO) -> None:
    stream.seek(0)
    dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
    syntax, photometric = dataset.file_meta.get("TransferSyntaxUID"), dataset.get("PhotometricInterpretation")
    # Only DICOM terms are reported: a damaged file may have any text in their place.
    facts.syntax = None if syntax is None else UID(syntax).keyword or "unknown UID"
    facts.photometric = photometric if photometric in _PHOTOMETRIC else None
    facts.bits, facts.rows, facts.columns = (_whole(dataset, name) for name in ("BitsStored", "Rows", "Columns"))
    if syntax is None or syntax == DeflatedExplicitVRLittleEndian:  # refused there, or compressed as a whole
        check_layout(read_image_tags(stream))
    else:
        facts.pixels_at = stream.tell()
        if stream.read(4) in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"):
            dataset.add_new("PixelData", "OB", b"\0\0")  # `check_layout` requires it
        layout = check_layout(dataset)
        if syntax not in READABLE_SYNTAXES:
            raise DicomError("The transfer syntax must be that of a readable still image. Convert the file.")
        stream.seek(facts.pixels_at)
        header = stream.read(8 if layout.syntax.is_implicit_VR else 12)
        if layout.syntax.is_encapsulated:
            _check_fragments(stream, facts.num_bytes, layout)
        else:
            order: Any = "little" if layout.syntax.is_little_endian else "big"
            _check_length(int.from_bytes(header[-4:], order), facts.num_bytes - stream.tell(), layout)
    if (command := missing_decoder(syntax)) is not None:
        raise DicomError(f"No decoder of this transfer syntax is installed. Run: {command}.")


def _whole(dataset: pydicom.Dataset, keyword: str) -> int | None:
    try:
        return int(dataset.get(keyword))
    except (TypeError, ValueError):
        return None


def _check_length(length: int, in_file: int, layout: PixelLayout) -> None:
    row = layout.columns * layout.allocated_bits // 8
    needed = layout.rows * row
    if min(length, needed) > in_file:
        raise DicomError(_CUT_OFF)
    if not needed <= length < needed + max(2, row):
        raise DicomError(
            f"The header declares {layout.rows} x {layout.columns} pixels of {layout.allocated_bits} bits,"
            f" {needed:,} bytes, but the file holds {length:,}. Export it again."
        )


def _check_fragments(stream: BinaryIO, num_bytes: int, layout: PixelLayout) -> None:
    def fragment(at: int, most: int) -> tuple[int, bytes]:
        stream.seek(at + 4)
        length = int.from_bytes(stream.read(4), "little")
        return at + 8 + length, stream.read(min(most, length))

    try:
        _, (_, first, *others) = parse_fragments(stream)  # the first one of all is the offset table
    except ValueError:
        raise DicomError("The compressed pixel data is damaged. Download the file again.") from None
    end, _ = fragment(others[-1] if others else first, 0)
    if end > num_bytes:
        raise DicomError(_CUT_OFF)
    if layout.syntax == RLELossless:  # has neither header nor end
        return
    header = read_frame_header(fragment(first, 1 << 16)[1])
    if header is None:
        raise DicomError("The compressed pixel data cannot be read. Download or export the file again.")
    if (header.rows, header.columns) != (layout.rows, layout.columns):
        raise DicomError(
            f"The header declares {layout.rows} x {layout.columns} pixels, the compressed data {header.rows} x"
            f" {header.columns}. Download or export the file again."
        )
    stream.seek(end - 64)
    if _END_OF_IMAGE not in stream.read(64):
        raise DicomError(_CUT_OFF)
