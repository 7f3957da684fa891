"""Distil a teacher into a low-resolution student, or train the same student without one.

    accelerate launch examples/distillation/distil_student.py --config student --dataset vindr-256 \
        --teacher runs/teacher \
        --output_dir runs/student-mlcak
    accelerate launch examples/distillation/distil_student.py --config student --dataset vindr-256 \
        --alpha 0 --beta 0 --gamma 0 --output_dir runs/student-plain

Online, the teacher runs in every step. With --teacher_cache FOLDER it runs once: what it knows of --cache_views V
seeded views of every image is built first (or gone on with, or taken as it is), and epoch e trains on view e modulo V:

    accelerate launch examples/distillation/distil_student.py --config student --dataset vindr-256 \
        --teacher runs/teacher \
        --teacher_cache runs/teacher-cache --cache_views 4 --output_dir runs/student-mlcak

--config names a recipe in hub_configs/recipes or a YAML file; every entry can be given on the command line too, which
wins: all of transformers' TrainingArguments, the weights alpha (local logits), beta (global logits), gamma (attention)
and kinds of the losses, and what follows below. With all three weights 0 the student is plain and needs no --teacher.
Labels and findings are the teacher's (--teacher A B: the mean of both teaches, the labels are A's); `--findings none`
leaves the student the global task only. A teacher can teach on images without labels: `--label_column none
--findings_column none --load_best_model_at_end false --metric_for_best_model eval_loss`. Rows of a comparison share
--seed: the same initial weights, order of images and views.

Two processes on a machine without accelerator: accelerate launch --multi_gpu --num_processes 2 ...
Written to --output_dir: the model, its image processor, training.json (choices, counts, log) and curves.png.
"""

from pathlib import Path

import transformers
from transformers import set_seed

from mlcak_hf.data.training_data import DataArguments
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.evaluation.metrics import make_compute_metrics
from mlcak_hf.script import parse_recipe, run_script
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.setup import StudentArguments, open_teacher_cache, save_trained, set_up_student
from mlcak_hf.training.trainer import MLCAKTrainer


def main() -> None:
    """Parse, build the cache if there is one to build, train, evaluate, save."""
    model_args, data_args, views, args = parse_recipe(
        [StudentArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]
    )
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)

    student = set_up_student(model_args, data_args, views, args, make_compute_metrics)
    trainer = MLCAKTrainer(
        model=student.model,
        teacher=model_args.teacher,
        teacher_cache=open_teacher_cache(student, model_args, args),
        args=args,
        data_collator=student.collator,
        train_dataset=student.train,
        eval_dataset=student.validation,
        processing_class=student.processor,
        compute_metrics=make_compute_metrics(student.model.config),
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    save_trained(trainer, model_args, data_args, student.data, script=Path(__file__).stem)
    if trainer.is_world_process_zero():
        print(f"Model, image processor and training.json: {args.output_dir}")


if __name__ == "__main__":
    run_script(main)
