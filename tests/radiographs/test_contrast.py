"""Images whose grey values cannot be used are marked, in every format alike; low contrast is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless
from vindr_factories import make_dicom

from mlcak_hf.radiographs.read import read_with_facts

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
SIZES = pytest.mark.parametrize("size_px", [None, 28])


def large(pixels: np.ndarray) -> np.ndarray:
    """The same pixels enlarged, so that reduced decoding is used."""
    return np.repeat(np.repeat(pixels, 17, 0), 17, 1)


@SIZES
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_12_bits_in_16_without_a_window_are_underfilled(tmp_path, size_px, photometric, syntax) -> None:
    path = make_dicom(tmp_path / "x.dicom", large(RAMP), photometric=photometric, syntax=syntax)
    assert "--value-range 0 4095" in str(read_with_facts(path, size_px).contrast_problem)
    assert read_with_facts(path, size_px, value_range=(0, 4095)).contrast_problem is None
    assert read_with_facts(path, size_px, voi="percentile").contrast_problem is None


def test_signed_12_bits_in_16_are_underfilled_and_padding_does_not_count(tmp_path) -> None:
    pixels = RAMP.astype(np.int16) - 1024
    pixels[:8] = -32000
    assert read_with_facts(make_dicom(tmp_path / "x.dicom", pixels, PixelPaddingValue=-32000)).underfilled
    assert not read_with_facts(make_dicom(tmp_path / "y.dicom", pixels)).underfilled


@SIZES
@pytest.mark.parametrize("center", [2048, 60000])
@pytest.mark.parametrize("shape", [(64, 64), (64, 32), (61, 40), (12, 64)])
def test_a_window_that_misses_all_pixels_leaves_no_contrast(tmp_path, size_px, center, shape) -> None:
    pixels = RAMP[: shape[0], : shape[1]] + np.uint16(32768)
    path = make_dicom(tmp_path / "x.dicom", pixels, WindowCenter=center, WindowWidth=4096)
    assert read_with_facts(path, size_px).no_contrast
    assert 'voi="percentile"' in str(read_with_facts(path, size_px).contrast_problem)
    assert read_with_facts(path, size_px, voi="percentile").contrast_problem is None


@SIZES
def test_a_flat_png_has_no_contrast(tmp_path, size_px) -> None:
    Image.new("L", (90, 60), 130).save(tmp_path / "x.png")
    assert read_with_facts(tmp_path / "x.png", size_px).no_contrast


@SIZES
def test_low_contrast_is_not_marked(tmp_path, size_px) -> None:
    pixels = (RAMP // 6 + 1200).astype(np.uint16)
    assert read_with_facts(make_dicom(tmp_path / "x.dicom", pixels, bits=12), size_px).contrast_problem is None
    Image.fromarray((pixels >> 4).astype(np.uint8)).save(tmp_path / "x.png")
    assert read_with_facts(tmp_path / "x.png", size_px).contrast_problem is None


def test_no_real_radiograph_is_marked(shared_data: Path) -> None:
    files = sorted((shared_data / "nih-in-vindr-layout" / "test").glob("*.dicom"))[:40]
    assert not [file for file in files if read_with_facts(file, 28).contrast_problem]
