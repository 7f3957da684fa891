"""Build the cache of what a teacher knows, and train nothing: the first part of a cached distil_student.py.

    accelerate launch examples/distillation/cache_teacher.py --config student --dataset vindr-256 \
        --teacher runs/teacher \
        --teacher_cache runs/teacher-cache --cache_views 4

Takes the arguments of distil_student.py (views, seed, the student's grid of patches and levels decide what is kept), so
that the same line with the other script's name trains from it; so do other students with the same grid, levels,
aggregation and seed, without the teacher. Several processes share the work:

    accelerate launch --multi_gpu --num_processes 4 examples/distillation/cache_teacher.py ...

Stopped or killed, the same line goes on. --per_device_train_batch_size images are shown to the teacher at once, made by
--dataloader_num_workers processes; --bf16 runs it in mixed precision.
"""

import transformers
from transformers import set_seed

from mlcak_hf.data.training_data import DataArguments
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.errors import RecipeError
from mlcak_hf.script import parse_recipe, run_script
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.setup import StudentArguments, open_teacher_cache, set_up_student


def main() -> None:
    """Parse, build."""
    model_args, data_args, views, args = parse_recipe(
        [StudentArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]
    )
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)
    if model_args.teacher is None or model_args.teacher_cache is None or not args.distils:
        raise RecipeError(
            "--teacher and --teacher_cache are needed, and a recipe that distils (alpha, beta or gamma > 0)."
        )

    cache = open_teacher_cache(set_up_student(model_args, data_args, views, args), model_args, args)
    assert cache is not None
    if args.process_index == 0:
        print(
            f"{cache.num_views} views of {cache.num_images} images, {cache.num_bytes / 1e6:.1f} MB: "
            f"{model_args.teacher_cache}"
        )


if __name__ == "__main__":
    run_script(main)
