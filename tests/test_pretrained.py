"""Models by folder or shipped name; folders without a model, with a damaged one, or without its image processor."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from transformers import ViTConfig, ViTForImageClassification

from mlcak_hf import MLCAKImageProcessor, RadiographPredictor
from mlcak_hf.distillation.teacher_files import load_teacher, teacher_config
from mlcak_hf.errors import DistillationError, MLCAKError, RecipeError
from mlcak_hf.evaluation.arguments import models_to_evaluate
from mlcak_hf.pretrained import load_model, load_processor
from mlcak_hf.shipped import resolve_model
from mlcak_hf.training.models import ModelArguments, build_model
from mlcak_hf.weights import weights_digest

TINY = {"image_size": 16, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
TINY |= {"intermediate_size": 48}


def test_errors_of_other_libraries_become_one_sentence(tmp_path):
    tiny_model().save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for load in (load_teacher, teacher_config):
        with pytest.raises(DistillationError, match="cut' cannot be loaded"):
            load(tmp_path / "cut")
    ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(RecipeError, match="must be 'mlcak'; got 'vit'"):
        load_model(tmp_path / "vit")
    config = tiny_model().config
    with pytest.raises(RecipeError, match=r"vit.* has no preprocessor_config\.json"):
        load_processor(tmp_path / "vit", config)
    MLCAKImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "cut")
    with pytest.raises(RecipeError, match=r"= \(1, 16, 16\); got \(1, 8, 8\)"):
        load_processor(tmp_path / "cut", config)
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "mlcak", "local_loss_weight": -1}')
    with pytest.raises(RecipeError, match="local_loss_weight"):
        load_model(tmp_path / "vit")


def test_a_pickle_is_refused_wherever_weights_are_loaded(tmp_path):
    folder = tmp_path / "pickled"
    model = tiny_model()
    model.save_pretrained(folder)
    MLCAKImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    native = ViTForImageClassification(ViTConfig(**TINY))
    native.config.save_pretrained(tmp_path / "vit")
    torch.save(native.state_dict(), tmp_path / "vit" / "pytorch_model.bin")
    labels = {"id2label": {0: "Normal", 1: "Abnormal"}, "local_labels": ["Edema"]}
    backbone = ModelArguments(model="student-tiny-28", backbone=str(tmp_path / "vit"))
    for load in (
        lambda: load_model(folder),
        lambda: RadiographPredictor.from_pretrained(folder),
        lambda: load_teacher(folder),
        lambda: load_teacher(tmp_path / "vit"),
        lambda: build_model(backbone, labels | {"problem_type": "single_label_classification"}),
    ):
        with pytest.raises(MLCAKError, match=r"pytorch_model\.bin is a pickle.*save_pretrained"):
            load()


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name != "classifier.bias"},
              tmp_path / "m" / "model.safetensors", {"format": "pt"})  # fmt: skip
    with pytest.raises(MLCAKError, match=r"weights do not fit its config and lack classifier\.bias"):
        load_model(tmp_path / "m")
    weights["classifier.bias"] = torch.zeros(7)
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    with pytest.raises(MLCAKError, match=r"m' cannot be loaded: .*mismatch"):
        load_model(tmp_path / "m")


def test_a_predictor_needs_the_processor_of_its_model(tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    with pytest.raises(MLCAKError, match=r"has no preprocessor_config\.json\. Copy preprocessor_config\.json from"):
        RadiographPredictor.from_pretrained(tmp_path / "m")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package with one trained checkpoint, `chest-16`."""
    monkeypatch.setattr("mlcak_hf.shipped.hub_configs_dir", lambda: tmp_path)
    folder = tmp_path / "checkpoints" / "chest-16"
    tiny_model().save_pretrained(folder)
    MLCAKImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_a_checkpoint_of_the_package_is_named_like_a_folder(shipped):
    predictor = RadiographPredictor.from_pretrained("chest-16")
    assert predictor.model_name == "chest-16"
    assert predictor.weights == weights_digest(shipped) == weights_digest("chest-16")
    assert models_to_evaluate(["a=chest-16"])[0].folder == str(shipped)
    assert torch.equal(load_teacher("chest-16").classifier.weight, load_model(shipped).classifier.weight)
    assert resolve_model("chest-16") == str(shipped)


def test_a_training_that_starts_from_16_bit_weights_runs_in_32_bit(shipped):
    weights = load_file(shipped / "model.safetensors")
    save_file({name: value.half() for name, value in weights.items()}, shipped / "model.safetensors", {"format": "pt"})
    assert load_model(shipped).dtype == torch.float32
    labels = {"id2label": {0: "Normal", 1: "Abnormal"}, "local_labels": ["Edema"]}
    model, _ = build_model(ModelArguments(model="chest-16"), labels | {"problem_type": "single_label_classification"})
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_folder_of_the_same_name_comes_before_the_checkpoint(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model(seed=1).save_pretrained("chest-16")
    assert not torch.equal(load_model("chest-16").classifier.weight, load_model(shipped).classifier.weight)


def test_an_unknown_checkpoint_lists_those_that_exist(shipped):
    with pytest.raises(MLCAKError, match=r"Checkpoints in this package: chest-16\. Did you mean 'chest-16'\?"):
        RadiographPredictor.from_pretrained("chest-61")
