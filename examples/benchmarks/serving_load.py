"""Load on `mlcak serve`: 500 HTTP requests, 8 at a time, every tenth broken; then 1,000 C-STOREs over 3 associations
with a kill -9 in the middle.

    python examples/benchmarks/serving_load.py --work-dir runs/serving_load

Every answer must be right or a clear 4xx, every object must be predicted exactly once, and memory must stay flat. Exits
with status 1 otherwise. Needs the extra [serve].
"""

from __future__ import annotations

import argparse
import base64
import csv
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import httpx2 as httpx  # the HTTP client of huggingface_hub
import numpy as np
import pydicom
from pynetdicom import AE

from mlcak_hf import RadiographPredictor
from mlcak_hf.phantoms.writer import write_phantoms

BROKEN = [b"", b"<!DOCTYPE html><html>", b"PK\x03\x04" + bytes(5000), bytes(128) + b"DICM" + bytes(900)]
Answer = tuple[int, dict[str, float], str]
Ask = Callable[[bytes], Answer]
AT_ONCE, ASSOCIATIONS, MEMORY_GROWTH = 8, 3, 1.10


class Server:
    """`mlcak serve` with both doors, as a user starts it."""

    def __init__(self, model: str, output: Path) -> None:
        command = [sys.executable, "-m", "mlcak_hf", "serve", model, "--port", "0", "--dicom-port", "0"]
        command += ["--allow", "LOAD", "--output", str(output)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.dicom_port = self.http_port = 0
        for line in self.process.stderr:
            if line.startswith("DICOM"):
                self.dicom_port = int(line.split("127.0.0.1:")[1].split(",")[0])
            if line.startswith("HTTP"):
                self.http_port = int(line.rsplit(":", 1)[1])
            if line.startswith("Research"):
                return
        raise SystemExit("The server did not start.")


def megabytes(process: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{process}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def over_http(port: int) -> Ask:
    """Ask a server: status, scores of the labels, and the sentence of an error."""
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)

    def ask(content: bytes) -> Answer:
        answer = client.post("/predict", files={"file": ("image", content)})
        found = answer.json()
        return answer.status_code, _scores(found.get("predictions", [])), str(found.get("detail", ""))

    return ask


def by_handler(folder: Path) -> Ask:
    """Ask the handler of an Inference Endpoint in this process; an endpoint answers its errors with 400."""
    sys.path.insert(0, str(folder))
    handler = importlib.import_module("handler").EndpointHandler(str(folder))

    def ask(content: bytes) -> Answer:
        try:
            found = handler({"inputs": {"dicom": base64.b64encode(content).decode()}})
        except ValueError as error:
            return 400, {}, str(error)
        return 200, _scores(found), ""

    return ask


def _scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["label"]: row["score"] for row in rows}


def request_load(
    name: str, ask: Ask, process: int, files: list[Path], expected: list[dict[str, float]], count: int
) -> bool:
    """Send many requests, every tenth with a broken file."""
    contents = [file.read_bytes() for file in files]
    seconds, wrong, memory = [], [], []

    def send(number: int) -> None:
        which = None if number % 10 == 9 else number % len(files)
        content = BROKEN[number // 10 % len(BROKEN)] if which is None else contents[which]
        began = time.perf_counter()
        status, scores, sentence = ask(content)
        seconds.append(time.perf_counter() - began)
        if which is None:
            right = 400 <= status < 500 and sentence.endswith(".")
        else:
            right = status == 200 and scores.keys() == expected[which].keys()
            right = right and all(abs(scores[label] - value) < 1e-4 for label, value in expected[which].items())
        if not right:
            wrong.append((number, status, scores, sentence))
        if number % 50 == 49:
            memory.append(megabytes(process))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(send, range(count)))
    p50, p95 = np.percentile(seconds, (50, 95))
    # The first fifth loads what is loaded once.
    early = memory[: max(1, len(memory) // 5)]
    grown = max(memory) / max(early)
    print(f"{name}: {count} requests, {len(wrong)} wrong; median {p50:.3f} s, p95 {p95:.3f} s")
    print(f"{name}: {max(early):.0f} MB after the first fifth, at most x{grown:.3f} later")
    print(*wrong[:5], sep="\n", end="")
    return not wrong and grown <= MEMORY_GROWTH


def copies(files: list[Path], count: int) -> list[pydicom.Dataset]:
    made = []
    for number in range(count):
        dataset = pydicom.dcmread(files[number % len(files)])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        made.append(dataset)
    return made


def dicom_load(model: str, server: Server, output: Path, objects: list[pydicom.Dataset]) -> bool:
    waiting: Queue[pydicom.Dataset] = Queue()
    for dataset in objects:
        waiting.put(dataset)
    state = {"server": server, "stored": 0}
    kinds = {(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID) for dataset in objects}

    def sender(_: int) -> None:
        node = AE(ae_title="LOAD")
        for kind, syntax in sorted(kinds):
            node.add_requested_context(kind, syntax)
        while not waiting.empty():
            connection = node.associate("127.0.0.1", state["server"].dicom_port, ae_title="MLCAK")
            while connection.is_established:
                try:
                    dataset = waiting.get_nowait()
                except Empty:
                    break
                try:
                    status = connection.send_c_store(dataset)
                    stored = "Status" in status and status.Status == 0
                except RuntimeError:
                    stored = False
                if stored:
                    state["stored"] += 1
                else:
                    waiting.put(dataset)  # refused, or the connection broke: send it again
                    time.sleep(0.05)
            if connection.is_established:
                connection.release()
            time.sleep(0.2)

    began = time.perf_counter()
    with ThreadPoolExecutor(ASSOCIATIONS) as pool:
        senders = [pool.submit(sender, number) for number in range(ASSOCIATIONS)]
        while state["stored"] < len(objects) // 2:
            time.sleep(0.01)
        state["server"].process.kill()
        state["server"].process.wait()
        in_journal = Path(f"{output}.journal").read_bytes().count(b"\n") - 1
        in_spool = len(list(Path(f"{output}.spool").glob("*.dcm")))
        print(f"DICOM: killed after {state['stored']} were stored; {in_journal} predicted, {in_spool} in the spool")
        state["server"] = Server(model, output)
        for each in senders:
            each.result()
    stored_s = time.perf_counter() - began
    while any(Path(f"{output}.spool").glob("*.dcm")):
        time.sleep(0.05)
    all_s = time.perf_counter() - began
    state["server"].process.terminate()
    state["server"].process.wait()
    with output.open(newline="", encoding="utf-8") as stream:
        found = sorted(row["image_id"] for row in csv.DictReader(stream))
    right = found == sorted(str(dataset.SOPInstanceUID) for dataset in objects)
    print(f"DICOM: {len(objects)} objects stored in {stored_s:.1f} s and predicted in {all_s:.1f} s, restart included")
    print(f"DICOM: each object is in the results once: {right}")
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="folder to write; it must not exist")
    parser.add_argument("--model", default="pneumonia-28")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument(
        "--endpoint", type=Path, help="folder of `mlcak export MODEL FOLDER --to onnx`: load its handler"
    )
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True)
    phantoms = write_phantoms(args.work_dir / "phantoms", num_train=1, num_test=20, size_px=256, seed=0)
    files = sorted(Path(phantoms.output_dir, "test").iterdir())
    predictor = RadiographPredictor.from_pretrained(args.model, device="cpu")
    expected = [prediction.probabilities for prediction in predictor.predict(files)]
    output, right = args.work_dir / "results.csv", []
    if args.endpoint is not None:
        right.append(request_load("handler", by_handler(args.endpoint), os.getpid(), files, expected, args.requests))
    server = Server(args.model, output)
    ask = over_http(server.http_port)
    right.append(request_load("HTTP", ask, server.process.pid, files, expected, args.requests))
    right.append(dicom_load(args.model, server, output, copies(files, args.objects)))
    print("load average:", *(f"{load:.1f}" for load in os.getloadavg()))
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
