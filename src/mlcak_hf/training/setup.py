"""Set up a training run of the scripts, and save its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard
from transformers import EvalPrediction, set_seed
from transformers.utils import logging
from yaml import YAMLError

from ..configuration_mlcak import MLCAKConfig
from ..data.collator import MLCAKCollator
from ..data.device_views import DeviceImages, DeviceViewCollator, device_memory_shortage
from ..data.sources import RadiographDataset, describe_targets
from ..data.training_data import DataArguments, TrainingData, open_training_data
from ..data.views import ViewParameters
from ..distillation.cache.build import CacheOptions, build_teacher_cache
from ..distillation.cache.store import TeacherCache
from ..distillation.teacher_files import make_teacher_processor, teacher_config
from ..distillation.teachers import Teachers
from ..errors import RecipeError
from ..image_processing_mlcak import MLCAKImageProcessor
from ..modeling_mlcak import MLCAKForCXRClassification
from ..shipped import resolve_checkpoint, resolve_model
from ..weights import weight_files, weights_digest
from .arguments import SHIFTED, MLCAKTrainingArguments
from .curves import draw_training_curves
from .models import ModelArguments, build_model
from .objective import check_labels, has_labels
from .record import TrainingRecord
from .trainer import MLCAKTrainer
from .training_images import TrainingImages, check_shared_splits

logger = logging.get_logger(__name__)

#: Makes `compute_metrics` for the config of a model.
MetricsOf = Callable[[MLCAKConfig], Callable[[Any], dict[str, float]]]


@dataclass
class StudentArguments(ModelArguments):
    """Which student to train, and with which teachers.

    Args:
        teacher (`list[str]`, *optional*):
            Folders that train_teacher.py wrote, or Hub ids; for logits also any image classifier of transformers or a
            `package.module:function`. The mean of several teaches, see [`Teachers`]; labels and findings are those of
            the first MLCAK teacher, or of the dataset without one.
        teacher_cache (`str`, *optional*):
            Folder of a teacher cache, which is built first, or resumed, if it is incomplete.
        cache_views (`int`, *optional*):
            V, views of every image in the cache. Defaults to the number in an existing cache, else 4.
    """

    model: str = field(default="student-vit-ti4-28", metadata={"help": "Size in hub_configs/models, or trained model."})
    teacher: list[str] | None = field(default=None, metadata={"help": "Folders, Hub ids or package.module:function."})
    teacher_cache: str | None = field(default=None, metadata={"help": "Folder that keeps the teachers' outputs."})
    cache_views: int | None = field(default=None, metadata={"help": "Views of every image in the cache."})


@dataclass(frozen=True)
class TrainingSetup:
    """What a training run starts from.

    Args:
        model ([`MLCAKForCXRClassification`]):
            The model with its initial weights.
        processor ([`MLCAKImageProcessor`]):
            Its image processor.
        collator ([`MLCAKCollator`]):
            The training collator, with the processors of all teachers.
        train, validation ([`RadiographDataset`]):
            Rows with targets.
        data ([`TrainingData`]):
            The dataset.
        teachers ([`Teachers`], *optional*):
            The teachers, not loaded yet; `None` without distillation.
    """

    model: MLCAKForCXRClassification
    processor: MLCAKImageProcessor
    collator: MLCAKCollator
    train: RadiographDataset
    validation: RadiographDataset
    data: TrainingData
    teachers: Teachers | None = None


def set_up_training(
    model_args: ModelArguments,
    data_args: DataArguments,
    views: ViewParameters,
    args: MLCAKTrainingArguments,
    metrics_of: MetricsOf | None = None,
) -> TrainingSetup:
    """Open the dataset and make the model; a student gets the labels of its teacher, which is not loaded.

    Errors are found before an image is decoded, where possible.

    Args:
        model_args, data_args, views, args:
            The options of the script.
        metrics_of (`Callable`, *optional*):
            Makes the metrics of evaluation from a config; `None` when nothing will be evaluated.

    Raises:
        [`RecipeError`]: When a teacher is needed but neither it nor a cache is given, the metric that chooses the best
            checkpoint is not defined on the validation rows, or everything would be uploaded.
        [`DistillationError`]: When a teacher cannot teach the student, or there is nothing to learn.
        [`DatasetError`]: When the dataset cannot be used, or a teacher was trained on other rows of it.
    """
    logging.set_verbosity(args.get_process_log_level())  # type: ignore[no-untyped-call]
    if args.push_to_hub:
        raise RecipeError(
            "push_to_hub must be false: it would upload all of --output_dir, also the hashes of the training images. "
            "Upload the trained model with `mlcak push`."
        )
    if data_args.device_views and not (data_args.augment and data_args.decode_once):
        raise RecipeError(
            "device_views needs augment and decode_once. Leave out device_views, or set --augment true --decode_once "
            "true."
        )
    TrainingImages.load(resolve_model(model_args.model))  # A damaged record is found before hours are spent.
    known: Any = _teachers_of(model_args) if isinstance(model_args, StudentArguments) and args.distils else None
    labels = None if known is None else _labels_of(known)
    with args.main_process_first(desc="opening the dataset"):
        data = open_training_data(data_args, labels)
    sources: Any = None if known is None else getattr(model_args, "teacher", None)
    check_shared_splits(sources or (), data_args, data.whole_train, data.split_off)
    # Students with the same seed start from the same weights, whatever was loaded before.
    set_seed(args.seed)
    model, processor = build_model(model_args, data.labels)
    config: Any = model.config
    teachers = None if known is None else Teachers(known, model, args.attention_options)
    data.set_fit_and_voi(processor)
    processors = None
    if teachers is not None and sources is not None:
        named = zip(sources, teachers.configs, strict=True)
        processors = [make_teacher_processor(source, other, processor) for source, other in named]
    collator = MLCAKCollator(processor, processors, views if data_args.augment else None, args.seed)

    def check(train: RadiographDataset, validation: RadiographDataset) -> None:
        learns_local = args.alpha > 0 and bool(config.local_labels)
        if teachers is None or not (learns_local or args.beta > 0 or args.gamma > 0):
            check_labels(train)
        if metrics_of is not None and args.eval_strategy != "no":
            _check_metric(args, config, validation, metrics_of)

    with args.main_process_first(desc="decoding the images"):
        train, validation = data.radiographs(config, processor, data_args, check)
    if data_args.device_views:
        collator = _views_on_device(collator, train, data_args, args)
    return TrainingSetup(model, processor, collator, train, validation, data, teachers)


def _views_on_device(
    collator: MLCAKCollator, train: RadiographDataset, data_args: DataArguments, args: MLCAKTrainingArguments
) -> MLCAKCollator:
    """Move the decoded images to the device, or keep the views on the CPU where they do not fit."""
    decoded_images: Any = train.decoded_images
    shortage = device_memory_shortage(decoded_images, args.device)
    if shortage is not None:
        logger.warning(f"device_views needs {shortage}: views are made on the CPU.")
        data_args.device_views = False  # Recorded in training.json.
        return collator
    train.with_images = False
    return DeviceViewCollator(collator, DeviceImages(decoded_images, args.device))


def _labels_of(teachers: Sequence[Any]) -> dict[str, Any] | None:
    """Return the labels of the first MLCAK teacher; `None` without one."""
    names = ("id2label", "local_labels", "problem_type")
    configs = (config for config in map(teacher_config, teachers) if isinstance(config, MLCAKConfig))
    return next(({name: getattr(config, name) for name in names} for config in configs), None)


def _teachers_of(model_args: StudentArguments) -> Any:
    """Return folders or Hub ids of the teachers, or the configs that a cache holds."""
    if model_args.teacher is not None:
        return model_args.teacher
    if model_args.teacher_cache is not None:
        return TeacherCache(model_args.teacher_cache, verify=False).teachers
    raise RecipeError("--teacher must be given. For a plain student, set --alpha 0 --beta 0 --gamma 0.")


def _check_metric(
    args: MLCAKTrainingArguments, config: MLCAKConfig, validation: RadiographDataset, metrics_of: MetricsOf
) -> None:
    """Check that the metric that chooses the best checkpoint will be defined."""
    metric, labelled = (args.metric_for_best_model or "").removeprefix("eval_"), has_labels(validation)
    if not metric:
        return
    if metric == "loss":
        # Without labels every checkpoint has the loss 0, and the first would be taken for the best.
        defined = labelled or not args.load_best_model_at_end
    else:
        # The metrics of a model that knows nothing have the same names as any other model's.
        widths = {"labels": len(config.global_labels), "local_targets": len(config.local_labels)}
        logits: Any = tuple(np.zeros((len(validation), widths[name]), np.float32) for name in validation.targets)
        labels: Any = tuple(validation.targets.values())
        defined = metric.removesuffix(SHIFTED) in metrics_of(config)(
            EvalPrediction(predictions=logits, label_ids=labels)
        )
    if defined:
        return
    counts = describe_targets(validation, config)
    known = [f"{name} {count}" for name, count in counts["global"].items()]
    known += [f"{name} {positive} of {count} annotated" for name, (positive, count) in counts.get("local", {}).items()]
    remedy = "Use a split with positive and negative images (another --validation_fraction or --split_seed), or"
    if not labelled:
        remedy = "Without labels, keep the last checkpoint: --load_best_model_at_end false"
    raise RecipeError(
        f"metric_for_best_model must be defined on the validation split; got {args.metric_for_best_model} for "
        f"{counts['rows']} images, {', '.join(known)}. {remedy} --metric_for_best_model eval_loss."
    )


def open_teacher_cache(
    setup: TrainingSetup, model_args: StudentArguments, args: MLCAKTrainingArguments
) -> TeacherCache | None:
    """Open the requested teacher cache; build it first if it is incomplete and its teachers are given.

    Args:
        setup ([`TrainingSetup`]):
            The student, its teachers and its images.
        model_args, args:
            The options of the script.

    Returns:
        [`TeacherCache`]: The cache; `None` when none was requested or there is nothing to distil.

    Raises:
        [`CacheError`]: When it was built from something else, is damaged, or cannot be written.
    """
    if setup.teachers is None or model_args.teacher_cache is None:
        return None
    if model_args.teacher is None:
        return TeacherCache(model_args.teacher_cache)
    options = CacheOptions(
        model_args.cache_views,
        batch_size=args.per_device_train_batch_size,
        num_workers=args.dataloader_num_workers,
        autocast=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
        progress_bar=not args.disable_tqdm,
    )
    return build_teacher_cache(model_args.teacher_cache, setup.teachers, setup.train, setup.collator, options)


def save_trained(
    trainer: MLCAKTrainer, model_args: ModelArguments, data_args: DataArguments, data: TrainingData
) -> None:
    """Evaluate and save a trained model with its image processor, its training records and its curves.

    A model card that was generated for earlier weights in the folder is renamed to `README.earlier.md`.

    Args:
        trainer ([`MLCAKTrainer`]):
            The trainer, after `train()`.
        model_args, data_args:
            The options of the script.
        data ([`TrainingData`]):
            The dataset.
    """
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return
    folder = Path(str(trainer.args.output_dir))
    train: Any = trainer.train_dataset
    # Before the folder, which may be that of the initial weights, gets a record of its own.
    initial = Path(resolve_model(model_args.model))
    untrained, earlier = initial.is_dir() and not weight_files(initial), TrainingImages.load(initial)
    sources = getattr(model_args, "teacher", None) or [None] if trainer.teachers is not None else []
    taught_by = [source and TrainingImages.load(resolve_checkpoint(source)) for source in sources]
    TrainingImages.of_run(map(train.digest, range(len(train))), earlier, untrained, taught_by).save(folder)
    TrainingRecord.of_run(trainer, model_args, data_args, data.preparation, metrics).save(folder)
    set_outdated_card_aside(folder)
    draw_training_curves(trainer.state.log_history, folder / "curves.png", title=folder.name)
    print(f"Model, image processor and training.json: {folder}")


def set_outdated_card_aside(folder: Path) -> None:
    """Rename a generated model card if it describes earlier weights."""
    card = folder / "README.md"
    if not card.is_file():
        return
    try:
        described = ModelCard.load(card).data.to_dict().get("weights_sha256")
    except (ValueError, YAMLError):
        return  # Not a card that was generated.
    if described not in (None, weights_digest(folder)):
        logger.warning(f"{card} describes earlier weights and is now README.earlier.md. Write a new one: mlcak card.")
        card.replace(card.with_name("README.earlier.md"))
