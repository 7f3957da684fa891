"""How fast is a large radiograph read into a small square, and is the image the same as that of the full decode?

Speed: this package's `read_radiograph(path, size_px=224)` against the ordinary way (pydicom's pixel_array, then
apply_voi_lut, then Pillow's resize), in turns in one process, median over rounds. Agreement: the same call against the
full image, read and averaged by this package, at 224, 112, 56 and 28 px. The rows are transfer syntaxes, and what makes
reading at reduced resolution hard: a narrow window, a lead marker, a collimator's border, noise at the limit of a
window, percentile limits.

    python examples/benchmarks/decode_radiographs.py
    python examples/benchmarks/decode_radiographs.py --real some/folder/of/dicom    # agreement on your own files too

The radiographs are synthetic (2880x2304, 14 bit) and are kept in `--work-dir`. Exit status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mlcak_hf.errors import DicomError
from mlcak_hf.phantoms.render import render_phantom
from mlcak_hf.radiographs.read import read_radiograph, resize_radiograph

HEIGHT, WIDTH, BITS = 2880, 2304, 14
SIZES = (224, 112, 56, 28)
MIN_PSNR_DB, MAX_DIFFERENCE = 52.0, 8.0
FULL = 2**BITS

# name: picture, transfer syntax, window (center, width), photometric interpretation, voi, least speed-up
CASES: dict[str, tuple[str, str, tuple[int, int], str, str, float]] = {
    "JPEG 2000 lossless": ("plain", JPEG2000Lossless, (FULL // 2, FULL), "MONOCHROME2", "dicom", 12.0),
    "JPEG 2000 lossless, MONOCHROME1": ("plain", JPEG2000Lossless, (FULL // 2, FULL), "MONOCHROME1", "dicom", 12.0),
    "JPEG 2000 lossy 10:1": ("plain", JPEG2000, (FULL // 2, FULL), "MONOCHROME2", "dicom", 6.0),
    "uncompressed": ("plain", ExplicitVRLittleEndian, (FULL // 2, FULL), "MONOCHROME2", "dicom", 2.0),
    "RLE": ("plain", RLELossless, (FULL // 2, FULL), "MONOCHROME2", "dicom", 2.0),
    "lossless, narrow window": ("plain", JPEG2000Lossless, (FULL // 2, FULL // 4), "MONOCHROME2", "dicom", 1.0),
    "lossless, lead marker": ("marker", JPEG2000Lossless, (FULL // 2, FULL), "MONOCHROME2", "dicom", 1.0),
    "lossless, collimator border": ("collimated", JPEG2000Lossless, (FULL // 2, FULL), "MONOCHROME2", "dicom", 1.0),
    "lossless, border, 1760x1500": (
        *("smaller, collimated", JPEG2000Lossless, (FULL // 2, FULL), "MONOCHROME2", "dicom"),
        1.0,
    ),
    "lossless, noise at the limit": (
        *("unexposed", JPEG2000Lossless, (FULL // 2, FULL // 4), "MONOCHROME2", "dicom"),
        1.0,
    ),
    "lossy, noise at the limit": ("unexposed", JPEG2000, (FULL // 2, FULL // 4), "MONOCHROME2", "dicom", 1.0),
    "lossless, percentile limits": ("plain", JPEG2000Lossless, (FULL // 2, FULL), "MONOCHROME2", "percentile", 1.0),
    "uncompressed, narrow window": (
        *("plain", ExplicitVRLittleEndian, (FULL // 2, FULL // 4), "MONOCHROME2", "dicom"),
        1.0,
    ),
}


def picture(kind: str) -> np.ndarray:
    """A synthetic radiograph, uint16 of BITS bits; of shape (HEIGHT, WIDTH) unless `kind` contains "smaller"."""
    phantom = render_phantom(seed=11, index=3, size_px=2400, findings=["Cardiomegaly", "Nodule/Mass"])
    # Only the middle, because the phantom's own markers and collimation are at its borders.
    source = phantom.pixels[tuple(slice(n // 8, n - n // 8) for n in phantom.pixels.shape)]
    width, height = (1500, 1760) if "smaller" in kind else (WIDTH, HEIGHT)
    image = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(0).normal(0, 0.008, image.shape)  # the resize removed the detector's
    image = 0.04 + 0.9 * image
    if kind == "unexposed":  # within a narrow window, except for a noisy area at its lower limit
        image = 3 / 8 + image / 4
        image[:, : width * 3 // 10] = 3 / 8
    image = np.clip(image + noise, 0, 1)
    if kind == "marker":
        for row in range(0, 200, 50):  # letters of lead: bars with sharp edges
            image[240 + row : 265 + row, 180:330] = 1.0
        image[240:415, 180:205] = 1.0
    if "collimated" in kind:
        image[:220], image[-160:], image[:, :140], image[:, -190:] = 0, 0, 0, 0
    return np.rint(image * (2**BITS - 1)).astype(np.uint16)


def write(
    path: Path, pixels: np.ndarray, syntax: str, window: tuple[float, float], photometric: str, bits: int = BITS
) -> None:
    """Write pixels as DICOM, uint8 for 8 bits and uint16 for more."""
    dataset = FileDataset(str(path), {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.itemsize, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = window
    dataset.PixelData = pixels.tobytes()
    if syntax == JPEG2000:
        dataset.compress(JPEG2000, j2k_cr=[10])
    elif syntax == JPEG2000Lossless:
        dataset.compress(syntax, encoding_plugin="pylibjpeg")
    elif syntax == RLELossless:
        dataset.compress(syntax, encoding_plugin="pydicom")
    dataset.save_as(path)


def ordinary(path: Path) -> np.ndarray:
    """Decode, apply the window and resize with Pillow, as most scripts do."""
    dataset = pydicom.dcmread(path)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float32)
    values /= 2**BITS - 1
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = 1 - values
    return np.asarray(Image.fromarray(values).resize((SIZES[0], SIZES[0]), Image.Resampling.BOX))


def seconds(action: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def agreement(path: Path, voi: str) -> dict[int, tuple[float, float]]:
    """For each size: PSNR in dB and largest difference (of 255) from the average of the full image."""
    full = read_radiograph(path, voi=voi)  # type: ignore[arg-type]
    result = {}
    for size in SIZES:
        if min(full.shape) < 2 * size:
            continue
        difference = read_radiograph(path, size_px=size, voi=voi) - resize_radiograph(full, size)  # type: ignore[arg-type]
        rms = max(float(np.sqrt(np.mean(np.square(difference, dtype=np.float64)))), 1e-9)
        result[size] = (-20 * float(np.log10(rms)), 255 * float(np.abs(difference).max()))
    return result


def worst(agreements: list[dict[int, tuple[float, float]]]) -> dict[int, tuple[float, float]]:
    """The lowest PSNR and the largest difference of several files, by size."""
    return {
        size: (
            min(a[size][0] for a in agreements if size in a),
            max(a[size][1] for a in agreements if size in a),
        )
        for size in SIZES
        if any(size in a for a in agreements)
    }


def keeps(agreements: dict[int, tuple[float, float]]) -> bool:
    """Whether every size is within the bars."""
    return all(psnr >= MIN_PSNR_DB and most <= MAX_DIFFERENCE for psnr, most in agreements.values())


def cells(agreements: dict[int, tuple[float, float]]) -> list[str]:
    """Format the agreement of every size for the table."""
    texts = {size: f"{min(psnr, 99):.1f} dB, {most:.1f}" for size, (psnr, most) in agreements.items()}
    return [texts.get(size, "-") for size in SIZES]


def main() -> int:
    """Measure, print, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/decode_radiographs"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--real", type=Path, help="folder of DICOM files, searched through, for the agreement")
    parser.add_argument("--limit", type=int, default=200, help="largest number of those files")
    arguments = parser.parse_args()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    console, missed = Console(width=170), []
    table = Table(
        title=f"{HEIGHT}x{WIDTH}, {BITS} bit, to {SIZES[0]} px: median of {arguments.rounds} alternating rounds"
    )
    for name in ("case", "ordinary", "read_radiograph", "speed-up", "bar", *(f"{s} px" for s in SIZES)):
        table.add_column(name, justify="left" if name == "case" else "right")
    results = {}
    pictures: dict[str, np.ndarray] = {}
    for name, (kind, syntax, window, photometric, voi, bar) in track(CASES.items(), "measuring", console=console):
        path = arguments.work_dir / f"{name.replace(' ', '-').replace(',', '').replace(':', '-')}.dcm"
        if not path.exists():
            if kind not in pictures:
                pictures[kind] = picture(kind)
            write(path, pictures[kind], syntax, window, photometric)
        ours, theirs = [], []
        for _ in range(arguments.rounds + 1):  # the first round warms up
            theirs.append(seconds(lambda path=path: ordinary(path)))
            ours.append(seconds(lambda path=path, voi=voi: read_radiograph(path, size_px=SIZES[0], voi=voi)))
        ratio = statistics.median(t / o for t, o in zip(theirs[1:], ours[1:], strict=True))
        found = agreement(path, voi)
        if ratio < bar or not keeps(found):
            missed.append(name)
        milliseconds = [1000 * statistics.median(times[1:]) for times in (theirs, ours)]
        table.add_row(name, *(f"{ms:.0f} ms" for ms in milliseconds), f"{ratio:.1f}x", f"{bar:g}x", *cells(found))
        results[name] = {"ordinary_ms": milliseconds[0], "ours_ms": milliseconds[1], "ratio": ratio, "agreement": found}
    if arguments.real is not None:
        paths = sorted(p for p in arguments.real.rglob("*") if p.suffix.lower() in (".dcm", ".dicom"))
        for voi in ("dicom", "percentile", "none"):
            agreements = []
            for path in track(paths[: arguments.limit], f"real files, voi={voi}", console=console):
                try:
                    agreements.append(agreement(path, voi))
                except DicomError:
                    continue
            found = worst(agreements)
            if not keeps(found):
                missed.append(f"real files, {voi}")
            table.add_row(f"worst of {len(agreements)} real files, {voi}", "", "", "", "", *cells(found))
            results[f"real, {voi}"] = {"files": len(agreements), "agreement": found}
    console.print(table)
    console.print(
        f"Agreement: lowest PSNR (bar {MIN_PSNR_DB:g} dB) and largest difference of 255 (bar {MAX_DIFFERENCE:g})"
    )
    (arguments.work_dir / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    console.print("every bar is met" if not missed else f"missed: {', '.join(missed)}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
