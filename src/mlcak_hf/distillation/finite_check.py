"""Find NaN and Inf in a batch, and name the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_SHOWN = 20


def rows_not_finite(tensors: Mapping[str, Any], prefix: str = "") -> dict[str, list[int]]:
    """Return the rows that contain NaN or Inf, by name of the tensor. Entries that are not float tensors are skipped.

    Args:
        tensors (`Mapping[str, Any]`):
            Tensors of shape `(B, ...)` by name.
        prefix (`str`, *optional*, defaults to `""`):
            Written before every name in the result.
    """
    found = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim:
            bad = ~torch.isfinite(tensor.detach().reshape(len(tensor), -1)).all(1)
            if bad.any():
                found[prefix + name] = bad.nonzero().flatten().tolist()
    return found


def image_names(dataset: Any, rows: Iterable[int]) -> list[str]:
    """Return the image ids of some rows of a dataset, or their numbers if it has no ids."""
    name_of = getattr(dataset, "image_name", "row {}".format)
    return [name_of(row) for row in rows]


def first_names(rows: Sequence[int], names: Sequence[str]) -> str:
    """List the names of some rows of a batch, at most 20."""
    return ", ".join(names[row] for row in rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")


def not_finite_message(step: int, found: Mapping[str, list[int]], names: Sequence[str], remedy: str) -> str:
    """Explain a loss that is not finite.

    Args:
        step (`int`):
            Number of the optimizer step.
        found (`Mapping[str, list[int]]`):
            Result of `rows_not_finite`; when it is empty, all images of the batch are listed.
        names (`Sequence[str]`):
            Names of all images of the batch.
        remedy (`str`):
            What to do.
    """
    rows = sorted({row for rows in found.values() for row in rows}) or list(range(len(names)))
    return (
        f"The loss must be finite; got NaN or Inf at step {step} in {', '.join(found) or 'the loss only'}. Training "
        f"stopped before the weights changed. Images ({len(rows)} of {len(names)}): {first_names(rows, names)}. "
        f"{remedy}."
    )
