"""Models with a convolutional trunk: the same grid of tokens, alone in their batch, saved, compiled and exported."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_models import TYPES, backbone_config, images, randomise, tiny_model
from transformers import ViTModel

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification
from mlcak_hf.convolutional_trunk_mlcak import ConvolutionalTrunk, trunk_strides
from mlcak_hf.errors import RecipeError
from mlcak_hf.training.models import ModelArguments, build_model

CONV = {"patch_embedding": "conv", "trunk_widths": [8, 16, 16]}
LABELS = {"id2label": {0: "Normal", 1: "Abnormal"}, "local_labels": [], "problem_type": "single_label_classification"}


def trunk_of(model):
    return model.backbone.embeddings.patch_embeddings.projection


@pytest.mark.parametrize(
    ("image_size", "patch_size", "blocks", "expected"),
    [
        (28, 4, 3, (1, [1, 2, 2])),
        (56, 4, 3, (1, [1, 2, 2])),
        (112, 8, 3, (2, [1, 2, 2])),
        (224, 16, 3, (4, [1, 2, 2])),
        (224, 8, 2, (4, [1, 2])),
        (28, 1, 3, (1, [1, 1, 1])),
        (57, 8, 3, (2, [1, 2, 2])),
    ],
)
def test_strides_reduce_to_56_px_first_and_multiply_to_the_patch_size(image_size, patch_size, blocks, expected):
    assert trunk_strides(image_size, patch_size, blocks) == expected


@pytest.mark.parametrize(("image_size", "patch_size"), [(28, 4), (56, 4), (112, 8), (224, 16)])
def test_no_residual_block_works_above_56_px(image_size, patch_size):
    sides = []
    with torch.device("meta"):
        trunk = ConvolutionalTrunk(image_size, patch_size, 1, 24, [8, 8, 8])
        for block in trunk.blocks:
            block.register_forward_hook(lambda module, inputs, output: sides.append(inputs[0].shape[-1]))
        tokens = trunk(torch.empty(2, 1, image_size, image_size))
    assert max(sides) <= 56
    assert tokens.shape == (2, 24, image_size // patch_size, image_size // patch_size)


@pytest.mark.parametrize(("image_size", "patch_size"), [(28, 4), (112, 8), (224, 16)])
def test_the_first_convolution_sees_every_pixel(image_size, patch_size):
    stem = randomise(ConvolutionalTrunk(image_size, patch_size, 1, 24, [8, 8, 8])).stem
    image = torch.zeros(1, 1, image_size, image_size, requires_grad=True)
    stem.conv(image + 1).sum().backward()
    assert image.grad.ne(0).all()


def trunk_by_hand(trunk, x):
    """The trunk of three blocks with strides 1, 2 and 2, written out."""

    def conv_norm(part, x, stride):
        weight = part.conv.weight
        filters = torch.stack([(w - w.mean()) / w.std() / w.numel() ** 0.5 for w in weight])
        y = F.conv2d(x, filters, stride=stride, padding=weight.shape[-1] // 2)
        groups = y.reshape(len(y), 8, -1)
        groups = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return groups.reshape(y.shape) * part.norm.weight[:, None, None] + part.norm.bias[:, None, None]

    x = conv_norm(trunk.stem, x, 1).relu()
    for block, stride in zip(trunk.blocks, (1, 2, 2), strict=True):
        same = stride == 1 and block.first.conv.in_channels == block.first.conv.out_channels
        other = x if same else conv_norm(block.shortcut, x, stride)
        x = (conv_norm(block.second, conv_norm(block.first, x, stride).relu(), 1) + other).relu()
    return F.conv2d(x, trunk.to_tokens.weight, trunk.to_tokens.bias)


@pytest.mark.parametrize("widths", [[8, 8, 8], [8, 16, 24]])
def test_tokens_equal_a_slow_reference(widths):
    trunk = randomise(ConvolutionalTrunk(16, 4, 1, 24, widths))
    torch.testing.assert_close(trunk(images()), trunk_by_hand(trunk, images()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", TYPES)
def test_tokens_of_an_image_do_not_depend_on_its_batch(model_type):
    """Accumulation and several processes are exact only without statistics of a batch, in training too."""
    model, x = tiny_model(model_type, **CONV).train(), images(5)
    whole = model(x).logits
    parts = torch.cat([model(x[:1]).logits, model(x[1:]).logits])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", TYPES)
def test_attention_has_the_layout_of_the_linear_twin_and_every_weight_a_gradient(model_type):
    model, twin = tiny_model(model_type, **CONV).train(), tiny_model(model_type)
    outputs = model(images(), labels=torch.tensor([0, 1]), local_targets=torch.ones(2, 3), output_attentions=True)
    expected = twin(images(), output_attentions=True)
    assert [level.shape for level in outputs.attentions] == [level.shape for level in expected.attentions]
    torch.testing.assert_close(outputs.mlcak.sum(dim=-1), torch.ones(outputs.mlcak.shape[:2]))
    (outputs.loss + outputs.mlcak.square().sum()).backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]


@pytest.mark.parametrize("model_type", TYPES)
def test_saved_model_gives_the_same_bits(model_type, tmp_path):
    model, x = tiny_model(model_type, **CONV), images()
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    loaded, report = MLCAKForCXRClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    before, after = model(x, output_attentions=True), loaded(x, output_attentions=True)
    for name in ("logits", "local_logits", "mlcak"):
        assert torch.equal(before[name], after[name]), name


def test_a_new_trunk_on_linear_weights_is_initialised(tmp_path):
    """from_pretrained builds on the meta device: what it does not find must not come out as garbage."""
    tiny_model().save_pretrained(tmp_path)
    loaded, report = MLCAKForCXRClassification.from_pretrained(tmp_path, **CONV, output_loading_info=True)
    assert len(report["missing_keys"]) == len(trunk_of(loaded).state_dict())
    for name, weight in trunk_of(loaded).named_parameters():
        if "norm" in name or name == "to_tokens.bias":
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("norm.weight")))), name
        else:
            assert 0.01 < weight.std() < 0.03, name


def test_bf16_and_autocast_stay_near_float32():
    model, x = tiny_model(**CONV), images()
    expected = model(x).logits
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x).logits.float(), expected, rtol=0.1, atol=0.1)
    torch.testing.assert_close(model.bfloat16()(x.bfloat16()).logits.float(), expected, rtol=0.2, atol=0.2)


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(**CONV).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(images(), output_attentions=True).mlcak.square().sum().backward()
        gradients.append(trunk_of(model).stem.conv.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0].any()


@pytest.mark.slow
def test_compiles_into_one_graph_with_gradients():
    model, x = tiny_model(**CONV), images()

    def gradients(run):
        model.zero_grad()
        outputs = run(x, output_attentions=True)
        (outputs.logits.sum() + 30 * outputs.mlcak.square().sum()).backward()
        return outputs.mlcak.detach(), {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }

    mlcak, expected = gradients(model)
    compiled_mlcak, found = gradients(torch.compile(model, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(compiled_mlcak, mlcak, rtol=0, atol=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_exports_into_one_graph():
    model, x = tiny_model(**CONV), images()
    wanted = {"output_attentions": True, "return_dict": False}
    exported = torch.export.export(model, (x,), wanted, strict=False).module()
    torch.testing.assert_close(exported(x, **wanted), model(x, **wanted), rtol=0, atol=1e-6)


class Outputs(torch.nn.Module):
    """Logits and attention as a tuple, as ONNX needs them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        outputs = self.model(pixel_values, output_attentions=True)
        return outputs.logits, outputs.local_logits, outputs.mlcak


@pytest.mark.slow
def test_onnx_gives_the_same_numbers_at_every_batch_size(tmp_path):
    pytest.importorskip("onnxscript", reason="export to ONNX needs onnx and onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime", reason="running ONNX needs onnxruntime")
    model, file = tiny_model(**CONV), tmp_path / "model.onnx"
    torch.onnx.export(
        Outputs(model).eval(), (images(),), file, dynamo=True, input_names=["pixel_values"], external_data=False,
        output_names=["logits", "local_logits", "mlcak"], dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5):
        x = images(batch)
        found = session.run(None, {"pixel_values": x.numpy()})
        for ours, theirs in zip(found, Outputs(model)(x), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-5)


# Where the trunk comes from


@pytest.mark.parametrize("kind", ["size", "trained"])
def test_a_model_to_train_keeps_its_trunk(kind, tmp_path):
    name = "student-conv-28"
    if kind == "trained":
        tiny_model(**CONV, local_labels=[]).save_pretrained(tmp_path)
        _, processor = build_model(ModelArguments(name), LABELS)
        processor.size = {"height": 16, "width": 16}
        processor.save_pretrained(tmp_path)
        name = str(tmp_path)
    model, _ = build_model(ModelArguments(name), LABELS)
    assert model.config.patch_embedding == "conv"
    assert model.config.trunk_widths == ([32, 64, 128] if kind == "size" else CONV["trunk_widths"])
    assert isinstance(trunk_of(model), ConvolutionalTrunk)
    if kind == "trained":
        for parameter, expected in zip(
            model.parameters(), tiny_model(**CONV, local_labels=[]).parameters(), strict=True
        ):
            assert torch.equal(parameter, expected)


def test_a_pretrained_backbone_under_a_trunk_is_refused(tmp_path):
    ViTModel(backbone_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="A pretrained backbone has patch_embedding 'linear'; got 'conv'"):
        MLCAKForCXRClassification.from_backbone(tmp_path, 16, 4, patch_embedding="conv")
    with pytest.raises(RecipeError, match="--backbone must be left out for student-conv-28"):
        build_model(ModelArguments("student-conv-28", backbone=str(tmp_path)), LABELS)


def test_a_saved_configuration_without_a_trunk_is_linear():
    """Earlier configurations have neither field."""
    new = ("patch_embedding", "trunk_widths")
    saved = {name: value for name, value in MLCAKConfig().to_diff_dict().items() if name not in new}
    assert isinstance(trunk_of(MLCAKForCXRClassification(MLCAKConfig(**saved))), torch.nn.Conv2d)
