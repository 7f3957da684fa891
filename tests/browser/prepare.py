"""Make what the browser tests need: both versions of the page, radiographs in every encoding, and Python's predictions.

Usage: python prepare.py FOLDER. Real radiographs are added where MLCAK_SHARED_DATA names them; they stay in FOLDER.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import uid

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from vindr_factories import look_up_table, make_dicom

from mlcak_hf import RadiographPredictor
from mlcak_hf.deployment.browser_page import build_page
from mlcak_hf.deployment.export.onnx_folder import export_onnx
from mlcak_hf.image_geometry_mlcak import area_resize
from mlcak_hf.phantoms.render import render_phantom
from mlcak_hf.prediction.tables import write_predictions

MODEL = "pneumonia-28"
BIG_PX = 1500


def stored(
    image: np.ndarray, bits: int, signed: bool = False, inverted: bool = False, low: float = 0.1, high: float = 0.9
):
    """Integers of `bits` that show `image` between two shares of their range."""
    top = 2**bits - 1
    values = np.rint((low + (high - low) * image) * top).astype(np.int64)
    values = top - values if inverted else values
    if signed:
        return (values - 2 ** (bits - 1)).astype(np.int8 if bits == 8 else np.int16)
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def window(bits: int, inverted: bool = False, low: float = 0.1, high: float = 0.9, **elements: Any) -> dict[str, Any]:
    """The window of [`stored`], as elements of a file."""
    top = 2**bits - 1
    ends = [top * (1 - end) for end in (high, low)] if inverted else [top * end for end in (low, high)]
    width = ends[1] - ends[0] + 1
    return {"WindowCenter": round(sum(ends) / 2 + 0.5, 1), "WindowWidth": round(width, 1), **elements}


def write_dicom(folder: Path, images: Iterator[np.ndarray]) -> None:
    """One DICOM file for each transfer syntax, depth, polarity and way to declare the grey values."""

    def write(name: str, bits: int, syntax: str = uid.ExplicitVRLittleEndian, **options: Any) -> None:
        inverted, signed = options.pop("inverted", False), options.pop("signed", False)
        pixels = stored(next(images), bits, signed, inverted)
        photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
        make_dicom(folder / f"{name}.dcm", pixels, bits=bits, photometric=photometric, syntax=syntax, **options)

    write("implicit-12", 12, uid.ImplicitVRLittleEndian, **window(12))
    write("explicit-8-m1", 8, inverted=True, **window(8, True))
    write("explicit-10", 10, **window(10))
    write("explicit-14-m1", 14, inverted=True, **window(14, True))
    write("explicit-16", 16, **window(16))
    write("big-endian-12", 12, uid.ExplicitVRBigEndian, **window(12))
    write("big-endian-8", 8, uid.ExplicitVRBigEndian, **window(8))
    write("deflated-12", 12, uid.DeflatedExplicitVRLittleEndian, **window(12))
    write("signed-12", 12, signed=True, WindowCenter=0, WindowWidth=3200)
    write("rle-8", 8, uid.RLELossless, **window(8))
    write("rle-16-m1", 16, uid.RLELossless, inverted=True, **window(16, True))
    write("rle-signed-12", 12, uid.RLELossless, signed=True, WindowCenter=0, WindowWidth=3200)
    write("jpeg-8", 8, uid.JPEGBaseline8Bit, **window(8))
    write("jpeg-8-m1", 8, uid.JPEGBaseline8Bit, inverted=True, **window(8, True))
    write("jpeg-lossless-12", 12, uid.JPEGLosslessSV1, **window(12))
    write("jpeg-lossless-16-m1", 16, uid.JPEGLossless, inverted=True, **window(16, True))
    write("jpeg-ls-8", 8, uid.JPEGLSLossless, **window(8))
    write("jpeg-ls-12-m1", 12, uid.JPEGLSLossless, inverted=True, **window(12, True))
    write("jpeg-ls-near-12", 12, uid.JPEGLSNearLossless, **window(12))
    write("j2k-8", 8, uid.JPEG2000Lossless, **window(8))
    write("j2k-12-m1", 12, uid.JPEG2000Lossless, inverted=True, **window(12, True))
    write("j2k-14", 14, uid.JPEG2000Lossless, **window(14))
    write("j2k-16", 16, uid.JPEG2000Lossless, **window(16))
    write("j2k-signed-12", 12, uid.JPEG2000Lossless, signed=True, WindowCenter=0, WindowWidth=3200)
    write("j2k-lossy-12", 12, uid.JPEG2000, **window(12))
    write("htj2k-12", 12, uid.HTJ2KLossless, **window(12))
    write("no-window-8", 8)
    write("two-windows-12", 12, WindowCenter=[2000, 900], WindowWidth=[3000, 400])
    write("sigmoid-12-m1", 12, inverted=True, WindowCenter=2048, WindowWidth=2600, VOILUTFunction="SIGMOID")
    write("linear-exact-10", 10, WindowCenter=511.5, WindowWidth=818.4, VOILUTFunction="LINEAR_EXACT")
    write("narrow-window-12", 12, WindowCenter=2500, WindowWidth=700)
    write("rescaled-12", 12, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3095, WindowWidth=6552)
    write("padding-12", 12, PixelPaddingValue=410, PixelPaddingRangeLimit=500, **window(12))
    curve = np.rint(255 * np.linspace(0, 1, 4096) ** 1.5).astype(int).tolist()
    write("voi-lut-12", 12, VOILUTSequence=[look_up_table(curve, 0, 8)])
    write("modality-lut-10-m1", 10, inverted=True, ModalityLUTSequence=[look_up_table(list(range(0, 2048, 2)), 0, 11)])
    for name, syntax, bits, signed in (
        ("large-j2k-14", uid.JPEG2000Lossless, 14, False),
        ("large-j2k-lossy-12", uid.JPEG2000, 12, False),
        ("large-j2k-signed-12", uid.JPEG2000Lossless, 12, True),
    ):
        image = area_resize(next(images), BIG_PX + 31, BIG_PX)
        noisy = np.clip(image + np.random.default_rng(0).normal(0, 0.004, image.shape), 0, 1)
        # The whole range of the stored bits, so that the window clips nothing and the short way is taken.
        pixels = stored(noisy, bits, signed, low=0.02, high=0.98)
        make_dicom(folder / f"{name}.dcm", pixels, bits=bits, syntax=syntax)


def write_pictures(folder: Path, images: Iterator[np.ndarray]) -> None:
    """PNG and JPEG of every kind that Python reads."""

    def grey(image: np.ndarray) -> Image.Image:
        return Image.fromarray(np.rint(image * 255).astype(np.uint8))

    grey(next(images)).save(folder / "grey-8.png")
    Image.fromarray(np.rint(next(images) * 65535).astype(np.uint16)).save(folder / "grey-16.png")
    grey(next(images)).convert("RGB").save(folder / "rgb-8.png")
    transparent = grey(next(images))
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    transparent.save(folder / "grey-alpha-8.png")
    grey(next(images)).quantize(64).save(folder / "palette.png")
    grey(next(images)).quantize(16).convert("L").save(folder / "few-greys.png", bits=4)
    grey(next(images)).convert("1").save(folder / "bits-1.png")
    grey(next(images)).save(folder / "grey.jpg", quality=92)
    plain = grey(next(images))
    tinted = Image.merge(
        "RGB", [plain.point([round(value * share) for value in range(256)]) for share in (1, 0.98, 0.96)]
    )
    tinted.save(folder / "faintly-tinted.jpg", quality=92)
    turned = grey(next(images)).transpose(Image.Transpose.ROTATE_90)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    turned.save(folder / "turned-by-its-tag.jpg", quality=92, exif=orientation)


def write_real(folder: Path) -> None:
    """Some real radiographs, where they are present."""
    shared = os.environ.get("MLCAK_SHARED_DATA")
    if not shared or not Path(shared).is_dir():
        print("NO REAL RADIOGRAPHS: MLCAK_SHARED_DATA names none", file=sys.stderr)
        return
    import pyarrow.parquet as parquet

    for path in sorted(Path(shared).glob("nih-in-vindr-layout/test/*.dicom"))[:8]:
        shutil.copy(path, folder / f"real-{path.name}")
    for file in Path(shared).glob("kermany-pneumonia-224/*.parquet"):
        for row in parquet.ParquetFile(file).read_row_group(0, columns=["image_id", "image"]).slice(0, 8).to_pylist():
            (folder / f"real-{row['image_id']}.jpg").write_bytes(row["image"]["bytes"])


def write_bad(folder: Path, image: np.ndarray) -> None:
    """Files that cannot be used; the tests know the sentence of each."""
    (folder / "text.dcm").write_text("This is a text file.\n" * 20)
    (folder / "page.png").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / "empty.png").write_bytes(b"")
    (folder / "archive.dcm").write_bytes(b"PK\x03\x04" + bytes(400))
    picture = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(picture, "PNG")
    (folder / "cut-off.png").write_bytes(picture.getvalue()[: len(picture.getvalue()) // 2])
    declared = bytearray(picture.getvalue())
    declared[16:24] = (60_000).to_bytes(4, "big") * 2
    (folder / "huge.png").write_bytes(declared)
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8))
    coarse.resize((320, 240), Image.Resampling.BICUBIC).save(folder / "photograph.jpg")
    Image.fromarray(np.full((200, 200), 90, np.uint8)).save(folder / "grey-card.png")
    picture = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(picture, "JPEG")
    (folder / "cut-off.jpg").write_bytes(picture.getvalue()[: len(picture.getvalue()) // 2])
    Image.fromarray(np.rint(image * 4095).astype(np.uint16)).save(folder / "twelve-in-sixteen.png")
    whole = make_dicom(folder / "cut-off.dcm", stored(image, 12), bits=12, **window(12)).read_bytes()
    (folder / "cut-off.dcm").write_bytes(whole[: len(whole) // 2])
    make_dicom(folder / "two-frames.dcm", stored(image, 8), bits=8, NumberOfFrames=2)
    make_dicom(folder / "colour.dcm", stored(image, 8), bits=8, SamplesPerPixel=3, photometric="RGB")
    make_dicom(folder / "declares-60000.dcm", stored(image, 8), bits=8, Rows=60_000, Columns=60_000)
    make_dicom(folder / "no-rows.dcm", stored(image, 8), bits=8, drop=("Rows",))
    make_dicom(folder / "jpeg-12.dcm", stored(image, 12), bits=12, syntax=uid.JPEGExtended12Bit)
    for name, syntax in (("damaged-j2k", uid.JPEG2000Lossless), ("damaged-jpeg-ls", uid.JPEGLSLossless)):
        path = make_dicom(folder / f"{name}.dcm", stored(image, 12), bits=12, syntax=syntax)
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
        path.write_bytes(data)
    make_dicom(folder / "window-of-0.dcm", stored(image, 12), bits=12, WindowWidth=0, WindowCenter=5)


def main(folder: Path) -> None:
    """Make everything in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("good", "bad"):
        (folder / name).mkdir(parents=True)
    drawn = (np.clip(render_phantom(seed=4, index=i, size_px=(300, 224, 512)[i % 3]).pixels, 0, 1) for i in range(100))
    write_dicom(folder / "good", drawn)
    write_pictures(folder / "good", drawn)
    write_real(folder / "good")
    write_bad(folder / "bad", next(drawn))
    predictor = RadiographPredictor.from_pretrained(MODEL, device="cpu")
    files = sorted((folder / "good").iterdir())
    write_predictions(predictor.stream(files), output=folder / "expected.csv", provenance=predictor.provenance)
    export_onnx(MODEL, folder / "onnx")
    packages = folder.parent / "packages"
    pages = {"page": False, "single": True}
    sizes = {name: build_page(folder / "onnx", folder / name, single, packages) for name, single in pages.items()}
    weights = {name: {"sizes": made.sizes, "downloaded": made.downloaded} for name, made in sizes.items()}
    (folder / "weights.json").write_text(json.dumps(weights, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
