"""Files that are not radiographs are refused with the true reason."""

from __future__ import annotations

import io
import zlib

import pytest
from PIL import Image
from vindr_factories import chest, make_dicom

from mlcak_hf.errors import DicomError
from mlcak_hf.radiographs.read import read_radiograph


def image_file(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (20, 20)).save(stream, format=kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "The file is empty"),
        (b"%PDF-1.4\n", "it is a PDF file"),
        (b"PK\x03\x04" + bytes(200), "it is a ZIP file"),
        (b"\n<!DOCTYPE html><html>Not found", "HTML page.*download failed"),
        (b"not an image", "it is a text file"),
        (image_file("BMP"), "it is a BMP file"),
        (image_file("GIF"), "it is a GIF file"),
        (image_file("TIFF"), "it is a TIFF file"),
        (bytes(300), "not DICOM, PNG or JPEG, or is damaged"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, content, reason) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    with pytest.raises(DicomError, match=rf"^x\.dcm: .*{reason}"):
        read_radiograph(path)


def test_a_dicom_without_preamble_is_named(tmp_path) -> None:
    path = make_dicom(tmp_path / "x.dcm", chest(), bits=12)
    path.write_bytes(path.read_bytes()[132:])
    with pytest.raises(DicomError, match="no DICOM preamble"):
        read_radiograph(path)


def test_a_png_of_400_million_pixels_is_too_large_and_not_damaged(tmp_path) -> None:
    png = bytearray(image_file("PNG"))
    png[16:24] = 2 * (20_000).to_bytes(4, "big")
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(png)
    with pytest.raises(DicomError, match="at most 60,000,000 pixels; it has far more"):
        read_radiograph(tmp_path / "x.png")
