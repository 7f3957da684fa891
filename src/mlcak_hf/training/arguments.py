"""Training arguments of multilevel collaborative attention knowledge (MLCAK) distillation."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from ..distillation.attention import AttentionOptions
from ..errors import RecipeError

_CHOICES = {"logit_loss": ("mse", "kl"), "attention_loss": ("mse", "normalized_mse", "kl")}


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
            `"mse"` as in the paper (too small to have an effect at gamma = 1), `"normalized_mse"`, or `"kl"` over rows;
            see [`AttentionDistillationLoss`].
        attention_aggregation (`str`, *optional*, defaults to `"mean"`):
            `"mean"`: one map over all levels, as in the paper; `"per_level"`: a loss per pair of levels, averaged.
        student_levels (`list[int]`, *optional*):
            Encoder layers of the student whose attention is taught; negative numbers count from the last. Defaults to
            all layers that the student's config returns.

    Raises:
        [`RecipeError`]: When a value is outside its range, or FSDP or DeepSpeed is requested.

    Other defaults than in `TrainingArguments`: the collator's inputs are kept (`remove_unused_columns=False`),
    checkpointing is not reentrant (reentrant checkpointing detaches captured attention), and DDP does not search for
    unused parameters, because there are none.
    """

    alpha: float = field(default=1.0, metadata={"help": "Weight (>= 0) of the distance between local logits."})
    beta: float = field(default=1.0, metadata={"help": "Weight (>= 0) of the distance between global logits."})
    gamma: float = field(default=1.0, metadata={"help": "Weight (>= 0) of the distance between attention maps."})
    logit_loss: Literal["mse", "kl"] = field(default="mse", metadata={"help": "Distance between logits."})
    temperature: float = field(default=1.0, metadata={"help": "Temperature (> 0) of the logit loss 'kl'."})
    attention_loss: Literal["mse", "normalized_mse", "kl"] = field(
        default="normalized_mse", metadata={"help": "Distance between attention maps."}
    )
    attention_aggregation: Literal["mean", "per_level"] = field(
        default="mean", metadata={"help": "One map over all levels, or a loss per pair of levels."}
    )
    student_levels: list[int] | None = field(
        default=None,
        metadata={"help": "Student layers whose attention is taught; all if unset."},
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Keep it off: the collator needs every column of a row."}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels", "local_targets"], metadata={"help": "Inputs that are labels."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter is used, so DDP need not search."}
    )

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise RecipeError(f"{name} must be a finite number >= 0; got {value}. Use 0 to switch the loss off.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise RecipeError(f"temperature must be a finite number > 0; got {self.temperature}. Use 1 or more.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = " or ".join(map(repr, choices))
                raise RecipeError(f"{name} must be {known}; got {getattr(self, name)!r}. Choose one of them.")
        if self.label_smoothing_factor:
            raise RecipeError(
                f"label_smoothing_factor must be 0, because this loss does not use it; got "
                f"{self.label_smoothing_factor}. For soft labels, prepare the dataset with --aggregation mean."
            )
        _ = self.attention_options  # Checks them.
        _refuse_sharding(self)
        # transformers renamed this argument within version 5; the old name only warns in the newer ones.
        names = {entry.name for entry in fields(self)}
        checkpointing = "activation" if "activation_checkpointing_kwargs" in names else "gradient"
        if (
            getattr(self, "activation_checkpointing_kwargs", None) is None
            and self.gradient_checkpointing_kwargs is None
        ):
            setattr(self, f"{checkpointing}_checkpointing_kwargs", {"use_reentrant": False})
        if not torch.accelerator.is_available():
            # Several processes on a machine without accelerator connect only if told that they run on CPUs.
            self.use_cpu = True
        _fit_workers(self)
        super().__post_init__()  # type: ignore[no-untyped-call]
        _check_reports(self)
        _refuse_other_batches(self)
        chosen = getattr(self, f"{checkpointing}_checkpointing_kwargs") or {}
        if getattr(self, f"{checkpointing}_checkpointing") and chosen.get("use_reentrant", True) and self.gamma > 0:
            raise RecipeError(
                f"{checkpointing}_checkpointing_kwargs must set use_reentrant to false while gamma > 0, because "
                f"reentrant checkpointing detaches the captured attention; got {chosen}. Set one of them."
            )

    @property
    def distils(self) -> bool:
        """Whether a teacher is needed: one of its weights is above 0."""
        return self.alpha > 0 or self.beta > 0 or self.gamma > 0

    @property
    def attention_options(self) -> AttentionOptions:
        """Which attention is taught."""
        return AttentionOptions(self.student_levels, self.attention_aggregation, enabled=self.gamma > 0)


def _fit_workers(args: MLCAKTrainingArguments) -> None:
    """Start no more workers than there are cores, and none that outlive an epoch where there are none."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    args.dataloader_num_workers = min(args.dataloader_num_workers, cores)
    if args.dataloader_num_workers == 0:
        args.dataloader_persistent_workers = False


def _check_reports(args: MLCAKTrainingArguments) -> None:
    """Refuse a missing TensorBoard now: the Trainer would only after the images were decoded."""
    if "tensorboard" in (args.report_to or []) and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise RecipeError(
            "report_to must name an installed tool; got 'tensorboard'. Install it with "
            "pip install 'mlcak-hf[tensorboard]', or use --report_to none."
        )


def _refuse_other_batches(args: MLCAKTrainingArguments) -> None:
    """Refuse options by which several processes get other batches than the trainer counts images for."""
    if args.world_size == 1:
        return
    config: Any = args.accelerator_config
    chosen = {
        "auto_find_batch_size": args.auto_find_batch_size,
        "accelerator_config's split_batches": config.split_batches,
        "accelerator_config's dispatch_batches": bool(config.dispatch_batches),
    }
    for name, value in chosen.items():
        if value:
            raise RecipeError(f"{name} must be false with several processes; got {value}. Leave it out.")
    if not config.even_batches:
        raise RecipeError("accelerator_config's even_batches must be true with several processes; got False.")


def _refuse_sharding(args: MLCAKTrainingArguments) -> None:
    launched = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}
    asked = {name: os.environ.get(variable, "").lower() in ("1", "true", "yes") for name, variable in launched.items()}
    asked = {"FSDP": asked["FSDP"] or bool(args.fsdp), "DeepSpeed": asked["DeepSpeed"] or bool(args.deepspeed)}
    for name, wanted in asked.items():
        if wanted:
            raise RecipeError(
                f"{name} is not supported: the models of this package fit on one device (ViT-B: 0.35 GB of weights). "
                "Use accelerate launch --multi_gpu, also over several machines; if memory is short, add bf16 and "
                "gradient_checkpointing."
            )
