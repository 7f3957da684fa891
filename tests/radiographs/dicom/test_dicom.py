"""DICOM to [0, 1]: every step against pydicom's own functions or a slow loop over the standard's formulas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from vindr_factories import chest, look_up_table, make_dicom

from mlcak_hf.errors import DicomError
from mlcak_hf.radiographs.dicom import header as header_module
from mlcak_hf.radiographs.dicom import pixels as pixels_module
from mlcak_hf.radiographs.read import read_radiograph

EXACT_SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
]
STORED = [
    (np.uint8, 8),
    (np.int8, 8),
    (np.uint16, 10),
    (np.uint16, 12),
    (np.int16, 12),
    (np.uint16, 15),
    (np.uint16, 16),
    (np.int16, 16),
]


def window_by_the_standard(x: float, center: float, width: float, function: str) -> float:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with ymin = 0 and ymax = 1, one value at a time."""
    if function == "SIGMOID":
        power = -4 * (x - center) / width
        return 0.0 if power > 700 else 1 / (1 + math.exp(power))
    if function == "LINEAR":
        if x <= center - 0.5 - (width - 1) / 2:
            return 0.0
        if x > center - 0.5 + (width - 1) / 2:
            return 1.0
        return (x - (center - 0.5)) / (width - 1) + 0.5
    if x <= center - width / 2:
        return 0.0
    return 1.0 if x > center + width / 2 else (x - center) / width + 0.5


def by_pydicom(path: Path) -> np.ndarray:
    """Modality and VOI by pydicom, its output range brought to [0, 1]."""
    dataset = pydicom.dcmread(path)
    out = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float64)
    if "VOILUTSequence" in dataset:
        return out / (2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    low, high = (0, 2**dataset.BitsStored - 1)
    if "ModalityLUTSequence" in dataset:
        high = 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    elif dataset.PixelRepresentation:
        low, high = -(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1
    if "RescaleSlope" in dataset:
        low, high = (v * dataset.RescaleSlope + dataset.RescaleIntercept for v in (low, high))
    return (out - float(low)) / (float(high) - float(low))


@pytest.mark.parametrize("syntax", EXACT_SYNTAXES, ids=lambda uid: pydicom.uid.UID(uid).keyword)
@pytest.mark.parametrize(("dtype", "bits"), STORED)
def test_every_syntax_and_depth_matches_pydicom_on_the_stored_values(tmp_path, syntax, dtype, bits) -> None:
    pixels = chest(bits=bits, dtype=dtype)
    extra: dict[str, Any] = {"WindowCenter": 20.5, "WindowWidth": 90, "RescaleSlope": 1.5, "RescaleIntercept": -7}
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=bits, syntax=syntax, **extra)
    plain = make_dicom(tmp_path / "plain.dicom", pixels, bits=bits, **extra)
    image = read_radiograph(path)
    assert image.dtype == np.float32
    assert image.shape == pixels.shape
    np.testing.assert_allclose(image, by_pydicom(plain), atol=1e-6)
    low, high = (0, 2**bits - 1) if np.dtype(dtype).kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    unscaled = (pixels.astype(np.float64) - low) / (high - low)
    np.testing.assert_allclose(read_radiograph(path, voi="none"), unscaled, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_lossy_jpeg_2000_stays_near(tmp_path, dtype) -> None:
    pixels = np.repeat(np.repeat(chest(40, 30, 12, dtype), 4, 0), 4, 1)
    image = read_radiograph(make_dicom(tmp_path / "x.dicom", pixels, bits=12, syntax=JPEG2000), voi="none")
    stored = (pixels.astype(np.float64) - (-2048 if dtype is np.int16 else 0)) / 4095
    assert np.abs(image - stored).mean() < 0.02


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (1000, 1), (900.5, 333.25), (-50, 200), (3000, 2)])
@pytest.mark.parametrize("slope", [1.0, 0.25, -2.0])
def test_windows_match_the_standard_value_by_value(tmp_path, function, center, width, slope) -> None:
    pixels = chest(20, 15)
    extra = {"VOILUTFunction": function} if function else {}
    path = make_dicom(
        tmp_path / "x.dicom",
        pixels,
        bits=12,
        WindowCenter=center,
        WindowWidth=width,
        RescaleSlope=slope,
        RescaleIntercept=10,
        **extra,
    )
    expected = [window_by_the_standard(int(v) * slope + 10, center, width, function or "LINEAR") for v in pixels.flat]
    np.testing.assert_allclose(read_radiograph(path).ravel(), expected, atol=1e-6)


def test_the_first_of_several_windows_counts(tmp_path) -> None:
    pixels = chest()
    several = make_dicom(tmp_path / "a.dicom", pixels, bits=12, WindowCenter=[900, 50], WindowWidth=[700, 10])
    one = make_dicom(tmp_path / "b.dicom", pixels, bits=12, WindowCenter=900, WindowWidth=700)
    np.testing.assert_array_equal(read_radiograph(several), read_radiograph(one))


def test_without_window_the_stored_bits_set_the_limits(tmp_path) -> None:
    pixels = np.array([[0, 100], [1000, 4095]], np.uint16)
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=12, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=None)
    for voi in ("dicom", "none"):
        np.testing.assert_allclose(
            read_radiograph(path, voi=voi), pixels / 4095, atol=1e-7
        )  # never the image's own range


def test_a_negative_slope_inverts_the_grey_values(tmp_path) -> None:
    pixels = chest()
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=12, RescaleSlope=-1, RescaleIntercept=4095)
    np.testing.assert_allclose(read_radiograph(path), 1 - pixels / 4095, atol=1e-6)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(("dtype", "first"), [(np.uint16, 0), (np.uint16, 500), (np.int16, -1800)])
def test_look_up_tables_match_pydicom(tmp_path, syntax, dtype, first) -> None:
    pixels = chest(bits=12, dtype=dtype)
    modality = look_up_table(list(range(0, 4000, 2)), first, 16)  # pydicom takes no other depth here
    voi = look_up_table([int(1023 * math.sqrt(i / 3999)) for i in range(4000)], 100, 10)
    path = make_dicom(
        tmp_path / "x.dicom", pixels, bits=12, syntax=syntax, ModalityLUTSequence=[modality], VOILUTSequence=[voi]
    )
    plain = make_dicom(tmp_path / "p.dicom", pixels, bits=12, ModalityLUTSequence=[modality], VOILUTSequence=[voi])
    # pydicom subtracts within 16 bits; in wider integers its tables are the standard's.
    dataset = pydicom.dcmread(plain)
    wide = apply_modality_lut(dataset.pixel_array.astype(np.int64), dataset).astype(np.int64)
    np.testing.assert_allclose(read_radiograph(path), apply_voi_lut(wide, dataset) / 1023, atol=1e-6)
    np.testing.assert_allclose(read_radiograph(path, voi="none"), wide / 4095, atol=1e-6)


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_the_range_of_a_lookup_table_comes_from_its_entries_not_from_its_declared_bits(tmp_path, keyword) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=12, **{keyword: [look_up_table(list(range(4096)), 0, 16)]})
    np.testing.assert_allclose(read_radiograph(path), pixels / 4095, atol=1e-6)


def test_a_voi_table_is_preferred_to_a_window_and_packed_bytes_are_read(tmp_path) -> None:
    pixels = chest(bits=8, dtype=np.uint8)
    entries = np.rint(255 * np.linspace(0, 1, 256) ** 2).astype(np.uint8)
    window = {"WindowCenter": 10, "WindowWidth": 5}
    packed = look_up_table(entries.tobytes(), 0, 8, count=256)
    words = look_up_table([int(v) for v in entries], 0, 8)
    for name, item in (("packed", packed), ("words", words)):
        path = make_dicom(tmp_path / f"{name}.dicom", pixels, VOILUTSequence=[item], **window)
        np.testing.assert_allclose(read_radiograph(path), entries[pixels] / 255, atol=1e-6)


@pytest.mark.parametrize("voi", ["dicom", "percentile", "none"])
def test_monochrome1_is_inverted_after_the_window(tmp_path, voi) -> None:
    """The same radiograph written both ways reads the same, with a window that is not symmetric."""
    pixels = chest()
    positive = make_dicom(tmp_path / "2.dicom", pixels, bits=12, WindowCenter=1500.5, WindowWidth=1001)
    inverse = make_dicom(
        tmp_path / "1.dicom",
        (4095 - pixels).astype(np.uint16),
        bits=12,
        photometric="MONOCHROME1",
        WindowCenter=4095 - 1500.5 + 1,  # LINEAR is centred half a value below its centre
        WindowWidth=1001,
    )
    np.testing.assert_allclose(read_radiograph(inverse, voi=voi), read_radiograph(positive, voi=voi), atol=1e-6)
    assert read_radiograph(positive, voi=voi).std() > 0.1


def test_bits_above_the_stored_ones_are_not_grey_values(tmp_path) -> None:
    """Old files keep overlays there (PS3.5 8.1.1)."""
    pixels = chest()
    overlay = pixels | np.uint16(0x3000)
    path, clean = (make_dicom(tmp_path / f"{n}.dicom", p, bits=12) for n, p in (("o", overlay), ("c", pixels)))
    np.testing.assert_array_equal(read_radiograph(path), read_radiograph(clean))


def test_a_codestream_with_more_bits_than_declared_is_refused(tmp_path) -> None:
    path = make_dicom(tmp_path / "x.dicom", chest(bits=16), syntax=JPEG2000Lossless)
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.save_as(path)
    with pytest.raises(DicomError, match=r"x\.dicom: The pixels do not fit into the 12 bits"):
        read_radiograph(path)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(("padding", "limit"), [(-2000, None), (-2000, -1990), (-1990, -2000)])
def test_padding_is_background_and_leaves_the_percentiles_alone(tmp_path, photometric, syntax, padding, limit) -> None:
    pixels = np.clip(chest(64, 64, 12, np.int16), -1900, None)
    framed = pixels.copy()
    framed[:, :20] = -2000
    framed[:, 20:22] = padding
    extra = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    path = make_dicom(
        tmp_path / "x.dicom",
        framed,
        bits=12,
        photometric=photometric,
        syntax=syntax,
        PixelPaddingValue=padding,
        **extra,
    )
    cropped = make_dicom(tmp_path / "c.dicom", framed[:, 22:].copy(), bits=12, photometric=photometric)
    image = read_radiograph(path, voi="percentile")
    assert not image[:, :22].any()
    assert not read_radiograph(path)[:, :22].any()
    assert np.abs(image[:, 22:] - read_radiograph(cropped, voi="percentile")).max() < 0.02


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "frames": ({"NumberOfFrames": 2}, "one frame; Number of Frames is 2. Export a single frame"),
    "no frames": ({"NumberOfFrames": 0}, "Number of Frames is 0. Export a single frame"),
    "empty modality table": ({"ModalityLUTSequence": [Dataset()]}, "Modality LUT has no complete LUT Descriptor"),
    "black table": ({"VOILUTSequence": [look_up_table([0, 0, 0], 0, 10)]}, "maps every value to 0"),
    "colour": ({"SamplesPerPixel": 3, "photometric": "RGB"}, "colour or palette image"),
    "palette": ({"photometric": "PALETTE COLOR"}, "colour or palette image"),
    "no pixels": ({"drop": ["PixelData"]}, "no pixel data"),
    "no syntax": ({"drop": ["TransferSyntaxUID"]}, "Transfer Syntax UID is missing.*Download"),
    "no rows": ({"drop": ["Rows"]}, "Rows is missing"),
    "no bits stored": ({"drop": ["BitsStored"]}, "BitsStored is missing"),
    "no signedness": ({"drop": ["PixelRepresentation"]}, "PixelRepresentation is missing"),
    "too many bits": ({"BitsStored": 17, "HighBit": 16}, "Bits Stored 17"),
    "high bit": ({"HighBit": 15}, "High Bit 15"),
    "more rows than data": (
        {"Rows": 400},
        "400 x 40 pixels of 16 bits are 32,000 bytes; got 3,840 bytes.*cut off",
    ),
    "too large": ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels"),
    "video": ({"syntax": MPEG2MPML}, "MPEG2"),
    "window of no width": ({"WindowCenter": 5, "WindowWidth": 0}, 'Window Width is 0.*voi="percentile"'),
    "half a window": ({"WindowCenter": 5}, "only one of Window Center"),
    "unknown function": (
        {"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"},
        "Function must be LINEAR, LINEAR_EXACT or SIGMOID",
    ),
    "half a rescale": ({"RescaleSlope": 2}, "only one of Rescale Slope"),
    "flat rescale": ({"RescaleSlope": 0, "RescaleIntercept": 3}, "leave no grey values"),
    "short table": ({"VOILUTSequence": [look_up_table([1, 2, 3], 0, 10, count=9)]}, "VOI LUT declares 9 entries"),
    "table beyond its bits": ({"VOILUTSequence": [look_up_table([1, 2, 3000], 0, 10)]}, "does not match"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_would_need_guessing_is_refused(tmp_path, case) -> None:
    arguments, message = CASES[case]
    path = make_dicom(tmp_path / "x.dicom", chest(), bits=12, **arguments)
    with pytest.raises(DicomError, match=rf"^x\.dicom: .*{message}") as raised:
        read_radiograph(path)
    assert "SECRET" not in str(raised.value)


def test_a_codestream_of_another_size_is_refused_before_decoding(tmp_path, monkeypatch) -> None:
    path = make_dicom(tmp_path / "x.dicom", chest(), bits=12, syntax=JPEG2000Lossless)
    dataset = pydicom.dcmread(path)
    dataset.Rows = 49
    dataset.save_as(path)
    monkeypatch.setattr(pixels_module, "decode_frame", lambda *arguments: pytest.fail("was decoded"))
    with pytest.raises(DicomError, match=r"declares 49 x 40 pixels, the compressed data 48 x 40"):
        read_radiograph(path)


def test_a_few_bytes_that_claim_a_huge_image_are_not_decoded(tmp_path, monkeypatch) -> None:
    path = make_dicom(tmp_path / "x.dicom", chest(), bits=12, syntax=JPEG2000Lossless)
    dataset = pydicom.dcmread(path)
    start = dataset.PixelData.index(b"\xff\x4f\xff\x51")
    big = (7000).to_bytes(4, "big")
    dataset.PixelData = dataset.PixelData[: start + 8] + big + big + dataset.PixelData[start + 16 :]
    dataset.Rows = dataset.Columns = 7000
    dataset.save_as(path)
    monkeypatch.setattr(pixels_module, "decode_frame", lambda *arguments: pytest.fail("was decoded"))
    with pytest.raises(DicomError, match="compressed bytes cannot hold a radiograph of 7000 x 7000"):
        read_radiograph(path)


def test_a_deflate_bomb_is_not_inflated(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(header_module, "_MAX_INFLATED", 100_000)
    path = make_dicom(tmp_path / "x.dicom", np.zeros((400, 400), np.uint16), syntax=DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 5000
    with pytest.raises(DicomError, match="expands to more than"):
        read_radiograph(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 128 + b"DICM", b"\0" * 200])
def test_files_that_are_not_dicom_are_refused(tmp_path, content) -> None:
    path = tmp_path / "x.dicom"
    path.write_bytes(content)
    with pytest.raises(DicomError, match=r"^x\.dicom: "):
        read_radiograph(path)


def test_run_lengths_that_look_like_another_codestream_are_pixels(tmp_path) -> None:
    """RLE has no header: a bright edge over noise once happened to spell JPEG 2000's start of codestream."""
    pixels = chest(bits=8, dtype=np.uint8)
    pixels[0, :24] = [0xFF, 0x4F, 0xFF, 0x51, *range(20)]
    path = make_dicom(tmp_path / "x.dicom", pixels, syntax=RLELossless)
    assert b"\xff\x4f\xff\x51" in path.read_bytes()
    np.testing.assert_array_equal(np.rint(read_radiograph(path, voi="none") * 255), pixels)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_damaged_files_give_an_image_or_one_clear_error(tmp_path, syntax) -> None:
    """Bytes changed, cut off or repeated anywhere: never another exception, never a patient's name in the message."""
    whole = make_dicom(
        tmp_path / "w.dicom", chest(), bits=12, syntax=syntax, WindowCenter=5, WindowWidth=9
    ).read_bytes()
    rng, path, refused = np.random.default_rng(0), tmp_path / "x.dicom", 0
    for trial in range(100):
        data = bytearray(whole[: rng.integers(len(whole))] if trial % 4 == 0 else whole)
        for position in rng.integers(132, len(data), size=rng.integers(1, 8)) if len(data) > 132 else ():
            data[position] = rng.integers(256)
        path.write_bytes(bytes(data))
        try:
            image, message = read_radiograph(path), None
        except DicomError as error:
            image, message = np.zeros((1, 1)), str(error)
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert image.max() <= 1
        if message is not None:
            refused += 1
            assert message.startswith("x.dicom: ")
            assert "SECRET" not in message
    assert refused > 20


def test_whatever_a_decoder_raises_is_an_unreadable_file_but_ctrl_c_is_not(tmp_path, monkeypatch) -> None:
    path = make_dicom(tmp_path / "x.dicom", chest(), bits=12, syntax=JPEG2000Lossless)

    def fail(error: type[BaseException]) -> None:
        def raise_it(*args: Any, **kwargs: Any) -> None:
            raise error("SECRET")

        monkeypatch.setattr(pixels_module, "decode_frame", raise_it)

    fail(ArithmeticError)
    with pytest.raises(DicomError, match="ArithmeticError") as raised:
        read_radiograph(path)
    assert "SECRET" not in str(raised.value)
    fail(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        read_radiograph(path)
    fail(MemoryError)  # the machine's trouble, not the file's
    with pytest.raises(MemoryError):
        read_radiograph(path)


def test_patients_tags_are_never_read(tmp_path, monkeypatch) -> None:
    seen: list[pydicom.Dataset] = []
    check = header_module.check_layout
    monkeypatch.setattr(header_module, "check_layout", lambda dataset: seen.append(dataset) or check(dataset))
    read_radiograph(make_dicom(tmp_path / "x.dicom", chest(), bits=12))
    assert "SECRET" not in str(seen[0])
    assert "PatientName" not in seen[0]


def test_an_unknown_voi_is_refused(tmp_path) -> None:
    with pytest.raises(DicomError, match="voi must be 'dicom', 'percentile' or 'none'; got 'minmax'"):
        read_radiograph(tmp_path / "x.dicom", voi="minmax")  # type: ignore[arg-type]
