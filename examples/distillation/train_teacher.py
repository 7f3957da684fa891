"""Train a teacher (or any single model) on the global label and the local findings of chest X-rays.

    accelerate launch examples/distillation/train_teacher.py --config teacher --dataset vindr-256 \
        --output_dir runs/teacher

--config names a recipe in hub_configs/recipes or a YAML file; every entry can be given on the command line too, which
wins: all of transformers' TrainingArguments, and what follows below. --model names a size in hub_configs/models or a
model trained before; --backbone starts from a pretrained ViT, DeiT or DINOv2 checkpoint, resized to that size. The
dataset is what `mlcak prepare` wrote, or any other with a column of images and of labels:

    accelerate launch examples/distillation/train_teacher.py --config teacher --dataset kermany.parquet \
        --findings_column none --group_column patient_id --output_dir runs/kermany-teacher

Two processes on a machine without accelerator: accelerate launch --multi_gpu --num_processes 2 ...
Written to --output_dir: the model, its image processor, training.json (choices, counts, log) and curves.png.
"""

from dataclasses import dataclass, field
from pathlib import Path

import transformers
from transformers import set_seed

from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.sources import RadiographDataset
from mlcak_hf.data.training_data import DataArguments, open_training_data
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.evaluation.metrics import make_compute_metrics
from mlcak_hf.script import parse_recipe, run_script
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.checks import check_targets
from mlcak_hf.training.models import ModelArguments, build_model, model_processor
from mlcak_hf.training.setup import save_trained
from mlcak_hf.training.trainer import MLCAKTrainer


@dataclass
class TeacherArguments(ModelArguments):
    """Which teacher."""

    model: str = field(default="teacher-vit-b16-224", metadata={"help": "Size in hub_configs/models, or a model."})


def main() -> None:
    """Parse, train, evaluate, save."""
    kinds = [TeacherArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]
    model_args, data_args, views, args = parse_recipe(kinds)
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)

    with args.main_process_first(desc="opening the dataset"):
        data = open_training_data(data_args)
    model = build_model(model_args, data.labels)
    processor = data.processor(model.config.image_size, model_processor(model_args.model))

    def check(train: RadiographDataset, validation: RadiographDataset) -> None:
        check_targets(args, model.config, train, validation, make_compute_metrics)

    with args.main_process_first(desc="decoding the images"):
        train, validation = data.radiographs(model.config, processor, data_args, check)

    trainer = MLCAKTrainer(
        model=model,
        args=args,
        data_collator=MLCAKCollator(processor, views=views if data_args.augment else None, seed=args.seed),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
        compute_metrics=make_compute_metrics(model.config),
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    save_trained(trainer, model_args, data_args, data, script=Path(__file__).stem)
    if trainer.is_world_process_zero():
        print(f"Model, image processor and training.json: {args.output_dir}")


if __name__ == "__main__":
    run_script(main)
