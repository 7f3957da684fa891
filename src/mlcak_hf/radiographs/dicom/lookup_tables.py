"""Stored values -> grey values, as tables: modality transform, padding, and the file's own VOI LUT or window.

pydicom's `apply_rescale` is used as it is. Its other functions are not: the LUT functions refuse tables of 9 bits
(modality: anything but 8 and 16) and subtract within 16 bits, and `apply_windowing` scales to the stored range, which
differs from a result in [0, 1] in the last bits of a double.
"""

from __future__ import annotations

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
        return _apply_lut(dataset, dataset.ModalityLUTSequence[0], stored, "Modality LUT")
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if (slope is None) != (intercept is None):
        raise DicomError(
            "Rescale Slope and Rescale Intercept must come together; the file has only one of Rescale Slope and Rescale"
            " Intercept. Export it again with both or neither."
        )
    values = stored.astype(np.float64) if slope is None else apply_rescale(stored, dataset)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and high > low):
        raise DicomError(
            f"Rescale Slope {slope} and Rescale Intercept {intercept} leave no grey values. Export the file again."
        )
    return values, (low, high)


def padding_values(dataset: pydicom.Dataset, stored: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_] | None:
    """Mark the stored values that the file declares as padding; `None` if it declares none."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = sorted(int(v) % 65536 for v in (value, value if limit is None else limit))
    if stored.min() < 0:  # a writer may have stored the 16 bits of a negative number as unsigned
        ends = sorted((v + 32768) % 65536 - 32768 for v in ends)
    return np.asarray((stored >= ends[0]) & (stored <= ends[1]))


def file_voi(dataset: pydicom.Dataset, values: _Values) -> _Values | None:
    """Apply the file's first VOI LUT or window.

    Args:
        dataset (`pydicom.Dataset`):
            The image tags.
        values (`np.ndarray`):
            Values after the modality transform.

    Returns:
        `np.ndarray` of the same shape: float64 in [0, 1]. `None` if the file has neither.

    Raises:
        [`DicomError`]: When the LUT or window is incomplete or not allowed by the standard.
    """
    try:
        if dataset.get("VOILUTSequence"):
            # A LUT is preferred to a window: it is the fuller description of the same view.
            table, (_, largest) = _apply_lut(dataset, dataset.VOILUTSequence[0], values, "VOI LUT")
            return table / largest
        center, width, function = _window(dataset)
        if center is None and width is None:
            return None
        if center is None or width is None:
            raise DicomError("The file has only one of Window Center and Window Width.")
        return apply_window(values, center, width, function)
    except (DicomError, ValueError, TypeError) as error:
        reason = str(error) if isinstance(error, DicomError) else "The VOI LUT or window does not hold numbers."
        raise DicomError(f'{reason} Read it with voi="percentile" or voi="none" (--voi).') from None


def apply_window(values: npt.NDArray[Any], center: float, width: float, function: str) -> _Values:
    """Apply a DICOM window (PS3.3 C.11.2.1.2 and C.11.2.1.3) whose limits become 0 and 1.

    Args:
        values (`np.ndarray`):
            Values after the modality transform, of any shape.
        center (`float`):
            Window Center.
        width (`float`):
            Window Width, at least 1 for `LINEAR` and above 0 for the others.
        function (`str`):
            VOI LUT Function: `"LINEAR"`, `"LINEAR_EXACT"` or `"SIGMOID"`.

    Returns:
        `np.ndarray` of the same shape: float64 in [0, 1].

    Raises:
        [`DicomError`]: When the standard does not allow the function or the width.
    """
    if not np.isfinite([center, width]).all():
        raise DicomError(f"Window Center and Window Width must be finite numbers; got {center} and {width}.")
    smallest = "at least 1" if function == "LINEAR" else "more than 0"
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise DicomError(f"Window Width is {width:g}; {function} needs {smallest}.")
    x = np.asarray(values, dtype=np.float64)
    if function == "LINEAR":
        if width == 1:
            return (x > center - 0.5).astype(np.float64)
        return np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
    if function == "LINEAR_EXACT":
        return np.clip((x - center) / width + 0.5, 0.0, 1.0)
    if function == "SIGMOID":
        # Beyond +-350 the result is 0 or 1 to the last bit of a double; exp would overflow.
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - center) / width, -350.0, 350.0))))
    raise DicomError("The VOI LUT Function must be LINEAR, LINEAR_EXACT or SIGMOID.")  # not quoted: it may hold a name


def has_voi(dataset: pydicom.Dataset) -> bool:
    """Check whether the file has a VOI LUT or a window."""
    return bool(dataset.get("VOILUTSequence")) or _window(dataset)[:2] != (None, None)


def linear_modality(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """Slope and intercept of the modality transform; `None` if it is a look-up table."""
    if dataset.get("ModalityLUTSequence"):
        return None
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return float(1 if slope is None else slope), float(0 if intercept is None else intercept)


def linear_window(dataset: pydicom.Dataset, default: tuple[float, float]) -> tuple[float, float] | None:
    """Values after the modality transform that become 0 and 1, if the file's own view is linear between them.

    Args:
        dataset (`pydicom.Dataset`):
            The image tags.
        default (`tuple[float, float]`):
            The result for a file without a window.

    Returns:
        `tuple[float, float]`: (low, high). `None` if the view is a look-up table, a sigmoid, or faulty.
    """
    if dataset.get("VOILUTSequence"):
        return None
    try:
        center, width, function = _window(dataset)
    except (ValueError, TypeError):
        return None
    if center is None and width is None:
        return default
    if center is None or width is None or function not in ("LINEAR", "LINEAR_EXACT"):
        return None
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return (center - width / 2, center + width / 2) if np.isfinite(center) and 0 < width < np.inf else None


def _window(dataset: pydicom.Dataset) -> tuple[float | None, float | None, str]:
    """First Window Center and Window Width, `None` where missing or empty, and the VOI LUT Function."""
    first: list[float | None] = []
    for keyword in ("WindowCenter", "WindowWidth"):
        value = dataset.get(keyword)
        if isinstance(value, pydicom.multival.MultiValue | list | tuple):
            value = value[0] if len(value) else None
        first.append(None if value is None or value == "" else float(value))
    return first[0], first[1], str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()


def _apply_lut(
    dataset: pydicom.Dataset, item: pydicom.Dataset, values: npt.NDArray[Any], what: str
) -> tuple[_Values, tuple[float, float]]:
    """Apply a look-up table (PS3.3 C.11.1.1 and C.11.2.1.1); also returns its range.

    The item has a descriptor (entries, first input value, bits per entry) and data as words or packed bytes. Values
    outside the table get its first or last entry.
    """
    if item.get("LUTDescriptor") is None or item.get("LUTData") is None or len(item.LUTDescriptor) != 3:
        raise DicomError(f"The {what} has no complete LUT Descriptor and LUT Data.")
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count % 65536 or 65536
    # The first two numbers are 16-bit words; whether they are signed depends on the input values.
    first = (first + 32768) % 65536 - 32768 if values.min() < 0 else first % 65536
    data = item.LUTData
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
    index = np.clip(np.floor(values) - first, 0, count - 1).astype(np.int64)
    # Many writers declare 16 bits whatever the entries use, so the range is that of the bits of the largest entry.
    largest = (1 << int(entries.max()).bit_length()) - 1
    if largest == 0:
        raise DicomError(f"The {what} maps every value to 0, which leaves no grey values.")
    return entries[index], (0.0, float(largest))
