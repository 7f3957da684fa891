"""What a student loses against its teacher. Modules of tensors only: no model, no trainer, no config inside.

Every loss returns one value per image, of shape `(B,)`. The mean over a batch is the loss of the paper; a sum divided
by the number of images of a whole optimizer step is the same thing under gradient accumulation and several processes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DistillationError

LogitLossKind = Literal["mse", "kl"]
AttentionLossKind = Literal["mse", "normalized_mse", "kl"]


class LogitDistillationLoss(nn.Module):
    r"""Distance between the logits of student and teacher, per image.

    - `"mse"` (the paper's): :math:`\frac1C \sum_c (t_c - s_c)^2`
    - `"kl"`, exclusive labels (Hinton et al., 2015):
      :math:`\tau^2 \sum_c p_c \log (p_c / q_c)`,
      :math:`p = \mathrm{softmax}(t/\tau)`, :math:`q = \mathrm{softmax}(s/\tau)`
    - `"kl"`, independent labels:
      :math:`\frac{\tau^2}{C} \sum_c \left[p_c \log\frac{p_c}{q_c} + (1-p_c) \log\frac{1-p_c}{1-q_c}\right]`,
      :math:`p = \sigma(t/\tau)`, :math:`q = \sigma(s/\tau)`

    :math:`\tau^2` keeps the size of the gradient when the temperature changes.

    Args:
        kind: `"mse"` or `"kl"`.
        temperature: :math:`\tau > 0`, used by `"kl"`.
        independent_labels: whether each logit is a label of its own (local findings, multi-label heads).

    Raises:
        DistillationError: if `kind` is unknown or the temperature is not positive.

    Example:

    ```python
    >>> loss = LogitDistillationLoss("mse")
    >>> loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 3.0]]))
    tensor([2.])
    ```
    """

    def __init__(self, kind: LogitLossKind = "mse", temperature: float = 1.0, independent_labels: bool = False) -> None:
        super().__init__()
        if kind not in ("mse", "kl"):
            raise DistillationError(f"The logit loss is 'mse' or 'kl', not {kind!r}.")
        if not temperature > 0:
            raise DistillationError(f"The temperature must be above 0, not {temperature}.")
        self.kind, self.temperature, self.independent_labels = kind, float(temperature), independent_labels

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compare logits.

        Args:
            student_logits: of shape `(B, C)`.
            teacher_logits: of shape `(B, C)`; no gradient flows into them.

        Returns:
            Tensor of shape `(B,)`, float32.

        Raises:
            DistillationError: if the shapes differ.
        """
        student, teacher = _same_shape(student_logits, teacher_logits, "logits")
        if self.kind == "mse":
            return (teacher - student).pow(2).mean(dim=-1)
        student, teacher = student / self.temperature, teacher / self.temperature
        if self.independent_labels:
            p = teacher.sigmoid()
            divergence = p * (F.logsigmoid(teacher) - F.logsigmoid(student)) + (1 - p) * (
                F.logsigmoid(-teacher) - F.logsigmoid(-student)
            )
            return self.temperature**2 * divergence.mean(dim=-1)
        log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
        return self.temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=-1)


class AttentionDistillationLoss(nn.Module):
    r"""Distance between aligned attention maps of student and teacher, per image.

    With :math:`A` of N tokens, mean over the L levels:

    - `"mse"` (the paper's): :math:`\frac{1}{N^2} \sum_{qk} (T_{qk} - S_{qk})^2`, tiny, for entries are about 1/N
    - `"normalized_mse"`: :math:`\sum_{qk} (T_{qk} - S_{qk})^2 / \sum_{qk} T_{qk}^2`
    - `"kl"`: :math:`\frac1N \sum_q \sum_k T_{qk} \log (T_{qk} / S_{qk})`

    Args:
        kind: `"mse"`, `"normalized_mse"` or `"kl"`.

    Raises:
        DistillationError: if `kind` is unknown.

    Example:

    ```python
    >>> teacher = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])
    >>> student = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    >>> AttentionDistillationLoss("normalized_mse")(student, teacher)
    tensor([0.5000])
    ```
    """

    # Below this a student's entry counts as this: softmax underflows to 0 in half precision, and log(0) is no loss.
    smallest_entry = 1e-12

    def __init__(self, kind: AttentionLossKind = "normalized_mse") -> None:
        super().__init__()
        if kind not in ("mse", "normalized_mse", "kl"):
            raise DistillationError(f"The attention loss is 'mse', 'normalized_mse' or 'kl', not {kind!r}.")
        self.kind = kind

    def forward(self, student_attention: Tensor, teacher_attention: Tensor) -> Tensor:
        """Compare attention maps.

        Args:
            student_attention: of shape `(B, L, N, N)`, rows summing to 1.
            teacher_attention: of the same shape; no gradient flows into it.

        Returns:
            Tensor of shape `(B,)`, float32.

        Raises:
            DistillationError: if the shapes differ.
        """
        student, teacher = _same_shape(student_attention, teacher_attention, "attention")
        if self.kind == "kl":
            log_ratio = teacher.clamp_min(self.smallest_entry).log() - student.clamp_min(self.smallest_entry).log()
            return (teacher * log_ratio).sum(dim=-1).mean(dim=(-2, -1))
        squared = (teacher - student).pow(2)
        if self.kind == "mse":
            return squared.mean(dim=(-3, -2, -1))
        return (squared.sum(dim=(-2, -1)) / teacher.pow(2).sum(dim=(-2, -1))).mean(dim=-1)


def sum_per_item(per_image: Tensor, num_items: Tensor | float | None = None, weights: Tensor | None = None) -> Tensor:
    """Reduce a loss per image to its share of the loss of a whole optimizer step.

    Args:
        per_image: of shape `(B,)`.
        num_items: images of the whole step over all micro-batches and processes; None means B.
        weights: of shape `(B,)`, 0 for an image that must not count (a repeat that only fills a batch).

    Returns:
        Scalar ``sum(weights * per_image) / num_items``.
    """
    total = per_image.sum() if weights is None else torch.dot(per_image, weights.to(per_image))
    return total / (per_image.shape[0] if num_items is None else num_items)


def _same_shape(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    if student.shape != teacher.shape:
        raise DistillationError(
            f"Student and teacher {what} must have one shape; got {tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    return student.float(), teacher.detach().float()
