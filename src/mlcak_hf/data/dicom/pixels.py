"""Compressed or plain Pixel Data -> stored values, by one fixed decoder per family of transfer syntaxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless

from ...errors import DicomError
from .codestream import codestream_size
from .header import PixelLayout

# A real radiograph has noise and compresses to a third without loss, to a fiftieth with; a few kilobytes that claim
# tens of millions of pixels are a damaged or hostile file. Small images may be as empty as they like.
_MAX_COMPRESSION = 2_000
_SMALL_PIXELS = 4_000_000

# One fixed decoder per family, so that the same file gives the same numbers whatever else is installed.
_DECODERS: dict[str, str] = {**dict.fromkeys(JPEG2000TransferSyntaxes, "pylibjpeg"), RLELossless: "pydicom"}
_INSTALL: dict[str, str] = {
    **dict.fromkeys(JPEGTransferSyntaxes, "pip install python-gdcm"),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "pip install pyjpegls"),
    **dict.fromkeys(JPEG2000TransferSyntaxes, "pip install pylibjpeg pylibjpeg-openjpeg"),
}


def decode_pixels(dataset: pydicom.Dataset, layout: PixelLayout) -> npt.NDArray[np.uint16]:
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
