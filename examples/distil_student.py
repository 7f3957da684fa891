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

from dataclasses import dataclass, field
from pathlib import Path

import transformers
from transformers import set_seed

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.training_data import DataArguments, open_training_data
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.distillation import MLCAKTrainer, MLCAKTrainingArguments, load_teacher
from mlcak_hf.errors import MLCAKError, RecipeError
from mlcak_hf.evaluation import make_compute_metrics
from mlcak_hf.recipes import parse_recipe, resolve_model
from mlcak_hf.training import ModelArguments, build_model, save_trained


@dataclass
class StudentArguments(ModelArguments):
    """Which student, and whose."""

    model: str = field(default="student-vit-ti4-28", metadata={"help": "Size in hub_configs/models, or trained model."})
    teacher: str | None = field(default=None, metadata={"help": "What train_teacher.py wrote, or a Hub id."})


def main() -> None:
    """Parse, train, evaluate, save."""
    kinds = [StudentArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]
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
    with args.main_process_first(desc="decoding the images"):
        train, validation = data.radiographs(model.config, processor, data_args)

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
    save_trained(trainer, model_args, data_args, data, script=Path(__file__).stem)
    if trainer.is_world_process_zero():
        print(f"Model, image processor and training.json: {args.output_dir}")


if __name__ == "__main__":
    try:
        main()
    except MLCAKError as error:
        raise SystemExit(f"error: {error}") from None
