"""Does reduced decoding of a JPEG 2000 radiograph give the same small image as full decoding, whatever is drawn on it?

Phantoms of random sizes and bit depths, with random windows, noise, markers, lines and slanted borders at and off the
limits of window and stored range, lossless and 10:1, are read into squares of 224, 112, 56 and 28 px and compared with
the average of the full image. Printed are how many are read at reduced resolution, and how many of these miss a bar
(52 dB, 8 of 255). The same seed gives the same files.

    python examples/benchmarks/random_radiographs.py --count 200

Exit status 1 if one misses a bar. 200 take 4 minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from decode_radiographs import MAX_DIFFERENCE, MIN_PSNR_DB, SIZES, write
from PIL import Image, ImageDraw
from pydicom.uid import JPEG2000, JPEG2000Lossless
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mlcak_hf.phantoms.render import render_phantom
from mlcak_hf.radiographs.dicom.header import read_header
from mlcak_hf.radiographs.dicom.reduced import read_reduced
from mlcak_hf.radiographs.read import read_radiograph, resize_radiograph

BITS, NOISE, THICKNESS_PX = (8, 10, 12, 14, 16), (0, 0.001, 0.003, 0.008, 0.02), (3, 5, 10, 20, 60, 200)


def sources(number: int) -> list[Image.Image]:
    """Phantoms without their own borders and markers."""
    made = []
    for index in range(number):
        pixels = render_phantom(seed=5, index=index, size_px=512, findings=["Nodule/Mass"] * (index % 2)).pixels
        inner = pixels[tuple(slice(n // 8, n - n // 8) for n in pixels.shape)]
        made.append(Image.fromarray(inner))
    return made


def drawn(rng: np.random.Generator, height: int, width: int, grey_values: list[float]) -> np.ndarray:
    """Bars, letters' strokes and a slanted border of these grey values; NaN elsewhere."""
    canvas = Image.fromarray(np.full((height, width), np.nan, np.float32))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 4)):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        right, bottom = (start + int(rng.choice(THICKNESS_PX)) for start in (x, y))
        pen.rectangle([x, y, right, bottom], fill=float(rng.choice([*grey_values, rng.random()])))
    if rng.random() < 0.4:
        left_px = rng.uniform(50, 300)
        right_px = left_px + rng.uniform(-0.1, 0.1) * width
        border = [(0.0, 0.0), (float(width), 0.0), (float(width), float(right_px)), (0.0, float(left_px))]
        pen.polygon(border, fill=float(rng.choice(grey_values)))
    return np.asarray(canvas)


def make_file(rng: np.random.Generator, path: Path, phantoms: list[Image.Image]) -> tuple[str, int]:
    """Write one file; return its transfer syntax and bits."""
    height = int(rng.integers(1100, 2900))
    width = max(1030, int(height * rng.uniform(0.75, 1.2)))
    phantom = phantoms[rng.integers(len(phantoms))]
    image = 0.04 + 0.9 * np.asarray(phantom.resize((width, height), Image.Resampling.BICUBIC))
    low, span = 0.0, 1.0
    if rng.random() < 0.6:  # a narrow window, which half of the images all but keep to
        span = float(rng.choice([0.25, 0.5, 0.8]))
        low = float(rng.uniform(0, 1 - span))
        if rng.random() < 0.5:
            image = low + span * (rng.uniform(-0.1, 0.3) + image * rng.uniform(0.5, 1.1))
    over = drawn(rng, height, width, [0.0, 1.0, low, low + span])
    noise = rng.choice(NOISE) * rng.standard_normal(image.shape)
    noisy = np.where(np.isnan(over), image, over) + noise  # the detector's, over everything
    if rng.random() < 0.5:
        noisy = np.where(np.isnan(over), noisy, over)  # or drawn afterwards
    bits = int(rng.choice(BITS))
    highest = 2**bits - 1
    pixels = np.rint(np.clip(noisy, 0, 1) * highest).astype(np.uint8 if bits == 8 else np.uint16)
    window = (round(highest * (low + span / 2)), max(2, round(highest * span))) if span < 1 else (2**bits / 2, 2**bits)
    syntax = str(rng.choice([JPEG2000Lossless, JPEG2000]))
    write(path, pixels, syntax, window, str(rng.choice(["MONOCHROME1", "MONOCHROME2"])), bits)
    return syntax, bits


def main() -> int:
    """Make, read both ways, print, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, console = np.random.default_rng(options.seed), Console(width=120)
    phantoms = sources(12)
    tally: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "radiograph.dicom"
        for number in track(range(options.count), "radiographs", console=console):
            syntax, bits = make_file(rng, path, phantoms)
            name = f"{'lossless' if syntax == JPEG2000Lossless else '10:1'}, {bits} bits"
            counts = tally.setdefault(name, [0, 0, 0, 99.0, 0.0])
            voi = "percentile" if rng.random() < 0.15 else "dicom"
            full = read_radiograph(path, voi=voi)  # type: ignore[arg-type]
            for size in SIZES:
                with path.open("rb") as stream:
                    reduced = read_reduced(read_header(stream, voi), size, "pad", voi)  # type: ignore[arg-type]
                counts[0] += 1
                if reduced is None:
                    continue
                off = reduced[0] - resize_radiograph(full, size)
                psnr = -10 * float(np.log10(max(float(np.mean(np.square(off, dtype=np.float64))), 1e-12)))
                most = 255 * float(np.abs(off).max())
                misses = psnr < MIN_PSNR_DB or most > MAX_DIFFERENCE
                counts[1:] = counts[1] + 1, counts[2] + misses, min(counts[3], psnr), max(counts[4], most)
                if misses:
                    console.print(f"file {number} ({name}, {voi}) at {size} px: {psnr:.1f} dB, {most:.1f} of 255")
    table = Table("files", "reads", "by the short way", "of these outside a bar", "lowest PSNR", "largest of 255")
    for name, (reads, short, outside, psnr, most) in sorted(tally.items()):
        table.add_row(name, *map(str, (reads, short, outside)), f"{psnr:.1f} dB", f"{most:.1f}")
    console.print(table)
    return int(any(counts[2] for counts in tally.values()))


if __name__ == "__main__":
    sys.exit(main())
