"""The class token's attention over the patches."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MLCAKError


def class_token_attention(mlcak: ArrayLike, num_prefix_tokens: int, grid_size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the class token's attention over the patches.

    Args:
        mlcak (array-like of shape `(n, queries, tokens)`):
            Attention, queries by keys. The class token is the first query; the others are ignored.
        num_prefix_tokens (`int`):
            Number of tokens before the patches (1 for ViT, 2 for DeiT).
        grid_size (`tuple[int, int]`):
            Rows and columns of patches.

    Returns:
        `np.ndarray` of shape `(n, rows, columns)`: each map sums to less than 1, because the class token also attends
        to the prefix tokens.

    Raises:
        [`MLCAKError`]: When the number of tokens does not fit the grid.
    """
    array = np.asarray(mlcak, dtype=np.float64)
    rows, columns = grid_size
    if array.ndim != 3 or not array.shape[1] or array.shape[2] != num_prefix_tokens + rows * columns:
        raise MLCAKError(
            f"Attention must have shape (n, queries, {num_prefix_tokens} + {rows} * {columns} tokens); got "
            f"{array.shape}. Pass the model's `mlcak` output with its own number of prefix tokens and grid size."
        )
    return array[:, 0, num_prefix_tokens:].reshape(-1, rows, columns)
