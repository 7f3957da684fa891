"""`mlcak compare` on several GPUs or machines: table, JSON, figure, and which differences are beyond noise.

    accelerate launch -q examples/evaluation/evaluate_models.py --dataset vindr-256 --output runs/comparison \
        --models teacher=runs/teacher student-plain=runs/student-plain student-mlcak=runs/student-mlcak

Runs (seeds) of one row share a name: `student=runs/student-0 student=runs/student-1`. The first run of a row is paired
with the first of every other, and so on. `--lowres 28` adds a row for every model with a larger input, with images
reduced to 28 px and enlarged again ("teacher fed 28 px"); `--lowres teacher=28` does so for one row.

The dataset is what `mlcak prepare` wrote, or any other that training accepts. Columns and validation rows are those of
the models' training, unless options name others. Operating thresholds are chosen on the validation split. If the
dataset has boxes, attention is compared with them. --output receives comparison.json, comparison.md, comparison.png,
and predictions/*.npz, one file per model.
"""

from __future__ import annotations

from mlcak_hf.evaluation.arguments import EvaluationArguments
from mlcak_hf.evaluation.report.tables import print_comparison
from mlcak_hf.evaluation.run import run_evaluation
from mlcak_hf.script import parse_recipe, run_script


def main() -> None:
    """Parse, evaluate, compare, write and print."""
    (args,) = parse_recipe([EvaluationArguments])
    comparison = run_evaluation(args)
    if comparison is not None:
        print_comparison(comparison, args.output)


if __name__ == "__main__":
    run_script(main)
