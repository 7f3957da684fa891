"""Explanation maps against references by hand: matrix products, finite differences, and captum if it is installed."""

import numpy as np
import pytest
import torch
from tiny_models import TYPES, images, tiny_model
from torch import nn
from transformers import AttentionInterface

from mlcak_hf.errors import MLCAKError
from mlcak_hf.explanation.choices import METHODS, Explanation, label_index
from mlcak_hf.explanation.explain import explain, log_odds

LABEL = 1  # Nodule/Mass
STEP = 1e-4


def exact(model_type="vit", **fields):
    return tiny_model(model_type, **fields).double()


def encode(model, pixels):
    """What a model computes, by its public outputs: tokens of every layer."""
    return model(pixels, output_hidden_states=True).hidden_states


def in_tail(model, tokens):
    """The chosen label's score from the tokens that enter the last layer."""
    backbone = model.backbone
    last = list(backbone.layers if hasattr(backbone, "layers") else backbone.encoder.layer)[-1]
    found = last(tokens)
    return model.local_classifier(backbone.layernorm(found[0] if isinstance(found, tuple) else found)[:, 0])[:, LABEL]


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("levels", [None, [-1]])
def test_the_attention_map_is_the_class_tokens_row_of_the_models_own_map(model_type, levels):
    model, pixels = tiny_model(model_type, attention_levels=levels), images(2)
    with torch.no_grad():
        own = model(pixels, output_attentions=True).mlcak[:, 0, model.config.num_prefix_tokens :]
    found = explain(model, pixels, [0, 0], ["attention"])["attention"]
    assert found == pytest.approx(own.reshape(2, 4, 4).numpy(), abs=1e-6)


def test_rollout_is_the_product_of_the_layers_with_half_an_identity():
    model, pixels = exact(), images(2).double()
    flow = np.eye(17)[None]
    with torch.no_grad():
        for attention in model(pixels, output_attentions=True).attentions:
            flow = (attention.numpy() + np.eye(17)) / 2 @ flow
    found = explain(model, pixels, [0, 0], ["rollout"])["rollout"]
    assert found == pytest.approx(flow[:, 0, 1:].reshape(2, 4, 4), abs=1e-6)


@pytest.mark.parametrize("model_type", TYPES)
def test_grad_cam_weights_channels_by_their_mean_gradient(model_type):
    """The mean gradient of a channel is the slope of the score when that channel rises in every patch."""
    model, pixels = exact(model_type), images(2).double()
    prefix, width = model.config.num_prefix_tokens, 24
    with torch.no_grad():
        tokens = encode(model, pixels)[-2]
        rise = torch.zeros(width, 1, *tokens.shape[1:], dtype=torch.double)
        for channel in range(width):
            rise[channel, :, prefix:, channel] = STEP
        slopes = [(in_tail(model, tokens + each) - in_tail(model, tokens - each)) / (2 * STEP) for each in rise]
    weights = torch.stack(slopes, dim=1) / 16  # per patch
    expected = torch.einsum("bk,bpk->bp", weights, tokens[:, prefix:]).clamp(min=0)
    found = explain(model, pixels, [LABEL, LABEL], ["grad-cam"])["grad-cam"]
    assert found.reshape(2, 16) == pytest.approx(expected.numpy(), abs=1e-6)
    assert found.max() > 0


def test_gradient_attention_agrees_with_finite_differences_of_every_attention_weight():
    model, pixels, tokens = exact(), images(1).double(), 17
    change = {"layer": 0, "delta": torch.zeros(1, 3, tokens, tokens)}
    kept = []

    def changed(module, query, key, value, mask, scaling=None, **kwargs):
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        kept.append(weights)
        weights = weights + (change["delta"] if len(kept) - 1 == change["layer"] else 0)
        return (weights @ value).transpose(1, 2).contiguous(), None

    def score(layer, delta):
        kept.clear()
        change.update(layer=layer, delta=delta)
        return model(pixels.expand(len(delta), -1, -1, -1)).local_logits[:, LABEL]

    AttentionInterface.register("changed", changed)
    model.config.backbone_config._attn_implementation = "changed"
    each = STEP * torch.eye(3 * tokens * tokens, dtype=torch.double).reshape(-1, 3, tokens, tokens)
    relevance = np.eye(tokens)
    with torch.no_grad():
        score(0, torch.zeros(1, 3, tokens, tokens, dtype=torch.double))
        attentions = list(kept)
        for layer, attention in enumerate(attentions):
            slope = (score(layer, each) - score(layer, -each)) / (2 * STEP)
            weighted = (attention[0] * slope.reshape(3, tokens, tokens)).clamp(min=0).mean(dim=0)
            relevance = relevance + weighted.numpy() @ relevance
    model.config.backbone_config._attn_implementation = "mlcak"
    found = explain(model, pixels, [LABEL], ["gradient"])["gradient"]
    assert found.ravel() == pytest.approx(relevance[0, 1:], abs=1e-6)


def test_grad_cam_agrees_with_captum():
    captum = pytest.importorskip("captum.attr", reason="ORACLE MISSING: pip install captum to compare Grad-CAM with it")
    model, pixels = exact(), images(2).double()

    class Tail(nn.Module):
        """The last layer and the head, for patches with channels first, as captum expects them."""

        def __init__(self, class_token):
            super().__init__()
            self.patches, self.class_token = nn.Identity(), class_token

        def forward(self, patches):
            return in_tail(model, torch.cat([self.class_token, self.patches(patches).transpose(1, 2)], dim=1))

    tokens = encode(model, pixels)[-2].detach()
    tail = Tail(tokens[:, :1])
    reference = captum.LayerGradCam(tail, tail.patches).attribute(tokens[:, 1:].transpose(1, 2), relu_attributions=True)
    found = explain(model, pixels, [LABEL, LABEL], ["grad-cam"])["grad-cam"]
    assert found.ravel() == pytest.approx(reference.detach().numpy().ravel(), abs=1e-6)


@pytest.mark.parametrize("patch_embedding", ["linear", "conv"])
def test_maps_of_either_patch_embedding_leave_the_model_as_it_was(patch_embedding):
    model = tiny_model(patch_embedding=patch_embedding, trunk_widths=[8, 8, 8])
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # as in a teacher
    with torch.no_grad():
        before = model(images(3), output_attentions=True).mlcak
        maps = explain(model, images(3), [0, 1, 2])
        after = model(images(3), output_attentions=True).mlcak
    assert torch.equal(before, after)
    assert {name: found.shape for name, found in maps.items()} == dict.fromkeys(METHODS, (3, 4, 4))
    assert all((found >= 0).all() and found.max() > 0 for found in maps.values())


def test_each_image_of_a_batch_is_explained_for_its_own_label():
    model, pixels = exact(), images(3).double()
    together = explain(model, pixels, [0, 2, 4])
    for row, label in enumerate([0, 2, 4]):
        alone = explain(model, pixels[row : row + 1], [label])
        for method, maps in together.items():
            assert maps[row] == pytest.approx(alone[method][0], rel=1e-5)
    assert explain(model, pixels, [1, 2, 4])["gradient"][0] != pytest.approx(together["gradient"][0], rel=0.01)


def test_the_score_of_one_of_several_classes_is_its_log_odds():
    logits = torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.double)
    p = logits.softmax(dim=-1)
    assert torch.allclose(log_odds(logits, None, "single_label_classification"), (p / (1 - p)).log())
    local = torch.tensor([[3.0]], dtype=torch.double)
    assert log_odds(logits, local, "multi_label_classification").tolist() == [[3.0, 1.0, 2.0, 0.5]]


def test_bad_input_is_refused():
    model = tiny_model()
    with pytest.raises(MLCAKError, match="'attention', 'rollout', 'gradient' or 'grad-cam'; got 'lime'"):
        Explanation("lime")
    with pytest.raises(MLCAKError, match="same for every label"):
        Explanation("rollout", "Edema")
    with pytest.raises(MLCAKError, match=r"one of the model's Edema, Nodule/Mass, .*; got 'Fracture'"):
        label_index(model.config, "Fracture")
    with pytest.raises(MLCAKError, match="evaluation mode"):
        explain(model.train(), images(1), [0])
    with pytest.raises(MLCAKError, match="must be finite; got NaN"):
        explain(model.eval(), images(1) * float("nan"), [0])
