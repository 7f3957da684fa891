"""Teacher training, cache building and student training on a GPU: images per second, with and without the options.

    python examples/benchmarks/gpu_throughput.py --peak-tflops 989   # an H100 or H200; at most ten minutes
    python examples/benchmarks/gpu_throughput.py --tiny              # tiny models, on a CPU: does it run at all?

Two parts. **Steps**: the shipped sizes on random images that are already on the device, in bfloat16, with fused AdamW.

    training the teacher   ViT-B/16 at 224 px; goal: 40 % of the peak
    building a cache       its forward pass, with attention captured and pooled to the student's grid; goal: 8,000/s
    training the student   28 px, on what a cache holds, with the losses of this package; goal: 60,000/s
    making views           teacher's and student's views of a batch, from decoded images on the device

Each is measured as it was before (eager; a cache with the maps of all heads and images at once) and with what may make
it faster: compiled (model and losses in one), compiled with CUDA graphs, and with its views made in the step. "Share of
peak" is model FLOPs (counted by PyTorch for one step) times steps per second over `--peak-tflops`, the device's dense
bfloat16 peak.

**Recipes**: the training scripts themselves on a dataset of random images, each for some steps, without and with
`--device_views true` and `--torch_compile true`: the median of `images_per_second` and `data_wait_share` in their logs,
without the first entry. This is what a user gets.

The table is printed and written as JSON after every row. A measurement that would begin after `--minutes` is left out
and named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, Features, Image, Value
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, attention_mlcak
from mlcak_hf.data.batched_views import DrawnViews, batched_view_pixels
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.distillation.losses import AttentionDistillationLoss, LogitDistillationLoss
from mlcak_hf.distillation.teachers import Teachers
from mlcak_hf.shipped import resolve_model

Step = Callable[[], Any]
SCRIPTS = Path(__file__).resolve().parents[1] / "distillation"
SEVERAL_VIEWS = 8


@dataclass(frozen=True)
class Mode:
    """How a step runs."""

    name: str
    compiled: bool = False
    graphs: bool = False
    views: bool = False
    maps_at_a_time: int | None = None


BEFORE = Mode("eager")
MODES = {
    "teacher": (BEFORE, Mode("compiled", True)),
    "cache": (
        Mode("eager, all maps at once", maps_at_a_time=1 << 62),
        Mode("eager"),
        Mode("compiled", True),
        Mode("eager, views on the device", views=True),
    ),
    "student": (
        BEFORE,
        Mode("compiled", True),
        Mode("compiled, CUDA graphs", True, True),
        Mode("compiled, CUDA graphs, views on the device", True, True, views=True),
    ),
    "views": (Mode("on the device", views=True),),
}


class Sizes(argparse.Namespace):
    """The options."""

    device: torch.device
    teacher: str
    student: str
    teacher_batch: int
    student_batch: int
    seconds: float
    peak_tflops: float | None
    tiny: bool


def untrained(name: str, device: torch.device) -> Any:
    """A model of a shipped size with random weights."""
    torch.manual_seed(0)
    return MLCAKForCXRClassification(MLCAKConfig.from_pretrained(resolve_model(name))).to(device)


class Batches:
    """Random radiographs on a device, and views of them that workers would have drawn."""

    def __init__(self, images: int, device: torch.device) -> None:
        rng = np.random.default_rng(0)
        self.images = torch.from_numpy(rng.integers(0, 256, (images, 256, 256), dtype=np.uint8)).to(device)
        ranges, index = ViewParameters(), range(images)
        epochs = ([ranges.draw(0, epoch, each) for each in index] for epoch in range(SEVERAL_VIEWS))
        self.drawn = [DrawnViews.of(views, index).to(device) for views in epochs]
        self.turn = 0

    def pixels(self, sides: list[int]) -> list[torch.Tensor]:
        """The pixels of the next views, normalised."""
        self.turn += 1
        made = batched_view_pixels(self.images / 255, self.drawn[self.turn % SEVERAL_VIEWS], sides)
        return [((each - 0.5) / 0.25)[:, None] for each in made]


def as_asked(function: Callable[..., Any], mode: Mode, sizes: Sizes) -> Callable[..., Any]:
    """The function, compiled if the mode says so."""
    if not mode.compiled:
        return function
    if sizes.tiny:
        return torch.compile(function, backend="aot_eager")
    return torch.compile(function, mode="reduce-overhead" if mode.graphs else None)


def training_step(model: Any, loss_of: Callable[..., torch.Tensor], inputs: Callable[[], torch.Tensor]) -> Step:
    """Forward, backward and a fused AdamW step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        pixels = inputs()
        torch.compiler.cudagraph_mark_step_begin()
        loss_of(pixels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def source_of(mode: Mode, images: int, side: int, device: torch.device) -> Callable[[], torch.Tensor]:
    """Gives the pixels of a step: always the same, or new views."""
    batches = Batches(images, device)
    if mode.views:
        return lambda: batches.pixels([side])[0]
    pixels = batches.pixels([side])[0]
    return lambda: pixels


def teacher_training(mode: Mode, sizes: Sizes) -> tuple[int, Step]:
    """A step of ordinary training."""
    model, images = untrained(sizes.teacher, sizes.device).train(), sizes.teacher_batch
    labels = labels_for(model, images, sizes.device)

    def loss_of(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(sizes.device.type, torch.bfloat16):
            loss: torch.Tensor = model(pixels, **labels).loss
        return loss

    inputs = source_of(mode, images, model.config.image_size, sizes.device)
    return images, training_step(model, as_asked(loss_of, mode, sizes), inputs)


def cache_building(mode: Mode, sizes: Sizes) -> tuple[int, Step]:
    """One pass of the teacher, its attention pooled to the student's grid, in half precision."""
    model, images = untrained(sizes.teacher, sizes.device).eval(), sizes.teacher_batch
    (alignment,) = Teachers(model, untrained(sizes.student, sizes.device)).alignments
    assert alignment is not None
    alignment = alignment.to(sizes.device)

    def outputs_of(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast(sizes.device.type, torch.bfloat16):
            taught = model(pixels, output_attentions=True)
        return alignment.align_teacher(taught.attentions).half(), taught.logits.float(), taught.local_logits.float()

    inputs = source_of(mode, images, model.config.image_size, sizes.device)
    with torch.no_grad():
        outputs_of(inputs())
    function = as_asked(outputs_of, mode, sizes)

    @torch.no_grad()
    def step() -> tuple[torch.Tensor, ...]:
        result: tuple[torch.Tensor, ...] = function(inputs())
        return result

    return images, step


def student_training(mode: Mode, sizes: Sizes) -> tuple[int, Step]:
    """A step of distillation on what a cache holds."""
    model, images, device = untrained(sizes.student, sizes.device).train(), sizes.student_batch, sizes.device
    labels, tokens = labels_for(model, images, device), model.grid_size[0] * model.grid_size[1] + 1
    attention = torch.rand(images, 1, tokens, tokens, device=device).softmax(-1)
    logits = torch.randn(images, model.config.num_labels, device=device)
    local_logits = torch.randn(images, model.config.num_local_labels, device=device)
    of_logits, of_attention = LogitDistillationLoss("mse"), AttentionDistillationLoss("normalized_mse")

    def loss_of(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            output = model(pixels, **labels, output_attentions=True)
        distances = of_logits(output.logits.float(), logits) + of_logits(output.local_logits.float(), local_logits)
        loss: torch.Tensor = output.loss + (distances + of_attention(output.mlcak[:, None], attention)).mean()
        return loss

    inputs = source_of(mode, images, model.config.image_size, device)
    with torch.no_grad():
        loss_of(inputs())  # transformers puts its hooks in place on the first call
    return images, training_step(model, as_asked(loss_of, mode, sizes), inputs)


def view_making(mode: Mode, sizes: Sizes) -> tuple[int, Step]:
    """Views of a batch for a teacher and a student, as online distillation needs them."""
    batches, sides = Batches(sizes.student_batch, sizes.device), [28, 224]
    return sizes.student_batch, lambda: batches.pixels(sides)


def labels_for(model: Any, images: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Random labels."""
    local_targets = torch.randint(0, 2, (images, model.config.num_local_labels), device=device).float()
    return {"labels": torch.randint(0, 2, (images,), device=device), "local_targets": local_targets}


JOBS = {"student": student_training, "teacher": teacher_training, "cache": cache_building, "views": view_making}
GOALS = {"student": 60_000, "cache": 8_000}
SHARE_GOAL = 0.4


@contextmanager
def maps_at_a_time(entries: int | None) -> Iterator[None]:
    """Compute so many entries of attention maps at a time, instead of the package's own number."""
    names = ("_CACHED_ENTRIES", "_GPU_ENTRIES")
    before = {name: getattr(attention_mlcak, name) for name in names}
    try:
        for name in names if entries else ():
            setattr(attention_mlcak, name, entries)
        yield
    finally:
        for name, value in before.items():
            setattr(attention_mlcak, name, value)


def measure(step: Step, seconds: float, device: torch.device) -> tuple[float, float]:
    """Steps per second after warming up, and peak memory in GiB (0 without a GPU)."""
    on_gpu = device.type == "cuda"
    synchronize = partial(torch.cuda.synchronize, device) if on_gpu else lambda: None
    for _ in range(3):
        step()
    synchronize()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    start, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - start < seconds:
        step()
        count += 1
        if count % 10 == 0:
            synchronize()
    synchronize()
    rate = count / (time.perf_counter() - start)
    return rate, torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else 0.0


def measure_step(job: str, mode: Mode, sizes: Sizes, flops: dict[str, int]) -> dict[str, Any]:
    """Images per second of a job in one mode."""
    torch.compiler.reset()
    with maps_at_a_time(mode.maps_at_a_time):
        images, step = JOBS[job](mode, sizes)
        if job not in flops:  # the first mode is eager; a compiled graph would hide them
            with FlopCounterMode(display=False) as counter:
                step()
            flops[job] = int(counter.get_total_flops())
        rate, memory = measure(step, sizes.seconds, sizes.device)
    share = rate * flops[job] / 1e12 / sizes.peak_tflops if sizes.peak_tflops else None
    return {"images_per_s": rate * images, "share_of_peak": share, "peak_gib": memory}


def write_dataset(folder: Path, images: int) -> Path:
    """Random images with labels that cannot be learned, as a Parquet file."""
    rng = np.random.default_rng(0)
    columns = {
        "image": [PIL.Image.fromarray(rng.integers(0, 256, (256, 256), dtype=np.uint8)) for _ in range(images)],
        "label": [number % 2 for number in range(images)],
        "findings": [{"Nodule/Mass": number % 2, "Pneumothorax": number % 3 // 2} for number in range(images)],
    }
    findings = {name: Value("int64") for name in columns["findings"][0]}
    features = Features({"image": Image(), "label": Value("int64"), "findings": findings})
    Dataset.from_dict(columns, features=features).to_parquet(folder / "random.parquet")
    return folder / "random.parquet"


def script_of(name: str, sizes: Sizes, folder: Path) -> list[Any]:
    """The training script of a run, with what only this run needs."""
    run, kind = name.split("-")
    if run == "teacher":
        steps, size = ("2" if sizes.tiny else "40"), sizes.teacher_batch
        return ["train_teacher", "--config", "teacher", "--model", sizes.teacher, *count(steps, size)]
    taught = [
        "--teacher",
        folder / f"teacher-{kind}",
        "--teacher_cache",
        folder / f"cache-{kind}",
        "--cache_views",
        "1",
    ]
    steps = count("4" if sizes.tiny else "160", sizes.student_batch)
    return ["distil_student", "--config", "student", "--model", sizes.student, *steps, *taught]


def count(steps: str, batch: int) -> list[Any]:
    """Options for a number of steps."""
    return ["--max_steps", steps, "--logging_steps", max(1, int(steps) // 4), "--per_device_train_batch_size", batch]


def run_recipe(name: str, sizes: Sizes, dataset: Callable[[], Path], seconds: float) -> dict[str, Any]:
    """Run a training script for some steps, and read its log."""
    folder = dataset().parent / name
    options: dict[str, Any] = {"dataset": dataset(), "output_dir": folder, "bf16": True}
    options |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    options |= {"dataloader_num_workers": 1 if sizes.tiny else 14, "dataloader_drop_last": True}
    if name.endswith("-new"):
        options |= {"device_views": True, "torch_compile": True}
        options |= {"torch_compile_backend": "aot_eager"} if sizes.tiny else {}
    script, *own = script_of(name, sizes, folder.parent)
    command = [sys.executable, SCRIPTS / f"{script}.py", *own]
    for option, value in options.items():
        command += [f"--{option}", value]
    started = time.perf_counter()
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=seconds)
    if ran.returncode:
        raise RuntimeError(f"{name} failed: {ran.stderr[-2000:]}")
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    log = [entry for entry in record["log"] if "images_per_second" in entry][1:]
    found = {key: statistics.median(entry[key] for entry in log) for key in ("images_per_second", "data_wait_share")}
    return {
        "images_per_s": found["images_per_second"],
        "data_wait_share": found["data_wait_share"],
        "device_views": record["data"]["device_views"],
        "seconds_in_all": time.perf_counter() - started,
    }


def measurements(sizes: Sizes, dataset: Callable[[], Path]) -> Iterator[tuple[str, str, Callable[[float], Any]]]:
    """Every measurement: its job, its mode, and a function of the seconds that are left."""
    flops: dict[str, int] = {}
    for job, modes in MODES.items():
        for mode in modes:
            yield job, mode.name, lambda left, job=job, mode=mode: measure_step(job, mode, sizes, flops)
    for name in ("teacher", "cached"):
        for kind in ("before", "new"):
            run = f"{name}-{kind}"
            yield f"script, {name}", kind, lambda left, run=run: run_recipe(run, sizes, dataset, left)


def reached(job: str, found: dict[str, Any]) -> str:
    """Whether a goal is met."""
    if job == "teacher" and found["share_of_peak"] is not None:
        return "yes" if found["share_of_peak"] >= SHARE_GOAL else "no"
    return "" if job not in GOALS else "yes" if found["images_per_s"] >= GOALS[job] else "no"


def cells(job: str, mode: str, found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    if "error" in found:
        return [job, mode, found["error"][:60], "", "", "", ""]
    share, wait = found.get("share_of_peak"), found.get("data_wait_share")
    return [
        job,
        mode,
        f"{found['images_per_s']:,.0f}",
        "" if share is None else f"{100 * share:.0f} %",
        "" if wait is None else f"{100 * wait:.0f} %",
        f"{found['peak_gib']:.1f} GiB" if "peak_gib" in found else "",
        reached(job, found),
    ]


def options() -> Sizes:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.accelerator.current_accelerator() or "cpu")
    parser.add_argument("--teacher", default="teacher-vit-b16-224")
    parser.add_argument("--student", default="student-vit-ti4-28")
    parser.add_argument("--teacher-batch", type=int, default=128)
    parser.add_argument("--student-batch", type=int, default=1024)
    parser.add_argument("--images", type=int, default=8192, help="of the dataset that the scripts train on")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement of a step")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no measurement begins")
    parser.add_argument("--jobs", nargs="+", help="only these: student, teacher, cache, views, script")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the device")
    parser.add_argument("--tiny", action="store_true", help="tiny models and batches")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu_throughput.json"))
    sizes = parser.parse_args(namespace=Sizes())
    if sizes.tiny:
        sizes.teacher, sizes.student, sizes.images = "teacher-tiny-224", "student-tiny-28", 24
        sizes.teacher_batch, sizes.student_batch, sizes.seconds = 2, 4, 0.01
    return sizes


def main() -> int:
    """Measure, and print a table."""
    sizes, console, started = options(), Console(width=140), time.perf_counter()
    if sizes.device.type == "cpu" and not sizes.tiny:
        console.print("There is no GPU: nothing to measure. `--tiny` tries the script out.")
        return 0
    torch.set_float32_matmul_precision("high")  # TensorFloat-32
    name = torch.cuda.get_device_name(sizes.device) if sizes.device.type == "cuda" else sizes.device.type
    table = Table(title=f"{name}, PyTorch {torch.__version__}")
    for column in ("job", "mode", "images/s", "share of peak", "waiting", "memory", "goal met"):
        table.add_column(column, justify="left" if column in ("job", "mode") else "right")
    results: list[dict[str, Any]] = []
    sizes.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        dataset = cache(partial(write_dataset, Path(folder), sizes.images))
        for job, mode, run in measurements(sizes, dataset):
            left = 60 * sizes.minutes - (time.perf_counter() - started)
            if sizes.jobs and job.split(",")[0] not in sizes.jobs:
                continue
            try:
                found = run(left + 60) if left > 0 else {"error": "left out: no time"}
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                found = {"error": str(error)}  # The other rows are worth having.
            results.append({"job": job, "mode": mode} | found)
            console.print(" | ".join(cells(job, mode, found)))  # at once: the table is whole only at the end
            table.add_row(*cells(job, mode, found))
            content = {"device": name, "torch": torch.__version__, "goals": GOALS, "results": results}
            sizes.output.write_text(json.dumps(content, indent=1), encoding="utf-8")
    console.print(table)
    return int(any("error" in each for each in results))


if __name__ == "__main__":
    sys.exit(main())
