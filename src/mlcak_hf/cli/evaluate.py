"""`mlcak evaluate`, `mlcak compare` and `mlcak check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Context, Exit, Option


def evaluate(
    model: Annotated[str, Argument(help="Folder or Hub id of a trained model.")],
    data: Annotated[str, Argument(help="Folder of a prepared dataset, a Parquet, CSV or JSON file, or a Hub id.")],
    output: Annotated[Path, Option(help="Folder for report.html and evaluation.json.")],
    split: Annotated[
        str | None,
        Option(help="Split to evaluate. By default `test`, or a single file whole if it was not trained on."),
    ] = None,
    label_column: Annotated[
        str | None,
        Option("--label_column", "--label-column", help="Column of the global label. By default as in training."),
    ] = None,
    findings_column: Annotated[
        str | None,
        Option(
            "--findings_column", "--findings-column", help="Column of findings, or `none`. By default as in training."
        ),
    ] = None,
    group_column: Annotated[
        str | None,
        Option(
            "--group_column",
            "--group-column",
            help="Column of patients. By default as in training, or `group` if there is one.",
        ),
    ] = None,
    image_column: Annotated[str, Option("--image_column", "--image-column", help="Column of images.")] = "image",
    image_id_column: Annotated[
        str | None,
        Option("--image_id_column", "--image-id-column", help="Column of image ids. By default `image_id`, if there."),
    ] = None,
    rename_label: Annotated[
        list[str] | None,
        Option(
            "--rename_label",
            "--rename-label",
            metavar="NAME=LABEL",
            help="A name in the label column that the model calls LABEL.",
        ),
    ] = None,
    subgroup: Annotated[list[str] | None, Option(help="Column to divide the images by. May be repeated.")] = None,
    prevalence: Annotated[
        float | None, Option(help="Prevalence for PPV, NPV and net benefit. By default that of the images.")
    ] = None,
    explanations: Annotated[
        Path | None, Option(help="explanations.json of measure_explanations.py for this model, to show in the report.")
    ] = None,
    no_images: Annotated[bool, Option("--no-images", help="No pictures of radiographs in the report.")] = False,
    require: Annotated[
        list[str] | None, Option(help="Such as 'auroc_global>=0.9'. Exit status 1 if it is not met. May be repeated.")
    ] = None,
    robustness_images: Annotated[
        int,
        Option(
            "--robustness_images", "--robustness-images", help="Images that are perturbed, at most; 0 for none.", min=0
        ),
    ] = 500,
    batch_size: Annotated[int, Option("--batch_size", "--batch-size", help="Images per forward pass.", min=1)] = 32,
    num_workers: Annotated[
        int, Option("--num_workers", "--num-workers", help="Processes that decode images.", min=0)
    ] = 0,
    bootstrap_draws: Annotated[
        int, Option("--bootstrap_draws", "--bootstrap-draws", help="Bootstrap draws of the intervals.")
    ] = 2000,
    seed: Annotated[int, Option(help="Seed of the draws.")] = 0,
) -> None:
    """Evaluate one model on one dataset: a report of one HTML file, and its numbers as JSON.

    Exit code 1 if a requirement is not met.
    """
    import datasets
    from rich.console import Console
    from transformers.utils import logging

    from ..evaluation.arguments import EvaluationArguments
    from ..evaluation.evidence.evaluate import EvidenceOptions, evaluate_evidence
    from ..evaluation.evidence.requirements import failed_requirements
    from ..evaluation.report.html_page import write_evidence
    from ..evaluation.report.verdict import judge

    console = Console()
    if not console.is_terminal:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        datasets.disable_progress_bars()
    options = EvidenceOptions(
        subgroups=subgroup or (),
        prevalence=prevalence,
        renamed=rename_label or (),
        requirements=require or (),
        shifted_images=robustness_images,
        pictures=not no_images,
        explanations=explanations,
    )
    arguments = EvaluationArguments(
        dataset=data,
        models=[],
        output=str(output),
        image_column=image_column,
        image_id_column=image_id_column,
        group_column=group_column,
        split=split or "",
        batch_size=batch_size,
        num_workers=num_workers,
        bootstrap_draws=bootstrap_draws,
        seed=seed,
        label_column=label_column,  # type: ignore[arg-type]
        findings_column=findings_column,  # type: ignore[arg-type]
    )
    evidence, pictures = evaluate_evidence(model, arguments, options)
    written = write_evidence(evidence, output, pictures)
    verdict = judge(evidence)
    lines = [verdict.sentence, *(f"- {reason}" for reason in verdict.reasons)]
    if evidence.row.trained_on[0] is None:
        lines.append("It is not known on which images this model was trained. If on these, all numbers are too good.")
    if verdict.open_questions:
        lines += ["These images cannot answer:", *(f"- {question}" for question in verdict.open_questions)]
    lines += [f"Written: {', '.join(map(str, written))}", "Research use only: not a medical device, not for diagnosis."]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    failed = failed_requirements(options.parsed, evidence)
    for reason in failed:
        Console(stderr=True).print(f"Requirement {reason}", highlight=False, markup=False, soft_wrap=True)
    if failed:
        raise Exit(1)


def compare_models(context: Context) -> None:
    """Compare several models on the same images, with intervals and paired differences.

    On several GPUs or machines, start examples/evaluation/evaluate_models.py with accelerate launch: it is the same.
    """
    from ..evaluation.arguments import EvaluationArguments
    from ..evaluation.report.tables import print_comparison
    from ..evaluation.run import run_evaluation
    from ..script import parse_recipe, run_script

    (arguments,) = parse_recipe([EvaluationArguments], context.args, "mlcak compare")
    comparison = run_script(lambda: run_evaluation(arguments))
    if comparison is not None:
        print_comparison(comparison, arguments.output)


def check(
    model: Annotated[str, Argument(help="Folder of a trained model, or its Hub id with --self-check.")],
    self_check: Annotated[
        Path | None, Option(help="self_check.json or evaluation.json. By default self_check.json beside the weights.")
    ] = None,
) -> None:
    """Check that a model gives the probabilities that it gave when it was evaluated, for a phantom drawn from a seed.

    Needs no data. Exit code 1 if it does not.
    """
    from rich.console import Console

    from ..evaluation.evidence.self_check import SelfCheck
    from ..pretrained import load_model, load_processor
    from ..shipped import resolve_checkpoint
    from ..weights import weights_digest

    model = resolve_checkpoint(model)
    expected = SelfCheck.load(self_check or model)
    network = load_model(model)
    processor = load_processor(model, network.config)
    found = SelfCheck.of_model(network, processor, weights_digest(model), expected.seed)
    differing, console = expected.differences(found), Console()
    for line in differing:
        Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)
    if differing:
        raise Exit(1)
    same = "the same weights" if found.weights == expected.weights else "other weight files, but the same output"
    console.print(f"{model}: {len(expected.probabilities)} probabilities as they must be ({same}).", highlight=False)
