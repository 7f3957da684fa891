"""How many views should a teacher cache hold? AUROC of students trained with V = 1, 2, 4, 8, 16 views, and online.

    python examples/benchmarks/cache_views_on_phantoms.py --dataset demo/dataset --teacher demo/teacher --seeds 3

Takes the phantoms and the teacher that `make demo` leaves. For every seed, students of 28 px that differ in nothing but
where the teacher's knowledge comes from: same initial weights, order of images, learning rate and number of steps.
Online sees a new view of every image in every epoch; with V views, epoch e sees view e modulo V: with V = epochs the
same views to the end, with any V the same in the first epoch, whose losses are compared too (in later ones the rounding
of every step has grown). Printed: AUROC of the global label
and of the local findings (macro) on the test split, mean and standard deviation over seeds, and the difference to
online of the same seed. A GPU is used where there is one; `--jobs` runs several seeds side by side.
"""

import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from sklearn.metrics import roc_auc_score
from transformers import set_seed

from mlcak_hf.data.columns import Targets
from mlcak_hf.data.sources import RadiographDataset, open_dataset
from mlcak_hf.data.training_data import DataArguments
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.distillation.cache.store import TeacherCache
from mlcak_hf.distillation.compatibility import load_teacher
from mlcak_hf.script import parse_recipe
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.setup import StudentArguments, StudentSetup, open_teacher_cache, set_up_student
from mlcak_hf.training.trainer import MLCAKTrainer


@dataclass
class Comparison:
    """What is compared."""

    dataset: str = field(metadata={"help": "Folder that `mlcak prepare` wrote, with a test split"})
    teacher: str = field(metadata={"help": "What train_teacher.py wrote"})
    views: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16], metadata={"help": "Numbers of views"})
    seeds: int = field(default=3, metadata={"help": "Students of every kind"})
    epochs: int = field(default=16, metadata={"help": "Passes of each student"})
    batch: int = field(default=32, metadata={"help": "Images of a step"})
    learning_rate: float = field(default=1e-3, metadata={"help": "Of the students"})
    jobs: int = field(default=1, metadata={"help": "Seeds that are run side by side, a process each"})
    threads: int = field(default=2, metadata={"help": "Threads of each of these processes"})
    workers: int = field(default=0, metadata={"help": "Processes that make views for each of them"})
    output: str | None = field(default=None, metadata={"help": "JSON file for every number"})


def arguments(chosen: Comparison, seed: int, folder: str) -> MLCAKTrainingArguments:
    return MLCAKTrainingArguments(
        folder, num_train_epochs=chosen.epochs, per_device_train_batch_size=chosen.batch, weight_decay=0.05,
        learning_rate=chosen.learning_rate, warmup_steps=0.1, lr_scheduler_type="cosine", logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, seed=seed,
        dataloader_num_workers=chosen.workers, dataloader_persistent_workers=chosen.workers > 0,
    )  # fmt: skip


def set_up(chosen: Comparison, args: MLCAKTrainingArguments, **cache) -> tuple[StudentSetup, StudentArguments]:
    """A fresh student of the demo's size; the same for the same seed."""
    model_args = StudentArguments(model="student-tiny-28", teacher=[chosen.teacher], local_loss_weight=10.0, **cache)
    data_args = DataArguments(dataset=chosen.dataset)
    # The views of the demo's recipes: with few steps, a small net learns more from milder ones.
    views = ViewParameters(rotation_deg=6.0, min_scale=0.94, max_scale=1.1, shift=0.04)
    return set_up_student(model_args, data_args, views, args), model_args


def train(chosen: Comparison, seed: int, folder: str, cache: TeacherCache | None) -> tuple[MLCAKTrainer, StudentSetup]:
    args = arguments(chosen, seed, folder)
    student, _ = set_up(chosen, args)
    trainer = MLCAKTrainer(
        student.model, load_teacher(chosen.teacher), args, student.collator, teacher_cache=cache,
        train_dataset=student.train, eval_dataset=student.validation,
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    set_seed(seed)
    trainer.train()
    return trainer, student


def measure(trainer: MLCAKTrainer, student: StudentSetup, test) -> dict[str, float]:
    """AUROC on the test split."""
    rows = RadiographDataset(test, Targets(student.model.config, student.data.train, student.data.columns))
    predicted = trainer.predict(rows)
    logits, local_logits = predicted.predictions[:2]
    labels, local_labels = predicted.label_ids[:2]
    local = [
        roc_auc_score(truth[truth >= 0], score[truth >= 0])
        for truth, score in zip(local_labels.T, local_logits.T, strict=True)
        if len(set(truth[truth >= 0])) == 2
    ]
    return {"global": roc_auc_score(labels, logits[:, 1] - logits[:, 0]), "local": float(np.mean(local))}


def losses(trainer: MLCAKTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def run_seed(chosen: Comparison, seed: int) -> dict[str, dict]:
    """Build a cache of the most views, and train a student of every kind: what was measured of each."""
    torch.set_num_threads(chosen.threads)
    transformers.logging.set_verbosity_error()
    test = open_dataset(chosen.dataset)["test"]
    results: dict[str, dict] = {}
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(chosen, seed, folder)
        student, model_args = set_up(chosen, args, teacher_cache=f"{folder}/cache", cache_views=max(chosen.views))
        whole = open_teacher_cache(student, model_args, args)
        print(f"seed {seed}: cache of {max(chosen.views)} views made ({time.time() - start:.0f} s)", flush=True)
        for kind in reversed(kinds_of(chosen)):
            cache = None
            if kind != "online":
                cache = TeacherCache(whole.files.folder, verify=False)
                # Its first V views are those of a cache of V views.
                cache.num_views = int(kind.split()[-1])
            trainer, student = train(chosen, seed, folder, cache)
            found = measure(trainer, student, test) | {"losses": losses(trainer)}
            if cache is not None:
                first_epoch = len(found["losses"]) // chosen.epochs
                pairs = zip(found["losses"][:first_epoch], results["online"]["losses"], strict=False)
                found["off"] = max(abs(ours / theirs - 1) for ours, theirs in pairs)
            results[kind] = found
            print(
                f"seed {seed} {kind:7s} AUROC {found['global']:.4f} local {found['local']:.4f}"
                + (f", loss of the first epoch off by {found['off']:.1e} at most" if "off" in found else "")
                + f" ({time.time() - start:.0f} s)",
                flush=True,
            )
    return results


def kinds_of(chosen: Comparison) -> list[str]:
    return [f"V = {views}" for views in chosen.views] + ["online"]


def main() -> None:
    (chosen,) = parse_recipe([Comparison])
    with ProcessPoolExecutor(chosen.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        of_seeds = list(pool.map(partial(run_seed, chosen), range(chosen.seeds)))
    results = {kind: [found[kind] for found in of_seeds] for kind in kinds_of(chosen)}
    if chosen.output:
        Path(chosen.output).write_text(json.dumps(results, indent=1))
    print(f"\n{'':8s} {'AUROC global':>18s} {'- online':>18s} {'AUROC local':>18s} {'- online':>18s}")
    for kind, found_of_seeds in results.items():
        cells = []
        for what in ("global", "local"):
            values = np.array([found[what] for found in found_of_seeds])
            online = np.array([found[what] for found in results["online"]])
            for numbers, sign in ((values, ""), (values - online, "+")):
                spread = numbers.std(ddof=min(1, len(numbers) - 1))
                cells.append(f"{numbers.mean():{sign}.4f} +- {spread:.4f}")
        print(f"{kind:8s} " + " ".join(f"{cell:>18s}" for cell in cells))


if __name__ == "__main__":
    main()
