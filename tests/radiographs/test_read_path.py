"""Reading one file stays short: it is opened once, and few functions of ours are entered."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless
from vindr_factories import chest, make_dicom

import mlcak_hf
from mlcak_hf.radiographs.read import read_radiograph

ROOT = str(Path(mlcak_hf.__file__).parent)
watched: dict[str, int] = {}  # audit hooks cannot be removed, so there is one for all tests


def count_opens(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and str(arguments[0]) in watched:
        watched[str(arguments[0])] += 1


sys.addaudithook(count_opens)


def entered(path: Path, size_px: int | None) -> set[tuple[str, int]]:
    """File and first line of every function of ours that one read enters."""
    seen: set[tuple[str, int]] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            seen.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    previous = sys.getprofile()
    sys.setprofile(note)
    try:
        read_radiograph(path, size_px)
    finally:
        sys.setprofile(previous)
    return seen


@pytest.mark.parametrize(
    ("syntax", "size_px", "enlarged", "functions", "files"),
    [
        (ExplicitVRLittleEndian, None, 1, 25, 7),
        (ExplicitVRLittleEndian, 28, 1, 25, 7),
        (JPEG2000Lossless, None, 1, 25, 7),
        (JPEG2000Lossless, 28, 1, 36, 10),
        (JPEG2000Lossless, 28, 30, 38, 9),  # large enough for reduced decoding
    ],
)
def test_one_read_opens_the_file_once_and_enters_few_functions(
    tmp_path, syntax, size_px, enlarged, functions, files
) -> None:
    pixels = np.repeat(np.repeat(chest(), enlarged, 0), enlarged, 1)
    path = make_dicom(tmp_path / "x.dicom", pixels, bits=12, syntax=syntax, WindowCenter=2048, WindowWidth=4096)
    read_radiograph(path, size_px)  # imports and caches
    watched[str(path)] = 0
    seen = entered(path, size_px)
    assert watched.pop(str(path)) == 1
    assert len(seen) <= functions
    assert len({file for file, _ in seen}) <= files


def test_reduced_decoding_holds_the_compressed_image_once(tmp_path) -> None:
    pixels = np.repeat(np.repeat(chest(), 50, 0), 50, 1)
    noisy = pixels + np.random.default_rng(0).integers(0, 32, pixels.shape, dtype=np.uint16)  # hardly compressible
    path = make_dicom(tmp_path / "x.dicom", noisy, bits=13, syntax=JPEG2000Lossless)
    size = path.stat().st_size
    assert size > 2_000_000
    read_radiograph(path, 28)  # imports and caches
    tracemalloc.start()
    try:
        read_radiograph(path, 28)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * size  # and not with copies by pydicom
