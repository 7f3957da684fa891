"""What one or several teachers know of a batch: the mean of their logits and of their aligned attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attention_mlcak import ATTENTION_IMPLEMENTATION
from ..data.collator import teacher_pixel_keys
from ..errors import DistillationError
from .attention import Aggregation, AttentionAlignment
from .compatibility import check_teachers, load_teacher


@dataclass(frozen=True)
class TeacherKnowledge:
    """What the teachers say of a batch.

    Args:
        logits: global logits, of shape `(B, C)`.
        local_logits: of the local findings, of shape `(B, F)`; None without a local head.
        attention: aligned maps of shape `(B, L, 1 + P, 1 + P)`; None where attention is not taught.
    """

    logits: Tensor
    local_logits: Tensor | None = None
    attention: Tensor | None = None

    @classmethod
    def from_batch(cls, batch: Mapping[str, Tensor]) -> TeacherKnowledge:
        """Take it from a batch of a [`CachedCollator`].

        Raises:
            DistillationError: if another collator made the batch.
        """
        if "teacher_logits" not in batch:
            raise DistillationError("The batch has no teacher_logits: the trainer's data_collator was replaced.")
        return cls(batch["teacher_logits"], batch.get("teacher_local_logits"), batch.get("teacher_attention"))


class Teachers:
    """Frozen teachers that teach one student together: the mean of their logits and of their pooled attention.

    Args:
        teachers: a model, a folder or a Hub id, or several of them. Models are frozen in place; one that is loaded here
            returns only the attention that is needed.
        student: the model (or its config) that they teach.
        student_levels: encoder layers of the student that are taught; None means all that its config returns.
        attention: whether attention is taught at all.
        aggregation: `"mean"` or `"per_level"`.

    Raises:
        DistillationError: if one cannot be loaded or cannot teach this student.
    """

    def __init__(
        self,
        teachers: Any,
        student: Any,
        *,
        student_levels: Sequence[int] | None = None,
        attention: bool = True,
        aggregation: Aggregation = "mean",
    ) -> None:
        sources = as_list(teachers)
        self.models: list[Any] = [load_teacher(source) for source in sources]
        if any(model is student for model in self.models):
            raise DistillationError("Teacher and student are the same object; load the teacher from its own folder.")
        choices: dict[str, Any] = {"student_levels": student_levels, "aggregation": aggregation}
        alignments = check_teachers(self.models, student, attention=attention, **choices)
        for source, model, alignment in zip(sources, self.models, alignments, strict=True):
            if alignment is None:
                continue
            implementation = model.config.backbone_config._attn_implementation
            if implementation != ATTENTION_IMPLEMENTATION:
                raise DistillationError(
                    f"The teacher's attention cannot be read with attention implementation {implementation!r}: call "
                    f"teacher.set_attn_implementation({ATTENTION_IMPLEMENTATION!r}), or set gamma to 0."
                )
            if not isinstance(source, nn.Module):
                # Nobody else sees this teacher, so it need not return maps that nothing is paired with.
                levels = model.config.resolved_attention_levels
                model.set_attention_levels(sorted({levels[position] for position in alignment.teacher_levels}))
        self.alignments = check_teachers(self.models, student, attention=attention, **choices)

    def prepare(self, prepare: Callable[[nn.Module], Any], device: torch.device) -> Teachers:
        """Wrap every model (mixed precision, device) and move what aligns its attention.

        Args:
            prepare: takes a model, returns it ready.
            device: of the batches.

        Returns:
            Itself.
        """
        self.models = [prepare(model) for model in self.models]
        self.alignments = [None if alignment is None else alignment.to(device) for alignment in self.alignments]
        return self

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> TeacherKnowledge:
        """Ask all teachers.

        Args:
            batch: has `teacher_pixel_values`, and with several teachers `teacher_pixel_values_2`, ...

        Returns:
            Their means, float32.

        Raises:
            DistillationError: if the batch has no pixels for one of them.
        """
        names = teacher_pixel_keys(len(self.models))
        missing = [name for name in names if name not in batch]
        if missing:
            raise DistillationError(
                f"The batch has no {missing[0]}. Give the training collator the image processor of every teacher "
                "(MLCAKCollator(..., teacher_processor=...))."
            )
        answers = [
            self._ask(model, alignment, batch[name])
            for model, alignment, name in zip(self.models, self.alignments, names, strict=True)
        ]
        if len(answers) == 1:
            return answers[0]
        return TeacherKnowledge(
            torch.stack([answer.logits for answer in answers]).mean(dim=0),
            _mean([answer.local_logits for answer in answers]),
            _mean([answer.attention for answer in answers]),
        )

    @staticmethod
    def _ask(model: Any, alignment: AttentionAlignment | None, pixels: Tensor) -> TeacherKnowledge:
        outputs = model(pixel_values=pixels, output_attentions=alignment is not None)
        attention = None if alignment is None else alignment.align_teacher(outputs.attentions)
        local_logits = None if outputs.local_logits is None else outputs.local_logits.float()
        return TeacherKnowledge(outputs.logits.float(), local_logits, attention)


def as_list(teachers: Any) -> list[Any]:
    """One teacher or several, as a list."""
    return list(teachers) if isinstance(teachers, (list, tuple)) else [teachers]


def _mean(tensors: Sequence[Tensor | None]) -> Tensor | None:
    known = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(known).mean(dim=0) if len(known) == len(tensors) else None
