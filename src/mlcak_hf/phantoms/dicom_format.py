"""DICOM encoding of a phantom: transfer syntax, bits, polarity, rescaling, window, and fictitious patient data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from .render import Phantom

#: Shares of the transfer syntaxes.
TRANSFER_SYNTAXES: dict[UID, float] = {
    JPEG2000Lossless: 0.40,
    ExplicitVRLittleEndian: 0.25,
    RLELossless: 0.20,
    ImplicitVRLittleEndian: 0.15,
}
BITS_STORED: dict[int, float] = {8: 0.12, 10: 0.13, 12: 0.40, 14: 0.18, 16: 0.17}
#: Shares of the ways to declare the display range: VOI LUT functions, two windows, a lookup table, or none.
WINDOWS: dict[str, float] = {
    "LINEAR": 0.58,
    "two": 0.06,
    "SIGMOID": 0.06,
    "LINEAR_EXACT": 0.05,
    "LUT": 0.05,
    "none": 0.20,
}


Choice = TypeVar("Choice")


def _choose(g: np.random.Generator, shares: dict[Choice, float]) -> Choice:
    return list(shares)[int(g.choice(len(shares), p=list(shares.values())))]


@dataclass(frozen=True)
class DicomFormat:
    """Encoding of one image, independent of its content."""

    transfer_syntax: UID
    bits_stored: int
    monochrome1: bool
    signed: bool
    slope: float | None  # None: no rescale tags
    intercept: float
    window: str
    low: float  # display range, relative to the stored range
    high: float
    padding: bool
    computed_radiography: bool

    @classmethod
    def draw(cls, g: np.random.Generator) -> DicomFormat:
        """Draw a format."""
        u = g.random(8)
        syntax, bits, window = _choose(g, TRANSFER_SYNTAXES), _choose(g, BITS_STORED), _choose(g, WINDOWS)
        signed = bits > 8 and u[0] < 0.15 and window != "LUT"
        rescaled = u[1] < 0.5 and window != "LUT"
        slope: float | None = (float(g.choice([0.5, 2.0, 1.5])) if u[2] < 0.3 else 1.0) if rescaled else None
        intercept = float(g.choice([-1024.0, 100.0, 1000.0])) if rescaled and u[3] < 0.3 else 0.0
        open_range = window in ("none", "LUT")
        return cls(
            transfer_syntax=syntax,
            bits_stored=bits,
            monochrome1=bool(u[4] < 0.3),
            signed=signed,
            slope=slope,
            intercept=intercept,
            window=window,
            low=0.0 if open_range else float(g.uniform(0.08, 0.25)),
            high=1.0 if open_range else float(g.uniform(0.7, 0.92)),
            padding=bool(u[5] < 0.5),
            computed_radiography=bool(u[6] < 0.4),
        )


def stored_values(phantom: Phantom, form: DicomFormat) -> npt.NDArray[Any]:
    """Stored integers of shape (height, width)."""
    top = 2**form.bits_stored - 1
    values = (form.low + (form.high - form.low) * phantom.pixels) * np.float32(top)
    values = np.clip(np.rint(values), 0, top).astype(np.int32)
    values[phantom.collimated] = 0
    if form.monochrome1:
        values = top - values
    if form.signed:
        values -= 2 ** (form.bits_stored - 1)
    dtype = np.int16 if form.signed else np.uint8 if form.bits_stored == 8 else np.uint16
    return np.asarray(values, dtype=dtype)


def _add_display_range(ds: Dataset, form: DicomFormat, g: np.random.Generator) -> None:
    top = 2**form.bits_stored - 1
    low, high = form.low * top, form.high * top
    if form.monochrome1:
        low, high = top - high, top - low
    if form.signed:
        low, high = low - 2 ** (form.bits_stored - 1), high - 2 ** (form.bits_stored - 1)
    slope = 1.0 if form.slope is None else form.slope
    if form.slope is not None:
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = form.intercept, form.slope, "US"
        low, high = slope * low + form.intercept, slope * high + form.intercept
    if form.window == "LUT":
        entries = top + 1
        curve = np.linspace(0, 1, entries)
        curve = curve**2 * (3 - 2 * curve) * 0.5 + curve * 0.5
        lut = Dataset()
        lut.LUTDescriptor = [entries % 65536, 0, 16]  # 0 stands for 65536
        lut.LUTData = np.rint(curve * 65535).astype("<u2").tobytes()
        lut["LUTData"].VR = "OW"
        ds.VOILUTSequence = Sequence([lut])
        return
    if form.window == "none":
        return
    half = 0.0 if form.window == "LINEAR_EXACT" else 0.5  # PS3.3 C.11.2.1.2: LINEAR includes both end values
    center, width = round((low + high) / 2 + half, 2), round(high - low + 2 * half, 2)
    if form.window == "two":
        ds.WindowCenter, ds.WindowWidth = [center, round(center * 0.9, 2)], [width, round(width * 1.6, 2)]
        ds.WindowCenterWidthExplanation = ["NORMAL", "SOFT"]
        return
    ds.WindowCenter, ds.WindowWidth = center, width
    if form.window != "LINEAR" or g.random() < 0.3:
        ds.VOILUTFunction = form.window


def to_dicom(phantom: Phantom, form: DicomFormat, identity: str, group: str, g: np.random.Generator) -> FileDataset:
    """Encode a phantom as a DICOM dataset with fictitious patient data.

    Args:
        phantom (`Phantom`):
            The image.
        form (`DicomFormat`):
            Its encoding.
        identity (`str`):
            Image id, which determines the UIDs.
        group (`str`):
            Patient group, which determines the name and number of the patient.
        g (`np.random.Generator`):
            Generator of the other fictitious data.
    """
    storage = ComputedRadiographyImageStorage if form.computed_radiography else DigitalXRayImageStorageForPresentation
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["mlcak phantom image", identity])
    compressed = form.transfer_syntax.is_compressed
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if compressed else form.transfer_syntax
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["mlcak phantom study", identity])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["mlcak phantom series", identity])
    ds.Modality = "CR" if form.computed_radiography else "DX"

    # Nobody has these names; tests use them to show that no patient data leaves the files.
    number = int(group[1:8], 16) % 1_000_000
    patient = phantom.patient
    ds.PatientName = f"PHANTOM^{'EVE' if patient.female else 'ADAM'}^{number:06d}"
    ds.PatientID = f"PHANTOM-{number:06d}"
    ds.PatientSex = "F" if patient.female else "M"
    ds.PatientAge = f"{patient.age_years:03d}Y"
    year, month, day = 2010 + int(g.integers(10)), 1 + int(g.integers(12)), 1 + int(g.integers(28))
    ds.StudyDate = f"{year}{month:02d}{day:02d}"
    ds.StudyTime = f"{int(g.integers(24)):02d}{int(g.integers(60)):02d}00"
    ds.PatientBirthDate = f"{year - patient.age_years}0101"
    ds.InstitutionName = "PHANTOM HOSPITAL"
    ds.ReferringPhysicianName = "PHANTOM^REFERRER"
    ds.AccessionNumber = f"PH{int(g.integers(10**8)):08d}"
    ds.BodyPartExamined = "CHEST"

    values = stored_values(phantom, form)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if form.monochrome1 else "MONOCHROME2"
    ds.Rows, ds.Columns = values.shape
    ds.ImagerPixelSpacing = [round(phantom.exposure.cm_per_px * 10, 4)] * 2
    ds.BitsAllocated = 8 if form.bits_stored == 8 else 16
    ds.BitsStored, ds.HighBit = form.bits_stored, form.bits_stored - 1
    ds.PixelRepresentation = int(form.signed)
    if form.padding and phantom.collimated.any():
        ds.PixelPaddingValue = int(values[phantom.collimated][0])
    _add_display_range(ds, form, g)
    ds.PixelData = values.astype(values.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OB" if form.bits_stored == 8 else "OW"
    if compressed:
        ds.compress(form.transfer_syntax, generate_instance_uid=False)
    return ds
