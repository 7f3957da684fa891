"""What distillation costs compared with training the student alone, online and with a teacher cache.

    python examples/benchmarks/distillation_step.py --output distillation_step.json

For each student (random weights, 28 px, batch 64), three kinds of steps are timed in turns on the same machine:

    alone    the student's own step: classification only
    cached   distillation (both logits, attention of all levels) from a warm teacher cache, including reading it
    online   the Hugging Face recipe: a Trainer that runs the teacher (ViT-B/16 at 224 px, from its config) in
             compute_loss; same student, same views, same losses

A step is training_step, clipping, optimizer and zero_grad; no step includes making the views. Printed are medians,
ratios of the steps of the same round, the size of the cache, and how much slower building it is than the teacher's
forward passes alone. "In all" is computed from these, not run: 30 epochs cached with V views, including building,
against 30 epochs online. Last, the memory that a step needs with captured attention and with eager attention, each in
its own process.

--online_rounds and --build_images take most of the time. On a busy machine, --threads 1 --cpu_time true compares
processor time instead of wall time. --students and --teacher name other sizes.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Trainer, TrainingArguments

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.distillation.cache.build import CacheOptions, build_teacher_cache, describe_cache, fill_shards
from mlcak_hf.distillation.cache.store import CacheFiles
from mlcak_hf.distillation.losses import AttentionDistillationLoss
from mlcak_hf.distillation.teachers import Teachers
from mlcak_hf.script import parse_recipe
from mlcak_hf.shipped import resolve_model
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.trainer import MLCAKTrainer

VIEWS = (1, 2, 3, 4, 8)
EPOCHS = 30
ON_GPU = torch.cuda.is_available()


@dataclass
class Sizes:
    """How much is measured."""

    students: list[str] = field(
        default_factory=lambda: ["student-vit-s4-28", "student-vit-ti4-28"], metadata={"help": "Sizes in hub_configs"}
    )
    teacher: str = field(default="teacher-vit-b16-224", metadata={"help": "Size in hub_configs"})
    rounds: int = field(default=9, metadata={"help": "Turns of alone and cached, after one that does not count"})
    online_rounds: int = field(default=3, metadata={"help": "Turns that online takes part in"})
    build_rounds: int = field(default=3, metadata={"help": "Turns of building and of bare teacher passes"})
    build_images: int = field(default=64, metadata={"help": "Images of each of these"})
    batch: int = field(default=64, metadata={"help": "Images of a step"})
    bf16: bool = field(default=ON_GPU, metadata={"help": "Mixed precision, the default on a GPU"})
    threads: int = field(default=2, metadata={"help": "Threads of a process"})
    cpu_time: bool = field(default=False, metadata={"help": "Processor time of all threads instead of the clock's"})
    memory_model: str = field(
        default="student-vit-ti8-112", metadata={"help": "Size for the memory measurement, or none"}
    )
    memory_of: str | None = field(default=None, metadata={"help": "Inner use: measure one kind of attention"})
    output: str | None = field(default=None, metadata={"help": "JSON file for every number"})


class RecipeTrainer(Trainer):
    """Distillation as in the documentation of transformers: the teacher runs in compute_loss."""

    def __init__(self, model, teacher, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval()
        self.alignment = Teachers(teacher, model).alignments[0].to(self.args.device)
        self.distance = AttentionDistillationLoss()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        teacher_pixels = inputs.pop("teacher_pixel_values")
        ours = model(**inputs, output_attentions=True)
        with torch.no_grad(), self.accelerator.autocast():
            theirs = self.teacher(teacher_pixels, output_attentions=True)
        loss = ours.loss + torch.nn.functional.mse_loss(ours.logits, theirs.logits)
        loss = loss + torch.nn.functional.mse_loss(ours.local_logits, theirs.local_logits)
        return loss + self.distance(*self.alignment(ours.attentions, theirs.attentions)).mean()


def untrained(name: str) -> MLCAKForCXRClassification:
    return MLCAKForCXRClassification(MLCAKConfig.from_pretrained(resolve_model(name)))


def processor(side: int) -> MLCAKImageProcessor:
    return MLCAKImageProcessor(size={"height": side, "width": side})


def make_rows(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (256, 256), dtype=np.uint8),
            "labels": int(rng.integers(2)),
            "local_targets": rng.integers(0, 2, 22).astype(np.float32),
            "index": index,
        }
        for index in range(count)
    ]


def seconds(run, clock) -> float:
    """Time a call until the device has finished."""
    wait = torch.cuda.synchronize if ON_GPU else (lambda: None)
    wait()
    start = clock()
    run()
    wait()
    return clock() - start


def stepper(trainer, batch: dict, prepare=None):
    """A whole optimizer step on a given batch, as the Trainer's loop makes it."""
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    # As in training: on its device, and under autocast if bf16 is asked for.
    model, count = trainer.accelerator.prepare_model(trainer.model).train(), len(batch["labels"])

    def step() -> None:
        inputs = dict(batch) if prepare is None else prepare(dict(batch))
        if isinstance(trainer, MLCAKTrainer):
            trainer.training_step(model, inputs, torch.tensor(count, device=trainer.args.device))
        else:
            trainer.training_step(model, inputs)
        trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        model.zero_grad()

    return step


def make_sides(sizes: Sizes, name: str, teacher, rows: list[dict], collator: MLCAKCollator, cache) -> dict:
    """The three steps of one student, each with its own copy of the same weights."""
    folder = str(cache.folder.parent)
    choices = {"output_dir": folder, "report_to": "none", "disable_tqdm": True, "bf16": sizes.bf16}
    nothing = {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}
    start = untrained(name).state_dict()

    def student():
        model = untrained(name)
        model.load_state_dict(start)
        return model

    batch = collator(rows)
    batch.pop("index", None)
    teacher_pixels = {"teacher_pixel_values": batch.pop("teacher_pixel_values")}
    index = [row["index"] for row in rows]

    def with_knowledge(inputs: dict) -> dict:
        known = cache.read(index, 0)
        return inputs | {f"teacher_{part}": value for part, value in vars(known).items()}

    alone = MLCAKTrainer(student(), args=MLCAKTrainingArguments(**choices, **nothing), data_collator=collator)
    cached = MLCAKTrainer(
        student(), teacher_cache=cache, args=MLCAKTrainingArguments(**choices), data_collator=collator
    )
    online = RecipeTrainer(student(), teacher, TrainingArguments(**choices, use_cpu=not ON_GPU))
    return {
        "alone": stepper(alone, batch),
        "cached": stepper(cached, batch, with_knowledge),
        "online": stepper(online, batch | teacher_pixels),
    }


def measure_steps(sides: dict, rounds: int, online_rounds: int, clock) -> dict[str, list[float]]:
    """Times per round; the first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in sorted(sides, reverse=bool(turn % 2)):
            if name != "online" or turn <= online_rounds:
                times[name].append(seconds(sides[name], clock))
    return {name: values[1:] for name, values in times.items()}


def measure_building(sizes: Sizes, teacher, rows: list[dict], collator, folder: Path, clock) -> dict:
    """Seconds per view for the teacher's forward passes alone, and for building the cache."""
    device, student = torch.device("cuda" if ON_GPU else "cpu"), untrained(sizes.students[0])
    half = torch.bfloat16 if sizes.bf16 else None
    teachers = Teachers(teacher, student).prepare(lambda model: model.to(device), device)
    pixels = [collator(rows[i : i + 32])["teacher_pixel_values"].to(device) for i in range(0, len(rows), 32)]

    @torch.no_grad()
    def bare() -> None:
        with torch.autocast(device.type, half) if half else nullcontext():
            for batch in pixels:
                teacher(batch)

    def build() -> None:
        fill_shards(files, range(files.num_shards), teachers, rows, collator, options)

    options = CacheOptions(1, autocast=half, progress_bar=False)
    files = CacheFiles(folder, describe_cache(teachers, rows, collator, options))
    folder.mkdir()
    times: dict[str, list[float]] = {"bare": [], "build": []}
    for turn in range(sizes.build_rounds):
        for run in (bare, build)[:: -1 if turn % 2 else 1]:
            times[run.__name__].append(seconds(run, clock) / len(rows))
    return times


def process_memory(name: str) -> int:
    """Resident memory of this process in bytes: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def measure_memory(kind: str, name: str, batch: int) -> None:
    """Print the peak memory, in MB, that a training step needs beyond the model."""
    model = untrained(name).train()
    model.set_attn_implementation(kind)
    side = model.config.image_size
    pixels = torch.randn(batch, 1, side, side)
    if ON_GPU:
        model, pixels = model.cuda(), pixels.cuda()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if ON_GPU else process_memory("VmRSS")
    if kind == "sdpa":
        loss = model(pixels).logits.sum()
    elif kind == "eager":
        maps = model.backbone(pixels, output_attentions=True).attentions
        loss = torch.stack([level.mean(dim=1) for level in maps]).mean(dim=0).square().sum()
    else:
        loss = model(pixels, output_attentions=True).mlcak.square().sum()
    loss.backward()
    peak = torch.cuda.max_memory_allocated() if ON_GPU else process_memory("VmHWM")
    print((peak - before) / 1e6)


def ratio(over: list[float], under: list[float]) -> float:
    """Median of the ratios of the same rounds."""
    return statistics.median(a / b for a, b in zip(over, under, strict=False))


def main() -> None:
    (sizes,) = parse_recipe([Sizes])
    torch.set_num_threads(sizes.threads)
    transformers.logging.set_verbosity_error()
    if sizes.memory_of is not None:
        measure_memory(sizes.memory_of, sizes.memory_model, sizes.batch)
        return
    torch.manual_seed(0)
    clock = time.process_time if sizes.cpu_time else time.perf_counter
    teacher = untrained(sizes.teacher).requires_grad_(False).eval()
    rows = make_rows(max(sizes.batch, sizes.build_images))
    collator = MLCAKCollator(processor(28), processor(224), ViewParameters())
    results: dict = {"device": torch.cuda.get_device_name() if ON_GPU else f"CPU, {sizes.threads} threads"}
    print(f"{results['device']}; torch {torch.__version__}; batch {sizes.batch}; teacher {sizes.teacher}")
    with tempfile.TemporaryDirectory() as folder:
        student = untrained(sizes.students[0])
        options = CacheOptions(1, autocast=torch.bfloat16 if sizes.bf16 else None, progress_bar=False)
        cache = build_teacher_cache(Path(folder, "cache"), Teachers(teacher, student), rows, collator, options)
        bytes_per_view = cache.num_bytes / cache.num_images
        size = 15_000 * 8 * bytes_per_view
        print(f"cache: {bytes_per_view:.0f} bytes per view, {size / 1e9:.2f} GB for 15,000 images x 8 views (computed)")
        building = measure_building(
            sizes, teacher, rows[: sizes.build_images], collator, Path(folder, "building"), clock
        )
        build_s = statistics.median(building["build"])
        print(
            f"building: {1000 * build_s:.1f} ms per view, bare teacher pass "
            f"{1000 * statistics.median(building['bare']):.1f} ms: x {ratio(building['build'], building['bare']):.3f}",
            flush=True,
        )
        results |= {"bytes_per_view": bytes_per_view, "building": building, "steps": {}}
        for name in sizes.students:
            sides = make_sides(sizes, name, teacher, rows[: sizes.batch], collator, cache)
            times = measure_steps(sides, sizes.rounds, sizes.online_rounds, clock)
            results["steps"][name] = times
            medians = {side: statistics.median(values) for side, values in times.items()}
            print(f"\n{name}: " + ", ".join(f"{side} {value:.3f} s" for side, value in medians.items()))
            print(f"  cached / alone  {ratio(times['cached'], times['alone']):.3f}")
            print(f"  online / cached {ratio(times['online'], times['cached']):.2f}")
            for views in VIEWS:
                online_s, cached_s = (EPOCHS * medians[side] / sizes.batch for side in ("online", "cached"))
                speed_up = online_s / (cached_s + views * build_s)
                print(f"  in all, {EPOCHS} epochs, V = {views}: {speed_up:.2f} times faster (computed)", flush=True)
    if sizes.memory_model != "none":
        results["memory_mb"] = compare_memory(sizes)
    if sizes.output:
        Path(sizes.output).write_text(json.dumps(results, indent=1))


def compare_memory(sizes: Sizes) -> dict[str, float]:
    """Memory in MB that a step needs beyond the model, for each kind of attention in its own process."""
    found = {}
    for kind in ("sdpa", "mlcak", "eager"):
        command = [sys.executable, __file__, "--memory_of", kind, "--memory_model", sizes.memory_model]
        command += ["--batch", str(sizes.batch // 2)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        found[kind] = float(ran.stdout.split()[-1])
    shown = ", ".join(f"{kind} {value:.0f} MB" for kind, value in found.items())
    print(f"\nmemory of a step of {sizes.memory_model}, batch {sizes.batch // 2}, beyond the model: {shown}")
    print("(sdpa returns no attention; mlcak captures it; eager keeps the maps of all heads)")
    return found


if __name__ == "__main__":
    main()
