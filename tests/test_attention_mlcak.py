"""Captured attention: equal to eager, with gradients, under checkpointing, bf16, dropout and threads."""

import threading

import pytest
import torch
from tiny_models import TYPES, images, tiny_model

from mlcak_hf.attention_mlcak import _few_images, _HeadMeanAttention


def eager_maps(model, pixel_values):
    """Reference: head averages of the maps that transformers' own eager attention returns, for all layers."""
    model.set_attn_implementation("eager")
    try:
        return [attention.mean(dim=1) for attention in model.backbone(pixel_values, output_attentions=True).attentions]
    finally:
        model.set_attn_implementation("mlcak")


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("levels", [None, [0], [-1, 0]])
def test_captured_attention_matches_eager(model_type, levels):
    model, x = tiny_model(model_type, attention_levels=levels), images()
    outputs = model(x, output_attentions=True)
    expected = eager_maps(model, x)
    chosen = [0, 1, 2] if levels is None else sorted(level % 3 for level in levels)
    assert len(outputs.attentions) == len(chosen)
    for attention, level in zip(outputs.attentions, chosen, strict=True):
        torch.testing.assert_close(attention, expected[level], rtol=0, atol=1e-6)
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:2]))
        # The test means something only where maps are far from uniform and from each other.
        assert attention.std() > 0.02
    mean = torch.stack([expected[level] for level in chosen]).mean(dim=0)
    torch.testing.assert_close(outputs.mlcak, mean, rtol=0, atol=1e-6)
    # A captured level is computed another way, equal but for rounding.
    torch.testing.assert_close(outputs.logits, model(x).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", TYPES)
def test_gradients_through_captured_attention_match_eager(model_type):
    model, x = tiny_model(model_type), images()
    target = torch.rand(
        2, *model(x, output_attentions=True).mlcak.shape[1:], generator=torch.Generator().manual_seed(3)
    )

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    captured = gradients((model(x, output_attentions=True).mlcak - target).square().sum())
    eager = gradients((torch.stack(eager_maps(model, x)).mean(dim=0) - target).square().sum())
    assert captured.keys() == eager.keys()
    assert any("q_proj" in name for name in captured)
    for name, gradient in captured.items():
        torch.testing.assert_close(gradient, eager[name], rtol=1e-4, atol=4e-6, msg=name)


@pytest.mark.parametrize("model_type", TYPES)
def test_all_gradients_of_loss_and_attention_together_match_eager(model_type):
    """What distillation does: the output of every level and its map both reach the loss."""
    x, labels = images(), torch.tensor([0, 1])

    def gradients(eager):
        model = tiny_model(model_type)
        if eager:
            model.set_attn_implementation("eager")
            outputs = model.backbone(x, output_attentions=True)
            logits = model.classifier(outputs.last_hidden_state[:, 0])
            mlcak = torch.stack([attention.mean(dim=1) for attention in outputs.attentions]).mean(dim=0)
        else:
            outputs = model(x, output_attentions=True)
            logits, mlcak = outputs.logits, outputs.mlcak
        (torch.nn.functional.cross_entropy(logits, labels) + 30 * mlcak.square().sum()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    captured, eager = gradients(False), gradients(True)
    assert captured.keys() == eager.keys()
    for name, gradient in captured.items():
        torch.testing.assert_close(gradient, eager[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_backward_pass_is_the_derivative():
    """Finite differences in double precision, with a mask and a scale."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=generator) for _ in range(3)]
    mask = torch.zeros(5, 5, dtype=torch.float64)
    mask[:, -1] = -2.0

    def attend(*inputs):
        output, mean = _HeadMeanAttention.apply(*inputs, mask, 0.7)
        return output, mean.double()

    for tensor in tensors:
        tensor.requires_grad_()
    # The map is float32, so steps must be large.
    assert torch.autograd.gradcheck(attend, tensors, eps=1e-3, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("model_type", TYPES)
def test_no_map_of_a_head_is_kept_for_the_backward_pass(model_type):
    model, x = tiny_model(model_type), images()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        outputs = model(x, output_attentions=True)
    heads, tokens = 3, outputs.mlcak.shape[-1]
    assert kept
    assert not [shape for shape in kept if shape[-3:] == (heads, tokens, tokens)]


@pytest.mark.parametrize(("device", "entries"), [("cpu", 1 << 20), ("meta", 1 << 24)])
def test_the_maps_of_a_large_batch_never_exist_at_once(device, entries):
    query = torch.empty(128, 12, 197, 64, device=device)
    parts = [part for part, _ in _few_images(query, query, None)]
    assert [image for part in parts for image in range(128)[part]] == list(range(128))
    assert entries / 2 < len(range(128)[parts[0]]) * 12 * 197 * 197 <= entries


@pytest.mark.slow
def test_a_compiled_model_keeps_no_map_of_a_head_either():
    model, x = tiny_model(), images()
    model(x, output_attentions=True)
    compiled, kept = torch.compile(model, backend="aot_eager"), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        outputs = compiled(x, output_attentions=True)
    heads, tokens = 3, outputs.mlcak.shape[-1]
    assert kept
    assert not {(2, heads, tokens, tokens), (2 * heads, tokens, tokens)} & set(kept)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["vit", "deit", "dinov2"])
def test_compiles_into_one_graph_with_gradients(model_type):
    model, x = tiny_model(model_type), images()

    def gradients(run):
        model.zero_grad()
        outputs = run(x, output_attentions=True)
        (outputs.logits.sum() + outputs.local_logits.sum() + 30 * outputs.mlcak.square().sum()).backward()
        return outputs.mlcak.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    mlcak, expected = gradients(model)
    compiled_mlcak, found = gradients(torch.compile(model, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(compiled_mlcak, mlcak, rtol=0, atol=1e-6)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4, msg=name)


def test_levels_can_be_changed_and_are_checked():
    model, x = tiny_model(), images()
    everything = model(x, output_attentions=True).attentions
    model.set_attention_levels([1])
    assert model.config.attention_levels == [1]
    (attention,) = model(x, output_attentions=True).attentions
    torch.testing.assert_close(attention, everything[1], rtol=0, atol=1e-6)
    with pytest.raises(Exception, match="3 layers"):
        model.set_attention_levels([3])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_that_cannot_be_captured_is_an_error_with_remedy(implementation):
    model = tiny_model()
    model.set_attn_implementation(implementation)
    with pytest.raises(RuntimeError, match=r"model.set_attn_implementation\('mlcak'\)"):
        model(images(), output_attentions=True)
    model.set_attn_implementation("mlcak")
    assert model(images(), output_attentions=True).mlcak is not None


def test_loading_with_another_implementation_still_captures(tmp_path):
    model, x = tiny_model(), images()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(loaded(x, output_attentions=True).mlcak, model(x, output_attentions=True).mlcak)
    assert "attn_implementation" not in (tmp_path / "config.json").read_text()


def test_map_is_taken_before_attention_dropout():
    model, x = tiny_model(backbone={"attention_probs_dropout_prob": 0.5}), images()
    reference = model(x, output_attentions=True).attentions[0]
    model.train()
    dropped = [model(x, output_attentions=True) for _ in range(2)]
    # The first layer's input has no dropout before it, so its map is that of evaluation mode; the outputs differ.
    assert torch.equal(dropped[0].attentions[0], reference)
    assert not torch.equal(dropped[0].logits, dropped[1].logits)


@pytest.mark.parametrize("model_type", TYPES)
def test_gradient_checkpointing_gives_the_same_gradients(model_type):
    x, labels = images(), torch.tensor([0, 1])

    def gradients(checkpointing):
        model = tiny_model(model_type, attention_levels=[0, 2]).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        outputs = model(x, labels=labels, local_targets=torch.ones(2, 3), output_attentions=True)
        (outputs.loss + 50 * outputs.mlcak.square().sum()).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        assert gradient is not None, name
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_reentrant_checkpointing_refuses_to_give_detached_attention():
    model = tiny_model().train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(RuntimeError, match='"use_reentrant": False'):
        model(images(), output_attentions=True)
    model(images(), labels=torch.tensor([0, 1])).loss.backward()
    with torch.no_grad():
        model(images(), output_attentions=True)


@pytest.mark.parametrize("model_type", TYPES)
def test_bf16(model_type):
    model, x = tiny_model(model_type), images()
    reference = model(x, output_attentions=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(x, labels=torch.tensor([0, 1]), local_targets=torch.ones(2, 3), output_attentions=True)
    assert outputs.loss.dtype == outputs.mlcak.dtype == torch.float32
    torch.testing.assert_close(outputs.mlcak, reference.mlcak, rtol=0, atol=0.1)
    outputs.loss.backward()
    model.to(torch.bfloat16)
    outputs = model(x.to(torch.bfloat16), labels=torch.tensor([0, 1]), output_attentions=True)
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == outputs.mlcak.dtype == torch.float32
    torch.testing.assert_close(outputs.mlcak.sum(dim=-1), torch.ones(outputs.mlcak.shape[:2]))


def test_threads_do_not_disturb_each_other():
    model = tiny_model()
    inputs = [images(seed=seed) for seed in range(4)]
    expected = {wants: [model(x, output_attentions=wants) for x in inputs] for wants in (True, False)}
    failures, start = [], threading.Barrier(4)

    def work(index):
        start.wait()
        with torch.no_grad():
            for repeat in range(25):
                wants = (repeat + index) % 2 == 0
                outputs = model(inputs[index], output_attentions=wants)
                same = torch.equal(outputs.logits, expected[wants][index].logits)
                if wants:
                    same &= len(outputs.attentions) == 3 and torch.equal(outputs.mlcak, expected[True][index].mlcak)
                if not same or (outputs.attentions is None) == wants:
                    failures.append((index, repeat))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_exports_into_one_graph():
    model, x = tiny_model(), images()
    wanted = {"output_attentions": True, "return_dict": False}
    exported = torch.export.export(model, (x,), wanted, strict=False).module()
    logits, local_logits, attentions, mlcak = model(x, **wanted)
    torch.testing.assert_close(exported(x, **wanted), (logits, local_logits, attentions, mlcak), rtol=0, atol=1e-6)
