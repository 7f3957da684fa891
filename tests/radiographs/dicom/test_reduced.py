"""The short way through the low-pass samples of JPEG 2000: the same image as the long way, or not taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, JPEG2000Lossless, JPEG2000MCLossless
from vindr_factories import look_up_table, make_dicom

from mlcak_hf.errors import DicomError
from mlcak_hf.radiographs.dicom.codestream import FrameHeader, decode_low_pass, read_frame_header
from mlcak_hf.radiographs.dicom.header import read_header
from mlcak_hf.radiographs.dicom.reduced import read_reduced
from mlcak_hf.radiographs.read import read_radiograph, resize_radiograph

HEIGHT, WIDTH = 1103, 1050  # neither is a multiple of 4 or 8


def large_chest(bits: int = 12, dtype: type = np.uint16, low: float = 0.1, high: float = 0.9) -> np.ndarray:
    """A smooth picture with some noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    picture = 0.5 + 0.4 * np.sin(6 * x) * np.cos(5 * y) + 0.01 * rng.standard_normal((HEIGHT, WIDTH))
    values = np.rint(np.clip(low + (high - low) * picture, 0, 1) * (2**bits - 1)).astype(np.int64)
    return (values - 2 ** (bits - 1) if np.dtype(dtype).kind == "i" else values).astype(dtype)


@pytest.fixture(scope="module")
def lossless(tmp_path_factory) -> Path:
    return make_dicom(tmp_path_factory.mktemp("j2k") / "x.dicom", large_chest(), bits=12, syntax=JPEG2000Lossless)


def rewritten(source: Path, path: Path, **elements: Any) -> Path:
    """The same pixels under another header."""
    dataset = pydicom.dcmread(source)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
        if keyword == "PixelPaddingValue":
            dataset[keyword].VR = "US"
    dataset.save_as(path)
    return path


def took_the_short_way(path: Path, size_px: int, voi: str = "dicom") -> bool:
    with path.open("rb") as stream:
        return read_reduced(read_header(stream, voi), size_px, "pad", voi) is not None  # type: ignore[arg-type]


def check_agreement(path: Path, size_px: int, voi: str = "dicom", fit: str = "pad") -> None:
    small = read_radiograph(path, size_px=size_px, voi=voi, fit=fit)  # type: ignore[arg-type]
    expected = resize_radiograph(read_radiograph(path, voi=voi), size_px, fit)  # type: ignore[arg-type]
    difference = small - expected
    assert small.dtype == np.float32
    assert 0 <= small.min() <= small.max() <= 1
    assert np.abs(difference).max() * 255 <= 8
    assert -20 * np.log10(np.sqrt(np.mean(difference**2)) + 1e-9) >= 52


@pytest.mark.parametrize("size_px", [224, 112, 56, 28])
@pytest.mark.parametrize("voi", ["dicom", "percentile", "none"])
@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_the_reduced_image_agrees_with_full_decoding(lossless, size_px, voi, fit) -> None:
    assert took_the_short_way(lossless, size_px, voi) or voi == "percentile"
    check_agreement(lossless, size_px, voi, fit)


@pytest.mark.parametrize(
    ("dtype", "bits", "syntax", "photometric"),
    [
        (np.int16, 12, JPEG2000Lossless, "MONOCHROME2"),
        (np.uint16, 16, JPEG2000Lossless, "MONOCHROME1"),
        (np.uint8, 8, JPEG2000Lossless, "MONOCHROME2"),
        (np.int8, 8, JPEG2000Lossless, "MONOCHROME1"),
        (np.uint16, 10, JPEG2000, "MONOCHROME1"),
        (np.int16, 14, JPEG2000, "MONOCHROME2"),
    ],
)
def test_every_kind_of_sample(tmp_path, dtype, bits, syntax, photometric) -> None:
    pixels = large_chest(bits, dtype)
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=bits, photometric=photometric, syntax=syntax)
    assert took_the_short_way(path, 224)
    check_agreement(path, 224)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 2048, "WindowWidth": 4096},
        {"WindowCenter": 2047.5, "WindowWidth": 4095, "VOILUTFunction": "LINEAR_EXACT"},
        {"RescaleSlope": -2, "RescaleIntercept": 100},
        {"RescaleSlope": 0.5, "RescaleIntercept": -1024, "WindowCenter": 0, "WindowWidth": 2048},
        {"WindowCenter": 1500, "WindowWidth": 1200},
        {"WindowCenter": 3300, "WindowWidth": 300},
    ],
)
def test_the_reduced_image_agrees_whatever_the_window(lossless, tmp_path, elements) -> None:
    path = rewritten(lossless, tmp_path / "x.dicom", **elements)
    for size_px in (224, 56):
        check_agreement(path, size_px)
    if elements.get("WindowWidth", 4096) >= 2048:
        assert took_the_short_way(path, 224)


@pytest.mark.parametrize(
    "elements",
    [
        {"PixelPaddingValue": 0},
        {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 2048, "WindowWidth": 1},
        {"VOILUTSequence": [look_up_table(list(range(256)), 0, 8)]},
        {"ModalityLUTSequence": [look_up_table(list(range(4096)), 0, 12)]},
    ],
)
def test_images_with_a_nonlinear_grey_scale_are_decoded_in_full(lossless, tmp_path, elements) -> None:
    path = rewritten(lossless, tmp_path / "x.dicom", **elements)
    assert not took_the_short_way(path, 56)
    expected = resize_radiograph(read_radiograph(path), 56)
    np.testing.assert_allclose(read_radiograph(path, size_px=56), expected, atol=1e-6)


def test_small_images_are_decoded_in_full(tmp_path) -> None:
    pixels = large_chest()[:1020, :1020]
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=12, syntax=JPEG2000Lossless)
    assert not took_the_short_way(path, 28)


def test_a_sharp_border_is_decoded_at_a_larger_size(tmp_path) -> None:
    pixels = large_chest()
    pixels[:97], pixels[:, -83:] = 0, 4095
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=12, syntax=JPEG2000Lossless)
    assert not took_the_short_way(path, 224)
    assert took_the_short_way(path, 28)
    for size_px in (224, 112, 56, 28):
        check_agreement(path, size_px)


def test_damaged_data_is_decoded_in_full(lossless, tmp_path, monkeypatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError("broken data stream")

    monkeypatch.setattr("mlcak_hf.radiographs.dicom.reduced.decode_low_pass", fail)
    expected = resize_radiograph(read_radiograph(lossless), 56)
    np.testing.assert_allclose(read_radiograph(lossless, size_px=56), expected, atol=1e-6)


def test_a_codestream_that_contradicts_its_header_is_refused(lossless, tmp_path) -> None:
    path = rewritten(lossless, tmp_path / "x.dicom", BitsStored=13, HighBit=12)
    with pytest.raises(DicomError, match="declares 13 bits stored, the compressed data 12"):
        read_radiograph(path, size_px=56)


def test_the_codestream_header_is_read(lossless) -> None:
    frame = get_frame(pydicom.dcmread(lossless).PixelData, 0, number_of_frames=1)
    expected = FrameHeader("JPEG 2000", HEIGHT, WIDTH, 1, 12, levels=5, reversible=True)
    assert read_frame_header(frame) == expected
    assert read_frame_header(b"\0" * 12 + frame) == replace(expected, bare=False)  # in a JP2 file
    for end in (0, 10, 44):
        assert read_frame_header(frame[:end]) is None
    assert read_frame_header(b"\xff\xd8\xff\xe0") is None
    for position, value in ((19, 1), (41, 3), (43, 2)):  # origin, components, sampling
        header = read_frame_header(frame[:position] + bytes([value]) + frame[position + 1 :])
        assert header is not None
        assert header.levels == 0, "must be decoded in full"
    assert read_frame_header(frame[:60]).levels == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_low_pass_samples_of_a_constant_are_the_constant(tmp_path, reduction) -> None:
    path = make_dicom(tmp_path / "x.dicom", np.full((77, 93), -700, np.int16), bits=12, syntax=JPEG2000Lossless)
    frame = get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
    header = read_frame_header(frame)
    assert header is not None
    samples = decode_low_pass(frame, header, reduction)
    assert samples.shape == (-(-77 // 2**reduction), -(-93 // 2**reduction))
    assert (samples == -700).all()


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint16, 12), (np.int16, 12), (np.uint8, 8), (np.uint16, 16)])
@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_low_pass_samples_beside_an_edge_are_not_clipped(tmp_path, dtype, bits, reduction) -> None:
    """Their sum is that of the pixels; decoders clip it unless one more bit is declared."""
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if np.dtype(dtype).kind == "i" else (0, (1 << bits) - 1)
    pixels = np.full((128, 128), low, dtype)
    pixels[41:87, 43:85] = high
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=bits, syntax=JPEG2000Lossless)
    frame = get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
    header = read_frame_header(frame)
    assert header is not None
    samples = decode_low_pass(frame, header, reduction)
    wrapped = decode_low_pass(frame, replace(header, bare=False), reduction)  # as without the additional bit
    np.testing.assert_array_equal(np.clip(samples, low, high), wrapped)
    assert header.clipped == (bits == 16) == (samples.min() >= low) == (samples.max() <= high)
    if bits < 16:
        mean = np.mean(pixels, dtype=np.float64)
        assert abs(samples.mean() - mean) < abs(wrapped.mean() - mean) / 4 + 1


def test_a_truncated_file_is_refused(lossless, tmp_path) -> None:
    dataset = pydicom.dcmread(lossless)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 3]])
    dataset.save_as(tmp_path / "x.dicom")
    with pytest.raises(DicomError, match="The compressed data is cut off"):
        read_radiograph(tmp_path / "x.dicom", size_px=56)


def test_uncompressed_files_give_the_same_without_a_full_grey_image(tmp_path) -> None:
    pixels = large_chest(14)
    path = make_dicom(
        tmp_path / "x.dicom", pixels, bits=14, syntax=ExplicitVRLittleEndian, WindowCenter=9000, WindowWidth=3000
    )
    expected = resize_radiograph(read_radiograph(path), 112)
    np.testing.assert_allclose(read_radiograph(path, size_px=112), expected, atol=1e-6)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEG2000])
@pytest.mark.parametrize("noise", [0.002, 0.008])
@pytest.mark.parametrize("share", [0.15, 0.5])
def test_noise_at_a_limit_of_the_window_is_clipped_before_it_is_averaged(tmp_path, syntax, noise, share) -> None:
    """An unexposed area at the limit: the low-pass samples show only a part of its noise."""
    rng = np.random.default_rng(1)
    x = np.linspace(0, 1, WIDTH)[None] * np.ones((HEIGHT, 1))
    picture = np.where(x < share, 0.375, 0.4 + 0.15 * (x - share)) + noise * rng.standard_normal((HEIGHT, WIDTH))
    pixels = np.rint(np.clip(picture, 0, 1) * 4095).astype(np.uint16)
    window = {"WindowCenter": 2048, "WindowWidth": 1024}
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=12, syntax=syntax, **window)
    for size_px in (112, 56, 28):
        check_agreement(path, size_px)
    if (noise, share, syntax) == (0.002, 0.15, JPEG2000Lossless):
        assert took_the_short_way(path, 28), "little noise changes little"


@pytest.mark.parametrize("slope", [1, -1])
@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
def test_8_bits_are_not_brightened_by_the_rounding_of_the_wavelet(tmp_path, noise, slope) -> None:
    """The 5/3 wavelet rounds down: with noise, every level is half a stored value brighter."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    smooth = 128 + 60 * np.sin(6 * x) * np.cos(5 * y) + noise * rng.standard_normal((HEIGHT, WIDTH))
    path = make_dicom(
        tmp_path / "x.dicom", np.rint(smooth).astype(np.uint8), bits=8, syntax=JPEG2000Lossless, RescaleSlope=slope,
        RescaleIntercept=0,
    )  # fmt: skip
    for size_px in (112, 56, 28):
        assert took_the_short_way(path, size_px)
        check_agreement(path, size_px)


def test_the_ringing_at_a_saturated_marker_is_estimated(tmp_path) -> None:
    """Decoders keep low-pass samples within the stored range: beside a marker of the highest value they lose some."""
    pixels = np.full((HEIGHT, WIDTH), 600, np.uint16)
    pixels[100:120, 300:600] = pixels[136:156, 300:600] = pixels[400:480, 100:160] = 4095
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=12, syntax=JPEG2000Lossless)
    for size_px in (224, 112, 56, 28):
        check_agreement(path, size_px)


@pytest.mark.parametrize("size_px", [None, 28])
def test_multi_component_jpeg_2000_is_refused_with_its_name_whatever_the_size(lossless, tmp_path, size_px) -> None:
    dataset = pydicom.dcmread(lossless)
    dataset.file_meta.TransferSyntaxUID = JPEG2000MCLossless
    dataset.save_as(tmp_path / "x.dicom")
    with pytest.raises(DicomError, match=r"Part 2 Multi-component .* Convert the file to Explicit VR Little Endian"):
        read_radiograph(tmp_path / "x.dicom", size_px=size_px)


@pytest.mark.parametrize("size_px", [None, 28])
def test_a_faulty_window_is_named_whatever_the_size(lossless, tmp_path, size_px) -> None:
    path = rewritten(lossless, tmp_path / "x.dicom", WindowCenter="1717", WindowWidth="1024")
    path.write_bytes(path.read_bytes().replace(b"1717", b"dark", 1))
    with pytest.raises(DicomError, match="window does not hold numbers"):
        read_radiograph(path, size_px=size_px)
