"""DICOM header -> how the pixels are stored and what their values mean. Only single grayscale images."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ...errors import DicomError
from ..choices import Voi
from .lookup_tables import LookupTable, Window, find_voi, modality_values, padding_values

# Decoding this many pixels takes at most 1 GB; the largest radiographs have about 25 million.
MAX_PIXELS = 60_000_000

_MAX_INFLATED = 1_000_000_000

# Longer values stay in the file until they are used: each copy of a large image costs a fifth of decoding it at an
# eighth of its size. The longest lookup table has 131,072 bytes.
_DEFERRED_BYTES = 1_000_000

# Only these tags are read, so that names, dates and ids of patients never enter memory, let alone a message.
_IMAGE_TAGS: list[Any] = [
    *("TransferSyntaxUID", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "FloatPixelData", "DoubleFloatPixelData", "PixelData"),
]


@dataclass(frozen=True)
class PixelLayout:
    """How the pixels of a readable file are stored."""

    syntax: pydicom.uid.UID
    rows: int
    columns: int
    bits: int
    allocated_bits: int
    signed: bool
    inverted: bool

    @property
    def syntax_name(self) -> str:
        """Name of the transfer syntax. An unknown UID is not quoted: it could be the UID of an examination."""
        return str(self.syntax.name) if self.syntax.name != str(self.syntax) else "unknown transfer syntax"


@dataclass(frozen=True)
class DicomHeader:
    """What a DICOM header says about the image.

    Args:
        dataset (`pydicom.Dataset`):
            The image tags.
        layout ([`PixelLayout`]):
            How the pixels are stored.
        values (`np.ndarray` of shape `(2**bits,)`):
            Value after the modality transform of each possible stored value, indexed by its lowest `bits` bits.
        stored_range (`tuple[float, float]`):
            Smallest and largest value after the modality transform that the stored bits can express.
        padded (`np.ndarray` of shape `(2**bits,)`, *optional*):
            Which stored values are padding. `None` if the file declares none.
        view (`LookupTable` or `Window`, *optional*):
            The file's VOI LUT or window. `None` if it has neither, or for another `voi` than `"dicom"`.
    """

    dataset: pydicom.Dataset
    layout: PixelLayout
    values: npt.NDArray[np.float64]
    stored_range: tuple[float, float]
    padded: npt.NDArray[np.bool_] | None
    view: LookupTable | Window | None


def read_header(stream: BinaryIO, voi: Voi = "dicom") -> DicomHeader:
    """Read and check the header of an open file. With `voi="dicom"`, its VOI LUT or window must be right.

    Raises:
        [`DicomError`]: When it is not a single grayscale radiograph, or leaves something to guess.
    """
    dataset = read_image_tags(stream)
    layout = check_layout(dataset)
    stored = np.arange(1 << layout.bits, dtype=np.int64)
    if layout.signed:
        stored = np.where(stored >= 1 << (layout.bits - 1), stored - (1 << layout.bits), stored)
    values, stored_range = modality_values(dataset, stored)
    padded = padding_values(dataset, stored) if "PixelPaddingValue" in dataset else None
    view = find_voi(dataset) if voi == "dicom" else None
    return DicomHeader(dataset, layout, values, stored_range, padded, view)


def read_image_tags(stream: BinaryIO, stop_before_pixels: bool = False) -> pydicom.Dataset:
    """Read the image tags of an open file, after checking how far a deflated file expands.

    Raises:
        [`DicomError`]: When the transfer syntax is missing, or a deflated file is too large.
    """
    stream.seek(0)
    pydicom.filereader.read_preamble(stream, False)
    meta = pydicom.filereader.read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    if meta.get("TransferSyntaxUID") is None:
        raise DicomError("The Transfer Syntax UID is missing; the file may be cut off. Download or export it again.")
    deflated = meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    if deflated:
        _check_inflated_size(stream)
    stream.seek(0)
    deferred = None if deflated else _DEFERRED_BYTES
    dataset = pydicom.dcmread(stream, deferred, stop_before_pixels, specific_tags=_IMAGE_TAGS)
    if not deflated:
        dataset.buffer = stream  # or pydicom would open the file again, by its name
    return dataset


def _check_inflated_size(stream: BinaryIO) -> None:
    """Count the inflated bytes without keeping them."""
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    data = stream.read(1 << 20)
    while data and not inflate.eof:
        total += len(inflate.decompress(data, 1 << 24))
        if total > _MAX_INFLATED:
            raise DicomError(f"The file expands to more than {_MAX_INFLATED:,} bytes. Export the radiograph again.")
        data = inflate.unconsumed_tail or stream.read(1 << 20)


def check_layout(dataset: pydicom.Dataset) -> PixelLayout:
    """Check how the pixels are stored.

    Raises:
        [`DicomError`]: When the file does not hold a single grayscale radiograph of 8 to 16 bits.
    """
    element = dataset.get_item("PixelData", keep_deferred=True) if "PixelData" in dataset else None
    if element is None or not (element.value or getattr(element, "length", 0)):  # without reading it
        kind = "floating-point" if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset else "no"
        raise DicomError(f"Pixels of 8 to 16 bits are needed; the file has {kind} pixel data. Export it again.")
    for keyword in ("SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        if dataset.get(keyword) is None:
            raise DicomError(f"{keyword} is missing and cannot be guessed. Export the file again.")
    frames = dataset.get("NumberOfFrames")
    if frames is not None and int(frames) != 1:
        raise DicomError(f"A radiograph must have one frame; Number of Frames is {int(frames)}. Export a single frame.")
    samples, photometric = int(dataset.SamplesPerPixel), str(dataset.get("PhotometricInterpretation", ""))
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        problem = f"It is a colour or palette image ({_safe_to_quote(photometric)}, {samples} samples per pixel)"
        raise DicomError(f"{problem}. Export the original MONOCHROME1 or MONOCHROME2 radiograph, not a screen capture.")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < rows * columns <= MAX_PIXELS:
        raise DicomError(f"The image must have 1 to {MAX_PIXELS:,} pixels; got {rows} x {columns} pixels. Reduce it.")
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high_bit, representation = int(dataset.get("HighBit", bits - 1)), int(dataset.PixelRepresentation)
    if allocated not in (8, 16) or not 1 < bits <= allocated or high_bit != bits - 1 or representation not in (0, 1):
        declared = f"Bits Allocated {allocated}, Bits Stored {bits}, High Bit {high_bit} and Pixel Representation"
        raise DicomError(f"{declared} {representation} do not describe pixels of 8 to 16 bits. Export the file again.")
    syntax, signed, inverted = dataset.file_meta.TransferSyntaxUID, bool(representation), photometric == "MONOCHROME1"
    return PixelLayout(syntax, rows, columns, bits, allocated, signed, inverted)


def _safe_to_quote(photometric: str) -> str:
    """Quote only known terms: a damaged file may have a patient's name in this place."""
    parts = photometric.split("_") if photometric.startswith("YBR") else photometric.split()
    terms = {"YBR", "FULL", "PARTIAL", "420", "422", "RCT", "ICT", "RGB", "HSV", "ARGB", "CMYK", "PALETTE", "COLOR"}
    return photometric if parts and {*parts} <= terms | {"MONOCHROME1", "MONOCHROME2"} else "missing or unknown"
