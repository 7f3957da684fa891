"""Whether teachers can teach a student: which labels they share, and which of their attention is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DistillationError
from ..probabilities import MULTI_LABEL
from .attention import AttentionAlignment, AttentionOptions, TokenLayout, pair_levels


@dataclass(frozen=True)
class LabelNames:
    """Names of the logits of a model, and what they mean.

    Args:
        global_labels (`tuple[str, ...]`):
            Global labels, in the order of the logits.
        local_labels (`tuple[str, ...]`, *optional*):
            Local findings, one log-odds each.
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`):
            Whether the global labels exclude each other (softmax) or are one log-odds each
            (`"multi_label_classification"`).
    """

    global_labels: tuple[str, ...]
    local_labels: tuple[str, ...] = ()
    problem_type: str = "single_label_classification"

    @classmethod
    def of(cls, config: Any) -> LabelNames:
        """Return the labels of an [`MLCAKConfig`]."""
        return cls(tuple(config.global_labels), tuple(config.local_labels), str(config.problem_type))

    @property
    def exclusive(self) -> bool:
        """Whether the global labels exclude each other."""
        return self.problem_type != MULTI_LABEL


class LabelMatch:
    r"""Translate the logits of a teacher into those of a student; labels are matched by name.

    Write z for the log-odds of a label: the logit itself where labels are independent, and
    :math:`t_c - \log \sum_{k \ne c} e^{t_k}` for a class c of a softmax. Then

    - a finding, or one of several independent global labels, is taught z;
    - exclusive global labels (softmax) are taught the teacher's logits of the same classes if the teacher has all of
      them in one softmax: their probabilities given that one of these classes is right. If it has all of them as
      independent labels, they are taught :math:`\log \sigma(z)`. If there are two and the teacher has one of them,
      they are taught :math:`z/2` and :math:`-z/2`. Otherwise they are not taught.

    Args:
        teacher ([`LabelNames`]):
            Labels of the teacher, in the order of its logits: global, then local.
        student ([`LabelNames`]):
            Labels of the student.

    Example:

    ```python
    >>> import torch
    >>> match = LabelMatch(LabelNames(("Edema", "Pneumonia")), LabelNames(("Normal", "Pneumonia"), ("Edema",)))
    >>> match(torch.tensor([[0.0, 3.0]]))
    (tensor([[-1.5000,  1.5000]]), tensor([[-3.]]))
    ```
    """

    def __init__(self, teacher: LabelNames, student: LabelNames) -> None:
        self.teacher, self.student = teacher, student
        names = [*teacher.global_labels, *teacher.local_labels]
        first_local = len(teacher.global_labels)
        self._global = [names.index(name) if name in names else None for name in student.global_labels]
        # A finding may have the name of a global label: its own logit comes first.
        places = [*range(first_local, len(names)), *range(first_local)]
        by_name = {names[place]: place for place in reversed(places)}
        self._local = [by_name.get(name) for name in student.local_labels]
        found = [place for place in self._global if place is not None]
        if student.exclusive and len(found) < len(self._global) and (len(self._global), len(found)) != (2, 1):
            self._global = [None for _ in self._global]

    @property
    def global_known(self) -> list[bool]:
        """Whether each global label of the student is taught."""
        known = [place is not None for place in self._global]
        return [any(known)] * len(known) if self.student.exclusive else known

    @property
    def local_known(self) -> list[bool]:
        """Whether each local finding of the student is taught."""
        return [place is not None for place in self._local]

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Translate logits.

        Args:
            logits (`torch.Tensor` of shape `(B, n)`):
                All logits of the teacher: global, then local.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: global logits `(B, C)` and local logits `(B, F)` of the student,
            float32; 0 where a label is not taught.
        """
        logits = logits.float()
        local = self._columns(logits, self._local)
        if not self.student.exclusive or not any(self.global_known):
            return self._columns(logits, self._global), local
        places = [place for place in self._global if place is not None]
        if len(places) < len(self._global):
            half = self._log_odds(logits, places[0]) / 2
            return torch.stack([-half if place is None else half for place in self._global], dim=1), local
        if self.teacher.exclusive and max(places) < len(self.teacher.global_labels):
            return logits[:, places], local
        return F.logsigmoid(self._columns(logits, self._global)), local

    def _columns(self, logits: Tensor, places: Sequence[int | None]) -> Tensor:
        unknown = logits.new_zeros(len(logits))
        columns = [unknown if place is None else self._log_odds(logits, place) for place in places]
        return torch.stack(columns, dim=1) if columns else logits[:, :0]

    def _log_odds(self, logits: Tensor, place: int) -> Tensor:
        classes = len(self.teacher.global_labels)
        if not self.teacher.exclusive or place >= classes:
            return logits[:, place]
        others = [other for other in range(classes) if other != place]
        return logits[:, place] - logits[:, others].logsumexp(dim=1)


def check_same_labels(teacher: LabelNames, student: LabelNames) -> None:
    """Check that an MLCAK teacher has the labels of the student, in the same order.

    A student without local findings may learn from a teacher with them.

    Raises:
        [`DistillationError`]: When they differ.
    """
    if teacher.problem_type != student.problem_type:
        raise DistillationError(
            f"Teacher and student must have the same problem_type; got {teacher.problem_type} (teacher) and "
            f"{student.problem_type} (student). Train both on the same labels."
        )
    _check_names("global labels (id2label)", teacher.global_labels, student.global_labels)
    if student.local_labels:
        _check_names("local findings (local_labels)", teacher.local_labels, student.local_labels)


def _check_names(what: str, teacher: Sequence[str], student: Sequence[str]) -> None:
    if list(teacher) != list(student):
        only_teacher = [name for name in teacher if name not in student]
        only_student = [name for name in student if name not in teacher]
        found = f"{only_teacher} only in the teacher and {only_student} only in the student"
        raise DistillationError(
            f"Teacher and student must have the same {what}, in the same order; got "
            f"{found if only_teacher or only_student else 'another order'}. Train both on the same labels."
        )


def align_attention(
    teachers: Sequence[Any], student: Any, options: AttentionOptions
) -> list[AttentionAlignment | None]:
    """Pair the attention of every teacher that has attention with the student's, all on the coarsest grid.

    Args:
        teachers (`Sequence`):
            Configs of the teachers, each with `has_attention`.
        student ([`MLCAKConfig`]):
            Config of the student.
        options ([`AttentionOptions`]):
            Which attention is taught.

    Returns:
        `list`: One alignment per teacher; `None` where no attention is taught.

    Raises:
        [`DistillationError`]: When attention is taught and neither side has it, or levels are missing.
    """
    if not options.enabled:
        return [None for _ in teachers]
    if not student.has_attention:
        raise DistillationError(
            f"gamma must be 0 for a student without attention; got a {student.backbone_config.model_type}. "
            "Set --gamma 0, or choose a student with attention."
        )
    attentive = [teacher for teacher in teachers if teacher.has_attention]
    if not attentive:
        raise DistillationError(
            f"gamma must be 0 while no teacher has attention; got only {', '.join(map(_name, teachers))}. Set --gamma "
            "0 to learn from logits alone, or add an MLCAK teacher with attention: --teacher A B."
        )
    layouts = [TokenLayout.of(config) for config in (student, *attentive)]
    target = (min(layout.grid[0] for layout in layouts), min(layout.grid[1] for layout in layouts))
    return [
        AttentionAlignment(
            *_paired_levels(teacher, student, options),
            layouts[0],
            TokenLayout.of(teacher),
            options.aggregation,
            target,
        )
        if teacher.has_attention
        else None
        for teacher in teachers
    ]


def _name(config: Any) -> str:
    return str(getattr(config, "name", None) or f"a {config.backbone_config.model_type}")


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
