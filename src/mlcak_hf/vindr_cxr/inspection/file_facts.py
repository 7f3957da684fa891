"""Properties of an image file that can be read without decoding it, and damage that can be detected."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from PIL import Image
from pydicom.encaps import parse_fragments
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from ...errors import DicomError
from ...radiographs.dicom.header import PixelLayout, check_layout, read_image_tags
from ...radiographs.dicom.pixels import READABLE_SYNTAXES, check_frame, check_length, missing_decoder
from ...radiographs.file_search import DICOM_SUFFIXES, PICTURE_SUFFIXES
from ...radiographs.png_jpeg import SIGNATURES, lost_depth
from ...radiographs.read import DICOM_HEAD_BYTES, why_not_dicom

_END_OF_JPEG = b"\xff\xd9"
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


def grouped(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[Any, list[Any]]]:
    """Return members by kind, largest group first."""
    groups: dict[Any, list[Any]] = {}
    for kind, member in pairs:
        groups.setdefault(kind, []).append(member)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def pixel_digest(root: Path, facts: FileFacts) -> str:
    """Return a digest of the pixel data of a file, independent of its header."""
    digest = hashlib.sha256()
    with (root / facts.file).open("rb") as stream:
        stream.seek(facts.pixels_at)
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_picture(facts: FileFacts, head: bytes, stream: BinaryIO) -> None:
    with Image.open(stream, formats=("PNG", "JPEG")) as picture:
        facts.syntax, facts.photometric = picture.format, picture.mode
        facts.columns, facts.rows = picture.size
    problem = lost_depth(head)
    facts.bits = 16 if problem or picture.mode.startswith("I") else 1 if picture.mode == "1" else 8
    if problem is not None:
        raise DicomError(problem)
    stream.seek(max(0, facts.num_bytes - 4096))
    if (b"IEND" if facts.syntax == "PNG" else _END_OF_JPEG) not in stream.read():
        raise DicomError(_CUT_OFF)


def _read_dicom(facts: FileFacts, stream: BinaryIO) -> None:
    dataset = read_image_tags(stream, stop_before_pixels=True)
    syntax, facts.pixels_at = UID(dataset.file_meta.TransferSyntaxUID), stream.tell()
    facts.syntax = syntax.keyword or "unknown UID"  # which may identify an examination
    if syntax == DeflatedExplicitVRLittleEndian:  # compressed as a whole
        dataset, facts.pixels_at = read_image_tags(stream), 0
    elif stream.read(4) in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"):
        dataset.add_new("PixelData", "OB", b"\0\0")  # `check_layout` requires it
    layout = check_layout(dataset)
    facts.photometric = dataset.PhotometricInterpretation
    facts.rows, facts.columns, facts.bits = layout.rows, layout.columns, layout.bits
    if syntax not in READABLE_SYNTAXES:
        raise DicomError("The transfer syntax must be that of a readable still image. Convert the file.")
    if (command := missing_decoder(syntax)) is not None:
        raise DicomError(f"No decoder of this transfer syntax is installed. Run: {command}.")
    if facts.pixels_at:
        _check_pixel_data(facts, stream, layout)


def _check_pixel_data(facts: FileFacts, stream: BinaryIO, layout: PixelLayout) -> None:
    stream.seek(facts.pixels_at)
    header = stream.read(8 if layout.syntax.is_implicit_VR else 12)
    if not layout.syntax.is_encapsulated:
        order: Any = "little" if layout.syntax.is_little_endian else "big"
        length = int.from_bytes(header[-4:], order)
        if stream.tell() + min(length, layout.rows * layout.columns * layout.allocated_bits // 8) > facts.num_bytes:
            raise DicomError(_CUT_OFF)
        check_length(length, layout)
        return
    try:
        _, (_, first, *others) = parse_fragments(stream)  # before the first one is the offset table
    except ValueError:
        raise DicomError("The compressed pixel data is damaged. Download the file again.") from None
    stream.seek([first, *others][-1] + 4)
    end = int.from_bytes(stream.read(4), "little") + stream.tell()
    if end > facts.num_bytes:
        raise DicomError(_CUT_OFF)
    if layout.syntax != RLELossless:
        stream.seek(first + 8)
        beginning = stream.read(min(1 << 16, end - first - 8))
        stream.seek(end - 64)
        check_frame(beginning + stream.read(64), layout)
