"""Stored values -> grey values, as tables: modality transform, padding, and the file's own VOI LUT or window.

pydicom's `apply_rescale` is used as it is. Its other functions are not: the LUT functions refuse tables of 9 bits
(modality: anything but 8 and 16) and subtract within 16 bits, and `apply_windowing` scales to the stored range, which
differs from a result in [0, 1] in the last bits of a double.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.processing import apply_rescale

from ...errors import DicomError

_Values = npt.NDArray[np.float64]


def modality_values(dataset: pydicom.Dataset, stored: npt.NDArray[np.int64]) -> tuple[_Values, tuple[float, float]]:
    """Apply the modality transform.

    Args:
        dataset (`pydicom.Dataset`):
            The image tags.
        stored (`np.ndarray` of shape `(2**bits,)`):
            Every value that a pixel can hold.

    Returns:
        `tuple`: float64 values of the same shape, and the (smallest, largest) value that the stored bits can express.

    Raises:
        [`DicomError`]: When the transform is incomplete or leaves no grey values.
    """
    if dataset.get("ModalityLUTSequence"):
        table = _lookup_table(dataset, dataset.ModalityLUTSequence[0], "Modality LUT")
        return table.entries_at(stored), (0.0, table.largest)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if (slope is None) != (intercept is None):
        raise DicomError("The file has only one of Rescale Slope and Intercept. Export it with both or neither.")
    values = stored.astype(np.float64) if slope is None else apply_rescale(stored, dataset)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and high > low):
        raise DicomError(f"Rescale Slope {slope} and Intercept {intercept} leave no grey values. Export it again.")
    return values, (low, high)


def padding_values(dataset: pydicom.Dataset, stored: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_] | None:
    """Mark the stored values that the file declares as padding; `None` if it declares none."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = sorted(_word(int(end), signed=bool(stored.min() < 0)) for end in (value, value if limit is None else limit))
    return np.asarray((stored >= ends[0]) & (stored <= ends[1]))


def find_voi(dataset: pydicom.Dataset) -> LookupTable | Window | None:
    """Find the file's first VOI LUT or window; a LUT is preferred, as the fuller description of the same view.

    Raises:
        [`DicomError`]: When it is incomplete or not allowed by the standard.
    """
    try:
        if dataset.get("VOILUTSequence"):
            return _lookup_table(dataset, dataset.VOILUTSequence[0], "VOI LUT")
        center, width = _first_number(dataset.get("WindowCenter")), _first_number(dataset.get("WindowWidth"))
        function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
        if center is None and width is None:
            return None
        if center is None or width is None:
            raise DicomError("The file has only one of Window Center and Window Width.")
        if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):  # not quoted: it may hold a name
            raise DicomError("The VOI LUT Function must be LINEAR, LINEAR_EXACT or SIGMOID.")
        if not np.isfinite([center, width]).all():
            raise DicomError(f"Window Center and Window Width must be finite; got {center} and {width}.")
        if width <= 0 or (function == "LINEAR" and width < 1):
            least = "at least 1" if function == "LINEAR" else "more than 0"
            raise DicomError(f"Window Width is {width:g}; {function} needs {least}.")
        return Window(center, width, function)
    except (DicomError, ValueError, TypeError) as error:
        reason = str(error) if isinstance(error, DicomError) else "The VOI LUT or window does not hold numbers."
        raise DicomError(f'{reason} Read it with voi="percentile" or voi="none" (--voi).') from None


def _first_number(value: Any) -> float | None:
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)


@dataclass(frozen=True)
class Window:
    """A DICOM window (PS3.3 C.11.2.1.2 and C.11.2.1.3) with limits that become 0 and 1.

    Args:
        center (`float`):
            Window Center.
        width (`float`):
            Window Width, at least 1 for `LINEAR` and above 0 for the others.
        function (`str`):
            VOI LUT Function: `"LINEAR"`, `"LINEAR_EXACT"` or `"SIGMOID"`.
    """

    center: float
    width: float
    function: str

    @property
    def limits(self) -> tuple[float, float] | None:
        """The values that become 0 and 1 if the window is linear between them, otherwise `None`."""
        center, width = self.center, self.width
        if self.function == "LINEAR":
            center, width = center - 0.5, width - 1
        return None if self.function == "SIGMOID" or width == 0 else (center - width / 2, center + width / 2)

    def apply(self, values: _Values) -> _Values:
        """Return the grey values in [0, 1] of values after the modality transform."""
        if self.function == "SIGMOID":
            # Beyond +-350 the result is 0 or 1 to the last bit of a double; exp would overflow.
            power = np.clip(-4.0 * (values - self.center) / self.width, -350.0, 350.0)
            return np.asarray(1.0 / (1.0 + np.exp(power)))
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.center) / self.width + 0.5, 0.0, 1.0)
        if self.width == 1:
            return (values > self.center - 0.5).astype(np.float64)
        return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0.0, 1.0)


@dataclass(frozen=True)
class LookupTable:
    """A look-up table (PS3.3 C.11.1.1 and C.11.2.1.1).

    Args:
        entries (`np.ndarray` of shape `(count,)`):
            The entries.
        first (`int`):
            The input value of the first entry, as a 16-bit word. Whether it is signed depends on the input values.
    """

    entries: _Values
    first: int
    limits = None  # the values that become 0 and 1 have no straight line between them

    @property
    def largest(self) -> float:
        """End of the range: many writers declare 16 bits whatever the entries use, so the largest entry decides."""
        return float((1 << int(self.entries.max()).bit_length()) - 1)

    def entries_at(self, values: npt.NDArray[Any]) -> _Values:
        """Return the entries of these values. Values outside the table get its first or last entry."""
        first = _word(self.first, signed=bool(values.min() < 0))
        index = np.clip(np.floor(values) - first, 0, len(self.entries) - 1).astype(np.int64)
        return np.asarray(self.entries[index])

    def apply(self, values: _Values) -> _Values:
        """Return the grey values in [0, 1] of values after the modality transform."""
        return self.entries_at(values) / self.largest


def _word(value: int, signed: bool) -> int:
    """Value of a 16-bit word, which a writer may have stored with the wrong sign."""
    return (value + 32768) % 65536 - 32768 if signed else value % 65536


def _lookup_table(dataset: pydicom.Dataset, item: pydicom.Dataset, what: str) -> LookupTable:
    """Read a descriptor (entries, first input value, bits per entry) and its data, as words or packed bytes."""
    if item.get("LUTDescriptor") is None or item.get("LUTData") is None or len(item.LUTDescriptor) != 3:
        raise DicomError(f"The {what} has no complete LUT Descriptor and LUT Data.")
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count, data = count % 65536 or 65536, item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        entries = np.frombuffer(data, dtype=f"{order}u2" if len(data) >= 2 * count else np.uint8)
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.int64)) % 65536
        if bits <= 8 and len(entries) == (count + 1) // 2 < count:
            entries = np.stack([entries & 255, entries >> 8], axis=1).ravel()
    entries = entries[:count].astype(np.float64)
    if not 8 <= bits <= 16 or len(entries) != count or entries.max() >= 1 << bits:
        raise DicomError(f"The {what} declares {count} entries of {bits} bits, but its data does not match.")
    if not entries.any():
        raise DicomError(f"The {what} maps every value to 0, which leaves no grey values.")
    return LookupTable(entries, first)
