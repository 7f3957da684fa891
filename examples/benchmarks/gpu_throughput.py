"""Teacher training, cache building and student training on a GPU: images per second, FLOPs, memory.

Three jobs with the shipped model sizes, batches of random pixels that are already on the device, and the losses of this
package: training a teacher (ViT-B/16 at 224 px), the teacher's forward pass when a cache is built (attention captured
and pooled to the student's grid), and training a student at 28 px on cached outputs. Each runs in float32 with
TensorFloat-32, in bfloat16 autocast, and compiled. AdamW is always fused. "Share of peak" is model FLOPs (counted by
PyTorch for one step) times steps per second over `--peak-tflops`, the device's dense bfloat16 peak.

    python examples/benchmarks/gpu_throughput.py --peak-tflops 989      # an H100 or H200
    python examples/benchmarks/gpu_throughput.py --device cpu --small   # does it run at all?

With the Trainer: `--bf16 true --torch_compile true` on the training scripts' command line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification
from mlcak_hf.distillation.losses import AttentionDistillationLoss, LogitDistillationLoss
from mlcak_hf.distillation.teachers import Teachers
from mlcak_hf.shipped import resolve_model

Step = Callable[[], Any]
MODES = ("float32", "bfloat16", "bfloat16, compiled")


def build(name: str, device: torch.device) -> MLCAKForCXRClassification:
    """A model of a shipped size with random weights."""
    torch.manual_seed(0)
    return MLCAKForCXRClassification(MLCAKConfig.from_pretrained(resolve_model(name))).to(device)


def batch_for(model: MLCAKForCXRClassification, size: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Random pixels and labels."""
    config: Any = model.config
    pixels = torch.randn(size, config.num_channels, config.image_size, config.image_size, device=device)
    return {
        "pixel_values": pixels,
        "labels": torch.randint(0, 2, (size,), device=device),
        "local_targets": torch.randint(0, 2, (size, config.num_local_labels), device=device).float(),
    }


def training_step(model: Any, loss_of: Callable[[Any], torch.Tensor], autocast: Callable[[], Any]) -> Step:
    """Forward, backward and a fused AdamW step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with autocast():
            loss = loss_of(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def teacher_training(teacher: Any, batch: dict[str, torch.Tensor], autocast: Callable[[], Any]) -> Step:
    """A step of ordinary training."""
    return training_step(teacher.train(), lambda model: model(**batch).loss, autocast)


def cache_building(teacher: Any, student: Any, batch: dict[str, torch.Tensor], autocast: Callable[[], Any]) -> Step:
    """One pass of the teacher, its attention pooled to the student's grid, in half precision."""
    (alignment,) = Teachers(getattr(teacher, "_orig_mod", teacher), student).alignments
    assert alignment is not None
    alignment = alignment.to(batch["pixel_values"].device)

    @torch.no_grad()
    def step() -> tuple[torch.Tensor, ...]:
        with autocast():
            taught = teacher.eval()(batch["pixel_values"], output_attentions=True)
        return alignment.align_teacher(taught.attentions).half(), taught.logits.half(), taught.local_logits.half()

    return step


def student_training(student: Any, batch: dict[str, torch.Tensor], autocast: Callable[[], Any]) -> Step:
    """A step of distillation on what a cache holds."""
    plain: Any = getattr(student, "_orig_mod", student)
    config, size = plain.config, len(batch["labels"])
    tokens = plain.grid_size[0] * plain.grid_size[1] + 1
    device = batch["labels"].device
    attention = torch.rand(size, 1, tokens, tokens, device=device).softmax(-1)
    logits = torch.randn(size, config.num_labels, device=device)
    local_logits = torch.randn(size, config.num_local_labels, device=device)
    of_logits, of_attention = LogitDistillationLoss("mse"), AttentionDistillationLoss("normalized_mse")

    def loss_of(model: Any) -> torch.Tensor:
        output = model(**batch, output_attentions=True)
        distances = of_logits(output.logits, logits) + of_logits(output.local_logits, local_logits)
        loss: torch.Tensor = output.loss + (distances + of_attention(output.mlcak[:, None], attention)).mean()
        return loss

    return training_step(student.train(), loss_of, autocast)


def measure(step: Step, seconds: float, device: torch.device) -> tuple[float, float]:
    """Steps per second after warming up, and peak memory in GiB (0 without a GPU)."""

    def synchronize() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    for _ in range(3):
        step()
    synchronize()
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    start, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - start < seconds:
        step()
        count += 1
        if count % 10 == 0:
            synchronize()
    synchronize()
    rate = count / (time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if on_cuda else 0.0
    return rate, memory


def count_flops(step: Step) -> int:
    """Model FLOPs of one step, by PyTorch's counter."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def jobs(
    teacher: str, students: list[str], batches: argparse.Namespace, device: torch.device, mode: str
) -> Iterator[tuple[str, int, Step]]:
    """The jobs of one mode, each made in its turn: name, images per step, and the step."""

    def autocast() -> Any:
        return nullcontext() if mode == "float32" else torch.autocast(device.type, torch.bfloat16)

    def prepared(size: str, images: int) -> tuple[Any, dict[str, torch.Tensor]]:
        model = build(size, device)
        batch = batch_for(model, images, device)
        if mode.endswith("compiled"):
            with torch.no_grad():  # transformers puts its hooks in place on the first call
                model(batch["pixel_values"][:1], output_attentions=True)
            return torch.compile(model), batch
        return model, batch

    images = batches.teacher_batch
    yield f"training {teacher}", images, teacher_training(*prepared(teacher, images), autocast)
    model, batch = prepared(teacher, images)
    yield f"cache of {teacher}", images, cache_building(model, build(students[0], device), batch, autocast)
    images = batches.student_batch
    for student in students:
        yield f"training {student}, cached", images, student_training(*prepared(student, images), autocast)


def main() -> int:
    """Measure every job in every mode and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=str(torch.accelerator.current_accelerator() or "cpu"))
    parser.add_argument("--teacher", default="teacher-vit-b16-224")
    parser.add_argument("--students", nargs="+", default=["student-vit-s4-28", "student-vit-ti4-28"])
    parser.add_argument("--teacher-batch", type=int, default=128)
    parser.add_argument("--student-batch", type=int, default=512)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the device")
    parser.add_argument("--small", action="store_true", help="tiny models and batches")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu_throughput.json"))
    arguments = parser.parse_args()
    if arguments.small:
        arguments.teacher, arguments.students = "teacher-tiny-224", ["student-tiny-28"]
        arguments.teacher_batch, arguments.student_batch, arguments.seconds = 2, 4, 0.1
    console, device = Console(width=130), torch.device(arguments.device)
    if device.type == "cpu" and not arguments.small:
        console.print("No GPU is there: nothing to measure. `--device cpu --small` tries the script out.")
        return 0
    torch.set_float32_matmul_precision("high")  # TensorFloat-32
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    table = Table(title=f"{name}, PyTorch {torch.__version__}")
    for column in ("job", "mode", "images/s", "TFLOP/s", "share of peak", "memory"):
        table.add_column(column, justify="left" if column in ("job", "mode") else "right")
    results = []
    flops_of: dict[str, int] = {}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for mode in arguments.modes:
        for job, images, step in jobs(arguments.teacher, arguments.students, arguments, device, mode):
            if job not in flops_of and not mode.endswith("compiled"):  # a compiled graph hides them
                flops_of[job] = count_flops(step)
            rate, memory = measure(step, arguments.seconds, device)
            tflops = rate * flops_of.get(job, 0) / 1e12
            share = f"{100 * tflops / arguments.peak_tflops:.0f} %" if arguments.peak_tflops else "-"
            row = (job, mode, f"{rate * images:,.0f}", f"{tflops:.1f}", share, f"{memory:.1f} GiB")
            table.add_row(*row)
            console.print(" | ".join(row))  # at once: the table is whole only at the end
            figures = {"images_per_s": rate * images, "flops_per_step": flops_of.get(job, 0), "peak_gib": memory}
            results.append({"job": job, "mode": mode} | figures)
            arguments.output.write_text(json.dumps({"device": name, "results": results}, indent=1), encoding="utf-8")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
