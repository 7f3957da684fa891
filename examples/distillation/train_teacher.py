"""Train a teacher (or any single model) on the global label and the local findings of chest X-rays.

    accelerate launch -q examples/distillation/train_teacher.py --config teacher --dataset vindr-256 \
        --output_dir runs/teacher

--config names a recipe in hub_configs/recipes or a YAML file. Every entry can be given on the command line too, which
wins: transformers' TrainingArguments, and the options that --help lists. --model names a size in hub_configs/models or
a trained model (teacher-resnet-112 is a CNN); --backbone starts from a pretrained ViT, DeiT or DINOv2 checkpoint,
resized to that size. The dataset is what `mlcak prepare` wrote, or any other with a column of images and of labels:

    accelerate launch -q examples/distillation/train_teacher.py --config teacher --dataset kermany.parquet \
        --findings_column none --group_column patient_id --output_dir runs/kermany-teacher

Two processes on a machine without accelerator: accelerate launch --multi_gpu --num_processes 2 ...
Writes to --output_dir: the model, its image processor, training.json (options, counts, log), training_images.json
(salted hashes, never uploaded) and curves.png.
"""

from dataclasses import dataclass, field

from mlcak_hf.data.training_data import DataArguments
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.evaluation.metrics import make_compute_metrics
from mlcak_hf.script import parse_recipe, run_script
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.models import ModelArguments
from mlcak_hf.training.setup import save_trained, set_up_training
from mlcak_hf.training.trainer import MLCAKTrainer


@dataclass
class TeacherArguments(ModelArguments):
    """Which teacher to train."""

    model: str = field(default="teacher-vit-b16-224", metadata={"help": "Size in hub_configs/models, or a model."})


def main() -> None:
    """Parse, train, evaluate, save."""
    model_args, data_args, views, args = parse_recipe(
        [TeacherArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]
    )
    teacher = set_up_training(model_args, data_args, views, args, make_compute_metrics)
    trainer = MLCAKTrainer(
        model=teacher.model,
        args=args,
        data_collator=teacher.collator,
        train_dataset=teacher.train,
        eval_dataset=teacher.validation,
        processing_class=teacher.processor,
        compute_metrics=make_compute_metrics(teacher.model.config),
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    save_trained(trainer, model_args, data_args, teacher.data)


if __name__ == "__main__":
    run_script(main)
