"""MLCAKForCXRClassification: heads, losses, saving, loading, training flags, pipeline."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_models import FINDINGS, TYPES, backbone_config, images, tiny_model
from transformers import AutoModel, AutoModelForImageClassification, pipeline

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.classification_loss_mlcak import global_classification_loss, local_classification_loss
from mlcak_hf.modeling_mlcak import MLCAKModel


@pytest.mark.parametrize("model_type", TYPES)
def test_heads_are_linear_on_the_final_norm_class_token(model_type):
    model, x = tiny_model(model_type), images()
    token = model.backbone(x).last_hidden_state[:, 0]
    normed = model.backbone.layernorm(model(x, output_hidden_states=True).hidden_states[-1])[:, 0]
    torch.testing.assert_close(token, normed)
    outputs = model(x)
    assert torch.equal(outputs.logits, token @ model.classifier.weight.T + model.classifier.bias)
    expected = token @ model.local_classifier.weight.T + model.local_classifier.bias
    torch.testing.assert_close(outputs.local_logits, expected, rtol=0, atol=1e-6)
    assert outputs.loss is None
    assert outputs.attentions is None
    assert outputs.mlcak is None


@pytest.mark.parametrize(
    ("model_type", "prefix"), [("vit", 1), ("deit", 2), ("dinov2", 1), ("dinov2_with_registers", 3)]
)
def test_tokens_are_prefix_plus_grid(model_type, prefix):
    registers = {"num_register_tokens": 2} if model_type == "dinov2_with_registers" else {}
    model = tiny_model(model_type, backbone=registers)
    assert model.config.num_prefix_tokens == prefix
    assert model.grid_size == (4, 4)
    assert model(images(), output_attentions=True).mlcak.shape == (2, prefix + 16, prefix + 16)


def test_plain_tuple_and_no_local_head():
    model = tiny_model(local_labels=[])
    outputs = model(images(), labels=torch.tensor([0, 1]), local_targets=torch.empty(2, 0))
    assert outputs.local_logits is None
    assert outputs.local_loss is None
    assert torch.equal(outputs.loss, outputs.global_loss)
    as_tuple = model(images(), labels=torch.tensor([0, 1]), return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], outputs.loss)
    assert not any("local" in name for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="without a local head"):
        model(images(), local_targets=torch.zeros(2, 3))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 32, 32), (1, 16, 16), (2, 1, 16, 12)])
def test_wrong_pixel_values_are_explained(shape):
    with pytest.raises(ValueError, match=r"\(batch, 1, 16, 16\).*Use the image processor"):
        tiny_model()(torch.zeros(shape))
    with pytest.raises(ValueError, match="must be floats"):
        tiny_model()(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))


def slow_bce(logit, target):
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def slow_ce(logits, targets):
    log_sum = math.log(sum(math.exp(value) for value in logits))
    return -sum(target * (value - log_sum) for value, target in zip(logits, targets, strict=True))


def test_losses_match_slow_references():
    logits = torch.tensor([[0.3, -1.2, 2.0], [1.0, 0.0, -0.5], [0.1, 0.2, 0.3], [2.0, -2.0, 0.0]])
    rows = logits.tolist()
    classes = torch.tensor([2, -1, 0, 1])
    expected = (slow_ce(rows[0], [0, 0, 1]) + slow_ce(rows[2], [1, 0, 0]) + slow_ce(rows[3], [0, 1, 0])) / 4
    assert global_classification_loss(logits, classes).item() == pytest.approx(expected, abs=1e-6)
    assert global_classification_loss(logits, classes, num_items=10).item() == pytest.approx(expected * 0.4, abs=1e-6)
    assert global_classification_loss(logits, classes, num_items=torch.tensor(8)).item() == pytest.approx(
        expected / 2, abs=1e-6
    )

    soft = torch.tensor([[0.2, 0.3, 0.5], [0.5, -1.0, 0.5], [0.0, 0.0, 1.0], [-1.0, -1.0, -1.0]])
    expected = (slow_ce(rows[0], [0.2, 0.3, 0.5]) + slow_ce(rows[2], [0, 0, 1])) / 4
    assert global_classification_loss(logits, soft).item() == pytest.approx(expected, abs=1e-6)

    entries = torch.tensor([[1.0, 0.0, -1.0], [-1.0, -1.0, -1.0], [0.25, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    expected = sum(
        slow_bce(value, target)
        for row, targets in zip(rows, entries.tolist(), strict=True)
        for value, target in zip(row, targets, strict=True)
        if target >= 0
    ) / (4 * 3)
    assert local_classification_loss(logits, entries).item() == pytest.approx(expected, abs=1e-6)
    assert local_classification_loss(logits, entries, num_items=2).item() == pytest.approx(2 * expected, abs=1e-6)
    multi = global_classification_loss(logits, entries, "multi_label_classification")
    assert multi.item() == pytest.approx(expected, abs=1e-6)


def test_soft_targets_that_are_hard_equal_classes():
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 1, 1, 0, -1])
    soft = torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0], [-1, -1]])
    torch.testing.assert_close(global_classification_loss(logits, classes), global_classification_loss(logits, soft))


def test_model_loss_is_global_plus_weighted_local():
    model = tiny_model(local_loss_weight=0.5)
    labels, local_targets = torch.tensor([1, -1]), torch.tensor([[1.0, 0, -1], [0, -1, -1]])
    outputs = model(images(), labels=labels, local_targets=local_targets)
    assert torch.equal(outputs.global_loss, global_classification_loss(outputs.logits, labels))
    assert torch.equal(outputs.local_loss, local_classification_loss(outputs.local_logits, local_targets))
    torch.testing.assert_close(outputs.loss, outputs.global_loss + 0.5 * outputs.local_loss)
    only_local = model(images(), local_targets=local_targets)
    torch.testing.assert_close(only_local.loss, 0.5 * outputs.local_loss)
    assert only_local.global_loss is None


def test_masked_sums_add_up_over_micro_batches():
    model, x = tiny_model(), images(5)
    labels, local_targets = torch.tensor([1, -1, 0, 0, -1]), torch.randint(-1, 2, (5, 3)).float()
    local_targets[3:] = -1
    whole = model(x, labels=labels, local_targets=local_targets)
    parts = [slice(0, 3), slice(3, 5)]
    outputs = [model(x[part]) for part in parts]
    split = sum(
        global_classification_loss(out.logits, labels[part], num_items=5)
        + local_classification_loss(out.local_logits, local_targets[part], num_items=5)
        for out, part in zip(outputs, parts, strict=True)
    )
    torch.testing.assert_close(split, whole.loss)


@pytest.mark.parametrize("labels", [torch.full((2,), -1), torch.full((2, 2), -1.0)])
def test_batch_without_labels_has_zero_differentiable_loss(labels):
    model = tiny_model()
    loss = model(images(), labels=labels, local_targets=torch.full((2, 3), -1.0)).loss
    assert loss.item() == 0
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name


def test_missing_labels_keep_gradients_finite_at_extreme_logits():
    logits = torch.tensor([[1e4, -1e4], [300.0, -300.0]], requires_grad=True)
    soft = torch.tensor([[-1.0, -1.0], [0.0, 1.0]])
    total = global_classification_loss(logits, soft) + local_classification_loss(logits, soft)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()
    assert torch.equal(logits.grad[0], torch.zeros(2))


@pytest.mark.parametrize("labels", [torch.zeros(3, dtype=torch.long), torch.zeros(2), torch.zeros(2, 2).long()])
def test_wrong_label_shapes_are_explained(labels):
    with pytest.raises(ValueError, match=r"labels must be integer classes of shape \(2,\) or float soft"):
        global_classification_loss(torch.zeros(2, 2), labels)
    with pytest.raises(ValueError, match=r"local_targets must have shape \(2, 3\); got \(2, 2\)"):
        local_classification_loss(torch.zeros(2, 3), torch.zeros(2, 2))


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("local_labels", [FINDINGS, []])
def test_every_parameter_gets_a_gradient(model_type, local_labels):
    model = tiny_model(model_type, local_labels=local_labels).train()
    model(images(), labels=torch.tensor([0, 1]), local_targets=torch.ones(2, len(local_labels))).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_trainer_flags():
    assert MLCAKForCXRClassification.accepts_loss_kwargs is False
    assert MLCAKForCXRClassification.supports_gradient_checkpointing
    assert "ViTLayer" in tiny_model()._no_split_modules
    ignored = MLCAKConfig().keys_to_ignore_at_inference
    kept = [
        name
        for name in tiny_model()(images(), labels=torch.tensor([0, 1]), output_attentions=True)
        if name not in ignored
    ]
    assert kept == ["loss", "logits", "local_logits"]


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("save_original_format", [None, False, True])
def test_saved_model_gives_the_same_bits(model_type, save_original_format, tmp_path):
    model, x = tiny_model(model_type, attention_levels=[1]), images()
    model.save_pretrained(
        tmp_path, **({} if save_original_format is None else {"save_original_format": save_original_format})
    )
    for auto_class in (MLCAKForCXRClassification, AutoModelForImageClassification):
        loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is MLCAKForCXRClassification
        assert not any(report.values()), report
        before, after = model(x, output_attentions=True), loaded(x, output_attentions=True)
        for name in ("logits", "local_logits", "mlcak"):
            assert torch.equal(before[name], after[name]), name
        for (name, old), new in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
            assert torch.equal(old, new), name


@pytest.mark.parametrize("model_type", TYPES)
def test_auto_model_loads_the_backbone_of_a_saved_model(model_type, tmp_path):
    model, x = tiny_model(model_type, attention_levels=[1]), images()
    model.save_pretrained(tmp_path)
    features, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(features) is MLCAKModel
    assert not report["missing_keys"]
    outputs, expected = features(x, output_attentions=True), model(x, output_attentions=True)
    assert torch.equal(outputs.pooler_output, outputs.last_hidden_state[:, 0])
    assert torch.equal(model.classifier(outputs.pooler_output), expected.logits)
    assert torch.equal(outputs.attentions[0], expected.attentions[0])
    features.save_pretrained(tmp_path / "features")
    again = AutoModel.from_pretrained(tmp_path / "features")(x, output_attentions=True)
    assert torch.equal(again.pooler_output, outputs.pooler_output)


def test_the_feature_extraction_pipeline_gives_the_class_token(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    processor = MLCAKImageProcessor(size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path)
    picture = Image.new("L", (20, 30), 99)
    found = pipeline("image-feature-extraction", model=str(tmp_path), pool=True)(picture)
    features = AutoModel.from_pretrained(tmp_path)(**processor(picture, return_tensors="pt")).pooler_output
    np.testing.assert_allclose(found, features.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("width", [24, 192])
def test_loaded_weights_lie_where_new_ones_do(width, tmp_path):
    """Matrix products round by the place of their operands in memory: these widths once gave other last bits."""
    torch.manual_seed(0)
    backbone = {"model_type": "vit", "image_size": 28, "patch_size": 4, "num_channels": 1, "hidden_size": width}
    backbone |= {"num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 2 * width}
    model = MLCAKForCXRClassification(MLCAKConfig(backbone_config=backbone)).eval()
    model.save_pretrained(tmp_path)
    loaded = MLCAKForCXRClassification.from_pretrained(tmp_path)
    assert all(parameter.data_ptr() % 64 == 0 for parameter in loaded.parameters())
    for batch in (1, 2, 5):
        x = torch.rand(batch, 1, 28, 28)
        for name in ("logits", "local_logits"):
            assert torch.equal(model(x)[name], loaded(x)[name]), (name, batch)


@pytest.mark.parametrize("model_type", TYPES)
def test_default_format_keeps_the_names_of_this_model(model_type, tmp_path):
    """The Trainer loads with strict=False: names written otherwise would be dropped without an error."""
    model = tiny_model(model_type)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


def test_weights_that_are_not_in_the_checkpoint_are_initialised(tmp_path):
    """from_pretrained builds on the meta device: what it does not find must not come out as garbage."""
    tiny_model(local_labels=[]).save_pretrained(tmp_path)
    loaded, report = MLCAKForCXRClassification.from_pretrained(
        tmp_path, local_labels=FINDINGS, output_loading_info=True
    )
    assert report["missing_keys"] == {"local_classifier.weight", "local_classifier.bias"}
    assert torch.equal(loaded.local_classifier.bias, torch.zeros(3))
    assert 0.005 < loaded.local_classifier.weight.std() < 0.04
    for name, tensor in [*loaded.named_parameters(), *loaded.named_buffers()]:
        assert torch.isfinite(tensor).all(), name
        assert tensor.device.type == "cpu", name


def test_fresh_models_of_one_seed_are_equal():
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(MLCAKForCXRClassification(MLCAKConfig(backbone_config=backbone_config())).state_dict())
    assert all(torch.equal(first, second) for first, second in zip(*(s.values() for s in states), strict=True))


def test_pipeline_on_a_saved_folder_asks_nothing(tmp_path, monkeypatch):
    """With the package installed nobody is asked at the terminal whether to run the folder's code."""

    def ask(question=""):
        pytest.fail(f"the user was asked: {question}")

    monkeypatch.setattr("builtins.input", ask)
    tiny_model().save_pretrained(tmp_path)
    MLCAKImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    answers = pipeline("image-classification", model=str(tmp_path))(Image.new("L", (20, 30), 99))
    assert {answer["label"] for answer in answers} == {"Normal", "Abnormal"}


def test_pipeline_gives_the_models_probabilities():
    model = tiny_model()
    processor = MLCAKImageProcessor(size={"height": 16, "width": 16})
    picture = Image.fromarray((np.random.default_rng(0).random((40, 30)) * 255).astype(np.uint8))
    classify = pipeline("image-classification", model=model, image_processor=processor)
    answers = {answer["label"]: answer["score"] for answer in classify(picture)}
    expected = model(processor(picture, return_tensors="pt")["pixel_values"]).logits.softmax(dim=-1)[0]
    assert answers == pytest.approx({"Normal": expected[0].item(), "Abnormal": expected[1].item()}, abs=1e-6)
    assert len(classify([picture, picture.convert("RGB")])) == 2


def test_saved_weights_follow_the_umask_like_the_configuration(tmp_path):
    MLCAKForCXRClassification(MLCAKConfig()).save_pretrained(tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]
