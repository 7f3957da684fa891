"""Distil a teacher into a low-resolution student, or train the same student without one.

    accelerate launch -q examples/distillation/distil_student.py --config student --dataset vindr-256 \
        --teacher runs/teacher \
        --output_dir runs/student-mlcak
    accelerate launch -q examples/distillation/distil_student.py --config student --dataset vindr-256 \
        --alpha 0 --beta 0 --gamma 0 --output_dir runs/student-plain

Online, the teacher runs in every step. With --teacher_cache FOLDER it runs once: its outputs for --cache_views V seeded
views of every image are stored first (or the rest of them, after an interruption), and epoch e trains on view e modulo
V:

    accelerate launch -q examples/distillation/distil_student.py --config student --dataset vindr-256 \
        --teacher runs/teacher \
        --teacher_cache runs/teacher-cache --cache_views 4 --output_dir runs/student-mlcak

--config names a recipe in hub_configs/recipes or a YAML file. Every entry can be given on the command line too, which
wins: transformers' TrainingArguments, the weights of the losses (alpha: local logits, beta: global logits, gamma:
attention) and their kinds, and the options that --help lists. With all three weights 0 the student is plain and needs
no --teacher. Labels and findings are those of the teacher (--teacher A B: the mean of both teaches, the labels are
those of A; of a CNN and a teacher with attention, the CNN gives the logits); `--findings none` leaves only the global
task. For images without labels: `--label_column none --findings_column none --load_best_model_at_end false
--metric_for_best_model eval_loss`. Runs with the same --seed share initial weights, order of images and views.

Two processes on a machine without accelerator: accelerate launch --multi_gpu --num_processes 2 ...
Writes to --output_dir: the model, its image processor, training.json (options, counts, log), training_images.json
(salted hashes, never uploaded) and curves.png.
"""

from mlcak_hf.data.training_data import DataArguments
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.evaluation.metrics import make_compute_metrics
from mlcak_hf.script import parse_recipe, run_script
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.setup import StudentArguments, open_teacher_cache, save_trained, set_up_training
from mlcak_hf.training.trainer import MLCAKTrainer


def main() -> None:
    """Parse, build the cache if one is requested, train, evaluate, save."""
    model_args, data_args, views, args = parse_recipe(
        [StudentArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]
    )
    student = set_up_training(model_args, data_args, views, args, make_compute_metrics)
    trainer = MLCAKTrainer(
        model=student.model,
        teacher=student.teachers,
        teacher_cache=open_teacher_cache(student, model_args, args),
        args=args,
        data_collator=student.collator,
        train_dataset=student.train,
        eval_dataset=student.validation,
        processing_class=student.processor,
        compute_metrics=make_compute_metrics(student.model.config),
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    save_trained(trainer, model_args, data_args, student.data)


if __name__ == "__main__":
    run_script(main)
