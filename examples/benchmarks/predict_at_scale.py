"""Does `mlcak predict` on thousands of large files take the time of decoding alone, and constant memory?

20 different JPEG 2000 files of 2880x2304 px are hard-linked to thousands of names. Against the command (input checks,
decisions, rows on the disk, table; its start, measured on 20 names, is taken off): decoding alone, and the model alone,
in turns before and after each command. The command decodes the next files while the model runs, so it is held against
the slower of the two by the clock. That needs two idle cores; CPU milliseconds are printed too, without those of the
processes that read. With --workers 1 a thread reads, and Pillow holds Python's lock while it decodes JPEG 2000, so that
decoding and model take turns.

    python examples/benchmarks/predict_at_scale.py                     # 1,000 and 10,000 names
    python examples/benchmarks/predict_at_scale.py --names 200 1000    # a quick look

Exit status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

DISTINCT, BATCH = 20, 16
MAX_RATIO, MAX_MEMORY_GROWTH = 1.15, 1.1


def make_files(folder: Path) -> list[Path]:
    """Large files with different content, made once."""
    import numpy as np
    from decode_radiographs import BITS, picture, write
    from pydicom.uid import JPEG2000Lossless

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:02}.dcm" for number in range(DISTINCT)]
    if not all(file.exists() for file in files):
        pixels = picture("plain")
        for number, file in enumerate(files):
            moved = np.roll(pixels, 8 * number, axis=1)
            write(file, moved, JPEG2000Lossless, (2 ** (BITS - 1), 2**BITS), "MONOCHROME2")
    return files


def link(files: list[Path], folder: Path, names: int) -> None:
    """Give the files that many names in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(names):
        os.link(files[number % DISTINCT], folder / f"{number:06}.dcm")


def cpu_s(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and seconds of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def run_command(model: str, folder: Path, workers: int) -> tuple[float, float, float]:
    """CPU seconds, seconds of the clock and peak memory in MB of one `mlcak predict`."""
    table = folder.with_suffix(".csv")
    table.unlink(missing_ok=True)
    command = [sys.executable, "-m", "mlcak_hf", "predict", model, str(folder), "--output", str(table)]
    command += ["--workers", str(workers)]
    clock, peak_kb = time.perf_counter(), 0
    with TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})
        ended = 0
        while not ended:
            # Not the ru_maxrss of wait4: it begins with the memory of this process.
            status = Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()
            peak_kb = max(peak_kb, int(status[0]) if status else 0)
            ended, code, usage = os.wait4(process.pid, os.WNOHANG)
            time.sleep(0.05)
        elapsed = time.perf_counter() - clock
        if code:
            said.seek(0)
            sys.exit(f"mlcak predict failed:\n{said.read()}")
    with table.open(encoding="utf-8") as stream:
        rows = sum(1 for _ in stream) - 1
    assert rows == len(list(folder.iterdir())), f"{rows} rows"
    return usage.ru_utime + usage.ru_stime, elapsed, peak_kb / 1024


def main() -> int:
    """Measure, print, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/predict_at_scale"))
    parser.add_argument("--model", default="pneumonia-28")
    parser.add_argument("--names", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--workers", type=int, default=2, help="processes of mlcak predict that read files")
    arguments = parser.parse_args()
    import numpy as np
    import torch

    from mlcak_hf import RadiographPredictor, read_radiograph

    torch.set_num_threads(1)
    files = make_files(arguments.work_dir / "distinct")
    predictor = RadiographPredictor.from_pretrained(arguments.model, device="cpu")
    side = predictor.model_input.read_px
    squares = np.stack([read_radiograph(file, size_px=side) for file in files[:BATCH]])

    def decode() -> None:
        for file in files:
            read_radiograph(file, size_px=side)

    def model() -> None:
        for _ in range(10):
            predictor.run(squares, attention=False)

    memory, ratios = [], {}
    link(files, arguments.work_dir / "start", DISTINCT)
    start = run_command(arguments.model, arguments.work_dir / "start", arguments.workers)
    print(f"start with {DISTINCT} names: {start[0]:.1f} CPU s, {start[2]:.0f} MB", flush=True)
    for names in arguments.names:
        folder = arguments.work_dir / f"names-{names}"
        link(files, folder, names)
        decoding, running = [], []
        for _ in range(3):
            decoding.append(cpu_s(decode))
            running.append(cpu_s(model))
        total = run_command(arguments.model, folder, arguments.workers)
        for _ in range(3):
            decoding.append(cpu_s(decode))
            running.append(cpu_s(model))
        decode_ms, model_ms = (
            [1000 * median(times) / count for times in zip(*found, strict=True)]
            for found, count in ((decoding, DISTINCT), (running, 10 * BATCH))
        )
        slower = max(decode_ms[1], model_ms[1])
        predict_ms = [1000 * (total[kind] - start[kind]) / (names - DISTINCT) for kind in (0, 1)]
        ratios[names] = predict_ms[1] / slower
        memory.append(total[2])
        print(
            f"{names} names, CPU ms a file (by the clock): decoding {decode_ms[0]:.1f} ({decode_ms[1]:.1f}), model "
            f"{model_ms[0]:.1f} ({model_ms[1]:.1f}), mlcak predict {predict_ms[0]:.1f} "
            f"({predict_ms[1]:.1f}); {ratios[names]:.3f}x of the slower; peak memory {total[2]:.0f} MB",
            flush=True,
        )
        shutil.rmtree(folder)
    growth = max(memory) / min(memory)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print(f"peak memory, largest / smallest: {growth:.3f} (bar {MAX_MEMORY_GROWTH})")
    missed = [f"{names} names" for names, ratio in ratios.items() if ratio > MAX_RATIO]
    missed += ["memory"] if growth > MAX_MEMORY_GROWTH else []
    print("every bar is met" if not missed else f"missed: {', '.join(missed)}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
