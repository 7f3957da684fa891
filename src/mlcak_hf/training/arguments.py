"""Training arguments of multilevel collaborative attention knowledge (MLCAK) distillation."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from transformers import TrainingArguments

from ..errors import RecipeError

_CHOICES = {
    "logit_loss": ("mse", "kl"),
    "attention_loss": ("mse", "normalized_mse", "kl"),
    "attention_aggregation": ("mean", "per_level"),
}


@dataclass
class MLCAKTrainingArguments(TrainingArguments):
    r"""
    Arguments of [`MLCAKTrainer`]: those of [`~transformers.TrainingArguments`] and the weights and kinds of

    `L = CE + lambda * BCE + alpha * D(local) + beta * D(global) + gamma * D(attention)`.

    With alpha = beta = gamma = 0, or without a teacher, this trains a plain student (or a teacher).

    Args:
        alpha (`float`, defaults to 1.0):
            Weight (>= 0) of the distance between the local logits (MLCT) of teacher and student.
        beta (`float`, defaults to 1.0):
            Weight (>= 0) of the distance between the global logits (MCCT).
        gamma (`float`, defaults to 1.0):
            Weight (>= 0) of the distance between the attention maps (MLCAK). At 0 no attention is captured.
        logit_loss (`str`, defaults to `"mse"`):
            `"mse"` as in the paper, or `"kl"`.
        temperature (`float`, defaults to 1.0):
            Temperature (> 0) of `"kl"`; the loss is scaled by its square.
        attention_loss (`str`, defaults to `"normalized_mse"`):
            `"mse"` as in the paper (too small to train anything at gamma = 1), `"normalized_mse"`, or `"kl"` over rows.
        attention_aggregation (`str`, defaults to `"mean"`):
            `"mean"`: one map over all levels, as in the paper; `"per_level"`: a loss per pair of levels, averaged.
        student_levels (`list[int]`, *optional*):
            Encoder layers of the student whose attention is taught; negative numbers count from the last. None: all
            layers that the student's config returns.

    Raises:
        RecipeError: if a value lies outside its range; names the field, the value and the range. Also if FSDP or
            DeepSpeed are asked for.

    What differs from the defaults of `TrainingArguments`: the collator's inputs are kept
    (`remove_unused_columns=False`), both kinds of labels are named (`label_names`), checkpointing is non-reentrant (a
    reentrant one detaches captured attention), and DDP does not search for unused parameters, because there are none.
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
        default_factory=lambda: ["labels", "local_labels"], metadata={"help": "Inputs that are labels."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter is used, so DDP need not search."}
    )

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise RecipeError(f"{name} must be a finite number >= 0; got {value}.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise RecipeError(f"temperature must be a finite number > 0; got {self.temperature}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise RecipeError(f"{name} must be one of {list(choices)}; got {getattr(self, name)!r}.")
        if self.label_smoothing_factor:
            raise RecipeError(
                f"label_smoothing_factor has no place in this loss and must stay 0; got {self.label_smoothing_factor}. "
                "Soft labels come from the readers' votes: aggregate=mean."
            )
        levels = self.student_levels
        if levels is not None and (not levels or len(set(levels)) < len(levels)):
            raise RecipeError(f"student_levels must be at least one layer and none twice; got {levels}.")
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
            # Several processes on a machine without accelerator find each other only if told that they are on CPUs.
            self.use_cpu = True
        super().__post_init__()  # type: ignore[no-untyped-call]
        chosen = getattr(self, f"{checkpointing}_checkpointing_kwargs") or {}
        if getattr(self, f"{checkpointing}_checkpointing") and chosen.get("use_reentrant", True) and self.gamma > 0:
            raise RecipeError(
                f"{checkpointing}_checkpointing_kwargs must have use_reentrant false while gamma > 0: reentrant "
                f"checkpointing detaches the captured attention, so that it would train nothing; got {chosen}."
            )

    @property
    def distils(self) -> bool:
        """Whether any weight asks for a teacher."""
        return self.alpha > 0 or self.beta > 0 or self.gamma > 0


def _refuse_sharding(args: MLCAKTrainingArguments) -> None:
    """FSDP and DeepSpeed split a model that the losses here read whole; neither has been proven to train the same."""
    launched = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}
    asked = {name: os.environ.get(variable, "").lower() in ("1", "true", "yes") for name, variable in launched.items()}
    asked = {"FSDP": asked["FSDP"] or bool(args.fsdp), "DeepSpeed": asked["DeepSpeed"] or bool(args.deepspeed)}
    for name, wanted in asked.items():
        if wanted:
            raise RecipeError(
                f"{name} is not supported: teachers and students of this package fit on one device (ViT-B: 0.35 GB of "
                "weights). Use several processes that each hold the whole model (accelerate launch --multi_gpu, "
                "also over several machines), bf16, and gradient_checkpointing where memory is short."
            )
