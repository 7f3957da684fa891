"""Stored values -> grey values: modality transform, padding, and the file's own VOI LUT or window.

A pixel's grey value depends on its stored value alone, so everything here is worked out once, in double precision, for
each of the 2**BitsStored possible values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from ...errors import DicomError
from ..grey_values import LookUpTable, apply_window
from .header import PixelLayout


def modality_values(
    dataset: pydicom.Dataset, layout: PixelLayout
) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Return the modality value of every stored value, and the range that the stored bits can reach."""
    stored = layout.stored_values
    if dataset.get("ModalityLUTSequence"):
        table = _look_up_table(dataset, dataset.ModalityLUTSequence[0], layout.signed, "Modality LUT")
        return table(stored).astype(np.float64), (0.0, float(table.largest))
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if (slope is None) != (intercept is None):
        raise DicomError("it has only one of Rescale Slope and Rescale Intercept; export it again with both or none")
    values = stored.astype(np.float64) * float(1 if slope is None else slope)
    values += float(0 if intercept is None else intercept)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and high > low):
        raise DicomError(
            f"Rescale Slope {slope} and Rescale Intercept {intercept} leave no grey values; export it again"
        )
    return values, (low, high)


def padding_values(dataset: pydicom.Dataset, layout: PixelLayout) -> npt.NDArray[np.bool_] | None:
    """Mark the stored values that the file declares as padding, shape (2**bits,); None where it declares none."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = sorted(int(v) % 65536 for v in (value, value if limit is None else limit))
    if layout.signed:  # a writer may have put the 16 bits of a negative number down as unsigned
        ends = sorted((v + 32768) % 65536 - 32768 for v in ends)
    stored = layout.stored_values
    return np.asarray((stored >= ends[0]) & (stored <= ends[1]))


def file_limits(dataset: pydicom.Dataset, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Apply the file's first VOI LUT or window to the modality values; None where the file has neither."""
    remedy = '. Read it with voi="percentile" or voi="none" (--voi)'
    try:
        if dataset.get("VOILUTSequence"):
            # Beside a window the LUT is preferred: it is the fuller description of the same view.
            table = _look_up_table(dataset, dataset.VOILUTSequence[0], bool(values.min() < 0), "VOI LUT")
            return table(values) / float(table.largest)
        center, width = (_first(dataset.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
        if center is None and width is None:
            return None
        if center is None or width is None:
            raise DicomError("it has only one of Window Center and Window Width")
        return apply_window(values, center, width, str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper())
    except DicomError as error:
        raise DicomError(f"{error}{remedy}") from None
    except (ValueError, TypeError):
        raise DicomError(f"its VOI LUT or window holds no numbers{remedy}") from None


def _first(value: Any) -> float | None:
    """First number of an element with one or several values, None where it is empty."""
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)


def _look_up_table(dataset: pydicom.Dataset, item: pydicom.Dataset, signed: bool, what: str) -> LookUpTable:
    """Read a LUT item: descriptor (entries, first input value, bits per entry) and data as words or packed bytes."""
    if item.get("LUTDescriptor") is None or item.get("LUTData") is None or len(item.LUTDescriptor) != 3:
        raise DicomError(f"its {what} has no complete LUT Descriptor and LUT Data")
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count % 65536 or 65536
    # The first two numbers are 16 bit words; whether they are signed follows from the values that go in.
    first = (first + 32768) % 65536 - 32768 if signed else first % 65536
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        entries = np.frombuffer(data, dtype=f"{order}u2" if len(data) >= 2 * count else np.uint8)
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.int64)) % 65536
        if bits <= 8 and len(entries) == (count + 1) // 2 < count:
            entries = np.stack([entries & 255, entries >> 8], axis=1).ravel()
    entries = entries[:count].astype(np.int64)
    if not 8 <= bits <= 16 or len(entries) != count or int(entries.max()) >= 1 << bits:
        raise DicomError(f"its {what} declares {count} entries of {bits} bits, but its data does not match")
    return LookUpTable(first, entries, bits)


def linear_modality(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """Slope and intercept of the modality transform, None where it is a look-up table."""
    if dataset.get("ModalityLUTSequence"):
        return None
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return float(1 if slope is None else slope), float(0 if intercept is None else intercept)


def linear_window(dataset: pydicom.Dataset, stored_range: tuple[float, float]) -> tuple[float, float] | None:
    """Modality values that become 0 and 1 where the file's own view is a straight line between them.

    Args:
        dataset: The image tags.
        stored_range: What the view is without a window.

    Returns:
        (low, high), or None where the view is a look-up table, a sigmoid, or faulty.
    """
    if dataset.get("VOILUTSequence"):
        return None
    try:
        center, width = (_first(dataset.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    except (ValueError, TypeError):
        return None
    if center is None and width is None:
        return stored_range
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if center is None or width is None or function not in ("LINEAR", "LINEAR_EXACT"):
        return None
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return (center - width / 2, center + width / 2) if np.isfinite(center) and 0 < width < np.inf else None
