"""The training loss: its parts and their weights, and whether there is anything to learn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..classification_loss_mlcak import global_classification_loss, local_classification_loss
from ..configuration_mlcak import MLCAKConfig
from ..distillation.losses import AttentionDistillationLoss, LogitDistillationLoss, sum_per_item
from ..distillation.teachers import TeacherOutputs, Teachers
from ..errors import DistillationError
from ..probabilities import MULTI_LABEL
from .arguments import MLCAKTrainingArguments

LABELS = ("labels", "local_targets")


class Objective:
    """`L = L_global + lambda * L_local + alpha * D(local) + beta * D(global) + gamma * D(attention)`.

    Every part is a sum over images divided by the images of the whole optimizer step.

    Args:
        config ([`MLCAKConfig`]):
            Config of the student.
        args ([`MLCAKTrainingArguments`]):
            Weights and kinds of the losses.
        teachers ([`Teachers`], *optional*):
            The teachers; `None` without distillation.
    """

    def __init__(self, config: MLCAKConfig, args: MLCAKTrainingArguments, teachers: Teachers | None = None) -> None:
        several = config.problem_type == MULTI_LABEL
        self.config, self.args = config, args
        #: Aligns the student's attention; `None` when attention is not taught.
        self.alignment = None if teachers is None else teachers.alignment
        self._global_columns = [] if teachers is None else teachers.global_columns
        self._local_columns = [] if teachers is None else teachers.local_columns
        self._global_distance = LogitDistillationLoss(args.logit_loss, args.temperature, independent_labels=several)
        self._local_distance = LogitDistillationLoss(args.logit_loss, args.temperature, independent_labels=True)
        self._attention_distance = AttentionDistillationLoss(args.attention_loss)
        self._weights = {
            "loss_global": 1.0,
            "loss_local": config.local_loss_weight,
            "distil_local": args.alpha,
            "distil_global": args.beta,
            "distil_attention": args.gamma,
        }
        if args.torch_compile:
            # Beside the model, which the Trainer compiles: small operations cost a GPU as much as large ones.
            compiled: Any = partial(torch.compile, backend=args.torch_compile_backend, mode=args.torch_compile_mode)
            for name in ("classification", "distillation"):
                setattr(self, name, compiled(getattr(self, name)))

    def classification(
        self, logits: Tensor, local_logits: Tensor | None, labels: Mapping[str, Any], num_items: Any
    ) -> dict[str, Tensor]:
        """Return the parts of the loss that the labels give.

        Args:
            logits (`torch.Tensor` of shape `(B, C)`):
                Global logits of the student.
            local_logits (`torch.Tensor` of shape `(B, F)`, *optional*):
                Its local logits.
            labels (`Mapping`):
                `labels` and `local_targets`, as far as they are known.
            num_items (`torch.Tensor` or `int`):
                Images of the whole step.
        """
        parts = {}
        if labels.get("labels") is not None:
            kind = str(self.config.problem_type)
            parts["loss_global"] = global_classification_loss(logits, labels["labels"], kind, num_items)
        if local_logits is not None and labels.get("local_targets") is not None:
            parts["loss_local"] = local_classification_loss(local_logits, labels["local_targets"], num_items)
        return parts

    def distillation(
        self, outputs: Any, known: TeacherOutputs, num_items: Any, image_weights: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the parts of the loss that the teachers give.

        Args:
            outputs ([`MLCAKOutput`]):
                Outputs of the student.
            known ([`TeacherOutputs`]):
                Outputs of the teachers.
            num_items (`torch.Tensor` or `int`):
                Images of the whole step.
            image_weights (`torch.Tensor` of shape `(B,)`, *optional*):
                0 for an image that must not count.
        """
        parts = {}
        if self.args.alpha > 0 and outputs.local_logits is not None and known.local_logits is not None:
            pair = _columns(self._local_columns, outputs.local_logits, known.local_logits)
            parts["distil_local"] = self._local_distance(*pair)
        if self.args.beta > 0 and known.logits is not None:
            pair = _columns(self._global_columns, outputs.logits, known.logits)
            parts["distil_global"] = self._global_distance(*pair)
        if self.alignment is not None and known.attention is not None:
            ours = self.alignment.align_student(outputs.attentions)
            parts["distil_attention"] = self._attention_distance(ours, known.attention)
        return {name: sum_per_item(part, num_items, image_weights) for name, part in parts.items()}

    def total(self, parts: Mapping[str, Tensor]) -> Any:
        """Return the weighted sum of the parts."""
        return sum(float(self._weights[name]) * part for name, part in parts.items())


def _columns(columns: list[int], *logits: Tensor) -> tuple[Tensor, ...]:
    """Keep the labels that are taught."""
    return logits if len(columns) == logits[0].shape[1] else tuple(each[:, columns] for each in logits)


def smooth_labels(labels: Mapping[str, Any], factor: float, config: MLCAKConfig) -> dict[str, Any]:
    """Move labels towards the mean of their classes, `(1 - factor) * label + factor / classes`.

    Args:
        labels (`Mapping`):
            `labels` and `local_targets` of a batch; each may be `None`.
        factor (`float`):
            At least 0, below 1.
        config ([`MLCAKConfig`]):
            Config of the student.

    Returns:
        `dict`: The smoothed labels. Integer classes become soft targets; missing labels (negative) stay as they are.
    """
    smoothed = dict(labels)
    for name, values in labels.items() if factor else ():
        if values is None:
            continue
        classes = 2
        if name == "labels" and config.problem_type == "single_label_classification":
            classes = len(config.global_labels)
            if not values.is_floating_point():
                one_hot = F.one_hot(values.long().clamp(min=0), classes).float()
                values = one_hot.where(values[:, None] >= 0, -1.0)
        smoothed[name] = (values * (1 - factor) + factor / classes).where(values >= 0, values)
    return smoothed


def has_labels(dataset: Any) -> bool:
    """Return whether a row of a [`RadiographDataset`] has a label; `True` for another dataset, which is not checked."""
    targets = getattr(dataset, "targets", None)
    return targets is None or any((values >= 0).any() for values in targets.values())


def check_labels(dataset: Any) -> None:
    """Check that a dataset has a label, for training without a teacher.

    Args:
        dataset ([`RadiographDataset`]):
            Rows with targets.

    Raises:
        [`DistillationError`]: When no row has a label.
    """
    if not has_labels(dataset):
        raise DistillationError(
            "There is nothing to learn from: no image of the dataset has a label, and no teacher is used. Name columns "
            "of labels (--label_column, --findings_column) or a --teacher with weights above 0."
        )
