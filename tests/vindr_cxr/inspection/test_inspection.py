"""`mlcak inspect` reports on folders in any state, and no damaged file stops it."""

from __future__ import annotations

import io
import json

import numpy as np
import pydicom
import pytest
from PIL import Image
from rich.console import Console
from vindr_factories import PATIENT_TAGS, chest, kaggle_row, make_dicom, make_kaggle, to_pictures, write_table

from mlcak_hf.errors import DatasetError
from mlcak_hf.vindr_cxr.inspection import inspect as module
from mlcak_hf.vindr_cxr.inspection.file_facts import FileFacts
from mlcak_hf.vindr_cxr.inspection.inspect import inspect_vindr_cxr
from mlcak_hf.vindr_cxr.inspection.inspection_report import Problem
from mlcak_hf.vindr_cxr.inspection.sample import SampledImage, choose_sample, estimate
from mlcak_hf.vindr_cxr.vindr_source import prepare_vindr_cxr


def inspect(folder, **options):
    return inspect_vindr_cxr(folder, **options)


def found(report, kind: str) -> list[str]:
    """Files of all problems of a kind."""
    return [file for problem in report.problems if problem.kind == kind for file in problem.files]


def printed(report) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200).print(*report.renderables())
    return stream.getvalue()


def test_a_sound_folder_is_described_and_not_changed(small_vindr) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_vindr.rglob("*")}
    report = inspect(small_vindr)
    assert before == {path: path.stat().st_mtime_ns for path in small_vindr.rglob("*")}
    assert (report.layout, len(report.files)) == ("physionet", 8)
    assert [problem.kind for problem in report.problems] == ["duplicates"] * 2  # the same seeds in train/ and test/
    train, test = report.counts["train"], report.counts["test"]
    assert (train.images, test.images) == (6, 2)
    assert (train.majority["Cardiomegaly"], train.some["Cardiomegaly"], test.majority["Cardiomegaly"]) == (1, 1, 1)
    assert (train.majority["Edema"], train.some["Edema"]) == (0, 2)
    assert (train.majority["No finding"], train.some["No finding"]) == (2, 4)
    assert report.agreement is not None
    assert report.agreement.readers_per_image == {3: 6}
    assert report.agreement.readers == 6
    assert report.agreement.labels["Other diseases"].fleiss == 1
    assert report.estimate is not None
    assert report.estimate.images == 8
    text = printed(report)
    for said in ("ExplicitVRLittleEndian", "Cohen", "6 readers, not the same", "Estimate for mlcak prepare --size 256"):
        assert said in text


def damage(folder) -> None:
    (folder / "train" / "a1.dicom").unlink()
    (folder / "train" / "a2.dicom").write_bytes(b"<html>")
    whole = (folder / "train" / "a3.dicom").read_bytes()
    (folder / "train" / "a3.dicom").write_bytes(whole[:-100])
    make_dicom(folder / "train" / "extra.dicom", chest(seed=77), bits=12)
    copy = pydicom.dcmread(folder / "train" / "a4.dicom")
    copy.PatientName = "Somebody^Else"
    copy.save_as(folder / "test" / "t2.dicom")
    table = folder / "annotations" / "annotations_train.csv"
    table.write_text(table.read_text().replace("1,2,3,4", "1,2,43.5,4"))


@pytest.mark.parametrize("num_proc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_damaged_folder_is_reported(small_vindr, num_proc) -> None:
    damage(small_vindr)
    report = inspect(small_vindr, num_proc=num_proc)
    assert [(p.text.split(",")[0], p.files) for p in report.problems if p.kind == "skipped"] == [
        ("image(s) named in image_labels_train.csv", ["train/a1"]), ("image(s) in train/", ["train/extra"]),
    ]  # fmt: skip
    assert set(found(report, "unreadable")) == {"train/a2.dicom", "train/a3.dicom"}
    assert found(report, "duplicates") == ["train/a4.dicom", "test/t2.dicom"]
    assert found(report, "boxes_outside") == ["train/a4.dicom (Consolidation of R5, 3.5 px)"]
    assert report.estimate is not None
    assert report.estimate.images == 5  # a4, a5, a6, t1, t2
    text = printed(report)
    for said in ("files with the same pixels, in train/ and in test/", "have a box that extends beyond the image"):
        assert said in text


def test_the_json_contains_everything_but_no_paths_or_patients(small_vindr, tmp_path) -> None:
    damage(small_vindr)
    report = inspect(small_vindr, json_file=tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    values = json.loads(text)
    assert [kind["files"] for kind in values["kinds"]] == [7, 1]
    assert values["kinds"][0] == {
        "transfer syntax": "ExplicitVRLittleEndian", "photometric": "MONOCHROME2", "files": 7, "unreadable": 1,
        "bits": [12, 12], "rows": [48, 48], "columns": [40, 40],
    }  # fmt: skip
    assert sum(file["num_bytes"] for file in values["files"]) == sum(
        p.stat().st_size for p in small_vindr.rglob("*.dicom")
    )
    assert len(values["files"]) == 8
    assert values["counts"]["test"]["images"] == 2
    assert values["agreement"]["labels"]["Edema"]["some"] >= 0
    assert values["estimate"]["num_proc"] == 1
    assert [problem["kind"] for problem in values["problems"]] == [problem.kind for problem in report.problems]
    assert set(values["sample"]) <= {file["file"] for file in values["files"]}
    for secret in (*PATIENT_TAGS.values(), "SECRET", "Somebody", str(tmp_path)):
        assert secret not in text
        assert secret not in printed(report)


@pytest.mark.parametrize("option", ["json_file", "contact_sheet"])
def test_output_files_that_cannot_be_written_are_reported_before_the_long_work(
    small_vindr, tmp_path, monkeypatch, option
) -> None:
    target = tmp_path / "out"
    inspect(small_vindr, **{option: target})
    assert target.stat().st_size > 0
    kept = target.read_bytes()
    monkeypatch.setattr(module, "file_facts", lambda path: pytest.fail("the folder was read before"))
    for wrong in (tmp_path, tmp_path / "nowhere" / "out", target / "out"):
        with pytest.raises(DatasetError, match=r"cannot be written \(.+\)\. Name a file in a folder that exists\."):
            inspect(small_vindr, **{option: wrong})
    with pytest.raises(DatasetError, match="nowhere"):
        inspect(small_vindr, json_file=target, contact_sheet=tmp_path / "nowhere" / "out")
    with pytest.raises(DatasetError, match="nowhere"):
        inspect(small_vindr, json_file=tmp_path / "new", contact_sheet=tmp_path / "nowhere" / "out")
    assert target.read_bytes() == kept
    assert not (tmp_path / "new").exists()


def test_files_are_reported_even_if_the_tables_cannot_be_used(small_vindr) -> None:
    table = small_vindr / "annotations" / "image_labels_train.csv"
    table.write_text(table.read_text().replace("Edema", "Edemma"))
    report = inspect(small_vindr)
    assert report.problems[0].kind == "tables"
    assert "Unknown label 'Edemma'" in report.problems[0].text
    assert len(report.files) == 8
    assert (report.counts, report.agreement) == ({}, None)
    assert report.estimate is not None
    assert "the tables cannot be used: image_labels_train.csv" in printed(report)


def test_a_folder_where_nothing_can_be_read(small_vindr, tmp_path) -> None:
    for path in small_vindr.glob("*/*.dicom"):
        path.write_bytes(b"cut off")
    report = inspect(small_vindr)
    assert len(found(report, "unreadable")) == 8
    assert report.estimate is None
    assert "cannot be estimated" in printed(report)
    with pytest.raises(DatasetError, match="A contact sheet needs at least one image"):
        inspect(small_vindr, contact_sheet=tmp_path / "sheet.png")
    for path in small_vindr.glob("*/*.dicom"):
        path.unlink()
    report = inspect(small_vindr)
    assert "train/ must hold radiographs" in report.problems[0].text
    assert "0 image files" in printed(report)
    with pytest.raises(DatasetError, match="must have a known layout"):
        inspect(tmp_path)


def test_damage_that_only_decoding_detects(small_vindr, tmp_path) -> None:
    path = small_vindr / "train" / "a1.dicom"
    make_dicom(path, chest(), bits=12, WindowCenter=100, WindowWidth=0)
    report = inspect(small_vindr, contact_sheet=tmp_path / "sheet.png")
    problem = report.problems[0]
    assert (problem.kind, problem.files) == ("unreadable", ["train/a1.dicom"])
    assert problem.text.startswith("Window Width is 0")
    assert report.files[0].problem is None


def test_kaggle_and_pictures(tmp_path) -> None:
    rows = [kaggle_row(f"k{n}", r, "ILD", (1, 2, 30 + n, 40)) for n in range(12) for r in ("R1", "R2")]
    root = make_kaggle(tmp_path / "k", rows)
    (root / "test").mkdir()
    make_dicom(root / "test" / "u.dicom", chest(), bits=12)
    to_pictures(root, 24, 20)
    write_table(tmp_path / "s.csv", ("image_id", "height", "width"), [[f"k{n}", 48, 40] for n in range(12)])
    report = inspect(root, sizes=tmp_path / "s.csv")
    assert (report.layout, {facts.syntax for facts in report.files}) == ("kaggle", {"PNG"})
    assert set(report.counts) == {"train"}
    assert "Edema" not in report.counts["train"].majority
    assert report.counts["train"].majority["ILD"] == 12
    assert found(report, "boxes_outside") == ["train/k11.png (ILD of R1, 1 px)", "train/k11.png (ILD of R2, 1 px)"]
    assert found(report, "reshaped") == []
    to_pictures(root, 24, 24)
    write_table(tmp_path / "t.csv", ("image_id", "height", "width"), [[f"k{n}", 48, 60] for n in range(12)])
    reshaped = inspect(root, sizes=tmp_path / "t.csv")
    assert len(found(reshaped, "reshaped")) == 12
    assert "JPEG image(s) with boxes have other proportions" in printed(reshaped)
    note = "file(s) of test/ have no labels on Kaggle and were not used"
    assert report.problems[-1] == Problem("table_notes", note, [], 1)
    assert "--sizes same" in inspect(root).problems[0].text
    assert len(inspect(root).files) == 12


def chest_like(height: int = 96, width: int = 80, inverted: bool = False) -> np.ndarray:
    """Dark corners and lungs, a bright spine and belly; 12 bit."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    picture = 0.75 + 0.2 * y - 0.6 * np.exp(-(((np.abs(x) - 0.5) / 0.25) ** 2) - ((y + 0.1) / 0.5) ** 2)
    picture[(np.abs(x) > 0.7) & (y < -0.5)] = 0.0
    values = np.rint(4095 * np.clip(picture, 0, 1)).astype(np.uint16)
    return 4095 - values if inverted else values


def test_radiographs_that_look_inverted_are_named_and_marked(small_vindr, tmp_path) -> None:
    for path in small_vindr.glob("*/*.dicom"):
        make_dicom(path, chest_like(inverted=path.stem == "a3"), bits=12)
    report = inspect(small_vindr, contact_sheet=tmp_path / "sheet.png")
    assert found(report, "inverted") == ["train/a3.dicom"]
    assert "of the 8 sampled: image(s) seem to be inverted" in printed(report)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    red = (np.abs(pixels - [0xC6, 0x28, 0x28]).max(axis=2) < 20).sum()
    assert red > 1000  # a frame and a headline
    with pytest.raises(DatasetError, match="cannot be written"):
        inspect(small_vindr, contact_sheet=tmp_path / "nowhere" / "sheet.png")


def test_12_bits_in_16_are_reported_with_the_remedy(tmp_path) -> None:
    rows = [kaggle_row(f"k{n}", "R1") for n in range(3)]
    root = make_kaggle(tmp_path / "k", rows)
    to_pictures(root, 48, 40)
    Image.fromarray(chest()).save(root / "train" / "k1.png")
    report = inspect(root, sizes="same")
    assert found(report, "underfilled_range") == ["train/k1.png"]
    assert "--value-range 0 4095" in printed(report)
    Image.fromarray(chest(bits=16)).save(root / "train" / "k1.png")
    assert "--value-range" not in printed(inspect(root, sizes="same"))


def test_a_window_that_misses_all_pixels_is_reported(small_vindr) -> None:
    make_dicom(small_vindr / "train" / "a3.dicom", chest_like(), bits=12, WindowCenter=60000, WindowWidth=10)
    report = inspect(small_vindr)
    assert found(report, "no_contrast") == ["train/a3.dicom"]
    assert "of the 8 sampled: image(s) have no usable contrast" in printed(report)


@pytest.mark.parametrize("suffix", [".dicom", ".png"])
def test_inspect_and_prepare_list_the_same_images_without_usable_contrast(tmp_path, suffix) -> None:
    root = make_kaggle(tmp_path / "k", [kaggle_row(f"k{n}", "R1") for n in range(8)])

    def replace(name: str, values: np.ndarray, **window: int) -> None:
        (root / "train" / f"{name}.dicom").unlink()
        path = root / "train" / f"{name}{suffix}"
        make_dicom(path, values, bits=16, **window) if suffix == ".dicom" else Image.fromarray(values).save(path)

    replace("k0", chest())  # 12 bits in 16
    if suffix == ".dicom":
        replace("k1", chest() + np.uint16(32768), WindowCenter=2048, WindowWidth=4096)  # the window misses all pixels
    else:
        replace("k1", np.full((48, 40), 30000, np.uint16))
    replace("k2", 2 * chest() + np.uint16(20000))  # an eighth of the range: low contrast, but real
    report = inspect(root)
    assert found(report, "underfilled_range") == [f"train/k0{suffix}"]
    assert found(report, "no_contrast") == [f"train/k1{suffix}"]
    prepared = prepare_vindr_cxr(root, tmp_path / "out", size_px=32)
    assert (prepared.suspect_images["underfilled_range"], prepared.suspect_images["no_contrast"]) == (["k0"], ["k1"])


def facts(name: str, syntax: str, **others) -> FileFacts:
    return FileFacts(f"train/{name}", syntax=syntax, bits=12, photometric="MONOCHROME2", **others)


def test_the_sample_is_spread_over_kinds() -> None:
    files = [facts(f"j{n}", "J") for n in range(100)] + [facts(f"r{n}", "R") for n in range(3)]
    files += [facts("bad", "B", problem="damaged"), facts("none", "N", problem="No decoder")]
    chosen = choose_sample(files, 9)
    assert [f.file.removeprefix("train/") for f in chosen] == [
        "j0",
        "j16",
        "j33",
        "j50",
        "j66",
        "j83",
        "r0",
        "r1",
        "r2",
    ]
    assert choose_sample(files[100:], 9) == files[100:103]
    assert choose_sample(files[103:], 9) == []
    assert choose_sample(files, 1) == files[:1]


def test_the_estimate_takes_each_syntax_from_its_own_images() -> None:
    files = [facts(f"j{n}", "J") for n in range(10)] + [facts(f"r{n}", "R") for n in range(5)] + [facts("x", "X")]
    sample = [
        SampledImage(files[0], b"1234", 2.0), SampledImage(files[1], b"12", 4.0),
        SampledImage(files[10], b"123456", 0.5), SampledImage(files[11], problem="damaged"),
    ]  # fmt: skip
    estimated = estimate(sample, files, 256, 2)
    assert estimated is not None
    assert (estimated.images, estimated.sampled) == (16, 3)
    assert estimated.duration_s == pytest.approx((10 * 3.0 + 5 * 0.5 + 1 * 2.0) / 2)  # medians; X from all of them
    assert estimated.num_bytes == 10 * 3 + 5 * 6 + 1 * 4
    assert estimate(sample[3:], files, 256, 2) is None


def test_the_estimated_disk_is_what_prepare_writes(small_vindr, tmp_path) -> None:
    """The sample contains all eight images here, so that nothing is extrapolated."""
    estimated = inspect(small_vindr).estimate
    assert estimated is not None
    report = prepare_vindr_cxr(small_vindr, tmp_path / "out")
    written = sum(path.stat().st_size for path in report.output_dir.rglob("*.parquet"))
    assert estimated.num_bytes < written < estimated.num_bytes + 200_000  # three Parquet files' own columns and footers
