"""DICOM encoding of a phantom: transfer syntax, bits, polarity, rescaling, window, and fictitious patient data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from .render import Phantom

#: Shares of the transfer syntaxes.
TRANSFER_SYNTAXES: dict[uid.UID, float] = {
    uid.JPEG2000Lossless: 0.40,
    uid.ExplicitVRLittleEndian: 0.25,
    uid.RLELossless: 0.20,
    uid.ImplicitVRLittleEndian: 0.15,
}
BITS_STORED: dict[int, float] = {8: 0.12, 10: 0.13, 12: 0.40, 14: 0.18, 16: 0.17}
#: Shares of the ways to declare the display range: VOI LUT functions, two windows, a lookup table, or none.
WINDOWS = {"LINEAR": 0.58, "two": 0.06, "SIGMOID": 0.06, "LINEAR_EXACT": 0.05, "LUT": 0.05, "none": 0.20}


def _choose(g: np.random.Generator, shares: dict[Any, float]) -> Any:
    return list(shares)[g.choice(len(shares), p=list(shares.values()))]


class DicomFormat:
    """Encoding of one image, independent of its content."""

    def __init__(self, g: np.random.Generator) -> None:
        u = g.random(8)
        self.transfer_syntax: uid.UID = _choose(g, TRANSFER_SYNTAXES)
        self.bits_stored: int = _choose(g, BITS_STORED)
        self.window: str = _choose(g, WINDOWS)
        self.top = 2**self.bits_stored - 1
        self.monochrome1 = bool(u[4] < 0.3)
        self.signed = bool(self.bits_stored > 8 and u[0] < 0.15 and self.window != "LUT")
        self.smallest = -(2 ** (self.bits_stored - 1)) if self.signed else 0
        self.rescaled = bool(u[1] < 0.5 and self.window != "LUT")
        self.slope = float(g.choice([0.5, 2.0, 1.5])) if self.rescaled and u[2] < 0.3 else 1.0
        self.intercept = float(g.choice([-1024.0, 100.0, 1000.0])) if self.rescaled and u[3] < 0.3 else 0.0
        # Display range, relative to the stored range.
        open_range = self.window in ("none", "LUT")
        self.low, self.high = (0.0, 1.0) if open_range else (g.uniform(0.08, 0.25), g.uniform(0.7, 0.92))
        self.padding, self.computed_radiography = bool(u[5] < 0.5), bool(u[6] < 0.4)


def _stored_values(phantom: Phantom, form: DicomFormat) -> npt.NDArray[Any]:
    """Stored integers of shape (height, width)."""
    values = (form.low + (form.high - form.low) * phantom.pixels) * np.float32(form.top)
    values = np.clip(np.rint(values), 0, form.top).astype(np.int32)
    values[phantom.collimated] = 0
    values = (form.top - values if form.monochrome1 else values) + form.smallest
    return np.asarray(values, "<i2" if form.signed else "u1" if form.bits_stored == 8 else "<u2")


def _add_display_range(ds: Dataset, form: DicomFormat, g: np.random.Generator) -> None:
    if form.rescaled:
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = form.intercept, form.slope, "US"
    if form.window == "LUT":
        curve = np.linspace(0, 1, form.top + 1)
        curve = curve**2 * (3 - 2 * curve) * 0.5 + curve * 0.5
        lut = Dataset()
        lut.LUTDescriptor = [len(curve) % 65536, 0, 16]  # 0 stands for 65536
        lut.add_new("LUTData", "OW", np.rint(curve * 65535).astype("<u2").tobytes())
        ds.VOILUTSequence = [lut]
    if form.window in ("LUT", "none"):
        return
    ends = [form.low * form.top, form.high * form.top]
    if form.monochrome1:
        ends = [form.top - end for end in reversed(ends)]
    low, high = (form.slope * (end + form.smallest) + form.intercept for end in ends)
    half = 0.0 if form.window == "LINEAR_EXACT" else 0.5  # PS3.3 C.11.2.1.2: LINEAR includes both end values
    center, width = round((low + high) / 2 + half, 2), round(high - low + 2 * half, 2)
    if form.window == "two":
        ds.WindowCenter, ds.WindowWidth = [center, round(center * 0.9, 2)], [width, round(width * 1.6, 2)]
        ds.WindowCenterWidthExplanation = ["NORMAL", "SOFT"]
        return
    ds.WindowCenter, ds.WindowWidth = center, width
    if form.window != "LINEAR" or g.random() < 0.3:
        ds.VOILUTFunction = form.window


def to_dicom(phantom: Phantom, form: DicomFormat, identity: str, group: str, g: np.random.Generator) -> Dataset:
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
    ds, syntax, cr = Dataset(), form.transfer_syntax, form.computed_radiography
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if syntax.is_compressed else syntax
    ds.SOPClassUID = uid.ComputedRadiographyImageStorage if cr else uid.DigitalXRayImageStorageForPresentation
    ds.Modality = "CR" if cr else "DX"
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (
        uid.generate_uid(entropy_srcs=[f"mlcak phantom {what}", identity]) for what in ("image", "study", "series")
    )

    # Nobody has these names; tests use them to show that no patient data leaves the files.
    number, patient = int(group[1:8], 16) % 1_000_000, phantom.exposure.patient
    ds.PatientName = f"PHANTOM^{'EVE' if patient.female else 'ADAM'}^{number:06d}"
    ds.PatientID, ds.PatientSex = f"PHANTOM-{number:06d}", "F" if patient.female else "M"
    ds.PatientAge = f"{patient.age_years:03d}Y"
    year, month, day = 2010 + g.integers(10), 1 + g.integers(12), 1 + g.integers(28)
    ds.StudyDate, ds.PatientBirthDate = f"{year}{month:02d}{day:02d}", f"{year - patient.age_years}0101"
    ds.StudyTime = f"{g.integers(24):02d}{g.integers(60):02d}00"
    ds.InstitutionName, ds.ReferringPhysicianName = "PHANTOM HOSPITAL", "PHANTOM^REFERRER"
    ds.AccessionNumber, ds.BodyPartExamined = f"PH{g.integers(10**8):08d}", "CHEST"

    values = _stored_values(phantom, form)
    ds.SamplesPerPixel, (ds.Rows, ds.Columns) = 1, values.shape
    ds.PhotometricInterpretation = "MONOCHROME1" if form.monochrome1 else "MONOCHROME2"
    ds.ImagerPixelSpacing = [round(phantom.exposure.cm_per_px * 10, 4)] * 2
    ds.BitsAllocated, ds.PixelRepresentation = values.itemsize * 8, int(form.signed)
    ds.BitsStored, ds.HighBit = form.bits_stored, form.bits_stored - 1
    if form.padding and phantom.collimated.any():
        ds.PixelPaddingValue = int(values[phantom.collimated][0])
    _add_display_range(ds, form, g)
    ds.add_new("PixelData", "OB" if form.bits_stored == 8 else "OW", values.tobytes())
    if syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
    return ds
