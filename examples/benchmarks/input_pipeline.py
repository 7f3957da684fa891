"""Does the input keep up with the step? Time and exactness of a student's views, waiting, and growth with the dataset.

    python examples/benchmarks/input_pipeline.py --dataset nih-cxr-256/train.parquet

1. Milliseconds per image for students of 28, 56 and 112 px, both ways alternating: as usual (decode the PNG every time,
   `grid_sample` at the stored size, one product with dense area weights) and as here (decoded once, exact averages).
   Both read the same stored images and draw the same views.
2. The largest deviation from the area average of the continuous image, made of 81 points in every pixel of a 224 px
   teacher in double precision: of the usual way from the bilinearly interpolated image; of the way here from that, and
   from the image that teacher and student see by definition (linear along rows, then along the view's columns).
3. The share of a training step spent waiting for data, with 0 and 2 worker processes.
4. Time of an epoch and memory of the process for datasets that grow.

Without --dataset the images are drawn. Times of part 1 are processor time of one thread, medians over rounds.
"""

import io
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from transformers import HfArgumentParser, PrinterCallback, TrainerCallback

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.columns import DatasetColumns, Targets
from mlcak_hf.data.decoded_images import decode_once
from mlcak_hf.data.sources import RadiographDataset, open_dataset
from mlcak_hf.data.view_pixels import view_pixels
from mlcak_hf.data.views import View, ViewParameters
from mlcak_hf.image_geometry_mlcak import area_weights
from mlcak_hf.shipped import resolve_model
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.trainer import MLCAKTrainer

SIDES = (28, 56, 112)
TEACHER = 224
# Points of the definition along a side: 9 in every pixel of the teacher, a whole number in those of all students.
POINTS = 9 * TEACHER
FEATURES = Features({"image": Image(), "label": Value("int64")})


@dataclass
class Sizes:
    """How much is measured."""

    dataset: str | None = field(default=None, metadata={"help": "Parquet file with a column of stored images"})
    images: int = field(default=256, metadata={"help": "Number of images that are timed"})
    compared: int = field(default=64, metadata={"help": "Of these, compared with the definition (a second for each)"})
    rounds: int = field(default=7, metadata={"help": "Rounds of timing"})
    steps: int = field(default=12, metadata={"help": "Training steps, to see how long they wait"})
    model: str = field(default="student-vit-ti4-28", metadata={"help": "Student of these steps"})
    batch_size: int = field(default=64, metadata={"help": "Of these steps"})
    growth: list[int] = field(default_factory=lambda: [2000, 8000, 32000], metadata={"help": "Sizes of datasets"})
    growth_px: int = field(default=128, metadata={"help": "Side of their images"})


def drawn_image(seed: int, side: int) -> np.ndarray:
    """A smooth image with fine noise; its PNG file is about as large as a radiograph's."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = sum(rng.normal() * np.cos(6 * (fx * x + fy * y) + p) for fx, fy, p in rng.uniform(-3, 3, (12, 3)))
    grey = 127 + 60 * waves / np.abs(waves).max() + rng.normal(0, 4, (side, side))
    return np.clip(grey, 0, 255).astype(np.uint8)


def as_png(image: PILImage.Image) -> bytes:
    """The bytes that a dataset stores."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drawn_dataset(count: int, side: int, folder: str) -> Dataset:
    """A dataset on disk; its images repeat after 64."""
    stored = [as_png(PILImage.fromarray(drawn_image(seed, side))) for seed in range(64)]
    rows = ({"image": {"bytes": stored[i % 64], "path": None}, "label": i % 2} for i in range(count))
    return Dataset.from_generator(
        lambda: rows, features=FEATURES, cache_dir=folder, fingerprint=f"drawn-{count}-{side}"
    )


def the_usual_way(png: bytes, view: View, side: int) -> np.ndarray:
    """Decode, expose, sample with torch, reduce with dense weights: float32."""
    image = torch.tensor(np.asarray(PILImage.open(io.BytesIO(png)).convert("L"))).float()[None, None] / 255
    exposed = (view.contrast * image**view.gamma).clamp(0, 1)
    grid = F.affine_grid(torch.from_numpy(view.matrix()).float()[None], list(image.shape), align_corners=False)
    sampled = F.grid_sample(exposed, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0]
    rows, columns = (torch.tensor(area_weights(n, side)) for n in sampled.shape)
    return (rows @ sampled @ columns.T).numpy()


def continuous(image: np.ndarray, view: View, bilinear: bool) -> np.ndarray:
    """Exposed stored pixels, interpolated at `(POINTS, POINTS)` points of the view, in double precision.

    Linearly along rows, and from row to row straight down (bilinear) or along the columns of the view.
    """
    height, width = image.shape
    exposed = np.pad(np.clip(view.contrast * (image / 255.0) ** view.gamma, 0, 1), 4)
    places = (2 * np.arange(POINTS) + 1) / POINTS - 1
    (of_x, of_y), x, y = view.matrix(), places[None], places[:, None]
    columns = (of_x[0] * x + of_x[1] * y + of_x[2] + 1) * width / 2 + 3.5
    rows = np.clip((of_y[0] * x + of_y[1] * y + of_y[2] + 1) * height / 2 + 3.5, 1, height + 6)
    top = rows.astype(int)
    share = rows - top
    shear = 0.0 if bilinear else of_x[1] / of_y[1] * width / height

    def along(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        column = np.clip(column, 1, width + 5)
        left = column.astype(int)
        return (1 - column + left) * exposed[row, left] + (column - left) * exposed[row, left + 1]

    return (1 - share) * along(top, columns - share * shear) + share * along(top + 1, columns + (1 - share) * shear)


def averages(points: np.ndarray, side: int) -> np.ndarray:
    """Area averages of the points of the definition."""
    return points.reshape(side, POINTS // side, side, POINTS // side).mean(axis=(1, 3))


def plain_processor(side: int) -> MLCAKImageProcessor:
    """Leaves grey values in [0, 1], so that deviations are in grey levels."""
    return MLCAKImageProcessor(size={"height": side, "width": side}, do_normalize=False)


def measure_views(sizes: Sizes, rows: Dataset, folder: str) -> None:
    """Parts 1 and 2."""
    decoded_images = decode_once(rows, plain_processor(28), folder=folder)
    stored = [as_png(rows[i]["image"].convert("L")) for i in range(len(rows))]
    parameters = ViewParameters()
    views = [parameters.draw(0, 0, index) for index in range(len(rows))]
    sides = (*SIDES, TEACHER)
    off: dict[str, list[float]] = {way: [0.0] * len(sides) for way in ("usual", "bilinear", "definition")}
    for image, png, view in zip((decoded_images[i] for i in range(sizes.compared)), stored, views, strict=False):
        here = view_pixels(image, view, sides)
        usual = [the_usual_way(png, view, side) for side in sides]
        for bilinear in (True, False):
            points = continuous(image, view, bilinear)
            for way, made in (("usual", usual), ("bilinear", here)) if bilinear else (("definition", here),):
                for place, side in enumerate(sides):
                    deviation = 255 * float(np.abs(made[place] - averages(points, side)).max())
                    off[way][place] = max(off[way][place], deviation)
    print(
        f"{len(rows)} images of {decoded_images[0].shape[0]} px, batches of 64, one thread; {sizes.compared} compared"
    )
    print("largest deviation        " + "".join(f"{side:5d} px     " for side in sides))
    for way, title in (
        ("usual", "as usual, from bilinear"),
        ("bilinear", "here, from bilinear"),
        ("definition", "here"),
    ):
        print(f"  {title:23s}" + "".join(f"{value:5.2f}/255   " for value in off[way]))
    print("student    as usual: ms per image    here: ms per image    times as fast")
    for side in SIDES:
        collator = MLCAKCollator(plain_processor(side), views=parameters, seed=0)
        batches = [range(first, min(first + 64, len(rows))) for first in range(0, len(rows), 64)]

        def usually(side: int = side) -> None:
            for png, view in zip(stored, views, strict=True):
                the_usual_way(png, view, side)

        def ours(collator: MLCAKCollator = collator, batches: list[range] = batches) -> None:
            for batch in batches:
                collator([{"decoded": decoded_images[i], "index": i} for i in batch])

        seconds: dict[str, list[float]] = {"usual": [], "here": []}
        for _ in range(sizes.rounds):
            for name, way in (("usual", usually), ("here", ours)):
                begun = time.process_time()
                way()
                seconds[name].append(1000 * (time.process_time() - begun) / len(rows))
        usual_ms, here_ms = np.median(seconds["usual"]), np.median(seconds["here"])
        print(
            f"{side:4d} px {usual_ms:24.2f} {here_ms:21.2f} {usual_ms / here_ms:16.1f}",
            flush=True,
        )


def radiographs(rows: Dataset, config: MLCAKConfig, processor: MLCAKImageProcessor, folder: str) -> RadiographDataset:
    """Rows of the global label alone, decoded once."""
    targets = Targets(config, rows, DatasetColumns(findings=None))
    dataset = RadiographDataset(rows, targets)
    dataset.decoded_images = decode_once(rows, processor, folder=folder)
    return dataset


def train(dataset: RadiographDataset, config: MLCAKConfig, processor: MLCAKImageProcessor, callback=None, **choices):
    """Train a plain student with views; returns what was logged."""
    settings = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "learning_rate": 1e-4, "seed": 0}
    with tempfile.TemporaryDirectory() as output:
        args = MLCAKTrainingArguments(output, alpha=0, beta=0, gamma=0, **settings, **choices)
        trainer = MLCAKTrainer(
            MLCAKForCXRClassification(config),
            args=args,
            data_collator=MLCAKCollator(processor, views=ViewParameters(), seed=0),
            train_dataset=dataset,
            callbacks=[] if callback is None else [callback],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.state.log_history


def measure_waiting(sizes: Sizes, rows: Dataset, folder: str) -> None:
    """Part 3."""
    model = resolve_model(sizes.model)
    config, processor = MLCAKConfig.from_pretrained(model, local_labels=[]), MLCAKImageProcessor.from_pretrained(model)
    dataset = radiographs(rows.select(np.arange(sizes.batch_size * sizes.steps) % len(rows)), config, processor, folder)
    batch = {"per_device_train_batch_size": sizes.batch_size, "max_steps": sizes.steps, "logging_steps": 1}
    print(f"\n{sizes.model}, batch {sizes.batch_size}, {sizes.steps} steps (the first three are left out)")
    for workers in (0, 2):
        log = train(dataset, config, processor, dataloader_num_workers=workers, **batch)
        steps = [entry for entry in log if "data_wait_share" in entry][3:]
        seconds = [1 / entry["images_per_second"] for entry in steps]
        wait = sum(entry["data_wait_share"] * each for entry, each in zip(steps, seconds, strict=True)) / sum(seconds)
        speed = len(seconds) / sum(seconds)
        print(f"{workers} workers: {speed:6.1f} images a second, {100 * wait:4.1f} % of the step is waiting for data")


class Memory(TrainerCallback):
    """Memory of the process without pages of files, after the fifth step and at the end."""

    def __init__(self):
        self.mib: list[float] = []

    def note(self):
        lines = Path("/proc/self/status").read_text().splitlines()
        self.mib.append(next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            self.note()

    def on_train_end(self, args, state, control, **kwargs):
        self.note()


def measure_growth(sizes: Sizes, folder: str) -> None:
    """Part 4."""
    backbone = {"model_type": "vit", "image_size": 28, "patch_size": 7, "num_channels": 1, "hidden_size": 16}
    backbone |= {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config, processor = MLCAKConfig(backbone_config=backbone, local_labels=[]), plain_processor(28)
    print(f"\nAn epoch of a minimal student, images of {sizes.growth_px} px, no workers")
    print("images     seconds    ms per image    MiB after 5 steps    MiB at the end")
    for count in sizes.growth:
        dataset = radiographs(drawn_dataset(count, sizes.growth_px, folder), config, processor, folder)
        memory = Memory()
        choices = {"num_train_epochs": 1, "per_device_train_batch_size": 64, "logging_steps": 100}
        log = train(dataset, config, processor, memory, **choices)
        seconds = log[-1]["train_runtime"]
        first, last = memory.mib
        print(
            f"{count:6d}    {seconds:7.1f}    {1000 * seconds / count:12.2f}    {first:17.0f}    {last:14.0f}",
            flush=True,
        )


def main(sizes: Sizes) -> None:
    """Measure all four parts."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        if sizes.dataset is None:
            rows = drawn_dataset(sizes.images, 256, folder)
        else:
            rows = next(iter(open_dataset(sizes.dataset).values()))
            rows = rows.select(range(min(sizes.images, len(rows)))).select_columns(["image"])
            rows = rows.add_column("label", [i % 2 for i in range(len(rows))])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        measure_views(sizes, rows, folder)
        torch.set_num_threads(threads)
        measure_waiting(sizes, rows, folder)
        measure_growth(sizes, folder)


if __name__ == "__main__":
    main(*HfArgumentParser(Sizes).parse_args_into_dataclasses())
