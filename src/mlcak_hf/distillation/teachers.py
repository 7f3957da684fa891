"""Frozen teachers: whether they can teach a student, and what they output for a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..attention_mlcak import ATTENTION_IMPLEMENTATION
from ..data.collator import teacher_pixel_keys
from ..errors import DistillationError
from ..modeling_mlcak import MLCAKForCXRClassification
from ..pretrained import load_config, load_model, loading, weight_files
from .attention import AttentionAlignment, AttentionOptions, TokenLayout, pair_levels

#: Prefix of every input in a batch that comes from or goes to the teachers.
TEACHER_PREFIX = "teacher_"


@dataclass(frozen=True)
class TeacherOutputs:
    """What the teachers output for a batch: the mean over the teachers.

    Args:
        logits (`torch.Tensor` of shape `(B, C)`):
            Global logits.
        local_logits (`torch.Tensor` of shape `(B, F)`, *optional*):
            Logits of the local findings; `None` without a local head.
        attention (`torch.Tensor` of shape `(B, L, 1 + P, 1 + P)`, *optional*):
            Aligned attention maps; `None` when attention is not taught.
    """

    logits: Tensor
    local_logits: Tensor | None = None
    attention: Tensor | None = None

    def to_batch(self) -> dict[str, Tensor]:
        """Return the outputs under their names in a batch."""
        return {f"{TEACHER_PREFIX}{name}": value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_batch(cls, batch: Mapping[str, Tensor]) -> TeacherOutputs:
        """Take the outputs from a batch of a [`CachedCollator`]."""
        return cls(**{name: batch.get(f"{TEACHER_PREFIX}{name}") for name in cls.__dataclass_fields__})  # type: ignore[arg-type]


class Teachers:
    """Frozen teachers that teach one student together: their logits and their aligned attention are averaged.

    Whether they can teach this student is checked at once, by their configs; the models are loaded when they are first
    needed. A student without a local head learns only the global logits. All attention is pooled to the coarsest grid.

    Args:
        teachers (a model, `str` or `os.PathLike`, or several of them):
            Models, folders or Hub ids. Models are frozen in place; a teacher that is loaded here returns only the
            attention levels that are needed. A cache gives the configs of its teachers instead.
        student ([`MLCAKForCXRClassification`] or [`MLCAKConfig`]):
            The student or its config.
        options ([`AttentionOptions`], *optional*):
            Which attention is taught. Defaults to all levels, averaged.

    Raises:
        [`DistillationError`]: When a teacher cannot be loaded, or labels, findings, problem types or levels differ.
    """

    def __init__(self, teachers: Any, student: Any, options: AttentionOptions | None = None) -> None:
        self.sources: list[Any] = list(teachers) if isinstance(teachers, (list, tuple)) else [teachers]
        if any(source is student for source in self.sources):
            raise DistillationError(
                "Teacher and student must be two models; got the same object. Load the teacher from its folder."
            )
        self.configs: list[Any] = [teacher_config(source) for source in self.sources]
        options = AttentionOptions() if options is None else options
        #: One per teacher; each `None` when attention is not taught.
        self.alignments = _align(self.configs, getattr(student, "config", student), options)

    @cached_property
    def models(self) -> list[Any]:
        """The frozen models."""
        models = [load_teacher(source) for source in self.sources]
        for number, (model, alignment) in enumerate(zip(models, self.alignments, strict=True)):
            if alignment is None:
                continue
            found = model.config.backbone_config._attn_implementation
            if found != ATTENTION_IMPLEMENTATION:
                raise DistillationError(
                    f"The teacher's attention implementation must be {ATTENTION_IMPLEMENTATION!r}; got {found!r}. "
                    f"Call teacher.set_attn_implementation({ATTENTION_IMPLEMENTATION!r}), or set gamma to 0."
                )
            if model is not self.sources[number]:
                # This teacher is not used elsewhere, so it need not return maps that are not paired.
                known = self.configs[number].resolved_attention_levels
                levels = [known[position] for position in alignment.teacher_levels]
                model.set_attention_levels(sorted(set(levels)))
                self.configs[number] = model.config
                alignment.teacher_levels = [model.config.resolved_attention_levels.index(level) for level in levels]
        return models

    def prepare(self, prepare: Callable[[nn.Module], Any], device: torch.device) -> Teachers:
        """Wrap every model for mixed precision, and move models and alignments to a device.

        Args:
            prepare (`Callable`):
                Takes a model and returns it wrapped and on the device.
            device (`torch.device`):
                Device of the batches.

        Returns:
            [`Teachers`]: Itself.
        """
        self.models = [prepare(model) for model in self.models]
        for alignment in filter(None, self.alignments):
            alignment.to(device)
        return self

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> TeacherOutputs:
        """Run all teachers on a batch.

        Args:
            batch (`Mapping[str, torch.Tensor]`):
                Contains the pixels of every teacher; see [`~mlcak_hf.data.collator.teacher_pixel_keys`].

        Returns:
            [`TeacherOutputs`]: The means, float32.

        Raises:
            [`DistillationError`]: When the batch lacks the pixels of a teacher.
        """
        outputs = []
        names = teacher_pixel_keys(len(self.sources))
        for model, alignment, name in zip(self.models, self.alignments, names, strict=True):
            if name not in batch:
                raise DistillationError(
                    f"The batch must contain {name}. Give MLCAKCollator the teacher_processor of every teacher."
                )
            output = model(pixel_values=batch[name], output_attentions=alignment is not None)
            attention = None if alignment is None else alignment.align_teacher(output.attentions)
            local_logits = None if output.local_logits is None else output.local_logits.float()
            outputs.append((output.logits.float(), local_logits, attention))
        return TeacherOutputs(*map(_mean, zip(*outputs, strict=True)))  # type: ignore[arg-type]


def load_teacher(teacher: str | PathLike[str] | MLCAKForCXRClassification) -> Any:
    """Load a teacher, freeze it and set it to evaluation mode.

    Args:
        teacher (`str`, `os.PathLike` or [`MLCAKForCXRClassification`]):
            A folder, a Hub id, or a model, which is frozen in place.

    Raises:
        [`DistillationError`]: When it cannot be loaded.
    """
    model: Any = load_model(teacher, "teacher", DistillationError) if isinstance(teacher, (str, PathLike)) else teacher
    model.requires_grad_(False)
    return model.train(False)


def teacher_config(teacher: Any) -> Any:
    """Return the config of a teacher, and check without loading them that the weights in its folder are complete.

    Args:
        teacher (`str`, `os.PathLike`, [`MLCAKForCXRClassification`] or [`MLCAKConfig`]):
            A folder, a Hub id, a model, or a config. The weights of a Hub id are not checked.

    Raises:
        [`DistillationError`]: When it cannot be loaded or is not an MLCAK model, or weights are missing or truncated.
    """
    if not isinstance(teacher, (str, PathLike)):
        config: Any = getattr(teacher, "config", teacher)
        # A model loaded from a folder with remote code belongs to another class of the same name, so ask for its type.
        if getattr(config, "model_type", None) != "mlcak":
            raise DistillationError(
                f"The teacher must be an MLCAK model; got {type(teacher).__name__}. "
                "Convert a ViT, DeiT or DINOv2 checkpoint with MLCAKForCXRClassification.from_backbone."
            )
        return config
    config = load_config(teacher, "teacher", DistillationError)
    with loading(teacher, "teacher", "Copy its weights again, or train it again.", DistillationError):
        files = weight_files(teacher)
        if Path(teacher).is_dir() and not files:
            raise FileNotFoundError("it has no weights (model.safetensors)")
        for weights in (path for path in files if path.suffix == ".safetensors"):
            # Opening compares the length of the file with its header, and reads nothing else.
            with safe_open(weights, framework="pt"):
                pass
    return config


def _align(teachers: Sequence[Any], student: Any, options: AttentionOptions) -> list[AttentionAlignment | None]:
    """Check that teachers can teach a student, and pair the attention of each with the student's."""
    for teacher in teachers:
        if teacher.problem_type != student.problem_type:
            raise DistillationError(
                f"Teacher and student must have the same problem_type; got {teacher.problem_type} (teacher) and "
                f"{student.problem_type} (student). Train both on the same labels."
            )
        _check_names("global labels (id2label)", teacher.global_labels, student.global_labels)
        if student.local_labels:
            _check_names("local findings (local_labels)", teacher.local_labels, student.local_labels)
    if not options.enabled:
        return [None for _ in teachers]
    ours, *theirs = (TokenLayout.of(config) for config in (student, *teachers))
    target = (min(layout.grid[0] for layout in (ours, *theirs)), min(layout.grid[1] for layout in (ours, *theirs)))
    return [
        AttentionAlignment(*_paired_levels(teacher, student, options), ours, layout, options.aggregation, target)
        for teacher, layout in zip(teachers, theirs, strict=True)
    ]


def _check_names(what: str, teacher: Sequence[str], student: Sequence[str]) -> None:
    if list(teacher) != list(student):
        only_teacher = [name for name in teacher if name not in student]
        only_student = [name for name in student if name not in teacher]
        found = f"{only_teacher} only in the teacher and {only_student} only in the student"
        raise DistillationError(
            f"Teacher and student must have the same {what}, in the same order; got "
            f"{found if only_teacher or only_student else 'another order'}. Train both on the same labels."
        )


def _paired_levels(teacher: Any, student: Any, options: AttentionOptions) -> tuple[list[int], list[int]]:
    """Return the positions of the paired levels among those that student and teacher return."""
    num_student, num_teacher = (int(config.backbone_config.num_hidden_layers) for config in (student, teacher))
    chosen = student.resolved_attention_levels
    if options.student_levels is not None:
        outside = [level for level in options.student_levels if not -num_student <= level < num_student]
        if outside:
            raise DistillationError(
                f"student_levels must be between {-num_student} and {num_student - 1}, because the student has "
                f"{num_student} layers; got {outside}. Remove them."
            )
        chosen = sorted({level % num_student for level in options.student_levels})
    pairs = pair_levels(num_student, num_teacher)
    positions = []
    for who, needed, config in (("student", chosen, student), ("teacher", [pairs[i] for i in chosen], teacher)):
        levels = config.resolved_attention_levels
        missing = sorted(set(needed) - set(levels))
        if missing:
            raise DistillationError(
                f"The {who}'s attention_levels must include layers {missing}; got {levels}. Add them, or set "
                "attention_levels to None."
            )
        positions.append([levels.index(level) for level in needed])
    return positions[0], positions[1]


def _mean(tensors: Sequence[Tensor | None]) -> Tensor | None:
    known = [tensor for tensor in tensors if tensor is not None]
    if len(known) < len(tensors):
        return None
    return known[0] if len(known) == 1 else torch.stack(known).mean(dim=0)
