"""Any file to [0, 1]: sizes, padding, percentiles taken once, PNG and JPEG."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from vindr_factories import chest, make_dicom, png_of_16_bits

from mlcak_hf.errors import DicomError, MLCAKError
from mlcak_hf.image_processing_mlcak import map_boxes
from mlcak_hf.radiographs import png_jpeg as png_jpeg_module
from mlcak_hf.radiographs.read import RadiographNotFoundError, read_radiograph, read_with_facts


def slow_area_average(image: np.ndarray, size: int) -> np.ndarray:
    """Average of what each new pixel covers, by enlarging each axis to a common multiple first."""
    for _ in range(2):
        fine = np.repeat(image.astype(np.float64), size, 0)
        image = fine.reshape(size, image.shape[0], image.shape[1]).mean(1).T
    return image


@pytest.fixture
def wide_picture() -> np.ndarray:
    """12 bits, 24 x 40."""
    return chest(24, 40)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_dark_after_polarity(tmp_path, wide_picture, photometric) -> None:
    path = make_dicom(tmp_path / "x.dicom", wide_picture, bits=12, photometric=photometric)
    full = read_radiograph(path)
    assert full.shape == (24, 40)
    padded = np.zeros((40, 40), np.float32)
    padded[8:32] = full
    np.testing.assert_allclose(read_radiograph(path, 28), slow_area_average(padded, 28), atol=1e-6)
    assert not read_radiograph(path, 40)[:8].any()
    assert not read_radiograph(path, 40)[32:].any()


def test_squash_uses_the_whole_square(tmp_path, wide_picture) -> None:
    path = make_dicom(tmp_path / "x.dicom", wide_picture, bits=12)
    image = read_radiograph(path, 28, fit="squash")
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, slow_area_average(wide_picture / 4095, 28), atol=1e-6)


def test_boxes_follow_the_image(tmp_path) -> None:
    """A bright rectangle is where the mapping of boxes puts it."""
    pixels = np.zeros((60, 100), np.uint8)
    pixels[12:30, 40:70] = 255
    path = make_dicom(tmp_path / "x.dicom", pixels)
    for fit in ("pad", "squash"):
        x0, y0, x1, y1 = map_boxes(np.array([[40, 12, 70, 30]], float), (60, 100), (50, 50), fit)[0]
        rows, columns = np.nonzero(read_radiograph(path, 50, fit=fit) > 0.5)
        assert abs(columns.min() - x0) <= 1
        assert abs(columns.max() + 1 - x1) <= 1
        assert abs(rows.min() - y0) <= 1
        assert abs(rows.max() + 1 - y1) <= 1


@pytest.mark.parametrize("suffix", ["dicom", "png"])
def test_percentiles_are_taken_once_and_reused_for_every_size(tmp_path, suffix) -> None:
    pixels = chest(512, 320)
    path = tmp_path / f"x.{suffix}"
    if suffix == "dicom":
        make_dicom(path, pixels, bits=12, WindowCenter=100, WindowWidth=20)
    else:
        Image.fromarray((pixels * 16).astype(np.uint16)).save(path)
    stored = pixels / 4095 if suffix == "dicom" else pixels.astype(np.uint16) * 16 / 65535
    reference = stored.reshape(256, 2, 160, 2).mean((1, 3))
    low, high = np.percentile(reference, (1, 99))
    expected = np.clip((stored - low) / (high - low), 0, 1)
    np.testing.assert_allclose(read_radiograph(path, voi="percentile"), expected, atol=2e-5)
    for size in (224, 112, 56, 28):
        padded = np.pad(expected, ((0, 0), (96, 96)))
        small = read_radiograph(path, size, voi="percentile")
        np.testing.assert_allclose(small, slow_area_average(padded, size), atol=2e-5)


def test_a_hot_pixel_does_not_set_the_contrast(tmp_path) -> None:
    calm = (chest(256, 256) // 4 + 500).astype(np.uint16)
    hot = calm.copy()
    hot[3, 5], hot[100, 7] = 4095, 0
    images = [
        read_radiograph(make_dicom(tmp_path / f"{n}.dicom", p, bits=12), voi="percentile")
        for n, p in enumerate((calm, hot))
    ]
    difference = np.abs(images[0] - images[1])
    difference[3, 5] = difference[100, 7] = 0
    assert difference.max() < 1e-3


def test_small_and_large_files_of_one_picture_get_the_same_limits(tmp_path) -> None:
    pixels = chest(64, 48)
    large = np.repeat(np.repeat(pixels, 8, 0), 8, 1)
    small, big = (
        read_radiograph(make_dicom(tmp_path / f"{p.shape[0]}.dicom", p, bits=12), 16, voi="percentile")
        for p in (pixels, large)
    )
    np.testing.assert_allclose(small, big, atol=1e-5)


def test_an_empty_exposure_has_no_percentiles(tmp_path) -> None:
    path = make_dicom(tmp_path / "x.dicom", np.full((30, 30), 7, np.uint16), bits=12)
    with pytest.raises(DicomError, match=r"x\.dicom: .*nearly empty.*voi="):
        read_radiograph(path, voi="percentile")
    assert read_radiograph(path).shape == (30, 30)
    Image.new("L", (30, 30), 7).save(tmp_path / "x.png")
    with pytest.raises(DicomError, match=r"x\.png: .*nearly empty"):
        read_radiograph(tmp_path / "x.png", voi="percentile")


def test_png_uses_the_full_range_of_its_depth(tmp_path) -> None:
    ramp16 = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    ramp8 = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(ramp16).save(tmp_path / "16.png")
    Image.fromarray(ramp8).save(tmp_path / "8.png")
    np.testing.assert_allclose(read_radiograph(tmp_path / "16.png"), ramp16 / 65535, atol=1e-7)
    np.testing.assert_allclose(read_radiograph(tmp_path / "8.png"), ramp8 / 255, atol=1e-7)
    for voi in ("dicom", "none"):  # a picture has no window
        assert read_radiograph(tmp_path / "16.png", voi=voi).max() == 1


def test_twelve_bits_in_a_16_bit_png_keep_every_grey_level(tmp_path) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "12.png")
    image = read_radiograph(tmp_path / "12.png", value_range=(0, 4095))
    np.testing.assert_array_equal(image, (ramp / 4095).astype(np.float32))
    dicom = make_dicom(tmp_path / "x.dicom", ramp, bits=12)
    np.testing.assert_array_equal(image, read_radiograph(dicom, voi="none"))
    stretched = read_radiograph(tmp_path / "12.png", voi="percentile", value_range=(0, 4095))
    np.testing.assert_allclose(stretched, read_radiograph(dicom, voi="percentile"), atol=1e-6)
    narrow = read_radiograph(tmp_path / "12.png", value_range=(1000.5, 3000))
    np.testing.assert_allclose(narrow, np.clip((ramp - 1000.5) / 1999.5, 0, 1), atol=1e-7)
    resized = read_with_facts(tmp_path / "12.png", 32, value_range=(0, 4095))
    np.testing.assert_allclose(resized.pixels, slow_area_average(ramp / 4095, 32), atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_a_value_range_of_every_kind_of_picture(tmp_path, mode) -> None:
    stored = np.where(np.eye(8), 1, 0) if mode == "1" else chest(20, 30, bits=8, dtype=np.uint8)
    grey = Image.fromarray(stored.astype(bool) if mode == "1" else stored)
    (grey if mode in "L1" else grey.convert(mode)).save(tmp_path / "x.png")
    image = read_radiograph(tmp_path / "x.png", value_range=(50, 200))
    np.testing.assert_allclose(image, np.clip((stored - 50.0) / 150, 0, 1), atol=1e-6)


def test_underfilled_16_bit_conversions_are_reported(tmp_path) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for name, values in {"12": ramp, "13": ramp * 2 + 1, "16": ramp * 16, "8": (ramp // 16).astype(np.uint8)}.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    underfilled = {name: read_with_facts(tmp_path / f"{name}.png", 32).underfilled for name in ("12", "13", "16", "8")}
    assert underfilled == {"12": True, "13": True, "16": False, "8": False}
    assert not read_with_facts(tmp_path / "12.png", 32, value_range=(0, 4095)).underfilled
    assert not read_with_facts(tmp_path / "12.png", 32, voi="percentile").underfilled
    assert not read_with_facts(make_dicom(tmp_path / "x.dicom", ramp, bits=12), 32).underfilled


@pytest.mark.parametrize("size_px", [None, 64])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_value_range_applies_to_a_dicom_without_a_window(tmp_path, size_px, photometric) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    path = make_dicom(tmp_path / "x.dicom", ramp, bits=16, photometric=photometric)
    expected = ramp / 4095 if photometric == "MONOCHROME2" else 1 - ramp / 4095
    np.testing.assert_allclose(read_radiograph(path, size_px, value_range=(0, 4095)), expected, atol=1e-6)
    windowed = make_dicom(tmp_path / "w.dicom", ramp, bits=16, WindowCenter=1000, WindowWidth=500)
    np.testing.assert_array_equal(read_radiograph(windowed, value_range=(0, 4095)), read_radiograph(windowed))


@pytest.mark.parametrize("value_range", [(5, 5), (9, 0), (0, float("nan")), (0, float("inf")), (1,)])
def test_a_wrong_value_range_is_refused(tmp_path, value_range) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "x.png")
    with pytest.raises(DicomError, match=r"two ascending finite numbers, such as .*; got"):
        read_radiograph(tmp_path / "x.png", value_range=value_range)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_png_of_other_modes_is_its_luminance(tmp_path, mode) -> None:
    grey = Image.fromarray(chest(20, 30, bits=8, dtype=np.uint8))
    grey.convert(mode).save(tmp_path / "x.png")
    expected = np.asarray(grey.convert("1") if mode == "1" else grey).astype(float)
    expected = expected if mode == "1" else expected / 255
    np.testing.assert_allclose(read_radiograph(tmp_path / "x.png"), expected, atol=1e-6)


@pytest.mark.parametrize(("colour_type", "told"), [(2, "RGB"), (4, "grey with alpha"), (6, "RGB with alpha")])
def test_colours_of_16_bits_are_refused_as_half_of_them_would_be_lost(tmp_path, colour_type, told) -> None:
    path = png_of_16_bits(tmp_path / "x.png", colour_type)
    with pytest.raises(DicomError, match=rf"x\.png: .*must be grey; this one is {told}\. Save it as 16-bit grey"):
        read_radiograph(path)
    with pytest.raises(DicomError, match="16-bit grey"):
        read_radiograph(path, 8)
    np.testing.assert_allclose(read_radiograph(png_of_16_bits(path, 0)), 0x1234 / 65535)


def test_colour_is_weighted_as_the_eye_does(tmp_path) -> None:
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "x.png")
    np.testing.assert_allclose(read_radiograph(tmp_path / "x.png"), 0.299, atol=1e-3)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_is_read_as_its_luminance(tmp_path, mode) -> None:
    grey = Image.fromarray(np.asarray(chest(64, 48, bits=8, dtype=np.uint8)))
    grey.convert(mode).save(tmp_path / "x.jpg", quality=98)
    image = read_radiograph(tmp_path / "x.jpg")
    assert image.shape == (64, 48)
    assert np.abs(image - np.asarray(grey) / 255).mean() < 0.02


def test_the_content_counts_not_the_name(tmp_path) -> None:
    pixels = chest(24, 40)
    dicom = make_dicom(tmp_path / "x.png", pixels, bits=12)
    np.testing.assert_allclose(read_radiograph(dicom), pixels / 4095, atol=1e-6)
    Image.new("L", (5, 4), 51).save(tmp_path / "x.dicom", format="PNG")
    np.testing.assert_allclose(read_radiograph(tmp_path / "x.dicom"), 0.2)


def test_a_missing_file_is_also_a_file_not_found_error(tmp_path) -> None:
    with pytest.raises(RadiographNotFoundError, match="The file does not exist") as raised:
        read_radiograph(tmp_path / "none.dicom")
    assert str(tmp_path) not in str(raised.value), "reasons are kept in datasets, and a folder may name a person"
    assert isinstance(raised.value, FileNotFoundError)
    assert isinstance(raised.value, MLCAKError)


def test_a_folder_is_not_a_radiograph(tmp_path) -> None:
    with pytest.raises(DicomError, match="cannot be opened") as raised:
        read_radiograph(tmp_path)
    assert str(tmp_path) not in str(raised.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_damaged_pictures_give_one_clear_error(tmp_path, suffix) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(chest(200, 200, bits=8, dtype=np.uint8)).save(path)
    data = path.read_bytes()
    for length in (12, 40, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(DicomError, match=rf"x\.{suffix}: Cannot read this PNG or JPEG"):
            read_radiograph(path)


def test_pictures_that_are_not_radiographs_are_refused(tmp_path, monkeypatch) -> None:
    frames = [Image.new("L", (9, 9), v) for v in (1, 200)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DicomError, match="2 frame"):
        read_radiograph(tmp_path / "moving.png")
    Image.new("CMYK", (9, 9)).save(tmp_path / "print.jpg")
    with pytest.raises(DicomError, match="colour mode CMYK"):
        read_radiograph(tmp_path / "print.jpg")
    monkeypatch.setattr(png_jpeg_module, "MAX_PIXELS", 80)
    with pytest.raises(DicomError, match="at most 80 pixels; got 9 x 9"):
        read_radiograph(tmp_path / "print.jpg")


def test_unknown_choices_are_refused(tmp_path) -> None:
    path = make_dicom(tmp_path / "x.dicom", chest(), bits=12)
    for arguments, message in (
        ({"fit": "crop"}, "fit must be 'pad' or 'squash'"),
        ({"voi": "minmax"}, "voi must be 'dicom', 'percentile' or 'none'"),
        ({"size_px": 0}, "size_px must be at least 1"),
    ):
        with pytest.raises(DicomError, match=message):
            read_radiograph(path, **arguments)


def test_real_radiographs_show_bright_bone_on_dark_air(shared_data) -> None:
    """Either polarity and syntax: the mediastinum is brighter than the lungs on either side, in nearly every image."""
    files = sorted((shared_data / "nih-in-vindr-layout" / "test").glob("*.dicom"))[:40]
    images = np.stack([read_radiograph(f, 32) for f in files])
    middle = images[:, 8:20, 14:18].mean((1, 2))
    lungs = (images[:, 8:20, 7:10].mean((1, 2)) + images[:, 8:20, 22:25].mean((1, 2))) / 2
    assert (middle > lungs).mean() > 0.9
