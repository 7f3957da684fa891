"""What seems wrong with images and their boxes is told in record, card and terminal; nothing is changed by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image
from vindr_factories import make_dicom

from mlcak_hf.cli.prepare import print_preparation
from mlcak_hf.errors import DicomError
from mlcak_hf.preparation.report import PreparationReport
from mlcak_hf.radiographs.read import read_radiograph
from mlcak_hf.vindr_cxr.builder import load_vindr_cxr
from mlcak_hf.vindr_cxr.vindr_source import prepare_vindr_cxr

IMAGES = ("a1", "a2", "a3", "a4", "a5", "a6", "t1", "t2")


@pytest.fixture
def prepare(small_vindr, tmp_path):
    """`prepare_vindr_cxr` from the small folder to `out`."""

    def call(**choices) -> PreparationReport:
        return prepare_vindr_cxr(small_vindr, tmp_path / "out", **{"validation_fraction": 0.2} | choices)

    return call


def load(folder, tmp_path):
    return load_dataset(str(folder), cache_dir=str(tmp_path / "load"))


def test_images_that_seem_inverted_are_listed_and_left_as_they_are(prepare, small_vindr, tmp_path) -> None:
    plain = load(prepare().output_dir, tmp_path)["train"]
    y, x = np.mgrid[-1:1:60j, -1:1:60j]
    lungs = np.exp(-(((np.abs(x) - 0.45) / 0.22) ** 2) - ((y + 0.1) / 0.45) ** 2)
    upright = np.rint(4095 * np.clip(0.75 - 0.7 * lungs + 0.15 * y, 0, 1)).astype(np.uint16)
    for image_id in ("a1", "a2", "a3", "a4", "a5", "a6"):
        make_dicom(
            small_vindr / "train" / f"{image_id}.dicom", upright if image_id != "a3" else 4095 - upright, bits=12
        )
    report = prepare(overwrite=True)
    inverted = report.suspect_images["inverted"]
    assert inverted == PreparationReport.read(report.output_dir).suspect_images["inverted"]
    assert [image_id for image_id in inverted if image_id.startswith("a")] == ["a3"]
    assert "seem to be inverted" in (report.output_dir / "README.md").read_text()
    assert len(plain) == len(load(report.output_dir, tmp_path)["train"])


def as_pictures(folder: Path, height: int, width: int, bits: int = 8) -> None:
    """Replace the DICOM files by PNG files whose values end at 2**bits - 1, in 8 or 16 bits."""
    for path in [*folder.glob("train/*.dicom"), *folder.glob("test/*.dicom")]:
        grey = read_radiograph(path)[:height, :width] * np.float32(2**bits - 1)
        Image.fromarray(np.rint(grey).astype(np.uint8 if bits == 8 else np.uint16)).save(path.with_suffix(".png"))
        path.unlink()


def printed(report: PreparationReport, capsys) -> str:
    print_preparation(report)
    return " ".join(capsys.readouterr().out.split())


def test_boxes_beyond_the_image_are_reported(prepare, small_vindr, tmp_path, capsys) -> None:
    as_pictures(small_vindr, 24, 20)  # smaller than the boxes' images, which the user denies
    report = prepare(sizes="same")
    assert (
        report.suspect_images["boxes_outside"]
        == ["a2", "t2"]
        == PreparationReport.read(tmp_path / "out").suspect_images["boxes_outside"]
    )
    assert "- 2 image(s) have a box that extends beyond the image" in (tmp_path / "out" / "README.md").read_text()
    assert "Suspect images: 2 image(s) have a box that extends beyond the image" in printed(report, capsys)


def test_conversions_of_other_proportions_are_reported(prepare, small_vindr, tmp_path) -> None:
    as_pictures(small_vindr, 40, 40)
    sizes = tmp_path / "sizes.csv"
    sizes.write_text("image_id,height,width\n" + "\n".join(f"{i},48,40" for i in IMAGES))
    report = prepare(sizes=sizes)
    assert sorted(report.suspect_images["reshaped"]) == ["a2", "a3", "a4", "a5", "t2"]  # those with boxes
    assert not report.suspect_images["boxes_outside"]


def test_twelve_bits_in_sixteen_need_a_range(prepare, small_vindr, tmp_path, capsys) -> None:
    expected = load(prepare(bits=16).output_dir, tmp_path)
    as_pictures(small_vindr, 48, 40, bits=12)
    underfilled = prepare(bits=16, sizes="same", overwrite=True)
    assert sorted(underfilled.suspect_images["underfilled_range"]) == sorted(IMAGES)
    assert "--value-range 0 4095" in printed(underfilled, capsys)
    report = prepare(bits=16, sizes="same", value_range=(0, 4095), overwrite=True)
    assert not report.suspect_images["underfilled_range"]
    assert report.choices["value_range"] == [0, 4095]
    assert "stored values 0 to 4095\n" in (tmp_path / "out" / "README.md").read_text()
    found = load(report.output_dir, tmp_path)
    for split in ("train", "validation", "test"):
        for ours, theirs in zip(expected[split]["image"], found[split]["image"], strict=True):
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_a_value_range_means_the_same_when_preparing_and_when_loading(prepare, small_vindr, tmp_path) -> None:
    as_pictures(small_vindr, 48, 40, bits=12)
    choices = {"sizes": "same", "value_range": (0, 4095)}
    prepared = load(prepare(**choices).output_dir, tmp_path)
    direct = load_vindr_cxr(small_vindr, cache_dir=tmp_path / "direct", validation_fraction=0.2, **choices)
    for split in ("train", "validation", "test"):
        assert prepared[split].with_format("arrow")[:].equals(direct[split].with_format("arrow")[:])


def test_a_range_that_goes_down_is_refused(prepare) -> None:
    with pytest.raises(DicomError, match="value_range"):
        prepare(value_range=(4095, 0))


def test_a_picture_named_as_a_dicom_file_is_refused(prepare, small_vindr) -> None:
    path = small_vindr / "train" / "a3.dicom"
    Image.fromarray(np.full((24, 20), 100, np.uint8)).save(path, format="PNG")
    with pytest.raises(DicomError, match=r"a3\.dicom: the file is a PNG or JPEG image with the name of a DICOM file"):
        prepare()
    assert [record.image_id for record in prepare(on_error="skip").skipped] == ["a3"]
