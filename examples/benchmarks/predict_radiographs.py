"""How fast are radiographs predicted, and do the probabilities depend on the way they were read?

One model of 28 px on JPEG 2000 files of 2880x2304 px. The ordinary way reads each file at full size and runs the model
on it, one file after the other. Against it, in alternating rounds: `RadiographPredictor` with one and with two workers.
How much a second core adds depends on the machine (two hardware threads of one core are not two cores), so the same
files are also predicted by two independent processes at once, each with one worker: no way to use two cores is faster,
and two workers are compared with it. Also: peak memory with four times as many files, probabilities against those of
full decoding and between batch sizes, and files of 256 px.

    python examples/benchmarks/predict_radiographs.py
    python examples/benchmarks/predict_radiographs.py --files 24 --rounds 1    # a quick look

Run it on an idle machine with at least two cores. Exit status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlcak_hf import RadiographPredictor

SIZE_PX, DISTINCT = 28, 4
# Two workers should use 85 % of a second core: 1.7x where two independent processes are twice as fast as one.
BARS = {"one worker": 8.0, "two workers / two processes": 0.85, "256 px": 1.0}
MAX_MEMORY_GROWTH, MAX_BATCH_DIFFERENCE, MAX_DIFFERENCE = 1.1, 1e-6, 0.01


def make_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Large and small files, made once."""
    from decode_radiographs import BITS, picture, write
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

    folder.mkdir(parents=True, exist_ok=True)
    large, small = ([folder / f"{name}-{n}.dcm" for n in range(DISTINCT)] for name in ("large", "small"))
    if not all(path.exists() for path in (*large, *small)):
        pixels, window = picture("plain"), (2 ** (BITS - 1), 2**BITS)
        for n, (path, small_path) in enumerate(zip(large, small, strict=True)):
            shifted = pixels[:, ::-1].copy() if n % 2 else pixels
            shifted = shifted // (1 + n // 2)
            write(path, shifted, JPEG2000Lossless, window, "MONOCHROME2")
            write(small_path, shifted[::9, ::9].copy(), ExplicitVRLittleEndian, window, "MONOCHROME2")
    return large, small


def make_predictor() -> RadiographPredictor:
    """A model of the size of ViT-Ti with random weights."""
    import torch

    from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor, RadiographPredictor

    torch.manual_seed(0)
    backbone = {"model_type": "vit", "image_size": SIZE_PX, "patch_size": 4, "num_channels": 1, "hidden_size": 192}
    backbone |= {"num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    model = MLCAKForCXRClassification(MLCAKConfig(backbone_config=backbone))
    return RadiographPredictor(model, MLCAKImageProcessor(size={"height": SIZE_PX, "width": SIZE_PX}), device="cpu")


def ordinary(predictor: RadiographPredictor, files: list[Path]) -> list[float]:
    """Read at full size, then the model, one file after the other."""
    import torch

    from mlcak_hf import read_radiograph

    abnormal = []
    for file in files:
        pixels = predictor.processor(read_radiograph(file), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            abnormal.append(float(predictor.model(pixels).logits.softmax(-1)[0, 1]))
    return abnormal


def ours(predictor: RadiographPredictor, files: list[Path], **options: Any) -> list[float]:
    """Predict with this package."""
    return [prediction.probabilities["Abnormal"] for prediction in predictor.predict(files, **options)]


def per_file(predict: Any, *arguments: Any, **options: Any) -> float:
    """Seconds for each file."""
    start = time.perf_counter()
    predict(*arguments, **options)
    return (time.perf_counter() - start) / len(arguments[1])


def _predict_alone(files: list[Path], start: Any, end: Any) -> None:
    import torch

    torch.set_num_threads(1)
    predictor = make_predictor()
    ours(predictor, files[:DISTINCT])  # loads the decoder
    start.wait()
    ours(predictor, files)
    end.wait()


def two_processes(files: list[Path]) -> float:
    """Seconds for each file if two independent processes predict half of the files each, without their start."""
    context = multiprocessing.get_context("spawn")
    start, end = context.Barrier(3), context.Barrier(3)
    halves = [files[: len(files) // 2], files[len(files) // 2 :]]
    processes = [context.Process(target=_predict_alone, args=(half, start, end), daemon=True) for half in halves]
    for process in processes:
        process.start()
    start.wait(timeout=300)
    began = time.perf_counter()
    end.wait(timeout=3600)
    return (time.perf_counter() - began) / len(files)


def main() -> int:
    """Measure, print, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/predict_radiographs"))
    parser.add_argument("--files", type=int, default=240, help="large files in a round, copies included")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    distinct, small = make_files(arguments.work_dir)
    predictor, files = make_predictor(), distinct * (arguments.files // DISTINCT)
    ratios: dict[str, list[float]] = {name: [] for name in (*BARS, "two workers / one")}
    full = ordinary(predictor, distinct)
    difference = max(abs(a - b) for a, b in zip(full, ours(predictor, distinct), strict=True))
    batches = [ours(predictor, files[:24], batch_size=size) for size in (1, 5, 16)]
    by_batch = max(max(values) - min(values) for values in zip(*batches, strict=True))
    for _ in range(arguments.rounds):
        slow = per_file(ordinary, predictor, distinct)
        one = per_file(ours, predictor, files)
        two, independent = per_file(ours, predictor, files, workers=2), two_processes(files)
        ratios["one worker"].append(slow / one)
        ratios["two workers / one"].append(one / two)
        ratios["two workers / two processes"].append(independent / two)
        slow_small = per_file(ordinary, predictor, small * 25)
        ratios["256 px"].append(slow_small / per_file(ours, predictor, small * 25))
        print(
            f"full {1000 * slow:.0f} ms, one worker {1000 * one:.1f} ms, two workers {1000 * two:.1f} ms, "
            f"two independent processes {1000 * independent:.1f} ms a file"
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours(predictor, files * 4)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / before
    missed = []
    print(f"two workers / one: {statistics.median(ratios['two workers / one']):.2f}x")
    for name, bar in BARS.items():
        ratio = statistics.median(ratios[name])
        print(f"{name}: {ratio:.2f}x (bar {bar:g}x)")
        missed += [name] if ratio < bar else []
    for name, value, bar in (
        ("peak memory with four times the files", growth, MAX_MEMORY_GROWTH),
        ("largest difference of a probability between batch sizes", by_batch, MAX_BATCH_DIFFERENCE),
        ("largest difference of a probability to full decoding", difference, MAX_DIFFERENCE),
    ):
        print(f"{name}: {value:.2g} (bar {bar:g})")
        missed += [name] if value > bar else []
    print("every bar is met" if not missed else f"missed: {', '.join(missed)}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
