"""Inputs that are not upright frontal chest radiographs are noticed, and real radiographs are not."""

import numpy as np
import pydicom
import pytest
from PIL import Image

from mlcak_hf.radiographs.read import read_radiograph
from mlcak_hf.trust.input_checks import file_warnings, image_warnings


@pytest.fixture(scope="module")
def chests(shared_data):
    files = sorted((shared_data / "nih-in-vindr-layout").rglob("*.dicom"))[::20]
    return [read_radiograph(file, 64, "squash") for file in files]


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda image: 1 - image, 0.95),
        (lambda image: image[::-1], 0.9),
        (np.rot90, 0.9),
        (lambda image: np.rot90(image, 3), 0.9),
    ],
)
def test_changed_radiographs_are_found(chests, change, least) -> None:
    assert (
        np.mean([image_warnings(change(image)) == ["looks inverted, upside down or turned"] for image in chests])
        >= least
    )


def test_real_radiographs_are_not_warned_of(chests) -> None:
    assert np.mean([image_warnings(image) == [] for image in chests]) >= 0.97


def test_flat_images_and_noise_are_always_found() -> None:
    assert image_warnings(np.full((64, 64), 0.4, np.float32)) == ["no contrast"]
    assert image_warnings(np.random.default_rng(0).random((64, 64), np.float32)) == ["noise"]


def test_colour_size_shape_and_header_are_noticed(tmp_path) -> None:
    colours = np.zeros((100, 100, 3), np.uint8)
    colours[..., 0] = 200
    Image.fromarray(colours).save(tmp_path / "colour.png")
    assert file_warnings(tmp_path / "colour.png", (100, 100)) == ["in colour"]
    Image.fromarray(colours[..., 1]).save(tmp_path / "grey.png")
    assert file_warnings(tmp_path / "grey.png", (100, 100)) == []
    assert file_warnings(tmp_path / "grey.png", (16, 40)) == ["too small (40 x 16 px)", "extreme shape (40 x 16 px)"]
    header = pydicom.Dataset()
    header.Modality, header.BodyPartExamined, header.PatientName = "CT", "HEAD", "Somebody"
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.save_as(tmp_path / "ct.dcm")
    found = file_warnings(tmp_path / "ct.dcm", (512, 512))
    assert [text.split("(")[1] for text in found] == ["Modality CT)", "BodyPartExamined HEAD)"]
