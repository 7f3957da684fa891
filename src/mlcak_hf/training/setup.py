"""What the training scripts share: which model to start from, whose student it is, and how it was trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch import nn
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
from ..pretrained import load_config, load_model, load_processor, loading, weight_files, weights_digest
from ..shipped import resolve_model
from .arguments import MLCAKTrainingArguments
from .checks import MetricsOf, check_targets
from .curves import draw_training_curves
from .record import TrainingRecord
from .trainer import MLCAKTrainer

logger = logging.get_logger(__name__)

CURVES_FILE = "curves.png"


@dataclass
class ModelArguments:
    """Which model to train, and what to start it from.

    Args:
        model: a size in hub_configs/models, or the folder or Hub id of a trained model.
        backbone: a pretrained ViT, DeiT or DINOv2 checkpoint (folder or Hub id), resized to that size; None starts
            from random weights, or from those of `model` if it has any.
        local_loss_weight: weight (lambda) of the local findings' loss.

    Raises:
        RecipeError: if the weight is no finite number >= 0.
    """

    model: str = field(metadata={"help": "Size in hub_configs/models, or a trained model."})
    backbone: str | None = field(default=None, metadata={"help": "Pretrained ViT, DeiT or DINOv2: folder or Hub id."})
    local_loss_weight: float = field(default=1.0, metadata={"help": "Weight (lambda) of the local findings' loss."})

    def __post_init__(self) -> None:
        if not (math.isfinite(self.local_loss_weight) and self.local_loss_weight >= 0):
            raise RecipeError(f"local_loss_weight must be a finite number >= 0; got {self.local_loss_weight}.")


@dataclass
class StudentArguments(ModelArguments):
    """Which student, whose, and where what its teachers know is kept.

    Args:
        teacher: what train_teacher.py wrote, or a Hub id; several teach together. Labels and findings are the first's.
        teacher_cache: folder of a teacher cache; built first, or built on, if it is not whole.
        cache_views: V, views of every image in it; None means those of the cache that is there, else 4.
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
    """A student before its training.

    Args:
        model: the student, with its initial weights.
        processor: its image processor.
        collator: of the training, with the processors of all teachers.
        train, validation: rows with targets.
        data: what they come from.
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
    """Open the dataset and make the student, with the labels of its teacher. No teacher is loaded.

    Whatever can be found wrong is found before an image is decoded.

    Args:
        model_args, data_args, views, args: what was asked for.
        metrics_of: makes the metrics of evaluation; None where nothing will be evaluated.

    Returns:
        What the training, or the building of its teacher cache, starts from.

    Raises:
        RecipeError: if neither a teacher nor a cache is named though one is needed, or the best checkpoint would be
            chosen by a metric that the validation rows do not define.
        DistillationError: if a teacher cannot teach the student, or there is nothing to learn.
        MLCAKError: if the dataset cannot be used.
    """
    teachers, teacher_processors = _open_teachers(model_args, args)
    taught = _labels_of(teachers[0]) if teachers else None
    with args.main_process_first(desc="opening the dataset"):
        data = open_training_data(data_args, taught)
    # Students of one seed start from the same weights, whatever was loaded before.
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
    """The configs of the teachers, and their processors where they are named and not only their cache."""
    if not args.distils:
        return [], None
    if model_args.teacher is not None:
        role, error = "teacher", DistillationError
        configs = [load_teacher_config(teacher) for teacher in model_args.teacher]
        named = zip(model_args.teacher, configs, strict=True)
        return configs, [load_processor(teacher, config, role, error) for teacher, config in named]
    if model_args.teacher_cache is not None:
        return TeacherCache(model_args.teacher_cache, verify=False).teachers, None
    raise RecipeError("--teacher is missing. A plain student needs --alpha 0 --beta 0 --gamma 0.")


def _labels_of(config: MLCAKConfig) -> dict[str, Any]:
    """Labels of a model, as `TrainingData.labels` has them."""
    return {name: getattr(config, name) for name in ("id2label", "local_labels", "problem_type")}


def open_teacher_cache(
    setup: StudentSetup, model_args: StudentArguments, args: MLCAKTrainingArguments
) -> TeacherCache | None:
    """Open the teacher cache that was asked for; build it first if it is not whole and its teachers are named.

    Args:
        setup: the student that it is for, and its images.
        model_args, args: what was asked for.

    Returns:
        The cache; None if none was asked for, or there is nothing to distil.

    Raises:
        CacheError: if it is of something else, damaged beyond what the teachers can mend, or cannot be written.
        DistillationError: if a teacher cannot teach the student.
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


def model_processor(model: str) -> MLCAKImageProcessor:
    """Load the image processor of a size in hub_configs, or of a trained model.

    Args:
        model: as `ModelArguments.model`.

    Returns:
        The processor.

    Raises:
        RecipeError: if there is no such model, or it has no processor that makes what it takes.
    """
    folder = resolve_model(model)
    return load_processor(folder, load_config(folder))


def build_model(arguments: ModelArguments, labels: dict[str, Any]) -> MLCAKForCXRClassification:
    """Make a model for these labels: of a size from scratch, from a pretrained backbone, or from a trained model.

    A backbone's filters are folded for the normalisation of the size's own image processor.

    Args:
        arguments: which.
        labels: `id2label`, `local_labels` and `problem_type`, as `TrainingData.labels` has them.

    Returns:
        The model. A head of a trained model that is for other labels starts anew; one that is for the same labels in
        another order is put in this order.

    Raises:
        RecipeError: if there is no such model or backbone, or the backbone is of no known family.
    """
    folder = resolve_model(arguments.model)
    trained = load_config(folder)
    labels = labels | {"local_loss_weight": arguments.local_loss_weight}
    if arguments.backbone is not None:
        return _from_backbone(arguments.backbone, trained, load_processor(folder, trained), labels)
    config = MLCAKConfig(backbone_config=trained.backbone_config, attention_levels=trained.attention_levels, **labels)
    if Path(folder).is_dir() and not weight_files(folder):
        return MLCAKForCXRClassification(config)
    model = load_model(folder, config=config, ignore_mismatched_sizes=True)
    _fit_head(model, model.classifier, trained.global_labels, config.global_labels)
    _fit_head(model, model.local_classifier, list(trained.local_labels), list(config.local_labels))
    return model


def _from_backbone(
    backbone: str, size: MLCAKConfig, processor: MLCAKImageProcessor, labels: dict[str, Any]
) -> MLCAKForCXRClassification:
    sizes: dict[str, Any] = {name: getattr(size, name) for name in ("image_size", "patch_size", "num_channels")}
    normalisation: dict[str, Any] = {"image_mean": processor.image_mean, "image_std": processor.image_std}
    if not processor.do_normalize:
        normalisation = {"image_mean": [0.0], "image_std": [1.0]}
    remedy = "Name a pretrained ViT, DeiT or DINOv2 checkpoint; a trained MLCAK model is named with --model."
    with loading(backbone, "backbone", remedy):
        return MLCAKForCXRClassification.from_backbone(backbone, **sizes, **normalisation, **labels)


def _fit_head(
    model: MLCAKForCXRClassification, head: nn.Linear | None, trained: Sequence[str], wanted: Sequence[str]
) -> None:
    """Put the rows of a trained head in the order of the wanted labels, or start it anew where these are others."""
    if head is None or list(trained) == list(wanted):
        return
    if sorted(trained) == sorted(wanted):
        order = [list(trained).index(name) for name in wanted]
        head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]
        return
    logger.warning(f"A head was trained for {list(trained)} and starts anew for {list(wanted)}.")
    # A new layer, because transformers leaves parameters alone that it has loaded.
    fresh = nn.Linear(head.in_features, head.out_features)
    model._init_weights(fresh)  # type: ignore[no-untyped-call]
    head.load_state_dict(fresh.state_dict())


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
