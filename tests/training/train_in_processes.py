"""Train toy students under `accelerate launch` and save every gradient and weight (see test_processes)."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from toys import (
    KeepGradients,
    StopAt,
    both_kinds,
    make_trainer,
    toy_collator,
    toy_model,
    toy_rows,
    views_on_device,
)

from mlcak_hf.distillation.cache import build as cache_files
from mlcak_hf.distillation.cache.build import CacheOptions, build_teacher_cache
from mlcak_hf.distillation.teachers import Teachers
from mlcak_hf.script import run_script

CONV = {"patch_embedding": "conv", "trunk_widths": [8, 8, 16]}


def train(
    output: str,
    images: int,
    batch: int,
    steps: int,
    cached: int = 0,
    stop_after: int = 0,
    conv: int = 0,
    both: int = 0,
    on_device: int = 0,
) -> None:
    keep, cache, kind = KeepGradients(), None, CONV if conv else {}
    collator, rows = toy_collator(), toy_rows(images, seed=5)
    if on_device:
        collator = views_on_device(collator, rows, f"{output}-decoded")
        rows = [{name: value for name, value in row.items() if name != "image"} for row in rows]
    if cached:
        # Every process takes its share of the two shards; at the end of the epochs each view has been seen.
        cache_files._MIN_SHARD_IMAGES = images - images // 2
        cache = build_teacher_cache(
            f"{output}-cache",
            Teachers(toy_model(32, 4, layers=4, seed=2), toy_model(seed=1)),
            rows,
            collator,
            CacheOptions(2),
        )
    choices = {
        "teacher_cache": cache,
        "rows": rows,
        "collator": collator,
        "evaluate": toy_rows(7, seed=6),
        "num_train_epochs": 3,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": 3,
        "gradient_accumulation_steps": steps,
    }
    if both:
        teachers, collator = both_kinds()
        choices |= {"teacher": teachers, "collator": collator}
    if stop_after:
        stop = [StopAt(stop_after)]
        make_trainer(f"{output}-run", student=toy_model(seed=1, **kind), callbacks=stop, **choices).train()
    trainer = make_trainer(f"{output}-run", student=toy_model(seed=1, **kind), callbacks=[keep], **choices)
    trainer.train(resume_from_checkpoint=bool(stop_after))
    metrics = trainer.evaluate()
    # Seven images over two processes with batches of two: one process has an image less.
    predicted = trainer.predict(toy_rows(7, seed=7))
    teacher = trainer.teacher
    if trainer.is_world_process_zero():
        torch.save(
            {
                "gradients": keep.steps,
                "weights": trainer.model.state_dict(),
                "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
                "eval_loss": metrics["eval_loss"],
                "world_size": trainer.args.world_size,
                "teacher_is_wrapped": hasattr(teacher, "module"),
                "predictions": predicted.predictions,
                "predicted_labels": predicted.label_ids,
            },
            output,
        )


def main(folder: str, runs: dict[str, dict[str, Any]]) -> None:
    for name, choices in runs.items():
        train(str(Path(folder, f"{name}.pt")), **choices)


if __name__ == "__main__":
    run_script(partial(main, sys.argv[1], json.loads(sys.argv[2])))
