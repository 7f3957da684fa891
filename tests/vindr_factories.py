"""DICOM files and folders in VinDr-CXR's layout, made on the spot; each carries a patient's tags to be found out."""

from __future__ import annotations

import csv
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

from mlcak_hf.preparation.rows import dataset_features
from mlcak_hf.radiographs.read import read_radiograph
from mlcak_hf.vindr_cxr.label_tables import KAGGLE_LABELS
from mlcak_hf.vindr_cxr.labels import VINDR_CXR_LABELS
from mlcak_hf.vindr_cxr.vindr_source import vindr_label_features

PATIENT_TAGS = {
    "PatientName": "SECRET^Jane",
    "PatientID": "SECRET-4711",
    "PatientBirthDate": "19530217",
    "StudyDate": "20190803",
    "StudyTime": "113059",
    "AccessionNumber": "SECRETACC",
    "InstitutionName": "SECRET Hospital",
    "ReferringPhysicianName": "SECRET^House",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.777777777",
}


def make_dicom(
    path: Path,
    pixels: np.ndarray,
    *,
    bits: int | None = None,
    photometric: str = "MONOCHROME2",
    syntax: str = ExplicitVRLittleEndian,
    drop: Sequence[str] = (),
    **elements: Any,
) -> Path:
    """Write integer `pixels` (H, W) as DICOM; signedness and Bits Allocated follow the array, `elements` the rest."""
    allocated = pixels.dtype.itemsize * 8
    bits = allocated if bits is None else bits
    dataset = FileDataset(str(path), {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    for keyword, value in PATIENT_TAGS.items():
        setattr(dataset, keyword, value)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    big = syntax == pydicom.uid.ExplicitVRBigEndian
    raw = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    dataset.add_new("PixelData", "OB" if allocated == 8 else "OW", raw + b"\0" * (len(raw) % 2))
    if syntax == JPEG2000:
        dataset.compress(JPEG2000, j2k_cr=[10])
    elif syntax in (JPEG2000Lossless, RLELossless):
        dataset.compress(syntax, encoding_plugin="pydicom" if syntax == RLELossless else "pylibjpeg")
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
        if pydicom.uid.UID(syntax).is_encapsulated:
            put_frame(dataset, encode_frame(pixels, bits, syntax) if syntax in IMAGECODECS_SYNTAXES else raw)
    for keyword in drop:
        delattr(dataset.file_meta if keyword == "TransferSyntaxUID" else dataset, keyword)
    encoding = {"implicit_vr": False, "little_endian": True} if "TransferSyntaxUID" in drop else {}
    pydicom.dcmwrite(path, dataset, enforce_file_format=False, **encoding)
    return path


def put_frame(dataset: Dataset, frame: bytes) -> None:
    """Make `frame` the file's compressed image."""
    dataset["PixelData"].value = pydicom.encaps.encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


IMAGECODECS_SYNTAXES = (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
)


def encode_frame(pixels: np.ndarray, bits: int, syntax: str) -> bytes:
    """Compress with imagecodecs. JPEG, JPEG Lossless (lowest `bits` bits) and JPEG-LS (all) know no sign."""
    import imagecodecs

    whole = pixels.view(f"u{pixels.itemsize}")
    codes = whole & whole.dtype.type((1 << bits) - 1)
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        return bytes(imagecodecs.jpeg8_encode(codes, level=98, bitspersample=8 if bits == 8 else 12))
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        predictor = 1 if syntax == JPEGLosslessSV1 else 6
        return bytes(imagecodecs.jpeg8_encode(codes, lossless=True, predictor=predictor, bitspersample=bits))
    if syntax in (JPEGLSLossless, JPEGLSNearLossless):
        return bytes(imagecodecs.jpegls_encode(whole, level=2 if syntax == JPEGLSNearLossless else 0))
    if not hasattr(imagecodecs, "HTJ2K"):
        pytest.skip("HTJ2K ENCODER MISSING: imagecodecs has one for Python 3.11 and newer")
    lossy = {"level": 0.0005, "reversible": False} if syntax == HTJ2K else {"reversible": True}
    return bytes(imagecodecs.htj2k_encode(pixels, **lossy))


def look_up_table(entries: Sequence[int] | bytes, first: int, bits: int, count: int | None = None) -> Dataset:
    """A LUT item; bytes are written as packed words."""
    item = Dataset()
    count = len(entries) if count is None else count
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [count % 65536, first, bits])
    item.add_new("LUTData", "OW" if isinstance(entries, bytes) else "US", entries)
    return item


def chest(height: int = 48, width: int = 40, bits: int = 12, dtype: type = np.uint16, seed: int = 0) -> np.ndarray:
    """A smooth picture with noise that uses the whole range of `bits`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    picture = np.clip(0.5 + 0.4 * np.sin(6 * x) * np.cos(5 * y) + 0.05 * rng.standard_normal((height, width)), 0, 1)
    picture.flat[0], picture.flat[-1] = 0, 1
    values = np.rint(picture * (2**bits - 1)).astype(np.int64)
    return (values - 2 ** (bits - 1) if np.dtype(dtype).kind == "i" else values).astype(dtype)


Votes = Mapping[str, Sequence[str]]


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def label_row(marked: Sequence[str]) -> list[int]:
    """0 or 1 for the 28 labels; "No finding" is set where nothing else is marked."""
    names = tuple(marked) or ("No finding",)
    return [int(name in names) for name in VINDR_CXR_LABELS]


def make_vindr(
    root: Path,
    train: Mapping[str, Votes],
    test: Mapping[str, Sequence[str]],
    train_boxes: Sequence[Sequence[Any]] = (),
    test_boxes: Sequence[Sequence[Any]] = (),
    **dicom: Any,
) -> Path:
    """Write a folder in VinDr-CXR's layout: train images with what each reader marked, test images with theirs."""
    test_header = [{"Other diseases": "Other disease"}.get(name, name) for name in VINDR_CXR_LABELS]
    annotations = root / "annotations"
    rows = [[i, reader, *label_row(m)] for i, votes in train.items() for reader, m in votes.items()]
    write_table(annotations / "image_labels_train.csv", ["image_id", "rad_id", *VINDR_CXR_LABELS], rows)
    rows = [[i, *label_row(m)] for i, m in test.items()]
    write_table(annotations / "image_labels_test.csv", ["image_id", *test_header], rows)
    edges = ["class_name", "x_min", "y_min", "x_max", "y_max"]
    write_table(annotations / "annotations_train.csv", ["image_id", "rad_id", *edges], train_boxes)
    write_table(annotations / "annotations_test.csv", ["image_id", *edges], test_boxes)
    for folder, images in (("train", train), ("test", test)):
        (root / folder).mkdir()
        for number, image_id in enumerate(images):
            make_dicom(root / folder / f"{image_id}.dicom", chest(seed=number), bits=12, **dicom)
    return root


KAGGLE_HEADER = ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max")


def kaggle_row(image_id: str, reader: str, finding: str = "No finding", box: Sequence[Any] = ("",) * 4) -> list[Any]:
    """A row of Kaggle's `train.csv`: a box, or "No finding"."""
    return [image_id, finding, KAGGLE_LABELS.index(finding), reader, *box]


def make_kaggle(root: Path, rows: Sequence[Sequence[Any]], suffix: str = ".dicom", **dicom: Any) -> Path:
    """Write a folder in Kaggle's layout: the rows of `train.csv`, and a file for each image that they name."""
    write_table(root / "train.csv", KAGGLE_HEADER, rows)
    (root / "train").mkdir()
    for number, image_id in enumerate(dict.fromkeys(row[0] for row in rows)):
        make_dicom(root / "train" / f"{image_id}{suffix}", chest(seed=number), bits=12, **dicom)
    return root


def png_of_16_bits(path: Path, colour_type: int, height: int = 4, width: int = 5) -> Path:
    """Write a PNG of 16 bits in any colour type of the format (2 RGB, 4 grey and alpha, 6 RGBA); Pillow cannot."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x12\x34" * (channels * width)) * height)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )
    return path


def to_pictures(root: Path, height: int, width: int, suffix: str = ".png") -> None:
    """Replace every DICOM file of a folder by a picture of another size, as conversions do."""
    for path in [*root.glob("train/*.dicom"), *root.glob("test/*.dicom")]:
        grey = Image.fromarray(np.rint(255 * read_radiograph(path)).astype(np.uint8))
        grey.resize((width, height)).save(path.with_suffix(suffix))
        path.unlink()


def vindr_features(aggregation: str = "majority") -> Any:
    """Columns of a dataset made from VinDr-CXR."""
    return dataset_features(vindr_label_features(aggregation))
