"""Measure the explanation maps of trained models against boxes and against three baselines: tables and JSON.

    python examples/explanation/measure_explanations.py --dataset vindr-256 --output runs/explanations \
        --models student=runs/student-mlcak

Each map of a finding is compared with the boxes of that finding, and with what random maps, the mean map of training
images and the maps of random weights score. Models with the same name are folds (`--split fold`) and are pooled.
--output receives explanations.json, explanations.md, and one file of measurements per model: an interrupted command
resumes with the models that are missing.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mlcak_hf.evaluation.arguments import models_to_evaluate
from mlcak_hf.evaluation.explanations.map_statistics import report_maps
from mlcak_hf.evaluation.explanations.map_tables import write_explanations
from mlcak_hf.evaluation.explanations.measure_maps import ExplanationArguments, measure_maps
from mlcak_hf.script import parse_recipe, run_script


def main() -> None:
    """Parse, measure, write and print."""
    (args,) = parse_recipe([ExplanationArguments])
    measured = [measure_maps(model, args) for model in models_to_evaluate(args.models, args.lowres)]
    context = {"dataset": Path(args.dataset).name, "split": args.split}
    explanations = report_maps(measured, args.bootstrap_draws, args.seed, context)
    written = write_explanations(explanations, args.output)
    lines = [line for report in explanations.reports for line in ("", f"{report.model}:", *report.statements())]
    lines += ["", f"Written: {', '.join(map(str, written))}"]
    Console().print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_script(main)
