"""Every family of transfer syntaxes: what goes in comes out, bit by bit where it is lossless."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPML,
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
from vindr_factories import chest, encode_frame, make_dicom, put_frame

from mlcak_hf.errors import DicomError
from mlcak_hf.radiographs.dicom import pixels as pixels_module
from mlcak_hf.radiographs.dicom.codestream import read_frame_header
from mlcak_hf.radiographs.dicom.pixels import READABLE_SYNTAXES, missing_decoder
from mlcak_hf.radiographs.read import read_radiograph

PLAIN = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
LOSSLESS = [
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
]
LOSSY = [JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K]
COMPRESSED = LOSSLESS + LOSSY
OPTIONAL = [JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless]


def keyword(value: object) -> str:
    """Name of a UID in test ids."""
    return pydicom.uid.UID(value).keyword if isinstance(value, str) else str(value)


def stored(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Stored values as shares of the range of the stored bits: what `voi="none"` has to give."""
    return (pixels.astype(np.float64) + (2 ** (bits - 1) if pixels.dtype.kind == "i" else 0)) / (2**bits - 1)


def test_all_families_are_here() -> None:
    assert sorted(READABLE_SYNTAXES) == sorted(PLAIN + COMPRESSED)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(np.uint8, 8), (np.int8, 8), (np.uint16, 10), (np.uint16, 12), (np.int16, 12), (np.uint16, 16), (np.int16, 16)],
)
@pytest.mark.parametrize("syntax", PLAIN + LOSSLESS, ids=keyword)
def test_lossless_families_are_exact(tmp_path, syntax, dtype, bits, photometric) -> None:
    pixels = chest(37, 33, bits, dtype)  # odd sizes: plain pixels get a padding byte
    image = read_radiograph(
        make_dicom(tmp_path / "x", pixels, bits=bits, syntax=syntax, photometric=photometric), voi="none"
    )
    expected = stored(pixels, bits)
    np.testing.assert_allclose(image, 1 - expected if photometric == "MONOCHROME1" else expected, atol=1e-6)


@pytest.mark.parametrize(
    ("syntax", "dtype", "bits", "steps"),
    [
        (JPEGBaseline8Bit, np.uint8, 8, 4),
        (JPEGExtended12Bit, np.uint8, 8, 4),
        (JPEGExtended12Bit, np.uint16, 12, 12),
        (JPEGLSNearLossless, np.uint8, 8, 2),
        (JPEGLSNearLossless, np.uint16, 12, 2),
        (JPEGLSNearLossless, np.uint16, 16, 2),
        (JPEG2000, np.uint8, 8, 12),
        (JPEG2000, np.uint16, 12, 200),
        (JPEG2000, np.int16, 12, 200),
        (HTJ2K, np.uint8, 8, 2),
        (HTJ2K, np.uint16, 16, 300),
        (HTJ2K, np.int16, 16, 300),
    ],
    ids=keyword,
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_lossy_families_are_near(tmp_path, syntax, dtype, bits, steps, photometric) -> None:
    # Half of the range: a codestream of 16 bits may lie a step beyond the 12 that are stored.
    smooth = chest(12, 10, bits - 1, dtype)
    pixels = np.repeat(np.repeat(smooth, 8, axis=0), 8, axis=1)
    image = read_radiograph(
        make_dicom(tmp_path / "x", pixels, bits=bits, syntax=syntax, photometric=photometric), voi="none"
    )
    expected = stored(pixels, bits)
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    assert np.abs(image - expected).max() * (2**bits - 1) <= steps + 0.01


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLSLossless], ids=keyword)
def test_signed_pixels_may_be_written_with_all_their_bits(tmp_path, syntax) -> None:
    """Some writers extend the sign of 12 bits to 16, and say 16 in the codestream."""
    pixels = chest(bits=12, dtype=np.int16)
    path = make_dicom(tmp_path / "x", pixels, bits=12, syntax=syntax)
    dataset = pydicom.dcmread(path)
    put_frame(dataset, encode_frame(pixels, 16, syntax))
    dataset.save_as(path)
    np.testing.assert_allclose(read_radiograph(path, voi="none"), stored(pixels, 12), atol=1e-6)


def test_a_codestream_that_denies_the_sign_holds_the_same_bits(tmp_path) -> None:
    """JPEG 2000 declares signs itself, and some writers leave that out."""
    pixels = chest(bits=12, dtype=np.int16)
    path = make_dicom(tmp_path / "x", pixels, bits=12, syntax=HTJ2KLossless)
    dataset = pydicom.dcmread(path)
    put_frame(dataset, encode_frame(pixels.view(np.uint16) & np.uint16(0xFFFF), 16, HTJ2KLossless))
    dataset.save_as(path)
    np.testing.assert_allclose(read_radiograph(path, voi="none"), stored(pixels, 12), atol=1e-6)


@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_bytes_in_big_endian_words_are_swapped(tmp_path, vr) -> None:
    pixels = chest(37, 33, 8, np.uint8)
    path = make_dicom(tmp_path / "x", pixels, syntax=ExplicitVRBigEndian)
    dataset = pydicom.dcmread(path)
    raw = pixels.tobytes() + b"\0"
    dataset["PixelData"].VR = vr
    dataset["PixelData"].value = np.frombuffer(raw, "<u2").astype(">u2").tobytes() if vr == "OW" else raw
    dataset.save_as(path)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, pixels)  # so it is the standard's own reading
    np.testing.assert_allclose(read_radiograph(path, voi="none"), stored(pixels, 8), atol=1e-6)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=keyword)
def test_what_a_codestream_declares_is_read_from_its_head(syntax) -> None:
    if syntax == RLELossless:
        return  # has none
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    pixels = chest(37, 33, bits, np.uint8 if bits == 8 else np.uint16)
    frame = encode_frame(pixels, bits, syntax) if "JPEG2000" not in keyword(syntax) else _jpeg_2000(pixels, bits)
    header = read_frame_header(frame)
    assert header is not None
    assert (header.rows, header.columns, header.components, header.tiles) == (37, 33, 1, 1)
    assert bits <= header.precision <= pixels.itemsize * 8
    for length in range(len(frame)):
        cut = read_frame_header(frame[:length])
        assert cut is None or replace(cut, levels=header.levels, reversible=header.reversible) == header


def _jpeg_2000(pixels: np.ndarray, bits: int) -> bytes:
    import openjpeg

    return bytes(openjpeg.encode(pixels, bits_stored=bits))


@pytest.mark.parametrize("syntax", COMPRESSED, ids=keyword)
def test_a_small_file_that_declares_a_huge_image_is_refused_before_decoding(tmp_path, monkeypatch, syntax) -> None:
    """200 KB that declare 30000 x 30000: in the DICOM header, in the codestream, in both."""
    for name in ("decode_frame", "decode_isolated", "decode_run_lengths"):
        monkeypatch.setattr(pixels_module, name, lambda *arguments: pytest.fail("was decoded"))
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    pixels = chest(bits=bits, dtype=np.uint8 if bits == 8 else np.uint16)
    for number, (in_header, in_frame) in enumerate([(30000, 48), (30000, 30000), (7000, 7000), (48, 30000)]):
        if syntax == RLELossless and in_header == 48:
            continue  # it declares no size of its own
        path = make_dicom(tmp_path / f"{number}.dicom", pixels, bits=bits, syntax=syntax)
        dataset = pydicom.dcmread(path)
        frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
        if in_header != 48:
            dataset.Rows = dataset.Columns = in_header
        if in_frame != 48 and syntax != RLELossless:
            frame = _declaring(frame, in_frame)
        put_frame(dataset, frame.ljust(4_000 if in_header == 7000 else 200_000, b"\0"))
        dataset.save_as(path)
        message = "30000 x 30000 pixels|cannot hold a radiograph of 7000 x 7000|compressed data 30000 x 30000"
        with pytest.raises(DicomError, match=message):
            read_radiograph(path)


def _declaring(frame: bytes, size: int) -> bytes:
    """The same codestream with another size in its head."""
    data = bytearray(frame)
    if data[:2] == b"\xff\xd8":
        at = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC1, 0xC3, 0xF7))
        data[at + 5 : at + 9] = 2 * size.to_bytes(2, "big")
    else:
        at = data.index(b"\xff\x4f\xff\x51")
        data[at + 8 : at + 16] = 2 * size.to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("syntax", [s for s in COMPRESSED if s != RLELossless], ids=keyword)
def test_a_codestream_that_is_cut_off_is_refused(tmp_path, syntax) -> None:
    """Decoders fill what is missing with grey, some without an error."""
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    path = make_dicom(
        tmp_path / "x.dicom", chest(bits=bits, dtype=np.uint8 if bits == 8 else np.uint16), bits=bits, syntax=syntax
    )
    dataset = pydicom.dcmread(path)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    put_frame(dataset, frame[: len(frame) * 2 // 3])
    dataset.save_as(path)
    with pytest.raises(DicomError, match="cut off"):
        read_radiograph(path)


@pytest.mark.parametrize("syntax", [s for s in COMPRESSED if s != RLELossless], ids=keyword)
def test_a_codestream_of_another_family_is_refused(tmp_path, syntax) -> None:
    path = make_dicom(tmp_path / "x.dicom", chest(), bits=12, syntax=syntax if syntax in (JPEG2000,) else JPEG2000)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    if READABLE_SYNTAXES[syntax] == READABLE_SYNTAXES[JPEG2000]:
        put_frame(dataset, encode_frame(chest(), 12, JPEGLossless))
    dataset.save_as(path)
    with pytest.raises(DicomError, match="as the header declares; it is JPEG"):
        read_radiograph(path)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (lambda colour: encode_frame(colour, 8, JPEGBaseline8Bit), "3 component"),
        (lambda colour: encode_frame(colour[..., 0], 8, JPEGLossless), "it is JPEG Lossless"),
        (lambda colour: b"\xff\xd8\xff\xd9", "it is unreadable"),
        (
            lambda colour: encode_frame(colour[..., 0], 8, JPEGBaseline8Bit).replace(b"\xff\xc0", b"\xff\xc2"),
            "it is unreadable",
        ),
    ],
    ids=["colour", "lossless", "no frame", "progressive"],
)
def test_a_jpeg_of_a_kind_that_the_header_does_not_declare_is_refused(tmp_path, frame, message) -> None:
    colour = np.stack([chest(bits=8, dtype=np.uint8)] * 3, axis=-1)
    path = make_dicom(tmp_path / "x.dicom", colour[..., 0].copy(), syntax=JPEGBaseline8Bit)
    dataset = pydicom.dcmread(path)
    put_frame(dataset, frame(colour))
    dataset.save_as(path)
    with pytest.raises(DicomError, match=message):
        read_radiograph(path)


def compressed_under_another_header(path, pixels, frame_bits, header_bits, syntax):
    make_dicom(path, pixels, bits=16 if pixels.itemsize == 2 else 8, syntax=ExplicitVRLittleEndian)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    put_frame(dataset, encode_frame(pixels, frame_bits, syntax))
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, header_bits, header_bits - 1
    dataset.save_as(path)
    return path


def test_an_8_bit_stream_under_a_12_bit_header_is_refused(tmp_path) -> None:
    pixels = chest(bits=8, dtype=np.uint8)
    path = compressed_under_another_header(tmp_path / "x.dicom", pixels, 8, 12, JPEGBaseline8Bit)
    with pytest.raises(DicomError, match="declares 12 bits stored, the compressed data 8"):
        read_radiograph(path)


@pytest.mark.parametrize(("excess", "refused"), [(5, False), (200, True)])
def test_a_small_overshoot_of_a_lossy_stream_is_clipped_and_a_gross_one_refused(tmp_path, excess, refused) -> None:
    pixels = np.full((64, 64), 1023 + excess, np.uint16)
    pixels[:32] = 100
    path = compressed_under_another_header(tmp_path / "x.dicom", pixels, 12, 10, JPEGExtended12Bit)
    if refused:
        with pytest.raises(DicomError, match="do not fit into the 10 bits"):
            read_radiograph(path)
    else:
        assert read_radiograph(path).max() == 1
        assert (read_radiograph(path)[48:] == 1).mean() > 0.9


def test_lossy_jpeg_has_no_signed_pixels(tmp_path) -> None:
    path = make_dicom(tmp_path / "x.dicom", chest(bits=8, dtype=np.int8), syntax=JPEGBaseline8Bit)
    with pytest.raises(DicomError, match="lossy JPEG of signed pixels"):
        read_radiograph(path)


def test_more_than_a_row_of_spare_bytes_means_that_rows_or_columns_are_wrong(tmp_path) -> None:
    path = make_dicom(tmp_path / "x.dicom", chest(), bits=12, Rows=40)
    with pytest.raises(DicomError, match="40 x 40 pixels of 16 bits are 3,200 bytes; got 3,840 bytes"):
        read_radiograph(path)


def _run_lengths(count: int = 2, starts: tuple[int, int] = (64, 192), length: int = 128) -> bytes:
    table = np.zeros(16, "<u4")
    table[0], table[1:3] = count, starts
    return table.tobytes() + b"\x7f" * 2 * length


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (_run_lengths(count=1), "of 1 segments"),
        (_run_lengths(starts=(64, 64)), "segment table"),
        (_run_lengths(starts=(0, 64)), "segment table"),
        (_run_lengths(starts=(192, 64)), "segment table"),
        (_run_lengths(starts=(64, 10**9)), "segment table"),
        (_run_lengths()[:40], "segment table"),
        (_run_lengths(), "ends after"),
    ],
)
def test_run_lengths_that_contradict_the_header_are_refused(tmp_path, frame, message) -> None:
    path = make_dicom(tmp_path / "x.dicom", chest(), bits=12, syntax=RLELossless)
    dataset = pydicom.dcmread(path)
    put_frame(dataset, frame)
    dataset.save_as(path)
    with pytest.raises(DicomError, match=message):
        read_radiograph(path)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=keyword)
def test_a_missing_decoder_comes_with_its_pip_line(tmp_path, monkeypatch, syntax) -> None:
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    pixels = chest(bits=bits, dtype=np.uint8 if bits == 8 else np.uint16)
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=bits, syntax=syntax)
    assert missing_decoder(syntax) is None
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "imagecodecs" else find(name))
    if syntax in OPTIONAL:
        assert missing_decoder(syntax) == "pip install imagecodecs"
        with pytest.raises(DicomError, match=r"^x\.dicom: No decoder for JPEG.* is installed. Run: pip install imagec"):
            read_radiograph(path)
    else:
        assert missing_decoder(syntax) is None
        assert read_radiograph(path).shape == pixels.shape


def test_no_installation_is_suggested_for_a_syntax_of_videos() -> None:
    assert missing_decoder(MPEG2MPML) is None
    assert MPEG2MPML not in READABLE_SYNTAXES
