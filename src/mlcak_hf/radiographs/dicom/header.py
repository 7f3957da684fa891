"""DICOM header -> how the pixels are stored. Refuses whatever is no single grayscale radiograph."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ...errors import DicomError

MAX_PIXELS = 60_000_000
"""Largest Rows x Columns that is decoded, in at most 1 GB; the largest radiographs have about 25 million pixels."""

_MAX_DEFLATED_BYTES = 1_000_000_000

# Only these are read from the file: names, dates and numbers of patients never enter memory, let alone a message.
_IMAGE_TAGS: list[Any] = [
    "TransferSyntaxUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PlanarConfiguration",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
]


@dataclass(frozen=True)
class PixelLayout:
    """How the pixels are stored, once it is known to be something we read."""

    syntax: pydicom.uid.UID
    rows: int
    columns: int
    bits: int
    allocated_bits: int
    signed: bool
    inverted: bool

    @property
    def syntax_name(self) -> str:
        """The transfer syntax in words; an unknown UID is not quoted, as it may be that of an examination."""
        return str(self.syntax.name) if self.syntax.name != str(self.syntax) else "(unknown)"

    @property
    def stored_values(self) -> npt.NDArray[np.int64]:
        """Every value a pixel may hold, at the index of its lowest `bits` bits; shape (2**bits,)."""
        codes = np.arange(1 << self.bits, dtype=np.int64)
        return np.where(codes >= 1 << (self.bits - 1), codes - (1 << self.bits), codes) if self.signed else codes


def read_image_tags(path: Path) -> pydicom.Dataset:
    """Read the image tags only, after checking that a deflated file does not swell beyond all measure."""
    with path.open("rb") as stream:
        pydicom.filereader.read_preamble(stream, False)
        meta = pydicom.filereader.read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            _check_deflated(stream)
    if meta.get("TransferSyntaxUID") is None:
        raise DicomError(
            "it has no Transfer Syntax UID, so how its pixels are stored is unknown; this is often a cut-off download."
            " Download or export it again"
        )
    return pydicom.dcmread(path, specific_tags=_IMAGE_TAGS)


def _check_deflated(stream: BinaryIO) -> None:
    """Refuse a deflate bomb: count what comes out without keeping it."""
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    data = stream.read(1 << 20)
    while data and not inflate.eof:
        total += len(inflate.decompress(data, 1 << 24))
        if total > _MAX_DEFLATED_BYTES:
            raise DicomError(f"it inflates to more than {_MAX_DEFLATED_BYTES:,} bytes; that is no radiograph")
        data = inflate.unconsumed_tail or stream.read(1 << 20)


def _whole(dataset: pydicom.Dataset, keyword: str) -> int:
    value = dataset.get(keyword)
    if value is None:
        raise DicomError(f"{keyword} is missing, and guessing it would be wrong; export the file again")
    return int(value)


def _known(photometric: str) -> str:
    """Quote a Photometric Interpretation only if it is one: in a damaged file a name may stand in its place."""
    parts = photometric.split("_") if photometric.startswith("YBR") else photometric.split()
    words = {"YBR", "FULL", "PARTIAL", "420", "422", "RCT", "ICT", "RGB", "HSV", "ARGB", "CMYK", "PALETTE", "COLOR"}
    return photometric if parts and {*parts} <= words | {"MONOCHROME1", "MONOCHROME2"} else "missing or unknown"


def check_layout(dataset: pydicom.Dataset) -> PixelLayout:
    """Settle how the pixels are stored, and refuse every kind that is no single grayscale radiograph."""
    if "PixelData" not in dataset or not dataset.PixelData:
        kind = "floating-point" if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset else "no"
        raise DicomError(
            f"it holds {kind} pixel data; a radiograph of 8 to 16 bits is needed. Download or export it again"
        )
    frames = dataset.get("NumberOfFrames")
    if frames is not None and int(frames) != 1:
        raise DicomError(
            f"it holds {int(frames)} frames, but a radiograph has one; export the frame you want by itself"
        )
    samples, photometric = _whole(dataset, "SamplesPerPixel"), str(dataset.get("PhotometricInterpretation", ""))
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise DicomError(
            f"it is a colour or palette image (Photometric Interpretation {_known(photometric)}, {samples} samples"
            " per pixel); MONOCHROME1 or MONOCHROME2 with one sample is needed. Export the original radiograph, not a"
            " screen capture"
        )
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    if not 0 < rows * columns <= MAX_PIXELS:
        raise DicomError(f"it declares {rows} x {columns} pixels; between 1 and {MAX_PIXELS:,} are read")
    allocated, bits = _whole(dataset, "BitsAllocated"), _whole(dataset, "BitsStored")
    high_bit, representation = int(dataset.get("HighBit", bits - 1)), _whole(dataset, "PixelRepresentation")
    if allocated not in (8, 16) or not 1 < bits <= allocated or high_bit != bits - 1 or representation not in (0, 1):
        raise DicomError(
            f"Bits Allocated {allocated}, Bits Stored {bits}, High Bit {high_bit}, Pixel Representation"
            f" {representation} do not describe 8 to 16 bit pixels; export the file again"
        )
    return PixelLayout(
        dataset.file_meta.TransferSyntaxUID,
        rows,
        columns,
        bits,
        allocated,
        bool(representation),
        photometric[-1] == "1",
    )
