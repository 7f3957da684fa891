"""Batches of files, as `datasets.map` and Ray Data give them: the rows of the predictor, a reason for each bad file."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset, Image
from PIL import Image as PillowImage
from tiny_models import tiny_model

from mlcak_hf import BatchPredictor, MLCAKError, MLCAKImageProcessor, RadiographPredictor
from mlcak_hf.prediction.batches import finished_files, list_files
from mlcak_hf.prediction.row_formats import flat_row, table_columns


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    MLCAKImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Three pictures, a text file and a missing one."""
    folder = tmp_path_factory.mktemp("archive")
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (70 + index, 80), dtype=np.uint8)
        PillowImage.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "text.dcm").write_text("not an image")
    return [*(str(folder / f"{index}.png") for index in range(3)), str(folder / "text.dcm"), str(folder / "gone.dcm")]


@pytest.fixture(scope="module")
def expected(model, files) -> list[dict]:
    predictor = RadiographPredictor.from_pretrained(model, device="cpu")
    empty = dict.fromkeys(table_columns(predictor))
    return [empty | flat_row(prediction, predictor.provenance) for prediction in predictor.predict(files)]


def without_settings(table: pyarrow.Table) -> list[dict]:
    return table.drop_columns(["settings"]).to_pylist()


def test_a_batch_has_the_rows_of_the_predictor(model, files, expected):
    predict = BatchPredictor(model, device="cpu")
    for batch in ({"file": files}, {"file": np.array(files, dtype=object)}, pyarrow.table({"file": files})):
        assert without_settings(predict(batch)) == expected
    assert [row["error"] is None for row in expected] == [True, True, True, False, False]


def test_every_batch_has_the_same_types(model, files):
    predict = BatchPredictor(model, device="cpu")
    assert predict({"file": files[:1]}).schema == predict({"file": files[-1:]}).schema == predict({"file": []}).schema


def test_bytes_and_uris_give_the_same_as_paths(model, files, expected):
    predict = BatchPredictor(model, device="cpu")
    contents = [Path(file).read_bytes() for file in files[:4]]
    assert without_settings(predict({"file": files[:4], "bytes": contents})) == expected[:4]
    rows = without_settings(predict({"file": [f"file://{file}" for file in files]}))
    assert [row["global/Normal"] for row in rows] == [row["global/Normal"] for row in expected]
    assert "cannot be fetched" in rows[-1]["error"]
    assert "cannot be reached" in predict({"file": ["nowhere://a/b.dcm"]})["error"][0].as_py()


def test_an_unexpected_exception_costs_one_file(model, files, expected, monkeypatch):
    predict = BatchPredictor(model, device="cpu")
    run, seen = predict.predictor.run, []

    def fail_on_the_second(squares, attention):
        seen.append(squares[-1])
        if any(np.array_equal(square, seen[0]) for square in squares):
            raise RuntimeError("unexpected")
        return run(squares, attention)

    monkeypatch.setattr(predict.predictor, "run", fail_on_the_second)
    assert "The prediction failed (RuntimeError)" in predict({"file": files[1:2]})["error"][0].as_py()
    found = predict({"file": files}).to_pylist()
    assert [row["global/Normal"] is None for row in found] == [False, True, False, True, True]
    assert found[2]["global/Normal"] == pytest.approx(expected[2]["global/Normal"], abs=1e-6)


def test_datasets_map_gives_the_same_in_several_processes_and_keeps_other_columns(model, files, expected):
    rows = Dataset.from_dict({"file": files, "patient": list("aabbc")}).with_format("arrow")
    found = rows.map(BatchPredictor(model, device="cpu"), batched=True, batch_size=2, num_proc=2).with_format(None)
    assert found["patient"] == list("aabbc")
    assert found["global/Normal"][:3] == pytest.approx([row["global/Normal"] for row in expected[:3]], abs=1e-6)
    assert [row["error"] for row in found] == [row["error"] for row in expected]


def test_images_of_a_dataset_are_predicted_from_their_bytes(model, files, expected):
    rows = Dataset.from_dict({"image": files[:3]}).cast_column("image", Image(decode=False))
    embedded = rows.map(lambda row: {"image": {"bytes": Path(row["image"]["path"]).read_bytes(), "path": "x.png"}})
    predict = BatchPredictor(model, file_column="image.path", bytes_column="image.bytes", device="cpu")
    found = embedded.flatten().map(predict, batched=True, remove_columns=["image.bytes", "image.path"])
    assert [row["global/Normal"] for row in found] == [row["global/Normal"] for row in expected[:3]]


def test_it_travels_without_its_weights_and_is_told_apart_by_model_and_options(model):
    predict = BatchPredictor(model, device="cpu")
    sent = pickle.dumps(predict)
    assert len(sent) < 10_000
    assert pickle.loads(sent).settings == predict.settings
    assert BatchPredictor(model, device="cpu", operating_point="specificity").settings != predict.settings


def test_finished_files_are_those_of_whole_tables_with_the_same_settings(model, files, tmp_path):
    predict = BatchPredictor(model, device="cpu")
    assert finished_files(str(tmp_path / "missing"), predict.settings) == set()
    parquet.write_table(predict({"file": files[:2]}), tmp_path / "a.parquet")
    torn = (tmp_path / "a.parquet").read_bytes()[:-20]
    (tmp_path / "b.parquet").write_bytes(torn)
    assert finished_files(f"file://{tmp_path}", predict.settings) == set(files[:2])
    assert not (tmp_path / "b.parquet").exists()
    with pytest.raises(MLCAKError, match=r"another model or with other options\. Name another output"):
        finished_files(str(tmp_path), "another")
    parquet.write_table(pyarrow.table({"file": ["mine"]}), tmp_path / "c.parquet")
    with pytest.raises(MLCAKError, match="holds other data"):
        finished_files(str(tmp_path), predict.settings)
    assert (tmp_path / "c.parquet").exists()


def test_a_bucket_is_listed_by_suffix(files, tmp_path):
    folder = Path(files[0]).parent
    assert list_files(str(folder)) == sorted(files[:4])
    assert [uri.removeprefix("file://") for uri in list_files(f"file://{folder}")] == sorted(files[:4])
    with pytest.raises(MLCAKError, match="There are no radiographs"):
        list_files(f"file://{tmp_path}")
