"""Is the estimate right by which a JPEG 2000 radiograph is read through its low-pass image? On real files of yours.

For every large radiograph of a folder (any transfer syntax), as it is and with drawn borders, markers and a narrow
window with and without noise at its limit: the low-pass samples that JPEG 2000 would store are computed from its
pixels, for both wavelets and three levels, averaged to four sizes, and compared with the average of the full image.
Printed: how many of these the estimate accepts, how many of those miss a bar (52 dB, 8 of 255), and the largest
difference over its estimate.

    python examples/benchmarks/low_pass_estimate.py some/folder/of/dicom

Exit status 1 if an accepted one misses a bar. Needs some gigabytes of memory and a minute for each file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mlcak_hf.errors import DicomError
from mlcak_hf.radiographs.dicom.reduced import IRREVERSIBLE, REVERSIBLE, clipping, expected_difference
from mlcak_hf.radiographs.reader import read_radiograph
from mlcak_hf.radiographs.resampling import area_overlaps, low_pass_edges, pixel_edges, resample, weights_onto_square

SIZES, LEVELS = (224, 112, 56, 28), (1, 2, 3)
MIN_PSNR_DB, MAX_DIFFERENCE = 52.0, 8.0
SMALLEST_SIDE_PX, LARGER_SIDE_PX = 1024, 2304
# ISO/IEC 15444-1 annex F: the low-pass analysis filters, gain 1.
FILTERS = {
    "5/3": np.array([-1, 2, 6, 2, -1]) / 8,
    "9/7": np.array(
        [
            *(0.026748757411, -0.016864118443, -0.078223266529, 0.266864118443, 0.602949018236),
            *(0.266864118443, -0.078223266529, -0.016864118443, 0.026748757411),
        ]
    ),
}


@lru_cache(maxsize=64)
def low_pass(n: int, level: int, wavelet: str) -> np.ndarray:
    """Matrix of `level` low-pass steps on n samples, mirrored at the ends: shape (ceil(n / 2**level), n)."""
    matrix = np.eye(n, dtype=np.float32)
    taps = FILTERS[wavelet].astype(np.float32)
    for _ in range(level):
        rows = len(matrix)
        centres = np.arange(0, rows, 2)
        step = np.zeros((len(centres), rows), dtype=np.float32)
        for offset, tap in enumerate(taps, start=-(len(taps) // 2)):
            at = np.abs(centres + offset)
            np.add.at(step, (np.arange(len(centres)), np.where(at > rows - 1, 2 * (rows - 1) - at, at)), tap)
        matrix = step @ matrix
    return matrix


def variants(image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The radiograph and what makes it harder; grey values, which a window may take outside [0, 1]."""
    yield "as it is", image
    marked = image.copy()
    marked[100:180, 100:160], marked[300:310, 200:400] = 1, 0
    yield "marker", marked
    print_of = Image.new("L", image.shape[::-1])
    for row, size_px in enumerate((12, 16, 20, 24, 30, 38, 45, 56)):
        position, font = (60 + 40 * row, 60 + 80 * row), ImageFont.load_default(size_px)
        ImageDraw.Draw(print_of).text(position, "AP PORTABLE SUPINE L 80 kV 3 mAs", font=font, fill=255)
    yield "small print", image + (1 - image) * np.asarray(print_of, dtype=np.float32) / 255
    bordered = image.copy()
    bordered[:150], bordered[:, -180:] = 0, 0
    yield "border", bordered
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    slanted = image.copy()
    slanted[rows + 0.07 * columns < 200] = 0
    slanted[columns - 0.05 * rows > image.shape[1] - 250] = 1
    yield "slanted borders", slanted
    yield "narrow window", (image - 0.3) / 0.35
    unexposed = (image - 0.3) / 0.35
    area = unexposed[:, : image.shape[1] * 3 // 10]
    area[:] = np.random.default_rng(0).normal(0, 0.03, area.shape)
    yield "noise at the window's limit", unexposed
    height, width = (max(SMALLEST_SIDE_PX + 5, round(n / 1.6)) for n in image.shape)
    smaller = resample(
        image, *(area_overlaps(pixel_edges(n), m) for n, m in zip(image.shape, (height, width), strict=True))
    )
    yield "smaller", smaller
    hard = smaller.copy()
    hard[:97], hard[:, -83:], hard[300:380, 200:203] = 0, 1, 1
    yield "smaller, borders, line", hard
    factor = LARGER_SIDE_PX / min(image.shape)
    larger = Image.fromarray(image).resize([round(n * factor) for n in image.shape[::-1]], Image.Resampling.BICUBIC)
    hard = np.clip(np.asarray(larger), 0, 1)
    rows, columns = np.mgrid[: hard.shape[0], : hard.shape[1]]
    hard[rows + 0.03 * columns < 150], hard[columns - 0.05 * rows > hard.shape[1] - 250] = 0, 1
    hard[300:400, 300:340], hard[500:512, 300:600] = 1, 0
    yield "larger, borders, marker", hard


def main() -> int:
    """Compare, print, and say whether the estimate holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=10, help="largest number of files")
    arguments = parser.parse_args()
    images = []
    for path in sorted(p for p in arguments.folder.rglob("*") if p.suffix.lower() in (".dcm", ".dicom")):
        try:
            image = read_radiograph(path, voi="none")
        except DicomError:
            continue
        if min(image.shape) >= SMALLEST_SIDE_PX and len(images) < arguments.limit:
            images.append(image)
    if not images:
        print(f"{arguments.folder} holds no radiograph whose shorter side has {SMALLEST_SIDE_PX} pixels or more.")
        return 2
    tally: dict[str, list[float]] = {}
    for image in track(images, "radiographs", console=Console(stderr=True)):
        for name, grey in variants(image):
            counts = tally.setdefault(name, [0, 0, 0, 0.0])
            for accepted, misses, ratio in judged(grey):
                counts[0] += 1
                counts[1] += accepted
                counts[2] += accepted and misses
                counts[3] = max(counts[3], ratio)
    table = Table("variant", "cases", "accepted", "of these outside a bar", "largest difference / estimate")
    for name, (cases, accepted, outside, ratio) in tally.items():
        table.add_row(name, *map(str, (cases, accepted, outside)), f"{ratio:.2f}")
    Console(width=120).print(f"{len(images)} radiographs", table)
    return int(any(counts[2] for counts in tally.values()))


def judged(grey: np.ndarray) -> Iterator[tuple[bool, bool, float]]:
    """For every wavelet, level and size: accepted by the estimate, outside a bar, largest difference / estimate."""
    height, width = grey.shape
    full = np.clip(grey, 0, 1).astype(np.float32)
    reach = min(0.0, float(grey.min())), max(1.0, float(grey.max()))
    for size in SIZES:
        expected = resample(full, *weights_onto_square(pixel_edges(height), pixel_edges(width), size, "pad"))
        for wavelet in FILTERS:
            for level in LEVELS:
                if min(height, width) / 2**level < 2 * size:
                    continue
                samples = low_pass(height, level, wavelet) @ grey.astype(np.float32) @ low_pass(width, level, wavelet).T
                if wavelet != "5/3":
                    samples = np.clip(samples, *reach)  # as decoders do, who keep to the range of the stored values
                weights = weights_onto_square(low_pass_edges(height, level), low_pass_edges(width, level), size, "pad")
                kind = REVERSIBLE if wavelet == "5/3" else IRREVERSIBLE
                largest, rms = expected_difference(
                    samples, weights, min(samples.shape) / size, level, kind, reach, cut_off=wavelet != "5/3"
                )
                off = np.clip(resample(np.clip(samples, *clipping(*reach)), *weights), 0, 1) - expected
                psnr = -20 * np.log10(max(float(np.sqrt(np.mean(np.square(off, dtype=np.float64)))), 1e-9))
                most = 255 * float(np.abs(off).max())
                misses = psnr < MIN_PSNR_DB or most > MAX_DIFFERENCE
                yield largest <= 1 and rms <= 1, bool(misses), most / MAX_DIFFERENCE / max(largest, 1e-9)


if __name__ == "__main__":
    sys.exit(main())
