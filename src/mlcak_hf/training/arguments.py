"""Training arguments of multilevel collaborative attention knowledge (MLCAK) distillation."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from transformers import TrainingArguments

from ..distillation.attention import Aggregation, AttentionOptions
from ..distillation.losses import AttentionDistillationLoss, AttentionLossKind, LogitDistillationLoss, LogitLossKind
from ..errors import RecipeError

#: What the name of a metric ends with that is a mean over perturbed images.
SHIFTED = "_shifted"


@dataclass
class MLCAKTrainingArguments(TrainingArguments):
    r"""
    Arguments of [`MLCAKTrainer`]: those of [`~transformers.TrainingArguments`], and weights and kinds of the losses.

    `L = CE + lambda * BCE + alpha * D(local) + beta * D(global) + gamma * D(attention)`.

    With alpha = beta = gamma = 0, or without a teacher, this trains a plain student (or a teacher).

    Args:
        alpha (`float`, *optional*, defaults to 1.0):
            Weight (>= 0) of the distance between the local logits (MLCT) of teacher and student.
        beta (`float`, *optional*, defaults to 1.0):
            Weight (>= 0) of the distance between the global logits (MCCT).
        gamma (`float`, *optional*, defaults to 1.0):
            Weight (>= 0) of the distance between the attention maps (MLCAK). At 0, attention is not computed.
        logit_loss (`str`, *optional*, defaults to `"mse"`):
            `"mse"` as in the paper, or `"kl"`; see [`LogitDistillationLoss`].
        temperature (`float`, *optional*, defaults to 1.0):
            Temperature (> 0) of `"kl"`; the loss is scaled by its square.
        attention_loss (`str`, *optional*, defaults to `"normalized_mse"`):
            `"mse"` as in the paper (too small to have an effect at gamma = 1), `"normalized_mse"`, `"kl"` over rows, or
            `"transfer"`; see [`AttentionDistillationLoss`].
        attention_aggregation (`str`, *optional*, defaults to `"mean"`):
            `"mean"`: one map over all levels, as in the paper; `"per_level"`: a loss per pair of levels, averaged.
        student_levels (`list[int]`, *optional*):
            Encoder layers of the student that are taught attention; negative numbers count from the last. Defaults to
            all layers that the student's config returns.
        ema_decay (`float`, *optional*, defaults to 0.0):
            Above 0, e.g. 0.999, a moving average of the weights is evaluated, saved and chosen; see
            [`AveragingTrainer`].
        eval_shifts (`bool`, *optional*, defaults to `False`):
            Also evaluate the validation images under each of the fixed perturbations in [`~mlcak_hf.data.shifts`], and
            log the mean of `auroc_global` over them as `auroc_global_shifted`, which `metric_for_best_model` may name.

    Raises:
        [`RecipeError`]: When a value is outside its range, or FSDP or DeepSpeed is requested.

    `label_smoothing_factor` f makes a training label of n classes `(1 - f) * label + f / n`, and a finding or one of
    several global labels `(1 - f) * label + f / 2`; missing ones stay missing.

    Other defaults than in `TrainingArguments`: the collator's inputs are kept (`remove_unused_columns=False`),
    checkpointing is not reentrant (reentrant checkpointing detaches captured attention), and DDP does not search for
    unused parameters, because there are none.
    """

    alpha: float = field(default=1.0, metadata={"help": "Weight (>= 0) of the distance between local logits."})
    beta: float = field(default=1.0, metadata={"help": "Weight (>= 0) of the distance between global logits."})
    gamma: float = field(default=1.0, metadata={"help": "Weight (>= 0) of the distance between attention maps."})
    logit_loss: LogitLossKind = field(default="mse", metadata={"help": "Distance between logits."})
    temperature: float = field(default=1.0, metadata={"help": "Temperature (> 0) of the logit loss 'kl'."})
    attention_loss: AttentionLossKind = field(default="normalized_mse", metadata={"help": "Distance between maps."})
    attention_aggregation: Aggregation = field(default="mean", metadata={"help": "One map, or one per pair."})
    student_levels: list[int] | None = field(default=None, metadata={"help": "Student layers that are taught."})
    ema_decay: float = field(default=0.0, metadata={"help": "Decay of the average of the weights; 0 is off."})
    eval_shifts: bool = field(default=False, metadata={"help": "Evaluate perturbed validation images too."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep it off: the collator needs all."})
    label_names: list[str] | None = field(default_factory=lambda: ["labels", "local_targets"])
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every parameter is used."})

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            check_weight(name, getattr(self, name))
        # They check kinds, temperature and levels.
        LogitDistillationLoss(self.logit_loss, self.temperature)
        AttentionDistillationLoss(self.attention_loss)
        self.attention_options = AttentionOptions(self.student_levels, self.attention_aggregation, self.gamma > 0)
        if not (0 <= self.label_smoothing_factor < 1 and 0 <= self.ema_decay < 1):
            raise RecipeError(
                f"label_smoothing_factor and ema_decay must be at least 0 and below 1; got "
                f"{self.label_smoothing_factor} and {self.ema_decay}. Use 0 to switch one off."
            )
        if (self.metric_for_best_model or "").endswith(SHIFTED) and not self.eval_shifts:
            raise RecipeError(f"metric_for_best_model {self.metric_for_best_model} needs eval_shifts. Set it to true.")
        _refuse_sharding(self)
        if self.disable_tqdm is None and not sys.stderr.isatty():
            self.disable_tqdm = True
        # Several processes on a machine without accelerator connect only if told that they run on CPUs.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        # No more workers than cores, and none that outlive an epoch where there are none.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.dataloader_num_workers = min(self.dataloader_num_workers, cores)
        self.dataloader_persistent_workers &= self.dataloader_num_workers > 0
        super().__post_init__()  # type: ignore[no-untyped-call]
        if "tensorboard" in (self.report_to or []) and not (find_spec("tensorboard") or find_spec("tensorboardX")):
            # The Trainer would find it missing only after the images were decoded.
            raise RecipeError("report_to must name an installed tool. Run: pip install 'mlcak-hf[tensorboard]'.")
        _refuse_other_batches(self)
        checkpointing: Any = self.gradient_checkpointing_kwargs or {"use_reentrant": False}
        # transformers renamed the argument within version 5.
        self.gradient_checkpointing_kwargs = self.activation_checkpointing_kwargs = checkpointing
        if self.gradient_checkpointing and self.gamma > 0 and checkpointing.get("use_reentrant", True):
            raise RecipeError(
                "gradient_checkpointing_kwargs must set use_reentrant to false while gamma > 0, because reentrant "
                "checkpointing detaches the captured attention."
            )

    @property
    def distils(self) -> bool:
        """Whether a teacher is needed: one of its weights is above 0."""
        return self.alpha > 0 or self.beta > 0 or self.gamma > 0


def check_weight(name: str, value: float) -> None:
    """Check the weight of a loss.

    Raises:
        [`RecipeError`]: When it is negative or not finite.
    """
    if not 0 <= value < math.inf:
        raise RecipeError(f"{name} must be a finite number >= 0; got {value}. Use 0 to switch the loss off.")


def _refuse_other_batches(args: MLCAKTrainingArguments) -> None:
    """Refuse options that change the batches of several processes, because the trainer counts their images."""
    config: Any = args.accelerator_config
    changed = {
        "auto_find_batch_size": args.auto_find_batch_size,
        "accelerator_config's split_batches": config.split_batches,
        "accelerator_config's dispatch_batches": config.dispatch_batches,
        "accelerator_config's even_batches": not config.even_batches,
    }
    for name, is_changed in changed.items():
        if is_changed and args.world_size > 1:
            raise RecipeError(f"{name} must keep its default with several processes. Leave it out.")


def _refuse_sharding(args: MLCAKTrainingArguments) -> None:
    for name, asked in {"FSDP": args.fsdp, "DeepSpeed": args.deepspeed}.items():
        launched = os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() in ("1", "true", "yes")
        if asked or launched:
            raise RecipeError(
                f"{name} is not supported: the models fit on one device. Use accelerate launch --multi_gpu, also over "
                "several machines; if memory is short, add bf16 and gradient_checkpointing."
            )
