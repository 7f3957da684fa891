"""A `transformers.Trainer` that adds distillation from a teacher to the classification loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.utils import logging

from ..distillation.attention import AttentionAlignment
from ..distillation.cache.cached_collator import CachedCollator
from ..distillation.cache.key import attention_key, pixels_key, processors_key, teacher_key, views_key
from ..distillation.cache.store import TeacherCache
from ..distillation.compatibility import check_teachers
from ..distillation.finite_check import not_finite_message, rows_not_finite
from ..distillation.losses import AttentionDistillationLoss, LogitDistillationLoss, sum_per_item
from ..distillation.teachers import TEACHER_PREFIX, TeacherOutputs, Teachers
from ..errors import DistillationError
from ..modeling_mlcak import global_classification_loss, local_classification_loss
from .arguments import MLCAKTrainingArguments
from .checkpoints import WholeCheckpointTrainer
from .step_clock import StepClock

logger = logging.get_logger(__name__)

_LABELS = ("labels", "local_targets")
_PARTS = ("loss_global", "loss_local", "distil_global", "distil_local", "distil_attention")


class EpochCallback(TrainerCallback):
    """Tell the collator which epoch it makes views for, at the start of each and after a resume in the middle of one.

    Args:
        collator: has `set_epoch(epoch)` and shares the number with its worker processes.
    """

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the number of the epoch on, counted from 0."""
        # After a resume in the middle of epoch 3, state.epoch is 3.4: its whole part is the epoch that goes on.
        self.collator.set_epoch(int(state.epoch or 0))


class ShortRunCallback(TrainerCallback):
    """Log about ten times in a run that is shorter than `logging_steps`, which would leave no curves."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adapt the interval."""
        if state.logging_steps > state.max_steps:
            state.logging_steps = max(1, state.max_steps // 10)


class MLCAKTrainer(WholeCheckpointTrainer):
    r"""
    Trains a student on `L = L_classification + alpha * D(local) + beta * D(global) + gamma * D(attention)`.

    Every part is a sum over images divided by the images of the whole optimizer step, over all its micro-batches and
    processes, so that accumulation, several processes and a short last micro-batch change no gradient. Evaluation is
    classification only. Every part is logged: `loss_global`, `loss_local`, `distil_global`, `distil_local`,
    `distil_attention`, each before its weight; and of the steps' time `images_per_second` (of all processes),
    `data_wait_share` and, with a teacher, `teacher_share`. A loss that is not finite stops the training. Checkpoints
    appear only when they are whole.

    Args:
        model: the student, an [`MLCAKForCXRClassification`].
        teacher: a trained model, its folder or Hub id, or several of them, whose mean then teaches; None trains a plain
            student (or a teacher).
        args: [`MLCAKTrainingArguments`].
        data_collator: gives `pixel_values`, `labels`, `local_targets` and, for distillation, `teacher_pixel_values`.
        teacher_cache: a [`TeacherCache`] or its folder: what the teacher knows is read from there and no teacher runs.
            Of a `teacher` given too only the fingerprint is compared. Epoch e sees view e modulo V of every image.
        eval_data_collator: the collator of evaluation; None means `data_collator.for_evaluation()` where it exists,
            else `data_collator`.
        kwargs: as for [`~transformers.Trainer`].

    Raises:
        DistillationError: if teacher and student do not fit each other, or there is nothing to learn from.
        CacheError: if the cache is of another teacher, of other images or views, or for another student.

    Example:

    ```python
    >>> trainer = MLCAKTrainer(
    ...     student, teacher="runs/teacher", args=MLCAKTrainingArguments("runs/student", gamma=1.0),
    ...     data_collator=collator, train_dataset=train, eval_dataset=validation,
    ... )  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP
    ```
    """

    args: MLCAKTrainingArguments
    model: Any

    # compute_loss already divides by the images of the whole step; the Trainer must not divide by micro-batches again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any = None,
        teacher: Any = None,
        args: MLCAKTrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        *,
        teacher_cache: TeacherCache | str | PathLike[str] | None = None,
        eval_data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            args = MLCAKTrainingArguments()
        super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        if not self.model.config.local_labels:
            self.label_names = [name for name in self.label_names if name != "local_targets"]
        if eval_data_collator is None and hasattr(self.data_collator, "for_evaluation"):
            eval_data_collator = self.data_collator.for_evaluation()
        self.eval_data_collator = self.data_collator if eval_data_collator is None else eval_data_collator
        self.teachers: Teachers | None = None
        self.teacher_cache: TeacherCache | None = None
        self._alignment: AttentionAlignment | None = None
        if args.distils and teacher_cache is not None:
            self._set_cache(teacher_cache, teacher)
        elif args.distils and teacher is not None:
            self._set_teachers(teacher)
        elif self.train_dataset is not None:
            _check_labels(self.train_dataset)
        if hasattr(self.data_collator, "set_epoch"):
            self.add_callback(EpochCallback(self.data_collator))
        multi_label = self.model.config.problem_type == "multi_label_classification"
        self._global_distance = LogitDistillationLoss(args.logit_loss, args.temperature, independent_labels=multi_label)
        self._local_distance = LogitDistillationLoss(args.logit_loss, args.temperature, independent_labels=True)
        self._attention_distance = AttentionDistillationLoss(args.attention_loss)
        self._part_sums: dict[str, Tensor] = {}
        self._images_since_log = 0.0
        self._clock = StepClock(args.device)
        self.add_callback(self._clock)
        self.add_callback(ShortRunCallback())

    @property
    def teacher(self) -> Any:
        """The teacher that runs, the first of several; None where none runs."""
        return None if self.teachers is None else self.teachers.models[0]

    def _set_teachers(self, teachers: Any) -> None:
        """Freeze the teachers and keep them beside the model: a part of it would be saved, trained and wrapped."""

        def prepare(teacher: nn.Module) -> Any:
            return self.accelerator.prepare_model(teacher, device_placement=True, evaluation_mode=True)

        self.teachers = Teachers(teachers, self.model, self.args.attention_options).prepare(prepare, self.args.device)
        self._alignment = self.teachers.alignments[0]

    def _set_cache(self, cache: TeacherCache | str | PathLike[str], teachers: Any) -> None:
        """Check that the cache is of what this run would ask its teachers, and read it together with the images."""
        if not isinstance(cache, TeacherCache):
            cache = TeacherCache(cache, verify=self.args.local_process_index == 0)
        alignments = check_teachers(cache.teachers, self.model, self.args.attention_options)
        expected: dict[str, Any] = {}
        if teachers is not None:
            expected |= teacher_key(teachers)
        if self.train_dataset is not None:
            expected |= pixels_key(self.train_dataset)
        processors = getattr(self.data_collator, "teacher_processor", None)
        if processors is not None:
            expected |= processors_key(processors)
        expected |= views_key(self.data_collator)
        if self.args.gamma > 0:
            expected |= attention_key(alignments, cache.teachers)
        cache.check(expected)
        self.teacher_cache = cache
        self._alignment = None if alignments[0] is None else alignments[0].to(self.args.device)
        self.data_collator = CachedCollator(self.data_collator, cache, attention=self.args.gamma > 0)

    # Batches

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the dataloader of evaluation: stored images without views or teacher inputs."""
        with self._evaluation_collator():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Return the dataloader of prediction: stored images without views or teacher inputs."""
        with self._evaluation_collator():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _evaluation_collator(self) -> Iterator[None]:
        training_collator, self.data_collator = self.data_collator, self.eval_data_collator
        try:
            yield
        finally:
            self.data_collator = training_collator

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Fetch the micro-batches of one optimizer step and count its images over all processes."""
        with self._clock.waiting():
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self._mark_repeats(batches[-1])
        count = sum(_num_images(batch) for batch in batches)
        if self.args.world_size == 1:
            return batches, torch.tensor(count, device=device)
        counts = self.accelerator.gather(torch.tensor([count], device=device))
        return batches, counts.sum()

    def _mark_repeats(self, batch: dict[str, Any]) -> None:
        """Give weight 0 to the images with which accelerate fills the last batch of every process to the same size."""
        if self.args.world_size == 1 or not self.accelerator.gradient_state.end_of_dataloader:
            return
        size = batch["pixel_values"].shape[0]
        rows: Any = self.train_dataset
        # accelerate knows this number too, but forgets it where an epoch is resumed in its middle.
        remainder = len(rows) % (self.args.train_batch_size * self.args.world_size)
        if remainder == 0 or self.args.dataloader_drop_last:
            return
        real = min(max(remainder - self.args.process_index * size, 0), size)
        if real < size:
            weights = torch.zeros(size, device=batch["pixel_values"].device)
            weights[:real] = 1.0
            batch["image_weights"] = weights
            for name in _LABELS:
                if batch.get(name) is not None:
                    batch[name] = batch[name].clone()
                    batch[name][real:] = -1

    # Loss

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; where its rows have labels of one kind only, those of the other count as missing."""
        return super().prediction_step(model, self._with_missing_labels(inputs), *args, **kwargs)

    def _with_missing_labels(self, inputs: dict[str, Any]) -> dict[str, Any]:
        absent = [name for name in self.label_names if inputs.get(name) is None]
        if not absent or len(absent) == len(self.label_names):
            return inputs
        config, pixels = self.model.config, inputs["pixel_values"]
        missing = {"local_targets": pixels.new_full((len(pixels), len(config.local_labels)), -1.0)}
        several = config.problem_type == "multi_label_classification"
        missing["labels"] = pixels.new_full((len(pixels), config.num_labels) if several else (len(pixels),), -1.0)
        if not several:
            missing["labels"] = missing["labels"].long()
        return inputs | {name: missing[name] for name in absent}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Compute the gradients of a micro-batch, and stop if its loss is not finite.

        Raises:
            DistillationError: names the images, and whether the student, the teacher or the pixels are to blame.
        """
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        # The Trainer looks at this number next anyway, to leave a loss that is not finite out of its log.
        if not math.isfinite(loss.item()):
            raise DistillationError(self._explain_not_finite(inputs))
        return loss

    @torch.no_grad()
    def _explain_not_finite(self, inputs: dict[str, Any]) -> str:
        inputs = self._prepare_inputs(inputs)
        found = rows_not_finite(inputs)
        if not found:
            self.model.eval()
            outputs = {"student": self.model(inputs["pixel_values"])}
            if self.teachers is not None:
                outputs["teacher"] = vars(self.teachers(inputs))
            for who, output in outputs.items():
                found |= {f"{who}'s {name}": rows for name, rows in rows_not_finite(output).items()}
        if "index" in inputs:
            name_of = getattr(self.train_dataset, "image_name", "row {}".format)
            names = [name_of(row) for row in inputs["index"].tolist()]
        else:
            names = [f"number {number} of the batch" for number in range(len(inputs["pixel_values"]))]
        return not_finite_message(self.state.global_step + 1, found, names)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the loss of a micro-batch: its share of the whole step in training, classification in evaluation."""
        inputs = dict(inputs)
        inputs.pop("index", None)
        weights = inputs.pop("image_weights", None)
        taught = {name: inputs.pop(name) for name in list(inputs) if name.startswith(TEACHER_PREFIX)}
        if not model.training:
            outputs = model(**inputs)
            loss = self._evaluation_loss(outputs, inputs)
            return (loss, outputs) if return_outputs else loss
        labels = {name: inputs.pop(name, None) for name in _LABELS}
        outputs = model(**inputs, output_attentions=self._alignment is not None)
        num_items = outputs.logits.shape[0] if num_items_in_batch is None else num_items_in_batch
        parts = self._classification(outputs, labels, num_items)
        if self.teachers is not None:
            with self._clock.teaching():
                known = self.teachers(taught)
            parts |= self._distillation(outputs, known, num_items, weights)
        elif self.teacher_cache is not None:
            parts |= self._distillation(outputs, TeacherOutputs.from_batch(taught), num_items, weights)
        if not parts:
            raise DistillationError("There is nothing to learn from: the batch has no labels and there is no teacher.")
        loss = sum(self._weight(name) * part for name, part in parts.items())
        images = outputs.logits.shape[0] if weights is None else float(weights.sum())
        self._keep_parts(parts, num_items, images)
        # DDP averages gradients over processes; each already holds its share of the sum.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _evaluation_loss(self, outputs: Any, inputs: dict[str, Any]) -> Any:
        """Average over the images, without those that accelerate repeats to fill the last batch of every process."""
        state, size = self.accelerator.gradient_state, outputs.logits.shape[0]
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return outputs.loss
        real = min(max(state.remainder - self.args.process_index * size, 0), size)
        if outputs.loss is None or real in (0, size):
            return outputs.loss  # Without a real image, the loss is not gathered.
        targets = [inputs[name][:real] if inputs.get(name) is not None else None for name in _LABELS]
        own = SimpleNamespace(
            logits=outputs.logits[:real],
            local_logits=None if outputs.local_logits is None else outputs.local_logits[:real],
        )
        parts = self._classification(own, dict(zip(_LABELS, targets, strict=True)), real)
        return sum(self._weight(name) * part for name, part in parts.items())

    def _classification(self, outputs: Any, labels: dict[str, Any], num_items: Any) -> dict[str, Tensor]:
        config = self.model.config
        parts = {}
        if labels["labels"] is not None:
            parts["loss_global"] = global_classification_loss(
                outputs.logits, labels["labels"], config.problem_type, num_items
            )
        if outputs.local_logits is not None and labels["local_targets"] is not None:
            parts["loss_local"] = local_classification_loss(outputs.local_logits, labels["local_targets"], num_items)
        return parts

    def _distillation(self, outputs: Any, known: TeacherOutputs, num_items: Any, weights: Any) -> dict[str, Tensor]:
        parts = {}
        if self.args.alpha > 0 and outputs.local_logits is not None and known.local_logits is not None:
            parts["distil_local"] = self._local_distance(outputs.local_logits, known.local_logits)
        if self.args.beta > 0:
            parts["distil_global"] = self._global_distance(outputs.logits, known.logits)
        if self._alignment is not None and known.attention is not None:
            ours = self._alignment.align_student(outputs.attentions)
            parts["distil_attention"] = self._attention_distance(ours, known.attention)
        return {name: sum_per_item(part, num_items, weights) for name, part in parts.items()}

    def _weight(self, part: str) -> float:
        return float(
            {
                "loss_global": 1.0,
                "loss_local": self.model.config.local_loss_weight,
                "distil_local": self.args.alpha,
                "distil_global": self.args.beta,
                "distil_attention": self.args.gamma,
            }[part]
        )

    # Log

    def _keep_parts(self, parts: dict[str, Tensor], num_items: Any, images: float) -> None:
        """Keep each part as a sum over images, so that the log's mean counts every image once."""
        for name, part in parts.items():
            total = (part.detach() * num_items).float()
            self._part_sums[name] = self._part_sums[name] + total if name in self._part_sums else total
        self._images_since_log += images

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every part of the loss since the last log, over images and processes."""
        # "loss" marks the training log, which every process writes at the same step; evaluation logs "eval_loss".
        if "loss" in logs and self._part_sums:
            zero = next(iter(self._part_sums.values())).new_zeros(())
            sums = [self._part_sums.get(name, zero) for name in _PARTS]
            own = torch.stack([*sums, zero + self._images_since_log, *self._clock.read().to(zero)])
            *parts, images, step_s, wait_s, teacher_s = self.accelerator.reduce(own, reduction="sum").tolist()
            means = dict(zip(_PARTS, parts, strict=True))
            logs |= {name: means[name] / images for name in _PARTS if name in self._part_sums}
            # Seconds are added up over processes, which work side by side.
            logs["images_per_second"] = images * self.args.world_size / step_s
            logs["data_wait_share"] = wait_s / step_s
            if self.teacher is not None:
                logs["teacher_share"] = teacher_s / step_s
            self._part_sums, self._images_since_log = {}, 0.0
        super().log(logs, start_time)


def _num_images(batch: dict[str, Any]) -> int:
    weights = batch.get("image_weights")
    return int(batch["pixel_values"].shape[0] if weights is None else weights.sum())


def _check_labels(dataset: Any) -> None:
    """Refuse a dataset without a single label where there is no teacher, before anything is trained."""
    targets = getattr(dataset, "targets", None)
    if targets is not None and not any((values >= 0).any() for values in targets.values()):
        raise DistillationError(
            "There is nothing to learn from: no image of the dataset has a label, and no teacher is asked (alpha, beta "
            "and gamma are 0, or no teacher was named)."
        )
