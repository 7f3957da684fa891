"""The layouts that people have: Kaggle's, PNG and JPEG conversions, incomplete folders; and telling them apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from vindr_factories import KAGGLE_HEADER, chest, kaggle_row, make_dicom, make_kaggle, to_pictures, write_table

from mlcak_hf.configuration_mlcak import VINDR_CXR_FINDINGS
from mlcak_hf.errors import DatasetError, LabelError
from mlcak_hf.preparation.report import PreparationReport
from mlcak_hf.vindr_cxr.builder import VinDrCXR, load_vindr_cxr
from mlcak_hf.vindr_cxr.label_tables import KAGGLE_LABELS
from mlcak_hf.vindr_cxr.layout import detect_layout, read_layout
from mlcak_hf.vindr_cxr.options import VinDrOptions
from mlcak_hf.vindr_cxr.vindr_source import VinDrSource, prepare_vindr_cxr

NEVER_ON_KAGGLE = {
    "Clavicle fracture", "Edema", "Emphysema", "Enlarged PA", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Rib fracture",
}  # fmt: skip


def kaggle_rows() -> list[list]:
    """Twelve images, three readers each: k00 and every third one is abnormal for two of them."""
    rows = []
    for n in range(12):
        for reader in ("R1", "R2", "R3"):
            if n % 3 == 0 and reader != "R3":
                rows.append(kaggle_row(f"k{n:02}", reader, "Cardiomegaly", (5, 20, 25, 35)))
                rows.append(kaggle_row(f"k{n:02}", reader, "ILD", (1, 2, 11, 12)))
                rows.append(kaggle_row(f"k{n:02}", reader, "ILD", (20, 2, 31, 12)))
            else:
                rows.append(kaggle_row(f"k{n:02}", reader))
    return rows


@pytest.fixture
def kaggle(tmp_path):
    return make_kaggle(tmp_path / "kaggle", kaggle_rows())


def test_kaggle_rows_become_readings(kaggle, tmp_path) -> None:
    dataset = load_vindr_cxr(kaggle, cache_dir=tmp_path / "c", validation_fraction=0.2)
    rows = {row["image_id"]: row for split in dataset.values() for row in split}
    assert sorted(rows) == [f"k{n:02}" for n in range(12)]
    for image_id, row in rows.items():
        abnormal = int(image_id[1:]) % 3 == 0
        assert row["label"] == abnormal
        assert row["num_readers"] == 3
        assert {name for name, value in row["findings"].items() if value == -1} == NEVER_ON_KAGGLE
        assert {name for name, value in row["findings"].items() if value == 1} == (
            {"Cardiomegaly", "ILD"} if abnormal else set()
        )
        assert row["global_labels"] == {
            "COPD": -1, "Lung tumor": -1, "Pneumonia": -1, "Tuberculosis": -1, "Other diseases": -1,
            "No finding": 1 - abnormal,
        }  # fmt: skip
        assert len(row["boxes"]) == (6 if abnormal else 0)
        assert row["votes"]["ILD"] == (2 if abnormal else 0)
        assert row["votes"]["Edema"] == -1
    assert set(KAGGLE_LABELS) == set(VINDR_CXR_FINDINGS) - NEVER_ON_KAGGLE | {"No finding"}


def test_kaggle_sets_a_test_split_aside_alike_for_every_seed(kaggle) -> None:
    def ids(**choices) -> dict[str, set[str]]:
        images = VinDrSource(kaggle, VinDrOptions(**choices)).read().splits
        return {name: {record.image_id for record in records} for name, records in images.items()}

    first, second = ids(seed=0, test_fraction=0.3), ids(seed=1, test_fraction=0.3)
    assert {name: len(split) for name, split in first.items()} == {"train": 7, "validation": 1, "test": 4}
    assert first["test"] == second["test"]
    assert set().union(*first.values()) == {f"k{n:02}" for n in range(12)}
    assert ids(validation_fraction=0.4, seed=0)["validation"] != ids(validation_fraction=0.4, seed=1)["validation"]
    assert len(ids()["test"]) == 2  # 0.15 of 12
    assert set(ids(test_fraction=0)) == {"train", "validation"}
    choices = VinDrSource(kaggle).options.choices()
    assert (choices["layout"], choices["test_fraction"]) == ("kaggle", 0.15)
    assert tuple(choices["annotated"]) == tuple(n for n in (*VINDR_CXR_FINDINGS, "No finding") if n in KAGGLE_LABELS)


def test_kaggle_groups_stay_whole_in_the_test_split(kaggle, tmp_path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("image_id,group_id\n" + "".join(f"k{n:02},P{n // 2}\n" for n in range(12)))
    options = VinDrOptions(groups=groups, test_fraction=0.3, validation_fraction=0.3)
    images = VinDrSource(kaggle, options).read().splits
    seen = [{record.group for record in records} for records in images.values()]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 6
    assert len(images["test"]) == 4


def test_choices_that_do_not_suit_the_layout_are_refused(kaggle, small_vindr) -> None:
    with pytest.raises(DatasetError, match="test_fraction is only for Kaggle's layout"):
        VinDrSource(small_vindr, VinDrOptions(test_fraction=0.1))
    with pytest.raises(DatasetError, match="test_fraction must be at least 0 and less than 1; got 1"):
        VinDrSource(kaggle, VinDrOptions(test_fraction=1))
    with pytest.raises(LabelError, match=r"train\.csv never annotated Edema, Pneumonia"):
        VinDrSource(kaggle, VinDrOptions(annotated=["Edema", "Pneumonia", "ILD"]))
    assert VinDrSource(kaggle, VinDrOptions(annotated=["ILD"])).options.choices()["annotated"] == ["ILD", "No finding"]


def test_every_image_of_kaggle_is_accounted_for(kaggle, tmp_path) -> None:
    (kaggle / "test").mkdir()
    for n in range(3):
        make_dicom(kaggle / "test" / f"u{n}.dicom", chest(), bits=12)
    (kaggle / "train" / "k01.dicom").unlink()
    (kaggle / "train" / "k02.dicom").write_bytes(b"cut off")
    with pytest.raises(DatasetError, match=r"1 image\(s\) named in train\.csv, but without a file in train/: k01\."):
        prepare_vindr_cxr(kaggle, tmp_path / "out")
    report = prepare_vindr_cxr(kaggle, tmp_path / "out", on_error="skip", test_fraction=0.3)
    assert report.sources == {"train": {"found": 12, "used": 10, "skipped": 2}}
    assert sum(split.images for split in report.splits.values()) == 10
    assert [(r.folder, r.image_id) for r in report.skipped] == [("train", "k01"), ("train", "k02")]
    table_notes = ["3 file(s) of test/ have no labels on Kaggle and were not used"]
    record = PreparationReport.read(tmp_path / "out")
    assert (record.choices["layout"], record.table_notes, report.table_notes) == (
        "kaggle",
        table_notes,
        table_notes,
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "set aside from Kaggle's training images" in card
    assert "own test set" not in card
    assert f"- {table_notes[0]}" in card


KAGGLE_CASES = [
    (kaggle_row("k01", "R1", "ILD", (5, 20, 25, 35)), "k01 .*R1 marked No finding in line 9 and ILD in line 54"),
    (["k00", "Edema", 3, "R1", 1, 2, 3, 4], "k00 .*line 54: Unknown label 'Edema'"),
    (["k00", "ILD", 3, "R1", 1, 2, 3, 4], "k00 .*line 54: class_id must be 5 for ILD; got 3"),
    (["k00", "nan", "", "R1", 1, 2, 3, 4], "k00 .*line 54: column 'class_name' is empty"),
    (["k00", "ILD", 5, "NaN", 1, 2, 3, 4], "k00 .*line 54: column 'rad_id' is empty"),
    (["k00", "ILD", 5, "R1", 1, 2, "NaN", 4], "k00 .*line 54: column 'x_max' must hold a number; got ''"),
    (["k00", "ILD", 5, "R1", 1, 2, "3,5", 4], "k00 .*column 'x_max' must hold a number; got '3,5' .*with a point"),
    (["", "ILD", 5, "R1", 1, 2, 3, 4], "line 54: an image id must be .*; got ''"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), KAGGLE_CASES)
def test_wrong_kaggle_rows_are_refused(tmp_path, row, message) -> None:
    rows = kaggle_rows()
    assert len(rows) == 52
    root = make_kaggle(tmp_path / "k", rows)
    write_table(root / "train.csv", KAGGLE_HEADER, [*rows, row])
    with pytest.raises(LabelError, match=message):
        read_layout(root)
    layout = read_layout(root, VinDrOptions(on_error="skip"))
    assert len(layout.splits["train"]) + len([r for r in layout.skipped if r.image_id]) == 12


def test_kaggle_images_that_a_reader_lacks_are_counted(tmp_path) -> None:
    rows = [kaggle_row(image_id, reader) for image_id in ("k1", "k2", "k3") for reader in ("R1", "R2", "R3")]
    layout = read_layout(make_kaggle(tmp_path / "k", rows[:-1]))
    assert layout.table_notes == ["1 image(s) of train/ were not read by 3 reader(s), as most were"]


def test_kaggle_rows_with_small_faults_are_corrected(tmp_path) -> None:
    root = make_kaggle(tmp_path / "k", kaggle_rows(), suffix=".dcm")
    extra = [
        kaggle_row("k01", "R1"),
        kaggle_row("k00", "R1", "ILD", (1, 2, 11, 12)),
        ["K00.dcm", *kaggle_row("k00", "R1", "Nodule/Mass", (9, 8, 3, 4))[1:]],
        ["k02", "No finding", "14", "R1", *["NaN"] * 4],
    ]
    write_table(root / "train.csv", KAGGLE_HEADER, [*kaggle_rows(), *extra])
    layout = read_layout(root)
    assert set(layout.table_notes) == {
        "3 row(s) of train.csv repeat another row and were used once",
        "1 box(es) of train.csv had swapped corners, which were corrected",
    }
    boxes = {record.image_id: record.boxes for record in layout.splits["train"]}
    assert len(boxes["k00"]) == 7
    assert boxes["k00"][-1] == ("Nodule/Mass", "R1", 3, 4, 9, 8)


@pytest.fixture
def meta(kaggle):
    """Original sizes as in Kaggle's conversions: 48 rows, 40 columns."""
    write_table(kaggle / "train_meta.csv", ("image_id", "dim0", "dim1"), [[f"k{n:02}", 48, 40] for n in range(12)])
    return kaggle / "train_meta.csv"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_boxes_of_pictures_are_scaled_on_each_axis(kaggle, meta, tmp_path, suffix) -> None:
    originals = {r.image_id: r.boxes for r in read_layout(kaggle).splits["train"]}
    to_pictures(kaggle, 96, 20, suffix)
    for choices in ({}, {"sizes": meta}):
        dataset = load_vindr_cxr(kaggle, "train", cache_dir=tmp_path / "c", **choices)
        for row in dataset:
            assert (row["original_height"], row["original_width"]) == (96, 20)
            expected = [(b.x_min / 2, b.y_min * 2, b.x_max / 2, b.y_max * 2) for b in originals[row["image_id"]]]
            got = [(b["x_min"], b["y_min"], b["x_max"], b["y_max"]) for b in row["boxes"]]
            assert len(got) == len(expected)
            assert np.allclose(got, expected)
    assert any(dataset["boxes"])
    same = load_vindr_cxr(kaggle, "train", cache_dir=tmp_path / "c", sizes="same")
    assert {tuple(b.values())[2:] for row in same for b in row["boxes"]} == {
        (5, 20, 25, 35), (1, 2, 11, 12), (20, 2, 31, 12)
    }  # fmt: skip


def test_conversions_in_physionets_layout_are_read(small_vindr, tmp_path) -> None:
    to_pictures(small_vindr, 24, 20)
    sizes = [["A2.dicom", 48.0, 40], *([image_id, 48, 40] for image_id in ("a3", "a4", "a5", "t2"))]
    write_table(tmp_path / "s.csv", ("image_id", "height", "width"), sizes)
    dataset = load_vindr_cxr(small_vindr, cache_dir=tmp_path / "c", sizes=tmp_path / "s.csv", validation_fraction=0)
    rows = {row["image_id"]: row for split in dataset.values() for row in split}
    assert rows["a2"]["boxes"][0] == {
        "finding": "Cardiomegaly", "reader": "R1", "x_min": 2.5, "y_min": 10, "x_max": 12.75, "y_max": 17.5,
    }  # fmt: skip
    assert rows["t2"]["boxes"][0]["x_max"] == 13.5
    assert json.loads(dataset["train"].info.description)["choices"]["sizes"] == "file"


def test_nothing_is_guessed_about_sizes(kaggle, meta, tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"sizes \(--sizes\) is only for PNG and JPEG files"):
        read_layout(kaggle, VinDrOptions(sizes="same"))
    to_pictures(kaggle, 24, 20)
    lines = meta.read_text().splitlines()
    meta.write_text("\n".join(line for line in lines if not line.startswith(("k03", "k04"))))
    with pytest.raises(
        DatasetError, match=r"1 image\(s\) of train/ with boxes, but without a size .*train_meta.csv: k03"
    ):
        read_layout(kaggle)  # k04 has no boxes and needs none
    assert [r.image_id for r in read_layout(kaggle, VinDrOptions(on_error="skip")).skipped] == ["k03"]
    meta.unlink()
    for on_error in ("raise", "skip"):  # leaving out all images with boxes would leave healthy ones alone
        with pytest.raises(DatasetError, match=r"4 PNG or JPEG file\(s\) have boxes .*--sizes FILE.*--sizes same"):
            read_layout(kaggle, VinDrOptions(on_error=on_error))
    with pytest.raises(DatasetError, match=r"nowhere\.csv cannot be read"):
        read_layout(kaggle, VinDrOptions(sizes=str(tmp_path / "nowhere.csv")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,rows,columns\nk00,48,40", "must have the column 'height', 'width'; got image_id, rows"),
        ("image_id,dim0,dim1\nk00,48,", "line 2 must hold whole numbers of pixels in dim0 and dim1; got '48' and ''"),
        ("image_id,dim0,dim1\nk00,48,40.5", "line 2 must hold whole numbers"),
        ("image_id,dim0,dim1\nk00,48,40\nk00,40,48", "line 3 gives image k00 a second size"),
    ],
)
def test_wrong_size_tables_are_refused(kaggle, tmp_path, text, message) -> None:
    to_pictures(kaggle, 24, 20)
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_layout(kaggle, VinDrOptions(sizes=str(tmp_path / "s.csv")))


def test_a_dicom_file_and_its_conversion_in_one_folder_are_refused(small_vindr) -> None:
    for suffix in (".png", ".dcm"):
        (small_vindr / "train" / f"a1{suffix}").write_bytes((small_vindr / "train" / "a1.dicom").read_bytes())
    (small_vindr / "train" / ".a2.dicom").write_bytes(b"an archiver's own file")
    with pytest.raises(
        DatasetError, match=r"1 image\(s\) with more than one file in train/: a1 \(a1.dcm, a1.dicom, a1.png\)"
    ):
        read_layout(small_vindr)
    assert [r.image_id for r in read_layout(small_vindr, VinDrOptions(on_error="skip")).skipped] == ["a1"]


def test_layouts_are_detected_by_their_tables(small_vindr, kaggle, tmp_path) -> None:
    assert detect_layout(small_vindr) == detect_layout(small_vindr, "physionet") == "physionet"
    assert detect_layout(kaggle) == "kaggle"
    with pytest.raises(DatasetError, match=r"not laid out as on PhysioNet: it lacks test/, annotations/image_labels"):
        detect_layout(kaggle, "physionet")
    with pytest.raises(DatasetError, match=r"layout must be 'auto', 'physionet' or 'kaggle'; got 'Kaggle'"):
        VinDrOptions(layout="Kaggle")
    (small_vindr / "train.csv").write_text("image_id\n")
    with pytest.raises(DatasetError, match=r"tables of both layouts, annotations/ and train\.csv\. .*--layout"):
        detect_layout(small_vindr)
    assert detect_layout(small_vindr, "physionet") == "physionet"


def test_a_folder_without_a_known_layout_is_refused(small_vindr, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match=r"must have a known layout; got nothing\. PhysioNet's .* Name the"):
        detect_layout(empty)
    with pytest.raises(DatasetError, match=r"got a1\.dicom"):
        detect_layout(small_vindr / "train")
    small_vindr.rename(tmp_path / "outer-1.0.0")
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer-1.0.0").rename(tmp_path / "outer" / "1.0.0")
    with pytest.raises(DatasetError, match=r"got 1\.0\.0/\. .* Name its folder 1\.0\.0/"):
        detect_layout(tmp_path / "outer")


def test_a_train_folder_with_the_images_one_level_deeper_is_refused(kaggle) -> None:
    (kaggle / "train").rename(kaggle / "images")
    (kaggle / "train").mkdir()
    (kaggle / "images").rename(kaggle / "train" / "train")
    with pytest.raises(DatasetError, match=r"train/ must hold radiographs .* got train/\. Put the image files"):
        read_layout(kaggle, VinDrOptions(on_error="skip"))


def test_circular_and_broken_links_are_reported(small_vindr) -> None:
    for name in ("a1", "a2"):
        (small_vindr / "train" / f"{name}.dicom").unlink()
    (small_vindr / "train" / "a1.dicom").symlink_to("a1.dicom")
    (small_vindr / "train" / "a2.dicom").symlink_to("nowhere.dicom")
    (small_vindr / "train" / "circle").symlink_to(small_vindr)
    with pytest.raises(DatasetError, match=r"2 image\(s\) of train/ with a broken link in place of the file: a1, a2"):
        read_layout(small_vindr)
    assert [r.image_id for r in read_layout(small_vindr, VinDrOptions(on_error="skip")).skipped] == ["a1", "a2"]
    (small_vindr / "test" / "t1.dicom").rename(small_vindr / "t1.dicom")
    (small_vindr / "test" / "t1.dicom").symlink_to("../t1.dicom")  # a link that leads somewhere is as good as a file
    assert {r.image_id for r in read_layout(small_vindr, VinDrOptions(on_error="skip")).splits["test"]} == {"t1", "t2"}
    (small_vindr / "loop").symlink_to("loop")
    with pytest.raises(DatasetError, match="is not a folder"):
        detect_layout(small_vindr / "loop")


def test_a_folder_without_permission_is_one_clear_error(small_vindr, monkeypatch) -> None:
    """Root may read everything, so the refusal is simulated."""

    def refuse(self, *args, **options):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.iterdir", refuse)
        with pytest.raises(DatasetError, match=r"train/ cannot be read \(Permission denied\)"):
            read_layout(small_vindr)
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.open", refuse)
        with pytest.raises(DatasetError, match=r"image_labels_train\.csv cannot be read \(Permission denied\)"):
            read_layout(small_vindr)


def test_the_cache_entry_follows_tables_sizes_and_pictures(kaggle, meta, tmp_path) -> None:
    def fingerprint() -> str:
        return VinDrCXR(data_dir=str(kaggle), cache_dir=str(tmp_path / "c")).cache_dir

    seen = [fingerprint()]
    (kaggle / "test").mkdir()
    assert fingerprint() == seen[0]  # what is not used does not matter
    to_pictures(kaggle, 24, 20)
    seen.append(fingerprint())
    meta.write_text(meta.read_text().replace("48", "47"))
    seen.append(fingerprint())
    table = kaggle / "train.csv"
    table.write_text(table.read_text().replace("R3", "R4"))
    seen.append(fingerprint())
    assert len(set(seen)) == 4
