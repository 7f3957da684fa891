"""Each loss against a slow, obvious reference; and sums over micro-batches against one batch."""

import math

import pytest
import torch

from mlcak_hf.distillation.losses import AttentionDistillationLoss, LogitDistillationLoss, sum_per_item
from mlcak_hf.errors import DistillationError, RecipeError


def logits(seed: int, shape=(3, 4)) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def maps(seed: int, shape=(3, 2, 5, 5)) -> torch.Tensor:
    return logits(seed, shape).softmax(-1)


def slow_softmax(row: list[float]) -> list[float]:
    weights = [math.exp(value) for value in row]
    return [weight / sum(weights) for weight in weights]


def slow_logit_loss(student, teacher, kind, temperature, independent):
    losses = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        if kind == "mse":
            losses.append(sum((b - a) ** 2 for a, b in zip(s, t, strict=True)) / len(s))
        elif independent:
            total = 0.0
            for a, b in zip(s, t, strict=True):
                q, p = (1 / (1 + math.exp(-value / temperature)) for value in (a, b))
                total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
            losses.append(temperature**2 * total / len(s))
        else:
            q, p = (slow_softmax([value / temperature for value in row]) for row in (s, t))
            losses.append(temperature**2 * sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)))
    return torch.tensor(losses)


def slow_attention_loss(student, teacher, kind):
    batch, levels, tokens, _ = student.shape
    losses = []
    for i in range(batch):
        per_level = []
        for level in range(levels):
            squared = norm = divergence = 0.0
            for q in range(tokens):
                for k in range(tokens):
                    s, t = float(student[i, level, q, k]), float(teacher[i, level, q, k])
                    squared += (t - s) ** 2
                    norm += t**2
                    divergence += t * math.log(t / s)
            per_level.append(
                {"mse": squared / tokens**2, "normalized_mse": squared / norm, "kl": divergence / tokens}[kind]
            )
        losses.append(sum(per_level) / levels)
    return torch.tensor(losses)


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize(("kind", "temperature"), [("mse", 1.0), ("kl", 1.0), ("kl", 4.0), ("kl", 0.5)])
def test_logit_loss_equals_its_equation(kind, temperature, independent):
    student, teacher = logits(0), logits(1)
    loss = LogitDistillationLoss(kind, temperature, independent)(student, teacher)
    assert loss.shape == (3,)
    torch.testing.assert_close(
        loss, slow_logit_loss(student, teacher, kind, temperature, independent), atol=1e-6, rtol=1e-6
    )


def test_kl_is_by_default_of_a_softmax_at_temperature_one():
    student, teacher = logits(0), logits(1)
    torch.testing.assert_close(
        LogitDistillationLoss("kl")(student, teacher), slow_logit_loss(student, teacher, "kl", 1.0, False)
    )


@pytest.mark.parametrize("kind", ["mse", "normalized_mse", "kl"])
def test_attention_loss_equals_its_equation(kind):
    student, teacher = maps(0), maps(1)
    loss = AttentionDistillationLoss(kind)(student, teacher)
    assert loss.shape == (3,)
    torch.testing.assert_close(loss, slow_attention_loss(student, teacher, kind), atol=1e-6, rtol=1e-6)


def test_attention_transfer_compares_the_directions_of_what_each_patch_receives():
    # Of a class token and two patches: the patches receive (3, 4) from the teacher and (5, 12) from the student.
    teacher = torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])[None, None]
    student = torch.tensor([[9.0, 5.0, 0.0], [9.0, 0.0, 6.0], [9.0, 0.0, 6.0]])[None, None]
    found = AttentionDistillationLoss("transfer")(student, teacher)
    expected = (3 / 5 - 5 / 13) ** 2 + (4 / 5 - 12 / 13) ** 2
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize(
    ("loss", "make"),
    [(LogitDistillationLoss(kind, 2.0, independent), logits) for kind in ("mse", "kl") for independent in (False, True)]
    + [(AttentionDistillationLoss(kind), maps) for kind in ("mse", "normalized_mse", "kl", "transfer")],
)
def test_a_loss_is_zero_for_equals_positive_for_others_and_spares_the_teacher(loss, make):
    student, teacher = make(0).requires_grad_(), make(1).requires_grad_()
    torch.testing.assert_close(loss(teacher, teacher), torch.zeros(3), atol=1e-6, rtol=0)
    value = loss(student, teacher)
    assert (value > 0).all()
    value.sum().backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_the_gradient_of_kl_does_not_shrink_with_the_temperature():
    """Hinton's tau^2: at high temperature the gradient tends to that of the centred MSE, not to 0."""
    sizes = []
    for temperature in (50.0, 100.0):
        student = logits(0).requires_grad_()
        LogitDistillationLoss("kl", temperature)(student, logits(1)).sum().backward()
        sizes.append(float(student.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_attention_that_underflows_to_zero_gives_a_finite_loss_and_gradient():
    teacher = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    student = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]], requires_grad=True)
    loss = AttentionDistillationLoss("kl")(student, teacher)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(student.grad).all()


def test_logits_far_out_give_a_finite_kl():
    far = torch.tensor([[80.0, -80.0]])
    for independent in (False, True):
        assert torch.isfinite(LogitDistillationLoss("kl", 1.0, independent)(-far, far)).all()


def test_half_precision_is_compared_in_single():
    loss = AttentionDistillationLoss("mse")(maps(0).bfloat16(), maps(1).bfloat16())
    assert loss.dtype == torch.float32


def test_micro_batches_add_up_to_one_batch():
    per_image = AttentionDistillationLoss("normalized_mse")(maps(0), maps(1))
    whole = sum_per_item(per_image)
    torch.testing.assert_close(whole, per_image.mean())
    parts = sum_per_item(per_image[:2], num_items=3) + sum_per_item(per_image[2:], num_items=torch.tensor(3))
    torch.testing.assert_close(parts, whole)


def test_an_image_of_weight_zero_does_not_count():
    per_image = torch.tensor([1.0, 2.0, 40.0])
    weighted = sum_per_item(per_image, num_items=2, weights=torch.tensor([1.0, 1.0, 0.0]))
    assert weighted == pytest.approx(1.5)


def test_what_is_unknown_is_named():
    with pytest.raises(RecipeError, match="'mae'"):
        LogitDistillationLoss("mae")
    with pytest.raises(RecipeError, match="'mae'"):
        AttentionDistillationLoss("mae")
    with pytest.raises(RecipeError, match="temperature"):
        LogitDistillationLoss("kl", temperature=0.0)
    with pytest.raises(DistillationError, match=r"\(3, 4\) and \(3, 5\)"):
        LogitDistillationLoss()(logits(0), logits(0, (3, 5)))
