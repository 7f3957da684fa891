"""DICOM file -> float32 radiograph in [0, 1], 0 = dark (air). Refuses whatever it would have to guess.

A pixel's grey value depends on its stored value alone: modality transform, then VOI, then polarity. So the whole chain
is worked out once, in double precision, for each of the 2**BitsStored possible values, and looked up for the image.
"""

from __future__ import annotations

import contextlib
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from ..errors import DicomError
from .codestream import codestream_size
from .intensity import VOI_MODES, LookUpTable, Voi, apply_window, percentile_limits

MAX_PIXELS = 100_000_000
"""Largest Rows x Columns that is decoded; the largest radiographs have about 25 million pixels."""

# A real radiograph has noise and compresses to a third without loss, to a fiftieth with; a few kilobytes that claim
# tens of millions of pixels are a damaged or hostile file. Small images may be as empty as they like.
_MAX_COMPRESSION = 2_000
_SMALL_PIXELS = 4_000_000
_MAX_DEFLATED_BYTES = 1_000_000_000

# One fixed decoder per family, so that the same file gives the same numbers whatever else is installed.
_DECODERS: dict[str, str] = {**dict.fromkeys(JPEG2000TransferSyntaxes, "pylibjpeg"), RLELossless: "pydicom"}
_INSTALL: dict[str, str] = {
    **dict.fromkeys(JPEGTransferSyntaxes, "pip install python-gdcm"),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "pip install pyjpegls"),
    **dict.fromkeys(JPEG2000TransferSyntaxes, "pip install pylibjpeg pylibjpeg-openjpeg"),
}

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
class _Layout:
    """How the pixels are stored, once it is known to be something we read."""

    syntax: pydicom.uid.UID
    rows: int
    columns: int
    bits: int
    signed: bool
    inverted: bool

    @property
    def stored_values(self) -> npt.NDArray[np.int64]:
        """Every value a pixel may hold, at the index of its lowest `bits` bits; shape (2**bits,)."""
        codes = np.arange(1 << self.bits, dtype=np.int64)
        return np.where(codes >= 1 << (self.bits - 1), codes - (1 << self.bits), codes) if self.signed else codes


def read_dicom(path: str | Path, voi: Voi = "dicom") -> npt.NDArray[np.float32]:
    """Read a single-frame grayscale DICOM file with its polarity corrected.

    Transfer syntaxes: uncompressed (little and big endian, implicit and explicit), deflated, RLE, JPEG 2000 and JPEG
    baseline; JPEG Lossless and JPEG-LS where their decoder is installed.

    Args:
        path: The file.
        voi: Where the limits come from that become 0 and 1. "dicom": the first item of the file's VOI LUT Sequence, or
            else its first window (LINEAR, LINEAR_EXACT or SIGMOID), after the modality transform; a file with neither
            is read as with "none". "percentile": the 1st and 99th percentile after the modality transform, taken once
            at a reference size of 256 px without the padding. "none": the range of the stored bits, through the
            modality transform. A LUT's range is what its bits per entry can hold.

    Returns:
        float32 of shape (Rows, Columns) in [0, 1]; MONOCHROME1 is inverted after the VOI step. Pixels that the file
        marks as padding (Pixel Padding Value) lie outside the image and are 0, whatever the mode and polarity.

    Raises:
        DicomError: The file cannot be read, or not without guessing; names the file and the remedy, no patient data.
    """
    path = Path(path)
    if voi not in VOI_MODES:
        raise DicomError(f"voi must be one of {', '.join(VOI_MODES)}, but {voi!r} came")
    with _explained(path, "read its header"):
        dataset = _read_image_tags(path)
        layout = _check(dataset)
        values, stored_range = _modality(dataset, layout)
        padded = _padding(dataset, layout)
    with _explained(path, f"decode its pixels ({layout.syntax.name})"):
        codes = _decode(dataset, layout)
    with _explained(path, "apply its grey-value transforms"):
        if voi == "percentile":
            modality = values.astype(np.float32)[codes]
            low, high = percentile_limits(modality, None if padded is None else ~padded[codes])
            grey = (values - low) / (high - low)
        else:
            windowed = _file_limits(dataset, values) if voi == "dicom" else None
            full = (values - stored_range[0]) / (stored_range[1] - stored_range[0])
            grey = full if windowed is None else windowed
        grey = np.clip(grey, 0.0, 1.0)
        if layout.inverted:
            grey = 1.0 - grey
        if padded is not None:
            grey[padded] = 0.0
    return np.asarray(grey.astype(np.float32)[codes])


@contextlib.contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    """Turn whatever goes wrong in pydicom and its plugins into one DicomError that names the file."""
    try:
        # pydicom's warnings about odd values quote the file, and in a damaged one that may be the patient's name.
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except DicomError as error:
        raise DicomError(f"{path.name}: {error}") from None
    except MemoryError:
        raise
    except BaseException as error:
        # The RLE plugin written in Rust panics with an exception outside of `Exception`.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        # The cause's own text may quote the file; its type says enough and can hold nobody's name.
        raise DicomError(
            f"{path.name}: cannot {doing} ({type(error).__name__}). The file may be cut off or damaged, or is no DICOM"
            " image; copy or download it again, or leave it out"
        ) from (error if "pixels" in doing else None)


def _read_image_tags(path: Path) -> pydicom.Dataset:
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


def _check(dataset: pydicom.Dataset) -> _Layout:
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
            f"it is a colour or palette image (Photometric Interpretation {photometric or 'missing'}, {samples} samples"
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
    return _Layout(
        dataset.file_meta.TransferSyntaxUID, rows, columns, bits, bool(representation), photometric[-1] == "1"
    )


def _decode(dataset: pydicom.Dataset, layout: _Layout) -> npt.NDArray[np.uint16]:
    """Decode to the lowest `bits` bits of each pixel, shape (Rows, Columns)."""
    syntax = layout.syntax
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DicomError(
            f"its transfer syntax {syntax.name} holds no still radiograph that can be read; convert the file to"
            " Explicit VR Little Endian (for example with gdcmconv --raw)"
        ) from None
    plugin = _DECODERS.get(syntax, "")
    if not decoder.is_available or (plugin and plugin not in decoder.available_plugins):
        raise DicomError(
            f"no decoder for {syntax.name} is installed; run: {_INSTALL.get(syntax, 'pip install python-gdcm')}"
        )
    pixels = layout.rows * layout.columns
    if syntax.is_compressed and syntax.is_encapsulated:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        # RLE has no header of its own; in its bytes, markers of the others occur by chance.
        size = None if syntax == RLELossless else codestream_size(frame)
        if size is not None and size != (layout.rows, layout.columns):
            raise DicomError(
                f"the header declares {layout.rows} x {layout.columns} pixels, its compressed data {size[0]} x"
                f" {size[1]}; download or export it again"
            )
        if pixels > _SMALL_PIXELS and pixels > _MAX_COMPRESSION * len(frame):
            raise DicomError(
                f"{len(frame):,} compressed bytes cannot hold a radiograph of {layout.rows} x {layout.columns} pixels;"
                " download or export it again"
            )
    options: dict[str, Any] = {"correct_unused_bits": False}
    array, _ = decoder.as_array(dataset, raw=True, decoding_plugin=plugin, **options)
    if array.shape != (layout.rows, layout.columns):
        raise DicomError(f"its pixels have shape {array.shape}, not ({layout.rows}, {layout.columns})")
    if syntax.is_encapsulated and syntax != RLELossless:
        # These carry their own precision. Uncompressed files may use the bits above the stored ones for anything (PS3.5
        # 8.1.1), so there they are cut off; here a larger value means that the header is wrong.
        stored = layout.stored_values
        if int(array.min()) < int(stored.min()) or int(array.max()) > int(stored.max()):
            raise DicomError(
                f"its pixels do not fit into the {layout.bits} bits that Bits Stored declares; export it again"
            )
    return np.asarray(array.astype(np.uint16) & np.uint16((1 << layout.bits) - 1))


def _modality(dataset: pydicom.Dataset, layout: _Layout) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Return the modality value of every stored value, and the range that the stored bits can reach."""
    stored = layout.stored_values
    if dataset.get("ModalityLUTSequence"):
        table = _look_up_table(dataset, dataset.ModalityLUTSequence[0], layout.signed, "Modality LUT")
        return table(stored).astype(np.float64), (0.0, float(table.largest))
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if (slope is None) != (intercept is None):
        raise DicomError("it has only one of Rescale Slope and Rescale Intercept; export it again with both or none")
    values = stored.astype(np.float64) * float(1 if slope is None else slope)
    values += float(0 if intercept is None else intercept)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and high > low):
        raise DicomError(
            f"Rescale Slope {slope} and Rescale Intercept {intercept} leave no grey values; export it again"
        )
    return values, (low, high)


def _padding(dataset: pydicom.Dataset, layout: _Layout) -> npt.NDArray[np.bool_] | None:
    """Mark the stored values that the file declares as padding, shape (2**bits,); None where it declares none."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = sorted(int(v) % 65536 for v in (value, value if limit is None else limit))
    if layout.signed:  # a writer may have put the 16 bits of a negative number down as unsigned
        ends = sorted((v + 32768) % 65536 - 32768 for v in ends)
    stored = layout.stored_values
    return np.asarray((stored >= ends[0]) & (stored <= ends[1]))


def _file_limits(dataset: pydicom.Dataset, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Apply the file's first VOI LUT or window to the modality values; None where the file has neither."""
    remedy = '. Read it with voi="percentile" or voi="none" (--voi)'
    try:
        if dataset.get("VOILUTSequence"):
            # Beside a window the LUT is preferred: it is the fuller description of the same view.
            table = _look_up_table(dataset, dataset.VOILUTSequence[0], bool(values.min() < 0), "VOI LUT")
            return table(values) / float(table.largest)
        center, width = (_first(dataset.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
        if center is None and width is None:
            return None
        if center is None or width is None:
            raise DicomError("it has only one of Window Center and Window Width")
        return apply_window(values, center, width, str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper())
    except DicomError as error:
        raise DicomError(f"{error}{remedy}") from None
    except (ValueError, TypeError):
        raise DicomError(f"its VOI LUT or window holds no numbers{remedy}") from None


def _first(value: Any) -> float | None:
    """First number of an element with one or several values, None where it is empty."""
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)


def _look_up_table(dataset: pydicom.Dataset, item: pydicom.Dataset, signed: bool, what: str) -> LookUpTable:
    """Read a LUT item: descriptor (entries, first input value, bits per entry) and data as words or packed bytes."""
    if item.get("LUTDescriptor") is None or item.get("LUTData") is None or len(item.LUTDescriptor) != 3:
        raise DicomError(f"its {what} has no complete LUT Descriptor and LUT Data")
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count % 65536 or 65536
    # The first two numbers are 16 bit words; whether they are signed follows from the values that go in.
    first = (first + 32768) % 65536 - 32768 if signed else first % 65536
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        entries = np.frombuffer(data, dtype=f"{order}u2" if len(data) >= 2 * count else np.uint8)
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.int64)) % 65536
        if bits <= 8 and len(entries) == (count + 1) // 2 < count:
            entries = np.stack([entries & 255, entries >> 8], axis=1).ravel()
    entries = entries[:count].astype(np.int64)
    if not 8 <= bits <= 16 or len(entries) != count or int(entries.max()) >= 1 << bits:
        raise DicomError(f"its {what} declares {count} entries of {bits} bits, but its data does not match")
    return LookUpTable(first, entries, bits)
