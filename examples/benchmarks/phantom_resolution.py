"""Do the phantoms need resolution? Measured per finding, with 95 % intervals.

(a) A classifier that sees only the DICOM header and the mean and deviation of the pixels. For the small findings, its
    interval must contain 0.5; otherwise, the phantoms could be solved without looking at them.
(b) A fixed small convolutional net on the 224 px image, and on the same image reduced to 28 px and enlarged again. The
    net, its input size and its training are the same, so only the information differs. It learns from the readers'
    labels and from their boxes, which teach it where to look; it is tested on labels only.

    python examples/benchmarks/phantom_resolution.py --work-dir runs/phantom_resolution

About 15 minutes on two free cores. The phantoms and their reduced pixels are kept in the work folder, so a second run
only trains. Exit status 1 if a finding misses its bar. Small findings: 0.5 in the interval of (a), an AUROC of at least
0.80 at 224 px, and at least 0.10 less at 28 px. Large findings: a difference of at most 0.05.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from mlcak_hf.image_processing_mlcak import area_resize, map_boxes
from mlcak_hf.phantoms.plan import DRAWN_FINDINGS
from mlcak_hf.phantoms.writer import write_phantoms
from mlcak_hf.radiographs.read import read_radiograph

HIGH, LOW = 224, 28
# Small, thin or fine findings, which are lost in a 28 px image; the others are not.
SMALL_FINDINGS = ("Nodule/Mass", "Pneumothorax", "Pulmonary fibrosis")
CELLS = 28  # of the net's map, for boxes
BATCH = 16
HEADER_NUMBERS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "ImagerPixelSpacing",
)
HEADER_WORDS = ("PhotometricInterpretation", "Modality", "PatientSex", "VOILUTFunction", "TransferSyntaxUID")


def header_features(path: Path) -> list[float]:
    """Return the contents of a header as numbers; missing entries are -1."""
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    row = []
    for name in HEADER_NUMBERS:
        value = ds.get(name, -1)
        row.append(float(value[0] if isinstance(value, (list, pydicom.multival.MultiValue)) else value))
    for name in HEADER_WORDS:
        word = str(ds.file_meta.get(name, "") if name == "TransferSyntaxUID" else ds.get(name, ""))
        row.append(float(sum(word.encode()) % 97) if word else -1.0)
    row.append(float(str(ds.PatientAge).rstrip("Y")))
    row.append(float("VOILUTSequence" in ds))
    return row


def read_one(path: Path) -> tuple[np.ndarray, list[float]]:
    """Return the 224 px image as uint8, and header and pixel statistics."""
    pixels = read_radiograph(path, size_px=HIGH)
    statistics = [float(pixels.mean()), float(pixels.std())]
    return np.rint(pixels * 255).astype(np.uint8), header_features(path) + statistics


class Split(NamedTuple):
    """One split: images uint8 (n, 224, 224), features (n, k), labels (n, findings), cells (n, findings, 28, 28)."""

    images: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    cells: np.ndarray


def read_split(root: Path, split: str, num_proc: int) -> Split:
    """Read a split. Labels are by majority of the readers; cells are 1 inside a box of such a label."""
    cache = root / f"{split}.npz"
    if cache.is_file():
        return Split(**np.load(cache))
    votes: dict[str, list[list[int]]] = {}
    boxes: dict[str, list[tuple[int, list[float]]]] = {}
    for kind in ("image_labels", "annotations"):
        with (root / "annotations" / f"{kind}_{split}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if kind == "image_labels":
                    votes.setdefault(row["image_id"], []).append([int(row[name]) for name in DRAWN_FINDINGS])
                elif row["class_name"] in DRAWN_FINDINGS:
                    box = [float(row[k]) for k in ("x_min", "y_min", "x_max", "y_max")]
                    boxes.setdefault(row["image_id"], []).append((DRAWN_FINDINGS.index(row["class_name"]), box))
    paths = [root / split / f"{name}.dicom" for name in votes]
    with ProcessPoolExecutor(num_proc) as pool:
        rows = list(track(pool.map(read_one, paths, chunksize=16), f"reading {split}", total=len(paths)))
    labels = np.array([np.mean(v, axis=0) > 0.5 for v in votes.values()]).astype(np.float32)
    cells = np.zeros((len(rows), len(DRAWN_FINDINGS), CELLS, CELLS), dtype=np.uint8)
    for index, name in enumerate(votes):
        size = int(rows[index][1][0]), int(rows[index][1][1])  # Rows, Columns
        for finding, box in boxes.get(name, []):
            if labels[index, finding]:
                x0, y0, x1, y1 = map_boxes([box], size, (CELLS, CELLS), "pad")[0]
                cells[index, finding, int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = 1
    result = Split(np.stack([r[0] for r in rows]), np.array([r[1] for r in rows]), labels, cells)
    np.savez(cache, **result._asdict())
    return result


class SmallNet(nn.Module):
    """The fixed net: strided convolutions, the maximum over 28 x 28 cells, and a coarse view."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int, kernel: int = 3) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
            return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

        self.fine = nn.Sequential(
            *block(2, 16, 2, 5), *block(16, 32, 2), *block(32, 32, 1), *block(32, 64, 2), *block(64, 64, 1)
        )
        self.cells = nn.Conv2d(64, num_labels, 1)
        self.coarse = nn.Sequential(*block(64, 64, 2), *block(64, 32, 2), nn.Flatten(), nn.Dropout(0.5))
        self.head = nn.Linear(32 * 49, num_labels)
        nn.init.constant_(self.cells.bias, -2.0)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (n, 1, 224, 224) to logits (n, findings) and logits of the cells (n, findings, 28, 28)."""
        around = nn.functional.avg_pool2d(images, (17, 1), 1, (8, 0), count_include_pad=False)
        around = nn.functional.avg_pool2d(around, (1, 17), 1, (0, 8), count_include_pad=False)
        fine = self.fine(torch.cat([images, 4 * (images - around)], dim=1))
        cells = self.cells(fine)
        return cells.amax((2, 3)) + self.head(self.coarse(fine)), cells


def to_input(images: np.ndarray, low: bool) -> torch.Tensor:
    """Return (n, 1, 224, 224) standardised pixels; `low` reduces them to 28 px and enlarges them again."""
    pixels = images.astype(np.float32) / 255
    if low:
        pixels = area_resize(pixels, LOW, LOW)
    batch = torch.from_numpy(np.ascontiguousarray(pixels))[:, None]
    if low:
        batch = nn.functional.interpolate(batch, size=(HIGH, HIGH), mode="bilinear", align_corners=False)
    return ((batch - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def cell_loss(cells: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of the cells: one mean inside boxes and one outside, because boxes are small."""
    loss = nn.functional.binary_cross_entropy_with_logits(cells, targets, reduction="none")
    inside = (loss * targets).sum() / targets.sum().clamp(min=1)
    outside = (loss * (1 - targets)).sum() / (1 - targets).sum()
    return 0.2 * inside + outside


def train_net(train: Split, low: bool, options: argparse.Namespace) -> SmallNet:
    """Train the fixed net on the 224 px images, or on the same images reduced to 28 px."""
    torch.manual_seed(options.seed)
    net = SmallNet(train.labels.shape[1]).to(memory_format=torch.channels_last)
    count = len(train.images)
    steps = options.epochs * (count // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.2)
    criterion = nn.BCEWithLogitsLoss()
    generator = torch.Generator().manual_seed(options.seed)
    labels = torch.from_numpy(train.labels)
    for epoch in range(options.epochs):
        net.train()
        total = 0.0
        order = torch.randperm(count, generator=generator)
        for batch in order[: count // BATCH * BATCH].split(BATCH):
            pixels = to_input(train.images[batch.numpy()], low)
            targets = torch.from_numpy(train.cells[batch.numpy()].astype(np.float32))
            if torch.rand((), generator=generator) < 0.5:
                pixels, targets = pixels.flip(3), targets.flip(3)
            logits, cells = net(pixels)
            loss = criterion(logits, labels[batch]) + cell_loss(cells, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        mean = total / (count // BATCH)
        print(f"net at {LOW if low else HIGH} px: epoch {epoch + 1} of {options.epochs}, loss {mean:.3f}", flush=True)
    return net.eval()


@torch.inference_mode()
def predict(net: SmallNet, images: np.ndarray, low: bool) -> np.ndarray:
    """Return logits (n, findings)."""
    parts = np.array_split(np.arange(len(images)), max(1, len(images) // 64))
    return np.concatenate([net(to_input(images[part], low))[0].numpy() for part in parts])


def net_scores(root: Path, low: bool, options: argparse.Namespace) -> np.ndarray:
    """Train one net on one thread and return its logits for the test images."""
    torch.set_num_threads(1)
    net = train_net(read_split(root, "train", 1), low, options)
    return predict(net, read_split(root, "test", 1).images, low)


def shortcut_scores(features: np.ndarray, target: np.ndarray, test_features: np.ndarray, seed: int) -> np.ndarray:
    """Return scores (n,) of a boosted and a linear classifier on header and pixel statistics, averaged by rank."""
    boosted = HistGradientBoostingClassifier(max_iter=80, learning_rate=0.05, max_leaf_nodes=8, random_state=seed)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    ranks = []
    for classifier in (boosted, linear):
        score = classifier.fit(features, target).predict_proba(test_features)[:, 1]
        ranks.append(np.argsort(np.argsort(score)))
    return np.mean(ranks, axis=0)


def interval(values: np.ndarray) -> list[float]:
    """Return the 95 % interval of bootstrap values."""
    return [float(v) for v in np.nanquantile(values, [0.025, 0.975])]


def bootstrap_auroc(scores: np.ndarray, labels: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return the AUROC of every draw; NaN where a draw has one class only."""
    return np.array([roc_auc_score(labels[d], scores[d]) if 0 < labels[d].sum() < len(d) else np.nan for d in draws])


def main() -> int:
    """Make the phantoms, measure, print the table, write the JSON, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/phantom_resolution"))
    parser.add_argument("--num-train", type=int, default=2400)
    parser.add_argument("--num-test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--bootstrap", type=int, default=500)
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    start = time.monotonic()

    root = options.work_dir / f"phantoms-{options.num_train}-{options.num_test}-{options.seed}"
    if not (root / "groups.csv").is_file():
        write_phantoms(
            root,
            num_train=options.num_train,
            num_test=options.num_test,
            seed=options.seed,
            num_proc=options.num_proc,
            overwrite=True,
        )
    train = read_split(root, "train", options.num_proc)
    test = read_split(root, "test", options.num_proc)

    # Two processes with one thread each finish sooner than two trainings in turn with two threads.
    with ProcessPoolExecutor(min(2, options.num_proc), mp_context=get_context("spawn")) as pool:
        nets = {str(HIGH): pool.submit(net_scores, root, False, options)}
        nets[str(LOW)] = pool.submit(net_scores, root, True, options)
        shortcut = [
            shortcut_scores(train.features, train.labels[:, k], test.features, options.seed)
            for k in range(len(DRAWN_FINDINGS))
        ]
        scores = {"shortcut": np.stack(shortcut, axis=1), **{name: done.result() for name, done in nets.items()}}

    draws = np.random.default_rng(options.seed).integers(0, len(test.images), (options.bootstrap, len(test.images)))
    table = Table(title=f"AUROC on {len(test.images)} phantoms, 95 % interval", caption="small findings first")
    for column in ("finding", "positives", "header + mean + deviation", "net, 224 px", "net, 28 px", "lost", "meets"):
        table.add_column(column, justify="left" if column == "finding" else "right")
    findings = {}
    for name in sorted(DRAWN_FINDINGS, key=lambda name: name not in SMALL_FINDINGS):
        k = DRAWN_FINDINGS.index(name)
        labels = test.labels[:, k]
        sampled = {key: bootstrap_auroc(value[:, k], labels, draws) for key, value in scores.items()}
        auroc = {key: float(roc_auc_score(labels, value[:, k])) for key, value in scores.items()}
        lost = auroc[str(HIGH)] - auroc[str(LOW)]
        ranges = {key: interval(value) for key, value in sampled.items()}
        small = name in SMALL_FINDINGS
        if small:
            meets = ranges["shortcut"][0] <= 0.5 <= ranges["shortcut"][1] and auroc[str(HIGH)] >= 0.80 and lost >= 0.10
        else:
            meets = abs(lost) <= 0.05
        findings[name] = {
            "small": small,
            "positives": int(labels.sum()),
            "auroc": auroc,
            "interval": ranges,
            "lost": lost,
            "lost_interval": interval(sampled[str(HIGH)] - sampled[str(LOW)]),
            "meets": bool(meets),
        }
        cells = [f"{auroc[key]:.3f} [{ranges[key][0]:.3f}, {ranges[key][1]:.3f}]" for key in scores]
        table.add_row(name, str(int(labels.sum())), *cells, f"{lost:+.3f}", "yes" if meets else "no")

    duration_s = time.monotonic() - start
    console.print(table)
    console.print(f"{duration_s / 60:.1f} minutes")
    target = options.work_dir / "phantom_resolution.json"
    record = {"options": {k: str(v) for k, v in vars(options).items()}, "duration_s": duration_s, "findings": findings}
    target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    console.print(f"written: {target}")
    missed = [name for name, finding in findings.items() if not finding["meets"]]
    console.print("every bar is met" if not missed else f"missed: {', '.join(missed)}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
