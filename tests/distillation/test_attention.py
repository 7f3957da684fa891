"""Levels and grids of teacher and student brought together, against slow nested loops."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mlcak_hf.distillation.attention import (
    AttentionAlignment,
    AttentionOptions,
    TokenLayout,
    merge_prefix_tokens,
    pair_levels,
    pooling_matrices,
)
from mlcak_hf.errors import DistillationError, RecipeError


def random_attention(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, shape[-1], generator=generator)).softmax(-1)


def overlap(n_in: int, n_out: int, i: int, o: int) -> float:
    """Length of the input sample i (length 1) inside the output interval o."""
    return max(0.0, min(i + 1, (o + 1) * n_in / n_out) - max(i, o * n_in / n_out))


def slow_pool(attention: np.ndarray, grid: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """Mean over queries, sum over keys, one entry at a time; attention (1 + P, 1 + P)."""

    def share(patch: int, out: int) -> float:
        (row, column), (out_row, out_column) = divmod(patch, grid[1]), divmod(out, target[1])
        return overlap(grid[0], target[0], row, out_row) * overlap(grid[1], target[1], column, out_column)

    patches, outs = grid[0] * grid[1], target[0] * target[1]
    area = patches / outs
    pooled = np.zeros((1 + outs, 1 + outs))
    pooled[0, 0] = attention[0, 0]
    for o in range(outs):
        pooled[0, 1 + o] = sum(attention[0, 1 + k] * share(k, o) for k in range(patches))
        pooled[1 + o, 0] = sum(attention[1 + q, 0] * share(q, o) for q in range(patches)) / area
        for p in range(outs):
            pooled[1 + o, 1 + p] = sum(
                attention[1 + q, 1 + k] * share(q, o) * share(k, p) / area
                for q in range(patches)
                for k in range(patches)
            )
    return pooled


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (12, 12, list(range(12))),
        (4, 12, [2, 5, 8, 11]),
        (6, 12, [1, 3, 5, 7, 9, 11]),
        (5, 12, [2, 4, 7, 9, 11]),
        (1, 12, [11]),
        (3, 4, [1, 2, 3]),
        (4, 3, [0, 1, 2, 2]),
        (12, 4, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
        (7, 1, [0] * 7),
    ],
)
def test_each_student_level_is_paired_as_the_method_says(student, teacher, expected):
    assert pair_levels(student, teacher) == expected


def pool(attention, grid, target):
    mean, total = pooling_matrices(grid, target)
    return mean @ attention @ total.T


@pytest.mark.parametrize(
    ("grid", "target"),
    [((4, 4), (2, 2)), ((3, 5), (2, 3)), ((4, 2), (2, 2)), ((4, 6), (1, 4)), ((5, 5), (5, 3)), ((3, 3), (1, 1))],
)
def test_pooling_equals_nested_loops_and_keeps_rows_summing_to_one(grid, target):
    attention = random_attention(2, 1 + grid[0] * grid[1])
    pooled = pool(attention, grid, target)
    for image in range(2):
        expected = slow_pool(attention[image].double().numpy(), grid, target)
        np.testing.assert_allclose(pooled[image].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(pooled.sum(-1), torch.ones(pooled.shape[:-1]), atol=1e-6, rtol=0)


def test_pooling_of_a_large_grid_keeps_rows_summing_to_one():
    pooled = pool(random_attention(1, 785), (28, 28), (14, 14))
    assert pooled.shape == (1, 197, 197)
    assert (pooled.sum(-1) - 1).abs().max() < 1e-6


def test_a_grid_is_never_pooled_to_a_finer_one():
    with pytest.raises(DistillationError, match=r"2x4 to 4x2"):
        pooling_matrices((2, 4), (4, 2))


@pytest.mark.parametrize("prefix", [1, 2, 5])
def test_extra_prefix_tokens_lose_their_rows_and_give_their_columns_to_the_class_token(prefix):
    attention = random_attention(2, prefix + 4)
    merged = merge_prefix_tokens(attention, prefix)
    kept = [0, *range(prefix, prefix + 4)]
    for image in range(2):
        for row, source in enumerate(kept):
            expected = [sum(attention[image, source, :prefix]), *attention[image, source, prefix:]]
            torch.testing.assert_close(merged[image, row], torch.stack(expected), atol=1e-6, rtol=0)
    torch.testing.assert_close(merged.sum(-1), torch.ones(2, 5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("aggregation", ["mean", "per_level"])
def test_alignment_pools_each_side_along_its_finer_axis(aggregation):
    """Student 2x6 with registers, teacher 4x3 with a distillation token: both meet on 2x3."""
    student = [random_attention(2, 3 + 12, seed=s) for s in range(3)]
    teacher = [random_attention(2, 2 + 12, seed=10 + s) for s in range(4)]
    alignment = AttentionAlignment([0, 2], [1, 3], TokenLayout((2, 6), 3), TokenLayout((4, 3), 2), aggregation)
    ours, theirs = alignment(student, teacher)
    for maps, attentions, levels, grid, prefix in (
        (ours, student, [0, 2], (2, 6), 3),
        (theirs, teacher, [1, 3], (4, 3), 2),
    ):
        expected = np.stack(
            [
                [
                    slow_pool(merge_prefix_tokens(attentions[level][i], prefix).double().numpy(), grid, (2, 3))
                    for i in range(2)
                ]
                for level in levels
            ],
            axis=1,
        )
        if aggregation == "mean":
            expected = expected.mean(axis=1, keepdims=True)
        assert maps.shape == (2, 1 if aggregation == "mean" else 2, 7, 7)
        np.testing.assert_allclose(maps.numpy(), expected, atol=1e-6)
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]), atol=1e-6, rtol=0)


def test_the_gradient_reaches_the_students_attention():
    attention = random_attention(1, 17).requires_grad_()
    alignment = AttentionAlignment([0], [0], TokenLayout((4, 4)), TokenLayout((2, 2)))
    alignment([attention], [random_attention(1, 5)])[0].pow(2).sum().backward()
    assert attention.grad.abs().min() > 0


def test_maps_in_half_precision_are_aligned_in_single():
    alignment = AttentionAlignment([0], [0], TokenLayout((4, 4)), TokenLayout((2, 2)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, _ = alignment([random_attention(1, 17)], [random_attention(1, 5)])
    assert ours.dtype == torch.float32
    assert (ours.sum(-1) - 1).abs().max() < 1e-6


def test_a_layout_is_that_of_the_models_config():
    config = SimpleNamespace(image_size=30, patch_size=4, num_prefix_tokens=2)
    assert TokenLayout.of(config) == TokenLayout((7, 7), 2)
    assert TokenLayout.of(config).num_tokens == 51


def test_by_default_all_levels_are_taught_as_their_mean():
    assert AttentionOptions() == AttentionOptions(student_levels=None, aggregation="mean", enabled=True)


@pytest.mark.parametrize("levels", [[], [1, 1], [0, 2, 0]])
def test_levels_are_at_least_one_and_differ(levels):
    assert AttentionOptions([0]).student_levels == [0]
    assert AttentionOptions([-1, 0]).student_levels == [-1, 0]
    with pytest.raises(RecipeError, match=r"at least one layer, without repeats"):
        AttentionOptions(levels)


def test_an_alignment_adds_nothing_to_a_checkpoint():
    assert not AttentionAlignment([0], [0], TokenLayout((4, 4)), TokenLayout((2, 2))).state_dict()


def test_maps_that_do_not_fit_are_named():
    alignment = AttentionAlignment([0], [1], TokenLayout((2, 2)), TokenLayout((2, 2)))
    one, two = [random_attention(1, 5)], [random_attention(1, 5), random_attention(1, 5)]
    with pytest.raises(DistillationError, match=r"teacher must return attention of levels \[1\]; got 1 levels"):
        alignment(one, one)
    with pytest.raises(DistillationError, match="student's attention must have shape"):
        alignment([random_attention(1, 6)], two)
    with pytest.raises(RecipeError, match="'max'"):
        AttentionOptions(aggregation="max")
