"""Frozen teachers, and what they output for a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attention_mlcak import ATTENTION_IMPLEMENTATION
from ..data.collator import teacher_pixel_keys
from ..errors import DistillationError
from .attention import AttentionAlignment, AttentionOptions
from .compatibility import check_teachers, load_teacher

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
        """Take the outputs from a batch of a [`CachedCollator`].

        Raises:
            [`DistillationError`]: When another collator made the batch.
        """
        if f"{TEACHER_PREFIX}logits" not in batch:
            raise DistillationError(
                "A batch must contain teacher_logits when a teacher cache is used. Keep the trainer's data_collator."
            )
        return cls(**{name: batch.get(f"{TEACHER_PREFIX}{name}") for name in cls.__dataclass_fields__})  # type: ignore[arg-type]


class Teachers:
    """Frozen teachers that teach one student together: their logits and their aligned attention are averaged.

    Args:
        teachers (a model, `str` or `os.PathLike`, or several of them):
            Models, folders or Hub ids. Models are frozen in place; a teacher that is loaded here returns only the
            attention levels that are needed.
        student ([`MLCAKForCXRClassification`] or [`MLCAKConfig`]):
            The student or its config.
        options ([`AttentionOptions`], *optional*):
            Which attention is taught. Defaults to all levels, averaged.

    Raises:
        [`DistillationError`]: When a teacher cannot be loaded or cannot teach this student.
    """

    def __init__(self, teachers: Any, student: Any, options: AttentionOptions | None = None) -> None:
        sources = as_list(teachers)
        self.models: list[Any] = [load_teacher(source) for source in sources]
        if any(model is student for model in self.models):
            raise DistillationError(
                "Teacher and student must be two models; got the same object. Load the teacher from its folder."
            )
        self.alignments = check_teachers(self.models, student, options)
        for source, model, alignment in zip(sources, self.models, self.alignments, strict=True):
            if alignment is not None:
                _read_attention(model, alignment, narrow=not isinstance(source, nn.Module))

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
        self.alignments = [None if alignment is None else alignment.to(device) for alignment in self.alignments]
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
        names = teacher_pixel_keys(len(self.models))
        missing = [name for name in names if name not in batch]
        if missing:
            raise DistillationError(
                f"The batch must contain {missing[0]}. Give the training collator the image processor of every teacher "
                "(MLCAKCollator(..., teacher_processor=...))."
            )
        outputs = [
            _run(model, alignment, batch[name])
            for model, alignment, name in zip(self.models, self.alignments, names, strict=True)
        ]
        if len(outputs) == 1:
            return outputs[0]
        return TeacherOutputs(
            torch.stack([output.logits for output in outputs]).mean(dim=0),
            _mean([output.local_logits for output in outputs]),
            _mean([output.attention for output in outputs]),
        )


def as_list(teachers: Any) -> list[Any]:
    """Return one or several teachers as a list."""
    return list(teachers) if isinstance(teachers, (list, tuple)) else [teachers]


def _read_attention(model: Any, alignment: AttentionAlignment, narrow: bool) -> None:
    implementation = model.config.backbone_config._attn_implementation
    if implementation != ATTENTION_IMPLEMENTATION:
        raise DistillationError(
            f"The teacher's attention implementation must be {ATTENTION_IMPLEMENTATION!r}; got {implementation!r}. "
            f"Call teacher.set_attn_implementation({ATTENTION_IMPLEMENTATION!r}), or set gamma to 0."
        )
    if narrow:
        # Nobody else uses this teacher, so it need not return maps that are not paired.
        levels = [model.config.resolved_attention_levels[position] for position in alignment.teacher_levels]
        model.set_attention_levels(sorted(set(levels)))
        alignment.teacher_levels = [model.config.resolved_attention_levels.index(level) for level in levels]


def _run(model: Any, alignment: AttentionAlignment | None, pixels: Tensor) -> TeacherOutputs:
    outputs = model(pixel_values=pixels, output_attentions=alignment is not None)
    attention = None if alignment is None else alignment.align_teacher(outputs.attentions)
    local_logits = None if outputs.local_logits is None else outputs.local_logits.float()
    return TeacherOutputs(outputs.logits.float(), local_logits, attention)


def _mean(tensors: Sequence[Tensor | None]) -> Tensor | None:
    known = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(known).mean(dim=0) if len(known) == len(tensors) else None
