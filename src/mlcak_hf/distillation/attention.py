"""Bring the attention maps of a teacher and a student onto the same levels and the same grid of patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DistillationError
from ..image_processing_mlcak import area_weights

Aggregation = Literal["mean", "per_level"]


def pair_levels(num_student_levels: int, num_teacher_levels: int) -> list[int]:
    """Name the teacher level that teaches each student level: ``ceil((j + 1) * T / S) - 1``, last with last.

    Args:
        num_student_levels: S, the number of encoder layers of the student, at least 1.
        num_teacher_levels: T, the number of encoder layers of the teacher, at least 1.

    Returns:
        S teacher levels, counted from 0; the last is ``T - 1``.

    Raises:
        DistillationError: if either number is below 1.
    """
    if num_student_levels < 1 or num_teacher_levels < 1:
        raise DistillationError(
            "Student and teacher need at least one encoder layer each to pair their attention; "
            f"the student has {num_student_levels}, the teacher {num_teacher_levels}."
        )
    # -(-a // b) is the ceiling of a / b in whole numbers: no rounding of a float can move a level.
    return [-(-(j + 1) * num_teacher_levels // num_student_levels) - 1 for j in range(num_student_levels)]


def merge_prefix_tokens(attention: Tensor, num_prefix_tokens: int) -> Tensor:
    """Fold every prefix token but the class token (DeiT's distillation token, registers) into the class token.

    Their rows are dropped, their columns added to the class column, so that every row still sums to what it did.

    Args:
        attention: of shape `(..., num_prefix_tokens + P, num_prefix_tokens + P)`.
        num_prefix_tokens: tokens before the patches, the class token first; at least 1.

    Returns:
        Tensor of shape `(..., 1 + P, 1 + P)`.

    Raises:
        DistillationError: if there is no class token.
    """
    if num_prefix_tokens < 1:
        raise DistillationError(f"Attention needs a class token; got {num_prefix_tokens} tokens before the patches.")
    if num_prefix_tokens == 1:
        return attention
    patches = attention[..., num_prefix_tokens:]
    merged = torch.cat([attention[..., :num_prefix_tokens].sum(-1, keepdim=True), patches], dim=-1)
    return torch.cat([merged[..., :1, :], merged[..., num_prefix_tokens:, :]], dim=-2)


def pooling_matrices(grid: tuple[int, int], target_grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Matrices that pool an attention map with a class token from one grid of patches to a coarser one.

    The pooled map is ``mean @ attention @ sum.T``: a mean over the queries and a sum over the keys that fall into a
    patch of the coarser grid, weighted by area where one grid is no multiple of the other. The class token keeps its
    row and its column.

    Args:
        grid: (rows, columns) of patches of the map.
        target_grid: (rows, columns) to pool to; per axis no finer than `grid`.

    Returns:
        (mean, sum), each float32 of shape `(1 + target_rows * target_columns, 1 + rows * columns)`. The rows of `mean`
        and the columns of `sum` add up to 1.

    Raises:
        DistillationError: if `target_grid` is finer along an axis, or a grid is empty.
    """
    if min(*grid, *target_grid) < 1 or target_grid[0] > grid[0] or target_grid[1] > grid[1]:
        raise DistillationError(
            f"A {grid[0]}x{grid[1]} grid of patches cannot be pooled to {target_grid[0]}x{target_grid[1]}: "
            "attention is only ever pooled to a coarser grid."
        )
    rows = np.asarray(area_weights(grid[0], target_grid[0]), dtype=np.float64)
    columns = np.asarray(area_weights(grid[1], target_grid[1]), dtype=np.float64)
    patch_mean = np.kron(rows, columns)
    # An area mean divides by the area of the target patch; the sum does not.
    patch_sum = patch_mean * (grid[0] * grid[1]) / (target_grid[0] * target_grid[1])
    matrices = []
    for patches in (patch_mean, patch_sum):
        matrix = np.zeros((patches.shape[0] + 1, patches.shape[1] + 1))
        matrix[0, 0] = 1.0
        matrix[1:, 1:] = patches
        matrices.append(torch.from_numpy(matrix.astype(np.float32)))
    return matrices[0], matrices[1]


def pool_attention(attention: Tensor, grid: tuple[int, int], target_grid: tuple[int, int]) -> Tensor:
    """Pool attention with a class token to a coarser grid: mean over queries, sum over keys.

    Args:
        attention: of shape `(..., 1 + rows * columns, 1 + rows * columns)`, rows summing to 1.
        grid: (rows, columns) of patches of the map.
        target_grid: (rows, columns) to pool to; per axis no finer than `grid`.

    Returns:
        Tensor of shape `(..., 1 + target patches, 1 + target patches)`, rows summing to 1.

    Raises:
        DistillationError: if `target_grid` is finer along an axis.
    """
    if tuple(grid) == tuple(target_grid):
        return attention
    mean, total = (m.to(attention) for m in pooling_matrices(grid, target_grid))
    return mean @ attention @ total.T


class AttentionAlignment(nn.Module):
    """Select the paired levels of student and teacher, aggregate them, and pool both to the coarser grid per axis.

    Args:
        student_levels: positions of the chosen levels in the student's tuple of attentions.
        teacher_levels: as many positions in the teacher's tuple: the levels they are paired with.
        student_grid, teacher_grid: (rows, columns) of patches.
        student_prefix_tokens, teacher_prefix_tokens: tokens before the patches, the class token included.
        aggregation: `"mean"` gives one map, the mean over the levels (the paper's MLCAK); `"per_level"` keeps a map per
            pair.
        target_grid: the grid to pool both to, where it is coarser than either (several teachers); None: the coarser of
            the two per axis.

    Raises:
        DistillationError: if the levels do not pair up or the aggregation is unknown.

    Example:

    ```python
    >>> alignment = AttentionAlignment([0, 1], [1, 3], (7, 7), (14, 14), aggregation="per_level")
    >>> student = [torch.rand(2, 50, 50).softmax(-1) for _ in range(2)]
    >>> teacher = [torch.rand(2, 197, 197).softmax(-1) for _ in range(4)]
    >>> [maps.shape for maps in alignment(student, teacher)]
    [torch.Size([2, 2, 50, 50]), torch.Size([2, 2, 50, 50])]
    ```
    """

    def __init__(
        self,
        student_levels: Sequence[int],
        teacher_levels: Sequence[int],
        student_grid: tuple[int, int],
        teacher_grid: tuple[int, int],
        student_prefix_tokens: int = 1,
        teacher_prefix_tokens: int = 1,
        aggregation: Aggregation = "mean",
        target_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if len(student_levels) != len(teacher_levels) or not student_levels:
            raise DistillationError(
                f"Every student level needs one teacher level; got student {list(student_levels)}, "
                f"teacher {list(teacher_levels)}."
            )
        if aggregation not in ("mean", "per_level"):
            raise DistillationError(f"attention aggregation is 'mean' or 'per_level', not {aggregation!r}.")
        self.student_levels, self.teacher_levels = list(student_levels), list(teacher_levels)
        self.student_prefix_tokens, self.teacher_prefix_tokens = student_prefix_tokens, teacher_prefix_tokens
        self.student_grid, self.teacher_grid = tuple(student_grid), tuple(teacher_grid)
        self.aggregation = aggregation
        coarser = (min(student_grid[0], teacher_grid[0]), min(student_grid[1], teacher_grid[1]))
        self.target_grid = coarser if target_grid is None else target_grid
        for who, grid in (("student", student_grid), ("teacher", teacher_grid)):
            pooled = tuple(grid) != self.target_grid
            mean, total = pooling_matrices(grid, self.target_grid) if pooled else (None, None)
            self.register_buffer(f"{who}_mean", mean, persistent=False)
            self.register_buffer(f"{who}_sum", total, persistent=False)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Align the attentions of one batch.

        Args:
            student: the student's attentions, one of shape `(B, tokens, tokens)` per level, rows summing to 1.
            teacher: the teacher's, with its own number of tokens.

        Returns:
            (student, teacher) maps, float32, each of shape `(B, L, 1 + P, 1 + P)`, rows summing to 1: P patches of the
            coarser grid; L is 1 for `"mean"`, the number of pairs for `"per_level"`.

        Raises:
            DistillationError: if a level is missing or has an unexpected number of tokens.
        """
        return self.align_student(student), self.align_teacher(teacher)

    def align_student(self, attentions: Sequence[Tensor]) -> Tensor:
        """Align the student's attentions alone; see `forward`."""
        return self._align("student", attentions, self.student_levels, self.student_prefix_tokens, self.student_grid)

    def align_teacher(self, attentions: Sequence[Tensor]) -> Tensor:
        """Align the teacher's attentions alone; see `forward`."""
        return self._align("teacher", attentions, self.teacher_levels, self.teacher_prefix_tokens, self.teacher_grid)

    def _align(
        self, who: str, attentions: Sequence[Tensor], levels: list[int], prefix: int, grid: tuple[int, ...]
    ) -> Tensor:
        if not attentions or max(levels) >= len(attentions):
            raise DistillationError(
                f"The {who} returned attention of {len(attentions or ())} levels; levels {levels} are needed. "
                "Call it with output_attentions=True and let its config's attention_levels contain them."
            )
        tokens = prefix + grid[0] * grid[1]
        chosen = [attentions[level] for level in levels]
        if any(level.shape[-2:] != (tokens, tokens) for level in chosen):
            raise DistillationError(
                f"The {who}'s attention has shape {tuple(chosen[0].shape)}; a {grid[0]}x{grid[1]} grid of patches with "
                f"{prefix} prefix token(s) needs (batch, {tokens}, {tokens})."
            )
        # Under autocast a product of half-precision maps would lose the small entries that the loss is about.
        with torch.autocast(device_type=chosen[0].device.type, enabled=False):
            if self.aggregation == "mean":
                # One after the other: a stack of all levels would double what they take.
                maps = chosen[0].float()
                for level in chosen[1:]:
                    maps = maps + level
                maps = (maps / len(chosen)).unsqueeze(1)
            else:
                maps = torch.stack(chosen, dim=1).float()
            maps = merge_prefix_tokens(maps, prefix)
            mean, total = getattr(self, f"{who}_mean"), getattr(self, f"{who}_sum")
            if mean is not None:
                maps = mean.to(maps) @ maps @ total.to(maps).T
        return maps
