"""A native export against the model it was made from, by plain transformers."""

import json
import re
import subprocess
import sys
from importlib.metadata import distribution

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image
from tiny_models import FINDINGS, backbone_config, tiny_model
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTForImageClassification

from mlcak_hf import MLCAKConfig, MLCAKImageProcessor, RadiographPredictor
from mlcak_hf.deployment.export import deviation
from mlcak_hf.deployment.export.native_vit import check_expressible, export_vit, native_model, stock_processor
from mlcak_hf.errors import DeploymentError

TINY = {"image_size": 28, "patch_size": 4}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(deviation, "PHANTOMS", 1)
    monkeypatch.setattr(deviation, "_PHANTOM_PX", 96)


def saved(tmp_path, processor=None, backbone=TINY, **fields):
    """Save a tiny model and its processor; return both with the folder."""
    model = tiny_model(backbone=backbone, **fields)
    processor = processor or MLCAKImageProcessor(size={"height": 28, "width": 28})
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return model, processor, tmp_path / "model"


def noise(size=(224, 224), mode="L", seed=0):
    shape = size if mode == "L" else (*size, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def original_probabilities(model, processor, image):
    with torch.no_grad():
        output = model(**processor(image, return_tensors="pt"))
    return np.concatenate([output.logits.softmax(-1)[0], output.local_logits.sigmoid()[0]])


def native_probabilities(native, processor, image):
    with torch.no_grad():
        return native(**processor(image, return_tensors="pt")).logits.sigmoid()[0].numpy()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_plain_transformers_gives_the_same_probabilities_at_224_px(tmp_path, mode):
    model, processor, folder = saved(tmp_path)
    made = export_vit(folder, tmp_path / "native")
    native = AutoModelForImageClassification.from_pretrained(tmp_path / "native")
    stock = AutoImageProcessor.from_pretrained(tmp_path / "native")
    assert type(native) is ViTForImageClassification
    assert list(native.config.id2label.values()) == made.labels == ["Normal", "Abnormal", *FINDINGS]
    for seed in range(4):
        image = noise(mode=mode, seed=seed)
        expected = original_probabilities(model, processor, image)
        assert np.abs(native_probabilities(native, stock, image) - expected).max() <= 1e-5


def test_the_global_head_alone_keeps_its_softmax(tmp_path):
    model, processor, _ = saved(tmp_path)
    native = native_model(model, processor, "global")
    assert native.config.problem_type == "single_label_classification"
    with torch.no_grad():
        found = native(**stock_processor(processor, 224)(noise(), return_tensors="pt")).logits.softmax(-1)[0]
    assert np.abs(found.numpy() - original_probabilities(model, processor, noise())[:2]).max() <= 1e-5


@pytest.mark.parametrize(
    ("settings", "channels"),
    [
        ({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}, 3),
        ({"do_normalize": False}, 1),
        ({"fit": "squash"}, 1),
    ],
)
def test_the_processors_settings_are_folded_in(tmp_path, settings, channels):
    processor = MLCAKImageProcessor(size={"height": 28, "width": 28}, **settings)
    model, _, _ = saved(tmp_path, processor, {**TINY, "num_channels": channels})
    native, stock = native_model(model, processor), stock_processor(processor, 224)
    assert np.allclose(
        native_probabilities(native, stock, noise()), original_probabilities(model, processor, noise()), atol=1e-5
    )


@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_images_of_other_shapes_differ_only_by_the_resizing(tmp_path, fit):
    processor = MLCAKImageProcessor(size={"height": 28, "width": 28}, fit=fit)
    # Halving by a bilinear filter is close to an average; the padding or the squeezing must agree.
    image = noise((7, 14)).resize((224, 448), Image.Resampling.BICUBIC)
    stock = np.asarray(stock_processor(processor, 224)(image)["pixel_values"])[0, 0]
    ours = np.asarray(processor(image)["pixel_values"])[0, 0]
    assert np.abs(stock.reshape(28, 8, 28, 8).mean(axis=(1, 3)) - ours).max() < 0.1


def test_the_folder_holds_no_code_and_a_card_with_what_was_measured(tmp_path):
    _, _, folder = saved(tmp_path)
    made = export_vit(folder, tmp_path / "native")
    names = {path.name for path in (tmp_path / "native").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "phantom.png"}
    settings = [json.loads((tmp_path / "native" / name).read_text()) for name in sorted(names) if "config" in name]
    assert not any("auto_map" in entry for entry in settings)
    assert {(tmp_path / "native" / name).stat().st_mode for name in names} == {
        (tmp_path / "native" / "config.json").stat().st_mode
    }
    card = (tmp_path / "native" / "README.md").read_text()
    for row in made.deviations:
        assert f"| {row.height} x {row.width} | {row.images} | {row.mean:.1e} | {row.largest:.1e} |" in card
    assert made.deviations[0].largest <= 1e-5
    assert len({row.largest for row in made.deviations}) > 1


CNN = {"model_type": "resnet", "num_channels": 1, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (MLCAKConfig(backbone_config=backbone_config("deit")), "got a deit"),
        (MLCAKConfig(backbone_config=backbone_config("dinov2")), "got a dinov2"),
        (MLCAKConfig(backbone_config=CNN), "got a resnet"),
        (MLCAKConfig(patch_embedding="conv"), "got a convolutional trunk"),
        (MLCAKConfig(id2label={0: "a", 1: "b", 2: "c"}), "--head global"),
        (MLCAKConfig(local_labels=["Edema", "Abnormal"]), "both have Abnormal"),
    ],
)
def test_what_a_stock_vit_cannot_express_is_refused_with_the_reason(config, said):
    with pytest.raises(DeploymentError, match=said):
        check_expressible(config, MLCAKImageProcessor())


@pytest.mark.parametrize(("size", "side"), [(28, 224), (48, 240), (224, 224), (256, 256)])
def test_the_side_is_the_smallest_multiple_of_the_models_own_from_224_px(size, side):
    model = tiny_model(backbone={"image_size": size, "patch_size": size // 4})
    config = native_model(model, MLCAKImageProcessor(size={"height": size, "width": size})).config
    assert (config.image_size, config.patch_size) == (side, side // 4)


def test_three_global_labels_can_be_exported_alone():
    check_expressible(MLCAKConfig(id2label={0: "a", 1: "b", 2: "c"}), MLCAKImageProcessor(), "global")


@pytest.mark.parametrize("settings", [{"lowres": 14}, {"value_range": [0, 4095]}])
def test_steps_that_a_stock_processor_lacks_are_refused(settings):
    processor = MLCAKImageProcessor(size={"height": 28, "width": 28}, **settings)
    with pytest.raises(DeploymentError, match=f"processor's {next(iter(settings))} must be None"):
        check_expressible(MLCAKConfig(), processor)


def test_an_export_that_differs_is_not_written(tmp_path, monkeypatch):
    _, _, folder = saved(tmp_path)
    monkeypatch.setattr("mlcak_hf.deployment.export.native_vit.LIMIT", 0.0)
    with pytest.raises(DeploymentError, match="must give the same probabilities"):
        export_vit(folder, tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_output_with_files_is_left_alone(tmp_path):
    _, _, folder = saved(tmp_path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DeploymentError, match="new or empty folder"):
        export_vit(folder, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def needed(*names):
    """The named packages and those that they require, without extras."""
    found, waiting = {}, list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in found:
            found[name] = distribution(name)
            required = map(Requirement, found[name].requires or ())
            waiting += [each.name for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found.values()


@pytest.mark.slow
def test_pipeline_gives_the_same_where_only_transformers_torch_and_pillow_are_installed(tmp_path):
    export_vit("pneumonia-28-linear", tmp_path / "native")
    files = [tmp_path / f"{seed}.png" for seed in range(8)]
    for seed, file in enumerate(files):
        noise(seed=seed).save(file)
    (tmp_path / "packages").mkdir()
    for package in needed("transformers", "torch", "pillow"):
        for top in {file.parts[0] for file in package.files if file.parts[0] not in ("..", "__pycache__")}:
            (tmp_path / "packages" / top).symlink_to(package.locate_file(top))
    code = f"""
import importlib.util, json, sys
sys.path.append({str(tmp_path / "packages")!r})
from transformers import pipeline
classify = pipeline("image-classification", model=sys.argv[1], device="cpu")
present = [name for name in ("mlcak_hf", "pydicom", "datasets", "pytest", "PIL") if importlib.util.find_spec(name)]
print(json.dumps([present, classify(sys.argv[2:], top_k=5)]))
"""
    # -I and -S: no folder of installed packages and no checkout is on the path.
    command = [sys.executable, "-I", "-S", "-c", code, str(tmp_path / "native"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    present, answers = json.loads(done.stdout.splitlines()[-1])
    assert present == ["PIL"]
    ours = RadiographPredictor.from_pretrained("pneumonia-28-linear", device="cpu")
    for file, rows in zip(files, answers, strict=True):
        square = ours.processor(Image.open(file), return_tensors="pt")
        with torch.no_grad():
            expected = ours.model(**square).logits.softmax(-1)[0].tolist()
        found = {row["label"]: row["score"] for row in rows}
        assert found == pytest.approx(dict(zip(ours.global_labels, expected, strict=True)), abs=1e-5)
