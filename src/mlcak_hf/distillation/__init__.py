"""Distillation of multilevel collaborative attention knowledge (MLCAK) from a teacher into a low-resolution student."""

from .attention import AttentionAlignment, merge_prefix_tokens, pair_levels, pool_attention
from .losses import AttentionDistillationLoss, LogitDistillationLoss
from .teacher import check_teacher, load_teacher
from .trainer import MLCAKTrainer
from .training_args import MLCAKTrainingArguments

__all__ = [
    "AttentionAlignment",
    "AttentionDistillationLoss",
    "LogitDistillationLoss",
    "MLCAKTrainer",
    "MLCAKTrainingArguments",
    "check_teacher",
    "load_teacher",
    "merge_prefix_tokens",
    "pair_levels",
    "pool_attention",
]
