"""The builder: what each aggregation yields, splits, left-out images, processes, caches, and the files' errors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from vindr_factories import chest, make_dicom, make_vindr, vindr_features

from mlcak_hf.configuration_mlcak import VINDR_CXR_FINDINGS
from mlcak_hf.errors import DatasetError, DicomError, LabelError
from mlcak_hf.preparation.group_split import split_by_group
from mlcak_hf.radiographs.read import read_radiograph
from mlcak_hf.vindr_cxr.builder import VinDrCXR, load_vindr_cxr
from mlcak_hf.vindr_cxr.labels import VINDR_CXR_LABELS
from mlcak_hf.vindr_cxr.layout import read_layout
from mlcak_hf.vindr_cxr.options import VinDrOptions
from mlcak_hf.vindr_cxr.vindr_folder import VinDrRecord


@pytest.fixture
def load(small_vindr, tmp_path):
    """`load_vindr_cxr` on the small folder, with its cache in the test's own folder."""

    def call(split=None, **choices):
        return load_vindr_cxr(
            small_vindr, split, cache_dir=tmp_path / "cache", **{"validation_fraction": 0.2} | choices
        )

    return call


@pytest.mark.parametrize("num_proc", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_suspect_images_are_reported(load, small_vindr, caplog, num_proc) -> None:
    y, x = np.mgrid[-1:1:60j, -1:1:60j]
    lungs = np.exp(-(((np.abs(x) - 0.45) / 0.22) ** 2) - ((y + 0.1) / 0.45) ** 2)
    upright = np.rint(4095 * np.clip(0.75 - 0.7 * lungs + 0.15 * y, 0, 1)).astype(np.uint16)
    for path in [*small_vindr.glob("train/*.dicom"), *small_vindr.glob("test/*.dicom")]:
        make_dicom(path, 4095 - upright if path.stem == "a3" else upright, bits=12)
    dataset = load(num_proc=num_proc)
    assert sum(map(len, dataset.values())) == 8  # all of them are in it
    assert "1 image(s) seem to be inverted" in caplog.text
    assert "The first: a3" in caplog.text
    caplog.clear()
    list(load("train", streaming=True))
    assert "a3: 1 image(s) seem to be inverted" in caplog.text


def by_image(dataset) -> dict:
    return {row["image_id"]: row for split in dataset.values() for row in split}


def marked(row, column="findings") -> dict:
    return {name: value for name, value in row[column].items() if value}


def test_rows_of_the_default_aggregation(load, small_vindr) -> None:
    dataset = load()
    assert {name: len(split) for name, split in dataset.items()} == {"train": 5, "validation": 1, "test": 2}
    assert dataset["train"].features == vindr_features()
    rows = by_image(dataset)
    assert set(rows) == {"a1", "a2", "a3", "a4", "a5", "a6", "t1", "t2"}
    assert {i: row["label"] for i, row in rows.items()} == {
        "a1": 0, "a2": 1, "a3": 1, "a4": 1, "a5": 0, "a6": 1, "t1": 0, "t2": 1,
    }  # fmt: skip
    assert marked(rows["a2"]) == {"Cardiomegaly": 1}
    assert marked(rows["a3"]) == {}  # abnormal by majority, no finding has one
    assert marked(rows["a4"], "global_labels") == {"Pneumonia": 1}
    assert marked(rows["a6"], "global_labels") == {"Other diseases": 1}
    assert marked(rows["t2"], "global_labels") == {"Other diseases": 1}  # spelt "Other disease" in the test table
    assert rows["a2"]["votes"] == dict.fromkeys(VINDR_CXR_LABELS, 0) | {
        "Cardiomegaly": 2,
        "Edema": 1,
        "No finding": 1,
    }
    assert [row["num_readers"] for row in rows.values()].count(3) == 6
    assert rows["t1"]["num_readers"] == 1
    assert list(rows["a1"]["findings"]) == list(VINDR_CXR_FINDINGS)
    assert rows["a2"]["boxes"] == [
        {"finding": "Cardiomegaly", "reader": "R1", "x_min": 5, "y_min": 20, "x_max": 25.5, "y_max": 35},
        {"finding": "Cardiomegaly", "reader": "R2", "x_min": 6, "y_min": 21, "x_max": 26, "y_max": 36},
        {"finding": "Edema", "reader": "R2", "x_min": 2, "y_min": 3, "x_max": 9, "y_max": 12},
    ]
    assert rows["t2"]["boxes"][0]["reader"] == ""
    assert rows["a1"]["boxes"] == []
    assert (rows["a1"]["original_height"], rows["a1"]["original_width"]) == (48, 40)
    assert rows["a1"]["group"] == "a1"
    stored = np.asarray(rows["a2"]["image"])
    assert stored.shape == (256, 256)
    assert stored.dtype == np.uint8
    expected = read_radiograph(small_vindr / "train" / "a2.dicom", 256)
    assert np.abs(stored / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_soft_labels_are_shares_of_the_readers(load) -> None:
    dataset = load(aggregation="mean")
    assert dataset["train"].features == vindr_features("mean")
    row = by_image(dataset)["a2"]
    assert row["label"] == pytest.approx(2 / 3)
    assert marked(row) == {"Cardiomegaly": pytest.approx(2 / 3), "Edema": pytest.approx(1 / 3)}
    assert row["global_labels"]["No finding"] == pytest.approx(1 / 3)


def test_a_row_per_reader_in_train_only(load) -> None:
    dataset = load(aggregation="none")
    assert {name: len(split) for name, split in dataset.items()} == {"train": 15, "validation": 1, "test": 2}
    assert dataset["train"].features == vindr_features("none")
    assert all(row["reader"] == "" for split in ("validation", "test") for row in dataset[split])
    rows = {(r["image_id"], r["reader"]): r for r in dataset["train"]}
    held = dataset["validation"][0]["image_id"]
    assert held not in {image_id for image_id, _ in rows}
    assert held != "a2"
    assert marked(rows["a2", "R2"]) == {"Cardiomegaly": 1, "Edema": 1}
    assert marked(rows["a2", "R3"]) == {}
    assert [rows["a2", r]["label"] for r in ("R1", "R2", "R3")] == [1, 1, 0]
    assert [box["reader"] for box in rows["a2", "R2"]["boxes"]] == ["R2", "R2"]
    assert rows["a2", "R3"]["boxes"] == []
    assert rows["a2", "R3"]["votes"]["Cardiomegaly"] == 2  # the votes are the image's
    assert rows["a2", "R3"]["num_readers"] == 3


def test_labels_that_are_not_annotated_are_missing(load) -> None:
    row = by_image(load(annotated=["Cardiomegaly", "Pneumonia"]))["a2"]
    assert {name: v for name, v in row["findings"].items() if v >= 0} == {"Cardiomegaly": 1}
    assert row["votes"]["Edema"] == -1
    assert row["label"] == 1
    with pytest.raises(LabelError, match="Did you mean 'Cardiomegaly'"):
        load(annotated=["Cardiomegalia"])


def test_processes_give_the_same_rows_in_the_same_order(load, tmp_path) -> None:
    one, two = load(), load_vindr_cxr(
        tmp_path / "vindr", num_proc=2, cache_dir=tmp_path / "cache2", validation_fraction=0.2
    )  # fmt: skip
    for split in one:
        assert one[split].with_format("arrow")[:].equals(two[split].with_format("arrow")[:])


def test_streaming_gives_the_same_rows(load) -> None:
    whole, stream = load("train"), load("train", streaming=True)
    assert [row["image_id"] for row in stream] == whole["image_id"][:]
    assert stream.features == whole.features
    assert np.array_equal(np.asarray(next(iter(stream))["image"]), np.asarray(whole[0]["image"]))


def test_choices_are_in_the_description(load) -> None:
    info = load("test", voi="percentile", seed=3).info
    choices = json.loads(info.description)["choices"]
    assert choices["voi"] == "percentile"
    assert choices["percentiles"] == [1.0, 99.0]
    assert choices["seed"] == 3
    assert "8-bit" not in info.description  # `bits` says how many
    assert "nguyen2022vindr" in info.citation
    assert "Do not pass this folder on" in info.license
    assert "vindr" in info.homepage


def records(groups: list[str]) -> list[VinDrRecord]:
    return [VinDrRecord(f"i{n}", "", group) for n, group in enumerate(groups)]


def split_validation(images: list[VinDrRecord], fraction: float, seed: int):
    return split_by_group(images, fraction, str(seed), "validation_fraction")


def test_the_validation_split_keeps_groups_whole_and_ignores_order() -> None:
    rng = np.random.default_rng(0)
    images = records([f"p{g}" for g in rng.integers(0, 120, size=400)])
    train, validation = split_validation(images, 0.15, 0)
    assert sorted(r.image_id for r in (*train, *validation)) == sorted(r.image_id for r in images)
    assert not {r.group for r in train} & {r.group for r in validation}
    assert abs(len(validation) - 60) <= 3
    shuffled = [images[i] for i in rng.permutation(len(images))]
    assert {r.image_id for r in split_validation(shuffled, 0.15, 0)[1]} == {r.image_id for r in validation}
    assert {r.image_id for r in split_validation(images, 0.15, 1)[1]} != {r.image_id for r in validation}
    fewer = [r for r in images if r.image_id != train[0].image_id]
    changed = {r.group for r in split_validation(fewer, 0.15, 0)[1]} ^ {r.group for r in validation}
    assert len(changed) <= 1  # leaving one image out moves at most the group at the border


def test_a_huge_group_does_not_swallow_the_training_set() -> None:
    images = records(["big"] * 50 + [f"p{i}" for i in range(50)])
    for seed in range(20):
        train, validation = split_validation(images, 0.1, seed)
        assert train
        assert validation


def test_fraction_zero_has_no_validation(load) -> None:
    assert set(load(validation_fraction=0)) == {"train", "test"}
    with pytest.raises(DatasetError, match="validation_fraction"):
        load(validation_fraction=1)
    with pytest.raises(DatasetError, match="at least two groups to divide"):
        split_validation(records(["one", "one"]), 0.5, 0)


def write_groups(tmp_path, text: str):
    path = tmp_path / "groups.csv"
    path.write_text("image_id,group_id\n" + text)
    return path


GROUPS = "a1,P-1\na2,P-1\na3,P-2\na4,P-2\na5,P-3\na6,P-3\nt1,P-9\nt2,P-9\nunused,P-1\n"


def test_groups_never_span_splits_and_get_numbers(load, tmp_path) -> None:
    dataset = load(groups=write_groups(tmp_path, GROUPS), validation_fraction=0.34)
    groups = {name: set(split["group"]) for name, split in dataset.items()}
    assert [len(dataset[s]) for s in ("train", "validation", "test")] == [4, 2, 2]
    assert not groups["train"] & groups["validation"]
    assert set().union(*groups.values()) == {f"group-00000{i}" for i in range(4)}  # an id may name a patient
    rows = by_image(dataset)
    assert rows["a1"]["group"] == rows["a2"]["group"] != rows["a3"]["group"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GROUPS.replace("a4,P-2\n", ""), r"1 image\(s\) of train/ without a group in the groups file: a4"),
        (GROUPS.replace("a4,P-2", "a4,P-9"), r"from a group \(patient\) that is also in test/: a4"),
        (GROUPS + "a1,P-7\n", "line 11 puts image a1 into a second group"),
        (GROUPS + "a9,\n", "line 11 must have an image_id and a group_id"),
    ],
)
def test_wrong_groups_are_refused(load, tmp_path, text, message) -> None:
    with pytest.raises(DatasetError, match=message):
        load(groups=write_groups(tmp_path, text))


def test_a_groups_file_without_its_column_or_missing_is_refused(load, tmp_path) -> None:
    path = tmp_path / "g.csv"
    with pytest.raises(DatasetError, match=r"g.*\.csv cannot be read"):
        load(groups=path)
    path.write_text("image_id,patient\na1,1\n")
    with pytest.raises(DatasetError, match=r"g\.csv must have the column 'group_id'; got"):
        load(groups=path)


def test_a_missing_folder_a_url_and_an_incomplete_layout_are_refused(tmp_path, small_vindr) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        load_vindr_cxr(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"must be a local folder.*data use agreement"):
        load_vindr_cxr("https://physionet.org/files/vindr-cxr")
    (small_vindr / "annotations" / "annotations_test.csv").unlink()
    shutil.rmtree(small_vindr / "test")
    with pytest.raises(DatasetError, match=r"lacks test/, annotations/annotations_test\.csv"):
        load_vindr_cxr(small_vindr)


def drop_column(name):
    def change(rows):
        index = rows[0].index(name)
        return [row[:index] + row[index + 1 :] for row in rows]

    return change


def set_cell(line, name, value):
    def change(rows):
        rows[line - 1][rows[0].index(name)] = value
        return rows

    return change


def rename(old, new):
    return lambda rows: [[new if cell == old else cell for cell in row] for row in rows]


TRAIN, TEST, BOXES = "image_labels_train.csv", "image_labels_test.csv", "annotations_train.csv"

# Table, what is wrong with it, the error, and whether the images concerned can be left out instead.
TABLE_CASES = [
    (TRAIN, drop_column("Edema"), LabelError, "image_labels_train.csv: no column 'Edema'", False),
    (TRAIN, drop_column("rad_id"), LabelError, "no column 'rad_id'", False),
    (TEST, rename("ILD", "ILDs"), LabelError, "Unknown label 'ILDs'. Did you mean 'ILD'", False),
    (BOXES, drop_column("x_max"), DatasetError, "annotations_train.csv must have the column 'x_max'", False),
    (TRAIN, set_cell(5, "Edema", "2"), LabelError, r"a2 \(line 5: column 'Edema' must hold 0 or 1", True),
    (TRAIN, set_cell(5, "Edema", ""), LabelError, "line 5: column 'Edema' must hold 0 or 1", True),
    (TRAIN, set_cell(2, "Edema", "1"), LabelError, r"a1 \(line 2: 'No finding' is 1 together with Edema", True),
    (TRAIN, set_cell(6, "rad_id", "R1"), LabelError, "line 6: it contradicts line 5, .* same image and reader", True),
    (TRAIN, set_cell(3, "rad_id", ""), LabelError, "line 3: column 'rad_id' is empty", True),
    (TEST, lambda rows: [*rows, ["t1", *rows[2][1:]]], LabelError, "t1 .*line 4: it contradicts line 2", True),
    (
        TRAIN,
        lambda rows: [*rows[:-1], rows[-1][:9]],
        LabelError,
        "line 19: column .* must hold 0 or 1; got ''",
        True,
    ),
    (BOXES, rename("Consolidation", "Consolidated"), LabelError, "a4 .*Unknown label 'Consolidated'", True),
    (BOXES, set_cell(3, "x_max", "5"), LabelError, "a2 .*Cardiomegaly: the box 5, 20, 5, 35 has no area", True),
    (BOXES, set_cell(3, "x_max", ""), LabelError, "a2 .*line 3: column 'x_max' must hold a number; got ''", True),
    (
        BOXES,
        set_cell(3, "x_max", "wide"),
        LabelError,
        "a2 .*line 3: column 'x_max' .*; got 'wide'",
        True,
    ),
    (
        BOXES,
        set_cell(3, "image_id", "zz"),
        LabelError,
        r"zz \(line 3: .* has no reading of this image",
        True,
    ),
    (TRAIN, set_cell(2, "image_id", "../a1"), LabelError, "an image id must be .*; got '../a1'", True),
]


@pytest.mark.parametrize(("table", "change", "error", "message", "skippable"), TABLE_CASES)
def test_wrong_tables_are_refused(load, small_vindr, edit_table, table, change, error, message, skippable) -> None:
    edit_table(small_vindr / "annotations" / table, change)
    with pytest.raises(error, match=message):
        load()
    if not skippable:
        with pytest.raises(error, match=message):
            load(on_error="skip")
        return
    layout = read_layout(small_vindr, VinDrOptions(on_error="skip"))
    assert 1 <= len(layout.skipped) <= 2
    names = {r.image_id for r in (*layout.splits["train"], *layout.splits["test"])}
    assert not names & {record.image_id for record in layout.skipped}
    assert len(load(on_error="skip")["train"]) >= 4


def test_files_and_rows_that_do_not_match_are_refused(load, small_vindr, tmp_path) -> None:
    (small_vindr / "train" / "a5.dicom").unlink()
    with pytest.raises(
        DatasetError,
        match=r"1 image\(s\) named in image_labels_train\.csv, but without a file in train/: a5\. .*--on-error",
    ):
        load()
    make_dicom(small_vindr / "train" / "a5.dicom", chest(), bits=12)
    for n in range(7):
        make_dicom(small_vindr / "test" / f"extra{n}.dicom", chest(), bits=12)
    (small_vindr / "test" / "index.html").write_text("left by wget")
    with pytest.raises(
        DatasetError,
        match=r"7 image\(s\) in test/, but not named .*: extra0, extra1, .*, extra4 and 2 more",
    ):
        load()
    builder = VinDrCXR(data_dir=str(small_vindr), options=VinDrOptions(on_error="skip"), cache_dir=str(tmp_path / "c"))
    builder.download_and_prepare()
    assert [(r.image_id, r.folder) for r in builder.skipped] == [(f"extra{n}", "test") for n in range(7)]
    assert all("not named in image_labels_test.csv" in r.reason for r in builder.skipped)


def test_an_image_in_train_and_test_is_refused(load, small_vindr, edit_table) -> None:
    edit_table(small_vindr / "annotations" / "image_labels_test.csv", rename("t1", "a1"))
    (small_vindr / "test" / "t1.dicom").rename(small_vindr / "test" / "a1.dicom")
    edit_table(small_vindr / "annotations" / "annotations_test.csv", rename("t1", "a1"))
    with pytest.raises(DatasetError, match="of train/ that are also in test/: a1"):
        load()
    assert "a1" not in load("train", on_error="skip")["image_id"][:]


@pytest.mark.parametrize("num_proc", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_unreadable_radiographs_are_refused_or_skipped(small_vindr, tmp_path, num_proc) -> None:
    for name in ("train/a1", "train/a3", "test/t2"):
        (small_vindr / f"{name}.dicom").write_bytes(b"cut off")
    folders = {"data_dir": str(small_vindr), "cache_dir": str(tmp_path / "c")}
    with pytest.raises(DicomError, match=r"^(a1|a3)\.dicom: .*on_error='skip' \(--on-error skip\)"):
        VinDrCXR(options=VinDrOptions(validation_fraction=0), **folders).download_and_prepare(num_proc=num_proc)
    for _ in range(2):  # the second time from the cache
        builder = VinDrCXR(options=VinDrOptions(validation_fraction=0, on_error="skip"), **folders)
        builder.download_and_prepare(num_proc=num_proc)
        assert [(r.folder, r.image_id) for r in builder.skipped] == [("test", "t2"), ("train", "a1"), ("train", "a3")]
        assert all("it is a text file" in r.reason for r in builder.skipped)
    assert builder.as_dataset(split="train")["image_id"][:] == ["a2", "a4", "a5", "a6"]


def test_changed_choices_or_files_make_a_new_cache_entry(small_vindr, tmp_path) -> None:
    def cache(**choices) -> str:
        return VinDrCXR(
            data_dir=str(small_vindr), cache_dir=str(tmp_path / "c"), options=VinDrOptions(**choices)
        ).cache_dir

    groups = write_groups(tmp_path, GROUPS)
    seen = [cache(**c) for c in (
        {}, {"size_px": 128}, {"fit": "squash"}, {"voi": "none"}, {"aggregation": "any"}, {"seed": 1},
        {"annotated": ["Edema"]}, {"groups": str(groups)}, {"validation_fraction": 0.3}, {"on_error": "skip"},
        {"value_range": (0, 4095)},
    )]  # fmt: skip
    assert len(set(seen)) == len(seen)
    assert cache() == cache(size_px=256, voi="dicom") == seen[0]  # a default named is a default
    assert cache(annotated=["ILD", "Edema"]) == cache(annotated=["Edema", "ILD"])
    write_groups(tmp_path, GROUPS.replace("a4,P-2", "a4,P-1"))
    assert cache(groups=str(groups)) not in seen
    make_dicom(small_vindr / "train" / "a1.dicom", chest(seed=99), bits=12)
    assert cache() not in seen
    before = cache()
    table = small_vindr / "annotations" / "image_labels_train.csv"
    table.write_text(table.read_text().replace("R6", "R7"))
    assert cache() != before


def test_a_changed_radiograph_is_read_again(load, small_vindr) -> None:
    before = np.asarray(load("test")[0]["image"])
    make_dicom(small_vindr / "test" / "t1.dicom", chest(seed=50), bits=12)
    assert not np.array_equal(np.asarray(load("test")[0]["image"]), before)


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        (
            {"aggregation": "median"},
            LabelError,
            "aggregation must be 'majority', 'any', 'all', 'mean' or 'none'; got 'median'",
        ),
        ({"voi": "minmax"}, DatasetError, "voi must be 'dicom'"),
        ({"fit": "crop"}, DatasetError, "fit must be 'pad'"),
        ({"on_error": "ignore"}, DatasetError, "on_error must be 'raise' or 'skip'"),
        ({"size_px": 0}, DatasetError, "size_px must be at least 1"),
        ({"annotated": "Edema"}, LabelError, "single string"),
        ({"annotated": []}, LabelError, "at least one label"),
    ],
)
def test_unknown_choices_are_refused(load, choices, error, message) -> None:
    with pytest.raises(error, match=message):
        load(**choices)


def test_a_split_without_images_is_refused(tmp_path) -> None:
    root = make_vindr(tmp_path / "v", {"a1": {"R1": []}, "a2": {"R1": []}}, {})
    with pytest.raises(DatasetError, match=r"test/ must hold radiographs .* got nothing"):
        load_vindr_cxr(root, cache_dir=tmp_path / "c")
