"""Distillation losses: they take tensors and return one value per image.

The mean over a batch is the loss of the paper. A sum divided by the number of images of a whole optimizer step is the
same under gradient accumulation and in several processes.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DistillationError, RecipeError
from ..image_geometry_mlcak import check_choice

LogitLossKind = Literal["mse", "kl"]
AttentionLossKind = Literal["mse", "normalized_mse", "kl", "transfer"]


class LogitDistillationLoss(nn.Module):
    r"""Distance between the logits of student and teacher, per image.

    - `"mse"`: :math:`\frac1C \sum_c (t_c - s_c)^2`, the losses on MLCT and MCCT of Akhter et al. (ISBI 2024).
    - `"kl"` for exclusive labels (Hinton et al., 2015): :math:`\tau^2 \sum_c p_c \log (p_c / q_c)` with
      :math:`p = \mathrm{softmax}(t/\tau)`, :math:`q = \mathrm{softmax}(s/\tau)`.
    - `"kl"` for independent labels:
      :math:`\frac{\tau^2}{C} \sum_c \left[p_c \log\frac{p_c}{q_c} + (1-p_c) \log\frac{1-p_c}{1-q_c}\right]` with
      :math:`p = \sigma(t/\tau)`, :math:`q = \sigma(s/\tau)`.

    The factor :math:`\tau^2` keeps the size of the gradient independent of the temperature; for large :math:`\tau`,
    `"kl"` approaches a multiple of `"mse"` on centred logits. Choose `"kl"` to ignore a common offset of the logits.

    Args:
        kind (`str`, *optional*, defaults to `"mse"`):
            `"mse"` or `"kl"`.
        temperature (`float`, *optional*, defaults to 1.0):
            :math:`\tau > 0`, used by `"kl"`.
        independent_labels (`bool`, *optional*, defaults to `False`):
            Whether every logit is a label of its own (local findings, multi-label heads).

    Raises:
        [`RecipeError`]: When `kind` is unknown or the temperature is not positive.

    Example:

    ```python
    >>> import torch
    >>> from mlcak_hf.distillation.losses import LogitDistillationLoss
    >>> loss = LogitDistillationLoss("mse")
    >>> loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 3.0]]))
    tensor([2.])
    ```
    """

    def __init__(self, kind: LogitLossKind = "mse", temperature: float = 1.0, independent_labels: bool = False) -> None:
        super().__init__()
        check_choice("logit_loss", kind, get_args(LogitLossKind), RecipeError)
        if not (math.isfinite(temperature) and temperature > 0):
            raise RecipeError(f"temperature must be a finite number > 0; got {temperature}. Use 1 to 10.")
        self.kind, self.temperature, self.independent_labels = kind, float(temperature), independent_labels

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student_logits (`torch.Tensor` of shape `(B, C)`):
                Logits of the student.
            teacher_logits (`torch.Tensor` of shape `(B, C)`):
                Logits of the teacher; they receive no gradient.

        Returns:
            `torch.Tensor` of shape `(B,)`, float32.

        Raises:
            [`DistillationError`]: When the shapes differ.
        """
        student, teacher = _same_shape(student_logits, teacher_logits, "logits")
        if self.kind == "mse":
            return (teacher - student).pow(2).mean(dim=-1)
        student, teacher = student / self.temperature, teacher / self.temperature
        if self.independent_labels:
            p = teacher.sigmoid()
            positive = p * (F.logsigmoid(teacher) - F.logsigmoid(student))
            negative = (1 - p) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
            return self.temperature**2 * (positive + negative).mean(dim=-1)
        log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
        return self.temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=-1)


class AttentionDistillationLoss(nn.Module):
    r"""Distance between the aligned attention maps of student and teacher, per image.

    With maps of N x N entries and a mean over the L levels:

    - `"mse"`: :math:`\frac{1}{N^2} \sum_{qk} (T_{qk} - S_{qk})^2`, the MLCAK loss of Akhter et al. (ISBI 2024). It is
      tiny, because entries are about 1/N.
    - `"normalized_mse"`: :math:`\sum_{qk} (T_{qk} - S_{qk})^2 / \sum_{qk} T_{qk}^2`, the same distance relative to
      the size of the teacher's map, so that one weight suits all grids.
    - `"kl"`: :math:`\frac1N \sum_q \sum_k T_{qk} \log (T_{qk} / S_{qk})`, which treats each row as a distribution.
    - `"transfer"`: :math:`\lVert t / \lVert t \rVert - s / \lVert s \rVert \rVert^2` with :math:`t_k = \sum_q T_{qk}`
      over the patches: the attention transfer of Zagoruyko and Komodakis (ICLR 2017). Their maps are squared
      activations of a CNN; here, the attention that each patch receives. Use it with `"per_level"`.

    Args:
        kind (`str`, *optional*, defaults to `"normalized_mse"`):
            `"mse"`, `"normalized_mse"`, `"kl"` or `"transfer"`.

    Raises:
        [`RecipeError`]: When `kind` is unknown.

    Example:

    ```python
    >>> import torch
    >>> from mlcak_hf.distillation.losses import AttentionDistillationLoss
    >>> teacher = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])
    >>> student = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    >>> AttentionDistillationLoss("normalized_mse")(student, teacher)
    tensor([0.5000])
    ```
    """

    # Smaller entries are raised to this: softmax underflows to 0 in half precision, and log(0) is infinite.
    smallest_entry = 1e-12

    def __init__(self, kind: AttentionLossKind = "normalized_mse") -> None:
        super().__init__()
        check_choice("attention_loss", kind, get_args(AttentionLossKind), RecipeError)
        self.kind = kind

    def forward(self, student_attention: Tensor, teacher_attention: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student_attention (`torch.Tensor` of shape `(B, L, N, N)`):
                Maps of the student, rows summing to 1.
            teacher_attention (`torch.Tensor` of shape `(B, L, N, N)`):
                Maps of the teacher; they receive no gradient.

        Returns:
            `torch.Tensor` of shape `(B,)`, float32.

        Raises:
            [`DistillationError`]: When the shapes differ.
        """
        student, teacher = _same_shape(student_attention, teacher_attention, "attention")
        if self.kind == "kl":
            log_ratio = teacher.clamp_min(self.smallest_entry).log() - student.clamp_min(self.smallest_entry).log()
            return (teacher * log_ratio).sum(dim=-1).mean(dim=(-2, -1))
        if self.kind == "transfer":
            maps = (F.normalize(each[..., 1:].sum(dim=-2), dim=-1) for each in (student, teacher))
            return torch.sub(*maps).pow(2).sum(dim=-1).mean(dim=-1)
        squared = (teacher - student).pow(2)
        if self.kind == "mse":
            return squared.mean(dim=(-3, -2, -1))
        return (squared.sum(dim=(-2, -1)) / teacher.pow(2).sum(dim=(-2, -1))).mean(dim=-1)


def sum_per_item(per_image: Tensor, num_items: Tensor | float | None = None, weights: Tensor | None = None) -> Tensor:
    """Reduce a loss per image to its share of the loss of a whole optimizer step.

    Args:
        per_image (`torch.Tensor` of shape `(B,)`):
            Loss per image.
        num_items (`torch.Tensor` or `float`, *optional*):
            Images of the whole step, over all micro-batches and processes. Defaults to B.
        weights (`torch.Tensor` of shape `(B,)`, *optional*):
            0 for an image that must not count, such as a repeat that fills a batch.

    Returns:
        `torch.Tensor`: The scalar `sum(weights * per_image) / num_items`.
    """
    total = per_image.sum() if weights is None else torch.dot(per_image, weights.to(per_image))
    return total / (per_image.shape[0] if num_items is None else num_items)


def _same_shape(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    if student.shape != teacher.shape:
        raise DistillationError(
            f"Student and teacher {what} must have the same shape; got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}. Align them first."
        )
    return student.float(), teacher.detach().float()
