"""What the training scripts share: which model to start from, whose student it is, and how it was trained."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from .configuration_mlcak import MLCAKConfig
from .data.collator import MLCAKCollator
from .data.sources import RadiographDataset, describe_targets
from .data.training_data import DataArguments, TrainingData, open_training_data
from .data.views import ViewParameters
from .distillation import (
    MLCAKTrainer,
    MLCAKTrainingArguments,
    TeacherCache,
    build_teacher_cache,
    cached_views,
    load_teacher_config,
)
from .errors import RecipeError
from .image_processing_mlcak import MLCAKImageProcessor
from .modeling_mlcak import MLCAKForCXRClassification
from .recipes import resolve_model
from .training_curves import draw_training_curves

#: Beside the weights of a model that was trained with the scripts.
TRAINING_FILE = "training.json"
CURVES_FILE = "curves.png"


@dataclass
class ModelArguments:
    """Which model to train, and what to start it from.

    Args:
        model: a size in hub_configs/models, or the folder or Hub id of a trained model.
        backbone: a pretrained ViT, DeiT or DINOv2 checkpoint (folder or Hub id), resized to that size; None starts
            from random weights, or from those of `model` if it has any.
        local_loss_weight: weight (lambda) of the local findings' loss.
    """

    model: str = field(metadata={"help": "Size in hub_configs/models, or a trained model."})
    backbone: str | None = field(default=None, metadata={"help": "Pretrained ViT, DeiT or DINOv2: folder or Hub id."})
    local_loss_weight: float = field(default=1.0, metadata={"help": "Weight (lambda) of the local findings' loss."})


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
    model_args: StudentArguments, data_args: DataArguments, views: ViewParameters, args: MLCAKTrainingArguments
) -> StudentSetup:
    """Open the dataset and make the student, with the labels of its teacher. No teacher is loaded.

    Args:
        model_args, data_args, views, args: what was asked for.

    Returns:
        What the training, or the building of its teacher cache, starts from.

    Raises:
        RecipeError: if neither a teacher nor a cache is named though one is needed.
        MLCAKError: if the dataset cannot be used.
    """
    if args.distils and model_args.teacher is None and model_args.teacher_cache is None:
        raise RecipeError("--teacher is missing. A plain student has alpha, beta and gamma 0, as in student-plain-28.")
    with args.main_process_first(desc="opening the dataset"):
        data = open_training_data(data_args)
    labels, teacher_processors = data.labels, None
    if args.distils:
        if model_args.teacher is None:
            taught: Any = TeacherCache(str(model_args.teacher_cache), verify=False).teachers[0]
        else:
            taught = load_teacher_config(model_args.teacher[0])
            teacher_processors = [MLCAKImageProcessor.from_pretrained(teacher) for teacher in model_args.teacher]
        labels = {name: getattr(taught, name) for name in labels}
        if data_args.findings is not None:
            labels["local_labels"] = data.labels["local_labels"]
    # Students of one seed start from the same weights, whatever was loaded before.
    set_seed(args.seed)
    model = build_model(model_args, labels)
    processor = MLCAKImageProcessor.from_pretrained(resolve_model(model_args.model))
    processor = data.processor(model.config.image_size, processor)
    collator = MLCAKCollator(processor, teacher_processors, views if data_args.augment else None, args.seed)
    config: Any = model.config
    with args.main_process_first(desc="decoding the images"):
        train, validation = data.radiographs(config, processor, data_args)
    return StudentSetup(model, processor, collator, train, validation, data)


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
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    return build_teacher_cache(
        folder,
        model_args.teacher,
        setup.model,
        setup.train,
        setup.collator,
        num_views=num_views,
        student_levels=args.student_levels,
        attention=args.gamma > 0,
        aggregation=args.attention_aggregation,
        batch_size=args.per_device_train_batch_size,
        num_workers=args.dataloader_num_workers,
        autocast=half,
        progress_bar=not args.disable_tqdm,
    )


def build_model(arguments: ModelArguments, labels: dict[str, Any]) -> MLCAKForCXRClassification:
    """Make a model for these labels: of a size from scratch, from a pretrained backbone, or from a trained model.

    Args:
        arguments: which.
        labels: `id2label`, `local_labels` and `problem_type`, as `TrainingData.labels` has them.

    Returns:
        The model. Heads of a trained model that are for other numbers of labels start anew.

    Raises:
        RecipeError: if there is no such model.
        ValueError: if the backbone is of no known family.
    """
    folder = resolve_model(arguments.model)
    config = MLCAKConfig.from_pretrained(folder)
    labels = labels | {"local_loss_weight": arguments.local_loss_weight}
    if arguments.backbone is not None:
        sizes: dict[str, Any] = {name: getattr(config, name) for name in ("image_size", "patch_size", "num_channels")}
        return MLCAKForCXRClassification.from_backbone(arguments.backbone, **sizes, **labels)
    config = MLCAKConfig(backbone_config=config.backbone_config, attention_levels=config.attention_levels, **labels)
    if Path(folder).is_dir() and not any(Path(folder).glob("*.safetensors")):
        return MLCAKForCXRClassification(config)
    model: MLCAKForCXRClassification = MLCAKForCXRClassification.from_pretrained(
        folder, config=config, ignore_mismatched_sizes=True
    )
    return model


def save_trained(
    trainer: MLCAKTrainer, model_args: ModelArguments, data_args: DataArguments, data: TrainingData, script: str
) -> None:
    """Evaluate and save a trained model with its image processor, `training.json` (the record for its card) and curves.

    The folder may be published: of local paths, the record keeps only the last part.

    Args:
        trainer: after `train()`.
        model_args, data_args: what was asked for.
        data: what it was trained on.
        script: name of the script, for the record.
    """
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return
    collator, config = trainer.data_collator, trainer.model.config
    views = getattr(collator, "views", None)
    train, validation = trainer.train_dataset, trainer.eval_dataset
    assert isinstance(train, RadiographDataset)
    assert isinstance(validation, RadiographDataset)
    record = {
        "script": script,
        "model": {name: _without_folders(value) for name, value in asdict(model_args).items()},
        "data": asdict(data_args) | {"dataset": Path(data_args.dataset).name, "preparation": data.preparation},
        "views": None if views is None else asdict(views),
        "arguments": {name: value for name, value in trainer.args.to_sanitized_dict().items() if "dir" not in name},
        "train": describe_targets(train, config),
        "validation": describe_targets(validation, config) | {"metrics": metrics},
        "best_metric": trainer.state.best_metric,
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "log": trainer.state.log_history,
    }
    folder = Path(str(trainer.args.output_dir))
    (folder / TRAINING_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
    draw_training_curves(trainer.state.log_history, folder / CURVES_FILE, title=folder.name)


def _without_folders(value: Any) -> Any:
    """The last part of a local path (of several, one after the other); a Hub id, a size or a number as it is."""
    if isinstance(value, list):
        return ", ".join(str(_without_folders(entry)) for entry in value)
    return Path(value).name if isinstance(value, str) and (Path(value).is_absolute() or Path(value).exists()) else value
