"""A `transformers.Trainer` that adds distillation from a teacher to the classification loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback

from ..distillation.cache.key import cache_key
from ..distillation.cache.store import CachedCollator, TeacherCache
from ..distillation.finite_check import image_names, not_finite_message, rows_not_finite
from ..distillation.teachers import TEACHER_PREFIX, TeacherOutputs, Teachers
from ..errors import DistillationError
from ..probabilities import MULTI_LABEL
from .arguments import SHIFTED, MLCAKTrainingArguments
from .callbacks import EpochCallback, EvaluationPrinter, StepLog
from .objective import LABELS, Objective, check_labels, smooth_labels
from .weight_average import AveragingTrainer, warn_of_batch_norm


class MLCAKTrainer(AveragingTrainer):
    r"""
    Train a student on `L = L_classification + alpha * D(local) + beta * D(global) + gamma * D(attention)`.

    Every part is a sum over images divided by the images of the whole optimizer step, over all its micro-batches and
    processes, so that accumulation, several processes and a short last micro-batch change no gradient. Evaluation is
    classification only. Every part is logged before its weight, and of the steps' time `images_per_second` (of all
    processes), `data_wait_share` and `teacher_share`. A loss that is not finite stops the training. Checkpoints are
    written atomically.

    Args:
        model ([`MLCAKForCXRClassification`]):
            The student.
        teacher (a model, `str` or `os.PathLike`, several of them, or [`Teachers`], *optional*):
            Trained models, their folders or Hub ids, or functions; see [`Teachers`]. `None` trains a plain student (or
            a teacher).
        args ([`MLCAKTrainingArguments`], *optional*):
            Weights and kinds of the losses, and those of [`~transformers.TrainingArguments`].
        data_collator ([`MLCAKCollator`]):
            Gives `pixel_values`, `labels`, `local_targets` and, for distillation, `teacher_pixel_values`. Evaluation
            uses `data_collator.for_evaluation()` if there is one.
        teacher_cache ([`TeacherCache`], `str` or `os.PathLike`, *optional*):
            The teacher's outputs are read from this cache and no teacher runs; with a `teacher`, the cache must have
            been built from it. Epoch e sees view e modulo V of every image.
        kwargs:
            As for [`~transformers.Trainer`].

    Raises:
        [`DistillationError`]: When teacher and student do not match, or there is nothing to learn from.
        [`CacheError`]: When the cache was built from another teacher, images or views, or for another student.

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
        **kwargs: Any,
    ) -> None:
        args = MLCAKTrainingArguments() if args is None else args
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Label smoothing is not compatible")  # with the base class's own loss
            super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        if args.world_size > 1 and not hasattr(self.train_dataset or (), "__len__"):
            raise DistillationError("The train_dataset must have a length with several processes. Use such a dataset.")
        if not self.model.config.local_labels:
            self.label_names = [name for name in self.label_names if name != "local_targets"]
        collator: Any = self.data_collator
        self.eval_data_collator = collator.for_evaluation() if hasattr(collator, "for_evaluation") else collator
        if args.eval_shifts and not hasattr(self.eval_data_collator, "each_shift"):
            raise DistillationError("eval_shifts needs an MLCAKCollator. Use one, or set eval_shifts to false.")
        warn_of_batch_norm(self.model, args)
        self.teachers: Teachers | None = None
        self.teacher_cache: TeacherCache | None = None
        if args.distils and (teacher is not None or teacher_cache is not None):
            self._set_teachers(teacher, teacher_cache)
        elif self.train_dataset is not None:
            check_labels(self.train_dataset)
        self._objective = Objective(self.model.config, args, self.teachers)
        self._step_log = StepLog(self.accelerator)
        self.add_callback(self._step_log)
        if args.disable_tqdm:
            self.remove_callback(PrinterCallback)
            self.add_callback(EvaluationPrinter())
        if hasattr(self.data_collator, "set_epoch"):
            self.add_callback(EpochCallback(self.data_collator))

    @property
    def teacher(self) -> Any:
        """The teacher that runs, the first of several; `None` without one or with a cache."""
        return None if self.teachers is None or self.teacher_cache is not None else self.teachers.models[0]

    def _set_teachers(self, teacher: Any, cache: TeacherCache | str | PathLike[str] | None) -> None:
        """Keep the teachers outside the model, because its parts are saved, trained and wrapped."""
        if cache is not None and not isinstance(cache, TeacherCache):
            cache = TeacherCache(cache, verify=self.args.local_process_index == 0)
        if not isinstance(teacher, Teachers):
            known = cache.teachers if teacher is None and cache is not None else teacher
            teacher = Teachers(known, self.model, self.args.attention_options)
        self.teachers, self.teacher_cache = teacher, cache
        if cache is None:
            prepare = partial(self.accelerator.prepare_model, device_placement=True, evaluation_mode=True)
            self.teachers.prepare(prepare, self.args.device)
            return
        # A cache with attention also teaches logits alone.
        expected = cache_key(self.teachers, self.data_collator, self.train_dataset)
        cache.check({name: value for name, value in expected.items() if value is not None})
        if self.teachers.alignment is not None:
            self.teachers.alignment.to(self.args.device)
        self.data_collator = CachedCollator(self.data_collator, cache, attention=self.args.gamma > 0)

    # Batches

    def get_train_dataloader(self) -> Any:
        """Return the dataloader of training."""
        loader: Any = super().get_train_dataloader()
        if self.args.dataloader_persistent_workers:
            # Each new set of workers draws a seed. Drawn from the global generator, it would shift the dropout of a
            # resumed run, which starts its workers in another epoch.
            loader.base_dataloader.generator = torch.Generator().manual_seed(self.args.seed)
        return loader

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

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Fetch the micro-batches of one optimizer step and count its images over all processes."""
        with self._step_log.waiting():
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            batches = list(map(getattr(self.data_collator, "add_pixels", dict), batches))
        if not batches:
            return batches, None
        images = sum(len(batch["pixel_values"]) for batch in batches[:-1]) + self._mark_repeats(batches[-1])
        return batches, self.accelerator.gather(torch.tensor([images], device=device)).sum()

    def _mark_repeats(self, batch: dict[str, Any]) -> int:
        """Give weight 0 to images that accelerate repeats to fill the last batch of every process; count the others."""
        rows: Any = self.train_dataset
        size, last = len(batch["pixel_values"]), self.accelerator.gradient_state.end_of_dataloader
        if self.args.world_size == 1 or not last or self.args.dataloader_drop_last:
            return size
        # accelerate knows this number too, but forgets it where an epoch is resumed in its middle.
        real = self._real_images(size, len(rows) % (self.args.train_batch_size * self.args.world_size))
        if real < size:
            batch["image_weights"] = torch.zeros(size, device=batch["pixel_values"].device)
            batch["image_weights"][:real] = 1.0
            for name in LABELS:
                if batch.get(name) is not None:
                    batch[name] = batch[name].clone()
                    batch[name][real:] = -1
        return real

    def _real_images(self, size: int, remainder: int) -> int:
        """Count the images in this process's last batch, without repeats; `remainder` counts those of all processes."""
        return min(max(remainder - self.args.process_index * size, 0), size) if remainder > 0 else size

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """Evaluate or predict; with `eval_shifts`, add the mean AUROC of the perturbed images to an evaluation."""
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        name = f"{kwargs.get('metric_key_prefix', 'eval')}_auroc_global"
        if self.args.eval_shifts and description == "Evaluation" and name in output.metrics:
            again = partial(super().evaluation_loop, dataloader, description, *args, **kwargs)
            values = {f"{name}{SHIFTED}/{s}": again().metrics[name] for s in self.eval_data_collator.each_shift()}
            output.metrics.update(values | {name + SHIFTED: sum(values.values()) / len(values)})
        return output

    # Loss

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; if its rows have labels of one kind only, those of the other count as missing."""
        known = {name: value for name, value in inputs.items() if value is not None}
        if any(name in known for name in self.label_names):
            config, pixels = self.model.config, inputs["pixel_values"]
            several = config.problem_type == MULTI_LABEL
            labels = pixels.new_full((len(pixels), config.num_labels) if several else (len(pixels),), -1.0)
            local_targets = pixels.new_full((len(pixels), len(config.local_labels)), -1.0)
            missing = {"labels": labels if several else labels.long(), "local_targets": local_targets}
            inputs = {name: missing[name] for name in self.label_names} | known
        return super().prediction_step(model, inputs, *args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Compute the gradients of a micro-batch, and stop if its loss is not finite.

        Raises:
            [`DistillationError`]: Names the images, and where NaN or Inf was found.
        """
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        # The Trainer looks at this number next anyway, to leave a loss that is not finite out of its log.
        if not math.isfinite(loss.item()):
            raise DistillationError(self._explain_not_finite(inputs))
        return loss

    @torch.no_grad()
    def _explain_not_finite(self, inputs: dict[str, Any]) -> str:
        inputs = self._prepare_inputs(inputs)
        found, remedy = rows_not_finite(inputs), "Check these images"
        if not found:
            self.model.eval()
            found = {} if self.teacher is None else rows_not_finite(vars(self.teachers(inputs)), "teacher's ")  # type: ignore[misc]
            remedy = "Lower learning_rate or set max_grad_norm, and resume from the last checkpoint"
            remedy = "Check the teacher's weights" if found else remedy
            found |= rows_not_finite(self.model(inputs["pixel_values"]), "student's ")
        if "index" in inputs:
            names = image_names(self.train_dataset, inputs["index"].tolist())
        else:
            names = [f"number {number} of the batch" for number in range(len(inputs["pixel_values"]))]
        return not_finite_message(self.state.global_step + 1, found, names, remedy)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the loss of a micro-batch: its share of the whole step in training, classification in evaluation."""
        taught = {name: value for name, value in inputs.items() if name.startswith(TEACHER_PREFIX)}
        inputs = {name: value for name, value in inputs.items() if name not in taught and name != "index"}
        weights = inputs.pop("image_weights", None)
        if not model.training:
            outputs = model(**inputs)
            loss = self._evaluation_loss(outputs, inputs)
            return (loss, outputs) if return_outputs else loss
        labels = {name: inputs.pop(name, None) for name in LABELS}
        labels = smooth_labels(labels, self.args.label_smoothing_factor, self.model.config)
        outputs = model(**inputs, output_attentions=self._objective.alignment is not None)
        num_items = outputs.logits.shape[0] if num_items_in_batch is None else num_items_in_batch
        parts = self._objective.classification(outputs.logits, outputs.local_logits, labels, num_items)
        if self.teachers is not None:
            parts |= self._objective.distillation(outputs, self._teach(self.teachers, taught), num_items, weights)
        if not parts:
            raise DistillationError("A batch must have labels, because there is no teacher. Add columns of labels.")
        self._step_log.add(parts, num_items, outputs.logits.shape[0] if weights is None else float(weights.sum()))
        # DDP averages gradients over processes; each already holds its share of the sum.
        loss = self._objective.total(parts) * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _teach(self, teachers: Teachers, taught: dict[str, Tensor]) -> TeacherOutputs:
        if self.teacher_cache is not None:
            return TeacherOutputs.from_batch(taught)
        with self._step_log.teaching():
            return teachers(taught)

    def _evaluation_loss(self, outputs: Any, inputs: dict[str, Any]) -> Any:
        """Average over the images, without those that accelerate repeats to fill the last batch of every process."""
        state, size = self.accelerator.gradient_state, outputs.logits.shape[0]
        if self.args.world_size == 1 or not state.end_of_dataloader or outputs.loss is None:
            return outputs.loss
        real = self._real_images(size, state.remainder)
        if real in (0, size):
            return outputs.loss  # Without a real image, the loss is not gathered.
        local_logits = None if outputs.local_logits is None else outputs.local_logits[:real]
        labels = {name: inputs[name][:real] for name in LABELS if inputs.get(name) is not None}
        return self._objective.total(self._objective.classification(outputs.logits[:real], local_logits, labels, real))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every part of the loss since the last log, over images and processes."""
        # "loss" marks the training log, which every process writes at the same step; evaluation logs "eval_loss".
        super().log(logs | self._step_log.read() if "loss" in logs else logs, start_time)
