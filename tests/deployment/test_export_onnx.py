"""Exported ONNX files against the models they were made from, by onnxruntime."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import FINDINGS, tiny_model

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor, RadiographPredictor
from mlcak_hf.deployment.export import deviation, onnx_check, onnx_model
from mlcak_hf.deployment.export.onnx_folder import describe, export_onnx
from mlcak_hf.deployment.export.onnx_preprocessing import preprocessing_model
from mlcak_hf.errors import DeploymentError, MLCAKError
from mlcak_hf.prediction.onnx_metadata import METADATA_KEY, OnnxMetadata
from mlcak_hf.shipped import resolve_checkpoint

REASON = 'ONNX MISSING, so that NO EXPORT TO ONNX IS TESTED: run `make test-onnx`, or pip install "mlcak-hf[onnx]"'
onnx = pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("onnxscript", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)

CNN = {"model_type": "resnet", "num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
CNN |= {"image_size": 28}


def saved(folder: Path, model, **settings) -> Path:
    side, channels = model.config.image_size, model.config.num_channels
    settings = {"image_mean": [0.5] * channels, "image_std": [0.25] * channels} | settings
    model.save_pretrained(folder)
    MLCAKImageProcessor(size={"height": side, "width": side}, **settings).save_pretrained(folder)
    return folder


def small_cnn():
    torch.manual_seed(0)
    return MLCAKForCXRClassification(MLCAKConfig(backbone_config=CNN, local_labels=[])).eval()


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A plain ViT with findings, a CNN of three channels, and the shipped model with a reference, exported once."""
    folder = tmp_path_factory.mktemp("onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_check, "PHANTOMS", 2)
        patch.setattr(deviation, "_PHANTOM_PX", 96)
        patch.setattr(onnx_check, "LIMITS", onnx_check.LIMITS | {"int8": 1.0})  # random weights lose far more
        models = {
            "vit": saved(folder / "vit", tiny_model(backbone={"image_size": 28}), fit="squash"),
            "cnn": saved(folder / "cnn", small_cnn()),
            "shipped": "pneumonia-28",
        }
        made = {name: export_onnx(source, folder / f"{name}-onnx", ["float32"]) for name, source in models.items()
                if name != "shipped"}  # fmt: skip
        made["shipped"] = export_onnx("pneumonia-28", folder / "shipped-onnx", ["float32", "float16", "int8"])
    return {name: (str(models[name]), folder / f"{name}-onnx", made[name]) for name in models}


def run(file: Path, **inputs):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


def metadata_of(file: Path) -> OnnxMetadata:
    found = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_modelmeta()
    return OnnxMetadata.from_properties(found.custom_metadata_map, file.name)


@pytest.mark.parametrize("name", ["vit", "cnn", "shipped"])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_output_is_that_of_pytorch_in_a_batch_of_any_size(exports, name, batch):
    source, folder, _ = exports[name]
    predictor = RadiographPredictor.from_pretrained(source, device="cpu")
    model, config = predictor.model, predictor.model.config
    pixels = torch.randn(batch, config.num_channels, 28, 28, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        output = model(pixels, output_attentions=config.has_attention)
        tokens = super(MLCAKForCXRClassification, model).forward(pixels).pooler_output.numpy()
    expected = {"logits": output.logits.numpy()}
    if output.local_logits is not None:
        expected["local_logits"] = output.local_logits.numpy()
    if output.mlcak is not None:
        expected["attention"] = output.mlcak[:, 0, 1:].reshape(batch, 7, 7).numpy()
    if predictor.safeguards.reference is not None:
        centred = tokens - predictor.safeguards.reference.mean
        precision = predictor.safeguards.reference.precision.astype(float)
        expected["distance"] = np.array([math.sqrt(row @ precision @ row) for row in centred.astype(float)])
    found = run(folder / "model.onnx", pixel_values=pixels.numpy())
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-4, atol=1e-5, err_msg=key)


def test_each_model_has_the_outputs_that_it_can_give(exports):
    names = {name: [output.name for output in onnx.load(folder / "model.onnx").graph.output]
             for name, (_, folder, _) in exports.items()}  # fmt: skip
    assert names == {
        "vit": ["logits", "local_logits", "attention"],
        "cnn": ["logits"],
        "shipped": ["logits", "attention", "distance"],
    }


def test_no_layer_masks_anything(exports):
    for name, (_, folder, _) in exports.items():
        assert "Where" not in {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}, name


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (31, 3), (28, 28), (57, 200), (601, 450)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fit": "squash"},
        {"lowres": 14},
        {"do_normalize": False},
        {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.25, 0.4]},
    ],
)
def test_the_preprocessing_graph_gives_the_processors_pixel_values(settings, size, tmp_path):
    processor = MLCAKImageProcessor(size={"height": 28, "width": 28}, **settings)
    model = tiny_model(backbone={"image_size": 28, "num_channels": len(processor.image_mean)})
    metadata = replace(describe(RadiographPredictor(model, processor, "cpu")), part="preprocess")
    (tmp_path / "preprocess.onnx").write_bytes(preprocessing_model(metadata).SerializeToString())
    image = np.random.default_rng(0).random(size, dtype=np.float32)
    (found,) = run(tmp_path / "preprocess.onnx", image=image).values()
    expected = processor.reduce(image[None])
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-6


def test_smaller_files_stay_close_and_keep_the_distance_in_32_bit(exports):
    _, folder, made = exports["shipped"]
    sizes = [(folder / name).stat().st_size for name in ("model.onnx", "model_float16.onnx", "model_int8.onnx")]
    assert sizes[1] < 0.55 * sizes[0]
    assert sizes[2] < 0.45 * sizes[0]
    assert [difference.file for difference in made.differences] == [
        "model.onnx", "model_float16.onnx", "model_int8.onnx",
    ]  # fmt: skip
    assert [round(difference.probability, 2) for difference in made.differences] == [0, 0, 0]
    for name in ("model_float16.onnx", "model_int8.onnx"):
        graph = onnx.load(folder / name).graph
        (kept,) = [tensor for tensor in graph.initializer if tensor.name == "factor"]
        assert kept.data_type == onnx.TensorProto.FLOAT


def test_a_file_alone_says_everything_that_a_prediction_needs(exports):
    source, folder, _ = exports["shipped"]
    predictor = RadiographPredictor.from_pretrained(source)
    points = json.loads(Path(resolve_checkpoint(source), "operating_points.json").read_text())
    for name, part in (("model.onnx", "model"), ("model_int8.onnx", "model"), ("preprocess.onnx", "preprocess")):
        found = metadata_of(folder / name)
        assert (found.part, found.global_labels, found.size_px, found.fit) == (part, ["normal", "pneumonia"], 28, "pad")
        assert found.operating_points == points
        assert found.distance_limit == predictor.safeguards.reference.limit
        assert (found.model, found.weights) == ("pneumonia-28", predictor.weights)
        assert "Research use only" in found.notice
    assert metadata_of(exports["vit"][1] / "model.onnx").local_labels == FINDINGS
    assert metadata_of(exports["vit"][1] / "model.onnx").operating_points is None


def test_no_path_of_this_machine_is_in_a_file(exports):
    for _, folder, _ in exports.values():
        for file in folder.glob("*.onnx"):
            content = file.read_bytes()
            assert b".py" not in content, file
            assert str(Path(sys.prefix)).encode() not in content, file


def test_the_card_repeats_what_was_measured(exports):
    _, folder, made = exports["shipped"]
    card = (folder / "README.md").read_text()
    for row in made.differences:
        assert f"| `{row.file}` | {row.logit:.1e} | {row.probability:.1e} | {row.attention:.1e} |" in card
    assert f"by at most {made.pixel_difference:.1e}" in card
    assert 0 < made.pixel_difference <= 2e-6


def test_an_export_that_differs_is_not_written(tmp_path, monkeypatch):
    folder = saved(tmp_path / "model", tiny_model(backbone={"image_size": 28}))
    monkeypatch.setattr(deviation, "_PHANTOM_PX", 96)
    monkeypatch.setattr(onnx_check, "LIMITS", {"float32": 0.0})
    with pytest.raises(DeploymentError, match=r"model\.onnx must give every probability to 0"):
        export_onnx(folder, tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_missing_packages_are_named_with_the_command_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(DeploymentError, match=r'not installed: no_such_package\. Run: pip install "mlcak-hf\[onnx\]"'):
        export_onnx("pneumonia-28", tmp_path / "onnx")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({METADATA_KEY: None}, "it has no metadata 'mlcak'"),
        ({METADATA_KEY: "{"}, "cannot be read"),
        ({METADATA_KEY: '{"format": 2}'}, "its format is not 1"),
        ({METADATA_KEY: '{"format": 1}'}, "cannot be read"),
    ],
)
def test_metadata_of_another_program_or_version_are_refused(change, said):
    properties = {name: text for name, text in change.items() if text is not None}
    with pytest.raises(MLCAKError, match=said):
        OnnxMetadata.from_properties(properties, "model.onnx")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "onnx", "--head", "global"], "--head belongs to"),
        (["--to", "vit", "--dtype", "int8"], "--dtype belongs"),
    ],
)
def test_options_of_the_other_format_are_refused(mlcak, tmp_path, options, said):
    code, _, err = mlcak("export", "pneumonia-28", tmp_path / "out", *options)
    assert code == 2
    assert said in err
