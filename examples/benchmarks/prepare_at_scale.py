"""Does `mlcak prepare` survive kills, stay small, and use two cores? Measured on phantoms, with real decoding.

kills    prepare and all its processes are killed (SIGKILL) at random, seeded moments and started again each time. Each
         finished dataset is compared byte for byte with that of an undisturbed run.
memory   peak memory of the whole process tree (proportional set size, sampled) and the peak resident size of its
         largest worker, for a small and a large number of images. Memory is also given without the pages of files,
         because their share depends on what else runs on the machine.
speed    throughput with one and with two processes, alternating; only the call is timed, not the imports.

A few phantoms are drawn; the others are hard links to them with different ids, so every header is read and every image
decoded, but some pictures are identical. Linux only (/proc). Exit status 1 if a bar is missed: all bytes equal after
kills; memory without files at most 10 % more for the most images than for the fewest; two processes 1.7 times as fast
as one.

    python examples/benchmarks/prepare_at_scale.py --work-dir runs/prepare_at_scale
    python examples/benchmarks/prepare_at_scale.py --parts kills --images 1000 --kills 5
"""

from __future__ import annotations

import argparse
import csv
import filecmp
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlcak_hf.phantoms.writer import write_phantoms

MAX_MEMORY_RATIO = 1.10
MIN_SPEED_RATIO = 1.7
PREPARE = [sys.executable, "-c", "from mlcak_hf.cli.main import main; main()", "prepare"]
TIMED = """
import sys, time
from mlcak_hf import prepare_vindr_cxr
if __name__ == "__main__":
    start = time.perf_counter()
    prepare_vindr_cxr(sys.argv[1], sys.argv[2], size_px=int(sys.argv[3]), num_proc=int(sys.argv[4]))
    print(time.perf_counter() - start)
"""


def make_source(root: Path, count: int, drawn: int, size_px: int, seed: int) -> Path:
    """Make a folder of `count` radiographs in VinDr-CXR's layout: links to `drawn` phantoms with different ids."""
    source = root / f"source-{count}-{drawn}-{size_px}-{seed}"
    if (source / "complete").exists():
        return source
    shutil.rmtree(source, ignore_errors=True)
    originals = root / f"drawn-{drawn}-{size_px}-{seed}"
    test = max(1, drawn // 6)
    if not (originals / "groups.csv").is_file():
        write_phantoms(originals, num_train=drawn - test, num_test=test, size_px=size_px, seed=seed, overwrite=True)
    (source / "annotations").mkdir(parents=True)
    for split, share in (("train", count - count // 6), ("test", count // 6)):
        (source / split).mkdir()
        files = sorted((originals / split).glob("*.dicom"))
        for number in range(share):
            os.link(files[number % len(files)], source / split / f"{split}{number:06d}.dicom")
        for kind in ("image_labels", "annotations"):
            copy_table(originals, source, f"{kind}_{split}.csv", split, [file.stem for file in files], share)
    (source / "complete").touch()
    return source


def copy_table(originals: Path, source: Path, name: str, split: str, ids: list[str], count: int) -> None:
    """Repeat a table's rows for each link to their image."""
    with (originals / "annotations" / name).open(newline="") as stream:
        header, *rows = csv.reader(stream)
    of_image: dict[str, list[list[str]]] = {}
    for image_id, *cells in rows:
        of_image.setdefault(image_id, []).append(cells)
    with (source / "annotations" / name).open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for number in range(count):
            for cells in of_image.get(ids[number % len(ids)], []):
                writer.writerow([f"{split}{number:06d}", *cells])


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    names = [sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) for folder in (one, other)]
    return names[0] == names[1] and not any(filecmp.cmpfiles(one, other, names[0], shallow=False)[1:])


def start(source: Path, output: Path, options: argparse.Namespace, log: Path) -> subprocess.Popen[bytes]:
    """Start `mlcak prepare` in a process group of its own."""
    command = [*PREPARE, str(source), str(output), "--size", str(options.size), "--workers", str(options.workers)]
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the process ends, and exit if it failed."""
    if process.wait() != 0:
        sys.exit(f"mlcak prepare failed, see {log}")


def measure_kills(options: argparse.Namespace) -> dict[str, Any]:
    """Kill and restart until there are enough kills, and compare every finished dataset."""
    folder, log = options.work_dir, options.work_dir / "kills.log"
    source = make_source(folder, options.images, options.drawn, options.phantom_size, options.seed)
    expected, output = folder / "undisturbed", folder / "killed"
    partial = output.with_name(f"{output.name}.partial")
    for path in (expected, output, partial):
        shutil.rmtree(path, ignore_errors=True)
    began = time.monotonic()
    finish(start(source, expected, options, log), log)
    undisturbed_s = time.monotonic() - began
    generator = random.Random(options.seed)
    kills: list[dict[str, Any]] = []
    datasets = []
    while True:
        process, enough = start(source, output, options, log), len(kills) >= options.kills
        try:
            moment = generator.uniform(0.0, 1.1 * undisturbed_s)
            process.wait(None if enough else moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            shards = len(list(partial.glob("dataset/data/*.parquet")))
            kills.append({"after_s": round(moment, 2), "finished_shards": shards, "published": output.exists()})
            continue
        finish(process, log)
        datasets.append(same_bytes(expected, output) and not partial.exists())
        if enough:
            break
        shutil.rmtree(output)
    return {
        "images": options.images,
        "shards": len(list(expected.glob("data/*.parquet"))),
        "workers": options.workers,
        "undisturbed_s": round(undisturbed_s, 1),
        "kills": kills,
        "datasets_finished": len(datasets),
        "all_bytes_equal": all(datasets),
    }


def processes_of(session: int) -> list[int]:
    """Ids of the processes of a session."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if int(fields[3]) == session:
                found.append(int(path.name))
    return found


def kilobytes(pid: int, file: str, name: str) -> int:
    """Read one line of a process's memory statistics; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Sample the memory of the process tree while few and many images are prepared."""
    results = []
    for count in options.memory_images:
        source = make_source(options.work_dir, count, options.drawn, options.phantom_size, options.seed)
        output, log = options.work_dir / f"memory-{count}", options.work_dir / "memory.log"
        shutil.rmtree(output, ignore_errors=True)
        shutil.rmtree(output.with_name(f"{output.name}.partial"), ignore_errors=True)
        process, began = start(source, output, options, log), time.monotonic()
        peak, peak_own, largest = 0, 0, dict[int, int]()
        while process.poll() is None:
            pids = processes_of(process.pid)
            peak = max(peak, sum(kilobytes(pid, "smaps_rollup", "Pss") for pid in pids))
            peak_own = max(peak_own, sum(kilobytes(pid, "smaps_rollup", "Pss_Anon") for pid in pids))
            for pid in pids:
                largest[pid] = max(largest.get(pid, 0), kilobytes(pid, "status", "VmHWM"))
            time.sleep(0.1)
        finish(process, log)
        parent = largest.pop(process.pid, 0)
        result = {"images": count, "peak_pss_mb": peak / 1024, "peak_pss_without_files_mb": peak_own / 1024}
        result |= {"parent_peak_rss_mb": parent / 1024}
        result |= {"largest_worker_rss_mb": max(largest.values(), default=0) / 1024}
        results.append(result | {"duration_s": time.monotonic() - began})
        shutil.rmtree(output)
    return {"workers": options.workers, "results": results}


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Time one and two processes, alternating."""
    size = options.speed_phantom_size
    source = make_source(options.work_dir, options.speed_images, options.speed_drawn, size, options.seed)
    durations: dict[int, list[float]] = {1: [], 2: []}
    script = options.work_dir / "timed.py"
    script.write_text(TIMED)
    for _ in range(options.repeats):
        for workers, measured in durations.items():
            output = options.work_dir / "speed"
            shutil.rmtree(output, ignore_errors=True)
            command = [sys.executable, str(script), str(source), str(output), str(options.size), str(workers)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            measured.append(float(done.stdout))
    per_s = {workers: options.speed_images / statistics.median(measured) for workers, measured in durations.items()}
    return {
        "images": options.speed_images,
        "phantom_size_px": size,
        "durations_s": durations,
        "images_per_s": per_s,
        "ratio": per_s[2] / per_s[1],
    }


def memory_ratio(memory: dict[str, Any], key: str = "peak_pss_without_files_mb") -> float:
    """Peak memory for the most images, as a multiple of that for the fewest."""
    rows = sorted(memory["results"], key=lambda row: row["images"])
    return float(rows[-1][key] / rows[0][key])


def missed_bars(results: dict[str, Any]) -> list[str]:
    """The parts that were measured and miss their bar."""
    met = {
        "kills": lambda kills: kills["all_bytes_equal"],
        "memory": lambda memory: memory_ratio(memory) <= MAX_MEMORY_RATIO,
        "speed": lambda speed: speed["ratio"] >= MIN_SPEED_RATIO,
    }
    return [name for name, part in results.items() if not met[name](part)]


def table_of(results: dict[str, Any]) -> Table:
    """Return the results as a table for the terminal."""
    table = Table("part", "measured", "value", title="mlcak prepare at scale")
    if kills := results.get("kills"):
        shards = [kill["finished_shards"] for kill in kills["kills"]]
        table.add_row("kills", "images, shards, workers", f"{kills['images']}, {kills['shards']}, {kills['workers']}")
        table.add_row("", "killed, with so many shards finished", f"{len(shards)} times: {' '.join(map(str, shards))}")
        equal = "all equal" if kills["all_bytes_equal"] else "NOT EQUAL"
        table.add_row("", "datasets finished, bytes", f"{kills['datasets_finished']}, {equal}", end_section=True)
    if memory := results.get("memory"):
        for row in memory["results"]:
            text = f"{row['peak_pss_mb']:.0f} MB, without files {row['peak_pss_without_files_mb']:.0f} MB"
            text += f"; largest worker {row['largest_worker_rss_mb']:.0f} MB resident"
            table.add_row("memory", f"{row['images']} images, {memory['workers']} workers: peak", text)
        text = f"{memory_ratio(memory, 'peak_pss_mb'):.3f}, without files {memory_ratio(memory):.3f}"
        table.add_row("", "most images to fewest", text, end_section=True)
    if speed := results.get("speed"):
        for workers, per_s in speed["images_per_s"].items():
            table.add_row("speed", f"{speed['images']} images, {workers} process(es)", f"{per_s:.1f} images/s")
        table.add_row("", "two processes to one", f"{speed['ratio']:.2f}")
    return table


def main() -> int:
    """Measure, print the table, write the JSON, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/prepare_at_scale"))
    parts = {"kills": measure_kills, "memory": measure_memory, "speed": measure_speed}
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--images", type=int, default=2000, help="for the kills")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--memory-images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--drawn", type=int, default=120, help="different phantoms for kills and memory")
    parser.add_argument("--phantom-size", type=int, default=256, help="their shorter side in pixels")
    parser.add_argument("--speed-images", type=int, default=1500)
    parser.add_argument("--speed-drawn", type=int, default=24)
    parser.add_argument("--speed-phantom-size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="of the stored images")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work_dir = options.work_dir.absolute()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name in options.parts:
        results[name] = parts[name](options)
        record = {"options": {k: str(v) for k, v in vars(options).items()}, **results}
        (options.work_dir / "prepare_at_scale.json").write_text(json.dumps(record, indent=2) + "\n")
    console, missed = Console(width=None if sys.stdout.isatty() else 140), missed_bars(results)
    console.print(table_of(results))
    console.print("every bar is met" if not missed else f"missed: {', '.join(missed)}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
