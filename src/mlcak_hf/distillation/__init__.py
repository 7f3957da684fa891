"""Distillation of multilevel collaborative attention knowledge (MLCAK) from a teacher into a low-resolution student."""

from .attention import AttentionAlignment, merge_prefix_tokens, pair_levels, pool_attention
from .cache import TeacherCache, cached_views
from .cache_build import build_teacher_cache
from .knowledge import TeacherKnowledge, Teachers
from .losses import AttentionDistillationLoss, LogitDistillationLoss
from .teacher import check_teacher, check_teachers, load_teacher, load_teacher_config
from .trainer import MLCAKTrainer
from .training_args import MLCAKTrainingArguments

__all__ = [
    "AttentionAlignment",
    "AttentionDistillationLoss",
    "LogitDistillationLoss",
    "MLCAKTrainer",
    "MLCAKTrainingArguments",
    "TeacherCache",
    "TeacherKnowledge",
    "Teachers",
    "build_teacher_cache",
    "cached_views",
    "check_teacher",
    "check_teachers",
    "load_teacher",
    "load_teacher_config",
    "merge_prefix_tokens",
    "pair_levels",
    "pool_attention",
]
