"""Properties of single files, and every kind of damage that can be detected without decoding."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from PIL import Image
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
from vindr_factories import PATIENT_TAGS, chest, make_dicom, png_of_16_bits

from mlcak_hf.vindr_cxr.inspection import file_facts as module
from mlcak_hf.vindr_cxr.inspection.file_facts import file_facts, pixel_digest

NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
COMPRESSED = [JPEG2000Lossless, JPEG2000, RLELossless]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "train").mkdir()
    return tmp_path / "train" / "a.dicom"


@pytest.mark.parametrize("syntax", [*NATIVE, *COMPRESSED])
@pytest.mark.parametrize("bits", [8, 12])
def test_properties_of_a_sound_file(path, syntax, bits) -> None:
    make_dicom(path, chest(bits=bits, dtype=np.uint8 if bits == 8 else np.uint16), bits=bits, syntax=syntax)
    facts = file_facts(path)
    assert facts.problem is None
    assert (facts.file, facts.num_bytes) == ("train/a.dicom", path.stat().st_size)
    assert facts.syntax == pydicom.uid.UID(syntax).keyword
    assert (facts.bits, facts.rows, facts.columns, facts.photometric) == (bits, 48, 40, "MONOCHROME2")


@pytest.mark.parametrize("syntax", [*NATIVE, *COMPRESSED])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_a_truncated_file_has_a_problem(path, syntax, share) -> None:
    make_dicom(path, chest(), bits=12, syntax=syntax)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    facts = file_facts(path)
    assert facts.problem is not None
    assert facts.num_bytes == int(share * len(whole))


def test_deflated_files_are_read_whole(path) -> None:
    make_dicom(path, chest(), bits=12)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    assert file_facts(path).problem is None
    path.write_bytes(path.read_bytes()[:-400])
    assert file_facts(path).problem is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": ["PixelData"]}, "the file has no pixel data"),
        ({"drop": ["TransferSyntaxUID"]}, "Transfer Syntax UID is missing"),
        ({"drop": ["Rows"]}, "Rows is missing"),
        ({"Rows": 49}, "49 x 40 pixels of 16 bits are 3,920 bytes; got 3,840 bytes"),
        ({"Rows": 46}, "46 x 40 pixels of 16 bits are 3,680 bytes; got 3,840 bytes"),
        ({"Rows": 49, "syntax": JPEG2000Lossless}, "declares 49 x 40 pixels, the compressed data 48 x 40"),
        ({"photometric": "PALETTE COLOR"}, "colour or palette image"),
        ({"NumberOfFrames": 3}, "Number of Frames is 3"),
        ({"syntax": MPEG2MPML}, "must be that of a readable still image"),
    ],
)
def test_headers_that_contradict_or_are_refused(path, options, message) -> None:
    rows = options.pop("Rows", None)
    make_dicom(path, chest(), bits=12, **options)
    if rows:
        dataset = pydicom.dcmread(path)
        dataset.Rows = rows
        dataset.save_as(path)
    assert message in str(file_facts(path).problem)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "HTML page"),
        (b"%PDF-1.7\n", "it is a PDF file"),
        (b"PK\x03\x04", "it is a ZIP file"),
        (b"image_id,label\n", "it is a text file"),
        (b"\0" * 4000, "is damaged"),
        (b"\xff\xd8" * 60, "is damaged"),
    ],
)
def test_files_that_are_not_images(path, content, reason) -> None:
    path.write_bytes(content)
    assert reason in str(file_facts(path).problem)


def test_links_permissions_and_folders_are_problems(path, monkeypatch) -> None:
    path.symlink_to("nowhere")
    assert file_facts(path).problem == "The file is a broken link. Restore it."
    path.unlink()
    path.symlink_to(path.name)
    assert "symbolic links" in str(file_facts(path).problem)
    path.unlink()
    path.mkdir()
    assert "cannot be opened" in str(file_facts(path).problem)

    def refuse(self, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert file_facts(path).problem == "The file cannot be opened (Permission denied). Check its permissions."


def test_a_16_bit_colour_png(path) -> None:
    facts = file_facts(png_of_16_bits(path.with_suffix(".png"), 2))
    assert "Save it as 16-bit grey" in str(facts.problem)
    assert (facts.syntax, facts.bits, facts.rows, facts.columns) == ("PNG", 16, 4, 5)


@pytest.mark.parametrize(("suffix", "mode"), [(".png", "L"), (".png", "I;16"), (".jpg", "L"), (".png", "RGB")])
def test_png_and_jpeg(path, suffix, mode) -> None:
    path = path.with_suffix(suffix)
    grey = Image.fromarray(chest(bits=16 if mode == "I;16" else 8, dtype=np.uint16 if mode == "I;16" else np.uint8))
    (grey if mode != "RGB" else grey.convert("RGB")).save(path)
    facts = file_facts(path)
    assert facts.problem is None
    assert (facts.syntax, facts.rows, facts.columns) == ("PNG" if suffix == ".png" else "JPEG", 48, 40)
    assert facts.bits == (16 if mode == "I;16" else 8)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "ends too early" in str(file_facts(path).problem)
    path.write_bytes(whole)
    path.rename(path.with_suffix(".dicom"))
    assert ", but its name ends in .dicom" in str(file_facts(path.with_suffix(".dicom")).problem)


def test_the_same_pixels_under_another_header(path, tmp_path) -> None:
    make_dicom(path, chest(), bits=12)
    other = make_dicom(path.with_name("b.dicom"), chest(), bits=12, PatientID="SOMEONE-ELSE-WITH-A-LONGER-ID")
    different = make_dicom(path.with_name("c.dicom"), chest(seed=1), bits=12)
    first, second, third = (file_facts(p) for p in (path, other, different))
    assert first.num_bytes != second.num_bytes
    assert first.tail == second.tail != third.tail
    assert pixel_digest(tmp_path, first) == pixel_digest(tmp_path, second)
    assert pixel_digest(tmp_path, first) != pixel_digest(tmp_path, third)


def test_a_missing_decoder_is_named_with_its_pip_line(path, monkeypatch) -> None:
    make_dicom(path, chest(), bits=12, syntax=RLELossless)
    monkeypatch.setattr(module, "missing_decoder", lambda syntax: f"pip install for-{syntax}")
    problem = file_facts(path).problem
    assert problem == f"No decoder of this transfer syntax is installed. Run: pip install for-{RLELossless}."


def test_facts_contain_no_patient_data(path) -> None:
    make_dicom(path, chest(), bits=12)
    damaged = path.with_name("d.dicom")
    data = path.read_bytes()
    damaged.write_bytes(data.replace(b"SECRET^Jane", b"SECRET^\xff\xfe\xfd\xfc"))
    misplaced = make_dicom(path.with_name("e.dicom"), chest(), bits=12, photometric="SECRET^Jane")
    unknown = make_dicom(path.with_name("f.dicom"), chest(), bits=12)
    unknown.write_bytes(unknown.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.777777777.77.77\0"))
    assert file_facts(unknown).syntax == "unknown UID"
    told = repr([file_facts(p) for p in (path, damaged, misplaced, unknown)])
    assert "777777777" not in told
    assert not any(secret in told for secret in [*PATIENT_TAGS.values(), "SECRET"])
