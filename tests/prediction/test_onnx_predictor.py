"""The predictor of exported files against the one of PyTorch, and files that are refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_model

from mlcak_hf import MLCAKError, MLCAKImageProcessor, OnnxPredictor, RadiographPredictor

REASON = (
    'ONNX MISSING, so that NO EXPORTED FILE IS PREDICTED WITH: run `make test-onnx`, or pip install "mlcak-hf[onnx]"'
)
onnx = pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("onnxscript", reason=REASON)
pytest.importorskip("onnxruntime", reason=REASON)

from mlcak_hf.deployment.export.onnx_folder import export_onnx  # noqa: E402


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny model with findings and a low resolution, and its export."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model().save_pretrained(folder / "model")
    MLCAKImageProcessor(size={"height": 16, "width": 16}, lowres=8).save_pretrained(folder / "model")
    export_onnx(folder / "model", folder / "onnx")
    return folder / "model", folder / "onnx"


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("radiographs")
    (folder / "a.dcm").write_text("not an image")
    Image.new("L", (90, 90)).save(folder / "black.png")
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 65536, (70 + 30 * index, 80), dtype=np.uint16)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_both_predictors_give_the_same(folders, radiographs, batch_size):
    files = sorted(radiographs.iterdir())
    model, exported = folders
    predictors = (RadiographPredictor.from_pretrained(model, device="cpu"), OnnxPredictor(exported / "model.onnx"))
    theirs, ours = (each.predict(files, batch_size=batch_size, attention=True) for each in predictors)
    assert [row.outcome for row in ours] == ["predicted"] * 3 + ["unreadable", "refused"]
    for own, other in zip(ours, theirs, strict=True):
        assert own.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        assert own.findings == pytest.approx(other.findings, abs=1e-4)
        assert (own.error, own.warning, own.refused_because) == (other.error, other.warning, other.refused_because)
        if other.attention is not None:
            np.testing.assert_allclose(own.attention, other.attention, atol=1e-5)


def test_the_command_chooses_the_runtime_by_the_model(mlcak, folders, radiographs, tmp_path):
    model, exported = folders
    picture = radiographs / "0.png"
    for name, source, options in (
        ("a", model, []), ("b", exported, []), ("c", exported / "model.onnx", ["--runtime", "onnx"]),
    ):  # fmt: skip
        code, _, err = mlcak("predict", source, picture, "--output", tmp_path / f"{name}.csv", *options)
        assert code == 0, err
    tables = [(tmp_path / f"{name}.csv").read_text().splitlines() for name in "abc"]
    assert tables[0][0] == tables[1][0]
    assert tables[1] == tables[2]
    code, _, err = mlcak("predict", exported, picture, "--heatmaps", tmp_path / "maps", "--format", "csv")
    assert code == 0, err
    assert (tmp_path / "maps" / "0.png").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runtime", "torch"], "is an exported ONNX model and cannot run on torch"),
        (["--device", "cuda"], "An ONNX model runs on the CPU; got --device cuda"),
        (["--heatmaps", "maps", "--explain", "gradient"], "'gradient' needs the gradients of PyTorch"),
        (["--heatmaps", "maps", "--explain", "gradient", "--label", "Rickets"], "must be one of the model's"),
    ],
)
def test_what_a_file_cannot_do_is_said(mlcak, folders, radiographs, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = mlcak("predict", folders[1], radiographs / "0.png", *options)
    assert code == 2
    assert said in " ".join(err.split())


def another_model(file: Path, folders) -> None:
    model = onnx.load(folders[1] / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, file)


def changed_labels(file: Path, folders) -> None:
    model = onnx.load(folders[1] / "model.onnx")
    (entry,) = model.metadata_props
    entry.value = entry.value.replace('"Normal", "Abnormal"', '"Normal", "Abnormal", "Other"')
    onnx.save(model, file)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (another_model, "has no metadata 'mlcak', so it is the model of another program"),
        (changed_labels, "does not fit its own metadata"),
        (lambda file, folders: file.write_bytes(pickle.dumps({"weights": [1.0]})), "it is not an ONNX model"),
        (lambda file, folders: file.write_text("<!doctype html>"), "it is not an ONNX model"),
        (lambda file, folders: file.write_bytes((folders[1] / "model.onnx").read_bytes()[:5000]), "or is damaged"),
        (lambda file, folders: file.write_bytes((folders[1] / "preprocess.onnx").read_bytes()), "Name model.onnx"),
        (lambda file, folders: None, "There is no file"),
    ],
)
def test_other_files_are_refused_in_one_sentence(folders, tmp_path, make, said):
    make(tmp_path / "given.onnx", folders)
    with pytest.raises(MLCAKError, match=said):
        OnnxPredictor(tmp_path / "given.onnx")


def test_a_folder_without_an_export_and_a_missing_onnxruntime_are_named(folders, tmp_path, monkeypatch):
    with pytest.raises(MLCAKError, match="holds no exported ONNX model"):
        OnnxPredictor(tmp_path)
    monkeypatch.setattr("mlcak_hf.prediction.onnx_predictor.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MLCAKError, match=r'which is not installed\. Run: pip install "mlcak-hf\[onnx\]"'):
        OnnxPredictor(folders[1])
