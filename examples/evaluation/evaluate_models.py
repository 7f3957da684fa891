"""Compare trained models on one split: table, JSON, figure, and which differences are within noise.

    accelerate launch examples/evaluation/evaluate_models.py --dataset vindr-256 --output runs/comparison \
        --models teacher=runs/teacher student-plain=runs/student-plain student-mlcak=runs/student-mlcak

Several runs of one row (seeds) share a name: `student=runs/student-0 student=runs/student-1`. The first run of a row is
paired with the first of every other, and so on. `--lowres 28` adds, for every model with a larger input, a row that is
fed 28 px images, enlarged to its size ("teacher fed 28 px"); `--lowres teacher=28` does so for one row.

The dataset is what `mlcak prepare` wrote, or any other that training took (same column options). Operating thresholds
are chosen on the validation split. Where the dataset has boxes, attention is measured against them. Written to
--output: comparison.json, comparison.md, comparison.png, and predictions/*.npz, one file per model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict
from rich.console import Console
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mlcak_hf import MLCAKConfig, MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.columns import DatasetColumns, Targets
from mlcak_hf.data.sources import RadiographDataset, open_dataset, split_validation
from mlcak_hf.data.training_data import DatasetArguments, stored_choices
from mlcak_hf.errors import DatasetError, MLCAKError, RecipeError
from mlcak_hf.evaluation.bootstrap import MIN_DRAWS
from mlcak_hf.evaluation.calibration import operating_thresholds
from mlcak_hf.evaluation.compare import compare
from mlcak_hf.evaluation.localisation import Localisation, localise
from mlcak_hf.evaluation.predictions import ModelPredictions
from mlcak_hf.evaluation.scores import TaskScores, global_scores, local_scores, probabilities
from mlcak_hf.explanation.class_token import class_token_attention
from mlcak_hf.image_processing_mlcak import map_boxes
from mlcak_hf.pretrained import load_config, load_model, load_processor, weights_digest
from mlcak_hf.script import parse_recipe, run_script

NO_SPLIT = "none"


@dataclass(kw_only=True)
class EvaluationArguments(DatasetArguments):
    """What to evaluate, on which images, and where to write it."""

    models: list[str] = field(metadata={"help": "name=folder of each trained model; runs of one row share a name."})
    output: str = field(metadata={"help": "Folder to write."})
    split: str = field(default="test", metadata={"help": "Split to evaluate."})
    threshold_split: str = field(
        default="validation", metadata={"help": 'Split that operating thresholds are chosen on, or "none".'}
    )
    baseline: str | None = field(
        default=None, metadata={"help": "Row that the others are compared with; by default every row before."}
    )
    lowres: list[str] = field(
        default_factory=list, metadata={"help": "Pixels, or name=pixels: rows fed with low resolution, enlarged."}
    )
    batch_size: int = field(default=32, metadata={"help": "Images per process at once."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    bootstrap_draws: int = field(default=2000, metadata={"help": "Draws of the intervals."})
    seed: int = field(default=0, metadata={"help": "Seed of those draws."})


@dataclass(frozen=True)
class RowModel:
    """One trained model that will be a row, or a run of one."""

    name: str
    folder: str
    run: str = ""
    lowres: int | None = None


@dataclass(frozen=True)
class Outputs:
    """What a model said about every image of a split, in the order of the split."""

    global_task: TaskScores
    local_task: TaskScores | None
    class_attention: np.ndarray | None
    image_size: int


class CollateForEvaluation:
    """Pixels as the saved processor makes them, and each row's place, by which gathered rows are put in order."""

    def __init__(self, processor: Any) -> None:
        self.collator = MLCAKCollator(processor)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        pixel_values = self.collator([{"image": row["image"]} for row in rows])["pixel_values"]
        return {"pixel_values": pixel_values, "index": torch.tensor([row["index"] for row in rows])}


def parse_rows(models: Sequence[str]) -> list[RowModel]:
    """`name=folder` of each model; runs of one name are numbered in the order given."""
    pairs = [_split_pair(given, "--models", "name=folder") for given in models]
    rows, seen = [], dict.fromkeys(dict(pairs), 0)
    for name, folder in pairs:
        if not Path(folder).is_dir() and (folder.count("/") != 1 or Path(folder).is_absolute()):
            raise MLCAKError(f"--models {name}={folder}: there is no such folder; name what training wrote")
        seen[name] += 1
        several = sum(other == name for other, _ in pairs) > 1
        rows.append(RowModel(name, folder, run=str(seen[name]) if several else ""))
    return rows


def lowres_rows(rows: Sequence[RowModel], lowres: Sequence[str]) -> list[RowModel]:
    """Rows fed with low resolution, for one model by name or for all with a larger input."""
    extra = []
    for given in lowres:
        name, pixels = _split_pair(given, "--lowres", "name=pixels") if "=" in given else (None, given)
        if not pixels.isdecimal() or int(pixels) < 1:
            raise RecipeError(f"--lowres needs a number of pixels, got {given!r}")
        if name is not None and name not in {row.name for row in rows}:
            raise RecipeError(f"--lowres {given}: none of the models is named {name!r}")
        for row in rows:
            larger = load_config(row.folder, f"model {row.name}").image_size > int(pixels)
            if row.name == name or (name is None and larger):
                extra.append(RowModel(f"{row.name} fed {pixels} px", row.folder, row.run, int(pixels)))
    return extra


def check_before_running(
    models: Sequence[RowModel], splits: DatasetDict, columns: DatasetColumns, args: EvaluationArguments
) -> None:
    """Find what would otherwise be found after the first models, or all of them, have run."""
    names = [row.name for row in models]
    if args.baseline is not None and args.baseline not in names:
        raise RecipeError(f"--baseline {args.baseline!r} is none of the models {', '.join(map(repr, names))}")
    if args.bootstrap_draws < MIN_DRAWS:
        raise RecipeError(
            f"--bootstrap_draws must be at least {MIN_DRAWS} for a 95 % interval, got {args.bootstrap_draws}"
        )
    rows = choose_split(splits, args.split, columns, args)
    if args.threshold_split != NO_SPLIT:
        choose_split(splits, args.threshold_split, columns, args)
    stored_fit = stored_choices(args.dataset).get("fit")
    for row in models:
        config, processor = load_with_processor(row)
        Targets(config, splits.get("train", rows), columns)
        if stored_fit is not None and processor.fit != stored_fit:
            raise DatasetError(
                f"The model {row.name} ({row.folder}) makes squares by {processor.fit!r}, but {args.dataset} was "
                f"prepared with {stored_fit!r}: evaluate it on a dataset that was prepared as the one it was trained on"
            )
    check_output(Path(args.output))


def load_with_processor(row: RowModel) -> tuple[MLCAKConfig, MLCAKImageProcessor]:
    """Config and image processor of a row."""
    config = load_config(row.folder, f"model {row.name}")
    return config, load_processor(row.folder, config, f"model {row.name}")


def check_output(folder: Path) -> None:
    """Make the folder to write to."""
    try:
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK) and os.access(folder / "predictions", os.W_OK)
    except OSError as error:
        raise RecipeError(f"--output {folder} cannot be made: {error}; name another folder") from error
    if not writable:
        raise RecipeError(f"--output {folder} cannot be written to; name another folder")


def choose_split(splits: DatasetDict, name: str, columns: DatasetColumns, args: EvaluationArguments) -> Dataset:
    """A split by name; `validation` is split off the training rows as training does where it is not stored."""
    if name in splits:
        return splits[name]
    if name == "validation" and "train" in splits:
        return split_validation(splits["train"], columns, args.validation_fraction, args.split_seed)[1]
    raise DatasetError(f"{args.dataset} has no split {name!r}; it has {', '.join(splits)}")


def predict(
    model: Any, processor: Any, dataset: RadiographDataset, args: EvaluationArguments, accelerator: Accelerator,
    with_attention: bool, title: str,
) -> Outputs:  # fmt: skip
    """Run one model over one split, shared among the processes."""
    config = model.config
    loader = accelerator.prepare(
        DataLoader(
            dataset,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            collate_fn=CollateForEvaluation(processor),
        )
    )
    gathered: dict[str, list[np.ndarray]] = {}
    for batch in tqdm(loader, desc=title, unit="batch", leave=False, disable=not accelerator.is_main_process):
        with torch.inference_mode(), accelerator.autocast():
            output = model(batch["pixel_values"], output_attentions=with_attention)
        found = {"index": batch["index"], "logits": output.logits.float()}
        if output.local_logits is not None:
            found["local_logits"] = output.local_logits.float()
        if with_attention:
            # Only the class token's row travels between processes: the whole map is the square of it.
            found["attention"] = output.mlcak[:, :1].float()
        for name, values in accelerator.gather_for_metrics(found).items():
            gathered.setdefault(name, []).append(values.cpu().numpy())
    arrays = {name: np.concatenate(parts) for name, parts in gathered.items()}
    order = np.argsort(arrays["index"])
    if not np.array_equal(arrays["index"][order], np.arange(len(dataset))):
        raise MLCAKError(f"the processes returned {len(order)} rows for the {len(dataset)} of the split")
    arrays = {name: values[order] for name, values in arrays.items()}

    names = config.global_labels
    problem_type = str(config.problem_type)
    task = global_scores(probabilities(arrays["logits"], problem_type), dataset.targets["labels"], names, problem_type)
    local = None
    if "local_logits" in arrays:
        findings = dataset.targets["local_labels"]
        local = local_scores(probabilities(arrays["local_logits"]), findings, config.local_labels)
    attention = None
    if with_attention:
        attention = class_token_attention(arrays["attention"], model.num_prefix_tokens, model.grid_size)
    return Outputs(task, local, attention, config.image_size)


def against_boxes(outputs: Outputs, rows: Dataset, fit: str) -> Localisation | None:
    """Attention against the boxes of all readers; `None` where the dataset has none."""
    if outputs.class_attention is None:
        return None
    size = (outputs.image_size, outputs.image_size)
    needed = rows.select_columns(["boxes", "original_height", "original_width"])
    boxes = [
        map_boxes(
            [[box["x_min"], box["y_min"], box["x_max"], box["y_max"]] for box in row["boxes"] or ()],
            (row["original_height"], row["original_width"]),
            size,
            fit,
        )
        for row in needed
    ]
    found = localise(outputs.class_attention, boxes, size)
    return found if found.has_boxes.any() else None


def evaluate_row(
    row: RowModel, splits: DatasetDict, columns: DatasetColumns, args: EvaluationArguments, accelerator: Accelerator
) -> ModelPredictions:
    """Everything about one model: predictions, thresholds from validation, attention against boxes."""
    _, processor = load_with_processor(row)
    processor.lowres = row.lowres if row.lowres is not None else processor.lowres
    model: Any = load_model(row.folder, f"model {row.name}").eval().to(accelerator.device)
    rows = choose_split(splits, args.split, columns, args)
    targets = Targets(model.config, splits.get("train", rows), columns)
    title = f"{row.name} {row.run}".strip()
    with_boxes = {"boxes", "original_height", "original_width"} <= set(rows.column_names)
    outputs = predict(model, processor, RadiographDataset(rows, targets), args, accelerator, with_boxes, title)
    thresholds = None
    if args.threshold_split != NO_SPLIT:
        validation = choose_split(splits, args.threshold_split, columns, args)
        dataset = RadiographDataset(validation, targets)
        found = predict(model, processor, dataset, args, accelerator, False, f"{title}, thresholds")
        thresholds = operating_thresholds(found.global_task)
    return ModelPredictions(
        name=row.name,
        image_ids=rows[columns.image_id] if columns.image_id else [str(index) for index in range(len(rows))],
        global_task=outputs.global_task,
        local_task=outputs.local_task,
        groups=rows[columns.group] if columns.group else None,
        run=row.run,
        thresholds=thresholds,
        localisation=against_boxes(outputs, rows, processor.fit) if with_boxes else None,
        # The comparison may be published: of a local path, only the last part is kept.
        details={
            "folder": Path(row.folder).name,
            "image_size_px": outputs.image_size,
            "lowres_px": row.lowres,
            "weights": weights_digest(row.folder),
        },
    )


def run(args: EvaluationArguments) -> None:
    """Evaluate every model, then compare and write on the main process."""
    # Several processes without an accelerator find each other only if told that they are on CPUs; otherwise each would
    # take itself for the only one.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    models = parse_rows(args.models)
    models += lowres_rows(models, args.lowres)
    with accelerator.main_process_first():
        splits = open_dataset(args.dataset, args.image_column)
    columns = args.columns(next(iter(splits.values())).column_names)
    check_before_running(models, splits, columns, args)
    found = [evaluate_row(row, splits, columns, args, accelerator) for row in models]
    if accelerator.is_main_process:
        write(found, args, accelerator.num_processes)


def write(models: Sequence[ModelPredictions], args: EvaluationArguments, num_processes: int) -> None:
    """Compare, print the table, write the files."""
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    for model in models:
        slug = re.sub(r"[^\w.-]+", "-", f"{model.name} {model.run}".strip())
        model.save(output / "predictions" / f"{slug}.npz")
    by_name: dict[str, list[ModelPredictions]] = {}
    for model in models:
        by_name.setdefault(model.name, []).append(model)
    context = {
        "dataset": Path(args.dataset).name,
        "split": args.split,
        "threshold_split": args.threshold_split,
        "num_processes": num_processes,
        # Of every run, so that a card can tell its own model's numbers.
        "weights": {name: [run.details["weights"] for run in runs] for name, runs in by_name.items()},
    }
    comparison = compare(models, args.baseline, args.bootstrap_draws, args.seed, context)
    comparison.to_json(output / "comparison.json")
    (output / "comparison.md").write_text(comparison.to_markdown(), encoding="utf-8")
    comparison.figure(output / "comparison.png")
    console = Console()
    console.print(comparison.table())
    statements = comparison.noise_statements()
    if statements:
        console.print("\nDifferences (paired, same draws):")
    for line in statements:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    written = ", ".join(str(output / f"comparison.{kind}") for kind in ("json", "md", "png"))
    console.print(f"\nWritten: {written}", highlight=False, markup=False, soft_wrap=True)


def _split_pair(given: str, option: str, form: str) -> tuple[str, str]:
    name, _, value = given.partition("=")
    if not name or not value:
        raise RecipeError(f"{option} needs {form}, got {given!r}")
    return name, value


def main() -> None:
    """Parse, predict, compare, write."""
    (args,) = parse_recipe([EvaluationArguments])
    run(args)


if __name__ == "__main__":
    run_script(main)
