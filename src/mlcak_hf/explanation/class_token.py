"""The class token's attention over the patches."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MLCAKError


def class_token_attention(mlcak: ArrayLike, num_prefix_tokens: int, grid_size: tuple[int, int]) -> NDArray[np.float64]:
    """The class token's row of a token-by-token map, over the patches.

    Args:
        mlcak (array-like of shape `(n, queries, tokens)`): Attention, queries by keys; the class token is the first
            query, the others are not looked at.
        num_prefix_tokens (`int`): Tokens before the patches (1 for ViT, 2 for DeiT).
        grid_size (`tuple[int, int]`): Rows and columns of patches.

    Returns:
        `np.ndarray` of shape `(n, rows, columns)`; sums to less than 1, as the class token also attends to itself.

    Raises:
        MLCAKError: Token count that does not fit the grid.
    """
    array = np.asarray(mlcak, dtype=np.float64)
    rows, columns = grid_size
    if array.ndim != 3 or not array.shape[1] or array.shape[2] != num_prefix_tokens + rows * columns:
        raise MLCAKError(
            f"attention must have shape (n, queries, tokens) with {num_prefix_tokens} + {rows} x {columns} tokens, "
            f"got {array.shape}"
        )
    return array[:, 0, num_prefix_tokens:].reshape(-1, rows, columns)
