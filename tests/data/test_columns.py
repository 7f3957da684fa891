"""Columns of many kinds of datasets -> the same targets; splits by patient; and what is refused."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Sequence, Value
from PIL import Image as PILImage

from mlcak_hf import MLCAKConfig, MLCAKImageProcessor
from mlcak_hf.data.columns import DatasetColumns, Targets, finding_names, global_labels
from mlcak_hf.data.sources import (
    RadiographDataset,
    describe_targets,
    hold_out_fold,
    open_dataset,
    split_rows,
)
from mlcak_hf.data.training_data import DataArguments, open_training_data
from mlcak_hf.errors import DatasetError, LabelError

PICTURE = PILImage.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
COLUMNS = DatasetColumns()
NO_FINDINGS = DatasetColumns(findings=None)


def dataset(**columns) -> Dataset:
    """A dataset with an image column; a column is a list, or (list, feature)."""
    values = {name: column[0] if isinstance(column, tuple) else column for name, column in columns.items()}
    count = len(next(iter(values.values())))
    made = Dataset.from_dict({"image": [PICTURE] * count, **values})
    for name, column in columns.items():
        if isinstance(column, tuple):
            made = made.cast_column(name, column[1])
    return made.cast_column("image", Image())


def config(labels=("Normal", "Abnormal"), findings=("Edema", "Nodule/Mass"), **kwargs) -> MLCAKConfig:
    return MLCAKConfig(id2label=dict(enumerate(labels)), local_labels=list(findings), **kwargs)


def encoded(rows, columns, **kwargs):
    return Targets(config(**kwargs), rows, columns).encode(rows)


# Global labels


@pytest.mark.parametrize(
    ("column", "names", "expected"),
    [
        (([1, 0, None], ClassLabel(names=["sick", "well"])), ("well", "sick"), [0, 1, -1]),
        (["pneumonia", "normal", None, ""], ("normal", "pneumonia"), [1, 0, -1, -1]),
        ([0, 1, -1, None], ("Normal", "Abnormal"), [0, 1, -1, -1]),
        ([True, False], ("Normal", "Abnormal"), [1, 0]),
        ([2, 0, 1], ("a", "b", "c"), [2, 0, 1]),
    ],
)
def test_a_global_label_is_found_by_name(column, names, expected):
    targets = encoded(dataset(label=column), NO_FINDINGS, labels=names, findings=())
    assert targets["labels"].dtype == np.int64
    assert targets["labels"].tolist() == expected
    assert "local_targets" not in targets


def test_a_probability_becomes_soft_targets():
    targets = encoded(dataset(label=[0.25, 1.0, -1.0, None]), NO_FINDINGS, findings=())
    np.testing.assert_allclose(targets["labels"], [[0.75, 0.25], [0, 1], [-1, -1], [-1, -1]])
    assert targets["labels"].dtype == np.float32


def test_several_global_labels_by_struct_or_list():
    multi = {"labels": ("COPD", "Pneumonia"), "findings": (), "problem_type": "multi_label_classification"}
    struct = dataset(
        label=[{"Pneumonia": 1.0, "COPD": 0.0, "Other": 1.0}, {"Pneumonia": -1.0, "COPD": None, "Other": 0.0}]
    )
    np.testing.assert_array_equal(encoded(struct, NO_FINDINGS, **multi)["labels"], [[0, 1], [-1, -1]])
    lists = dataset(label=[["Pneumonia"], ["COPD", "Other"], []])
    np.testing.assert_array_equal(encoded(lists, NO_FINDINGS, **multi)["labels"], [[0, 1], [1, 0], [0, 0]])
    assert global_labels(lists, NO_FINDINGS)[1] == ["COPD", "Other", "Pneumonia"]


def test_labels_may_all_be_missing_where_a_teacher_teaches():
    columns = DatasetColumns(label="none", findings="none", unlabelled=True)
    targets = encoded(dataset(other=[0, 1]), columns)
    assert targets["labels"].tolist() == [-1, -1]
    assert targets["local_targets"].tolist() == [[-1, -1], [-1, -1]]
    multi = {"labels": ("COPD", "Pneumonia"), "problem_type": "multi_label_classification"}
    assert encoded(dataset(other=[0, 1]), columns, **multi)["labels"].tolist() == [[-1, -1], [-1, -1]]
    only_global = DatasetColumns(findings=None, unlabelled=True)
    targets = encoded(dataset(label=[0, 1]), only_global)
    assert targets["labels"].tolist() == [0, 1]
    assert (targets["local_targets"] == -1).all()
    findings = dataset(findings=[{"Oedema": 1}])
    with pytest.raises(LabelError, match="none of the model's findings"):
        encoded(findings, DatasetColumns(label=None, unlabelled=True))


def test_findings_say_nothing_of_other_labels_than_normal_and_abnormal():
    columns = DatasetColumns(label=None)
    targets = encoded(dataset(findings=[["Edema"], []]), columns, labels=("Covid", "Normal"), findings=("Edema",))
    assert targets["labels"].tolist() == [-1, -1]


def test_one_half_is_no_finding_in_counts_and_derived_labels():
    rows = dataset(findings=[{"Edema": 0.5}, {"Edema": 0.75}, {"Edema": 0.0}])
    columns = DatasetColumns(label=None)
    counts = describe_targets(
        RadiographDataset(rows, Targets(config(findings=["Edema"]), rows, columns)), config(findings=["Edema"])
    )
    assert counts == {"rows": 3, "global": {"Normal": 2, "Abnormal": 1}, "local": {"Edema": [1, 3]}}


def test_without_a_label_column_any_finding_is_abnormal():
    columns = DatasetColumns(label="none")
    lists = dataset(findings=[["Edema"], [], ["No Finding"], ["Hernia"], None])
    assert encoded(lists, columns)["labels"].tolist() == [1, 0, 0, 1, -1]
    struct = dataset(findings=[{"Edema": 0, "Hernia": 1}, {"Edema": 0, "Hernia": -1}, {"Edema": -1, "Hernia": -1}])
    assert encoded(struct, columns)["labels"].tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (([0, 1], ClassLabel(names=["well", "sick"])), ["well", "sick"]),
        (["pneumonia", "normal"], ["normal", "pneumonia"]),
        ([0, 1, -1], ["Normal", "Abnormal"]),
        ([0, 3], ["0", "1", "2", "3"]),
        ([0.5, 0.1], ["Normal", "Abnormal"]),
        ([True, False], ["Normal", "Abnormal"]),
    ],
)
def test_the_names_of_global_labels_follow_from_the_column(column, expected):
    assert global_labels(dataset(label=column), NO_FINDINGS)[1] == expected


# Findings


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([{"Nodule/Mass": 1, "Edema": 0}, {"Nodule/Mass": -1, "Edema": None}], [[0, 1], [-1, -1]]),
        ([{"Nodule/Mass": 0.5, "Edema": 1.0}, None], [[1, 0.5], [-1, -1]]),
        ([["Nodule/Mass"], ["Edema", "Hernia"]], [[0, 1], [1, 0]]),
        ([["Nodule/Mass"], []], [[-1, 1], [-1, 0]]),
        (([[2], [0, 1]], Sequence(ClassLabel(names=["Hernia", "Edema", "Nodule/Mass"]))), [[0, 1], [1, 0]]),
        (([[2], [0]], Sequence(ClassLabel(names=["No finding", "Edema", "Nodule/Mass"]))), [[0, 1], [0, 0]]),
    ],
    ids=["struct", "shares", "names", "a name never used is missing", "ids", "ids with no finding"],
)
def test_findings_are_found_by_name(column, expected):
    targets = encoded(dataset(label=[0, 1], findings=column), COLUMNS)
    np.testing.assert_array_equal(targets["local_targets"], np.float32(expected))


def test_the_names_of_findings_follow_from_the_column():
    assert finding_names(dataset(label=[0], findings=[["b", "a", "No Finding"]]), COLUMNS) == ["a", "b"]
    assert finding_names(dataset(label=[0], findings=[{"b": 1, "a": 0}]), COLUMNS) == ["b", "a"]
    assert finding_names(dataset(label=[0]), NO_FINDINGS) == []


# What is refused


def test_a_missing_column_is_named_with_what_there_is():
    with pytest.raises(DatasetError, match=r"no column 'findings' for the findings.*\['image', 'label'\].*none"):
        COLUMNS.check(dataset(label=[0]))
    with pytest.raises(DatasetError, match="no column 'patient' for the group"):
        DatasetColumns(findings=None, group="patient").check(dataset(label=[0]))
    with pytest.raises(DatasetError, match="both are none"):
        DatasetColumns(label="none", findings="none").check(dataset(label=[0]))


@pytest.mark.parametrize(
    ("rows", "columns", "kwargs", "message"),
    [
        (dataset(label=["sick", "wel"]), NO_FINDINGS, {"labels": ("sick", "well")}, "Row 1: .*'wel'.*mean 'well'"),
        (dataset(label=[0, 2]), NO_FINDINGS, {}, "Row 1: .*'2'"),
        (dataset(label=[0.5, 1.5]), NO_FINDINGS, {}, r"Row 1: .*\[0, 1\].*1.5"),
        (dataset(label=[0.5]), NO_FINDINGS, {"labels": ("a", "b", "c")}, "probabilities"),
        (dataset(label=[["a"], ["b"]]), NO_FINDINGS, {"labels": ("a", "b")}, "several labels"),
        (dataset(label=[0, 1]), NO_FINDINGS, {"problem_type": "multi_label_classification"}, "one label per image"),
    ],
)  # fmt: skip
def test_a_global_label_that_does_not_fit_is_named(rows, columns, kwargs, message):
    with pytest.raises(LabelError, match=message):
        encoded(rows, columns, findings=(), **kwargs)


def test_a_label_column_of_another_kind_is_refused():
    box = {"finding": "Edema", "x_min": 0.0}
    rows = dataset(boxes=[[box], []], numbers=[[1], [2, 3]])
    for name in ("boxes", "image", "numbers"):
        with pytest.raises(DatasetError, match=f"'{name}' must hold names or numbers; it is .*Name another column"):
            global_labels(rows, DatasetColumns(label=name, findings=None))


def test_findings_that_do_not_fit_are_named():
    with pytest.raises(LabelError, match=r"none of the model's findings.*it has \['Hernia'\]"):
        encoded(dataset(label=[0], findings=[["Hernia"]]), COLUMNS)
    with pytest.raises(LabelError, match=r"Row 0: .*\[0, 1\].*3"):
        encoded(dataset(label=[0], findings=[{"Edema": 3, "Nodule/Mass": 0}]), COLUMNS)
    with pytest.raises(DatasetError, match="'findings' must be a struct"):
        encoded(dataset(label=[0], findings=["Edema"]), COLUMNS)


# Rows, files and splits


def test_rows_carry_image_targets_and_place():
    rows = dataset(label=[1, 0], findings=[["Edema"], ["Nodule/Mass"]])
    radiographs = RadiographDataset(rows, Targets(config(), rows, COLUMNS))
    row = radiographs[1]
    assert len(radiographs) == 2
    assert row["index"] == 1
    assert row["labels"] == 0
    assert row["local_targets"].tolist() == [0, 1]
    assert np.array_equal(np.asarray(row["image"]), np.asarray(PICTURE))
    counts = describe_targets(radiographs, config())
    assert counts == {
        "rows": 2,
        "global": {"Normal": 1, "Abnormal": 1},
        "local": {"Edema": [1, 2], "Nodule/Mass": [1, 2]},
    }


def test_a_split_keeps_patients_together_and_does_not_depend_on_the_order():
    patients = [f"p{i % 40}" for i in range(200)]
    rows = dataset(label=[0, 1] * 100, patient=patients, number=list(range(200)))
    columns = DatasetColumns(findings=None, group="patient")
    train, validation = split_rows(rows, columns, 0.2, seed=1)
    assert set(train["patient"]).isdisjoint(validation["patient"])
    assert len(train) + len(validation) == 200
    assert len(validation) == 40
    _, again = split_rows(rows.select(range(199, -1, -1)), columns, 0.2, seed=1)
    assert set(again["number"]) == set(validation["number"])
    _, other = split_rows(rows, columns, 0.2, seed=2)
    assert set(other["number"]) != set(validation["number"])


def test_a_split_that_cannot_be_made_is_refused():
    rows = dataset(label=[0, 1], patient=["p", "p"])
    with pytest.raises(DatasetError, match="between 0 and 1"):
        split_rows(rows, NO_FINDINGS, 1.0)
    with pytest.raises(DatasetError, match="have 1"):
        split_rows(rows, DatasetColumns(findings=None, group="patient"), 0.5)


def test_every_patient_is_in_one_fold_and_every_image_is_held_out_once():
    patients = [f"p{i % 37}" for i in range(200)]
    rows = dataset(label=[0, 1] * 100, patient=patients, number=list(range(200)))
    columns = DatasetColumns(findings=None, group="patient")
    held_out = []
    for fold in range(5):
        splits = hold_out_fold(DatasetDict(train=rows, test=rows), columns, 5, fold)
        assert set(splits["train"]["patient"]).isdisjoint(splits["fold"]["patient"])
        assert len(splits["train"]) + len(splits["fold"]) == len(splits["test"]) == 200
        assert 30 <= len(splits["fold"]) <= 50
        held_out += splits["fold"]["number"]
    assert sorted(held_out) == list(range(200))
    assert list(hold_out_fold(DatasetDict(train=rows), columns, 0, 0)) == ["train"]


def test_images_without_a_patient_are_not_one_giant_patient_of_the_folds():
    rows = dataset(label=[0, 1] * 10, patient=[None, ""] * 10)
    splits = hold_out_fold(DatasetDict(train=rows), DatasetColumns(findings=None, group="patient"), 4, 3)
    assert len(splits["fold"]) == 5


def test_folds_that_cannot_be_made_are_refused():
    splits = DatasetDict(train=dataset(label=[0, 1, 0], patient=["p", "p", "q"]))
    columns = DatasetColumns(findings=None, group="patient")
    with pytest.raises(DatasetError, match="got folds=3, fold=3"):
        hold_out_fold(splits, columns, 3, 3)
    with pytest.raises(DatasetError, match="3 folds need at least 3 patients"):
        hold_out_fold(splits, columns, 3, 0)


def test_a_parquet_file_with_images_as_bytes_is_opened(tmp_path):
    rows = dataset(label=[0, 1])
    rows.cast(
        Features({"image": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("int64")})
    ).to_parquet(tmp_path / "rows.parquet")
    splits = open_dataset(tmp_path / "rows.parquet")
    assert list(splits) == ["train"]
    assert splits["train"][0]["image"].size == (8, 8)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_text_labels_and_relative_paths_in_a_file_are_read(tmp_path, suffix):
    rows = [{"image": f"{i}.png", "label": label} for i, label in enumerate(["pneumonia", "normal", "normal"])]
    for row in rows:
        PICTURE.save(tmp_path / row["image"])
    if suffix == "csv":
        text = "image,label\n" + "".join(f"{row['image']},{row['label']}\n" for row in rows)
    else:
        text = json.dumps(rows)
    (tmp_path / f"rows.{suffix}").write_text(text)
    opened = open_dataset(tmp_path / f"rows.{suffix}")["train"]
    assert opened[0]["image"].size == (8, 8)
    assert global_labels(opened, NO_FINDINGS)[1] == ["normal", "pneumonia"]
    assert encoded(opened, NO_FINDINGS, labels=("normal", "pneumonia"), findings=())["labels"].tolist() == [1, 0, 0]


def test_rows_without_a_patient_are_each_a_group_of_their_own():
    rows = dataset(label=[0] * 40, patient=["p", "p", *[None] * 19, *[""] * 19], number=list(range(40)))
    columns = DatasetColumns(findings=None, group="patient")
    _, validation = split_rows(rows, columns, 0.5)
    assert len(validation) == pytest.approx(20, abs=1)
    assert len({0, 1} & set(validation["number"])) in (0, 2)


def test_a_source_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset at .*nowhere"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"rows\.txt must be one of"):
        open_dataset(tmp_path / "rows.txt")
    dataset(label=[0]).rename_column("image", "picture").to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DatasetError, match="no image column 'image'"):
        open_dataset(tmp_path / "rows.parquet")


def training_data(tmp_path, rows: Dataset, **arguments):
    rows.to_parquet(tmp_path / "rows.parquet")
    return open_training_data(DataArguments(dataset=str(tmp_path / "rows.parquet"), **arguments))


def test_training_data_knows_labels_and_leaves_out_what_nobody_annotated(tmp_path):
    findings = [{"Edema": i % 2, "ILD": -1, "Nodule/Mass": 0} for i in range(20)]
    data = training_data(tmp_path, dataset(label=["a", "b"] * 10, findings=findings), validation_fraction=0.2)
    assert data.labels == {
        "id2label": {0: "a", 1: "b"},
        "local_labels": ["Edema", "Nodule/Mass"],
        "problem_type": "single_label_classification",
    }
    assert (len(data.train), len(data.validation)) == (16, 4)
    assert data.preparation == {}
    processor = MLCAKImageProcessor(size=28, fit="squash")
    data.set_fit_and_voi(processor)
    assert (processor.fit, processor.voi) == ("squash", "dicom"), "unchanged where the preparation is unknown"


def test_a_smaller_draw_of_training_images_is_part_of_a_larger_one(tmp_path):
    rows = dataset(label=[0, 1] * 20, image_id=[f"i{n}" for n in range(40)])
    opened = [training_data(tmp_path, rows, findings_column="none", max_train_samples=n) for n in (8, 16, None)]
    drawn = [set(data.train["image_id"]) for data in opened]
    assert [len(ids) for ids in drawn] == [8, 16, 34]
    assert drawn[0] < drawn[1] < drawn[2]
    assert all(data.validation["image_id"] == opened[0].validation["image_id"] for data in opened)
    with pytest.raises(DatasetError, match="must be from 1 to the 34 training images; got 35"):
        training_data(tmp_path, rows, findings_column="none", max_train_samples=35)


def test_training_data_takes_the_findings_it_is_told(tmp_path):
    rows = dataset(label=[0, 1] * 5, findings=[["Edema"], ["Nodule/Mass", "Hernia"]] * 5)
    assert training_data(tmp_path, rows, findings=["Hernia", "Edema"]).labels["local_labels"] == ["Hernia", "Edema"]
    assert training_data(tmp_path, rows, findings=["none"]).labels["local_labels"] == []
    with pytest.raises(DatasetError, match=r"no findings \['Edma'\].*\['Edema', 'Hernia', 'Nodule/Mass'\]"):
        training_data(tmp_path, rows, findings=["Edma"])


def test_real_chest_x_rays_open_as_they_are(shared_data):
    nih = open_training_data(
        DataArguments(
            str(shared_data / "nih-cxr-256" / "train.parquet"), label_column="none", group_column="patient_id"
        )
    )
    assert len(nih.train) + len(nih.validation) == 709
    assert nih.labels["id2label"] == {0: "Normal", 1: "Abnormal"}
    assert "Pneumothorax" in nih.labels["local_labels"]
    assert set(nih.train["patient_id"]).isdisjoint(nih.validation["patient_id"])
    kermany = open_training_data(
        DataArguments(
            str(shared_data / "kermany-pneumonia-224" / "train.parquet"),
            findings_column="none",
            group_column="patient_id",
        )
    )
    assert kermany.labels["id2label"] == {0: "normal", 1: "pneumonia"}
    assert kermany.labels["local_labels"] == []
