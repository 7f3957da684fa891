"""NaN and Inf: which images of a batch have them, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_SHOWN = 20


def rows_not_finite(tensors: Mapping[str, Any]) -> dict[str, list[int]]:
    """Find the rows of tensors that hold NaN or Inf.

    Args:
        tensors: by name, each of shape `(B, ...)`; what is no tensor of floats is passed over.

    Returns:
        Row numbers by name, for the tensors that have such rows.
    """
    found = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim:
            bad = ~torch.isfinite(tensor.detach().flatten(1) if tensor.ndim > 1 else tensor.detach()[:, None]).all(1)
            if bad.any():
                found[name] = bad.nonzero().flatten().tolist()
    return found


def first_names(rows: Sequence[int], names: Sequence[str]) -> str:
    """Name the first images of some rows of a batch; "..." stands for the others."""
    return ", ".join(names[row] for row in rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")


def not_finite_message(step: int, found: Mapping[str, list[int]], names: list[str]) -> str:
    """Say in a sentence or two which images made a loss that is no finite number.

    Args:
        step: number of the optimizer step.
        found: what is not finite, as `rows_not_finite` gives it; empty where only the loss is.
        names: of all images of the batch.

    Returns:
        The message. Without a culprit, all images of the batch are named.
    """
    rows = sorted({row for rows in found.values() for row in rows}) or list(range(len(names)))
    what = ", ".join(found) or "the loss only"
    remedy = (
        "Look at these images"
        if "pixel_values" in found
        else "Load a sound teacher"
        if any(name.startswith("teacher") for name in found)
        else "Lower learning_rate or set max_grad_norm, and go on from the last checkpoint"
    )
    return (
        f"Training stops at step {step}, before its weights change: the loss is not finite. NaN or Inf in: {what}. "
        f"Images ({len(rows)} of {len(names)}): {first_names(rows, names)}. {remedy}."
    )
