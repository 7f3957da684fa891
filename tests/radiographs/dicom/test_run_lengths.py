"""RLE: the fast way through Pillow and the loop over runs give the same planes."""

from __future__ import annotations

import numpy as np
import pytest

from mlcak_hf.errors import DicomError
from mlcak_hf.radiographs.dicom.run_lengths import _unpack, _unpack_rows, decode_run_lengths

ROWS, COLUMNS = 13, 300


def pack(rows: np.ndarray) -> bytes:
    """Pack each row of bytes by itself: repeats of two to 128 as runs, the rest literally."""
    packed = bytearray()
    for row in rows.tolist():
        at = 0
        while at < len(row):
            run = 1
            while at + run < len(row) and run < 128 and row[at + run] == row[at]:
                run += 1
            if run > 1:
                packed += bytes([257 - run, row[at]])
            else:
                packed += bytes([0, row[at]])
            at += run
    return bytes(packed)


def planes() -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (ROWS, COLUMNS))
    return np.where(rng.random((ROWS, COLUMNS)) < 0.5, 7, noise).astype(np.uint8)


def test_both_ways_unpack_the_same() -> None:
    plane = planes()
    segment = pack(plane)
    assert _unpack_rows(segment, ROWS, COLUMNS) == plane.tobytes() == bytes(_unpack(segment, plane.size))


def test_a_run_across_rows_is_unpacked_in_the_slow_way() -> None:
    plane = np.full((4, 50), 9, np.uint8)
    segment = pack(plane.reshape(1, -1))
    assert _unpack_rows(segment, 4, 50) is None
    frame = np.array([1, 64, *[0] * 14], "<u4").tobytes() + segment
    assert (decode_run_lengths(frame, 4, 50, 1) == 9).all()


@pytest.mark.parametrize("fast", [True, False])
def test_control_byte_128_is_skipped_and_what_follows_the_image_is_left(fast) -> None:
    plane = planes()
    segment = b"\x80" + pack(plane) + b"\x00"
    unpacked = _unpack_rows(segment, ROWS, COLUMNS) if fast else _unpack(segment, plane.size)
    assert unpacked is None or bytes(unpacked) == plane.tobytes()


@pytest.mark.parametrize("cut", [1, 100, 1000])
def test_a_segment_cut_short_is_refused(cut) -> None:
    segment = pack(planes())[:-cut]
    assert _unpack_rows(segment, ROWS, COLUMNS) is None
    frame = np.array([1, 64, *[0] * 14], "<u4").tobytes() + segment
    with pytest.raises(DicomError, match="ends after"):
        decode_run_lengths(frame, ROWS, COLUMNS, 1)
