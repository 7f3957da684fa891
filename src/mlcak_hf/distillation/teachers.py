"""Frozen teachers: which of them teaches what, and what they output for a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from ..attention_mlcak import ATTENTION_IMPLEMENTATION
from ..data.collator import teacher_pixel_keys
from ..errors import DistillationError
from .attention import AttentionAlignment, AttentionOptions
from .compatibility import LabelMatch, LabelNames, align_attention, check_same_labels
from .logit_teachers import LogitTeacherConfig
from .teacher_files import labels_of_teacher, load_teacher, teacher_config

logger = logging.get_logger(__name__)

#: Prefix of every input in a batch that comes from or goes to the teachers.
TEACHER_PREFIX = "teacher_"


@dataclass(frozen=True)
class TeacherOutputs:
    """What the teachers output for a batch: for each label, the mean over the teachers that teach it.

    Args:
        logits (`torch.Tensor` of shape `(B, C)`, *optional*):
            Global logits; `None` when no teacher teaches them.
        local_logits (`torch.Tensor` of shape `(B, F)`, *optional*):
            Logits of the local findings; `None` when no teacher teaches them.
        attention (`torch.Tensor` of shape `(B, L, 1 + P, 1 + P)`, *optional*):
            Aligned attention maps; `None` when attention is not taught.
    """

    logits: Tensor | None = None
    local_logits: Tensor | None = None
    attention: Tensor | None = None

    def to_batch(self) -> dict[str, Tensor]:
        """Return the outputs under their names in a batch."""
        return {f"{TEACHER_PREFIX}{name}": value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_batch(cls, batch: Mapping[str, Tensor]) -> TeacherOutputs:
        """Take the outputs from a batch of a [`CachedCollator`]."""
        return cls(**{name: batch.get(f"{TEACHER_PREFIX}{name}") for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class TaughtParts:
    """What one teacher teaches.

    Args:
        global_labels (`tuple[bool, ...]`):
            For each global label of the student, whether its logit.
        local_labels (`tuple[bool, ...]`):
            For each local finding, whether its logit.
        attention (`bool`):
            Whether its attention.
    """

    global_labels: tuple[bool, ...]
    local_labels: tuple[bool, ...]
    attention: bool


class Teachers:
    """Frozen teachers that teach one student together: their logits and their aligned attention are averaged.

    Teachers without attention (CNNs, functions) give the logits of all labels that they know. The others give the
    attention, and the logits of the remaining labels. So with a CNN and an MLCAK teacher, the student learns logits
    from the CNN and attention from the MLCAK teacher.

    Whether they can teach this student is checked at once, by their configs; the models are loaded when they are first
    needed. A student without a local head learns only the global logits. All attention is pooled to the coarsest grid.

    Args:
        teachers (a model, `str` or `os.PathLike`, or several of them):
            MLCAK models, their folders or Hub ids; other teachers as in [`logit_teacher_config`]. Models are frozen in
            place; a teacher that is loaded here returns only the attention levels that are needed. A cache gives the
            configs of its teachers instead.
        student ([`MLCAKForCXRClassification`] or [`MLCAKConfig`]):
            The student or its config.
        options ([`AttentionOptions`], *optional*):
            Which attention is taught. Defaults to all levels, averaged.

    Raises:
        [`DistillationError`]: When a teacher cannot be loaded, knows no label of the student or would teach nothing, or
            labels, findings, problem types or levels of MLCAK models differ.
    """

    def __init__(self, teachers: Any, student: Any, options: AttentionOptions | None = None) -> None:
        self.sources: list[Any] = list(teachers) if isinstance(teachers, (list, tuple)) else [teachers]
        if any(source is student for source in self.sources):
            raise DistillationError(
                "Teacher and student must be two models; got the same object. Load the teacher from its folder."
            )
        self.configs: list[Any] = [teacher_config(source) for source in self.sources]
        student = getattr(student, "config", student)
        ours = LabelNames.of(student)
        known = [labels_of_teacher(config) for config in self.configs]
        for config, labels in zip(self.configs, known, strict=True):
            if not isinstance(config, LogitTeacherConfig):
                check_same_labels(labels, ours)
        #: The labels of the logits: those of the MLCAK teachers, which may have findings that the student does not.
        self.labels = next((labels for config, labels in zip(self.configs, known, strict=True)
                            if not isinstance(config, LogitTeacherConfig)), ours)  # fmt: skip
        self.matches = [LabelMatch(labels, self.labels) for labels in known]
        #: One per teacher; each `None` when it does not teach attention.
        self.alignments = align_attention(self.configs, student, AttentionOptions() if options is None else options)
        #: One per teacher.
        self.taught = _share_out(self.configs, self.matches, self.alignments)
        self._report_untaught()

    @property
    def alignment(self) -> AttentionAlignment | None:
        """Aligns the student's attention; `None` when attention is not taught."""
        return next(filter(None, self.alignments), None)

    @property
    def global_columns(self) -> list[int]:
        """Places of the global logits that are taught."""
        return _any_of([taught.global_labels for taught in self.taught])

    @property
    def local_columns(self) -> list[int]:
        """Places of the local logits that are taught."""
        return _any_of([taught.local_labels for taught in self.taught])

    def _report_untaught(self) -> None:
        names = [name for place, name in enumerate(self.labels.global_labels) if place not in self.global_columns]
        names += [name for place, name in enumerate(self.labels.local_labels) if place not in self.local_columns]
        if names:
            logger.warning(f"No teacher knows {', '.join(names)}: the student learns them from its labels alone.")

    @cached_property
    def models(self) -> list[Any]:
        """The frozen models."""
        models = [load_teacher(source, config) for source, config in zip(self.sources, self.configs, strict=True)]
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
        outputs: list[tuple[Tensor | None, Tensor | None, Tensor | None]] = []
        names = teacher_pixel_keys(len(self.sources))
        for number, (model, alignment, name) in enumerate(zip(self.models, self.alignments, names, strict=True)):
            if name not in batch:
                raise DistillationError(
                    f"The batch must contain {name}. Give MLCAKCollator the teacher_processor of every teacher."
                )
            if isinstance(self.configs[number], LogitTeacherConfig):
                outputs.append((*self.matches[number](model(batch[name])), None))
                continue
            output = model(pixel_values=batch[name], output_attentions=alignment is not None)
            attention = None if alignment is None else alignment.align_teacher(output.attentions)
            local_logits = None if output.local_logits is None else output.local_logits.float()
            outputs.append((output.logits.float(), local_logits, attention))
        by_kind = list(zip(*outputs, strict=True))
        maps = [each for each in by_kind[2] if each is not None]
        return TeacherOutputs(
            _mean(by_kind[0], [taught.global_labels for taught in self.taught]),
            _mean(by_kind[1], [taught.local_labels for taught in self.taught]),
            maps[0] if len(maps) == 1 else torch.stack(maps).mean(dim=0) if maps else None,
        )


def _share_out(
    configs: Sequence[Any], matches: Sequence[LabelMatch], alignments: Sequence[AttentionAlignment | None]
) -> list[TaughtParts]:
    """Decide which teacher teaches what, and refuse one that would teach nothing."""
    shares = [
        _shares(configs, known) for known in zip(*((m.global_known, m.local_known) for m in matches), strict=True)
    ]
    taught = [
        TaughtParts(global_labels, local_labels, alignment is not None)
        for global_labels, local_labels, alignment in zip(*shares, alignments, strict=True)
    ]
    for config, match, part in zip(configs, matches, taught, strict=True):
        if any((*part.global_labels, *part.local_labels, part.attention)):
            continue
        if isinstance(config, LogitTeacherConfig):
            raise DistillationError(
                f"The teacher {config.name} must have a label in common with the student; got {config.labels} "
                f"(teacher) and {[*match.student.global_labels, *match.student.local_labels]} (student). Labels are "
                "matched by name: correct the teacher's id2label, or choose another teacher."
            )
        raise DistillationError(
            "Every teacher must teach something, but a CNN gives all logits and gamma is 0, so the MLCAK teacher with "
            "attention has nothing to add. Leave it out, or set gamma above 0."
        )
    return taught


def _shares(configs: Sequence[Any], known: Sequence[Sequence[bool]]) -> list[tuple[bool, ...]]:
    """List the labels that each teacher teaches: those it knows, but teachers without attention come first."""
    first = [own for config, own in zip(configs, known, strict=True) if not config.has_attention]
    taken = [any(own[place] for own in first) for place in range(len(known[0]))]
    return [
        tuple(knows and not (config.has_attention and is_taken) for knows, is_taken in zip(own, taken, strict=True))
        for config, own in zip(configs, known, strict=True)
    ]


def _any_of(taught: Sequence[Sequence[bool]]) -> list[int]:
    return [place for place, by_teacher in enumerate(zip(*taught, strict=True)) if any(by_teacher)]


def _mean(logits: Sequence[Tensor | None], taught: Sequence[Sequence[bool]]) -> Tensor | None:
    """For each label, the mean over the teachers that teach it; 0 where none does, `None` where none does at all."""
    given = [(each, by) for each, by in zip(logits, taught, strict=True) if each is not None and any(by)]
    if len(given) < 2:
        return given[0][0] if given else None
    masks = torch.tensor([by for _, by in given], device=given[0][0].device)
    total = torch.stack([each.where(mask, 0.0) for (each, _), mask in zip(given, masks, strict=True)]).sum(dim=0)
    return total / masks.sum(dim=0).clamp(min=1)
