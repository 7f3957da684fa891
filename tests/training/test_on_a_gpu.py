"""On a GPU: the same attention, losses, caches and resumes as on a CPU. Skipped, loudly, where there is none."""

import pytest
import torch
from toys import StopAt, make_trainer, toy_collator, toy_model, toy_rows, views_on_device, weights_of

from mlcak_hf.distillation.cache.build import CacheOptions, build_teacher_cache
from mlcak_hf.distillation.teachers import Teachers

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO GPU: what differs between a CPU and a GPU is not tested here"
)

PARTS = ("loss", "loss_global", "loss_local", "distil_global", "distil_local", "distil_attention")


@pytest.fixture(autouse=True)
def exact_products():
    """Switch off TensorFloat-32, which multiplies with ten bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def train(folder, **choices):
    trainer = make_trainer(folder, **{"use_cpu": False, "num_train_epochs": 2} | choices)
    trainer.train()
    return trainer


def logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("model_type", ["vit", "deit", "dinov2"])
def test_captured_attention_matches_eager(model_type):
    model = toy_model(model_type=model_type).cuda().eval()
    pixels = torch.randn(3, 1, 16, 16, device="cuda")
    captured = model(pixels, output_attentions=True)
    model.set_attn_implementation("eager")
    eager = model.backbone(pixels, output_attentions=True).attentions
    for ours, theirs in zip(captured.attentions, eager, strict=True):
        torch.testing.assert_close(ours, theirs.mean(dim=1), rtol=0, atol=1e-6)


def test_distillation_is_that_of_a_cpu(tmp_path):
    ours, theirs = train(tmp_path), train(tmp_path, use_cpu=True)
    assert ours.model.device.type == ours.teacher.device.type == "cuda"
    assert not any("teacher" in name for name in ours.model.state_dict())
    for gpu, cpu in zip(logs(ours), logs(theirs), strict=True):
        for part in PARTS:
            assert gpu[part] == pytest.approx(cpu[part], rel=1e-4), part
        assert 0 < gpu["teacher_share"] < 1
    for name, weight in weights_of(theirs).items():
        torch.testing.assert_close(ours.model.state_dict()[name].cpu(), weight, rtol=1e-3, atol=1e-5, msg=name)


def test_bfloat16_stays_near_float32(tmp_path):
    half, whole = train(tmp_path, bf16=True), train(tmp_path)
    for ours, theirs in zip(logs(half), logs(whole), strict=True):
        for part in PARTS:
            assert ours[part] == pytest.approx(theirs[part], rel=0.1, abs=1e-3), part
    assert all(weight.dtype == torch.float32 for weight in half.model.state_dict().values())


@pytest.mark.parametrize("half", [None, torch.bfloat16])
def test_a_cache_that_a_gpu_built_teaches_as_the_teacher_does(tmp_path, half):
    teacher, rows = toy_model(32, 4, layers=4, seed=2), toy_rows()
    cache = build_teacher_cache(
        tmp_path / "cache", Teachers(teacher, toy_model(seed=1)), rows, toy_collator(), CacheOptions(2, autocast=half)
    )
    cached, online = train(tmp_path, teacher=None, teacher_cache=cache), train(tmp_path)
    for ours, theirs in zip(logs(cached), logs(online), strict=True):
        for part in PARTS:
            assert ours[part] == pytest.approx(theirs[part], rel=1e-3 if half is None else 0.1, abs=1e-5), part
        assert "teacher_share" not in ours


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    choices = {"optim": "adamw_torch_fused", "dataloader_num_workers": 2, "student": toy_model(seed=1, dropout=0.2)}
    whole = train(tmp_path / "whole", **choices)
    choices["student"] = toy_model(seed=1, dropout=0.2)
    train(tmp_path / "parts", callbacks=[StopAt(4)], **choices)
    choices["student"] = toy_model(seed=1, dropout=0.2)
    resumed = make_trainer(tmp_path / "parts", use_cpu=False, **choices)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 6
    for name, weight in weights_of(whole).items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


def test_views_made_on_a_gpu_are_those_of_a_cpu(tmp_path):
    rows, usual = toy_rows(40), toy_collator()
    on_gpu = views_on_device(usual, rows, tmp_path, device="cuda")
    found, expected = on_gpu.add_pixels(on_gpu(rows)), usual(rows)
    for name in ("pixel_values", "teacher_pixel_values"):
        assert found[name].is_cuda
        # Normalised: divided by 0.25.
        torch.testing.assert_close(found[name].cpu(), expected[name], rtol=0, atol=4 / 255, msg=name)


def test_training_on_views_made_on_a_gpu_resumes_bit_for_bit(tmp_path):
    choices = {"collator": views_on_device(toy_collator(), toy_rows(), tmp_path, device="cuda")}
    whole = train(tmp_path / "whole", **choices)
    train(tmp_path / "parts", callbacks=[StopAt(4)], student=toy_model(seed=1), **choices)
    resumed = make_trainer(tmp_path / "parts", use_cpu=False, num_train_epochs=2, **choices)
    resumed.train(resume_from_checkpoint=True)
    for name, weight in weights_of(whole).items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


@pytest.mark.parametrize("mode", [None, "reduce-overhead"], ids=["compiled", "CUDA graphs"])
def test_a_compiled_step_is_that_of_an_eager_one(tmp_path, mode):
    """With an evaluation between the epochs, of the same model."""
    choices = {"evaluate": toy_rows(5, seed=6), "eval_strategy": "epoch"}
    compiled = train(tmp_path, torch_compile=True, torch_compile_mode=mode, **choices)
    for ours, theirs in zip(logs(compiled), logs(train(tmp_path, **choices)), strict=True):
        for part in PARTS:
            assert ours[part] == pytest.approx(theirs[part], rel=1e-3), part
