"""Kill a training run at random moments, resume it every time, and compare its weights with those of a run left alone.

    python examples/benchmarks/kill_and_resume.py --kills 20

A small student is distilled from a small teacher on drawn images, with views, dropout, two worker processes and
gradient accumulation, and saves a checkpoint after every optimizer step, so that many kills (signal 9, to all its
processes) hit one that is being written. After every kill all visible checkpoints must be whole; in the end the weights
and the logged losses must be bit for bit those of the run that nobody killed. `--teacher cached` reads what the teacher
knows from a cache of two views, `--teacher none` trains without teacher.
20 kills took six minutes on two busy cores.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import HfArgumentParser, TrainerCallback, set_seed

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.distillation.cache.build import CacheOptions, build_teacher_cache
from mlcak_hf.distillation.teachers import Teachers
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.checkpoints import find_defect
from mlcak_hf.training.trainer import MLCAKTrainer

TEACHERS = ("online", "cached", "none")
STARTED = "training starts"


@dataclass
class Choices:
    """What is killed, and how often."""

    kills: int = field(default=20, metadata={"help": "Kills before the run may finish"})
    steps: int = field(default=120, metadata={"help": "Optimizer steps of the run"})
    seed: int = field(default=0, metadata={"help": "Of the moments of the kills"})
    teacher: str = field(default="online", metadata={"help": f"How the student is taught: {', '.join(TEACHERS)}"})
    workers: int = field(default=2, metadata={"help": "Worker processes that make views"})
    folder: str | None = field(default=None, metadata={"help": "Where the runs are kept; a temporary one by default"})
    run: str | None = field(default=None, metadata={"help": "Only train in this folder (what is started and killed)"})


class SayStart(TrainerCallback):
    """Tells the other process when training has started."""

    def on_train_begin(self, args, state, control, **kwargs):
        print(f"{STARTED} at step {state.global_step}", flush=True)


def tiny_model(side: int, layers: int, dropout: float) -> MLCAKForCXRClassification:
    """A model of a few thousand weights."""
    backbone = {"model_type": "vit", "image_size": side, "patch_size": 4, "num_channels": 1, "hidden_size": 32}
    backbone |= {"num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 64}
    backbone |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return MLCAKForCXRClassification(MLCAKConfig(backbone_config=backbone, local_labels=["Edema", "ILD"]))


def rows(count: int) -> list[dict]:
    """Drawn images with labels."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": np.kron(rng.integers(0, 256, (8, 8)), np.ones((8, 8))).astype(np.uint8),
            "labels": int(rng.integers(0, 2)),
            "local_targets": rng.integers(-1, 2, 2).astype(np.float32),
            "index": index,
        }
        for index in range(count)
    ]


def train(choices: Choices) -> None:
    """Train in a folder, from the newest checkpoint there."""
    processors = [MLCAKImageProcessor(size={"height": side, "width": side}) for side in (16, 32)]
    args = MLCAKTrainingArguments(
        str(choices.run),
        max_steps=choices.steps,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=3,
        logging_steps=1,
        dataloader_num_workers=choices.workers,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
    )
    set_seed(1)
    student, dataset, teacher, cache = tiny_model(16, 2, dropout=0.1), rows(31), None, None
    if choices.teacher != "none":
        teacher = tiny_model(32, 3, dropout=0.0)
    collator = MLCAKCollator(processors[0], None if teacher is None else processors[1], ViewParameters(), seed=1)
    if choices.teacher == "cached":
        folder = Path(str(choices.run)).parent / "cache"
        options = CacheOptions(2, progress_bar=False)
        cache = build_teacher_cache(folder, Teachers(teacher, student), dataset, collator, options)
    MLCAKTrainer(
        student,
        teacher,
        args,
        collator,
        teacher_cache=cache,
        train_dataset=dataset,
        callbacks=[SayStart()],
    ).train(resume_from_checkpoint=True)


def start(choices: Choices, folder: Path) -> subprocess.Popen:
    """Start a run in a process group of its own and wait until its training starts."""
    command = [sys.executable, __file__, "--run", folder, "--steps", choices.steps, "--teacher", choices.teacher]
    process = subprocess.Popen(
        list(map(str, [*command, "--workers", choices.workers])),
        stdout=subprocess.PIPE,
        stderr=(folder.parent / f"{folder.name}.log").open("a"),
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith(STARTED):
            print(f"  {line.strip()}", flush=True)
            return process
    log = (folder.parent / f"{folder.name}.log").read_text(encoding="utf-8")
    raise SystemExit(f"FAILED: the run ended before its training started.\n{log[-2000:]}")


def finish(process: subprocess.Popen) -> float:
    """Wait for a run's end; returns the seconds since its training started."""
    started = time.monotonic()
    process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"The run ended with {process.returncode}.")
    return time.monotonic() - started


def kill_and_resume(choices: Choices, folder: Path) -> None:
    """Compare a run that is killed again and again with one that is left alone."""
    print("A run left alone:", flush=True)
    whole, killed = folder / "whole", folder / "killed"
    duration_s = finish(start(choices, whole))
    moments = random.Random(choices.seed)
    done = while_saving = 0
    print(f"It took {duration_s:.1f} s. A run killed at {choices.kills} random moments:", flush=True)
    while done < choices.kills:
        process = start(choices, killed)
        try:
            # On average a kill comes before the run has done its share.
            process.wait(moments.uniform(0, 1.5 * duration_s / choices.kills))
            print(f"The run was over after {done} kills; take more steps for more.")
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        done += 1
        while_saving += (killed / "unfinished-checkpoint").exists()
        for checkpoint in killed.glob("checkpoint-*"):
            defect = find_defect(checkpoint)
            if defect is not None:
                raise SystemExit(f"FAILED: after kill {done}, {checkpoint.name} is visible, but {defect}.")
    finish(start(choices, killed))
    ours, theirs = (run / f"checkpoint-{choices.steps}" for run in (killed, whole))
    weights, expected = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    different = [name for name in expected if not torch.equal(weights[name], expected[name])]
    losses = [
        [{name: value for name, value in entry.items() if name.startswith(("loss", "distil", "step"))} for entry in log]
        for log in (json.loads((end / "trainer_state.json").read_text())["log_history"] for end in (ours, theirs))
    ]
    print(f"{done} kills, {while_saving} of them while a checkpoint was being written, {choices.steps} steps.")
    if different or losses[0] != losses[1]:
        raise SystemExit(
            f"FAILED: {len(different)} of {len(expected)} weights differ; losses: {losses[0] == losses[1]}."
        )
    print(f"All {len(expected)} weights and {len(losses[0])} logged steps are bit for bit the same.")


if __name__ == "__main__":
    (chosen,) = HfArgumentParser(Choices).parse_args_into_dataclasses()
    if chosen.teacher not in TEACHERS:
        raise SystemExit(f"--teacher must be one of {TEACHERS}; got {chosen.teacher!r}.")
    if chosen.run is not None:
        train(chosen)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            kill_and_resume(chosen, Path(chosen.folder or temporary))
