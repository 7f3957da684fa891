"""Load frozen teachers and check that they can teach a student."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..configuration_mlcak import MLCAKConfig
from ..errors import DistillationError
from ..modeling_mlcak import MLCAKForCXRClassification
from ..pretrained import load_config, load_model, loading, weight_files
from .attention import AttentionAlignment, AttentionOptions, TokenLayout, pair_levels


def load_teacher(teacher: str | PathLike[str] | MLCAKForCXRClassification) -> MLCAKForCXRClassification:
    """Load a teacher, freeze it and set it to evaluation mode.

    Args:
        teacher (`str`, `os.PathLike` or [`MLCAKForCXRClassification`]):
            A folder, a Hub id, or a model, which is frozen in place.

    Returns:
        [`MLCAKForCXRClassification`]: The teacher: no parameter requires a gradient, and dropout is off.

    Raises:
        [`DistillationError`]: When it cannot be loaded or is not an MLCAK model.
    """
    model = load_model(teacher, "teacher", DistillationError) if isinstance(teacher, (str, PathLike)) else teacher
    # A model loaded from a folder with remote code belongs to another class of the same name, so ask for its type.
    if getattr(getattr(model, "config", None), "model_type", None) != "mlcak":
        raise DistillationError(
            f"The teacher must be an MLCAK model; got {type(model).__name__}. "
            "Convert a ViT, DeiT or DINOv2 checkpoint with MLCAKForCXRClassification.from_backbone."
        )
    model.requires_grad_(False)
    model.train(False)
    return model


def load_teacher_config(teacher: str | PathLike[str]) -> MLCAKConfig:
    """Load the config of a teacher, and check without loading them that its weights are complete.

    Args:
        teacher (`str` or `os.PathLike`):
            A folder or a Hub id. The weights of a Hub id are not checked.

    Returns:
        [`MLCAKConfig`]: The config.

    Raises:
        [`DistillationError`]: When it cannot be loaded or is not an MLCAK model, or weights are missing or truncated.
    """
    config = load_config(teacher, "teacher", DistillationError)
    with loading(teacher, "teacher", "Copy its weights again, or train it again.", DistillationError):
        files = weight_files(teacher)
        if Path(teacher).is_dir() and not files:
            raise FileNotFoundError("it has no weights, such as model.safetensors")
        for weights in (path for path in files if path.suffix == ".safetensors"):
            # Opening compares the length of the file with its header, and reads nothing else.
            with safe_open(weights, framework="pt"):
                pass
    return config


def check_teachers(
    teachers: Sequence[MLCAKForCXRClassification | MLCAKConfig],
    student: MLCAKForCXRClassification | MLCAKConfig,
    options: AttentionOptions | None = None,
) -> list[AttentionAlignment | None]:
    """Check that teachers can teach a student, and pair the attention of each with the student's.

    A student without a local head learns only the global logits. All attention is pooled to the coarsest grid.

    Args:
        teachers (`Sequence` of [`MLCAKForCXRClassification`] or [`MLCAKConfig`]):
            The models or their configs; at least one.
        student ([`MLCAKForCXRClassification`] or [`MLCAKConfig`]):
            The student or its config.
        options ([`AttentionOptions`], *optional*):
            Which attention is taught. Defaults to all levels, averaged.

    Returns:
        `list` of [`AttentionAlignment`]: One per teacher; each `None` when attention is not taught.

    Raises:
        [`DistillationError`]: When there is no teacher, or labels, findings, problem types or levels differ.
    """
    if not teachers:
        raise DistillationError("At least one teacher must be given; got none. Name a folder or a Hub id.")
    options = AttentionOptions() if options is None else options
    ours, *theirs = (getattr(model, "config", model) for model in (student, *teachers))
    for config in theirs:
        _check_same_task(config, ours)
    if not options.enabled:
        return [None] * len(theirs)
    grids = [TokenLayout.of(config).grid for config in (ours, *theirs)]
    target = (min(rows for rows, _ in grids), min(columns for _, columns in grids))
    return [_align(config, ours, options, target) for config in theirs]


def _check_same_task(teacher: Any, student: Any) -> None:
    if teacher.problem_type != student.problem_type:
        raise DistillationError(
            f"Teacher and student must have the same problem_type; got {teacher.problem_type} (teacher) and "
            f"{student.problem_type} (student). Train both on the same labels."
        )
    _check_names("global labels (id2label)", teacher.global_labels, student.global_labels)
    if student.local_labels:
        _check_names("local findings (local_labels)", list(teacher.local_labels), list(student.local_labels))


def _align(teacher: Any, student: Any, options: AttentionOptions, target: tuple[int, int]) -> AttentionAlignment:
    chosen, paired = _paired_levels(teacher, student, options.student_levels)
    return AttentionAlignment(
        [student.resolved_attention_levels.index(level) for level in chosen],
        [teacher.resolved_attention_levels.index(level) for level in paired],
        TokenLayout.of(student),
        TokenLayout.of(teacher),
        options.aggregation,
        target,
    )


def _paired_levels(
    teacher: MLCAKConfig, student: MLCAKConfig, student_levels: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    """Return the taught encoder layers of the student and the layers of the teacher that teach them."""
    num_student, num_teacher = (int(config.backbone_config.num_hidden_layers) for config in (student, teacher))
    available = student.resolved_attention_levels
    chosen = list(available)
    if student_levels is not None:
        outside = [level for level in student_levels if not -num_student <= level < num_student]
        if outside:
            raise DistillationError(
                f"student_levels must be between {-num_student} and {num_student - 1}, because the student has "
                f"{num_student} layers; got {outside}. Remove them."
            )
        chosen = sorted({level % num_student for level in student_levels})
    pairs = pair_levels(num_student, num_teacher)
    paired = [pairs[level] for level in chosen]
    for who, needed, config in (("student", chosen, student), ("teacher", paired, teacher)):
        missing = sorted(set(needed) - set(config.resolved_attention_levels))
        if missing:
            raise DistillationError(
                f"The {who}'s attention_levels must include layers {missing}; got {config.resolved_attention_levels}. "
                "Add them, or set attention_levels to None."
            )
    return chosen, paired


def _check_names(what: str, teacher: list[str], student: list[str]) -> None:
    if teacher == student:
        return
    if sorted(teacher) == sorted(student):
        raise DistillationError(
            f"Teacher and student must list their {what} in the same order; got {teacher} (teacher) and {student} "
            "(student). Train the student with the teacher's order."
        )
    only_teacher = [name for name in teacher if name not in student]
    only_student = [name for name in student if name not in teacher]
    raise DistillationError(
        f"Teacher and student must have the same {what}; got {only_teacher} only in the teacher and {only_student} "
        "only in the student. Train both on the same labels."
    )
