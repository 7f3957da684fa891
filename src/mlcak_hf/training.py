"""What the training scripts share: which model to start from, and the record of how it was trained."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .configuration_mlcak import MLCAKConfig
from .data.collator import MLCAKCollator
from .data.sources import RadiographDataset, describe_targets
from .data.training_data import DataArguments, TrainingData
from .distillation import MLCAKTrainer
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
    views = collator.views if isinstance(collator, MLCAKCollator) else None
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
    """The last part of a local path; a Hub id, a size or a number as it is."""
    return Path(value).name if isinstance(value, str) and (Path(value).is_absolute() or Path(value).exists()) else value
