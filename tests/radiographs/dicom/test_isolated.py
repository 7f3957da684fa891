"""A decoder in a process of its own may die, hang, swell or talk nonsense: one error, and the next file is read."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless
from vindr_factories import chest, encode_frame, make_dicom

from mlcak_hf.errors import DicomError
from mlcak_hf.radiographs.dicom import frame_decoder, isolated
from mlcak_hf.radiographs.read import read_radiograph

PIXELS = chest(bits=12)
FRAME = encode_frame(PIXELS, 12, JPEGLSLossless)
JPEG_LS = "imagecodecs.jpegls_decode"


@pytest.fixture
def decoder():
    made = isolated.IsolatedDecoder()
    yield made
    made.stop()


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Put another program in the child's place."""

    def take(program: str) -> None:
        path = tmp_path / "child.py"
        path.write_text(f"import os, struct, sys, time\npipe = sys.stdout.buffer\n{program}\n", encoding="utf-8")
        monkeypatch.setattr(isolated.frame_decoder, "__file__", str(path))

    return take


def test_one_child_decodes_frame_after_frame(decoder) -> None:
    for _ in range(3):
        np.testing.assert_array_equal(decoder.decode(JPEG_LS, FRAME, *PIXELS.shape), PIXELS)
    child = decoder._child
    with pytest.raises(DicomError, match=r"cannot be decoded \(JpeglsError\)"):
        decoder.decode(JPEG_LS, FRAME[:10], *PIXELS.shape)
    np.testing.assert_array_equal(decoder.decode(JPEG_LS, FRAME, *PIXELS.shape), PIXELS)
    assert decoder._child is child


@pytest.mark.parametrize("end", ["os.abort()", "os._exit(0)", "sys.exit(3)", "1 / 0"])
def test_a_child_that_dies_loses_one_file(decoder, play, monkeypatch, end) -> None:
    real = frame_decoder.__file__
    play(f"sys.stdin.buffer.read(10)\n{end}")
    with pytest.raises(DicomError, match="crashed the decoder"):
        decoder.decode(JPEG_LS, FRAME, *PIXELS.shape)
    monkeypatch.setattr(isolated.frame_decoder, "__file__", real)
    np.testing.assert_array_equal(decoder.decode(JPEG_LS, FRAME, *PIXELS.shape), PIXELS)


@pytest.mark.parametrize("program", ["time.sleep(60)", "sys.stdin.buffer.read(10); time.sleep(60)", "while True: pass"])
def test_a_child_that_hangs_is_stopped(decoder, play, monkeypatch, program) -> None:
    monkeypatch.setattr(isolated, "START_LIMIT_S", 0.5)
    play(program)
    start = time.monotonic()
    with pytest.raises(DicomError, match=r"stopped after 0\.5 s"):
        decoder.decode(JPEG_LS, bytes(10_000_000), *PIXELS.shape)  # more than a pipe holds
    assert time.monotonic() - start < 5


def test_a_frame_that_takes_too_long_is_stopped(decoder, tmp_path, monkeypatch) -> None:
    (tmp_path / "slow.py").write_text(
        "import numpy, time\ndef decode(frame):\n    time.sleep(float(frame)); return numpy.ones((2, 3), 'u1')\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert decoder.decode("slow.decode", b"0.01", 2, 3).all()
    monkeypatch.setattr(isolated, "TIME_LIMIT_S", 0.5)
    with pytest.raises(DicomError, match=r"stopped after 0\.5 s: the data is damaged"):
        decoder.decode("slow.decode", b"60", 2, 3)
    monkeypatch.setattr(isolated, "TIME_LIMIT_S", 5.0)
    assert decoder.decode("slow.decode", b"0.01", 2, 3).all()


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense" * 1000,
        struct.pack("<c2sII", b"X", b"u2", *PIXELS.shape),
        struct.pack("<c2sII", b"A", b"f4", *PIXELS.shape),
        struct.pack("<c2sII", b"A", b"u2", 4_000_000_000, 4_000_000_000),
        struct.pack("<c2sII", b"E", b"", 4_000_000_000, 0),
        struct.pack("<c2sII", b"A", b"u2", *PIXELS.shape) + bytes(17),
        b"",
    ],
)
def test_a_child_that_talks_nonsense_is_replaced(decoder, play, answer) -> None:
    play(f"sys.stdin.buffer.read(10)\npipe.write({answer!r})\npipe.flush()")
    with pytest.raises(DicomError, match="crashed the decoder"):
        decoder.decode(JPEG_LS, FRAME, *PIXELS.shape)
    assert decoder._child is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited on Linux only")
def test_memory_of_the_child_is_limited(decoder, tmp_path, monkeypatch) -> None:
    (tmp_path / "greedy.py").write_text(
        "import numpy\ndecode = lambda frame: numpy.ones((int(frame), 1), 'u1')\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert decoder.decode("greedy.decode", b"1000", 1000, 1).all()
    with pytest.raises(DicomError, match="more than 1,000,000,000 bytes of memory"):
        decoder.decode("greedy.decode", b"1100000000", 1, 1)
    assert decoder.decode("greedy.decode", b"1000", 1000, 1).all()


def test_what_a_library_prints_is_not_taken_for_an_answer(decoder, tmp_path, monkeypatch) -> None:
    (tmp_path / "chatty.py").write_text(
        "import os, numpy\ndef decode(frame):\n"
        "    print('corrupt data!', flush=True); os.write(1, b'more')\n"
        "    return numpy.full((2, int(frame)), 7, 'u2')\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    np.testing.assert_array_equal(decoder.decode("chatty.decode", b"3", 2, 3), np.full((2, 3), 7))


def test_a_missing_library_is_named(decoder) -> None:
    with pytest.raises(DicomError, match="ModuleNotFoundError"):
        decoder.decode("no_such_library.decode", b"", 2, 3)


def _read(path: str) -> float:
    return float(read_radiograph(path).mean())


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_daemonic_workers_have_children_of_their_own(tmp_path, start) -> None:
    """As `datasets` does with `num_proc`; under fork, the parent has a child already."""
    if start == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    paths = [str(make_dicom(tmp_path / str(i), chest(seed=i), bits=12, syntax=JPEGLosslessSV1)) for i in range(6)]
    expected = [_read(path) for path in paths]
    with get_context(start).Pool(2) as pool:
        assert pool.map(_read, paths, chunksize=1) == expected
    assert _read(paths[0]) == expected[0]


@pytest.mark.slow
def test_the_child_ends_with_its_parent() -> None:
    program = (
        "import os, sys\n"
        "from mlcak_hf.radiographs.dicom import isolated\n"
        f"isolated.decode_isolated({JPEG_LS!r}, {FRAME!r}, *{PIXELS.shape})\n"
        "print(isolated._decoder._child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    child = int(done.stdout)
    for _ in range(50):
        if not _is_alive(child):
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its parent")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")  # nobody may reap it here


def test_a_file_that_crashes_the_decoder_is_an_ordinary_error(tmp_path, play) -> None:
    path = make_dicom(tmp_path / "x.dicom", PIXELS, bits=12, syntax=JPEGLSLossless)
    expected = read_radiograph(path)
    isolated._decoder.stop()
    with pytest.MonkeyPatch.context() as patch:
        real = frame_decoder.__file__
        play("os.abort()")
        with pytest.raises(DicomError, match=r"^x\.dicom: .*crashed the decoder.*export the file again"):
            read_radiograph(path)
        patch.setattr(frame_decoder, "__file__", real)
        np.testing.assert_array_equal(read_radiograph(path), expected)
