"""Build a teacher cache without training: the first part of distil_student.py with --teacher_cache.

    accelerate launch -q examples/distillation/cache_teacher.py --config student --dataset vindr-256 \
        --teacher runs/teacher \
        --teacher_cache runs/teacher-cache --cache_views 4

Takes the options of distil_student.py, because views, seed, and the student's grid of patches and levels decide what is
stored. The same options then train from the cache; so do other students with the same grid, levels, aggregation and
seed, without the teacher. Several processes share the work:

    accelerate launch --multi_gpu --num_processes 4 examples/distillation/cache_teacher.py ...

After an interruption, the same command resumes. The teacher gets --per_device_train_batch_size images at once, made by
--dataloader_num_workers processes; --bf16 runs it in mixed precision.
"""

from mlcak_hf.data.training_data import DataArguments
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.errors import RecipeError
from mlcak_hf.script import parse_recipe, run_script
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.setup import StudentArguments, open_teacher_cache, set_up_training


def main() -> None:
    """Parse, build."""
    model_args, data_args, views, args = parse_recipe(
        [StudentArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]
    )
    if model_args.teacher is None or model_args.teacher_cache is None or not args.distils:
        raise RecipeError(
            "--teacher and --teacher_cache must be given, with a recipe that distils (alpha, beta or gamma above 0)."
        )
    cache = open_teacher_cache(set_up_training(model_args, data_args, views, args), model_args, args)
    assert cache is not None
    if args.process_index == 0:
        print(
            f"{cache.num_views} views of {cache.num_images} images, {cache.num_bytes / 1e6:.1f} MB: "
            f"{model_args.teacher_cache}"
        )


if __name__ == "__main__":
    run_script(main)
