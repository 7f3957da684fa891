"""Losses of the global label and of the local findings, in which missing labels add nothing."""

import torch
import torch.nn.functional as F
from torch import Tensor


def global_classification_loss(
    logits: Tensor,
    labels: Tensor,
    problem_type: str = "single_label_classification",
    num_items: float | Tensor | None = None,
) -> Tensor:
    """
    Loss of the global task: cross-entropy, or masked binary cross-entropy averaged over the labels.

    Missing labels add 0. The sum is divided by the number of images, not of labels, so that micro-batches add up.

    Args:
        logits (`torch.Tensor` of shape `(B, C)`): Global logits.
        labels (`torch.Tensor`): Single label: `(B,)` integer classes, negative = missing; or `(B, C)` float soft
            targets, a row with any negative = missing. Multi label: `(B, C)` in [0, 1], negative = missing entry.
        problem_type (`str`): `"single_label_classification"` or `"multi_label_classification"`.
        num_items (`int` or `torch.Tensor`, *optional*): Number of images to divide by; the batch's own if not given.

    Returns:
        `torch.Tensor`: float32 scalar, differentiable even where nothing is labelled.

    Raises:
        ValueError: If `labels` has another shape or dtype.
    """
    count = logits.shape[0] if num_items is None else num_items
    if problem_type == "multi_label_classification":
        return _masked_bce_sum(logits, labels, "labels") / count / logits.shape[1]
    logits = logits.float()
    if labels.shape == logits.shape[:1] and not labels.is_floating_point():
        classes = torch.where(labels < 0, -1, labels.long())
        return F.cross_entropy(logits, classes, ignore_index=-1, reduction="sum") / count
    if labels.shape == logits.shape and labels.is_floating_point():
        missing = (labels < 0).any(dim=1)
        cross_entropy = -(labels.clamp(min=0).float() * logits.log_softmax(dim=1)).sum(dim=1)
        return cross_entropy.masked_fill(missing, 0.0).sum() / count
    raise ValueError(
        f"labels must be integer classes of shape ({logits.shape[0]},) or float soft targets of shape "
        f"{tuple(logits.shape)}; got {labels.dtype} of shape {tuple(labels.shape)}."
    )


def local_classification_loss(
    local_logits: Tensor, local_targets: Tensor, num_items: float | Tensor | None = None
) -> Tensor:
    """
    Loss of the local findings: masked binary cross-entropy, `sum / (images * findings)`.

    Args:
        local_logits (`torch.Tensor` of shape `(B, F)`): Local logits.
        local_targets (`torch.Tensor` of shape `(B, F)`): Targets in [0, 1], negative = missing.
        num_items: As in [`global_classification_loss`].

    Returns:
        `torch.Tensor`: float32 scalar, differentiable even where nothing is labelled.
    """
    count = local_logits.shape[0] if num_items is None else num_items
    return _masked_bce_sum(local_logits, local_targets, "local_targets") / count / local_logits.shape[1]


def _masked_bce_sum(logits: Tensor, labels: Tensor, name: str) -> Tensor:
    if labels.shape != logits.shape:
        raise ValueError(f"{name} must have shape {tuple(logits.shape)}; got {tuple(labels.shape)}.")
    targets = labels.float()
    bce = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0), reduction="none")
    return bce.masked_fill(targets < 0, 0.0).sum()


__all__ = ["global_classification_loss", "local_classification_loss"]
