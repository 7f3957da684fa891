"""Align the attention maps of a teacher and a student: same levels, same grid of patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DistillationError, RecipeError
from ..image_geometry_mlcak import area_weights, check_choice

Aggregation = Literal["mean", "per_level"]


@dataclass(frozen=True)
class AttentionOptions:
    """Which attention is taught.

    Args:
        student_levels (`Sequence[int]`, *optional*):
            Encoder layers of the student that are taught attention; negative numbers count from the last. Defaults to
            all layers that the student's config returns.
        aggregation (`str`, *optional*, defaults to `"mean"`):
            `"mean"` gives one map, the mean over the levels (the paper's MLCAK); `"per_level"` keeps one map per level.
        enabled (`bool`, *optional*, defaults to `True`):
            Whether attention is taught at all.

    Raises:
        [`RecipeError`]: When a level is repeated, there is none, or the aggregation is unknown.
    """

    student_levels: Sequence[int] | None = None
    aggregation: Aggregation = "mean"
    enabled: bool = True

    def __post_init__(self) -> None:
        levels = self.student_levels
        if levels is not None and (not levels or len(set(levels)) < len(levels)):
            raise RecipeError(
                f"student_levels must be at least one layer, without repeats; got {list(levels)}. Leave it out for all."
            )
        check_choice("attention_aggregation", self.aggregation, get_args(Aggregation), RecipeError)


@dataclass(frozen=True)
class TokenLayout:
    """Tokens of one model: prefix tokens (the class token first), then patches row by row.

    Args:
        grid (`tuple[int, int]`):
            Rows and columns of patches.
        prefix_tokens (`int`, *optional*, defaults to 1):
            Tokens before the patches, including the class token.
    """

    grid: tuple[int, int]
    prefix_tokens: int = 1

    @classmethod
    def of(cls, config: Any) -> TokenLayout:
        """Return the layout of a model with this config."""
        side = int(config.image_size) // int(config.patch_size)
        return cls((side, side), int(config.num_prefix_tokens))

    @property
    def num_tokens(self) -> int:
        """Number of all tokens."""
        return self.prefix_tokens + self.grid[0] * self.grid[1]


def pair_levels(num_student_levels: int, num_teacher_levels: int) -> list[int]:
    """Choose a teacher level for each student level: `ceil((j + 1) * T / S) - 1`, so the last is paired with the last.

    Args:
        num_student_levels (`int`):
            S, the number of encoder layers of the student, at least 1.
        num_teacher_levels (`int`):
            T, the number of encoder layers of the teacher, at least 1.

    Returns:
        `list[int]`: S teacher levels, counted from 0; the last is `T - 1`.
    """
    # -(-a // b) is the ceiling of a / b in integers, without rounding errors.
    return [-(-(j + 1) * num_teacher_levels // num_student_levels) - 1 for j in range(num_student_levels)]


def merge_prefix_tokens(attention: Tensor, num_prefix_tokens: int) -> Tensor:
    """Merge all prefix tokens (DeiT's distillation token, registers) into the class token.

    Their rows are dropped and their columns added to the class token's column, so that every row keeps its sum.

    Args:
        attention (`torch.Tensor` of shape `(..., num_prefix_tokens + P, num_prefix_tokens + P)`):
            Attention maps.
        num_prefix_tokens (`int`):
            Tokens before the patches, the class token first; at least 1.

    Returns:
        `torch.Tensor` of shape `(..., 1 + P, 1 + P)`.
    """
    if num_prefix_tokens == 1:
        return attention
    patches = attention[..., num_prefix_tokens:]
    merged = torch.cat([attention[..., :num_prefix_tokens].sum(-1, keepdim=True), patches], dim=-1)
    return torch.cat([merged[..., :1, :], merged[..., num_prefix_tokens:, :]], dim=-2)


def pooling_matrices(grid: tuple[int, int], target_grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the matrices that pool an attention map to a coarser grid: `mean @ attention @ sum.T`.

    This is a mean over the queries and a sum over the keys inside each coarser patch, weighted by area where one grid
    is not a multiple of the other. The class token keeps its row and its column.

    Args:
        grid (`tuple[int, int]`):
            Rows and columns of patches of the map.
        target_grid (`tuple[int, int]`):
            Rows and columns to pool to; not finer than `grid` along either axis.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: `mean` and `sum`, float32, each of shape
        `(1 + target_rows * target_columns, 1 + rows * columns)`. Rows of `mean` and columns of `sum` add up to 1.

    Raises:
        [`DistillationError`]: When `target_grid` is finer along an axis, or a grid is empty.
    """
    if min(*grid, *target_grid) < 1 or target_grid[0] > grid[0] or target_grid[1] > grid[1]:
        raise DistillationError(
            f"Attention must be pooled to a coarser grid of patches; got {grid[0]}x{grid[1]} to "
            f"{target_grid[0]}x{target_grid[1]}. Swap the grids or use larger patches."
        )
    rows = np.asarray(area_weights(grid[0], target_grid[0]), dtype=np.float64)
    columns = np.asarray(area_weights(grid[1], target_grid[1]), dtype=np.float64)
    patch_mean = np.kron(rows, columns)
    # An area mean divides by the area of the target patch; the sum does not.
    patch_sum = patch_mean * (grid[0] * grid[1]) / (target_grid[0] * target_grid[1])
    mean, total = (
        torch.block_diag(torch.ones(1, 1), torch.tensor(patches, dtype=torch.float32))  # type: ignore[no-untyped-call]
        for patches in (patch_mean, patch_sum)
    )
    return mean, total


class AttentionAlignment(nn.Module):
    """Select the paired levels of student and teacher, aggregate them, and pool both to one grid of patches.

    Args:
        student_levels (`Sequence[int]`):
            Positions of the taught levels in the student's tuple of attentions.
        teacher_levels (`Sequence[int]`):
            Positions of as many levels that teach them, in the teacher's tuple.
        student, teacher ([`TokenLayout`]):
            Tokens of the two models.
        aggregation (`str`, *optional*, defaults to `"mean"`):
            See [`AttentionOptions`].
        target_grid (`tuple[int, int]`, *optional*):
            Grid to pool both to. Defaults to the coarser of the two along each axis.

    Example:

    ```python
    >>> import torch
    >>> student, teacher = TokenLayout((7, 7)), TokenLayout((14, 14))
    >>> alignment = AttentionAlignment([0, 1], [1, 3], student, teacher, aggregation="per_level")
    >>> student_attention = [torch.rand(2, 50, 50).softmax(-1) for _ in range(2)]
    >>> teacher_attention = [torch.rand(2, 197, 197).softmax(-1) for _ in range(4)]
    >>> maps, taught = alignment(student_attention, teacher_attention)
    >>> maps.shape, taught.shape
    (torch.Size([2, 2, 50, 50]), torch.Size([2, 2, 50, 50]))
    ```
    """

    def __init__(
        self,
        student_levels: Sequence[int],
        teacher_levels: Sequence[int],
        student: TokenLayout,
        teacher: TokenLayout,
        aggregation: Aggregation = "mean",
        target_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.student_levels, self.teacher_levels = list(student_levels), list(teacher_levels)
        self.student, self.teacher, self.aggregation = student, teacher, aggregation
        coarser = (min(student.grid[0], teacher.grid[0]), min(student.grid[1], teacher.grid[1]))
        self.target_grid = coarser if target_grid is None else target_grid
        for who, layout in (("student", student), ("teacher", teacher)):
            pooled = tuple(layout.grid) != self.target_grid
            mean, total = pooling_matrices(layout.grid, self.target_grid) if pooled else (None, None)
            self.register_buffer(f"{who}_mean", mean, persistent=False)
            self.register_buffer(f"{who}_sum", total, persistent=False)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Align both; see `align_student`."""
        return self.align_student(student), self.align_teacher(teacher)

    def align_student(self, attentions: Sequence[Tensor]) -> Tensor:
        """Align the student's attention.

        Args:
            attentions (`Sequence[torch.Tensor]`):
                One tensor of shape `(B, tokens, tokens)` per level, rows summing to 1.

        Returns:
            `torch.Tensor` of shape `(B, L, 1 + P, 1 + P)`, float32, rows summing to 1. P is the number of patches of
            `target_grid`; L is 1 for `"mean"`, and the number of levels for `"per_level"`.

        Raises:
            [`DistillationError`]: When a level is missing or has an unexpected number of tokens.
        """
        return self._align("student", attentions, self.student_levels, self.student)

    def align_teacher(self, attentions: Sequence[Tensor]) -> Tensor:
        """Align the teacher's attention; see `align_student`."""
        return self._align("teacher", attentions, self.teacher_levels, self.teacher)

    def _align(self, who: str, attentions: Sequence[Tensor], levels: list[int], layout: TokenLayout) -> Tensor:
        if not attentions or max(levels) >= len(attentions):
            raise DistillationError(
                f"The {who} must return attention of levels {levels}; got {len(attentions or ())} levels. "
                "Call it with output_attentions=True and include them in its config's attention_levels."
            )
        chosen = [attentions[level] for level in levels]
        if any(level.shape[-2:] != (layout.num_tokens, layout.num_tokens) for level in chosen):
            raise DistillationError(
                f"The {who}'s attention must have shape (batch, {layout.num_tokens}, {layout.num_tokens}), for "
                f"{layout.grid[0]}x{layout.grid[1]} patches and {layout.prefix_tokens} prefix token(s); got "
                f"{tuple(chosen[0].shape)}. Use the models that the configs describe."
            )
        # Under autocast, a product of half-precision maps would lose the small entries that matter for the loss.
        with torch.autocast(device_type=chosen[0].device.type, enabled=False):
            if self.aggregation == "mean":
                # Summed one by one: stacking all levels would double the memory.
                maps = chosen[0].float()
                for level in chosen[1:]:
                    maps = maps + level
                maps = (maps / len(chosen)).unsqueeze(1)
            else:
                maps = torch.stack(chosen, dim=1).float()
            maps = merge_prefix_tokens(maps, layout.prefix_tokens)
            mean, total = getattr(self, f"{who}_mean"), getattr(self, f"{who}_sum")
            return maps if mean is None else mean.to(maps) @ maps @ total.to(maps).T
