"""Load a frozen teacher and check that it can teach a given student."""

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
from .attention import Aggregation, AttentionAlignment, pair_levels


def load_teacher(teacher: str | PathLike[str] | MLCAKForCXRClassification) -> MLCAKForCXRClassification:
    """Load a teacher, freeze it and set it to evaluation.

    Args:
        teacher: a folder, a Hub id, or a model (frozen in place).

    Returns:
        The teacher: no parameter requires a gradient, dropout is off.

    Raises:
        DistillationError: if it cannot be loaded or is no MLCAK model.
    """
    model = load_model(teacher, "teacher", DistillationError) if isinstance(teacher, (str, PathLike)) else teacher
    # A model loaded from a folder with remote code is another class of the same name, so ask for what is used.
    if getattr(getattr(model, "config", None), "model_type", None) != "mlcak":
        raise DistillationError(
            f"The teacher must be an MLCAK model (MLCAKForCXRClassification), not {type(model).__name__}: distillation "
            "reads its local logits and its captured attention. MLCAKForCXRClassification.from_backbone turns a ViT, "
            "DeiT or DINOv2 checkpoint into one."
        )
    model.requires_grad_(False)
    model.train(False)
    return model


def load_teacher_config(teacher: str | PathLike[str]) -> MLCAKConfig:
    """Load the config of a teacher, and look whether its weights are whole, without loading them.

    Args:
        teacher: a folder or a Hub id (whose weights are not looked at).

    Returns:
        The config.

    Raises:
        DistillationError: if it cannot be loaded or is of no MLCAK model, or its weights are missing or cut short.
    """
    config = load_config(teacher, "teacher", DistillationError)
    with loading(teacher, "teacher", "Copy its weights anew, or train it again.", DistillationError):
        files = weight_files(teacher)
        if Path(teacher).is_dir() and not files:
            raise FileNotFoundError("it has no weights, such as model.safetensors")
        for weights in (path for path in files if path.suffix == ".safetensors"):
            # Opening compares the length of the file with what its header promises, and reads nothing else.
            with safe_open(weights, framework="pt"):
                pass
    return config


def check_teacher(
    teacher: MLCAKForCXRClassification | MLCAKConfig,
    student: MLCAKForCXRClassification | MLCAKConfig,
    *,
    student_levels: Sequence[int] | None = None,
    attention: bool = True,
    aggregation: Aggregation = "mean",
    target_grid: tuple[int, int] | None = None,
) -> AttentionAlignment | None:
    """Check that a teacher can teach a student, and pair their attention.

    A student without a local head is taught the global logits only.

    Args:
        teacher, student: the models, or their configs.
        student_levels: encoder layers of the student that are taught; negative from the last; None means all that its
            config returns.
        attention: whether attention is taught at all.
        aggregation: `"mean"` or `"per_level"`.
        target_grid: the grid to pool both to; None: the coarser of the two.

    Returns:
        What aligns their attention; None without `attention`.

    Raises:
        DistillationError: if labels, findings, kind of problem or levels do not fit; names what differs.
    """
    ours: Any = getattr(student, "config", student)
    theirs: Any = getattr(teacher, "config", teacher)
    if ours.problem_type != theirs.problem_type:
        raise DistillationError(
            f"Teacher and student solve different problems: teacher {theirs.problem_type}, student {ours.problem_type}."
        )
    _check_names("global labels (id2label)", theirs.global_labels, ours.global_labels)
    if ours.local_labels:
        _check_names("local findings (local_labels)", list(theirs.local_labels), list(ours.local_labels))
    if not attention:
        return None
    chosen, paired = _paired_levels(theirs, ours, student_levels)
    return AttentionAlignment(
        student_levels=[ours.resolved_attention_levels.index(level) for level in chosen],
        teacher_levels=[theirs.resolved_attention_levels.index(level) for level in paired],
        student_grid=grid_of(ours),
        teacher_grid=grid_of(theirs),
        student_prefix_tokens=int(ours.num_prefix_tokens),
        teacher_prefix_tokens=int(theirs.num_prefix_tokens),
        aggregation=aggregation,
        target_grid=target_grid,
    )


def check_teachers(
    teachers: Sequence[MLCAKForCXRClassification | MLCAKConfig],
    student: MLCAKForCXRClassification | MLCAKConfig,
    *,
    student_levels: Sequence[int] | None = None,
    attention: bool = True,
    aggregation: Aggregation = "mean",
) -> list[AttentionAlignment | None]:
    """Check that several teachers can teach a student together: `check_teacher` for each, with one common grid.

    Args:
        teachers: the models, or their configs; at least one.
        student, student_levels, attention, aggregation: as for `check_teacher`.

    Returns:
        What aligns the attention of each with the student's; None each without `attention`.

    Raises:
        DistillationError: if one cannot teach the student, or there is none.
    """
    if not teachers:
        raise DistillationError("There is no teacher: name at least one.")
    grids = [grid_of(getattr(model, "config", model)) for model in (student, *teachers)]
    target = (min(rows for rows, _ in grids), min(columns for _, columns in grids))
    return [
        check_teacher(
            teacher,
            student,
            student_levels=student_levels,
            attention=attention,
            aggregation=aggregation,
            target_grid=target,
        )
        for teacher in teachers
    ]


def grid_of(config: Any) -> tuple[int, int]:
    """Rows and columns of patches of a model with this config."""
    side = int(config.image_size) // int(config.patch_size)
    return side, side


def _paired_levels(
    teacher: MLCAKConfig, student: MLCAKConfig, student_levels: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    """Encoder layers of the student that are taught, and of the teacher that teach them."""
    num_student, num_teacher = (_num_layers(config) for config in (student, teacher))
    available = student.resolved_attention_levels
    if student_levels is None:
        chosen = list(available)
    else:
        outside = [level for level in student_levels if not -num_student <= level < num_student]
        if outside:
            raise DistillationError(
                f"student_levels {outside} do not exist: the student has {num_student} layers, "
                f"{-num_student} to {num_student - 1}."
            )
        chosen = sorted({level % num_student for level in student_levels})
    closed = [level for level in chosen if level not in available]
    if closed:
        raise DistillationError(
            f"The student's config returns the attention of layers {available} only; layers {closed} of student_levels "
            "are missing. Add them to its attention_levels."
        )
    pairs = pair_levels(num_student, num_teacher)
    paired = [pairs[level] for level in chosen]
    closed = sorted(set(paired) - set(teacher.resolved_attention_levels))
    if closed:
        raise DistillationError(
            f"The teacher's config returns the attention of layers {teacher.resolved_attention_levels} only; layers "
            f"{closed} are paired with the student's {chosen}. Set its attention_levels to None."
        )
    return chosen, paired


def _check_names(what: str, teacher: list[str], student: list[str]) -> None:
    if teacher == student:
        return
    if sorted(teacher) == sorted(student):
        raise DistillationError(f"Teacher and student order their {what} differently: {teacher} and {student}.")
    only_teacher = [name for name in teacher if name not in student]
    only_student = [name for name in student if name not in teacher]
    raise DistillationError(
        f"Teacher and student have different {what}: only the teacher has {only_teacher}, only the student has "
        f"{only_student}. Train both on the same labels."
    )


def _num_layers(config: Any) -> int:
    return int(config.backbone_config.num_hidden_layers)
