"""Set up a training run of the scripts, and save its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from transformers import set_seed
from transformers.utils import logging
from yaml import YAMLError

from ..configuration_mlcak import MLCAKConfig
from ..data.collator import MLCAKCollator
from ..data.sources import RadiographDataset
from ..data.training_data import DataArguments, TrainingData, open_training_data
from ..data.views import ViewParameters
from ..distillation.cache.build import CacheOptions, build_teacher_cache
from ..distillation.cache.store import TeacherCache, cached_views
from ..distillation.compatibility import check_teachers, load_teacher_config
from ..errors import DistillationError, RecipeError
from ..image_processing_mlcak import MLCAKImageProcessor
from ..modeling_mlcak import MLCAKForCXRClassification
from ..pretrained import load_processor, weights_digest
from .arguments import MLCAKTrainingArguments
from .checks import MetricsOf, check_targets
from .curves import draw_training_curves
from .models import ModelArguments, build_model, model_processor
from .record import TrainingRecord
from .trainer import MLCAKTrainer

logger = logging.get_logger(__name__)

CURVES_FILE = "curves.png"


@dataclass
class StudentArguments(ModelArguments):
    """Which student to train, and with which teachers.

    Args:
        teacher (`list[str]`, *optional*):
            Folders that train_teacher.py wrote, or Hub ids. The mean of several teaches; labels and findings are those
            of the first.
        teacher_cache (`str`, *optional*):
            Folder of a teacher cache, which is built first, or resumed, if it is incomplete.
        cache_views (`int`, *optional*):
            V, views of every image in the cache. Defaults to the number in an existing cache, else 4.
    """

    model: str = field(default="student-vit-ti4-28", metadata={"help": "Size in hub_configs/models, or trained model."})
    teacher: list[str] | None = field(
        default=None, metadata={"help": "What train_teacher.py wrote, or a Hub id; several teach together."}
    )
    teacher_cache: str | None = field(
        default=None, metadata={"help": "Folder that keeps what the teacher knows, so that it runs only once."}
    )
    cache_views: int | None = field(
        default=None, metadata={"help": "Views of every image in the cache; default: as it has, else 4."}
    )


@dataclass(frozen=True)
class StudentSetup:
    """A student before training.

    Args:
        model ([`MLCAKForCXRClassification`]):
            The student with its initial weights.
        processor ([`MLCAKImageProcessor`]):
            Its image processor.
        collator ([`MLCAKCollator`]):
            The training collator, with the processors of all teachers.
        train, validation ([`RadiographDataset`]):
            Rows with targets.
        data ([`TrainingData`]):
            The dataset.
    """

    model: MLCAKForCXRClassification
    processor: MLCAKImageProcessor
    collator: MLCAKCollator
    train: RadiographDataset
    validation: RadiographDataset
    data: TrainingData


def set_up_student(
    model_args: StudentArguments,
    data_args: DataArguments,
    views: ViewParameters,
    args: MLCAKTrainingArguments,
    metrics_of: MetricsOf | None = None,
) -> StudentSetup:
    """Open the dataset and make the student, with the labels of its teacher, without loading a teacher.

    Errors are found before an image is decoded, where possible.

    Args:
        model_args, data_args, views, args:
            The options of the script.
        metrics_of (`Callable`, *optional*):
            Makes the metrics of evaluation from a config; `None` when nothing will be evaluated.

    Returns:
        [`StudentSetup`]: What training, or building a teacher cache, starts from.

    Raises:
        [`RecipeError`]: When a teacher is needed but neither it nor a cache is given, or the metric that chooses the
            best checkpoint is not defined on the validation rows.
        [`DistillationError`]: When a teacher cannot teach the student, or there is nothing to learn.
        [`DatasetError`]: When the dataset cannot be used.
    """
    teachers, teacher_processors = _open_teachers(model_args, args)
    taught = _labels_of(teachers[0]) if teachers else None
    with args.main_process_first(desc="opening the dataset"):
        data = open_training_data(data_args, taught)
    # Students with the same seed start from the same weights, whatever was loaded before.
    set_seed(args.seed)
    model = build_model(model_args, data.labels)
    config: Any = model.config
    if teachers:
        check_teachers(teachers, config, args.attention_options)
    processor = data.processor(config.image_size, model_processor(model_args.model))
    collator = MLCAKCollator(processor, teacher_processors, views if data_args.augment else None, args.seed)

    def check(train: RadiographDataset, validation: RadiographDataset) -> None:
        check_targets(args, config, train, validation, metrics_of, taught=bool(teachers))

    with args.main_process_first(desc="decoding the images"):
        train, validation = data.radiographs(config, processor, data_args, check)
    return StudentSetup(model, processor, collator, train, validation, data)


def _open_teachers(
    model_args: StudentArguments, args: MLCAKTrainingArguments
) -> tuple[list[MLCAKConfig], list[MLCAKImageProcessor] | None]:
    """Return the configs of the teachers, and their processors unless only a cache is given."""
    if not args.distils:
        return [], None
    if model_args.teacher is not None:
        role, error = "teacher", DistillationError
        configs = [load_teacher_config(teacher) for teacher in model_args.teacher]
        named = zip(model_args.teacher, configs, strict=True)
        return configs, [load_processor(teacher, config, role, error) for teacher, config in named]
    if model_args.teacher_cache is not None:
        return TeacherCache(model_args.teacher_cache, verify=False).teachers, None
    raise RecipeError("--teacher must be given. For a plain student, set --alpha 0 --beta 0 --gamma 0.")


def _labels_of(config: MLCAKConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("id2label", "local_labels", "problem_type")}


def open_teacher_cache(
    setup: StudentSetup, model_args: StudentArguments, args: MLCAKTrainingArguments
) -> TeacherCache | None:
    """Open the requested teacher cache; build it first if it is incomplete and its teachers are given.

    Args:
        setup ([`StudentSetup`]):
            The student and its images.
        model_args, args:
            The options of the script.

    Returns:
        [`TeacherCache`]: The cache; `None` when none was requested or there is nothing to distil.

    Raises:
        [`CacheError`]: When it was built from something else, is damaged, or cannot be written.
        [`DistillationError`]: When a teacher cannot teach the student.
    """
    folder, num_views = model_args.teacher_cache, model_args.cache_views
    if folder is None or not args.distils:
        return None
    if model_args.teacher is None:
        return TeacherCache(folder)
    if num_views is None:
        found = cached_views(folder)
        num_views = found or (1 if setup.collator.views is None else 4)
    options = CacheOptions(
        num_views,
        args.attention_options,
        batch_size=args.per_device_train_batch_size,
        num_workers=args.dataloader_num_workers,
        autocast=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
        progress_bar=not args.disable_tqdm,
    )
    return build_teacher_cache(folder, model_args.teacher, setup.model, setup.train, setup.collator, options)


def save_trained(
    trainer: MLCAKTrainer, model_args: ModelArguments, data_args: DataArguments, data: TrainingData, script: str
) -> None:
    """Evaluate and save a trained model with its image processor, its training record and its curves.

    A model card that was generated for earlier weights in the folder is renamed to `README.earlier.md`.

    Args:
        trainer ([`MLCAKTrainer`]):
            The trainer, after `train()`.
        model_args, data_args:
            The options of the script.
        data ([`TrainingData`]):
            The dataset.
        script (`str`):
            Name of the script, for the record.
    """
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return
    folder = Path(str(trainer.args.output_dir))
    TrainingRecord.of_run(trainer, model_args, data_args, data, metrics, script).save(folder)
    set_outdated_card_aside(folder)
    draw_training_curves(trainer.state.log_history, folder / CURVES_FILE, title=folder.name)


def set_outdated_card_aside(folder: Path) -> None:
    """Rename a generated model card whose numbers belong to other weights than the folder's."""
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
