"""How much faster a 28 px student is than its 224 px teacher with onnxruntime, and what int8 costs.

One image at a time, on one thread, the rounds of all models interleaved; the figure is the smallest processor time of
all rounds, which other work on the machine disturbs least. Speed does not depend on the weights, so the student
(ViT-Ti/4 at 28 px) and the teacher (ViT-B/16 at 224 px) have random ones. A trained model, `--model`, stands beside
them: by default the shipped checkpoint.

With `--images`, the AUROC of that model in float32 and int8 on images it was not trained on: Parquet files with
`image`, `findings` (names) and `image_id`; an image is positive if its findings include `--label`.

    python examples/benchmarks/onnx_speed.py --images nih-cxr-256/train.parquet nih-boxes-256/train.parquet
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image
from sklearn.metrics import roc_auc_score

from mlcak_hf import MLCAKForCXRClassification, OnnxPredictor
from mlcak_hf.deployment.export.onnx_folder import export_onnx
from mlcak_hf.deployment.export.onnx_model import model_graph, with_dtype
from mlcak_hf.pretrained import load_config
from mlcak_hf.probabilities import probabilities
from mlcak_hf.radiographs.read import resize_radiograph
from mlcak_hf.shipped import resolve_model

STUDENT, TEACHER = "student-vit-ti4-28", "teacher-vit-b16-224"
BARS = {"float32": 36.0, "int8": 77.0}
LARGEST_INT8_MB = 6.0


def random_model(size: str, dtype: str, folder: Path) -> Path:
    model = MLCAKForCXRClassification(load_config(resolve_model(size))).eval()
    file = folder / f"{size}-{dtype}.onnx"
    file.write_bytes(with_dtype(model_graph(model, None), dtype).SerializeToString())
    return file


def smallest_times(files: dict[str, Path], rounds: int) -> dict[str, float]:
    """Milliseconds of processor time for one image, the smallest of all rounds."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions, images, best = {}, {}, dict.fromkeys(files, float("inf"))
    for name, file in files.items():
        sessions[name] = InferenceSession(file, options, providers=["CPUExecutionProvider"])
        shape = [1, *sessions[name].get_inputs()[0].shape[1:]]
        images[name] = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        sessions[name].run(None, {"pixel_values": images[name]})
    for _ in range(rounds):
        for name, session in sessions.items():
            start = time.process_time_ns()
            session.run(None, {"pixel_values": images[name]})
            best[name] = min(best[name], (time.process_time_ns() - start) / 1e6)
    return best


def read_images(files: list[Path], label: str, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares and labels; an image that is in two files counts once."""
    squares, labels = {}, {}
    for file in files:
        for row in parquet.read_table(file, columns=["image_id", "image", "findings"]).to_pylist():
            pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L"), np.float32) / 255
            squares[row["image_id"]] = resize_radiograph(pixels, size_px)
            labels[row["image_id"]] = label in row["findings"]
    return np.stack(list(squares.values())), np.array(list(labels.values()))


def scores(predictor: OnnxPredictor, squares: np.ndarray) -> np.ndarray:
    logits = [predictor.run(squares[start : start + 16], False).logits for start in range(0, len(squares), 16)]
    return probabilities(np.concatenate(logits), predictor.problem_type)[:, -1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--model", default="pneumonia-28", help="folder or name of a trained model")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="Parquet files for the AUROC")
    parser.add_argument("--label", default="Pneumonia")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, name = Path(place), Path(args.model).name
        export_onnx(args.model, folder / "trained", ["float32", "int8"])
        files = {
            "teacher float32": random_model(TEACHER, "float32", folder),
            "student float32": random_model(STUDENT, "float32", folder),
            "student int8": random_model(STUDENT, "int8", folder),
            f"{name} float32": folder / "trained" / "model.onnx",
            f"{name} int8": folder / "trained" / "model_int8.onnx",
        }
        times = smallest_times(files, args.rounds)
        for file, best in times.items():
            size = files[file].stat().st_size / 1e6
            print(f"{file:24} {best:8.2f} ms {times['teacher float32'] / best:6.1f}x {size:7.1f} MB")
        missed = [
            f"{dtype} {bar:g}x" for dtype, bar in BARS.items()
            if times["teacher float32"] / times[f"student {dtype}"] < bar
        ]  # fmt: skip
        missed += ["int8 size"] * (files["student int8"].stat().st_size / 1e6 > LARGEST_INT8_MB)
        if args.images:
            whole, small = (OnnxPredictor(folder / "trained" / file) for file in ("model.onnx", "model_int8.onnx"))
            squares, labels = read_images(args.images, args.label, whole.model_input.read_px)
            before, after = scores(whole, squares), scores(small, squares)
            areas = [roc_auc_score(labels, found) for found in (before, after)]
            changes = np.abs(before - after)
            print(f"{name}: {len(labels)} images, {labels.sum()} with {args.label}")
            print(f"AUROC {areas[0]:.4f} float32, {areas[1]:.4f} int8, loss {areas[0] - areas[1]:+.4f}")
            print(f"probability changes by {changes.mean():.4f} on average, by {changes.max():.4f} at most")
    print(f"missed: {', '.join(missed)}" if missed else "every bar is met")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
