"""Distil a teacher into a low-resolution student, or train the same student without one.

    accelerate launch examples/distil_student.py --config student-28 --dataset vindr-256 --teacher runs/teacher \
        --output_dir runs/student-mlcak
    accelerate launch examples/distil_student.py --config student-plain-28 --dataset vindr-256 \
        --output_dir runs/student-plain

--config names a recipe in hub_configs/recipes or a YAML file; every entry can be given on the command line too, which
wins: all of transformers' TrainingArguments, the weights alpha (local logits), beta (global logits), gamma (attention)
and kinds of the losses, and what follows below. With all three weights 0 the student is plain and needs no --teacher.
Labels and findings are the teacher's; `--findings none` leaves the student the global task only. Rows of a comparison
share --seed: the same initial weights, order of images and views.

Two processes on a machine without accelerator: accelerate launch --multi_gpu --num_processes 2 ...
Written to --output_dir: the model, its image processor, and training.json (choices, counts, log).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from transformers import set_seed

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.columns import Targets
from mlcak_hf.data.sources import RadiographDataset, describe_targets
from mlcak_hf.data.training_data import DataArguments, open_training_data
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.distillation import MLCAKTrainer, MLCAKTrainingArguments, load_teacher
from mlcak_hf.errors import MLCAKError, RecipeError
from mlcak_hf.evaluation import make_compute_metrics
from mlcak_hf.recipes import parse_recipe, resolve_model


@dataclass
class ModelArguments:
    """Which model."""

    model: str = field(default="student-vit-ti4-28", metadata={"help": "Size in hub_configs/models, or trained model."})
    teacher: str | None = field(default=None, metadata={"help": "What train_teacher.py wrote, or a Hub id."})
    backbone: str | None = field(default=None, metadata={"help": "Pretrained ViT, DeiT or DINOv2: folder or Hub id."})
    local_loss_weight: float = field(default=1.0, metadata={"help": "Weight (lambda) of the local findings' loss."})


def build_model(arguments: ModelArguments, labels: dict) -> MLCAKForCXRClassification:
    """Make a model of the named size for these labels: from scratch, from a backbone, or from a trained one."""
    folder = resolve_model(arguments.model)
    config = MLCAKConfig.from_pretrained(folder)
    labels = labels | {"local_loss_weight": arguments.local_loss_weight}
    if arguments.backbone is not None:
        sizes = {name: getattr(config, name) for name in ("image_size", "patch_size", "num_channels")}
        return MLCAKForCXRClassification.from_backbone(arguments.backbone, **sizes, **labels)
    config = MLCAKConfig(backbone_config=config.backbone_config, attention_levels=config.attention_levels, **labels)
    if Path(folder).is_dir() and not any(Path(folder).glob("*.safetensors")):
        return MLCAKForCXRClassification(config)
    return MLCAKForCXRClassification.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)


def main() -> None:
    """Parse, train, evaluate, save."""
    kinds = [ModelArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]
    model_args, data_args, views, args = parse_recipe(kinds)
    if args.distils and model_args.teacher is None:
        raise RecipeError("--teacher is missing. A plain student has alpha, beta and gamma 0, as in student-plain-28.")
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)

    with args.main_process_first(desc="opening the dataset"):
        data = open_training_data(data_args)
    labels, teacher, teacher_processor = data.labels, None, None
    if args.distils:
        teacher = load_teacher(model_args.teacher)
        teacher_processor = MLCAKImageProcessor.from_pretrained(model_args.teacher)
        labels = {name: getattr(teacher.config, name) for name in labels}
        if data_args.findings is not None:
            labels["local_labels"] = data.labels["local_labels"]
    # Again, so that the student starts from the same weights whether or not a teacher was loaded before it.
    set_seed(args.seed)
    model = build_model(model_args, labels)
    processor = MLCAKImageProcessor.from_pretrained(resolve_model(model_args.model))
    processor = data.processor(model.config.image_size, processor)
    targets = Targets(model.config, data.train, data.columns)
    train, validation = RadiographDataset(data.train, targets), RadiographDataset(data.validation, targets)

    trainer = MLCAKTrainer(
        model=model,
        teacher=teacher,
        args=args,
        data_collator=MLCAKCollator(processor, teacher_processor, views if data_args.augment else None, args.seed),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
        compute_metrics=make_compute_metrics(model.config),
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        record = {
            "script": Path(__file__).stem,
            "model": {name: _public(value) for name, value in vars(model_args).items()},
            "data": {name: _public(value) for name, value in vars(data_args).items()}
            | {"preparation": data.preparation},
            "views": vars(views) if data_args.augment else None,
            "arguments": {name: value for name, value in args.to_sanitized_dict().items() if "dir" not in name},
            "train": describe_targets(train, model.config),
            "validation": describe_targets(validation, model.config) | {"metrics": metrics},
            "best_metric": trainer.state.best_metric,
            "epochs": trainer.state.epoch,
            "steps": trainer.state.global_step,
            "log": trainer.state.log_history,
        }
        Path(args.output_dir, "training.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        print(f"Model, image processor and training.json: {args.output_dir}")


def _public(value: object) -> object:
    """The folder may be published: of a local path, only the last part is kept."""
    return Path(value).name if isinstance(value, str) and Path(value).exists() else value


if __name__ == "__main__":
    try:
        main()
    except MLCAKError as error:
        raise SystemExit(f"error: {error}") from None
